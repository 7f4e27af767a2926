//! [`HolderStore`] over books and stage.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::chain::{BoxStep, LinkChain, LinkStep};
use keypacks::{Secret, Tag};
use ledger::{Onward, PriceList};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::super::books::Row;
use super::super::messages::CHANGED_MAX;
use super::super::rows::{CONTROLS, EXPIRY, PROCUREMENTS, RELAY_GENERATION, ROTATION};
use super::super::shelf::body_key;
use super::super::text::Text;
use super::HolderFiles;
use crate::StoreError;
use crate::devices::Event;
use crate::holder_store::{
    Flags, FolderError, FolderId, Folders, HolderAlias, HolderStore, KeptParcel, LinkPosition, MessageOf, MessageText,
    OpenedDeposit, OutboxOrder, OutboxRow, OutboxState, OwnBook, PackFacts, ParcelOrder, ParcelUse, PendingDeposit,
    Procurement, RerootError, Reserved, Rooting, SealError, SentReports, Snapshot, SpecialUse, StoreFlags, Told,
    ValueMirror, WrapPlace,
};
use crate::pad::PadFile;
use crate::parcel::{AliasChange, CONFIRMATIONS_MAX, Receipt};
use crate::request::{Answer, Operation, Proof};
use crate::tables::Single;

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

    fn link_ahead(&self) -> LinkChain {
        self.books().link.duplicate()
    }

    async fn resume_link(&self, index: u64) -> Result<Reserved, StoreError> {
        self.run(move |stage, write| stage.resume_link(write, index)).await?;
        Ok(Reserved { index })
    }

    async fn link_answered(&self, index: u64, token: [u8; 16]) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.link_answered(write, index, token))
            .await
    }

    async fn first_use(&self, now: u64) -> Result<u64, StoreError> {
        if let Some(row) = ROTATION.get(&self.shelf.base.view()?, Single)?
            && let Some(first_use) = row.first_use
        {
            return Ok(first_use);
        }
        self.run(move |stage, write| stage.first_use(write, now)).await
    }

    fn pad(&self) -> Option<Arc<PadFile>> {
        self.pad.clone()
    }

    async fn pad_linked(&self, index: u64, token: [u8; 16]) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.pad_linked(write, index, token))
            .await
    }

    async fn enqueue(&self, order: OutboxOrder) -> Result<u64, StoreError> {
        self.run(move |stage, write| stage.enqueue(write, &order)).await
    }

    async fn raise_seq(&self, told: Told) -> Result<Vec<String>, StoreError> {
        let state = &self.books().state;
        if !told.is_behind && told.highest < state.next_seq && told.highest <= state.answered_seq {
            return Ok(Vec::new());
        }
        self.run(move |stage, write| stage.raise_seq(write, told)).await
    }

    fn relay_generation(&self) -> Result<u64, StoreError> {
        Ok(RELAY_GENERATION
            .get(&self.shelf.base.view()?, Single)?
            .unwrap_or_default())
    }

    fn own_book(&self) -> Result<OwnBook, StoreError> {
        self.books().own_book(&self.shelf.base.view()?)
    }

    async fn pass_over_beyond(&self) -> Result<(), StoreError> {
        self.run(|stage, write| stage.pass_over_beyond(write)).await
    }

    fn expiry(&self) -> Result<Option<Option<u32>>, StoreError> {
        EXPIRY.get(&self.shelf.base.view()?, Single)
    }

    async fn relay_restored(&self, generation: u64, notice: Option<Vec<u8>>, now: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.relay_restored(write, generation, notice.as_deref(), now))
            .await
    }

    async fn enqueue_change(&self, operation: Operation, label: String, now: u64) -> Result<u64, StoreError> {
        self.run(move |stage, write| stage.enqueue_change(write, &operation, &label, now))
            .await
    }

    fn rooting(&self) -> Rooting {
        self.books().rooting()
    }

    async fn begin_reroot(&self, recovery: [u8; 32], proof: Option<Proof>, now: u64) -> Result<u64, RerootError> {
        self.run(move |stage, write| stage.begin_reroot(write, recovery, proof.as_ref(), now))
            .await?
    }

    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.books().outbox_rows())
    }

    fn next_queued(&self) -> Result<Option<OutboxRow>, StoreError> {
        Ok(self.books().next_queued())
    }

    fn queued_mail_behind(&self, seq: u64, kilobytes_max: u32) -> Result<Option<OutboxRow>, StoreError> {
        Ok(self.books().queued_mail_behind(seq, kilobytes_max))
    }

    fn outbox_len(&self) -> usize {
        self.books().outbox.len()
    }

    fn outbox_waits(&self) -> bool {
        let waits = |row: &Arc<Row>| matches!(row.entry.state, OutboxState::Queued | OutboxState::Held(_));
        self.books().outbox.values().any(waits)
    }

    fn outbox_row(&self, label: &str) -> Option<OutboxRow> {
        self.books().outbox_row(label)
    }

    fn outbox_knows(&self, label: &str) -> bool {
        self.books().outbox.values().any(|row| row.entry.label == label)
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
        let mut body = self.shelf.body(&body_key(&self.shelf.key(row.record)?), location)?;
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
        // What may yet turn out to be dropped is not sent.
        if outcome
            .as_ref()
            .is_err_and(|error| !matches!(error, StoreError::Unknown))
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

    fn parcel_step(&self, kind: ParcelUse) -> Result<BoxStep, SealError> {
        self.books().parcel_step(kind)
    }

    async fn login_used(&self, index: u64) -> Result<bool, StoreError> {
        self.run(move |stage, write| stage.login_used(write, index)).await
    }

    fn to_confirm(&self) -> Result<Vec<(u64, [u8; 32])>, StoreError> {
        let books = self.books();
        let mut named = BTreeSet::new();
        CONTROLS.scan(&self.shelf.base.view()?, (0, u64::MAX), |_, asked| {
            named.extend(asked.confirmed.into_iter().map(|(index, _)| index));
            Ok(ControlFlow::Continue(()))
        })?;
        let (again, first): (Vec<_>, Vec<_>) = books
            .unconfirmed
            .iter()
            .map(|(index, row)| (*index, row.wrap_digest))
            .partition(|(index, _)| named.contains(index));
        Ok(first.into_iter().chain(again).take(CONFIRMATIONS_MAX).collect())
    }

    fn sealed_aliases(&self) -> Result<Vec<(u64, AliasChange)>, StoreError> {
        let mut changes = Vec::new();
        CONTROLS.scan(&self.shelf.base.view()?, (0, u64::MAX), |index, asked| {
            changes.extend(asked.alias.map(|change| (index, change)));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(changes)
    }

    async fn keep_parcel(&self, order: ParcelOrder) -> Result<bool, StoreError> {
        self.run(move |stage, write| stage.keep_parcel(write, &order)).await
    }

    fn parcels(&self) -> Vec<KeptParcel> {
        self.books().kept_parcels()
    }

    fn parcel(&self, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let books = self.books();
        let Some(parcel) = books.parcels.get(&index) else {
            return Ok(None);
        };
        let key = body_key(&self.shelf.key(parcel.record)?);
        let mut sealed = self.shelf.body(&key, parcel.entry.body)?;
        Ok(Some(std::mem::take(&mut *sealed)))
    }

    fn procurement(&self, order: &[u8; 32]) -> Result<Option<Procurement>, StoreError> {
        PROCUREMENTS.get(&self.shelf.base.view()?, *order)
    }

    async fn end_procurement(&self, order: [u8; 32]) -> Result<(), StoreError> {
        self.run(move |_, write| PROCUREMENTS.remove(write, order)).await
    }

    async fn take_events(
        &self,
        index: u64,
        events: Vec<Event>,
        notices: Vec<Vec<u8>>,
        now: u64,
    ) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.take_events(write, index, &events, &notices, now))
            .await
    }

    async fn take_receipts(
        &self,
        index: u64,
        receipts: Vec<Receipt>,
        notices: Vec<Vec<u8>>,
        now: u64,
    ) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.take_receipts(write, index, &receipts, &notices, now))
            .await
    }

    async fn collected(&self, deposits: Vec<PendingDeposit>, next: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.collected(write, &deposits, next, None))
            .await
    }

    async fn collected_carried(&self, deposits: Vec<PendingDeposit>, next: u64, now: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.collected(write, &deposits, next, Some(now)))
            .await
    }

    fn post_ahead(&self) -> impl Iterator<Item = BoxStep> + Send + 'static {
        self.books().post_ahead()
    }

    async fn pass_over(&self, next: u64, now: u64) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.pass_over(write, next, now)).await
    }

    fn missing(&self) -> Vec<u64> {
        self.books().missing.keys().copied().collect()
    }

    async fn asked_for(&self, indices: Vec<u64>) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.asked_for(write, &indices)).await
    }

    fn wrap_place(&self, tag: &Tag, digest: &[u8; 32]) -> Result<WrapPlace, StoreError> {
        Ok(self.books().wrap_place(tag, digest))
    }

    fn room(&self) -> Result<u64, StoreError> {
        self.shelf.base.log.room()
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

    fn folders(&self) -> Arc<Folders> {
        Arc::clone(&self.books().folders)
    }

    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>> {
        self.books().boxes.get(&folder).cloned()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shown.mail_changed()
    }

    async fn create_folder(&self, name: String, special_use: Option<SpecialUse>) -> Result<FolderId, FolderError> {
        self.run_on_folders(move |stage, write| stage.create_folder(write, &name, special_use))
            .await
    }

    async fn delete_folder(&self, folder: FolderId) -> Result<(), FolderError> {
        self.empty(folder).await?;
        self.run_on_folders(move |stage, write| stage.delete_folder(write, folder))
            .await
    }

    async fn rename_folder(&self, folder: FolderId, name: String) -> Result<(), FolderError> {
        let renamed = self.run_on_folders(move |stage, write| stage.rename_folder(write, folder, &name));
        let Some(made) = renamed.await? else { return Ok(()) };
        let inbox = self.inbox();
        let all = inbox.entries.iter().map(|entry| entry.uid).collect();
        self.move_to(FolderId::INBOX, all, made).await?;
        Ok(())
    }

    async fn subscribe(&self, name: String, subscribed: bool) -> Result<(), FolderError> {
        self.run_on_folders(move |stage, write| stage.subscribe(write, &name, subscribed))
            .await
    }

    async fn keyword(&self, name: String) -> Result<Option<Flags>, StoreError> {
        if let Some(flag) = self.books().folders.keyword(&name) {
            return Ok(Some(flag));
        }
        self.run(move |stage, write| stage.keyword(write, &name)).await
    }

    async fn append(
        &self,
        folder: FolderId,
        message: Vec<u8>,
        summary: Vec<u8>,
        flags: Flags,
        internal_date: u64,
    ) -> Result<u32, FolderError> {
        self.run_on_folders(move |stage, write| stage.append(write, folder, &message, &summary, flags, internal_date))
            .await
    }

    fn text(&self, folder: FolderId, uid: u32) -> Result<Option<Arc<dyn MessageText>>, StoreError> {
        let text = self.unless_gone(folder, uid, self.shelf.message(folder, uid))?;
        Ok(text.map(|text| Arc::new(text) as Arc<dyn MessageText>))
    }

    fn message(&self, folder: FolderId, uid: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let whole = |text: Option<Text>| text.map(Text::into_whole).transpose();
        self.unless_gone(folder, uid, self.shelf.message(folder, uid).and_then(whole))
    }

    fn summaries(&self, folder: FolderId, uids: &[u32]) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, StoreError> {
        let view = self.shelf.base.view()?;
        let summary = |uid: &u32| {
            // A copy may have kept the summary of a message that is gone.
            if !self.books().has(folder, *uid) {
                return Ok(None);
            }
            match self.shelf.summary_of(&view, folder, *uid) {
                // As with the text.
                Err(_) if !self.books().has(folder, *uid) => Ok(None),
                summary => summary,
            }
        };
        uids.iter().map(summary).collect()
    }

    async fn change_flags(&self, folder: FolderId, store: StoreFlags) -> Result<Vec<u32>, FolderError> {
        let (change, since) = (store.change, store.unchanged_since);
        let mut left_alone = Vec::new();
        for uids in parts(store.uids) {
            let run = self.run_on_folders(move |stage, write| stage.change_flags(write, folder, &uids, change, since));
            left_alone.extend(run.await?);
        }
        Ok(left_alone)
    }

    async fn expunge(&self, folder: FolderId, uids: Vec<u32>) -> Result<Vec<u32>, FolderError> {
        let mut removed = Vec::new();
        for uids in parts(uids) {
            let run = self.run_on_folders(move |stage, write| stage.expunge(write, folder, &uids));
            removed.extend(run.await?);
        }
        Ok(removed)
    }

    async fn copy(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, FolderError> {
        let uids = ascending(uids);
        self.run_on_folders(move |stage, write| stage.copy(write, from, &uids, to))
            .await
    }

    async fn move_to(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, FolderError> {
        let mut moved = Vec::new();
        for uids in parts(uids) {
            let run = self.run_on_folders(move |stage, write| stage.move_to(write, from, &uids, to));
            moved.extend(run.await?);
        }
        Ok(moved)
    }

    fn message_id_outside(&self, alias: &str, message_id: &str) -> Result<Option<String>, StoreError> {
        let books = self.books();
        let known = books.aliases.iter().find(|known| known.address == alias);
        self.shelf
            .message_id_outside(alias, known.map(|known| known.number), message_id)
    }

    fn message_id_here(&self, alias: u32, message_id: &str) -> Result<Option<String>, StoreError> {
        let aliases = Arc::clone(&self.books().aliases);
        match aliases.iter().find(|known| known.number == alias) {
            Some(alias) => self.shelf.message_id_here(&alias.address, message_id),
            None => Ok(None),
        }
    }

    fn sent_reports(&self, alias: u32, message_id: &str) -> Result<Option<SentReports>, StoreError> {
        let aliases = Arc::clone(&self.books().aliases);
        match aliases.iter().find(|known| known.number == alias) {
            Some(alias) => self.shelf.sent_reports(&alias.address, message_id),
            None => Ok(None),
        }
    }

    fn alias_of_message(&self, message_id: &str) -> Result<MessageOf, StoreError> {
        let aliases = Arc::clone(&self.books().aliases);
        self.shelf.alias_of_message(&aliases, message_id)
    }

    fn aliases(&self) -> Result<Vec<HolderAlias>, StoreError> {
        Ok(self.books().aliases.to_vec())
    }

    async fn alter_alias(
        &self,
        address: String,
        change: impl Fn(&mut HolderAlias) + Send + 'static,
    ) -> Result<HolderAlias, StoreError> {
        self.run(move |stage, write| stage.alter_alias(write, &address, &change))
            .await
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

    fn onward(&self) -> Arc<Onward> {
        Arc::clone(&self.books().onward)
    }

    async fn put_onward(&self, onward: Onward) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.put_onward(write, &onward)).await
    }

    async fn put_value(&self, value: ValueMirror, prices: Option<PriceList>) -> Result<(), StoreError> {
        self.run(move |stage, write| stage.put_value(write, value, prices))
            .await
    }
}

/// In order, each once.
fn ascending(mut uids: Vec<u32>) -> Vec<u32> {
    uids.sort_unstable();
    uids.dedup();
    uids
}

/// What each commit of a large change is about: in order, one at least, so that a folder that is not there is told.
fn parts(uids: Vec<u32>) -> Vec<Vec<u32>> {
    let uids = ascending(uids);
    if uids.len() <= CHANGED_MAX {
        return vec![uids];
    }
    uids.chunks(CHANGED_MAX).map(<[u32]>::to_vec).collect()
}
