//! Header blocks: cutting them into fields, unfolding, and counting hops in a stream.

use std::ops::Range;

use super::limits::FIELD_COUNT_MAX;
use super::refusal::Refusal;

/// The fields of one header block, in their order.
pub(super) struct Header<'a> {
    raw: &'a [u8],
    fields: Vec<Field<'a>>,
}

/// One header field; its value, still folded, is a stretch of the block.
struct Field<'a> {
    name: &'a str,
    value: Range<usize>,
}

impl Header<'_> {
    /// Whether it has no field at all.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The text of every field of this name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = Result<String, Refusal>> {
        self.fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| unfold(&self.raw[field.value.clone()]))
    }

    /// The text of every field.
    pub(super) fn values(&self) -> impl Iterator<Item = Result<String, Refusal>> {
        self.fields.iter().map(|field| unfold(&self.raw[field.value.clone()]))
    }

    /// The text of the only field of this name: two of them can be read in two ways.
    pub(super) fn one(&self, name: &str) -> Result<Option<String>, Refusal> {
        let mut fields = self.all(name);
        match (fields.next(), fields.next()) {
            (_, Some(_)) => Err(Refusal::Header),
            (field, None) => field.transpose(),
        }
    }
}

/// A value in one line. Raw 8-bit is taken as UTF-8 (RFC 6532) or refused.
fn unfold(value: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(value).map_err(|_| Refusal::Charset)?;
    Ok(text.replace("\r\n", "").replace('\n', ""))
}

/// What to make of a block whose first line is no field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Headless {
    /// It is all body: a bare text given to `sendmail` or DATA.
    AllBody,
    /// Malformed.
    Refuse,
}

/// Cuts `raw` into its header, at most `bytes_max` long, and the body after the first empty line.
pub(super) fn split(raw: &[u8], bytes_max: usize, headless: Headless) -> Result<(Header<'_>, &[u8]), Refusal> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut position = 0;
    while position < raw.len() {
        let window = &raw[position..raw.len().min(bytes_max + 1)];
        let (line, next) = match window.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&window[..end], position + end + 1),
            None => (window, position + window.len()),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let end = position + line.len();
        if line.is_empty() {
            return Ok((Header { raw, fields }, &raw[next..]));
        }
        if let Some(last) = fields.last_mut().filter(|_| continues(line)) {
            last.value.end = end;
        } else if let Some((name, colon)) = name_of(line) {
            fields.push(Field {
                name,
                value: position + colon + 1..end,
            });
        } else if fields.is_empty() && headless == Headless::AllBody && !is_mailbox_separator(line) {
            return Ok((Header { raw, fields }, raw));
        } else {
            return Err(Refusal::Header);
        }
        if line.contains(&b'\r') {
            return Err(Refusal::Header);
        }
        if next > bytes_max || fields.len() > FIELD_COUNT_MAX {
            return Err(Refusal::HeaderTooLarge);
        }
        position = next;
    }
    Ok((Header { raw, fields }, &[]))
}

