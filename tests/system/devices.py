"""Several devices on one account: a laptop and a desk that have one name, one purse and one mailbox.

What goes wrong where this goes wrong: a message that one of them has and the other does not, value that is spent twice or
counted twice, a device that was lost and still reads along. Both ends and the relay die in between, and whoever gives the same
command again must end where they wanted to be.
"""

import json
import random
import time

from clients import deliver, message, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, by_extent, word
from processes import run, wait_until

KEYS, VALUE = 2_000, 10_000_000
PRICES = {"message": 1_000, "kilobyte": 10, "key": 7, "inbound_message": 100}


class Devices(Hazard):
    @staticmethod
    def make():
        return World(holders=("a",), keys=KEYS, value=VALUE, prices=PRICES)

    def setUp(self):
        self.relay, self.a, self.folder = self.world.relay, self.world.a, self.world.folder.path

    def pack(self, name):
        """A bridge that is not there yet, and the file of its pack."""
        bridge = Bridge(self.folder, name, self.world.proxy.address)
        return bridge, self.folder / f"{name}.pack"

    def make_device(self, bridge, file, of=None, keys=100, check=True):
        options = ["--keys", keys, "--passphrase-file", bridge.passphrase, "--dir", (of or self.a).data]
        return run(BINARIES / "postern", "keypack", "device", file, *options, check=check)

    def begin(self, bridge, file):
        bridge.init(file)
        self.world.bridges.append(bridge)
        self.addCleanup(self.end, bridge)
        bridge.start()
        return bridge

    def end(self, bridge):
        """One device less, however the test ended: there are eight at most."""
        bridge.kill()
        self.world.bridges.remove(bridge)
        number = self.listed(bridge.name)
        if number:
            self.drop(number, check=False)

    def add(self, name):
        before = {device["number"] for device in self.devices(self.a)["devices"]}
        bridge, file = self.pack(name)
        self.make_device(bridge, file)
        numbers = {device["number"] for device in self.devices(self.a)["devices"]} - before - {1}
        self.numbers[name] = numbers.pop()
        return self.begin(bridge, file)

    numbers = {}

    def listed(self, name):
        number = self.numbers.get(name)
        known = [device["number"] for device in self.devices(self.a)["devices"]]
        return number if number in known else None

    def drop(self, number, of=None, check=True):
        data = (of or self.a).data
        return run(BINARIES / "postern", "keypack", "drop", number, "--yes", "--dir", data, check=check)

    def devices(self, of):
        return json.loads(run(BINARIES / "postern", "keypack", "devices", "--dir", of.data, "--json").stdout)

    def mail_in(self, alias):
        token = word()
        deliver(self.relay.mx, OUTSIDE, alias, message(OUTSIDE, alias, token))
        return token

    def debited(self, kind):
        return sum(row["debit"] for row in self.a.statement() if row["kind"] == kind)

    def times(self, kind):
        return sum(row["count"] for row in self.a.statement() if row["kind"] == kind)

    def agree(self, *bridges):
        """Waits until all show the same value, which is that of the relay's books."""

        def same():
            for bridge in bridges:
                # Asks the relay for the value too.
                self.devices(bridge)
            seen = {(now["balance"], now["credits"], now["debits"]) for now in (b.settled() for b in bridges)}
            return seen.pop() if len(seen) == 1 else None

        balance, credits, debits = wait_until(same, 30, "the same value at all devices")
        self.assertEqual(credits - debits, balance)
        report = self.relay.audit()
        self.assertEqual(report["totals"]["credits"] - report["totals"]["debits"], report["totals"]["balances"])
        self.assertEqual(report["totals"]["balances"], balance)


