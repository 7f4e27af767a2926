//! Bodies by random names: rows that say where each lies and how many other rows need it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::base::Base;
use crate::entropy::random;
use crate::index::{Source, Write};
use crate::log::Location;
use crate::tables::Table;

/// Where bodies are, by name.
pub(crate) const BODIES: Table<u64, BodyRow> = Table::new(0);

/// Name of a body.
pub(crate) type BodyName = u64;

/// A body that is kept.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct BodyRow {
    pub(crate) location: Location,
    /// Rows that name it.
    pub(crate) references: u32,
}

impl Base {
    /// Writes a body with the batch under way, to be named by so many rows.
    pub(crate) fn put_body(&self, write: &Write<'_>, bytes: &[u8], references: u32) -> Result<BodyName, StoreError> {
        // Not looked for first: of ten million, two have the same name once in four hundred thousand stores, and then
        // the two rows that name it contradict its count of references, which `audit` finds.
        let name = u64::from_le_bytes(random(&*self.entropy));
        let location = self.log.append(name, bytes)?;
        BODIES.put(write, name, &BodyRow { location, references })?;
        Ok(name)
    }

    /// As [`Self::put_body`], of so many bytes that come in parts, for one row.
    pub(crate) fn put_body_parts(
        &self,
        write: &Write<'_>,
        length: usize,
        parts: impl Iterator<Item = Vec<u8>>,
    ) -> Result<BodyName, StoreError> {
        let name = u64::from_le_bytes(random(&*self.entropy));
        let location = self.log.append_parts(name, length, parts)?;
        let references = 1;
        BODIES.put(write, name, &BodyRow { location, references })?;
        Ok(name)
    }

    /// Has one more row name a body.
    pub(crate) fn share_body(&self, write: &Write<'_>, name: BodyName) -> Result<(), StoreError> {
        let mut row = BODIES.get(write, name)?.ok_or(StoreError::Corrupt)?;
        row.references = row.references.checked_add(1).ok_or(StoreError::Corrupt)?;
        BODIES.put(write, name, &row)
    }

    /// Drops one reference to a body; with the last one its space is free. Returns whether it was the last.
    pub(crate) fn release_body(&self, write: &Write<'_>, name: BodyName) -> Result<bool, StoreError> {
        let mut row = BODIES.get(write, name)?.ok_or(StoreError::Corrupt)?;
        row.references = row.references.checked_sub(1).ok_or(StoreError::Corrupt)?;
        if row.references > 0 {
            BODIES.put(write, name, &row)?;
            return Ok(false);
        }
        BODIES.remove(write, name)?;
        self.log.release(row.location);
        Ok(true)
    }

    /// A body as the last commit left it, while a batch is under way: nothing moves or ends it meanwhile.
    pub(crate) fn read_body_before(&self, write: &Write<'_>, name: BodyName) -> Result<Option<Vec<u8>>, StoreError> {
        let row = BODIES.get(write.before(), name)?;
        row.map(|row| self.log.read(row.location)).transpose()
    }

    /// A body, unless it is gone. Its row is read again afterwards: it may be moved, and freed space is used again.
    pub(crate) fn read_body(&self, name: BodyName) -> Result<Option<Vec<u8>>, StoreError> {
        let place =
            || -> Result<Option<Location>, StoreError> { Ok(BODIES.get(&self.view()?, name)?.map(|row| row.location)) };
        let mut before = place()?;
        while let Some(location) = before {
            let bytes = self.log.read(location);
            let after = place()?;
            if after == before {
                return bytes.map(Some);
            }
            before = after;
        }
        Ok(None)
    }

    /// Holds a body where it lies now, unless it is gone: removed or moved meanwhile, it can still be read there.
    pub(crate) fn hold_body(self: &Arc<Self>, name: BodyName) -> Result<Option<HeldBody>, StoreError> {
        let place =
            || -> Result<Option<Location>, StoreError> { Ok(BODIES.get(&self.view()?, name)?.map(|row| row.location)) };
        let mut before = place()?;
        while let Some(location) = before {
            self.log.hold(location.segment);
            let held = HeldBody {
                base: Arc::clone(self),
                location,
            };
            // It lived there when its segment was held already, or it is somewhere else.
            let after = place()?;
            if after == before {
                return Ok(Some(held));
            }
            before = after;
        }
        Ok(None)
    }

    /// Whether a body lies at this place.
    pub(crate) fn is_at(&self, source: &impl Source, name: BodyName, location: Location) -> Result<bool, StoreError> {
        Ok(BODIES.get(source, name)?.is_some_and(|row| row.location == location))
    }

    /// Writes a body to the end of the log and lets its old place go, if it still lies there.
    pub(crate) fn move_body(
        &self,
        write: &Write<'_>,
        name: BodyName,
        from: Location,
        bytes: &[u8],
    ) -> Result<bool, StoreError> {
        let Some(row) = BODIES.get(write, name)?.filter(|row| row.location == from) else {
            return Ok(false);
        };
        let location = self.log.append(name, bytes)?;
        BODIES.put(write, name, &BodyRow { location, ..row })?;
        self.log.release(from);
        Ok(true)
    }
}

/// See [`Base::hold_body`].
pub(crate) struct HeldBody {
    base: Arc<Base>,
    location: Location,
}

impl HeldBody {
    /// Its length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.location.length as usize
    }

    /// So many bytes of it from `at` on.
    pub(crate) fn read(&self, at: usize, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.base.log.read_within(self.location, at as u64, &mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.base.log.let_go(self.location.segment);
    }
}
