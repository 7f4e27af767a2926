//! A copy of the database ([`crate::backup`]) put back beside slots, epochs, slab and pads as they are now.
//!
//! What must not come twice is in those files, not in the database: which keys sealed, which deliveries ended. So the copy
//! is brought up to them before it takes the database's place: every chain goes on where the newer of slot and row is,
//! deliveries whose row key is gone are finished, and a new generation makes each holder say at its next link what it has
//! had answered, so that no number of a change is carried out twice.
//!
//! ```text
//! restore/    the copy while it is made and brought up; nothing else is written, and it is begun anew each time
//! restore/ready      it is whole: the old database moves to replaced/
//! restore/placing    that is done: the copy moves into its place
//! ```
//!
//! A relay does not start on a folder with one of the last two.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger::{AccountKey, Kind};

use keypacks::chain::LINK_KEYS_MIN;

use super::RelayConfig;
use super::books::{balance, charge};
use super::chains::{self, KeptChains};
use super::epochs;
use super::load::{self, When};
use super::rows::{
    ACCOUNTS, DEPOSITS, DepositRow, FreshRoot, MOVES, MovesRow, PARCELS, POOL, ROOTS, RootRow, SETTINGS, SKIPPED,
    SPOOL, SkippedRow, SpoolRow,
};
use super::stage::RelayStage;
use crate::StoreError;
use crate::base::Base;
use crate::commit::Stage;
use crate::disk::{Disk, LockGuard};
use crate::entropy::{Entropy, random};
use crate::index::{Frozen, Index, Source, Write};
use crate::keyfile;
use crate::log::{CommitFailed, Mark};
use crate::overlay::{KEY_MAX, Overlay, RowName};
use crate::parcel::{RECEIPTS_MAX, Receipt};
use crate::slots::SlotFile;
use crate::tables::Single;
use crate::vault::Vault;

/// Octets of a file that are copied at a time.
const STEP_BYTES: usize = 1 << 20;
/// Rows or accounts in one commit.
const TOGETHER: usize = 256;
/// Slots that are read together.
const SLOTS_TOGETHER: u64 = 256;
/// Most lost numbers of mail of one account that are told to its holder one by one: the last ones.
const TOLD_MAX: u64 = 16_384;

/// What putting a copy back costs, as far as it can be known.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Restored {
    /// Accounts of the copy.
    pub accounts: u64,
    /// Of these, those whose slot is lost: they stay frozen.
    pub frozen: u64,
    /// Packs that were issued since and are unknown to the copy: nobody can link with them any more.
    pub unknown_packs: u64,
    /// Link keys that were used since, whose debits are lost.
    pub keys_unpaid: u64,
    /// What these keys would have cost, in µtok.
    pub keys_value: u64,
    /// Numbers of mail that came in since. What its holder had not collected is lost, and shown as a gap.
    pub deposits: u64,
    /// Deliveries of the copy that go on.
    pub deliveries: u64,
    /// Deliveries of the copy whose key is gone: ended since, or waiting for so long that their hourly key was erased.
    pub deliveries_closed: u64,
    /// Packs that were given a new root since: the recovery code for their next one is lost.
    pub roots: u64,
    /// Parcels that came since, or whose keys ended: their senders are told that the outcome is unknown.
    pub parcels: u64,
    /// The database that is replaced is lost or does not open: if the relay was killed, a key of its last second may be
    /// used, and nothing here knows.
    pub unsettled: bool,
}

/// A copy that is ready to take the database's place. While it is there, nothing else opens the folder.
pub struct Restore {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    entropy: Arc<dyn Entropy>,
    told: Restored,
    _lock: Box<dyn LockGuard>,
}

