//! Out of the spool: each due delivery to the next host, one recipient a transaction.
//!
//! What a delivery is was fixed when it was accepted; here is only when and whereto. A try that ends without a durable
//! record is tried again with the same bytes: the one duplicate that SMTP cannot avoid.

mod channel;
mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keypacks::deposit::class_bytes;
use mailbox::relay_store::{Delivery, DeliveryId, DepositOrder, Outcome};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{self, Action, Address, Recipient, Report};
use smtp_bridge::names;
use smtp_bridge::net::stopped;
use smtp_bridge::smtp::{DeliveryResult, Domain, Enhanced, Mailbox, ReversePath};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::channel::{Channel, Parcel, send};
use self::queue::{Berth, Queue};
use crate::{Relay, seal};

/// Longest sleep when the store cannot say when the next delivery is due.
const BLIND: Duration = Duration::from_secs(5);
/// Pause before the store is told again how a delivery ended, when it refused.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// Wait before a delivery is looked at again that could not be read, or whose failure could not be told, in seconds.
const LATER_S: u64 = 600;

/// A place at a next host, kept until the end of its delivery is on the disk, and the connection if it can go on.
struct Place {
    route: String,
    channel: Option<Channel>,
}

/// What the workers share.
struct Exit<S> {
    relay: Arc<Relay<S>>,
    queue: Mutex<Queue<Channel>>,
    /// Something changed that the loop sleeps on.
    wake: Notify,
}

/// Delivers what is due until `stop` turns true.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    let mut changed = relay.store.spool_changed();
    let exit = Arc::new(Exit {
        relay,
        queue: Mutex::default(),
        wake: Notify::new(),
    });
    while !*stop.borrow() {
        changed.borrow_and_update();
        let now = Instant::now();
        exit.refill(now);
        let workers = exit.queue().hire(now);
        for _ in 0..workers {
            exit.relay.host.task(work(exit.clone()));
        }
        let expired = exit.queue().expire(now);
        close(expired).await;
        let until = exit.sleeps_until(now);
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            _ = changed.changed() => {}
            () = exit.wake.notified() => {}
            () = exit.relay.waiting.woken() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
    let kept = exit.queue().stop();
    close(kept).await;
}

async fn close(channels: Vec<Channel>) {
    for channel in channels {
        channel.close().await;
    }
}

/// One delivery after the other, until none is ready or one has to wait for its host.
async fn work<S: RelayStore>(exit: Arc<Exit<S>>) {
    while let Some(id) = exit.next() {
        if !exit.deliver(id).await {
            exit.queue().dismiss();
            return;
        }
    }
}

impl<S: RelayStore> Exit<S> {
    fn queue(&self) -> MutexGuard<'_, Queue<Channel>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the queue what is due, if it has nothing left.
    fn refill(&self, now: Instant) {
        let mut queue = self.queue();
        if let Some(most) = queue.wants(now) {
            // Under the queue's lock: a delivery that is recorded meanwhile is still known, or not due any more.
            let due = self.relay.store.due(self.relay.host.clock.unix_seconds(), most);
            queue.offer(due.unwrap_or_default());
        }
    }

    fn next(&self) -> Option<DeliveryId> {
        self.refill(Instant::now());
        self.queue().next()
    }

    /// When the loop looks again if nothing wakes it.
    fn sleeps_until(&self, now: Instant) -> Instant {
        let queue = self.queue();
        let pause = queue.asks_at().filter(|at| *at > now);
        let look = queue.looks_at().filter(|_| queue.unopened() > 0);
        let due = now + self.sleep_until_due(queue.is_busy());
        let timers = [pause, look, queue.next_expiry()];
        timers.into_iter().flatten().fold(due, Instant::min)
    }

    fn sleep_until_due(&self, under_way: bool) -> Duration {
        const LONG: Duration = Duration::from_secs(3_600);
        let now = self.relay.host.clock.unix_seconds();
        match self.relay.store.next_due() {
            Ok(None) => LONG,
            Ok(Some(due)) if due > now => Duration::from_secs(due - now).min(LONG),
            // Due already, so it is under way; what falls due behind it does not wait for it.
            Ok(Some(_)) if under_way => BLIND,
            Ok(Some(_)) => Duration::from_millis(200),
            Err(_) => BLIND,
        }
    }

    /// One try. `false`: its host is full, and the delivery waits in the queue.
    async fn deliver(&self, id: DeliveryId) -> bool {
        let relay = &self.relay;
        let Some(hold) = relay.waiting.hold(id) else {
            // The operator ends it just now.
            self.queue().recorded(id);
            return true;
        };
        // Before it is read: many large deliveries would be more than all the memory for mail.
        let bytes = class_bytes(relay.store.delivery_kilobytes(id).unwrap_or_default());
        let room = relay.budget.take(2 * bytes).await;
        let Ok(Some(delivery)) = relay.store.delivery(id) else {
            // Gone meanwhile, or damaged: as long as it is due, it would be looked at without end.
            let at = relay.host.clock.unix_seconds() + LATER_S;
            self.record(id, Outcome::Retry { at }).await;
            return true;
        };
        let Some((result, place)) = self.try_once(id, &delivery).await else {
            return false;
        };
        if let DeliveryResult::Transient { code, status } = result {
            relay.waiting.deferred(id, code, status);
        }
        let outcome = judge(relay, &delivery, result);
        match outcome {
            Outcome::Delivered => relay.metrics.delivered.count(),
            Outcome::Retry { .. } => relay.metrics.deferred.count(),
            Outcome::Failed { .. } => relay.metrics.failed.count(),
        }
        drop(delivery);
        drop(room);
        self.record(id, outcome).await;
        drop(hold);
        if let Some(Place { route, channel }) = place {
            let surplus = self.queue().end(&route, channel, Instant::now());
            close(surplus.into_iter().collect()).await;
        }
        true
    }

