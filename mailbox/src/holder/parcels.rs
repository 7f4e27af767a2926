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
use keypacks::parcel::{TAG, class_of};

use super::books::Books;
use super::files::facts;
use super::rows::{CONTROLS, PARCEL_POSITION, PARCELS, ParcelEntry, ParcelPosition, UNCONFIRMED, UnconfirmedRow};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{
    Flags, FolderId, HolderAlias, KeptParcel, ParcelOrder, ParcelUse, Purpose, SENT_NAMES_MAX, SealError, ValueMirror,
};
use crate::index::Write;
use crate::parcel::{AliasChange, CONFIRMATIONS_MAX, Outcome, Receipt};
use crate::request::RECIPIENTS_MAX;
use crate::slab::RecordNumber;
use crate::tables::Single;

/// A parcel that waits for its receipt, and the record of its key.
pub(super) struct Parcel {
    pub(super) record: RecordNumber,
    pub(super) entry: ParcelEntry,
}

impl Books {
    /// The key of the next parcel index.
    pub(super) fn parcel_step(&self, kind: ParcelUse) -> Result<BoxStep, SealError> {
        if self.rerooting.is_some() {
            return Err(SealError::Rerooting);
        }
        let chain = self.parcel.as_deref().ok_or(SealError::NoKeys)?;
        if self.parcels_ahead() >= kind.ahead_max() {
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
            kind: parcel.entry.kind(),
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
        let kind = order.purpose.kind();
        let class = match kind {
            ParcelUse::Login => 0,
            _ => class_of(order.parcel.len() as u64).ok_or(StoreError::Invalid)?,
        };
        let (recipients, price) = match &order.purpose {
            Purpose::Mail { recipients, price, .. } if (1..=RECIPIENTS_MAX).contains(&usize::from(*recipients)) => {
                (*recipients, *price)
            }
            Purpose::Control(asked) if asked.confirmed.len() <= CONFIRMATIONS_MAX => (0, 0),
            Purpose::Login => (0, 0),
            Purpose::Mail { .. } | Purpose::Control(_) => return Err(StoreError::Invalid),
        };
        match self.books.parcel_step(kind) {
            Ok(step) if step.index == order.index => {}
            Ok(_) | Err(SealError::WindowFull | SealError::Rerooting) => return Ok(false),
            Err(SealError::NoKeys) => return Err(StoreError::Invalid),
        }
        let prefix = match kind {
            // Nothing is sealed for it, and its receipt names no parcel.
            ParcelUse::Login => [0; 16],
            _ => *order.parcel[TAG..].first_chunk().ok_or(StoreError::Invalid)?,
        };
        let (key, body) = self.shelf.put_body(write, &order.parcel)?;
        let entry = ParcelEntry {
            class,
            recipients,
            price,
            label: order.label.clone(),
            sealed: order.now,
            prefix,
            body,
        };
        self.tell_time(order.now);
        match &order.purpose {
            Purpose::Mail { sent, .. } => {
                self.keep_names(write, sent, SENT_NAMES_MAX)?;
            }
            Purpose::Control(asked) => CONTROLS.put(write, order.index, asked)?,
            Purpose::Login => {}
        }
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
            // Receipts may come in any order: the value is what the latest says.
            let is_latest = self.books.parcel_position.answered <= Some(receipt.index);
            let answered = &mut self.books.parcel_position.answered;
            *answered = (*answered).max(Some(receipt.index));
            match receipt.outcome {
                Outcome::Accepted { debited, balance } => {
                    if let Some(parcel) = self.books.parcels.get(&receipt.index) {
                        let agreed = parcel.entry.price;
                        self.note_message(write, agreed, debited)?;
                    }
                    self.follow_debit(debited, balance, now);
                }
                Outcome::Done {
                    balance,
                    keys,
                    credits,
                    debits,
                    prices,
                } if is_latest => {
                    self.books.state.value = ValueMirror {
                        balance,
                        keys,
                        credits,
                        debits,
                        at: now,
                    };
                    self.books.state.prices = Some(prices);
                }
                _ => {}
            }
            self.parcel_ends(write, receipt)?;
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

impl HolderStage {
    /// Drops the parcel that a receipt is of, and what it confirmed if it was carried out.
    fn parcel_ends(&mut self, write: &Write<'_>, receipt: &Receipt) -> Result<(), StoreError> {
        let index = receipt.index;
        let Some(parcel) = Arc::make_mut(&mut self.books.parcels).remove(&index) else {
            return Ok(());
        };
        self.shelf.remove(write, &PARCELS, index, parcel.record)?;
        self.shelf.base.release_body(write, parcel.entry.body)?;
        if parcel.entry.kind() == ParcelUse::Control {
            let asked = CONTROLS.get(write, index)?.unwrap_or_default();
            CONTROLS.remove(write, index)?;
            if matches!(receipt.outcome, Outcome::Done { .. }) && receipt.is_of(&parcel.entry.prefix) {
                let indices: Vec<u64> = asked.confirmed.iter().map(|(index, _)| *index).collect();
                self.confirmed(write, &indices)?;
                if let Some(change) = &asked.alias {
                    self.note_alias(write, change)?;
                }
            }
        }
        Ok(())
    }

    fn note_alias(&mut self, write: &Write<'_>, change: &AliasChange) -> Result<(), StoreError> {
        let (local, open) = change.parts();
        let address = format!("{local}@{}", facts(write)?.relay_domain);
        let known = self.books.aliases.iter().find(|alias| alias.address == address);
        let alias = match known {
            Some(known) => HolderAlias { open, ..known.clone() },
            None => HolderAlias {
                open,
                ..HolderAlias::new(u32::try_from(self.books.aliases.len()).unwrap_or(u32::MAX), address)
            },
        };
        self.put_alias(write, &alias)
    }

    /// See [`crate::HolderStore::login_used`].
    pub(super) fn login_used(&mut self, write: &Write<'_>, index: u64) -> Result<bool, StoreError> {
        let kept = self.books.parcels.get(&index);
        if kept.is_none_or(|parcel| parcel.entry.kind() != ParcelUse::Login) {
            return Ok(false);
        }
        // It is kept: were it not used after all, the relay's window would wait for it.
        let answered = &mut self.books.parcel_position.answered;
        *answered = (*answered).max(Some(index));
        self.books.outbox_version += 1;
        PARCEL_POSITION.put(write, Single, &self.books.parcel_position)?;
        Ok(true)
    }
}

/// Furthest that a receipt moves the chain.
pub(super) const AHEAD_MAX: u64 = 1 << 16;

/// The chain at `index`.
pub(super) fn moved(mut chain: BoxChain, index: u64) -> Result<BoxChain, StoreError> {
    chain.forward_to(index).map_err(|_| StoreError::Corrupt)?;
    Ok(chain)
}
