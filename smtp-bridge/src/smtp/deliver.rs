//! Hands one message to one server, for one recipient.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::{ClientId, Extension};
use lettre::transport::smtp::response::{Response, Severity};
use lettre::transport::smtp::{Error, commands};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::path::{Domain, Mailbox, ReversePath};
use super::peer::Peer;
use super::replies::Enhanced;

/// How long each step may take (RFC 5321 4.5.3.2).
const GREETING_AND_EHLO: Duration = Duration::from_secs(2 * 5 * 60);
const MAIL: Duration = Duration::from_secs(5 * 60);
const RCPT: Duration = Duration::from_secs(5 * 60);
const DATA_INITIATION: Duration = Duration::from_secs(2 * 60);
/// For each [`DATA_BLOCK_OCTETS`] begun.
const DATA_BLOCK: Duration = Duration::from_secs(3 * 60);
const DATA_TERMINATION: Duration = Duration::from_secs(10 * 60);

/// Octets counted as one block: a server that takes less than about 6 kB a second is given up.
const DATA_BLOCK_OCTETS: usize = 1 << 20;
/// Octets written at once.
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

/// Delivers `message` over a dialled stream and says what came of it; `domain` is the name to say EHLO with.
///
/// One recipient a transaction: the result is the recipient's, and nobody learns of another. The message is sent with
/// each bare CR or LF as CRLF, so that no server can find a second message inside it. Dots are stuffed.
pub async fn deliver<S>(
    stream: S,
    domain: &Domain,
    reverse_path: &ReversePath,
    recipient: &Mailbox,
    message: &[u8],
) -> DeliveryResult
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let hello = ClientId::Domain(domain.as_str().to_owned());
    let connect = AsyncSmtpConnection::connect_with_transport(Box::new(Peer::new(stream)), &hello);
    let mut connection = match step(GREETING_AND_EHLO, connect).await {
        Ok(connection) => connection,
        // Refused before a recipient was named: that is the host as it is today, and says nothing of the mailbox.
        Err(failure) => return failure.transient(),
    };
    let result = match transact(&mut connection, reverse_path, recipient, message).await {
        Ok(()) => DeliveryResult::Delivered,
        Err(failure) => failure.into(),
    };
    // QUIT leaves if it can at once. Waiting for its reply would only delay the record of what happened.
    let _gone = timeout(Duration::ZERO, connection.quit()).await;
    result
}

async fn transact(
    connection: &mut AsyncSmtpConnection,
    reverse_path: &ReversePath,
    recipient: &Mailbox,
    message: &[u8],
) -> Result<(), Failure> {
    let is_8bit = !message.is_ascii();
    if is_8bit && !connection.server_info().supports_feature(Extension::EightBitMime) {
        return Err(Failure::CONVERSION_REQUIRED);
    }
    completed(step(MAIL, connection.command(Mail { reverse_path, is_8bit })).await?)?;
    completed(step(RCPT, connection.command(Rcpt { recipient })).await?)?;
    let go_ahead = step(DATA_INITIATION, connection.command(commands::Data)).await?;
    if !go_ahead.has_code(354) {
        return Err(Failure::NO_REPLY);
    }
    let text = crlf_only(message);
    // lettre ends the text with CRLF.CRLF of its own.
    let text = text.strip_suffix(b"\r\n").unwrap_or(&text);
    let blocks = u32::try_from(text.len() / DATA_BLOCK_OCTETS)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let limit = DATA_BLOCK.saturating_mul(blocks).saturating_add(DATA_TERMINATION);
    completed(step(limit, connection.message_iter(text.chunks(WRITE_OCTETS))).await?)
}

/// `MAIL FROM:<reverse-path>`. Our own, because lettre's addresses are not those of RFC 5321.
struct Mail<'a> {
    reverse_path: &'a ReversePath,
    is_8bit: bool,
}

impl fmt::Display for Mail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = if self.is_8bit { " BODY=8BITMIME" } else { "" };
        write!(f, "MAIL FROM:<{}>{body}\r\n", self.reverse_path)
    }
}

/// `RCPT TO:<forward-path>`
struct Rcpt<'a> {
    recipient: &'a Mailbox,
}

impl fmt::Display for Rcpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RCPT TO:<{}>\r\n", self.recipient)
    }
}

/// The message with each CR or LF that is not part of a CRLF as CRLF; copied only if there is one.
fn crlf_only(message: &[u8]) -> Cow<'_, [u8]> {
    let is_bare = |at: usize| match message[at] {
        b'\r' => message.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || message[at - 1] != b'\r',
        _ => false,
    };
    let Some(first) = (0..message.len()).find(|at| is_bare(*at)) else {
        return Cow::Borrowed(message);
    };
    let mut text = message[..first].to_vec();
    for (at, octet) in message.iter().enumerate().skip(first) {
        text.extend_from_slice(if is_bare(at) {
            b"\r\n"
        } else {
            std::slice::from_ref(octet)
        });
    }
    Cow::Owned(text)
}

/// Why a step failed: the codes of the reply and nothing of its text, which may name an address.
struct Failure {
    code: Option<u16>,
    status: Option<Enhanced>,
}

impl Failure {
    /// The connection broke, went silent or stopped making sense.
    const NO_REPLY: Self = Self {
        code: None,
        status: Some(Enhanced::new(4, 4, 2)),
    };

    /// 8-bit text, and a server without 8BITMIME (RFC 6152 section 3).
    const CONVERSION_REQUIRED: Self = Self {
        code: None,
        status: Some(Enhanced::new(5, 6, 3)),
    };

    fn transient(self) -> DeliveryResult {
        let status = self.status.filter(|status| status.class() == 4);
        DeliveryResult::Transient {
            code: self.code,
            status: status.unwrap_or(Enhanced::new(4, 0, 0)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(code) = error.status() else {
            return Self::NO_REPLY;
        };
        // lettre keeps the text of the reply, and the enhanced code in it, as the source of the error.
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        Self {
            code: Some(code.into()),
            status: text.split(' ').next().and_then(Enhanced::parse),
        }
    }
}

impl From<Failure> for DeliveryResult {
    fn from(failure: Failure) -> Self {
        // The reply's code decides; an enhanced code of another class is the server's slip.
        let status = failure.status.filter(|status| status.class() == 5);
        match failure.code {
            Some(code @ 500..) => Self::Permanent {
                code: Some(code),
                status: status.unwrap_or(Enhanced::new(5, 0, 0)),
            },
            Some(_) => failure.transient(),
            None => status.map_or_else(|| failure.transient(), |status| Self::Permanent { code: None, status }),
        }
    }
}

async fn step<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    timeout(limit, work)
        .await
        .map_err(|_elapsed| Failure::NO_REPLY)?
        .map_err(Failure::from)
}

/// A 2yz reply; a 3yz at this place means that we and the server no longer agree where we are.
fn completed(response: Response) -> Result<(), Failure> {
    let is_completed = response.code().severity == Severity::PositiveCompletion;
    is_completed.then_some(()).ok_or(Failure::NO_REPLY)
}
