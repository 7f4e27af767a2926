//! Statements about a holder's store, each on a disk in memory unless it says otherwise.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, BoxStep, LINK_LOOK_AHEAD, LinkChain};
use keypacks::deposit::Dek;
use keypacks::link::PersistedIndex;
use keypacks::pack::{BLOCK, Header, Identifier, Issue, PassphraseCost};
use ledger::PriceList;
use tokio::task::JoinHandle;

use super::create::{self, Keys};
use super::{HolderFiles, HolderOptions, InitError, Initialised, header, init_from_pack, stage};
use crate::disk::{Disk, MemoryDisk, SystemDisk};
use crate::entropy::{Entropy, SeededEntropy};
use crate::holder_store::{FlagChange, Flags, HolderStore, OutboxOrder, OutboxState, PendingDeposit, ValueMirror};
use crate::request::{Answer, Operation, Refusal};
use crate::{StoreError, vault};

const PASSPHRASE: &[u8] = b"correct horse";
const FOLDER: &str = "/holder";
const PACK: &str = "/packs/one.pack";

pub(super) fn root() -> Secret<32> {
    Secret::new([42; 32])
}

fn issue(identifier: u8) -> Issue {
    Issue {
        identifier: Identifier([identifier; 16]),
        relay_public: [9; 32],
        link_keys: 64,
        root: root(),
        day: 20_000,
        relay_address: "relay.test:7025".to_owned(),
        relay_domain: "relay.test".to_owned(),
        aliases: vec!["first@relay.test".to_owned()],
    }
}

pub(super) fn options() -> HolderOptions {
    HolderOptions {
        segment_bytes: 1 << 20,
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    }
}

pub(super) fn entropy(seed: u64) -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(seed))
}

pub(super) fn shared(disk: &MemoryDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// An open store and its actor.
pub(super) struct Running {
    pub(super) store: HolderFiles,
    actor: JoinHandle<()>,
}

impl Running {
    pub(super) fn open(disk: &MemoryDisk, seed: u64) -> Result<Self, StoreError> {
        Self::open_with(&shared(disk), Path::new(FOLDER), &options(), seed)
    }

    fn open_with(disk: &Arc<dyn Disk>, folder: &Path, options: &HolderOptions, seed: u64) -> Result<Self, StoreError> {
        let (store, actor) = HolderFiles::open(disk, folder, PASSPHRASE, options, &entropy(seed))?;
        Ok(Self {
            store,
            actor: tokio::spawn(actor),
        })
    }

    /// Erases what is finished, closes everything.
    pub(super) async fn stop(self) {
        self.store.stop().await;
        self.abandon().await;
    }

    /// Lets go of a store whose disk is gone.
    pub(super) async fn abandon(self) {
        drop(self.store);
        self.actor.await.expect("the actor does not panic");
    }
}

pub(super) fn made(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    HolderFiles::create(
        &shared(&disk),
        Path::new(FOLDER),
        &issue(1),
        PASSPHRASE,
        &options(),
        &entropy(seed),
    )
    .expect("made");
    disk
}

/// A pack file as a relay issues it.
fn write_pack(disk: &MemoryDisk, identifier: u8) {
    let file_key = Secret::new([5; 32]);
    let head = Header::create(PASSPHRASE, &file_key, [1; 16], [2; 24], PassphraseCost::LEAST);
    let body = issue(identifier).seal(&file_key, [3; 24]).expect("the names fit");
    disk.create_dir_all(Path::new("/packs")).expect("made");
    let file = disk.open(Path::new(PACK), true).expect("opened");
    for (block, bytes) in [&head, &head, &*body, &*body].into_iter().enumerate() {
        file.write_at((block * BLOCK) as u64, bytes).expect("written");
    }
    file.sync().expect("synced");
}

fn init(disk: &MemoryDisk, seed: u64) -> Result<Initialised, InitError> {
    init_from_pack(
        &shared(disk),
        Path::new(PACK),
        Path::new(FOLDER),
        PASSPHRASE,
        &options(),
        &entropy(seed),
    )
}

pub(super) fn order(label: &str, price: u64) -> OutboxOrder {
    let body = vec![label.as_bytes()[0]; 1_000];
    OutboxOrder {
        body,
        kilobytes: 1,
        length: 900,
        recipients: 1,
        prices: 1,
        price,
        label: label.to_owned(),
        now: 1_000,
    }
}

pub(super) fn deposit(step: &BoxStep) -> PendingDeposit {
    let index = step.index;
    PendingDeposit {
        index,
        wrap_digest: [u8::try_from(index % 251).expect("below 251"); 32],
        dek: Dek::new(Secret::new(*step.key.expose())),
        body_digest: [7; 32],
        length: 10,
        kilobytes: 1,
        alias: 0,
    }
}

fn done(seq: u64) -> Answer {
    Answer::Done {
        seq,
        debited: 10,
        balance: 90,
    }
}

fn refused(seq: u64, refusal: Refusal) -> Answer {
    Answer::Refused { seq, refusal }
}

/// Runs a test on one thread.
pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(test)
}

