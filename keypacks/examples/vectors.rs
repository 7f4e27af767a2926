//! Makes the known-answer vectors: `cargo run -p keypacks --example vectors` rewrites `keypacks/vectors/`.
//!
//! Inputs are fixed patterns, so that the files only change when the protocol does. Byte strings are in hexadecimal;
//! long ones are given by their length, first 64 bytes and SHA-256, which a second implementation compares after making
//! the same bytes itself.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::cell::{Frame, Kind, padding};
use keypacks::chain::{BoxChain, BoxKind, BoxStep, LinkChain};
use keypacks::deposit::{self, BodySealer, Dek, WrapFields};
use keypacks::link::{self, ClientEntropy, Confirm, Link, Linked, PersistedIndex, RelaySecret, Rotate, floor_verdict};
use keypacks::pack::{Header, Identifier, Issue, PackPad, PassphraseCost, paper_parts};
use keypacks::pad::{
    self, Direction, FileHeader, Fill, Half, HalfDigest, Layout, Lease, Made, Offer, PAD_MIN, PadError, PadSealer,
    Place,
};
use keypacks::parcel::{self, LayerSealer};
use keypacks::procure::{self, Card, Draft};
use keypacks::reroot::{self, RecoveryCode};
use keypacks::rotation::Policy;
use keypacks::{CELL, Secret, kdf};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    std::fs::create_dir_all(&folder)?;
    for (name, vectors) in all() {
        let mut text = serde_json::to_string_pretty(&vectors)?;
        text.push('\n');
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// Every file of `keypacks/vectors/` with what belongs into it.
pub(crate) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("kdf.json", kdf_vectors()),
        ("chains.json", chain_vectors()),
        ("link.json", link_vectors()),
        ("deposits.json", deposit_vectors()),
        ("floor.json", floor_vectors()),
        ("pack.json", pack_vectors()),
        ("pad.json", pad_vectors()),
        ("parcels.json", parcel_vectors()),
        ("roots.json", root_vectors()),
        ("procure.json", procure_vectors()),
    ]
}

fn kdf_vectors() -> Value {
    let key = secret(0x10);
    json!({
        "hx": { "purpose": "link", "ikm": hex(&pattern::<64>(0x20)), "out": hex(kdf::hx("link", &[&pattern::<64>(0x20)]).expose()) },
        "hxk": { "key": hex(key.expose()), "ikm": hex(&pattern::<64>(0x30)), "out": hex(kdf::hx_keyed(&key, &[&pattern::<64>(0x30)]).expose()) },
        "he": [
            { "key": hex(key.expose()), "purpose": "hs1", "context": "", "out": hex(kdf::he::<32>(&key, "hs1", &[]).expose()) },
            { "key": hex(key.expose()), "purpose": "traffic", "context": hex(&pattern::<32>(0x40)),
              "out": hex(kdf::he::<96>(&key, "traffic", &pattern::<32>(0x40)).expose()) },
        ],
        "hedge": {
            "local_secret": hex(key.expose()), "random": hex(&pattern::<32>(0x50)), "index": 7, "plaintext": hex(b"plaintext"),
            "nonce": hex(&kdf::hedged_nonce(&key, &pattern(0x50), 7, b"plaintext")),
        },
    })
}

fn chain_vectors() -> Value {
    let root = secret(0x01);
    let link = LinkChain::from_root(&root);
    let link_steps: Vec<Value> = [0, 1, 2, 1_000]
        .into_iter()
        .map(|index| {
            let step = link.step_at(index).expect("within reach");
            let mut at = LinkChain::from_root(&root);
            at.forward_to(index).expect("within reach");
            json!({
                "index": index, "state": hex(at.state().expose()),
                "up": hex(step.up.expose()), "down": hex(step.down.expose()), "tag": hex(&step.tag.0),
            })
        })
        .collect();
    json!({
        "root": hex(root.expose()),
        "link": link_steps,
        "post": box_steps(BoxKind::Post, &root),
        "parcel": box_steps(BoxKind::Parcel, &root),
        "sync": box_steps(BoxKind::Sync, &root),
    })
}

