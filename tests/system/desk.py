"""A desk to try mail programs at: a terminal that types and reads, a look into any folder, the world outside."""

import contextlib
import email
import email.policy
import fcntl
import imaplib
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
import unittest
from dataclasses import dataclass

from clients import deliver, login, message
from harness import OUTSIDE, Hazard, word
from processes import Folder, wait_until

OWN = ("INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash")
WORDS = "Grüße, in a few words."
ESCAPES = re.compile(rb"\x1b(\[[0-9;?>=]*[a-zA-Z@`]|[()][A-Z0-9]|[=>78DEM]|\][^\x07\x1b]*(\x07|\x1b\\))|[\x00\x0e\x0f]")
# The cursor is moved, and nothing is written after it but padding.
MOVE = re.compile(rb"\x1b\[\d+;\d+H\0*$")


def needs(program):
    """Skips what needs a program that is not there."""
    there = shutil.which(program, path=f"{os.environ['PATH']}:/usr/lib/git-core")
    return unittest.skipUnless(there, f"not run: {program} is not installed")


class Terminal:
    """A full-screen program on a pseudo-terminal: keys go in, what it writes is kept without its escapes."""

    def __init__(self, command, environment, rows=50, columns=150):
        self.name, self.text, self._from, self._last = str(command[0]), "", 0, b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(str(command[0]), [str(part) for part in command], environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def keys(self, keys):
        """Types; what was shown before is not looked at any more."""
        self._read(0)
        self._from = len(self.text)
        os.write(self._fd, keys.encode())

    def shows(self, words, seconds=20):
        """Waits until `words`, a text or a pattern, are shown, and returns what came with them."""
        sought = re.compile(re.escape(words) if isinstance(words, str) else words)
        end = time.monotonic() + seconds
        while not sought.search(self.text[self._from :]):
            if time.monotonic() > end or not self._read(0.1):
                raise AssertionError(f"{self.name} does not show {sought.pattern!r}: {self.text[self._from :][-2000:]!r}")
        return self.text[self._from :]

    def rests(self, seconds=20):
        """Waits until the last that was written moved the cursor, as to where an answer is typed."""
        end = time.monotonic() + seconds
        while not MOVE.search(self._last):
            if time.monotonic() > end or not self._read(0.1):
                raise AssertionError(f"{self.name} does not move its cursor: {self._last!r}")

    def do(self, *steps):
        """Types each first word and waits for each second."""
        for keys, words in steps:
            self.keys(keys)
            if words:
                self.shows(words)

    def ends(self, seconds=20):
        """Waits for the program's end and returns its exit code."""
        end = time.monotonic() + seconds
        while self._read(0.1):
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} does not end: {self.text[self._from :][-2000:]!r}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, seconds):
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            octets = os.read(self._fd, 1 << 16)
        except OSError:
            return False
        self._last = (self._last + octets)[-256:]
        if b"\x1b[6n" in octets:
            os.write(self._fd, b"\x1b[1;1R")
        self.text += ESCAPES.sub(b"", octets).decode("utf-8", "replace")
        return bool(octets)


@dataclass
class Stored:
    """A message as it lies in a folder."""

    flags: set
    content: bytes

    @property
    def parsed(self):
        return email.message_from_bytes(self.content, policy=email.policy.default)


class Desk(Hazard):
    """One person, a home folder for the program under test, and what is needed to judge what it did."""

    def setUp(self):
        self.a, self.b, self.sink, self.token = self.world.a, self.world.b, self.world.sink, word()
        folder = Folder()
        self.addCleanup(folder.remove)
        self.home = folder.path
        self.environment = {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin:/usr/sbin:/usr/games",
            "TERM": "vt100",
            "LC_ALL": "C.UTF-8",
            "TZ": "Pacific/Auckland",
        }
        self.empty()

    def program(self, *command, text=None, seconds=60, check=True):
        """Runs a program to its end in the person's home."""
        done = subprocess.run(
            [str(part) for part in command],
            input=text,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.home,
            timeout=seconds,
        )
        if check:
            self.assertEqual(done.returncode, 0, f"{command[0]}: {done.stderr}{done.stdout}")
        return done

    def terminal(self, *command):
        return Terminal(command, self.environment)

    def file(self, name, text, mode=0o600):
        """A file in the person's home."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def set_up(self, program, name):
        """The configuration that `postern setup` writes for a program, in the person's home."""
        path = self.home / name
        self.a.command("setup", program, "--write", "--to", path)
        return path

    def octets(self, name, count=50_000):
        """A file of random octets in the person's home."""
        path = self.home / name
        path.write_bytes(os.urandom(count))
        return path

    def receive(self, subject, body="hello\r\n", headers=()):
        """Lets a message come in from outside; returns its Message-ID once it lies in INBOX."""
        identifier = f"<{word()}@out.test>"
        content = message(OUTSIDE, self.a.alias, subject, body, [f"Message-ID: {identifier}", *headers])
        deliver(self.world.relay.mx, OUTSIDE, self.a.alias, content)
        self.until_in("INBOX", subject)
        return identifier

    def stored(self, folder, holder=None):
        """Messages of a folder by subject, as another client sees them; none where the folder is not there."""
        session = login(holder or self.a)
        try:
            if session.select(f'"{folder}"', readonly=True)[0] != "OK":
                return {}
            found = {}
            _, parts = session.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")
            for part in parts:
                if isinstance(part, tuple):
                    flags = {flag.decode() for flag in imaplib.ParseFlags(part[0])}
                    one = Stored(flags - {r"\Recent"}, part[1])
                    found[str(one.parsed["Subject"])] = one
            return found
        finally:
            session.logout()

    def until_in(self, folder, subject, flag=None, holder=None):
        """Waits until a folder holds the message, with the flag if one is named, and returns it."""

        def look():
            one = self.stored(folder, holder).get(subject)
            return one if one and (not flag or flag in one.flags) else None

        return wait_until(look, 30, f"{subject} {flag or ''} in {folder}")

    def until_gone(self, folder, subject):
        """Waits until a folder holds no message of that subject."""
        wait_until(lambda: subject not in self.stored(folder), 30, f"the end of {subject} in {folder}")

    def outside(self, subject):
        """Waits for the message at its recipient outside; returns the delivery and its parsed content."""

        def look():
            for delivery in self.sink.with_word(subject.split()[-1]):
                parsed = email.message_from_bytes(delivery.content, policy=email.policy.default)
                if parsed["Subject"] == subject:
                    return delivery, parsed
            return None

        return wait_until(look, 30, f"{subject} outside")

    def folders(self):
        """Names of all folders."""
        session = login(self.a)
        try:
            lines = session.list()[1]
        finally:
            session.logout()
        return [re.search(rb' "?([^" ]+)"?$', line).group(1).decode() for line in lines]

    def empty(self):
        """Takes all messages out of all folders, and every folder away that was not there at first."""
        session = login(self.a)
        for name in sorted(self.folders(), reverse=True):
            if name not in OWN:
                session.delete(name)
            elif session.select(name)[1] != [b"0"]:
                session.uid("STORE", "1:*", "+FLAGS.SILENT", r"(\Deleted)")
                session.close()
        session.logout()

    def text_of(self, parsed):
        """Lines of a message's text, without empty ones around it."""
        return parsed.get_body(("plain",)).get_content().strip().splitlines()

    def attached(self, parsed):
        """Octets of the attachments by name."""
        return {part.get_filename(): part.get_content() for part in parsed.iter_attachments()}
