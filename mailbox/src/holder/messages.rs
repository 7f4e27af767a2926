//! Messages of folders: under row keys, UIDs that only ever grow, snapshots that share what did not change.
//!
//! ```text
//! append     fresh key, body, summary
//! copy       fresh key; body and summary are the other's, whose keys the new row holds
//! move       key, body and summary go along
//! expunge    key finished; body and summary go with the last row that has them
//! ```
//!
//! Each function is one commit. What may concern more than [`CHANGED_MAX`] messages is done in several, `files` sees to it;
//! but a copy is one, since it is whole or not at all (RFC 3501 section 6.4.7).

use std::sync::Arc;

use zeroize::Zeroizing;

use super::books::Books;
use super::rows::{COUNTS, ContentKeys, CountsRow, MESSAGES, MessageRow, SUMMARIES, number_of};
use super::shelf::{RowKey, Shelf, body_key, summary_key};
use super::stage::HolderStage;
use super::text::Text;
use crate::StoreError;
use crate::holder_store::{COPIED_MAX, Entry, FlagChange, Flags, FolderError, FolderId, SUMMARY_BYTES_MAX, Snapshot};
use crate::index::{Source, Write};

/// Most messages that one commit changes, except a copy's.
pub(super) const CHANGED_MAX: usize = 4_096;

/// Pairs of an old and a new UID.
type Pairs = Vec<(u32, u32)>;

impl Books {
    /// The messages of a folder, if there is such a folder.
    pub(super) fn folder(&self, folder: FolderId) -> Result<&Arc<Snapshot>, FolderError> {
        self.boxes.get(&folder).ok_or(FolderError::NoFolder)
    }

    /// Whether a folder has a message of this UID.
    pub(super) fn has(&self, folder: FolderId, uid: u32) -> bool {
        let snapshot = self.boxes.get(&folder);
        snapshot.is_some_and(|snapshot| snapshot.entries.position_of(uid).is_some())
    }

    /// Those of some messages that are there, in order. `uids` ascend.
    fn there(&self, folder: FolderId, uids: &[u32]) -> Result<Vec<Entry>, FolderError> {
        let entries = &self.folder(folder)?.entries;
        Ok(uids.iter().filter_map(|uid| entries.by_uid(*uid).cloned()).collect())
    }

    /// A folder's snapshot, to be changed. The first change of a batch copies what readers hold.
    fn changing(&mut self, folder: FolderId) -> &mut Snapshot {
        self.mail_version += 1;
        let snapshot = Arc::make_mut(&mut self.boxes).entry(folder).or_default();
        let snapshot = Arc::make_mut(snapshot);
        snapshot.version += 1;
        snapshot
    }
}

impl HolderStage {
    /// Stores a message under the next UID. A refusal comes before the first write of the index.
    pub(super) fn append(
        &mut self,
        write: &Write<'_>,
        folder: FolderId,
        message: &[u8],
        summary: &[u8],
        flags: Flags,
        internal_date: u64,
    ) -> Result<u32, FolderError> {
        let size = u32::try_from(message.len()).map_err(|_| StoreError::Invalid)?;
        let uid = self.first_uid(folder, 1)?;
        let (key, body) = self.shelf.put_text(write, message)?;
        let number = number_of(folder, uid);
        let entry = Entry {
            uid,
            flags,
            size,
            internal_date,
            modseq: self.next_modseq(folder)?,
        };
        self.put_message(write, folder, &key, &entry, body, number, None)?;
        if (1..=SUMMARY_BYTES_MAX).contains(&summary.len()) {
            self.shelf.put_summary(write, &SUMMARIES, number, &key, summary)?;
        }
        self.add(write, folder, vec![entry])?;
        Ok(uid)
    }

