//! `\Recent` (RFC 3501 section 2.3.2): messages of which a session is the first to be told.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailbox::holder_store::{Entries, FOLDERS_MAX, FolderId, Folders};

/// What any session was told of, for as long as the process lives.
///
/// It is in memory only, as far as RFC 3501 allows it: at first, messages that are there already are not recent.
#[derive(Default)]
pub struct Recent(Mutex<BTreeMap<FolderId, Mark>>);

/// What is recent in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// What comes after the folder was first selected.
    FirstSight,
    /// This UID and those above it.
    From(u32),
}

impl Recent {
    /// At the start of the process: what is in these folders is not recent. `uid_next`: that of INBOX, where mail comes
    /// without a session.
    #[must_use]
    pub fn new(folders: &Folders, uid_next: u32) -> Self {
        let others = folders.all.iter().map(|folder| (folder.id, Mark::FirstSight));
        let mut marks: BTreeMap<FolderId, Mark> = others.collect();
        marks.insert(FolderId::INBOX, Mark::From(uid_next));
        Self(Mutex::new(marks))
    }

    /// The lowest UID that is recent. `uid_next`: that of the folder now.
    pub(super) fn first(&self, folder: FolderId, uid_next: u32) -> u32 {
        first(self.marks().get(&folder), uid_next)
    }

    /// The same, and what is below `uid_next` is told to a session and is not recent for any other.
    pub(super) fn claim(&self, folder: FolderId, uid_next: u32, folders: &Folders) -> u32 {
        let mut marks = self.marks();
        let first = first(marks.get(&folder), uid_next);
        marks.insert(folder, Mark::From(first.max(uid_next)));
        if marks.len() > 2 * FOLDERS_MAX {
            marks.retain(|known, _| folders.by_id(*known).is_some());
        }
        first
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<FolderId, Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A folder without a mark was made since.
fn first(mark: Option<&Mark>, uid_next: u32) -> u32 {
    match mark {
        None => 1,
        Some(Mark::FirstSight) => uid_next,
        Some(Mark::From(first)) => *first,
    }
}

/// UIDs that are recent for one session: ranges in order, apart from each other.
#[derive(Default)]
pub(super) struct RecentUids(Vec<Range<u32>>);

impl RecentUids {
    /// Adds some above all others.
    pub(super) fn add(&mut self, uids: Range<u32>) {
        if uids.is_empty() {
            return;
        }
        match self.0.last_mut().filter(|last| last.end >= uids.start) {
            Some(last) => last.end = last.end.max(uids.end),
            None => self.0.push(uids),
        }
    }

    pub(super) fn contains(&self, uid: u32) -> bool {
        let range = self.0.get(self.0.partition_point(|range| range.end <= uid));
        range.is_some_and(|range| range.start <= uid)
    }

    /// Positions of those that are there.
    pub(super) fn positions(&self, entries: &Entries) -> impl Iterator<Item = Range<usize>> {
        let below = |uid: u32| entries.partition_point(|entry| entry.uid < uid);
        self.0.iter().map(move |range| below(range.start)..below(range.end))
    }
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::{Entry, Flags, Folder};

    use super::*;

    #[test]
    fn each_message_is_recent_for_one_session() {
        let folder = |id| Folder {
            id: FolderId(id),
            name: id.to_string(),
            special_use: None,
            uid_validity: 1,
        };
        let folders = Folders {
            all: vec![folder(0), folder(1)],
            ..Folders::default()
        };
        let recent = Recent::new(&folders, 5);
        let claim = |id, uid_next| recent.claim(FolderId(id), uid_next, &folders);
        // Mail came into INBOX before anybody looked.
        assert_eq!(
            (recent.first(FolderId(0), 7), claim(0, 7), claim(0, 9), claim(0, 9)),
            (5, 5, 7, 9)
        );
        // What was in another folder is not recent.
        assert_eq!((claim(1, 4), claim(1, 6)), (4, 4));
        // All of a folder made since is.
        assert_eq!((recent.first(FolderId(2), 3), claim(2, 3), claim(2, 3)), (1, 1, 3));
        assert_eq!(claim(0, 6), 9, "an older look takes nothing back");
    }

    #[test]
    fn marks_of_folders_that_are_gone_are_forgotten() {
        let recent = Recent::default();
        for id in 0..10_000 {
            recent.claim(FolderId(id), 2, &Folders::default());
        }
        assert!(recent.marks().len() <= 2 * FOLDERS_MAX);
    }

    #[test]
    fn recent_messages_have_positions() {
        let mut recent = RecentUids::default();
        for range in [3..3, 3..5, 5..6, 8..12] {
            recent.add(range);
        }
        let found: Vec<u32> = (0..20).filter(|uid| recent.contains(*uid)).collect();
        assert_eq!(found, [3, 4, 5, 8, 9, 10, 11]);
        let entry = |uid| Entry {
            uid,
            flags: Flags::default(),
            size: 0,
            internal_date: 0,
            modseq: 1,
        };
        let entries: Entries = [1, 4, 5, 9].map(entry).into_iter().collect();
        assert_eq!(recent.positions(&entries).collect::<Vec<_>>(), [1..3, 3..4]);
    }
}
