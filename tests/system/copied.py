"""A bridge's folder that was copied, cold or in the middle of traffic, and put back: nothing is sealed or sent twice.

A copy believes unused what was used since: link keys, numbers of changes, bytes of a pad, mail in its outbox. The recording
decides: no cell crosses the path twice, no key makes two links, and what the outside world gets comes once.
"""

import collections
import random
import shutil
import threading
import time

from clients import Inbox, message, submit
from harness import OUTSIDE, Bridge, Hazard, World, by_extent, word
from processes import wait_until
from proxy import DOWN, UP

CELL = 16_384
TAG = 16


def copy_of(data, to):
    """What a file tool makes of a folder that may be in use: one file after the other, and none that goes meanwhile."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(mode=0o700)
    paths = [path for path in sorted(data.iterdir()) if path.is_file()]
    random.shuffle(paths)
    for path in paths:
        try:
            shutil.copy2(path, to / path.name)
        except FileNotFoundError:
            pass
    return to


class Copied(Hazard):
    @staticmethod
    def make():
        return World(holders=("a",), keys=2_000, value=1_000_000_000)

    def setUp(self):
        self.relay, self.proxy, self.sink, self.a = self.world.relay, self.world.proxy, self.world.sink, self.world.a
        self.copies = self.world.folder.path / "copies"
        self.copies.mkdir(exist_ok=True)

    def send(self, token, holder=None):
        holder = holder or self.a
        submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token))

    def put_back(self, copy):
        """Starts the bridge on the copy. `False`: it says that the copy is none, and the present folder is in place again."""
        self.a.stop()
        present = self.copies / "present"
        shutil.rmtree(present, ignore_errors=True)
        shutil.move(self.a.data, present)
        shutil.copytree(copy, self.a.data)
        before = len(self.a.process.log.read_text())
        self.a.start(wait=False)

        def opens():
            if not self.a.process.running:
                return "ended"
            return "opens" if self.a.command("status", "--json", check=False).returncode == 0 else None

        if wait_until(opens, 60, "a copy that opens or is refused") == "opens":
            return True
        said = self.a.process.log.read_text()[before:]
        self.assertNotIn("panicked", said)
        self.assertTrue(said.strip(), "it says why")
        shutil.rmtree(self.a.data)
        shutil.move(present, self.a.data)
        self.a.start()
        return False

    def link_again(self, holder=None):
        """Finds the relay, and returns what it is not known of whether it was sent; that is removed."""
        holder = holder or self.a
        holder.command("resume", "--json", check=False)

        def rest():
            if not holder.status()["linked"]:
                return None
            rows = holder.outbox()
            return (rows,) if all(row["state"] == "unknown" for row in rows) else None

        (rows,) = wait_until(rest, 180, "a link, and nothing that waits")
        for row in rows:
            holder.command("outbox", "cancel", row["row"])
        return [row["label"] for row in rows]

    def all_once(self, tokens, maybe=()):
        """Every one of `tokens` came outside once, and those of `maybe` once or not at all."""
        for token in tokens:
            wait_until(lambda token=token: self.sink.with_word(token), 60, "the message outside")
        time.sleep(1)
        for token in tokens:
            self.assertEqual(len(self.sink.with_word(token)), 1, token)
        for token in maybe:
            self.assertLessEqual(len(self.sink.with_word(token)), 1, token)

    def nothing_is_sealed_twice(self):
        """No link key made two links, and no octets cross the path again but tags of keys that made none."""
        opened = [connection.octets(UP) for connection in self.proxy.connections]
        tags = [octets[:TAG] for octets in opened if len(octets) > 2 * CELL]
        self.assertEqual(len(tags), len(set(tags)), "a key made two links")
        cells = collections.Counter()
        for connection in self.proxy.connections:
            for way in (UP, DOWN):
                octets = connection.octets(way)
                # Behind the tag of a first cell and before any MAC there is a nonce or what a key of its own has sealed.
                cells.update(octets[at + TAG : at + TAG + 64] for at in range(0, len(octets) - CELL + 1, CELL))
        self.assertEqual([cell for cell, count in cells.items() if count > 1], [])

    def mails_debited(self):
        return sum(part["count"] for part in self.a.statement() if part["kind"] == "message")


class Traffic(Copied):
    def test_a_copy_that_is_made_in_the_middle_of_traffic_repeats_nothing(self):
        opened = refused = 0
        debited = self.mails_debited()
        all_tokens = []
        for number in range(by_extent(3, 40)):
            before, after, stop = [], [], threading.Event()
            mine = before

            def traffic():
                while not stop.is_set():
                    token = word()
                    self.send(token)
                    mine.append(token)

            sender = threading.Thread(target=traffic)
            sender.start()
            time.sleep(random.uniform(0.1, 0.6))
            copy = copy_of(self.a.data, self.copies / "live")
            mine = after
            time.sleep(0.2)
            if number % 3:
                # Without it all this is one link, and the copy finds the relay where it was.
                self.proxy.cut()
            time.sleep(0.3)
            stop.set()
            sender.join()
            self.a.settled(120)
            self.all_once(before + after)
            if not self.put_back(copy):
                refused += 1
                all_tokens += before + after
                continue
            opened += 1
            early, late = word("early"), word("late")
            self.send(early)
            self.link_again()
            self.send(late)
            self.a.settled(120)
            self.all_once([*before, *after, early, late])
            all_tokens += [*before, *after, early, late]
            self.relay.audit()
        self.nothing_is_sealed_twice()
        # The statement comes over a link: what was debited is what left.
        self.assertEqual(self.mails_debited() - debited, len(all_tokens))
        print(f"       {opened} copies opened, {refused} were refused")

    def test_mail_that_a_copy_took_in_before_it_found_the_relay_leaves_once_or_its_sender_is_told(self):
        copy = self.cold_copy()
        for _ in range(6):
            self.send(word())
            self.proxy.cut()
            self.a.settled()
        tokens = [word() for _ in range(3)]
        self.assertTrue(self.put_back(copy))
        for token in tokens:
            self.send(token)
        self.a.stop()
        self.a.start()
        # A process that took mail in and never had a link knows that it never left; the next one does not.
        last = word()
        self.send(last)
        told = self.link_again()
        self.assertLessEqual(set(told), set(tokens))
        for token in told:
            Inbox(self.a).wait_for(f"Perhaps sent: {token}")
        self.all_once([token for token in [*tokens, last] if token not in told], tokens)
        self.nothing_is_sealed_twice()

    def test_two_that_run_side_by_side_repeat_nothing(self):
        clone = Bridge(self.world.folder.path, "clone", self.proxy.address)
        clone.data, clone.passphrase = self.cold_copy(), self.a.passphrase
        clone.user, clone.password, clone.alias = self.a.user, self.a.password, self.a.alias
        clone.start()
        self.addCleanup(clone.kill)
        tokens = []
        for _ in range(by_extent(6, 60)):
            for holder in (self.a, clone):
                tokens.append(word())
                self.send(tokens[-1], holder)
            time.sleep(random.uniform(0, 0.5))
        # Each has a link at times, and neither knows of the other's.
        self.a.stop()
        told = self.link_again(clone)
        clone.stop()
        self.a.start()
        told += self.link_again()
        self.all_once([token for token in tokens if token not in told], tokens)
        self.nothing_is_sealed_twice()
        self.relay.audit()

    def cold_copy(self):
        self.a.settled()
        self.a.stop()
        copy = copy_of(self.a.data, self.copies / "cold")
        self.a.start()
        self.a.settled()
        return copy


class Held(Copied):
    @staticmethod
    def make():
        return World(holders=("a",), keys=2_000, value=100_000)

    def test_what_was_held_in_a_copy_is_not_sent_again_by_it(self):
        token = word()
        self.a.settled()
        self.proxy.partition()
        self.send(token)
        usual = dict(self.relay.prices)
        self.relay.prices["message"] *= 50
        self.relay.stop()
        self.relay.start()
        self.proxy.heal()
        held = wait_until(lambda: [row for row in self.a.outbox() if "eld" in str(row["state"])], 60, "the held message")
        self.assertEqual(len(held), 1)
        # All of it within one link: no key tells of it.
        copy = copy_of(self.a.data, self.copies / "held")
        self.relay.top_up(self.a.identifier, 10_000_000)
        wait_until(lambda: self.sink.with_word(token), 60, "the held message after the top-up")
        self.a.settled()
        if not self.put_back(copy):
            self.skipTest("the folder was copied in the middle of a change")
        self.assertEqual(self.link_again(), [token])
        Inbox(self.a).wait_for("Perhaps sent")
        last = word()
        self.send(last)
        self.all_once([token, last])
        self.relay.prices = usual
        self.relay.audit()
