"""Packs split, given away and merged: what leaves one is in the other, to the key and the micro-token, whatever dies.

A pack is money. A split that is cut off may neither make value out of nothing nor leave keys with nobody, and the person
who gives the same command again must end where they wanted to be.
"""

import datetime
import json
import random
import time

from clients import message, refusal_of, smtp_talk, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, by_extent, word
from processes import run, wait_until

KEYS, VALUE = 1_000, 10_000_000
PRICES = {"message": 1_000, "kilobyte": 10, "key": 7}
KEY = PRICES["key"]


class Management(Hazard):
    @staticmethod
    def make():
        return World(holders=("a",), keys=KEYS, value=VALUE, prices=PRICES)

    def setUp(self):
        self.relay, self.a, self.folder = self.world.relay, self.world.a, self.world.folder.path

    def pack(self, name):
        """A bridge that is not there yet, and the file of its pack."""
        bridge = Bridge(self.folder, name, self.world.proxy.address)
        return bridge, self.folder / f"{name}.pack"

    def split(self, bridge, file, keys, value, verb="split", check=True, of=None):
        options = ["--keys", keys, "--value", value, "--passphrase-file", bridge.passphrase]
        return run(
            BINARIES / "postern", "keypack", verb, file, "--dir", (of or self.a).data, *options, check=check
        )

    def merge(self, other, passphrase, into=None, check=True):
        options = ["--passphrase-file", passphrase, "--relay-via", self.world.proxy.address, "--yes"]
        return run(
            BINARIES / "postern", "keypack", "merge", other, "--dir", (into or self.a).data, *options, check=check
        )

    def expire(self, bridge, *options, check=True):
        return run(BINARIES / "postern", "keypack", "expire", "--yes", "--dir", bridge.data, *options, check=check)

    def code_at_rcpt(self, recipient):
        with smtp_talk(self.relay.mx) as talk:
            talk.send(f"MAIL FROM:<{OUTSIDE}>\r\nRCPT TO:<{recipient}>\r\n")
            return [talk.reply() for _ in range(2)][1]

    def begin(self, bridge, file):
        bridge.init(file)
        self.world.bridges.append(bridge)
        bridge.start()
        self.addCleanup(self.world.bridges.remove, bridge)
        self.addCleanup(bridge.kill)
        return bridge

    def without_keys(self, before, keys):
        """The pack's status once it knows that so many keys left it: a command ends with the relay's answer, and the
        balance is asked for behind it."""

        def knows():
            now = self.a.settled()
            return now if now["keys"] <= before["keys"] - keys else None

        return wait_until(knows, 30, "a status that knows of the split")

    def given(self):
        """µtok that the pack gave away so far, by its own statement."""
        return sum(row["debit"] for row in self.a.statement() if row["kind"] == "given")

    def worth(self, status):
        """What a pack had when its keys were counted: each link since took one and its price."""
        return status["keys"], status["balance"]

    def books_hold(self):
        report = self.relay.audit()["totals"]
        self.assertEqual(report["credits"] - report["debits"], report["balances"])
        self.assertEqual(self.relay.totals()["balances"], report["balances"])


