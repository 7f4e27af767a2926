"""What an operator does beside a running relay, and how a relay stops.

Whoever runs a relay must be able to handle what is stuck in it without seeing whose it is, and to stop it at any moment
without anybody's mail being cut in two.
"""

import re
import shutil
import signal
import unittest

from clients import Inbox, Talk, message, smtp_talk, submit
from harness import BINARIES, DOMAIN, OUTSIDE, ROOT, Hazard, World, word
from processes import Folder, run, wait_until


class Closing(Hazard):
    """What happens to those who are at the door when the relay stops."""

    make = staticmethod(lambda: World(holders=("a",)))

    def setUp(self):
        self.a, self.relay = self.world.a, self.world.relay

    def receiving(self, token):
        """A conversation in the middle of a message."""
        talk = smtp_talk(self.relay.mx)
        talk.send(f"MAIL FROM:<{OUTSIDE}>\r\nRCPT TO:<{self.a.alias}>\r\nDATA\r\n")
        self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 354])
        talk.send(message(OUTSIDE, self.a.alias, token))
        return talk

    def refused(self):
        try:
            Talk(self.relay.mx).close()
        except OSError:
            return True
        return False

    def test_a_stop_takes_what_is_coming_in_and_nothing_new(self):
        token = word()
        with self.receiving(token) as talk, smtp_talk(self.relay.mx) as idle:
            self.relay.process.ask_to_end()
            self.assertEqual(idle.reply()[0], 421)
            wait_until(self.refused, 5, "the closed port")
            talk.send(".\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(2)], [250, 421])
        self.assertEqual(self.relay.process.wait(20), 0)
        self.relay.start()
        Inbox(self.a).wait_for(token)

    def test_a_second_signal_ends_it_at_once(self):
        with self.receiving(word()) as talk, smtp_talk(self.relay.mx) as idle:
            self.relay.process.ask_to_end()
            self.assertEqual(idle.reply()[0], 421)
            self.relay.process.ask_to_end(signal.SIGINT)
            self.assertNotEqual(self.relay.process.wait(20), 0)
            self.assertTrue(talk.ended(5))
        self.relay.start()


class ForOperators(Hazard):
    """What an operator does beside a running relay."""

    make = staticmethod(lambda: World(holders=("a",), smarthost="127.0.0.1:9", retry_s=[3600] * 3))

    def setUp(self):
        self.a, self.relay = self.world.a, self.world.relay

    def one_row(self):
        rows = self.relay.queue()
        return rows[0] if len(rows) == 1 and rows[0]["attempts"] else None

    def test_a_delivery_is_shown_tried_and_given_up_by_its_row(self):
        token = word()
        submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
        row = wait_until(self.one_row, 30, "a delivery that was put off")
        self.assertEqual(set(row), {"row", "age", "attempts", "kilobytes", "due", "pooled", "last"})
        self.assertRegex(row["last"], r"^(\d{3} )?4\.\d+\.\d+$")
        listed = self.relay.command("queue", "list").stdout
        for secret in (OUTSIDE, self.a.alias, self.a.identifier, "out.test"):
            self.assertNotIn(secret, listed)
        self.relay.command("queue", "retry", str(row["row"]))
        tried = wait_until(
            lambda: next((now for now in self.relay.queue() if now["attempts"] > row["attempts"] + 1), None), 30, "a try"
        )
        self.assertEqual(tried["row"], row["row"])
        self.relay.command("queue", "drop", str(row["row"]))
        self.assertEqual(self.relay.queue(), [])
        (report,) = Inbox(self.a).wait_for(token)
        self.assertRegex(report, rb"(?im)^status: 5\.3\.0")
        gone = self.relay.command("queue", "drop", str(row["row"]), check=False)
        self.assertNotEqual(gone.returncode, 0)
        self.assertIn("no delivery of that number", gone.stderr)
        self.relay.audit()

    def test_check_names_what_is_wrong_by_its_key(self):
        check = [BINARIES / "posternd", "check", "--config"]
        beside = run(*check, self.relay.config)
        self.assertIn("can be run", beside.stdout)
        broken = self.world.folder.path / "broken.toml"
        # Keys before the first table.
        text = self.relay.config.read_text().replace(f'domain = "{DOMAIN}"', 'domain = "Relay.Test"')
        text = re.sub(r"(?m)^data = .*$", 'data = "/proc/version"\nmx_key = "none.pem"\nmemory_mib = 1', text)
        text += '\n[peers."mx.test"]\ntls = "require"\nuser = "u"\npassword_file = "/proc/none"\n'
        broken.write_text(text)
        done = run(*check, broken, check=False)
        self.assertNotEqual(done.returncode, 0)
        named = set(re.findall(r"(?m)^error  (\w+):", done.stdout))
        self.assertEqual(named, {"domain", "data", "mx", "link", "status", "mx_certificate", "memory_mib", "peers"})

    def test_completions_and_manual_pages_are_made(self):
        for shell in ("bash", "zsh", "fish"):
            self.assertIn("posternd", run(BINARIES / "posternd", "completions", shell).stdout)
        pages = self.world.folder.path / "man"
        run(BINARIES / "posternd", "man", "--to", pages)
        names = {page.name for page in pages.iterdir()}
        self.assertLessEqual({"posternd.1", "posternd-run.1", "posternd-queue-drop.1"}, names)


class Unit(unittest.TestCase):
    """The systemd unit that is shipped."""

    def setUp(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd here")
        self.folder = Folder()
        self.addCleanup(self.folder.remove)
        shipped = (ROOT / "deploy" / "posternd.service").read_text()
        self.unit = self.folder.path / "posternd.service"
        self.unit.write_text(shipped.replace("/usr/local/bin/posternd", str(BINARIES.resolve() / "posternd")))

    def test_systemd_understands_all_of_it(self):
        done = run("systemd-analyze", "verify", "--man=no", self.unit, check=False)
        said = [line for line in done.stderr.splitlines() if "posternd" in line]
        self.assertEqual((done.returncode, said), (0, []), done.stderr)

    def test_it_leaves_the_relay_little(self):
        done = run("systemd-analyze", "security", "--offline=true", self.unit, check=False)
        exposure = re.search(r"exposure level for posternd.service: ([0-9.]+)", done.stdout)
        if not exposure:
            self.skipTest("this systemd does not judge units that are not installed")
        self.assertLessEqual(float(exposure[1]), 2.0, done.stdout)
