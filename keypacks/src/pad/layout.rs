//! Where the bytes of a pad lie.

use crate::{CELL, Refused};

use super::file::HEADER_COPY;

/// Length of a record: `T 16 | P 32 | M 16`.
pub const RECORD: u64 = 64;
/// Smallest pad, both directions together, in bytes.
pub const PAD_MIN: u64 = 1 << 20;
/// Largest pad, both directions together, in bytes.
pub const PAD_MAX: u64 = 1 << 40;
/// A region has one record for so many of its bytes: more would be left over with large messages, fewer with small ones.
const BYTES_PER_RECORD: u64 = 512;
/// Regions are cut at whole cells.
const GRAIN: u64 = 2 * CELL as u64;

/// Which half of a pad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Holder to relay.
    Up,
    /// Relay to holder.
    Down,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        }
    }
}

/// How far a direction has come: its next record, and its next byte of bodies.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// Number of the next record.
    pub record: u64,
    /// Offset of the next byte among the body bytes.
    pub offset: u64,
}

impl Place {
    /// The place behind so many records and bytes.
    #[must_use]
    pub fn plus(self, records: u64, bytes: u64) -> Self {
        Self {
            record: self.record.saturating_add(records),
            offset: self.offset.saturating_add(bytes),
        }
    }

    /// Whether neither part lies behind the other's.
    pub fn is_within(self, end: Place) -> bool {
        self.record <= end.record && self.offset <= end.offset
    }

    /// The farther of both parts.
    #[must_use]
    pub fn max(self, other: Place) -> Self {
        Self {
            record: self.record.max(other.record),
            offset: self.offset.max(other.offset),
        }
    }

    /// The nearer of both parts.
    #[must_use]
    pub fn min(self, other: Place) -> Self {
        Self {
            record: self.record.min(other.record),
            offset: self.offset.min(other.offset),
        }
    }

    /// What lies between this and `end`, in bytes of the pad.
    pub fn bytes_to(self, end: Place) -> u64 {
        RECORD * end.record.saturating_sub(self.record) + end.offset.saturating_sub(self.offset)
    }
}

/// The two regions of a pad, which are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    region: u64,
    records: u64,
}

impl Layout {
    /// The layout of a pad of `size` bytes, or of the largest one below it that is made. Refused: it is smaller than
    /// [`PAD_MIN`] or larger than [`PAD_MAX`].
    pub fn of_size(size: u64) -> Result<Self, Refused> {
        if !(PAD_MIN..=PAD_MAX).contains(&size) {
            return Err(Refused);
        }
        let region = (size - size % GRAIN) / 2;
        Ok(Self {
            region,
            records: region / BYTES_PER_RECORD,
        })
    }

    /// The layout that a file names. Refused: no pad is laid out like that.
    pub fn from_parts(region: u64, records: u64) -> Result<Self, Refused> {
        let layout = Self { region, records };
        match Self::of_size(region.checked_mul(2).ok_or(Refused)?) {
            Ok(made) if made == layout => Ok(layout),
            _ => Err(Refused),
        }
    }

    /// Length of a region in bytes, records and bodies.
    pub fn region(self) -> u64 {
        self.region
    }

    /// Number of records of a region.
    pub fn records(self) -> u64 {
        self.records
    }

    /// The end of a region.
    pub fn end(self) -> Place {
        Place {
            record: self.records,
            offset: self.region - RECORD * self.records,
        }
    }

    /// Length of the whole file.
    pub fn file_bytes(self) -> u64 {
        self.region_at(Direction::Down) + self.region
    }

    /// Offset of a region in the file.
    pub fn region_at(self, direction: Direction) -> u64 {
        let header = 2 * HEADER_COPY as u64;
        match direction {
            Direction::Up => header,
            Direction::Down => header + self.region,
        }
    }

    /// Offset of a record in the file.
    pub fn record_at(self, direction: Direction, record: u64) -> u64 {
        self.region_at(direction) + RECORD * record
    }

    /// Offset of a body byte in the file.
    pub fn body_at(self, direction: Direction, offset: u64) -> u64 {
        self.region_at(direction) + RECORD * self.records + offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regions_fill_the_file_and_share_no_byte() {
        for size in [PAD_MIN, PAD_MIN + 40_000, 3 << 20, 5 << 30] {
            let layout = Layout::of_size(size).expect("within the bounds");
            let end = layout.end();
            assert_eq!(
                layout.record_at(Direction::Up, end.record),
                layout.body_at(Direction::Up, 0)
            );
            assert_eq!(
                layout.body_at(Direction::Up, end.offset),
                layout.region_at(Direction::Down)
            );
            assert_eq!(layout.body_at(Direction::Down, end.offset), layout.file_bytes());
            assert!(layout.region() * 2 <= size && size - layout.region() * 2 < GRAIN);
            assert_eq!(Place::default().bytes_to(end), layout.region());
            assert!(Layout::from_parts(layout.region(), layout.records()) == Ok(layout));
            assert!(Layout::from_parts(layout.region(), layout.records() + 1).is_err());
        }
        assert!(Layout::of_size(PAD_MIN - 1).is_err() && Layout::of_size(PAD_MAX + 1).is_err());
    }
}
