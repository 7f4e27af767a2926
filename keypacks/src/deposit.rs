//! Deposits (`docs/PROTOCOL.md` section 6): mail that a relay stores and, from its commit on, cannot open.
//!
//! The body is sealed under a one-message key while it streams in; that key is wrapped under the next post key.
//! Bodies have few lengths, the size classes, which are what is priced and what the wire shows.

mod body;
mod carried;
mod class;
mod wrap;

pub use body::{BodySealer, Sealed, TooLong, open_body};
pub use carried::{carried_bytes, carried_kilobytes, split_carried};
pub use class::{CLASS_KILOBYTES_MAX, class_bytes, class_for, is_class, sealed_capacity, sealed_class_for};
pub use wrap::{WRAP, WrapFields, open_wrap, seal_wrap, wrap_digest, wrap_tag};

use crate::Secret;

/// The key of one body. Drawn from the operating system at that moment, wiped when the wrap is durable.
pub struct Dek(Secret<32>);

impl Dek {
    /// Takes 32 uniform bytes that seal nothing else.
    pub fn new(key: Secret<32>) -> Self {
        Self(key)
    }

    /// The bytes, for a record that can be erased.
    pub fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// A second copy, for one more recipient's wrap.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }
}

/// Feeds hostile bytes to every parser of deposits; must not panic.
pub fn fuzz(bytes: &[u8]) {
    body::fuzz(bytes);
    carried::fuzz(bytes);
    wrap::fuzz(bytes);
}