    /// How it ended, and the place at its host that it still has. `None`: its host is full.
    async fn try_once(&self, id: DeliveryId, delivery: &Delivery) -> Option<(DeliveryResult, Option<Place>)> {
        let relay = &self.relay;
        let nowhere = |result| Some((result, None));
        // Both were checked when the delivery was accepted; the route can have gone since.
        let (Some(domain), Some(reverse_path), Some(recipient)) = (
            Domain::parse(&relay.config.domain),
            ReversePath::parse(&delivery.reverse_path),
            Mailbox::parse(&delivery.recipient),
        ) else {
            return nowhere(DeliveryResult::Permanent {
                code: None,
                status: Enhanced::new(5, 1, 3),
            });
        };
        let Some(route) = relay.config.route(recipient.domain().as_str()) else {
            return nowhere(DeliveryResult::Transient {
                code: None,
                status: Enhanced::new(4, 4, 4),
            });
        };
        let Berth::Free(kept) = self.queue().begin(&route, id) else {
            return None;
        };
        let parcel = Parcel {
            domain: &domain,
            reverse_path: &reverse_path,
            recipient: &recipient,
            message: &delivery.message,
        };
        let (result, channel) = send(kept, relay.host.dial(&route), &parcel).await;
        Some((result, Some(Place { route, channel })))
    }

    /// Returns once the end of a try is on the disk.
    async fn record(&self, id: DeliveryId, outcome: Outcome) {
        let relay = &self.relay;
        let is_gone = matches!(outcome, Outcome::Delivered);
        if !matches!(outcome, Outcome::Retry { .. }) {
            relay.waiting.ended(id);
        }
        let now = || relay.host.clock.unix_seconds();
        record(outcome, now, |outcome| relay.store.finish(id, outcome)).await;
        self.queue().recorded(id);
        // Another try has a time that the loop has to know.
        if !is_gone {
            self.wake.notify_one();
        }
    }
}

/// Records how a try ended, and does not rest before it is: what the next host has is not sent to it again because the
/// disk is full. A failure that cannot be told for now (its report takes room) is one more try later.
async fn record<F: Future<Output = Result<(), StoreError>>>(
    mut outcome: Outcome,
    now: impl Fn() -> u64,
    finish: impl Fn(Outcome) -> F,
) {
    let mut is_told = false;
    loop {
        let again = match outcome {
            Outcome::Delivered => Outcome::Delivered,
            Outcome::Retry { at } => Outcome::Retry { at },
            Outcome::Failed { .. } => Outcome::Retry { at: now() + LATER_S },
        };
        let Err(error) = finish(outcome).await else { return };
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(%error, "the outcome of a delivery could not be recorded; trying again each second");
        }
        tokio::time::sleep(TELL_AGAIN).await;
        outcome = again;
    }
}

/// Gives a delivery up at the operator's word, and tells its sender. `false`: it is gone already.
///
/// One that cannot be read goes without a report, as nobody knows any more whom to tell.
pub(crate) async fn give_up<S: RelayStore>(relay: &Relay<S>, id: DeliveryId) -> Result<bool, StoreError> {
    if relay.store.delivery_kilobytes(id).is_none() {
        return Ok(false);
    }
    let report = match relay.store.delivery(id) {
        Ok(Some(delivery)) => report(relay, &delivery, Cause::Removed),
        Ok(None) => return Ok(false),
        Err(StoreError::Corrupt) => None,
        Err(error) => return Err(error),
    };
    relay.store.finish(id, Outcome::Failed { report }).await?;
    relay.metrics.failed.count();
    relay.waiting.ended(id);
    Ok(true)
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
        report: report(relay, delivery, Cause::Answer(code, status)),
    }
}

/// Why a delivery is given up.
enum Cause {
    /// What the next host answered, or that it did not.
    Answer(Option<u16>, Enhanced),
    /// The operator's word.
    Removed,
}

/// The sender's delivery status notification, sealed for its mailbox.
fn report<S: RelayStore>(relay: &Relay<S>, delivery: &Delivery, cause: Cause) -> Option<DepositOrder> {
    let alias = relay.store.alias(&delivery.reverse_path)?;
    let (status, diagnostic) = match cause {
        Cause::Answer(Some(code), status) => (status, format!("{code} {status}")),
        Cause::Answer(None, status) => {
            let words = "the next host could not be reached or did not answer";
            (status, words.to_owned())
        }
        Cause::Removed => {
            let words = "the operator of this relay removed the message from its queue";
            (Enhanced::new(5, 3, 0), words.to_owned())
        }
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
