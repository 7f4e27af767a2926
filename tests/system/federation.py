"""Five relays in a ring, users at each, on a network of their own that is cut and parted while relays are killed.

Whatever happens to lines and relays, each message over three relays is delivered once or its sender is told, and all books agree.
"""

import json
import os
import random
import smtplib
import threading
import time
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from clients import Inbox, message, submit
from figures import CELL
from harness import Bridge, Hazard, Relay, by_extent, word
from network import common, network
from processes import Folder, wait_until
from sink import Sink
from traffic import DELIVERIES_AT_ONCE

NAMES = ("one", "two", "three", "four", "five")
#: What one message of one recipient costs at each relay: its price, and the kilobyte of its class.
EACH = 10_000 + 100
#: A recipient that nobody has.
NOBODY = "nobody"


class Member(Relay):
    """A relay on a node of its own."""

    def __init__(self, folder, node, outside, **settings):
        super().__init__(folder, outside, domain=f"{node.name}.test", **settings)
        self.name, self.node = node.name, node
        self.link, self.mx = node.link, node.mx
        addresses = {"link": node.link, "link_public": node.link_public, "mx": node.mx, "smarthost": None}
        self.settings |= addresses
        self.routes = {f"{node.name}.test": node.mx}

    def start(self, *options, wait=True):
        with self.node.inside():
            return super().start(*options, wait=wait)


class User(Bridge):
    """A bridge on a node of its own, and the mail program beside it."""

    def __init__(self, folder, node, relay, name=None):
        super().__init__(folder, name or node.name, relay.node.link_public)
        self.node, self.relay = node, relay
        self._inbox = NodeInbox(self)

    def start(self, *options, wait=True):
        with self.node.inside():
            return super().start(*options, wait=wait)

    def send(self, to, subject, body="hello\r\n"):
        with self.node.inside():
            submit(self, [to], message("me@localhost", to, subject, body))

    def inbox(self):
        return self._inbox


class NodeInbox(Inbox):
    def refresh(self):
        with self.holder.node.inside():
            return super().refresh()


