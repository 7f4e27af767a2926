//! Text of a charset that nobody named: its octets leave as they are, said to be unknown (RFC 1428).

use super::limits::LINE_BYTES_MAX;
use super::openpgp;
use super::policy::{Pass, Policy};
use super::refusal::{Place, Refusal};

/// What such text is said to be.
pub(super) const CHARSET: &str = "unknown-8bit";

/// The octets of a text without a named charset that are not UTF-8, line by line.
pub(super) struct Unknown(Vec<u8>);

impl Unknown {
    /// Whether this name of a charset names none.
    pub(super) fn is_meant(charset: Option<&str>) -> bool {
        charset.is_none_or(
            |charset| matches!(charset.trim(), name if name.is_empty() || name.eq_ignore_ascii_case(CHARSET)),
        )
    }

    /// Takes what is text in lines that SMTP carries. Each line end becomes CRLF; nothing else changes.
    pub(super) fn read(octets: &[u8]) -> Result<Self, Refusal> {
        if octets.contains(&0) {
            return Err(Refusal::Nul);
        }
        let mut lines = Vec::with_capacity(octets.len() + 2);
        let mut rest = octets;
        while !rest.is_empty() {
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            if line.len() > LINE_BYTES_MAX {
                return Err(Refusal::Charset);
            }
            lines.extend_from_slice(line);
            lines.extend_from_slice(b"\r\n");
            rest = after
                .strip_prefix(b"\r\n")
                .or_else(|| after.get(1..))
                .unwrap_or_default();
        }
        let unknown = Self(lines);
        // What is sealed or signed is ASCII, and to be looked through as text.
        match openpgp::has_armour(&unknown.as_latin()) {
            true => Err(Refusal::Charset),
            false => Ok(unknown),
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
        let found = policy.traces.first_in(&String::from_utf8_lossy(&self.0));
        let Some(line) = found.or_else(|| policy.traces.first_in(&self.as_latin())) else {
            return Ok(());
        };
        Err(Refusal::Trace(match line.is_quoted {
            true => Place::Quote(line.number),
            false => Place::Text(line.number),
        }))
    }

    fn as_latin(&self) -> String {
        self.0.iter().copied().map(char::from).collect()
    }
}
