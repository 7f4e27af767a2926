//! Reading: a body at its place, or all that a segment holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::record::{self, BLOCK, Placed, Position};
use super::{Location, Log};
use crate::StoreError;
use crate::disk::DiskFile;

/// Most files of segments that are kept open.
pub(super) const HANDLES_MAX: usize = 64;

/// Open files, so many that reading is quick and no store runs out of them, however large it is.
#[derive(Default)]
pub(super) struct Handles {
    pub(super) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// The oldest first.
    order: VecDeque<u32>,
}

impl Handles {
    pub(super) fn keep(&mut self, number: u32, file: &Arc<dyn DiskFile>) {
        if self.files.insert(number, Arc::clone(file)).is_none() {
            self.order.push_back(number);
        }
        while self.order.len() > HANDLES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.files.remove(&oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.files.remove(&number);
        self.order.retain(|other| *other != number);
    }
}

/// What [`Log::verify`] read.
#[derive(Default)]
pub(crate) struct Checked {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Segments with a record that does not open.
    pub(crate) unreadable: u64,
}

impl Log {
    /// The file of a segment that is not finished; `Corrupt`: there is none.
    fn file(&self, number: u32) -> Result<Arc<dyn DiskFile>, StoreError> {
        {
            let state = self.state();
            if !state.files.contains_key(&number) {
                return Err(StoreError::Corrupt);
            }
            if let Some(file) = state.handles.files.get(&number) {
                return Ok(Arc::clone(file));
            }
        }
        let file: Arc<dyn DiskFile> = self.disk.open(&self.path(number), false)?.into();
        let mut state = self.state();
        if state.files.contains_key(&number) {
            state.handles.keep(number, &file);
        }
        Ok(file)
    }

    /// Reads a body. Its space may have been given to something else since its row was read: whoever asks looks again
    /// afterwards whether the row still says so.
    pub(crate) fn read(&self, location: Location) -> Result<Vec<u8>, StoreError> {
        let file = self.file(location.segment)?;
        let mut body = vec![0; location.length as usize];
        file.read_at(location.offset, &mut body)?;
        Ok(body)
    }

    /// Fills `out` from `at` on in a body, as [`Self::read`].
    pub(crate) fn read_within(&self, location: Location, at: u64, out: &mut [u8]) -> Result<(), StoreError> {
        if at + out.len() as u64 > u64::from(location.length) {
            return Err(StoreError::Corrupt);
        }
        let file = self.file(location.segment)?;
        Ok(file.read_at(location.offset + at, out)?)
    }

    /// All bodies that were ever written to a closed segment.
    pub(crate) fn bodies_of(&self, number: u32) -> Result<Vec<Placed>, StoreError> {
        let file = self.file(number)?;
        let end = self.state().files.get(&number).map_or(0, |segment| segment.end);
        let mut bodies = Vec::new();
        let mut place = Position {
            segment: number,
            offset: BLOCK,
        };
        while place.offset < end {
            let Some(record) = record::read(&*file, &self.key, place, false)? else {
                if let Some(segment) = self.state().files.get_mut(&number) {
                    segment.unreadable = true;
                }
                return Err(StoreError::Corrupt);
            };
            place.offset += record.room;
            bodies.extend(record.contents.bodies);
        }
        Ok(bodies)
    }

    /// Reads all records, and their bodies as they were written.
    pub(crate) fn verify(&self) -> Result<Checked, StoreError> {
        let segments: Vec<(u32, u64)> = {
            let state = self.state();
            let segments = state.files.iter();
            segments.map(|(number, segment)| (*number, segment.end)).collect()
        };
        let mut checked = Checked::default();
        for (number, end) in segments {
            let file = self.file(number);
            let mut place = Position {
                segment: number,
                offset: BLOCK,
            };
            while place.offset < end {
                let read = |file: &Arc<dyn DiskFile>| record::read(&**file, &self.key, place, true);
                let record = file.as_ref().map_err(|error| *error).and_then(read);
                // Space that was won back meanwhile may hold anything.
                if !self.state().files.contains_key(&number) {
                    break;
                }
                let Ok(Some(record)) = record else {
                    checked.unreadable += 1;
                    break;
                };
                checked.records += 1;
                checked.bytes += record.room;
                place.offset += record.room;
            }
        }
        Ok(checked)
    }

    /// Bytes of living bodies by segment, as they are counted.
    pub(crate) fn living(&self) -> BTreeMap<u32, u64> {
        let state = self.state();
        let living = state.files.iter().filter(|(_, segment)| segment.live > 0);
        living.map(|(number, segment)| (*number, segment.live)).collect()
    }
}
