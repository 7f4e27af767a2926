"""A second implementation of the Postern protocol, version 1, written from docs/PROTOCOL.md alone.

It shares no code with the Rust crates: XSalsa20-Poly1305, X25519 and Argon2id are libsodium's (PyNaCl), HKDF is the
standard library's HMAC. Section numbers below are those of docs/PROTOCOL.md. `check.py` holds it against the vectors;
`Client` makes links over TCP, for tests that replay, cut and alter them.
"""

import hashlib
import hmac
import os
import socket
import struct

import nacl.bindings
import nacl.exceptions
import nacl.pwhash.argon2id

CELL = 16_384
DATA_MAX = 16_360
VERSION = 1
STEPS_MAX = 2**20

LINKED, REQUEST, DATA, ANSWER, NEW, CLOSE, PAD, ROTATE, ROTATED = range(1, 10)
LAST = 1


class Refused(Exception):
    """The bytes do not open."""


# Section 1: primitives.


def digest(*pieces):
    return hashlib.sha256(b"".join(pieces)).digest()


def label(purpose):
    return b"postern/1/" + purpose.encode("ascii") + b"\0"


def hx(purpose, ikm):
    return hxk(label(purpose), ikm)


def hxk(key, ikm):
    return hmac.new(key, ikm, hashlib.sha256).digest()


def he(key, purpose, context=b"", length=32):
    info = label(purpose) + context
    out, block = b"", b""
    for counter in range(1, 256):
        if len(out) >= length:
            break
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def box(key, nonce, plain):
    return nacl.bindings.crypto_secretbox(plain, nonce, key)


def unbox(key, nonce, boxed):
    try:
        return nacl.bindings.crypto_secretbox_open(boxed, nonce, key)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise Refused from error


def x25519(secret, public):
    try:
        shared = nacl.bindings.crypto_scalarmult(secret, public)
    except (nacl.exceptions.RuntimeError, RuntimeError) as error:
        raise Refused from error
    if shared == bytes(32):
        raise Refused
    return shared


def x25519_public(secret):
    return nacl.bindings.crypto_scalarmult_base(secret)


def hedged_nonce(local_secret, random, index, plain):
    return he(local_secret, "hedge", random + struct.pack("<Q", index) + digest(plain), 24)


# Section 2: chains.


class Chain:
    """One of a pack's chains, standing before `index`."""

    def __init__(self, name, state, index=0):
        self.name, self.state, self.index = name, state, index

    @classmethod
    def from_root(cls, name, root):
        return cls(name, he(root, "chain/" + name))

    def advance(self):
        """Returns the keys of the index: (U, D, T) for `link`, (K, T) for the others."""
        link = self.name == "link"
        okm = he(self.state, "step/" + self.name, b"", 112 if link else 80)
        self.state, self.index = okm[:32], self.index + 1
        return (okm[32:64], okm[64:96], okm[96:112]) if link else (okm[32:64], okm[64:80])

    def forward_to(self, index):
        if not 0 <= index - self.index <= STEPS_MAX:
            raise ValueError("out of reach")
        while self.index < index:
            self.advance()

    def step_at(self, index):
        ahead = Chain(self.name, self.state, self.index)
        ahead.forward_to(index)
        return ahead.advance()


# Section 3: the handshake.


def _open_box(cell, start, key, nonce_at):
    return unbox(key, cell[nonce_at : nonce_at + 24], cell[start:])


class Handshake:
    """What both ends compute; `step` is (U, D, T) of the index."""

    def __init__(self, step):
        up, down, self.tag = step
        self.psk = hx("link", up + down)
        self.cells = b""
        self.ck = None

    def _key(self, purpose):
        keyed = self.ck if purpose == "hs3" else self.psk
        return he(keyed, purpose, b"" if purpose == "hs1" else digest(self.cells))

    def seal_cell1(self, ephemeral_secret, nonce):
        plain = x25519_public(ephemeral_secret) + bytes([VERSION]) + struct.pack("<I", 0)
        cell = self.tag + nonce + box(self._key("hs1"), nonce, plain.ljust(16_328, b"\0"))
        self.cells = cell
        return cell

    def open_cell1(self, cell):
        """Returns e_c."""
        plain = _open_box(cell, 40, self._key("hs1"), 16)
        if cell[:16] != self.tag or plain[32] != VERSION:
            raise Refused
        self.cells = cell
        return plain[:32]

    def seal_cell2(self, ephemeral_secret, floor, nonce):
        plain = x25519_public(ephemeral_secret) + struct.pack("<Q", floor) + bytes([VERSION])
        cell = nonce + box(self._key("hs2"), nonce, plain.ljust(16_344, b"\0"))
        self.cells += cell
        return cell

    def open_cell2(self, cell):
        """Returns (e_s, p)."""
        plain = _open_box(cell, 24, self._key("hs2"), 0)
        if plain[40] != VERSION:
            raise Refused
        self.cells += cell
        return plain[:32], struct.unpack("<Q", plain[32:40])[0]

    def agree(self, ephemeral, fixed):
        """Takes both X25519 results: with the other's ephemeral key, and with or of S."""
        self.ck = hxk(self.psk, ephemeral + fixed)

    def seal_cell3(self, index, token, answered, local_secret, random):
        plain = (token + struct.pack("<Q", answered)).ljust(16_344, b"\0")
        nonce = hedged_nonce(local_secret, random, index, plain)
        cell = nonce + box(self._key("hs3"), nonce, plain)
        self.cells += cell
        return cell

    def open_cell3(self, cell):
        """Returns (token, answered)."""
        plain = _open_box(cell, 24, self._key("hs3"), 0)
        self.cells += cell
        return plain[:16], struct.unpack("<Q", plain[16:24])[0]

    def traffic(self):
        """Returns (k_up, k_down); keeps ck0."""
        okm = he(self.ck, "traffic", digest(self.cells), 96)
        self.ck0 = okm[64:]
        return okm[:32], okm[32:64]


