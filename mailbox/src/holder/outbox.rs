//! The outbox: changes that are numbered and kept until the relay's answer is durable here.

use std::sync::Arc;

use crate::index::Write;
use keypacks::deposit::{class_bytes, is_class};
use keypacks::kdf;
use ledger::PriceList;

use super::books::{Books, Hold, Row};
use super::rows::{OUTBOX, OutboxEntry};
use super::shelf::RowKey;
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{Flags, FolderId, OutboxOrder, OutboxRow, OutboxState, SENT_NAMES_MAX};
use crate::request::{Answer, Change, Operation, RECIPIENTS_MAX, Refusal};

/// Most rows; more mail is answered `Busy`, which SMTP says as a temporary failure.
const ROWS_MAX: usize = 10_000;

impl Books {
    /// The queued row of the lowest number that is not being cancelled.
    pub(super) fn next_queued(&self) -> Option<OutboxRow> {
        let free = self.queued().filter(|(_, row)| !row.hold.is_cancelled());
        let (number, row) = free.min_by_key(|(_, row)| row.entry.change.seq)?;
        // Mail is claimed when its body is asked for; what has no body leaves with its row.
        let claimed = row.entry.body.is_some() || row.hold.send();
        claimed.then(|| self.show(number, row))
    }

    /// All rows in order of their numbers.
    pub(super) fn outbox_rows(&self) -> Vec<OutboxRow> {
        let mut rows: Vec<_> = self
            .outbox
            .iter()
            .map(|(number, row)| self.show(*number, row))
            .collect();
        rows.sort_by_key(|row| row.change.seq);
        rows
    }

    /// µtok that queued and held rows will cost, and parcels without a receipt.
    pub(super) fn reserved(&self) -> u64 {
        let live = |row: &&Arc<Row>| matches!(row.entry.state, OutboxState::Queued | OutboxState::Held(_));
        self.outbox
            .values()
            .filter(live)
            .fold(self.parcels_reserved(), |sum: u64, row| {
                sum.saturating_add(row.entry.price)
            })
    }
}

impl HolderStage {
    /// Takes mail in. What contradicts itself is the caller's mistake and refused before anything is written.
    pub(super) fn enqueue(&mut self, write: &Write<'_>, order: &OutboxOrder) -> Result<u64, StoreError> {
        let coherent = is_class(order.kilobytes)
            && order.body.len() == class_bytes(order.kilobytes)
            && order.length as usize <= order.body.len()
            && (1..=RECIPIENTS_MAX).contains(&usize::from(order.recipients));
        if !coherent {
            return Err(StoreError::Invalid);
        }
        self.check_room()?;
        let operation = Operation::Submit {
            prices: order.prices,
            debit_max: order.price,
            recipients: order.recipients,
            kilobytes: order.kilobytes,
            length: order.length,
            body: kdf::hash(&[&order.body]),
        };
        let (key, body) = self.shelf.put_body(write, &order.body)?;
        let entry = OutboxEntry {
            change: self.number(operation),
            state: OutboxState::Queued,
            price: order.price,
            label: order.label.clone(),
            taken: order.now,
            body: Some(body),
        };
        self.tell_time(order.now);
        self.keep_names(write, &order.sent, SENT_NAMES_MAX)?;
        self.insert_row(write, entry, &key)
    }

    /// Takes a change in that is not mail.
    pub(super) fn enqueue_change(
        &mut self,
        write: &Write<'_>,
        operation: &Operation,
        label: &str,
        now: u64,
    ) -> Result<u64, StoreError> {
        if matches!(operation, Operation::Submit { .. }) {
            return Err(StoreError::Invalid);
        }
        self.check_room()?;
        let key = self.shelf.fresh_key()?;
        let entry = OutboxEntry {
            change: self.number(operation.clone()),
            state: OutboxState::Queued,
            price: 0,
            label: label.to_owned(),
            taken: now,
            body: None,
        };
        self.tell_time(now);
        self.insert_row(write, entry, &key)
    }

