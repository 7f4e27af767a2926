"""Thunderbird, set up by its own assistant from an address and a password, does its whole job against a bridge.

Most people's mail program. It finds its settings by itself or its user gives up before the first message.
"""

import json
import shutil
from pathlib import Path

from clients import deliver, login, message
from desk import WORDS, Desk, needs
from harness import OUTSIDE, World
from marionette import Marionette
from processes import Process, free_ports, wait_for_port

SCRIPT = (Path(__file__).parent / "thunderbird.js").read_text()
ADDRESS = "me@localhost"
PROGRAM = Path("/usr/lib/thunderbird")


class Thunderbird:
    """A headless Thunderbird with a profile in `profile`, which is made if it is not there, and some settings of its own."""

    def __init__(self, folder, profile, program="thunderbird", **settings):
        port = free_ports()
        profile.mkdir(exist_ok=True)
        settings = {
            **settings,
            "marionette.port": port,
            # Nothing is asked of the network but what the test is about.
            "services.settings.server": "data:,#remote-settings-dummy/v1",
            "mailnews.auto_config.fetchFromExchange.enabled": False,
            "mailnews.start_page.enabled": False,
            "datareporting.policy.dataSubmissionEnabled": False,
            "app.update.enabled": False,
            "network.captive-portal-service.enabled": False,
            "network.connectivity-service.enabled": False,
        }
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items())
        with (profile / "user.js").open("a") as file:
            file.writelines(lines)
        command = [program, "--headless", "--no-remote", "--profile", profile]
        command += ["--marionette", "--remote-allow-system-access"]
        environment = {"HOME": str(folder), "LC_ALL": "C.UTF-8", "TZ": "Pacific/Auckland"}
        environment["MOZ_CRASHREPORTER_DISABLE"] = "1"
        self._process = Process(folder, "thunderbird", *command, environment=environment)
        wait_for_port(self._process, f"127.0.0.1:{port}")
        self._marionette = Marionette(port)
        self._marionette.run(SCRIPT)

    def __getattr__(self, name):
        """What a person does, as thunderbird.js has it."""
        return lambda *arguments: self._marionette.run(f"return tb.{name}(...arguments)", *arguments)

    def close(self):
        self._marionette.close()
        self._process.kill()


class Desktop(World):
    """A world with Thunderbird at holder a, set up when the first test starts."""

    def __init__(self):
        super().__init__()
        page = json.loads(self.a.command("settings", "--json").stdout)["page"]
        # It knows of the bridge where that serves its autoconfiguration.
        lookup = {"mailnews.auto_config_url": f"http://{page}/autoconfig/"}
        self.thunderbird = Thunderbird(self.folder.path, self.folder.path / "profile", **lookup)
        self.steps = self.thunderbird.setUp("Somebody", ADDRESS, self.a.password)

    def close(self):
        self.thunderbird.close()
        super().close()


class Installed(Desk):
    """What is the same however Thunderbird came by the account."""

    def start(self, profile, program="thunderbird", **settings):
        self.thunderbird = Thunderbird(self.home, profile, program, **settings)
        self.addCleanup(self.thunderbird.close)

    def has_the_account(self):
        expected = {"imap": self.a.imap, "smtp": self.a.smtp, "user": self.a.user, "idle": True}
        self.assertLessEqual(expected.items(), self.thunderbird.settings().items())

    def sends_and_receives(self):
        self.thunderbird.send({"to": OUTSIDE, "subject": self.token, "body": WORDS})
        _, parsed = self.outside(self.token)
        self.assertEqual(self.text_of(parsed), [WORDS])
        self.until_in("Sent", self.token, r"\Seen")
        back = f"back {self.token}"
        self.receive(back)
        self.thunderbird.show("INBOX")
        self.thunderbird.heard("INBOX", back)
        self.thunderbird.draft({"to": OUTSIDE, "subject": f"later {self.token}", "body": WORDS})
        self.until_in("Drafts", f"later {self.token}", r"\Draft")
        self.thunderbird.star("INBOX", back)
        self.thunderbird.remove("INBOX", back)
        self.until_in("Trash", back, r"\Flagged")


@needs("thunderbird")
class FromItsProgramFolder(Installed):
    """The file that `postern setup` writes beside the program is all that the assistant has."""

    def test_the_assistant_finds_everything_in_the_file(self):
        folder = self.home / "program"
        # The program looks for its files where its own one lies.
        shutil.copytree(PROGRAM, folder, ignore=shutil.ignore_patterns("dictionaries"))
        (folder / "isp").mkdir(exist_ok=True)
        self.a.command("setup", "thunderbird", "--write", "--to", folder / "isp" / "localhost.xml")
        self.start(self.home / "profile", folder / "thunderbird")
        steps = self.thunderbird.setUp("Somebody", ADDRESS, self.a.password)
        self.assertEqual(steps, ["AutoConfig", "ConfigFound", "Password", "AddedSuccess"])
        self.has_the_account()
        self.sends_and_receives()


@needs("thunderbird")
class ReadyProfile(Installed):
    """The profile that `postern setup` writes has the account; its person only types the password."""

    def test_the_account_is_there_at_the_first_start(self):
        profile = self.home / "profile"
        self.a.command("setup", "thunderbird", "--write", "--to", profile)
        # The question for the password would stand before everything else, and nobody sees it.
        quiet = {f"mail.server.server1.{name}": False for name in ("login_at_startup", "check_new_mail")}
        self.start(profile, **quiet)
        self.thunderbird.remember(self.a.password)
        self.has_the_account()
        self.sends_and_receives()