class Ring:
    """Relays one to five, each with a pack at both of its neighbours. Mail for the domain of any, and for what only that one
    takes to the outside (outone.test and so on), goes the short way round: over three relays, if that is not a neighbour's."""

    def __init__(self, users=by_extent(6, 20), relays=5, keys=4_000, value=500_000_000, **settings):
        self.folder, self.network = Folder(), network()
        self.value, self.keys = value, keys
        outside = self.network.add("outside")
        with outside.inside():
            self.sink = Sink(host=outside.address)
        self.relays, self.packs, self.users = {}, {}, []
        settings = {"retry_s": [1] * 600, "tick_ms": 500, **settings}
        for name in NAMES[:relays]:
            (self.folder.path / name).mkdir()
            relay = Member(self.folder.path / name, self.network.add(name), self.sink, **settings)
            self.relays[name] = relay
        self.ring = list(self.relays)
        self.at_once(Member.start, self.relays.values())
        self.passphrase = self.folder.path / "peer.passphrase"
        self.passphrase.write_text("open the gate\n")
        self.at_once(self.introduce, [(at, step) for at in range(relays) for step in (1, -1)])
        for at, relay in enumerate(self.relays.values()):
            self.route(at, relay)
            relay.stop()
        self.at_once(Member.start, self.relays.values())
        wait_until(self.linked, 90, "links between all neighbours")
        nodes = [(self.network.add(f"user{number}"), number % relays) for number in range(users)]
        self.users = self.at_once(self.add, nodes)
        for user in self.users:
            wait_until(lambda u=user: all(self.legs(u, to) == 2 for to in self.far_ends(u)), 60, "prices of all legs")

    @staticmethod
    def at_once(action, things):
        """Most of it waits, for a disk or for a key to be stretched."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(action, things))

    def name(self, at):
        return self.ring[at % len(self.ring)]

    def introduce(self, place):
        """A relay takes a pack at its neighbour, to send for itself and for the one at its other side."""
        at, step = place
        holder, issuer = self.name(at), self.name(at + step)
        pack = self.folder.path / f"{holder}-{issuer}.pack"
        words = [word for name in (holder, self.name(at - step)) for word in ("--for", f"{name}.test")]
        words += ["--value", self.value, "--passphrase-file", self.passphrase, "--json"]
        done = self.relays[issuer].command("peer", "invite", "--out", pack, *words)
        self.packs[holder, issuer] = json.loads(done.stdout)["identifier"]
        words = ["--name", issuer, "--passphrase-file", self.passphrase]
        self.relays[holder].command("peer", "accept", pack, *words)

    def route(self, at, relay):
        relay.routes[f"out{relay.name}.test"] = self.sink.address
        for step in (1, -1):
            for far in (at + step, at + 2 * step):
                for domain in (f"{self.name(far)}.test", f"out{self.name(far)}.test"):
                    relay.routes[domain] = f"peer:{self.name(at + step)}"

    def add(self, place):
        node, at = place
        relay = self.relays[self.name(at)]
        user = User(self.folder.path, node, relay)
        pack = self.folder.path / f"{node.name}.pack"
        relay.issue(pack, user.passphrase, self.keys, 100_000_000, operator=node.name.endswith("0"))
        user.init(pack)
        return user.start()

    def far_ends(self, user):
        """Names of the relays that are third on a way that begins with this user's."""
        at = self.ring.index(user.relay.name)
        return self.name(at + 2), self.name(at - 2)

    def between(self, user, far):
        """The relay on the way from a user's to a far end."""
        at = self.ring.index(user.relay.name)
        return self.name(at + 1) if self.name(at + 2) == far else self.name(at - 1)

    @staticmethod
    def legs(user, far):
        """How many further relays a user's bridge thinks that mail for the outside by a far end is paid at."""
        onward = user.status()["onward"]
        return onward["domains"].get(f"out{far}.test", onward["elsewhere"])["relays"]

    def peers(self, name):
        return json.loads(self.relays[name].command("peer", "list", "--json").stdout)["rows"]

    def linked(self):
        return all(sum(peer["link"] == "linked" for peer in self.peers(name)) == 2 for name in self.relays)

    def idle(self):
        """Nothing is under way anywhere."""
        return all(
            not relay.queue() and not any(peer["waiting"] for peer in self.peers(name))
            for name, relay in self.relays.items()
        )

    def paid(self, holder, issuer):
        """What a relay's pack at a neighbour was debited for mail, its own leg and those behind."""
        words = ("statement", "--account", self.packs[holder, issuer], "--json")
        rows = json.loads(self.relays[issuer].command(*words).stdout)["rows"]
        return sum(row["debit"] for row in rows if row["kind"] in ("message", "onward"))

    def audit(self):
        """Each book by itself, and those of each pair beside each other."""
        for relay in self.relays.values():
            relay.audit()
        for holder, issuer in self.packs:
            report = json.loads(self.relays[holder].command("peer", "compare", issuer, "--json").stdout)
            mail, verdicts = report["rows"][0], {row["verdict"] for row in report["rows"]}
            assert report["whole"] and verdicts == {"agrees", "told"}, report
            assert mail["own"] == mail["peer"] == self.paid(holder, issuer), report

    def close(self):
        for user in self.users:
            user.kill()
        for relay in self.relays.values():
            if relay.process:
                relay.kill()
        self.sink.stop()
        self.network.close()
        self.folder.remove()

    def logs(self):
        return sorted(self.folder.path.glob("**/*.log")) + sorted(self.folder.path.glob("**/*.out"))


