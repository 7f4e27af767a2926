//! New roots (`docs/PROTOCOL.md` section 12), at the holder.
//!
//! ```text
//! asked      one commit: numbered change in the outbox, secrets in a row of their own          nothing has left yet
//! answered   one commit: change and secrets finished, root in a row, chains from it
//! slot       the new chains, within a second; then the root's record is overwritten
//! ```
//!
//! Killed before the second commit, the holder asks again under the old link keys and gets the same answer. Deposits below
//! the first post index of the new root are under the old one: its post chain goes on until they are collected.

use std::sync::Arc;

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, BoxStep, LINK_LOOK_AHEAD, LinkChain, OutOfReach};
use keypacks::reroot::{Secrets, first_token};

use super::books::{Books, Row};
use super::parcels::AHEAD_MAX;
use super::rows::{FACTS, PAD, PARCEL_POSITION, REROOTING, ROOT, RerootingRow, RootRow};
use super::shelf::Shelf;
use super::stage::{Chains, HolderStage};
use crate::StoreError;
use crate::holder_store::{RerootError, Rooting};
use crate::index::{View, Write};
use crate::request::{Answer, Operation, Proof};
use crate::slab::RecordNumber;
use crate::tables::Single;
use crate::vault;

/// The one row of its table.
const ONLY: u64 = 0;

/// Which root the chains are of.
#[derive(Clone, Copy, Default)]
pub(super) struct Root {
    /// How many there were before it.
    pub(super) number: u64,
    /// Record of its row, if that was needed when the books were loaded or made.
    pub(super) fresh: Option<RecordNumber>,
}

/// The post chain, and behind it the one of the next root while something under the old one is still to be collected.
pub(super) struct PostChain {
    now: BoxChain,
    /// Begins above where `now` stands.
    then: Option<BoxChain>,
}

impl PostChain {
    pub(super) fn new(now: BoxChain, then: Option<BoxChain>) -> Self {
        Self { now, then }
    }

    pub(super) fn now(&self) -> &BoxChain {
        &self.now
    }

    pub(super) fn then(&self) -> Option<&BoxChain> {
        self.then.as_ref()
    }

    pub(super) fn index(&self) -> u64 {
        self.now.index()
    }

    #[must_use]
    pub(super) fn duplicate(&self) -> Self {
        Self {
            now: self.now.duplicate(),
            then: self.then.as_ref().map(BoxChain::duplicate),
        }
    }

    pub(super) fn step_at(&self, index: u64) -> Option<BoxStep> {
        match &self.then {
            Some(then) if index >= then.index() => then.step_at(index),
            _ => self.now.step_at(index),
        }
    }

    pub(super) fn advance(&mut self) -> BoxStep {
        let step = self.now.advance();
        self.follow(self.now.index());
        step
    }

    pub(super) fn forward_to(&mut self, index: u64) -> Result<(), OutOfReach> {
        self.follow(index);
        self.now.forward_to(index)
    }

    /// The same, to be followed by a chain that begins at its own index.
    fn followed_by(&self, mut then: BoxChain) -> Result<Self, StoreError> {
        let now = self.now.duplicate();
        if then.index() > now.index() {
            return Ok(Self::new(now, Some(then)));
        }
        then.forward_to(now.index()).map_err(|_| StoreError::Corrupt)?;
        Ok(Self::new(then, None))
    }

    /// Behind the last index of the old root its chain is gone.
    fn follow(&mut self, index: u64) {
        if let Some(then) = self.then.take_if(|then| then.index() <= index) {
            self.now = then;
        }
    }
}

impl Books {
    pub(super) fn rooting(&self) -> Rooting {
        Rooting {
            number: self.root.number,
            is_pending: self.rerooting.is_some(),
        }
    }
}

