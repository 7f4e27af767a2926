//! redb as the index of a store, over the disk trait.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

use crate::StoreError;
use crate::disk::{Disk, DiskFile};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const COMMIT: &str = "commit";
/// Pages kept in memory, in bytes: a relay of the size meant here reads its index from it.
const CACHE_BYTES: usize = 16 << 20;

/// The index of one store. Readers and the committer share it; after an I/O error it is opened anew in place.
pub struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    /// Cuts this database off from the file, so that one that failed cannot write behind the back of its successor.
    severed: Arc<AtomicBool>,
}

impl Index {
    /// Opens or makes the index.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, StoreError> {
        create(&*disk, path)?;
        let open = open(&*disk, path)?;
        Ok(Self {
            disk,
            path: path.to_owned(),
            open: RwLock::new(Some(open)),
        })
    }

    /// Runs a short read at the state of the last commit.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = guard.as_ref().ok_or(StoreError::Unavailable)?;
        read(&open.database.begin_read()?)
    }

    /// Begins the one write. It must be committed by [`Self::commit`] or dropped.
    pub(crate) fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = guard.as_ref().ok_or(StoreError::Unavailable)?;
        let mut write = open.database.begin_write()?;
        // Implies two phases: the primary slot is valid without a look at checksums, and a crash costs no full walk.
        write.set_quick_repair(true);
        Ok(write)
    }

    /// Counts the commit and makes it durable. Returns its number. An error leaves the outcome open.
    pub(crate) fn commit(write: WriteTransaction) -> Result<u64, StoreError> {
        let number = {
            let mut meta = write.open_table(META)?;
            let number = meta.get(COMMIT)?.map_or(0, |number| number.value()) + 1;
            meta.insert(COMMIT, number)?;
            number
        };
        write.commit()?;
        Ok(number)
    }

    /// Number of the last commit; 0 before the first.
    pub fn commit_number(&self) -> Result<u64, StoreError> {
        self.read(|read| match read.open_table(META) {
            Ok(meta) => Ok(meta.get(COMMIT)?.map_or(0, |number| number.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        })
    }

    /// Closes the database and opens it again: the only way on after an I/O error, and the way to learn the outcome
    /// of a commit. Waits for readers.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut guard = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = guard.take() {
            open.severed.store(true, Ordering::SeqCst);
        }
        *guard = Some(open(&*self.disk, &self.path)?);
        Ok(())
    }

    /// Closes the database; reads and writes are refused from now on.
    pub(crate) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Makes an empty index beside its place and moves it there whole: redb does not open what a crash left of its own
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
        _ => drop(open(disk, &fresh)?),
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
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("table");

    fn index(disk: &MemoryDisk) -> Index {
        disk.create_dir_all(Path::new("/i")).expect("made");
        Index::open(Arc::new(disk.clone()), Path::new("/i/index.redb")).expect("opened")
    }

    fn put(index: &Index, key: u64) -> Result<u64, StoreError> {
        let write = index.begin()?;
        write.open_table(TABLE)?.insert(key, &key.to_le_bytes()[..])?;
        Index::commit(write)
    }

    fn keys(index: &Index) -> Vec<u64> {
        let read = index.read(|read| {
            let table = read.open_table(TABLE)?;
            let keys = table.range::<u64>(..)?.map(|row| Ok(row?.0.value()));
            keys.collect::<Result<Vec<_>, StoreError>>()
        });
        read.expect("readable")
    }

    #[test]
    fn commits_are_counted_and_survive() {
        let disk = MemoryDisk::new();
        let first = index(&disk);
        assert_eq!(first.commit_number(), Ok(0));
        assert_eq!((put(&first, 7), put(&first, 8)), (Ok(1), Ok(2)));
        disk.crash(5);
        drop(first);
        let again = index(&disk);
        assert_eq!((again.commit_number(), keys(&again)), (Ok(2), vec![7, 8]));
    }

    #[test]
    fn an_index_whose_making_was_cut_short_is_made_again() {
        for (operation, seed) in (0..40).flat_map(|operation| (0..4).map(move |seed| (operation, seed))) {
            let disk = MemoryDisk::new();
            disk.create_dir_all(Path::new("/i")).expect("made");
            disk.power_off_after(operation);
            drop(Index::open(Arc::new(disk.clone()), Path::new("/i/index.redb")));
            disk.crash(seed);
            assert_eq!(put(&index(&disk), 1), Ok(1), "operation {operation}");
        }
    }

    #[test]
    fn wherever_the_disk_fails_a_reopened_index_has_all_or_nothing_of_the_commit() {
        for nth in 0..12 {
            let disk = MemoryDisk::new();
            let index = index(&disk);
            put(&index, 1).expect("committed");
            disk.fail_nth(nth);
            let outcome = put(&index, 2);
            index
                .reopen()
                .or_else(|_| index.reopen())
                .expect("the failure was a single one");
            let number = index.commit_number().expect("readable");
            assert_eq!(keys(&index).len() as u64, number);
            assert!(outcome.is_err() || number == 2);
            assert_eq!(put(&index, 3), Ok(number + 1));
        }
    }
}
