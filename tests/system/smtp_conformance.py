"""SMTP at both doors: submission at the bridge, the MX at the relay (RFC 5321, 6409, 4954, 1870, 2920, 2034).

Mail programs forgive little, and what a server forgives is an attacker's tool: a bare line feed taken for an end of
line has let strangers smuggle whole messages into other people's mail.
"""

import base64
import smtplib
import ssl

from clients import CRLF, Inbox, deliver, message, refusal_of, smtp_talk, split_address, submit
from harness import DOMAIN, OUTSIDE, Hazard, World, word
from processes import Folder, run, wait_until
from smtp_vectors import DOORS, false_ends


class BothDoors(Hazard):
    """What holds at the bridge and at the MX alike."""

    def doors(self):
        """Name, a fresh conversation, sender and recipient of each door."""
        a = self.world.a
        yield "bridge", smtp_talk(a.smtp, a), a.alias, OUTSIDE
        yield "mx", smtp_talk(self.world.relay.mx), OUTSIDE, a.alias

    def each(self):
        for name, talk, sender, recipient in self.doors():
            with self.subTest(door=name), talk:
                yield talk, sender, recipient

    def test_the_greeting_and_the_offered_extensions(self):
        for talk, _, _ in self.each():
            self.assertEqual(talk.greeting[0], 220)
            code, text = talk.hello
            self.assertEqual(code, 250)
            for extension in ("SIZE", "8BITMIME", "PIPELINING", "ENHANCEDSTATUSCODES", "CHUNKING"):
                self.assertIn(extension, text)

    def test_commands_out_of_order_get_503(self):
        for talk, sender, recipient in self.each():
            self.assertEqual(talk.command(f"RCPT TO:<{recipient}>")[0], 503)
            self.assertEqual(talk.command("DATA")[0], 503)
            self.assertEqual(talk.command(f"MAIL FROM:<{sender}>")[0], 250)
            self.assertEqual(talk.command(f"MAIL FROM:<{sender}>")[0], 503)
            self.assertIn(talk.command("DATA")[0], (503, 554))

    def test_small_verbs(self):
        for talk, sender, _ in self.each():
            self.assertEqual(talk.command("NOOP")[0], 250)
            self.assertEqual(talk.command("noop")[0], 250)
            self.assertIn(talk.command("VRFY someone")[0], (252, 502, 550))
            self.assertIn(talk.command("XYZZY")[0], (500, 502))
            self.assertEqual(talk.command("MAIL FROM:<a@b")[0] // 100, 5)
            self.assertEqual(talk.command(f"MAIL FROM:<{sender}> XYZZY=1")[0], 555)
            self.assertEqual(talk.command(f"mail from:<{sender}>")[0], 250)
            self.assertEqual(talk.command("RSET")[0], 250)
            self.assertEqual(talk.command("QUIT")[0], 221)
            self.assertTrue(talk.ended(5))

    def test_pipelined_commands_are_answered_in_order(self):
        for talk, sender, recipient in self.each():
            talk.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 354])
            talk.send(message(sender, recipient, word()) + b".\r\nQUIT\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(2)], [250, 221])

    def test_a_declared_size_beyond_the_bound_is_refused_at_mail(self):
        for talk, sender, _ in self.each():
            code, text = talk.command(f"MAIL FROM:<{sender}> SIZE=999999999999")
            self.assertEqual((code, text[4:9]), (552, "5.3.4"))
            self.assertEqual(talk.command(f"MAIL FROM:<{sender}> SIZE=1000")[0], 250)

    def test_a_command_line_beyond_the_bound_is_refused_and_the_session_lives(self):
        for talk, _, _ in self.each():
            self.assertEqual(talk.command(b"NOOP " + b"x" * 5000)[0] // 100, 5)
            self.assertEqual(talk.command("NOOP")[0], 250)

    def test_every_vector_gets_its_codes(self):
        a = self.world.a
        doors = {
            "mx": (self.world.relay.mx, None, {"sender": OUTSIDE, "recipient": a.alias}),
            "bridge": (a.smtp, a, {"sender": a.alias, "recipient": OUTSIDE}),
        }
        for door, vectors in DOORS.items():
            self.assertGreaterEqual(len(vectors), 120)
            address, holder, words = doors[door]
            words |= {"domain": DOMAIN, "other": "x@elsewhere.test"}
            for name, exchanges in vectors:
                with self.subTest(door=door, vector=name), smtp_talk(address, holder) as talk:
                    self._say(talk, exchanges, words)

    def _say(self, talk, exchanges, words):
        for line, codes in exchanges:
            try:
                if isinstance(line, bytes):
                    talk.send(line)
                    code, text = talk.reply()
                else:
                    code, text = talk.command(line.format(**words))
            except OSError:
                code, text = 0, "hung up"
            self.assertIn(code, codes if isinstance(codes, tuple) else (codes,), f"{line!r}: {text}")

    def test_no_false_end_of_data_ends_a_message(self):
        forms = false_ends()
        self.assertGreaterEqual(len(forms), 40)
        token = word("smuggled")
        for _, _, sender, recipient in self.doors():
            for end in forms:
                with self.subTest(sender=sender, end=end):
                    self._smuggle(sender, recipient, end, token, False)
                with self.subTest(sender=sender, end=end, chunks=True):
                    self._smuggle(sender, recipient, end, token, True)
        after = word()
        deliver(self.world.relay.mx, OUTSIDE, self.world.a.alias, message(OUTSIDE, self.world.a.alias, after))
        inbox = Inbox(self.world.a)
        inbox.wait_for(after)
        arrived = inbox.with_word(token) + [delivery.content for delivery in self.world.sink.with_word(token)]
        for content in arrived:
            self.assertNotIn(f"subject: {token}".encode(), content.partition(b"\r\n\r\n")[0].lower())

    def _smuggle(self, sender, recipient, end, token, in_chunks):
        a = self.world.a
        inner = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
        inner += message(sender, recipient, token)
        text = message(sender, recipient, word()) + b"one" + end + inner
        with smtp_talk(a.smtp, a) if sender == a.alias else smtp_talk(self.world.relay.mx) as talk:
            talk.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(2)], [250, 250])
            if in_chunks:
                # The false end lies across the two chunks.
                cut = len(text) - len(inner) - len(end) // 2
                talk.send(b"BDAT %d\r\n%bBDAT %d LAST\r\n%bNOOP\r\n" % (cut, text[:cut], len(text) - cut, text[cut:]))
                codes = [talk.reply()[0] for _ in range(3)]
                self.assertIn(codes, ([250, 250, 250], [250, 550, 250], [250, 554, 250], [550, 503, 250]))
            else:
                talk.send(b"DATA\r\n")
                self.assertEqual(talk.reply()[0], 354)
                talk.send(text + b".\r\nNOOP\r\n")
                codes = [talk.reply()[0] for _ in range(2)]
                self.assertIn(codes, ([250, 250], [550, 250], [554, 250]))
            talk.send("QUIT\r\n")
            self.assertEqual(talk.reply()[0], 221, "text was read as commands")

    def test_floods_are_bounded_and_hold_nobody_up(self):
        for talk, sender, recipient in self.each():
            talk.send("NOOP\r\n" * 5_000)
            self.assertEqual({talk.reply()[0] for _ in range(5_000)}, {250})
            talk.send("XYZZY\r\n" * 100)
            codes = [talk.reply()[0] for _ in range(27)]
            self.assertEqual((codes[-2:], set(codes[:-2])), ([421, 0], {500}))

    def test_all_in_one_segment_octet_by_octet(self):
        for talk, sender, recipient in self.each():
            said = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nBDAT 9\r\nSubject: BDAT 6 LAST\r\nx\r\n\r\ny"
            for octet in said.encode() + b"QUIT\r\n":
                talk.send(bytes([octet]))
            self.assertEqual([talk.reply()[0] for _ in range(5)], [250, 250, 250, 250, 221])

    def test_an_aborted_message_leaves_nothing(self):
        token = word()
        for talk, sender, recipient in self.each():
            talk.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 354])
            talk.send(message(sender, recipient, token) + b"half a li")
        after = word()
        deliver(self.world.relay.mx, OUTSIDE, self.world.a.alias, message(OUTSIDE, self.world.a.alias, after))
        inbox = Inbox(self.world.a)
        inbox.wait_for(after)
        self.assertEqual(inbox.with_word(token), [])
        self.assertEqual(self.world.sink.with_word(token), [])

    def test_many_messages_on_one_connection(self):
        for talk, sender, recipient in self.each():
            for _ in range(20):
                self.assertEqual(talk.command(f"MAIL FROM:<{sender}>")[0], 250)
                self.assertEqual(talk.command(f"RCPT TO:<{recipient}>")[0], 250)
                self.assertEqual(talk.command("DATA")[0], 354)
                talk.send(message(sender, recipient, word()) + b".\r\n")
                self.assertEqual(talk.reply()[0], 250)

    def test_too_many_recipients_are_told_apart_from_refused_ones(self):
        a = self.world.a
        with smtp_talk(a.smtp, a) as talk:
            talk.command(f"MAIL FROM:<{a.alias}>")
            codes = [talk.command(f"RCPT TO:<r{number}@out.test>")[0] for number in range(130)]
            self.assertEqual(codes[:100], [250] * 100)
            self.assertEqual(set(codes[100:]), {452})


