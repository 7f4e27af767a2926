//! Deposits on their way from the relay into INBOX.

use keypacks::chain::BoxStep;
use keypacks::deposit::Dek;

/// A collected deposit whose key is kept and whose body is not yet stored.
pub struct PendingDeposit {
    /// Post index.
    pub index: u64,
    /// SHA-256 of the wrap, shown when it is confirmed.
    pub wrap_digest: [u8; 32],
    /// Key of the body.
    pub dek: Dek,
    /// SHA-256 of the sealed body.
    pub body_digest: [u8; 32],
    /// Length of the payload.
    pub length: u32,
    /// Size class, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// Alias number.
    pub alias: u32,
}

impl PendingDeposit {
    /// A second copy, its key included.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            dek: Dek::new(self.dek.secret().duplicate()),
            ..*self
        }
    }
}

/// What a wrap is to this store that came by itself.
pub enum WrapPlace {
    /// Its index is still to be collected.
    New(BoxStep),
    /// It is collected, and its body is not here yet.
    Pending(PendingDeposit),
    /// It was opened before; the relay may not know.
    Stored {
        /// UID in INBOX, if it was mail.
        uid: Option<u32>,
    },
    /// Another wrap came under its index before: the relay was restored from an old copy, or is not honest.
    Contradicted,
    /// It is of another pack, or was confirmed long ago.
    Unknown,
}

/// A deposit whose body was opened.
pub struct OpenedDeposit {
    /// Post index.
    pub index: u64,
    /// The message.
    pub message: Vec<u8>,
    /// What [`super::HolderStore::summaries`] gives back.
    pub summary: Vec<u8>,
    /// UTC second at which it was opened.
    pub now: u64,
}

/// Most deposits that are stored in one operation.
pub const STORED_MAX: usize = 256;

/// Longest summary of a message that is kept, in bytes.
pub const SUMMARY_BYTES_MAX: usize = 16 << 10;
