"""A route with two peers: mail goes by the first that works, and each message once, whoever lies, dies or is cut off.

What was handed over to the first and never left goes by the second by itself; what may have left goes nowhere else.
"""

import json
import random
import re
import signal
import threading
import time
import unittest
import urllib.request

from clients import message, submit
from harness import OUTSIDE, Hazard, Relay, Relays, by_extent, second_implementation, word
from liar import REFUSED, Liar, Lie, encode, is_submission, submission
from lying import Dearer
from peers import EACH, Chain
from processes import wait_until
from proxy import Proxy

#: The second way is the dearer one.
DEARER = {"message": 12_000, "kilobyte": 90}
EACH_BY_B = 12_000 + 90
PASSPHRASE = "open the gate"
#: Seconds without a link after which a peer is passed over.
PATIENCE = 4
#: Messages that are under way to a peer at one time.
STREAMED = 64
REFUSAL_ENDED = 22


class Fork(Chain):
    """Relays entry, a and b; all ways of entry go by a, and by b where that does not work. Both deliver outside."""

    def __init__(self, front=Proxy, next_way_s=PATIENCE, **settings):
        Relays.__init__(self)
        self.packs, self.known = {}, {}
        for name in ("entry", "a", "b"):
            (self.folder.path / name).mkdir()
            prices = DEARER if name == "b" else {}
            relay = Relay(self.folder.path / name, self.sink, domain=f"{name}.test", prices=prices, **settings)
            # The reports of the last relays come back by SMTP.
            relay.routes = {f"{name}.test": relay.mx, "entry.test": relay.mx}
            self.relays[name] = relay
        self.entry, self.by_a, self.by_b = self.relays.values()
        for relay in (self.by_a, self.by_b):
            relay.routes["entry.test"] = self.entry.mx
        self.entry.settings |= {"smarthost": None, "next_way_s": next_way_s}
        self.front = front(self.by_a.link)
        self.by_a.settings["link_public"] = self.front.address
        for relay in self.relays.values():
            relay.start()
        for name in ("a", "b"):
            self.invite(name)
        self.entry.stop()
        self.entry.settings["smarthost"] = ["peer:a", "peer:b"]
        self.entry.start()
        wait_until(lambda: self.linked("entry") == 2, 60, "links to both")
        self.user = self.add("user", self.entry)
        wait_until(lambda: self.elsewhere()["message"] == 12_000, 60, "prices")

    def invite(self, name):
        """The relay issues a pack for entry, which takes it; who stands before the relay takes it over."""
        pack, passphrase = self.folder.path / f"{name}.peer", self.folder.path / "peer.passphrase"
        passphrase.write_text(PASSPHRASE + "\n")
        words = ["--value", 50_000_000, "--passphrase-file", passphrase, "--for", "entry.test", "--json"]
        issued = self.relays[name].command("peer", "invite", "--out", pack, *words)
        self.packs["entry", name] = json.loads(issued.stdout)["identifier"]
        if name == "a" and isinstance(self.front, Liar):
            self.front.adopt(pack, PASSPHRASE.encode())
        self.entry.command("peer", "accept", pack, "--name", name, "--passphrase-file", passphrase)

    def close(self):
        super().close()
        self.front.stop()

    def elsewhere(self):
        return self.user.status()["onward"]["elsewhere"]

    def row(self, name):
        return next(row for row in self.peers("entry") if row["name"] == name)

    def shares(self):
        """How many messages each of the two was paid for; of one that is dead, what it was known to be paid for."""
        for name, each in (("a", EACH), ("b", EACH_BY_B)):
            if self.relays[name].process.running:
                paid = self.paid("entry", name)
                assert paid % each == 0, (name, paid)
                self.known[name] = paid // each
        return self.known["a"], self.known["b"]


class OnFork(Hazard):
    def setUp(self):
        self.begin(self.world)

    def begin(self, fork):
        self.w, self.token, self.sent = fork, word(), []
        self.before = fork.shares()

    def anew(self):
        """A fork for this test alone."""
        fork = type(self).make()
        self.addCleanup(fork.close)
        self.begin(fork)

    def send(self, count=1):
        for _ in range(count):
            self.sent.append(f"{self.token}-{len(self.sent):04}")
            submit(self.w.user, [OUTSIDE], message("me@localhost", OUTSIDE, self.sent[-1]))

    def arrived(self):
        return [name for name in self.sent if self.w.sink.with_word(name)]

    def outside(self, seconds=120):
        wait_until(lambda: self.arrived() == self.sent, seconds, "all messages outside")

    def moved(self):
        return tuple(now - before for now, before in zip(self.w.shares(), self.before, strict=True))

    def judge(self, moved=None, names=("a", "b")):
        """Each arrived once and was paid for once, by these ways, and the books agree."""
        self.outside()
        wait_until(lambda: not self.w.entry.queue(), 120, "an empty queue")
        for name in self.sent:
            self.assertEqual(len({delivery.content for delivery in self.w.sink.with_word(name)}), 1, name)
        by_a, by_b = self.moved()
        self.assertEqual(by_a + by_b, len(self.sent))
        if moved:
            self.assertEqual((by_a, by_b), moved)
        for relay in self.w.relays.values():
            if relay.process.running:
                relay.audit()
        for name in names:
            report = json.loads(self.w.entry.command("peer", "compare", name, "--json").stdout)
            self.assertEqual({row["verdict"] for row in report["rows"]}, {"agrees", "told"}, report)


