"""The system under test: its binaries, processes, folders and ports.

`Quickstart` drives the one command of the README. `World` starts every process by itself, which lets a test kill,
restart and configure each alone; `Relays` is one of several relays. The first two offer a `sink` (the outside world), a
`proxy` between bridges and relay, and holders `a` and `b`.
"""

import json
import os
import secrets
import signal
import sys
import threading
import unittest
from pathlib import Path

from clients import Inbox, split_address
from processes import Folder, Process, free_ports, run, wait_for_port, wait_until
from proxy import Proxy
from sink import Sink

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(os.environ.get("POSTERN_BINARIES", ROOT / "target" / "release"))
sys.path.append(str(ROOT / "tests" / "second"))
FULL = os.environ.get("POSTERN_TESTS") == "full"
DOMAIN = "relay.test"
OUTSIDE = "friend@out.test"

full_only = unittest.skipUnless(FULL, "long: tests/run --full")


def by_extent(short, long):
    """`long` in a full run, `short` otherwise."""
    return long if FULL else short


def word(prefix="w"):
    """A word that occurs nowhere else."""
    return prefix + secrets.token_hex(6)


def in_background(action):
    """Runs `action` in a thread of its own; the thread is returned started."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def second_implementation():
    """tests/second, which was written from the documents alone. Imported late: it alone needs more than Python."""
    import postern_second

    return postern_second


class Operator:
    """The operator's commands on one relay folder."""

    def __init__(self, data):
        self.data = Path(data)

    def command(self, *words, check=True):
        return run(BINARIES / "posternd", *words, "--data", self.data, check=check)

    def totals(self):
        return json.loads(self.command("totals", "--json").stdout)

    def audit(self):
        """The audit's report; a finding is a failure of whatever test asked."""
        done = self.command("audit", "--json", check=False)
        report = json.loads(done.stdout)
        if done.returncode or report["findings"]:
            raise AssertionError(f"audit: {report['findings']}")
        return report

    def queue(self):
        return json.loads(self.command("queue", "list", "--json").stdout)["rows"]

    def top_up(self, identifier, amount, reference=None):
        extra = ["--id", reference] if reference else []
        self.command("topup", "--account", identifier, "--amount", amount, *extra)

    def issue(self, out, passphrase, keys, value, operator=False, rotate=None):
        extra = (["--operator"] if operator else []) + (["--rotate", rotate] if rotate else [])
        self.command(
            "pack", "issue", "--out", out, "--keys", keys, "--value", value, "--passphrase-file", passphrase, *extra
        )


class Holder:
    """One user's bridge, as its mail programs and its commands see it."""

    name = smtp = imap = user = password = alias = data = pid = None

    def command(self, *words, check=True):
        return run(BINARIES / "postern", *words, "--dir", self.data, check=check)

    def status(self):
        return json.loads(self.command("status", "--json").stdout)

    def outbox(self):
        return json.loads(self.command("outbox", "--json").stdout)["rows"]

    def statement(self):
        return json.loads(self.command("statement", "--json").stdout)["services"]

    def new_alias(self):
        return json.loads(self.command("alias", "new", "--json").stdout)["address"]

    def settled(self, seconds=60):
        """Waits until the outbox holds nothing that is still on its way, and returns the status."""

        def status():
            now = self.status()
            return now if now["linked"] and now["outbox"] == 0 else None

        return wait_until(status, seconds, f"an empty outbox of {self.name}")

    def inbox(self):
        return Inbox(self)


class Quickstart:
    """`posternd quickstart` in a folder of the test's own, on free ports."""

    def __init__(self, through_proxy=True, relays=1):
        self.folder, self.relays = Folder(), relays
        self.dir = self.folder.path / "quickstart"
        self.ports = {name: free_ports(relays) for name in ("link", "mx", "status")}
        self.ports |= {"smtp": free_ports(2), "imap": free_ports(2)}
        self.sink = Sink()
        self.proxy = Proxy(f"127.0.0.1:{self.ports['link']}") if through_proxy else None
        self.process = None

    def command(self):
        command = [BINARIES / "posternd", "quickstart", "--dir", self.dir, "--json", "--smarthost", self.sink.address]
        for name, port in self.ports.items():
            command += [f"--{name}-port", port]
        if self.relays > 1:
            command += ["--relays", self.relays]
        if self.proxy:
            command += ["--relay-via", self.proxy.address]
        return command

    def start(self):
        """Starts it and waits until it says that everything is ready."""
        self.process = Process(self.folder.path, "quickstart", *self.command())
        self.facts = json.loads(self.process.first_line())
        self.relay = self.facts["relay"]
        self.operator = Operator(self.relay["data"])
        self.a, self.b = map(_holder_of_facts, self.facts["bridges"])
        return self

    def stop(self):
        """Ctrl-C; returns the exit code."""
        return self.process.stop(signal.SIGINT)

    def close(self):
        if self.process and self.process.running:
            self.process.kill()
        if self.proxy:
            self.proxy.stop()
        self.sink.stop()
        self.folder.remove()


