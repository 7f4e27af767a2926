"""A TCP proxy between bridge and relay that writes everything down and can do what an attacker on the path can."""

import asyncio
import time
from dataclasses import dataclass, field

from serving import ThreadedServer

UP, DOWN = "up", "down"


@dataclass
class Connection:
    """What one connection carried: `chunks` are (seconds, direction, octets) in the order in which they came."""

    number: int
    opened: float
    chunks: list = field(default_factory=list)
    counts: dict = field(default_factory=lambda: {UP: 0, DOWN: 0})
    closed: float = None
    writers: list = field(default_factory=list)

    def octets(self, direction):
        """All that went in this direction."""
        return b"".join(data for _, way, data in self.chunks if way == direction)

    def bursts(self, quiet=0.2):
        """(direction, octets) of each run that no octet the other way and no pause of `quiet` seconds parts."""
        runs, last = [], None
        for at, direction, data in self.chunks:
            if last and last[1] == direction and at - last[0] < quiet:
                runs[-1][1] += len(data)
            else:
                runs.append([direction, len(data)])
            last = (at, direction)
        return [tuple(run) for run in runs]


class Proxy(ThreadedServer):
    """Listens on a free port, or one that is given, and passes on to `target` ("127.0.0.1:PORT"), in a thread of its own."""

    def __init__(self, target, record=True, host="127.0.0.1", port=0):
        self.connections = []
        self.record = record
        self.delay = 0.0
        self._host, self._port = target.rsplit(":", 1)
        self._flips, self._swallowed = [], set()
        self._limits = {}
        self._gate_open = True
        super().__init__(host, port)

    @property
    def open_connections(self):
        return [connection for connection in self.connections if connection.closed is None]

    def cut(self):
        """Ends every open connection with a reset, as when a cable is pulled and the kernel notices."""
        self.call(self._cut_all)

    def partition(self):
        """Passes nothing on and takes nothing new until `heal`; what is open is cut."""
        self._gate_open = False
        self.call(self._cut_all)

    def heal(self):
        """Ends a partition and all flips, swallowing and limits."""
        self._flips.clear()
        self._swallowed.clear()
        self._limits.clear()
        self._gate_open = True

    def flip(self, direction, offset):
        """Turns one bit of the octet at `offset` of this direction of the next connection that reaches it."""
        self._flips.append((direction, offset))

    def swallow(self, direction):
        """Drops what goes in this direction from now on, while the connection stays open."""
        self._swallowed.add(direction)

    def cut_after(self, direction, octets):
        """Cuts every later connection once it has passed `octets` in this direction, to the octet."""
        self._limits[direction] = octets

    def _cut_all(self):
        for connection in self.open_connections:
            _reset(connection)

    async def serve(self, client_reader, client_writer):
        if not self._gate_open:
            client_writer.transport.abort()
            return
        try:
            relay_reader, relay_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            client_writer.transport.abort()
            return
        # A partition may have begun meanwhile, and knows only of what stood.
        if not self._gate_open:
            client_writer.transport.abort()
            relay_writer.transport.abort()
            return
        connection = Connection(len(self.connections), time.time(), writers=[client_writer, relay_writer])
        self.connections.append(connection)
        await asyncio.gather(
            self._pump(connection, UP, client_reader, relay_writer),
            self._pump(connection, DOWN, relay_reader, client_writer),
            return_exceptions=True,
        )
        connection.closed = connection.closed or time.time()
        for writer in connection.writers:
            writer.close()

    async def _pump(self, connection, direction, reader, writer):
        try:
            while data := await reader.read(1 << 18):
                if self.delay:
                    await asyncio.sleep(self.delay)
                data = self._tamper(connection, direction, data)
                if self.record:
                    connection.chunks.append((time.time(), direction, data))
                connection.counts[direction] += len(data)
                if direction in self._swallowed:
                    continue
                limit = self._limits.get(direction)
                if limit is not None and connection.counts[direction] >= limit:
                    writer.write(data[: len(data) - (connection.counts[direction] - limit)])
                    await writer.drain()
                    _reset(connection)
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        try:
            writer.write_eof()
        except (OSError, RuntimeError):
            pass

    def _tamper(self, connection, direction, data):
        start = connection.counts[direction]
        for flip in list(self._flips):
            way, offset = flip
            if way == direction and start <= offset < start + len(data):
                at = offset - start
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                self._flips.remove(flip)
        return data


def _reset(connection):
    connection.closed = time.time()
    for writer in connection.writers:
        writer.transport.abort()
