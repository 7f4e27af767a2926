//! Makes the known-answer vectors of requests: `cargo run -p mailbox --example request_vectors` rewrites `mailbox/vectors/`.
//!
//! Byte strings are in hexadecimal.

use std::num::NonZeroU8;
use std::path::Path;

use mailbox::devices::{EVENTS, Event, encode_events};
use mailbox::request::{
    Answer, Change, Device, Envelope, EnvelopeOption, Measured, Mixing, Offer, Offers, Operation, Origin, Profile,
    Refusal, Request, Wishes, encode, payload_head,
};
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

/// Every file of `mailbox/vectors/` with what belongs into it.
pub(crate) fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("changes.json", changes()),
        ("devices.json", devices()),
        ("procure.json", procure()),
        ("envelopes.json", envelopes()),
        ("mixing.json", mixing()),
    ]
}

fn changes() -> Value {
    let change = |name: &str, seq, operation| {
        let change = Change {
            seq,
            id: [0x11; 16],
            blind: [0x22; 16],
            acknowledged: 2,
            operation,
        };
        json!({
            "name": name, "seq": seq, "id": hex(&change.id), "blind": hex(&change.blind), "acknowledged": 2,
            "operation": hex(&change.operation.encode()), "digest": hex(&change.digest()),
            "header": hex(&encode(&Request::Change(change))),
        })
    };
    let answer = |name: &str, answer| json!({ "name": name, "header": hex(&encode(&answer)) });
    json!({
        "changes": [
            change("expire now", 3, Operation::Expire { day: Some(0) }),
            change("expire on 20779", 300, Operation::Expire { day: Some(20_779) }),
            change("expire never", 301, Operation::Expire { day: None }),
        ],
        "answers": [
            answer("moved", Answer::Moved { seq: 3, keys: 42, value: 300_000, end: 50, balance: 0 }),
            answer("ended", Answer::Refused { seq: 301, refusal: Refusal::Ended }),
        ],
    })
}

/// The layouts of an envelope, each as it stands in a payload behind its length.
fn envelopes() -> Value {
    let plain = || Envelope {
        reverse_path: "me@r.test".to_owned(),
        recipients: vec!["bob@example.org".to_owned(), "ann@example.net".to_owned()],
        ..Envelope::default()
    };
    let notify = |recipient, wishes| EnvelopeOption::Notify { recipient, wishes };
    let both = Wishes::from_bits(Wishes::SUCCESS.bits() | Wishes::FAILURE.bits()).expect("they go together");
    let asked = || vec![notify(0, Wishes::NEVER), notify(1, both)];
    let sent = |options| Origin::Sender {
        message_id: [0x55; 16],
        options,
    };
    let passed_on = |options| Origin::Relay {
        hops: NonZeroU8::MIN.saturating_add(2),
        options,
    };
    let layouts = [
        ("1", Origin::Plain),
        ("2", sent(Vec::new())),
        ("3", passed_on(Vec::new())),
        ("4", sent(asked())),
        ("5", passed_on(asked())),
    ];
    let layouts = layouts.map(|(version, origin)| (version, Envelope { origin, ..plain() }));
    let head = |envelope: &Envelope| hex(&payload_head(envelope));
    let layouts: serde_json::Map<_, _> = layouts
        .iter()
        .map(|(version, envelope)| ((*version).to_owned(), json!(head(envelope))))
        .collect();
    json!(layouts)
}