class Ways(OnFork):
    make = staticmethod(lambda: Fork(retry_s=[1] * 900, tick_ms=200))

    def test_mail_goes_by_the_first_way_and_its_sender_pays_for_the_dearest(self):
        self.assertEqual(self.w.elsewhere(), {"message": 12_000, "kilobyte": 100, "relays": 1})
        self.send(2)
        self.judge((2, 0))

    def test_mail_waits_a_while_for_a_peer_that_is_cut_off_and_then_goes_by_the_next(self):
        self.w.front.partition()
        wait_until(lambda: self.w.row("a")["link"] != "linked", 30, "the end of the link")
        self.send(3)
        self.judge((0, 3), names=["b"])
        self.w.front.heal()
        wait_until(lambda: self.w.row("a")["link"] == "linked", 120, "a link to the first")
        self.send()
        self.judge((1, 3))

    def test_a_peer_without_value_is_passed_over_at_once(self):
        self.anew()
        # However dear it becomes.
        self.w.entry.stop()
        self.w.entry.peers["a"] = {"price_times_max": 0}
        self.w.entry.start()
        wait_until(lambda: self.w.linked("entry") == 2, 60, "links to both")
        self.w.by_a.stop()
        self.w.by_a.prices["message"] = 60_000_000
        self.w.by_a.start()
        wait_until(lambda: self.w.elsewhere()["message"] == 60_000_000, 60, "a price that the pack does not cover")
        self.send()
        self.judge((0, 1))

    def test_nothing_is_paid_beyond_the_bound_on_a_rise_of_prices_until_the_operator_accepts_it(self):
        self.anew()
        self.send()
        self.judge((1, 0))
        # What leaves at the old prices meets the new ones.
        self.w.front.swallow("up")
        self.send(2)
        wait_until(lambda: self.w.row("a")["waiting"] == 2, 30, "two on their way")
        self.w.by_a.stop()
        self.w.by_a.prices["message"] = 5 * 10_000
        self.w.by_a.start()
        self.w.front.cut()
        self.w.front.heal()
        wait_until(lambda: self.w.row("a")["dear"], 120, "the list that says it")
        self.send()
        self.judge((1, 3))
        with urllib.request.urlopen(f"http://{self.w.entry.web}/metrics", timeout=10) as page:
            self.assertIn("postern_peers_too_dear 1", page.read().decode())
        told = re.compile("prices of a peer rose too far.*peer=\"?a")
        wait_until(lambda: told.search(self.w.entry.process.log.read_text()), 60, "the error in the log")
        wait_until(lambda: self.w.elsewhere()["message"] == 12_000, 60, "the price of the other way")
        # A restart changes nothing of it.
        self.w.entry.stop()
        self.w.entry.start()
        wait_until(lambda: self.w.linked("entry") == 2, 60, "links to both")
        self.assertTrue(self.w.row("a")["dear"])
        self.assertIn("used again", self.w.entry.command("peer", "resume", "a").stdout)
        self.assertFalse(self.w.row("a")["dear"])
        wait_until(lambda: self.w.elsewhere()["message"] == 50_000, 60, "the price that was accepted")
        paid = self.w.paid("entry", "a")
        self.send()
        self.outside()
        self.assertEqual(self.w.paid("entry", "a") - paid, 50_100)

    def test_what_a_pack_that_does_not_open_may_have_waits_though_one_way_is_left(self):
        self.anew()
        self.w.front.swallow("up")
        self.send(2)
        wait_until(lambda: self.w.row("a")["waiting"] == 2, 30, "two on their way")
        self.w.entry.process.stop(signal.SIGKILL)
        secret, away = self.w.entry.data / "peers" / "a.passphrase", self.w.folder.path / "away"
        secret.rename(away)
        self.w.entry.settings["smarthost"] = "peer:b"
        self.w.entry.start()
        self.w.front.cut()
        self.w.front.heal()
        self.send()
        wait_until(self.arrived, 120, "what came later")
        time.sleep(3)
        self.assertEqual(self.arrived(), self.sent[2:], "some tries later")
        self.w.entry.stop()
        away.rename(secret)
        self.w.entry.start()
        self.judge((2, 1), names=["b"])

    def test_what_waits_for_a_dead_peer_goes_by_the_next_though_the_sender_dies_too(self):
        self.anew()
        self.send(2)
        self.judge((2, 0))
        self.w.by_a.stop()
        wait_until(lambda: self.w.row("a")["link"] != "linked", 60, "the end of the link")
        for _ in range(by_extent(3, 10)):
            self.send(2)
            self.w.user.settled()
            self.w.entry.process.stop(signal.SIGKILL)
            self.w.entry.start()
            wait_until(lambda: self.w.row("b")["link"] == "linked", 60, "a link to the second")
        self.judge((2, len(self.sent) - 2), names=["b"])


