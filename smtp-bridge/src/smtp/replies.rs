//! Every reply of this crate's SMTP servers, in one place.
//!
//! A backend picks from here too, or builds its own [`Reply`] with a text that names no address.

use std::borrow::Cow;
use std::fmt;

/// Octets of one reply line, CRLF included (RFC 5321 4.5.3.1.5).
const REPLY_LINE_MAX: usize = 512;

/// What a server answers to one command: RFC 5321 4.2, with the enhanced code of RFC 2034.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The three digits. A reply of 421 ends the session that gives it.
    pub code: u16,
    /// The code of RFC 3463; absent where RFC 2034 wants none (greeting, EHLO, 334, 354).
    pub enhanced: Option<Enhanced>,
    /// What a person reads; each `\n` begins a further line of the same reply. Never holds an address.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced code and a fixed text.
    pub const fn fixed(code: u16, enhanced: Enhanced, text: &'static str) -> Self {
        Self {
            code,
            enhanced: Some(enhanced),
            text: Cow::Borrowed(text),
        }
    }

    /// A reply with an enhanced code and a text made for the occasion.
    pub fn new(code: u16, enhanced: Enhanced, text: String) -> Self {
        Self {
            code,
            enhanced: Some(enhanced),
            text: Cow::Owned(text),
        }
    }

    /// A reply of the kinds that carry no enhanced code.
    const fn plain(code: u16, text: Cow<'static, str>) -> Self {
        Self {
            code,
            enhanced: None,
            text,
        }
    }

    /// Whether the command succeeded, or may go on.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Whether trying again without a change is pointless.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// Writes the lines of the reply.
    ///
    /// Whatever a backend put into the text, no octet of it can begin a line of its own.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let start = out.len();
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            out.extend_from_slice(format!("{}{separator}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(format!("{enhanced} ").as_bytes());
            }
            out.extend(
                line.bytes()
                    .map(|octet| if matches!(octet, b' '..=b'~') { octet } else { b'?' }),
            );
            out.truncate(start + REPLY_LINE_MAX - 2);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// An enhanced status code `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enhanced(u8, u16, u16);

impl Enhanced {
    /// The code of these three numbers; the class is 2, 4 or 5, the others have up to three digits.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        assert!(matches!(class, 2 | 4 | 5) && subject < 1000 && detail < 1000);
        Self(class, subject, detail)
    }

    /// Reads `class.subject.detail`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten()
        });
        let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
        let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        parts.next().is_none().then_some(Self(class, subject, detail))
    }

    /// 2 for success, 4 for a transient and 5 for a permanent failure.
    pub fn class(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Shortens the table below.
const fn reply(code: u16, (class, subject, detail): (u8, u16, u16), text: &'static str) -> Reply {
    Reply::fixed(code, Enhanced::new(class, subject, detail), text)
}

// Success.

/// Greeting of a new connection.
pub fn greeting(domain: &str) -> Reply {
    Reply::plain(220, format!("{domain} ESMTP").into())
}

/// Answer to HELO.
pub fn hello(domain: &str) -> Reply {
    Reply::plain(250, domain.to_owned().into())
}

/// Answer to EHLO: the domain, then one keyword a line, those of `more` last.
pub fn extended_hello(domain: &str, size_max: u64, more: &[&str]) -> Reply {
    let mut text = format!("{domain}\nPIPELINING\nSIZE {size_max}\n8BITMIME\nENHANCEDSTATUSCODES\nCHUNKING");
    for keyword in more {
        text.push('\n');
        text.push_str(keyword);
    }
    Reply::plain(250, text.into())
}

/// A server's turn in an AUTH exchange; the challenge is already in base64.
pub const fn challenge(base64: &'static str) -> Reply {
    Reply::plain(334, Cow::Borrowed(base64))
}

/// The text may come.
pub const START_TEXT: Reply = Reply::plain(354, Cow::Borrowed("end with <CRLF>.<CRLF>"));
/// STARTTLS: the handshake may begin.
pub const READY_FOR_TLS: Reply = reply(220, (2, 0, 0), "ready to start TLS");
/// A chunk that is not the last.
pub const CHUNK_OK: Reply = reply(250, (2, 0, 0), "chunk received");
/// RSET, NOOP.
pub const OK: Reply = reply(250, (2, 0, 0), "ok");
/// QUIT.
pub const BYE: Reply = reply(221, (2, 0, 0), "bye");
/// HELP.
pub const HELP: Reply = reply(214, (2, 0, 0), "see RFC 5321");
/// VRFY, whoever is asked for: it must not tell who exists.
pub const NOT_VERIFIED: Reply = reply(252, (2, 5, 0), "send some mail, and see");
/// MAIL.
pub const SENDER_OK: Reply = reply(250, (2, 1, 0), "sender ok");
/// RCPT.
pub const RECIPIENT_OK: Reply = reply(250, (2, 1, 5), "recipient ok");
/// The message is stored durably.
pub const ACCEPTED: Reply = reply(250, (2, 0, 0), "accepted");
/// AUTH.
pub const AUTHENTICATED: Reply = reply(235, (2, 7, 0), "authenticated");

// The session ends.

/// The listener has as many connections as it takes.
pub const TOO_MANY_CONNECTIONS: Reply = reply(421, (4, 3, 2), "too many connections, try again later");
/// The client said nothing for too long.
pub const TIMED_OUT: Reply = reply(421, (4, 4, 2), "timed out");
/// The server stops.
pub const SHUTTING_DOWN: Reply = reply(421, (4, 3, 2), "shutting down, try again later");
/// Too many commands without a message.
pub const TOO_MANY_COMMANDS: Reply = reply(421, (4, 7, 0), "too many commands without a message");
/// Something came behind STARTTLS before the handshake: whoever put it there need not be the client.
pub const INJECTED: Reply = reply(421, (4, 7, 0), "nothing may follow STARTTLS");
/// Too many bad commands.
pub const TOO_MANY_ERRORS: Reply = reply(421, (4, 7, 0), "too many errors");
/// Too many recipients that do not exist.
pub const TOO_MANY_UNKNOWN: Reply = reply(421, (4, 7, 0), "too many unknown recipients");
/// Too many wrong passwords.
pub const TOO_MANY_LOGINS: Reply = reply(421, (4, 7, 0), "too many failed logins");

// Commands refused.

/// Nothing the server knows.
pub const UNKNOWN_COMMAND: Reply = reply(500, (5, 5, 1), "command not recognised");
/// Control characters, 8-bit octets, bare CR or LF in a command.
pub const NOT_PRINTABLE: Reply = reply(500, (5, 5, 2), "commands are printable ASCII and end with CRLF");
/// A command line longer than the bound.
pub const LINE_TOO_LONG: Reply = reply(500, (5, 5, 2), "line too long");
/// A line longer than the bound within an AUTH exchange (RFC 4954 section 4).
pub const AUTH_LINE_TOO_LONG: Reply = reply(500, (5, 5, 6), "line too long");
/// An argument that is missing, unexpected or malformed.
pub const BAD_ARGUMENT: Reply = reply(501, (5, 5, 4), "bad argument");
/// The reverse-path breaks RFC 5321 4.1.2.
pub const BAD_SENDER_SYNTAX: Reply = reply(501, (5, 1, 7), "bad sender address");
/// The forward-path breaks RFC 5321 4.1.2.
pub const BAD_RECIPIENT_SYNTAX: Reply = reply(501, (5, 1, 3), "bad recipient address");
/// An address outside ASCII, in a transaction without SMTPUTF8 (RFC 6531 3.5).
pub const ADDRESS_NOT_ASCII: Reply = reply(553, (5, 6, 7), "addresses must be ASCII here");
/// A parameter of MAIL or RCPT that was not offered.
pub const UNKNOWN_PARAMETER: Reply = reply(555, (5, 5, 4), "parameter not recognised");
/// Known, and not offered here.
pub const NOT_IMPLEMENTED: Reply = reply(502, (5, 5, 1), "command not implemented");
/// Out of order.
pub const BAD_SEQUENCE: Reply = reply(503, (5, 5, 1), "bad sequence of commands");

// AUTH.

/// MAIL on a submission port before AUTH.
pub const AUTH_REQUIRED: Reply = reply(530, (5, 7, 0), "authentication required");
/// A mechanism that is not offered.
pub const UNKNOWN_MECHANISM: Reply = reply(504, (5, 5, 4), "mechanism not recognised");
/// Base64 that is none, or a PLAIN message without its two NULs.
pub const AUTH_MALFORMED: Reply = reply(501, (5, 5, 2), "cannot decode");
/// The client sent `*`.
pub const AUTH_CANCELLED: Reply = reply(501, (5, 7, 0), "authentication cancelled");
/// Wrong user or password; which of them is not told.
pub const BAD_CREDENTIALS: Reply = reply(535, (5, 7, 8), "wrong user or password");

// Sizes and numbers.

/// More octets than SIZE allows, announced or sent.
pub const TOO_BIG: Reply = reply(552, (5, 3, 4), "message too big");
/// More recipients than one transaction takes; the rest belongs into the next.
pub const TOO_MANY_RECIPIENTS: Reply = reply(452, (4, 5, 3), "too many recipients");
/// A bare CR or LF in the text.
pub const BARE_NEWLINE: Reply = reply(550, (5, 6, 0), "bare CR or LF in the text");

// What only a backend can know.

/// No such mailbox here.
pub const UNKNOWN_RECIPIENT: Reply = reply(550, (5, 1, 1), "no such recipient");
/// Neither ours nor allowed to pass.
pub const NO_RELAYING: Reply = reply(550, (5, 7, 1), "not a recipient of this server");
/// A sender that the holder does not own.
pub const SENDER_NOT_OWNED: Reply = reply(550, (5, 7, 1), "not one of your addresses");
/// The mailbox has used up its allowance.
pub const MAILBOX_FULL: Reply = reply(452, (4, 2, 2), "mailbox full");
/// The machine has no room.
pub const NO_ROOM: Reply = reply(452, (4, 3, 1), "no room, try again later");
/// Something failed on our side.
pub const TRY_LATER: Reply = reply(451, (4, 3, 0), "temporary failure, try again later");
/// Too many Received lines.
pub const LOOP: Reply = reply(554, (5, 4, 6), "too many hops");

/// The prepaid value does not cover the message.
pub fn value_missing(shortfall_utok: u64) -> Reply {
    let text = format!("value too small: {shortfall_utok} utok missing");
    Reply::new(552, Enhanced::new(5, 2, 2), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).expect("replies are ASCII")
    }

    #[test]
    fn a_reply_prints_one_line_per_line_of_text() {
        assert_eq!(written(&OK), "250 2.0.0 ok\r\n");
        assert_eq!(written(&challenge("")), "334 \r\n");
        assert_eq!(
            written(&extended_hello("relay.test", 7, &["X"])),
            "250-relay.test\r\n250-PIPELINING\r\n250-SIZE 7\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 X\r\n"
        );
    }

    #[test]
    fn a_backends_text_cannot_forge_a_line() {
        let reply = Reply::new(
            550,
            Enhanced::new(5, 0, 0),
            format!("a\r\n250 yes\u{e9}{}", "x".repeat(600)),
        );
        let text = written(&reply);
        assert!(text.starts_with("550-5.0.0 a?\r\n550 5.0.0 250 yes??xxx"), "{text}");
        assert!(text.split_inclusive("\r\n").all(|line| line.len() <= REPLY_LINE_MAX));
    }

    #[test]
    fn enhanced_codes_parse_only_in_their_form() {
        for good in ["2.0.0", "5.1.1", "4.999.12"] {
            assert_eq!(
                Enhanced::parse(good).map(|code| code.to_string()).as_deref(),
                Some(good)
            );
        }
        for bad in [
            "", "5", "5.1", "5.1.", "3.1.1", "5.1.1.1", "5.1.1000", "5.+1.1", "5.1.x", "505.1.1",
        ] {
            assert!(Enhanced::parse(bad).is_none(), "{bad}");
        }
    }
}