def rotate_data(index, random):
    return struct.pack("<Q", index) + random


def rotated_traffic(ck0, step, data):
    """The keys behind ROTATE with these data: returns (k_up, k_down, ck0)."""
    up, down, _ = step
    okm = he(hxk(ck0, up + down), "traffic", digest(data), 96)
    return okm[:32], okm[32:64], okm[64:]


def encode_linked(token, highest, floor, flags, generation=0):
    data = token + struct.pack("<QQB", highest, floor, flags)
    return data + struct.pack("<Q", generation) if generation else data


def decode_linked(data):
    """Returns (token, highest, floor, flags, generation)."""
    if len(data) == 33:
        return (data[:16], *struct.unpack("<QQB", data[16:]), 0)
    if len(data) != 41:
        raise Refused
    token, (highest, floor, flags, generation) = data[:16], struct.unpack("<QQBQ", data[16:])
    if not generation:
        raise Refused
    return token, highest, floor, flags, generation


# Section 4: cells.


class Ratchet:
    """One direction of a link; `direction` is "up" or "down"."""

    def __init__(self, direction, key):
        self.purpose, self.key, self.counter = "cell/" + direction, key, 0

    def _keys(self):
        okm = he(self.key, self.purpose, b"", 64)
        return okm[:32], okm[32:], bytes(16) + struct.pack("<Q", self.counter)

    def seal(self, kind, flags, stream, data):
        box_key, following, nonce = self._keys()
        plain = struct.pack("<HBBI", len(data), kind, flags, stream) + data
        self.key, self.counter = following, self.counter + 1
        return box(box_key, nonce, plain.ljust(16_368, b"\0"))

    def open(self, cell):
        """Returns (kind, flags, stream, data)."""
        box_key, following, nonce = self._keys()
        plain = unbox(box_key, nonce, cell)
        self.key, self.counter = following, self.counter + 1
        length, kind, flags, stream = struct.unpack("<HBBI", plain[:8])
        if length > DATA_MAX or not LINKED <= kind <= ROTATED or flags & ~LAST:
            raise Refused
        return kind, flags, stream, plain[8 : 8 + length]


def padding(cells):
    return (1 << (cells - 1).bit_length()) - cells if cells else 0


# Section 5: as much of the requests as tests need.


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def read_varint(data):
    """Returns (number, rest)."""
    number = 0
    for at, byte in enumerate(data[:10]):
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return number, data[at + 1 :]
    raise Refused


def expire(day=None):
    """The operation that ends an account; without a day the one that takes it back."""
    return varint(7) + (b"\0" if day is None else b"\1" + varint(day))


def device(identifier, root, keys):
    """The operation that makes another device of the account."""
    return varint(8) + identifier + root + varint(keys)


def drop_device(number):
    return varint(9) + varint(number)


def tell(locals):
    encoded = [local.encode() for local in locals]
    return varint(10) + varint(len(encoded)) + b"".join(varint(len(local)) + local for local in encoded)


def envelope(reverse_path, recipients, message_id=None, hops=0, wishes=(), mix=None):
    """The envelope of a payload behind its length; wishes is a list of (recipient, bits), mix the number of a profile."""

    def text(value):
        return varint(len(value)) + value.encode()

    asked = [b"\0" + varint(at) + bytes([bits]) for at, bits in wishes]
    asked += [] if mix is None else [b"\2" + bytes([mix])]
    options = varint(len(asked)) + b"".join(asked) if asked else b""
    if hops:
        version, last = 5 if asked else 3, bytes([hops])
    elif message_id:
        version, last = 4 if asked else 2, message_id
    else:
        version, last = 1, b""
    encoded = bytes([version]) + text(reverse_path) + varint(len(recipients)) + b"".join(map(text, recipients)) + last + options
    return struct.pack("<H", len(encoded)) + encoded


ASK_DEVICES = varint(10)
ASK_MIXING = varint(12)
EVENTS = 2**32 - 4


def open_mixing(header):
    """Returns ([(profile, least, rounds, cost, median_s, most_s)], round_s, hold_s, (day, decibits, held_percent) or None)."""
    variant, rest = read_varint(header)

    def numbers(count, bytes_at):
        nonlocal rest
        found = []
        for at in range(count):
            if at in bytes_at:
                number, rest = rest[0], rest[1:]
            else:
                number, rest = read_varint(rest)
            found.append(number)
        return tuple(found)

    (count,) = numbers(1, ())
    profiles = [numbers(6, (0,)) for _ in range(count)]
    round_s, hold_s, is_measured = numbers(3, (2,))
    measured = numbers(3, (2,)) if is_measured else None
    if variant != 15 or rest:
        raise Refused
    return profiles, round_s, hold_s, measured


