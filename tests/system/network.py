"""A network on this machine: nodes behind one switch, which a test cuts, parts, joins and listens to.

Each node is a network namespace, where the kernel and the user allow them; else an address of loopback, whose lines can
only be cut from the side that is dialled, and not be listened to. POSTERN_NAMESPACES=0 asks for the second.
"""

import atexit
import contextlib
import ctypes
import errno
import itertools
import os
import socket
import struct
import subprocess
import threading

from figures import CELL
from proxy import Proxy

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
IPV4, SYN, RST = b"\x08\x00", 2, 4
#: Octets in a row that two lines may not have in common.
WINDOW = 16
#: An address that no node has: what is sent there is lost.
NOBODY = "02:00:00:00:00:01"
LINK_PORT, MX_PORT = 7025, 2525

_count = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def _ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise OSError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def _environment():
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


def network():
    """The best network that can be made here."""
    if os.environ.get("POSTERN_NAMESPACES") == "0":
        return Loopback()
    try:
        return Namespaces()
    except OSError:
        return Loopback()


class Node:
    """A machine of the network: its name and its address."""

    def __init__(self, network, name, address):
        self.network, self.name, self.address = network, name, address

    def inside(self):
        """Whatever this thread opens and starts meanwhile, it does on this machine."""
        return self.network.inside(self)

    #: Where a relay listens for links, and what others dial.
    @property
    def link(self):
        return self.network.link(self)

    @property
    def link_public(self):
        return f"{self.address}:{LINK_PORT}"

    @property
    def mx(self):
        return f"{self.address}:{MX_PORT}"


