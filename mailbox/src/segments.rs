//! Bodies: sealed bytes in large files that grow in zeroed steps, so that a sync moves no metadata.
//!
//! ```text
//! segment-000001   | body | free | body ... | zeros |      every body starts at a multiple of UNIT
//! ```
//!
//! Nothing in a segment says what is where: the index holds each body's [`Location`], and the free space is what no
//! row names. A body is written and synced before the commit that names it, and its space is used again only after
//! the commit that dropped it. Freed bytes are not overwritten: they are sealed, and their keys are (`slab`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::disk::{Disk, DiskFile, RESERVE_BYTES};

/// Where bodies start and how their space is rounded, in bytes.
const UNIT: u64 = 512;
/// How far a segment is zeroed ahead at a time, in bytes.
const GROWTH: u64 = 4 << 20;

/// Where a body lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Location {
    /// Number of the segment.
    pub segment: u32,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Length of the body, in bytes.
    pub length: u32,
}

impl Location {
    fn room(self) -> u64 {
        u64::from(self.length).next_multiple_of(UNIT)
    }
}

/// The segments of one store.
pub struct Segments {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Usual size of a segment, in bytes; one that is made for a larger body is larger.
    segment_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u32, Segment>,
    free: Extents,
    /// Written since the last [`Segments::committed`]: given back if their batch fails.
    appended: Vec<Location>,
    /// Dropped since then: free once their batch is durable.
    released: Vec<Location>,
    unsynced: BTreeSet<u32>,
}

struct Segment {
    file: Arc<dyn DiskFile>,
    /// How much of it is on the disk already.
    zeroed: u64,
}

