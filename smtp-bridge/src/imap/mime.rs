//! The parts of a message and where they lie (RFC 2045, 2046), found in one pass, bounded, for any octets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::header::{self, Parameterised};

/// Depth of nesting that is followed; what is deeper is one part.
pub(super) const DEPTH_MAX: usize = 100;

/// Parts that are told apart; the rest of a message with more of them belongs to the last.
pub(super) const PARTS_MAX: usize = 1_000;

/// RFC 2046 allows 70.
const BOUNDARY_MAX: usize = 256;

/// Octets that are looked at from their beginning to their end.
pub(super) trait Octets {
    /// How many there are.
    fn length(&self) -> usize;

    /// As [`header::line_end`].
    fn line_end(&mut self, at: usize) -> usize;

    /// Some of them, which are there: all that is asked for, or at least [`header::HEADER_MAX`].
    fn cut(&mut self, range: Range<usize>) -> Cow<'_, [u8]>;
}

impl Octets for &[u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn line_end(&mut self, at: usize) -> usize {
        header::line_end(self, at)
    }

    fn cut(&mut self, range: Range<usize>) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self[range])
    }
}

/// A message, or a part of one.
#[derive(Debug)]
pub(super) struct Part {
    /// Its header, with the empty line.
    pub(super) header: Range<usize>,
    /// Its body, without the line end that belongs to the boundary behind it.
    pub(super) body: Range<usize>,
    /// Line ends in the body.
    pub(super) lines: usize,
    pub(super) content: Content,
}

/// What the body of a part is made of.
#[derive(Debug)]
pub(super) enum Content {
    /// `Content-Type` as it stands, or text or a message where none is.
    Single,
    /// A type that names further parts which were not found: no boundary, or too deep.
    Opaque,
    Multipart(Vec<Part>),
    /// `message/rfc822`.
    Message(Box<Part>),
}

impl Part {
    /// Finds the parts of a message.
    pub(super) fn of(mut message: &[u8]) -> Self {
        Self::found_in(&mut message)
    }

    /// Finds the parts of a message that need not be in memory.
    pub(super) fn found_in(message: &mut impl Octets) -> Self {
        let mut walker = Walker {
            text: message,
            at: 0,
            lines: 0,
            open: BTreeMap::new(),
            levels: 0,
            parts: 0,
        };
        walker.part(false, 0).0
    }
}

/// Where a part ended.
#[derive(Clone, Copy)]
struct End {
    /// Start of the delimiter line, or end of the message.
    at: usize,
    /// Line ends before it.
    lines: usize,
    /// Which of the open multiparts the delimiter belongs to, and whether it closes it. `None`: end of the message.
    delimiter: Option<(usize, bool)>,
}

struct Walker<'a, T> {
    text: &'a mut T,
    at: usize,
    /// Line ends before `at`.
    lines: usize,
    /// Boundaries of the open multiparts, each with the levels that have it, the innermost last. A line is looked up: one that is
    /// compared with a hundred boundaries would make every short line of a long message cost so much.
    open: BTreeMap<Vec<u8>, Vec<usize>>,
    /// How many multiparts are open.
    levels: usize,
    parts: usize,
}

