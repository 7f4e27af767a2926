//! Parcels: what comes under a parcel key, each index carried out at most once and in any order.
//!
//! ```text
//! .. done, skipped, done ..  |  base .. base + 7: live, their tags known   |  not yet
//! ```
//!
//! The chain stands at `base`, one above the highest index that came. Indices below it that did not come are *skipped*:
//! each key lies in a row of its own, sealed under a slab record that is overwritten when the parcel comes, when there are
//! too many of them, or after thirty days. Whatever becomes of an index, its receipt is stored by the same commit.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::chain::BoxStep;
use keypacks::deposit::wrap_digest;
use keypacks::parcel::{PARCEL_LOOK_AHEAD, PREFIX};
use keypacks::{Secret, Tag};
use ledger::AccountKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::books::{balance, charge_mail};
use super::changes::Action;
use super::deposits::{Deposit, Quota};
use super::live::Effect;
use super::parcel_tags::Found;
use super::rows::{DEPOSITS, PARCELS, PARCELS_SEEN, SKIPPED, SkippedRow, all_of};
use super::stage::RelayStage;
use super::{RelayFiles, Shared};
use crate::StoreError;
use crate::index::Write;
use crate::parcel::{
    AliasChange, Asked, Outcome, RECEIPTS, RECEIPTS_WAITING_MAX, Receipt, SKIPPED_DAYS, SKIPPED_MAX, encode_receipts,
};
use crate::relay_store::{Account, ParcelHit};
use crate::request::Refusal;
use crate::tables::Single;
use crate::vault::{self, slab_key};

/// A parcel on its way to the commit.
pub(super) struct Arrival {
    pub(super) account: u64,
    /// Number of the root that its key is of.
    pub(super) root: u64,
    pub(super) index: u64,
    pub(super) prefix: [u8; PREFIX],
    pub(super) action: Action,
    pub(super) day: u32,
    pub(super) now: u64,
}

/// The key of a skipped index, as it lies in its row.
#[derive(Serialize, Deserialize)]
struct SkippedKey {
    key: [u8; 32],
    tag: [u8; 16],
}

impl Drop for SkippedKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl RelayStage {
    /// A parcel of nobody's: counted, so that its commit is one like that of any other.
    pub(super) fn pass_parcel(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        self.check_spool()?;
        count_parcel(write)
    }

    /// `Busy`, whosever a parcel is, while the spool is full: it is to be sent again.
    fn check_spool(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if self.queued() >= shared.config.spool_max {
            return Err(StoreError::Busy);
        }
        Ok(())
    }

    /// Carries a parcel out and stores its receipt. `false`: its index has had its end before, or its root is another's by
    /// now.
    pub(super) fn arrive(&mut self, write: &Write<'_>, arrival: &Arrival) -> Result<bool, StoreError> {
        let Arrival {
            account,
            index,
            prefix,
            day,
            ..
        } = *arrival;
        self.account(write, account)?;
        if self.is_dropped(write, account)? {
            return Ok(false);
        }
        // A copy's key must end nothing of the chain that counts by the same indices now.
        if !self.is_root(write, account, arrival.root)? {
            return Ok(false);
        }
        let mut row = PARCELS.get(write, account)?.unwrap_or_default();
        let skipped = match index.checked_sub(row.base) {
            Some(ahead) if ahead < PARCEL_LOOK_AHEAD => None,
            Some(_) => return Ok(false),
            None => match SKIPPED.get(write, (account, index))? {
                Some(skipped) => Some(skipped),
                None => return Ok(false),
            },
        };
        // Refusals of the store come before the first write.
        if !self.has_room_for_receipt(write, arrival)? {
            return Ok(false);
        }
        let is_parcel = !matches!(arrival.action, Action::Login);
        if is_parcel {
            self.check_spool()?;
        }
        let outcome = self.carry_out_parcel(write, arrival)?;
        // Beyond the bound for what it deletes alone; refused, it deleted nothing and wrote nothing.
        if matches!(arrival.action, Action::Control(_))
            && !matches!(outcome, Outcome::Done { .. })
            && self.waiting(write, account, RECEIPTS)? >= RECEIPTS_WAITING_MAX
        {
            return Ok(false);
        }
        if is_parcel {
            count_parcel(write)?;
        }

        match skipped {
            Some(skipped) => {
                self.drop_skipped(write, (account, index), &skipped)?;
                row.skipped -= 1;
            }
            None => {
                for passed in row.base..index {
                    let step = self.take_parcel(account, passed)?;
                    self.keep_skipped(write, (account, passed), &step, day)?;
                }
                // Not looked at: whoever opened the parcel had it from memory. Here it ends.
                drop(self.take_parcel(account, index)?);
                row.skipped += u32::try_from(index - row.base).expect("below the look-ahead");
                row.base = index + 1;
            }
        }
        let mut receipts = vec![Receipt { index, prefix, outcome }];
        while row.skipped > SKIPPED_MAX {
            let (oldest, skipped) = self.oldest_skipped(write, account)?;
            self.drop_skipped(write, (account, oldest), &skipped)?;
            row.skipped -= 1;
            receipts.push(Receipt::burned(oldest));
        }
        PARCELS.put(write, account, &row)?;
        self.deposit_receipts(write, account, &receipts, day)?;
        Ok(true)
    }

