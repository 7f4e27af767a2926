//! The handshake of a link (`docs/PROTOCOL.md` section 3): three cells, mutual proof, keys that nobody can compute later.
//!
//! ```text
//! holder                                    relay
//! connect      -- cell 1 -->                peek_tag, accept
//! answer       <-- cell 2 --
//! (commit h)
//! confirm      -- cell 3 -->                Accepting::confirm
//!                                           (commit the burn)
//! Opener::open <-- first down cell --       burned
//! ```
//!
//! Each step consumes the one before it. The two commits are arguments: a [`PersistedIndex`] exists only in a store
//! that has made the index durable, so nothing is sealed under an index that a crash could forget.

mod holder;
mod messages;
mod relay;
mod rotate;
mod transcript;

pub use holder::{Answered, ClientEntropy, Dialling, FloorVerdict, connect, floor_verdict};
pub use messages::{Confirm, Linked};
pub use relay::{Accepting, Confirmed, RelaySecret, accept, peek_tag};
pub use rotate::{Rekey, Rotate};

use crate::cell::{Opener, Sealer};

pub(crate) use transcript::{x25519, x25519_public};

/// Version of the handshake, in cells 1 and 2.
pub const LINK_VERSION: u8 = 1;

/// Proof that an index is durable: at the holder, that no cell 3 below it will be sealed again; at the relay, that
/// the indices up to it are burned. Implemented by what a store returns after its commit, and by nothing else.
pub trait PersistedIndex {
    /// The index of which the commit speaks.
    fn persisted_index(&self) -> u64;
}

/// A standing link, in two halves that may live in different tasks.
pub struct Link {
    /// Seals what leaves.
    pub sealer: Sealer,
    /// Opens what comes.
    pub opener: Opener,
    /// What both halves get their next keys from.
    pub rekey: Rekey,
}

/// Feeds hostile bytes to every parser of the handshake; must not panic.
pub fn fuzz(bytes: &[u8]) {
    messages::fuzz(bytes);
    holder::fuzz(bytes);
    relay::fuzz(bytes);
    rotate::fuzz(bytes);
}
