//! The journal as one account sees it.

use serde::{Deserialize, Serialize};

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

/// Services of one kind on one day, as a holder's statement shows them: given by the relay where they are debited, to it
/// where they are credited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Services {
    /// UTC day.
    pub day: u32,
    /// What for.
    pub kind: Kind,
    /// How many transfers.
    pub count: u32,
    /// µtok credited.
    pub credit: Amount,
    /// µtok debited.
    pub debit: Amount,
}

impl From<StatementEntry> for Services {
    fn from(entry: StatementEntry) -> Self {
        Services {
            day: entry.day,
            kind: entry.kind,
            count: 1,
            credit: entry.credit,
            debit: entry.debit,
        }
    }
}

impl Services {
    /// Takes one more entry in. `false`: it is of another day or kind, or a sum would exceed its bits.
    #[must_use]
    pub fn take(&mut self, entry: &StatementEntry) -> bool {
        self.merge(&Services::from(*entry))
    }

    /// Takes the services of another part of the journal in, as [`Self::take`].
    #[must_use]
    pub fn merge(&mut self, other: &Services) -> bool {
        if (self.day, self.kind) != (other.day, other.kind) {
            return false;
        }
        let (Some(count), Some(credit), Some(debit)) = (
            self.count.checked_add(other.count),
            self.credit.checked_add(other.credit),
            self.debit.checked_add(other.debit),
        ) else {
            return false;
        };
        *self = Services {
            count,
            credit,
            debit,
            ..*self
        };
        true
    }
}

/// `opening + sum of entries`, side by side: the closing balance, from which the entries may then be dropped.
/// `None` if a side exceeds 64 bits, which no series of successful posts produces.
pub fn fold(opening: Balance, entries: impl IntoIterator<Item = StatementEntry>) -> Option<Balance> {
    entries.into_iter().try_fold(opening, |balance, entry| {
        balance.credited(entry.credit)?.debited(entry.debit)
    })
}
