//! What a holder does with a pad: it uses what is leased to its link, and nothing else.

use std::sync::Arc;

use keypacks::CELL;
use keypacks::pad::{self, Direction, End, Fill, HELLO_NONCE, Lease, Offer, PadError, PadOpener, PadSealer, Place};

use super::{Left, PadFile, TAGS_AHEAD, at};

/// Body bytes that cell 3 takes.
const CONFIRM_BYTES: u64 = 24;

/// Which attempt is next.
pub(super) struct Probe {
    count: u64,
    /// Half windows that were gone beyond the near ones, and how many there are to go.
    far: u64,
    farthest: u64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            count: 0,
            far: 0,
            farthest: 64,
        }
    }
}

impl PadFile {
    /// The record to try next. An attempt that got no answer may have been answered all the same, and then the relay has
    /// gone on by two: every other attempt goes upwards in steps of two, again and again. A restored copy is farther behind:
    /// those between go up by half of the relay's window, and begin anew with twice the way, until cell 2 says where it is.
    pub fn next_attempt(&self) -> u64 {
        let mut state = self.state();
        let probe = &mut state.probe;
        probe.count += 1;
        let ahead = if probe.count % 2 == 1 {
            2 * (probe.count / 2 % (TAGS_AHEAD / 2))
        } else {
            if probe.far >= probe.farthest {
                (probe.far, probe.farthest) = (0, probe.farthest.saturating_mul(2));
            }
            probe.far += 1;
            TAGS_AHEAD / 2 * (probe.far + 1)
        };
        let spent = state.header.spent[at(Direction::Up)].record;
        // A line that was cut behind such a request leaves the relay there, if it came so far.
        let first = match state.header.asked {
            asked @ 1.. if state.probe.count % 4 == 3 => asked.max(spent),
            _ => spent,
        };
        first.saturating_add(ahead).min(self.made.layout.records() - 1)
    }

    /// Makes cell 1. `seed` is fresh randomness, `nonce` too.
    pub fn cell1(&self, record: u64, nonce: &[u8; HELLO_NONCE], seed: [u8; 32]) -> Result<Box<[u8; CELL]>, PadError> {
        pad::hello(self, record, nonce, &mut Fill::new(seed))
    }

    /// Opens cell 2 and the cells behind it.
    pub fn down_opener(self: &Arc<Self>) -> PadOpener {
        let from = self.state().finished[at(Direction::Down)];
        PadOpener::new(self.clone(), Direction::Down, from)
    }

    /// Seals what goes to the relay, under the lease. `seed` is fresh randomness.
    pub fn up_sealer(self: &Arc<Self>, seed: [u8; 32]) -> PadSealer {
        PadSealer::new(self.clone(), Direction::Up, Fill::new(seed))
    }

    /// Takes what cell 2 offers. `false`: it offers what was used before, so the relay was restored. Blocks on the disk.
    pub fn offered(&self, offer: &Offer) -> Result<bool, PadError> {
        let mut state = self.state();
        let spent = state.header.spent[at(Direction::Up)];
        if !spent.is_within(offer.from) {
            return Ok(false);
        }
        // Where the relay is to be found next, whether cell 3 arrives or not: it follows to any record of its window.
        let hint = Place {
            record: offer.end.record,
            // Cell 3 masks as many, whether it arrives or not.
            offset: (offer.from.offset + CONFIRM_BYTES).min(offer.end.offset),
        };
        let down = state.header.spent[at(Direction::Down)];
        state.header.asked = 0;
        self.write_spent(&mut state, [hint, down])
            .map_err(|_| PadError::Unreadable)?;
        state.lease = Lease::granted(Direction::Up, offer.from, offer.end);
        state.probe = Probe::default();
        let finished = &mut state.finished[at(Direction::Up)];
        *finished = finished.max(offer.from);
        Ok(true)
    }

    /// The link stands: the whole lease counts as spent, so that the next process overwrites it. Blocks on the disk.
    pub fn leased(&self) -> Result<(), PadError> {
        let end = self.state().lease.end();
        self.extended(end)
    }

    /// So many records more are asked for: if no answer comes, the relay is looked for behind them too, by the next process
    /// as well. Blocks on the disk.
    pub fn asking(&self, records: u64) -> Result<(), PadError> {
        let mut state = self.state();
        let end = state.lease.end().record.saturating_add(records);
        let asked = end.min(self.made.layout.records());
        self.write_asked(&mut state, asked).map_err(|_| PadError::Unreadable)
    }

    /// The lease ends there from now on. Blocks on the disk.
    pub fn extended(&self, end: Place) -> Result<(), PadError> {
        let mut state = self.state();
        if !end.is_within(self.made.layout.end()) {
            return Err(PadError::Spent);
        }
        let down = state.header.spent[at(Direction::Down)];
        state.header.asked = 0;
        self.write_spent(&mut state, [end, down])
            .map_err(|_| PadError::Unreadable)?;
        state.lease.extend(end);
        Ok(())
    }

    /// Where the lease ends.
    pub fn lease_end(&self) -> Place {
        self.state().lease.end()
    }

    /// The link is over: what is left of its lease is never used.
    pub fn abandon(&self) {
        let end = {
            let mut state = self.state();
            let end = state.lease.end();
            state.lease = Lease::granted(Direction::Up, end, end);
            // Of a link that never stood the relay may lease the rest again.
            end.min(state.header.spent[at(Direction::Up)])
        };
        self.finished(Direction::Up, end);
    }

    /// What is left both ways, up and down; of the up region with what the link has leased.
    pub fn left_at_holder(&self) -> [Left; 2] {
        let state = self.state();
        let end = self.made.layout.end();
        let leased = Left::between(state.lease.next(), state.lease.end());
        let up = Left::between(state.header.spent[0], end);
        [
            Left {
                records: up.records + leased.records,
                bytes: up.bytes + leased.bytes,
            },
            Left::between(state.finished[1].max(state.header.spent[1]), end),
        ]
    }
}