class Namespaces:
    """Nodes that are network namespaces, each with one line to a switch in a namespace of its own."""

    says = "network namespaces"
    listens = True

    def __init__(self):
        self._prefix = f"postern-{os.getpid()}-{next(_count)}"
        self._spaces, self.nodes = [], {}
        atexit.register(self.close)
        remove_left_over()
        try:
            self._add_space("switch")
            _ip("-n", self._space("switch"), "link", "add", "name", "switch", "type", "bridge")
            _ip("-n", self._space("switch"), "link", "set", "dev", "switch", "up")
            # Whether this kernel has such lines shows before anybody counts on them.
            _ip("-n", self._space("switch"), "link", "add", "name", "trial", "type", "veth", "peer", "name", "other")
            _ip("-n", self._space("switch"), "link", "delete", "dev", "trial")
        except OSError:
            self.close()
            raise

    def _space(self, name):
        return f"{self._prefix}-{name}"

    def _add_space(self, name):
        _ip("netns", "add", self._space(name))
        self._spaces.append(self._space(name))

    def add(self, name):
        """One machine more."""
        node = Node(self, name, f"10.77.0.{len(self.nodes) + 1}")
        switch, space = self._space("switch"), self._space(name)
        self._add_space(name)
        _ip("-n", switch, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", switch, "link", "set", "dev", name, "master", "switch", "up")
        _ip("-n", space, "address", "add", f"{node.address}/24", "dev", "eth0")
        for line in ("lo", "eth0"):
            _ip("-n", space, "link", "set", "dev", line, "up")
        self.nodes[name] = node
        return node

    @staticmethod
    def link(node):
        return node.link_public

    def inside(self, node):
        return self._within(self._space(node.name))

    @contextlib.contextmanager
    def _within(self, space):
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{space}") as there:
            _enter(there)
            try:
                yield
            finally:
                _enter(before)

    def cut(self, node):
        """Pulls a node's cable: nothing comes or goes, and nobody is told."""
        _ip("-n", self._space("switch"), "link", "set", "dev", node.name, "down")

    def mend(self, node):
        """Puts it back."""
        _ip("-n", self._space("switch"), "link", "set", "dev", node.name, "up")

    def part(self, one, other):
        """Loses what these two send each other; all others hear both."""
        for node, to in ((one, other), (other, one)):
            words = ("replace", to.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
            _ip("-n", self._space(node.name), "neighbour", *words)

    def join(self, one, other):
        """Ends that."""
        for node, to in ((one, other), (other, one)):
            _ip("-n", self._space(node.name), "neighbour", "delete", to.address, "dev", "eth0")

    def capture(self, node):
        """Records what goes over a node's line from now on."""
        with self._within(self._space("switch")):
            return Capture(node)

    def close(self):
        while self._spaces:
            subprocess.run(["ip", "netns", "delete", self._spaces.pop()], capture_output=True, env=_environment())


def remove_left_over():
    """Removes the namespaces of processes that were killed."""
    for space in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        words = space.split("-")
        if words[0] == "postern" and not os.path.exists(f"/proc/{words[1]}"):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, env=_environment())


def _enter(space):
    if _libc.setns(space.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Loopback:
    """Nodes that are addresses of loopback. What a node dials leaves by an address that all share, so that a line can
    be cut where it arrives alone."""

    says = "loopback addresses"
    listens = False

    def __init__(self):
        self.nodes, self._fronts = {}, {}
        # Its own among those that run beside it.
        self._net = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"

    def add(self, name):
        node = Node(self, name, f"{self._net}.{len(self.nodes) + 1}")
        self.nodes[name] = node
        return node

    def link(self, node):
        """The relay listens behind the address that others dial, at which lines are cut."""
        behind = f"{node.address}:{LINK_PORT + 1}"
        if node.name not in self._fronts:
            self._fronts[node.name] = Proxy(behind, record=False, host=node.address, port=LINK_PORT)
        return behind

    @staticmethod
    def inside(_):
        return contextlib.nullcontext()

    def cut(self, node):
        if front := self._fronts.get(node.name):
            front.partition()

    def mend(self, node):
        if front := self._fronts.get(node.name):
            front.heal()

    def part(self, one, other):
        for node in (one, other):
            self.cut(node)

    def join(self, one, other):
        for node in (one, other):
            self.mend(node)

    def close(self):
        for front in self._fronts.values():
            front.stop()


class Capture:
    """Everything that crosses one node's line, in both directions."""

    def __init__(self, node):
        self.node, self._frames = node, []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
        self._socket.bind((node.name, 0))
        self._socket.settimeout(0.1)
        self._going = True
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while True:
            try:
                self._frames.append(self._socket.recv(1 << 17))
            except TimeoutError:
                if not self._going:
                    return
            except OSError as error:
                # The line was cut: it may be mended.
                if error.errno != errno.ENETDOWN:
                    raise

    def stop(self):
        """Ends it; frames that the kernel had no room for are an error of the test."""
        self._going = False
        self._thread.join(10)
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self._socket.close()
        dropped = struct.unpack("II", statistics)[1]
        if dropped:
            raise AssertionError(f"{dropped} frames at {self.node.name} were not recorded")
        return self

    def streams(self):
        """What each TCP connection carried in each direction, of those whose beginning was seen: (address, port) of both
        ends, and the octets in order."""
        flows = self._flows()
        return {ends: flow.octets() for ends, flow in flows.items() if flow.start is not None and flow.pieces}

    def torn(self):
        """Lengths of links' streams that are no whole cells, but for those that one end gave up: there a cell may be cut."""
        reset = {frozenset(ends) for ends, flow in self._flows().items() if flow.is_reset}
        links = {ends: len(octets) for ends, octets in self.links().items() if frozenset(ends) not in reset}
        return {ends: length for ends, length in links.items() if length % CELL}

    def _flows(self):
        flows = {}
        for frame in list(self._frames):
            if segment := _tcp(frame):
                ends, sequence, flags, octets = segment
                flow = flows.setdefault(ends, _Flow())
                if flags & SYN:
                    flow.start = sequence + 1
                flow.is_reset |= bool(flags & RST)
                if len(octets) > len(flow.pieces.get(sequence, b"")):
                    flow.pieces[sequence] = octets
        return flows

    def links(self):
        """The streams of links among them."""
        return {ends: octets for ends, octets in self.streams().items() if LINK_PORT in (ends[0][1], ends[1][1])}

    def others(self):
        """All that is no link's."""
        return {ends: octets for ends, octets in self.streams().items() if LINK_PORT not in (ends[0][1], ends[1][1])}

    def sent(self):
        """What the node sent on links, one behind the other."""
        return b"".join(octets for ends, octets in self.links().items() if ends[0][0] == self.node.address)

    def received(self, sender=None):
        """What came to it on links, from everybody or one node."""
        came = {ends: octets for ends, octets in self.links().items() if ends[1][0] == self.node.address}
        return b"".join(octets for ends, octets in came.items() if sender is None or ends[0][0] == sender.address)

    def packets(self):
        """All IPv4 packets, headers and all."""
        return [frame[14:] for frame in list(self._frames) if frame[12:14] == IPV4]


class _Flow:
    """One direction of a connection: its first sequence number, and the octets that began at each."""

    def __init__(self):
        self.start, self.is_reset, self.pieces = None, False, {}

    def octets(self):
        """Each octet once, in their order."""
        # Sequence numbers go round once in 4 GiB.
        places = sorted(((sequence - self.start) & 0xFFFFFFFF, octets) for sequence, octets in self.pieces.items())
        whole = bytearray()
        for at, octets in places:
            # A keepalive is an octet before the first that is new.
            if at > 1 << 31:
                continue
            if at > len(whole):
                raise AssertionError(f"{at - len(whole)} octets of a stream were not recorded")
            whole += octets[len(whole) - at :]
        return bytes(whole)


def _tcp(frame):
    """Ends, sequence number, flags and octets of a frame of TCP over IPv4; None of any other."""
    if len(frame) < 54 or frame[12:14] != IPV4 or frame[23] != 6:
        return None
    total = struct.unpack_from("!H", frame, 16)[0]
    ip = 14 + (frame[14] & 15) * 4
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    source_port, target_port, sequence = struct.unpack_from("!HHI", frame, ip)
    data = ip + (frame[ip + 12] >> 4) * 4
    end = 14 + total if total else len(frame)
    return ((source, source_port), (target, target_port)), sequence, frame[ip + 13], frame[data:end]


def common(sent, received):
    """Places in `sent` where at least WINDOW octets begin that are in `received` too, wherever they lie."""
    half = WINDOW // 2
    # Each window holds at least one of these whole.
    places = {received[at : at + half]: at for at in range(0, len(received) - half + 1, half)}
    found = []
    for at in range(len(sent) - half + 1):
        there = places.get(sent[at : at + half])
        if there is not None and _length(sent, at, received, there) >= WINDOW:
            found.append(at)
    return found


def _length(sent, at, received, there):
    """How long the run is, to both sides of a place, that two texts share."""
    before = 0
    while before < WINDOW and min(at, there) > before and sent[at - before - 1] == received[there - before - 1]:
        before += 1
    after = 0
    while after < WINDOW and sent[at + after : at + after + 1] == received[there + after : there + after + 1] != b"":
        after += 1
    return before + after
