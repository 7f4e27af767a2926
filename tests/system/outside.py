"""The outside world as it is: name servers, hosts that misbehave at every step, TLS that is offered, broken or stripped.

A relay that waits for a host that hangs, loses what a host dropped, or sends its users into its operator's network,
serves nobody.
"""

import os
import random
import shutil
import sys
import unittest
from email import message_from_bytes

from clients import Inbox, deliver, message, submit
from harness import DOMAIN, ROOT, Hazard, World, by_extent, word
from names import KNOT, Certificate, NameServer
from processes import Folder, free_ports, wait_until
from sink import DRIP, DROP, GARBAGE, Sink

STEPS = ("CONNECT", "EHLO", "STARTTLS", "HANDSHAKE", "MAIL", "RCPT", "DATA", "DOT")
WAYS = {"4xx": "451 4.3.0 later", "5xx": "554 5.7.1 go away", "drop": DROP, "garbage": GARBAGE}


class Streets(World):
    """A world whose relay looks up where mail goes. Every host has an address of its own on loopback, and all listen at
    the same port."""

    FIXED = {
        "plain": "127.0.0.3",
        "tls": "127.0.0.4",
        "mirror": "127.0.0.5",
        "second": "127.0.0.6",
        "proven": "127.0.0.7",
    }

    def __init__(self, **settings):
        self.delivery_port = free_ports()
        self.hosts, self.dns = {}, []
        settings = {"dns": self.dns, "smarthost": None, "delivery": "mx", "private_networks": True, **settings}
        super().__init__(delivery_port=self.delivery_port, **settings)

    def prepare(self):
        """Before the relay starts, which needs the name server's address."""
        records = ["post MX 10 mx.post", "mx.post A 127.0.0.1"]
        for name, address in self.FIXED.items():
            records += [f"{name} MX 10 mx.{name}", f"mx.{name} A {address}"]
        records += ["fallback MX 10 mx.dead", "fallback MX 20 mx.plain", "mx.dead A 127.0.0.9"]
        records += ["unlisted A 127.0.0.3", "null MX 0 ."]
        records += ["loop MX 10 relay.test.", "loop MX 20 mx.plain", "empty MX 10 mx.empty", "mx.empty TXT x"]
        records += ["before MX 10 mx.plain", "before MX 20 relay.test."]
        records += ["alias CNAME plain", "literal MX 10 127.0.0.3."]
        records += ["six MX 10 mx.six", "mx.six AAAA ::1"]
        for number, name in enumerate(self.hazards()):
            address = f"127.0.1.{number + 1}"
            self.FIXED[name] = address
            records += [f"{name} MX 10 mx.{name}", f"mx.{name} A {address}"]
        self.names = NameServer(self.folder.path, records)
        self.dns.append(self.names.address)
        self.certificate = Certificate(self.folder.path, "mx.proven.test")

    @staticmethod
    def hazards():
        steps = [f"{step}-{way}".lower() for step in STEPS for way in WAYS]
        return [*steps, *(f"hang-{step}".lower() for step in STEPS), "drip"]

    def open(self, name, tls=None, port=None, **options):
        """Opens the host of this name."""
        sink = Sink(self.FIXED.get(name, "127.0.0.1"), port or self.delivery_port, f"mx.{name}.test", tls, **options)
        self.hosts[name] = sink
        return sink

    def configure(self, **settings):
        """Starts the relay anew with other settings."""
        self.relay.stop()
        self.relay.settings |= settings
        self.relay.start()

    def close(self):
        for sink in self.hosts.values():
            sink.stop()
        self.names.stop()
        super().close()



@unittest.skipUnless(KNOT, "needs knotd")
class Outside(Hazard):
    make = staticmethod(Streets)

    def setUp(self):
        self.relay, self.a = self.world.relay, self.world.a
        self.inbox = Inbox(self.a)

    def send(self, place, who="friend"):
        """Submits a message to somebody at `place`; returns the word in it."""
        token = word()
        recipient = f"{who}@{place}"
        submit(self.a, recipient, message(self.a.alias, recipient, token))
        return token

    def arrives(self, token, sink, seconds=60):
        """Waits for the message at `sink` and returns its delivery."""
        return wait_until(lambda: sink.with_word(token), seconds, "the message at its host")[0]

    def reports(self, token):
        """Reports about the message with this word: action and status of each."""
        found = []
        for content in self.inbox.with_word(token):
            parsed = message_from_bytes(content)
            if parsed.get_content_type() == "multipart/report":
                recipient = parsed.get_payload()[1].get_payload()[1]
                found.append((recipient["Action"], recipient["Status"], recipient))
        return found

    def fails(self, token, status, seconds=60):
        """Waits until the sender is told of the failure, with this status."""
        action, reported, fields = wait_until(lambda: self.reports(token), seconds, "the report")[-1]
        self.assertEqual((action, reported), ("failed", status))
        return fields


