//! The plain model: what a holder's store shows, as maps and numbers.

use std::collections::BTreeMap;

use keypacks::chain::LINK_LOOK_AHEAD;
use ledger::PriceList;

use super::Running;
use super::mail::{MailModel, MailReply, MailStep};
use crate::StoreError;
use crate::holder::books;
use crate::holder_store::{FolderError, FolderId, HolderStore, OutboxState, ValueMirror};
use crate::request::{Operation, Refusal};

pub(super) const DAY: u64 = 86_400;

/// What is done; numbers choose among what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Reserve(u8),
    LinkAnswered,
    Enqueue(u8),
    EnqueueAlias,
    RaiseSeq(u8),
    Send(u8),
    Answer(u8, How, bool),
    ReleaseHeld(u8),
    Cancel(u8),
    Collect(Vec<bool>),
    Store(u8),
    Abandon(u8),
    Confirm(u8),
    Mail(MailStep),
    Alias(u8, bool),
    Value(u8),
    Restart,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Done,
    Refused(Refusal),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Reply {
    Nothing,
    Labels(usize),
    Mail(MailReply),
    Row(u64),
    Count(usize),
    Was(bool),
    Uids(Vec<u32>),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct ModelRow {
    pub(super) seq: u64,
    pub(super) state: OutboxState,
    pub(super) price: u64,
    pub(super) has_body: bool,
    pub(super) is_mail: bool,
    /// Whether it may have been sent under this number.
    pub(super) sent: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Model {
    pub(super) base: u64,
    pub(super) held: Option<u64>,
    pub(super) answered: Option<u64>,
    pub(super) next_seq: u64,
    pub(super) next_row: u64,
    pub(super) answered_seq: u64,
    pub(super) rows: BTreeMap<u64, ModelRow>,
    pub(super) collect_from: u64,
    /// Post index, and when it was passed over.
    pub(super) gaps: BTreeMap<u64, u64>,
    /// Post index, and when it was given up.
    pub(super) deposits: BTreeMap<u64, Option<u64>>,
    pub(super) unconfirmed: BTreeMap<u64, u32>,
    pub(super) mail: MailModel,
    pub(super) aliases: BTreeMap<String, bool>,
    pub(super) value: ValueMirror,
    pub(super) prices: Option<PriceList>,
    pub(super) now: u64,
}

impl Model {
    /// The store as it shows itself, hidden counters included, but those of folders, which are as in `before`.
    pub(super) fn read(running: &Running, before: Option<&Self>) -> Self {
        let store = &running.store;
        let books = store.books();
        let row = |row: &books::Row| ModelRow {
            seq: row.entry.change.seq,
            state: row.entry.state,
            price: row.entry.price,
            has_body: row.entry.body.is_some(),
            is_mail: matches!(row.entry.change.operation, Operation::Submit { .. }),
            sent: row.entry.state == OutboxState::Queued && row.hold.is_sent(),
        };
        Model {
            base: books.state.link.base,
            held: books.state.link.held,
            answered: books.state.link.answered,
            next_seq: books.state.next_seq,
            next_row: books.state.next_row,
            answered_seq: books.state.answered_seq,
            rows: books
                .outbox
                .iter()
                .map(|(number, shown)| (*number, row(shown)))
                .collect(),
            collect_from: store.collect_from(),
            gaps: books.gaps.iter().map(|(index, gap)| (*index, gap.row.since)).collect(),
            deposits: books
                .deposits
                .iter()
                .map(|(index, deposit)| (*index, deposit.row.abandoned))
                .collect(),
            unconfirmed: books.unconfirmed.iter().map(|(index, row)| (*index, row.uid)).collect(),
            mail: MailModel::read(running, before.map(|before| before.mail.next())),
            aliases: store
                .aliases()
                .expect("readable")
                .into_iter()
                .map(|alias| (alias.address, alias.open))
                .collect(),
            value: store.value(),
            prices: store.prices(),
            now: books.state.now,
        }
    }

    pub(super) fn pick<T: Clone>(among: impl Iterator<Item = T>, which: u8) -> Option<T> {
        let among: Vec<T> = among.collect();
        (!among.is_empty()).then(|| among[usize::from(which) % among.len()].clone())
    }

    pub(super) fn row(&self, which: u8) -> Option<u64> {
        Self::pick(self.rows.keys().copied(), which)
    }

    pub(super) fn pending(&self, which: u8) -> Option<u64> {
        Self::pick(
            self.deposits
                .iter()
                .filter(|(_, given_up)| given_up.is_none())
                .map(|(index, _)| *index),
            which,
        )
    }

    fn append(&mut self, text: &[u8], date: u64, has_summary: bool) -> u32 {
        let appended = self.mail.append(FolderId::INBOX, text, date, has_summary);
        appended.expect("INBOX is always there")
    }

    /// Whether this is the mail of `other`, hidden counters aside.
    pub(super) fn has_mail_of(&self, other: &Self) -> bool {
        let mut mail = self.mail.clone();
        mail.hide_as(&other.mail);
        mail == other.mail
    }

    /// Takes over the hidden counters.
    pub(super) fn hide_as(&mut self, other: &Self) {
        self.mail.hide_as(&other.mail);
    }

    fn number(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn enqueue(&mut self, price: u64, is_mail: bool) -> Reply {
        let (seq, number) = (self.number(), self.next_row);
        self.next_row += 1;
        let state = OutboxState::Queued;
        self.rows.insert(
            number,
            ModelRow {
                seq,
                state,
                price,
                has_body: is_mail,
                is_mail,
                sent: false,
            },
        );
        Reply::Row(number)
    }

    /// What the step does where nothing fails. `time`: the second at which it happens.
    pub(super) fn apply(&mut self, step: &Step, time: u64) -> Result<Reply, FolderError> {
        if let Step::Mail(step) = step {
            return self.mail.apply(step, time).map(Reply::Mail);
        }
        Ok(self.apply_other(step, time)?)
    }

    fn apply_other(&mut self, step: &Step, time: u64) -> Result<Reply, StoreError> {
        match step {
            Step::Reserve(ahead) => {
                let index = self.base + u64::from(*ahead);
                if u64::from(*ahead) >= LINK_LOOK_AHEAD || index >= 64 {
                    return Err(StoreError::Invalid);
                }
                (self.held, self.base) = (Some(index), index);
                Ok(Reply::Nothing)
            }
            Step::LinkAnswered => {
                let index = self.held.ok_or(StoreError::Invalid)?;
                (self.answered, self.base) = (Some(index), index + 1);
                Ok(Reply::Nothing)
            }
            Step::Enqueue(price) => {
                self.now = self.now.max(1_000);
                Ok(self.enqueue(u64::from(*price), true))
            }
            Step::EnqueueAlias => {
                self.now = self.now.max(time);
                Ok(self.enqueue(0, false))
            }
            Step::RaiseSeq(above) => {
                let highest = self.answered_seq + u64::from(*above);
                // What the relay is known to have answered are numbers of this store's own.
                if *above == 0 && highest < self.next_seq {
                    return Ok(Reply::Labels(0));
                }
                let is_taken = |row: &ModelRow| row.state == OutboxState::Queued && !row.sent && row.seq <= highest;
                let mut ended = 0;
                if highest >= self.next_seq || self.rows.values().any(is_taken) {
                    for row in self.rows.values_mut() {
                        if matches!(row.state, OutboxState::Held(_)) {
                            (row.state, row.sent) = (OutboxState::Unknown, false);
                            ended += 1;
                        }
                    }
                }
                self.next_seq = self.next_seq.max(highest + 1);
                self.answered_seq = self.answered_seq.max(highest);
                for row in self.rows.values_mut() {
                    if is_taken(row) {
                        row.seq = self.next_seq;
                        self.next_seq += 1;
                    }
                }
                Ok(Reply::Labels(ended))
            }
            Step::Send(which) => {
                let row = self.row(*which).and_then(|number| self.rows.get_mut(&number));
                if let Some(row) = row.filter(|row| row.has_body && row.state == OutboxState::Queued) {
                    row.sent = true;
                }
                Ok(Reply::Nothing)
            }
            Step::Answer(which, how, notice) => {
                if let Some(number) = self.row(*which) {
                    self.answer(number, *how, *notice, time);
                }
                Ok(Reply::Nothing)
            }
            Step::ReleaseHeld(balance) => Ok(Reply::Count(self.release_held(u64::from(*balance)))),
            Step::Cancel(which) => {
                let Some(number) = self.row(*which) else {
                    return Ok(Reply::Was(false));
                };
                let may = !self.rows[&number].sent;
                if may {
                    self.rows.remove(&number);
                }
                Ok(Reply::Was(may))
            }
            Step::Collect(there) => {
                for there in there {
                    match there {
                        true => drop(self.deposits.insert(self.collect_from, None)),
                        false => drop(self.gaps.insert(self.collect_from, self.now)),
                    }
                    self.collect_from += 1;
                }
                self.drop_aged();
                Ok(Reply::Nothing)
            }
            Step::Store(which) => {
                let index = self.pending(*which).ok_or(StoreError::NoRow)?;
                self.deposits.remove(&index);
                self.now = self.now.max(time);
                let uid = self.append(&text(index, time), time, true);
                self.unconfirmed.insert(index, uid);
                Ok(Reply::Uids(vec![uid]))
            }
            Step::Abandon(which) => {
                let index = self.pending(*which).ok_or(StoreError::NoRow)?;
                self.append(b"damaged", time, false);
                self.deposits.insert(index, Some(time));
                self.now = self.now.max(time);
                self.drop_aged();
                Ok(Reply::Nothing)
            }
            Step::Confirm(which) => {
                if let Some(index) = Self::pick(self.unconfirmed.keys().copied(), *which) {
                    self.unconfirmed.remove(&index);
                }
                Ok(Reply::Nothing)
            }
            Step::Alias(which, open) => {
                self.aliases.insert(address(*which), *open);
                Ok(Reply::Nothing)
            }
            Step::Value(balance) => {
                self.value = value(*balance, time);
                self.prices = Some(prices());
                self.now = self.now.max(time);
                Ok(Reply::Nothing)
            }
            Step::Mail(_) | Step::Restart => Ok(Reply::Nothing),
        }
    }

    fn answer(&mut self, number: u64, how: How, notice: bool, time: u64) {
        let row = self.rows.get_mut(&number).expect("just picked");
        if row.state != OutboxState::Queued {
            return;
        }
        let seq = row.seq;
        match how {
            How::Done => drop(self.rows.remove(&number)),
            How::Refused(Refusal::Busy) => {}
            How::Refused(refusal @ Refusal::Value { .. }) if row.is_mail => {
                (row.state, row.sent) = (OutboxState::Held(refusal), false)
            }
            How::Refused(refusal) => {
                let state = if refusal == Refusal::Stale {
                    OutboxState::Unknown
                } else {
                    OutboxState::Refused(refusal)
                };
                (row.state, row.has_body, row.sent) = (state, false, false);
            }
        }
        if !matches!(how, How::Refused(Refusal::Busy | Refusal::Stale)) {
            self.answered_seq = self.answered_seq.max(seq);
        }
        if notice {
            self.append(b"notice", time, false);
        }
        if matches!(how, How::Done) && self.value.balance == 100 {
            (self.value.balance, self.value.debits, self.value.at) = (90, self.value.debits + 10, time);
        } else if matches!(how, How::Done) {
            self.value.balance = self.value.balance.min(90);
        }
        self.now = self.now.max(time);
    }

    fn release_held(&mut self, balance: u64) -> usize {
        let queued = self.rows.values().filter(|row| row.state == OutboxState::Queued);
        let mut spoken_for: u64 = queued.map(|row| row.price).sum();
        let mut held: Vec<(u64, u64)> = self
            .rows
            .iter()
            .filter(|(_, row)| row.is_mail && matches!(row.state, OutboxState::Held(_)))
            .map(|(number, row)| (row.seq, *number))
            .collect();
        held.sort_unstable();
        let price = prices().price_of(1, 1).expect("a small price");
        let mut released = 0;
        for (_, number) in held {
            if spoken_for + price > balance {
                continue;
            }
            spoken_for += price;
            released += 1;
            let seq = self.number();
            let row = self.rows.get_mut(&number).expect("just listed");
            (row.seq, row.state, row.price, row.sent) = (seq, OutboxState::Queued, price, false);
        }
        released
    }

    fn drop_aged(&mut self) {
        let now = self.now;
        let kept = |since: u64| since + 30 * DAY > now;
        self.gaps.retain(|_, since| kept(*since));
        self.deposits.retain(|_, given_up| given_up.is_none_or(kept));
    }

    /// A store that read its rows again takes all of them for sent; nothing else may differ in that.
    pub(super) fn forget_sent_as(&mut self, seen: &Model) {
        for (number, row) in &mut self.rows {
            row.sent |= row.state == OutboxState::Queued && seen.rows.get(number).is_some_and(|seen| seen.sent);
        }
    }
}

pub(super) fn text(index: u64, time: u64) -> Vec<u8> {
    format!("Message-ID: <{index}.{time}@x>\r\n\r\ntext").into_bytes()
}

pub(super) fn address(which: u8) -> String {
    format!("alias{}@relay.test", which % 4)
}

pub(super) fn prices() -> PriceList {
    PriceList {
        version: 3,
        message: 5,
        kilobyte: 15,
        ..PriceList::default()
    }
}

pub(super) fn value(balance: u8, at: u64) -> ValueMirror {
    let balance = u64::from(balance);
    ValueMirror {
        balance,
        // The chain ends so far behind: further than any step goes.
        keys: 1 << 32,
        credits: balance + 7,
        debits: 7,
        at,
    }
}
