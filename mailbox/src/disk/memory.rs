//! A disk in memory that loses what was not synced.
//!
//! Unsynced writes survive a power cut sector by sector, at the seed's whim; names and lengths are durable at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, LockGuard};
use crate::entropy::mix;

const SECTOR: usize = 512;

/// See the module. Clones share the same bytes.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Image>,
    folders: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// Counts restarts; files opened before the last one are dead.
    boot: u64,
    /// Mutating operations until the power goes; `None` is never.
    fuse: Option<u64>,
    /// Mutating operations until one of them fails with an I/O error.
    flaw: Option<u64>,
    off: bool,
    operations: u64,
    free: Option<u64>,
}

#[derive(Default)]
struct Image {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What survives for certain.
    durable: Vec<u8>,
    /// Sectors that differ at most since the last sync.
    dirty: BTreeSet<usize>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
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

    /// Mutating operations so far: writes, syncs, growth.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// What [`Disk::free_bytes`] answers; `None` is plenty.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.state().free = free;
    }

    /// Switches the power on again. Each unsynced sector is kept or lost as a generator seeded with `seed` says.
    pub fn restart(&self, seed: u64) {
        let mut state = self.state();
        let mut random = seed;
        for image in state.files.values_mut() {
            image.durable.resize(image.seen.len(), 0);
            for sector in std::mem::take(&mut image.dirty) {
                random = mix(random.wrapping_add(0x9E37_79B9_7F4A_7C15));
                if random & 1 == 0 {
                    copy_sector(sector, &image.seen, &mut image.durable);
                }
            }
            image.seen.clone_from(&image.durable);
        }
        state.boot += 1;
        state.locked.clear();
        (state.off, state.fuse, state.flaw) = (false, None, None);
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
            .map(|(path, image)| (path.clone(), image.seen.clone()))
            .collect()
    }

    /// A copy that shares nothing: a backup, as an operator might take and restore it.
    pub fn snapshot(&self) -> MemoryDisk {
        let state = self.state();
        let image = |image: &Image| Image {
            seen: image.seen.clone(),
            durable: image.seen.clone(),
            dirty: BTreeSet::new(),
        };
        let files = state
            .files
            .iter()
            .map(|(path, file)| (path.clone(), image(file)))
            .collect();
        let copy = State {
            files,
            folders: state.folders.clone(),
            ..State::default()
        };
        MemoryDisk {
            state: Arc::new(Mutex::new(copy)),
        }
    }

    /// Replaces one file by the one of another disk: a partial restore.
    pub fn restore_file(&self, from: &MemoryDisk, path: &Path) {
        let bytes = from
            .state()
            .files
            .get(path)
            .map(|image| image.seen.clone())
            .unwrap_or_default();
        let image = Image {
            seen: bytes.clone(),
            durable: bytes,
            dirty: BTreeSet::new(),
        };
        self.state().files.insert(path.to_owned(), image);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

impl State {
    fn alive(&self, boot: u64) -> io::Result<()> {
        if self.off || self.boot != boot {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    fn mutate(&mut self, boot: u64) -> io::Result<()> {
        self.alive(boot)?;
        if count_down(&mut self.fuse) {
            self.off = true;
            return self.alive(boot);
        }
        self.operations += 1;
        if count_down(&mut self.flaw) {
            Err(io::Error::other("injected failure"))
        } else {
            Ok(())
        }
    }

    fn image(&mut self, path: &Path) -> io::Result<&mut Image> {
        self.files.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Whether the counter ran out with this operation.
fn count_down(counter: &mut Option<u64>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn copy_sector(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let boot = state.boot;
        state.alive(boot)?;
        if !state.files.contains_key(path) {
            if !create || !path.parent().is_some_and(|folder| state.folders.contains(folder)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.files.insert(path.to_owned(), Image::default());
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
        let boot = state.boot;
        state.mutate(boot)?;
        let image = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), image);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = state.boot;
        state.mutate(boot)?;
        state
            .files
            .remove(path)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
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

    fn sync_dir(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = state.boot;
        state.mutate(boot)
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.state().free.unwrap_or(1 << 40))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.state();
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_owned(),
            boot: state.boot,
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
        let image = state.image(&self.path)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(image.seen.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        let image = state.image(&self.path)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        if image.seen.len() < end {
            image.seen.resize(end, 0);
        }
        image.seen[start..end].copy_from_slice(bytes);
        image.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        let image = state.image(&self.path)?;
        image.durable.resize(image.seen.len(), 0);
        for sector in std::mem::take(&mut image.dirty) {
            copy_sector(sector, &image.seen, &mut image.durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive(self.boot)?;
        Ok(state.image(&self.path)?.seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let image = state.image(&self.path)?;
        image.seen.resize(len, 0);
        image.durable.resize(len, 0);
        image.dirty.retain(|sector| sector * SECTOR < len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &MemoryDisk) -> Box<dyn DiskFile> {
        disk.create_dir_all(Path::new("/d")).expect("made");
        disk.open(Path::new("/d/f"), true).expect("opened")
    }

    #[test]
    fn synced_bytes_survive_and_unsynced_sectors_may_not() {
        let mut kept = 0;
        for seed in 0..64 {
            let disk = MemoryDisk::new();
            let open = file(&disk);
            open.write_at(0, &[1; 512]).expect("written");
            open.sync().expect("synced");
            open.write_at(512, &[2; 512]).expect("written");
            disk.crash(seed);
            assert!(open.len().is_err(), "a file opened before the crash is dead");
            let mut out = [0; 1024];
            file(&disk).read_at(0, &mut out).expect("read");
            assert_eq!(out[..512], [1; 512]);
            kept += u32::from(out[512]) / 2;
        }
        assert!((8..56).contains(&kept), "{kept} of 64");
    }

    #[test]
    fn the_power_goes_at_the_operation_named() {
        let disk = MemoryDisk::new();
        let open = file(&disk);
        disk.power_off_after(1);
        open.write_at(0, b"x").expect("the first works");
        assert!(open.sync().is_err() && disk.is_off());
        disk.restart(0);
        file(&disk).sync().expect("works again");
    }

    #[test]
    fn an_injected_failure_happens_once() {
        let disk = MemoryDisk::new();
        let open = file(&disk);
        disk.fail_nth(0);
        assert!(open.sync().is_err());
        assert!(open.sync().is_ok());
    }
}
