//! Slots: chain states in two copies, overwritten in place (`docs/PROTOCOL.md` section 9).
//!
//! ```text
//! slots  | block: copies A of slots 0..p | block: copies B of slots 0..p | copies A of slots p..2p | ...
//! copy   N(24) | Box(slot file key, generation u64 | commit u64 | length u16 | state | zeros)
//! ```
//!
//! Blocks are 4 KiB and `p = 4096 / slot_bytes`. All copies A of an update are written and synced before any copy B, so
//! a torn block never takes both copies of a slot with it. A copy of zeros was never written.

use std::path::Path;
use std::sync::Arc;

use keypacks::{Secret, secretbox};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::entropy::Entropy;
use crate::vault;

const BLOCK: u64 = 4_096;
/// Nonce, MAC, generation, commit number and length.
const OVERHEAD: usize = 24 + 16 + 8 + 8 + 2;
/// Pairs of blocks that the file grows by.
const GROWTH: u64 = 16;

/// Number of a slot.
pub type SlotNumber = u64;

/// What a slot holds.
pub struct SlotState {
    /// Counts the slot's updates.
    pub generation: u64,
    /// Commit number of the database when it was written.
    pub commit: u64,
    /// Whether both copies are this one; if not, the slot is to be written again before it is relied upon.
    pub whole: bool,
    /// The state as written.
    pub state: Zeroizing<Vec<u8>>,
}

/// One slot as it is to be written.
pub struct SlotUpdate {
    /// Which.
    pub slot: SlotNumber,
    /// Commit number of the database that it follows.
    pub commit: u64,
    /// Its new state, at most [`SlotFile::state_bytes_max`] long.
    pub state: Zeroizing<Vec<u8>>,
}

/// A file of slots.
pub struct SlotFile {
    file: Box<dyn DiskFile>,
    key: Secret<32>,
    slot_bytes: usize,
    /// Highest generation that was ever given out for each slot, be it that its write failed; 0: none that is known.
    generations: Vec<u64>,
    entropy: Arc<dyn Entropy>,
}

#[derive(Clone, Copy)]
enum Copy {
    A,
    B,
}

