"""The system under test: its binaries, processes, folders and ports.

`Quickstart` drives the one command of the README. `World` starts every process by itself, which lets a test kill,
restart and configure each alone. Both offer a `sink` (the outside world), a `proxy` between bridges and relay, and
holders `a` and `b`.
"""

import atexit
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from clients import Inbox
from proxy import Proxy
from sink import Sink

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(os.environ.get("POSTERN_BINARIES", ROOT / "target" / "release"))
FULL = os.environ.get("POSTERN_TESTS") == "full"
DOMAIN = "relay.test"

full_only = unittest.skipUnless(FULL, "long: tests/run --full")


def by_extent(short, long):
    """`long` in a full run, `short` otherwise."""
    return long if FULL else short


def wait_until(condition, seconds=30, what="the expected state"):
    """Waits until `condition()` is true and returns what it gave."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} was not reached within {seconds} s")
        time.sleep(0.05)
    return result


def free_ports(count=1):
    """First of `count` free consecutive ports, below those that the kernel hands out by itself."""
    while True:
        first = random.randrange(10_000, 30_000, 10)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def word(prefix="w"):
    """A word that occurs nowhere else."""
    return prefix + secrets.token_hex(6)


class Folder:
    """A folder of the test's own; removed at the end unless KEEP is set."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="postern-test-"))
        atexit.register(self.remove)

    def remove(self):
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.path, ignore_errors=True)


class Process:
    """A process in a group of its own, with its output in files."""

    live = set()

    def __init__(self, folder, name, *command, environment=None, user=None):
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.output, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.output.open("wb") as output, self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                user=user,
            )
        self.pid = self._popen.pid
        Process.live.add(self)

    @property
    def running(self):
        return self._popen.poll() is None

    def first_line(self, seconds=90):
        """The first complete line of its standard output."""

        def line():
            text = self.output.read_text()
            if "\n" not in text and not self.running:
                raise AssertionError(f"{self.name} ended with {self._popen.returncode}: {self.last_words()}")
            return text.partition("\n")[0] if "\n" in text else None

        return wait_until(line, seconds, f"the first line of {self.name}")

    def wait(self, seconds=30):
        """Waits for its end and returns its exit code."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds} s") from None
        Process.live.discard(self)
        return code

    def stop(self, signal_number=signal.SIGTERM, seconds=30):
        """Asks it to end; returns its exit code."""
        if self.running:
            self._popen.send_signal(signal_number)
        return self.wait(seconds)

    def kill(self):
        """SIGKILL to it and all its children."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait()
        Process.live.discard(self)

    def last_words(self):
        """The end of its log, for a person who reads a failure."""
        return self.log.read_text(errors="replace")[-1500:]


@atexit.register
def kill_all_processes():
    for process in list(Process.live):
        process.kill()


def run(*command, seconds=60, check=True):
    """Runs a command to its end and returns it finished."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command[:3]))}: {done.returncode}: {done.stderr.strip()}")
    return done


def resident(pid):
    """Resident memory of a process now, in bytes."""
    return _status_figure(pid, "VmRSS")


def peak_since(pid, action):
    """Growth of a process's resident memory at its peak while `action` runs, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = resident(pid)
    action()
    return _status_figure(pid, "VmHWM") - before


