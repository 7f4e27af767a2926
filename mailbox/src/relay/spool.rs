//! The spool: accepted messages on their way out, one delivery per recipient, one body per message.
//!
//! A delivery is in one of three states: pooled, queued or gone. It is queued by the commit that accepts the message, or pooled
//! by it and queued by that of the round in which it leaves the pool; and it goes with the commit that records its end. Tries in
//! between only move its time. Its recipient and the key of its body are
//! sealed under a key made from the epoch's key and a slab record: when either is erased, nothing opens them.

use std::sync::Arc;

use crate::index::Write;
use keypacks::Secret;
use zeroize::{Zeroize, Zeroizing};

use super::changes::Sealed;
use super::deposits::{Deposit, Quota};
use super::epochs::queued;
use super::live::Effect;
use super::queue::Queued;
use super::rows::{MIXED, NEVER_DUE, POOL, PoolRow, PrivateRow, SPOOL, SpoolRow, Stay, Tries};
use super::stage::RelayStage;
use super::{RelayFiles, Shared};
use crate::StoreError;
use crate::bodies::BodyName;
use crate::entropy::random;
use crate::relay_store::{Account, Delivery, DeliveryId, MixRound, MixTally, QueueRow};
use crate::request::Wishes;
use crate::slab::RecordNumber;
use crate::tables::Single;
use crate::vault::{self, slab_key};

/// How coarse the time of acceptance is kept, in seconds.
pub const ACCEPTED_STEP_S: u64 = 600;

/// How a try ended, with the report checked.
pub(super) enum Ending {
    Delivered { receipt: Option<Deposit> },
    Retry { at: u64 },
    Delayed { at: u64, report: Option<Deposit> },
    Failed { report: Option<Deposit> },
}

/// A row with its private part, how many relays passed its message on, and which reports are wanted.
type Opened = (SpoolRow, (PrivateRow, u8, Wishes));

impl RelayStage {
    /// Queues a message whose body was written in this batch, for all its recipients.
    pub(super) fn spool(
        &mut self,
        write: &Write<'_>,
        account: u64,
        sealed: &Sealed,
        body: BodyName,
        now: u64,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let base = &shared.base;
        for place in 0..sealed.recipients.len() {
            let (record, epoch, private) = self.private_part(account, sealed, place)?;
            // No finer than the operator's bucket on the disk; in memory the queue keeps the order of acceptance.
            let accepted = now - now % ACCEPTED_STEP_S;
            let mix = sealed.mix.map(|profile| PoolRow {
                profile,
                stay: Stay::Waits,
            });
            let row = SpoolRow {
                due: mix.map_or(accepted, |_| NEVER_DUE),
                tries: Tries::default(),
                accepted,
                kilobytes: sealed.kilobytes,
                body,
                epoch,
                record,
                private,
            };
            let id = u64::from_le_bytes(random(&*base.entropy));
            SPOOL.put(write, id, &row)?;
            if let Some(mix) = &mix {
                POOL.put(write, id, mix)?;
            }
            let queued = Queued {
                due: now,
                mix,
                ..queued(&row)
            };
            self.batch.effects.push(Effect::Queued { id, queued });
        }
        self.batch.queued += sealed.recipients.len();
        Ok(())
    }

    /// The private part of the delivery to the recipient in this place: what was sealed ahead if it is still right, else
    /// it is sealed now. With its slab record and its epoch.
    fn private_part(
        &self,
        account: u64,
        sealed: &Sealed,
        place: usize,
    ) -> Result<(RecordNumber, u64, Vec<u8>), StoreError> {
        let shared = &self.shared;
        // At the second try of a batch there is none left: what the first one took is erased.
        let ahead = sealed.ahead.borrow_mut().get_mut(place).and_then(Option::take);
        if let Some(ahead) = ahead
            && ahead.account == account
            && ahead.epoch == shared.live().epochs.current().number
            && let Some(claimed) = ahead.claim()
        {
            return Ok(claimed);
        }
        let (record, record_key) = shared.base.slab.take()?;
        let (epoch, key) = shared.current_key(&record_key);
        Ok((record, epoch, shared.seal_private(&key, account, sealed, place)))
    }