impl SlotFile {
    /// Opens or makes a slot file whose slots take `slot_bytes` (a divisor of 4,096) each.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        key: Secret<32>,
        slot_bytes: usize,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        if slot_bytes <= OVERHEAD || !BLOCK.is_multiple_of(slot_bytes as u64) {
            return Err(StoreError::Invalid);
        }
        let file = disk.open(path, true)?;
        Ok(Self {
            file,
            key,
            slot_bytes,
            generations: Vec::new(),
            entropy,
        })
    }

    /// Longest state, in bytes.
    pub fn state_bytes_max(&self) -> usize {
        self.slot_bytes - OVERHEAD
    }

    /// The newest copy of a slot that opens. `None`: it was never written. `Corrupt`: neither copy opens.
    pub fn read(&mut self, slot: SlotNumber) -> Result<Option<SlotState>, StoreError> {
        let state = self.look(slot)?;
        if let Some(state) = &state {
            self.note(slot, state.generation);
        }
        Ok(state)
    }

    /// As [`Self::read`], for whoever never writes.
    pub fn look(&self, slot: SlotNumber) -> Result<Option<SlotState>, StoreError> {
        self.read_run(slot, 1)?.open().pop().ok_or(StoreError::Corrupt)?
    }

    /// Reads `count` slots from `first` on in one go. Whoever opens them and means to write tells [`Self::note`].
    pub fn read_run(&self, first: SlotNumber, count: usize) -> Result<SlotRun<'_>, StoreError> {
        let last = first.saturating_add((count as u64).saturating_sub(1));
        let start = self.place(first, Copy::A) / BLOCK * BLOCK;
        let end = self.place(last, Copy::B) / BLOCK * BLOCK + BLOCK;
        let length = end.min(self.file.len()?).saturating_sub(start);
        let length = usize::try_from(length).map_err(|_| StoreError::Invalid)?;
        let mut bytes = Zeroizing::new(vec![0; length]);
        if !bytes.is_empty() {
            self.file.read_at(start, &mut bytes)?;
        }
        Ok(SlotRun {
            file: self,
            first,
            count,
            start,
            bytes,
        })
    }

    /// A slot was found at this generation: its next write takes a higher one.
    pub fn note(&mut self, slot: SlotNumber, generation: u64) {
        let highest = self.generation_mut(slot);
        *highest = generation.max(*highest);
    }

    /// How many slots the file has room for.
    pub fn count(&self) -> Result<u64, StoreError> {
        Ok(self.file.len()? / (2 * self.slot_bytes as u64))
    }

    /// Writes slots: all copies A, sync, all copies B, sync. Old states are gone from the disk when it returns.
    pub fn write(&mut self, updates: &[SlotUpdate]) -> Result<(), StoreError> {
        if updates.iter().any(|update| update.state.len() > self.state_bytes_max()) {
            return Err(StoreError::Invalid);
        }
        let Some(last) = updates.iter().map(|update| update.slot).max() else {
            return Ok(());
        };
        self.grow(last)?;
        // Before the write, so that what a failed one left in copy B is never taken for the twin of a later copy A.
        for update in updates {
            *self.generation_mut(update.slot) += 1;
        }
        // Both copies are the same bytes: sealing is most of what a write costs.
        let mut sealed = Vec::with_capacity(updates.len() * self.slot_bytes);
        for update in updates {
            let generation = *self.generation_mut(update.slot);
            sealed.extend_from_slice(&self.seal(update, generation));
        }
        for copy in [Copy::A, Copy::B] {
            for (update, sealed) in updates.iter().zip(sealed.chunks_exact(self.slot_bytes)) {
                self.file.write_at(self.place(update.slot, copy), sealed)?;
            }
            self.file.sync()?;
        }
        Ok(())
    }

    fn grow(&self, last: SlotNumber) -> Result<(), StoreError> {
        let end = self.place(last, Copy::B) / BLOCK * BLOCK + BLOCK;
        if self.file.len()? < end {
            self.file.allocate(end.next_multiple_of(2 * BLOCK * GROWTH))?;
        }
        Ok(())
    }

    fn place(&self, slot: SlotNumber, copy: Copy) -> u64 {
        let per_block = BLOCK / self.slot_bytes as u64;
        let pair = slot / per_block * 2 * BLOCK;
        let block = match copy {
            Copy::A => pair,
            Copy::B => pair + BLOCK,
        };
        block + slot % per_block * self.slot_bytes as u64
    }

    fn seal(&self, update: &SlotUpdate, generation: u64) -> Vec<u8> {
        let length = u16::try_from(update.state.len()).expect("a state is shorter than a block");
        let mut plain = Zeroizing::new(Vec::with_capacity(self.slot_bytes - 40));
        plain.extend_from_slice(&generation.to_le_bytes());
        plain.extend_from_slice(&update.commit.to_le_bytes());
        plain.extend_from_slice(&length.to_le_bytes());
        plain.extend_from_slice(&update.state);
        plain.resize(self.slot_bytes - 40, 0);
        vault::seal(&self.key, &plain, &*self.entropy)
    }

    /// No more of these than the file has slots, since they are read from it or about to be written.
    fn generation_mut(&mut self, slot: SlotNumber) -> &mut u64 {
        let slot = usize::try_from(slot).expect("a file with so many slots is longer than any file");
        if slot >= self.generations.len() {
            self.generations.resize(slot + 1, 0);
        }
        &mut self.generations[slot]
    }
}

/// Slots as they were read, one after the other, sealed.
pub struct SlotRun<'f> {
    file: &'f SlotFile,
    first: SlotNumber,
    count: usize,
    /// Where in the file the bytes are from.
    start: u64,
    bytes: Zeroizing<Vec<u8>>,
}

