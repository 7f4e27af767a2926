//! Hands messages to one server, one after the other, each for one recipient.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::data::newline;
use super::login;
use super::path::{Domain, Mailbox, ReversePath};
use super::peer::{Offers, Peer, PeerReply};
use super::replies::Enhanced;

/// How long each step may take (RFC 5321 4.5.3.2).
const GREETING: Duration = Duration::from_secs(5 * 60);
const EHLO: Duration = Duration::from_secs(5 * 60);
const STARTTLS: Duration = Duration::from_secs(2 * 60);
const AUTH: Duration = Duration::from_secs(2 * 60);
const MAIL: Duration = Duration::from_secs(5 * 60);
const RCPT: Duration = Duration::from_secs(5 * 60);
const DATA_INITIATION: Duration = Duration::from_secs(2 * 60);
/// For each [`DATA_BLOCK_OCTETS`] begun.
const DATA_BLOCK: Duration = Duration::from_secs(3 * 60);
const DATA_TERMINATION: Duration = Duration::from_secs(10 * 60);

/// Octets counted as one block: a server that takes less than about 6 kB a second is given up.
const DATA_BLOCK_OCTETS: usize = 1 << 20;
/// Octets written at once, more or less.
const WRITE_OCTETS: usize = 1 << 16;

/// What came of a delivery: for the record, a reply code if there was a usable reply, and the status for a delivery
/// status notification (RFC 3464 2.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryResult {
    /// The server has the message.
    Delivered,
    /// Worth another try. Where the connection ended between the final dot and its reply, the server may have the
    /// message all the same.
    Transient {
        /// Three digits; none if there was no usable reply.
        code: Option<u16>,
        /// Of class 4.
        status: Enhanced,
    },
    /// Pointless to try again.
    Permanent {
        /// Three digits; none if it was not a reply that said so.
        code: Option<u16>,
        /// Of class 5.
        status: Enhanced,
    },
}

/// How [`Connection::deliver`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// The message was offered, and this came of it.
    Ended(DeliveryResult),
    /// The server closed the connection, or said 421, before it was given any of the text: the message is as it was.
    /// On a connection that was used before, that is the end of the connection and says nothing of the message.
    Closed(DeliveryResult),
}

impl Attempt {
    /// What to record if there is no other connection to try.
    pub fn result(self) -> DeliveryResult {
        match self {
            Self::Ended(result) | Self::Closed(result) => result,
        }
    }
}

/// A connection to a server that has answered EHLO.
///
/// One recipient a transaction: the result is the recipient's, and nobody learns of another. Where the server offers
/// PIPELINING, all commands of a transaction leave in one batch (RFC 2920).
pub struct Connection<S> {
    peer: Peer<S>,
    offers: Offers,
    standing: Standing,
    is_own: bool,
}

