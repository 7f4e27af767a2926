//! Tables: rows of one type under keys of one type.

use std::marker::PhantomData;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::index::{Source, Write};
use crate::overlay::{KEY_MAX, RowName};
use crate::vault;

/// A table whose rows are of type `R` under keys of type `K`.
pub(crate) struct Table<K, R> {
    /// Its own in the store; 0 is taken by the names of bodies.
    number: u8,
    types: PhantomData<fn(K) -> R>,
}

impl<K: RowKey, R: Serialize + DeserializeOwned> Table<K, R> {
    pub(crate) const fn new(number: u8) -> Self {
        Self {
            number,
            types: PhantomData,
        }
    }

    pub(crate) fn get(&self, source: &impl Source, key: K) -> Result<Option<R>, StoreError> {
        source
            .row(&self.name(&key))?
            .map(|plain| vault::decode(&plain))
            .transpose()
    }

    pub(crate) fn put(&self, write: &Write<'_>, key: K, row: &R) -> Result<(), StoreError> {
        write.set(self.name(&key), Some(vault::encode_shared(row)));
        Ok(())
    }

    pub(crate) fn remove(&self, write: &Write<'_>, key: K) -> Result<(), StoreError> {
        write.set(self.name(&key), None);
        Ok(())
    }

    /// Opens the rows from `first` to `last`, both included, in order, until `visit` breaks.
    pub(crate) fn scan(
        &self,
        source: &impl Source,
        (first, last): (K, K),
        mut visit: impl FnMut(K, R) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        source.rows(self.name(&first), self.name(&last), &mut |name, plain| {
            let key = K::from_bytes(name.key()).ok_or(StoreError::Corrupt)?;
            visit(key, vault::decode(plain)?)
        })
    }

    /// Key of the last row between `first` and `last`, both included.
    pub(crate) fn last_key(&self, source: &impl Source, (first, last): (K, K)) -> Result<Option<K>, StoreError> {
        match source.last(self.name(&first), self.name(&last))? {
            None => Ok(None),
            Some(name) => K::from_bytes(name.key()).ok_or(StoreError::Corrupt).map(Some),
        }
    }

    /// The key of a row, if it is this table's.
    pub(crate) fn key_of(&self, name: &RowName) -> Option<K> {
        (name.table() == self.number)
            .then(|| K::from_bytes(name.key()))
            .flatten()
    }

    fn name(&self, key: &K) -> RowName {
        let mut bytes = [0; KEY_MAX];
        let length = key.write_to(&mut bytes);
        RowName::new(self.number, &bytes[..length]).expect("no key is longer than the longest")
    }
}

/// A key as bytes in the order of the keys.
pub(crate) trait RowKey: Sized {
    /// Writes the key to the front of `out`; returns its length.
    fn write_to(&self, out: &mut [u8; KEY_MAX]) -> usize;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl RowKey for u64 {
    fn write_to(&self, out: &mut [u8; KEY_MAX]) -> usize {
        out[..8].copy_from_slice(&self.to_be_bytes());
        8
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl RowKey for (u64, u64) {
    fn write_to(&self, out: &mut [u8; KEY_MAX]) -> usize {
        out[..8].copy_from_slice(&self.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.1.to_be_bytes());
        16
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*first), u64::from_bytes(second)?))
    }
}

impl RowKey for [u8; 32] {
    fn write_to(&self, out: &mut [u8; KEY_MAX]) -> usize {
        *out = *self;
        32
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// The only row of its table.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl RowKey for Single {
    fn write_to(&self, _: &mut [u8; KEY_MAX]) -> usize {
        0
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(Single)
    }
}
