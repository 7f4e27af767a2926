//! Any series of operations, with power cuts and failing disks in between, judged by a plain model.
//!
//! An operation that returned has happened; one that was cut off has happened whole or not at all, and which of both
//! is read from the store that comes back. Beside that: UIDs and change numbers name one thing for ever, `h` never
//! runs back, both copies of the slot stand where the index does, and no slab record outlives its row.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keypacks::chain::{BoxChain, BoxKind, LINK_LOOK_AHEAD, LinkChain};
use ledger::PriceList;
use proptest::prelude::*;

use super::rows::{INBOX, InboxRow};
use super::tests::{Running, block_on, deposit, made, order, root, slot_copies};
use crate::StoreError;
use crate::disk::MemoryDisk;
use crate::holder_store::{FlagChange, Flags, HolderAlias, HolderStore, OutboxState, ValueMirror};
use crate::request::{Answer, Operation, Refusal};

const NOW: u64 = 20_000 * 86_400;
const DAY: u64 = 86_400;

/// What is done; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
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
    Append,
    Flag(u8, u8),
    Expunge(u8),
    Alias(u8, bool),
    Value(u8),
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Refused(Refusal),
}

/// What happens to the disk during a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// The power goes at this operation of the disk; what was not synced is kept or lost as the seed says.
    PowerCut(u64, u64),
    /// This operation of the disk fails.
    Failure(u64),
}

#[derive(Clone, PartialEq, Debug)]
enum Reply {
    Nothing,
    Uid(u32),
    Row(u64),
    Count(usize),
    Was(bool),
    Uids(Vec<u32>),
}

#[derive(Clone, PartialEq, Debug)]
struct ModelRow {
    seq: u64,
    state: OutboxState,
    price: u64,
    has_body: bool,
    is_mail: bool,
    /// Whether it may have been sent under this number.
    sent: bool,
}

#[derive(Clone, PartialEq, Debug)]
struct Model {
    base: u64,
    held: Option<u64>,
    answered: Option<u64>,
    next_seq: u64,
    next_row: u64,
    answered_seq: u64,
    rows: BTreeMap<u64, ModelRow>,
    collect_from: u64,
    /// Post index, and when it was passed over.
    gaps: BTreeMap<u64, u64>,
    /// Post index, and when it was given up.
    deposits: BTreeMap<u64, Option<u64>>,
    unconfirmed: BTreeMap<u64, u32>,
    inbox: BTreeMap<u32, (Flags, Vec<u8>)>,
    uid_next: u32,
    aliases: BTreeMap<String, bool>,
    value: ValueMirror,
    prices: Option<PriceList>,
    now: u64,
}