fn box_steps(kind: BoxKind, root: &Secret<32>) -> Vec<Value> {
    let mut chain = BoxChain::from_root(kind, root);
    (0..3)
        .map(|_| {
            let state = hex(chain.state().expose());
            let step = chain.advance();
            json!({ "index": step.index, "state": state, "key": hex(step.key.expose()), "tag": hex(&step.tag.0) })
        })
        .collect()
}

/// One whole link at index 5, with the first cells each way.
fn link_vectors() -> Value {
    let root = secret(0x01);
    let step = || LinkChain::from_root(&root).step_at(5).expect("within reach");
    let relay_secret = RelaySecret::new(secret(0x60));
    let (holder_ephemeral, holder_nonce) = (pattern(0x70), pattern(0x80));
    let (relay_ephemeral, relay_nonce) = (pattern(0x90), pattern(0xa0));
    let (local_secret, random) = (secret(0xb0), pattern(0xc0));
    let confirm = Confirm {
        token: pattern(0xd0),
        answered: 41,
    };

    let entropy = ClientEntropy {
        ephemeral: holder_ephemeral,
        nonce: holder_nonce,
    };
    let (dialling, cell1) = link::connect(step(), &relay_secret.public(), entropy);
    let (accepting, cell2) = link::accept(
        step(),
        &relay_secret,
        4,
        &mut cell1.clone(),
        relay_ephemeral,
        relay_nonce,
    )
    .expect("made by connect for this step");
    let answered = dialling
        .answer(&mut cell2.clone())
        .expect("made by accept for this cell");
    let (cell3, mut holder) = answered
        .confirm(&Index(5), confirm, &local_secret, random)
        .expect("the proof is of this index");
    let confirmed = accepting
        .confirm(&mut cell3.clone())
        .expect("made by confirm for these cells");
    let mut relay = confirmed.burned(&Index(5)).expect("the proof is of this index");

    json!({
        "root": hex(root.expose()), "index": 5,
        "relay_secret": hex(&pattern::<32>(0x60)), "relay_public": hex(&relay_secret.public()),
        "cell1": { "ephemeral_secret": hex(&holder_ephemeral), "nonce": hex(&holder_nonce), "cell": long(&cell1[..]) },
        "cell2": { "ephemeral_secret": hex(&relay_ephemeral), "nonce": hex(&relay_nonce), "floor": 4, "cell": long(&cell2[..]) },
        "cell3": {
            "local_secret": hex(local_secret.expose()), "random": hex(&random),
            "token": hex(&confirm.token), "answered": confirm.answered, "cell": long(&cell3[..]),
        },
        "down": traffic(&mut relay, &linked_and_answer()),
        "up": traffic(&mut holder, &request_and_padding()),
        "linked": Vec::from([0, 1, 1_800_000_000].map(linked)),
        "rotation": rotation(&root, &mut holder, &mut relay),
        "padding": (0..20).map(|cells| json!([cells, padding(cells)])).collect::<Vec<_>>(),
    })
}

/// The same link goes on under the keys of index 6.
fn rotation(root: &Secret<32>, holder: &mut Link, relay: &mut Link) -> Value {
    let step = LinkChain::from_root(root).step_at(6).expect("within reach");
    let rotate = Rotate {
        index: 6,
        random: pattern(0xf0),
    };
    let asked = traffic(holder, &[(Kind::Rotate, true, 0, rotate.encode().to_vec())]);
    let answered = traffic(relay, &[(Kind::Rotated, true, 0, 6_u64.to_le_bytes().to_vec())]);
    (holder.sealer, holder.opener) = holder.rekey.rotate(&rotate, &step, &Index(6)).expect("of this index");
    (relay.sealer, relay.opener) = relay.rekey.rotated(&rotate, &step, &Index(6)).expect("of this index");
    json!({
        "index": 6, "random": hex(&rotate.random), "rotate": asked, "rotated": answered,
        "up": traffic(holder, &request_and_padding()),
        "down": traffic(relay, &linked_and_answer()[1..]),
    })
}

