"""The directory of a federation: three relays, three signers of whom two must agree, and a holder who goes by their keys alone.

Whatever a relay serves that is not in order is refused with a sentence, and what was held before still counts. A pack at a further
relay is bought by its name in the directory; one that is being left is not offered.
"""

import json
import shlex
import time
import tomllib

from harness import BINARIES, Bridge, Hazard, Relay
from processes import Folder, run, wait_until
from sink import Sink

KEYS, VALUE, FEE = 24, 300_000, 5_000


def posternd(*words, check=True):
    return run(BINARIES / "posternd", "directory", *words, check=check)


def today():
    return int(time.time()) // 86_400


class Federation:
    """Relays entry, far and gone; entry has a pack at both others; a user with a pack at entry and the directory's keys."""

    def __init__(self):
        self.folder, self.sink = Folder(), Sink()
        path = self.folder.path
        self.served, self.lists = path / "served.list", 0
        self.keys = []
        for number in range(3):
            made = posternd("key", "--out", path / f"signer{number}")
            self.keys.append(made.stdout.strip())
        self.pin = posternd("keys", "--threshold", 2, *self.keys).stdout.strip()
        self.relays = {}
        for name in ("far", "gone", "entry"):
            (path / name).mkdir()
            relay = Relay(path / name, self.sink, domain=f"{name}.test")
            relay.routes = {f"{name}.test": relay.mx}
            relay.tables = ["[directory]", f'operator = "{name.capitalize()} Cooperative"', f'file = "{self.served}"']
            self.relays[name] = relay
        self.far, self.gone, self.entry = self.relays.values()
        self.gone.tables.append("draining = true")
        self.far.start()
        self.gone.start()
        passphrase = path / "peer.passphrase"
        passphrase.write_text("open the gate\n")
        for peer in ("far", "gone"):
            pack = path / f"{peer}.pack"
            words = ["--keys", 20_000, "--value", 500_000_000, "--for", "entry.test", "--passphrase-file", passphrase]
            self.relays[peer].command("peer", "invite", "--out", pack, *words)
            self.entry.command("peer", "accept", pack, "--name", peer, "--passphrase-file", passphrase)
            self.entry.through[f"{peer}.test"] = self.relays[peer].link
        self.entry.tables += ["[procure]", 'peers = ["far", "gone"]', f"fee = {FEE}", "hold_s = 0"]
        self.entry.tables += [f"sizes = [{{ keys = {KEYS}, value = {VALUE} }}]"]
        self.entry.start()
        self.descriptors = {}
        for name, relay in self.relays.items():
            self.descriptors[name] = path / f"{name}.descriptor"
            self.descriptors[name].write_text(relay.command("directory", "describe").stdout)
        self.serve(self.list(10))
        self.bridges = []
        self.begin()

    def begin(self):
        self.a = self.add("a", "--direct", operator=True)
        self.a.start()

    def add(self, name, *words, value=100_000_000, operator=False):
        """A user with a pack at entry and the directory's keys, whose bridge is not started."""
        bridge, pack = Bridge(self.folder.path, name, self.entry.link), self.folder.path / f"{name}.pack"
        self.entry.issue(pack, bridge.passphrase, 3_000, value, operator=operator)
        secret = ["--passphrase-file", bridge.passphrase]
        seen = run(BINARIES / "postern", "keypack", "inspect", pack, "--json", *secret)
        bridge.door_identifier = json.loads(seen.stdout)["identifier"]
        words = ["--pack", pack, "--dir", bridge.data, *secret, "--directory-keys", self.pin, *words]
        bridge.said = run(BINARIES / "postern", "init", *words).stdout
        self.bridges.append(bridge)
        return bridge

    def list(self, serial, signers=(0, 1), relays=("entry", "far", "gone"), start=None):
        """A list that these signers signed one after the other."""
        self.lists += 1
        path = self.folder.path / f"{self.lists}.list"
        words = ["--serial", serial, "--from", today() if start is None else start]
        for name in relays:
            words += ["--relay", self.descriptors[name]]
        for signer in signers:
            posternd("sign", path, "--key", self.folder.path / f"signer{signer}", *words)
            words = []
        return path.read_text()

    def serve(self, text):
        fresh = self.served.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.served)

    def directory(self):
        done = self.a.command("directory", "--fetch", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"serial": None, "warnings": [], "relays": []}

    def close(self):
        for bridge in self.bridges:
            if bridge.process:
                bridge.kill()
        for relay in self.relays.values():
            relay.kill()
        self.sink.stop()
        self.folder.remove()

    def logs(self):
        return sorted(self.folder.path.glob("**/*.log")) + sorted(self.folder.path.glob("**/*.out"))