    /// Changes flags of those messages that are there, unless they were changed after `unchanged_since`: those are
    /// returned. `uids` ascend.
    pub(super) fn change_flags(
        &mut self,
        write: &Write<'_>,
        folder: FolderId,
        uids: &[u32],
        change: FlagChange,
        unchanged_since: Option<u64>,
    ) -> Result<Vec<u32>, FolderError> {
        let modseq = self.next_modseq(folder)?;
        let before = Arc::clone(self.books.folder(folder)?);
        let mut left_alone = Vec::new();
        let mut changed = Vec::new();
        for uid in uids {
            let Some(position) = before.entries.position_of(*uid) else {
                continue;
            };
            let entry = &before.entries[position];
            if unchanged_since.is_some_and(|since| entry.modseq > since) {
                left_alone.push(*uid);
                continue;
            }
            let flags = change.apply(entry.flags);
            if flags == entry.flags {
                continue;
            }
            let number = number_of(folder, *uid);
            let (key, row) = self.shelf.message_row(write, number)?.ok_or(StoreError::Corrupt)?;
            let row = MessageRow { flags, modseq, ..row };
            self.shelf.put(write, &MESSAGES, number, &key, &row)?;
            changed.push((position, flags));
        }
        drop(before);
        if changed.is_empty() {
            return Ok(left_alone);
        }
        let snapshot = self.books.changing(folder);
        for (position, flags) in changed {
            snapshot.entries.change(position, |entry| {
                (entry.flags, entry.modseq) = (flags, modseq);
            });
        }
        snapshot.highest_modseq = modseq;
        self.put_counts(write, folder)?;
        Ok(left_alone)
    }

    /// Removes those messages that are there, and finishes their keys. Returns them. `uids` ascend.
    pub(super) fn expunge(
        &mut self,
        write: &Write<'_>,
        folder: FolderId,
        uids: &[u32],
    ) -> Result<Vec<u32>, FolderError> {
        let removed: Vec<u32> = self.books.there(folder, uids)?.iter().map(|entry| entry.uid).collect();
        for uid in &removed {
            self.end_message(write, number_of(folder, *uid))?;
        }
        self.take_out(write, folder, &removed)?;
        Ok(removed)
    }

    /// Copies those messages that are there. `uids` ascend.
    pub(super) fn copy(
        &mut self,
        write: &Write<'_>,
        from: FolderId,
        uids: &[u32],
        to: FolderId,
    ) -> Result<Pairs, FolderError> {
        let entries = self.books.there(from, uids)?;
        if entries.len() > COPIED_MAX {
            return Err(FolderError::TooMany);
        }
        let first = self.first_uid(to, entries.len())?;
        let modseq = self.next_modseq(to)?;
        let mut pairs = Vec::with_capacity(entries.len());
        let mut copies = Vec::with_capacity(entries.len());
        for (uid, entry) in (first..).zip(entries) {
            let source = self.shelf.message_row(write, number_of(from, entry.uid))?;
            let (key, row) = source.ok_or(StoreError::Corrupt)?;
            let keys = row.keys.unwrap_or_else(|| ContentKeys::of(&key));
            let fresh = self.shelf.fresh_key()?;
            self.shelf.base.share_body(write, row.body)?;
            pairs.push((entry.uid, uid));
            let copy = Entry { uid, modseq, ..entry };
            self.put_message(write, to, &fresh, &copy, row.body, row.summary, Some(keys))?;
            copies.push(copy);
        }
        self.add(write, to, copies)?;
        Ok(pairs)
    }

    /// Moves those messages that are there. `uids` ascend.
    pub(super) fn move_to(
        &mut self,
        write: &Write<'_>,
        from: FolderId,
        uids: &[u32],
        to: FolderId,
    ) -> Result<Pairs, FolderError> {
        let entries = self.books.there(from, uids)?;
        let first = self.first_uid(to, entries.len())?;
        let modseq = self.next_modseq(to)?;
        let mut pairs = Vec::with_capacity(entries.len());
        let mut moved = Vec::with_capacity(entries.len());
        for (uid, entry) in (first..).zip(entries) {
            let number = number_of(from, entry.uid);
            let (key, row) = self.shelf.message_row(write, number)?.ok_or(StoreError::Corrupt)?;
            MESSAGES.remove(write, number)?;
            pairs.push((entry.uid, uid));
            let entry = Entry { uid, modseq, ..entry };
            self.put_message(write, to, &key, &entry, row.body, row.summary, row.keys)?;
            moved.push(entry);
        }
        let gone: Vec<u32> = pairs.iter().map(|(old, _)| *old).collect();
        self.add(write, to, moved)?;
        self.take_out(write, from, &gone)?;
        Ok(pairs)
    }

    /// The UID of the first of so many messages to be added.
    fn first_uid(&self, folder: FolderId, count: usize) -> Result<u32, FolderError> {
        let first = self.books.folder(folder)?.uid_next;
        let count = u32::try_from(count).map_err(|_| StoreError::Busy)?;
        first.checked_add(count).ok_or(StoreError::Busy)?;
        Ok(first)
    }

