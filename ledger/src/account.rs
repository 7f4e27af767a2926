//! The accounts of one ledger and what they hold.

use serde::{Deserialize, Serialize};

use crate::{Amount, Transfer, TransferId};

/// Names an account.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum AccountKey {
    /// The holder of a pack, by its row number. May not go below zero.
    Holder(u64),
    /// What the relay has earned.
    Revenue,
    /// Counter-account of all value handed out: its debits are the value ever issued.
    Issue,
    /// Value on its way from one holder to another. May not go below zero; its balance is that of open vouchers.
    Transit,
    /// What holders have paid for the legs of their mail behind this relay and for packs there, which it spends at its
    /// peers. May not go below zero: what could not be bought goes back.
    Onward,
    /// What a holder owes, by its row number: its debits are the value drawn on credit, its credits what was settled.
    Owed(u64),
}

/// The two sides of an account, both of which only grow: `balance = credits - debits`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Balance {
    /// Sum of all credits, in µtok.
    pub credits: Amount,
    /// Sum of all debits, in µtok.
    pub debits: Amount,
}

impl Balance {
    /// What may be spent: `max(credits - debits, 0)`, in µtok.
    pub fn available(&self) -> Amount {
        self.credits.saturating_sub(self.debits)
    }

    /// `credits - debits`, below zero for a counter-account.
    pub fn net(&self) -> i128 {
        i128::from(self.credits) - i128::from(self.debits)
    }

    /// This balance with `amount` more credits; `None` if they overflow.
    pub fn credited(self, amount: Amount) -> Option<Balance> {
        Some(Balance {
            credits: self.credits.checked_add(amount)?,
            ..self
        })
    }

    /// This balance with `amount` more debits; `None` if they overflow.
    pub fn debited(self, amount: Amount) -> Option<Balance> {
        Some(Balance {
            debits: self.debits.checked_add(amount)?,
            ..self
        })
    }
}

/// A store's accounts within one transaction: what [`crate::post`] writes becomes durable together or not at all.
pub trait Accounts {
    /// Why the store cannot read or write; [`std::convert::Infallible`] in memory.
    type Error;

    /// Both sides of an account; zeros if it was never written.
    fn load(&self, account: AccountKey) -> Result<Balance, Self::Error>;

    /// Writes both sides of an account.
    fn store(&mut self, account: AccountKey, balance: Balance) -> Result<(), Self::Error>;

    /// The transfer posted under this id, if there is one.
    fn seen(&self, id: &TransferId) -> Result<Option<Transfer>, Self::Error>;

    /// Appends a transfer to the journal, from which [`Self::seen`] finds it again.
    fn journal(&mut self, transfer: &Transfer) -> Result<(), Self::Error>;
}
