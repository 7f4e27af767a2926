//! Text of a charset that nobody named: its octets leave as they are, said to be unknown (RFC 1428).

use super::limits::LINE_BYTES_MAX;
use super::openpgp;
use super::policy::{Pass, Policy};
use super::refusal::{Place, Refusal};

/// What such text is said to be.
pub(super) const CHARSET: &str = "unknown-8bit";

/// U+FEFF in UTF-8. It is invisible and shows the client.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Octets that are looked through for traces together, and then up to the end of the line.
const BLOCK_BYTES: usize = 64 * 1024;

/// Lines over which a name may go at the end of a block.
const SHARED_LINES: usize = 16;

/// The octets of a text without a named charset that are not UTF-8, line by line.
pub(super) struct Unknown(Vec<u8>);

impl Unknown {
    /// Whether this name of a charset names none.
    pub(super) fn is_meant(charset: Option<&str>) -> bool {
        charset.is_none_or(
            |charset| matches!(charset.trim(), name if name.is_empty() || name.eq_ignore_ascii_case(CHARSET)),
        )
    }

    /// Takes what is text in lines that SMTP carries. Each line end becomes CRLF; a byte order mark at the beginning and empty lines at
    /// the end go, as they do of other text. Nothing else changes.
    pub(super) fn read(octets: &[u8]) -> Result<Self, Refusal> {
        if octets.contains(&0) {
            return Err(Refusal::Nul);
        }
        let mut rest = octets;
        while let Some(after) = rest.strip_prefix(BYTE_ORDER_MARK) {
            rest = after;
        }
        let mut lines = Vec::with_capacity(rest.len() + 2);
        let mut end_of_text = 0;
        while !rest.is_empty() {
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            if line.len() > LINE_BYTES_MAX {
                return Err(Refusal::Charset);
            }
            lines.extend_from_slice(line);
            lines.extend_from_slice(b"\r\n");
            if !line.is_empty() {
                end_of_text = lines.len();
            }
            rest = after
                .strip_prefix(b"\r\n")
                .or_else(|| after.get(1..))
                .unwrap_or_default();
        }
        lines.truncate(end_of_text);
        // What is sealed or signed is ASCII, and to be looked through as text.
        match openpgp::has_armour_in(&lines) {
            true => Err(Refusal::Charset),
            false => Ok(Self(lines)),
        }
    }

    /// As it leaves, with its line ends.
    pub(super) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Looks for what names the user: as UTF-8 with faults in it, and with one character for each octet.
    pub(super) fn check(&self, policy: &Policy<'_>, pass: Pass) -> Result<(), Refusal> {
        if pass.traces || policy.traces.is_empty() {
            return Ok(());
        }
        let mut first = 1;
        for block in self.blocks() {
            // Either reading of all of it at once would hold several times what the message takes.
            let utf_8 = policy.traces.first_in(&String::from_utf8_lossy(block.octets));
            let found = utf_8.or_else(|| policy.traces.first_in(&latin(block.octets)));
            let Some(line) = found else {
                first += block.lines;
                continue;
            };
            let number = first + line.number - 1;
            return Err(Refusal::Trace(match line.is_quoted {
                true => Place::Quote(number),
                false => Place::Text(number),
            }));
        }
        Ok(())
    }

    /// The text in blocks of whole lines, each with the first lines of the next one behind it: a name may go over line ends.
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let length = end_of_line(rest, BLOCK_BYTES);
            let (own, after) = rest.split_at(length);
            let shared = (0..SHARED_LINES).fold(0, |end, _| end_of_line(after, end));
            let octets = &rest[..length + shared];
            rest = after;
            (!own.is_empty()).then(|| Block {
                octets,
                lines: memchr::memchr_iter(b'\n', own).count(),
            })
        })
    }
}

/// A piece of the text.
struct Block<'a> {
    octets: &'a [u8],
    /// Lines that the next block does not begin with.
    lines: usize,
}

/// The end of the line that goes on at `from`.
fn end_of_line(octets: &[u8], from: usize) -> usize {
    let rest = octets.get(from..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(octets.len(), |at| from + at + 1)
}

/// One character for each octet.
fn latin(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}
