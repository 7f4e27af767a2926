//! Deposits on their way from the relay to INBOX, and the post chain that opens their wraps.
//!
//! ```text
//! collected      wrap opened: key in a row of its own, chain moved behind it
//! stored         message in INBOX, key finished, relay to be told      one commit, so that no crash stores it twice
//! confirmed      relay told
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::Write;
use keypacks::Tag;
use keypacks::chain::BoxStep;

use super::books::{Books, Deposit, Gap, post_at};
use super::roots::PostChain;
use super::rows::{CARRIED, DEPOSITS, DepositRow, GAPS, GapRow, MISSING, UNCONFIRMED, UnconfirmedRow};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{Flags, FolderId, OpenedDeposit, PendingDeposit, STORED_MAX, WrapPlace};
use crate::request::COLLECT_STEP_MAX;

/// How long the keys of what was passed over or given up are kept, in seconds: the relay's retention.
const KEPT_SECONDS: u64 = 30 * 86_400;
/// Most keys of passed-over indices that are kept; the oldest go first.
const GAPS_MAX: usize = 1_024;
/// Most deposits whose body is still to come.
const PENDING_MAX: usize = 16_384;

impl Books {
    /// Keys of an index that is still to be collected, or of a gap.
    pub(super) fn post_step(&self, index: u64) -> Option<BoxStep> {
        match index.checked_sub(self.state.collect_from) {
            Some(ahead) if ahead < COLLECT_STEP_MAX => self.post.step_at(index),
            Some(_) => None,
            None => self.gaps.get(&index).map(|gap| gap.step(index)),
        }
    }

    /// Keys of the next `count` indices to be collected, at most as many as may be collected at once.
    pub(super) fn post_steps(&self, count: u64) -> Vec<BoxStep> {
        let mut ahead = self.post.duplicate();
        (0..count.min(COLLECT_STEP_MAX)).map(|_| ahead.advance()).collect()
    }

    /// What a wrap is to these books, by its tag and its digest.
    pub(super) fn wrap_place(&self, tag: &Tag, digest: &[u8; 32]) -> WrapPlace {
        let pending = self
            .deposits
            .iter()
            .find(|(_, deposit)| deposit.row.wrap_digest == *digest);
        if let Some((index, deposit)) = pending {
            return WrapPlace::Pending(deposit.show(*index));
        }
        if let Some(stored) = self.unconfirmed.values().find(|stored| stored.wrap_digest == *digest) {
            // What is in no folder has none.
            let uid = (stored.uid > 0).then_some(stored.uid);
            return WrapPlace::Stored { uid };
        }
        if self.carried.values().any(|known| *known == tag.0) {
            return WrapPlace::Contradicted;
        }
        if let Some((index, gap)) = self.gaps.iter().find(|(_, gap)| gap.row.tag == tag.0) {
            return WrapPlace::New(gap.step(*index));
        }
        let mut ahead = self.post.duplicate();
        let found = (0..COLLECT_STEP_MAX)
            .map(|_| ahead.advance())
            .find(|step| step.tag == *tag);
        found.map_or(WrapPlace::Unknown, WrapPlace::New)
    }

    /// Keys of the indices that are too far ahead for [`Self::wrap_place`], in order and without end.
    pub(super) fn post_ahead(&self) -> impl Iterator<Item = BoxStep> + Send + use<> {
        let mut ahead = self.post.duplicate();
        std::iter::repeat_with(move || ahead.advance()).skip(COLLECT_STEP_MAX as usize)
    }

    /// Deposits whose body is to be fetched.
    pub(super) fn pending(&self) -> Vec<PendingDeposit> {
        let waiting = self
            .deposits
            .iter()
            .filter(|(_, deposit)| deposit.row.abandoned.is_none());
        waiting.map(|(index, deposit)| deposit.show(*index)).collect()
    }
}

