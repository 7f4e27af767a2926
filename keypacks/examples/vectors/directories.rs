//! Directories: a list, its signatures, and who goes by them.

use keypacks::directory::{Descriptor, DirectoryKey, Exit, List, Pin, Prices, Signed};
use keypacks::procure::Card;
use serde_json::{Value, json};

use super::{hex, pattern, secret};

/// A directory of two relays, as two signers sign it.
pub(super) fn directory_vectors() -> Value {
    let seeds = [0x51, 0x52];
    let keys = seeds.map(|seed| DirectoryKey::new(secret(seed)));
    let relay = |domain: &str, address: &str, operator: &str, prices: [u64; 3], exit, links, draining| {
        let [message, kilobyte, key] = prices;
        Descriptor {
            card: Card {
                domain: domain.to_owned(),
                address: address.to_owned(),
                relay_public: pattern::<32>(0x60),
            },
            operator: operator.to_owned(),
            prices: Prices { message, kilobyte, key },
            exit,
            links,
            draining,
        }
    };
    let only = Exit::Only(["b.example", "c.example"].map(str::to_owned).to_vec());
    let list = List {
        serial: 7,
        from: 20_779,
        until: 20_793,
        relays: vec![
            relay(
                "a.example",
                "[2001:db8::1]:7025",
                "First Operator",
                [1_000, 10, 100],
                Exit::Any,
                4_096,
                false,
            ),
            relay(
                "far.example",
                "relay.far.example:7025",
                "B & C",
                [0, 0, u64::MAX],
                only,
                7,
                true,
            ),
        ],
    };
    let mut signed = Signed::new(list).expect("well-formed");
    for key in &keys {
        signed.sign(key).expect("room");
    }
    let pin = Pin::new(2, keys.iter().map(DirectoryKey::public).collect()).expect("2 of 2");
    assert_eq!(pin.verify(&signed), Ok(()));
    json!({
        "seeds": seeds.map(|seed| hex(secret(seed).expose())), "relay_public": hex(&pattern::<32>(0x60)),
        "body": signed.body(), "list": signed.to_text(), "keys": pin.to_text(), "secret": *keys[0].to_text(),
    })
}
