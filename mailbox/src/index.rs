//! All rows of a store: those that were committed lately in memory, the rest in redb, over the disk trait.
//!
//! ```text
//! commit -> log, durable -> recent -> (checkpoint) frozen -> redb, durable -> the log before it may go
//! ```
//!
//! A row is looked for in this order: what the batch under way changed, what the batch before it changed while that is being
//! written, recent, frozen, redb; readers begin at recent, and see nothing that is not durable. redb is behind, never ahead, and
//! may fail: nothing is lost with it, since a checkpoint that did not succeed is made again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{ReadOnlyTable, ReadableDatabase, TableError};
use tokio::sync::Notify;

use crate::StoreError;
use crate::disk::Disk;
use crate::log::Mark;
use crate::overlay::Overlay;
use crate::vault::Vault;

mod file;
mod view;

pub use file::FORMAT_NUMBER;
use file::{Open, ROWS};
pub use view::Write;
use view::{Layers, UnderWay};
pub(crate) use view::{Source, View};

/// The rows of one store. Readers, the committer and the keeper share it.
pub struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: RwLock<State>,
    /// Rows that are being written to the log: the batch under way alone looks at them.
    written: Mutex<Option<Arc<Overlay>>>,
    /// Set when redb has failed, which then takes nothing more until it is opened again.
    is_failed: AtomicBool,
    /// Rung with it.
    failed: Notify,
}

struct State {
    recent: Overlay,
    frozen: Option<Arc<Overlay>>,
    commit: u64,
    /// `None`: redb failed and has not come back yet.
    open: Option<Open>,
}

/// Rows that are to go to redb.
pub(crate) struct Frozen {
    rows: Arc<Overlay>,
    pub(crate) mark: Mark,
    /// Length of the log that they stand in, in bytes.
    pub(crate) tail: u64,
}

impl Frozen {
    /// Rows of a copy that is being made.
    pub(crate) fn new(rows: Overlay, mark: Mark) -> Self {
        Self {
            rows: Arc::new(rows),
            mark,
            tail: 0,
        }
    }
}

