//! What a FETCH asks of one message (RFC 3501 section 6.4.5), and the octets it means.

use std::cell::OnceCell;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use imap_codec::imap_types::core::AString;
use imap_codec::imap_types::fetch::{MacroOrMessageDataItemNames, MessageDataItemName, Section};
use mailbox::holder_store::Entry;

use super::envelope::put_envelope;
use super::flags::Names;
use super::header;
use super::long::{Depth, Long};
use super::mime::{Content, Part};
use super::output::{Output, Text};
use super::structure::put_structure;
use super::summary;

/// Items that one FETCH may name.
const ITEMS_MAX: usize = 100;

/// A message data item.
pub(super) enum Item {
    Flags,
    Uid,
    InternalDate,
    Size,
    ModSeq,
    Envelope,
    Structure {
        extended: bool,
    },
    Body {
        /// How the item is named in the response.
        label: Vec<u8>,
        section: BodySection,
        /// First octet and greatest number of octets.
        partial: Option<(u32, NonZeroU32)>,
        /// Whether the message becomes `\Seen` by it.
        sees: bool,
    },
}

/// What it takes to answer an item, from the least to the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Needs {
    /// What the mailbox says of the message.
    Entry,
    /// A summary of any version, or else the text.
    Envelope,
    /// A summary of the last version, or else the text.
    Structure,
    /// The text.
    Text,
}

/// `section-spec`
pub(super) struct BodySection {
    /// Part numbers; empty: the message itself.
    part: Vec<NonZeroU32>,
    what: What,
}

enum What {
    /// The whole message, or the body of a part.
    Whole,
    Header,
    Fields {
        names: Vec<Vec<u8>>,
        /// Those named, or all but those named.
        named: bool,
    },
    Text,
    Mime,
}

impl Item {
    /// The items of a FETCH. `None`: there are none, too many, or unknown ones.
    pub(super) fn list(names: &MacroOrMessageDataItemNames<'_>) -> Option<Vec<Self>> {
        let expanded;
        let names = match names {
            MacroOrMessageDataItemNames::Macro(shorthand) => {
                expanded = shorthand.expand();
                &expanded
            }
            MacroOrMessageDataItemNames::MessageDataItemNames(names) => names,
        };
        if names.is_empty() || names.len() > ITEMS_MAX {
            return None;
        }
        names.iter().map(Self::named).collect()
    }

    fn named(name: &MessageDataItemName<'_>) -> Option<Self> {
        use MessageDataItemName as Name;
        let old = |label: &str, what, sees| {
            let section = BodySection { part: Vec::new(), what };
            Self::Body {
                label: label.as_bytes().to_vec(),
                section,
                partial: None,
                sees,
            }
        };
        Some(match name {
            Name::Flags => Self::Flags,
            Name::Uid => Self::Uid,
            Name::InternalDate => Self::InternalDate,
            Name::Rfc822Size => Self::Size,
            Name::ModSeq => Self::ModSeq,
            Name::Envelope => Self::Envelope,
            Name::Body => Self::Structure { extended: false },
            Name::BodyStructure => Self::Structure { extended: true },
            Name::Rfc822 => old("RFC822", What::Whole, true),
            Name::Rfc822Header => old("RFC822.HEADER", What::Header, false),
            Name::Rfc822Text => old("RFC822.TEXT", What::Text, true),
            Name::BodyExt { section, partial, peek } => {
                let section = BodySection::of(section.as_ref());
                Self::Body {
                    label: section.label(*partial),
                    section,
                    partial: *partial,
                    sees: !peek,
                }
            }
            Name::Binary { .. } | Name::BinarySize { .. } => return None,
        })
    }

