//! The committing side of a holder's store: a batch works on a copy of the books, which readers see once it is durable.

use std::sync::{Arc, PoisonError, RwLock};

use crate::index::Write;
use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::books::Books;
use super::rows::STATE;
use super::shelf::Shelf;
use crate::StoreError;
use crate::base::Base;
use crate::commit::Stage;
use crate::slots::{SlotFile, SlotUpdate};
use crate::tables::Single;
use crate::used::UsedKeys;

/// The one slot of a holder: the states of its chains.
const SLOT: u64 = 0;

/// What readers see: the books of the last durable commit, and who waits for new ones.
pub(super) struct Shown {
    books: RwLock<Arc<Books>>,
    outbox: watch::Sender<u64>,
    mail: watch::Sender<u64>,
}

impl Shown {
    pub(super) fn new(books: Books) -> Self {
        Self {
            outbox: watch::Sender::new(books.outbox_version),
            mail: watch::Sender::new(books.mail_version),
            books: RwLock::new(Arc::new(books)),
        }
    }

    pub(super) fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn outbox_changed(&self) -> watch::Receiver<u64> {
        self.outbox.subscribe()
    }

    pub(super) fn mail_changed(&self) -> watch::Receiver<u64> {
        self.mail.subscribe()
    }

    fn replace(&self, books: Arc<Books>) {
        let versions = (books.outbox_version, books.mail_version);
        *self.books.write().unwrap_or_else(PoisonError::into_inner) = books;
        self.outbox
            .send_if_modified(|seen| std::mem::replace(seen, versions.0) != versions.0);
        self.mail
            .send_if_modified(|seen| std::mem::replace(seen, versions.1) != versions.1);
    }
}

/// See the module.
pub(super) struct HolderStage {
    pub(super) shelf: Arc<Shelf>,
    /// As the batch under way leaves them.
    pub(super) books: Books,
    shown: Arc<Shown>,
    slots: SlotFile,
    /// Link, post and parcel index that the slot stands at.
    settled: (u64, u64, Option<u64>),
    commit: u64,
    used: Option<UsedKeys>,
}

impl HolderStage {
    /// Takes over what was opened. Both copies of the slot are written first: one may lag after a crash.
    pub(super) fn new(
        shelf: Arc<Shelf>,
        shown: Arc<Shown>,
        slots: SlotFile,
        commit: u64,
        used: Option<UsedKeys>,
    ) -> Result<Self, StoreError> {
        let books = Books::clone(&shown.books());
        let mut stage = Self {
            shelf,
            books,
            shown,
            slots,
            settled: (0, 0, None),
            commit,
            used,
        };
        stage.write_slot()?;
        Ok(stage)
    }

    /// Writes the counters, positions and mirrors as the operation under way leaves them.
    pub(super) fn put_state(&self, write: &Write<'_>) -> Result<(), StoreError> {
        STATE.put(write, Single, &self.books.state)
    }

    /// Notes a time that an operation told.
    pub(super) fn tell_time(&mut self, now: u64) {
        self.books.state.now = self.books.state.now.max(now);
    }

    fn positions(books: &Books) -> (u64, u64, Option<u64>) {
        let parcel = books.parcel.as_deref().map(BoxChain::index);
        (books.link.index(), books.post.index(), parcel)
    }

    fn write_slot(&mut self) -> Result<(), StoreError> {
        let books = self.shown.books();
        let state = encode_chains(&books.link, &books.post, books.parcel.as_deref());
        self.slots.write(&[SlotUpdate {
            slot: SLOT,
            commit: self.commit,
            state,
        }])?;
        self.settled = Self::positions(&books);
        Ok(())
    }
}

impl Stage for HolderStage {
    fn base(&self) -> &Arc<Base> {
        &self.shelf.base
    }

    fn committed(&mut self, number: u64) {
        self.commit = number;
        if let Some(used) = &mut self.used {
            let before = self.shown.books();
            used.note_link(&before.link, self.books.link.index());
            used.note_boxes(&before.post, self.books.post.index());
            if let (Some(before), Some(now)) = (&before.parcel, &self.books.parcel) {
                used.note_boxes(before, now.index());
            }
        }
        self.shown.replace(Arc::new(self.books.clone()));
    }

    fn abandoned(&mut self) {
        self.books = Books::clone(&self.shown.books());
    }

    fn is_unsettled(&self) -> bool {
        self.shelf.base.slab.is_due() || self.settled != Self::positions(&self.shown.books())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        if let Some(used) = &mut self.used {
            used.write()?;
        }
        if self.settled != Self::positions(&self.shown.books()) {
            self.write_slot()?;
        }
        self.shelf.base.slab.erase()
    }
}

/// The chains as the slot has them.
pub(super) struct Chains {
    pub(super) link: LinkChain,
    pub(super) post: BoxChain,
    /// A store of before there were parcels has none.
    pub(super) parcel: Option<BoxChain>,
}

/// Writes the first states of all chains.
pub(super) fn first_slot(slots: &mut SlotFile, root: &Secret<32>, commit: u64) -> Result<(), StoreError> {
    let boxed = |kind| BoxChain::from_root(kind, root);
    let parcel = boxed(BoxKind::Parcel);
    let state = encode_chains(&LinkChain::from_root(root), &boxed(BoxKind::Post), Some(&parcel));
    slots.write(&[SlotUpdate {
        slot: SLOT,
        commit,
        state,
    }])
}

/// Reads the chains. They may lag behind the index; an index that lags behind them was restored from a copy.
pub(super) fn read_slot(slots: &mut SlotFile, commit: u64) -> Result<Chains, StoreError> {
    let slot = slots.read(SLOT)?.ok_or(StoreError::Corrupt)?;
    if slot.commit > commit {
        return Err(StoreError::RestoredDatabase);
    }
    decode_chains(&slot.state).ok_or(StoreError::Corrupt)
}

/// `{ u64 index | state 32 }` for link, post and, if there is one, parcel.
fn encode_chains(link: &LinkChain, post: &BoxChain, parcel: Option<&BoxChain>) -> Zeroizing<Vec<u8>> {
    let mut state = Zeroizing::new(Vec::with_capacity(120));
    state.extend_from_slice(&link.index().to_le_bytes());
    state.extend_from_slice(link.state().expose());
    for chain in [Some(post), parcel].into_iter().flatten() {
        state.extend_from_slice(&chain.index().to_le_bytes());
        state.extend_from_slice(chain.state().expose());
    }
    state
}

pub(super) fn decode_chains(state: &[u8]) -> Option<Chains> {
    let (link, rest) = state.split_first_chunk::<40>()?;
    let (post, parcel) = rest.split_first_chunk::<40>()?;
    let boxed = |kind, bytes| decode_chain(bytes).map(|(index, state)| BoxChain::from_state(kind, index, state));
    let (link_index, link_state) = decode_chain(link)?;
    let parcel = match parcel {
        [] => None,
        parcel => Some(boxed(BoxKind::Parcel, parcel)?),
    };
    Some(Chains {
        link: LinkChain::from_state(link_index, link_state),
        post: boxed(BoxKind::Post, post)?,
        parcel,
    })
}

fn decode_chain(bytes: &[u8]) -> Option<(u64, Secret<32>)> {
    let (index, state) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), Secret::from_slice(state)?))
}
