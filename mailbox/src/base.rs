//! What both stores stand on, opened together.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::{Secret, kdf};

use crate::StoreError;
use crate::disk::{Disk, LockGuard};
use crate::entropy::Entropy;
use crate::index::{Frozen, Index, View, Write};
use crate::log::{CommitFailed, Log, Record};
use crate::overlay::Overlay;
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

    /// Begins a batch, on top of the one that is being written, if one is. It must be given to [`Self::commit`] or
    /// [`Self::abandon`], or its rows to [`Self::write`].
    pub(crate) fn begin(&self) -> Result<Write<'_>, StoreError> {
        let write = self.index.begin(&self.vault, Overlay::default())?;
        self.log.begin()?;
        Ok(write)
    }

    /// Goes on with the batch under way, which has changed these rows. After an error it is to be given up by
    /// [`Self::give_up`].
    pub(crate) fn go_on(&self, rows: Overlay) -> Result<Write<'_>, StoreError> {
        self.index.begin(&self.vault, rows)
    }

    /// Whether a batch has so many rows or bodies that what else there is to do had better wait for the next.
    pub(crate) fn is_filled_by(&self, write: &Write<'_>) -> bool {
        write.bytes() >= self.bounds.recent_bytes || self.log.batch_bytes() >= self.bounds.segment_bytes
    }

    /// Makes a batch durable; from then on readers see it. Returns its number.
    pub(crate) fn commit(&self, write: Write<'_>) -> Result<u64, CommitFailed> {
        let record = self.write(write.into_rows())?;
        match record.write() {
            Ok(()) => Ok(self.durable(record)),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Completes the batch under way, which changed these rows. The record is to be written; then it is to be given to
    /// [`Self::durable`], or what failed to [`Self::failed`]. Until then the next batch alone sees the rows.
    pub(crate) fn write(&self, rows: Overlay) -> Result<Record, CommitFailed> {
        match self.log.complete(&rows) {
            Ok(record) => {
                self.index.write(rows);
                self.slab.written();
                Ok(record)
            }
            Err(failed) => {
                self.slab.abandoned();
                Err(failed)
            }
        }
    }

    /// The batch that was written is durable; from now on readers see it. Returns its number.
    pub(crate) fn durable(&self, record: Record) -> u64 {
        let committed = self.log.durable(record);
        self.index.durable(committed.number);
        // After that: who read an old row looks again, and finds that a body has gone or moved.
        self.log.account(&committed);
        self.slab.durable();
        committed.number
    }

    /// The batch could not be written. What was begun on top of it must have been given up before.
    pub(crate) fn failed(&self, error: StoreError) -> CommitFailed {
        let failed = self.log.failed(error);
        self.index.failed_to_write();
        self.slab.failed();
        failed
    }

    /// Gives a batch up.
    pub(crate) fn abandon(&self, write: Write<'_>) {
        drop(write);
        self.give_up();
    }

    /// Gives up the batch under way, at which nobody looks.
    pub(crate) fn give_up(&self) {
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

    /// Sets apart what the index has not got, while no batch is under way or being written. `None`: it is still taking over what was set apart before.
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
