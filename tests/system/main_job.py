"""The main job: mail goes out, comes in and stays, by stock clients, through the one command of the README.

If this breaks, nothing else matters: a person with an ordinary mail program cannot send, cannot receive, or finds
other octets than were sent.
"""

import os
import random
import re
import signal
import socket
import unittest

import figures
from clients import CRLF, Inbox, curl, deliver, literals, login, message, smtp_talk, swaks
from harness import BINARIES, OUTSIDE, Hazard, Operator, Quickstart, by_extent, full_only, word
from processes import Folder, Process, free_ports, run, wait_until


class MainJob(Hazard):
    @staticmethod
    def make():
        return Quickstart().start()

    def setUp(self):
        self.sink, self.a, self.b = self.world.sink, self.world.a, self.world.b
        self.mx = self.world.relay["mx"]

    def send_by_swaks(self, holder, recipient, token, *options):
        credentials = {"user": holder.user, "password": holder.password}
        done = swaks(holder.smtp, holder.alias, recipient, "--header", f"Subject: {token}", *options, **credentials)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done

    def receive_exactly(self, *contents, seconds=60):
        """Delivers messages over the MX and checks that INBOX then holds each, octet for octet."""
        inbox = Inbox(self.a)
        before = len(inbox.refresh())
        for content in contents:
            deliver(self.mx, OUTSIDE, self.a.alias, content)
        wait_until(lambda: len(inbox.refresh()) >= before + len(contents), seconds, "all messages")
        received = list(inbox.messages.values())[before:]
        for content in contents:
            with self.subTest(octets=len(content), end=content[-20:]):
                self.assertIn(content, received)

    def test_a_welcome_message_waits_in_each_inbox(self):
        for holder in (self.a, self.b):
            self.assertIn(holder.alias.encode(), Inbox(holder).wait_for("Subject:")[0])

    def test_swaks_through_a_bridge_reaches_the_outside_world(self):
        token = word()
        self.send_by_swaks(self.a, OUTSIDE, token)
        delivery = wait_until(lambda: self.sink.with_word(token), 30, "the message outside")[0]
        self.assertEqual(delivery.recipients, [OUTSIDE])
        self.assertEqual(delivery.reverse_path, self.a.alias)

    def test_swaks_with_pipelining_and_an_attachment_reaches_the_outside_world(self):
        token = word()
        folder = Folder()
        attachment = folder.path / "octets.bin"
        attachment.write_bytes(os.urandom(100_000))
        self.send_by_swaks(self.a, OUTSIDE, token, "--pipeline", "--attach", f"@{attachment}")
        wait_until(lambda: self.sink.with_word(token), 30, "the message outside")

    def test_curl_sends_through_a_bridge(self):
        token = word()
        content = message(self.a.alias, OUTSIDE, token)
        envelope = ["--mail-from", self.a.alias, "--mail-rcpt", OUTSIDE, "--upload-file", "-"]
        curl(f"smtp://{self.a.smtp}", *envelope, holder=self.a, data=content)
        wait_until(lambda: self.sink.with_word(token), 30, "the message outside")

    def test_mail_between_the_aliases_goes_through_relay_and_mx(self):
        token = word()
        self.send_by_swaks(self.a, self.b.alias, token)
        received = Inbox(self.b).wait_for(token)[0]
        self.assertRegex(received, rb"(?m)^Message-ID: <[^>]+@relay\.test>")
        self.assertEqual(self.sink.with_word(token), [])

    def test_the_login_name_at_localhost_means_the_default_alias(self):
        token = word()
        content = ["--from", f"{self.a.user}@localhost", "--header", f"From: {self.a.user}@localhost"]
        self.send_by_swaks(self.a, OUTSIDE, token, *content)
        delivery = wait_until(lambda: self.sink.with_word(token), 30, "the message outside")[0]
        self.assertEqual(delivery.reverse_path, self.a.alias)
        self.assertNotIn(b"localhost", delivery.content)

    def test_what_arrives_is_the_same_by_curl_and_imaplib(self):
        token = word()
        deliver(self.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        inbox = Inbox(self.a)
        by_imaplib = inbox.wait_for(token)[0]
        uid = next(uid for uid, content in inbox.messages.items() if content == by_imaplib)
        self.assertEqual(curl(f"imap://{self.a.imap}/INBOX;UID={uid}", holder=self.a), by_imaplib)

    def test_a_message_of_no_octets_arrives(self):
        inbox = Inbox(self.a)
        before = len(inbox.refresh())
        with smtp_talk(self.mx) as talk:
            talk.send(f"MAIL FROM:<{OUTSIDE}>\r\nRCPT TO:<{self.a.alias}>\r\nDATA\r\n")
            self.assertEqual([talk.reply()[0] for _ in range(3)], [250, 250, 354])
            self.assertEqual(talk.command(".")[0], 250)
        wait_until(lambda: len(inbox.refresh()) > before, 30, "the message")
        self.assertEqual(list(inbox.messages.values())[-1], b"")

    def test_small_messages_arrive_octet_for_octet(self):
        bodies = (b"", b"x", b"\xff", b".", b"..", b".\r\n..\r\n", b"x" * 1024, b"\r\n\r\n\r\n", b"\t \r\n ")
        heads = [message(OUTSIDE, self.a.alias, word(), body="") for _ in bodies]
        self.receive_exactly(b"x\r\n", *(head + body + CRLF for head, body in zip(heads, bodies, strict=True)))

    def test_dots_long_lines_and_all_octets_arrive_as_sent(self):
        octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
        lines = [b"." + octets, octets * 3, b".", b"." * 998, b"y" * 998, b"z" * 5_000]
        self.receive_exactly(message(OUTSIDE, self.a.alias, word(), body="") + CRLF.join(lines) + CRLF)

    def test_messages_at_the_edges_of_each_size_class_arrive(self):
        envelope = 2 + 1 + 1 + len(OUTSIDE) + 1
        contents = []
        for kilobytes in figures.CLASSES[: by_extent(8, 11)]:
            for beyond in (-1, 0, 1):
                head = message(OUTSIDE, self.a.alias, word(), body="")
                body = figures.sealed_capacity(kilobytes) - envelope + beyond - len(head) - len(CRLF)
                lines = (b"z" * 76 + CRLF) * (body // 78)
                contents.append(head + lines + b"z" * (body - len(lines)) + CRLF)
        self.receive_exactly(*contents)

    def test_a_mebibyte_of_random_octets_arrives(self):
        self.receive_exactly(_octets(1 << 20, self.a.alias))

    @full_only
    def test_48_mebibytes_arrive(self):
        self.receive_exactly(_octets(48 << 20, self.a.alias), seconds=300)

    @full_only
    def test_a_large_attachment_goes_out(self):
        token = word()
        folder = Folder()
        attachment = folder.path / "octets.bin"
        attachment.write_bytes(os.urandom(34 << 20))
        self.send_by_swaks(self.a, OUTSIDE, token, "--attach", f"@{attachment}")
        wait_until(lambda: self.sink.with_word(token), 300, "the large message outside")

    def test_a_message_can_be_flagged_and_expunged(self):
        token = word()
        deliver(self.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        inbox = Inbox(self.a)
        content = inbox.wait_for(token)[0]
        uid = next(str(uid) for uid, other in inbox.messages.items() if other == content)
        session = login(self.a)
        session.select("INBOX")
        session.uid("STORE", uid, "+FLAGS", r"(\Flagged)")
        self.assertIn(rb"\Flagged", session.uid("FETCH", uid, "(FLAGS)")[1][0])
        session.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
        session.expunge()
        self.assertEqual(literals(session.uid("FETCH", uid, "(BODY.PEEK[])")[1]), [])
        session.logout()

    def test_the_status_page_answers_without_names(self):
        base = f"http://{self.world.relay['status']}"
        for path in ("/", "/metrics", "/health"):
            with self.subTest(path=path):
                page = curl(base + path).decode()
                self.assertTrue(page)
                for holder in (self.a, self.b):
                    self.assertNotIn(holder.alias.split("@")[0], page)
                    self.assertNotIn(holder.status()["identifier"], page)


class StopAndStart(Hazard):
    @staticmethod
    def make():
        return Quickstart().start()

    def test_state_survives_stop_and_start(self):
        world = self.world
        token = word()
        deliver(world.relay["mx"], OUTSIDE, world.a.alias, message(OUTSIDE, world.a.alias, token))
        before = Inbox(world.a)
        before.wait_for(token)
        validity = _validity(world.a)
        status = world.a.settled()
        login_before = (world.a.user, world.a.password, world.a.alias)

        self.assertEqual(world.stop(), 0)
        world.start()

        after = Inbox(world.a)
        self.assertEqual(after.refresh(), before.messages)
        self.assertEqual(_validity(world.a), validity)
        self.assertEqual((world.a.user, world.a.password, world.a.alias), login_before)
        links = wait_until(lambda: world.a.status()["keys"] < status["keys"] and world.a.status(), 30, "a link")
        spent = (status["keys"] - links["keys"]) * world.facts["prices"]["key"]
        self.assertEqual(status["balance"] - links["balance"], spent)

    def test_an_end_signal_stops_every_process(self):
        world = Quickstart().start()
        self.addCleanup(world.close)
        pids = [world.relay["pid"], world.a.pid, world.b.pid]
        self.assertEqual(world.process.stop(signal.SIGTERM), 0)
        for pid in pids:
            with self.assertRaises(ProcessLookupError):
                os.kill(pid, 0)


class InARow(Hazard):
    """Three relays: a's mailbox is at the first, b's at the last, and b's link runs inside one to the first."""

    @staticmethod
    def make():
        return Quickstart(relays=3).start()

    def test_two_people_write_to_each_other_and_go_on_after_a_stop(self):
        world = self.world
        domains = [relay["domain"] for relay in world.facts["relays"]]
        self.assertEqual([world.a.alias.split("@")[1], world.b.alias.split("@")[1]], [domains[0], domains[2]])
        self.assertEqual(world.b.status()["entry"]["relay"], domains[0])
        self.write_both_ways(world)
        self.assertEqual(world.stop(), 0)
        world.start()
        self.write_both_ways(world)
        for relay in world.facts["relays"]:
            Operator(relay["data"]).audit()

    def write_both_ways(self, world):
        for sender, recipient in ((world.a, world.b), (world.b, world.a)):
            token = word()
            credentials = {"user": sender.user, "password": sender.password}
            swaks(sender.smtp, sender.alias, recipient.alias, "--header", f"Subject: {token}", **credentials)
            [received] = Inbox(recipient).wait_for(token)
            self.assertIn(sender.alias.encode(), received)

    def test_another_number_of_relays_is_refused_in_one_sentence(self):
        world = Quickstart(through_proxy=False)
        self.addCleanup(world.close)
        world.dir = world.folder.path / "again"
        (world.dir / "a").mkdir(parents=True)
        world.relays = 3
        world.ports = {name: free_ports(3) for name in world.ports}
        process = Process(world.folder.path, "quickstart", *world.command())
        self.assertNotEqual(process.wait(60), 0)
        self.assertIn("give --relays 1", process.log.read_text())


class OneClearSentence(unittest.TestCase):
    """What goes wrong at start is said in one sentence, and the exit code says it too."""

    def failure_of(self, process):
        code = process.wait(60)
        words = process.log.read_text()
        self.assertNotEqual(code, 0)
        self.assertNotIn("panicked", words)
        self.assertNotIn("backtrace", words)
        last = [line for line in words.splitlines() if line.strip()][-1]
        self.assertLess(len(last), 300)
        return last

    def test_a_taken_port_is_named(self):
        for name in ("link", "mx", "status", "smtp", "imap"):
            with self.subTest(port=name):
                world = Quickstart()
                self.addCleanup(world.close)
                with socket.create_server(("127.0.0.1", world.ports[name])):
                    process = Process(world.folder.path, "quickstart", *world.command())
                    self.assertIn(str(world.ports[name]), self.failure_of(process))

    def test_a_read_only_folder_is_named(self):
        folder = Folder()
        folder.path.chmod(0o755)
        closed = folder.path / "closed"
        closed.mkdir(mode=0o555)
        binary = folder.path / "posternd"
        binary.write_bytes((BINARIES / "posternd").read_bytes())
        binary.chmod(0o755)
        command = [binary, "quickstart", "--dir", closed / "data", "--json"]
        for name in ("link", "mx", "status", "smtp", "imap"):
            command += [f"--{name}-port", free_ports(2)]
        nobody = "nobody" if os.geteuid() == 0 else None
        process = Process(folder.path, "quickstart", *command, user=nobody)
        self.assertIn(str(closed), self.failure_of(process))

    def test_a_wrong_passphrase_is_told(self):
        world = Quickstart(through_proxy=False)
        self.addCleanup(world.close)
        world.start()
        data = world.a.data
        world.stop()
        wrong = world.folder.path / "wrong"
        wrong.write_text("not this one\n")
        command = ["bridge", "--dir", data, "--passphrase-file", wrong]
        command += ["--smtp", f"127.0.0.1:{free_ports()}", "--imap", f"127.0.0.1:{free_ports()}"]
        process = Process(world.folder.path, "bridge", BINARIES / "postern", *command)
        self.assertIn("passphrase", self.failure_of(process))

    def test_a_second_process_on_one_folder_is_refused(self):
        world = Quickstart(through_proxy=False)
        self.addCleanup(world.close)
        world.start()
        world.ports = {name: free_ports(2) for name in world.ports}
        process = Process(world.folder.path, "second", *world.command())
        self.failure_of(process)
        self.assertTrue(world.process.running)

    def test_commands_without_a_running_process_say_so(self):
        folder = Folder()
        for binary, command in (("postern", "status"), ("posternd", "totals")):
            option = "--dir" if binary == "postern" else "--data"
            done = run(BINARIES / binary, command, option, folder.path, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)


def _validity(holder):
    session = login(holder)
    try:
        return re.search(rb"UIDVALIDITY (\d+)", session.status("INBOX", "(UIDVALIDITY)")[1][0]).group(1)
    finally:
        session.logout()


def _octets(length, recipient):
    """A message of exactly `length` octets with an 8-bit body of lines of all lengths up to 998."""
    draw = random.Random(length)
    head = message(OUTSIDE, recipient, word(), body="")
    noise = bytearray(draw.randbytes(length - len(head)))
    table = bytes(32 if octet in b"\0\r\n" else octet for octet in range(256))
    noise = bytearray(noise.translate(table))
    at = 0
    while (at := at + draw.randrange(2, 1000)) < len(noise) - 2:
        noise[at - 2 : at] = CRLF
    noise[-2:] = CRLF
    return bytes(head + noise)
