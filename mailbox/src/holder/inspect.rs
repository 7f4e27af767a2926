//! Packs and stores looked at from outside, and a change of passphrase.

use std::path::Path;
use std::sync::Arc;

use keypacks::pack::{BLOCK, Header, HeaderFault, Issue, PassphraseCost};
use zeroize::Zeroize;

use super::create::{issue_offsets, open_base};
use super::files::facts;
use super::header::{HEADER, read_block};
use super::rows::{EXPIRY, ROOT, STATE};
use crate::StoreError;
use crate::base::Bounds;
use crate::disk::{Disk, DiskFile};
use crate::entropy::{Entropy, random};
use crate::holder_store::{LinkPosition, PackFacts, ValueMirror};
use crate::tables::Single;

/// Length of a pack as it is issued.
const PACK: u64 = 4 * BLOCK as u64;

/// What is wrong with a pack's file: a sentence for whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackFault {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither copy of the header begins as one.
    #[error("this is no pack")]
    NoPack,
    /// Too few bytes.
    #[error("the pack is cut off: it has {0} bytes of 16384")]
    CutOff(u64),
    /// Made by a program that is newer.
    #[error("the pack is of version {0}, and this program knows version 1: a newer one is needed")]
    TooNew(u16),
    /// The header asks for what no pack does.
    #[error("the pack's header is damaged or forged: it asks for a derivation of its key that no pack has")]
    Header,
    /// No copy of the header opens.
    #[error("the passphrase does not open the pack")]
    Passphrase,
    /// The root is overwritten.
    #[error("the pack was taken in by 'postern init': its keys are in the folder that was made then")]
    Spent,
    /// The header opens, what it was issued with does not.
    #[error("the pack is damaged or forged: neither copy of what it was issued with opens")]
    Issue,
}

/// What a pack's file says without its passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// What a guess at the passphrase costs.
    pub cost: PassphraseCost,
    /// Copies that are damaged, in words.
    pub damaged: Vec<&'static str>,
}

/// Looks at a pack's file without its passphrase. Changes nothing.
pub fn inspect_outside(disk: &dyn Disk, pack: &Path) -> Result<Outside, PackFault> {
    let file = disk.open(pack, false).map_err(StoreError::from)?;
    let length = file.len().map_err(StoreError::from)?;
    let copies = [header(&*file, 0)?, header(&*file, BLOCK as u64)?];
    let mut damaged = Vec::new();
    for (copy, name) in copies.iter().zip(["first header", "second header"]) {
        if copy.is_err() {
            damaged.push(name);
        }
    }
    let [first, second] = copies;
    let cost = match first.or(second) {
        Ok(cost) => cost,
        Err(PackFault::NoPack) if length < PACK && starts_as_pack(&*file)? => return Err(PackFault::CutOff(length)),
        Err(fault) => return Err(fault),
    };
    if length < PACK {
        return Err(PackFault::CutOff(length));
    }
    Ok(Outside { cost, damaged })
}

/// Opens a pack's file and reads what it was issued with, its root included. Changes nothing.
pub fn inspect(disk: &dyn Disk, pack: &Path, passphrase: &[u8]) -> Result<(Outside, Issue), PackFault> {
    let mut outside = inspect_outside(disk, pack)?;
    let file = disk.open(pack, false).map_err(StoreError::from)?;
    let mut key = None;
    for (offset, name) in [(0, "first header"), (BLOCK as u64, "second header")] {
        let Some(block) = read_block(&*file, offset)? else {
            continue;
        };
        match Header::open(&block, passphrase) {
            Ok(opened) => key = Some(opened),
            Err(_) if !outside.damaged.contains(&name) => outside.damaged.push(name),
            Err(_) => {}
        }
    }
    let key = key.ok_or(PackFault::Passphrase)?;
    let (mut found, mut is_spent) = (None, true);
    for (offset, name) in issue_offsets().into_iter().zip(["first issue", "second issue"]) {
        let Some(mut block) = read_block(&*file, offset)? else {
            continue;
        };
        is_spent &= block.iter().all(|byte| *byte == 0);
        match Issue::open(&key, &block) {
            Ok(issue) => found = Some(issue),
            Err(_) => outside.damaged.push(name),
        }
        block.zeroize();
    }
    match found {
        Some(issue) => Ok((outside, issue)),
        None if is_spent => Err(PackFault::Spent),
        None => Err(PackFault::Issue),
    }
}

