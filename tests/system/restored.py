"""A bridge restored from an old copy finds the relay again, and seals nothing twice under one key.

The copy knows nothing of the links made since: their keys are burned at the relay, which stays silent to them.
"""

import shutil
import time

from clients import Inbox, deliver, message, submit
from harness import OUTSIDE, Bridge, Hazard, World, word
from processes import wait_until
from proxy import UP

CELL = 16_384
TAG = 16
LINKS = 14


def world():
    return World(holders=("a",), keys=400, value=100_000_000)


class Copies(Hazard):
    make = staticmethod(world)

    def setUp(self):
        self.relay, self.proxy, self.a = self.world.relay, self.world.proxy, self.world.a

    def outside(self, token):
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
        wait_until(lambda: self.world.sink.with_word(token), 60, "the message outside")
        self.a.settled()

    def links(self, count):
        """So many more links, each with a message out."""
        for _ in range(count):
            self.a.stop()
            self.a.start()
            self.outside(word())

    def copy(self):
        self.a.stop()
        copy = self.a.data.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.a.data, copy, ignore=shutil.ignore_patterns("*.sock", "control*"))
        return copy

    def restore(self, copy):
        self.a.stop()
        shutil.rmtree(self.a.data)
        shutil.move(copy, self.a.data)
        self.a.start()

    def told(self, holder):
        """Notices that the pack was used by another."""
        return len(holder.inbox().with_word("in use elsewhere"))

    def confirmed_tags(self):
        """Tags of the first cells whose link stood: of those that carried more than cells 1 and 3."""
        opened = [connection.octets(UP) for connection in self.proxy.connections]
        return [octets[:TAG] for octets in opened if len(octets) > 2 * CELL]


class Restored(Copies):
    def test_a_copy_that_is_far_behind_finds_the_relay_in_one_search(self):
        self.links(2)
        told = self.told(self.a)
        copy = self.copy()
        self.a.start()
        self.links(LINKS)
        keys_before = self.a.settled()["keys"]
        kept = word()
        self.restore(copy)
        # By itself it looks no further than the look-ahead.
        time.sleep(15)
        self.assertFalse(self.a.status()["linked"])
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, kept))
        self.a.command("resume", "--json")
        status = self.a.settled(120)
        with self.subTest("no more keys are lost than the look-ahead has"):
            self.assertLess(keys_before - status["keys"], 6)
        with self.subTest("what was taken in before the search leaves once"):
            wait_until(lambda: self.world.sink.with_word(kept), 60, "the message outside")
            time.sleep(2)
            self.assertEqual(len(self.world.sink.with_word(kept)), 1)
        with self.subTest("mail comes in"):
            token = word()
            deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
            Inbox(self.a).wait_for(token)
        with self.subTest("its holder is told that the pack was used meanwhile"):
            self.assertEqual(self.told(self.a), told + 1)
        with self.subTest("later links are ordinary"):
            self.links(3)
            self.assertEqual(self.told(self.a), told + 1)
        with self.subTest("no key made two links"):
            tags = self.confirmed_tags()
            self.assertEqual(len(tags), len(set(tags)))
        self.relay.audit()

    def test_a_link_that_stands_is_not_searched_for(self):
        self.a.settled()
        done = self.a.command("resume", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("the link stands", done.stderr)


class Cloned(Copies):
    def test_two_holders_of_one_pack_both_learn_of_it_and_so_does_the_operator(self):
        before, copy = self.told(self.a), self.copy()
        clone = Bridge(self.world.folder.path, "clone", self.proxy.address)
        clone.data, clone.passphrase = copy, self.a.passphrase
        # A token that was shown once is taken once more: its answer may have been lost.
        for _ in range(2):
            clone.start()
            self.addCleanup(clone.kill)
            clone.settled()
            self.assertEqual(self.told(clone), before, "it goes on where the copy was made")
            clone.stop()
        for holder in (self.a, clone):
            with self.subTest(holder=holder.name):
                holder.start()
                holder.command("resume", check=False)
                holder.settled(120)
                wait_until(lambda holder=holder: self.told(holder) > before, 20, "the notice")
                holder.stop()
                holder.start()
                holder.settled()
                holder.stop()
        self.assertIn("a link token of somebody else", self.relay.process.log.read_text())
        self.a.start()
        self.a.command("resume", check=False)
        self.a.settled(120)
        tags = self.confirmed_tags()
        self.assertEqual(len(tags), len(set(tags)))
