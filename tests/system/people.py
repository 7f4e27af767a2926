"""For people: what a person types, clicks and is told, from the first question to the last key.

A mail system that nobody can set up protects nobody; a page that answers to foreign names gives the account away.
"""

import html
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import termios
import time
import unittest
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from clients import deliver, login, message, split_address, submit
from harness import BINARIES, OUTSIDE, Bridge, Hazard, World, word
from processes import Process, free_ports, run, wait_until
from socks import Socks

POSTERN = BINARIES / "postern"


def environment(home, **more):
    """A person's own: nothing of this machine's settings shines through."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
    return {**kept, "HOME": str(home), "TERM": "dumb", **more}


def postern(*words, home, given=None, check=True, **more):
    done = subprocess.run(
        [str(part) for part in (POSTERN, *words)],
        input=given if given is not None else b"",
        capture_output=True,
        timeout=120,
        env=environment(home, **more),
    )
    if check and done.returncode:
        raise AssertionError(f"postern {words[0]}: {done.returncode}: {done.stderr.decode()}")
    return done


class Terminal:
    """A program with a terminal of its own, and what stood on it."""

    def __init__(self, *command, env, folder):
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(str(command[0]), [str(part) for part in command], env)
        self.text = ""

    def until(self, words, seconds=60):
        end = time.monotonic() + seconds
        while words not in self.text:
            if time.monotonic() > end or not self._read(1):
                raise AssertionError(f"{words!r} did not come, but: {self.text!r}")
        return self

    def type(self, line):
        os.write(self.handle, line.encode() + b"\n")
        return self

    def secretly(self, line):
        """Types once the terminal shows nothing of it, as a person does who needs longer than the program."""
        wait_until(lambda: not termios.tcgetattr(self.handle)[3] & termios.ECHO, 10, "a terminal that keeps quiet")
        return self.type(line)

    def end(self, seconds=60):
        end = time.monotonic() + seconds
        while self._read(1) and time.monotonic() < end:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.handle)
        return os.waitstatus_to_exitcode(status)

    def _read(self, seconds):
        ready, _, _ = select.select([self.handle], [], [], seconds)
        if not ready:
            return True
        try:
            octets = os.read(self.handle, 65536)
        except OSError:
            return False
        self.text += octets.decode(errors="replace")
        return bool(octets)


class Browser:
    """As much of a browser as the page needs: a cookie and forms."""

    def __init__(self, url):
        self.address = urlsplit(url).netloc
        self.cookie = ""

    def ask(self, path, form=None, **headers):
        host, port = split_address(self.address)
        connection = HTTPConnection(host, port, timeout=60)
        headers = {"Host": self.address, **({"Cookie": self.cookie} if self.cookie else {}), **headers}
        body = None
        if form is not None:
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            body = urlencode(form)
        connection.request("GET" if form is None else "POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text

    def enter(self, url):
        answer, _ = self.ask(url.partition(self.address)[2])
        assert answer.status == 303, answer.status
        self.set_cookie = answer.getheader("Set-Cookie")
        self.cookie = self.set_cookie.partition(";")[0]
        self.root = answer.getheader("Location")
        return self.page()

    def page(self, path=None):
        answer, text = self.ask(path or self.root)
        assert answer.status == 200, (answer.status, text)
        self.headers = answer.headers
        return text

    def submit(self, action, **fields):
        """Sends a form of the page and returns the page that follows."""
        token = re.search(r'name="form" value="(\w+)"', self.page()).group(1)
        answer, text = self.ask(f"{self.root}{action}", {"form": token, **fields}, Origin=f"http://{self.address}")
        assert answer.status == 303, (answer.status, text)
        return self.page(answer.getheader("Location"))


class People(Hazard):
    def setUp(self):
        self.relay, self.sink, self.a, self.b = self.world.relay, self.world.sink, self.world.a, self.world.b
        self.home = self.world.folder.path / word("home")
        self.home.mkdir()

    def pack(self, passphrase, keys=100, value=10_000_000):
        """A pack's file, fresh from the operator."""
        file, secret = self.home / "gift.pack", self.home / "secret"
        secret.write_text(passphrase + "\n")
        self.relay.issue(file, secret, keys, value)
        return file

    def command(self, *words, **more):
        return postern(*words, "--dir", self.a.data, home=self.home, **more)

    def delivered(self, token, seconds=60):
        """The message of the outside world that holds `token`."""

        return wait_until(lambda: self.sink.with_word(token), seconds, f"{token} outside")[0]


