//! The Message-ID of a message, read minimally: only to say later whether it is or was in INBOX.

/// Furthest that a header is searched, in bytes.
const HEADER_BYTES_MAX: usize = 256 * 1_024;
/// Longest Message-ID that is taken, in bytes: a line of RFC 5322 less its angle brackets.
const ID_BYTES_MAX: usize = 996;

/// What stands between the angle brackets of the first Message-ID field of the header.
/// `None`: there is none, it is folded inside or too long, or the header is longer than is searched.
pub(super) fn message_id(message: &[u8]) -> Option<&[u8]> {
    let mut rest = &message[..message.len().min(HEADER_BYTES_MAX)];
    while !matches!(rest, [] | [b'\n', ..] | [b'\r', b'\n', ..]) {
        let (field, after) = rest.split_at(field_length(rest));
        if let Some(body) = message_id_body(field) {
            return bracketed(body);
        }
        rest = after;
    }
    None
}

/// Length of the field at the start, its folded lines and last line end included.
fn field_length(header: &[u8]) -> usize {
    let is_end = |at: &usize| header[*at] == b'\n' && !matches!(header.get(at + 1), Some(b' ' | b'\t'));
    (0..header.len()).find(is_end).map_or(header.len(), |end| end + 1)
}

/// The body of a field, if its name is Message-ID.
fn message_id_body(field: &[u8]) -> Option<&[u8]> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let name = field[..colon].trim_ascii_end();
    name.eq_ignore_ascii_case(b"message-id").then_some(&field[colon + 1..])
}

/// What stands between the first pair of angle brackets, if it is a single printable word.
fn bracketed(body: &[u8]) -> Option<&[u8]> {
    let id = body.trim_ascii_start().strip_prefix(b"<")?;
    let id = &id[..id.iter().position(|byte| *byte == b'>')?];
    let is_word = id.iter().all(|byte| byte.is_ascii_graphic() || !byte.is_ascii());
    (is_word && !id.is_empty() && id.len() <= ID_BYTES_MAX).then_some(id)
}

/// Feeds hostile bytes to the parser; must not panic.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Some(id) = message_id(bytes) {
        assert!(
            id.len() <= ID_BYTES_MAX && !id.contains(&b'\n'),
            "an id is one bounded word"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_message_id_of_the_header_is_found() {
        let cases: [(&str, Option<&str>); 10] = [
            ("Message-ID: <a@b>\r\n\r\n", Some("a@b")),
            ("From: x\nmessage-id:<a@b>\n\nbody", Some("a@b")),
            (
                "Subject: long\r\n Message-ID: <no@x>\r\nMESSAGE-ID:\r\n <folded@x> (comment)\r\n\r\n",
                Some("folded@x"),
            ),
            ("Message-Id : <obsolete@x>\r\n", Some("obsolete@x")),
            ("Message-ID: <one@x>\r\nMessage-ID: <two@x>\r\n\r\n", Some("one@x")),
            ("Subject: none\r\n\r\nMessage-ID: <in-the-body@x>\r\n", None),
            ("Message-ID:\r\nX: <other@x>\r\n\r\n", None),
            ("Message-ID: a@b\r\n\r\n", None),
            ("Message-ID: <a b>\r\n\r\n", None),
            ("", None),
        ];
        for (message, id) in cases {
            assert_eq!(message_id(message.as_bytes()), id.map(str::as_bytes), "{message:?}");
        }
    }

    #[test]
    fn a_header_without_end_is_searched_no_further_than_the_bound() {
        let mut message = vec![b'a'; HEADER_BYTES_MAX];
        message.extend_from_slice(b"\nMessage-ID: <late@x>\n\n");
        assert_eq!(message_id(&message), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, cut in 0..40usize) {
            fuzz(&bytes);
            let mut message = b"X: y\r\nMessage-ID: <a@b>\r\n\r\n"[..cut.min(27)].to_vec();
            message.extend_from_slice(&bytes);
            fuzz(&message);
        }
    }
}
