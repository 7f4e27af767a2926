//! What a login shows: the deposits that waited for its account, each as a mail that says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind};
use keypacks::deposit::{CLASS_KILOBYTES_MAX, class_bytes};
use keypacks::parcel::{is_password, login_tag};
use mailbox::holder_store::{Entry, Flags, Folder, FolderId, Folders, MessageText, Snapshot, SpecialUse, StoreFlags};
use mailbox::relay_store::{Account, Effect};
use mailbox::request::{COLLECT_MAX, Collected, Refusal};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::imap::{self, Failure, Unavailable};
use smtp_bridge::message::carried;
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use crate::Relay;
use crate::accept::Under;
use crate::budget::Room;
use crate::link::found;

/// Most deposits of one snapshot; the rest is shown to the next login.
const DEPOSITS_MAX: usize = 1_000;
/// Most bytes of their bodies, or one that is larger.
const BYTES_MAX: usize = 256 << 20;
/// Largest class, in units of 1,000 bytes, whose headers and structure are told without reading a body.
const SUMMARY_KILOBYTES_MAX: u32 = 1_024;
/// A mail that is longer is written where it holds up no other task.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// The IMAP engine's side of one connection.
pub(super) struct Carrier<S> {
    relay: Arc<Relay<S>>,
    folders: Arc<Folders>,
    recent: imap::Recent,
    /// Never wakes: a snapshot does not change.
    changed: watch::Sender<u64>,
    /// Since the login.
    shown: OnceLock<Shown>,
    /// Wakes when a newer session takes this one's place.
    end: Arc<Notify>,
    /// Of the text that is being handed out.
    room: Mutex<Option<Room>>,
    /// Of mails by class: but for the body they are alike.
    summaries: Mutex<BTreeMap<u32, Vec<u8>>>,
}

/// What waited at the login.
struct Shown {
    account: Account,
    /// Number of the root that the login was of.
    root: u64,
    day: u32,
    inbox: Arc<Snapshot>,
    /// In the order of UIDs, which begin at 1.
    deposits: Vec<Shelved>,
}

struct Shelved {
    index: u64,
    kilobytes: u32,
    wrap: Vec<u8>,
}

impl<S: RelayStore> Carrier<S> {
    pub(super) fn new(relay: Arc<Relay<S>>) -> Self {
        let inbox = Folder {
            id: FolderId::INBOX,
            name: "INBOX".to_owned(),
            special_use: None,
            uid_validity: 1,
        };
        let folders = Folders {
            all: vec![inbox],
            subscribed: BTreeSet::from(["INBOX".to_owned()]),
            ..Folders::default()
        };
        Self {
            relay,
            recent: imap::Recent::new(&folders, 1),
            folders: Arc::new(folders),
            changed: watch::Sender::new(0),
            shown: OnceLock::new(),
            end: Arc::default(),
            room: Mutex::default(),
            summaries: Mutex::default(),
        }
    }

    /// A newer session of the same account has taken this one's place.
    pub(super) async fn replaced(&self) {
        self.end.notified().await;
    }

