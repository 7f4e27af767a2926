"""Mail in every direction while something breaks, a note of every acknowledgement, and the judgement afterwards."""

import imaplib
import re
import smtplib
import threading
import time
from collections import Counter

import figures
from clients import Inbox, deliver, login, message, split_address
from harness import BINARIES, OUTSIDE, Hazard, word
from processes import run, wait_for_port, wait_until

# A message costs more than all link keys that a test can use up together, so that one message too many or too few in
# the books cannot hide among them.
PRICES = {"message": 10_000_000}
# What a pack is worth here: the load of a long form would use an ordinary one up, and then nothing is sent any more.
VALUE = 10**13
KEYS = 200_000
# Text lengths that lie well inside a size class, by kilobytes of that class.
TEXTS = {1: 100, 8: 6_500, 32: 24_000}
# Deliveries that a relay has under way at one time: as many can be between the final dot and the record of its answer.
DELIVERIES_AT_ONCE = 20
# The relay's process was killed at most so long after the final dot of a delivery that it then repeats.
DOT_TO_RECORD_S = 2.0


class Traffic:
    """Submissions by every holder and mail from outside for every holder, without end, and the notes of them."""

    def __init__(self, world, holders=None, sizes=tuple(TEXTS), pause=0.02, links=0):
        self.world = world
        self.sent, self.received = [], {}
        self.links_accepted = self.links_opened = 0
        self._sizes, self._pause, self._going = sizes, pause, threading.Event()
        self._lock = threading.Lock()
        self._count = 0
        ways = []
        for holder in holders or world.bridges:
            self.received[holder.name] = []
            ways += [lambda holder=holder: self._send(holder), lambda holder=holder: self._receive(holder)]
        if links:
            ways.append(lambda: self._load_links(links))
        self._ways, self._threads = ways, []

    def __enter__(self):
        """Begins, or goes on after a pause."""
        self._going.set()
        self._threads = [threading.Thread(target=self._keep, args=(way,), daemon=True) for way in self._ways]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._going.clear()
        for thread in self._threads:
            thread.join(130)

    @property
    def acknowledged(self):
        """How many messages were acknowledged in either direction."""
        return len(self.sent) + sum(map(len, self.received.values())) + self.links_accepted

    def _keep(self, way):
        while self._going.is_set():
            try:
                way()
            except (OSError, smtplib.SMTPException):
                time.sleep(0.05)
            time.sleep(self._pause)

    def _text(self):
        with self._lock:
            self._count += 1
            kilobytes = self._sizes[self._count % len(self._sizes)]
        return kilobytes, ("x" * 70 + "\r\n") * (TEXTS[kilobytes] // 72)

    def _send(self, holder):
        """The size class is part of the subject, so that the sink's copy says what it must have cost."""
        kilobytes, text = self._text()
        token = word(f"out{kilobytes}k")
        with smtplib.SMTP(*split_address(holder.smtp), timeout=120) as client:
            client.login(holder.user, holder.password)
            client.sendmail(holder.alias, [OUTSIDE], message(holder.alias, OUTSIDE, token, text))
            # Within the session: whatever becomes of its end, this was acknowledged.
            self.sent.append(token)

    def _receive(self, holder):
        _, text = self._text()
        token = word("in")
        with smtplib.SMTP(*split_address(self.world.relay.mx), timeout=120) as client:
            client.sendmail(OUTSIDE, [holder.alias], message(OUTSIDE, holder.alias, token, text))
            self.received[holder.name].append(token)

    def _load_links(self, sessions):
        """Many links at one time, from processes whose packs end with them."""
        self.links_opened += sessions
        count = sessions * 20
        command = ["--relay", self.world.relay.link, "--data", self.world.relay.data, "--sessions", sessions]
        done = run(BINARIES / "linkload", *command, "--count", count, "--recipient", "load@out.test", check=False)
        if done.returncode == 0:
            self.links_accepted += count
        else:
            raise OSError("the links were cut")


class Judged(Hazard):
    """A system that is broken under load.

    `breaks` are the moments at which the relay's process died; they belong to the world, as what its sink keeps does.
    """

    @staticmethod
    def make():
        raise NotImplementedError

    def setUp(self):
        self.relay, self.sink = self.world.relay, self.world.sink
        self.breaks = self.world.__dict__.setdefault("breaks", [])

    def judge(self, *traffics):
        """Everything acknowledged is there once, and everything that was taken is paid once."""
        self.world.links_opened = getattr(self.world, "links_opened", 0)
        self.world.links_opened += sum(traffic.links_opened for traffic in traffics)
        self.world.relink()
        try:
            statuses = wait_until(self._settled, 180, "empty outboxes, an empty queue and no deposit left")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._left()}") from error
        for traffic in traffics:
            self.assertGreater(len(traffic.sent), 0)
            self.assertTrue(all(traffic.received.values()))
        self._judge_outside(traffics)
        self._judge_inboxes(traffics)
        self._judge_money(traffics, statuses)
        for log in self.world.logs():
            self.assertNotIn(b"panicked", log.read_bytes(), log.name)

    def _settled(self):
        """The holders' statuses once nothing is on its way any more, and all books agree on what they cost."""
        statuses = [bridge.settled(120) for bridge in self.world.bridges]
        totals = self.relay.totals()
        # A link that was made in between is in one of the two only. Loads keep no account of theirs.
        of_others = totals["debits"] - sum(status["debits"] for status in statuses)
        if totals["queued"] or totals["deposits"] or (of_others and not self.world.links_opened):
            return None
        return statuses

    def _left(self):
        """What is still on its way, for a person."""
        told = ["linked", "frozen", "rerooting", "root", "keys", "outbox", "balance", "warnings"]
        bridges = {bridge.name: bridge.status() for bridge in self.world.bridges}
        return {
            "totals": self.relay.totals(),
            "queue": self.relay.queue()[:5],
            "bridges": {name: {word: status.get(word) for word in told} for name, status in bridges.items()},
        }

    def _judge_outside(self, traffics):
        """Every acknowledged message is outside; twice only where the relay died after the dot, and the same octets."""
        outside = {}
        for delivery in list(self.sink.offered):
            outside.setdefault(subject_of(delivery.content), []).append(delivery)
        loads = outside.pop("load", [])
        lost = [token for traffic in traffics for token in traffic.sent if token not in outside]
        self.assertEqual(lost, [], f"{len(lost)} acknowledged submissions did not get out")
        by_content = {}
        for delivery in loads:
            by_content.setdefault(delivery.content, []).append(delivery)
        self.assertGreaterEqual(len(by_content), sum(traffic.links_accepted for traffic in traffics))
        excused = Counter()
        for deliveries in [*outside.values(), *by_content.values()]:
            self.assertEqual(len({delivery.content for delivery in deliveries}), 1, "duplicates differ")
            for delivery in deliveries[:-1]:
                excuse = [at for at in self.breaks if -0.5 < at - delivery.at < DOT_TO_RECORD_S]
                if delivery.answered:
                    self.assertTrue(excuse, f"no break at the final dot of a duplicate: {self._story(deliveries)}")
                    excused[min(excuse, key=lambda at: abs(at - delivery.at))] += 1
        self.assertLessEqual(max(excused.values(), default=0), DELIVERIES_AT_ONCE)

    def _story(self, deliveries):
        """When these copies came, and the breaks about them, in seconds from the first."""
        first = deliveries[0].at
        copies = [f"{delivery.at - first:.2f}" for delivery in deliveries]
        breaks = [f"{at - first:.2f}" for at in self.breaks if abs(at - first) < 60]
        return f"copies at {copies}, breaks at {breaks}"

    def _judge_inboxes(self, traffics):
        """Every acknowledged message is in INBOX, and none twice, acknowledged or not."""
        inboxes = self.world.__dict__.setdefault("inboxes", {})
        for bridge in self.world.bridges:
            inbox = inboxes.setdefault(bridge.name, Inbox(bridge))
            there = Counter(map(subject_of, inbox.refresh().values()))
            twice = {token: times for token, times in there.items() if token.startswith("in") and times > 1}
            lost = [token for traffic in traffics for token in traffic.received.get(bridge.name, []) if token not in there]
            self.assertEqual(lost, [], f"{len(lost)} acknowledged deliveries are not in INBOX of {bridge.name}")
            self.assertEqual(twice, {})

    def _judge_money(self, traffics, statuses):
        """What is outside is paid, each once, and nothing else but link keys is."""
        prices, totals = self.relay.prices, self.relay.audit()["totals"]
        self.assertEqual(totals["credits"] - totals["debits"], totals["balances"])
        contents = {delivery.content for delivery in self.sink.delivered}
        classes = Counter(match and int(match[1]) for match in map(CLASS.search, contents))
        of_loads = classes.pop(None, 0)
        of_holders = sum(times * figures.price(prices, kilobytes) for kilobytes, times in classes.items())
        debited = sum(status["debits"] for status in statuses)
        keys = sum(bridge.keys - status["keys"] for bridge, status in zip(self.world.bridges, statuses))
        self.judge_keys(debited - of_holders, keys, "the holders' messages are not debited once each")
        of_loads *= figures.price(prices, figures.class_of(LOAD_TEXT))
        others = self.world.links_opened and self.world.links_opened + len(self.world.bridges)
        self.judge_keys(totals["debits"] - debited - of_loads, others, "a load is not debited once")

    def judge_keys(self, rest, keys, what):
        """The rest of a debit is what at most so many keys cost."""
        price = self.relay.prices["key"]
        self.assertEqual(rest % price, 0, what)
        self.assertTrue(0 <= rest // price <= keys, f"{what}: {rest} µtok are not the price of 0 to {keys} keys")


CLASS = re.compile(rb"Subject: out(\d+)k")
# Text that linkload submits, with its header.
LOAD_TEXT = 4_300


def subject_of(content):
    """The subject of a message, which is its token."""
    return content.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()


def first_served(relay, alias, seconds=60):
    """Waits until the relay's MX has taken a message; returns the token of that message."""
    token = word("in")

    def taken():
        try:
            deliver(relay.mx, OUTSIDE, alias, message(OUTSIDE, alias, token))
            return True
        except (OSError, smtplib.SMTPException):
            return False

    wait_until(taken, seconds, "a message taken by the relay")
    return token


def first_read(bridge, seconds=60):
    """Waits until the bridge lets a mail program select INBOX."""

    def selected():
        try:
            session = login(bridge)
            try:
                return session.select("INBOX", readonly=True)[0] == "OK"
            finally:
                session.logout()
        except (OSError, imaplib.IMAP4.error):
            return False

    wait_until(selected, seconds, f"INBOX of {bridge.name}")


def start_and_serve(victim, alias):
    """Starts a relay or bridge again; returns the seconds until it served its first request, and a token if one was."""
    started = time.monotonic()
    victim.start(wait=False)
    wait_for_port(victim.process, victim.mx if victim.name == "relay" else victim.imap)
    token = first_served(victim, alias) if victim.name == "relay" else first_read(victim)
    return time.monotonic() - started, token


def spread(seconds):
    """Median and largest of some waits, for a person."""
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s, of {len(ordered)}"