fn continues(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// `field-name ":"` (RFC 5322 section 3.6.8), white space before the colon allowed as in section 4.5.
/// Gives the name and where the colon stands.
fn name_of(line: &[u8]) -> Option<(&str, usize)> {
    let colon = line.iter().take(256).position(|&byte| byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    let name = std::str::from_utf8(name).ok().filter(|_| is_name)?;
    Some((name, colon))
}

/// The line that mbox files put before a message. Taking it for a body would let the whole header out as text.
fn is_mailbox_separator(line: &[u8]) -> bool {
    line.starts_with(b"From ") || line.starts_with(b">From ")
}

/// Fields of a header that a mail program writes, beside the families below.
const WRITTEN: &[&str] = &[
    "Apparently-To",
    "Autocrypt",
    "Bcc",
    "Cc",
    "Date",
    "Delivered-To",
    "From",
    "In-Reply-To",
    "MIME-Version",
    "Message-ID",
    "Organization",
    "Received",
    "References",
    "Reply-To",
    "Return-Path",
    "Sender",
    "Subject",
    "Thread-Index",
    "Thread-Topic",
    "To",
    "User-Agent",
];

/// How the names of families of fields begin.
const FAMILIES: &[&str] = &["ARC-", "Content-", "DKIM-", "List-", "Resent-", "X-"];

/// Whether a text that stands behind no header begins with one: behind an empty line, a byte order mark or a blank, where no parser
/// looks for it. Taken for text, all that a mail program wrote in it would leave, Bcc too.
///
/// A text that begins with `Error: disk full` does not: of the fields that stand together, one has to be known.
pub fn begins_with_header(text: &[u8]) -> bool {
    let text = &text[..text.len().min(super::limits::HEADER_BYTES_MAX)];
    // In whatever charset a blank is written, it is outside ASCII or none of its signs.
    let is_blank = |octet: u8| !octet.is_ascii_graphic();
    let mut is_first = true;
    for line in text.split(|&octet| octet == b'\n') {
        let blanks = line.iter().take_while(|&&octet| is_blank(octet)).count();
        let bare = &line[blanks..];
        if bare.is_empty() {
            match is_first {
                true => continue,
                false => return false,
            }
        }
        if is_first && is_mailbox_separator(bare) {
            continue;
        }
        match name_of(bare) {
            Some((name, _)) if is_written(name) => return true,
            Some(_) => {}
            None if !is_first && continues(line) => {}
            None => return false,
        }
        is_first = false;
    }
    false
}

fn is_written(name: &str) -> bool {
    let begins = |start: &&str| {
        name.get(..start.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(start))
    };
    WRITTEN.iter().any(|known| known.eq_ignore_ascii_case(name)) || FAMILIES.iter().any(begins)
}

/// The unfolded value of the first field of this name in a message, or none when it is absent or unreadable.
pub fn header_value(raw: &[u8], name: &str) -> Option<String> {
    let (header, _) = split(raw, super::limits::HEADER_BYTES_MAX, Headless::Refuse).ok()?;
    let text = header.all(name).next()?.ok()?;
    Some(text.trim().to_owned())
}

/// Number of `Received` fields in a header, the sign of a mail loop.
pub fn received_count(header: &[u8]) -> usize {
    let mut counter = LoopCounter::default();
    counter.feed(header);
    counter.count()
}

/// Counts the `Received` fields of a message that arrives in pieces, up to the end of its header.
#[derive(Debug, Clone, Default)]
pub struct LoopCounter {
    count: usize,
    line: Line,
}

/// What is known of the line being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Line {
    /// Nothing of it yet, apart from a possible CR.
    #[default]
    Start,
    /// As many bytes of `received` matched.
    Name(usize),
    /// The whole name; white space may come before the colon.
    Named,
    /// Nothing more to learn from this line.
    Rest,
    /// The header is over.
    Body,
}

impl LoopCounter {
    /// Takes the next piece of the message, of any length.
    pub fn feed(&mut self, chunk: &[u8]) {
        const NAME: &[u8] = b"received";
        for &byte in chunk {
            self.line = match (self.line, byte) {
                (Line::Body, _) => return,
                (Line::Start, b'\n') => Line::Body,
                (_, b'\n') => Line::Start,
                (Line::Start, b'\r') => Line::Start,
                (Line::Start, _) if byte.eq_ignore_ascii_case(&NAME[0]) => Line::Name(1),
                (Line::Name(matched), _) if byte.eq_ignore_ascii_case(&NAME[matched]) => match matched + 1 {
                    whole if whole == NAME.len() => Line::Named,
                    part => Line::Name(part),
                },
                (Line::Named, b' ' | b'\t') => Line::Named,
                (Line::Named, b':') => {
                    self.count += 1;
                    Line::Rest
                }
                _ => Line::Rest,
            };
        }
    }

    /// The `Received` fields seen so far.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(raw: &[u8]) -> Result<(usize, &[u8]), Refusal> {
        split(raw, 1_000, Headless::AllBody).map(|(header, body)| (header.fields.len(), body))
    }

    #[test]
    fn a_header_ends_at_the_first_empty_line() {
        assert_eq!(fields(b"A: 1\r\nB: 2\r\n 3\r\n\r\nbody\r\n"), Ok((2, &b"body\r\n"[..])));
        assert_eq!(fields(b"A: 1\nB : 2\n\nbody"), Ok((2, &b"body"[..])));
        assert_eq!(fields(b"\r\nbody"), Ok((0, &b"body"[..])));
        assert_eq!(fields(b"A: 1"), Ok((1, &b""[..])));
    }

    #[test]
    fn a_text_without_header_is_all_body() {
        assert_eq!(fields(b"hello\nworld\n"), Ok((0, &b"hello\nworld\n"[..])));
        assert_eq!(fields(&[b'x'; 5_000]).map(|found| found.0), Ok(0));
    }

    #[test]
    fn a_header_is_known_though_it_does_not_begin_the_message() {
        for text in [
            "\r\nFrom: a@b\r\nBcc: c@d\r\n",
            "\u{feff}Subject: x\n",
            " \t\n \u{a0}to : a@b\n",
            ">From a@b Mon Jan 1\nFrom: a@b\n",
            "Priority: 1\n folded\nUSER-AGENT: x\n",
            "X-Mailer: x",
            "Content-Type: text/plain\n\nx",
        ] {
            assert!(begins_with_header(text.as_bytes()), "{text:?}");
        }
        assert!(begins_with_header(b"\xa0\xa0From: a@b"), "a blank of Latin-1");
        for text in [
            "",
            "\n\n",
            "hello\nFrom: a@b\n",
            "Error: disk full\n\nFrom: a@b\n",
            "Error: disk full\non /dev/sda\nSubject: x\n",
            "> From: a@b\n",
            "Toast: x\n",
            "From here on: x\n",
            "Dear all, To: x\n",
        ] {
            assert!(!begins_with_header(text.as_bytes()), "{text:?}");
        }
        assert!(!begins_with_header(&b"\n".repeat(1_000_000)));
    }

    #[test]
    fn a_line_that_is_no_field_is_refused() {
        assert_eq!(fields(b"A: 1\r\nhello\r\n\r\n"), Err(Refusal::Header));
        assert_eq!(fields(b"A: 1\r\n\xff: x\r\n\r\n"), Err(Refusal::Header));
        assert_eq!(fields(b"A: 1\rB: 2\r\n\r\n"), Err(Refusal::Header));
        assert_eq!(fields(b"From a@b Mon Jan 1\r\nA: 1\r\n\r\n"), Err(Refusal::Header));
    }

    #[test]
    fn a_header_beyond_its_bounds_is_refused() {
        assert_eq!(
            fields(format!("A: {}\r\n\r\n", "x".repeat(2_000)).as_bytes()),
            Err(Refusal::HeaderTooLarge)
        );
        assert_eq!(
            fields("A: x\r\n".repeat(50_000).as_bytes()),
            Err(Refusal::HeaderTooLarge)
        );
    }

    #[test]
    fn values_are_unfolded() {
        assert_eq!(
            header_value(b"X: 1\r\nSubject: a\r\n\tb\r\n\r\nSubject: c", "subject").as_deref(),
            Some("a\tb")
        );
        assert_eq!(header_value(b"X: 1\r\n\r\n", "subject"), None);
    }

    #[test]
    fn hops_are_counted_however_the_message_is_cut() {
        let raw = b"RECEIVED: a\r\nX-Received: b\r\n Received: c\r\nReceived : d\r\nReceive: e\r\n\r\nReceived: f\r\n";
        assert_eq!(received_count(raw), 2);
        for size in 1..raw.len() {
            let mut counter = LoopCounter::default();
            raw.chunks(size).for_each(|chunk| counter.feed(chunk));
            assert_eq!(counter.count(), 2);
        }
    }
}