class Submission(Hazard):
    """The bridge's door."""

    def setUp(self):
        self.a = self.world.a

    def test_nothing_is_taken_without_a_login(self):
        with smtp_talk(self.a.smtp) as talk:
            self.assertRegex(talk.hello[1], r"AUTH .*PLAIN")
            self.assertRegex(talk.hello[1], r"AUTH .*LOGIN")
            self.assertEqual(talk.command(f"MAIL FROM:<{self.a.alias}>")[0], 530)

    def test_plain_and_login_let_the_user_in(self):
        for mechanism in ("PLAIN", "LOGIN"):
            with self.subTest(mechanism=mechanism), smtplib.SMTP(*split_address(self.a.smtp)) as client:
                client.ehlo()
                client.user, client.password = self.a.user, self.a.password
                authenticate = client.auth_plain if mechanism == "PLAIN" else client.auth_login
                self.assertEqual(client.auth(mechanism, authenticate)[0], 235)

    def test_plain_without_an_initial_response_works(self):
        with smtp_talk(self.a.smtp) as talk:
            code, _ = talk.command("AUTH PLAIN")
            self.assertEqual(code, 334)
            token = base64.b64encode(f"\0{self.a.user}\0{self.a.password}".encode())
            self.assertEqual(talk.command(token)[0], 235)

    def test_a_wrong_password_gets_535(self):
        with smtp_talk(self.a.smtp) as talk:
            token = base64.b64encode(f"\0{self.a.user}\0wrong".encode()).decode()
            self.assertEqual(talk.command(f"AUTH PLAIN {token}")[0], 535)
            self.assertEqual(talk.command("AUTH PLAIN !!!!")[0] // 100, 5)
            self.assertEqual(talk.command("AUTH CRAM-MD5")[0], 504)
            self.assertEqual(talk.command(f"MAIL FROM:<{self.a.alias}>")[0], 530)

    def test_a_cancelled_login_gets_501(self):
        with smtp_talk(self.a.smtp) as talk:
            self.assertEqual(talk.command("AUTH LOGIN")[0], 334)
            self.assertEqual(talk.command("*")[0], 501)

    def test_an_unroutable_recipient_syntax_is_refused(self):
        with smtp_talk(self.a.smtp, self.a) as talk:
            talk.command(f"MAIL FROM:<{self.a.alias}>")
            for path in ("no-at-sign", "a@", "@b.test", "a b@c.test", "a@b..test", "<x@y.test"):
                with self.subTest(path=path):
                    self.assertEqual(talk.command(f"RCPT TO:<{path}>")[0] // 100, 5)

    def test_eight_bit_text_is_taken_with_8bitmime(self):
        token = word()
        with smtplib.SMTP(*split_address(self.a.smtp)) as client:
            client.login(self.a.user, self.a.password)
            headers = [
                "MIME-Version: 1.0",
                "Content-Type: text/plain; charset=utf-8",
                "Content-Transfer-Encoding: 8bit",
            ]
            content = message(self.a.alias, OUTSIDE, token, f"grüße {token}\r\n", headers)
            client.sendmail(self.a.alias, [OUTSIDE], content, mail_options=["BODY=8BITMIME"])
        wait_until(lambda: self.world.sink.with_word(token), 30, "the message outside")

    def test_submission_survives_clients_that_vanish(self):
        for stage in ("", "EHLO x\r\n", "EHLO x\r\nAUTH PLAIN\r\n", "EHLO x\r\nAUTH LOGIN\r\nZm9v\r\n"):
            talk = smtp_talk(self.a.smtp)
            talk.send(stage)
            talk.close()
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, word()))


