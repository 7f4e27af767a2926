//! New roots: an account goes on from a secret that no copy of its pack holds.
//!
//! ```text
//! change      one commit: number + 1, fresh root in a row, old link chain in a row, answer with the ciphertext
//! slot        the new chains, within a second; then the fresh root's record is overwritten
//! first link  one commit: the old link chain's record is finished
//! ```
//!
//! Post and parcel chains of the old root end with the change. Its link chain is kept until there is a link under the new
//! root, for nothing but asking for the answer again: whoever was killed before the answer came is not locked out. Both
//! link chains count by the same indices, so that keys and value do not differ for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::Secret;
use keypacks::chain::LinkChain;
use keypacks::reroot::first_token;

use super::Shared;
use super::chains::Chains;
use super::live::{Effect, Live, LiveRoot};
use super::parcels::after_a_write;
use super::rows::{AccountRow, FreshRoot, OldLinks, PARCELS, ROOTS, RootRow, SKIPPED, all_of};
use super::stage::RelayStage;
use crate::StoreError;
use crate::index::{Source, View, Write};
use crate::relay_store::NewRoot;
use crate::request::{Answer, Refusal};
use crate::slab::RecordNumber;
use crate::vault::{self, slab_key};

/// Whether a link under the root of number `shown` is under the one before the account's. `None`: under neither.
pub(super) fn is_replaced(root: Option<&RootRow>, shown: u64) -> Option<bool> {
    let number = root.map_or(0, |root| root.number);
    if shown == number {
        return Some(false);
    }
    let old = root.and_then(|root| root.old.as_ref());
    (old.is_some() && shown.checked_add(1) == Some(number)).then_some(true)
}

impl RelayStage {
    /// The root's row of an account that was given one. Most were not, and memory knows it.
    pub(super) fn root(&self, write: &Write<'_>, account: u64) -> Result<Option<RootRow>, StoreError> {
        let is_known = {
            let live = self.shared.live();
            live.accounts.get(account).is_some_and(|live| live.root.is_some())
        };
        match is_known || self.batch.roots.contains(&account) {
            true => ROOTS.get(write, account),
            false => Ok(None),
        }
    }

    /// Whether the account's root, at this moment of the batch, is the one of this number.
    pub(super) fn is_root(&self, write: &Write<'_>, account: u64, number: u64) -> Result<bool, StoreError> {
        Ok(self.root(write, account)?.map_or(0, |root| root.number) == number)
    }

    fn put_root(&mut self, write: &Write<'_>, account: u64, root: &RootRow) -> Result<(), StoreError> {
        self.batch.roots.insert(account);
        ROOTS.put(write, account, root)
    }

    pub(super) fn is_frozen(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        Ok(self.root(write, account)?.is_some_and(|root| root.frozen))
    }

    /// A link was made: the first under a root ends the one before, one of a copy freezes. Returns whether the account is
    /// frozen, and whether it is since now.
    pub(super) fn linked(
        &mut self,
        write: &Write<'_>,
        account: u64,
        mut root: RootRow,
        (is_replaced, is_copy): (bool, bool),
        base: u64,
    ) -> Result<(bool, bool), StoreError> {
        let slab = Arc::clone(&self.shared);
        match root.old.take() {
            Some(old) if is_replaced => {
                // Its keys up to here are used: what they came from ends with them.
                let mut chain = self.shared.open_old(&old)?;
                chain.forward_to(base).map_err(|_| StoreError::Corrupt)?;
                slab.base.slab.finish(old.record);
                root.old = Some(self.keep_old(old.seq, &chain)?);
            }
            Some(old) => {
                slab.base.slab.finish(old.record);
                self.batch.effects.push(Effect::Settled { account });
            }
            None if is_copy && !root.frozen => {}
            None => return Ok((root.frozen, false)),
        }
        let froze = is_copy && !root.frozen;
        if froze {
            root.frozen = true;
            self.batch.effects.push(Effect::Frozen { account });
        }
        self.put_root(write, account, &root)?;
        Ok((root.frozen, froze))
    }

