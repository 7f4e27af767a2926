//! What a relay does with a pad: it leases the up region, and reserves what it seals from ahead.

use std::sync::Arc;

use keypacks::link::Linked;
use keypacks::pad::{
    self, Direction, End, Fill, HELLO_NONCE, Offer, PadError, PadOpener, PadSealer, Place, RECORD, up_tags,
};
use keypacks::{CELL, Tag};

use super::{Left, PadFile, Pending, State, at, kept_back};

/// Up records, from the lowest live one, whose tags are looked for.
pub const TAGS_AHEAD: u64 = 32;
/// What a link begins with.
const FIRST_RECORDS: u64 = 16;
const FIRST_BYTES: u64 = 4_096;
/// What is reserved ahead of the down region, where that is large enough.
const RESERVED_RECORDS: u64 = 1_024;
const RESERVED_BYTES: u64 = 256 << 10;
/// What cell 3 masks.
const CONFIRM_BYTES: u64 = 24;

const _: () = assert!(CONFIRM_BYTES < Linked::BYTES as u64);

/// A first cell's answer: cell 2, and what it leases.
pub type Hello = (Box<[u8; CELL]>, Ticket);

/// A first cell that was answered: what its connection may seal under, once cell 3 has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    record: u64,
    nonce: [u8; HELLO_NONCE],
    from: Place,
    end: Place,
}

impl Ticket {
    /// Where the lease ends.
    pub fn end(&self) -> Place {
        self.end
    }
}

impl PadFile {
    /// The up records that a first cell may show, with their tags.
    pub fn tags(&self) -> Result<Vec<(u64, Tag)>, PadError> {
        let (next, pending) = {
            let state = self.state();
            (
                state.header.spent[at(Direction::Up)].record,
                state.pending.as_ref().map(|pending| pending.ticket.record),
            )
        };
        let mut tags = up_tags(self, next, TAGS_AHEAD)?;
        if let Some(record) = pending {
            tags.extend(up_tags(self, record, 1)?);
        }
        Ok(tags)
    }

    /// Answers a first cell under up record `record`: cell 2, and what it leases. `seed` is fresh randomness, `floor` the
    /// account's lowest live link index. `None`: silence. Blocks on the disk.
    pub fn hello(
        self: &Arc<Self>,
        record: u64,
        nonce: [u8; HELLO_NONCE],
        floor: u64,
        seed: [u8; 32],
    ) -> Result<Option<Hello>, PadError> {
        let mut state = self.state();
        if let Some(pending) = &state.pending
            && (pending.ticket.record, pending.ticket.nonce) == (record, nonce)
        {
            return Ok(Some((pending.cell2.clone(), pending.ticket)));
        }
        let spent = state.header.spent[at(Direction::Up)];
        if !(spent.record..spent.record.saturating_add(TAGS_AHEAD)).contains(&record) {
            return Ok(None);
        }
        let from = Place {
            record: record + 1,
            offset: spent.offset,
        };
        let (confirmed, layout_end) = (from.plus(1, CONFIRM_BYTES), self.made.layout.end());
        if !confirmed.is_within(layout_end) {
            return Ok(None);
        }
        let end = from.plus(FIRST_RECORDS, FIRST_BYTES).min(layout_end);
        let offer = Offer { from, end, floor };
        state.pending = None;
        // What this connection may seal before cell 3 has come is never leased again; the rest still may be.
        self.spend_up(&mut state, confirmed)?;
        state.limit = state.limit.max(end);
        drop(state);
        let mut sealer = PadSealer::new(self.clone(), Direction::Down, Fill::new(seed));
        let cell2 = pad::seal_offer(&mut sealer, &nonce, &offer)?;
        let ticket = Ticket {
            record,
            nonce,
            from,
            end,
        };
        let again = cell2.clone();
        let mut state = self.state();
        // Another first cell may have been answered meanwhile: then this one is not.
        if state.header.spent[at(Direction::Up)] != confirmed {
            return Ok(None);
        }
        state.pending = Some(Pending { ticket, cell2: again });
        Ok(Some((cell2, ticket)))
    }