class Names(Outside):
    def setUp(self):
        super().setUp()
        hosts = self.world.hosts
        self.plain = hosts.get("plain") or self.world.open("plain")

    def test_mail_goes_to_the_host_that_the_domain_names(self):
        for place in ("plain.test", "PLAIN.Test", "alias.test", "unlisted.test"):
            with self.subTest(place=place):
                delivery = self.arrives(self.send(place), self.plain)
                self.assertEqual(delivery.recipients, [f"friend@{place.lower()}"])

    def test_the_next_host_takes_what_the_first_cannot(self):
        self.arrives(self.send("fallback.test"), self.plain)

    def test_a_host_with_nothing_but_an_address_of_ipv6_is_reached(self):
        try:
            six = Sink("::1", self.world.delivery_port, "mx.six.test")
        except OSError:
            self.skipTest("no IPv6 here")
        self.addCleanup(six.stop)
        self.arrives(self.send("six.test"), six)

    def test_what_names_say_is_final_is_reported_at_once(self):
        for place, status, reason in (
            ("null.test", "5.1.10", "556 5.1.10"),
            ("nowhere.test", "5.1.2", "does not exist"),
            ("empty.test", "5.4.4", "no host"),
            ("literal.test", "5.4.4", "no host"),
        ):
            with self.subTest(place=place):
                fields = self.fails(self.send(place), status)
                self.assertIn(reason, " ".join(fields["Diagnostic-Code"].split()))
                self.assertEqual(fields["Final-Recipient"], f"rfc822; friend@{place}")

    def test_a_name_server_in_trouble_is_asked_again_before_it_is_reported(self):
        token = self.send("x.broken")
        tries = wait_until(lambda: [row["attempts"] for row in self.relay.queue() if row["attempts"]], 30, "a second try")
        self.assertTrue(tries)
        self.fails(token, "5.4.3")

    def test_nothing_is_sent_to_ourselves(self):
        self.fails(self.send("loop.test"), "5.4.6")
        self.arrives(self.send("before.test"), self.plain)
        mirror = self.world.open("mirror")
        mirror.name = DOMAIN
        self.fails(self.send("mirror.test"), "5.4.6")
        self.assertEqual(mirror.offered, [])

    def test_no_domain_leads_into_private_networks(self):
        before = self.plain.connections
        self.world.configure(private_networks=False)
        self.addCleanup(self.world.configure, private_networks=True)
        for place in ("plain.test", "unlisted.test", "six.test", "post.test"):
            with self.subTest(place=place):
                token = self.send(place)
                status = "5.1.2" if place == "unlisted.test" else "5.4.4"
                self.fails(token, status)
        self.assertEqual(self.plain.connections, before)

    def test_the_sender_hears_of_a_delay_once_and_then_of_the_end(self):
        self.world.configure(delay_notice_s=0, retry_s=[1, 1, 1])
        self.addCleanup(self.world.configure, delay_notice_s=14_400, retry_s=[1, 1, 2, 2, 5])
        self.plain.misbehave("RCPT", "450 4.2.1 not now", recipient="slow@")
        self.addCleanup(self.plain.behave)
        token = self.send("plain.test", "slow")
        wait_until(lambda: any(action == "failed" for action, *_ in self.reports(token)), 60, "the last report")
        reports = self.reports(token)
        self.assertEqual([report[:2] for report in reports], [("delayed", "4.2.1"), ("failed", "5.2.1")])
        for *_, fields in reports:
            self.assertEqual(fields["Remote-MTA"], "dns; mx.plain.test")
            self.assertEqual(fields["Diagnostic-Code"], "smtp; 450 4.2.1")