impl<T: Octets> Walker<'_, T> {
    /// A part from its header on. `digest`: without a `Content-Type` it is a message (RFC 2046 section 5.1.5).
    fn part(&mut self, digest: bool, depth: usize) -> (Part, End) {
        self.parts += 1;
        let start = self.at;
        let ended = self.header();
        let body = ended.map_or(self.at, |end| end.at);
        let lines = ended.map_or(self.lines, |end| end.lines);
        let kind = Kind::of(&self.text.cut(start..body), digest);
        let (content, end) = match (ended, kind) {
            (Some(end), _) => (Content::Single, end),
            (
                None,
                Kind::Multipart {
                    boundary: Some(boundary),
                    digest,
                },
            ) if depth < DEPTH_MAX => {
                let (parts, end) = self.multipart(boundary, digest, depth);
                (Content::Multipart(parts), end)
            }
            (None, Kind::Message) if depth < DEPTH_MAX => {
                let (message, end) = self.part(false, depth + 1);
                (Content::Message(Box::new(message)), end)
            }
            (None, Kind::Multipart { .. } | Kind::Message) => (Content::Opaque, self.skip()),
            (None, Kind::Other) => (Content::Single, self.skip()),
        };
        let (body_end, line_ends) = self.without_last_line_end(body, end);
        let part = Part {
            header: start..body,
            body: body..body_end,
            lines: line_ends.saturating_sub(lines),
            content,
        };
        (part, end)
    }

    /// The parts of a multipart, from its preamble to the end of its epilogue.
    fn multipart(&mut self, boundary: Vec<u8>, digest: bool, depth: usize) -> (Vec<Part>, End) {
        let level = self.levels;
        self.levels += 1;
        self.open.entry(boundary.clone()).or_default().push(level);
        let mut parts = Vec::new();
        let mut end = self.skip();
        while let Some((of, closes)) = end.delimiter
            && of == level
        {
            if closes || self.parts >= PARTS_MAX {
                self.close(&boundary);
                return (parts, self.skip());
            }
            let (part, part_end) = self.part(digest, depth + 1);
            parts.push(part);
            end = part_end;
        }
        self.close(&boundary);
        (parts, end)
    }

    /// Ends the innermost multipart, which has this boundary.
    fn close(&mut self, boundary: &[u8]) {
        self.levels -= 1;
        if let Some(levels) = self.open.get_mut(boundary) {
            levels.pop();
            if levels.is_empty() {
                self.open.remove(boundary);
            }
        }
    }

    /// Reads a header. `Some`: the part ended in the middle of it.
    fn header(&mut self) -> Option<End> {
        loop {
            if let Some(end) = self.delimiter() {
                return Some(end);
            }
            let start = self.at;
            if !self.line() {
                return Some(End {
                    at: self.at,
                    lines: self.lines,
                    delimiter: None,
                });
            }
            if header::is_blank(&self.text.cut(start..self.at.min(start + 3))) {
                return None;
            }
        }
    }

    /// Reads up to and with the next delimiter of an open multipart.
    fn skip(&mut self) -> End {
        loop {
            if let Some(end) = self.delimiter() {
                return end;
            }
            if !self.line() {
                return End {
                    at: self.at,
                    lines: self.lines,
                    delimiter: None,
                };
            }
        }
    }

    /// Reads a line, if there is one.
    fn line(&mut self) -> bool {
        let end = self.text.line_end(self.at);
        let found = end > self.at;
        self.lines += usize::from(found && *self.text.cut(end - 1..end) == *b"\n");
        self.at = end;
        found
    }

    /// Reads a delimiter line, if the next one is: `"--" boundary ["--"] *LWSP`.
    fn delimiter(&mut self) -> Option<End> {
        let (at, lines) = (self.at, self.lines);
        if self.levels == 0 || *self.text.cut(at..self.text.length().min(at + 2)) != *b"--" {
            return None;
        }
        let line_end = self.text.line_end(at);
        let line = self.text.cut(at + 2..line_end);
        let line = line.trim_ascii_end();
        let innermost = |boundary: &[u8]| self.open.get(boundary)?.last().copied();
        let begins = innermost(line).map(|level| (level, false));
        let closes = line.strip_suffix(b"--").and_then(innermost).map(|level| (level, true));
        let found = begins.max(closes)?;
        self.line();
        Some(End {
            at,
            lines,
            delimiter: Some(found),
        })
    }

    /// The end of a body that starts at `start`: the line end before a delimiter belongs to the delimiter.
    fn without_last_line_end(&mut self, start: usize, end: End) -> (usize, usize) {
        let start = start.max(end.at.saturating_sub(2));
        let last = self.text.cut(start..end.at);
        match (end.delimiter, last.strip_suffix(b"\n")) {
            (Some(_), Some(rest)) => (
                start + rest.strip_suffix(b"\r").unwrap_or(rest).len(),
                end.lines.saturating_sub(1),
            ),
            _ => (end.at, end.lines),
        }
    }
}

