//! Why a request is not carried out.

use serde::{Deserialize, Serialize};

/// Why a request is not carried out. Recipients are named by position only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The value does not cover the price.
    Value {
        /// µtok missing.
        shortfall: u64,
    },
    /// The price is above the holder's maximum, or its price list is not the one in force.
    Price {
        /// Price by the list in force, in µtok.
        price: u64,
        /// Version of the list in force.
        prices: u32,
    },
    /// The number is at or below the floor of kept answers: never executed again, outcome unknown.
    Stale,
    /// The number is in use by another request.
    Conflict,
    /// Too many changes are unacknowledged.
    Unacknowledged,
    /// The sender is no open alias of this account.
    Sender,
    /// The relay has no way to this recipient's domain.
    Route {
        /// Position of the recipient in the envelope.
        recipient: u16,
    },
    /// The recipient is no address.
    Recipient {
        /// Position of the recipient in the envelope.
        recipient: u16,
    },
    /// The message cannot be rebuilt from the allow list.
    Message,
    /// The request's numbers contradict its body or its bounds.
    Malformed,
    /// The alias is taken or reserved.
    AliasTaken,
    /// The account has no alias of that name.
    AliasUnknown,
    /// The account has as many aliases as it may have.
    AliasLimit,
    /// There is no such deposit, or it has been deleted.
    NoDeposit,
    /// The relay is short of room for now: the same number may be sent again later.
    Busy,
    /// The pack's last link keys are reached, which serve balance, top-up, collection and confirmation only.
    Keys,
    /// What is left of the pad does not hold it.
    Pad,
    /// The pack is frozen, since a copy of it was in use: the same number may be sent again once it has a new root.
    Frozen,
    /// The recovery code was not proved, and the pack has one.
    Recovery,
    /// The account has made as many packs today as it may, or too much waits for one of its devices.
    Limit,
    /// The account has open aliases, mail that waits, or other devices.
    Occupied,
    /// There is no such voucher, or another account took it.
    VoucherUnknown,
    /// The account has ended.
    Ended,
    /// The account has as many devices as it may have.
    DeviceLimit,
    /// The account has no other device of that number.
    DeviceUnknown,
    /// More than the account may owe.
    Credit {
        /// µtok that it may still draw.
        left: u64,
    },
    /// The relay does not mix mail as it was asked to: nothing was sent.
    Mix,
    /// No such pack is procured, or not now.
    Offer,
    /// The relay sends no cover, not at that rate, or not on such a link.
    Cover,
}
