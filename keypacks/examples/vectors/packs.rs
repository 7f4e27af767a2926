//! Packs: as issued, with new roots, and procured at another relay.

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::link::RelaySecret;
use keypacks::pack::{Header, Identifier, Issue, PackPad, PassphraseCost, paper_parts};
use keypacks::pad::{Half, HalfDigest, Made};
use keypacks::procure::{self, Card, Draft};
use keypacks::reroot::{self, RecoveryCode};
use keypacks::rotation::Policy;
use serde_json::{Value, json};

use super::pads::pad_layout;
use super::{byte, hex, long, pattern, secret};

/// A second half of a pad.
fn half() -> Half {
    let mut digest = HalfDigest::default();
    digest.update(b"the other ");
    digest.update(b"half");
    digest.finish()
}

pub(super) fn pack_vectors() -> Value {
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

/// A new root, as both ends come to it.
pub(super) fn root_vectors() -> Value {
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
pub(super) fn procure_vectors() -> Value {
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
