//! What can go wrong in a store.

use std::io;

/// Why an operation of a store gave no result.
///
/// Every variant but [`StoreError::Unknown`] promises that the operation changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A bound is reached for now: too many operations wait, or a mailbox or the spool is full. Try again later.
    #[error("the store is busy or a bound is reached; try again later")]
    Busy,
    /// Too little disk space is free; nothing was written.
    #[error("the disk is nearly full")]
    Full,
    /// The commit failed in a way that leaves open whether it took place. Read before doing it again.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    /// The store has stopped, or has not come back from a failed commit yet.
    #[error("the store is not available")]
    Unavailable,
    /// The disk refused a read or a write.
    #[error("the disk failed: {0}")]
    Io(io::ErrorKind),
    /// Bytes on the disk are not what was written, or a key that should open them does not.
    #[error("stored data does not open or contradicts itself")]
    Corrupt,
    /// The files were written by another version of this program.
    #[error("the store's files are of another format, made by another version of this program")]
    Format,
    /// The slots are ahead of the database, so the database was restored from an older copy: the account is frozen.
    #[error("the database is older than its key slots: it was restored from a copy")]
    RestoredDatabase,
    /// There is no such account, row or message.
    #[error("there is no such row")]
    NoRow,
    /// The order contradicts itself or a bound of the store: the caller's mistake.
    #[error("the order is not valid")]
    Invalid,
    /// The passphrase is wrong or the file is no pack.
    #[error("the passphrase does not open the pack")]
    Passphrase,
    /// Another process has the store open.
    #[error("another process has this folder open")]
    Locked,
    /// A database was being put back into the folder when the process ended: see [`crate::relay::Restore`].
    #[error("a restore of this folder was interrupted: run 'posternd restore' again")]
    HalfRestored,
}

impl StoreError {
    /// Whether this is an answer that an operation gives before it writes anything, so that its batch can go on.
    pub(crate) fn is_refusal(self) -> bool {
        !matches!(self, Self::Unknown | Self::Io(_) | Self::Corrupt)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        // Not `Full`, even for a full disk: that one promises that nothing was written.
        Self::Io(error.kind())
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => Self::Io(error.kind()),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Self::Io(io::ErrorKind::Other),
            _ => Self::Corrupt,
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);
