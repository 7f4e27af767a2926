#!/usr/bin/env python3
"""Runs the whole-system tests, one file after another, and says every statement that holds.

    run.py [NAME...]    files of this folder by name, with or without .py; NAME.WORDS takes only tests whose name
                        holds WORDS. Without names: all.

POSTERN_BINARIES: folder of the binaries (target/release). POSTERN_TESTS=full: the long form. KEEP=1: keep folders.
"""

import importlib
import os
import signal
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from processes import kill_all_processes  # noqa: E402 - found through the line above

ORDER = [
    "tools_hold",
    "main_job",
    "hygiene",
    "outside",
    "smtp_conformance",
    "imap_clients",
    "stock_programs",
    "mail_programs",
    "thunderbird",
    "money",
    "parcels",
    "people",
    "media",
    "operators",
    "at_rest",
    "erasure",
    "pads",
    "bad_input",
    "wire",
    "rotation",
    "restored",
    "crash",
    "power_cuts",
    "bad_disk",
    "resources",
    "soak",
]


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


def stop(*_):
    """Ends at once: unittest would take an exception for one more failed test, and go on."""
    kill_all_processes()
    os._exit(143)


def main():
    signal.signal(signal.SIGTERM, stop)
    result, started = Statements(), time.monotonic()
    for name in sys.argv[1:] or ORDER:
        module, suite = chosen(name)
        print(f"{module}: {importlib.import_module(module).__doc__.splitlines()[0]}", flush=True)
        # Where one class is named twice, unittest would take it for set up still.
        result._previousTestClass = None
        suite.run(result)
    skipped = len(result.skipped)
    print(f"{result.passed} passed, {result.failed} failed, {skipped} skipped, {time.monotonic() - started:.0f} s")
    return 1 if result.failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main())
