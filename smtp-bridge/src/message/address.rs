//! Addresses: the ASCII addr-spec, and lists of mailboxes as they stand in From, To and Cc (RFC 5322 section 3.4).

use std::fmt::Write;

use thiserror::Error;

use super::refusal::Refusal;
use super::words;

/// Octets of a local part, of a domain and of a whole address (RFC 5321 section 4.5.3.1; 254 fits a path in angle brackets).
const LOCAL_LENGTH_MAX: usize = 64;
const DOMAIN_LENGTH_MAX: usize = 253;
const ADDRESS_LENGTH_MAX: usize = 254;

/// Nesting of comments that is followed.
const COMMENT_DEPTH_MAX: usize = 8;

/// Not an address that can be written in ASCII as `local@domain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an address of the form name@domain.example")]
pub struct AddressError;

/// An ASCII addr-spec, `local@domain`.
///
/// Invariants: the domain is lower-case letters, digits, hyphens and underscores in dot-separated labels; the local part is a dot-atom
/// wherever that is possible, otherwise a quoted string; lengths as RFC 5321. `Debug` shows nothing, so that no log does by accident.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    at: usize,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Address(..)")
    }
}

impl Address {
    /// Reads `local@domain`, without angle brackets, comments or white space around it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError)?;
        match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(quoted) => Self::from_parts(&unquote(quoted)?, domain),
            None if is_dot_atom(local) => Self::from_parts(local, domain),
            None => Err(AddressError),
        }
    }

    /// Puts an address together from its meaning, the local part without quotes.
    fn from_parts(local: &str, domain: &str) -> Result<Self, AddressError> {
        let domain = domain.to_ascii_lowercase();
        let local = match is_dot_atom(local) {
            true => local.to_owned(),
            false => quote(local).ok_or(AddressError)?,
        };
        let fits = local.len() <= LOCAL_LENGTH_MAX && local.len() + 1 + domain.len() <= ADDRESS_LENGTH_MAX;
        match fits && is_domain(&domain) {
            true => Ok(Self {
                at: local.len(),
                text: local + "@" + &domain,
            }),
            false => Err(AddressError),
        }
    }

    /// The canonical text, `local@domain`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as it is written, quotes included.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// The domain, in lower case.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether both name the same mailbox, letter case aside.
    pub fn is_same(&self, other: &Self) -> bool {
        self.text.eq_ignore_ascii_case(&other.text)
    }
}

fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

fn is_dot_atom(text: &str) -> bool {
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DOMAIN_LENGTH_MAX && text.split('.').all(is_label)
}

/// The inside of a quoted string, its escapes undone.
fn unquote(quoted: &str) -> Result<String, AddressError> {
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    while let Some(character) = rest.next() {
        text.push(match character {
            '\\' => rest.next().ok_or(AddressError)?,
            '"' => return Err(AddressError),
            other => other,
        });
    }
    Ok(text)
}

/// A quoted string (RFC 5322 section 3.2.4), or none when the text is not printable ASCII.
pub(super) fn quote(text: &str) -> Option<String> {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => return None,
        }
    }
    quoted.push('"');
    Some(quoted)
}

/// Whether collapsed text can be a display name without quotes.
pub(super) fn is_phrase(text: &str) -> bool {
    text.chars().all(|character| character == ' ' || is_atext(character))
}

/// A mailbox in a header: an address and the name before it, which may be empty.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub(super) name: String,
    pub(super) address: Address,
}

/// Reads an unfolded address list. Groups are flattened and comments dropped.
pub(super) fn list(text: &str) -> Result<Vec<Mailbox>, Refusal> {
    let mut mailboxes = Vec::new();
    let mut element = Vec::new();
    let mut in_group = false;
    let mut tokens = Tokens { rest: text };
    while let Some(token) = tokens.next().map_err(|AddressError| Refusal::Address)? {
        match token {
            Token::Mark(',') => mailboxes.extend(mailbox(&std::mem::take(&mut element))?),
            Token::Mark(':') if !in_group => {
                in_group = true;
                element.clear();
            }
            Token::Mark(';') if in_group => {
                in_group = false;
                mailboxes.extend(mailbox(&std::mem::take(&mut element))?);
            }
            Token::Mark(':' | ';') => return Err(Refusal::Address),
            other => element.push(other),
        }
    }
    mailboxes.extend(mailbox(&element)?);
    if in_group { Err(Refusal::Address) } else { Ok(mailboxes) }
}

