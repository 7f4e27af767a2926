"""Activation: a pack goes on from a root that no copy of it holds, whoever dies on the way; and a copy in use freezes it.

Whoever sold the pack, or copied its file or its folder, has everything that opens it: until its holder has the relay
change the keys. From then on a copy is worth nothing, and the recovery code is what the holder has and a copy has not.
"""

import random
import shutil
import time

from clients import Inbox, deliver, message, split_address, submit
from harness import OUTSIDE, Bridge, Hazard, World, by_extent, second_implementation, word
from processes import wait_until

KEYS, VALUE = 2_000, 100_000_000
POINTS = [
    ("relay", "segment.sync:{}:before", 4),
    ("relay", "segment.sync:{}:after", 4),
    ("relay", "slots.write:{}:torn", 6),
    ("relay", "slab.write:{}:before", 3),
    ("bridge", "segment.sync:{}:before", 4),
    ("bridge", "segment.sync:{}:after", 4),
    ("bridge", "slots.write:{}:torn", 4),
    ("bridge", "slots.sync:{}:after", 4),
    ("bridge", "slab.write:{}:before", 3),
]


class Activation(Hazard):
    @staticmethod
    def make():
        return World(holders=())

    def setUp(self):
        self.relay, self.folder = self.world.relay, self.world.folder.path

    def holder(self, name):
        """A bridge, and a copy of its pack's file from before it was taken in."""
        bridge = Bridge(self.folder, name, self.world.proxy.address)
        pack, copy = self.folder / f"{name}.pack", self.folder / f"{name}.copy"
        self.relay.issue(pack, bridge.passphrase, KEYS, VALUE)
        shutil.copy(pack, copy)
        bridge.init(pack)
        self.world.bridges.append(bridge)
        self.addCleanup(bridge.kill)
        return bridge.start(), copy

    def mail_goes_both_ways(self, bridge):
        out, back = word(), word()
        submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, out))
        deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, back))
        wait_until(lambda: self.world.sink.with_word(out), 60, "the message outside")
        Inbox(bridge).wait_for(back)
        bridge.settled()
        self.assertEqual(len(self.world.sink.with_word(out)), 1)

    def code_file(self):
        return self.folder / f"{word()}.code"

    def activate(self, bridge):
        code = self.code_file()
        bridge.command("activate", "--code-to", code)
        return code

    def rekey(self, bridge, code, check=True):
        following = self.code_file()
        done = bridge.command("rekey", "--code-from", code, "--code-to", following, check=check)
        return following if done.returncode == 0 else done.stderr

    def meets_silence(self, clone):
        """It tries each key that it may, and none is answered."""
        log = self.folder / f"{clone.name}.log"
        before = len(log.read_text()) if log.exists() else 0
        clone.start(wait=False)
        wait_until(lambda: "the relay stayed silent" in log.read_text()[before:], 90, "the end of the clone's first try")
        self.assertNotIn("link ended", log.read_text()[before:])
        clone.kill()

    def copied_folder(self, bridge, name):
        """A second bridge on a copy of the folder of one that is stopped."""
        clone = Bridge(self.folder, name, self.world.proxy.address)
        shutil.copytree(bridge.data, self.folder / name, ignore=shutil.ignore_patterns("*.sock", "control*"))
        clone.passphrase = bridge.passphrase
        self.addCleanup(clone.kill)
        return clone


