//! [`RelayStore`] over stage and memory.

use std::path::Path;
use std::sync::Arc;

use keypacks::Tag;
use keypacks::chain::LinkStep;
use keypacks::pack::Identifier;
use keypacks::pad::Half;
use keypacks::parcel::PREFIX;
use ledger::{Onward, PriceList};
use tokio::sync::watch;

use super::RelayFiles;
use super::changes::{Action, Execution};
use super::deposits::{Deposit, Quota};
use super::live::LiveAccount;
use super::parcels::Arrival;
use super::spool::Ending;
use super::stage::RelayStage;
use crate::StoreError;
use crate::backup::Copied;
use crate::index::Write;
use crate::relay_store::{
    Account, Alias, Audit, BurnOrder, Burned, Delivery, DeliveryId, DepositOrder, Effect, IssueOrder, Issued, MixRound,
    MixTally, Outcome, PadHit, ParcelHit, Pooled, Procure, Procured, Procurement, ProcurementId, QueueRow, RelayStore,
    Rotated, Standing, StatementRow, TagHit, Totals, Upkeep, Verified,
};
use crate::request::{Answer, COLLECT_MAX, Change, Collected, Credit, Refusal};

impl RelayStore for RelayFiles {
    async fn issue(&self, order: IssueOrder) -> Result<Issued, StoreError> {
        self.committer
            .run(move |stage, write| stage.issue(write, &order, None))
            .await
    }

    async fn issue_on_pad(&self, order: IssueOrder, pad: [u8; 16], half: Option<Half>) -> Result<Issued, StoreError> {
        self.issue_pad(order, pad, half).await
    }

    fn find_pad(&self, tag: &Tag) -> Result<Option<PadHit>, StoreError> {
        self.find_pad_hit(tag)
    }

    fn renew_pad(&self, account: Account) {
        self.renew_tags(account);
    }

    fn pads(&self) -> (u64, u64) {
        self.pad_totals()
    }

