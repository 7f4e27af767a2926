//! What the relay's index holds. The order of the fields is the stored format.
//!
//! No row holds a tag or a chain state of a link; addresses are names under a key (see [`Vault::name`]), except in the
//! private part of a spool row, which is sealed under a key that ends with the delivery.
//!
//! [`Vault::name`]: crate::vault::Vault::name

use keypacks::procure::CONFIRM;
use ledger::{AccountKey, Balance, Leg, Onward, PriceList, Transfer};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::bodies::BodyName;
use crate::overlay::KEY_MAX;
use crate::relay_store::MixTally;
use crate::request::{Answer, Profile, Wishes};
use crate::slab::RecordNumber;
use crate::tables::{RowKey, Single, Table};
use crate::vault;

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

/// What moved between an account and others; accounts that had nothing to do with others have none.
pub(super) const MOVES: Table<u64, MovesRow> = Table::new(20);
/// Vouchers by the name of their digest.
pub(super) const VOUCHERS: Table<[u8; 32], VoucherRow> = Table::new(21);
/// Accounts that are to end, and those that have.
pub(super) const EXPIRIES: Table<u64, ExpiryRow> = Table::new(90);
/// Roots of the accounts that were given one after their issue.
pub(super) const ROOTS: Table<u64, RootRow> = Table::new(30);
/// Up to which generation of the store an account's holder was told, and what that means for the numbers of its changes.
pub(super) const RECOVERED: Table<u64, RecoveredRow> = Table::new(50);

/// Of each account that shares value, aliases and mail with others. Those that are alone have none.
pub(super) const DEVICES: Table<u64, DeviceRow> = Table::new(80);
/// The accounts that share, by the house: the account that was first, whose value and aliases they are.
pub(super) const HOUSES: Table<u64, HouseRow> = Table::new(81);
/// Bodies that wait for several devices, by house and body.
pub(super) const SHARES: Table<(u64, u64), ShareRow> = Table::new(82);

/// Name of the pad of an account that has one.
pub(super) const PADS: Table<u64, [u8; 16]> = Table::new(60);
/// How deliveries are mixed, by their names; those that are not have no row. While one waits in the pool, its row of the
/// spool is never due.
pub(super) const POOL: Table<u64, PoolRow> = Table::new(115);
/// What left the pool, today and the day before.
pub(super) const MIXED: Table<Single, MixedRow> = Table::new(116);
/// What mail costs behind this relay.
pub(super) const ONWARD: Table<Single, OnwardRow> = Table::new(95);
/// What accounts may draw on credit, and the link keys that they drew; those that may not have no row.
pub(super) const CREDITS: Table<u64, CreditRow> = Table::new(96);
/// Orders of packs at further relays that are under way, by their random names.
pub(super) const PROCURING: Table<u64, ProcuringRow> = Table::new(120);
/// What was ordered so by each account, what was made of it, and what was given back.
pub(super) const PROCURED: Table<u64, ProcuredRow> = Table::new(121);
/// Accounts that were made for others' holders, by the name of the order.
pub(super) const ENDOWED: Table<[u8; 32], EndowedRow> = Table::new(122);
/// Orders of packs at further relays whose pack was made, by [`EndedRow`]'s name.
pub(super) const ENDED: Table<[u8; 32], EndedRow> = Table::new(124);
/// Accounts that send for a domain, or did.
pub(super) const PEERS: Table<u64, ()> = Table::new(123);
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

/// When a delivery in the pool is due: at no time, for programs too that know nothing of pools.
pub(super) const NEVER_DUE: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PoolRow {
    pub(super) profile: Profile,
    pub(super) stay: Stay,
}

impl PoolRow {
    /// It is in the pool still.
    pub(super) fn waits(self) -> bool {
        self.stay == Stay::Waits
    }
}

/// Whether a delivery is in the pool. The order is the stored format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Stay {
    /// It left in a round that kept no date: stores of before have such rows.
    Left,
    Waits,
    /// It left in a round of this date, in UTC seconds.
    Dated(u64),
}

/// The last two days on which something left the pool, with what did.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct MixedRow {
    pub(super) last: (u32, MixTally),
    pub(super) before: (u32, MixTally),
}

impl MixedRow {
    /// What left on a day.
    pub(super) fn on(&self, day: u32) -> MixTally {
        let days = [self.last, self.before];
        let of_it = days.iter().find(|(of, _)| *of == day);
        of_it.map_or(MixTally::default(), |(_, tally)| *tally)
    }

    /// Adds to a day. A clock that was put back adds to the days as they come.
    pub(super) fn add(&mut self, day: u32, tally: &MixTally) {
        if self.last.0 != day {
            self.before = std::mem::replace(&mut self.last, (day, MixTally::default()));
        }
        self.last.1.add(tally);
    }
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct CreditRow {
    /// Most that the account may owe, in µtok.
    pub(super) limit: u64,
    /// Link keys that it drew, all together.
    pub(super) keys: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ProcuringRow {
    /// Who is told.
    pub(super) account: u64,
    /// Whose value was debited.
    pub(super) house: u64,
    /// Name of the peer.
    pub(super) peer: String,
    pub(super) kem: Vec<u8>,
    pub(super) dh: [u8; 32],
    pub(super) keys: u64,
    /// In µtok, as the next two.
    pub(super) value: u64,
    pub(super) price: u64,
    /// UTC day.
    pub(super) day: u32,
}

/// In µtok. What is neither made nor returned is under way.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct ProcuredRow {
    pub(super) ordered: u64,
    pub(super) made: u64,
    pub(super) returned: u64,
}

/// The answer to an order. It does not name the account that was made.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct EndowedRow {
    pub(super) giver: u64,
    /// UTC day.
    pub(super) day: u32,
    pub(super) ciphertext: Vec<u8>,
    pub(super) confirm: [u8; CONFIRM],
}

