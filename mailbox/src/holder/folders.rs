//! Folders: their names, what is subscribed, keywords.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::messages::CHANGED_MAX;
use super::rows::{
    CATALOGUE, COUNTS, CatalogueRow, CountsRow, FOLDERS, FolderRow, MESSAGES, MODSEQ_FIRST, MessageRow, State,
    folder_and_uid, number_of,
};
use super::shelf::{Rows, Shelf};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{
    Entry, FOLDERS_MAX, Flags, Folder, FolderError, FolderId, Folders, KEYWORD_BYTES_MAX, KEYWORDS_MAX, SUBSCRIBED_MAX,
    Snapshot, SpecialUse, allowed_name, below,
};
use crate::index::{Source, View, Write};
use crate::slab::RecordNumber;

/// Number of the only row of [`CATALOGUE`].
const ONLY: u64 = 0;
/// Name that INBOX is listed under.
const INBOX_NAME: &str = "INBOX";

/// All folders, and the messages of each. A store of before there were folders has INBOX alone.
pub(super) type Loaded = (Folders, BTreeMap<FolderId, Arc<Snapshot>>);

/// Reads all folders and messages. Notes the records that their rows name.
pub(super) fn load(
    shelf: &Shelf,
    read: &View<'_>,
    state: &State,
    version: u64,
    used: &mut BTreeSet<RecordNumber>,
) -> Result<Loaded, StoreError> {
    let mut folders = Folders {
        version,
        all: vec![Folder {
            id: FolderId::INBOX,
            name: INBOX_NAME.to_owned(),
            special_use: None,
            uid_validity: state.uid_validity,
        }],
        ..Folders::default()
    };
    if let Some((key, row)) = shelf.row::<CatalogueRow>(read, &CATALOGUE, ONLY)? {
        used.insert(key.record);
        (folders.subscribed, folders.keywords) = (row.subscribed, row.keywords);
    }
    for (id, record, row) in shelf.all::<FolderRow>(read, &FOLDERS)? {
        used.insert(record);
        let id = FolderId(u32::try_from(id).map_err(|_| StoreError::Corrupt)?);
        folders.all.push(row.shown(id));
    }
    in_order(&mut folders.all);
    let mut counts = BTreeMap::new();
    COUNTS.scan(read, (0, u64::MAX), |id, row| {
        counts.insert(id, row);
        Ok(ControlFlow::Continue(()))
    })?;
    let first = CountsRow {
        uid_next: state.uid_next,
        highest_modseq: MODSEQ_FIRST,
    };
    let empty = |folder: &Folder| {
        let counts = counts.get(&u64::from(folder.id.0)).copied().unwrap_or(first);
        let snapshot = Snapshot {
            version,
            uid_validity: folder.uid_validity,
            uid_next: counts.uid_next,
            highest_modseq: counts.highest_modseq,
            entries: Default::default(),
        };
        (folder.id, snapshot)
    };
    let mut boxes: BTreeMap<FolderId, Snapshot> = folders.all.iter().map(empty).collect();
    MESSAGES.scan(read, (0, u64::MAX), |number, filed| {
        let (key, row) = shelf.open(&filed, |plain| MessageRow::decode(number, plain))?;
        used.insert(key.record);
        let (folder, uid) = folder_and_uid(number);
        let snapshot = boxes.get_mut(&folder).ok_or(StoreError::Corrupt)?;
        snapshot.entries.push(Entry {
            uid,
            flags: row.flags,
            size: row.size,
            internal_date: row.internal_date,
            modseq: row.modseq,
        });
        Ok(ControlFlow::Continue(()))
    })?;
    let boxes = boxes.into_iter().map(|(id, snapshot)| (id, Arc::new(snapshot)));
    Ok((folders, boxes.collect()))
}

/// Gives a store that has none its first folders. `false`: it has been given some before.
pub(super) fn found(shelf: &Shelf) -> Result<bool, StoreError> {
    if CATALOGUE.get(&shelf.base.view()?, ONLY)?.is_some() {
        return Ok(false);
    }
    let state = super::rows::STATE.get(&shelf.base.view()?, crate::tables::Single)?;
    let state = state.ok_or(StoreError::Corrupt)?;
    shelf.base.commit_now(|write| {
        let mut catalogue = CatalogueRow {
            next_folder: FolderId::INBOX.0 + 1,
            // Higher than that of INBOX, so that none in the store is ever the same as another.
            next_uid_validity: state.uid_validity.checked_add(1).ok_or(StoreError::Corrupt)?,
            subscribed: BTreeSet::from([INBOX_NAME.to_owned()]),
            keywords: Vec::new(),
        };
        let inbox = CountsRow {
            uid_next: state.uid_next,
            highest_modseq: MODSEQ_FIRST,
        };
        COUNTS.put(write, u64::from(FolderId::INBOX.0), &inbox)?;
        for (special_use, name) in SpecialUse::ALL {
            catalogue.subscribed.insert(name.to_owned());
            let (id, row) = catalogue.next(name.to_owned(), Some(special_use))?;
            put_new(shelf, write, id, &row)?;
        }
        put_afresh(shelf, write, &CATALOGUE, ONLY, None, &catalogue)
    })?;
    Ok(true)
}

