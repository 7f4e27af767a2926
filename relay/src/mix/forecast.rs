//! How long mail will wait in the pool, told beforehand: the rounds of [`super::pool`] with numbers that are not whole, until
//! they do not move any more.

use mailbox::request::Profile;

use super::pool::Bounds;

/// Rounds after which the numbers have settled, or the longest stay decides anyway.
const ROUNDS: usize = 4_096;

/// Seconds within which half of the mail of a profile leaves, and 19 of 20.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Forecast {
    pub(super) median_s: u64,
    pub(super) most_s: u64,
}

/// The forecast for each profile, if so many of each come in a day, in the order of [`Profile::ALL`].
pub(super) fn forecast(bounds: &Bounds, per_day: [u64; Profile::COUNT]) -> [Forecast; Profile::COUNT] {
    let per_round = per_day.map(|count| count as f64 * bounds.round_s as f64 / 86_400.0);
    let mut there = [0.0; Profile::COUNT];
    // Probability to leave in a round in which it may.
    let mut leaves = [0.0; Profile::COUNT];
    for _ in 0..ROUNDS {
        let [mixed, paranoid] = there;
        let all = mixed + paranoid;
        let most = (all * bounds.percent as f64 / 100.0).max(1.0);
        let from_all = (all - bounds.least_paranoid as f64).clamp(0.0, most);
        let share = if all > 0.0 { from_all / all } else { 0.0 };
        let left = mixed * (1.0 - share);
        let from_mixed = (left - bounds.least as f64).clamp(0.0, most - from_all);
        let gone = [mixed - left + from_mixed, paranoid * share];
        for at in 0..Profile::COUNT {
            leaves[at] = if there[at] > 0.0 { gone[at] / there[at] } else { 0.0 };
            there[at] += per_round[at] - gone[at];
        }
    }
    Profile::ALL.map(|profile| {
        let at = profile.index();
        let first = f64::from(bounds.rounds_of(profile));
        let within = |part: f64| {
            // It came half a round before its first one, in the mean.
            let rounds = first - 0.5 + ((1.0 - part).ln() / (1.0 - leaves[at]).ln()).max(1.0);
            // Division by the logarithm of 1 is infinite, and so is what never leaves.
            let seconds = (rounds * bounds.round_s as f64).min(bounds.hold_s as f64);
            if leaves[at] > 0.0 {
                seconds as u64
            } else {
                bounds.hold_s
            }
        };
        Forecast {
            median_s: within(0.5),
            most_s: within(0.95),
        }
    })
}