/// What a part's `Content-Type` says of parts inside it.
enum Kind {
    Multipart { boundary: Option<Vec<u8>>, digest: bool },
    Message,
    Other,
}

impl Kind {
    fn of(header: &[u8], digest: bool) -> Self {
        let value = header::value(header, "Content-Type");
        let content_type = value.map(Parameterised::parse).unwrap_or_default();
        let is = |a: &[u8], b: &str| a.eq_ignore_ascii_case(b.as_bytes());
        if is(content_type.kind, "multipart") {
            let boundary = content_type.parameter("boundary");
            let boundary = boundary.map(<[u8]>::trim_ascii_end);
            let boundary = boundary.filter(|boundary| (1..=BOUNDARY_MAX).contains(&boundary.len()));
            Self::Multipart {
                boundary: boundary.map(<[u8]>::to_vec),
                digest: is(content_type.subtype, "digest"),
            }
        } else if is(content_type.kind, "message") && is(content_type.subtype, "rfc822")
            || digest && content_type.kind.is_empty()
        {
            Self::Message
        } else {
            Self::Other
        }
    }
}

/// Finds the parts of `bytes` as a message and writes what FETCH says of them. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    let root = Part::of(bytes);
    check(&root, bytes, 0);
    let mut out = super::output::Output::default();
    super::structure::put_structure(&root, bytes, true, &mut out);
    super::envelope::put_envelope(&bytes[root.header.clone()], &mut out);
}

