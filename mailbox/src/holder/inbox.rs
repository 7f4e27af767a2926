//! INBOX: messages under row keys, UIDs that only ever grow, snapshots that are copied when they change.

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::index::Write;

use super::message_id::message_id;
use super::rows::{INBOX, InboxRow, MESSAGE_IDS, SUMMARIES};
use super::shelf::Shelf;
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{Entry, FlagChange, Flags, STORED_MAX, SUMMARY_BYTES_MAX, Snapshot};

impl HolderStage {
    /// Stores a message under the next UID. A refusal comes before the first write of the index.
    pub(super) fn append(
        &mut self,
        write: &Write<'_>,
        message: &[u8],
        summary: &[u8],
        flags: Flags,
        internal_date: u64,
    ) -> Result<u32, StoreError> {
        let size = u32::try_from(message.len()).map_err(|_| StoreError::Invalid)?;
        let uid = self.books.state.uid_next;
        let uid_next = uid.checked_add(1).ok_or(StoreError::Busy)?;
        let (key, body) = self.shelf.put_body(write, message)?;
        self.shelf.put(
            write,
            &INBOX,
            u64::from(uid),
            &key,
            &InboxRow {
                flags,
                size,
                internal_date,
                body,
            },
        )?;
        if (1..=SUMMARY_BYTES_MAX).contains(&summary.len()) {
            self.shelf
                .put_summary(write, &SUMMARIES, u64::from(uid), &key, summary)?;
        }
        if let Some(id) = message_id(message) {
            MESSAGE_IDS.put(write, name_of(&self.shelf, id), &())?;
        }
        self.books.state.uid_next = uid_next;
        self.put_state(write)?;
        let inbox = to_grow(&mut self.books.inbox);
        inbox.entries.push(Entry {
            uid,
            flags,
            size,
            internal_date,
        });
        inbox.uid_next = uid_next;
        inbox.version += 1;
        Ok(uid)
    }

    /// Changes flags of those messages that are there.
    pub(super) fn change_flags(
        &mut self,
        write: &Write<'_>,
        uids: &[u32],
        change: FlagChange,
    ) -> Result<(), StoreError> {
        let wanted: BTreeSet<u32> = uids.iter().copied().collect();
        let mut inbox = Arc::clone(&self.books.inbox);
        for (position, entry) in self.books.inbox.entries.iter().enumerate() {
            let flags = change.of(entry.flags);
            if !wanted.contains(&entry.uid) || flags == entry.flags {
                continue;
            }
            let number = u64::from(entry.uid);
            let (key, row) = self
                .shelf
                .row::<InboxRow>(write, &INBOX, number)?
                .ok_or(StoreError::Corrupt)?;
            self.shelf
                .put(write, &INBOX, number, &key, &InboxRow { flags, ..row })?;
            Arc::make_mut(&mut inbox).entries[position].flags = flags;
        }
        if !Arc::ptr_eq(&inbox, &self.books.inbox) {
            Arc::make_mut(&mut inbox).version += 1;
            self.books.inbox = inbox;
        }
        Ok(())
    }

    /// Removes those messages that are there, and finishes their keys. Returns them.
    pub(super) fn expunge(&mut self, write: &Write<'_>, uids: &[u32]) -> Result<Vec<u32>, StoreError> {
        let wanted: BTreeSet<u32> = uids.iter().copied().collect();
        let there = self.books.inbox.entries.iter().map(|entry| entry.uid);
        let removed: Vec<u32> = there.filter(|uid| wanted.contains(uid)).collect();
        if removed.is_empty() {
            return Ok(removed);
        }
        for uid in &removed {
            let number = u64::from(*uid);
            let (key, row) = self
                .shelf
                .row::<InboxRow>(write, &INBOX, number)?
                .ok_or(StoreError::Corrupt)?;
            self.shelf.remove(write, &INBOX, number, key.record)?;
            SUMMARIES.remove(write, number)?;
            self.shelf.base.release_body(write, row.body)?;
        }
        let inbox = Arc::make_mut(&mut self.books.inbox);
        inbox.entries.retain(|entry| !wanted.contains(&entry.uid));
        inbox.version += 1;
        Ok(removed)
    }
}

/// The snapshot of the batch under way. The first message of a batch copies what readers hold, with room for those that
/// follow: growing the copy would copy it again.
fn to_grow(inbox: &mut Arc<Snapshot>) -> &mut Snapshot {
    if Arc::get_mut(inbox).is_none() {
        let mut entries = Vec::with_capacity(inbox.entries.len() + STORED_MAX);
        entries.extend_from_slice(&inbox.entries);
        *inbox = Arc::new(Snapshot { entries, ..**inbox });
    }
    Arc::make_mut(inbox)
}

impl FlagChange {
    fn of(self, flags: Flags) -> Flags {
        match self {
            FlagChange::Set(new) => new,
            FlagChange::Add(more) => flags.with(more),
            FlagChange::Remove(less) => flags.without(less),
        }
    }
}

impl Shelf {
    /// Text of a message as of the last commit.
    pub(super) fn message(&self, uid: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.row::<InboxRow>(&self.base.view()?, &INBOX, u64::from(uid))?;
        let Some((key, row)) = row else { return Ok(None) };
        let mut text = self.body(&key, row.body)?;
        Ok(Some(std::mem::take(&mut *text)))
    }

    /// Summaries as of the last commit, in the order asked for. No key is erased meanwhile: erasing follows a commit, and
    /// commits wait for the view.
    pub(super) fn summaries(&self, uids: &[u32]) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, StoreError> {
        let view = self.base.view()?;
        let summary = |uid: &u32| self.summary(&view, &SUMMARIES, u64::from(*uid));
        uids.iter().map(summary).collect()
    }

    /// Whether a message of this id is or was there.
    pub(super) fn knows_message_id(&self, id: &str) -> Result<bool, StoreError> {
        let name = name_of(self, id.as_bytes());
        let known = MESSAGE_IDS.get(&self.base.view()?, name)?;
        Ok(known.is_some())
    }
}

/// A Message-ID is kept as a keyed hash: the index names no correspondent's host.
fn name_of(shelf: &Shelf, id: &[u8]) -> [u8; 32] {
    shelf.base.vault.name("message-id", id)
}