/// What came of an order, under a keyed name of its X-Wing public key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct EndedRow {
    pub(super) house: u64,
    pub(super) peer: String,
    pub(super) keys: u64,
    /// µtok.
    pub(super) value: u64,
    pub(super) price: u64,
    /// UTC day on which it was told.
    pub(super) day: u32,
    pub(super) ciphertext: Vec<u8>,
    pub(super) confirm: [u8; CONFIRM],
}

/// [`ledger::Onward`], whose version is that of the price list.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OnwardRow {
    pub(super) elsewhere: Leg,
    pub(super) domains: Vec<(String, Leg)>,
}

impl OnwardRow {
    /// As it is in force under this version of the price list.
    pub(super) fn onward(self, version: u32) -> Onward {
        Onward {
            version,
            elsewhere: self.elsewhere,
            domains: self.domains.into_iter().collect(),
        }
    }
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

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct MovesRow {
    /// UTC day that `splits` counts.
    pub(super) day: u32,
    /// Packs that the account made on that day.
    pub(super) splits: u32,
    /// Link keys that came from others, since the account was made.
    pub(super) keys_received: u64,
    /// Link keys that went to others.
    pub(super) keys_given: u64,
    /// Of an account that another one made: by what a repeated order is known, see `moves::birth`.
    pub(super) birth: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct VoucherRow {
    /// Account that filled it, which gets back what is not taken in time.
    pub(super) giver: u64,
    pub(super) keys: u64,
    /// µtok.
    pub(super) value: u64,
    /// UTC day on which it was filled.
    pub(super) day: u32,
    /// Who has what was in it.
    pub(super) taker: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct ExpiryRow {
    /// UTC day on which the account ends, or did.
    pub(super) day: u32,
    /// Once it has ended.
    pub(super) lapsed: Option<Lapsed>,
}

/// What an account that ended had.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Lapsed {
    pub(super) keys: u64,
    /// In µtok.
    pub(super) value: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct DeviceRow {
    pub(super) house: u64,
    /// Within the house, from 1.
    pub(super) number: u32,
    /// UTC day on which it joined.
    pub(super) since: u32,
    /// UTC day of its last link.
    pub(super) used: Option<u32>,
    /// It was dropped: nothing of it is served any more.
    pub(super) dropped: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct HouseRow {
    /// Accounts of the devices that were not dropped, in order of their numbers.
    pub(super) members: Vec<u64>,
    /// Number of the device that joins next.
    pub(super) next: u32,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct ShareRow {
    /// Deposits of the house's devices that name the body.
    pub(super) copies: u32,
    /// Whether the inbound price was debited.
    pub(super) paid: bool,
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

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct RecoveredRow {
    pub(super) generation: u64,
    /// Changes up to here may have been carried out before the restore: never executed, unless their answer is kept.
    pub(super) stale: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RootRow {
    /// How many roots there were before this one.
    pub(super) number: u64,
    /// Verifier of the recovery code that gives the next one.
    pub(super) recovery: [u8; 32],
    /// A copy of the pack was in use: nothing is sent before the next root.
    pub(super) frozen: bool,
    /// What the chains begin with. Of no use, and its record another's, once the account's slot is of this root.
    pub(super) fresh: FreshRoot,
    /// The link chain of the root before, until there is a link under this one.
    pub(super) old: Option<OldLinks>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct FreshRoot {
    /// Slab record that, with the store's key, opens the root.
    pub(super) record: RecordNumber,
    pub(super) sealed: Vec<u8>,
    /// First indices of link, post and parcel.
    pub(super) begin: (u64, u64, u64),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OldLinks {
    /// Number of the change whose answer may still be asked for.
    pub(super) seq: u64,
    /// Index of the state that is sealed.
    pub(super) index: u64,
    /// Slab record that, with the store's key, opens it.
    pub(super) record: RecordNumber,
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

impl PrivateRow {
    /// As it is kept, and behind it how many relays passed the message on, if any did, and which reports are wanted, if
    /// anything was said of them.
    pub(super) fn encode(&self, hops: u8, wishes: Wishes) -> Vec<u8> {
        match (hops, wishes.are_said()) {
            (0, false) => vault::encode(self),
            (hops, false) => vault::encode(&(self, hops)),
            (hops, true) => vault::encode(&(self, hops, wishes)),
        }
    }

    /// The row, how many relays passed the message on, and which reports are wanted.
    pub(super) fn decode(plain: &[u8]) -> Result<(Self, u8, Wishes), StoreError> {
        if let Ok(private) = vault::decode(plain) {
            return Ok((private, 0, Wishes::default()));
        }
        if let Ok((private, hops)) = vault::decode(plain) {
            return Ok((private, hops, Wishes::default()));
        }
        vault::decode(plain)
    }
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
            AccountKey::Transit => 3,
            AccountKey::Onward => 4,
            AccountKey::Owed(_) => 5,
        };
        let (AccountKey::Holder(number) | AccountKey::Owed(number)) = self else {
            return 1;
        };
        out[1..9].copy_from_slice(&number.to_be_bytes());
        9
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0, number @ ..] => Some(AccountKey::Holder(u64::from_bytes(number)?)),
            [1] => Some(AccountKey::Revenue),
            [2] => Some(AccountKey::Issue),
            [3] => Some(AccountKey::Transit),
            [4] => Some(AccountKey::Onward),
            [5, number @ ..] => Some(AccountKey::Owed(u64::from_bytes(number)?)),
            _ => None,
        }
    }
}
