//! IMAP4rev1 (RFC 3501), sans-I/O, for the folders of one user.
//!
//! [`Session`] is the conversation without its socket: bytes go in, [`Step`]s come out, and the [`Mailboxes`] as they are
//! now enter with every [`Session::poll`]. [`serve`] drives it over a stream and a [`Backend`], which meets the store
//! through a few methods named by the protocol's verbs.
//!
//! A command is framed before it is parsed (`framing.rs`), so that neither an endless line nor a huge literal is ever
//! read into memory; imap-codec then gives it its type. Responses are written as bytes, and message texts pass through
//! as slices, octet for octet as they were stored.
//!
//! Extensions: `LITERAL+` (RFC 7888), `SASL-IR` (4959), `ENABLE` (5161), `IDLE` (2177), `UNSELECT` (3691), `UIDPLUS`
//! (4315), `MOVE` (6851), `CONDSTORE` (7162), `NAMESPACE` (2342), `ID` (2971), `CHILDREN` (3348), `SPECIAL-USE` and
//! `CREATE-SPECIAL-USE` (6154), `STATUS=SIZE` (8438), `QUOTA` (9208).

mod address;
mod command;
mod dispatch;
mod envelope;
mod fetch;
#[cfg(test)]
mod fetched;
mod flags;
mod framing;
mod header;
mod list;
mod long;
mod memory;
mod mime;
mod output;
mod recent;
mod reply;
mod search;
mod section;
mod selection;
mod serve;
mod session;
mod status;
mod structure;
mod summary;
mod text;
mod utf7;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mailbox::StoreError;
use mailbox::holder_store::{Flags, FolderId, Folders, MessageText, Snapshot, SpecialUse, StoreFlags};
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use header::fuzz as fuzz_header;
pub use list::fuzz as fuzz_list;
pub use long::{Depth, Long, Words};
pub use memory::MemoryStore;
pub use mime::fuzz as fuzz_mime;
pub use recent::Recent;
pub use serve::{Admission, Gate, serve, turn_away};
pub use session::{Answer, Ask, Session, Step, fuzz as fuzz_session};
pub use summary::{fuzz as fuzz_summary, summary};
pub use utf7::fuzz as fuzz_utf7;

/// Longest message that APPEND takes, in bytes.
pub const APPEND_MAX: usize = 62 << 20;

/// The bounds of a session. Sizes in bytes.
#[derive(Clone)]
pub struct Limits {
    /// Longest message that APPEND takes.
    pub append_max: usize,
    /// Longest command: all its lines and literals, without the message of an APPEND.
    pub command_max: usize,
    /// Silence of the client after which the session is closed. RFC 3501 section 5.4 demands at least 30 minutes.
    pub inactivity: Duration,
    /// The same before LOGIN.
    pub inactivity_before_login: Duration,
    /// Silence of the client after which nothing of the message is kept that it fetched a part of.
    pub part_kept: Duration,
    /// How long a client may take for one literal, or for one stretch of other output.
    pub taking: Duration,
    /// How long the answer to a wrong password is kept back.
    pub login_failure_delay: Duration,
    /// Wrong passwords after which the session is closed.
    pub login_failures_max: u32,
    /// Commands in a row that are not understood, after which the session is closed.
    pub bad_commands_max: u32,
    /// Sessions at once.
    pub sessions_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            append_max: APPEND_MAX,
            command_max: 64 << 10,
            inactivity: Duration::from_secs(30 * 60),
            inactivity_before_login: Duration::from_secs(3 * 60),
            part_kept: Duration::from_secs(60),
            taking: Duration::from_secs(3_600),
            login_failure_delay: Duration::from_secs(2),
            login_failures_max: 3,
            bad_commands_max: 20,
            sessions_max: 100,
        }
    }
}

/// The store cannot answer now. The client is told `NO [UNAVAILABLE]` and may try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unavailable;

/// Why something did not become of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no such folder, or no longer.
    NoFolder,
    /// Another folder has the name.
    Exists,
    /// INBOX stays what it is, or the name is not allowed.
    Cannot,
    /// There are as many as there may be, or it is too much at once.
    Limit,
    /// The store cannot answer now.
    Unavailable,
}

impl From<Unavailable> for Failure {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// Summaries of messages, as far as there are some.
pub type Summaries = Vec<Option<Zeroizing<Vec<u8>>>>;

/// How much of something finite is used up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// What is gone.
    pub used: u64,
    /// What there was at first.
    pub limit: u64,
}

/// What GETQUOTA tells (RFC 9208).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Quota {
    /// The value of the pack, in thousandths of a token.
    pub value: Usage,
    /// Its link keys.
    pub keys: Usage,
}

/// Room that is taken for a message on its way, and free again when this is dropped.
pub type Room = Box<dyn Send + Sync>;

