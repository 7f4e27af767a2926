"""A folder with the mail of ten years: it opens at once, synchronises and is paged through, and its bridge stays small.

Whoever moves into a new program brings all mail along, and leaves again when a click takes a second.
"""

import statistics
import threading
import time

from clients import imap_talk, login
from desk import Desk, needs
from harness import by_extent
from processes import peak, reset_peak

MIB = 1 << 20
BRIDGE_BYTES_MAX = 150 * MIB
MESSAGES = by_extent(2_000, 100_000)


def small_message(number):
    """One of many that differ in all that a list of messages shows."""
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(1_000_000_000 + 3_600 * number))
    header = (
        f"From: Sender {number % 977} <s{number % 977}@old.test>\r\nTo: me@localhost\r\nDate: {when}\r\n"
        f"Subject: number {number}.\r\nMessage-ID: <m{number}@old.test>\r\n"
    )
    if number % 10:
        header += f"References: <m{number - number % 10}@old.test>\r\n"
    return (header + "\r\n" + "a line of some words, over and over\r\n" * (number % 40)).encode()


class ManyMessages(Desk):
    def fill(self):
        """Appends all messages without waiting for each answer (RFC 7888)."""
        talk, answers = imap_talk(self.a), []
        talk.socket.settimeout(600)
        answered = threading.Thread(target=lambda: answers.extend(talk.until_tagged(f"a{MESSAGES}")[1]), daemon=True)
        answered.start()
        for number in range(1, MESSAGES + 1):
            text = small_message(number)
            talk.send(b"a%d APPEND INBOX {%d+}\r\n%s\r\n" % (number, len(text), text))
        answered.join(600)
        self.assertEqual(sum(b" OK [APPENDUID" in line for line in answers), MESSAGES)
        talk.close()

    @needs("mbsync")
    @needs("mutt")
    def test_a_folder_of_very_many_messages_opens_synchronises_and_is_paged_through(self):
        seconds = {}

        def timed(what, action):
            begun = time.monotonic()
            result = action()
            seconds[what] = time.monotonic() - begun
            return result

        timed("APPEND of all", self.fill)
        self.a.stop()
        self.a.start()
        # What opening the passphrase takes is no part of it.
        reset_peak(self.a.pid)

        session = login(self.a)
        self.addCleanup(session.logout)
        selects = []
        for _ in range(11):
            begun = time.monotonic()
            self.assertEqual(session.select("INBOX", readonly=True)[1], [str(MESSAGES).encode()])
            selects.append(time.monotonic() - begun)
        seconds["SELECT"] = statistics.median(selects)

        near = self.home / "mail"
        near.mkdir()
        host, _, port = self.a.imap.rpartition(":")
        rc = self.file(
            "mbsyncrc",
            f"IMAPAccount a\nHost {host}\nPort {port}\nUser {self.a.user}\nPass {self.a.password}\nSSLType None\n\n"
            f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {near}/\nInbox {near}/INBOX\n\n"
            "Channel c\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nExpunge Both\nSyncState *\n",
        )
        copies = lambda: sorted(path.name for path in near.rglob("*") if path.parent.name in ("new", "cur"))  # noqa: E731
        timed("mbsync, all", lambda: self.program("mbsync", "-c", rc, "c", seconds=900))
        first = copies()
        self.assertEqual(len(first), MESSAGES)
        timed("mbsync, nothing new", lambda: self.program("mbsync", "-c", rc, "c", seconds=300))
        self.assertEqual(copies(), first)

        rc = self.set_up("mutt", "muttrc")
        with rc.open("a") as settings:
            settings.write('\nset header_cache="" sort=threads sort_browser=date\n')
        with self.terminal("mutt", "-F", rc) as mutt:
            timed("mutt's list", lambda: mutt.shows("number 1.", 300))
            timed("mutt's last page", lambda: mutt.do(("*", f"number {MESSAGES}.")))
            timed("mutt finds", lambda: mutt.do(("l", "Limit"), ("\x15~s number\\ 17\\\\.\r", "number 17.")))

        found = timed("SEARCH TEXT", lambda: session.uid("SEARCH", "TEXT", '"number 17."'))
        self.assertEqual(len(found[1][0].split()), 1)
        taken = peak(self.a.pid)
        figures = ", ".join(f"{what} {took:.3f} s" for what, took in seconds.items())
        print(f"       {MESSAGES} messages: {figures}; the bridge took {taken / MIB:.1f} MiB at most")
        self.assertLess(taken, BRIDGE_BYTES_MAX)
