//! Renewal: before the value or the keys of a pack held at a peer end, more is drawn on the credit that its operator
//! granted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypacks::chain::KEYS_RESERVED;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::request::{Operation, RENEWED_KEYS_MAX, Refusal};
use mailbox::{HolderStore, RelayStore, StoreError};
use smtp_bridge::net::stopped;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Peer;
use super::settle::TOGETHER;
use crate::Relay;
use crate::config::PeerConfig;

/// What a renewal is called in the outbox: no delivery is.
const LABEL: &str = "renewal";
/// So many ticks pass before a renewal that was refused is asked for again.
const REFUSED_TICKS: u32 = 10;
/// As many keys are drawn as this many times what they fell under.
const KEYS_DRAWN: u64 = 10;

/// What a peer's operator lets this relay draw, as far as a refusal told.
pub(super) struct Left(AtomicU64);

/// Nothing was refused lately.
const UNKNOWN: u64 = u64::MAX;

impl Default for Left {
    fn default() -> Self {
        Left(AtomicU64::new(UNKNOWN))
    }
}

impl Left {
    /// µtok that may still be drawn, if that is less than was needed.
    pub(super) fn told(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|left| *left != UNKNOWN)
    }

    fn tell(&self, left: Option<u64>) {
        self.0.store(left.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}

/// µtok that are to be drawn when so much is free: for the dearest message that waits for them too.
fn drawn(free: u64, below: Option<u64>, dearest: u64) -> u64 {
    let least = below.map(|below| below.max(dearest));
    least.filter(|least| free < *least).unwrap_or(0)
}

/// Keys and µtok that are to be drawn now.
fn wanted(peer: &Peer, settings: &PeerConfig) -> Result<(u64, u64), StoreError> {
    let value = peer.store.value();
    if value.at == 0 {
        return Ok((0, 0));
    }
    let free = value.balance.saturating_sub(peer.store.reserved()?);
    let drawn = drawn(free, settings.renew_below, peer.short.load(Ordering::Relaxed));
    let below = settings.renew_keys_below.map(|below| below.max(KEYS_RESERVED + 1));
    let below = below.filter(|below| value.keys < *below);
    let keys = below.map_or(0, |below| below.saturating_mul(KEYS_DRAWN).min(RENEWED_KEYS_MAX));
    Ok((keys, drawn))
}

/// Asks for more whenever it is time, until `stop` turns true.
pub(super) async fn keep<S: RelayStore>(
    relay: Arc<Relay<S>>,
    name: String,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
) {
    let Some(settings) = relay.config.peers.get(&name).filter(|peer| peer.renews()) else {
        return;
    };
    let mut changed = peer.store.outbox_changed();
    let mut renewing = Renewing {
        relay: &relay,
        name: &name,
        peer: &peer,
        settings,
        not_before: Instant::now(),
        under_way: BTreeSet::new(),
    };
    loop {
        changed.borrow_and_update();
        if let Err(error) = renewing.look().await {
            tracing::warn!(peer = name, %error, "a renewal could not be ordered; trying again");
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = changed.changed() => tokio::time::sleep(TOGETHER.min(relay.config.tick())).await,
            () = tokio::time::sleep(relay.config.tick()) => {}
        }
    }
}

struct Renewing<'a, S> {
    relay: &'a Relay<S>,
    name: &'a str,
    peer: &'a Peer,
    settings: &'a PeerConfig,
    not_before: Instant,
    /// Rows that wait for an answer.
    under_way: BTreeSet<u64>,
}

impl<S: RelayStore> Renewing<'_, S> {
    async fn look(&mut self) -> Result<(), StoreError> {
        let tick = self.relay.config.tick();
        let renews = |row: &OutboxRow| matches!(row.change.operation, Operation::Renew { .. });
        let rows: Vec<OutboxRow> = self.peer.store.outbox()?.into_iter().filter(renews).collect();
        let mut waits = BTreeSet::new();
        for row in rows {
            match row.state {
                OutboxState::Queued | OutboxState::Held(_) => drop(waits.insert(row.row)),
                // Whether it was carried out shows in the next look at the balance.
                OutboxState::Unknown => drop(self.peer.store.cancel(row.row).await?),
                OutboxState::Refused(refusal) => {
                    self.under_way.remove(&row.row);
                    self.refused(refusal);
                    self.peer.store.cancel(row.row).await?;
                }
            }
        }
        if self.under_way.difference(&waits).next().is_some() {
            // Granted. The next look at the balance comes before the next renewal.
            self.peer.left.tell(None);
            // What waits for more says so at its next try.
            self.peer.short.store(0, Ordering::Relaxed);
            self.not_before = Instant::now() + tick;
        }
        self.under_way = waits;
        if !self.under_way.is_empty() || Instant::now() < self.not_before {
            return Ok(());
        }
        let (keys, drawn) = wanted(self.peer, self.settings)?;
        let value = lent(keys, drawn, self.peer.left.told());
        if (keys, value) == (0, 0) {
            return Ok(());
        }
        let order = Operation::Renew { keys, value };
        let now = self.relay.host.clock.unix_seconds();
        let row = self.peer.store.enqueue_change(order, LABEL.to_owned(), now).await?;
        self.under_way.insert(row);
        Ok(())
    }

    fn refused(&mut self, refusal: Refusal) {
        let tick = self.relay.config.tick();
        self.not_before = Instant::now() + tick * REFUSED_TICKS;
        match refusal {
            Refusal::Credit { left } => {
                if self.peer.left.told() != Some(left) && left == 0 {
                    tracing::error!(
                        peer = self.name,
                        "the credit at a peer is used up: settle with its operator, or mail will wait"
                    );
                }
                if left > 0 {
                    self.not_before = Instant::now() + tick;
                }
                self.peer.left.tell(Some(left));
            }
            _ => tracing::error!(peer = self.name, "a peer refused to renew its pack"),
        }
    }
}

/// What of `drawn` is asked for, where so much credit is left as far as is known.
fn lent(keys: u64, drawn: u64, left: Option<u64>) -> u64 {
    match left {
        // Keys cost no credit: they do not wait for a payment, without which the relay refuses both.
        Some(0) if keys > 0 => 0,
        // Asked again now and then, since a payment is told to nobody.
        Some(0) | None => drawn,
        // Less than is wanted is better than none.
        Some(left) => drawn.min(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_wait_for_credit() {
        assert_eq!(lent(100, 50, Some(0)), 0);
        assert_eq!(lent(0, 50, Some(0)), 50);
        assert_eq!(lent(100, 50, Some(20)), 20);
        assert_eq!(lent(100, 50, None), 50);
    }

    #[test]
    fn as_much_is_drawn_as_the_dearest_message_needs() {
        assert_eq!(drawn(50, Some(50), 0), 0);
        assert_eq!(drawn(49, Some(50), 0), 50);
        assert_eq!(drawn(50, Some(50), 80), 80, "not below, and yet too little");
        assert_eq!(drawn(49, Some(50), 80), 80);
        assert_eq!(drawn(80, Some(50), 80), 0, "enough by now");
        assert_eq!(drawn(0, None, 80), 0, "value is not renewed");
    }
}
