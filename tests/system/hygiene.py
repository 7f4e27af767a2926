"""What leaves the exit: nothing of the user's client beyond the allow list (invariant 9).

A mail program gives its user away in a dozen headers, in boundaries, in times and time zones, in names of folders.
One byte of that at the recipient's, and the pseudonym is worth little.
"""

import email
import email.policy
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from clients import Inbox, deliver, message, refusal_of, submit
from harness import OUTSIDE, Hazard, World, word
from processes import wait_until

ALLOWED = {
    "from", "to", "cc", "subject", "in-reply-to", "references", "date", "message-id", "mime-version",
    "content-type", "content-transfer-encoding", "content-disposition", "content-id",
}  # fmt: skip


ARMOURS = Path(__file__).parents[2] / "smtp-bridge/src/message/tests/openpgp"


class Leaving(Hazard):
    """What the tests of this file need."""

    def setUp(self):
        self.sink, self.a, self.b = self.world.sink, self.world.a, self.world.b

    def exit_of(self, content, token, recipients=OUTSIDE):
        """Submits through bridge a and returns what the outside world received, raw and parsed."""
        submit(self.a, recipients, content)
        raw = wait_until(lambda: self.sink.with_word(token), 30, "the message outside")[0].content
        return raw, email.message_from_bytes(raw, policy=email.policy.default)

    def refused(self, content):
        """Code and text of the refusal of a message that must not leave."""
        code, text = refusal_of(lambda: submit(self.a, OUTSIDE, content))
        self.assertEqual(code, 554)
        return text


