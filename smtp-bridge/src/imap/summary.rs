//! What lists of messages show, so that nobody has to open the messages for them: the fields of a header that clients
//! ask for in lists and the structure of the parts, taken out when a message arrives and kept beside it.
//!
//! ```text
//! summary    1 | fields
//!            2 | number: length of fields | fields | part | fields of inner parts, in the order of the parts
//! fields     as they stand, folds and line ends included, in their order
//! part       kind (1) | number: length of fields, but of the first | number: octets | number: lines | inner
//! inner      number: how many | part of each, for a multipart; part, for a message; nothing, for others
//! number     LEB128
//! ```

use mailbox::holder_store::SUMMARY_BYTES_MAX;
use zeroize::Zeroizing;

use super::mime::{Content, DEPTH_MAX, PARTS_MAX, Part};
use super::output::Text;
use super::section::{Message, Needs};
use super::{envelope, header};

/// First byte of a summary of the fields that [`FIRST_FIELDS`] has. Who finds a byte of neither version looks at the
/// message itself.
const FIELDS_VERSION: u8 = 1;

/// First byte of a summary that has the other fields too, and the structure.
const STRUCTURE_VERSION: u8 = 2;

/// What clients show or sort by beside the fields of the envelope.
const FIRST_FIELDS: [&str; 5] = ["References", "Content-Type", "Newsgroups", "Priority", "X-Priority"];

/// What BODYSTRUCTURE is made of beside the parts themselves.
const PART_FIELDS: [&str; 8] = [
    "Content-Type",
    "Content-ID",
    "Content-Description",
    "Content-Transfer-Encoding",
    "Content-MD5",
    "Content-Disposition",
    "Content-Language",
    "Content-Location",
];

/// What clients ask for beside all these. Most messages have few of them.
const OTHER_FIELDS: [&str; 22] = [
    "Auto-Submitted",
    "Disposition-Notification-To",
    "Followup-To",
    "Importance",
    "Lines",
    "List-Archive",
    "List-Help",
    "List-Id",
    "List-Post",
    "List-Subscribe",
    "List-Unsubscribe",
    "MIME-Version",
    "Path",
    "Precedence",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "X-Label",
    "X-Mailer",
    "X-Original-To",
    "X-Spam-Flag",
    // By which mbsync finds a message that it has just stored.
    "X-TUID",
];

/// The summary of a message: of the last version if that is not too long; empty if any would be, or if the header is.
#[must_use]
pub fn summary(message: &[u8]) -> Vec<u8> {
    let header = &message[..message.len().min(header::HEADER_MAX + 1)];
    let header = &header[..header::header_end(header)];
    if header.len() > header::HEADER_MAX {
        return Vec::new();
    }
    let whole = with_structure(header, message);
    whole.or_else(|| fields_alone(header)).unwrap_or_default()
}

/// `None`: it would be too long.
fn fields_alone(header: &[u8]) -> Option<Vec<u8>> {
    let mut summary = vec![FIELDS_VERSION];
    put_fields(header, |name| needs(name) == Needs::Envelope, &mut summary);
    (summary.len() <= SUMMARY_BYTES_MAX).then_some(summary)
}

/// `None`: it would be too long, or a header inside the message is.
fn with_structure(header: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Vec::new();
    put_fields(header, |name| needs(name) < Needs::Text, &mut fields);
    if fields.len() > SUMMARY_BYTES_MAX {
        return None;
    }
    let mut summary = vec![STRUCTURE_VERSION];
    put_number(fields.len(), &mut summary);
    summary.append(&mut fields);
    let mut inner_fields = Vec::new();
    put_part(
        &Part::of(message),
        message,
        Place::Root,
        &mut summary,
        &mut inner_fields,
    )?;
    summary.append(&mut inner_fields);
    (summary.len() <= SUMMARY_BYTES_MAX).then_some(summary)
}

/// Reads a summary. `None`: it is empty, damaged or of another version.
pub(super) fn read(mut summary: Zeroizing<Vec<u8>>) -> Option<Message> {
    match *summary.first()? {
        FIELDS_VERSION => {
            summary.remove(0);
            let length = summary.len();
            Some(Message::summarised(summary, length, None))
        }
        STRUCTURE_VERSION => {
            let mut reader = Reader {
                rest: &summary[1..],
                at: 0,
                parts: 0,
            };
            let length = reader.number()?;
            let fields = reader.cut(length)?;
            reader.at = fields.len();
            let structure = reader.part(true, 0)?;
            let text = Text::new([fields, reader.rest].concat());
            (reader.at == text.len()).then(|| Message::summarised(text, length, Some(structure)))
        }
        _ => None,
    }
}

