//! What a rebuild is told from outside: whose message it is, where it stands on its way, and the bounds.

use super::address::Address;

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
    /// Largest rebuilt message in bytes, the exit's own lines not counted; [`limits::MESSAGE_BYTES_MAX`](super::limits::MESSAGE_BYTES_MAX) or less.
    pub largest: usize,
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

impl Policy<'_> {
    /// Whether an address in a header is the sender's own, in either spelling.
    pub(super) fn is_own(&self, address: &Address) -> bool {
        address.is_same(&self.sender.address) || self.local_address.as_ref().is_some_and(|local| address.is_same(local))
    }
}
