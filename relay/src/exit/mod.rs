//! Out of the spool: each due delivery to the next host, one recipient a transaction.
//!
//! What a delivery is was fixed when it was accepted; here is only when and whereto. A try that ends without a durable
//! record is tried again with the same bytes: the one duplicate that SMTP cannot avoid.

mod channel;
mod ending;
mod exchangers;
mod queue;
mod report;
mod security;
mod shares;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keypacks::deposit::class_bytes;
use mailbox::relay_store::{Delivery, DeliveryId, Outcome};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{self, Action};
use smtp_bridge::net::stopped;
use smtp_bridge::smtp::{DeliveryResult, Domain, Enhanced, Mailbox, ReversePath};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use self::channel::{Channel, Line, Parcel, Sent, send};
use self::ending::record;
use self::exchangers::{LOOP, Shunned, Step, Way};
use self::queue::{Berth, Queue, WORKERS_MAX};
use self::report::{Cause, report};
use self::security::{Security, Tls};
use self::shares::Load;
use crate::config::{Route, host_of};
use crate::peers::{self, Handed, Place as Whereabouts};
use crate::waiting::Verdict;
use crate::{FAREWELL_STEP, Relay};

pub(crate) use self::security::Securities;
pub use self::security::SecurityError;

/// Longest sleep when the store cannot say when the next delivery is due.
const BLIND: Duration = Duration::from_secs(5);
/// Pause before a delivery is looked at again that the operator has in hand.
const HELD: Duration = Duration::from_millis(50);
/// How long a try may look for an exchanger to begin with: name servers and hosts are of the recipient's choice.
const SEEK_MAX: Duration = Duration::from_secs(300);
/// Wait before a delivery is looked at again that could not be read, or whose failure could not be told, in seconds.
const LATER_S: u64 = 600;

/// What the queue shows of a delivery that a peer's outbox has.
const HANDED_OVER: Enhanced = Enhanced::new(2, 0, 0);

/// A place at a next host, kept until the end of its delivery is on the disk, and the connection if it can go on.
struct Place {
    host: String,
    channel: Option<Channel>,
}

/// How a try ended.
struct Tried {
    result: DeliveryResult,
    /// The host that spoke last, where it is one that the world can look up.
    remote: Option<String>,
    /// The place at its host that the delivery still has.
    place: Option<Place>,
    /// Another relay has it, and delivers it.
    is_passed_on: bool,
    /// It stays in the spool however long: it is in that relay's outbox and goes another way if need be, or nobody knows yet
    /// whether it is.
    is_kept: bool,
}

impl Tried {
    /// Whether it is in a peer's outbox and in the spool.
    fn is_handed_over(&self) -> bool {
        self.is_kept && self.result == DeliveryResult::Delivered
    }
}

impl From<DeliveryResult> for Tried {
    fn from(result: DeliveryResult) -> Self {
        Tried {
            result,
            remote: None,
            place: None,
            is_passed_on: false,
            is_kept: false,
        }
    }
}

/// What the workers share.
struct Exit<S> {
    relay: Arc<Relay<S>>,
    queue: Mutex<Queue<Channel>>,
    shunned: Mutex<Shunned>,
    securities: Securities,
    /// Something changed that the loop sleeps on.
    wake: Notify,
}

