//! Structured MIME fields: a value and its parameters (RFC 2045 section 5.1, RFC 2231).

use std::fmt::Write;

use super::address::{after_comment, quote, quoted_end};
use super::emit::BOUNDARY;
use super::refusal::Refusal;
use super::{charset, encode, words};

/// Percent-encoded characters in one section of a long parameter.
const SECTION_MAX: usize = 54;

/// A value such as `text/plain` with its parameters; comments are gone.
pub(super) struct Structured {
    /// The value, in lower case.
    pub(super) value: String,
    params: Vec<Param>,
}

/// One parameter or one section of it: `name*1*=value`.
struct Param {
    name: String,
    section: Option<u32>,
    is_encoded: bool,
    value: String,
}

impl Structured {
    /// Reads an unfolded value. Broken parameters are left out, as there is nothing to lose in them.
    pub(super) fn parse(text: &str) -> Self {
        let mut rest = text;
        let value = token(&mut rest, NAME_ENDS).to_ascii_lowercase();
        let mut params = Vec::new();
        while let Some(at) = rest.find(';') {
            rest = &rest[at + 1..];
            params.extend(param(&mut rest));
        }
        Self { value, params }
    }

    /// The value of each parameter, whatever it is called.
    pub(super) fn params(&self) -> impl Iterator<Item = Result<String, Refusal>> {
        let is_first = |at: usize| !self.params[..at].iter().any(|param| param.name == self.params[at].name);
        let names = (0..self.params.len()).filter(move |at| is_first(*at));
        names.filter_map(|at| self.param(&self.params[at].name).transpose())
    }

    /// The value of a parameter, in whichever way it is encoded.
    pub(super) fn param(&self, name: &str) -> Result<Option<String>, Refusal> {
        let of_name = || self.params.iter().filter(|param| param.name == name);
        let mut sections: Vec<&Param> = of_name().filter(|param| param.section.is_some()).collect();
        if sections.is_empty() {
            return of_name().next().map(|param| words::decode(&param.value)).transpose();
        }
        sections.sort_by_key(|param| param.section);
        let mut label = None;
        let mut bytes = Vec::new();
        for (at, param) in sections.iter().enumerate() {
            let mut value = param.value.as_str();
            if at == 0
                && param.is_encoded
                && let Some((charset, rest)) = value.split_once('\'')
            {
                label = Some(charset);
                value = rest.split_once('\'').map_or(rest, |(_language, rest)| rest);
            }
            match param.is_encoded {
                true => bytes.extend(encode::unescaped(value.as_bytes(), b'%')),
                false => bytes.extend_from_slice(value.as_bytes()),
            }
        }
        charset::decode(&bytes, label).map(|text| Some(text.into_owned()))
    }
}

/// `attribute ["*" section] ["*"] "=" (token / quoted-string)`, up to where `rest` then begins.
fn param(rest: &mut &str) -> Option<Param> {
    let attribute = token(rest, NAME_ENDS).to_ascii_lowercase();
    let value = rest.strip_prefix('=')?;
    *rest = value;
    skip_blank(rest);
    let value = match rest.starts_with('"') {
        true => {
            let end = quoted_end(rest)?;
            let inside = &rest[1..end];
            *rest = &rest[end + 1..];
            unescaped(inside)
        }
        false => token(rest, VALUE_ENDS).to_owned(),
    };
    let (attribute, is_encoded) = attribute
        .strip_suffix('*')
        .map_or((attribute.as_str(), false), |name| (name, true));
    let (name, section) = match attribute.split_once('*') {
        Some((name, section)) => (name, Some(section.parse().ok()?)),
        None => (attribute, is_encoded.then_some(0)),
    };
    Some(Param {
        name: name.to_owned(),
        section,
        is_encoded,
        value,
    })
}

/// Where a value or an attribute ends. In a parameter's value an `=` is no end: clients leave it unquoted in boundaries.
const NAME_ENDS: &[char] = &[' ', '\t', '(', ';', '"', '='];
const VALUE_ENDS: &[char] = &[' ', '\t', '(', ';', '"'];

