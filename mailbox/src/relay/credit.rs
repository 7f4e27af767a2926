//! Value and keys on credit: what an operator lets another one's relay draw before it has paid.
//!
//! ```text
//! draw      the account's Owed -> the account, and link keys at the end of its chain     one commit with the answer
//! settle    Issue -> the account's Owed: the operator was paid, and that much may be drawn again
//! ```

use keypacks::pack::Identifier;
use ledger::{AccountKey, LedgerError, Posted, Transfer};

use super::RelayFiles;
use super::accounts::account_of;
use super::books::{balance, carry, store_error};
use super::changes::Execution;
use super::moves::Moved;
use super::rows::{AccountRow, CREDITS, CreditRow, PADS};
use super::stage::RelayStage;
use crate::StoreError;
use crate::entropy::random;
use crate::index::{Source, Write};
use crate::relay_store::Account;
use crate::request::{Credit, RENEWED_KEYS_MAX, Refusal};

/// Link keys that an account has left, beyond which no more are drawn.
const KEYS_MAX: u64 = 100_000;
/// Highest limit, in µtok: all that is ever drawn stays countable, and a number in JSON exact.
const CREDIT_MAX: u64 = 1 << 53;

impl RelayStage {
    /// Every refusal comes before the first write. The caller keeps the row.
    pub(super) fn draw(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        moved: Moved,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        // Value is all devices' together, link keys are each one's own.
        let (account, house) = (order.account, self.house(write, order.account)?);
        // The limit of a pack that was granted nothing is 0, as is that of one which may draw no more.
        if CREDITS.get(write, house)?.is_none_or(|row| row.limit == 0) {
            return Ok(Err(Refusal::Credit { left: 0 }));
        }
        let mut granted = CREDITS.get(write, account)?.unwrap_or_default();
        if (moved.keys, moved.value) == (0, 0) || PADS.get(write, account)?.is_some() {
            return Ok(Err(Refusal::Malformed));
        }
        if moved.keys > RENEWED_KEYS_MAX || row.keys_left().saturating_add(moved.keys) > KEYS_MAX {
            return Ok(Err(Refusal::Limit));
        }
        let left = credit(write, house)?.left();
        if moved.value > left {
            return Ok(Err(Refusal::Credit { left }));
        }
        let (own, owed) = (
            balance(write, AccountKey::Holder(house))?,
            balance(write, AccountKey::Owed(house))?,
        );
        let (Some(end), Some(keys), Some(_), Some(_)) = (
            row.link_keys.checked_add(moved.keys),
            granted.keys.checked_add(moved.keys),
            own.credited(moved.value),
            owed.debited(moved.value),
        ) else {
            return Ok(Err(Refusal::Malformed));
        };
        if moved.keys > 0 {
            (row.link_keys, granted.keys) = (end, keys);
            CREDITS.put(write, account, &granted)?;
            self.extent(account, end);
        }
        if moved.value > 0 {
            let transfer = Transfer::drawn(random(&*self.shared.base.entropy), house, moved.value, order.day);
            carry(&mut self.books(write, house), transfer)?;
        }
        Ok(Ok(moved))
    }

    /// How much an account may owe. `false`: there is none of that identifier.
    pub(super) fn grant(&mut self, write: &Write<'_>, identifier: &Identifier, limit: u64) -> Result<bool, StoreError> {
        if limit > CREDIT_MAX {
            return Err(StoreError::Invalid);
        }
        let Some(account) = account_of(write, &self.shared, identifier)? else {
            return Ok(false);
        };
        let account = self.house(write, account)?;
        let row = CREDITS.get(write, account)?.unwrap_or_default();
        CREDITS.put(write, account, &CreditRow { limit, ..row })?;
        Ok(true)
    }

    /// Posts what an account owed and has paid. `Invalid`: it is more than that, or the id names another payment.
    pub(super) fn settle_credit(
        &mut self,
        write: &Write<'_>,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> Result<Option<Credit>, StoreError> {
        let Some(account) = account_of(write, &self.shared, identifier)? else {
            return Ok(None);
        };
        let account = self.house(write, account)?;
        let mut transfer = Transfer::settled(id, account, amount, day);
        let mut books = self.books(write, account);
        if let Some(before) = ledger::Accounts::seen(&books, &id)? {
            // Told once more on another day.
            transfer.day = before.day;
        }
        match ledger::post(&mut books, transfer) {
            Ok(Posted::New | Posted::Repeated) => credit(write, account).map(Some),
            Err(LedgerError::Overpaid { .. } | LedgerError::Conflict | LedgerError::Overflow) => {
                Err(StoreError::Invalid)
            }
            Err(error) => Err(store_error(error)),
        }
    }
}

/// How an account stands with what it drew.
fn credit(source: &impl Source, account: u64) -> Result<Credit, StoreError> {
    let granted = CREDITS.get(source, account)?.unwrap_or_default();
    let owed = balance(source, AccountKey::Owed(account))?;
    Ok(Credit {
        limit: granted.limit,
        drawn: owed.debits,
        settled: owed.credits,
    })
}

impl RelayFiles {
    pub(super) fn read_credit(&self, account: Account) -> Result<Credit, StoreError> {
        credit(&self.shared.base.view()?, self.house_of(account.0))
    }

    pub(super) fn read_account_of(&self, identifier: &Identifier) -> Result<Option<Account>, StoreError> {
        let known = account_of(&self.shared.base.view()?, &self.shared, identifier)?;
        Ok(known.map(Account))
    }
}