impl Shelf {
    /// The chains of the root that the index has, though the slot may still have those of the one before.
    pub(super) fn chains_of_root(&self, read: &View<'_>, chains: &Chains) -> Result<(Chains, Root), StoreError> {
        let Some(row) = ROOT.get(read, Single)? else {
            return match chains.root {
                0 => Ok((chains.duplicate(), Root::default())),
                _ => Err(StoreError::Corrupt),
            };
        };
        let mut root = Root {
            number: row.number,
            fresh: None,
        };
        if chains.root == row.number {
            return Ok((chains.duplicate(), root));
        }
        if chains.root > row.number {
            return Err(StoreError::Corrupt);
        }
        root.fresh = Some(row.record);
        let key = root_key(self, &self.base.slab.read(row.record)?);
        let secret = Secret::from_slice(&vault::open(&key, &row.sealed)?).ok_or(StoreError::Corrupt)?;
        Ok((begin(&chains.post, &secret, &row)?, root))
    }

    /// The request under way and its record.
    pub(super) fn rerooting(&self, read: &View<'_>) -> Result<Option<RecordNumber>, StoreError> {
        Ok(self
            .row::<RerootingRow>(read, &REROOTING, ONLY)?
            .map(|(key, _)| key.record))
    }
}

/// The key that a root's row is sealed under.
fn root_key(shelf: &Shelf, record: &Secret<32>) -> Secret<32> {
    vault::slab_key(&shelf.base.vault.derive("holder/root"), record)
}

/// The chains as a root's row has them begin.
fn begin(post: &PostChain, root: &Secret<32>, row: &RootRow) -> Result<Chains, StoreError> {
    let (link, first_post, parcel) = row.begin;
    Ok(Chains {
        root: row.number,
        link: LinkChain::from_root_at(root, link),
        post: post.followed_by(BoxChain::from_root_at(BoxKind::Post, root, first_post))?,
        parcel: Some(BoxChain::from_root_at(BoxKind::Parcel, root, parcel)),
    })
}

impl HolderStage {
    /// Takes the request for a new root into the outbox, before all else that waits there. Returns its row.
    pub(super) fn begin_reroot(
        &mut self,
        write: &Write<'_>,
        recovery: [u8; 32],
        proof: Option<&Proof>,
        now: u64,
    ) -> Result<Result<u64, RerootError>, StoreError> {
        let refusal = match () {
            () if PAD.get(write, Single)?.is_some() => Some(RerootError::Pad),
            () if self.books.rerooting.is_some() => Some(RerootError::Pending),
            () if !self.books.parcels.is_empty() => Some(RerootError::Parcels),
            () if self.books.post.then().is_some() => Some(RerootError::Collecting),
            () => None,
        };
        if let Some(refusal) = refusal {
            return Ok(Err(refusal));
        }
        let entropy = Arc::clone(&self.shelf.base.entropy);
        let secret = || Secret::from_fn(|secret| entropy.fill(secret));
        let secrets = Secrets {
            kem: secret(),
            dh: secret(),
        };
        let offer = secrets.offer();
        let operation = Operation::Reroot {
            kem: offer.kem,
            dh: offer.dh,
            recovery,
            proof: proof.cloned(),
        };
        let row = self.enqueue_operation(write, &operation, "new keys for the pack", now)?;
        let key = self.shelf.fresh_key()?;
        let Secrets { kem, dh } = secrets;
        self.shelf
            .put(write, &REROOTING, ONLY, &key, &RerootingRow { kem, dh })?;
        self.books.rerooting = Some(key.record);
        Ok(Ok(row))
    }

    /// Ends the request with its row of the outbox: the secrets are of no use any more.
    pub(super) fn end_reroot(&mut self, write: &Write<'_>, row: &Row) -> Result<(), StoreError> {
        if matches!(row.entry.change.operation, Operation::Reroot { .. })
            && let Some(record) = self.books.rerooting.take()
        {
            self.shelf.remove(write, &REROOTING, ONLY, record)?;
        }
        Ok(())
    }

