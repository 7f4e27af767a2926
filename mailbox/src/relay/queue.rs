//! The queue as memory knows it: what is in the spool and when each delivery is tried, and what waits in the pool.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::PoolRow;
use crate::relay_store::{DeliveryId, Pooled};

/// The spool in the order of its tries.
#[derive(Default)]
pub(super) struct Queue {
    rows: BTreeMap<u64, Queued>,
    by_due: BTreeSet<(u64, u64)>,
    pooled: BTreeSet<u64>,
}

/// A delivery as the queue knows it.
#[derive(Clone, Copy)]
pub(super) struct Queued {
    /// UTC second of the next try.
    pub(super) due: u64,
    pub(super) attempts: u32,
    /// When it was accepted, in coarse UTC seconds.
    pub(super) accepted: u64,
    pub(super) kilobytes: u32,
    pub(super) epoch: u64,
    /// How it is mixed. What is put in place of another without it keeps that one's.
    pub(super) mix: Option<PoolRow>,
}

impl Queued {
    pub(super) fn is_pooled(&self) -> bool {
        self.mix.is_some_and(PoolRow::waits)
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Size class of a delivery, in units of 1,000 bytes.
    pub(super) fn kilobytes(&self, id: u64) -> Option<u32> {
        self.rows.get(&id).map(|queued| queued.kilobytes)
    }

    pub(super) fn put(&mut self, id: u64, mut queued: Queued) {
        queued.mix = queued.mix.or(self.mix(id));
        self.remove(id);
        self.rows.insert(id, queued);
        if queued.is_pooled() {
            self.pooled.insert(id);
        } else {
            self.by_due.insert((queued.due, id));
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(queued) = self.rows.remove(&id) {
            self.by_due.remove(&(queued.due, id));
            self.pooled.remove(&id);
        }
    }

    /// How a delivery is mixed, if it is.
    pub(super) fn mix(&self, id: u64) -> Option<PoolRow> {
        self.rows.get(&id)?.mix
    }

    /// What waits in the pool, in the order of the random names.
    pub(super) fn pool(&self) -> impl Iterator<Item = Pooled> {
        self.pooled.iter().filter_map(|id| {
            let queued = self.rows.get(id)?;
            Some(Pooled {
                id: DeliveryId(*id),
                profile: queued.mix?.profile,
                accepted: queued.accepted,
            })
        })
    }

    /// All of them: the soonest due first, and behind them the pool.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &Queued)> {
        let row = |id: &u64| self.rows.get(id).map(|queued| (*id, queued));
        self.in_order().chain(self.pooled.iter().filter_map(row))
    }

    /// Without the pool, the soonest due first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (u64, &Queued)> {
        self.by_due
            .iter()
            .filter_map(|(_, id)| self.rows.get(id).map(|queued| (*id, queued)))
    }

    /// Deliveries that are not sealed under `epoch`.
    pub(super) fn outside_epoch(&self, epoch: u64, most: usize) -> Vec<u64> {
        let rows = self.rows.iter().filter(|(_, queued)| queued.epoch != epoch);
        rows.map(|(id, _)| *id).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_in_order_of_the_next_try() {
        let mut queue = Queue::default();
        let queued = |due| Queued {
            due,
            attempts: 0,
            accepted: 0,
            kilobytes: 1,
            epoch: 1,
            mix: None,
        };
        queue.put(1, queued(30));
        queue.put(2, queued(10));
        queue.put(1, queued(5));
        assert_eq!(queue.in_order().map(|(id, _)| id).collect::<Vec<_>>(), [1, 2]);
        queue.remove(1);
        assert_eq!(
            (
                queue.len(),
                queue.outside_epoch(1, 9).len(),
                queue.outside_epoch(2, 9).len()
            ),
            (1, 0, 1)
        );
    }
}
