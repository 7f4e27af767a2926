"""Somebody hostile between two relays, or one of them: what he does is noticed and told, and costs neither mail nor money.

On the lines between three relays a man in the middle repeats, drops, holds back, changes and swaps single cells, and plays whole
links again. A relay is put back from a copy, and one spends a pack that it sold, or raises its prices.
"""

import asyncio
import json
import os
import random
import shutil
import socket
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from clients import message, split_address, submit
from figures import CELL
from harness import OUTSIDE, Bridge, Hazard, by_extent, word
from peers import EACH, Chain
from processes import wait_until
from proxy import DOWN, UP, Connection, Proxy

#: What somebody on the line does to a cell. What is lost or swapped while nothing follows is noticed when the answer's time is
#: over, after two minutes.
DEEDS = by_extent(("repeat", "change", "delay", "cut"), ("repeat", "change", "delay", "cut", "lose", "swap"))


class Middleman(Proxy):
    """Passes cells on one by one, and does a deed to one of them: passes it on twice, with a bit changed, after three seconds,
    never and ends the line, never, or behind the next one."""

    def __init__(self, target):
        self._armed, self.done = None, []
        super().__init__(target)

    def arm(self, deed, direction, cells, at):
        """Does it to what comes that way after so many cells, at an octet of it."""
        self._armed = [deed, direction, cells, at]

    def disarm(self):
        self._armed = None

    async def _pump(self, connection: Connection, direction, reader, writer):
        held = b""
        try:
            while True:
                cell = await reader.readexactly(CELL)
                connection.chunks.append((time.time(), direction, cell))
                connection.counts[direction] += CELL
                deed, at = self._due(direction)
                if deed == "swap":
                    held = cell
                    continue
                if deed == "delay":
                    await asyncio.sleep(3)
                if deed == "cut":
                    break
                if deed == "change":
                    cell = cell[:at] + bytes([cell[at] ^ 1 << at % 8]) + cell[at + 1 :]
                writer.write(b"" if deed == "lose" else cell * 2 if deed == "repeat" else cell + held)
                held = b""
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        for writer in connection.writers:
            writer.close()

    def _due(self, direction):
        if not self._armed or self._armed[1] != direction:
            return None, 0
        self._armed[2] -= 1
        if self._armed[2] >= 0:
            return None, 0
        deed, _, _, at = self._armed
        self._armed = None
        self.done.append(deed)
        return deed, at


def chain_of_lines():
    return Chain(
        before=lambda relay: Middleman(relay.link) if relay.name != "entry" else None, retry_s=[1] * 120, tick_ms=500
    )


class Hostile(Hazard):
    make = staticmethod(chain_of_lines)

    def setUp(self):
        self.w, self.token, self.sent = self.world, word(), []
        self.before = {pair: self.w.paid(*pair) for pair in self.w.packs}
        seed = int(os.environ.get("POSTERN_SEED", random.randrange(1 << 32)))
        self.draw = random.Random(seed)
        print(f"       seed {seed}")

    def send(self, count=1):
        for _ in range(count):
            self.sent.append(f"{self.token}-{len(self.sent):04}")
            submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.sent[-1]))

    def outside(self, seconds=150):
        wait_until(lambda: all(map(self.w.sink.with_word, self.sent)), seconds, "all messages outside")

    def judge(self):
        """All is there once and paid once, and the books agree."""
        self.outside()
        wait_until(self.w.idle, 120, "three idle relays")
        wait_until(self.linked, 120, "links between the relays")
        self.w.audit()
        for name in self.sent:
            self.assertEqual(len(self.w.sink.with_word(name)), 1, name)
        moved = {pair: self.w.paid(*pair) - paid for pair, paid in self.before.items()}
        count, expected = len(self.sent), dict.fromkeys(moved, 0)
        expected |= {("entry", "middle"): count * 2 * EACH, ("middle", "far"): count * EACH}
        self.assertEqual(moved, expected)

    def linked(self):
        return [self.w.linked(name) for name in self.w.relays] == [1, 2, 1]

    def ended(self):
        """How many links ended, as the logs of the relays tell."""
        return sum(relay.process.log.read_text().count("link ended reason") for relay in self.w.relays.values())


