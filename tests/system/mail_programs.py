"""Every stock mail program does its whole job against a bridge: sends, hears, answers, flags, moves, deletes, finds.

A program that half works is given up for another, and with it the privacy that it would have had.
"""

import re

from desk import WORDS, Desk, needs
from harness import OUTSIDE, wait_until


class Mutt(Desk):
    """mutt on its terminal; neomutt keeps the same keys."""

    binary = "mutt"

    def setUp(self):
        super().setUp()
        words = f'{{ echo "{WORDS}"; cat "$1"; }} > "$1.new" && mv "$1.new" "$1"'
        editor = self.file("editor", f"#!/bin/sh\n{words}\n", 0o700)
        self.rc = self.set_up(self.binary, "muttrc")
        with self.rc.open("a") as rc:
            # New mail is to be heard in IDLE, not looked for.
            rc.write(f"""set timeout=1 mail_check=3600 editor="{editor}" smtp_authenticators="plain"
set confirmcreate=no confirmappend=no delete=yes quit=yes move=no sleep_time=0 fast_reply=yes include=yes
set abort_nosubject=no wait_key=no
""")

    def opened(self):
        return self.terminal(self.binary, "-nF", self.rc)

    def find(self, terminal, subject):
        """Moves to the one message of that subject."""
        terminal.do(("l", "Limit"), (f"~s {subject}\r", subject))

    def test_a_message_with_an_attachment_leaves_and_is_kept_in_sent(self):
        blob = self.octets("blob.bin")
        with self.opened() as mutt:
            mutt.shows("INBOX")
            mutt.do(("m", "To:"), (f"{OUTSIDE}\r", "Subject:"), (f"{self.token}\r", "y:Send"))
            mutt.do(("a", "Attach file"), (f"{blob}\r", "blob.bin"), ("y", "ent"), ("q", ""))
            self.assertEqual(mutt.ends(), 0)
        _, parsed = self.outside(self.token)
        self.assertEqual(self.text_of(parsed), [WORDS])
        self.assertEqual(self.attached(parsed), {"blob.bin": blob.read_bytes()})
        self.assertEqual(self.attached(self.until_in("Sent", self.token).parsed), {"blob.bin": blob.read_bytes()})

    def test_mail_is_heard_answered_flagged_found_moved_and_deleted(self):
        with self.opened() as mutt:
            mutt.shows("INBOX")
            identifier = self.receive(self.token, f"needle{self.token}\r\n")
            mutt.shows(self.token)
            self.find(mutt, self.token)
            mutt.do(("r", "y:Send"), ("y", ""))
            _, answer = self.outside(f"Re: {self.token}")
            self.assertEqual((answer["In-Reply-To"], answer["References"]), (identifier, identifier))
            self.assertIn(f"> needle{self.token}", self.text_of(answer))
            mutt.do(("F", ""), ("$", ""))
            self.until_in("INBOX", self.token, r"\Flagged")
            self.until_in("INBOX", self.token, r"\Answered")
            mutt.do(("l", "Limit"), (f"=b needle{self.token}\r", self.token))
            mutt.do(("s", "Save to"), ("\x15+Projects\r", ""), ("$", ""))
            self.until_in("Projects", self.token, r"\Flagged")
            self.until_gone("INBOX", self.token)
            mutt.do(("c", "Open"), ("\x15+Projects\r", self.token), ("d", ""), ("$", ""))
            self.until_in("Trash", self.token)
            self.until_gone("Projects", self.token)
            mutt.keys("q")
            self.assertEqual(mutt.ends(), 0)

    def test_a_draft_is_kept_opened_again_and_sent(self):
        with self.opened() as mutt:
            mutt.shows("INBOX")
            mutt.do(("m", "To:"), (f"{OUTSIDE}\r", "Subject:"), (f"{self.token}\r", "y:Send"), ("P", "ostpone"))
            self.until_in("Drafts", self.token, r"\Draft")
            mutt.do(("m", "Recall"), ("y", "y:Send"), ("y", ""))
            _, parsed = self.outside(self.token)
            self.assertEqual(self.text_of(parsed), [WORDS, WORDS])
            self.until_gone("Drafts", self.token)
            mutt.keys("q")
            self.assertEqual(mutt.ends(), 0)