    /// What it takes to answer.
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Flags | Self::Uid | Self::InternalDate | Self::Size | Self::ModSeq => Needs::Entry,
            Self::Envelope => Needs::Envelope,
            Self::Structure { .. } => Needs::Structure,
            Self::Body { section, .. } => section.needs(),
        }
    }

    /// How much of a long text it takes.
    pub(super) fn depth(&self) -> Depth {
        match self {
            Self::Flags | Self::Uid | Self::InternalDate | Self::Size | Self::ModSeq => Depth::Length,
            Self::Envelope => Depth::Header,
            Self::Structure { .. } => Depth::Parts,
            Self::Body { section, .. } => match (&section.part[..], &section.what) {
                ([], What::Whole) => Depth::Length,
                ([], _) => Depth::Header,
                _ => Depth::Parts,
            },
        }
    }

    pub(super) fn is_partial(&self) -> bool {
        matches!(self, Self::Body { partial: Some(_), .. })
    }

    pub(super) fn sees(&self) -> bool {
        matches!(self, Self::Body { sees: true, .. })
    }

    /// Writes name and value. `message` is there unless it [needs](Self::needs) an entry only.
    pub(super) fn put(&self, entry: &Entry, names: Names<'_>, message: Option<&Message>, out: &mut Output) {
        match (self, message) {
            (Self::Flags, _) => {
                out.put(b"FLAGS ");
                names.put_flags(entry, out);
            }
            (Self::Uid, _) => out.put_fmt(format_args!("UID {}", entry.uid)),
            (Self::InternalDate, _) => {
                out.put(b"INTERNALDATE ");
                out.put_date(entry.internal_date);
            }
            (Self::Size, _) => out.put_fmt(format_args!("RFC822.SIZE {}", entry.size)),
            (Self::ModSeq, _) => out.put_fmt(format_args!("MODSEQ ({})", entry.modseq)),
            (Self::Envelope, Some(message)) => {
                out.put(b"ENVELOPE ");
                put_envelope(message.header(), out);
            }
            (Self::Structure { extended }, Some(message)) => {
                out.put(if *extended { b"BODYSTRUCTURE " } else { b"BODY " });
                put_structure(message.structure(), &message.text, *extended, out);
            }
            (
                Self::Body {
                    label,
                    section,
                    partial,
                    ..
                },
                Some(message),
            ) => {
                out.put(label);
                out.put(b" ");
                section.put(*partial, message, out);
            }
            (Self::Envelope | Self::Structure { .. } | Self::Body { .. }, None) => {}
        }
    }
}

impl BodySection {
    /// A summary is enough for fields that it has.
    fn needs(&self) -> Needs {
        match &self.what {
            What::Fields { names, named: true } if self.part.is_empty() => {
                let needs = names.iter().map(|name| summary::needs(name));
                needs.max().unwrap_or(Needs::Envelope)
            }
            _ => Needs::Text,
        }
    }

    fn of(section: Option<&Section<'_>>) -> Self {
        let fields = |names: &[AString<'_>], named| What::Fields {
            names: names.iter().map(|name| name.as_ref().to_vec()).collect(),
            named,
        };
        let (part, what) = match section {
            None => (None, What::Whole),
            Some(Section::Part(part)) => (Some(part), What::Whole),
            Some(Section::Header(part)) => (part.as_ref(), What::Header),
            Some(Section::HeaderFields(part, names)) => (part.as_ref(), fields(names.as_ref(), true)),
            Some(Section::HeaderFieldsNot(part, names)) => (part.as_ref(), fields(names.as_ref(), false)),
            Some(Section::Text(part)) => (part.as_ref(), What::Text),
            Some(Section::Mime(part)) => (Some(part), What::Mime),
        };
        Self {
            part: part.map(|part| part.0.as_ref().to_vec()).unwrap_or_default(),
            what,
        }
    }

    /// `BODY[...]<origin>`, as the response repeats it.
    fn label(&self, partial: Option<(u32, NonZeroU32)>) -> Vec<u8> {
        let mut words: Vec<String> = self.part.iter().map(NonZeroU32::to_string).collect();
        let name = match &self.what {
            What::Whole => None,
            What::Header => Some("HEADER"),
            What::Fields { named: true, .. } => Some("HEADER.FIELDS"),
            What::Fields { named: false, .. } => Some("HEADER.FIELDS.NOT"),
            What::Text => Some("TEXT"),
            What::Mime => Some("MIME"),
        };
        words.extend(name.map(str::to_string));
        let mut out = Output::default();
        out.put_fmt(format_args!("BODY[{}", words.join(".")));
        if let What::Fields { names, .. } = &self.what {
            for (index, name) in names.iter().enumerate() {
                out.put(if index == 0 { b" (" } else { b" " });
                match !name.is_empty()
                    && name
                        .iter()
                        .all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                {
                    true => out.put(name),
                    false => out.put_string(name),
                }
            }
            out.put(b")");
        }
        out.put(b"]");
        if let Some((origin, _)) = partial {
            out.put_fmt(format_args!("<{origin}>"));
        }
        out.front().to_vec()
    }

    fn put(&self, partial: Option<(u32, NonZeroU32)>, message: &Message, out: &mut Output) {
        let cut = |length: usize| match partial {
            Some((origin, count)) => {
                let start = length.min(origin as usize);
                start..length.min(start.saturating_add(count.get() as usize))
            }
            None => 0..length,
        };
        let Some(range) = self.range(message) else {
            return out.put(b"NIL");
        };
        if let What::Fields { names, named } = &self.what {
            let subset = subset(&message.text[range], names, *named);
            return out.put_literal(&subset[cut(subset.len())]);
        }
        let within = cut(range.len());
        let octets = range.start + within.start..range.start + within.end;
        match &message.long {
            Some(long) => out.put_long(&long.source, octets),
            None => out.put_slice(&message.text, octets),
        }
    }

