#!/usr/bin/env python3
"""Runs the whole-system tests, and says every statement that holds.

    run.py [NAME...]    files of this folder by name, with or without .py, one after another; NAME.WORDS takes only
                        tests whose name holds WORDS. Without names: all, on LANES at one time.

POSTERN_BINARIES: folder of the binaries (target/release). POSTERN_TESTS=full: the long form. KEEP=1: keep folders.
LANES: how many files run at one time (3: most of a test is waiting).
"""

import importlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from processes import kill_all_processes  # noqa: E402 - found through the line above

# The longest early, so that no lane ends alone with it.
ORDER = [
    "tools_hold",
    "main_job",
    "soak",
    "crash",
    "federation",
    "activation",
    "hygiene",
    "outside",
    "wanted",
    "smtp_conformance",
    "imap_clients",
    "stock_programs",
    "mail_programs",
    "thunderbird",
    "media",
    "way_back",
    "people",
    "large",
    "money",
    "parcels",
    "management",
    "devices",
    "peers",
    "entry",
    "knowledge",
    "hostile",
    "lying",
    "ways",
    "months",
    "mixing",
    "cover",
    "loops",
    "procure",
    "second_relay",
    "directory",
    "routes",
    "operators",
    "at_rest",
    "erasure",
    "pads",
    "bad_input",
    "wire",
    "rotation",
    "restored",
    "copied",
    "power_cuts",
    "bad_disk",
]
# These measure processor and waits: nothing runs beside them.
ALONE = ["resources"]
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped", re.M)


class Statements(unittest.TestResult):
    """Prints one line a test: what it states, whether it held, how long it took."""

    def __init__(self):
        super().__init__()
        self.passed, self.failed = 0, 0

    def startTest(self, test):
        super().startTest(test)
        self._started = time.monotonic()
        self._broken = False

    def addSuccess(self, test):
        self.passed += 1
        self._say("ok", test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self._fail(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self._fail(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._fail(subtest, error)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._say("skip", test, reason)

    def _fail(self, test, error):
        self.failed += 1
        self._say("FAIL", test)
        print("".join(f"      {line}\n" for line in self._exc_info_to_string(error, test).splitlines()), flush=True)

    def _say(self, verdict, test, remark=""):
        seconds = time.monotonic() - getattr(self, "_started", time.monotonic())
        method = getattr(test, "_testMethodName", None) or str(getattr(test, "test_case", test))
        name = str(method).removeprefix("test_").replace("_", " ")
        parameters = f" {test.params and dict(test.params)}" if hasattr(test, "params") else ""
        print(f"  {verdict:4} {seconds:6.1f} s  {name}{parameters} {remark}".rstrip(), flush=True)


def chosen(name):
    """The tests of one file, narrowed by what follows the dot."""
    module, _, words = name.removesuffix(".py").partition(".")
    suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module))
    if not words:
        return module, suite
    tests = [test for group in suite for test in group if words in test.id()]
    return module, unittest.TestSuite(tests)


class Lanes:
    """Files of tests beside each other, a process each; what one says is printed when it ends."""

    def __init__(self, names, lanes):
        self.counts, self._names, self._live = [0, 0, 0], queue.SimpleQueue(), set()
        for name in names:
            self._names.put(name)
        self._said, self._ended = threading.Lock(), False
        self._threads = [threading.Thread(target=self._keep, args=(f"{lane}/{lanes}",)) for lane in range(lanes)]

    def run(self):
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _keep(self, lane):
        while not self._names.empty() and not self._ended:
            try:
                self._run(self._names.get_nowait(), lane)
            except queue.Empty:
                return

    def _run(self, name, lane):
        environment = {**os.environ, "POSTERN_LANE": lane}
        child = subprocess.Popen(
            [sys.executable, __file__, name],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        self._live.add(child)
        said, _ = child.communicate()
        self._live.discard(child)
        counts = COUNTS.search(said)
        with self._said:
            print(said[: counts.start()] if counts else said, end="", flush=True)
            if counts is None:
                print(f"  FAIL  {name} ended with {child.returncode}", flush=True)
            told = map(int, counts.groups()) if counts else (0, 1, 0)
            self.counts = [total + more for total, more in zip(self.counts, told)]

    def stop(self):
        self._ended = True
        for child in list(self._live):
            child.terminate()


def stop(lanes):
    """Ends at once: unittest would take an exception for one more failed test, and go on."""
    if lanes:
        lanes.stop()
    kill_all_processes()
    os._exit(143)


def run_here(names):
    """Runs files one after another in this process; returns how many tests passed, failed and were skipped."""
    result = Statements()
    for name in names:
        module, suite = chosen(name)
        print(f"{module}: {importlib.import_module(module).__doc__.splitlines()[0]}", flush=True)
        # Where one class is named twice, unittest would take it for set up still.
        result._previousTestClass = None
        suite.run(result)
    return result.passed, result.failed, len(result.skipped)


def main():
    started, lanes = time.monotonic(), None
    signal.signal(signal.SIGTERM, lambda *_: stop(lanes))
    if sys.argv[1:]:
        counts = run_here(sys.argv[1:])
    else:
        lanes = Lanes(ORDER, int(os.environ.get("LANES", 3)))
        lanes.run()
        counts = [sum(both) for both in zip(lanes.counts, run_here(ALONE))]
    passed, failed, skipped = counts
    print(f"{passed} passed, {failed} failed, {skipped} skipped, {time.monotonic() - started:.0f} s")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
