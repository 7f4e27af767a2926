//! The holder's side: [`connect`], [`Dialling`], [`Answered`].

use crate::chain::LinkStep;
use crate::kdf::hedged_nonce;
use crate::secretbox::{MAC, NONCE, open_in_place, seal_in_place};
use crate::{CELL, Refused, Secret};

use super::transcript::{Agreed, Opening, x25519, x25519_public};
use super::{Confirm, LINK_VERSION, Link, PersistedIndex};

/// Length of `T[i]` before cell 1's nonce.
const TAG: usize = 16;

/// Fresh randomness for one cell 1; used for nothing else, stored nowhere.
pub struct ClientEntropy {
    /// Secret of `e_c`.
    pub ephemeral: [u8; 32],
    /// `Nc`.
    pub nonce: [u8; 24],
}

impl Drop for ClientEntropy {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.ephemeral);
    }
}

/// Cell 1 is on its way.
pub struct Dialling {
    index: u64,
    opening: Opening,
    ephemeral: Secret<32>,
    relay_public: [u8; 32],
}

/// Cell 2 has opened: the relay holds the pack's keys, and says where it stands.
pub struct Answered {
    index: u64,
    floor: u64,
    agreed: Agreed,
}

/// Makes `cell1 = T | Nc | Box(HE(psk, "hs1"), Nc, e_c | u8 version | u32 capabilities | zeros)`.
///
/// An index may be tried again, each time with fresh entropy: the same keys then meet a new nonce.
pub fn connect(step: LinkStep, relay_public: &[u8; 32], entropy: ClientEntropy) -> (Dialling, Box<[u8; CELL]>) {
    let mut opening = Opening::new(&step);
    let ephemeral = Secret::new(entropy.ephemeral);
    let mut cell1 = Box::new([0; CELL]);
    cell1[..TAG].copy_from_slice(&step.tag.0);
    cell1[TAG..TAG + NONCE].copy_from_slice(&entropy.nonce);
    let boxed = &mut cell1[TAG + NONCE..];
    boxed[MAC..MAC + 32].copy_from_slice(&x25519_public(&ephemeral));
    boxed[MAC + 32] = LINK_VERSION;
    seal_in_place(&opening.cell1_key(), &entropy.nonce, boxed);

    opening.absorb(&cell1);
    (
        Dialling {
            index: step.index,
            opening,
            ephemeral,
            relay_public: *relay_public,
        },
        cell1,
    )
}

impl Dialling {
    /// Opens `cell2 = Ns | Box(HE(psk, "hs2" | H(cell1)), Ns, e_s | u64 p | u8 version | zeros)`.
    pub fn answer(mut self, cell2: &mut [u8; CELL]) -> Result<Answered, Refused> {
        let cell2_key = self.opening.cell2_key();
        self.opening.absorb(cell2);
        let (nonce, boxed) = cell2
            .split_first_chunk_mut::<NONCE>()
            .expect("a cell is longer than a nonce");
        let plain = open_in_place(&cell2_key, nonce, boxed)?;
        let (relay_ephemeral, rest) = plain.split_first_chunk::<32>().ok_or(Refused)?;
        let (floor, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
        if rest.first() != Some(&LINK_VERSION) {
            return Err(Refused);
        }
        let ephemeral = x25519(&self.ephemeral, relay_ephemeral)?;
        let fixed = x25519(&self.ephemeral, &self.relay_public)?;
        Ok(Answered {
            index: self.index,
            floor: u64::from_le_bytes(*floor),
            agreed: self.opening.agree(&ephemeral, &fixed),
        })
    }
}

impl Answered {
    /// `p`, the relay's lowest live link index, to be judged by [`floor_verdict`] before anything else.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Makes `cell3 = N3 | Box(HE(ck, "hs3" | H(cell1 | cell2)), N3, CONFIRM | zeros)` and the link.
    ///
    /// Refused if `proof` speaks of another index. No request is sealed before the relay's first cell opens.
    pub fn confirm(
        self,
        proof: &impl PersistedIndex,
        confirm: Confirm,
        local_secret: &Secret<32>,
        random: [u8; 32],
    ) -> Result<(Box<[u8; CELL]>, Link), Refused> {
        if proof.persisted_index() != self.index {
            return Err(Refused);
        }
        let mut cell3 = Box::new([0; CELL]);
        let plain = &mut cell3[NONCE + MAC..];
        plain[..Confirm::BYTES].copy_from_slice(&confirm.encode());
        let nonce = hedged_nonce(local_secret, &random, self.index, plain);
        cell3[..NONCE].copy_from_slice(&nonce);
        seal_in_place(&self.agreed.cell3_key(), &nonce, &mut cell3[NONCE..]);
        let link = self.agreed.traffic(&cell3).holder_link();
        Ok((cell3, link))
    }
}

/// What `p` means to the holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloorVerdict {
    /// Go on to cell 3.
    Accept,
    /// Above every index that this holder can have burned: treated as a cell that does not open.
    DoesNotOpen,
    /// Below an index that was answered: the relay was restored to an earlier state. An alarm.
    RolledBack,
}

/// Judges the relay's lowest live index `p`, which is good within `[answered + 1, h + 1]`.
///
/// `answered` is the highest index whose link was answered and so burned for certain; `held` is `h`, the highest that
/// a cell 3 was ever sealed for and so may have been burned. `None` is before the first.
pub fn floor_verdict(answered: Option<u64>, held: Option<u64>, floor: u64) -> FloorVerdict {
    let behind = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
    if floor < behind(answered) {
        FloorVerdict::RolledBack
    } else if floor > behind(held) {
        FloorVerdict::DoesNotOpen
    } else {
        FloorVerdict::Accept
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let step = crate::chain::LinkChain::from_root(&Secret::new([0; 32])).advance();
    let (dialling, _) = connect(
        step,
        &[9; 32],
        ClientEntropy {
            ephemeral: [1; 32],
            nonce: [2; 24],
        },
    );
    let mut cell2 = [0; CELL];
    let length = bytes.len().min(CELL);
    cell2[..length].copy_from_slice(&bytes[..length]);
    assert!(
        dialling.answer(&mut cell2).is_err(),
        "no input is sealed under this key"
    );
}
