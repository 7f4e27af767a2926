//! The spool: accepted messages on their way out, one delivery per recipient, one body per message.
//!
//! A delivery is in one of two states, queued or gone. It is queued by the commit that accepts the message, and goes
//! with the commit that records its end; tries in between only move its time. Its recipient and the key of its body are
//! sealed under a key made from the epoch's key and a slab record: when either is erased, nothing opens them.

use std::sync::Arc;

use crate::index::Write;
use zeroize::{Zeroize, Zeroizing};

use super::RelayFiles;
use super::changes::Sealed;
use super::deposits::{Deposit, Quota};
use super::epochs::queued;
use super::live::{Effect, Queued};
use super::rows::{PrivateRow, SPOOL, SpoolRow, Tries};
use super::stage::RelayStage;
use crate::StoreError;
use crate::bodies::BodyName;
use crate::entropy::random;
use crate::relay_store::{Account, Delivery, DeliveryId, QueueRow};
use crate::vault::{self, slab_key};

/// How coarse the time of acceptance is kept, in seconds.
pub const ACCEPTED_STEP_S: u64 = 600;

/// How a try ended, with the report checked.
pub(super) enum Ending {
    Delivered,
    Retry { at: u64 },
    Delayed { at: u64, report: Option<Deposit> },
    Failed { report: Option<Deposit> },
}

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
        for recipient in &sealed.recipients {
            let private = PrivateRow {
                account,
                reverse_path: sealed.reverse_path.clone(),
                recipient: recipient.clone(),
                body_key: *sealed.body_key.expose(),
            };
            let (record, record_key) = base.slab.take()?;
            let (epoch, key) = {
                let epochs = &shared.live().epochs;
                (epochs.current().number, slab_key(&epochs.current().key, &record_key))
            };
            let plain = Zeroizing::new(vault::encode(&private));
            // No finer than the operator's bucket on the disk; in memory the queue keeps the order of acceptance.
            let accepted = now - now % ACCEPTED_STEP_S;
            let row = SpoolRow {
                due: accepted,
                tries: Tries::default(),
                accepted,
                kilobytes: sealed.kilobytes,
                body,
                epoch,
                record,
                private: vault::seal(&key, &plain, &*base.entropy),
            };
            let id = u64::from_le_bytes(random(&*base.entropy));
            SPOOL.put(write, id, &row)?;
            let queued = Queued {
                due: now,
                ..queued(&row)
            };
            self.batch.effects.push(Effect::Queued { id, queued });
        }
        self.batch.queued += sealed.recipients.len();
        Ok(())
    }

    /// Records how a try ended. A delivery that is gone already stays so.
    pub(super) fn finish(&mut self, write: &Write<'_>, id: u64, ending: &Ending) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let Some(mut row) = SPOOL.get(write, id)? else {
            return Ok(());
        };
        // First, since it may refuse.
        if let Ending::Delayed {
            report: Some(report), ..
        }
        | Ending::Failed { report: Some(report) } = ending
        {
            self.deposit(write, report, Quota::Waived)?;
        }
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
        shared.base.release_body(write, row.body)?;
        shared.base.slab.finish(row.record);
        self.batch.effects.push(Effect::Finished { id });
        Ok(())
    }
}

impl RelayFiles {
    pub(super) fn read_delivery_account(&self, id: DeliveryId) -> Result<Option<Account>, StoreError> {
        let opened = self.open_delivery(id)?;
        Ok(opened.map(|(_, private)| Account(private.account)))
    }

    pub(super) fn read_delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let Some((row, mut private)) = self.open_delivery(id)? else {
            return Ok(None);
        };
        let Some(body) = self.shared.base.read_body(row.body)? else {
            return Ok(None);
        };
        let body_key = keypacks::Secret::new(private.body_key);
        let mut message = vault::open(&body_key, &body)?;
        Ok(Some(Delivery {
            id,
            account: Account(private.account),
            reverse_path: std::mem::take(&mut private.reverse_path),
            recipient: std::mem::take(&mut private.recipient),
            message: std::mem::take(&mut *message),
            attempts: row.tries.count(),
            accepted: row.accepted,
            is_delay_told: row.tries.is_delay_told(),
        }))
    }

    fn open_delivery(&self, id: DeliveryId) -> Result<Option<(SpoolRow, PrivateRow)>, StoreError> {
        // An upkeep in between may have moved the row to a new epoch: the second reading sees it.
        match self.try_to_open(id) {
            Err(StoreError::Corrupt) => self.try_to_open(id),
            opened => opened,
        }
    }

    fn try_to_open(&self, id: DeliveryId) -> Result<Option<(SpoolRow, PrivateRow)>, StoreError> {
        let base = &self.shared.base;
        let read = || SPOOL.get(&base.view()?, id.0);
        let Some(row) = read()? else { return Ok(None) };
        let record = base.slab.read(row.record)?;
        let key = {
            let live = self.shared.live();
            slab_key(live.epochs.key(row.epoch).ok_or(StoreError::Corrupt)?, &record)
        };
        match vault::open(&key, &row.private) {
            Ok(mut plain) => {
                let private = vault::decode(&plain)?;
                plain.zeroize();
                Ok(Some((row, private)))
            }
            // The record is overwritten when the delivery is finished, which may have been just now.
            Err(error) => read()?.map_or(Ok(None), |_| Err(error)),
        }
    }

    pub(super) fn read_due(&self, now: u64, most: usize) -> Vec<DeliveryId> {
        let live = self.shared.live();
        let due = live.queue.in_order().take_while(|(_, queued)| queued.due <= now);
        due.map(|(id, _)| DeliveryId(id)).take(most).collect()
    }

    pub(super) fn read_queue(&self, most: usize) -> Vec<QueueRow> {
        let live = self.shared.live();
        let row = |(id, queued): (u64, &super::live::Queued)| QueueRow {
            id: DeliveryId(id),
            attempts: queued.attempts,
            due: queued.due,
            accepted: queued.accepted,
            kilobytes: queued.kilobytes,
        };
        live.queue.in_order().take(most).map(row).collect()
    }
}