/// `mailbox = [display-name] "<" addr-spec ">" / addr-spec`; nothing at all between two commas is allowed (section 4.4).
fn mailbox(tokens: &[Token]) -> Result<Option<Mailbox>, Refusal> {
    let (words, address) = match tokens {
        [] => return Ok(None),
        [
            words @ ..,
            Token::Mark('<'),
            local,
            Token::Mark('@'),
            Token::Word(domain),
            Token::Mark('>'),
        ] => (words, (local, domain)),
        [local, Token::Mark('@'), Token::Word(domain)] => (&[][..], (local, domain)),
        _ => return Err(Refusal::Address),
    };
    let address = match address {
        (Token::Word(local), domain) if is_dot_atom(local) => Address::from_parts(local, domain),
        (Token::Quoted(local), domain) => Address::from_parts(local, domain),
        _ => Err(AddressError),
    };
    let address = address.map_err(|AddressError| Refusal::Address)?;
    let name = display_name(words)?;
    // Some clients write the address once more as its own name.
    let is_repeated = name.trim_matches(['\'', '"']).eq_ignore_ascii_case(address.as_str());
    Ok(Some(Mailbox {
        name: if is_repeated { String::new() } else { name },
        address,
    }))
}

fn display_name(words: &[Token]) -> Result<String, Refusal> {
    let mut phrase = String::new();
    for word in words {
        match word {
            Token::Word(text) | Token::Quoted(text) => write!(phrase, "{text} ").expect("a String takes all"),
            // Not allowed without quotes, but common: the address as its own name.
            Token::Mark('@') => phrase.replace_range(phrase.trim_end().len().., "@"),
            Token::Mark(_) => return Err(Refusal::Address),
        }
    }
    Ok(words::collapse(&words::decode(phrase.trim_end())?))
}

enum Token {
    /// Atoms and dots, or an encoded word.
    Word(String),
    /// A quoted string, without its quotes.
    Quoted(String),
    /// One of `< > @ , : ;`
    Mark(char),
}

struct Tokens<'a> {
    rest: &'a str,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, AddressError> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t']);
            let Some(first) = self.rest.chars().next() else {
                return Ok(None);
            };
            match first {
                '(' => self.rest = after_comment(self.rest).ok_or(AddressError)?,
                '<' | '>' | '@' | ',' | ':' | ';' => {
                    self.rest = &self.rest[1..];
                    return Ok(Some(Token::Mark(first)));
                }
                '"' => {
                    let end = quoted_end(self.rest).ok_or(AddressError)?;
                    let text = unquote(&self.rest[1..end])?;
                    self.rest = &self.rest[end + 1..];
                    return Ok(Some(Token::Quoted(text)));
                }
                _ => return self.word().map(Some),
            }
        }
    }

    fn word(&mut self) -> Result<Token, AddressError> {
        let is_inside = |character: char| !" \t()<>@,:;\"[]\\".contains(character) && !character.is_control();
        let length = match words::encoded_word_length(self.rest) {
            Some(length) => length,
            None => self
                .rest
                .find(|character| !is_inside(character))
                .unwrap_or(self.rest.len()),
        };
        if length == 0 {
            return Err(AddressError);
        }
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(Token::Word(word.to_owned()))
    }
}

/// Where the quoted string that opens `text` is closed.
pub(super) fn quoted_end(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !is_escaped => return Some(at),
            _ => is_escaped = byte == b'\\' && !is_escaped,
        }
    }
    None
}