/// What it takes to answer from fields of this name.
pub(super) fn needs(name: &[u8]) -> Needs {
    let is_in = |names: &[&str]| names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
    if is_in(&envelope::FIELDS) || is_in(&FIRST_FIELDS) {
        Needs::Envelope
    } else if is_in(&PART_FIELDS) || is_in(&OTHER_FIELDS) {
        Needs::Structure
    } else {
        Needs::Text
    }
}

/// Adds the fields whose name is wanted.
fn put_fields(header: &[u8], is_wanted: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
    for field in header::fields(header).filter(|field| is_wanted(field.name)) {
        out.extend_from_slice(&header[field.range]);
    }
}

fn put_number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Which fields of a part's header are of interest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The message's own, which stand elsewhere.
    Root,
    /// A part's.
    Part,
    /// A message's inside a part: it has an envelope.
    Message,
}

/// `None`: a header is longer than is looked at, or all this is too long.
fn put_part(part: &Part, text: &[u8], place: Place, out: &mut Vec<u8>, fields: &mut Vec<u8>) -> Option<()> {
    let header = &text[part.header.clone()];
    if header.len() > header::HEADER_MAX || out.len() + fields.len() > SUMMARY_BYTES_MAX {
        return None;
    }
    out.push(match part.content {
        Content::Single => 0,
        Content::Opaque => 1,
        Content::Multipart(_) => 2,
        Content::Message(_) => 3,
    });
    if place != Place::Root {
        let before = fields.len();
        let is_in = |names: &[&str], name: &[u8]| names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
        let is_wanted =
            |name: &[u8]| is_in(&PART_FIELDS, name) || place == Place::Message && is_in(&envelope::FIELDS, name);
        put_fields(header, is_wanted, fields);
        put_number(fields.len() - before, out);
    }
    put_number(part.body.len(), out);
    put_number(part.lines, out);
    match &part.content {
        Content::Single | Content::Opaque => Some(()),
        Content::Multipart(parts) => {
            put_number(parts.len(), out);
            parts
                .iter()
                .try_for_each(|part| put_part(part, text, Place::Part, out, fields))
        }
        Content::Message(message) => put_part(message, text, Place::Message, out, fields),
    }
}

/// Reads the parts.
struct Reader<'a> {
    rest: &'a [u8],
    /// Where the fields of the next part start, once the fields of all stand behind each other.
    at: usize,
    parts: usize,
}

impl<'a> Reader<'a> {
    fn cut(&mut self, length: usize) -> Option<&'a [u8]> {
        let (cut, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(cut)
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.cut(1)?[0];
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return u32::try_from(number).ok().map(|number| number as usize);
            }
        }
        None
    }

    fn part(&mut self, is_root: bool, depth: usize) -> Option<Part> {
        self.parts += 1;
        if depth > DEPTH_MAX + 1 || self.parts > PARTS_MAX + DEPTH_MAX + 1 {
            return None;
        }
        let kind = self.cut(1)?[0];
        let header = match is_root {
            true => 0..self.at,
            false => {
                let start = self.at;
                self.at = start.checked_add(self.number()?)?;
                start..self.at
            }
        };
        let (octets, lines) = (self.number()?, self.number()?);
        let content = match kind {
            0 => Content::Single,
            1 => Content::Opaque,
            2 => {
                let count = self.number()?;
                let parts = (0..count).map(|_| self.part(false, depth + 1));
                Content::Multipart(parts.collect::<Option<_>>()?)
            }
            3 => Content::Message(Box::new(self.part(false, depth + 1)?)),
            _ => return None,
        };
        Some(Part {
            header,
            // The octets themselves are not here.
            body: 0..octets,
            lines,
            content,
        })
    }
}

