"""A steady mix for long: what a process holds after the warm-up it holds at the end, whatever went through meanwhile.

A leak of a few bytes a message shows nowhere else: every other test ends before it matters.
"""

import os
import threading
import time
import unittest
from collections import Counter
from pathlib import Path

import figures
from clients import login
from harness import World, by_extent
from processes import resident, wait_until
from traffic import CLASS, KEYS, PRICES, TEXTS, VALUE, Traffic, subject_of

MIB = 1 << 20
SECONDS = by_extent(300, 3_600)
# The first part is the warm-up: caches fill, the first segments are laid out, INBOX reaches its steady length.
WARM_UP = SECONDS * 0.3
SAMPLE_S = 2.0
# Bounds of what is more at the end than after the warm-up.
MEMORY_MAX, FILES_MAX = 12 * MIB, 16
# Of the disk: one file being laid out ahead, and the books, which keep a posting for ever (docs/OPERATIONS.md).
DISK_MAX, DISK_OF_A_MESSAGE_MAX = 64 * MIB, 512
INBOX_MAX = 50


class Samples:
    """Memory, open files and disk of one program over time."""

    def __init__(self, program):
        self.program, self.rows = program, []

    def take(self, now):
        pid, folder = self.program.pid, Path(self.program.data)
        files = len(os.listdir(f"/proc/{pid}/fd"))
        disk = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        self.rows.append((now, resident(pid), files, disk))

    def growth(self, column):
        """How much more it is at the end than after the warm-up, by the line that fits best."""
        rows = [(row[0], row[column]) for row in self.rows if row[0] >= WARM_UP]
        mean_at = sum(at for at, _ in rows) / len(rows)
        mean = sum(value for _, value in rows) / len(rows)
        slope = sum((at - mean_at) * (value - mean) for at, value in rows) / sum((at - mean_at) ** 2 for at, _ in rows)
        return slope * (rows[-1][0] - rows[0][0])


class Steady(Traffic):
    """Submissions and mail from outside, and mail programs that read and delete; the notes are kept short."""

    def __init__(self, world):
        super().__init__(world, sizes=(8, 32), pause=0.05)
        self.sent_out, self.taken, self.seen = Counter(), Counter(), Counter()
        self.deleted = 0
        self._ways += [lambda holder=holder: self.read(holder) for holder in world.bridges]
        self._ways.append(self._tidy)
        self._tidying = threading.Lock()

    def read(self, holder):
        """Reads what is new, and deletes all but the newest once there are enough."""
        session = login(holder)
        try:
            session.select("INBOX")
            _, answer = session.uid("SEARCH", "UNSEEN")
            uids = answer[0].split()
            for first in range(0, len(uids), 20):
                _, parts = session.uid("FETCH", b",".join(uids[first : first + 20]).decode(), "(BODY[])")
                subjects = [subject_of(part[1]) for part in parts if isinstance(part, tuple)]
                self.seen.update(subject for subject in subjects if subject.startswith("in"))
            _, answer = session.uid("SEARCH", "ALL")
            old = answer[0].split()[:-INBOX_MAX]
            if old:
                session.uid("STORE", b",".join(old).decode(), "+FLAGS.SILENT", "(\\Deleted)")
                session.expunge()
                self.deleted += len(old)
        finally:
            session.logout()
        time.sleep(0.5)

    def _tidy(self):
        self.tidy()
        time.sleep(1)

    def tidy(self):
        """Counts what the sink got and lets it go: this process is not to grow either."""
        with self._tidying:
            offered = self.world.sink.offered
            while offered and offered[0].answered:
                delivery = offered.pop(0)
                self.taken[subject_of(delivery.content)] += 1
                self.sent_out[int(CLASS.search(delivery.content)[1])] += 1


class Soak(unittest.TestCase):
    def setUp(self):
        self.world = World(keys=KEYS, value=VALUE, prices=PRICES)
        self.addCleanup(self.world.close)

    def test_nothing_grows_under_a_steady_mix(self):
        world, programs = self.world, [Samples(program) for program in (self.world.relay, *self.world.bridges)]
        world.proxy.record = False
        started = time.monotonic()
        warm = None
        with Steady(world) as traffic:
            while (now := time.monotonic() - started) < SECONDS:
                if warm is None and now >= WARM_UP:
                    warm = traffic.acknowledged
                for samples in programs:
                    samples.take(now)
                time.sleep(SAMPLE_S)
        print(f"       {traffic.acknowledged} messages, {traffic.deleted} deleted, in {SECONDS} s")
        self.judge_books(traffic)
        self.judge_growth(programs, traffic.acknowledged - warm)

    def judge_growth(self, programs, messages):
        growths = []
        for samples in programs:
            name, (_, *last) = samples.program.name, samples.rows[-1]
            memory, files, disk = growth = [samples.growth(column) for column in (1, 2, 3)]
            growths.append((name, growth))
            print(
                f"       {name}: at the end {last[0] / MIB:.1f} MiB, {last[1]} files, {last[2] / MIB:.1f} MiB of disk;"
                f" since the warm-up {memory / MIB:+.2f} MiB, {files:+.1f} files, {disk / MIB:+.2f} MiB"
            )
        through = messages * (TEXTS[8] + TEXTS[32]) / 2
        disk_max = DISK_MAX + DISK_OF_A_MESSAGE_MAX * messages
        print(f"       since the warm-up {messages} messages, {through / MIB:.0f} MiB")
        self.assertGreater(through, disk_max, "too little went through to show anything")
        for name, (memory, files, disk) in growths:
            with self.subTest(program=name):
                self.assertLess(memory, MEMORY_MAX, "memory")
                self.assertLess(files, FILES_MAX, "open files")
                self.assertLess(disk, disk_max, "disk")

    def judge_books(self, traffic):
        """All of it came, once, and was paid once."""
        world = self.world
        statuses = [bridge.settled(120) for bridge in world.bridges]
        wait_until(lambda: world.relay.totals()["queued"] == 0, 120, "an empty queue")
        wait_until(lambda: world.relay.totals()["deposits"] == 0, 60, "no deposit left")
        for bridge in world.bridges:
            traffic.read(bridge)
        traffic.tidy()
        self.assertEqual(Counter(traffic.sent), traffic.taken)
        self.assertEqual(Counter(token for tokens in traffic.received.values() for token in tokens), traffic.seen)
        totals = world.relay.audit()["totals"]
        keys = sum(bridge.keys - status["keys"] for bridge, status in zip(world.bridges, statuses))
        cost = sum(times * figures.price(world.relay.prices, size) for size, times in traffic.sent_out.items())
        self.assertTrue(0 <= totals["debits"] - cost <= keys * world.relay.prices["key"], "not paid once each")
