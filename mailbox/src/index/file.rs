//! The file of the index: redb over the disk trait.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, Database, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::log::Mark;
use crate::vault;

/// Rows under table number and key.
pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// What is known of the whole: [`MARK`] and [`FORMAT`].
pub(super) const ABOUT: TableDefinition<&str, &[u8]> = TableDefinition::new("about");
/// [`Mark`], in postcard.
const MARK: &str = "mark";
/// Number of the layout of all files, as 4 bytes.
pub(super) const FORMAT: &str = "format";
/// Layout that this code reads and writes. 1: rows committed to redb, bodies in segments without a log.
pub const FORMAT_NUMBER: u32 = 2;
/// Pages kept in memory, in bytes: a relay of the size meant here reads its index from it.
const CACHE_BYTES: usize = 16 << 20;

/// A database that is open.
pub(super) struct Open {
    pub(super) database: Database,
    /// Cuts this database off from the file, so that one that failed cannot write behind the back of its successor.
    pub(super) severed: Arc<AtomicBool>,
}

impl Open {
    pub(super) fn mark(&self) -> Result<Mark, StoreError> {
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

pub(super) fn write_about(write: &redb::WriteTransaction, mark: &Mark) -> Result<(), StoreError> {
    let mut about = write.open_table(ABOUT)?;
    about.insert(FORMAT, &FORMAT_NUMBER.to_le_bytes()[..])?;
    about.insert(MARK, &vault::encode(mark)[..])?;
    Ok(())
}

/// Makes an empty database beside its place and moves it there whole: redb does not open what a crash left of its own
/// beginning.
pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
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

pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Open, StoreError> {
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
