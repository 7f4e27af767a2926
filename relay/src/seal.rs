//! Mail for a mailbox: sealed while it streams in, closed to the relay from the commit on.

use keypacks::Secret;
use keypacks::deposit::{BodySealer, Dek, TooLong};
use mailbox::relay_store::{Account, DepositOrder};
use mailbox::request::{Envelope, Origin, payload_head};
use smtp_bridge::net::Host;

/// A body under way.
pub(crate) struct Sealing {
    dek: Dek,
    sealer: BodySealer,
}

/// A sealed body with its key, not yet anybody's.
pub(crate) struct SealedMail {
    dek: Dek,
    body: Vec<u8>,
    kilobytes: u32,
    length: u32,
}

impl Sealing {
    /// Begins a deposit from `reverse_path`, under a key drawn now from the operating system.
    pub(crate) fn new(host: &Host, reverse_path: &str) -> Self {
        let dek = Dek::new(Secret::from_fn(|bytes| host.entropy.fill(bytes)));
        let mut sealer = BodySealer::new(dek.duplicate(), host.random());
        let envelope = Envelope {
            reverse_path: reverse_path.to_owned(),
            recipients: Vec::new(),
            origin: Origin::Plain,
        };
        sealer
            .push(&payload_head(&envelope))
            .expect("an envelope is far below the largest class");
        Sealing { dek, sealer }
    }

    /// Takes the next bytes of the message.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.sealer.push(bytes)
    }

    /// Pads to the class and seals the end.
    pub(crate) fn finish(self) -> SealedMail {
        let sealed = self.sealer.finish();
        SealedMail {
            dek: self.dek,
            body: sealed.body,
            kilobytes: sealed.kilobytes,
            length: sealed.length,
        }
    }
}

impl SealedMail {
    /// The order that stores it for `recipients`.
    pub(crate) fn into_order(self, recipients: Vec<(Account, u32)>, day: u32) -> DepositOrder {
        DepositOrder {
            recipients,
            body: self.body,
            dek: self.dek,
            length: self.length,
            kilobytes: self.kilobytes,
            day,
        }
    }
}

/// Seals a whole message; `None` if it is longer than the largest class.
pub(crate) fn message(host: &Host, reverse_path: &str, message: &[u8]) -> Option<SealedMail> {
    let mut sealing = Sealing::new(host, reverse_path);
    sealing.push(message).ok()?;
    Some(sealing.finish())
}
