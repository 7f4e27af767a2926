//! Which delivery is next, and whereto there is room: the order of the exit in memory.
//!
//! ```text
//!            offer            next          enter, begin
//!   spool ─────────▶ ready ─────────▶ opened ─────────▶ under way ──▶ recorded
//!                      ▲                 │ the account has its share, or the host is full
//!                      └─ leave, end ─ waiting
//! ```
//!
//! Knows no store and no socket, and is told the time. A delivery is known from [`Queue::offer`] to [`Queue::recorded`], so that it
//! is never under way twice. Whose it is and where it goes shows only when it is opened: one whose account or host has all
//! that it may have waits for that, and holds up nothing behind it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use mailbox::relay_store::{Account, DeliveryId};
use tokio::time::{Duration, Instant};

use super::shares::{Load, Shares};

/// Deliveries read or under way at one time.
pub(super) const WORKERS_MAX: usize = 1_000;
/// Workers started at one time to look for what goes elsewhere.
const LOOKERS: usize = 16;
/// No delivery ended for so long: the usual workers are held up.
const HELD_UP: Duration = Duration::from_millis(10);
/// How often they look if deliveries do end. Seldom, for what then waits for its host has to be opened once more.
const LOOK: Duration = Duration::from_millis(100);
/// Deliveries under way to one next host, so that many that are slow leave room for the others. A delivery is under way
/// until its end is on the disk: a crash sends no more than these a second time, and a disk that takes nothing stops the
/// exit.
const HOST_MAX: usize = 20;
/// Deliveries asked of the spool at one time, beyond those that are known.
const BATCH: usize = 256;
/// Wait for each known delivery before the spool is asked again, as it shows all of them again: a long queue for one slow
/// host must not cost a processor. A short one need not wait.
const ASK_PAUSE: Duration = Duration::from_micros(4);
const KNOWN_FEW: usize = 1_000;
/// Connections kept for the next message, to all hosts.
const IDLE_MAX: usize = 100;
/// How long a connection is kept for the next message.
const IDLE: Duration = Duration::from_secs(5);

// A single slow host leaves most of the workers to others.
const _: () = assert!(HOST_MAX * 10 <= WORKERS_MAX);

/// See the module. `C` is a connection to a next host.
pub(super) struct Queue<C> {
    known: HashSet<DeliveryId>,
    ready: VecDeque<DeliveryId>,
    hosts: BTreeMap<String, NextHost<C>>,
    shares: Shares,
    idle_count: usize,
    workers: usize,
    /// Workers were started last.
    looked: Option<Instant>,
    /// A delivery ended last.
    ended: Option<Instant>,
    /// No question to the spool before.
    ask_at: Option<Instant>,
    stopped: bool,
}

struct NextHost<C> {
    under_way: usize,
    waiting: VecDeque<DeliveryId>,
    /// The latest last.
    idle: VecDeque<(Instant, C)>,
}

/// Whether a delivery may go to its host now.
pub(super) enum Berth<C> {
    /// It may, over this connection if there is one.
    Free(Option<C>),
    /// Its host is full. The queue keeps it.
    Full,
}

impl<C> Queue<C> {
    /// `all`: what the accounts share.
    pub(super) fn new(all: Load) -> Self {
        Queue {
            known: HashSet::new(),
            ready: VecDeque::new(),
            hosts: BTreeMap::new(),
            shares: Shares::new(all),
            idle_count: 0,
            workers: 0,
            looked: None,
            ended: None,
            ask_at: None,
            stopped: false,
        }
    }

    /// Whether deliveries are taken on whose end is not recorded.
    pub(super) fn is_busy(&self) -> bool {
        !self.known.is_empty()
    }

    /// How many of the deliveries that are due it wants to be shown, if any. The spool shows known ones as well.
    pub(super) fn wants(&mut self, now: Instant) -> Option<usize> {
        if !self.ready.is_empty() || self.stopped || self.asks_at().is_some_and(|at| now < at) {
            return None;
        }
        let known = self.known.len();
        let pause = ASK_PAUSE * u32::try_from(known).unwrap_or(u32::MAX);
        self.ask_at = (known > KNOWN_FEW).then(|| now + pause);
        Some(known + BATCH)
    }

    /// Before when it wants nothing.
    pub(super) fn asks_at(&self) -> Option<Instant> {
        self.ask_at
    }

