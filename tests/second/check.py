#!/usr/bin/env python3
"""Holds the second implementation against keypacks/vectors/: makes the same bytes, and opens them.

Prints each failure and, last, 'N passed, M failed'; exits non-zero unless M is 0.
"""

import json
import os
import pathlib
import socket
import struct
import sys
import threading

import postern_second as second
import xwing

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "keypacks" / "vectors"


class Tally:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def same(self, name, made, expected):
        if made == expected:
            self.passed += 1
        else:
            self.failed += 1
            print(f"differs: {name}")

    def refused(self, name, opening):
        try:
            opening()
        except second.Refused:
            self.passed += 1
        else:
            self.failed += 1
            print(f"opens: {name}")


def load(name, folder=VECTORS):
    return json.loads((folder / name).read_text())


def raw(text):
    return bytes.fromhex(text)


def pattern(length):
    return bytes(at & 0xFF for at in range(length))


def summary(blob):
    return {"length": len(blob), "head": blob[:64].hex(), "sha256": second.digest(blob).hex()}


def flipped(blob, bit):
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def check_kdf(tally):
    vectors = load("kdf.json")
    case = vectors["hx"]
    tally.same("hx", second.hx(case["purpose"], raw(case["ikm"])).hex(), case["out"])
    case = vectors["hxk"]
    tally.same("hxk", second.hxk(raw(case["key"]), raw(case["ikm"])).hex(), case["out"])
    for case in vectors["he"]:
        made = second.he(raw(case["key"]), case["purpose"], raw(case["context"]), len(case["out"]) // 2)
        tally.same("he " + case["purpose"], made.hex(), case["out"])
    case = vectors["hedge"]
    made = second.hedged_nonce(raw(case["local_secret"]), raw(case["random"]), case["index"], raw(case["plaintext"]))
    tally.same("hedge", made.hex(), case["nonce"])


def check_chains(tally):
    vectors = load("chains.json")
    root = raw(vectors["root"])
    for name in ("link", "post", "parcel", "sync"):
        names = ("up", "down", "tag") if name == "link" else ("key", "tag")
        for case in vectors[name]:
            chain = second.Chain.from_root(name, root)
            chain.forward_to(case["index"])
            what = f"{name} {case['index']}"
            tally.same(what + " state", chain.state.hex(), case["state"])
            for part, made in zip(names, chain.advance()):
                tally.same(f"{what} {part}", made.hex(), case[part])


def check_link(tally):
    vectors = load("link.json")
    one, two, three = vectors["cell1"], vectors["cell2"], vectors["cell3"]
    step = second.Chain.from_root("link", raw(vectors["root"])).step_at(vectors["index"])
    holder, relay = second.Handshake(step), second.Handshake(step)
    holder_secret, relay_secret = raw(one["ephemeral_secret"]), raw(two["ephemeral_secret"])
    tally.same("S", second.x25519_public(raw(vectors["relay_secret"])).hex(), vectors["relay_public"])

    cell1 = holder.seal_cell1(holder_secret, raw(one["nonce"]))
    tally.same("cell 1", summary(cell1), one["cell"])
    tally.refused("cell 1 with a bit flipped", lambda: relay.open_cell1(flipped(cell1, 8 * 5_000)))
    holder_public = relay.open_cell1(cell1)
    cell2 = relay.seal_cell2(relay_secret, two["floor"], raw(two["nonce"]))
    tally.same("cell 2", summary(cell2), two["cell"])
    tally.refused("cell 2 with a bit flipped", lambda: holder.open_cell2(flipped(cell2, 3)))
    relay_public, floor = holder.open_cell2(cell2)
    tally.same("p", floor, two["floor"])

    fixed = second.x25519(holder_secret, raw(vectors["relay_public"]))
    holder.agree(second.x25519(holder_secret, relay_public), fixed)
    fixed = second.x25519(raw(vectors["relay_secret"]), holder_public)
    relay.agree(second.x25519(relay_secret, holder_public), fixed)
    cell3 = holder.seal_cell3(
        vectors["index"], raw(three["token"]), three["answered"], raw(three["local_secret"]), raw(three["random"])
    )
    tally.same("cell 3", summary(cell3), three["cell"])
    tally.same("CONFIRM", relay.open_cell3(cell3), (raw(three["token"]), three["answered"]))
    tally.same("traffic keys", holder.traffic(), relay.traffic())
    check_traffic(tally, vectors, *holder.traffic())
    check_rotation(tally, vectors, holder.traffic(), holder.ck0)
    for case in vectors["linked"]:
        fields = raw(case["token"]), case["highest"], case["floor"], case["flags"], case["generation"]
        tally.same("LINKED", second.encode_linked(*fields).hex(), case["data"])
        tally.same("LINKED read", second.decode_linked(raw(case["data"])), fields)
        tally.refused("LINKED and an octet more", lambda: second.decode_linked(raw(case["data"]) + b"0"))
    tally.refused("a generation of 0", lambda: second.decode_linked(raw(vectors["linked"][0]["data"]) + bytes(8)))
    for cells, expected in vectors["padding"]:
        tally.same(f"padding of {cells}", second.padding(cells), expected)
    for low_order in (bytes(32), bytes([1]) + bytes(31)):
        tally.refused("X25519 with a point of low order", lambda: second.x25519(holder_secret, low_order))


def check_rotation(tally, vectors, keys, ck0):
    """The same link goes on under the next keys; its last cells under the old ones come behind those of `check_traffic`."""
    case = vectors["rotation"]
    step = second.Chain.from_root("link", raw(vectors["root"])).step_at(case["index"])
    data = second.rotate_data(case["index"], raw(case["random"]))
    last = {"up": (second.ROTATE, data, "rotate"), "down": (second.ROTATED, struct.pack("<Q", case["index"]), "rotated")}
    for key, (direction, (kind, content, name)) in zip(keys, last.items()):
        ratchet = second.Ratchet(direction, key)
        for _ in vectors[direction]:
            ratchet.seal(second.PAD, second.LAST, 0, b"")
        tally.same(name, summary(ratchet.seal(kind, second.LAST, 0, content)), case[name][0]["cell"])
    k_up, k_down, following = second.rotated_traffic(ck0, step, data)
    check_traffic(tally, case, k_up, k_down)
    other = second.rotated_traffic(ck0, step, second.rotate_data(case["index"], bytes(32)))
    tally.same("other randomness gives other keys", (k_up, k_down, following) == other, False)


def check_traffic(tally, vectors, k_up, k_down):
    for direction, key in (("up", k_up), ("down", k_down)):
        sealer, opener = second.Ratchet(direction, key), second.Ratchet(direction, key)
        for at, case in enumerate(vectors[direction]):
            frame = (case["type"], case["flags"], case["stream"], raw(case["data"]))
            cell = sealer.seal(*frame)
            tally.same(f"{direction} cell {at}", summary(cell), case["cell"])
            tally.refused(f"{direction} cell {at} with a bit flipped", lambda: opener.open(flipped(cell, 77)))
            tally.same(f"{direction} cell {at} opened", opener.open(cell), frame)


def check_deposits(tally):
    vectors = load("deposits.json")
    for length, plain, sealed in vectors["classes"]:
        tally.same(f"class of {length}", second.class_for(length), plain)
        tally.same(f"sealed class of {length}", second.sealed_class_for(length), sealed)
    posts = second.Chain.from_root("post", raw(vectors["root"]))
    for case in vectors["deposits"]:
        step, name = posts.advance(), f"deposit of {case['payload_length']}"
        payload, dek = pattern(case["payload_length"]), raw(case["dek"])
        kilobytes, body = second.seal_body(dek, raw(case["prefix"]), payload)
        tally.same(name + " class", kilobytes, case["class"])
        tally.same(name + " body", summary(body), case["body"])
        tally.same(name + " opened", second.open_body(dek, body, len(payload)), payload)
        tally.refused(name + " cut", lambda: second.open_body(dek, body[: len(body) // 2], 0))
        fields = (dek, second.digest(body), len(payload), kilobytes, case["day"], case["alias"])
        wrap = second.seal_wrap(step, raw(case["nonce"]), *fields)
        tally.same(name + " wrap", wrap.hex(), case["wrap"])
        tally.same(name + " wrap digest", second.digest(wrap).hex(), case["wrap_digest"])
        tally.same(name + " wrap opened", second.open_wrap(step, wrap), fields)
        tally.refused(name + " wrap with a bit flipped", lambda: second.open_wrap(step, flipped(wrap, 500)))


def check_parcels(tally):
    vectors = load("parcels.json")
    for length, n in vectors["classes"]:
        tally.same(f"parcel class of {length}", second.parcel_class_for(length), n)
    chain = second.Chain.from_root("parcel", raw(vectors["root"]))
    for case in vectors["parcels"]:
        step, name = chain.advance(), f"parcel of {case['payload_length']}"
        payload, prefix, hop = pattern(case["payload_length"]), raw(case["prefix"]), raw(case["hop"])
        sealed = second.seal_parcel(
            step, prefix, case["type"], case["class"], hop, payload, lambda length: raw(case["fill"]) * length
        )
        tally.same(name, summary(sealed), case["parcel"])
        tally.same(name + " opened", second.open_parcel(step, sealed), (case["type"], case["class"], hop, payload))
        tally.refused(name + " with a bit flipped", lambda: second.open_parcel(step, flipped(sealed, 8 * 570)))
        tally.refused(name + " cut", lambda: second.open_parcel(step, sealed[:-16_000]))
        tally.refused(name + " of another index", lambda: second.open_parcel(chain.step_at(chain.index), sealed))
    for case in vectors["logins"]:
        tally.same(f"login {case['index']}", second.login(chain.advance()), (case["name"], case["password"]))


def check_floor(tally):
    for case in load("floor.json"):
        made = second.floor_verdict(case["answered"], case["held"], case["p"])
        tally.same(f"p {case['p']} for {case['answered']}, {case['held']}", made, case["verdict"])


def check_pack(tally):
    vectors = load("pack.json")
    for case in vectors["headers"]:
        passphrase, file_key = raw(case["passphrase"]), raw(case["file_key"])
        block = second.seal_header(
            passphrase, file_key, raw(case["salt"]), raw(case["nonce"]), case["memory_kib"], case["passes"]
        )
        tally.same("header", summary(block), case["block"])
        tally.same("header opened", second.open_header(block, passphrase), file_key)
        tally.refused("header under another passphrase", lambda: second.open_header(block, passphrase + b"."))

    issue = dict(vectors["issue"])
    name, region, records, half = issue["pad"]
    issue["pad"] = (raw(name), region, records, raw(half))
    joined = second.joined_root(raw(issue["root"]), raw(vectors["half"]["bytes"]))
    tally.same("root and check of two halves", joined, (raw(vectors["half"]["root"]), raw(half)))
    issue["rotation"] = struct.unpack("<QII", raw(issue["rotation"]))
    file_key, nonce, expected = raw(issue.pop("file_key")), raw(issue.pop("nonce")), issue.pop("block")
    for name in ("identifier", "relay_public", "root"):
        issue[name] = raw(issue[name])
    block = second.seal_issue(file_key, nonce, **issue)
    tally.same("issue block", summary(block), expected)
    tally.same("issue block opened", second.open_issue(file_key, block), issue)
    header = second.seal_header(b"paper", file_key, raw(vectors["headers"][0]["salt"]), raw(vectors["headers"][0]["nonce"]), 8, 1)
    parts = vectors["paper"]
    tally.same("paper", second.paper_parts(header, block), parts)
    tally.same("paper read", second.read_paper(reversed(parts)), (header, block))
    tally.refused("paper without a part", lambda: second.read_paper(parts[1:]))
    tally.refused("paper with a slip", lambda: second.read_paper([parts[0].replace("0", "1", 1), *parts[1:]]))
    for case in vectors["identifiers"]:
        tally.same("identifier", second.identifier_text(raw(case["bytes"])), case["text"])
        tally.same("identifier read", second.parse_identifier(case["text"].lower()), raw(case["bytes"]))
        wrong = case["text"][:-1] + ("0" if case["text"][-1] != "0" else "1")
        tally.refused("identifier with a slip", lambda: second.parse_identifier(wrong))


def check_pad(tally):
    vectors = load("pad.json")
    for size, (region, records, length) in zip((1 << 20, 10_000_000, 5 << 30), vectors["layouts"]):
        made = second.PadLayout.of_size(size)
        tally.same(f"pad of {size}", (made.region, made.records, made.file_bytes), (region, records, length))
    case = vectors["header"]
    fields = (raw(case["name"]), case["region"], case["records"], case["generation"], case["places"])
    copy = second.pad_header(*fields)
    tally.same("pad header", summary(copy), case["copy"])
    tally.same("pad header read", second.open_pad_header(copy), fields)
    tally.refused("pad header with a bit flipped", lambda: second.open_pad_header(flipped(copy, 500)))

    layout = second.PadLayout.of_size(1 << 20)
    blocks = (second.digest(struct.pack("<Q", block)) for block in range(layout.file_bytes // 32))
    pad = second.Pad(b"".join(blocks), layout)
    one, two, three = vectors["cell1"], vectors["cell2"], vectors["cell3"]
    cell = pad.hello(one["record"], raw(one["nonce"]), second.PadFill(raw(one["fill_seed"])))
    tally.same("pad cell 1", summary(cell), one["cell"])
    tally.same("pad cell 1 found", pad.find("up", cell[:16]), one["record"])

    lease = second.encode_lease(raw(one["nonce"]), two["lease"], two["floor"])
    tally.same("lease read", second.decode_lease(lease), (raw(one["nonce"]), two["lease"], two["floor"]))
    confirm = raw(three["token"]) + struct.pack("<Q", three["answered"])
    down = [((second.LEASE, second.LAST, 0, lease), two["cell"])]
    up = [((second.CONFIRM, second.LAST, 0, confirm), three["cell"])]
    for cells, direction in ((down, "down"), (up, "up")):
        for case in vectors[direction]:
            cells.append(((case["type"], case["flags"], case["stream"], raw(case["data"])), case["cell"]))
    check_pad_cells(tally, pad, "down", two["record"], two["offset"], second.PadFill(raw(two["fill_seed"])), down)
    check_pad_cells(tally, pad, "up", *two["lease"][:2], second.PadFill(raw(three["fill_seed"])), up)


def check_pad_cells(tally, pad, direction, number, offset, fill, cells):
    for at, (frame, expected) in enumerate(cells):
        cell, behind = pad.seal(direction, number, offset, frame, fill)
        tally.same(f"pad {direction} cell {at}", summary(cell), expected)
        tally.refused(f"pad {direction} cell {at} with a bit flipped", lambda: pad.open(direction, number, flipped(cell, 131_000)))
        tally.same(f"pad {direction} cell {at} opened", pad.open(direction, number, cell), (offset, frame))
        number, offset = number + 1, behind


def serve_one_link(listener, step, static_secret, last):
    """A relay of one link, from the second implementation's other half: LINKED, one answer, CLOSE."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb") as stream:
        handshake, secret = second.Handshake(step), os.urandom(32)
        holder_public = handshake.open_cell1(stream.read(second.CELL))
        stream.write(handshake.seal_cell2(secret, 0, os.urandom(24)))
        stream.flush()
        handshake.agree(second.x25519(secret, holder_public), second.x25519(static_secret, holder_public))
        last["confirm"] = handshake.open_cell3(stream.read(second.CELL))
        k_up, k_down = handshake.traffic()
        up, down = second.Ratchet("up", k_up), second.Ratchet("down", k_down)
        stream.write(down.seal(second.LINKED, second.LAST, 0, second.encode_linked(b"t" * 16, 9, 8, 0)))
        stream.flush()
        last["asked"] = up.open(stream.read(second.CELL))
        answer = bytes([1]) + b"".join(second.varint(number) for number in (0, 1, 200, 300_000, 2**63))
        stream.write(second.message_cells(down, second.ANSWER, 1, answer))
        stream.flush()
        last["closed"] = up.open(stream.read(second.CELL))[0]


def check_client(tally):
    root, static_secret, last = os.urandom(32), os.urandom(32), {}
    step = second.Chain.from_root("link", root).step_at(0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = threading.Thread(target=serve_one_link, args=(listener, step, static_secret, last), daemon=True)
        relay.start()
        chain = second.Chain.from_root("link", root)
        public = second.x25519_public(static_secret)
        client = second.Client(listener.getsockname(), public, chain, token=b"s" * 16, answered=7)
        tally.same("client: p, highest, floor, flags", client.connect(), (0, 9, 8, 0))
        tally.same("client: balance", client.balance(), (1, 200, 300_000, 2**63))
        client.close()
        relay.join(10)
    tally.same("client: CONFIRM", last.get("confirm"), (b"s" * 16, 7))
    asked = (second.REQUEST, second.LAST, 1, struct.pack("<H", 2) + bytes([1, 0]))
    tally.same("client: request", last.get("asked"), asked)
    tally.same("client: close", last.get("closed"), second.CLOSE)
    tally.same("client: token and index move on", (client.token, chain.index), (b"t" * 16, 1))


def check_roots(tally):
    vectors = load("roots.json")
    seed, dh = raw(vectors["kem_seed"]), raw(vectors["dh_secret"])
    relay_public = second.x25519_public(raw(vectors["relay_secret"]))
    kem_public, dh_public = xwing.public(seed), second.x25519_public(dh)
    tally.same("X-Wing public key", summary(kem_public), vectors["kem_public"])
    tally.same("X25519 public key", dh_public.hex(), vectors["dh_public"])
    code = vectors["code"]
    octets = second.unspell(code["text"], "recovery")
    tally.same("recovery code", octets.hex(), code["octets"])
    tally.same("its text", second.spell(octets, "recovery"), code["text"])
    tally.same("its verifier", second.recovery_verifier(octets).hex(), code["verifier"])
    tally.refused("a recovery code as an identifier", lambda: second.parse_identifier(code["text"]))
    operation = second.reroot_operation(kem_public, dh_public, raw(code["verifier"]), octets)
    tally.same("operation", summary(operation), vectors["operation"])
    shared, ciphertext = xwing.encapsulate(kem_public, raw(vectors["random"]))
    tally.same("ciphertext", summary(ciphertext), vectors["ciphertext"])
    tally.same("its secret", xwing.decapsulate(seed, ciphertext), shared)
    tally.same("of a damaged one", xwing.decapsulate(seed, flipped(ciphertext, 8)) == shared, False)
    root = second.new_root(shared, second.x25519(dh, relay_public), operation, ciphertext)
    at_relay = second.x25519(raw(vectors["relay_secret"]), dh_public)
    tally.same("root at the relay", second.new_root(shared, at_relay, operation, ciphertext), root)
    tally.same("root", root.hex(), vectors["root"])
    tally.same("first token", second.first_token(root).hex(), vectors["token"])
    for name, case in vectors["chains"].items():
        chain = second.Chain.from_root(name, root)
        tally.same(f"{name} chain", (case["index"], chain.state.hex()), (case["index"], case["state"]))
        tally.same(f"{name} tag", chain.advance()[-1].hex(), case["tag"])


def check_procure(tally):
    vectors = load("procure.json")
    seed, dh = raw(vectors["kem_seed"]), raw(vectors["dh_secret"])
    secret = raw(vectors["relay_secret"])
    relay_public = second.x25519_public(secret)
    kem_public, dh_public = xwing.public(seed), second.x25519_public(dh)
    keys, value = vectors["keys"], vectors["value"]
    operation = second.endow_operation(kem_public, dh_public, keys, value)
    tally.same("operation", summary(operation), vectors["operation"])
    shared, ciphertext = xwing.encapsulate(kem_public, raw(vectors["random"]))
    tally.same("ciphertext", summary(ciphertext), vectors["ciphertext"])
    at_relay = second.procured(shared, second.x25519(secret, dh_public), operation, ciphertext)
    decapsulated = xwing.decapsulate(seed, ciphertext)
    at_holder = second.procured(decapsulated, second.x25519(dh, relay_public), operation, ciphertext)
    tally.same("both ends", at_relay, at_holder)
    root, identifier, confirm = at_holder
    tally.same("root", root.hex(), vectors["root"])
    tally.same("identifier", second.identifier_text(identifier), vectors["identifier"])
    tally.same("confirmation", confirm.hex(), vectors["confirm"])
    posed = second.procured(decapsulated, second.x25519(dh, dh_public), operation, ciphertext)
    tally.same("root of another relay", posed[0] == root, False)
    card = vectors["card"]
    tally.same("card", second.card(card["domain"], card["address"], relay_public), card["text"])
    opened = second.open_card(card["text"])
    tally.same("its fields", opened, (card["domain"], card["address"], relay_public))
    tally.refused("a card with a slip", lambda: second.open_card(card["text"].replace("far", "fat")))
    draft = vectors["draft"]
    file = raw(draft["header"]).ljust(4096, b"\0") + raw(draft["sealed"])
    kept = second.open_draft(file, draft["passphrase"].encode())
    tally.same("draft", kept, (seed, dh, opened, keys, value, draft["debit_max"]))
    vectors = load("directory.json")
    seeds, relay = [raw(seed) for seed in vectors["seeds"]], raw(vectors["relay_public"])
    first = ("a.example", "[2001:db8::1]:7025", relay, "First Operator", (1_000, 10, 100), "any", 4_096, False)
    other = ("far.example", "relay.far.example:7025", relay, "B & C", (0, 0, 2**64 - 1), "only b.example c.example", 7, True)
    body = second.directory(7, 20_779, 20_793, [other, first])
    tally.same("directory", body, vectors["body"])
    tally.same("signed", second.sign_directory(body, seeds), vectors["list"])
    keys = second.directory_keys(2, [second.directory_public(seed) for seed in seeds])
    tally.same("directory keys", keys, vectors["keys"])
    tally.same("a signer's key", second.directory_secret(seeds[0]), vectors["secret"])
    tally.same("a directory that counts", second.open_directory(vectors["list"], keys), body)
    altered = vectors["list"].replace("serial 7", "serial 8")
    tally.refused("a directory that was altered", lambda: second.open_directory(altered, keys))
    alone = second.sign_directory(body, seeds[:1])
    tally.refused("a directory of one signer", lambda: second.open_directory(alone, keys))
    vectors = load("procure.json", ROOT / "mailbox" / "vectors")
    kem, dh, ciphertext = b"\x11" * 1216, b"\x22" * 32, b"\x33" * 1120
    order = second.procure_operation("far.example", kem, dh, 500, 10_000_000, 10_001_000)
    tally.same("order", order.hex(), vectors["procure"])
    tally.same("endow", second.endow_operation(kem, dh, 500, 10_000_000).hex(), vectors["endow"])
    tally.same("offers asked", (b"\x01" + second.ASK_OFFERS).hex(), vectors["asked"])
    offers = (1_000, ["far.example", "b.example"], [(100, 1_000_000), (500, 10_000_000)])
    tally.same("offers", second.open_offers(raw(vectors["offers"])[1:]), offers)
    endowed = second.open_endowed(raw(vectors["endowed"])[1:])
    tally.same("endowed", endowed, (300, 9_500, ciphertext, b"\x44" * 16))
    tally.same("not offered", second.open_outcome(raw(vectors["refused"])[1:]), ("refused", 3, 27))
    events = [("procured", b"\x55" * 32, ciphertext, b"\x44" * 16), ("not procured", b"\x66" * 32)]
    tally.same("events of packs", second.open_events(raw(vectors["events"])), events)


def check_changes(tally):
    vectors = load("changes.json", ROOT / "mailbox" / "vectors")
    operations = [second.expire(0), second.expire(20_779), second.expire()]
    for case, operation in zip(vectors["changes"], operations, strict=True):
        seq, ident, blind = case["seq"], raw(case["id"]), raw(case["blind"])
        header = second.change(seq, ident, blind, case["acknowledged"], operation)
        tally.same(f"{case['name']}: operation", operation.hex(), case["operation"])
        tally.same(f"{case['name']}: header", (bytes([second.VERSION]) + header).hex(), case["header"])
        tally.same(f"{case['name']}: digest", second.change_digest(seq, ident, blind, operation).hex(), case["digest"])
    answers = {case["name"]: second.open_outcome(raw(case["header"])[1:]) for case in vectors["answers"]}
    tally.same("moved", answers["moved"], ("moved", 3, 42, 300_000, 50, 0))
    tally.same("ended", answers["ended"], ("refused", 301, 22))


def check_envelopes(tally):
    vectors = load("envelopes.json", ROOT / "mailbox" / "vectors")
    octets, wishes = b"\x55" * 16, [(0, 1), (1, 6)]
    layouts = {
        "1": {},
        "2": {"message_id": octets},
        "3": {"hops": 3},
        "4": {"message_id": octets, "wishes": wishes},
        "5": {"hops": 3, "wishes": wishes},
    }
    tally.same("layouts of an envelope", sorted(vectors), sorted(layouts))
    for version, more in layouts.items():
        made = second.envelope("me@r.test", ["bob@example.org", "ann@example.net"], **more)
        tally.same(f"envelope {version}", made.hex(), vectors[version])


def check_mixing(tally):
    vectors = load("mixing.json", ROOT / "mailbox" / "vectors")
    tally.same("mixing asked", (b"\x01" + second.ASK_MIXING).hex(), vectors["request"])
    headers = {entry["name"]: bytes.fromhex(entry["header"]) for entry in vectors["answers"]}
    tally.same("no mixing", second.open_mixing(headers["none"][1:]), ([], 0, 0, None))
    offers = [(1, 20, 0, 0, 720, 2700), (2, 60, 3, 0, 720, 2700)]
    tally.same("mixing", second.open_mixing(headers["both"][1:]), (offers, 300, 86400, (20779, 45, 2)))
    tally.same("not mixed", second.open_outcome(headers["refused"][1:]), ("refused", 5, 26))
    made = second.envelope("me@r.test", ["bob@example.org"], message_id=b"\x55" * 16, mix=2)
    tally.same("envelope of a mixed message", made.hex(), vectors["envelope"])


def check_devices(tally):
    vectors = load("devices.json", ROOT / "mailbox" / "vectors")
    made = {
        "device": second.device(b"\x33" * 16, b"\x44" * 32, 300),
        "drop": second.drop_device(2),
        "tell": second.tell(["me", "you"]),
    }
    for case in vectors["operations"]:
        tally.same(case["name"], made[case["name"]].hex(), case["operation"])
    tally.same("devices?", (bytes([second.VERSION]) + second.ASK_DEVICES).hex(), vectors["request"])
    answers = {case["name"]: raw(case["header"])[1:] for case in vectors["answers"]}
    tally.same("alone", second.open_devices(answers["alone"]), (1, []))
    two = [(1, 20_779, None, 70), (2, 20_779, 20_780, 300)]
    tally.same("two devices", second.open_devices(answers["two"]), (2, two))
    tally.same("too many", second.open_outcome(answers["limit"]), ("refused", 3, 23))
    tally.same("no such device", second.open_outcome(answers["unknown"]), ("refused", 4, 24))
    tally.same("alias number of events", second.EVENTS, vectors["alias"])
    told = [("alias", 300, "me@r.test", True), ("joined", 2, 1), ("dropped", 1, 2), ("frozen", 2)]
    tally.same("events", second.open_events(raw(vectors["events"])), told)


def main():
    tally = Tally()
    checks = (check_kdf, check_chains, check_link, check_deposits, check_parcels, check_floor, check_pack, check_pad, check_roots, check_procure, check_changes, check_devices, check_envelopes, check_mixing)
    for check in (*checks, check_client):
        check(tally)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