impl Segments {
    /// Opens the segments of a folder. All of their space counts as taken until [`Self::set_used`] is told otherwise.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        let mut files = BTreeMap::new();
        for path in disk.list(folder)? {
            if let Some(number) = segment_number(&path) {
                let file: Arc<dyn DiskFile> = disk.open(&path, false)?.into();
                let zeroed = file.len()?;
                files.insert(number, Segment { file, zeroed });
            }
        }
        let segment_bytes = segment_bytes.next_multiple_of(UNIT).max(UNIT);
        let state = State {
            files,
            ..State::default()
        };
        Ok(Self {
            disk,
            folder: folder.to_owned(),
            segment_bytes,
            state: Mutex::new(state),
        })
    }

    /// Tells which bodies live; everything else is free. Refuses bodies that overlap or lie outside.
    pub fn set_used(&self, used: impl IntoIterator<Item = Location>) -> Result<(), StoreError> {
        let mut by_segment: BTreeMap<u32, Vec<Location>> = BTreeMap::new();
        for location in used {
            by_segment.entry(location.segment).or_default().push(location);
        }
        let mut state = self.state();
        if by_segment.keys().any(|number| !state.files.contains_key(number)) {
            return Err(StoreError::Corrupt);
        }
        let mut free = Extents::default();
        for (&number, segment) in &state.files {
            let mut taken = by_segment.remove(&number).unwrap_or_default();
            taken.sort_unstable();
            let mut at = 0;
            for location in taken {
                if location.offset < at || location.offset + u64::from(location.length) > segment.zeroed {
                    return Err(StoreError::Corrupt);
                }
                free.give(number, at, location.offset - at);
                at = location.offset + location.room();
            }
            free.give(number, at, segment.zeroed.max(self.segment_bytes).saturating_sub(at));
        }
        state.free = free;
        (state.appended, state.released) = (Vec::new(), Vec::new());
        Ok(())
    }

    /// Writes a body. It is durable after [`Self::sync`], and kept only if [`Self::committed`] follows.
    pub fn append(&self, body: &[u8]) -> Result<Location, StoreError> {
        let length = u32::try_from(body.len()).map_err(|_| StoreError::Invalid)?;
        if self.disk.free_bytes(&self.folder)? < RESERVE_BYTES + u64::from(length) {
            return Err(StoreError::Full);
        }
        let mut state = self.state();
        let room = u64::from(length).next_multiple_of(UNIT).max(UNIT);
        let (number, offset) = match state.free.take(room) {
            Some(place) => place,
            None => {
                self.add_segment(&mut state, room)?;
                state.free.take(room).expect("the new segment has room for the body")
            }
        };
        let location = Location {
            segment: number,
            offset,
            length,
        };
        state.appended.push(location);
        let segment = state.files.get_mut(&number).expect("an extent lies in a segment");
        let end = offset + room;
        if segment.zeroed < end {
            let limit = self.segment_bytes.max(end);
            let zeroed = end.next_multiple_of(GROWTH).min(limit);
            segment.file.allocate(zeroed)?;
            segment.zeroed = zeroed;
        }
        let file = Arc::clone(&segment.file);
        state.unsynced.insert(number);
        drop(state);
        file.write_at(offset, body)?;
        Ok(location)
    }

    /// Makes all written bodies durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        let files: Vec<_> = {
            let state = self.state();
            state
                .unsynced
                .iter()
                .filter_map(|number| state.files.get(number))
                .map(|s| Arc::clone(&s.file))
                .collect()
        };
        for file in files {
            file.sync()?;
        }
        self.state().unsynced.clear();
        Ok(())
    }

    /// Reads a body. The caller checks afterwards that its row still names it: freed space is used again.
    pub fn read(&self, location: Location) -> Result<Vec<u8>, StoreError> {
        let file = {
            let state = self.state();
            Arc::clone(&state.files.get(&location.segment).ok_or(StoreError::Corrupt)?.file)
        };
        let mut body = vec![0; location.length as usize];
        file.read_at(location.offset, &mut body)?;
        Ok(body)
    }

    /// Drops a body with the commit under way: its space is free after [`Self::committed`].
    pub fn release(&self, location: Location) {
        self.state().released.push(location);
    }

    /// The commit under way is durable.
    pub fn committed(&self) {
        let mut state = self.state();
        state.appended.clear();
        for location in std::mem::take(&mut state.released) {
            state
                .free
                .give(location.segment, location.offset, location.room().max(UNIT));
        }
    }

    /// The commit under way was given up for certain: what it wrote is free again, what it dropped stays.
    pub fn abandoned(&self) {
        let mut state = self.state();
        state.released.clear();
        for location in std::mem::take(&mut state.appended) {
            state
                .free
                .give(location.segment, location.offset, location.room().max(UNIT));
        }
    }

    /// Bytes taken on the disk.
    pub fn bytes(&self) -> u64 {
        self.state().files.values().map(|segment| segment.zeroed).sum()
    }

    fn add_segment(&self, state: &mut State, room: u64) -> Result<(), StoreError> {
        let number = state.files.last_key_value().map_or(1, |(last, _)| last + 1);
        let path = self.folder.join(format!("segment-{number:06}"));
        let file: Arc<dyn DiskFile> = self.disk.open(&path, true)?.into();
        self.disk.sync_dir(&self.folder)?;
        state.files.insert(number, Segment { file, zeroed: 0 });
        state.free.give(number, 0, self.segment_bytes.max(room));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

fn segment_number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("segment-")?.parse().ok()
}

/// Free extents, found by size (the smallest that fits) and joined with their neighbours.
#[derive(Default)]
struct Extents {
    by_place: BTreeMap<(u32, u64), u64>,
    by_size: BTreeSet<(u64, u32, u64)>,
}

impl Extents {
    fn take(&mut self, room: u64) -> Option<(u32, u64)> {
        let &(size, segment, offset) = self.by_size.range((room, 0, 0)..).next()?;
        self.remove(segment, offset, size);
        if size > room {
            self.insert(segment, offset + room, size - room);
        }
        Some((segment, offset))
    }

    fn give(&mut self, segment: u32, mut offset: u64, mut size: u64) {
        if size == 0 {
            return;
        }
        if let Some((&(_, before), &length)) = self.by_place.range((segment, 0)..(segment, offset)).next_back()
            && before + length == offset
        {
            self.remove(segment, before, length);
            (offset, size) = (before, size + length);
        }
        if let Some(&length) = self.by_place.get(&(segment, offset + size)) {
            self.remove(segment, offset + size, length);
            size += length;
        }
        self.insert(segment, offset, size);
    }