class Late(Dearer):
    """Says nothing to mail until it is let, and then that it took too much."""

    def __init__(self, second, beyond):
        super().__init__(second, beyond)
        self.gate = threading.Event()

    def answer(self, link, asked, stream, header, body):
        if is_submission(self.second, asked):
            self.gate.wait(300)
        return super().answer(link, asked, stream, header, body)


class Overcharged(OnFork):
    """The first is a relay that lies."""

    make = staticmethod(lambda: Fork(front=Liar, retry_s=[1] * 900, tick_ms=200))

    def test_what_waits_with_a_peer_that_takes_too_much_goes_by_the_next(self):
        self.w.front.lie = late = Late(second_implementation(), 1)
        count = STREAMED + 12
        self.send(count)
        wait_until(lambda: self.w.row("a")["waiting"] == count, 120, "all in the outbox")
        self.assertEqual(len(self.w.entry.queue()), count, "they stay in the spool until they are answered")
        late.gate.set()
        wait_until(lambda: self.w.row("a")["beyond"] == 1, 60, "the list that says it")
        self.outside(180)
        by_a, by_b = self.moved()
        self.assertGreaterEqual(by_b, 12, f"{by_a} by the first")
        self.send(2)
        self.judge((by_a, by_b + 2), names=["b"])


class Ended(Lie):
    """Takes no mail: the pack has ended, it says."""

    def __init__(self, second):
        self.second = second

    def request(self, link, stream, header, body):
        if not is_submission(self.second, header):
            return header, body
        seq, _ = submission(self.second, header)
        link.say(stream, encode(self.second, REFUSED, seq, REFUSAL_ENDED))
        return None


class Refused(OnFork):
    """The first is a relay whose pack is of no more use."""

    make = staticmethod(lambda: Fork(front=Liar, retry_s=[1] * 900, tick_ms=200))

    def test_what_is_refused_for_the_pack_goes_by_the_next_way(self):
        self.w.front.lie = Ended(second_implementation())
        self.send(5)
        self.judge((0, 5), names=["b"])
        self.assertEqual(self.w.row("a")["waiting"], 0)
        self.assertRegex(self.w.entry.process.log.read_text(), "a peer is passed over.*peer=\"?a")


class Deaths(OnFork):
    """The first way comes and goes, and the relay that chooses is killed again and again."""

    make = staticmethod(lambda: Fork(retry_s=[1] * 900, tick_ms=200, next_way_s=1))

    def test_each_message_arrives_once_whatever_dies_and_whichever_way_it_goes(self):
        draw = random.Random()
        deeds = [self.entry_dies, self.entry_dies, self.first_dies, self.first_comes, self.cut, self.heal]
        for _ in range(by_extent(16, 160)):
            self.send(draw.randrange(1, 4))
            draw.choice(deeds)()
            time.sleep(draw.uniform(0, 1.5))
        # However they fell: some by the second, and some by the first.
        self.cut()
        self.send(3)
        wait_until(lambda: self.moved()[1] > 0, 60, "mail by the second")
        self.first_comes()
        self.heal()
        self.judge()

    def entry_dies(self):
        self.w.entry.process.stop(signal.SIGKILL)
        self.w.entry.start()

    def first_dies(self):
        if self.w.by_a.process.running:
            self.w.by_a.process.stop(signal.SIGKILL)

    def first_comes(self):
        if not self.w.by_a.process.running:
            self.w.by_a.start()

    def cut(self):
        self.w.front.partition()

    def heal(self):
        self.w.front.heal()


if __name__ == "__main__":
    unittest.main()
