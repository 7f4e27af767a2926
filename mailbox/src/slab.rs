//! The key slab: 32-byte records that row keys are made from, overwritten in place when their row is finished.
//!
//! ```text
//! slab   | record 0 (32) | record 1 (32) | ...                     record n at 32 n
//! ```
//!
//! A free record already holds fresh random bytes that are durable, so taking one costs no write and no sync. Erasing
//! overwrites it with new random bytes; it is free again once those are durable. The index says which are taken.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use keypacks::Secret;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::disk::{Disk, DiskFile};
use crate::entropy::Entropy;

const RECORD: usize = 32;
/// Free records that are read at one time, at most; when fewer are left, a commit reads more. Enough for the callers of a
/// whole commit.
const READ_AHEAD: usize = 256;
/// Records added at a time.
const GROWTH: u64 = 1_024;

/// Number of a record.
pub type RecordNumber = u64;

/// The slab of one store.
pub struct Slab {
    file: Box<dyn DiskFile>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: u64,
    /// In descending order, or nearly so: runs are taken from the end.
    free: Vec<RecordNumber>,
    /// Free records that were read together; the next one last.
    read: Vec<(RecordNumber, Secret<32>)>,
    /// What the batch under way took and finished.
    under_way: Marked,
    /// What the one before it did, while that is being written.
    written: Marked,
    /// Finished for certain, not yet overwritten.
    due: Vec<RecordNumber>,
}

/// Records that one batch has to do with.
#[derive(Default)]
struct Marked {
    /// Erased if the batch fails.
    taken: Vec<RecordNumber>,
    /// Erased after the batch is durable.
    finished: Vec<RecordNumber>,
}

impl Slab {
    /// Opens or makes the slab. No record is free until [`Self::set_used`].
    pub fn open(disk: &dyn Disk, path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let file = disk.open(path, true)?;
        let count = file.len()? / RECORD as u64;
        Ok(Self {
            file,
            entropy,
            state: Mutex::new(State {
                count,
                ..State::default()
            }),
        })
    }

    /// Tells which records are taken; all others are overwritten at once, since a crash may have left some undone.
    pub fn set_used(&self, used: &BTreeSet<RecordNumber>) -> Result<(), StoreError> {
        let mut state = self.state();
        if used.last().is_some_and(|last| *last >= state.count) {
            return Err(StoreError::Corrupt);
        }
        let free = (0..state.count).filter(|record| !used.contains(record)).collect();
        *state = State {
            count: state.count,
            due: free,
            ..State::default()
        };
        drop(state);
        self.erase()
    }

    /// Takes a free record for the commit under way and reads it.
    pub fn take(&self) -> Result<(RecordNumber, Secret<32>), StoreError> {
        let mut state = self.state();
        if state.read.is_empty() {
            self.read_ahead(&mut state)?;
        }
        let (record, key) = state.read.pop().expect("some were just read");
        state.under_way.taken.push(record);
        Ok((record, key))
    }

    /// Takes a free record ahead of a commit, if one was read already: it never waits. Whoever has it gives it to a commit
    /// by [`Self::claim`], or back by [`Self::finish_now`].
    pub fn take_ahead(&self) -> Option<(RecordNumber, Secret<32>)> {
        self.state.try_lock().ok()?.read.pop()
    }

    /// The commit under way takes a record that was taken ahead.
    pub fn claim(&self, record: RecordNumber) {
        let mut state = self.state();
        state.under_way.taken.push(record);
        if state.read.len() < READ_AHEAD {
            // What fails here is told to whoever needs a record and finds none.
            let _ = self.read_ahead(&mut state);
        }
    }

    /// Reads this many free records, if none are at hand.
    #[cfg(test)]
    pub fn read_for_test(&self, count: usize) {
        let mut state = self.state();
        assert!(state.read.is_empty());
        self.read_ahead(&mut state).expect("readable");
        let surplus = state.read.len() - count;
        let surplus: Vec<_> = state.read.drain(..surplus).map(|(record, _)| record).collect();
        state.free.extend(surplus);
    }

