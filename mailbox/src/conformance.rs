//! What every implementation of [`RelayStore`] must do: fixed cases, and random streams of operations with crashes,
//! judged by a plain model. Panics where the store is wrong; for tests of the store at hand and of later ones.

mod cases;
mod holder_side;
mod model;
mod stream;

pub use cases::every_case;
pub use stream::stream;

use std::future::Future;

use crate::RelayStore;

/// A store that can be opened, and crashed where its implementation allows it.
pub trait Backend {
    /// The store under test.
    type Store: RelayStore;

    /// Opens the store, with all that was made durable before.
    fn open(&self) -> impl Future<Output = Self::Store>;

    /// Ends the store in order, or by the crash that is armed. Disarms.
    fn close(&self, store: Self::Store) -> impl Future<Output = ()>;

    /// Arms a crash at the `n`-th durable step from now.
    fn crash_after(&self, n: u64);

    /// Ends the store as a power cut does; what was not durable is lost as `seed` says. Disarms.
    fn crash(&self, store: Self::Store, seed: u64) -> impl Future<Output = ()>;
}