    fn next_modseq(&self, folder: FolderId) -> Result<u64, FolderError> {
        Ok(self.books.folder(folder)?.highest_modseq + 1)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a row")]
    fn put_message(
        &self,
        write: &Write<'_>,
        folder: FolderId,
        key: &RowKey,
        entry: &Entry,
        body: crate::bodies::BodyName,
        summary: u64,
        keys: Option<ContentKeys>,
    ) -> Result<(), StoreError> {
        let row = MessageRow {
            flags: entry.flags,
            size: entry.size,
            internal_date: entry.internal_date,
            body,
            modseq: entry.modseq,
            summary,
            keys,
        };
        self.shelf
            .put(write, &MESSAGES, number_of(folder, entry.uid), key, &row)
    }

    /// Shows messages under the next UIDs, all of one change.
    fn add(&mut self, write: &Write<'_>, folder: FolderId, entries: Vec<Entry>) -> Result<(), StoreError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let snapshot = self.books.changing(folder);
        snapshot.uid_next = last.uid + 1;
        snapshot.highest_modseq = last.modseq;
        snapshot.entries.extend(entries);
        self.put_counts(write, folder)
    }

    /// No longer shows messages of a folder. `uids` ascend and are there.
    fn take_out(&mut self, write: &Write<'_>, folder: FolderId, uids: &[u32]) -> Result<(), StoreError> {
        if uids.is_empty() {
            return Ok(());
        }
        let snapshot = self.books.changing(folder);
        snapshot.highest_modseq += 1;
        snapshot.entries.retain(|entry| uids.binary_search(&entry.uid).is_err());
        self.put_counts(write, folder)
    }

    /// Removes a message's row, and what no other row has of it.
    pub(super) fn end_message(&self, write: &Write<'_>, number: u64) -> Result<(), StoreError> {
        let (key, row) = self.shelf.message_row(write, number)?.ok_or(StoreError::Corrupt)?;
        self.shelf.remove(write, &MESSAGES, number, key.record)?;
        if self.shelf.base.release_body(write, row.body)? {
            SUMMARIES.remove(write, row.summary)?;
        }
        Ok(())
    }

    fn put_counts(&self, write: &Write<'_>, folder: FolderId) -> Result<(), StoreError> {
        let snapshot = self.books.boxes.get(&folder).ok_or(StoreError::Corrupt)?;
        let counts = CountsRow {
            uid_next: snapshot.uid_next,
            highest_modseq: snapshot.highest_modseq,
        };
        COUNTS.put(write, u64::from(folder.0), &counts)
    }
}

impl ContentKeys {
    /// Of a message that came under this row's key.
    fn of(key: &RowKey) -> Self {
        Self {
            body: body_key(key),
            summary: summary_key(key),
        }
    }
}

impl Shelf {
    /// A message's row and its key.
    pub(super) fn message_row(
        &self,
        source: &impl Source,
        number: u64,
    ) -> Result<Option<(RowKey, MessageRow)>, StoreError> {
        let filed = MESSAGES.get(source, number)?;
        let open = |filed| self.open(&filed, |plain| MessageRow::decode(number, plain));
        filed.map(open).transpose()
    }

    /// Whether a message has no row as of the last commit.
    pub(super) fn is_expunged(&self, folder: FolderId, uid: u32) -> bool {
        let row = self
            .base
            .view()
            .and_then(|view| MESSAGES.get(&view, number_of(folder, uid)));
        matches!(row, Ok(None))
    }

    /// Text of a message as of the last commit.
    pub(super) fn message(&self, folder: FolderId, uid: u32) -> Result<Option<Text>, StoreError> {
        let row = self.message_row(&self.base.view()?, number_of(folder, uid))?;
        let Some((key, row)) = row else { return Ok(None) };
        let key = row.keys.map_or_else(|| body_key(&key), |keys| keys.body);
        self.text(key, row.body, row.size).map(Some)
    }

    /// Summary of a message that is there, as of the last commit.
    pub(super) fn summary_of(
        &self,
        source: &impl Source,
        folder: FolderId,
        uid: u32,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let number = number_of(folder, uid);
        // Most messages are where they came: theirs is found without their row.
        if let Some(summary) = self.summary(source, &SUMMARIES, number, None)? {
            return Ok(Some(summary));
        }
        let Some((_, row)) = self.message_row(source, number)? else {
            return Ok(None);
        };
        let key = row.keys.as_ref().map(|keys| &keys.summary);
        self.summary(source, &SUMMARIES, row.summary, key)
    }
}
