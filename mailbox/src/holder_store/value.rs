//! What the holder knows of its value.

/// What the holder last heard of its value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct ValueMirror {
    /// µtok left at the relay.
    pub balance: u64,
    /// Link keys left.
    pub keys: u64,
    /// All credits, in µtok.
    pub credits: u64,
    /// All debits, in µtok.
    pub debits: u64,
    /// UTC second of the news; 0 is never.
    pub at: u64,
}

/// What the holder itself has noted of what it paid, from the relay's answers to single changes: to be held against the
/// sums that the relay tells.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct OwnBook {
    /// The first change number of which all is noted: 1, the book is whole.
    pub from: u64,
    /// Submissions and parcels of mail that were accepted.
    pub messages: u64,
    /// What they were debited, in µtok, as each answer told.
    pub debited: u64,
    /// What they were expected to cost, in µtok, when each was sent.
    pub agreed: u64,
    /// What the dearest one was debited beyond that, in µtok, since its holder last passed over it: an honest relay never does.
    pub beyond: u64,
    /// µtok that were drawn on credit.
    pub drawn: u64,
    /// µtok that were put into other packs or vouchers.
    pub given: u64,
    /// µtok that came out of vouchers.
    pub received: u64,
    /// µtok that changes may have cost of which no answer will come any more.
    pub unknown: u64,
}
