"""A link inside a link: one relay sees where its user is, the other one the user's mail, neither both.

What the entry relay holds, logs and sends is searched for what only the far one may know, and the other way round.
"""

import json
import signal
import unittest

from clients import deliver, message, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, Relay, Relays, by_extent, word
from needles import Needle, search_files, search_memory
from processes import run, wait_until
from proxy import DOWN, UP, Proxy

CELL = 16_384
KEYS = 500


class Nested(Relays):
    """Relays entry and far, recording proxies before both, and one user of both."""

    def __init__(self, **settings):
        super().__init__()
        for name in ("far", "entry"):
            (self.folder.path / name).mkdir()
            relay = Relay(self.folder.path / name, self.sink, domain=f"{name}.test", **settings)
            relay.routes = {f"{name}.test": relay.mx}
            self.relays[name] = relay
        self.far, self.entry = self.relays["far"].start(), self.relays["entry"]
        self.inner = Proxy(self.far.link)
        self.entry.through = {"far.test": self.inner.address}
        self.entry.start()
        self.outer = Proxy(self.entry.link)
        self.proxies = [self.outer, self.inner]
        self.a = Bridge(self.folder.path, "a", self.outer.address)
        self.bridges.append(self.a)
        self.doors = self.folder.path / "door"
        for relay, out, to in ((self.far, "far.pack", self.a.data), (self.entry, "entry.pack", self.doors)):
            pack = self.folder.path / out
            words = ["--keys", KEYS, "--value", 50_000_000, "--passphrase-file", self.a.passphrase, "--json"]
            issued = relay.command("pack", "issue", "--out", pack, *words).stdout
            self.door_identifier = json.loads(issued)["identifier"]
            words = ["init", "--pack", pack, "--dir", to, "--passphrase-file", self.a.passphrase]
            run(BINARIES / "postern", *words)
        self.start()

    def start(self):
        self.a.start("--entry", self.doors)
        return self


class ByAnEntry(Hazard):
    make = Nested

    def setUp(self):
        self.w, self.token = self.world, word()

    def test_mail_goes_out_and_comes_in_by_the_entry(self):
        blob = bytes(range(256)) * 4_000
        text = message("me@localhost", OUTSIDE, self.token, "by two doors\r\n")
        submit(self.w.a, [OUTSIDE], text)
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        back = f"back{self.token}"
        deliver(self.w.far.mx, OUTSIDE, self.w.a.alias, message(OUTSIDE, self.w.a.alias, back, blob.hex() + "\r\n"))
        [content] = self.w.a.inbox().wait_for(back)
        self.assertIn(blob.hex().encode()[:900], content.replace(b"\r\n", b""))
        status = self.w.a.status()
        self.assertTrue(status["linked"])
        self.assertEqual((status["relay"], status["entry"]["relay"]), ("far.test", "entry.test"))
        for relay in self.w.relays.values():
            relay.audit()

    def test_the_lines_show_whole_cells_and_none_of_the_inner_ones_outside(self):
        submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.token))
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        self.w.a.settled()
        lines = {}
        for name, proxy in (("outer", self.w.outer), ("inner", self.w.inner)):
            carried = [connection.octets(way) for connection in proxy.connections for way in (UP, DOWN)]
            streams = [stream for stream in carried if len(stream) > CELL]
            self.assertTrue(streams)
            for stream in streams:
                self.assertEqual(len(stream) % CELL, 0)
            lines[name] = b"".join(streams)
        blocks = {lines["inner"][at : at + 16] for at in range(0, len(lines["inner"]), 16)}
        for at in range(0, len(lines["outer"]), 16):
            self.assertNotIn(lines["outer"][at : at + 16], blocks)

    def test_the_entry_holds_nothing_of_the_mail_and_the_far_one_nothing_of_the_place(self):
        submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.token, f"text{self.token}\r\n"))
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        self.w.a.settled()
        far = [Needle(one) for one in (self.token, OUTSIDE, self.w.a.alias, self.w.a.identifier)]
        self.assertEqual(self.held(self.w.entry, far), [])
        # The same search finds in the far relay what that has to know.
        self.assertNotEqual(self.held(self.w.far, [Needle("far.test")]), [])
        door = [Needle(self.w.door_identifier)]
        self.assertEqual(self.held(self.w.far, door), [])

    @staticmethod
    def held(relay, needles):
        """What of it is in a relay's folder, logs and memory."""
        return search_files(needles, relay.folder) + search_memory(needles, relay.pid)

    def test_whoever_is_killed_the_mail_goes_on(self):
        names = []
        for turn in range(by_extent(6, 60)):
            names.append(f"{self.token}-{turn:03}")
            submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, names[-1]))
            victim = (self.w.entry, self.w.far, self.w.a)[turn % 3]
            victim.process.stop(signal.SIGKILL)
            if victim is self.w.a:
                self.w.start()
            else:
                victim.start()
        wait_until(lambda: all(self.w.sink.with_word(name) for name in names), 120, "all messages outside")
        for name in names:
            self.assertEqual(len({one.content for one in self.w.sink.with_word(name)}), 1)
        for relay in self.w.relays.values():
            relay.audit()

    def test_a_link_is_carried_to_relays_that_are_named_alone(self):
        self.w.entry.stop()
        self.w.entry.through, kept = {}, self.w.entry.through
        self.w.entry.start()
        try:
            wait_until(lambda: not self.w.a.status()["linked"], 30, "no link")
            log = self.w.folder.path / "a.log"
            wait_until(lambda: "does not know it" in log.read_text(), 60, "the reason in the log")
        finally:
            self.w.entry.stop()
            self.w.entry.through = kept
            self.w.entry.start()
        wait_until(lambda: self.w.a.status()["linked"], 90, "the link")


if __name__ == "__main__":
    unittest.main()
