"""kill -9 at any instant: what was acknowledged is there afterwards, once, and paid once (invariants 3, 4 and 5).

The interesting instants lie between two writes, where power goes and a message exists half: told to its sender as
accepted and lost, or spooled twice, or debited twice. Random kills find the wide windows; kills at every named
operation of the disk find the narrow ones. One of the two holders goes on under new keys all the while, by rotation and,
where kills are random, by asking for a new root again and again.
"""

import json
import random
import threading
import time

from harness import World, by_extent, word
from processes import wait_until
from traffic import KEYS, PRICES, VALUE, Judged, Traffic, spread, start_and_serve

FILES = ["segment", "index", "slots", "slab"]
POINTS = [f"{file}.write:{{}}:{moment}" for file in FILES for moment in ("before", "torn", "after")]
POINTS += [f"{file}.sync:{{}}:{moment}" for file in FILES for moment in ("before", "after")]
# Deaths between two judgements: a judgement takes longer than a death.
DEATHS_PER_JUDGEMENT = 25
# Judgements of one system.
JUDGEMENTS_OF_A_WORLD = 4


# Kills meet a link in the middle of this, too.
ROTATE = "bytes=131072"


class Crash(Judged):
    @staticmethod
    def make():
        world = World(holders=("a",), keys=KEYS, value=VALUE, prices=PRICES)
        world.b = world.add("b", KEYS, VALUE, rotate=ROTATE)
        return world

    def died(self, victim):
        if victim is self.relay:
            self.breaks.append(time.time())


class Rekeyed:
    """A pack that is given root after root, whoever dies meanwhile."""

    def __init__(self, bridge):
        self.bridge, self.roots = bridge, 1
        self._code, self._asking = self._file(), None
        bridge.command("activate", "--code-to", self._code)

    def _file(self):
        return self.bridge.data.parent / f"{word()}.code"

    def ask(self):
        """Asks for a new root and does not wait for it, unless one is on its way."""
        if self._asking and (self._asking.is_alive() or not self._told()):
            return
        self._following = self._file()
        words = ["rekey", "--code-from", self._code, "--code-to", self._following]
        self._asking = threading.Thread(target=self.bridge.command, args=words, kwargs={"check": False}, daemon=True)
        self._asking.start()

    def settle(self):
        """Waits until the last order has come to an end."""
        self._asking.join(120)
        wait_until(self._told, 120, "a pack whose root is settled")

    def _told(self):
        """Whether it is known which code counts: that of the last order, if there is a root more."""
        done = self.bridge.command("status", "--json", check=False)
        if done.returncode:
            return False
        status = json.loads(done.stdout)
        if not status["linked"] or status["rerooting"]:
            return False
        if status["frozen"] or status["root"] not in (self.roots, self.roots + 1):
            raise AssertionError(f"root {status['root']} after {self.roots}, frozen: {status['frozen']}")
        if status["root"] > self.roots:
            self.roots, self._code = status["root"], self._following
        return True


class RandomInstants(Crash):
    def test_nothing_is_lost_or_paid_twice_by_kills_at_random_instants(self):
        seed = random.randrange(1 << 32)
        draw, waits = random.Random(seed), {"relay": [], "bridge": []}
        print(f"       seed {seed}")
        acknowledged = roots = 0
        rekeyed = Rekeyed(self.world.b)
        for number in range(by_extent(4, 40)):
            if number % JUDGEMENTS_OF_A_WORLD == JUDGEMENTS_OF_A_WORLD - 1:
                self.renew()
                roots, rekeyed = roots + rekeyed.roots, Rekeyed(self.world.b)
            with Traffic(self.world, links=2) as traffic:
                for death in range(DEATHS_PER_JUDGEMENT):
                    rekeyed.ask()
                    time.sleep(draw.uniform(0.05, 0.7))
                    victim = self.relay if death % 2 else draw.choice(self.world.bridges)
                    victim.kill()
                    self.died(victim)
                    seconds, token = start_and_serve(victim, self.world.a.alias)
                    waits["relay" if token else "bridge"].append(seconds)
                    if token:
                        traffic.received["a"].append(token)
                time.sleep(0.5)
                rekeyed.settle()
            self.judge(traffic)
            acknowledged += traffic.acknowledged
        roots += rekeyed.roots
        self.assertGreater(roots, by_extent(10, 100))
        print(f"       {acknowledged} acknowledged, {roots} roots; start to first request served:")
        for name, seconds in waits.items():
            print(f"       {name}: {spread(seconds)}")


class EveryOperation(Crash):
    def test_a_kill_at_each_named_disk_operation_loses_nothing(self):
        draw = random.Random()
        deaths = [
            (victim, point.format(count))
            for point in POINTS
            for victim in (self.relay, self.world.a, self.world.b)
            for count in self.counts(point, draw)
        ]
        for first in range(0, len(deaths), DEATHS_PER_JUDGEMENT):
            group = deaths[first : first + DEATHS_PER_JUDGEMENT]
            with self.subTest(points=[f"{victim.name} {point}" for victim, point in group]):
                with Traffic(self.world) as traffic:
                    for victim, point in group:
                        self.die_at(victim, point)
                self.judge(traffic)

    @staticmethod
    def counts(point, draw):
        """How often an operation happens before the death at it. The index is written at a start and an end alone."""
        if point.startswith("index"):
            return by_extent([draw.randrange(1, 3)], [1, 2])
        return by_extent([draw.randrange(2, 12)], [1, 3, draw.randrange(4, 60)])

    def die_at(self, victim, point):
        """Runs `victim` under load until it dies at `point`, and starts it again."""
        victim.stop()
        victim.start("--kill-at", point, wait=False)
        if point.startswith("index"):
            time.sleep(1)
            victim.process.ask_to_end()
        wait_until(lambda: not victim.process.running, 30, f"the end of {victim.name} at {point}")
        self.died(victim)
        self.assertEqual(victim.process.wait(), -9)
        victim.start()
