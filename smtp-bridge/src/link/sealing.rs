//! What a link's cells are sealed with: keys, or a pad.

use keypacks::cell::{self, Frame, Opener, Sealer};
use keypacks::pad::{self, PadError, PadOpener, PadSealer};
use keypacks::{CELL, Refused};

/// Seals one direction.
pub enum Sealing {
    /// Under the next key of a link.
    Keys(Sealer),
    /// Under the next record of a pad.
    Pad(PadSealer),
}

/// Opens the other direction.
pub enum Opening {
    /// Under the next key of a link.
    Keys(Opener),
    /// Under the next record of a pad.
    Pad(PadOpener),
}

impl From<Sealer> for Sealing {
    fn from(sealer: Sealer) -> Self {
        Sealing::Keys(sealer)
    }
}

impl From<PadSealer> for Sealing {
    fn from(sealer: PadSealer) -> Self {
        Sealing::Pad(sealer)
    }
}

impl From<Opener> for Opening {
    fn from(opener: Opener) -> Self {
        Opening::Keys(opener)
    }
}

impl From<PadOpener> for Opening {
    fn from(opener: PadOpener) -> Self {
        Opening::Pad(opener)
    }
}

impl Sealing {
    /// Most bytes of data in a cell.
    pub(super) fn data_max(&self) -> usize {
        match self {
            Sealing::Keys(_) => cell::DATA_MAX,
            Sealing::Pad(_) => pad::DATA_MAX,
        }
    }

    /// Seals a cell. `is_sealed`: its body opens by a key of its own, and costs no pad.
    pub(super) fn seal(&mut self, frame: Frame<'_>, is_sealed: bool, cell: &mut [u8; CELL]) -> Result<(), PadError> {
        match self {
            Sealing::Keys(sealer) => {
                sealer.seal(frame, cell);
                Ok(())
            }
            Sealing::Pad(sealer) => sealer.seal(frame, is_sealed, cell),
        }
    }

    /// Records and bytes that may be used now; `None`: there is no such bound.
    pub(super) fn room(&self) -> Option<(u64, u64)> {
        match self {
            Sealing::Keys(_) => None,
            Sealing::Pad(sealer) => Some(sealer.room()),
        }
    }
}

impl Opening {
    pub(super) fn open<'c>(&mut self, cell: &'c mut [u8; CELL]) -> Result<Frame<'c>, Refused> {
        match self {
            Opening::Keys(opener) => opener.open(cell),
            Opening::Pad(opener) => opener.open(cell),
        }
    }
}
