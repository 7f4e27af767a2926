//! Two ends over one pad in memory.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::cell::{Frame, Kind};
use crate::link::Confirm;
use crate::{CELL, kdf};

/// Byte `x` of the file is byte `x mod 32` of `H(u64 x / 32)`.
pub(crate) fn known_pad(layout: Layout) -> Arc<Vec<u8>> {
    let blocks = layout.file_bytes().div_ceil(32);
    Arc::new(
        (0..blocks)
            .flat_map(|block| kdf::hash(&[&block.to_le_bytes()]))
            .collect(),
    )
}

pub(crate) struct MemoryEnd {
    layout: Layout,
    bytes: Arc<Vec<u8>>,
    lease: Mutex<Lease>,
    limit: Place,
    pub(crate) finished: Mutex<[Place; 2]>,
}

impl MemoryEnd {
    pub(crate) fn new(bytes: &Arc<Vec<u8>>, lease: Lease, limit: Place) -> Arc<Self> {
        let layout = Layout::of_size(PAD_MIN).expect("the smallest");
        Arc::new(Self {
            layout,
            bytes: Arc::clone(bytes),
            lease: Mutex::new(lease),
            limit,
            finished: Mutex::default(),
        })
    }
}

impl End for MemoryEnd {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), PadError> {
        let at = usize::try_from(at).expect("a small pad");
        let bytes = self.bytes.get(at..at + out.len()).ok_or(PadError::Unreadable)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn take(&self, masked: usize) -> Result<Piece, PadError> {
        self.lease.lock().expect("no test panics here").take(masked)
    }

    fn room(&self) -> (u64, u64) {
        let lease = self.lease.lock().expect("no test panics here");
        let (next, end) = (lease.next(), lease.end());
        (end.record - next.record, end.offset - next.offset)
    }

    fn limit(&self) -> Place {
        self.limit
    }

    fn finished(&self, direction: Direction, to: Place) {
        let mut finished = self.finished.lock().expect("no test panics here");
        let place = &mut finished[usize::from(direction == Direction::Down)];
        *place = place.max(to);
    }
}

fn layout() -> Layout {
    Layout::of_size(PAD_MIN).expect("the smallest")
}

/// A sealer of the up region from its beginning, and an opener of it.
fn ends() -> (PadSealer, PadOpener, Arc<MemoryEnd>) {
    let pad = known_pad(layout());
    let all = Lease::granted(Direction::Up, Place::default(), layout().end());
    let holder = MemoryEnd::new(&pad, all, Place::default());
    let none = Lease::granted(Direction::Down, Place::default(), Place::default());
    let relay = MemoryEnd::new(&pad, none, layout().end());
    let sealer = PadSealer::new(holder.clone(), Direction::Up, Fill::new([3; 32]));
    (sealer, PadOpener::new(relay, Direction::Up, Place::default()), holder)
}

fn frame(kind: Kind, data: &[u8]) -> Frame<'_> {
    Frame {
        kind,
        last: true,
        stream: 7,
        data,
    }
}

#[test]
fn a_cell_costs_a_record_and_what_it_masks_and_opens_as_it_was() {
    let (mut sealer, mut opener, holder) = ends();
    let header = [2, 0, 8, 9];
    let sealed_body = [&header[..], &[5; 1_000]].concat();
    for (kind, is_sealed, data, cost) in [
        (Kind::Request, false, &[][..], 0),
        (Kind::Request, false, &[1; 300][..], 300),
        (Kind::Data, false, &[1; DATA_MAX][..], DATA_MAX as u64),
        (Kind::Answer, true, &sealed_body, 4),
        (Kind::Data, true, &[7; 16_000][..], 0),
        (Kind::Pad, false, &[][..], 0),
    ] {
        let (records, bytes) = holder.room();
        let mut cell = [0; CELL];
        sealer
            .seal(frame(kind, data), is_sealed, &mut cell)
            .expect("there is room");
        assert_eq!(holder.room(), (records - 1, bytes - cost));
        if is_sealed {
            assert!(cell.windows(900).any(|window| data.ends_with(window)), "not masked");
        }
        let opened = opener.open(&mut cell).expect("as it was sealed");
        assert!(opened.kind == kind && opened.last && opened.stream == 7 && opened.data == data);
    }
}