/// What follows the comment that opens `text` (RFC 5322 section 3.2.2).
pub(super) fn after_comment(text: &str) -> Option<&str> {
    let mut depth = 0;
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'(' if depth == COMMENT_DEPTH_MAX => return None,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(&text[at + 1..]),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, Refusal> {
        let mailboxes = list(text)?;
        Ok(mailboxes
            .into_iter()
            .map(|mailbox| (mailbox.name, mailbox.address.text))
            .collect())
    }

    fn names(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, Refusal> {
        Ok(pairs
            .iter()
            .map(|(name, address)| ((*name).to_owned(), (*address).to_owned()))
            .collect())
    }

    #[test]
    fn addresses_are_read_into_one_spelling() {
        for (text, canonical) in [
            ("Bob@Example.ORG", "Bob@example.org"),
            ("\"bob\"@example.org", "bob@example.org"),
            ("\"b ob\"@example.org", "\"b ob\"@example.org"),
            ("\"b\\ob\"@example.org", "bob@example.org"),
            ("a+b=c@x_y.example", "a+b=c@x_y.example"),
            ("a@localhost", "a@localhost"),
        ] {
            assert_eq!(
                Address::parse(text).map(|address| address.text).as_deref(),
                Ok(canonical)
            );
        }
        let long = format!("{}@example.org", "x".repeat(65));
        for text in [
            "",
            "bob",
            "@x",
            "bob@",
            "b ob@x",
            "bob@-x",
            "bob@x..y",
            "bob@[1.2.3.4]",
            "bób@x",
            "bob@bücher.example",
            ".a@x",
            &long,
        ] {
            assert_eq!(Address::parse(text), Err(AddressError), "{text}");
        }
    }

    #[test]
    fn lists_are_read_as_clients_write_them() {
        for (text, expected) in [
            ("bob@x.example", names(&[("", "bob@x.example")])),
            (
                " <bob@x.example> , carol@y.example,",
                names(&[("", "bob@x.example"), ("", "carol@y.example")]),
            ),
            (
                "Bob Q. Public <bob@x.example>",
                names(&[("Bob Q. Public", "bob@x.example")]),
            ),
            (
                "\"Public, \\\"Bob\\\"\" <bob@x.example> (CANARY (x\\)))",
                names(&[("Public, \"Bob\"", "bob@x.example")]),
            ),
            (
                "=?utf-8?Q?M=C3=BCller,_J?= <bob@x.example>",
                names(&[("Müller, J", "bob@x.example")]),
            ),
            (
                "\"=?utf-8?Q?M=C3=BC?=\" =?utf-8?Q?ller?= <b@x>",
                names(&[("Müller", "b@x")]),
            ),
            ("Jürgen <b@x>", names(&[("Jürgen", "b@x")])),
            ("'bob@x.example' <Bob@x.example>", names(&[("", "Bob@x.example")])),
            ("a @ b <c@d>", names(&[("a@b", "c@d")])),
            (
                "friends: bob@x.example, <c@y>;, d@z",
                names(&[("", "bob@x.example"), ("", "c@y"), ("", "d@z")]),
            ),
            ("undisclosed-recipients:;", Ok(Vec::new())),
            ("", Ok(Vec::new())),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "bob",
            "a b",
            "bob@x y",
            "<bob@x",
            "bob@x>",
            "Bob <a@b> c",
            "(open",
            "\"open",
            "a: b@c",
            "a:b:c;",
            "b@c;",
            "<@a,@b:c@d>",
            "bób@x",
            "a\\@b",
            "a@b@c",
            "<>",
            "\u{7}a@b",
            "((((((((((x))))))))))",
        ] {
            assert_eq!(read(text), Err(Refusal::Address), "{text}");
        }
    }

    #[test]
    fn megabytes_of_words_take_linear_time() {
        for piece in ["a ", "a, ", "\"\" ", "(", "<", "=?utf-8?Q?,", "\\"] {
            let _ = list(&piece.repeat(3_000_000 / piece.len()));
        }
    }
}
