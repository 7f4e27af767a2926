//! Roots that a pack is given after its issue.

use crate::StoreError;

/// Which root a pack's chains are of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Rooting {
    /// How many it was given after its issue: from the first on it has a recovery code.
    pub number: u64,
    /// Another one is being asked for.
    pub is_pending: bool,
}

/// Why no new root can be asked for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RerootError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pad has no root.
    #[error("this pack has a pad, and a pad cannot be given new keys: get a new pack")]
    Pad,
    /// One is being asked for already.
    #[error("the pack is getting new keys already: wait until 'postern status' says that it has them")]
    Pending,
    /// Parcels are under way whose keys would end.
    #[error("parcels are under way: wait for their receipts, since their keys would end with the pack's")]
    Parcels,
    /// Mail under the root before the present one is still to be collected.
    #[error("mail from before the last new keys is still to be collected: try again in a minute")]
    Collecting,
}