fn holds(disk: &MemoryDisk, bytes: &[u8]) -> bool {
    disk.files()
        .iter()
        .any(|(_, file)| file.windows(bytes.len()).any(|window| window == bytes))
}

/// Both copies of the slot as they lie on the disk.
pub(super) fn slot_copies(disk: &MemoryDisk) -> Vec<(u64, u64)> {
    let file_key = header::unlock(
        &*disk.open(Path::new("/holder/header"), false).expect("there"),
        PASSPHRASE,
    );
    let keys = Keys::of(&file_key.expect("the passphrase opens it"));
    let (_, slots) = disk
        .files()
        .into_iter()
        .find(|(path, _)| path.ends_with("slots"))
        .expect("there");
    let copies = [0, 4_096].map(|at| {
        let plain = vault::open(&keys.slots, &slots[at..at + 256]).expect("no copy is torn");
        let (link, post) = stage::decode_chains(&plain[18..98]).expect("two chains");
        (link.index(), post.index())
    });
    copies.to_vec()
}

#[test]
fn a_pack_becomes_a_store_and_its_root_is_overwritten() {
    let disk = MemoryDisk::new();
    write_pack(&disk, 1);
    assert_eq!(init(&disk, 1), Ok(Initialised::New));
    let (_, pack) = disk
        .files()
        .into_iter()
        .find(|(path, _)| path.ends_with("one.pack"))
        .expect("there");
    assert!(pack[2 * BLOCK..].iter().all(|byte| *byte == 0));
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let facts = running.store.facts();
        assert_eq!(
            (&facts.relay_address[..], &facts.relay_domain[..]),
            ("relay.test:7025", "relay.test")
        );
        assert!(facts.identifier.0 == [1; 16] && facts.relay_public == [9; 32]);
        assert_eq!(
            running.store.aliases().expect("readable")[0].address,
            "first@relay.test"
        );
        let step = running.store.link_step(0).expect("the first key");
        assert!(step.tag == LinkChain::from_root(&root()).advance().tag);
        let step = running.store.post_step(3).expect("ahead");
        assert!(
            step.tag
                == BoxChain::from_root(BoxKind::Post, &root())
                    .step_at(3)
                    .expect("ahead")
                    .tag
        );
        running.stop().await;
    });
    assert_eq!(init(&disk, 3), Ok(Initialised::Already));
}

#[test]
fn a_pack_that_was_initialised_elsewhere_and_a_folder_of_another_pack_are_refused() {
    let disk = MemoryDisk::new();
    write_pack(&disk, 1);
    init(&disk, 1).expect("made");
    let elsewhere = Path::new("/elsewhere");
    let again = init_from_pack(
        &shared(&disk),
        Path::new(PACK),
        elsewhere,
        PASSPHRASE,
        &options(),
        &entropy(2),
    );
    assert_eq!(again, Err(InitError::Spent));
    let over = HolderFiles::create(
        &shared(&disk),
        Path::new(FOLDER),
        &issue(1),
        PASSPHRASE,
        &options(),
        &entropy(4),
    );
    assert_eq!(over, Err(StoreError::Invalid), "a store is never made over");
    write_pack(&disk, 2);
    assert_eq!(init(&disk, 3), Err(InitError::OtherPack));
    let wrong = init_from_pack(
        &shared(&disk),
        Path::new(PACK),
        elsewhere,
        b"wrong",
        &options(),
        &entropy(2),
    );
    assert_eq!(wrong, Err(InitError::Store(StoreError::Passphrase)));
}

