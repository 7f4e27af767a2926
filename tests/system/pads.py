"""One-time pads: every cell recomputed from the known pad, no byte of it used twice, what was used gone from both disks.

A byte of a pad that masks two texts gives away the exclusive-or of both, to anybody, for ever; a MAC key used twice lets
anybody forge. So the recording decides, not the programs: the test keeps the pad as it was issued, opens every cell that
crossed the path by the documents alone, makes it again, and keeps count of every record and byte.
"""

import os
import random
import shutil
import smtplib
import socket
import struct
import subprocess
import threading
import time

from clients import Inbox, curl, deliver, message, refusal_of, split_address, submit, swaks
from copied import copy_of
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, by_extent, second_implementation, word
from needles import Secret, search_files, search_memory
from processes import peak, reset_peak, run, wait_for_port, wait_until
from proxy import DOWN, UP

CELL = 16_384
SIZE = "1M"
# Of the relay's prices: what a link costs.
KEY = 7


class Used:
    """What a recording used of a known pad, by the second implementation."""

    def __init__(self, blob):
        self.second = second_implementation()
        self.layout = self.second.PadLayout.of_size(len(blob) - 8_192)
        self.pad = self.second.Pad(blob, self.layout)
        numbers = range(self.layout.records)
        self.records = {
            way: {self.pad.record(way, number)[0]: number for number in numbers} for way in (UP, DOWN)
        }
        self.cells = {}
        self.masked = {UP: [], DOWN: []}
        self.links = []
        self.recomputed = 0

    def is_of(self, connection):
        return connection.octets(UP)[:16] in self.records[UP]

    def take(self, connections):
        """Opens and makes anew every whole cell of the connections under this pad."""
        for connection in filter(self.is_of, connections):
            link = {"hello": None, "lease": None, "end": None, "up": 0, "down": 0, "stands": False}
            octets = connection.octets(UP)
            if len(octets) >= CELL:
                # Only its tag is the pad's, which masks nothing: it may be tried again with another nonce.
                self.assert_noise(octets[32:CELL])
            link["hello"] = self.records[UP][octets[:16]]
            for way in (DOWN, UP):
                octets = connection.octets(way)
                first = CELL if way == UP else 0
                for at in range(first, len(octets) - CELL + 1, CELL):
                    self._open(way, octets[at : at + CELL], link)
            self.links.append(link)
        return self

    def assert_noise(self, octets):
        """Behind the nonce of a hello there are no bytes of the pad."""
        if any(self.pad.blob.find(octets[at : at + 16]) >= 0 for at in range(0, 1_024, 64)):
            raise AssertionError("a hello shows more of the pad than its tag")

    def _note(self, way, cell):
        """A record is for one cell: the same bytes may be sent again, others never."""
        number = self.records[way][cell[:16]]
        if self.cells.setdefault((way, number), cell) != cell:
            raise AssertionError(f"record {number} {way} was used for two cells")
        return number

    def _open(self, way, cell, link):
        if (way, self.records[way].get(cell[:16])) in self.cells:
            self._note(way, cell)
            return
        number = self._note(way, cell)
        offset, (kind, flags, _, data) = self.pad.open(way, number, cell)
        self.recomputed += 1
        count = self.second.pad_masked(kind, flags, data)
        self.masked[way].append((offset, offset + count))
        link[way] += 64 + count
        if kind == self.second.LEASE:
            _, (a, c, b, d), _ = self.second.decode_lease(data)
            link["lease"], link["end"] = (a, c), (b, d)
        elif kind == self.second.LINKED:
            link["stands"] = True
        elif kind == self.second.ANSWER and data[2:4] == bytes([1, 8]):
            records, rest = self.second.read_varint(data[4 : 2 + struct.unpack("<H", data[:2])[0]])
            link["end"] = records, self.second.read_varint(rest)[0]

    def overlap(self):
        """Body bytes that masked two cells."""
        twice = 0
        for ranges in self.masked.values():
            end = 0
            for first, behind in sorted(ranges):
                twice += max(0, min(end, behind) - first)
                end = max(end, behind)
        return twice


