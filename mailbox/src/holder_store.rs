//! What a keypack's holder keeps: positions, outbox, folders of mail. Used by the bridge, and later by a relay at its peers.
//!
//! As with [`crate::relay_store`], every `async` operation is one commit and returns once it is durable.

use std::future::Future;
use std::sync::Arc;

use keypacks::chain::{BoxStep, LinkChain, LinkStep};
use keypacks::procure::CONFIRM;
use keypacks::rotation::Policy;
use keypacks::{Secret, Tag, pack::Identifier};
use ledger::{Onward, PriceList};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::pad::PadFile;
use crate::parcel::Receipt;
use crate::request::Answer;

mod deposits;
mod entries;
mod folders;
mod outbox;
mod parcels;
mod roots;
mod value;

pub use deposits::{OpenedDeposit, PendingDeposit, STORED_MAX, SUMMARY_BYTES_MAX, WrapPlace};
pub use entries::{Entries, Iter};
pub(crate) use folders::below;
pub use folders::{
    COPIED_MAX, Entry, FOLDER_LEVELS_MAX, FOLDER_NAME_BYTES_MAX, FOLDERS_MAX, FlagChange, Flags, Folder, FolderError,
    FolderId, Folders, KEYWORD_BYTES_MAX, KEYWORDS_MAX, SUBSCRIBED_MAX, Snapshot, SpecialUse, StoreFlags, allowed_name,
    canonical,
};
pub use outbox::{OutboxOrder, OutboxRow, OutboxState, SENT_NAMES_MAX, SENT_REPORTS_MAX, SentNames, SentReports, Told};
pub use parcels::{KeptParcel, ParcelOrder, ParcelUse, Purpose, SealError};
pub use roots::{RerootError, Rooting};
pub use value::{OwnBook, ValueMirror};

/// Where the link sequence stands (`docs/PROTOCOL.md` section 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct LinkPosition {
    /// First index whose chain state is still held.
    pub base: u64,
    /// Highest index that a cell 3 was ever sealed for, if any: `h`.
    pub held: Option<u64>,
    /// Highest index whose link was answered, if any.
    pub answered: Option<u64>,
    /// Number of link keys of the pack.
    pub keys: u64,
}

/// Proof that `h = index` is durable. Only a store can make one.
pub struct Reserved {
    pub(crate) index: u64,
}

impl keypacks::link::PersistedIndex for Reserved {
    fn persisted_index(&self) -> u64 {
        self.index
    }
}

/// Whose a message is among the holder's aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageOf {
    /// No such message is known.
    Nobody,
    /// This address, open or closed.
    Alias(String),
    /// One of that name came for more than one alias.
    Several,
}

/// An alias as its holder knows it.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HolderAlias {
    /// Number inside the account, as wraps show it: 0 is the first opened.
    pub number: u32,
    /// Full address.
    pub address: String,
    /// Display name put before the address, if the holder set one.
    pub display_name: Option<String>,
    /// Whether it takes mail.
    pub open: bool,
    /// What its holder calls it; nobody else learns of it.
    pub label: Option<String>,
    /// UTC second from which it is to be closed.
    pub expires: Option<u64>,
    /// The way that its mail must take; nothing is whichever there is.
    pub route: Option<AliasRoute>,
}

/// The way that mail under an alias must take.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AliasRoute {
    /// To the pack's relay, which delivers it by itself.
    Direct,
    /// To the pack's relay, which may pass it on to others.
    Relayed,
    /// To the pack's relay over a link that another one carries.
    Nested {
        /// Domain of that one.
        through: String,
    },
}

impl HolderAlias {
    /// An alias that takes mail and of which nothing else is said.
    pub fn new(number: u32, address: String) -> Self {
        Self {
            number,
            address,
            display_name: None,
            open: true,
            label: None,
            expires: None,
            route: None,
        }
    }
}

/// Most packs at further relays that are ordered and not taken in.
pub const PROCUREMENTS_MAX: usize = 256;

