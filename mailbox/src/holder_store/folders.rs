//! Folders, their messages, and what may be changed about them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Entries;
use crate::StoreError;

/// Most folders of a store, INBOX among them.
pub const FOLDERS_MAX: usize = 1_000;
/// Longest name of a folder, in bytes.
pub const FOLDER_NAME_BYTES_MAX: usize = 255;
/// Most levels of a folder's name.
pub const FOLDER_LEVELS_MAX: usize = 10;
/// Most names that are subscribed.
pub const SUBSCRIBED_MAX: usize = 2 * FOLDERS_MAX;
/// Most keywords of a store.
pub const KEYWORDS_MAX: usize = 26;
/// Longest keyword, in bytes.
pub const KEYWORD_BYTES_MAX: usize = 100;
/// Most messages that are copied in one operation.
pub const COPIED_MAX: usize = 1 << 17;

/// What stands between the levels of a folder's name.
const DELIMITER: char = '/';
const INBOX_NAME: &str = "INBOX";

/// A folder's number: 0 is INBOX. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FolderId(pub u32);

impl FolderId {
    /// Where mail arrives. It is always there.
    pub const INBOX: Self = Self(0);
}

/// What a folder is for (RFC 6154). The order is the stored format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum SpecialUse {
    /// `\Archive`.
    Archive,
    /// `\Drafts`.
    Drafts,
    /// `\Junk`.
    Junk,
    /// `\Sent`.
    Sent,
    /// `\Trash`.
    Trash,
}

impl SpecialUse {
    /// All of them, with the names of the folders that a new store has.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Archive, "Archive"),
        (Self::Drafts, "Drafts"),
        (Self::Junk, "Junk"),
        (Self::Sent, "Sent"),
        (Self::Trash, "Trash"),
    ];
}

/// A folder, without its messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// Its number.
    pub id: FolderId,
    /// UTF-8, levels divided by `/`.
    pub name: String,
    /// What it is for.
    pub special_use: Option<SpecialUse>,
    /// UIDVALIDITY: no two folders of a store ever have the same, and a later one has a higher one.
    pub uid_validity: u32,
}

/// All folders at one moment, and what holds for the whole store.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Folders {
    /// Counts up with every change.
    pub version: u64,
    /// INBOX first, then by name. One whose superior was deleted stays: there may be `a/b` without `a`.
    pub all: Vec<Folder>,
    /// Subscribed names, of folders or not (RFC 3501 section 6.3.6).
    pub subscribed: BTreeSet<String>,
    /// Keywords in use: the one at place n is bit 5 + n of [`Flags`].
    pub keywords: Vec<String>,
}

impl Folders {
    /// The folder of a number.
    #[must_use]
    pub fn by_id(&self, id: FolderId) -> Option<&Folder> {
        self.all.iter().find(|folder| folder.id == id)
    }

    /// The folder of a name, INBOX in any case.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Folder> {
        let name = canonical(name);
        self.all.iter().find(|folder| folder.name == name)
    }

    /// Whether there is a folder below this name.
    #[must_use]
    pub fn has_children(&self, name: &str) -> bool {
        let name = canonical(name);
        self.all.iter().any(|folder| below(&name, &folder.name).is_some())
    }

    /// The flag of a keyword, in any case; `None`: no message has it.
    #[must_use]
    pub fn keyword(&self, name: &str) -> Option<Flags> {
        let number = self.keywords.iter().position(|known| known.eq_ignore_ascii_case(name));
        number.and_then(Flags::keyword)
    }
}

/// A name as it is compared: INBOX is that in any case, as a name or as the first level of one.
#[must_use]
pub fn canonical(name: &str) -> String {
    let first = name.split(DELIMITER).next().unwrap_or_default();
    if first.eq_ignore_ascii_case(INBOX_NAME) {
        return [INBOX_NAME, &name[first.len()..]].concat();
    }
    name.to_owned()
}

/// What stands behind a folder's name and the delimiter in the name of one below it.
pub(crate) fn below<'n>(superior: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(superior)?.strip_prefix(DELIMITER)
}

/// A name that a folder may have, in its canonical form. `None`: it is too long or too deep, has an empty level, a control
/// character or what LIST takes for a pattern.
#[must_use]
pub fn allowed_name(name: &str) -> Option<String> {
    let is_level =
        |level: &str| !level.is_empty() && !level.contains(|c: char| c.is_control() || matches!(c, '*' | '%'));
    let fits = name.len() <= FOLDER_NAME_BYTES_MAX && name.split(DELIMITER).count() <= FOLDER_LEVELS_MAX;
    (fits && name.split(DELIMITER).all(is_level)).then(|| canonical(name))
}