impl CatalogueRow {
    /// The row of a folder to be made.
    fn next(&mut self, name: String, special_use: Option<SpecialUse>) -> Result<(FolderId, FolderRow), StoreError> {
        let id = FolderId(self.next_folder);
        let row = FolderRow {
            name,
            special_use,
            uid_validity: self.next_uid_validity,
        };
        self.next_folder = self.next_folder.checked_add(1).ok_or(StoreError::Corrupt)?;
        self.next_uid_validity = self.next_uid_validity.checked_add(1).ok_or(StoreError::Corrupt)?;
        Ok((id, row))
    }
}

impl FolderRow {
    fn shown(self, id: FolderId) -> Folder {
        Folder {
            id,
            name: self.name,
            special_use: self.special_use,
            uid_validity: self.uid_validity,
        }
    }
}

/// Writes a row under a key that was never used, and finishes the one before.
fn put_afresh<T: Serialize>(
    shelf: &Shelf,
    write: &Write<'_>,
    rows: &Rows,
    number: u64,
    before: Option<RecordNumber>,
    row: &T,
) -> Result<(), StoreError> {
    let key = shelf.fresh_key()?;
    shelf.put(write, rows, number, &key, row)?;
    if let Some(before) = before {
        shelf.base.slab.finish(before);
    }
    Ok(())
}

/// Writes the rows of a folder without messages.
fn put_new(shelf: &Shelf, write: &Write<'_>, id: FolderId, row: &FolderRow) -> Result<(), StoreError> {
    let counts = CountsRow {
        uid_next: 1,
        highest_modseq: MODSEQ_FIRST,
    };
    COUNTS.put(write, u64::from(id.0), &counts)?;
    put_afresh(shelf, write, &FOLDERS, u64::from(id.0), None, row)
}

fn in_order(all: &mut [Folder]) {
    all.sort_by(|a, b| (a.id != FolderId::INBOX, &a.name).cmp(&(b.id != FolderId::INBOX, &b.name)));
}

/// Names of the superiors of a folder, the highest first.
fn superiors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

impl HolderStage {
    /// Makes a folder and the superiors that it has not got.
    pub(super) fn create_folder(
        &mut self,
        write: &Write<'_>,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<FolderId, FolderError> {
        let name = allowed_name(name).ok_or(FolderError::Cannot)?;
        if self.books.folders.by_name(&name).is_some() {
            return Err(FolderError::Exists);
        }
        let superiors = self.missing_superiors(&name, &[])?;
        let mut made = Vec::new();
        self.change_catalogue(write, |catalogue| {
            for superior in superiors {
                made.push(catalogue.next(superior, None)?);
            }
            made.push(catalogue.next(name.clone(), special_use)?);
            Ok(())
        })?;
        let mut last = FolderId::INBOX;
        for (id, row) in made {
            self.add_folder(write, id, row)?;
            last = id;
        }
        Ok(last)
    }

    /// Removes a folder and all its messages.
    pub(super) fn delete_folder(&mut self, write: &Write<'_>, id: FolderId) -> Result<(), FolderError> {
        if id == FolderId::INBOX {
            return Err(FolderError::Cannot);
        }
        let snapshot = Arc::clone(self.books.folder(id)?);
        for entry in &snapshot.entries {
            self.end_message(write, number_of(id, entry.uid))?;
        }
        let number = u64::from(id.0);
        let (key, _) = self.folder_row(write, id)?;
        self.shelf.remove(write, &FOLDERS, number, key)?;
        COUNTS.remove(write, number)?;
        Arc::make_mut(&mut self.books.boxes).remove(&id);
        self.change_folders(|all| all.retain(|folder| folder.id != id));
        Ok(())
    }

    /// Gives a folder and those below it other names. Of INBOX: moves its messages to a folder that it makes,
    /// and returns that, to which the rest is to be moved if they are very many.
    pub(super) fn rename_folder(
        &mut self,
        write: &Write<'_>,
        id: FolderId,
        name: &str,
    ) -> Result<Option<FolderId>, FolderError> {
        let folders = Arc::clone(&self.books.folders);
        let folder = folders.by_id(id).ok_or(FolderError::NoFolder)?;
        if id == FolderId::INBOX {
            let made = self.create_folder(write, name, None)?;
            let first = self.books.folder(id)?.entries.iter().take(CHANGED_MAX);
            let first: Vec<u32> = first.map(|entry| entry.uid).collect();
            self.move_to(write, id, &first, made)?;
            return Ok(Some(made));
        }
        let name = allowed_name(name).ok_or(FolderError::Cannot)?;
        if folders.by_name(&name).is_some() {
            return Err(FolderError::Exists);
        }
        if below(&folder.name, &name).is_some() {
            return Err(FolderError::Cannot);
        }
        let mut renamed = vec![(id, name.clone())];
        for other in &folders.all {
            if let Some(rest) = below(&folder.name, &other.name) {
                let name = allowed_name(&format!("{name}/{rest}")).ok_or(FolderError::Cannot)?;
                if folders.by_name(&name).is_some() {
                    return Err(FolderError::Exists);
                }
                renamed.push((other.id, name));
            }
        }
        let superiors = self.missing_superiors(&name, &renamed)?;
        let mut made = Vec::new();
        if !superiors.is_empty() {
            self.change_catalogue(write, |catalogue| {
                for superior in superiors {
                    made.push(catalogue.next(superior, None)?);
                }
                Ok(())
            })?;
        }
        for (id, name) in renamed {
            let (record, row) = self.folder_row(write, id)?;
            let row = FolderRow { name, ..row };
            put_afresh(&self.shelf, write, &FOLDERS, u64::from(id.0), Some(record), &row)?;
            self.change_folders(|all| {
                if let Some(folder) = all.iter_mut().find(|folder| folder.id == id) {
                    folder.name = row.name;
                }
            });
        }
        for (id, row) in made {
            self.add_folder(write, id, row)?;
        }
        Ok(None)
    }