/// Puts a pack's file, or the header of a store, under another passphrase. The old one opens until the file says otherwise
/// durably; a crash in between leaves one copy under each, and doing it again, from either, finishes it.
pub fn change_passphrase(
    disk: &dyn Disk,
    path: &Path,
    old: &[u8],
    new: &[u8],
    cost: PassphraseCost,
    entropy: &dyn Entropy,
) -> Result<(), PackFault> {
    let file = disk.open(path, false).map_err(StoreError::from)?;
    let mut opened = Vec::new();
    let mut fault = PackFault::NoPack;
    for offset in [0, BLOCK as u64] {
        match header(&*file, offset)? {
            Ok(_) => fault = PackFault::Passphrase,
            Err(found) if fault == PackFault::NoPack => fault = found,
            Err(_) => {}
        }
        if let Some(block) = read_block(&*file, offset)?
            && let Ok(key) = Header::open(&block, old)
        {
            opened.push((offset, key));
        }
    }
    let Some((intact, key)) = opened.pop() else {
        return Err(fault);
    };
    let block = Header::create(new, &key, random(entropy), random(entropy), cost);
    // The copy that is known to open goes last.
    for offset in [BLOCK as u64 - intact, intact] {
        file.write_at(offset, &block).map_err(StoreError::from)?;
        file.sync().map_err(StoreError::from)?;
    }
    Ok(())
}

/// What a store's holder last heard.
pub struct Glance {
    /// What the pack says of itself and of its relay.
    pub facts: PackFacts,
    /// Value and keys as last heard from the relay.
    pub value: ValueMirror,
    /// Where the link keys stand.
    pub link: LinkPosition,
    /// How many roots the pack was given after its issue.
    pub root: u64,
    /// UTC day on which it ends, or did.
    pub expires: Option<u32>,
}

/// Opens a store that nobody uses, reads what it knows of its value, and closes it.
pub fn glance(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    passphrase: &[u8],
    entropy: &Arc<dyn Entropy>,
) -> Result<Glance, StoreError> {
    let (base, _) = open_base(disk, folder, passphrase, Bounds::SMALL, entropy)?;
    let view = base.view()?;
    let facts = facts(&view)?;
    let state = STATE.get(&view, Single)?.ok_or(StoreError::Corrupt)?;
    let root = ROOT.get(&view, Single)?.map_or(0, |row| row.number);
    let expires = EXPIRY.get(&view, Single)?.flatten();
    drop(view);
    base.close();
    Ok(Glance {
        facts,
        root,
        expires,
        value: state.value,
        link: state.link,
    })
}

/// A copy of the header as far as it reads without a passphrase.
fn header(file: &dyn DiskFile, offset: u64) -> Result<Result<PassphraseCost, PackFault>, StoreError> {
    let Some(block) = read_block(file, offset)? else {
        return Ok(Err(PackFault::NoPack));
    };
    Ok(match Header::read(&block) {
        Ok(header) => Ok(header.cost()),
        Err(HeaderFault::NoPack) => Err(PackFault::NoPack),
        Err(HeaderFault::Version(version)) => Err(PackFault::TooNew(version)),
        Err(HeaderFault::Derivation) => Err(PackFault::Header),
    })
}

/// Whether a file that is too short for a block begins as a pack does.
fn starts_as_pack(file: &dyn DiskFile) -> Result<bool, StoreError> {
    let mut start = [0; Header::MAGIC.len()];
    if file.len()? < start.len() as u64 {
        return Ok(false);
    }
    file.read_at(0, &mut start)?;
    Ok(start == *Header::MAGIC && file.len()? < HEADER)
}
