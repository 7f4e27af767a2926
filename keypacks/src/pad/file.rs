//! The header of a pad file, in two copies that are overwritten in turn.
//!
//! ```text
//! 0      "POSTERNO"     8
//! 8      version = 1    u16
//! 10     zeros          6
//! 16     name           16    the same in the pack and in both files
//! 32     region         u64   bytes of each direction
//! 40     records        u64   of each direction
//! 48     generation     u64   counts the header's updates
//! 56     up             u64 record | u64 offset     spent up to here, or reserved for good
//! 72     down           u64 record | u64 offset
//! 88     up, erased     u64 record | u64 offset     overwritten up to here
//! 104    down, erased   u64 record | u64 offset
//! 120    asked          u64    at a holder: where a lease would end that was asked for, until it is answered; 0 is none
//! 128    zeros          to 4,064
//! 4064   H of what stands before          32
//! ```

use crate::{Refused, kdf};

use super::layout::{Layout, Place};

/// Length of a copy of the header.
pub const HEADER_COPY: usize = 4_096;

const MAGIC: &[u8; 8] = b"POSTERNO";
const VERSION: u16 = 1;
const DIGEST_AT: usize = HEADER_COPY - 32;

/// What a pad was made as; never changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Joins pack, holder's file and relay's file.
    pub name: [u8; 16],
    /// Where its bytes lie.
    pub layout: Layout,
}

/// A pad file's header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// What the pad was made as.
    pub made: Made,
    /// Counts the updates.
    pub generation: u64,
    /// Nothing before these is ever used: up, then down.
    pub spent: [Place; 2],
    /// Everything before these is overwritten: up, then down.
    pub erased: [Place; 2],
    /// At a holder: the record where a lease would end that was asked for, until it is answered; 0 is none.
    pub asked: u64,
}

impl FileHeader {
    /// The header of a pad of which nothing was used.
    pub fn fresh(made: Made) -> Self {
        Self {
            made,
            generation: 0,
            spent: [Place::default(); 2],
            erased: [Place::default(); 2],
            asked: 0,
        }
    }

    /// A copy as it is written.
    pub fn encode(&self) -> Box<[u8; HEADER_COPY]> {
        let mut copy = Box::new([0; HEADER_COPY]);
        copy[..8].copy_from_slice(MAGIC);
        copy[8..10].copy_from_slice(&VERSION.to_le_bytes());
        copy[16..32].copy_from_slice(&self.made.name);
        let Self { spent, erased, .. } = self;
        let places = [spent[0], spent[1], erased[0], erased[1]];
        let numbers = [self.made.layout.region(), self.made.layout.records(), self.generation];
        let numbers = numbers
            .into_iter()
            .chain(places.into_iter().flat_map(|place| [place.record, place.offset]))
            .chain([self.asked]);
        for (number, room) in numbers.zip(copy[32..].chunks_mut(8)) {
            room.copy_from_slice(&number.to_le_bytes());
        }
        let digest = kdf::hash(&[&copy[..DIGEST_AT]]);
        copy[DIGEST_AT..].copy_from_slice(&digest);
        copy
    }

    /// Reads a copy. Refused: it is torn, of another version, or says what no pad is.
    pub fn decode(copy: &[u8; HEADER_COPY]) -> Result<Self, Refused> {
        if kdf::hash(&[&copy[..DIGEST_AT]])[..] != copy[DIGEST_AT..]
            || copy[..8] != *MAGIC
            || copy[8..10] != VERSION.to_le_bytes()
        {
            return Err(Refused);
        }
        let number = |n: usize| u64::from_le_bytes(copy[32 + 8 * n..].first_chunk().copied().unwrap_or_default());
        let place = |n: usize| Place {
            record: number(3 + 2 * n),
            offset: number(4 + 2 * n),
        };
        let layout = Layout::from_parts(number(0), number(1))?;
        let header = Self {
            made: Made {
                name: *copy[16..].first_chunk().ok_or(Refused)?,
                layout,
            },
            generation: number(2),
            spent: [place(0), place(1)],
            erased: [place(2), place(3)],
            asked: number(11),
        };
        let is_sound = (0..2).all(|direction| {
            header.erased[direction].is_within(header.spent[direction])
                && header.spent[direction].is_within(layout.end())
        });
        if is_sound && header.asked <= layout.records() {
            Ok(header)
        } else {
            Err(Refused)
        }
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut copy = [0; HEADER_COPY];
    let length = bytes.len().min(DIGEST_AT);
    copy[..length].copy_from_slice(&bytes[..length]);
    // Else no input would get further than the digest.
    let digest = kdf::hash(&[&copy[..DIGEST_AT]]);
    copy[DIGEST_AT..].copy_from_slice(&digest);
    if let Ok(header) = FileHeader::decode(&copy) {
        assert!(
            FileHeader::decode(&header.encode()) == Ok(header),
            "what was read can be written and read again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written_and_not_when_a_bit_is_flipped() {
        let layout = Layout::of_size(1 << 20).expect("large enough");
        let mut header = FileHeader::fresh(Made { name: [7; 16], layout });
        header.generation = 9;
        header.spent = [Place { record: 5, offset: 300 }, Place { record: 7, offset: 0 }];
        header.erased[0] = Place { record: 5, offset: 299 };
        header.asked = 70;
        let copy = header.encode();
        assert!(FileHeader::decode(&copy) == Ok(header));
        for bit in [0, 8 * 9, 8 * 56, 8 * 120, 8 * 4_095] {
            let mut torn = copy.clone();
            torn[bit / 8] ^= 1;
            assert!(FileHeader::decode(&torn).is_err(), "{bit}");
        }
        header.erased[1] = Place { record: 8, offset: 0 };
        assert!(
            FileHeader::decode(&header.encode()).is_err(),
            "erased beyond what is spent"
        );
    }
}