    /// Subscribes a name, of a folder or not, or ends that.
    pub(super) fn subscribe(&mut self, write: &Write<'_>, name: &str, subscribed: bool) -> Result<(), FolderError> {
        let name = allowed_name(name).ok_or(FolderError::Cannot)?;
        let known = &self.books.folders.subscribed;
        if known.contains(&name) == subscribed {
            return Ok(());
        }
        if subscribed && known.len() >= SUBSCRIBED_MAX {
            return Err(FolderError::TooMany);
        }
        self.change_catalogue(write, |catalogue| {
            match subscribed {
                true => catalogue.subscribed.insert(name),
                false => catalogue.subscribed.remove(&name),
            };
            Ok(())
        })?;
        Ok(())
    }

    /// The flag of a keyword, which is remembered if it is new.
    pub(super) fn keyword(&mut self, write: &Write<'_>, name: &str) -> Result<Option<Flags>, StoreError> {
        let folders = &self.books.folders;
        if let Some(flag) = folders.keyword(name) {
            return Ok(Some(flag));
        }
        let number = folders.keywords.len();
        if number >= KEYWORDS_MAX || !(1..=KEYWORD_BYTES_MAX).contains(&name.len()) {
            return Ok(None);
        }
        self.change_catalogue(write, |catalogue| {
            catalogue.keywords.push(name.to_owned());
            Ok(())
        })?;
        Ok(Flags::keyword(number))
    }

    /// Superiors of a name that no folder has, after those renamed have their new names.
    fn missing_superiors(&self, name: &str, renamed: &[(FolderId, String)]) -> Result<Vec<String>, FolderError> {
        let all = &self.books.folders.all;
        let keeps = |folder: &&Folder| !renamed.iter().any(|(id, _)| *id == folder.id);
        let kept: BTreeSet<&str> = all.iter().filter(keeps).map(|folder| folder.name.as_str()).collect();
        let missing: Vec<String> = superiors(name)
            .filter(|superior| !kept.contains(superior))
            .map(str::to_owned)
            .collect();
        let more = missing.len() + usize::from(renamed.is_empty());
        if all.len() + more > FOLDERS_MAX {
            return Err(FolderError::TooMany);
        }
        Ok(missing)
    }

    /// The row of a folder that is there, and the record of its key.
    fn folder_row(&self, source: &impl Source, id: FolderId) -> Result<(RecordNumber, FolderRow), StoreError> {
        let row = self.shelf.row::<FolderRow>(source, &FOLDERS, u64::from(id.0))?;
        let (key, row) = row.ok_or(StoreError::Corrupt)?;
        Ok((key.record, row))
    }

    fn add_folder(&mut self, write: &Write<'_>, id: FolderId, row: FolderRow) -> Result<(), StoreError> {
        put_new(&self.shelf, write, id, &row)?;
        let snapshot = Snapshot {
            version: 1,
            uid_validity: row.uid_validity,
            uid_next: 1,
            highest_modseq: MODSEQ_FIRST,
            entries: Default::default(),
        };
        Arc::make_mut(&mut self.books.boxes).insert(id, Arc::new(snapshot));
        self.change_folders(|all| all.push(row.shown(id)));
        Ok(())
    }

    /// Changes what holds for all folders, and shows it.
    fn change_catalogue(
        &mut self,
        write: &Write<'_>,
        change: impl FnOnce(&mut CatalogueRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let before = self.shelf.row::<CatalogueRow>(write, &CATALOGUE, ONLY)?;
        let (key, mut row) = before.ok_or(StoreError::Corrupt)?;
        change(&mut row)?;
        put_afresh(&self.shelf, write, &CATALOGUE, ONLY, Some(key.record), &row)?;
        let folders = Arc::make_mut(&mut self.books.folders);
        (folders.subscribed, folders.keywords) = (row.subscribed, row.keywords);
        folders.version += 1;
        self.books.mail_version += 1;
        Ok(())
    }

    fn change_folders(&mut self, change: impl FnOnce(&mut Vec<Folder>)) {
        let folders = Arc::make_mut(&mut self.books.folders);
        change(&mut folders.all);
        in_order(&mut folders.all);
        folders.version += 1;
        self.books.mail_version += 1;
    }
}