@needs("thunderbird")
class WholeJob(Desk):
    make = Desktop

    def setUp(self):
        super().setUp()
        self.thunderbird = self.world.thunderbird

    def test_the_assistant_finds_everything_from_address_and_password(self):
        self.assertEqual(self.world.steps, ["AutoConfig", "ConfigFound", "Password", "AddedSuccess"])
        expected = {"imap": self.a.imap, "smtp": self.a.smtp, "user": self.a.user, "address": ADDRESS, "idle": True}
        self.assertEqual(self.thunderbird.settings(), expected)
        uses = self.thunderbird.uses()
        for name in ("Archive", "Drafts", "Junk", "Sent", "Trash"):
            self.assertEqual(uses[name], name)

    def test_a_message_with_attachments_leaves_and_its_copy_lies_in_sent(self):
        blob, text = self.octets("blob.bin", 300_000), self.file("text.txt", "a line\n.\nGrüße\n")
        letter = {"to": OUTSIDE, "subject": self.token, "body": WORDS}
        self.thunderbird.send({**letter, "files": [str(blob), str(text)]})
        delivery, parsed = self.outside(self.token)
        files = {"blob.bin": blob.read_bytes(), "text.txt": text.read_text()}
        for one in (parsed, self.until_in("Sent", self.token, r"\Seen").parsed):
            self.assertEqual(self.text_of(one), [WORDS])
            self.assertEqual(self.attached(one), files)
        self.assertIn(parsed["From"], self.a.status()["aliases"])
        self.thunderbird.holds("Sent", [self.token])
        for trace in (b"Thunderbird", b"Mozilla", b"Somebody", b"localhost", b"+1300", b"+1200"):
            self.assertNotIn(trace, delivery.content)

    def test_what_comes_and_what_another_program_does_is_heard_without_asking(self):
        self.thunderbird.stopLooking()
        self.thunderbird.show("INBOX")
        for number in range(2):
            content = message(OUTSIDE, self.a.alias, f"{self.token}{number}")
            deliver(self.world.relay.mx, OUTSIDE, self.a.alias, content)
            self.thunderbird.heard("INBOX", f"{self.token}{number}")
        session = login(self.a)
        session.select("INBOX")
        session.store("1", "+FLAGS", r"(\Flagged)")
        self.thunderbird.heardStar("INBOX", f"{self.token}0")
        session.store("1", "+FLAGS", r"(\Deleted)")
        session.expunge()
        self.thunderbird.heardEnd("INBOX", f"{self.token}0")
        session.logout()

    def test_an_answer_stays_in_its_thread_and_so_does_the_answer_to_it(self):
        identifier = self.receive(self.token, "a question\r\n")
        self.thunderbird.reply("INBOX", self.token, "an answer")
        _, answer = self.outside(f"Re: {self.token}")
        self.assertEqual((answer["In-Reply-To"], answer["References"]), (identifier, identifier))
        self.assertEqual(self.text_of(answer)[0], "an answer")
        self.assertEqual(self.text_of(answer)[-1], "> a question")
        self.until_in("INBOX", self.token, r"\Answered")
        own = self.until_in("Sent", f"Re: {self.token}").parsed["Message-ID"]
        again, sent = f"again {self.token}", answer["Message-ID"]
        self.receive(again, headers=[f"In-Reply-To: {sent}", f"References: {identifier} {sent}"])
        self.assertEqual(self.stored("INBOX")[again].parsed["In-Reply-To"], own)

    def test_a_message_is_starred_tagged_moved_found_archived_and_deleted(self):
        subjects = [f"{name} {self.token}" for name in ("kept", "other")]
        for subject in subjects:
            self.receive(subject, f"needle{subject[:4]}\r\n")
        self.thunderbird.star("INBOX", subjects[0])
        self.until_in("INBOX", subjects[0], r"\Flagged")
        self.thunderbird.tag("INBOX", subjects[0], 1)
        self.until_in("INBOX", subjects[0], "$label1")
        self.thunderbird.newFolder("Projects")
        self.thunderbird.move("INBOX", subjects[0], "Projects")
        self.assertLessEqual({r"\Flagged", "$label1"}, self.until_in("Projects", subjects[0]).flags)
        self.until_gone("INBOX", subjects[0])
        self.assertEqual(self.thunderbird.search("Projects", "needlekept"), subjects[:1])
        self.assertEqual(self.thunderbird.search("INBOX", "needlekept"), [])
        self.thunderbird.remove("Projects", subjects[0])
        self.until_in("Trash", subjects[0])
        self.until_gone("Projects", subjects[0])
        self.thunderbird.holds("Trash", subjects[:1])
        self.thunderbird.emptyTrash()
        self.until_gone("Trash", subjects[0])

    def test_a_draft_is_kept_opened_again_and_sent(self):
        self.thunderbird.draft({"to": OUTSIDE, "subject": self.token, "body": "first part"})
        self.until_in("Drafts", self.token, r"\Draft")
        self.assertEqual(self.thunderbird.finishDraft(self.token, "second part; ").strip(), "first part")
        _, parsed = self.outside(self.token)
        self.assertEqual(self.text_of(parsed), ["second part; first part"])
        self.until_gone("Drafts", self.token)
        self.thunderbird.holds("Drafts", [])