/// LINKED of a relay of this generation.
fn linked(generation: u64) -> Value {
    let linked = Linked {
        token: pattern(0xe0),
        highest: 43,
        floor: 12,
        flags: Linked::ROLLED_BACK,
        generation,
    };
    json!({
        "token": hex(&linked.token), "highest": linked.highest, "floor": linked.floor, "flags": linked.flags,
        "generation": generation, "data": hex(&linked.encode()),
    })
}

fn linked_and_answer() -> [(Kind, bool, u32, Vec<u8>); 3] {
    let linked = Linked {
        token: pattern(0xe0),
        highest: 43,
        floor: 12,
        flags: Linked::TOKEN_MISMATCH,
        generation: 0,
    };
    [
        (Kind::Linked, true, 0, linked.encode()),
        (Kind::Answer, true, 1, b"\x02\x00\x01\x00".to_vec()),
        (Kind::New, true, 0, Vec::new()),
    ]
}

fn request_and_padding() -> [(Kind, bool, u32, Vec<u8>); 4] {
    [
        (Kind::Request, false, 0x0102_0304, pattern::<100>(0x00).to_vec()),
        (Kind::Data, true, 0x0102_0304, b"the last bytes".to_vec()),
        (Kind::Pad, true, 0, Vec::new()),
        (Kind::Close, true, 0, Vec::new()),
    ]
}

fn traffic(link: &mut Link, frames: &[(Kind, bool, u32, Vec<u8>)]) -> Vec<Value> {
    frames
        .iter()
        .map(|(kind, last, stream, data)| {
            let mut cell = [0; CELL];
            link.sealer.seal(
                Frame {
                    kind: *kind,
                    last: *last,
                    stream: *stream,
                    data,
                },
                &mut cell,
            );
            json!({
                "type": *kind as u8, "flags": u8::from(*last), "stream": stream, "data": hex(data), "cell": long(&cell),
            })
        })
        .collect()
}

fn deposit_vectors() -> Value {
    let root = secret(0x01);
    let mut posts = BoxChain::from_root(BoxKind::Post, &root);
    // Both sides of every small class, and bodies of more than one chunk.
    let lengths = [
        0, 1, 968, 969, 1_968, 3_968, 7_968, 7_969, 15_968, 15_969, 31_952, 40_000,
    ];
    let deposits: Vec<Value> = lengths
        .into_iter()
        .map(|length| deposit_vector(&posts.advance(), length))
        .collect();
    let classes: Vec<Value> = [0, 1_000, 1_001, 8_000, 8_001, 16_001, 65_536_000, 65_536_001]
        .into_iter()
        .map(|length| json!([length, deposit::class_for(length), deposit::sealed_class_for(length)]))
        .collect();
    json!({ "root": hex(root.expose()), "classes": classes, "deposits": deposits })
}

/// The payload is the pattern from 0 on, `length` bytes of it.
fn deposit_vector(step: &BoxStep, length: usize) -> Value {
    let payload: Vec<u8> = (0..length).map(byte).collect();
    let index = u8::try_from(step.index).expect("a dozen vectors");
    let mut sealer = BodySealer::new(Dek::new(secret(index)), pattern(index + 0x80));
    sealer.push(&payload).expect("below the largest class");
    let sealed = sealer.finish();
    let fields = WrapFields {
        body_digest: kdf::hash(&[&sealed.body]),
        length: sealed.length,
        kilobytes: sealed.kilobytes,
        day: 20_000,
        alias: 3,
        dek: sealed.dek,
    };
    let nonce = pattern(index + 0xc0);
    let wrap = deposit::seal_wrap(step, nonce, &fields);
    json!({
        "index": step.index, "payload_length": length,
        "dek": hex(fields.dek.secret().expose()), "prefix": hex(&pattern::<16>(index + 0x80)),
        "class": fields.kilobytes, "body": long(&sealed.body),
        "day": fields.day, "alias": fields.alias, "nonce": hex(&nonce),
        "wrap": hex(&wrap), "wrap_digest": hex(&deposit::wrap_digest(&wrap)),
    })
}

