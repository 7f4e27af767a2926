//! What the committer of the relay's store works on.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::index::Write;
use keypacks::chain::{BoxChain, BoxStep};

use super::Shared;
use super::books::Books;
use super::chains::{Held, KeptChains};
use super::live::{Effect, Live, LiveAccount};
use super::rows::{ACCOUNTS, AccountRow};
use crate::StoreError;
use crate::base::Base;
use crate::commit::Stage;
use crate::slots::{SlotFile, SlotUpdate};
use crate::used::UsedKeys;

/// Owned by the committer alone; what readers need is in [`Shared`].
pub(super) struct RelayStage {
    pub(super) shared: Arc<Shared>,
    pub(super) slots: SlotFile,
    pub(super) epochs: SlotFile,
    /// Number of the last commit.
    pub(super) commit: u64,
    /// Accounts whose slot lags behind the database.
    pub(super) lagging: BTreeSet<u64>,
    /// Accounts whose chains are in memory, those first that came first.
    pub(super) recent: RefCell<VecDeque<u64>>,
    pub(super) used: Option<UsedKeys>,
    pub(super) batch: Batch,
    /// What is being written: the batch under way stands on it.
    pub(super) written: Option<Batch>,
}

/// What a commit will mean for memory.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) effects: Vec<Effect>,
    /// Post chains as this batch has moved them.
    pub(super) posts: BTreeMap<u64, BoxChain>,
    /// Parcel chains as this batch has moved them.
    pub(super) parcels: BTreeMap<u64, BoxChain>,
    /// Postings of the accounts that this batch counted.
    pub(super) postings: RefCell<BTreeMap<u64, u64>>,
    /// Accounts whose root this batch wrote.
    pub(super) roots: BTreeSet<u64>,
    /// Accounts that this batch ordered to end.
    pub(super) ending: BTreeSet<u64>,
    /// Accounts whose row as a device this batch wrote.
    pub(super) devices: BTreeSet<u64>,
    /// Slots of new accounts.
    pub(super) slots: Vec<SlotUpdate>,
    /// Deliveries added.
    pub(super) queued: usize,
    /// Deliveries left the pool.
    pub(super) is_released: bool,
    pub(super) deposited: bool,
}

impl Batch {
    /// The account that was issued last has a pad.
    pub(super) fn is_on_pad(&mut self) {
        if let Some(Effect::Issued { on_pad, .. }) = self.effects.last_mut() {
            *on_pad = true;
        }
    }

    /// Whether operations may be judged on top of this batch while memory does not have its effects yet: it has none but those
    /// of deposits and submissions, each of which [`RelayStage`] layers, or nothing that is judged ahead
    /// ([`crate::commit::Committer::run_ahead`]) looks at.
    fn is_simple(&self) -> bool {
        let Self {
            effects,
            // Layered by `take`.
            posts: _,
            parcels,
            // Layered by `books`.
            postings: _,
            roots,
            ending,
            devices,
            // Written to their file before the batch is, and always with an account that was issued.
            slots: _,
            // Layered by `queued`.
            queued: _,
            // They ring when the batch is durable.
            is_released: _,
            deposited: _,
        } = self;
        let is_simple = |effect: &Effect| match effect {
            Effect::Posted { .. } | Effect::Waiting { .. } | Effect::Queued { .. } => true,
            Effect::Issued { .. }
            | Effect::Burned { .. }
            | Effect::Rerooted { .. }
            | Effect::Settled { .. }
            | Effect::Frozen { .. }
            | Effect::Ends { .. }
            | Effect::Stays { .. }
            | Effect::Extent { .. }
            | Effect::Joined { .. }
            | Effect::Dropped { .. }
            | Effect::Arrived { .. }
            | Effect::Skipped { .. }
            | Effect::SkippedNoMore { .. }
            | Effect::Alias { .. }
            | Effect::Finished { .. }
            | Effect::Prices(_)
            | Effect::Onward(_) => false,
        };
        parcels.is_empty()
            && roots.is_empty()
            && ending.is_empty()
            && devices.is_empty()
            && effects.iter().all(is_simple)
    }

    /// What comes for the account that was issued last may be in this batch already: its chains are found here.
    pub(super) fn may_be_deposited_to(&mut self) {
        if let Some(Effect::Issued { account, chains, .. }) = self.effects.last() {
            self.posts.insert(*account, chains.post.duplicate());
            self.parcels.insert(*account, chains.parcel.duplicate());
        }
    }
}

impl RelayStage {
    /// An account's row. `NoRow`: there is none. `RestoredDatabase`: it is frozen.
    pub(super) fn account(&self, write: &Write<'_>, account: u64) -> Result<AccountRow, StoreError> {
        self.bring(account)?;
        let row = ACCOUNTS.get(write, account)?.ok_or(StoreError::NoRow)?;
        match self.shared.live().accounts.get(account) {
            Some(LiveAccount { chains: Held::Lost, .. }) => Err(StoreError::RestoredDatabase),
            _ => Ok(row),
        }
    }