/// How an order of a pack at a further relay stands. Nothing of it is secret.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Procurement {
    /// It waits to be answered.
    Ordered,
    /// The further relay made it, as the relay in between says.
    Made {
        /// X-Wing ciphertext.
        ciphertext: Vec<u8>,
        /// What shows that it is that relay's.
        confirm: [u8; CONFIRM],
    },
    /// It was not made: what was debited came back.
    Returned,
}

/// What the pack says of itself and of its relay.
#[derive(Clone)]
pub struct PackFacts {
    /// What names the account towards the operator.
    pub identifier: Identifier,
    /// `host:port` of the relay's link server.
    pub relay_address: String,
    /// Domain of the relay's aliases.
    pub relay_domain: String,
    /// The relay's static X25519 key.
    pub relay_public: [u8; 32],
    /// When a link goes on under a new key.
    pub rotation: Policy,
}

/// Text of a message, as it was when it was asked for.
pub trait MessageText: Send + Sync {
    /// Its length, in octets.
    fn len(&self) -> usize;

    /// Whether nothing is in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets from `at` on: as many as lie behind it in one chunk of the text, at least one unless it ends there. `Corrupt`:
    /// what was stored there does not open.
    fn read(&self, at: usize) -> Result<Zeroizing<Vec<u8>>, StoreError>;
}

