//! The next keys of a standing link (`docs/PROTOCOL.md` section 3).
//!
//! ```text
//! holder                                    relay
//! (commit h = j)
//! rotate       -- ROTATE(j), its last -->   Rotate::decode
//!   next up keys at once                    (commit the burn of j and its price)
//!              <-- ROTATED(j), its last --  rotated
//! ```

use crate::cell::{Opener, Sealer};
use crate::chain::LinkStep;
use crate::{Refused, Secret};

use super::transcript::Traffic;
use super::{Link, PersistedIndex};

/// `ck0` of a link: with the next step it gives the next keys, and the next `ck0`.
pub struct Rekey(Secret<32>);

/// Data of the holder's last cell under a key: `u64 j | random 32`. The random part is fresh, so that two ends that share
/// a state do not come to the same next keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// Link index that both go on with.
    pub index: u64,
    /// Fresh randomness.
    pub random: [u8; 32],
}

impl Rotate {
    /// Length of the layout.
    pub const BYTES: usize = 40;

    /// The data of a [`crate::cell::Kind::Rotate`] cell.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.index.to_le_bytes());
        bytes[8..].copy_from_slice(&self.random);
        bytes
    }

    /// Reads the data of a [`crate::cell::Kind::Rotate`] cell.
    pub fn decode(data: &[u8]) -> Result<Self, Refused> {
        let data: &[u8; Self::BYTES] = data.try_into().map_err(|_| Refused)?;
        let (index, random) = data.split_first_chunk::<8>().ok_or(Refused)?;
        Ok(Self {
            index: u64::from_le_bytes(*index),
            random: random.try_into().map_err(|_| Refused)?,
        })
    }
}

impl Rekey {
    pub(super) fn new(ck0: Secret<32>) -> Self {
        Self(ck0)
    }

    /// The holder's next halves: the sealer is for what follows ROTATE, the opener for what follows ROTATED.
    ///
    /// Refused if `step` or `proof` speaks of another index than ROTATE does; nothing has moved then.
    pub fn rotate(
        &mut self,
        rotate: &Rotate,
        step: &LinkStep,
        proof: &impl PersistedIndex,
    ) -> Result<(Sealer, Opener), Refused> {
        let Link { sealer, opener, rekey } = self.next(rotate, step, proof)?.holder_link();
        *self = rekey;
        Ok((sealer, opener))
    }

    /// The relay's next halves, once the burn of the index is durable: the sealer is for what follows ROTATED, the opener
    /// for what follows ROTATE. Refused as [`Self::rotate`] is.
    pub fn rotated(
        &mut self,
        rotate: &Rotate,
        step: &LinkStep,
        proof: &impl PersistedIndex,
    ) -> Result<(Sealer, Opener), Refused> {
        let Link { sealer, opener, rekey } = self.next(rotate, step, proof)?.relay_link();
        *self = rekey;
        Ok((sealer, opener))
    }

    fn next(&self, rotate: &Rotate, step: &LinkStep, proof: &impl PersistedIndex) -> Result<Traffic, Refused> {
        if step.index != rotate.index || proof.persisted_index() != rotate.index {
            return Err(Refused);
        }
        Ok(Traffic::rotated(&self.0, step, &rotate.encode()))
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(rotate) = Rotate::decode(bytes) {
        assert!(rotate.encode() == bytes, "one layout, one encoding");
    }
}
