//! The pool in which deliveries wait that ask to be mixed, and what holders are told of it.
//!
//! `pool` decides and knows nothing but numbers; the store keeps the pool, as rows of the spool that are never due; here is the
//! clock. A round is one commit: a process that ends at whatever point has released all of a round or nothing of it.

mod crowd;
mod forecast;
mod pool;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use mailbox::relay::ACCEPTED_STEP_S;
use mailbox::relay_store::{MixRound, MixTally};
use mailbox::request::{Measured, Mixing, Offer, Profile, Refusal};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::net::{Clock, stopped};
use tokio::sync::watch;
use tokio::time::Instant;

use self::forecast::forecast;
pub(crate) use self::pool::below;
use self::pool::{Bounds, Pool};
use crate::Relay;
use crate::config::MixConfig;

/// Fewer in a day are told as few: a figure of few would be a figure of somebody.
pub(crate) const FEW: u64 = 100;

/// After so long a round that the store could not take is offered to it again.
const AGAIN: Duration = Duration::from_secs(1);

impl MixConfig {
    fn bounds(&self, date_bucket_s: u64) -> Bounds {
        Bounds {
            round_s: self.round_s,
            least: self.least as usize,
            least_paranoid: self.least_paranoid as usize,
            rounds_paranoid: self.rounds_paranoid,
            percent: usize::from(self.percent),
            hold_s: self.hold_s,
            coarse_s: date_bucket_s.max(ACCEPTED_STEP_S),
        }
    }
}

/// The profile of a number that a sender asked for, if this relay offers it.
pub(crate) fn offered<S>(relay: &Relay<S>, asked: Option<u8>) -> Result<Option<Profile>, Refusal> {
    let Some(number) = asked else { return Ok(None) };
    match (&relay.config.mix, Profile::of_number(number)) {
        (Some(_), Some(profile)) => Ok(Some(profile)),
        _ => Err(Refusal::Mix),
    }
}

/// What holders are told: bounds, and figures of the last whole UTC day. The same for all of them, until the day ends.
pub(crate) fn told<S: RelayStore>(relay: &Relay<S>) -> Result<Mixing, StoreError> {
    let Some(config) = &relay.config.mix else {
        return Ok(Mixing::default());
    };
    let day = relay.host.day().saturating_sub(1);
    Ok(offer(
        &config.bounds(relay.config.date_bucket_s),
        day,
        &relay.store.mixed_on(day)?,
    ))
}

fn offer(bounds: &Bounds, day: u32, tally: &MixTally) -> Mixing {
    // Rounded down to a power of two: a forecast is no finer, and tells no more of the traffic.
    let coarse = |count: u64| if count < FEW { 0 } else { 1 << count.ilog2() };
    let paranoid = tally.paranoid.min(tally.left);
    let forecasts = forecast(bounds, [coarse(tally.left - paranoid), coarse(paranoid)]);
    let profiles = Profile::ALL.map(|profile| Offer {
        profile: profile.number(),
        least: u32::try_from(bounds.least_of(profile)).unwrap_or(u32::MAX),
        rounds: bounds.rounds_of(profile),
        cost: 0,
        median_s: forecasts[profile.index()].median_s,
        most_s: forecasts[profile.index()].most_s,
    });
    let measured = (tally.left >= FEW).then(|| Measured {
        day,
        decibits: u32::try_from(tally.millibits / tally.left / 100).unwrap_or(u32::MAX),
        held_percent: u8::try_from(tally.held.saturating_mul(100) / tally.left).unwrap_or(100),
    });
    Mixing {
        profiles: profiles.to_vec(),
        round_s: bounds.round_s,
        hold_s: bounds.hold_s,
        measured,
    }
}

/// The time by which stays are counted: that of the day when the process began, and what has passed since. A clock that somebody
/// sets meanwhile neither empties the pool nor holds anything in it.
struct Stay {
    utc: u64,
    began: Instant,
}

impl Stay {
    fn begin(clock: &dyn Clock) -> Self {
        Stay {
            utc: clock.unix_seconds(),
            began: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        self.utc.saturating_add(self.began.elapsed().as_secs())
    }
}

/// Commits a round: while the store is busy, full or away, or cannot say what became of it, the same one again, until the next
/// is due or `stop` turns true. Only then is another one drawn, so that whoever can fill the disk draws no more often.
///
/// # Errors
/// What the last try ended with.
async fn commit<F: Future<Output = Result<(), StoreError>>>(
    mut release: impl FnMut() -> F,
    next: Instant,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), StoreError> {
    loop {
        let ended = release().await;
        let again = Instant::now() + AGAIN;
        let is_passing = match &ended {
            Err(error) => matches!(
                error,
                StoreError::Busy | StoreError::Unavailable | StoreError::Full | StoreError::Unknown
            ),
            Ok(()) => false,
        };
        if !is_passing || again >= next {
            return ended;
        }
        tokio::select! {
            biased;
            () = stopped(stop) => return ended,
            () = tokio::time::sleep_until(again) => {}
        }
    }
}

/// Holds the rounds until `stop` turns true. Their phase is random, and another one after each start.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    if relay.config.mix.is_none() && relay.store.pool().is_empty() {
        return;
    }
    if relay.config.mix.is_none() {
        tracing::warn!("mail waits in the pool and [mix] is not set: it leaves in rounds by the default settings");
    }
    // What was accepted to be mixed is, whatever the settings say now.
    let bounds = relay.config.mix.unwrap_or_default().bounds(relay.config.date_bucket_s);
    let mut random = || u64::from_le_bytes(relay.host.random());
    let round = Duration::from_secs(bounds.round_s);
    let phase = pool::below(bounds.round_s.saturating_mul(1_000), &mut random);
    let mut next = Instant::now() + Duration::from_millis(phase);
    let stay = Stay::begin(&*relay.host.clock);
    let mut pool = Pool::new(bounds, stay.now());
    // What is there now may have come at any time before; what comes from now on is counted from here.
    pool.show(&relay.store.pool(), stay.now());
    let mut is_told = false;
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep_until(next) => {}
        }
        // A machine that slept makes up for nothing.
        next = (next + round).max(Instant::now());
        let now = stay.now();
        pool.show(&relay.store.pool(), now);
        let drawn = pool.draw(now, &mut random);
        let tally = drawn.tally.kept();
        if !drawn.leaving.is_empty() {
            let release = || {
                let now = relay.host.clock.unix_seconds();
                let round = MixRound {
                    now,
                    // Fixed by the commit: another bucket in the settings dates nothing anew.
                    date: now - now % bounds.coarse_s,
                    day: relay.host.day(),
                    tally,
                };
                relay.store.release(drawn.leaving.clone(), round)
            };
            if let Err(error) = commit(release, next, &mut stop).await {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::error!(%error, "a round of the pool could not be committed; the next one is drawn anew");
                }
                continue;
            }
            is_told = false;
            relay.metrics.mixed.add(tally.left);
            relay.metrics.held.add(tally.held);
        }
        pool.applied(drawn);
    }
}
