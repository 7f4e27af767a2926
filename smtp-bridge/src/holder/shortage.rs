//! That mail waits at the relay since the disk has no room for it, and when that is looked at again.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest pause in collecting after the store refused what had been fetched: each try may cost value and keys.
const REFUSED_PAUSE_MIN: Duration = Duration::from_secs(60);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Room that ends such a pause when there is so much more, in bytes: somebody has made some.
const GROWN: u64 = 16 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Shortage {
    /// Room that the least of it wants, in bytes.
    wanted: Option<u64>,
    /// The pause that began last, its end, and the room on the disk when it began.
    pause: Option<(Duration, Instant, u64)>,
}

impl Shortage {
    /// Whether there is one.
    pub(super) fn lasts(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether nothing is collected for now, with so much room on the disk.
    pub(super) fn is_paused(&self, room: u64) -> bool {
        let lasts = |(_, end, before): (_, Instant, u64)| Instant::now() < end && room < before.saturating_add(GROWN);
        self.pause.is_some_and(lasts)
    }

    /// Whether it is worth a look for what waits.
    pub(super) fn may_end(&self, room: u64) -> bool {
        self.wanted.is_some_and(|wanted| wanted <= room) && !self.is_paused(room)
    }

    /// What was fetched had no room after all.
    pub(super) fn refused(&mut self, room: u64) {
        let pause = self.pause.map_or(REFUSED_PAUSE_MIN, |(pause, ..)| pause * 2);
        let pause = pause.min(REFUSED_PAUSE_MAX);
        self.pause = Some((pause, Instant::now() + pause, room));
        self.wanted.get_or_insert(0);
    }

    /// All was collected but what wants so much room.
    pub(super) fn collected(&mut self, wanted: Option<u64>) {
        if wanted.is_some() && self.wanted.is_none() {
            tracing::warn!("mail waits at the relay, since the disk has no room for it");
        }
        *self = Shortage { wanted, pause: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_fetched_in_vain_is_tried_again_ever_later() {
        let mut shortage = Shortage::default();
        let (start, mut tries) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(24 * 3_600) {
            shortage.refused(5);
            tries += 1;
            while shortage.is_paused(5) {
                assert!(shortage.lasts() && !shortage.may_end(5));
                assert!(shortage.may_end(5 + GROWN), "somebody has made room");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
        assert!((24..=32).contains(&tries), "{tries}");
        shortage.collected(None);
        assert!(!shortage.lasts() && !shortage.is_paused(0));
    }
}
