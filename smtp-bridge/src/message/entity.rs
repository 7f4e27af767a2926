//! MIME entities: what their fields say of their body, and how a multipart is cut.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;

use super::encode;
use super::header::Header;
use super::limits::PART_COUNT_MAX;
use super::params::Structured;
use super::refusal::Refusal;
use super::text::Flowed;

/// Longest boundary that is looked for; RFC 2046 allows 70.
const BOUNDARY_LENGTH_MAX: usize = 200;

/// The Content-Type of an entity (RFC 2045 section 5).
pub(super) struct ContentType {
    /// In lower case, `type/subtype`.
    pub(super) media_type: String,
    pub(super) structured: Structured,
}

impl ContentType {
    /// The Content-Type of an entity; none, and the `text` of RFC 822 days, mean plain text.
    pub(super) fn of(header: &Header<'_>) -> Result<Self, Refusal> {
        let structured = Structured::parse(&header.one("Content-Type")?.unwrap_or_default());
        let media_type = match structured.value.as_str() {
            "" | "text" => "text/plain",
            value if value.contains('/') => value,
            _ => return Err(Refusal::Structure),
        };
        Ok(Self {
            media_type: media_type.to_owned(),
            structured,
        })
    }

    /// The boundary of a multipart; empty where there is none.
    pub(super) fn boundary(&self) -> Result<String, Refusal> {
        Ok(self.structured.param("boundary")?.unwrap_or_default())
    }

    /// Whether its text is `format=flowed`, and how.
    pub(super) fn flowed(&self) -> Result<Flowed, Refusal> {
        let is = |name: &str, value: &str| {
            self.structured
                .param(name)
                .map(|found| found.is_some_and(|found| found.eq_ignore_ascii_case(value)))
        };
        Ok(if is("format", "flowed")? {
            Some(is("delsp", "yes")?)
        } else {
            None
        })
    }
}

/// Content-Transfer-Encoding (RFC 2045 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferEncoding {
    /// 7bit, 8bit or binary.
    Identity,
    QuotedPrintable,
    Base64,
}

impl TransferEncoding {
    /// That of an entity; none means identity.
    pub(super) fn of(header: &Header<'_>) -> Result<Self, Refusal> {
        let value = header
            .one("Content-Transfer-Encoding")?
            .map(|text| Structured::parse(&text).value);
        match value.as_deref().unwrap_or_default() {
            "" | "7bit" | "8bit" | "binary" => Ok(Self::Identity),
            "quoted-printable" => Ok(Self::QuotedPrintable),
            "base64" => Ok(Self::Base64),
            _ => Err(Refusal::TransferEncoding),
        }
    }

    /// The octets behind the encoding.
    pub(super) fn decode(self, encoded: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
        let decoded = match self {
            Self::Identity => return Ok(Cow::Borrowed(encoded)),
            Self::QuotedPrintable => encode::quoted_printable_decoded(encoded),
            Self::Base64 => base64_decode(encoded),
        };
        decoded.map(Cow::Owned).ok_or(Refusal::TransferEncoding)
    }
}

/// Cuts a multipart body at its delimiter lines (RFC 2046 section 5.1.1). Preamble and epilogue are left out;
/// a missing close delimiter is common and harmless, a missing first one is not.
pub(super) fn split<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, Refusal> {
    if boundary.is_empty() || boundary.len() > BOUNDARY_LENGTH_MAX {
        return Err(Refusal::Structure);
    }
    let mut parts = Vec::new();
    let mut start = None;
    let mut position = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let next = position + line.len();
        if let Some(delimiter) = Delimiter::parse(line, boundary) {
            parts.extend(start.map(|start: usize| without_line_end(&body[start..position.max(start)])));
            start = (delimiter == Delimiter::Open).then_some(next);
            if delimiter == Delimiter::Close || parts.len() > PART_COUNT_MAX {
                break;
            }
        }
        position = next;
    }
    parts.extend(start.map(|start| &body[start..]));
    if parts.is_empty() {
        Err(Refusal::Structure)
    } else {
        Ok(parts)
    }
}

#[derive(PartialEq, Eq)]
enum Delimiter {
    Open,
    Close,
}

impl Delimiter {
    /// `"--" boundary ["--"] *WSP`
    fn parse(line: &[u8], boundary: &str) -> Option<Self> {
        let rest = line.strip_prefix(b"--")?.strip_prefix(boundary.as_bytes())?;
        match rest.trim_ascii_end() {
            b"" => Some(Self::Open),
            b"--" => Some(Self::Close),
            _ => None,
        }
    }
}

/// The line end before a delimiter belongs to the delimiter.
fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}
