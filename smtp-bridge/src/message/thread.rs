//! Identifiers in what came in, as the user's mail program knows them.

use super::envelope::is_message_id;
use super::limits::HEADER_BYTES_MAX;

/// Most identifiers of one message that are looked up.
const LOOKED_UP_MAX: usize = 1_000;

/// Replaces those identifiers (without angle brackets) in In-Reply-To and References for which `name_here` has another
/// name: the mail program calls what it sent by its own Message-ID, which nobody outside has seen. Every other byte of the
/// message stays. None when there is nothing to replace.
pub fn rename_message_ids(message: &[u8], name_here: &dyn Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut renamed: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut in_thread = false;
    let mut position = 0;
    let mut looked_up = 0;
    let header = &message[..message.len().min(HEADER_BYTES_MAX)];
    for line in header.split_inclusive(|&byte| byte == b'\n') {
        let start = position;
        position += line.len();
        if line.trim_ascii().is_empty() && !matches!(line, [b' ' | b'\t', ..]) {
            break;
        }
        if !matches!(line, [b' ' | b'\t', ..]) {
            in_thread = is_thread_field(line);
        }
        if !in_thread {
            continue;
        }
        let mut at = 0;
        while let Some((from, to)) = bracketed(line, at) {
            at = to + 1;
            looked_up += 1;
            if looked_up > LOOKED_UP_MAX {
                break;
            }
            let id = std::str::from_utf8(&line[from..to]).ok().filter(|id| is_message_id(id));
            if let Some(name) = id.and_then(name_here).filter(|name| is_message_id(name)) {
                let out = renamed.get_or_insert_with(|| Vec::with_capacity(message.len() + 4_096));
                out.extend_from_slice(&message[copied..start + from]);
                out.extend_from_slice(name.as_bytes());
                copied = start + to;
            }
        }
    }
    let mut renamed = renamed?;
    renamed.extend_from_slice(&message[copied..]);
    Some(renamed)
}

/// Whether a line begins a field that names other messages.
fn is_thread_field(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let name = line[..colon].trim_ascii_end();
    name.eq_ignore_ascii_case(b"in-reply-to") || name.eq_ignore_ascii_case(b"references")
}

/// Where the inside of the next angle brackets begins and ends.
fn bracketed(line: &[u8], at: usize) -> Option<(usize, usize)> {
    let from = at + memchr::memchr(b'<', &line[at..])? + 1;
    let to = from + memchr::memchr(b'>', &line[from..])?;
    Some((from, to))
}

/// Renames arbitrary identifiers of arbitrary bytes; asserts that nothing else changes.
pub(super) fn fuzz(bytes: &[u8]) {
    assert_eq!(rename_message_ids(bytes, &|_| None), None);
    let doubled = |id: &str| (id.len() % 2 == 1).then(|| format!("here.{id}"));
    if let Some(renamed) = rename_message_ids(bytes, &doubled) {
        let back = |id: &str| id.strip_prefix("here.").map(str::to_owned);
        let is_ours = |window: &[u8]| window == b"<here.";
        assert!(renamed.windows(6).any(is_ours), "something was renamed");
        if !bytes.windows(6).any(is_ours) && renamed.len() <= HEADER_BYTES_MAX {
            assert_eq!(
                rename_message_ids(&renamed, &back).as_deref(),
                Some(bytes),
                "nothing else changes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(message: &str) -> Option<String> {
        let name_here = |id: &str| {
            id.strip_suffix("@relay.test")
                .map(|local| format!("{local}-own@laptop.home"))
        };
        rename_message_ids(message.as_bytes(), &name_here).map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn only_identifiers_of_the_thread_are_renamed() {
        let letter = "Received: <a@relay.test>\r\nMessage-ID: <b@relay.test>\r\nin-reply-to : (x)<a@relay.test>\r\n\
            REFERENCES:\r\n\t<x@y>\t<a@relay.test>  \r\n <b@relay.test>,<c@x>\r\nX-References: <a@relay.test>\r\n <a@relay.test>\r\n\
            \r\nReferences: <a@relay.test>\r\n";
        let expected = "Received: <a@relay.test>\r\nMessage-ID: <b@relay.test>\r\nin-reply-to : (x)<a-own@laptop.home>\r\n\
            REFERENCES:\r\n\t<x@y>\t<a-own@laptop.home>  \r\n <b-own@laptop.home>,<c@x>\r\nX-References: <a@relay.test>\r\n <a@relay.test>\r\n\
            \r\nReferences: <a@relay.test>\r\n";
        assert_eq!(renamed(letter).as_deref(), Some(expected));
        assert_eq!(renamed("Subject: x\n\n"), None);
        assert_eq!(renamed("References: <a@x> <a@relay.test\n\n"), None);
    }

    #[test]
    fn a_name_that_would_break_the_header_is_not_taken() {
        let broken = |_: &str| Some("a@b>\r\nX: y".to_owned());
        assert_eq!(rename_message_ids(b"References: <a@x>\r\n\r\n", &broken), None);
    }

    #[test]
    fn a_header_without_end_is_followed_no_further_than_the_bound() {
        let id = "References: <a@relay.test>\r\n";
        assert!(renamed(&(id.to_owned() + &"X: y\r\n".repeat(100_000))).is_some());
        assert_eq!(renamed(&("X: y\r\n".repeat(100_000) + id)), None);
        let many = renamed(&id.repeat(5_000)).expect("the first are renamed");
        assert_eq!(many.matches("a-own@").count(), LOOKED_UP_MAX);
    }
}
