//! Counters without identifiers: what a relay did, never for whom.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter from zero at start.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So many since start.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Links established.
    pub(crate) links: Counter,
    /// Links that went on under a new key.
    pub(crate) rotations: Counter,
    /// Changes carried out: submissions and aliases.
    pub(crate) changes: Counter,
    /// Messages taken in at the MX.
    pub(crate) received: Counter,
    /// Parcels taken in at the MX, whosever they were.
    pub(crate) parcels: Counter,
    /// Logins at the collecting port.
    pub(crate) collections: Counter,
    /// Deliveries that the next host took.
    pub(crate) delivered: Counter,
    /// Tries put off.
    pub(crate) deferred: Counter,
    /// Deliveries given up.
    pub(crate) failed: Counter,
    /// Deliveries that left the pool.
    pub(crate) mixed: Counter,
    /// Of them those that had waited as long as any may.
    pub(crate) held: Counter,
    /// Packs that peers made for holders.
    pub(crate) procured: Counter,
    /// Packs that peers did not make.
    pub(crate) returned: Counter,
    /// Links that showed a link token of somebody else: a second holder or a restored copy.
    pub(crate) token_mismatches: Counter,
    /// Holders who knew answers that this relay does not: it was restored.
    pub(crate) rollbacks: Counter,
}

impl Metrics {
    /// Name, help and value of each, in the order they are shown.
    pub(crate) fn rows(&self) -> [(&'static str, &'static str, u64); 15] {
        [
            ("links", "Links established since start", self.links.value()),
            (
                "rotations",
                "Links that went on under a new key since start",
                self.rotations.value(),
            ),
            (
                "changes",
                "Submissions and alias changes carried out since start",
                self.changes.value(),
            ),
            (
                "received",
                "Messages taken in at the MX since start",
                self.received.value(),
            ),
            ("parcels", "Parcels taken in since start", self.parcels.value()),
            (
                "collections",
                "Logins at the collecting port since start",
                self.collections.value(),
            ),
            ("delivered", "Deliveries completed since start", self.delivered.value()),
            ("deferred", "Delivery tries put off since start", self.deferred.value()),
            (
                "procured",
                "Packs procured for holders since start",
                self.procured.value(),
            ),
            (
                "returned",
                "Packs that peers did not make since start",
                self.returned.value(),
            ),
            ("failed", "Deliveries given up since start", self.failed.value()),
            ("mixed", "Deliveries that left the pool since start", self.mixed.value()),
            (
                "mix_held",
                "Of them those that had waited as long as any may",
                self.held.value(),
            ),
            (
                "token_mismatches",
                "Links that showed a token of a second holder since start",
                self.token_mismatches.value(),
            ),
            (
                "rollbacks",
                "Links that knew answers this relay has lost since start",
                self.rollbacks.value(),
            ),
        ]
    }
}
