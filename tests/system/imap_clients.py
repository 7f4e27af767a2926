"""IMAP by real clients: imaplib, curl, mbsync, mutt, fetchmail, and bare lines for what none of them says (RFC 9051).

A UID that changes its meaning makes a synchronising client delete the wrong message, for ever and everywhere.
"""

import imaplib
import re
import shutil
import socket
import subprocess
import threading
import time
import unittest
from pathlib import Path

from clients import Inbox, curl, deliver, imap_talk, literals, login, message, split_address
from harness import OUTSIDE, Hazard, word
from processes import Folder, wait_until


class Clients(Hazard):
    def setUp(self):
        self.a = self.world.a
        self.token = word()

    def seed(self, count=1, body="hello\r\n"):
        """Puts `count` messages with this test's token into INBOX, by the way all mail comes."""
        for number in range(count):
            content = message(OUTSIDE, self.a.alias, f"{self.token} {number}", body)
            deliver(self.world.relay.mx, OUTSIDE, self.a.alias, content)
        inbox = Inbox(self.a)
        inbox.wait_for(self.token, count)
        return sorted(uid for uid, content in inbox.messages.items() if self.token.encode() in content)

    def clean(self):
        session = login(self.a)
        session.select("INBOX")
        session.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
        session.expunge()
        session.logout()


