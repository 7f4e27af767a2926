//! Addresses of an envelope: RFC 5321 4.1.2 and 4.1.3, and RFC 6531 3.3 where it is asked for.
//!
//! What `parse` reads is printable ASCII without angle brackets of its own, so it can be written into a command again;
//! what `parse_international` reads may need SMTPUTF8 for that. Nothing is ever mapped: two addresses that only look
//! alike are two. None of these types prints in a log by accident: they have no `Debug`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Octets of a local part (RFC 5321 4.5.3.1.1).
const LOCAL_PART_MAX: usize = 64;
/// Octets of an address: a path of 256 without its brackets (RFC 5321 4.5.3.1.3).
const ADDRESS_MAX: usize = 254;
/// Octets of a domain's label (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;
/// Octets of a domain name in text (RFC 1035 2.3.4, without the length octets).
const DOMAIN_MAX: usize = 253;

/// What an address may be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repertoire {
    /// RFC 5321.
    Ascii,
    /// RFC 6531: UTF-8 besides.
    International,
}

impl Repertoire {
    /// `UTF8-non-ascii`, but nothing that is no character of a name: controls, spaces, what changes the direction or
    /// cannot be seen, dots that are none.
    fn takes(self, character: char) -> bool {
        self == Self::International
            && !character.is_ascii()
            && !character.is_control()
            && !character.is_whitespace()
            && !matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}'
                | '\u{3002}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{feff}' | '\u{ff00}'..='\u{ff0f}'
                | '\u{ff1a}'..='\u{ff20}' | '\u{ff61}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..)
    }
}

/// A domain name in lower case, or an address literal in its brackets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Reads `sub-domain *("." sub-domain)` or an address literal; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::Ascii)
    }

    fn read(text: &str, repertoire: Repertoire) -> Option<Self> {
        let is_name = || text.len() <= DOMAIN_MAX && text.split('.').all(|label| is_label(label, repertoire));
        match text.strip_prefix('[') {
            Some(literal) => address_literal(literal.strip_suffix(']')?).map(Self),
            None if is_name() => Some(Self(text.to_ascii_lowercase())),
            None => None,
        }
    }

    /// The name, or the literal with its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `Let-dig [Ldh-str]`, at most 63 octets; or a label in UTF-8, which is neither looked up nor compared with another form
/// of itself, so it is not held against IDNA's tables.
fn is_label(label: &str, repertoire: Repertoire) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '-' || repertoire.takes(character))
}

/// IPv4 and IPv6 literals, printed in one form each; tags other than `IPv6` are unknown and refused.
fn address_literal(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(format!("[{address}]"));
    }
    let (tag, address) = text.split_once(':')?;
    let address = address.parse::<Ipv6Addr>().ok()?;
    tag.eq_ignore_ascii_case("IPv6").then(|| format!("[IPv6:{address}]"))
}

/// `Local-part "@" ( Domain / address-literal )`.
///
/// Two spellings of one mailbox are equal: the local part is kept without its quotes, the domain in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

impl Mailbox {
    /// Reads an address as it stands between the brackets of a path.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::Ascii)
    }

    /// The same with UTF-8 in it (RFC 6531 3.3).
    pub fn parse_international(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::International)
    }

    fn read(text: &str, repertoire: Repertoire) -> Option<Self> {
        if text.len() > ADDRESS_MAX {
            return None;
        }
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted, repertoire)?,
            None => {
                let at = text.find('@')?;
                is_dot_string(&text[..at], repertoire).then(|| (text[..at].to_owned(), &text[at..]))?
            }
        };
        let domain = Domain::read(rest.strip_prefix('@')?, repertoire)?;
        (text.len() - rest.len() <= LOCAL_PART_MAX).then_some(Self { local, domain })
    }

    /// The local part without quotes. Its case is kept, though few systems tell it apart.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain or address literal.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether it can be written without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.0.is_ascii()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local, Repertoire::International) {
            f.write_str(&self.local)?;
        } else {
            f.write_str("\"")?;
            for character in self.local.chars() {
                f.write_str(if matches!(character, '"' | '\\') { "\\" } else { "" })?;
                write!(f, "{character}")?;
            }
            f.write_str("\"")?;
        }
        write!(f, "@{}", self.domain.0)
    }
}

