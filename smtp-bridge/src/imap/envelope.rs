//! ENVELOPE (RFC 3501 section 7.4.2): the header fields a list of messages shows, as they are stored.

use super::address::{self, Address};
use super::header;
use super::output::Output;

/// Writes the envelope of the message with this header.
pub(super) fn put_envelope(header: &[u8], out: &mut Output) {
    let raw = |name| header::value(header, name).map(header::unfold);
    let addresses = |name| header::value(header, name).map(address::parse).unwrap_or_default();
    let from = addresses("From");
    // An envelope names a sender and a reply address even if the header does not.
    let or_from = |found: Vec<Address>| if found.is_empty() { from.clone() } else { found };

    out.put(b"(");
    out.put_nstring(raw("Date").as_deref());
    out.put(b" ");
    out.put_nstring(raw("Subject").as_deref());
    for list in [&from, &or_from(addresses("Sender")), &or_from(addresses("Reply-To"))] {
        out.put(b" ");
        put_addresses(list, out);
    }
    for name in ["To", "Cc", "Bcc"] {
        out.put(b" ");
        put_addresses(&addresses(name), out);
    }
    for name in ["In-Reply-To", "Message-ID"] {
        out.put(b" ");
        out.put_nstring(raw(name).as_deref());
    }
    out.put(b")");
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