/// What stands up to the next of `ends`; blanks and comments on both sides are passed over.
fn token<'a>(rest: &mut &'a str, ends: &[char]) -> &'a str {
    skip_blank(rest);
    let (token, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    *rest = after;
    skip_blank(rest);
    token
}

/// Passes over white space and comments; an open comment swallows the rest.
fn skip_blank(rest: &mut &str) {
    loop {
        *rest = rest.trim_start_matches([' ', '\t']);
        if !rest.starts_with('(') {
            return;
        }
        *rest = after_comment(rest).unwrap_or("");
    }
}

/// Quoted-pairs undone. Some systems write Windows paths with single backslashes: the name after the last one survives either way.
fn unescaped(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => match rest.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                Some(other) => text.extend(['\\', other]),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

/// The lines that carry a file name, each to be preceded by `;` and a fold: a quoted string where that is safe, else RFC 2231.
pub(super) fn file_name_lines(name: &str) -> Vec<String> {
    if words::is_plain(name)
        && name.len() <= SECTION_MAX
        && !name.contains(['"', '\\'])
        && !name.contains(BOUNDARY)
        && let Some(quoted) = quote(name)
    {
        return vec![format!("filename={quoted}")];
    }
    let mut sections = vec![String::from("utf-8''")];
    for character in name.chars() {
        let mut encoded = String::new();
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            match byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
                true => encoded.push(char::from(byte)),
                false => write!(encoded, "%{byte:02X}").expect("a String takes all"),
            }
        }
        match sections
            .last_mut()
            .filter(|section| section.len() + encoded.len() <= SECTION_MAX)
        {
            Some(section) => section.push_str(&encoded),
            None => sections.push(encoded),
        }
    }
    match sections.as_slice() {
        [only] => vec![format!("filename*={only}")],
        several => several
            .iter()
            .enumerate()
            .map(|(at, section)| format!("filename*{at}*={section}"))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn param_of(text: &str, name: &str) -> Option<String> {
        Structured::parse(text).param(name).expect("a known charset")
    }

    #[test]
    fn parameters_are_read_as_clients_write_them() {
        for (text, value) in [
            ("text/plain; x=a", Some("a")),
            ("Text/Plain (comment) ; y=1 ;\tX = \"a b\" (c)", Some("a b")),
            ("text/plain; x=----=_Part_1 (c)", Some("----=_Part_1")),
            ("text/plain; x=\"a\\\"b\"", Some("a\"b")),
            ("text/plain; x=\"C:\\dir\\a\"", Some("C:\\dir\\a")),
            ("text/plain; x=\"=?utf-8?Q?=C3=BC?=\"", Some("ü")),
            ("text/plain; x*=iso-8859-1'de'%FC; x=u", Some("ü")),
            ("text/plain; x*1*=%BCb; x*0*=utf-8''a%C3; x*2=\" c\"", Some("aüb c")),
            ("text/plain; x*0=a; x*1=b", Some("ab")),
            ("text/plain; x=\"open", None),
            ("text/plain; x", None),
            ("text/plain; (x=a", None),
            ("", None),
        ] {
            assert_eq!(param_of(text, "x").as_deref(), value, "{text}");
        }
        assert_eq!(Structured::parse("Text/Plain (comment) ; y=1").value, "text/plain");
    }

    #[test]
    fn a_parameter_in_an_unknown_charset_is_refused() {
        assert_eq!(Structured::parse("a/b; x*=x-none''a").param("x"), Err(Refusal::Charset));
    }

    proptest! {
        #[test]
        fn file_names_are_read_back(name in "\\PC{1,80}") {
            let lines = file_name_lines(&name);
            prop_assert!(lines.iter().all(|line| line.is_ascii() && line.len() <= 74));
            let text = format!("attachment; {}", lines.join("; "));
            prop_assert_eq!(param_of(&text, "filename"), Some(name));
        }
    }
}