/// The holder's durable state.
pub trait HolderStore: Clone + Send + Sync + 'static {
    /// What the pack says of itself and of its relay.
    fn facts(&self) -> PackFacts;

    /// A secret of this store alone, `HE(store key, purpose, 32)`: for hedged nonces, for the bridge's password.
    fn derive(&self, purpose: &str) -> Secret<32>;

    /// Where the link sequence stands.
    fn link_position(&self) -> LinkPosition;

    /// Keys of a link index, at least `base`; `None` below it or behind the last key.
    fn link_step(&self, index: u64) -> Option<LinkStep>;

    /// The link token last received; zeros before the first link.
    fn link_token(&self) -> [u8; 16];

    /// Makes `h = index` durable: the only way to a proof. Refuses an index below `h`.
    fn reserve_link(&self, index: u64) -> impl Future<Output = Result<Reserved, StoreError>> + Send;

    /// A copy of the link chain at its base, to look for the relay's position with.
    fn link_ahead(&self) -> LinkChain;

    /// As [`Self::reserve_link`], for a restored copy that is any number of links behind: what lies below `index` is lost.
    fn resume_link(&self, index: u64) -> impl Future<Output = Result<Reserved, StoreError>> + Send;

    /// Records that the link of `index` was answered; older chain states are erased within a second.
    fn link_answered(&self, index: u64, token: [u8; 16]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// UTC second of the pack's first use, which is `now` if there was none: what its intervals count from. `NoRow`: the
    /// pack's policy knows no time.
    fn first_use(&self, now: u64) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The pad that all links are under, if the pack has one.
    fn pad(&self) -> Option<Arc<PadFile>>;

    /// Records that a link under the pad was answered and burned link index `index`. The pad itself keeps its own place.
    fn pad_linked(&self, index: u64, token: [u8; 16]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes a message into the outbox and gives it the next change number. Returns its row.
    /// `Busy`: as many rows as may be are kept; `Invalid`: the order contradicts itself.
    fn enqueue(&self, order: OutboxOrder) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Numbers from here on stay above the relay's highest, as LINKED told. If it shows that another copy of this store went
    /// on from here, the rows that are held may have been sent by that: they become [`OutboxState::Unknown`], and what is
    /// called what is returned.
    fn raise_seq(&self, told: Told) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// The generation of the relay's store that was last heard of: 0, it was never restored.
    fn relay_generation(&self) -> Result<u64, StoreError>;

    /// What the holder noted of what it paid.
    fn own_book(&self) -> Result<OwnBook, StoreError>;

    /// Takes what was debited beyond its price up to now as told and known: [`OwnBook::beyond`] begins anew.
    fn pass_over_beyond(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// UTC day on which the pack ends, or did. `None`: its holder never ordered that; `Some(None)`: took it back.
    fn expiry(&self) -> Result<Option<Option<u32>>, StoreError>;

    /// Records that the relay was restored, with a notice for INBOX.
    fn relay_restored(
        &self,
        generation: u64,
        notice: Option<Vec<u8>>,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Numbers a change that is not mail (an alias) and keeps it until answered. Returns its row.
    fn enqueue_change(
        &self,
        operation: crate::request::Operation,
        label: String,
        now: u64,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// How an order stands whose [`Operation::Procure`](crate::request::Operation::Procure) was taken in here, by SHA-256 of
    /// its X-Wing public key. `None`: there is none, or it was refused, or it ended.
    fn procurement(&self, order: &[u8; 32]) -> Result<Option<Procurement>, StoreError>;

    /// Forgets an order whose pack was taken in, or that was returned.
    fn end_procurement(&self, order: [u8; 32]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Which root the chains are of.
    fn rooting(&self) -> Rooting;

    /// Asks the relay for a new root, before all else that waits: a change like any other, whose answer
    /// ([`Self::answered`]) makes it. `recovery`: verifier of the code that the next one will want; `proof`: the code in
    /// force. Returns its row.
    fn begin_reroot(
        &self,
        recovery: [u8; 32],
        proof: Option<crate::request::Proof>,
        now: u64,
    ) -> impl Future<Output = Result<u64, RerootError>> + Send;

    /// All rows, in order of their numbers.
    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError>;

    /// The next row to send: the queued one of the lowest number. `None`: nothing is queued.
    fn next_queued(&self) -> Result<Option<OutboxRow>, StoreError>;

    /// The queued row of the lowest number above this one, if it is mail of at most so many kilobytes that is not being
    /// cancelled: what may be sent while those before it are under way.
    fn queued_mail_behind(&self, seq: u64, kilobytes_max: u32) -> Result<Option<OutboxRow>, StoreError>;

    /// How many rows there are.
    fn outbox_len(&self) -> usize;

    /// Whether a row is queued or held.
    fn outbox_waits(&self) -> bool;

    /// The row that is called so.
    fn outbox_row(&self, label: &str) -> Option<OutboxRow>;

    /// Whether a row is called so.
    fn outbox_knows(&self, label: &str) -> bool;

    /// Body of a row that is mail. Asking for it is sending it: from then on a queued row is not cancelled.
    fn outbox_body(&self, row: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Wakes when the outbox changed.
    fn outbox_changed(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Records the relay's answer to a change:
    /// `Done` finishes the row and erases its key; refusals for value or price hold it, `Stale` makes it unknown,
    /// `Busy` leaves it queued, every other refusal is final. `notice` is a message for INBOX, stored in the same commit.
    fn answered(
        &self,
        row: u64,
        answer: Answer,
        notice: Option<Vec<u8>>,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives held rows that `balance` now covers new numbers and queues them. Returns how many.
    /// `prices` is the list in force, by which they are priced anew.
    fn release_held(&self, prices: PriceList, balance: u64) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Drops a row that is not queued, or a queued one that this process took in and never sent.
    /// `false`: there is no such row, or it may have been sent.
    fn cancel(&self, row: u64) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// µtok reserved by queued and held rows and by parcels without a receipt.
    fn reserved(&self) -> Result<u64, StoreError>;

    /// The highest change number up to which all answers are held.
    fn acknowledged(&self) -> u64;

    /// First post index not yet collected.
    fn collect_from(&self) -> u64;

    /// Keys of a post index at or above [`Self::collect_from`] (or of a gap still kept).
    fn post_step(&self, index: u64) -> Option<BoxStep>;

    /// Keys of the post indices from [`Self::collect_from`] on, so many: [`Self::post_step`] of each in one pass.
    fn post_steps(&self, count: u64) -> Vec<BoxStep>;

    /// The key of the next parcel index; it is taken by [`Self::keep_parcel`].
    fn parcel_step(&self, kind: ParcelUse) -> Result<BoxStep, SealError>;

    /// Keeps a sealed parcel, and moves the chain behind its key, which is erased within a second. The parcel may leave
    /// when this has returned, and not before. `false`: its index is not, or no longer, the next.
    fn keep_parcel(&self, order: ParcelOrder) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Parcels without a receipt, in order of their indices.
    fn parcels(&self) -> Vec<KeptParcel>;

    /// Takes a login for used whose receipt did not come back: the window moves behind it. The login itself is kept until
    /// its receipt comes. `false`: there is no such login.
    fn login_used(&self, index: u64) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Deposits that the next parcel of control is to confirm, at most [`crate::parcel::CONFIRMATIONS_MAX`]: those first
    /// that no parcel under way confirms.
    fn to_confirm(&self) -> Result<Vec<(u64, [u8; 32])>, StoreError>;

    /// Changes of aliases that parcels without a receipt ask for, by index: whether the relay made them is not known.
    fn sealed_aliases(&self) -> Result<Vec<(u64, crate::parcel::AliasChange)>, StoreError>;

    /// The bytes of such a parcel, the same each time.
    fn parcel(&self, index: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Takes the events that a deposit held, with notices for INBOX: aliases stand as they say, and the deposit moves to the
    /// unconfirmed. Told again, it changes nothing. `NoRow`: it is neither pending nor unconfirmed.
    fn take_events(
        &self,
        index: u64,
        events: Vec<crate::devices::Event>,
        notices: Vec<Vec<u8>>,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes the receipts that a deposit held, with notices for INBOX: their parcels end, and the deposit moves to the
    /// unconfirmed. Told again, it changes nothing. `NoRow`: it is neither pending nor unconfirmed.
    fn take_receipts(
        &self,
        index: u64,
        receipts: Vec<Receipt>,
        notices: Vec<Vec<u8>>,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records opened wraps in index order and the next index to collect; keys of those behind are erased after.
    fn collected(
        &self,
        deposits: Vec<PendingDeposit>,
        next: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// As [`Self::collected`], of deposits that came by themselves, in whatever order. Their tags are kept until they are
    /// confirmed, so that another wrap under the same index is noticed. `now`: UTC second from which the keys of what was
    /// passed over are kept.
    fn collected_carried(
        &self,
        deposits: Vec<PendingDeposit>,
        next: u64,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Keys of the post indices that [`Self::wrap_place`] does not look at, being too far ahead: in order, without end.
    fn post_ahead(&self) -> impl Iterator<Item = BoxStep> + Send + 'static;

    /// Goes on at a post index far ahead, of which something came by itself. Of what is passed over the last
    /// [`COLLECT_STEP_MAX`](crate::request::COLLECT_STEP_MAX) keys are kept as those of gaps are; the others end, with
    /// whatever still comes under them. `Invalid`: it lies behind; `Busy`: a start could not follow so far yet, or at all.
    fn pass_over(&self, next: u64, now: u64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Indices below [`Self::collect_from`] that [`Self::collected_carried`] passed over: what was lost on the way to here
    /// still waits at the relay. In ascending order.
    fn missing(&self) -> Vec<u64>;

    /// The relay was asked for these missing indices and has nothing more for them: they are not asked for again. Their
    /// keys are kept like those of other gaps.
    fn asked_for(&self, indices: Vec<u64>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What a wrap is to this store, by its tag and its digest.
    fn wrap_place(&self, tag: &Tag, digest: &[u8; 32]) -> Result<WrapPlace, StoreError>;

    /// How many bytes of messages the disk has room for now. Not a promise: others write to it too.
    fn room(&self) -> Result<u64, StoreError>;

    /// Deposits whose body is not yet stored.
    fn pending(&self) -> Result<Vec<PendingDeposit>, StoreError>;

    /// Stores opened messages in INBOX in the order given, and moves their deposits to the unconfirmed. Returns their
    /// UIDs; a deposit that is unconfirmed already keeps the one it has. Fewer UIDs than messages: there was no room for
    /// those behind, which stay pending. `NoRow`: one is neither pending nor unconfirmed; `Invalid`: there are more than
    /// [`STORED_MAX`].
    fn store_deposits(&self, opened: Vec<OpenedDeposit>) -> impl Future<Output = Result<Vec<u32>, StoreError>> + Send;

    /// Gives a deposit up whose body does not open, with a notice for INBOX.
    fn abandon_deposit(
        &self,
        index: u64,
        notice: Vec<u8>,
        now: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deposits stored but not yet confirmed to the relay: post index, digest of the wrap.
    fn unconfirmed(&self) -> Result<Vec<(u64, [u8; 32])>, StoreError>;

    /// Records that the relay was told; the deposits' keys are erased.
    fn confirmed(&self, indices: Vec<u64>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All folders as of now. Cheap: what changes is copied when it changes.
    fn folders(&self) -> Arc<Folders>;

    /// The messages of a folder as of now, as cheap. `None`: there is no such folder, or no longer.
    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>>;

    /// INBOX as of now.
    fn inbox(&self) -> Arc<Snapshot> {
        self.folder(FolderId::INBOX).unwrap_or_default()
    }

    /// Wakes with every change of folders or of messages in any of them, once the methods above show it.
    fn changed(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Makes a folder, and the superiors that it has not got. Nothing is subscribed. `Exists`, `Cannot`: the name is not
    /// [`allowed_name`]; `TooMany`: there are [`FOLDERS_MAX`].
    fn create_folder(
        &self,
        name: String,
        special_use: Option<SpecialUse>,
    ) -> impl Future<Output = Result<FolderId, FolderError>> + Send;

    /// Removes a folder; its messages end and their keys are erased. Folders below it stay. `Cannot`: it is INBOX.
    fn delete_folder(&self, folder: FolderId) -> impl Future<Output = Result<(), FolderError>> + Send;

    /// Gives a folder another name, and those below it. Superiors that the new name has not got are made. INBOX stays, with
    /// those below it: its messages move to a new folder of that name (RFC 3501 section 6.3.5). `Exists`: one of the new
    /// names is taken; `Cannot`: one is not [`allowed_name`], or lies below the old one; `TooMany`: there would be.
    fn rename_folder(&self, folder: FolderId, name: String) -> impl Future<Output = Result<(), FolderError>> + Send;

    /// Subscribes a name or ends that. `Cannot`: the name is not [`allowed_name`]; `TooMany`: there are
    /// [`SUBSCRIBED_MAX`].
    fn subscribe(&self, name: String, subscribed: bool) -> impl Future<Output = Result<(), FolderError>> + Send;

    /// The flag of a keyword, which is remembered for ever. `None`: there are [`KEYWORDS_MAX`] others, or it is empty or
    /// longer than [`KEYWORD_BYTES_MAX`].
    fn keyword(&self, name: String) -> impl Future<Output = Result<Option<Flags>, StoreError>> + Send;

    /// Puts a message (a notice, an APPEND) into a folder. Returns its UID. `summary`: what [`Self::summaries`] gives back;
    /// what is empty or longer than [`SUMMARY_BYTES_MAX`] is not kept.
    fn append(
        &self,
        folder: FolderId,
        message: Vec<u8>,
        summary: Vec<u8>,
        flags: Flags,
        internal_date: u64,
    ) -> impl Future<Output = Result<u32, FolderError>> + Send;

    /// Text of a message, to be read piece by piece. `None`: expunged, or moved away. It can be read as long as it is kept,
    /// even if the message is expunged meanwhile; its key is in memory for so long, and its place on the disk is not used
    /// again.
    fn text(&self, folder: FolderId, uid: u32) -> Result<Option<Arc<dyn MessageText>>, StoreError>;

    /// Text of a message, whole. `None`: expunged, or moved away.
    fn message(&self, folder: FolderId, uid: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// Summaries of messages in the order asked for. `None`: there is none, or the message is gone.
    fn summaries(&self, folder: FolderId, uids: &[u32]) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, StoreError>;

    /// Changes flags of messages. Returns the UIDs, ascending, of those left alone because they were changed after
    /// `unchanged_since`. A large change is several commits.
    fn change_flags(
        &self,
        folder: FolderId,
        store: StoreFlags,
    ) -> impl Future<Output = Result<Vec<u32>, FolderError>> + Send;

    /// Removes messages and erases their keys. Returns those removed, ascending. Many are removed in several commits.
    fn expunge(&self, folder: FolderId, uids: Vec<u32>) -> impl Future<Output = Result<Vec<u32>, FolderError>> + Send;

    /// Copies messages with their flags and dates: all of those that are there, or on an error none. Returns old and new UIDs,
    /// both ascending. `TooMany`: there are more than [`COPIED_MAX`].
    fn copy(
        &self,
        from: FolderId,
        uids: Vec<u32>,
        to: FolderId,
    ) -> impl Future<Output = Result<Vec<(u32, u32)>, FolderError>> + Send;

    /// Moves messages with their flags and dates: each is in one of the folders at any moment. Returns old and new UIDs, both
    /// ascending. Many are moved in several commits; after an error some may have moved.
    fn move_to(
        &self,
        from: FolderId,
        uids: Vec<u32>,
        to: FolderId,
    ) -> impl Future<Output = Result<Vec<(u32, u32)>, FolderError>> + Send;

    /// How a message that a mail program names by this Message-ID (without angle brackets) is named in what leaves under
    /// `alias`: one sent under it by what the relay called it, one that came in by its own name. `None`: nobody outside
    /// may learn that it is known here.
    fn message_id_outside(&self, alias: &str, message_id: &str) -> Result<Option<String>, StoreError>;

    /// How the mail program named the message that the outside knows by this Message-ID, for mail that came for the alias
    /// of this number. `None`: it was not sent under that alias, or has no other name.
    fn message_id_here(&self, alias: u32, message_id: &str) -> Result<Option<String>, StoreError>;

    /// What is to be found again in reports on the message that the outside knows by this Message-ID, for a report that came
    /// for the alias of this number. `None`: it was not sent under that alias, or nothing is, or that is long ago.
    fn sent_reports(&self, alias: u32, message_id: &str) -> Result<Option<SentReports>, StoreError>;

    /// The alias for which a message came, or under which it was sent, by the mail program's name for it.
    fn alias_of_message(&self, message_id: &str) -> Result<MessageOf, StoreError>;

    /// The aliases of the pack.
    fn aliases(&self) -> Result<Vec<HolderAlias>, StoreError>;

    /// Changes what is noted of an alias as it stands then, and shows it. `NoRow`: there is none of this address.
    fn alter_alias(
        &self,
        address: String,
        change: impl Fn(&mut HolderAlias) + Send + 'static,
    ) -> impl Future<Output = Result<HolderAlias, StoreError>> + Send;

    /// Writes an alias, by its address: the whole of it, so that it is for new ones.
    fn put_alias(&self, alias: HolderAlias) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What was last heard of the value.
    fn value(&self) -> ValueMirror;

    /// The price list last heard.
    fn prices(&self) -> Option<PriceList>;

    /// What mail costs behind the relay, as last heard. Of another version than [`Self::prices`]: it is to be asked again.
    fn onward(&self) -> Arc<Onward>;

    /// Records what mail costs behind the relay.
    fn put_onward(&self, onward: Onward) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records news of value and prices.
    fn put_value(
        &self,
        value: ValueMirror,
        prices: Option<PriceList>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
