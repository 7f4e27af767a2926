//! Folders in memory: for tests, and for trying mail programs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailbox::holder_store::{
    Entry, FOLDERS_MAX, Flags, Folder, FolderId, Folders, MessageText, Snapshot, SpecialUse, StoreFlags, allowed_name,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::session::{Answer, Ask};
use super::{Backend, Failure, Long, Mailboxes, Quota, Recent, Summaries, Unavailable, Usage, WholeText, summary};

/// Folders that are gone with the process.
pub struct MemoryStore {
    user: String,
    password: String,
    /// UTC second of messages that come without one.
    clock: fn() -> u64,
    contents: Mutex<Contents>,
    changed: watch::Sender<u64>,
    recent: Recent,
    #[cfg(test)]
    handed_out: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct Contents {
    version: u64,
    next_folder: u32,
    folders: Arc<Folders>,
    mail: BTreeMap<FolderId, Mail>,
}

#[derive(Default)]
struct Mail {
    snapshot: Arc<Snapshot>,
    texts: BTreeMap<u32, Arc<Vec<u8>>>,
}

impl Contents {
    /// Lets a folder be changed, as its next version.
    fn change<T>(
        &mut self,
        folder: FolderId,
        change: impl FnOnce(&mut Snapshot, &mut BTreeMap<u32, Arc<Vec<u8>>>) -> T,
    ) -> Result<T, Failure> {
        let Mail { snapshot, texts } = self.mail.get_mut(&folder).ok_or(Failure::NoFolder)?;
        let snapshot = Arc::make_mut(snapshot);
        snapshot.version += 1;
        snapshot.highest_modseq += 1;
        Ok(change(snapshot, texts))
    }

    fn add(&mut self, to: FolderId, text: Arc<Vec<u8>>, flags: Flags, internal_date: u64) -> Result<u32, Failure> {
        self.change(to, |snapshot, texts| {
            let uid = snapshot.uid_next;
            snapshot.uid_next += 1;
            snapshot.entries.push(Entry {
                uid,
                flags,
                size: text.len() as u32,
                internal_date,
                modseq: snapshot.highest_modseq,
            });
            texts.insert(uid, text);
            uid
        })
    }

    fn store(&mut self, folder: FolderId, store: &StoreFlags) -> Result<Vec<u32>, Failure> {
        self.change(folder, |snapshot, _| {
            let mut left = Vec::new();
            for &uid in &store.uids {
                let Some(position) = snapshot.entries.position_of(uid) else {
                    continue;
                };
                let entry = &snapshot.entries[position];
                if store.unchanged_since.is_some_and(|modseq| entry.modseq > modseq) {
                    left.push(uid);
                    continue;
                }
                let (flags, modseq) = (store.change.apply(entry.flags), snapshot.highest_modseq);
                if flags != entry.flags {
                    snapshot
                        .entries
                        .change(position, |entry| (entry.flags, entry.modseq) = (flags, modseq));
                }
            }
            left
        })
    }

    fn remove(&mut self, folder: FolderId, uids: &[u32]) -> Result<(), Failure> {
        self.change(folder, |snapshot, texts| {
            snapshot.entries.retain(|entry| !uids.contains(&entry.uid));
            texts.retain(|uid, _| !uids.contains(uid));
        })
    }

    fn copy(&mut self, from: FolderId, uids: &[u32], to: FolderId, moves: bool) -> Result<Vec<(u32, u32)>, Failure> {
        if !self.mail.contains_key(&to) {
            return Err(Failure::NoFolder);
        }
        let source = self.mail.get(&from).ok_or(Failure::NoFolder)?;
        let found = uids.iter().filter_map(|uid| {
            let entry = source.snapshot.entries.by_uid(*uid)?;
            Some((entry.clone(), Arc::clone(source.texts.get(uid)?)))
        });
        let found: Vec<_> = found.collect();
        let mut copied = Vec::with_capacity(found.len());
        for (entry, text) in found {
            let uid = self.add(to, text, entry.flags, entry.internal_date)?;
            copied.push((entry.uid, uid));
        }
        if moves {
            self.remove(from, uids)?;
        }
        Ok(copied)
    }