def open_devices(header):
    """Returns (own, [(number, since, used or None, keys)])."""
    variant, rest = read_varint(header)
    own, rest = read_varint(rest)
    count, rest = read_varint(rest)
    devices = []
    for _ in range(count):
        number, rest = read_varint(rest)
        since, rest = read_varint(rest)
        used, flag, rest = None, rest[0], rest[1:]
        if flag:
            used, rest = read_varint(rest)
        keys, rest = read_varint(rest)
        devices.append((number, since, used, keys))
    if variant != 13 or rest:
        raise Refused
    return own, devices


def open_events(payload):
    """The events that a deposit for EVENTS holds, each as its name and its fields."""
    if payload[:1] != b"\1":
        raise Refused
    count, rest = read_varint(payload[1:])
    events = []
    for _ in range(count):
        kind, rest = read_varint(rest)
        if kind == 4:
            order, (length, rest) = rest[:32], read_varint(rest[32:])
            events.append(("procured", order, rest[:length], rest[length : length + 16]))
            rest = rest[length + 16 :]
            continue
        if kind == 5:
            events.append(("not procured", rest[:32]))
            rest = rest[32:]
            continue
        first, rest = read_varint(rest)
        if kind == 0:
            length, rest = read_varint(rest)
            address, is_open, rest = rest[:length].decode(), rest[length], rest[length + 1 :]
            events.append(("alias", first, address, bool(is_open)))
        elif kind in (1, 2):
            by, rest = read_varint(rest)
            events.append((("joined", "dropped")[kind - 1], first, by))
        elif kind == 3:
            events.append(("frozen", first))
        else:
            raise Refused
    if rest or not 1 <= count <= 100:
        raise Refused
    return events


def change(seq, ident, blind, acknowledged, operation):
    """Header of a request that changes state, without its version byte."""
    return varint(5) + varint(seq) + ident + blind + varint(acknowledged) + operation


def change_digest(seq, ident, blind, operation):
    return digest(blind + struct.pack("<Q", seq) + ident + operation)


def open_outcome(header):
    """Returns ("moved", seq, keys, value, end, balance) or ("refused", seq, refusal), of refusals without data."""
    variant, rest = read_varint(header)
    name, count = {6: ("refused", 2), 11: ("moved", 5)}.get(variant, (None, 0))
    numbers = []
    for _ in range(count):
        number, rest = read_varint(rest)
        numbers.append(number)
    if name is None or rest:
        raise Refused
    return (name, *numbers)


def message_cells(ratchet, kind, stream, header, body=b""):
    """Seals a message as one burst."""
    content = struct.pack("<H", len(header)) + header + body
    parts = [content[at : at + DATA_MAX] for at in range(0, len(content), DATA_MAX)]
    cells = [
        ratchet.seal(DATA if at else kind, LAST if at == len(parts) - 1 else 0, stream, part)
        for at, part in enumerate(parts)
    ]
    cells += [ratchet.seal(PAD, LAST, 0, b"") for _ in range(padding(len(cells)))]
    return b"".join(cells)


# Section 6: classes and deposits.

CLASSES = [1 << power for power in range(17)]


def class_for(length):
    return next((c for c in CLASSES if 1_000 * c >= length), None)