    async fn top_up(
        &self,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> Result<Option<u64>, StoreError> {
        let identifier = *identifier;
        self.committer
            .run(move |stage, write| stage.top_up(write, &identifier, amount, id, day))
            .await
    }

    fn find_tag(&self, tag: &Tag) -> Result<Option<TagHit>, StoreError> {
        self.tag_hit(tag)
    }

    async fn burn(&self, order: BurnOrder) -> Result<Option<Burned>, StoreError> {
        self.committer.run(move |stage, write| stage.burn(write, &order)).await
    }

    fn link_step(&self, account: Account, index: u64) -> Result<Option<LinkStep>, StoreError> {
        self.live_step(account, index)
    }

    async fn rotate(&self, account: Account, index: u64, day: u32) -> Result<Option<Rotated>, StoreError> {
        self.committer
            .run(move |stage, write| stage.rotate(write, account.0, index, day))
            .await
    }

    async fn charge_cover(&self, account: Account, amount: u64, day: u32) -> Result<bool, StoreError> {
        self.committer
            .run(move |stage, write| stage.charge_cover(write, account.0, amount, day))
            .await
    }

    fn standing(&self, account: Account) -> Standing {
        self.shared
            .live()
            .accounts
            .get(account.0)
            .map(LiveAccount::standing)
            .unwrap_or_default()
    }

    fn frozen_packs(&self) -> u64 {
        self.shared.live().frozen
    }

    fn stored_answer(&self, account: Account, change: &Change, digest: &[u8; 32]) -> Option<Answer> {
        self.answer_before(account, change, digest)
    }

    async fn execute(
        &self,
        (account, root): (Account, u64),
        change: Change,
        digest: [u8; 32],
        effect: Effect,
        day: u32,
        now: u64,
    ) -> Result<Answer, StoreError> {
        let dropped = match effect {
            Effect::Drop { device } => self.read_other_device(account, device)?,
            _ => None,
        };
        let action = self.prepare(account, effect)?;
        let order = Execution {
            account: account.0,
            root,
            change,
            digest,
            action,
            day,
            now,
        };
        let is_submission = matches!(order.action, Action::Spool(_));
        let execute = move |stage: &mut RelayStage, write: &Write<'_>| stage.execute(write, &order);
        let answer = match is_submission {
            true => self.committer.run_ahead(execute).await?,
            false => self.committer.run(execute).await?,
        };
        if let Some(dropped) = dropped.filter(|_| matches!(answer, Answer::Moved { .. })) {
            // What a crash or a full disk leaves of it is left to upkeep.
            let _ = self.clear(dropped.0).await;
        }
        Ok(answer)
    }

    fn find_parcel(&self, tag: &Tag) -> Result<Option<ParcelHit>, StoreError> {
        self.parcel_hit(tag)
    }

    async fn carry_out_parcel(
        &self,
        (account, root): (Account, u64),
        (index, prefix): (u64, [u8; PREFIX]),
        effect: Effect,
        day: u32,
        now: u64,
    ) -> Result<bool, StoreError> {
        let arrival = Arrival {
            account: account.0,
            root,
            index,
            prefix,
            action: self.prepare(account, effect)?,
            day,
            now,
        };
        self.committer
            .run(move |stage, write| stage.arrive(write, &arrival))
            .await
    }

    async fn pass_parcel(&self) -> Result<(), StoreError> {
        self.committer.run(|stage, write| stage.pass_parcel(write)).await
    }

    fn balance(&self, account: Account) -> Result<Answer, StoreError> {
        self.read_balance(account)
    }

    fn devices(&self, account: Account) -> Result<Answer, StoreError> {
        self.read_devices(account)
    }

    fn other_device(&self, account: Account, number: u32) -> Result<Option<Account>, StoreError> {
        self.read_other_device(account, number)
    }

    fn house(&self, account: Account) -> Account {
        Account(self.house_of(account.0))
    }

    fn services(&self, account: Account, from: u64) -> Result<Answer, StoreError> {
        self.read_services(account, from)
    }

    fn statement(&self, identifier: &Identifier, most: usize) -> Result<Option<Vec<StatementRow>>, StoreError> {
        self.read_statement(identifier, most)
    }

    fn collect(&self, account: Account, from: u64, most: u16) -> Result<(Vec<Collected>, u64, bool), StoreError> {
        self.read_wraps(account, from, most)
    }

    fn deposit_kilobytes(&self, account: Account, index: u64) -> Result<Option<u32>, StoreError> {
        Ok(self.read_deposit(account, index)?.map(|(held, _)| held.kilobytes))
    }

    async fn fetch(
        &self,
        account: Account,
        index: u64,
        day: u32,
    ) -> Result<Result<(u32, Vec<u8>), Refusal>, StoreError> {
        let Some((held, free)) = self.read_deposit(account, index)? else {
            return Ok(Err(Refusal::NoDeposit));
        };
        if !free {
            let paid = self
                .committer
                .run(move |stage, write| stage.pay_inbound(write, account.0, index, day));
            if let Err(refusal) = paid.await? {
                return Ok(Err(refusal));
            }
        }
        let body = self.shared.base.read_body(held.body)?;
        Ok(body.map(|body| (held.kilobytes, body)).ok_or(Refusal::NoDeposit))
    }

    async fn confirm(&self, account: Account, deposits: Vec<(u64, [u8; 32])>) -> Result<u16, StoreError> {
        if deposits.len() > usize::from(COLLECT_MAX) {
            return Err(StoreError::Invalid);
        }
        self.committer
            .run(move |stage, write| stage.confirm(write, account.0, &deposits))
            .await
    }

    fn alias(&self, address: &str) -> Option<Alias> {
        self.find_alias(address)
    }

    async fn speak_for(&self, identifier: &Identifier, domain: String, speaks: bool) -> Result<bool, StoreError> {
        let identifier = *identifier;
        self.committer
            .run(move |stage, write| stage.speak_for(write, &identifier, &domain, speaks))
            .await
    }

    fn waiting(&self, account: Account) -> bool {
        self.shared
            .live()
            .accounts
            .get(account.0)
            .is_some_and(|live| live.waiting > 0)
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.deposit_bell.subscribe()
    }

    async fn deposit(&self, order: DepositOrder) -> Result<(), StoreError> {
        let deposit = Deposit::check(order)?;
        self.committer
            .run_ahead(move |stage, write| stage.deposit(write, &deposit, Quota::Kept))
            .await
    }

    async fn report(&self, order: DepositOrder) -> Result<(), StoreError> {
        let deposit = Deposit::check(order)?;
        self.committer
            .run_ahead(move |stage, write| stage.deposit(write, &deposit, Quota::Waived))
            .await
    }

    fn due(&self, now: u64, most: usize) -> Result<Vec<DeliveryId>, StoreError> {
        Ok(self.read_due(now, most))
    }

    fn next_due(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.shared.live().queue.in_order().next().map(|(_, queued)| queued.due))
    }

