"""The way that mail of an alias must take: shown with who learns what, kept with the alias, and honoured when mail is handed over."""

import json

from clients import message, refusal_of, submit
from entry import Nested
from harness import OUTSIDE, Hazard, word
from processes import wait_until


class Routes(Hazard):
    make = Nested

    def setUp(self):
        self.w, self.token = self.world, word()

    def route(self, *words, check=True):
        return self.w.a.command("route", *words, check=check)

    def send(self):
        submit(self.w.a, [OUTSIDE], message("me@localhost", OUTSIDE, self.token, "by its way\r\n"))

    def test_an_alias_that_is_nested_is_linked_by_its_entry_alone(self):
        shown = json.loads(self.route("--json").stdout)
        way = [shown[name] for name in ("way", "hops", "entry", "relay")]
        self.assertEqual(way, ["nested", 2, "entry.test", "far.test"])
        said = self.route().stdout
        self.assertIn("entry.test: your network address, and that somebody there goes on to far.test; no alias", said)
        self.assertIn("far.test: the alias, the recipients", said)
        alias = self.w.a.alias
        for words, sentence in [
            (["nested", "--through", "other.test"], "does not go through other.test"),
            (["nested", "--through", "far.test"], "hides nothing"),
            (["direct"], "start the bridge without --entry"),
        ]:
            done = self.route(alias, *words, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(sentence, done.stderr)
        done = self.route(alias, "nested", "--through", "entry.test")
        self.assertIn("nested through entry.test, or not at all", done.stdout)
        self.send()
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")
        wait_until(lambda: not self.w.a.outbox(), 60, "an empty outbox")
        self.w.a.stop()
        # Without its entry it would dial this.
        self.w.a.relay_via, recorded = self.w.inner.address, len(self.w.inner.connections)
        self.w.a.start(wait=False)
        self.assertNotEqual(self.w.a.process.wait(60), 0)
        self.assertIn("mail of an alias is to go nested through entry.test alone", self.w.a.process.last_words())
        self.assertEqual(len(self.w.inner.connections), recorded)
        self.w.a.start("--any-route")
        code, reason = refusal_of(self.send)
        self.assertEqual(code, 550)
        self.assertIn("another way than the bridge is linked", reason)
        self.assertIn("its mail is refused", self.route().stdout)
        self.route(alias, "direct")
        self.token = word()
        self.send()
        wait_until(lambda: self.w.sink.with_word(self.token), 60, "the message outside")