    pub(super) fn put_account(&self, write: &Write<'_>, account: u64, row: &AccountRow) -> Result<(), StoreError> {
        ACCOUNTS.put(write, account, row)
    }

    /// Deliveries in the spool with those that are on their way there.
    pub(super) fn queued(&self) -> usize {
        let written = self.written.as_ref().map_or(0, |written| written.queued);
        self.shared.live().queue.len() + written + self.batch.queued
    }

    /// Accounts and journal for one transfer of this holder.
    pub(super) fn books<'t>(&'t self, write: &'t Write<'t>, holder: u64) -> Books<'t> {
        let written = || self.written.as_ref()?.postings.borrow().get(&holder).copied();
        let known = || self.shared.live().accounts.get(holder)?.postings;
        if let Some(count) = written().or_else(known) {
            self.batch.postings.borrow_mut().entry(holder).or_insert(count);
        }
        Books {
            write,
            vault: &self.shared.base.vault,
            is_fresh: false,
            counts: &self.batch.postings,
        }
    }

    /// Has the chains of an account in memory, where commits change them, until others were brought. A slot that does not open
    /// freezes its account, as it does when the store is opened.
    pub(super) fn bring(&self, account: u64) -> Result<(), StoreError> {
        let is_away = |live: &LiveAccount| matches!(live.chains, Held::InSlot);
        if !self.shared.live().accounts.get(account).is_some_and(is_away) {
            return Ok(());
        }
        // The slot is what it was when they left: the committer alone writes it.
        let read = self.shared.slots.read(account);
        if let Some(live) = self.shared.live_mut().accounts.get_mut(account) {
            match &read {
                Ok(_) => self.recent.borrow_mut().push_back(account),
                Err(StoreError::Corrupt) => {
                    live.chains = Held::Lost;
                    tracing::error!("a key slot does not open: its account is frozen");
                }
                Err(_) => {}
            }
            live.chains = Held::Here(read?);
        }
        Ok(())
    }

    /// Lets the chains go that came first, where there are more than are kept.
    fn let_go(&mut self) {
        let kept = self.shared.config.chains_kept;
        let recent = self.recent.get_mut();
        if recent.len() <= kept {
            return;
        }
        let mut live = self.shared.live_mut();
        for _ in kept..recent.len() {
            let Some(account) = recent.pop_front() else { return };
            if self.lagging.contains(&account) {
                recent.push_back(account);
            } else if let Some(live) = live.accounts.get_mut(account)
                && !live.chains.is_lost()
            {
                live.chains = Held::InSlot;
            }
        }
    }

    /// Takes the post key of `index`, which must be the account's next one.
    ///
    /// Memory moves on with the commit; if it fails, the same key is taken again.
    pub(super) fn take_post(&mut self, account: u64, index: u64) -> Result<BoxStep, StoreError> {
        self.bring(account)?;
        let written = self.written.as_ref().map(|written| &written.posts);
        take(
            &self.shared,
            (&mut self.batch.posts, written),
            KeptChains::post,
            account,
            index,
        )
    }

    /// Takes the parcel key of `index`, as [`Self::take_post`] does.
    pub(super) fn take_parcel(&mut self, account: u64, index: u64) -> Result<BoxStep, StoreError> {
        self.bring(account)?;
        let written = self.written.as_ref().map(|written| &written.parcels);
        take(
            &self.shared,
            (&mut self.batch.parcels, written),
            KeptChains::parcel,
            account,
            index,
        )
    }

    /// Writes the slots that lag, both copies.
    fn write_slots(&mut self) -> Result<(), StoreError> {
        let updates: Vec<_> = {
            let live = self.shared.live();
            let state = |account: &u64| Some(live.accounts.get(*account)?.chains.here()?.to_state());
            let update = |account: &u64| {
                Some(SlotUpdate {
                    slot: *account,
                    commit: self.commit,
                    state: state(account)?,
                })
            };
            self.lagging.iter().filter_map(update).collect()
        };
        self.slots.write(&updates)?;
        let mut live = self.shared.live_mut();
        for account in std::mem::take(&mut self.lagging) {
            // The slot has the chains of the root now, in both copies: what they began with is finished.
            let root = live.accounts.get_mut(account).and_then(|live| live.root.as_mut());
            if let Some(record) = root.and_then(|root| root.fresh.take()) {
                self.shared.base.slab.finish_now(record);
            }
        }
        Ok(())
    }

    fn note_used(&mut self, live: &Live, effect: &Effect) {
        let Some(used) = &mut self.used else { return };
        let chains = |account: &u64| live.accounts.get(*account).and_then(|live| live.chains.here());
        match effect {
            Effect::Burned { account, base } => {
                chains(account)
                    .into_iter()
                    .for_each(|chains| used.note_link(&chains.link(), *base));
            }
            Effect::Posted { account, chain } => {
                chains(account)
                    .into_iter()
                    .for_each(|chains| used.note_boxes(&chains.post(), chain.index()));
            }
            Effect::Arrived { account, chain } => {
                chains(account)
                    .into_iter()
                    .for_each(|chains| used.note_boxes(&chains.parcel(), chain.index()));
            }
            Effect::Rerooted { account, .. } => {
                for chain in chains(account)
                    .into_iter()
                    .flat_map(|chains| [chains.post(), chains.parcel()])
                {
                    used.note_boxes(&chain, chain.index() + 1);
                }
            }
            Effect::Settled { account } => {
                let root = live.accounts.get(*account).and_then(|live| live.root.as_ref());
                if let Some(old) = root.and_then(|root| root.old.as_ref()) {
                    used.note_link(old, old.index() + 1);
                }
            }
            _ => {}
        }
    }
}

