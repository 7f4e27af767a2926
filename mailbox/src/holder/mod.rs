//! A holder's store in files: [`HolderFiles`].
//!
//! ```text
//! header             file key under the passphrase, two copies         keypacks::pack::Header
//! slots              states of the link and post chains, two copies, overwritten in place
//! slab               secrets of row keys, overwritten when their row ends
//! index.redb         positions, rows (sealed)
//! segment-NNNNNN     texts of messages, payloads of the outbox (sealed)
//! lock               held by the one process that has the store open
//! ```
//!
//! Made by [`init_from_pack`] or [`HolderFiles::create`], opened by [`HolderFiles::open`]. Readers look at an
//! immutable picture of the last commit (`books`); operations go to the `stage`, one commit for all that came together.

mod books;
mod collection;
mod create;
mod devices;
mod expiry;
mod files;
mod folders;
mod header;
mod inspect;
mod link;
mod message_id;
mod messages;
mod moving;
mod outbox;
mod own_book;
mod parcels;
mod roots;
mod rows;
mod shelf;
mod stage;
mod text;
mod threads;
mod value;

#[cfg(test)]
mod tests;

pub use create::{InitError, Initialised, init_from_halves, init_from_pack};
pub use files::{HolderFiles, HolderOptions};
pub use inspect::{Glance, Outside, PackFault, change_passphrase, glance, inspect, inspect_outside};
pub use moving::{MoveError, move_store, wipe_store};

/// Feeds hostile bytes to every parser of this module; must not panic.
pub fn fuzz(bytes: &[u8]) {
    message_id::fuzz(bytes);
}