    /// Burns the login, durably, and looks at what waits. `None`: it is none, or was used before.
    async fn enter(&self, user: &[u8], password: &[u8]) -> Option<Shown> {
        let relay = &self.relay;
        let hit = login_tag(user).and_then(|tag| found(relay.store.find_parcel(&tag)));
        let Some(hit) = hit else {
            // As much work for a name that is nobody's.
            let nobody = BoxChain::from_root(BoxKind::Parcel, &Secret::new([0; 32])).advance();
            is_password(&nobody, password);
            return None;
        };
        if !is_password(&hit.step, password) {
            return None;
        }
        let (index, day) = (hit.step.index, relay.host.day());
        drop(hit.step);
        let now = u64::from(day) * 86_400;
        let burned = relay
            .store
            .carry_out_parcel((hit.account, hit.root), (index, [0; 16]), Effect::Login, day, now);
        match burned.await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::error!(%error, "the store does not answer a login");
                return None;
            }
        }
        relay.openings.end(hit.account, index);
        relay.metrics.collections.count();
        match self.look((hit.account, hit.root), day) {
            Ok(shown) => Some(shown),
            Err(error) => {
                tracing::error!(%error, "what waits for a login cannot be read");
                None
            }
        }
    }

    fn look(&self, (account, root): Under, day: u32) -> Result<Shown, StoreError> {
        let store = &self.relay.store;
        let mut inbox = Snapshot {
            version: 1,
            // Nobody who sees two snapshots can tell from this whether they are of one pack.
            uid_validity: u32::from_le_bytes(self.relay.host.random()).max(1),
            uid_next: 1,
            highest_modseq: 1,
            entries: Default::default(),
        };
        let (mut deposits, mut bytes, mut from) = (Vec::new(), 0, 0);
        'all: loop {
            let (collected, next, more) = store.collect(account, from, COLLECT_MAX)?;
            for entry in collected {
                let Collected::Wrap { index, wrap } = entry else {
                    continue;
                };
                let Some(kilobytes) = store.deposit_kilobytes(account, index)? else {
                    continue;
                };
                bytes += class_bytes(kilobytes);
                if deposits.len() == DEPOSITS_MAX || (bytes > BYTES_MAX && !deposits.is_empty()) {
                    break 'all;
                }
                let length = carried::mail_length(&self.relay.config.domain, day, kilobytes);
                inbox.entries.push(Entry {
                    uid: inbox.uid_next,
                    flags: Flags::default(),
                    size: u32::try_from(length).expect("the largest class in base64 is below 4 GiB"),
                    internal_date: u64::from(day) * 86_400,
                    modseq: 1,
                });
                inbox.uid_next += 1;
                deposits.push(Shelved { index, kilobytes, wrap });
            }
            if !more || next <= from {
                break;
            }
            from = next;
        }
        Ok(Shown {
            account,
            root,
            day,
            inbox: Arc::new(inbox),
            deposits,
        })
    }

    fn shelved(&self, uid: u32) -> Option<(&Shown, &Shelved)> {
        let shown = self.shown.get()?;
        let position = usize::try_from(uid).ok()?.checked_sub(1)?;
        Some((shown, shown.deposits.get(position)?))
    }

    /// The summary of mails of a class. `None`: the text is to be read.
    fn summary(&self, day: u32, kilobytes: u32) -> Option<Vec<u8>> {
        if kilobytes > SUMMARY_KILOBYTES_MAX {
            return None;
        }
        let mut summaries = self.summaries.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = summaries.entry(kilobytes).or_insert_with(|| {
            let (wrap, body) = ([0; keypacks::deposit::WRAP], vec![0; class_bytes(kilobytes)]);
            imap::summary(&carried::mail(&self.relay.config.domain, day, &wrap, &body))
        });
        Some(summary.clone())
    }

    fn give_room_back(&self) {
        drop(self.room.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Sets memory aside for a text of a class, in place of what was set aside for the one before.
    async fn make_room(&self, kilobytes: u32) {
        self.give_room_back();
        // The body, and the mail, which is longer by a third and a little; never more than there is.
        let bytes = (class_bytes(kilobytes) / 5 * 12 + 4_096).min(2 * class_bytes(CLASS_KILOBYTES_MAX));
        let room = self.relay.budget.take(bytes).await;
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
    }
}

impl<S> Drop for Carrier<S> {
    fn drop(&mut self) {
        if let Some(shown) = self.shown.get() {
            self.relay.collecting.leave(shown.account, &self.end);
        }
    }
}

impl<S: RelayStore> imap::Mailboxes for Carrier<S> {
    fn folders(&self) -> Arc<Folders> {
        Arc::clone(&self.folders)
    }

    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>> {
        let shown = self.shown.get().map(|shown| Arc::clone(&shown.inbox));
        (folder == FolderId::INBOX).then(|| shown.unwrap_or_default())
    }

    fn recent(&self) -> &imap::Recent {
        &self.recent
    }

    fn quota(&self) -> imap::Quota {
        imap::Quota::default()
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

impl<S: RelayStore> imap::Backend for Carrier<S> {
    async fn login(&self, user: &[u8], password: &[u8]) -> bool {
        match self.enter(user, password).await {
            Some(shown) => {
                self.relay.collecting.enter(shown.account, &self.end);
                self.shown.set(shown).is_ok()
            }
            None => false,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// In memory whole: `make_room` bounds all of them together.
    async fn text(&self, folder: FolderId, uid: u32) -> Result<Option<Arc<dyn MessageText>>, Unavailable> {
        let text = self.message(folder, uid).await?;
        Ok(text.map(|text| Arc::new(imap::WholeText::new(text)) as Arc<dyn MessageText>))
    }

    async fn message(&self, _folder: FolderId, uid: u32) -> Result<Option<Vec<u8>>, Unavailable> {
        let Some((shown, shelved)) = self.shelved(uid) else {
            return Ok(None);
        };
        self.make_room(shelved.kilobytes).await;
        let relay = &self.relay;
        let standing = relay.store.standing(shown.account);
        if standing.root != shown.root || standing.is_dropped {
            // A login made with a copy of the pack ends with the root that the copy has, and one of a device with the device.
            return Err(Unavailable);
        }
        let body = match relay.store.fetch(shown.account, shelved.index, shown.day).await {
            Ok(Ok((_, body))) => body,
            // Its retention ended, or a link confirmed it meanwhile.
            Ok(Err(Refusal::NoDeposit)) => return Ok(None),
            Ok(Err(_)) => return Err(Unavailable),
            Err(error) => {
                tracing::error!(%error, "the store does not answer");
                return Err(Unavailable);
            }
        };
        let (domain, wrap, day) = (relay.config.domain.clone(), shelved.wrap.clone(), shown.day);
        let write = move || carried::mail(&domain, day, &wrap, &body);
        if class_bytes(shelved.kilobytes) <= INLINE_BYTES_MAX {
            return Ok(Some(write()));
        }
        relay.host.compute(write).await.map(Some).ok_or(Unavailable)
    }

    fn handed_out(&self) {
        self.give_room_back();
    }

    async fn summaries(&self, _folder: FolderId, uids: &[u32]) -> Result<imap::Summaries, Unavailable> {
        let summary = |uid: &u32| {
            let (shown, shelved) = self.shelved(*uid)?;
            self.summary(shown.day, shelved.kilobytes).map(Zeroizing::new)
        };
        Ok(uids.iter().map(summary).collect())
    }

    async fn keyword(&self, _name: String) -> Result<Option<Flags>, Unavailable> {
        Ok(None)
    }

    async fn store(&self, _folder: FolderId, _store: StoreFlags) -> Result<Vec<u32>, Failure> {
        Err(Failure::Cannot)
    }

    async fn expunge(&self, _folder: FolderId, _uids: Vec<u32>) -> Result<(), Failure> {
        Err(Failure::Cannot)
    }

    async fn append(&self, _: FolderId, _: Vec<u8>, _: Flags, _: Option<u64>) -> Result<u32, Failure> {
        Err(Failure::Cannot)
    }

    async fn copy(&self, _: FolderId, _: Vec<u32>, _: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        Err(Failure::Cannot)
    }

    async fn move_to(&self, _: FolderId, _: Vec<u32>, _: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        Err(Failure::Cannot)
    }

    async fn create(&self, _name: String, _special_use: Option<SpecialUse>) -> Result<(), Failure> {
        Err(Failure::Cannot)
    }

    async fn delete(&self, _folder: FolderId) -> Result<(), Failure> {
        Err(Failure::Cannot)
    }

    async fn rename(&self, _folder: FolderId, _name: String) -> Result<(), Failure> {
        Err(Failure::Cannot)
    }

    async fn subscribe(&self, _name: String, _subscribed: bool) -> Result<(), Failure> {
        Err(Failure::Cannot)
    }
}
