//! Out of the spool: each due delivery to the next host, one recipient a transaction.
//!
//! What a delivery is was fixed when it was accepted; here is only when and whereto. A try that ends without a durable
//! record is tried again with the same bytes: the one duplicate that SMTP cannot avoid.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keypacks::deposit::class_bytes;
use mailbox::relay_store::{Delivery, DeliveryId, DepositOrder, Outcome};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{self, Action, Address, Recipient, Report};
use smtp_bridge::names;
use smtp_bridge::net::stopped;
use smtp_bridge::smtp::{self, DeliveryResult, Domain, Enhanced, Mailbox, ReversePath};
use tokio::sync::{Semaphore, watch};

use crate::{Relay, seal};

/// Deliveries under way at one time.
const CONCURRENT_MAX: usize = 20;
/// Longest wait for a connection to the next host.
const DIAL_MAX: Duration = Duration::from_secs(60);
/// Longest sleep when the store cannot say when the next delivery is due, or refuses to record how one ended.
const BLIND: Duration = Duration::from_secs(5);
/// Wait before a delivery is looked at again that could not be read, or whose failure could not be told, in seconds.
const LATER_S: u64 = 600;

/// Delivers what is due until `stop` turns true.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    let mut changed = relay.store.spool_changed();
    let busy: Arc<Mutex<HashSet<DeliveryId>>> = Arc::default();
    let room = Arc::new(Semaphore::new(CONCURRENT_MAX));
    let (finished, mut wake) = watch::channel(());
    while !*stop.borrow() {
        changed.borrow_and_update();
        wake.borrow_and_update();
        let now = relay.host.clock.unix_seconds();
        // Those under way are due as well, so as many more must be asked for.
        let due = relay.store.due(now, 2 * CONCURRENT_MAX).unwrap_or_default();
        let waiting: Vec<DeliveryId> = due.into_iter().filter(|id| !lock(&busy).contains(id)).collect();
        let mut full = false;
        for id in waiting {
            let Ok(place) = room.clone().try_acquire_owned() else {
                full = true;
                break;
            };
            lock(&busy).insert(id);
            let (relay, busy, finished) = (relay.clone(), busy.clone(), finished.clone());
            relay.host.clone().task(async move {
                deliver(&relay, id).await;
                lock(&busy).remove(&id);
                drop(place);
                finished.send_replace(());
            });
        }
        let sleep = sleep_until_due(&relay, now, full || !lock(&busy).is_empty());
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = changed.changed() => {}
            _ = wake.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

fn sleep_until_due<S: RelayStore>(relay: &Relay<S>, now: u64, under_way: bool) -> Duration {
    const LONG: Duration = Duration::from_secs(3_600);
    match relay.store.next_due() {
        Ok(None) => LONG,
        Ok(Some(due)) if due > now => Duration::from_secs(due - now).min(LONG),
        // Due already, so it is under way, and its end wakes the loop; what falls due behind it does not wait for it.
        Ok(Some(_)) if under_way => BLIND,
        Ok(Some(_)) => Duration::from_millis(200),
        Err(_) => BLIND,
    }
}

fn lock(busy: &Mutex<HashSet<DeliveryId>>) -> std::sync::MutexGuard<'_, HashSet<DeliveryId>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn deliver<S: RelayStore>(relay: &Relay<S>, id: DeliveryId) {
    let now = || relay.host.clock.unix_seconds();
    let finish = |outcome| relay.store.finish(id, outcome);
    // Before it is read: 20 large deliveries would be more than all the memory for mail.
    let bytes = class_bytes(relay.store.delivery_kilobytes(id).unwrap_or_default());
    let room = relay.budget.take(2 * bytes).await;
    let Ok(Some(delivery)) = relay.store.delivery(id) else {
        drop(room);
        // Gone meanwhile, or damaged: as long as it is due, it would be looked at without end.
        return record(Outcome::Retry { at: now() + LATER_S }, now, finish).await;
    };
    let result = try_once(relay, &delivery).await;
    let outcome = judge(relay, &delivery, result);
    match outcome {
        Outcome::Delivered => relay.metrics.delivered.count(),
        Outcome::Retry { .. } => relay.metrics.deferred.count(),
        Outcome::Failed { .. } => relay.metrics.failed.count(),
    }
    drop(delivery);
    drop(room);
    record(outcome, now, finish).await;
}

