"""The worst octets from outside: no panic, no unbounded memory, no unbounded time (invariant 8).

Everything here is sent by a stranger who pays nothing: to the MX, to the link port, and, from the same machine, to the
bridge's doors.
"""

import contextlib
import random
import time
from pathlib import Path

from clients import CRLF, Inbox, Talk, deliver, imap_talk, message, smtp_talk, submit
from harness import FULL, OUTSIDE, Hazard, World, by_extent, word
from processes import peak_since, wait_until

MIB = 1 << 20
# One connection may hold one command line, one literal or one buffer of mail that is sealed while it comes in.
CONNECTION_BYTES_MAX = 4 * MIB


class BadInput(Hazard):
    @staticmethod
    def make():
        return World(handshake_ms=3_000)

    def setUp(self):
        self.relay, self.a = self.world.relay, self.world.a

    def tearDown(self):
        """After everything bad, the good still works, and no process said a word about a panic."""
        token = word()
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
        deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        Inbox(self.a).wait_for(token)
        wait_until(lambda: self.world.sink.with_word(token), 30, "good mail after bad")
        for log in self.world.logs():
            self.assertNotIn("panicked", log.read_text(errors="replace"))

    def doors(self):
        """Name, process and a fresh connection maker of each door."""
        yield "mx", self.relay.pid, lambda: smtp_talk(self.relay.mx)
        yield "link", self.relay.pid, lambda: Talk(self.relay.link)
        yield "submission", self.a.pid, lambda: smtp_talk(self.a.smtp)
        yield "submission after login", self.a.pid, lambda: smtp_talk(self.a.smtp, self.a)
        yield "imap", self.a.pid, lambda: imap_talk(self.a, logged_in=False)
        yield "imap after login", self.a.pid, lambda: imap_talk(self.a)

    def pour(self, connect, blocks, seconds=20):
        """Sends blocks until they end, the peer hangs up or the time is over; reads nothing in between."""
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError), connect() as talk:
            talk.socket.settimeout(2)
            for block in blocks:
                talk.send(block)
                if time.monotonic() > end:
                    break

    def test_random_octets_end_nothing_but_their_connection(self):
        draw = random.Random(1)
        for name, pid, connect in self.doors():
            with self.subTest(door=name):
                for _ in range(by_extent(20, 200)):
                    self.pour(connect, [draw.randbytes(draw.randrange(1, 3_000)), CRLF], 2)
                self.assertTrue(Path(f"/proc/{pid}").exists())

    def test_a_line_without_end_takes_bounded_memory(self):
        block = b"x" * MIB
        for name, pid, connect in self.doors():
            with self.subTest(door=name):
                growth = peak_since(pid, lambda connect=connect: self.pour(connect, (block for _ in range(64)), 10))
                self.assertLess(growth, 2 * CONNECTION_BYTES_MAX)

    def test_mail_without_end_takes_bounded_memory_and_is_refused(self):
        def blocks():
            yield f"MAIL FROM:<{OUTSIDE}>\r\nRCPT TO:<{self.a.alias}>\r\nDATA\r\n".encode()
            for _ in range(100):
                yield (b"x" * 998 + CRLF) * 1_048

        growth = peak_since(self.relay.pid, lambda: self.pour(lambda: smtp_talk(self.relay.mx), blocks(), 60))
        self.assertLess(growth, 2 * 80 * MIB)

    def test_a_terabyte_literal_is_refused_before_it_is_asked_for(self):
        for logged_in in (False, True):
            for command in (b"LOGIN {999999999999}", b"LOGIN {999999999999+}", b"SELECT {99999999999999999999}"):
                with self.subTest(command=command, logged_in=logged_in):
                    with imap_talk(self.a, logged_in=logged_in) as talk:
                        talk.send(b"l " + command + CRLF)
                        self.assertFalse(talk.line().startswith(b"+"))

    def test_deep_parentheses_and_long_lists_are_refused(self):
        commands = [b"FETCH 1 " + b"(" * 20_000, b"FETCH " + b"1," * 30_000 + b"1 FLAGS", b"FETCH 1:4294967295 FLAGS"]
        commands += [b"STORE 1 FLAGS (" + b"a " * 30_000 + b")", b"FETCH 1 BODY[" + b"1." * 20_000 + b"1]"]
        for command in commands:
            with self.subTest(command=command[:20]), imap_talk(self.a) as talk:
                talk.tagged("s", "SELECT INBOX")
                state, _ = talk.tagged("t", command)
                self.assertIn(state, ("OK", "NO", "BAD", ""))

    def test_hostile_mail_is_stored_as_it_is_and_shown(self):
        nested = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(2_000)
        )
        headers = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
        folded = b"Subject: x\r\n" + b" folded\r\n" * 20_000
        names = b"To: " + b"a@b.test, " * 20_000 + b"c@d.test\r\n"
        for number, head in enumerate((nested, headers, folded, names, b"\r\n", b": \r\n", b"\xff\xfe: \xff\r\n")):
            with self.subTest(number=number):
                token = word()
                content = head + b"X-Token: " + token.encode() + b"\r\n\r\n" + token.encode() + CRLF
                try:
                    deliver(self.relay.mx, OUTSIDE, self.a.alias, content)
                except OSError as refused:
                    self.assertIn("55", str(refused)[:12])
                    continue
                self.assertTrue(Inbox(self.a).wait_for(token)[0].endswith(content))
                with imap_talk(self.a) as talk:
                    talk.tagged("s", "SELECT INBOX")
                    self.assertEqual(talk.tagged("f", "FETCH * (ENVELOPE BODYSTRUCTURE RFC822.SIZE)")[0], "OK")

    def test_hostile_submissions_are_rebuilt_or_refused(self):
        nested = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(2_000)
        )
        start = f"From: {self.a.alias}\r\nTo: {OUTSIDE}\r\n".encode()
        cases = [b"", b"\r\n", b"x", start + nested, start + b"X" * 100_000 + b": y\r\n\r\n", b"\0" * 1000]
        cases += [start + b"Subject: =?utf-8?b?" + b"A" * 50_000 + b"?=\r\n\r\n", start + b"\xff" * 50_000]
        cases += [f"From: {self.a.alias}, {self.a.alias}\r\n\r\n".encode(), b"From: <" + b"a" * 70_000 + b">\r\n\r\n"]
        for number, content in enumerate(cases):
            with self.subTest(number=number):
                try:
                    submit(self.a, OUTSIDE, content)
                except OSError as refused:
                    self.assertIn("5", str(refused)[:3])

    def test_many_idle_connections_do_not_stop_the_others(self):
        open_talks = []
        many = by_extent(60, 200)
        for address, count in ((self.relay.mx, many), (self.relay.link, many), (self.a.smtp, 60), (self.a.imap, 60)):
            for _ in range(count):
                with contextlib.suppress(OSError):
                    open_talks.append(Talk(address))
        self.tearDown()
        for talk in open_talks:
            talk.close()

    def test_a_slow_client_is_waited_for_and_holds_nobody_up(self):
        token = word()
        with smtp_talk(self.relay.mx) as talk:
            for octet in f"MAIL FROM:<{OUTSIDE}>\r\n".encode():
                talk.send(bytes([octet]))
                time.sleep(0.02)
            self.assertEqual(talk.reply()[0], 250)
            self.assertEqual(talk.command(f"RCPT TO:<{self.a.alias}>")[0], 250)
            self.assertEqual(talk.command("DATA")[0], 354)
            deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, word()))
            for octet in message(OUTSIDE, self.a.alias, token) + b".\r\n":
                talk.send(bytes([octet]))
                time.sleep(0.005 if FULL else 0.001)
            self.assertEqual(talk.reply()[0], 250)
        Inbox(self.a).wait_for(token)

    def test_a_stranger_at_the_status_page_gets_an_answer_or_a_close(self):
        for request in (b"\r\n\r\n", b"GET", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000, b"\xff" * 100_000):
            with self.subTest(request=request[:10]), Talk(self.relay.web) as talk, contextlib.suppress(OSError):
                talk.send(request)
                talk.socket.settimeout(1)
                talk.socket.recv(1_000)
