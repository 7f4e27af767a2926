"""A covered line carries as much each way whether its user sends, gets or does nothing; it is paid for to the cell.

The proxy writes down what crosses. A judge who sees that alone must tell the three apart where there is no cover.
"""

import json
import time

from clients import Inbox, deliver, message, submit
from harness import OUTSIDE, Hazard, World, word
from processes import wait_until
from proxy import DOWN, UP

CELL = 16_384
#: Cells of a tick; three, so that no burst of the usual kind is a whole number of ticks.
CELLS, EVERY_MS = 3, 300
COVER = {"price": 3, "per_second_max": 10, "links_max": 4, "period_s": 4}
#: Of a period, in both directions together.
PERIOD_TICKS = COVER["period_s"] * 1_000 // EVERY_MS
PERIOD = PERIOD_TICKS * 2 * CELLS * COVER["price"]
#: Handshake, the question what it costs, and that it begins: so many cells before the first tick, each way.
BEFORE = 4
WATCHED_S = 6


def covered():
    return World(holders=(), cover=COVER)


class Covered(Hazard):
    make = staticmethod(covered)

    def setUp(self):
        self.relay, self.proxy, self.sink = self.world.relay, self.world.proxy, self.world.sink

    def holder(self, name, cover, value=100_000_000):
        """A bridge with this line in its settings, and its connection."""
        bridge = self.world.add(name, 500, value)
        self.addCleanup(bridge.stop)
        bridge.settled()
        bridge.stop()
        if cover:
            settings = bridge.data / "bridge.toml"
            settings.write_text(f'cover = "{cover}"\n' + settings.read_text())
        before = len(self.proxy.connections)
        bridge.start()
        bridge.settled()
        wait_until(lambda: len(self.proxy.connections) > before, 30, "a link")
        return bridge, self.proxy.connections[before]

    def on(self, name):
        bridge, connection = self.holder(name, f"cells={CELLS},every_ms={EVERY_MS}")
        wait_until(lambda: bridge.status()["cover"]["state"] == "on", 30, "cover")
        return bridge, connection

    def debits(self, bridge):
        done = self.relay.command("statement", "--account", bridge.identifier, "--json")
        return [row["debit"] for row in json.loads(done.stdout)["rows"] if row["kind"] == "cover"]

    def ticks(self, connection, direction):
        """Whole ticks that have crossed; waits for the end of the one that is crossing."""

        def whole():
            cells, rest = divmod(connection.counts[direction], CELL)
            return not rest and (cells - BEFORE) % CELLS == 0

        wait_until(whole, 30, "whole ticks, and nothing but ticks")
        return (connection.counts[direction] // CELL - BEFORE) // CELLS

    def send(self, bridge):
        """Sends mail for as long as is watched."""
        body = ("x" * 70 + "\r\n") * 500
        until = time.time() + WATCHED_S
        while time.time() < until:
            submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, word(), body))
            time.sleep(0.5)

    def get(self, bridge):
        """Has mail come in for as long."""
        body = ("y" * 70 + "\r\n") * 500
        until = time.time() + WATCHED_S
        while time.time() < until:
            deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, word(), body))
            time.sleep(0.5)

    def watched(self, bridge, connection):
        """For each thing that a user may do: the cells of each second, both ways."""
        seconds = {}
        for name, what in (("idle", lambda _: time.sleep(WATCHED_S)), ("sends", self.send), ("gets", self.get)):
            start = time.time()
            what(bridge)
            bins = [[0, 0] for _ in range(WATCHED_S)]
            for at, direction, data in list(connection.chunks):
                if start <= at < start + WATCHED_S:
                    bins[int(at - start)][direction == UP] += len(data) / CELL
            seconds[name] = bins
            self.settle(bridge)
        return seconds

    @staticmethod
    def settle(bridge):
        """Until what was begun is done, so that it is not taken for what comes next."""
        bridge.settled(120)
        time.sleep(2)

    @staticmethod
    def apart(seconds):
        """How far apart the means are, of the largest: 0 where a judge is left to guess, 1 where one is nothing."""
        gaps = []
        for way in (0, 1):
            means = [sum(bin[way] for bin in bins) / len(bins) for bins in seconds.values()]
            gaps.append((max(means) - min(means)) / max(means))
        return max(gaps)


