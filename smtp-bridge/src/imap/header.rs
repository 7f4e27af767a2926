//! Header fields as they are stored, and the tokens of structured ones (RFC 5322 sections 2.2 and 3.2, RFC 2045).
//!
//! Nothing here decodes or refuses: mail that breaks every rule still has a header, and the client gets its octets.

use std::iter::Peekable;
use std::ops::Range;

/// How much of one field's value is looked at, in bytes. What FETCH sends as it is stored is not bounded by this.
const VALUE_MAX: usize = 64 << 10;

/// How much of one header is looked at for a field, in bytes.
pub(super) const HEADER_MAX: usize = 1 << 20;

/// Parameters of one field that are looked at.
const PARAMETERS_MAX: usize = 100;

/// Characters that end an atom in MIME fields (RFC 2045 section 5.1), less those that real mail uses in atoms.
const MIME_SPECIALS: &[u8] = b"<>,;=/";

/// A field of a header.
pub(super) struct Field<'a> {
    /// Empty if the line has no colon.
    pub(super) name: &'a [u8],
    /// Behind the colon, with its folds; at most [`VALUE_MAX`].
    pub(super) value: &'a [u8],
    /// Its lines in the header.
    pub(super) range: Range<usize>,
}

/// The fields of a header in order, up to the empty line.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at = line_end(header, at);
        if is_blank(&header[start..at]) {
            at = header.len();
            return None;
        }
        while matches!(header.get(at), Some(b' ' | b'\t')) {
            at = line_end(header, at);
        }
        let lines = &header[start..at];
        let colon = lines
            .iter()
            .position(|byte| matches!(byte, b':' | b'\n'))
            .filter(|&colon| lines[colon] == b':');
        let (name, value) = colon.map_or((&lines[..0], lines), |colon| (&lines[..colon], &lines[colon + 1..]));
        let value = &value[..value.len().min(VALUE_MAX)];
        Some(Field {
            name: name.trim_ascii(),
            value,
            range: start..at,
        })
    })
}

/// Value of the first field of that name.
pub(super) fn value<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields = fields(&header[..header.len().min(HEADER_MAX)]);
    fields
        .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
        .map(|field| field.value)
}

/// Where the line that starts at `at` ends, its line feed included.
pub(super) fn line_end(bytes: &[u8], at: usize) -> usize {
    let length = bytes[at..]
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|found| found + 1);
    length.map_or(bytes.len(), |length| at + length)
}

/// Whether a line ends the header: it is empty.
pub(super) fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n" | b"")
}

/// Where the body of a message starts: behind the first empty line, or at its end if there is none.
pub(super) fn header_end(message: &[u8]) -> usize {
    let mut at = 0;
    while at < message.len() {
        let end = line_end(message, at);
        if is_blank(&message[at..end]) {
            return end;
        }
        at = end;
    }
    at
}

/// A value without its folds and the white space around it.
pub(super) fn unfold(value: &[u8]) -> Vec<u8> {
    let unfolded: Vec<u8> = value
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    unfolded.trim_ascii().to_vec()
}

/// A token of a structured field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    Atom(&'a [u8]),
    /// Content of a quoted string, unescaped.
    Quoted(Vec<u8>),
    /// Content of a comment, unescaped, with the comments inside it.
    Comment(Vec<u8>),
    /// A domain literal with its brackets.
    DomainLiteral(&'a [u8]),
    Special(u8),
}

/// Cuts a structured field into tokens. What is left open at the end ends there.
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
    specials: &'static [u8],
}

impl<'a> Lexer<'a> {
    /// `specials` end atoms; domain literals are known only if `[` is among them.
    pub(super) fn new(value: &'a [u8], specials: &'static [u8]) -> Self {
        Self { rest: value, specials }
    }

    /// Reads up to the closing character, unescaping on the way.
    fn enclosed(&mut self, open: Option<u8>, close: u8) -> Vec<u8> {
        let mut content = Vec::new();
        let mut depth = 1;
        let mut at = 0;
        while at < self.rest.len() {
            let byte = self.rest[at];
            at += 1;
            match byte {
                b'\\' if at < self.rest.len() => {
                    content.push(self.rest[at]);
                    at += 1;
                    continue;
                }
                b'\r' | b'\n' => continue,
                byte if byte == close => depth -= 1,
                byte if Some(byte) == open => depth += 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            content.push(byte);
        }
        self.rest = &self.rest[at..];
        content
    }

    fn cut(&mut self, length: usize) -> &'a [u8] {
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        token
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        while let [b' ' | b'\t' | b'\r' | b'\n' | 0, rest @ ..] = self.rest {
            self.rest = rest;
        }
        let &first = self.rest.first()?;
        Some(match first {
            b'"' => {
                self.cut(1);
                Token::Quoted(self.enclosed(None, b'"'))
            }
            b'(' => {
                self.cut(1);
                Token::Comment(self.enclosed(Some(b'('), b')'))
            }
            b'[' if self.specials.contains(&b'[') => {
                let end = self
                    .rest
                    .iter()
                    .position(|&byte| byte == b']')
                    .map_or(self.rest.len(), |end| end + 1);
                Token::DomainLiteral(self.cut(end))
            }
            special if self.specials.contains(&special) => {
                self.cut(1);
                Token::Special(special)
            }
            _ => {
                let ends = |byte: &u8| b" \t\r\n\0\"(".contains(byte) || self.specials.contains(byte);
                let length = self.rest.iter().position(ends).unwrap_or(self.rest.len());
                Token::Atom(self.cut(length))
            }
        })
    }
}