class Padded(Hazard):
    @staticmethod
    def make():
        world = World(holders=())
        add(world, "a")
        return world

    def setUp(self):
        self.relay, self.a, self.proxy, self.sink = self.world.relay, self.world.a, self.world.proxy, self.world.sink

    def mail_both_ways(self, length=200):
        token = word()
        deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token, "z" * 70 + "\r\n"))
        Inbox(self.a).wait_for(token)
        self.send(length)

    def send(self, length=200):
        token = word()
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token, ("y" * 70 + "\r\n") * (length // 72 + 1)))
        wait_until(lambda: self.sink.with_word(token), 60, "the message outside")

    def used(self):
        """Everything that crossed the path until now, judged."""
        used = Used(self.a.blob).take(self.proxy.connections)
        self.assertEqual(used.overlap(), 0, "bytes that masked two cells")
        return used


def add(world, name, *mix, size=SIZE):
    """A bridge on a pad whose bytes the test keeps."""
    bridge = Bridge(world.folder.path, name, world.proxy.address)
    pack = world.folder.path / f"{name}.pack"
    issue(world.relay, pack, bridge.passphrase, *mix, size=size)
    beside = pack.with_name(pack.name + ".pad")
    bridge.blob = beside.read_bytes()
    bridge.issued = second_implementation().open_pack(pack.read_bytes(), bridge.passphrase.read_bytes().strip())
    bridge.init(pack)
    assert not beside.exists(), "the pad was moved, not copied"
    world.bridges.append(bridge)
    setattr(world, name, bridge.start())
    return bridge


def issue(relay, pack, passphrase, *mix, size=SIZE, half=None, check=True):
    words = ["--out", pack, "--keys", 400, "--value", 100_000_000, "--passphrase-file", passphrase, "--pad", size]
    words += ["--half", half] if half else []
    return relay.command("pack", "issue", *words, *(part for source in mix for part in ("--mix", source)), check=check)


class Making(Padded):
    def test_a_source_that_is_too_short_is_refused_and_leaves_nothing(self):
        folder = self.world.folder.path
        short, passphrase = folder / "short", self.a.passphrase
        short.write_bytes(bytes((1 << 20) - 1))
        before = sorted(path.name for path in folder.rglob("*pad*"))
        accounts = self.relay.totals()["accounts"]
        for sources in ([short], ["/dev/null"], ["-"], ["/dev/zero", "/dev/zero"]):
            done = issue(self.relay, folder / "none.pack", passphrase, *sources, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("cannot make the pad", done.stderr)
        self.assertEqual(sorted(path.name for path in folder.rglob("*pad*")), before)
        self.assertEqual([path.name for path in folder.glob("none*")], [])
        self.assertEqual(self.relay.totals()["accounts"], accounts)

    def test_both_ends_have_the_same_bytes_and_no_two_pads_share_any(self):
        folder = self.world.folder.path
        source = folder / "source"
        source.write_bytes(bytes(1 << 20))
        pads = []
        for name in ("one", "two"):
            issue(self.relay, folder / f"{name}.pack", self.a.passphrase, source)
            pads.append((folder / f"{name}.pack.pad").read_bytes())
        names = [blob[16:32].hex() for blob in pads]
        for name, blob in zip(names, pads):
            path = self.relay.data / "pads" / name
            self.assertEqual(path.read_bytes()[8_192:], blob[8_192:])
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        blocks = {blob[at : at + 32] for blob in pads for at in range(8_192, len(blob), 32)}
        self.assertEqual(len(blocks), 2 * ((1 << 20) // 32))


class Large(Padded):
    def test_a_pad_of_any_size_is_made_taken_in_and_used_in_the_memory_of_a_small_one(self):
        size = by_extent("128M", "4G")
        folder, small = self.world.folder.path, self.a
        bridge = Bridge(folder, "large", self.proxy.address)
        made, taken = {}, {}
        for name, of in (("little", SIZE), ("large", size)):
            pack, data = folder / f"{name}.pack", folder / name
            words = ["--keys", 400, "--value", 100_000_000, "--passphrase-file", bridge.passphrase, "--pad", of]
            command = [BINARIES / "posternd", "pack", "issue", "--data", self.relay.data, "--out", pack, *words]
            reset_peak(self.relay.pid)
            made[name] = (most_memory(*command), peak(self.relay.pid))
            words = ["--pack", pack, "--dir", data, "--passphrase-file", bridge.passphrase]
            taken[name] = most_memory(BINARIES / "postern", "init", *words)
        mib = 1 << 20
        for one, other in (*zip(made["little"], made["large"]), (taken["little"], taken["large"])):
            self.assertLess(other - one, 8 * mib, "beyond what a pad of 1 MiB takes")
        self.world.bridges.append(bridge.start())
        token = word()
        deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, token, "z" * 70 + "\r\n"))
        Inbox(bridge).wait_for(token)
        self.mail_both_ways()
        used = peak(bridge.pid) - peak(small.pid)
        self.assertLess(used, 8 * mib, "beyond what a bridge on a pad of 1 MiB takes")
        print(f"      {size}: made in {made['large'][0] / mib:.0f} MiB, {used / mib:+.1f} MiB to use it")


def most_memory(*command):
    """Runs a command and returns how much memory it had resident at its most, in bytes."""
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"{command[:3]}: {process.returncode}")
    return usage.ru_maxrss * 1_024


class Links(Padded):
    def test_mail_goes_both_ways_and_every_cell_is_the_pad_and_the_message(self):
        token = word()
        sent = swaks(
            self.a.smtp, self.a.alias, OUTSIDE, "--h-Subject", token, user=self.a.user, password=self.a.password
        )
        self.assertEqual(sent.returncode, 0, sent.stdout)
        wait_until(lambda: self.sink.with_word(token), 60, "the message outside")
        token = word()
        deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        Inbox(self.a).wait_for(token)
        text = curl(f"imap://{self.a.imap}/INBOX", "-X", f"SEARCH SUBJECT {token}", holder=self.a)
        self.assertRegex(text.decode(), r"SEARCH \d+")
        self.mail_both_ways(60_000)
        used = self.used()
        self.assertGreater(used.recomputed, 30)
        status = self.a.command("status").stdout
        self.assertIn("one-time pad", status)
        self.relay.audit()

    def test_consumption_is_the_formula_exactly(self):
        self.mail_both_ways(20_000)
        self.proxy.cut()
        self.a.settled()
        self.mail_both_ways(300)
        self.a.settled()
        time.sleep(1.5)
        status, used = self.a.status()["pad"], self.used()
        region = used.layout.region
        down = sum(link["down"] for link in used.links)
        self.assertEqual(region - status["down"]["bytes"], down)
        up, last = 0, used.links[-1]
        for link in used.links:
            self.assertTrue(link["stands"])
            (a, c), (b, d) = link["lease"], link["end"]
            leased = 64 * (b - a) + d - c
            self.assertLessEqual(link["up"], leased)
            # The record of cell 1; the whole lease of a link that is over, of the last one what it used.
            up += 64 + (link["up"] if link is last else leased)
        self.assertEqual(region - status["up"]["bytes"], up)

    def test_each_link_is_paid_for_as_with_keys(self):
        self.a.settled()
        before = self.a.status()
        links = 3
        for _ in range(links):
            seen = len(self.proxy.connections)
            self.proxy.cut()
            wait_until(lambda seen=seen: len(self.proxy.connections) > seen, 30, "the next link")
            self.a.settled()
        after = self.a.status()
        self.assertEqual(before["keys"] - after["keys"], links)
        self.assertEqual(before["balance"] - after["balance"], links * KEY)

    def test_the_keys_of_a_pack_with_a_pad_open_nothing(self):
        second = second_implementation()
        chain = second.Chain.from_root("link", self.a.issued["root"])
        for index in range(4):
            client = second.Client(split_address(self.relay.link), self.a.issued["relay_public"], chain, timeout=2)
            with self.assertRaises((socket.timeout, TimeoutError)):
                client.connect()
            client.socket.close()
            chain.advance()


class Erased(Padded):
    def test_what_was_used_is_on_neither_disk(self):
        for _ in range(3):
            self.mail_both_ways(5_000)
        self.a.settled()
        time.sleep(2)
        used = self.used()
        pads = [self.a.data / "pad", self.relay.data / "pads" / self.a.blob[16:32].hex()]
        secrets, layout = [], used.layout
        for way, number in used.cells:
            _, key, mask = used.pad.record(way, number)
            secrets.append(Secret(f"P {way} {number}", key))
            for path in pads:
                record = path.read_bytes()[layout.record_at(way, number) :][:64]
                self.assertEqual(record, bytes(64), f"record {number} {way}")
        for way, ranges in used.masked.items():
            for first, behind in ranges:
                for at in range(first, behind - 31, 32):
                    secrets.append(Secret(f"bytes {way} {at}", used.pad.body(way, at, 32)))
                for path in pads:
                    with path.open("rb") as file:
                        file.seek(layout.body_at(way, first))
                        self.assertEqual(file.read(behind - first), bytes(behind - first))
        self.assertGreater(len(secrets), 300)
        secrets = random.sample(secrets, 200)
        self.assertEqual(search_files(secrets, self.relay.data, self.a.data), [])
        self.assertEqual(search_memory(secrets, self.relay.pid, self.a.pid), [])
        # The control: what was not used is found at both ends.
        unused = [Secret("unused", used.pad.record(DOWN, layout.records - 1)[1])]
        for data in (self.relay.data, self.a.data):
            self.assertTrue(search_files(unused, data))


class Once(Padded):
    def test_no_byte_is_used_twice_whatever_is_killed(self):
        draw = random.Random()
        for death in range(by_extent(10, 200)):
            token = word()
            submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
            time.sleep(draw.uniform(0, 0.4))
            victim = draw.choice([self.relay, self.a])
            victim.kill()
            victim.start()
            wait_until(lambda token=token: self.sink.with_word(token), 90, "the message outside")
            self.assertEqual(len(self.sink.with_word(token)), 1)
        self.used()
        self.relay.audit()

    def test_a_restored_copy_uses_nothing_again_and_goes_on(self):
        self.a.settled()
        self.a.stop()
        copy = self.world.folder.path / "copy"
        shutil.copytree(self.a.data, copy, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
        self.a.start()
        for _ in range(3):
            self.mail_both_ways(2_000)
        self.a.settled()
        self.a.stop()
        shutil.rmtree(self.a.data)
        shutil.copytree(copy, self.a.data)
        self.a.start(wait=False)
        wait_until(self.linked_again, 240, "the link of the restored copy")
        self.send()
        self.used()

    def linked_again(self):
        done = run(BINARIES / "postern", "status", "--json", "--dir", self.a.data, check=False)
        return done.returncode == 0 and self.a.status()["linked"]


    def test_a_copy_made_in_the_middle_of_traffic_uses_nothing_again(self):
        tokens, stop = [], threading.Event()

        def traffic():
            while not stop.is_set():
                token = word()
                submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
                tokens.append(token)
                time.sleep(0.1)

        sender = threading.Thread(target=traffic)
        sender.start()
        time.sleep(random.uniform(0.3, 0.8))
        copy = copy_of(self.a.data, self.world.folder.path / "live")
        time.sleep(0.4)
        self.proxy.cut()
        time.sleep(0.6)
        stop.set()
        sender.join()
        self.a.settled()
        self.a.stop()
        present = self.world.folder.path / "present"
        shutil.rmtree(present, ignore_errors=True)
        shutil.move(self.a.data, present)
        shutil.copytree(copy, self.a.data)
        self.a.start(wait=False)
        wait_until(lambda: not self.a.process.running or self.linked_again(), 240, "the link of the copy")
        if not self.a.process.running:
            # Files of different moments: the store says so.
            shutil.rmtree(self.a.data)
            shutil.move(present, self.a.data)
            self.a.start()
        self.send()
        for token in tokens:
            self.assertEqual(len(self.sink.with_word(token)), 1)
        self.used()
        self.relay.audit()
        for row in self.a.outbox():
            self.a.command("outbox", "cancel", row["row"])

    def test_two_that_run_side_by_side_use_nothing_twice(self):
        self.a.settled()
        self.a.stop()
        clone = Bridge(self.world.folder.path, "clone", self.proxy.address)
        clone.data, clone.passphrase = copy_of(self.a.data, self.world.folder.path / "clone"), self.a.passphrase
        clone.user, clone.password, clone.alias = self.a.user, self.a.password, self.a.alias
        for holder in (self.a, clone):
            holder.start(wait=False)
        self.addCleanup(clone.kill)
        for holder in (self.a, clone):
            wait_for_port(holder.process, holder.imap)
        for _ in range(by_extent(4, 40)):
            for holder in (self.a, clone):
                submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, word()))
            time.sleep(0.5)
        clone.stop()
        wait_until(self.linked_again, 240, "the link")
        self.used()
        self.relay.audit()