class Split(Management):
    def test_what_leaves_a_pack_is_in_the_new_one(self):
        before, given = self.a.settled(), self.given()
        bridge, file = self.pack("half")
        done = self.split(bridge, file, 300, 2_000_000)
        self.assertIn("300 keys", done.stdout)
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        after = self.without_keys(before, 300)
        self.assertEqual((before["keys"] - after["keys"], before["balance"] - after["balance"]), (300, 2_000_000))
        self.assertEqual(after["credits"] - after["debits"], after["balance"])
        self.books_hold()
        # The new pack is one like any other.
        self.begin(bridge, file)
        status = bridge.settled()
        self.assertEqual((status["keys"], status["balance"]), (299, 2_000_000 - KEY))
        token = word()
        submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token))
        wait_until(lambda: self.world.sink.with_word(token), 30, "mail from the new pack")
        kinds = {row["kind"]: row for row in bridge.statement()}
        self.assertEqual(kinds["received"]["credit"], 2_000_000)
        self.assertEqual(self.given() - given, 2_000_000)
        self.books_hold()

    def test_what_cannot_be_split_changes_nothing(self):
        before = self.a.settled()
        bridge, file = self.pack("none")
        for keys, value, words in [
            (before["keys"], 0, "must stay"),
            (before["keys"] - 15, 0, "must stay"),
            (16, before["balance"] + 1, "µtok are left"),
        ]:
            refused = self.split(bridge, file, keys, value, check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(words, refused.stderr)
            self.assertFalse(file.exists())
            file.with_name(file.name + ".part").unlink()
        self.assertNotEqual(self.split(bridge, file, 15, 0, check=False).returncode, 0)
        self.assertEqual(self.worth(self.a.settled()), self.worth(before))

    def test_a_split_survives_the_death_of_either_end(self):
        draw = random.Random()
        points = [f"{file}.{step}" for file in ("segment", "slots", "slab") for step in ("write", "sync")]
        for number in range(by_extent(3, 40)):
            point, moment = draw.choice(points), draw.choice(["before", "after"])
            victim = draw.choice([self.relay, self.a])
            with self.subTest(victim=victim.name, point=point, moment=moment):
                self.one_death(f"dies{number}", victim, f"{point}:{draw.randrange(1, 9)}:{moment}")

    def one_death(self, name, victim, point):
        bridge, file = self.pack(name)
        before = self.a.settled()
        victim.stop()
        victim.start("--kill-at", point, wait=False)
        # It may die before it serves, within the split, or not at all.
        time.sleep(1)
        first = self.split(bridge, file, 16, 1_000, check=False)
        victim.kill()
        victim.start()
        self.a.settled()
        if first.returncode:
            self.assertFalse(file.exists())
            self.split(bridge, file, 16, 1_000)

        after = self.without_keys(before, 16)
        self.assertEqual(before["credits"], after["credits"])
        links = before["keys"] - 16 - after["keys"]
        self.assertGreaterEqual(links, 0)
        self.assertEqual(before["balance"] - after["balance"], 1_000 + links * KEY)
        self.books_hold()
        # All of it is in the new pack.
        self.begin(bridge, file)
        status = bridge.settled()
        self.assertEqual((status["credits"], status["debits"]), (1_000, (16 - status["keys"]) * KEY))
        bridge.stop()


class Merge(Management):
    def test_a_gift_is_merged_into_a_pack(self):
        bridge, file = self.pack("gift")
        said = self.split(bridge, file, 100, 500_000, verb="gift").stdout
        self.assertIn("panic-wipe", said)
        receiver = self.world.add("receiver", 100, 1_000)
        before = receiver.settled()
        self.merge(file, bridge.passphrase, into=receiver)
        after = wait_until(
            lambda: (now := receiver.settled())["credits"] > before["credits"] and now, 20, "value in the receiver"
        )
        # One key went for the link that released, the last eight stay.
        self.assertEqual(after["keys"], before["keys"] + 100 - 1 - 8)
        self.assertEqual(after["balance"], before["balance"] + 500_000 - KEY)
        self.assertFalse(file.exists())
        self.assertEqual(list(self.folder.glob("gift.pack*")), [])
        self.books_hold()

    def test_a_pack_in_use_is_refused_until_its_aliases_are_closed(self):
        other = self.world.add("other", 200, 300_000)
        other.settled()
        other.stop()
        before = self.a.settled()
        refused = self.merge(other.data, other.passphrase, check=False)
        self.assertIn("open aliases", refused.stderr)
        self.assertEqual(self.worth(self.a.settled()), self.worth(before))
        other.start()
        other.settled()
        other.command("alias", "close", other.alias)
        closed = other.settled()
        other.stop()
        self.merge(other.data, other.passphrase)
        # Done again it changes nothing more.
        self.merge(other.data, other.passphrase)
        self.world.bridges.remove(other)
        after = wait_until(
            lambda: (now := self.a.settled())["credits"] > before["credits"] and now, 20, "value in the pack"
        )
        self.assertEqual(after["keys"], before["keys"] + closed["keys"] - 1 - 8)
        self.assertEqual(after["balance"], before["balance"] + closed["balance"] - KEY)
        self.books_hold()

    def test_a_merge_survives_the_death_of_either_end(self):
        draw = random.Random()
        for number in range(by_extent(3, 24)):
            bridge, file = self.pack(f"merged{number}")
            known = self.a.settled()["keys"]
            self.split(bridge, file, 30, 9_000)
            # The command ends with the answer; what is left is asked for behind it.
            before = wait_until(
                lambda: (now := self.a.settled())["keys"] <= known - 30 and now, 30, "the value after the split"
            )
            victim = draw.choice([self.relay, self.a])
            point = f"segment.{draw.choice(['write', 'sync'])}:{draw.randrange(1, 7)}:{draw.choice(['before', 'after'])}"
            with self.subTest(victim=victim.name, point=point):
                victim.stop()
                victim.start("--kill-at", point, wait=False)
                time.sleep(1)
                first = self.merge(file, bridge.passphrase, check=False) if victim is self.a else None
                victim.kill()
                victim.start()
                self.a.settled()
                if first is None or first.returncode:
                    self.merge(file, bridge.passphrase)
                after = wait_until(
                    lambda: (now := self.a.settled())["credits"] > before["credits"] and now, 30, "value in the pack"
                )
                links = before["keys"] + 30 - 8 - after["keys"]
                self.assertGreaterEqual(links, 1)
                self.assertEqual(after["balance"], before["balance"] + 9_000 - links * KEY)
                self.books_hold()


class End(Management):
    def add(self, name, keys, value):
        bridge = self.world.add(name, keys, value)
        self.addCleanup(self.world.bridges.remove, bridge)
        self.addCleanup(bridge.kill)
        bridge.settled()
        return bridge

    def ended(self, bridge):
        """The status once the bridge has asked what is left."""
        return wait_until(lambda: (now := bridge.settled())["balance"] == 0 and now, 30, "the value gone")

    def lapsed(self, bridge):
        return sum(row["debit"] for row in bridge.statement() if row["kind"] == "lapsed")

    def test_a_pack_that_ended_has_nothing_and_takes_nothing(self):
        ending = self.add("ending", 200, 300_000)
        aliases = [ending.alias, ending.new_alias()]
        before = ending.settled()
        self.assertEqual({self.code_at_rcpt(alias)[0] for alias in aliases}, {250})
        revenue = self.relay.totals()["revenue"]
        done = self.expire(ending)
        for amount in ("2 aliases", f"{before['balance']:,} µtok"):
            self.assertIn(amount, done.stderr)
        self.assertIn("has ended", done.stdout)
        after = self.ended(ending)
        self.assertEqual((after["balance"], after["keys"], after["ended"]), (0, 8, True))
        self.assertEqual((after["credits"], after["debits"]), (300_000, 300_000))
        self.assertEqual(self.relay.totals()["revenue"] - revenue, before["balance"])
        self.assertEqual(self.lapsed(ending), before["balance"])
        self.books_hold()
        unknown = self.code_at_rcpt(f"nobody{aliases[0]}")
        for alias in aliases:
            self.assertEqual(self.code_at_rcpt(alias), unknown)
        self.assertEqual(unknown[0], 550)
        refused = refusal_of(lambda: submit(ending, OUTSIDE, message(aliases[0], OUTSIDE, word())))
        self.assertEqual(refused[0], 552)
        # Done again it changes nothing, and nothing brings it back.
        self.assertIn("has ended", self.expire(ending).stdout)
        self.assertIn("has ended", self.expire(ending, "--never", check=False).stderr)
        self.assertNotEqual(ending.command("alias", "new", check=False).returncode, 0)
        top_up = ["topup", "--account", ending.identifier, "--amount", 5]
        self.assertNotEqual(self.relay.command(*top_up, check=False).returncode, 0)
        # The last keys still link, for what waits.
        ending.stop()
        ending.start()
        wait_until(lambda: ending.settled()["keys"] == 7, 30, "one key fewer")
        listed = run(BINARIES / "postern", "keypack", "list", ending.data, "--json").stdout
        pack = json.loads(listed)["packs"][0]
        self.assertEqual((pack["ended"], pack["root"], pack["rotation"]), (True, 0, after["rotation"]))
        self.books_hold()

    def test_a_day_is_set_and_taken_back(self):
        ending = self.add("dated", 100, 50_000)
        day = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=5)
        self.assertIn(f"ends on {day}", self.expire(ending, "--on", day).stdout)
        status = ending.settled()
        self.assertFalse(status["ended"])
        self.assertTrue([warning for warning in status["warnings"] if str(day) in warning])
        for command in (ending.command("status"), run(BINARIES / "postern", "keypack", "list", ending.data)):
            self.assertIn(f"on {day}", command.stdout)
        self.assertEqual(self.code_at_rcpt(ending.alias)[0], 250)
        self.assertIn("does not end", self.expire(ending, "--never").stdout)
        status = ending.settled()
        self.assertEqual((status["expires"], status["warnings"]), (None, []))
        for wrong in ("2020-01-01", "2027-02-30", "tomorrow"):
            self.assertNotEqual(self.expire(ending, "--on", wrong, check=False).returncode, 0)
        self.assertGreater(ending.settled()["balance"], 0)

    def test_what_ended_ends_again_at_a_restored_relay(self):
        ending, kept = self.add("again", 100, 50_000), self.add("kept", 100, 50_000)
        self.expire(kept, "--on", "2099-01-01")
        backup = self.folder / word("backup")
        self.relay.command("backup", "--to", backup)
        self.expire(ending)
        self.expire(kept, "--never")
        self.relay.stop()
        ending.stop()
        self.relay.command("restore", "--from", backup, "--yes")
        self.relay.start()
        self.assertEqual(self.code_at_rcpt(ending.alias)[0], 250)
        ending.start()
        # It has what the backup had until its bridge is back, and then nothing.
        wait_until(lambda: self.code_at_rcpt(ending.alias)[0] == 550, 60, "the end of the pack")
        self.ended(ending)
        self.assertEqual(self.code_at_rcpt(kept.alias)[0], 250)
        self.assertIsNone(wait_until(lambda: kept.settled(), 60, "a link")["expires"])
        wait_until(lambda: not kept.outbox(), 30, "all told again")
        self.books_hold()

    def test_the_second_implementation_ends_its_account(self):
        client = self.world.second_client("second", keys=40, value=1_000)
        client.connect()
        self.assertEqual(client.expire(1, 99_999), ("moved", 1, 0, 0, 40, 1_000 - KEY))
        self.assertEqual(client.expire(2), ("moved", 2, 0, 0, 40, 1_000 - KEY))
        self.assertEqual(client.expire(3, 0), ("moved", 3, 40 - 1 - 8, 1_000 - KEY, 9, 0))
        self.assertEqual(client.expire(4, 1), ("moved", 4, 0, 0, 9, 0))
        self.assertEqual(client.expire(5), ("refused", 5, 22))
        self.assertEqual(client.balance()[:2], (0, 8))
        client.close()
        self.books_hold()

    def test_an_end_survives_the_death_of_either_side(self):
        draw = random.Random()
        for number in range(by_extent(2, 24)):
            ending = self.add(f"ends{number}", 100, 50_000)
            before, revenue = ending.settled(), self.relay.totals()["revenue"]
            victim = draw.choice([self.relay, ending])
            point = f"{draw.choice(['segment', 'slots'])}.{draw.choice(['write', 'sync'])}"
            point = f"{point}:{draw.randrange(1, 7)}:{draw.choice(['before', 'after'])}"
            with self.subTest(victim=victim.name, point=point):
                victim.stop()
                victim.start("--kill-at", point, wait=False)
                time.sleep(1)
                self.expire(ending, check=False)
                victim.kill()
                victim.start()
                ending.settled()
                self.expire(ending)
                after = self.ended(ending)
                self.assertEqual((after["balance"], after["credits"] - after["debits"]), (0, 0))
                self.assertLessEqual(after["keys"], 8)
                self.assertEqual(self.code_at_rcpt(ending.alias)[0], 550)
                # What did not lapse went for keys, by the links since.
                self.assertEqual((before["balance"] - self.lapsed(ending)) % KEY, 0)
                self.books_hold()


class Statements(Management):
    def test_the_operator_sees_what_moved_and_not_whereto(self):
        bridge, file = self.pack("seen")
        self.split(bridge, file, 16, 77)
        rows = self.relay.command("statement", "--account", self.a.identifier, "--json").stdout
        given = [row for row in json.loads(rows)["rows"] if row["kind"] == "given"]
        self.assertEqual(given[-1]["debit"], 77)
        self.assertEqual(set(given[-1]), {"day", "kind", "credit", "debit"})
