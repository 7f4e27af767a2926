"""A bridge, or a relay's database, restored from an old copy goes on, and nothing is sealed or carried out twice.

A bridge's copy knows nothing of the links made since: their keys are burned at the relay, which stays silent to them. A
relay's copy knows nothing of what it was sent since: its holders and its keys do.
"""

import json
import shutil
import subprocess
import time

from clients import Inbox, deliver, message, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, word
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


def with_parcels():
    return World(keys=400, value=100_000_000)


class Relays(Hazard):
    """A relay whose database is put back from a backup, beside the keys as they are: `posternd restore`."""

    make = staticmethod(with_parcels)

    def setUp(self):
        self.relay, self.a, self.b = self.world.relay, self.world.a, self.world.b
        self.backup = self.world.folder.path / word("backup")

    def sent(self, token, holder=None):
        holder = holder or self.a
        submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token))

    def outside(self, token):
        self.sent(token)
        wait_until(lambda: self.world.sink.with_word(token), 60, "the message outside")
        self.a.settled()

    def inward(self, holder, token, alias=None):
        deliver(self.relay.mx, OUTSIDE, alias or holder.alias, message(OUTSIDE, alias or holder.alias, token))

    def came(self, holder, token):
        Inbox(holder).wait_for(token)

    def parcel(self, token):
        command = [BINARIES / "postern", "seal", "--dir", self.a.data, "--passphrase-file", self.a.passphrase, "--mail"]
        content = message(self.a.alias, OUTSIDE, token)
        return subprocess.run(list(map(str, command)), input=content, capture_output=True, check=True).stdout

    def carry(self, mail):
        """Brings a parcel to the relay's SMTP port, as anybody may."""
        deliver(self.relay.mx, "someone@else.test", "parcel@relay.test", mail)

    def back_up(self):
        self.relay.command("backup", "--to", self.backup)

    def restore(self, check=True):
        """Loses the database and puts the backup back."""
        shutil.rmtree(self.relay.data / "replaced", ignore_errors=True)
        for file in self.relay.data.glob("segment-*"):
            file.unlink()
        (self.relay.data / "index.redb").unlink()
        done = self.relay.command("restore", "--from", self.backup, "--yes", "--json", check=check)
        return json.loads(done.stdout)

    def start(self):
        self.relay.start()
        for holder in self.world.bridges:
            if not (holder.process and holder.process.running):
                holder.start()
            holder.settled(120)

    def told(self, holder):
        return len(holder.inbox().with_word("Your relay was restored"))

    def once(self, *tokens):
        for token in tokens:
            self.assertEqual(len(self.world.sink.with_word(token)), 1, token)

    def books_agree(self):
        wait_until(lambda: not self.relay.queue(), 60, "an empty queue")
        self.relay.audit()
        verified = json.loads(self.relay.command("verify", "--json").stdout)
        self.assertEqual(verified["findings"], [])

    def test_after_a_restore_all_goes_on_and_nothing_comes_twice(self):
        before, during, after = ([word() for _ in range(3)] for _ in range(3))
        told = {holder.name: self.told(holder) for holder in self.world.bridges}
        self.outside(before[0])
        self.inward(self.a, before[1])
        self.came(self.a, before[1])
        # Two deliveries wait when the backup is made: one leaves since, the other waits still.
        stuck, leaves = word(), word()
        faults = [
            self.world.sink.misbehave("RCPT", "451 4.3.0 later", recipient=f"{name}@out.test")
            for name in ("stuck", "leaves")
        ]
        for token, name in ((stuck, "stuck"), (leaves, "leaves")):
            submit(self.a, f"{name}@out.test", message(self.a.alias, f"{name}@out.test", token))
        wait_until(lambda: len(self.relay.queue()) == 2, 30, "both in the queue")
        # Collected since, and so still there in the backup.
        self.b.stop()
        self.inward(self.b, before[2])
        self.back_up()
        self.b.start()
        self.came(self.b, before[2])

        faults[1].times = 0
        wait_until(lambda: self.world.sink.with_word(leaves), 60, "the delivery")
        wait_until(lambda: len(self.relay.queue()) == 1, 30, "its end")
        self.outside(during[0])
        self.inward(self.a, during[1])
        self.came(self.a, during[1])
        alias = self.a.new_alias()
        parcel_token = word()
        carried = self.parcel(parcel_token)
        self.carry(carried)
        wait_until(lambda: self.world.sink.with_word(parcel_token), 60, "the parcel's message")
        # Lost: nobody collects it before the database is.
        self.b.settled()
        self.b.stop()
        self.inward(self.b, during[2])
        keys = self.a.settled()["keys"]
        self.relay.stop()
        # Taken in while there is no relay, and never sent before the restore.
        self.sent(after[0])

        costs = self.restore()
        self.assertEqual((costs["frozen"], costs["unknown_packs"]), (0, 0))
        self.assertEqual((costs["deliveries"], costs["deliveries_closed"]), (1, 1))
        self.assertGreaterEqual(costs["deposits"], 2)
        self.start()
        with self.subTest("both holders are told once"):
            for holder in self.world.bridges:
                wait_until(lambda holder=holder: self.told(holder) > told[holder.name], 30, "the notice")
                self.assertEqual(self.told(holder), told[holder.name] + 1)
        with self.subTest("what was taken in meanwhile leaves"):
            wait_until(lambda: self.world.sink.with_word(after[0]), 60, "the message outside")
        with self.subTest("an alias of after the backup is there again"):
            self.inward(self.a, after[1], alias)
            self.came(self.a, after[1])
        with self.subTest("what is lost is told"):
            wait_until(lambda: self.b.inbox().with_word("are gone: 1"), 30, "the notice of what is lost")
            self.assertFalse(self.b.inbox().with_word(during[2]))
        with self.subTest("mail comes in behind the gap"):
            self.inward(self.b, after[2])
            self.came(self.b, after[2])
        faults[0].times = 0
        wait_until(lambda: self.world.sink.with_word(stuck), 60, "the delivery that waited")
        with self.subTest("a parcel that came before is taken once"):
            self.carry(carried)
            time.sleep(3)
        with self.subTest("nothing left twice"):
            self.once(before[0], during[0], after[0], stuck, leaves, parcel_token)
        with self.subTest("nothing came twice"):
            for holder, token in ((self.a, before[1]), (self.a, during[1]), (self.b, before[2])):
                self.assertEqual(len(holder.inbox().with_word(token)), 1)
        with self.subTest("what was collected before is gone from the relay"):
            wait_until(lambda: self.relay.totals()["deposits"] == 0, 30, "no deposit")
        self.assertGreater(self.a.settled()["keys"], keys - 5)
        self.books_agree()

        with self.subTest("the same backup once more"):
            token = word()
            self.outside(token)
            self.relay.stop()
            self.restore()
            self.start()
            last = word()
            self.outside(last)
            self.once(token, last, before[0], during[0], after[0], stuck, leaves, parcel_token)
            self.books_agree()
        with self.subTest("no key made two links"):
            opened = [connection.octets(UP) for connection in self.world.proxy.connections]
            tags = [octets[:TAG] for octets in opened if len(octets) > 2 * CELL]
            self.assertEqual(len(tags), len(set(tags)))

    def test_it_refuses_a_running_relay_and_what_is_no_backup(self):
        self.backup.mkdir()
        done = self.relay.command("restore", "--from", self.backup, "--yes", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("the relay is running", done.stderr)
        self.relay.stop()
        try:
            done = self.relay.command("restore", "--from", self.backup, "--yes", check=False)
            self.assertIn("no index.redb", done.stderr)
            self.relay.command("restore", "--from", self.backup, check=False)
        finally:
            self.relay.start()
        self.a.settled(120)
        self.books_agree()
