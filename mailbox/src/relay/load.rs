//! Opening the relay's store, and building its memory from the disk.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, RwLock};

use crate::index::View;
use keypacks::Secret;
use tokio::sync::watch;

use super::chains::{self, ChainSlots, Chains, Held, KeptChains};
use super::live::{Live, LiveAccount};
use super::pads::Pads;
use super::roots::LoadedRoot;
use super::rows::{
    ACCOUNTS, ALIASES, AccountRow, DeviceRow, EXPIRIES, ONWARD, PADS, PARCELS, POOL, SETTINGS, SKIPPED, SPOOL,
};
use super::stage::{Batch, RelayStage};
use super::{RelayConfig, Shared, devices, epochs, restore};
use crate::StoreError;
use crate::base::Base;
use crate::commit::Stage;
use crate::disk::{Disk, LockGuard};
use crate::entropy::Entropy;
use crate::keyfile;
use crate::slab::RecordNumber;
use crate::slots::{SlotFile, SlotState};
use crate::tables::Single;
use crate::used::UsedKeys;

mod parts;

use parts::in_order;

/// What the accounts are loaded for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// To be served: a slot that is ahead of the database contradicts it.
    Opening,
    /// To bring a database that was put back up to the slots.
    Restoring,
}

/// Accounts whose rows and slots are read together: 128 KiB of slots.
const PART: u64 = 256;
/// Parts of a table under random keys: one for each first byte.
const RANDOM_PARTS: u64 = 256;

/// Opens or makes the files and brings slots and slab up to the database, before anyone is served.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    config: RelayConfig,
    entropy: Arc<dyn Entropy>,
) -> Result<RelayStage, StoreError> {
    let lock = Base::lock(&*disk, folder)?;
    if restore::is_interrupted(&*disk, folder)? {
        return Err(StoreError::HalfRestored);
    }
    let mut stage = files(disk, (folder, folder), lock, config, entropy)?;
    load(&mut stage)?;
    Ok(stage)
}

/// The files of a relay, with the database in the first folder and all else in the second. Nothing is looked at yet.
pub(super) fn files(
    disk: Arc<dyn Disk>,
    (database, folder): (&Path, &Path),
    lock: Box<dyn LockGuard>,
    config: RelayConfig,
    entropy: Arc<dyn Entropy>,
) -> Result<RelayStage, StoreError> {
    // The index is made last of all: where it is, the keys were.
    let fresh = !disk.list(database)?.contains(&database.join("index.redb"));
    let store_key = keyfile::load_or_create(&*disk, folder, "store", fresh, &*entropy)?;
    let slot_key = || keyfile::load_or_create(&*disk, folder, "slots", fresh, &*entropy);
    let slot_file =
        |name: &str, bytes| SlotFile::open(&*disk, &folder.join(name), slot_key()?, bytes, Arc::clone(&entropy));
    let slots = slot_file("slots", chains::SLOT_BYTES)?;
    let readable = ChainSlots::new(slot_file("slots", chains::SLOT_BYTES)?);
    let mut epochs = slot_file("epochs", epochs::SLOT_BYTES)?;
    let generation = epochs::generation(&mut epochs)?;
    let used = match config.keep_used_keys {
        true => Some(UsedKeys::new(disk.open(&folder.join("used-keys"), true)?)),
        false => None,
    };
    let base = Base::open_beside(
        Arc::clone(&disk),
        (database, folder),
        lock,
        store_key,
        config.bounds,
        Arc::clone(&entropy),
    )?;
    let shared = Arc::new(Shared {
        disk,
        base: Arc::new(base),
        config,
        live: RwLock::new(Live::default()),
        slots: readable,
        pads: RwLock::default(),
        folder: folder.to_owned(),
        generation,
        deposit_bell: watch::Sender::new(0),
        spool_bell: watch::Sender::new(0),
        aged_day: std::sync::Mutex::new(None),
    });
    let (commit, lagging, batch) = (shared.base.index.commit_number(), BTreeSet::new(), Batch::default());
    Ok(RelayStage {
        shared,
        slots,
        epochs,
        commit,
        lagging,
        recent: RefCell::default(),
        used,
        batch,
        written: None,
    })
}