impl Model {
    /// The store as it shows itself, hidden counters included.
    fn read(running: &Running) -> Self {
        let store = &running.store;
        let books = store.books();
        let row = |row: &super::books::Row| ModelRow {
            seq: row.entry.change.seq,
            state: row.entry.state,
            price: row.entry.price,
            has_body: row.entry.body.is_some(),
            is_mail: matches!(row.entry.change.operation, Operation::Submit { .. }),
            sent: row.entry.state == OutboxState::Queued && row.hold.is_sent(),
        };
        let text = |uid| store.message(uid).expect("readable").expect("in the snapshot");
        let inbox = store.inbox();
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
            inbox: inbox
                .entries
                .iter()
                .map(|entry| (entry.uid, (entry.flags, text(entry.uid))))
                .collect(),
            uid_next: inbox.uid_next,
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

    fn pick<T: Clone>(among: impl Iterator<Item = T>, which: u8) -> Option<T> {
        let among: Vec<T> = among.collect();
        (!among.is_empty()).then(|| among[usize::from(which) % among.len()].clone())
    }

    fn row(&self, which: u8) -> Option<u64> {
        Self::pick(self.rows.keys().copied(), which)
    }

    fn pending(&self, which: u8) -> Option<u64> {
        Self::pick(
            self.deposits
                .iter()
                .filter(|(_, given_up)| given_up.is_none())
                .map(|(index, _)| *index),
            which,
        )
    }

    fn uid(&self, which: u8) -> Option<u32> {
        Self::pick(self.inbox.keys().copied(), which)
    }

    fn append(&mut self, text: &[u8]) -> u32 {
        let uid = self.uid_next;
        self.uid_next += 1;
        self.inbox.insert(uid, (Flags::default(), text.to_vec()));
        uid
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
    fn apply(&mut self, step: &Step, time: u64) -> Result<Reply, StoreError> {
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
                self.next_seq = self.next_seq.max(highest + 1);
                self.answered_seq = self.answered_seq.max(highest);
                Ok(Reply::Nothing)
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
                let uid = self.append(&text(index, time));
                self.unconfirmed.insert(index, uid);
                Ok(Reply::Uid(uid))
            }
            Step::Abandon(which) => {
                let index = self.pending(*which).ok_or(StoreError::NoRow)?;
                self.append(b"damaged");
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
            Step::Append => Ok(Reply::Uid(self.append(&text(0, time)))),
            Step::Flag(which, bits) => {
                if let Some(entry) = self.uid(*which).and_then(|uid| self.inbox.get_mut(&uid)) {
                    entry.0 = Flags(*bits);
                }
                Ok(Reply::Nothing)
            }
            Step::Expunge(which) => {
                let uid = self.uid(*which);
                if let Some(uid) = uid {
                    self.inbox.remove(&uid);
                }
                Ok(Reply::Uids(uid.into_iter().collect()))
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
            Step::Restart => Ok(Reply::Nothing),
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
            How::Refused(refusal @ Refusal::Value { .. }) => {
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
            self.append(b"notice");
        }
        if matches!(how, How::Done) && self.value.balance == 100 {
            (self.value.balance, self.value.debits, self.value.at) = (90, self.value.debits + 10, time);
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
    fn forget_sent_as(&mut self, seen: &Model) {
        for (number, row) in &mut self.rows {
            row.sent |= row.state == OutboxState::Queued && seen.rows.get(number).is_some_and(|seen| seen.sent);
        }
    }
}

/// Does the step on the store, choosing by the model as it was before.
async fn perform(running: &Running, model: &Model, step: &Step, time: u64) -> Result<Reply, StoreError> {
    let store = &running.store;
    match step {
        Step::Reserve(ahead) => store
            .reserve_link(model.base + u64::from(*ahead))
            .await
            .map(|_| Reply::Nothing),
        Step::LinkAnswered => store
            .link_answered(model.held.unwrap_or(0), [1; 16])
            .await
            .map(|()| Reply::Nothing),
        Step::Enqueue(price) => store.enqueue(order("label", u64::from(*price))).await.map(Reply::Row),
        Step::EnqueueAlias => {
            let operation = Operation::AliasOpen {
                local: "new".to_owned(),
            };
            store
                .enqueue_change(operation, "alias".to_owned(), time)
                .await
                .map(Reply::Row)
        }
        Step::RaiseSeq(above) => store
            .raise_seq(model.answered_seq + u64::from(*above))
            .await
            .map(|()| Reply::Nothing),
        Step::Send(which) => match model.row(*which) {
            Some(row) => store.outbox_body(row).map(|_| Reply::Nothing),
            None => Ok(Reply::Nothing),
        },
        Step::Answer(which, how, notice) => {
            let Some(number) = model.row(*which) else {
                return Ok(Reply::Nothing);
            };
            let seq = model.rows[&number].seq;
            let answer = match how {
                How::Done => Answer::Done {
                    seq,
                    debited: 10,
                    balance: 90,
                },
                How::Refused(refusal) => Answer::Refused { seq, refusal: *refusal },
            };
            let notice = notice.then(|| b"notice".to_vec());
            store
                .answered(number, answer, notice, time)
                .await
                .map(|()| Reply::Nothing)
        }
        Step::ReleaseHeld(balance) => store
            .release_held(prices(), u64::from(*balance))
            .await
            .map(Reply::Count),
        Step::Cancel(which) => store
            .cancel(model.row(*which).unwrap_or(u64::MAX))
            .await
            .map(Reply::Was),
        Step::Collect(there) => {
            let from = store.collect_from();
            let there = (from..).zip(there).filter(|(_, there)| **there);
            let deposits = there
                .map(|(index, _)| deposit(&store.post_step(index).expect("ahead")))
                .collect();
            let next = from
                + if let Step::Collect(all) = step {
                    all.len() as u64
                } else {
                    0
                };
            store.collected(deposits, next).await.map(|()| Reply::Nothing)
        }
        Step::Store(which) => {
            let index = model.pending(*which).unwrap_or(u64::MAX);
            store
                .store_deposit(index, text(index, time), time)
                .await
                .map(Reply::Uid)
        }
        Step::Abandon(which) => {
            let index = model.pending(*which).unwrap_or(u64::MAX);
            store
                .abandon_deposit(index, b"damaged".to_vec(), time)
                .await
                .map(|()| Reply::Nothing)
        }
        Step::Confirm(which) => {
            let index = Model::pick(model.unconfirmed.keys().copied(), *which);
            store
                .confirmed(index.into_iter().collect())
                .await
                .map(|()| Reply::Nothing)
        }
        Step::Append => store
            .append(text(0, time), Flags::default(), time)
            .await
            .map(Reply::Uid),
        Step::Flag(which, bits) => {
            let uids = model.uid(*which).into_iter().collect();
            store
                .change_flags(uids, FlagChange::Set(Flags(*bits)))
                .await
                .map(|()| Reply::Nothing)
        }
        Step::Expunge(which) => store
            .expunge(model.uid(*which).into_iter().collect())
            .await
            .map(Reply::Uids),
        Step::Alias(which, open) => {
            let alias = HolderAlias {
                number: 0,
                address: address(*which),
                display_name: None,
                open: *open,
            };
            store.put_alias(alias).await.map(|()| Reply::Nothing)
        }
        Step::Value(balance) => store
            .put_value(value(*balance, time), Some(prices()))
            .await
            .map(|()| Reply::Nothing),
        Step::Restart => Ok(Reply::Nothing),
    }
}

fn text(index: u64, time: u64) -> Vec<u8> {
    format!("Message-ID: <{index}.{time}@x>\r\n\r\ntext").into_bytes()
}

fn address(which: u8) -> String {
    format!("alias{}@relay.test", which % 4)
}

fn prices() -> PriceList {
    PriceList {
        version: 3,
        message: 5,
        kilobyte: 15,
        ..PriceList::default()
    }
}

fn value(balance: u8, at: u64) -> ValueMirror {
    let balance = u64::from(balance);
    ValueMirror {
        balance,
        keys: 1,
        credits: balance + 7,
        debits: 7,
        at,
    }
}

/// What must hold over the whole life of a store, whatever happens to it.
#[derive(Default)]
struct Life {
    texts: HashMap<u32, Vec<u8>>,
    names: HashMap<u64, [u8; 16]>,
    held: Option<u64>,
    secrets: BTreeSet<[u8; 32]>,
}

impl Life {
    fn look(&mut self, running: &Running, model: &Model) {
        let store = &running.store;
        for (uid, (_, text)) in &model.inbox {
            let known = self.texts.entry(*uid).or_insert_with(|| text.clone());
            assert_eq!(known, text, "UID {uid} names another message");
        }
        for row in store.outbox().expect("readable") {
            let known = self.names.entry(row.change.seq).or_insert(row.change.id);
            assert_eq!(*known, row.change.id, "number {} names another change", row.change.seq);
            assert!(row.change.acknowledged < row.change.seq || row.state != OutboxState::Queued);
        }
        assert!(model.held >= self.held, "h ran back");
        self.held = model.held;
        let link = LinkChain::from_root(&root()).step_at(model.base).expect("ahead");
        assert!(store.link_step(model.base).is_none_or(|step| step.tag == link.tag));
        let post = BoxChain::from_root(BoxKind::Post, &root())
            .step_at(model.collect_from)
            .expect("ahead");
        assert!(store.post_step(model.collect_from).expect("held").key == post.key);
        self.secrets.extend(live_secrets(running));
    }

    /// Once everything is settled: slots stand where the index does, records of ended rows are overwritten.
    fn look_at_disk(&self, disk: &MemoryDisk, model: &Model, live: &BTreeSet<[u8; 32]>) {
        assert_eq!(slot_copies(disk), vec![(model.base, model.collect_from); 2]);
        let (_, slab) = disk
            .files()
            .into_iter()
            .find(|(path, _)| path.ends_with("slab"))
            .expect("there");
        let there: BTreeSet<&[u8]> = slab.chunks(32).collect();
        for secret in self.secrets.difference(live) {
            assert!(
                !there.contains(&secret[..]),
                "the record of an ended row is still there"
            );
        }
    }
}

/// The slab records of all rows.
fn live_secrets(running: &Running) -> BTreeSet<[u8; 32]> {
    let (shelf, books) = (&running.store.shelf, running.store.books());
    let inbox = shelf
        .base
        .index
        .read(|read| shelf.all::<InboxRow>(read, &INBOX))
        .expect("readable");
    let records = inbox.into_iter().map(|(_, record, _)| record);
    let records = records.chain(books.outbox.values().map(|row| row.record));
    let records = records.chain(books.deposits.values().map(|deposit| deposit.record));
    let records = records.chain(books.gaps.values().map(|gap| gap.record));
    records
        .map(|record| *shelf.base.slab.read(record).expect("readable").expose())
        .collect()
}

/// One trial: steps with their faults, on a disk of its own.
async fn live(steps: Vec<(Step, Fault)>) {
    let disk = made(1);
    let mut running = Running::open(&disk, 2).expect("opens");
    let mut model = Model::read(&running);
    let mut life = Life::default();
    for (turn, (step, fault)) in (3..).zip(steps) {
        let time = NOW + turn * DAY;
        let mut after = model.clone();
        let expected = after.apply(&step, time);
        match fault {
            Fault::None => {}
            Fault::PowerCut(operation, _) => disk.power_off_after(operation),
            Fault::Failure(operation) => disk.fail_nth(operation),
        }
        let got = perform(&running, &model, &step, time).await;
        if got.is_ok() || matches!(fault, Fault::None) {
            assert_eq!(got, expected, "{step:?}");
        }
        match fault {
            Fault::PowerCut(_, seed) => {
                disk.crash(seed);
                running.abandon().await;
                running = Running::open(&disk, turn).expect("a store opens after a power cut");
            }
            // Makes the actor open again what broke.
            Fault::Failure(_) => mend(&disk, &running).await,
            Fault::None => {}
        }
        let seen = Model::read(&running);
        if !matches!(fault, Fault::None) {
            model.forget_sent_as(&seen);
            after.forget_sent_as(&seen);
        }
        match got {
            Ok(_) => assert_eq!(seen, after, "{step:?} {fault:?}"),
            Err(_) if seen == after => {}
            Err(_) => assert_eq!(seen, model, "{step:?} {fault:?}: neither all nor nothing"),
        }
        model = seen;
        life.look(&running, &model);
        if matches!(step, Step::Restart) || matches!(fault, Fault::PowerCut(..)) {
            let live = live_secrets(&running);
            running.stop().await;
            life.look_at_disk(&disk, &model, &live);
            running = Running::open(&disk, turn + 10_000).expect("opens");
            let reread = Model::read(&running);
            model.forget_sent_as(&reread);
            assert_eq!(reread, model, "a stop loses nothing");
        }
    }
    running.stop().await;
}

/// Lets the disk work again, then does something harmless until it works.
async fn mend(disk: &MemoryDisk, running: &Running) {
    disk.fail_nth(u64::MAX);
    let value = running.store.value();
    while running.store.put_value(value, None).await.is_err() {}
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        3 => Just(How::Done),
        2 => Just(How::Refused(Refusal::Value { shortfall: 1 })),
        1 => Just(How::Refused(Refusal::Busy)),
        1 => Just(How::Refused(Refusal::Stale)),
        1 => Just(How::Refused(Refusal::Sender)),
    ];
    prop_oneof![
        3 => (0..5u8).prop_map(Step::Reserve),
        2 => Just(Step::LinkAnswered),
        5 => (0..50u8).prop_map(Step::Enqueue),
        1 => Just(Step::EnqueueAlias),
        1 => (0..4u8).prop_map(Step::RaiseSeq),
        2 => any::<u8>().prop_map(Step::Send),
        5 => (any::<u8>(), how, any::<bool>()).prop_map(|(which, how, notice)| Step::Answer(which, how, notice)),
        2 => (0..120u8).prop_map(Step::ReleaseHeld),
        1 => any::<u8>().prop_map(Step::Cancel),
        3 => prop::collection::vec(any::<bool>(), 0..6).prop_map(Step::Collect),
        3 => any::<u8>().prop_map(Step::Store),
        1 => any::<u8>().prop_map(Step::Abandon),
        2 => any::<u8>().prop_map(Step::Confirm),
        2 => Just(Step::Append),
        2 => (any::<u8>(), 0..32u8).prop_map(|(which, bits)| Step::Flag(which, bits)),
        2 => any::<u8>().prop_map(Step::Expunge),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, open)| Step::Alias(which, open)),
        1 => prop_oneof![Just(100), any::<u8>()].prop_map(Step::Value),
        1 => Just(Step::Restart),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => (0..24u64, any::<u64>()).prop_map(|(operation, seed)| Fault::PowerCut(operation, seed)),
        1 => (0..24u64).prop_map(Fault::Failure),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_fails_the_store_is_where_the_model_says(steps in prop::collection::vec((step(), fault()), 1..48)) {
        block_on(live(steps));
    }
}