    /// Takes in what is due, the longest due first.
    pub(super) fn offer(&mut self, due: impl IntoIterator<Item = DeliveryId>) {
        let fresh = due.into_iter().filter(|id| self.known.insert(*id));
        self.ready.extend(fresh);
    }

    /// How many workers to start for what nobody has opened.
    ///
    /// Ordinarily as many as one host bears, who go on with what is next. While they are held up, and every now and
    /// then, some more look for what goes elsewhere.
    pub(super) fn hire(&mut self, now: Instant) -> usize {
        let mut wanted = HOST_MAX.saturating_sub(self.workers);
        if wanted == 0 && self.looks_at().is_none_or(|at| at <= now) {
            wanted = LOOKERS;
        }
        if wanted > 0 {
            self.looked = Some(now);
        }
        let count = wanted.min(WORKERS_MAX - self.workers).min(self.unopened());
        self.workers += count;
        count
    }

    /// When more workers than usual may be started.
    pub(super) fn looks_at(&self) -> Option<Instant> {
        let looked = self.looked?;
        let moved = self.ended.map_or(looked, |ended| ended.max(looked));
        Some((moved + HELD_UP).min(looked + LOOK))
    }

    /// Deliveries that somebody could open.
    pub(super) fn unopened(&self) -> usize {
        if self.stopped { 0 } else { self.ready.len() }
    }

    /// The delivery to open next; without one, the worker that asks is dismissed.
    pub(super) fn next(&mut self) -> Option<DeliveryId> {
        let next = if self.stopped { None } else { self.ready.pop_front() };
        if next.is_none() {
            self.dismiss();
        }
        next
    }

    /// A worker goes.
    pub(super) fn dismiss(&mut self) {
        self.workers -= 1;
    }

    /// Takes of the account's share what an opened delivery needs. `false`: it has all that it may have for now, and the
    /// queue keeps the delivery.
    pub(super) fn enter(&mut self, account: Account, load: Load, id: DeliveryId) -> bool {
        self.shares.enter(account, load, id)
    }

    /// Gives back what [`Self::enter`] took. What waits for it is next; `false`: nothing does.
    pub(super) fn leave(&mut self, account: Account, load: Load) -> bool {
        let before = self.ready.len();
        for id in self.shares.leave(account, load) {
            self.ready.push_front(id);
        }
        self.ready.len() > before
    }

    /// A delivery that was called is gone: another one is called in its place.
    pub(super) fn pass_on(&mut self) {
        if let Some(id) = self.shares.call_next() {
            self.ready.push_front(id);
        }
    }

    /// Takes a place at `host` for an opened delivery.
    pub(super) fn begin(&mut self, host: &str, id: DeliveryId) -> Berth<C> {
        let next_host = self.hosts.entry(host.to_owned()).or_insert_with(|| NextHost {
            under_way: 0,
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
        });
        if next_host.under_way == HOST_MAX {
            next_host.waiting.push_back(id);
            return Berth::Full;
        }
        next_host.under_way += 1;
        // The latest: what a lull leaves over grows old and is closed.
        let kept = next_host.idle.pop_back().map(|(_, connection)| connection);
        self.idle_count -= usize::from(kept.is_some());
        Berth::Free(kept)
    }

    /// Whether no other delivery is under way to `host`.
    pub(super) fn is_alone(&self, host: &str) -> bool {
        self.hosts.get(host).is_none_or(|next_host| next_host.under_way <= 1)
    }

    /// Gives a place at `host` back, with a connection that can take another message. What waits for the host is next.
    ///
    /// Returns a connection that is not kept.
    pub(super) fn end(&mut self, host: &str, connection: Option<C>, now: Instant) -> Option<C> {
        let next_host = self.hosts.get_mut(host)?;
        self.ended = Some(now);
        next_host.under_way -= 1;
        // The last one leaves nobody behind who would wait for the next end.
        let called = if next_host.under_way == 0 {
            next_host.waiting.len()
        } else {
            1
        };
        for id in next_host.waiting.drain(..called.min(next_host.waiting.len())).rev() {
            self.ready.push_front(id);
        }
        let is_kept = self.idle_count < IDLE_MAX && !self.stopped;
        let surplus = match connection {
            Some(connection) if is_kept => {
                next_host.idle.push_back((now, connection));
                self.idle_count += 1;
                None
            }
            surplus => surplus,
        };
        self.forget_if_unused(host);
        surplus
    }

