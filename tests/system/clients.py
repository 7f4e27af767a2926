"""Mail clients as the tests use them: smtplib, imaplib, swaks, curl, and a bare socket for what no client would say."""

import base64
import imaplib
import re
import smtplib
import socket
import subprocess
import time

imaplib._MAXLINE = 1 << 24
CRLF = b"\r\n"


def split_address(address):
    """Host and port of "127.0.0.1:2025"."""
    host, port = address.rsplit(":", 1)
    return host, int(port)


def message(sender, recipient, subject, body="hello\r\n", headers=()):
    """A plain message as a client would hand it over."""
    lines = [f"From: {sender}", f"To: {recipient}", f"Subject: {subject}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def submit(holder, recipients, content, sender=None):
    """Submits over SMTP with AUTH; raises smtplib's errors, which carry code and text of the refusal."""
    recipients = [recipients] if isinstance(recipients, str) else recipients
    with smtplib.SMTP(*split_address(holder.smtp), timeout=120) as client:
        client.login(holder.user, holder.password)
        refused = client.sendmail(sender or holder.alias, recipients, content)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)


def deliver(mx, sender, recipients, content):
    """Hands a message to the relay's MX as another mail server would."""
    recipients = [recipients] if isinstance(recipients, str) else recipients
    with smtplib.SMTP(*split_address(mx), timeout=300) as client:
        client.sendmail(sender, recipients, content)


def refusal_of(action):
    """Code and text of the SMTP refusal that `action` ends in; no refusal is an error of the system under test."""
    try:
        action()
    except smtplib.SMTPRecipientsRefused as refused:
        code, text = next(iter(refused.recipients.values()))
    except smtplib.SMTPResponseException as refused:
        code, text = refused.smtp_code, refused.smtp_error
    else:
        raise AssertionError("not refused")
    return code, text.decode() if isinstance(text, bytes) else text


def swaks(server, sender, recipient, *options, user=None, password=None):
    """Sends with swaks; returns the finished process, its transcript in `stdout`."""
    command = ["swaks", "--server", split_address(server)[0], "--port", str(split_address(server)[1])]
    command += ["--from", sender, "--to", recipient, "--helo", "client.test"]
    if user:
        command += ["--auth", "PLAIN", "--auth-user", user, "--auth-password", password]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


def curl(url, *options, holder=None, data=None):
    """Runs curl and returns its standard output; a failure raises."""
    command = ["curl", "--silent", "--show-error", "--max-time", "300", *options]
    if holder:
        command += ["--user", f"{holder.user}:{holder.password}", "--login-options", "AUTH=*"]
    done = subprocess.run([*command, url], input=data, capture_output=True, timeout=330)
    if done.returncode:
        raise AssertionError(f"curl {url}: {done.stderr.decode().strip()}")
    return done.stdout


def login(holder):
    """A logged-in imaplib session."""
    session = imaplib.IMAP4(*split_address(holder.imap), timeout=120)
    session.login(holder.user, holder.password)
    return session


def literals(response):
    """The literal of each message in imaplib's answer to a FETCH of one."""
    return [part[1] for part in response if isinstance(part, tuple)]


class Inbox:
    """INBOX as one long session sees it; messages are fetched once, by UID."""

    def __init__(self, holder):
        self.holder = holder
        self.messages = {}

    def refresh(self):
        """Fetches what is new since the last look. Returns all messages by UID."""
        session = login(self.holder)
        try:
            session.select("INBOX", readonly=True)
            first = max(self.messages, default=0) + 1
            _, parts = session.uid("FETCH", f"{first}:*", "(UID BODY.PEEK[])")
            for part in parts:
                if isinstance(part, tuple):
                    uid = int(re.search(rb"UID (\d+)", part[0]).group(1))
                    self.messages[uid] = part[1]
        finally:
            session.logout()
        return self.messages

    def with_word(self, word):
        """Messages that hold `word`, after a fresh look."""
        return [content for content in self.refresh().values() if word.encode() in content]

    def wait_for(self, word, count=1, seconds=60):
        """Waits until `count` messages hold `word`, and returns them."""
        end = time.monotonic() + seconds
        while len(found := self.with_word(word)) < count:
            if time.monotonic() > end:
                raise AssertionError(f"{len(found)} of {count} messages came within {seconds} s")
            time.sleep(0.2)
        return found


class Talk:
    """A bare line conversation, for SMTP and IMAP alike."""

    def __init__(self, address, timeout=20):
        self.socket = socket.create_connection(split_address(address), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, octets):
        self.socket.sendall(octets.encode() if isinstance(octets, str) else octets)

    def line(self):
        """One line of the peer; empty when it closed."""
        return self.file.readline()

    def reply(self):
        """One SMTP reply, all its lines; (0, "") when the peer closed."""
        text = ""
        while line := self.line().decode("latin-1"):
            text += line
            if line[3:4] != "-":
                return int(line[:3]), text
        return 0, text

    def command(self, line):
        """Sends an SMTP command and returns code and text of the reply."""
        self.send((line.encode() if isinstance(line, str) else line) + CRLF)
        return self.reply()

    def tagged(self, tag, line):
        """Sends an IMAP command; returns the state word of its tagged answer and all lines until then."""
        self.send(f"{tag} ".encode() + (line.encode() if isinstance(line, str) else line) + CRLF)
        return self.until_tagged(tag)

    def until_tagged(self, tag):
        """Reads up to the tagged answer; the state word is empty when the peer closed."""
        lines = []
        while line := self.line():
            lines.append(line)
            if line.startswith(f"{tag} ".encode()):
                return line.split(b" ")[1].decode(), lines
        return "", lines

    def ended(self, seconds):
        """Whether the peer closes within `seconds`, whatever it says before."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self.file.close()
        self.socket.close()


def smtp_talk(address, holder=None):
    """A conversation past the greeting and EHLO, logged in when a holder is given."""
    talk = Talk(address)
    talk.greeting = talk.reply()
    talk.hello = talk.command("EHLO client.test")
    if holder:
        token = base64.b64encode(f"\0{holder.user}\0{holder.password}".encode()).decode()
        code, text = talk.command(f"AUTH PLAIN {token}")
        if code != 235:
            raise AssertionError(f"login refused: {text}")
    return talk


def imap_talk(holder, logged_in=True):
    """A conversation past the greeting, logged in unless told otherwise."""
    talk = Talk(holder.imap)
    talk.greeting = talk.line()
    if logged_in:
        state, lines = talk.tagged("login", f'LOGIN "{holder.user}" "{holder.password}"')
        if state != "OK":
            raise AssertionError(f"login refused: {lines}")
    return talk