class Halves(Padded):
    """A pad from two sellers."""

    @staticmethod
    def make():
        return World(holders=())

    def setUp(self):
        self.relay, self.sink, self.proxy = self.world.relay, self.world.sink, self.world.proxy

    def test_neither_half_opens_anything_and_both_are_the_pad(self):
        folder, second = self.world.folder.path, second_implementation()
        self.a = a = Bridge(folder, "halved", self.proxy.address)
        pack, half = folder / "halved.pack", folder / "half"
        theirs = random.randbytes(1 << 20)
        half.write_bytes(theirs)
        operators = folder / "operators-half"
        shutil.copy(half, operators)
        issue(self.relay, pack, a.passphrase, half=operators)
        self.assertFalse(operators.exists(), "the operator's copy is gone")
        beside = pack.with_name(pack.name + ".pad")
        first = beside.read_bytes()
        issued = second.open_pack(pack.read_bytes(), a.passphrase.read_bytes().strip())
        _, check = second.joined_root(issued["root"], theirs)
        self.assertEqual(issued["pad"][3], check)

        wrong = folder / "wrong"
        wrong.write_bytes(random.randbytes(1 << 20))
        kept = pack.read_bytes()
        for files, said in (((), "one of two halves"), (("--half", wrong), "not the other half")):
            done = self.take_in(a, pack, *files)
            self.assertEqual(done.returncode, 1)
            self.assertIn(said, done.stderr)
            self.assertFalse(a.data.exists())
        self.assertEqual((pack.read_bytes(), beside.read_bytes(), half.read_bytes()), (kept, first, theirs))
        done = self.take_in(a, pack, "--half", half)
        self.assertEqual(done.returncode, 0, done.stderr)
        for gone in (beside, half):
            self.assertFalse(gone.exists())

        body = bytes(mine ^ other for mine, other in zip(first[8_192:], theirs))
        a.blob = first[:8_192] + body
        self.world.bridges.append(a)
        a.start()
        self.mail_both_ways()
        self.mail_both_ways(20_000)
        self.assertGreater(self.used().recomputed, 20)
        for alone in (first, first[:8_192] + theirs):
            self.assertFalse([c for c in self.proxy.connections if Used(alone).is_of(c)], "a half knows a tag")
        self.relay.audit()

    def take_in(self, bridge, pack, *options):
        return run(
            BINARIES / "postern", "init", "--pack", pack, "--dir", bridge.data,
            "--passphrase-file", bridge.passphrase, *options, check=False,
        )  # fmt: skip