class OnTheLine(Hostile):
    def test_what_somebody_does_to_single_cells_ends_the_link_and_costs_no_mail_or_money(self):
        lines = [self.w.middle.front, self.w.far.front]
        for _ in range(by_extent(1, 2)):
            for deed in self.draw.sample(DEEDS, len(DEEDS)):
                for line in lines:
                    self.one_deed(line, deed)
        self.judge()

    def one_deed(self, line, deed):
        ended, direction = self.ended(), self.draw.choice((UP, DOWN))
        with self.subTest(deed=deed, direction=direction):
            wait_until(self.linked, 120, "links between the relays")
            count = len(line.done)
            # A deed to the last cell of all is found at the next one.
            line.arm(deed, direction, self.draw.randrange(3), self.draw.randrange(CELL))
            end = time.monotonic() + 60
            while len(line.done) == count and time.monotonic() < end:
                self.send()
                time.sleep(0.2)
            line.disarm()
            self.assertEqual(line.done[count:], [deed])
            self.send(2)
            self.outside()
            if deed != "delay":
                self.assertGreater(self.ended(), ended, "told in the log")

    def test_a_link_that_is_played_again_has_no_effect_before_or_after_a_restart(self):
        self.send(3)
        self.judge()
        lines = {name: self.w.relays[name].front for name in ("middle", "far")}
        recorded = {name: [one.octets(UP) for one in line.connections] for name, line in lines.items()}
        for state in ("as they stand", "after a restart"):
            with self.subTest(state):
                if state == "after a restart":
                    for relay in self.w.relays.values():
                        relay.kill()
                        relay.start()
                    wait_until(self.linked, 120, "links between the relays")
                    self.outside()
                before = self.totals()
                for name, streams in recorded.items():
                    # A first cell whose link never stood is answered once more, to whoever sends it.
                    stood = [octets for octets in streams if len(octets) > 3 * CELL]
                    self.assertTrue(stood)
                    address = self.w.relays[name].link
                    with ThreadPoolExecutor(len(stood)) as pool:
                        answers = list(pool.map(lambda octets: self.play(address, octets), stood))
                    self.assertEqual(set(answers), {b""})
                # The look at the totals is the control: one message more shows there.
                self.assertEqual(self.totals(), before)
                self.send()
                self.judge()
                self.assertNotEqual(self.totals(), before)

    def totals(self):
        """Sums of all relays but for link keys, which each new link takes."""
        names = ("credits", "accounts", "queued", "deposits")
        totals = {name: relay.totals() for name, relay in self.w.relays.items()}
        return {name: [of[one] for one in names] for name, of in totals.items()}, self.mail()

    def mail(self):
        return {pair: self.w.paid(*pair) for pair in self.w.packs}, len(self.w.sink.offered)

    @staticmethod
    def play(address, octets):
        """What a relay answers to a recording."""
        with socket.create_connection(split_address(address), 30) as line:
            line.settimeout(3)
            try:
                line.sendall(octets)
                return line.recv(1)
            except OSError:
                return b""


class PutBack(Hostile):
    def test_a_relay_that_is_put_back_from_an_old_copy_is_noticed_and_given_nothing(self):
        """Its folder as a whole, keys and all, as whoever seized it could run it."""
        far = self.w.far
        self.send()
        self.outside()
        copy, kept = far.data.with_name("copy"), far.data.with_name("kept")
        far.stop()
        shutil.copytree(far.data, copy, ignore=shutil.ignore_patterns("*.sock"))
        far.start()
        # A link later, which the copy knows nothing of. To one that is further ahead it would be silent.
        wait_until(self.linked, 120, "links between the relays")
        self.send()
        self.outside()
        far.stop()
        far.data.rename(kept)
        copy.rename(far.data)
        far.start()
        told = lambda: next(row for row in self.w.peers("middle") if row["name"] == "far")["link"]
        wait_until(lambda: told() == "rolled back", 90, "the list of peers that says it")
        self.assertIn("it was restored from an old copy", self.w.middle.process.log.read_text())
        self.send(2)
        self.w.a.settled()
        time.sleep(5)
        self.assertEqual([self.w.sink.with_word(name) for name in self.sent[-2:]], [[], []])
        # The true one again: all that waited goes, once, and is paid once.
        far.stop()
        shutil.rmtree(far.data)
        kept.rename(far.data)
        far.start()
        self.w.middle.stop()
        self.w.middle.start()
        self.judge()


