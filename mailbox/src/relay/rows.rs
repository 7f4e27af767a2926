//! What the relay's index holds. The order of the fields is the stored format.
//!
//! No row holds a tag or a chain state of a link; addresses are names under a key (see [`Vault::name`]), except in the
//! private part of a spool row, which is sealed under a key that ends with the delivery.
//!
//! [`Vault::name`]: crate::vault::Vault::name

use ledger::{AccountKey, Balance, PriceList, Transfer};
use serde::{Deserialize, Serialize};

use crate::bodies::BodyName;
use crate::overlay::KEY_MAX;
use crate::request::Answer;
use crate::slab::RecordNumber;
use crate::tables::{RowKey, Single, Table};

pub(super) const SETTINGS: Table<Single, SettingsRow> = Table::new(1);
pub(super) const ACCOUNTS: Table<u64, AccountRow> = Table::new(2);
/// Account by the name of its identifier.
pub(super) const IDENTIFIERS: Table<[u8; 32], u64> = Table::new(3);
pub(super) const BALANCES: Table<AccountKey, Balance> = Table::new(4);
/// Transfers by holder and count.
pub(super) const JOURNAL: Table<(u64, u64), Transfer> = Table::new(5);
/// Journal key by the name of a transfer's id, for those that may come again.
pub(super) const TRANSFERS: Table<[u8; 32], (u64, u64)> = Table::new(6);
/// Answers by account and number of the change.
pub(super) const ANSWERS: Table<(u64, u64), AnswerRow> = Table::new(7);
/// Aliases by the name of their address.
pub(super) const ALIASES: Table<[u8; 32], AliasRow> = Table::new(8);
/// Deposits by account and post index.
pub(super) const DEPOSITS: Table<(u64, u64), DepositRow> = Table::new(9);
/// Deposits that wait, by account and number of the alias.
pub(super) const WAITING: Table<(u64, u64), u64> = Table::new(10);
/// Deliveries by their random name.
pub(super) const SPOOL: Table<u64, SpoolRow> = Table::new(11);
/// Rotation policy by account, as [`keypacks::rotation::Policy::encode`]; one key for each connection has no row.
pub(super) const ROTATIONS: Table<u64, [u8; 16]> = Table::new(12);
/// Where the parcels of an account stand; accounts that never sent one have none.
pub(super) const PARCELS: Table<u64, ParcelsRow> = Table::new(13);
/// Keys of parcel indices that were passed over, by account and index.
pub(super) const SKIPPED: Table<(u64, u64), SkippedRow> = Table::new(14);
/// How many well-formed parcels came, whosever they were.
pub(super) const PARCELS_SEEN: Table<Single, u64> = Table::new(15);

/// Name of the pad of an account that has one.
pub(super) const PADS: Table<u64, [u8; 16]> = Table::new(60);
/// All rows of one account in a table under `(account, n)`.
pub(super) fn all_of(account: u64) -> ((u64, u64), (u64, u64)) {
    ((account, 0), (account, u64::MAX))
}

/// Counters and settings of the whole relay.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct SettingsRow {
    pub(super) next_account: u64,
    /// Account that receives postmaster's and abuse's mail.
    pub(super) operator: Option<u64>,
    pub(super) prices: PriceList,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AccountRow {
    pub(super) identifier: [u8; 16],
    pub(super) day_issued: u32,
    pub(super) link_keys: u64,
    /// Lowest link index that is not burned.
    pub(super) link_base: u64,
    /// Next post index.
    pub(super) post_next: u64,
    /// Highest change that was answered.
    pub(super) seq_highest: u64,
    /// Changes up to here are never executed again.
    pub(super) seq_floor: u64,
    /// Number of answers kept above the floor.
    pub(super) answers: u64,
    /// Link token that the holder has shown.
    pub(super) token: [u8; 16],
    /// Link token that was handed out and not shown yet.
    pub(super) token_pending: Option<[u8; 16]>,
    /// How often neither was shown.
    pub(super) mismatches: u32,
    /// Number of the next alias.
    pub(super) alias_next: u32,
    /// Deposits that wait.
    pub(super) deposits: u64,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct ParcelsRow {
    /// One above the highest index that came.
    pub(super) base: u64,
    /// Indices below it whose keys are kept.
    pub(super) skipped: u32,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SkippedRow {
    /// Slab record that, with the store's key, opens the rest.
    pub(super) record: RecordNumber,
    /// UTC day on which it was passed over.
    pub(super) day: u32,
    /// Key and tag, sealed.
    pub(super) sealed: Vec<u8>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AnswerRow {
    pub(super) id: [u8; 16],
    pub(super) digest: [u8; 32],
    pub(super) answer: Answer,
    pub(super) day: u32,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AliasRow {
    pub(super) account: u64,
    pub(super) number: u32,
    pub(super) open: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct DepositRow {
    /// UTC day on which it was stored, or on which it expired.
    pub(super) day: u32,
    /// `None`: expired uncollected; the row is its tombstone.
    pub(super) held: Option<HeldDeposit>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct HeldDeposit {
    pub(super) wrap: Vec<u8>,
    /// Number of the alias that it counts for.
    pub(super) alias: u32,
    pub(super) body: BodyName,
    pub(super) kilobytes: u32,
    /// Whether the inbound price was debited.
    pub(super) paid: bool,
}

/// The open part says nothing about sender, recipient or content.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SpoolRow {
    /// UTC second of the next try.
    pub(super) due: u64,
    pub(super) tries: Tries,
    /// UTC second of acceptance, in steps of `ACCEPTED_STEP_S`.
    pub(super) accepted: u64,
    pub(super) kilobytes: u32,
    pub(super) body: BodyName,
    /// Number of the epoch whose key, with the slab record, opens the private part.
    pub(super) epoch: u64,
    pub(super) record: RecordNumber,
    /// [`PrivateRow`], sealed.
    pub(super) private: Vec<u8>,
}

/// How often a delivery was tried, and whether its sender was told of the delay: one number, so that a row without that
/// mark reads as it was written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Tries(u32);

impl Tries {
    const DELAY_TOLD: u32 = 1 << 31;

    pub(super) fn count(self) -> u32 {
        self.0 & !Self::DELAY_TOLD
    }

    pub(super) fn is_delay_told(self) -> bool {
        self.0 & Self::DELAY_TOLD != 0
    }

    /// After one more try.
    pub(super) fn next(self, delay_told: bool) -> Self {
        let count = (self.count() + 1).min(Self::DELAY_TOLD - 1);
        let told = if delay_told {
            Self::DELAY_TOLD
        } else {
            self.0 & Self::DELAY_TOLD
        };
        Tries(count | told)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PrivateRow {
    pub(super) account: u64,
    pub(super) reverse_path: String,
    pub(super) recipient: String,
    pub(super) body_key: [u8; 32],
}

impl Drop for PrivateRow {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.reverse_path.zeroize();
        self.recipient.zeroize();
        self.body_key.zeroize();
    }
}

impl RowKey for AccountKey {
    fn write_to(&self, out: &mut [u8; KEY_MAX]) -> usize {
        out[0] = match self {
            AccountKey::Holder(_) => 0,
            AccountKey::Revenue => 1,
            AccountKey::Issue => 2,
        };
        let AccountKey::Holder(number) = self else { return 1 };
        out[1..9].copy_from_slice(&number.to_be_bytes());
        9
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0, number @ ..] => Some(AccountKey::Holder(u64::from_bytes(number)?)),
            [1] => Some(AccountKey::Revenue),
            [2] => Some(AccountKey::Issue),
            _ => None,
        }
    }
}
