//! A disk in memory that loses what was not synced.
//!
//! Unsynced writes survive a power cut sector by sector, at the seed's whim; names and lengths are durable at once, or,
//! on a [`MemoryDisk::forgetful`] disk, once they are synced. Pages of zeros take no memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, LockGuard};
use crate::entropy::mix;

const SECTOR: usize = 512;
const PAGE: usize = 4_096;

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
    /// What to undo if the power goes before the folder is synced, in order. Used on a forgetful disk only.
    unsynced_names: Vec<NameChange>,
    is_forgetful: bool,
    /// Syncs do nothing.
    is_lying: bool,
    /// Counts restarts; files opened before the last one are dead.
    boot: u64,
    /// Mutating operations until the power goes; `None` is never.
    fuse: Option<u64>,
    /// Mutating operations until one of them fails with an I/O error.
    flaw: Option<u64>,
    off: bool,
    read_only: bool,
    operations: u64,
    free: Option<u64>,
}

/// A change of names, with what it takes to undo it.
enum NameChange {
    Made(PathBuf),
    Removed(PathBuf, Image),
    Renamed {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<Image>,
    },
}

#[derive(Default, Clone)]
struct Image {
    len: u64,
    /// Length after a power cut, on a forgetful disk.
    synced_len: u64,
    /// A page that is missing is zeros.
    pages: BTreeMap<u64, Page>,
    /// Pages that were written since the last sync.
    dirty: BTreeSet<u64>,
}

#[derive(Clone)]
struct Page {
    seen: Box<[u8; PAGE]>,
    /// What survives for certain, where it differs, and the sectors written since, a bit each.
    synced: Option<Box<[u8; PAGE]>>,
    dirty: u8,
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
            for at in std::mem::take(&mut image.dirty) {
                if let Some(page) = image.pages.get_mut(&at) {
                    page.lose(&mut draw, by_page);
                }
            }
            if is_forgetful && image.synced_len < image.len && draw() & 1 == 0 {
                image.cut(image.synced_len);
            }
            image.synced_len = image.len;
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
            sum = mix(sum ^ image.len);
            for (at, page) in image.pages.iter().filter(|(_, page)| page.seen[..] != [0; PAGE]) {
                sum = fold(mix(sum ^ at), &page.seen[..]);
            }
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

/// Goes on with a sum over more bytes.
fn fold(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(sum, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word))
    })
}

impl Page {
    fn zeros() -> Self {
        Self {
            seen: Box::new([0; PAGE]),
            synced: None,
            dirty: 0,
        }
    }

    fn write(&mut self, start: usize, bytes: &[u8]) {
        if self.synced.is_none() {
            self.synced = Some(self.seen.clone());
        }
        self.seen[start..start + bytes.len()].copy_from_slice(bytes);
        for sector in start / SECTOR..(start + bytes.len()).div_ceil(SECTOR) {
            self.dirty |= 1 << sector;
        }
    }

    fn sync(&mut self) {
        (self.synced, self.dirty) = (None, 0);
    }

    /// What a power cut leaves.
    fn lose(&mut self, draw: &mut impl FnMut() -> u64, by_page: bool) {
        let Some(synced) = self.synced.take() else { return };
        let dirty = std::mem::take(&mut self.dirty);
        let page_is_kept = by_page && draw() & 1 == 0;
        for sector in (0..PAGE / SECTOR).filter(|sector| dirty >> sector & 1 == 1) {
            let is_kept = if by_page { page_is_kept } else { draw() & 1 == 0 };
            if !is_kept {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                self.seen[range.clone()].copy_from_slice(&synced[range]);
            }
        }
    }
}

/// The pages that a range of bytes touches: number, first byte in the page, first byte in the range, length.
fn pages(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let step = (PAGE - within).min(length - done);
        let part = (at / PAGE as u64, within, done, step);
        done += step;
        (step > 0).then_some(part)
    })
}

impl Image {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, within, from, step) in pages(offset, out.len()) {
            let part = &mut out[from..from + step];
            match self.pages.get(&at) {
                Some(page) => part.copy_from_slice(&page.seen[within..within + step]),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, within, from, step) in pages(offset, bytes.len()) {
            let part = &bytes[from..from + step];
            if !self.pages.contains_key(&at) && part.iter().all(|byte| *byte == 0) {
                continue;
            }
            self.pages.entry(at).or_insert_with(Page::zeros).write(within, part);
            self.dirty.insert(at);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn sync(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            if let Some(page) = self.pages.get_mut(&at) {
                page.sync();
            }
        }
        self.synced_len = self.len;
    }