/// Parcels at the first indices of a pack, at the edges of chunks and classes.
fn parcel_vectors() -> Value {
    let root = secret(0x01);
    let mut chain = BoxChain::from_root(BoxKind::Parcel, &root);
    let lengths = [0, 1, 12_880, 12_881, 15_984, 15_985, 40_000];
    let parcels: Vec<Value> = lengths
        .into_iter()
        .enumerate()
        .map(|(at, length): (usize, usize)| {
            let step = chain.advance();
            let prefix = pattern::<16>(at as u8);
            let header = parcel::Header {
                kind: if at % 2 == 0 {
                    parcel::Kind::Deliver
                } else {
                    parcel::Kind::Control
                },
                class: parcel::class_for(length).expect("below the largest class"),
                length: u32::try_from(length).expect("small"),
                hop: pattern(0x40),
            };
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut sealed = Vec::new();
            let mut sealer = LayerSealer::new(step, prefix, &header, &mut sealed).expect("a class that holds it");
            sealer.push(&payload, &mut sealed).expect("as long as the header says");
            sealer.finish(|fill| fill.fill(0xa5), &mut sealed);
            json!({
                "index": at, "prefix": hex(&prefix), "type": header.kind as u8, "class": header.class,
                "hop": hex(&header.hop), "payload_length": length, "fill": "a5", "parcel": long(&sealed),
            })
        })
        .collect();
    let classes: Vec<Value> = [0, 12_880, 12_881, 28_800, 28_801, 65_205_280, 65_205_281]
        .into_iter()
        .map(|length| json!([length, parcel::class_for(length)]))
        .collect();
    let logins: Vec<Value> = (0..2)
        .map(|_| {
            let step = chain.advance();
            let login = parcel::Login::new(&step);
            json!({ "index": step.index, "name": login.name, "password": *login.password })
        })
        .collect();
    json!({ "root": hex(root.expose()), "classes": classes, "parcels": parcels, "logins": logins })
}

fn floor_vectors() -> Value {
    let positions = [
        (None, None),
        (None, Some(0)),
        (None, Some(3)),
        (Some(2), Some(2)),
        (Some(2), Some(5)),
    ];
    let verdicts: Vec<Value> = positions
        .into_iter()
        .flat_map(|(answered, held)| (0..8).map(move |floor| (answered, held, floor)))
        .map(|(answered, held, floor)| {
            json!({ "answered": answered, "held": held, "p": floor, "verdict": format!("{:?}", floor_verdict(answered, held, floor)) })
        })
        .collect();
    json!(verdicts)
}

/// A second half of a pad.
fn half() -> Half {
    let mut digest = HalfDigest::default();
    digest.update(b"the other ");
    digest.update(b"half");
    digest.finish()
}

