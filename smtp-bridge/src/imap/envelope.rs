//! ENVELOPE (RFC 3501 section 7.4.2): the header fields a list of messages shows, as they are stored.

use super::address::{self, Address};
use super::header;
use super::output::Output;

/// The fields of an envelope, in its order.
pub(super) const FIELDS: [&str; 10] = [
    "Date",
    "Subject",
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "In-Reply-To",
    "Message-ID",
];

/// Writes the envelope of the message with this header.
pub(super) fn put_envelope(header: &[u8], out: &mut Output) {
    let [
        date,
        subject,
        from,
        sender,
        reply_to,
        to,
        cc,
        bcc,
        in_reply_to,
        message_id,
    ] = values(header);
    let addresses = |value: Option<&[u8]>| value.map(address::parse).unwrap_or_default();
    let from = addresses(from);

    out.put(b"(");
    put_text(date, out);
    out.put(b" ");
    put_text(subject, out);
    out.put(b" ");
    put_addresses(&from, out);
    for value in [sender, reply_to] {
        // An envelope names a sender and a reply address even if the header does not.
        let found = addresses(value);
        out.put(b" ");
        put_addresses(if found.is_empty() { &from } else { &found }, out);
    }
    for value in [to, cc, bcc] {
        out.put(b" ");
        put_addresses(&addresses(value), out);
    }
    for value in [in_reply_to, message_id] {
        out.put(b" ");
        put_text(value, out);
    }
    out.put(b")");
}

/// Value of the first field of each name in [`FIELDS`].
fn values(header: &[u8]) -> [Option<&[u8]>; FIELDS.len()] {
    let mut values = [None; FIELDS.len()];
    for field in header::fields(&header[..header.len().min(header::HEADER_MAX)]) {
        let mut names = FIELDS.iter();
        if let Some(place) = names.position(|name| field.name.eq_ignore_ascii_case(name.as_bytes())) {
            values[place].get_or_insert(field.value);
        }
    }
    values
}

fn put_text(value: Option<&[u8]>, out: &mut Output) {
    out.put_nstring(value.map(header::unfold).as_deref());
}

fn put_addresses(list: &[Address], out: &mut Output) {
    if list.is_empty() {
        return out.put(b"NIL");
    }
    out.put(b"(");
    for address in list {
        let parts: [Option<&[u8]>; 4] = match address {
            Address::Mailbox {
                name,
                route,
                mailbox,
                host,
            } => [name.as_deref(), route.as_deref(), Some(mailbox), Some(host)],
            Address::GroupStart(name) => [None, None, Some(name), None],
            Address::GroupEnd => [None; 4],
        };
        for (part, before) in parts.into_iter().zip(["(", " ", " ", " "]) {
            out.put(before.as_bytes());
            out.put_nstring(part);
        }
        out.put(b")");
    }
    out.put(b")");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(header: &str) -> String {
        let mut out = Output::default();
        put_envelope(header.as_bytes(), &mut out);
        String::from_utf8_lossy(out.front()).into_owned()
    }

    #[test]
    fn missing_fields_are_nil_and_the_sender_is_the_author() {
        let one = "((\"A\" NIL \"a\" \"x\"))";
        assert_eq!(envelope(""), "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
        assert_eq!(
            envelope("From: A <a@x>\r\nSubject: one\r\n two\r\nMessage-Id: <1@x>\r\n"),
            format!("(NIL \"one two\" {one} {one} {one} NIL NIL NIL NIL \"<1@x>\")")
        );
    }

    #[test]
    fn groups_have_no_host() {
        assert!(envelope("To: Us: a@x;\r\n").contains("((NIL NIL \"Us\" NIL)(NIL NIL \"a\" \"x\")(NIL NIL NIL NIL))"));
    }

    #[test]
    fn octets_above_127_make_a_literal() {
        assert!(envelope("Subject: gr\u{fc}n\r\n").starts_with("(NIL {5}\r\ngr\u{fc}n NIL"));
    }
}
