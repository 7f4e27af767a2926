"""Who knows what of a nested chain: disk, memory, log and line of either relay are searched separately.

The user's machine, the entry relay, the far one and the outside are nodes of a network whose lines are recorded from the
beginning. The pack at the far relay is bought by the entry. While a message is under way, neither relay holds what is the
other's to know, and the same search finds there what is its own.
"""

import json
import unittest

from clients import deliver, message
from federation import Member, User
from figures import CELL
from harness import Hazard, second_implementation, word
from needles import Needle, Secret, search_files, search_memory
from network import common, network
from processes import Folder, wait_until
from sink import Sink

SIZE = (60, 2_000_000)


class Nested:
    """Relays entry and far, a user whose pack at far was bought by entry, and recordings of all their lines."""

    def __init__(self):
        self.network = network()
        if not self.network.listens:
            raise unittest.SkipTest("lines can be recorded between network namespaces alone")
        self.folder = Folder()
        nodes = {name: self.network.add(name) for name in ("outside", "far", "entry", "user")}
        self.lines = {name: self.network.capture(nodes[name]) for name in ("far", "entry", "user")}
        with nodes["outside"].inside():
            self.sink = Sink(host=nodes["outside"].address)
        self.outside = nodes["outside"]
        self.relays = {}
        for name in ("far", "entry"):
            (self.folder.path / name).mkdir()
            self.relays[name] = Member(self.folder.path / name, nodes[name], self.sink, tick_ms=500)
        self.far, self.entry = self.relays["far"], self.relays["entry"]
        self.far.settings["smarthost"] = self.sink.address
        self.far.start()
        self.entry.start()
        self.let_entry_buy()
        self.door = User(self.folder.path, nodes["user"], self.entry, "door")
        self.far_end = User(self.folder.path, nodes["user"], self.entry, "person")
        self.identifiers = {}
        pack = self.folder.path / "door.pack"
        self.entry.issue(pack, self.door.passphrase, 3_000, 100_000_000)
        self.take_in(self.door, pack)
        self.door.start()
        self.take_in(self.far_end, self.bought())
        self.door.stop()
        self.far_end.start("--entry", self.door.data)
        self.far_end.settled()

    def let_entry_buy(self):
        """A pack of the entry relay's at the far one, out of which it buys."""
        pack, passphrase = self.folder.path / "peer.pack", self.folder.path / "peer.passphrase"
        passphrase.write_text("open the gate\n")
        words = ["--keys", 20_000, "--value", 500_000_000, "--for", "entry.test", "--passphrase-file", passphrase]
        self.far.command("peer", "invite", "--out", pack, *words)
        self.entry.command("peer", "accept", pack, "--name", "far", "--passphrase-file", passphrase)
        self.entry.stop()
        self.entry.through = {"far.test": self.far.node.link_public}
        keys, value = SIZE
        sizes = f"sizes = [{{ keys = {keys}, value = {value} }}]"
        self.entry.tables = ["[procure]", 'peers = ["far"]', "fee = 5000", "hold_s = 0", sizes]
        self.entry.start()

    def take_in(self, user, pack):
        """Opens a pack for the search before its holder takes it in."""
        second = second_implementation()
        issue = second.open_pack(pack.read_bytes(), self.door.passphrase.read_text().strip().encode())
        identifier = issue["identifier"]
        self.identifiers[user.name] = [
            Secret(f"identifier of {user.name}", identifier),
            Needle(second.identifier_text(identifier)),
            Secret(f"root of {user.name}", issue["root"]),
        ]
        user.passphrase = self.door.passphrase
        user.init(pack)

    def bought(self):
        card = self.far.command("card").stdout.strip()
        done = lambda: self.door.command("procure", "--offers", "--json", check=False)
        wait_until(lambda: done().returncode == 0 and json.loads(done().stdout)["relays"], 60, "an offer")
        file, (keys, value) = self.folder.path / "far.pack", SIZE
        words = ["--card", card, "--keys", keys, "--value", value, "--out", file, "--wait", 50]
        self.door.command("procure", *words, "--passphrase-file", self.door.passphrase)
        return file

    def close(self):
        for user in (self.door, self.far_end):
            if user.process:
                user.kill()
        for relay in self.relays.values():
            relay.kill()
        self.sink.stop()
        self.network.close()
        self.folder.remove()


