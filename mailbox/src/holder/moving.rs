//! A store changes its place, to a portable medium or back, so that at no instant two places open.
//!
//! ```text
//! all but the header copied and synced -> old header renamed: nothing opens -> new header written and synced
//! -> old header, slots and slab overwritten, old files removed
//! ```
//!
//! A copy of a store that was used is a second holder of one account: it would seal other plaintexts under the same keys.
//! Hence a move. Both places carry the move's random name, so that one that was cut off goes on to the same place alone.

use std::path::Path;
use std::sync::Arc;

use keypacks::pack::{BLOCK, Header};

use super::create::{HEADER_NAME, header_path};
use super::header::{HEADER, read_block};
use crate::StoreError;
use crate::base::Base;
use crate::disk::{Disk, DiskFile};
use crate::entropy::{Entropy, random};

/// The header of a store on its way: it has lost its name, so nothing opens.
const SHUT: &str = "header.moved";
/// The name of the move, 16 random bytes.
const MOVE: &str = "move";
/// Bytes copied or overwritten at a time.
const STEP: usize = 1 << 20;

/// Why a store did not change its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// Disk or lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to move.
    #[error("the folder to move from holds no store")]
    NoStore,
    /// The place is taken.
    #[error("the folder to move to holds a store already: choose another one")]
    Taken,
    /// A move to another place was cut off.
    #[error("a move of this store was cut off: give the same place again, so that it can go on")]
    CutOff,
}

/// Moves a store with everything in its folder. Done again after a crash it goes on where it was.
///
/// What lay in the old place is overwritten as far as keys go, and removed.
pub fn move_store(disk: &Arc<dyn Disk>, from: &Path, to: &Path, entropy: &dyn Entropy) -> Result<(), MoveError> {
    let is_any = [HEADER_NAME, SHUT, MOVE].map(|name| is_there(&**disk, &from.join(name)));
    if !is_any.into_iter().collect::<Result<Vec<bool>, _>>()?.contains(&true) {
        return Err(MoveError::NoStore);
    }
    let lock = Base::lock(&**disk, from)?;
    let other_lock = Base::lock(&**disk, to)?;
    // Where both names are there, the file system kept both halves of a rename: the old one is what counts.
    let header = match read_file(&**disk, &header_path(from))? {
        Some(header) => {
            begin(&**disk, from, to, entropy)?;
            if let Err(error) = disk.rename(&header_path(from), &from.join(SHUT)) {
                if is_there(&**disk, &header_path(from))? {
                    let _ = take_back(&**disk, to);
                }
                return Err(StoreError::from(error).into());
            }
            disk.sync_dir(from).map_err(StoreError::from)?;
            Some(header)
        }
        None => go_on(&**disk, from, to)?,
    };
    if let Some(header) = header {
        write_file(&**disk, &header_path(to), &header)?;
        disk.sync_dir(to).map_err(StoreError::from)?;
    }
    erase(&**disk, from)?;
    drop((lock, other_lock));
    Ok(())
}

/// Takes up a move that was cut off once the old place was shut. `None`: the new place has its header already.
fn go_on(disk: &dyn Disk, from: &Path, to: &Path) -> Result<Option<Vec<u8>>, MoveError> {
    let name = read_file(disk, &from.join(MOVE))?.ok_or(StoreError::Corrupt)?;
    if read_file(disk, &to.join(MOVE))? != Some(name) {
        return Err(MoveError::CutOff);
    }
    if is_whole(disk, &header_path(to))? {
        return Ok(None);
    }
    let header = read_file(disk, &from.join(SHUT))?.ok_or(StoreError::Corrupt)?;
    copy_all(disk, from, to)?;
    Ok(Some(header))
}

/// Overwrites what opens a store, keys before all else, and removes its files. Whoever calls it has asked twice.
///
/// A store that is in use is refused with [`StoreError::Locked`].
pub fn wipe_store(disk: &Arc<dyn Disk>, folder: &Path) -> Result<(), StoreError> {
    let lock = Base::lock(&**disk, folder)?;
    erase(&**disk, folder)?;
    drop(lock);
    Ok(())
}

