//! Mail on its way out: what is spooled, delivered, mixed and told.

use super::{Account, DepositOrder};
use crate::request::{Profile, Wishes};

/// A submission's effect, fixed in full before the commit.
pub struct Spooled {
    /// Reverse-path.
    pub reverse_path: String,
    /// Forward-paths, one delivery each.
    pub recipients: Vec<String>,
    /// The rebuilt message, byte for byte as it will leave.
    pub message: Vec<u8>,
    /// Price by the list in force, in µtok, all legs together.
    pub price: u64,
    /// The part of it that is due behind this relay.
    pub onward: u64,
    /// How many relays passed it on before this one.
    pub hops: u8,
    /// How its deliveries wait in the pool; `None`: they are due at once.
    pub mix: Option<Profile>,
    /// Which reports are wanted on each recipient, in their order; of those behind the end nothing was said.
    pub wishes: Vec<Wishes>,
}

/// Random name of a delivery in the spool; says nothing about the message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// A delivery whose time has come.
pub struct Delivery {
    /// Its name.
    pub id: DeliveryId,
    /// Sending account, for the report of a failure.
    pub account: Account,
    /// Reverse-path.
    pub reverse_path: String,
    /// The one recipient of this delivery.
    pub recipient: String,
    /// The message.
    pub message: Vec<u8>,
    /// Tries so far.
    pub attempts: u32,
    /// When it was accepted, in coarse UTC seconds; of one that was mixed, when it left the pool.
    pub accepted: u64,
    /// Its sender was told of the delay.
    pub is_delay_told: bool,
    /// How many relays passed it on before this one.
    pub hops: u8,
    /// How it was mixed, if it was.
    pub mix: Option<Profile>,
    /// What its Date says, in UTC seconds, whatever its text does: that of the round in which it left the pool.
    pub date: Option<u64>,
    /// Which reports on it are wanted.
    pub wishes: Wishes,
}

/// A delivery in the pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pooled {
    /// Its name.
    pub id: DeliveryId,
    /// How it waits.
    pub profile: Profile,
    /// When it was accepted, in coarse UTC seconds.
    pub accepted: u64,
}

/// A round in which deliveries leave the pool.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct MixRound {
    /// UTC second.
    pub now: u64,
    /// What their Date says, in UTC seconds: as coarse as the operator has it.
    pub date: u64,
    /// UTC day to whose figures they are added.
    pub day: u32,
    /// What is added.
    pub tally: MixTally,
}

/// What left the pool, summed up: nothing of it is about any one delivery.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct MixTally {
    /// Deliveries that left.
    pub left: u64,
    /// Of them those that were to wait longer, as [`Profile::Paranoid`].
    pub paranoid: u64,
    /// Of them those that had waited as long as any may.
    pub held: u64,
    /// Thousandths of bits, the sum over all that left of the entropy of what each was mixed with.
    pub millibits: u64,
}

impl MixTally {
    /// Adds what left besides.
    pub fn add(&mut self, other: &Self) {
        self.left = self.left.saturating_add(other.left);
        self.paranoid = self.paranoid.saturating_add(other.paranoid);
        self.held = self.held.saturating_add(other.held);
        self.millibits = self.millibits.saturating_add(other.millibits);
    }
}

/// How a try ended.
pub enum Outcome {
    /// The next host has it.
    Delivered,
    /// The next host has it, and the sender is told so, unless its mailbox is full.
    Receipted {
        /// The sealed report.
        report: DepositOrder,
    },
    /// Try again at this UTC second.
    Retry {
        /// UTC second of the next try.
        at: u64,
    },
    /// Try again at this UTC second; the sender is told that it takes long.
    Delayed {
        /// UTC second of the next try.
        at: u64,
        /// The sealed report.
        report: Option<DepositOrder>,
    },
    /// Given up, with the report for the sender.
    Failed {
        /// The sealed report.
        report: Option<DepositOrder>,
    },
}

/// One row of the operator's view of the queue, without identifiers.
#[derive(Clone)]
pub struct QueueRow {
    /// Random name.
    pub id: DeliveryId,
    /// Tries so far.
    pub attempts: u32,
    /// UTC second of the next try.
    pub due: u64,
    /// When it was accepted, in coarse UTC seconds.
    pub accepted: u64,
    /// Size class, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// It is in the pool, and due at no time.
    pub is_pooled: bool,
}