class Secrecy(Outside):
    """TLS, where it is offered and where it is demanded."""

    def setUp(self):
        super().setUp()
        self.certificate = self.world.certificate
        self.tls = self.world.hosts.get("tls") or self.world.open("tls", self.certificate.context())

    def test_tls_is_used_where_it_is_offered_whatever_the_certificate(self):
        delivery = self.arrives(self.send("tls.test"), self.tls)
        self.assertTrue(delivery.secured)
        verbs = [command.split(" ")[0] for command in delivery.commands]
        self.assertEqual(verbs[:3], ["EHLO", "STARTTLS", "EHLO"])

    def test_a_handshake_that_fails_is_followed_by_a_connection_in_the_clear(self):
        for reply in (None, DROP, GARBAGE):
            with self.subTest(reply=reply):
                self.tls.misbehave("HANDSHAKE", reply)
                self.addCleanup(self.tls.behave)
                delivery = self.arrives(self.send("tls.test"), self.tls)
                self.assertFalse(delivery.secured)
                self.tls.behave()

    def test_what_is_said_behind_the_go_ahead_in_the_clear_is_not_believed(self):
        reply = "220 2.0.0 go on\r\n250-mx.tls.test\r\n250 AUTH PLAIN"
        self.tls.misbehave("STARTTLS", reply)
        self.addCleanup(self.tls.behave)
        delivery = self.arrives(self.send("tls.test"), self.tls)
        self.assertFalse(delivery.secured)
        self.assertFalse([command for command in delivery.commands if command.startswith("AUTH")])

    def test_what_demands_a_certificate_never_goes_without(self):
        proven = self.world.open("proven", self.certificate.context())
        self.relay.peers = {"proven.test": {"tls": "require", "ca_file": str(self.certificate.authority)}}
        self.world.configure(retry_s=[1, 1])
        self.addCleanup(self.world.configure, retry_s=[1, 1, 2, 2, 5])
        self.assertTrue(self.arrives(self.send("proven.test"), proven).secured)
        # Somebody in between who offers none, breaks it, or shows a certificate of another name or of nobody known.
        offered = len(proven.offered)
        self.world.configure()
        context, proven.tls = proven.tls, None
        self.fails(self.send("proven.test"), "5.7.4")
        proven.tls = context
        for reply in ("454 4.7.0 not now", DROP):
            with self.subTest(reply=reply):
                proven.misbehave("STARTTLS", reply)
                token = self.send("proven.test")
                wait_until(lambda token=token: self.reports(token), 60, "the report")
                proven.behave()
        self.relay.peers = {"tls.test": self.relay.peers["proven.test"], "proven.test": {"tls": "require"}}
        self.addCleanup(setattr, self.relay, "peers", {})
        self.world.configure()
        for place in ("tls.test", "proven.test"):
            with self.subTest(place=place):
                self.fails(self.send(place), "5.7.5")
        self.assertEqual(len(proven.offered), offered)

    def test_a_password_goes_to_the_proven_smarthost_alone(self):
        folder, port = self.world.folder.path, free_ports()
        certificate = Certificate(folder, "localhost")
        house = self.world.open("house", certificate.context(), port, credentials=("me", "secret words"))
        password = folder / "password"
        password.write_text("secret words\n")
        login = {"tls": "require", "ca_file": str(certificate.authority), "user": "me"}
        self.relay.peers = {f"localhost:{port}": {**login, "password_file": str(password)}}
        self.relay.routes["house.test"] = f"localhost:{port}"
        self.addCleanup(self.world.configure)
        self.addCleanup(self.relay.routes.pop, "house.test")
        self.addCleanup(setattr, self.relay, "peers", {})
        self.world.configure()
        delivery = self.arrives(self.send("house.test"), house)
        self.assertTrue(delivery.secured)
        password.write_text("another\n")
        self.world.configure()
        token = self.send("house.test")
        wait_until(lambda: [row for row in self.relay.queue() if row["attempts"] > 1], 30, "a second try")
        password.write_text("secret words\n")
        self.world.configure()
        self.arrives(token, house)
        self.assertNotIn("secret", self.relay.process.log.read_text())


