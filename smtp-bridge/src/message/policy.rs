//! What a rebuild is told from outside: whose message it is, where it stands on its way, and the bounds.

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::header::Header;
use super::refusal::Refusal;
use super::traces::Traces;

/// Everything that [`rebuild`](super::rebuild) needs besides the message. The same policy and message give the same bytes.
pub struct Policy<'a> {
    /// Where on its way the message is.
    pub stage: Stage,
    /// The alias it is sent under.
    pub sender: Sender,
    /// Another spelling of the sender's address, known only on the sender's machine (`login@localhost`):
    /// accepted in From, replaced by the alias in To and Cc.
    pub local_address: Option<Address>,
    /// How the outside knows the message that the client names by this identifier (both without angle brackets), if it
    /// knows it at all. Asked at the bridge only: an identifier from elsewhere would show which other mailbox the user reads.
    pub message_id_outside: &'a dyn Fn(&str) -> Option<String>,
    /// What becomes of HTML. Asked at the bridge only: the exit writes anew what it finds.
    pub html: Html,
    /// Real addresses and names of the user. Asked at the bridge only: nobody else knows them.
    pub traces: &'a Traces,
    /// Largest rebuilt message in bytes, the exit's own lines not counted; [`limits::MESSAGE_BYTES_MAX`](super::limits::MESSAGE_BYTES_MAX) or less.
    pub largest: usize,
}

/// What becomes of HTML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Html {
    /// Its text leaves, or the plain text beside it.
    #[default]
    Drop,
    /// It leaves too, written anew with the few elements that a text needs.
    Keep,
}

/// Where on its way the message is.
#[derive(Clone, PartialEq, Eq)]
pub enum Stage {
    /// On the sender's machine, before the outbox: no date and no Message-ID yet.
    Bridge,
    /// At the relay that delivers it, whose name and clock the recipient sees.
    Exit {
        /// Random part of the Message-ID, left of the `@`; letters, digits, `.`, `-`, `_`.
        message_id_local: String,
        /// Domain of the relay, right of the `@`.
        domain: String,
        /// Seconds since 1970, UTC, already rounded to the operator's bucket.
        date: u64,
    },
}

/// The pseudonym that a message is sent under.
#[derive(Clone, PartialEq, Eq)]
pub struct Sender {
    /// The alias.
    pub address: Address,
    /// The display name that was set with the alias; what the client writes is never used.
    pub display_name: Option<String>,
}

/// What the client lets through for one message, by a field of its header that goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pass {
    /// Signatures, though they name their signer.
    pub(super) signed: bool,
    /// Traces of the user, where they are meant.
    pub(super) traces: bool,
}

impl Pass {
    /// The field: words, parted by commas or spaces.
    pub(super) const FIELD: &'static str = "X-Postern-Pass";

    pub(super) fn read(header: &Header<'_>) -> Result<Self, Refusal> {
        let mut pass = Self::default();
        for text in header.all(Self::FIELD) {
            for word in text?.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
                match word.to_ascii_lowercase().as_str() {
                    "signed" => pass.signed = true,
                    "traces" => pass.traces = true,
                    _ => return Err(Refusal::Pass),
                }
            }
        }
        Ok(pass)
    }
}

impl Policy<'_> {
    /// What is let through: at the exit, what the bridge let through is known by being there.
    pub(super) fn pass(&self, header: &Header<'_>) -> Result<Pass, Refusal> {
        match self.stage {
            Stage::Bridge => Pass::read(header),
            Stage::Exit { .. } => Ok(Pass {
                signed: true,
                traces: true,
            }),
        }
    }

    /// Whether HTML leaves.
    pub(super) fn keeps_html(&self) -> bool {
        self.stage != Stage::Bridge || self.html == Html::Keep
    }

    /// Whether an address in a header is the sender's own, in either spelling.
    pub(super) fn is_own(&self, address: &Address) -> bool {
        address.is_same(&self.sender.address) || self.local_address.as_ref().is_some_and(|local| address.is_same(local))
    }
}
