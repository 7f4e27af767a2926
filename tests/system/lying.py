"""A relay doctored to lie, which has valid keys, between an honest one and the world: what it says is noticed or has no effect.

It takes what the honest relay sends, and answers as it likes: dearer than agreed, something else, to somebody else, again, too
much, or that it delivered what it dropped. What nobody can notice is shown too.
"""

import json
import os
import smtplib
import struct
import threading
import time
import unittest
import urllib.request

from clients import message, split_address, submit
from figures import CELL
from harness import OUTSIDE, Bridge, Hazard, Relay, Relays, second_implementation, word
from liar import BALANCE, DONE, MESSAGE, REFUSED, STATEMENT, Liar, Lie, encode, is_submission, numbers, submission
from processes import wait_until

EACH = 10_000 + 100
PASSPHRASE = "open the gate"
REFUSAL_ROUTE = 6


class Trusting(Relays):
    """An honest relay whose ways all go by a liar, who has an honest one behind, and one user."""

    def __init__(self, **settings):
        super().__init__()
        for name in ("entry", "far"):
            (self.folder.path / name).mkdir()
            relay = Relay(self.folder.path / name, self.sink, domain=f"{name}.test", retry_s=[1] * 900)
            self.relays[name] = relay
        self.entry, self.far = self.relays.values()
        self.entry.settings |= settings
        self.entry.routes, self.entry.settings["smarthost"] = {"entry.test": self.entry.mx}, None
        # The reports of the last relay come back by its own SMTP: the liar has no part in them.
        self.far.routes = {"far.test": self.far.mx, "entry.test": self.entry.mx}
        for relay in self.relays.values():
            relay.start()
        self.liar = Liar(self.far.link)
        pack, passphrase = self.folder.path / "peer.pack", self.folder.path / "peer.passphrase"
        passphrase.write_text(PASSPHRASE + "\n")
        words = ["--value", 50_000_000, "--passphrase-file", passphrase, "--for", "entry.test", "--json"]
        self.pack = json.loads(self.far.command("peer", "invite", "--out", pack, *words).stdout)["identifier"]
        self.liar.adopt(pack, PASSPHRASE.encode())
        self.entry.command("peer", "accept", pack, "--name", "far", "--passphrase-file", passphrase)
        self.entry.stop()
        self.entry.settings["smarthost"] = "peer:far"
        self.entry.start()
        wait_until(lambda: self.peer()["link"] == "linked", 60, "a link to the liar")
        self.a = Bridge(self.folder.path, "a", self.entry.link)
        pack = self.folder.path / "a.pack"
        self.entry.issue(pack, self.a.passphrase, 5_000, 100_000_000, operator=True)
        self.a.init(pack)
        self.bridges.append(self.a)
        self.a.start()
        wait_until(lambda: self.a.status()["onward"]["elsewhere"]["relays"] == 1, 60, "prices")

    def close(self):
        super().close()
        self.liar.stop()

    def peer(self):
        return json.loads(self.entry.command("peer", "list", "--json").stdout)["rows"][0]

    def compare(self):
        """The report on the liar's book, and whether the command took it as right."""
        done = self.entry.command("peer", "compare", "far", "--json", check=False)
        return json.loads(done.stdout), done.returncode == 0

    def paid(self):
        """What the book of the relay behind the liar has of the pack, for mail."""
        rows = json.loads(self.far.command("statement", "--account", self.pack, "--json").stdout)["rows"]
        return sum(row["debit"] for row in rows if row["kind"] == "message")

    def spent(self):
        """What the user paid for mail."""
        return sum(row["debit"] for row in self.a.statement() if row["kind"] in ("message", "onward"))


class Lying(Hazard):
    make = Trusting

    def setUp(self):
        self.w, self.token, self.sent = self.world, word(), []
        self.second = second_implementation()

    def send(self, count=1):
        for _ in range(count):
            self.sent.append(f"{self.token}-{len(self.sent):04}")
            submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.sent[-1]))

    def arrived(self):
        return [name for name in self.sent if self.w.sink.with_word(name)]

    def outside(self, seconds=120):
        wait_until(lambda: self.arrived() == self.sent, seconds, "all messages outside")