    /// Reads the next run of free records.
    fn read_ahead(&self, state: &mut State) -> Result<(), StoreError> {
        if state.free.is_empty() {
            let first = state.count;
            self.refresh(&(first..first + GROWTH).collect::<Vec<_>>())?;
            state.count += GROWTH;
            state.free.extend((first..first + GROWTH).rev());
        }
        let descending = state.free.iter().rev().take(READ_AHEAD);
        let next = state.free.last().copied().unwrap_or_default();
        let length = descending
            .zip(next..)
            .take_while(|(record, place)| *record == place)
            .count();
        let mut bytes = Zeroizing::new(vec![0; length * RECORD]);
        let run = state.free.split_off(state.free.len() - length);
        if let Err(error) = self.file.read_at(next * RECORD as u64, &mut bytes) {
            // Not tried again as they are: writing them may mend them, and others can be taken meanwhile.
            state.due.extend(run);
            return Err(error.into());
        }
        let keys = bytes.as_chunks().0.iter().map(|key| Secret::new(*key));
        let mut run: Vec<_> = (next..).zip(keys).collect();
        run.reverse();
        run.append(&mut state.read);
        state.read = run;
        Ok(())
    }

    /// Reads a taken record.
    pub fn read(&self, record: RecordNumber) -> Result<Secret<32>, StoreError> {
        let mut bytes = [0; RECORD];
        self.file.read_at(record * RECORD as u64, &mut bytes)?;
        Ok(Secret::new(bytes))
    }

    /// Finishes a record with the commit under way: overwritten by the next [`Self::erase`] after it.
    pub fn finish(&self, record: RecordNumber) {
        self.state().under_way.finished.push(record);
    }

    /// Finishes a record outside of any commit: what it sealed is durable elsewhere.
    pub fn finish_now(&self, record: RecordNumber) {
        self.state().due.push(record);
    }

    /// The commit under way is being written: what is taken and finished from now on is the next one's.
    pub fn written(&self) {
        let mut state = self.state();
        state.written = std::mem::take(&mut state.under_way);
    }

    /// The commit that was being written is durable.
    pub fn durable(&self) {
        let mut state = self.state();
        let Marked { finished, .. } = std::mem::take(&mut state.written);
        state.due.extend(finished);
    }

    /// The commit that was being written does not count. What it took may have sealed something that reached the disk: it is
    /// erased before it is taken again.
    pub fn failed(&self) {
        let mut state = self.state();
        let Marked { taken, .. } = std::mem::take(&mut state.written);
        state.due.extend(taken);
    }

    /// The commit under way is durable.
    #[cfg(test)]
    fn committed(&self) {
        self.written();
        self.durable();
    }

    /// The commit under way was given up, before or after it was sealed: what it took is erased before it is taken again.
    pub fn abandoned(&self) {
        let mut state = self.state();
        let Marked { taken, .. } = std::mem::take(&mut state.under_way);
        state.due.extend(taken);
    }

    /// Whether [`Self::erase`] has something to do.
    pub fn is_due(&self) -> bool {
        !self.state().due.is_empty()
    }

    /// Overwrites what is finished and makes that durable; what fails stays due.
    pub fn erase(&self) -> Result<(), StoreError> {
        let mut due = self.state().due.clone();
        if due.is_empty() {
            return Ok(());
        }
        self.refresh(&due)?;
        let mut state = self.state();
        state.due.drain(..due.len());
        due.sort_unstable_by(|a, b| b.cmp(a));
        state.free.extend(due);
        Ok(())
    }

