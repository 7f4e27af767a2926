"""A pack at a further relay, bought by the relay in between: that one neither reads, uses nor recognises it.

Whoever of the three dies meanwhile, nothing is debited or made twice, and what is not made is paid back; both books agree.
"""

import base64
import json
import random
import signal
import socket
import time
import unittest

from clients import message, submit
from harness import OUTSIDE, Bridge, Hazard, Relay, Relays, by_extent, second_implementation, word
from needles import Needle, Secret, search_files, search_memory
from processes import wait_until

FEE = 5_000
#: Link keys and value of the packs that are offered.
SMALL, LARGE = (24, 300_000), (60, 2_000_000)
#: What one message of one recipient costs, and a link.
EACH, KEY = 10_000 + 100, 7
POINTS = ["segment.write:{}:torn", "segment.sync:{}:before", "segment.sync:{}:after"]


class Bought(Relays):
    """Relays far and entry, a pack of entry's at far, and a user with a pack at entry alone."""

    def __init__(self):
        super().__init__()
        for name in ("far", "entry"):
            (self.folder.path / name).mkdir()
            relay = Relay(self.folder.path / name, self.sink, domain=f"{name}.test")
            relay.name = name
            relay.routes = {f"{name}.test": relay.mx}
            self.relays[name] = relay
        self.far, self.entry = self.relays["far"].start(), self.relays["entry"]
        pack, passphrase = self.folder.path / "peer.pack", self.folder.path / "peer.passphrase"
        passphrase.write_text("open the gate\n")
        words = ["--keys", 20_000, "--value", 500_000_000, "--for", "entry.test", "--passphrase-file", passphrase]
        invited = self.far.command("peer", "invite", "--out", pack, *words, "--json")
        self.peer = json.loads(invited.stdout)["identifier"]
        self.entry.command("peer", "accept", pack, "--name", "far", "--passphrase-file", passphrase)
        self.entry.through = {"far.test": self.far.link}
        sizes = ", ".join(f"{{ keys = {keys}, value = {value} }}" for keys, value in (SMALL, LARGE))
        self.entry.tables = ["[procure]", 'peers = ["far"]', f"fee = {FEE}", "hold_s = 0", f"sizes = [{sizes}]"]
        self.entry.start()
        self.a = Bridge(self.folder.path, "a", self.entry.link)
        pack = self.folder.path / "a.pack"
        self.entry.issue(pack, self.a.passphrase, 3_000, 100_000_000, operator=True)
        self.a.init(pack)
        self.bridges.append(self.a.start())
        self.card = self.far.command("card").stdout.strip()
        wait_until(lambda: self.offers()["relays"], 30, "an offer")
        wait_until(lambda: self.peers()[0]["balance"], 30, "the balance at the far relay")

    def offers(self):
        done = self.a.command("procure", "--offers", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"relays": []}

    def peers(self):
        return json.loads(self.entry.command("peer", "list", "--json").stdout)["rows"]

    def procure(self, name, size=SMALL, card=None, check=True, wait=20):
        """Has a pack procured, and returns its file and what was said."""
        file = self.folder.path / f"{name}.pack"
        words = ["--card", card or self.card, "--keys", size[0], "--value", size[1], "--out", file, "--wait", wait]
        done = self.a.command("procure", *words, "--passphrase-file", self.a.passphrase, check=check)
        return file, done

    def control(self, **command):
        """What the bridge answers to a command that no program of ours would give."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.a.data / "control.sock"))
            line.sendall(json.dumps(command).encode() + b"\n")
            return json.loads(line.makefile("rb").readline())

    def paid(self):
        """What the user was debited for packs, and credited again."""
        rows = {row["kind"]: row for row in self.a.statement()}
        sums = [(rows.get("procured", {}).get("debit", 0)), rows.get("returned", {}).get("credit", 0)]
        return tuple(sums)

    def idle(self):
        waiting = json.loads(self.entry.command("procurements", "--json").stdout)["rows"]
        return not waiting and not self.peers()[0]["waiting"]

    def audit(self):
        wait_until(self.idle, 60, "no order under way")
        for relay in self.relays.values():
            relay.audit()


class Procured(Hazard):
    make = Bought

    def setUp(self):
        self.w, self.token = self.world, word()
        self.before = self.w.paid()

    def paid(self):
        return tuple(now - before for now, before in zip(self.w.paid(), self.before, strict=True))

    def test_a_pack_is_bought_by_the_entry_and_serves_through_it(self):
        made, given = self.accounts(), self.given()
        file, done = self.w.procure("far", LARGE)
        self.assertIn("60 keys and 2,000,000 µtok at far.test", done.stdout)
        self.assertIn("not which one", done.stdout)
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        self.assertEqual(list(self.w.folder.path.glob("far.pack.*")), [])
        self.assertEqual(self.paid(), (LARGE[1] + FEE, 0))
        self.assertEqual((self.accounts() - made, self.given() - given), (1, LARGE[1]))
        self.w.audit()
        self.unseen(file)
        # The folder of the first pack is the door to the second.
        far = Bridge(self.w.folder.path, "b", self.w.entry.link)
        far.passphrase = self.w.a.passphrase
        far.init(file)
        self.w.a.stop()
        far.start("--entry", self.w.a.data)
        try:
            status = far.settled()
            self.assertEqual((status["relay"], status["entry"]["relay"]), ("far.test", "entry.test"))
            self.assertEqual(status["credits"], LARGE[1])
            submit(far, [OUTSIDE], message("me@localhost", OUTSIDE, self.token, "by the bought pack\r\n"))
            wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
            [delivery] = self.w.sink.with_word(self.token)
            self.assertTrue(delivery.reverse_path.endswith("@far.test"))
            spent = far.settled()
            links = LARGE[0] - spent["keys"]
            self.assertEqual(spent["debits"], EACH + links * KEY)
        finally:
            far.stop()
            self.w.a.start()
        self.w.a.settled()
        self.w.audit()

    def unseen(self, file):
        """Whatever tells the pack is nowhere at the relay that bought it, and in the memory of the one that made it."""
        second = second_implementation()
        issue = second.open_pack(file.read_bytes(), self.w.a.passphrase.read_text().strip().encode())
        chain = second.Chain.from_root("link", issue["root"])
        state, tag = chain.state, chain.step_at(0)[-1]
        secrets = [Secret(name, octets) for name, octets in (("root", issue["root"]), ("state", state), ("tag", tag))]
        needles = [*secrets, Secret("identifier", issue["identifier"])]
        needles.append(Needle(second.identifier_text(issue["identifier"])))
        entry = self.w.entry
        self.assertEqual(search_files(needles, entry.folder) + search_memory(needles, entry.pid), [])
        # The same search finds there what that relay has to know, and in the other one what only that may.
        self.assertNotEqual(search_memory([Needle("far.test")], entry.pid), [])
        self.assertNotEqual(search_memory(secrets[1:], self.w.far.pid), [])

    def accounts(self):
        return self.w.far.totals()["accounts"]

    def given(self):
        """µtok that the pack which entry holds at far gave away."""
        rows = json.loads(self.w.far.command("statement", "--account", self.w.peer, "--json").stdout)["rows"]
        return sum(row["debit"] for row in rows if row["kind"] == "given")

    def test_what_is_not_offered_costs_nothing(self):
        for size, words in (((24, 300_001), "procures no such pack"), ((25, 300_000), "procures no such pack")):
            file, done = self.w.procure(self.token, size, check=False)
            self.assertIn(words, done.stderr)
            self.assertFalse(file.exists() or file.with_name(file.name + ".part").exists())
        _, done = self.w.procure(self.token, card=self.w.card.replace("far", "fat"), check=False)
        self.assertIn("slip", done.stderr)
        answer = self.order(b"\x01" * 1_216, debit_max=SMALL[1] + FEE - 1)
        self.assertIn(f"it costs {SMALL[1] + FEE} µtok now", answer["reason"])
        self.assertEqual(self.paid(), (0, 0))

    def order(self, kem, debit_max=SMALL[1] + FEE):
        """An order of a key that nobody drew."""
        encoded = {"kem": base64.b64encode(kem).decode(), "dh": base64.b64encode(b"\x09" + bytes(31)).decode()}
        keys, value = SMALL
        answer = self.w.control(
            command="procure", relay="far.test", keys=keys, value=value, debit_max=debit_max, **encoded
        )
        return answer["ok"]

    def test_what_the_further_relay_refuses_is_paid_back(self):
        # ML-KEM takes no key with coefficients beyond its modulus.
        kem = b"\xff" * 1_216
        made = self.accounts()
        self.order(kem)
        name = base64.b64encode(second_implementation().digest(kem)).decode()
        returned = lambda: self.w.control(command="procured", order=name)["ok"]["state"] == "returned"
        wait_until(returned, 30, "word that nothing was made")
        self.assertEqual(self.paid(), (SMALL[1] + FEE, SMALL[1] + FEE))
        self.assertEqual(self.accounts(), made)
        self.w.a.inbox().wait_for("A pack that you ordered could not be made")
        self.w.control(command="procure_end", order=name)
        self.w.audit()

    def test_what_a_peer_never_answers_is_paid_back_when_the_operator_says_so(self):
        self.w.far.stop()
        try:
            name = base64.b64encode(second_implementation().digest(b"\x01" * 1_216)).decode()
            before = self.paid()
            self.assertEqual(self.order(b"\x01" * 1_216)["state"], "ordered")
            refused = self.w.entry.command("procurements", "--return", "far", check=False)
            self.assertIn("--even-if-sent", refused.stderr)
            self.assertEqual(self.paid()[1], before[1])
            done = self.w.entry.command("procurements", "--return", "far", "--even-if-sent")
            self.assertIn("1 orders are credited back", done.stdout)
            returned = lambda: self.w.control(command="procured", order=name)["ok"]["state"] == "returned"
            wait_until(returned, 30, "word that nothing was made")
            self.assertEqual(self.paid()[1] - before[1], SMALL[1] + FEE)
            self.w.control(command="procure_end", order=name)
        finally:
            self.w.far.start()
        wait_until(self.w.idle, 60, "the answer of what had left")
        self.w.audit()

    def test_a_pack_of_another_relay_than_that_of_the_card_is_none_and_the_user_is_told(self):
        # What the user sees of a relay in between that poses as the further one, or keeps the pack for itself.
        second = second_implementation()
        domain, address, _ = second.open_card(self.w.card)
        _, _, other = second.open_card(self.w.entry.command("card").stdout)
        file, done = self.w.procure(self.token, card=second.card(domain, address, other), check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("not from the relay of this card", done.stderr)
        self.assertFalse(file.exists())
        self.assertTrue(file.with_name(file.name + ".part").exists())
        self.w.audit()

    def test_whoever_dies_nothing_is_paid_or_made_twice(self):
        draw, made, given = random.Random(), self.accounts(), self.given()
        victims = (self.w.entry, self.w.far, self.w.a)
        count = by_extent(3, 60)
        for number in range(count):
            victim = victims[number % 3]
            point = draw.choice(POINTS).format(draw.randrange(1, 12))
            with self.subTest(victim=victim.name, point=point):
                self.one_death(f"{self.token}-{number}", victim, point)
        self.w.audit()
        self.assertEqual(self.paid(), (count * (SMALL[1] + FEE), 0))
        self.assertEqual((self.accounts() - made, self.given() - given), (count, count * SMALL[1]))

    def one_death(self, name, victim, point):
        victim.stop()
        victim.start("--kill-at", point, wait=False)
        # It may die before it serves, with the order, or not at all.
        time.sleep(0.5)
        file, done = self.w.procure(name, check=False, wait=2)
        victim.process.stop(signal.SIGKILL)
        victim.start()
        if done.returncode:
            self.assertFalse(file.exists())
            wait_until(lambda: self.w.a.status()["linked"] and self.w.offers()["relays"], 60, "links")
            wait_until(lambda: self.w.procure(name, check=False)[1].returncode == 0, 60, "the pack")
        self.assertTrue(file.exists())


if __name__ == "__main__":
    unittest.main()
