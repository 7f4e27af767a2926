//! The first three cells of a link under a pad.
//!
//! ```text
//! cell 1, up     T_up[i] | Hn 16, random, in clear | random fill           no other byte of the pad is used
//! cell 2, down   a cell of type 10: Hn 16 | a u64 | c u64 | b u64 | d u64 | p u64
//! cell 3, up     a cell of type 11 under record a: link token 16 | answered u64
//! ```
//!
//! Records `[a, b)` and bytes `[c, d)` of the up region are leased to whoever shows the tag with this `Hn`. The holder
//! uses no other, so a copy of its pad cannot use what this connection does.

use crate::link::Confirm;
use crate::{CELL, Refused, Tag};

use super::cell::{Content, End, Fill, PadError, PadOpener, PadSealer};
use super::layout::{Direction, Place, RECORD};

/// Length of `Hn`.
pub const HELLO_NONCE: usize = 16;

const LEASE: u8 = 10;
const CONFIRM: u8 = 11;

/// Down records among which a holder looks for the one of cell 2: more than a relay that crashes can lose at once.
const SOUGHT_MAX: u64 = 65_536;

/// What the relay offers in cell 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// `a` and `c`: where the lease begins.
    pub from: Place,
    /// `b` and `d`: where it ends.
    pub end: Place,
    /// `p`: the account's lowest live link index, which counts the links that were paid for.
    pub floor: u64,
}

impl Offer {
    /// Length of the data of cell 2.
    pub const BYTES: usize = HELLO_NONCE + 40;

    fn encode(&self, nonce: &[u8; HELLO_NONCE]) -> [u8; Self::BYTES] {
        let mut data = [0; Self::BYTES];
        data[..HELLO_NONCE].copy_from_slice(nonce);
        let numbers = [
            self.from.record,
            self.from.offset,
            self.end.record,
            self.end.offset,
            self.floor,
        ];
        for (number, room) in numbers.into_iter().zip(data[HELLO_NONCE..].chunks_mut(8)) {
            room.copy_from_slice(&number.to_le_bytes());
        }
        data
    }

    fn decode(data: &[u8], nonce: &[u8; HELLO_NONCE]) -> Result<Self, Refused> {
        let (shown, numbers) = data.split_first_chunk::<HELLO_NONCE>().ok_or(Refused)?;
        let (numbers, []) = numbers.as_chunks::<8>() else {
            return Err(Refused);
        };
        let [a, c, b, d, floor] = *<&[[u8; 8]; 5]>::try_from(numbers).map_err(|_| Refused)?;
        if shown != nonce {
            return Err(Refused);
        }
        let place = |record, offset| Place {
            record: u64::from_le_bytes(record),
            offset: u64::from_le_bytes(offset),
        };
        Ok(Self {
            from: place(a, c),
            end: place(b, d),
            floor: u64::from_le_bytes(floor),
        })
    }
}

/// What the holder shows in cell 3.
pub type PadConfirm = Confirm;

/// Makes cell 1 of an up record; returns its tag. `nonce` is fresh randomness for this attempt alone.
pub fn hello(
    end: &dyn End,
    record: u64,
    nonce: &[u8; HELLO_NONCE],
    fill: &mut Fill,
) -> Result<Box<[u8; CELL]>, PadError> {
    let mut cell = Box::new([0; CELL]);
    let mut tag = [0; 16];
    if record >= end.layout().records() {
        return Err(PadError::Spent);
    }
    end.read(end.layout().record_at(Direction::Up, record), &mut tag)?;
    if tag == [0; 16] {
        return Err(PadError::Unreadable);
    }
    cell[..16].copy_from_slice(&tag);
    cell[16..16 + HELLO_NONCE].copy_from_slice(nonce);
    fill.next(&mut cell[16 + HELLO_NONCE..]);
    Ok(cell)
}

/// `Hn` of a first cell.
pub fn hello_nonce(cell1: &[u8; CELL]) -> [u8; HELLO_NONCE] {
    *cell1[16..].first_chunk().expect("a cell is longer than its head")
}

/// Makes cell 2. What it offers, and the record that it is sealed under, are durable.
pub fn seal_offer(
    sealer: &mut PadSealer,
    nonce: &[u8; HELLO_NONCE],
    offer: &Offer,
) -> Result<Box<[u8; CELL]>, PadError> {
    let data = offer.encode(nonce);
    sealed_alone(sealer, LEASE, &data)
}

/// Opens cell 2. Refused as well: it answers another hello, or offers what the pad has not.
pub fn open_offer(
    opener: &mut PadOpener,
    end: &dyn End,
    nonce: &[u8; HELLO_NONCE],
    cell2: &mut [u8; CELL],
) -> Result<Offer, Refused> {
    let opened = opener.open_within(cell2, SOUGHT_MAX)?;
    if opened.kind != LEASE || opened.stream != 0 || !opened.last {
        return Err(Refused);
    }
    let offer = Offer::decode(opened.data(cell2), nonce)?;
    if offer.from.is_within(offer.end) && offer.end.is_within(end.layout().end()) {
        Ok(offer)
    } else {
        Err(Refused)
    }
}

/// Makes cell 3, the first cell under the lease.
pub fn seal_confirm(sealer: &mut PadSealer, confirm: &PadConfirm) -> Result<Box<[u8; CELL]>, PadError> {
    sealed_alone(sealer, CONFIRM, &confirm.encode())
}

/// Opens cell 3.
pub fn open_confirm(opener: &mut PadOpener, cell3: &mut [u8; CELL]) -> Result<PadConfirm, Refused> {
    let opened = opener.open_within(cell3, 1)?;
    if opened.kind != CONFIRM || opened.stream != 0 || !opened.last {
        return Err(Refused);
    }
    let data = opened.data(cell3);
    if data.len() == Confirm::BYTES {
        Confirm::decode(data)
    } else {
        Err(Refused)
    }
}

fn sealed_alone(sealer: &mut PadSealer, kind: u8, data: &[u8]) -> Result<Box<[u8; CELL]>, PadError> {
    let mut cell = Box::new([0; CELL]);
    let content = Content {
        kind,
        last: true,
        is_sealed: false,
        stream: 0,
        data,
    };
    sealer.seal_content(&content, &mut cell)?;
    Ok(cell)
}

/// The tags of so many up records, by which a relay finds account and record.
pub fn up_tags(end: &dyn End, from: u64, most: u64) -> Result<Vec<(u64, Tag)>, PadError> {
    let count = end.layout().records().saturating_sub(from).min(most);
    let mut records = zeroize::Zeroizing::new(vec![0; (RECORD * count) as usize]);
    end.read(end.layout().record_at(Direction::Up, from), &mut records)?;
    let tags = records.as_chunks::<{ RECORD as usize }>().0.iter();
    let tag = |record: &[u8; RECORD as usize]| Tag(*record.first_chunk().expect("a record begins with its tag"));
    Ok((from..).zip(tags.map(tag)).collect())
}

pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(offer) = Offer::decode(bytes, &[0; HELLO_NONCE]) {
        assert!(
            offer.encode(&[0; HELLO_NONCE])[..] == *bytes,
            "one layout, one encoding"
        );
    }
}
