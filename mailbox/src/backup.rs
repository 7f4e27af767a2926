//! A copy of the database of a live store: rows and living bodies as of one commit, and no key.
//!
//! ```text
//! folder   | index.redb | segment-000001 | ...          both sealed under the store's key, which stays where it is
//! ```
//!
//! What must be forgotten lies in slots, slab and epochs, which are not copied: whatever was erased before or is erased
//! after does not come back with the copy. Put in the place of the database of the same folder, it opens beside the
//! slots as they are then, and accounts that have moved on since are frozen.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::StoreError;
use crate::base::Base;
use crate::bodies::{BODIES, BodyRow};
use crate::disk::Disk;
use crate::index::{Frozen, Index, Source};
use crate::log::{CommitFailed, Log, Mark};
use crate::overlay::{KEY_MAX, Overlay, RowName};
use crate::vault;

/// Rows and bodies that are written at a time, in bytes.
const STEP_BYTES: usize = 4 << 20;

/// What was copied.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Rows of all tables.
    pub rows: u64,
    /// Bodies.
    pub bodies: u64,
    /// Bytes of those bodies.
    pub bytes: u64,
}

impl Base {
    /// Copies the database into an empty folder; it is complete once it has its `index.redb`, last of all.
    /// [`StoreError::Invalid`]: something is in the folder already.
    pub(crate) fn copy_to(&self, disk: &Arc<dyn Disk>, folder: &Path) -> Result<Copied, StoreError> {
        disk.create_dir_all(folder)?;
        if !disk.list(folder)?.is_empty() {
            return Err(StoreError::Invalid);
        }
        // Bodies that are released or moved meanwhile stay where the snapshot says.
        let _kept = self.log.keep_segments();
        let snapshot = self.snapshot()?;
        let part = folder.join("index.part");
        let (index, _) = Index::open(Arc::clone(disk), &part)?;
        let log = self.log.beside(disk, folder)?;
        let mut copy = Copy {
            index,
            log,
            rows: Overlay::default(),
            pending: 0,
            copied: Copied::default(),
        };
        let (Some(first), Some(last)) = (RowName::new(0, &[]), RowName::new(u8::MAX, &[u8::MAX; KEY_MAX])) else {
            return Err(StoreError::Invalid);
        };
        snapshot.rows(first, last, &mut |name, plain| {
            copy.row(self, name, plain)?;
            Ok(ControlFlow::Continue(()))
        })?;
        let copied = copy.finish(self, snapshot.commit())?;
        disk.rename(&part, &folder.join("index.redb"))?;
        disk.sync_dir(folder)?;
        Ok(copied)
    }
}

/// A copy that is being written.
struct Copy {
    index: Index,
    log: Log,
    rows: Overlay,
    /// Bytes of bodies in the record under way.
    pending: usize,
    copied: Copied,
}

impl Copy {
    fn row(&mut self, from: &Base, name: &RowName, plain: &[u8]) -> Result<(), StoreError> {
        self.copied.rows += 1;
        match BODIES.key_of(name) {
            Some(body) => self.body(from, *name, body, vault::decode(plain)?)?,
            None => self.rows.set(*name, Some(plain.into())),
        }
        if self.rows.bytes() + self.pending >= STEP_BYTES {
            self.write(from, 0)?;
        }
        Ok(())
    }

    fn body(&mut self, from: &Base, name: RowName, body: u64, row: BodyRow) -> Result<(), StoreError> {
        let bytes = from.log.read(row.location)?;
        if self.pending == 0 {
            self.log.begin()?;
        }
        let location = self.log.append(body, &bytes)?;
        self.pending += bytes.len().max(1);
        self.copied.bodies += 1;
        self.copied.bytes += bytes.len() as u64;
        self.rows
            .set(name, Some(vault::encode(&BodyRow { location, ..row }).into()));
        Ok(())
    }

    /// Writes what has gathered. The records only carry bodies: nobody will replay them.
    fn write(&mut self, from: &Base, commit: u64) -> Result<(), StoreError> {
        if std::mem::take(&mut self.pending) > 0 {
            let committed = self.log.commit(&Overlay::default()).map_err(CommitFailed::into_error)?;
            self.log.account(&committed);
        }
        let mark = Mark {
            commit,
            ..self.log.mark()
        };
        let frozen = Frozen::new(std::mem::take(&mut self.rows), mark);
        self.index.checkpoint(&frozen, &from.vault)
    }

    fn finish(mut self, from: &Base, commit: u64) -> Result<Copied, StoreError> {
        self.write(from, commit)?;
        self.index.close();
        Ok(self.copied)
    }
}
