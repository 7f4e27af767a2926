//! An INBOX in memory: for tests, and for trying mail programs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailbox::holder_store::{Entry, FlagChange, Flags, Snapshot};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::session::{Answer, Ask};
use super::{Backend, Summaries, Unavailable, summary};

/// An INBOX that is gone with the process.
pub struct MemoryInbox {
    user: String,
    password: String,
    /// UTC second of messages that come without one.
    clock: fn() -> u64,
    contents: Mutex<Contents>,
    changed: watch::Sender<u64>,
}

struct Contents {
    snapshot: Arc<Snapshot>,
    texts: BTreeMap<u32, Vec<u8>>,
}

impl MemoryInbox {
    /// An empty INBOX. `clock` gives the UTC second.
    #[must_use]
    pub fn new(user: &str, password: &str, clock: fn() -> u64) -> Self {
        let snapshot = Snapshot {
            version: 0,
            uid_validity: 1,
            uid_next: 1,
            highest_modseq: 1,
            entries: Default::default(),
        };
        let contents = Contents {
            snapshot: Arc::new(snapshot),
            texts: BTreeMap::new(),
        };
        Self {
            user: user.to_string(),
            password: password.to_string(),
            clock,
            contents: Mutex::new(contents),
            changed: watch::Sender::new(0),
        }
    }

    /// Adds a message and returns its UID.
    pub fn add(&self, text: Vec<u8>, flags: Flags, internal_date: Option<u64>) -> u32 {
        let internal_date = internal_date.unwrap_or_else(self.clock);
        self.change(|snapshot, texts| {
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

    /// Answers a session's question.
    pub fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Login { user, password } => Answer::Login(self.login(&user, &password)),
            Ask::Message(uid) => Answer::Message(Ok(self.contents().texts.get(&uid).cloned())),
            Ask::Messages(uids) => {
                let contents = self.contents();
                Answer::Messages(Ok(uids.iter().map(|uid| contents.texts.get(uid).cloned()).collect()))
            }
            Ask::Summaries(uids) => Answer::Summaries(Ok(self.summaries_of(&uids))),
            Ask::Store { uids, change } => {
                self.set_flags(&uids, change);
                Answer::Done(Ok(()))
            }
            Ask::Expunge(uids) => {
                self.remove(&uids);
                Answer::Done(Ok(()))
            }
            Ask::Append {
                message,
                flags,
                internal_date,
            } => Answer::Appended(Ok(self.add(message.to_vec(), flags, internal_date))),
        }
    }

    fn summaries_of(&self, uids: &[u32]) -> Summaries {
        let contents = self.contents();
        let summary = |uid| contents.texts.get(uid).map(|text| Zeroizing::new(summary(text)));
        uids.iter().map(summary).collect()
    }

    fn set_flags(&self, uids: &[u32], change: FlagChange) {
        self.change(|snapshot, _| {
            for uid in uids {
                if let Some(position) = snapshot.entries.position_of(*uid) {
                    let modseq = snapshot.highest_modseq;
                    snapshot.entries.change(position, |entry| {
                        (entry.flags, entry.modseq) = (change.apply(entry.flags), modseq);
                    });
                }
            }
        });
    }

    fn remove(&self, uids: &[u32]) {
        self.change(|snapshot, texts| {
            snapshot.entries.retain(|entry| !uids.contains(&entry.uid));
            texts.retain(|uid, _| !uids.contains(uid));
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Snapshot, &mut BTreeMap<u32, Vec<u8>>) -> T) -> T {
        let mut contents = self.contents();
        let Contents { snapshot, texts } = &mut *contents;
        let snapshot = Arc::make_mut(snapshot);
        snapshot.version += 1;
        snapshot.highest_modseq += 1;
        let version = snapshot.version;
        let result = change(snapshot, texts);
        drop(contents);
        self.changed.send_replace(version);
        result
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for MemoryInbox {
    fn login(&self, user: &[u8], password: &[u8]) -> bool {
        // Nothing here is worth guessing, so the time this takes may be known.
        user == self.user.as_bytes() && password == self.password.as_bytes()
    }

    fn inbox(&self) -> Arc<Snapshot> {
        Arc::clone(&self.contents().snapshot)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn message(&self, uid: u32) -> Result<Option<Vec<u8>>, Unavailable> {
        Ok(self.contents().texts.get(&uid).cloned())
    }

    async fn summaries(&self, uids: &[u32]) -> Result<Summaries, Unavailable> {
        Ok(self.summaries_of(uids))
    }

    async fn store(&self, uids: Vec<u32>, change: FlagChange) -> Result<(), Unavailable> {
        self.set_flags(&uids, change);
        Ok(())
    }

    async fn expunge(&self, uids: Vec<u32>) -> Result<(), Unavailable> {
        self.remove(&uids);
        Ok(())
    }

    async fn append(&self, message: Vec<u8>, flags: Flags, internal_date: Option<u64>) -> Result<u32, Unavailable> {
        Ok(self.add(message, flags, internal_date))
    }
}
