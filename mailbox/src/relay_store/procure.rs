//! Packs that one relay procures at another for a holder.

use keypacks::procure::CONFIRM;
use keypacks::{Secret, pack::Identifier};

/// A pack at a further relay that a holder has paid for.
#[derive(Clone)]
pub struct Procure {
    /// Name of the peer at which this relay buys it.
    pub peer: String,
    /// The holder's X-Wing public key.
    pub kem: Vec<u8>,
    /// Its X25519 public key.
    pub dh: [u8; 32],
    /// Link keys of the pack.
    pub keys: u64,
    /// Its value, in µtok.
    pub value: u64,
    /// What is debited, in µtok.
    pub price: u64,
}

/// Random name of such an order; says nothing about who gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcurementId(pub u64);

/// An order that is not answered.
#[derive(Clone)]
pub struct Procurement {
    /// Its name.
    pub id: ProcurementId,
    /// What was ordered.
    pub what: Procure,
    /// UTC day on which it was.
    pub day: u32,
}

/// How an order ended.
pub enum Procured {
    /// The further relay made the pack.
    Made {
        /// What tells its holder the root.
        ciphertext: Vec<u8>,
        /// What shows that the root is that relay's.
        confirm: [u8; CONFIRM],
    },
    /// It did not: the holder gets back what was debited.
    Returned,
}

/// An account to be made for somebody unknown.
pub struct Endowment {
    /// SHA-256 of the operation as encoded: asked for again under another number, it is the same account.
    pub order: [u8; 32],
    /// Identifier of the account.
    pub identifier: Identifier,
    /// Root of its chains.
    pub root: Secret<32>,
    /// What tells the root to its holder.
    pub ciphertext: Vec<u8>,
    /// What shows that it is this relay's.
    pub confirm: [u8; CONFIRM],
    /// Its link keys.
    pub keys: u64,
    /// Its value, in µtok.
    pub value: u64,
}
