"""What an observer and an attacker on the path get: cells of one size, noise, and silence (invariants 1 and 7).

A second size, a repeated block, an answer to a replayed flight or a clock that runs a little differently for a known
tag: each joins two connections of one user, and that is all an observer wants.
"""

import asyncio
import random
import time

import figures
from clients import Inbox, deliver, message, split_address, submit
from figures import CELL
from harness import OUTSIDE, Hazard, World, by_extent, word
from processes import wait_until
from proxy import DOWN, UP


class Observer(Hazard):
    """Passive: reads the path between bridges and relay."""

    def setUp(self):
        self.sink, self.proxy, self.a, self.b = self.world.sink, self.world.proxy, self.world.a, self.world.b

    def exchange(self, size=100):
        """One message out and one in."""
        token = word()
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token, "x" * 70 + "\r\n" + "y\r\n" * (size // 3)))
        deliver(
            self.world.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token, "z\r\n" * (size // 3))
        )
        Inbox(self.a).wait_for(token)
        wait_until(lambda: self.sink.with_word(token), 30, "the message outside")

    def test_only_cells_of_one_size_cross_the_path_both_ways(self):
        for size in (10, 5_000, 40_000):
            self.exchange(size)
        self.a.settled()
        time.sleep(0.5)
        for connection in self.proxy.connections:
            for direction in (UP, DOWN):
                self.assertEqual(connection.counts[direction] % CELL, 0, f"{direction} of {connection.number}")

    def test_the_first_flights_are_single_cells(self):
        self.world.relink()
        for connection in self.proxy.connections[-2:]:
            bursts = connection.bursts()
            self.assertEqual(bursts[:3], [(UP, CELL), (DOWN, CELL), (UP, CELL)])

    def test_bursts_are_powers_of_two(self):
        self.a.settled()
        time.sleep(3)
        start = {connection.number: len(connection.chunks) for connection in self.proxy.connections}
        for size in (10, 10_000, 20_000, 40_000, 70_000):
            self.exchange(size)
            time.sleep(1.5)
        seen = set()
        for connection in self.proxy.connections:
            del connection.chunks[: start.get(connection.number, 0)]
            seen |= {octets // CELL for _, octets in connection.bursts(quiet=0.05)}
        self.assertTrue(all(map(figures.is_power_of_two, seen)), sorted(seen))
        self.assertGreater(max(seen), 2)

    def test_two_messages_of_one_class_look_alike(self):
        sizes = []
        for length in (17_500, 24_000, 30_500):
            self.a.settled()
            time.sleep(1.5)
            before = self.proxy.open_connections[0].number, {c.number: c.counts[UP] for c in self.proxy.connections}
            submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, word(), "x" * 70 + "\r\n" + "y\r\n" * (length // 3)))
            self.a.settled()
            time.sleep(0.5)
            sizes.append(sum(c.counts[UP] - before[1].get(c.number, 0) for c in self.proxy.connections))
        self.assertEqual(len(set(sizes)), 1, sizes)

    def test_connections_share_no_block_but_the_tag_of_an_unconfirmed_index(self):
        for _ in range(by_extent(6, 40)):
            self.exchange()
            self.world.relink()
        owner, shared = {}, []
        for connection in self.proxy.connections:
            for direction in (UP, DOWN):
                octets = connection.octets(direction)
                for at in range(0, len(octets) - 15, 16):
                    block, place = octets[at : at + 16], (connection.number, direction, at)
                    if owner.setdefault(block, place) != place:
                        shared.append((owner[block], place))
        confirmed = {c.number for c in self.proxy.connections if c.counts[UP] >= 2 * CELL}
        for first, second in shared:
            tags = all(place[1:] == (UP, 0) for place in (first, second))
            retried = first[0] not in confirmed or second[0] not in confirmed
            self.assertTrue(tags and retried, (first, second))

    def test_all_octets_look_like_noise(self):
        self.exchange(100_000)
        everything = b"".join(c.octets(way) for c in self.proxy.connections for way in (UP, DOWN))
        self.assertGreater(len(everything), 20 * CELL)
        self.assertLess(abs(figures.chi_square_deviation(everything)), 5)

    def test_a_cut_loses_nothing(self):
        for direction in (UP, DOWN):
            for cells in (0.5, 1, 1.5, 2, 2.5, 3, 5):
                with self.subTest(direction=direction, cells=cells):
                    token = word()
                    self.world.relink()
                    self.proxy.cut_after(direction, int(cells * CELL))
                    self.proxy.cut()
                    submit(self.a, self.b.alias, message(self.a.alias, self.b.alias, token, "x\r\n" * 5_000))
                    wait_until(lambda: self.proxy.connections[-1].closed, 30, "the cut")
                    self.proxy.heal()
                    self.assertEqual(len(Inbox(self.b).wait_for(token, seconds=120)), 1)


class Attacker(Hazard):
    """Active: changes what passes, and sends again what was recorded."""

    @staticmethod
    def make():
        return World(handshake_ms=1_000)

    def setUp(self):
        self.relay, self.proxy = self.world.relay, self.world.proxy

    def recorded(self, count):
        """What the holder's end sent in `count` completed connections, each as its cells."""
        client = self.world.second_client("recorded", keys=count + 40)
        streams = []
        for _ in range(count):
            client.connect()
            client.balance()
            client.close()
            streams.append(b"".join(client.sent))
        return streams

    def state(self):
        """All that may not change: sums at the relay, balance, keys and outbox of every holder."""
        statuses = [bridge.settled() for bridge in self.world.bridges]
        return self.relay.totals(), [(status["balance"], status["keys"], status["outbox"]) for status in statuses]

    def test_what_was_recorded_gets_no_answer_changes_nothing_and_waits_as_long_as_noise(self):
        draw = random.Random(random.randrange(1 << 32))
        streams = self.recorded(by_extent(150, 1_000))
        before = self.state()
        attacks = [(kind, make(draw, stream)) for stream in streams for kind, make in ATTACKS.items()]
        times = self.closing_times(draw, attacks)
        self.assertEqual(self.state(), before)
        for kind in set(times) - {"noise"}:
            with self.subTest(attack=kind):
                if figures.same_distribution(times["noise"], times[kind]) > 0.01:
                    continue
                # One in a hundred honest samples looks different; an honest difference shows twice.
                again = self.closing_times(draw, [attack for attack in attacks if attack[0] in (kind, "noise")])
                self.assertGreater(figures.same_distribution(again["noise"], again[kind]), 0.01)

    def closing_times(self, draw, attacks):
        """Sends each attack, in random order; fails on any answer. Returns the seconds to the close, by kind."""
        attacks = list(attacks)
        draw.shuffle(attacks)
        return asyncio.run(_attack_all(self.relay.link, attacks))

    def test_a_half_close_changes_nothing(self):
        async def half_closed():
            reader, writer = await asyncio.open_connection(*split_address(self.relay.link))
            started = time.monotonic()
            writer.write(random.randbytes(100))
            writer.write_eof()
            self.assertEqual(await reader.read(), b"")
            return time.monotonic() - started

        self.assertGreater(asyncio.run(half_closed()), 0.9)

    def test_a_bit_flipped_on_the_way_ends_the_link_and_loses_nothing(self):
        a, b = self.world.a, self.world.b
        for direction, offset in (
            (UP, 3),
            (UP, 100),
            (UP, CELL + 500),
            (DOWN, 20),
            (DOWN, CELL + 20),
            (UP, 2 * CELL + 9),
        ):
            with self.subTest(direction=direction, offset=offset):
                token = word()
                self.world.relink()
                self.proxy.flip(direction, offset)
                self.proxy.cut()
                submit(a, b.alias, message(a.alias, b.alias, token))
                self.assertEqual(len(Inbox(b).wait_for(token, seconds=120)), 1)
        self.proxy.heal()
        self.relay.audit()


async def _attack_all(address, attacks, at_once=48):
    """Every attack on a connection of its own. Returns the seconds until the relay closed, by kind."""
    places, times = asyncio.Semaphore(at_once), {}

    async def attack(kind, flights):
        async with places:
            reader, writer = await asyncio.open_connection(*split_address(address))
            started = time.monotonic()
            try:
                for flight in flights:
                    writer.write(flight)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                answer = await asyncio.wait_for(reader.read(1), 60)
            except ConnectionError:
                answer = b""
            if answer:
                raise AssertionError(f"the relay answered {kind}")
            times.setdefault(kind, []).append(time.monotonic() - started)
            writer.close()

    await asyncio.gather(*(attack(kind, flights) for kind, flights in attacks))
    return times


def _cells(stream):
    return [stream[at : at + CELL] for at in range(0, len(stream), CELL)]


def _flip(draw, stream):
    at = draw.randrange(len(stream))
    return stream[:at] + bytes([stream[at] ^ 1 << draw.randrange(8)]) + stream[at + 1 :]


def _reordered(draw, stream):
    cells = _cells(stream)
    return draw.sample(cells, len(cells))


ATTACKS = {
    "replayed": lambda draw, stream: _cells(stream),
    "truncated": lambda draw, stream: [stream[: draw.randrange(1, len(stream))]],
    "flipped in the first cell": lambda draw, stream: _cells(_flip(draw, stream[:CELL]) + stream[CELL:]),
    "flipped": lambda draw, stream: _cells(_flip(draw, stream)),
    "reordered": _reordered,
    "noise": lambda draw, stream: _cells(draw.randbytes(len(stream))),
}
