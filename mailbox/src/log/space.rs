//! Space: what is released is made ready again, what is sparse is emptied.

use std::sync::Arc;

use super::{Log, Segment, State};
use crate::StoreError;
use crate::disk::{DiskFile, RESERVE_BYTES};

/// Spare segments that are kept ready.
pub(super) const SPARES: usize = 2;
/// How far a body may be moved to make room: segments with more than this share of living bytes are left alone.
const SWEEP_BELOW: f64 = 0.5;

impl Log {
    /// Makes spares of what nobody needs any more, and of new files where there are too few; removes what is too much.
    pub(crate) fn make_spares(&self) -> Result<(), StoreError> {
        loop {
            let (number, fresh, is_wanted) = {
                let mut state = self.state();
                let Some(number) = state.finished().filter(|_| state.readers == 0) else {
                    break;
                };
                let fresh = state.take_number()?;
                state.files.remove(&number);
                state.handles.forget(number);
                (number, fresh, state.spares.len() < SPARES)
            };
            // What fails here is tidied up at the next start.
            if !is_wanted || self.disk.open(&self.path(number), false)?.len()? != self.segment_bytes {
                self.disk.remove(&self.path(number))?;
                continue;
            }
            // Under a new number: the header and the records in it name the old one and are void.
            self.disk.rename(&self.path(number), &self.path(fresh))?;
            self.disk.sync_dir(&self.folder)?;
            let file = self.disk.open(&self.path(fresh), false)?.into();
            self.state().spares.push_back((fresh, file));
        }
        while {
            let state = self.state();
            state.spares.len() < SPARES && !state.is_hurried
        } {
            if self.disk.free_bytes(&self.folder)? < RESERVE_BYTES + 2 * self.segment_bytes {
                return Err(StoreError::Full);
            }
            let number = self.state().take_number()?;
            let file: Arc<dyn DiskFile> = self.disk.open(&self.path(number), true)?.into();
            if let Err(error) = file.allocate(self.segment_bytes) {
                // What was allocated of it is room that others need.
                let _ = self.disk.remove(&self.path(number));
                return Err(error.into());
            }
            self.disk.sync_dir(&self.folder)?;
            self.state().spares.push_back((number, file));
        }
        Ok(())
    }

    /// A segment whose living bodies are worth moving, as long as less than half of the log lives.
    pub(crate) fn sparse(&self) -> Option<u32> {
        let state = self.state();
        // Nothing would be won while somebody keeps the segments.
        if state.readers > 0 {
            return None;
        }
        let closed = || {
            let closed = |(_, segment): &(&u32, &Segment)| {
                segment.ordinal < state.checkpoint && !segment.unreadable && segment.live > 0
            };
            state.files.iter().filter(closed)
        };
        let (used, live) = closed().fold((0, 0), |(used, live), (_, segment)| {
            (used + segment.end, live + segment.live)
        });
        if live as f64 > used as f64 * SWEEP_BELOW {
            return None;
        }
        let share = |segment: &Segment| segment.live as f64 / segment.end as f64;
        closed()
            .min_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)))
            .map(|(number, _)| *number)
    }

    /// Bodies of this segment were moved; if some still count as living, they are not looked for again.
    pub(crate) fn swept(&self, number: u32) {
        if let Some(segment) = self.state().files.get_mut(&number) {
            segment.unreadable = segment.live > 0;
        }
    }

    /// How many bytes of bodies the disk takes besides what is left free on it.
    pub(crate) fn room(&self) -> Result<u64, StoreError> {
        Ok(self.disk.free_bytes(&self.folder)?.saturating_sub(RESERVE_BYTES))
    }

    /// Returns when a spare has been taken.
    pub(crate) async fn runs_short(&self) {
        self.short.notified().await;
    }

    /// Keeps all segments as they are until the guard is dropped.
    pub(crate) fn keep_segments(&self) -> Kept<'_> {
        self.state().readers += 1;
        Kept { log: self }
    }

    /// Has a segment not be used again until [`Self::let_go`] is called as often.
    pub(crate) fn hold(&self, number: u32) {
        *self.state().held.entry(number).or_default() += 1;
    }

    /// See [`Self::hold`].
    pub(crate) fn let_go(&self, number: u32) {
        let mut state = self.state();
        let Some(count) = state.held.get_mut(&number) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.held.remove(&number);
        if state.files.get(&number).is_some_and(|segment| segment.live == 0) {
            // It was kept for this reader alone.
            self.short.notify_one();
        }
    }

    /// Bytes taken on the disk, spares included.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        let paths = self.disk.list(&self.folder).expect("readable");
        let segments = paths.iter().filter(|path| super::number_of(path).is_some());
        segments
            .map(|path| {
                self.disk
                    .open(path, false)
                    .and_then(|file| file.len())
                    .unwrap_or_default()
            })
            .sum()
    }
}

/// See [`Log::keep_segments`].
pub(crate) struct Kept<'l> {
    log: &'l Log,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.log.state().readers -= 1;
    }
}

impl State {
    /// A segment that no restart reads, no row names and no reader holds.
    pub(super) fn finished(&self) -> Option<u32> {
        let finished = |(number, segment): &(&u32, &Segment)| {
            segment.live == 0 && segment.ordinal < self.checkpoint && !self.held.contains_key(number)
        };
        self.files.iter().find(finished).map(|(number, _)| *number)
    }
}
