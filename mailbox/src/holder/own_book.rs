//! What the holder notes of what it paid, answer by answer: the relay's sums are held against it.

use super::books::Books;
use super::rows::OWN_BOOK;
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{OutboxState, OwnBook};
use crate::index::{Source, Write};
use crate::request::{Answer, Operation};
use crate::tables::Single;

impl Books {
    /// The book as it is kept. One that begins now is whole if no answer came before.
    pub(super) fn own_book(&self, source: &impl Source) -> Result<OwnBook, StoreError> {
        Ok(OWN_BOOK.get(source, Single)?.unwrap_or_else(|| OwnBook {
            from: self.acknowledged() + 1,
            ..OwnBook::default()
        }))
    }
}

impl HolderStage {
    /// Notes what an answer says that a change of this price cost, which took its row to `next`.
    pub(super) fn note_paid(
        &mut self,
        write: &Write<'_>,
        operation: &Operation,
        price: u64,
        answer: &Answer,
        next: Option<OutboxState>,
    ) -> Result<(), StoreError> {
        match (operation, answer) {
            (Operation::Submit { .. }, Answer::Done { debited, .. }) => self.note_message(write, price, *debited),
            (operation, Answer::Moved { value, .. }) if *value > 0 => self.note(write, |book| {
                let sum = match operation {
                    Operation::Renew { .. } => &mut book.drawn,
                    Operation::Redeem { .. } => &mut book.received,
                    _ => &mut book.given,
                };
                *sum = sum.saturating_add(*value);
            }),
            // An answer that repeats an earlier one says that the chain ends where it did before.
            (Operation::Endow { value, .. }, Answer::Endowed { end, .. }) if *end < self.books.state.link.keys => {
                self.note(write, |book| book.given = book.given.saturating_add(*value))
            }
            _ if next == Some(OutboxState::Unknown) => {
                if matches!(operation, Operation::Renew { .. }) {
                    self.begin_book_anew(write)?;
                }
                self.note_unknown(write, price)
            }
            // From the first answer on the book is there, so that it shows whether it is whole.
            _ if OWN_BOOK.get(write, Single)?.is_none() => self.note(write, |_| {}),
            _ => Ok(()),
        }
    }

    /// What happened up to now may not all be noted: another copy of this store had answers, or nobody will tell what was drawn.
    pub(super) fn begin_book_anew(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        let from = self.books.state.next_seq;
        self.note(write, |book| book.from = book.from.max(from))
    }

    /// Notes that mail expected to cost `agreed` µtok was debited.
    pub(super) fn note_message(&mut self, write: &Write<'_>, agreed: u64, debited: u64) -> Result<(), StoreError> {
        self.note(write, |book| {
            book.messages = book.messages.saturating_add(1);
            book.debited = book.debited.saturating_add(debited);
            book.agreed = book.agreed.saturating_add(agreed);
            book.beyond = book.beyond.max(debited.saturating_sub(agreed));
        })
    }

    /// Forgets what the dearest message was debited beyond its price.
    pub(super) fn pass_over_beyond(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        self.note(write, |book| book.beyond = 0)
    }

    /// Notes that a change may have cost so much, and that nobody will tell.
    pub(super) fn note_unknown(&mut self, write: &Write<'_>, price: u64) -> Result<(), StoreError> {
        self.note(write, |book| book.unknown = book.unknown.saturating_add(price))
    }

    fn note(&mut self, write: &Write<'_>, change: impl FnOnce(&mut OwnBook)) -> Result<(), StoreError> {
        let mut book = self.books.own_book(write)?;
        change(&mut book);
        OWN_BOOK.put(write, Single, &book)
    }
}
