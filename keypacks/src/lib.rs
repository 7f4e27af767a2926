//! Key sequences and everything sealed with them: chains, the link handshake, cells, deposits, parcels, the pack file.
//!
//! Turns bytes into bytes: reads no clock, no file, no socket and draws no randomness; knows no mail and no money.
//! `docs/PROTOCOL.md` says what every byte is, `vectors/` holds known answers. Start at [`chain::LinkChain`], which
//! gives the keys of one link, then [`link::connect`] and [`link::accept`], which spend them.
//!
//! Promises: to anyone without the pack every cell is the same length of noise; a used key cannot be computed again
//! from what is left; what a key seals is gone from this crate's memory when the value that held it is dropped.
//! The opened bytes handed out (frames, payloads) belong to the caller, who wipes them.

pub mod cell;
pub mod chain;
pub mod deposit;
pub mod directory;
pub mod kdf;
pub mod link;
pub mod pack;
pub mod pad;
pub mod parcel;
pub mod procure;
pub mod reroot;
pub mod rotation;
pub mod rows;
mod secret;
pub mod secretbox;

pub use secret::Secret;

/// Length of a cell in bytes: the only unit on a link, first flights included.
pub const CELL: usize = 16_384;

/// Public one-time name of one key of one pack. Neither printed nor logged: it tells account and index to the relay.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 16]);

/// The bytes do not open. One value on purpose: whoever sent them learns no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("does not open")
    }
}

impl std::error::Error for Refused {}
