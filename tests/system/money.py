"""Money to the micro-token: credits less debits is the balance, at the holder, at the operator and in the audit alike.

A prepaid service that loses a µtok in a crash, or debits a retry twice, has no ledger but a rumour.
"""

import random
import re
import smtplib
import time

import figures
from clients import Inbox, deliver, message, refusal_of, smtp_talk, submit
from harness import OUTSIDE, Hazard, World, by_extent, in_background, word
from processes import wait_until
from proxy import DOWN

BODY = {1: 100, 4: 2_800, 8: 6_500, 16: 12_000, 32: 24_000, 128: 100_000}


def text_of(kilobytes):
    """A text whose rebuilt message lies well inside this size class."""
    return ("x" * 70 + "\r\n") * (BODY[kilobytes] // 72)


class Money(Hazard):
    def setUp(self):
        self.relay, self.sink, self.a, self.b = self.world.relay, self.world.sink, self.world.a, self.world.b

    def books_agree(self):
        """Compares every view of the money; returns the operator's totals."""

        def agree():
            statuses = [bridge.settled() for bridge in self.world.bridges]
            totals = self.relay.totals()
            return totals["balances"] == sum(status["balance"] for status in statuses) and (totals, statuses)

        totals, statuses = wait_until(agree, 60, "agreement of holders and relay")
        audited = self.relay.audit()["totals"]
        for bridge, status in zip(self.world.bridges, statuses):
            self.assertEqual(status["credits"] - status["debits"], status["balance"])
            services = bridge.statement()
            for side in ("credit", "debit"):
                self.assertEqual(sum(row[side] for row in services), status[side + "s"], side)
        self.assertEqual(totals["credits"] - totals["debits"], totals["balances"])
        self.assertEqual(totals["debits"], totals["revenue"])
        for name in ("credits", "debits"):
            self.assertEqual(totals[name], sum(status[name] for status in statuses))
        for name in ("credits", "debits", "balances", "revenue"):
            self.assertEqual(audited[name], totals[name])
        return totals

    def spent_by(self, holder, action):
        """µtok that `action` debits, less what link keys cost meanwhile."""
        before = holder.settled()
        action()
        after = holder.settled()
        keys = before["keys"] - after["keys"]
        return after["debits"] - before["debits"] - keys * self.relay.prices["key"]


class Prices(Money):
    def test_a_message_costs_its_price_and_its_class(self):
        for kilobytes in BODY:
            with self.subTest(kilobytes=kilobytes):
                content = message(self.a.alias, OUTSIDE, word(), text_of(kilobytes))
                spent = self.spent_by(self.a, lambda: submit(self.a, OUTSIDE, content))
                self.assertEqual(spent, figures.price(self.relay.prices, kilobytes))

    def test_every_recipient_costs_alike(self):
        for count in (1, 2, 7):
            with self.subTest(recipients=count):
                content = message(self.a.alias, OUTSIDE, word(), text_of(4))
                recipients = [f"r{number}@out.test" for number in range(count)]
                spent = self.spent_by(self.a, lambda: submit(self.a, recipients, content))
                self.assertEqual(spent, figures.price(self.relay.prices, 4, count))

    def test_mail_that_comes_in_costs_nothing_by_default(self):
        def receive():
            token = word()
            deliver(self.relay.mx, OUTSIDE, self.a.alias, message(OUTSIDE, self.a.alias, token))
            Inbox(self.a).wait_for(token)

        self.assertEqual(self.spent_by(self.a, receive), 0)

    def test_a_refused_message_costs_nothing(self):
        def be_refused():
            content = message("someone@else.test", OUTSIDE, word())
            refusal_of(lambda: submit(self.a, OUTSIDE, content, sender="someone@else.test"))

        self.assertEqual(self.spent_by(self.a, be_refused), 0)

    def test_a_delivery_that_is_tried_again_is_paid_once(self):
        self.sink.misbehave("DOT", "451 4.3.0 later", times=3)
        token = word()
        content = message(self.a.alias, OUTSIDE, token)
        spent = self.spent_by(self.a, lambda: submit(self.a, OUTSIDE, content))
        wait_until(lambda: self.sink.with_word(token), 60, "the last try")
        self.assertEqual(spent, figures.price(self.relay.prices, 1))

    def test_an_answer_that_was_lost_is_not_paid_again(self):
        token = word()
        content = message(self.a.alias, OUTSIDE, token)

        def lose_the_answer():
            self.world.proxy.swallow(DOWN)
            submit(self.a, OUTSIDE, content)
            wait_until(lambda: self.sink.with_word(token), 30, "the message outside")
            self.world.proxy.cut()
            self.world.proxy.heal()

        spent = self.spent_by(self.a, lose_the_answer)
        self.assertEqual(spent, figures.price(self.relay.prices, 1))
        time.sleep(2)
        self.assertEqual(len(self.sink.with_word(token)), 1)

    def test_a_failed_delivery_is_told_to_its_sender(self):
        self.sink.misbehave("RCPT", "550 5.1.1 no such user", recipient="gone@")
        self.addCleanup(self.sink.behave)
        token = word()
        submit(self.a, "gone@out.test", message(self.a.alias, "gone@out.test", token))
        report = Inbox(self.a).wait_for("gone@out.test")[0]
        self.assertIn(b"multipart/report", report)
        self.assertIn(b"delivery-status", report)
        self.assertRegex(report, rb"(?mi)^Status: 5\.1\.1")
        self.assertRegex(report, rb"(?mi)^Action: failed")
        self.books_agree()


class Shortage(Money):
    """A holder with little value."""

    def poor(self, name, messages):
        """A new holder whose value is enough for so many messages of class 4 and the keys meanwhile."""
        value = messages * figures.price(self.relay.prices, 4) + 40 * self.relay.prices["key"]
        bridge = self.world.add(name, 200, value)
        bridge.identifier = bridge.settled()["identifier"]
        return bridge

    def submit_class_4(self, holder, token):
        submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token, text_of(4)))

    def refused_for_value(self, holder, kilobytes):
        """The µtok that a refusal of a message of this class names as missing."""
        content = message(holder.alias, OUTSIDE, word(), text_of(kilobytes))
        code, text = refusal_of(lambda: submit(holder, OUTSIDE, content))
        self.assertEqual((code, text[:5]), (552, "5.2.2"))
        return int(re.search(r"(\d+) utok", text).group(1))

    def test_too_little_value_is_refused_with_the_shortfall_to_the_micro_token(self):
        poor = self.poor("poor", 2)
        shortfall = self.refused_for_value(poor, 128)
        self.assertEqual(shortfall, figures.price(self.relay.prices, 128) - poor.settled()["balance"])
        self.relay.top_up(poor.identifier, shortfall - 1)
        wait_until(lambda: self.refused_for_value(poor, 128) == 1, 30, "a shortfall of 1 µtok")
        self.relay.top_up(poor.identifier, 1)
        self.goes_after_the_top_up(poor, 128)
        self.assertEqual(poor.settled()["balance"], 0)

    def test_no_value_at_all_is_refused_before_the_data(self):
        poor = self.poor("empty", 1)
        self.submit_class_4(poor, word())
        poor.settled()
        with smtp_talk(poor.smtp, poor) as talk:
            code, text = talk.command(f"MAIL FROM:<{poor.alias}>")
            self.assertEqual((code, text[4:9]), (552, "5.2.2"))
        self.relay.top_up(poor.identifier, figures.price(self.relay.prices, 4))
        self.goes_after_the_top_up(poor, 4)

    def goes_after_the_top_up(self, holder, kilobytes):
        """A client that tries again gets its message out once the bridge has heard of the top-up."""
        token = word()

        def accepted():
            try:
                submit(holder, OUTSIDE, message(holder.alias, OUTSIDE, token, text_of(kilobytes)))
                return True
            except smtplib.SMTPResponseException:
                return False

        wait_until(accepted, 30, "acceptance after the top-up")
        wait_until(lambda: self.sink.with_word(token), 30, "the message after the top-up")

    def test_a_top_up_with_the_same_reference_counts_once(self):
        poor = self.poor("twice", 1)
        before = self.relay.totals()["credits"]
        for _ in range(3):
            self.relay.top_up(poor.identifier, 1_234, "00112233445566778899aabbccddeeff")
        self.assertEqual(self.relay.totals()["credits"], before + 1_234)
        self.relay.audit()

    def test_what_the_relay_alone_refuses_is_held_and_goes_after_a_top_up(self):
        poor, token = self.poor("held", 3), word()
        self.world.cut_off(poor)
        self.submit_class_4(poor, token)
        raised = {**self.relay.prices, "message": self.relay.prices["message"] * 10}
        usual, self.relay.prices = self.relay.prices, raised
        self.relay.stop()
        self.relay.start()
        self.addCleanup(lambda: (setattr(self.relay, "prices", usual), self.relay.stop(), self.relay.start()))
        self.world.proxy.heal()

        held = wait_until(lambda: [row for row in poor.outbox() if "eld" in str(row["state"])], 60, "the held message")
        self.assertEqual(len(held), 1)
        self.assertTrue(held[0]["reason"])
        Inbox(poor).wait_for(token)
        self.assertEqual(self.sink.with_word(token), [])

        self.relay.top_up(poor.identifier, figures.price(raised, 4))
        wait_until(lambda: self.sink.with_word(token), 60, "the held message after the top-up")
        poor.settled()
        self.assertEqual(len(self.sink.with_word(token)), 1)

    def test_a_held_message_can_be_cancelled(self):
        poor, token = self.poor("cancels", 3), word()
        self.world.cut_off(poor)
        self.addCleanup(self.world.proxy.heal)
        self.submit_class_4(poor, token)
        row = wait_until(poor.outbox, 10, "the message in the outbox")[0]["row"]
        poor.command("outbox", "cancel", row)
        self.assertEqual(poor.outbox(), [])
        self.world.proxy.heal()
        poor.settled()
        self.assertEqual(self.sink.with_word(token), [])

    def test_value_that_is_reserved_is_not_spent_twice(self):
        poor = self.poor("reserves", 2)
        self.world.cut_off(poor)
        self.addCleanup(self.world.proxy.heal)
        tokens = [word(), word()]
        for token in tokens:
            self.submit_class_4(poor, token)
        self.assertEqual(poor.status()["reserved"], 2 * figures.price(self.relay.prices, 4))
        self.assertEqual(refusal_of(lambda: self.submit_class_4(poor, word()))[0], 552)
        self.world.proxy.heal()
        for token in tokens:
            wait_until(lambda token=token: self.sink.with_word(token), 60, "the reserved message")


