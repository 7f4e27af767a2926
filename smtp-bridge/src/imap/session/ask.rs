//! What a session asks for, and what it is answered.

use std::sync::Arc;

use mailbox::holder_store::{Flags, FolderId, MessageText, SpecialUse, StoreFlags};
use zeroize::Zeroizing;

use crate::imap::{Depth, Failure, Long, Summaries, Unavailable, Words};

/// What a session needs next.
#[must_use]
pub enum Step {
    /// Some of [`Session::transmit`](super::Session::transmit) is to be sent.
    Transmit,
    /// Bytes of the client. `watch`: or a change of the mailboxes, whichever is first.
    Receive {
        /// The client is in IDLE.
        watch: bool,
    },
    /// The answer to this, before the next poll.
    Ask(Ask),
    /// Nothing more: the conversation is over and everything is sent.
    Close,
}

/// A question to the [`Backend`](crate::imap::Backend).
pub enum Ask {
    /// Whether this is the user: [`Answer::Login`].
    Login {
        /// As the client gave it.
        user: Zeroizing<Vec<u8>>,
        /// As the client gave it.
        password: Zeroizing<Vec<u8>>,
    },
    /// The text of this UID: [`Answer::Message`].
    Message(FolderId, u32),
    /// The texts of these UIDs: [`Answer::Messages`].
    Messages(FolderId, Vec<u32>),
    /// The text of this UID, which is long: [`Answer::Text`].
    Text(FolderId, u32, Depth, Words),
    /// A piece of such a text, from this octet on: [`Answer::Piece`].
    Piece(Arc<dyn MessageText>, usize),
    /// The summaries of these UIDs: [`Answer::Summaries`].
    Summaries(FolderId, Vec<u32>),
    /// The flags of these keywords, those that there is room for: [`Answer::Keywords`].
    Keywords(Vec<String>),
    /// To change flags: [`Answer::Stored`].
    Store(FolderId, StoreFlags),
    /// To remove these UIDs: [`Answer::Done`].
    Expunge(FolderId, Vec<u32>),
    /// To add a message: [`Answer::Appended`].
    Append {
        /// Where to.
        folder: FolderId,
        /// Its text.
        message: Zeroizing<Vec<u8>>,
        /// Its flags.
        flags: Flags,
        /// UTC second; `None`: now.
        internal_date: Option<u64>,
    },
    /// To copy messages: [`Answer::Copied`].
    Copy {
        /// Where they are.
        from: FolderId,
        /// Which.
        uids: Vec<u32>,
        /// Where to.
        to: FolderId,
        /// Whether they leave the place where they are.
        moves: bool,
    },
    /// To make a folder: [`Answer::Done`].
    Create(String, Option<SpecialUse>),
    /// To remove a folder: [`Answer::Done`].
    Delete(FolderId),
    /// To rename a folder: [`Answer::Done`].
    Rename(FolderId, String),
    /// To subscribe a name, or to end that: [`Answer::Done`].
    Subscribe(String, bool),
}

/// The answer to an [`Ask`].
pub enum Answer {
    /// Whether it is the user's password.
    Login(bool),
    /// The text; `None`: expunged.
    Message(Result<Option<Vec<u8>>, Unavailable>),
    /// The texts in the order asked for, at least one; those behind may be asked for again. `None`: expunged.
    Messages(Result<Vec<Option<Vec<u8>>>, Unavailable>),
    /// The text, as [`Long::of`] makes it; `None`: expunged.
    Text(Result<Option<Long>, Unavailable>),
    /// The octets, as [`MessageText::read`] gives them.
    Piece(Result<Zeroizing<Vec<u8>>, Unavailable>),
    /// The summaries, as [`Backend::summaries`](crate::imap::Backend::summaries) has them.
    Summaries(Result<Summaries, Unavailable>),
    /// The flags together.
    Keywords(Result<Flags, Unavailable>),
    /// The UIDs left alone, as [`Backend::store`](crate::imap::Backend::store) has them.
    Stored(Result<Vec<u32>, Failure>),
    /// Whether the change is durable.
    Done(Result<(), Failure>),
    /// The UID of the message, which is durable.
    Appended(Result<u32, Failure>),
    /// The UIDs here and there.
    Copied(Result<Vec<(u32, u32)>, Failure>),
}