class Directory(Hazard):
    make = Federation

    def setUp(self):
        self.w = self.world

    def serve_until(self, text, sentence):
        """Serves a list until the holder says this of it, and nothing else; returns what it holds then."""
        self.w.serve(text)

        def told():
            shown = self.w.directory()
            return shown if len(shown["warnings"]) == 1 and sentence in shown["warnings"][0] else None

        shown = wait_until(told, 60, sentence)
        self.assertIn(shown["warnings"][0], self.w.a.status()["warnings"])
        return shown

    def in_order(self, serial):
        """Serves a list that is in order, and waits until it is held."""
        self.w.serve(self.w.list(serial))

        def held():
            shown = self.w.directory()
            return shown if shown["serial"] == serial and not shown["warnings"] else None

        return wait_until(held, 60, f"directory {serial}")

    def test_1_a_list_is_fetched_and_held(self):
        shown = self.in_order(10)
        rows = {row["domain"]: row for row in shown["relays"]}
        self.assertEqual(sorted(rows), ["entry.test", "far.test", "gone.test"])
        self.assertEqual((shown["threshold"], shown["keys"]), (2, 3))
        self.assertEqual(rows["far.test"]["card"], self.w.far.command("card").stdout.strip())
        self.assertEqual(rows["far.test"]["operator"], "Far Cooperative")
        self.assertEqual((rows["far.test"]["message"], rows["far.test"]["key"]), (10_000, 7))
        self.assertEqual([row["draining"] for row in shown["relays"]], [False, False, True])
        said = self.w.a.command("directory").stdout
        self.assertIn("far.test, run by Far Cooperative\n    delivers everywhere", said)
        self.assertIn("signed by at least 2 of 3 keys", said)

    def test_2_what_is_not_in_order_is_refused_with_a_sentence(self):
        self.in_order(20)
        stranger = self.w.folder.path / "stranger"
        posternd("key", "--out", stranger)
        unknown = self.w.folder.path / "unknown.list"
        unknown.write_text(self.w.list(21, signers=(2,)))
        posternd("sign", unknown, "--key", stranger)
        good = self.w.list(21)
        forged = good.replace(self.w.far.link, "127.0.0.1:9")
        self.assertNotEqual(good, forged)
        for text, sentence in [
            (self.w.list(21, signers=(1,)), "too few signatures: 1 of the 2"),
            (unknown.read_text(), "1 are by unknown keys"),
            (forged, "altered after it was signed"),
            (self.w.list(19), "rolls the directory back: it serves number 19, and number 20"),
            (self.w.list(22, start=today() - 20), "directory has expired"),
            (self.w.list(22, start=today() + 9), "of a day to come"),
        ]:
            with self.subTest(sentence=sentence):
                shown = self.serve_until(text, sentence)
                self.assertEqual((shown["serial"], len(shown["relays"])), (20, 3))
        subject = "The directory of relays is not in order"
        self.assertTrue(wait_until(lambda: self.w.a.inbox().with_word(subject), 30, "a notice"))

    def test_3_an_old_list_is_told(self):
        shown = self.serve_until(self.w.list(30, start=today() - 9), "no newer directory for 9 days")
        self.assertEqual(shown["serial"], 30)
        self.w.a.stop()
        self.w.a.start()
        wait_until(lambda: self.w.directory()["serial"] == 30, 60, "the list after a restart")

    def test_4_a_pack_is_bought_by_name_and_not_where_a_relay_is_left(self):
        self.in_order(40)

        def procure(*words):
            out = self.w.folder.path / "bought.pack"
            words = [*words, "--keys", KEYS, "--value", VALUE, "--out", out, "--wait", 60]
            return out, self.w.a.command(
                "procure", *words, "--passphrase-file", self.w.a.passphrase, check=False
            )

        def offered():
            done = self.w.a.command("procure", "--offers", "--json", check=False)
            return json.loads(done.stdout)["relays"] if done.returncode == 0 else []

        wait_until(offered, 60, "an offer")
        self.w.a.stop()
        self.w.a.start()
        wanted = f"postern procure --relay far.test --keys {KEYS} --value {VALUE} --out"
        wait_until(lambda: wanted in (self.w.a.status()["nested"] or ""), 60, "a way to a nested route")
        self.assertIn(wanted, self.w.a.command("status").stdout)
        self.assertEqual(offered(), ["far.test"])
        out, refused = procure("--relay", "gone.test")
        self.assertIn("gone.test is being left by its operator", refused.stderr)
        _, refused = procure("--card", self.w.gone.command("card").stdout.strip())
        self.assertIn("procures no such pack", refused.stderr)
        _, refused = procure("--relay", "nowhere.test")
        self.assertIn("the directory has no relay nowhere.test", refused.stderr)
        other = self.w.gone.command("card").stdout.strip()
        _, refused = procure("--relay", "far.test", "--card", other)
        self.assertIn("says something else than the directory", refused.stderr)
        self.assertFalse(out.exists())

        def bought():
            done = procure("--relay", "far.test")[1]
            return done if done.returncode == 0 else None

        done = wait_until(bought, 60, "the pack")
        self.assertIn("at far.test", done.stdout)
        self.assertTrue(out.exists())
        taken = next(line for line in done.stdout.splitlines() if "postern init" in line)
        far = self.w.folder.path / "bought"
        words = [str(far) if word == "FAR" else word for word in shlex.split(taken)[1:]]
        run(BINARIES / "postern", *words, "--passphrase-file", self.w.a.passphrase)
        keys = [tomllib.loads((data / "bridge.toml").read_text())["directory_keys"] for data in (self.w.a.data, far)]
        self.assertEqual(keys[0], keys[1])

    def test_5_two_lists_of_one_number_are_kept_as_evidence(self):
        self.in_order(50)
        fork = self.w.list(50, signers=(1, 2), relays=("entry", "gone"))
        shown = self.serve_until(fork, "two directories of number 50")
        self.assertEqual((shown["serial"], shown["counts"]), (50, False))
        kept = self.w.a.data
        self.assertEqual((kept / "directory.fork").read_text(), fork)
        self.assertEqual((kept / "directory.forked").read_text(), (kept / "directory.list").read_text())
        words = ["--keys", KEYS, "--value", VALUE, "--out", self.w.folder.path / "never.pack"]
        refused = self.w.a.command(
            "procure", "--relay", "far.test", *words, "--passphrase-file", self.w.a.passphrase, check=False
        )
        self.assertIn("two directories contradict each other", refused.stderr)
        self.w.a.stop()
        self.w.a.start()
        self.assertIn("two directories of number 50", " ".join(self.w.a.status()["warnings"]))
        self.w.serve(self.w.list(51))
        wait_until(lambda: self.w.directory()["serial"] == 51, 60, "a list behind the two")
        self.w.a.stop()
        for name in ("directory.fork", "directory.forked"):
            (kept / name).unlink()
        self.w.a.start()
        self.in_order(51)
