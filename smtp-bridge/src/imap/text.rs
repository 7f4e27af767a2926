//! Looking for words in messages: transfer encodings, character sets and case are undone on the way.

use std::borrow::Cow;

use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::parsers::MessageStream;

use super::address::{self, Address};
use super::header::{self, Parameterised};
use super::mime::{Content, Part};
use super::section::Message;

/// How much of one part's text is searched, in bytes.
pub(super) const PART_MAX: usize = 8 << 20;

/// Something to look for: any text that has it inside, in upper or lower case.
///
/// The search is Knuth's, Morris's and Pratt's, so that no text makes it slow.
pub(super) struct Needle {
    folded: Vec<u8>,
    /// For each prefix of `folded`: length of its longest proper border.
    borders: Vec<usize>,
}

impl Needle {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut folded = Vec::new();
        fold(bytes, |byte| {
            folded.push(byte);
            false
        });
        let mut borders = vec![0; folded.len()];
        for at in 1..folded.len() {
            let mut length = borders[at - 1];
            while length > 0 && folded[length] != folded[at] {
                length = borders[length - 1];
            }
            borders[at] = length + usize::from(folded[length] == folded[at]);
        }
        Self { folded, borders }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.folded.is_empty()
    }

    /// Whether `text` has it.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        let mut matched = 0;
        self.is_empty()
            || fold(text, |byte| {
                while matched > 0 && self.folded[matched] != byte {
                    matched = self.borders[matched - 1];
                }
                matched += usize::from(self.folded[matched] == byte);
                matched == self.folded.len()
            })
    }

    /// Whether a field of that name has it, decoded; an empty needle is in every field.
    pub(super) fn is_in_field(&self, header: &[u8], name: &[u8]) -> bool {
        let mut fields = header::fields(header).filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.any(|field| self.is_in(&decoded_field(field.value)))
    }

    /// Whether an address in a field of that name has it, or the name before it: comments and folds are left out.
    pub(super) fn is_in_addresses(&self, header: &[u8], name: &[u8]) -> bool {
        let fields = header::fields(header).filter(|field| field.name.eq_ignore_ascii_case(name));
        fields
            .flat_map(|field| address::parse(field.value))
            .any(|address| match address {
                Address::Mailbox {
                    name, mailbox, host, ..
                } => {
                    let name = name.map(|name| decoded_field(&name)).unwrap_or_default();
                    self.is_in(&[&name[..], b" <", &mailbox, b"@", &host, b">"].concat())
                }
                Address::GroupStart(name) => self.is_in(&decoded_field(&name)),
                Address::GroupEnd => false,
            })
    }

    /// Whether any field has it.
    pub(super) fn is_in_header(&self, header: &[u8]) -> bool {
        header::fields(header).any(|field| {
            let line = [field.name, b": ", &decoded_field(field.value)].concat();
            self.is_in(&line)
        })
    }

    /// Whether the text of any part has it, or a header inside the body. Not for a message whose text is [long](super::long).
    pub(super) fn is_in_body(&self, message: &Message) -> bool {
        self.is_in_part(message.structure(), &message.text)
    }

    fn is_in_part(&self, part: &Part, text: &[u8]) -> bool {
        match &part.content {
            Content::Multipart(parts) => parts.iter().any(|part| self.is_in_part(part, text)),
            Content::Message(inner) => self.is_in_header(&text[inner.header.clone()]) || self.is_in_part(inner, text),
            Content::Opaque => self.is_in(&text[part.body.clone()]),
            Content::Single => decoded_part(part, text).is_some_and(|decoded| self.is_in(&decoded)),
        }
    }
}

/// Feeds `text` in lower case to `take`, until that says it has found what it wants.
fn fold(text: &[u8], mut take: impl FnMut(u8) -> bool) -> bool {
    text.utf8_chunks().any(|chunk| {
        let valid = chunk.valid().chars().any(|char| match char.is_ascii() {
            true => take(char.to_ascii_lowercase() as u8),
            false => char
                .to_lowercase()
                .any(|lower| lower.encode_utf8(&mut [0; 4]).bytes().any(&mut take)),
        });
        valid || chunk.invalid().iter().any(|&byte| take(byte))
    })
}

/// A field's value without folds and encoded words (RFC 2047).
fn decoded_field(value: &[u8]) -> Vec<u8> {
    let mut unfolded = header::unfold(value);
    if !unfolded.windows(2).any(|pair| pair == b"=?") {
        return unfolded;
    }
    unfolded.push(b'\n');
    let decoded = MessageStream::new(&unfolded).parse_unstructured();
    let text = decoded.as_text().map(|text| text.as_bytes().to_vec());
    text.unwrap_or_else(|| header::unfold(value))
}

/// How the octets of a part become text.
pub(super) struct Decoding {
    encoding: Vec<u8>,
    /// `None`: it is UTF-8, or of no known character set.
    charset: Option<fn(&[u8]) -> String>,
}

