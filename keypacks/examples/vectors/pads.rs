//! A pad whose file is known, and one whole link under it.

use std::sync::{Arc, Mutex};

use keypacks::cell::{Frame, Kind};
use keypacks::link::Confirm;
use keypacks::pad::{
    self, Direction, FileHeader, Fill, Layout, Lease, Made, Offer, PAD_MIN, PadError, PadSealer, Place,
};
use keypacks::{CELL, kdf};
use serde_json::{Value, json};

use super::links::{linked_and_answer, request_and_padding};
use super::{hex, long, pattern};

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

pub(super) fn pad_layout() -> Layout {
    Layout::of_size(PAD_MIN).expect("the smallest")
}

fn place(record: u64, offset: u64) -> Place {
    Place { record, offset }
}

/// A file header, and one whole link with the first cells each way.
pub(super) fn pad_vectors() -> Value {
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
