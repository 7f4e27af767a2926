//! Flags by name and by bit: the system flags of RFC 3501 section 2.3.2, and the keywords of the store.

use imap_codec::imap_types::flag::Flag;
use mailbox::holder_store::{Entry, Flags, Folders, KEYWORDS_MAX};

use super::output::Output;
use super::recent::RecentUids;

/// Names of the system flags by bit, as [`Flags`] has them.
const SYSTEM_NAMES: [&str; 5] = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];

/// Flags that a command names.
#[derive(Default)]
pub(super) struct Named {
    /// Those that the store knows.
    pub(super) flags: Flags,
    /// Keywords that it does not, as long as there is room for them.
    pub(super) new: Vec<String>,
}

impl Named {
    /// `\`-flags of no standard are passed over, as PERMANENTFLAGS announces.
    pub(super) fn of(flags: &[Flag<'_>], folders: &Folders) -> Self {
        let mut named = Self::default();
        for flag in flags {
            match flag {
                Flag::Answered => named.add(Flags::ANSWERED),
                Flag::Deleted => named.add(Flags::DELETED),
                Flag::Draft => named.add(Flags::DRAFT),
                Flag::Flagged => named.add(Flags::FLAGGED),
                Flag::Seen => named.add(Flags::SEEN),
                Flag::Extension(_) => {}
                Flag::Keyword(keyword) => match folders.keyword(keyword.as_ref()) {
                    Some(known) => named.add(known),
                    None => named.add_new(keyword.as_ref(), folders),
                },
            }
        }
        named
    }

    fn add(&mut self, flags: Flags) {
        self.flags = self.flags.with(flags);
    }

    fn add_new(&mut self, keyword: &str, folders: &Folders) {
        let is_named = self.new.iter().any(|named| named.eq_ignore_ascii_case(keyword));
        if !is_named && folders.keywords.len() + self.new.len() < KEYWORDS_MAX {
            self.new.push(keyword.to_owned());
        }
    }
}

/// What it takes to name the flags of a message.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) keywords: &'a [String],
    pub(super) recent: &'a RecentUids,
}

impl Names<'_> {
    /// Writes the flags of a message in parentheses.
    pub(super) fn put_flags(self, entry: &Entry, out: &mut Output) {
        let recent = self.recent.contains(entry.uid);
        put(entry.flags, self.keywords, recent.then_some("\\Recent"), out);
    }
}

/// Writes `FLAGS` and `PERMANENTFLAGS`: what there is, and what may be changed.
pub(super) fn put_all_flags(keywords: &[String], read_only: bool, out: &mut Output) {
    let all = (0..keywords.len()).filter_map(Flags::keyword);
    let all = all.fold(Flags::SYSTEM, Flags::with);
    out.put(b"* FLAGS ");
    put(all, keywords, None, out);
    out.put(b"\r\n* OK [PERMANENTFLAGS ");
    match read_only {
        true => out.put(b"()"),
        false => put(all, keywords, (keywords.len() < KEYWORDS_MAX).then_some("\\*"), out),
    }
    out.put(b"] These flags are kept\r\n");
}

/// `more`: what comes behind them.
fn put(flags: Flags, keywords: &[String], more: Option<&str>, out: &mut Output) {
    let system = SYSTEM_NAMES.iter().enumerate();
    let system = system.filter(|(bit, _)| flags.0 >> bit & 1 == 1).map(|(_, name)| *name);
    let is_set = |number: &usize| Flags::keyword(*number).is_some_and(|keyword| flags.contains(keyword));
    let keywords = keywords.iter().enumerate().filter(|(number, _)| is_set(number));
    let names = system.chain(keywords.map(|(_, name)| name.as_str()));
    out.put(b"(");
    for (index, name) in names.chain(more).enumerate() {
        if index > 0 {
            out.put(b" ");
        }
        out.put(name.as_bytes());
    }
    out.put(b")");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Output)) -> String {
        let mut out = Output::default();
        write(&mut out);
        String::from_utf8_lossy(out.front()).into_owned()
    }

    #[test]
    fn flags_are_named_in_the_order_of_their_bits() {
        let keywords = ["$Forwarded".to_owned(), "b".to_owned()];
        let mut recent = RecentUids::default();
        recent.add(2..3);
        let named = |uid, flags| {
            let names = Names {
                keywords: &keywords,
                recent: &recent,
            };
            let entry = Entry {
                uid,
                flags: Flags(flags),
                size: 0,
                internal_date: 0,
                modseq: 1,
            };
            written(|out| names.put_flags(&entry, out))
        };
        let all = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";
        assert_eq!(named(1, 31), format!("({all})"));
        assert_eq!((named(1, 0), named(2, 0)), ("()".to_owned(), "(\\Recent)".to_owned()));
        assert_eq!(named(1, 72), "(\\Seen b)");
        assert_eq!(named(2, u32::MAX), format!("({all} $Forwarded b \\Recent)"));
    }

    #[test]
    fn a_client_hears_whether_it_may_make_keywords() {
        let some = |count| (0..count).map(|number| format!("k{number}")).collect::<Vec<_>>();
        assert!(
            written(|out| put_all_flags(&some(1), false, out)).ends_with("\\Draft k0 \\*)] These flags are kept\r\n")
        );
        assert!(
            written(|out| put_all_flags(&some(1), true, out)).ends_with("[PERMANENTFLAGS ()] These flags are kept\r\n")
        );
        assert!(!written(|out| put_all_flags(&some(KEYWORDS_MAX), false, out)).contains("\\*"));
    }

    #[test]
    fn new_keywords_are_found_once_and_while_there_is_room() {
        let flag = |name: &'static str| Flag::try_from(name).expect("a flag");
        let folders = |count: usize| Folders {
            keywords: (0..count).map(|number| format!("k{number}")).collect(),
            ..Folders::default()
        };
        let flags = [
            flag("\\Seen"),
            flag("K1"),
            flag("new"),
            flag("NEW"),
            flag("\\Other"),
            flag("newer"),
        ];
        let named = Named::of(&flags, &folders(2));
        assert_eq!(named.flags, Flags(8 | 64));
        assert_eq!(named.new, ["new", "newer"]);
        assert_eq!(Named::of(&flags, &folders(KEYWORDS_MAX - 1)).new, ["new"]);
        assert!(Named::of(&flags, &folders(KEYWORDS_MAX)).new.is_empty());
    }
}
