//! The one writer of messages: order and spelling of fields, folding, structure, line ends.

use mail_parser::DateTime;

use super::address::{Mailbox, is_phrase, quote};
use super::encode;
use super::envelope::{Envelope, own_mailbox};
use super::limits::REBUILT_HEADER_BYTES_MAX;
use super::params::file_name_lines;
use super::parts::{Attachment, Content, image_id};
use super::policy::{Policy, Stage};
use super::refusal::Refusal;
use super::text::Text;
use super::unknown;
use super::words;

/// The boundaries of the multiparts we write. `=_` cannot stand in quoted-printable or base64, and text that has one of them
/// is not sent as 7bit: so constants do, and show nothing. None begins with another.
pub(super) const BOUNDARY: &str = "=_part";
const ALTERNATIVE_BOUNDARY: &str = "=_alternative";
const RELATED_BOUNDARY: &str = "=_related";
pub(super) const SIGNED_BOUNDARY: &str = "=_signed";
pub(super) const BOUNDARIES: &[&str] = &[BOUNDARY, ALTERNATIVE_BOUNDARY, RELATED_BOUNDARY, SIGNED_BOUNDARY];

/// Where folded lines end.
const LINE_MAX: usize = 76;

/// Longest word that is left to plain folding.
const WORD_MAX: usize = 64;

/// Longest display name that is written without encoded words.
const PLAIN_NAME_MAX: usize = 60;

/// The last second of the year 9999, the last that a Date field can name.
const DATE_MAX: u64 = 253_402_300_799;

/// Header lines of one attachment at most, apart from its file name.
const PART_LINES_BYTES: usize = 300;

/// Writes the message that leaves.
pub(super) fn message(envelope: &Envelope, content: &Content<'_>, policy: &Policy<'_>) -> Result<Vec<u8>, Refusal> {
    let mut out = Writer::default();
    let mut exit_lines = 0;
    if let Stage::Exit {
        message_id_local,
        domain,
        date,
    } = &policy.stage
    {
        out.origin(message_id_local, domain, *date);
        exit_lines = out.bytes.len();
    }
    out.mailboxes("From", &[own_mailbox(policy)]);
    out.mailboxes("To", &envelope.to);
    out.mailboxes("Cc", &envelope.cc);
    out.text_field("Subject", &envelope.subject);
    out.message_ids("In-Reply-To", &envelope.in_reply_to);
    out.message_ids("References", &envelope.references);
    if out.bytes.len() - exit_lines > REBUILT_HEADER_BYTES_MAX {
        return Err(Refusal::HeaderTooLarge);
    }
    let length_max = policy.largest + exit_lines;
    out.bytes.reserve_exact(body_length_max(content).min(length_max));
    out.body(content, length_max)?;
    Ok(out.bytes)
}

/// Upper bound of the body's size in the usual case: growing by doubling would hold the message several times.
fn body_length_max(content: &Content<'_>) -> usize {
    let files = content.images.iter().chain(&content.attachments).map(|file| {
        let name = file.name.as_ref().map_or(0, String::len);
        PART_LINES_BYTES + 4 * name + encode::base64_lines_length(file.bytes_max())
    });
    let html = content
        .html
        .as_ref()
        .map_or(0, |html| 3 * PART_LINES_BYTES + html.encoded_length());
    let signed = content
        .signed
        .as_ref()
        .map_or(0, |signed| 64 * 1_024 + signed.part.len());
    let unknown = content.unknown.as_ref().map_or(0, |unknown| unknown.octets().len());
    PART_LINES_BYTES + content.text.encoded_length() + unknown + html + signed + files.sum::<usize>()
}

fn date_line(date: u64) -> String {
    let date = DateTime::from_timestamp(date.min(DATE_MAX).cast_signed()).to_rfc822();
    format!("Date: {date}")
}