impl SlotRun<'_> {
    /// What [`SlotFile::read`] says of each slot, in their order. A file that ends before them has no such slots.
    pub fn open(mut self) -> Vec<Result<Option<SlotState>, StoreError>> {
        let mut opened = Vec::with_capacity(self.count);
        for slot in (self.first..).take(self.count) {
            let (a, b) = (self.open_copy(slot, Copy::A), self.open_copy(slot, Copy::B));
            opened.push(newest(a, b));
        }
        opened
    }

    /// Opens a copy where it lies: once.
    fn open_copy(&mut self, slot: SlotNumber, copy: Copy) -> Read {
        let offset = self.file.place(slot, copy) - self.start;
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get_mut(offset..)?.get_mut(..self.file.slot_bytes));
        let Some(bytes) = bytes else { return Read::Empty };
        if bytes.iter().all(|byte| *byte == 0) {
            return Read::Empty;
        }
        let Some((nonce, boxed)) = bytes.split_first_chunk_mut() else {
            return Read::Torn;
        };
        let Ok(plain) = secretbox::open_in_place(&self.file.key, nonce, boxed) else {
            return Read::Torn;
        };
        parse(plain).map_or(Read::Torn, Read::Valid)
    }
}

fn newest(a: Read, b: Read) -> Result<Option<SlotState>, StoreError> {
    match (a, b) {
        (Read::Empty, Read::Empty) => Ok(None),
        (Read::Valid(a), Read::Valid(b)) if a.generation >= b.generation => Ok(Some(SlotState {
            whole: a.generation == b.generation,
            ..a
        })),
        (_, Read::Valid(state)) | (Read::Valid(state), _) => Ok(Some(state)),
        // A first write that was torn in A left B empty: the slot was never handed out.
        (Read::Torn, Read::Empty) => Ok(None),
        _ => Err(StoreError::Corrupt),
    }
}

enum Read {
    Empty,
    Torn,
    Valid(SlotState),
}

