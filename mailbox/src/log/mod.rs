//! The log: bodies and row changes of a batch in one record, durable with one write and one sync.
//!
//! ```text
//! segment-000004 (kept for its bodies) | segment-000007 | segment-000005, the head | spare
//!                                                ^ checkpoint: the index holds everything before
//! ```
//!
//! Segments are files of one size that were written with zeros beforehand, so that a sync moves no metadata. Records
//! follow each other; a segment names the place where the log left the one before (`record`). Bodies stay where they
//! were written, and the index names them; a segment whose bodies are all released becomes a spare again.
//!
//! What may go wrong, and what then holds:
//!
//! | event | effect |
//! |---|---|
//! | power fails within a write | the record does not open, or its bodies do not match: the log ends before it |
//! | a write or sync fails | the head is left; the next segment says where, which voids what may have been written |
//! | the process dies before that | the record may count after all: its outcome is told as unknown |

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use keypacks::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::StoreError;
use crate::disk::{Disk, DiskFile, RESERVE_BYTES};
use crate::entropy::Entropy;
use crate::overlay::Overlay;

mod batch;
mod reading;
mod record;
mod replay;
mod space;

use batch::Batch;
use reading::Handles;
pub use record::fuzz;
use record::{BLOCK, SegmentHeader};
pub(crate) use record::{Placed, Position};

/// Room that a batch should find before a new segment is begun for it, as a part of a segment.
const MARGIN: u64 = 16;
/// Memory of a record that is kept for the next one at most, as a part of a segment.
const ROOM_KEPT: u64 = 8;
/// A segment that is filled faster than this is not worth writing twice, first with zeros: what the syncs then save is
/// less than what the zeros cost.
const HURRY: Duration = Duration::from_secs(1);

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

/// The log of one store.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    key: Secret<32>,
    entropy: Arc<dyn Entropy>,
    segment_bytes: u64,
    state: Mutex<State>,
    /// Rung when a spare was taken.
    short: Notify,
}

/// Segments that are ready to be begun.
type Spares = VecDeque<(u32, Arc<dyn DiskFile>)>;

#[derive(Default)]
struct State {
    files: BTreeMap<u32, Segment>,
    spares: Spares,
    /// Files of segments that were read lately.
    handles: Handles,
    /// Number of the next file. None is used twice, so that a name never means another file.
    next_number: u32,
    /// Where the next record goes, and its file. `None`: a segment is to be begun first.
    head: Option<(Position, Arc<dyn DiskFile>)>,
    /// When the last segment was begun, and whether the one before was filled in a hurry.
    begun: Option<Instant>,
    is_hurried: bool,
    /// Something behind the end may have reached the disk, and must not count.
    is_uncertain: bool,
    /// End of the log: everything before it is durable.
    end: Position,
    /// Where the log will end, and its last commit, once the record that is being written is durable.
    ahead: Option<(Position, u64)>,
    ordinal: u64,
    commit: u64,
    /// Ordinal of the segment up to which the index holds everything: a restart reads it and those after it.
    checkpoint: u64,
    /// Written since the checkpoint, in bytes.
    tail: u64,
    batch: Option<Batch>,
    /// Memory of the record before, for the next one.
    room: Vec<u8>,
    /// Those who read old places of bodies: no segment is used again before they are done.
    readers: usize,
    /// Segments that somebody reads slowly, and how many do: none of these is used again before they are done.
    held: BTreeMap<u32, usize>,
}

struct Segment {
    /// When it was begun, as a count of segments.
    ordinal: u64,
    /// End of its records.
    end: u64,
    /// Bytes of bodies that live.
    live: u64,
    /// Cannot be swept: a record of it does not open.
    unreadable: bool,
}

/// What the index keeps of a segment.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SegmentRow {
    number: u32,
    ordinal: u64,
    end: u64,
    live: u64,
}

/// What the index keeps of the log: everything before this place is in the index.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) commit: u64,
    pub(crate) position: Position,
    /// Of the segment of that place.
    pub(crate) ordinal: u64,
    pub(crate) segments: Vec<SegmentRow>,
}

