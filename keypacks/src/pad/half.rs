//! A pad of two halves: what one seller hands out opens nothing without what the other one does.
//!
//! ```text
//! pad   = first half XOR second half, byte by byte, both regions
//! R'    = HX("pad/half", R | H(second half))              the root that the pack's chains come from
//! check = HE(R', "pad/half/check", "", 16)                in the pack
//! ```
//!
//! The first half lies beside the pack, the second one comes another way. The relay, which is the other end, has both.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::Secret;
use crate::kdf::{he, hx};

/// Bytes of the check in a pack.
pub const HALF_CHECK: usize = 16;

/// H of a second half, while it is read.
#[derive(Default)]
pub struct HalfDigest(Sha256);

impl HalfDigest {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// All bytes were taken.
    pub fn finish(self) -> Half {
        Half(Secret::new(self.0.finalize().into()))
    }
}

/// A second half by its digest. With the pack's root it is the root of the chains, so it is kept nowhere.
pub struct Half(Secret<32>);

impl Half {
    /// Takes over a digest.
    pub fn new(digest: Secret<32>) -> Self {
        Self(digest)
    }

    /// A second copy, which is wiped by itself.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// The digest.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// `R'`: the root of the chains of a pack whose own root is `root`.
    pub fn join(&self, root: &Secret<32>) -> Secret<32> {
        hx("pad/half", &[root.expose(), self.0.expose()])
    }

    /// What a pack of this root says of the half: it tells the right one from others, and nothing else.
    pub fn check(&self, root: &Secret<32>) -> [u8; HALF_CHECK] {
        *he(&self.join(root), "pad/half/check", &[]).expose()
    }

    /// Whether it is the one that a pack of this root says.
    pub fn is(&self, root: &Secret<32>, check: &[u8; HALF_CHECK]) -> bool {
        self.check(root).ct_eq(check).into()
    }
}