    fn create(&mut self, name: &str, special_use: Option<SpecialUse>) -> Result<FolderId, Failure> {
        let name = allowed_name(name).ok_or(Failure::Cannot)?;
        if self.folders.by_name(&name).is_some() {
            return Err(Failure::Exists);
        }
        for (at, _) in name.match_indices('/') {
            if self.folders.by_name(&name[..at]).is_none() {
                self.create(&name[..at], None)?;
            }
        }
        if self.folders.all.len() >= FOLDERS_MAX {
            return Err(Failure::Limit);
        }
        let id = FolderId(self.next_folder);
        self.next_folder += 1;
        let folder = Folder {
            id,
            name,
            special_use,
            uid_validity: id.0 + 1,
        };
        let mail = Mail::default();
        self.mail.insert(id, mail);
        self.change(id, |snapshot, _| {
            (snapshot.uid_validity, snapshot.uid_next) = (folder.uid_validity, 1);
        })?;
        self.change_folders(|folders| folders.all.push(folder));
        Ok(id)
    }

    fn delete(&mut self, folder: FolderId) -> Result<(), Failure> {
        if folder == FolderId::INBOX {
            return Err(Failure::Cannot);
        }
        self.mail.remove(&folder).ok_or(Failure::NoFolder)?;
        self.change_folders(|folders| folders.all.retain(|known| known.id != folder));
        Ok(())
    }

    fn rename(&mut self, folder: FolderId, name: &str) -> Result<(), Failure> {
        let name = allowed_name(name).ok_or(Failure::Cannot)?;
        let old = self.folders.by_id(folder).ok_or(Failure::NoFolder)?.name.clone();
        if folder == FolderId::INBOX {
            let to = self.create(&name, None)?;
            let uids = self.mail[&folder]
                .snapshot
                .entries
                .iter()
                .map(|entry| entry.uid)
                .collect::<Vec<_>>();
            return self.copy(folder, &uids, to, true).map(|_| ());
        }
        let below = format!("{old}/");
        if name.starts_with(&below) {
            return Err(Failure::Cannot);
        }
        let is_taken = self
            .folders
            .all
            .iter()
            .any(|known| match known.name.strip_prefix(&below) {
                Some(rest) => self.folders.by_name(&format!("{name}/{rest}")).is_some(),
                None => known.name == name,
            });
        if is_taken {
            return Err(Failure::Exists);
        }
        if let Some((superior, _)) = name.rsplit_once('/')
            && self.folders.by_name(superior).is_none()
        {
            self.create(superior, None)?;
        }
        self.change_folders(|folders| {
            for known in &mut folders.all {
                if known.id == folder {
                    known.name.clone_from(&name);
                } else if let Some(rest) = known.name.strip_prefix(&below) {
                    known.name = format!("{name}/{rest}");
                }
            }
        });
        Ok(())
    }

    fn subscribe(&mut self, name: &str, subscribed: bool) -> Result<(), Failure> {
        let name = allowed_name(name).ok_or(Failure::Cannot)?;
        self.change_folders(|folders| match subscribed {
            true => folders.subscribed.insert(name),
            false => folders.subscribed.remove(&name),
        });
        Ok(())
    }

    fn keyword(&mut self, name: &str) -> Option<Flags> {
        if let Some(known) = self.folders.keyword(name) {
            return Some(known);
        }
        let flags = Flags::keyword(self.folders.keywords.len())?;
        self.change_folders(|folders| folders.keywords.push(name.to_owned()));
        Some(flags)
    }