/// Takes a key of a chain that the batch may have moved already, or the one before it, which is being written.
fn take(
    shared: &Shared,
    (moved, written): (&mut BTreeMap<u64, BoxChain>, Option<&BTreeMap<u64, BoxChain>>),
    chain: impl FnOnce(&KeptChains) -> BoxChain,
    account: u64,
    index: u64,
) -> Result<BoxStep, StoreError> {
    let chain = match moved.entry(account) {
        Entry::Occupied(moved) => moved.into_mut(),
        Entry::Vacant(unmoved) => unmoved.insert(match written.and_then(|written| written.get(&account)) {
            Some(written) => written.duplicate(),
            None => {
                let live = shared.live();
                let chains = live.accounts.get(account).and_then(|live| live.chains.here());
                chain(chains.ok_or(StoreError::Corrupt)?)
            }
        }),
    };
    if chain.index() != index {
        return Err(StoreError::Corrupt);
    }
    Ok(chain.advance())
}

impl Stage for RelayStage {
    fn base(&self) -> &Arc<Base> {
        &self.shared.base
    }

    /// New slots come before the commit that makes their accounts: a crash between leaves a slot without account, which
    /// the next issue overwrites. Chains that the batch changes are brought now, as what was committed must not fail.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let changed: Vec<u64> = self.batch.effects.iter().filter_map(Effect::chains_changed).collect();
        for account in changed {
            match self.bring(account) {
                // Frozen: there is nothing to be changed.
                Ok(()) | Err(StoreError::Corrupt) => {}
                Err(error) => return Err(error),
            }
        }
        self.slots.write(&std::mem::take(&mut self.batch.slots))
    }

    fn written(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.written.insert(batch).is_simple()
    }

    fn committed(&mut self, number: u64) {
        self.commit = number;
        let batch = self.written.take();
        let Batch {
            mut effects,
            posts,
            parcels,
            roots: _,
            ending: _,
            devices: _,
            slots: _,
            postings,
            queued,
            is_released,
            deposited,
        } = batch.unwrap_or_else(|| std::mem::take(&mut self.batch));
        effects.extend(
            posts
                .into_iter()
                .map(|(account, chain)| Effect::Posted { account, chain }),
        );
        effects.extend(
            parcels
                .into_iter()
                .map(|(account, chain)| Effect::Arrived { account, chain }),
        );
        let shared = Arc::clone(&self.shared);
        let mut live = shared.live_mut();
        for effect in effects {
            self.note_used(&live, &effect);
            if let Effect::Burned { account, .. }
            | Effect::Rerooted { account, .. }
            | Effect::Dropped { account, .. }
            | Effect::Posted { account, .. }
            | Effect::Arrived { account, .. } = effect
            {
                self.lagging.insert(account);
            }
            if let Effect::Issued { account, .. } = effect {
                self.recent.get_mut().push_back(account);
            }
            live.apply(effect);
        }
        for (account, count) in postings.into_inner() {
            if let Some(live) = live.accounts.get_mut(account) {
                live.postings = Some(count);
            }
        }
        drop(live);
        if queued > 0 || is_released {
            shared.spool_bell.send_modify(|count| *count += 1);
        }
        if deposited {
            shared.deposit_bell.send_modify(|count| *count += 1);
        }
    }

    fn abandoned(&mut self) {
        self.batch = Batch::default();
    }

    fn failed(&mut self) {
        self.written = None;
    }

    fn is_unsettled(&self) -> bool {
        let has_too_many = self.recent.borrow().len() > self.shared.config.chains_kept;
        has_too_many || !self.lagging.is_empty() || self.shared.base.slab.is_due()
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.write_slots()?;
        self.let_go();
        if let Some(used) = &mut self.used {
            used.write()?;
        }
        self.shared.base.slab.erase()
    }

    fn commit_of(&self) -> Option<usize> {
        self.shared.config.commit_of
    }
}
