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
    /// A submission: from a holder to [`AccountKey::Revenue`], as are the two that follow.
    Message,
    /// A completed link or rotation.
    Key,
    /// A deposit served for the first time.
    Inbound,
    /// Value that a holder gave away: to [`AccountKey::Transit`].
    Given,
    /// Value that came from another holder: out of [`AccountKey::Transit`].
    Received,
    /// What an account still had when it ended: from a holder to [`AccountKey::Revenue`].
    Lapsed,
    /// The part of a submission's price that is due behind this relay: from a holder to [`AccountKey::Onward`].
    Onward,
    /// Value drawn on credit: from the holder's [`AccountKey::Owed`] to the holder.
    Credit,
    /// What was owed was paid: from [`AccountKey::Issue`] to the holder's [`AccountKey::Owed`].
    Settled,
    /// A pack at a further relay, with what it costs to have it procured: from a holder to [`AccountKey::Onward`].
    Procured,
    /// What was paid for such a pack that could not be made: from [`AccountKey::Onward`] to the holder.
    Returned,
    /// Cover on a link, for a period ahead: from a holder to [`AccountKey::Revenue`].
    Cover,
}

impl Kind {
    /// The kind as statements show it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::TopUp => "top-up",
            Kind::Message => "message",
            Kind::Key => "key",
            Kind::Inbound => "inbound",
            Kind::Given => "given",
            Kind::Received => "received",
            Kind::Lapsed => "lapsed",
            Kind::Onward => "onward",
            Kind::Credit => "credit",
            Kind::Settled => "settled",
            Kind::Procured => "procured",
            Kind::Returned => "returned",
            Kind::Cover => "cover",
        }
    }

    /// Whether value of this kind flows from `debit` to `credit`.
    fn flows(self, debit: AccountKey, credit: AccountKey) -> bool {
        match self {
            Kind::TopUp => matches!((debit, credit), (AccountKey::Issue, AccountKey::Holder(_))),
            Kind::Message | Kind::Key | Kind::Inbound | Kind::Lapsed | Kind::Cover => {
                matches!((debit, credit), (AccountKey::Holder(_), AccountKey::Revenue))
            }
            Kind::Given => matches!((debit, credit), (AccountKey::Holder(_), AccountKey::Transit)),
            Kind::Received => matches!((debit, credit), (AccountKey::Transit, AccountKey::Holder(_))),
            Kind::Onward | Kind::Procured => {
                matches!((debit, credit), (AccountKey::Holder(_), AccountKey::Onward))
            }
            Kind::Returned => matches!((debit, credit), (AccountKey::Onward, AccountKey::Holder(_))),
            Kind::Credit => {
                matches!((debit, credit), (AccountKey::Owed(of), AccountKey::Holder(to)) if of == to)
            }
            Kind::Settled => matches!((debit, credit), (AccountKey::Issue, AccountKey::Owed(_))),
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

    /// Value that a holder gives away.
    pub fn given(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Holder(holder),
            credit: AccountKey::Transit,
            amount,
            kind: Kind::Given,
            day,
        }
    }

    /// Value that a holder has from another.
    pub fn received(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Transit,
            credit: AccountKey::Holder(holder),
            amount,
            kind: Kind::Received,
            day,
        }
    }

    /// Value that a holder draws on credit.
    pub fn drawn(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Owed(holder),
            credit: AccountKey::Holder(holder),
            amount,
            kind: Kind::Credit,
            day,
        }
    }

    /// What a holder owed, and has paid.
    pub fn settled(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Issue,
            credit: AccountKey::Owed(holder),
            amount,
            kind: Kind::Settled,
            day,
        }
    }

    /// What a holder pays for the legs behind this relay.
    pub fn onward(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Holder(holder),
            credit: AccountKey::Onward,
            amount,
            kind: Kind::Onward,
            day,
        }
    }

    /// What a holder pays for a pack at a further relay.
    pub fn procured(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            kind: Kind::Procured,
            ..Self::onward(id, holder, amount, day)
        }
    }

    /// What a holder gets back, for whom no such pack was made.
    pub fn returned(id: TransferId, holder: u64, amount: Amount, day: u32) -> Self {
        Transfer {
            id,
            debit: AccountKey::Onward,
            credit: AccountKey::Holder(holder),
            amount,
            kind: Kind::Returned,
            day,
        }
    }

    /// A price paid by a holder, of a kind that the relay earns (any other is refused by [`post`]).
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
    /// More is settled than the holder owes.
    Overpaid {
        /// µtok too much.
        excess: Amount,
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
            LedgerError::Overpaid { excess } => write!(f, "{excess} µtok more than are owed"),
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
    if let AccountKey::Holder(_) | AccountKey::Transit | AccountKey::Onward = transfer.debit
        && transfer.amount > giver.available()
    {
        return Err(LedgerError::Shortfall {
            shortfall: transfer.amount - giver.available(),
        });
    }
    if let AccountKey::Owed(_) = transfer.credit {
        let owed = receiver.debits.saturating_sub(receiver.credits);
        if transfer.amount > owed {
            return Err(LedgerError::Overpaid {
                excess: transfer.amount - owed,
            });
        }
    }
    let giver = giver.debited(transfer.amount).ok_or(LedgerError::Overflow)?;
    let receiver = receiver.credited(transfer.amount).ok_or(LedgerError::Overflow)?;
    // `flows` admits no transfer from an account to itself, so the two writes do not overwrite each other.
    accounts.store(transfer.debit, giver).map_err(LedgerError::Store)?;
    accounts.store(transfer.credit, receiver).map_err(LedgerError::Store)?;
    accounts.journal(&transfer).map_err(LedgerError::Store)?;
    Ok(Posted::New)
}
