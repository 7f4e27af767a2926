//! All rows of a store: those that were committed lately in memory, the rest in redb, over the disk trait.
//!
//! ```text
//! commit -> log, durable -> recent -> (checkpoint) frozen -> redb, durable -> the log before it may go
//! ```
//!
//! A row is looked for in this order: what the batch under way changed, recent, frozen, redb. redb is behind, never ahead, and
//! may fail: nothing is lost with it, since a checkpoint that did not succeed is made again.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, TableError};
use tokio::sync::Notify;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::log::Mark;
use crate::overlay::{Overlay, RowName, Value};
use crate::vault::{self, Vault};

/// Rows under table number and key.
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// What is known of the whole: [`MARK`] and [`FORMAT`].
const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("about");
/// [`Mark`], in postcard.
const MARK: &str = "mark";
/// Number of the layout of all files, as 4 bytes.
const FORMAT: &str = "format";
/// Layout that this code reads and writes. 1: rows committed to redb, bodies in segments without a log.
pub const FORMAT_NUMBER: u32 = 2;
/// Pages kept in memory, in bytes: a relay of the size meant here reads its index from it.
const CACHE_BYTES: usize = 16 << 20;

/// The rows of one store. Readers, the committer and the keeper share it.
pub struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: RwLock<State>,
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

struct Open {
    database: Database,
    /// Cuts this database off from the file, so that one that failed cannot write behind the back of its successor.
    severed: Arc<AtomicBool>,
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
        create(&*disk, path)?;
        let open = open(&*disk, path)?;
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

    /// The batch under way, on top of the last commit.
    pub(crate) fn begin<'i>(&'i self, vault: &'i Vault) -> Result<Write<'i>, StoreError> {
        Ok(Write {
            view: self.view(vault)?,
            batch: RefCell::default(),
        })
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
            write_about(&write, &frozen.mark)?;
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
        state.open = Some(open(&*self.disk, &self.path)?);
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

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
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

impl Open {
    fn mark(&self) -> Result<Mark, StoreError> {
        let read = self.database.begin_read()?;
        let about = match read.open_table(ABOUT) {
            Ok(about) => about,
            Err(TableError::TableDoesNotExist(_)) => {
                // A database without rows of any kind was made just now; any other is of a layout before this one.
                let fresh = read.list_tables()?.next().is_none();
                return if fresh {
                    Ok(Mark::default())
                } else {
                    Err(StoreError::Format)
                };
            }
            Err(error) => return Err(error.into()),
        };
        let format = about.get(FORMAT)?.map(|bytes| bytes.value().to_vec());
        if format.as_deref() != Some(&FORMAT_NUMBER.to_le_bytes()) {
            return Err(StoreError::Format);
        }
        let mark = about.get(MARK)?.ok_or(StoreError::Corrupt)?;
        vault::decode(mark.value())
    }
}

fn write_about(write: &redb::WriteTransaction, mark: &Mark) -> Result<(), StoreError> {
    let mut about = write.open_table(ABOUT)?;
    about.insert(FORMAT, &FORMAT_NUMBER.to_le_bytes()[..])?;
    about.insert(MARK, &vault::encode(mark)[..])?;
    Ok(())
}

/// Rows as they are at one commit.
pub(crate) struct View<'i> {
    index: &'i Index,
    vault: &'i Vault,
    layers: Layers<'i>,
    table: Option<Table>,
    /// Set when the database that this looks at has been replaced: its failures say nothing of the new one.
    severed: Option<Arc<AtomicBool>>,
}

enum Layers<'i> {
    Shared(RwLockReadGuard<'i, State>),
    Owned(Overlay, Option<Arc<Overlay>>, u64),
}

/// What a scan calls with the name and the bytes of each row.
pub(crate) type Visit<'v> = dyn FnMut(&RowName, &[u8]) -> Result<std::ops::ControlFlow<()>, StoreError> + 'v;

/// Rows that can be read.
pub(crate) trait Source {
    fn row(&self, name: &RowName) -> Result<Value, StoreError>;
    /// Visits the rows from `first` to `last`, both included, in order, until `visit` breaks.
    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError>;
    /// The last row from `first` to `last`, both included.
    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError>;
}

impl View<'_> {
    /// Number of the last commit that is seen.
    pub(crate) fn commit(&self) -> u64 {
        match &self.layers {
            Layers::Shared(state) => state.commit,
            Layers::Owned(_, _, commit) => *commit,
        }
    }

