//! The store itself: how it is opened, and [`HolderStore`] over books and stage.

use std::path::Path;
use std::sync::Arc;

use keypacks::Secret;
use keypacks::chain::{BoxStep, LinkStep};
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use ledger::PriceList;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::books::Books;
use super::create;
use super::rows::{FACTS, FactsRow, write_aliases};
use super::shelf::Shelf;
use super::stage::{self, HolderStage, Shown};
use crate::StoreError;
use crate::base::Bounds;
use crate::commit::{self, Committer};
use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::holder_store::{
    FlagChange, Flags, HolderAlias, HolderStore, LinkPosition, OpenedDeposit, OutboxOrder, OutboxRow, OutboxState,
    PackFacts, PendingDeposit, Reserved, Snapshot, ValueMirror,
};
use crate::index::Write;
use crate::request::{Answer, Operation};
use crate::tables::Single;
use crate::used::UsedKeys;

/// Most aliases that are remembered.
const ALIASES_MAX: usize = 4_096;

/// How a holder's store behaves. The default is right for all but tests.
#[derive(Clone, Copy)]
pub struct HolderOptions {
    /// How much may be committed before the index takes it over.
    pub bounds: Bounds,
    /// What a guess at the passphrase costs, for stores that are made.
    pub passphrase_cost: PassphraseCost,
    /// **For tests only**: keeps every used chain state in memory and in a file `used-keys`, so that a search for used
    /// keys can be shown to find them.
    pub keep_used_keys: bool,
}

impl Default for HolderOptions {
    fn default() -> Self {
        Self {
            bounds: Bounds::SMALL,
            passphrase_cost: PassphraseCost::DEFAULT,
            keep_used_keys: false,
        }
    }
}

/// The store of one pack's holder. Clones share it; the folder is free again when the last one is gone and the
/// actor has ended.
#[derive(Clone)]
pub struct HolderFiles {
    pub(super) shelf: Arc<Shelf>,
    shown: Arc<Shown>,
    committer: Committer<HolderStage>,
    facts: Arc<PackFacts>,
}

impl HolderFiles {
    /// Makes a store from what a pack file holds. Whoever calls it overwrites the pack's root afterwards:
    /// [`super::init_from_pack`] does both. [`StoreError::Invalid`]: the folder holds a store already.
    pub fn create(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        issue: &Issue,
        passphrase: &[u8],
        options: &HolderOptions,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(), StoreError> {
        create::create(disk, folder, issue, passphrase, options, entropy)
    }

    /// Opens a store. Takes as long as the passphrase costs.
    ///
    /// The future is the committing actor and its keeper, which must run for operations to be answered: on a thread of its own
    /// ([`commit::on_thread`]), since it blocks on the disk, or within a simulation. It ends when the last clone of
    /// the store is gone.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        passphrase: &[u8],
        options: &HolderOptions,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), StoreError> {
        let (base, slots_key) = create::open_base(disk, folder, passphrase, options.bounds, entropy)?;
        let shelf = Arc::new(Shelf::new(base));
        let mut slots = create::open_slots(&**disk, folder, slots_key, entropy)?;
        let commit = shelf.base.index.commit_number();
        let (link, post) = stage::read_slot(&mut slots, commit)?;
        let (books, used) = Books::load(&shelf, &shelf.base.view()?, &link, &post, (1, 1))?;
        shelf.base.slab.set_used(&used)?;
        let facts = FACTS.get(&shelf.base.view()?, Single)?;
        let facts = Arc::new(facts.ok_or(StoreError::Corrupt)?.into());
        let used = match options.keep_used_keys {
            true => Some(UsedKeys::new(disk.open(&folder.join("used-keys"), true)?)),
            false => None,
        };
        let shown = Arc::new(Shown::new(books));
        let stage = HolderStage::new(Arc::clone(&shelf), Arc::clone(&shown), slots, commit, used)?;
        let (committer, actor, keeper) = commit::committer(stage);
        let both = async move {
            tokio::join!(actor.run(), keeper.run());
        };
        Ok((
            Self {
                shelf,
                shown,
                committer,
                facts,
            },
            both,
        ))
    }