class Knowledge(Hazard):
    make = Nested

    def setUp(self):
        self.w, self.token = self.world, word()

    def test_while_a_message_is_under_way_each_relay_holds_its_own_half_alone(self):
        recipient, text = f"friend{self.token}@out.test", f"text{self.token}"
        held = self.w.sink.misbehave("DOT", wait=20, times=1)
        self.addCleanup(self.w.sink.behave)
        self.w.far_end.send(recipient, f"subject{self.token}", f"{text}\r\n" * 40)
        wait_until(lambda: held.times == 0, 60, "the message at the last dot")
        mail = [Needle(one) for one in (recipient, text, f"subject{self.token}", self.w.far_end.alias)]
        place = [Needle(self.w.door.node.address), Needle(self.w.door.alias)]
        # The positive control: the same search, at the same moment, in the other relay.
        self.assertEqual(self.words(self.memory(self.w.far, mail)), {one.word for one in mail})
        self.assertEqual(self.anywhere(self.w.entry, [*mail, *self.w.identifiers["person"]]), [])
        self.assertEqual(self.anywhere(self.w.far, [*place, *self.w.identifiers["door"]]), [])
        for relay, whose in ((self.w.entry, "door"), (self.w.far, "person")):
            self.assertNotEqual(self.memory(relay, self.w.identifiers[whose][:1]), [], f"the identifier of {whose}")
        with self.subTest("the search finds an address where there is one"):
            there = [Needle(self.w.far.node.address)]
            self.assertNotEqual(search_files(there, self.w.far.folder), [])
        wait_until(lambda: self.w.sink.with_word(text), 60, "the message outside")
        self.lines(mail, recipient)

    def lines(self, mail, recipient):
        """What the lines showed: addresses of neighbours, and nothing of the mail but where it leaves."""
        user, packets = self.w.door.node.address, {name: line.packets() for name, line in self.w.lines.items()}
        whose = {name: {one[12:16] for one in of} | {one[16:20] for one in of} for name, of in packets.items()}
        packed = bytes(map(int, user.split(".")))
        self.assertIn(packed, whose["entry"])
        self.assertNotIn(packed, whose["far"])
        for name in ("user", "entry"):
            for ends, octets in self.w.lines[name].streams().items():
                self.assertEqual([one.word for one in mail if one.within(octets)], [], ends)
        leaving = b"".join(self.w.lines["far"].others().values())
        self.assertIn(recipient.encode(), leaving)
        self.assertNotIn(user.encode(), leaving)

    def test_every_line_carries_whole_cells_and_nothing_else(self):
        self.exchange()
        for name, line in self.w.lines.items():
            wait_until(lambda line=line: not line.torn(), 20, "whole cells")
            self.assertTrue(line.links())
            # The control is the line that carries mail in the clear.
            clear = line.others()
            self.assertEqual({address for ends in clear for address, _ in ends}, self.in_the_clear(name))
            self.assertTrue(all(len(octets) % CELL for octets in clear.values()))

    def in_the_clear(self, name):
        return {self.w.far.node.address, self.w.outside.address} if name == "far" else set()

    def test_nothing_that_a_relay_sends_on_a_link_came_to_it_on_one(self):
        self.exchange()
        for name in ("entry", "far"):
            line = self.w.lines[name]
            self.assertGreater(min(len(line.sent()), len(line.received())), 10 * CELL)
            self.assertEqual(common(line.sent(), line.received()), [])
        # The same search finds what the entry sends in what comes to the far one, wherever it lies.
        there = self.w.lines["far"].received(self.w.entry.node)[CELL : CELL + 100]
        self.assertNotEqual(common(self.w.lines["entry"].sent(), b"x" + there), [])

    def test_two_relays_that_compare_find_the_same_octets_and_so_who_it_was(self):
        """No cannot, but what THREATS says that they can: one layer is equal at both ends of the line between them."""
        self.exchange()
        entry, far = self.w.entry.node.address, self.w.far.node.address
        pair = {entry, far}
        between = lambda line: {ends: octets for ends, octets in line.links().items() if {ends[0][0], ends[1][0]} == pair}
        both = lambda: [between(self.w.lines[name]) for name in ("entry", "far")]
        wait_until(lambda: len({frozenset(line.items()) for line in both()}) == 1, 20, "the same at both ends")
        # Of these the one that carries the user's link is known at either end: the entry has the address, the far one the mail.
        self.assertGreater(max(map(len, both()[0].values())), 10 * CELL)

    def exchange(self):
        """One message out and one in, and then silence."""
        user, back = self.w.far_end, f"back{self.token}"
        user.send(f"friend@{self.token}.test", self.token, "outwards\r\n" * 400)
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        with self.w.outside.inside():
            deliver(self.w.far.mx, "friend@out.test", user.alias, message("friend@out.test", user.alias, back))
        user.inbox().wait_for(back)
        user.settled()

    @staticmethod
    def memory(relay, needles):
        return search_memory(needles, relay.pid)

    def anywhere(self, relay, needles):
        """What of it is in a relay's folder, its log among it, and memory."""
        return search_files(needles, relay.folder) + self.memory(relay, needles)

    @staticmethod
    def words(found):
        return {one for _, one, _ in found}


if __name__ == "__main__":
    unittest.main()
