//! The outbox: changes that are numbered and kept until the relay's answer is durable here.

use std::sync::Arc;

use crate::index::Write;
use keypacks::deposit::{class_bytes, is_class};
use keypacks::kdf;
use ledger::{Onward, PriceList};

use super::books::{Books, Hold, Row};
use super::rows::{OUTBOX, OutboxEntry, PROCUREMENTS, RELAY_GENERATION, SHARED_BELOW};
use super::shelf::{RowKey, body_key};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{
    Flags, FolderId, OutboxOrder, OutboxRow, OutboxState, PROCUREMENTS_MAX, Procurement, SENT_NAMES_MAX, Told,
};
use crate::request::{Answer, Change, Operation, RECIPIENTS_MAX, Refusal, split_payload};
use crate::tables::Single;

/// Most rows; more mail is answered `Busy`, which SMTP says as a temporary failure.
const ROWS_MAX: usize = 10_000;

impl Books {
    /// The queued row of the lowest number that is not being cancelled.
    pub(super) fn next_queued(&self) -> Option<OutboxRow> {
        let free = self.queued().filter(|(_, row)| !row.hold.is_cancelled());
        // A new root is asked for first: under the keys of the one before the relay may hear of nothing else.
        let (number, row) = free.min_by_key(|(_, row)| (!is_reroot(row), row.entry.change.seq))?;
        // Mail is claimed when its body is asked for; what has no body leaves with its row.
        let claimed = row.entry.body.is_some() || row.hold.send();
        claimed.then(|| self.show(number, row))
    }