class Lines(Hazard):
    make = Ring

    def test_lines_between_relays_carry_whole_cells_and_nothing_that_came_on_another(self):
        world, token = self.world, word()
        if not world.network.listens:
            self.skipTest("lines can be recorded between network namespaces alone")
        # Of streams that stood before, the beginning was not seen.
        for relay in world.relays.values():
            relay.stop()
        lines = [world.network.capture(world.relays[name].node) for name in NAMES[:3]]
        for line in lines:
            self.addCleanup(line.stop)
        world.at_once(Member.start, world.relays.values())
        wait_until(world.linked, 90, "links between all neighbours")
        user = next(user for user in world.users if user.relay.name == "one")
        user.settled()
        for number in range(4):
            user.send("friend@outthree.test", f"{token}-{number}", "over three\r\n" * 500)
        wait_until(lambda: len(world.sink.with_word(token)) == 4, 60, "the messages outside")
        wait_until(world.idle, 60, "relays with nothing under way")
        for line in lines:
            wait_until(lambda line=line: not line.torn(), 20, f"whole cells at {line.node.name}")
            self.assertGreater(min(len(line.sent()), len(line.received())), 10 * CELL)
            self.assertEqual(common(line.sent(), line.received()), [])
        # The controls: the exit speaks SMTP to the outside, the others to nobody; and what one sends is what two receives.
        clear = [any(token.encode() in octets for octets in line.others().values()) for line in lines]
        self.assertEqual(clear, [False, False, True])
        self.assertNotEqual(common(lines[0].sent(), b"x" + lines[1].received(lines[0].node)[: 4 * CELL]), [])


