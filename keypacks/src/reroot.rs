//! New roots (`docs/PROTOCOL.md` section 12): a pack goes on from a secret that no copy of it holds.
//!
//! ```text
//! holder                                              relay
//! Secrets, offer   -- kem | dh | recovery | proof -->  encapsulate
//! decapsulate      <-- ciphertext, indices ----------  R'
//! R'
//! ```
//!
//! Both flights go under a link of the pack. Whoever only recorded them, with a copy of the pack's keys, has to break
//! X-Wing to follow; whoever poses as the relay would need the secret of `S`, which the pack pins.

use x_wing::{DecapsulationKeyRejectNonContrib, EncapsulationKey, KeyExport, TryDecapsulate, TryKeyInit};

use crate::kdf::{he, hx};
use crate::link::{RelaySecret, x25519, x25519_public};
use crate::pack::{spell, unspell};
use crate::{Refused, Secret};

/// Bytes of an X-Wing public key.
pub const KEM_PUBLIC: usize = x_wing::ENCAPSULATION_KEY_SIZE;
/// Bytes of an X-Wing ciphertext.
pub const CIPHERTEXT: usize = x_wing::CIPHERTEXT_SIZE;
/// Fresh randomness that [`encapsulate`] takes.
pub const ENCAPSULATION_RANDOM: usize = x_wing::ENCAPSULATION_RANDOMNESS_SIZE;

/// What a holder keeps between asking for a new root and the answer; used for one request, then overwritten.
pub struct Secrets {
    /// Seed of the X-Wing key.
    pub kem: Secret<32>,
    /// X25519 secret that meets the relay's static key.
    pub dh: Secret<32>,
}

/// What a holder shows of them.
pub struct Offer {
    /// X-Wing public key, [`KEM_PUBLIC`] bytes.
    pub kem: Vec<u8>,
    /// X25519 public key.
    pub dh: [u8; 32],
}

impl Secrets {
    /// The public halves.
    pub fn offer(&self) -> Offer {
        let kem = kem_public(&self.kem);
        wipe_stack();
        Offer {
            kem,
            dh: x25519_public(&self.dh),
        }
    }

    /// The holder's side: `R'` from the relay's ciphertext. `operation` is what was sent, as encoded.
    pub fn decapsulate(
        &self,
        relay_public: &[u8; 32],
        operation: &[u8],
        ciphertext: &[u8],
    ) -> Result<Secret<32>, Refused> {
        self.decapsulate_for(&REROOT, relay_public, operation, ciphertext)
    }

    /// [`Self::decapsulate`] for another purpose.
    pub(crate) fn decapsulate_for(
        &self,
        purpose: &Purpose,
        relay_public: &[u8; 32],
        operation: &[u8],
        ciphertext: &[u8],
    ) -> Result<Secret<32>, Refused> {
        let shared = open_kem(&self.kem, ciphertext);
        wipe_stack();
        let fixed = x25519(&self.dh, relay_public)?;
        Ok(root(purpose, &shared?, &fixed, operation, ciphertext))
    }
}

/// What two ends agree on a root for: no two purposes come to the same.
pub(crate) struct Purpose {
    pub(crate) extract: &'static str,
    pub(crate) root: &'static str,
}

const REROOT: Purpose = Purpose {
    extract: "reroot",
    root: "reroot/root",
};

/// The relay's side: `R'` and the ciphertext for the holder. `random` is fresh, and used for nothing else.
pub fn encapsulate(
    secret: &RelaySecret,
    offer: &Offer,
    operation: &[u8],
    random: &Secret<ENCAPSULATION_RANDOM>,
) -> Result<(Secret<32>, Vec<u8>), Refused> {
    encapsulate_for(&REROOT, secret, offer, operation, random)
}

/// [`encapsulate`] for another purpose.
pub(crate) fn encapsulate_for(
    purpose: &Purpose,
    secret: &RelaySecret,
    offer: &Offer,
    operation: &[u8],
    random: &Secret<ENCAPSULATION_RANDOM>,
) -> Result<(Secret<32>, Vec<u8>), Refused> {
    let sealed = seal_kem(&offer.kem, random);
    wipe_stack();
    let (shared, ciphertext) = sealed?;
    let fixed = secret.agree(&offer.dh)?;
    let root = root(purpose, &shared, &fixed, operation, &ciphertext);
    Ok((root, ciphertext))
}

