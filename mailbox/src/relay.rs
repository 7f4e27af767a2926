//! [`RelayStore`](crate::relay_store::RelayStore) in files: one folder, one process.
//!
//! ```text
//! lock                      held by the process that has the store open
//! store.key, slots.key      keys of the vault and of the slots, each with its copy
//! segment-NNNNNN            the log: bodies (messages of the spool, deposits) and changed rows, sealed
//! index.redb                rows (relay/rows.rs) that the index took over from the log, sealed
//! slots                     chain states of the accounts
//! epochs                    epoch keys of the spool
//! pads/NAME                 one-time pads of accounts, which keep their own place
//! slab                      records that the spool's row keys are made from
//! ```
//!
//! Reads go to the index and to what is live in memory; everything that writes goes through group commit ([`crate::commit`]).

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::StoreError;
use crate::base::{Base, Bounds};
use crate::commit::{Committer, committer};
use crate::disk::Disk;
use crate::entropy::Entropy;

mod accounts;
mod aliases;
mod audit;
mod books;
mod chains;
mod changes;
mod credit;
mod deposits;
mod devices;
mod epochs;
mod expiry;
mod live;
mod load;
mod moves;
mod operations;
mod pads;
mod pages;
mod parcel_tags;
mod parcels;
mod procure;
mod queue;
mod restore;
mod roots;
mod rows;
mod short_tags;
mod spool;
mod stage;
mod upkeep;
mod verify;

pub use aliases::{ABUSE, ALIASES_MAX, POSTMASTER};
pub use moves::{SPLITS_PER_DAY, VOUCHER_DAYS};
pub use procure::{ENDOWED_DAYS, ENDOWED_PER_DAY, PROCURING_MAX};
pub use restore::{Restore, Restored};
pub use spool::ACCEPTED_STEP_S;
pub use upkeep::{ANSWER_DAYS, TOMBSTONE_DAYS};

use chains::{ChainSlots, Held, KeptChains};
use live::{Live, LiveAccount};
use pads::Pads;
use stage::RelayStage;

/// Bounds and switches of a relay's store.
#[derive(Clone, Copy, Debug)]
pub struct RelayConfig {
    /// How much may be committed before the index takes it over.
    pub bounds: Bounds,
    /// Most deposits that wait for one alias; more mail is answered [`StoreError::Busy`]. A bound on the account would
    /// make its aliases answer alike, and so show that they belong together.
    pub deposits_max: u64,
    /// Most deliveries in the spool; more submissions are answered
    /// [`Refusal::Busy`](crate::request::Refusal::Busy).
    pub spool_max: usize,
    /// Whether parcels are taken. Their tags take some hundred octets of memory for every pack.
    pub parcels: bool,
    /// Most accounts whose chain states stay in memory, 176 bytes each, once their slots have them: those that were brought
    /// last. Those of others are read when they are used.
    pub chains_kept: usize,
    /// **For tests only**: keeps every used chain state in memory and in a file `used-keys`, so that a search for used
    /// keys can be shown to find them.
    pub keep_used_keys: bool,
    /// From how many operations in sight on the next commit is judged while one is written. To hand a record to another thread
    /// and to hear of it takes about as long as it takes to judge sixteen.
    pub overlap_from: usize,
    /// **For measurements only**: each commit waits for so many operations and takes no more; a store that is closed does
    /// not wait. `None`: what waits already shares a commit.
    pub commit_of: Option<usize>,
}

/// See [`RelayConfig::overlap_from`].
const OVERLAP_FROM: usize = 64;

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            bounds: Bounds::LARGE,
            deposits_max: 10_000,
            spool_max: 100_000,
            parcels: false,
            chains_kept: 32_768,
            keep_used_keys: false,
            overlap_from: OVERLAP_FROM,
            commit_of: None,
        }
    }
}

/// The relay's store in files. Clones share it.
#[derive(Clone)]
pub struct RelayFiles {
    shared: Arc<Shared>,
    committer: Committer<RelayStage>,
}

/// What readers and the committer share.
struct Shared {
    disk: Arc<dyn Disk>,
    base: Arc<Base>,
    config: RelayConfig,
    live: RwLock<Live>,
    slots: ChainSlots,
    pads: RwLock<Pads>,
    folder: PathBuf,
    /// 0: the database was never restored. See [`Restore`].
    generation: u64,
    deposit_bell: watch::Sender<u64>,
    spool_bell: watch::Sender<u64>,
    /// Day and retention of the last daily upkeep.
    aged_day: Mutex<Option<(u32, u32)>>,
}

impl Shared {
    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the chains of an account, wherever they are, and at what else memory has of it. `None`: there is no such account, or
    /// its chains are lost.
    ///
    /// What is read from a slot may have moved on meanwhile, as it may at any time before a commit, which judges.
    fn chains_of<T, U>(
        &self,
        account: u64,
        look: impl Fn(&KeptChains) -> T,
        beside: impl FnOnce(&LiveAccount) -> U,
    ) -> Result<Option<(T, U)>, StoreError> {
        let beside = {
            let live = self.live();
            let Some(found) = live.accounts.get(account) else {
                return Ok(None);
            };
            match &found.chains {
                Held::Lost => return Ok(None),
                Held::Here(chains) => return Ok(Some((look(chains), beside(found)))),
                Held::InSlot => beside(found),
            }
        };
        // Without the lock: a disk that takes long keeps nobody else.
        let chains = self.slots.read(account)?;
        Ok(Some((look(&chains), beside)))
    }

    fn pads(&self) -> RwLockReadGuard<'_, Pads> {
        self.pads.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pads_mut(&self) -> RwLockWriteGuard<'_, Pads> {
        self.pads.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn aged_day(&self) -> MutexGuard<'_, Option<(u32, u32)>> {
        self.aged_day.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayFiles {
    /// Opens or makes the store in `folder` and brings slots and slab up to the database.
    ///
    /// `spawn` is given what is to run besides, the committer, the syncer and the keeper: on a real host each by
    /// [`crate::commit::on_thread`], since they block on the disk.
    /// Errors: [`StoreError::Locked`] if another process has it open, [`StoreError::Corrupt`] if a key file is lost.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        config: RelayConfig,
        entropy: Arc<dyn Entropy>,
        mut spawn: impl FnMut(Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> Result<Self, StoreError> {
        let stage = load::open(disk, folder, config, entropy)?;
        let shared = Arc::clone(&stage.shared);
        let (committer, actor, keeper) = committer(stage);
        let (actor, syncer) = actor.with_syncer(config.overlap_from);
        spawn(Box::pin(actor.run()));
        spawn(Box::pin(syncer.run()));
        spawn(Box::pin(keeper.run()));
        Ok(Self { shared, committer })
    }

    /// Commits what waits, erases what is finished with and closes the files; the folder can be opened again then.
    pub async fn close(self) {
        self.committer.stop().await;
    }

    /// Accounts whose slot contradicts the database: they are frozen, see [`StoreError::RestoredDatabase`].
    pub fn frozen(&self) -> u64 {
        self.shared
            .live()
            .accounts
            .iter()
            .filter(|(_, account)| account.chains.is_lost())
            .count() as u64
    }
}

#[cfg(test)]
mod tests;
