"""Three relays, each a keypack's holder at the next: mail goes over links between them, and reports come back.

What one relay takes, the last one delivers or the sender is told, whoever of the three dies meanwhile; and each book agrees.
"""

import json
import os
import random
import re
import signal
import smtplib
import unittest

from clients import deliver, message, split_address, submit
from harness import OUTSIDE, Bridge, Hazard, Relay, Relays, by_extent, full_only, word
from processes import wait_until

NAMES = ("entry", "middle", "far")
#: Who holds a pack where, and for which domains it sends.
PACKS = (
    ("entry", "middle", ["entry.test"]),
    ("middle", "far", ["*"]),
    ("far", "middle", ["far.test"]),
    ("middle", "entry", ["*"]),
)
#: What one message of one recipient costs at each relay: its price, and the kilobyte of its class.
EACH = 10_000 + 100
POINTS = ["segment.write:{}:torn", "segment.sync:{}:before", "segment.sync:{}:after"]


class Chain(Relays):
    """Relays entry, middle, far; a at entry, b at far; only far has a way to the outside."""

    def __init__(self, value=50_000_000, peers=None, before=lambda relay: None, **settings):
        """`before` makes what others find at a relay's address instead of it, if anything: who sits on the line."""
        super().__init__()
        self.value, self.packs = value, {}
        for name in NAMES:
            (self.folder.path / name).mkdir()
            relay = Relay(self.folder.path / name, self.sink, domain=f"{name}.test", **settings)
            relay.routes = {f"{name}.test": relay.mx}
            relay.front = before(relay)
            if relay.front:
                self.proxies.append(relay.front)
                relay.settings["link_public"] = relay.front.address
            if name != "far":
                relay.settings["smarthost"] = None
            self.relays[name] = relay.start()
        self.entry, self.middle, self.far = self.relays.values()
        for holder, issuer, domains in PACKS:
            self.introduce(holder, issuer, domains)
        self.entry.settings["smarthost"] = "peer:middle"
        self.middle.routes["entry.test"] = "peer:entry"
        self.middle.settings["smarthost"] = "peer:far"
        self.far.routes["entry.test"] = "peer:middle"
        for name, relay in self.relays.items():
            relay.peers = (peers or {}).get(name, {})
            relay.stop()
            relay.start()
        for name, expected in (("entry", 1), ("middle", 2), ("far", 1)):
            wait_until(lambda n=name, e=expected: self.linked(n) == e, 60, f"the links of {name}")
        self.a, self.b = self.add("a", self.entry), self.add("b", self.far)
        for bridge in (self.a, self.b):
            wait_until(lambda b=bridge: self.onward(b, "entry.test" if b is self.b else "out.test") == 2, 60, "prices")

    @staticmethod
    def onward(bridge, domain):
        """How many further relays a bridge thinks that mail for a domain is paid at."""
        onward = bridge.status()["onward"]
        return onward["domains"].get(domain, onward["elsewhere"])["relays"]

    def introduce(self, holder, issuer, domains):
        """One relay issues a pack, the other takes it."""
        pack, passphrase = self.folder.path / f"{holder}-{issuer}.pack", self.folder.path / "peer.passphrase"
        passphrase.write_text("open the gate\n")
        words = [word for domain in domains for word in ("--for", domain)]
        done = self.relays[issuer].command(
            "peer", "invite", "--out", pack, "--value", self.value, "--passphrase-file", passphrase, "--json", *words
        )
        self.packs[holder, issuer] = json.loads(done.stdout)["identifier"]
        accepted = self.relays[holder].command("peer", "accept", pack, "--name", issuer, "--passphrase-file", passphrase)
        assert "keys any more" in accepted.stdout, accepted.stdout

    def peers(self, name):
        return json.loads(self.relays[name].command("peer", "list", "--json").stdout)["rows"]

    def linked(self, name):
        return sum(peer["link"] == "linked" for peer in self.peers(name))

    def add(self, name, relay):
        bridge = Bridge(self.folder.path, name, relay.link)
        pack = self.folder.path / f"{name}.pack"
        relay.issue(pack, bridge.passphrase, 5_000, 100_000_000, operator=True)
        bridge.init(pack)
        self.bridges.append(bridge)
        return bridge.start()

    def paid(self, holder, issuer):
        """What the pack that one relay holds at another was debited for mail."""
        return sum(self.debits(issuer, self.packs[holder, issuer]))

    def debits(self, issuer, account):
        """What an account was debited for mail: at its relay, and for those behind it."""
        rows = json.loads(self.relays[issuer].command("statement", "--account", account, "--json").stdout)["rows"]
        return tuple(sum(row["debit"] for row in rows if row["kind"] == kind) for kind in ("message", "onward"))

    def idle(self):
        """Nothing is under way anywhere."""
        return all(
            not relay.queue() and not any(peer["waiting"] for peer in self.peers(name))
            for name, relay in self.relays.items()
        )

    def audit(self):
        """Each book by itself, and those of each pair beside each other."""
        for relay in self.relays.values():
            relay.audit()
        for holder, issuer in self.packs:
            report = json.loads(self.relays[holder].command("peer", "compare", issuer, "--json").stdout)
            mail, verdicts = report["rows"][0], {row["verdict"] for row in report["rows"]}
            assert report["whole"] and verdicts == {"agrees", "told"}, report
            assert mail["own"] == mail["peer"] == self.paid(holder, issuer), report


