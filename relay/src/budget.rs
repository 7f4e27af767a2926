//! The bound on mail that is in memory at one time.

use std::sync::Arc;

use keypacks::deposit::{CLASS_KILOBYTES_MAX, class_bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit in which room is counted, in bytes.
const UNIT: usize = 4_096;

/// Largest need that counts as small, in bytes: a mail of some hundred kilobytes.
pub(crate) const SMALL_MAX: usize = 1 << 20;

/// Room for mail in memory, shared by all connections. Cloning shares it.
///
/// Nobody's large messages keep small ones waiting: a sixteenth each is for the small messages of holders, of strangers
/// at the MX and of the exit, and the rest for what is large. The exit, whose hosts may be slow, has at most half of
/// that, or one message of the largest class; it counts what it takes by account (`exit::shares`).
#[derive(Clone)]
pub(crate) struct Budget {
    small: usize,
    large_for_exit: usize,
    holders: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// Room taken; given back when dropped.
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl Budget {
    /// Room for `mebibytes` MiB.
    pub(crate) fn new(mebibytes: u32) -> Self {
        let all = (mebibytes as usize * 1_048_576) / UNIT;
        let small = all / 16;
        let large = all - 3 * small;
        let largest = 2 * class_bytes(CLASS_KILOBYTES_MAX);
        Budget {
            small: small * UNIT,
            large_for_exit: (large / 2 * UNIT).max(largest),
            holders: Arc::new(Semaphore::new(small)),
            strangers: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(large)),
        }
    }

    /// What the exit may take in all, in bytes: for small messages and for large ones.
    pub(crate) fn for_exit(&self) -> (usize, usize) {
        (self.small, self.large_for_exit)
    }

    /// Takes room for `bytes` at the exit, which counts the small messages itself.
    pub(crate) async fn take_for_exit(&self, bytes: usize) -> Option<Room> {
        if bytes <= SMALL_MAX {
            return None;
        }
        Some(self.take(bytes).await)
    }

    /// Takes room for `bytes` of a holder's mail, waiting for it.
    pub(crate) async fn take(&self, bytes: usize) -> Room {
        let lane = if bytes <= SMALL_MAX { &self.holders } else { &self.large };
        let permit = lane
            .clone()
            .acquire_many_owned(units(bytes))
            .await
            .expect("the semaphore is never closed");
        Room { permit, bytes }
    }

    /// Takes room for `bytes` of a stranger's mail if it is there.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Room> {
        let permit = self.strangers_lane(bytes).try_acquire_many_owned(units(bytes)).ok()?;
        Some(Room { permit, bytes })
    }

    /// Makes a stranger's `room` hold `bytes` in all. `false`: there is not so much.
    pub(crate) fn grow(&self, room: &mut Room, bytes: usize) -> bool {
        let lane = self.strangers_lane(bytes);
        let stays = room.bytes > SMALL_MAX || bytes <= SMALL_MAX;
        let more = units(bytes) - if stays { units(room.bytes).min(units(bytes)) } else { 0 };
        if more == 0 {
            return true;
        }
        let Ok(permit) = lane.try_acquire_many_owned(more) else {
            return false;
        };
        if stays {
            room.permit.merge(permit);
        } else {
            room.permit = permit;
        }
        room.bytes = bytes;
        true
    }

    fn strangers_lane(&self, bytes: usize) -> Arc<Semaphore> {
        let lane = if bytes <= SMALL_MAX {
            &self.strangers
        } else {
            &self.large
        };
        lane.clone()
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: usize = 1_048_576;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let budget = Budget::new(16);
        let mut room = budget.try_take(4_096).unwrap();
        assert!(budget.grow(&mut room, MEBIBYTE));
        assert!(budget.try_take(1).is_none());
        assert!(budget.grow(&mut room, 13 * MEBIBYTE));
        assert!(!budget.grow(&mut room, 13 * MEBIBYTE + 1));
        assert!(budget.try_take(1).is_some(), "a grown room leaves the small lane");
        drop(room);
        assert!(budget.try_take(13 * MEBIBYTE).is_some());
    }

    #[tokio::test]
    async fn large_messages_keep_no_small_one_waiting() {
        let budget = Budget::new(16);
        let _large = budget.take(13 * MEBIBYTE).await;
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(2 * MEBIBYTE).await }
        });
        tokio::task::yield_now().await;
        let _strangers = budget.try_take(MEBIBYTE).unwrap();
        budget.take(MEBIBYTE).await;
        assert!(!waiting.is_finished());
    }

    #[tokio::test]
    async fn the_least_budget_holds_the_largest_messages() {
        let budget = Budget::new(crate::config::MEMORY_MIB_MIN);
        drop(budget.take(2 * class_bytes(CLASS_KILOBYTES_MAX)).await);
        assert!(
            budget
                .try_take(crate::mx::room_for(crate::mx::SIZE_MAX as usize))
                .is_some()
        );
    }
}
