"""Mail over two relays of two operators without a further command: the bridge buys the pack at the second one by itself.

Nothing goes the direct way before that is there, unless its user says so; whoever dies meanwhile, it is bought once.
"""

import imaplib
import json
import random
import signal
import time
import tomllib

from clients import deliver, message, refusal_of, split_address, submit
from directory import FEE, KEYS, VALUE, Federation, today
from harness import BINARIES, OUTSIDE, Hazard, by_extent, word
from needles import Needle, search_files, search_memory
from processes import run, wait_until

POINTS = ["segment.write:{}:torn", "segment.sync:{}:before", "segment.sync:{}:after", "index.sync:{}:before"]


class Nesting(Federation):
    """The federation of the directory's tests, without a user yet."""

    def begin(self):
        pass

    def nested(self, bridge, seconds=180):
        """Waits until a bridge is linked over both relays, and returns its status."""

        def status():
            done = bridge.command("status", "--json", check=False)
            now = json.loads(done.stdout) if done.returncode == 0 else {}
            is_it = now.get("linked") and now["aliases"] and (now["entry"] or {}).get("since")
            return now if is_it else None

        return wait_until(status, seconds, f"{bridge.name} over two relays")

    def awaiting(self, bridge, sentence):
        """Waits until a bridge says this of why nothing is sent."""

        def status():
            done = bridge.command("status", "--json", check=False)
            now = json.loads(done.stdout) if done.returncode == 0 else {}
            return now if sentence in (now.get("awaiting") or "") else None

        return wait_until(status, 60, sentence)

    @staticmethod
    def learn(bridge):
        settings = json.loads(bridge.command("settings", "--json").stdout)
        bridge.user, bridge.password = settings["user"], settings["password"]
        bridge.alias = f"{bridge.user}@localhost"

    def paid(self, bridge):
        """What the account at entry was debited for packs, and credited again."""
        words = ("statement", "--account", bridge.door_identifier, "--json")
        rows = {row["kind"]: row for row in json.loads(self.entry.command(*words).stdout)["rows"]}
        return rows.get("procured", {}).get("debit", 0), rows.get("returned", {}).get("credit", 0)