/// A MIME field with parameters: `Content-Type` or `Content-Disposition`.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Parameterised<'a> {
    /// Type, or disposition.
    pub(super) kind: &'a [u8],
    /// Subtype; empty if there is none.
    pub(super) subtype: &'a [u8],
    /// Attribute and value, as they stand: neither RFC 2047 nor RFC 2231 is undone.
    pub(super) parameters: Vec<(&'a [u8], Vec<u8>)>,
}

impl<'a> Parameterised<'a> {
    /// `kind ["/" subtype] *(";" attribute "=" value)`, and what can be made of anything else.
    pub(super) fn parse(value: &'a [u8]) -> Self {
        let mut tokens = Lexer::new(value, MIME_SPECIALS)
            .filter(|token| !matches!(token, Token::Comment(_)))
            .peekable();
        let mut parsed = Self::default();
        if let Some(Token::Atom(kind)) = tokens.next_if(|token| matches!(token, Token::Atom(_))) {
            parsed.kind = kind;
        }
        if tokens.next_if_eq(&Token::Special(b'/')).is_some()
            && let Some(Token::Atom(subtype)) = tokens.next_if(|token| matches!(token, Token::Atom(_)))
        {
            parsed.subtype = subtype;
        }
        while parsed.parameters.len() < PARAMETERS_MAX {
            let Some(token) = tokens.next() else { break };
            let Token::Atom(attribute) = token else { continue };
            if tokens.next_if_eq(&Token::Special(b'=')).is_none() {
                continue;
            }
            parsed.parameters.push((attribute, parameter_value(&mut tokens)));
        }
        parsed
    }

    /// Value of the first parameter of that name.
    pub(super) fn parameter(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .parameters
            .iter()
            .find(|(attribute, _)| attribute.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| &value[..])
    }
}

/// The tokens up to the next semicolon, joined: an unquoted value may hold what should have been quoted.
fn parameter_value<'a>(tokens: &mut Peekable<impl Iterator<Item = Token<'a>>>) -> Vec<u8> {
    let mut value: Vec<u8> = Vec::new();
    while let Some(token) = tokens.next_if(|token| *token != Token::Special(b';')) {
        match token {
            Token::Quoted(quoted) => value.extend_from_slice(&quoted),
            Token::Special(special) => value.push(special),
            Token::Atom(atom) => {
                if value.last().is_some_and(|last| !MIME_SPECIALS.contains(last)) {
                    value.push(b' ');
                }
                value.extend_from_slice(atom);
            }
            Token::Comment(_) | Token::DomainLiteral(_) => {}
        }
    }
    value
}

/// Reads `bytes` as a header, and every field as a structured one. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    for field in fields(bytes) {
        assert!(field.range.end <= bytes.len() && !field.range.is_empty());
        unfold(field.value);
        Parameterised::parse(field.value);
        super::address::parse(field.value);
    }
    assert!(header_end(bytes) <= bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_folds_and_end_at_the_empty_line() {
        let header = b"A: 1\r\nB : 2\r\n\t3\r\nno colon\nC:\n\r\nD: not here\r\n";
        let seen: Vec<_> = fields(header)
            .map(|field| (field.name, field.value, field.range))
            .collect();
        assert_eq!(seen[0], (&b"A"[..], &b" 1\r\n"[..], 0..6));
        assert_eq!(seen[1], (&b"B"[..], &b" 2\r\n\t3\r\n"[..], 6..17));
        assert_eq!(seen[2], (&b""[..], &b"no colon\n"[..], 17..26));
        assert_eq!(seen[3].0, b"C");
        assert_eq!(seen.len(), 4);
        assert_eq!(header_end(header), 31);
        assert_eq!(unfold(seen[1].1), b"2\t3");
    }

    #[test]
    fn a_message_without_an_empty_line_is_all_header() {
        for (message, end) in [
            (&b""[..], 0),
            (b"A: 1", 4),
            (b"\r\nbody", 2),
            (b"\nbody", 1),
            (b"A: 1\r\n", 6),
        ] {
            assert_eq!(header_end(message), end, "{message:?}");
        }
    }

    #[test]
    fn parameters_are_read_from_tidy_and_from_untidy_fields() {
        let parsed =
            Parameterised::parse(b" text/plain (a comment); charset=\"utf-8\"; format=flowed;\r\n x=\"a \\\" b\"");
        assert_eq!((parsed.kind, parsed.subtype), (&b"text"[..], &b"plain"[..]));
        assert_eq!(parsed.parameter("CHARSET"), Some(&b"utf-8"[..]));
        assert_eq!(parsed.parameter("x"), Some(&b"a \" b"[..]));
        let parsed = Parameterised::parse(b"attachment; filename=my file.txt; boundary==_a=b/c; odd; =; \"q\"=1");
        assert_eq!(parsed.parameter("filename"), Some(&b"my file.txt"[..]));
        assert_eq!(parsed.parameter("boundary"), Some(&b"=_a=b/c"[..]));
        for hostile in [
            &b""[..],
            b"/",
            b"text",
            b"text/",
            b";;;=",
            b"a/b;c=\"",
            b"a/b;c=(((",
            b"\"q\"/x",
        ] {
            Parameterised::parse(hostile);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_header(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2_000)) {
            fuzz(&bytes);
        }

        #[test]
        fn any_text_near_the_grammar_is_a_header(text in "[a:;,<>@()\"\\\\\\[\\]= \t\r\n/.]{0,400}") {
            fuzz(text.as_bytes());
        }
    }
}