impl CommitFailed {
    pub(crate) fn into_error(self) -> StoreError {
        match self {
            Self::Voided(error) => error,
            Self::Unknown => StoreError::Unknown,
        }
    }
}

/// A complete record on its way to the disk. It is to be given to [`Log::durable`], or what failed to [`Log::failed`].
pub(crate) struct Record {
    batch: Batch,
    number: u64,
    end: Position,
}

impl Record {
    /// Writes it and waits until it is durable.
    pub(crate) fn write(&self) -> std::io::Result<()> {
        self.batch.write()
    }
}

/// A durable record, and what it says of bodies.
pub(crate) struct Committed {
    pub(crate) number: u64,
    placed: Vec<Placed>,
    released: Vec<Location>,
}

/// How a commit failed.
pub(crate) enum CommitFailed {
    /// It has not happened and never will have.
    Voided(StoreError),
    /// It may have reached the disk.
    Unknown,
}

impl Log {
    /// Begins a record, in the head or in a new segment. The one before must have been completed or abandoned; while it is
    /// being written, this one stands behind it, and must be abandoned before it may be said to have failed.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        self.void_what_failed()?;
        let mut state = self.state();
        debug_assert!(state.batch.is_none());
        let wanted = self.segment_bytes / MARGIN;
        let has_room = |(position, _): &&(Position, _)| position.offset + wanted <= self.segment_bytes;
        let (file, place, header) = match state.head.as_ref().filter(has_room) {
            Some((place, file)) => (Arc::clone(file), *place, Vec::new()),
            None => {
                let (header, file) = self.next_segment(&mut state)?;
                (file, header.first_record(), header.encode())
            }
        };
        let room = std::mem::take(&mut state.room);
        state.batch = Some(Batch::new(file, place, &header, room));
        Ok(())
    }

    /// Adds a body to the record under way. It can be read once the record is committed.
    pub(crate) fn append(&self, name: u64, body: &[u8]) -> Result<Location, StoreError> {
        let length = u32::try_from(body.len()).map_err(|_| StoreError::Invalid)?;
        let (location, file) = self.with_room(length, |batch| batch.add(name, body, length))?;
        if let Some(file) = file {
            file.write_at(location.offset, body)?;
        }
        Ok(location)
    }

    /// As [`Self::append`], of a body of `length` bytes that comes in parts: a long one is written without being in memory whole.
    /// Whoever moves or copies it reads it whole.
    pub(crate) fn append_parts(
        &self,
        name: u64,
        length: usize,
        parts: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Location, StoreError> {
        if length < batch::DIRECT_BYTES {
            return self.append(name, &parts.collect::<Vec<_>>().concat());
        }
        let length = u32::try_from(length).map_err(|_| StoreError::Invalid)?;
        let (location, file) = self.with_room(length, |batch| batch.add_parts(name, length))?;
        let mut at = location.offset;
        for part in parts {
            let mut state = self.state();
            let batch = state.batch.as_mut().ok_or(StoreError::Unavailable)?;
            batch.digest_part(&part);
            drop(state);
            file.write_at(at, &part)?;
            at += part.len() as u64;
        }
        debug_assert_eq!(at - location.offset, u64::from(length));
        Ok(location)
    }

    /// Adds something to the record under way, if the disk has room for so many bytes more.
    fn with_room<T>(&self, length: u32, add: impl FnOnce(&mut Batch) -> T) -> Result<T, StoreError> {
        // Asked once for each record: the record itself is all that was taken since.
        let known = self.state().batch.as_ref().and_then(|batch| batch.free);
        let free = known.map_or_else(|| self.disk.free_bytes(&self.folder), Ok)?;
        let mut state = self.state();
        let batch = state.batch.as_mut().ok_or(StoreError::Unavailable)?;
        batch.free = Some(free);
        if free < RESERVE_BYTES + batch.length() + u64::from(length) {
            return Err(StoreError::Full);
        }
        Ok(add(batch))
    }

    /// Length of the record under way so far, its bodies above all, in bytes.
    pub(crate) fn batch_bytes(&self) -> u64 {
        self.state().batch.as_ref().map_or(0, Batch::length)
    }

    /// Lets a body go with the record under way.
    pub(crate) fn release(&self, location: Location) {
        if let Some(batch) = self.state().batch.as_mut() {
            batch.released.push(location);
        }
    }

    /// Completes the record with these rows, makes it durable and waits for it.
    pub(crate) fn commit(&self, rows: &Overlay) -> Result<Committed, CommitFailed> {
        let record = self.complete(rows)?;
        match record.write() {
            Ok(()) => Ok(self.durable(record)),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Completes the record with these rows. The one before must be durable.
    pub(crate) fn complete(&self, rows: &Overlay) -> Result<Record, CommitFailed> {
        let (mut batch, commit) = {
            let mut state = self.state();
            debug_assert!(state.ahead.is_none(), "one record is written at a time");
            let batch = state.batch.take();
            let commit = state.commit + 1;
            (batch.ok_or(CommitFailed::Voided(StoreError::Unavailable))?, commit)
        };
        let Some(end) = batch.complete(commit, rows, &self.key, &*self.entropy) else {
            self.state().give_up(batch);
            return Err(CommitFailed::Voided(StoreError::Invalid));
        };
        let end = Position {
            segment: batch.place.segment,
            offset: end,
        };
        let mut state = self.state();
        state.ahead = Some((end, commit));
        state.head = Some((end, Arc::clone(&batch.file)));
        Ok(Record {
            batch,
            number: commit,
            end,
        })
    }

    /// The record was written and is durable. When readers see its rows, what it says of bodies is to be given to
    /// [`Self::account`].
    pub(crate) fn durable(&self, record: Record) -> Committed {
        let Record { mut batch, number, end } = record;
        let mut state = self.state();
        state.room = batch.room(self.segment_bytes / ROOM_KEPT);
        state.ahead = None;
        state.commit = number;
        state.tail += end.offset - batch.place.offset;
        state.end = end;
        if let Some(segment) = state.files.get_mut(&end.segment) {
            segment.end = end.offset;
        }
        Committed {
            number,
            placed: batch.bodies,
            released: batch.released,
        }
    }

    /// Counts the bodies of a commit in and out. From then on the space of those that it released may be used again.
    pub(crate) fn account(&self, committed: &Committed) {
        self.state().account(&committed.placed, &committed.released);
    }

    /// Gives up the record under way before anything of it but bodies was written.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        if let Some(batch) = state.batch.take() {
            state.give_up(batch);
        }
    }

    /// After a failure to write the record, or to make it durable: what is behind the end of the log must never count.
    pub(crate) fn failed(&self, error: StoreError) -> CommitFailed {
        tracing::error!(%error, "a commit failed; the log goes on in another segment");
        let mut state = self.state();
        debug_assert!(state.batch.is_none(), "what stands behind it is abandoned first");
        (state.head, state.ahead, state.is_uncertain) = (None, None, true);
        match self.make_certain(&mut state) {
            Ok(()) => CommitFailed::Voided(error),
            Err(_) => CommitFailed::Unknown,
        }
    }

    /// Makes sure that no batch which failed counts after a restart. Nothing that such a batch had taken may be erased
    /// before: a restart that finds the batch would find it without its keys.
    pub(crate) fn void_what_failed(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        match state.is_uncertain {
            true => self.make_certain(&mut state),
            false => Ok(()),
        }
    }

    /// Begins a segment at the end of the log, which voids what was written behind it. Nothing is committed before that is
    /// durable, so that a disk which refuses is tried with one segment and not with one for each attempt.
    fn make_certain(&self, state: &mut State) -> Result<(), StoreError> {
        let (header, file) = self.next_segment(state)?;
        match file.write_at(0, &header.encode()).and_then(|()| file.sync()) {
            Ok(()) => {
                // The end of the log stays where it is until a record stands here.
                (state.head, state.is_uncertain) = (Some((header.first_record(), file)), false);
                Ok(())
            }
            Err(error) => {
                state.put_back(header.number, file);
                Err(error.into())
            }
        }
    }

    /// Takes a spare, or makes a file that grows as it is written: slower, but at once.
    fn next_segment(&self, state: &mut State) -> Result<(SegmentHeader, Arc<dyn DiskFile>), StoreError> {
        let (number, file) = match state.spares.pop_front() {
            Some(spare) => spare,
            None => {
                let number = state.take_number()?;
                let file: Arc<dyn DiskFile> = self.disk.open(&self.path(number), true)?.into();
                self.disk.sync_dir(&self.folder)?;
                (number, file)
            }
        };
        self.short.notify_one();
        let now = Instant::now();
        state.is_hurried = state.begun.is_some_and(|begun| now - begun < HURRY);
        state.begun = Some(now);
        state.ordinal += 1;
        let ordinal = state.ordinal;
        state.files.insert(
            number,
            Segment {
                ordinal,
                end: BLOCK,
                live: 0,
                unreadable: false,
            },
        );
        state.handles.keep(number, &file);
        let (previous, commit) = state.ahead.unwrap_or((state.end, state.commit));
        let header = SegmentHeader {
            number,
            ordinal,
            previous,
            commit,
        };
        Ok((header, file))
    }

    /// What the index has to keep if it takes over everything up to here. To be asked while no record is under way or being
    /// written.
    pub(crate) fn mark(&self) -> Mark {
        let state = self.state();
        let row = |(number, segment): (&u32, &Segment)| SegmentRow {
            number: *number,
            ordinal: segment.ordinal,
            end: segment.end,
            live: segment.live,
        };
        Mark {
            commit: state.commit,
            position: state.end,
            ordinal: state.files.get(&state.end.segment).map_or(0, |segment| segment.ordinal),
            segments: state.files.iter().map(row).collect(),
        }
    }

    /// Written since the index last took over, in bytes.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.state().tail
    }

    /// The index holds everything up to this mark.
    pub(crate) fn checkpointed(&self, mark: &Mark, tail: u64) {
        let mut state = self.state();
        state.checkpoint = mark.ordinal;
        state.tail = state.tail.saturating_sub(tail);
    }

    /// An empty log in another folder, under the same key.
    pub(crate) fn beside(&self, disk: &Arc<dyn Disk>, folder: &Path) -> Result<Self, StoreError> {
        let (disk, entropy) = (Arc::clone(disk), Arc::clone(&self.entropy));
        let key = self.key.duplicate();
        Ok(Self::open(disk, folder, key, self.segment_bytes, &Mark::default(), entropy)?.0)
    }

    fn path(&self, number: u32) -> PathBuf {
        path_of(&self.folder, number)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

impl State {
    fn take_number(&mut self) -> Result<u32, StoreError> {
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(StoreError::Corrupt)?;
        Ok(number)
    }

    /// Makes a spare again of a segment that was not begun after all.
    fn put_back(&mut self, number: u32, file: Arc<dyn DiskFile>) {
        self.files.remove(&number);
        self.spares.push_front((number, file));
    }

    /// Forgets a record of which nothing but bodies was written.
    fn give_up(&mut self, batch: Batch) {
        if batch.frame_at > 0 {
            // The segment was not begun: not even its header was written.
            self.put_back(batch.place.segment, batch.file);
        }
    }

    /// Counts bodies in and out.
    fn account(&mut self, placed: &[Placed], released: &[Location]) {
        for Placed { location, .. } in placed {
            if let Some(segment) = self.files.get_mut(&location.segment) {
                segment.live += u64::from(location.length);
            }
        }
        for location in released {
            if let Some(segment) = self.files.get_mut(&location.segment) {
                segment.live = segment.live.saturating_sub(u64::from(location.length));
            }
        }
    }
}

fn path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("segment-{number:06}"))
}

fn number_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("segment-")?.parse().ok()
}

#[cfg(test)]
mod tests;
