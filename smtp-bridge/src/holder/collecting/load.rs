//! How much is under way at one time.

use keypacks::deposit;
use mailbox::holder_store::{PendingDeposit, STORED_MAX};

/// Most bodies that were asked for and are not durable yet.
const UNSTORED_MAX: usize = STORED_MAX;
/// Most bytes of bodies that were asked for and are not durable yet; a larger body is asked for when there is no other.
const UNSTORED_BYTES_MAX: usize = 8 << 20;
/// Room on the disk that is wanted beside the bodies themselves: their seals, rows and summaries, and other commits.
const ROOM_BESIDE: u64 = 1 << 20;

/// Bodies, by their number and the length of what is sealed.
#[derive(Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn add(&mut self, pending: &PendingDeposit) {
        self.count += 1;
        self.bytes += deposit::class_bytes(pending.kilobytes);
    }

    pub(super) fn sub(&mut self, other: Load) {
        self.count -= other.count;
        self.bytes -= other.bytes;
    }

    /// Room on the disk that storing them takes at most, in bytes.
    pub(super) fn wants(&self) -> u64 {
        self.bytes as u64 + ROOM_BESIDE
    }

    /// Whether a body may be asked for beside these.
    pub(super) fn has_room_for(&self, pending: &PendingDeposit) -> bool {
        let bytes = self.bytes + deposit::class_bytes(pending.kilobytes);
        self.count == 0 || (self.count < UNSTORED_MAX && bytes <= UNSTORED_BYTES_MAX)
    }
}
