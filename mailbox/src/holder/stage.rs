//! The committing side of a holder's store: a batch works on a copy of the books, which readers see once it is durable.

use std::sync::{Arc, PoisonError, RwLock};

use crate::index::Write;
use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain, STEPS_MAX};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::books::Books;
use super::roots::PostChain;
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

/// What tells whether the slot lags: number of the root, indices of link, post and parcel.
type Settled = (u64, u64, u64, Option<u64>);

/// See the module.
pub(super) struct HolderStage {
    pub(super) shelf: Arc<Shelf>,
    /// As the batch under way leaves them.
    pub(super) books: Books,
    shown: Arc<Shown>,
    slots: SlotFile,
    /// Root, and link, post and parcel index that the slot stands at.
    settled: Settled,
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
            settled: (0, 0, 0, None),
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

    fn positions(books: &Books) -> Settled {
        let parcel = books.parcel.as_deref().map(BoxChain::index);
        (books.root.number, books.link.index(), books.post.index(), parcel)
    }

    /// Whether the slot has the chains of the root that readers see.
    pub(super) fn is_root_settled(&self) -> bool {
        self.settled.0 == self.shown.books().root.number
    }

    /// Whether a start would hash the slot's post chain forward to there.
    pub(super) fn is_in_reach(&self, post: u64) -> bool {
        post.checked_sub(self.settled.2).is_some_and(|steps| steps <= STEPS_MAX)
    }

    fn write_slot(&mut self) -> Result<(), StoreError> {
        let books = self.shown.books();
        let state = encode_chains(books.root.number, &books.link, &books.post, books.parcel.as_deref());
        self.slots.write(&[SlotUpdate {
            slot: SLOT,
            commit: self.commit,
            state,
        }])?;
        if let Some(record) = books.root.fresh.filter(|_| !self.is_root_settled()) {
            // Both copies have the chains of the root now: what they began with is finished.
            self.shelf.base.slab.finish_now(record);
        }
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
            let end = self.books.post.index();
            let switch = before.post.then().map_or(end, |then| end.min(then.index()));
            used.note_boxes(before.post.now(), switch);
            if let Some(then) = before.post.then() {
                used.note_boxes(then, end);
            }
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
    /// How many roots there were before theirs.
    pub(super) root: u64,
    pub(super) link: LinkChain,
    pub(super) post: PostChain,
    /// A store of before there were parcels has none.
    pub(super) parcel: Option<BoxChain>,
}

impl Chains {
    #[must_use]
    pub(super) fn duplicate(&self) -> Self {
        Self {
            root: self.root,
            link: self.link.duplicate(),
            post: self.post.duplicate(),
            parcel: self.parcel.as_ref().map(BoxChain::duplicate),
        }
    }
}

/// Writes the first states of all chains.
pub(super) fn first_slot(slots: &mut SlotFile, root: &Secret<32>, commit: u64) -> Result<(), StoreError> {
    let boxed = |kind| BoxChain::from_root(kind, root);
    let parcel = boxed(BoxKind::Parcel);
    let post = PostChain::new(boxed(BoxKind::Post), None);
    let state = encode_chains(0, &LinkChain::from_root(root), &post, Some(&parcel));
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

/// `{ u64 index | state 32 }` for link, post and, if there is one, parcel; then, if it is not the pack's own, the number
/// of the root, and the post chain of that root while another is still in use.
fn encode_chains(root: u64, link: &LinkChain, post: &PostChain, parcel: Option<&BoxChain>) -> Zeroizing<Vec<u8>> {
    let mut state = Zeroizing::new(Vec::with_capacity(4 * CHAIN_BYTES + NUMBER_BYTES));
    state.extend_from_slice(&link.index().to_le_bytes());
    state.extend_from_slice(link.state().expose());
    let put = |state: &mut Vec<u8>, chain: &BoxChain| {
        state.extend_from_slice(&chain.index().to_le_bytes());
        state.extend_from_slice(chain.state().expose());
    };
    for chain in [Some(post.now()), parcel].into_iter().flatten() {
        put(&mut state, chain);
    }
    if root > 0 {
        state.extend_from_slice(&root.to_le_bytes());
        if let Some(then) = post.then() {
            put(&mut state, then);
        }
    }
    state
}

const CHAIN_BYTES: usize = 40;
const NUMBER_BYTES: usize = 8;

pub(super) fn decode_chains(state: &[u8]) -> Option<Chains> {
    let (link, rest) = state.split_first_chunk::<CHAIN_BYTES>()?;
    let (post, rest) = rest.split_first_chunk::<CHAIN_BYTES>()?;
    let (parcel, root) = rest.split_at_checked(CHAIN_BYTES).unwrap_or((rest, &[]));
    let boxed = |kind, bytes| decode_chain(bytes).map(|(index, state)| BoxChain::from_state(kind, index, state));
    let (link_index, link_state) = decode_chain(link)?;
    let parcel = match parcel {
        [] => None,
        parcel => Some(boxed(BoxKind::Parcel, parcel)?),
    };
    let (root, then) = match root.split_first_chunk::<NUMBER_BYTES>() {
        None if root.is_empty() => (0, None),
        None => return None,
        Some((number, [])) => (u64::from_le_bytes(*number), None),
        Some((number, then)) => (u64::from_le_bytes(*number), Some(boxed(BoxKind::Post, then)?)),
    };
    Some(Chains {
        root,
        link: LinkChain::from_state(link_index, link_state),
        post: PostChain::new(boxed(BoxKind::Post, post)?, then),
        parcel,
    })
}

fn decode_chain(bytes: &[u8]) -> Option<(u64, Secret<32>)> {
    let (index, state) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), Secret::from_slice(state)?))
}