class Named(Padded):
    @staticmethod
    def make():
        world = World(holders=())
        # What a killed relay had reserved is lost: of a small pad that is soon all of it.
        add(world, "a", size="16M")
        return world

    def test_no_byte_is_used_twice_by_a_kill_at_each_named_operation_on_a_pad(self):
        """The places where a pad says what is spent: one file at the holder, one of the pad's name at the relay."""
        draw, name = random.Random(), self.a.blob[16:32].hex()
        moments = {"write": ("before", "torn", "after"), "sync": ("before", "after")}
        for victim, file in ((self.a, "pad"), (self.relay, name)):
            for operation, moment in ((operation, moment) for operation in moments for moment in moments[operation]):
                for count in by_extent([draw.randrange(1, 12)], [1, 2, 3, 5, 8, 13]):
                    with self.subTest(victim=victim.name, operation=operation, moment=moment, count=count):
                        self.die_at(victim, f"{file}.{operation}:{count}:{moment}")
        self.used()
        self.relay.audit()

    def die_at(self, victim, point):
        """Runs `victim` until it dies at `point`, mail under way, and starts it again: the mail has left once."""
        victim.stop()
        victim.start("--kill-at", point, wait=False)
        tokens = []
        deadline = time.time() + 60
        while victim.process.running:
            self.assertLess(time.time(), deadline, f"{victim.name} outlived {point}")
            token = word()
            try:
                submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
                tokens.append(token)
            except (OSError, smtplib.SMTPException):
                pass
            time.sleep(0.1)
        self.assertEqual(victim.process.wait(), -9)
        victim.start()
        for token in tokens:
            wait_until(lambda token=token: self.sink.with_word(token), 90, "the message outside")
            self.assertEqual(len(self.sink.with_word(token)), 1)


class Ends(Padded):
    @staticmethod
    def make():
        world = World(holders=())
        add(world, "a")
        return world

    def test_the_end_is_told_before_anything_is_lost_and_the_last_requests_go(self):
        sent = []

        def until_refused():
            while True:
                token = word()
                submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token, ("y" * 70 + "\r\n") * 400))
                sent.append(token)
                self.a.settled()

        code, text = refusal_of(until_refused)
        self.assertEqual((code, text[:5]), (552, "5.2.2"))
        self.assertGreater(len(sent), 5)
        for token in sent:
            wait_until(lambda token=token: self.sink.with_word(token), 30, "what was acknowledged")
        token = word()
        deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        Inbox(self.a).wait_for(token)
        self.assertEqual(self.a.status()["outbox"], 0)
        self.used()
        self.relay.audit()