    /// See [`crate::HolderStore::queued_mail_behind`].
    pub(super) fn queued_mail_behind(&self, seq: u64, kilobytes_max: u32) -> Option<OutboxRow> {
        let behind = self.queued().filter(|(_, row)| row.entry.change.seq > seq);
        let (number, row) = behind.min_by_key(|(_, row)| row.entry.change.seq)?;
        let is_small_mail = matches!(
            row.entry.change.operation,
            Operation::Submit { kilobytes, .. } if kilobytes <= kilobytes_max
        );
        (is_small_mail && !row.hold.is_cancelled()).then(|| self.show(number, row))
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

    /// See [`crate::HolderStore::outbox_row`].
    pub(super) fn outbox_row(&self, label: &str) -> Option<OutboxRow> {
        let (number, row) = self.outbox.iter().find(|(_, row)| row.entry.label == label)?;
        Some(self.show(*number, row))
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
        let number = self.keep_names(write, &order.sent, SENT_NAMES_MAX)?;
        self.keep_reports(write, number, &order.reports)?;
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
        if matches!(operation, Operation::Submit { .. } | Operation::Reroot { .. }) {
            return Err(StoreError::Invalid);
        }
        self.enqueue_operation(write, operation, label, now)
    }

    /// Takes in whatever has no body.
    pub(super) fn enqueue_operation(
        &mut self,
        write: &Write<'_>,
        operation: &Operation,
        label: &str,
        now: u64,
    ) -> Result<u64, StoreError> {
        self.check_room()?;
        if let Operation::Procure { kem, .. } = operation {
            // With the row: whoever goes on from the order's secrets knows that it was given.
            if self.procurements(write)? >= PROCUREMENTS_MAX {
                return Err(StoreError::Busy);
            }
            PROCUREMENTS.put(write, kdf::hash(&[kem]), &Procurement::Ordered)?;
        }
        let key = self.shelf.fresh_key()?;
        let entry = OutboxEntry {
            change: self.number(operation.clone()),
            state: OutboxState::Queued,
            // What is to be given away is not to be spent meanwhile.
            price: match operation {
                Operation::Split { value, .. } | Operation::Endow { value, .. } => *value,
                Operation::Procure { debit_max, .. } => *debit_max,
                _ => 0,
            },
            label: label.to_owned(),
            taken: now,
            body: None,
        };
        self.tell_time(now);
        self.insert_row(write, entry, &key)
    }

    /// Numbers stay above what the relay has answered: a restored copy of this store does not use one again. What it
    /// took in under such a number before it knew, and never sent, gets another. What was there before the copies parted
    /// waits under a number that both know, or is held: then the other one may have sent it under a number of its own.
    pub(super) fn raise_seq(&mut self, write: &Write<'_>, told: Told) -> Result<Vec<String>, StoreError> {
        let Told { highest, .. } = told;
        // No account gets near: a relay that says so lies, and would leave no numbers to go on with.
        const SEQ_MAX: u64 = u64::MAX >> 1;
        if highest > SEQ_MAX {
            return Err(StoreError::Invalid);
        }
        let known = RELAY_GENERATION.get(write, Single)?.unwrap_or_default();
        let is_taken = |row: &Row| row.entry.change.seq <= highest && row.hold.is_untouched();
        // A relay that begins a generation passes over numbers by itself.
        let is_overtaken = told.is_behind
            || told.generation <= known
                && (highest >= self.books.state.next_seq || self.books.queued().any(|(_, row)| is_taken(row)));
        let mut perhaps = Vec::new();
        if is_overtaken {
            self.begin_book_anew(write)?;
            self.books.shared_below = self.books.state.next_seq;
            SHARED_BELOW.put(write, Single, &self.books.shared_below)?;
            for (number, row) in self.books.held() {
                perhaps.push(row.entry.label.clone());
                // Its text stays: a relay that holds it for others has to tell them.
                let entry = OutboxEntry {
                    state: OutboxState::Unknown,
                    ..row.entry.clone()
                };
                let key = self.shelf.key(row.record)?;
                self.note_unknown(write, entry.price)?;
                self.put_row(write, number, entry, &key)?;
            }
        }
        let next = highest + 1;
        let state = &mut self.books.state;
        state.next_seq = state.next_seq.max(next);
        state.answered_seq = state.answered_seq.max(highest);
        self.number_again(write, is_taken)?;
        self.put_state(write)?;
        Ok(perhaps)
    }

    /// Gives queued rows that were never sent another number, behind all others and in the order in which they came.
    fn number_again(&mut self, write: &Write<'_>, is_meant: impl Fn(&Row) -> bool) -> Result<(), StoreError> {
        let meant = self.books.queued().filter(|(_, row)| is_meant(row));
        let mut meant: Vec<(u64, Arc<Row>)> = meant.map(|(number, row)| (number, Arc::clone(row))).collect();
        meant.sort_by_key(|(_, row)| row.entry.change.seq);
        for (number, row) in meant {
            let entry = OutboxEntry {
                change: self.number(row.entry.change.operation.clone()),
                ..row.entry.clone()
            };
            let key = self.shelf.key(row.record)?;
            self.put_row(write, number, entry, &key)?;
        }
        Ok(())
    }

    /// The relay's database is of this generation now. With a notice, it was told anew what it lost: mail that was never sent
    /// goes behind that.
    pub(super) fn relay_restored(
        &mut self,
        write: &Write<'_>,
        generation: u64,
        notice: Option<&[u8]>,
        now: u64,
    ) -> Result<(), StoreError> {
        // First, since it may be refused for want of room.
        if let Some(notice) = notice {
            self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
            let is_mail = |row: &Row| matches!(row.entry.change.operation, Operation::Submit { .. });
            self.number_again(write, |row| is_mail(row) && row.hold.is_untouched())?;
        }
        self.tell_time(now);
        RELAY_GENERATION.put(write, Single, &generation)?;
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
        let (seq, next) = outcome(&row.entry.change.operation, answer)?;
        if seq != row.entry.change.seq {
            return Err(StoreError::Invalid);
        }
        // First, since it may be refused for want of room.
        if let Some(notice) = notice {
            self.append(write, FolderId::INBOX, notice, &[], Flags::default(), now)?;
        }
        self.tell_time(now);
        self.reroot(write, &row, answer)?;
        if matches!(answer, Answer::Rerooted { .. }) {
            self.order_expiry_again(write, now)?;
        }
        if is_kept_by_relay(answer) {
            self.books.state.answered_seq = self.books.state.answered_seq.max(seq);
        }
        self.note_paid(write, &row.entry.change.operation, row.entry.price, answer, next)?;
        self.follow_value(answer, now);
        if let Answer::Endowed { end, .. } = *answer {
            self.follow_extent(end);
        }
        if let (Operation::Procure { kem, .. }, Answer::Refused { .. }, Some(OutboxState::Refused(_))) =
            (&row.entry.change.operation, answer, next)
        {
            // Nothing was debited, and nothing comes.
            PROCUREMENTS.remove(write, kdf::hash(&[kem]))?;
        }
        if let Answer::Moved {
            keys,
            value,
            end,
            balance,
            ..
        } = *answer
        {
            self.follow_extent(end);
            if matches!(row.entry.change.operation, Operation::Renew { .. }) {
                self.follow_renewal(keys, value, balance, now);
            }
        }
        self.follow_expiry(write, (&row.entry.change.operation, answer), now)?;
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
                let mut entry = OutboxEntry {
                    state,
                    body: None,
                    ..row.entry.clone()
                };
                if let Operation::Reroot { proof, .. } = &mut entry.change.operation {
                    // A recovery code may be in force still, and is not kept beside the pack that it is for.
                    *proof = None;
                }
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
            let Some((operation, price)) = self.repriced(write, &row, prices)? else {
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

    /// The submission at the prices of another list. `None`: it is none, or its price exceeds 64 bits.
    fn repriced(&self, write: &Write<'_>, row: &Row, list: &PriceList) -> Result<Option<(Operation, u64)>, StoreError> {
        let onward = &self.books.onward;
        let mut operation = row.entry.change.operation.clone();
        let Operation::Submit {
            prices,
            debit_max,
            recipients,
            kilobytes,
            length,
            ..
        } = &mut operation
        else {
            return Ok(None);
        };
        let price = if onward.is_free() {
            list.price_of(*recipients, *kilobytes)
        } else {
            // Where it goes stands in its envelope alone.
            let Some(body) = row.entry.body else { return Ok(None) };
            let key = body_key(&self.shelf.key(row.record)?);
            let body = self.shelf.body_before(write, &key, body)?;
            price_of_payload(
                body.get(..*length as usize).unwrap_or_default(),
                list,
                onward,
                *kilobytes,
            )
        };
        let Some(price) = price else { return Ok(None) };
        (*prices, *debit_max) = (list.version, price);
        Ok(Some((operation, price)))
    }

    /// Drops a row that is not under way.
    pub(super) fn cancel(&mut self, write: &Write<'_>, number: u64) -> Result<bool, StoreError> {
        let Some(row) = self.books.outbox.get(&number).cloned() else {
            return Ok(false);
        };
        if row.entry.state == OutboxState::Queued && !row.hold.cancel() {
            return Ok(false);
        }
        if let (Operation::Procure { kem, .. }, OutboxState::Queued) = (&row.entry.change.operation, row.entry.state) {
            PROCUREMENTS.remove(write, kdf::hash(&[kem]))?;
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
        self.end_reroot(write, row)?;
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

    /// The link chain ends here now, and never below what was used of it.
    pub(super) fn follow_extent(&mut self, end: u64) {
        let link = &mut self.books.state.link;
        link.keys = end.max(link.base);
    }

    /// As [`Self::follow_value`]: until the next look at the balance it would seem that more is still needed.
    fn follow_renewal(&mut self, keys: u64, drawn: u64, balance: u64, now: u64) {
        let value = &mut self.books.state.value;
        if value.balance.checked_add(drawn) == Some(balance)
            && let (Some(credits), Some(keys)) = (value.credits.checked_add(drawn), value.keys.checked_add(keys))
        {
            (value.balance, value.credits, value.keys, value.at) = (balance, credits, keys, now);
        }
    }

    /// As [`Self::follow_value`].
    pub(super) fn follow_debit(&mut self, debited: u64, balance: u64, now: u64) {
        let value = &mut self.books.state.value;
        if value.balance.checked_sub(debited) == Some(balance)
            && let Some(debits) = value.debits.checked_add(debited)
        {
            (value.balance, value.debits, value.at) = (balance, debits, now);
        } else {
            // Answers that are recorded out of their order: never more than was left at any time, until the next look.
            value.balance = value.balance.min(balance);
        }
    }
}

fn is_reroot(row: &Row) -> bool {
    matches!(row.entry.change.operation, Operation::Reroot { .. })
}

/// The number that an answer speaks of and where it takes its row; `None` finishes it.
fn outcome(operation: &Operation, answer: &Answer) -> Result<(u64, Option<OutboxState>), StoreError> {
    let is_mail = matches!(operation, Operation::Submit { .. });
    match answer {
        // Else an order would wait for ever for what came of it.
        Answer::Done { .. } | Answer::Moved { .. } if matches!(operation, Operation::Endow { .. }) => {
            Err(StoreError::Invalid)
        }
        Answer::Done { seq, .. }
        | Answer::Rerooted { seq, .. }
        | Answer::Moved { seq, .. }
        | Answer::Endowed { seq, .. } => Ok((*seq, None)),
        Answer::Refused { seq, refusal } => {
            let state = match refusal {
                // A number that was another's was given out by two copies of this store after they had parted: what waits
                // under it here is this one's alone, and goes under the next.
                Refusal::Value { .. } | Refusal::Price { .. } | Refusal::Conflict if is_mail => {
                    OutboxState::Held(*refusal)
                }
                Refusal::Stale => OutboxState::Unknown,
                Refusal::Busy | Refusal::Frozen | Refusal::Unacknowledged => OutboxState::Queued,
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
    use Refusal::{Busy, Conflict, Frozen, Malformed, Pad, Stale, Unacknowledged};
    !matches!(
        answer,
        Answer::Refused {
            refusal: Busy | Conflict | Frozen | Malformed | Pad | Stale | Unacknowledged,
            ..
        }
    )
}

/// What a payload costs. `None`: it is no payload, or its price exceeds 64 bits.
fn price_of_payload(payload: &[u8], list: &PriceList, onward: &Onward, kilobytes: u32) -> Option<u64> {
    let (envelope, _) = split_payload(payload).ok()?;
    let recipients = envelope.recipients.iter().map(String::as_str);
    let price = onward.price_of(list, recipients, kilobytes)?;
    Some(price.total())
}
