//! From a pack file to a holder's store, so that a crash anywhere leaves either the one or the other.
//!
//! ```text
//! store written and synced -> header renamed into place -> issue blocks of the pack file overwritten and synced
//! ```
//!
//! A folder without a header is no store yet: what lies in it is removed, and the pack still opens. A folder with one
//! is a store: if the pack still opens, it is overwritten now.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keypacks::pack::{BLOCK, Issue, PackPad};
use keypacks::pad::{Direction, Half};
use keypacks::{Secret, kdf};

use super::files::HolderOptions;
use super::header::{self, HEADER, read_block};
use super::rows::{FACTS, FactsRow, HALF, PAD, ROTATION, RotationRow, STATE, State, write_aliases};
use super::stage;
use crate::StoreError;
use crate::base::{Base, Bounds};
use crate::disk::{Disk, DiskFile};
use crate::entropy::{Entropy, random};
use crate::holder_store::{HolderAlias, LinkPosition, ValueMirror};
use crate::pad::{self, PadFile};
use crate::slots::SlotFile;
use crate::tables::Single;

/// Bytes of a slot: three chain states and what sealing adds.
const SLOT_BYTES: usize = 256;
/// A folder is a store once it has a file of this name.
pub(super) const HEADER_NAME: &str = "header";

/// Why a pack did not become a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// Disk, passphrase or lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pack was initialised before, into another folder.
    #[error("this pack has been initialised before: its keys are in the folder that was made then")]
    Spent,
    /// The pack has a pad, and its file is not beside the pack's.
    #[error(
        "the pack's pad is missing or damaged: put its file beside the pack's, under the same name with .pad behind"
    )]
    PadMissing,
    /// The pack's pad is the first of two halves.
    #[error("the pack's pad is one of two halves: give the file of the other one too, with --half")]
    HalfMissing,
    /// What was given is no half of the pack's pad.
    #[error("this is not the other half of the pack's pad")]
    OtherHalf,
    /// The folder is the store of another pack.
    #[error("the folder holds the store of another pack: choose another one")]
    OtherPack,
}

/// What [`init_from_pack`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initialised {
    /// The store was made.
    New,
    /// The store was there; the pack file is overwritten now, if it was not.
    Already,
}

/// Makes the store of a pack in `folder`, then overwrites the pack's root in the pack file.
///
/// Done again after a crash it goes on where it was, and done again after success it changes nothing.
/// Copies of the pack file that were made before still open everything.
pub fn init_from_pack(
    disk: &Arc<dyn Disk>,
    pack: &Path,
    folder: &Path,
    passphrase: &[u8],
    options: &HolderOptions,
    entropy: &Arc<dyn Entropy>,
) -> Result<Initialised, InitError> {
    init_from_halves(disk, (pack, None), folder, passphrase, options, entropy)
}

/// The same for a pack whose pad is one of two halves: the other one is added, and both are overwritten.
pub fn init_from_halves(
    disk: &Arc<dyn Disk>,
    (pack, half): (&Path, Option<&Path>),
    folder: &Path,
    passphrase: &[u8],
    options: &HolderOptions,
    entropy: &Arc<dyn Entropy>,
) -> Result<Initialised, InitError> {
    let beside = pad::beside(pack);
    let pack = disk.open(pack, false).map_err(StoreError::from)?;
    let pack_key = header::unlock(&*pack, passphrase)?;
    let issue = read_issue(&*pack, &pack_key)?;
    let done = if exists(&**disk, &header_path(folder))? {
        check_same_pack(disk, folder, passphrase, issue.as_ref(), entropy)?;
        Initialised::Already
    } else {
        let mut issue = issue.ok_or(InitError::Spent)?;
        let second = match issue.pad {
            Some(pad) => take_pad(disk, (&beside, half), folder, pad, &issue.root)?,
            None if half.is_some() => return Err(InitError::OtherHalf),
            None => None,
        };
        let mark = match second {
            Some((second, mark)) => {
                issue.root = second.join(&issue.root);
                Some(mark)
            }
            None => None,
        };
        create(disk, folder, &issue, mark, passphrase, options, entropy)?;
        Initialised::New
    };
    overwrite_issue(&*pack)?;
    overwrite_halves(disk, (&beside, half), folder, passphrase, entropy)?;
    Ok(done)
}

