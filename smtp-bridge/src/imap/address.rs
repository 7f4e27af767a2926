//! Address lists (RFC 5322 section 3.4), as ENVELOPE wants them: raw, undecoded, and something for any octets.

use super::header::{Lexer, Token};

/// Addresses of one field that are looked at.
const ADDRESSES_MAX: usize = 1_000;

const ADDRESS_SPECIALS: &[u8] = b"<>@,;:[]";

/// A member of an address list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Address {
    /// `name <@route:mailbox@host>`
    Mailbox {
        /// The phrase before, or else the comment behind.
        name: Option<Vec<u8>>,
        /// Obsolete source route.
        route: Option<Vec<u8>>,
        mailbox: Vec<u8>,
        /// Empty if the address has none.
        host: Vec<u8>,
    },
    /// `name:`
    GroupStart(Vec<u8>),
    /// `;`
    GroupEnd,
}

/// Reads a list, bounded, passing over what cannot be a part of one.
pub(super) fn parse(value: &[u8]) -> Vec<Address> {
    let mut list = List::default();
    for token in Lexer::new(value, ADDRESS_SPECIALS) {
        if list.addresses.len() >= ADDRESSES_MAX {
            break;
        }
        list.take(token);
    }
    list.end_address();
    if list.in_group {
        list.addresses.push(Address::GroupEnd);
    }
    list.addresses
}

#[derive(Default)]
struct List {
    addresses: Vec<Address>,
    in_group: bool,
    place: Place,
    /// Words so far, with single spaces between them: a display name, perhaps.
    phrase: Vec<u8>,
    /// The same words without spaces: a local part, perhaps.
    local: Vec<u8>,
    comment: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    route: Option<Vec<u8>>,
    host: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before `@`, outside brackets.
    #[default]
    Phrase,
    /// Behind `<`.
    Local,
    /// In the source route behind `<`.
    Route,
    /// Behind `@`; with brackets to close or not.
    Host { bracketed: bool },
    /// Behind `>`.
    Closed,
}

impl List {
    fn take(&mut self, token: Token<'_>) {
        match token {
            Token::Comment(comment) => self.comment = Some(comment),
            Token::Atom(word) | Token::DomainLiteral(word) => self.word(word),
            Token::Quoted(word) => self.word(&word),
            Token::Special(special) => self.special(special),
        }
    }

    fn word(&mut self, word: &[u8]) {
        match self.place {
            Place::Phrase => {
                if !self.phrase.is_empty() {
                    self.phrase.push(b' ');
                }
                self.phrase.extend_from_slice(word);
                self.local.extend_from_slice(word);
            }
            Place::Local => self.local.extend_from_slice(word),
            Place::Route => self.route.get_or_insert_default().extend_from_slice(word),
            Place::Host { .. } => self.host.extend_from_slice(word),
            Place::Closed => {}
        }
    }

    fn special(&mut self, special: u8) {
        match (special, self.place) {
            (b'<', Place::Phrase) => {
                self.name = Some(std::mem::take(&mut self.phrase)).filter(|name| !name.is_empty());
                self.local.clear();
                self.place = Place::Local;
            }
            (b'@', Place::Local) if self.local.is_empty() => {
                self.route = Some(b"@".to_vec());
                self.place = Place::Route;
            }
            (b'@' | b',', Place::Route) => self.route.get_or_insert_default().push(special),
            (b':', Place::Route) => self.place = Place::Local,
            (b'@', Place::Phrase) => self.place = Place::Host { bracketed: false },
            (b'@', Place::Local) => self.place = Place::Host { bracketed: true },
            (b'>', Place::Local | Place::Route | Place::Host { bracketed: true }) => self.place = Place::Closed,
            (b':', Place::Phrase) if !self.in_group => {
                let name = std::mem::take(&mut self.phrase);
                self.clear();
                self.addresses.push(Address::GroupStart(name));
                self.in_group = true;
            }
            (b',', _) => self.end_address(),
            (b';', _) => {
                self.end_address();
                if std::mem::take(&mut self.in_group) {
                    self.addresses.push(Address::GroupEnd);
                }
            }
            _ => {}
        }
    }

    /// Puts the address so far into the list, if there is one.
    fn end_address(&mut self) {
        let mailbox = std::mem::take(&mut self.local);
        if !mailbox.is_empty() || !self.host.is_empty() || self.name.is_some() {
            let name = self
                .name
                .take()
                .or_else(|| self.comment.take().filter(|comment| !comment.is_empty()));
            let (route, host) = (self.route.take(), std::mem::take(&mut self.host));
            self.addresses.push(Address::Mailbox {
                name,
                route,
                mailbox,
                host,
            });
        }
        self.clear();
    }

    fn clear(&mut self) {
        let (addresses, in_group) = (std::mem::take(&mut self.addresses), self.in_group);
        *self = Self {
            addresses,
            in_group,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name|route|mailbox|host` for each, groups in brackets.
    fn shown(value: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let shown = parse(value.as_bytes()).into_iter().map(|address| match address {
            Address::Mailbox {
                name,
                route,
                mailbox,
                host,
            } => {
                let (name, route) = (name.unwrap_or_default(), route.unwrap_or_default());
                [name, route, mailbox, host].map(|part| text(&part)).join("|")
            }
            Address::GroupStart(name) => format!("[{}", text(&name)),
            Address::GroupEnd => "]".to_string(),
        });
        shown.collect::<Vec<_>>().join(" ; ")
    }

    #[test]
    fn lists_are_read_as_written() {
        let cases = [
            ("", ""),
            ("a@b", "||a|b"),
            ("<a@b>", "||a|b"),
            (
                "John Q. Public <john.q@x.example>, b@c",
                "John Q. Public||john.q|x.example ; ||b|c",
            ),
            ("\"Last, First\" <a@b>", "Last, First||a|b"),
            ("a@b (Old Style)", "Old Style||a|b"),
            ("\"quoted local\"@b", "||quoted local|b"),
            ("a@[127.0.0.1]", "||a|[127.0.0.1]"),
            ("A <@r1,@r2:a@b>", "A|@r1,@r2|a|b"),
            ("Friends: a@b, C <c@d>;, e@f", "[Friends ; ||a|b ; C||c|d ; ] ; ||e|f"),
            ("undisclosed-recipients:;", "[undisclosed-recipients ; ]"),
            ("=?utf-8?Q?J=C3=B6rg?= <j@x>", "=?utf-8?Q?J=C3=B6rg?=||j|x"),
            ("root", "||root|"),
            ("<>", ""),
            ("a b c@d", "||abc|d"),
        ];
        for (value, expected) in cases {
            assert_eq!(shown(value), expected, "{value}");
        }
    }

    #[test]
    fn broken_lists_give_something() {
        for value in [
            "@", "<", "a:", "a:b:c", ";", ",,,", "<<a@b>>", "a@b@c", "\"open", "(open", "[open", "a<b", ">@,",
        ] {
            parse(value.as_bytes());
        }
        assert_eq!(parse("a@b,".repeat(5_000).as_bytes()).len(), ADDRESSES_MAX);
    }
}
