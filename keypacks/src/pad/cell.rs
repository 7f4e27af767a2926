//! Cells under a pad: masked by its bytes, with a one-time Poly1305 over the whole cell.
//!
//! ```text
//! T 16 | MAC 16 | M xor { type u8, flags u8, length u16, stream u32, offset u64 } | data xor pad | random fill
//! ```
//!
//! The MAC is made under `P` over everything but itself, so a flipped bit of the fill is found too. It is checked before
//! anything is unmasked.

use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::cell::{Frame, Kind};
use crate::kdf::wipe_stack;
use crate::secretbox::{keystream, one_time_mac};
use crate::{CELL, Refused, Secret};

use super::layout::{Direction, Layout, Place, RECORD};
use super::lease::Piece;

/// Most bytes of data that one cell under a pad carries.
pub const DATA_MAX: usize = CELL - DATA_AT;

const MAC_AT: usize = 16;
const HEAD_AT: usize = 32;
const DATA_AT: usize = 48;

const _: () = assert!(DATA_MAX == 16_336);

/// Flag bit of the last cell of a message.
const FLAG_LAST: u8 = 1;
/// Flag bit of a cell whose body is sealed already: it is authenticated and not masked.
const FLAG_SEALED: u8 = 2;

/// Records that an opener looks through for the one of a cell: the other end may have lost some to an older link.
const SKIPPED_MAX: u64 = 64;

/// Why nothing can be sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PadError {
    /// What is left, or leased, is too short.
    Spent,
    /// The pad cannot be read or written.
    Unreadable,
}

impl std::fmt::Display for PadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PadError::Spent => "what is left of the pad is too short",
            PadError::Unreadable => "the pad cannot be read or written",
        })
    }
}

impl std::error::Error for PadError {}

/// One end's pad. What it says of places is durable before it is said.
pub trait End: Send + Sync {
    /// Where the bytes lie.
    fn layout(&self) -> Layout;

    /// Reads bytes of the file.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), PadError>;

    /// Takes the next record to seal under, and `masked` bytes of bodies.
    fn take(&self, masked: usize) -> Result<Piece, PadError>;

    /// What may be taken at most now: records, bytes.
    fn room(&self) -> (u64, u64);

    /// How far the other end may seal: no cell beyond opens.
    fn limit(&self) -> Place;

    /// Everything before this place of the direction is finished with, and to be overwritten.
    fn finished(&self, direction: Direction, to: Place);
}

/// Random bytes behind the data, so that a length does not show. They protect nothing else: they come from a stream
/// cipher, under a key that is drawn for each link and forgotten with it.
pub struct Fill {
    key: Secret<32>,
    count: u64,
}

impl Fill {
    /// The bytes of this seed, which is fresh randomness.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            key: Secret::new(seed),
            count: 0,
        }
    }

    /// Fills `out`: `XSalsa20(key, 0^16 | u64 count)` from its 33rd byte on, counting up.
    pub fn next(&mut self, out: &mut [u8]) {
        let mut nonce = [0; 24];
        nonce[16..].copy_from_slice(&self.count.to_le_bytes());
        self.count += 1;
        out.fill(0);
        keystream(&self.key, &nonce, out);
    }
}

/// How many of a cell's data bytes are masked: all, or of a body that is sealed already only the message's
/// `u16 header length | header` before it.
pub fn masked(kind: u8, is_sealed: bool, data: &[u8]) -> usize {
    if !is_sealed {
        return data.len();
    }
    match data.first_chunk::<2>() {
        Some(length) if kind == Kind::Request as u8 || kind == Kind::Answer as u8 => {
            (2 + usize::from(u16::from_le_bytes(*length))).min(data.len())
        }
        _ => 0,
    }
}

/// What stands in a cell.
pub(super) struct Content<'a> {
    pub(super) kind: u8,
    pub(super) last: bool,
    pub(super) is_sealed: bool,
    pub(super) stream: u32,
    pub(super) data: &'a [u8],
}

