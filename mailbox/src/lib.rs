//! Durable state: what a relay keeps ([`RelayStore`]) and what a keypack's holder keeps ([`HolderStore`]).
//!
//! Both stand on one base: the [`disk`] trait under all files, the [`log`] that every commit is one record of, the
//! [`index`] behind it, [`slots`] for chain states and the [`slab`] for row keys (both overwritten in place), and group
//! [`commit`]. Knows no socket and no mail; randomness enters as [`Entropy`], time as an argument. [`request`] holds the
//! typed requests on a link.
//!
//! Promises: an operation that returned is durable; one second after a key is used up, no file holds it; a store
//! that was killed at any point opens again with everything it acknowledged. Start at [`relay_store`], then
//! [`commit`], which says what each failure leaves.

pub mod backup;
pub(crate) mod base;
pub(crate) mod bodies;
pub mod commit;
pub mod conformance;
pub mod devices;
pub mod disk;
pub mod entropy;
mod error;
pub mod holder;
pub mod holder_store;
pub mod index;
pub(crate) mod keeper;
pub mod keyfile;
pub mod log;
pub(crate) mod overlay;
pub mod pad;
pub mod parcel;
pub mod relay;
pub mod relay_store;
pub mod request;
pub mod slab;
pub mod slots;
pub(crate) mod tables;
pub(crate) mod used;
pub mod vault;

pub use base::Bounds;
pub use entropy::Entropy;
pub use error::StoreError;
pub use holder_store::HolderStore;
pub use relay_store::RelayStore;
