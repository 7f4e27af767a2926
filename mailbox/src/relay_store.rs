//! What a relay keeps, as coarse, typed, atomic operations.
//!
//! Every `async` operation is one commit, shared with whatever else arrived during the last sync; it returns once
//! that commit is durable, and an error means that nothing is known to have happened (see [`StoreError`]).
//! Plain operations read: they are short, and safe to call from a task.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use keypacks::chain::{BoxStep, LinkStep};
use keypacks::pad::Half;
use keypacks::parcel::PREFIX;
use keypacks::rotation::Policy;
use keypacks::{Secret, Tag, deposit::Dek, pack::Identifier};
use ledger::{Onward, PriceList};

use crate::StoreError;
use crate::backup::Copied;
use crate::pad::PadFile;
use crate::request::{Answer, Change, Collected, Credit};

mod books;
mod procure;
mod spool;

pub use books::{Audit, StatementRow, Totals, Upkeep, Verified};
pub use procure::{Endowment, Procure, Procured, Procurement, ProcurementId};
pub use spool::{Delivery, DeliveryId, MixRound, MixTally, Outcome, Pooled, QueueRow, Spooled};

/// Row number of an account; never leaves the relay.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(pub u64);

/// A pack to be issued.
pub struct IssueOrder {
    /// Number of link keys, at least [`keypacks::chain::LINK_KEYS_MIN`].
    pub link_keys: u64,
    /// First value, in µtok.
    pub credit: u64,
    /// Whether the pack receives postmaster's and abuse's mail.
    pub operator: bool,
    /// UTC day of issue.
    pub day: u32,
    /// When its links go on under a new key.
    pub rotation: Policy,
}

/// An issued pack. `root` is handed out once and kept nowhere.
pub struct Issued {
    /// The account.
    pub account: Account,
    /// What names the account towards its holder and the operator.
    pub identifier: Identifier,
    /// Root of all chains of the pack.
    pub root: Secret<32>,
}

/// A live link tag that was found.
pub struct TagHit {
    /// The account.
    pub account: Account,
    /// Keys of this index, computed ahead in memory; nothing is burned by looking.
    pub step: LinkStep,
    /// `p`: the lowest live link index of the account.
    pub floor: u64,
    /// Number of the root that the keys are of: the account's, or the one before it while that is kept.
    pub root: u64,
}

/// A parcel tag that was found: one of the look-ahead, or of an index that was passed over.
pub struct ParcelHit {
    /// The account.
    pub account: Account,
    /// Its key, computed ahead in memory; nothing is burned by looking.
    pub step: BoxStep,
    /// Number of the root that the key is of.
    pub root: u64,
}

/// A live tag of a pad that was found.
pub struct PadHit {
    /// The account.
    pub account: Account,
    /// The up record.
    pub record: u64,
    /// The account's lowest live link index, which the link will burn: pads are paid for by the link as keys are.
    pub floor: u64,
    /// The pad.
    pub pad: Arc<PadFile>,
}

/// The commit of cell 3.
pub struct BurnOrder {
    /// The account.
    pub account: Account,
    /// Number of the root that the keys are of.
    pub root: u64,
    /// Index that cell 3 proved.
    pub index: u64,
    /// Link token that CONFIRM shows.
    pub token: [u8; 16],
    /// Fresh link token for the answer.
    pub fresh: [u8; 16],
    /// Highest change whose answer the holder says it holds.
    pub answered: u64,
    /// UTC day.
    pub day: u32,
}

/// Proof that a burn is durable, and what the first down cell says. Only a store can make one.
pub struct Burned {
    pub(crate) index: u64,
    /// Link token to show.
    pub token: [u8; 16],
    /// Highest change number that the relay has an answer of.
    pub highest: u64,
    /// Numbers up to here are refused as stale.
    pub floor: u64,
    /// The token shown was neither the acknowledged nor the pending one: a second holder or a restored copy.
    pub token_mismatch: bool,
    /// The holder acknowledges an answer that this relay never gave: the relay was restored.
    pub rolled_back: bool,
    /// Generation of the store: above 0, it was restored from a copy.
    pub generation: u64,
    /// Link keys that are left behind this one.
    pub keys_left: u64,
    /// When the link goes on under a new key.
    pub rotation: Policy,
    /// The link is under the root before the account's: only the answer that tells the new one may be asked for.
    pub is_replaced: bool,
    /// The account is frozen.
    pub is_frozen: bool,
    /// It was frozen by this burn.
    pub froze: bool,
}

