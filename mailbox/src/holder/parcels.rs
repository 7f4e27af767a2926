//! Parcels of a holder: sealed once, kept as they were sealed until their receipt comes.
//!
//! ```text
//! key looked at -> sealed in memory -> one commit keeps the sealed bytes and moves the chain behind the key
//! ```
//!
//! No sealed byte leaves before that commit, and after it the key is gone: the same parcel can be sent again, another one
//! under its index cannot be made. A commit that failed leaves the index to the next message, whose nonces are fresh.

use std::sync::Arc;

use keypacks::chain::{BoxChain, BoxStep};
use keypacks::parcel::{PARCEL_LOOK_AHEAD, TAG, class_of};

use super::books::Books;
use super::rows::{PARCEL_POSITION, PARCELS, ParcelEntry, ParcelPosition, UNCONFIRMED, UnconfirmedRow};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{Flags, FolderId, KeptParcel, ParcelOrder, SENT_NAMES_MAX, SealError};
use crate::index::Write;
use crate::parcel::{Outcome, Receipt};
use crate::request::RECIPIENTS_MAX;
use crate::slab::RecordNumber;
use crate::tables::Single;

/// A parcel that waits for its receipt, and the record of its key.
pub(super) struct Parcel {
    pub(super) record: RecordNumber,
    pub(super) entry: ParcelEntry,
}

impl Books {
    /// The key that the next parcel is sealed under.
    pub(super) fn parcel_step(&self) -> Result<BoxStep, SealError> {
        let chain = self.parcel.as_deref().ok_or(SealError::NoKeys)?;
        if self.parcels_ahead() >= PARCEL_LOOK_AHEAD {
            return Err(SealError::WindowFull);
        }
        chain.step_at(chain.index()).ok_or(SealError::NoKeys)
    }

    /// Indices used beyond the highest that was answered.
    fn parcels_ahead(&self) -> u64 {
        let ParcelPosition { next, answered } = self.parcel_position;
        next - answered.map_or(0, |answered| answered + 1)
    }

    pub(super) fn kept_parcels(&self) -> Vec<KeptParcel> {
        let show = |(index, parcel): (&u64, &Arc<Parcel>)| KeptParcel {
            index: *index,
            class: parcel.entry.class,
            recipients: parcel.entry.recipients,
            price: parcel.entry.price,
            label: parcel.entry.label.clone(),
            sealed: parcel.entry.sealed,
            prefix: parcel.entry.prefix,
        };
        self.parcels.iter().map(show).collect()
    }

    /// µtok that parcels without a receipt may cost.
    pub(super) fn parcels_reserved(&self) -> u64 {
        let prices = self.parcels.values().map(|parcel| parcel.entry.price);
        prices.fold(0, u64::saturating_add)
    }
}

impl HolderStage {
    /// Keeps a sealed parcel and moves the chain behind its key. `false`: another one took the index meanwhile.
    pub(super) fn keep_parcel(&mut self, write: &Write<'_>, order: &ParcelOrder) -> Result<bool, StoreError> {
        let class = class_of(order.parcel.len() as u64).ok_or(StoreError::Invalid)?;
        if !(1..=RECIPIENTS_MAX).contains(&usize::from(order.recipients)) {
            return Err(StoreError::Invalid);
        }
        match self.books.parcel_step() {
            Ok(step) if step.index == order.index => {}
            Ok(_) | Err(SealError::WindowFull) => return Ok(false),
            Err(SealError::NoKeys) => return Err(StoreError::Invalid),
        }
        let prefix = *order.parcel[TAG..].first_chunk().ok_or(StoreError::Invalid)?;
        let (key, body) = self.shelf.put_body(write, &order.parcel)?;
        let entry = ParcelEntry {
            class,
            recipients: order.recipients,
            price: order.price,
            label: order.label.clone(),
            sealed: order.now,
            prefix,
            body,
        };
        self.tell_time(order.now);
        self.keep_names(write, &order.sent, SENT_NAMES_MAX)?;
        self.shelf.put(write, &PARCELS, order.index, &key, &entry)?;
        let parcel = Parcel {
            record: key.record,
            entry,
        };
        Arc::make_mut(&mut self.books.parcels).insert(order.index, Arc::new(parcel));
        self.parcels_go_on_at(order.index + 1)?;
        self.books.outbox_version += 1;
        PARCEL_POSITION.put(write, Single, &self.books.parcel_position)?;
        self.put_state(write)?;
        Ok(true)
    }

    /// The next parcel has this index.
    fn parcels_go_on_at(&mut self, index: u64) -> Result<(), StoreError> {
        if let Some(chain) = self.books.parcel.as_deref().map(BoxChain::duplicate) {
            self.books.parcel = Some(Arc::new(moved(chain, index)?));
            self.books.parcel_position.next = index;
        }
        Ok(())
    }

    /// Takes the receipts of a deposit: the parcels they speak of end here, and the deposit is to be confirmed.
    pub(super) fn take_receipts(
        &mut self,
        write: &Write<'_>,
        index: u64,
        receipts: &[Receipt],
        notices: &[Vec<u8>],
        now: u64,
    ) -> Result<(), StoreError> {
        if self.books.unconfirmed.contains_key(&index) {
            return Ok(());
        }
        let deposit = self.books.deposits.get(&index).cloned().ok_or(StoreError::NoRow)?;
        // First, since they may be refused for want of room.
        for notice in notices {
            self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
        }
        self.tell_time(now);
        for receipt in receipts {
            // What came under an index that was not used here was sealed by another copy of this store, before that copy
            // was put back or beside it: the key is used, and those before it.
            match receipt.index.checked_sub(self.books.parcel_position.next) {
                None => {}
                Some(ahead) if ahead < AHEAD_MAX && receipt.outcome != Outcome::Burned => {
                    self.parcels_go_on_at(receipt.index + 1)?;
                }
                // A relay that speaks of what nobody can have sent is not followed.
                Some(_) => continue,
            }
            let answered = &mut self.books.parcel_position.answered;
            *answered = (*answered).max(Some(receipt.index));
            if let Outcome::Accepted { debited, balance } = receipt.outcome {
                self.follow_debit(debited, balance, now);
            }
            if let Some(parcel) = Arc::make_mut(&mut self.books.parcels).remove(&receipt.index) {
                self.shelf.remove(write, &PARCELS, receipt.index, parcel.record)?;
                self.shelf.base.release_body(write, parcel.entry.body)?;
            }
        }
        self.books.outbox_version += 1;
        PARCEL_POSITION.put(write, Single, &self.books.parcel_position)?;
        let row = UnconfirmedRow {
            wrap_digest: deposit.row.wrap_digest,
            // It is in no folder.
            uid: 0,
        };
        UNCONFIRMED.put(write, index, &row)?;
        Arc::make_mut(&mut self.books.unconfirmed).insert(index, row);
        self.drop_deposit(write, index, &deposit)?;
        self.put_state(write)
    }
}

/// Furthest that a receipt moves the chain.
const AHEAD_MAX: u64 = 1 << 16;

/// The chain at `index`.
pub(super) fn moved(mut chain: BoxChain, index: u64) -> Result<BoxChain, StoreError> {
    chain.forward_to(index).map_err(|_| StoreError::Corrupt)?;
    Ok(chain)
}