#[test]
fn wherever_the_power_fails_while_a_pack_is_initialised_trying_again_finishes_it() {
    for operation in 0.. {
        let disk = MemoryDisk::new();
        write_pack(&disk, 1);
        disk.power_off_after(operation);
        let first = init(&disk, 1);
        disk.restart(operation);
        let second = init(&disk, 2).unwrap_or_else(|error| panic!("after operation {operation}: {error}"));
        assert!(first.is_err() || second == Initialised::Already);
        block_on(async { Running::open(&disk, 3).expect("opens").stop().await });
        if first.is_ok() {
            break;
        }
    }
}

#[test]
fn a_wrong_passphrase_is_an_error_of_its_own_and_a_second_process_is_locked_out() {
    let disk = made(1);
    let opened = HolderFiles::open(&shared(&disk), Path::new(FOLDER), b"wrong", &options(), &entropy(1));
    assert_eq!(opened.err(), Some(StoreError::Passphrase));
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        assert_eq!(Running::open(&disk, 3).err(), Some(StoreError::Locked));
        running.stop().await;
        Running::open(&disk, 4).expect("free again").stop().await;
    });
}

#[test]
fn a_link_index_is_reserved_within_the_look_ahead_and_never_below_the_last() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        assert_eq!(
            store.reserve_link(LINK_LOOK_AHEAD).await.err(),
            Some(StoreError::Invalid)
        );
        let proof = store.reserve_link(2).await.expect("within the look-ahead");
        assert_eq!(proof.persisted_index(), 2);
        assert_eq!(store.reserve_link(1).await.err(), Some(StoreError::Invalid));
        assert!(store.link_step(1).is_none() && store.link_step(2).is_some());
        store.reserve_link(2).await.expect("the same index may be tried again");
        assert_eq!(
            store.link_answered(3, [1; 16]).await,
            Err(StoreError::Invalid),
            "no cell 3 was sealed for it"
        );
        store.link_answered(2, [1; 16]).await.expect("reserved");
        let position = store.link_position();
        assert_eq!((position.base, position.held, position.answered), (3, Some(2), Some(2)));
        running.stop().await;
        assert_eq!(slot_copies(&disk), vec![(3, 0); 2]);
    });
}

#[test]
fn the_last_link_key_is_the_last() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let keys = running.store.link_position().keys;
        for index in 0..keys {
            running.store.reserve_link(index).await.expect("a key is left");
            running.store.link_answered(index, [1; 16]).await.expect("reserved");
        }
        assert!(running.store.link_step(keys).is_none());
        assert_eq!(running.store.reserve_link(keys).await.err(), Some(StoreError::Invalid));
        running.stop().await;
    });
}

#[test]
fn used_chain_states_are_gone_from_both_copies_within_a_second() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(1).await.expect("within the look-ahead");
        let step = running.store.post_step(0).expect("the first");
        running
            .store
            .collected(vec![deposit(&step)], 1)
            .await
            .expect("in order");
        assert_eq!(slot_copies(&disk), vec![(0, 0); 2], "never before the commit");
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(slot_copies(&disk), vec![(1, 1); 2]);
        running.stop().await;
    });
}