impl HolderStage {
    /// Keeps the keys of opened wraps, and those of the indices passed over; moves the chain behind them all.
    /// `carried`: they came without a link, at this UTC second, and their tags are kept.
    pub(super) fn collected(
        &mut self,
        write: &Write<'_>,
        deposits: &[PendingDeposit],
        next: u64,
        carried: Option<u64>,
    ) -> Result<(), StoreError> {
        let from = self.books.state.collect_from;
        let ascending = deposits.is_sorted_by(|a, b| a.index < b.index);
        let known = |index: u64| (from..next).contains(&index) || self.books.gaps.contains_key(&index);
        let reach = next.checked_sub(from).is_some_and(|steps| steps <= COLLECT_STEP_MAX);
        if !ascending || !reach || !deposits.iter().all(|deposit| known(deposit.index)) {
            return Err(StoreError::Invalid);
        }
        if self.books.deposits.len() + deposits.len() > PENDING_MAX {
            return Err(StoreError::Busy);
        }
        let collected: BTreeMap<u64, &PendingDeposit> =
            deposits.iter().map(|deposit| (deposit.index, deposit)).collect();
        if let Some(now) = carried {
            // Before the gaps: whatever told the time last may lie further back than they are kept.
            self.tell_time(now);
            for index in collected.keys() {
                let tag = self.books.post_step(*index).ok_or(StoreError::Invalid)?.tag.0;
                CARRIED.put(write, *index, &tag)?;
                Arc::make_mut(&mut self.books.carried).insert(*index, tag);
            }
        }
        let post = self.keep_gaps(write, from, next, &collected)?;
        if carried.is_some() {
            for index in (from..next).filter(|index| !collected.contains_key(index)) {
                MISSING.put(write, index, &())?;
                Arc::make_mut(&mut self.books.missing).insert(index, ());
            }
        }
        for (index, deposit) in collected {
            self.drop_gap(write, index)?;
            self.keep_deposit(write, index, deposit)?;
        }
        self.books.state.collect_from = next;
        self.books.post = Arc::new(post);
        self.drop_aged(write)?;
        self.put_state(write)
    }

    /// Moves the chain far ahead, to `next`. What is passed over is lost, but for the keys of the last indices.
    pub(super) fn pass_over(&mut self, write: &Write<'_>, next: u64, now: u64) -> Result<(), StoreError> {
        let near = next.saturating_sub(COLLECT_STEP_MAX).max(self.books.state.collect_from);
        if next < self.books.state.collect_from {
            return Err(StoreError::Invalid);
        }
        if !self.is_in_reach(next) {
            // Once the slot has followed.
            return Err(StoreError::Busy);
        }
        self.books.post = Arc::new(post_at(&self.books.post, near)?);
        self.books.state.collect_from = near;
        self.collected(write, &[], next, Some(now))
    }