/// Names the move at both ends and copies everything but the header, durably.
fn begin(disk: &dyn Disk, from: &Path, to: &Path, entropy: &dyn Entropy) -> Result<(), MoveError> {
    if is_there(disk, &header_path(to))? || is_there(disk, &to.join(SHUT))? {
        return Err(MoveError::Taken);
    }
    // Of another store that did not come whole: its segments would be taken for this one's.
    take_back(disk, to)?;
    let name: [u8; 16] = random(entropy);
    write_file(disk, &from.join(MOVE), &name)?;
    write_file(disk, &to.join(MOVE), &name)?;
    disk.sync_dir(from).map_err(StoreError::from)?;
    copy_all(disk, from, to).map_err(|error| {
        // The store stays where it was, and goes on: no key of it is to lie about. What this cannot do, the next one does.
        let _ = take_back(disk, to);
        error.into()
    })
}

/// Removes what a store has in its folder, keys and pad overwritten, from a place that has no header.
fn take_back(disk: &dyn Disk, to: &Path) -> Result<(), StoreError> {
    for path in disk.list(to)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(name, "slots" | "slab" | "pad" | "header.new") {
            overwrite(&*disk.open(&path, false)?)?;
        } else if !matches!(name, "index.redb" | MOVE) && !name.starts_with("segment-") {
            continue;
        }
        disk.remove(&path)?;
    }
    Ok(disk.sync_dir(to)?)
}

/// Copies all files of a folder but those that are the move's own, and makes them durable.
fn copy_all(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    for path in disk.list(from)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if matches!(name, HEADER_NAME | SHUT | MOVE | "lock" | "control.sock" | "used-keys") {
            continue;
        }
        let (source, target) = (disk.open(&path, false)?, disk.open(&to.join(name), true)?);
        let length = source.len()?;
        target.set_len(0)?;
        let mut bytes = vec![0; STEP];
        let mut at = 0;
        while at < length {
            let step = STEP.min(usize::try_from(length - at).unwrap_or(STEP));
            source.read_at(at, &mut bytes[..step])?;
            target.write_at(at, &bytes[..step])?;
            at += step as u64;
        }
        target.sync()?;
    }
    Ok(disk.sync_dir(to)?)
}

/// Overwrites header, slots and slab, in this order, then what lies beside the store, and removes every file but the lock. Rows
/// and bodies are not overwritten: their keys were.
fn erase(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    for name in [HEADER_NAME, SHUT, "header.new", "slots", "slab", "pad", "used-keys"] {
        match disk.open(&folder.join(name), false) {
            Ok(file) => overwrite(&*file)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    for path in disk.list(folder)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(name, "lock" | MOVE) {
            continue;
        }
        if name != "index.redb" && !name.starts_with("segment-") {
            overwrite(&*disk.open(&path, false)?)?;
        }
        disk.remove(&path)?;
    }
    disk.sync_dir(folder)?;
    // Last, since a move that is cut off within the removal is told by it.
    if is_there(disk, &folder.join(MOVE))? {
        disk.remove(&folder.join(MOVE))?;
        disk.sync_dir(folder)?;
    }
    Ok(())
}

/// Zeros over all of a file, durable.
fn overwrite(file: &dyn DiskFile) -> Result<(), StoreError> {
    let length = file.len()?;
    let zeros = vec![0; STEP];
    let mut at = 0;
    while at < length {
        let step = STEP.min(usize::try_from(length - at).unwrap_or(STEP));
        file.write_at(at, &zeros[..step])?;
        at += step as u64;
    }
    Ok(file.sync()?)
}

/// Whether a header's file is there with both copies. It was written in one piece, and a crash may have torn it.
fn is_whole(disk: &dyn Disk, path: &Path) -> Result<bool, StoreError> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for offset in [0, BLOCK as u64] {
        match read_block(&*file, offset)? {
            Some(block) if Header::parse(&block).is_ok() => {}
            _ => return Ok(false),
        }
    }
    Ok(file.len()? == HEADER)
}

fn is_there(disk: &dyn Disk, path: &Path) -> Result<bool, StoreError> {
    match disk.open(path, false) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A small file of one of the two places.
fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = file.len()?;
    if length > HEADER {
        return Err(StoreError::Corrupt);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| StoreError::Corrupt)?];
    file.read_at(0, &mut bytes)?;
    Ok(Some(bytes))
}

fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let file = disk.open(path, true)?;
    file.set_len(bytes.len() as u64)?;
    file.write_at(0, bytes)?;
    Ok(file.sync()?)
}
