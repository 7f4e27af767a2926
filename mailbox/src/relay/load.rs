//! Opening the relay's store, and building its memory from the disk.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, RwLock};

use crate::index::View;
use tokio::sync::watch;

use super::chains::{self, Chains};
use super::live::{Epochs, Live, LiveAccount};
use super::rows::{ACCOUNTS, ALIASES, AccountRow, SETTINGS, SPOOL};
use super::stage::{Batch, RelayStage};
use super::{RelayConfig, Shared, epochs};
use crate::StoreError;
use crate::base::Base;
use crate::commit::Stage;
use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::keyfile;
use crate::slots::{SlotFile, SlotState};
use crate::tables::Single;
use crate::used::UsedKeys;

/// Opens or makes the files and brings slots and slab up to the database, before anyone is served.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    config: RelayConfig,
    entropy: Arc<dyn Entropy>,
) -> Result<RelayStage, StoreError> {
    let lock = Base::lock(&*disk, folder)?;
    // The index is made last of all: where it is, the keys were.
    let fresh = !disk.list(folder)?.contains(&folder.join("index.redb"));
    let store_key = keyfile::load_or_create(&*disk, folder, "store", fresh, &*entropy)?;
    let slot_key = || keyfile::load_or_create(&*disk, folder, "slots", fresh, &*entropy);
    let slot_file =
        |name: &str, bytes| SlotFile::open(&*disk, &folder.join(name), slot_key()?, bytes, Arc::clone(&entropy));
    let slots = slot_file("slots", chains::SLOT_BYTES)?;
    let epochs = slot_file("epochs", epochs::SLOT_BYTES)?;
    let used = match config.keep_used_keys {
        true => Some(UsedKeys::new(disk.open(&folder.join("used-keys"), true)?)),
        false => None,
    };
    let base = Base::open(
        Arc::clone(&disk),
        folder,
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
        deposit_bell: watch::Sender::new(0),
        spool_bell: watch::Sender::new(0),
        aged_day: std::sync::Mutex::new(None),
    });
    let (commit, lagging, batch) = (0, BTreeSet::new(), Batch::default());
    let mut stage = RelayStage {
        shared,
        slots,
        epochs,
        commit,
        lagging,
        used,
        batch,
    };
    load(&mut stage)?;
    Ok(stage)
}

/// Builds memory, hashes slots forward to the database, erases what a crash left.
fn load(stage: &mut RelayStage) -> Result<(), StoreError> {
    let shared = Arc::clone(&stage.shared);
    stage.commit = shared.base.index.commit_number();
    let epochs = epochs::load(&mut stage.epochs, stage.commit, &*shared.base.entropy)?;
    let mut loader = Loader {
        shared: &shared,
        slots: &mut stage.slots,
        commit: stage.commit,
        lagging: BTreeSet::new(),
    };
    let live = loader.live(&shared.base.view()?, epochs)?;
    stage.lagging = loader.lagging;
    let frozen = live
        .accounts
        .values()
        .filter(|account| account.chains.is_none())
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

struct Loader<'l> {
    shared: &'l Shared,
    slots: &'l mut SlotFile,
    commit: u64,
    lagging: BTreeSet<u64>,
}

impl Loader<'_> {
    fn live(&mut self, read: &View<'_>, epochs: Epochs) -> Result<Live, StoreError> {
        let settings = SETTINGS.get(read, Single)?.unwrap_or_default();
        let mut live = Live {
            operator: settings.operator,
            prices: settings.prices,
            epochs,
            ..Live::default()
        };
        ACCOUNTS.scan(read, (0, u64::MAX), |account, row| {
            let chains = self.chains(account, &row)?;
            let waiting = row.deposits;
            live.accounts.insert(
                account,
                LiveAccount {
                    chains,
                    link_keys: row.link_keys,
                    waiting,
                    postings: None,
                },
            );
            live.deposits += waiting;
            live.add_tags(account);
            Ok(ControlFlow::Continue(()))
        })?;
        ALIASES.scan(read, ([0; 32], [255; 32]), |name, row| {
            live.put_alias(name, row);
            Ok(ControlFlow::Continue(()))
        })?;
        self.spool(read, &mut live)?;
        Ok(live)
    }

    fn spool(&mut self, read: &View<'_>, live: &mut Live) -> Result<(), StoreError> {
        let base = &self.shared.base;
        let (mut records, mut lost) = (BTreeSet::new(), 0);
        SPOOL.scan(read, (0, u64::MAX), |id, row| {
            records.insert(row.record);
            // A database restored beside newer slots: the delivery cannot be opened any more.
            match live.epochs.key(row.epoch) {
                Some(_) => live.queue.put(id, epochs::queued(&row)),
                None => lost += 1,
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if lost > 0 {
            tracing::error!(
                lost,
                "deliveries of an erased epoch: the database was restored from a copy"
            );
        }
        base.slab.set_used(&records)
    }

    /// The chains of an account at the database's indices. `None`: the slot contradicts the database.
    fn chains(&mut self, account: u64, row: &AccountRow) -> Result<Option<Chains>, StoreError> {
        let slot = match self.slots.read(account) {
            Ok(Some(slot)) if slot.commit <= self.commit => slot,
            Ok(_) | Err(StoreError::Corrupt) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((chains, moved)) = forward(&slot, row) else {
            return Ok(None);
        };
        if moved || !slot.whole {
            self.lagging.insert(account);
        }
        Ok(Some(chains))
    }
}

/// A slot's chains hashed forward to the row's indices, and whether that moved them. `None` if the slot is ahead.
pub(super) fn forward(slot: &SlotState, row: &AccountRow) -> Option<(Chains, bool)> {
    let mut chains = Chains::parse(&slot.state)?;
    let before = (chains.link.index(), chains.post.index());
    chains.link.forward_to(row.link_base).ok()?;
    chains.post.forward_to(row.post_next).ok()?;
    Some((chains, before != (row.link_base, row.post_next)))
}
