//! The fixed layouts inside the handshake cells.

use crate::Refused;

/// What the holder shows in cell 3: `token 16 | u64 answered`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// The link token last received; zeros before the first link.
    pub token: [u8; 16],
    /// Number of the last change whose answer the holder has.
    pub answered: u64,
}

impl Confirm {
    /// Length of the layout.
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.token);
        bytes[16..].copy_from_slice(&self.answered.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        let (token, rest) = bytes.split_first_chunk::<16>().ok_or(Refused)?;
        let (answered, _) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        Ok(Self {
            token: *token,
            answered: u64::from_le_bytes(*answered),
        })
    }
}

/// What the relay says in its first down cell: `token 16 | u64 highest | u64 floor | u8 flags [| u64 generation]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Link token to show at the next link.
    pub token: [u8; 16],
    /// Highest change number that the relay has an answer of.
    pub highest: u64,
    /// Change numbers up to here are refused as stale.
    pub floor: u64,
    /// [`Linked::TOKEN_MISMATCH`], [`Linked::ROLLED_BACK`], [`Linked::FROZEN`] and [`Linked::REPLACED`]; other bits are
    /// reserved.
    pub flags: u8,
    /// Goes up whenever the relay's database is restored from a copy; 0 as long as it never was, which is left out.
    pub generation: u64,
}

impl Linked {
    /// The token shown was not one that the relay gave: a second holder or a restored copy of the pack.
    pub const TOKEN_MISMATCH: u8 = 1;
    /// The holder acknowledges an answer that the relay never gave: the relay was restored.
    pub const ROLLED_BACK: u8 = 2;
    /// The pack is frozen: it sends nothing before it has a new root.
    pub const FROZEN: u8 = 4;
    /// The link is under a root that was replaced: nothing is answered but the change that did it.
    pub const REPLACED: u8 = 8;
    /// Length of the layout of a relay that was never restored.
    pub const BYTES: usize = 33;

    /// The data of a [`crate::cell::Kind::Linked`] cell.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES + 8);
        bytes.extend_from_slice(&self.token);
        bytes.extend_from_slice(&self.highest.to_le_bytes());
        bytes.extend_from_slice(&self.floor.to_le_bytes());
        bytes.push(self.flags);
        if self.generation > 0 {
            bytes.extend_from_slice(&self.generation.to_le_bytes());
        }
        bytes
    }

    /// Reads the data of a [`crate::cell::Kind::Linked`] cell. A generation of 0 that is written out is refused.
    pub fn decode(data: &[u8]) -> Result<Self, Refused> {
        let (token, rest) = data.split_first_chunk::<16>().ok_or(Refused)?;
        let (highest, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        let (floor, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        let (flags, generation) = rest.split_first().ok_or(Refused)?;
        let generation = match generation {
            [] => 0,
            bytes => match u64::from_le_bytes(bytes.try_into().map_err(|_| Refused)?) {
                0 => return Err(Refused),
                generation => generation,
            },
        };
        Ok(Self {
            token: *token,
            highest: u64::from_le_bytes(*highest),
            floor: u64::from_le_bytes(*floor),
            flags: *flags,
            generation,
        })
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let _ = Confirm::decode(bytes);
    if let Ok(linked) = Linked::decode(bytes) {
        assert!(linked.encode() == bytes, "one layout, one encoding");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_left_out_where_there_is_none_and_has_one_encoding() {
        let mut linked = Linked {
            token: [7; 16],
            highest: 3,
            floor: 2,
            flags: 0,
            generation: 0,
        };
        let without = linked.encode();
        assert_eq!(without.len(), Linked::BYTES);
        linked.generation = 0x0102;
        let with = linked.encode();
        assert_eq!(with, [&without[..], &[2, 1, 0, 0, 0, 0, 0, 0]].concat());
        assert!(Linked::decode(&with).is_ok_and(|read| read == linked));
        assert!(Linked::decode(&without).is_ok_and(|read| read.generation == 0));
        assert!(Linked::decode(&[&without[..], &[0; 8]].concat()).is_err());
        for length in (0..with.len()).filter(|length| *length != Linked::BYTES) {
            assert!(Linked::decode(&with[..length]).is_err(), "{length}");
        }
        assert!(Linked::decode(&[&with[..], &[0]].concat()).is_err());
    }
}
