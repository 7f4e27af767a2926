//! The bytes of the log: segment headers and records.
//!
//! ```text
//! segment   | header, one block | record | record | ...
//! record    | frame 32 | body | body | ... | sealed changes | zeros |       begins and ends at a block
//! frame     magic 8 | commit u64 | offset of the changes in the record u64 | their length u64
//! ```
//!
//! The frame only helps to find the changes. What is believed stands inside them, under their seal: the commit, the
//! place, and the digest of all bodies. So bytes of an earlier use of the file, or of a write that was cut short,
//! are no record.

use keypacks::Secret;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Location;
use crate::StoreError;
use crate::disk::DiskFile;
use crate::entropy::Entropy;
use crate::overlay::{Overlay, RowName};
use crate::vault;

/// Where records begin, in bytes: whole pages, so that no write needs a read first.
pub(super) const BLOCK: u64 = 4_096;
/// Length of a frame, in bytes.
pub(super) const FRAME: usize = 32;
/// Longest changes of one record, in bytes: none longer is written, and no damaged frame can ask for more.
const CHANGES_MAX: u64 = 256 << 20;
/// More than a seal adds to what it seals, in bytes.
const SEAL_ROOM: u64 = 64;
/// Most bytes of bodies in one record: far above what one batch can hold.
const RECORD_MAX: u64 = 1 << 40;

const SEGMENT_MAGIC: &[u8; 8] = b"postern\x02";
const RECORD_MAGIC: &[u8; 8] = b"record\x00\x02";

/// Where the log stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Number of the segment; 0 before the first.
    pub(crate) segment: u32,
    /// Offset behind the last record, in bytes.
    pub(crate) offset: u64,
}

/// First block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// Number of its file: a header that was left from an earlier use names another one.
    pub(super) number: u32,
    /// Counts the segments that were begun. Of two that follow the same place the later one counts.
    pub(super) ordinal: u64,
    /// Where the log ended when this one was begun: whatever stands behind that is void.
    pub(super) previous: Position,
    /// Number of the last commit before.
    pub(super) commit: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.previous.segment.to_le_bytes());
        for field in [self.ordinal, self.previous.offset, self.commit] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let check = xxh3_64(&out);
        out.extend_from_slice(&check.to_le_bytes());
        out.resize(BLOCK as usize, 0);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.split_at_checked(40)?;
        if u64_at(rest, 0)? != xxh3_64(fields) || !fields.starts_with(SEGMENT_MAGIC) {
            return None;
        }
        Some(Self {
            number: u32_at(fields, 8)?,
            ordinal: u64_at(fields, 16)?,
            previous: Position {
                segment: u32_at(fields, 12)?,
                offset: u64_at(fields, 24)?,
            },
            commit: u64_at(fields, 32)?,
        })
    }

    /// Where the first record of the segment goes.
    pub(super) fn first_record(&self) -> Position {
        Position {
            segment: self.number,
            offset: BLOCK,
        }
    }

    /// `None`: nothing there, or nothing that is this file's.
    pub(super) fn read(file: &dyn DiskFile, number: u32) -> Result<Option<Self>, StoreError> {
        if file.len()? < BLOCK {
            return Ok(None);
        }
        let mut bytes = [0; 48];
        file.read_at(0, &mut bytes)?;
        Ok(Self::decode(&bytes).filter(|header| header.number == number))
    }
}

/// Start of a record.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) commit: u64,
    /// Where the sealed changes begin, counted from the frame.
    pub(super) changes_at: u64,
    pub(super) changes_length: u64,
}

impl Frame {
    pub(super) fn encode(&self) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..8].copy_from_slice(RECORD_MAGIC);
        let fields = [self.commit, self.changes_at, self.changes_length];
        for (place, field) in out[8..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// `None`: no frame, or one beyond all bounds.
    fn decode(bytes: &[u8; FRAME]) -> Option<Self> {
        let field = |n: usize| u64_at(bytes, 8 * n);
        let frame = Self {
            commit: field(1)?,
            changes_at: field(2)?,
            changes_length: field(3)?,
        };
        let bounded = frame.changes_length <= CHANGES_MAX && frame.changes_at <= RECORD_MAX;
        (bytes.starts_with(RECORD_MAGIC) && bounded).then_some(frame)
    }

    /// Length of the whole record, in bytes.
    pub(super) fn room(&self) -> u64 {
        (self.changes_at + self.changes_length).next_multiple_of(BLOCK)
    }
}

/// A body of a record, under its name.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) name: u64,
    pub(crate) location: Location,
}

/// What the changes of a record say besides the rows.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) commit: u64,
    /// Where the record begins.
    pub(super) place: Position,
    /// Where these changes begin, counted from there: it gives the length of the record.
    pub(super) changes_at: u64,
    pub(super) bodies: Vec<Placed>,
    /// Bodies of earlier records that nobody needs any more.
    pub(super) released: Vec<Location>,
    /// XXH3 over all bodies.
    pub(super) digest: u64,
}

#[derive(Serialize, Deserialize)]
struct RowChange<'r> {
    table: u8,
    #[serde(borrow)]
    key: Raw<'r>,
    value: Option<Raw<'r>>,
}

