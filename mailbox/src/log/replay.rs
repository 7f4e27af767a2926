//! Opening a log: from the place that the index holds everything up to, on to its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use keypacks::Secret;
use tokio::sync::Notify;

use super::record::{self, BLOCK, Position, SegmentHeader};
use super::{Log, Mark, Segment, Spares, State, number_of, path_of};
use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::entropy::Entropy;
use crate::overlay::Overlay;

/// What was found behind the mark.
#[derive(Default)]
pub(crate) struct Replayed {
    /// The rows of all records there, the later ones over the earlier.
    pub(crate) rows: Overlay,
    /// Number of the last commit.
    pub(crate) commit: u64,
}

/// Headers of the files that are called segments; `None`: the file has none, or another's.
type Found = BTreeMap<u32, Option<SegmentHeader>>;

impl Log {
    /// Opens the log and reads what the index has not got. What was read is durable when it returns.
    ///
    /// [`StoreError::Corrupt`]: a segment is missing whose bodies live.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        key: Secret<32>,
        segment_bytes: u64,
        mark: &Mark,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, Replayed), StoreError> {
        let segment_bytes = segment_bytes.next_multiple_of(BLOCK).max(16 * BLOCK);
        let mut found = find(&*disk, folder)?;
        let mut state = State {
            end: mark.position,
            ordinal: highest_ordinal(&found).max(mark.ordinal),
            commit: mark.commit,
            checkpoint: mark.ordinal,
            ..State::default()
        };
        let mut listed: BTreeMap<u32, u64> = BTreeMap::new();
        for row in &mark.segments {
            listed.insert(row.number, row.live);
            // One that is not there may have been finished since; whether it was shows at the end.
            if found.contains_key(&row.number) {
                let segment = Segment {
                    ordinal: row.ordinal,
                    end: row.end,
                    live: row.live,
                    unreadable: false,
                };
                state.files.insert(row.number, segment);
                listed.remove(&row.number);
            }
        }
        let numbers = found.keys().chain(mark.segments.iter().map(|row| &row.number));
        let highest = numbers
            .chain([&mark.position.segment])
            .max()
            .copied()
            .unwrap_or_default();
        state.next_number = highest.checked_add(1).ok_or(StoreError::Corrupt)?;
        let replayed = state.replay(&*disk, folder, &found, &key, &mut listed)?;
        if listed.values().any(|live| *live > 0) {
            return Err(StoreError::Corrupt);
        }
        found.retain(|number, _| !state.files.contains_key(number));
        state.spares = keep_spares(&*disk, folder, &key, found, segment_bytes)?;
        let log = Self {
            disk,
            folder: folder.to_owned(),
            key,
            entropy,
            segment_bytes,
            state: Mutex::new(state),
            short: Notify::new(),
        };
        Ok((log, replayed))
    }
}

impl State {
    /// Reads from the end that the mark names. `missing`: living bytes of segments that are not there.
    fn replay(
        &mut self,
        disk: &dyn Disk,
        folder: &Path,
        found: &Found,
        key: &Secret<32>,
        missing: &mut BTreeMap<u32, u64>,
    ) -> Result<Replayed, StoreError> {
        let mut replayed = Replayed::default();
        let mut ordinal = self.checkpoint;
        let mut last = None;
        let mut file: Option<Arc<dyn DiskFile>> = match self.files.contains_key(&self.end.segment) {
            true => Some(disk.open(&path_of(folder, self.end.segment), false)?.into()),
            false => None,
        };
        let mut read_from = file.iter().cloned().collect::<Vec<_>>();
        loop {
            if let Some(header) = self.successor(found, ordinal) {
                ordinal = header.ordinal;
                let segment = Segment {
                    ordinal,
                    end: BLOCK,
                    live: 0,
                    unreadable: false,
                };
                self.files.insert(header.number, segment);
                self.end = header.first_record();
                let opened: Arc<dyn DiskFile> = disk.open(&path_of(folder, header.number), false)?.into();
                read_from.push(Arc::clone(&opened));
                file = Some(opened);
                continue;
            }
            let (Some(segment), Some(file)) = (self.files.get_mut(&self.end.segment), &file) else {
                break;
            };
            let record = record::read(&**file, key, self.end, true)?;
            let Some(record) = record.filter(|record| record.contents.commit == self.commit + 1) else {
                break;
            };
            last = Some((self.end, record.room));
            self.end.offset += record.room;
            segment.end = self.end.offset;
            self.commit = record.contents.commit;
            self.tail += record.room;
            self.account(&record.contents.bodies, &record.contents.released);
            for location in &record.contents.released {
                if let Some(live) = missing.get_mut(&location.segment) {
                    *live = live.saturating_sub(u64::from(location.length));
                }
            }
            replayed.rows.merge(record.rows);
        }
        // A segment is begun only where the log was durable: one that comes after more than was read tells of a gap, and
        // what is behind a gap must not be taken for rubbish.
        let behind_a_gap = |header: &SegmentHeader| header.ordinal > ordinal && header.commit > self.commit;
        if found.values().flatten().any(behind_a_gap) {
            return Err(StoreError::Corrupt);
        }
        if let Some(file) = &file {
            write_again(&**file, self.end, last)?;
        }
        for file in &read_from {
            file.sync()?;
        }
        self.head = file.filter(|_| self.end.segment != 0).map(|file| (self.end, file));
        replayed.commit = self.commit;
        Ok(replayed)
    }

