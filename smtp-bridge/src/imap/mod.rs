//! IMAP4rev1 for one mailbox, INBOX (RFC 3501).
//!
//! [`Session`] is the conversation without its socket: bytes go in, [`Step`]s come out, and the mailbox as it is now
//! enters with every [`Session::poll`]. [`serve`] drives it over a stream and a [`Backend`], which meets the store
//! through a few methods named by the protocol's verbs.
//!
//! A command is framed before it is parsed (`framing.rs`), so that neither an endless line nor a huge literal is ever
//! read into memory; imap-codec then gives it its type. Responses are written as bytes, and message texts pass through
//! as slices, octet for octet as they were stored.
//!
//! Extensions: `LITERAL+` (RFC 7888), `SASL-IR` (4959), `IDLE` (2177), `UNSELECT` (3691), `UIDPLUS` (4315),
//! `NAMESPACE` (2342), `ID` (2971). There are no folders, no keywords and no `\Recent` messages.

mod address;
mod command;
mod dispatch;
mod envelope;
mod fetch;
mod framing;
mod header;
mod inbox;
mod memory;
mod mime;
mod output;
mod reply;
mod search;
mod section;
mod selection;
mod serve;
mod session;
mod structure;
mod summary;
mod text;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mailbox::holder_store::{FlagChange, Flags, Snapshot};
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use header::fuzz as fuzz_header;
pub use memory::MemoryInbox;
pub use mime::fuzz as fuzz_mime;
pub use serve::{Admission, Gate, serve, turn_away};
pub use session::{Answer, Ask, Session, Step, fuzz as fuzz_session};
pub use summary::summary;

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

/// Summaries of messages, as far as there are some.
pub type Summaries = Vec<Option<Zeroizing<Vec<u8>>>>;

/// What the sessions ask of the mailbox behind them.
///
/// Every `async` method returns only when its change is durable, and [`Backend::inbox`] then shows it.
pub trait Backend: Send + Sync + 'static {
    /// Whether this is the user's password. Takes the same time for every wrong one.
    fn login(&self, user: &[u8], password: &[u8]) -> bool;

    /// INBOX as of now. Cheap: it is asked for at every step.
    fn inbox(&self) -> Arc<Snapshot>;

    /// Wakes with every new version of INBOX, after [`Backend::inbox`] shows it.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Text of a message. `None`: expunged.
    fn message(&self, uid: u32) -> impl Future<Output = Result<Option<Vec<u8>>, Unavailable>> + Send;

    /// What [`summary`] made of messages when they came, in the order asked for. `None`: there is none, or the message is
    /// expunged.
    fn summaries(&self, uids: &[u32]) -> impl Future<Output = Result<Summaries, Unavailable>> + Send;

    /// Changes flags; messages that are gone are passed over.
    fn store(&self, uids: Vec<u32>, change: FlagChange) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Removes messages for good; those that are gone are passed over.
    fn expunge(&self, uids: Vec<u32>) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Adds a message and returns its UID. `internal_date` in UTC seconds; `None`: now.
    fn append(
        &self,
        message: Vec<u8>,
        flags: Flags,
        internal_date: Option<u64>,
    ) -> impl Future<Output = Result<u32, Unavailable>> + Send;
}
