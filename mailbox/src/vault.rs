//! Sealing of rows and slots: `nonce(24) | mac(16) | ciphertext`, XSalsa20-Poly1305.

use std::sync::Arc;

use keypacks::{Secret, kdf, secretbox};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::entropy::{Entropy, random};

/// Version of all row layouts, first byte of every opened row.
const ROW_VERSION: u8 = 1;

/// The store key and what is sealed under it: values of the index that have content.
pub struct Vault {
    key: Secret<32>,
    entropy: Arc<dyn Entropy>,
}

impl Vault {
    /// A vault under this store key.
    pub fn new(key: Secret<32>, entropy: Arc<dyn Entropy>) -> Self {
        Self { key, entropy }
    }

    /// Seals a row under `HE(store key, "row", table | 0 | record)`: moved to another row, it does not open.
    pub fn seal<T: Serialize>(&self, table: &str, record: &[u8], row: &T) -> Vec<u8> {
        let plain = Zeroizing::new(encode(row));
        seal(&self.row_key(table, record), &plain, &*self.entropy)
    }

    /// Opens what [`Self::seal`] sealed for the same table and record.
    pub fn open<T: DeserializeOwned>(&self, table: &str, record: &[u8], sealed: &[u8]) -> Result<T, StoreError> {
        let plain = open(&self.row_key(table, record), sealed)?;
        decode(&plain)
    }

    /// A name for something that must not be stored itself: HKDF-Expand of one block, which is `HMAC-SHA256` under a key
    /// of its own.
    pub fn name(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        let key = kdf::he::<32>(&self.key, "store/name", purpose.as_bytes());
        *kdf::he::<32>(&key, "store/name-of", bytes).expose()
    }

    /// Another key for the same store, `HE(store key, purpose)`.
    pub fn derive(&self, purpose: &str) -> Secret<32> {
        kdf::he(&self.key, "store/derive", purpose.as_bytes())
    }

    fn row_key(&self, table: &str, record: &[u8]) -> Secret<32> {
        let mut context = Vec::with_capacity(table.len() + 1 + record.len());
        context.extend_from_slice(table.as_bytes());
        context.push(0);
        context.extend_from_slice(record);
        kdf::he(&self.key, "store/row", &context)
    }
}

/// Key of a row that ends with its slab record: `HE(outer key, record)`, the outer key being the store's or an epoch's.
pub fn slab_key(outer: &Secret<32>, record: &Secret<32>) -> Secret<32> {
    kdf::he(outer, "store/slab", record.expose())
}

/// Seals bytes. The nonce is hedged with the plaintext, so that a generator that repeats does not repeat nonces.
pub fn seal(key: &Secret<32>, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    secretbox::seal(key, kdf::hedged_nonce(key, &random(entropy), 0, plain), plain)
}

/// Seals bytes under a key that was drawn for them alone: any nonce will do.
pub fn seal_once(key: &Secret<32>, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    secretbox::seal(key, random(entropy), plain)
}

/// Opens what [`seal`] or [`seal_once`] sealed.
pub fn open(key: &Secret<32>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    secretbox::open(key, sealed).map_err(|_| StoreError::Corrupt)
}

/// Encodes a row: version byte, then postcard.
pub fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_extend(row, vec![ROW_VERSION]).expect("a row is plain data, and a vector takes any length")
}

/// Decodes a row, refusing another version and trailing bytes.
pub fn decode<T: DeserializeOwned>(plain: &[u8]) -> Result<T, StoreError> {
    let (version, rest) = plain.split_first().ok_or(StoreError::Corrupt)?;
    if *version != ROW_VERSION {
        return Err(StoreError::Corrupt);
    }
    match postcard::take_from_bytes(rest) {
        Ok((row, [])) => Ok(row),
        _ => Err(StoreError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_row_opens_in_its_own_place_only() {
        let vault = Vault::new(Secret::new([1; 32]), Arc::new(SeededEntropy::new(1)));
        let sealed = vault.seal("table", &[1, 2], &("content", 7u32));
        assert_eq!(
            vault.open::<(String, u32)>("table", &[1, 2], &sealed),
            Ok(("content".to_owned(), 7))
        );
        assert_eq!(
            vault.open::<(String, u32)>("table", &[1, 3], &sealed),
            Err(StoreError::Corrupt)
        );
        assert_eq!(
            vault.open::<(String, u32)>("other", &[1, 2], &sealed),
            Err(StoreError::Corrupt)
        );
        assert_eq!(
            vault.open::<(String, u32)>("table", &[1, 2], &sealed[1..]),
            Err(StoreError::Corrupt)
        );
        assert_eq!(
            vault.open::<String>("table", &[1, 2], &sealed),
            Err(StoreError::Corrupt),
            "trailing bytes"
        );
    }

    #[test]
    fn a_generator_that_repeats_does_not_repeat_nonces() {
        let key = Secret::new([3; 32]);
        let first = seal(&key, b"one", &SeededEntropy::new(5));
        let second = seal(&key, b"two", &SeededEntropy::new(5));
        assert_ne!(first[..24], second[..24]);
    }
}
