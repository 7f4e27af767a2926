//! A relay that was restored from a copy is told again what it lost.

use std::collections::BTreeSet;

use keypacks::deposit;
use mailbox::request::{Answer, COLLECT_MAX, Collected, Operation, Refusal, Request};
use mailbox::{HolderStore, StoreError};

use super::super::answers::OPENED_AGAIN;
use super::{Courier, Ended, unexpected};
use crate::message::Notice;

impl<S: HolderStore> Courier<'_, S> {
    /// What a relay that was restored from a copy has to be told again, each of it without effect where it knew. The
    /// generation comes last: a crash before repeats it all.
    pub(super) async fn recover(&mut self, is_new: bool) -> Result<(), Ended> {
        let now = self.host.clock.unix_seconds();
        let mut notice = None;
        if !is_new {
            tracing::warn!("the relay was restored from a copy");
            if !self.confirm_again().await? {
                return Ok(());
            }
            // Another device may have told the relay already, and closed meanwhile what this one knows as open.
            self.collect().await?;
            if *self.stop.borrow() {
                // Perhaps not all was collected.
                return Err(Ended::Stopped);
            }
            if self.shortage.lasts() {
                return Err(StoreError::Full.into());
            }
            let mut aliases = self.store.aliases()?;
            // In the order of their numbers, which the relay gives out again.
            aliases.sort_by_key(|alias| alias.number);
            let expiry = self.store.expiry()?;
            let has_ended = expiry.flatten().is_some_and(|day| day <= self.host.day());
            // Those of a pack that has ended are nobody's to open.
            for alias in aliases.into_iter().filter(|_| !has_ended) {
                let Some((local, _)) = alias.address.rsplit_once('@') else {
                    continue;
                };
                let open = Operation::AliasOpen { local: local.into() };
                let close = Operation::AliasClose { local: local.into() };
                for operation in [Some(open), (!alias.open).then_some(close)].into_iter().flatten() {
                    self.store.enqueue_change(operation, OPENED_AGAIN.into(), now).await?;
                }
            }
            if let Some(day) = expiry {
                let operation = Operation::Expire { day };
                self.store
                    .enqueue_change(operation, "end of the pack".into(), now)
                    .await?;
            }
            notice = Some(self.compose(&Notice::RelayRestored));
        }
        self.store.relay_restored(self.generation, notice, now).await?;
        Ok(())
    }

    /// Confirms what was collected and stored before, and which a restored relay has again. `false`: not now, since the
    /// pack is frozen.
    async fn confirm_again(&mut self) -> Result<bool, Ended> {
        let pending = self.store.pending()?.into_iter().map(|deposit| deposit.index);
        let unconfirmed = self.store.unconfirmed()?.into_iter().map(|(index, _)| index);
        let under_way: BTreeSet<u64> = pending.chain(unconfirmed).collect();
        let (mut from, end) = (0, self.store.collect_from());
        while from < end {
            if *self.stop.borrow() {
                return Err(Ended::Stopped);
            }
            let most = COLLECT_MAX;
            let answer = self.link.ask(&Request::Collect { from, most }, &[]).await?;
            let Answer::Collected { deposits, next, .. } = answer else {
                return Err(unexpected(&answer));
            };
            let is_over = |index: u64| {
                (from..end).contains(&index) && !under_way.contains(&index) && self.store.post_step(index).is_none()
            };
            let again: Vec<_> = deposits
                .into_iter()
                .filter_map(|entry| match entry {
                    Collected::Wrap { index, wrap } if is_over(index) => Some((index, deposit::wrap_digest(&wrap))),
                    _ => None,
                })
                .collect();
            if again.len() > usize::from(COLLECT_MAX) {
                return Err(Ended::Nonsense);
            }
            if !again.is_empty() {
                let answer = self.link.ask(&Request::Confirm { deposits: again }, &[]).await?;
                match answer {
                    Answer::Confirmed { .. } => {}
                    Answer::Refused {
                        refusal: Refusal::Frozen,
                        ..
                    } => return Ok(false),
                    answer => return Err(unexpected(&answer)),
                }
            }
            if next <= from {
                break;
            }
            from = next;
        }
        Ok(true)
    }
}