#[test]
fn a_search_for_used_states_finds_them_only_where_they_are_kept_on_purpose() {
    for keep_used_keys in [false, true] {
        let disk = made(1);
        block_on(async {
            let options = HolderOptions {
                keep_used_keys,
                ..options()
            };
            let running = Running::open_with(&shared(&disk), Path::new(FOLDER), &options, 2).expect("opens");
            running.store.reserve_link(1).await.expect("within the look-ahead");
            running.stop().await;
            assert_eq!(
                holds(&disk, LinkChain::from_root(&root()).state().expose()),
                keep_used_keys
            );
        });
    }
}

#[test]
fn a_slot_that_lags_after_a_crash_is_hashed_forward_before_the_store_is_handed_out() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(3).await.expect("within the look-ahead");
        disk.crash(0);
        running.abandon().await;
        assert_eq!(slot_copies(&disk), vec![(0, 0); 2]);
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(slot_copies(&disk), vec![(3, 0); 2]);
        assert!(running.store.link_step(2).is_none());
        let expected = LinkChain::from_root(&root()).step_at(3).expect("ahead");
        assert!(running.store.link_step(3).expect("held").tag == expected.tag);
        running.stop().await;
    });
}

#[test]
fn an_index_restored_without_its_slots_is_refused() {
    let disk = made(1);
    let before = disk.snapshot();
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(0).await.expect("the first");
        running.store.link_answered(0, [1; 16]).await.expect("reserved");
        running.stop().await;
        disk.restore_file(&before, Path::new("/holder/index.redb"));
        assert_eq!(Running::open(&disk, 3).err(), Some(StoreError::RestoredDatabase));
    });
}

#[test]
fn mail_waits_in_the_outbox_until_its_answer_and_its_text_is_gone_after() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let row = store.enqueue(order("letter", 10)).await.expect("room");
        assert_eq!(store.reserved(), Ok(10));
        assert_eq!(store.acknowledged(), 0);
        let queued = store.next_queued().expect("readable").expect("queued");
        assert_eq!((queued.row, queued.change.seq, &queued.label[..]), (row, 1, "letter"));
        assert_eq!(store.outbox_body(row), Ok(Some(vec![b'l'; 1_000])));
        let record = store.books().outbox[&row].record;
        let secret = store.shelf.base.slab.read(record).expect("taken");
        assert!(holds(&disk, secret.expose()));
        assert_eq!(
            store.answered(row, done(2), None, 5).await,
            Err(StoreError::Invalid),
            "another number"
        );
        store.answered(row, done(1), None, 5).await.expect("its answer");
        store
            .answered(row, done(1), None, 5)
            .await
            .expect("a repeated answer changes nothing");
        assert_eq!((store.reserved(), store.acknowledged()), (Ok(0), 1));
        assert!(store.outbox().expect("readable").is_empty());
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
    });
}

#[test]
fn mail_that_lacks_value_is_held_and_goes_under_a_new_number_when_value_comes() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let prices = PriceList {
            version: 2,
            message: 5,
            kilobyte: 15,
            ..PriceList::default()
        };
        let rows = [
            store.enqueue(order("a", 10)).await.expect("room"),
            store.enqueue(order("b", 10)).await.expect("room"),
        ];
        let first = store.next_queued().expect("readable").expect("queued");
        let short = Refusal::Value { shortfall: 3 };
        let notice = b"Subject: held\r\n\r\n".to_vec();
        store
            .answered(rows[0], refused(1, short), Some(notice.clone()), 5)
            .await
            .expect("its answer");
        store
            .answered(rows[1], refused(2, short), None, 5)
            .await
            .expect("its answer");
        assert_eq!(store.message(1), Ok(Some(notice)));
        assert!(store.next_queued().expect("readable").is_none());
        assert_eq!(store.reserved(), Ok(20), "held mail still reserves its price");
        assert_eq!(
            store.release_held(prices, 39).await,
            Ok(1),
            "the balance covers one of two at 20"
        );
        let again = store.next_queued().expect("readable").expect("queued");
        assert_eq!((again.row, again.change.seq, again.price), (rows[0], 3, 20));
        assert!(again.change.id != first.change.id && again.change.blind != first.change.blind);
        let Operation::Submit {
            prices: version,
            debit_max,
            ..
        } = again.change.operation
        else {
            panic!("mail")
        };
        assert_eq!((version, debit_max), (2, 20));
        assert_eq!(store.outbox_body(rows[0]), Ok(Some(vec![b'a'; 1_000])));
        assert_eq!(
            store.release_held(prices, 39).await,
            Ok(0),
            "what is queued is spoken for"
        );
        running.stop().await;
    });
}

