"""Programs that fetch, sort, synchronise and send without a person at them do their whole job against a bridge.

They run unseen, by the clock: what they lose or take twice is noticed weeks later, or never.
"""

import re
from email.message import EmailMessage

from clients import curl, message, split_address, swaks
from desk import WORDS, Desk, needs
from harness import OUTSIDE
from processes import Process, wait_until


class Fetching(Desk):
    def setUp(self):
        super().setUp()
        self.host, self.port = split_address(self.a.imap)
        self.taken = self.home / "taken"
        self.taken.mkdir()
        self.agent = self.file("agent", f'#!/bin/sh\ncat > "{self.taken}/$$"\n', 0o700)

    def took(self, subject):
        """How many of the delivered files hold `subject`."""
        return sum(f"Subject: {subject}" in path.read_text() for path in self.taken.iterdir())

    @needs("fetchmail")
    def test_fetchmail_waits_in_idle_takes_what_comes_and_leaves_it_there(self):
        rc = self.file(
            "fetchmailrc",
            f'poll {self.host} service {self.port} protocol imap auth password user "{self.a.user}"'
            f' password "{self.a.password}" sslproto "" mda "{self.agent}" idle keep\n',
        )
        command = ["fetchmail", "-f", rc, "--nodetach", "--nosyslog", "--pidfile", self.home / "pid"]
        fetchmail = Process(self.home, "fetchmail", *command, environment=self.environment)
        self.addCleanup(fetchmail.kill)
        for number in range(2):
            subject = f"{self.token}{number}"
            self.receive(subject)
            wait_until(lambda subject=subject: self.took(subject), 20, "what fetchmail took")
            self.assertIn(r"\Seen", self.until_in("INBOX", subject, r"\Seen").flags)

    @needs("getmail")
    def test_getmail_takes_each_message_once_and_moves_it_away(self):
        rc = self.file(
            "getmailrc",
            f"""[retriever]
type = SimpleIMAPRetriever
server = {self.host}
port = {self.port}
username = {self.a.user}
password = {self.a.password}
mailboxes = ("INBOX",)
[destination]
type = MDA_external
path = {self.agent}
allow_root_commands = true
[options]
read_all = false
delete = false
""",
        )
        getmail = ["getmail", f"--getmaildir={self.home}", f"--rcfile={rc}"]
        self.receive(f"{self.token}0")
        self.receive(f"{self.token}1")
        for _ in range(2):
            self.program(*getmail)
            self.assertEqual(self.took(self.token), 2)
        rc.write_text(rc.read_text().replace("delete = false", "delete = true"))
        self.receive(f"{self.token}2")
        self.program(*getmail)
        self.assertEqual(self.took(self.token), 3)
        self.assertEqual(self.stored("INBOX"), {})

    @needs("imapfilter")
    def test_imapfilter_finds_flags_moves_copies_and_deletes(self):
        for name in ("work", "bin", "both"):
            self.receive(f"{name} {self.token}", f"{name}needle\r\n")
        script = self.file(
            "filter.lua",
            f"""options.starttls = false
options.create = true
options.subscribe = true
me = IMAP {{ server = '{self.host}', port = {self.port}, username = '{self.a.user}', password = '{self.a.password}' }}
mine = me.INBOX:contain_subject('{self.token}')
work = mine:contain_body('workneedle')
work:mark_flagged()
work:move_messages(me['Projects/Old'])
mine:contain_subject('both'):copy_messages(me.Archive)
mine:contain_subject('bin'):delete_messages()
""",
        )
        self.program("imapfilter", "-c", script)
        self.assertEqual(self.stored("Projects/Old")[f"work {self.token}"].flags, {r"\Flagged"})
        self.assertEqual(list(self.stored("INBOX")), [f"both {self.token}"])
        self.assertEqual(list(self.stored("Archive")), [f"both {self.token}"])
        self.assertIn("Projects/Old", self.folders())

    @needs("mbsync")
    def test_mbsync_mirrors_all_folders_both_ways(self):
        near = self.home / "mail"
        near.mkdir()
        rc = self.file(
            "mbsyncrc",
            f"""IMAPAccount a
Host {self.host}
Port {self.port}
User {self.a.user}
Pass {self.a.password}
SSLType None

IMAPStore far
Account a

MaildirStore near
Path {near}/
Inbox {near}/INBOX
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
""",
        )

        def synchronise():
            self.program("mbsync", "-c", rc, "c")
            paths = (path for path in near.rglob("*") if path.is_file() and path.parent.name in ("new", "cur"))
            return {path.relative_to(near).parts[0]: path for path in sorted(paths)}

        self.receive(self.token)
        found = synchronise()
        self.assertEqual(list(found), ["INBOX"])
        self.assertTrue((near / "Drafts" / "cur").is_dir())

        for part in ("new", "cur", "tmp"):
            (near / "Mirrored" / part).mkdir(parents=True)
        found["INBOX"].rename(near / "Mirrored" / "cur" / "1.here:2,FS")
        sent = message(self.a.alias, OUTSIDE, f"sent {self.token}")
        self.file("mail/Sent/cur/2.here:2,S", sent.decode().replace("\r", ""))
        synchronise()
        self.assertEqual(self.until_in("Mirrored", self.token).flags, {r"\Flagged", r"\Seen"})
        self.assertEqual(self.stored("INBOX"), {})
        uploaded = self.stored("Sent")[f"sent {self.token}"].content
        self.assertEqual(re.sub(rb"X-TUID: .*\r\n", b"", uploaded), sent)

        before = synchronise()
        self.assertEqual(before, synchronise())
        for path in before.values():
            path.rename(path.with_name(path.name.partition(":2,")[0] + ":2,T"))
        synchronise()
        self.assertEqual((self.stored("Mirrored"), self.stored("Sent")), ({}, {}))


