"""A relay that lies by its own program, built on the second implementation: it has the keys, and says what it likes.

Behind it is an honest relay, of whose pack it makes one in its own name: it opens each link with its own static key, makes the
same link to the relay behind, and passes requests and answers on, but for what the `lie` of the hour makes of them.
"""

import os
import secrets
import socket
import struct
import threading

from clients import split_address
from figures import CELL
from harness import second_implementation

#: Numbers of requests and answers, docs/PROTOCOL.md section 5.
CHANGE, SUBMIT = 5, 0
BALANCE, DONE, REFUSED, STATEMENT, MESSAGE = 0, 5, 6, 7, 1
#: How far ahead of the last one an index may be.
AHEAD = 64


class Lie:
    """What one relay makes of what it hears and says. This one changes nothing.

    `request` gets header and body of a request and returns what of it goes on: None, nothing. `answer` gets what was asked, and
    stream, header and body of the answer, and returns what is said instead.
    """

    def request(self, link, stream, header, body):
        return header, body

    def answer(self, link, asked, stream, header, body):
        return [(stream, header, body)]


class Liar:
    """Stands at `address`, and in front of the relay at `behind`."""

    def __init__(self, behind):
        self.second = second_implementation()
        self.behind, self.lie = split_address(behind), Lie()
        self.secret = secrets.token_bytes(32)
        self.public = self.second.x25519_public(self.secret)
        self.base, self.links, self.errors, self._listener = 0, [], [], socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def adopt(self, pack, passphrase):
        """Makes the pack file of the relay behind one of its own."""
        issue = self.second.open_pack(pack.read_bytes(), passphrase)
        self.far_public = issue["relay_public"]
        self.chain = self.second.Chain.from_root("link", issue["root"])
        issue |= {"relay_public": self.public, "relay_address": self.address}
        file_key, random = os.urandom(32), os.urandom
        header = self.second.seal_header(passphrase, file_key, random(16), random(24), 65_536, 1)
        block = self.second.seal_issue(file_key, random(24), **issue)
        pack.write_bytes(header * 2 + block * 2)

    def stop(self):
        self._listener.close()
        for link in self.links:
            link.end()

    def _accept(self):
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line):
        link = None
        try:
            link = Link(self, line)
            self.links.append(link)
            link.carry()
        except (OSError, self.second.Refused) as error:
            self.errors.append(error)
        finally:
            if link:
                link.end()
            line.close()

    def step_of(self, tag):
        """Index and keys of the link that a tag names."""
        for index in range(self.base, self.base + AHEAD):
            step = self.chain.step_at(index)
            if step[2] == tag:
                return index, step
        raise self.second.Refused