/// Overwrites what a pad was made of, as long as the store says that it was.
fn overwrite_halves(
    disk: &Arc<dyn Disk>,
    (beside, half): (&Path, Option<&Path>),
    folder: &Path,
    passphrase: &[u8],
    entropy: &Arc<dyn Entropy>,
) -> Result<(), InitError> {
    let (base, _) = open_base(disk, folder, passphrase, Bounds::SMALL, entropy)?;
    let view = base.view()?;
    let (Some(name), Some(known)) = (PAD.get(&view, Single)?, HALF.get(&view, Single)?) else {
        return Ok(());
    };
    if let Ok(made) = pad::peek(&**disk, beside)
        && made.name == name
    {
        pad::overwrite_first(&**disk, beside)?;
    }
    let Some(half) = half.filter(|half| disk.open(half, false).is_ok()) else {
        return Ok(());
    };
    if pad::mark_of_half(&**disk, half)? != known {
        return Err(InitError::OtherHalf);
    }
    Ok(pad::overwrite_half(&**disk, half)?)
}

/// Moves the pad into the folder, so that there is one of it; or adds its two halves up there, and returns the second
/// and what it is known by.
fn take_pad(
    disk: &Arc<dyn Disk>,
    (beside, half): (&Path, Option<&Path>),
    folder: &Path,
    pad: PackPad,
    root: &Secret<32>,
) -> Result<Option<(Half, [u8; 32])>, InitError> {
    let target = pad_path(folder);
    let is_it = |path: &Path| pad::peek(&**disk, path).is_ok_and(|found| found == pad.made);
    let Some(check) = pad.half else {
        if half.is_some() {
            return Err(InitError::OtherHalf);
        }
        if !is_it(beside) && !is_it(&target) {
            return Err(InitError::PadMissing);
        }
        disk.create_dir_all(folder).map_err(StoreError::from)?;
        pad::move_to(disk, beside, &target)?;
        return Ok(None);
    };
    let half = half.ok_or(InitError::HalfMissing)?;
    if !is_it(beside) {
        return Err(InitError::PadMissing);
    }
    let digest = match pad::digest_half(&**disk, half, pad.made.layout) {
        Ok(digest) if digest.is(root, &check) => digest,
        Ok(_) | Err(StoreError::Corrupt) => return Err(InitError::OtherHalf),
        Err(error) => return Err(error.into()),
    };
    disk.create_dir_all(folder).map_err(StoreError::from)?;
    pad::combine(&**disk, beside, half, &target)?;
    Ok(Some((digest, pad::mark_of_half(&**disk, half)?)))
}

/// Makes a store. It is one as soon as its header has its name, last of all; one that is there is never touched.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    issue: &Issue,
    half: Option<[u8; 32]>,
    passphrase: &[u8],
    options: &HolderOptions,
    entropy: &Arc<dyn Entropy>,
) -> Result<(), StoreError> {
    let lock = Base::lock(&**disk, folder)?;
    if exists(&**disk, &header_path(folder))? {
        return Err(StoreError::Invalid);
    }
    remove_leftovers(&**disk, folder)?;
    let file_key = Secret::from_fn(|key| entropy.fill(key));
    let keys = Keys::of(&file_key);
    let base = Base::open(
        Arc::clone(disk),
        folder,
        lock,
        keys.store,
        options.bounds,
        Arc::clone(entropy),
    )?;
    base.slab.set_used(&Default::default())?;
    let commit = write_first_rows(&base, issue, half)?;
    let mut slots = open_slots(&**disk, folder, keys.slots, entropy)?;
    stage::first_slot(&mut slots, &issue.root, commit)?;
    disk.sync_dir(folder)?;
    header::create(
        &**disk,
        &header_path(folder),
        passphrase,
        &file_key,
        options.passphrase_cost,
        &**entropy,
    )
}

/// The keys of a store, from its file key.
pub(super) struct Keys {
    pub(super) store: Secret<32>,
    pub(super) slots: Secret<32>,
}

impl Keys {
    pub(super) fn of(file_key: &Secret<32>) -> Self {
        Self {
            store: kdf::he(file_key, "holder/store", &[]),
            slots: kdf::he(file_key, "holder/slots", &[]),
        }
    }
}

/// Unlocks and locks a store; returns what lies below its rows, and the key of its slots.
pub(super) fn open_base(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    passphrase: &[u8],
    bounds: Bounds,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Base, Secret<32>), StoreError> {
    // Before the header is read: a store that is moved meanwhile is not opened with what it said before.
    let header = disk.open(&header_path(folder), false)?;
    let lock = Base::lock(&**disk, folder)?;
    drop(header);
    let file_key = header::unlock(&*disk.open(&header_path(folder), false)?, passphrase)?;
    let keys = Keys::of(&file_key);
    let base = Base::open(Arc::clone(disk), folder, lock, keys.store, bounds, Arc::clone(entropy))?;
    Ok((base, keys.slots))
}

