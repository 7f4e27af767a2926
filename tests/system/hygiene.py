"""What leaves the exit: nothing of the user's client beyond the allow list (invariant 9).

A mail program gives its user away in a dozen headers, in boundaries, in times and time zones, in names of folders.
One byte of that at the recipient's, and the pseudonym is worth little.
"""

import email
import email.policy
import re

from clients import Inbox, deliver, message, refusal_of, submit
from harness import OUTSIDE, Hazard, word
from processes import wait_until

ALLOWED = {
    "from", "to", "cc", "subject", "in-reply-to", "references", "date", "message-id", "mime-version",
    "content-type", "content-transfer-encoding", "content-disposition", "content-id",
}  # fmt: skip


class Hygiene(Hazard):
    def setUp(self):
        self.sink, self.a, self.b = self.world.sink, self.world.a, self.world.b

    def exit_of(self, content, token, recipients=OUTSIDE):
        """Submits through bridge a and returns what the outside world received, raw and parsed."""
        submit(self.a, recipients, content)
        raw = wait_until(lambda: self.sink.with_word(token), 30, "the message outside")[0].content
        return raw, email.message_from_bytes(raw, policy=email.policy.default)

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