    /// The octets meant, for a subset of a header those of the header. `None`: the message has no such part.
    fn range(&self, message: &Message) -> Option<Range<usize>> {
        // Fields of a long text are taken from its headers, which are in memory.
        let long = match self.what {
            What::Fields { .. } => None,
            _ => message.long.as_ref(),
        };
        let (length, header_end) = match long {
            Some(long) => (long.source.len(), long.header_end),
            None => (message.text.len(), message.header_end),
        };
        if self.part.is_empty() {
            return Some(match self.what {
                What::Whole => 0..length,
                What::Header | What::Fields { .. } | What::Mime => 0..header_end,
                What::Text => header_end..length,
            });
        }
        let parts = match long {
            Some(long) => long.parts.as_ref()?,
            None => message.structure(),
        };
        let part = locate(parts, &self.part)?;
        let inner = match &part.content {
            Content::Message(inner) => Some(inner),
            _ => None,
        };
        match self.what {
            What::Whole => Some(part.body.clone()),
            What::Mime => Some(part.header.clone()),
            // These are of the message inside the part.
            What::Header | What::Fields { .. } => inner.map(|inner| inner.header.clone()),
            What::Text => inner.map(|inner| inner.body.clone()),
        }
    }
}

/// The part of that number. A message that is no multipart has one part, 1.
fn locate<'p>(root: &'p Part, numbers: &[NonZeroU32]) -> Option<&'p Part> {
    let mut part = root;
    for (depth, number) in numbers.iter().enumerate() {
        let message = match &part.content {
            Content::Message(inner) if depth > 0 => inner,
            Content::Multipart(_) => part,
            _ if depth == 0 => part,
            _ => return None,
        };
        part = match &message.content {
            Content::Multipart(parts) => parts.get(number.get() as usize - 1)?,
            _ if number.get() == 1 => message,
            _ => return None,
        };
    }
    Some(part)
}

/// The fields of a header that are named, or those that are not, and the empty line.
fn subset(header: &[u8], names: &[Vec<u8>], named: bool) -> Vec<u8> {
    let mut kept = Vec::new();
    for field in header::fields(header) {
        if names.iter().any(|name| name.eq_ignore_ascii_case(field.name)) == named {
            kept.extend_from_slice(&header[field.range]);
        }
    }
    kept.extend_from_slice(b"\r\n");
    kept
}

/// A message that is being answered from: whole, what its summary has of it, or the headers of one that is long.
pub(super) struct Message {
    pub(super) text: Arc<Text>,
    /// Of `text`, which has the headers only, if the message is long.
    pub(super) long: Option<Long>,
    header_end: usize,
    structure: OnceCell<Part>,
    /// What can be answered from it.
    pub(super) satisfies: Needs,
}

impl Message {
    pub(super) fn new(text: Vec<u8>) -> Self {
        let header_end = header::header_end(&text);
        Self {
            text: Arc::new(Text::new(text)),
            long: None,
            header_end,
            structure: OnceCell::new(),
            satisfies: Needs::Text,
        }
    }

    /// A long one: what is asked of it must not take more than is known of it.
    pub(super) fn long(mut long: Long) -> Self {
        Self {
            text: Arc::new(std::mem::take(&mut long.headers)),
            header_end: long.own_end,
            structure: long.gathered.take().map(OnceCell::from).unwrap_or_default(),
            long: Some(long),
            satisfies: Needs::Text,
        }
    }

    /// From a summary: some fields of the header, and behind them those that `structure` refers to, if it is known.
    pub(super) fn summarised(text: Text, header_end: usize, structure: Option<Part>) -> Self {
        let satisfies = match structure {
            Some(_) => Needs::Structure,
            None => Needs::Envelope,
        };
        Self {
            text: Arc::new(text),
            long: None,
            header_end,
            structure: structure.map(OnceCell::from).unwrap_or_default(),
            satisfies,
        }
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.text[..self.header_end]
    }

