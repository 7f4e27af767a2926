//! The ledger inside one write transaction of the relay's index.

use crate::index::Write;
use std::cell::RefCell;
use std::collections::BTreeMap;

use ledger::{AccountKey, Accounts, Balance, Kind, LedgerError, Transfer, TransferId};

use super::rows::{BALANCES, JOURNAL, TRANSFERS, all_of};
use crate::StoreError;
use crate::entropy::random;
use crate::index::Source;
use crate::vault::Vault;

/// Accounts and journal of one transaction.
pub(super) struct Books<'t> {
    pub(super) write: &'t Write<'t>,
    pub(super) vault: &'t Vault,
    /// Whether the transfer's id was drawn just now, so that it cannot have been seen.
    pub(super) is_fresh: bool,
    /// Postings of each account, as far as they were counted.
    pub(super) counts: &'t RefCell<BTreeMap<u64, u64>>,
}

impl Accounts for Books<'_> {
    type Error = StoreError;

    fn load(&self, account: AccountKey) -> Result<Balance, StoreError> {
        balance(self.write, account)
    }

    fn store(&mut self, account: AccountKey, balance: Balance) -> Result<(), StoreError> {
        BALANCES.put(self.write, account, &balance)
    }

    fn seen(&self, id: &TransferId) -> Result<Option<Transfer>, StoreError> {
        if self.is_fresh {
            return Ok(None);
        }
        match TRANSFERS.get(self.write, self.vault.name("transfer", id))? {
            None => Ok(None),
            Some(key) => JOURNAL.get(self.write, key)?.ok_or(StoreError::Corrupt).map(Some),
        }
    }

    /// Only top-ups are found again by their id: charges are posted once by construction, under ids of their own.
    fn journal(&mut self, transfer: &Transfer) -> Result<(), StoreError> {
        let holder = match (transfer.debit, transfer.credit) {
            (AccountKey::Holder(holder), _) | (_, AccountKey::Holder(holder)) => holder,
            (_, AccountKey::Owed(holder)) => holder,
            _ => return Err(StoreError::Invalid),
        };
        let counted = self.counts.borrow().get(&holder).copied();
        let count = match counted {
            Some(count) => count,
            None => JOURNAL
                .last_key(self.write, all_of(holder))?
                .map_or(0, |(_, last)| last + 1),
        };
        self.counts.borrow_mut().insert(holder, count + 1);
        JOURNAL.put(self.write, (holder, count), transfer)?;
        if matches!(transfer.kind, Kind::TopUp | Kind::Settled) {
            TRANSFERS.put(self.write, self.vault.name("transfer", &transfer.id), &(holder, count))?;
        }
        Ok(())
    }
}

/// Both sides of an account.
pub(super) fn balance(source: &impl Source, account: AccountKey) -> Result<Balance, StoreError> {
    Ok(BALANCES.get(source, account)?.unwrap_or_default())
}

/// Posts a charge that the caller knows to be covered.
pub(super) fn charge(
    books: &mut Books<'_>,
    entropy: &dyn crate::Entropy,
    (account, amount): (u64, u64),
    kind: Kind,
    day: u32,
) -> Result<(), StoreError> {
    let transfer = Transfer::charge(random(entropy), account, amount, kind, day);
    books.is_fresh = true;
    ledger::post(books, transfer).map(|_| ()).map_err(store_error)
}

/// Posts what a submission costs, each part where it is due. The caller knows that it is covered.
pub(super) fn charge_mail(
    books: &mut Books<'_>,
    entropy: &dyn crate::Entropy,
    account: u64,
    (price, onward): (u64, u64),
    day: u32,
) -> Result<(), StoreError> {
    let own = price.checked_sub(onward).ok_or(StoreError::Invalid)?;
    charge(books, entropy, (account, own), Kind::Message, day)?;
    match onward {
        0 => Ok(()),
        onward => carry(books, Transfer::onward(random(entropy), account, onward, day)),
    }
}

/// Posts a transfer under an id of its own, that the caller knows to be covered.
pub(super) fn carry(books: &mut Books<'_>, transfer: Transfer) -> Result<(), StoreError> {
    books.is_fresh = true;
    ledger::post(books, transfer).map(|_| ()).map_err(store_error)
}

/// What a refused post means where the caller has checked all that may be refused.
pub(super) fn store_error(error: LedgerError<StoreError>) -> StoreError {
    match error {
        LedgerError::Store(error) => error,
        _ => StoreError::Corrupt,
    }
}