class MailExchanger(Hazard):
    """The relay's door to the world."""

    def setUp(self):
        self.a, self.mx = self.world.a, self.world.relay.mx

    def code_at_rcpt(self, recipient, sender=OUTSIDE):
        with smtp_talk(self.mx) as talk:
            self.assertEqual(talk.command(f"MAIL FROM:<{sender}>")[0], 250)
            return talk.command(f"RCPT TO:<{recipient}>")

    def test_an_unknown_recipient_is_refused_at_rcpt(self):
        code, text = self.code_at_rcpt(f"nobody@{DOMAIN}")
        self.assertEqual((code, text[4:9]), (550, "5.1.1"))

    def test_other_domains_are_not_relayed(self):
        for recipient in (
            "x@elsewhere.test",
            f"x%elsewhere.test@{DOMAIN}",
            f"@{DOMAIN}:x@elsewhere.test",
            f"x@sub.{DOMAIN}",
        ):
            with self.subTest(recipient=recipient):
                self.assertIn(self.code_at_rcpt(recipient)[0], (550, 551, 553, 554))

    def test_no_login_is_offered_and_none_taken(self):
        with smtp_talk(self.mx) as talk:
            self.assertNotIn("AUTH", talk.hello[1])
            self.assertEqual(talk.command("AUTH PLAIN AGEAYg==")[0] // 100, 5)

    def test_addresses_are_matched_without_case(self):
        local, _, domain = self.a.alias.partition("@")
        self.assertEqual(self.code_at_rcpt(f"{local.upper()}@{domain.upper()}")[0], 250)

    def test_the_null_reverse_path_is_taken(self):
        token = word()
        deliver(self.mx, "", self.a.alias, message("mailer@out.test", self.a.alias, token))
        Inbox(self.a).wait_for(token)

    def test_postmaster_and_abuse_are_answered(self):
        for recipient in (f"postmaster@{DOMAIN}", f"Abuse@{DOMAIN}", "postmaster"):
            with self.subTest(recipient=recipient):
                self.assertEqual(self.code_at_rcpt(recipient)[0], 250)

    def test_a_message_that_goes_in_circles_is_refused(self):
        headers = [f"Received: from a by b; Thu, 1 Jan 2026 00:00:{second:02} +0000" for second in range(60)] * 2
        content = message(OUTSIDE, self.a.alias, word(), headers=headers)
        code, text = refusal_of(lambda: deliver(self.mx, OUTSIDE, self.a.alias, content))
        self.assertEqual((code, text[:5]), (554, "5.4.6"))

    def test_a_message_beyond_the_bound_is_refused_with_552(self):
        def deliver_too_much():
            with smtp_talk(self.mx) as talk:
                bound = int(talk.hello[1].partition("SIZE ")[2].split()[0])
                talk.send(f"MAIL FROM:<{OUTSIDE}>\r\nRCPT TO:<{self.a.alias}>\r\nDATA\r\n")
                self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 354])
                line, sent = b"x" * 998 + CRLF, 0
                while sent <= bound:
                    talk.send(line * 1000)
                    sent += len(line) * 1000
                talk.send(".\r\n")
                return talk.reply()

        code, text = deliver_too_much()
        self.assertEqual((code, text[4:9]), (552, "5.3.4"))

    def test_an_alias_that_was_closed_is_refused(self):
        alias = self.a.new_alias()
        wait_until(lambda: self.code_at_rcpt(alias)[0] == 250, 30, "the new alias")
        token = word()
        deliver(self.mx, OUTSIDE, alias, message(OUTSIDE, alias, token))
        Inbox(self.a).wait_for(token)
        self.a.command("alias", "close", alias)
        wait_until(lambda: self.code_at_rcpt(alias)[0] == 550, 30, "the closed alias")

    def test_one_message_to_two_aliases_reaches_both(self):
        token = word()
        deliver(self.mx, OUTSIDE, [self.a.alias, self.world.b.alias], message(OUTSIDE, "both", token))
        for holder in (self.a, self.world.b):
            self.assertEqual(len(Inbox(holder).wait_for(token)), 1)

    def test_a_message_in_utf8_arrives_as_it_was(self):
        token = word()
        content = message("grå@bücher.test", self.a.alias, f"Grüße {token}", "grüße\r\n")
        with smtp_talk(self.mx) as talk:
            talk.send(f"MAIL FROM:<grå@bücher.test> SMTPUTF8\r\nRCPT TO:<{self.a.alias}>\r\n")
            talk.send(b"BDAT %d LAST\r\n%b" % (len(content), content))
            self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 250])
        self.assertEqual(Inbox(self.a).wait_for(token), [content])