    /// Shortens the file; what is cut off reads as zeros if it grows again.
    fn cut(&mut self, len: u64) {
        self.len = len;
        self.synced_len = self.synced_len.min(len);
        let kept = len.div_ceil(PAGE as u64);
        drop(self.pages.split_off(&kept));
        drop(self.dirty.split_off(&kept));
        if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
            let within = (len % PAGE as u64) as usize;
            page.seen[within..].fill(0);
            if let Some(synced) = &mut page.synced {
                synced[within..].fill(0);
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.read(0, &mut bytes).expect("it is as long as the file");
        bytes
    }

    /// A copy that is wholly durable.
    fn settled(&self) -> Self {
        let mut copy = self.clone();
        copy.sync();
        copy
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
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if count_down(&mut self.flaw) {
            Err(io::Error::other("injected failure"))
        } else {
            Ok(())
        }
    }

    fn image(&mut self, path: &Path) -> io::Result<&mut Image> {
        self.files.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes sure that a file can be `len` bytes long.
    fn make_room(&mut self, path: &Path, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.image(path)?.len);
        match &mut self.free {
            Some(free) if more > *free => Err(io::ErrorKind::StorageFull.into()),
            Some(free) => {
                *free -= more;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn note_name(&mut self, change: NameChange) {
        if self.is_forgetful {
            self.unsynced_names.push(change);
        }
    }

    fn undo_name(&mut self) {
        match self.unsynced_names.pop() {
            Some(NameChange::Made(path)) => {
                self.files.remove(&path);
            }
            Some(NameChange::Removed(path, image)) => {
                self.files.insert(path, image);
            }
            Some(NameChange::Renamed { from, to, replaced }) => {
                if let Some(image) = self.files.remove(&to) {
                    self.files.insert(from, image);
                }
                if let Some(image) = replaced {
                    self.files.insert(to, image);
                }
            }
            None => {}
        }
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
        let boot = state.boot;
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
        let boot = state.boot;
        state.mutate(boot)?;
        let image = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(free) = &mut state.free {
            *free += image.len;
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

    fn sync_dir(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let boot = state.boot;
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
        Ok(state.image(&self.path)?.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.mutate(self.boot)?;
        state.make_room(&self.path, len)?;
        let image = state.image(&self.path)?;
        if len < image.len {
            image.cut(len);
        } else {
            image.len = len;
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

    #[test]
    fn a_forgetful_disk_loses_names_and_lengths_until_they_are_synced() {
        let (mut named, mut grown) = (0, 0);
        for seed in 0..64 {
            let disk = MemoryDisk::forgetful();
            let open = file(&disk);
            disk.sync_dir(Path::new("/d")).expect("synced");
            open.write_at(0, &[1; 512]).expect("written");
            open.sync().expect("synced");
            open.write_at(512, &[2; 512]).expect("written");
            disk.rename(Path::new("/d/f"), Path::new("/d/g")).expect("renamed");
            disk.crash(seed);
            let files = disk.files();
            assert_eq!(files.len(), 1, "a rename has one outcome or the other");
            assert_eq!(files[0].1[..512], [1; 512]);
            named += u32::from(files[0].0 == Path::new("/d/g"));
            grown += u32::from(files[0].1.len() == 1_024);
        }
        assert!((8..56).contains(&named) && (8..56).contains(&grown), "{named}, {grown}");
    }

    #[test]
    fn what_is_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let disk = MemoryDisk::new();
        let open = file(&disk);
        open.write_at(0, &[7; 10_000]).expect("written");
        open.set_len(5_000).expect("cut");
        open.set_len(10_000).expect("grown");
        let mut out = [1; 10_000];
        open.read_at(0, &mut out).expect("read");
        assert!(out[..5_000] == [7; 5_000] && out[5_000..] == [0; 5_000]);
        assert!(open.read_at(1, &mut out).is_err(), "it ends where it ends");
    }

    #[test]
    fn a_full_disk_takes_no_more_until_something_is_removed() {
        let disk = MemoryDisk::new();
        let open = file(&disk);
        open.write_at(0, &[7; 600]).expect("written");
        disk.set_free_bytes(Some(100));
        assert!(open.write_at(600, &[7; 101]).is_err());
        open.write_at(600, &[7; 100]).expect("the last of it");
        disk.remove(Path::new("/d/f")).expect("removed");
        assert_eq!(disk.free_bytes(Path::new("/d")).expect("counted"), 700);
    }
}
