//! Addresses of an envelope: RFC 5321 4.1.2 and 4.1.3, nothing beyond.
//!
//! What parses here is printable ASCII without angle brackets of its own, so it can be written into a command again.
//! None of these types prints in a log by accident: they have no `Debug`.

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

/// A domain name in lower case, or an address literal in its brackets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Reads `sub-domain *("." sub-domain)` or an address literal; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('[') {
            Some(literal) => address_literal(literal.strip_suffix(']')?).map(Self),
            None if text.len() <= DOMAIN_MAX && text.split('.').all(is_label) => Some(Self(text.to_ascii_lowercase())),
            None => None,
        }
    }

    /// The name, or the literal with its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `Let-dig [Ldh-str]`, at most 63 octets.
fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
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
        if text.len() > ADDRESS_MAX {
            return None;
        }
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => {
                let at = text.find('@')?;
                is_dot_string(&text[..at]).then(|| (text[..at].to_owned(), &text[at..]))?
            }
        };
        let domain = Domain::parse(rest.strip_prefix('@')?)?;
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
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            f.write_str(&self.local)?;
        } else {
            f.write_str("\"")?;
            for octet in self.local.chars() {
                f.write_str(if matches!(octet, '"' | '\\') { "\\" } else { "" })?;
                write!(f, "{octet}")?;
            }
            f.write_str("\"")?;
        }
        write!(f, "@{}", self.domain.0)
    }
}

/// `Atom *("." Atom)`.
fn is_dot_string(text: &str) -> bool {
    let is_atext = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet);
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.bytes().all(is_atext))
}

/// The content of a `Quoted-string` whose opening quote is gone, and what follows the closing one.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut octets = text.bytes().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return Some((content, &text[at + 1..])),
            b'\\' => content.push(octets.next().map(|(_, escaped)| escaped).filter(is_printable)?.into()),
            _ => content.push(Some(octet).filter(is_printable)?.into()),
        }
    }
    None
}

fn is_printable(octet: &u8) -> bool {
    matches!(octet, b' '..=b'~')
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
        match text {
            "" => Some(Self::Null),
            _ => Mailbox::parse(without_source_route(text)?).map(Self::Mailbox),
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
        if text.eq_ignore_ascii_case("postmaster") {
            return Some(Self::Postmaster);
        }
        Mailbox::parse(without_source_route(text)?).map(Self::Mailbox)
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
fn without_source_route(text: &str) -> Option<&str> {
    if !text.starts_with('@') {
        return Some(text);
    }
    let (route, mailbox) = text.split_once(':')?;
    let is_hop = |hop: &str| hop.strip_prefix('@').and_then(Domain::parse).is_some();
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

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(text in "[a-c\"\\\\@.>< \u{e9}]{0,12}@[a-b.-]{1,6}") {
            if let Some(mailbox) = Mailbox::parse(&text) {
                let form = mailbox.to_string();
                // Unquoting only shortens; quoting again may escape fewer octets, never more.
                prop_assert!(form.len() <= text.len());
                prop_assert!(Mailbox::parse(&form) == Some(mailbox));
                prop_assert!(form.bytes().all(|octet| is_printable(&octet)));
            }
        }
    }
}
