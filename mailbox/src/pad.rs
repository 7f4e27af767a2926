//! The file of a one-time pad (`docs/PROTOCOL.md` section 11): what is spent is durable before it is used, and
//! overwritten in place after.
//!
//! A pad keeps its own place, in its header and not in a database: who restores a database from a copy uses no byte twice
//! by it. [`PadFile`] is one end's; the files `relay` and `holder` say what each end does with it.
//!
//! What a crash leaves, whenever it comes: the header says at least what was used, and opening overwrites all of that.

mod holder;
mod relay;
#[cfg(test)]
mod tests;

use holder::Probe;
pub use relay::{Hello, TAGS_AHEAD, Ticket};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keypacks::pad::{
    Direction, End, FileHeader, HEADER_COPY, Half, HalfDigest, Layout, Lease, Made, PadError, Piece, Place,
};
use keypacks::{CELL, kdf};
use tokio::sync::Notify;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};

/// Bytes of a second half that it is known by.
const MARKED: usize = 32;
/// Bytes that are overwritten with one write.
static ZEROS: [u8; 65_536] = [0; 65_536];

/// A pad as one end has it open. It is shared by its links, of which one at a time stands.
pub struct PadFile {
    file: Box<dyn DiskFile>,
    made: Made,
    /// The direction that this end seals: `Up` at a holder.
    seals: Direction,
    state: Mutex<State>,
    due: Notify,
}

struct State {
    /// As it is durable.
    header: FileHeader,
    /// What this end seals from.
    lease: Lease,
    /// How far the other end may seal.
    limit: Place,
    /// Finished with: up, then down.
    finished: [Place; 2],
    /// Overwritten.
    erased: [Place; 2],
    /// At a relay: the first cell that was answered last, and is not confirmed.
    pending: Option<Pending>,
    /// At a holder: which record is tried next.
    probe: Probe,
}

/// An answer that is given again.
struct Pending {
    ticket: Ticket,
    cell2: Box<[u8; CELL]>,
}

/// What is left of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Records: each cell takes one.
    pub records: u64,
    /// Body bytes.
    pub bytes: u64,
}

impl Left {
    fn between(from: Place, end: Place) -> Self {
        Self {
            records: end.record.saturating_sub(from.record),
            bytes: end.offset.saturating_sub(from.offset),
        }
    }

    /// In bytes of the pad.
    pub fn pad_bytes(self) -> u64 {
        self.records * keypacks::pad::RECORD + self.bytes
    }
}

/// What is kept of each direction, so that a pad at its end still collects and confirms: a sixteenth, at most so much.
pub fn kept_back(layout: Layout) -> Left {
    Left {
        records: (layout.records() / 16).min(4_096),
        bytes: (layout.end().offset / 16).min(1 << 20),
    }
}

fn at(direction: Direction) -> usize {
    match direction {
        Direction::Up => 0,
        Direction::Down => 1,
    }
}

impl PadFile {
    /// Opens a pad for the end that seals `seals`, and overwrites what was spent before. Takes as long as that does.
    ///
    /// [`StoreError::Corrupt`]: neither copy of its header reads, or the file has another length than it says.
    pub fn open(disk: &dyn Disk, path: &Path, seals: Direction) -> Result<Self, StoreError> {
        let file = disk.open(path, false)?;
        let header = read_header(&*file)?;
        let pad = Self {
            file,
            made: header.made,
            seals,
            state: Mutex::new(State {
                lease: Lease::granted(seals, header.spent[at(seals)], header.spent[at(seals)]),
                limit: match seals {
                    Direction::Up => header.made.layout.end(),
                    Direction::Down => Place::default(),
                },
                finished: header.spent,
                erased: header.erased,
                pending: None,
                probe: Probe::default(),
                header,
            }),
            due: Notify::new(),
        };
        pad.settle()?;
        // Both copies, since one may be torn.
        let spent = header.spent;
        pad.write_spent(&mut pad.state(), spent)?;
        Ok(pad)
    }

    /// What the pad was made as.
    pub fn made(&self) -> Made {
        self.made
    }

    /// Waits until something is to be overwritten.
    pub async fn due(&self) {
        self.due.notified().await;
    }

    /// Overwrites what is finished with, and makes that durable. Blocks on the disk.
    pub fn settle(&self) -> Result<(), StoreError> {
        let (erased, finished) = {
            let mut state = self.state();
            // Before a byte is overwritten: nobody may take zeros for a record that was never used.
            if (0..2).any(|direction| !state.finished[direction].is_within(state.header.spent[direction])) {
                let spent = state.header.spent;
                self.write_spent(&mut state, spent)?;
            }
            (state.erased, state.finished)
        };
        if erased == finished {
            return Ok(());
        }
        for direction in [Direction::Up, Direction::Down] {
            let (from, to) = (erased[at(direction)], finished[at(direction)]);
            let layout = self.made.layout;
            self.overwrite(
                layout.record_at(direction, from.record),
                layout.record_at(direction, to.record),
            )?;
            self.overwrite(
                layout.body_at(direction, from.offset),
                layout.body_at(direction, to.offset),
            )?;
        }
        self.file.sync()?;
        let mut state = self.state();
        for (erased, to) in state.erased.iter_mut().zip(finished) {
            *erased = erased.max(to);
        }
        Ok(())
    }