/// Where an account stands besides its value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Number of its root: how many it was given after its issue.
    pub root: u64,
    /// A copy of it was in use since it has a recovery code: it sends nothing.
    pub is_frozen: bool,
    /// It was a device, and another one ended it: nothing of it is served.
    pub is_dropped: bool,
}

/// A new root for an account, and what its holder proved.
pub struct NewRoot {
    /// The root.
    pub root: Secret<32>,
    /// What tells it to the holder.
    pub ciphertext: Vec<u8>,
    /// Verifier of the code that gives the next one.
    pub recovery: [u8; 32],
    /// Verifier of the code that was shown.
    pub shown: Option<[u8; 32]>,
}

/// Proof that the burn of a rotation's index is durable. Only a store can make one.
pub struct Rotated {
    pub(crate) index: u64,
    /// Link keys that are left behind this one.
    pub keys_left: u64,
}

impl keypacks::link::PersistedIndex for Rotated {
    fn persisted_index(&self) -> u64 {
        self.index
    }
}

impl keypacks::link::PersistedIndex for Burned {
    fn persisted_index(&self) -> u64 {
        self.index
    }
}

/// What a change does besides being recorded, decided by the relay before the commit.
pub enum Effect {
    /// Debit and spool a message.
    Spool(Spooled),
    /// Open an alias.
    AliasOpen {
        /// Full lower-case address.
        address: String,
    },
    /// Close an alias.
    AliasClose {
        /// Full lower-case address.
        address: String,
    },
    /// Go on from a new root.
    Reroot(NewRoot),
    /// What a parcel of control asks for; an alias by its full lower-case address.
    Control(crate::parcel::Asked),
    /// A login at the collecting port, which takes the index of a parcel.
    Login,
    /// Make an account of some of this one's link keys and value.
    Split {
        /// Its identifier.
        identifier: Identifier,
        /// Root of its chains.
        root: Secret<32>,
        /// Its link keys.
        keys: u64,
        /// Its value, in µtok.
        value: u64,
    },
    /// Put what the account has into a voucher.
    Release {
        /// SHA-256 of the voucher.
        voucher: [u8; 32],
    },
    /// Take what is in a voucher.
    Redeem {
        /// SHA-256 of the voucher.
        voucher: [u8; 32],
    },
    /// End the account: at once if the day has come, else on it; none takes it back.
    Expire {
        /// UTC day.
        day: Option<u32>,
    },
    /// Make another device of the account of some of this one's link keys.
    Device {
        /// Its identifier.
        identifier: Identifier,
        /// Root of its chains.
        root: Secret<32>,
        /// Its link keys.
        keys: u64,
    },
    /// End another device of the account.
    Drop {
        /// Its number.
        device: u32,
    },
    /// Tell all devices of the account how these aliases stand, by their full lower-case addresses.
    Tell {
        /// At most [`crate::request::TELL_MAX`].
        addresses: Vec<String>,
    },
    /// Draw link keys and value on credit.
    Renew {
        /// Link keys.
        keys: u64,
        /// µtok.
        value: u64,
    },
    /// Debit a pack at a further relay, and keep the order until [`RelayStore::procured`].
    Procure(Procure),
    /// Make an account for whoever ordered it through this one's holder.
    Endow(Endowment),
    /// Nothing but the stored refusal: the relay has judged the request already.
    Refuse(crate::request::Refusal),
}

/// An alias as the MX sees it.
#[derive(Clone, Copy)]
pub struct Alias {
    /// Its account.
    pub account: Account,
    /// Its number inside the account, shown to the holder in the wrap.
    pub number: u32,
    /// Whether mail is taken.
    pub open: bool,
}

