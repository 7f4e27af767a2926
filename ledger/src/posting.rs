//! Posting a transfer: one debit, one credit, one row of the journal.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccountKey, Accounts, Amount};

/// Names a transfer for ever: posting the same one again changes nothing.
pub type TransferId = [u8; 16];

/// What a transfer is for. The order is part of the journal's format: append, never move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Value handed out: from [`AccountKey::Issue`] to a holder.
    TopUp,
    /// A submission: from a holder to [`AccountKey::Revenue`], as are all that follow.
    Message,
    /// A completed link or rotation.
    Key,
    /// A deposit served for the first time.
    Inbound,
}

impl Kind {
    /// The kind as statements show it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::TopUp => "top-up",
            Kind::Message => "message",
            Kind::Key => "key",
            Kind::Inbound => "inbound",
        }
    }

    /// Whether value of this kind flows from `debit` to `credit`.
    fn flows(self, debit: AccountKey, credit: AccountKey) -> bool {
        match self {
            Kind::TopUp => matches!((debit, credit), (AccountKey::Issue, AccountKey::Holder(_))),
            Kind::Message | Kind::Key | Kind::Inbound => {
                matches!((debit, credit), (AccountKey::Holder(_), AccountKey::Revenue))
            }
        }
    }
}

/// An immutable movement of value. It carries no reference to a message and no time finer than a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Its name.
    pub id: TransferId,
    /// Account that gives.
    pub debit: AccountKey,
    /// Account that receives.
    pub credit: AccountKey,
    /// How much, in µtok; zero is a transfer like any other.
    pub amount: Amount,
    /// What for.
    pub kind: Kind,
    /// UTC day, counted from 1970-01-01.
    pub day: u32,
}

impl Transfer {
    /// Value handed out to a holder.
    pub fn top_up(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Issue,
            credit: AccountKey::Holder(holder),
            amount,
            kind: Kind::TopUp,
            day,
        }
    }

    /// A price paid by a holder, of any kind but [`Kind::TopUp`] (which [`post`] then refuses).
    pub fn charge(id: TransferId, holder: u64, amount: Amount, kind: Kind, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Holder(holder),
            credit: AccountKey::Revenue,
            amount,
            kind,
            day,
        }
    }
}

/// What [`post`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Posted {
    /// The transfer counts from now on.
    New,
    /// The same transfer was posted before and counted then.
    Repeated,
}

/// Why nothing was posted. `E` is the store's own error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerError<E> {
    /// The holder's value does not cover the amount.
    Shortfall {
        /// µtok missing.
        shortfall: Amount,
    },
    /// The id names another transfer.
    Conflict,
    /// Value of this kind does not flow between these accounts: the caller is wrong.
    Misdirected,
    /// An account's sums would exceed 64 bits.
    Overflow,
    /// The store failed; whoever holds its transaction must abort it.
    Store(E),
}

impl<E: fmt::Display> fmt::Display for LedgerError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::Shortfall { shortfall } => write!(f, "{shortfall} µtok are missing"),
            LedgerError::Conflict => f.write_str("the transfer's id is taken by another transfer"),
            LedgerError::Misdirected => f.write_str("value of this kind does not flow between these accounts"),
            LedgerError::Overflow => f.write_str("the account's sums exceed 64 bits"),
            LedgerError::Store(error) => write!(f, "the ledger's store failed: {error}"),
        }
    }
}

impl<E: Error + 'static> Error for LedgerError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            LedgerError::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Posts a transfer: `debit.debits += amount; credit.credits += amount`, once per id.
///
/// Everything is checked before anything is written, so a refusal leaves the accounts as they were.
/// Only [`LedgerError::Store`] may leave a part behind, in a transaction that must then be aborted.
pub fn post<A: Accounts>(accounts: &mut A, transfer: Transfer) -> Result<Posted, LedgerError<A::Error>> {
    if let Some(before) = accounts.seen(&transfer.id).map_err(LedgerError::Store)? {
        return if before == transfer {
            Ok(Posted::Repeated)
        } else {
            Err(LedgerError::Conflict)
        };
    }
    if !transfer.kind.flows(transfer.debit, transfer.credit) {
        return Err(LedgerError::Misdirected);
    }
    let giver = accounts.load(transfer.debit).map_err(LedgerError::Store)?;
    let receiver = accounts.load(transfer.credit).map_err(LedgerError::Store)?;
    if let AccountKey::Holder(_) = transfer.debit
        && transfer.amount > giver.available()
    {
        return Err(LedgerError::Shortfall {
            shortfall: transfer.amount - giver.available(),
        });
    }
    let giver = giver.debited(transfer.amount).ok_or(LedgerError::Overflow)?;
    let receiver = receiver.credited(transfer.amount).ok_or(LedgerError::Overflow)?;
    // `flows` admits no transfer from an account to itself, so the two writes do not overwrite each other.
    accounts.store(transfer.debit, giver).map_err(LedgerError::Store)?;
    accounts.store(transfer.credit, receiver).map_err(LedgerError::Store)?;
    accounts.journal(&transfer).map_err(LedgerError::Store)?;
    Ok(Posted::New)
}
