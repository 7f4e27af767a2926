//! What waits in the outbox, and what is remembered of what was sent.

use crate::request::{Change, Refusal};

/// A message to be kept in the outbox.
pub struct OutboxOrder {
    /// The padded payload, exactly one class long.
    pub body: Vec<u8>,
    /// Size class, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// Length of the payload inside the body.
    pub length: u32,
    /// Number of recipients.
    pub recipients: u16,
    /// Price list that the price was reckoned by.
    pub prices: u32,
    /// Price, in µtok: reserved from the mirrored balance until answered.
    pub price: u64,
    /// What `postern outbox` shows: the subject, for instance.
    pub label: String,
    /// By which names the message is known, here and outside.
    pub sent: SentNames,
    /// What the mail program calls it and its recipients in reports.
    pub reports: SentReports,
    /// UTC second.
    pub now: u64,
}

/// The Message-IDs of one submitted message, without angle brackets: threads hold by knowing both.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SentNames {
    /// Address of the alias that it is sent under.
    pub alias: String,
    /// What the mail program named it; none if it did not.
    pub own: Option<String>,
    /// What the relay names it.
    pub outside: String,
}

/// What a mail program wants to find again in the reports on one message (ENVID and ORCPT of RFC 3461). It stays here.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SentReports {
    /// Its name for the message.
    pub envelope_id: Option<String>,
    /// Recipients, each with what it was before, as `type;address`.
    pub originals: Vec<(String, String)>,
}

impl SentReports {
    /// Whether there is nothing to find again.
    pub fn is_empty(&self) -> bool {
        self.envelope_id.is_none() && self.originals.is_empty()
    }
}

/// Among how many messages, the last ones, [`SentReports`] are kept.
pub const SENT_REPORTS_MAX: u64 = 1_000;

/// Most messages whose [`SentNames`] are kept; the oldest go first.
pub const SENT_NAMES_MAX: u64 = 100_000;

/// Where an outbox row stands. Legal moves: see [`super::HolderStore::answered`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum OutboxState {
    /// Durable, to be sent or sent again.
    Queued,
    /// Refused for want of value or for its price, and goes again under a new number when value comes; or because its number
    /// was another's, and goes again at the next look.
    Held(Refusal),
    /// Refused for good.
    Refused(Refusal),
    /// The relay no longer keeps its answer: it may or may not have been carried out.
    Unknown,
}

/// A row of the outbox.
#[derive(Clone)]
pub struct OutboxRow {
    /// Its row number, stable over renumbering of the change.
    pub row: u64,
    /// The change as it is sent, number included.
    pub change: Change,
    /// Where it stands.
    pub state: OutboxState,
    /// Its body was asked for before, by this process or one before it: the relay may have it.
    pub may_have_left: bool,
    /// It was taken in before another copy of this store went on from there: that one may have sent it under another number.
    pub is_shared: bool,
    /// Price reserved, in µtok.
    pub price: u64,
    /// What `postern outbox` shows.
    pub label: String,
    /// UTC second at which it was taken in.
    pub taken: u64,
}

/// What a link's first cell told of the numbers of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Highest change number that the relay has an answer of.
    pub highest: u64,
    /// Generation of the relay's store.
    pub generation: u64,
    /// Keys were used that this store knew nothing of: another copy of it, or of its pack, is ahead.
    pub is_behind: bool,
}
