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

/// What the relay says in its first down cell: `token 16 | u64 highest | u64 floor | u8 flags`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Link token to show at the next link.
    pub token: [u8; 16],
    /// Highest change number that the relay has an answer of.
    pub highest: u64,
    /// Change numbers up to here are refused as stale.
    pub floor: u64,
    /// [`Linked::TOKEN_MISMATCH`] and [`Linked::ROLLED_BACK`]; other bits are reserved.
    pub flags: u8,
}

impl Linked {
    /// The token shown was not one that the relay gave: a second holder or a restored copy of the pack.
    pub const TOKEN_MISMATCH: u8 = 1;
    /// The holder acknowledges an answer that the relay never gave: the relay was restored.
    pub const ROLLED_BACK: u8 = 2;
    /// Length of the layout.
    pub const BYTES: usize = 33;

    /// The data of a [`crate::cell::Kind::Linked`] cell.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.token);
        bytes[16..24].copy_from_slice(&self.highest.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.floor.to_le_bytes());
        bytes[32] = self.flags;
        bytes
    }

    /// Reads the data of a [`crate::cell::Kind::Linked`] cell.
    pub fn decode(data: &[u8]) -> Result<Self, Refused> {
        let data: &[u8; Self::BYTES] = data.try_into().map_err(|_| Refused)?;
        let (token, rest) = data.split_first_chunk::<16>().ok_or(Refused)?;
        let (highest, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        let (floor, flags) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        Ok(Self {
            token: *token,
            highest: u64::from_le_bytes(*highest),
            floor: u64::from_le_bytes(*floor),
            flags: flags[0],
        })
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let _ = Confirm::decode(bytes);
    if let Ok(linked) = Linked::decode(bytes) {
        assert!(linked.encode() == bytes, "one layout, one encoding");
    }
}
