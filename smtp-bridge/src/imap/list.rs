//! LIST and LSUB (RFC 3501 sections 6.3.8 and 6.3.9), with the attributes of RFC 3348 and RFC 6154.

use std::collections::{BTreeMap, BTreeSet};

use imap_codec::imap_types::mailbox::ListMailbox;
use mailbox::holder_store::{Folders, SpecialUse};

use super::output::Output;
use super::utf7;

const DELIMITER: u8 = b'/';

/// Longest pattern, in bytes: no name is as long.
const PATTERN_MAX: usize = 1_000;

/// Answers LIST.
pub(super) fn put_list(reference: &[u8], pattern: &ListMailbox<'_>, folders: &Folders, out: &mut Output) {
    let Some(pattern) = Pattern::of(reference, pattern) else {
        return put_delimiter("LIST", out);
    };
    let mut names: BTreeMap<&str, Option<SpecialUse>> = BTreeMap::new();
    let mut superiors: BTreeSet<&str> = BTreeSet::new();
    for folder in &folders.all {
        names.insert(&folder.name, folder.special_use);
        superiors.extend(superiors_of(&folder.name));
    }
    // INBOX is first in the store, and here.
    let inbox = folders.all.first().map(|inbox| inbox.name.as_str());
    let others = names.keys().chain(&superiors).copied().collect::<BTreeSet<&str>>();
    let others = others.into_iter().filter(|name| Some(*name) != inbox);
    for name in inbox.into_iter().chain(others) {
        let wire = utf7::encode(name);
        if !pattern.means(wire.as_bytes()) {
            continue;
        }
        let children = if superiors.contains(name) {
            "\\HasChildren"
        } else {
            "\\HasNoChildren"
        };
        match names.get(name) {
            Some(special_use) => {
                let special_use = special_use.map_or("", attribute);
                put_name("LIST", &[children, special_use], &wire, out);
            }
            // A folder was deleted, and those below it were not.
            None => put_name("LIST", &["\\Noselect", children], &wire, out),
        }
    }
}

/// Answers LSUB.
pub(super) fn put_lsub(reference: &[u8], pattern: &ListMailbox<'_>, folders: &Folders, out: &mut Output) {
    let Some(pattern) = Pattern::of(reference, pattern) else {
        return put_delimiter("LSUB", out);
    };
    let mut told: BTreeMap<&str, bool> = BTreeMap::new();
    for name in &folders.subscribed {
        if pattern.means(utf7::encode(name).as_bytes()) {
            told.insert(name, true);
            continue;
        }
        // RFC 3501 section 6.3.9: `%` means a name above a subscribed one too.
        for superior in superiors_of(name) {
            if pattern.means(utf7::encode(superior).as_bytes()) {
                told.entry(superior).or_insert(false);
            }
        }
    }
    for (name, is_subscribed) in told {
        let is_folder = is_subscribed && folders.by_name(name).is_some();
        let attributes = if is_folder { "" } else { "\\Noselect" };
        put_name("LSUB", &[attributes], &utf7::encode(name), out);
    }
}

/// The attribute of RFC 6154.
fn attribute(special_use: SpecialUse) -> &'static str {
    match special_use {
        SpecialUse::Archive => "\\Archive",
        SpecialUse::Drafts => "\\Drafts",
        SpecialUse::Junk => "\\Junk",
        SpecialUse::Sent => "\\Sent",
        SpecialUse::Trash => "\\Trash",
    }
}

/// The special use of an attribute, in any case.
pub(super) fn special_use(attribute_name: &[u8]) -> Option<SpecialUse> {
    let mut all = SpecialUse::ALL.iter().map(|(special_use, _)| *special_use);
    all.find(|special_use| attribute(*special_use).as_bytes().eq_ignore_ascii_case(attribute_name))
}

/// Names above a name.
fn superiors_of(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(char::from(DELIMITER)).map(|(at, _)| &name[..at])
}

