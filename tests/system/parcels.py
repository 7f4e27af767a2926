"""Parcels: mail that reaches the relay without a link, in whatever carries bytes, late, twice, damaged, or not at all.

An acknowledgement by SMTP says nothing but that bytes came. If a repeated, damaged or overtaken parcel were debited twice,
lost another one, or told its carrier anything, nobody could send from a machine that has no line.
"""

import base64
import os
import quopri
import smtplib
import subprocess
import time

import figures
from clients import Inbox, message, split_address, submit, swaks
from harness import BINARIES, OUTSIDE, second_implementation, word
from money import Money
from processes import wait_until

CLASS_1 = 16_000


class Parcels(Money):
    def setUp(self):
        super().setUp()
        self.address = "parcel@" + self.a.alias.split("@")[1]
        wait_until(lambda: not self.waiting(), 60, "the receipts of the test before")

    def seal(self, content, *options, holder=None, check=True):
        """What `postern seal` writes."""
        holder = holder or self.a
        command = [BINARIES / "postern", "seal", "--dir", holder.data, "--passphrase-file", holder.passphrase, *options]
        done = subprocess.run([str(part) for part in command], input=content, capture_output=True, timeout=120)
        if not check:
            return done
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout

    def sealed(self, token, *options, text="hello\r\n", **more):
        return self.seal(message(self.a.alias, OUTSIDE, token, text), *options, **more)

    def waiting(self, holder=None):
        """Indices of the parcels without a receipt."""
        listed = self.seal(b"", "--list", holder=holder).decode().splitlines()
        return [int(line.split()[0]) for line in listed if not line.startswith("       ")]

    def carry(self, mail, expected=250, sender="someone@else.test"):
        """Brings a mail to the relay's MX, as anybody's server does; returns what that says."""
        with smtplib.SMTP(*split_address(self.relay.mx), timeout=120) as client:
            client.ehlo()
            client.mail(sender)
            client.rcpt(self.address)
            code, text = client.data(mail)
        self.assertEqual(code, expected, text)
        return text

    def in_mail(self, octets):
        """A mail as programs write it that attach a file and nothing else."""
        head = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        return head + base64.encodebytes(octets).replace(b"\n", b"\r\n")

    def outside(self, token, count=1):
        wait_until(lambda: len(self.sink.with_word(token)) >= count, 60, "the message outside")
        return self.sink.with_word(token)


