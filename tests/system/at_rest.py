"""What a seized relay gives away: nothing of the mail that it stored or passed on (invariant 6).

The relay is closed to its own operator from the commit on. One forgotten log line, one database page, one buffer that
was freed and not wiped, and the promise is a lie.
"""

import base64
import quopri
import time

from clients import Inbox, deliver, submit
from harness import BINARIES, Hazard, World, by_extent, in_background, word
from needles import Needle, search_files, search_memory
from processes import run, wait_until

EACH_WAY = 50


def _patient_world():
    """Mail is tried for as long as the search takes while it waits."""
    return World(retry_s=[1] * 300)


class AtRest(Hazard):
    make = staticmethod(_patient_world)

    def setUp(self):
        self.relay, self.sink, self.a, self.b = self.world.relay, self.world.sink, self.world.a, self.world.b
        self.words = {part: word(part) for part in ("body", "subject", "sender", "recipient", "filename")}
        self.words["umlaut"] = "Vögel" + word()
        self.needles = [Needle(text) for text in self.words.values()]

    def content(self, sender, recipient, number):
        """A message that holds every canary, some in each transfer encoding."""
        words = self.words
        encoding, body = [
            ("8bit", f"{words['body']}\r\n{words['umlaut']}\r\n".encode()),
            ("quoted-printable", _quoted(f"{words['body']}\n{words['umlaut']}\n")),
            ("base64", _base64(f"{words['body']}\r\n{words['umlaut']}\r\n")),
        ][number % 3]
        head = [
            f"From: {sender}", f"To: {recipient}", f"Subject: {words['subject']} {number}", "MIME-Version: 1.0",
            "Content-Type: multipart/mixed; boundary=bound", "", "--bound",
            "Content-Type: text/plain; charset=utf-8", f"Content-Transfer-Encoding: {encoding}", "", "",
        ]  # fmt: skip
        tail = [
            "--bound", f'Content-Type: application/octet-stream; name="{words["filename"]}"',
            "Content-Transfer-Encoding: base64",
            f'Content-Disposition: attachment; filename="{words["filename"]}"', "", "AAEC", "--bound--", "",
        ]  # fmt: skip
        return "\r\n".join(head).encode() + body + "\r\n".join(tail).encode()

    def send_both_ways(self):
        """Half of the messages come in for a, the other half go out from a."""
        stranger = f"{self.words['sender']}@out.test"
        friend = f"{self.words['recipient']}@out.test"
        for number in range(EACH_WAY):
            deliver(self.relay.mx, stranger, self.a.alias, self.content(stranger, self.a.alias, number))
            submit(self.a, friend, self.content(self.a.alias, friend, number))

    def places(self):
        """All that the relay leaves on disk: its folder and its logs."""
        return [self.relay.data, self.relay.process.log, self.relay.process.output]

    def test_no_canary_is_found_at_the_relay(self):
        self.sink.misbehave("DATA", "451 4.3.0 later")
        self.a.settled()
        self.send_both_ways()
        wait_until(lambda: len(self.relay.queue()) == EACH_WAY, 120, "a full spool")
        with self.subTest("while mail waits in the spool"):
            self.assertEqual(search_files(self.needles, *self.places()), [])

        self.world.proxy.partition()
        stranger = f"{self.words['sender']}@out.test"
        deliver(self.relay.mx, stranger, self.a.alias, self.content(stranger, self.a.alias, 0))
        with self.subTest("while mail waits for its holder"):
            self.assertEqual(search_files(self.needles, *self.places()), [])

        self.world.proxy.heal()
        self.sink.behave()
        wait_until(lambda: not self.relay.queue(), 120, "an empty spool")
        Inbox(self.a).wait_for(self.words["subject"], EACH_WAY + 1, 120)
        self.assertTrue(self.sink.with_word(self.words["filename"]), "the canaries did pass through")
        self.other_mail(by_extent(15, 60))
        with self.subTest("on disk after all is delivered"):
            self.assertEqual(search_files(self.needles, *self.places()), [])
        with self.subTest("in memory after other mail"):
            self.assertEqual(search_memory(self.needles, self.relay.pid), [])

    def other_mail(self, seconds):
        """Mail of others, for as long as it takes until memory is used again."""
        end, done = time.monotonic() + seconds, []

        def keep_sending(action):
            while time.monotonic() < end:
                action()
                time.sleep(0.05)
            done.append(action)

        other = b"From: x@other.test\r\nTo: y@other.test\r\nSubject: other\r\n\r\n" + b"words\r\n" * 1000
        inward = in_background(
            lambda: keep_sending(lambda: deliver(self.relay.mx, "x@other.test", self.b.alias, other))
        )
        outward = other.replace(b"x@other.test", self.b.alias.encode(), 1)
        keep_sending(lambda: submit(self.b, "y@other.test", outward))
        inward.join()
        self.assertEqual(len(done), 2)

    def test_the_search_finds_what_is_there(self):
        planted = self.relay.data / "planted"
        planted.write_bytes(bytes(100_000) + _base64(f"xx {self.words['umlaut']} and more"))
        try:
            found = {text for _, text, _ in search_files(self.needles, *self.places())}
        finally:
            planted.unlink()
        self.assertEqual(found, {self.words["umlaut"]})

    def test_the_holders_store_keeps_no_mail_in_clear(self):
        stranger = f"{self.words['sender']}@out.test"
        deliver(self.relay.mx, stranger, self.b.alias, self.content(stranger, self.b.alias, 0))
        Inbox(self.b).wait_for(self.words["subject"])
        self.assertEqual(search_files(self.needles, self.b.data, self.b.process.log), [])

    def test_logs_and_metrics_name_nobody(self):
        names = [self.a.alias, self.a.alias.split("@")[0], self.a.status()["identifier"], self.a.password]
        self.send_both_ways()
        self.a.settled()
        logs = self.world.logs()
        self.assertTrue(logs)
        self.assertEqual(search_files([Needle(name) for name in names], *logs), [])

    def test_nothing_of_either_store_is_open_to_others(self):
        for folder in (self.relay.data, self.a.data):
            for path in [folder, *folder.rglob("*")]:
                # Ports and user name, which the user may edit; the folder around it is closed.
                if path.name != "bridge.toml":
                    self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_the_pack_file_is_worth_nothing_after_init(self):
        pack = self.world.folder.path / "a.pack"
        if pack.exists():
            arguments = [BINARIES / "postern", "init", "--pack", pack, "--dir", self.world.folder.path / "again"]
            done = run(*arguments, "--passphrase-file", self.a.passphrase, check=False)
            self.assertNotEqual(done.returncode, 0)


def _quoted(text):
    return quopri.encodestring(text.encode()).replace(b"\n", b"\r\n")


def _base64(text):
    return base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")
