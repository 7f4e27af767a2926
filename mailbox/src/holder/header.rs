//! The header, first in pack files and alone in a holder's folder: two copies of the file key under a passphrase.

use std::path::Path;

use keypacks::Secret;
use keypacks::pack::{BLOCK, Header, PassphraseCost};

use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::entropy::{Entropy, random};

/// Length of both copies.
pub(super) const HEADER: u64 = 2 * BLOCK as u64;

/// Opens the file key. [`StoreError::Passphrase`]: no copy opens, be it the passphrase or no header at all.
pub(super) fn unlock(file: &dyn DiskFile, passphrase: &[u8]) -> Result<Secret<32>, StoreError> {
    let copies = [read_block(file, 0)?, read_block(file, BLOCK as u64)?];
    // Trying a copy takes its time on purpose, so the second is tried only if it says something else.
    let tries = if copies[0] == copies[1] {
        &copies[..1]
    } else {
        &copies[..]
    };
    let opened = tries
        .iter()
        .flatten()
        .find_map(|block| Header::open(block, passphrase).ok());
    opened.ok_or(StoreError::Passphrase)
}

/// Writes a header under its final name once it is whole.
pub(super) fn create(
    disk: &dyn Disk,
    path: &Path,
    passphrase: &[u8],
    file_key: &Secret<32>,
    cost: PassphraseCost,
    entropy: &dyn Entropy,
) -> Result<(), StoreError> {
    let block = Header::create(passphrase, file_key, random(entropy), random(entropy), cost);
    let draft = path.with_extension("new");
    let file = disk.open(&draft, true)?;
    file.set_len(HEADER)?;
    file.write_at(0, &block)?;
    file.write_at(BLOCK as u64, &block)?;
    file.sync()?;
    drop(file);
    disk.rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        disk.sync_dir(folder)?;
    }
    Ok(())
}

/// A block, if the file is long enough.
pub(super) fn read_block(file: &dyn DiskFile, offset: u64) -> Result<Option<Box<[u8; BLOCK]>>, StoreError> {
    if file.len()? < offset + BLOCK as u64 {
        return Ok(None);
    }
    let mut block = Box::new([0; BLOCK]);
    file.read_at(offset, &mut block[..])?;
    Ok(Some(block))
}
