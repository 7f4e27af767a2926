//! What a disk holds besides the bytes of its files: names, power, and the failures that are to come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::image::Image;

/// The whole disk.
#[derive(Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<PathBuf, Image>,
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) locked: BTreeSet<PathBuf>,
    /// What to undo if the power goes before the folder is synced, in order. Used on a forgetful disk only.
    pub(super) unsynced_names: Vec<NameChange>,
    pub(super) is_forgetful: bool,
    /// Syncs do nothing.
    pub(super) is_lying: bool,
    /// Counts restarts; files opened before the last one are dead.
    pub(super) boot: u64,
    /// Mutating operations until the power goes; `None` is never.
    pub(super) fuse: Option<u64>,
    /// Mutating operations until one of them fails with an I/O error.
    pub(super) flaw: Option<u64>,
    /// Whether all that follow it fail too.
    pub(super) flaw_stays: bool,
    pub(super) off: bool,
    pub(super) read_only: bool,
    pub(super) operations: u64,
    pub(super) free: Option<u64>,
}

/// A change of names, with what it takes to undo it.
pub(super) enum NameChange {
    Made(PathBuf),
    Removed(PathBuf, Image),
    Renamed {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<Image>,
    },
}

impl State {
    pub(super) fn alive(&self, boot: u64) -> io::Result<()> {
        if self.off || self.boot != boot {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    /// Counts a mutating operation of a process of this boot, and lets it happen or fail.
    pub(super) fn mutate(&mut self, boot: u64) -> io::Result<()> {
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
            self.read_only |= std::mem::take(&mut self.flaw_stays);
            Err(io::Error::other("injected failure"))
        } else {
            Ok(())
        }
    }

    pub(super) fn image(&mut self, path: &Path) -> io::Result<&mut Image> {
        self.files.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes off what is free the room that a file of `len` bytes needs more, or fails.
    pub(super) fn make_room(&mut self, path: &Path, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.image(path)?.len());
        match &mut self.free {
            Some(free) if more > *free => Err(io::ErrorKind::StorageFull.into()),
            Some(free) => {
                *free -= more;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn note_name(&mut self, change: NameChange) {
        if self.is_forgetful {
            self.unsynced_names.push(change);
        }
    }

    pub(super) fn undo_name(&mut self) {
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
