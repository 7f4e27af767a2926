"""The way back: a machine that never has a link sends and receives by what others carry for it.

Parcels go out by mail, deposits come in through the relay's collecting port. If a login served twice, showed or changed
anything but what waited, or if a carrier could lose, forge or reorder what it carries, the machine behind the gap would
be worse off than without a carrier.
"""

import base64
import imaplib
import json
import mailbox
import os
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
import time

from clients import curl, deliver, message, split_address
from harness import BINARIES, OUTSIDE, Hazard, World, by_extent, second_implementation, word
from names import Certificate
from processes import free_ports, peak_since, run, wait_for_port, wait_until

TAG_AND_WRAP = 136
MIB = 1_048_576
# What a collecting session sets aside of the relay's room for mail: the sealed body, and the mail in base64.
COLLECTED = 2.4
# Of `postern open`: where the two commits of a deposit, and the slot and slab behind them, are written.
POINTS = [f"segment.write:{count}:{when}" for count in (1, 2, 3) for when in ("before", "torn", "after")]
POINTS += [f"{file}.sync:{count}:after" for file in ("segment", "index", "slots", "slab") for count in (1, 2)]
SIZES = {TAG_AND_WRAP + 1_000 * (1 << power) for power in range(17)}


class Deep:
    """A machine without a link: a folder, and commands."""

    def __init__(self, world, name, value=50_000_000):
        self.world, self.name = world, name
        folder = world.folder.path
        self.data, self.passphrase = folder / name, folder / f"{name}.passphrase"
        self.passphrase.write_text(word("open ") + "\n")
        self.passphrase.chmod(0o600)
        pack = folder / f"{name}.pack"
        world.relay.issue(pack, self.passphrase, 64, value)
        run(BINARIES / "postern", "init", "--pack", pack, "--dir", self.data, "--passphrase-file", self.passphrase)
        self.address = "parcel@relay.test"
        self.out = folder / f"{name}.opened"

    def postern(self, verb, *words, content=b"", check=True):
        command = [BINARIES / "postern", verb, *words, "--dir", self.data, "--passphrase-file", self.passphrase]
        done = subprocess.run([str(part) for part in command], input=content, capture_output=True, timeout=300)
        if check and done.returncode:
            raise AssertionError(f"postern {verb}: {done.stderr.decode().strip()}")
        return done

    def carry(self, mail):
        """Somebody's mail server brings a parcel."""
        with smtplib.SMTP(*split_address(self.world.relay.mx), timeout=120) as client:
            client.sendmail("someone@else.test", self.address, mail)

    def control(self, *words):
        self.carry(self.postern("seal", "--control", "--mail", *words).stdout)

    def send(self, token, text="hello\r\n"):
        self.carry(self.postern("seal", "--mail", content=message(self.alias, OUTSIDE, token, text)).stdout)

    def login(self):
        return json.loads(self.postern("login", "--json").stdout)

    def collect(self, login=None):
        """What a carrier brings back, as mails."""
        with self.world.imap(login or self.login()) as session:
            return session.all()

    def opened(self, *mails, words=(), check=True):
        """What `postern open` says of mails on its standard input."""
        done = self.postern("open", "-", "--json", "--out", self.out, *words, content=b"\n".join(mails), check=check)
        return json.loads(done.stdout)

    def round(self):
        return self.opened(*self.collect())

    @property
    def mails(self):
        return [path.read_bytes() for path in sorted(self.out.glob("*.eml"))]

    def first_alias(self):
        """Asks for the first alias and learns of it."""
        self.control()
        said = self.round()
        # The receipts of control and of the login itself.
        assert said["receipts"] == 2, said
        self.alias = self.aliases()[0]
        return self

    def settled(self):
        """Opens what waits and has it deleted: only the receipts of this wait at the relay."""
        self.round()
        self.control()
        return self

    def aliases(self):
        """The holder's own list, from the one who knows it: the sealed mail's sender."""
        second = self.world.sink
        token = word()
        content = message(f"{self.user}@localhost", OUTSIDE, token)
        self.carry(self.postern("seal", "--mail", content=content).stdout)
        wait_until(lambda: second.with_word(token), 60, "the mail that names the alias")
        return [second.with_word(token)[0].reverse_path]

    @property
    def user(self):
        text = (self.data / "bridge.toml").read_text()
        return re.search(r'user = "([^"]+)"', text).group(1)