class Imaplib(Clients):
    def setUp(self):
        super().setUp()
        self.session = login(self.a)
        self.addCleanup(self.session.logout)
        self.session.select("INBOX")

    def ok(self, answer):
        self.assertEqual(answer[0], "OK", answer)
        return answer[1]

    def test_capabilities_say_what_is_there(self):
        self.assertIn("IMAP4REV1", self.session.capabilities)
        self.assertIn("IDLE", self.session.capabilities)

    def test_folders_are_listed_and_nothing_else_opens(self):
        listed = b"\n".join(self.ok(self.session.list()))
        for name in (b"INBOX", b"\\Archive", b"\\Drafts", b"\\Junk", b"\\Sent", b"\\Trash"):
            self.assertIn(name, listed)
        self.assertEqual(self.session.select("elsewhere")[0], "NO")
        self.ok(self.session.select("inbox"))

    def test_status_agrees_with_select(self):
        self.seed()
        count = int(self.ok(self.session.select("INBOX"))[0])
        text = self.ok(self.session.status("INBOX", "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)"))[0].decode()
        self.assertIn(f"MESSAGES {count}", text)
        next_uid = int(re.search(r"UIDNEXT (\d+)", text).group(1))
        self.assertGreater(next_uid, max(Inbox(self.a).refresh()))

    def test_fetch_shows_the_parts_of_a_message(self):
        uid = str(self.seed(body="line one\r\nline two\r\n")[0])
        self.session.select("INBOX")
        whole = literals(self.ok(self.session.uid("FETCH", uid, "(BODY.PEEK[])")))[0]
        head, _, body = whole.partition(b"\r\n\r\n")
        expected = {
            "BODY.PEEK[HEADER]": head + b"\r\n\r\n",
            "BODY.PEEK[TEXT]": body,
            "BODY.PEEK[]<10.20>": whole[10:30],
            "BODY.PEEK[]<99999999.5>": b"",
            "RFC822.HEADER": head + b"\r\n\r\n",
            "BODY.PEEK[1]": body,
        }
        for item, octets in expected.items():
            with self.subTest(item=item):
                parts = self.ok(self.session.uid("FETCH", uid, f"({item})"))
                self.assertEqual((literals(parts) or [b""])[0], octets)
        subject = literals(self.ok(self.session.uid("FETCH", uid, "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")))[0]
        self.assertEqual(subject, f"Subject: {self.token} 0\r\n\r\n".encode())

    def test_fetch_describes_a_message(self):
        uid = str(self.seed()[0])
        self.session.select("INBOX")
        items = "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)"
        parts = self.ok(self.session.uid("FETCH", uid, items))
        text = b"".join(b"".join(part) if isinstance(part, tuple) else part for part in parts)
        whole = literals(self.ok(self.session.uid("FETCH", uid, "(BODY.PEEK[])")))[0]
        self.assertIn(b"RFC822.SIZE %d" % len(whole), text)
        self.assertIn(self.token.encode(), text)
        self.assertRegex(text, rb'INTERNALDATE "[ \d]\d-\w{3}-\d{4} \d\d:\d\d:\d\d [+-]\d{4}"')
        self.assertRegex(text, rb'(?i)BODYSTRUCTURE \("text" "plain"')

    def test_reading_marks_as_seen_and_peeking_does_not(self):
        uid = str(self.seed()[0])
        self.session.select("INBOX")
        self.session.uid("FETCH", uid, "(BODY.PEEK[])")
        self.assertNotIn(rb"\Seen", self.ok(self.session.uid("FETCH", uid, "(FLAGS)"))[0])
        self.session.uid("FETCH", uid, "(BODY[])")
        self.assertIn(rb"\Seen", self.ok(self.session.uid("FETCH", uid, "(FLAGS)"))[0])

    def test_flags_are_set_added_and_taken(self):
        uid = str(self.seed()[0])
        self.session.select("INBOX")

        def flags():
            line = self.ok(self.session.uid("FETCH", uid, "(FLAGS)"))[0]
            return set(re.search(rb"FLAGS \(([^)]*)\)", line).group(1).split()) - {rb"\Recent"}

        for command, given, expected in (
            ("FLAGS", r"(\Flagged \Draft)", {rb"\Flagged", rb"\Draft"}),
            ("+FLAGS", r"(\Answered)", {rb"\Flagged", rb"\Draft", rb"\Answered"}),
            ("-FLAGS.SILENT", r"(\Draft)", {rb"\Flagged", rb"\Answered"}),
            ("FLAGS", "()", set()),
        ):
            self.ok(self.session.uid("STORE", uid, command, given))
            self.assertEqual(flags(), expected)

    def test_expunge_removes_what_is_deleted_and_uids_stay(self):
        uids = self.seed(3)
        self.session.select("INBOX")
        self.session.uid("STORE", str(uids[1]), "+FLAGS", r"(\Deleted)")
        self.ok(self.session.expunge())
        left = set(Inbox(self.a).refresh())
        self.assertEqual(left & set(uids), {uids[0], uids[2]})
        self.token = word()
        newer = self.seed()
        self.assertGreater(max(newer), max(uids))

    def test_close_expunges_and_examine_does_not(self):
        uid = str(self.seed()[0])
        self.session.select("INBOX")
        self.session.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
        self.ok(self.session.select("INBOX", readonly=True))
        self.assertEqual(self.session.uid("STORE", uid, "+FLAGS", r"(\Seen)")[0], "NO")
        self.ok(self.session.close())
        self.assertIn(int(uid), Inbox(self.a).refresh())
        self.session.select("INBOX")
        self.ok(self.session.close())
        self.assertNotIn(int(uid), Inbox(self.a).refresh())

    def test_a_second_session_hears_of_arrival_flag_and_expunge(self):
        uid = str(self.seed()[0])
        other = login(self.a)
        self.addCleanup(other.logout)
        other.select("INBOX")
        self.session.select("INBOX")
        count = len(self.ok(other.fetch("1:*", "(UID)")))
        self.session.uid("STORE", uid, "+FLAGS", r"(\Flagged)")
        self.ok(other.noop())
        self.assertIn(rb"\Flagged", self.ok(other.uid("FETCH", uid, "(FLAGS)"))[0])
        self.session.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
        self.session.expunge()
        self.ok(other.noop())
        left = [line for line in self.ok(other.fetch("1:*", "(UID)")) if line]
        self.assertEqual(len(left), count - 1)

    def test_idle_tells_at_once_what_arrives(self):
        with imap_talk(self.a) as talk:
            self.assertEqual(talk.tagged("s", "SELECT INBOX")[0], "OK")
            talk.send("i IDLE\r\n")
            self.assertTrue(talk.line().startswith(b"+"))
            content = message(OUTSIDE, self.a.alias, self.token)
            deliver(self.world.relay.mx, OUTSIDE, self.a.alias, content)
            started = time.monotonic()
            while not re.match(rb"\* \d+ EXISTS", talk.line()):
                self.assertLess(time.monotonic() - started, 15)
            talk.send("DONE\r\n")
            self.assertEqual(talk.until_tagged("i")[0], "OK")

    def test_a_wrong_password_is_refused(self):
        other = imaplib.IMAP4(*split_address(self.a.imap))
        self.addCleanup(other.shutdown)
        with self.assertRaises(imaplib.IMAP4.error):
            other.login(self.a.user, "wrong")

    def test_sequence_sets_and_uid_sets_of_every_form_work(self):
        uids = self.seed(4)
        count = int(self.ok(self.session.select("INBOX"))[0])
        for text, expected in (
            (f"1,{count}", 2),
            ("1:*", count),
            (f"{count}:1", count),
            ("*", 1),
            (f"*:{count}", 1),
        ):
            with self.subTest(set=text):
                lines = [line for line in self.ok(self.session.fetch(text, "(UID)")) if line]
                self.assertEqual(len(lines), expected)
        text = f"{uids[0]}:{uids[1]},{uids[3]},4000000000"
        self.assertEqual(len(self.ok(self.session.uid("FETCH", text, "(UID)"))), 3)

    def test_twenty_sessions_read_at_once(self):
        self.seed(2)
        broken = []

        def read():
            try:
                session = login(self.a)
                session.select("INBOX")
                for _ in range(10):
                    self.ok(session.fetch("1:*", "(FLAGS UID)"))
                session.logout()
            except Exception as error:
                broken.append(error)

        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(broken, [])


