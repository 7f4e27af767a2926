"""Our side: the programs of tests/system, and the load generators that drive both sides."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from clients import split_address  # noqa: E402 - found through the line above
from harness import BINARIES, ROOT, Bridge, Relay  # noqa: E402
from processes import Process, free_ports, run, wait_for_port, wait_until  # noqa: E402

from measure import processor_seconds  # noqa: E402

__all__ = ["Load", "QuickBridge", "Sink", "aliases", "read_mailbox", "relay", "store_accepts", "wait_until"]


def relay(folder, smarthost="127.0.0.1:9", **settings):
    """A relay with room for many connections of one network, which half of `mx_connections_max` is.

    Deliveries that nothing listens for wait an hour, so that accepting is measured alone.
    """
    settings = {"mx_connections_max": 4_000, "retry_s": [3_600, 3_600], "tick_ms": 50, **settings}
    return Relay(folder, _Address(smarthost), **settings).start()


def row(folders, smarthost):
    """A relay for each folder, of which each passes all mail on to the next over a link, and the last to `smarthost`.

    What the legs cost would only be reckoned with: they are free.
    """
    free = {"message": 0, "kilobyte": 0}
    relays = []
    for number, folder in enumerate(folders):
        folder.mkdir()
        last = folder is folders[-1]
        domain = f"r{number}.test"
        relays.append(relay(folder, smarthost if last else None, domain=domain, prices=free, retry_s=[1] * 600))
    opens = folders[0] / "peer.passphrase"
    opens.write_text("open the gate\n")
    for holder, issuer in zip(relays, relays[1:]):
        pack = issuer.folder / "peer.pack"
        words = ["--out", pack, "--value", 10**12, "--passphrase-file", opens, "--for", "*"]
        issuer.command("peer", "invite", *words)
        holder.command("peer", "accept", pack, "--name", "next", "--passphrase-file", opens)
        holder.settings["smarthost"] = "peer:next"
        holder.stop()
        holder.start()
    for holder in relays[:-1]:
        shown = lambda relay=holder: json.loads(relay.command("peer", "list", "--json").stdout)["rows"]
        wait_until(lambda rows=shown: all(peer["link"] == "linked" for peer in rows()), 30, "a link to the next relay")
    # Until a relay has heard of all that lies behind the next one, its prices get a new version.
    for behind, holder in enumerate(reversed(relays)):
        told = f"elsewhere, over {behind} more relays"
        wait_until(lambda at=holder, behind=behind, told=told: not behind or told in page(at), 30, "what lies behind the next relay")
    return relays


def page(relay):
    """The status page of a relay."""
    with urllib.request.urlopen(f"http://{relay.web}/", timeout=10) as answer:
        return answer.read().decode()


class _Address:
    def __init__(self, address):
        self.address = address


def aliases(relay, count):
    """Fresh aliases, each of a pack of its own that nobody uses."""
    command = ["linkload", "--relay", relay.link, "--data", relay.data, "--sessions", count, "--count", 0, "--aliases"]
    lines = run(BINARIES / command[0], *command[1:], seconds=300).stdout.splitlines()
    found = [line for line in lines if "@" in line]
    assert len(found) == count, lines
    return found


class Load:
    """A load generator whose connections are open, and which waits for `go`."""

    def __init__(self, program, *words):
        command = [str(word) for word in (BINARIES / program, *words)]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self.popen.stdout.readline()) != "ready\n":
            if not line:
                raise AssertionError(f"{program} ended before it was ready: {self.popen.wait()}")

    def go(self):
        """Starts it, and gives the words of the line that it ends with."""
        self.start()
        return self.result()

    def start(self):
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def result(self):
        line = self.popen.stdout.readline()
        if not line:
            raise AssertionError(f"{self.popen.args[0]} ended with {self.popen.wait()}")
        words = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", line)}
        self.accepted = int(words.get("accepted", 0))
        return words

    def end(self):
        """Ends one that holds its connections."""
        os.kill(self.popen.pid, signal.SIGKILL)
        self.close()

    def close(self):
        """Waits for its end; returns the processor seconds that it took, connecting included."""
        _, status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        self.popen.stdin.close()
        self.popen.stdout.close()
        return usage.ru_utime + usage.ru_stime


class Sink:
    """smtpsink: takes everything, counts it."""

    def __init__(self, folder):
        mail, count = free_ports(), free_ports()
        self.address = f"127.0.0.1:{mail}"
        self.port = mail
        words = ["--listen", self.address, "--count", f"127.0.0.1:{count}"]
        self.process = Process(folder, "sink", BINARIES / "smtpsink", *words)
        wait_for_port(self.process, f"127.0.0.1:{count}")
        self._counter = socket.create_connection(("127.0.0.1", count))
        self._lines = self._counter.makefile("rw")

    def wait(self, count, seconds=120):
        """Waits until it has taken so many in all, and says how many it has."""
        self._counter.settimeout(seconds)
        self._lines.write(f"{count}\n")
        self._lines.flush()
        return int(self._lines.readline())

    def stop(self):
        self._lines.close()
        self._counter.close()
        self.process.kill()


class QuickBridge(Bridge):
    """A bridge that looks for news twenty times a second: a tick is for hiding when mail arrives, not part of its work."""

    def start(self, *options, wait=True):
        command = [BINARIES / "postern", "bridge", "--dir", self.data, "--passphrase-file", self.passphrase]
        command += ["--smtp", self.smtp, "--imap", self.imap, "--relay-via", self.relay_via, "--tick", 0.05]
        self.process = Process(self.folder, self.name, *command, *options)
        wait_for_port(self.process, self.imap)
        if self.user is None:
            self._learn_login()
        return self

    @classmethod
    def of(cls, relay):
        """A bridge on a new pack of `relay`."""
        bridge = cls(relay.folder, "bridge", relay.link)
        pack = relay.folder / "bridge.pack"
        relay.issue(pack, bridge.passphrase, 1_000, 10**12)
        bridge.init(pack)
        return bridge.start()


class Mailbox:
    """An IMAP session that asks how many messages there are."""

    def __init__(self, bridge):
        self._socket = socket.create_connection(split_address(bridge.imap))
        self._lines = self._socket.makefile("rwb")
        self._lines.readline()
        self._ask(f"LOGIN {bridge.user} {bridge.password}")

    def _ask(self, command):
        self._lines.write(f"a {command}\r\n".encode())
        self._lines.flush()
        answer = b""
        while not (line := self._lines.readline()).startswith(b"a "):
            if not line:
                raise AssertionError("the bridge closed the connection")
            answer += line
        assert line.startswith(b"a OK"), line
        return answer

    def messages(self):
        return int(re.search(rb"MESSAGES (\d+)", self._ask("STATUS INBOX (MESSAGES)")).group(1))

    def close(self):
        self._lines.close()
        self._socket.close()


def read_mailbox(address, user, password, *words):
    """One run of imapload."""
    load = Load("imapload", "--server", address, "--user", user, "--password", password, *words)
    result = load.go()
    load.close()
    return result


def store_accepts(program, folder, batch, seconds, what):
    """Operations a second that the store alone makes durable, so many in each commit, and processor seconds for each."""
    folder.mkdir()
    command = [program, str(batch), str(folder), str(seconds), what]
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    cost = 0.0

    def watch():
        nonlocal cost
        while popen.poll() is None:
            cost = processor_seconds(popen.pid) or cost
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    line = popen.stdout.read()
    watching.join()
    popen.stdout.close()
    if popen.returncode:
        raise AssertionError(f"{program} ended with {popen.returncode}")
    rate = float(re.search(r"([\d.]+) accepted", line).group(1))
    return rate, cost / max(rate * seconds, 1)


def example(binaries):
    """The store's example, brought up to date where the binaries lie in a build folder."""
    if (binaries.parent / "CACHEDIR.TAG").exists():
        words = ["build", "--release", "--locked", "--quiet", "-p", "mailbox", "--example", "accept"]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(binaries.resolve().parent)}
        subprocess.run(["cargo", *words], cwd=ROOT, check=True, env=environment)
    return binaries / "examples" / "accept"
