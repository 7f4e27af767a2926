//! Deposits and submissions that are judged while those before them are written: each is to find what the ones before it leave,
//! and nobody else is to.

use std::pin::Pin;

use keypacks::deposit::open_wrap;
use tokio::task::JoinHandle;

use super::*;
use crate::relay_store::StatementRow;

type Syncer = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Files {
    /// Opens the store without its syncer, which the test has to run.
    fn open_without_syncer(&self) -> (RelayFiles, Syncer) {
        let entropy = Arc::new(SeededEntropy::new(self.openings.fetch_add(1, Ordering::Relaxed) << 32));
        let (mut number, mut syncer) = (0, None);
        let store = RelayFiles::open(
            Arc::new(self.disk.of_this_boot()),
            Path::new(FOLDER),
            self.config,
            entropy,
            |actor| {
                number += 1;
                match number {
                    2 => syncer = Some(actor),
                    _ => drop(tokio::spawn(actor)),
                }
            },
        );
        (store.expect("opens"), syncer.expect("the second of three"))
    }
}

fn submission(store: &RelayFiles, account: Account, seq: u64) -> JoinHandle<Result<Answer, StoreError>> {
    let store = store.clone();
    tokio::spawn(async move { submit(&store, account, seq, b"text").await })
}

fn deposit(store: &RelayFiles, account: Account) -> JoinHandle<Result<(), StoreError>> {
    let store = store.clone();
    tokio::spawn(async move { store.deposit(mail_for(account, 0)).await })
}

/// Lets every task go on for as long as it can.
async fn settle_down() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn balance_of(store: &RelayFiles, account: Account) -> u64 {
    match store.balance(account).expect("readable") {
        Answer::Balance { balance, .. } => balance,
        _ => panic!("no balance"),
    }
}

fn charges(rows: &[StatementRow]) -> usize {
    rows.iter().filter(|row| row.debit > 0).count()
}

/// Every wrap opens under the post key of its own index.
fn wraps(store: &RelayFiles, issued: &Issued) -> Vec<u64> {
    let (collected, ..) = store.collect(issued.account, 0, COLLECT_MAX).expect("readable");
    let wraps = collected.into_iter().map(|entry| {
        let Collected::Wrap { index, wrap } = entry else {
            panic!("a deposit is gone");
        };
        let step = Chains::from_root(&issued.root).post.step_at(index).expect("near");
        open_wrap(&step, &wrap).expect("sealed under its own key");
        index
    });
    wraps.collect()
}

type Answering = JoinHandle<Result<Answer, StoreError>>;
type Depositing = JoinHandle<Result<(), StoreError>>;

/// What is written while the rest is judged, and the rest: a second message of the first account, one that finds the spool full,
/// and two deposits behind the first one.
struct Overlap {
    written: (Answering, Answering, Depositing),
    ahead: (Answering, Answering, [Depositing; 2]),
}

async fn overlap(store: &RelayFiles, a: &Issued, b: &Issued) -> Overlap {
    let written = (
        submission(store, a.account, 1),
        submission(store, b.account, 1),
        deposit(store, a.account),
    );
    settle_down().await;
    let deposits = [deposit(store, a.account), deposit(store, a.account)];
    let ahead = (
        submission(store, a.account, 2),
        submission(store, b.account, 2),
        deposits,
    );
    settle_down().await;
    Overlap { written, ahead }
}

fn files() -> Files {
    let mut files = Files::new();
    files.config.spool_max = 3;
    files
}

