//! What a part of a message is, for whoever looks for one kind of part and reads nothing else.

use super::header::{self, Headless};
use super::limits;
use super::params::Structured;

/// Type and encoding of a part, all in lower case but the boundary.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Media {
    /// `type/subtype` (RFC 2045 section 5.1).
    pub kind: String,
    /// Of a multipart.
    pub boundary: Option<String>,
    /// Of a file, as either field has it.
    pub file_name: Option<String>,
    /// Content-Transfer-Encoding (RFC 2045 section 6), `7bit` where none is said.
    pub encoding: String,
}

/// Reads a header with the empty line behind it. `None`: it is none, or says contradictory things.
pub fn media(raw: &[u8]) -> Option<Media> {
    let (header, _) = header::split(raw, limits::HEADER_BYTES_MAX, Headless::AllBody).ok()?;
    let field = |name| {
        header
            .one(name)
            .ok()
            .map(|text| text.map(|text| Structured::parse(&text)))
    };
    let (content, disposition) = (field("Content-Type")?, field("Content-Disposition")?);
    let param = |of: &Option<Structured>, name| of.as_ref().and_then(|of| of.param(name).ok().flatten());
    let file_name = param(&disposition, "filename").or_else(|| param(&content, "name"));
    Some(Media {
        boundary: param(&content, "boundary"),
        file_name: file_name.map(|name| name.to_ascii_lowercase()),
        kind: content.map_or_else(|| "text/plain".to_owned(), |content| content.value),
        encoding: field("Content-Transfer-Encoding")?.map_or_else(|| "7bit".to_owned(), |encoding| encoding.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_its_fields_say() {
        let read = media(
            b"Subject: x\r\nContent-Type: Multipart/Mixed;\r\n boundary=\"a=_b\"\r\nContent-Transfer-Encoding: BASE64\r\n\
              Content-Disposition: attachment; filename=\"Mail.Parcel\"\r\n\r\n",
        );
        let expected = Media {
            kind: "multipart/mixed".to_owned(),
            boundary: Some("a=_b".to_owned()),
            file_name: Some("mail.parcel".to_owned()),
            encoding: "base64".to_owned(),
        };
        assert_eq!(read, Some(expected));
        let plain = media(b"\r\n").expect("a header without fields");
        assert_eq!((&plain.kind[..], &plain.encoding[..]), ("text/plain", "7bit"));
    }
}