class TwoDevices(Devices):
    def test_mail_comes_to_both_and_either_answers(self):
        b = self.add("desk")
        self.assertEqual(b.status()["aliases"], [self.a.alias])
        self.a.inbox().wait_for(f"Device {self.numbers['desk']} joined your account")
        paid, sent = self.debited("inbound"), self.times("message")
        tokens = [self.mail_in(self.a.alias) for _ in range(3)]
        for bridge in (self.a, b):
            inbox = bridge.inbox()
            for token in tokens:
                self.assertEqual(len(inbox.wait_for(token)), 1)
        # Served twice, paid for once; and then nothing of it is left at the relay.
        wait_until(lambda: self.relay.totals()["deposits"] == 0, 30, "all that was confirmed to be gone")
        self.agree(self.a, b)
        self.assertEqual(self.debited("inbound") - paid, 3 * PRICES["inbound_message"])
        for bridge in (b, self.a):
            token = word()
            submit(bridge, OUTSIDE, message(self.a.alias, OUTSIDE, token), sender=self.a.alias)
            wait_until(lambda: self.world.sink.with_word(token), 30, "an answer from either")
        self.agree(self.a, b)
        self.assertEqual(self.a.statement(), b.statement())
        self.assertEqual(self.times("message") - sent, 2)

    def test_an_alias_of_one_is_the_others_too(self):
        b = self.add("names")
        new = b.new_alias()
        wait_until(lambda: new in self.a.status()["aliases"], 30, "the alias at the other device")
        token = self.mail_in(new)
        for bridge in (self.a, b):
            bridge.inbox().wait_for(token)
        self.a.command("alias", "close", new)
        wait_until(lambda: new not in b.status()["aliases"], 30, "the alias closed at both")
        of = lambda bridge: sorted(
            (alias["number"], alias["address"], alias["open"])
            for alias in json.loads(bridge.command("alias", "list", "--json").stdout)["aliases"]
        )
        self.assertEqual(of(self.a), of(b))

    def test_a_dropped_device_reads_nothing_more(self):
        b, c = self.add("lost"), self.add("kept")
        keys = self.a.settled()["keys"]
        listed = {device["number"]: device for device in self.devices(c)["devices"]}
        self.assertEqual(self.devices(c)["own"], self.numbers["kept"])
        self.assertEqual(set(listed), {1, self.numbers["lost"], self.numbers["kept"]})
        self.assertNotIn("dropped", self.drop(99, check=False).stdout)
        self.drop(self.numbers["lost"], of=c)
        token = self.mail_in(self.a.alias)
        for bridge in (self.a, c):
            bridge.inbox().wait_for(token)
        left = {device["number"]: device for device in self.devices(self.a)["devices"]}
        self.assertEqual(set(left), {1, self.numbers["kept"]})
        self.assertGreater(left[self.numbers["kept"]]["keys"], 100)
        self.assertLessEqual(self.a.settled()["keys"], keys)
        b.stop()
        b.start(wait=False)
        time.sleep(3)
        self.assertFalse(b.status()["linked"])
        self.assertEqual(b.inbox().with_word(token), [])
        wait_until(lambda: self.relay.totals()["deposits"] == 0, 30, "nothing to wait for the dropped device")
        self.agree(self.a, c)

    def test_a_device_makes_itself_safe_from_copies(self):
        b = self.add("own")
        b.command("activate", "--code-to", self.folder / "own.code")
        self.assertEqual((b.settled()["root"], self.a.settled()["root"]), (1, 0))
        token = self.mail_in(self.a.alias)
        for bridge in (self.a, b):
            bridge.inbox().wait_for(token)
        self.agree(self.a, b)

    def test_nothing_is_lost_or_paid_twice_when_one_dies(self):
        b = self.add("dies")
        draw = random.Random()
        for _ in range(by_extent(2, 24)):
            victim = draw.choice([self.relay, self.a, b])
            point = f"{draw.choice(['segment', 'slots', 'slab'])}.{draw.choice(['write', 'sync'])}"
            point = f"{point}:{draw.randrange(1, 9)}:{draw.choice(['before', 'after'])}"
            with self.subTest(victim=victim.name, point=point):
                victim.stop()
                victim.start("--kill-at", point, wait=False)
                time.sleep(1)
                try:
                    tokens = [self.mail_in(self.a.alias)]
                except OSError:
                    tokens = []
                victim.kill()
                victim.start()
                tokens.append(self.mail_in(self.a.alias))
                for bridge in (self.a, b):
                    bridge.settled()
                    inbox = bridge.inbox()
                    for token in tokens:
                        self.assertEqual(len(inbox.wait_for(token)), 1)
                self.agree(self.a, b)

    def test_a_device_is_made_whatever_dies(self):
        draw = random.Random()
        for number in range(by_extent(2, 24)):
            bridge, file = self.pack(f"made{number}")
            before = {device["number"] for device in self.devices(self.a)["devices"]} or {1}
            victim = draw.choice([self.relay, self.a])
            point = f"{draw.choice(['segment', 'slots', 'slab'])}.{draw.choice(['write', 'sync'])}"
            point = f"{point}:{draw.randrange(1, 9)}:{draw.choice(['before', 'after'])}"
            with self.subTest(victim=victim.name, point=point):
                victim.stop()
                victim.start("--kill-at", point, wait=False)
                time.sleep(1)
                first = self.make_device(bridge, file, keys=16, check=False)
                victim.kill()
                victim.start()
                self.a.settled()
                if first.returncode:
                    self.make_device(bridge, file, keys=16)
                made = {device["number"] for device in self.devices(self.a)["devices"]} - before
                self.assertEqual(len(made), 1)
                self.numbers[bridge.name] = made.pop()
                self.begin(bridge, file)
                wait_until(lambda: self.a.alias in bridge.status()["aliases"], 30, "the account's alias")
                self.agree(self.a, bridge)