    fn change_folders<T>(&mut self, change: impl FnOnce(&mut Folders) -> T) {
        let folders = Arc::make_mut(&mut self.folders);
        folders.version += 1;
        change(folders);
        folders
            .all
            .sort_by(|one, other| (one.id.0 > 0, &one.name).cmp(&(other.id.0 > 0, &other.name)));
    }
}

impl MemoryStore {
    /// Empty folders: INBOX and one for each special use. `clock` gives the UTC second.
    ///
    /// # Panics
    /// Never: the names of these folders are allowed.
    #[must_use]
    pub fn new(user: &str, password: &str, clock: fn() -> u64) -> Self {
        let mut contents = Contents::default();
        let uses = SpecialUse::ALL.map(|(special_use, name)| (name, Some(special_use)));
        for (name, special_use) in [("INBOX", None)].into_iter().chain(uses) {
            let made = contents.create(name, special_use).map(|_| ());
            let subscribed = made.and_then(|()| contents.subscribe(name, true));
            subscribed.expect("a name of its own");
        }
        Self {
            user: user.to_string(),
            password: password.to_string(),
            clock,
            contents: Mutex::new(contents),
            changed: watch::Sender::new(0),
            recent: Recent::default(),
            #[cfg(test)]
            handed_out: Default::default(),
        }
    }

    /// Adds a message to INBOX and returns its UID.
    ///
    /// # Panics
    /// Never: INBOX is always there.
    pub fn add(&self, text: Vec<u8>, flags: Flags, internal_date: Option<u64>) -> u32 {
        self.add_to(FolderId::INBOX, text, flags, internal_date)
            .expect("INBOX is there")
    }