class Session:
    """imaplib over TLS at the collecting port."""

    def __init__(self, world, login):
        host, port = split_address(world.collect)
        context = ssl.create_default_context(cafile=str(world.certificate.authority))
        with socket.create_connection((host, port), timeout=60):
            pass
        self.session = Named(host, port, context)
        self.session.login(login["name"], login["password"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.logout()

    def select(self):
        return self.session.select("INBOX", readonly=True)

    def all(self):
        self.select()
        _, parts = self.session.fetch("1:*", "(BODY.PEEK[])")
        return [part[1] for part in parts if isinstance(part, tuple)]


class Named(imaplib.IMAP4_SSL):
    """Checks the certificate against the relay's name, wherever it is."""

    def __init__(self, host, port, context):
        self.context = context
        super().__init__(host, port, ssl_context=context, timeout=120)

    def _create_socket(self, timeout):
        plain = imaplib.IMAP4._create_socket(self, timeout)
        return self.context.wrap_socket(plain, server_hostname="relay.test")


class Gap(World):
    """A relay with a collecting port, a bridge beside it, and machines without a link."""

    def __init__(self):
        super().__init__(holders=("a",))
        self.certificate = Certificate(self.folder.path, "relay.test")
        self.collect = f"127.0.0.1:{free_ports()}"
        self.relay.settings |= {
            "collect.listen": self.collect,
            "collect.certificate": str(self.certificate.chain),
            "collect.key": str(self.certificate.key),
        }
        self.again()

    def again(self):
        self.relay.stop()
        self.relay.start()
        wait_for_port(self.relay.process, self.collect)

    def imap(self, login):
        return Session(self, login)


class Behind(Hazard):
    make = staticmethod(Gap)
    machines = {}

    def setUp(self):
        self.relay, self.sink = self.world.relay, self.world.sink

    def machine(self, name="deep"):
        """One that has an alias, the same for all tests that ask for this name."""
        key = (id(self.world), name)
        if key not in self.machines:
            self.machines[key] = Deep(self.world, name).first_alias()
        return self.machines[key].settled()

    def mail_in(self, deep, token, text="hello\r\n"):
        deliver(self.relay.mx, OUTSIDE, deep.alias, message(OUTSIDE, deep.alias, token, text))

    def waiting_of(self, deep):
        """Deposits that a login shows; its own receipt is one, and is opened."""
        mails = deep.collect()
        deep.opened(*mails)
        return len(mails)

    def waiting(self):
        return self.relay.totals()["deposits"]


class Life(Behind):
    def test_a_machine_that_never_links_lives_on_both_ways(self):
        deep = Deep(self.world, "hermit").first_alias().settled()
        sent, came = [], []
        for _ in range(by_extent(6, 8)):
            for _ in range(5):
                sent.append(word())
                deep.send(sent[-1])
                came.append(word())
                self.mail_in(deep, came[-1])
            for token in sent[-5:]:
                wait_until(lambda: self.sink.with_word(token), 60, "the mail outside")
            said = deep.round()
            self.assertEqual((said["mails"], said["damaged"], said["missing"]), (5, 0, 0), said)
            # What was opened before is gone at the relay: a parcel of control is carried out when it is taken.
            self.assertEqual(said["again"], 0, said)
            deep.control()
        for token in sent:
            self.assertEqual(len(self.sink.with_word(token)), 1)
        for token in came:
            self.assertEqual(sum(token.encode() in mail for mail in deep.mails), 1)
        self.relay.audit()

    def test_aliases_are_opened_and_closed_without_a_link(self):
        deep = self.machine()
        local = word("alias")
        deep.control("--alias-new", local)
        deep.round()
        address, token = f"{local}@relay.test", word()
        deliver(self.relay.mx, OUTSIDE, address, message(OUTSIDE, address, token))
        deep.round()
        self.assertTrue(any(token.encode() in mail for mail in deep.mails))
        deep.control("--alias-close", address)
        deep.round()
        with self.assertRaises(smtplib.SMTPRecipientsRefused):
            deliver(self.relay.mx, OUTSIDE, address, message(OUTSIDE, address, token))

    def test_a_bridge_and_its_link_go_on_with_what_was_carried(self):
        a, token = self.world.a, word()
        a.settled()
        a.stop()
        deliver(self.relay.mx, OUTSIDE, a.alias, message(OUTSIDE, a.alias, token))
        deep = Deep.__new__(Deep)
        deep.world, deep.data, deep.passphrase = self.world, a.data, a.passphrase
        deep.out = self.world.folder.path / "a.opened"
        mails = deep.collect()
        self.assertEqual(deep.opened(*mails)["mails"], 1)
        self.assertEqual(deep.opened(*mails)["again"], len(mails))
        a.start()
        a.settled()
        self.assertEqual(len(a.inbox().wait_for(token)), 1)
        # The link confirms what was opened, and beside a running bridge the commands ask it.
        wait_until(lambda: self.waiting_of(deep) <= 1, 60, "deletion by the link")
        again = word()
        deliver(self.relay.mx, OUTSIDE, a.alias, message(OUTSIDE, a.alias, again))
        a.inbox().wait_for(again)
        self.assertEqual(deep.opened(*mails, check=False)["mails"], 0)
        self.assertEqual(len(a.inbox().with_word(token)), 1)


class Carriers(Behind):
    def fetched(self, deep, fetch):
        token = word()
        self.mail_in(deep, token)
        fetch(deep.login())
        return token

    def test_curl_carries_the_mails_one_by_one(self):
        deep = self.machine()
        token, folder = word(), self.world.folder.path / "curl"
        self.mail_in(deep, token)
        login = deep.login()
        folder.mkdir(exist_ok=True)
        host, port = split_address(self.world.collect)
        # One command, one session: what its range of mails brings is written one behind the other.
        url = f"imaps://relay.test:{port}/INBOX;MAILINDEX=[1-9]"
        names = ["--connect-to", f"relay.test:{port}:{host}:{port}", "--cacert", self.world.certificate.authority]
        user = ["--user", f"{login['name']}:{login['password']}", "--output", folder / "#1.mail"]
        done = subprocess.run(
            ["curl", "--silent", *map(str, names), *map(str, user), url], capture_output=True, timeout=120
        )
        brought = [path for path in folder.glob("*.mail") if path.stat().st_size]
        self.assertTrue(brought, done.stderr)
        said = json.loads(deep.postern("open", folder, "--json", "--out", deep.out).stdout)
        self.assertEqual((said["mails"], said["damaged"]), (1, 0))
        self.assertTrue(any(token.encode() in mail for mail in deep.mails))

    def test_mbsync_and_fetchmail_carry_folders_and_mailbox_files(self):
        deep, folder = self.machine(), self.world.folder.path
        host, port = split_address(self.world.collect)
        maildir, settings = folder / "mbsync", folder / "mbsyncrc"
        shutil.rmtree(maildir, ignore_errors=True)
        maildir.mkdir()

        def mbsync(login):
            settings.write_text(
                f"IMAPStore relay\nHost {host}\nPort {port}\nUser {login['name']}\nPass {login['password']}\n"
                f"SSLType IMAPS\nCertificateFile {self.world.certificate.chain}\n\n"
                f"MaildirStore here\nPath {maildir}/\nInbox {maildir}/INBOX\nSubFolders Verbatim\n\n"
                "Channel back\nFar :relay:\nNear :here:\nPatterns INBOX\nSync Pull\nCreate Near\nSyncState *\n"
            )
            done = run("mbsync", "-c", settings, "back", check=False)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

        token = self.fetched(deep, mbsync)
        said = json.loads(deep.postern("open", maildir, "--json", "--out", deep.out).stdout)
        self.assertEqual((said["mails"], said["damaged"]), (1, 0))
        self.assertTrue(any(token.encode() in mail for mail in deep.mails))

        box, settings = folder / "fetchmail.mbox", folder / "fetchmailrc"

        def fetchmail(login):
            settings.write_text(
                f"poll {host} protocol IMAP port {port}\n  user \"{login['name']}\" password \"{login['password']}\"\n"
                f"  ssl sslcertck sslcommonname relay.test sslcertfile {self.world.certificate.authority} keep fetchall\n"
                f"  mda \"sh -c 'echo From carrier Thu Jan  1 00:00:00 1970; cat; echo' >> {box}\"\n"
            )
            settings.chmod(0o600)
            environment = {**os.environ, "HOME": str(folder), "FETCHMAILHOME": str(folder)}
            command = ["fetchmail", "--fetchmailrc", str(settings), "--nodetach", "--nosyslog"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

        box.unlink(missing_ok=True)
        token = self.fetched(deep, fetchmail)
        said = json.loads(deep.postern("open", box, "--json", "--out", deep.out).stdout)
        self.assertEqual((said["mails"], said["damaged"]), (1, 0))
        self.assertTrue(any(token.encode() in mail for mail in deep.mails))

    def test_bare_octets_are_opened_too_and_are_of_few_lengths(self):
        deep, token = self.machine(), word()
        self.mail_in(deep, token)
        mails = deep.collect()
        lengths, files = set(), []
        for number, mail in enumerate(mails):
            head, _, body = mail.partition(b"\r\n\r\n")
            octets = base64.b64decode(body)
            lengths.add(len(octets))
            files.append(self.world.folder.path / f"{number}.deposit")
            files[-1].write_bytes(octets)
        self.assertLessEqual(lengths, SIZES)
        heads = {mail.partition(b"\r\n\r\n")[0] for mail in mails}
        self.assertEqual(len(heads), 1, "headers say nothing")
        self.assertNotIn(token.encode(), b"".join(mails))
        said = json.loads(deep.postern("open", *files, "--json").stdout)
        self.assertEqual((said["mails"], said["damaged"]), (1, 0))


class Port(Behind):
    def test_a_login_serves_once_and_shows_what_waited_then(self):
        deep, token = self.machine(), word()
        login = deep.login()
        self.mail_in(deep, token)
        with self.world.imap(login) as session:
            count = int(session.select()[1][0])
            self.mail_in(deep, word())
            session.session.noop()
            self.assertEqual(int(session.select()[1][0]), count, "one snapshot")
            with self.assertRaisesRegex(imaplib.IMAP4.error, "AUTHENTICATIONFAILED"):
                self.world.imap(login)
        with self.assertRaisesRegex(imaplib.IMAP4.error, "AUTHENTICATIONFAILED"):
            self.world.imap(login)
        self.assertEqual(deep.round()["mails"], 2)

    def test_a_login_is_burned_before_it_is_answered_wherever_the_relay_dies(self):
        deep = self.machine()
        login = deep.login()
        session = self.world.imap(login)
        self.relay.kill()
        self.world.relay.start()
        wait_for_port(self.relay.process, self.world.collect)
        session.session.shutdown()
        with self.assertRaisesRegex(imaplib.IMAP4.error, "AUTHENTICATIONFAILED"):
            self.world.imap(login)
        deep.round()
        self.relay.audit()

    def test_wrong_logins_are_told_apart_by_nothing_and_change_nothing(self):
        deep = self.machine()
        login = deep.login()
        before = self.waiting()
        said = set()
        for wrong in (
            {**login, "password": "0" * 32},
            {**login, "password": "x"},
            {**login, "name": "0" * 32},
            {**login, "name": "me"},
            {"name": login["password"], "password": login["name"]},
        ):
            begun = time.monotonic()
            with self.assertRaises(imaplib.IMAP4.error) as refused:
                self.world.imap(wrong)
            said.add(str(refused.exception))
            self.assertGreater(time.monotonic() - begun, 1.5)
        self.assertEqual(len(said), 1, said)
        self.assertEqual(self.waiting(), before)
        self.assertEqual(deep.opened(*deep.collect(login))["damaged"], 0, "the right one still serves")

    def test_nothing_is_said_in_the_clear(self):
        host, port = split_address(self.world.collect)
        for words in (b"", b"a LOGIN x y\r\n", b"a STARTTLS\r\n", b"GET / HTTP/1.1\r\n\r\n", os.urandom(500)):
            with socket.create_connection((host, port), timeout=20) as plain:
                plain.sendall(words)
                plain.shutdown(socket.SHUT_WR)
                said = b""
                try:
                    while more := plain.recv(4_096):
                        said += more
                except ConnectionResetError:
                    pass
            # At the most an alert of TLS.
            self.assertNotRegex(said, rb"(?i)imap|postern|capability")
            self.assertLess(len(said), 16)

    def test_nothing_can_be_changed(self):
        deep, token = self.machine(), word()
        self.mail_in(deep, token)
        with self.world.imap(deep.login()) as session:
            client = session.session
            with self.assertRaises(imaplib.IMAP4.readonly):
                client.select("INBOX")
            client.is_readonly = True
            client.state = "SELECTED"
            for verb, *words in (
                ("STORE", "1", "+FLAGS", "(\\Deleted)"),
                ("STORE", "1", "FLAGS", "(\\Seen)"),
                ("STORE", "1", "+FLAGS.SILENT", "(\\Seen \\Deleted)"),
                ("EXPUNGE",),
                ("COPY", "1", "INBOX"),
                ("CREATE", "x"),
                ("DELETE", "INBOX"),
                ("RENAME", "INBOX", "x"),
                ("SUBSCRIBE", "x"),
            ):
                kind, said = client._simple_command(verb, *words)
                self.assertEqual((kind, said[0][:11]), ("NO", b"[READ-ONLY]"), verb)
            kind, said = client.append("INBOX", None, None, b"Subject: x\r\n\r\n")
            self.assertEqual((kind, said[0][:11]), ("NO", b"[READ-ONLY]"))
            # What fetchmail says is heard, and forgotten.
            self.assertEqual(client._simple_command("STORE", "1", "+FLAGS", "(\\Seen)")[0], "OK")
            self.assertEqual(client.search(None, "SEEN"), ("OK", [b""]))
            kind, parts = client.fetch("1:*", "(FLAGS ENVELOPE BODYSTRUCTURE RFC822.SIZE INTERNALDATE BODY[])")
            self.assertEqual(kind, "OK")
            for part in parts:
                if isinstance(part, tuple):
                    size = int(re.search(rb"RFC822.SIZE (\d+)", part[0]).group(1))
                    self.assertEqual(size, len(part[1]))
                    self.assertIn(b' 00:00:00 +0000"', part[0])
            client.close()
        self.assertEqual(deep.round()["mails"], 1, "it is still there")

    def test_a_lost_snapshot_locks_nobody_out(self):
        deep = self.machine("lost")
        kept = set()
        for _ in range(9):
            done = deep.postern("login", "--json", check=False)
            if done.returncode:
                break
            login = json.loads(done.stdout)
            self.world.imap(login).__exit__()
            kept.add(login["index"])
        else:
            self.fail("the window has no end")
        self.assertIn(b"too many", done.stderr)
        for index in kept:
            deep.postern("login", "--used", index)
        self.assertGreaterEqual(deep.round()["receipts"], len(kept))
        self.assertEqual(json.loads(deep.postern("login", "--list", "--json").stdout)["logins"], [])


class Far(Behind):
    def carried(self, root, index, token):
        """A deposit as the relay would have sealed it under a post index."""
        second = second_implementation()
        chain = second.Chain.from_root("post", root)
        chain.forward_to(index)
        envelope = b"\1\0\0"
        payload = len(envelope).to_bytes(2, "little") + envelope + message("x@else.test", "you", token)
        kilobytes, body = second.seal_body(bytes(32), bytes(16), payload)
        fields = (bytes(32), second.digest(body), len(payload), kilobytes, 20_000, 0)
        return second.seal_wrap(chain.advance(), os.urandom(24), *fields) + body

    def test_a_deposit_behind_thousands_that_never_came_is_found(self):
        folder, second = self.world.folder.path, second_implementation()
        opened = folder / "far.opened"
        passphrase, pack, data = folder / "far.passphrase", folder / "far.pack", folder / "far"
        passphrase.write_text("far\n")
        passphrase.chmod(0o600)
        self.world.relay.issue(pack, passphrase, 64, 1_000)
        root = second.open_pack(pack.read_bytes(), b"far")["root"]
        run(BINARIES / "postern", "init", "--pack", pack, "--dir", data, "--passphrase-file", passphrase)
        tokens = {index: word() for index in (3_000, 3_001, 20_000)}
        files = {}
        for index, token in tokens.items():
            files[index] = folder / f"{index}.deposit"
            files[index].write_bytes(self.carried(root, index, token))
        foreign = folder / "foreign.deposit"
        foreign.write_bytes(self.carried(bytes(32), 3_000, word()))

        def open_them(*words, check=True):
            options = ["--dir", data, "--passphrase-file", passphrase, "--json", "--out", opened]
            done = run(BINARIES / "postern", "open", *reversed(files.values()), foreign, *options, *words, check=check)
            return json.loads(done.stdout)

        said = open_them(check=False)
        self.assertEqual((said["mails"], said["unknown"]), (0, 4))
        said = open_them("--far")
        self.assertEqual((said["mails"], said["unknown"], said["passed_over"]), (3, 1, 20_000 - 2))
        mails = b"".join(path.read_bytes() for path in sorted(opened.glob("*.eml")))
        for token in tokens.values():
            self.assertIn(token.encode(), mails)
        self.assertEqual(open_them("--far")["again"], 3)


class Damage(Behind):
    def test_any_order_replays_and_losses_lose_nothing(self):
        deep = self.machine()
        tokens = [word() for _ in range(6)]
        for token in tokens:
            self.mail_in(deep, token)
        mails = deep.collect()
        self.assertGreaterEqual(len(mails), 7)
        half = mails[1::2]
        said = deep.opened(*reversed(half))
        self.assertEqual(said["damaged"], 0)
        self.assertGreaterEqual(said["missing"], 1)
        said = deep.opened(*half)
        self.assertEqual((said["mails"], said["again"]), (0, len(half)))
        said = deep.opened(*mails)
        self.assertEqual((said["again"], said["missing"]), (len(half), 0))
        for token in tokens:
            self.assertTrue(any(token.encode() in mail for mail in deep.mails))
        deep.control()
        deep.round()

    def test_damage_changes_nothing_and_another_copy_opens(self):
        deep, token = self.machine(), word()
        self.mail_in(deep, token)
        mails = deep.collect()
        for at in (0, 30, 100, 140, 500):
            damaged = []
            for mail in mails:
                head, _, body = mail.partition(b"\r\n\r\n")
                octets = bytearray(base64.b64decode(body))
                octets[at] ^= 1
                damaged.append(head + b"\r\n\r\n" + base64.encodebytes(bytes(octets)))
            said = deep.opened(*damaged, check=False)
            self.assertEqual((said["mails"], said["receipts"]), (0, 0), f"octet {at}")
        said = deep.opened(*(mail[:700] for mail in mails), check=False)
        self.assertEqual(said["damaged"], len(mails))
        self.assertEqual(deep.opened(*mails)["mails"], 1)

    def test_what_is_of_another_pack_is_named(self):
        deep, other = self.machine(), self.machine("other")
        token = word()
        self.mail_in(other, token)
        mails = other.collect()
        done = deep.postern("open", "-", "--json", content=b"\n".join(mails), check=False)
        self.assertEqual(json.loads(done.stdout)["unknown"], len(mails))
        self.assertNotEqual(done.returncode, 0)
        done = deep.postern("open", "-", content=b"Subject: hello\r\n\r\nno deposit\r\n", check=False)
        self.assertIn(b"no deposit", done.stderr)
        self.assertEqual(other.opened(*mails)["mails"], 1)

    def test_a_kill_at_each_write_of_open_loses_and_doubles_nothing(self):
        deep = self.machine("killed")
        token = word()
        self.mail_in(deep, token)
        mails = deep.collect()
        killed = 0
        for point in POINTS:
            done = deep.postern("open", "-", "--kill-at", point, content=b"\n".join(mails), check=False)
            killed += done.returncode < 0
        self.assertGreater(killed, 0)
        said = deep.opened(*mails)
        self.assertEqual(said["mails"] + said["again"], len(mails) - said["receipts"], said)
        self.assertEqual(said["damaged"], 0)
        # Whatever was stored before is given again.
        self.assertEqual(sum(token.encode() in mail for mail in deep.mails), 1)
        deep.control()
        self.assertEqual(deep.round()["again"], 0, "all of it is confirmed")


class Large(Behind):
    def test_a_mail_of_25_mib_goes_and_comes(self):
        deep, token = self.machine(), word()
        line = "x" * 70 + "\r\n"
        text = line * (25 * 1_048_576 // len(line))
        self.mail_in(deep, token, text)
        login, mails = deep.login(), []
        peak = peak_since(self.relay.pid, lambda: mails.extend(deep.collect(login)))
        print(f"       collecting a deposit of class 32,768: {peak / MIB:.0f} MiB at the relay")
        self.assertLess(peak, COLLECTED * 32_768_000 + 16 * MIB)
        self.assertEqual(deep.opened(*mails)["mails"], 1)
        self.assertEqual(sum(token.encode() in mail and len(mail) > 25_000_000 for mail in deep.mails), 1)
        out = word()
        deep.send(out, text)
        wait_until(lambda: self.sink.with_word(out), 120, "the large mail outside")
        deep.control()
        deep.round()


class Second(Behind):
    def test_the_second_implementation_goes_the_whole_way(self):
        second = second_implementation()
        folder, name = self.world.folder.path, word("second")
        passphrase, pack = folder / "s.passphrase", folder / "s.pack"
        passphrase.write_text("second\n")
        pack.unlink(missing_ok=True)
        self.relay.issue(pack, passphrase, 64, 50_000_000)
        root = second.open_pack(pack.read_bytes(), b"second")["root"]
        parcels, posts = second.Chain.from_root("parcel", root), second.Chain.from_root("post", root)

        def send(payload):
            step = parcels.advance()
            parcel = second.seal_parcel(step, os.urandom(16), second.CONTROL, 1, bytes(500), payload, os.urandom)
            head = b"Content-Type: application/vnd.postern.parcel\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            with smtplib.SMTP(*split_address(self.relay.mx), timeout=120) as client:
                client.sendmail("x@else.test", "parcel@relay.test", head + base64.encodebytes(parcel).replace(b"\n", b"\r\n"))

        def collect():
            login, password = second.login(parcels.advance())
            with self.world.imap({"name": login, "password": password}) as session:
                return [base64.b64decode(mail.partition(b"\r\n\r\n")[2]) for mail in session.all()]

        send(second.control([], alias_open=name))
        token, address = word(), f"{name}@relay.test"
        deliver(self.relay.mx, OUTSIDE, address, message(OUTSIDE, address, token))
        carried = collect()
        opened = [second.open_carried(posts.advance(), octets) for octets in carried]
        self.assertEqual([alias for alias, _, _ in opened], [2**32 - 3, 0, 2**32 - 3])
        self.assertIn(token.encode(), opened[1][1])
        # A receipt: version, one of them, index, sixteen octets of N, Done.
        self.assertEqual((opened[0][1][:3], opened[0][1][19]), (bytes([1, 1, 0]), 3))
        self.assertEqual(opened[2][1][:20], bytes([1, 1, 1]) + bytes(16) + bytes([3]))
        send(second.control([(index, digest) for index, (_, _, digest) in enumerate(opened)]))
        # What is left: the receipts of that parcel and of this login.
        self.assertEqual(len(collect()), 2)