    /// Opens cell 3 and the cells behind it.
    pub fn opener(self: &Arc<Self>, ticket: &Ticket) -> PadOpener {
        PadOpener::new(self.clone(), Direction::Up, ticket.from)
    }

    /// Seals what goes to the holder. `seed` is fresh randomness.
    pub fn down_sealer(self: &Arc<Self>, seed: [u8; 32]) -> PadSealer {
        PadSealer::new(self.clone(), Direction::Down, Fill::new(seed))
    }

    /// Makes the whole lease durable, now that cell 3 has opened. `false`: another first cell was answered since, or this
    /// one is confirmed. Blocks on the disk.
    pub fn grant(&self, ticket: &Ticket) -> Result<bool, PadError> {
        let mut state = self.state();
        if !state.pending.as_ref().is_some_and(|pending| pending.ticket == *ticket) {
            return Ok(false);
        }
        self.spend_up(&mut state, ticket.end)?;
        state.pending = None;
        // Whatever came before this link is over.
        let finished = &mut state.finished[at(Direction::Up)];
        *finished = finished.max(ticket.from.plus(1, CONFIRM_BYTES));
        Ok(true)
    }

    /// Grows the lease that ends at `end` by so many records and bytes; returns its new end. `None`: it is not the last
    /// one any more. [`PadError::Spent`]: the pad does not hold so much, or only what is kept back for the last requests.
    /// Blocks on the disk.
    pub fn lease_more(&self, end: Place, records: u64, bytes: u64) -> Result<Option<Place>, PadError> {
        let mut state = self.state();
        if state.header.spent[at(Direction::Up)] != end || state.pending.is_some() {
            return Ok(None);
        }
        let (mut longer, layout_end) = (end.plus(records, bytes), self.made.layout.end());
        let kept = kept_back(self.made.layout);
        let most = Place {
            record: layout_end.record - kept.records,
            offset: layout_end.offset - kept.bytes,
        };
        if !longer.is_within(most) {
            if records > FIRST_RECORDS || bytes > FIRST_BYTES {
                return Err(PadError::Spent);
            }
            // The last requests get what there is.
            longer = longer.min(layout_end);
            if longer == end {
                return Err(PadError::Spent);
            }
        }
        self.spend_up(&mut state, longer)?;
        state.limit = state.limit.max(longer);
        Ok(Some(longer))
    }

    /// Whether answers to requests that are not the last can still be sealed.
    pub fn answers_fit(&self, body_records: u64) -> bool {
        let (records, bytes) = self.room();
        let kept = kept_back(self.made.layout);
        records >= kept.records.saturating_add(body_records) && bytes >= kept.bytes
    }

    /// What is left both ways, up and down, beside what is leased and reserved.
    pub fn left_at_relay(&self) -> [Left; 2] {
        let state = self.state();
        let end = self.made.layout.end();
        [
            Left::between(state.header.spent[0], end),
            Left::between(state.lease.next(), end),
        ]
    }

    fn spend_up(&self, state: &mut State, to: Place) -> Result<(), PadError> {
        let down = state.header.spent[at(Direction::Down)];
        self.write_spent(state, [to, down]).map_err(|_| PadError::Unreadable)
    }

    /// Reserves more of the down region, so that one record and `masked` bytes can be taken.
    pub(super) fn reserve(&self, state: &mut State, masked: usize) -> Result<(), PadError> {
        let layout = self.made.layout;
        let needed = state.lease.next().plus(1, masked as u64);
        if !needed.is_within(layout.end()) {
            return Err(PadError::Spent);
        }
        let step = |most: u64, of: u64| most.min(of / 16).max(1);
        let ahead = needed.plus(
            step(RESERVED_RECORDS, layout.records()),
            step(RESERVED_BYTES, layout.region() - RECORD * layout.records()),
        );
        let to = ahead.min(layout.end());
        let up = state.header.spent[at(Direction::Up)];
        self.write_spent(state, [up, to]).map_err(|_| PadError::Unreadable)?;
        state.lease.extend(to);
        Ok(())
    }
}