#[test]
fn a_flipped_bit_a_repeated_cell_and_a_cell_out_of_turn_do_not_open() {
    let (mut sealer, mut opener, _) = ends();
    let mut seal = |data: &[u8]| {
        let mut cell = Box::new([0; CELL]);
        sealer
            .seal(frame(Kind::Request, data), false, &mut cell)
            .expect("there is room");
        cell
    };
    let (first, second) = (seal(b"one"), seal(b"two"));
    for bit in [0, 8 * 16, 8 * 33, 8 * 48, 8 * 60, 8 * CELL - 1] {
        let mut flipped = first.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open(&mut flipped).is_err(), "{bit}");
    }
    // A lost cell desynchronises nothing, and does not come after.
    assert!(opener.open(&mut second.clone()).expect("the next but one").data == b"two");
    assert!(opener.open(&mut first.clone()).is_err() && opener.open(&mut second.clone()).is_err());
}

#[test]
fn the_end_of_a_lease_is_a_hard_stop() {
    let pad = known_pad(layout());
    let end = Place {
        record: 12,
        offset: 100,
    };
    let holder = MemoryEnd::new(
        &pad,
        Lease::granted(Direction::Up, Place { record: 10, offset: 0 }, end),
        end,
    );
    let mut sealer = PadSealer::new(holder.clone(), Direction::Up, Fill::new([3; 32]));
    let mut cell = [0; CELL];
    assert!(sealer.seal(frame(Kind::Request, &[1; 101]), false, &mut cell) == Err(PadError::Spent));
    assert!(cell == [0; CELL], "nothing of it is sealed");
    for _ in 0..2 {
        sealer
            .seal(frame(Kind::Request, &[1; 50]), false, &mut cell)
            .expect("there is room");
    }
    assert_eq!(holder.room(), (0, 0));
    assert!(sealer.seal(frame(Kind::Pad, &[]), false, &mut cell) == Err(PadError::Spent));
}

#[test]
fn what_lies_beyond_the_limit_does_not_open() {
    let (mut sealer, _, holder) = ends();
    let mut cell = [0; CELL];
    sealer
        .seal(frame(Kind::Request, &[1; 50]), false, &mut cell)
        .expect("there is room");
    for (limit, opens) in [((1, 50), true), ((1, 49), false), ((0, 50), false)] {
        let limit = Place {
            record: limit.0,
            offset: limit.1,
        };
        let none = Lease::granted(Direction::Down, Place::default(), Place::default());
        let relay = MemoryEnd::new(&holder.bytes, none, limit);
        let mut opener = PadOpener::new(relay, Direction::Up, Place::default());
        assert_eq!(opener.open(&mut cell.clone()).is_ok(), opens, "{limit:?}");
    }
}

#[test]
fn a_hello_is_answered_to_its_own_nonce_alone() {
    let pad = known_pad(layout());
    let down = Lease::granted(Direction::Down, Place { record: 40, offset: 9 }, layout().end());
    let relay = MemoryEnd::new(&pad, down, Place { record: 7, offset: 524 });
    let none = Lease::granted(Direction::Up, Place::default(), Place::default());
    let holder = MemoryEnd::new(&pad, none, layout().end());
    let nonce = [8; HELLO_NONCE];
    let cell1 = hello(&*holder, 5, &nonce, &mut Fill::new([1; 32])).expect("a record");
    let tags = up_tags(&*relay, 4, 4).expect("records");
    let found = tags.iter().find(|(_, tag)| *tag == crate::link::peek_tag(&cell1));
    assert!(found.is_some_and(|(record, _)| *record == 5));
    assert!(hello(&*holder, layout().records(), &nonce, &mut Fill::new([1; 32])).is_err());

    let offer = Offer {
        from: Place { record: 6, offset: 500 },
        end: Place {
            record: 22,
            offset: 4_596,
        },
        floor: 3,
    };
    let mut sealer = PadSealer::new(relay.clone(), Direction::Down, Fill::new([2; 32]));
    let cell2 = seal_offer(&mut sealer, &hello_nonce(&cell1), &offer).expect("there is room");
    let open = |nonce| {
        let mut opener = PadOpener::new(holder.clone(), Direction::Down, Place::default());
        open_offer(&mut opener, &*holder, nonce, &mut cell2.clone())
    };
    assert_eq!(open(&nonce), Ok(offer));
    assert!(open(&[9; HELLO_NONCE]).is_err());

    let leased = Lease::granted(Direction::Up, offer.from, offer.end);
    let leased = MemoryEnd::new(&pad, leased, Place::default());
    let mut up = PadSealer::new(leased, Direction::Up, Fill::new([4; 32]));
    let confirm = Confirm {
        token: [6; 16],
        answered: 12,
    };
    let cell3 = seal_confirm(&mut up, &confirm).expect("under the lease");
    let mut opener = PadOpener::new(relay.clone(), Direction::Up, offer.from);
    assert!(open_confirm(&mut opener, &mut cell3.clone()) == Ok(confirm));
    assert!(open_confirm(&mut opener, &mut cell3.clone()).is_err(), "once");
}