    /// Commits what waits, erases what is finished, lets files and lock go; returns when that is done.
    pub async fn stop(&self) {
        self.committer.stop().await;
    }

    pub(super) fn books(&self) -> Arc<Books> {
        self.shown.books()
    }

    async fn run<T: Send + 'static>(
        &self,
        apply: impl FnMut(&mut HolderStage, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.committer.run(apply).await
    }
}

impl From<FactsRow> for PackFacts {
    fn from(row: FactsRow) -> Self {
        let FactsRow {
            identifier,
            relay_address,
            relay_domain,
            relay_public,
        } = row;
        PackFacts {
            identifier: Identifier(identifier),
            relay_address,
            relay_domain,
            relay_public,
        }
    }
}

impl HolderStore for HolderFiles {
    fn facts(&self) -> PackFacts {
        PackFacts::clone(&self.facts)
    }

    fn derive(&self, purpose: &str) -> Secret<32> {
        self.shelf.base.vault.derive(purpose)
    }

    fn link_position(&self) -> LinkPosition {
        self.books().state.link
    }

    fn link_step(&self, index: u64) -> Option<LinkStep> {
        self.books().link_step(index)
    }

    fn link_token(&self) -> [u8; 16] {
        self.books().state.token
    }

    async fn reserve_link(&self, index: u64) -> Result<Reserved, StoreError> {
        self.run(move |stage, write| stage.reserve_link(write, index)).await?;
        Ok(Reserved { index })
    }

