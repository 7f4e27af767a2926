//! Directory keys, and which of them a holder goes by.
//!
//! ```text
//! postern-directory-secret:1,SEED,CHECK            a signer's own, 52 characters
//! postern-directory-keys:1,K,KEY,KEY,...,CHECK     so many of these keys must have signed
//! ```
//!
//! CHECK is the first 40 bits of SHA-256 of all that stands before it: against slips of the pen, and nothing else.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::Fault;
use super::list::Signed;
use crate::pack::{read_back, short, spelled};
use crate::{Refused, Secret};

const SECRET_MARK: &str = "postern-directory-secret:1,";
const PIN_MARK: &str = "postern-directory-keys:1,";
/// Most keys of a directory, and most signatures of a list.
pub const DIRECTORY_KEYS_MAX: usize = 16;
/// Length of a signature.
pub(super) const SIGNATURE: usize = 64;

/// Who signed: an Ed25519 public key (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// 52 characters.
    pub fn to_text(self) -> String {
        spelled(&self.0)
    }

    /// Reads what [`Self::to_text`] wrote. Refused: it is none, or not a key that signatures can be compared with.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let key = Self(read_back(text).and_then(|key| key.try_into().ok()).ok_or(Refused)?);
        let is_whole = VerifyingKey::from_bytes(&key.0).is_ok_and(|point| !point.is_weak());
        (is_whole && key.to_text() == text).then_some(key).ok_or(Refused)
    }

    /// Whether this key signed `message`. Keys and points of small order are refused, so that no signature fits two messages.
    pub(super) fn verifies(self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// A signer's Ed25519 key. Wiped when it is dropped.
pub struct DirectoryKey(SigningKey);

impl DirectoryKey {
    /// From a seed that is drawn for it alone.
    pub fn new(seed: Secret<32>) -> Self {
        Self(SigningKey::from_bytes(seed.expose()))
    }

    /// What holders pin of it.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        self.0.sign(message).to_bytes()
    }

    /// The key as the one line of its file.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Long enough for all of it: what a growing text leaves behind is not wiped.
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(SECRET_MARK);
        text.push_str(&Zeroizing::new(spelled(self.0.as_bytes())));
        text.push(',');
        let check = short(text.as_bytes());
        text.push_str(&check);
        text
    }

    /// Reads what [`Self::to_text`] wrote, with white space around it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        let (seed, _) = text
            .strip_prefix(SECRET_MARK)
            .and_then(|rest| rest.split_once(','))
            .ok_or(Refused)?;
        let seed = Zeroizing::new(read_back(seed).ok_or(Refused)?);
        let key = Self::new(Secret::from_slice(&seed).ok_or(Refused)?);
        (*key.to_text() == text).then_some(key).ok_or(Refused)
    }
}

/// The keys that a holder goes by, and how many of them must have signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin {
    threshold: usize,
    /// In order, each once.
    keys: Vec<PublicKey>,
}

impl Pin {
    /// Refused: no key, too many, one twice, or a threshold that cannot be met.
    pub fn new(threshold: usize, mut keys: Vec<PublicKey>) -> Result<Self, Refused> {
        keys.sort_unstable();
        let is_each_once = keys.windows(2).all(|pair| pair[0] != pair[1]);
        let fits = keys.len() <= DIRECTORY_KEYS_MAX && (1..=keys.len()).contains(&threshold);
        (is_each_once && fits)
            .then_some(Self { threshold, keys })
            .ok_or(Refused)
    }

    /// How many must have signed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The keys, in order.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// As one line.
    pub fn to_text(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(|key| key.to_text()).collect();
        let head = format!("{PIN_MARK}{},{},", self.threshold, keys.join(","));
        let check = short(head.as_bytes());
        head + &check
    }