/// `Atom *("." Atom)`.
fn is_dot_string(text: &str, repertoire: Repertoire) -> bool {
    let is_atext = |character: char| {
        character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character) || repertoire.takes(character)
    };
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// The content of a `Quoted-string` whose opening quote is gone, and what follows the closing one.
fn quoted_string(text: &str, repertoire: Repertoire) -> Option<(String, &str)> {
    let is_qtext = |character: &char| matches!(character, ' '..='~') || repertoire.takes(*character);
    let is_escaped = |character: &char| matches!(character, ' '..='~');
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        content.push(match character {
            '"' => return Some((content, &text[at + 1..])),
            '\\' => characters.next().map(|(_, escaped)| escaped).filter(is_escaped)?,
            _ => Some(character).filter(is_qtext)?,
        });
    }
    None
}

/// Whom a message comes from, and where its bounce goes.
#[derive(Clone, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: a bounce, which nobody bounces again.
    Null,
    /// An address.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads what stands between the brackets. A source route is checked and ignored.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::Ascii)
    }

    /// The same with UTF-8 in it (RFC 6531 3.3).
    pub fn parse_international(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::International)
    }

    fn read(text: &str, repertoire: Repertoire) -> Option<Self> {
        match text {
            "" => Some(Self::Null),
            _ => Mailbox::read(without_source_route(text, repertoire)?, repertoire).map(Self::Mailbox),
        }
    }

    /// Whether it can be written without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// Whom a message goes to.
#[derive(Clone, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<Postmaster>` in any case: this host's own, without a domain (RFC 5321 4.5.1).
    Postmaster,
    /// An address.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// Reads what stands between the brackets. A source route is checked and ignored.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::Ascii)
    }

    /// The same with UTF-8 in it (RFC 6531 3.3).
    pub fn parse_international(text: &str) -> Option<Self> {
        Self::read(text, Repertoire::International)
    }

    fn read(text: &str, repertoire: Repertoire) -> Option<Self> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Some(Self::Postmaster);
        }
        Mailbox::read(without_source_route(text, repertoire)?, repertoire).map(Self::Mailbox)
    }

    /// Whether it can be written without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Postmaster => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("Postmaster"),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

/// `[ A-d-l ":" ] Mailbox`: the route is obsolete and never followed (RFC 5321 appendix C).
fn without_source_route(text: &str, repertoire: Repertoire) -> Option<&str> {
    if !text.starts_with('@') {
        return Some(text);
    }
    let (route, mailbox) = text.split_once(':')?;
    let is_hop = |hop: &str| {
        let domain = hop.strip_prefix('@');
        domain.and_then(|domain| Domain::read(domain, repertoire)).is_some()
    };
    (text.len() <= ADDRESS_MAX && route.split(',').all(is_hop)).then_some(mailbox)
}

