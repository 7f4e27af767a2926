//! One-time pads in place of link keys (`docs/PROTOCOL.md` section 11): cells that are opened by who has the same random
//! bytes, and by nobody else, whatever they can compute.
//!
//! ```text
//! file       header, copy A | header, copy B | up region | down region
//! region     record 0 | record 1 | ... | record N - 1 | bytes of bodies
//! record     T 16 | P 32 | M 16
//! ```
//!
//! A cell takes the next record and as many body bytes as it masks. [`Layout`] says where they lie, a [`Lease`] hands
//! each of them out once as a [`Piece`], and sealing consumes the piece. Bytes of a pad enter through [`End`], which an
//! end's store implements over its file: this crate reads none.

mod cell;
mod file;
mod half;
mod hello;
mod layout;
mod lease;

pub use cell::{DATA_MAX, End, Fill, PadError, PadOpener, PadSealer, masked};
pub use file::{FileHeader, HEADER_COPY, Made};
pub use half::{HALF_CHECK, Half, HalfDigest};
pub use hello::{
    HELLO_NONCE, Offer, PadConfirm, hello, hello_nonce, open_confirm, open_offer, seal_confirm, seal_offer, up_tags,
};
pub use layout::{Direction, Layout, PAD_MAX, PAD_MIN, Place, RECORD};
pub use lease::{Lease, Piece};

/// Feeds hostile bytes to every parser of pads; must not panic.
pub fn fuzz(bytes: &[u8]) {
    file::fuzz(bytes);
    hello::fuzz(bytes);
    cell::fuzz(bytes);
}

#[cfg(test)]
pub(crate) mod tests;