class Peers(Hazard):
    make = Chain

    def setUp(self):
        self.w, self.token = self.world, word()

    def settle(self):
        wait_until(self.w.idle, 60, "three idle relays")
        self.w.audit()

    def test_mail_goes_out_by_three_relays_and_each_is_paid_for_it(self):
        before = {pair: self.w.paid(*pair) for pair in self.w.packs}
        account = self.w.a.status()["identifier"]
        own, onward = self.w.debits("entry", account)
        earned = self.w.entry.totals()
        submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.token, "over three\r\n"))
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        self.settle()
        [delivery] = self.w.sink.with_word(self.token)
        self.assertEqual(delivery.reverse_path, self.w.a.alias)
        self.assertIn(f"From: {self.w.a.alias}\r\n".encode(), delivery.content)
        self.assertRegex(delivery.content, rb"(?m)^Message-ID: <[a-z0-9]{16}@entry\.test>")
        for trace in (b"middle", b"far.test", b"Received", b"127.0.0.1"):
            self.assertNotIn(trace, delivery.content)
        moved = {pair: self.w.paid(*pair) - before[pair] for pair in self.w.packs}
        expected = {("entry", "middle"): 2 * EACH, ("middle", "far"): EACH}
        self.assertEqual({pair: paid for pair, paid in moved.items() if paid}, expected)
        # The sender has paid all three, and the books of the first say which part is whose.
        self.assertEqual(self.w.debits("entry", account), (own + EACH, onward + 2 * EACH))
        self.assertEqual(self.w.entry.totals()["onward"] - earned["onward"], 2 * EACH)

    def test_the_price_is_known_before_and_each_recipient_pays_its_own_way(self):
        status = self.w.a.status()
        self.assertEqual(status["onward"]["elsewhere"], {"message": 20_000, "kilobyte": 200, "relays": 2})
        self.assertEqual(status["onward"]["domains"]["middle.test"], {"message": 10_000, "kilobyte": 100, "relays": 1})
        self.assertEqual(status["onward"]["domains"]["entry.test"]["relays"], 0)
        self.assertIn("20000 µtok a recipient, 200 µtok each kilobyte", self.w.a.command("status").stdout)
        own, onward = self.w.debits("entry", status["identifier"])
        to = [OUTSIDE, self.w.a.alias]
        submit(self.w.a, to, message("me@localhost", ", ".join(to), self.token, "both\r\n"))
        self.w.a.inbox().wait_for(self.token)
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the copy outside")
        self.settle()
        self.assertEqual(self.w.debits("entry", status["identifier"]), (own + 2 * EACH, onward + 2 * EACH))
        after = self.w.a.settled()
        self.assertEqual(after["reserved"], 0)

    def test_two_people_at_the_ends_talk_in_one_thread(self):
        submit(self.w.a, [self.w.b.alias], message("me@localhost", self.w.b.alias, self.token, "a question\r\n"))
        [asked] = self.w.b.inbox().wait_for(self.token)
        asked_id = re.search(rb"(?mi)^Message-ID: (<\S+>)", asked).group(1).decode()
        self.assertTrue(asked_id.endswith("@entry.test>"), asked_id)
        answer = message("me@localhost", self.w.a.alias, f"Re: {self.token}", "an answer\r\n")
        submit(self.w.b, [self.w.a.alias], b"In-Reply-To: " + asked_id.encode() + b"\r\n" + answer)
        [answered] = self.w.a.inbox().wait_for(f"Re: {self.token}")
        self.assertIn(self.w.b.alias.encode(), answered)
        self.settle()

    def test_a_failure_far_away_is_reported_to_the_sender(self):
        self.w.sink.misbehave("RCPT", "550 5.1.1 no such user", recipient=f"{self.token}@out.test")
        self.addCleanup(self.w.sink.behave)
        to = f"{self.token}@out.test"
        submit(self.w.a, [to], message("me@localhost", to, f"lost {self.token}", "hello\r\n"))
        [report] = self.w.a.inbox().wait_for(to)
        self.assertIn(b"Status: 5.1.1", report)
        self.assertIn(b"Reporting-MTA: dns; far.test", report)
        self.settle()

    def test_the_last_relay_reports_as_the_sender_wants(self):
        self.w.sink.misbehave("RCPT", "550 5.1.1 no such user", recipient="silent-")
        self.addCleanup(self.w.sink.behave)
        receipt, silent, plain = (f"{who}-{self.token}@out.test" for who in ("receipt", "silent", "plain"))
        with smtplib.SMTP(*split_address(self.w.a.smtp), timeout=60) as client:
            client.login(self.w.a.user, self.w.a.password)
            client.mail(self.w.a.alias, ["ENVID=mine"])
            for to, wanted in ((receipt, ["NOTIFY=SUCCESS"]), (silent, ["NOTIFY=NEVER"]), (plain, [])):
                client.rcpt(to, wanted)
            self.assertEqual(client.data(message("me@localhost", OUTSIDE, self.token))[0], 250)
        [report] = self.w.a.inbox().wait_for(receipt)
        wait_until(lambda: len(self.w.sink.with_word(self.token)) == 2, 60, "both messages outside")
        self.settle()
        for telling in (b"Reporting-MTA: dns; far.test", b"Action: relayed", b"Original-Envelope-Id: mine"):
            self.assertIn(telling, report)
        self.assertEqual([self.w.a.inbox().with_word(to) for to in (silent, plain)], [[], []])
        for delivery in self.w.sink.with_word(self.token):
            self.assertFalse(any("NOTIFY" in command or "mine" in command for command in delivery.commands))

    def test_who_may_not_send_for_a_domain_is_refused_and_the_sender_told(self):
        account = self.w.packs["entry", "middle"]
        self.w.middle.command("peer", "forbid", "entry.test", "--account", account)
        self.addCleanup(self.w.middle.command, "peer", "allow", "entry.test", "--account", account)
        to = f"{self.token}@out.test"
        submit(self.w.a, [to], message("me@localhost", to, f"forbidden {self.token}", "hello\r\n"))
        [report] = self.w.a.inbox().wait_for(to)
        self.assertIn(b"Status: 5.7.1", report)
        self.settle()
        self.assertEqual(self.w.sink.with_word(f"forbidden {self.token}"), [])

    def test_the_books_are_compared_without_anybody_asking(self):
        chain = Chain(compare_s=1, tick_ms=200)
        self.addCleanup(chain.close)
        books = lambda: [peer["books"] for name in NAMES for peer in chain.peers(name)]
        for number in range(4):
            submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{self.token}-{number}"))
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 4, 60, "all outside")
        wait_until(lambda: books() == ["agree"] * 4, 60, "four books that agree")
        self.assertFalse(any("differs from what it answered" in log.read_text() for log in chain.logs()))

    def test_nobody_sends_for_the_relays_own_domain(self):
        account = self.w.packs["middle", "far"]
        refused = self.w.far.command("peer", "allow", "far.test", "--account", account, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("own", refused.stderr)

    def test_a_domain_is_spoken_for_by_one_pack(self):
        account = self.w.packs["far", "middle"]
        refused = self.w.middle.command("peer", "allow", "entry.test", "--account", account, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("another one", refused.stderr)

    def test_mail_waits_for_value_and_goes_after_a_top_up(self):
        chain = Chain(value=45_000, retry_s=[1] * 60)
        self.addCleanup(chain.close)
        for number in range(4):
            submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{self.token}-{number}"))
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 2, 60, "two messages outside")
        wait_until(lambda: len(chain.entry.queue()) == 2, 30, "two that wait")
        for holder, issuer in chain.packs:
            chain.relays[issuer].top_up(chain.packs[holder, issuer], 1_000_000)
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 4, 60, "all outside")
        self.assertEqual(chain.paid("entry", "middle"), 4 * 2 * EACH)
        wait_until(chain.idle, 60, "three idle relays")
        chain.audit()

    def test_a_pack_is_renewed_on_credit_until_that_is_used_up_and_again_once_it_is_paid(self):
        renewing = {"renew_below": 60_000, "renew_keys_below": 10_000}
        chain = Chain(value=45_000, retry_s=[1] * 60, tick_ms=200, peers={"entry": {"middle": renewing}})
        self.addCleanup(chain.close)
        account = chain.packs["entry", "middle"]
        row = lambda: next(peer for peer in chain.peers("entry") if peer["name"] == "middle")
        wait_until(lambda: row()["credit"] == 0, 30, "a renewal that nobody has granted")
        chain.middle.command("peer", "credit", "--account", account, "--limit", 100_000)
        wait_until(lambda: row()["balance"] > 100_000 and row()["keys"] > 10_000, 30, "value and keys on credit")
        chain.far.top_up(chain.packs["middle", "far"], 1_000_000)
        for number in range(9):
            submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{self.token}-{number}"))
        # 145,000 µtok pay for seven of the nine.
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 7, 60, "seven messages outside")
        wait_until(lambda: row()["credit"] == 0, 30, "used up")
        self.assertEqual(chain.middle.totals()["owed"], 100_000)
        too_much = chain.middle.command("peer", "paid", "--account", account, "--amount", 100_001, check=False)
        self.assertNotEqual(too_much.returncode, 0)
        chain.middle.command("peer", "paid", "--account", account, "--amount", 100_000)
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 9, 60, "all outside")
        wait_until(chain.idle, 60, "three idle relays")
        self.assertEqual(chain.paid("entry", "middle"), 9 * 2 * EACH)
        chain.audit()

    @full_only
    def test_a_message_dearer_than_the_renewal_draws_its_own_price(self):
        chain = Chain(value=45_000, retry_s=[1] * 60, tick_ms=200, peers={"entry": {"middle": {"renew_below": 1_000}}})
        self.addCleanup(chain.close)
        chain.middle.command("peer", "credit", "--account", chain.packs["entry", "middle"], "--limit", 100_000)
        chain.far.top_up(chain.packs["middle", "far"], 1_000_000)
        for number in range(3):
            submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{self.token}-{number}"))
        # Two leave more than 1,000 µtok, and less than the third costs.
        wait_until(lambda: len(chain.sink.with_word(self.token)) == 3, 60, "all outside")
        wait_until(chain.idle, 60, "three idle relays")
        self.assertEqual(chain.middle.totals()["owed"], 2 * EACH)
        chain.audit()

    @full_only
    def test_what_goes_in_a_circle_is_refused_and_costs_nobody_anything(self):
        chain = Chain(tick_ms=100)
        self.addCleanup(chain.close)
        chain.middle.stop()
        chain.middle.routes["loop.test"] = "peer:entry"
        chain.middle.start()
        wait_until(lambda: chain.onward(chain.a, "loop.test") > 7, 60, "legs of a way that is too long")
        paid = {pair: chain.paid(*pair) for pair in chain.packs}
        submit(chain.a, ["b@loop.test"], message("me@localhost", "b@loop.test", f"{self.token}-round"))
        submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.token))
        [notice] = chain.a.inbox().wait_for(f"{self.token}-round")
        self.assertIn(b"no way to the domain", notice)
        wait_until(lambda: chain.sink.with_word(self.token), 60, "the next one outside")
        wait_until(chain.idle, 60, "three idle relays")
        moved = {pair: chain.paid(*pair) - paid[pair] for pair in chain.packs}
        expected = {("entry", "middle"): 2 * EACH, ("middle", "far"): EACH}
        self.assertEqual(moved, {pair: expected.get(pair, 0) for pair in chain.packs})
        chain.audit()

    def test_a_relay_that_is_down_keeps_nothing_from_arriving_later(self):
        self.w.middle.stop()
        subjects = [f"{self.token}-{number}" for number in range(3)]
        for subject in subjects:
            submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, subject))
        wait_until(lambda: self.w.a.settled()["outbox"] == 0, 30, "an empty outbox")
        self.assertEqual(self.w.sink.with_word(self.token), [])
        self.w.middle.start()
        self.w.entry.command("queue", "retry", "all")
        wait_until(lambda: len(self.w.sink.with_word(self.token)) == 3, 90, "three messages outside")
        self.settle()