/// Delivers what is due until `stop` turns true.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, securities: Securities, mut stop: watch::Receiver<bool>) {
    let mut changed = relay.store.spool_changed();
    let (small, large) = relay.budget.for_exit();
    let exit = Arc::new(Exit {
        relay,
        queue: Mutex::new(Queue::new(Load::new(WORKERS_MAX, small, large))),
        shunned: Mutex::default(),
        securities,
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
    tokio::time::sleep(FAREWELL_STEP).await;
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

    fn shunned(&self) -> MutexGuard<'_, Shunned> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// One try, if the delivery's account may have one now. `false`: its host is full, the delivery waits in the queue, and
    /// nothing calls for this worker.
    async fn deliver(&self, id: DeliveryId) -> bool {
        let relay = &self.relay;
        let Some(hold) = relay.waiting.hold(id) else {
            // The operator ends it just now. Until then it stays due, and would be looked at without a pause.
            tokio::time::sleep(HELD).await;
            self.queue().recorded(id);
            self.queue().pass_on();
            return true;
        };
        let Ok(Some(account)) = relay.store.delivery_account(id) else {
            self.record(id, self.later()).await;
            self.queue().pass_on();
            return true;
        };
        // Sealed as it is kept, and opened.
        let bytes = 2 * class_bytes(relay.store.delivery_kilobytes(id).unwrap_or_default());
        let load = Load::of(bytes);
        if !self.queue().enter(account, load, id) {
            return true;
        }
        let tried = self.try_with_room(id, bytes).await;
        let Some((outcome, place)) = tried else {
            // Who is called is not left without a worker.
            return self.queue().leave(account, load);
        };
        self.record(id, outcome).await;
        drop(hold);
        self.queue().leave(account, load);
        if let Some(Place { host, channel }) = place {
            self.leave(&host, channel).await;
        }
        true
    }

    /// One try, and what follows from it. `None`: its host is full.
    async fn try_with_room(&self, id: DeliveryId, bytes: usize) -> Option<(Outcome, Option<Place>)> {
        let relay = &self.relay;
        // Before it is read: many large deliveries would be more than all the memory for mail.
        let room = relay.budget.take_for_exit(bytes).await;
        let Ok(Some(mut delivery)) = relay.store.delivery(id) else {
            return Some((self.later(), None));
        };
        if let Some(date) = delivery.date {
            message::redate(&mut delivery.message, date);
        }
        let verdict = relay.waiting.verdict(id);
        let is_told_now = verdict.is_some();
        let tried = match verdict {
            Some(Verdict { result, remote }) => Tried {
                remote,
                ..result.into()
            },
            None => self.try_once(id, &delivery).await?,
        };
        if let DeliveryResult::Transient { code, status } = tried.result {
            relay.waiting.deferred(id, code, status);
        }
        let outcome = judge(relay, &delivery, &tried);
        let outcome = match is_told_now {
            true => outcome,
            false => self.put_off(&delivery, &tried, outcome),
        };
        match outcome {
            Outcome::Delivered | Outcome::Receipted { .. } => relay.metrics.delivered.count(),
            Outcome::Retry { .. } if tried.is_handed_over() => relay.waiting.deferred(id, None, HANDED_OVER),
            Outcome::Retry { .. } | Outcome::Delayed { .. } => relay.metrics.deferred.count(),
            Outcome::Failed { .. } => relay.metrics.failed.count(),
        }
        drop(room);
        Some((outcome, tried.place))
    }

    /// See [`report::put_off`].
    fn put_off(&self, delivery: &Delivery, tried: &Tried, outcome: Outcome) -> Outcome {
        let relay = &self.relay;
        let config = relay.config.mix.unwrap_or_default();
        let mut random = || u64::from_le_bytes(relay.host.random());
        let now = relay.host.clock.unix_seconds();
        report::put_off(outcome, delivery.mix.map(|_| &config), now, &mut random).unwrap_or_else(|at| {
            let verdict = Verdict {
                result: tried.result,
                remote: tried.remote.clone(),
            };
            if let DeliveryResult::Permanent { code, status } = tried.result {
                relay.waiting.deferred(delivery.id, code, status);
            }
            relay.waiting.judged(delivery.id, verdict);
            Outcome::Retry { at }
        })
    }

    /// What is gone meanwhile, or damaged: as long as it is due, it would be looked at without end.
    fn later(&self) -> Outcome {
        let at = self.relay.host.clock.unix_seconds() + LATER_S;
        Outcome::Retry { at }
    }

    /// Gives a place at a host back.
    async fn leave(&self, host: &str, channel: Option<Channel>) {
        let surplus = self.queue().end(host, channel, Instant::now());
        close(surplus.into_iter().collect()).await;
    }

    /// How it ended. `None`: its host is full.
    async fn try_once(&self, id: DeliveryId, delivery: &Delivery) -> Option<Tried> {
        let relay = &self.relay;
        // Both were checked when the delivery was accepted; the route can have gone since.
        let (Some(domain), Some(reverse_path), Some(recipient)) = (
            Domain::parse(&relay.config.domain),
            ReversePath::parse(&delivery.reverse_path),
            Mailbox::parse(&delivery.recipient),
        ) else {
            let permanent = DeliveryResult::Permanent {
                code: None,
                status: Enhanced::new(5, 1, 3),
            };
            return Some(permanent.into());
        };
        let parcel = Parcel {
            domain: &domain,
            reverse_path: &reverse_path,
            recipient: &recipient,
            message: &delivery.message,
        };
        let ways = relay.config.ways(recipient.domain().as_str());
        let handed_over = || Tried {
            is_passed_on: true,
            is_kept: ways.len() > 1,
            ..DeliveryResult::Delivered.into()
        };
        match peers::place(relay, id, &ways).await {
            Whereabouts::Spool => {}
            Whereabouts::Peer => return Some(handed_over()),
            Whereabouts::Unclear => {
                return Some(Tried {
                    is_kept: true,
                    ..peers::NOT_NOW.into()
                });
            }
        }
        // A way that may work later keeps it from being given up.
        let (mut later, mut never) = (None, None);
        for way in &ways {
            let name = match way {
                Route::Own(at) => return self.to_fixed(id, at, &self.securities.own(), &parcel).await,
                Route::Host(at) => return self.to_fixed(id, at, &self.securities.of(at), &parcel).await,
                Route::Exchangers(to) => return self.to_exchangers(id, to, &parcel).await,
                Route::Peer(name) => name,
            };
            match peers::hand_over(relay, name, delivery).await {
                Handed::Taken => return Some(handed_over()),
                Handed::Stays(result) => return Some(result.into()),
                Handed::Passed(result @ DeliveryResult::Permanent { .. }) => never = Some(result),
                Handed::Passed(result) => later = Some(result),
            }
        }
        let nowhere = DeliveryResult::Transient {
            code: None,
            status: Enhanced::new(4, 4, 4),
        };
        Some(later.or(never).unwrap_or(nowhere).into())
    }

    /// To the host of a route, always and alone.
    async fn to_fixed(&self, id: DeliveryId, at: &str, security: &Security, parcel: &Parcel<'_>) -> Option<Tried> {
        // No line that was opened under other demands is taken, though it lead to the same address.
        let place = format!("route {at}");
        let Berth::Free(kept) = self.queue().begin(&place, id) else {
            return None;
        };
        let line = Line {
            dial: || self.relay.host.dial(at),
            host: host_of(at).unwrap_or(at),
            security,
            is_own: true,
        };
        let (sent, channel) = send(kept, &line, parcel).await;
        let result = match sent {
            Sent::Judged(result) | Sent::Unreached(result) => result,
            Sent::Own => LOOP,
        };
        let place = Place { host: place, channel };
        Some(Tried {
            place: Some(place),
            ..result.into()
        })
    }

    /// To the first of a domain's exchangers that can be spoken with.
    async fn to_exchangers(&self, id: DeliveryId, domain: &str, parcel: &Parcel<'_>) -> Option<Tried> {
        let host = &self.relay.host;
        let security = self.securities.of(domain);
        let deadline = Instant::now() + SEEK_MAX;
        let too_long = || DeliveryResult::Transient {
            code: None,
            status: Enhanced::new(4, 4, 1),
        };
        let mut way = match timeout_at(deadline, Way::of(domain, &self.relay.config, host)).await {
            Ok(Ok(way)) => way,
            Ok(Err(result)) => return Some(result.into()),
            Err(_) => return Some(too_long().into()),
        };
        let mut latest = None;
        loop {
            let target = match timeout_at(deadline, way.next()).await {
                Ok(Step::Dial(target)) => target,
                Ok(Step::End(result)) => return Some(latest.unwrap_or_else(|| result.into())),
                Err(_) => return Some(latest.unwrap_or_else(|| too_long().into())),
            };
            // One provider serves many domains under many names: its places are counted where they are. Lines are shared
            // among those alone that demand the same of them.
            let place = match security.tls {
                Tls::Required(_) => format!("{domain} {} {}", target.address, target.host),
                Tls::Offered(_) => target.address.to_string(),
                Tls::Never => format!("clear {}", target.address),
            };
            let tried = |result| Tried {
                remote: Some(target.host.clone()),
                ..Tried::from(result)
            };
            let verdict = self.shunned().verdict(&place, Instant::now());
            if let Some(result) = verdict {
                latest = Some(tried(result));
                continue;
            }
            let Berth::Free(kept) = self.queue().begin(&place, id) else {
                return None;
            };
            let line = Line {
                dial: || host.net.dial(target.address),
                host: &target.host,
                security: &security,
                is_own: false,
            };
            let (sent, channel) = send(kept, &line, parcel).await;
            match sent {
                Sent::Judged(result) => {
                    self.shunned().remove(&place);
                    let place = Some(Place { host: place, channel });
                    return Some(Tried { place, ..tried(result) });
                }
                Sent::Unreached(result) => {
                    // A host that takes others meanwhile has its places full, and no more.
                    if self.queue().is_alone(&place) {
                        let wait = self.relay.config.retry_s.first().copied().unwrap_or(u64::MAX);
                        let wait = Duration::from_secs(wait);
                        self.shunned().add(&place, result, Instant::now(), wait);
                    }
                    latest = Some(tried(result));
                }
                Sent::Own => way.cut(),
            }
            self.leave(&place, channel).await;
        }
    }

    /// Returns once the end of a try is on the disk.
    async fn record(&self, id: DeliveryId, outcome: Outcome) {
        let relay = &self.relay;
        let is_gone = matches!(outcome, Outcome::Delivered | Outcome::Receipted { .. });
        let is_end = !matches!(outcome, Outcome::Retry { .. } | Outcome::Delayed { .. });
        let now = || relay.host.clock.unix_seconds();
        let is_recorded = record(outcome, now, |outcome| relay.store.finish(id, outcome)).await;
        // A verdict that could not be told yet stays: nobody is asked again for it.
        if is_end && is_recorded {
            relay.waiting.ended(id);
        }
        self.queue().recorded(id);
        // Another try has a time that the loop has to know.
        if !is_gone {
            self.wake.notify_one();
        }
    }
}

/// Tells the sender of a delivery that is gone from the spool and came to its end elsewhere.
pub(crate) async fn tell_of_failure<S: RelayStore>(
    relay: &Relay<S>,
    delivery: &Delivery,
    result: DeliveryResult,
) -> Result<(), StoreError> {
    let cause = Cause::Answer { result, remote: None };
    match report(relay, delivery, Action::Failed, &cause) {
        Some(order) => relay.store.report(order).await,
        None => Ok(()),
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
        Ok(Some(delivery)) => report(relay, &delivery, Action::Failed, &Cause::Removed),
        Ok(None) => return Ok(false),
        Err(StoreError::Corrupt) => None,
        Err(error) => return Err(error),
    };
    relay.store.finish(id, Outcome::Failed { report }).await?;
    relay.metrics.failed.count();
    relay.waiting.ended(id);
    Ok(true)
}

fn judge<S: RelayStore>(relay: &Relay<S>, delivery: &Delivery, tried: &Tried) -> Outcome {
    let cause = Cause::Answer {
        result: tried.result,
        remote: tried.remote.as_deref(),
    };
    let told = |action| report(relay, delivery, action, &cause);
    let waits = &relay.config.retry_s;
    let wait = match (waits.get(delivery.attempts as usize), waits.last()) {
        (None, last) if tried.is_kept => Some(last.copied().unwrap_or(LATER_S)),
        (wait, _) => wait.copied(),
    };
    if tried.is_handed_over() {
        // Nothing is told of it meanwhile, as of what is gone. It is made due when the peer is passed over.
        return Outcome::Retry {
            at: relay.host.clock.unix_seconds() + wait.unwrap_or(LATER_S),
        };
    }
    let (DeliveryResult::Transient { .. }, Some(wait)) = (tried.result, wait) else {
        return match tried.result {
            // Of what a peer passes on the last relay tells.
            DeliveryResult::Delivered if tried.is_passed_on => Outcome::Delivered,
            DeliveryResult::Delivered => {
                told(Action::Relayed).map_or(Outcome::Delivered, |report| Outcome::Receipted { report })
            }
            DeliveryResult::Transient { .. } | DeliveryResult::Permanent { .. } => Outcome::Failed {
                report: told(Action::Failed),
            },
        };
    };
    let now = relay.host.clock.unix_seconds();
    let at = now + wait;
    let is_late = now.saturating_sub(delivery.accepted) >= relay.config.delay_notice_s;
    if is_late && !delivery.is_delay_told {
        return Outcome::Delayed {
            at,
            report: told(Action::Delayed),
        };
    }
    Outcome::Retry { at }
}