    /// The segment that was begun last where the log stands.
    fn successor(&self, found: &Found, ordinal: u64) -> Option<SegmentHeader> {
        let follows = |header: &&SegmentHeader| {
            header.previous == self.end && header.commit == self.commit && header.ordinal > ordinal
        };
        let followers = found.values().flatten().filter(follows);
        followers.max_by_key(|header| header.ordinal).copied()
    }
}

/// Writes the end of the log once more where it stands: its last record, and the header if that is all there is besides.
///
/// What was read may lie in the page cache alone: after a kill, or after a sync that failed, which leaves pages that the
/// system takes for written. It counts from now on, so it must be on the disk; what was written before it had a sync of
/// its own that succeeded.
fn write_again(file: &dyn DiskFile, end: Position, last: Option<(Position, u64)>) -> Result<(), StoreError> {
    const STEP: u64 = 1 << 20;
    let last = last.filter(|(place, _)| place.segment == end.segment);
    let (mut at, until) = match last {
        Some((place, _)) if place.offset > BLOCK => (place.offset, end.offset),
        Some(_) => (0, end.offset),
        None => (0, BLOCK.min(end.offset)),
    };
    while at < until {
        let mut bytes = vec![0; usize::try_from(STEP.min(until - at)).expect("a small constant")];
        file.read_at(at, &mut bytes)?;
        file.write_at(at, &bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

fn find(disk: &dyn Disk, folder: &Path) -> Result<Found, StoreError> {
    let mut found = Found::new();
    for path in disk.list(folder)? {
        if let Some(number) = number_of(&path).filter(|number| *number > 0) {
            let header = SegmentHeader::read(&*disk.open(&path, false)?, number)?;
            found.insert(number, header);
        }
    }
    Ok(found)
}

fn highest_ordinal(found: &Found) -> u64 {
    let headers = found.values().flatten();
    headers.map(|header| header.ordinal).max().unwrap_or_default()
}

/// Keeps whole segments that were never begun, removes all else: a file that holds a record of its own number must not be
/// begun once more, or that record could count again.
fn keep_spares(
    disk: &dyn Disk,
    folder: &Path,
    key: &Secret<32>,
    found: Found,
    segment_bytes: u64,
) -> Result<Spares, StoreError> {
    let mut spares = Spares::new();
    let mut removed: Vec<PathBuf> = Vec::new();
    for (number, header) in found {
        let path = path_of(folder, number);
        let file: Arc<dyn DiskFile> = disk.open(&path, false)?.into();
        let first = Position {
            segment: number,
            offset: BLOCK,
        };
        let is_spare = header.is_none()
            && spares.len() < super::space::SPARES
            && file.len()? == segment_bytes
            && record::read(&*file, key, first, false)?.is_none();
        if is_spare {
            spares.push_back((number, file));
        } else {
            removed.push(path);
        }
    }
    for path in &removed {
        disk.remove(path)?;
    }
    if !removed.is_empty() {
        disk.sync_dir(folder)?;
    }
    Ok(spares)
}