/// Bytes that are written as such and not one by one.
#[derive(Deserialize)]
struct Raw<'r>(#[serde(borrow)] &'r [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Seals contents and rows. `None`: a record may not have so much.
pub(super) fn seal(key: &Secret<32>, contents: &Contents, rows: &Overlay, entropy: &dyn Entropy) -> Option<Vec<u8>> {
    let encoded = "plain data, and a vector takes any length";
    // Room for all of it: a vector that grows leaves pieces of what it holds behind, where nothing wipes them.
    let length = postcard::experimental::serialized_size(contents).expect(encoded) + rows.bytes();
    if length as u64 + SEAL_ROOM > CHANGES_MAX {
        return None;
    }
    let plain = Vec::with_capacity(length);
    let mut plain = zeroize::Zeroizing::new(postcard::to_extend(contents, plain).expect(encoded));
    for (name, value) in rows.iter() {
        let change = RowChange {
            table: name.table(),
            key: Raw(name.key()),
            value: value.as_deref().map(Raw),
        };
        let so_far = std::mem::take(&mut *plain);
        *plain = postcard::to_extend(&change, so_far).expect(encoded);
    }
    debug_assert!(plain.len() <= length);
    Some(vault::seal(key, &plain, entropy))
}

/// Opens what [`seal`] made. `None`: it is something else.
pub(super) fn open(key: &Secret<32>, sealed: &[u8]) -> Option<(Contents, Overlay)> {
    parse(&vault::open(key, sealed).ok()?)
}

fn parse(plain: &[u8]) -> Option<(Contents, Overlay)> {
    let (contents, mut rest) = postcard::take_from_bytes::<Contents>(plain).ok()?;
    let mut rows = Overlay::default();
    while !rest.is_empty() {
        let (change, left) = postcard::take_from_bytes::<RowChange<'_>>(rest).ok()?;
        rows.set(
            RowName::new(change.table, change.key.0)?,
            change.value.map(|value| value.0.into()),
        );
        rest = left;
    }
    Some((contents, rows))
}

/// A record as it was read.
pub(super) struct Record {
    /// Its length, in bytes.
    pub(super) room: u64,
    pub(super) contents: Contents,
    pub(super) rows: Overlay,
}

/// Reads the record at a place. `None`: there is none, or not all of it.
///
/// `with_bodies`: whether the bodies are read and compared with their digest, which tells a record that was cut short.
pub(super) fn read(
    file: &dyn DiskFile,
    key: &Secret<32>,
    place: Position,
    with_bodies: bool,
) -> Result<Option<Record>, StoreError> {
    let length = file.len()?;
    if place.offset.checked_add(FRAME as u64).is_none_or(|end| end > length) {
        return Ok(None);
    }
    let mut frame = [0; FRAME];
    file.read_at(place.offset, &mut frame)?;
    let Some(frame) = Frame::decode(&frame) else {
        return Ok(None);
    };
    // The last block is written whole, but for a file that was cut.
    if place.offset.checked_add(frame.room()).is_none_or(|end| end > length) {
        return Ok(None);
    }
    let mut sealed = vec![0; usize::try_from(frame.changes_length).map_err(|_| StoreError::Corrupt)?];
    file.read_at(place.offset + frame.changes_at, &mut sealed)?;
    let Some((contents, rows)) = open(key, &sealed) else {
        return Ok(None);
    };
    let own = contents.commit == frame.commit && contents.place == place && contents.changes_at == frame.changes_at;
    if !own || (with_bodies && digest(file, place, &contents)? != Some(contents.digest)) {
        return Ok(None);
    }
    let room = frame.room();
    Ok(Some(Record { room, contents, rows }))
}

/// `None`: a body lies outside its record.
fn digest(file: &dyn DiskFile, place: Position, contents: &Contents) -> Result<Option<u64>, StoreError> {
    const STEP: usize = 1 << 20;
    let mut digest = Xxh3::new();
    let mut buffer = Vec::new();
    let end = place.offset.saturating_add(contents.changes_at);
    for Placed { location, .. } in &contents.bodies {
        let (mut at, mut left) = (location.offset, location.length as usize);
        if location.segment != place.segment || at < place.offset || at.saturating_add(left as u64) > end {
            return Ok(None);
        }
        while left > 0 {
            let step = left.min(STEP);
            buffer.resize(step, 0);
            file.read_at(at, &mut buffer)?;
            digest.update(&buffer);
            (at, left) = (at + step as u64, left - step);
        }
    }
    Ok(Some(digest.digest()))
}

/// Feeds arbitrary bytes to everything here that reads; it returns whatever they are.
pub fn fuzz(bytes: &[u8]) {
    if let Some(header) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
    }
    if let Some(frame) = bytes.first_chunk::<FRAME>().and_then(Frame::decode) {
        assert!(frame.changes_at + frame.changes_length <= frame.room());
    }
    let _ = parse(bytes);
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_header_reads_back_and_a_changed_one_does_not() {
        let header = SegmentHeader {
            number: 7,
            ordinal: 9,
            previous: Position {
                segment: 6,
                offset: 8_192,
            },
            commit: 1 << 40,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for place in 0..48 {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(SegmentHeader::decode(&changed), None, "byte {place}");
        }
    }

    #[test]
    fn changes_open_under_their_key_only() {
        let [key, other] = [1, 2].map(|byte| Secret::new([byte; 32]));
        let mut rows = Overlay::default();
        rows.set(RowName::new(1, b"key").expect("short"), Some(vec![5; 300].into()));
        rows.set(RowName::new(2, b"").expect("short"), None);
        let location = Location {
            segment: 3,
            offset: 4_136,
            length: 9,
        };
        let contents = Contents {
            commit: 4,
            place: Position {
                segment: 3,
                offset: 4_096,
            },
            changes_at: 41,
            bodies: vec![Placed { name: 11, location }],
            released: vec![location],
            digest: 77,
        };
        let sealed = seal(&key, &contents, &rows, &SeededEntropy::new(1)).expect("short");
        let (again, read) = open(&key, &sealed).expect("opens");
        assert_eq!(
            (again.commit, again.changes_at, again.digest, again.released),
            (4, 41, 77, vec![location])
        );
        assert!(read.iter().eq(rows.iter()));
        assert!(open(&other, &sealed).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }
    }
}
