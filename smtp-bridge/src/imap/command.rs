//! From the bytes of one command to its type. The grammar is imap-codec's.

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder as _;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::mailbox::Mailbox;

use super::reply::{self, Reply};

/// Longest tag that is repeated in an answer.
const TAG_MAX: usize = 100;

/// The commands whose arguments may be wrong; every other word is an unknown command.
const KNOWN: [&str; 30] = [
    "APPEND",
    "AUTHENTICATE",
    "CAPABILITY",
    "CHECK",
    "CLOSE",
    "COPY",
    "CREATE",
    "DELETE",
    "EXAMINE",
    "EXPUNGE",
    "FETCH",
    "ID",
    "IDLE",
    "LIST",
    "LOGIN",
    "LOGOUT",
    "LSUB",
    "MOVE",
    "NAMESPACE",
    "NOOP",
    "RENAME",
    "SEARCH",
    "SELECT",
    "STATUS",
    "STORE",
    "SUBSCRIBE",
    "UID",
    "UNSELECT",
    "UNSUBSCRIBE",
    "ENABLE",
];

/// Parses a whole command, ended by CRLF.
pub(super) fn parse(bytes: &[u8]) -> Result<Command<'_>, Reply> {
    match CommandCodec::default().decode(bytes) {
        Ok(([], command)) => Ok(command),
        _ => Err(why(bytes)),
    }
}

/// The tag of a command that may be damaged behind it.
pub(super) fn tag(bytes: &[u8]) -> Option<&str> {
    let end = bytes
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    let tag = &bytes[..end];
    let legal = |byte: &u8| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte);
    if tag.is_empty() || tag.len() > TAG_MAX || !tag.iter().all(legal) {
        return None;
    }
    std::str::from_utf8(tag).ok()
}

/// Whether the literal announced behind `before` is the message of an APPEND, and not the name of its mailbox.
pub(super) fn is_append_message(before: &[u8]) -> bool {
    let mut words = before.splitn(3, |&byte| byte == b' ');
    let (_tag, verb, arguments) = (words.next(), words.next(), words.next());
    verb.is_some_and(|verb| verb.eq_ignore_ascii_case(b"APPEND"))
        && arguments.is_some_and(|arguments| !arguments.trim_ascii().is_empty())
}

/// Checks an APPEND before its message is read: the mailbox must be INBOX.
pub(super) fn check_append(before: &[u8]) -> Result<(), Reply> {
    let probe = [before, b"{0}\r\n\r\n"].concat();
    match parse(&probe)?.body {
        CommandBody::Append {
            mailbox: Mailbox::Inbox,
            ..
        } => Ok(()),
        CommandBody::Append { .. } => Err(reply::NO_SUCH_MAILBOX),
        _ => Err(reply::BAD_ARGUMENTS),
    }
}

fn why(bytes: &[u8]) -> Reply {
    let Some(tag) = tag(bytes) else { return reply::NO_TAG };
    let rest = bytes[tag.len()..].trim_ascii_start();
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    match KNOWN
        .iter()
        .any(|known| rest[..end].eq_ignore_ascii_case(known.as_bytes()))
    {
        true => reply::BAD_ARGUMENTS,
        false => reply::UNKNOWN_COMMAND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_is_wrong() {
        let cases: [(&[u8], Reply); 7] = [
            (b"\r\n", reply::NO_TAG),
            (b"* OK\r\n", reply::NO_TAG),
            (b"a\r\n", reply::UNKNOWN_COMMAND),
            (b"a FOO BAR\r\n", reply::UNKNOWN_COMMAND),
            (b"a select\r\n", reply::BAD_ARGUMENTS),
            (b"a LOGIN \xff\0 x\r\n", reply::BAD_ARGUMENTS),
            (b"a NOOP x\r\n", reply::BAD_ARGUMENTS),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes).err(), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn the_message_of_an_append_is_told_from_its_mailbox() {
        assert!(!is_append_message(b"a APPEND "));
        assert!(!is_append_message(b"a LOGIN x "));
        assert!(is_append_message(b"a append INBOX "));
        assert!(is_append_message(b"a APPEND {5}\r\nINBOX (\\Seen) "));
        assert_eq!(
            check_append(b"a APPEND INBOX (\\Seen) \" 1-Feb-2026 03:04:05 +0000\" "),
            Ok(())
        );
        assert_eq!(check_append(b"a APPEND Sent "), Err(reply::NO_SUCH_MAILBOX));
        assert_eq!(check_append(b"a APPEND INBOX junk "), Err(reply::BAD_ARGUMENTS));
    }
}