/// Seals a cell under a piece, which is of as many bytes as [`masked`] says.
pub(super) fn seal(
    end: &dyn End,
    piece: Piece,
    content: &Content<'_>,
    fill: &mut Fill,
    cell: &mut [u8; CELL],
) -> Result<(), PadError> {
    let (layout, direction, from) = (end.layout(), piece.direction, piece.from);
    let mut record = Zeroizing::new([0; RECORD as usize]);
    end.read(layout.record_at(direction, from.record), &mut record[..])?;
    if *record == [0; RECORD as usize] {
        return Err(PadError::Unreadable);
    }
    let mut mask = Zeroizing::new(vec![0; piece.masked]);
    end.read(layout.body_at(direction, from.offset), &mut mask)?;

    let (tag, rest) = record.split_at(16);
    let (mac_key, head_mask) = rest.split_at(32);
    let length = u16::try_from(content.data.len()).expect("at most DATA_MAX, as the caller cuts messages");
    cell[..16].copy_from_slice(tag);
    cell[HEAD_AT] = content.kind;
    cell[HEAD_AT + 1] = if content.last { FLAG_LAST } else { 0 } | if content.is_sealed { FLAG_SEALED } else { 0 };
    cell[HEAD_AT + 2..HEAD_AT + 4].copy_from_slice(&length.to_le_bytes());
    cell[HEAD_AT + 4..HEAD_AT + 8].copy_from_slice(&content.stream.to_le_bytes());
    cell[HEAD_AT + 8..DATA_AT].copy_from_slice(&from.offset.to_le_bytes());
    xor(&mut cell[HEAD_AT..DATA_AT], head_mask);
    let (data, behind) = cell[DATA_AT..].split_at_mut(content.data.len());
    data.copy_from_slice(content.data);
    xor(data, &mask);
    fill.next(behind);
    let mac = mac(mac_key, cell);
    cell[MAC_AT..HEAD_AT].copy_from_slice(&mac);
    wipe_stack();
    Ok(())
}

/// Exclusive-or of as many bytes as both have.
fn xor(bytes: &mut [u8], mask: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn mac(key: &[u8], cell: &[u8; CELL]) -> [u8; 16] {
    let key = Zeroizing::new(<[u8; 32]>::try_from(key).expect("P has 32 bytes"));
    let tag = cell.first_chunk::<16>().expect("a cell is longer than its tag");
    one_time_mac(&key, tag, &cell[HEAD_AT..])
}

/// What a cell held.
pub(super) struct Opened {
    pub(super) kind: u8,
    pub(super) last: bool,
    pub(super) stream: u32,
    pub(super) length: usize,
}

impl Opened {
    /// The data in the opened cell.
    pub(super) fn data(self, cell: &[u8; CELL]) -> &[u8] {
        &cell[DATA_AT..DATA_AT + self.length]
    }
}

/// Opens the other end's cells in the order of their records.
pub struct PadOpener {
    end: Arc<dyn End>,
    direction: Direction,
    next: Place,
}

impl PadOpener {
    /// An opener of the cells from `next` on.
    pub fn new(end: Arc<dyn End>, direction: Direction, next: Place) -> Self {
        Self { end, direction, next }
    }

    /// The place behind the last cell that opened.
    pub fn next(&self) -> Place {
        self.next
    }

    /// Opens `cell` where it lies. What was opened in it is the caller's to wipe. When refused the opener has not moved,
    /// and the link is to be closed without an answer.
    pub fn open<'c>(&mut self, cell: &'c mut [u8; CELL]) -> Result<Frame<'c>, Refused> {
        let opened = self.open_within(cell, SKIPPED_MAX)?;
        Ok(Frame {
            kind: Kind::of(opened.kind)?,
            last: opened.last,
            stream: opened.stream,
            data: opened.data(cell),
        })
    }

    /// Opens a cell that lies under one of the next `records`.
    pub(super) fn open_within(&mut self, cell: &mut [u8; CELL], records: u64) -> Result<Opened, Refused> {
        let (end, limit) = (&*self.end, self.end.limit());
        let tag: [u8; 16] = *cell.first_chunk().ok_or(Refused)?;
        let most = limit.record.saturating_sub(self.next.record).min(records);
        let (number, record) = find(end, self.direction, self.next.record, most, &tag)?;
        let (mac_key, head_mask) = record[16..].split_at(32);
        if !bool::from(mac(mac_key, cell).ct_eq(&cell[MAC_AT..HEAD_AT])) {
            return Err(Refused);
        }
        xor(&mut cell[HEAD_AT..DATA_AT], head_mask);
        let [kind, flags, l0, l1, s0, s1, s2, s3, offset @ ..] = *cell[HEAD_AT..].first_chunk::<16>().ok_or(Refused)?;
        let (length, offset) = (usize::from(u16::from_le_bytes([l0, l1])), u64::from_le_bytes(offset));
        if flags & !(FLAG_LAST | FLAG_SEALED) != 0 || length > DATA_MAX || offset < self.next.offset {
            return Err(Refused);
        }
        let data = &mut cell[DATA_AT..DATA_AT + length];
        let unmask = |data: &mut [u8], at: u64| {
            let behind = at.checked_add(data.len() as u64).ok_or(Refused)?;
            if behind > limit.offset {
                return Err(Refused);
            }
            let mut mask = Zeroizing::new(vec![0; data.len()]);
            let from = end.layout().body_at(self.direction, at);
            end.read(from, &mut mask).map_err(|_| Refused)?;
            xor(data, &mask);
            Ok(())
        };
        let is_sealed = flags & FLAG_SEALED != 0;
        if is_sealed && kind != Kind::Answer as u8 && kind != Kind::Data as u8 {
            return Err(Refused);
        }
        // Of a sealed body's first cell only the length of the header tells how much is masked.
        let first = if is_sealed {
            masked_head(kind).min(length)
        } else {
            length
        };
        unmask(&mut data[..first], offset)?;
        let all = masked(kind, is_sealed, data);
        unmask(&mut data[first.min(all)..all], offset + first as u64)?;
        self.next = Place {
            record: number + 1,
            offset: offset + all as u64,
        };
        end.finished(self.direction, self.next);
        wipe_stack();
        Ok(Opened {
            kind,
            last: flags & FLAG_LAST != 0,
            stream: u32::from_le_bytes([s0, s1, s2, s3]),
            length,
        })
    }
}