    fn insert(&mut self, segment: u32, offset: u64, size: u64) {
        self.by_place.insert((segment, offset), size);
        self.by_size.insert((size, segment, offset));
    }

    fn remove(&mut self, segment: u32, offset: u64, size: u64) {
        self.by_place.remove(&(segment, offset));
        self.by_size.remove(&(size, segment, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn segments(disk: &MemoryDisk) -> Segments {
        disk.create_dir_all(Path::new("/s")).expect("made");
        let segments = Segments::open(Arc::new(disk.clone()), Path::new("/s"), 64 << 10).expect("opened");
        segments.set_used([]).expect("nothing contradicts nothing");
        segments
    }

    #[test]
    fn a_body_reads_back_and_its_space_is_used_again() {
        let segments = segments(&MemoryDisk::new());
        let first = segments.append(&[1; 1000]).expect("room");
        let second = segments.append(&[2; 40_000]).expect("room");
        segments.sync().expect("synced");
        segments.committed();
        assert_eq!(segments.read(first).expect("there"), vec![1; 1000]);
        segments.release(first);
        let third = segments.append(&[3; 700]).expect("room");
        assert_ne!(third.offset, first.offset, "not free before the commit");
        segments.committed();
        let fourth = segments.append(&[4; 900]).expect("room");
        assert_eq!((fourth.segment, fourth.offset), (first.segment, first.offset));
        assert_eq!(segments.read(second).expect("there"), vec![2; 40_000]);
    }

    #[test]
    fn what_an_abandoned_commit_wrote_is_free_and_what_it_dropped_stays() {
        let segments = segments(&MemoryDisk::new());
        let kept = segments.append(&[1; 512]).expect("room");
        segments.committed();
        segments.release(kept);
        let lost = segments.append(&[2; 512]).expect("room");
        segments.abandoned();
        let next = segments.append(&[3; 512]).expect("room");
        assert_eq!(next.offset, lost.offset);
        assert_eq!(segments.read(kept).expect("there"), vec![1; 512]);
    }

    #[test]
    fn a_body_larger_than_a_segment_gets_one_of_its_own() {
        let disk = MemoryDisk::new();
        let segments = segments(&disk);
        let small = segments.append(&[1; 100]).expect("room");
        let large = segments.append(&vec![7; 5 << 20]).expect("room");
        assert_ne!(small.segment, large.segment);
        segments.sync().expect("synced");
        drop(segments);
        disk.crash(1);
        let again = Segments::open(Arc::new(disk.clone()), Path::new("/s"), 64 << 10).expect("opened");
        again.set_used([small, large]).expect("they do not overlap");
        assert_eq!(again.read(large).expect("there"), vec![7; 5 << 20]);
        let overlap = Location { length: 600, ..small };
        assert_eq!(again.set_used([small, overlap]), Err(StoreError::Corrupt));
    }

    #[test]
    fn a_nearly_full_disk_takes_nothing() {
        let disk = MemoryDisk::new();
        let segments = segments(&disk);
        disk.set_free_bytes(Some(RESERVE_BYTES + 99));
        assert_eq!(segments.append(&[0; 100]), Err(StoreError::Full));
        assert!(segments.append(&[0; 99]).is_ok());
        assert_eq!(disk.files().len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn extents_never_overlap(steps in proptest::collection::vec((proptest::bool::ANY, 1u64..40), 1..200)) {
            let mut extents = Extents::default();
            extents.give(1, 0, 2_000);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (take, size) in steps {
                if take || held.is_empty() {
                    if let Some((_, offset)) = extents.take(size) {
                        proptest::prop_assert!(held.iter().all(|(o, s)| offset + size <= *o || o + s <= offset));
                        held.push((offset, size));
                    }
                } else {
                    let (offset, size) = held.swap_remove(usize::try_from(size).unwrap_or(0) % held.len());
                    extents.give(1, offset, size);
                }
            }
            for (offset, size) in held {
                extents.give(1, offset, size);
            }
            proptest::prop_assert_eq!(extents.by_place.into_iter().collect::<Vec<_>>(), vec![((1, 0), 2_000)]);
        }
    }
}