/// Where a connection stands between two messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The next MAIL may follow.
    Idle,
    /// A transaction is open that came to nothing: RSET goes before the next MAIL.
    Transaction,
    /// We and the server no longer agree where we are, or it is gone.
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Waits for the greeting of a server just dialled and says EHLO with the name of `domain`.
    pub async fn open(stream: S, domain: &Domain) -> Result<Self, DeliveryResult> {
        let mut peer = Peer::new(stream);
        // Refused before a recipient was named: that is the host as it is today, and says nothing of the mailbox.
        let is_own = greeting(&mut peer, domain).await.map_err(Failure::transient)?;
        Self::say_hello(peer, domain, is_own).await
    }

    /// Says EHLO to a server that has greeted already, on a stream that [`Self::start_tls`] gave and that was secured
    /// since. What it said before is forgotten (RFC 3207 section 4.2).
    pub async fn open_secured(stream: S, domain: &Domain) -> Result<Self, DeliveryResult> {
        Self::say_hello(Peer::new(stream), domain, false).await
    }

    async fn say_hello(mut peer: Peer<S>, domain: &Domain, is_own: bool) -> Result<Self, DeliveryResult> {
        let offers = hello(&mut peer, domain).await.map_err(Failure::transient)?;
        Ok(Self {
            peer,
            offers,
            standing: Standing::Idle,
            is_own,
        })
    }

    /// Whether the server greeted with the name that is ours.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Whether the server offers STARTTLS.
    pub fn offers_tls(&self) -> bool {
        self.offers.starttls
    }

    /// Asks for TLS, and gives the stream back for the handshake. An error ends the connection.
    pub async fn start_tls(mut self) -> Result<S, DeliveryResult> {
        let reply = ask(&mut self.peer, STARTTLS, "STARTTLS\r\n").await;
        match reply.and_then(completed) {
            Ok(_) => self
                .peer
                .into_stream()
                .map_err(|error| Failure::from(error).transient()),
            Err(failure) => Err(failure.transient()),
        }
    }

    /// Says who we are (RFC 4954). For a stream that nobody listens to.
    pub async fn login(&mut self, user: &str, password: &[u8]) -> Result<(), DeliveryResult> {
        let exchange = if self.offers.auth_plain {
            vec![login::plain(user, password)]
        } else if self.offers.auth_login {
            login::login(user, password)
        } else {
            return Err(DeliveryResult::Transient {
                code: None,
                status: Enhanced::new(4, 7, 0),
            });
        };
        self.say_in_turn(exchange).await.map_err(|failure| {
            self.standing = Standing::Broken;
            failure.transient()
        })
    }

    /// Says one line after the other, each asked for with 334, the last answered with 235.
    async fn say_in_turn(&mut self, lines: Vec<Zeroizing<String>>) -> Result<(), Failure> {
        let count = lines.len();
        for (number, line) in (1..).zip(lines) {
            let reply = ask(&mut self.peer, AUTH, &line).await?;
            match reply.code {
                334 if number < count => {}
                400.. => return completed(reply).map(|_| ()),
                200..=299 if number == count => return Ok(()),
                _ => return Err(Failure::Lost),
            }
        }
        Ok(())
    }

    /// Delivers `message` to `recipient`.
    ///
    /// It is sent with each bare CR or LF as CRLF, so that no server can find a second message inside it. Dots are
    /// stuffed.
    pub async fn deliver(&mut self, reverse_path: &ReversePath, recipient: &Mailbox, message: &[u8]) -> Attempt {
        let envelope = Envelope {
            reverse_path,
            recipient,
            is_8bit: !message.is_ascii(),
        };
        if envelope.is_8bit && !self.offers.eight_bit_mime {
            return Attempt::Ended(Failure::ConversionRequired.into());
        }
        // Broken until all is read that the server says to this message.
        let stood = std::mem::replace(&mut self.standing, Standing::Broken);
        let begun = if self.offers.pipelining {
            self.begin_at_once(stood, &envelope).await
        } else {
            self.begin_step_by_step(stood, &envelope).await
        };
        match begun {
            Ok(()) => Attempt::Ended(match self.text(message).await {
                Ok(()) => DeliveryResult::Delivered,
                Err(failure) => failure.into(),
            }),
            Err(failure) if failure.is_end_of_connection() => Attempt::Closed(failure.into()),
            Err(failure) => Attempt::Ended(failure.into()),
        }
    }

    /// Whether another message can be offered: the server agrees where we are, and kept silent since.
    pub async fn is_usable(&mut self) -> bool {
        self.standing != Standing::Broken && self.peer.is_quiet().await
    }

    /// Takes leave. QUIT leaves if it can at once: nobody is to wait for its reply.
    pub async fn quit(mut self) {
        if self.standing != Standing::Broken {
            let _gone = timeout(Duration::ZERO, self.peer.write(b"QUIT\r\n")).await;
        }
    }

    /// From MAIL to the go-ahead for the text.
    async fn begin_step_by_step(&mut self, stood: Standing, envelope: &Envelope<'_>) -> Result<(), Failure> {
        if stood == Standing::Transaction {
            let reset = ask(&mut self.peer, MAIL, "RSET\r\n").await;
            reset_done(reset)?;
        }
        for (limit, command) in [(MAIL, envelope.mail()), (RCPT, envelope.rcpt())] {
            let reply = ask(&mut self.peer, limit, &command).await;
            reply.and_then(completed).map_err(|failure| self.refused(failure))?;
        }
        let reply = ask(&mut self.peer, DATA_INITIATION, "DATA\r\n").await;
        reply.and_then(goes_ahead).map_err(|failure| self.refused(failure))
    }

    /// The same in one batch. Each reply is read, also behind a refusal (RFC 2920 3.1).
    async fn begin_at_once(&mut self, stood: Standing, envelope: &Envelope<'_>) -> Result<(), Failure> {
        let reset = if stood == Standing::Transaction { "RSET\r\n" } else { "" };
        let batch = format!("{reset}{}{}DATA\r\n", envelope.mail(), envelope.rcpt());
        step(MAIL, self.peer.write(batch.as_bytes())).await?;
        if stood == Standing::Transaction {
            reset_done(step(MAIL, self.peer.reply()).await)?;
        }
        let mut refusal = None;
        for limit in [MAIL, RCPT] {
            match step(limit, self.peer.reply()).await.and_then(completed) {
                Ok(_) => {}
                Err(failure) if failure.leaves_in_step() => refusal = refusal.or(Some(failure)),
                Err(failure) => return Err(refusal.unwrap_or(failure)),
            }
        }
        let go_ahead = step(DATA_INITIATION, self.peer.reply()).await.and_then(goes_ahead);
        match (refusal, go_ahead) {
            (None, Ok(())) => Ok(()),
            // It waits for a text to nobody. Leaving is the way to send none.
            (Some(refusal), Ok(())) => Err(refusal),
            (refusal, Err(failure)) => {
                let failure = self.refused(failure);
                Err(refusal.unwrap_or(failure))
            }
        }
    }

    async fn text(&mut self, message: &[u8]) -> Result<(), Failure> {
        let peer = &mut self.peer;
        let exchange = async {
            let mut text = Stuffing::new(message);
            let mut octets = Vec::with_capacity(message.len().min(WRITE_OCTETS) + WRITE_OCTETS / 16);
            while text.fill(&mut octets) {
                peer.write(&octets).await?;
                octets.clear();
            }
            peer.write(&octets).await?;
            peer.reply().await
        };
        let blocks = u32::try_from(message.len() / DATA_BLOCK_OCTETS)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let limit = DATA_BLOCK.saturating_mul(blocks).saturating_add(DATA_TERMINATION);
        let reply = step(limit, exchange).await.and_then(completed);
        if reply.as_ref().map_or_else(Failure::leaves_in_step, |_| true) {
            // Accepted or refused, the transaction is over (RFC 5321 4.1.1.4).
            self.standing = Standing::Idle;
        }
        reply.map(|_| ())
    }

    /// A step before the text failed: where that leaves the connection.
    fn refused(&mut self, failure: Failure) -> Failure {
        if failure.leaves_in_step() {
            self.standing = Standing::Transaction;
        }
        failure
    }
}