    /// Reads what [`Self::to_text`] wrote, with white space around it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        let fields = text.strip_prefix(PIN_MARK).ok_or(Refused)?.split(',');
        // One more than there may be, so that what is too much is not read.
        let fields: Vec<&str> = fields.take(DIRECTORY_KEYS_MAX + 3).collect();
        let [threshold, keys @ .., _] = &fields[..] else {
            return Err(Refused);
        };
        let keys = keys.iter().map(|key| PublicKey::parse(key)).collect::<Result<_, _>>()?;
        let pin = Self::new(threshold.parse().map_err(|_| Refused)?, keys)?;
        (pin.to_text() == text).then_some(pin).ok_or(Refused)
    }

    /// Whether enough of these keys signed. A signature by one of them that does not fit is no matter of counting: somebody
    /// altered the list behind its signer.
    pub fn verify(&self, signed: &Signed) -> Result<(), Fault> {
        let (mut good, mut unknown) = (0, 0);
        for (key, signature) in signed.signatures() {
            match self.keys.contains(key) {
                true if key.verifies(signed.body().as_bytes(), signature) => good += 1,
                true => return Err(Fault::Altered),
                false => unknown += 1,
            }
        }
        if good >= self.threshold {
            return Ok(());
        }
        Err(Fault::Signatures {
            good,
            wanted: self.threshold,
            unknown,
        })
    }
}

pub(super) fn fuzz(text: &str) {
    if let Ok(pin) = Pin::parse(text) {
        assert!(pin.to_text() == text.trim(), "one pin, one text");
    }
    if let Ok(key) = DirectoryKey::parse(text) {
        assert!(*key.to_text() == text.trim(), "one key, one text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> DirectoryKey {
        DirectoryKey::new(Secret::new([seed; 32]))
    }

    /// RFC 8032 section 7.1, the first of its vectors: the empty message.
    #[test]
    fn keys_sign_as_the_standard_has_it() {
        let bytes = |text: &str| -> Vec<u8> {
            let pairs = text
                .as_bytes()
                .chunks(2)
                .map(|pair| std::str::from_utf8(pair).expect("ASCII"));
            pairs
                .map(|pair| u8::from_str_radix(pair, 16).expect("digits"))
                .collect()
        };
        let seed = bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = DirectoryKey::new(Secret::from_slice(&seed).expect("32 bytes"));
        let public = bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(key.public().0[..], public[..]);
        let signature = bytes(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        );
        assert_eq!(key.sign(b"")[..], signature[..]);
        assert!(key.public().verifies(b"", &key.sign(b"")));
        assert!(!key.public().verifies(b"x", &key.sign(b"")));
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let text = key(1).to_text();
        assert!(DirectoryKey::parse(&format!(" {}\n", *text)).is_ok_and(|read| read.public() == key(1).public()));
        assert!(DirectoryKey::parse(&text.to_lowercase()).is_err());
        assert!(DirectoryKey::parse(&text[..text.len() - 1]).is_err());
    }

    #[test]
    fn a_pin_names_each_key_once_and_can_be_met() {
        let keys = |seeds: &[u8]| seeds.iter().map(|seed| key(*seed).public()).collect::<Vec<_>>();
        let pin = Pin::new(2, keys(&[3, 1, 2])).expect("2 of 3");
        assert!(Pin::parse(&format!("{}\n", pin.to_text())).is_ok_and(|read| read == pin));
        assert!(
            Pin::new(2, keys(&[1, 2, 3])).is_ok_and(|same| same == pin),
            "in whatever order"
        );
        assert!(Pin::new(0, keys(&[1])).is_err());
        assert!(Pin::new(2, keys(&[1])).is_err());
        assert!(Pin::new(1, keys(&[1, 1])).is_err());
        let many: Vec<u8> = (1..=17).collect();
        assert!(Pin::new(1, keys(&many)).is_err() && Pin::new(16, keys(&many[..16])).is_ok());
        let weak = PIN_MARK.to_owned() + &format!("1,{},", spelled(&[0; 32]));
        let weak = weak.clone() + &short(weak.as_bytes());
        assert!(
            Pin::parse(&weak).is_err(),
            "anybody could sign for a key of small order"
        );
    }

    proptest! {
        #[test]
        fn one_changed_character_of_a_pin_is_noticed(at in 0usize..500, by in 1u8..20) {
            let pin = Pin::new(1, vec![key(1).public(), key(2).public()]).expect("1 of 2");
            let mut changed = pin.to_text().into_bytes();
            let at = at % changed.len();
            changed[at] = changed[at].wrapping_add(by);
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert!(Pin::parse(&changed).is_err());
            }
        }
    }
}
