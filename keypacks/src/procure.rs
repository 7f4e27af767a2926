//! Packs that a relay procures at another one for its holder (`docs/PROTOCOL.md` section 13), without learning what opens them.
//!
//! ```text
//! holder                              its relay                         the further relay
//! Secrets, offer -- kem | dh, paid --> kem | dh, paid by its own pack --> encapsulate: root, account
//! root, pack     <-- ciphertext, confirm ------------------------------- kept as the answer
//! ```
//!
//! The relay in the middle carries both flights, and may put its own in their place: then it has a pack that it paid for,
//! and the holder is told, since nobody but the further relay can make what [`Endowed::confirm`] is compared with. The root
//! depends on X25519 with the static key of that relay, which the holder has from its [`Card`] and not from the one in between.

mod card;
mod draft;

pub use card::Card;
pub(crate) use card::is_domain;
pub use draft::Draft;

use crate::kdf::he;
use crate::link::RelaySecret;
use crate::pack::Identifier;
use crate::reroot::{self, ENCAPSULATION_RANDOM, Offer, Purpose, Secrets};
use crate::{Refused, Secret};

const PROCURE: Purpose = Purpose {
    extract: "procure",
    root: "procure/root",
};
/// Bytes that show the holder who came to the root.
pub const CONFIRM: usize = 16;

/// A pack as both ends come to it.
pub struct Endowed {
    /// `R`, from which all chains come.
    pub root: Secret<32>,
    /// What names its account: `HE(R, "procure/identifier", 16)`.
    pub identifier: Identifier,
    /// What shows the holder that the other end has the root: `HE(R, "procure/confirm", 16)`.
    pub confirm: [u8; CONFIRM],
}

impl Endowed {
    fn of(root: Secret<32>) -> Self {
        Self {
            identifier: Identifier(*he::<16>(&root, "procure/identifier", &[]).expose()),
            confirm: *he::<CONFIRM>(&root, "procure/confirm", &[]).expose(),
            root,
        }
    }
}

/// The further relay's side: a pack, and the ciphertext for its holder. `operation` is what came, as encoded; `random` is
/// fresh, and used for nothing else.
pub fn endow(
    secret: &RelaySecret,
    offer: &Offer,
    operation: &[u8],
    random: &Secret<ENCAPSULATION_RANDOM>,
) -> Result<(Endowed, Vec<u8>), Refused> {
    let (root, ciphertext) = reroot::encapsulate_for(&PROCURE, secret, offer, operation, random)?;
    Ok((Endowed::of(root), ciphertext))
}

/// The holder's side. Refused: what came was not made by the relay of this key for this order.
pub fn receive(
    secrets: &Secrets,
    relay_public: &[u8; 32],
    operation: &[u8],
    ciphertext: &[u8],
    confirm: &[u8; CONFIRM],
) -> Result<Endowed, Refused> {
    let endowed = Endowed::of(secrets.decapsulate_for(&PROCURE, relay_public, operation, ciphertext)?);
    let is_same = Secret::new(endowed.confirm) == Secret::new(*confirm);
    is_same.then_some(endowed).ok_or(Refused)
}

/// Feeds hostile bytes to every parser of this module; must not panic.
pub fn fuzz(bytes: &[u8]) {
    card::fuzz(bytes);
    draft::fuzz(bytes);
    let secrets = Secrets {
        kem: Secret::new([1; 32]),
        dh: Secret::new([2; 32]),
    };
    let confirm = bytes.first_chunk().copied().unwrap_or_default();
    assert!(receive(&secrets, &[9; 32], bytes, bytes, &confirm).is_err());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(kem: u8) -> Secrets {
        Secrets {
            kem: Secret::new([kem; 32]),
            dh: Secret::new([2; 32]),
        }
    }

    #[test]
    fn both_ends_come_to_the_same_pack_and_whoever_carries_it_to_none() {
        let relay = RelaySecret::new(Secret::new([3; 32]));
        let random = || Secret::new([4; ENCAPSULATION_RANDOM]);
        let (made, ciphertext) = endow(&relay, &secrets(1).offer(), b"endow", &random()).expect("well-formed");
        let open = |secrets: &Secrets, public: &[u8; 32], operation: &[u8], confirm| {
            receive(secrets, public, operation, &ciphertext, confirm)
        };
        let got = open(&secrets(1), &relay.public(), b"endow", &made.confirm).expect("the same");
        assert!(got.root == made.root && got.identifier == made.identifier);
        let other = RelaySecret::new(Secret::new([9; 32]));
        assert!(open(&secrets(1), &other.public(), b"endow", &made.confirm).is_err());
        assert!(open(&secrets(1), &relay.public(), b"another", &made.confirm).is_err());
        assert!(open(&secrets(1), &relay.public(), b"endow", &[0; CONFIRM]).is_err());
        // Whoever puts keys of its own into the order has a pack, and nothing to show the one who asked.
        let (theirs, swapped) = endow(&relay, &secrets(7).offer(), b"endow", &random()).expect("well-formed");
        let shown = receive(&secrets(1), &relay.public(), b"endow", &swapped, &theirs.confirm);
        assert!(shown.is_err());
        // Nor does whoever makes the ciphertext without the relay's secret.
        let (posed, ciphertext) = endow(&other, &secrets(1).offer(), b"endow", &random()).expect("well-formed");
        assert!(receive(&secrets(1), &relay.public(), b"endow", &ciphertext, &posed.confirm).is_err());
    }

    #[test]
    fn a_procured_root_is_none_of_a_change() {
        let relay = RelaySecret::new(Secret::new([3; 32]));
        let random = || Secret::new([4; ENCAPSULATION_RANDOM]);
        let (procured, _) = endow(&relay, &secrets(1).offer(), b"same", &random()).expect("well-formed");
        let (changed, _) = reroot::encapsulate(&relay, &secrets(1).offer(), b"same", &random()).expect("well-formed");
        assert!(procured.root != changed);
    }
}
