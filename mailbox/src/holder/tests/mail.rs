//! The plain model of folders and their messages.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::model::text;
use super::{Running, flagging, summary_of};
use crate::holder::HolderFiles;
use crate::holder_store::{FlagChange, Flags, FolderError, FolderId, HolderStore, SpecialUse, allowed_name, below};

/// What is done to mail; numbers choose among what there is.
#[derive(Clone, Debug)]
pub(super) enum MailStep {
    Append(u8),
    /// Folder, message, bits; whether messages changed later than half of the changes are left alone.
    Flag(u8, u8, u32, bool),
    Expunge(u8, u8),
    Copy(u8, u8, u8),
    Move(u8, u8, u8),
    Create(u8),
    Delete(u8),
    Rename(u8, u8),
    Subscribe(u8, bool),
    Keyword(u8),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum MailReply {
    Nothing,
    Uid(u32),
    Uids(Vec<u32>),
    Pairs(Vec<(u32, u32)>),
    Folder(FolderId),
    Keyword(Option<Flags>),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct ModelMessage {
    pub(super) flags: Flags,
    pub(super) modseq: u64,
    pub(super) text: Vec<u8>,
    pub(super) date: u64,
    /// Whether it came with a summary.
    has_summary: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct ModelFolder {
    name: String,
    special_use: Option<SpecialUse>,
    pub(super) uid_validity: u32,
    uid_next: u32,
    modseq: u64,
    pub(super) messages: BTreeMap<u32, ModelMessage>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct MailModel {
    pub(super) folders: BTreeMap<FolderId, ModelFolder>,
    subscribed: BTreeSet<String>,
    keywords: Vec<String>,
    /// Of the next folder to be made; the store keeps it hidden.
    next: (u32, u32),
}

impl MailModel {
    /// The mail as the store shows it. `next`: what only the model knows.
    pub(super) fn read(running: &Running, next: Option<(u32, u32)>) -> Self {
        let store = &running.store;
        let listed = store.folders();
        let folder = |folder: &crate::holder_store::Folder| {
            let snapshot = store.folder(folder.id).expect("listed");
            assert_eq!(snapshot.uid_validity, folder.uid_validity);
            let uids: Vec<u32> = snapshot.entries.iter().map(|entry| entry.uid).collect();
            let summaries = store.summaries(folder.id, &uids).expect("readable");
            let message = |(entry, summary): (&crate::holder_store::Entry, Option<zeroize::Zeroizing<Vec<u8>>>)| {
                let text = store.message(folder.id, entry.uid).expect("readable").expect("listed");
                assert_eq!(entry.size as usize, text.len());
                let has_summary = summary.is_some();
                assert!(
                    summary.is_none_or(|summary| *summary == summary_of(&text)),
                    "another message's summary"
                );
                let message = ModelMessage {
                    flags: entry.flags,
                    modseq: entry.modseq,
                    text,
                    date: entry.internal_date,
                    has_summary,
                };
                (entry.uid, message)
            };
            let shown = ModelFolder {
                name: folder.name.clone(),
                special_use: folder.special_use,
                uid_validity: folder.uid_validity,
                uid_next: snapshot.uid_next,
                modseq: snapshot.highest_modseq,
                messages: snapshot.entries.iter().zip(summaries).map(message).collect(),
            };
            (folder.id, shown)
        };
        let folders: BTreeMap<_, _> = listed.all.iter().map(folder).collect();
        let sorted = listed.all[1..].is_sorted_by(|a, b| a.name < b.name);
        assert!(
            sorted && listed.all[0].id == FolderId::INBOX,
            "INBOX first, then by name"
        );
        let highest = folders.keys().map(|id| id.0).max().expect("INBOX");
        let validity = folders.values().map(|folder| folder.uid_validity).max().expect("INBOX");
        Self {
            folders,
            subscribed: listed.subscribed.clone(),
            keywords: listed.keywords.clone(),
            next: next.unwrap_or((highest + 1, validity + 1)),
        }
    }

    pub(super) fn next(&self) -> (u32, u32) {
        self.next
    }

    pub(super) fn hide_as(&mut self, other: &Self) {
        self.next = other.next;
    }

    fn pick<T: Clone>(among: impl Iterator<Item = T>, which: u8) -> Option<T> {
        super::model::Model::pick(among, which)
    }

    /// A folder, or now and then one that is not there.
    fn folder(&self, which: u8) -> FolderId {
        let ids = self.folders.keys().copied().chain([FolderId(self.next.0 + 9)]);
        Self::pick(ids, which).expect("INBOX at least")
    }

    /// One message of a folder, all of them, or one that is not there.
    fn messages(&self, folder: FolderId, which: u8) -> Vec<u32> {
        let all: Vec<u32> = match self.folders.get(&folder) {
            Some(folder) => folder.messages.keys().rev().copied().collect(),
            None => Vec::new(),
        };
        match which % 4 {
            0 => all,
            _ => vec![Self::pick(all.into_iter(), which / 4).unwrap_or(99)],
        }
    }

    fn of(&mut self, folder: FolderId) -> Result<&mut ModelFolder, FolderError> {
        self.folders.get_mut(&folder).ok_or(FolderError::NoFolder)
    }

    pub(super) fn append(
        &mut self,
        folder: FolderId,
        text: &[u8],
        date: u64,
        has_summary: bool,
    ) -> Result<u32, FolderError> {
        let folder = self.of(folder)?;
        folder.modseq += 1;
        let message = ModelMessage {
            flags: Flags::default(),
            modseq: folder.modseq,
            text: text.to_vec(),
            date,
            has_summary,
        };
        Ok(folder.add(message))
    }

    /// What the step does where nothing fails.
    pub(super) fn apply(&mut self, step: &MailStep, time: u64) -> Result<MailReply, FolderError> {
        match step {
            MailStep::Append(folder) => self
                .append(self.folder(*folder), &text(0, time), time, true)
                .map(MailReply::Uid),
            MailStep::Flag(folder, which, bits, conditional) => {
                let folder = self.folder(*folder);
                let uids = self.messages(folder, *which);
                let since = self.since(folder, *conditional).unwrap_or(u64::MAX);
                let folder = self.of(folder)?;
                let next = folder.modseq + 1;
                let mut left_alone = Vec::new();
                for uid in uids {
                    let Some(message) = folder.messages.get_mut(&uid) else {
                        continue;
                    };
                    if message.modseq > since {
                        left_alone.push(uid);
                    } else if message.flags != Flags(*bits) {
                        (message.flags, message.modseq) = (Flags(*bits), next);
                        folder.modseq = next;
                    }
                }
                left_alone.sort_unstable();
                Ok(MailReply::Uids(left_alone))
            }
            MailStep::Expunge(folder, which) => {
                let folder = self.folder(*folder);
                let uids = self.messages(folder, *which);
                Ok(MailReply::Uids(self.of(folder)?.take_out(uids).into_keys().collect()))
            }
            MailStep::Copy(from, which, to) => {
                let (from, to) = (self.folder(*from), self.folder(*to));
                let uids = self.messages(from, *which);
                let mut source = self.of(from)?.clone();
                self.of(to)?;
                Ok(MailReply::Pairs(self.add_all(to, source.take_out(uids))))
            }
            MailStep::Move(from, which, to) => {
                let (from, to) = (self.folder(*from), self.folder(*to));
                let uids = self.messages(from, *which);
                self.of(to)?;
                Ok(MailReply::Pairs(self.shift(from, uids, to)?))
            }
            MailStep::Create(name) => self.create(&folder_name(*name)).map(MailReply::Folder),
            MailStep::Delete(folder) => {
                let id = self.folder(*folder);
                if id == FolderId::INBOX {
                    return Err(FolderError::Cannot);
                }
                self.folders.remove(&id).ok_or(FolderError::NoFolder)?;
                Ok(MailReply::Nothing)
            }
            MailStep::Rename(folder, name) => {
                self.rename(self.folder(*folder), &folder_name(*name))?;
                Ok(MailReply::Nothing)
            }
            MailStep::Subscribe(name, subscribed) => {
                let name = allowed_name(&folder_name(*name)).ok_or(FolderError::Cannot)?;
                match subscribed {
                    true => self.subscribed.insert(name),
                    false => self.subscribed.remove(&name),
                };
                Ok(MailReply::Nothing)
            }
            MailStep::Keyword(name) => {
                let name = keyword(*name);
                let known = self.keywords.iter().position(|known| known.eq_ignore_ascii_case(&name));
                let number = known.unwrap_or(self.keywords.len());
                if known.is_none() && number < 26 {
                    self.keywords.push(name);
                }
                Ok(MailReply::Keyword((number < 26).then(|| Flags(32 << number))))
            }
        }
    }

    /// What a conditional STORE names.
    fn since(&self, folder: FolderId, conditional: bool) -> Option<u64> {
        let folder = self.folders.get(&folder)?;
        conditional.then_some(folder.modseq / 2 + 1)
    }

    fn add_all(&mut self, to: FolderId, messages: BTreeMap<u32, ModelMessage>) -> Vec<(u32, u32)> {
        let to = self.folders.get_mut(&to).expect("looked for before");
        to.modseq += u64::from(!messages.is_empty());
        let modseq = to.modseq;
        let add = |(old, message)| (old, to.add(ModelMessage { modseq, ..message }));
        messages.into_iter().map(add).collect()
    }

    /// Moves messages. Within one folder that is two changes: they come, and they go.
    fn shift(&mut self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, FolderError> {
        let mut messages = self.of(from)?.clone();
        let pairs = self.add_all(to, messages.take_out(uids.clone()));
        self.of(from)?.take_out(uids);
        Ok(pairs)
    }

    fn named(&self, name: &str) -> bool {
        self.folders.values().any(|folder| folder.name == name)
    }

    fn make(&mut self, name: &str) -> FolderId {
        let id = FolderId(self.next.0);
        let folder = ModelFolder {
            name: name.to_owned(),
            special_use: None,
            uid_validity: self.next.1,
            uid_next: 1,
            modseq: 1,
            messages: BTreeMap::new(),
        };
        self.folders.insert(id, folder);
        self.next = (self.next.0 + 1, self.next.1 + 1);
        id
    }

    fn make_superiors(&mut self, name: &str) {
        let levels: Vec<&str> = name.split('/').collect();
        for depth in 1..levels.len() {
            let superior = levels[..depth].join("/");
            if !self.named(&superior) {
                self.make(&superior);
            }
        }
    }

    fn create(&mut self, name: &str) -> Result<FolderId, FolderError> {
        let name = allowed_name(name).ok_or(FolderError::Cannot)?;
        if self.named(&name) {
            return Err(FolderError::Exists);
        }
        self.make_superiors(&name);
        Ok(self.make(&name))
    }

    fn rename(&mut self, id: FolderId, name: &str) -> Result<(), FolderError> {
        let before = self.of(id)?.name.clone();
        if id == FolderId::INBOX {
            let made = self.create(name)?;
            let all = self.folders[&id].messages.keys().copied().collect();
            self.shift(id, all, made)?;
            return Ok(());
        }
        let name = allowed_name(name).ok_or(FolderError::Cannot)?;
        let moved = |old: &str| match old == before {
            true => Some(name.clone()),
            false => below(&before, old).map(|rest| format!("{name}/{rest}")),
        };
        if self.named(&name) {
            return Err(FolderError::Exists);
        }
        if below(&before, &name).is_some() {
            return Err(FolderError::Cannot);
        }
        let mut after = self.clone();
        for folder in after.folders.values_mut() {
            if let Some(new) = moved(&folder.name) {
                if self.named(&new) {
                    return Err(FolderError::Exists);
                }
                folder.name = new;
            }
        }
        after.make_superiors(&name);
        *self = after;
        Ok(())
    }
}

impl ModelFolder {
    fn add(&mut self, message: ModelMessage) -> u32 {
        self.messages.insert(self.uid_next, message);
        self.uid_next += 1;
        self.uid_next - 1
    }

    fn take_out(&mut self, uids: Vec<u32>) -> BTreeMap<u32, ModelMessage> {
        let there = uids
            .into_iter()
            .filter_map(|uid| Some((uid, self.messages.remove(&uid)?)));
        let taken: BTreeMap<_, _> = there.collect();
        self.modseq += u64::from(!taken.is_empty());
        taken
    }
}

/// Does the step on the store, choosing by the model as it was before.
pub(super) async fn perform(
    store: &HolderFiles,
    model: &MailModel,
    step: &MailStep,
    time: u64,
) -> Result<MailReply, FolderError> {
    match step {
        MailStep::Append(folder) => {
            let text = text(0, time);
            let summary = summary_of(&text);
            store
                .append(model.folder(*folder), text, summary, Flags::default(), time)
                .await
                .map(MailReply::Uid)
        }
        MailStep::Flag(folder, which, bits, conditional) => {
            let folder = model.folder(*folder);
            let mut flags = flagging(model.messages(folder, *which), FlagChange::Set(Flags(*bits)));
            flags.unchanged_since = model.since(folder, *conditional);
            store.change_flags(folder, flags).await.map(MailReply::Uids)
        }
        MailStep::Expunge(folder, which) => {
            let folder = model.folder(*folder);
            let expunged = store.expunge(folder, model.messages(folder, *which)).await;
            expunged.map(MailReply::Uids)
        }
        MailStep::Copy(from, which, to) => {
            let (from, to) = (model.folder(*from), model.folder(*to));
            let copied = store.copy(from, model.messages(from, *which), to).await;
            copied.map(MailReply::Pairs)
        }
        MailStep::Move(from, which, to) => {
            let (from, to) = (model.folder(*from), model.folder(*to));
            let moved = store.move_to(from, model.messages(from, *which), to).await;
            moved.map(MailReply::Pairs)
        }
        MailStep::Create(name) => store
            .create_folder(folder_name(*name), None)
            .await
            .map(MailReply::Folder),
        MailStep::Delete(folder) => {
            let deleted = store.delete_folder(model.folder(*folder)).await;
            deleted.map(|()| MailReply::Nothing)
        }
        MailStep::Rename(folder, name) => {
            let renamed = store.rename_folder(model.folder(*folder), folder_name(*name)).await;
            renamed.map(|()| MailReply::Nothing)
        }
        MailStep::Subscribe(name, subscribed) => {
            let done = store.subscribe(folder_name(*name), *subscribed).await;
            done.map(|()| MailReply::Nothing)
        }
        MailStep::Keyword(name) => Ok(MailReply::Keyword(store.keyword(keyword(*name)).await?)),
    }
}

pub(super) fn mail_step() -> impl Strategy<Value = MailStep> {
    // Few folders mostly, so that steps meet.
    let folder = || prop_oneof![3 => 0..3u8, 1 => any::<u8>()];
    prop_oneof![
        5 => folder().prop_map(MailStep::Append),
        3 => (folder(), any::<u8>(), 0..128u32, any::<bool>()).prop_map(|(f, m, bits, c)| MailStep::Flag(f, m, bits, c)),
        2 => (folder(), any::<u8>()).prop_map(|(f, m)| MailStep::Expunge(f, m)),
        4 => (folder(), any::<u8>(), folder()).prop_map(|(f, m, t)| MailStep::Copy(f, m, t)),
        4 => (folder(), any::<u8>(), folder()).prop_map(|(f, m, t)| MailStep::Move(f, m, t)),
        3 => any::<u8>().prop_map(MailStep::Create),
        2 => folder().prop_map(MailStep::Delete),
        2 => (folder(), any::<u8>()).prop_map(|(f, n)| MailStep::Rename(f, n)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(n, s)| MailStep::Subscribe(n, s)),
        1 => any::<u8>().prop_map(MailStep::Keyword),
    ]
}

/// Names that collide, lie below each other, or are not allowed.
fn folder_name(which: u8) -> String {
    let names = [
        "a", "a/b", "a/b/c", "a/c", "b", "b/c", "Sent", "Sent/a", "inbox", "InBox/x", "a//b", "c/d/e",
    ];
    names[usize::from(which) % names.len()].to_owned()
}

fn keyword(which: u8) -> String {
    let case = if which.is_multiple_of(2) { "word" } else { "WORD" };
    format!("${case}{}", which / 2 % 40)
}