    /// Changes the root, if the code in force was proved.
    pub(super) fn reroot(
        &mut self,
        write: &Write<'_>,
        (account, row): (u64, &mut AccountRow),
        seq: u64,
        new: &NewRoot,
        day: u32,
    ) -> Result<Result<Answer, Refusal>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let before = self.root(write, account)?;
        let (on_pad, lagging) = {
            let live = shared.live();
            let live = live.accounts.get(account);
            let lagging = live.and_then(|live| live.root.as_ref()?.fresh);
            (live.is_some_and(|live| live.on_pad), lagging)
        };
        if on_pad {
            return Ok(Err(Refusal::Malformed));
        }
        if row.keys_left() == 0 {
            // There would never be a link under it.
            return Ok(Err(Refusal::Keys));
        }
        if let Some(before) = &before
            && !new
                .shown
                .is_some_and(|shown| Secret::new(shown) == Secret::new(before.recovery))
        {
            return Ok(Err(Refusal::Recovery));
        }

        // Whatever was sealed under the old root and is still to come: it would be carried out for whoever has a copy.
        self.put_account(write, account, row)?;
        self.forget_order(write, account)?;
        let mut skipped = Vec::new();
        SKIPPED.scan(write, all_of(account), |(_, index), _| {
            skipped.push(index);
            Ok(ControlFlow::Continue(()))
        })?;
        self.burn_skipped(write, account, &skipped, day)?;
        *row = self.account(write, account)?;

        let number = before.as_ref().map_or(0, |before| before.number) + 1;
        let parcel = PARCELS.get(write, account)?.unwrap_or_default().base;
        let begin = (row.link_base, row.post_next, parcel);
        let chains = Chains::from_root_at(number, &new.root, begin);
        let old = self.link_chain(account, row.link_base)?;
        for finished in lagging
            .into_iter()
            .chain(before.and_then(|before| before.old).map(|old| old.record))
        {
            shared.base.slab.finish(finished);
        }
        let (record, record_key) = shared.base.slab.take().map_err(after_a_write)?;
        let key = shared.fresh_root_key(&record_key);
        let sealed = vault::seal(&key, new.root.expose(), &*shared.base.entropy);
        let root = RootRow {
            number,
            recovery: new.recovery,
            frozen: false,
            fresh: FreshRoot { record, sealed, begin },
            old: Some(self.keep_old(seq, &old).map_err(after_a_write)?),
        };
        self.put_root(write, account, &root)?;
        // Both ends begin with a token that nobody else has seen.
        row.token = first_token(&new.root);
        row.token_pending = None;
        self.batch.posts.insert(account, chains.post.duplicate());
        self.batch.parcels.insert(account, chains.parcel.duplicate());
        self.batch.effects.push(Effect::Rerooted {
            account,
            chains,
            fresh: record,
        });
        let (link, post, parcel) = begin;
        Ok(Ok(Answer::Rerooted {
            seq,
            link,
            post,
            parcel,
            ciphertext: new.ciphertext.clone(),
        }))
    }

    /// The account's link chain at `base`, where this batch may have moved it.
    fn link_chain(&mut self, account: u64, base: u64) -> Result<LinkChain, StoreError> {
        self.bring(account)?;
        let live = self.shared.live();
        let chains = live.accounts.get(account).and_then(|live| live.chains.here());
        let mut chain = chains.ok_or(StoreError::Corrupt)?.link();
        chain.forward_to(base).map_err(|_| StoreError::Corrupt)?;
        Ok(chain)
    }

    /// Seals a link chain that is to be kept for a while.
    fn keep_old(&self, seq: u64, chain: &LinkChain) -> Result<OldLinks, StoreError> {
        let shared = &self.shared;
        let (record, record_key) = shared.base.slab.take()?;
        let key = shared.old_links_key(&record_key);
        Ok(OldLinks {
            seq,
            index: chain.index(),
            record,
            sealed: vault::seal(&key, chain.state().expose(), &*shared.base.entropy),
        })
    }
}

