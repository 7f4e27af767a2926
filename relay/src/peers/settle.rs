//! How a submission to a peer ended, and who is told of it.

use std::sync::Arc;
use std::time::Duration;

use mailbox::holder::HolderFiles;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::relay_store::{Delivery, DeliveryId, Outcome};
use mailbox::request::{Answer, Operation, Refusal, split_payload};
use mailbox::{HolderStore, RelayStore, StoreError};
use smtp_bridge::holder::Settle;
use smtp_bridge::net::{Promise, stopped};
use smtp_bridge::smtp::{DeliveryResult, Enhanced};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::prices::Accepted;
use super::ways::is_of_pack;
use super::{Peer, delivery_of, procure};
use crate::waiting::Hold;
use crate::{Relay, exit};

/// Pause before a delivery is looked at again that a worker has in hand.
const RECORDED: Duration = Duration::from_millis(50);
/// How often the outbox is searched for what has waited too long.
const LOOK: Duration = Duration::from_secs(600);

/// So long changes of the outbox are gathered before it is searched.
pub(super) const TOGETHER: Duration = Duration::from_millis(250);

/// What an answer of the peer waits for.
pub(super) struct Settling<S> {
    pub(super) relay: Arc<Relay<S>>,
    /// What the peer is called here.
    pub(super) name: String,
    pub(super) store: HolderFiles,
    pub(super) accepted: Arc<Accepted>,
}

impl<S: RelayStore> Settle for Settling<S> {
    fn pays(&self) -> bool {
        !self.accepted.is_exceeded(&self.store)
    }

    fn settle<'a>(&'a self, row: &'a OutboxRow, answer: &'a Answer) -> Promise<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(id) = delivery_of(&row.label) else {
                return procure::settle(&self.relay, row, answer).await;
            };
            match answer {
                // It goes again, by itself, under another number, or when value comes; or is taken back meanwhile.
                Answer::Refused {
                    refusal:
                        Refusal::Busy
                        | Refusal::Frozen
                        | Refusal::Unacknowledged
                        | Refusal::Value { .. }
                        | Refusal::Price { .. }
                        | Refusal::Conflict,
                    ..
                } => Ok(()),
                Answer::Refused { refusal, .. } => {
                    let _hold = hold(&self.relay, id).await;
                    if goes_on(&self.relay, id, *refusal) {
                        self.relay.peers.avoid(&self.name);
                        return Ok(());
                    }
                    finish(&self.relay, id).await?;
                    self.tell(row, id, status_of(*refusal)).await
                }
                _ => {
                    self.note_beyond(row, answer)?;
                    let _hold = hold(&self.relay, id).await;
                    if finish(&self.relay, id).await? {
                        self.relay.metrics.delivered.count();
                    }
                    Ok(())
                }
            }
        })
    }
}

/// Waits until nobody else has a delivery in hand: what a worker did with it is recorded then.
async fn hold<S: RelayStore>(relay: &Relay<S>, id: DeliveryId) -> Hold {
    loop {
        match relay.waiting.hold(id) {
            Some(hold) => return hold,
            None => tokio::time::sleep(RECORDED).await,
        }
    }
}

/// Whether a delivery that is in hand here goes by another way, since a peer refused it for what is left of the pack there, and
/// it is in the spool still. Its row is dropped by [`end`].
fn goes_on<S: RelayStore>(relay: &Relay<S>, id: DeliveryId, refusal: Refusal) -> bool {
    is_of_pack(refusal) && relay.store.delivery_kilobytes(id).is_some()
}

/// Ends a delivery that is in hand here and whose row in a peer's outbox is about to end: whatever was recorded of it before,
/// it goes no other way. Returns whether it was in the spool still.
async fn finish<S: RelayStore>(relay: &Relay<S>, id: DeliveryId) -> Result<bool, StoreError> {
    let is_there = relay.store.delivery_kilobytes(id).is_some();
    if is_there {
        relay.store.finish(id, Outcome::Delivered).await?;
    }
    relay.waiting.ended(id);
    Ok(is_there)
}

impl<S: RelayStore> Settling<S> {
    /// Tells the operator of a debit beyond the price, if it is not one of many.
    fn note_beyond(&self, row: &OutboxRow, answer: &Answer) -> Result<(), StoreError> {
        if let (Operation::Submit { debit_max, .. }, Answer::Done { debited, .. }) = (&row.change.operation, answer)
            && debited.saturating_sub(*debit_max) > self.store.own_book()?.beyond
        {
            tracing::error!(
                peer = self.name,
                "a peer debited more for a message than its own prices say: nothing more goes by it until 'posternd peer resume'"
            );
        }
        Ok(())
    }