class Unnamed(Hazard):
    """A peer's name is taken out of the routes while mail waits with it."""

    make = Chain

    def test_what_was_handed_over_is_seen_through_and_nothing_new_goes_there(self):
        chain, token = self.world, word()
        # It stands still: what it is given is not answered.
        os.kill(chain.middle.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, chain.middle.pid, signal.SIGCONT)
        for number in range(3):
            submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{token}-{number}"))
        wait_until(lambda: chain.peers("entry")[0]["waiting"] == 3, 60, "three messages handed over")
        self.assertEqual(chain.sink.with_word(token), [])
        chain.entry.kill()
        chain.entry.settings["smarthost"] = chain.sink.address
        chain.entry.start()
        os.kill(chain.middle.pid, signal.SIGCONT)
        wait_until(lambda: len(chain.sink.with_word(token)) == 3, 120, "three messages outside")
        paid = chain.paid("entry", "middle")
        submit(chain.a, [OUTSIDE], message("me@localhost", OUTSIDE, f"{token}-another"))
        wait_until(lambda: len(chain.sink.with_word(token)) == 4, 60, "one by the new route")
        wait_until(chain.idle, 60, "three idle relays")
        self.assertEqual((len(chain.sink.with_word(token)), chain.paid("entry", "middle")), (4, paid))
        chain.audit()
        # With nothing left there it is not linked with any more.
        chain.entry.stop()
        chain.entry.start()
        self.assertEqual(chain.peers("entry"), [])
        self.assertIn("they are seen through", chain.entry.process.log.read_text())