/// Parts lie inside the part that holds them, in order.
fn check(part: &Part, text: &[u8], depth: usize) {
    assert!(depth <= DEPTH_MAX + 1);
    assert!(part.header.start <= part.header.end && part.header.end <= part.body.start);
    assert!(part.body.start <= part.body.end && part.body.end <= text.len());
    let inner: &[Part] = match &part.content {
        Content::Multipart(parts) => parts,
        Content::Message(message) => std::slice::from_ref(&**message),
        Content::Single | Content::Opaque => &[],
    };
    let mut at = part.body.start;
    for inner in inner {
        assert!(inner.header.start >= at && inner.body.end <= part.body.end.max(inner.body.start));
        at = inner.body.end;
        check(inner, text, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree as `content(body, ...)`.
    fn shown(part: &Part, text: &str) -> String {
        let body = &text[part.body.clone()];
        match &part.content {
            Content::Single => format!("{body:?}/{}", part.lines),
            Content::Opaque => format!("opaque {body:?}"),
            Content::Multipart(parts) => {
                format!(
                    "[{}]",
                    parts.iter().map(|part| shown(part, text)).collect::<Vec<_>>().join(" ")
                )
            }
            Content::Message(inner) => format!("message/{} {}", part.lines, shown(inner, text)),
        }
    }

    fn tree(text: &str) -> String {
        shown(&Part::of(text.as_bytes()), text)
    }

    const MIXED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";

    #[test]
    fn parts_end_before_the_line_end_of_their_boundary() {
        assert_eq!(tree(""), "\"\"/0");
        assert_eq!(tree("A: b\r\n\r\none\r\ntwo"), "\"one\\r\\ntwo\"/1");
        assert_eq!(
            tree(&format!(
                "{MIXED}preamble\r\n--b\r\n\r\none\r\ntwo\r\n--b \t\r\nX: y\r\n\r\n\r\n--b--\r\nepilogue\r\n"
            )),
            "[\"one\\r\\ntwo\"/1 \"\"/0]"
        );
        assert_eq!(
            tree(&MIXED.replace("\r\n", "\n").replace("\n\n", "\n\n--b\n\nx\n\n--b--\n")),
            "[\"x\\n\"/1]"
        );
    }

    #[test]
    fn damaged_multiparts_give_what_is_there() {
        assert_eq!(tree(MIXED), "[]");
        assert_eq!(tree(&format!("{MIXED}no delimiter")), "[]");
        assert_eq!(tree(&format!("{MIXED}--b\r\nX: y")), "[\"\"/0]");
        assert_eq!(
            tree(&format!("{MIXED}--b\r\nX: y\r\n--b\r\n--bb\r\n\r\n--b--")),
            "[\"\"/0 \"\"/0]"
        );
        assert_eq!(tree("Content-Type: multipart/mixed\r\n\r\nx"), "opaque \"x\"");
        assert_eq!(tree(&format!("{MIXED}--b--\r\n--b\r\n\r\nbehind the end")), "[]");
    }

    #[test]
    fn an_outer_boundary_ends_what_is_open_inside() {
        let inner = "Content-Type: multipart/alternative; boundary=\"b.in\"\r\n\r\n--b.in\r\n\r\none\r\n";
        assert_eq!(
            tree(&format!("{MIXED}--b\r\n{inner}--b\r\n\r\ntwo\r\n--b--\r\n")),
            "[[\"one\"/0] \"two\"/0]"
        );
    }

    #[test]
    fn a_line_belongs_to_the_innermost_multipart_that_it_can_be_of() {
        let inner = |boundary: &str| format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n");
        // What closes the outer one begins a part of the inner one, and the other way round.
        let text = format!(
            "{MIXED}--b\r\n{}--b--\r\n\r\none\r\n--b----\r\n--b\r\n\r\ntwo",
            inner("b--")
        );
        assert_eq!(tree(&text), "[[\"one\"/0] \"two\"/0]");
        let outer = inner("b--");
        let text = format!("{outer}--b--\r\n{MIXED}--b\r\n\r\none\r\n--b--\r\n--b----\r\n");
        assert_eq!(tree(&text), "[[\"one\"/0]]");
        // Two of one boundary: the inner one has it until it is closed.
        let text = format!("{MIXED}--b\r\n{MIXED}--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo\r\n--b--\r\n");
        assert_eq!(tree(&text), "[[\"one\"/0] \"two\"/0]");
    }

    #[test]
    fn messages_inside_are_followed() {
        let text =
            format!("{MIXED}--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nhello\r\n\r\n--b--\r\n");
        assert_eq!(tree(&text), "[message/3 \"hello\\r\\n\"/1]");
        let digest =
            "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: in\r\n\r\nhello\r\n--b--\r\n";
        assert_eq!(tree(digest), "[message/2 \"hello\"/0]");
    }

    #[test]
    fn depth_and_number_of_parts_are_bounded() {
        let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(5_000);
        fuzz(deep.as_bytes());
        let nested: String = (0..5_000)
            .map(|level| format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"))
            .collect();
        fuzz(nested.as_bytes());
        let many = format!("{MIXED}{}", "--b\r\n\r\nx\r\n".repeat(50_000));
        let Content::Multipart(parts) = Part::of(many.as_bytes()).content else {
            panic!("a multipart")
        };
        assert_eq!(parts.len(), PARTS_MAX - 1);
    }

    /// Text of pieces that make boundaries meet.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("Content-Type: multipart/mixed; boundary=b\r\n"),
            Just("Content-Type: multipart/digest; boundary=\"b b\"\n"),
            Just("Content-Type: message/rfc822\r\n"),
            Just("Content-Type: text/plain; charset=\"\r\n x\"\r\n"),
            Just("Content-Disposition: attachment; filename=\"(a\r\n"),
            Just("From: a:b@c,<@d:e@f>;(\r\n"),
            Just("--b\r\n"),
            Just("--b--\r\n"),
            Just("--b b\n"),
            Just("--b b--"),
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just("--"),
            Just("text\0\u{fc}"),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            fuzz(&bytes);
        }

        #[test]
        fn pieces_of_mime_in_any_order_are_a_message(bytes in hostile()) {
            fuzz(&bytes);
        }
    }
}
