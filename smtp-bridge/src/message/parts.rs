//! The MIME structure of a message, flattened into one text and a list of attachments.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;

use super::attachment::{check_type, file_name, media_type};
use super::header::{self, Header, Headless};
use super::limits::{DEPTH_MAX, PART_COUNT_MAX, PART_HEADER_BYTES_MAX};
use super::params::Structured;
use super::refusal::Refusal;
use super::text::{Flowed, Text};
use super::{Warning, charset, encode, html};

/// Longest boundary that is looked for; RFC 2046 allows 70.
const BOUNDARY_LENGTH_MAX: usize = 200;

/// What a message says, apart from its header.
pub(super) struct Content<'a> {
    pub(super) text: Text,
    pub(super) attachments: Vec<Attachment<'a>>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Content<'a> {
    /// Reads the body of a message with this header. Text beyond `text_length_max` is refused.
    pub(super) fn read(header: &Header<'_>, body: &'a [u8], text_length_max: usize) -> Result<Self, Refusal> {
        let mut walk = Walk { parts: 0 };
        let flat = walk.entity(header, body, 0)?;
        let mut content = Content {
            text: Text::default(),
            attachments: flat.attachments,
            warnings: Vec::new(),
        };
        for piece in flat.texts {
            let text = piece.text()?;
            match piece.is_html {
                false => content.text.add(&text, piece.flowed)?,
                true => {
                    content
                        .text
                        .add(&html::to_text(&text, text_length_max).ok_or(Refusal::TooLarge)?, None)?;
                    content.warn(Warning::HtmlConverted);
                }
            }
            if content.text.length() > text_length_max {
                return Err(Refusal::TooLarge);
            }
        }
        if content.text.has_armour() {
            content.warn(Warning::OpenPgpInText);
        }
        Ok(content)
    }

    fn warn(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// A file, its bytes still in the transfer encoding of the client.
pub(super) struct Attachment<'a> {
    pub(super) media_type: String,
    pub(super) name: Option<String>,
    encoding: TransferEncoding,
    encoded: &'a [u8],
}

impl Attachment<'_> {
    /// The file's bytes. Lines that travelled as lines end with LF: which line end the file had is lost on the way in any case,
    /// and base64 carries it exactly.
    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>, Refusal> {
        match self.encoding {
            TransferEncoding::Identity if self.encoded.contains(&b'\r') => {
                Ok(Cow::Owned(with_line_feeds(self.encoded)))
            }
            encoding => encoding.decode(self.encoded),
        }
    }

    /// Upper bound of the number of bytes.
    pub(super) fn bytes_max(&self) -> usize {
        match self.encoding {
            TransferEncoding::Base64 => self.encoded.len().div_ceil(4) * 3,
            TransferEncoding::Identity | TransferEncoding::QuotedPrintable => self.encoded.len(),
        }
    }
}

fn with_line_feeds(bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(content) => {
                lines.extend_from_slice(content);
                lines.push(b'\n');
            }
            None => lines.extend_from_slice(line),
        }
    }
    lines
}

/// Text that belongs to the body, not yet decoded: an alternative that is not chosen never is.
struct Piece<'a> {
    is_html: bool,
    charset: Option<String>,
    flowed: Flowed,
    encoding: TransferEncoding,
    encoded: &'a [u8],
}

impl Piece<'_> {
    fn text(&self) -> Result<Cow<'_, str>, Refusal> {
        match self.encoding.decode(self.encoded)? {
            Cow::Borrowed(bytes) => charset::decode(bytes, self.charset.as_deref()),
            Cow::Owned(bytes) => {
                charset::decode(&bytes, self.charset.as_deref()).map(|text| Cow::Owned(text.into_owned()))
            }
        }
    }
}

/// A subtree without its structure.
#[derive(Default)]
struct Flat<'a> {
    texts: Vec<Piece<'a>>,
    attachments: Vec<Attachment<'a>>,
}

impl Flat<'_> {
    /// Whether there is text to choose in it that is not HTML. A blank plain part beside HTML is a client's placeholder.
    fn has_plain_text(&self) -> bool {
        !self.texts.is_empty()
            && self
                .texts
                .iter()
                .all(|piece| !piece.is_html && !piece.encoded.trim_ascii().is_empty())
    }
}