def _holder_of_facts(facts):
    holder = Holder()
    holder.__dict__.update(facts)
    return holder


class Relay(Operator):
    """A relay as a process of its own, with a configuration that the test writes."""

    name = "relay"

    def __init__(self, folder, sink, **settings):
        super().__init__(folder / "relay")
        self.folder, self.process, self.environment = folder, None, None
        self.link, self.mx, self.web = (f"127.0.0.1:{free_ports()}" for _ in range(3))
        self.prices = {"message": 10_000, "kilobyte": 100, "key": 7, "inbound_message": 0, "inbound_kilobyte": 0}
        self.prices |= settings.pop("prices", {})
        self.mix = settings.pop("mix", None)
        self.cover = settings.pop("cover", None)
        self.settings = {
            "domain": DOMAIN,
            "data": str(self.data),
            "link": self.link,
            "mx": self.mx,
            "status": self.web,
            "smarthost": sink.address,
            "tick_ms": 500,
            "retry_s": [1, 1, 2, 2, 5],
            **settings,
        }
        self.routes, self.peers, self.through = {DOMAIN: self.mx}, {}, {}
        self.tables = []
        self.config = folder / "posternd.toml"

    def start(self, *options, wait=True):
        """Starts it with the settings as they are now; `options` go behind `posternd run`."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items() if value is not None]
        lines += ["[routes]", *(f"{json.dumps(name)} = {json.dumps(to)}" for name, to in self.routes.items())]
        lines += ["[through]", *(f"{json.dumps(name)} = {json.dumps(to)}" for name, to in self.through.items())]
        for peer, settings in self.peers.items():
            lines += [f"[peers.{json.dumps(peer)}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        if self.mix is not None:
            lines += ["[mix]", *(f"{name} = {value}" for name, value in self.mix.items())]
        if self.cover is not None:
            lines += ["[cover]", *(f"{name} = {value}" for name, value in self.cover.items())]
        lines += self.tables
        lines += ["[prices]", *(f"{name} = {value}" for name, value in self.prices.items())]
        self.config.write_text("\n".join(lines) + "\n")
        command = [BINARIES / "posternd", "run", "--config", self.config, *options]
        self.process = Process(self.folder, "relay", *command, environment=self.environment)
        if wait:
            wait_for_port(self.process, self.mx)
        return self

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        self.process.kill()

    def stop(self):
        return self.process.stop()


class Bridge(Holder):
    """A bridge as a process of its own."""

    def __init__(self, folder, name, relay_via):
        self.name, self.folder, self.relay_via = name, folder, relay_via
        self.data = folder / name
        self.passphrase = folder / f"{name}.passphrase"
        self.passphrase.write_text(word("open ") + "\n")
        self.passphrase.chmod(0o600)
        self.smtp, self.imap = (f"127.0.0.1:{free_ports()}" for _ in range(2))
        self.process = self.environment = None

    def init(self, pack):
        """Takes a pack in; the pack file is worth nothing afterwards."""
        done = run(
            BINARIES / "postern", "init", "--pack", pack, "--dir", self.data, "--passphrase-file", self.passphrase
        )
        return done.stdout

    def start(self, *options, wait=True):
        """Starts it; `options` go behind `postern bridge`."""
        command = [BINARIES / "postern", "bridge", "--dir", self.data, "--passphrase-file", self.passphrase]
        command += ["--smtp", self.smtp, "--imap", self.imap, "--relay-via", self.relay_via]
        command += ["--tick", 1, "--dial-timeout", 3]
        self.process = Process(self.folder, self.name, *command, *options, environment=self.environment)
        if wait:
            wait_for_port(self.process, self.imap)
            if self.user is None:
                self._learn_login()
        return self

    def _learn_login(self):
        settings = json.loads(self.command("settings", "--json").stdout)
        self.user, self.password = settings["user"], settings["password"]
        status = wait_until(self._first_status, 30, f"the first link of {self.name}")
        self.identifier = status["identifier"]
        self.alias = status["aliases"][0]

    def _first_status(self):
        """The status once there is a link, and the alias that every bridge opens first."""
        status = self.status()
        return status if status["linked"] and status["aliases"] else None

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        self.process.kill()

    def stop(self):
        return self.process.stop()


class World:
    """Relay, bridges, sink and proxy, each started by the test; settings are those of the relay's configuration."""

    def __init__(self, holders=("a", "b"), keys=5_000, value=100_000_000, **settings):
        self.folder = Folder()
        self.prepare()
        self.sink = Sink()
        self.relay = Relay(self.folder.path, self.sink, **settings).start()
        self.proxy = Proxy(self.relay.link)
        self.bridges = []
        for name in holders:
            setattr(self, name, self.add(name, keys, value, operator=not self.bridges))

    def prepare(self):
        """Called before anything is written to the folder; a subclass puts other disks there."""

    def add(self, name, keys, value, operator=False, rotate=None):
        """Issues a pack and starts a bridge on it."""
        bridge = Bridge(self.folder.path, name, self.proxy.address)
        bridge.keys = keys
        pack = self.folder.path / f"{name}.pack"
        self.relay.issue(pack, bridge.passphrase, keys, value, operator, rotate)
        bridge.init(pack)
        self.bridges.append(bridge)
        return bridge.start()

    def relink(self):
        """Starts every bridge anew: each makes a link at once, however many were cut before."""
        for bridge in self.bridges:
            bridge.stop()
            bridge.start()
        for bridge in self.bridges:
            bridge.settled()

    def cut_off(self, bridge):
        """Cuts all links, and waits until this bridge knows: what it put into a link before can't be called back."""
        self.proxy.partition()
        wait_until(lambda: not bridge.status()["linked"], 10, "a bridge that knows of the partition")

    def second_client(self, name, keys=5_000, value=100_000_000, rotate=None):
        """A new pack in the hands of the second implementation, which makes links and keeps nothing."""
        second = second_implementation()
        passphrase, pack = self.folder.path / "second.passphrase", self.folder.path / f"{name}.pack"
        passphrase.write_text("second\n")
        self.relay.issue(pack, passphrase, keys, value, rotate=rotate)
        issue = second.open_pack(pack.read_bytes(), b"second")
        chain = second.Chain.from_root("link", issue["root"])
        return second.Client(split_address(self.relay.link), issue["relay_public"], chain)

    def close(self):
        for bridge in self.bridges:
            bridge.kill()
        self.relay.kill()
        self.proxy.stop()
        self.sink.stop()
        self.folder.remove()

    def logs(self):
        """The log files of all processes."""
        return sorted(self.folder.path.glob("*.log")) + sorted(self.folder.path.glob("*.out"))


