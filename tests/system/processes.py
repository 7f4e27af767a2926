"""Processes, folders and ports: what every test starts, watches and clears away."""

import atexit
import collections
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def wait_until(condition, seconds=30, what="the expected state"):
    """Waits until `condition()` is true and returns what it gave."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} was not reached within {seconds} s")
        time.sleep(0.05)
    return result


# Ports handed out lately, which may be free because their program has not started yet.
_handed_out = collections.deque(maxlen=1_000)
# Which of how many lanes this process runs in (run.py): each has ports of its own.
_lane, _lanes = map(int, os.environ.get("POSTERN_LANE", "0/1").split("/"))
_PORTS = range(10_000 + 20_000 * _lane // _lanes // 10 * 10, 10_000 + 20_000 * (_lane + 1) // _lanes // 10 * 10, 10)


def free_ports(count=1):
    """First of `count` free consecutive ports, below those that the kernel hands out by itself."""
    while True:
        first = random.choice(_PORTS)
        if first in _handed_out:
            continue
        _handed_out.append(first)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


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
        self.ask_to_end(signal_number)
        return self.wait(seconds)

    def ask_to_end(self, signal_number=signal.SIGTERM):
        """Asks it to end."""
        if self.running:
            self._popen.send_signal(signal_number)

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


def peak(pid):
    """Resident memory of a process at its peak, since it began or since :func:`reset_peak`, in bytes."""
    return _status_figure(pid, "VmHWM")


def reset_peak(pid):
    """Has :func:`peak` tell of what comes from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_since(pid, action):
    """Growth of a process's resident memory at its peak while `action` runs, in bytes."""
    reset_peak(pid)
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


def wait_for_port(process, address, seconds=60):
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