fn pack_vectors() -> Value {
    let file_key = secret(0x22);
    let issue = Issue {
        identifier: Identifier(pattern(0x33)),
        relay_public: pattern(0x44),
        link_keys: 1_000,
        root: secret(0x01),
        day: 20_000,
        relay_address: "relay.example:7025".into(),
        relay_domain: "relay.example".into(),
        aliases: vec!["heron@relay.example".into(), "w\u{e4}gen@relay.example".into()],
        rotation: Policy {
            bytes: Some(1 << 20),
            seconds: Some(600),
            interval: Some(86_400),
        },
        pad: Some(PackPad {
            made: Made {
                name: pattern(0x66),
                layout: pad_layout(),
            },
            half: Some(half().check(&secret(0x01))),
        }),
    };
    let block = issue.seal(&file_key, pattern(0x55)).expect("short names");
    let costs = [
        PassphraseCost::LEAST,
        PassphraseCost {
            memory_kib: 1_024,
            passes: 3,
        },
    ];
    let headers: Vec<Value> = costs
        .into_iter()
        .map(|cost| {
            let block = Header::create(
                "pass phrase \u{e9}".as_bytes(),
                &file_key,
                pattern(0x66),
                pattern(0x77),
                cost,
            );
            json!({
                "passphrase": hex("pass phrase \u{e9}".as_bytes()), "file_key": hex(file_key.expose()),
                "memory_kib": cost.memory_kib, "passes": cost.passes,
                "salt": hex(&pattern::<16>(0x66)), "nonce": hex(&pattern::<24>(0x77)),
                "block": long(&block), "box": hex(&block[64..112]),
            })
        })
        .collect();
    let identifiers: Vec<Value> = [pattern(0x33), [0; 16], [0xff; 16]]
        .into_iter()
        .map(|bytes| json!({ "bytes": hex(&bytes), "text": Identifier(bytes).to_text() }))
        .collect();
    json!({
        "headers": headers,
        "paper": paper_parts(&Header::create(b"paper", &file_key, pattern(0x66), pattern(0x77), PassphraseCost::LEAST), &block),
        "issue": {
            "file_key": hex(file_key.expose()), "nonce": hex(&pattern::<24>(0x55)),
            "identifier": hex(&issue.identifier.0), "relay_public": hex(&issue.relay_public), "link_keys": issue.link_keys,
            "root": hex(issue.root.expose()), "day": issue.day, "relay_address": issue.relay_address,
            "relay_domain": issue.relay_domain, "aliases": issue.aliases,
            "pad": issue.pad.map(|PackPad { made, half }| json!([hex(&made.name), made.layout.region(), made.layout.records(), half.map(|half| hex(&half))])),
            "rotation": hex(&issue.rotation.encode()), "block": long(&block[..]),
        },
        "half": { "bytes": hex(b"the other half"), "digest": hex(half().expose()), "root": hex(half().join(&issue.root).expose()) },
        "identifiers": identifiers,
    })
}

/// The smallest pad, whose file is known: byte `x` of it is byte `x mod 32` of `H(u64 x / 32)`.
struct KnownPad {
    bytes: Vec<u8>,
    lease: Mutex<Lease>,
}

impl KnownPad {
    fn new(lease: Lease) -> Arc<Self> {
        let blocks = pad_layout().file_bytes().div_ceil(32);
        Arc::new(Self {
            bytes: (0..blocks)
                .flat_map(|block| kdf::hash(&[&block.to_le_bytes()]))
                .collect(),
            lease: Mutex::new(lease),
        })
    }
}

impl pad::End for KnownPad {
    fn layout(&self) -> Layout {
        pad_layout()
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), PadError> {
        let at = usize::try_from(at).expect("a small pad");
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        Ok(())
    }

    fn take(&self, masked: usize) -> Result<pad::Piece, PadError> {
        self.lease.lock().expect("one thread").take(masked)
    }

    fn room(&self) -> (u64, u64) {
        (0, 0)
    }

    fn limit(&self) -> Place {
        pad_layout().end()
    }

    fn finished(&self, _: Direction, _: Place) {}
}

fn pad_layout() -> Layout {
    Layout::of_size(PAD_MIN).expect("the smallest")
}

fn place(record: u64, offset: u64) -> Place {
    Place { record, offset }
}