class Hygiene(Leaving):
    def test_only_allowed_headers_leave(self):
        token, secret = word(), word("secret")
        telling = [
            "Bcc", "User-Agent", "X-Mailer", "Received", "Return-Path", "X-Originating-IP",
            "Organization", "Autocrypt", "OpenPGP", "Face", "List-Id", "Thread-Index", "X-Mozilla-Status",
            "Disposition-Notification-To", "Resent-From", "Comments", "Keywords", "Importance",
        ]  # fmt: skip
        headers = [f"{name}: <{secret}@laptop.home>" for name in telling]
        headers += [f"Message-ID: <{secret}@laptop.home>", "Date: Tue, 03 Feb 2026 04:05:06 +1345"]
        raw, parsed = self.exit_of(message(self.a.alias, OUTSIDE, token, headers=headers), token)
        self.assertEqual({name.lower() for name in parsed} - ALLOWED, set())
        self.assertNotIn(secret.encode(), raw)
        self.assertNotIn(b"laptop.home", raw)
        self.assertNotIn(b"+1345", raw)

    def test_the_date_is_coarse_and_without_a_zone(self):
        token = word()
        _, parsed = self.exit_of(message(self.a.alias, OUTSIDE, token), token)
        self.assertRegex(parsed["Date"], r" \d\d:00:00 \+0000$")

    def test_a_display_name_that_was_not_set_does_not_leave(self):
        token, name = word(), word("Name")
        raw, _ = self.exit_of(message(f"{name} <{self.a.alias}>", OUTSIDE, token), token)
        self.assertNotIn(name.encode(), raw)

    def test_boundaries_comments_and_parameters_of_the_client_do_not_leave(self):
        token, secret = word(), word("secret")
        body = "\r\n".join([
            f"preamble {secret}", f"--{secret}", "Content-Type: text/plain; charset=iso-8859-1; format=flowed;"
            f" x-client={secret}", f"Content-ID: <{secret}@laptop.home>", f"X-Part: {secret}", "",
            token, f"--{secret}", f"Content-Type: application/octet-stream; name=a.bin; x-{secret}=1",
            f'Content-Disposition: attachment; filename="/home/{secret}/a.bin"; creation-date="{secret}"',
            "Content-Transfer-Encoding: base64", "", "AAECAw==", f"--{secret}--", f"epilogue {secret}", "",
        ])  # fmt: skip
        headers = ["MIME-Version: 1.0 (" + secret + ")", f"Content-Type: multipart/mixed; boundary={secret}"]
        try:
            raw, parsed = self.exit_of(message(self.a.alias, OUTSIDE, token, body, headers), token)
        except Exception as refused:
            self.assertIn("55", str(refused)[:20])
            return
        self.assertNotIn(secret.encode(), raw)
        parts = [part for part in parsed.walk() if part.get_filename()]
        self.assertEqual([part.get_content() for part in parts], [b"\0\1\2\3"])

    def test_text_in_any_charset_arrives_as_utf_8(self):
        token = word()
        content = message(
            self.a.alias, OUTSIDE, token,
            headers=["MIME-Version: 1.0", "Content-Type: text/plain; charset=iso-8859-1",
                     "Content-Transfer-Encoding: quoted-printable"],
            body="Gr=F6=DFe\r\n",
        )  # fmt: skip
        _, parsed = self.exit_of(content, token)
        self.assertEqual(parsed.get_content().strip(), "Größe")
        self.assertEqual(parsed.get_content_charset(), "utf-8")

    def test_html_is_dropped_where_a_plain_text_stands_beside_it(self):
        token, secret = word(), word("secret")
        body = (
            "--b\r\nContent-Type: text/plain\r\n\r\nplain words\r\n"
            f"--b\r\nContent-Type: text/html\r\n\r\n<p class={secret}>words<img src=http://track.test/{secret}>\r\n--b--\r\n"
        )
        headers = ["MIME-Version: 1.0", "Content-Type: multipart/alternative; boundary=b"]
        raw, _ = self.exit_of(message(self.a.alias, OUTSIDE, token, body, headers), token)
        self.assertIn(b"plain words", raw)
        self.assertNotIn(secret.encode(), raw)

    def test_another_sender_is_refused_and_never_rewritten(self):
        for sender in (self.b.alias, "someone@else.test", f"x{self.a.alias}"):
            token = word()
            content = message(sender, OUTSIDE, token)
            with self.subTest(sender=sender):
                code, _ = refusal_of(lambda: submit(self.a, OUTSIDE, content, sender=sender))
                self.assertIn(code, (550, 553, 554))
                code, _ = refusal_of(lambda: submit(self.a, OUTSIDE, content))
                self.assertIn(code, (550, 553, 554))
                for name in ("Sender", "Reply-To"):
                    besides = message(self.a.alias, OUTSIDE, token, headers=[f"{name}: {sender}"])
                    self.assertIn(refusal_of(lambda: submit(self.a, OUTSIDE, besides))[0], (550, 553, 554))
                self.assertEqual(self.sink.with_word(token), [])

    def test_references_to_messages_that_are_not_held_do_not_leave(self):
        token, secret = word(), word("secret")
        headers = [f"In-Reply-To: <{secret}@elsewhere.test>", f"References: <{secret}@elsewhere.test>"]
        raw, _ = self.exit_of(message(self.a.alias, OUTSIDE, token, headers=headers), token)
        self.assertNotIn(secret.encode(), raw)

    def test_threads_hold_though_no_identifier_of_the_client_leaves(self):
        """M1 goes out, is answered outside, and the answer is answered: each end sees one thread by its own names."""
        first, answer, second = word(), word(), word()
        content = message(self.a.alias, OUTSIDE, first, headers=[f"Message-ID: <{first}@laptop.home>"])
        raw, sent = self.exit_of(content, first)
        self.assertNotIn(b"laptop.home", raw)
        outside = sent["Message-ID"]
        self.assertRegex(outside, r"^<[a-z0-9]{16}@relay\.test>$")
        headers = [f"Message-ID: <{answer}@out.test>", f"In-Reply-To: {outside}", f"References: {outside}"]
        deliver(self.world.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, answer, headers=headers))
        held = Inbox(self.a).wait_for(answer)[0]
        for field in ("In-Reply-To", "References"):
            self.assertIn(f"{field}: <{first}@laptop.home>\r\n".encode(), held)
        self.assertNotIn(outside.encode(), held)
        headers = [
            f"Message-ID: <{second}@laptop.home>", f"In-Reply-To: <{answer}@out.test>",
            f"References: <{first}@laptop.home>\r\n <{answer}@out.test>",
        ]  # fmt: skip
        raw, sent = self.exit_of(message(self.a.alias, OUTSIDE, second, headers=headers), second)
        self.assertEqual(sent["In-Reply-To"], f"<{answer}@out.test>")
        self.assertEqual(sent["References"].split(), [outside, f"<{answer}@out.test>"])
        self.assertNotIn(b"laptop.home", raw)

    def test_what_was_sent_under_another_alias_is_not_named(self):
        first, second = word(), word()
        other = self.a.new_alias()
        self.exit_of(message(self.a.alias, OUTSIDE, first, headers=[f"Message-ID: <{first}@laptop.home>"]), first)
        headers = [f"References: <{first}@laptop.home>"]
        submit(self.a, OUTSIDE, message(other, OUTSIDE, second, headers=headers), sender=other)
        raw = wait_until(lambda: self.sink.with_word(second), 30, "the message outside")[0].content
        self.assertNotIn(b"References", raw)

    def test_an_answer_leaves_under_the_alias_that_was_written_to(self):
        other, asked = self.a.new_alias(), f"{word()}@out.test"
        question = word()
        content = message(OUTSIDE, other, question, headers=[f"Message-ID: <{asked}>"])
        deliver(self.world.relay.mx, OUTSIDE, other, content)
        Inbox(self.a).wait_for(question)
        local = f"{self.a.user}@localhost"
        for named, sender, expected in ((local, local, other), (self.a.alias, local, self.a.alias)):
            with self.subTest(named=named):
                token = word()
                content = message(named, OUTSIDE, token, headers=[f"In-Reply-To: <{asked}>"])
                submit(self.a, OUTSIDE, content, sender=sender)
                outside = wait_until(lambda: self.sink.with_word(token), 30, "the answer")[0]
                parsed = email.message_from_bytes(outside.content, policy=email.policy.default)
                self.assertEqual((parsed["From"], outside.reverse_path), (expected, expected))
                self.assertEqual(parsed["In-Reply-To"], f"<{asked}>" if expected == other else None)

    def test_blind_recipients_stay_blind(self):
        token = word()
        content = message(self.a.alias, OUTSIDE, token)
        submit(self.a, [OUTSIDE, "blind@out.test"], content)
        both = wait_until(lambda: len(self.sink.with_word(token)) == 2 and self.sink.with_word(token), 30, "both")
        for delivery in both:
            self.assertEqual(len(delivery.recipients), 1, "one recipient a transaction")
            self.assertNotIn(b"blind", delivery.content)

    def test_two_deliveries_of_one_message_are_the_same_octets(self):
        token = word()
        self.sink.misbehave("DOT", "451 4.3.0 later", times=1)
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
        wait_until(lambda: self.sink.with_word(token), 60, "the second try")
        offered = [delivery.content for delivery in self.sink.offered if token.encode() in delivery.content]
        self.assertEqual(len(offered), 2)
        self.assertEqual(offered[0], offered[1])

    def test_what_leaves_is_well_formed(self):
        token = word()
        raw, parsed = self.exit_of(message(self.a.alias, OUTSIDE, token, "x" * 900 + " über\r\n"), token)
        self.assertIsNone(re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw))
        self.assertLessEqual(max(map(len, raw.split(b"\r\n"))), 998)
        self.assertEqual(parsed.defects, [])
        for name in ("From", "To", "Subject", "Date", "Message-ID"):
            self.assertEqual(len(parsed.get_all(name)), 1, name)