class SecondRelay(Hazard):
    make = Nesting

    def setUp(self):
        self.w, self.token = self.world, word()

    def send(self, bridge, token=None):
        submit(bridge, [OUTSIDE], message("me@localhost", OUTSIDE, token or self.token, "over two relays\r\n"))

    def arrived(self, token=None):
        """The reverse-path that the message came outside with."""
        [first, *_] = wait_until(lambda: self.w.sink.with_word(token or self.token), 60, "the message outside")
        return first.reverse_path

    def test_1_mail_goes_over_two_relays_by_one_command(self):
        a = self.w.add("a", operator=True)
        self.assertIn("Mail goes nested, over two relays of two operators", a.said)
        self.assertEqual(tomllib.loads((a.data / "bridge.toml").read_text())["nested"], "auto")
        a.start(wait=False)
        status = self.w.nested(a)
        self.assertEqual((status["relay"], status["operator"]), ("far.test", "Far Cooperative"))
        by = [status["entry"][name] for name in ("relay", "operator", "since")]
        self.assertEqual(by, ["entry.test", "Entry Cooperative", today()])
        self.assertIsNone(status["awaiting"])
        said = a.command("status").stdout
        self.assertIn("entry.test (Entry Cooperative) sees your address, far.test (Far Cooperative) your mail", said)
        self.assertEqual(self.w.paid(a), (VALUE + FEE, 0))
        self.w.learn(a)
        [alias] = status["aliases"]
        self.send(a)
        self.assertTrue(self.arrived().endswith("@far.test"))
        back = word()
        deliver(self.w.far.mx, OUTSIDE, alias, message(OUTSIDE, alias, back))
        a.inbox().wait_for(back)
        # What a user types reaches the bridge by the folder that 'init' was given.
        self.assertTrue(a.new_alias().endswith("@far.test"))
        self.assertEqual(json.loads(a.command("route", "--json").stdout)["way"], "nested")
        a.settled()
        entry, far = self.w.entry, self.w.far
        secret = [Needle(one) for one in (self.token, OUTSIDE, alias, status["identifier"])]
        self.assertEqual(self.held(entry, secret), [])
        self.assertEqual(self.held(far, [Needle(a.door_identifier)]), [])
        # The controls: the same search finds what each has to know.
        self.assertNotEqual(self.held(far, [Needle("far.test")]), [])
        self.assertNotEqual(self.held(entry, [Needle("entry.test")]), [])
        password = a.password
        a.stop()
        self.assertEqual([path.name for path in a.data.glob("second-relay.pack*")], [])
        a.start(wait=False)
        self.w.nested(a)
        self.w.learn(a)
        self.assertEqual(a.password, password)
        self.token = word()
        self.send(a)
        self.assertTrue(self.arrived().endswith("@far.test"))
        self.assertEqual(self.w.paid(a), (VALUE + FEE, 0))
        for relay in self.w.relays.values():
            relay.audit()

    @staticmethod
    def held(relay, needles):
        """What of it is in a relay's folder and memory."""
        return search_files(needles, relay.folder) + search_memory(needles, relay.pid)

    def test_2_who_declines_goes_the_direct_way(self):
        b = self.w.add("b", "--direct")
        self.assertNotIn("nested", b.said)
        self.assertIs(tomllib.loads((b.data / "bridge.toml").read_text())["nested"], False)
        b.start()
        self.send(b)
        self.assertTrue(self.arrived().endswith("@entry.test"))
        wanted = f"postern procure --relay far.test --keys {KEYS} --value {VALUE} --out"
        wait_until(lambda: wanted in (b.status()["nested"] or ""), 60, "that a pack is to be had")
        time.sleep(3)
        self.assertEqual([path.name for path in b.data.glob("far*")], [])
        self.assertEqual(self.w.paid(b), (0, 0))

    def test_3_without_a_second_relay_mail_waits_and_the_way_out_is_said(self):
        c = self.w.add("c", value=2 * (VALUE + FEE) - 100)
        c.start(wait=False)
        status = self.w.awaiting(c, "more than 50 percent")
        self.assertIn("start the bridge with --direct-now, or for good write nested = false", status["awaiting"])
        self.assertIn(status["awaiting"], c.command("status").stdout)
        self.assertEqual((status["aliases"], status["relay"]), ([], "entry.test"))
        self.w.learn(c)
        password = c.password
        code, reason = refusal_of(lambda: self.send(c))
        self.assertEqual(code, 451)
        self.assertIn("4.3.2 mail is to go over two relays and the second one is not there yet", reason)
        refused = c.command("alias", "new", check=False)
        self.assertIn("when mail can go over two relays", refused.stderr)
        self.assertEqual(self.w.sink.with_word(self.token), [])
        c.stop()
        c.start("--direct-now", wait=False)
        wait_until(lambda: c.command("status", "--json", check=False).returncode == 0 and c.status()["aliases"], 60, "an alias")
        self.send(c)
        self.assertTrue(self.arrived().endswith("@entry.test"))
        [alias] = c.settled()["aliases"]
        c.stop()
        c.start(wait=False)
        self.w.awaiting(c, "1 open addresses")
        c.command("alias", "close", alias)
        self.w.awaiting(c, "more than 50 percent")
        # A mail program that stays logged in holds nothing up, and is not left with what is over.
        reading = imaplib.IMAP4(*split_address(c.imap), timeout=120)
        reading.login(c.user, c.password)
        reading.select("INBOX")
        self.w.entry.top_up(c.door_identifier, 100_000)
        self.w.nested(c)
        self.w.learn(c)
        self.assertEqual(c.password, password)
        with self.assertRaises((imaplib.IMAP4.abort, OSError)):
            reading.noop()
        self.token = word()
        self.send(c)
        self.assertTrue(self.arrived().endswith("@far.test"))
        self.assertEqual(self.w.paid(c), (VALUE + FEE, 0))

    def test_4_whoever_dies_the_pack_is_bought_once(self):
        draw = random.Random()
        victims = ["bridge", "bridge", "entry", "far"]
        for number in range(by_extent(4, 40)):
            d = self.w.add(f"d{number}")
            victim = victims[number % len(victims)]
            point = draw.choice(POINTS).format(draw.randrange(1, 25))
            with self.subTest(victim=victim, point=point):
                self.one_death(d, victim, point, draw)
            d.stop()
        for relay in self.w.relays.values():
            relay.audit()

    def one_death(self, d, victim, point, draw):
        if victim == "bridge":
            d.start("--kill-at", point, wait=False)
            # At the point, or at any moment if that is not come to.
            end = time.monotonic() + draw.uniform(1, 12)
            while d.process.running and time.monotonic() < end:
                time.sleep(0.05)
        else:
            relay = self.w.relays[victim]
            d.start(wait=False)
            time.sleep(draw.uniform(0, 6))
            relay.process.stop(signal.SIGKILL)
            relay.start()
        d.process.stop(signal.SIGKILL)
        d.start(wait=False)
        self.w.nested(d)
        self.w.learn(d)
        token = word()
        self.send(d, token)
        self.assertTrue(self.arrived(token).endswith("@far.test"))
        self.assertEqual(self.w.paid(d), (VALUE + FEE, 0))
        self.assertEqual([path.name for path in d.data.glob("second-relay.pack*")], [])

    def test_5_a_second_relay_that_is_left_is_told_and_both_packs_are_wiped_together(self):
        e = self.w.add("e")
        e.start(wait=False)
        self.w.nested(e)
        # As its operator would have it described: all but the last line is the same.
        [line] = [line for line in self.w.descriptors["gone"].read_text().splitlines() if "draining" in line]
        kept = self.w.descriptors["far"].read_text()
        self.w.descriptors["far"].write_text(kept.rstrip("\n") + f"\n{line}\n")
        leaving = self.w.list(20)
        self.w.descriptors["far"].write_text(kept)
        self.addCleanup(self.w.serve, self.w.list(30))
        self.w.serve(leaving)

        def told():
            e.command("directory", "--fetch", check=False)
            return [words for words in e.status()["warnings"] if "far.test, the second relay, is being left" in words]

        [words] = wait_until(told, 60, "that the second relay is left")
        self.assertIn(f"mv {e.data}/far {e.data}/far.old", words)
        self.w.learn(e)
        e.inbox().wait_for("Your mail needs another second relay")
        moved = e.command("keypack", "export", "--portable", self.w.folder.path / "stick", check=False)
        self.assertIn("far belongs to a second relay's pack, and is not moved along", moved.stderr)
        e.stop()
        old, fresh = e.passphrase, self.w.folder.path / "fresh.passphrase"
        fresh.write_text("another one\n")
        third = self.w.folder.path / "third.passphrase"
        third.write_text("and a third one\n")

        def change(folder, new, check=True):
            words = ["keypack", "passphrase", folder, "--passphrase-file", old, "--new-passphrase-file", new]
            return run(BINARIES / "postern", *words, check=check)

        # Cut off between the two packs, it goes on with the same passphrase and with no other.
        change(e.data / "far", fresh)
        self.assertIn("opens neither with the passphrase that is in force", change(e.data, third, check=False).stderr)
        change(e.data, fresh)
        e.passphrase = fresh
        e.start(wait=False)
        self.w.nested(e)
        run(BINARIES / "postern", "keypack", "panic-wipe", e.data, "--yes")
        e.process.wait()
        left = {path.name for path in e.data.rglob("*") if path.is_file()}
        self.assertLessEqual(left, {"lock"})

    def test_6_what_cannot_serve_is_not_bought_again_and_no_pack_is_linked_alone(self):
        f = self.w.add("f")
        f.start(wait=False)
        self.w.nested(f)
        merged = f.command("keypack", "merge", self.w.folder.path / "more.pack", "--yes", check=False)
        self.assertIn("reaches its relay through entry.test", merged.stderr)
        f.stop()
        far = f.data / "far"
        alone = run(BINARIES / "postern", "run", "--dir", far, "--passphrase-file", f.passphrase, check=False)
        self.assertIn("was bought to be reached through another one alone", alone.stderr)
        kept = (far / "bridge.toml").read_text()
        (far / "bridge.toml").write_text("user = ")
        f.start("--any-route", wait=False)
        status = self.w.awaiting(f, "cannot serve, and no other one is bought")
        self.assertEqual((status["relay"], status["aliases"]), ("entry.test", []))
        (far / "bridge.toml").write_text(kept)
        self.w.nested(f)
        self.assertEqual(self.w.paid(f), (VALUE + FEE, 0))