/// Builds memory, hashes slots forward to the database, erases what a crash left.
fn load(stage: &mut RelayStage) -> Result<(), StoreError> {
    let shared = Arc::clone(&stage.shared);
    let epochs = epochs::load(&mut stage.epochs, stage.commit, &*shared.base.entropy)?;
    let live = {
        let read = shared.base.view()?;
        let mut live = stage.load_accounts(&read, When::Opening)?;
        live.epochs = epochs;
        load_aliases(&read, &mut live)?;
        EXPIRIES.scan(&read, (0, u64::MAX), |account, _| {
            live.ending.insert(account);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut records = load_spool(&read, &mut live)?;
        records.extend(load_skipped(&read, &mut live, &shared)?);
        records.extend(shared.records_of_roots(&read, &live)?);
        shared.base.slab.set_used(&records)?;
        *shared.pads_mut() = Pads::load(&*shared.disk, &shared.folder, &read)?;
        live
    };
    let frozen = live
        .accounts
        .iter()
        .filter(|(_, account)| account.chains.is_lost())
        .count();
    if frozen > 0 {
        tracing::error!(
            frozen,
            "key slots and database contradict each other: these accounts are frozen"
        );
    }
    *shared.live_mut() = live;
    stage.settle()
}

impl RelayStage {
    pub(super) fn load_accounts(&mut self, read: &View<'_>, when: When) -> Result<Live, StoreError> {
        let settings = SETTINGS.get(read, Single)?.unwrap_or_default();
        let onward = ONWARD.get(read, Single)?.unwrap_or_default();
        let mut live = Live {
            operator: settings.operator,
            prices: settings.prices,
            onward: Arc::new(onward.onward(settings.prices.version)),
            takes_parcels: self.shared.config.parcels,
            ..Live::default()
        };
        let Some(last) = ACCOUNTS.last_key(read, (0, u64::MAX))? else {
            return Ok(live);
        };
        // Accounts are numbered without gaps, and each has a slot.
        let count = last.saturating_add(1).min(self.slots.count()?);
        live.reserve(usize::try_from(count).map_err(|_| StoreError::Invalid)?);

        let mut on_pads = BTreeSet::new();
        PADS.scan(read, (0, u64::MAX), |account, _| {
            on_pads.insert(account);
            Ok(ControlFlow::Continue(()))
        })?;
        let roots = self.shared.load_roots(read)?;
        let devices = devices::load(read)?;
        live.devices = devices.iter().map(|(account, row)| (*account, row.house)).collect();
        let beside = &Beside {
            on_pads,
            roots,
            devices,
        };
        let (slots, commit) = (&self.slots, self.commit);
        let takes_parcels = live.takes_parcels;
        let part = |n: u64| {
            let accounts = (n * PART, last.min(n * PART + (PART - 1)));
            let mut loaded = read_accounts(read, slots, (commit, when), beside, accounts)?;
            if takes_parcels {
                for account in &mut loaded {
                    account.parcel_tags = account.live.parcel_tags();
                }
            }
            Ok(loaded)
        };
        let mut generations = Vec::new();
        let kept = match when {
            When::Opening => self.shared.config.chains_kept,
            When::Restoring => usize::MAX,
        };
        let (lagging, recent) = (&mut self.lagging, self.recent.get_mut());
        in_order(last / PART + 1, part, |loaded: Loaded| {
            generations.extend(loaded.generation.map(|generation| (loaded.account, generation)));
            if loaded.is_lagging {
                lagging.insert(loaded.account);
            }
            let mut loaded = loaded;
            let is_wanted = loaded.is_lagging || loaded.live.dropped || recent.len() < kept;
            match &mut loaded.live.chains {
                Held::Here(_) if is_wanted => recent.push_back(loaded.account),
                Held::Here(_) => loaded.live.chains = Held::InSlot,
                Held::Lost | Held::InSlot => {}
            }
            live.put_account(loaded.account, loaded.live, &loaded.tags, &loaded.parcel_tags);
        })?;
        for (account, generation) in generations {
            self.slots.note(account, generation);
        }
        if when == When::Opening {
            self.end_dropped(&mut live, beside);
        }
        Ok(live)
    }
}

impl RelayStage {
    /// A crash may have left the slot of a device that was dropped with the chains that its holder has.
    fn end_dropped(&mut self, live: &mut Live, beside: &Beside) {
        for account in beside
            .devices
            .iter()
            .filter(|(_, row)| row.dropped)
            .map(|(account, _)| *account)
        {
            let chains = live.accounts.get(account).and_then(|live| live.chains.here());
            let Some(chains) = chains else { continue };
            let nobody = Secret::from_fn(|root| self.shared.base.entropy.fill(root));
            let chains = Chains::from_root_at(chains.root(), &nobody, chains.stand());
            live.end(account, chains);
            self.lagging.insert(account);
        }
    }
}

/// What few accounts have.
struct Beside {
    on_pads: BTreeSet<u64>,
    roots: BTreeMap<u64, LoadedRoot>,
    devices: BTreeMap<u64, DeviceRow>,
}

/// An account as its row and its slot have it.
struct Loaded {
    account: u64,
    live: LiveAccount,
    /// Short names of its live link tags.
    tags: Vec<(u64, u64)>,
    /// None if parcels are not taken.
    parcel_tags: Vec<(u64, u64)>,
    /// Of its slot, if that opens.
    generation: Option<u64>,
    /// Whether the slot is behind the row, or one of its copies behind the other.
    is_lagging: bool,
}

fn read_accounts(
    read: &View<'_>,
    slots: &SlotFile,
    at: (u64, When),
    beside: &Beside,
    (first, last): (u64, u64),
) -> Result<Vec<Loaded>, StoreError> {
    let count = usize::try_from(last - first + 1).map_err(|_| StoreError::Invalid)?;
    let run = slots.read_run(first, count)?;
    let mut rows = Vec::with_capacity(count);
    ACCOUNTS.scan(read, (first, last), |account, row| {
        rows.push((account, row));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut parcels = BTreeMap::new();
    PARCELS.scan(read, (first, last), |account, row| {
        parcels.insert(account, row.base);
        Ok(ControlFlow::Continue(()))
    })?;
    let mut slots = (first..).zip(run.open());
    let mut loaded = Vec::with_capacity(rows.len());
    for (account, row) in rows {
        let (_, slot) = slots.find(|(slot, _)| *slot == account).ok_or(StoreError::Corrupt)?;
        // A slot of which neither copy opens freezes its account, no more.
        let parcels = parcels.get(&account).copied().unwrap_or_default();
        let slot = slot.ok().flatten();
        loaded.push(Loaded::new(account, (&row, parcels), slot, at, beside));
    }
    Ok(loaded)
}

impl Loaded {
    /// The chains of an account at the database's indices; none if the slot contradicts the database.
    fn new(
        account: u64,
        (row, parcels): (&AccountRow, u64),
        slot: Option<SlotState>,
        (commit, when): (u64, When),
        beside: &Beside,
    ) -> Self {
        let root = beside.roots.get(&account);
        let generation = slot.as_ref().map(|slot| slot.generation);
        let fitting = slot.filter(|slot| slot.commit <= commit || when == When::Restoring);
        let moved = fitting.and_then(|slot| {
            let (chains, moved) = match when {
                When::Opening => forward(&slot, row, parcels, root)?,
                When::Restoring => catch_up(&slot, row, parcels, root)?,
            };
            let is_fresh = Chains::parse(&slot.state).is_some_and(|before| before.root < chains.root);
            Some(((chains, is_fresh), moved || !slot.whole))
        });
        let (chains, is_lagging) = moved.unzip();
        let (chains, is_fresh) = chains.unzip();
        let live = LiveAccount {
            chains: chains
                .as_ref()
                .map_or(Held::Lost, |chains| Held::Here(KeptChains::new(chains))),
            link_keys: row.link_keys,
            waiting: row.deposits,
            postings: None,
            on_pad: beside.on_pads.contains(&account),
            root: root.map(|root| Box::new(root.live(row.link_base, is_fresh.unwrap_or_default()))),
            open_aliases: 0,
            dropped: beside.devices.get(&account).is_some_and(|device| device.dropped),
        };
        Self {
            account,
            tags: live.tags(),
            parcel_tags: Vec::new(),
            live,
            generation,
            is_lagging: is_lagging.unwrap_or_default(),
        }
    }
}

fn load_aliases(read: &View<'_>, live: &mut Live) -> Result<(), StoreError> {
    let part = |n: u64| {
        let first_byte = n.to_le_bytes()[0];
        let (mut first, mut last) = ([0; 32], [255; 32]);
        (first[0], last[0]) = (first_byte, first_byte);
        let mut rows = Vec::new();
        ALIASES.scan(read, (first, last), |name, row| {
            rows.push((name, row));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    };
    in_order(RANDOM_PARTS, part, |(name, row)| live.put_alias(name, row))
}

/// The slab records that the spool's rows name.
fn load_spool(read: &View<'_>, live: &mut Live) -> Result<BTreeSet<RecordNumber>, StoreError> {
    let part = |n: u64| {
        let first = n << 56;
        let mut rows = Vec::new();
        SPOOL.scan(read, (first, first | (u64::MAX >> 8)), |id, row| {
            rows.push((id, row.record, epochs::queued(&row)));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    };
    let mut mixed = BTreeMap::new();
    POOL.scan(read, (0, u64::MAX), |id, mix| {
        mixed.insert(id, mix);
        Ok(ControlFlow::Continue(()))
    })?;
    let (mut records, mut lost) = (BTreeSet::new(), 0);
    in_order(RANDOM_PARTS, part, |(id, record, mut queued)| {
        queued.mix = mixed.get(&id).copied();
        records.insert(record);
        // A database restored beside newer slots: the delivery cannot be opened any more.
        match live.epochs.key(queued.epoch) {
            Some(_) => live.queue.put(id, queued),
            None => lost += 1,
        }
    })?;
    if lost > 0 {
        tracing::error!(
            lost,
            "deliveries of an erased epoch: the database was restored from a copy"
        );
    }
    Ok(records)
}

/// The slab records of skipped parcel keys. The slab is read as it is: none of its records was overwritten yet.
fn load_skipped(read: &View<'_>, live: &mut Live, shared: &Shared) -> Result<BTreeSet<RecordNumber>, StoreError> {
    let (mut records, mut lost) = (BTreeSet::new(), 0);
    SKIPPED.scan(read, ((0, 0), (u64::MAX, u64::MAX)), |(account, index), row| {
        records.insert(row.record);
        // A database restored beside a newer slab: the key cannot be had any more.
        match shared.open_skipped(index, &row) {
            Ok(step) => live.parcels.add_skipped(account, index, &step.tag),
            Err(_) => lost += 1,
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if lost > 0 {
        tracing::error!(
            lost,
            "keys of skipped parcels do not open: the database was restored from a copy"
        );
    }
    Ok(records)
}

/// A slot's chains where the newer of slot and rows is, chain by chain, and whether that moved them.
fn catch_up(slot: &SlotState, row: &AccountRow, parcels: u64, root: Option<&LoadedRoot>) -> Option<(Chains, bool)> {
    let mut chains = Chains::parse(&slot.state)?;
    let at = (
        chains.root,
        chains.link.index(),
        chains.post.index(),
        chains.parcel.index(),
    );
    if chains.root < root.map_or(0, |root| root.number) {
        chains = root?.begin()?;
    }
    chains.link.forward_to(chains.link.index().max(row.link_base)).ok()?;
    chains.post.forward_to(chains.post.index().max(row.post_next)).ok()?;
    chains.parcel.forward_to(chains.parcel.index().max(parcels)).ok()?;
    let to = (
        chains.root,
        chains.link.index(),
        chains.post.index(),
        chains.parcel.index(),
    );
    Some((chains, to != at))
}

/// A slot's chains hashed forward to the rows' indices, and whether that moved them. `None` if the slot is ahead.
pub(super) fn forward(
    slot: &SlotState,
    row: &AccountRow,
    parcels: u64,
    root: Option<&LoadedRoot>,
) -> Option<(Chains, bool)> {
    let mut chains = Chains::parse(&slot.state)?;
    let before = (
        chains.root,
        chains.link.index(),
        chains.post.index(),
        chains.parcel.index(),
    );
    let number = root.map_or(0, |root| root.number);
    match chains.root.cmp(&number) {
        Ordering::Equal => {}
        // Killed behind the commit that changed the root.
        Ordering::Less => chains = root?.begin()?,
        Ordering::Greater => return None,
    }
    chains.link.forward_to(row.link_base).ok()?;
    chains.post.forward_to(row.post_next).ok()?;
    chains.parcel.forward_to(parcels).ok()?;
    Some((chains, before != (number, row.link_base, row.post_next, parcels)))
}