    /// Whether the receipt may join those that wait. They cost nothing and are told to nobody: without a bound a pack
    /// could fill the disk with them. What confirms some of them is always taken.
    fn has_room_for_receipt(&self, write: &Write<'_>, arrival: &Arrival) -> Result<bool, StoreError> {
        let waiting = self.waiting(write, arrival.account, RECEIPTS)?;
        if waiting < RECEIPTS_WAITING_MAX {
            return Ok(true);
        }
        match &arrival.action {
            // Who cannot log in cannot confirm.
            Action::Login => Ok(waiting < 2 * RECEIPTS_WAITING_MAX),
            Action::Control(asked) => {
                for (index, digest) in &asked.confirmed {
                    let deposit = DEPOSITS.get(write, (arrival.account, *index))?;
                    let held = deposit.and_then(|deposit| deposit.held);
                    if held.is_some_and(|held| held.alias == RECEIPTS && wrap_digest(&held.wrap) == *digest) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Carries out what a parcel of control asks for: all of it, or nothing.
    fn control(&mut self, write: &Write<'_>, account: u64, asked: &Asked, day: u32) -> Result<Outcome, StoreError> {
        if let Some(change) = &asked.alias {
            if !self.may_tell(write, account)? {
                return Ok(Outcome::Refused(Refusal::Limit));
            }
            let house = self.house(write, account)?;
            let mut row = self.account(write, account)?;
            let (address, changed) = match change {
                AliasChange::Open(address) => {
                    let opened = self.open_alias(write, (account, house), &mut row, address)?;
                    (address, opened)
                }
                AliasChange::Close(address) => {
                    let closed = self.close_alias(write, house, address)?;
                    (address, closed.map(|()| true))
                }
            };
            match changed {
                Ok(true) => self.tell_aliases((write, day), (account, &mut row), std::slice::from_ref(address))?,
                Ok(false) => {}
                Err(refusal) => return Ok(Outcome::Refused(refusal)),
            }
            self.put_account(write, account, &row)?;
        }
        self.confirm(write, account, &asked.confirmed)?;
        self.standing(write, account)
    }

    /// How the pack stands.
    fn standing(&self, write: &Write<'_>, account: u64) -> Result<Outcome, StoreError> {
        let value = balance(write, AccountKey::Holder(self.house(write, account)?))?;
        Ok(Outcome::Done {
            balance: value.available(),
            keys: self.account(write, account)?.keys_left(),
            credits: value.credits,
            debits: value.debits,
            prices: self.shared.live().prices,
        })
    }

    /// Debits and spools, or says why not.
    fn carry_out_parcel(&mut self, write: &Write<'_>, arrival: &Arrival) -> Result<Outcome, StoreError> {
        let account = arrival.account;
        let has_ended = self.has_ended(write, account)?;
        let sealed = match &arrival.action {
            Action::Control(Asked { alias: Some(_), .. }) | Action::Spool(_) if has_ended => {
                return Ok(Outcome::Refused(Refusal::Ended));
            }
            Action::Spool(sealed) => sealed,
            // It may come again: its index has no end yet.
            Action::Refuse(Refusal::Busy) => return Err(StoreError::Busy),
            Action::Refuse(refusal) => return Ok(Outcome::Refused(*refusal)),
            Action::Control(_) if self.is_frozen(write, account)? => return Ok(Outcome::Refused(Refusal::Frozen)),
            Action::Control(asked) => return self.control(write, account, asked, arrival.day),
            Action::Login => return self.standing(write, account),
            Action::AliasOpen(_)
            | Action::AliasClose(_)
            | Action::Reroot(_)
            | Action::Move(_)
            | Action::Tell(_)
            | Action::Procure(_)
            | Action::Endow(_) => {
                return Ok(Outcome::Refused(Refusal::Malformed));
            }
        };
        if self.is_frozen(write, account)? {
            return Ok(Outcome::Refused(Refusal::Frozen));
        }
        let shared = Arc::clone(&self.shared);
        let house = self.house(write, account)?;
        let value = balance(write, AccountKey::Holder(house))?.available();
        let Some(left) = value.checked_sub(sealed.price) else {
            return Ok(Outcome::Refused(Refusal::Value {
                shortfall: sealed.price - value,
            }));
        };
        if self.queued() + sealed.recipients.len() > shared.config.spool_max {
            return Err(StoreError::Busy);
        }
        let references = u32::try_from(sealed.recipients.len()).expect("at most RECIPIENTS_MAX");
        let body = shared.base.put_body(write, &sealed.body, references)?;
        charge_mail(
            &mut self.books(write, house),
            &*shared.base.entropy,
            house,
            (sealed.price, sealed.onward),
            arrival.day,
        )?;
        self.spool(write, house, sealed, body, arrival.now)?;
        Ok(Outcome::Accepted {
            debited: sealed.price,
            balance: left,
        })
    }

    /// Ends skipped indices whose time is over, with their receipts.
    pub(super) fn burn_skipped(
        &mut self,
        write: &Write<'_>,
        account: u64,
        indices: &[u64],
        day: u32,
    ) -> Result<(), StoreError> {
        self.account(write, account)?;
        let mut row = PARCELS.get(write, account)?.unwrap_or_default();
        let mut receipts = Vec::new();
        for index in indices {
            if let Some(skipped) = SKIPPED.get(write, (account, *index))? {
                self.drop_skipped(write, (account, *index), &skipped)?;
                row.skipped -= 1;
                receipts.push(Receipt::burned(*index));
            }
        }
        if receipts.is_empty() {
            return Ok(());
        }
        PARCELS.put(write, account, &row)?;
        self.deposit_receipts(write, account, &receipts, day)
    }

    fn oldest_skipped(&self, write: &Write<'_>, account: u64) -> Result<(u64, SkippedRow), StoreError> {
        let mut oldest = None;
        SKIPPED.scan(write, all_of(account), |(_, index), row| {
            oldest = Some((index, row));
            Ok(ControlFlow::Break(()))
        })?;
        oldest.ok_or(StoreError::Corrupt)
    }

    fn keep_skipped(
        &mut self,
        write: &Write<'_>,
        (account, index): (u64, u64),
        step: &BoxStep,
        day: u32,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let base = &shared.base;
        let (record, record_key) = base.slab.take()?;
        let kept = SkippedKey {
            key: *step.key.expose(),
            tag: step.tag.0,
        };
        let plain = Zeroizing::new(vault::encode(&kept));
        let sealed = vault::seal(&shared.skipped_key(&record_key), &plain, &*base.entropy);
        SKIPPED.put(write, (account, index), &SkippedRow { record, day, sealed })?;
        let tag = step.tag;
        self.batch.effects.push(Effect::Skipped { account, index, tag });
        Ok(())
    }

    pub(super) fn drop_skipped(
        &mut self,
        write: &Write<'_>,
        (account, index): (u64, u64),
        skipped: &SkippedRow,
    ) -> Result<(), StoreError> {
        SKIPPED.remove(write, (account, index))?;
        self.shared.base.slab.finish(skipped.record);
        self.batch.effects.push(Effect::SkippedNoMore { account, index });
        Ok(())
    }

    /// A deposit of its own kind: free, beside the quotas of the aliases, and shown in no folder.
    pub(super) fn deposit_receipts(
        &mut self,
        write: &Write<'_>,
        account: u64,
        receipts: &[Receipt],
        day: u32,
    ) -> Result<(), StoreError> {
        let entropy = Arc::clone(&self.shared.base.entropy);
        let recipients = vec![(Account(account), RECEIPTS)];
        let deposit = Deposit::of_own(&*entropy, recipients, &encode_receipts(receipts), day)?;
        self.deposit(write, &deposit, Quota::Waived).map_err(after_a_write)
    }
}

fn count_parcel(write: &Write<'_>) -> Result<(), StoreError> {
    let seen = PARCELS_SEEN.get(write, Single)?.unwrap_or_default();
    PARCELS_SEEN.put(write, Single, &(seen + 1))
}

/// A refusal behind the first write of an operation fails it whole.
pub(super) fn after_a_write(error: StoreError) -> StoreError {
    if error.is_refusal() {
        StoreError::Io(io::ErrorKind::StorageFull)
    } else {
        error
    }
}

impl Shared {
    fn skipped_key(&self, record: &Secret<32>) -> Secret<32> {
        slab_key(&self.base.vault.derive("relay/skipped"), record)
    }

    /// The key of a skipped index from its row, while both are there.
    pub(super) fn open_skipped(&self, index: u64, row: &SkippedRow) -> Result<BoxStep, StoreError> {
        let key = self.skipped_key(&self.base.slab.read(row.record)?);
        let kept: SkippedKey = vault::decode(&vault::open(&key, &row.sealed)?)?;
        Ok(BoxStep {
            index,
            key: Secret::new(kept.key),
            tag: Tag(kept.tag),
        })
    }
}

impl RelayFiles {
    pub(super) fn parcel_hit(&self, tag: &Tag) -> Result<Option<ParcelHit>, StoreError> {
        let candidates = self.shared.live().parcels.find(tag);
        let mut failed = None;
        for found in candidates {
            let hit = match found {
                Found::Live { account, slot } => self.live_hit(account, slot),
                Found::Skipped { account, index } => self.skipped_hit(account, index),
            };
            match hit {
                Ok(Some(hit)) if hit.step.tag == *tag => return Ok(Some(hit)),
                Ok(_) => {}
                // The next one may be it.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The live index of an account that is `slot` modulo the look-ahead.
    fn live_hit(&self, account: u64, slot: u64) -> Result<Option<ParcelHit>, StoreError> {
        let found = self
            .shared
            .chains_of(account, |chains| (chains.parcel(), chains.root()), |_| ())?;
        Ok(found.and_then(|((chain, root), ())| {
            let ahead = slot.wrapping_sub(chain.index()) % PARCEL_LOOK_AHEAD;
            Some(ParcelHit {
                account: Account(account),
                step: chain.step_at(chain.index().checked_add(ahead)?)?,
                root,
            })
        }))
    }

    fn skipped_hit(&self, account: u64, index: u64) -> Result<Option<ParcelHit>, StoreError> {
        // Before the row: a root that comes between ends it.
        let Some(root) = self
            .shared
            .live()
            .accounts
            .get(account)
            .map(|live| live.standing().root)
        else {
            return Ok(None);
        };
        let Some(row) = SKIPPED.get(&self.shared.base.view()?, (account, index))? else {
            return Ok(None);
        };
        match self.shared.open_skipped(index, &row) {
            Ok(step) => Ok(Some(ParcelHit {
                account: Account(account),
                step,
                root,
            })),
            Err(error @ StoreError::Io(_)) => Err(error),
            // Its record was overwritten since, with the row.
            Err(_) => Ok(None),
        }
    }

    /// Ends skipped keys that have been kept for long enough.
    pub(super) async fn age_skipped(&self, day: u32) -> Result<(), StoreError> {
        let mut aged: Vec<(u64, Vec<u64>)> = Vec::new();
        let all = ((0, 0), (u64::MAX, u64::MAX));
        SKIPPED.scan(&self.shared.base.snapshot()?, all, |(account, index), row| {
            if day.saturating_sub(row.day) > SKIPPED_DAYS {
                match aged.last_mut() {
                    Some((last, indices)) if *last == account => indices.push(index),
                    _ => aged.push((account, vec![index])),
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for (account, indices) in aged {
            let burn = self
                .committer
                .run(move |stage, write| stage.burn_skipped(write, account, &indices, day));
            // A frozen account keeps its keys.
            match burn.await {
                Ok(()) | Err(StoreError::RestoredDatabase) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
