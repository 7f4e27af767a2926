"""What was recorded is worth nothing months later, nor to a relay whose clock was wrong by months, or is put right again.

What a relay keeps of parcels and answers ends after weeks. If a recording outlived that memory, whoever kept it could have mail
sent again, and paid for again, long after everybody forgot it.
"""

import json
import os
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
from clients import message, submit
from figures import CELL
from harness import OUTSIDE, World, second_implementation, word
from parcels import Parcels
from processes import run, wait_until
from proxy import UP

DAY = 86_400
#: Longer than the relay keeps anything of an answer or of a parcel, and a clock that was as far behind.
SHIFTS = (100 * DAY, -100 * DAY, 0)
PRICE = 10_000 + 100
#: Answers and a refusal, docs/PROTOCOL.md section 5.
DONE, REFUSED, STALE = 5, 6, 2


class Months(Parcels):
    make = staticmethod(lambda: World(retention_days=365))

    def test_links_parcels_and_changes_that_were_recorded_have_no_effect_months_later_or_before(self):
        library = self.world.folder.path / "clock.so"
        run("cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("clock_shift.c"))
        tokens = [word() for _ in range(3)]
        submit(self.a, [OUTSIDE], message("me@localhost", OUTSIDE, tokens[0]))
        parcel = self.sealed(tokens[1], "--mail")
        self.carry(parcel)
        change, body = self.change(tokens[2])
        [self.outside(token) for token in tokens]
        wait_until(lambda: not self.waiting(), 60, "the receipt")
        self.a.settled()
        self.a.stop()
        links = [connection.octets(UP) for connection in self.world.proxy.connections]
        links = [octets for octets in links if len(octets) > 3 * CELL]
        self.assertTrue(links)
        paid = [2 * PRICE, PRICE]
        for shift in SHIFTS:
            with self.subTest(days=shift // DAY):
                self.relay.stop()
                self.relay.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
                self.relay.start()
                self.assertEqual([self.debits(self.a.identifier), self.debits(self.second_id)], paid)
                with ThreadPoolExecutor(len(links)) as pool:
                    answers = list(pool.map(lambda octets: hostile.OnTheLine.play(self.relay.link, octets), links))
                self.assertEqual(set(answers), {b""}, "silence")
                self.carry(parcel)
                self.client.connect()
                answer, _ = self.client.ask(change, body)
                self.client.close()
                # The answer that was kept, or that nothing is known of it any more; carried out again it would cost.
                self.assertIn(answer[0], (DONE, REFUSED))
                if answer[0] == REFUSED:
                    self.assertEqual(answer[-1], STALE)
                # The control: the same relay takes, sends and debits what is new.
                token = word()
                self.a.start()
                submit(self.a, [OUTSIDE], message("me@localhost", OUTSIDE, token))
                self.outside(token)
                self.a.settled()
                self.a.stop()
                paid[0] += PRICE
                days = {row["day"] for row in self.statement(self.a.identifier)}
                self.assertTrue(days & {(int(time.time()) + shift) // DAY - back for back in (0, 1)}, "the relay's day")
                wait_until(lambda: not self.relay.queue(), 60, "an empty queue")
                self.assertEqual([self.debits(self.a.identifier), self.debits(self.second_id)], paid)
                for sent in (*tokens, token):
                    self.assertEqual(len(self.sink.with_word(sent)), 1)
                self.relay.audit()

    def debits(self, account):
        """What an account was debited for mail."""
        return sum(row["debit"] for row in self.statement(account) if row["kind"] == "message")

    def statement(self, account):
        return json.loads(self.relay.command("statement", "--account", account, "--json").stdout)["rows"]

    def change(self, token):
        """A submission by a holder that sends it again whenever it is told to: its request and its body."""
        second = second_implementation()
        self.client = self.world.second_client("again")
        self.second_id = second.identifier_text(self.second_pack("again")["identifier"])
        self.client.connect()
        name = word()
        alias_open = b"\1" + bytes([len(name)]) + name.encode()
        opened, _ = self.client.ask(second.change(1, os.urandom(16), os.urandom(16), 0, alias_open))
        self.assertEqual(opened[0], DONE)
        sender = f"{name}@{self.a.alias.split('@')[1]}"
        payload = second.envelope(sender, [OUTSIDE], os.urandom(16)) + message(sender, OUTSIDE, token)
        prices, rest = second.read_varint(self.client.ask(second.varint(1), stream=3)[0][1:])
        submit = b"\0" + second.varint(prices) + b"".join(map(second.varint, (PRICE, 1, 1, len(payload))))
        body = payload.ljust(1_000, b"\0")
        request = second.change(2, os.urandom(16), os.urandom(16), 1, submit + second.digest(body))
        answer, _ = self.client.ask(request, body, stream=5)
        self.assertEqual(answer[0], DONE)
        self.client.close()
        return request, body

    def second_pack(self, name):
        return second_implementation().open_pack((self.world.folder.path / f"{name}.pack").read_bytes(), b"second")


if __name__ == "__main__":
    unittest.main()
