//! What both stores stand on, opened together.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keypacks::Secret;

use crate::StoreError;
use crate::disk::{Disk, LockGuard};
use crate::entropy::Entropy;
use crate::index::Index;
use crate::segments::Segments;
use crate::slab::Slab;
use crate::vault::Vault;

/// The files of one store, shared by its readers and its committer.
pub(crate) struct Base {
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) index: Arc<Index>,
    pub(crate) segments: Segments,
    pub(crate) slab: Slab,
    pub(crate) vault: Vault,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
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

    /// Opens the files. Segments and slab are not usable until they have been told what is used.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        lock: Box<dyn LockGuard>,
        store_key: Secret<32>,
        segment_bytes: u64,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let index = Arc::new(Index::open(Arc::clone(&disk), &folder.join("index.redb"))?);
        let segments = Segments::open(Arc::clone(&disk), folder, segment_bytes)?;
        let slab = Slab::open(&*disk, &folder.join("slab"), Arc::clone(&entropy))?;
        disk.sync_dir(folder)?;
        let vault = Vault::new(store_key, Arc::clone(&entropy));
        let lock = Mutex::new(Some(lock));
        Ok(Self {
            entropy,
            index,
            segments,
            slab,
            vault,
            lock,
        })
    }

    /// The commit under way is durable.
    pub(crate) fn committed(&self) {
        self.segments.committed();
        self.slab.committed();
    }

    /// The commit under way has certainly not happened.
    pub(crate) fn abandoned(&self) {
        self.segments.abandoned();
        self.slab.abandoned();
    }

    /// Closes the index and lets the lock go.
    pub(crate) fn close(&self) {
        self.index.close();
        self.lock.lock().expect("no code panics while it holds the lock").take();
    }
}
