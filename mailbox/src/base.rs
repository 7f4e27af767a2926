//! What both stores stand on, opened together.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::{Secret, kdf};

use crate::StoreError;
use crate::disk::{Disk, LockGuard};
use crate::entropy::Entropy;
use crate::index::{Frozen, Index, View, Write};
use crate::log::{CommitFailed, Log};
use crate::slab::Slab;
use crate::vault::Vault;

/// The files of one store, shared by its readers, its committer and its keeper.
pub(crate) struct Base {
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) index: Index,
    pub(crate) log: Log,
    pub(crate) slab: Slab,
    pub(crate) vault: Vault,
    bounds: Bounds,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

/// How much may be committed before the index takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Size of a segment, in bytes. A batch whose bodies reach it takes no further operation.
    pub segment_bytes: u64,
    /// Memory of rows that only the log holds, in bytes. A batch that reaches it takes no further operation.
    pub recent_bytes: usize,
    /// Length of the log that a restart reads, in bytes.
    pub tail_bytes: u64,
}

impl Bounds {
    /// For a relay.
    pub const LARGE: Self = Self {
        segment_bytes: 16 << 20,
        recent_bytes: 16 << 20,
        tail_bytes: 128 << 20,
    };
    /// For one user.
    pub const SMALL: Self = Self {
        segment_bytes: 4 << 20,
        recent_bytes: 1 << 20,
        tail_bytes: 16 << 20,
    };
}

impl Base {
    /// Makes the folder and takes its lock: before anything else is read.
    pub(crate) fn lock(disk: &dyn Disk, folder: &Path) -> Result<Box<dyn LockGuard>, StoreError> {
        disk.create_dir_all(folder)?;
        disk.lock(&folder.join("lock")).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => StoreError::Locked,
            kind => StoreError::Io(kind),
        })
    }

    /// Opens the files and reads what the log has and the index has not. The slab is not usable until it has been
    /// told what is used.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        lock: Box<dyn LockGuard>,
        store_key: Secret<32>,
        bounds: Bounds,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        Self::open_beside(disk, (folder, folder), lock, store_key, bounds, entropy)
    }

    /// As [`Self::open`], with the database in the first folder and the slab in the second.
    pub(crate) fn open_beside(
        disk: Arc<dyn Disk>,
        (folder, slab): (&Path, &Path),
        lock: Box<dyn LockGuard>,
        store_key: Secret<32>,
        bounds: Bounds,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let slab = Slab::open(&*disk, &slab.join("slab"), Arc::clone(&entropy))?;
        let (index, mark) = Index::open(Arc::clone(&disk), &folder.join("index.redb"))?;
        let log_key = kdf::he(&store_key, "store/log", &[]);
        let (log, replayed) = Log::open(
            Arc::clone(&disk),
            folder,
            log_key,
            bounds.segment_bytes,
            &mark,
            Arc::clone(&entropy),
        )?;
        index.committed(replayed.rows, replayed.commit);
        disk.sync_dir(folder)?;
        let vault = Vault::new(store_key, Arc::clone(&entropy));
        let lock = Mutex::new(Some(lock));
        Ok(Self {
            entropy,
            index,
            log,
            slab,
            vault,
            bounds,
            lock,
        })
    }

    /// A short look at the rows of the last commit.
    pub(crate) fn view(&self) -> Result<View<'_>, StoreError> {
        self.index.view(&self.vault)
    }

    /// The rows of the last commit, for a long look.
    pub(crate) fn snapshot(&self) -> Result<View<'_>, StoreError> {
        self.index.snapshot(&self.vault)
    }

    /// Begins a batch. It must be given to [`Self::commit`] or [`Self::abandon`].
    pub(crate) fn begin(&self) -> Result<Write<'_>, StoreError> {
        let write = self.index.begin(&self.vault)?;
        self.log.begin()?;
        Ok(write)
    }

    /// Whether a batch has so many rows or bodies that what else there is to do had better wait for the next.
    pub(crate) fn is_filled_by(&self, write: &Write<'_>) -> bool {
        write.bytes() >= self.bounds.recent_bytes || self.log.batch_bytes() >= self.bounds.segment_bytes
    }

    /// Makes a batch durable; from then on readers see it. Returns its number.
    pub(crate) fn commit(&self, write: Write<'_>) -> Result<u64, CommitFailed> {
        let rows = write.into_rows();
        match self.log.commit(&rows) {
            Ok(committed) => {
                self.index.committed(rows, committed.number);
                // After that: who read an old row looks again, and finds that a body has gone or moved.
                self.log.account(&committed);
                self.slab.committed();
                Ok(committed.number)
            }
            Err(failed) => {
                self.slab.abandoned();
                Err(failed)
            }
        }
    }

    /// Gives a batch up.
    pub(crate) fn abandon(&self, write: Write<'_>) {
        drop(write);
        self.log.abandon();
        self.slab.abandoned();
    }

    /// Commits without a committer, while a store is being made.
    pub(crate) fn commit_now(
        &self,
        apply: impl FnOnce(&Write<'_>) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let write = self.begin()?;
        match apply(&write) {
            Ok(()) => self.commit(write).map_err(CommitFailed::into_error),
            Err(error) => {
                self.abandon(write);
                Err(error)
            }
        }
    }

    /// Sets apart what the index has not got. `None`: it is still taking over what was set apart before.
    pub(crate) fn freeze(&self) -> Option<Frozen> {
        self.index.freeze(self.log.mark(), self.log.tail_bytes())
    }

    /// Whether the index has still to take over what was set apart.
    pub(crate) fn is_frozen(&self) -> bool {
        self.index.is_frozen()
    }

    /// Has the index take over what was set apart, durably.
    pub(crate) fn checkpoint(&self, frozen: &Frozen) -> Result<(), StoreError> {
        self.index.checkpoint(frozen, &self.vault)?;
        self.log.checkpointed(&frozen.mark, frozen.tail);
        Ok(())
    }

    /// Whether so much was committed lately that the index should take it over.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.index.recent_bytes() > self.bounds.recent_bytes || self.log.tail_bytes() > self.bounds.tail_bytes
    }

    /// Whether so much was committed since that commits should wait for the index.
    pub(crate) fn is_overdue(&self) -> bool {
        self.index.held_bytes() > 4 * self.bounds.recent_bytes || self.log.tail_bytes() > 4 * self.bounds.tail_bytes
    }

    /// Closes the index and lets the lock go.
    pub(crate) fn close(&self) {
        self.index.close();
        self.lock.lock().expect("no code panics while it holds the lock").take();
    }
}
