//! Established links: one for each account, and one tick for all of them.
//!
//! A link learns on its own tick whether mail waits. A timer for each would wake a processor once for each link and
//! tick, nearly always for nothing; so ticks lie on a common grid of phases, one task wakes for each phase that has
//! links, and only links for which mail waits are woken. A link's phase is drawn anew for every link, so that the ticks
//! of two of them tell nothing of each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailbox::relay_store::Account;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Most phases of a tick.
const PHASES_MAX: u32 = 256;
/// Least time between two phases: the resolution of timers is not much finer.
const PHASE_MIN: Duration = Duration::from_millis(10);

/// Established links: a second confirmed link of an account closes the older one.
pub(crate) struct Links {
    grid: Grid,
    register: Mutex<Register>,
    /// A phase has its first link.
    earlier: Notify,
}

#[derive(Default)]
struct Register {
    open: HashMap<Account, Open>,
    /// Accounts with a link, by its phase; no set is empty.
    phases: BTreeMap<u32, BTreeSet<Account>>,
}

struct Open {
    name: u64,
    phase: u32,
    bell: Arc<Notify>,
    /// Dropping it is what closes the link.
    _keep: oneshot::Sender<()>,
}

/// What the register tells a link.
pub(super) struct Line {
    /// Ends when a newer link takes the place.
    pub(super) superseded: oneshot::Receiver<()>,
    /// Rings on the link's tick if mail waits.
    pub(super) bell: Arc<Notify>,
}

/// Moments at which links are told: every phase once in each tick.
#[derive(Clone, Copy)]
struct Grid {
    origin: Instant,
    step: Duration,
    phases: u32,
}

impl Grid {
    fn new(origin: Instant, tick: Duration) -> Self {
        let phases = (tick.as_nanos() / PHASE_MIN.as_nanos()).clamp(1, PHASES_MAX.into()) as u32;
        let step = (tick / phases).max(Duration::from_millis(1));
        Grid { origin, step, phases }
    }

    /// Number of the last moment at or before `now`, counted from the origin on.
    fn passed(&self, now: Instant) -> u64 {
        let nanoseconds = now.saturating_duration_since(self.origin).as_nanos() / self.step.as_nanos();
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }

    fn phase(&self, moment: u64) -> u32 {
        (moment % u64::from(self.phases)) as u32
    }

    fn at(&self, moment: u64) -> Instant {
        let (rounds, phase) = (moment / u64::from(self.phases), self.phase(moment));
        let round = self.step * self.phases;
        self.origin + round.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX)) + self.step * phase
    }

    /// The first moment after `moment` whose phase is one of `phases`.
    fn next(&self, moment: u64, phases: &BTreeMap<u32, BTreeSet<Account>>) -> Option<u64> {
        let current = self.phase(moment);
        let begin = moment - u64::from(current);
        let later = phases.range(current + 1..).next();
        match later {
            Some((phase, _)) => Some(begin + u64::from(*phase)),
            None => {
                let (phase, _) = phases.first_key_value()?;
                Some(begin + u64::from(self.phases) + u64::from(*phase))
            }
        }
    }
}