struct Walk {
    parts: usize,
}

impl Walk {
    fn entity<'a>(&mut self, header: &Header<'_>, body: &'a [u8], depth: usize) -> Result<Flat<'a>, Refusal> {
        let content_type = ContentType::of(header)?;
        check_type(&content_type.media_type)?;
        let encoding = TransferEncoding::of(header)?;
        if !content_type.media_type.starts_with("multipart/") {
            return leaf(header, content_type, encoding, body);
        }
        if encoding != TransferEncoding::Identity {
            return Err(Refusal::TransferEncoding);
        }
        if depth == DEPTH_MAX {
            return Err(Refusal::TooDeep);
        }
        let boundary = content_type.structured.param("boundary")?.unwrap_or_default();
        let mut children = Vec::new();
        for part in split(body, &boundary)? {
            self.parts += 1;
            if self.parts > PART_COUNT_MAX {
                return Err(Refusal::TooManyParts);
            }
            let (header, body) = header::split(part, PART_HEADER_BYTES_MAX, Headless::Refuse)?;
            children.push(self.entity(&header, body, depth + 1)?);
        }
        Ok(match content_type.media_type.as_str() {
            "multipart/alternative" => alternative(children),
            _ => all(children),
        })
    }
}

/// All parts, one after the other.
fn all(children: Vec<Flat<'_>>) -> Flat<'_> {
    let mut flat = Flat::default();
    for child in children {
        flat.texts.extend(child.texts);
        flat.attachments.extend(child.attachments);
    }
    flat
}

/// One text, plain if there is one, and the attachments of every alternative: some clients put files beside the HTML only.
fn alternative(mut children: Vec<Flat<'_>>) -> Flat<'_> {
    let chosen = children
        .iter()
        .position(Flat::has_plain_text)
        .or_else(|| {
            children
                .iter()
                .rposition(|child| child.texts.iter().any(|piece| piece.is_html))
        })
        .or_else(|| children.iter().position(|child| !child.texts.is_empty()));
    let texts = chosen
        .map(|chosen| std::mem::take(&mut children[chosen].texts))
        .unwrap_or_default();
    Flat {
        texts,
        attachments: children.into_iter().flat_map(|child| child.attachments).collect(),
    }
}

/// A part that holds no others: text of the body, or a file.
fn leaf<'a>(
    header: &Header<'_>,
    content_type: ContentType,
    encoding: TransferEncoding,
    encoded: &'a [u8],
) -> Result<Flat<'a>, Refusal> {
    let disposition = header.one("Content-Disposition")?.map(|text| Structured::parse(&text));
    let is_attached = disposition
        .as_ref()
        .is_some_and(|disposition| disposition.value != "inline");
    let name = match disposition
        .map(|disposition| disposition.param("filename"))
        .transpose()?
        .flatten()
    {
        Some(name) => Some(name),
        None => content_type.structured.param("name")?,
    };
    let name = name.as_deref().and_then(file_name);
    let mut flat = Flat::default();
    match content_type.media_type.as_str() {
        text @ ("text/plain" | "text/html") if !is_attached && name.is_none() => flat.texts.push(Piece {
            is_html: text == "text/html",
            charset: content_type.structured.param("charset")?,
            flowed: content_type.flowed()?,
            encoding,
            encoded,
        }),
        claimed => {
            let media_type = media_type(claimed, name.as_deref());
            flat.attachments.push(Attachment {
                media_type,
                name,
                encoding,
                encoded,
            });
        }
    }
    Ok(flat)
}

struct ContentType {
    media_type: String,
    structured: Structured,
}

impl ContentType {
    /// The Content-Type of an entity; none, and the `text` of RFC 822 days, mean plain text.
    fn of(header: &Header<'_>) -> Result<Self, Refusal> {
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

    fn flowed(&self) -> Result<Flowed, Refusal> {
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
enum TransferEncoding {
    /// 7bit, 8bit or binary.
    Identity,
    QuotedPrintable,
    Base64,
}

impl TransferEncoding {
    fn of(header: &Header<'_>) -> Result<Self, Refusal> {
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

    fn decode(self, encoded: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
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
fn split<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, Refusal> {
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
