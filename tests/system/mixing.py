"""Mail that asks to be mixed waits in the relay's pool and leaves in rounds, each message once, whatever kills the relay."""

import json
import smtplib
import unittest
import urllib.request

from clients import message, split_address, submit
from entry import Nested
from harness import OUTSIDE, Hazard, World, word
from peers import Chain
from processes import wait_until

#: Rounds of a second; three stay, and what has been there for 20 seconds leaves anyway.
MIX = {"round_s": 1, "least": 3, "least_paranoid": 6, "rounds_paranoid": 2, "percent": 50, "hold_s": 20}


def mixing():
    return World(mix=MIX)


class Pool(Hazard):
    make = staticmethod(mixing)

    def setUp(self):
        self.relay, self.sink, self.a, self.b = self.world.relay, self.world.sink, self.world.a, self.world.b

    def send(self, holder, how):
        """Sends a message that is to be mixed so, and returns the word by which it is known."""
        mark = word("mark")
        submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, mark, headers=[f"X-Postern-Mix: {how}"]))
        return mark

    def came(self, mark):
        """How often a message reached the outside."""
        return sum(mark.encode() in delivery.content for delivery in self.sink.delivered)

    def pooled(self):
        return [row for row in self.relay.queue() if row["pooled"]]

    def test_a_relay_that_is_killed_with_a_full_pool_releases_each_once(self):
        marks = [self.send(holder, how) for how in ("mixed", "mixed", "paranoid") for holder in (self.a, self.b)]
        for holder in (self.a, self.b):
            holder.settled()
        wait_until(lambda: len(self.relay.queue()) == len(self.pooled()), 20, "a pool, and nothing beside it")
        before = len(self.pooled())
        self.assertGreaterEqual(before, 3, "so many stay")
        self.relay.kill()
        self.relay.start()
        self.assertGreaterEqual(len(self.pooled()), 3, "a restart releases nothing by itself")
        wait_until(lambda: not self.relay.queue(), 40, "what was held for long")
        self.assertEqual([self.came(mark) for mark in marks], [1] * len(marks))
        for delivery in self.sink.delivered:
            self.assertNotIn(b"x-postern-mix", delivery.content.lower())
        self.relay.audit()

    def test_a_relay_that_mixes_nothing_refuses_and_says_so(self):
        told = json.loads(self.a.command("mix", "--json").stdout)
        self.assertEqual([offer["least"] for offer in told["offer"]["profiles"]], [3, 6])
        self.assertIn("few left the pool", self.a.command("mix").stdout)
        self.restart(None)
        self.addCleanup(self.restart, MIX)
        mark = self.send(self.a, "paranoid")
        self.assertIn(b"not mix mail", self.a.inbox().wait_for(mark, seconds=20)[0])
        self.assertEqual(self.came(mark), 0)
        self.assertIn("mixes nothing", self.a.command("mix").stdout)
        fast = self.send(self.a, "fast")
        wait_until(lambda: self.came(fast) == 1, 10, "mail behind it")

    def test_a_receipt_of_mixed_mail_is_refused(self):
        with smtplib.SMTP(*split_address(self.a.smtp), timeout=60) as client:
            client.login(self.a.user, self.a.password)
            for how, code in (("mixed", 554), ("fast", 250)):
                text = message(self.a.alias, OUTSIDE, word(), headers=[f"X-Postern-Mix: {how}"])
                client.mail(self.a.alias)
                client.rcpt(OUTSIDE, ["NOTIFY=SUCCESS"])
                answer = client.data(text)
                self.assertEqual(answer[0], code, answer)
                client.rset()

    def test_a_failure_of_mixed_mail_is_told_in_the_end(self):
        self.sink.misbehave("RCPT", "550 5.1.1 no", recipient=OUTSIDE)
        self.addCleanup(self.sink.behave)
        marks = [self.send(holder, "mixed") for _ in range(2) for holder in (self.a, self.b)]
        for mark, holder in zip(marks, (self.a, self.b) * 2):
            report = holder.inbox().wait_for(mark, seconds=120)[0]
            self.assertIn(b"Action: failed\r\nStatus: 5.1.1\r\n", report)
        self.assertEqual(self.relay.queue(), [])

    def test_mixed_mail_leaves_in_rounds_and_fast_mail_at_once(self):
        wait_until(lambda: not self.relay.queue(), 40, "an empty pool")
        marks = [self.send(holder, "mixed") for _ in range(2) for holder in (self.a, self.b)]
        wait_until(lambda: sum(map(self.came, marks)) == 1, 20, "one that left, of four")
        rows = self.pooled()
        self.assertEqual(len(rows), 3, "three stay")
        for row in rows:
            self.assertEqual(set(row), {"row", "age", "attempts", "kilobytes", "due", "pooled", "last"})
        fast = self.send(self.a, "fast")
        wait_until(lambda: self.came(fast) == 1, 10, "mail that does not wait")
        refused = self.relay.command("queue", "retry", str(rows[0]["row"]), check=False)
        self.assertIn("pool", refused.stderr)
        self.assertEqual(sum(map(self.came, marks)), 1, "nor does a word of the operator's release any")

    def restart(self, mix):
        self.relay.mix = mix
        self.relay.stop()
        self.relay.start()
        for holder in (self.a, self.b):
            wait_until(lambda holder=holder: holder.status()["linked"], 30, "a new link")