def sealed_capacity(kilobytes):
    return 1_000 * kilobytes - 32 if kilobytes <= 8 else 15_984 * (kilobytes // 16) - 16


def sealed_class_for(length):
    return next((c for c in CLASSES if sealed_capacity(c) >= length), None)


def _chunk_nonce(prefix, counter, final):
    return prefix + counter.to_bytes(7, "little") + bytes([final])


def seal_body(dek, prefix, payload):
    """Returns (class, body)."""
    kilobytes = sealed_class_for(len(payload))
    plain = payload.ljust(sealed_capacity(kilobytes), b"\0")
    chunks = [plain[at : at + 15_984] for at in range(0, len(plain), 15_984)]
    body = prefix + b"".join(
        box(dek, _chunk_nonce(prefix, at, at == len(chunks) - 1), chunk) for at, chunk in enumerate(chunks)
    )
    return kilobytes, body


def open_body(dek, body, length):
    if len(body) % 1_000 or len(body) // 1_000 not in CLASSES:
        raise Refused
    prefix, sealed = body[:16], body[16:]
    chunks = [sealed[at : at + 16_000] for at in range(0, len(sealed), 16_000)]
    plain = b"".join(
        unbox(dek, _chunk_nonce(prefix, at, at == len(chunks) - 1), chunk) for at, chunk in enumerate(chunks)
    )
    if length > len(plain):
        raise Refused
    return plain[:length]


def seal_wrap(step, nonce, dek, body_digest, length, kilobytes, day, alias):
    key, tag = step
    plain = dek + body_digest + struct.pack("<IIII", length, kilobytes, day, alias)
    return tag + nonce + box(he(key, "post", tag), nonce, plain)


def open_wrap(step, wrap):
    """Returns (dek, body digest, length, class, day, alias)."""
    key, tag = step
    if len(wrap) != 136 or wrap[:16] != tag:
        raise Refused
    plain = unbox(he(key, "post", tag), wrap[16:40], wrap[40:])
    length, kilobytes, day, alias = struct.unpack("<IIII", plain[64:])
    if kilobytes not in CLASSES or length > sealed_capacity(kilobytes):
        raise Refused
    return plain[:32], plain[32:64], length, kilobytes, day, alias


# Section 7: parcels.

DELIVER, CONTROL = 1, 2
PARCEL_CLASSES = [1 << power for power in range(13)]


def parcel_capacity(n):
    return 15_920 * n - 3_040


def parcel_class_for(length):
    return next((n for n in PARCEL_CLASSES if parcel_capacity(n) >= length), None)


def seal_parcel(step, prefix, kind, n, hop, payload, fill):
    """Returns a parcel; `fill` makes so many bytes."""
    key, tag = step
    layer_key = he(key, "parcel", tag)
    header = (struct.pack("<BBHII", 1, kind, 0, n, len(payload)) + hop).ljust(512, b"\0")
    out = tag + prefix + box(layer_key, _chunk_nonce(prefix, 0, False), header)
    chunks = [payload[at : at + 15_984] for at in range(0, len(payload), 15_984)] or [b""]
    for at, chunk in enumerate(chunks, 1):
        out += box(layer_key, _chunk_nonce(prefix, at, at == len(chunks)), chunk)
    return out + fill(16_000 * n - len(out))


def open_parcel(step, parcel):
    """Returns (type, class, hop data, payload)."""
    key, tag = step
    if len(parcel) < 560 or parcel[:16] != tag:
        raise Refused
    layer_key, prefix = he(key, "parcel", tag), parcel[16:32]
    header = unbox(layer_key, _chunk_nonce(prefix, 0, False), parcel[32:560])
    version, kind, zeros, n, length = struct.unpack("<BBHII", header[:12])
    coherent = version == 1 and kind in (DELIVER, CONTROL) and zeros == 0 and n in PARCEL_CLASSES
    if not coherent or length > parcel_capacity(n) or len(parcel) != 16_000 * n:
        raise Refused
    payload, at, counter = b"", 560, 1
    while True:
        size = min(15_984, length - len(payload))
        final = len(payload) + size == length
        payload += unbox(layer_key, _chunk_nonce(prefix, counter, final), parcel[at : at + 16 + size])
        if final:
            return kind, n, header[12:], payload
        at, counter = at + 16 + size, counter + 1


def login(step):
    """Name and password at the collecting port."""
    key, tag = step
    return tag.hex(), he(key, "login", tag, 16).hex()


def control(confirmed, alias_open=None):
    """Payload of a parcel that confirms (index, digest) and perhaps opens an alias."""
    out = b"\1" + varint(1 + (alias_open is not None))
    out += b"\0" + varint(len(confirmed)) + b"".join(varint(index) + digest for index, digest in confirmed)
    if alias_open is not None:
        out += b"\1" + varint(len(alias_open)) + alias_open.encode()
    return out


def open_carried(step, carried):
    """Returns (alias number, payload, digest of the wrap) of a deposit that came without a link."""
    wrap, body = carried[:136], carried[136:]
    dek, body_digest, length, kilobytes, _, alias = open_wrap(step, wrap)
    if len(body) != 1_000 * kilobytes or digest(body) != body_digest:
        raise Refused
    return alias, open_body(dek, body, length), digest(wrap)


# Section 8: windows.


def floor_verdict(answered, held, floor):
    lowest = 0 if answered is None else answered + 1
    highest = 0 if held is None else held + 1
    if floor < lowest:
        return "RolledBack"
    return "Accept" if floor <= highest else "DoesNotOpen"


# Section 9: the pack file.

BLOCK = 4_096
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _passphrase_key(passphrase, salt, memory_kib, passes):
    return nacl.pwhash.argon2id.kdf(32, passphrase, salt, opslimit=passes, memlimit=memory_kib * 1_024)


def seal_header(passphrase, file_key, salt, nonce, memory_kib, passes):
    head = b"POSTERNP" + struct.pack("<HHIII", 1, 1, memory_kib, passes, 1)
    sealed = box(_passphrase_key(passphrase, salt, memory_kib, passes), nonce, file_key)
    return (head + salt + nonce + sealed).ljust(BLOCK, b"\0")


def open_header(block, passphrase):
    version, derivation, memory_kib, passes, lanes = struct.unpack("<HHIII", block[8:24])
    if block[:8] != b"POSTERNP" or (version, derivation, lanes) != (1, 1, 1):
        raise Refused
    if not (8 <= memory_kib <= 262_144 and 1 <= passes <= 16):
        raise Refused
    return unbox(_passphrase_key(passphrase, block[24:40], memory_kib, passes), block[40:64], block[64:112])


def _name(text):
    encoded = text.encode("utf-8")
    return (bytes([len(encoded)]) + encoded).ljust(256, b"\0")


def _read_name(room):
    return room[1 : 1 + room[0]].decode("utf-8")


def seal_issue(
    file_key,
    nonce,
    identifier,
    relay_public,
    link_keys,
    root,
    day,
    relay_address,
    relay_domain,
    aliases,
    rotation,
    pad=None,
):
    """`pad`: None, or name, region, records, and the check of its other half or None."""
    plain = bytes([1]) + identifier + relay_public + struct.pack("<Q", link_keys) + root + struct.pack("<I", day)
    plain += _name(relay_address) + _name(relay_domain) + bytes([len(aliases)])
    plain += b"".join(_name(alias) for alias in aliases)
    plain = plain.ljust(2_654, b"\0") + struct.pack("<QII", *rotation)
    if pad:
        *whole, half = pad
        plain += (b"\2" if half else b"\1") + struct.pack("<16sQQ", *whole) + (half or b"")
    return nonce + box(he(file_key, "pack/issue"), nonce, plain.ljust(4_056, b"\0"))


def open_issue(file_key, block):
    """Returns the fields by the names that `seal_issue` takes."""
    plain = unbox(he(file_key, "pack/issue"), block[:24], block[24:])
    if plain[0] != 1 or plain[605] > 8:
        raise Refused
    return {
        "identifier": plain[1:17],
        "relay_public": plain[17:49],
        "link_keys": struct.unpack("<Q", plain[49:57])[0],
        "root": plain[57:89],
        "day": struct.unpack("<I", plain[89:93])[0],
        "relay_address": _read_name(plain[93:349]),
        "relay_domain": _read_name(plain[349:605]),
        "aliases": [_read_name(plain[606 + 256 * at : 862 + 256 * at]) for at in range(plain[605])],
        "rotation": struct.unpack("<QII", plain[2_654:2_670]),
        "pad": _read_pad(plain[2_670:2_719]),
    }


def _read_pad(room):
    if room[0] > 2:
        raise Refused
    return (*struct.unpack("<16sQQ", room[1:33]), room[33:49] if room[0] == 2 else None) if room[0] else None


def joined_root(root, half):
    """The root of the chains of a pack whose pad has `half` as its second half, and the check that the pack has of it."""
    joined = hx("pad/half", root + digest(half))
    return joined, he(joined, "pad/half/check", b"", 16)


def open_pack(blob, passphrase):
    """Opens a whole pack file: the first header that opens, the first issue block that opens."""
    blocks = [blob[at : at + BLOCK] for at in range(0, 4 * BLOCK, BLOCK)]
    file_key = _first(lambda block: open_header(block, passphrase), blocks[:2])
    return _first(lambda block: open_issue(file_key, block), blocks[2:])


PAPER = "POSTERN:1:"
PAPER_STEP = 530


def _spelled(content):
    bits = "".join(f"{byte:08b}" for byte in content)
    bits += "0" * (-len(bits) % 5)
    return "".join(ALPHABET[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


def paper_parts(header, issue):
    """The texts of a pack's codes."""
    content = header[:112] + issue
    pieces = [content[at : at + PAPER_STEP] for at in range(0, len(content), PAPER_STEP)]
    name = _spelled(digest(content)[:5])
    heads = [f"{PAPER}{name}:{number}/{len(pieces)}:{_spelled(piece)}:" for number, piece in enumerate(pieces, 1)]
    return [head + _spelled(digest(head.encode())[:5]) for head in heads]


def read_paper(lines):
    """Header and issue block from the texts of codes, in any order."""
    names, pieces = set(), {}
    for line in lines:
        head, check = line[: line.rindex(":") + 1], line[line.rindex(":") + 1 :]
        if not head.startswith(PAPER) or _spelled(digest(head.encode())[:5]) != check:
            raise Refused
        name, place, data = head[len(PAPER) : -1].split(":")
        bits = "".join(f"{ALPHABET.index(character):05b}" for character in data)
        names.add(name)
        pieces[int(place.split("/")[0])] = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))
    content = b"".join(piece for _, piece in sorted(pieces.items()))
    if names != {_spelled(digest(content)[:5])} or len(content) != 112 + BLOCK:
        raise Refused
    return content[:112].ljust(BLOCK, b"\0"), content[112:]


def _first(opening, blocks):
    for block in blocks:
        try:
            return opening(block)
        except Refused:
            continue
    raise Refused


def _spelled_bits(octets, purpose):
    """The 140 bits of an identifier's text, or of a recovery code's."""
    checksum = int.from_bytes(digest(label(purpose), octets)[:2], "big") >> 4
    return int.from_bytes(octets, "big") << 12 | checksum


def spell(octets, purpose):
    bits = _spelled_bits(octets, purpose)
    text = "".join(ALPHABET[bits >> 5 * (27 - at) & 31] for at in range(28))
    return "-".join(text[at : at + 4] for at in range(0, 28, 4))


def identifier_text(identifier):
    return spell(identifier, "identifier")


def parse_identifier(text):
    return unspell(text, "identifier")


def unspell(text, purpose):
    characters = text.upper().replace("-", "").replace(" ", "").translate(str.maketrans("OIL", "011"))
    if len(characters) != 28 or not set(characters) <= set(ALPHABET):
        raise Refused
    bits = 0
    for character in characters:
        bits = bits << 5 | ALPHABET.index(character)
    octets = (bits >> 12).to_bytes(16, "big")
    if _spelled_bits(octets, purpose) != bits:
        raise Refused
    return octets


# Section 12: new roots.


def reroot_operation(kem_public, dh_public, recovery, proof):
    """A Reroot as a request has it."""
    length = bytes([len(kem_public) & 127 | 128, len(kem_public) >> 7])
    return b"\x03" + length + kem_public + dh_public + recovery + (b"\1" + proof if proof else b"\0")


def new_root(shared, fixed, operation, ciphertext):
    """R' from X-Wing's secret and X25519(dh, S)."""
    return he(hx("reroot", shared + fixed), "reroot/root", digest(operation) + digest(ciphertext))


def first_token(root):
    return he(root, "reroot/token", b"", 16)


# Packs that a relay procures at another one.


def endow_operation(kem_public, dh_public, keys, value):
    return b"\x0d" + varint(len(kem_public)) + kem_public + dh_public + varint(keys) + varint(value)


def procure_operation(relay, kem_public, dh_public, keys, value, debit_max):
    name = relay.encode()
    head = b"\x0c" + varint(len(name)) + name + varint(len(kem_public)) + kem_public + dh_public
    return head + varint(keys) + varint(value) + varint(debit_max)


def procured(shared, fixed, operation, ciphertext):
    """Root, identifier and confirmation of a pack, from X-Wing's secret and X25519(dh, S)."""
    root = he(hx("procure", shared + fixed), "procure/root", digest(operation) + digest(ciphertext))
    return root, he(root, "procure/identifier", b"", 16), he(root, "procure/confirm", b"", 16)


ASK_OFFERS = varint(13)


def open_offers(header):
    """The fee, the domains of the further relays, and link keys and value of each size."""
    kind, rest = read_varint(header)
    if kind != 16:
        raise Refused
    fee, rest = read_varint(rest)
    count, rest = read_varint(rest)
    relays, sizes = [], []
    for _ in range(count):
        length, rest = read_varint(rest)
        relays.append(rest[:length].decode())
        rest = rest[length:]
    count, rest = read_varint(rest)
    for _ in range(count):
        keys, rest = read_varint(rest)
        value, rest = read_varint(rest)
        sizes.append((keys, value))
    if rest:
        raise Refused
    return fee, relays, sizes


def open_endowed(header):
    """Number, end of the chain, ciphertext and confirmation."""
    kind, rest = read_varint(header)
    if kind != 17:
        raise Refused
    seq, rest = read_varint(rest)
    end, rest = read_varint(rest)
    length, rest = read_varint(rest)
    if len(rest) != length + 16:
        raise Refused
    return seq, end, rest[:length], rest[length:]


def card(domain, address, relay_public):
    """A relay's card as text."""
    head = f"postern-card:1,{domain},{address},{_spelled(relay_public)},"
    return head + _spelled(digest(head.encode())[:5])


def open_card(text):
    """Domain, address and key of a card."""
    mark, domain, address, key, _ = text.strip().split(",")
    bits = "".join(f"{ALPHABET.index(character):05b}" for character in key)
    public = int(bits[:256], 2).to_bytes(32, "big")
    if mark != "postern-card:1" or card(domain, address, public) != text.strip():
        raise Refused("the card")
    return domain, address, public


def directory(serial, first, last, relays):
    """What signers of a directory sign: relays are domain, address, key, operator, prices, exit, links, whether it is draining."""
    lines = ["postern-directory:1", f"serial {serial}", f"from {first}", f"until {last}"]
    for domain, address, key, operator, prices, leaves, links, draining in sorted(relays):
        lines += [f"relay {domain}", f"link {address}", f"key {_spelled(key)}", f"operator {operator}"]
        lines += [f"prices {' '.join(map(str, prices))}", f"exit {leaves}", f"links {links}"]
        lines += ["draining"] if draining else []
    return "".join(line + "\n" for line in lines)


def sign_directory(body, seeds):
    """The list with the signatures of these keys."""
    signed = []
    for seed in seeds:
        public, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        signed.append((public, nacl.bindings.crypto_sign(body.encode(), secret)[:64]))
    return body + "".join(f"signature {_spelled(public)} {_spelled(by)}\n" for public, by in sorted(signed))


def directory_public(seed):
    """The public half of a signer's key."""
    return nacl.bindings.crypto_sign_seed_keypair(seed)[0]


def directory_keys(threshold, publics):
    """What a holder goes by."""
    head = f"postern-directory-keys:1,{threshold},{','.join(map(_spelled, sorted(publics)))},"
    return head + _spelled(digest(head.encode())[:5])


def directory_secret(seed):
    """A signer's key as text."""
    head = f"postern-directory-secret:1,{_spelled(seed)},"
    return head + _spelled(digest(head.encode())[:5])


def open_directory(text, keys):
    """What was signed, if enough of the holder's keys did."""
    _, threshold, *publics, _ = keys.split(",")
    publics = {_unspelled(public) for public in publics}
    if directory_keys(threshold, publics) != keys:
        raise Refused("the keys")
    body, mark, below = text.partition("signature ")
    good = 0
    for line in (mark + below).splitlines():
        _, public, signature = line.split(" ")
        if (public := _unspelled(public)) not in publics:
            continue
        try:
            nacl.bindings.crypto_sign_open(_unspelled(signature) + body.encode(), public)
        except nacl.exceptions.BadSignatureError as altered:
            raise Refused("a signature") from altered
        good += 1
    if good < int(threshold):
        raise Refused("too few signatures")
    return body


def _unspelled(text):
    bits = "".join(f"{ALPHABET.index(character):05b}" for character in text)
    return int(bits[: len(bits) // 8 * 8], 2).to_bytes(len(bits) // 8, "big")


def open_draft(file, passphrase):
    """Seed of the X-Wing key, X25519 secret, card, link keys, value and debit_max of an order that was begun."""
    file_key = open_header(file[:4096], passphrase)
    plain = unbox(he(file_key, "procure/draft"), file[4096:4120], file[4120:])
    numbers = struct.unpack_from("<QQQ", plain, 97)
    address, domain = _read_name(plain[121:377]), _read_name(plain[377:633])
    return plain[1:33], plain[33:65], (domain, address, plain[65:97]), *numbers


def recovery_verifier(code):
    return hx("reroot/recovery", code)


# One-time pads.

PAD_DATA_MAX = CELL - 48
SEALED = 2
LEASE, CONFIRM = 10, 11
RECORD = 64


def poly1305(key, message):
    """RFC 8439 section 2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        block = message[at : at + 16] + b"\1"
        total = (total + int.from_bytes(block, "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:32], "little")) % (1 << 128)).to_bytes(16, "little")


class PadLayout:
    """Where the bytes of a pad lie in its file."""

    def __init__(self, region, records):
        self.region, self.records = region, records

    @classmethod
    def of_size(cls, size):
        region = (size - size % 32_768) // 2
        return cls(region, region // 512)

    @property
    def file_bytes(self):
        return 8_192 + 2 * self.region

    def region_at(self, direction):
        return 8_192 + (self.region if direction == "down" else 0)

    def record_at(self, direction, record):
        return self.region_at(direction) + RECORD * record

    def body_at(self, direction, offset):
        return self.record_at(direction, self.records) + offset


def pad_header(name, region, records, generation, places, asked=0):
    """`places`: up, down, up erased, down erased, each record and offset."""
    copy = b"POSTERNO" + struct.pack("<H6x16s3Q8QQ", 1, name, region, records, generation, *places, asked)
    copy = copy.ljust(4_064, b"\0")
    return copy + digest(copy)


def open_pad_header(copy):
    if len(copy) != 4_096 or digest(copy[:4_064]) != copy[4_064:] or copy[:10] != b"POSTERNO\1\0":
        raise Refused
    name, region, records, generation, *places = struct.unpack("<16s3Q8Q", copy[16:120])
    return name, region, records, generation, places


class PadFill:
    """The random bytes behind the data, from a seed."""

    def __init__(self, seed):
        self.seed, self.count = seed, 0

    def next(self, length):
        nonce = bytes(16) + struct.pack("<Q", self.count)
        self.count += 1
        # A box of zeros is the stream from its 33rd byte on, behind the MAC.
        return box(self.seed, nonce, bytes(length))[16:]


def pad_masked(kind, flags, data):
    """How many bytes of the data are masked."""
    if not flags & SEALED:
        return len(data)
    if kind in (REQUEST, ANSWER) and len(data) >= 2:
        return min(2 + struct.unpack("<H", data[:2])[0], len(data))
    return 0


def _xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other))


class Pad:
    """A known pad: `blob` is the whole file as it was before anything of it was erased."""

    def __init__(self, blob, layout):
        self.blob, self.layout = blob, layout

    def record(self, direction, number):
        at = self.layout.record_at(direction, number)
        record = self.blob[at : at + RECORD]
        return record[:16], record[16:48], record[48:]

    def body(self, direction, offset, length):
        at = self.layout.body_at(direction, offset)
        return self.blob[at : at + length]

    def find(self, direction, tag):
        """Number of the record of a tag."""
        for number in range(self.layout.records):
            if self.record(direction, number)[0] == tag:
                return number
        raise Refused

    def hello(self, record, nonce, fill):
        head = self.record("up", record)[0] + nonce
        return head + fill.next(CELL - len(head))

    def seal(self, direction, number, offset, frame, fill):
        """Returns the cell, and the offset behind what it masks. `frame`: type, flags, stream, data."""
        kind, flags, stream, data = frame
        cell = self._cell(direction, number, offset, frame, fill.next(PAD_DATA_MAX - len(data)))
        return cell, offset + pad_masked(kind, flags, data)

    def _cell(self, direction, number, offset, frame, fill):
        kind, flags, stream, data = frame
        tag, key, mask = self.record(direction, number)
        count = pad_masked(kind, flags, data)
        head = _xor(struct.pack("<BBHIQ", kind, flags, len(data), stream, offset), mask)
        body = _xor(data[:count], self.body(direction, offset, count)) + data[count:]
        return tag + poly1305(key, tag + head + body + fill) + head + body + fill

    def open(self, direction, number, cell):
        """Returns offset and frame, of a cell under this record, after making the same cell from them."""
        tag, key, mask = self.record(direction, number)
        if len(cell) != CELL or cell[:16] != tag or cell[16:32] != poly1305(key, tag + cell[32:]):
            raise Refused
        kind, flags, length, stream, offset = struct.unpack("<BBHIQ", _xor(cell[32:48], mask))
        if flags & ~(LAST | SEALED) or length > PAD_DATA_MAX:
            raise Refused
        data = cell[48 : 48 + length]
        if flags & SEALED:
            first = 2 if kind in (REQUEST, ANSWER) and length >= 2 else 0
            length_field = _xor(data[:first], self.body(direction, offset, first))
            count = pad_masked(kind, flags, length_field + data[first:])
        else:
            count = length
        data = _xor(data[:count], self.body(direction, offset, count)) + data[count:]
        frame = (kind, flags, stream, data)
        if self._cell(direction, number, offset, frame, cell[48 + length :]) != cell:
            raise Refused
        return offset, frame


def encode_lease(nonce, lease, floor):
    return nonce + struct.pack("<5Q", *lease, floor)


def decode_lease(data):
    """Returns Hn, [a, c, b, d] and p."""
    if len(data) != 56:
        raise Refused
    *lease, floor = struct.unpack("<5Q", data[16:])
    return data[:16], lease, floor


# A holder's end over TCP.


class Client:
    """Makes links from a link chain that it is given. Keeps nothing on disk: for tests, never for mail that matters.

    `sent` and `received` are the raw cells of the last link, for tests that play them again.
    """

    def __init__(self, address, relay_public, chain, token=bytes(16), answered=0, timeout=10):
        self.address, self.relay_public, self.chain = address, relay_public, chain
        self.token, self.answered, self.timeout = token, answered, timeout
        self.local_secret = os.urandom(32)
        self.sent, self.received = [], []

    def connect(self):
        """Links under the chain's index, then moves the chain on. Returns (p, highest, floor, flags)."""
        index = self.chain.index
        handshake = Handshake(self.chain.step_at(index))
        secret = os.urandom(32)
        self.sent, self.received = [], []
        self.socket = socket.create_connection(self.address, timeout=self.timeout)
        self._send(handshake.seal_cell1(secret, os.urandom(24)))
        relay_ephemeral, p = handshake.open_cell2(self._receive())
        handshake.agree(x25519(secret, relay_ephemeral), x25519(secret, self.relay_public))
        self._send(handshake.seal_cell3(index, self.token, self.answered, self.local_secret, os.urandom(32)))
        k_up, k_down = handshake.traffic()
        self.ck0 = handshake.ck0
        self.up, self.down = Ratchet("up", k_up), Ratchet("down", k_down)
        kind, _, _, data = self.down.open(self._receive())
        if kind != LINKED:
            raise Refused
        self.token, highest, floor, flags, _ = decode_linked(data)
        self.chain.advance()
        return p, highest, floor, flags

    def ask(self, request, body=b"", stream=1):
        """Sends a request's header (without its version byte) and returns the answer's (header, body)."""
        self._send(message_cells(self.up, REQUEST, stream, bytes([VERSION]) + request, body))
        content, done = b"", False
        while not done:
            kind, flags, at, data = self._opened()
            if kind in (PAD, NEW):
                continue
            if kind not in (ANSWER, DATA) or at != stream:
                raise Refused
            content, done = content + data, flags & LAST
        length = struct.unpack("<H", content[:2])[0]
        header = content[2 : 2 + length]
        if header[:1] != bytes([VERSION]):
            raise Refused
        return header[1:], content[2 + length :]

    def rotate(self, index=None):
        """Goes on under the chain's next index, or another: the cell that asks for it is the return value."""
        step = self.chain.advance() if index is None else self.chain.step_at(index)
        index = self.chain.index - 1 if index is None else index
        data = rotate_data(index, os.urandom(32))
        cell = self.up.seal(ROTATE, LAST, 0, data)
        k_up, k_down, self.ck0 = rotated_traffic(self.ck0, step, data)
        self.up, self.next_down = Ratchet("up", k_up), (index, Ratchet("down", k_down))
        return cell

    def _opened(self):
        """The next cell that is not the relay's last under a key."""
        while True:
            frame = self.down.open(self._receive())
            if frame[0] != ROTATED:
                return frame
            index, self.down = self.next_down
            if frame[3] != struct.pack("<Q", index):
                raise Refused

    def balance(self):
        """Returns (balance, keys, credits, debits)."""
        header, _ = self.ask(varint(0))
        variant, rest = read_varint(header)
        numbers = []
        for _ in range(4):
            number, rest = read_varint(rest)
            numbers.append(number)
        if variant != 0 or rest:
            raise Refused
        return tuple(numbers)

    def expire(self, seq, day=None):
        """Ends the account, or takes that back; returns the outcome."""
        header, _ = self.ask(change(seq, os.urandom(16), os.urandom(16), 0, expire(day)))
        return open_outcome(header)

    def close(self):
        self._send(self.up.seal(CLOSE, LAST, 0, b""))
        self.socket.close()

    def _send(self, cells):
        self.sent += [cells[at : at + CELL] for at in range(0, len(cells), CELL)]
        self.socket.sendall(cells)

    def _receive(self):
        cell = b""
        while len(cell) < CELL:
            part = self.socket.recv(CELL - len(cell))
            if not part:
                raise ConnectionError("the relay ended the stream")
            cell += part
        self.received.append(cell)
        return cell
