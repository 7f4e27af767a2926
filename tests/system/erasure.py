"""Used keys are gone from disk and memory of both ends a second after their use (invariant 2).

Who records a link today and takes the machines tomorrow must find nothing that opens the recording. The test opens the
pack before its holder does, with the second implementation, so it knows every key that was ever used; then it looks at
every octet of both folders and both memories for each of them. A second search knows nothing but what was on the wire,
as the attacker does: keysearch tries every 32 octets at both ends as a key of the recorded first cell, and opens the
slots with the keys that lie beside them. Both searches have to find what they look for where erasure is switched off,
or they would prove nothing.
"""

import re
import time

from clients import Inbox, deliver, message, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, second_implementation, word
from needles import Secret, search_files, search_memory
from processes import run, wait_until
from proxy import UP

CELL = 16_384
LINKS = 4
KEYS = 200
ROTATE = "bytes=131072"


class Erasure(Hazard):
    @staticmethod
    def make():
        return World(holders=())

    keeps = False

    def setUp(self):
        self.relay, self.second = self.world.relay, second_implementation()

    def holder_of_known_pack(self, name, rotate=None):
        """A bridge on a pack whose root the test keeps: returns both."""
        bridge = Bridge(self.world.folder.path, name, self.world.proxy.address)
        self.pack = self.world.folder.path / f"{name}.pack"
        self.relay.issue(self.pack, bridge.passphrase, KEYS, 10_000_000, rotate=rotate)
        issue = self.second.open_pack(self.pack.read_bytes(), bridge.passphrase.read_bytes().strip())
        bridge.init(self.pack)
        self.world.bridges.append(bridge)
        self.first_connection = len(self.world.proxy.connections)
        return bridge.start(*(["--keep-used-keys"] if self.keeps else [])), issue["root"]

    def use(self, bridge):
        """Several links, each with mail both ways."""
        for _ in range(LINKS):
            self.mail_both_ways(bridge)
            links = len(self.world.proxy.connections)
            self.world.proxy.cut()
            wait_until(lambda links=links: len(self.world.proxy.connections) > links, 30, "the next link")
            bridge.settled()

    def rotate(self, bridge):
        """One link that goes on under several keys; returns how many that took."""
        connections = len(self.world.proxy.connections)
        for _ in range(2):
            self.mail_both_ways(bridge, ("x" * 70 + "\r\n") * 3_000)
        # The balance that tells of the last keys is asked for when the outbox is empty already.
        wait_until(lambda: KEYS - bridge.settled()["keys"] > LINKS, 30, "several keys of one link")
        self.assertEqual(len(self.world.proxy.connections), connections, "one connection throughout")
        return KEYS - bridge.settled()["keys"]

    def mail_both_ways(self, bridge, text="hello\r\n"):
        token = word()
        deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, token))
        Inbox(bridge).wait_for(token)
        submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token, text))
        wait_until(lambda: self.world.sink.with_word(token), 30, "the message outside")

    def used_secrets(self, root, links=LINKS, posts=LINKS):
        """Every secret of the pack that opens something recorded, by the documents alone."""
        second = self.second
        secrets = [Secret("root", root)]
        link = second.Chain.from_root("link", root)
        for index in range(links):
            secrets.append(Secret(f"link state {index}", link.state))
            up, down, _ = link.advance()
            psk = second.hx("link", up + down)
            secrets += [Secret(f"U[{index}]", up), Secret(f"D[{index}]", down), Secret(f"psk {index}", psk)]
            secrets.append(Secret(f"key of cell 1, {index}", second.he(psk, "hs1")))
        post = second.Chain.from_root("post", root)
        for index in range(posts):
            secrets.append(Secret(f"post state {index}", post.state))
            secrets.append(Secret(f"K_post[{index}]", post.advance()[0]))
        return secrets

    def activate(self, bridge):
        """Goes on from a new root, and has a link with mail under it."""
        bridge.command("activate", "--code-to", self.world.folder.path / f"{word()}.code")
        wait_until(lambda: self.root_in_use(bridge) == 1, 30, "a link under the new root")
        self.mail_both_ways(bridge)

    @staticmethod
    def root_in_use(bridge):
        status = bridge.status()
        return status["root"] if status["linked"] and not status["rerooting"] else None

    def old_root(self, root):
        """All that the pack's own root leads to: what was used of it, and what it would have come to."""
        secrets = self.used_secrets(root, LINKS + 8, 2 * LINKS)
        for name in ("parcel", "sync"):
            chain = self.second.Chain.from_root(name, root)
            for index in range(9):
                secrets.append(Secret(f"{name} state {index}", chain.state))
                secrets.append(Secret(f"K_{name}[{index}]", chain.advance()[0]))
        return secrets

    def found(self, bridge, secrets):
        """Names of the secrets found anywhere at either end."""
        hits = search_files(secrets, self.relay.data, bridge.data, self.pack)
        hits += search_memory(secrets, self.relay.pid, bridge.pid)
        return sorted({(name, place.split(" ")[0]) for place, name, _ in hits})

    def opens_the_recording(self, bridge):
        """All that keysearch finds at either end to open the first cell that this bridge ever sent."""
        cell = self.world.folder.path / f"{bridge.name}.cell"
        cell.write_bytes(self.world.proxy.connections[self.first_connection].octets(UP)[:CELL])
        done = run(
            BINARIES / "keysearch", "--cell", cell, "--passphrase-file", bridge.passphrase,
            "--pid", self.relay.pid, "--pid", bridge.pid,
            self.relay.data, self.relay.process.log, bridge.data, bridge.process.log, self.pack,
            seconds=300, check=False,
        )  # fmt: skip
        *hits, summary = done.stdout.splitlines() or [done.stderr]
        counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", summary)}
        self.assertEqual(counts.get("hits"), len(hits), summary)
        self.assertGreater(counts["tried"], 100_000, summary)
        self.assertGreaterEqual(counts["slots"], 6, "the account's, the bridge's, the epochs', two copies each")
        self.assertLess(counts["unread"], counts["windows"] // 100, summary)
        return hits


class Erased(Erasure):
    def test_nothing_that_is_left_opens_a_recorded_first_cell(self):
        bridge, _ = self.holder_of_known_pack("recorded")
        time.sleep(2)
        self.mail_both_ways(bridge)
        time.sleep(2)
        with self.subTest("while the recorded link is still up"):
            self.assertEqual(len(self.world.proxy.connections), self.first_connection + 1)
            self.assertEqual(self.opens_the_recording(bridge), [])
        self.world.proxy.cut()
        self.mail_both_ways(bridge)
        with self.subTest("after the next link"):
            self.assertEqual(self.opens_the_recording(bridge), [])

    def test_no_used_key_is_left_on_either_disk_or_in_either_memory(self):
        bridge, root = self.holder_of_known_pack("erases")
        self.use(bridge)
        time.sleep(3)
        self.assertEqual(self.found(bridge, self.used_secrets(root)), [])

    def test_no_key_that_a_link_has_rotated_through_is_left(self):
        bridge, root = self.holder_of_known_pack("rotates", ROTATE)
        used = self.rotate(bridge)
        time.sleep(3)
        self.assertEqual(self.found(bridge, self.used_secrets(root, used, 2)), [])

    def test_no_used_key_comes_back_with_a_restart(self):
        bridge, root = self.holder_of_known_pack("restarts")
        self.use(bridge)
        for process in (bridge, self.relay):
            process.kill()
            process.start()
        bridge.settled()
        time.sleep(3)
        self.assertEqual(self.found(bridge, self.used_secrets(root)), [])

    def test_nothing_of_the_root_before_an_activation_is_left(self):
        bridge, root = self.holder_of_known_pack("activates")
        self.mail_both_ways(bridge)
        with self.subTest("before, the search finds it"):
            before = {name for name, _ in self.found(bridge, self.old_root(root))}
            self.assertTrue({"parcel state 0", "sync state 0"} <= before, before)
        self.activate(bridge)
        time.sleep(3)
        with self.subTest("after"):
            self.assertEqual(self.found(bridge, self.old_root(root)), [])
        with self.subTest("after both were killed"):
            for process in (bridge, self.relay):
                process.kill()
                process.start()
            bridge.settled()
            time.sleep(3)
            self.assertEqual(self.found(bridge, self.old_root(root)), [])

    def test_a_pack_file_opens_nothing_once_it_is_taken_in(self):
        bridge, _ = self.holder_of_known_pack("takes")
        with self.assertRaises(self.second.Refused):
            self.second.open_pack(self.pack.read_bytes(), bridge.passphrase.read_bytes().strip())


class Kept(Erasure):
    """The positive control: with erasure switched off, the same search finds what was used."""

    keeps = True

    @staticmethod
    def make():
        return World(holders=(), keep_used_keys=True)

    def test_the_search_finds_used_keys_where_they_are_kept(self):
        bridge, root = self.holder_of_known_pack("keeps")
        self.use(bridge)
        time.sleep(3)
        self.assertNotEqual(self.found(bridge, self.used_secrets(root)), [])

    def test_the_search_finds_keys_that_a_link_has_rotated_through(self):
        bridge, root = self.holder_of_known_pack("keepsall", ROTATE)
        used = self.rotate(bridge)
        time.sleep(3)
        self.assertGreater(len(self.found(bridge, self.used_secrets(root, used, 2))), used)

    def test_the_search_finds_the_root_before_an_activation(self):
        bridge, root = self.holder_of_known_pack("keepsroot")
        self.mail_both_ways(bridge)
        self.activate(bridge)
        time.sleep(3)
        found = {name for name, _ in self.found(bridge, self.old_root(root))}
        self.assertTrue({name for name in found if name.startswith("link state")}, found)

    def test_what_is_kept_opens_a_recorded_first_cell(self):
        bridge, _ = self.holder_of_known_pack("kept")
        self.mail_both_ways(bridge)
        time.sleep(2)
        hits = self.opens_the_recording(bridge)
        for place in (self.relay.data, bridge.data, f"process {self.relay.pid}", f"process {bridge.pid}"):
            self.assertTrue([hit for hit in hits if hit.startswith(f"chain state in {place}")], (place, hits))
