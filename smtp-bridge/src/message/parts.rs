//! The MIME structure of a message, flattened into one text and a list of attachments.

use std::borrow::Cow;

use super::attachment::{check_name, check_type, file_name, is_signature, media_type};
use super::entity::{ContentType, TransferEncoding, split};
use super::header::{self, Header, Headless};
use super::limits::{DEPTH_MAX, PART_COUNT_MAX, PART_HEADER_BYTES_MAX};
use super::openpgp::{self, Finding};
use super::params::Structured;
use super::policy::{Pass, Policy, Stage};
use super::refusal::{Place, Refusal};
use super::signed::Signed;
use super::text::{Flowed, Text};
use super::traces::Traces;
use super::unknown::Unknown;
use super::{Warning, charset, html, within};

/// How TNEF begins (MS-OXTNEF section 2.1.3.1), Outlook's own container: it comes with other types as well.
const TNEF: [u8; 4] = 0x223e_9f78_u32.to_le_bytes();

/// Pictures that are shown inside HTML. Others can hold scripts and links of their own.
const SHOWN_TYPES: &[&str] = &["image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"];

/// What a message says, apart from its header.
#[derive(Default)]
pub(super) struct Content<'a> {
    pub(super) text: Text,
    /// The same once more as HTML, written anew.
    pub(super) html: Option<Text>,
    /// Pictures that the HTML shows; it names them by their place here, from 1.
    pub(super) images: Vec<Attachment<'a>>,
    pub(super) attachments: Vec<Attachment<'a>>,
    /// Instead of all that: a text that stays as it is, as nobody said in which charset it is written.
    pub(super) unknown: Option<Unknown>,
    /// Or one that does as it is signed.
    pub(super) signed: Option<Signed>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Content<'a> {
    /// Reads the body of a message with this header.
    pub(super) fn read(header: &Header<'_>, body: &'a [u8], policy: &Policy<'_>, pass: Pass) -> Result<Self, Refusal> {
        let mut walk = Walk {
            parts: 0,
            pass,
            keeps_html: policy.keeps_html(),
        };
        let content_type = ContentType::of(header)?;
        if content_type.media_type != "multipart/signed" || !pass.signed {
            let flat = walk.entity(header, body, 0)?;
            let mut content = Self::gather(flat, policy.largest)?;
            content.check(policy, pass)?;
            return Ok(content);
        }
        if TransferEncoding::of(header)? != TransferEncoding::Identity {
            return Err(Refusal::TransferEncoding);
        }
        let parts = split(body, &content_type.boundary()?)?;
        let signed = Signed::read(content_type.structured.param("micalg")?.as_deref(), &parts)?;
        // What is inside leaves as it is: it is looked through all the same.
        let (part_header, part_body) = header::split(&signed.part, PART_HEADER_BYTES_MAX, Headless::Refuse)?;
        let flat = walk.entity(&part_header, part_body, 1)?;
        let mut inside = Content::gather(flat, policy.largest)?;
        if inside.unknown.is_some() {
            return Err(Refusal::Charset);
        }
        inside.check(policy, pass)?;
        if !pass.traces && !policy.traces.is_empty() {
            let is_bare = policy.traces.are_in(&String::from_utf8_lossy(&signed.part));
            if is_bare || within::are_in_entity(policy.traces, &signed.part, 1)? {
                return Err(Refusal::Trace(Place::Signed));
            }
            if signed.is_signature_with(policy.traces) {
                return Err(Refusal::Trace(Place::Signature));
            }
        }
        inside.warn(Warning::SignaturePassed);
        Ok(Self {
            warnings: inside.warnings,
            signed: Some(signed),
            ..Self::default()
        })
    }

    /// Text and HTML of the pieces, and what is attached to them. Text beyond `text_length_max` is refused.
    fn gather(flat: Flat<'a>, text_length_max: usize) -> Result<Self, Refusal> {
        if let Some(unknown) = flat.unknown()? {
            return Ok(Self {
                unknown: Some(unknown),
                warnings: vec![Warning::UnknownCharset],
                ..Self::default()
            });
        }
        let mut content = Self {
            attachments: flat.attachments,
            ..Self::default()
        };
        let document = Document::of(&flat.htmls, &content.attachments, text_length_max)?;
        if let Some(document) = &document
            && flat.texts.iter().any(|piece| piece.is_html)
        {
            content.text.add(&document.text, None)?;
        } else {
            for piece in flat.texts {
                let text = piece.text()?;
                match piece.is_html {
                    false => content.text.add(&text, piece.flowed)?,
                    true => {
                        let text = html::to_text(&text, text_length_max).ok_or(Refusal::TooLarge)?;
                        content.text.add(&text, None)?;
                        content.warn(Warning::HtmlConverted);
                    }
                }
                if content.text.length() > text_length_max {
                    return Err(Refusal::TooLarge);
                }
            }
        }
        content.text.drop_armour_headers();
        // Armour is text: what stands beside it as HTML adds nothing but what was not looked through.
        let shows_armour = |document: &Document| content.text.has_armour() || openpgp::has_armour(&document.text);
        if let Some(document) = document.filter(|document| !shows_armour(document)) {
            let mut html = Text::default();
            html.add(&document.html, None)?;
            content.html = Some(html);
            content.take_images(&document.images);
        }
        Ok(content)
    }

    /// Moves the pictures at these places among the attachments to where the HTML shows them.
    fn take_images(&mut self, places: &[usize]) {
        let mut attachments: Vec<Option<Attachment<'a>>> = self.attachments.drain(..).map(Some).collect();
        let images = places.iter().filter_map(|place| attachments[*place].take());
        self.images = images.collect();
        self.attachments = attachments.into_iter().flatten().collect();
    }

    /// Looks for what names the user. The bridge alone does, as what the user lets through is told to nobody else.
    fn check(&mut self, policy: &Policy<'_>, pass: Pass) -> Result<(), Refusal> {
        if policy.stage != Stage::Bridge {
            return Ok(());
        }
        if let Some(unknown) = &self.unknown {
            return unknown.check(policy, pass);
        }
        let mut found = openpgp::in_text(self.text.as_str(), &policy.sender);
        if self.text.has_armour() {
            self.warn(Warning::OpenPgpInText);
        }
        for file in self.images.iter().chain(&self.attachments) {
            if file.may_hold_openpgp() {
                let bytes = file.bytes()?;
                found = found.max(openpgp::in_file(
                    &bytes,
                    &file.media_type,
                    file.name.as_deref(),
                    &policy.sender,
                ));
            }
        }
        match found {
            Finding::Identity => return Err(Refusal::Identity),
            Finding::Signature if !pass.signed => return Err(Refusal::Signed),
            Finding::Signature => self.warn(Warning::SignaturePassed),
            Finding::Harmless | Finding::Nothing => {}
        }
        match pass.traces || policy.traces.is_empty() {
            true => Ok(()),
            false => self.check_traces(policy.traces),
        }
    }

    fn check_traces(&self, traces: &Traces) -> Result<(), Refusal> {
        if let Some(line) = traces.first_in(self.text.as_str()) {
            return Err(Refusal::Trace(match line.is_quoted {
                true => Place::Quote(line.number),
                false => Place::Text(line.number),
            }));
        }
        if self.html.as_ref().is_some_and(|html| traces.are_in_html(html.as_str())) {
            return Err(Refusal::Trace(Place::Html));
        }
        for (file, number) in self.images.iter().chain(&self.attachments).zip(1..) {
            if file.name.as_deref().is_some_and(|name| traces.are_in(name)) {
                return Err(Refusal::Trace(Place::FileName(number)));
            }
            if let Some(octets) = file.signature()?
                && traces.are_in_octets(&octets)
            {
                return Err(Refusal::Trace(Place::File(number)));
            }
            if file.media_type.starts_with("text/") && traces.are_in(&String::from_utf8_lossy(&file.bytes()?)) {
                return Err(Refusal::Trace(Place::File(number)));
            }
        }
        Ok(())
    }

    fn warn(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// The HTML of a message, written anew.
struct Document {
    html: String,
    /// Its words.
    text: String,
    /// Places of the pictures it shows, in the order in which it names them.
    images: Vec<usize>,
}

impl Document {
    /// None where no piece is HTML, or none says anything.
    fn of(pieces: &[Piece<'_>], attachments: &[Attachment<'_>], length_max: usize) -> Result<Option<Self>, Refusal> {
        if !pieces.iter().any(|piece| piece.is_html) {
            return Ok(None);
        }
        let mut images: Vec<usize> = Vec::new();
        let mut html = String::new();
        for piece in pieces {
            let text = piece.text()?;
            if !piece.is_html {
                let mut plain = Text::default();
                plain.add(&text, piece.flowed)?;
                html.push_str(&html::of_text(plain.as_str()));
                continue;
            }
            let mut image = |content_id: &str| {
                let is_it = |file: &Attachment<'_>| {
                    file.content_id.as_deref() == Some(content_id) && SHOWN_TYPES.contains(&file.media_type.as_str())
                };
                let place = attachments.iter().position(is_it)?;
                let number = images.iter().position(|known| *known == place).unwrap_or_else(|| {
                    images.push(place);
                    images.len() - 1
                });
                Some(image_id(number + 1))
            };
            html.push_str(&html::clean(&text, &mut image, length_max).ok_or(Refusal::TooLarge)?);
            if html.len() > length_max {
                return Err(Refusal::TooLarge);
            }
        }
        if pieces.len() > 1 {
            // Where pieces meet, white space is decided upon once more.
            html = html::clean(&html, &mut |id| Some(id.to_owned()), length_max).ok_or(Refusal::TooLarge)?;
        }
        let text = html::to_text(&html, length_max).ok_or(Refusal::TooLarge)?;
        let is_blank = text.trim().is_empty() && images.is_empty();
        Ok((!is_blank).then_some(Self { html, text, images }))
    }
}

