"""The plug is pulled under load: what was acknowledged is there afterwards, once, and paid once (invariants 3, 4, 5).

kill -9 leaves everything that the process handed to the kernel; a power cut leaves what was synced and no more. A
store that answers before its sync passes every test of crash.py and loses mail here. The last test does exactly that
to the relay, by syncs that do nothing, and must find mail lost.
"""

import os
import random
import time
import unittest
import urllib.request

from clients import deliver, message
from disks import Faults, OwnDisks, needs_faults, needs_loop_disks
from harness import OUTSIDE, Bridge, by_extent, word
from traffic import KEYS, PRICES, VALUE, Judged, Traffic, spread, start_and_serve

# Cuts that one system goes through.
CUTS_OF_A_WORLD = 20
VICTIMS = [("relay",), ("relay",), ("a",), ("relay", "a")]


class World(OwnDisks):
    """A world that has been there for a while."""

    def __init__(self):
        super().__init__(keys=KEYS, value=VALUE, prices=PRICES)
        os.sync()


@needs_loop_disks
class RandomInstants(Judged):
    make = World

    def pull_the_plug(self, names, wait=0.0):
        """Cuts the disks of these, and the power of the processes `wait` seconds later; mounts what is left."""
        for name in names:
            self.world.disks[name].cut()
        time.sleep(wait)
        for name in names:
            getattr(self.world, name).kill()
        if "relay" in names:
            self.breaks.append(time.time())
        for name in names:
            self.world.disks[name].remount()

    def start_again(self, names, traffic):
        """Starts what was cut; returns the seconds until each served its first request."""
        waits = []
        for name in names:
            seconds, token = start_and_serve(getattr(self.world, name), self.world.a.alias)
            waits.append(seconds)
            if token:
                traffic.received["a"].append(token)
        return waits

    def test_nothing_acknowledged_is_lost_or_doubled_by_power_cuts_at_random_instants(self):
        seed = random.randrange(1 << 32)
        draw, waits, acknowledged = random.Random(seed), [], 0
        print(f"       seed {seed}")
        for number in range(by_extent(10, 200)):
            if number % CUTS_OF_A_WORLD == CUTS_OF_A_WORLD - 1:
                self.renew()
            names = draw.choice(VICTIMS)
            # A disk that is gone while the program still runs: it must not acknowledge what it cannot write.
            with Traffic(self.world, links=4) as traffic:
                time.sleep(draw.uniform(0.5, 3.0))
                self.pull_the_plug(names, draw.choice([0, 0, draw.uniform(0, 0.3)]))
                waits += self.start_again(names, traffic)
                time.sleep(0.5)
            self.judge(traffic)
            self.no_position_ran_back()
            acknowledged += traffic.acknowledged
        print(f"       {acknowledged} acknowledged; start to first request served: {spread(waits)}")

    def no_position_ran_back(self):
        """Neither side saw the other use a key twice, or forget one."""
        with urllib.request.urlopen(f"http://{self.relay.web}/metrics", timeout=10) as page:
            metrics = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#")
        for name in ("postern_token_mismatches_total", "postern_rollbacks_total"):
            self.assertEqual(float(metrics[name]), 0, name)


@needs_loop_disks
@needs_faults
class SyncsThatLie(unittest.TestCase):
    """The same cut, after a relay that syncs and after one that is made to think it does."""

    def setUp(self):
        self.world = OwnDisks(holders=["a"])
        self.addCleanup(self.world.close)

    def lost_of(self, count):
        """Hands `count` messages to a relay whose holder is away, pulls the plug, and returns how many are gone."""
        relay, disk = self.world.relay, self.world.disks["relay"]
        for _ in range(count):
            deliver(relay.mx, OUTSIDE, self.world.a.alias, message(OUTSIDE, self.world.a.alias, word()))
        before = relay.totals()["deposits"]
        disk.cut()
        relay.kill()
        disk.remount()
        relay.environment = None
        relay.start()
        return before - relay.totals()["deposits"]

    def test_a_cut_loses_the_mail_of_a_relay_whose_syncs_do_nothing_and_of_no_other(self):
        self.world.a.stop()
        relay = self.world.relay
        faults = Faults(self.world.folder.path, f"{relay.data}/")
        self.assertEqual(self.lost_of(40), 0)
        relay.stop()
        # What lies in the kernel is written now, so that the lie costs the new mail and not the accounts.
        os.sync()
        relay.environment = faults.environment
        relay.start()
        faults.strike(Faults.LIE)
        self.assertGreater(self.lost_of(40), 0)


@needs_loop_disks
class JustMade(unittest.TestCase):
    """A cut before the kernel wrote anything out by itself."""

    VALUE = 100_000_000

    def setUp(self):
        self.world = OwnDisks(holders=())
        self.addCleanup(self.world.close)
        self.bridge = Bridge(self.world.folder.path, "a", self.world.proxy.address)

    def issue(self, pack):
        self.world.relay.issue(pack, self.bridge.passphrase, 100, self.VALUE)

    def judge(self):
        """The bridge links, and has what was issued."""
        self.world.bridges.append(self.bridge)
        self.bridge.start()
        self.assertEqual(self.bridge.settled()["balance"], self.VALUE - self.world.relay.prices["key"])

    def test_a_bridge_made_just_before_the_cut_starts_after_it(self):
        pack, disk = self.world.folder.path / "a.pack", self.world.disks["a"]
        self.issue(pack)
        self.bridge.init(pack)
        disk.cut()
        disk.remount()
        self.judge()

    def test_what_a_relay_issued_just_before_the_cut_is_there_after_it(self):
        relay, disk = self.world.relay, self.world.disks["relay"]
        # The pack file is cut off with the relay, as where both are on one disk.
        pack = relay.data / "a.pack"
        self.issue(pack)
        disk.cut()
        relay.kill()
        disk.remount()
        relay.start()
        self.bridge.init(pack)
        self.judge()
