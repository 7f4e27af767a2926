//! Packs that holders of this relay have procured at its peers: each order goes on under the pack held there, in the peer's
//! outbox, named by the order.
//!
//! ```text
//! order accepted, debited -> held back a while -> row of the peer's outbox -> answered -> order ended, holder told
//! ```
//!
//! A row ends only after its order has: after a crash in between it is asked for again, gets the same answer, and finds no
//! order. What waited together leaves together, in an order of its own, so that the peer cannot tell from its times who asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keypacks::chain::LINK_KEYS_MIN;
use keypacks::reroot;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::relay::ENDOWED_DAYS;
use mailbox::relay_store::{Procured, Procurement, ProcurementId};
use mailbox::request::{Answer, Offers, Operation, Refusal};
use mailbox::{HolderStore, RelayStore, StoreError};
use smtp_bridge::net::stopped;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Peer, Peers};
use crate::Relay;
use crate::config::ProcureConfig;

/// What the row of an order is called in the outbox: no delivery is.
const LABEL: &str = "procure-";

fn label_of(id: ProcurementId) -> String {
    format!("{LABEL}{:016x}", id.0)
}

pub(super) fn order_of(label: &str) -> Option<ProcurementId> {
    let digits = label.strip_prefix(LABEL)?;
    u64::from_str_radix(digits, 16).ok().map(ProcurementId)
}

impl Peers {
    /// What holders may have procured.
    pub(crate) fn offers(&self, settings: Option<&ProcureConfig>) -> Offers {
        let Some(settings) = settings else {
            return Offers::default();
        };
        // One that takes more than its price is given no orders.
        let known = settings
            .peers
            .iter()
            .filter_map(|name| self.of(name))
            .filter(|peer| peer.beyond() == 0 && !peer.is_too_dear());
        Offers {
            fee: settings.fee,
            relays: known.map(|peer| peer.store.facts().relay_domain).collect(),
            sizes: settings.sizes.iter().map(|size| (size.keys, size.value)).collect(),
        }
    }

    /// Name of the peer of this domain whose pack holds so many keys and so much value beside what was ordered before, and
    /// what is kept for mail.
    pub(crate) fn seller<S: RelayStore>(
        &self,
        relay: &Relay<S>,
        domain: &str,
        (keys, value): (u64, u64),
    ) -> Result<Option<String>, StoreError> {
        let Some(settings) = &relay.config.procure else {
            return Ok(None);
        };
        let mut known = settings.peers.iter().filter_map(|name| Some((name, self.of(name)?)));
        let Some((name, peer)) = known.find(|(_, peer)| peer.store.facts().relay_domain == domain) else {
            return Ok(None);
        };
        if peer.beyond() > 0 || peer.is_too_dear() || peer.full_on.load(Ordering::Relaxed) == relay.host.day() {
            return Ok(None);
        }
        let outbox = peer.store.outbox()?;
        // Their value is reserved there, their keys are not.
        let queued_keys = outbox
            .iter()
            .fold(0u64, |sum, row| match (&row.state, &row.change.operation) {
                (OutboxState::Refused(_), _) => sum,
                (_, Operation::Endow { keys, .. }) => sum.saturating_add(*keys),
                _ => sum,
            });
        let rows: BTreeSet<String> = outbox.into_iter().map(|row| row.label).collect();
        let ordered = |order: &Procurement| order.what.peer == *name && !rows.contains(&label_of(order.id));
        let waiting = relay.store.procurements()?.into_iter().filter(ordered);
        let (more_keys, more_value) = waiting.fold((0u64, 0u64), |(keys, value), order| {
            (
                keys.saturating_add(order.what.keys),
                value.saturating_add(order.what.value),
            )
        });
        let known = peer.store.value();
        let kept = settings.kept_value(relay.config.peers.get(name));
        let has_value = covers(
            known.balance,
            peer.store.reserved()?.saturating_add(more_value),
            kept,
            value,
        );
        if !has_value {
            // As for mail: what is lent is drawn for it.
            let wanted = value.saturating_add(kept);
            peer.short.fetch_max(wanted, Ordering::Relaxed);
            peer.handle.refresh();
        }
        let kept = settings.keep_keys.max(LINK_KEYS_MIN);
        let has_keys = covers(known.keys, more_keys.saturating_add(queued_keys), kept, keys);
        Ok((has_value && has_keys).then(|| name.clone()))
    }

    /// Credits all orders at a peer back, whatever it makes of them. Returns how many there were.
    pub(crate) async fn give_back<S: RelayStore>(&self, relay: &Relay<S>, name: &str) -> Result<u64, StoreError> {
        let mut count = 0;
        for order in relay.store.procurements()? {
            if order.what.peer == name {
                relay
                    .store
                    .procured(order.id, Procured::Returned, relay.host.day())
                    .await?;
                relay.metrics.returned.count();
                count += 1;
            }
        }
        self.ordered();
        Ok(count)
    }

    /// Waits until no other order is being judged.
    pub(crate) async fn ordering(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.3.lock().await
    }

    /// Looks for new orders.
    pub(crate) fn ordered(&self) {
        self.2.send_modify(|count| *count += 1);
    }
}

/// Whether so much can be taken of what there is, beside what others are to get and what stays.
fn covers(there: u64, others: u64, kept: u64, wanted: u64) -> bool {
    [others, kept, wanted]
        .into_iter()
        .try_fold(there, u64::checked_sub)
        .is_some()
}

/// Whether a peer that carried out an order taken here on day `of` may not know it any more.
fn may_be_forgotten(of: u32, today: u32) -> bool {
    today.saturating_sub(of) + 2 > ENDOWED_DAYS
}