#[test]
fn refusals_lead_where_they_should() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let cases = [
            (Refusal::Busy, OutboxState::Queued),
            (Refusal::Stale, OutboxState::Unknown),
            (
                Refusal::Price { price: 1, prices: 1 },
                OutboxState::Held(Refusal::Price { price: 1, prices: 1 }),
            ),
            (Refusal::Sender, OutboxState::Refused(Refusal::Sender)),
        ];
        for (refusal, state) in cases {
            let row = store.enqueue(order("x", 1)).await.expect("room");
            let row_of = |row| {
                store
                    .outbox()
                    .expect("readable")
                    .into_iter()
                    .find(|shown| shown.row == row)
            };
            let seq = row_of(row).expect("there").change.seq;
            store
                .answered(row, refused(seq, refusal), None, 5)
                .await
                .expect("its answer");
            assert_eq!(row_of(row).expect("kept").state, state);
            assert_eq!(
                store.outbox_body(row).expect("readable").is_some(),
                !matches!(state, OutboxState::Unknown | OutboxState::Refused(_))
            );
        }
        running.stop().await;
    });
}

#[test]
fn what_may_have_been_sent_is_not_cancelled() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let (kept, dropped) = (
            store.enqueue(order("a", 1)).await.expect("room"),
            store.enqueue(order("b", 1)).await.expect("room"),
        );
        assert!(store.outbox_body(kept).expect("readable").is_some());
        assert_eq!(
            (store.cancel(kept).await, store.cancel(dropped).await),
            (Ok(false), Ok(true))
        );
        assert_eq!(store.cancel(dropped).await, Ok(false));
        let last = store.enqueue(order("c", 1)).await.expect("room");
        assert_eq!(store.acknowledged(), 0, "a number that never left is no answer");
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(
            running.store.cancel(last).await,
            Ok(false),
            "the process before may have sent it"
        );
        running.stop().await;
    });
}

#[test]
fn numbers_stay_above_the_relays_highest() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        store.raise_seq(41).await.expect("raised");
        store.raise_seq(7).await.expect("nothing to do");
        assert_eq!(store.acknowledged(), 41);
        let alias = Operation::AliasOpen {
            local: "new".to_owned(),
        };
        store
            .enqueue_change(alias, "alias new".to_owned(), 1)
            .await
            .expect("room");
        let row = store.next_queued().expect("readable").expect("queued");
        assert_eq!((row.change.seq, row.change.acknowledged), (42, 41));
        assert_eq!(store.raise_seq(u64::MAX).await, Err(StoreError::Invalid));
        running.stop().await;
    });
}

#[test]
fn a_deposit_told_twice_is_stored_once_and_its_key_is_erased() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let step = store.post_step(0).expect("the first");
        store.collected(vec![deposit(&step)], 1).await.expect("in order");
        assert!(store.post_step(0).is_none());
        let secret = store
            .shelf
            .base
            .slab
            .read(store.books().deposits[&0].record)
            .expect("taken");
        let uid = store.store_deposit(0, b"text".to_vec(), 9).await.expect("pending");
        assert_eq!(store.store_deposit(0, b"text".to_vec(), 9).await, Ok(uid));
        assert_eq!(store.inbox().entries.len(), 1);
        assert!(store.pending().expect("readable").is_empty());
        assert_eq!(store.unconfirmed(), Ok(vec![(0, [0; 32])]));
        store.confirmed(vec![0]).await.expect("told");
        assert_eq!(store.unconfirmed(), Ok(Vec::new()));
        assert_eq!(
            store.store_deposit(0, b"text".to_vec(), 9).await,
            Err(StoreError::NoRow)
        );
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
    });
}

