//! Rows and bodies that end, each under a slab record of its own.
//!
//! ```text
//! row        slab record | Box(slab key of the record, row)     outbox, deposits, gaps, messages, folders
//! body       Box(HE(slab key of its row's record, "holder/body"), bytes), in a segment; a message's: see `text`
//! summary    slab record | Box(HE(slab key of its row's record, "holder/summary"), bytes)
//! ```
//!
//! The row of a copied message holds both keys itself: body and summary end with the last row that has them.
//!
//! What has no end of its own (positions, value, aliases) is sealed under the store key alone and overwritten.

use keypacks::{Secret, kdf};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::base::Base;
use crate::bodies::BodyName;
use crate::entropy::random;
use crate::index::{Source, Write};
use crate::slab::RecordNumber;
use crate::tables::Table;
use crate::vault;

/// A row as the index holds it.
#[derive(Serialize, Deserialize)]
pub(super) struct Filed {
    pub(super) record: RecordNumber,
    sealed: Vec<u8>,
}

/// A table of rows that end.
pub(super) type Rows = Table<u64, Filed>;

/// The files, and how what ends is sealed in them. Readers and the committing actor share it.
pub(super) struct Shelf {
    pub(super) base: Arc<Base>,
    /// Outer key of all slab records: the slab alone opens nothing.
    outer: Secret<32>,
}

/// The key of one row and its body, gone once its record is overwritten.
pub(super) struct RowKey {
    pub(super) record: RecordNumber,
    key: Secret<32>,
}

impl Shelf {
    pub(super) fn new(base: Base) -> Self {
        let outer = base.vault.derive("holder/rows");
        Self {
            base: Arc::new(base),
            outer,
        }
    }

    /// A row key that was never used, for the commit under way.
    pub(super) fn fresh_key(&self) -> Result<RowKey, StoreError> {
        let (record, secret) = self.base.slab.take()?;
        Ok(RowKey {
            record,
            key: vault::slab_key(&self.outer, &secret),
        })
    }

    /// The key of a row that exists.
    pub(super) fn key(&self, record: RecordNumber) -> Result<RowKey, StoreError> {
        Ok(RowKey {
            record,
            key: vault::slab_key(&self.outer, &self.base.slab.read(record)?),
        })
    }

    /// Writes a body under a fresh key. A refusal (the disk is full) leaves nothing behind.
    pub(super) fn put_body(&self, write: &Write<'_>, bytes: &[u8]) -> Result<(RowKey, BodyName), StoreError> {
        let key = self.fresh_key()?;
        let sealed = vault::seal_once(&body_key(&key), bytes, &*self.base.entropy);
        match self.base.put_body(write, &sealed, 1) {
            Ok(name) => Ok((key, name)),
            Err(error) => {
                self.base.slab.finish(key.record);
                Err(error)
            }
        }
    }

    /// Reads a body back; `NoRow`: it is gone. `key`: [`body_key`] of the row that it came with.
    pub(super) fn body(&self, key: &Secret<32>, name: BodyName) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let sealed = self.base.read_body(name)?.ok_or(StoreError::NoRow)?;
        vault::open(key, &sealed)
    }

    /// As [`Self::body`], of one that was committed before the batch under way.
    pub(super) fn body_before(
        &self,
        write: &Write<'_>,
        key: &Secret<32>,
        name: BodyName,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let sealed = self.base.read_body_before(write, name)?.ok_or(StoreError::NoRow)?;
        vault::open(key, &sealed)
    }

    /// Writes a summary under the key of a row. It ends with the row, whose removal must remove it too.
    pub(super) fn put_summary(
        &self,
        write: &Write<'_>,
        summaries: &Rows,
        number: u64,
        key: &RowKey,
        summary: &[u8],
    ) -> Result<(), StoreError> {
        let sealed = vault::seal_once(&summary_key(key), summary, &*self.base.entropy);
        let record = key.record;
        summaries.put(write, number, &Filed { record, sealed })
    }

    /// Reads a summary back, if there is one. `key`: [`summary_key`] of the row that it came with; `None`: that row is
    /// there.
    pub(super) fn summary(
        &self,
        source: &impl Source,
        summaries: &Rows,
        number: u64,
        key: Option<&Secret<32>>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(filed) = summaries.get(source, number)? else {
            return Ok(None);
        };
        match key {
            Some(key) => vault::open(key, &filed.sealed),
            None => vault::open(&summary_key(&self.key(filed.record)?), &filed.sealed),
        }
        .map(Some)
    }

    /// Writes a row, in place of what was there under the same number.
    pub(super) fn put<T: Serialize>(
        &self,
        write: &Write<'_>,
        rows: &Rows,
        number: u64,
        key: &RowKey,
        row: &T,
    ) -> Result<(), StoreError> {
        let plain = Zeroizing::new(vault::encode(row));
        let sealed = vault::seal(&key.key, &plain, &*self.base.entropy);
        rows.put(
            write,
            number,
            &Filed {
                record: key.record,
                sealed,
            },
        )
    }

    /// Drops a row and finishes its key.
    pub(super) fn remove(
        &self,
        write: &Write<'_>,
        rows: &Rows,
        number: u64,
        record: RecordNumber,
    ) -> Result<(), StoreError> {
        rows.remove(write, number)?;
        self.base.slab.finish(record);
        Ok(())
    }

    /// One row and its key.
    pub(super) fn row<T: DeserializeOwned>(
        &self,
        source: &impl Source,
        rows: &Rows,
        number: u64,
    ) -> Result<Option<(RowKey, T)>, StoreError> {
        rows.get(source, number)?
            .map(|filed| self.open(&filed, vault::decode))
            .transpose()
    }

    /// All rows of a table, in order of their numbers.
    pub(super) fn all<T: DeserializeOwned>(
        &self,
        source: &impl Source,
        rows: &Rows,
    ) -> Result<Vec<(u64, RecordNumber, T)>, StoreError> {
        let mut all = Vec::new();
        rows.scan(source, (0, u64::MAX), |number, filed| {
            let (key, row) = self.open(&filed, vault::decode)?;
            all.push((number, key.record, row));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// `N` random bytes.
    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        random(&*self.base.entropy)
    }

    /// Opens a row as the index holds it.
    pub(super) fn open<T>(
        &self,
        filed: &Filed,
        decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<(RowKey, T), StoreError> {
        let key = self.key(filed.record)?;
        let row = decode(&vault::open(&key.key, &filed.sealed)?)?;
        Ok((key, row))
    }
}

/// Of one body: a row's key seals no second one.
pub(super) fn body_key(key: &RowKey) -> Secret<32> {
    kdf::he(&key.key, "holder/body", &[])
}

/// Of one summary: a row's key seals no second one.
pub(super) fn summary_key(key: &RowKey) -> Secret<32> {
    kdf::he(&key.key, "holder/summary", &[])
}