/// Ends an order that the peer carried out. Other answers wait for their rows to say what they lead to.
pub(super) async fn settle<S: RelayStore>(
    relay: &Relay<S>,
    row: &OutboxRow,
    answer: &Answer,
) -> Result<(), StoreError> {
    let (
        Some(id),
        Answer::Endowed {
            ciphertext, confirm, ..
        },
    ) = (order_of(&row.label), answer)
    else {
        return Ok(());
    };
    if ciphertext.len() != reroot::CIPHERTEXT {
        tracing::error!("a peer answered an order of a pack with what is none: what was paid for it is credited again");
        relay.store.procured(id, Procured::Returned, relay.host.day()).await?;
        relay.metrics.returned.count();
        return Ok(());
    }
    let made = Procured::Made {
        ciphertext: ciphertext.clone(),
        confirm: *confirm,
    };
    relay.store.procured(id, made, relay.host.day()).await?;
    relay.metrics.procured.count();
    Ok(())
}

/// Sends orders on, and gives back what was not made, until `stop` turns true.
pub(super) async fn keep<S: RelayStore>(
    relay: Arc<Relay<S>>,
    name: String,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
) {
    let hold = relay.config.procure.as_ref().map_or(0, |settings| settings.hold_s);
    let mut changed = peer.store.outbox_changed();
    let mut ordered = relay.peers.2.subscribe();
    // When what waits leaves.
    let mut due: Option<Instant> = None;
    loop {
        changed.borrow_and_update();
        ordered.borrow_and_update();
        match look(&relay, &name, &peer, &mut due, hold).await {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(peer = name, %error, "orders of packs could not be looked after; trying again")
            }
        }
        let tick = Instant::now() + relay.config.tick();
        let until = due.map_or(tick, |due| due.min(tick));
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = changed.changed() => {}
            _ = ordered.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn look<S: RelayStore>(
    relay: &Relay<S>,
    name: &str,
    peer: &Peer,
    due: &mut Option<Instant>,
    hold_s: u64,
) -> Result<(), StoreError> {
    let mut under_way = BTreeSet::new();
    let rows = peer.store.outbox()?;
    // After the rows: one whose order is missing here has outlived it.
    let orders = relay.store.procurements()?;
    for row in rows {
        let Some(id) = order_of(&row.label) else { continue };
        match row.state {
            // Credited back by the operator. What may have left by now stays until it is answered.
            OutboxState::Queued | OutboxState::Held(_) if !orders.iter().any(|order| order.id == id) => {
                let _ = peer.store.cancel(row.row).await?;
            }
            OutboxState::Queued | OutboxState::Held(_) => drop(under_way.insert(id)),
            // The peer knows by the order itself whether it was carried out: it is asked again under another number. Not once
            // it may have forgotten, since it would be paid twice: that is for the operators to settle.
            OutboxState::Unknown | OutboxState::Refused(Refusal::Conflict) => {
                let order = orders.iter().find(|order| order.id == id);
                match order.is_some_and(|order| may_be_forgotten(order.day, relay.host.day())) {
                    true => drop(under_way.insert(id)),
                    false => drop(peer.store.cancel(row.row).await?),
                }
            }
            OutboxState::Refused(refusal) => {
                if refusal == Refusal::Limit {
                    peer.full_on.store(relay.host.day(), Ordering::Relaxed);
                }
                tracing::warn!(
                    peer = name,
                    "a peer did not make a pack: what was paid for it is credited again"
                );
                relay.store.procured(id, Procured::Returned, relay.host.day()).await?;
                relay.metrics.returned.count();
                peer.store.cancel(row.row).await?;
            }
        }
    }
    let is_new = |order: &Procurement| order.what.peer == name && !under_way.contains(&order.id);
    let new: Vec<Procurement> = orders.into_iter().filter(is_new).collect();
    if new.is_empty() {
        *due = None;
        return Ok(());
    }
    let now = Instant::now();
    let at = *due.get_or_insert_with(|| {
        let drawn = u64::from_le_bytes(relay.host.random());
        now + Duration::from_millis(drawn % (hold_s * 1_000 + 1))
    });
    if now < at {
        return Ok(());
    }
    *due = None;
    for order in new {
        let operation = Operation::Endow {
            kem: order.what.kem,
            dh: order.what.dh,
            keys: order.what.keys,
            value: order.what.value,
        };
        let seconds = relay.host.clock.unix_seconds();
        peer.store
            .enqueue_change(operation, label_of(order.id), seconds)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_takes_what_is_kept_for_mail() {
        assert!(covers(400, 44, 256, 100));
        assert!(!covers(399, 44, 256, 100), "one key less than is kept");
        assert!(!covers(u64::MAX, u64::MAX, 1, 0));
        assert!(!covers(10, 0, u64::MAX, u64::MAX));
    }

    #[test]
    fn a_peer_is_not_asked_again_once_it_may_have_forgotten() {
        assert!(!may_be_forgotten(100, 100 + ENDOWED_DAYS - 2));
        assert!(may_be_forgotten(100, 100 + ENDOWED_DAYS - 1));
        assert!(!may_be_forgotten(100, 99), "a clock that was put back");
    }

    #[test]
    fn a_row_names_the_order_that_it_was_made_from_and_no_delivery() {
        for id in [0, 7, u64::MAX] {
            let label = label_of(ProcurementId(id));
            assert!(order_of(&label) == Some(ProcurementId(id)));
            assert!(super::super::delivery_of(&label).is_none());
        }
        assert!(order_of("0000000000000007").is_none());
    }
}
