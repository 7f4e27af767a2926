//! Any series of operations, with power cuts and failing disks in between, judged by a plain model.
//!
//! An operation that returned has happened; one that was cut off has happened whole or not at all, and which of both
//! is read from the store that comes back. Beside that: UIDs and change numbers name one thing for ever, `h` never
//! runs back, both copies of the slot stand where the index does, and no slab record outlives its row.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use proptest::prelude::*;

use super::mail::{self, mail_step};
use super::model::{DAY, How, Model, Reply, Step, address, prices, text, value};
use super::{Running, block_on, deposit, made, opened, order, root, slot_copies, told};
use crate::disk::MemoryDisk;
use crate::holder::rows::{CATALOGUE, CatalogueRow, FOLDERS, FolderRow, MESSAGES, MessageRow, SUMMARIES};
use crate::holder_store::{AliasRoute, FolderError, FolderId, HolderAlias, HolderStore, OutboxState};
use crate::request::{Answer, Operation, Refusal};

const NOW: u64 = 20_000 * 86_400;

/// What happens to the disk during a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// The power goes at this operation of the disk; what was not synced is kept or lost as the seed says.
    PowerCut(u64, u64),
    /// This operation of the disk fails.
    Failure(u64),
}

/// Does the step on the store, choosing by the model as it was before.
async fn perform(running: &Running, model: &Model, step: &Step, time: u64) -> Result<Reply, FolderError> {
    let store = &running.store;
    let outcome = match step {
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
            .raise_seq(told(model.answered_seq + u64::from(*above)))
            .await
            .map(|labels| Reply::Labels(labels.len())),
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
            let opened = opened(index, text(index, time), time);
            store.store_deposits(vec![opened]).await.map(Reply::Uids)
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
        Step::Mail(step) => return mail::perform(store, &model.mail, step, time).await.map(Reply::Mail),
        Step::Alias(which, open) => {
            let alias = HolderAlias {
                open: *open,
                // A closed one has notes, so that they come and go.
                label: (!open).then(|| "shop".to_owned()),
                expires: (!open).then_some(time),
                route: (!open).then_some(AliasRoute::Direct),
                ..HolderAlias::new(0, address(*which))
            };
            store.put_alias(alias).await.map(|()| Reply::Nothing)
        }
        Step::Value(balance) => store
            .put_value(value(*balance, time), Some(prices()))
            .await
            .map(|()| Reply::Nothing),
        Step::Restart => Ok(Reply::Nothing),
    };
    outcome.map_err(FolderError::from)
}

/// What must hold over the whole life of a store, whatever happens to it.
#[derive(Default)]
struct Life {
    /// By folder, its UIDVALIDITY, and UID.
    texts: HashMap<(FolderId, u32, u32), Vec<u8>>,
    names: HashMap<u64, [u8; 16]>,
    held: Option<u64>,
    secrets: BTreeSet<[u8; 32]>,
}

impl Life {
    fn look(&mut self, running: &Running, model: &Model) {
        let store = &running.store;
        for (id, folder) in &model.mail.folders {
            for (uid, message) in &folder.messages {
                let name = (*id, folder.uid_validity, *uid);
                let known = self.texts.entry(name).or_insert_with(|| message.text.clone());
                assert_eq!(*known, message.text, "UID {uid} names another message");
            }
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
    let view = shelf.base.view().expect("open");
    let mut messages = Vec::new();
    let mut summaries = BTreeSet::new();
    let note = |number, filed| {
        let (key, row) = shelf
            .open(&filed, |plain| MessageRow::decode(number, plain))
            .expect("readable");
        messages.push(key.record);
        summaries.insert(row.summary);
        Ok(ControlFlow::Continue(()))
    };
    MESSAGES.scan(&view, (0, u64::MAX), note).expect("readable");
    let has_message = |number, _| {
        assert!(summaries.contains(&number), "a summary outlived its messages");
        Ok(ControlFlow::Continue(()))
    };
    SUMMARIES.scan(&view, (0, u64::MAX), has_message).expect("readable");
    let folders = shelf.all::<FolderRow>(&view, &FOLDERS).expect("readable");
    let catalogue = shelf.all::<CatalogueRow>(&view, &CATALOGUE).expect("readable");
    let records = messages.into_iter();
    let records = records.chain(folders.into_iter().map(|(_, record, _)| record));
    let records = records.chain(catalogue.into_iter().map(|(_, record, _)| record));
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
    let mut model = Model::read(&running, None);
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
        let mut seen = Model::read(&running, Some(&model));
        if !matches!(fault, Fault::None) {
            model.forget_sent_as(&seen);
            after.forget_sent_as(&seen);
        }
        // What the store keeps hidden of folders to come goes with the rest.
        if got.is_ok() || seen.has_mail_of(&after) {
            seen.hide_as(&after);
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
            let reread = Model::read(&running, Some(&model));
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
        18 => mail_step().prop_map(Step::Mail),
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