class Carriers(Parcels):
    def test_swaks_carries_a_parcel_and_its_price_is_that_of_a_link(self):
        token = word()

        def go():
            mail = self.sealed(token, "--mail")
            sent = swaks(self.relay.mx, "someone@else.test", self.address, "--data", mail.decode())
            self.assertEqual(sent.returncode, 0, sent.stdout)
            self.outside(token)
            wait_until(lambda: not self.waiting(), 60, "the receipt")

        self.assertEqual(self.spent_by(self.a, go), figures.price(self.relay.prices, 1))
        self.books_agree()

    def test_curl_and_msmtp_carry_a_parcel(self):
        host, port = split_address(self.relay.mx)
        for carrier in (
            ["curl", "--silent", "--show-error", f"smtp://{host}:{port}", "--mail-from", "x@else.test", "--mail-rcpt"],
            ["msmtp", f"--host={host}", f"--port={port}", "--from=x@else.test", "--auth=off", "--tls=off", "--"],
        ):
            with self.subTest(carrier=carrier[0]):
                token = word()
                mail = self.sealed(token, "--mail", "--carrier", "x@else.test")
                upload = ["--upload-file", "-"] if carrier[0] == "curl" else []
                done = subprocess.run([*carrier, self.address, *upload], input=mail, capture_output=True, timeout=120)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.outside(token)

    def test_mutt_attaches_the_file(self):
        token, folder = word(), self.world.folder.path
        parcel = folder / "mail.parcel"
        parcel.write_bytes(self.sealed(token))
        self.assertEqual(parcel.stat().st_size, CLASS_1)
        host, port = split_address(self.relay.mx)
        settings = folder / "muttrc"
        settings.write_text(
            f'set smtp_url="smtp://{host}:{port}/"\nset from="x@else.test"\nset use_envelope_from\n'
            "set ssl_starttls=no ssl_force_tls=no copy=no\n"
        )
        command = ["mutt", "-F", str(settings), "-s", "a file", "-a", str(parcel), "--", self.address]
        environment = {**os.environ, "HOME": str(folder)}
        done = subprocess.run(command, input=b"see the file\n", capture_output=True, timeout=120, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.outside(token)

    def test_quoted_printable_is_as_good_as_base64(self):
        token = word()
        parcel = self.sealed(token)
        head = b"Content-Type: application/vnd.postern.parcel\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        text = b"".join(b"=%02X" % octet + (b"=\r\n" if at % 24 == 23 else b"") for at, octet in enumerate(parcel))
        self.assertEqual(quopri.decodestring(text), parcel)
        self.carry(head + text)
        self.outside(token)

    def test_a_large_message_goes_and_a_bridge_need_not_run(self):
        token = word()
        self.a.settled()
        self.a.stop()
        mail = self.sealed(token, "--mail", text=("x" * 70 + "\r\n") * 60_000)
        self.carry(mail)
        self.outside(token)
        self.a.start()
        self.a.settled()
        wait_until(lambda: not self.waiting(), 60, "the receipt")
        self.books_agree()

    def test_the_message_outside_is_what_a_link_would_have_sent(self):
        tokens = [word(), word()]
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, tokens[0]))
        self.carry(self.sealed(tokens[1], "--mail"))
        texts = [self.outside(token)[0].content.replace(token.encode(), b"TOKEN") for token in tokens]
        fields = [[line.split(b":")[0] for line in text.split(b"\r\n\r\n")[0].split(b"\r\n")] for text in texts]
        self.assertEqual(fields[0], fields[1])
        self.assertNotIn(b"else.test", texts[1])