class Beginning(People):
    def test_on_a_terminal_init_asks_and_the_passphrase_does_not_show(self):
        passphrase = word("open sesame ")
        self.pack(passphrase)
        terminal = Terminal(POSTERN, "init", env=environment(self.home), folder=self.home)
        terminal.until("File of the pack").type("~/gift.pack")
        terminal.until("Folder for the bridge's data").until(f"[{self.home}/.local/share/postern]").type("")
        terminal.until("User name").until("[me]").type("otter")
        terminal.until("Passphrase").secretly(passphrase)
        terminal.until("Ready. Start the bridge with:")
        self.assertEqual(terminal.end(), 0)
        self.assertNotIn(passphrase, terminal.text)
        settings = (self.home / ".local/share/postern/bridge.toml").read_text()
        self.assertIn('user = "otter"', settings)
        self.assertIn('page = "127.0.0.1:1180"', settings)

    def test_without_a_terminal_what_is_missing_is_said(self):
        done = postern("init", home=self.home, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--pack", done.stderr)
        pack = self.pack(word())
        done = postern("init", "--pack", pack, home=self.home, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--passphrase-file or --passphrase-fd", done.stderr)

    def test_the_passphrase_comes_by_descriptor_or_credential_and_the_folder_from_xdg(self):
        passphrase = word()
        pack = self.pack(passphrase)
        data = self.home / "xdg"
        postern(
            "init", "--pack", pack, "--passphrase-fd", 0, given=f"{passphrase}\nmore".encode(), home=self.home,
            XDG_DATA_HOME=str(data),
        )
        self.assertTrue((data / "postern" / "bridge.toml").exists())
        credentials = self.home / "credentials"
        credentials.mkdir()
        (credentials / "passphrase").write_text(passphrase)
        smtp, imap = (f"127.0.0.1:{free_ports()}" for _ in range(2))
        more = {"XDG_DATA_HOME": str(data), "CREDENTIALS_DIRECTORY": str(credentials)}
        bridge = Process(
            self.home, "bridge", POSTERN, "bridge", "--smtp", smtp, "--imap", imap,
            environment=environment(self.home, **more),
        )
        self.addCleanup(bridge.kill)

        def linked():
            done = postern("status", "--json", home=self.home, check=False, XDG_DATA_HOME=str(data))
            return done.returncode == 0 and json.loads(done.stdout)["linked"]

        wait_until(linked, 30, "a link")
        self.assertEqual(bridge.stop(), 0)

    def test_completions_and_manual_pages_are_those_of_the_commands(self):
        for shell in ("bash", "zsh", "fish"):
            self.assertIn(b"sendmail", postern("completions", shell, home=self.home).stdout)
        script = postern("completions", "bash", home=self.home).stdout
        run("bash", "-n", "-c", script.decode())
        postern("man", "--dir", self.home / "man", home=self.home)
        pages = {page.name for page in (self.home / "man").iterdir()}
        self.assertLessEqual({"postern.1", "postern-init.1", "postern-setup.1", "postern-alias-new.1"}, pages)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not installed")
    def test_the_unit_is_one_that_systemd_takes(self):
        unit = Path(__file__).resolve().parents[2] / "deploy" / "postern.service"
        binary = self.home / ".local/bin/postern"
        binary.parent.mkdir(parents=True)
        binary.symlink_to(POSTERN)
        copy = self.home / "postern.service"
        copy.write_text(unit.read_text().replace("%h/.local/bin/postern", str(binary)))
        done = subprocess.run(
            ["systemd-analyze", "--user", "verify", copy], capture_output=True, text=True, timeout=60,
            env=environment(self.home, XDG_RUNTIME_DIR=str(self.home)),
        )
        complaints = [line for line in done.stderr.splitlines() if "postern.service" in line]
        self.assertEqual(complaints, [])
        text = unit.read_text()
        self.assertIn("LoadCredential=passphrase:", text)


class Sending(People):
    def sendmail(self, *words, text, name=None, check=True):
        command = [str(part) for part in ([name] if name else [POSTERN, "sendmail", "--dir", self.a.data])]
        done = subprocess.run(
            [*command, *map(str, words)], input=text.encode(), capture_output=True, timeout=120,
            env=environment(self.home, POSTERN_DIR=str(self.a.data)),
        )
        if check and done.returncode:
            raise AssertionError(f"sendmail: {done.returncode}: {done.stderr.decode()}")
        return done

    def test_recipients_come_from_the_header_and_bcc_does_not_leave(self):
        token, hidden = word(), word("hidden")
        self.sendmail("-t", "-i", text=f"To: {OUTSIDE}\nBcc: {hidden}@out.test\nSubject: {token}\n\n.\n..two\nlast\n")
        found = wait_until(lambda: len(self.sink.with_word(token)) == 2 and self.sink.with_word(token), 60, "both")
        for mail in found:
            self.assertNotIn(hidden.encode(), mail.content)
            self.assertIn(b"\r\n.\r\n..two\r\nlast\r\n", mail.content)
            self.assertRegex(mail.content, rb"\r\nFrom: \S+@relay.test\r\n")

    def test_under_its_own_name_it_takes_what_cron_says(self):
        link = self.home / "sendmail"
        link.symlink_to(POSTERN)
        token = word()
        text = f"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> {token}\n\noutput\n"
        self.sendmail("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", text=text, name=link)
        self.a.inbox().wait_for(token)

    def test_the_exit_status_says_what_to_do(self):
        cases = [
            (64, ["-Z", OUTSIDE], "x"),
            (64, ["-t"], "Subject: nobody\n\nx"),
            (65, ["-f", self.a.alias, OUTSIDE], "From: somebody@else.test\nSubject: x\n\nx"),
            (77, [OUTSIDE], "From: somebody@else.test\nSubject: x\n\nx"),
            (65, ["-t"], f"To: {OUTSIDE},\nb@out.test\nBcc: c@out.test\nSubject: x\n\nx"),
            (65, [OUTSIDE], "\nFrom: Me <me@home.test>\nBcc: c@out.test\n\nx"),
            (67, ["not an address@@x"], "Subject: x\n\nx"),
            (77, ["-f", "somebody@else.test", OUTSIDE], "Subject: x\n\nx"),
        ]
        for status, words, text in cases:
            done = self.sendmail(*words, text=text, check=False)
            self.assertEqual((done.returncode, bool(done.stderr)), (status, True), (words, done.stderr))
        nowhere = subprocess.run(
            [POSTERN, "sendmail", "--dir", self.home, OUTSIDE], input=b"x", capture_output=True, timeout=60
        )
        self.assertEqual(nowhere.returncode, 75)

    def test_it_speaks_smtp_on_its_standard_streams(self):
        token = word()
        talk = (
            f"EHLO x\r\nMAIL FROM:<{self.a.alias}>\r\nRCPT TO:<{OUTSIDE}>\r\nDATA\r\n"
            f"Subject: {token}\r\n\r\nx\r\n.\r\nQUIT\r\n"
        )
        said = self.sendmail("-bs", text=talk).stdout.decode()
        self.assertTrue(said.startswith("220 "), said)
        self.assertIn("\r\n221 ", said)
        self.delivered(token)

    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_git_sends_patches_with_what_setup_wrote(self):
        if not Path("/usr/lib/git-core/git-send-email").exists():
            self.skipTest("git send-email is not installed")
        token = word()
        self.command("setup", "git", "--write")
        work, env = self.home / "work", environment(self.home, GIT_CONFIG_NOSYSTEM="1")

        def git(*words):
            done = subprocess.run(
                ["/usr/bin/git", *words], cwd=work, env=env, capture_output=True, text=True, timeout=60
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        work.mkdir()
        git("init", "-q")
        (work / "file").write_text(token)
        git("config", "user.email", self.a.alias)
        git("config", "user.name", "Otter")
        git("add", "file")
        git("commit", "-qm", f"patch {token}")
        git("format-patch", "-1", "--root")
        git("send-email", "--quiet", "--confirm=never", "--to", OUTSIDE, "0001-patch-" + token + ".patch")
        mail = self.delivered(token)
        self.assertIn(b"diff --git a/file b/file", mail.content)


class Setup(People):
    PROGRAMS = ("thunderbird", "mutt", "neomutt", "mbsync", "msmtp", "git", "aerc")

    def test_every_program_has_a_configuration_and_what_is_written_is_private(self):
        for program in self.PROGRAMS:
            shown = self.command("setup", program).stdout.decode()
            if program not in ("thunderbird", "git"):
                self.assertIn(self.a.password, shown, program)
            self.command("setup", program, "--write")
        files = [file for file in self.home.rglob("*") if file.is_file()]
        secret = [file for file in files if self.a.password in file.read_text()]
        self.assertEqual(len(secret), 5)
        for file in secret:
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)

    def test_an_older_file_is_replaced_with_consent_only_and_kept(self):
        older = self.home / ".msmtprc"
        older.write_text("mine\n")
        done = self.command("setup", "msmtp", "--write", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(older.read_text(), "mine\n")

        def answer(letter):
            terminal = Terminal(
                POSTERN, "setup", "msmtp", "--write", "--dir", self.a.data, env=environment(self.home),
                folder=self.home,
            )
            terminal.until("[y/N]").type(letter)
            return terminal.end()

        self.assertEqual(answer("n"), 1)
        self.assertEqual(older.read_text(), "mine\n")
        self.assertEqual(answer("y"), 0)
        self.assertIn(self.a.password, older.read_text())
        self.assertEqual((self.home / ".msmtprc.bak").read_text(), "mine\n")
        self.command("setup", "msmtp", "--write")
        self.assertFalse((self.home / ".msmtprc.bak2").exists())

    @unittest.skipUnless(shutil.which("msmtp"), "msmtp is not installed")
    def test_msmtp_sends_with_what_was_written(self):
        token = word()
        self.command("setup", "msmtp", "--write")
        done = subprocess.run(
            ["msmtp", OUTSIDE], input=f"Subject: {token}\n\nx\n".encode(), capture_output=True, timeout=60,
            env=environment(self.home),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.delivered(token)

    @unittest.skipUnless(shutil.which("mbsync"), "mbsync is not installed")
    def test_mbsync_fetches_with_what_was_written(self):
        token = word()
        deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
        self.a.inbox().wait_for(token)
        self.command("setup", "mbsync", "--write")
        done = subprocess.run(["mbsync", "postern"], capture_output=True, timeout=120, env=environment(self.home))
        self.assertEqual(done.returncode, 0, done.stderr)
        texts = [file.read_bytes() for file in (self.home / "Mail/postern/INBOX").rglob("*") if file.is_file()]
        self.assertTrue(any(token.encode() in text for text in texts))

    @unittest.skipUnless(shutil.which("mutt"), "mutt is not installed")
    def test_mutt_sends_with_what_was_written(self):
        for program in ("mutt", "neomutt"):
            if not shutil.which(program):
                continue
            token = word()
            self.command("setup", program, "--write")
            # The copy for the folder of sent mail is another test's matter.
            done = subprocess.run(
                [program, "-e", "set record=''", "-s", token, OUTSIDE], input=b"x\n", capture_output=True, timeout=60,
                env=environment(self.home),
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.delivered(token)


class Page(People):
    def setUp(self):
        super().setUp()
        self.url = self.command("page").stdout.decode().strip()
        self.browser = Browser(self.url)

    def test_the_token_opens_the_page_once_it_is_a_cookie(self):
        text = self.browser.enter(self.url)
        for attribute in ("HttpOnly", "SameSite=Strict"):
            self.assertIn(attribute, self.browser.set_cookie)
        # No other server on this machine knows the path that it is for.
        self.assertRegex(self.browser.root, r"^/page/\w{26}/$")
        self.assertIn(f"Path={self.browser.root.rstrip('/')};", self.browser.set_cookie)
        self.assertNotIn(self.url.partition("token=")[2], self.browser.cookie)
        self.assertNotIn("<script", text)
        policy = self.browser.headers["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none';"), policy)
        self.assertNotIn("script-src", policy)
        self.assertEqual(self.browser.headers["Cache-Control"], "no-store")
        status = self.a.status()
        self.assertIn(f"{status['balance']:,} µtok", text)
        self.assertIn(self.a.alias, text)
        self.assertIn("linked", text)
        self.assertIn("<svg", text)
        # The browser's history has the address, which opens nothing any more; the next one does.
        again = Browser(self.url)
        answer, _ = again.ask("/?token=" + self.url.partition("token=")[2])
        self.assertEqual(answer.status, 403)
        self.assertIsNone(answer.getheader("Set-Cookie"))
        again.enter(self.command("page").stdout.decode().strip())
        self.assertEqual(self.browser.ask(self.browser.root)[0].status, 200)

    def test_nobody_else_gets_in(self):
        self.browser.enter(self.url)
        root, right = self.browser.root, self.browser.cookie
        elsewhere = f"/page/{'x' * 26}/"
        for cookie in ("", "postern=", "postern=x", "other=1", right):
            self.browser.cookie = cookie
            roots = [elsewhere, "/page/x/"] if cookie == right else [root, elsewhere]
            for path in roots:
                for below in ("", f"qr/{self.a.alias}"):
                    answer, text = self.browser.ask(path + below)
                    self.assertEqual(answer.status, 403)
                    self.assertNotIn(self.a.alias, text)
                    self.assertNotIn(root, text)
        for path in ("/?token=", "/?token=x", "/"):
            answer, text = self.browser.ask(path)
            self.assertEqual(answer.status, 403)
            for told in (answer.getheader("Set-Cookie"), answer.getheader("Location")):
                self.assertIsNone(told)
            self.assertNotIn(root, text)
        port = split_address(self.browser.address)[1]
        for host in ("evil.test", f"evil.test:{port}", f"127.0.0.1.evil.test:{port}", "127.0.0.1:1", f"localhost.:{port}."):
            answer, text = self.browser.ask(root, Host=host)
            self.assertEqual(answer.status, 421, host)
            self.assertNotIn(self.a.alias, text)
        answer, _ = self.browser.ask(root, Host=f"localhost:{port}")
        self.assertEqual(answer.status, 200)

    def test_a_form_of_another_page_changes_nothing(self):
        page = self.browser.enter(self.url)
        token = re.search(r'name="form" value="(\w+)"', page).group(1)
        fields = {"address": self.a.alias}
        for form, headers in [
            (fields, {}),
            ({**fields, "form": "x"}, {}),
            ({**fields, "form": token}, {"Origin": "http://evil.test"}),
            ({**fields, "form": token}, {"Origin": f"http://127.0.0.1:{free_ports()}"}),
            ({**fields, "form": token}, {"Cookie": ""}),
        ]:
            answer, _ = self.browser.ask(f"{self.browser.root}alias-close", form, **headers)
            self.assertEqual(answer.status, 403, (form, headers))
        answer, _ = self.browser.ask(f"{self.browser.root}alias-close?" + urlencode({**fields, "form": token}))
        self.assertEqual(answer.status, 405)
        self.assertIn(self.a.alias, self.a.status()["aliases"])

    def test_aliases_are_opened_labelled_shown_as_a_code_and_closed(self):
        self.browser.enter(self.url)
        local, label = word("page-"), f"shop <b>{word()}</b>"
        page = self.browser.submit("alias-new", local=local, label=label, days="3")
        address = f"{local}@relay.test"
        self.assertIn("The alias is open.", page)
        self.assertIn(html.escape(label), page)
        self.assertNotIn(label, page)
        self.assertRegex(page, "closes in [23] days")
        rows = {row["address"]: row for row in json.loads(self.command("alias", "list", "--json").stdout)["aliases"]}
        self.assertEqual(rows[address]["label"], label)
        _, picture = self.browser.ask(f"{self.browser.root}qr/{address}")
        self.assertIn("<svg", picture)
        page = self.browser.submit("alias-change", address=address, label="other", name="Otter", keep="yes")
        self.assertIn("goes out as Otter", page)
        self.assertRegex(page, "closes in [23] days")
        page = self.browser.submit("alias-change", address=address, label="other", name="Otter", days="")
        self.assertNotIn("closes in", page)
        page = self.browser.submit("alias-close", address=address)
        self.assertIn("The alias is closed.", page)
        self.assertNotIn(address, self.a.status()["aliases"])
        page = self.browser.submit("alias-new", local="..", days="")
        self.assertIn("begins and ends with a letter or digit", page)

    def test_what_waits_in_the_outbox_is_shown_and_cancelled(self):
        token = word()
        self.relay.stop()
        try:
            wait_until(lambda: not self.a.status()["linked"], 30, "the end of the link")
            submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, token))
            shown = self.command("outbox").stdout.decode()
            self.assertIn(token, shown)
            self.assertRegex(shown, r"waiting to be sent, taken just now, \d+ kB, [\d,]+ µtok")
            row = json.loads(self.command("outbox", "--json").stdout)["rows"][0]
            self.assertEqual((row["state"], row["kind"], row["recipients"]), ("queued", "mail", 1))
            page = self.browser.enter(self.url)
            self.assertIn(token, page)
            page = self.browser.submit("cancel", row=row["row"])
            self.assertIn("The message is cancelled.", page)
            self.assertNotIn(token, page)
            self.assertEqual(self.a.outbox(), [])
        finally:
            self.relay.start()
            self.world.relink()

    def test_the_assistant_of_thunderbird_finds_its_file(self):
        host, port = split_address(self.a.imap)
        for path in (
            "/mail/config-v1.1.xml?emailaddress=a%40localhost",
            "/.well-known/autoconfig/mail/config-v1.1.xml",
            "/autoconfig/localhost",
        ):
            answer, text = self.browser.ask(path)
            self.assertEqual((answer.status, answer.getheader("Content-Type")), (200, "text/xml; charset=utf-8"))
            self.assertIn(f"<port>{port}</port>", text)
            self.assertIn("%EMAILLOCALPART%", text)
            self.assertNotIn(self.a.password, text)
            self.assertNotIn(self.a.alias, text)

    def test_a_browser_shows_it(self):
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if browser is None:
            self.skipTest("chromium is not installed")
        picture = self.home / "page.png"
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={self.home / 'chromium'}", "--window-size=900,1400",
        ]
        shown = subprocess.run(
            [*command, "--virtual-time-budget=5000", "--dump-dom", self.url], capture_output=True, text=True, timeout=120,
            env=environment(self.home),
        ).stdout
        self.assertIn(self.a.alias, shown)
        self.assertIn("Keys left", shown)
        # The first address is used up.
        url = self.command("page").stdout.decode().strip()
        subprocess.run(
            [*command, f"--screenshot={picture}", url], capture_output=True, timeout=120, env=environment(self.home)
        )
        self.assertGreater(picture.stat().st_size, 10_000)
        kept = os.environ.get("KEEP")
        if kept:
            print(f"       the page as seen: {picture}")


def small_world():
    return World(holders=("a",), keys=200, value=2_000_000)


class Told(Hazard):
    """Notices, each once for its cause, over a restart too."""

    make = staticmethod(small_world)

    def settings(self, text):
        """Puts a table of notices into bridge.toml and starts the bridge anew."""
        self.a.stop()
        file = self.a.data / "bridge.toml"
        file.write_text(file.read_text().partition("[notices]")[0] + "[notices]\n" + text)
        self.a.start()

    def setUp(self):
        self.relay, self.a = self.world.relay, self.world.a

    def count(self, words):
        return len(self.a.inbox().with_word(words))

    def test_a_low_balance_is_told_once_and_again_after_a_top_up(self):
        words = "keypack is running low"
        self.settings("low_balance = 1900000\nfew_keys = 1\n")
        self.assertEqual(self.count(words), 0)
        for _ in range(2):
            while self.a.settled()["balance"] >= 1_900_000:
                submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, word()))
                time.sleep(0.1)
            before = self.count(words)
            wait_until(lambda: self.count(words) == 1, 20, "the notice") if before == 0 else None
            self.assertIn("µtok are left", " ".join(self.a.status()["warnings"]))
            submit(self.a, OUTSIDE, message(self.a.alias, OUTSIDE, word()))
            self.a.settled()
            self.a.stop()
            self.a.start()
            self.a.settled()
            time.sleep(3)
            self.assertEqual(self.count(words), 1)
        self.relay.top_up(self.a.identifier, 1_000_000)
        wait_until(lambda: self.refreshed()["warnings"] == [], 20, "the end of the cause")
        time.sleep(2)
        while self.a.settled()["balance"] >= 1_900_000:
            submit(self.a, [f"x{number}@out.test" for number in range(20)], message(self.a.alias, OUTSIDE, word()))
        wait_until(lambda: self.count(words) == 2, 20, "the second notice")

    def refreshed(self):
        # The relay is asked for news when a message costs more than there is, and at every link.
        self.a.stop()
        self.a.start()
        return self.a.settled()

    def test_few_keys_are_told_once(self):
        words = "session keys left"
        before = self.count("running low")
        self.settings("low_balance = 1\nfew_keys = 199\n")
        wait_until(lambda: self.count("running low") == before + 1, 20, "the notice")
        self.a.stop()
        self.a.start()
        self.a.settled()
        time.sleep(3)
        self.assertEqual(self.count("running low"), before + 1)
        self.assertIn("keys are left", " ".join(self.a.status()["warnings"]))
        self.assertGreaterEqual(self.count(words), 1)

    def test_a_relay_that_cannot_be_reached_is_told_once_for_each_time(self):
        words = "Your relay cannot be reached"
        self.settings("low_balance = 1\nfew_keys = 1\nunreachable_s = 2\n")
        # On a slow machine the start itself takes as long: what comes of it is counted before.
        self.a.settled()
        before = self.count(words)
        for time_around in (1, 2):
            self.relay.stop()
            wait_until(lambda: self.count(words) == before + time_around, 30, "the notice")
            time.sleep(4)
            self.assertEqual(self.count(words), before + time_around)
            self.relay.start()
            wait_until(lambda: self.a.status()["linked"] and self.a.status()["warnings"] == [], 90, "the link again")

    def test_an_alias_past_its_time_is_closed_and_use_is_remembered(self):
        self.settings("low_balance = 1\nfew_keys = 1\n")
        alias = self.a.new_alias()
        expired = json.loads(self.a.command("alias", "expire", alias, 1, "--json").stdout)
        self.assertGreater(expired["expires"], time.time() + 86_000)
        self.assertIn(alias, self.a.status()["aliases"])
        self.assertTrue((self.a.data / "diary").exists())