#: One message stays, and leaves after four seconds anyway.
SHORT = {"round_s": 1, "least": 1, "least_paranoid": 1, "rounds_paranoid": 0, "percent": 100, "hold_s": 4}


def chain():
    """Three relays in a row."""
    return Chain(mix=SHORT)


def mixed(relay):
    """How many deliveries left a relay's pool."""
    page = urllib.request.urlopen(f"http://{relay.web}/metrics", timeout=10).read().decode()
    return next(int(line.split()[1]) for line in page.splitlines() if line.startswith("postern_mixed_total "))


class Way(Hazard):
    make = staticmethod(chain)

    def setUp(self):
        self.w = self.world

    def send(self):
        """Sends a message that is to be mixed, and returns the word by which it is known."""
        token = word()
        submit(self.w.a, OUTSIDE, message("me@localhost", OUTSIDE, token, headers=["X-Postern-Mix: mixed"]))
        return token

    def test_each_relay_of_the_way_mixes_and_one_that_does_not_refuses(self):
        token = self.send()
        wait_until(lambda: self.w.sink.with_word(token), 60, "the message outside")
        self.assertEqual([mixed(relay) for relay in self.w.relays.values()], [1, 1, 1])
        self.w.far.mix = None
        self.w.far.stop()
        self.w.far.start()
        wait_until(lambda: self.w.linked("middle") == 2, 30, "the links of middle")
        token = self.send()
        report = self.w.a.inbox().wait_for(token, seconds=60)[0]
        self.assertIn(b"5.3.3", report)
        self.assertEqual(self.w.sink.with_word(token), [])


class ByAnEntry(Hazard):
    """What nobody settled is mixed behind an entry: mail that leaves at once joins the two lines by its time."""

    make = staticmethod(lambda: Nested(mix=SHORT))

    def send(self, *headers):
        token = word()
        submit(self.world.a, OUTSIDE, message("me@localhost", OUTSIDE, token, headers=headers))
        wait_until(lambda: self.world.sink.with_word(token), 60, "the message outside")

    def standing(self, how):
        wait_until(lambda: self.world.a.status()["mix"] == how, 60, f"mail that is {how} by itself")

    def test_mail_is_mixed_by_itself_where_the_far_relay_has_a_pool(self):
        self.world.a.settled()
        self.standing("mixed")
        self.send()
        self.assertEqual([mixed(self.world.far), mixed(self.world.entry)], [1, 0])
        self.send("X-Postern-Mix: fast")
        self.assertEqual(mixed(self.world.far), 1, "what a message says counts")
        self.world.far.mix = None
        self.world.far.stop()
        self.world.far.start()
        self.standing("fast")
        self.assertIn("no pool", self.world.a.command("status").stdout)
        self.send()


if __name__ == "__main__":
    unittest.main(verbosity=2)