class Line(Covered):
    def test_who_watches_cannot_tell_sending_from_getting_or_neither(self):
        bridge, connection = self.on("covered")
        # A machine that is busy with other things may miss ticks, whatever the user does: then it is looked at again.
        figures = []
        for _ in range(3):
            figures.append(self.apart(self.watched(bridge, connection)))
            if figures[-1] < 0.2:
                break
        self.assertLess(figures[-1], 0.2, f"apart by {figures}")
        self.assertIsNone(connection.closed, "one link throughout")
        up, down = self.ticks(connection, UP), self.ticks(connection, DOWN)
        self.assertGreater(min(up, down), 3 * WATCHED_S * 1_000 / EVERY_MS * 0.7)
        self.assertGreater(len(self.sink.delivered), 0, "mail went out meanwhile")
        self.assertGreater(len(Inbox(bridge).refresh()), 0, "mail came in meanwhile")
        debits, sent = self.debits(bridge), self.ticks(connection, DOWN)
        self.assertEqual(set(debits), {PERIOD}, "a period at a time, at the price told")
        paid = len(debits) * PERIOD_TICKS
        self.assertLessEqual(sent - PERIOD_TICKS, paid)
        self.assertLessEqual(paid, sent + 2 * PERIOD_TICKS, "no more than what is under way ahead")
        print(f"       covered: apart by {figures}, {up} ticks up, {down} down, {sum(debits)} µtok")
        self.relay.audit()

    def test_without_cover_they_are_told_apart_at_once(self):
        bridge, connection = self.holder("plain", None)
        figure = self.apart(self.watched(bridge, connection))
        self.assertGreater(figure, 0.8)
        self.assertEqual(self.debits(bridge), [])
        print(f"       plain: apart by {figure:.2f}")


class Value(Covered):
    def test_cover_ends_with_the_value_to_the_cell_and_the_user_is_told(self):
        # Two links: that of the first start, and that which is covered.
        keys = 2 * self.relay.prices["key"]
        rest = PERIOD // 2
        bridge, connection = self.holder("poor", f"cells={CELLS},every_ms={EVERY_MS}", keys + 2 * PERIOD + rest)
        told = Inbox(bridge).wait_for("has no cover now", seconds=60)[0]
        self.assertIn(b"top it up", told.replace(b"\r\n", b" "))
        self.assertEqual(bridge.status()["cover"]["state"], "none")
        self.assertIn("top it up", bridge.command("status").stdout)
        self.assertEqual(self.debits(bridge), [PERIOD] * 2)
        self.assertIsNone(connection.closed, "the link goes on")
        # What was paid for crossed, and the tick that says that it is over.
        wait_until(lambda: connection.counts[DOWN] % CELL == 0, 10, "whole cells")
        self.assertGreaterEqual(connection.counts[DOWN] // CELL, BEFORE + 2 * PERIOD_TICKS * CELLS)
        self.relay.top_up(bridge.identifier, 1_000_000)
        bridge.stop()
        bridge.start()
        wait_until(lambda: bridge.status()["cover"]["state"] == "on", 30, "cover again")

    def test_a_rate_beyond_the_relays_bound_is_refused_in_words(self):
        bridge, _ = self.holder("fast", "cells=4,every_ms=300")
        self.assertIn("at most 10 cells a second", bridge.command("cover").stdout)
        Inbox(bridge).wait_for("has no cover now", seconds=30)
        self.assertEqual(self.debits(bridge), [])

    def test_a_day_is_told_before_it_is_paid_and_bounded(self):
        bridge, _ = self.holder("careful", f"cells={CELLS},every_ms={EVERY_MS},day_max=1000")
        day = 86_400_000 // EVERY_MS * 2 * CELLS * COVER["price"]
        told = json.loads(bridge.command("cover", "--json").stdout)
        self.assertEqual((told["day_cost"], told["cover"]["state"]), (day, "none"))
        self.assertIn("more than day_max", bridge.command("cover").stdout)
        self.assertEqual(self.debits(bridge), [])