class Lines(Clients):
    """What only a bare socket says."""

    def test_pipelined_commands_are_answered_in_order(self):
        with imap_talk(self.a) as talk:
            talk.send("a NOOP\r\nb CAPABILITY\r\nc SELECT INBOX\r\nd NOOP\r\n")
            for tag in "abcd":
                self.assertEqual(talk.until_tagged(tag)[0], "OK")

    def test_nothing_works_before_login_and_little_before_select(self):
        with imap_talk(self.a, logged_in=False) as talk:
            for number, command in enumerate(("SELECT INBOX", 'LIST "" *', "FETCH 1 FLAGS", "IDLE")):
                self.assertIn(talk.tagged(f"t{number}", command)[0], ("BAD", "NO"))
        with imap_talk(self.a) as talk:
            for number, command in enumerate(("FETCH 1 FLAGS", "STORE 1 FLAGS ()", "EXPUNGE", "CLOSE")):
                self.assertIn(talk.tagged(f"t{number}", command)[0], ("BAD", "NO"))

    def test_synchronising_and_other_literals_carry_a_login(self):
        user, password = self.a.user.encode(), self.a.password.encode()
        with imap_talk(self.a, logged_in=False) as talk:
            talk.send(b"l LOGIN {%d}\r\n" % len(user))
            self.assertTrue(talk.line().startswith(b"+"))
            talk.send(user + b" {%d}\r\n" % len(password))
            self.assertTrue(talk.line().startswith(b"+"))
            talk.send(password + b"\r\n")
            self.assertEqual(talk.until_tagged("l")[0], "OK")

    def test_broken_commands_get_bad_and_the_session_goes_on(self):
        with imap_talk(self.a) as talk:
            for number, command in enumerate((b"", b"FOO", b"SELECT", b"FETCH", b"FETCH 0 FLAGS", b"LOGIN \xff \x01")):
                with self.subTest(command=command):
                    self.assertIn(talk.tagged(f"t{number}", command)[0], ("BAD", "NO"))
            self.assertEqual(talk.tagged("z", "NOOP")[0], "OK")

    def test_logout_says_bye_first(self):
        with imap_talk(self.a) as talk:
            state, lines = talk.tagged("q", "LOGOUT")
            self.assertEqual(state, "OK")
            self.assertTrue(any(line.startswith(b"* BYE") for line in lines))
            self.assertTrue(talk.ended(5))