/// `R' = HE(HX("reroot", ss | X25519(dh, S)), "reroot/root", H(operation) | H(ciphertext), 32)`.
/// For other purposes their names stand in place of these two.
fn root(purpose: &Purpose, shared: &Secret<32>, fixed: &Secret<32>, operation: &[u8], ciphertext: &[u8]) -> Secret<32> {
    let prk = hx(purpose.extract, &[shared.expose(), fixed.expose()]);
    let mut context = [0; 64];
    context[..32].copy_from_slice(&crate::kdf::hash(&[operation]));
    context[32..].copy_from_slice(&crate::kdf::hash(&[ciphertext]));
    he(&prk, purpose.root, &context)
}

/// The link token that both ends hold when a new root begins: `HE(R', "reroot/token", "", 16)`.
pub fn first_token(root: &Secret<32>) -> [u8; 16] {
    *he::<16>(root, "reroot/token", &[]).expose()
}

/// Apart from its caller, so that its working state lies in a frame that [`wipe_stack`] reaches.
#[inline(never)]
fn kem_public(seed: &Secret<32>) -> Vec<u8> {
    let key = DecapsulationKeyRejectNonContrib::from(*seed.expose());
    x_wing::Decapsulator::encapsulation_key(&key).to_bytes().to_vec()
}

/// Apart from its caller, as [`kem_public`] is.
#[inline(never)]
fn open_kem(seed: &Secret<32>, ciphertext: &[u8]) -> Result<Secret<32>, Refused> {
    let key = DecapsulationKeyRejectNonContrib::from(*seed.expose());
    let ciphertext = ciphertext.try_into().map_err(|_| Refused)?;
    let shared = key.try_decapsulate(ciphertext).map_err(|_| Refused)?;
    Ok(Secret::new(shared.into()))
}

/// Apart from its caller, as [`kem_public`] is.
#[inline(never)]
fn seal_kem(public: &[u8], random: &Secret<ENCAPSULATION_RANDOM>) -> Result<(Secret<32>, Vec<u8>), Refused> {
    let public = EncapsulationKey::new_from_slice(public).map_err(|_| Refused)?;
    let (ciphertext, shared) = public.encapsulate_deterministic(random.expose().into());
    Ok((Secret::new(shared.into()), ciphertext.to_vec()))
}

/// As [`crate::kdf`] does, as deep as lattices go.
#[inline(always)]
fn wipe_stack() {
    zeroize::zeroize_stack::<131_072>();
}

/// What proves that whoever asks for the next root may: 16 random bytes that the holder's person keeps, and nobody else.
///
/// The relay holds [`RecoveryCode::verifier`] alone.
pub struct RecoveryCode(Secret<16>);

/// What the checksum of a code is made for: no identifier reads as one.
const RECOVERY: &str = "recovery";

impl RecoveryCode {
    /// Takes 16 uniform bytes.
    pub fn new(bytes: Secret<16>) -> Self {
        Self(bytes)
    }

    /// Seven groups of four characters, spelled as an identifier is, with a checksum of its own.
    pub fn to_text(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(spell(self.0.expose(), RECOVERY))
    }

    /// Reads what [`Self::to_text`] wrote, as [`crate::pack::Identifier::parse`] does.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        unspell(text, RECOVERY).map(Self)
    }

    /// The bytes, which are the proof.
    pub fn proof(&self) -> &[u8; 16] {
        self.0.expose()
    }

    /// `HX("reroot/recovery", code)`: what the relay keeps.
    pub fn verifier(&self) -> [u8; 32] {
        verifier(self.proof())
    }
}

/// What a relay compares with, of a proof that was shown.
pub fn verifier(proof: &[u8; 16]) -> [u8; 32] {
    *hx("reroot/recovery", &[proof]).expose()
}

