"""Messages to oneself, by which a relay that loses mail or holds it up is noticed; they are in no folder and cost what mail costs."""

import json
import re
import unittest

from clients import Inbox
from harness import BINARIES, World
from processes import run, wait_until

#: One that lets nothing go for an hour.
POOL = {"round_s": 3_600, "least": 50, "least_paranoid": 60, "rounds_paranoid": 0, "percent": 50, "hold_s": 14_400}
WORD = re.compile(rb"\b[a-z0-9]{48}\b")


class Loops(unittest.TestCase):
    def setUp(self):
        self.world = World(holders=(), mix=POOL)
        self.addCleanup(self.world.close)
        self.bridge = self.world.add("a", 500, 100_000_000)
        self.bridge.settled()
        self.bridge.stop()
        settings = self.bridge.data / "bridge.toml"
        settings.write_text('loops = "mean_s=1,within_s=20,lost_max=3"\n' + settings.read_text())
        self.bridge.start()

    def figures(self):
        return self.bridge.status()["loops"]

    def test_a_relay_that_holds_mail_up_is_noticed(self):
        wait_until(lambda: self.figures()["back"] >= 5, 90, "loops that came back")
        before = self.figures()
        self.assertLess(before["lost_lately"], 3)
        self.assertIn("back", self.bridge.command("status").stdout)
        self.assertGreater(before["day_cost_max"], 0)
        self.assertEqual(self.bridge.outbox(), [])
        # From now on its mail waits in the relay's pool, where nobody else's is, for hours.
        self.bridge.kill()
        settings = self.bridge.data / "bridge.toml"
        settings.write_text('mix = "mixed"\n' + settings.read_text())
        self.bridge.start()
        self.assertGreaterEqual(self.figures()["back"], before["back"], "a crash forgets nothing")
        inbox = Inbox(self.bridge)
        told = inbox.wait_for("did not come back", seconds=180)[0]
        self.assertIn(b"Messages to yourself", told)
        self.assertGreaterEqual(self.figures()["lost_lately"], 3)
        self.assertGreater(len(self.world.relay.queue()), 2, "they are held up")
        for content in inbox.messages.values():
            self.assertIsNone(WORD.search(content), "a loop is in no folder")
        sent = self.figures()["sent"]
        self.bridge.settled()
        services = [row for row in self.bridge.statement() if row["kind"] == "message"]
        self.assertGreaterEqual(sum(row["count"] for row in services), sent - 1, "each was paid for")

    def test_none_is_sent_that_another_device_would_show_as_mail(self):
        wait_until(lambda: self.figures()["back"] >= 1, 90, "a loop that came back")
        pack = self.world.folder.path / "other.pack"
        words = ["--keys", 50, "--passphrase-file", self.bridge.passphrase, "--dir", self.bridge.data]
        run(BINARIES / "postern", "keypack", "device", pack, *words)
        wait_until(lambda: self.figures()["pause"], 60, "a pause")
        self.assertIn("other devices", self.bridge.command("status").stdout)
        sent = self.figures()["sent"]
        number = json.loads(self.bridge.command("keypack", "devices", "--json").stdout)["devices"][-1]["number"]
        self.bridge.command("keypack", "drop", number, "--yes")
        wait_until(lambda: self.figures()["sent"] > sent, 60, "loops again")