def _status_figure(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no {name}")


def processor_seconds(pid):
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
        return json.loads(self.command("queue", "--json").stdout)["rows"]

    def top_up(self, identifier, amount, reference=None):
        extra = ["--id", reference] if reference else []
        self.command("topup", "--account", identifier, "--amount", amount, *extra)

    def issue(self, out, passphrase, keys, value, operator=False):
        extra = ["--operator"] if operator else []
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

    def __init__(self, through_proxy=True):
        self.folder = Folder()
        self.dir = self.folder.path / "quickstart"
        self.ports = {"link": free_ports(), "mx": free_ports(), "status": free_ports()}
        self.ports |= {"smtp": free_ports(2), "imap": free_ports(2)}
        self.sink = Sink()
        self.proxy = Proxy(f"127.0.0.1:{self.ports['link']}") if through_proxy else None
        self.process = None

    def command(self):
        command = [BINARIES / "posternd", "quickstart", "--dir", self.dir, "--json", "--smarthost", self.sink.address]
        for name, port in self.ports.items():
            command += [f"--{name}-port", port]
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

    def __init__(self, folder, sink, **settings):
        super().__init__(folder / "relay")
        self.folder, self.process = folder, None
        self.link, self.mx, self.web = (f"127.0.0.1:{free_ports()}" for _ in range(3))
        self.prices = {"message": 10_000, "kilobyte": 100, "key": 7, "inbound_message": 0, "inbound_kilobyte": 0}
        self.prices |= settings.pop("prices", {})
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
        self.routes = {DOMAIN: self.mx}
        self.config = folder / "posternd.toml"

    def start(self, *options, wait=True):
        """Starts it with the settings as they are now; `options` go behind `posternd run`."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        lines += ["[routes]", *(f"{json.dumps(name)} = {json.dumps(to)}" for name, to in self.routes.items())]
        lines += ["[prices]", *(f"{name} = {value}" for name, value in self.prices.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = Process(self.folder, "relay", BINARIES / "posternd", "run", "--config", self.config, *options)
        if wait:
            _wait_for_port(self.process, self.mx)
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
        self.process = None

    def init(self, pack):
        """Takes a pack in; the pack file is worth nothing afterwards."""
        done = run(
            BINARIES / "postern", "init", "--pack", pack, "--dir", self.data, "--passphrase-file", self.passphrase
        )
        return done.stdout

    def start(self, *options, wait=True):
        """Starts it; `options` go behind `postern bridge`."""
        command = [BINARIES / "postern", "bridge", "--dir", self.data, "--passphrase-file", self.passphrase]
        command += ["--smtp", self.smtp, "--imap", self.imap, "--relay-via", self.relay_via, "--tick", 1]
        self.process = Process(self.folder, self.name, *command, *options)
        if wait:
            _wait_for_port(self.process, self.imap)
            if self.user is None:
                self._learn_login()
        return self

    def _learn_login(self):
        status = wait_until(lambda: self._first_status(), 30, f"the first link of {self.name}")
        self.user, self.password = status["user"], status["password"]
        self.identifier = status["identifier"]
        aliases = status["aliases"] or [self.command("alias", "new").stdout.strip()]
        self.alias = aliases[0]

    def _first_status(self):
        status = self.status()
        return status if status["linked"] else None

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
        self.sink = Sink()
        self.relay = Relay(self.folder.path, self.sink, **settings).start()
        self.proxy = Proxy(self.relay.link)
        self.bridges = [self.add(name, keys, value) for name in holders]
        for bridge in self.bridges:
            setattr(self, bridge.name, bridge)

    def add(self, name, keys, value, operator=False):
        """Issues a pack and starts a bridge on it."""
        bridge = Bridge(self.folder.path, name, self.proxy.address)
        pack = self.folder.path / f"{name}.pack"
        self.relay.issue(pack, bridge.passphrase, keys, value, operator)
        bridge.init(pack)
        return bridge.start()

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


class Hazard(unittest.TestCase):
    """A file's tests share one system, made by `make` when the first of them starts."""

    make = staticmethod(World)

    @classmethod
    def setUpClass(cls):
        cls.world = cls.make()
        cls.addClassCleanup(cls.world.close)


def in_background(action):
    """Runs `action` in a thread of its own; the thread is returned started."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def _wait_for_port(process, address, seconds=60):
    host, port = address.rsplit(":", 1)

    def answers():
        if not process.running:
            raise AssertionError(f"{process.name} ended: {process.last_words()}")
        try:
            socket.create_connection((host, int(port)), 1).close()
            return True
        except OSError:
            return False

    wait_until(answers, seconds, f"{process.name} at its port")