impl Links {
    /// No link yet; every link ticks once in `tick`.
    pub(crate) fn new(tick: Duration) -> Self {
        Links {
            grid: Grid::new(Instant::now(), tick),
            register: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a link under a random name, from which its phase is drawn too.
    pub(super) fn enter(&self, account: Account, name: u64) -> Line {
        let (keep, superseded) = oneshot::channel();
        let bell = Arc::new(Notify::new());
        let phase = (name % u64::from(self.grid.phases)) as u32;
        let line = Line {
            superseded,
            bell: Arc::clone(&bell),
        };
        let open = Open {
            name,
            phase,
            bell,
            _keep: keep,
        };
        let mut register = self.register();
        let older = register.open.insert(account, open);
        if let Some(older) = older {
            register.leave_phase(account, older.phase);
        }
        let of_phase = register.phases.entry(phase).or_default();
        of_phase.insert(account);
        if of_phase.len() == 1 {
            self.earlier.notify_one();
        }
        line
    }

    pub(super) fn leave(&self, account: Account, name: u64) {
        let mut register = self.register();
        let phase = register.open.get(&account).filter(|open| open.name == name);
        if let Some(phase) = phase.map(|open| open.phase) {
            register.open.remove(&account);
            register.leave_phase(account, phase);
        }
    }

    /// Closes the link of an account, if it has one.
    pub(crate) fn end(&self, account: Account) {
        let mut register = self.register();
        if let Some(open) = register.open.remove(&account) {
            register.leave_phase(account, open.phase);
        }
    }

    /// Number of established links.
    pub(crate) fn count(&self) -> usize {
        self.register().open.len()
    }

    /// Rings for the links of each phase, when it comes, whose account `waits`. Does not end.
    pub(super) async fn tick(&self, waits: impl Fn(Account) -> bool) {
        let mut done = self.grid.passed(Instant::now());
        loop {
            let next = self.grid.next(done, &self.register().phases);
            let Some(next) = next else {
                self.earlier.notified().await;
                done = done.max(self.grid.passed(Instant::now()));
                continue;
            };
            tokio::select! {
                biased;
                () = self.earlier.notified() => continue,
                () = tokio::time::sleep_until(self.grid.at(next)) => {}
            }
            // After a pause of the machine each phase rings once, however many rounds it missed.
            let now = self.grid.passed(Instant::now()).max(next);
            let first = next.max(now.saturating_sub(u64::from(self.grid.phases) - 1));
            for moment in first..=now {
                self.ring(self.grid.phase(moment), &waits);
            }
            done = now;
        }
    }

    fn ring(&self, phase: u32, waits: &impl Fn(Account) -> bool) {
        let accounts: Vec<Account> = match self.register().phases.get(&phase) {
            Some(accounts) => accounts.iter().copied().collect(),
            None => return,
        };
        // The store is asked while no lock is held.
        for account in accounts.into_iter().filter(|account| waits(*account)) {
            if let Some(open) = self.register().open.get(&account) {
                open.bell.notify_one();
            }
        }
    }
}

impl Register {
    fn leave_phase(&mut self, account: Account, phase: u32) {
        if let Some(accounts) = self.phases.get_mut(&phase) {
            accounts.remove(&account);
            if accounts.is_empty() {
                self.phases.remove(&phase);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_newer_link_closes_the_older_and_only_that() {
        let links = Links::new(TICK);
        let mut older = links.enter(Account(1), 10).superseded;
        let mut other = links.enter(Account(2), 11).superseded;
        let mut newer = links.enter(Account(1), 12).superseded;
        assert!(matches!(older.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        links.leave(Account(1), 10);
        assert!(matches!(newer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert!(matches!(other.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert_eq!(links.count(), 2);
        links.leave(Account(1), 12);
        links.leave(Account(2), 11);
        assert_eq!(links.count(), 0);
        assert!(links.register().phases.is_empty());
    }

    #[tokio::test]
    async fn a_link_is_closed_with_its_account_and_no_other() {
        let links = Links::new(TICK);
        let mut over = links.enter(Account(1), 10).superseded;
        let mut other = links.enter(Account(2), 11).superseded;
        links.end(Account(1));
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(other.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        links.leave(Account(1), 10);
        assert_eq!((links.count(), links.register().phases.len()), (1, 1));
    }

    /// Moments, in milliseconds after the start, at which a link rings within `within`.
    async fn rings(line: &Line, within: Duration) -> Vec<u128> {
        let start = Instant::now();
        let mut rings = Vec::new();
        let until = start + within;
        while tokio::time::timeout_at(until, line.bell.notified()).await.is_ok() {
            rings.push(start.elapsed().as_millis());
        }
        rings
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_rings_once_a_tick_at_its_own_phase_and_only_if_mail_waits() {
        let links = Arc::new(Links::new(TICK));
        let ticking = Arc::clone(&links);
        // Nothing is open when ticking begins.
        let ticker = tokio::spawn(async move { ticking.tick(|account| account != Account(3)).await });
        tokio::time::sleep(Duration::from_millis(70_001)).await;
        let step = TICK.as_millis() / 256;
        let (first, second, silent) = (
            links.enter(Account(1), 5),
            links.enter(Account(2), 256 + 250),
            links.enter(Account(3), 5),
        );
        let (first, second, silent) = tokio::join!(
            rings(&first, TICK * 3),
            rings(&second, TICK * 3),
            rings(&silent, TICK * 3),
        );
        ticker.abort();
        for (phase, rings) in [(5, first), (250, second)] {
            assert_eq!(rings.len(), 3, "{rings:?}");
            for (earlier, later) in rings.iter().zip(&rings[1..]) {
                assert!((later - earlier).abs_diff(TICK.as_millis()) <= 2, "{rings:?}");
            }
            let at = (70_001 + rings[0]) % TICK.as_millis();
            assert!(
                at.abs_diff(u128::from(phase as u32) * TICK.as_millis() / 256) <= step,
                "{at}"
            );
        }
        assert!(silent.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_tick_has_one_phase_and_still_rings() {
        let links = Arc::new(Links::new(Duration::from_millis(1)));
        let ticking = Arc::clone(&links);
        let ticker = tokio::spawn(async move { ticking.tick(|_| true).await });
        let line = links.enter(Account(1), u64::MAX);
        assert!(rings(&line, Duration::from_millis(50)).await.len() >= 40);
        ticker.abort();
    }
}
