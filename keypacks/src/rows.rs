//! Rows of a store at rest, each sealed under a key of its own.
//!
//! A store seals many short rows, and what all their keys have in common is most of the work: it is done once here.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::kdf::{self, wipe_stack};
use crate::secretbox::{self, MAC, NONCE};
use crate::{Refused, Secret};

/// What seals the rows of one store: `HE(store key, purpose | name, 32)` each, under hedged nonces.
pub struct RowKeys {
    /// In a place of its own: a state that is moved leaves a copy behind, and whoever holds these keys moves them.
    prepared: Box<Prepared>,
    purpose: &'static str,
}

/// States of HMAC-SHA256, each as good as its key. They wipe themselves when dropped.
struct Prepared {
    rows: Hkdf<Sha256>,
    hedge: Hkdf<Sha256>,
}

impl RowKeys {
    /// `hedge` is the local secret of the nonces, see [`kdf::hedged_nonce`].
    pub fn new(store_key: &Secret<32>, purpose: &'static str, hedge: &Secret<32>) -> Self {
        let prepared = Prepared::new(store_key, hedge);
        wipe_stack();
        Self { prepared, purpose }
    }

    /// Seals a row: `nonce | MAC | ciphertext`. Under another name it does not open.
    pub fn seal(&self, name: &[u8], random: &[u8; 32], plain: &[u8]) -> Vec<u8> {
        let key = self.key(name);
        let row = self.seal_with(&key, random, plain);
        wipe_stack();
        row
    }

    /// Seals bytes under another key than the rows', with a nonce that is hedged as theirs are.
    pub fn seal_under(&self, key: &Secret<32>, random: &[u8; 32], plain: &[u8]) -> Vec<u8> {
        let row = self.seal_with(key, random, plain);
        wipe_stack();
        row
    }

    /// Opens what [`Self::seal`] sealed under this name.
    pub fn open(&self, name: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let key = self.key(name);
        // Wipes the stack when it is done, and so for both.
        secretbox::open(&key, sealed)
    }

    fn key(&self, name: &[u8]) -> Secret<32> {
        Secret::from_fn(|key| kdf::expand_prepared(&self.prepared.rows, self.purpose, name, key))
    }

    fn seal_with(&self, key: &Secret<32>, random: &[u8; 32], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        let context = kdf::hedge_context(random, 0, &Sha256::digest(plain).into());
        kdf::expand_prepared(&self.prepared.hedge, kdf::HEDGE, &context, &mut nonce);
        let mut row = Vec::with_capacity(NONCE + MAC + plain.len());
        row.extend_from_slice(&nonce);
        row.extend_from_slice(&[0; MAC]);
        row.extend_from_slice(plain);
        secretbox::seal_without_wiping(key, &nonce, &mut row[NONCE..]);
        row
    }
}

impl Prepared {
    /// In a frame of its own, below the caller's, where the states are until they are in their place.
    #[inline(never)]
    fn new(store_key: &Secret<32>, hedge: &Secret<32>) -> Box<Self> {
        let prepared = |key: &Secret<32>| Hkdf::from_prk(key.expose()).expect("the key is as long as the digest");
        Box::new(Self {
            rows: prepared(store_key),
            hedge: prepared(hedge),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_state_of_the_keys_moves_with_them() {
        let (pointer, purpose) = (size_of::<usize>(), size_of::<&str>());
        assert_eq!(size_of::<RowKeys>(), pointer + purpose);
        assert!(size_of::<Prepared>() > 100, "the states are elsewhere");
    }

    #[test]
    fn a_row_is_a_box_under_the_key_of_its_name_and_a_hedged_nonce() {
        let (key, hedge, random) = (Secret::new([1; 32]), Secret::new([2; 32]), [3; 32]);
        let rows = RowKeys::new(&key, "store/row", &hedge);
        let sealed = rows.seal(b"name", &random, b"content");
        let nonce = kdf::hedged_nonce(&hedge, &random, 0, b"content");
        let own = kdf::he(&key, "store/row", b"name");
        assert_eq!(sealed, secretbox::seal(&own, nonce, b"content"));
        assert_eq!(sealed, rows.seal_under(&own, &random, b"content"));
        assert_eq!(rows.open(b"name", &sealed).as_deref(), Ok(&b"content".to_vec()));
        assert!(rows.open(b"other", &sealed).is_err());
    }
}
