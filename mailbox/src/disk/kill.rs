//! A disk that kills its own process at a named operation: crash tests of whole programs.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Disk, DiskFile, LockGuard};

/// Where to kill: `FILE.OPERATION:COUNT:before|after|torn`, as in `slots.sync:2:after`.
///
/// `FILE` is the file's name up to its first `.` or `-`: `segment`, `index`, `slots`, `slab`, `epochs`, `key`.
/// `OPERATION` is `write`, `sync` or `grow`. `COUNT` counts from 1. `torn` (writes only) lets half of the bytes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillPoint {
    operation: String,
    count: u64,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
    Torn,
}

/// The text is no kill point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kill point reads FILE.OPERATION:COUNT:before|after|torn")]
pub struct KillPointInvalid;

impl FromStr for KillPoint {
    type Err = KillPointInvalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let (Some(operation), Some(count), Some(when), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(KillPointInvalid);
        };
        let when = match when {
            "before" => When::Before,
            "after" => When::After,
            "torn" if operation.ends_with(".write") => When::Torn,
            _ => return Err(KillPointInvalid),
        };
        let count = count.parse().ok().filter(|count| *count > 0).ok_or(KillPointInvalid)?;
        match operation.split_once('.') {
            Some((file, "write" | "sync" | "grow")) if !file.is_empty() => {}
            _ => return Err(KillPointInvalid),
        }
        Ok(Self {
            operation: operation.to_owned(),
            count,
            when,
        })
    }
}

/// Passes everything to `D`, and kills the process when the point is reached.
pub struct KillDisk<D> {
    inner: D,
    trigger: Arc<Trigger>,
}

impl<D: Disk> KillDisk<D> {
    /// Wraps a disk.
    pub fn new(inner: D, point: KillPoint) -> Self {
        Self {
            inner,
            trigger: Arc::new(Trigger {
                point,
                seen: AtomicU64::new(0),
                kill: kill_self,
            }),
        }
    }
}

impl<D: Disk> Disk for KillDisk<D> {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.split(['.', '-']).next().unwrap_or_default().to_owned();
        Ok(Box::new(KillFile {
            inner: self.inner.open(path, create)?,
            stem,
            trigger: Arc::clone(&self.trigger),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(folder)
    }

    fn entries(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.entries(folder)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.inner.sync_dir(folder)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.inner.free_bytes(folder)
    }

    fn caveat(&self, folder: &Path) -> Option<String> {
        self.inner.caveat(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.inner.lock(path)
    }
}

struct KillFile {
    inner: Box<dyn DiskFile>,
    stem: String,
    trigger: Arc<Trigger>,
}

impl KillFile {
    fn around<T>(&self, operation: &str, torn: impl FnOnce(), whole: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let hit = self.trigger.hit(&self.stem, operation);
        match hit {
            Some(When::Before) => (self.trigger.kill)(),
            Some(When::Torn) => {
                torn();
                (self.trigger.kill)();
            }
            _ => {}
        }
        let result = whole();
        if hit == Some(When::After) {
            (self.trigger.kill)();
        }
        result
    }
}

impl DiskFile for KillFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let torn = || {
            // The process dies next: a failed half is as good as a written one.
            let _ = self.inner.write_at(offset, &bytes[..bytes.len() / 2]);
        };
        self.around("write", torn, || self.inner.write_at(offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.around("sync", || {}, || self.inner.sync())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.around("grow", || {}, || self.inner.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.around("grow", || {}, || self.inner.allocate(len))
    }
}

struct Trigger {
    point: KillPoint,
    seen: AtomicU64,
    kill: fn(),
}

impl Trigger {
    fn hit(&self, stem: &str, operation: &str) -> Option<When> {
        if self.point.operation.split_once('.') != Some((stem, operation)) {
            return None;
        }
        let nth = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        (nth == self.point.count).then_some(self.point.when)
    }
}

/// SIGKILL, so that nothing is flushed, dropped or wiped on the way out.
fn kill_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn a_kill_point_names_file_operation_count_and_side() {
        assert!("slots.sync:2:after".parse::<KillPoint>().is_ok());
        assert!("index.write:1:torn".parse::<KillPoint>().is_ok());
        for bad in [
            "",
            "slots.sync",
            "slots.sync:0:after",
            "slots.sync:1:torn",
            "slots.fly:1:after",
            ".sync:1:before",
        ] {
            assert_eq!(bad.parse::<KillPoint>(), Err(KillPointInvalid), "{bad}");
        }
    }

    #[test]
    fn the_counted_operation_and_no_other_is_hit() {
        static KILLS: AtomicU64 = AtomicU64::new(0);
        let point = "slots.write:2:after".parse().expect("a kill point");
        let trigger = Trigger {
            point,
            seen: AtomicU64::new(0),
            kill: || {
                KILLS.fetch_add(1, Ordering::SeqCst);
            },
        };
        let disk = KillDisk {
            inner: MemoryDisk::new(),
            trigger: Arc::new(trigger),
        };
        disk.create_dir_all(Path::new("/d")).expect("made");
        let file = disk.open(Path::new("/d/slots"), true).expect("opened");
        let other = disk.open(Path::new("/d/slab"), true).expect("opened");
        let kills = || KILLS.load(Ordering::SeqCst);
        file.write_at(0, b"one").expect("written");
        other.write_at(0, b"other").expect("written");
        file.sync().expect("synced");
        assert_eq!(kills(), 0);
        file.write_at(0, b"two").expect("written");
        assert_eq!(kills(), 1);
        file.write_at(0, b"three").expect("written");
        assert_eq!(kills(), 1);
    }
}
