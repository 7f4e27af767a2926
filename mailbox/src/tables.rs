//! Tables of the index: keys in clear and in order, values sealed in the vault.

use std::marker::PhantomData;
use std::ops::ControlFlow;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::vault::Vault;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A table whose rows are of type `R` under keys of type `K`.
pub(crate) struct Table<K, R> {
    name: &'static str,
    types: PhantomData<fn(K) -> R>,
}

impl<K: RowKey, R: Serialize + DeserializeOwned> Table<K, R> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            types: PhantomData,
        }
    }

    pub(crate) fn get(&self, source: &impl Source, vault: &Vault, key: K) -> Result<Option<R>, StoreError> {
        let key = key.to_bytes();
        source
            .get(self.definition(), &key)?
            .map(|sealed| vault.open(self.name, &key, &sealed))
            .transpose()
    }

    pub(crate) fn put(&self, write: &WriteTransaction, vault: &Vault, key: K, row: &R) -> Result<(), StoreError> {
        let key = key.to_bytes();
        let sealed = vault.seal(self.name, &key, row);
        write.open_table(self.definition())?.insert(&key[..], &sealed[..])?;
        Ok(())
    }

    /// Returns whether the row was there.
    pub(crate) fn remove(&self, write: &WriteTransaction, key: K) -> Result<bool, StoreError> {
        Ok(write
            .open_table(self.definition())?
            .remove(&key.to_bytes()[..])?
            .is_some())
    }

    /// Opens the rows from `first` to `last`, both included, in order, until `visit` breaks.
    pub(crate) fn scan(
        &self,
        source: &impl Source,
        vault: &Vault,
        (first, last): (K, K),
        mut visit: impl FnMut(K, R) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        source.scan(
            self.definition(),
            &first.to_bytes(),
            &last.to_bytes(),
            &mut |key, sealed| {
                let row = vault.open(self.name, key, sealed)?;
                visit(K::from_bytes(key).ok_or(StoreError::Corrupt)?, row)
            },
        )
    }

    /// Key of the last row between `first` and `last`, both included.
    pub(crate) fn last_key(&self, write: &WriteTransaction, (first, last): (K, K)) -> Result<Option<K>, StoreError> {
        let table = write.open_table(self.definition())?;
        let mut range = table.range::<&[u8]>(&first.to_bytes()[..]..=&last.to_bytes()[..])?;
        match range.next_back() {
            None => Ok(None),
            Some(row) => K::from_bytes(row?.0.value()).ok_or(StoreError::Corrupt).map(Some),
        }
    }

    fn definition(&self) -> Definition {
        TableDefinition::new(self.name)
    }
}

/// A key as bytes in the order of the keys.
pub(crate) trait RowKey: Sized {
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl RowKey for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl RowKey for (u64, u64) {
    fn to_bytes(&self) -> Vec<u8> {
        [self.0.to_be_bytes(), self.1.to_be_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*first), u64::from_bytes(second)?))
    }
}

impl RowKey for [u8; 32] {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// The only row of its table.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl RowKey for Single {
    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(Single)
    }
}

/// A transaction that can be read from. A table that was never written reads as empty.
pub(crate) trait Source {
    fn get(&self, table: Definition, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    fn scan(&self, table: Definition, first: &[u8], last: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// What a scan calls with each key and sealed row.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'v;

impl Source for ReadTransaction {
    fn get(&self, table: Definition, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.open_table(table) {
            Ok(table) => get(&table, key),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn scan(&self, table: Definition, first: &[u8], last: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        match self.open_table(table) {
            Ok(table) => scan(&table, first, last, visit),
            Err(TableError::TableDoesNotExist(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Source for WriteTransaction {
    fn get(&self, table: Definition, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(&self.open_table(table)?, key)
    }

    fn scan(&self, table: Definition, first: &[u8], last: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(&self.open_table(table)?, first, last, visit)
    }
}

fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(table.get(key)?.map(|sealed| sealed.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    first: &[u8],
    last: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    for row in table.range::<&[u8]>(first..=last)? {
        let (key, sealed) = row?;
        if visit(key.value(), sealed.value())?.is_break() {
            break;
        }
    }
    Ok(())
}
