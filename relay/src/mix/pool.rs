//! Which deliveries of the pool leave in a round: a timed dynamic pool mix.
//!
//! ```text
//! a round:   held too long ─▶ leave           (all that have come near their bound, together, once in a part of the longest stay)
//!            ripe, all profiles: n ─▶ n - N of the stricter profile leave, drawn uniformly among all n
//!            what is left of 'mixed': m ─▶ m - N leave, drawn uniformly among all m
//! ```
//!
//! Both draws together take no more than the operator's part of the pool. Who leaves in a draw was drawn among more than N
//! that could have left in it. Knows no store, no clock and no generator: it is shown what is in the pool, told the time
//! and lent randomness. Nothing is decided by the order in which deliveries came.

use std::collections::BTreeMap;

use mailbox::relay_store::{DeliveryId, Pooled};
use mailbox::request::Profile;

use super::crowd::{Crowd, Tally};

/// In how many parts the longest stay is divided: what came in one part leaves together, if it has to.
const HOLD_PARTS: u64 = 4;

/// The operator's bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// Seconds from one round to the next.
    pub(crate) round_s: u64,
    /// N of 'mixed': so many stay.
    pub(crate) least: usize,
    /// N of 'paranoid'.
    pub(crate) least_paranoid: usize,
    /// Whole rounds that 'paranoid' stays before it may leave.
    pub(crate) rounds_paranoid: u32,
    /// Most that leave in a round, in percent of those that could.
    pub(crate) percent: usize,
    /// Seconds after which a delivery leaves anyway.
    pub(crate) hold_s: u64,
    /// How coarse the time of acceptance is that the store keeps.
    pub(crate) coarse_s: u64,
}

impl Bounds {
    /// N of a profile.
    pub(crate) fn least_of(&self, profile: Profile) -> usize {
        match profile {
            Profile::Mixed => self.least,
            Profile::Paranoid => self.least_paranoid,
        }
    }

    /// Whole rounds that a profile stays before it may leave.
    pub(crate) fn rounds_of(&self, profile: Profile) -> u32 {
        match profile {
            Profile::Mixed => 0,
            Profile::Paranoid => self.rounds_paranoid,
        }
    }

    /// Most that leave of so many that could.
    fn most_of(&self, ripe: usize) -> usize {
        (ripe.saturating_mul(self.percent) / 100).max(1)
    }
}

/// Randomness, eight bytes at a time.
pub(crate) type Random<'r> = &'r mut dyn FnMut() -> u64;

/// The pool as one process has seen it.
pub(crate) struct Pool {
    bounds: Bounds,
    members: BTreeMap<DeliveryId, Member>,
    crowd: Crowd,
    /// When it was last shown what is there, or when the process began: what is new since came after that.
    last: u64,
    /// Nothing was shown yet.
    is_new: bool,
}

#[derive(Clone, Copy)]
struct Member {
    profile: Profile,
    /// UTC second from which its stay is counted.
    since: u64,
    /// Rounds in which it could not or was not drawn.
    stayed: u32,
}

/// What a round decides.
pub(crate) struct Round {
    /// In no order that says anything.
    pub(crate) leaving: Vec<DeliveryId>,
    /// What it adds to the figures of the day.
    pub(crate) tally: Tally,
    crowd: Crowd,
}

impl Pool {
    /// A pool that nothing was shown yet, at the time `now`.
    pub(crate) fn new(bounds: Bounds, now: u64) -> Self {
        Pool {
            bounds,
            members: BTreeMap::new(),
            crowd: Crowd::default(),
            last: now,
            is_new: true,
        }
    }