    /// Puts messages into INBOX and finishes the keys of their deposits, as far as there is room.
    pub(super) fn store_deposits(
        &mut self,
        write: &Write<'_>,
        opened: &[OpenedDeposit],
    ) -> Result<Vec<u32>, StoreError> {
        if opened.len() > STORED_MAX {
            return Err(StoreError::Invalid);
        }
        let known = |index| self.books.deposits.contains_key(index) || self.books.unconfirmed.contains_key(index);
        if !opened.iter().all(|opened| known(&opened.index)) {
            return Err(StoreError::NoRow);
        }
        let mut uids = Vec::with_capacity(opened.len());
        for opened in opened {
            match self.store_deposit(write, opened) {
                Ok(uid) => uids.push(uid),
                // Those before are written: the batch goes on with them, and without this one.
                Err(error) if error.is_refusal() && !uids.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(uids)
    }

    /// Told again, it names the same UID.
    fn store_deposit(&mut self, write: &Write<'_>, opened: &OpenedDeposit) -> Result<u32, StoreError> {
        let OpenedDeposit {
            index,
            message,
            summary,
            now,
        } = opened;
        if let Some(stored) = self.books.unconfirmed.get(index) {
            return Ok(stored.uid);
        }
        let deposit = self.books.deposits.get(index).cloned().ok_or(StoreError::NoRow)?;
        self.tell_time(*now);
        let uid = self.append(write, FolderId::INBOX, message, summary, Flags::default(), *now)?;
        self.keep_name_of_collected(write, deposit.row.alias, message)?;
        let row = UnconfirmedRow {
            wrap_digest: deposit.row.wrap_digest,
            uid,
        };
        UNCONFIRMED.put(write, *index, &row)?;
        Arc::make_mut(&mut self.books.unconfirmed).insert(*index, row);
        self.drop_deposit(write, *index, &deposit)?;
        self.put_state(write)?;
        Ok(uid)
    }

    /// Gives a deposit up: never confirmed, its key kept for a while, the user told.
    pub(super) fn abandon_deposit(
        &mut self,
        write: &Write<'_>,
        index: u64,
        notice: &[u8],
        now: u64,
    ) -> Result<(), StoreError> {
        let deposit = self.books.deposits.get(&index).cloned().ok_or(StoreError::NoRow)?;
        if deposit.row.abandoned.is_some() {
            return Ok(());
        }
        self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
        let row = deposit.row.given_up(now);
        let key = self.shelf.key(deposit.record)?;
        self.shelf.put(write, &DEPOSITS, index, &key, &row)?;
        let deposit = Deposit {
            record: deposit.record,
            row,
        };
        Arc::make_mut(&mut self.books.deposits).insert(index, Arc::new(deposit));
        self.tell_time(now);
        self.drop_aged(write)?;
        self.put_state(write)
    }

    /// The relay was told: nothing more is to be said of these.
    pub(super) fn confirmed(&mut self, write: &Write<'_>, indices: &[u64]) -> Result<(), StoreError> {
        for index in indices {
            if Arc::make_mut(&mut self.books.unconfirmed).remove(index).is_some() {
                UNCONFIRMED.remove(write, *index)?;
            }
            self.drop_carried(write, *index)?;
        }
        Ok(())
    }

    fn keep_deposit(&mut self, write: &Write<'_>, index: u64, deposit: &PendingDeposit) -> Result<(), StoreError> {
        let key = self.shelf.fresh_key()?;
        let row = DepositRow {
            wrap_digest: deposit.wrap_digest,
            dek: deposit.dek.secret().duplicate(),
            body_digest: deposit.body_digest,
            length: deposit.length,
            kilobytes: deposit.kilobytes,
            alias: deposit.alias,
            abandoned: None,
        };
        self.shelf.put(write, &DEPOSITS, index, &key, &row)?;
        Arc::make_mut(&mut self.books.deposits).insert(
            index,
            Arc::new(Deposit {
                record: key.record,
                row,
            }),
        );
        Ok(())
    }

    /// Keeps the keys of the indices between `from` and `next` that nothing was collected of. Returns the chain at `next`.
    fn keep_gaps(
        &mut self,
        write: &Write<'_>,
        from: u64,
        next: u64,
        collected: &BTreeMap<u64, &PendingDeposit>,
    ) -> Result<PostChain, StoreError> {
        let mut chain = post_at(&self.books.post, from)?;
        for index in from..next {
            let BoxStep { key: secret, tag, .. } = chain.advance();
            if collected.contains_key(&index) {
                continue;
            }
            let key = self.shelf.fresh_key()?;
            let row = GapRow {
                key: secret,
                tag: tag.0,
                since: self.books.state.now,
            };
            self.shelf.put(write, &GAPS, index, &key, &row)?;
            Arc::make_mut(&mut self.books.gaps).insert(
                index,
                Arc::new(Gap {
                    record: key.record,
                    row,
                }),
            );
        }
        Ok(chain)
    }

    /// Ends what is kept longer than its time, and the oldest gaps beyond the bound.
    fn drop_aged(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        let now = self.books.state.now;
        let is_aged = |since: u64| since.saturating_add(KEPT_SECONDS) <= now;
        let surplus = self.books.gaps.len().saturating_sub(GAPS_MAX);
        let gaps = self.books.gaps.iter().enumerate();
        let gaps = gaps.filter(|(position, (_, gap))| *position < surplus || is_aged(gap.row.since));
        for index in gaps.map(|(_, (index, _))| *index).collect::<Vec<_>>() {
            self.drop_gap(write, index)?;
        }
        let aged = self
            .books
            .deposits
            .iter()
            .filter(|(_, deposit)| deposit.row.abandoned.is_some_and(is_aged));
        for (index, deposit) in aged
            .map(|(index, deposit)| (*index, Arc::clone(deposit)))
            .collect::<Vec<_>>()
        {
            self.drop_deposit(write, index, &deposit)?;
            self.drop_carried(write, index)?;
        }
        Ok(())
    }

    fn drop_carried(&mut self, write: &Write<'_>, index: u64) -> Result<(), StoreError> {
        if self.books.carried.contains_key(&index) {
            CARRIED.remove(write, index)?;
            Arc::make_mut(&mut self.books.carried).remove(&index);
        }
        Ok(())
    }

    /// See [`crate::HolderStore::asked_for`].
    pub(super) fn asked_for(&mut self, write: &Write<'_>, indices: &[u64]) -> Result<(), StoreError> {
        for index in indices {
            if self.books.missing.contains_key(index) {
                MISSING.remove(write, *index)?;
                Arc::make_mut(&mut self.books.missing).remove(index);
            }
        }
        Ok(())
    }

    fn drop_gap(&mut self, write: &Write<'_>, index: u64) -> Result<(), StoreError> {
        if let Some(record) = self.books.gaps.get(&index).map(|gap| gap.record) {
            self.shelf.remove(write, &GAPS, index, record)?;
            Arc::make_mut(&mut self.books.gaps).remove(&index);
        }
        self.asked_for(write, &[index])
    }

    pub(super) fn drop_deposit(&mut self, write: &Write<'_>, index: u64, deposit: &Deposit) -> Result<(), StoreError> {
        self.shelf.remove(write, &DEPOSITS, index, deposit.record)?;
        Arc::make_mut(&mut self.books.deposits).remove(&index);
        Ok(())
    }
}

impl DepositRow {
    fn given_up(&self, now: u64) -> Self {
        Self {
            dek: self.dek.duplicate(),
            abandoned: Some(now),
            ..*self
        }
    }
}