/// A sealed message on its way into one or more mailboxes.
pub struct DepositOrder {
    /// Receiving accounts with the alias number of each.
    pub recipients: Vec<(Account, u32)>,
    /// The body as sealed, exactly one class long.
    pub body: Vec<u8>,
    /// Key of the body; wiped when the commit is known to be durable.
    pub dek: Dek,
    /// Length of the payload inside the body, in bytes.
    pub length: u32,
    /// Size class, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// UTC day, which retention counts from.
    pub day: u32,
}

impl DepositOrder {
    /// The same once more, for a store that may refuse it first.
    pub fn duplicate(&self) -> Self {
        DepositOrder {
            recipients: self.recipients.clone(),
            body: self.body.clone(),
            dek: self.dek.duplicate(),
            length: self.length,
            kilobytes: self.kilobytes,
            day: self.day,
        }
    }
}

/// The relay's durable state.
pub trait RelayStore: Clone + Send + Sync + 'static {
    /// Issues a pack: account, chains, first value.
    fn issue(&self, order: IssueOrder) -> impl Future<Output = Result<Issued, StoreError>> + Send;

    /// Issues a pack whose links are under the pad of this name, which lies in [`crate::pad::path`] already. `half`: the
    /// holder gets this half of it apart from the pack, whose root opens nothing without. `Invalid`: the pad is another account's.
    fn issue_on_pad(
        &self,
        order: IssueOrder,
        pad: [u8; 16],
        half: Option<Half>,
    ) -> impl Future<Output = Result<Issued, StoreError>> + Send;

    /// Finds a live tag of a pad. `None` too: the account's link keys are used up.
    fn find_pad(&self, tag: &Tag) -> Result<Option<PadHit>, StoreError>;

    /// Brings the live tags up to an account's pad, after a first cell was answered or confirmed.
    fn renew_pad(&self, account: Account);

    /// How many pads are open, and how many bytes of them are left, both ways together.
    fn pads(&self) -> (u64, u64);

    /// Credits an account, once per `id`. Returns the new balance, or `None` if there is no such account.
    fn top_up(
        &self,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;

    /// Finds a live link tag.
    fn find_tag(&self, tag: &Tag) -> Result<Option<TagHit>, StoreError>;

    /// Burns all link indices up to the order's, debits the key, moves the link token.
    /// `None`: the index is burned already, which gets silence.
    fn burn(&self, order: BurnOrder) -> impl Future<Output = Result<Option<Burned>, StoreError>> + Send;

    /// Keys of a live link index, computed ahead. `None`: it is burned, or beyond the look-ahead.
    fn link_step(&self, account: Account, index: u64) -> Result<Option<LinkStep>, StoreError>;

    /// Burns all link indices up to `index` and debits its price, for a link that goes on under its keys. The link token
    /// stays. `None`: the index is burned already, or not live yet.
    fn rotate(
        &self,
        account: Account,
        index: u64,
        day: u32,
    ) -> impl Future<Output = Result<Option<Rotated>, StoreError>> + Send;

    /// Debits a period of cover whole, and says whether it did: not where the value does not cover it, and not of an
    /// account that is frozen or of a device that was dropped.
    fn charge_cover(
        &self,
        account: Account,
        amount: u64,
        day: u32,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Where an account stands, from memory.
    fn standing(&self, account: Account) -> Standing;

    /// How many accounts are frozen.
    fn frozen_packs(&self) -> u64;

    /// The stored answer of a change, if it was executed: to be asked before a request is judged.
    /// `digest` is `SHA-256(blind | request)`. `None`: not executed yet.
    fn stored_answer(&self, account: Account, change: &Change, digest: &[u8; 32]) -> Option<Answer>;

    /// Executes a change and stores its answer in the same commit. A change that was executed before, or whose
    /// value is short, is answered accordingly and has no effect. It is asked for under the root of this number: when the
    /// account has another by now, a change of root gets its stored answer or `Conflict`, and anything else is `NoRow`.
    fn execute(
        &self,
        account_and_root: (Account, u64),
        change: Change,
        digest: [u8; 32],
        effect: Effect,
        day: u32,
        now: u64,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Finds a live parcel tag. An error is no answer: the tag may be somebody's.
    fn find_parcel(&self, tag: &Tag) -> Result<Option<ParcelHit>, StoreError>;

    /// Carries out what a parcel says that opened whole, and stores its sealed receipt in the same commit. `false`: its
    /// index has had its end before, or the account has another root than its key is of, and nothing happened. `prefix`: `N`
    /// of the parcel, which its receipt names. `Busy`: the spool is full, as [`Self::pass_parcel`] would say.
    fn carry_out_parcel(
        &self,
        account_and_root: (Account, u64),
        index_and_prefix: (u64, [u8; PREFIX]),
        effect: Effect,
        day: u32,
        now: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Counts a parcel that is nobody's or does not open: from outside its commit is like that of any other.
    fn pass_parcel(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The answer to [`crate::request::Request::Balance`].
    fn balance(&self, account: Account) -> Result<Answer, StoreError>;

    /// The answer to [`crate::request::Request::Devices`].
    fn devices(&self, account: Account) -> Result<Answer, StoreError>;

    /// The other device of this number that an account has now.
    fn other_device(&self, account: Account, number: u32) -> Result<Option<Account>, StoreError>;

    /// The account whose value and aliases these are: that of a device, or the account itself. It is the one that
    /// [`Self::alias`] finds.
    fn house(&self, account: Account) -> Account;

    /// The answer to [`crate::request::Request::Statement`].
    fn services(&self, account: Account, from: u64) -> Result<Answer, StoreError>;

    /// The postings of an account, oldest first, at most `most`.
    fn statement(&self, identifier: &Identifier, most: usize) -> Result<Option<Vec<StatementRow>>, StoreError>;

    /// Wraps from `from` on: entries, the next index, whether more waits.
    fn collect(&self, account: Account, from: u64, most: u16) -> Result<(Vec<Collected>, u64, bool), StoreError>;

    /// Size class of a deposit that waits, in units of 1,000 bytes.
    fn deposit_kilobytes(&self, account: Account, index: u64) -> Result<Option<u32>, StoreError>;

    /// The sealed body of a deposit and its class. Debits the inbound price when it is first served.
    fn fetch(
        &self,
        account: Account,
        index: u64,
        day: u32,
    ) -> impl Future<Output = Result<Result<(u32, Vec<u8>), crate::request::Refusal>, StoreError>> + Send;

    /// Deletes deposits whose digest matches; returns how many.
    fn confirm(
        &self,
        account: Account,
        deposits: Vec<(u64, [u8; 32])>,
    ) -> impl Future<Output = Result<u16, StoreError>> + Send;

    /// Looks an address up. Reserved local parts (postmaster, abuse) lead to the operator's pack.
    fn alias(&self, address: &str) -> Option<Alias>;

    /// Whether an account may send for every address of a domain, `*` for every domain, as a relay does that passes on what
    /// its own holders send: `speaks` from now on, or no longer. [`Self::alias`] finds it under `@domain`, and no address
    /// of an alias is of that form. `false`: there is no such account, or another one speaks for the domain.
    fn speak_for(
        &self,
        identifier: &Identifier,
        domain: String,
        speaks: bool,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Whether deposits wait for the account; `subscribe` wakes when one arrives.
    fn waiting(&self, account: Account) -> bool;

    /// Counts up whenever any account receives a deposit.
    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Stores a sealed message under the next post key of every recipient.
    fn deposit(&self, order: DepositOrder) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores what tells of the end of an own message: no mailbox is too full for that.
    fn report(&self, order: DepositOrder) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Names of deliveries due at `now`, the longest due first, at most `most`.
    fn due(&self, now: u64, most: usize) -> Result<Vec<DeliveryId>, StoreError>;

    /// When the next delivery is due, if any.
    fn next_due(&self) -> Result<Option<u64>, StoreError>;

    /// Size class of a delivery, in units of 1,000 bytes. `None`: it is finished.
    fn delivery_kilobytes(&self, id: DeliveryId) -> Option<u32>;

    /// The account that sends a delivery. `None`: it is finished.
    fn delivery_account(&self, id: DeliveryId) -> Result<Option<Account>, StoreError>;

    /// Opens a delivery. `None`: it is finished.
    fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;

    /// All deliveries in the pool, in an order that says nothing.
    fn pool(&self) -> Vec<Pooled>;

    /// Ends the wait of deliveries in the pool: from the round's `now` on they are due, and [`Delivery::date`] is its date at
    /// every try. Adds what left to the figures of the day. Those that are not in the pool (any more) stay as they are; if
    /// that is all of them, the figures do too. One whose row is damaged is counted as left and gone from the pool: it cannot
    /// be sent, and holds up no other.
    fn release(&self, ids: Vec<DeliveryId>, round: MixRound) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What left the pool on this UTC day, if it is one of the last two on which anything did.
    fn mixed_on(&self, day: u32) -> Result<MixTally, StoreError>;

    /// Wakes when the spool has a new delivery.
    fn spool_changed(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Records how a try ended. A finished delivery's row key is erased. One in the pool is not tried: that it is to be tried
    /// again changes nothing.
    fn finish(&self, id: DeliveryId, outcome: Outcome) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Lets an account owe so much, in µtok, from now on. `false`: there is none of that identifier. `Invalid`: more than 2^53.
    fn grant_credit(
        &self,
        identifier: &Identifier,
        limit: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The answer to [`crate::request::Request::Credit`].
    fn credit(&self, account: Account) -> Result<Credit, StoreError>;

    /// The account of an identifier, if there is one.
    fn account_of(&self, identifier: &Identifier) -> Result<Option<Account>, StoreError>;

    /// Posts that so much of what an account owed was paid, once per `id`. `Invalid`: it owes less, or the id names another
    /// payment. `None`: there is no such account.
    fn settle(
        &self,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> impl Future<Output = Result<Option<Credit>, StoreError>> + Send;

    /// Orders of packs at further relays that are not answered, in no order that says when they came.
    fn procurements(&self) -> Result<Vec<Procurement>, StoreError>;

    /// The order with this X-Wing public key, of this account or its other devices, if it is under way, or if its pack was
    /// made in the last weeks: ordered again, it is told again and costs nothing.
    fn order_before(&self, account: Account, kem: &[u8], dh: [u8; 32]) -> Result<Option<Procure>, StoreError>;

    /// Ends such an order and tells the holder, in one commit. Told again, it changes nothing.
    fn procured(
        &self,
        id: ProcurementId,
        outcome: Procured,
        day: u32,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The price list in force.
    fn prices(&self) -> PriceList;

    /// Puts a price list in force if it differs from the one in force, with the next version number.
    fn set_prices(
        &self,
        message: u64,
        kilobyte: u64,
        key: u64,
        inbound_message: u64,
        inbound_kilobyte: u64,
    ) -> impl Future<Output = Result<PriceList, StoreError>> + Send;

    /// What mail costs behind this relay, under the version of the list in force.
    fn onward(&self) -> Arc<Onward>;

    /// Puts what mail costs behind this relay in force if it differs, with the next version number of the price list.
    fn set_onward(&self, onward: Onward) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Sums as kept.
    fn totals(&self) -> Result<Totals, StoreError>;

    /// Recomputes everything from the postings and compares.
    fn audit(&self) -> Result<Audit, StoreError>;

    /// Copies the database as of one commit into an empty folder, beside other operations. The copy holds no key: nothing
    /// that was erased comes back with it, and it opens beside the keys of this store alone.
    fn backup(&self, folder: &Path) -> Result<Copied, StoreError>;

    /// Reads everything that is kept and recomputes what can be: the audit, every row, body and delivery. Takes as long as
    /// reading the whole store does; goes on beside other operations, and repairs nothing.
    fn verify(&self) -> Result<Verified, StoreError>;

    /// Goes on with [`Self::verify`]: compares the key slot of every account with its row.
    fn verify_slots(&self, verified: &mut Verified) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The spool without identifiers, at most `most` rows.
    fn queue(&self, most: usize) -> Result<Vec<QueueRow>, StoreError>;

    /// Ends retention of what is older than `retention_days`, moves the epoch key on, drops aged answers.
    fn upkeep(&self, now: u64, retention_days: u32) -> impl Future<Output = Result<Upkeep, StoreError>> + Send;
}