    /// Tells the keeper of an error of the disk, unless this looks at a database of the past.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let is_past = self
            .severed
            .as_ref()
            .is_some_and(|severed| severed.load(Ordering::SeqCst));
        if is_past { result } else { self.index.noting(result) }
    }

    /// Newest first.
    fn layers(&self) -> [Option<&Overlay>; 2] {
        match &self.layers {
            Layers::Shared(state) => [Some(&state.recent), state.frozen.as_deref()],
            Layers::Owned(recent, frozen, _) => [Some(recent), frozen.as_deref()],
        }
    }

    fn row_under(&self, batch: Option<&Overlay>, name: &RowName) -> Result<Value, StoreError> {
        for layer in [batch].into_iter().chain(self.layers()).flatten() {
            if let Some(value) = layer.get(name) {
                return Ok(value.clone());
            }
        }
        let Some(table) = &self.table else { return Ok(None) };
        let stored = name.stored();
        let found = self.noting(table.get(&stored[..]).map_err(StoreError::from))?;
        found
            .map(|sealed| self.vault.open_row(&stored, sealed.value()))
            .transpose()
    }

    fn rows_under(
        &self,
        batch: Option<&Overlay>,
        (first, last): (RowName, RowName),
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        use std::ops::{Bound, ControlFlow};
        let layers = [batch].into_iter().chain(self.layers()).flatten();
        let mut layers: Vec<_> = layers
            .map(|layer| layer.range(first, Bound::Included(last)).peekable())
            .collect();
        let (low, high) = (first.stored(), last.stored());
        let table = self.table.as_ref();
        let mut stored = match table
            .map(|table| table.range::<&[u8]>(&low[..]..=&high[..]))
            .transpose()
        {
            Ok(rows) => rows,
            Err(error) => return self.noting(Err(error.into())),
        };
        let mut next = || -> Result<_, StoreError> {
            let Some(row) = stored.as_mut().and_then(|rows| rows.next()) else {
                return Ok(None);
            };
            let (key, value) = self.noting(row.map_err(StoreError::from))?;
            let name = RowName::from_stored(key.value()).ok_or(StoreError::Corrupt)?;
            Ok(Some((name, value)))
        };
        let mut below = next()?;
        loop {
            let named = layers.iter_mut().filter_map(|rows| rows.peek().map(|(name, _)| **name));
            let Some(name) = named.chain(below.as_ref().map(|(name, _)| *name)).min() else {
                return Ok(());
            };
            let mut newest = None;
            for rows in &mut layers {
                if let Some((_, value)) = rows.next_if(|(other, _)| **other == name) {
                    newest = newest.or(Some(value));
                }
            }
            let under = match &below {
                Some((other, _)) if *other == name => std::mem::replace(&mut below, next()?),
                _ => None,
            };
            let flow = match (newest, under) {
                (Some(None), _) | (None, None) => ControlFlow::Continue(()),
                (Some(Some(plain)), _) => visit(&name, plain)?,
                (None, Some((_, sealed))) => visit(&name, &self.vault.open_row(&name.stored(), sealed.value())?)?,
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }

    fn last_under(
        &self,
        batch: Option<&Overlay>,
        (first, last): (RowName, RowName),
    ) -> Result<Option<RowName>, StoreError> {
        use std::ops::Bound;
        let low = first.stored();
        let mut end = Bound::Included(last);
        loop {
            let layers = [batch].into_iter().chain(self.layers()).flatten();
            let above = layers.filter_map(|layer| layer.range(first, end).next_back().map(|(name, _)| *name));
            let high = match &end {
                Bound::Included(name) | Bound::Excluded(name) => name.stored(),
                Bound::Unbounded => return Err(StoreError::Corrupt),
            };
            let below = match &self.table {
                None => None,
                Some(table) => {
                    let bounds = match end {
                        Bound::Excluded(_) => (Bound::Included(&low[..]), Bound::Excluded(&high[..])),
                        _ => (Bound::Included(&low[..]), Bound::Included(&high[..])),
                    };
                    let row = table.range::<&[u8]>(bounds).map(|mut rows| rows.next_back());
                    let row = row.map_err(StoreError::from);
                    let row = self.noting(row.and_then(|row| Ok(row.transpose()?)))?;
                    row.map(|(key, _)| RowName::from_stored(key.value()).ok_or(StoreError::Corrupt))
                        .transpose()?
                }
            };
            let Some(name) = above.chain(below).max() else {
                return Ok(None);
            };
            if self.row_under(batch, &name)?.is_some() {
                return Ok(Some(name));
            }
            if name == first {
                return Ok(None);
            }
            end = Bound::Excluded(name);
        }
    }
}

impl Source for View<'_> {
    fn row(&self, name: &RowName) -> Result<Value, StoreError> {
        self.row_under(None, name)
    }

    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.rows_under(None, (first, last), visit)
    }

    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError> {
        self.last_under(None, (first, last))
    }
}