class Ends(Parcels):
    def test_a_parcel_that_comes_twice_is_sent_once_and_paid_once(self):
        token = word()

        def go():
            mail = self.sealed(token, "--mail")
            again = self.sealed_again(self.waiting()[-1])
            self.assertEqual(mail, again, "the same octets")
            answers = {self.carry(mail) for _ in range(3)}
            self.outside(token)
            wait_until(lambda: not self.waiting(), 60, "the receipt")
            answers.add(self.carry(mail))
            self.assertEqual(len(answers), 1)

        self.assertEqual(self.spent_by(self.a, go), figures.price(self.relay.prices, 1))
        self.assertEqual(len(self.sink.with_word(token)), 1)
        self.books_agree()

    def sealed_again(self, index):
        return self.seal(b"", "--mail", "--again", index)

    def test_the_carrier_learns_nothing_of_damage_and_forgery_and_the_true_one_still_comes(self):
        token = word()
        parcel = self.sealed(token)
        received = self.carry(self.in_mail(os.urandom(CLASS_1)))
        for at in (0, 16, 40, 100, 600, 900):
            damaged = bytearray(parcel)
            damaged[at] ^= 1
            self.assertEqual(self.carry(self.in_mail(bytes(damaged))), received, f"octet {at}")
        forged = parcel[:16] + os.urandom(CLASS_1 - 16)
        self.assertEqual(self.carry(self.in_mail(forged)), received)
        self.assertEqual(self.carry(self.in_mail(parcel * 2)), received, "of another class")
        self.assertEqual(self.carry(self.in_mail(parcel)), received)
        self.outside(token)
        self.books_agree()

    def test_what_is_no_parcel_is_refused(self):
        for octets in (b"", b"hello", os.urandom(CLASS_1 - 1), os.urandom(3 * CLASS_1)):
            self.carry(self.in_mail(octets), expected=554)
        self.carry(b"Subject: hello\r\n\r\nno parcel\r\n", expected=554)

    def test_parcels_overtake_each_other_and_the_window_is_full_at_six(self):
        tokens = [word() for _ in range(6)]

        def go():
            mails = [self.sealed(token, "--mail") for token in tokens]
            refused = self.sealed(word(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(b"no receipt yet", refused.stderr)
            self.carry(mails[5])
            self.outside(tokens[5])
            wait_until(lambda: len(self.waiting()) == 5, 60, "its receipt")
            # The window moves with the highest that is answered.
            tokens.append(word())
            mails.append(self.sealed(tokens[6], "--mail"))
            for at in (6, 0, 3, 1, 2, 4, 0, 6):
                self.carry(mails[at])
            for token in tokens:
                self.outside(token)
            wait_until(lambda: not self.waiting(), 60, "all receipts")

        self.assertEqual(self.spent_by(self.a, go), 7 * figures.price(self.relay.prices, 1))
        for token in tokens:
            self.assertEqual(len(self.sink.with_word(token)), 1)
        self.books_agree()

    def test_a_parcel_that_is_refused_costs_nothing_and_its_sender_is_told(self):
        token = word()

        def go():
            self.carry(self.sealed(token, "--mail", "--most", 1))
            wait_until(lambda: not self.waiting(), 60, "the receipt")
            self.assertIn(b"seal it again", quopri.decodestring(Inbox(self.a).wait_for(token)[0]))

        self.assertEqual(self.spent_by(self.a, go), 0)
        self.assertEqual(self.sink.with_word(token), [])

    def test_whenever_the_relay_is_killed_a_parcel_is_sent_once_and_paid_once(self):
        for _ in range(3):
            token = word()

            def go():
                mail = self.sealed(token, "--mail")
                with smtplib.SMTP(*split_address(self.relay.mx), timeout=60) as client:
                    client.ehlo()
                    client.mail("x@else.test")
                    client.rcpt(self.address)
                    client.docmd("DATA")
                    client.send(mail + b".\r\n")
                    time.sleep(0.005)
                    self.relay.kill()
                    client.close()
                self.relay.start()
                self.carry(mail)
                self.outside(token)
                wait_until(lambda: not self.waiting(), 60, "the receipt")

            self.assertEqual(self.spent_by(self.a, go), figures.price(self.relay.prices, 1))
        self.books_agree()

    def test_nobody_opens_an_alias_of_the_parcel_address(self):
        done = self.a.command("alias", "new", "parcel", check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_a_mail_for_an_alias_and_for_the_parcel_address_comes_in_two(self):
        with smtplib.SMTP(*split_address(self.relay.mx), timeout=60) as client:
            client.ehlo()
            client.mail("x@else.test")
            self.assertEqual(client.rcpt(self.a.alias)[0], 250)
            self.assertEqual(client.rcpt(self.address)[0], 452)


class Second(Parcels):
    def test_the_second_implementation_seals_what_the_relay_carries_out(self):
        second = second_implementation()
        passphrase, pack = self.world.folder.path / "p.passphrase", self.world.folder.path / "p.pack"
        passphrase.write_text("second\n")
        self.relay.issue(pack, passphrase, 64, 100_000_000)
        issue = second.open_pack(pack.read_bytes(), b"second")
        chain = second.Chain.from_root("parcel", issue["root"])
        # It has no alias, so the relay refuses: that it says so in a receipt shows that the parcel opened.
        paths = [b"me@x", bytes([1]), OUTSIDE.encode()]
        envelope = bytes([1, 4]) + paths[0] + paths[1] + second.varint(len(OUTSIDE)) + paths[2]
        payload = len(envelope).to_bytes(2, "little") + envelope + b"Subject: x\r\n\r\nx\r\n"
        hop = (10_000_000).to_bytes(8, "little") + (1).to_bytes(2, "little")
        parcel = second.seal_parcel(chain.advance(), os.urandom(16), second.DELIVER, 1, hop, payload, os.urandom)
        before = self.relay.totals()["deposits"]
        self.carry(self.in_mail(parcel))
        wait_until(lambda: self.relay.totals()["deposits"] == before + 1, 30, "a receipt")