#[test]
fn what_is_judged_ahead_finds_what_is_being_written_and_readers_do_not() {
    run(async {
        let files = files();
        let (store, syncer) = files.open_without_syncer();
        let (a, b) = (issue(&store).await, issue(&store).await);
        let before = store.shared.base.index.commit_number();
        let Overlap { written, ahead } = overlap(&store, &a, &b).await;
        assert!(!written.0.is_finished() && !written.2.is_finished());
        assert!(!ahead.0.is_finished() && !ahead.1.is_finished());
        assert!(store.due(NOW, 9).expect("readable").is_empty());
        assert_eq!((wraps(&store, &a), store.waiting(a.account)), (vec![], false));
        assert_eq!(balance_of(&store, a.account), 1_000_000);
        let asked = change(1);
        assert!(store.stored_answer(a.account, &asked, &asked.digest()).is_none());
        assert_eq!(store.totals().expect("readable").queued, 0);
        tokio::spawn(syncer);
        assert!(matches!(written.0.await, Ok(Ok(Answer::Done { balance: 999_990, .. }))));
        assert!(matches!(written.1.await, Ok(Ok(Answer::Done { balance: 999_990, .. }))));
        assert_eq!(written.2.await.expect("no panic"), Ok(()));
        assert!(matches!(ahead.0.await, Ok(Ok(Answer::Done { balance: 999_980, .. }))));
        let refused = ahead.1.await.expect("no panic").expect("an answer");
        assert!(matches!(
            refused,
            Answer::Refused {
                refusal: Refusal::Busy,
                ..
            }
        ));
        for deposit in ahead.2 {
            assert_eq!(deposit.await.expect("no panic"), Ok(()));
        }
        assert_eq!(store.shared.base.index.commit_number() - before, 2);
        assert_eq!(wraps(&store, &a), [0, 1, 2]);
        let rows = store.statement(&a.identifier, 9).expect("readable").expect("known");
        assert_eq!(charges(&rows), 2, "each has a place of its own in the journal");
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
        let store = files.try_open().expect("opens");
        assert_eq!(wraps(&store, &a), [0, 1, 2]);
        let due = store.due(NOW, 9).expect("readable");
        assert_eq!(due.len(), 3);
        for id in due {
            let delivery = store.delivery(id).expect("opens").expect("waits");
            assert_eq!(&delivery.message[..], b"text");
        }
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}

#[test]
fn what_stood_on_a_batch_that_failed_is_as_if_that_had_never_been() {
    for nth in [0, 1] {
        run(async {
            let files = files();
            let (store, syncer) = files.open_without_syncer();
            let (a, b) = (issue(&store).await, issue(&store).await);
            let Overlap { written, ahead } = overlap(&store, &a, &b).await;
            files.disk.fail_nth(nth);
            tokio::spawn(syncer);
            assert!(matches!(written.0.await, Ok(Err(StoreError::Io(_)))));
            assert!(matches!(written.1.await, Ok(Err(StoreError::Io(_)))));
            assert!(matches!(written.2.await, Ok(Err(StoreError::Io(_)))));
            // There is room in the spool, and the value of one message more.
            assert!(matches!(ahead.0.await, Ok(Ok(Answer::Done { balance: 999_990, .. }))));
            assert!(matches!(ahead.1.await, Ok(Ok(Answer::Done { balance: 999_990, .. }))));
            for deposit in ahead.2 {
                assert_eq!(deposit.await.expect("no panic"), Ok(()));
            }
            for again in 0..2 {
                assert_eq!(wraps(&store, &a), [0, 1], "{again}");
                assert_eq!(store.due(NOW, 9).expect("readable").len(), 2);
                assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
            }
            // What never happened happens when it is asked for once more.
            assert!(matches!(
                submit(&store, b.account, 1, b"text").await,
                Ok(Answer::Done { balance: 999_980, .. })
            ));
            store.close().await;
            let store = files.try_open().expect("opens");
            assert_eq!(wraps(&store, &a), [0, 1]);
            for id in store.due(NOW, 9).expect("readable") {
                let delivery = store.delivery(id).expect("opens").expect("waits");
                assert_eq!(&delivery.message[..], b"text");
            }
            assert_eq!(store.verify().expect("readable").audit.findings, Vec::<String>::new());
            store.close().await;
        });
    }
}

#[test]
fn whenever_the_power_goes_each_message_that_was_accepted_is_there_and_paid_for_once() {
    const CALLERS: usize = 5;
    for seed in 0..60 {
        run(async {
            let files = Files {
                disk: MemoryDisk::forgetful(),
                ..Files::new()
            };
            let store = files.try_open().expect("opens");
            let mut packs = Vec::new();
            for _ in 0..CALLERS {
                packs.push(issue(&store).await);
            }
            files.disk.power_off_after(seed);
            let mut callers = Vec::new();
            for (n, pack) in packs.iter().enumerate() {
                let (store, account) = (store.clone(), pack.account);
                callers.push(tokio::spawn(async move {
                    let (mut accepted, mut deposited) = (0, 0);
                    for seq in 1..=12 {
                        let answer = submit(&store, account, seq, &vec![b'x'; 900 * n + 1]).await;
                        accepted += u64::from(matches!(answer, Ok(Answer::Done { .. })));
                        let is_stored = store.deposit(mail_for(account, 0)).await.is_ok();
                        deposited += usize::from(is_stored);
                        if answer.is_err() || !is_stored {
                            break;
                        }
                    }
                    (accepted, deposited)
                }));
            }
            let mut told = Vec::new();
            for caller in callers {
                told.push(caller.await.expect("no panic"));
            }
            files.crash(store, seed).await;
            let store = files.try_open().expect("opens");
            let mut debited = 0;
            for (pack, (accepted, deposited)) in packs.iter().zip(told) {
                let paid = (1_000_000 - balance_of(&store, pack.account)) / 10;
                assert!((accepted..=accepted + 1).contains(&paid), "seed {seed}");
                let there = wraps(&store, pack);
                assert!((deposited..=deposited + 1).contains(&there.len()), "seed {seed}");
                debited += paid;
            }
            let due = store.due(NOW, 99).expect("readable");
            assert_eq!(due.len() as u64, debited, "seed {seed}");
            for id in due {
                assert!(store.delivery(id).expect("opens").is_some(), "seed {seed}");
            }
            assert_eq!(store.verify().expect("readable").audit.findings, Vec::<String>::new());
            store.close().await;
        });
    }
}
