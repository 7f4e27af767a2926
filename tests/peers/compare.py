#!/usr/bin/env python3
"""Postern beside Postfix, Dovecot and PostgreSQL, on one machine and one disk, run in turn: what counts is the ratio.

    compare.py [SCENARIO...]     all of them without names; --list says which there are
      --quick                    one run of each, a few seconds: for a look
      --smoke                    our side alone, as little as runs at all: for continuous integration
      --runs N, --seconds S      runs of each side (5), length of one (2)
      --check                    exit status 1 if a floor is missed
      --folder DIR               where to work: a disk, not a memory file system (/var/tmp)

POSTERN_BINARIES: folder of the binaries (target/release). Needs root: Postfix and Dovecot start as root.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import ours
import servers
from measure import Row, Side, machine, memory, processor_seconds, table
from ours import BINARIES, Load, Mailbox, QuickBridge, Sink, free_ports, split_address
from processes import processor_seconds as own_seconds
from processes import resident, wait_until


class Bench:
    """The extent of a run, and what is started in it."""

    def __init__(self, options):
        self.options = options
        self.runs, self.seconds, self.peers = options.runs, options.seconds, not options.smoke
        self.folder = Path(tempfile.mkdtemp(prefix="postern-compare-", dir=options.folder))
        # Postfix, Dovecot and PostgreSQL leave root behind and must reach their folders.
        self.folder.chmod(0o755)
        self.rows, self.generators, self._open, self._names = [], {}, [], 0

    def extent(self, whole, quick, smoke):
        """How much of something is asked for."""
        return smoke if self.options.smoke else quick if self.options.quick else whole

    def place(self, name):
        """A folder that does not exist yet."""
        self._names += 1
        return self.folder / f"{self._names:02}-{name}"

    def keep(self, server):
        """Stops it when the scenario ends."""
        self._open.append(server)
        return server

    def peer(self, server, *words):
        """Starts a peer, unless our side runs alone."""
        return self.keep(server(self.place(server.__name__.lower()), *words)) if self.peers else None

    def relay(self, **settings):
        folder = self.place("relay")
        folder.mkdir()
        return self.keep(ours.relay(folder, **settings))

    def clear(self):
        """Ends what a scenario started."""
        while self._open:
            self._open.pop().stop()
        if not os.environ.get("KEEP"):
            for folder in self.folder.iterdir():
                shutil.rmtree(folder, ignore_errors=True)

    def interleave(self, ours_once, peer_once):
        """Both sides in turn, after one run of each that does not count. Each gives a figure and a cost, or a list."""
        sides = ([], [])
        first = 0 if self.options.smoke else -1
        for turn in range(first, self.runs):
            for once, results in zip((peer_once, ours_once), sides):
                if once is None:
                    continue
                os.sync()
                result = once()
                if turn >= 0:
                    results.append(result)
        return sides[1], sides[0]

    def compare(self, scenario, unit, ours_once, peer_once, floor=None, goal=None):
        own, theirs = map(side_of, self.interleave(ours_once, peer_once))
        self.add(Row(scenario, unit, own, theirs, floor, goal))

    def spent(self, generator, seconds, messages):
        """Enters what a load generator cost: it takes the same processors."""
        self.generators.setdefault(generator, []).append(seconds / max(messages, 1) * 1e6)

    def add(self, row):
        self.rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)


def side_of(results):
    side = Side()
    for result in results:
        side.add(*result)
    return side


def smtp(bench, server, recipients, sessions, size, seconds=None, count=None):
    """A load of SMTP whose connections are open."""
    words = ["--server", server, "--sessions", sessions, "--size", size, "--recipient", ",".join(recipients)]
    words += ["--seconds", seconds or bench.seconds] if count is None else ["--count", count]
    return Load("smtpload", *words)


def costed(pid, work):
    """What `work` gives, a pair of messages and seconds, as a rate and a cost in µs of the processes of `pid`."""
    before = processor_seconds(pid)
    count, seconds = work()
    return count / seconds, (processor_seconds(pid) - before) / max(count, 1) * 1e6


# Scenarios. Each starts what it needs, adds its rows and leaves the rest to Bench.clear.


def accept(bench):
    """SMTP in for an alias: sealed and durable before 250; Postfix accepts to its queue and discards from there."""
    relay = bench.relay()
    # An alias holds 10,000 messages that nobody collects.
    aliases = ours.aliases(relay, bench.extent(100, 50, 4))
    postfix = bench.peer(servers.Postfix, free_ports(), "accept")

    def once(pid, server, recipients, sessions, size):
        def work():
            load = smtp(bench, server, recipients, sessions, size)
            result = load.go()
            bench.spent("smtpload", load.close(), load.accepted)
            return load.accepted, result["seconds"]

        return costed(pid, work)

    def beside(sessions, size):
        rate = once(postfix.pid, f"127.0.0.1:{postfix.port}", ["to@peer.test"], sessions, size)
        # What it still discards would be measured with our side.
        postfix.drain()
        return rate

    cells = [(1, 4_096, 1.5, 2.7), (16, 4_096, 4, 8), (100, 4_096, 6, 14), (16, 65_536, 2.5, 5)]
    for sessions, size, floor, goal in cells:
        bench.compare(
            f"accept: SMTP in, {size >> 10} KiB, {sessions} session{'s' * (sessions > 1)}",
            "msg/s",
            lambda: once(relay.pid, relay.mx, aliases, sessions, size),
            (lambda: beside(sessions, size)) if postfix else None,
            floor,
            goal,
        )


def relaying(bench):
    """In at a link, out over SMTP: from the first submission until the outside has the last; Postfix relays SMTP."""
    own_sink, sink = bench.keep(Sink(bench.place("sink"))), bench.keep(Sink(bench.place("sink")))
    relay = bench.relay(smarthost=own_sink.address)
    postfix = bench.peer(servers.Postfix, free_ports(), "relay", sink.port)

    def until_taken(sink, load):
        def work():
            taken, start = sink.wait(0), time.monotonic()
            load.go()
            sink.wait(taken + load.accepted)
            return load.accepted, time.monotonic() - start

        return work

    def once(sessions):
        words = ["--relay", relay.link, "--data", relay.data, "--sessions", sessions, "--seconds", bench.seconds]
        load = Load("linkload", *words)
        result = costed(relay.pid, until_taken(own_sink, load))
        bench.spent("linkload", load.close(), load.accepted)
        return result

    def beside(sessions):
        load = smtp(bench, f"127.0.0.1:{postfix.port}", ["to@peer.test"], sessions, 4_096)
        result = costed(postfix.pid, until_taken(sink, load))
        load.close()
        postfix.drain()
        return result

    for sessions, floor, goal in [(16, 4, 7), (100, 6, 9)]:
        bench.compare(
            f"relaying: link to outside, 4 KiB, {sessions} sessions",
            "msg/s",
            lambda: once(sessions),
            (lambda: beside(sessions)) if postfix else None,
            floor,
            goal,
        )


def chain(bench):
    """In at a link of the first of three relays, over links to the last, out over SMTP; beside one relay alone."""
    sinks = [bench.keep(Sink(bench.place("sink"))) for _ in range(2)]
    alone = bench.relay(smarthost=sinks[0].address)
    row = [bench.keep(one) for one in ours.row([bench.place(f"relay{n}") for n in range(3)], sinks[1].address)]
    count = bench.extent(4_000, 2_000, 100)

    def once(relays, sink):
        first = relays[0]
        load = Load("linkload", "--relay", first.link, "--data", first.data, "--sessions", 16, "--count", count)

        def work():
            taken, start = sink.wait(0), time.monotonic()
            load.go()
            sink.wait(taken + load.accepted, 300)
            return load.accepted, time.monotonic() - start

        before = sum(processor_seconds(relay.pid) for relay in relays)
        done, seconds = work()
        cost = (sum(processor_seconds(relay.pid) for relay in relays) - before) / max(done, 1) * 1e6
        load.close()
        return done / seconds, cost

    bench.compare(
        "chain: link to outside by three relays, 4 KiB, 16 sessions; peer: by one",
        "msg/s",
        lambda: once(row, sinks[1]),
        lambda: once([alone], sinks[0]),
        1 / 3,
        None,
    )


def collect(bench):
    """From an outside sender until the last message is readable at the bridge; Postfix delivers into a Maildir."""
    relay = bench.relay()
    bridge = bench.keep(QuickBridge.of(relay))
    recipients = [bridge.alias, *(bridge.new_alias() for _ in range(3))]
    postfix = bench.peer(servers.Postfix, free_ports(), "maildir")
    mailbox, count = Mailbox(bridge), bench.extent(2_000, 1_000, 50)

    def until_there(server, recipients, there):
        def work():
            load = smtp(bench, server, recipients, 16, 4_096, count=count)
            before, start = there(), time.monotonic()
            load.go()
            wait_until(lambda: there() >= before + count, 300, "all mail")
            seconds = time.monotonic() - start
            load.close()
            return count, seconds

        return work

    def once():
        before = own_seconds(bridge.pid)
        rate, cost = costed(relay.pid, until_there(relay.mx, recipients, mailbox.messages))
        return rate, cost + (own_seconds(bridge.pid) - before) / count * 1e6

    def beside():
        return costed(postfix.pid, until_there(f"127.0.0.1:{postfix.port}", ["to@peer.test"], postfix.mails))

    bench.compare(
        "collect: outside to readable, 4 KiB, 16 sessions", "msg/s", once, beside if postfix else None, 4, 10
    )
    mailbox.close()


def imap(bench):
    """A mailbox of 10,000 messages read whole, each time over a new connection; Dovecot keeps it in mdbox, in clear."""
    messages = bench.extent(10_000, 10_000, 200)
    relay = bench.relay()
    bridge = bench.keep(QuickBridge.of(relay))
    dovecot = bench.peer(servers.Dovecot, free_ports())
    own = (bridge.imap, bridge.user, bridge.password)
    filled = [(ours.read_mailbox(*own, "--fill", messages, "--rounds", 0), None)]
    if dovecot:
        theirs = (f"127.0.0.1:{dovecot.port}", dovecot.USER, "x")
        filled.append((ours.read_mailbox(*theirs, "--fill", messages, "--rounds", 0), None))

    def once(pid, account):
        return costed_read(pid, lambda: ours.read_mailbox(*account))

    def costed_read(pid, read):
        before = processor_seconds(pid)
        result = read()
        count = result["messages"]
        cost = (processor_seconds(pid) - before) / count * 1e6
        assert count >= messages, result
        return 1_000 / result["select_ms"], count / result["envelopes_s"], count / result["bodies_s"], cost

    peer_once = (lambda: once(dovecot.pid, theirs)) if dovecot else None
    results = bench.interleave(lambda: once(bridge.pid, own), peer_once)
    kinds = [
        (f"imap: SELECT of {messages:,}", "a second", 0.7, 1),
        ("imap: FLAGS RFC822.SIZE ENVELOPE of all", "msg/s", 0.6, 1),
        ("imap: BODY.PEEK[] of all; CPU: with SELECT and envelopes", "msg/s", 0.5, 1),
    ]
    for kind, (scenario, unit, floor, goal) in enumerate(kinds):
        sides = [side_of([(run[kind], *run[3:][: kind == 2]) for run in runs]) for runs in results]
        bench.add(Row(scenario, unit, *sides, floor, goal))
    appended = [side_of([(result["rate"],)]) for result, _ in filled]
    bench.add(Row("imap: APPEND of 4 KiB, 16 connections, one run", "msg/s", *appended))
    idle = bench.extent(90, 90, 10)
    # What earlier sessions gave back to the allocator would be taken first, and not be seen.
    bridge.stop()
    bridge.start()
    theirs = idle_imap(dovecot.pid, memory, theirs, idle) if dovecot else None
    own_memory = idle_imap(bridge.pid, resident, own, idle)
    bench.add(bound(f"memory: idle IMAP connection with {messages:,} selected, of {idle}", own_memory, theirs, 50, 20))


def bound(scenario, own, theirs, floor, goal):
    return Row(scenario, "KiB", Side([own]), theirs and Side([theirs]), floor, goal, is_bound=True)


def growth(pid, gauge, connect, count):
    """KiB that each of `count` connections adds, kept open by what `connect` makes."""
    first = connect()
    time.sleep(0.5)
    before = gauge(pid)
    connections = [connect() for _ in range(count)]
    time.sleep(1.5)
    grown = gauge(pid) - before
    for connection in [first, *connections]:
        connection.close()
    return grown / count / 1024


def idle_imap(pid, gauge, account, count):
    address, user, password = account

    def connect():
        connection = socket.create_connection(split_address(address))
        lines = connection.makefile("rb")
        lines.readline()
        for command in (f"a LOGIN {user} {password}", "a SELECT INBOX"):
            connection.sendall(f"{command}\r\n".encode())
            while not (line := lines.readline()).startswith(b"a "):
                assert line, "closed"
            assert line.startswith(b"a OK"), line
        connection.sendall(b"i IDLE\r\n")
        assert lines.readline().startswith(b"+")
        return connection

    return growth(pid, gauge, connect, count)


def idle_smtp(pid, gauge, address, count):
    def connect():
        connection = socket.create_connection(split_address(address))
        connection.recv(999)
        connection.sendall(b"EHLO client.test\r\n")
        answer = connection.recv(999)
        assert answer.startswith(b"250"), answer
        return connection

    return growth(pid, gauge, connect, count)


def store(bench):
    """The store alone, one commit for each batch; PostgreSQL takes as many rows of 4 KiB in one transaction."""
    program = ours.example(BINARIES)
    postgres = bench.peer(servers.Postgres)
    seconds = max(1, round(bench.seconds))

    def once(what, batch):
        rate, cost = ours.store_accepts(program, bench.place("store"), batch, seconds, what)
        return rate, cost * 1e6

    def beside(rows):
        before = processor_seconds(postgres.pid)
        rate = postgres.insert(rows, 1, seconds)
        return rate, (processor_seconds(postgres.pid) - before) / (rate * seconds) * 1e6

    for what in ["deposit", "submission"]:
        for batch, floor, goal in [(1, 1.5, 2.5), (16, 3, 6), (256, 4, 10)]:
            bench.compare(
                f"store: {what}s of 4 KiB, {batch} in each commit",
                "a second",
                partial(once, what, batch),
                partial(beside, batch) if postgres else None,
                floor,
                goal,
            )


def memory_of_idle(bench):
    """What an idle SMTP session and an idle link take; Postfix has a process for each session."""
    relay, count = bench.relay(), bench.extent(1_000, 1_000, 20)
    own = idle_smtp(relay.pid, resident, relay.mx, count)
    postfix = bench.peer(servers.Postfix, free_ports(), "accept")
    theirs = idle_smtp(postfix.pid, memory, f"127.0.0.1:{postfix.port}", 100) if postfix else None
    bench.add(bound(f"memory: idle SMTP session, of {count:,} (Postfix: of 100)", own, theirs, 60, 20))
    before = resident(relay.pid)
    load = idle_links(relay, count)
    bench.add(bound(f"memory: idle link with its account, of {count:,}", grown(relay, before, count), None, 60, 20))
    load.end()


def idle_links(relay, count):
    """So many links that are open and still."""
    words = ["--relay", relay.link, "--data", relay.data, "--sessions", count, "--count", 0, "--hold", 3_600]
    load = Load("linkload", *words)
    load.go()
    time.sleep(1.5)
    return load


def grown(relay, before, count):
    return (resident(relay.pid) - before) / count / 1024


def links(bench):
    """200 busy links, alone and beside 10,000 idle ones; and what the idle ones cost while nothing happens."""
    idle, busy = bench.extent(10_000, 2_000, 50), bench.extent(200, 200, 10)
    # The tick as shipped: what idle links cost is what they cost to an operator.
    relay = bench.relay(tick_ms=60_000)

    def once(relay):
        words = ["--relay", relay.link, "--data", relay.data, "--sessions", busy, "--seconds", bench.seconds]
        load = Load("linkload", *words)

        def work():
            seconds = load.go()["seconds"]
            return load.accepted, seconds

        result = costed(relay.pid, work)
        load.close()
        return result

    alone, _ = bench.interleave(partial(once, relay), None)
    # A spool takes 100,000 deliveries, and nothing leaves this one: the second half has a relay of its own.
    relay = bench.relay(tick_ms=60_000)
    before = resident(relay.pid)
    load = idle_links(relay, idle)
    bench.add(bound(f"memory: idle link with its account, of {idle:,}", grown(relay, before, idle), None, 60, 20))
    # Used keys are erased within a second; that is the end of the linking, not idleness.
    time.sleep(bench.extent(5, 3, 1))
    wait, used = bench.extent(20, 5, 1), own_seconds(relay.pid)
    time.sleep(wait)
    share = (own_seconds(relay.pid) - used) / wait * 100
    bench.add(Row(f"links: {idle:,} idle ones", "% of a processor", Side([share]), None, 1, None, is_bound=True))
    beside, _ = bench.interleave(partial(once, relay), None)
    load.end()
    scenario = f"links: {busy} busy ones beside {idle:,} idle ones; peer: the same alone"
    bench.add(Row(scenario, "msg/s", side_of(beside), side_of(alone), 0.5, None))


SCENARIOS = {
    "accept": accept,
    "relaying": relaying,
    "chain": chain,
    "collect": collect,
    "imap": imap,
    "store": store,
    "memory": memory_of_idle,
    "links": links,
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true", default=bool(os.environ.get("QUICK")))
    parser.add_argument("--smoke", action="store_true", default=bool(os.environ.get("SMOKE")))
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", 0)))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("RUN_SECONDS", 0)))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--json", type=Path, help="also write every run there")
    options = parser.parse_args()
    short = options.quick or options.smoke
    options.runs = options.runs or (1 if short else 5)
    options.seconds = options.seconds or (0.3 if options.smoke else 1 if options.quick else 2)
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return options


def main():
    options = arguments()
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:10} {scenario.__doc__}")
        return 0
    if not options.smoke:
        if os.geteuid() != 0:
            sys.exit("compare.py: run as root: Postfix and Dovecot start as root")
        if missing := servers.missing():
            sys.exit(f"compare.py: not installed: {' '.join(missing)} (apt-get install --no-install-recommends)")
    # 10,000 links are 10,000 descriptors at each end.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # As an exception, so that peers do not outlive the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench, started = Bench(options), time.monotonic()
    facts = machine(bench.folder, BINARIES)
    print("\n".join(facts), flush=True)
    try:
        for name in options.scenarios or SCENARIOS:
            try:
                SCENARIOS[name](bench)
            finally:
                bench.clear()
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    print(f"\nMedian and range of {bench.runs} runs of {bench.seconds:g} s each, {time.monotonic() - started:.0f} s in all.\n")
    print(table(bench.rows))
    for name, costs in bench.generators.items():
        print(f"\n{name} takes {min(costs):.0f} to {max(costs):.0f} µs of the same processors for each message.")
    if options.json:
        rows = [{"scenario": row.scenario, "unit": row.unit, **row.raw()} for row in bench.rows]
        options.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    missed = [row.scenario for row in bench.rows if row.verdict() == "**below**"]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