    fn delivery_kilobytes(&self, id: DeliveryId) -> Option<u32> {
        self.shared.live().queue.kilobytes(id.0)
    }

    fn delivery_account(&self, id: DeliveryId) -> Result<Option<Account>, StoreError> {
        self.read_delivery_account(id)
    }

    fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.read_delivery(id)
    }

    fn pool(&self) -> Vec<Pooled> {
        self.shared.live().queue.pool().collect()
    }

    async fn release(&self, ids: Vec<DeliveryId>, round: MixRound) -> Result<(), StoreError> {
        self.committer
            .run(move |stage, write| stage.end_wait(write, &ids, &round))
            .await
    }

    fn mixed_on(&self, day: u32) -> Result<MixTally, StoreError> {
        self.read_mixed(day)
    }

    fn spool_changed(&self) -> watch::Receiver<u64> {
        self.shared.spool_bell.subscribe()
    }

    async fn finish(&self, id: DeliveryId, outcome: Outcome) -> Result<(), StoreError> {
        let ending = match outcome {
            Outcome::Delivered => Ending::Delivered { receipt: None },
            Outcome::Receipted { report } => Ending::Delivered {
                receipt: Some(Deposit::check(report)?),
            },
            Outcome::Retry { at } => Ending::Retry { at },
            Outcome::Delayed { at, report } => Ending::Delayed {
                at,
                report: report.map(Deposit::check).transpose()?,
            },
            Outcome::Failed { report } => Ending::Failed {
                report: report.map(Deposit::check).transpose()?,
            },
        };
        self.committer
            .run(move |stage, write| stage.finish(write, id.0, &ending))
            .await
    }

    async fn grant_credit(&self, identifier: &Identifier, limit: u64) -> Result<bool, StoreError> {
        let identifier = *identifier;
        self.committer
            .run(move |stage, write| stage.grant(write, &identifier, limit))
            .await
    }

    fn credit(&self, account: Account) -> Result<Credit, StoreError> {
        self.read_credit(account)
    }

    fn account_of(&self, identifier: &Identifier) -> Result<Option<Account>, StoreError> {
        self.read_account_of(identifier)
    }

    async fn settle(
        &self,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> Result<Option<Credit>, StoreError> {
        let identifier = *identifier;
        self.committer
            .run(move |stage, write| stage.settle_credit(write, &identifier, amount, id, day))
            .await
    }

    fn procurements(&self) -> Result<Vec<Procurement>, StoreError> {
        self.read_procurements()
    }

    fn order_before(&self, account: Account, kem: &[u8], dh: [u8; 32]) -> Result<Option<Procure>, StoreError> {
        self.read_order(account.0, kem, dh)
    }

    async fn procured(&self, id: ProcurementId, outcome: Procured, day: u32) -> Result<(), StoreError> {
        self.end_procurement(id, outcome, day).await
    }

    fn prices(&self) -> PriceList {
        self.shared.live().prices
    }

    async fn set_prices(
        &self,
        message: u64,
        kilobyte: u64,
        key: u64,
        inbound_message: u64,
        inbound_kilobyte: u64,
    ) -> Result<PriceList, StoreError> {
        let wanted = PriceList {
            version: 0,
            message,
            kilobyte,
            key,
            inbound_message,
            inbound_kilobyte,
        };
        self.committer
            .run(move |stage, write| stage.set_prices(write, wanted))
            .await
    }

    fn onward(&self) -> Arc<Onward> {
        Arc::clone(&self.shared.live().onward)
    }

    async fn set_onward(&self, onward: Onward) -> Result<(), StoreError> {
        self.committer
            .run(move |stage, write| stage.set_onward(write, &onward))
            .await
    }

    fn totals(&self) -> Result<Totals, StoreError> {
        self.read_totals()
    }

    fn audit(&self) -> Result<Audit, StoreError> {
        self.run_audit()
    }

    fn backup(&self, folder: &Path) -> Result<Copied, StoreError> {
        self.shared.base.copy_to(&self.shared.disk, folder)
    }

    fn verify(&self) -> Result<Verified, StoreError> {
        self.run_verify()
    }

    async fn verify_slots(&self, verified: &mut Verified) -> Result<(), StoreError> {
        self.run_verify_slots(verified).await
    }

    fn queue(&self, most: usize) -> Result<Vec<QueueRow>, StoreError> {
        Ok(self.read_queue(most))
    }

    async fn upkeep(&self, now: u64, retention_days: u32) -> Result<Upkeep, StoreError> {
        self.run_upkeep(now, retention_days).await
    }
}