class Copies(Activation):
    def test_a_copy_of_the_pack_opens_nothing_once_it_is_activated(self):
        a, copy = self.holder("a")
        self.assertEqual(a.status()["root"], 0)
        self.mail_goes_both_ways(a)
        a.stop()
        folder = self.copied_folder(a, "oldfolder")
        a.start()
        waiting = word()
        deliver(self.relay.mx, OUTSIDE, a.alias, message(OUTSIDE, a.alias, waiting))
        code = self.activate(a)
        with self.subTest("what waited from before comes in"):
            Inbox(a).wait_for(waiting)
        self.mail_goes_both_ways(a)
        status = a.settled()
        self.assertEqual((status["root"], status["rerooting"], status["frozen"]), (1, False, False))
        self.assertNotEqual(a.command("activate", "--code-to", self.code_file(), check=False).returncode, 0)

        second = second_implementation()
        passphrase = a.passphrase.read_text().strip().encode()
        issue = second.open_pack(copy.read_bytes(), passphrase)
        chain = second.Chain.from_root("link", issue["root"])
        address = split_address(self.relay.link)
        for _ in range(by_extent(8, 40)):
            client = second.Client(address, issue["relay_public"], chain, timeout=0.4)
            with self.assertRaises(OSError, msg="a key of the pack's own root is answered"):
                client.connect()
            chain.advance()
        self.meets_silence(folder)
        self.mail_goes_both_ways(a)
        with self.subTest("and again, with the code"):
            self.rekey(a, code)
            self.assertEqual(a.settled()["root"], 2)
            self.mail_goes_both_ways(a)
        with self.subTest("after a restart of both"):
            a.stop()
            self.relay.stop()
            self.relay.start()
            a.start()
            self.mail_goes_both_ways(a)
        self.relay.audit()

    def test_a_copy_in_use_freezes_the_pack_and_its_code_alone_ends_that(self):
        b, _ = self.holder("b")
        code = self.activate(b)
        self.mail_goes_both_ways(b)
        b.stop()
        clone = self.copied_folder(b, "clone")
        for _ in range(2):
            clone.start()
            clone.settled()
            clone.stop()
        # The pack's own folder is the one that is behind: for the relay there is no telling.
        b.start()
        b.command("resume", check=False)
        wait_until(lambda: b.status()["frozen"], 90, "the freeze")
        kept = word()
        submit(b, OUTSIDE, message(b.alias, OUTSIDE, kept))
        back = word()
        deliver(self.relay.mx, OUTSIDE, b.alias, message(OUTSIDE, b.alias, back))
        with self.subTest("mail comes in, and its holder is told"):
            Inbox(b).wait_for(back)
            Inbox(b).wait_for("Your keypack is frozen")
            self.assertIn("frozen", " ".join(b.status()["warnings"]))
        with self.subTest("the operator is told"):
            self.assertEqual(self.relay.totals()["frozen"], 1)
            self.assertIn("was used by a copy of it", self.relay.process.log.read_text())
        self.assertEqual(self.world.sink.with_word(kept), [])
        with self.subTest("another code is refused"):
            other = self.code_file()
            self.activate_nowhere(other)
            self.assertIn("not the pack's recovery code", self.rekey(b, other, check=False))
        self.assertTrue(b.status()["frozen"])
        self.rekey(b, code)
        with self.subTest("what was kept leaves once"):
            wait_until(lambda: self.world.sink.with_word(kept), 60, "the message that was kept")
        self.mail_goes_both_ways(b)
        self.assertFalse(b.status()["frozen"])
        self.assertEqual(self.relay.totals()["frozen"], 0)
        with self.subTest("the copy is worth nothing"):
            self.meets_silence(clone)
        self.mail_goes_both_ways(b)
        self.relay.audit()

    def activate_nowhere(self, path):
        """A code of the right form that is nobody's."""
        second = second_implementation()
        path.write_text(second.spell(bytes(range(16)), "recovery") + "\n")


class Deaths(Activation):
    def test_a_kill_at_each_named_write_leaves_both_ends_with_one_root(self):
        c, _ = self.holder("c")
        code, roots, hits = self.activate(c), 1, 0
        draw = random.Random()
        deaths = [(who, point, draw.randrange(1, most + 1)) for who, point, most in POINTS for _ in range(by_extent(1, 6))]
        for who, point, count in deaths:
            at = point.format(count)
            with self.subTest(who=who, at=at):
                victim = self.relay if who == "relay" else c
                victim.stop()
                victim.start("--kill-at", at, wait=False)
                following = self.code_file()
                asked = 0
                while victim.process.running and asked < 30:
                    asked += 1
                    done = c.command("rekey", "--code-from", code, "--code-to", following, check=False)
                    if done.returncode == 0:
                        code, roots, following = following, roots + 1, self.code_file()
                    elif "nothing is running" in done.stderr:
                        following.unlink(missing_ok=True)
                        time.sleep(0.1)
                    else:
                        break
                if not victim.process.running:
                    hits += 1
                    self.assertEqual(victim.process.wait(), -9)
                else:
                    victim.stop()
                victim.start()
                status = wait_until(lambda: self.idle(c), 90, f"a link after {who} {at}")
                self.assertIn(status["root"], (roots, roots + 1))
                if status["root"] > roots:
                    roots, code = status["root"], following
                self.assertFalse(status["frozen"])
        print(f"       {hits} deaths of {len(deaths)}, {roots} roots")
        self.assertGreater(hits, len(deaths) // 3)
        self.mail_goes_both_ways(c)
        self.rekey(c, code)
        self.mail_goes_both_ways(c)
        self.relay.audit()

    @staticmethod
    def idle(bridge):
        done = bridge.command("status", "--json", check=False)
        if done.returncode:
            return None
        status = bridge.status()
        return status if status["linked"] and not status["rerooting"] else None