class Dearer(Lie):
    """Says that each message was debited more than it cost; `in_book`: all its books say so too."""

    def __init__(self, second, beyond, in_answer=True):
        self.second, self.beyond, self.in_answer, self.taken = second, beyond, in_answer, 0

    def answer(self, link, asked, stream, header, body):
        second = self.second
        variant, rest = second.read_varint(header)
        if variant == DONE and is_submission(second, asked):
            (seq, debited, balance), _ = numbers(second, rest, 3)
            self.taken += self.beyond
            debited += self.beyond if self.in_answer else 0
            header = encode(second, DONE, seq, debited, balance - self.taken)
        if variant == BALANCE:
            (balance, keys, credits, debits), _ = numbers(second, rest, 4)
            header = encode(second, BALANCE, balance - self.taken, keys, credits, debits + self.taken)
        if variant == STATEMENT:
            header = self.statement(rest)
        return [(stream, header, body)]

    def statement(self, rest):
        """Adds what was taken to the first line of mail."""
        second, taken = self.second, self.taken
        (count,), rest = numbers(second, rest, 1)
        told = encode(second, STATEMENT, count)
        for _ in range(count):
            (day, kind, times, credit, debit), rest = numbers(second, rest, 5)
            if kind == MESSAGE:
                debit, taken = debit + taken, 0
            told += encode(second, day, kind, times, credit, debit)
        return told + rest


