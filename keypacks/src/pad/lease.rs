//! Byte ranges that are taken once.

use super::cell::PadError;
use super::layout::{Direction, Place};

/// A range of one direction that one end may seal from: nobody else does, and each of its bytes is handed out once.
///
/// It is neither copied nor given back. What is left of it when it is dropped is never used.
pub struct Lease {
    direction: Direction,
    next: Place,
    end: Place,
}

/// One record and some body bytes, for one cell. Sealing consumes it.
pub struct Piece {
    pub(super) direction: Direction,
    pub(super) from: Place,
    pub(super) masked: usize,
}

impl Piece {
    /// The place behind it.
    pub fn end(&self) -> Place {
        self.from.plus(1, self.masked as u64)
    }
}

impl Lease {
    /// The range from `from` to `end`. Whoever makes it has made durable before that nothing of it is ever granted again.
    pub fn granted(direction: Direction, from: Place, end: Place) -> Self {
        Self {
            direction,
            next: from,
            end: end.max(from),
        }
    }

    /// Takes the next record, and the next `masked` bytes of bodies.
    pub fn take(&mut self, masked: usize) -> Result<Piece, PadError> {
        let piece = Piece {
            direction: self.direction,
            from: self.next,
            masked,
        };
        if !piece.end().is_within(self.end) {
            return Err(PadError::Spent);
        }
        self.next = piece.end();
        Ok(piece)
    }

    /// Grows the range up to `end`, which is durable as in [`Self::granted`]; it never shrinks.
    pub fn extend(&mut self, end: Place) {
        self.end = self.end.max(end);
    }

    /// What is taken next.
    pub fn next(&self) -> Place {
        self.next
    }

    /// Where it ends.
    pub fn end(&self) -> Place {
        self.end
    }
}