    /// Tells the sender of a failure.
    async fn tell(&self, row: &OutboxRow, id: DeliveryId, status: Enhanced) -> Result<(), StoreError> {
        tell(&self.relay, &self.store, row, id, status).await
    }
}

/// What a refusal is to the sender.
fn status_of(refusal: Refusal) -> Enhanced {
    match refusal {
        Refusal::Route { .. } => Enhanced::new(5, 4, 4),
        Refusal::Recipient { .. } => Enhanced::new(5, 1, 3),
        Refusal::Message => Enhanced::new(5, 6, 0),
        // The peer no longer knows: it may have been delivered.
        Refusal::Stale => Enhanced::new(5, 4, 7),
        Refusal::Sender => Enhanced::new(5, 7, 1),
        Refusal::Mix => Enhanced::new(5, 3, 3),
        _ => Enhanced::new(5, 3, 0),
    }
}

async fn tell<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    store: &HolderFiles,
    row: &OutboxRow,
    id: DeliveryId,
    status: Enhanced,
) -> Result<(), StoreError> {
    let Some(body) = store.outbox_body(row.row)?.map(Zeroizing::new) else {
        return Ok(());
    };
    let Operation::Submit { length, .. } = row.change.operation else {
        return Ok(());
    };
    let payload = body.get(..length as usize).unwrap_or_default();
    let Ok((envelope, message)) = split_payload(payload) else {
        return Ok(());
    };
    let (wishes, hops) = (envelope.wishes(0), envelope.hops());
    let delivery = Delivery {
        id,
        account: mailbox::relay_store::Account(0),
        reverse_path: envelope.reverse_path,
        recipient: envelope.recipients.into_iter().next().unwrap_or_default(),
        message: message.to_vec(),
        attempts: 1,
        accepted: row.taken,
        is_delay_told: false,
        hops,
        mix: None,
        date: None,
        wishes,
    };
    relay.metrics.failed.count();
    exit::tell_of_failure(relay, &delivery, DeliveryResult::Permanent { code: None, status }).await
}

/// Removes what was refused, whose senders were told; and ends what has waited at a peer as long as the last try of any
/// delivery, and tells the senders: nobody knows whether the peer had it.
pub(super) async fn clear<S: RelayStore>(relay: Arc<Relay<S>>, peer: Peer, mut stop: watch::Receiver<bool>) {
    let mut changed = peer.store.outbox_changed();
    loop {
        changed.borrow_and_update();
        let now = relay.host.clock.unix_seconds();
        let longest: u64 = relay.config.retry_s.iter().sum();
        for row in peer.store.outbox().unwrap_or_default() {
            let is_done = matches!(row.state, OutboxState::Refused(_) | OutboxState::Unknown);
            let is_late = now.saturating_sub(row.taken) > longest;
            if (is_done || is_late)
                && let Err(error) = end(&relay, &peer, &row).await
            {
                tracing::error!(%error, "what waits too long at a peer could not be ended");
            }
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            // All rows are looked at: not with each message that goes.
            _ = changed.changed() => tokio::time::sleep(TOGETHER).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn end<S: RelayStore>(relay: &Arc<Relay<S>>, peer: &Peer, row: &OutboxRow) -> Result<(), StoreError> {
    let Some(id) = delivery_of(&row.label) else {
        return Ok(());
    };
    let _hold = hold(relay, id).await;
    if !peer.store.outbox_knows(&row.label) {
        // It was answered or taken back meanwhile.
        return Ok(());
    }
    if let OutboxState::Refused(refusal) = row.state
        && goes_on(relay, id, refusal)
    {
        // First: as long as there is a row it goes nowhere else.
        peer.store.cancel(row.row).await?;
        let at = relay.host.clock.unix_seconds();
        return relay.store.finish(id, Outcome::Retry { at }).await;
    }
    finish(relay, id).await?;
    match row.state {
        OutboxState::Queued | OutboxState::Held(_) => {
            tell(relay, &peer.store, row, id, Enhanced::new(5, 4, 7)).await?;
            if row.state == OutboxState::Queued {
                let stale = Answer::Refused {
                    seq: row.change.seq,
                    refusal: Refusal::Stale,
                };
                let now = relay.host.clock.unix_seconds();
                peer.store.answered(row.row, stale, None, now).await?;
            }
        }
        // A copy of the store may have sent it. Of what the peer itself no longer knew, nothing is left to be told.
        OutboxState::Unknown => tell(relay, &peer.store, row, id, Enhanced::new(5, 4, 7)).await?,
        OutboxState::Refused(_) => {}
    }
    peer.store.cancel(row.row).await?;
    Ok(())
}