class Greedy(Hostile):
    def test_a_relay_that_spends_a_pack_that_it_sold_is_found_by_its_book(self):
        far, middle = self.w.far, self.w.middle
        pack, passphrase = self.w.folder.path / "spare.pack", self.w.folder.path / "peer.passphrase"
        words = ["--value", 1_000_000, "--passphrase-file", passphrase, "--for", "spare.test"]
        far.command("peer", "invite", "--out", pack, *words)
        self.addCleanup(self.forget_spare)
        theft = Bridge(self.w.folder.path, "thief", far.link)
        theft.passphrase = passphrase
        stolen = pack.with_name("stolen.pack")
        shutil.copy(pack, stolen)
        theft.init(stolen)
        theft.start()
        self.addCleanup(theft.kill)
        submit(theft, [OUTSIDE], message("me@localhost", OUTSIDE, self.token))
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message of the thief")
        theft.settled()
        theft.stop()
        middle.command("peer", "accept", pack, "--name", "spare", "--passphrase-file", passphrase)
        middle.stop()
        middle.routes["spare.test"] = "peer:spare"
        middle.start()
        silent = "the relay stayed silent"
        wait_until(lambda: silent in middle.process.log.read_text(), 60, "silence to a key that the thief has used")
        wait_until(lambda: self.w.linked("middle") == 2, 60, "the links of the other packs")
        done = middle.command("peer", "resume", "spare")
        self.assertIn("the link stands again", done.stdout)
        done = middle.command("peer", "compare", "spare", "--json", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the books differ", done.stderr)
        report = json.loads(done.stdout)
        mail = report["rows"][0]
        self.assertEqual((mail["own"], mail["peer"], mail["verdict"]), (0, EACH, "differs"))
        # The control is the pack that nobody else used.
        self.assertEqual(middle.command("peer", "compare", "far", check=False).returncode, 0)

    def test_prices_that_are_raised_behind_an_agreement_are_not_paid_before_they_are_told(self):
        self.send()
        self.outside()
        wait_until(self.w.idle, 60, "three idle relays")
        paid = self.w.paid("middle", "far")
        account = self.w.a.status()["identifier"]
        own = sum(self.w.debits("entry", account))
        self.w.far.stop()
        # Accepted and paid for by the old list, and not yet at the one that raises.
        self.send(2)
        self.w.a.settled()
        self.w.far.prices["message"] = 30_000
        self.w.far.start()
        self.addCleanup(self.lower)
        self.outside()
        wait_until(self.w.idle, 60, "three idle relays")
        self.assertEqual(sum(self.w.debits("entry", account)) - own, 2 * 3 * EACH, "the sender pays what was told")
        self.assertEqual(self.w.paid("middle", "far") - paid, 2 * 30_100, "and nothing beyond the new list is taken")
        told = lambda: self.w.a.status()["onward"]["elsewhere"]["message"] == 40_000
        wait_until(told, 60, "the sender who is told of the new prices")
        self.w.audit()

    def forget_spare(self):
        self.w.middle.stop()
        self.w.middle.routes.pop("spare.test", None)
        self.w.middle.start()
        wait_until(self.linked, 120, "links between the relays")

    def lower(self):
        self.w.far.stop()
        self.w.far.prices["message"] = 10_000
        self.w.far.start()
        wait_until(lambda: self.w.a.status()["onward"]["elsewhere"]["message"] == 20_000, 60, "the old prices")


if __name__ == "__main__":
    unittest.main()