class SecretWorld(World):
    """A relay whose MX has a certificate."""

    def __init__(self):
        self.papers = Folder()
        key, certificate = (str(self.papers.path / name) for name in ("key.pem", "certificate.pem"))
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={DOMAIN}"]
        run(*new, "-addext", f"subjectAltName=DNS:{DOMAIN}", "-keyout", key, "-out", certificate)
        super().__init__(holders=("a",), mx_certificate=certificate, mx_key=key)

    def close(self):
        super().close()
        self.papers.remove()


class UnderTls(Hazard):
    """STARTTLS at the MX (RFC 3207)."""

    make = SecretWorld

    def setUp(self):
        self.a, self.mx = self.world.a, self.world.relay.mx
        self.context = ssl.create_default_context(cafile=self.world.relay.settings["mx_certificate"])

    def shaken(self):
        """A conversation right after the handshake."""
        talk = smtp_talk(self.mx)
        self.assertEqual(talk.command("STARTTLS")[0], 220)
        talk.socket = self.context.wrap_socket(talk.socket, server_hostname=DOMAIN)
        talk.file = talk.socket.makefile("rb")
        return talk

    def test_a_message_comes_in_under_tls(self):
        token = word()
        with smtplib.SMTP(*split_address(self.mx), timeout=60) as client:
            client._host = DOMAIN
            client.starttls(context=self.context)
            self.assertIn(client.sock.version(), ("TLSv1.2", "TLSv1.3"))
            client.sendmail(OUTSIDE, [self.a.alias], message(OUTSIDE, self.a.alias, token))
        Inbox(self.a).wait_for(token)

    def test_nothing_said_before_the_handshake_counts(self):
        with smtp_talk(self.mx) as talk:
            self.assertIn("STARTTLS", talk.hello[1])
            self.assertEqual(talk.command("STARTTLS now")[0], 501)
            self.assertEqual(talk.command(f"MAIL FROM:<{OUTSIDE}>")[0], 250)
        with self.shaken() as talk:
            self.assertEqual(talk.command(f"RCPT TO:<{self.a.alias}>")[0], 503)
            self.assertEqual(talk.command(f"MAIL FROM:<{OUTSIDE}>")[0], 503)
            code, offered = talk.command("EHLO client.test")
            self.assertEqual(code, 250)
            self.assertNotIn("STARTTLS", offered)
            self.assertEqual(talk.command("STARTTLS")[0], 503)

    def test_what_is_injected_behind_starttls_ends_the_session(self):
        with smtp_talk(self.mx) as talk:
            talk.send("STARTTLS\r\nNOOP\r\n")
            self.assertEqual(talk.reply()[0], 421)
            self.assertTrue(talk.ended(5))
        with smtp_talk(self.mx) as talk:
            self.assertEqual(talk.command("STARTTLS")[0], 220)
            talk.send("EHLO injected\r\nNOOP\r\n")
            self.assertTrue(talk.ended(5))

    def test_old_versions_of_tls_are_refused(self):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with smtp_talk(self.mx) as talk:
            self.assertEqual(talk.command("STARTTLS")[0], 220)
            with self.assertRaises((ssl.SSLError, OSError)):
                old.wrap_socket(talk.socket, server_hostname=DOMAIN)