    /// The end of a delivery's try is on the disk.
    pub(super) fn recorded(&mut self, id: DeliveryId) {
        self.known.remove(&id);
    }

    /// Connections kept for too long, to be closed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<C> {
        let mut expired = Vec::new();
        for next_host in self.hosts.values_mut() {
            while next_host.idle.front().is_some_and(|(since, _)| *since + IDLE <= now) {
                expired.extend(next_host.idle.pop_front().map(|(_, connection)| connection));
            }
        }
        self.idle_count -= expired.len();
        self.hosts.retain(|_, next_host| next_host.is_used());
        expired
    }

    /// When the next kept connection is to be closed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.hosts.values().filter_map(|next_host| next_host.idle.front());
        oldest.map(|(since, _)| *since + IDLE).min()
    }

    /// Begins nothing more, and gives back all connections that are kept.
    pub(super) fn stop(&mut self) -> Vec<C> {
        self.stopped = true;
        self.idle_count = 0;
        let kept = self.hosts.values_mut().flat_map(|next_host| next_host.idle.drain(..));
        kept.map(|(_, connection)| connection).collect()
    }

    fn forget_if_unused(&mut self, host: &str) {
        if self.hosts.get(host).is_some_and(|next_host| !next_host.is_used()) {
            self.hosts.remove(host);
        }
    }
}

impl<C> NextHost<C> {
    fn is_used(&self) -> bool {
        self.under_way > 0 || !self.idle.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> impl Iterator<Item = DeliveryId> {
        range.map(DeliveryId)
    }

    /// A queue of `count` deliveries due, and one worker.
    fn queue(count: u64) -> Queue<&'static str> {
        let mut queue = Queue::new(Load::new(WORKERS_MAX, 0, 0));
        queue.workers = 1;
        queue.offer(ids(0..count));
        queue
    }

    /// Opens all that is ready and takes it to `host`; how many have to wait.
    fn open_all(queue: &mut Queue<&'static str>, host: &str) -> usize {
        let mut waiting = 0;
        while queue.unopened() > 0 {
            let id = queue.next().unwrap();
            waiting += usize::from(matches!(queue.begin(host, id), Berth::Full));
        }
        waiting
    }

    #[test]
    fn what_is_due_comes_in_order_and_once() {
        let mut queue = queue(3);
        assert!(queue.next() == Some(DeliveryId(0)));
        queue.offer(ids(0..5));
        for id in 1..5 {
            assert!(queue.next() == Some(DeliveryId(id)));
        }
        assert!(queue.unopened() == 0);
        queue.recorded(DeliveryId(2));
        queue.offer(ids(0..5));
        assert!(queue.next() == Some(DeliveryId(2)), "a retry is offered again");
        assert!(queue.next().is_none());
    }

    #[test]
    fn a_full_host_holds_up_no_other() {
        let mut queue = queue(100);
        assert_eq!(open_all(&mut queue, "slow"), 100 - HOST_MAX);
        assert!(matches!(queue.begin("other", DeliveryId(200)), Berth::Free(None)));
        queue.end("slow", None, Instant::now());
        assert!(
            queue.next() == Some(DeliveryId(HOST_MAX as u64)),
            "the first that waited"
        );
        assert_eq!(queue.unopened(), 0);
    }

    #[test]
    fn nobody_waits_for_a_host_that_is_not_busy() {
        let mut queue = queue(100);
        open_all(&mut queue, "host");
        for _ in 0..HOST_MAX {
            queue.end("host", None, Instant::now());
        }
        let order: Vec<u64> = (0..queue.unopened()).map(|_| queue.next().unwrap().0).collect();
        assert_eq!(order.len(), 100 - HOST_MAX);
        assert!(queue.hosts.is_empty());
    }

    #[test]
    fn a_host_is_forgotten_when_nothing_is_left_of_it() {
        let mut queue = queue(0);
        let now = Instant::now();
        for host in 0..1_000 {
            let host = format!("{host}.example:25");
            queue.begin(&host, DeliveryId(1));
            queue.end(&host, None, now);
        }
        assert!(queue.hosts.is_empty());
    }

