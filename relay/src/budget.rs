//! The bound on mail that is in memory at one time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit in which room is counted, in bytes.
const UNIT: usize = 4_096;

/// Room for mail in memory, shared by all connections. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Budget {
    room: Arc<Semaphore>,
}

/// Room taken; given back when dropped.
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl Budget {
    /// Room for `mebibytes` MiB.
    pub(crate) fn new(mebibytes: u32) -> Self {
        Budget {
            room: Arc::new(Semaphore::new((mebibytes as usize * 1_048_576) / UNIT)),
        }
    }

    /// Takes room for `bytes`, waiting for it.
    pub(crate) async fn take(&self, bytes: usize) -> Room {
        let permit = self
            .room
            .clone()
            .acquire_many_owned(units(bytes))
            .await
            .expect("the semaphore is never closed");
        Room { permit, bytes }
    }

    /// Takes room for `bytes` if it is there.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Room> {
        let permit = self.room.clone().try_acquire_many_owned(units(bytes)).ok()?;
        Some(Room { permit, bytes })
    }

    /// Makes `room` hold `bytes` in all. `false`: there is not so much.
    pub(crate) fn grow(&self, room: &mut Room, bytes: usize) -> bool {
        let more = units(bytes).saturating_sub(units(room.bytes));
        if more == 0 {
            return true;
        }
        let Ok(permit) = self.room.clone().try_acquire_many_owned(more) else {
            return false;
        };
        room.permit.merge(permit);
        room.bytes = bytes;
        true
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let budget = Budget::new(1);
        let mut room = budget.try_take(4_096).unwrap();
        assert!(budget.grow(&mut room, 1_048_576));
        assert!(budget.try_take(1).is_none());
        assert!(!budget.grow(&mut room, 1_048_577));
        drop(room);
        assert!(budget.try_take(1_048_576).is_some());
    }
}
