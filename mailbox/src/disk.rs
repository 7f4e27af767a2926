//! The disk as the stores see it: a handful of methods under all files, redb's included.
//!
//! Tests replace it: [`MemoryDisk`] loses what was not synced, [`KillDisk`] kills the process at a named operation.

use std::io;
use std::path::{Path, PathBuf};

mod kill;
mod memory;
mod mounts;
mod system;

pub use kill::{KillDisk, KillPoint, KillPointInvalid};
pub use memory::MemoryDisk;
pub use system::SystemDisk;

/// Free space that is never used up for mail, in bytes: what the index, slots and slab need to go on.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// A folder tree that survives power cuts as far as it was synced.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing. `create` makes an empty one, readable by the owner alone, if there is none.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a folder, readable by the owner alone, and those above it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, replacing what was there. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Paths of the files in a folder, in no order.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Paths of all that is in a folder, of whatever kind, in no order.
    fn entries(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// Bytes that can still be written below this folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// What is to be said of the file system of a folder, as far as it keeps what was overwritten: a sentence that goes on from
    /// the folder's name.
    fn caveat(&self, folder: &Path) -> Option<String> {
        let _ = folder;
        None
    }

    /// Takes a lock file for this process until the guard is dropped; `WouldBlock` if another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
}

/// A held lock file.
pub trait LockGuard: Send + Sync {}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Fills `out` from `offset`; `UnexpectedEof` if the file is shorter.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file where needed. Durable after [`DiskFile::sync`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all that was written durable, as `fdatasync` does.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether nothing is in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Grows the file to `len` with zeros that are written out and durable, so that later syncs move no metadata.
    fn allocate(&self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 65_536] = [0; 65_536];
        let mut at = self.len()?;
        while at < len {
            let step = ZEROS.len().min(usize::try_from(len - at).unwrap_or(ZEROS.len()));
            self.write_at(at, &ZEROS[..step])?;
            at += step as u64;
        }
        self.sync()
    }
}