impl Restore {
    /// Copies what is in `from` beside the database of `folder` and brings it up to the keys. Of the folder no
    /// more is changed than by a start of the relay: what one that was killed left to do is done.
    ///
    /// `Invalid`: `from` has no database, or `replaced` in the folder is not empty. `HalfRestored`: [`Self::finish`] what
    /// was begun. `Corrupt`: the copy does not open under this folder's keys.
    pub fn prepare(
        disk: Arc<dyn Disk>,
        folder: &Path,
        from: &Path,
        entropy: Arc<dyn Entropy>,
        day: u32,
    ) -> Result<Self, StoreError> {
        let lock = Base::lock(&*disk, folder)?;
        if is_interrupted(&*disk, folder)? {
            return Err(StoreError::HalfRestored);
        }
        let copied = database(&*disk, from)?;
        let replaced = folder.join("replaced");
        disk.create_dir_all(&replaced)?;
        if !copied.contains(&from.join("index.redb")) || !disk.list(&replaced)?.is_empty() {
            return Err(StoreError::Invalid);
        }
        let (lock, is_settled) = settle(&disk, folder, lock, &entropy)?;
        let staged = staged(folder);
        disk.create_dir_all(&staged)?;
        for file in disk.list(&staged)? {
            disk.remove(&file)?;
        }
        for file in copied {
            copy(&*disk, &file, &moved_to(&file, &staged)?)?;
        }
        disk.sync_dir(&staged)?;
        let mut told = bring_up(&disk, folder, &staged, &entropy, day)?;
        told.unsettled = !is_settled;
        disk.sync_dir(&staged)?;
        Ok(Self {
            disk,
            folder: folder.to_owned(),
            entropy,
            told,
            _lock: lock,
        })
    }

    /// What it will cost.
    pub fn told(&self) -> &Restored {
        &self.told
    }

    /// Begins the new generation and moves the copy into the database's place. The old one lies in `replaced` then.
    pub fn carry_out(self, now: u64) -> Result<(), StoreError> {
        let disk = &*self.disk;
        let key = keyfile::load_or_create(disk, &self.folder, "slots", false, &*self.entropy)?;
        let path = self.folder.join("epochs");
        let mut slots = SlotFile::open(disk, &path, key, epochs::SLOT_BYTES, Arc::clone(&self.entropy))?;
        epochs::raise_generation(&mut slots, now)?;
        mark(disk, &staged(&self.folder).join("ready"))?;
        place(disk, &self.folder)
    }

    /// Goes on with what was begun and interrupted. `false`: there is nothing to go on with.
    pub fn finish(disk: &dyn Disk, folder: &Path) -> Result<bool, StoreError> {
        let _lock = Base::lock(disk, folder)?;
        if !is_interrupted(disk, folder)? {
            return Ok(false);
        }
        place(disk, folder)?;
        Ok(true)
    }
}

/// Does first what the next start of a relay that was killed would do: its database knows keys as used that its slots have
/// still. Returns whether that could be done.
fn settle(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    lock: Box<dyn LockGuard>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Box<dyn LockGuard>, bool), StoreError> {
    if !disk.list(folder)?.contains(&folder.join("index.redb")) {
        return Ok((lock, false));
    }
    drop(lock);
    let opened = load::open(Arc::clone(disk), folder, RelayConfig::default(), Arc::clone(entropy));
    if let Ok(stage) = &opened {
        stage.shared.base.close();
    }
    if let Err(StoreError::Locked) = opened {
        return Err(StoreError::Locked);
    }
    let is_settled = opened.is_ok();
    drop(opened);
    Ok((Base::lock(&**disk, folder)?, is_settled))
}

