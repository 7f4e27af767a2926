//! Bounds of the SMTP servers, and the answer when each is reached.

use std::time::Duration;

use super::path::Domain;

/// Octets of a command line, CRLF included; longer ones are drained and answered 500 5.5.2.
///
/// RFC 5321 asks for 512. This also holds the longest MAIL with its parameters and an AUTH PLAIN with three fields
/// of 255 octets (RFC 4616).
pub const LINE_MAX: usize = 2_048;

/// Octets read at once while a message comes in; the only buffer that a message passes.
pub const TEXT_BUFFER: usize = 16_384;

/// Recipients of one transaction; further ones are answered 452 4.5.3 (RFC 5321 4.5.3.1.8).
pub const RECIPIENTS_MAX: usize = 100;

/// Bad commands of one session; the next one is answered 421 4.7.0.
pub const BAD_COMMANDS_MAX: u32 = 25;

/// Commands of one session since its last message, good ones too; the next one is answered 421 4.7.0.
///
/// None of them costs much, but who only talks holds a place that others want.
pub const IDLE_COMMANDS_MAX: u32 = 20_000;

/// Recipients of one session that were refused for good; the next one is answered 421 4.7.0.
///
/// Guessing aliases costs a connection for every 20 of them.
pub const REFUSED_RECIPIENTS_MAX: u32 = 20;

/// Wrong passwords of one session; the next AUTH is answered 421 4.7.0 unread.
pub const LOGIN_FAILURES_MAX: u32 = 3;

/// Octets drained of a message that is already refused; then the reply is given and the connection closed. A chunk that
/// is announced with more is not waited for.
pub const DRAIN_MAX: u64 = 1 << 30;

/// Connections of one listener; further ones are told 421 4.3.2 by [`turn_away`](super::turn_away).
pub const CONNECTIONS_MAX: usize = 500;

/// What a listener offers and bears.
#[derive(Clone)]
pub struct Limits {
    /// What the greeting and EHLO show, and all they show.
    pub domain: Domain,
    /// Octets of a message, as SIZE announces them: CRLFs counted, dots unstuffed.
    pub size_max: u64,
    /// What becomes of a bare CR or LF in a message's text.
    pub bare_newlines: BareNewlines,
    /// Whether a client has to log in.
    pub login: Login,
    /// Whether addresses outside ASCII are taken (RFC 6531).
    pub utf8: bool,
    /// Whether clients may say which reports they want (RFC 3461).
    pub dsn: bool,
    /// Whether STARTTLS is offered. Whoever drives the session must be able to carry it out.
    pub starttls: bool,
}

impl Limits {
    /// A relay's MX: open to strangers, so nothing ambiguous passes.
    pub fn mx(domain: Domain, size_max: u64) -> Self {
        Self {
            domain,
            size_max,
            bare_newlines: BareNewlines::Refuse,
            login: Login::None,
            utf8: true,
            // A report of success would tell a stranger that an alias exists, and when its mail was taken.
            dsn: false,
            starttls: false,
        }
    }

    /// A bridge's submission port: its own user's client, whose slips are mended. Nothing carries addresses outside ASCII
    /// from there on.
    pub fn submission(domain: Domain, size_max: u64) -> Self {
        Self {
            domain,
            size_max,
            bare_newlines: BareNewlines::Normalise,
            login: Login::Required,
            utf8: false,
            dsn: true,
            starttls: false,
        }
    }
}

/// What becomes of a CR without LF, or a LF without CR, in a message's text.
///
/// Servers that disagree on these are how a second message is smuggled inside the first; either way none leaves us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BareNewlines {
    /// The whole message is drained and answered 550 5.6.0.
    Refuse,
    /// Each becomes CRLF; none of them ever ends the message or begins a stuffed line.
    Normalise,
}

/// Whether a client has to log in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// AUTH is neither offered nor known.
    None,
    /// MAIL is answered 530 5.7.0 before AUTH. Only for loopback: there is no TLS.
    Required,
}

/// The clock that runs while a server waits for its client. A new one starts with every reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Fires when the next command is not complete (RFC 5321 4.5.3.2.7).
    Command,
    /// Fires when the final dot, or the last chunk, has not come. Octets that do come extend it, see [`Timer::allows`].
    Text,
    /// Fires when the client does not take our replies, the greeting included.
    Write,
}

impl Timer {
    /// How long the client may take that has sent `octets` since the clock started.
    ///
    /// A message gains a millisecond for each octet, but never more than has passed: slow clients pass, one that only
    /// holds the line does not, not even one that has sent much before.
    pub fn allows(self, octets: u64) -> Duration {
        match self {
            Self::Command | Self::Write => Duration::from_secs(5 * 60),
            Self::Text => Duration::from_secs(10 * 60) + Duration::from_millis(octets),
        }
    }
}