impl Index {
    /// Opens or makes the database. Returns what it says of the log.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, Mark), StoreError> {
        file::create(&*disk, path)?;
        let open = file::open(&*disk, path)?;
        let mark = open.mark()?;
        let state = State {
            recent: Overlay::default(),
            frozen: None,
            commit: mark.commit,
            open: Some(open),
        };
        let index = Self {
            disk,
            path: path.to_owned(),
            state: RwLock::new(state),
            written: Mutex::default(),
            is_failed: AtomicBool::new(false),
            failed: Notify::new(),
        };
        Ok((index, mark))
    }

    /// A short look at the state of the last commit. Commits wait for its end.
    pub(crate) fn view<'i>(&'i self, vault: &'i Vault) -> Result<View<'i>, StoreError> {
        let state = self.state();
        let table = self.noting(state.table())?;
        let severed = state.severed();
        Ok(View {
            index: self,
            vault,
            layers: Layers::Shared(state),
            table,
            severed,
        })
    }

    /// The state of the last commit, for as long as it takes: recent rows are copied.
    pub(crate) fn snapshot<'i>(&'i self, vault: &'i Vault) -> Result<View<'i>, StoreError> {
        let state = self.state();
        let table = self.noting(state.table())?;
        Ok(View {
            index: self,
            vault,
            layers: Layers::Owned(state.recent.clone(), state.frozen.clone(), state.commit),
            table,
            severed: state.severed(),
        })
    }

    /// The batch under way, with what it has changed so far, on top of what is being written and the last commit.
    pub(crate) fn begin<'i>(&'i self, vault: &'i Vault, rows: Overlay) -> Result<Write<'i>, StoreError> {
        Ok(Write {
            view: self.view(vault)?,
            written: self.written().clone(),
            batch: RefCell::new(rows),
            stored: RefCell::default(),
            _under_way: UnderWay::begin(),
        })
    }

    /// These rows are being written: the next batch stands on top of them.
    pub(crate) fn write(&self, rows: Overlay) {
        let before = self.written().replace(Arc::new(rows));
        debug_assert!(before.is_none(), "one batch is written at a time");
    }

    /// The rows that were being written are durable in the log under this number.
    pub(crate) fn durable(&self, commit: u64) {
        if let Some(rows) = self.written().take() {
            self.committed(Arc::unwrap_or_clone(rows), commit);
        }
    }

    /// The rows that were being written do not count.
    pub(crate) fn failed_to_write(&self) {
        *self.written() = None;
    }

    /// These rows are durable in the log under this number.
    pub(crate) fn committed(&self, rows: Overlay, commit: u64) {
        let mut state = self.state_mut();
        state.recent.merge(rows);
        state.commit = commit;
    }

    /// Number of the last commit; 0 before the first.
    pub fn commit_number(&self) -> u64 {
        self.state().commit
    }

    /// About how much memory the recent rows take, in bytes.
    pub(crate) fn recent_bytes(&self) -> usize {
        self.state().recent.bytes()
    }

    /// About how much memory the rows take that redb has not got for certain, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let state = self.state();
        state.recent.bytes() + state.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    /// Sets the recent rows apart for a checkpoint, which [`Self::checkpoint`] must complete before the next one.
    pub(crate) fn freeze(&self, mark: Mark, tail: u64) -> Option<Frozen> {
        let mut state = self.state_mut();
        if state.frozen.is_some() {
            return None;
        }
        let rows = Arc::new(std::mem::take(&mut state.recent));
        state.frozen = Some(Arc::clone(&rows));
        Some(Frozen { rows, mark, tail })
    }

    /// Whether a checkpoint is to be completed.
    pub(crate) fn is_frozen(&self) -> bool {
        self.state().frozen.is_some()
    }

    /// Brings frozen rows and their mark into redb, durably. After an error the database is to be opened again and
    /// this to be done again: it is the same whether anything of it was done before.
    pub(crate) fn checkpoint(&self, frozen: &Frozen, vault: &Vault) -> Result<(), StoreError> {
        self.noting(self.apply(frozen, vault))?;
        self.state_mut().frozen = None;
        Ok(())
    }

    fn apply(&self, frozen: &Frozen, vault: &Vault) -> Result<(), StoreError> {
        let write = {
            let state = self.state();
            let open = state.open.as_ref().ok_or(StoreError::Unavailable)?;
            let mut write = open.database.begin_write()?;
            // Implies two phases: the primary slot is valid without a look at checksums, and a crash costs no full walk.
            write.set_quick_repair(true);
            write
        };
        {
            let mut table = write.open_table(ROWS)?;
            for (name, value) in frozen.rows.iter() {
                let stored = name.stored();
                match value {
                    Some(plain) => {
                        let sealed = vault.seal_row(&stored, plain);
                        table.insert(&stored[..], &sealed[..])?;
                    }
                    None => drop(table.remove(&stored[..])?),
                }
            }
            file::write_about(&write, &frozen.mark)?;
        }
        Ok(write.commit()?)
    }

    /// Whether the database has failed and was not opened again since.
    pub(crate) fn is_failed(&self) -> bool {
        self.is_failed.load(Ordering::SeqCst)
    }

    /// Returns once the database has failed.
    pub(crate) async fn failed(&self) {
        while !self.is_failed() {
            self.failed.notified().await;
        }
    }

    /// Closes the database and opens it again: redb takes nothing more after an I/O error. Waits for readers.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut state = self.state_mut();
        if let Some(open) = state.open.take() {
            open.severed.store(true, Ordering::SeqCst);
        }
        state.open = Some(file::open(&*self.disk, &self.path)?);
        self.is_failed.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Closes the database; reads and writes are refused from now on.
    pub(crate) fn close(&self) {
        self.state_mut().open = None;
    }

    /// Tells the keeper of an error of the disk.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Io(_))) {
            self.is_failed.store(true, Ordering::SeqCst);
            self.failed.notify_one();
        }
        result
    }

    fn written(&self) -> MutexGuard<'_, Option<Arc<Overlay>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        UnderWay::assert_none();
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        UnderWay::assert_none();
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl State {
    fn severed(&self) -> Option<Arc<AtomicBool>> {
        self.open.as_ref().map(|open| Arc::clone(&open.severed))
    }

    /// `None`: nothing has reached redb yet.
    fn table(&self) -> Result<Option<Table>, StoreError> {
        let open = self.open.as_ref().ok_or(StoreError::Unavailable)?;
        match open.database.begin_read()?.open_table(ROWS) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
