"""Large messages: they pass through the bridge piece by piece.

A program that reads a message of 50 MiB holds it once by itself. A bridge that held it again for every session would take
more than all other programs of a small computer together, and a client that reads slowly would keep it there for hours.
"""

import hashlib
import os
import random
import socket
import threading
import time

from clients import deliver, login, split_address
from harness import OUTSIDE, Hazard, by_extent, full_only
from processes import peak, reset_peak, resident, wait_until

MIB = 1 << 20
BRIDGE_BYTES_MAX = 150 * MIB
# Most of it is what opening the passphrase takes.
STARTED_BYTES_MAX = 100 * MIB
LARGE = 50 * MIB
SESSIONS = 10
SLOW = 4


def large_text(octets, seed=0):
    """A message of so many octets that nobody has seen before."""
    header = f"From: a@x.test\r\nSubject: large {seed}\r\n\r\n".encode()
    line = random.Random(seed).randbytes(36).hex().encode() + b"\r\n"
    lines = (b"%08x" % number + line[8:] for number in range((octets - len(header)) // len(line)))
    return header + b"".join(lines)


class Fetching:
    """A session of its own that fetches and keeps the digest of what comes."""

    def __init__(self, holder, what, reads=1 << 20, pause=0.0, hurry=None):
        self.stream = socket.create_connection(split_address(holder.imap), timeout=120)
        # Little room in between, so that a slow reader is felt.
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.begun, self.hurry = threading.Event(), hurry or threading.Event()
        self.reads, self.pause = reads, pause
        self.length, self.taken, self.digest, self.rest = None, 0, None, b""
        self.stream.sendall(
            f'a LOGIN "{holder.user}" "{holder.password}"\r\nb SELECT INBOX\r\nc FETCH {what}\r\nd LOGOUT\r\n'.encode()
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with self.stream:
            self._read()

    def _read(self):
        reader = self.stream.makefile("rb", buffering=0)
        line = b""
        while not (line.startswith(b"* ") and line.endswith(b"}\r\n")):
            line = reader.readline()
            if not line:
                return
        self.length = int(line[line.rindex(b"{") + 1 : -3])
        digest = hashlib.sha256()
        while self.taken < self.length:
            slow = self.pause and not self.hurry.is_set()
            octets = reader.read(min(self.reads if slow else 1 << 20, self.length - self.taken))
            if not octets:
                break
            digest.update(octets)
            self.taken += len(octets)
            self.begun.set()
            if slow:
                time.sleep(self.pause)
        self.digest = digest.hexdigest()
        self.rest = reader.read() or b""

    def done(self, seconds=180):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"{self.taken} of {self.length}"
        return self


class Large(Hazard):
    def setUp(self):
        self.a = self.world.a

    def fresh(self):
        """A bridge just started, so that its peak is that of the test."""
        self.a.stop()
        self.a.start()

    def append(self, text, session=None):
        own = session or login(self.a)
        status, answer = own.append("INBOX", None, None, text)
        self.assertEqual(status, "OK", answer)
        if session is None:
            own.logout()

    def count(self):
        session = login(self.a)
        try:
            return int(session.select("INBOX")[1][0])
        finally:
            session.logout()

    def empty(self):
        session = login(self.a)
        if session.select("INBOX")[1] != [b"0"]:
            session.store("1:*", "+FLAGS.SILENT", r"(\Deleted)")
            session.expunge()
        session.logout()

    def test_ten_sessions_that_fetch_50_mib_share_little_memory_and_outlive_an_expunge(self):
        text = large_text(LARGE)
        self.empty()
        self.append(text)
        self.fresh()
        # What opening the passphrase takes is no part of it.
        reset_peak(self.a.pid)
        whole = hashlib.sha256(text).hexdigest()
        body = hashlib.sha256(text[text.index(b"\r\n\r\n") + 4 :]).hexdigest()
        hurry = threading.Event()
        slow = [Fetching(self.a, "1 BODY.PEEK[]", 1 << 10, 0.01, hurry) for _ in range(SLOW)]
        others = [
            Fetching(self.a, f"1 {item}")
            for item in ["BODY.PEEK[]", "RFC822", "BODY.PEEK[TEXT]", "BODY.PEEK[1]", "BODY.PEEK[]<0.99999999>"]
        ]
        search = Fetching(self.a, '1 BODY.PEEK[HEADER]\r\nx SEARCH TEXT "is nowhere to be found"')
        for one in [*slow, *others]:
            self.assertTrue(one.begun.wait(60))
        self.empty()
        self.append(large_text(2 * MIB, 1))
        for one, expected in zip(others, [whole, whole, body, body, whole]):
            self.assertEqual(one.done().digest, expected)
            self.assertIn(b"c OK", one.rest)
        self.assertIn(b"x OK", search.done().rest)
        self.assertTrue(all(one.taken < one.length for one in slow))
        hurry.set()
        for one in slow:
            self.assertEqual(one.done().digest, whole)
        taken = peak(self.a.pid)
        print(f"       {SESSIONS} sessions, {LARGE // MIB} MiB each: {taken / MIB:.1f} MiB at most")
        self.assertLess(taken, BRIDGE_BYTES_MAX)

    def test_a_text_that_is_damaged_on_the_disk_ends_within_its_literal(self):
        text = large_text(3 * MIB, 2)
        self.empty()
        segments = lambda: {path: path.stat().st_mtime_ns for path in (self.a.data).rglob("segment-*")}  # noqa: E731
        before = segments()
        self.append(text)
        self.fresh()
        # One octet of each page of the last half of what was written.
        for path, changed in segments().items():
            if before.get(path) != changed:
                damage(path, len(text) // 2, len(text) - 70_000)
        one = Fetching(self.a, "1 BODY.PEEK[]").done()
        self.assertEqual(one.length, len(text))
        self.assertLess(one.taken, one.length)
        self.assertGreater(one.taken, 0)
        self.assertEqual(one.taken % (64 << 10), 0, "whole chunks and nothing else")
        # The others go on.
        session = login(self.a)
        self.assertEqual(session.select("INBOX")[0], "OK")
        session.logout()

    def test_a_mailbox_of_large_messages_opens_without_growing_with_its_size(self):
        self.fill(by_extent(40, 1_000))

    @full_only
    def test_an_append_of_60_mib_stays_within_the_bound(self):
        self.empty()
        self.fresh()
        reset_peak(self.a.pid)
        self.append(large_text(60 * MIB))
        taken = peak(self.a.pid)
        print(f"       APPEND of 60 MiB: {taken / MIB:.1f} MiB at most")
        self.assertLess(taken, BRIDGE_BYTES_MAX)

    @full_only
    def test_a_message_of_48_mib_that_is_collected_stays_within_the_bound(self):
        self.empty()
        self.fresh()
        reset_peak(self.a.pid)
        deliver(self.world.relay.mx, OUTSIDE, self.a.alias, large_text(48 * MIB, 4))
        wait_until(lambda: self.count() == 1, 300, "the message in INBOX")
        taken = peak(self.a.pid)
        print(f"       48 MiB collected: {taken / MIB:.1f} MiB at most")
        one = Fetching(self.a, "1 BODY.PEEK[TEXT]").done()
        self.assertGreater(one.length, 47 * MIB)
        self.assertIn(b"c OK", one.rest)
        self.assertLess(taken, BRIDGE_BYTES_MAX)

    def fill(self, count):
        self.empty()
        self.fresh()
        text = large_text(2_000_000, 3)
        session = login(self.a)
        for _ in range(count):
            self.append(text, session)
        session.logout()
        stored = peak(self.a.pid)
        self.fresh()
        started = peak(self.a.pid)
        # What opening the passphrase took is no part of what follows.
        reset_peak(self.a.pid)
        session = login(self.a)
        _, found = session.select("INBOX")
        self.assertEqual(int(found[0]), count)
        status, _ = session.fetch("1:*", "(UID FLAGS ENVELOPE BODYSTRUCTURE)")
        self.assertEqual(status, "OK")
        session.logout()
        opened = peak(self.a.pid)
        print(
            f"       {count} messages of 2 MB: {stored / MIB:.1f} MiB at most while they came, "
            f"{started / MIB:.1f} MiB when it started, {opened / MIB:.1f} MiB when they were listed, "
            f"{resident(self.a.pid) / MIB:.1f} MiB then"
        )
        self.assertLess(stored, BRIDGE_BYTES_MAX)
        self.assertLess(started, STARTED_BYTES_MAX)
        self.assertLess(opened, 60 * MIB)


def damage(path, start, end):
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for at in range(start, min(end, size), 4_096):
            file.seek(at)
            octet = file.read(1)
            file.seek(at)
            file.write(bytes([octet[0] ^ 1]))