/// Bytes before the header of a message, which say how long it is.
fn masked_head(kind: u8) -> usize {
    if kind == Kind::Request as u8 || kind == Kind::Answer as u8 {
        2
    } else {
        0
    }
}

/// Looks for the record of a tag among the next ones. Tags are public: nothing is told by the time it takes.
pub(super) fn find(
    end: &dyn End,
    direction: Direction,
    from: u64,
    most: u64,
    tag: &[u8; 16],
) -> Result<(u64, Zeroizing<[u8; RECORD as usize]>), Refused> {
    const READ: u64 = 64;
    let mut done = 0;
    // The next one is nearly always the one.
    let mut step = 1;
    while done < most {
        let count = step.min(most - done);
        let mut records = Zeroizing::new(vec![0; (RECORD * count) as usize]);
        let first = from + done;
        end.read(end.layout().record_at(direction, first), &mut records)
            .map_err(|_| Refused)?;
        for (number, record) in (first..).zip(records.as_chunks::<{ RECORD as usize }>().0) {
            // One of zeros was overwritten: under it anybody could make a MAC.
            if record[..16] == *tag && *record != [0; RECORD as usize] {
                return Ok((number, Zeroizing::new(*record)));
            }
        }
        done += count;
        step = READ;
    }
    Err(Refused)
}

/// Seals one end's cells.
pub struct PadSealer {
    end: Arc<dyn End>,
    direction: Direction,
    fill: Fill,
}

impl PadSealer {
    /// A sealer that takes from this end's pad.
    pub fn new(end: Arc<dyn End>, direction: Direction, fill: Fill) -> Self {
        Self { end, direction, fill }
    }

    /// What may be sealed at most now: records, and bytes of bodies.
    pub fn room(&self) -> (u64, u64) {
        self.end.room()
    }

    /// Writes `frame` into `cell` and seals it there. `is_sealed`: its body opens by a key of its own and is not masked.
    ///
    /// # Panics
    /// If the frame has more than [`DATA_MAX`] bytes of data.
    pub fn seal(&mut self, frame: Frame<'_>, is_sealed: bool, cell: &mut [u8; CELL]) -> Result<(), PadError> {
        let content = Content {
            kind: frame.kind as u8,
            last: frame.last,
            is_sealed,
            stream: frame.stream,
            data: frame.data,
        };
        self.seal_content(&content, cell)
    }

    pub(super) fn seal_content(&mut self, content: &Content<'_>, cell: &mut [u8; CELL]) -> Result<(), PadError> {
        assert!(content.data.len() <= DATA_MAX, "the caller cuts messages into cells");
        let piece = self.end.take(masked(content.kind, content.is_sealed, content.data))?;
        let behind = piece.end();
        let sealed = seal(&*self.end, piece, content, &mut self.fill, cell);
        if sealed.is_err() {
            // Whatever was written into it is not to leave.
            cell.zeroize();
        }
        self.end.finished(self.direction, behind);
        sealed
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let _ = masked(bytes.first().copied().unwrap_or_default(), true, bytes);
}
