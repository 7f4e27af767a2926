//! Messages over an established link: cut into cells on one side, put together on the other.
//!
//! A message is `u16 header length | header | body` on one stream of cells (`docs/PROTOCOL.md` section 4). Both
//! the holder's end and the relay's end use this module; neither knows here what a header means.

pub mod cover;
pub mod erasing;
mod pace;
pub mod pipe;
mod reader;
pub mod rotation;
mod sealing;
mod writer;

pub use pace::STILL_MAX;
pub use reader::{Head, LinkReader, read_cell};
pub use sealing::{Opening, Sealing};
pub use writer::{LinkWriter, Outgoing, PadCost, pad_cost};

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer sent something that this protocol has not: the link is closed without an answer.
    #[error("the peer broke the protocol")]
    Broken,
    /// The peer said CLOSE.
    #[error("the peer closed the link")]
    Closed,
    /// The stream ended or failed.
    #[error("the connection ended: {0}")]
    Stream(#[from] std::io::Error),
    /// There is no next key to go on under, or it cannot be taken now.
    #[error("the link's next key cannot be taken")]
    NoKey,
    /// The peer took too long.
    #[error("the peer did not answer in time")]
    Timeout,
    /// What is left of the pad, or leased of it, does not hold what is to be sent. Nothing of it was sealed.
    #[error(transparent)]
    Pad(#[from] keypacks::pad::PadError),
}

impl From<keypacks::Refused> for LinkError {
    fn from(_: keypacks::Refused) -> Self {
        LinkError::Broken
    }
}

#[cfg(test)]
pub(crate) mod tests;