proptest! {
    /// Whatever is sealed: no record and no byte of the pad is taken twice, and what is spent is the formula's.
    #[test]
    fn every_byte_is_taken_once_and_the_cost_is_the_formula(
        cells in prop::collection::vec((0_usize..=DATA_MAX, any::<bool>()), 1..40),
    ) {
        let mut lease = Lease::granted(Direction::Up, Place { record: 3, offset: 70 }, layout().end());
        let (mut records, mut next, mut cost) = (HashSet::new(), 70, 0);
        for (length, is_sealed) in cells {
            let data = vec![1; length];
            let masked = masked(Kind::Data as u8, is_sealed, &data);
            let Ok(piece) = lease.take(masked) else { break };
            prop_assert!(records.insert(piece.from.record));
            prop_assert_eq!(piece.from.offset, next);
            next += masked as u64;
            cost += RECORD + masked as u64;
        }
        prop_assert_eq!(Place { record: 3, offset: 70 }.bytes_to(lease.next()), cost);
    }

    #[test]
    fn any_data_comes_back(data in prop::collection::vec(any::<u8>(), 0..=DATA_MAX), sealed in any::<bool>()) {
        let (mut sealer, mut opener, _) = ends();
        let mut cell = [0; CELL];
        sealer.seal(frame(Kind::Answer, &data), sealed, &mut cell).expect("there is room");
        prop_assert!(opener.open(&mut cell).expect("as it was sealed").data == &data[..]);
    }

    #[test]
    fn noise_does_not_open(noise in prop::collection::vec(any::<u8>(), 64)) {
        let (mut sealer, mut opener, _) = ends();
        let mut cell = [0; CELL];
        sealer.seal(frame(Kind::Request, b"x"), false, &mut cell).expect("there is room");
        cell[16..80].copy_from_slice(&noise);
        prop_assert!(opener.open(&mut cell).is_err());
    }
}

/// What was overwritten is no pad: with P = 0 any cell whose MAC is zeros would be of the other end.
#[test]
fn a_record_of_zeros_opens_nothing_and_seals_nothing() {
    let layout = Layout::of_size(PAD_MIN).expect("the smallest");
    let zeros = Arc::new(vec![0; usize::try_from(layout.file_bytes()).expect("a small pad")]);
    let lease = || Lease::granted(Direction::Up, Place::default(), layout.end());
    let end = MemoryEnd::new(&zeros, lease(), layout.end());
    let mut opener = PadOpener::new(end.clone(), Direction::Down, Place::default());
    assert!(opener.open(&mut [0; CELL]).is_err());
    let mut forged = [0; CELL];
    assert!(open_offer(&mut opener, &*end, &[0; HELLO_NONCE], &mut forged).is_err());
    assert!(hello(&*end, 0, &[1; HELLO_NONCE], &mut Fill::new([2; 32])).is_err());
    let mut sealer = PadSealer::new(end, Direction::Up, Fill::new([3; 32]));
    let confirm = Confirm {
        token: [0; 16],
        answered: 0,
    };
    assert!(seal_confirm(&mut sealer, &confirm).is_err());
}
