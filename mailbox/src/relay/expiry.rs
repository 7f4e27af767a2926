//! Accounts that end, at once or on a day.
//!
//! ```text
//! ordered   one commit: the day in a row, answer                              may be taken back
//! ended     one commit: aliases closed, value to the relay's revenue, the link chain cut to its last keys
//! ```
//!
//! Nothing undoes the second. The last link keys stay, as they do of an account that released what it had: so a lost answer
//! can be asked for again, and what waits can be collected and confirmed until its retention ends. What comes back later (a
//! voucher that nobody took) lapses with the commit that brings it.

use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::chain::KEYS_RESERVED;
use ledger::{AccountKey, Kind};

use super::RelayFiles;
use super::books::{balance, charge};
use super::changes::Execution;
use super::live::Effect;
use super::moves::Moved;
use super::rows::{AccountRow, AliasRow, EXPIRIES, ExpiryRow, Lapsed};
use super::stage::RelayStage;
use crate::StoreError;
use crate::index::Write;
use crate::request::Refusal;

impl RelayStage {
    /// The row of an account that is to end, or has. Most are not, and memory knows it.
    fn expiry(&self, write: &Write<'_>, account: u64) -> Result<Option<ExpiryRow>, StoreError> {
        let is_known = self.shared.live().ending.contains(&account);
        match is_known || self.batch.ending.contains(&account) {
            true => EXPIRIES.get(write, account),
            false => Ok(None),
        }
    }

    /// Whether a day is set on which the account ends, or has come.
    pub(super) fn is_to_end(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        Ok(self.expiry(write, account)?.is_some())
    }

    pub(super) fn has_ended(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        Ok(self.expiry(write, account)?.is_some_and(|row| row.lapsed.is_some()))
    }

    /// Ends the account if the day has come; else notes the day, or that there is none.
    pub(super) fn order_expiry(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        day: Option<u32>,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let account = order.account;
        // Mail for the postmaster is taken as long as there is a relay (RFC 5321 section 4.5.1).
        // What several devices have is not for one to end, nor what the first of them had for the last.
        let is_house = self.house(write, account)? == account && !self.is_shared(write, account)?;
        if self.shared.live().operator == Some(account) || !is_house {
            return Ok(Err(Refusal::Occupied));
        }
        if self.has_ended(write, account)? {
            // Who asks once more under another number has lost the answer; who wants it back is too late.
            return Ok(day.map(|_| Moved::default()).ok_or(Refusal::Ended));
        }
        match day {
            Some(day) if day <= order.day => return self.end_account(write, (account, row), order.day).map(Ok),
            Some(day) => self.put_expiry(write, account, &ExpiryRow { day, lapsed: None })?,
            None => {
                EXPIRIES.remove(write, account)?;
                self.batch.effects.push(Effect::Stays { account });
            }
        }
        Ok(Ok(Moved::default()))
    }

    /// The caller keeps the row.
    fn end_account(
        &mut self,
        write: &Write<'_>,
        (account, row): (u64, &mut AccountRow),
        day: u32,
    ) -> Result<Moved, StoreError> {
        for (name, alias) in self.open_aliases_of(account) {
            self.put_alias(write, name, AliasRow { open: false, ..alias })?;
        }
        let expiry = ExpiryRow {
            day,
            lapsed: Some(Lapsed::default()),
        };
        self.lapse(write, (account, row), expiry, day)
    }

    /// Takes back an end that was ordered under a root that is changed: whoever had a copy of it may have been the one.
    pub(super) fn forget_order(&mut self, write: &Write<'_>, account: u64) -> Result<(), StoreError> {
        if self.is_to_end(write, account)? && !self.has_ended(write, account)? {
            EXPIRIES.remove(write, account)?;
            self.batch.effects.push(Effect::Stays { account });
        }
        Ok(())
    }

    /// What came to an account that has ended lapses too. The caller keeps the row.
    pub(super) fn lapse_again(
        &mut self,
        write: &Write<'_>,
        (account, row): (u64, &mut AccountRow),
        day: u32,
    ) -> Result<(), StoreError> {
        match self.expiry(write, account)? {
            Some(expiry) if expiry.lapsed.is_some() => self.lapse(write, (account, row), expiry, day).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn lapse(
        &mut self,
        write: &Write<'_>,
        (account, row): (u64, &mut AccountRow),
        expiry: ExpiryRow,
        day: u32,
    ) -> Result<Moved, StoreError> {
        let shared = Arc::clone(&self.shared);
        let value = balance(write, AccountKey::Holder(account))?.available();
        if value > 0 {
            let entropy = &*shared.base.entropy;
            charge(
                &mut self.books(write, account),
                entropy,
                (account, value),
                Kind::Lapsed,
                day,
            )?;
        }
        let keys = row.keys_left().saturating_sub(KEYS_RESERVED);
        row.link_keys -= keys;
        self.extent(account, row.link_keys);
        let before = expiry.lapsed.unwrap_or_default();
        let lapsed = Lapsed {
            keys: before.keys.checked_add(keys).ok_or(StoreError::Corrupt)?,
            value: before.value.checked_add(value).ok_or(StoreError::Corrupt)?,
        };
        let row = ExpiryRow {
            lapsed: Some(lapsed),
            ..expiry
        };
        self.put_expiry(write, account, &row)?;
        Ok(Moved { keys, value })
    }

    fn put_expiry(&mut self, write: &Write<'_>, account: u64, row: &ExpiryRow) -> Result<(), StoreError> {
        self.batch.ending.insert(account);
        self.batch.effects.push(Effect::Ends { account });
        EXPIRIES.put(write, account, row)
    }

    /// Ends an account whose day has come, if it still has.
    fn end_due(&mut self, write: &Write<'_>, account: u64, day: u32) -> Result<(), StoreError> {
        let is_due = |row: &ExpiryRow| row.lapsed.is_none() && row.day <= day;
        // A frozen one is perhaps to end by somebody else's order: it waits for its holder's new keys.
        if !self.expiry(write, account)?.as_ref().is_some_and(is_due) || self.is_frozen(write, account)? {
            return Ok(());
        }
        let mut row = self.account(write, account)?;
        self.end_account(write, (account, &mut row), day)?;
        self.put_account(write, account, &row)
    }
}

impl RelayFiles {
    /// Ends accounts whose day has come.
    pub(super) async fn end_accounts(&self, day: u32) -> Result<(), StoreError> {
        let mut due = Vec::new();
        EXPIRIES.scan(&self.shared.base.snapshot()?, (0, u64::MAX), |account, row| {
            if row.lapsed.is_none() && row.day <= day {
                due.push(account);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for account in due {
            let ending = self
                .committer
                .run(move |stage, write| stage.end_due(write, account, day));
            match ending.await {
                // Its slot contradicts the database: it ends when that is mended.
                Ok(()) | Err(StoreError::RestoredDatabase) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
