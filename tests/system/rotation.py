"""Rotation policies: a link goes on under a new key at its limit, for the price of a key, and looks as every other does.

Claims 000/39 to 41 and 001/7 to 9. The proxy writes down what crosses; how many keys that took is in the books.
"""

import json
import time

from clients import Inbox, deliver, message, submit
from harness import OUTSIDE, Hazard, World, full_only, word
from processes import wait_until
from proxy import DOWN, UP

CELL = 16_384
KEYS = 2_000
VALUE = 100_000_000


def world():
    # Nothing but what the tests do: the relay has no news of its own for a minute.
    return World(holders=(), tick_ms=60_000)


class Rotation(Hazard):
    make = staticmethod(world)

    def setUp(self):
        self.relay, self.proxy = self.world.relay, self.world.proxy

    def holder(self, name, rotate):
        """A bridge on a pack of this policy, its first mail done; and its one connection."""
        before = len(self.proxy.connections)
        bridge = self.world.add(name, KEYS, VALUE, rotate=rotate)
        self.addCleanup(bridge.stop)
        bridge.settled()
        self.assertEqual(bridge.status()["rotation"], rotate or "connection")
        return bridge, self.proxy.connections[before]

    def cells(self, connection, direction):
        """Cells behind the handshake."""
        octets = connection.counts[direction]
        self.assertEqual(octets % CELL, 0)
        return octets // CELL - (2 if direction == UP else 1)

    def keys_used(self, bridge):
        """By the relay's books, which must show the price of each."""
        done = self.relay.command("statement", "--account", bridge.identifier, "--json")
        debits = [row["debit"] for row in json.loads(done.stdout)["rows"] if row["kind"] == "key"]
        self.assertEqual(set(debits), {self.relay.prices["key"]})
        return len(debits)

    def outside(self, bridge, body="hello\r\n", seconds=60):
        token = word()
        submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token, body))
        wait_until(lambda: self.world.sink.with_word(token), seconds, "the message outside")
        bridge.settled()


