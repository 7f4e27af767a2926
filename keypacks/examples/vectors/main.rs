//! Makes the known-answer vectors: `cargo run -p keypacks --example vectors` rewrites `keypacks/vectors/`.
//!
//! Inputs are fixed patterns, so that the files only change when the protocol does. Byte strings are in hexadecimal;
//! long ones are given by their length, first 64 bytes and SHA-256, which a second implementation compares after making
//! the same bytes itself.

use std::path::Path;

use keypacks::chain::{BoxChain, BoxKind, BoxStep, LinkChain};
use keypacks::deposit::{self, BodySealer, Dek, WrapFields};
use keypacks::link::floor_verdict;
use keypacks::parcel::{self, LayerSealer};
use keypacks::{Secret, kdf};
use serde_json::{Value, json};

mod directories;
mod links;
mod packs;
mod pads;

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
        ("link.json", links::link_vectors()),
        ("deposits.json", deposit_vectors()),
        ("floor.json", floor_vectors()),
        ("pack.json", packs::pack_vectors()),
        ("pad.json", pads::pad_vectors()),
        ("parcels.json", parcel_vectors()),
        ("roots.json", packs::root_vectors()),
        ("procure.json", packs::procure_vectors()),
        ("directory.json", directories::directory_vectors()),
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
