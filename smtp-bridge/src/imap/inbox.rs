//! What LIST, STATUS and SELECT say of INBOX.

use imap_codec::imap_types::mailbox::ListMailbox;
use imap_codec::imap_types::status::StatusDataItemName;
use mailbox::holder_store::{Entry, Flags, Snapshot};

use super::output::Output;

/// Every flag there is.
const ALL_FLAGS: Flags = Flags(31);

/// Answers LIST or LSUB: `verb`. INBOX is the only mailbox, and always subscribed.
pub(super) fn put_list(verb: &str, reference: &[u8], pattern: &ListMailbox<'_>, out: &mut Output) {
    let pattern = match pattern {
        ListMailbox::Token(token) => token.as_ref(),
        ListMailbox::String(string) => string.as_ref(),
    };
    if pattern.is_empty() {
        // The hierarchy delimiter is asked for.
        return out.line(format_args!("* {verb} (\\Noselect) \"/\" \"\""));
    }
    if matches(&[reference, pattern].concat(), b"INBOX") {
        out.line(format_args!("* {verb} (\\Noinferiors) \"/\" INBOX"));
    }
}

/// Whether a LIST pattern means that name, in any case. There is no hierarchy, so `%` means what `*` does.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Lengths of the parts of the name that the pattern so far means.
    let mut lengths = vec![false; name.len() + 1];
    lengths[0] = true;
    for byte in pattern {
        if matches!(byte, b'*' | b'%') {
            let first = lengths.iter().position(|&reached| reached).unwrap_or(lengths.len());
            lengths[first..].fill(true);
            continue;
        }
        for length in (1..lengths.len()).rev() {
            lengths[length] = lengths[length - 1] && name[length - 1].eq_ignore_ascii_case(byte);
        }
        lengths[0] = false;
    }
    lengths[name.len()]
}

/// Answers STATUS.
pub(super) fn put_status(inbox: &Snapshot, items: &[StatusDataItemName], out: &mut Output) {
    let deleted = || {
        inbox
            .entries
            .iter()
            .filter(|entry| entry.flags.contains(Flags::DELETED))
    };
    let values: Vec<String> = items
        .iter()
        .map(|item| match item {
            StatusDataItemName::Messages => format!("MESSAGES {}", inbox.entries.len()),
            StatusDataItemName::Recent => "RECENT 0".to_string(),
            StatusDataItemName::UidNext => format!("UIDNEXT {}", inbox.uid_next),
            StatusDataItemName::UidValidity => format!("UIDVALIDITY {}", inbox.uid_validity),
            StatusDataItemName::Unseen => format!(
                "UNSEEN {}",
                inbox.entries.iter().filter(|entry| is_unseen(entry)).count()
            ),
            StatusDataItemName::Deleted => format!("DELETED {}", deleted().count()),
            StatusDataItemName::DeletedStorage => {
                format!(
                    "DELETED-STORAGE {}",
                    deleted().map(|entry| u64::from(entry.size)).sum::<u64>()
                )
            }
        })
        .collect();
    out.line(format_args!("* STATUS INBOX ({})", values.join(" ")));
}

/// Answers SELECT and EXAMINE.
pub(super) fn put_selected(inbox: &Snapshot, read_only: bool, out: &mut Output) {
    out.put(b"* FLAGS ");
    out.put_flags(ALL_FLAGS);
    out.put(b"\r\n* OK [PERMANENTFLAGS ");
    out.put_flags(if read_only { Flags::default() } else { ALL_FLAGS });
    out.line(format_args!("] These flags are kept"));
    out.line(format_args!("* {} EXISTS", inbox.entries.len()));
    out.line(format_args!("* 0 RECENT"));
    if let Some(first) = inbox.entries.iter().position(is_unseen) {
        out.line(format_args!("* OK [UNSEEN {}] First unseen message", first + 1));
    }
    out.line(format_args!(
        "* OK [UIDVALIDITY {}] UIDs are good for ever",
        inbox.uid_validity
    ));
    out.line(format_args!("* OK [UIDNEXT {}] Next UID", inbox.uid_next));
}

fn is_unseen(entry: &Entry) -> bool {
    !entry.flags.contains(Flags::SEEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_inbox_or_not() {
        for pattern in [
            "INBOX", "inbox", "*", "%", "IN%", "*box", "I*B*X", "**", "inbox*", "%INBOX%",
        ] {
            assert!(matches(pattern.as_bytes(), b"INBOX"), "{pattern}");
        }
        for pattern in ["", "INBO", "INBOXX", "INBOX/*", "*y", "Sent", "%/%"] {
            assert!(!matches(pattern.as_bytes(), b"INBOX"), "{pattern}");
        }
    }
}