/// Whether the server calls itself as we do.
async fn greeting<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>, domain: &Domain) -> Result<bool, Failure> {
    let (reply, is_own) = step(GREETING, peer.greeting(domain.as_str())).await?;
    completed(reply).map(|_| is_own)
}

/// EHLO, or HELO for a server that does not know that (RFC 5321 section 3.2).
async fn hello<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>, domain: &Domain) -> Result<Offers, Failure> {
    let reply = ask(peer, EHLO, &format!("EHLO {}\r\n", domain.as_str())).await?;
    match completed(reply) {
        Ok(reply) => Ok(reply.offers),
        Err(refused @ Failure::Refused { code: 500..=504, .. }) => {
            let reply = ask(peer, EHLO, &format!("HELO {}\r\n", domain.as_str())).await;
            reply.and_then(completed).map_err(|_| refused)?;
            Ok(Offers::default())
        }
        Err(failure) => Err(failure),
    }
}

struct Envelope<'e> {
    reverse_path: &'e ReversePath,
    recipient: &'e Mailbox,
    is_8bit: bool,
}

impl Envelope<'_> {
    /// `MAIL FROM:<reverse-path>`
    fn mail(&self) -> String {
        let body = if self.is_8bit { " BODY=8BITMIME" } else { "" };
        format!("MAIL FROM:<{}>{body}\r\n", self.reverse_path)
    }

    /// `RCPT TO:<forward-path>`
    fn rcpt(&self) -> String {
        format!("RCPT TO:<{}>\r\n", self.recipient)
    }
}

/// A message as it goes over the wire: CRLF alone between lines, dots stuffed, the end behind it (RFC 5321 4.5.2).
struct Stuffing<'m> {
    rest: &'m [u8],
    line_start: bool,
}

