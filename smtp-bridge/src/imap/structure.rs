//! BODY and BODYSTRUCTURE (RFC 3501 section 7.4.2).

use super::envelope::put_envelope;
use super::header::{self, Parameterised};
use super::mime::{Content, Part};
use super::output::Output;

/// Languages of a part that are named.
const LANGUAGES_MAX: usize = 100;

/// Writes the structure of a part. `extended`: BODYSTRUCTURE, else BODY.
pub(super) fn put_structure(part: &Part, text: &[u8], extended: bool, out: &mut Output) {
    let header = &text[part.header.clone()];
    let content_type = header::value(header, "Content-Type")
        .map(Parameterised::parse)
        .unwrap_or_default();
    out.put(b"(");
    if let Content::Multipart(parts) = &part.content {
        for inner in parts {
            put_structure(inner, text, extended, out);
        }
        if parts.is_empty() {
            // The grammar wants at least one.
            out.put(b"(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 0 0)");
        }
        out.put(b" ");
        out.put_string(if content_type.subtype.is_empty() {
            b"MIXED"
        } else {
            content_type.subtype
        });
        if extended {
            out.put(b" ");
            put_parameters(&content_type.parameters, out);
        }
    } else {
        put_single(part, &content_type, text, extended, out);
    }
    if extended {
        put_extension(header, out);
    }
    out.put(b")");
}

/// `body-type-1part` up to its extension data, with the MD5 that only it has.
fn put_single(part: &Part, content_type: &Parameterised<'_>, text: &[u8], extended: bool, out: &mut Output) {
    let header = &text[part.header.clone()];
    let is_text = put_type(part, content_type, out);
    for name in ["Content-ID", "Content-Description"] {
        out.put(b" ");
        out.put_nstring(header::value(header, name).map(header::unfold).as_deref());
    }
    out.put(b" ");
    let encoding = header::value(header, "Content-Transfer-Encoding")
        .map(Parameterised::parse)
        .unwrap_or_default();
    out.put_string(if encoding.kind.is_empty() {
        b"7BIT"
    } else {
        encoding.kind
    });
    out.put_fmt(format_args!(" {}", part.body.len()));
    if let Content::Message(message) = &part.content {
        out.put(b" ");
        put_envelope(&text[message.header.clone()], out);
        out.put(b" ");
        put_structure(message, text, extended, out);
    }
    if is_text || matches!(part.content, Content::Message(_)) {
        out.put_fmt(format_args!(" {}", part.lines));
    }
    if extended {
        out.put(b" ");
        out.put_nstring(header::value(header, "Content-MD5").map(header::unfold).as_deref());
    }
}

/// Type, subtype and parameters. Returns whether it is text.
fn put_type(part: &Part, content_type: &Parameterised<'_>, out: &mut Output) -> bool {
    let named = !content_type.kind.is_empty() && !content_type.subtype.is_empty();
    match &part.content {
        Content::Message(_) => out.put(b"\"MESSAGE\" \"RFC822\" "),
        Content::Opaque => out.put(b"\"APPLICATION\" \"OCTET-STREAM\" "),
        _ if !named => {
            // RFC 2045 section 5.2: this is what text without a type is.
            out.put(b"\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\")");
            return true;
        }
        _ => {
            out.put_string(content_type.kind);
            out.put(b" ");
            out.put_string(content_type.subtype);
            out.put(b" ");
        }
    }
    put_parameters(&content_type.parameters, out);
    matches!(part.content, Content::Single) && content_type.kind.eq_ignore_ascii_case(b"text")
}

/// `body-fld-dsp SP body-fld-lang SP body-fld-loc`
fn put_extension(header: &[u8], out: &mut Output) {
    out.put(b" ");
    let disposition = header::value(header, "Content-Disposition")
        .map(Parameterised::parse)
        .unwrap_or_default();
    if disposition.kind.is_empty() {
        out.put(b"NIL");
    } else {
        out.put(b"(");
        out.put_string(disposition.kind);
        out.put(b" ");
        put_parameters(&disposition.parameters, out);
        out.put(b")");
    }
    out.put(b" ");
    put_languages(header::value(header, "Content-Language"), out);
    out.put(b" ");
    out.put_nstring(header::value(header, "Content-Location").map(header::unfold).as_deref());
}

