"""A disk that is full, read-only or failing: refused at once, served again when it is over, and nothing lost meanwhile.

The failure is a store that latches its first error and answers nothing until somebody restarts it, or one that goes
on and acknowledges what it could not write.
"""

import contextlib
import os
import smtplib
import time
from functools import partial

from clients import deliver, message, refusal_of, submit
from disks import MIB, Faults, OwnDisks, needs_faults, needs_loop_disks
from harness import OUTSIDE, World, by_extent, word
from processes import wait_until
from traffic import KEYS, PRICES, VALUE, Judged, Traffic, first_read, first_served

ANSWER_S, RECOVERY_S = 1.0, 5.0
# What the stores keep free for themselves (docs/ARCHITECTURE.md, bounds).
RESERVE = 64 * MIB
REFUSALS = by_extent(5, 30)


class BadDisk(Judged):
    """`spoil` and `mend` are the two ends of a bad time of one program's disk."""

    def refusals_of_the_relay(self):
        return [self.refusal(lambda: self.hand_in(self.world.b)) for _ in range(REFUSALS)]

    def refusals_of_the_bridge(self):
        return [self.refusal(lambda: self.hand_out(self.world.a)) for _ in range(REFUSALS)]

    def hand_in(self, holder):
        token = word("in")
        deliver(self.relay.mx, OUTSIDE, holder.alias, message(OUTSIDE, holder.alias, token, "x" * 900))
        return token

    def hand_out(self, holder):
        token = word("out1k")
        submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token))
        return token

    def refusal(self, action):
        """Code and text of a refusal, and the seconds that it took."""
        started = time.monotonic()
        code, text = refusal_of(action)
        return code, text, time.monotonic() - started

    def judge_refusals(self, refusals, beginning=""):
        """All are temporary, and at once: a busy machine may be slow now and then, but not every time."""
        for code, text, _ in refusals:
            self.assertEqual(code // 100, 4, text)
            self.assertTrue(text.startswith(beginning), text)
        waits = sorted(wait for _, _, wait in refusals)
        print(f"       refused within {waits[-1]:.2f} s: {refusals[0][0]} {refusals[0][1]}")
        self.assertLess(waits[len(waits) // 2], ANSWER_S)

    def relay_recovers(self, traffic, link_s=0):
        """Mail from outside is taken, and a submission gets through the link, which may have to be made first, and out."""
        started = time.monotonic()
        traffic.received["b"].append(first_served(self.relay, self.world.b.alias, RECOVERY_S))
        taken = time.monotonic() - started
        token = self.hand_out(self.world.b)
        traffic.sent.append(token)
        wait_until(lambda: self.sink.with_word(token), RECOVERY_S + link_s - taken, "a submission outside")
        print(f"       mail taken after {taken:.2f} s, a submission outside after {time.monotonic() - started:.2f} s")

    def bridge_recovers(self, traffic):
        """A submission is taken, and waiting mail comes in."""
        started = time.monotonic()

        def taken():
            with contextlib.suppress(smtplib.SMTPException, OSError):
                return self.hand_out(self.world.a)

        traffic.sent.append(wait_until(taken, RECOVERY_S, "a submission taken by the bridge"))
        submitted = time.monotonic() - started
        first_read(self.world.a, RECOVERY_S - submitted)
        wait_until(lambda: not self.relay.totals()["deposits"], RECOVERY_S - submitted, "mail collected by the bridge")
        print(f"       submission after {submitted:.2f} s, mail collected after {time.monotonic() - started:.2f} s")

    def under_load(self, spoil, refusals, mend, recovers, beginning=""):
        """A bad time in the midst of traffic both ways, and the judgement of everything about it."""
        with Traffic(self.world, sizes=(1,)) as traffic:
            time.sleep(1)
            spoil()
            # What was under way when it began may still be answered in the old way.
            time.sleep(0.2)
            self.judge_refusals(refusals(), beginning)
        mend()
        recovers(traffic)
        with traffic:
            time.sleep(1)
        self.judge(traffic)


@needs_loop_disks
class Full(BadDisk):
    @staticmethod
    def make():
        return OwnDisks(keys=KEYS, value=VALUE, prices=PRICES)

    def full(self, name, leave, refusals, recovers):
        disk = self.world.disks[name]
        self.under_load(lambda: disk.fill(leave), refusals, disk.empty, recovers, "4.3.1")

    def test_a_relay_just_below_its_reserve_refuses_and_recovers(self):
        self.full("relay", RESERVE - MIB, self.refusals_of_the_relay, self.relay_recovers)

    def test_a_relay_without_a_free_byte_refuses_and_recovers(self):
        self.full("relay", 0, self.refusals_of_the_relay, self.relay_recovers)

    def test_a_bridge_just_below_its_reserve_refuses_and_recovers(self):
        self.full("a", RESERVE - MIB, self.refusals_of_the_bridge, self.bridge_recovers)

    def test_a_bridge_without_a_free_byte_refuses_and_recovers(self):
        self.full("a", 0, self.refusals_of_the_bridge, self.bridge_recovers)

    def test_what_waits_in_an_outbox_of_another_goes_out_when_there_is_room(self):
        disk = self.world.disks["relay"]
        disk.fill(RESERVE - MIB)
        tokens = [self.hand_out(self.world.b) for _ in range(5)]
        time.sleep(2)
        self.assertEqual([token for token in tokens if self.sink.with_word(token)], [])
        self.assertEqual(len(self.world.b.outbox()), len(tokens))
        disk.empty()
        wait_until(lambda: all(self.sink.with_word(token) for token in tokens), RECOVERY_S, "the outbox outside")

    def test_a_relay_killed_on_a_full_disk_starts_on_it(self):
        disk = self.world.disks["relay"]
        self.under_load(
            lambda: (disk.fill(0), self.die_and_start(self.relay)),
            self.refusals_of_the_relay,
            disk.empty,
            # No link could be made meanwhile, and the bridge's next try may be some seconds off.
            partial(self.relay_recovers, link_s=15),
            "4.3.1",
        )

    def test_a_bridge_killed_on_a_full_disk_starts_on_it(self):
        disk = self.world.disks["a"]
        self.under_load(
            lambda: (disk.fill(0), self.die_and_start(self.world.a)),
            self.refusals_of_the_bridge,
            disk.empty,
            self.bridge_recovers,
            "4.3.1",
        )

    def die_and_start(self, victim):
        victim.kill()
        if victim is self.relay:
            self.breaks.append(time.time())
        victim.start()


@needs_loop_disks
class FoundDamaged(BadDisk):
    """The kernel finds a file system damaged and makes it read-only; it stays so until it is mounted anew."""

    @staticmethod
    def make():
        world = OwnDisks("errors=remount-ro", keys=KEYS, value=VALUE, prices=PRICES)
        os.sync()
        return world

    def test_a_relay_refuses_until_its_disk_is_mounted_anew(self):
        self.read_only(self.relay, self.refusals_of_the_relay, self.relay_recovers)

    def test_a_bridge_refuses_until_its_disk_is_mounted_anew(self):
        self.read_only(self.world.a, self.refusals_of_the_bridge, self.bridge_recovers)

    def read_only(self, victim, refusals, recovers):
        disk = self.world.disks[victim.name]

        def mend():
            self.assertTrue(victim.process.running, victim.process.last_words())
            victim.stop()
            if victim is self.relay:
                self.breaks.append(time.time())
            disk.remount()
            victim.start()

        def spoil():
            # What leaves the relay from here on cannot be recorded, however long its stop then takes.
            if victim is self.relay:
                self.breaks.append(time.time())
            disk.fail()

        self.under_load(spoil, refusals, mend, recovers)


class Passing(BadDisk):
    """Every write fails for a while, and then again works, under the same open files."""

    def passing(self, fault, refusals, recovers):
        strike = self.world.faults.strike
        self.under_load(lambda: strike(fault), refusals, lambda: strike(Faults.NONE), recovers)


@needs_faults
class PassingAtTheRelay(Passing):
    """Where all users' mail goes through."""

    @staticmethod
    def make():
        return faulty("relay")

    def test_a_relay_on_a_read_only_disk_refuses_and_recovers(self):
        self.passing(Faults.READ_ONLY, self.refusals_of_the_relay, self.relay_recovers)

    def test_a_relay_on_a_failing_disk_refuses_and_recovers(self):
        self.passing(Faults.ERROR, self.refusals_of_the_relay, self.relay_recovers)


@needs_faults
class PassingAtABridge(Passing):
    """Where the holder is."""

    @staticmethod
    def make():
        return faulty("a")

    def test_a_bridge_on_a_read_only_disk_refuses_and_recovers(self):
        self.passing(Faults.READ_ONLY, self.refusals_of_the_bridge, self.bridge_recovers)

    def test_a_bridge_on_a_failing_disk_refuses_and_recovers(self):
        self.passing(Faults.ERROR, self.refusals_of_the_bridge, self.bridge_recovers)


@needs_faults
class PassingWithTheLog(PassingAtTheRelay):
    """The same where standard error is a file on the same disk: a line that cannot be logged must not end a thread."""

    @staticmethod
    def make():
        return faulty("relay", beginning="")


@needs_faults
class PassingWithTheLogOfABridge(PassingAtABridge):
    """And at the bridge."""

    @staticmethod
    def make():
        return faulty("a", beginning="")


def faulty(name, beginning="/"):
    """A world in which the disk of one program can be made to fail: its folder, or what is named like it too."""
    world = World(keys=KEYS, value=VALUE, prices=PRICES)
    victim = getattr(world, name)
    world.faults = Faults(world.folder.path, f"{victim.data}{beginning}")
    victim.environment = world.faults.environment
    victim.stop()
    victim.start()
    return world