class ByBytes(Rotation):
    def test_a_large_message_out_takes_a_key_for_every_so_many_cells(self):
        limit = 16
        bridge, connection = self.holder("bytesup", f"bytes={limit * CELL}")
        body = ("x" * 70 + "\r\n") * 42_000
        self.outside(bridge, body, 120)
        keys, up, down = self.keys_used(bridge), self.cells(connection, UP), self.cells(connection, DOWN)
        self.assertIsNone(connection.closed, "one connection throughout")
        rotations = keys - 1
        self.assertGreater(up, 256, "the message crossed")
        # Of what went up, so many cells asked for a key; the rest lies under keys of at most `limit` each, and no key
        # but the last is less than full unless the few cells that came down filled theirs first.
        self.assertLessEqual(up - rotations, limit * keys)
        self.assertLessEqual(rotations, (up - rotations) // limit + down // limit)
        self.figure("out", up, down, keys)

    def test_a_large_message_in_takes_a_key_for_every_so_many_cells(self):
        limit = 16
        bridge, connection = self.holder("bytesdown", f"bytes={limit * CELL}")
        before = self.keys_used(bridge), self.cells(connection, DOWN)
        token = word()
        body = ("y" * 70 + "\r\n") * 42_000
        deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, token, body))
        # The next tick of the relay is far off; the bridge asks at each new link.
        bridge.stop()
        first = len(self.proxy.connections)
        bridge.start()
        Inbox(bridge).wait_for(token)
        bridge.settled()
        connection = self.proxy.connections[first]
        keys = self.keys_used(bridge) - before[0]
        up, down = self.cells(connection, UP), self.cells(connection, DOWN)
        self.assertGreaterEqual(down, 256, "the message crossed")
        rotations = keys - 1
        self.assertLessEqual(down - rotations, limit * keys)
        self.assertLessEqual(rotations, (down - rotations) // limit + up // limit)
        self.figure("in", up, down, keys)
        paid = self.relay.prices["key"] * self.keys_used(bridge)
        wait_until(lambda: bridge.status()["debits"] == paid, 10, "a status that knows of all keys")

    def figure(self, way, up, down, keys):
        print(f"       {way}: {up} cells up, {down} down, {keys} keys")


class ByTime(Rotation):
    def rotations(self, bridge, seconds):
        """Sends small mail for so long; (no earlier than, no later than) of each key that it took."""
        spans, keys, before = [], self.keys_used(bridge), time.time()
        end = before + seconds
        while time.time() < end:
            self.outside(bridge)
            now_used, now = self.keys_used(bridge), time.time()
            spans += [(before, now)] * (now_used - keys)
            keys, before = now_used, now
        return spans

    def test_connection_time_ends_a_key_within_a_second(self):
        bridge, connection = self.holder("conntime", "time=3")
        spans = self.rotations(bridge, 13)
        self.assertGreaterEqual(len(spans), 3)
        for earlier, later in zip(spans, spans[1:]):
            self.assertGreaterEqual(later[1] - earlier[0], 3)
            self.assertLessEqual(later[0] - earlier[1], 4)

    def test_an_interval_counts_from_first_use_over_connections(self):
        before = len(self.proxy.connections)
        bridge, _ = self.holder("interval", "interval=4")
        first_use = self.proxy.connections[before].opened
        bridge.stop()
        time.sleep(1.5)
        bridge.start()
        bridge.settled()
        spans = self.rotations(bridge, 11)
        self.assertGreaterEqual(len(spans), 2)
        for low, high in spans:
            # A second before and behind: the clock that is counted by shows whole ones.
            grid = [int((at - first_use) // 4) for at in (low - 1, high + 1)]
            self.assertGreater(grid[1], grid[0], f"{low - first_use:.2f} to {high - first_use:.2f} s after first use")

    def test_an_idle_link_takes_no_key(self):
        bridge, connection = self.holder("idle", "time=1")
        self.outside(bridge)
        keys, up = self.keys_used(bridge), self.cells(connection, UP)
        time.sleep(4)
        self.assertEqual((self.keys_used(bridge), self.cells(connection, UP)), (keys, up))
        self.outside(bridge)
        self.assertGreater(self.keys_used(bridge), keys)

    def test_limits_go_together(self):
        bridge, connection = self.holder("both", f"time=2,bytes={8 * CELL}")
        start = self.keys_used(bridge)
        self.outside(bridge, ("z" * 70 + "\r\n") * 12_000)
        by_bytes = self.keys_used(bridge)
        self.assertGreater(by_bytes, start + 5)
        time.sleep(2.5)
        self.outside(bridge)
        self.assertGreater(self.keys_used(bridge), by_bytes)

    def test_a_key_past_its_limit_survives_a_cut(self):
        bridge, _ = self.holder("cut", f"bytes={4 * CELL}")
        for _ in range(3):
            self.outside(bridge, "q\r\n" * 20_000)
            self.proxy.cut()
            wait_until(lambda: bridge.status()["linked"], 30, "the next link")
        self.outside(bridge)


class Enforced(Rotation):
    def test_a_cell_beyond_the_limit_ends_the_link_and_a_new_key_goes_on(self):
        client = self.world.second_client("strict", KEYS, VALUE, rotate=f"bytes={4 * CELL}")
        client.connect()
        # LINKED and three balances: four cells down, three up.
        for _ in range(3):
            client.balance()
        client._send(client.rotate())
        balance, keys, _, debits = client.balance()
        self.assertEqual((keys, debits), (KEYS - 2, 2 * self.relay.prices["key"]))
        for _ in range(3):
            client.balance()
        with self.assertRaises((ConnectionError, TimeoutError)):
            client.balance()

    def test_an_index_that_is_burned_or_far_off_ends_the_link_and_costs_nothing(self):
        client = self.world.second_client("wrong", KEYS, VALUE, rotate=f"bytes={4 * CELL}")
        client.connect()
        for index in (client.chain.index + 4,):
            client._send(client.rotate(index))
            with self.assertRaises((ConnectionError, TimeoutError)):
                client.balance()
        client.socket.close()
        client.connect()
        _, keys, _, debits = client.balance()
        self.assertEqual((keys, debits), (KEYS - 2, 2 * self.relay.prices["key"]))

    def test_a_link_of_one_key_may_not_rotate(self):
        client = self.world.second_client("single", KEYS, VALUE)
        client.connect()
        client._send(client.rotate())
        with self.assertRaises((ConnectionError, TimeoutError)):
            client.balance()

    @full_only
    def test_a_holder_who_does_not_rotate_in_time_is_closed(self):
        client = self.world.second_client("late", KEYS, VALUE, rotate="time=1")
        client.connect()
        time.sleep(3)
        client.balance()
        time.sleep(30)
        with self.assertRaises((ConnectionError, TimeoutError)):
            client.balance()


class Alike(Rotation):
    def test_every_policy_leaves_the_same_frame_sizes(self):
        policies = [None, "time=1", "interval=2", f"bytes={4 * CELL}", f"time=2,interval=3,bytes={5 * CELL}"]
        for number, policy in enumerate(policies):
            with self.subTest(policy=policy):
                bridge, connection = self.holder(f"alike{number}", policy)
                for _ in range(3):
                    self.outside(bridge, "text\r\n" * 5_000)
                    time.sleep(0.7)
                for direction in (UP, DOWN):
                    self.assertEqual(connection.counts[direction] % CELL, 0)


class Ending(Rotation):
    def test_keys_and_value_end_together(self):
        client = self.world.second_client("ends", 16, 1_000_000, rotate=f"bytes={4 * CELL}")
        client.connect()
        for used in range(2, 16):
            client._send(client.rotate())
            balance, keys, credits, debits = client.balance()
            self.assertEqual((keys, debits), (16 - used, used * self.relay.prices["key"]))
        client._send(client.rotate())
        self.assertEqual(client.balance(), (0, 0, 1_000_000, 1_000_000))
        self.relay.audit()
