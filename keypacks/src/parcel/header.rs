//! The header of a layer: what its opener does with the payload, and how long that is.

use crate::Refused;

use super::{HEADER, capacity, is_class};

/// Bytes of a header whose meaning depends on its type.
pub const HOP: usize = HEADER - 12;

const VERSION: u8 = 1;

/// What becomes of a payload. The numbers are those of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The payload is mail to be sent on, as on a link.
    Deliver = 1,
    /// The payload is a request to the relay itself.
    Control = 2,
}

/// See the module. Forwarding to another relay will be type 3, whose payload is the next layer.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// What becomes of the payload.
    pub kind: Kind,
    /// Class of the parcel that this is a layer of.
    pub class: u32,
    /// Length of the payload in bytes.
    pub length: u32,
    /// What the type says besides.
    pub hop: [u8; HOP],
}

impl Header {
    /// Whether there is such a class and it holds the payload.
    pub(super) fn is_coherent(&self) -> bool {
        is_class(self.class) && self.length as usize <= capacity(self.class)
    }

    pub(super) fn write_to(&self, out: &mut [u8]) {
        out[0] = VERSION;
        out[1] = self.kind as u8;
        out[2..4].fill(0);
        out[4..8].copy_from_slice(&self.class.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..HEADER].copy_from_slice(&self.hop);
    }

    /// Another version, an unknown type and numbers that contradict each other are refused like a wrong MAC.
    pub(super) fn parse(plain: &[u8]) -> Result<Self, Refused> {
        let plain: &[u8; HEADER] = plain.try_into().map_err(|_| Refused)?;
        let number = |at: usize| u32::from_le_bytes([plain[at], plain[at + 1], plain[at + 2], plain[at + 3]]);
        let kind = match plain[1] {
            1 => Kind::Deliver,
            2 => Kind::Control,
            _ => return Err(Refused),
        };
        let header = Self {
            kind,
            class: number(4),
            length: number(8),
            hop: *plain.last_chunk().ok_or(Refused)?,
        };
        let known = plain[0] == VERSION && plain[2..4] == [0, 0];
        if known && header.is_coherent() {
            Ok(header)
        } else {
            Err(Refused)
        }
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut plain = [0; HEADER];
    let length = bytes.len().min(HEADER);
    plain[..length].copy_from_slice(&bytes[..length]);
    if let Ok(header) = Header::parse(&plain) {
        let mut again = [0; HEADER];
        header.write_to(&mut again);
        assert!(again == plain, "a header that was read is written as it was");
    }
}