/// Gives a rebuilt message another date: what waited in a pool must not tell when it came.
pub fn redate(message: &mut Vec<u8>, date: u64) {
    let mut at = 0;
    while let Some(length) = message[at..].windows(2).position(|pair| pair == b"\r\n") {
        let line = &message[at..at + length];
        if line.is_empty() {
            return;
        }
        if line.starts_with(b"Date: ") {
            drop(message.splice(at..at + length, date_line(date).into_bytes()));
            return;
        }
        at += length + 2;
    }
}

/// A message being written.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    /// Date and Message-ID.
    pub(super) fn origin(&mut self, message_id_local: &str, domain: &str, date: u64) {
        self.line(&date_line(date));
        self.line(&format!("Message-ID: <{message_id_local}@{domain}>"));
    }

    /// A line as it is, and its end.
    pub(super) fn line(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A field whose tokens are parted by spaces, folded where the line would grow too long; nothing when there are none.
    pub(super) fn field<T: AsRef<str>>(&mut self, name: &str, tokens: impl IntoIterator<Item = T>) {
        let mut width = 0;
        for token in tokens {
            let token = token.as_ref();
            if width == 0 {
                self.bytes.extend_from_slice(name.as_bytes());
                self.bytes.push(b':');
                width = name.len() + 1;
            } else if width + 1 + token.len() > LINE_MAX {
                self.bytes.extend_from_slice(b"\r\n");
                width = 0;
            }
            self.bytes.push(b' ');
            self.bytes.extend_from_slice(token.as_bytes());
            width += 1 + token.len();
        }
        if width > 0 {
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    /// A field of collapsed text.
    pub(super) fn text_field(&mut self, name: &str, text: &str) {
        let folds = text.split(' ').all(|word| word.len() <= WORD_MAX);
        match words::is_plain(text) && folds {
            true => self.field(name, text.split(' ').filter(|word| !word.is_empty())),
            false => self.field(name, words::encode(text)),
        }
    }

    /// A field of mailboxes.
    pub(super) fn mailboxes(&mut self, name: &str, mailboxes: &[Mailbox]) {
        let mut tokens = Vec::new();
        for (at, mailbox) in mailboxes.iter().enumerate() {
            tokens.extend(name_tokens(&mailbox.name));
            let comma = if at + 1 < mailboxes.len() { "," } else { "" };
            let address = mailbox.address.as_str();
            tokens.push(if mailbox.name.is_empty() {
                format!("{address}{comma}")
            } else {
                format!("<{address}>{comma}")
            });
        }
        self.field(name, tokens);
    }

    /// A field of message identifiers; nothing when there are none.
    pub(super) fn message_ids(&mut self, name: &str, ids: &[String]) {
        self.field(name, ids.iter().map(|id| format!("<{id}>")));
    }

    /// The rest of the header and the body: one text, or a mixed multipart of the text, unless it is empty, and the attachments.
    fn body(&mut self, content: &Content<'_>, length_max: usize) -> Result<(), Refusal> {
        self.line("MIME-Version: 1.0");
        if let Some(signed) = &content.signed {
            signed.write(self);
            return self.within(length_max);
        }
        if let Some(unknown) = &content.unknown {
            self.line(&format!("Content-Type: text/plain; charset={}", unknown::CHARSET));
            self.line("Content-Transfer-Encoding: 8bit");
            self.line("");
            self.bytes.extend_from_slice(unknown.octets());
            return self.within(length_max);
        }
        if content.attachments.is_empty() {
            return self.text(content, length_max);
        }
        self.open_multipart("multipart/mixed", BOUNDARY);
        if !content.text.is_empty() || content.html.is_some() {
            self.delimiter(BOUNDARY);
            self.text(content, length_max)?;
        }
        for attachment in &content.attachments {
            self.delimiter(BOUNDARY);
            self.file(attachment, None)?;
            self.within(length_max)?;
        }
        self.close_multipart(BOUNDARY);
        self.within(length_max)
    }

    /// What is to be read: plain text, and beside it HTML if there is any.
    fn text(&mut self, content: &Content<'_>, length_max: usize) -> Result<(), Refusal> {
        match &content.html {
            None => self.text_part("text/plain", &content.text, length_max),
            Some(html) if content.text.is_empty() => self.html(html, &content.images, length_max),
            Some(html) => {
                self.open_multipart("multipart/alternative", ALTERNATIVE_BOUNDARY);
                self.delimiter(ALTERNATIVE_BOUNDARY);
                self.text_part("text/plain", &content.text, length_max)?;
                self.delimiter(ALTERNATIVE_BOUNDARY);
                self.html(html, &content.images, length_max)?;
                self.close_multipart(ALTERNATIVE_BOUNDARY);
                self.within(length_max)
            }
        }
    }

    /// HTML with the pictures that it shows (RFC 2387).
    fn html(&mut self, html: &Text, images: &[Attachment<'_>], length_max: usize) -> Result<(), Refusal> {
        if images.is_empty() {
            return self.text_part("text/html", html, length_max);
        }
        self.open_multipart("multipart/related; type=\"text/html\"", RELATED_BOUNDARY);
        self.delimiter(RELATED_BOUNDARY);
        self.text_part("text/html", html, length_max)?;
        for (image, number) in images.iter().zip(1..) {
            self.delimiter(RELATED_BOUNDARY);
            self.file(image, Some(number))?;
            self.within(length_max)?;
        }
        self.close_multipart(RELATED_BOUNDARY);
        self.within(length_max)
    }

    fn within(&self, length_max: usize) -> Result<(), Refusal> {
        if self.bytes.len() > length_max {
            Err(Refusal::TooLarge)
        } else {
            Ok(())
        }
    }

    /// Ends the header with the Content-Type of a multipart; the parameters as they are.
    pub(super) fn open_multipart(&mut self, content_type: &str, boundary: &str) {
        self.line(&format!("Content-Type: {content_type}; boundary=\"{boundary}\""));
        self.line("");
    }

    /// Begins a part.
    pub(super) fn delimiter(&mut self, boundary: &str) {
        self.line(&format!("--{boundary}"));
    }

    /// Ends a multipart.
    pub(super) fn close_multipart(&mut self, boundary: &str) {
        self.line(&format!("--{boundary}--"));
    }

    /// A text with its MIME fields.
    pub(super) fn text_part(&mut self, media_type: &str, text: &Text, length_max: usize) -> Result<(), Refusal> {
        self.line(&format!("Content-Type: {media_type}; charset=utf-8"));
        self.line(&format!("Content-Transfer-Encoding: {}", text.transfer_encoding()));
        self.line("");
        text.encode(&mut self.bytes, length_max)
    }

    /// A file with its MIME fields, attached or shown as a picture of this number. The charset of a text file is told only when it is certain: the bytes stay as they are.
    fn file(&mut self, file: &Attachment<'_>, number: Option<usize>) -> Result<(), Refusal> {
        let bytes = file.bytes()?;
        let is_utf8 = file.media_type.starts_with("text/") && std::str::from_utf8(&bytes).is_ok();
        let charset = if is_utf8 { "; charset=utf-8" } else { "" };
        self.line(&format!("Content-Type: {}{charset}", file.media_type));
        self.line("Content-Transfer-Encoding: base64");
        if let Some(number) = number {
            self.line(&format!("Content-ID: <{}>", image_id(number)));
        }
        let shown = if number.is_some() { "inline" } else { "attachment" };
        let mut disposition = format!("Content-Disposition: {shown}");
        for line in file.name.as_deref().map(file_name_lines).unwrap_or_default() {
            disposition += ";\r\n ";
            disposition += &line;
        }
        self.line(&disposition);
        self.line("");
        encode::base64_lines(&bytes, &mut self.bytes);
        Ok(())
    }
}

/// A display name as tokens: bare, quoted or encoded, in that order of preference.
fn name_tokens(name: &str) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    let is_short = words::is_plain(name) && name.len() <= PLAIN_NAME_MAX;
    match quote(name).filter(|_| is_short) {
        Some(_) if is_phrase(name) => vec![name.to_owned()],
        Some(quoted) => vec![quoted],
        None => words::encode(name).collect(),
    }
}