/// IMAP's flags as bits: answered, flagged, deleted, seen, draft, then the keywords of the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Flags(pub u32);

impl Flags {
    /// `\Answered`.
    pub const ANSWERED: Flags = Flags(1);
    /// `\Flagged`.
    pub const FLAGGED: Flags = Flags(2);
    /// `\Deleted`.
    pub const DELETED: Flags = Flags(4);
    /// `\Seen`.
    pub const SEEN: Flags = Flags(8);
    /// `\Draft`.
    pub const DRAFT: Flags = Flags(16);
    /// All five of RFC 3501.
    pub const SYSTEM: Flags = Flags(31);

    /// The flag of the keyword at place `number` of [`Folders::keywords`].
    #[must_use]
    pub fn keyword(number: usize) -> Option<Flags> {
        (number < KEYWORDS_MAX).then(|| Flags(1 << (5 + number)))
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// This set less the other.
    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One message of a folder, without its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Stable, ascending, never used again in its folder.
    pub uid: u32,
    /// System flags and keywords.
    pub flags: Flags,
    /// Length in bytes.
    pub size: u32,
    /// INTERNALDATE, UTC seconds.
    pub internal_date: u64,
    /// The folder's number of the change that last touched the message (RFC 7162).
    pub modseq: u64,
}

/// A folder's messages at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub version: u64,
    /// UIDVALIDITY.
    pub uid_validity: u32,
    /// UIDNEXT.
    pub uid_next: u32,
    /// HIGHESTMODSEQ: number of the last change of this folder, 1 before the first.
    pub highest_modseq: u64,
    /// Messages in UID order.
    pub entries: Entries,
}

/// How STORE changes flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagChange {
    /// `FLAGS`.
    Set(Flags),
    /// `+FLAGS`.
    Add(Flags),
    /// `-FLAGS`.
    Remove(Flags),
}

impl FlagChange {
    /// What becomes of a message's flags.
    #[must_use]
    pub fn apply(self, flags: Flags) -> Flags {
        match self {
            Self::Set(new) => new,
            Self::Add(more) => flags.with(more),
            Self::Remove(less) => flags.without(less),
        }
    }
}

/// A STORE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreFlags {
    /// Those that are gone are passed over.
    pub uids: Vec<u32>,
    /// What to do to the flags of each.
    pub change: FlagChange,
    /// `UNCHANGEDSINCE` (RFC 7162 section 3.1.3): messages that were changed later are left alone.
    pub unchanged_since: Option<u64>,
}

/// Why an operation on a folder did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no such folder, or no longer.
    #[error("there is no such folder")]
    NoFolder,
    /// Another folder has the name.
    #[error("there is a folder of this name")]
    Exists,
    /// INBOX stays what it is, or the name is not allowed.
    #[error("this cannot be done with this folder or name")]
    Cannot,
    /// There are as many as there may be, or it is too much at once.
    #[error("there are too many folders, names or messages")]
    TooMany,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FolderError> for StoreError {
    /// For callers to whom a folder that is not there is like any other row.
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::NoFolder => Self::NoRow,
            FolderError::Exists | FolderError::Cannot | FolderError::TooMany => Self::Invalid,
            FolderError::Store(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_allowed_as_the_bounds_say_and_inbox_is_known_in_any_case() {
        let long = "x".repeat(FOLDER_NAME_BYTES_MAX);
        let deep = ["a"; FOLDER_LEVELS_MAX].join("/");
        for name in ["Sent", "a/b c/ü", "INBOX/x", &long, &deep, "a.b\\c"] {
            assert_eq!(allowed_name(name).as_deref(), Some(name));
        }
        let (too_long, too_deep) = (format!("{long}x"), format!("{deep}/a"));
        for name in [
            "", "/", "a/", "/a", "a//b", "a*", "%", "a\nb", "\u{85}", &too_long, &too_deep,
        ] {
            assert_eq!(allowed_name(name), None, "{name:?}");
        }
        for (name, same) in [
            ("inbox", "INBOX"),
            ("InBox/x", "INBOX/x"),
            ("inboxes", "inboxes"),
            ("x/inbox", "x/inbox"),
        ] {
            assert_eq!(allowed_name(name).as_deref(), Some(same));
        }
    }

    #[test]
    fn a_keyword_has_a_bit_of_its_own_behind_the_system_flags() {
        let all = (0..KEYWORDS_MAX).map(|number| Flags::keyword(number).expect("within the bound"));
        let together = all.fold(Flags::SYSTEM, |all, flag| {
            assert!(!all.contains(flag));
            all.with(flag)
        });
        assert_eq!(together.0.count_ones() as usize, 5 + KEYWORDS_MAX);
        assert_eq!(Flags::keyword(KEYWORDS_MAX), None);
    }
}
