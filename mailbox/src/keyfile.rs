//! Keys in files of their own, readable by the owner alone, in two copies (`docs/PROTOCOL.md` section 9).
//!
//! ```text
//! NAME.key, NAME.key-copy    key(32) | SHA-256("key file" | key)(32)
//! ```

use std::path::Path;

use keypacks::{Secret, kdf};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::disk::Disk;
use crate::entropy::Entropy;

const LENGTH: usize = 64;

/// Reads a key, or draws one if neither copy exists; a copy that is missing or damaged is written again.
///
/// Refuses with [`StoreError::Corrupt`] when copies exist and none is whole, or when none exists in a folder that is not
/// `fresh`: a new key would open nothing of what is there, and would stand in the way of the right one.
pub fn load_or_create(
    disk: &dyn Disk,
    folder: &Path,
    name: &str,
    fresh: bool,
    entropy: &dyn Entropy,
) -> Result<Secret<32>, StoreError> {
    let paths = [
        folder.join(format!("{name}.key")),
        folder.join(format!("{name}.key-copy")),
    ];
    let copies = [read(disk, &paths[0])?, read(disk, &paths[1])?];
    let key = match &copies {
        // A torn first write: nothing was ever sealed under that key, since both copies precede its first use.
        [Copy::Missing, Copy::Missing] | [Copy::Damaged, Copy::Missing] if fresh => {
            Secret::from_fn(|key| entropy.fill(key))
        }
        [Copy::Whole(key), _] | [_, Copy::Whole(key)] => key.duplicate(),
        _ => return Err(StoreError::Corrupt),
    };
    for (path, copy) in paths.iter().zip(&copies) {
        if !matches!(copy, Copy::Whole(own) if *own == key) {
            write(disk, path, &key)?;
            disk.sync_dir(folder)?;
        }
    }
    Ok(key)
}

enum Copy {
    Missing,
    Damaged,
    Whole(Secret<32>),
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Copy, StoreError> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Copy::Missing),
        Err(error) => return Err(error.into()),
    };
    if file.len()? != LENGTH as u64 {
        return Ok(Copy::Damaged);
    }
    let mut bytes = Zeroizing::new([0; LENGTH]);
    file.read_at(0, &mut *bytes)?;
    let key = Secret::from_slice(&bytes[..32]).expect("32 of 64 bytes");
    Ok(if check(&key) == bytes[32..] {
        Copy::Whole(key)
    } else {
        Copy::Damaged
    })
}

fn write(disk: &dyn Disk, path: &Path, key: &Secret<32>) -> Result<(), StoreError> {
    let file = disk.open(path, true)?;
    let mut bytes = Zeroizing::new([0; LENGTH]);
    bytes[..32].copy_from_slice(key.expose());
    bytes[32..].copy_from_slice(&check(key));
    file.set_len(LENGTH as u64)?;
    file.write_at(0, &*bytes)?;
    Ok(file.sync()?)
}

fn check(key: &Secret<32>) -> [u8; 32] {
    kdf::hash(&[b"key file", key.expose()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::entropy::SeededEntropy;

    fn load(disk: &MemoryDisk, seed: u64) -> Result<Secret<32>, StoreError> {
        disk.create_dir_all(Path::new("/k")).expect("made");
        load_or_create(disk, Path::new("/k"), "store", true, &SeededEntropy::new(seed))
    }

    #[test]
    fn a_key_is_drawn_once_and_outlives_the_loss_of_either_copy() {
        let disk = MemoryDisk::new();
        let key = load(&disk, 1).expect("drawn");
        for path in ["/k/store.key", "/k/store.key-copy"] {
            disk.remove(Path::new(path)).expect("there");
            assert!(load(&disk, 2).expect("the other copy") == key);
            disk.open(Path::new(path), false)
                .expect("back")
                .write_at(3, b"damage")
                .expect("written");
            assert!(load(&disk, 3).expect("the other copy") == key);
        }
    }

    #[test]
    fn a_lost_key_is_missed_and_not_drawn_anew() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/k")).expect("made");
        let entropy = SeededEntropy::new(1);
        let lost = load_or_create(&disk, Path::new("/k"), "store", false, &entropy);
        assert_eq!(lost.err(), Some(StoreError::Corrupt));
        assert_eq!(disk.list(Path::new("/k")).expect("there").len(), 0);
    }

    #[test]
    fn two_damaged_copies_are_refused() {
        let disk = MemoryDisk::new();
        load(&disk, 1).expect("drawn");
        for path in ["/k/store.key", "/k/store.key-copy"] {
            disk.open(Path::new(path), false)
                .expect("there")
                .write_at(3, b"damage")
                .expect("written");
        }
        assert_eq!(load(&disk, 2).err(), Some(StoreError::Corrupt));
    }

    #[test]
    fn whatever_operation_the_power_fails_at_the_next_start_has_a_key() {
        for (operation, seed) in (0..10).flat_map(|operation| (0..8).map(move |seed| (operation, seed))) {
            let disk = MemoryDisk::new();
            disk.power_off_after(operation);
            let first = load(&disk, 1).ok();
            disk.crash(seed);
            let second = load(&disk, 2).expect("a torn creation is made good");
            assert!(first.is_none_or(|first| first == second));
        }
    }
}