class Once(Lie):
    """Does one deed to the answer to the next message that is sent, and is honest from then on."""

    def __init__(self, second, deed):
        self.second, self.deed, self.done, self.kept = second, deed, False, None
        #: Holds the first answer back until more is under way behind it.
        self.gate = threading.Event()

    def answer(self, link, asked, stream, header, body):
        if self.done or not is_submission(self.second, asked):
            return [(stream, header, body)]
        return getattr(self, self.deed)(link, stream, header, body)

    def garbage(self, link, stream, header, body):
        self.done = True
        return [(stream, os.urandom(40), b"")]

    def unknown_answer(self, link, stream, header, body):
        self.done = True
        return [(stream, encode(self.second, 2_000, 1, 1), b"")]

    def another_answer(self, link, stream, header, body):
        self.done = True
        return [(stream, encode(self.second, BALANCE, 1, 2, 3, 4), b"")]

    def another_number(self, link, stream, header, body):
        self.done = True
        (_, seq, debited, balance), _ = numbers(self.second, header, 4)
        return [(stream, encode(self.second, DONE, seq + 1, debited, balance), b"")]

    def more_behind(self, link, stream, header, body):
        self.done = True
        return [(stream, header + b"\0", b"")]

    def a_body(self, link, stream, header, body):
        self.done = True
        return [(stream, header, bytes(1_000))]

    def another_stream(self, link, stream, header, body):
        self.done = True
        return [(stream + 1_000, header, body)]

    def twice(self, link, stream, header, body):
        self.done = True
        return [(stream, header, body)] * 2

    def an_old_answer(self, link, stream, header, body):
        """The one before instead, and then no more."""
        self.kept, old = header, self.kept
        self.done = old is not None
        return [(stream, old or header, body)]

    def crossed(self, link, stream, header, body):
        """Two answers, each on the stream of the other."""
        if not self.gate.is_set():
            self.gate.wait(60)
            return [(stream, header, body)]
        if self.kept is None:
            self.kept = stream, header, body
            return []
        self.done = True
        return [(stream, *self.kept[1:]), (self.kept[0], header, body)]

    def linked_again(self, link, stream, header, body):
        self.done = True
        link.raw(link.to_holder.seal(self.second.LINKED, self.second.LAST, 0, bytes(33)))
        return [(stream, header, body)]

    def noise(self, link, stream, header, body):
        self.done = True
        link.raw(os.urandom(CELL))
        return []

    def an_end(self, link, stream, header, body):
        self.done = True
        link.end()
        return []

    def without_end(self, link, stream, header, body):
        """An answer with so much behind it as the other end takes."""
        self.done, second = True, self.second
        content = struct.pack("<H", len(header) + 1) + second.varint(1) + header
        link.raw(link.to_holder.seal(second.ANSWER, 0, stream, content.ljust(second.DATA_MAX, b"\0")))
        for _ in range(ENDLESS // CELL):
            link.raw(link.to_holder.seal(second.DATA, 0, stream, bytes(second.DATA_MAX)))
        return []

    def news(self, link, stream, header, body):
        """That something waits, ever and ever again: no lie that ends a link, and none that costs more than looks."""
        self.done = True
        for _ in range(500):
            link.raw(link.to_holder.seal(self.second.NEW, self.second.LAST, 0, b""))
        return [(stream, header, body)]


#: What ends a link as soon as it is heard.
NONSENSE = (
    "garbage",
    "unknown_answer",
    "another_answer",
    "another_number",
    "more_behind",
    "a_body",
    "another_stream",
    "twice",
    "an_old_answer",
    "crossed",
    "linked_again",
    "noise",
    "an_end",
    "without_end",
)
#: Octets of the longest answer, and of the memory that a relay may take for any of them.
ENDLESS, MEMORY_MAX = 256 << 20, 48 << 20


class Nonsense(Lying):
    def test_a_liar_that_says_nothing_false_is_a_relay_as_any_other(self):
        """The control of all that follows."""
        paid, ended = self.w.paid(), self.ended()
        self.send(3)
        self.judge(paid)
        self.assertEqual(self.ended(), ended)

    def test_what_fits_no_question_ends_the_link_and_costs_no_mail_or_money(self):
        for deed in NONSENSE:
            with self.subTest(deed=deed):
                self.sent, self.token = [], word()
                self.linked()
                paid, ended, room = self.w.paid(), self.ended(), self.memory()
                self.w.liar.lie = lie = Once(self.second, deed)
                self.send(4)
                if deed == "crossed":
                    # All but the one that is held back leave together.
                    wait_until(lambda: self.w.peer()["waiting"] == 4, 60, "four in the outbox")
                    lie.gate.set()
                self.judge(paid)
                self.assertTrue(lie.done)
                self.assertGreater(self.ended(), ended, "told in the log")
                self.assertLess(self.memory() - room, MEMORY_MAX)

    def test_news_of_nothing_end_no_link_and_change_nothing(self):
        self.linked()
        paid, ended = self.w.paid(), self.ended()
        self.w.liar.lie = lie = Once(self.second, "news")
        self.send(2)
        self.judge(paid)
        self.assertTrue(lie.done)
        self.assertEqual(self.ended(), ended)

    def linked(self):
        wait_until(lambda: self.w.peer()["link"] == "linked", 120, "a link to the liar")

    def judge(self, paid):
        """Each message arrived once, was debited once, and the books agree."""
        self.outside()
        wait_until(lambda: self.w.peer()["waiting"] == 0, 120, "an empty outbox")
        for name in self.sent:
            self.assertEqual(len(self.w.sink.with_word(name)), 1, name)
        self.assertEqual(self.w.paid() - paid, len(self.sent) * EACH)
        self.linked()
        report, is_right = self.w.compare()
        self.assertTrue(is_right, report)
        self.assertEqual((report["rows"][0]["own"], report["rows"][0]["peer"]), (self.w.paid(), self.w.paid()))
        self.w.entry.audit()
        self.assertNotIn("panicked", self.w.entry.process.log.read_text())

    def ended(self):
        return self.w.entry.process.log.read_text().count("link ended reason")

    def memory(self):
        """Octets of memory that the honest relay ever had in use."""
        with open(f"/proc/{self.w.entry.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1_024


class Refusing(Lie):
    """Says that it refused what it took."""

    def __init__(self, second):
        self.second = second

    def answer(self, link, asked, stream, header, body):
        if is_submission(self.second, asked) and self.second.read_varint(header)[0] == DONE:
            seq, _ = submission(self.second, asked)
            header = encode(self.second, REFUSED, seq, REFUSAL_ROUTE, 0)
        return [(stream, header, body)]


class Books(Lying):
    """Lies that are no nonsense. Each ends with its liar."""

    make = staticmethod(lambda: Trusting())

    def test_a_book_that_says_more_than_the_answers_did_is_found_to_the_micro_token(self):
        self.honest()
        self.w.liar.lie = lie = Dearer(self.second, 1, in_answer=False)
        self.send()
        self.outside()
        self.waited()
        self.assertEqual(lie.taken, 1)
        report, is_right = self.w.compare()
        mail = report["rows"][0]
        self.assertEqual((mail["peer"] - mail["own"], mail["verdict"], is_right), (1, "differs", False))
        # The control: the same book as it is.
        self.w.liar.lie = Lie()
        self.honest()

    def test_what_was_taken_and_is_said_to_be_refused_shows_in_the_book(self):
        self.honest()
        self.w.liar.lie = Refusing(self.second)
        self.send()
        # The sender is told something false, and cannot know better; the operator can.
        [report] = self.w.a.inbox().wait_for(OUTSIDE)
        self.assertIn(b"Action: failed", report)
        self.outside()
        self.w.liar.lie = Lie()
        report, is_right = self.w.compare()
        mail = report["rows"][0]
        self.assertEqual((mail["peer"] - mail["own"], mail["verdict"], is_right), (EACH, "differs", False))

    def honest(self):
        report, is_right = self.w.compare()
        self.assertTrue(is_right, report)

    def waited(self):
        wait_until(lambda: self.w.peer()["waiting"] == 0, 60, "an empty outbox")


class Dear(Lying):
    """A relay that debits more than its own prices say, towards another relay and towards a user."""

    make = staticmethod(lambda: Trusting())

    def test_a_peer_that_debits_more_than_its_price_is_given_nothing_until_the_operator_says_so(self):
        self.send()
        self.outside()
        self.assertEqual(self.w.peer()["beyond"], 0)
        for again in range(2):
            self.w.liar.lie = Dearer(self.second, 1)
            self.send()
            self.outside()
            wait_until(lambda: self.w.peer()["beyond"] == 1, 60, "the list of peers that says it")
            report, is_right = self.w.compare()
            self.assertEqual((report["beyond"], report["differs"], is_right), (1 + again, True, False))
            self.w.liar.lie = Lie()
            if again:
                self.w.entry.stop()
                self.w.entry.start()
                wait_until(lambda: self.w.peer()["link"] == "linked", 60, "a link to the liar")
            paid = self.w.paid()
            self.send(3)
            self.w.a.settled()
            time.sleep(6)
            # It waits where every other mail waits, and is reported like it.
            self.assertEqual((len(self.arrived()), self.w.paid()), (len(self.sent) - 3, paid))
            self.assertEqual((len(self.w.entry.queue()), self.w.peer()["beyond"]), (3, 1))
            done = self.w.entry.command("peer", "resume", "far")
            self.assertIn("used again", done.stdout)
            self.outside()
            self.assertEqual((self.w.paid() - paid, self.w.peer()["beyond"]), (3 * EACH, 0))
            report, is_right = self.w.compare()
            self.assertEqual((report["differs"], is_right), (True, False), "used again, and not paid back")
            self.assertEqual(report["beyond"], 1 + again)
        told = self.w.entry.process.log.read_text()
        self.assertRegex(told, 'a peer debited more for a message.*peer="?far')

    def test_a_user_is_told_of_what_the_relay_debited_beyond_the_price(self):
        liar = Liar(self.w.entry.link)
        self.addCleanup(liar.stop)
        user = Bridge(self.w.folder.path, "told", liar.address)
        pack = self.w.folder.path / "told.pack"
        self.w.entry.issue(pack, user.passphrase, 5_000, 100_000_000)
        liar.adopt(pack, user.passphrase.read_text().strip().encode())
        user.init(pack)
        self.w.bridges.append(user)
        user.start()
        wait_until(lambda: user.status()["onward"]["elsewhere"]["relays"] == 1, 60, "prices")
        for beyond, notices in ((0, 0), (5, 1), (5, 1), (6, 2)):
            with self.subTest(beyond=beyond):
                liar.lie = Dearer(self.second, beyond)
                token = word()
                submit(user, [OUTSIDE], message("me@localhost", OUTSIDE, token))
                wait_until(lambda: self.w.sink.with_word(token), 60, "the message outside")
                user.settled()
                told = user.inbox().with_word("debited") if not notices else user.inbox().wait_for("than by its own", notices)
                self.assertEqual(len(told), notices)
                if notices:
                    self.assertIn(str(2 * EACH + beyond).encode(), told[-1])


class Swallowing(Dearer):
    """Acknowledges what it is sent, for the right price, and drops it. Its books say so too."""

    def __init__(self, second):
        super().__init__(second, 0)
        self.balance, self.dropped = None, []

    def request(self, link, stream, header, body):
        if not is_submission(self.second, header):
            return header, body
        seq, price = submission(self.second, header)
        self.taken += price
        self.dropped.append(seq)
        link.say(stream, encode(self.second, DONE, seq, price, self.balance - self.taken))
        return None

    def answer(self, link, asked, stream, header, body):
        variant, rest = self.second.read_varint(header)
        if variant == BALANCE:
            self.balance = self.second.read_varint(rest)[0]
        return super().answer(link, asked, stream, header, body)

    def statement(self, rest):
        """A line of mail more."""
        (count,), rest = numbers(self.second, rest, 1)
        told = [numbers(self.second, rest, 5)]
        while len(told) < count:
            told.append(numbers(self.second, told[-1][1], 5))
        rest = told[-1][1]
        lines = [line for line, _ in told] + [[told[-1][0][0], MESSAGE, len(self.dropped), 0, self.taken]]
        return encode(self.second, STATEMENT, len(lines)) + b"".join(encode(self.second, *line) for line in lines) + rest


class Watched(Lying):
    """A relay that compares the books each second."""

    make = staticmethod(lambda: Trusting(compare_s=1))

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.w.entry.web}/metrics", timeout=10) as page:
            return page.read().decode()

    def test_false_books_are_noticed_without_anybody_asking(self):
        books = lambda: self.w.peer()["books"]
        wait_until(lambda: books() == "agree", 60, "books that agree")
        self.assertIn("postern_peers_differing 0", self.metrics())
        self.w.liar.lie = Dearer(self.second, 7, in_answer=False)
        self.send(2)
        self.outside()
        wait_until(lambda: books() == "differ by 14", 60, "books that differ")
        self.assertLess(self.w.peer()["compared"], 60)
        self.assertIn("postern_peers_differing 1", self.metrics())
        log = self.w.entry.process.log.read_text()
        self.assertIn("the book of a peer differs", log)
        self.assertEqual(log.count("the book of a peer differs"), 1, "told once")
        self.w.liar.lie = Lie()
        wait_until(lambda: books() == "agree", 60, "books that agree again")
        self.assertIn("postern_peers_differing 0", self.metrics())


class Silent(Lying):
    make = staticmethod(lambda: Trusting())

    def test_what_is_acknowledged_and_dropped_shows_in_no_book_but_by_the_receipt_that_does_not_come(self):
        receipt = f"receipt-{self.token}@out.test"
        # The control: a receipt of what is not dropped.
        self.ask_for_receipt(receipt)
        self.w.a.inbox().wait_for(receipt)
        lie = Swallowing(self.second)
        self.w.liar.lie = lie
        self.w.entry.stop()
        self.w.entry.start()
        wait_until(lambda: self.w.peer()["link"] == "linked" and lie.balance, 60, "a link, and the value told")
        known = len(self.w.a.inbox().refresh())
        dropped = f"dropped-{self.token}@out.test"
        self.ask_for_receipt(dropped)
        self.send()
        wait_until(lambda: len(lie.dropped) == 2, 60, "two messages that were acknowledged and dropped")
        wait_until(lambda: self.w.peer()["waiting"] == 0, 60, "an empty outbox")
        self.w.a.settled()
        time.sleep(5)
        report, is_right = self.w.compare()
        self.assertTrue(is_right, report)
        self.assertEqual(report["rows"][0]["own"], report["rows"][0]["peer"])
        self.assertEqual(report["rows"][0]["own"], self.w.paid() + lie.taken)
        self.assertEqual(self.arrived(), [])
        self.assertEqual(len(self.w.a.inbox().refresh()), known, "nothing is told")

    def ask_for_receipt(self, to):
        with smtplib.SMTP(*split_address(self.w.a.smtp), timeout=60) as client:
            client.login(self.w.a.user, self.w.a.password)
            client.mail(self.w.a.alias)
            client.rcpt(to, ["NOTIFY=SUCCESS"])
            self.assertEqual(client.data(message("me@localhost", to, word()))[0], 250)


if __name__ == "__main__":
    unittest.main()