    fn overwrite(&self, from: u64, to: u64) -> Result<(), StoreError> {
        let mut from = from;
        while from < to {
            let count = ZEROS.len().min(usize::try_from(to - from).unwrap_or(ZEROS.len()));
            self.file.write_at(from, &ZEROS[..count])?;
            from += count as u64;
        }
        Ok(())
    }

    /// Makes durable that nothing before these places is used again. Both copies are written and synced, one after the
    /// other: the loss of one is not the loss of a place.
    fn write_spent(&self, state: &mut State, spent: [Place; 2]) -> Result<(), StoreError> {
        let mut header = state.header;
        header.generation += 1;
        for direction in [Direction::Up, Direction::Down].map(at) {
            let to = spent[direction].max(state.finished[direction]);
            header.spent[direction] = header.spent[direction].max(to);
            header.erased[direction] = state.erased[direction].min(header.spent[direction]);
        }
        let copy = header.encode();
        for number in 0..2 {
            self.file.write_at(number * HEADER_COPY as u64, &copy[..])?;
            self.file.sync()?;
        }
        state.header = header;
        Ok(())
    }

    /// Makes durable how far the relay may have leased. One copy is enough for what only saves a search: if that is torn, the
    /// other says where the pad stands.
    fn write_asked(&self, state: &mut State, asked: u64) -> Result<(), StoreError> {
        let mut header = state.header;
        (header.generation, header.asked) = (header.generation + 1, asked);
        self.file.write_at(0, &header.encode()[..])?;
        self.file.sync()?;
        state.header = header;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End for PadFile {
    fn layout(&self) -> Layout {
        self.made.layout
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), PadError> {
        self.file.read_at(at, out).map_err(|_| PadError::Unreadable)
    }

    fn take(&self, masked: usize) -> Result<Piece, PadError> {
        let mut state = self.state();
        match state.lease.take(masked) {
            Err(PadError::Spent) if self.seals == Direction::Down => {
                self.reserve(&mut state, masked)?;
                state.lease.take(masked)
            }
            taken => taken,
        }
    }

    fn room(&self) -> (u64, u64) {
        let state = self.state();
        let end = match self.seals {
            Direction::Up => state.lease.end(),
            Direction::Down => self.made.layout.end(),
        };
        let left = Left::between(state.lease.next(), end);
        (left.records, left.bytes)
    }

    fn limit(&self) -> Place {
        self.state().limit
    }

    fn finished(&self, direction: Direction, to: Place) {
        let mut state = self.state();
        let finished = &mut state.finished[at(direction)];
        *finished = finished.max(to);
        drop(state);
        self.due.notify_one();
    }
}

/// The copy of the higher generation.
fn read_header(file: &dyn DiskFile) -> Result<FileHeader, StoreError> {
    let mut newest: Option<FileHeader> = None;
    for number in 0..2 {
        let mut copy = [0; HEADER_COPY];
        match file.read_at(number * HEADER_COPY as u64, &mut copy) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(StoreError::Corrupt),
            read => read?,
        }
        if let Ok(header) = FileHeader::decode(&copy)
            && newest.is_none_or(|other| other.generation < header.generation)
        {
            newest = Some(header);
        }
    }
    let header = newest.ok_or(StoreError::Corrupt)?;
    if file.len()? == header.made.layout.file_bytes() {
        Ok(header)
    } else {
        Err(StoreError::Corrupt)
    }
}

/// What a file of a pad says that it was made as.
pub fn peek(disk: &dyn Disk, path: &Path) -> Result<Made, StoreError> {
    Ok(read_header(&*disk.open(path, false)?)?.made)
}

/// The folder of a relay's pads.
pub fn folder(data: &Path) -> PathBuf {
    data.join("pads")
}

/// A pad's file in [`folder`].
pub fn path(data: &Path, name: &[u8; 16]) -> PathBuf {
    let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    folder(data).join(name)
}

/// The file of a pack's pad beside the pack's own.
pub fn beside(pack: &Path) -> PathBuf {
    let mut name = pack.as_os_str().to_owned();
    name.push(".pad");
    PathBuf::from(name)
}

/// Moves a pad. Across file systems it is copied, and the source overwritten and removed: then for a moment there are two.
/// Done again after a crash it goes on where it was.
pub fn move_to(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = match disk.open(from, false) {
        // Moved before.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            read_header(&*disk.open(to, false)?)?;
            return Ok(());
        }
        opened => opened?,
    };
    match disk.rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => copy(&**disk, &*source, from, to)?,
        Err(error) => return Err(error.into()),
    }
    for folder in [to.parent(), from.parent()].into_iter().flatten() {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        disk.sync_dir(folder)?;
    }
    Ok(())
}