class Relays:
    """A world of several relays by their names; a subclass makes them, and bridges and proxies as it needs them."""

    def __init__(self):
        self.folder, self.sink = Folder(), Sink()
        self.relays, self.bridges, self.proxies = {}, [], []

    def close(self):
        for process in (*self.bridges, *self.relays.values()):
            process.kill()
        for proxy in self.proxies:
            proxy.stop()
        self.sink.stop()
        self.folder.remove()

    def logs(self):
        """The log files of all processes."""
        return sorted(self.folder.path.glob("**/*.log")) + sorted(self.folder.path.glob("**/*.out"))


class Hazard(unittest.TestCase):
    """The classes of a file that agree in `make` share one system, made when the first test starts."""

    make = staticmethod(World)
    _made = {}

    @classmethod
    def setUpClass(cls):
        key = (cls.__module__, cls.make)
        if key not in Hazard._made:
            Hazard._made[key] = cls.make()
            unittest.addModuleCleanup(Hazard._end, key)
        cls.world = Hazard._made[key]

    def renew(self):
        """Ends the system and makes another: what piles up over a long test, the judge's memory too, starts anew."""
        key = (type(self).__module__, type(self).make)
        Hazard._end(key)
        Hazard._made[key] = type(self).world = type(self).make()
        self.setUp()

    @staticmethod
    def _end(key):
        made = Hazard._made.pop(key, None)
        if made:
            made.close()
