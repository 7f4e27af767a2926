//! Opening a log: from the place that the index holds everything up to, on to its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use keypacks::Secret;
use tokio::sync::Notify;

use super::record::{self, BLOCK, SegmentHeader};
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

/// A file of the folder that is called a segment.
struct Found {
    file: Arc<dyn DiskFile>,
    header: Option<SegmentHeader>,
}

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
            if let Some(found) = found.get(&row.number) {
                let segment = Segment {
                    file: Arc::clone(&found.file),
                    ordinal: row.ordinal,
                    end: row.end,
                    live: row.live,
                    unreadable: false,
                };
                state.files.insert(row.number, segment);
                listed.remove(&row.number);
            }
        }
        let replayed = state.replay(&found, &key, &mut listed)?;
        if listed.values().any(|live| *live > 0) {
            return Err(StoreError::Corrupt);
        }
        found.retain(|number, _| !state.files.contains_key(number));
        state.spares = keep_spares(&*disk, folder, found, segment_bytes)?;
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
        found: &BTreeMap<u32, Found>,
        key: &Secret<32>,
        missing: &mut BTreeMap<u32, u64>,
    ) -> Result<Replayed, StoreError> {
        let mut replayed = Replayed::default();
        let mut ordinal = self.checkpoint;
        loop {
            if let Some((header, file)) = self.successor(found, ordinal) {
                ordinal = header.ordinal;
                let segment = Segment {
                    file,
                    ordinal,
                    end: BLOCK,
                    live: 0,
                    unreadable: false,
                };
                self.files.insert(header.number, segment);
                self.end = header.first_record();
                continue;
            }
            let Some(segment) = self.files.get_mut(&self.end.segment) else {
                break;
            };
            let record = record::read(&*segment.file, key, self.end, true)?;
            let Some(record) = record.filter(|record| record.contents.commit == self.commit + 1) else {
                break;
            };
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
        // What was read may lie in the page cache alone, after a kill; it counts from now on, so it must stay.
        for segment in self.files.values().filter(|segment| segment.ordinal >= self.checkpoint) {
            segment.file.sync()?;
        }
        self.head = (self.end.segment != 0 && self.files.contains_key(&self.end.segment)).then_some(self.end);
        replayed.commit = self.commit;
        Ok(replayed)
    }

    /// The segment that was begun last where the log stands.
    fn successor(&self, found: &BTreeMap<u32, Found>, ordinal: u64) -> Option<(SegmentHeader, Arc<dyn DiskFile>)> {
        let follows = |header: &SegmentHeader| {
            header.previous == self.end && header.commit == self.commit && header.ordinal > ordinal
        };
        found
            .values()
            .filter_map(|found| Some((found.header.filter(follows)?, Arc::clone(&found.file))))
            .max_by_key(|(header, _)| header.ordinal)
    }
}

fn find(disk: &dyn Disk, folder: &Path) -> Result<BTreeMap<u32, Found>, StoreError> {
    let mut found = BTreeMap::new();
    for path in disk.list(folder)? {
        if let Some(number) = number_of(&path).filter(|number| *number > 0) {
            let file: Arc<dyn DiskFile> = disk.open(&path, false)?.into();
            let header = SegmentHeader::read(&*file, number)?;
            found.insert(number, Found { file, header });
        }
    }
    Ok(found)
}

fn highest_ordinal(found: &BTreeMap<u32, Found>) -> u64 {
    let headers = found.values().filter_map(|found| found.header);
    headers.map(|header| header.ordinal).max().unwrap_or_default()
}

/// Keeps whole segments that were never begun, removes all else.
fn keep_spares(
    disk: &dyn Disk,
    folder: &Path,
    found: BTreeMap<u32, Found>,
    segment_bytes: u64,
) -> Result<Spares, StoreError> {
    let mut spares = Spares::new();
    let mut removed: Vec<PathBuf> = Vec::new();
    for (number, Found { file, header }) in found {
        if header.is_none() && file.len()? == segment_bytes && spares.len() < super::SPARES {
            spares.push_back((number, file));
        } else {
            removed.push(path_of(folder, number));
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