    async fn link_answered(&self, index: u64, token: [u8; 16]) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.link_answered(write, index, token))
            .await
    }

    async fn enqueue(&self, order: OutboxOrder) -> Result<u64, StoreError> {
        self.run(move |stage, write| stage.enqueue(write, &order)).await
    }

    async fn raise_seq(&self, highest: u64) -> Result<(), StoreError> {
        let state = &self.books().state;
        if highest < state.next_seq && highest <= state.answered_seq {
            return Ok(());
        }
        self.run(move |stage, write| stage.raise_seq(write, highest)).await
    }

    async fn enqueue_change(&self, operation: Operation, label: String, now: u64) -> Result<u64, StoreError> {
        self.run(move |stage, write| stage.enqueue_change(write, &operation, &label, now))
            .await
    }

    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.books().outbox_rows())
    }

    fn next_queued(&self) -> Result<Option<OutboxRow>, StoreError> {
        Ok(self.books().next_queued())
    }

    fn outbox_body(&self, row: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let books = self.books();
        let Some(row) = books.outbox.get(&row) else {
            return Ok(None);
        };
        let Some(location) = row.entry.body else {
            return Ok(None);
        };
        if row.entry.state == OutboxState::Queued && !row.hold.send() {
            return Ok(None);
        }
        let mut body = self.shelf.body(&self.shelf.key(row.record)?, location)?;
        Ok(Some(std::mem::take(&mut *body)))
    }

    fn outbox_changed(&self) -> watch::Receiver<u64> {
        self.shown.outbox_changed()
    }

    async fn answered(&self, row: u64, answer: Answer, notice: Option<Vec<u8>>, now: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.answered(write, row, &answer, notice.as_deref(), now))
            .await
    }

    async fn release_held(&self, prices: PriceList, balance: u64) -> Result<usize, StoreError> {
        if self.books().held().is_empty() {
            return Ok(0);
        }
        self.run(move |stage, write| stage.release_held(write, &prices, balance))
            .await
    }

    async fn cancel(&self, row: u64) -> Result<bool, StoreError> {
        let outcome = self.run(move |stage, write| stage.cancel(write, row)).await;
        if outcome.is_err()
            && let Some(row) = self.books().outbox.get(&row)
        {
            row.hold.withdraw_cancel();
        }
        outcome
    }

    fn reserved(&self) -> Result<u64, StoreError> {
        Ok(self.books().reserved())
    }

    fn acknowledged(&self) -> u64 {
        self.books().acknowledged()
    }

    fn collect_from(&self) -> u64 {
        self.books().state.collect_from
    }

    fn post_step(&self, index: u64) -> Option<BoxStep> {
        self.books().post_step(index)
    }

    fn post_steps(&self, count: u64) -> Vec<BoxStep> {
        self.books().post_steps(count)
    }

    async fn collected(&self, deposits: Vec<PendingDeposit>, next: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.collected(write, &deposits, next))
            .await
    }

    fn pending(&self) -> Result<Vec<PendingDeposit>, StoreError> {
        Ok(self.books().pending())
    }

    async fn store_deposits(&self, opened: Vec<OpenedDeposit>) -> Result<Vec<u32>, StoreError> {
        self.run(move |stage, write| stage.store_deposits(write, &opened)).await
    }

    async fn abandon_deposit(&self, index: u64, notice: Vec<u8>, now: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.abandon_deposit(write, index, &notice, now))
            .await
    }

    fn unconfirmed(&self) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
        Ok(self
            .books()
            .unconfirmed
            .iter()
            .map(|(index, row)| (*index, row.wrap_digest))
            .collect())
    }

    async fn confirmed(&self, indices: Vec<u64>) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.confirmed(write, &indices)).await
    }

    async fn append(
        &self,
        message: Vec<u8>,
        summary: Vec<u8>,
        flags: Flags,
        internal_date: u64,
    ) -> Result<u32, StoreError> {
        self.run(move |stage, write| stage.append(write, &message, &summary, flags, internal_date))
            .await
    }

    fn inbox(&self) -> Arc<Snapshot> {
        Arc::clone(&self.books().inbox)
    }

    fn inbox_changed(&self) -> watch::Receiver<u64> {
        self.shown.inbox_changed()
    }

    fn message(&self, uid: u32) -> Result<Option<Vec<u8>>, StoreError> {
        match self.shelf.message(uid) {
            // Expunged between the look at its row and the one at its key or body.
            Err(_) if !self.inbox().entries.iter().any(|entry| entry.uid == uid) => Ok(None),
            text => text,
        }
    }

    fn summaries(&self, uids: &[u32]) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, StoreError> {
        self.shelf.summaries(uids)
    }

    async fn change_flags(&self, uids: Vec<u32>, change: FlagChange) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.change_flags(write, &uids, change))
            .await
    }

    async fn expunge(&self, uids: Vec<u32>) -> Result<Vec<u32>, StoreError> {
        self.run(move |stage, write| stage.expunge(write, &uids)).await
    }

    fn knows_message_id(&self, message_id: &str) -> Result<bool, StoreError> {
        self.shelf.knows_message_id(message_id)
    }

    fn aliases(&self) -> Result<Vec<HolderAlias>, StoreError> {
        Ok(self.books().aliases.to_vec())
    }

    async fn put_alias(&self, alias: HolderAlias) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.put_alias(write, &alias)).await
    }

    fn value(&self) -> ValueMirror {
        self.books().state.value
    }

    fn prices(&self) -> Option<PriceList> {
        self.books().state.prices
    }

    async fn put_value(&self, value: ValueMirror, prices: Option<PriceList>) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.put_value(write, value, prices))
            .await
    }
}

impl HolderStage {
    fn put_alias(&mut self, write: &Write<'_>, alias: &HolderAlias) -> Result<(), StoreError> {
        let mut aliases = self.books.aliases.to_vec();
        match aliases.iter().position(|known| known.address == alias.address) {
            Some(position) => aliases[position] = alias.clone(),
            None if aliases.len() >= ALIASES_MAX => return Err(StoreError::Busy),
            None => aliases.push(alias.clone()),
        }
        write_aliases(write, &aliases)?;
        self.books.aliases = Arc::new(aliases);
        Ok(())
    }

    /// `None` leaves the prices as they were last heard.
    fn put_value(
        &mut self,
        write: &Write<'_>,
        value: ValueMirror,
        prices: Option<PriceList>,
    ) -> Result<(), StoreError> {
        self.books.state.value = value;
        self.books.state.prices = prices.or(self.books.state.prices);
        self.tell_time(value.at);
        self.put_state(write)
    }
}
