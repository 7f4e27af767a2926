//! A disk in memory that loses what was not synced.
//!
//! Unsynced writes survive a power cut sector by sector, at the seed's whim; names and lengths are durable at once, or,
//! on a [`MemoryDisk::forgetful`] disk, once they are synced. Pages of zeros take no memory. What a file holds is in
//! `image`, what becomes of an operation when the power goes or the disk fails in `state`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, LockGuard};
use crate::entropy::mix;

mod image;
mod state;
#[cfg(test)]
mod tests;

use image::{Image, fold};
use state::{NameChange, State};

/// See the module. Clones share the same bytes.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// The boot that this view ends with; `None`: it outlives them.
    boot: Option<u64>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk that, when the power goes, forgets new names and lengths too that were not synced.
    pub fn forgetful() -> Self {
        let disk = Self::default();
        disk.state().is_forgetful = true;
        disk
    }

    /// What a process started now sees: nothing any more once the power went, though tasks of it linger in a test.
    pub fn of_this_boot(&self) -> Self {
        let boot = Some(self.state().boot);
        Self {
            state: Arc::clone(&self.state),
            boot,
        }
    }

    /// Cuts the power at the `n`-th mutating operation from now (0: the next one), before it takes effect.
    pub fn power_off_after(&self, n: u64) {
        self.state().fuse = Some(n);
    }

    /// Cuts the power now.
    pub fn power_off(&self) {
        self.state().off = true;
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Lets the `n`-th mutating operation from now (0: the next one) fail; later ones work again.
    pub fn fail_nth(&self, n: u64) {
        self.state().flaw = Some(n);
    }

    /// As [`Self::fail_nth`], but later ones fail too, until [`Self::refuse_writes`] says otherwise.
    pub fn fail_from(&self, n: u64) {
        let mut state = self.state();
        (state.flaw, state.flaw_stays) = (Some(n), true);
    }

    /// Lets every mutating operation fail, as a disk that was remounted read-only does, until told otherwise.
    pub fn refuse_writes(&self, refused: bool) {
        self.state().read_only = refused;
    }

    /// Lets syncs of files succeed without doing anything: whoever judges stores must notice.
    pub fn lie(&self) {
        self.state().is_lying = true;
    }

    /// Forgets a fuse or a failure that has not come yet.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.fuse, state.flaw) = (None, None);
    }

    /// Mutating operations so far: writes, syncs, growth, names.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What [`Disk::free_bytes`] answers; `None` is plenty. A file that needs more than is free does not grow.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.state().free = free;
    }

    /// Switches the power on again. Each unsynced sector is kept or lost as a generator seeded with `seed` says; a
    /// forgetful disk draws too how many of the latest names it forgets, and which files their growth, and whether it
    /// is by sectors of 512 or pages of 4,096 that writes are torn.
    pub fn restart(&self, seed: u64) {
        let mut state = self.state();
        let mut random = seed;
        let mut draw = || {
            random = mix(random.wrapping_add(0x9E37_79B9_7F4A_7C15));
            random
        };
        let by_page = state.is_forgetful && draw() & 1 == 0;
        if state.is_forgetful && !state.unsynced_names.is_empty() {
            let kept = draw() as usize % (state.unsynced_names.len() + 1);
            while state.unsynced_names.len() > kept {
                state.undo_name();
            }
        }
        state.unsynced_names.clear();
        let is_forgetful = state.is_forgetful;
        for image in state.files.values_mut() {
            image.lose(&mut draw, by_page, is_forgetful);
        }
        state.boot += 1;
        state.locked.clear();
        (state.off, state.fuse, state.flaw) = (false, None, None);
    }

    /// Ends the process that has files open here and loses nothing: what it wrote is as synced as it was.
    pub fn reopen(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.locked.clear();
        (state.fuse, state.flaw) = (None, None);
    }

    /// Power off and on again in one step.
    pub fn crash(&self, seed: u64) {
        self.power_off();
        self.restart(seed);
    }

    /// All files with their bytes as seen now: for searches.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.state()
            .files
            .iter()
            .map(|(path, image)| (path.clone(), image.bytes()))
            .collect()
    }

    /// A number that two disks share if, and hardly otherwise, their files have the same names and bytes.
    pub fn fingerprint(&self) -> u64 {
        let state = self.state();
        let mut sum = 0;
        for (path, image) in &state.files {
            sum = fold(sum, path.as_os_str().as_encoded_bytes());
            sum = image.fold_into(sum);
        }
        sum
    }

    /// A copy that shares nothing: a backup, as an operator might take and restore it.
    pub fn snapshot(&self) -> MemoryDisk {
        let state = self.state();
        let files = state
            .files
            .iter()
            .map(|(path, image)| (path.clone(), image.settled()))
            .collect();
        let copy = State {
            files,
            folders: state.folders.clone(),
            is_forgetful: state.is_forgetful,
            ..State::default()
        };
        MemoryDisk {
            state: Arc::new(Mutex::new(copy)),
            boot: None,
        }
    }

    /// Replaces one file by the one of another disk: a partial restore.
    pub fn restore_file(&self, from: &MemoryDisk, path: &Path) {
        let image = from.state().files.get(path).map(Image::settled).unwrap_or_default();
        self.state().files.insert(path.to_owned(), image);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let boot = self.boot.unwrap_or(state.boot);
        state.alive(boot)?;
        if !state.files.contains_key(path) {
            if !create || !path.parent().is_some_and(|folder| state.folders.contains(folder)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.files.insert(path.to_owned(), Image::default());
            state.note_name(NameChange::Made(path.to_owned()));
        }
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            path: path.to_owned(),
            boot,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        for folder in path.ancestors() {
            state.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = self.boot.unwrap_or(state.boot);
        state.mutate(boot)?;
        let image = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let replaced = state.files.insert(to.to_owned(), image);
        state.note_name(NameChange::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
            replaced,
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = self.boot.unwrap_or(state.boot);
        state.mutate(boot)?;
        let image = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(free) = &mut state.free {
            *free += image.len();
        }
        state.note_name(NameChange::Removed(path.to_owned(), image));
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self
            .state()
            .files
            .keys()
            .filter(|path| path.parent() == Some(folder))
            .cloned()
            .collect())
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        let first = |path: &PathBuf| Some(folder.join(path.strip_prefix(folder).ok()?.components().next()?));
        let entries: BTreeSet<PathBuf> = state.files.keys().filter_map(first).collect();
        Ok(entries.into_iter().collect())
    }

    fn sync_dir(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = self.boot.unwrap_or(state.boot);
        state.mutate(boot)?;
        // As on a file system with one journal: what was named before, in whatever folder, is durable now.
        state.unsynced_names.clear();
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.state().free.unwrap_or(1 << 40))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.state();
        let boot = self.boot.unwrap_or(state.boot);
        state.alive(boot)?;
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_owned(),
            boot,
        }))
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
    boot: u64,
}

impl LockGuard for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.boot == self.boot {
            state.locked.remove(&self.path);
        }
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    path: PathBuf,
    boot: u64,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive(self.boot)?;
        state.image(&self.path)?.read(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        state.make_room(&self.path, end)?;
        state.image(&self.path)?.write(offset, bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        if !state.is_lying {
            state.image(&self.path)?.sync();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive(self.boot)?;
        Ok(state.image(&self.path)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        state.make_room(&self.path, len)?;
        let image = state.image(&self.path)?;
        if len < image.len() {
            image.cut(len);
        } else {
            image.grow(len);
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        // A hole reads as zeros, and is as durable as the length.
        if self.len()? < len {
            self.set_len(len)?;
        }
        self.sync()
    }
}