    /// Writes fresh random bytes into records, in runs, and syncs.
    fn refresh(&self, records: &[RecordNumber]) -> Result<(), StoreError> {
        let mut sorted = records.to_vec();
        sorted.sort_unstable();
        for run in sorted.chunk_by(|a, b| a + 1 == *b) {
            for part in run.chunks(usize::try_from(GROWTH).expect("a small constant")) {
                let mut bytes = Zeroizing::new(vec![0; part.len() * RECORD]);
                self.entropy.fill(&mut bytes);
                self.file.write_at(part[0] * RECORD as u64, &bytes)?;
            }
        }
        Ok(self.file.sync()?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::entropy::SeededEntropy;

    fn slab(disk: &MemoryDisk) -> Slab {
        disk.create_dir_all(Path::new("/s")).expect("made");
        let entropy = Arc::new(SeededEntropy::new(disk.operations()));
        Slab::open(disk, Path::new("/s/slab"), entropy).expect("opened")
    }

    fn holds(disk: &MemoryDisk, key: &Secret<32>) -> bool {
        disk.files()
            .iter()
            .any(|(_, bytes)| bytes.windows(32).any(|window| window == key.expose()))
    }

    #[test]
    fn a_taken_record_is_durable_without_a_write() {
        let disk = MemoryDisk::new();
        let slab = slab(&disk);
        slab.take().expect("grown");
        let before = disk.operations();
        let (record, key) = slab.take().expect("free");
        assert_eq!(disk.operations(), before);
        slab.committed();
        disk.crash(3);
        assert!(self::slab(&disk).read(record).expect("there") == key);
    }

    #[test]
    fn a_record_that_was_taken_ahead_is_overwritten_before_it_is_taken_again() {
        let disk = MemoryDisk::new();
        let slab = slab(&disk);
        assert!(slab.take_ahead().is_none(), "none was read");
        let (first, _) = slab.take().expect("grown");
        slab.committed();
        let (claimed, claimed_key) = slab.take_ahead().expect("read with the first");
        let (given_up, given_up_key) = slab.take_ahead().expect("read with the first");
        let (given_back, given_back_key) = slab.take_ahead().expect("read with the first");
        assert_eq!([first, claimed, given_up, given_back].len(), 4);
        slab.claim(claimed);
        slab.committed();
        slab.claim(given_up);
        slab.abandoned();
        slab.finish_now(given_back);
        slab.erase().expect("written");
        assert!(slab.read(claimed).expect("there") == claimed_key);
        assert!(!holds(&disk, &given_up_key) && !holds(&disk, &given_back_key));
        let mut again = BTreeSet::new();
        while again.len() < 2 * usize::try_from(GROWTH).expect("small") {
            let (record, key) = slab.take().expect("there is always one");
            assert!(record != first && record != claimed && again.insert(record));
            assert!(key != given_up_key && key != given_back_key);
        }
        assert!(again.contains(&given_up) && again.contains(&given_back));
    }

    #[test]
    fn what_the_batch_behind_took_is_given_up_without_what_is_being_written() {
        let disk = MemoryDisk::new();
        let slab = slab(&disk);
        let (old, old_key) = slab.take().expect("grown");
        slab.committed();
        let (first, first_key) = slab.take().expect("free");
        slab.finish(old);
        slab.written();
        let (second, second_key) = slab.take().expect("free");
        slab.finish(first);
        slab.abandoned();
        slab.erase().expect("overwritten");
        assert!(holds(&disk, &old_key) && holds(&disk, &first_key) && !holds(&disk, &second_key));
        slab.durable();
        slab.erase().expect("overwritten");
        assert!(!holds(&disk, &old_key) && slab.read(first).expect("there") == first_key);
        // And when what is being written fails, nothing that it finished is erased, but what it took.
        let (third, third_key) = slab.take().expect("free");
        slab.finish(first);
        slab.written();
        slab.failed();
        slab.erase().expect("overwritten");
        assert!(holds(&disk, &first_key) && !holds(&disk, &third_key));
        assert_eq!(BTreeSet::from([old, first, second, third]).len(), 4);
    }

    #[test]
    fn records_that_were_read_ahead_are_as_on_the_disk_and_taken_once() {
        let disk = MemoryDisk::new();
        let slab = slab(&disk);
        let mut taken = std::collections::BTreeMap::new();
        for round in 0..3_000 {
            let (record, key) = slab.take().expect("there is always one");
            assert!(key == slab.read(record).expect("there"));
            assert!(taken.insert(record, key).is_none(), "taken twice");
            if round % 3 == 0 {
                // Scattered, so that what is free lies in runs of all lengths.
                let scattered = *taken.keys().nth(round * 31 % taken.len()).expect("one at least");
                taken.remove(&scattered);
                slab.finish(scattered);
            }
            if round % 7 == 0 {
                slab.committed();
                slab.erase().expect("overwritten");
            }
        }
    }

    #[test]
    fn a_finished_record_is_gone_from_the_disk_after_erase() {
        let disk = MemoryDisk::new();
        let slab = slab(&disk);
        let (record, key) = slab.take().expect("grown");
        slab.committed();
        slab.finish(record);
        slab.abandoned();
        slab.erase().expect("nothing to do");
        assert!(holds(&disk, &key), "an abandoned commit finishes nothing");
        slab.finish(record);
        slab.committed();
        assert!(slab.is_due());
        slab.erase().expect("overwritten");
        assert!(!holds(&disk, &key));
        disk.crash(0);
        assert!(!holds(&disk, &key));
    }

    #[test]
    fn what_a_crash_left_unerased_is_erased_when_opened() {
        let disk = MemoryDisk::new();
        let first = slab(&disk);
        let (kept, kept_key) = first.take().expect("grown");
        let (_, lost_key) = first.take().expect("free");
        first.committed();
        drop(first);
        disk.crash(9);
        let again = slab(&disk);
        again.set_used(&BTreeSet::from([kept])).expect("within the slab");
        assert!(holds(&disk, &kept_key) && !holds(&disk, &lost_key));
        assert_eq!(again.set_used(&BTreeSet::from([1 << 40])), Err(StoreError::Corrupt));
    }
}