/// A file header, and one whole link with the first cells each way.
fn pad_vectors() -> Value {
    let layout = pad_layout();
    let mut header = FileHeader::fresh(Made {
        name: pattern(0x11),
        layout,
    });
    header.generation = 12;
    header.spent = [place(21, 4_596), place(43, 200)];
    header.erased = [place(6, 524), place(42, 100)];
    let offer = Offer {
        from: place(6, 500),
        end: place(22, 4_596),
        floor: 3,
    };
    let down = KnownPad::new(Lease::granted(Direction::Down, place(40, 9), layout.end()));
    let up = KnownPad::new(Lease::granted(Direction::Up, offer.from, offer.end));
    let (hello_seed, down_seed, up_seed) = (pattern(0x21), pattern(0x41), pattern(0x61));
    let (nonce, token) = (pattern(0x81), pattern(0x91));
    let cell1 = pad::hello(&*up, 5, &nonce, &mut Fill::new(hello_seed)).expect("there is room");
    let mut relay = PadSealer::new(down, Direction::Down, Fill::new(down_seed));
    let mut holder = PadSealer::new(up, Direction::Up, Fill::new(up_seed));
    let cell2 = pad::seal_offer(&mut relay, &nonce, &offer).expect("there is room");
    let cell3 = pad::seal_confirm(&mut holder, &Confirm { token, answered: 41 }).expect("there is room");
    let layouts = [PAD_MIN, 10_000_000, 5 << 30];
    let layouts = layouts.map(|size| Layout::of_size(size).expect("within the bounds"));
    // A body that is sealed already, on an answer and on the cell behind it.
    let header_and_body = [&[3, 0, 1, 3, 16][..], &pattern::<200>(0x70)].concat();
    let sealed = [
        (Kind::Answer, false, 1, header_and_body),
        (Kind::Data, true, 1, pattern::<100>(0x05).to_vec()),
    ];
    let mut down = pad_traffic(&mut relay, &linked_and_answer(), false);
    down.extend(pad_traffic(&mut relay, &sealed, true));
    json!({
        "layouts": layouts.map(|layout| json!([layout.region(), layout.records(), layout.file_bytes()])),
        "header": {
            "name": hex(&header.made.name), "region": layout.region(), "records": layout.records(), "generation": 12,
            "places": [21, 4_596, 43, 200, 6, 524, 42, 100], "copy": long(&header.encode()[..]),
        },
        "cell1": { "record": 5, "nonce": hex(&nonce), "fill_seed": hex(&hello_seed), "cell": long(&cell1[..]) },
        "cell2": {
            "record": 40, "offset": 9, "fill_seed": hex(&down_seed), "lease": [6, 500, 22, 4_596], "floor": 3,
            "cell": long(&cell2[..]),
        },
        "cell3": { "fill_seed": hex(&up_seed), "token": hex(&token), "answered": 41, "cell": long(&cell3[..]) },
        "down": down,
        "up": pad_traffic(&mut holder, &request_and_padding(), false),
    })
}

fn pad_traffic(sealer: &mut PadSealer, frames: &[(Kind, bool, u32, Vec<u8>)], is_sealed: bool) -> Vec<Value> {
    let seal = |(kind, last, stream, data): &(Kind, bool, u32, Vec<u8>)| {
        let mut cell = [0; CELL];
        let frame = Frame {
            kind: *kind,
            last: *last,
            stream: *stream,
            data,
        };
        sealer.seal(frame, is_sealed, &mut cell).expect("there is room");
        json!({
            "type": *kind as u8, "flags": u8::from(*last) | u8::from(is_sealed) << 1, "stream": stream,
            "data": hex(data), "cell": long(&cell),
        })
    };
    frames.iter().map(seal).collect()
}

/// A new root, as both ends come to it.
fn root_vectors() -> Value {
    let relay_secret = RelaySecret::new(secret(0x60));
    let secrets = reroot::Secrets {
        kem: secret(0x11),
        dh: secret(0x21),
    };
    let offer = secrets.offer();
    let code = RecoveryCode::new(Secret::new(pattern(0x31)));
    // Number 3, the length of the key in two bytes, the key, and so on, as the request has them.
    let operation = [
        &[3, 0xc0, 0x09],
        &offer.kem[..],
        &offer.dh,
        &code.verifier(),
        &[1],
        code.proof(),
    ]
    .concat();
    let random = pattern::<64>(0x41);
    let (root, ciphertext) =
        reroot::encapsulate(&relay_secret, &offer, &operation, &Secret::new(random)).expect("well-formed");
    let again = secrets.decapsulate(&relay_secret.public(), &operation, &ciphertext);
    assert!(again.is_ok_and(|again| again == root), "both ends come to one root");
    let mut link = LinkChain::from_root_at(&root, 7);
    let links = json!({ "index": 7, "state": hex(link.state().expose()), "tag": hex(&link.advance().tag.0) });
    let boxed = |kind, index| {
        let mut chain = BoxChain::from_root_at(kind, &root, index);
        json!({ "index": index, "state": hex(chain.state().expose()), "tag": hex(&chain.advance().tag.0) })
    };
    json!({
        "relay_secret": hex(&pattern::<32>(0x60)), "kem_seed": hex(&pattern::<32>(0x11)), "dh_secret": hex(&pattern::<32>(0x21)),
        "kem_public": long(&offer.kem), "dh_public": hex(&offer.dh),
        "code": { "octets": hex(code.proof()), "text": *code.to_text(), "verifier": hex(&code.verifier()) },
        "operation": long(&operation), "random": hex(&random), "ciphertext": long(&ciphertext),
        "root": hex(root.expose()), "token": hex(&reroot::first_token(&root)),
        "chains": { "link": links, "post": boxed(BoxKind::Post, 30), "parcel": boxed(BoxKind::Parcel, 4) },
    })
}