/// Whether the database of this folder is neither the old one nor the copy.
pub(super) fn is_interrupted(disk: &dyn Disk, folder: &Path) -> Result<bool, StoreError> {
    let staged = staged(folder);
    match disk.list(&staged) {
        Ok(files) => Ok(files.contains(&staged.join("ready")) || files.contains(&staged.join("placing"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn staged(folder: &Path) -> PathBuf {
    folder.join("restore")
}

/// The files of a database.
fn database(disk: &dyn Disk, folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = disk.list(folder)?;
    files.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "index.redb" || name.starts_with("segment-")
    });
    // The index last: where it is, the segments are.
    files.sort_by_key(|path| path.ends_with("index.redb"));
    Ok(files)
}

fn moved_to(file: &Path, folder: &Path) -> Result<PathBuf, StoreError> {
    Ok(folder.join(file.file_name().ok_or(StoreError::Invalid)?))
}

pub(super) fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    let (source, target) = (disk.open(from, false)?, disk.open(to, true)?);
    let length = source.len()?;
    let (mut at, mut bytes) = (0, vec![0; STEP_BYTES]);
    while at < length {
        let step = usize::try_from(length - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        source.read_at(at, &mut bytes[..step])?;
        target.write_at(at, &bytes[..step])?;
        at += step as u64;
    }
    Ok(target.sync()?)
}

/// Makes an empty file, durably.
fn mark(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    disk.open(path, true)?.sync()?;
    Ok(disk.sync_dir(path.parent().ok_or(StoreError::Invalid)?)?)
}

/// Moves the old database out and the copy in. It may be cut at any point and done again.
fn place(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    let staged = staged(folder);
    let (ready, placing) = (staged.join("ready"), staged.join("placing"));
    if !disk.list(&staged)?.contains(&placing) {
        let replaced = folder.join("replaced");
        disk.create_dir_all(&replaced)?;
        for file in database(disk, folder)? {
            disk.rename(&file, &moved_to(&file, &replaced)?)?;
        }
        disk.sync_dir(&replaced)?;
        disk.sync_dir(folder)?;
        mark(disk, &placing)?;
    }
    for file in database(disk, &staged)? {
        disk.rename(&file, &moved_to(&file, folder)?)?;
    }
    disk.sync_dir(folder)?;
    disk.sync_dir(&staged)?;
    // In this order: `ready` alone would move the copy out again.
    for done in [ready, placing] {
        if disk.list(&staged)?.contains(&done) {
            disk.remove(&done)?;
            disk.sync_dir(&staged)?;
        }
    }
    for file in disk.list(&staged)? {
        disk.remove(&file)?;
    }
    Ok(disk.sync_dir(&staged)?)
}

/// Brings the database in `staged` up to the keys of `folder`, of which nothing is changed.
fn bring_up(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    staged: &Path,
    entropy: &Arc<dyn Entropy>,
    day: u32,
) -> Result<Restored, StoreError> {
    let (newest, packs) = look_at_slots(disk, folder, entropy)?;
    take_tail(disk, folder, staged, entropy)?;
    raise_commit(disk, folder, staged, entropy, newest)?;
    let lock = Base::lock(&**disk, staged)?;
    let (database, config) = ((staged, folder), RelayConfig::default());
    let mut stage = load::files(Arc::clone(disk), database, lock, config, Arc::clone(entropy))?;
    let told = stage.bring_up(packs, day);
    stage.shared.base.close();
    told
}

/// The highest commit number that a slot speaks of, and one above the last slot that holds chains.
fn look_at_slots(disk: &Arc<dyn Disk>, folder: &Path, entropy: &Arc<dyn Entropy>) -> Result<(u64, u64), StoreError> {
    let key = keyfile::load_or_create(&**disk, folder, "slots", false, &**entropy)?;
    let path = folder.join("slots");
    let slots = SlotFile::open(&**disk, &path, key, chains::SLOT_BYTES, Arc::clone(entropy))?;
    let (count, mut newest, mut end) = (slots.count()?, 0, 0);
    for first in (0..count).step_by(SLOTS_TOGETHER as usize) {
        let run = slots.read_run(first, SLOTS_TOGETHER.min(count - first) as usize)?;
        for (number, slot) in (first..).zip(run.open()) {
            if let Ok(Some(slot)) = slot {
                newest = newest.max(slot.commit);
                end = number + 1;
            }
        }
    }
    Ok((newest, end))
}

/// Has the copy's index take over what only its log has. A backup has nothing there; the files of a relay that was killed
/// have, and behind a raised commit it would not be found.
fn take_tail(disk: &Arc<dyn Disk>, folder: &Path, staged: &Path, entropy: &Arc<dyn Entropy>) -> Result<(), StoreError> {
    let key = keyfile::load_or_create(&**disk, folder, "store", false, &**entropy)?;
    let lock = Base::lock(&**disk, staged)?;
    let (disk, entropy) = (Arc::clone(disk), Arc::clone(entropy));
    let base = Base::open_beside(
        disk,
        (staged, folder),
        lock,
        key,
        RelayConfig::default().bounds,
        entropy,
    )?;
    let taken = match base.freeze() {
        Some(frozen) => base.checkpoint(&frozen),
        None => Ok(()),
    };
    base.close();
    taken
}

/// Has the copy go on behind the commit that the slots are from.
fn raise_commit(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    staged: &Path,
    entropy: &Arc<dyn Entropy>,
    newest: u64,
) -> Result<(), StoreError> {
    let key = keyfile::load_or_create(&**disk, folder, "store", false, &**entropy)?;
    let vault = Vault::new(key, Arc::clone(entropy));
    let (index, mark) = Index::open(Arc::clone(disk), &staged.join("index.redb"))?;
    let raised = Mark {
        commit: mark.commit.max(newest),
        ..mark
    };
    index.checkpoint(&Frozen::new(Overlay::default(), raised), &vault)?;
    index.close();
    Ok(())
}

/// Rows of the copy that the slab no longer opens.
#[derive(Default)]
struct Closed {
    spool: Vec<(u64, SpoolRow)>,
    skipped: BTreeMap<u64, Vec<(u64, SkippedRow)>>,
}

impl RelayStage {
    fn bring_up(&mut self, packs: u64, day: u32) -> Result<Restored, StoreError> {
        let shared = Arc::clone(&self.shared);
        let epochs = epochs::load(&mut self.epochs, self.commit, &*shared.base.entropy)?;
        let mut told = Restored::default();
        {
            let read = shared.base.view()?;
            let mut live = self.load_accounts(&read, When::Restoring)?;
            live.epochs = epochs;
            *shared.live_mut() = live;
            let next = SETTINGS.get(&read, Single)?.unwrap_or_default().next_account;
            told.unknown_packs = packs.saturating_sub(next);
        }
        let closed = self.closed(&mut told)?;
        self.in_commits(closed.spool.into_iter(), |_, write, (id, row)| {
            SPOOL.remove(write, id)?;
            POOL.remove(write, id)?;
            shared.base.release_body(write, row.body).map(|_| ())
        })?;
        let mut skipped = closed.skipped;
        let mut behind = Vec::new();
        {
            let (read, live) = (shared.base.view()?, shared.live());
            told.accounts = live.accounts.len() as u64;
            for (account, live) in live.accounts.iter() {
                let Some(chains) = live.chains.here() else {
                    told.frozen += 1;
                    continue;
                };
                let row = ACCOUNTS.get(&read, account)?.ok_or(StoreError::Corrupt)?;
                let parcels = PARCELS.get(&read, account)?.unwrap_or_default().base;
                let lost = skipped.remove(&account).unwrap_or_default();
                let stands = chains.stand();
                let is_behind =
                    stands != (row.link_base, row.post_next, parcels) || has_older_root(&read, account, chains)?;
                if is_behind || !lost.is_empty() {
                    behind.push((account, lost));
                }
            }
        }
        behind.sort_unstable_by_key(|(account, _)| *account);
        self.in_commits(behind.into_iter(), |stage, write, (account, lost)| {
            stage.bring_up_account(write, account, &lost, day, &mut told)
        })?;
        if let Some(frozen) = shared.base.freeze() {
            shared.base.checkpoint(&frozen)?;
        }
        Ok(told)
    }

    /// Applies each, some to a commit.
    fn in_commits<T>(
        &mut self,
        all: impl Iterator<Item = T>,
        mut apply: impl FnMut(&mut Self, &Write<'_>, T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let base = Arc::clone(&self.shared.base);
        let mut all = all.peekable();
        while all.peek().is_some() {
            let write = base.begin()?;
            for _ in 0..TOGETHER {
                let Some(one) = all.next() else { break };
                if let Err(error) = apply(self, &write, one) {
                    base.abandon(write);
                    self.abandoned();
                    return Err(error);
                }
                if base.is_filled_by(&write) {
                    break;
                }
            }
            let number = base.commit(write).map_err(CommitFailed::into_error)?;
            self.committed(number);
            if base.wants_checkpoint()
                && let Some(frozen) = base.freeze()
            {
                base.checkpoint(&frozen)?;
            }
        }
        Ok(())
    }

    /// Opens every row of the copy, so that one of other keys is refused, and every row that the slab has a part in.
    fn closed(&self, told: &mut Restored) -> Result<Closed, StoreError> {
        let shared = &self.shared;
        let snapshot = shared.base.snapshot()?;
        let bounds = (RowName::new(0, &[]), RowName::new(u8::MAX, &[u8::MAX; KEY_MAX]));
        let (Some(first), Some(last)) = bounds else {
            return Err(StoreError::Invalid);
        };
        snapshot.rows(first, last, &mut |_, _| Ok(ControlFlow::Continue(())))?;
        let mut closed = Closed::default();
        SPOOL.scan(&snapshot, (0, u64::MAX), |id, row| {
            match is_gone(shared.open_private(&row).map(|_| ()))? {
                false => told.deliveries += 1,
                true => closed.spool.push((id, row)),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        told.deliveries_closed = closed.spool.len() as u64;
        SKIPPED.scan(&snapshot, ((0, 0), (u64::MAX, u64::MAX)), |(account, index), row| {
            if is_gone(shared.open_skipped(index, &row).map(|_| ()))? {
                closed.skipped.entry(account).or_default().push((index, row));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(closed)
    }

    /// Where the chains of an account stand now.
    fn positions(&self, account: u64) -> Result<(u64, u64, u64), StoreError> {
        let live = self.shared.live();
        let chains = live.accounts.get(account).and_then(|live| live.chains.here());
        Ok(chains.ok_or(StoreError::Corrupt)?.stand())
    }

    /// Moves the rows of an account to where its chains stand. `lost`: the skipped parcels whose key is gone.
    fn bring_up_account(
        &mut self,
        write: &Write<'_>,
        account: u64,
        lost: &[(u64, SkippedRow)],
        day: u32,
        told: &mut Restored,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let (link, post, parcel) = self.positions(account)?;
        let newer = {
            let live = shared.live();
            let chains = live.accounts.get(account).and_then(|live| live.chains.here());
            let chains = chains.ok_or(StoreError::Corrupt)?;
            has_older_root(write, account, chains)?.then_some(chains.root())
        };
        if let Some(number) = newer {
            told.roots += 1;
            let root = RootRow {
                number,
                // No code gives the next root: the one that was made with this root is not known any more.
                recovery: random(&*shared.base.entropy),
                frozen: false,
                fresh: FreshRoot {
                    record: 0,
                    sealed: Vec::new(),
                    begin: (link, post, parcel),
                },
                old: None,
            };
            ROOTS.put(write, account, &root)?;
        }
        let mut row = ACCOUNTS.get(write, account)?.ok_or(StoreError::Corrupt)?;
        let keys = link.checked_sub(row.link_base).ok_or(StoreError::Corrupt)?;
        told.keys_unpaid += keys;
        told.keys_value = told
            .keys_value
            .saturating_add(keys.saturating_mul(shared.live().prices.key));
        row.link_base = link;
        if row.link_keys < link {
            // Keys that came from another pack since, and are known by their use alone: the last ones collect what waits.
            row.link_keys = link.saturating_add(LINK_KEYS_MIN);
            if let Some(moves) = MOVES.get(write, account)? {
                // What came to it is not known any more.
                MOVES.put(write, account, &MovesRow { birth: None, ..moves })?;
            }
        }
        told.deposits += post.checked_sub(row.post_next).ok_or(StoreError::Corrupt)?;
        for index in row.post_next.max(post.saturating_sub(TOLD_MAX))..post {
            DEPOSITS.put(write, (account, index), &DepositRow { day, held: None })?;
        }
        row.post_next = post;
        self.put_account(write, account, &row)?;
        let house = self.house(write, account)?;
        let value = balance(write, AccountKey::Holder(house))?.available();
        if keys > 0 && value > 0 && self.house_keys(write, house)? == 0 {
            // Keys and value end together.
            let entry = (house, value);
            charge(
                &mut self.books(write, house),
                &*shared.base.entropy,
                entry,
                Kind::Key,
                day,
            )?;
        }

        let mut place = PARCELS.get(write, account)?.unwrap_or_default();
        let came = parcel.checked_sub(place.base).ok_or(StoreError::Corrupt)?;
        told.parcels += came + lost.len() as u64;
        let mut unknown: Vec<u64> = lost.iter().map(|(index, _)| *index).collect();
        for (index, _) in lost {
            SKIPPED.remove(write, (account, *index))?;
            place.skipped -= 1;
        }
        // More than these can not be without a receipt at their sender's.
        unknown.extend(place.base.max(parcel.saturating_sub(RECEIPTS_MAX as u64))..parcel);
        place.base = parcel;
        if unknown.is_empty() {
            return Ok(());
        }
        PARCELS.put(write, account, &place)?;
        let receipts: Vec<_> = unknown.into_iter().map(Receipt::unknown).collect();
        for some in receipts.chunks(RECEIPTS_MAX) {
            self.deposit_receipts(write, account, some, day)?;
        }
        Ok(())
    }
}

/// Whether the row of an account's root, or none, is of a root before that of its chains.
fn has_older_root(source: &impl Source, account: u64, chains: &KeptChains) -> Result<bool, StoreError> {
    let known = ROOTS.get(source, account)?.map_or(0, |root| root.number);
    Ok(known < chains.root())
}

/// Whether a row's key is gone: it does not open, or its record was never written.
fn is_gone(opened: Result<(), StoreError>) -> Result<bool, StoreError> {
    match opened {
        Ok(()) => Ok(false),
        Err(StoreError::Corrupt | StoreError::Io(std::io::ErrorKind::UnexpectedEof)) => Ok(true),
        Err(error) => Err(error),
    }
}