/// A root as its row and the slab have it.
pub(super) struct LoadedRoot {
    pub(super) number: u64,
    frozen: bool,
    /// The root itself, while its record is there.
    fresh: Option<Secret<32>>,
    record: RecordNumber,
    begin: (u64, u64, u64),
    old: Option<LinkChain>,
}

impl LoadedRoot {
    /// The chains as they began.
    pub(super) fn begin(&self) -> Option<Chains> {
        Some(Chains::from_root_at(self.number, self.fresh.as_ref()?, self.begin))
    }

    /// What memory keeps. `is_fresh`: the slot has the chains of the root before.
    pub(super) fn live(&self, base: u64, is_fresh: bool) -> LiveRoot {
        let old = self.old.as_ref().map(LinkChain::duplicate);
        LiveRoot {
            number: self.number,
            frozen: self.frozen,
            old: old.and_then(|mut chain| chain.forward_to(base).ok().map(|()| chain)),
            fresh: is_fresh.then_some(self.record),
        }
    }
}

impl Shared {
    fn fresh_root_key(&self, record: &Secret<32>) -> Secret<32> {
        slab_key(&self.base.vault.derive("relay/fresh-root"), record)
    }

    fn old_links_key(&self, record: &Secret<32>) -> Secret<32> {
        slab_key(&self.base.vault.derive("relay/old-links"), record)
    }

    fn open_old(&self, old: &OldLinks) -> Result<LinkChain, StoreError> {
        let key = self.old_links_key(&self.base.slab.read(old.record)?);
        let state = Secret::from_slice(&vault::open(&key, &old.sealed)?).ok_or(StoreError::Corrupt)?;
        Ok(LinkChain::from_state(old.index, state))
    }

    fn open_fresh(&self, fresh: &FreshRoot) -> Result<Secret<32>, StoreError> {
        let key = self.fresh_root_key(&self.base.slab.read(fresh.record)?);
        Secret::from_slice(&vault::open(&key, &fresh.sealed)?).ok_or(StoreError::Corrupt)
    }

    fn loaded(&self, row: &RootRow) -> LoadedRoot {
        LoadedRoot {
            number: row.number,
            frozen: row.frozen,
            // Mostly the record is another's by now; the slot says whether it is needed.
            fresh: self.open_fresh(&row.fresh).ok(),
            record: row.fresh.record,
            begin: row.fresh.begin,
            old: row.old.as_ref().and_then(|old| self.open_old(old).ok()),
        }
    }

    /// The roots of all accounts that were given one. The slab is read as it is: none of its records was overwritten yet.
    pub(super) fn load_roots(&self, read: &View<'_>) -> Result<BTreeMap<u64, LoadedRoot>, StoreError> {
        let mut roots = BTreeMap::new();
        ROOTS.scan(read, (0, u64::MAX), |account, row| {
            roots.insert(account, self.loaded(&row));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(roots)
    }

    pub(super) fn load_root(&self, source: &impl Source, account: u64) -> Result<Option<LoadedRoot>, StoreError> {
        Ok(ROOTS.get(source, account)?.map(|row| self.loaded(&row)))
    }

    /// The slab records that roots need.
    pub(super) fn records_of_roots(&self, read: &View<'_>, live: &Live) -> Result<BTreeSet<RecordNumber>, StoreError> {
        let mut records = BTreeSet::new();
        ROOTS.scan(read, (0, u64::MAX), |account, row| {
            records.extend(row.old.map(|old| old.record));
            let root = live.accounts.get(account).and_then(|live| live.root.as_ref());
            records.extend(root.and_then(|root| root.fresh));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }
}
