//! The key schedule of the handshake, which both ends walk: each stage is a type, made from the one before it.

use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::cell::Direction;
use crate::chain::LinkStep;
use crate::kdf::{hash, he, hx, hx_keyed, wipe_stack};
use crate::{CELL, Refused, Secret};

use super::{Link, Rekey};

/// `psk = HX("link", U | D)`, and the hash of the cells so far.
pub(super) struct Opening {
    psk: Secret<32>,
    cells: Sha256,
}

impl Opening {
    pub(super) fn new(step: &LinkStep) -> Self {
        Self {
            psk: hx("link", &[step.up.expose(), step.down.expose()]),
            cells: Sha256::new(),
        }
    }

    /// Key of cell 1: `HE(psk, "hs1", 32)`.
    pub(super) fn cell1_key(&self) -> Secret<32> {
        he(&self.psk, "hs1", &[])
    }

    /// Takes a cell into the transcript, as it was on the wire.
    pub(super) fn absorb(&mut self, cell: &[u8; CELL]) {
        self.cells.update(cell);
    }

    /// Key of cell 2, once cell 1 is absorbed: `HE(psk, "hs2" | H(cell1), 32)`.
    pub(super) fn cell2_key(&self) -> Secret<32> {
        he(&self.psk, "hs2", &self.cells.clone().finalize())
    }

    /// `ck = HX(psk, X25519(e_c, e_s) | X25519(e_c, S))`, once cell 2 is absorbed.
    pub(super) fn agree(self, ephemeral: &Secret<32>, fixed: &Secret<32>) -> Agreed {
        let ck = hx_keyed(&self.psk, &[ephemeral.expose(), fixed.expose()]);
        Agreed { ck, cells: self.cells }
    }
}

/// Both ends hold `ck`, and have seen the same cells 1 and 2.
pub(super) struct Agreed {
    ck: Secret<32>,
    cells: Sha256,
}

impl Agreed {
    /// Key of cell 3: `HE(ck, "hs3" | H(cell1 | cell2), 32)`.
    pub(super) fn cell3_key(&self) -> Secret<32> {
        he(&self.ck, "hs3", &self.cells.clone().finalize())
    }

    /// `k_up | k_down | ck0 = HE(ck, "traffic" | H(cell1 | cell2 | cell3), 96)`, `cell3` as it was on the wire.
    pub(super) fn traffic(mut self, cell3: &[u8; CELL]) -> Traffic {
        self.cells.update(cell3);
        Traffic::new(&self.ck, &self.cells.finalize())
    }
}

/// The first key of each direction, and what the next keys come from.
pub(super) struct Traffic {
    up: Secret<32>,
    down: Secret<32>,
    next: Secret<32>,
}

impl Traffic {
    fn new(ck: &Secret<32>, digest: &[u8]) -> Self {
        let okm = he::<96>(ck, "traffic", digest);
        Self {
            up: okm.part(0),
            down: okm.part(32),
            next: okm.part(64),
        }
    }

    /// The traffic keys after a rotation: `ck' = HX(ck0, U[j] | D[j])`, bound to the data of ROTATE.
    pub(super) fn rotated(ck0: &Secret<32>, step: &LinkStep, rotate: &[u8]) -> Self {
        let ck = hx_keyed(ck0, &[step.up.expose(), step.down.expose()]);
        Self::new(&ck, &hash(&[rotate]))
    }

    pub(super) fn holder_link(self) -> Link {
        Link {
            sealer: Direction::Up.sealer(self.up),
            opener: Direction::Down.opener(self.down),
            rekey: Rekey::new(self.next),
        }
    }

    pub(super) fn relay_link(self) -> Link {
        Link {
            sealer: Direction::Down.sealer(self.down),
            opener: Direction::Up.opener(self.up),
            rekey: Rekey::new(self.next),
        }
    }
}

/// X25519 (RFC 7748). Refuses the all-zero result, by which a peer could fix the shared secret.
pub(crate) fn x25519(secret: &Secret<32>, public: &[u8; 32]) -> Result<Secret<32>, Refused> {
    let mut contributory = false;
    let shared = Secret::from_fn(|shared| contributory = multiply(secret, public, shared));
    wipe_stack();
    if contributory { Ok(shared) } else { Err(Refused) }
}

/// The public key of an X25519 secret.
pub(crate) fn x25519_public(secret: &Secret<32>) -> [u8; 32] {
    let public = multiply_base(secret);
    wipe_stack();
    public
}

/// Apart from its caller, so that its working state lies in a frame that [`wipe_stack`] reaches.
#[inline(never)]
fn multiply(secret: &Secret<32>, public: &[u8; 32], shared: &mut [u8; 32]) -> bool {
    let result = StaticSecret::from(*secret.expose()).diffie_hellman(&PublicKey::from(*public));
    shared.copy_from_slice(result.as_bytes());
    result.was_contributory()
}

/// Apart from its caller, as [`multiply`] is.
#[inline(never)]
fn multiply_base(secret: &Secret<32>) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret.expose())).to_bytes()
}