    /// Shows it all that is in the pool. What was there when the process began counts its stay from the end of the bucket in
    /// which it was accepted, and its rounds from now. A round that comes to nothing was shown it all the same: however many such
    /// follow one another, nothing that came meanwhile is taken for older than it is by more than a round.
    pub(crate) fn show(&mut self, pooled: &[Pooled], now: u64) {
        let mut members = BTreeMap::new();
        let mut fresh: BTreeMap<(Profile, u64), usize> = BTreeMap::new();
        for one in pooled {
            let member = self.members.get(&one.id).copied().unwrap_or_else(|| {
                let latest = one.accepted.saturating_add(self.bounds.coarse_s);
                let since = if self.is_new { latest.min(self.last) } else { self.last };
                *fresh.entry((one.profile, since)).or_default() += 1;
                Member {
                    profile: one.profile,
                    since,
                    stayed: 0,
                }
            });
            members.insert(one.id, member);
        }
        for ((profile, since), count) in fresh {
            self.crowd.add(profile, since, count);
        }
        // What the operator removed is not in it any more.
        self.members = members;
        self.crowd.scale(self.counts());
        self.is_new = false;
        self.last = now;
    }

    /// Draws who leaves now. Nothing changes before [`Self::applied`]: a round that could not be committed was none.
    pub(crate) fn draw(&self, now: u64, random: Random<'_>) -> Round {
        let mut crowd = self.crowd.clone();
        let mut tally = Tally::default();
        let mut leaving = Vec::new();
        let mut ids: Vec<DeliveryId> = self.members.keys().copied().collect();
        shuffle(&mut ids, random);

        // Whoever would be beyond its bound by the end of this part of the time goes with all others of its part. The bound is
        // the same in all rounds of a part: one that begins again in the middle, or whose first round failed, singles out nobody.
        let part = self.part_s();
        let end = now.saturating_add(part - now % part);
        let is_held = |since: u64| end.saturating_sub(since) >= self.bounds.hold_s;
        let (held, others): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .partition(|id| self.members.get(id).is_some_and(|member| is_held(member.since)));
        if !held.is_empty() {
            tally.held(&crowd, held.len(), is_held);
            crowd.forget(is_held);
            leaving.extend(held);
        }

        let is_ripe = |id: &DeliveryId| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.stayed >= self.bounds.rounds_of(member.profile))
        };
        let is_mixed = |id: &DeliveryId| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.profile == Profile::Mixed)
        };
        let mut ripe: Vec<DeliveryId> = others.into_iter().filter(is_ripe).collect();
        let mut most = self.bounds.most_of(ripe.len());
        for profile in [Profile::Paranoid, Profile::Mixed] {
            if profile == Profile::Mixed {
                ripe.retain(is_mixed);
            }
            let spare = ripe.len().saturating_sub(self.bounds.least_of(profile));
            let count = spare.min(most);
            if count == 0 {
                continue;
            }
            let ripe_since = |batch: Profile, rounds: u32| match profile {
                Profile::Mixed => batch == Profile::Mixed,
                Profile::Paranoid => rounds >= self.bounds.rounds_of(batch),
            };
            tally.drawn(&crowd, count, ripe_since);
            crowd.draw(ripe.len(), count, ripe_since);
            // They were shuffled: the last are as good as any.
            leaving.extend(ripe.drain(ripe.len() - count..));
            most -= count;
        }
        tally.paranoid(leaving.iter().filter(|id| !is_mixed(id)).count());
        shuffle(&mut leaving, random);
        Round { leaving, tally, crowd }
    }

    /// The round is durable.
    pub(crate) fn applied(&mut self, round: Round) {
        for id in &round.leaving {
            self.members.remove(id);
        }
        for member in self.members.values_mut() {
            member.stayed = member.stayed.saturating_add(1);
        }
        self.crowd = round.crowd;
        self.crowd.scale(self.counts());
        self.crowd.pass_round();
    }

    fn part_s(&self) -> u64 {
        (self.bounds.hold_s / HOLD_PARTS).max(1)
    }

    fn counts(&self) -> [usize; Profile::COUNT] {
        let mut counts = [0; Profile::COUNT];
        for member in self.members.values() {
            counts[member.profile.index()] += 1;
        }
        counts
    }
}

/// A uniform number below `bound`, which is not 0: what would make some more likely is drawn again.
pub(crate) fn below(bound: u64, random: Random<'_>) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = random();
        if drawn < limit {
            return drawn % bound;
        }
    }
}

/// Fisher and Yates.
fn shuffle<T>(list: &mut [T], random: Random<'_>) {
    for last in (1..list.len()).rev() {
        let other = usize::try_from(below(last as u64 + 1, random)).expect("below a length");
        list.swap(last, other);
    }
}
