//! From the bytes of one command to its type. The grammar is imap-codec's.

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder as _;
use imap_codec::imap_types::IntoStatic as _;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::mailbox::Mailbox;
use mailbox::holder_store::{Folder, Folders, SpecialUse};

use super::list;
use super::reply::{self, Reply};
use super::utf7;

/// Longest tag that is repeated in an answer.
const TAG_MAX: usize = 100;

/// The commands whose arguments may be wrong; every other word is an unknown command.
const KNOWN: [&str; 32] = [
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
    "GETQUOTA",
    "GETQUOTAROOT",
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

/// A command, and what imap-codec does not know of its grammar.
pub(super) struct Request<'a> {
    pub(super) command: Command<'a>,
    /// The `USE` of a CREATE (RFC 6154 section 3).
    pub(super) special_use: Option<Use>,
}

/// What a new folder is to be for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Known(SpecialUse),
    /// More than one, or none that there is.
    Unknown,
}

/// Parses a whole command, ended by CRLF.
pub(super) fn parse(bytes: &[u8]) -> Result<Request<'_>, Reply> {
    if let Ok(([], command)) = CommandCodec::default().decode(bytes) {
        return Ok(Request {
            command,
            special_use: None,
        });
    }
    create_with_use(bytes).ok_or_else(|| why(bytes))
}

/// `"CREATE" SP mailbox SP "(USE (" [use-attr *(SP use-attr)] "))"`
fn create_with_use(bytes: &[u8]) -> Option<Request<'static>> {
    let line = bytes.strip_suffix(b"))\r\n")?;
    let open = line.iter().rposition(|&byte| byte == b'(')?;
    let (before, attributes) = (&line[..open], &line[open + 1..]);
    let plain_end = before.len().checked_sub(b" (USE ".len())?;
    let (plain, word) = before.split_at(plain_end);
    if !word.eq_ignore_ascii_case(b" (USE ") {
        return None;
    }
    let plain = [plain, b"\r\n"].concat();
    let command = match CommandCodec::default().decode(&plain) {
        Ok(([], command)) if matches!(command.body, CommandBody::Create { .. }) => command.into_static(),
        _ => return None,
    };
    let mut attributes = attributes.split(|&byte| byte == b' ').map(list::special_use);
    let special_use = match (attributes.next().flatten(), attributes.next()) {
        (Some(special_use), None) => Use::Known(special_use),
        _ => Use::Unknown,
    };
    Some(Request {
        command,
        special_use: Some(special_use),
    })
}

/// The name that a mailbox has over the wire, as the store has it. `None`: none has such a name.
pub(super) fn name(mailbox: &Mailbox<'_>) -> Option<String> {
    match mailbox {
        Mailbox::Inbox => Some("INBOX".to_owned()),
        Mailbox::Other(other) => utf7::decode(other.inner().as_ref()),
    }
}

/// The folder of that name.
pub(super) fn folder<'f>(mailbox: &Mailbox<'_>, folders: &'f Folders) -> Option<&'f Folder> {
    folders.by_name(&name(mailbox)?)
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

/// Checks an APPEND before its message is read: there must be the mailbox.
pub(super) fn check_append(before: &[u8], folders: &Folders) -> Result<(), Reply> {
    let probe = [before, b"{0}\r\n\r\n"].concat();
    match parse(&probe)?.command.body {
        CommandBody::Append { mailbox, .. } => match folder(&mailbox, folders) {
            Some(_) => Ok(()),
            None => Err(reply::TRY_CREATE),
        },
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
    use mailbox::holder_store::FolderId;

    use super::*;

    #[test]
    fn refusals_say_what_is_wrong() {
        let cases: [(&[u8], Reply); 10] = [
            (b"\r\n", reply::NO_TAG),
            (b"* OK\r\n", reply::NO_TAG),
            (b"a\r\n", reply::UNKNOWN_COMMAND),
            (b"a FOO BAR\r\n", reply::UNKNOWN_COMMAND),
            (b"a select\r\n", reply::BAD_ARGUMENTS),
            (b"a LOGIN \xff\0 x\r\n", reply::BAD_ARGUMENTS),
            (b"a NOOP x\r\n", reply::BAD_ARGUMENTS),
            (b"a CREATE x (USE \\Sent)\r\n", reply::BAD_ARGUMENTS),
            (b"a CREATE x (SIZE (1))\r\n", reply::BAD_ARGUMENTS),
            (b"a DELETE x (USE (\\Sent))\r\n", reply::BAD_ARGUMENTS),
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
        let inbox = Folder {
            id: FolderId::INBOX,
            name: "INBOX".to_owned(),
            special_use: None,
            uid_validity: 1,
        };
        let folders = Folders {
            all: vec![inbox],
            ..Folders::default()
        };
        let check = |before: &str| check_append(before.as_bytes(), &folders);
        assert_eq!(check("a APPEND inbox (\\Seen) \" 1-Feb-2026 03:04:05 +0000\" "), Ok(()));
        assert_eq!(check("a APPEND Sent "), Err(reply::TRY_CREATE));
        assert_eq!(check("a APPEND INBOX junk "), Err(reply::BAD_ARGUMENTS));
    }

    #[test]
    fn a_folder_may_be_created_for_a_use() {
        let parsed = |line: &str| {
            let request = parse(line.as_bytes()).expect("a command");
            let CommandBody::Create { mailbox } = &request.command.body else {
                panic!("a CREATE")
            };
            (name(mailbox).expect("a name"), request.special_use)
        };
        let sent = Some(Use::Known(SpecialUse::Sent));
        assert_eq!(parsed("a CREATE x\r\n"), ("x".to_owned(), None));
        assert_eq!(
            parsed("a create \"Sent (USE ((\" (use (\\sent))\r\n"),
            ("Sent (USE ((".to_owned(), sent)
        );
        assert_eq!(parsed("a CREATE {1}\r\nx (USE (\\Sent))\r\n"), ("x".to_owned(), sent));
        for unknown in ["\\All", "\\Sent \\Junk", ""] {
            let line = format!("a CREATE x (USE ({unknown}))\r\n");
            assert_eq!(parsed(&line), ("x".to_owned(), Some(Use::Unknown)), "{unknown}");
        }
    }
}
