//! Search for whatever opens a recorded link: the view of someone who wrote down a first cell and seized the machines.
//!
//! [`Recording`] knows every way in which 32 or 64 bytes could be a key of the recorded cell; [`Source`] gives the bytes
//! of files and of live memory; [`open_slots`] what the key slots hold, for who has the disk has their keys too.
//! Start at [`search`].

mod derive;
mod recording;
mod slots;
mod source;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use keypacks::kdf;

pub use recording::{Opens, Recording};
pub use slots::{OpenedSlot, open_slots};
use source::Piece;
pub use source::{Source, files, memory};

/// Bytes of a key.
pub const KEY: usize = 32;
/// Bytes of the longest secret that is tried: both halves of a link key, side by side.
const LONGEST: usize = 2 * KEY;
/// Fewer distinct bytes than this are no key: 32 uniform bytes have fewer with a probability below 2^-120.
const DISTINCT_MIN: u32 = 8;
/// What is compared with all that was seen before, so that what lies in many places is tried once.
const PAGE: usize = 4_096;
/// Steps that a state from a slot is hashed forward: it may be older than the recorded link.
const SLOT_STEPS: u32 = 256;

/// What a search did.
#[derive(Default)]
pub struct Outcome {
    /// Offsets looked at.
    pub windows: u64,
    /// Of those, how many were tried as keys; the others repeat a page or are no key.
    pub tried: u64,
    /// Bytes that could not be read: a file that went away, a page that is not memory.
    pub unread: u64,
    /// Copies of slots that opened and were searched.
    pub slots: u64,
    /// What opens the recording, and where it lies.
    pub hits: Vec<String>,
}

/// Tries every offset of all sources, and the states inside of all slots, on all processors.
pub fn search(recording: &Recording, sources: &[Source], slots: &[OpenedSlot]) -> Outcome {
    let pieces = Mutex::new(sources.iter().flat_map(Source::pieces));
    let next = || locked(&pieces).next();
    let seen = Mutex::new(HashSet::new());
    let total = Mutex::new(Outcome::default());
    let work = || {
        while let Some(piece) = next() {
            let outcome = search_piece(recording, &piece, &seen);
            locked(&total).add(outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        (0..workers).for_each(|_| {
            scope.spawn(work);
        });
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    slots.iter().for_each(|slot| total.add(search_slot(recording, slot)));
    total
}

/// `seen` holds digests of all pages searched so far, each with what its last windows reach into.
fn search_piece(recording: &Recording, piece: &Piece<'_>, seen: &Mutex<HashSet<[u8; 32]>>) -> Outcome {
    let read = piece.read();
    let mut outcome = Outcome {
        windows: read.windows as u64,
        unread: read.unread,
        ..Outcome::default()
    };
    for start in (0..read.windows).step_by(PAGE) {
        let windows = PAGE.min(read.windows - start);
        let bytes = &read.bytes[start..read.bytes.len().min(start + windows + LONGEST - 1)];
        if bytes.iter().all(|byte| *byte == 0) || !locked(seen).insert(kdf::hash(&[bytes])) {
            continue;
        }
        outcome.tried += each_window(bytes, windows, |offset, window| {
            if let Some(opens) = recording.opened_by(window, 1) {
                outcome.hits.push(piece.place(start + offset, &opens));
            }
        });
    }
    outcome
}

fn search_slot(recording: &Recording, slot: &OpenedSlot) -> Outcome {
    let (mut hits, windows) = (Vec::new(), (slot.state.len() + 1).saturating_sub(KEY));
    let tried = each_window(&slot.state, windows, |offset, window| {
        if let Some(opens) = recording.opened_by(window, SLOT_STEPS) {
            hits.push(format!("{opens} in {}, octet {offset} of its state", slot.place));
        }
    });
    Outcome {
        windows: windows as u64,
        tried,
        slots: 1,
        hits,
        ..Outcome::default()
    }
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.windows += other.windows;
        self.tried += other.tried;
        self.unread += other.unread;
        self.slots += other.slots;
        self.hits.extend(other.hits);
    }
}

/// Calls `visit` with each of the first `windows` offsets where a key could begin, and with the bytes from there on;
/// returns how many there were.
fn each_window(bytes: &[u8], windows: usize, mut visit: impl FnMut(usize, &[u8])) -> u64 {
    let mut variety = Variety::default();
    let mut visited = 0;
    bytes.iter().take(KEY - 1).for_each(|byte| variety.enter(*byte));
    for (offset, last) in bytes.iter().skip(KEY - 1).take(windows).enumerate() {
        variety.enter(*last);
        if variety.distinct >= DISTINCT_MIN {
            visit(offset, &bytes[offset..bytes.len().min(offset + LONGEST)]);
            visited += 1;
        }
        variety.leave(bytes[offset]);
    }
    visited
}

/// How many distinct bytes a sliding window holds.
struct Variety {
    counts: [u8; 256],
    distinct: u32,
}

impl Default for Variety {
    fn default() -> Self {
        Variety {
            counts: [0; 256],
            distinct: 0,
        }
    }
}

impl Variety {
    fn enter(&mut self, byte: u8) {
        let count = &mut self.counts[usize::from(byte)];
        self.distinct += u32::from(*count == 0);
        *count += 1;
    }

    fn leave(&mut self, byte: u8) {
        let count = &mut self.counts[usize::from(byte)];
        *count -= 1;
        self.distinct -= u32::from(*count == 0);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