/// Records how a try ended, and does not rest before it is: what the next host has is not sent to it again because the
/// disk is full. A failure that cannot be told for now (its report takes room) is one more try later.
async fn record<F: Future<Output = Result<(), StoreError>>>(
    mut outcome: Outcome,
    now: impl Fn() -> u64,
    finish: impl Fn(Outcome) -> F,
) {
    loop {
        let again = match outcome {
            Outcome::Delivered => Outcome::Delivered,
            Outcome::Retry { at } => Outcome::Retry { at },
            Outcome::Failed { .. } => Outcome::Retry { at: now() + LATER_S },
        };
        let Err(error) = finish(outcome).await else { return };
        tracing::error!(%error, "the outcome of a delivery could not be recorded; trying again");
        tokio::time::sleep(BLIND).await;
        outcome = again;
    }
}

async fn try_once<S: RelayStore>(relay: &Relay<S>, delivery: &Delivery) -> DeliveryResult {
    // Both were checked when the delivery was accepted; the route can have gone since.
    let (Some(domain), Some(reverse_path), Some(recipient)) = (
        Domain::parse(&relay.config.domain),
        ReversePath::parse(&delivery.reverse_path),
        Mailbox::parse(&delivery.recipient),
    ) else {
        return DeliveryResult::Permanent {
            code: None,
            status: Enhanced::new(5, 1, 3),
        };
    };
    let Some(route) = relay.config.route(recipient.domain().as_str()) else {
        return DeliveryResult::Transient {
            code: None,
            status: Enhanced::new(4, 4, 4),
        };
    };
    let dialled = tokio::time::timeout(DIAL_MAX, relay.host.dial(&route)).await;
    let Ok(Ok(stream)) = dialled else {
        return DeliveryResult::Transient {
            code: None,
            status: Enhanced::new(4, 4, 1),
        };
    };
    smtp::deliver(stream, &domain, &reverse_path, &recipient, &delivery.message).await
}

fn judge<S: RelayStore>(relay: &Relay<S>, delivery: &Delivery, result: DeliveryResult) -> Outcome {
    let (code, status) = match result {
        DeliveryResult::Delivered => return Outcome::Delivered,
        DeliveryResult::Transient { code, status } => match relay.config.retry_s.get(delivery.attempts as usize) {
            Some(wait) => {
                return Outcome::Retry {
                    at: relay.host.clock.unix_seconds() + wait,
                };
            }
            None => (code, status),
        },
        DeliveryResult::Permanent { code, status } => (code, status),
    };
    Outcome::Failed {
        report: report(relay, delivery, code, status),
    }
}

/// The sender's delivery status notification, sealed for its mailbox.
fn report<S: RelayStore>(
    relay: &Relay<S>,
    delivery: &Delivery,
    code: Option<u16>,
    status: Enhanced,
) -> Option<DepositOrder> {
    let alias = relay.store.alias(&delivery.reverse_path)?;
    let diagnostic = match code {
        Some(code) => format!("{code} {status}"),
        None => "the next host could not be reached or did not answer".to_owned(),
    };
    let dsn = message::dsn(&Report {
        reporting_mta: &relay.config.domain,
        to: &Address::parse(&delivery.reverse_path).ok()?,
        message_id_local: &names::random(&relay.host),
        date: relay.host.clock.unix_seconds(),
        recipients: &[Recipient {
            address: &Address::parse(&delivery.recipient).ok()?,
            action: Action::Failed,
            status: &status.to_string(),
            remote_mta: None,
            diagnostic: Some(&diagnostic),
        }],
        original: &delivery.message,
    });
    let sealed = seal::message(&relay.host, "", &dsn)?;
    Some(sealed.into_order(vec![(alias.account, alias.number)], relay.host.day()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What is told to a store that refuses twice.
    async fn told(outcome: Outcome) -> Vec<String> {
        let told = RefCell::new(Vec::new());
        let finish = |outcome| {
            told.borrow_mut().push(match outcome {
                Outcome::Delivered => "delivered".to_owned(),
                Outcome::Retry { at } => format!("again at {at}"),
                Outcome::Failed { .. } => "failed".to_owned(),
            });
            let result = if told.borrow().len() > 2 {
                Ok(())
            } else {
                Err(StoreError::Full)
            };
            std::future::ready(result)
        };
        record(outcome, || 1_000, finish).await;
        told.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_delivered_is_told_to_the_store_until_it_takes_it() {
        assert_eq!(told(Outcome::Delivered).await, ["delivered"; 3]);
        assert_eq!(told(Outcome::Retry { at: 7 }).await, ["again at 7"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_cannot_be_told_is_one_more_try_later() {
        let failed = told(Outcome::Failed { report: None }).await;
        assert_eq!(failed, ["failed", "again at 1600", "again at 1600"]);
    }
}