fn put_name(verb: &str, attributes: &[&str], wire: &str, out: &mut Output) {
    let attributes: Vec<&str> = attributes.iter().copied().filter(|name| !name.is_empty()).collect();
    out.put_fmt(format_args!("* {verb} ({}) \"/\" ", attributes.join(" ")));
    put_mailbox(wire, out);
    out.put(b"\r\n");
}

/// The answer to an empty pattern: it asks for the hierarchy delimiter.
fn put_delimiter(verb: &str, out: &mut Output) {
    out.line(format_args!("* {verb} (\\Noselect) \"/\" \"\""));
}

/// `mailbox`: as an atom where that is one without doubt.
pub(super) fn put_mailbox(wire: &str, out: &mut Output) {
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./&+,".contains(&byte);
    // NIL is an atom that some take for nothing.
    match !wire.is_empty() && wire.bytes().all(is_atom) && !wire.eq_ignore_ascii_case("NIL") {
        true => out.put(wire.as_bytes()),
        false => out.put_string(wire.as_bytes()),
    }
}

/// What LIST looks for.
struct Pattern(Vec<u8>);

impl Pattern {
    /// `None`: an empty one.
    fn of(reference: &[u8], pattern: &ListMailbox<'_>) -> Option<Self> {
        let pattern = match pattern {
            ListMailbox::Token(token) => token.as_ref(),
            ListMailbox::String(string) => string.as_ref(),
        };
        if pattern.is_empty() {
            return None;
        }
        let mut whole = [reference, pattern].concat();
        whole.dedup_by(|next, before| *next == *before && matches!(next, b'*' | b'%'));
        Some(Self(whole))
    }

    /// Whether it means that name: `*` is anything, `%` anything without a delimiter. The first level INBOX is that in any
    /// case.
    fn means(&self, name: &[u8]) -> bool {
        if self.0.len() > PATTERN_MAX {
            return false;
        }
        let first = name.split(|&byte| byte == DELIMITER).next().unwrap_or_default();
        let any_case = if first == b"INBOX" { first.len() } else { 0 };
        // Lengths of the parts of the name that the pattern so far means.
        let mut lengths = vec![false; name.len() + 1];
        lengths[0] = true;
        for &byte in &self.0 {
            match byte {
                b'*' => {
                    let first = lengths.iter().position(|&reached| reached).unwrap_or(lengths.len());
                    lengths[first..].fill(true);
                }
                b'%' => {
                    for length in 1..lengths.len() {
                        lengths[length] |= lengths[length - 1] && name[length - 1] != DELIMITER;
                    }
                }
                _ => {
                    for length in (1..lengths.len()).rev() {
                        let is_same = match length <= any_case {
                            true => name[length - 1].eq_ignore_ascii_case(&byte),
                            false => name[length - 1] == byte,
                        };
                        lengths[length] = lengths[length - 1] && is_same;
                    }
                    lengths[0] = false;
                }
            }
        }
        lengths[name.len()]
    }
}