class Hostile(Outside):
    """Hosts that misbehave at every step: all is delivered or reported, and nobody else waits."""

    def test_whatever_a_host_does_all_is_delivered_or_reported(self):
        context = self.world.certificate.context()
        for times in (2, -1):
            sent = []
            for step in STEPS:
                for way, reply in WAYS.items():
                    name = f"{step}-{way}".lower()
                    sink = self.world.hosts.get(name) or self.world.open(name, context)
                    sink.behave()
                    sink.misbehave(step, reply, times=times)
                    sent += [(sink, self.send(f"{name}.test"), name) for _ in range(2)]
            for sink, token, name in sent:
                with self.subTest(name=name, times=times):

                    def ended(sink=sink, token=token):
                        return sink.with_word(token) or self.reports(token)

                    wait_until(ended, 120, "delivery or report")
            for name in {name for *_, name in sent}:
                self.world.hosts[name].behave()
            wait_until(lambda: not self.relay.queue(), 120, "an empty queue")
        self.relay.audit()

    def test_hosts_that_hang_hold_up_nobody_else(self):
        context = self.world.certificate.context()
        sent, hanging = [], []
        for name in [f"hang-{step}".lower() for step in STEPS] + ["drip"]:
            sink = self.world.hosts.get(name) or self.world.open(name, context)
            step = name.partition("-")[2].upper() or "EHLO"
            sink.misbehave(step, DRIP if name == "drip" else None, wait=0 if name == "drip" else 3_600)
            hanging.append(name)
            for _ in range(by_extent(25, 40)):
                sent.append((name, self.send(f"{name}.test")))
        plain = self.world.hosts.get("plain") or self.world.open("plain")
        for _ in range(20):
            self.arrives(self.send("plain.test"), plain)
        # They come to their senses, or somebody puts others in their place.
        for name in hanging:
            self.world.hosts[name].stop()
            self.world.open(name, context)
        for name, token in sent:
            with self.subTest(name=name):
                self.arrives(token, self.world.hosts[name], 120)
        wait_until(lambda: not self.relay.queue(), 60, "an empty queue")


POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin:/sbin:/bin")


@unittest.skipUnless(POSTFIX and os.geteuid() == 0, "needs Postfix, and root to start it")
class Neighbour(Outside):
    """Postfix, found by its MX record, in both directions."""

    def setUp(self):
        super().setUp()
        sys.path.append(str(ROOT / "tests" / "peers"))
        import servers

        folder = Folder()
        self.addCleanup(folder.remove)
        folder.path.chmod(0o755)
        certificate = Certificate(folder.path, "mx.post.test")
        relay_port = self.relay.mx.rpartition(":")[2]
        self.postfix = servers.Postfix(
            folder.path / "postfix", self.world.delivery_port, "neighbour", relay_port, certificate=certificate
        )
        self.addCleanup(self.postfix.stop)

    def test_mail_goes_both_ways_and_none_is_lost(self):
        draw = random.Random(7)
        count = by_extent(60, 600)
        for number in range(count):
            lines = draw.choice([1, 10, 100, 2_000])
            text = ("." * draw.randrange(3) + "x" * 60 + "\r\n") * lines
            recipients = [f"r{number}-{which}@post.test" for which in range(draw.randrange(1, 3))]
            count += len(recipients) - 1
            submit(self.a, recipients, message(self.a.alias, recipients[0], word(), text))
        wait_until(lambda: self.postfix.mails() >= count, 120, "all mail at Postfix")
        self.assertEqual(self.postfix.mails(), count)
        log = (self.postfix.folder / "log").read_text()
        self.assertIn("TLS connection established from", log)
        self.assertNotIn("warning", log.replace("hash_queue_depth", ""))

        tokens = [word() for _ in range(by_extent(30, 300))]
        for token in tokens:
            at = f"127.0.0.1:{self.world.delivery_port}"
            deliver(at, "friend@post.test", self.a.alias, message("friend@post.test", self.a.alias, token))
        for token in tokens:
            self.inbox.wait_for(token)
        self.assertEqual(self.postfix.queued(), 0)
        self.assertEqual(self.relay.queue(), [])

    def test_an_answer_of_postfix_is_told_to_the_sender(self):
        # Relaying for strangers is what it refuses; this domain's mail comes to it all the same.
        self.relay.routes["stranger.test"] = f"127.0.0.1:{self.world.delivery_port}"
        self.addCleanup(self.world.configure)
        self.addCleanup(self.relay.routes.pop, "stranger.test")
        self.world.configure()
        fields = self.fails(self.send("stranger.test", "gone"), "5.1.1")
        self.assertIn("550 5.1.1", fields["Diagnostic-Code"])