/// Splits `<path> rest` behind the closing bracket; a bracket within quotes closes nothing.
pub(super) fn split_path(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in inner.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_addresses_are_read_and_written_in_one_form() {
        let local_64 = "x".repeat(64);
        let long_domain = ["d".repeat(60), "d".repeat(60), "d".repeat(60), "ex".into()].join(".");
        for (text, form) in [
            ("a@b.example", "a@b.example"),
            ("A.b@B.Example", "A.b@b.example"),
            ("a@localhost", "a@localhost"),
            ("!#$%&'*+/=?^_`{|}~-@x", "!#$%&'*+/=?^_`{|}~-@x"),
            ("\"a\"@b", "a@b"),
            ("\"a b\"@c", "\"a b\"@c"),
            ("\"a@b\"@c", "\"a@b\"@c"),
            ("\"a\\\"\\b>\"@c", "\"a\\\"b>\"@c"),
            ("\"\"@c", "\"\"@c"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("a@[ipv6:2001:DB8:0::1]", "a@[IPv6:2001:db8::1]"),
            (&format!("{local_64}@b"), &format!("{local_64}@b")),
            (&format!("a@{long_domain}"), &format!("a@{long_domain}")),
        ] {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(mailbox.to_string(), form);
            assert!(Mailbox::parse(form) == Some(mailbox));
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        let local_65 = format!("{}@b", "x".repeat(65));
        let quoted_66 = format!("\"{}\"@b", "x".repeat(63));
        let label_64 = format!("a@{}.ex", "d".repeat(64));
        let too_long = format!(
            "a@{}",
            ["d".repeat(63), "d".repeat(63), "d".repeat(63), "d".repeat(61)].join(".")
        );
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            "a b@c",
            "a@b c",
            "a@b..c",
            "a@.b",
            "a@b.",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a@-b",
            "a@b-",
            "a@b_c",
            "a@[999.1.1.1]",
            "a@[192.0.2.1",
            "a@[IPv6:zz::1]",
            "a@[2001:db8::1]",
            "a@[x:y]",
            "a@[]",
            "\"a@b",
            "\"a\"b@c",
            "\"a\\",
            "a\t@b",
            "\"a\tb\"@c",
            "gr\u{e5}@b",
            "a@b\u{fc}cher",
            "\"\u{e9}\"@b",
            "<a@b>",
            "a<@b",
            &local_65,
            &quoted_66,
            &label_64,
            &too_long,
        ] {
            assert!(Mailbox::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn paths_know_null_postmaster_and_source_routes() {
        assert!(matches!(ReversePath::parse(""), Some(ReversePath::Null)));
        assert!(ForwardPath::parse("").is_none());
        assert!(matches!(
            ForwardPath::parse("PostMaster"),
            Some(ForwardPath::Postmaster)
        ));
        assert!(ReversePath::parse("postmaster").is_none());
        let routed = |text| ForwardPath::parse(text).map(|path| path.to_string());
        assert_eq!(routed("@a.example,@b:c@d").as_deref(), Some("c@d"));
        for bad in ["@a", "@a:", "@:c@d", "@a,b:c@d", "@a,:c@d", "@a:@b:c@d"] {
            assert!(routed(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_path_ends_at_the_first_bracket_outside_quotes() {
        assert!(split_path("<a@b> SIZE=1") == Some(("a@b", " SIZE=1")));
        assert!(split_path(r#"<"a>\">"@b>x"#) == Some((r#""a>\">"@b"#, "x")));
        for bad in ["", "a@b", "<a@b", "<\"a@b>"] {
            assert!(split_path(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn addresses_in_utf8_are_read_where_they_are_asked_for() {
        for text in [
            "gr\u{e5}@b",
            "a@b\u{fc}cher.example",
            "\"\u{e9} \u{4e2d}\"@b",
            "\u{4e2d}\u{6587}@\u{4f8b}\u{3048}.example",
            "a.\u{e9}@b",
        ] {
            assert!(Mailbox::parse(text).is_none(), "{text}");
            let mailbox = Mailbox::parse_international(text).unwrap_or_else(|| panic!("{text}"));
            assert!(!mailbox.is_ascii());
            assert!(Mailbox::parse_international(&mailbox.to_string()) == Some(mailbox));
        }
        for text in [
            "a\u{202e}b@c",
            "a\u{200b}@c",
            "a\u{85}@c",
            "a\u{a0}@c",
            "a@b\u{3002}c",
            "a@b\u{ff0e}c",
            "a\u{ff20}b",
            "a@-\u{e9}",
            "a@\u{e9}..b",
            "\u{feff}a@b",
            "a@[\u{e9}]",
            "\"\\\u{e9}\"@b",
            &format!("{}@b", "\u{e9}".repeat(33)),
            &format!("a@{}", "\u{e9}".repeat(32)),
        ] {
            assert!(
                Mailbox::parse_international(text).is_none(),
                "{}",
                text.escape_unicode()
            );
        }
    }

    #[test]
    fn a_domain_that_only_looks_like_another_is_another() {
        let own = Domain::parse("relay.test").expect("a domain");
        for lookalike in [
            "rel\u{430}y.test",
            "\u{ff52}elay.test",
            "relay.te\u{17f}t",
            "relay.t\u{e9}st",
        ] {
            let domain = Domain::read(lookalike, Repertoire::International).expect("well formed");
            assert!(domain != own, "{lookalike}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_in_utf8_is_written_so_that_it_reads_the_same(text in "[a-c\"\\\\@.>< \u{e9}\u{4e2d}\u{202e}]{0,12}@[a-b\u{fc}.-]{1,6}") {
            if let Some(mailbox) = Mailbox::parse_international(&text) {
                prop_assert!(mailbox.is_ascii() == Mailbox::parse(&text).is_some());
                prop_assert!(Mailbox::parse_international(&mailbox.to_string()) == Some(mailbox));
            }
        }

        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in "[a-c\"\\\\@.>< \u{e9}]{0,12}@[a-b.-]{1,6}") {
            if let Some(mailbox) = Mailbox::parse(&text) {
                let form = mailbox.to_string();
                // Unquoting only shortens; quoting again may escape fewer octets, never more.
                prop_assert!(form.len() <= text.len());
                prop_assert!(Mailbox::parse(&form) == Some(mailbox));
                prop_assert!(form.bytes().all(|octet| matches!(octet, b' '..=b'~')));
            }
        }
    }
}