fn put_languages(value: Option<&[u8]>, out: &mut Output) {
    let tags = value.into_iter().flat_map(|value| value.split(|&byte| byte == b','));
    let tags: Vec<&[u8]> = tags
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty())
        .take(LANGUAGES_MAX)
        .collect();
    if tags.is_empty() {
        return out.put(b"NIL");
    }
    for (index, tag) in tags.iter().enumerate() {
        out.put(if index == 0 { b"(" } else { b" " });
        out.put_string(&header::unfold(tag));
    }
    out.put(b")");
}

fn put_parameters(parameters: &[(&[u8], Vec<u8>)], out: &mut Output) {
    if parameters.is_empty() {
        return out.put(b"NIL");
    }
    for (index, (attribute, value)) in parameters.iter().enumerate() {
        out.put(if index == 0 { b"(" } else { b" " });
        out.put_string(attribute);
        out.put(b" ");
        out.put_string(value);
    }
    out.put(b")");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(text: &str, extended: bool) -> String {
        let mut out = Output::default();
        put_structure(&Part::of(text.as_bytes()), text.as_bytes(), extended, &mut out);
        String::from_utf8_lossy(out.front()).into_owned()
    }

    #[test]
    fn text_without_a_type_is_plain_ascii() {
        let expected = "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 7 1)";
        assert_eq!(structure("Subject: x\r\n\r\nhello\r\n", false), expected);
        let expected = "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 0 0 NIL NIL NIL NIL)";
        assert_eq!(structure("", true), expected);
        assert_eq!(structure("Content-Type: broken\r\n\r\n", true), expected);
    }

    #[test]
    fn fields_of_a_part_are_shown_as_they_stand() {
        let text = "Content-Type: image/png; name=\"a b.png\"\r\nContent-ID: <1@x>\r\nContent-Description: a\r\n b\r\n\
            Content-Transfer-Encoding: base64\r\nContent-MD5: Q2hlY2s=\r\nContent-Location: http://x/\r\n\
            Content-Disposition: attachment; filename=\"a b.png\"\r\nContent-Language: de, en\r\n\r\naGk=\r\n";
        assert_eq!(
            structure(text, true),
            "(\"image\" \"png\" (\"name\" \"a b.png\") \"<1@x>\" \"a b\" \"base64\" 6 \"Q2hlY2s=\" \
             (\"attachment\" (\"filename\" \"a b.png\")) (\"de\" \"en\") \"http://x/\")"
        );
    }

    #[test]
    fn parts_and_messages_are_nested() {
        let text = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
            one\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntwo\r\n--b--\r\n";
        let inner = "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 3 0)";
        let envelope = "(NIL \"in\" NIL NIL NIL NIL NIL NIL NIL NIL)";
        assert_eq!(
            structure(text, false),
            format!(
                "((\"text\" \"plain\" (\"charset\" \"utf-8\") NIL NIL \"7BIT\" 3 0)\
                 (\"MESSAGE\" \"RFC822\" NIL NIL NIL \"7BIT\" 18 {envelope} {inner} 2) \"mixed\")"
            )
        );
        assert!(structure(text, true).ends_with(" \"mixed\" (\"boundary\" \"b\") NIL NIL NIL)"));
    }

    #[test]
    fn what_could_not_be_followed_is_octets() {
        assert!(
            structure("Content-Type: multipart/mixed\r\n\r\nx", false)
                .starts_with("(\"APPLICATION\" \"OCTET-STREAM\" NIL")
        );
        let empty = structure("Content-Type: multipart/mixed; boundary=b\r\n\r\nx", false);
        assert_eq!(
            empty,
            "((\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 0 0) \"mixed\")"
        );
    }
}
