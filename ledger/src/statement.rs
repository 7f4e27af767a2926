//! The journal as one account sees it.

use crate::{AccountKey, Amount, Balance, Kind, Transfer};

/// One transfer from the side of one account: exactly one of the two amounts may be above zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatementEntry {
    /// UTC day.
    pub day: u32,
    /// What for.
    pub kind: Kind,
    /// µtok credited.
    pub credit: Amount,
    /// µtok debited.
    pub debit: Amount,
}

impl StatementEntry {
    /// The transfer as `account` sees it; `None` if it does not touch the account.
    pub fn of(transfer: &Transfer, account: AccountKey) -> Option<Self> {
        let Transfer { amount, kind, day, .. } = *transfer;
        if transfer.credit == account {
            Some(StatementEntry {
                day,
                kind,
                credit: amount,
                debit: 0,
            })
        } else if transfer.debit == account {
            Some(StatementEntry {
                day,
                kind,
                credit: 0,
                debit: amount,
            })
        } else {
            None
        }
    }
}

/// `opening + sum of entries`, side by side: the closing balance, from which the entries may then be dropped.
/// `None` if a side exceeds 64 bits, which no series of successful posts produces.
pub fn fold(opening: Balance, entries: impl IntoIterator<Item = StatementEntry>) -> Option<Balance> {
    entries.into_iter().try_fold(opening, |balance, entry| {
        balance.credited(entry.credit)?.debited(entry.debit)
    })
}
