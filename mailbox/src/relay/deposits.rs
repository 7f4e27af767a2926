//! Deposits: sealed mail that waits for its account.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::Write;
use keypacks::Secret;
use keypacks::deposit::{BodySealer, Dek, WrapFields, class_bytes, is_class, seal_wrap, sealed_capacity, wrap_digest};
use keypacks::kdf;
use ledger::{AccountKey, Kind};

use super::RelayFiles;
use super::books::{balance, charge};
use super::devices::is_paid;
use super::live::Effect;
use super::rows::{ACCOUNTS, DEPOSITS, DepositRow, HeldDeposit, WAITING};
use super::stage::RelayStage;
use crate::StoreError;
use crate::devices::EVENTS;
use crate::entropy::{Entropy, random};
use crate::parcel::RECEIPTS;
use crate::relay_store::{Account, DepositOrder};
use crate::request::{COLLECT_MAX, COLLECT_STEP_MAX, Collected, RECIPIENTS_MAX, Refusal};

/// A checked order with the digest of its body.
pub(super) struct Deposit {
    order: DepositOrder,
    body_digest: [u8; 32],
}

impl Deposit {
    /// `Invalid` if body, class and length contradict each other.
    pub(super) fn check(order: DepositOrder) -> Result<Self, StoreError> {
        let class = is_class(order.kilobytes)
            && order.body.len() == class_bytes(order.kilobytes)
            && order.length as usize <= sealed_capacity(order.kilobytes);
        if !class || order.recipients.is_empty() || order.recipients.len() > RECIPIENTS_MAX {
            return Err(StoreError::Invalid);
        }
        let body_digest = kdf::hash(&[&order.body]);
        Ok(Self { order, body_digest })
    }

    /// What the relay itself says to these accounts, sealed.
    pub(super) fn of_own(
        entropy: &dyn Entropy,
        recipients: Vec<(Account, u32)>,
        words: &[u8],
        day: u32,
    ) -> Result<Self, StoreError> {
        let dek = Dek::new(Secret::from_fn(|key| entropy.fill(key)));
        let mut sealer = BodySealer::new(dek, random(entropy));
        sealer.push(words).map_err(|_| StoreError::Invalid)?;
        let sealed = sealer.finish();
        Self::check(DepositOrder {
            recipients,
            body: sealed.body,
            dek: sealed.dek,
            length: sealed.length,
            kilobytes: sealed.kilobytes,
            day,
        })
    }
}

/// An account and the number of its alias.
type Recipient = (Account, u32);

/// Whether a full mailbox refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quota {
    /// Mail from outside: yes.
    Kept,
    /// The failure of an own message, which must be told: no.
    Waived,
}

impl RelayStage {
    /// Stores one body and a wrap for each device of each recipient, under the next post key of each.
    pub(super) fn deposit(&mut self, write: &Write<'_>, deposit: &Deposit, quota: Quota) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let order = &deposit.order;
        let (recipients, shares) = self.devices_of(write, &order.recipients)?;
        for (account, alias) in &recipients {
            // Whatever is refused is refused here, before anything is written: the batch goes on without it.
            // Of devices all take it, or none: none is to miss what another has.
            self.account(write, account.0)?;
            let waiting = self.waiting(write, account.0, *alias)?;
            if quota == Quota::Kept && waiting >= shared.config.deposits_max {
                return Err(StoreError::Busy);
            }
        }
        let references = u32::try_from(recipients.len()).expect("at most RECIPIENTS_MAX times DEVICES_MAX");
        let body = shared.base.put_body(write, &order.body, references)?;
        for (house, copies) in shares {
            self.share(write, (house, body), copies)?;
        }
        for (account, alias) in &recipients {
            let mut row = self.account(write, account.0)?;
            let step = self.take_post(account.0, row.post_next)?;
            let fields = WrapFields {
                dek: order.dek.duplicate(),
                body_digest: deposit.body_digest,
                length: order.length,
                kilobytes: order.kilobytes,
                day: order.day,
                alias: *alias,
            };
            let wrap = seal_wrap(&step, random(&*shared.base.entropy), &fields);
            let held = HeldDeposit {
                wrap,
                alias: *alias,
                body,
                kilobytes: order.kilobytes,
                // Nobody sends receipts but the relay itself.
                paid: is_own_kind(*alias),
            };
            let deposit = DepositRow {
                day: order.day,
                held: Some(held),
            };
            DEPOSITS.put(write, (account.0, row.post_next), &deposit)?;
            let waiting = self.waiting(write, account.0, *alias)?;
            self.put_waiting(write, account.0, *alias, waiting + 1)?;
            row.post_next += 1;
            row.deposits += 1;
            self.put_account(write, account.0, &row)?;
            self.batch.effects.push(Effect::Waiting {
                account: account.0,
                count: row.deposits,
            });
        }
        self.batch.deposited = true;
        Ok(())
    }