    /// Numbers stay above what the relay has answered: a restored copy of this store does not use one again. Mail that it
    /// took in under such a number before it knew, and never sent, gets another.
    pub(super) fn raise_seq(&mut self, write: &Write<'_>, highest: u64) -> Result<(), StoreError> {
        // No account gets near: a relay that says so lies, and would leave no numbers to go on with.
        const SEQ_MAX: u64 = u64::MAX >> 1;
        if highest > SEQ_MAX {
            return Err(StoreError::Invalid);
        }
        let next = highest + 1;
        let state = &mut self.books.state;
        state.next_seq = state.next_seq.max(next);
        state.answered_seq = state.answered_seq.max(highest);
        let is_taken = |row: &Row| {
            let change = &row.entry.change;
            change.seq <= highest && matches!(change.operation, Operation::Submit { .. }) && row.hold.is_untouched()
        };
        let taken: Vec<(u64, Arc<Row>)> = self
            .books
            .queued()
            .filter(|(_, row)| is_taken(row))
            .map(|(number, row)| (number, Arc::clone(row)))
            .collect();
        for (number, row) in taken {
            let entry = OutboxEntry {
                change: self.number(row.entry.change.operation.clone()),
                ..row.entry.clone()
            };
            let key = self.shelf.key(row.record)?;
            self.put_row(write, number, entry, &key)?;
        }
        self.put_state(write)
    }

    /// Records an answer. A row that is not waiting for one is left as it is: its answer was recorded before.
    pub(super) fn answered(
        &mut self,
        write: &Write<'_>,
        number: u64,
        answer: &Answer,
        notice: Option<&[u8]>,
        now: u64,
    ) -> Result<(), StoreError> {
        let Some(row) = self.books.outbox.get(&number).cloned() else {
            return Ok(());
        };
        if row.entry.state != OutboxState::Queued {
            return Ok(());
        }
        let (seq, next) = outcome(answer)?;
        if seq != row.entry.change.seq {
            return Err(StoreError::Invalid);
        }
        // First, since it may be refused for want of room.
        if let Some(notice) = notice {
            self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
        }
        self.tell_time(now);
        if is_kept_by_relay(answer) {
            self.books.state.answered_seq = self.books.state.answered_seq.max(seq);
        }
        self.follow_value(answer, now);
        match next {
            None => self.drop_row(write, number, &row)?,
            Some(OutboxState::Queued) => {}
            Some(state @ OutboxState::Held(_)) => {
                let key = self.shelf.key(row.record)?;
                let entry = OutboxEntry {
                    state,
                    ..row.entry.clone()
                };
                self.put_row(write, number, entry, &key)?;
            }
            Some(state) => {
                // It goes nowhere any more: its text ends here, under its key; what it was called stays to be shown.
                let entry = OutboxEntry {
                    state,
                    body: None,
                    ..row.entry.clone()
                };
                self.drop_row(write, number, &row)?;
                let key = self.shelf.fresh_key()?;
                self.put_row(write, number, entry, &key)?;
            }
        }
        self.put_state(write)
    }

    /// Gives held rows that the balance covers new numbers, names and prices, in their order.
    pub(super) fn release_held(
        &mut self,
        write: &Write<'_>,
        prices: &PriceList,
        balance: u64,
    ) -> Result<usize, StoreError> {
        let mut spoken_for = self
            .books
            .queued()
            .fold(0, |sum: u64, (_, row)| sum.saturating_add(row.entry.price));
        let mut released = 0;
        for (number, row) in self.books.held() {
            let Some((operation, price)) = repriced(&row.entry.change.operation, prices) else {
                continue;
            };
            let Some(sum) = spoken_for.checked_add(price).filter(|sum| *sum <= balance) else {
                continue;
            };
            spoken_for = sum;
            released += 1;
            let change = self.number(operation);
            let entry = OutboxEntry {
                change,
                state: OutboxState::Queued,
                price,
                ..row.entry.clone()
            };
            let key = self.shelf.key(row.record)?;
            self.put_row(write, number, entry, &key)?;
        }
        if released > 0 {
            self.put_state(write)?;
        }
        Ok(released)
    }

    /// Drops a row that is not under way.
    pub(super) fn cancel(&mut self, write: &Write<'_>, number: u64) -> Result<bool, StoreError> {
        let Some(row) = self.books.outbox.get(&number).cloned() else {
            return Ok(false);
        };
        if row.entry.state == OutboxState::Queued && !row.hold.cancel() {
            return Ok(false);
        }
        self.drop_row(write, number, &row)?;
        Ok(true)
    }

