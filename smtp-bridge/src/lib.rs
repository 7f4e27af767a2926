//! Everything that speaks to mail programs, and the holder's end of a link.
//!
//! The engines [`smtp`] and [`imap`] and the pure [`message`] know no socket; [`link`] cuts messages into cells;
//! [`holder`] keeps a link open, empties the outbox and collects mail; [`net`] is the host that all of it runs on.
//! [`bridge`] puts them together for a person, [`cli`] is its command line, [`control`] the socket beside it. The relay
//! uses the same engines, `message` and `link` from its side. Start at [`bridge::run`].

pub mod bridge;
pub mod cli;
pub mod control;
pub mod figures;
pub mod holder;
pub mod imap;
pub mod link;
pub mod message;
pub mod names;
pub mod net;
mod sealed_file;
pub mod smtp;