impl<'m> Stuffing<'m> {
    fn new(message: &'m [u8]) -> Self {
        Self {
            rest: message,
            line_start: true,
        }
    }

    /// Appends about [`WRITE_OCTETS`]; whether more is to come.
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        while !self.rest.is_empty() {
            if out.len() >= WRITE_OCTETS {
                return true;
            }
            if self.line_start && self.rest[0] == b'.' {
                out.push(b'.');
            }
            let window = &self.rest[..self.rest.len().min(WRITE_OCTETS)];
            let line = newline(window).unwrap_or(window.len());
            self.line_start = line < window.len();
            out.extend_from_slice(&window[..line]);
            self.rest = &self.rest[line..];
            if self.line_start {
                out.extend_from_slice(b"\r\n");
                let length = if self.rest.starts_with(b"\r\n") { 2 } else { 1 };
                self.rest = &self.rest[length..];
            }
        }
        if !self.line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        false
    }
}

/// Why a step failed: the codes of the reply and nothing of its text, which may name an address.
#[derive(Clone, Copy)]
enum Failure {
    /// A reply of 4yz or 5yz.
    Refused { code: u16, enhanced: Option<Enhanced> },
    /// The connection ended.
    Closed,
    /// The server fell silent, or stopped making sense.
    Lost,
    /// 8-bit text, and a server without 8BITMIME (RFC 6152 section 3).
    ConversionRequired,
}

impl Failure {
    /// Whether the connection is over, by the server's wish.
    fn is_end_of_connection(self) -> bool {
        matches!(self, Self::Closed | Self::Refused { code: 421, .. })
    }

    /// Whether the next command may follow.
    fn leaves_in_step(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code != 421)
    }

    /// The same as something that may pass.
    fn transient(self) -> DeliveryResult {
        let (code, enhanced) = match self {
            Self::Refused { code, enhanced } => (Some(code), enhanced.unwrap_or(Enhanced::new(4, 0, 0))),
            Self::Closed | Self::Lost | Self::ConversionRequired => (None, Enhanced::new(4, 4, 2)),
        };
        let is_transient = enhanced.class() == 4;
        DeliveryResult::Transient {
            code,
            status: if is_transient { enhanced } else { Enhanced::new(4, 0, 0) },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Lost,
            _ => Self::Closed,
        }
    }
}

impl From<Failure> for DeliveryResult {
    fn from(failure: Failure) -> Self {
        match failure {
            // The reply's code decides; an enhanced code of another class is the server's slip.
            Failure::Refused {
                code: code @ 500..,
                enhanced,
            } => Self::Permanent {
                code: Some(code),
                status: enhanced
                    .filter(|status| status.class() == 5)
                    .unwrap_or(Enhanced::new(5, 0, 0)),
            },
            Failure::ConversionRequired => Self::Permanent {
                code: None,
                status: Enhanced::new(5, 6, 3),
            },
            Failure::Refused { .. } | Failure::Closed | Failure::Lost => failure.transient(),
        }
    }
}

async fn step<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    Ok(timeout(limit, work).await.map_err(|_elapsed| Failure::Lost)??)
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    peer: &mut Peer<S>,
    limit: Duration,
    command: &str,
) -> Result<PeerReply, Failure> {
    let exchange = async {
        peer.write(command.as_bytes()).await?;
        peer.reply().await
    };
    step(limit, exchange).await
}

/// A 2yz reply; a 3yz at this place means that we and the server no longer agree where we are.
fn completed(reply: PeerReply) -> Result<PeerReply, Failure> {
    match reply.code {
        200..=299 => Ok(reply),
        400.. => Err(Failure::Refused {
            code: reply.code,
            enhanced: reply.enhanced,
        }),
        _ => Err(Failure::Lost),
    }
}

/// A 354 reply.
fn goes_ahead(reply: PeerReply) -> Result<(), Failure> {
    match reply.code {
        354 => Ok(()),
        400.. => completed(reply).map(|_| ()),
        _ => Err(Failure::Lost),
    }
}

/// A refused RSET is the connection's failure, not the message's.
fn reset_done(reply: Result<PeerReply, Failure>) -> Result<(), Failure> {
    match reply.and_then(completed) {
        Ok(_) => Ok(()),
        Err(Failure::Refused { .. }) => Err(Failure::Closed),
        Err(failure) => Err(failure),
    }
}