    pub(super) fn structure(&self) -> &Part {
        self.structure.get_or_init(|| Part::of(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::fetched;

    const NESTED: &str = "Subject: outer\r\nX-A: 1\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\none\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: single\r\n\r\ntwo\r\n\
        --b\r\nContent-Type: message/rfc822\r\nX: y\r\n\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n\
        --c\r\n\r\nthree\r\n--c\r\n\r\nfour\r\n--c--\r\n\r\n--b--\r\n";

    fn fetched(text: &str, items: &str) -> String {
        let Some(items) = fetched::items(items) else {
            return "refused".to_string();
        };
        let said = fetched::fetched(&items, &Message::new(text.as_bytes().to_vec()));
        String::from_utf8_lossy(&said).into_owned()
    }

    #[test]
    fn sections_are_the_octets_they_name() {
        let single = "A: 1\r\nB: 2\r\n\tfold\r\nC: 3\r\n\r\nbody\r\n";
        let cases = [
            (
                single,
                "BODY[]",
                "BODY[] {33}\r\nA: 1\r\nB: 2\r\n\tfold\r\nC: 3\r\n\r\nbody\r\n",
            ),
            (
                single,
                "RFC822",
                "RFC822 {33}\r\nA: 1\r\nB: 2\r\n\tfold\r\nC: 3\r\n\r\nbody\r\n",
            ),
            (
                single,
                "BODY.PEEK[HEADER]",
                "BODY[HEADER] {27}\r\nA: 1\r\nB: 2\r\n\tfold\r\nC: 3\r\n\r\n",
            ),
            (
                single,
                "RFC822.HEADER",
                "RFC822.HEADER {27}\r\nA: 1\r\nB: 2\r\n\tfold\r\nC: 3\r\n\r\n",
            ),
            (single, "BODY[TEXT]", "BODY[TEXT] {6}\r\nbody\r\n"),
            (single, "RFC822.TEXT", "RFC822.TEXT {6}\r\nbody\r\n"),
            (single, "BODY[1]", "BODY[1] {6}\r\nbody\r\n"),
            (single, "BODY[2]", "BODY[2] NIL"),
            (single, "BODY[1.1]", "BODY[1.1] NIL"),
            (single, "BODY[1.TEXT]", "BODY[1.TEXT] NIL"),
            (
                single,
                "BODY[HEADER.FIELDS (b x)]",
                "BODY[HEADER.FIELDS (b x)] {15}\r\nB: 2\r\n\tfold\r\n\r\n",
            ),
            (
                single,
                "BODY[HEADER.FIELDS.NOT (\"b\")]",
                "BODY[HEADER.FIELDS.NOT (b)] {14}\r\nA: 1\r\nC: 3\r\n\r\n",
            ),
            (single, "BODY[]<0.4>", "BODY[]<0> {4}\r\nA: 1"),
            (single, "BODY[TEXT]<2.100>", "BODY[TEXT]<2> {4}\r\ndy\r\n"),
            (
                single,
                "BODY[TEXT]<4294967295.4294967295>",
                "BODY[TEXT]<4294967295> {0}\r\n",
            ),
            (
                single,
                "BODY[HEADER.FIELDS (A)]<3.2>",
                "BODY[HEADER.FIELDS (A)]<3> {2}\r\n1\r",
            ),
            ("", "BODY[]", "BODY[] {0}\r\n"),
            (NESTED, "BODY[1]", "BODY[1] {3}\r\none"),
            (
                NESTED,
                "BODY[1.MIME]",
                "BODY[1.MIME] {28}\r\nContent-Type: text/plain\r\n\r\n",
            ),
            (NESTED, "BODY[2]", "BODY[2] {22}\r\nSubject: single\r\n\r\ntwo"),
            (
                NESTED,
                "BODY[2.HEADER]",
                "BODY[2.HEADER] {19}\r\nSubject: single\r\n\r\n",
            ),
            (NESTED, "BODY[2.TEXT]", "BODY[2.TEXT] {3}\r\ntwo"),
            (NESTED, "BODY[2.1]", "BODY[2.1] {3}\r\ntwo"),
            (
                NESTED,
                "BODY[3.MIME]",
                "BODY[3.MIME] {38}\r\nContent-Type: message/rfc822\r\nX: y\r\n\r\n",
            ),
            (NESTED, "BODY[3.2]", "BODY[3.2] {4}\r\nfour"),
            (
                NESTED,
                "BODY[3.HEADER.FIELDS (Subject)]",
                "BODY[3.HEADER.FIELDS (Subject)] {2}\r\n\r\n",
            ),
            (NESTED, "BODY[3.3]", "BODY[3.3] NIL"),
            (NESTED, "BODY[4]", "BODY[4] NIL"),
        ];
        for (text, items, expected) in cases {
            assert_eq!(fetched(text, items), expected, "{items}");
        }
    }

    #[test]
    fn other_items_are_read_from_the_entry() {
        assert_eq!(
            fetched("", "FAST"),
            "FLAGS ()INTERNALDATE \"01-Jan-1970 00:00:00 +0000\"RFC822.SIZE 0"
        );
        assert_eq!(fetched("", "(UID)"), "UID 7");
        assert_eq!(fetched("", "BINARY[1]"), "refused");
        assert_eq!(fetched("", "()"), "refused");
        assert_eq!(fetched("", &format!("({})", vec!["UID"; 101].join(" "))), "refused");
    }

    #[test]
    fn octets_come_as_they_are_stored() {
        let text = "\0\r\n\0 \u{fc}\n\r\n\n\r";
        assert_eq!(fetched(text, "BODY[]"), format!("BODY[] {{{}}}\r\n{text}", text.len()));
    }
}