/// What a pool offers, and a submission that asks for it.
fn mixing() -> Value {
    let answer = |name: &str, answer| json!({ "name": name, "header": hex(&encode(&answer)) });
    let offer = |profile: Profile, least, rounds| Offer {
        profile: profile.number(),
        least,
        rounds,
        cost: 0,
        median_s: 720,
        most_s: 2_700,
    };
    let asked = Envelope {
        reverse_path: "me@r.test".to_owned(),
        recipients: vec!["bob@example.org".to_owned()],
        origin: Origin::Sender {
            message_id: [0x55; 16],
            options: vec![EnvelopeOption::Mix {
                profile: Profile::Paranoid.number(),
            }],
        },
    };
    json!({
        "request": hex(&encode(&Request::Mixing)),
        "answers": [
            answer("none", Answer::Mixing(Mixing::default())),
            answer("both", Answer::Mixing(Mixing {
                profiles: vec![offer(Profile::Mixed, 20, 0), offer(Profile::Paranoid, 60, 3)],
                round_s: 300,
                hold_s: 86_400,
                measured: Some(Measured { day: 20_779, decibits: 45, held_percent: 2 }),
            })),
            answer("refused", Answer::Refused { seq: 5, refusal: Refusal::Mix }),
        ],
        "envelope": hex(&payload_head(&asked)),
    })
}

/// Packs that a relay procures at others.
fn procure() -> Value {
    let (kem, dh) = (vec![0x11; 1_216], [0x22; 32]);
    let order = Operation::Procure {
        relay: "far.example".to_owned(),
        kem: kem.clone(),
        dh,
        keys: 500,
        value: 10_000_000,
        debit_max: 10_001_000,
    };
    let endow = Operation::Endow {
        kem,
        dh,
        keys: 500,
        value: 10_000_000,
    };
    let offers = Answer::Offers(Offers {
        fee: 1_000,
        relays: vec!["far.example".to_owned(), "b.example".to_owned()],
        sizes: vec![(100, 1_000_000), (500, 10_000_000)],
    });
    let endowed = Answer::Endowed {
        seq: 300,
        end: 9_500,
        ciphertext: vec![0x33; 1_120],
        confirm: [0x44; 16],
    };
    let refused = Answer::Refused {
        seq: 3,
        refusal: Refusal::Offer,
    };
    let events = [
        Event::Procured {
            order: [0x55; 32],
            ciphertext: vec![0x33; 1_120],
            confirm: [0x44; 16],
        },
        Event::NotProcured { order: [0x66; 32] },
    ];
    json!({
        "procure": hex(&order.encode()), "endow": hex(&endow.encode()), "asked": hex(&encode(&Request::Offers)),
        "offers": hex(&encode(&offers)), "endowed": hex(&encode(&endowed)), "refused": hex(&encode(&refused)),
        "events": hex(&encode_events(&events)),
    })
}

/// Several devices of one account.
fn devices() -> Value {
    let operation = |name: &str, operation: Operation| json!({ "name": name, "operation": hex(&operation.encode()) });
    let answer = |name: &str, answer| json!({ "name": name, "header": hex(&encode(&answer)) });
    let device = |number, used, keys| Device {
        number,
        since: 20_779,
        used,
        keys,
    };
    let events = [
        Event::Alias {
            number: 300,
            address: "me@r.test".to_owned(),
            open: true,
        },
        Event::Joined { device: 2, by: 1 },
        Event::Dropped { device: 1, by: 2 },
        Event::Frozen { device: 2 },
    ];
    json!({
        "request": hex(&encode(&Request::Devices)),
        "operations": [
            operation("device", Operation::Device { identifier: [0x33; 16], root: [0x44; 32], keys: 300 }),
            operation("drop", Operation::Drop { device: 2 }),
            operation("tell", Operation::Tell { locals: vec!["me".to_owned(), "you".to_owned()] }),
        ],
        "answers": [
            answer("alone", Answer::Devices { own: 1, devices: Vec::new() }),
            answer("two", Answer::Devices { own: 2, devices: vec![device(1, None, 70), device(2, Some(20_780), 300)] }),
            answer("limit", Answer::Refused { seq: 3, refusal: Refusal::DeviceLimit }),
            answer("unknown", Answer::Refused { seq: 4, refusal: Refusal::DeviceUnknown }),
        ],
        "alias": EVENTS,
        "events": hex(&encode_events(&events)),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