    fn check_room(&self) -> Result<(), StoreError> {
        if self.books.outbox.len() < ROWS_MAX {
            Ok(())
        } else {
            Err(StoreError::Busy)
        }
    }

    /// The next number, under a fresh name.
    fn number(&mut self, operation: Operation) -> Change {
        let acknowledged = self.books.acknowledged();
        let seq = self.books.state.next_seq;
        self.books.state.next_seq += 1;
        Change {
            seq,
            id: self.shelf.random(),
            blind: self.shelf.random(),
            acknowledged,
            operation,
        }
    }

    fn insert_row(&mut self, write: &Write<'_>, entry: OutboxEntry, key: &RowKey) -> Result<u64, StoreError> {
        let number = self.books.state.next_row;
        self.books.state.next_row += 1;
        self.put_row(write, number, entry, key)?;
        self.put_state(write)?;
        Ok(number)
    }

    fn put_row(&mut self, write: &Write<'_>, number: u64, entry: OutboxEntry, key: &RowKey) -> Result<(), StoreError> {
        self.shelf.put(write, &OUTBOX, number, key, &entry)?;
        let row = Row {
            record: key.record,
            entry,
            hold: Hold::untouched(),
        };
        Arc::make_mut(&mut self.books.outbox).insert(number, Arc::new(row));
        self.books.outbox_version += 1;
        Ok(())
    }

    fn drop_row(&mut self, write: &Write<'_>, number: u64, row: &Row) -> Result<(), StoreError> {
        self.shelf.remove(write, &OUTBOX, number, row.record)?;
        if let Some(body) = row.entry.body {
            self.shelf.base.release_body(write, body)?;
        }
        Arc::make_mut(&mut self.books.outbox).remove(&number);
        self.books.outbox_version += 1;
        Ok(())
    }

    /// Lets the mirror of the value follow a debit that joins on to it. One that does not (an answer that is shown
    /// again, a top-up in between) is left to the next look at the balance.
    fn follow_value(&mut self, answer: &Answer, now: u64) {
        if let Answer::Done { debited, balance, .. } = *answer {
            self.follow_debit(debited, balance, now);
        }
    }

    /// As [`Self::follow_value`].
    pub(super) fn follow_debit(&mut self, debited: u64, balance: u64, now: u64) {
        let value = &mut self.books.state.value;
        if value.balance.checked_sub(debited) == Some(balance)
            && let Some(debits) = value.debits.checked_add(debited)
        {
            (value.balance, value.debits, value.at) = (balance, debits, now);
        }
    }
}

/// The number that an answer speaks of and where it takes its row; `None` finishes it.
fn outcome(answer: &Answer) -> Result<(u64, Option<OutboxState>), StoreError> {
    match answer {
        Answer::Done { seq, .. } => Ok((*seq, None)),
        Answer::Refused { seq, refusal } => {
            let state = match refusal {
                Refusal::Value { .. } | Refusal::Price { .. } => OutboxState::Held(*refusal),
                Refusal::Stale => OutboxState::Unknown,
                Refusal::Busy => OutboxState::Queued,
                _ => OutboxState::Refused(*refusal),
            };
            Ok((*seq, Some(state)))
        }
        _ => Err(StoreError::Invalid),
    }
}

/// Whether the relay keeps this answer under its number. What it refuses before it looks at the number it does not
/// keep, and acknowledging it would look like a relay that forgot.
fn is_kept_by_relay(answer: &Answer) -> bool {
    use Refusal::{Busy, Conflict, Malformed, Pad, Stale, Unacknowledged};
    !matches!(
        answer,
        Answer::Refused {
            refusal: Busy | Conflict | Malformed | Pad | Stale | Unacknowledged,
            ..
        }
    )
}

/// The submission at the prices of another list. `None`: it is none, or its price exceeds 64 bits.
fn repriced(operation: &Operation, list: &PriceList) -> Option<(Operation, u64)> {
    let mut operation = operation.clone();
    let Operation::Submit {
        prices,
        debit_max,
        recipients,
        kilobytes,
        ..
    } = &mut operation
    else {
        return None;
    };
    let price = list.price_of(*recipients, *kilobytes)?;
    (*prices, *debit_max) = (list.version, price);
    Some((operation, price))
}
