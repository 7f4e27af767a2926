//! Upkeep: the hourly epoch, retention, answers and skipped parcel keys that have aged, accounts that end.

use std::ops::ControlFlow;

use super::RelayFiles;
use super::rows::{ANSWERS, DEPOSITS};
use crate::StoreError;
use crate::devices::EVENTS;
use crate::parcel::RECEIPTS;
use crate::relay_store::Upkeep;

/// Days that an answer is kept for a holder who does not come back.
pub const ANSWER_DAYS: u32 = 30;
/// Days that the tombstone of an expired deposit is kept.
pub const TOMBSTONE_DAYS: u32 = 400;
/// Rows that one commit of upkeep touches, so that others are not held up.
const SLICE: usize = 256;

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 86_400;

impl RelayFiles {
    pub(super) async fn run_upkeep(&self, now: u64, retention_days: u32) -> Result<Upkeep, StoreError> {
        let rewrapped = self.turn_epoch(now / HOUR_S).await?;
        let day = u32::try_from(now / DAY_S).unwrap_or(u32::MAX);
        // Everything else goes by days, and reads whole tables: once a day is enough.
        if *self.shared.aged_day() == Some((day, retention_days)) {
            return Ok(Upkeep { expired: 0, rewrapped });
        }
        let expired = self.expire_deposits(day, retention_days).await?;
        self.clear_dropped().await?;
        self.age_answers(day).await?;
        self.age_skipped(day).await?;
        self.age_vouchers(day).await?;
        self.age_endowed(day).await?;
        self.end_accounts(day).await?;
        *self.shared.aged_day() = Some((day, retention_days));
        Ok(Upkeep { expired, rewrapped })
    }

    /// Begins an epoch if it is time, moves the stragglers over, erases the key before.
    async fn turn_epoch(&self, hour: u64) -> Result<u64, StoreError> {
        self.committer.run(move |stage, _| stage.begin_epoch(hour)).await?;
        let mut rewrapped = 0;
        loop {
            let stragglers = {
                let live = self.shared.live();
                if live.epochs.previous.is_none() {
                    return Ok(rewrapped);
                }
                live.queue.outside_epoch(live.epochs.current().number, SLICE)
            };
            if stragglers.is_empty() {
                self.committer.run(|stage, _| stage.end_epoch()).await?;
                return Ok(rewrapped);
            }
            rewrapped += self
                .committer
                .run(move |stage, write| stage.rewrap(write, &stragglers))
                .await?;
        }
    }

    async fn expire_deposits(&self, day: u32, retention_days: u32) -> Result<u64, StoreError> {
        let base = &self.shared.base;
        let (mut old, mut forgotten) = (Vec::new(), Vec::new());
        DEPOSITS.scan(&base.snapshot()?, ((0, 0), (u64::MAX, u64::MAX)), |key, row| {
            let age = day.saturating_sub(row.day);
            match row.held {
                // Without its receipts a holder seals no parcels any more, and without events it does not know its aliases.
                Some(held) if age > retention_days && ![RECEIPTS, EVENTS].contains(&held.alias) => old.push(key),
                None if age > TOMBSTONE_DAYS => forgotten.push(key),
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut expired = 0;
        for slice in old.chunks(SLICE) {
            let slice = slice.to_vec();
            expired += self
                .committer
                .run(move |stage, write| {
                    let mut count = 0;
                    for key in &slice {
                        count += u64::from(stage.expire(write, *key, day)?);
                    }
                    Ok(count)
                })
                .await?;
        }
        for slice in forgotten.chunks(SLICE) {
            let slice = slice.to_vec();
            self.committer
                .run(move |_, write| {
                    slice
                        .iter()
                        .try_for_each(|key| DEPOSITS.remove(write, *key).map(|_| ()))
                })
                .await?;
        }
        Ok(expired)
    }

    async fn age_answers(&self, day: u32) -> Result<(), StoreError> {
        let base = &self.shared.base;
        let mut aged: Vec<(u64, u64)> = Vec::new();
        ANSWERS.scan(
            &base.snapshot()?,
            ((0, 0), (u64::MAX, u64::MAX)),
            |(account, seq), row| {
                if day.saturating_sub(row.day) > ANSWER_DAYS {
                    match aged.last_mut() {
                        Some((last, end)) if *last == account => *end = seq,
                        _ => aged.push((account, seq)),
                    }
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        for (account, end) in aged {
            // A frozen account keeps its answers.
            match self
                .committer
                .run(move |stage, write| stage.age_answers(write, account, end))
                .await
            {
                Ok(()) | Err(StoreError::RestoredDatabase) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