/// Digest of a second half: of as many bytes as the regions have. [`StoreError::Corrupt`]: it has fewer.
pub fn digest_half(disk: &dyn Disk, half: &Path, layout: Layout) -> Result<Half, StoreError> {
    let file = disk.open(half, false)?;
    let end = 2 * layout.region();
    if file.len()? < end {
        return Err(StoreError::Corrupt);
    }
    let (mut digest, mut at) = (HalfDigest::default(), 0);
    let mut buffer = zeroize::Zeroizing::new(vec![0; 1 << 20]);
    while at < end {
        let count = buffer.len().min(usize::try_from(end - at).unwrap_or(buffer.len()));
        file.read_at(at, &mut buffer[..count])?;
        digest.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(digest.finish())
}

/// Adds a second half to the pad at `from`, which becomes the pad at `to`. Both halves stay as they are, until they are
/// overwritten. Done again after a crash it begins anew, if the pad is not whole.
pub fn combine(disk: &dyn Disk, from: &Path, half: &Path, to: &Path) -> Result<(), StoreError> {
    let source = disk.open(from, false)?;
    let header = read_header(&*source)?;
    if disk
        .open(to, false)
        .is_ok_and(|file| read_header(&*file).is_ok_and(|found| found.made == header.made))
    {
        return Ok(());
    }
    let (half, target) = (disk.open(half, false)?, disk.open(to, true)?);
    target.set_len(0)?;
    let (start, end) = (2 * HEADER_COPY as u64, header.made.layout.file_bytes());
    let mut pad = zeroize::Zeroizing::new(vec![0; 1 << 20]);
    let mut other = zeroize::Zeroizing::new(vec![0; 1 << 20]);
    let mut at = start;
    while at < end {
        let count = pad.len().min(usize::try_from(end - at).unwrap_or(pad.len()));
        source.read_at(at, &mut pad[..count])?;
        half.read_at(at - start, &mut other[..count])?;
        for (byte, other) in pad[..count].iter_mut().zip(&other[..count]) {
            *byte ^= other;
        }
        target.write_at(at, &pad[..count])?;
        at += count as u64;
    }
    target.sync()?;
    // The headers come last: what has none is no pad.
    copy_range(&*source, &*target, 0, start)?;
    target.sync()?;
    match to.parent() {
        Some(folder) => Ok(disk.sync_dir(folder)?),
        None => Ok(()),
    }
}

/// Overwrites a first half and removes it. Its header goes last, so that after a crash it is still known what it is.
pub fn overwrite_first(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    overwrite_all(&*disk.open(path, false)?, 2 * HEADER_COPY)?;
    Ok(disk.remove(path)?)
}

/// Overwrites a second half and removes it. What [`mark_of_half`] knows it by goes last.
pub fn overwrite_half(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    overwrite_all(&*disk.open(path, false)?, MARKED)?;
    Ok(disk.remove(path)?)
}

/// By what a second half is known again until it is overwritten: H of its first bytes.
pub fn mark_of_half(disk: &dyn Disk, half: &Path) -> Result<[u8; 32], StoreError> {
    let mut first = zeroize::Zeroizing::new([0; MARKED]);
    disk.open(half, false)?.read_at(0, &mut first[..])?;
    Ok(kdf::hash(&[&first[..]]))
}

/// Overwrites all behind the first `kept` bytes, and then those.
fn overwrite_all(file: &dyn DiskFile, kept: usize) -> Result<(), StoreError> {
    let (mut at, end) = (kept as u64, file.len()?);
    while at < end {
        let count = ZEROS.len().min(usize::try_from(end - at).unwrap_or(ZEROS.len()));
        file.write_at(at, &ZEROS[..count])?;
        at += count as u64;
    }
    file.sync()?;
    file.write_at(0, &ZEROS[..kept])?;
    Ok(file.sync()?)
}

fn copy(disk: &dyn Disk, source: &dyn DiskFile, from: &Path, to: &Path) -> Result<(), StoreError> {
    // The source may be half overwritten already: then the copy is whole.
    let is_copied = |made: &Made| {
        let copied = disk.open(to, false).map_err(StoreError::from);
        copied
            .and_then(|file| read_header(&*file))
            .is_ok_and(|header| header.made == *made)
    };
    if let Ok(header) = read_header(source)
        && !is_copied(&header.made)
    {
        let target = disk.open(to, true)?;
        target.set_len(0)?;
        // The headers come last: what has none is no pad.
        let end = header.made.layout.file_bytes();
        let start = 2 * HEADER_COPY as u64;
        for (from, end) in [(start, end), (0, start)] {
            copy_range(source, &*target, from, end)?;
            target.sync()?;
        }
    }
    overwrite_all(source, 2 * HEADER_COPY)?;
    Ok(disk.remove(from)?)
}

fn copy_range(source: &dyn DiskFile, target: &dyn DiskFile, from: u64, end: u64) -> Result<(), StoreError> {
    let mut at = from;
    let mut buffer = zeroize::Zeroizing::new(vec![0; 1 << 20]);
    while at < end {
        let count = buffer.len().min(usize::try_from(end - at).unwrap_or(buffer.len()));
        source.read_at(at, &mut buffer[..count])?;
        target.write_at(at, &buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}