class Folders(Clients):
    """Folders, and what goes from one to another, by imaplib."""

    def setUp(self):
        super().setUp()
        self.session = login(self.a)
        self.addCleanup(self.session.logout)
        self.folder = f"f{self.token}"
        self.ok(self.session.create(self.folder))

    def ok(self, answer):
        self.assertEqual(answer[0], "OK", answer)
        return answer[1]

    def names(self, pattern="*"):
        lines = [line for line in self.ok(self.session.list('""', f'"{pattern}"')) if line]
        return sorted(line.rpartition(b'"/" ')[2].decode().strip('"') for line in lines)

    def append(self, folder, text, flags="()"):
        content = message(OUTSIDE, self.a.alias, text, "text\r\n")
        answer = self.ok(self.session.append(folder, flags, None, content))
        return int(re.search(rb"APPENDUID \d+ (\d+)", answer[0]).group(1))

    def test_folders_are_made_renamed_subscribed_and_removed(self):
        deep = f"{self.folder}/a b/&AOQ-"
        self.ok(self.session.create(f'"{deep}"'))
        self.assertEqual(self.names(f"{self.folder}*"), [self.folder, f"{self.folder}/a b", deep])
        self.ok(self.session.subscribe(f'"{deep}"'))
        self.assertIn(deep.encode(), b"".join(self.ok(self.session.lsub('""', "*"))))
        self.ok(self.session.rename(self.folder, f"{self.folder}2"))
        self.assertEqual(self.names(f"{self.folder}*")[0], f"{self.folder}2")
        self.assertEqual(len(self.names(f"{self.folder}2/*")), 2)
        for name in (f"{self.folder}2/a b/&AOQ-", f"{self.folder}2/a b", f"{self.folder}2"):
            self.ok(self.session.delete(f'"{name}"'))
        self.assertEqual([name for name in self.names() if self.folder in name], [])
        self.assertEqual(self.session.create("INBOX")[0], "NO")
        self.assertEqual(self.session.delete("INBOX")[0], "NO")

    def test_append_copy_and_move_tell_the_uids(self):
        uid = self.append(self.folder, "one", r"(\Seen $Label1)")
        self.append(self.folder, "two")
        self.ok(self.session.select(self.folder))
        self.ok(self.session.uid("COPY", str(uid), "Archive"))
        validity, here, there = self.session.response("COPYUID")[1][0].split()
        self.assertEqual(here, str(uid).encode())
        self.ok(self.session.uid("MOVE", "1:*", "Archive"))
        self.assertEqual(self.ok(self.session.select(self.folder)), [b"0"])
        self.ok(self.session.select("Archive"))
        self.assertEqual(self.session.response("UIDVALIDITY")[1], [validity])
        flags = self.ok(self.session.uid("FETCH", there.decode(), "(FLAGS)"))[0]
        self.assertIn(rb"\Seen", flags)
        self.assertIn(b"$Label1", flags)
        self.assertEqual(self.session.uid("COPY", there.decode(), "nosuch")[0], "NO")
        found = self.ok(self.session.uid("SEARCH", "KEYWORD", "$label1"))[0].split()
        self.assertIn(there, found)

    def test_what_changed_since_is_told(self):
        for text in ("one", "two", "three"):
            self.append(self.folder, text)
        with imap_talk(self.a) as talk:
            state, lines = talk.tagged("s", f"SELECT {self.folder} (CONDSTORE)")
            self.assertEqual(state, "OK")
            first = int(re.search(rb"HIGHESTMODSEQ (\d+)", b"".join(lines)).group(1))
            self.ok(self.session.select(self.folder))
            self.ok(self.session.store("2", "+FLAGS", r"(\Flagged)"))
            state, lines = talk.tagged("f", f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {first})")
            changed = [line for line in lines if b"FETCH" in line and b"UID" in line]
            self.assertEqual((state, len(changed)), ("OK", 1), lines)
            state, lines = talk.tagged("t", rf"STORE 1:3 (UNCHANGEDSINCE {first}) +FLAGS (\Seen)")
            self.assertIn(b"[MODIFIED 2]", lines[-1])

    def test_idle_hears_of_moves_into_the_folder(self):
        with imap_talk(self.a) as talk:
            self.assertEqual(talk.tagged("s", f"SELECT {self.folder}")[0], "OK")
            talk.send("i IDLE\r\n")
            self.assertTrue(talk.line().startswith(b"+"))
            self.append("Drafts", self.token)
            self.ok(self.session.select("Drafts"))
            self.ok(self.session.uid("MOVE", "1:*", self.folder))
            self.assertRegex(talk.line(), rb"\* \d+ EXISTS")
            talk.send("DONE\r\n")
            self.assertEqual(talk.until_tagged("i")[0], "OK")

    def test_a_folder_that_goes_under_a_session_ends_it_and_no_other(self):
        self.append(self.folder, "one")
        with imap_talk(self.a) as talk:
            self.assertEqual(talk.tagged("s", f"SELECT {self.folder}")[0], "OK")
            self.ok(self.session.delete(self.folder))
            talk.send("n NOOP\r\n")
            self.assertTrue(talk.line().startswith(b"* BYE"))
            self.assertTrue(talk.ended(5))
        self.ok(self.session.noop())
        self.ok(self.session.create(self.folder))
        self.assertEqual(self.ok(self.session.select(self.folder)), [b"0"])

    def test_quota_is_value_and_keys(self):
        self.assertIn(b"V-POSTERN-KEYS", b"".join(self.ok(self.session.getquota('""'))))