class Deaths(Hazard):
    """Each of the relays is killed again and again while mail goes through."""

    make = staticmethod(lambda: Chain(retry_s=[1] * 60))

    def test_whoever_is_killed_each_message_arrives_once(self):
        count = by_extent(48, 480)
        for number in range(count):
            self.send()
            if number % 4 == 3:
                relay = self.world.relays[NAMES[number // 4 % 3]]
                relay.process.stop(signal.SIGKILL)
                relay.start()
        self.judge()

    def test_a_kill_at_each_named_disk_operation_loses_and_doubles_nothing(self):
        draw = random.Random()
        for name in NAMES:
            for point in POINTS:
                for number in by_extent([draw.randrange(3, 16)], range(1, 32)):
                    self.die_at(self.world.relays[name], point.format(number))
        self.judge()

    def setUp(self):
        self.token, self.sent = word(), []
        self.before = self.paid()

    def paid(self):
        return self.world.paid("entry", "middle"), self.world.paid("middle", "far")

    def send(self):
        self.sent.append(f"{self.token}-{len(self.sent):04}")
        submit(self.world.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.sent[-1]))

    def die_at(self, relay, point):
        """Runs a relay under load until it dies at an operation of either of its stores, and starts it again."""
        relay.stop()
        relay.start("--kill-at", point, wait=False)

        def is_dead():
            if relay.process.running:
                self.send()
            return not relay.process.running

        wait_until(is_dead, 60, f"the end at {point}")
        self.assertEqual(relay.process.wait(), -9)
        relay.start()

    def judge(self):
        world = self.world
        world.a.settled(120)
        outside = world.sink.with_word
        wait_until(lambda: all(outside(name) for name in self.sent), 180, "all messages outside")
        wait_until(world.idle, 90, "three idle relays")
        world.audit()
        for name in self.sent:
            # SMTP's own case, a death of the last relay between final dot and record, is byte-identical. A second delivery
            # of any other cause would have another date or be paid for again.
            self.assertEqual(len({delivery.content for delivery in outside(name)}), 1, name)
        paid = tuple(now - before for now, before in zip(self.paid(), self.before, strict=True))
        self.assertEqual(paid, (len(self.sent) * 2 * EACH, len(self.sent) * EACH))


if __name__ == "__main__":
    unittest.main()