/// What HTML names its pictures by: their number in the message, which says nothing else.
pub(super) fn image_id(number: usize) -> String {
    format!("image.{number}@part")
}

/// A file, its bytes still in the transfer encoding of the client.
pub(super) struct Attachment<'a> {
    pub(super) media_type: String,
    pub(super) name: Option<String>,
    /// What the client's HTML names it by.
    content_id: Option<String>,
    encoding: TransferEncoding,
    encoded: &'a [u8],
}

impl Attachment<'_> {
    /// The file's bytes. Lines that travelled as lines end with LF: which line end the file had is lost on the way in any case,
    /// and base64 carries it exactly. An armour loses the lines that name the program.
    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>, Refusal> {
        let bytes = match self.encoding {
            TransferEncoding::Identity if self.encoded.contains(&b'\r') => Cow::Owned(with_line_feeds(self.encoded)),
            encoding => encoding.decode(self.encoded)?,
        };
        if bytes.starts_with(&TNEF) {
            return Err(Refusal::MediaType);
        }
        if self.may_hold_openpgp()
            && let Ok(text) = std::str::from_utf8(&bytes)
            && let Some(kept) = openpgp::without_armour_headers(text)
        {
            return Ok(Cow::Owned(kept.into_bytes()));
        }
        Ok(bytes)
    }

    /// Whether its type or its name says that a key, a signature or an armour may be in it.
    fn may_hold_openpgp(&self) -> bool {
        openpgp::may_be_in(&self.media_type, self.name.as_deref())
    }

    /// The octets of a signature, if its type or its name says that it is one.
    fn signature(&self) -> Result<Option<Vec<u8>>, Refusal> {
        if !is_signature(&self.media_type, self.name.as_deref()) {
            return Ok(None);
        }
        let bytes = self.bytes()?;
        let armoured = std::str::from_utf8(&bytes).ok().and_then(openpgp::detached_signature);
        Ok(Some(armoured.unwrap_or_else(|| bytes.into_owned())))
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
#[derive(Clone)]
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
    /// The same as HTML where there is HTML, if that is asked for.
    htmls: Vec<Piece<'a>>,
    attachments: Vec<Attachment<'a>>,
}