class Link:
    """One link: `holder` is the end that it answers, `relay` the one that it makes to the relay behind."""

    def __init__(self, liar, line):
        second, self.liar, self.holder = liar.second, liar, line
        self.asked, self.lock = {}, threading.Lock()
        self.relay = None
        cell1 = self._cell(self.holder)
        index, step = liar.step_of(cell1[:16])
        answering, asking = second.Handshake(step), second.Handshake(step)
        holder_public = answering.open_cell1(cell1)
        ours, theirs = os.urandom(32), os.urandom(32)
        self.relay = socket.create_connection(liar.behind, 30)
        self.relay.sendall(asking.seal_cell1(theirs, os.urandom(24)))
        relay_public, floor = asking.open_cell2(self._cell(self.relay))
        liar.base = max(liar.base, floor)
        self.holder.sendall(answering.seal_cell2(ours, floor, os.urandom(24)))
        answering.agree(second.x25519(ours, holder_public), second.x25519(liar.secret, holder_public))
        asking.agree(second.x25519(theirs, relay_public), second.x25519(theirs, liar.far_public))
        token, answered = answering.open_cell3(self._cell(self.holder))
        self.relay.sendall(asking.seal_cell3(index, token, answered, os.urandom(32), os.urandom(32)))
        self.from_holder, self.to_holder = self._ratchets(answering)
        self.to_relay, self.from_relay = self._ratchets(asking)

    def _ratchets(self, handshake):
        return tuple(self.liar.second.Ratchet(*pair) for pair in zip(("up", "down"), handshake.traffic()))

    def carry(self):
        """Passes on, both ways, until one end ends."""
        for line in (self.holder, self.relay):
            line.settimeout(None)
        up = threading.Thread(target=self._guarded, args=(self._up,), daemon=True)
        up.start()
        self._guarded(self._down)
        up.join()

    def end(self):
        for line in (self.holder, self.relay):
            try:
                line.shutdown(socket.SHUT_RDWR)
            except (OSError, AttributeError):
                pass

    def _guarded(self, pump):
        try:
            pump()
        except (OSError, self.liar.second.Refused) as error:
            self.liar.errors.append(error)
        finally:
            self.end()

    def _up(self):
        second = self.liar.second
        for kind, stream, data in self._messages(self.holder, self.from_holder):
            if kind != second.REQUEST:
                self._pass(self.relay, self.to_relay, kind, stream, data)
                continue
            header, body = self._split(data)
            with self.lock:
                self.asked[stream] = header
                passed = self.liar.lie.request(self, stream, header, body)
            if passed is not None:
                self.relay.sendall(second.message_cells(self.to_relay, kind, stream, second.varint(1) + passed[0], passed[1]))

    def _down(self):
        second = self.liar.second
        for kind, stream, data in self._messages(self.relay, self.from_relay):
            if kind != second.ANSWER:
                with self.lock:
                    self._pass(self.holder, self.to_holder, kind, stream, data)
                continue
            header, body = self._split(data)
            with self.lock:
                for told in self.liar.lie.answer(self, self.asked.get(stream, b""), stream, header, body):
                    self._say(*told)

    def say(self, stream, header, body=b""):
        """An answer that the relay behind has no part in; from within `request`."""
        self._say(stream, header, body)

    def _say(self, stream, header, body):
        second = self.liar.second
        self.holder.sendall(second.message_cells(self.to_holder, second.ANSWER, stream, second.varint(1) + header, body))

    def raw(self, cells):
        """Cells to the holder as they are, sealed by `to_holder`; from within `answer`."""
        self.holder.sendall(cells)

    def _split(self, data):
        (length,) = struct.unpack("<H", data[:2])
        return data[3 : 2 + length], data[2 + length :]

    def _pass(self, line, ratchet, kind, stream, data):
        line.sendall(ratchet.seal(kind, self.liar.second.LAST, stream, data))

    def _messages(self, line, ratchet):
        """Each message as a whole: kind, stream, data. What fills bursts up is left out, and made anew behind."""
        second, whole = self.liar.second, b""
        first = None
        while True:
            kind, flags, stream, data = ratchet.open(self._cell(line))
            if kind == second.PAD:
                continue
            if kind == second.DATA:
                kind, (_, stream) = first[0], first
            else:
                whole = b""
            whole, first = whole + data, (kind, stream)
            if flags & second.LAST:
                yield kind, stream, whole

    def _cell(self, line):
        cell = b""
        while len(cell) < CELL:
            part = line.recv(CELL - len(cell))
            if not part:
                raise ConnectionError("the end of a line")
            cell += part
        return cell


def numbers(second, data, count):
    """The first `count` varints, and the rest."""
    found = []
    for _ in range(count):
        number, data = second.read_varint(data)
        found.append(number)
    return found, data


def is_submission(second, request):
    """Whether a request's header is a message's."""
    if second.read_varint(request)[0] != CHANGE:
        return False
    (_, _), rest = numbers(second, request, 2)
    _, operation = second.read_varint(rest[32:])
    return second.read_varint(operation)[0] == SUBMIT


def submission(second, request):
    """Number of a submission, and the most that it may be debited."""
    (_, seq), rest = numbers(second, request, 2)
    _, operation = second.read_varint(rest[32:])
    (_, _, debit_max), _ = numbers(second, operation, 3)
    return seq, debit_max


def encode(second, *values):
    return b"".join(map(second.varint, values))
