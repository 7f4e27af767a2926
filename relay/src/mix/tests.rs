//! Statements about the pool, with seeded randomness and a clock that is a number.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mailbox::StoreError;
use mailbox::relay_store::{DeliveryId, MixTally, Pooled};
use mailbox::request::Profile;
use proptest::prelude::*;
use smtp_bridge::net::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

use super::forecast::forecast;
use super::pool::{Bounds, Pool, below};
use super::{Stay, commit, offer};

const BOUNDS: Bounds = Bounds {
    round_s: 300,
    least: 20,
    least_paranoid: 60,
    rounds_paranoid: 3,
    percent: 50,
    hold_s: 86_400,
    coarse_s: 600,
};

/// A generator for tests, splitmix64.
fn seeded(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A pool beside the store that it is shown, and what is known of every delivery.
struct Simulation<R> {
    bounds: Bounds,
    pool: Pool,
    there: BTreeMap<DeliveryId, Pooled>,
    arrived: BTreeMap<DeliveryId, (u64, u64)>,
    now: u64,
    round: u64,
    random: R,
    tally: MixTally,
}

impl<R: FnMut() -> u64> Simulation<R> {
    fn new(bounds: Bounds, random: R) -> Self {
        let now = 1_000_000;
        let mut pool = Pool::new(bounds, now);
        pool.show(&[], now);
        Simulation {
            bounds,
            pool,
            there: BTreeMap::new(),
            arrived: BTreeMap::new(),
            now,
            round: 0,
            random,
            tally: MixTally::default(),
        }
    }

    /// Something comes; its name is random, as in the store.
    fn arrive(&mut self, profile: Profile) -> DeliveryId {
        let id = DeliveryId((self.random)());
        let accepted = self.now - self.now % 600;
        self.there.insert(id, Pooled { id, profile, accepted });
        self.arrived.insert(id, (self.now, self.round));
        id
    }

    fn arrive_all(&mut self, profile: Profile, count: u64) {
        (0..count).for_each(|_| {
            self.arrive(profile);
        });
    }

    /// The next round; who leaves.
    fn round(&mut self) -> Vec<DeliveryId> {
        self.now += self.bounds.round_s;
        self.pool
            .show(&self.there.values().copied().collect::<Vec<_>>(), self.now);
        let drawn = self.pool.draw(self.now, &mut self.random);
        let leaving = drawn.leaving.clone();
        self.tally.add(&drawn.tally.kept());
        self.pool.applied(drawn);
        self.round += 1;
        for id in &leaving {
            assert!(self.there.remove(id).is_some(), "nothing leaves twice");
        }
        leaving
    }

    /// The process ends and begins again: what it knew beside the store is gone.
    fn restart(&mut self) {
        self.pool = Pool::new(self.bounds, self.now);
        self.pool
            .show(&self.there.values().copied().collect::<Vec<_>>(), self.now);
    }

    /// A round that the store could not take.
    fn failed_round(&mut self) {
        self.now += self.bounds.round_s;
        self.pool
            .show(&self.there.values().copied().collect::<Vec<_>>(), self.now);
        self.pool.draw(self.now, &mut self.random);
    }
}

#[test]
fn a_number_below_a_bound_is_uniform() {
    let mut random = seeded(1);
    let mut counts = [0_u32; 7];
    for _ in 0..70_000 {
        counts[below(7, &mut random) as usize] += 1;
    }
    assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    // 2^64 is no multiple of 3: the last number is drawn again.
    let mut drawn = [u64::MAX, 4].into_iter();
    assert_eq!(below(3, &mut || drawn.next().expect("two")), 1);
}

#[test]
fn so_many_stay_and_no_more_than_the_part_leaves() {
    let mut few = Simulation::new(BOUNDS, seeded(2));
    few.arrive_all(Profile::Mixed, 20);
    assert!(few.round().is_empty(), "N stay");
    few.arrive(Profile::Mixed);
    assert_eq!(few.round().len(), 1);

    let mut flood = Simulation::new(BOUNDS, seeded(3));
    flood.arrive_all(Profile::Mixed, 1_000);
    assert_eq!(flood.round().len(), 500, "one that floods it does not empty it");
}

#[test]
fn who_is_drawn_does_not_depend_on_who_came_first() {
    let mut first_left = 0;
    for seed in 0..4_000 {
        let mut pool = Simulation::new(Bounds { percent: 100, ..BOUNDS }, seeded(seed));
        let first = pool.arrive(Profile::Mixed);
        pool.arrive_all(Profile::Mixed, 39);
        first_left += u32::from(pool.round().contains(&first));
    }
    // Half of forty leave: 2,000 in the mean, with a deviation of 32.
    assert!((1_840..2_160).contains(&first_left), "{first_left}");
}

#[test]
fn paranoid_stays_its_rounds_among_more() {
    let mut pool = Simulation::new(BOUNDS, seeded(4));
    let ids: BTreeSet<_> = (0..80).map(|_| pool.arrive(Profile::Paranoid)).collect();
    for _ in 0..3 {
        assert!(pool.round().is_empty());
    }
    assert_eq!(pool.round().len(), 20, "60 stay");
    pool.restart();
    pool.arrive_all(Profile::Paranoid, 40);
    for _ in 0..3 {
        assert!(pool.round().is_empty(), "rounds before a restart do not count");
    }
    assert_eq!(pool.round().len(), 40);
    assert!(ids.iter().any(|id| pool.there.contains_key(id)));
}

#[test]
fn what_is_held_for_long_leaves_with_its_like_and_is_counted() {
    let mut pool = Simulation::new(BOUNDS, seeded(5));
    for _ in 0..5 {
        pool.arrive(Profile::Mixed);
        pool.round();
    }
    let mut left = Vec::new();
    let mut waits = Vec::new();
    while waits.len() < 5 {
        let leaving = pool.round();
        if !leaving.is_empty() {
            left.push(leaving.len());
        }
        waits.extend(leaving.iter().map(|id| pool.now - pool.arrived[id].0));
    }
    assert!(
        left.len() <= 2,
        "together, but where a part of the day ends among them: {left:?}"
    );
    assert!(
        waits.iter().all(|wait| (64_800..=86_400 + 600).contains(wait)),
        "{waits:?}"
    );
    assert_eq!((pool.tally.left, pool.tally.held), (5, 5));
    assert!(pool.tally.millibits <= 5 * 2_322, "no more than log2 5 each");
}

#[test]
fn a_restart_in_the_middle_of_a_part_singles_out_nobody() {
    let mut pool = Simulation::new(BOUNDS, seeded(7));
    let part = BOUNDS.hold_s / 4;
    // Half past the first part after a whole longest stay, with fewer than N there.
    let bounds = Bounds {
        least: 1_000,
        least_paranoid: 1_000,
        ..BOUNDS
    };
    (pool.bounds, pool.pool) = (bounds, Pool::new(bounds, pool.now));
    pool.pool.show(&[], pool.now);
    let until = (pool.now / part + 6) * part + part / 2;
    while pool.now < until {
        pool.arrive(Profile::Mixed);
        pool.round();
    }
    pool.restart();
    let end = until - until % part + part;
    let mut rounds = 0;
    while pool.now + BOUNDS.round_s < end {
        pool.arrive(Profile::Mixed);
        assert!(pool.round().is_empty(), "{} s before the part ends", end - pool.now);
        rounds += 1;
    }
    assert!(rounds > 30);
    assert!(pool.round().len() > 60, "all of a part together");
}

#[test]
fn rounds_that_come_to_nothing_let_nobody_leave_sooner() {
    // Fewer than N: what leaves does so because it was held for long.
    let bounds = Bounds {
        least: 1_000,
        least_paranoid: 1_000,
        ..BOUNDS
    };
    let mut pool = Simulation::new(bounds, seeded(9));
    // Half a day without a commit, and mail that comes all the while.
    for _ in 0..144 {
        pool.arrive(Profile::Mixed);
        pool.failed_round();
    }
    let mut waits = Vec::new();
    while waits.len() < 144 {
        let leaving = pool.round();
        waits.extend(leaving.iter().map(|id| pool.now - pool.arrived[id].0));
    }
    let least = bounds.hold_s * 3 / 4 - bounds.round_s;
    assert!(waits.iter().all(|wait| *wait >= least), "{:?}", waits.iter().min());

    // Rounds that were none do not count for those that stay for some.
    let mut pool = Simulation::new(BOUNDS, seeded(10));
    pool.arrive_all(Profile::Paranoid, 200);
    (0..10).for_each(|_| pool.failed_round());
    for _ in 0..BOUNDS.rounds_paranoid {
        assert!(pool.round().is_empty());
    }
    assert!(!pool.round().is_empty());
}

/// A clock that tests set.
struct Set(AtomicU64);

impl Clock for Set {
    fn unix_seconds(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_neither_empties_the_pool_nor_holds_anything() {
    let clock = Set(AtomicU64::new(1_000_000));
    for wall in [0, 1_000_000 + 10 * BOUNDS.hold_s] {
        clock.0.store(1_000_000, Ordering::SeqCst);
        let stay = Stay::begin(&clock);
        let mut pool = Pool::new(BOUNDS, stay.now());
        pool.show(&[], stay.now());
        let one = Pooled {
            id: DeliveryId(1),
            profile: Profile::Mixed,
            accepted: 999_600,
        };
        clock.0.store(wall, Ordering::SeqCst);
        let mut waited = 0;
        loop {
            tokio::time::advance(Duration::from_secs(BOUNDS.round_s)).await;
            waited += BOUNDS.round_s;
            pool.show(&[one], stay.now());
            let drawn = pool.draw(stay.now(), &mut seeded(8));
            if !drawn.leaving.is_empty() {
                break;
            }
            assert!(waited <= BOUNDS.hold_s);
            pool.applied(drawn);
        }
        assert!(waited >= BOUNDS.hold_s * 3 / 4, "{waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_that_the_store_could_not_take_is_offered_again_until_the_next() {
    let (stopping, mut stop) = watch::channel(false);
    let next = Instant::now() + Duration::from_secs(300);
    let mut answers = [
        Err(StoreError::Busy),
        Err(StoreError::Unavailable),
        Err(StoreError::Full),
        Err(StoreError::Unknown),
        Ok(()),
    ]
    .into_iter();
    let took = commit(|| ready(answers.next().expect("no more")), next, &mut stop);
    assert_eq!(took.await, Ok(()));
    assert_eq!(answers.next(), None);

    let mut tries = 0;
    let busy = || {
        tries += 1;
        ready(Err(StoreError::Busy))
    };
    assert_eq!(commit(busy, next, &mut stop).await, Err(StoreError::Busy));
    assert!(Instant::now() < next && tries > 290, "{tries} before the next round");

    let mut answers = [Err(StoreError::Corrupt)].into_iter();
    let next = Instant::now() + Duration::from_secs(300);
    let failed = commit(|| ready(answers.next().expect("no more")), next, &mut stop);
    assert_eq!(failed.await, Err(StoreError::Corrupt), "drawn anew");
    stopping.send_replace(true);
    let mut answers = [Err(StoreError::Busy)].into_iter();
    let ended = commit(|| ready(answers.next().expect("no more")), next, &mut stop);
    assert_eq!(ended.await, Err(StoreError::Busy), "the process ends");
}

#[test]
fn the_figure_is_the_entropy_by_its_formula() {
    // Forty come at once, half of them leave: each was one of forty.
    let mut pool = Simulation::new(Bounds { percent: 100, ..BOUNDS }, seeded(6));
    pool.arrive_all(Profile::Mixed, 40);
    pool.round();
    assert_eq!(pool.tally.millibits / 20, 5_321, "log2 40");
    // Twenty more: 40 candidates of the first round with 1/2 each, and 20 with 1. S = 40 * 1/80 * log2 80 + 20 * 1/40 * log2 40.
    pool.tally = MixTally::default();
    pool.arrive_all(Profile::Mixed, 20);
    assert_eq!(pool.round().len(), 20);
    assert_eq!(pool.tally.millibits / 20, 5_821);
    // One that begins again claims no more than what is there.
    pool.restart();
    pool.tally = MixTally::default();
    pool.arrive_all(Profile::Mixed, 20);
    pool.round();
    assert_eq!(pool.tally.millibits / 20, 5_321);
}

/// The attacker of the issue: knows when everybody sent and when every delivery came, the algorithm and its settings, but not
/// the random numbers. Guesses for each delivery the sender that is most likely, each with its own weight as it follows from
/// the counts of all rounds.
fn guessed_right(seed: u64, per_round: u64) -> (u64, u64) {
    const SENDERS: u64 = 200;
    let mut random = seeded(seed);
    let mut pool = Simulation::new(BOUNDS, seeded(seed ^ 0x5eed));
    // For each round the probability that what came in it is there still, and the senders of it.
    let mut rounds: Vec<(f64, Vec<usize>)> = Vec::new();
    let mut sent_by: BTreeMap<DeliveryId, usize> = BTreeMap::new();
    let mut senders: Vec<u64> = Vec::new();
    let (mut right, mut all) = (0, 0);
    for round in 0..120 {
        let mut came = Vec::new();
        for _ in 0..per_round {
            // Everybody in random order, again and again, each to a recipient of its own.
            if senders.is_empty() {
                senders = (0..SENDERS).collect();
            }
            let sender = senders.swap_remove(below(senders.len() as u64, &mut random) as usize) as usize;
            sent_by.insert(pool.arrive(Profile::Mixed), sender);
            came.push(sender);
        }
        rounds.push((1.0, came));
        let there = pool.there.len() as f64;
        let leaving = pool.round();
        if round >= 20 {
            // One who sent more than once is as likely as all of it together.
            let mut likely = [0.0; SENDERS as usize];
            for (weight, came) in &rounds {
                came.iter().for_each(|sender| likely[*sender] += weight);
            }
            let best = (0..likely.len()).max_by(|one, other| likely[*one].total_cmp(&likely[*other]));
            all += leaving.len() as u64;
            right += leaving.iter().filter(|id| best == Some(sent_by[id])).count() as u64;
        }
        let stays = 1.0 - leaving.len() as f64 / there;
        rounds.iter_mut().for_each(|(weight, _)| *weight *= stays);
        rounds.retain(|(weight, _)| *weight > 1e-6);
    }
    (right, all)
}

#[test]
fn the_best_attacker_with_all_times_matches_no_better_than_chance_in_the_pool() {
    for (per_round, seeds) in [(3, 40), (10, 20), (40, 6)] {
        let (mut right, mut all) = (0, 0);
        for seed in 0..seeds {
            let (hits, tries) = guessed_right(seed, per_round);
            (right, all) = (right + hits, all + tries);
        }
        let rate = right as f64 / all as f64;
        assert!(
            all > 10_000 && rate <= 1.5 / BOUNDS.least as f64,
            "{per_round} a round: {right} of {all}"
        );
        assert!(right > 0, "an attacker who never guesses right is a bad one");
    }
}

#[test]
fn a_forecast_is_what_comes_true() {
    for (per_round, bounds) in [
        (3, BOUNDS),
        (12, BOUNDS),
        (60, BOUNDS),
        (
            9,
            Bounds {
                least: 80,
                least_paranoid: 80,
                ..BOUNDS
            },
        ),
    ] {
        let per_day = per_round * 86_400 / bounds.round_s;
        let told = forecast(&bounds, [per_day, 0])[0];
        let mut pool = Simulation::new(bounds, seeded(per_round));
        let mut waits = Vec::new();
        for round in 0..1_500 {
            pool.arrive_all(Profile::Mixed, per_round);
            let leaving = pool.round();
            if round > 300 {
                // It came in the middle of a round, in the mean; here all come at its beginning.
                waits.extend(
                    leaving
                        .iter()
                        .map(|id| pool.now - pool.arrived[id].0 - bounds.round_s / 2),
                );
            }
        }
        waits.sort_unstable();
        let at = |part: usize| waits[waits.len() * part / 100];
        for (is, said) in [(at(50), told.median_s), (at(95), told.most_s)] {
            assert!(
                is.abs_diff(said) <= bounds.round_s + is / 5,
                "{per_round}: {is} and not {said}"
            );
        }
    }
}

#[test]
fn few_are_told_as_few() {
    let tally = |left, paranoid| MixTally {
        left,
        paranoid,
        held: left / 50,
        millibits: left * 4_560,
    };
    let told = offer(&BOUNDS, 20_779, &tally(99, 0));
    assert!(told.measured.is_none());
    assert!(
        told.profiles
            .iter()
            .all(|offer| offer.median_s == 86_400 && offer.most_s == 86_400)
    );
    // What is told of 2,048 to 4,095 is the same, but for the figure itself.
    let busy = offer(&BOUNDS, 20_779, &tally(2_050, 0));
    assert_eq!(busy.profiles, offer(&BOUNDS, 20_779, &tally(4_000, 50)).profiles);
    let measured = busy.measured.expect("many");
    assert_eq!(
        (measured.day, measured.decibits, measured.held_percent),
        (20_779, 45, 2)
    );
    assert!(busy.profiles[0].median_s < 86_400 && busy.profiles[0].median_s <= busy.profiles[0].most_s);
    assert_eq!(busy.profiles[1].median_s, 86_400, "few ask for paranoid");
    assert_eq!(
        (busy.profiles[0].least, busy.profiles[1].least, busy.profiles[1].rounds),
        (20, 60, 3)
    );
}

proptest! {
    /// Whatever comes and goes: nothing leaves twice or is lost, nobody leaves among fewer than N but at its bound, and nothing
    /// waits for longer than that.
    #[test]
    fn the_bounds_hold_for_any_traffic(
        seed: u64,
        steps in proptest::collection::vec((0_u8..30, 0_u8..6, any::<bool>()), 1..120),
        (least, more, rounds, percent) in (1_usize..12, 0_usize..12, 0_u32..4, 1_usize..=100),
    ) {
        let bounds = Bounds {
            least,
            least_paranoid: least + more,
            rounds_paranoid: rounds,
            percent,
            hold_s: 40 * BOUNDS.round_s,
            ..BOUNDS
        };
        let mut pool = Simulation::new(bounds, seeded(seed));
        let mut restarted_at = 0;
        for (mixed, paranoid, restarts) in steps {
            pool.arrive_all(Profile::Mixed, mixed.into());
            pool.arrive_all(Profile::Paranoid, paranoid.into());
            if restarts && mixed % 7 == 0 {
                pool.restart();
                restarted_at = pool.round;
            }
            let before = pool.there.clone();
            let held = pool.tally.held;
            let leaving = pool.round();
            prop_assert_eq!(pool.there.len() + leaving.len(), before.len());
            let forced = usize::try_from(pool.tally.held - held).expect("few");
            if leaving.len() > forced {
                prop_assert!(pool.there.len() >= least);
            }
            let drawn = leaving.len() - forced;
            prop_assert!(drawn <= (before.len() * percent / 100).max(1));
            let is_early = |id: &DeliveryId| pool.round - pool.arrived[id].1.max(restarted_at) <= u64::from(rounds);
            let early = leaving.iter().filter(|id| before[id].profile == Profile::Paranoid && is_early(id)).count();
            prop_assert!(early <= forced, "paranoid stays its rounds");
            for id in pool.there.keys() {
                // A part of the stay, and a round on each side.
                prop_assert!(pool.now - pool.arrived[id].0 <= bounds.hold_s + 2 * bounds.round_s + bounds.coarse_s);
            }
        }
        prop_assert_eq!(pool.tally.left, (pool.arrived.len() - pool.there.len()) as u64);
    }
}