def needs(program):
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


class StockClients(Clients):
    def setUp(self):
        super().setUp()
        self.clean()
        folder = Folder()
        self.addCleanup(folder.remove)
        self.home = folder.path
        self.host, self.port = split_address(self.a.imap)

    def client(self, *command, text=None, seconds=60):
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin:/usr/sbin", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [str(part) for part in command],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds,
        )
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return done

    def test_curl_lists_examines_fetches_and_stores(self):
        uid = self.seed()[0]
        base = f"imap://{self.a.imap}/"
        self.assertIn(b"INBOX", curl(base, holder=self.a))
        self.assertIn(b"EXISTS", curl(base, "--request", "EXAMINE INBOX", holder=self.a))
        self.assertIn(self.token.encode(), curl(f"{base}INBOX;UID={uid}", holder=self.a))
        self.assertIn(
            self.token.encode(), curl(f"{base}INBOX;UID={uid};SECTION=HEADER.FIELDS%20(SUBJECT)", holder=self.a)
        )
        curl(f"{base}INBOX", "--request", f"UID STORE {uid} +FLAGS (\\Flagged)", holder=self.a)
        flags = curl(f"{base}INBOX", "--request", f"UID FETCH {uid} (FLAGS)", holder=self.a)
        self.assertIn(rb"\Flagged", flags)

    @needs("mbsync")
    def test_mbsync_synchronises_both_ways_and_then_has_nothing_to_do(self):
        self.seed(5)
        mail = self.home / "mail"
        mail.mkdir()
        config = self.home / "mbsyncrc"
        config.write_text(
            f"IMAPAccount a\nHost {self.host}\nPort {self.port}\nUser {self.a.user}\nPass {self.a.password}\n"
            f"SSLType None\nAuthMechs *\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {mail}/\n"
            f"Inbox {mail}/INBOX\n\nChannel c\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nExpunge Both\n"
            "SyncState *\n"
        )
        config.chmod(0o600)

        def synchronise():
            self.client("mbsync", "-c", config, "c")
            return sorted(path for path in mail.rglob("*:2,*") if path.parent.name in ("new", "cur"))

        first = synchronise()
        self.assertEqual(len(first), 5)
        flagged = first[0].parent.parent / "cur" / (first[0].name.partition(":")[0] + ":2,FS")
        first[0].rename(flagged)
        synchronise()
        session = login(self.a)
        session.select("INBOX")
        self.assertEqual(b" ".join(session.fetch("1:*", "(FLAGS)")[1]).count(rb"\Flagged"), 1)
        session.logout()
        before = synchronise()
        self.assertEqual(before, synchronise())
        for path in before:
            path.rename(path.parent.parent / "cur" / (path.name.partition(":")[0] + ":2,T"))
        synchronise()
        self.assertEqual(Inbox(self.a).refresh(), {})

    @needs("mbsync")
    def test_mbsync_synchronises_folders_both_ways(self):
        folder = f"f{self.token}"
        session = login(self.a)
        self.addCleanup(session.logout)
        session.create(f"{folder}/inner")
        content = message(OUTSIDE, self.a.alias, self.token, "text\r\n")
        session.append(f"{folder}/inner", r"(\Flagged)", None, content)
        mail = self.home / "mail"
        mail.mkdir()
        config = self.home / "mbsyncrc"
        config.write_text(
            f"IMAPAccount a\nHost {self.host}\nPort {self.port}\nUser {self.a.user}\nPass {self.a.password}\n"
            f"SSLType None\nAuthMechs *\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {mail}/\n"
            f"Inbox {mail}/INBOX\nSubFolders Verbatim\n\nChannel c\nFar :far:\nNear :near:\nPatterns {folder}*\n"
            "Create Both\nRemove Both\nExpunge Both\nSyncState *\n"
        )
        config.chmod(0o600)
        self.client("mbsync", "-c", config, "c")
        inner = [path for part in ("cur", "new") for path in (mail / folder / "inner" / part).iterdir()]
        self.assertEqual([path.name.partition(":2,")[2] for path in inner], ["F"])
        for part in ("cur", "new", "tmp"):
            (mail / folder / "made" / part).mkdir(parents=True)
        inner[0].rename(mail / folder / "made" / "cur" / f"{self.token}:2,S")
        self.client("mbsync", "-c", config, "c")
        self.client("mbsync", "-c", config, "c")
        session.select(f"{folder}/made")
        self.assertIn(rb"\Seen", session.fetch("1", "(FLAGS)")[1][0])
        self.assertEqual(session.select(f"{folder}/inner")[1], [b"0"])

    @needs("fetchmail")
    def test_fetchmail_takes_all_and_deletes_at_the_server(self):
        self.seed(3)
        taken = self.home / "taken"
        taken.mkdir()
        agent = self.home / "agent"
        agent.write_text(f'#!/bin/sh\ncat > "{taken}/$$"\n')
        agent.chmod(0o755)
        config = self.home / "fetchmailrc"
        config.write_text(
            f'poll {self.host} service {self.port} protocol imap auth password\n user "{self.a.user}"'
            f' password "{self.a.password}" sslproto "" mda "{agent}" fetchall\n'
        )
        config.chmod(0o600)
        self.client("fetchmail", "-f", config, "--nodetach", "--nosyslog", "--pidfile", self.home / "pid")
        self.assertEqual(sum(self.token in path.read_text() for path in taken.iterdir()), 3)
        self.assertEqual(Inbox(self.a).refresh(), {})

    @needs("mutt")
    def test_mutt_sends_and_sees_what_came(self):
        self.seed(2)
        smtp = self.a.smtp
        config = self.home / "muttrc"
        config.write_text(
            f'set folder="imap://{self.a.imap}/" spoolfile="+INBOX" imap_user="{self.a.user}"\n'
            f'set imap_pass="{self.a.password}" smtp_url="smtp://{self.a.user}@{smtp}/" smtp_pass="{self.a.password}"\n'
            f'set ssl_starttls=no ssl_force_tls=no from="{self.a.alias}" use_from=yes envelope_from=yes realname=""\n'
            'set smtp_authenticators="plain" record="" copy=no quit=yes move=no header_cache="" hostname="client.test"\n'
        )
        sent = word()
        self.client("mutt", "-F", config, "-s", sent, "--", OUTSIDE, text="by mutt\n")
        wait_until(lambda: self.world.sink.with_word(sent), 30, "mutt's message outside")
        screen = self.client(
            "script", "-qec", f"mutt -F {config} -e 'push <tag-pattern>~s\\ {self.token}<enter><exit>'", "/dev/null",
            text="", seconds=30,
        ).stdout  # fmt: skip
        self.assertIn(self.token, screen)

    @needs("mutt")
    def test_mutt_moves_mail_to_a_folder(self):
        uid = self.seed()[0]
        session = login(self.a)
        self.addCleanup(session.logout)
        session.create(f"f{self.token}")
        config = self.home / "muttrc"
        config.write_text(
            f'set folder="imap://{self.a.imap}/" spoolfile="+INBOX" imap_user="{self.a.user}"\n'
            f'set imap_pass="{self.a.password}" ssl_starttls=no ssl_force_tls=no quit=yes move=no header_cache=""\n'
            "set confirmappend=no confirmcreate=no delete=yes trash=\"\" wait_key=no\n"
        )
        keys = f"<tag-pattern>~s\\ {self.token}<enter><tag-prefix><save-message><kill-line>=f{self.token}<enter><quit>"
        self.client("script", "-qec", f"mutt -F {config} -e 'push {keys}'", "/dev/null", text="", seconds=30)
        self.assertEqual(session.select(f"f{self.token}")[1], [b"1"])
        self.assertNotIn(uid, Inbox(self.a).refresh())


class Vanishing(Clients):
    def test_sessions_that_vanish_leave_the_bridge_as_it_was(self):
        for _ in range(50):
            talk = imap_talk(self.a, logged_in=False)
            talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            talk.close()
        self.assertTrue(Path(f"/proc/{self.a.pid}").exists())
        self.seed()