/// Looks for a name by a pattern: any octets, with a line between them. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == b'\n');
    let (pattern, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let name = &name[..name.len().min(PATTERN_MAX)];
    let pattern = Pattern(pattern.to_vec());
    let found = pattern.means(name);
    // More of the same is no more: `*` before and behind finds what was found.
    let wider = Pattern([b"*", &pattern.0[..], b"*"].concat());
    assert!(!found || wider.0.len() > PATTERN_MAX || wider.means(name));
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::{Folder, FolderId};
    use proptest::prelude::*;

    use super::*;

    fn folders(names: &[&str], subscribed: &[&str]) -> Folders {
        let folder = |(index, name): (usize, &&str)| Folder {
            id: FolderId(index as u32),
            name: name.to_string(),
            special_use: (*name == "Sent").then_some(SpecialUse::Sent),
            uid_validity: 1,
        };
        Folders {
            all: names.iter().enumerate().map(folder).collect(),
            subscribed: subscribed.iter().map(|name| name.to_string()).collect(),
            ..Folders::default()
        }
    }

    fn told(put: impl Fn(&[u8], &ListMailbox<'_>, &Folders, &mut Output), pattern: &str, folders: &Folders) -> String {
        let mut out = Output::default();
        let pattern = ListMailbox::try_from(pattern).expect("a pattern");
        put(b"", &pattern, folders, &mut out);
        let said = String::from_utf8_lossy(out.front()).replace("\r\n", "; ");
        said.replace("* LIST ", "")
            .replace("* LSUB ", "")
            .replace(" \"/\" ", " ")
    }

    #[test]
    fn patterns_mean_their_names() {
        let means = |pattern: &str, name: &str| {
            let pattern = ListMailbox::try_from(pattern).expect("a pattern");
            Pattern::of(b"", &pattern).expect("not empty").means(name.as_bytes())
        };
        for (pattern, name) in [
            ("INBOX", "INBOX"),
            ("inbox", "INBOX"),
            ("*", "INBOX"),
            ("%", "INBOX"),
            ("IN%", "INBOX"),
            ("*box", "INBOX"),
            ("I*B*X", "INBOX"),
            ("**%%", "INBOX"),
            ("inbox/x", "INBOX/x"),
            ("*", "a/b/c"),
            ("%/%/c", "a/b/c"),
            ("a/*", "a/b/c"),
            ("*c", "a/b/c"),
            ("a*/%", "a/b/c"),
        ] {
            assert!(means(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("INBO", "INBOX"),
            ("INBOXX", "INBOX"),
            ("inbox/X", "INBOX/x"),
            ("sent", "Sent"),
            ("%", "a/b"),
            ("a%", "a/b"),
            ("%/%", "a/b/c"),
            ("a/*", "a"),
        ] {
            assert!(!means(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn folders_are_told_with_what_they_are() {
        let folders = folders(&["INBOX", "A", "Sent", "a b", "p\u{e4}", "x/y/z"], &[]);
        assert_eq!(told(put_list, "", &folders), "(\\Noselect) \"\"; ");
        assert_eq!(
            told(put_list, "%", &folders),
            "(\\HasNoChildren) INBOX; (\\HasNoChildren) A; (\\HasNoChildren \\Sent) Sent; (\\HasNoChildren) \"a b\"; \
             (\\HasNoChildren) p&AOQ-; (\\Noselect \\HasChildren) x; "
        );
        assert_eq!(
            told(put_list, "x*", &folders),
            "(\\Noselect \\HasChildren) x; (\\Noselect \\HasChildren) x/y; (\\HasNoChildren) x/y/z; "
        );
        assert_eq!(told(put_list, "p&AOQ-", &folders), "(\\HasNoChildren) p&AOQ-; ");
    }

    #[test]
    fn subscribed_names_are_told_whether_they_exist_or_not() {
        let folders = folders(&["INBOX", "a", "a/b"], &["INBOX", "a/b", "gone", "x/y"]);
        assert_eq!(
            told(put_lsub, "*", &folders),
            "() INBOX; () a/b; (\\Noselect) gone; (\\Noselect) x/y; "
        );
        assert_eq!(
            told(put_lsub, "%", &folders),
            "() INBOX; (\\Noselect) a; (\\Noselect) gone; (\\Noselect) x; "
        );
        assert_eq!(told(put_lsub, "x/%", &folders), "(\\Noselect) x/y; ");
    }

    /// What the RFC says, said by recursion.
    fn plain(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), _) => (0..=name.len()).any(|at| plain(rest, &name[at..])),
            (Some((b'%', rest)), _) => {
                let end = name.iter().position(|&byte| byte == b'/').unwrap_or(name.len());
                (0..=end).any(|at| plain(rest, &name[at..]))
            }
            (Some((byte, rest)), Some((first, behind))) => byte == first && plain(rest, behind),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_agree_with_the_plain_reading(pattern in "[ab/*%]{0,8}", name in "[ab/]{0,10}") {
            prop_assert_eq!(Pattern(pattern.clone().into()).means(name.as_bytes()), plain(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn any_octets_are_a_pattern(bytes in proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'%'), Just(b'/'), Just(b'\n'), any::<u8>()], 0..200)) {
            fuzz(&bytes);
        }
    }
}