impl Flat<'_> {
    /// The octets of a message that is one plain text, if no charset is named and they are not UTF-8. Beside other parts
    /// such text is refused: a multipart would have to say of itself what is in it.
    fn unknown(&self) -> Result<Option<Unknown>, Refusal> {
        let [piece] = self.texts.as_slice() else {
            return Ok(None);
        };
        let is_alone = self.attachments.is_empty() && !self.htmls.iter().any(|piece| piece.is_html);
        let is_bare = !piece.is_html && piece.flowed.is_none() && Unknown::is_meant(piece.charset.as_deref());
        if !is_alone || !is_bare {
            return Ok(None);
        }
        let octets = piece.encoding.decode(piece.encoded)?;
        match std::str::from_utf8(&octets) {
            Ok(_) => Ok(None),
            Err(_) => Unknown::read(&octets).map(Some),
        }
    }

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
    pass: Pass,
    keeps_html: bool,
}

impl Walk {
    fn entity<'a>(&mut self, header: &Header<'_>, body: &'a [u8], depth: usize) -> Result<Flat<'a>, Refusal> {
        let content_type = ContentType::of(header)?;
        check_type(&content_type.media_type, self.pass)?;
        let encoding = TransferEncoding::of(header)?;
        if !content_type.media_type.starts_with("multipart/") {
            let mut flat = leaf(header, content_type, encoding, body, self.pass)?;
            if self.keeps_html {
                flat.htmls.clone_from(&flat.texts);
            }
            return Ok(flat);
        }
        if encoding != TransferEncoding::Identity {
            return Err(Refusal::TransferEncoding);
        }
        if depth == DEPTH_MAX {
            return Err(Refusal::TooDeep);
        }
        let mut children = Vec::new();
        for part in split(body, &content_type.boundary()?)? {
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
        flat.htmls.extend(child.htmls);
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
    let rich = children
        .iter()
        .rposition(|child| child.htmls.iter().any(|piece| piece.is_html))
        .or(chosen);
    let texts = chosen
        .map(|chosen| std::mem::take(&mut children[chosen].texts))
        .unwrap_or_default();
    let htmls = rich
        .map(|rich| std::mem::take(&mut children[rich].htmls))
        .unwrap_or_default();
    Flat {
        texts,
        htmls,
        attachments: children.into_iter().flat_map(|child| child.attachments).collect(),
    }
}

/// A part that holds no others: text of the body, or a file.
fn leaf<'a>(
    header: &Header<'_>,
    content_type: ContentType,
    encoding: TransferEncoding,
    encoded: &'a [u8],
    pass: Pass,
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
    check_name(name.as_deref(), pass)?;
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
                content_id: content_id(header),
                encoding,
                encoded,
            });
        }
    }
    Ok(flat)
}

/// What stands between the angle brackets of Content-ID.
fn content_id(header: &Header<'_>) -> Option<String> {
    let text = header.all("Content-ID").next()?.ok()?;
    let (_, bracketed) = text.split_once('<')?;
    let (id, _) = bracketed.split_once('>')?;
    Some(id.trim().to_owned())
}