class Proxied(People):
    def test_through_a_proxy_there_is_no_other_socket_and_no_name_is_asked(self):
        """The relay's name exists nowhere: the proxy alone knows it."""
        name = "relay.nowhere.invalid:7025"
        with Socks({name: self.relay.link}) as proxy:
            bridges, users = [], []
            for number in (1, 2):
                bridge = Bridge(self.world.folder.path, word("tor"), name)
                pack = self.world.folder.path / f"{bridge.name}.pack"
                self.relay.issue(pack, bridge.passphrase, 100, 10_000_000)
                bridge.init(pack)
                self.addCleanup(lambda bridge=bridge: bridge.process and bridge.kill())
                bridges.append(bridge.start("--socks", proxy.address))
                users.append(proxy.credentials[-1])
            self.assertNotEqual(users[0], users[1])
            bridge = bridges[0]
            bridge.stop()
            bridge.start("--socks", proxy.address)
            wait_until(lambda: proxy.credentials.count(users[0]) == 2, 30, "the same credentials again")
            self.assertEqual(set(proxy.credentials), set(users))
            self.assertEqual({target for target in proxy.targets}, {name})
            token = word()
            submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token))
            self.delivered(token)

    @unittest.skipUnless(shutil.which("strace"), "strace is not installed")
    def test_a_trace_of_the_system_calls_shows_the_proxy_and_loopback_alone(self):
        name = "relay.nowhere.invalid:7025"
        with Socks({name: self.relay.link}) as proxy:
            bridge = Bridge(self.world.folder.path, word("traced"), name)
            pack = self.world.folder.path / f"{bridge.name}.pack"
            self.relay.issue(pack, bridge.passphrase, 100, 10_000_000)
            bridge.init(pack)
            trace = self.home / "trace"
            command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,bind,openat", "-o", trace, POSTERN]
            command += ["bridge", "--dir", bridge.data, "--passphrase-file", bridge.passphrase, "--tick", 1]
            command += ["--smtp", bridge.smtp, "--imap", bridge.imap, "--relay-via", name, "--socks", proxy.address]
            bridge.process = Process(self.home, "traced", *command)
            self.addCleanup(bridge.kill)
            wait_until(lambda: _answers(bridge), 60, "the bridge")
            bridge._learn_login()
            token = word()
            submit(bridge, OUTSIDE, message(bridge.alias, OUTSIDE, token))
            self.delivered(token)
            # What ends the tracer leaves the traced.
            children = Path(f"/proc/{bridge.pid}/task/{bridge.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGTERM)
            self.assertEqual(bridge.process.wait(), 0)
            calls = trace.read_text()
        dialled = re.findall(r"connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((\d+)\), [^}]*?\"([^\"]+)\"", calls)
        self.assertEqual(set(dialled), {(proxy.address.split(":")[1], "127.0.0.1")}, dialled)
        self.assertNotIn("resolv.conf", calls)
        self.assertNotIn("nscd", calls)
        self.assertNotIn("htons(53)", calls)


def _answers(bridge):
    try:
        bridge.status()
        return True
    except AssertionError:
        return False