Mutt = needs("mutt")(Mutt)


@needs("neomutt")
class Neomutt(Mutt):
    binary = "neomutt"


@needs("aerc")
class Aerc(Desk):
    def setUp(self):
        super().setUp()
        self.environment |= {"TERM": "xterm", "XDG_CONFIG_HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}
        editor = self.file("editor", f'#!/bin/sh\necho "{WORDS}" >> "$1"\n', 0o700)
        login = f"{self.a.user}:{self.a.password}"
        self.file(
            "aerc/accounts.conf",
            f"""[here]
source = imap+insecure://{login}@{self.a.imap}
outgoing = smtp://{login}@{self.a.smtp}
from = {self.a.alias}
default = INBOX
copy-to = Sent
postpone = Drafts
""",
        )
        self.file("aerc/aerc.conf", f"[compose]\neditor = {editor}\n[filters]\ntext/plain = cat\n")
        self.file("aerc/binds.conf", "<C-p> = :prev-tab<Enter>\n")

    def opened(self):
        return self.terminal("aerc")

    def order(self, aerc, command, words=""):
        aerc.do((f":{command}\r", words))

    def insist(self, aerc, command, is_done):
        """Gives an order until it is carried out: one that comes before a folder's messages are there means none."""
        for _ in range(10):
            self.order(aerc, command)
            try:
                return wait_until(is_done, 3, command)
            except AssertionError:
                continue
        self.fail(f"{command} was not carried out")

    def test_a_message_with_an_attachment_leaves_and_is_kept_in_sent(self):
        blob = self.octets("blob.bin")
        with self.opened() as aerc:
            aerc.shows("Connected")
            self.order(aerc, f"compose -H 'To: {OUTSIDE}' -H 'Subject: {self.token}'", "Send this email")
            self.order(aerc, f"attach {blob}", "blob.bin")
            self.order(aerc, "send", "ent")
            _, parsed = self.outside(self.token)
            self.assertEqual(self.attached(self.until_in("Sent", self.token).parsed), {"blob.bin": blob.read_bytes()})
        self.assertEqual(self.text_of(parsed), [WORDS])
        self.assertEqual(self.attached(parsed), {"blob.bin": blob.read_bytes()})

    def test_mail_is_heard_answered_flagged_found_moved_and_deleted(self):
        with self.opened() as aerc:
            aerc.shows("Connected")
            identifier = self.receive(self.token, f"needle{self.token}\r\n")
            aerc.shows(self.token)
            self.order(aerc, f"search -b needle{self.token}")
            self.order(aerc, "reply -q", "Send this email")
            self.order(aerc, "send")
            _, answer = self.outside(f"Re: {self.token}")
            self.assertEqual((answer["In-Reply-To"], answer["References"]), (identifier, identifier))
            self.until_in("INBOX", self.token, r"\Answered")
            self.order(aerc, "flag -t")
            self.until_in("INBOX", self.token, r"\Flagged")
            self.order(aerc, "mkdir Projects")
            self.order(aerc, "mv Projects")
            self.until_in("Projects", self.token, r"\Flagged")
            self.until_gone("INBOX", self.token)
            self.order(aerc, "cf Projects", self.token)
            self.insist(aerc, "mv Trash", lambda: self.token in self.stored("Trash"))
            self.until_gone("Projects", self.token)
            self.order(aerc, "cf Trash", self.token)
            self.insist(aerc, "delete", lambda: self.token not in self.stored("Trash"))

    def test_a_draft_is_kept_opened_again_and_sent(self):
        with self.opened() as aerc:
            aerc.shows("Connected")
            self.order(aerc, f"compose -H 'To: {OUTSIDE}' -H 'Subject: {self.token}'", "Send this email")
            self.order(aerc, "postpone")
            self.until_in("Drafts", self.token)
            self.order(aerc, "cf Drafts", self.token)
            self.order(aerc, "recall", "Send this email")
            self.order(aerc, "send")
            _, parsed = self.outside(self.token)
            self.assertEqual(self.text_of(parsed), [WORDS, WORDS])
            self.until_gone("Drafts", self.token)


@needs("alpine")
class Alpine(Desk):
    def setUp(self):
        super().setUp()
        self.environment |= {"USER": self.a.user}
        server = f"{{{self.a.imap}/imap/user={self.a.user}/notls}}"
        self.rc = self.file(
            "pinerc",
            f"""personal-name=
customized-hdrs=From: {self.a.alias}
inbox-path={server}INBOX
folder-collections=here {server}[]
default-fcc=Sent
postponed-folder=Drafts
smtp-server={self.a.smtp}/user={self.a.user}/notls
feature-list=quell-user-lookup-in-passwd-file,disable-password-file-saving,enable-aggregate-command-set,enable-flag-cmd,
    expunge-without-confirm
last-version-used=9.99
""",
        )

    def opened(self):
        alpine = self.terminal("alpine", "-p", self.rc, "-i")
        alpine.shows("ENTER PASSWORD")
        alpine.do((f"{self.a.password}\r", "Folder: INBOX"))
        return alpine

    def asks(self, alpine, keys, question):
        """Types what alpine asks back about. It drops what is typed before it has moved the cursor back to the question,
        which comes after the choices."""
        alpine.do((keys, question))
        alpine.shows(re.compile(r"N \[?No"))
        alpine.rests()

    def send(self, alpine):
        """Sends what is in the composer; the password is asked for at the first time."""
        self.asks(alpine, "\x18", "Send message?")
        alpine.do(("y", "ending mail" if self.asked else "ENTER PASSWORD"))
        if not self.asked:
            alpine.do((f"{self.a.password}\r", ""))
            self.asked = True

    def test_a_session_answers_flags_moves_attaches_and_keeps_a_draft(self):
        self.asked = False
        identifier = self.receive(self.token, f"needle{self.token}\r\n")
        blob = self.octets("blob.bin")
        with self.opened() as alpine:
            alpine.shows(self.token)
            alpine.do((";", "SELECT"), ("t", "elect"), ("b", ":"), (f"needle{self.token}\r", "1 message"))
            self.asks(alpine, "r", "nclude")
            self.asks(alpine, "y", "Reply to all")
            alpine.do(("n", "Message Text"))
            self.send(alpine)
            _, answer = self.outside(f"Re: {self.token}")
            self.assertEqual((answer["In-Reply-To"], answer["References"]), (identifier, identifier))
            self.until_in("INBOX", self.token, r"\Answered")
            alpine.do(("*", "Important"), ("*", ""))
            self.until_in("INBOX", self.token, r"\Flagged")
            alpine.do(("s", "folder"))
            self.asks(alpine, "\x15Projects\r", "reate")
            alpine.do(("y", "DEL"))
            self.until_in("Projects", self.token)
            alpine.do(("x", ""))
            self.until_gone("INBOX", self.token)

            draft = f"draft {self.token}"
            alpine.do(("c", "To      :"), (f"{OUTSIDE}\r\r", ""), (f"{blob}\r", "blob.bin"), (f"{draft}\r", ""))
            alpine.do((WORDS, "words"), ("\x0f", "ostpone"))
            self.until_in("Drafts", draft)
            self.asks(alpine, "c", "ostponed")
            alpine.do(("y", "words"))
            self.send(alpine)
            _, parsed = self.outside(draft)
            self.until_gone("Drafts", draft)
            kept = self.until_in("Sent", draft).parsed
        self.assertEqual(self.text_of(parsed), [WORDS])
        self.assertEqual(self.attached(parsed), {"blob.bin": blob.read_bytes()})
        self.assertEqual(self.attached(kept), {"blob.bin": blob.read_bytes()})