    /// Answers a session's question.
    pub fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Login { user, password } => Answer::Login(self.is_login(&user, &password)),
            Ask::Message(folder, uid) => Answer::Message(Ok(self.whole(folder, uid))),
            Ask::Messages(folder, uids) => {
                Answer::Messages(Ok(uids.iter().map(|uid| self.whole(folder, *uid)).collect()))
            }
            Ask::Text(folder, uid, depth, words) => {
                let text = self.long_text(folder, uid);
                Answer::Text(
                    text.map(|text| Long::of(text, depth, &words))
                        .transpose()
                        .map_err(|_| Unavailable),
                )
            }
            Ask::Piece(text, at) => Answer::Piece(text.read(at).map_err(|_| Unavailable)),
            Ask::Summaries(folder, uids) => Answer::Summaries(Ok(self.summaries_of(folder, &uids))),
            Ask::Keywords(names) => {
                let flags = self.change(|contents| {
                    let flags = names.iter().filter_map(|name| contents.keyword(name));
                    flags.fold(Flags::default(), Flags::with)
                });
                Answer::Keywords(Ok(flags))
            }
            Ask::Store(folder, store) => Answer::Stored(self.change(|contents| contents.store(folder, &store))),
            Ask::Expunge(folder, uids) => Answer::Done(self.change(|contents| contents.remove(folder, &uids))),
            Ask::Append {
                folder,
                message,
                flags,
                internal_date,
            } => Answer::Appended(self.add_to(folder, message.to_vec(), flags, internal_date)),
            Ask::Copy { from, uids, to, moves } => {
                Answer::Copied(self.change(|contents| contents.copy(from, &uids, to, moves)))
            }
            Ask::Create(name, special_use) => {
                Answer::Done(self.change(|contents| contents.create(&name, special_use).map(|_| ())))
            }
            Ask::Delete(folder) => Answer::Done(self.change(|contents| contents.delete(folder))),
            Ask::Rename(folder, name) => Answer::Done(self.change(|contents| contents.rename(folder, &name))),
            Ask::Subscribe(name, subscribed) => {
                Answer::Done(self.change(|contents| contents.subscribe(&name, subscribed)))
            }
        }
    }

    /// How often [`Backend::handed_out`] was called.
    #[cfg(test)]
    pub(super) fn handed_out_count(&self) -> usize {
        self.handed_out.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn is_login(&self, user: &[u8], password: &[u8]) -> bool {
        // Nothing here is worth guessing, so the time this takes may be known.
        user == self.user.as_bytes() && password == self.password.as_bytes()
    }

    fn add_to(
        &self,
        folder: FolderId,
        text: Vec<u8>,
        flags: Flags,
        internal_date: Option<u64>,
    ) -> Result<u32, Failure> {
        let internal_date = internal_date.unwrap_or_else(self.clock);
        self.change(|contents| contents.add(folder, Arc::new(text), flags, internal_date))
    }

    fn long_text(&self, folder: FolderId, uid: u32) -> Option<Arc<dyn MessageText>> {
        Some(Arc::new(WholeText::new(self.whole(folder, uid)?)))
    }

    fn whole(&self, folder: FolderId, uid: u32) -> Option<Vec<u8>> {
        let contents = self.contents();
        let text = contents.mail.get(&folder)?.texts.get(&uid)?;
        Some(text.to_vec())
    }

    fn summaries_of(&self, folder: FolderId, uids: &[u32]) -> Summaries {
        let contents = self.contents();
        let texts = contents.mail.get(&folder).map(|mail| &mail.texts);
        let summary = |uid| texts?.get(uid).map(|text| Zeroizing::new(summary(text)));
        uids.iter().map(summary).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Contents) -> T) -> T {
        let mut contents = self.contents();
        contents.version += 1;
        let version = contents.version;
        let result = change(&mut contents);
        drop(contents);
        self.changed.send_replace(version);
        result
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailboxes for MemoryStore {
    fn folders(&self) -> Arc<Folders> {
        Arc::clone(&self.contents().folders)
    }

    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>> {
        self.contents().mail.get(&folder).map(|mail| Arc::clone(&mail.snapshot))
    }

    fn recent(&self) -> &Recent {
        &self.recent
    }

    fn quota(&self) -> Quota {
        Quota {
            value: Usage { used: 1, limit: 100 },
            keys: Usage { used: 2, limit: 64 },
        }
    }
}

impl Backend for MemoryStore {
    async fn login(&self, user: &[u8], password: &[u8]) -> bool {
        self.is_login(user, password)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    #[cfg(test)]
    fn handed_out(&self) {
        self.handed_out.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    async fn text(&self, folder: FolderId, uid: u32) -> Result<Option<Arc<dyn MessageText>>, Unavailable> {
        Ok(self.long_text(folder, uid))
    }

    async fn message(&self, folder: FolderId, uid: u32) -> Result<Option<Vec<u8>>, Unavailable> {
        Ok(self.whole(folder, uid))
    }

    async fn summaries(&self, folder: FolderId, uids: &[u32]) -> Result<Summaries, Unavailable> {
        Ok(self.summaries_of(folder, uids))
    }

    async fn keyword(&self, name: String) -> Result<Option<Flags>, Unavailable> {
        Ok(self.change(|contents| contents.keyword(&name)))
    }

    async fn store(&self, folder: FolderId, store: StoreFlags) -> Result<Vec<u32>, Failure> {
        self.change(|contents| contents.store(folder, &store))
    }

    async fn expunge(&self, folder: FolderId, uids: Vec<u32>) -> Result<(), Failure> {
        self.change(|contents| contents.remove(folder, &uids))
    }

    async fn append(
        &self,
        folder: FolderId,
        message: Vec<u8>,
        flags: Flags,
        internal_date: Option<u64>,
    ) -> Result<u32, Failure> {
        self.add_to(folder, message, flags, internal_date)
    }

    async fn copy(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        self.change(|contents| contents.copy(from, &uids, to, false))
    }

    async fn move_to(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        self.change(|contents| contents.copy(from, &uids, to, true))
    }

    async fn create(&self, name: String, special_use: Option<SpecialUse>) -> Result<(), Failure> {
        self.change(|contents| contents.create(&name, special_use).map(|_| ()))
    }

    async fn delete(&self, folder: FolderId) -> Result<(), Failure> {
        self.change(|contents| contents.delete(folder))
    }

    async fn rename(&self, folder: FolderId, name: String) -> Result<(), Failure> {
        self.change(|contents| contents.rename(folder, &name))
    }

    async fn subscribe(&self, name: String, subscribed: bool) -> Result<(), Failure> {
        self.change(|contents| contents.subscribe(&name, subscribed))
    }
}