    /// Whether every recipient's mailbox takes a deposit that waives no quota.
    pub(super) fn has_room(&self, write: &Write<'_>, deposit: &Deposit) -> Result<bool, StoreError> {
        let (recipients, _) = self.devices_of(write, &deposit.order.recipients)?;
        for (account, alias) in recipients {
            if self.waiting(write, account.0, alias)? >= self.shared.config.deposits_max {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Each device of each recipient, and how many devices share the body, by house. What is for one device alone is not
    /// shared.
    fn devices_of(
        &self,
        write: &Write<'_>,
        recipients: &[Recipient],
    ) -> Result<(Vec<Recipient>, BTreeMap<u64, u32>), StoreError> {
        let (mut all, mut shares) = (Vec::with_capacity(recipients.len()), BTreeMap::new());
        for (account, alias) in recipients {
            if is_own_kind(*alias) {
                all.push((*account, *alias));
                continue;
            }
            let house = self.house(write, account.0)?;
            let members = self.reachable(self.members(write, house)?);
            if members.len() > 1 {
                *shares.entry(house).or_default() += members.len() as u32;
            }
            all.extend(members.into_iter().map(|member| (Account(member), *alias)));
        }
        Ok((all, shares))
    }

    /// Debits the inbound price of a deposit, once.
    pub(super) fn pay_inbound(
        &mut self,
        write: &Write<'_>,
        account: u64,
        index: u64,
        day: u32,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.account(write, account)?;
        if self.is_dropped(write, account)? {
            // Its rows may be there for a moment yet: nobody pays for whoever has it.
            return Ok(Err(Refusal::NoDeposit));
        }
        let Some(mut row) = DEPOSITS.get(write, (account, index))? else {
            return Ok(Err(Refusal::NoDeposit));
        };
        let Some(held) = row.held.as_mut() else {
            return Ok(Err(Refusal::NoDeposit));
        };
        let price = shared
            .live()
            .prices
            .inbound_price(held.kilobytes)
            .ok_or(StoreError::Invalid)?;
        let house = self.house(write, account)?;
        if held.paid || price == 0 || is_paid(write, (house, held.body))? {
            return Ok(Ok(()));
        }
        let value = balance(write, AccountKey::Holder(house))?.available();
        if price > value {
            return Ok(Err(Refusal::Value {
                shortfall: price - value,
            }));
        }
        charge(
            &mut self.books(write, house),
            &*shared.base.entropy,
            (house, price),
            Kind::Inbound,
            day,
        )?;
        held.paid = true;
        self.shared_paid(write, (house, held.body))?;
        DEPOSITS.put(write, (account, index), &row)?;
        Ok(Ok(()))
    }

    /// Deletes deposits whose digest matches.
    pub(super) fn confirm(
        &mut self,
        write: &Write<'_>,
        account: u64,
        deposits: &[(u64, [u8; 32])],
    ) -> Result<u16, StoreError> {
        let mut row = self.account(write, account)?;
        if self.is_dropped(write, account)? {
            return Ok(0);
        }
        let mut deleted = 0;
        for (index, digest) in deposits {
            let deposit = DEPOSITS.get(write, (account, *index))?;
            let Some(held) = deposit.and_then(|deposit| deposit.held) else {
                continue;
            };
            if wrap_digest(&held.wrap) == *digest {
                DEPOSITS.remove(write, (account, *index))?;
                self.no_longer_waits(write, account, &held)?;
                deleted += 1;
            }
        }
        if deleted > 0 {
            row.deposits -= u64::from(deleted);
            self.put_account(write, account, &row)?;
            self.batch.effects.push(Effect::Waiting {
                account,
                count: row.deposits,
            });
        }
        Ok(deleted)
    }

    /// Turns a deposit that outlived retention into its tombstone. `false`: it is gone already.
    pub(super) fn expire(
        &mut self,
        write: &Write<'_>,
        (account, index): (u64, u64),
        day: u32,
    ) -> Result<bool, StoreError> {
        let Some(DepositRow { held: Some(held), .. }) = DEPOSITS.get(write, (account, index))? else {
            return Ok(false);
        };
        let mut row = ACCOUNTS.get(write, account)?.ok_or(StoreError::Corrupt)?;
        DEPOSITS.put(write, (account, index), &DepositRow { day, held: None })?;
        self.no_longer_waits(write, account, &held)?;
        row.deposits -= 1;
        self.put_account(write, account, &row)?;
        self.batch.effects.push(Effect::Waiting {
            account,
            count: row.deposits,
        });
        Ok(true)
    }

    /// Deposits that wait for one alias.
    pub(super) fn waiting(&self, write: &Write<'_>, account: u64, alias: u32) -> Result<u64, StoreError> {
        let waiting = WAITING.get(write, (account, alias.into()))?;
        Ok(waiting.unwrap_or_default())
    }

    fn put_waiting(&self, write: &Write<'_>, account: u64, alias: u32, count: u64) -> Result<(), StoreError> {
        let key = (account, alias.into());
        match count {
            0 => WAITING.remove(write, key).map(|_| ()),
            some => WAITING.put(write, key, &some),
        }
    }

    /// Takes a deposit that is gone out of its alias's count, and lets its body go.
    pub(super) fn no_longer_waits(
        &mut self,
        write: &Write<'_>,
        account: u64,
        held: &HeldDeposit,
    ) -> Result<(), StoreError> {
        let waiting = self.waiting(write, account, held.alias)?;
        let left = waiting.checked_sub(1).ok_or(StoreError::Corrupt)?;
        self.put_waiting(write, account, held.alias, left)?;
        self.unshare(write, account, held.body)?;
        self.shared.base.release_body(write, held.body)?;
        Ok(())
    }
}

impl RelayFiles {
    pub(super) fn read_wraps(
        &self,
        account: Account,
        from: u64,
        most: u16,
    ) -> Result<(Vec<Collected>, u64, bool), StoreError> {
        let base = &self.shared.base;
        let most = usize::from(most.min(COLLECT_MAX));
        let read = &base.view()?;
        let end = ACCOUNTS.get(read, account.0)?.ok_or(StoreError::NoRow)?.post_next;
        let limit = from.saturating_add(COLLECT_STEP_MAX).min(end);
        let (mut collected, mut next, mut more) = (Vec::new(), limit.max(from), false);
        if from >= end {
            return Ok((collected, from, false));
        }
        DEPOSITS.scan(read, ((account.0, from), (account.0, u64::MAX)), |(_, index), row| {
            if collected.len() == most || index >= limit {
                next = index.min(limit);
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            collected.push(match row.held {
                Some(held) => Collected::Wrap { index, wrap: held.wrap },
                None => Collected::Expired { index },
            });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((collected, next, more))
    }

    /// A deposit that is there, if it is paid for or free.
    pub(super) fn read_deposit(&self, account: Account, index: u64) -> Result<Option<(HeldDeposit, bool)>, StoreError> {
        let read = &self.shared.base.view()?;
        let Some(held) = DEPOSITS.get(read, (account.0, index))?.and_then(|row| row.held) else {
            return Ok(None);
        };
        let prices = self.shared.live().prices;
        let free = held.paid
            || prices.inbound_price(held.kilobytes) == Some(0)
            || is_paid(read, (self.house_of(account.0), held.body))?;
        Ok(Some((held, free)))
    }
}

/// Whether a deposit is from the relay itself and for one device: no mail.
fn is_own_kind(alias: u32) -> bool {
    alias == RECEIPTS || alias == EVENTS
}
