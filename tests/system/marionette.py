"""Marionette, the remote control that every Gecko program carries: commands as JSON arrays, each behind its length.

Enough of it to run scripts in the program's own windows: a session, a context, a script with its result.
"""

import json
import socket


class ScriptError(AssertionError):
    """A script threw; the text is the program's own."""


class Marionette:
    """One session in chrome context, where scripts see the program's windows and services."""

    def __init__(self, port, seconds=60):
        self._socket = socket.create_connection(("127.0.0.1", port), seconds + 30)
        self._file = self._socket.makefile("rb")
        self._count = 0
        self.program = self._read()["applicationType"]
        self.command("WebDriver:NewSession")
        self.command("WebDriver:SetTimeouts", {"script": seconds * 1000})
        self.command("Marionette:SetContext", {"value": "chrome"})

    def command(self, name, parameters=None):
        """Runs one command and returns its result."""
        self._count += 1
        text = json.dumps([0, self._count, name, parameters or {}]).encode()
        self._socket.sendall(b"%d:%s" % (len(text), text))
        _, number, error, result = self._read()
        if number != self._count:
            raise AssertionError(f"answer {number} to command {self._count}")
        if error:
            raise ScriptError(f"{error['error']}: {error['message']}\n{error.get('stacktrace', '')}".strip())
        return result

    def run(self, script, *arguments):
        """Runs the body of a function in the first window, waits for its promise and returns what it gives."""
        parameters = {"script": script, "args": list(arguments), "newSandbox": False, "sandbox": "test"}
        return self.command("WebDriver:ExecuteScript", parameters)["value"]

    def close(self):
        self._file.close()
        self._socket.close()

    def _read(self):
        digits = b""
        while (octet := self._file.read(1)) != b":":
            if not octet.isdigit():
                raise AssertionError("the program ended")
            digits += octet
        return json.loads(self._file.read(int(digits)))