#[test]
fn keys_of_gaps_and_of_damaged_deposits_are_kept_for_their_time() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let (gap, damaged) = (store.post_step(1).expect("ahead"), store.post_step(2).expect("ahead"));
        store.collected(vec![deposit(&damaged)], 3).await.expect("in order");
        assert!(store.post_step(1).expect("kept").key == gap.key);
        let start = 20_000 * 86_400;
        store
            .abandon_deposit(2, b"damaged".to_vec(), start)
            .await
            .expect("pending");
        assert!(store.pending().expect("readable").is_empty() && store.books().deposits.contains_key(&2));
        let late = store.post_step(0).expect("kept");
        store
            .collected(vec![deposit(&late)], 3)
            .await
            .expect("a wrap may fill its gap");
        assert!(store.post_step(0).is_none());
        let later = ValueMirror {
            at: start + 30 * 86_400,
            ..ValueMirror::default()
        };
        store.put_value(later, None).await.expect("noted");
        store.collected(Vec::new(), 3).await.expect("nothing new");
        assert!(store.post_step(1).is_none() && !store.books().deposits.contains_key(&2));
        assert_eq!(
            store.collected(Vec::new(), 2).await,
            Err(StoreError::Invalid),
            "never backwards"
        );
        running.stop().await;
    });
}

#[test]
fn inbox_keeps_uids_for_ever_and_forgets_what_is_expunged() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let mut changed = store.inbox_changed();
        let before = store.inbox();
        let text = |n: u8| format!("Message-ID: <{n}@x>\r\n\r\ntext {n}").into_bytes();
        for n in 1..=3 {
            assert_eq!(store.append(text(n), Flags::default(), 7).await, Ok(u32::from(n)));
        }
        assert!(before.entries.is_empty(), "a snapshot does not move");
        assert!(changed.has_changed().expect("open") && *changed.borrow_and_update() == store.inbox().version);
        let version = store.inbox().version;
        store
            .change_flags(vec![2, 9], FlagChange::Add(Flags::SEEN))
            .await
            .expect("one is there");
        store
            .change_flags(vec![2], FlagChange::Add(Flags::SEEN))
            .await
            .expect("nothing to do");
        assert_eq!(store.inbox().version, version + 1);
        let secret = {
            let read = |read: &_| store.shelf.row::<super::rows::InboxRow>(read, &super::rows::INBOX, 3);
            let (key, _) = store.shelf.base.index.read(read).expect("readable").expect("there");
            store.shelf.base.slab.read(key.record).expect("taken")
        };
        assert_eq!(store.expunge(vec![3, 9]).await, Ok(vec![3]));
        assert_eq!((store.message(3), store.message(2)), (Ok(None), Ok(Some(text(2)))));
        assert_eq!(store.knows_message_id("3@x"), Ok(true), "it was in INBOX");
        assert_eq!(store.knows_message_id("4@x"), Ok(false));
        let validity = store.inbox().uid_validity;
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
        let running = Running::open(&disk, 3).expect("opens");
        let inbox = running.store.inbox();
        assert_eq!((inbox.uid_validity, inbox.uid_next), (validity, 4));
        assert_eq!(
            inbox.entries.iter().map(|e| (e.uid, e.flags)).collect::<Vec<_>>(),
            [(1, Flags::default()), (2, Flags::SEEN)]
        );
        assert_eq!(
            running.store.append(text(4), Flags::default(), 7).await,
            Ok(4),
            "no UID comes back"
        );
        running.stop().await;
    });
}

#[test]
fn the_mirror_of_the_value_follows_a_debit_that_joins_on_to_it() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let value = ValueMirror {
            balance: 100,
            keys: 5,
            credits: 150,
            debits: 50,
            at: 1,
        };
        store.put_value(value, None).await.expect("noted");
        let row = store.enqueue(order("a", 10)).await.expect("room");
        store.answered(row, done(1), None, 5).await.expect("its answer");
        assert_eq!(
            store.value(),
            ValueMirror {
                balance: 90,
                debits: 60,
                at: 5,
                ..value
            }
        );
        let row = store.enqueue(order("b", 10)).await.expect("room");
        store.answered(row, done(2), None, 6).await.expect("its answer");
        assert_eq!(store.value().balance, 90, "an answer of before says nothing new");
        running.stop().await;
    });
}

