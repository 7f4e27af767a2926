//! How large the set is that a delivery was mixed with, by what everybody could know who saw all arrivals and departures.
//!
//! The figure is that of Serjantov and Danezis (Towards an information theoretic metric for anonymity, 2002): for one
//! departure, `S = - sum over i of p(i) log2 p(i)` bits, where `p(i)` is the probability that it is the arrival `i`, for
//! an attacker who knows when everything came and left, the bounds, and even the profile of each. `2^S` is the size of a set
//! whose members would all be as likely: *one of about so many*.
//!
//! `p(i)` follows from counts alone. What has just come is in the pool with probability 1; when `k` leave of the `n` that
//! could, each that could is there afterwards with `(n - k) / n` of its probability before; and in a draw `p(i)` is that
//! probability of `i` divided by the sum over all that could leave. Arrivals of one round and profile have the same, and are one
//! batch here. A process that begins takes all that it
//! finds for just arrived: so the figure is no larger than it is for an attacker who has seen more.

use mailbox::relay_store::MixTally;
use mailbox::request::Profile;

/// A batch that is hardly there any more counts for nothing.
const WEIGHT_MIN: f64 = 1e-9;

/// Arrivals of one round and profile.
#[derive(Clone)]
struct Batch {
    profile: Profile,
    /// UTC second from which its stay is counted.
    since: u64,
    /// Rounds that it has been there.
    rounds: u32,
    count: f64,
    /// Probability that one of it is in the pool.
    weight: f64,
}

/// All batches of which something may be in the pool. No more than rounds in the longest stay, for each profile.
#[derive(Clone, Default)]
pub(super) struct Crowd(Vec<Batch>);

/// What a round adds to the figures of its day. See [`MixTally`], which is what is kept of it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally(MixTally);

impl Tally {
    /// What is kept.
    pub(crate) fn kept(self) -> MixTally {
        self.0
    }

    /// So many of them were to wait longer.
    pub(super) fn paranoid(&mut self, count: usize) {
        self.0.paranoid += count as u64;
    }

    /// `count` leave, drawn among the batches that `may` leave.
    pub(super) fn drawn(&mut self, crowd: &Crowd, count: usize, may: impl Fn(Profile, u32) -> bool) {
        let bits = crowd.entropy(|batch| may(batch.profile, batch.rounds));
        self.add(count, bits);
    }

    /// `count` leave because they have been there for long.
    pub(super) fn held(&mut self, crowd: &Crowd, count: usize, is_held: impl Fn(u64) -> bool) {
        let bits = crowd.entropy(|batch| is_held(batch.since));
        self.add(count, bits);
        self.0.held += count as u64;
    }

    fn add(&mut self, count: usize, bits: f64) {
        // Bounded: nobody has 2^64 deliveries.
        let millibits = (bits.clamp(0.0, 64.0) * 1_000.0) as u64;
        self.0.left += count as u64;
        self.0.millibits += millibits * count as u64;
    }
}

impl Crowd {
    /// So many have come, as they are first seen.
    pub(super) fn add(&mut self, profile: Profile, since: u64, count: usize) {
        if count > 0 {
            self.0.push(Batch {
                profile,
                since,
                rounds: 0,
                count: count as f64,
                weight: 1.0,
            });
        }
    }

    /// `count` of the `ripe` that could leave have left.
    pub(super) fn draw(&mut self, ripe: usize, count: usize, may: impl Fn(Profile, u32) -> bool) {
        let stays = 1.0 - count as f64 / ripe as f64;
        for batch in self.0.iter_mut().filter(|batch| may(batch.profile, batch.rounds)) {
            batch.weight *= stays;
        }
        self.0.retain(|batch| batch.weight > WEIGHT_MIN);
    }

    /// What has been there for so long is there no more.
    pub(super) fn forget(&mut self, is_held: impl Fn(u64) -> bool) {
        self.0.retain(|batch| !is_held(batch.since));
    }

    /// A round is over.
    pub(super) fn pass_round(&mut self) {
        for batch in &mut self.0 {
            batch.rounds = batch.rounds.saturating_add(1);
        }
    }

    /// Brings the sums to what is there: where a draw took another number of a profile than was to be expected, or the operator
    /// has removed something.
    pub(super) fn scale(&mut self, counts: [usize; Profile::COUNT]) {
        for profile in Profile::ALL {
            let of_it = |batch: &&Batch| batch.profile == profile;
            let sum: f64 = self
                .0
                .iter()
                .filter(of_it)
                .map(|batch| batch.count * batch.weight)
                .sum();
            if sum > 0.0 {
                let factor = counts[profile.index()] as f64 / sum;
                for batch in self.0.iter_mut().filter(|batch| batch.profile == profile) {
                    batch.weight *= factor;
                }
            }
        }
        self.0.retain(|batch| batch.weight > WEIGHT_MIN);
    }

    /// `S` of a departure from these batches, in bits.
    fn entropy(&self, may: impl Fn(&Batch) -> bool) -> f64 {
        let batches = || self.0.iter().filter(|batch| may(batch));
        let sum: f64 = batches().map(|batch| batch.count * batch.weight).sum();
        if sum <= 0.0 {
            return 0.0;
        }
        let bits = batches().map(|batch| {
            let likely = batch.weight / sum;
            -batch.count * likely * likely.log2()
        });
        bits.sum::<f64>().max(0.0)
    }
}