/// Reads any octets as a summary, and summarises them. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    for summary in [bytes.to_vec(), summary(bytes)] {
        assert!(summary.len() <= SUMMARY_BYTES_MAX.max(bytes.len()));
        let Some(message) = read(Zeroizing::new(summary)) else {
            continue;
        };
        let mut out = super::output::Output::default();
        envelope::put_envelope(message.header(), &mut out);
        if message.satisfies >= Needs::Structure {
            super::structure::put_structure(message.structure(), &message.text, true, &mut out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::imap::fetched::{self, fetched};
    use crate::imap::section::{Item, Message, Needs};

    const ASKED: &str = "(ENVELOPE BODY.PEEK[HEADER.FIELDS (date Subject FROM References content-type \"X-Priority\")] \
        BODY.PEEK[HEADER.FIELDS (To Cc)]<3.20>)";

    const ASKED_WITH_STRUCTURE: &str =
        "(BODY BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (List-Post x-tuid Content-ID From)])";

    fn items(asked: &str) -> Vec<Item> {
        fetched::items(asked).expect("known items")
    }

    /// A message and its summaries answer alike.
    fn check(text: &[u8]) {
        let header = &text[..header::header_end(text)];
        let whole = Message::new(text.to_vec());
        let long = with_structure(header, text);
        for summary in [fields_alone(header).expect("a short header")].into_iter().chain(long) {
            let short = read(Zeroizing::new(summary)).expect("just written");
            let asked = match short.satisfies {
                Needs::Structure => &[ASKED, ASKED_WITH_STRUCTURE][..],
                _ => &[ASKED],
            };
            assert!(short.header().len() <= header.len());
            for asked in asked {
                let items = items(asked);
                let [whole, short] = [fetched(&items, &whole), fetched(&items, &short)];
                assert_eq!(String::from_utf8_lossy(&whole), String::from_utf8_lossy(&short));
                assert_eq!(whole, short);
            }
        }
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
            (ASKED, Needs::Envelope),
            (ASKED_WITH_STRUCTURE, Needs::Structure),
            ("ALL", Needs::Envelope),
            ("FAST", Needs::Entry),
            ("(UID FLAGS RFC822.SIZE INTERNALDATE MODSEQ)", Needs::Entry),
            ("FULL", Needs::Structure),
            ("BODYSTRUCTURE", Needs::Structure),
            ("BODY[HEADER.FIELDS (Subject List-Id)]", Needs::Structure),
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
        let header_of = |bytes: &[u8]| read(Zeroizing::new(bytes.to_vec())).map(|message| message.header().to_vec());
        assert_eq!(header_of(b""), None);
        assert_eq!(header_of(b"\x03Subject: x\r\n"), None);
        assert_eq!(header_of(b"\x01"), Some(Vec::new()));
        assert_eq!(header_of(b"\x01To: x\r\n"), Some(b"To: x\r\n".to_vec()));
        let to = |length| format!("To: {}\r\n\r\nbody", "x".repeat(length));
        assert_eq!(summary(to(SUMMARY_BYTES_MAX).as_bytes()), b"");
        // There is room for the fields, and none for the structure.
        let longest = summary(to(SUMMARY_BYTES_MAX - 7).as_bytes());
        assert_eq!((longest.len(), longest[0]), (SUMMARY_BYTES_MAX, 1));
        let lists = format!("List-Id: {}\r\nFrom: a\r\n", "x".repeat(SUMMARY_BYTES_MAX));
        assert_eq!(summary(lists.as_bytes()), b"\x01From: a\r\n");
        let received = "Received: x\r\n".repeat(2_000);
        let header = format!("{received}From: a\r\n");
        assert_eq!(summary(header.as_bytes()), b"\x02\x09From: a\r\n\0\0\0");
        let endless = "Received: x\r\n".repeat(header::HEADER_MAX / 13 + 1);
        assert_eq!(summary(format!("{endless}From: a\r\n").as_bytes()), b"");
    }

    #[test]
    fn a_damaged_summary_is_none_at_each_octet() {
        let text = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
            Subject: in\r\n\r\ntwo\r\n--b\r\nContent-ID: <1@x>\r\n\r\none\r\n--b--\r\n";
        let summary = summary(text.as_bytes());
        assert_eq!(summary[0], STRUCTURE_VERSION);
        for end in 0..summary.len() {
            assert!(read(Zeroizing::new(summary[..end].to_vec())).is_none(), "{end}");
        }
        assert!(read(Zeroizing::new([&summary[..], b"x"].concat())).is_none());
    }

    #[test]
    fn structure_is_kept_for_many_parts_and_levels() {
        let mixed = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        check(format!("{mixed}{}", "--b\r\n\r\nx\r\n".repeat(3_000)).as_bytes());
        check("Content-Type: message/rfc822\r\n\r\n".repeat(300).as_bytes());
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
            Just("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"),
            Just("Content-Type: message/rfc822\r\n\r\n"),
            Just("Content-Disposition: attachment; filename=x"),
            Just("List-Post: x"),
            Just("\r\n--b\r\n"),
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

        #[test]
        fn any_bytes_are_a_summary_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            fuzz(&[&[STRUCTURE_VERSION], &bytes[..]].concat());
        }
    }
}