#[test]
fn operations_that_come_together_share_a_commit_and_get_a_number_each() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let before = running.store.shelf.base.index.commit_number().expect("readable");
        let mut together = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let store = running.store.clone();
            together.spawn(async move { (store.enqueue(order("a", 1)).await, store.reserve_link(9).await.err()) });
        }
        let answers = together.join_all().await;
        let rows: BTreeSet<u64> = answers.iter().map(|(row, _)| *row.as_ref().expect("room")).collect();
        assert_eq!(rows.len(), 20);
        assert!(
            answers.iter().all(|(_, refusal)| *refusal == Some(StoreError::Invalid)),
            "a refusal spoils no batch"
        );
        let commits = running.store.shelf.base.index.commit_number().expect("readable") - before;
        assert!(commits < 10, "{commits} commits for 20 rows");
        running.stop().await;
    });
}

#[test]
fn nothing_readable_lies_on_the_disk() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let canary = "canary-93";
        store
            .enqueue(OutboxOrder {
                body: vec![b'#'; 1_000],
                ..order(canary, 1)
            })
            .await
            .expect("room");
        let text = format!("Message-ID: <{canary}@x>\r\nSubject: {canary}\r\n\r\n{canary}");
        store
            .append(text.into_bytes(), Flags::default(), 1)
            .await
            .expect("room");
        running.stop().await;
    });
    for secret in [
        &b"canary-93"[..],
        b"first@relay.test",
        b"relay.test",
        &[b'#'; 32],
        root().expose(),
    ] {
        assert!(!holds(&disk, secret));
    }
}

#[test]
fn a_commit_that_fails_leaves_all_or_nothing_and_the_store_goes_on() {
    for nth in 0..24 {
        let disk = made(1);
        block_on(async {
            let running = Running::open(&disk, 2).expect("opens");
            let store = &running.store;
            store
                .append(b"before".to_vec(), Flags::default(), 1)
                .await
                .expect("room");
            disk.fail_nth(nth);
            let outcome = store.append(b"under way".to_vec(), Flags::default(), 2).await;
            let mut after = store.append(b"after".to_vec(), Flags::default(), 3).await;
            if after.is_err() {
                // The failure struck what was to mend an earlier one, or this operation itself.
                after = store.append(b"after".to_vec(), Flags::default(), 3).await;
            }
            let after = after.unwrap_or_else(|error| panic!("operation {nth}: {outcome:?}, then {error}"));
            let inbox = store.inbox();
            let texts: Vec<_> = inbox
                .entries
                .iter()
                .map(|entry| store.message(entry.uid).expect("readable").expect("there"))
                .collect();
            assert!(texts.first().is_some_and(|text| text == b"before"));
            assert!(texts.last().is_some_and(|text| text == b"after"));
            assert!(outcome.is_err() || texts.len() == 3, "operation {nth}: {outcome:?}");
            assert_eq!(inbox.entries.last().map(|entry| entry.uid), Some(after));
            running.stop().await;
        });
    }
}

#[test]
fn it_works_on_the_real_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let path = folder.path().join("a");
    HolderFiles::create(&disk, &path, &issue(1), PASSPHRASE, &options(), &entropy(1)).expect("made");
    block_on(async {
        let text = vec![b'x'; 3 << 20];
        let running = Running::open_with(&disk, &path, &options(), 2).expect("opens");
        let uid = running.store.append(text.clone(), Flags::SEEN, 7).await.expect("room");
        running.stop().await;
        let running = Running::open_with(&disk, &path, &options(), 3).expect("opens");
        assert_eq!(running.store.message(uid), Ok(Some(text)));
        assert!(create::header_path(&path).exists());
        running.stop().await;
    });
}