/// Opens the pad that a store must have.
pub(super) fn open_pad(
    disk: &dyn Disk,
    folder: &Path,
    name: Option<[u8; 16]>,
) -> Result<Option<Arc<PadFile>>, StoreError> {
    let Some(name) = name else { return Ok(None) };
    let pad = PadFile::open(disk, &pad_path(folder), Direction::Up)?;
    if pad.made().name == name {
        Ok(Some(Arc::new(pad)))
    } else {
        Err(StoreError::Corrupt)
    }
}

fn pad_path(folder: &Path) -> PathBuf {
    folder.join("pad")
}

pub(super) fn header_path(folder: &Path) -> PathBuf {
    folder.join(HEADER_NAME)
}

pub(super) fn open_slots(
    disk: &dyn Disk,
    folder: &Path,
    key: Secret<32>,
    entropy: &Arc<dyn Entropy>,
) -> Result<SlotFile, StoreError> {
    SlotFile::open(disk, &folder.join("slots"), key, SLOT_BYTES, Arc::clone(entropy))
}

fn write_first_rows(base: &Base, issue: &Issue, half: Option<[u8; 32]>) -> Result<u64, StoreError> {
    // Never zero, and another one for a folder that is made anew, so that mail programs forget what they knew.
    let uid_validity = u32::from_le_bytes(random(&*base.entropy)) >> 1 | 1;
    let state = State {
        link: LinkPosition {
            base: 0,
            held: None,
            answered: None,
            keys: issue.link_keys,
        },
        token: [0; 16],
        next_seq: 1,
        next_row: 1,
        answered_seq: 0,
        collect_from: 0,
        uid_validity,
        uid_next: 1,
        value: ValueMirror::default(),
        prices: None,
        now: u64::from(issue.day) * 86_400,
    };
    let facts = FactsRow {
        identifier: issue.identifier.0,
        relay_address: issue.relay_address.clone(),
        relay_domain: issue.relay_domain.clone(),
        relay_public: issue.relay_public,
    };
    let alias = |(number, address): (u32, &String)| HolderAlias::new(number, address.clone());
    let aliases: Vec<HolderAlias> = (0..).zip(&issue.aliases).map(alias).collect();
    base.commit_now(|write| {
        STATE.put(write, Single, &state)?;
        FACTS.put(write, Single, &facts)?;
        if issue.rotation.rotates() {
            let row = RotationRow {
                policy: issue.rotation.encode(),
                first_use: None,
            };
            ROTATION.put(write, Single, &row)?;
        }
        if let Some(pad) = issue.pad {
            PAD.put(write, Single, &pad.made.name)?;
        }
        if let Some(mark) = half {
            HALF.put(write, Single, &mark)?;
        }
        write_aliases(write, &aliases)
    })
}

/// `Ok(None)`: neither copy opens, as after [`overwrite_issue`].
fn read_issue(pack: &dyn DiskFile, key: &Secret<32>) -> Result<Option<Issue>, StoreError> {
    for offset in issue_offsets() {
        if let Some(block) = read_block(pack, offset)?
            && let Ok(issue) = Issue::open(key, &block)
        {
            return Ok(Some(issue));
        }
    }
    Ok(None)
}

/// Both copies at once: from here on the store is what counts.
fn overwrite_issue(pack: &dyn DiskFile) -> Result<(), StoreError> {
    for offset in issue_offsets() {
        pack.write_at(offset, &[0; BLOCK])?;
    }
    Ok(pack.sync()?)
}

pub(super) fn issue_offsets() -> [u64; 2] {
    [HEADER, HEADER + BLOCK as u64]
}

/// The store must open, and be this pack's where the pack still tells which it is.
fn check_same_pack(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    passphrase: &[u8],
    issue: Option<&Issue>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(), InitError> {
    let (base, _) = open_base(disk, folder, passphrase, Bounds::SMALL, entropy)?;
    let facts = FACTS.get(&base.view()?, Single)?.ok_or(StoreError::Corrupt)?;
    match issue {
        Some(issue) if issue.identifier.0 != facts.identifier => Err(InitError::OtherPack),
        _ => Ok(()),
    }
}

/// Clears what a creation left that did not come to its header. Only files of a store's own names are touched.
fn remove_leftovers(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    let is_own = |name: &str| {
        matches!(name, "index.redb" | "slab" | "slots" | "header.new" | "move") || name.starts_with("segment-")
    };
    for path in disk.list(folder)? {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_own) {
            disk.remove(&path)?;
        }
    }
    Ok(disk.sync_dir(folder)?)
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, StoreError> {
    match disk.open(path, false) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}