/// Feeds hostile bytes to every parser of this module; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let offer = Offer {
        kem: bytes.to_vec(),
        dh: bytes.first_chunk().copied().unwrap_or([9; 32]),
    };
    let secret = RelaySecret::new(Secret::new([7; 32]));
    let _ = encapsulate(&secret, &offer, bytes, &Secret::new([5; ENCAPSULATION_RANDOM]));
    let secrets = Secrets {
        kem: Secret::new([1; 32]),
        dh: Secret::new([2; 32]),
    };
    let _ = secrets.decapsulate(&secret.public(), bytes, bytes);
    if let Some(code) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| RecoveryCode::parse(text).ok())
    {
        let again = RecoveryCode::parse(&code.to_text());
        assert!(
            again.is_ok_and(|again| again.proof() == code.proof()),
            "what was read can be read again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Identifier;

    fn secrets() -> Secrets {
        Secrets {
            kem: Secret::new([1; 32]),
            dh: Secret::new([2; 32]),
        }
    }

    #[test]
    fn both_ends_come_to_the_same_root_and_nobody_else_does() {
        let relay = RelaySecret::new(Secret::new([3; 32]));
        let random = Secret::new([4; ENCAPSULATION_RANDOM]);
        let (holder, offer) = (secrets(), secrets().offer());
        assert_eq!(offer.kem.len(), KEM_PUBLIC);
        let (root, ciphertext) = encapsulate(&relay, &offer, b"operation", &random).expect("well-formed");
        assert_eq!(ciphertext.len(), CIPHERTEXT);
        let open = |secrets: &Secrets, public: &[u8; 32], operation: &[u8], ciphertext: &[u8]| {
            secrets.decapsulate(public, operation, ciphertext)
        };
        assert!(open(&holder, &relay.public(), b"operation", &ciphertext).is_ok_and(|same| same == root));
        let differs = |other: Result<Secret<32>, Refused>| other.is_ok_and(|other| other != root);
        let stranger = RelaySecret::new(Secret::new([9; 32]));
        assert!(differs(open(&holder, &stranger.public(), b"operation", &ciphertext)));
        assert!(differs(open(&holder, &relay.public(), b"another", &ciphertext)));
        for secrets in [
            Secrets {
                kem: Secret::new([8; 32]),
                ..secrets()
            },
            Secrets {
                dh: Secret::new([8; 32]),
                ..secrets()
            },
        ] {
            assert!(differs(open(&secrets, &relay.public(), b"operation", &ciphertext)));
        }
        let mut damaged = ciphertext.clone();
        damaged[500] ^= 1;
        assert!(differs(open(&holder, &relay.public(), b"operation", &damaged)));
    }

    #[test]
    fn points_of_low_order_and_wrong_lengths_are_refused() {
        let relay = RelaySecret::new(Secret::new([3; 32]));
        let random = || Secret::new([4; ENCAPSULATION_RANDOM]);
        let offer = || secrets().offer();
        let low = Offer { dh: [0; 32], ..offer() };
        assert!(encapsulate(&relay, &low, b"", &random()).is_err());
        let mut short = offer();
        short.kem.pop();
        assert!(encapsulate(&relay, &short, b"", &random()).is_err());
        let (_, mut ciphertext) = encapsulate(&relay, &offer(), b"", &random()).expect("well-formed");
        assert!(secrets().decapsulate(&[0; 32], b"", &ciphertext).is_err());
        assert!(secrets().decapsulate(&relay.public(), b"", &ciphertext[1..]).is_err());
        ciphertext[1_088..].fill(0);
        assert!(secrets().decapsulate(&relay.public(), b"", &ciphertext).is_err());
    }

    #[test]
    fn a_code_is_read_as_it_is_written_and_no_identifier_is_one() {
        let code = RecoveryCode::new(Secret::new(*b"sixteen octets ."));
        let text = code.to_text();
        assert_eq!(text.len(), 34);
        let again = RecoveryCode::parse(&text.to_lowercase().replace('-', " ")).expect("as written");
        assert!(again.verifier() == code.verifier());
        assert!(RecoveryCode::parse(&Identifier(*code.proof()).to_text()).is_err());
        assert!(Identifier::parse(&text).is_err());
        let mut slip = text.to_string();
        slip.replace_range(0..1, if slip.starts_with('0') { "1" } else { "0" });
        assert!(RecoveryCode::parse(&slip).is_err());
    }

    #[test]
    fn a_seed_gives_the_key_of_the_draft() {
        // First test vector of draft-connolly-cfrg-xwing-kem: its seed, and the beginning of its public key.
        let seed = [
            0x7f, 0x9c, 0x2b, 0xa4, 0xe8, 0x8f, 0x82, 0x7d, 0x61, 0x60, 0x45, 0x50, 0x76, 0x05, 0x85, 0x3e, 0xd7, 0x3b,
            0x80, 0x93, 0xf6, 0xef, 0xbc, 0x88, 0xeb, 0x1a, 0x6e, 0xac, 0xfa, 0x66, 0xef, 0x26,
        ];
        let kem = Secret::new(seed);
        let offer = Secrets { kem, ..secrets() }.offer();
        assert_eq!(offer.kem[..8], [0xe2, 0x23, 0x6b, 0x35, 0xa8, 0xc2, 0x4b, 0x39]);
    }
}