impl Decoding {
    /// `None`: the part is not text.
    pub(super) fn of(header: &[u8]) -> Option<Self> {
        let content_type = header::value(header, "Content-Type")
            .map(Parameterised::parse)
            .unwrap_or_default();
        if !content_type.kind.is_empty() && !content_type.kind.eq_ignore_ascii_case(b"text") {
            return None;
        }
        let encoding = header::value(header, "Content-Transfer-Encoding")
            .map(header::unfold)
            .unwrap_or_default();
        let charset = content_type.parameter("charset").unwrap_or(b"us-ascii");
        // What claims to be ASCII and is not is UTF-8, most of the time.
        let is_utf8 = charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"us-ascii");
        Some(Self {
            encoding: encoding.to_ascii_lowercase(),
            charset: if is_utf8 { None } else { charset_decoder(charset) },
        })
    }

    /// In UTF-8 if the character set is known.
    pub(super) fn decode<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        let octets = match &self.encoding[..] {
            b"quoted-printable" => Cow::Owned(from_quoted_printable(body)),
            b"base64" => Cow::Owned(from_base64(body)),
            _ => Cow::Borrowed(body),
        };
        match self.charset {
            Some(decode) => Cow::Owned(decode(&octets).into_bytes()),
            None => octets,
        }
    }
}

/// The text of a part. `None`: it is not text.
fn decoded_part<'t>(part: &Part, text: &'t [u8]) -> Option<Cow<'t, [u8]>> {
    let body = &text[part.body.clone()];
    let decoding = Decoding::of(&text[part.header.clone()])?;
    Some(decoding.decode(&body[..body.len().min(PART_MAX)]))
}

/// Quoted-printable (RFC 2045 section 6.7); what does not fit stays as it is.
fn from_quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = match rest {
            [b'=', b'\r', b'\n', behind @ ..] | [b'=', b'\n', behind @ ..] => behind,
            [b'=', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex(*high) << 4 | hex(*low));
                behind
            }
            _ => {
                decoded.push(byte);
                behind
            }
        };
    }
    decoded
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Base64 (RFC 2045 section 6.8); what is not of its alphabet is passed over.
fn from_base64(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                (bits, count) = (0, 0);
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_body(needle: &str, text: &[u8]) -> bool {
        Needle::new(needle.as_bytes()).is_in_body(&Message::new(text.to_vec()))
    }

    #[test]
    fn needles_are_found_in_any_case() {
        let cases: [(&str, &[u8], bool); 9] = [
            ("", b"", true),
            ("a", b"", false),
            ("HeLLo", b"say hEllO", true),
            ("abab", b"abaabab", true),
            ("aab", b"aaaaab", true),
            ("GR\u{dc}N", "gr\u{fc}n".as_bytes(), true),
            ("gr\u{fc}n", "GR\u{dc}N".as_bytes(), true),
            ("\u{2603}", "a \u{2603} b".as_bytes(), true),
            ("b", b"\xff\xfeb", true),
        ];
        for (needle, text, expected) in cases {
            assert_eq!(Needle::new(needle.as_bytes()).is_in(text), expected, "{needle}");
        }
    }

    #[test]
    fn encodings_are_undone_before_the_search() {
        assert!(in_body(
            "gr\u{fc}n",
            b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\ngr\xfcn"
        ));
        assert!(in_body("gr\u{fc}n", b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ng=\r\nr=C3=BCn"));
        assert!(in_body(
            "hello",
            b"Content-Transfer-Encoding: base64\r\n\r\naGVs\r\nbG8="
        ));
        assert!(!in_body("hello", b"Content-Type: image/png\r\n\r\nhello"));
        assert!(!in_body("subject", b"Subject: x\r\n\r\nhello"));
        let header = b"Subject: =?utf-8?Q?gr=C3=BCn?=\r\n =?iso-8859-1?Q?_=FCber?=\r\n\r\n";
        assert!(Needle::new("gr\u{fc}n \u{fc}ber".as_bytes()).is_in_field(header, b"SUBJECT"));
        assert!(Needle::new(b"subject: GR").is_in_header(header));
        let from = b"From: (x) Ann =?utf-8?Q?gr=C3=BCn?= <ann (comment)@ (another) x.example>\r\n\r\n";
        for needle in ["ann@X.example>", "Ann gr\u{fc}n <ann"] {
            assert!(
                Needle::new(needle.as_bytes()).is_in_addresses(from, b"from"),
                "{needle}"
            );
        }
        assert!(!Needle::new(b"comment").is_in_addresses(from, b"From"));
        assert!(!Needle::new(b"x").is_in_field(header, b"To"));
        assert!(!Needle::new(b"").is_in_field(header, b"To"));
    }

    #[test]
    fn decoders_take_anything() {
        assert_eq!(from_quoted_printable(b"a=3D=3=zz=\n=C3=BC="), b"a==3=zz\xc3\xbc=");
        assert_eq!(from_base64(b"aGk=aGk=!"), b"hihi");
        assert_eq!(from_base64(b"a"), b"");
    }

    proptest::proptest! {
        #[test]
        fn the_search_agrees_with_the_plain_one(needle in "[ab]{0,5}", text in "[ab]{0,40}") {
            proptest::prop_assert_eq!(Needle::new(needle.as_bytes()).is_in(text.as_bytes()), text.contains(&needle));
        }
    }
}