fn parse(plain: &[u8]) -> Option<SlotState> {
    let (generation, rest) = plain.split_first_chunk::<8>()?;
    let (commit, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let state = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    Some(SlotState {
        generation: u64::from_le_bytes(*generation),
        commit: u64::from_le_bytes(*commit),
        whole: false,
        state: Zeroizing::new(state.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::entropy::SeededEntropy;

    fn slots(disk: &MemoryDisk, seed: u64) -> SlotFile {
        disk.create_dir_all(Path::new("/s")).expect("made");
        let entropy = Arc::new(SeededEntropy::new(seed));
        SlotFile::open(disk, Path::new("/s/slots"), Secret::new([7; 32]), 256, entropy).expect("opened")
    }

    fn update(slot: SlotNumber, byte: u8) -> SlotUpdate {
        SlotUpdate {
            slot,
            commit: u64::from(byte),
            state: Zeroizing::new(vec![byte; 100]),
        }
    }

    #[test]
    fn a_slot_reads_back_and_an_unwritten_one_is_none() {
        let disk = MemoryDisk::new();
        let mut slots = slots(&disk, 1);
        slots.write(&[update(3, 1), update(40, 2)]).expect("written");
        slots.write(&[update(3, 5)]).expect("written");
        let mut again = self::slots(&disk, 2);
        let read = again.read(3).expect("opens").expect("written");
        assert_eq!((read.generation, read.commit, &read.state[..]), (2, 5, &[5; 100][..]));
        assert!(read.whole);
        assert!(again.read(4).expect("readable").is_none());
        assert!(again.read(4_000).expect("readable").is_none());
        assert_eq!(
            slots.write(&[SlotUpdate {
                state: Zeroizing::new(vec![0; 199]),
                ..update(0, 0)
            }]),
            Err(StoreError::Invalid)
        );
    }

    /// Whatever a slot is like: the run says the same of it as a read does.
    #[test]
    fn slots_read_in_a_run_are_those_read_one_by_one() {
        let disk = MemoryDisk::new();
        let mut slots = slots(&disk, 1);
        let all: Vec<_> = (0..40)
            .filter(|slot| slot % 7 != 0)
            .map(|slot| update(slot, 1))
            .collect();
        slots.write(&all).expect("written");
        slots
            .write(&[update(5, 2), update(17, 2), update(39, 2)])
            .expect("written");
        // One copy is lost, then both, then one is an older one; the file ends within the last copy B of the second pair.
        let file = disk.open(Path::new("/s/slots"), false).expect("there");
        let mut old = [0; 256];
        file.read_at(slots.place(6, Copy::A), &mut old).expect("there");
        file.write_at(slots.place(8, Copy::B), &[9; 256]).expect("written");
        file.write_at(slots.place(9, Copy::A), &[9; 256]).expect("written");
        file.write_at(slots.place(9, Copy::B), &[9; 256]).expect("written");
        slots.write(&[update(6, 2)]).expect("written");
        file.write_at(slots.place(6, Copy::A), &old).expect("written");
        file.set_len(slots.place(31, Copy::B) + 100).expect("cut");

        let told = |read: Result<Option<SlotState>, StoreError>| {
            read.map(|slot| slot.map(|slot| (slot.generation, slot.commit, slot.whole, slot.state.to_vec())))
        };
        let mut again = self::slots(&disk, 2);
        let one_by_one: Vec<_> = (0..50).map(|slot| told(again.read(slot))).collect();
        assert_eq!(one_by_one[9], Err(StoreError::Corrupt));
        assert_eq!(one_by_one[7], Ok(None));
        for (slot, commit, whole) in [(4, 1, true), (5, 2, true), (6, 2, false), (8, 1, false), (31, 1, false)] {
            let state = one_by_one[slot].as_ref().expect("opens").as_ref().expect("written");
            assert_eq!((state.1, state.2), (commit, whole), "slot {slot}");
        }
        for (first, count) in [(0, 50), (5, 1), (15, 2), (16, 16), (31, 9), (39, 11), (49, 1), (7, 0)] {
            let run = again.read_run(first, count).expect("readable").open();
            let first = usize::try_from(first).expect("small");
            let run: Vec<_> = run.into_iter().map(told).collect();
            assert_eq!(run, one_by_one[first..first + count], "{count} from {first}");
        }
    }

    #[test]
    fn a_slot_that_was_noted_is_written_above_it() {
        let disk = MemoryDisk::new();
        let mut first = slots(&disk, 1);
        first.write(&[update(2, 1)]).expect("written");
        first.write(&[update(2, 2)]).expect("written");
        let mut again = self::slots(&disk, 2);
        let run = again.read_run(2, 1).expect("readable").open().pop().expect("one");
        let found = run.expect("opens").expect("written").generation;
        again.note(2, found);
        again.write(&[update(2, 3)]).expect("written");
        let state = self::slots(&disk, 3).read(2).expect("opens").expect("written");
        assert_eq!((state.generation, state.commit, state.whole), (found + 1, 3, true));
    }

    #[test]
    fn whatever_operation_the_power_fails_at_a_slot_is_old_or_new() {
        for (operation, seed) in (0..8).flat_map(|operation| (0..16).map(move |seed| (operation, seed))) {
            let disk = MemoryDisk::new();
            let mut slots = slots(&disk, 1);
            slots
                .write(&[update(0, 1), update(1, 1), update(2, 1)])
                .expect("written");
            disk.power_off_after(operation);
            let _ = slots.write(&[update(0, 2), update(2, 2)]);
            disk.crash(seed);
            let mut again = self::slots(&disk, 3);
            for slot in [0, 1, 2] {
                let state = again.read(slot).expect("one copy opens").expect("written");
                assert!(
                    state.commit == 1 || (slot != 1 && state.commit == 2),
                    "operation {operation} seed {seed}"
                );
            }
        }
    }

    #[test]
    fn what_a_failed_write_left_is_no_twin_of_the_next_one() {
        for (fails, operation, seed) in
            (0..6).flat_map(|fails| (0..6).flat_map(move |at| (0..4).map(move |s| (fails, at, s))))
        {
            let disk = MemoryDisk::new();
            let mut slots = slots(&disk, 1);
            slots.write(&[update(0, 1)]).expect("written");
            disk.fail_nth(fails);
            let _ = slots.write(&[update(0, 2)]);
            disk.power_off_after(operation);
            let _ = slots.write(&[update(0, 3)]);
            disk.crash(seed);
            let again = self::slots(&disk, 3);
            let mut run = again.read_run(0, 1).expect("readable");
            let copies = [Copy::A, Copy::B].map(|copy| match run.open_copy(0, copy) {
                Read::Valid(state) => state.commit,
                _ => 0,
            });
            let state = self::slots(&disk, 3).read(0).expect("one copy opens").expect("written");
            assert!(
                !state.whole || copies[0] == copies[1],
                "{fails} {operation} {seed}: {copies:?}"
            );
        }
    }
}
