//! Sealing of rows and slots: `nonce(24) | mac(16) | ciphertext`, XSalsa20-Poly1305.

use std::sync::Arc;

use keypacks::rows::RowKeys;
use keypacks::{Secret, kdf, secretbox};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::entropy::{Entropy, random};

/// Version of all row layouts, first byte of every opened row.
const ROW_VERSION: u8 = 1;
/// Length of most rows at most, in bytes.
const SHORT: usize = 384;

/// The store key and what is sealed under it: values of the index that have content.
pub struct Vault {
    key: Secret<32>,
    rows: RowKeys,
    entropy: Arc<dyn Entropy>,
}

impl Vault {
    /// A vault under this store key.
    pub fn new(key: Secret<32>, entropy: Arc<dyn Entropy>) -> Self {
        let rows = RowKeys::new(&key, "store/row", &kdf::he(&key, "store/hedge", &[]));
        Self { key, rows, entropy }
    }

    /// Seals a row's bytes under `HE(store key, "store/row", name)`: moved to another row, they do not open.
    pub fn seal_row(&self, name: &[u8], plain: &[u8]) -> Vec<u8> {
        self.rows.seal(name, &random(&*self.entropy), plain)
    }

    /// Opens what [`Self::seal_row`] sealed under the same name.
    pub fn open_row(&self, name: &[u8], sealed: &[u8]) -> Result<Arc<[u8]>, StoreError> {
        let plain = self.rows.open(name, sealed).map_err(|_| StoreError::Corrupt)?;
        Ok(plain.as_slice().into())
    }

    /// [`seal`], cheaper for short things.
    pub fn seal_under(&self, key: &Secret<32>, plain: &[u8]) -> Vec<u8> {
        self.rows.seal_under(key, &random(&*self.entropy), plain)
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
    const PLAIN: &str = "a row is plain data, and a vector takes any length";
    // A vector that grows leaves pieces of what it holds behind, where nothing wipes them.
    let length = 1 + postcard::experimental::serialized_size(row).expect(PLAIN);
    let mut encoded = Vec::with_capacity(length);
    encoded.push(ROW_VERSION);
    postcard::to_extend(row, encoded).expect(PLAIN)
}

/// [`encode`] for a row that is kept in memory. Most rows are short, and this is what a commit does most.
pub fn encode_shared<T: Serialize>(row: &T) -> Arc<[u8]> {
    let mut room = [0; SHORT];
    room[0] = ROW_VERSION;
    match postcard::to_slice(row, &mut room[1..]) {
        Ok(encoded) => {
            let length = 1 + encoded.len();
            room[..length].into()
        }
        Err(_) => encode(row).into(),
    }
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
    fn a_row_opens_under_its_own_name_only() {
        let vault = Vault::new(Secret::new([1; 32]), Arc::new(SeededEntropy::new(1)));
        let sealed = vault.seal_row(&[1, 2], b"content");
        assert_eq!(vault.open_row(&[1, 2], &sealed).as_deref(), Ok(&b"content"[..]));
        assert_eq!(vault.open_row(&[1, 3], &sealed), Err(StoreError::Corrupt));
        assert_eq!(vault.open_row(&[1, 2], &sealed[1..]), Err(StoreError::Corrupt));
    }

    /// Rows of stores that were written before open as they did.
    #[test]
    fn the_key_of_a_row_is_expanded_from_the_store_key_and_its_name() {
        let key = Secret::new([1; 32]);
        let sealed = seal(&kdf::he(&key, "store/row", &[7, 8]), b"content", &SeededEntropy::new(1));
        let vault = Vault::new(key, Arc::new(SeededEntropy::new(1)));
        assert_eq!(vault.open_row(&[7, 8], &sealed).as_deref(), Ok(&b"content"[..]));
    }

    #[test]
    fn a_row_of_another_version_or_length_does_not_decode() {
        let encoded = encode(&("content", 7u32));
        assert_eq!(*encode_shared(&("content", 7u32)), *encoded);
        let long = "x".repeat(2 * SHORT);
        assert_eq!(*encode_shared(&long), *encode(&long));
        assert_eq!(decode::<(String, u32)>(&encoded), Ok(("content".to_owned(), 7)));
        assert_eq!(decode::<String>(&encoded), Err(StoreError::Corrupt), "trailing bytes");
        assert_eq!(
            decode::<(String, u32)>(&[&[ROW_VERSION + 1], &encoded[1..]].concat()),
            Err(StoreError::Corrupt)
        );
    }

    #[test]
    fn a_generator_that_repeats_does_not_repeat_nonces() {
        let key = Secret::new([3; 32]);
        let first = seal(&key, b"one", &SeededEntropy::new(5));
        let second = seal(&key, b"two", &SeededEntropy::new(5));
        assert_ne!(first[..24], second[..24]);
        let vault = || Vault::new(Secret::new([1; 32]), Arc::new(SeededEntropy::new(5)));
        assert_ne!(
            vault().seal_row(b"name", b"one")[..24],
            vault().seal_row(b"name", b"two")[..24]
        );
        assert_ne!(
            vault().seal_under(&key, b"one")[..24],
            vault().seal_under(&key, b"two")[..24]
        );
    }
}