/// A pack that one relay procures at another, as holder and further relay come to it; the card; what the holder keeps of
/// the order.
fn procure_vectors() -> Value {
    let relay_secret = RelaySecret::new(secret(0x60));
    let secrets = || reroot::Secrets {
        kem: secret(0x11),
        dh: secret(0x21),
    };
    let offer = secrets().offer();
    let (keys, value) = (500u64, 10_000_000u64);
    // Number 13, the length of the key in two bytes, the key, and so on, as the request has them.
    let numbers = [0xf4, 0x03, 0x80, 0xad, 0xe2, 0x04];
    let operation = [&[13, 0xc0, 0x09], &offer.kem[..], &offer.dh, &numbers].concat();
    let random = pattern::<64>(0x41);
    let (endowed, ciphertext) =
        procure::endow(&relay_secret, &offer, &operation, &Secret::new(random)).expect("well-formed");
    let public = relay_secret.public();
    let again = procure::receive(&secrets(), &public, &operation, &ciphertext, &endowed.confirm);
    assert!(
        again.is_ok_and(|again| again.root == endowed.root),
        "both ends come to one root"
    );
    let card = Card {
        domain: "far.example".to_owned(),
        address: "[2001:db8::1]:7025".to_owned(),
        relay_public: public,
    };
    let text = card.to_text().expect("well-formed");
    let draft = Draft {
        secrets: secrets(),
        card,
        keys,
        value,
        debit_max: value + 1_000,
    };
    let filled = std::cell::Cell::new(0x50);
    let fresh = |out: &mut [u8]| {
        out.iter_mut()
            .enumerate()
            .for_each(|(at, room)| *room = byte(at).wrapping_add(filled.get()));
        filled.set(filled.get() + 1);
    };
    let file = draft
        .to_file(b"open the gate", PassphraseCost::LEAST, fresh)
        .expect("fits");
    json!({
        "relay_secret": hex(&pattern::<32>(0x60)), "kem_seed": hex(&pattern::<32>(0x11)), "dh_secret": hex(&pattern::<32>(0x21)),
        "keys": keys, "value": value, "operation": long(&operation), "random": hex(&random), "ciphertext": long(&ciphertext),
        "root": hex(endowed.root.expose()), "identifier": endowed.identifier.to_text(), "confirm": hex(&endowed.confirm),
        "card": { "domain": "far.example", "address": "[2001:db8::1]:7025", "text": text },
        "draft": {
            "passphrase": "open the gate", "debit_max": draft.debit_max, "header": hex(&file[..112]),
            "sealed": hex(&file[4_096..]),
        },
    })
}

/// A proof without a store, for vectors only.
struct Index(u64);

impl PersistedIndex for Index {
    fn persisted_index(&self) -> u64 {
        self.0
    }
}

/// `start, start + 1, start + 2 ...`, each modulo 256.
fn pattern<const N: usize>(start: u8) -> [u8; N] {
    std::array::from_fn(|at| byte(at).wrapping_add(start))
}

fn byte(at: usize) -> u8 {
    at.to_le_bytes()[0]
}

fn secret(start: u8) -> Secret<32> {
    Secret::new(pattern(start))
}

fn long(bytes: &[u8]) -> Value {
    json!({ "length": bytes.len(), "head": hex(&bytes[..bytes.len().min(64)]), "sha256": hex(&kdf::hash(&[bytes])) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
