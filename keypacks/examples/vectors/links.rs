//! One whole link, and how it goes on under the next keys.

use keypacks::cell::{Frame, Kind, padding};
use keypacks::chain::LinkChain;
use keypacks::link::{self, ClientEntropy, Confirm, Link, Linked, PersistedIndex, RelaySecret, Rotate};
use keypacks::{CELL, Secret};
use serde_json::{Value, json};

use super::{hex, long, pattern, secret};

/// One whole link at index 5, with the first cells each way.
pub(super) fn link_vectors() -> Value {
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

pub(super) fn linked_and_answer() -> [(Kind, bool, u32, Vec<u8>); 3] {
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

pub(super) fn request_and_padding() -> [(Kind, bool, u32, Vec<u8>); 4] {
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

/// A proof without a store, for vectors only.
struct Index(u64);

impl PersistedIndex for Index {
    fn persisted_index(&self) -> u64 {
        self.0
    }
}
