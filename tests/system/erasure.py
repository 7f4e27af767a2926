"""Used keys are gone from disk and memory of both ends a second after their use (invariant 2).

Who records a link today and takes the machines tomorrow must find nothing that opens the recording. The test opens the
pack before its holder does, with the second implementation, so it knows every key that was ever used; then it looks at
every octet of both folders and both memories for each of them. The same search has to find them where erasure is
switched off, or it would prove nothing.
"""

import time

from clients import Inbox, deliver, message, submit
from harness import OUTSIDE, Bridge, Hazard, World, second_implementation, word
from needles import Secret, search_files, search_memory
from processes import wait_until

LINKS = 4


class Erasure(Hazard):
    @staticmethod
    def make():
        return World(holders=())

    keeps = False

    def setUp(self):
        self.relay, self.second = self.world.relay, second_implementation()

    def holder_of_known_pack(self, name):
        """A bridge on a pack whose root the test keeps: returns both."""
        bridge = Bridge(self.world.folder.path, name, self.world.proxy.address)
        self.pack = self.world.folder.path / f"{name}.pack"
        self.relay.issue(self.pack, bridge.passphrase, 200, 10_000_000)
        issue = self.second.open_pack(self.pack.read_bytes(), bridge.passphrase.read_bytes().strip())
        bridge.init(self.pack)
        self.world.bridges.append(bridge)
        return bridge.start(*(["--keep-used-keys"] if self.keeps else [])), issue["root"]

    def use(self, bridge):
        """Several links, each with mail both ways. Returns how many deposits were collected."""
        for _ in range(LINKS):
            token = word()
            deliver(self.relay.mx, OUTSIDE, bridge.alias, message(OUTSIDE, bridge.alias, token))
            Inbox(bridge).wait_for(token)
            submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token))
            wait_until(lambda token=token: self.world.sink.with_word(token), 30, "the message outside")
            links = len(self.world.proxy.connections)
            self.world.proxy.cut()
            wait_until(lambda links=links: len(self.world.proxy.connections) > links, 30, "the next link")
            bridge.settled()

    def used_secrets(self, root):
        """Every secret of the pack that opens something recorded, by the documents alone."""
        second = self.second
        secrets = [Secret("root", root)]
        link = second.Chain.from_root("link", root)
        for index in range(LINKS):
            secrets.append(Secret(f"link state {index}", link.state))
            up, down, _ = link.advance()
            psk = second.hx("link", up + down)
            secrets += [Secret(f"U[{index}]", up), Secret(f"D[{index}]", down), Secret(f"psk {index}", psk)]
            secrets.append(Secret(f"key of cell 1, {index}", second.he(psk, "hs1")))
        post = second.Chain.from_root("post", root)
        for index in range(LINKS):
            secrets.append(Secret(f"post state {index}", post.state))
            secrets.append(Secret(f"K_post[{index}]", post.advance()[0]))
        return secrets

    def found(self, bridge, secrets):
        """Names of the secrets found anywhere at either end."""
        hits = search_files(secrets, self.relay.data, bridge.data, self.pack)
        hits += search_memory(secrets, self.relay.pid, bridge.pid)
        return sorted({(name, place.split(" ")[0]) for place, name, _ in hits})


class Erased(Erasure):
    def test_no_used_key_is_left_on_either_disk_or_in_either_memory(self):
        bridge, root = self.holder_of_known_pack("erases")
        self.use(bridge)
        time.sleep(3)
        self.assertEqual(self.found(bridge, self.used_secrets(root)), [])

    def test_no_used_key_comes_back_with_a_restart(self):
        bridge, root = self.holder_of_known_pack("restarts")
        self.use(bridge)
        for process in (bridge, self.relay):
            process.kill()
            process.start()
        bridge.settled()
        time.sleep(3)
        self.assertEqual(self.found(bridge, self.used_secrets(root)), [])

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