    /// Goes on from the root that an answer tells. `Invalid`: it contradicts what is known here, and nothing is changed.
    pub(super) fn reroot(&mut self, write: &Write<'_>, row: &Row, answer: &Answer) -> Result<(), StoreError> {
        let Answer::Rerooted {
            link,
            post,
            parcel,
            ciphertext,
            ..
        } = answer
        else {
            return Ok(());
        };
        let begin_at = (*link, *post, *parcel);
        let position = self.books.parcel_position;
        let state = &self.books.state;
        let is_near = *link <= state.link.base.saturating_add(LINK_LOOK_AHEAD)
            && *link < state.link.keys
            && *post >= state.collect_from
            && *parcel <= position.next.saturating_add(AHEAD_MAX);
        let asked = self.shelf.row::<RerootingRow>(write, &REROOTING, ONLY)?;
        let (true, Some((_, RerootingRow { kem, dh }))) = (is_near, asked) else {
            return Err(StoreError::Invalid);
        };
        let facts = FACTS.get(write, Single)?.ok_or(StoreError::Corrupt)?;
        let operation = row.entry.change.operation.encode();
        let secret = Secrets { kem, dh }
            .decapsulate(&facts.relay_public, &operation, ciphertext)
            .map_err(|_| StoreError::Invalid)?;

        let base = &self.shelf.base;
        let (record, record_key) = base.slab.take()?;
        let root = RootRow {
            number: self.books.root.number + 1,
            record,
            sealed: vault::seal(&root_key(&self.shelf, &record_key), secret.expose(), &*base.entropy),
            begin: begin_at,
        };
        if let Some(before) = self.books.root.fresh.filter(|_| !self.is_root_settled()) {
            base.slab.finish(before);
        }
        ROOT.put(write, Single, &root)?;
        let mut chains = begin(&self.books.post, &secret, &root)?;
        let state = &mut self.books.state;
        state.link.base = state.link.base.max(*link);
        state.token = first_token(&secret);
        chains
            .link
            .forward_to(state.link.base)
            .map_err(|_| StoreError::Corrupt)?;
        let next = position.next.max(*parcel);
        if let Some(chain) = &mut chains.parcel {
            chain.forward_to(next).map_err(|_| StoreError::Corrupt)?;
        }
        // All that came before has had its end: the window is empty.
        self.books.parcel_position.next = next;
        self.books.parcel_position.answered = next.checked_sub(1);
        PARCEL_POSITION.put(write, Single, &self.books.parcel_position)?;
        self.books.link = Arc::new(chains.link);
        self.books.post = Arc::new(chains.post);
        self.books.parcel = chains.parcel.map(Arc::new);
        self.books.root = Root {
            number: root.number,
            fresh: Some(record),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(root: u8, index: u64) -> BoxChain {
        BoxChain::from_root_at(BoxKind::Post, &Secret::new([root; 32]), index)
    }

    #[test]
    fn the_old_post_chain_goes_on_up_to_the_first_index_of_the_new_root() {
        let mut post = PostChain::new(chain(1, 0), None)
            .followed_by(chain(2, 3))
            .expect("in reach");
        let old = chain(1, 0);
        let new = chain(2, 3);
        let key = |step: Option<BoxStep>| *step.expect("near").key.expose();
        for index in 0..3 {
            assert_eq!(key(post.step_at(index)), key(old.step_at(index)));
        }
        assert_eq!(key(post.step_at(5)), key(new.step_at(5)));
        let mut far = post.duplicate();
        far.forward_to(4).expect("near");
        assert!(far.then().is_none() && key(far.step_at(4)) == key(new.step_at(4)));
        for index in 0..5 {
            let expected = if index < 3 {
                key(old.step_at(index))
            } else {
                key(new.step_at(index))
            };
            assert_eq!(*post.advance().key.expose(), expected, "{index}");
            assert_eq!(post.then().is_some(), index < 2);
        }
        let behind = PostChain::new(chain(1, 7), None)
            .followed_by(chain(2, 3))
            .expect("near");
        assert!(behind.then().is_none() && key(behind.step_at(7)) == key(new.step_at(7)));
    }
}