    /// Records how a try ended. A delivery that is gone already stays so.
    pub(super) fn finish(&mut self, write: &Write<'_>, id: u64, ending: &Ending) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let row = match SPOOL.get(write, id) {
            Ok(Some(row)) => Some(row),
            Ok(None) => return Ok(()),
            Err(StoreError::Corrupt) => None,
            Err(error) => return Err(error),
        };
        // What is in no pool costs no look.
        let is_mixed = shared.live().queue.mix(id).is_some();
        let mix = if is_mixed { self.mix(write, id)? } else { None };
        let is_another_try = matches!(ending, Ending::Retry { .. } | Ending::Delayed { .. });
        if is_another_try && mix.is_some_and(PoolRow::waits) {
            return Ok(());
        }
        // First, since it may refuse.
        match ending {
            Ending::Delayed {
                report: Some(report), ..
            }
            | Ending::Failed { report: Some(report) } => self.deposit(write, report, Quota::Waived)?,
            // As many as somebody asks for: a full mailbox gets none, and the delivery ends all the same.
            Ending::Delivered { receipt: Some(receipt) } if self.has_room(write, receipt)? => {
                self.deposit(write, receipt, Quota::Kept)?;
            }
            _ => {}
        }
        let Some(mut row) = row else {
            // It would be due for ever, and its end never recorded.
            self.lose(id);
            return Ok(());
        };
        if let Ending::Retry { at } | Ending::Delayed { at, .. } = ending {
            row.tries = row.tries.next(matches!(ending, Ending::Delayed { .. }));
            row.due = *at;
            SPOOL.put(write, id, &row)?;
            self.batch.effects.push(Effect::Queued {
                id,
                queued: queued(&row),
            });
            return Ok(());
        }
        SPOOL.remove(write, id)?;
        if mix.is_some() {
            POOL.remove(write, id)?;
        }
        shared.base.release_body(write, row.body)?;
        shared.base.slab.finish(row.record);
        self.batch.effects.push(Effect::Finished { id });
        Ok(())
    }

    /// Takes a delivery out of memory whose row does not open. The row stays, for whoever looks at the damage.
    pub(super) fn lose(&mut self, id: u64) {
        tracing::error!("a delivery is damaged on the disk and is not tried again");
        self.batch.effects.push(Effect::Finished { id });
    }

    /// How a delivery is mixed; of a damaged row as memory has it.
    fn mix(&self, write: &Write<'_>, id: u64) -> Result<Option<PoolRow>, StoreError> {
        match POOL.get(write, id) {
            Err(StoreError::Corrupt) => Ok(self.shared.live().queue.mix(id)),
            mix => mix,
        }
    }

    /// Makes deliveries of the pool due, all at the same second: nothing tells any more which came before which. A damaged row
    /// holds up no other: of its place in the pool memory knows enough, and what the spool does not have any more is passed
    /// over. If all have left already, it is a round that comes again, and is not counted twice.
    pub(super) fn end_wait(
        &mut self,
        write: &Write<'_>,
        ids: &[DeliveryId],
        round: &MixRound,
    ) -> Result<(), StoreError> {
        let mut is_again = !ids.is_empty();
        for &DeliveryId(id) in ids {
            let Some(PoolRow {
                profile,
                stay: Stay::Waits,
            }) = self.mix(write, id)?
            else {
                continue;
            };
            is_again = false;
            let stay = Stay::Dated(round.date);
            let left = PoolRow { profile, stay };
            let mut row = match SPOOL.get(write, id) {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(StoreError::Corrupt) => {
                    // It hides nothing in the rounds to come.
                    POOL.put(write, id, &left)?;
                    self.lose(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // From here on it is as if it had just been accepted.
            row.accepted = round.now - round.now % ACCEPTED_STEP_S;
            row.due = row.accepted;
            SPOOL.put(write, id, &row)?;
            POOL.put(write, id, &left)?;
            let queued = Queued {
                due: round.now,
                mix: Some(left),
                ..queued(&row)
            };
            self.batch.effects.push(Effect::Queued { id, queued });
            self.batch.is_released = true;
        }
        if is_again {
            return Ok(());
        }
        let mut mixed = MIXED.get(write, Single)?.unwrap_or_default();
        mixed.add(round.day, &round.tally);
        MIXED.put(write, Single, &mixed)
    }
}

/// A private part that was sealed before its commit, by the caller: of what a submission costs it is the most that need
/// not be done by the one thread that commits. Its slab record is given back if no commit takes it.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    record: RecordNumber,
    account: u64,
    epoch: u64,
    /// `None`: a commit has it.
    private: Option<Vec<u8>>,
}

impl Ahead {
    /// `None`: no record is at hand.
    pub(super) fn seal(shared: &Arc<Shared>, account: u64, sealed: &Sealed, place: usize) -> Option<Self> {
        let (record, record_key) = shared.base.slab.take_ahead()?;
        let (epoch, key) = shared.current_key(&record_key);
        Some(Self {
            shared: Arc::clone(shared),
            record,
            account,
            epoch,
            private: Some(shared.seal_private(&key, account, sealed, place)),
        })
    }

    /// For the commit under way.
    fn claim(mut self) -> Option<(RecordNumber, u64, Vec<u8>)> {
        let private = self.private.take()?;
        self.shared.base.slab.claim(self.record);
        Some((self.record, self.epoch, private))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.private.is_some() {
            self.shared.base.slab.finish_now(self.record);
        }
    }
}

impl Shared {
    /// Number of the current epoch, and the key of a private part with this slab record.
    fn current_key(&self, record: &Secret<32>) -> (u64, Secret<32>) {
        let epochs = &self.live().epochs;
        (epochs.current().number, slab_key(&epochs.current().key, record))
    }

    fn seal_private(&self, key: &Secret<32>, account: u64, sealed: &Sealed, place: usize) -> Vec<u8> {
        let private = PrivateRow {
            account,
            reverse_path: sealed.reverse_path.clone(),
            recipient: sealed.recipients[place].clone(),
            body_key: *sealed.body_key.expose(),
        };
        let plain = Zeroizing::new(private.encode(sealed.hops, sealed.wishes[place]));
        self.base.vault.seal_under(key, &plain)
    }

    /// The private part of a delivery and what is kept behind it, while its record and its epoch are there.
    pub(super) fn open_private(&self, row: &SpoolRow) -> Result<(PrivateRow, u8, Wishes), StoreError> {
        let record = self.base.slab.read(row.record)?;
        let key = {
            let live = self.live();
            slab_key(live.epochs.key(row.epoch).ok_or(StoreError::Corrupt)?, &record)
        };
        let mut plain = vault::open(&key, &row.private)?;
        let private = PrivateRow::decode(&plain);
        plain.zeroize();
        private
    }
}

impl RelayFiles {
    pub(super) fn read_delivery_account(&self, id: DeliveryId) -> Result<Option<Account>, StoreError> {
        let opened = self.open_delivery(id)?;
        Ok(opened.map(|(_, (private, ..))| Account(private.account)))
    }

    pub(super) fn read_delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let Some((row, (mut private, hops, wishes))) = self.open_delivery(id)? else {
            return Ok(None);
        };
        let Some(body) = self.shared.base.read_body(row.body)? else {
            return Ok(None);
        };
        let body_key = keypacks::Secret::new(private.body_key);
        let mut message = vault::open(&body_key, &body)?;
        let mix = self.shared.live().queue.mix(id.0);
        let date = mix.and_then(|mix| match mix.stay {
            Stay::Waits => None,
            Stay::Left => Some(row.accepted),
            Stay::Dated(date) => Some(date),
        });
        Ok(Some(Delivery {
            id,
            account: Account(private.account),
            reverse_path: std::mem::take(&mut private.reverse_path),
            recipient: std::mem::take(&mut private.recipient),
            message: std::mem::take(&mut *message),
            attempts: row.tries.count(),
            accepted: row.accepted,
            is_delay_told: row.tries.is_delay_told(),
            hops,
            mix: mix.map(|mix| mix.profile),
            date,
            wishes,
        }))
    }

    fn open_delivery(&self, id: DeliveryId) -> Result<Option<Opened>, StoreError> {
        // An upkeep in between may have moved the row to a new epoch: the second reading sees it.
        match self.try_to_open(id) {
            Err(StoreError::Corrupt) => self.try_to_open(id),
            opened => opened,
        }
    }

    fn try_to_open(&self, id: DeliveryId) -> Result<Option<Opened>, StoreError> {
        let base = &self.shared.base;
        let read = || SPOOL.get(&base.view()?, id.0);
        let Some(row) = read()? else { return Ok(None) };
        match self.shared.open_private(&row) {
            Ok(private) => Ok(Some((row, private))),
            // The record is overwritten when the delivery is finished, which may have been just now.
            Err(error) => read()?.map_or(Ok(None), |_| Err(error)),
        }
    }

    pub(super) fn read_due(&self, now: u64, most: usize) -> Vec<DeliveryId> {
        let live = self.shared.live();
        let due = live.queue.in_order().take_while(|(_, queued)| queued.due <= now);
        due.map(|(id, _)| DeliveryId(id)).take(most).collect()
    }

    pub(super) fn read_mixed(&self, day: u32) -> Result<MixTally, StoreError> {
        let mixed = MIXED.get(&self.shared.base.view()?, Single)?;
        Ok(mixed.unwrap_or_default().on(day))
    }

    pub(super) fn read_queue(&self, most: usize) -> Vec<QueueRow> {
        let live = self.shared.live();
        let row = |(id, queued): (u64, &Queued)| QueueRow {
            id: DeliveryId(id),
            attempts: queued.attempts,
            due: queued.due,
            accepted: queued.accepted,
            kilobytes: queued.kilobytes,
            is_pooled: queued.is_pooled(),
        };
        live.queue.all().take(most).map(row).collect()
    }
}