/// The mailboxes as they are now. Cheap: they are asked for at every step.
pub trait Mailboxes {
    /// All folders, their subscriptions and the keywords. Keywords are there before a message has them.
    fn folders(&self) -> Arc<Folders>;

    /// The messages of a folder. `None`: it was deleted.
    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>>;

    /// What sessions were told of: the same for all of them.
    fn recent(&self) -> &Recent;

    /// What is left of the pack.
    fn quota(&self) -> Quota;

    /// Room in memory for a message of so many octets, which APPEND is to take. `None`: there is none now.
    fn room(&self, _octets: usize) -> Option<Room> {
        Some(Box::new(()))
    }

    /// Whether nothing of them can be changed: every change is answered `NO [READ-ONLY]`, and is not asked for.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// What the sessions ask of the mailboxes behind them.
///
/// Every `async` method returns only when its change is durable, and [`Mailboxes`] then shows it.
pub trait Backend: Mailboxes + Send + Sync + 'static {
    /// Whether this is the user's password. A wrong one is answered after the same time, however long this takes.
    fn login(&self, user: &[u8], password: &[u8]) -> impl Future<Output = bool> + Send;

    /// Wakes with every change of folders or messages, after [`Mailboxes`] shows it.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Text of a message that is long, to be read piece by piece; as long as it is held it can be read, whatever becomes of
    /// the message. `None`: expunged.
    fn text(
        &self,
        folder: FolderId,
        uid: u32,
    ) -> impl Future<Output = Result<Option<Arc<dyn MessageText>>, Unavailable>> + Send;

    /// Text of a message. `None`: expunged.
    fn message(&self, folder: FolderId, uid: u32) -> impl Future<Output = Result<Option<Vec<u8>>, Unavailable>> + Send;

    /// The session waits for its client and keeps none of the texts that [`Self::message`] and [`Self::text`] gave it.
    fn handed_out(&self) {}

    /// [`Long::of`] a text, which may take long, where that holds up no other session. `None`: it could not be done.
    fn look_through(
        &self,
        text: Arc<dyn MessageText>,
        depth: Depth,
        words: Words,
    ) -> impl Future<Output = Option<Result<Long, StoreError>>> + Send {
        async move { Some(Long::of(text, depth, &words)) }
    }

    /// What [`summary`] made of messages when they came, in the order asked for. `None`: there is none, or the message is
    /// expunged.
    fn summaries(&self, folder: FolderId, uids: &[u32]) -> impl Future<Output = Result<Summaries, Unavailable>> + Send;

    /// The flag of a keyword, made if there is none. `None`: there are as many as there may be.
    fn keyword(&self, name: String) -> impl Future<Output = Result<Option<Flags>, Unavailable>> + Send;

    /// Changes flags; messages that are gone are passed over. Returns the UIDs, ascending, of those left alone because they
    /// were changed since.
    fn store(&self, folder: FolderId, store: StoreFlags) -> impl Future<Output = Result<Vec<u32>, Failure>> + Send;

    /// Removes messages for good; those that are gone are passed over.
    fn expunge(&self, folder: FolderId, uids: Vec<u32>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Adds a message and returns its UID. `internal_date` in UTC seconds; `None`: now.
    fn append(
        &self,
        folder: FolderId,
        message: Vec<u8>,
        flags: Flags,
        internal_date: Option<u64>,
    ) -> impl Future<Output = Result<u32, Failure>> + Send;

    /// Copies the messages that are there, all or none. Returns their UIDs here and there, both ascending.
    fn copy(
        &self,
        from: FolderId,
        uids: Vec<u32>,
        to: FolderId,
    ) -> impl Future<Output = Result<Vec<(u32, u32)>, Failure>> + Send;

    /// Moves the messages that are there. Returns their UIDs here and there, both ascending.
    fn move_to(
        &self,
        from: FolderId,
        uids: Vec<u32>,
        to: FolderId,
    ) -> impl Future<Output = Result<Vec<(u32, u32)>, Failure>> + Send;

    /// Makes a folder, and those above it that there are not.
    fn create(&self, name: String, special_use: Option<SpecialUse>)
    -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes a folder and its messages, and leaves those below it.
    fn delete(&self, folder: FolderId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Renames a folder and those below it; of INBOX, moves its messages to a new folder (RFC 3501 section 6.3.5).
    fn rename(&self, folder: FolderId, name: String) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Subscribes a name, or ends that.
    fn subscribe(&self, name: String, subscribed: bool) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A text that is in memory whole.
pub struct WholeText(Zeroizing<Vec<u8>>);

impl WholeText {
    /// Of these octets.
    #[must_use]
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }
}

impl MessageText for WholeText {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, at: usize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        const PIECE: usize = 64 << 10;
        let end = self.0.len().min((at - at % PIECE).saturating_add(PIECE));
        Ok(Zeroizing::new(self.0.get(at..end).unwrap_or_default().to_vec()))
    }
}
