//! The relay's side: [`peek_tag`], [`accept`], [`Accepting`], [`Confirmed`].

use crate::chain::LinkStep;
use crate::secretbox::{MAC, NONCE, open_in_place, seal_in_place};
use crate::{CELL, Refused, Secret, Tag};

use super::transcript::{Agreed, Opening, Traffic, x25519, x25519_public};
use super::{Confirm, LINK_VERSION, Link, PersistedIndex};

/// Length of `T[i]` before cell 1's nonce.
const TAG: usize = 16;

/// The relay's static X25519 key `S`, whose public half is pinned in every pack.
pub struct RelaySecret(Secret<32>);

impl RelaySecret {
    /// Takes 32 uniform bytes as the secret.
    pub fn new(bytes: Secret<32>) -> Self {
        Self(bytes)
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        x25519_public(&self.0)
    }

    /// `X25519(S, public)`.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Secret<32>, Refused> {
        x25519(&self.0, public)
    }
}

/// Cell 2 is on its way; nothing is burned or debited yet.
pub struct Accepting {
    index: u64,
    agreed: Agreed,
}

/// Cell 3 has opened: the holder made this link now, and not a replay. Next comes the burn's commit.
pub struct Confirmed {
    /// What the holder shows.
    pub confirm: Confirm,
    index: u64,
    traffic: Traffic,
}

/// The tag that opens a first cell in clear, by which the relay finds account and index.
pub fn peek_tag(cell1: &[u8; CELL]) -> Tag {
    Tag(*cell1.first_chunk().expect("a cell is longer than a tag"))
}

/// Opens cell 1 and makes `cell2 = Ns | Box(HE(psk, "hs2" | H(cell1)), Ns, e_s | u64 p | u8 version | zeros)`.
///
/// `step` is what [`peek_tag`] led to, `floor` is `p`; `ephemeral` and `nonce` are fresh randomness for this cell.
pub fn accept(
    step: LinkStep,
    secret: &RelaySecret,
    floor: u64,
    cell1: &mut [u8; CELL],
    ephemeral: [u8; 32],
    nonce: [u8; 24],
) -> Result<(Accepting, Box<[u8; CELL]>), Refused> {
    let ephemeral = Secret::new(ephemeral);
    if peek_tag(cell1) != step.tag {
        return Err(Refused);
    }
    let mut opening = Opening::new(&step);
    opening.absorb(cell1);
    let holder_ephemeral = open_cell1(&opening.cell1_key(), cell1)?;
    let shared = x25519(&ephemeral, &holder_ephemeral)?;
    let fixed = x25519(&secret.0, &holder_ephemeral)?;

    let mut cell2 = Box::new([0; CELL]);
    cell2[..NONCE].copy_from_slice(&nonce);
    let boxed = &mut cell2[NONCE..];
    boxed[MAC..MAC + 32].copy_from_slice(&x25519_public(&ephemeral));
    boxed[MAC + 32..MAC + 40].copy_from_slice(&floor.to_le_bytes());
    boxed[MAC + 40] = LINK_VERSION;
    seal_in_place(&opening.cell2_key(), &nonce, boxed);
    opening.absorb(&cell2);

    let accepting = Accepting {
        index: step.index,
        agreed: opening.agree(&shared, &fixed),
    };
    Ok((accepting, cell2))
}

/// Opens `T | Nc | Box(.., e_c | u8 version | u32 capabilities | zeros)` and returns `e_c`. No capability is defined;
/// what a later holder may offer is not looked at.
fn open_cell1(key: &Secret<32>, cell1: &mut [u8; CELL]) -> Result<[u8; 32], Refused> {
    let (nonce, boxed) = cell1[TAG..]
        .split_first_chunk_mut::<NONCE>()
        .expect("a cell is longer than its head");
    let plain = open_in_place(key, nonce, boxed)?;
    let (holder_ephemeral, rest) = plain.split_first_chunk::<32>().ok_or(Refused)?;
    if rest.first() != Some(&LINK_VERSION) {
        return Err(Refused);
    }
    Ok(*holder_ephemeral)
}

impl Accepting {
    /// Opens `cell3 = N3 | Box(HE(ck, "hs3" | H(cell1 | cell2)), N3, CONFIRM | zeros)`.
    pub fn confirm(self, cell3: &mut [u8; CELL]) -> Result<Confirmed, Refused> {
        let cell3_key = self.agreed.cell3_key();
        let traffic = self.agreed.traffic(cell3);
        let (nonce, boxed) = cell3
            .split_first_chunk_mut::<NONCE>()
            .expect("a cell is longer than a nonce");
        let confirm = Confirm::decode(open_in_place(&cell3_key, nonce, boxed)?)?;
        Ok(Confirmed {
            confirm,
            index: self.index,
            traffic,
        })
    }
}

impl Confirmed {
    /// The index to burn.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The link, once the burn of its index is durable. Refused if `proof` speaks of another index.
    pub fn burned(self, proof: &impl PersistedIndex) -> Result<Link, Refused> {
        if proof.persisted_index() != self.index {
            return Err(Refused);
        }
        Ok(self.traffic.relay_link())
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut cell1 = [0; CELL];
    let length = bytes.len().min(CELL);
    cell1[..length].copy_from_slice(&bytes[..length]);
    let mut step = crate::chain::LinkChain::from_root(&Secret::new([0; 32])).advance();
    step.tag = peek_tag(&cell1);
    let secret = RelaySecret::new(Secret::new([1; 32]));
    assert!(
        accept(step, &secret, 0, &mut cell1, [2; 32], [3; 24]).is_err(),
        "no input is sealed under this key"
    );
}