/// The batch under way: rows changed in memory, over the last commit.
pub struct Write<'i> {
    view: View<'i>,
    batch: RefCell<Overlay>,
}

impl Write<'_> {
    pub(crate) fn set(&self, name: RowName, value: Value) {
        self.batch.borrow_mut().set(name, value);
    }

    /// Whether nothing was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.borrow().is_empty()
    }

    /// What was changed. The view ends: commits no longer wait for it.
    pub(crate) fn into_rows(self) -> Overlay {
        self.batch.into_inner()
    }
}

impl Source for Write<'_> {
    fn row(&self, name: &RowName) -> Result<Value, StoreError> {
        self.view.row_under(Some(&self.batch.borrow()), name)
    }

    fn rows(&self, first: RowName, last: RowName, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.view.rows_under(Some(&self.batch.borrow()), (first, last), visit)
    }

    fn last(&self, first: RowName, last: RowName) -> Result<Option<RowName>, StoreError> {
        self.view.last_under(Some(&self.batch.borrow()), (first, last))
    }
}

/// Makes an empty database beside its place and moves it there whole: redb does not open what a crash left of its own
/// beginning.
fn create(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().ok_or(StoreError::Invalid)?;
    let fresh = path.with_extension("new");
    match disk.open(path, false) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    match disk.remove(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {
            let open = open(disk, &fresh)?;
            let write = open.database.begin_write()?;
            write_about(&write, &Mark::default())?;
            write.commit()?;
        }
    }
    disk.open(&fresh, false)?.sync()?;
    disk.rename(&fresh, path)?;
    Ok(disk.sync_dir(folder)?)
}

fn open(disk: &dyn Disk, path: &Path) -> Result<Open, StoreError> {
    let severed = Arc::new(AtomicBool::new(false));
    let backend = Backend {
        file: disk.open(path, true)?,
        severed: Arc::clone(&severed),
    };
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)?;
    Ok(Open { database, severed })
}

struct Backend {
    file: Box<dyn DiskFile>,
    severed: Arc<AtomicBool>,
}

impl Backend {
    fn file(&self) -> io::Result<&dyn DiskFile> {
        if self.severed.load(Ordering::SeqCst) {
            return Err(io::Error::other("this database has been replaced"));
        }
        Ok(&*self.file)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file()?.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file()?.write_at(offset, data)
    }
}

#[cfg(test)]
mod tests;