    #[test]
    fn workers_are_few_until_they_are_held_up() {
        let mut queue: Queue<()> = Queue::new(Load::default());
        let mut now = Instant::now();
        queue.offer(ids(0..10_000));
        assert_eq!(queue.hire(now), HOST_MAX);
        assert_eq!(queue.hire(now), 0);
        now += HELD_UP;
        assert_eq!(queue.hire(now), LOOKERS);
        for _ in 0..WORKERS_MAX {
            now += HELD_UP;
            queue.hire(now);
        }
        assert_eq!(queue.workers, WORKERS_MAX);
        assert!(queue.looks_at().unwrap() > now, "no loop without a sleep");
        queue.dismiss();
        assert_eq!(queue.hire(now + HELD_UP), 1);
    }

    #[test]
    fn workers_of_a_quick_host_are_joined_seldom() {
        let mut queue: Queue<()> = Queue::new(Load::default());
        let start = Instant::now();
        queue.offer(ids(0..10_000));
        queue.hire(start);
        let mut hired = 0;
        for millisecond in 0..1_000 {
            let now = start + Duration::from_millis(millisecond);
            let id = queue.next().unwrap();
            queue.begin("quick", id);
            queue.end("quick", None, now);
            let lookers = queue.hire(now);
            hired += lookers;
            (0..lookers).for_each(|_| queue.dismiss());
        }
        assert!((5 * LOOKERS..=10 * LOOKERS).contains(&hired), "{hired}");
    }

    #[test]
    fn the_spool_is_asked_when_nothing_is_ready_and_not_too_often() {
        let mut queue = queue(0);
        let now = Instant::now();
        assert_eq!(queue.wants(now), Some(BATCH));
        queue.offer(ids(0..10_000));
        assert_eq!(queue.wants(now), None);
        open_all(&mut queue, "slow");
        assert_eq!(queue.wants(now), Some(10_000 + BATCH));
        assert_eq!(queue.wants(now), None);
        let later = queue.asks_at().unwrap();
        assert!(later == now + 10_000 * ASK_PAUSE);
        assert_eq!(queue.wants(later), Some(10_000 + BATCH));
    }

    #[test]
    fn kept_connections_are_few_and_grow_old() {
        let mut queue = queue(0);
        let now = Instant::now();
        let hosts: Vec<String> = (0..2 * IDLE_MAX).map(|host| format!("{host}.example:25")).collect();
        for host in &hosts {
            queue.begin(host, DeliveryId(1));
        }
        let surplus = hosts
            .iter()
            .filter_map(|host| queue.end(host, Some("open"), now))
            .count();
        assert_eq!(surplus, IDLE_MAX);
        assert!(queue.next_expiry() == Some(now + IDLE));
        assert!(queue.expire(now + IDLE / 2).is_empty());
        assert_eq!(queue.expire(now + IDLE).len(), IDLE_MAX);
        assert!(queue.next_expiry().is_none() && queue.hosts.is_empty());
    }

    #[test]
    fn the_latest_connection_is_used_first() {
        let mut queue = queue(0);
        let now = Instant::now();
        queue.begin("host", DeliveryId(1));
        queue.begin("host", DeliveryId(2));
        queue.end("host", Some("older"), now);
        queue.end("host", Some("newer"), now);
        for kept in [Some("newer"), Some("older"), None] {
            let Berth::Free(connection) = queue.begin("host", DeliveryId(3)) else {
                panic!("the host is not full");
            };
            assert_eq!(connection, kept);
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_stops_the_exit_and_goes_on_with_it() {
        let mut queue = queue(1_000);
        // Nothing is recorded, so no place is given back.
        for _ in 0..HOST_MAX {
            let id = queue.next().expect("ready");
            assert!(matches!(queue.begin("host", id), Berth::Free(None)));
        }
        let waiting = queue.next().expect("ready");
        assert!(matches!(queue.begin("host", waiting), Berth::Full));
        queue.recorded(DeliveryId(0));
        queue.end("host", None, Instant::now());
        assert!(queue.next() == Some(waiting), "what waits for the host goes first");
        assert!(matches!(queue.begin("host", waiting), Berth::Free(None)));
        assert!(queue.stop().is_empty());
        assert!(queue.next().is_none());
    }
}
