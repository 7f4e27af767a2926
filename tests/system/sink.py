"""An SMTP server that stands for the outside world: takes everything, keeps the octets, misbehaves on request."""

import asyncio
import base64
import os
import time
from dataclasses import dataclass, field

from serving import ThreadedServer

DROP = "drop"
GARBAGE = "garbage"
DRIP = "drip"
CRLF = b"\r\n"


@dataclass
class Delivery:
    """One message that reached its final dot, octet for octet, dot-stuffing undone."""

    reverse_path: str
    recipients: list
    content: bytes
    at: float
    commands: list
    secured: bool = False
    answered: bool = False


@dataclass
class Fault:
    """What the sink does instead of agreeing: a reply, a wait before going on, `DROP`, octets without end that mean
    nothing (`GARBAGE`), or a line without end, octet by octet (`DRIP`)."""

    verb: str
    reply: str = None
    wait: float = 0.0
    times: int = -1
    recipient: str = ""

    def strikes(self, verb, recipients):
        return (
            self.verb == verb
            and self.times != 0
            and (not self.recipient or any(self.recipient in path for path in recipients))
        )


@dataclass
class Session:
    reverse_path: str = None
    recipients: list = field(default_factory=list)
    commands: list = field(default_factory=list)
    secured: bool = False
    known: bool = False


class Sink(ThreadedServer):
    """The outside world, in a thread of its own. `offered` holds all that reached the dot, answered or not."""

    def __init__(self, host="127.0.0.1", port=0, name="sink.test", tls=None, credentials=None):
        """`tls` is the context of a server that offers STARTTLS; with `credentials`, user and password, it takes mail
        from that user alone."""
        self.name, self.tls, self.credentials = name, tls, credentials
        self.offered = []
        self.connections = 0
        self._faults = []
        super().__init__(host, port)

    @property
    def delivered(self):
        """Messages whose sender was told 250."""
        return [delivery for delivery in self.offered if delivery.answered]

    def misbehave(self, verb, reply=None, wait=0.0, times=-1, recipient=""):
        """From now on, and `times` times, answer `verb` (CONNECT, EHLO, STARTTLS, HANDSHAKE, MAIL,
        RCPT, DATA, DOT) with `reply`, DROP, GARBAGE or DRIP."""
        fault = Fault(verb, reply, wait, times, recipient)
        self._faults.append(fault)
        return fault

    def behave(self):
        """Ends all misbehaviour."""
        self._faults.clear()

    def with_word(self, word):
        """Delivered messages whose content holds `word`."""
        return [delivery for delivery in self.delivered if word.encode() in delivery.content]

    async def serve(self, reader, writer):
        self.connections += 1
        session = Session()
        if not await self._answer(writer, session, "CONNECT", f"220 {self.name} ESMTP"):
            return
        while line := await reader.readline():
            text = line.decode("latin-1").strip()
            session.commands.append(text)
            verb = text.split(" ")[0].split(":")[0].upper()
            path = text.partition("<")[2].partition(">")[0]
            if verb == "DATA":
                going_on = await self._data(reader, writer, session)
            elif verb == "RCPT":
                before = session.recipients
                session.recipients = before + [path]
                going_on = await self._answer(writer, session, verb, "250 2.1.5 ok")
                if going_on != "250":
                    session.recipients = before
            elif verb == "AUTH":
                words = "\0".join(("", *(self.credentials or ("", ""))))
                session.known = text == "AUTH PLAIN " + base64.b64encode(words.encode()).decode()
                going_on = await self._answer(writer, session, verb, "235 in" if session.known else "535 5.7.8 no")
            elif verb == "MAIL" and self.credentials and not session.known:
                going_on = await self._answer(writer, session, verb, "530 5.7.0 log in")
            elif verb == "STARTTLS" and self.tls and not session.secured:
                going_on = await self._start_tls(reader, writer, session)
            else:
                if verb in ("MAIL", "RSET", "EHLO"):
                    session.reverse_path, session.recipients = path, []
                reply = self._offers(session) if verb == "EHLO" else REPLIES.get(verb, "502 5.5.1 no")
                going_on = await self._answer(writer, session, verb, reply)
            if not going_on or verb == "QUIT":
                return

    def _offers(self, session):
        offers = ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 73400320"]
        if self.tls and not session.secured:
            offers.append("STARTTLS")
        if self.credentials and session.secured:
            offers.append("AUTH PLAIN")
        lines = [self.name, *offers]
        return "\r\n".join(f"250-{line}" for line in lines[:-1]) + f"\r\n250 {lines[-1]}"

    async def _start_tls(self, reader, writer, session):
        going_on = await self._answer(writer, session, "STARTTLS", "220 2.0.0 go on")
        if going_on != "220":
            return going_on
        if any(fault.strikes("HANDSHAKE", []) for fault in self._faults):
            return await self._answer(writer, session, "HANDSHAKE", "not a handshake")
        await writer.start_tls(self.tls)
        session.secured = True
        session.reverse_path, session.recipients = None, []
        return going_on

    async def _data(self, reader, writer, session):
        if not session.recipients:
            return await self._answer(writer, session, "", "554 5.5.1 no recipient")
        going_on = await self._answer(writer, session, "DATA", "354 go on")
        if going_on != "354":
            return going_on
        lines = []
        while (line := await reader.readuntil(CRLF)) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        delivery = Delivery(
            session.reverse_path,
            session.recipients,
            b"".join(lines),
            time.time(),
            list(session.commands),
            session.secured,
        )
        self.offered.append(delivery)
        going_on = await self._answer(writer, session, "DOT", "250 2.0.0 kept")
        delivery.answered = going_on == "250"
        session.recipients = []
        return going_on

    async def _answer(self, writer, session, verb, reply):
        """Sends `reply` or what a fault wants instead. Returns the code sent, empty when the connection is to end."""
        for fault in list(self._faults):
            if fault.strikes(verb, session.recipients):
                fault.times -= 1
                await asyncio.sleep(fault.wait)
                if fault.reply == DROP:
                    return ""
                if fault.reply in (GARBAGE, DRIP):
                    await self._babble(writer, fault.reply)
                    return ""
                reply = fault.reply or reply
                break
        writer.write(reply.encode() + CRLF)
        await writer.drain()
        return reply[:3]


    @staticmethod
    async def _babble(writer, how):
        while True:
            writer.write(os.urandom(1 << 16) if how == GARBAGE else b"2")
            await writer.drain()
            await asyncio.sleep(0 if how == GARBAGE else 1)


REPLIES = {
    "HELO": "250 sink.test",
    "MAIL": "250 2.1.0 ok",
    "RSET": "250 2.0.0 ok",
    "NOOP": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}