class Trial(Hazard):
    make = Ring

    def setUp(self):
        seed = int(os.environ.get("POSTERN_SEED", random.randrange(1 << 32)))
        self.draw, self.token = random.Random(seed), word()
        #: Of each message: its sender, where it goes, and which relay is its far end.
        self.sent, self.lock = {}, threading.Lock()
        print(f"       seed {seed}, {len(self.world.users)} users, on {self.world.network.says}")

    def test_each_message_over_three_relays_arrives_once_or_is_reported_whatever_happens_to_relays_and_lines(self):
        world = self.world
        paid = {pair: world.paid(*pair) for pair in world.packs}
        world.sink.misbehave("RCPT", "550 5.1.1 no such user", recipient=NOBODY)
        self.addCleanup(world.sink.behave)
        counts = self.shares(by_extent(120, 2_000))
        # A seed of its own for each: threads draw in any order.
        seeds = [self.draw.randrange(1 << 32) for _ in counts]
        pause = by_extent(0.7, 0.4)
        senders = [
            threading.Thread(target=self.send, args=(user, count, random.Random(seed), pause), daemon=True)
            for user, count, seed in zip(world.users, counts, seeds)
        ]
        for sender in senders:
            sender.start()
        happened, kinds = Counter(), (self.killed, self.parted, self.cut, self.killed_behind_a_cut)
        while any(sender.is_alive() for sender in senders):
            # Each of them in every round.
            for happening in self.draw.sample(kinds, len(kinds)):
                happening()
                happened[happening.__name__] += 1
                time.sleep(self.draw.uniform(0, 0.5))
        self.assertEqual(len(self.sent), sum(counts), "submissions are taken whatever happens behind the bridge")
        print(f"       {len(self.sent)} messages, {dict(happened)}")
        self.judge(paid, happened)

    def shares(self, count):
        users = len(self.world.users)
        return [count // users + (number < count % users) for number in range(users)]

    def send(self, user, count, draw, pause):
        for number in range(count):
            far = draw.choice(self.world.far_ends(user))
            subject = f"{self.token}-{user.name}-{number:04}"
            there = [other for other in self.world.users if other.relay.name == far]
            kind = draw.choices(("outside", "user", NOBODY), (5, 4, 1))[0]
            if kind == "user" and there:
                to = draw.choice(there).alias
            else:
                to = f"{kind if kind == NOBODY else 'friend'}-{subject}@out{far}.test"
            try:
                user.send(to, subject)
            except (OSError, smtplib.SMTPException) as error:
                print(f"       {subject} was not taken: {error}")
                continue
            with self.lock:
                self.sent[subject] = (user, to, far)
            time.sleep(draw.uniform(0, 2 * pause))

    def relay(self):
        return self.draw.choice(list(self.world.relays.values()))

    def killed(self):
        relay = self.relay()
        relay.kill()
        time.sleep(self.draw.uniform(0, 0.5))
        relay.start()

    def parted(self):
        at = self.draw.randrange(len(self.world.ring))
        pair = [self.world.relays[self.world.name(at + step)].node for step in (0, 1)]
        self.world.network.part(*pair)
        time.sleep(self.draw.uniform(0.1, 3))
        self.world.network.join(*pair)

    def cut(self):
        node = self.relay().node
        self.world.network.cut(node)
        time.sleep(self.draw.uniform(0.1, 3))
        self.world.network.mend(node)

    def killed_behind_a_cut(self):
        relay = self.relay()
        self.world.network.cut(relay.node)
        time.sleep(self.draw.uniform(0, 1))
        relay.kill()
        relay.start()
        self.world.network.mend(relay.node)

    def judge(self, paid, happened):
        world = self.world
        for user in world.users:
            user.settled(180)
        wait_until(world.idle, 180, "relays with nothing under way")
        wait_until(world.linked, 120, "links between all neighbours")
        wait_until(lambda: not self.missing(), 60, "every message, or a report of it")
        inboxes = {user.name: list(user.inbox().refresh().values()) for user in world.users}
        self.repeated = 0
        for subject, (user, to, far) in self.sent.items():
            with self.subTest(to=to):
                self.judge_one(subject, user, to, inboxes)
        # Each death and each cut can repeat no more than was between dot and record at one time.
        self.assertLessEqual(self.repeated, DELIVERIES_AT_ONCE * sum(happened.values()))
        world.audit()
        moved = {pair: world.paid(*pair) - before for pair, before in paid.items()}
        expected = dict.fromkeys(moved, 0)
        for user, _, far in self.sent.values():
            between = world.between(user, far)
            expected[user.relay.name, between] += 2 * EACH
            expected[between, far] += EACH
        self.assertEqual(moved, expected)
        print(f"       {self.repeated} came twice, the same to the octet")
        for log in world.logs():
            self.assertNotIn(b"panicked", log.read_bytes(), log.name)

    def missing(self):
        """Subjects that are nowhere yet."""
        outside = b"".join(delivery.content for delivery in self.world.sink.delivered)
        inside = b"".join(content for user in self.world.users for content in user.inbox().refresh().values())
        return [subject for subject in self.sent if subject.encode() not in outside + inside]

    def judge_one(self, subject, user, to, inboxes):
        outside = [one for one in self.world.sink.delivered if f"Subject: {subject}\r\n".encode() in one.content]
        name = f"Subject: {subject}\r\n".encode()
        reports = [one for one in inboxes[user.name] if subject.encode() in one and b"multipart/report" in one]
        inside = [
            (holder, one)
            for holder, contents in inboxes.items()
            for one in contents
            if name in one.partition(b"\r\n\r\n")[0] + b"\r\n"
        ]
        if to.startswith(NOBODY):
            self.assertEqual((outside, inside), ([], []))
            self.assertTrue(reports, "a failure that its sender was not told of")
            self.assertTrue(all(b"Status: 5.1.1" in one for one in reports))
            return
        self.assertEqual(reports, [], "reported, and no report was due")
        if "@out" in to:
            self.assertEqual(inside, [])
            # SMTP's own case, a death between final dot and record, is byte-identical. A second delivery of any other cause
            # would have another date or be paid for again.
            self.assertEqual(len({one.content for one in outside}), 1)
            self.repeated += len(outside) - 1
        else:
            self.assertEqual(outside, [])
            holder = next(other.name for other in self.world.users if other.alias == to)
            # A relay hands mail for its own aliases to its own MX, over SMTP: the same case.
            self.assertEqual({place for place, _ in inside}, {holder})
            self.assertEqual(len({one for _, one in inside}), 1)
            self.repeated += len(inside) - 1


if __name__ == "__main__":
    unittest.main()
