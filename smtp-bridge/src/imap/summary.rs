//! What lists of messages show, so that nobody has to open the messages for them: the fields of a header that clients
//! ask for in lists, taken out when a message arrives and kept beside it.
//!
//! ```text
//! summary    version (1) | fields as they stand, folds and line ends included, in their order
//! ```

use mailbox::holder_store::SUMMARY_BYTES_MAX;
use zeroize::Zeroizing;

use super::{envelope, header};

/// First byte of a summary. Whoever finds another one looks at the message itself.
const VERSION: u8 = 1;

/// What clients show or sort by beside the fields of the envelope.
const OTHER_FIELDS: [&str; 5] = ["References", "Content-Type", "Newsgroups", "Priority", "X-Priority"];

/// The summary of a message; empty if it would be too long, or if the header is.
#[must_use]
pub fn summary(message: &[u8]) -> Vec<u8> {
    let header = &message[..message.len().min(header::HEADER_MAX + 1)];
    let header = &header[..header::header_end(header)];
    if header.len() > header::HEADER_MAX {
        return Vec::new();
    }
    let mut summary = vec![VERSION];
    for field in header::fields(header).filter(|field| has(field.name)) {
        if summary.len() + field.range.len() > SUMMARY_BYTES_MAX {
            return Vec::new();
        }
        summary.extend_from_slice(&header[field.range]);
    }
    summary
}

/// The fields of a summary as a header. `None`: it is of a version that is not known here.
pub(super) fn fields_of(mut summary: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
    if summary.first() != Some(&VERSION) {
        return None;
    }
    summary.remove(0);
    Some(std::mem::take(&mut *summary))
}

/// Whether a summary has all fields of this name.
pub(super) fn has(name: &[u8]) -> bool {
    let mut fields = envelope::FIELDS.iter().chain(&OTHER_FIELDS);
    fields.any(|field| field.as_bytes().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use imap_codec::imap_types::command::CommandBody;
    use mailbox::holder_store::{Entry, Flags};
    use proptest::prelude::*;

    use super::*;
    use crate::imap::command;
    use crate::imap::output::Output;
    use crate::imap::section::{Item, Message, Needs};

    const ASKED: &str = "(ENVELOPE BODY.PEEK[HEADER.FIELDS (date Subject FROM References content-type \"X-Priority\")] \
        BODY.PEEK[HEADER.FIELDS (To Cc)]<3.20>)";

    /// What FETCH says of these items, answered from `message`.
    fn fetched(items: &[Item], message: &Message) -> Vec<u8> {
        let entry = Entry {
            uid: 1,
            flags: Flags(0),
            size: 0,
            internal_date: 0,
            modseq: 1,
        };
        let mut out = Output::default();
        items.iter().for_each(|item| item.put(&entry, Some(message), &mut out));
        out.front().to_vec()
    }

    fn items(asked: &str) -> Vec<Item> {
        let line = format!("a FETCH 1 {asked}\r\n");
        let CommandBody::Fetch {
            macro_or_item_names, ..
        } = command::parse(line.as_bytes()).expect("valid").body
        else {
            panic!("{asked}")
        };
        Item::list(&macro_or_item_names).expect("known items")
    }

    /// A message and its summary answer alike.
    fn check(text: &[u8]) {
        let fields = fields_of(Zeroizing::new(summary(text))).expect("a short header");
        assert!(fields.len() <= header::header_end(text));
        let items = items(ASKED);
        let (whole, short) = (Message::new(text.to_vec()), Message::new(fields));
        let [whole, short] = [fetched(&items, &whole), fetched(&items, &short)];
        assert_eq!(String::from_utf8_lossy(&whole), String::from_utf8_lossy(&short));
        assert_eq!(whole, short);
    }

    #[test]
    fn the_corpus_is_summarised_as_it_is_parsed() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
        let mut count = 0;
        for parser in ["imap-header", "imap-mime", "message", "message-id"] {
            for file in fs::read_dir(corpus.join(parser)).expect("there") {
                check(&fs::read(file.expect("readable").path()).expect("readable"));
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn only_what_a_summary_has_is_answered_from_it() {
        let needs = |asked| items(asked).iter().map(Item::needs).max();
        for (asked, needed) in [
            (ASKED, Needs::Summary),
            ("ALL", Needs::Summary),
            ("FAST", Needs::Entry),
            ("(UID FLAGS RFC822.SIZE INTERNALDATE)", Needs::Entry),
            ("FULL", Needs::Text),
            ("BODYSTRUCTURE", Needs::Text),
            ("BODY[HEADER.FIELDS (Subject Received)]", Needs::Text),
            ("BODY[HEADER.FIELDS.NOT (Subject)]", Needs::Text),
            ("BODY[1.HEADER.FIELDS (Subject)]", Needs::Text),
            ("BODY[HEADER]", Needs::Text),
            ("(ENVELOPE BODY[])", Needs::Text),
        ] {
            assert_eq!(needs(asked), Some(needed), "{asked}");
        }
    }

    #[test]
    fn what_is_too_long_or_of_another_version_is_no_summary() {
        let of = |bytes: &[u8]| fields_of(Zeroizing::new(bytes.to_vec()));
        assert_eq!(of(b""), None);
        assert_eq!(of(b"\x02Subject: x\r\n"), None);
        assert_eq!(of(b"\x01"), Some(Vec::new()));
        let to = |length| format!("To: {}\r\n\r\nbody", "x".repeat(length));
        assert_eq!(summary(to(SUMMARY_BYTES_MAX).as_bytes()), b"");
        assert_eq!(summary(to(SUMMARY_BYTES_MAX - 7).as_bytes()).len(), SUMMARY_BYTES_MAX);
        let received = "Received: x\r\n".repeat(2_000);
        assert_eq!(summary(format!("{received}From: a\r\n").as_bytes()), b"\x01From: a\r\n");
        let endless = "Received: x\r\n".repeat(header::HEADER_MAX / 13 + 1);
        assert_eq!(summary(format!("{endless}From: a\r\n").as_bytes()), b"");
    }

    /// Headers of pieces that make fields meet.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("From: Ann <a@x>"),
            Just("from : b@y"),
            Just("Subject: s"),
            Just("SUBJECT:"),
            Just("To: a:b@c,<@d:e@f>;("),
            Just("Date: Mon"),
            Just("Message-ID: <1@x>"),
            Just("Received: x"),
            Just("Reply-To"),
            Just("Content-Type: text/plain"),
            Just("X-Priority: 1"),
            Just(":"),
            Just(" "),
            Just("\t"),
            Just("\r\n"),
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just("\0\u{fc}\\\""),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_header_is_summarised_as_it_is_parsed(text in hostile()) {
            check(&text);
        }

        #[test]
        fn any_bytes_are_summarised_as_they_are_parsed(text in proptest::collection::vec(any::<u8>(), 0..500)) {
            check(&text);
        }
    }
}