class Sending(Desk):
    def setUp(self):
        super().setUp()
        self.host, self.port = split_address(self.a.smtp)

    def check(self, subject, attached=None, words=WORDS):
        delivery, parsed = self.outside(subject)
        self.assertEqual(self.text_of(parsed), words.splitlines())
        if attached:
            self.assertEqual(self.attached(parsed), {attached.name: attached.read_bytes()})
        return delivery, parsed

    def both_copies(self, word):
        """Waits for the deliveries to both recipients."""
        return wait_until(lambda: len(found := self.sink.with_word(word)) == 2 and found, 30, "both copies")

    @needs("msmtp")
    def test_msmtp_sends_from_headers_keeps_dots_and_bcc_and_knows_a_wrong_password(self):
        rc = self.file(
            "msmtprc",
            f"defaults\nauth plain\ntls off\nhost {self.host}\nport {self.port}\naccount a\nfrom {self.a.alias}\n"
            f"user {self.a.user}\npassword {self.a.password}\naccount wrong : a\npassword wrong\naccount default : a\n",
        )
        words = f".leading\n..\n.\n{WORDS}"
        text = f"From: {self.a.alias}\nTo: {OUTSIDE}\nBcc: hidden@out.test\nSubject: {self.token}\n\n{words}\n"
        self.program("msmtp", "-C", rc, "-t", text=text)
        for delivery in self.both_copies(self.token):
            self.assertNotIn(b"hidden", delivery.content)
        self.check(self.token, words=words)
        failed = self.program("msmtp", "-C", rc, "-a", "wrong", "-t", text=text, check=False)
        self.assertEqual(failed.returncode, 77, failed.stderr)

    @needs("s-nail")
    def test_s_nail_sends_an_attachment_and_reads_and_deletes(self):
        blob = self.octets("blob.bin")
        out = f"smtp://{self.a.user}:{self.a.password}@{self.a.smtp}"
        quiet = ["s-nail", "-:/", "-Sv15-compat", "-Ssendwait", "-Shostname=client.test"]
        self.program(
            *quiet, f"-Smta={out}", "-Ssmtp-auth=plain", f"-Sfrom={self.a.alias}", "-Ssendcharsets=utf-8",
            "-s", self.token, "-a", blob, OUTSIDE, text=WORDS + "\n",
        )  # fmt: skip
        self.check(self.token, blob)
        self.receive(f"in {self.token}", f"needle{self.token}\r\n")
        box = f"imap://{self.a.user}:{self.a.password}@{self.a.imap}/INBOX"
        shown = self.program(*quiet, "-Simap-auth=login", "-R", "-f", box, text="type 1\nexit\n").stdout
        self.assertIn(f"needle{self.token}", shown)
        self.program(*quiet, "-Simap-auth=login", "-f", box, text="delete 1\nquit\n")
        self.assertEqual(self.stored("INBOX"), {})

    @needs("swaks")
    def test_swaks_sends_attachments_pipelined_to_several_with_every_login(self):
        blob = self.octets("blob.bin")
        for mechanism in ("PLAIN", "LOGIN"):
            subject = f"{mechanism} {self.token}{mechanism}"
            done = swaks(
                self.a.smtp, self.a.alias, f"{OUTSIDE},other@out.test", "--pipeline", "--header", f"Subject: {subject}",
                "--body", WORDS, "--attach", f"@{blob}", "--attach-name", "blob.bin", "--auth", mechanism,
                user=self.a.user, password=self.a.password,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stdout)
            self.both_copies(subject.split()[1])
            self.check(subject, blob)

    @needs("curl")
    def test_curl_sends_uploads_searches_moves_and_deletes(self):
        content = EmailMessage()
        content["From"], content["To"], content["Subject"] = self.a.alias, OUTSIDE, self.token
        content.set_content(WORDS + "\n")
        blob = self.octets("blob.bin")
        content.add_attachment(blob.read_bytes(), maintype="application", subtype="octet-stream", filename="blob.bin")
        octets = content.as_bytes().replace(b"\n", b"\r\n")
        envelope = ["--mail-from", self.a.alias, "--mail-rcpt", OUTSIDE, "--upload-file", "-"]
        curl(f"smtp://{self.a.smtp}", *envelope, holder=self.a, data=octets)
        self.check(self.token, blob)

        copy = self.home / "copy"
        copy.write_bytes(octets)
        base = f"imap://{self.a.imap}"
        curl(f"{base}/Sent", "--upload-file", copy, holder=self.a)
        self.assertEqual(self.until_in("Sent", self.token).content, octets)
        found = curl(f"{base}/Sent?SUBJECT%20{self.token}", holder=self.a).decode().split()
        self.assertEqual(found[:2], ["*", "SEARCH"])
        number = found[2]
        self.assertEqual(curl(f"{base}/Sent;MAILINDEX={number}", holder=self.a), octets)
        curl(f"{base}/Sent", "--request", f"MOVE {number} Trash", holder=self.a)
        self.assertEqual((list(self.stored("Sent")), list(self.stored("Trash"))), ([], [self.token]))
        curl(f"{base}/Trash", "--request", r"STORE 1 +FLAGS.SILENT (\Deleted)", holder=self.a)
        curl(f"{base}/Trash", "--request", "EXPUNGE", holder=self.a)
        self.assertEqual(self.stored("Trash"), {})

    @needs("git-send-email")
    def test_git_send_email_carries_a_series_that_applies_again(self):
        def git(repository, *words, **options):
            return self.program("git", "-C", repository, *words, **options).stdout

        there, here = self.home / "there", self.home / "here"
        for repository in (there, here):
            repository.mkdir()
            git(repository, "init", "-q", "-b", "main")
            git(repository, "config", "user.name", "holder")
            git(repository, "config", "user.email", self.a.alias)
        self.file("there/file", "one\n")
        git(there, "add", "file")
        git(there, "commit", "-qm", "first")
        git(here, "pull", "-q", there, "main")
        odd = [".\n..\nFrom here\n", "tab\there, blank at the end \n" + "long " * 150 + "\n", "Größe – ∞\n"]
        for number, lines in enumerate(odd):
            with (there / "file").open("a") as file:
                file.write(lines)
            git(there, "commit", "-qam", f"{self.token} step {number}\n\nWhy: ü.")
        settings = {"smtpServer": self.host, "smtpServerPort": self.port, "smtpUser": self.a.user}
        settings |= {"smtpPass": self.a.password, "smtpEncryption": "", "smtpAuth": "PLAIN", "confirm": "never"}
        for name, value in settings.items():
            git(there, "config", f"sendemail.{name}", str(value))
        self.program(
            "git", "-C", there, "send-email", "--quiet", f"--to={self.b.alias}", f"--from={self.a.alias}", "--thread",
            "--no-chain-reply-to", "-3", "HEAD", "--suppress-cc=all", seconds=120,
        )  # fmt: skip
        patches = []
        for number in range(3):
            subject = f"[PATCH {number + 1}/3] {self.token} step {number}"
            patches.append(self.until_in("INBOX", subject, holder=self.b))
            self.file(f"patches/{number}", "").write_bytes(patches[-1].content)
        first = patches[0].parsed["Message-ID"]
        self.assertEqual([patch.parsed["In-Reply-To"] for patch in patches], [None, first, first])
        git(here, "am", "-q", *sorted((self.home / "patches").iterdir()))
        self.assertEqual(git(here, "rev-parse", "HEAD^{tree}"), git(there, "rev-parse", "HEAD^{tree}"))