class AnyMix(Money):
    """After any mix of sends, refusals, retries and kills."""

    @staticmethod
    def make():
        return World()

    def test_the_books_agree_after_a_random_mix(self):
        seed = random.randrange(1 << 32)
        self.draw = random.Random(seed)
        self.sink.misbehave("RCPT", "550 5.1.1 no such user", recipient="gone@")
        self.addCleanup(self.sink.behave)
        with self.subTest(seed=seed):
            due, unsure = 0, 0
            for number in range(by_extent(40, 300)):
                kill = number % 10 == 6 and self.kill_soon()
                price, answered = self.send_something()
                due += price if answered else 0
                unsure += price if answered is None else 0
                if kill:
                    kill.join()
                if number % 8 == 3:
                    self.sink.misbehave("DOT", "451 4.3.0 later", times=2)
                if number % 10 == 9:
                    self.world.proxy.cut()
                if number % 50 == 49:
                    self.world.relink()
            self.world.relink()
            wait_until(lambda: not self.relay.queue(), 120, "an empty queue")
            keys = sum(5_000 - bridge.settled()["keys"] for bridge in self.world.bridges)
            debited = self.books_agree()["debits"]
            self.assertGreaterEqual(debited, due)
            self.assertLessEqual(debited, due + unsure + keys * self.relay.prices["key"])

    def send_something(self):
        """Submits a random message. Returns its price, and True for a 250, False for a refusal, None for neither."""
        holder = self.draw.choice([self.a, self.b])
        kilobytes = self.draw.choice(list(BODY))
        places = [OUTSIDE, "gone@out.test", self.world.b.alias, "other@out.test"]
        recipients = self.draw.sample(places, self.draw.randrange(1, 4))
        sender = self.draw.choice([holder.alias] * 5 + ["someone@else.test"])
        content = message(sender, OUTSIDE, word(), text_of(kilobytes))
        price = figures.price(self.relay.prices, kilobytes, len(recipients))
        try:
            submit(holder, recipients, content, sender=sender)
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError, smtplib.SMTPRecipientsRefused):
            return price, False
        except OSError:
            return price, None
        return price, True

    def kill_soon(self):
        """Kills relay or a bridge within the next moments, and starts it again."""
        victim, wait = self.draw.choice([self.relay, *self.world.bridges]), self.draw.random() / 5

        def kill():
            time.sleep(wait)
            victim.kill()
            victim.start()

        return in_background(kill)