def settled_world():
    """A system whose sender keeps HTML and has told the bridge who he is."""
    world = World()
    settings = world.a.data / "bridge.toml"
    world.a.stop()
    text = "".join(line for line in settings.read_text().splitlines(True) if not line.startswith("html"))
    settings.write_text('html = "keep"\nreal_addresses = ["Me@Work.example", "Alice Liddell"]\n' + text)
    world.a.start()
    world.a.settled()
    return world


class Settled(Leaving):
    make = staticmethod(settled_world)

    def letter(self, token, body, *headers):
        return message(self.a.alias, OUTSIDE, token, body, ["MIME-Version: 1.0", *headers])

    def test_html_that_is_kept_is_written_anew_with_its_pictures(self):
        token, secret = word(), word("secret")
        body = (
            f"--b\r\nContent-Type: text/html\r\n\r\n<html><head><style>.{secret}{{}}</style></head><!-- {secret} -->"
            f"<p class={secret} onclick={secret}>Hello <a href=https://x.test/>there</a><script>{secret}</script>"
            f"<img src=cid:{secret}@laptop.home alt=cat><img src=https://track.test/{secret}>\r\n"
            f"--b\r\nContent-Type: image/png\r\nContent-ID: <{secret}@laptop.home>\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\nAAECAw==\r\n--b--\r\n"
        )
        raw, parsed = self.exit_of(self.letter(token, body, "Content-Type: multipart/related; boundary=b"), token)
        self.assertNotIn(secret.encode(), raw)
        kinds = [part.get_content_type() for part in parsed.walk()]
        self.assertEqual(
            kinds, ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
        )
        page = '<p>Hello <a href="https://x.test/">there</a><img src="cid:image.1@part" alt="cat"></p>'
        self.assertEqual(parsed.get_body(("html",)).get_content(), page)
        picture = list(parsed.walk())[-1]
        self.assertEqual((picture["Content-ID"], picture.get_content()), ("<image.1@part>", b"\0\1\2\3"))

    def test_a_trace_of_the_user_is_refused_with_its_place_and_passes_when_meant(self):
        quoted = "Content-Transfer-Encoding: quoted-printable"
        for body, headers, place in [
            ("hello\r\n\r\nyours, alice  LIDDELL\r\n", (), "line 3 of the text"),
            ("> To: m=65=40work.ex=\r\nample\r\n", (quoted,), "the quotation in line 1 of the text"),
            ("x", ("Cc: Alice Liddell <c@out.test>",), "To or Cc"),
            ("<a href=mailto:me%40work.example>x</a>", ("Content-Type: text/html",), "the HTML"),
            ("x", ("Content-Type: application/pdf; name=alice_liddell.pdf",), "the name of file 1"),
        ]:
            token = word()
            with self.subTest(place=place):
                text = self.refused(self.letter(token, body, *headers))
                self.assertIn("5.7.1", text)
                self.assertIn(place, text)
                self.assertNotIn("work.example", text.lower())
                raw, _ = self.exit_of(self.letter(token, body, "X-Postern-Pass: traces", *headers), token)
                self.assertNotIn(b"Postern", raw)

    def test_openpgp_that_names_somebody_else_is_refused(self):
        def armour(name):
            return (ARMOURS / f"{name}.asc").read_text().replace("\n", "\r\n")

        for name in ("key-other", "key-certified", "key-own"):
            self.assertIn("an OpenPGP key or block names someone else", self.refused(self.letter(word(), armour(name))))
        for name in ("clear-other", "sig-other", "packed", "clear-own"):
            self.assertIn("a signature names its signer", self.refused(self.letter(word(), armour(name))))
        token = word()
        raw, _ = self.exit_of(self.letter(token, armour("encrypted")), token)
        self.assertIn(b"-----BEGIN PGP MESSAGE-----\r\n\r\n", raw)
        self.assertNotIn(b"canary", raw)

    def test_a_signature_passes_when_asked_for_and_verifies_and_the_user_is_warned(self):
        if not shutil.which("gpg"):
            self.skipTest("gpg is not installed")
        token, secret = word(), word("secret")
        part = "Content-Type: text/plain; charset=us-ascii\r\n\r\nMeet me  \r\n\tat noon.\r\n"
        with tempfile.TemporaryDirectory() as home:

            def gpg(*options, octets=b""):
                command = ["gpg", "--homedir", home, "--batch", "--yes", "--passphrase", "", "--pinentry-mode", "loopback"]
                return subprocess.run([*command, *options], input=octets, capture_output=True, check=True).stdout

            gpg("--quick-gen-key", "signer@out.test", "ed25519", "sign", "never")
            try:
                signature = gpg("--armor", "--comment", secret, "--detach-sign", octets=part.encode()).decode()
                signature = signature.replace("\n", "\r\n")
                body = (
                    f"--{secret}\r\n{part}\r\n--{secret}\r\nContent-Type: application/pgp-signature; name={secret}.asc\r\n\r\n"
                    f"{signature}\r\n--{secret}--\r\n"
                )
                kind = f'Content-Type: multipart/signed; protocol="application/pgp-signature"; boundary={secret}'
                self.assertIn("X-Postern-Pass", self.refused(self.letter(token, body, kind)))
                raw, parsed = self.exit_of(self.letter(token, body, kind, "X-Postern-Pass: signed"), token)
                self.assertNotIn(secret.encode(), raw)
                signed = raw.split(b"--=_signed\r\n")[1].removesuffix(b"\r\n")
                self.assertEqual(signed, part.encode())
                detached = Path(home) / "detached"
                detached.write_bytes(parsed.get_payload()[1].get_payload(decode=True))
                gpg("--verify", str(detached), "-", octets=signed)
            finally:
                subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        Inbox(self.a).wait_for("names its signer")
