"""Which reports a sender wants (RFC 3461): asked for with real programs, honoured by the relay, and told to nobody else.

A receipt that does not come when it was asked for, or a report that comes though it was not wanted, is a promise broken; a word of
the client's own that leaves with the mail names its user.
"""

import email
import email.utils
import smtplib

from clients import Inbox, message, smtp_talk, split_address
from desk import Desk, needs
from harness import BINARIES, OUTSIDE, word
from processes import wait_until


class Wanted(Desk):
    def setUp(self):
        super().setUp()
        self.inbox = Inbox(self.a)
        self.secret = word("secret")
        self.host, self.port = split_address(self.a.smtp)
        self.addCleanup(self.sink.behave)

    def reports(self, token):
        """Reports about the message with this word, as Python reads them: by recipient, its fields and those of the message."""
        found = []
        for content in self.inbox.with_word(token):
            parsed = email.message_from_bytes(content)
            if parsed.get_content_type() != "multipart/report":
                continue
            self.assertEqual(parsed.get_param("report-type"), "delivery-status")
            date = email.utils.parsedate_to_datetime(parsed["Date"])
            self.assertEqual(date.timestamp() % 3_600, 0, "a report's Date is no finer than the operator's bucket")
            status = parsed.get_payload()[1]
            self.assertEqual(status.get_content_type(), "message/delivery-status")
            whole, *each = status.get_payload()
            for fields in each:
                found.append((fields["Final-Recipient"].removeprefix("rfc822; "), fields["Action"], fields, whole))
        return sorted(found, key=lambda report: report[0])

    def restart(self, settings):
        relay = self.world.relay
        relay.stop()
        relay.settings = settings
        relay.start()

    def submit(self, token, asked, envelope_id=None):
        """Submits to recipients, each with its parameters."""
        options = ["RET=HDRS", f"ENVID={envelope_id}"] if envelope_id else []
        with smtplib.SMTP(self.host, self.port, timeout=60) as client:
            client.login(self.a.user, self.a.password)
            self.assertTrue(client.has_extn("dsn"))
            self.assertEqual(client.mail(self.a.alias, options)[0], 250)
            for recipient, parameters in asked.items():
                self.assertEqual(client.rcpt(recipient, parameters)[0], 250)
            self.assertEqual(client.data(message(self.a.alias, OUTSIDE, token))[0], 250)

    def test_each_recipient_is_reported_as_was_asked_for_and_nothing_of_it_leaves(self):
        token = self.token
        for who in ("silent", "told", "receipt-alone", "plain"):
            self.sink.misbehave("RCPT", "550 5.1.1 no", recipient=f"{who}-bad@")
        asked = {
            "receipt@out.test": ["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;{self.secret}+2Bx@laptop.home"],
            "silent-bad@out.test": ["NOTIFY=NEVER"],
            "silent@out.test": ["NOTIFY=NEVER"],
            "told-bad@out.test": ["NOTIFY=FAILURE"],
            "receipt-alone-bad@out.test": ["NOTIFY=SUCCESS"],
            "plain-bad@out.test": [],
            "plain@out.test": [],
        }
        self.submit(token, asked, f"{self.secret}+20+3D1")
        wait_until(lambda: len(self.reports(token)) >= 3, 60, "the reports")
        wait_until(lambda: not self.world.relay.queue(), 60, "an empty queue")
        reports = self.reports(token)
        expected = [("plain-bad@out.test", "failed"), ("receipt@out.test", "relayed"), ("told-bad@out.test", "failed")]
        self.assertEqual([report[:2] for report in reports], expected)
        originals = [fields["Original-Recipient"] for *_, fields, _ in reports]
        self.assertEqual(originals, [None, f"rfc822; {self.secret}+x@laptop.home", None])
        for *_, fields, whole in reports:
            self.assertEqual(whole["Original-Envelope-Id"], f"{self.secret} =1")
            self.assertEqual(fields["Status"], "2.0.0" if fields["Action"] == "relayed" else "5.1.1")
        self.assertEqual(len(self.sink.with_word(token)), 3)
        for delivery in self.sink.offered:
            self.assertNotIn(self.secret.encode(), delivery.content)
            for command in delivery.commands:
                for telling in (self.secret, "laptop.home", "NOTIFY", "ORCPT", "ENVID", "RET="):
                    self.assertNotIn(telling, command)
        for log in self.world.logs():
            self.assertNotIn(self.secret.encode(), log.read_bytes())

    def test_delay_is_told_to_whom_wants_it_alone(self):
        relay = self.world.relay
        before = dict(relay.settings)
        self.addCleanup(self.restart, before)
        self.restart({**before, "delay_notice_s": 0, "retry_s": [1, 1]})
        self.sink.misbehave("RCPT", "450 4.2.1 not now", recipient="slow-")
        asked = {"slow-told@out.test": ["NOTIFY=DELAY"], "slow-failed@out.test": ["NOTIFY=FAILURE"], "slow-never@out.test": ["NOTIFY=NEVER"]}
        self.submit(self.token, asked)
        wait_until(lambda: len(self.reports(self.token)) >= 2, 60, "two reports")
        wait_until(lambda: not relay.queue(), 60, "an empty queue")
        told = [report[:2] for report in self.reports(self.token)]
        self.assertEqual(told, [("slow-failed@out.test", "failed"), ("slow-told@out.test", "delayed")])

    def test_sendmail_asks_by_its_options(self):
        command = [BINARIES / "postern", "sendmail", "--dir", self.a.data, "-i"]
        text = f"Subject: {self.token}\n\nx\n"
        self.program(*command, "-N", "success", "-R", "hdrs", "-V", f"{self.secret}=1", OUTSIDE, text=text)
        [(recipient, action, _, whole)] = wait_until(lambda: self.reports(self.token), 60, "the receipt")
        self.assertEqual((recipient, action), (OUTSIDE, "relayed"))
        self.assertEqual(whole["Original-Envelope-Id"], f"{self.secret}=1")
        self.assertEqual(self.program(*command, "-N", "always", OUTSIDE, text=text, check=False).returncode, 64)

    @needs("msmtp")
    def test_msmtp_asks_by_its_options(self):
        rc = self.file(
            "msmtprc",
            f"defaults\nauth plain\ntls off\nhost {self.host}\nport {self.port}\naccount default\nfrom {self.a.alias}\n"
            f"user {self.a.user}\npassword {self.a.password}\n",
        )
        words = ("--dsn-return=headers", OUTSIDE)
        self.program("msmtp", "-C", rc, "--dsn-notify=success", *words, text=f"Subject: {self.token}\n\nx\n")
        [(recipient, action, *_)] = wait_until(lambda: self.reports(self.token), 60, "the receipt")
        self.assertEqual((recipient, action), (OUTSIDE, "relayed"))

    @needs("mutt")
    def test_mutt_asks_by_its_settings(self):
        rc = self.set_up("mutt", "muttrc")
        with rc.open("a") as more:
            # Through /usr/sbin/sendmail mutt says -N and -R.
            sendmail = f"{BINARIES / 'postern'} sendmail --dir {self.a.data} -oem -oi"
            more.write(f'unset smtp_url\nset sendmail="{sendmail}" dsn_notify="success,failure" dsn_return="hdrs"\n')
        self.program("mutt", "-nF", rc, "-s", self.token, OUTSIDE, text="hello\n")
        [(recipient, action, *_)] = wait_until(lambda: self.reports(self.token), 60, "the receipt")
        self.assertEqual((recipient, action), (OUTSIDE, "relayed"))

    def test_what_is_malformed_is_refused_and_the_mx_offers_nothing(self):
        with smtp_talk(self.a.smtp, self.a) as talk:
            for command, code in (
                (f"MAIL FROM:<{self.a.alias}> ENVID=a=b", "501 5.5.4"),
                (f"MAIL FROM:<{self.a.alias}> RET=HDRS RET=HDRS", "501 5.5.4"),
                (f"MAIL FROM:<{self.a.alias}> RET=HDRS ENVID=a+2Bb", "250"),
                (f"RCPT TO:<{OUTSIDE}> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
                (f"RCPT TO:<{OUTSIDE}> ORCPT=rfc822;{'a' * 494}", "501 5.5.4"),
                (f"RCPT TO:<{OUTSIDE}> NOTIFY=SUCCESS ORCPT=rfc822;a@b", "250"),
            ):
                self.assertTrue(talk.command(command)[1].startswith(code), command)
        with smtp_talk(self.world.relay.mx) as talk:
            self.assertTrue(talk.command("MAIL FROM:<x@y.test> RET=HDRS")[1].startswith("555 5.5.4"))
            talk.command("MAIL FROM:<x@y.test>")
            self.assertTrue(talk.command(f"RCPT TO:<{self.a.alias}> NOTIFY=SUCCESS")[1].startswith("555 5.5.4"))


class Unknown(Desk):
    """Text whose charset nobody named."""

    def submit(self, content, recipient=OUTSIDE):
        with smtplib.SMTP(*split_address(self.a.smtp), timeout=60) as client:
            client.login(self.a.user, self.a.password)
            client.sendmail(self.a.alias, [recipient], content)

    def restart(self):
        self.world.relay.stop()
        self.world.relay.start()

    def test_it_leaves_octet_for_octet_in_8bit(self):
        body = bytes(range(128, 256)) + b"\r\ncaf\xe9\r\n"
        self.submit(message(self.a.alias, OUTSIDE, self.token, "") + body)
        delivery = wait_until(lambda: self.sink.with_word(self.token), 60, "the message outside")[0]
        head, _, left = delivery.content.partition(b"\r\n\r\n")
        self.assertEqual(left, body)
        self.assertIn(b"Content-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: 8bit", head)
        mail = [command for command in delivery.commands if command.startswith("MAIL")][-1]
        self.assertTrue(mail.endswith(" BODY=8BITMIME"), mail)

    def test_a_host_without_8bitmime_does_not_get_it_and_the_sender_hears(self):
        self.sink.misbehave("EHLO", "250 sink.test")
        # No line is left that has heard another offer, neither now nor behind this.
        self.addCleanup(self.restart)
        self.addCleanup(self.sink.behave)
        self.restart()
        self.submit(message(self.a.alias, OUTSIDE, self.token, "") + b"caf\xe9\r\n")
        inbox = Inbox(self.a)
        report = inbox.wait_for(self.token)[0]
        self.assertIn(b"Action: failed\r\nStatus: 5.6.3\r\n", report)
        self.assertEqual(self.sink.with_word(self.token), [])
