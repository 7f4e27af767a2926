"""kill -9 at any instant: what was acknowledged is there afterwards, once, and paid once (invariants 3, 4 and 5).

The interesting instants lie between two writes, where power goes and a message exists half: told to its sender as
accepted and lost, or spooled twice, or debited twice. Random kills find the wide windows; kills at every named
operation of the disk find the narrow ones.
"""

import random
import re
import smtplib
import threading
import time
from collections import Counter

import figures
from clients import Inbox, deliver, message, submit
from harness import OUTSIDE, Hazard, World, by_extent, word
from processes import wait_until

# What a pack is worth here: the load of the long form would use an ordinary one up, and then nothing is sent any more.
VALUE = 10**13

FILES = ["segment", "index", "slots", "slab"]
POINTS = [f"{file}.write:{{}}:{moment}" for file in FILES for moment in ("before", "torn", "after")]
POINTS += [f"{file}.sync:{{}}:{moment}" for file in FILES for moment in ("before", "after")]


class Load:
    """Mail both ways without end, and a note of every acknowledgement."""

    def __init__(self, world):
        self.world = world
        self.sent, self.unsure, self.received = [], [], []
        self._going = threading.Event()
        ways = [lambda: self._send(world.a), lambda: self._send(world.b), self._receive]
        self._threads = [threading.Thread(target=self._keep, args=(way,), daemon=True) for way in ways]

    def __enter__(self):
        self._going.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._going.clear()
        for thread in self._threads:
            thread.join(60)

    def _keep(self, way):
        while self._going.is_set():
            try:
                way()
            except OSError:
                time.sleep(0.05)
            time.sleep(0.02)

    def _send(self, holder):
        token = word("out")
        try:
            submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token))
            self.sent.append(token)
        except smtplib.SMTPResponseException:
            raise
        except OSError:
            self.unsure.append(token)
            raise

    def _receive(self):
        token = word("in")
        deliver(self.world.relay.mx, OUTSIDE, self.world.a.alias, message(OUTSIDE, self.world.a.alias, token))
        self.received.append(token)


class Crash(Hazard):
    def setUp(self):
        self.relay, self.sink = self.world.relay, self.world.sink
        self.kills = []

    def kill(self, victim):
        self.kills.append(time.time())
        victim.kill()

    def judge(self, load):
        """Everything acknowledged is there once, and everything that was taken is paid once."""
        self.assertGreater(len(load.sent), 0)
        self.assertGreater(len(load.received), 0)
        self.world.relink()
        wait_until(lambda: all(self.sink.with_word(token) for token in load.sent), 120, "all that was acknowledged")
        statuses = [bridge.settled(120) for bridge in self.world.bridges]
        wait_until(lambda: not self.relay.queue(), 120, "an empty queue")
        self._judge_inbox(load)
        self._judge_duplicates()
        self._judge_money(statuses)

    def _judge_inbox(self, load):
        """Every acknowledged message is in INBOX, and none twice, acknowledged or not."""
        inbox = self.world.__dict__.setdefault("inbox_of_a", Inbox(self.world.a))

        def tokens():
            return Counter(re.findall(rb"Subject: (in\w+)", b"".join(inbox.refresh().values())))

        expected = {token.encode() for token in load.received}
        wait_until(lambda: expected <= set(tokens()), 60, "all acknowledged mail in INBOX")
        self.assertEqual({token: times for token, times in tokens().items() if times > 1}, {})

    def _judge_duplicates(self):
        """Twice at the recipient only where the sender died after the dot, and then the same octets."""
        by_subject = {}
        for delivery in self.sink.offered:
            subject = next(line for line in delivery.content.split(b"\r\n") if line.startswith(b"Subject:"))
            by_subject.setdefault(subject, []).append(delivery)
        for deliveries in by_subject.values():
            self.assertEqual(len({delivery.content for delivery in deliveries}), 1, "duplicates differ")
            for delivery in deliveries[:-1]:
                killed = any(abs(kill - delivery.at) < 2 for kill in self.kills)
                self.assertTrue(killed, "a duplicate without a kill at its final dot")

    def _judge_money(self, statuses):
        taken = len({delivery.content for delivery in self.sink.delivered})
        prices = self.relay.prices
        totals = self.relay.audit()["totals"]
        self.assertEqual(totals["credits"] - totals["debits"], totals["balances"])
        self.assertEqual(totals["balances"], sum(status["balance"] for status in statuses))
        for_keys = totals["debits"] - taken * figures.price(prices, 1)
        self.assertEqual(for_keys % prices["key"], 0, "something but keys and messages was debited")
        keys_used = sum(5_000 - status["keys"] for status in statuses)
        self.assertTrue(0 <= for_keys // prices["key"] <= keys_used, "messages are not debited once each")


class RandomInstants(Crash):
    def test_nothing_is_lost_or_paid_twice_by_kills_at_random_instants(self):
        seed = random.randrange(1 << 32)
        draw = random.Random(seed)
        with self.subTest(seed=seed):
            with Load(self.world) as load:
                for _ in range(by_extent(20, 100)):
                    time.sleep(draw.uniform(0.1, 1.0))
                    victim = draw.choice([self.relay, self.relay, self.world.a, self.world.b])
                    self.kill(victim)
                    victim.start()
                time.sleep(1)
            self.judge(load)


class EveryOperation(Crash):
    @staticmethod
    def make():
        return World(value=VALUE)

    def test_a_kill_at_each_named_disk_operation_loses_nothing(self):
        draw = random.Random()
        for point in POINTS:
            for victim in (self.relay, self.world.a):
                for count in by_extent([draw.randrange(2, 12)], [1, 3, draw.randrange(4, 60)]):
                    with self.subTest(point=point.format(count), victim=victim.name):
                        self.die_at(victim, point.format(count))

    def die_at(self, victim, point):
        """Runs `victim` under load until it dies at `point`, starts it again and judges."""
        victim.stop()
        with Load(self.world) as load:
            victim.start("--kill-at", point, wait=False)
            wait_until(lambda: not victim.process.running, 30, f"the end at {point}")
            self.kills.append(time.time())
            self.assertEqual(victim.process.wait(), -9)
            victim.start()
            time.sleep(1)
        self.judge(load)
