//! How many operations the relay's store makes durable each second, so many in each commit:
//! `cargo run --release -p mailbox --example accept -- [BATCH [DIR [SECONDS [submission|deposit]]]]`.
//!
//! As in the relay, one thread calls, one commits, one writes and one keeps house. There are three times as many callers as
//! operations in a commit: while one third waits for its sync, the next is judged, and the last seals what comes then. Each
//! waits for its durable answer before it goes on. 16 in each commit unless told otherwise, for ten seconds: submissions of
//! 4 KiB, which are sealed and debited, or deposits of 4 kB, each for an account of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keypacks::Secret;
use keypacks::deposit::{BodySealer, Dek};
use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, DepositOrder, Effect, IssueOrder, RelayStore, Spooled};
use mailbox::request::{Answer, Change, Operation};
use tokio::task::JoinSet;

const BATCH: u64 = 16;
const SECONDS: u64 = 10;
const MESSAGE_BYTES: usize = 4_096;
/// Callers for each operation in a commit.
const THIRDS: u64 = 3;
/// What is sealed into a deposit, so that it has the class of 4,000 bytes.
const DEPOSIT_BYTES: usize = 3_900;
const DAY: u32 = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let batch = arguments
        .next()
        .map_or(BATCH, |count| count.parse().expect("a number of callers"));
    let temporary = tempfile::tempdir_in(".").expect("a folder that can be written to");
    let folder = arguments
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let seconds = arguments
        .next()
        .map_or(SECONDS, |seconds| seconds.parse().expect("a number of seconds"));
    let deposits = match arguments.next().as_deref() {
        None | Some("submission") => false,
        Some("deposit") => true,
        Some(_) => panic!("submission or deposit"),
    };
    let store = open(&folder, batch);
    let mut orders = JoinSet::new();
    for _ in 0..THIRDS * batch {
        let store = store.clone();
        let order = IssueOrder {
            link_keys: 16,
            credit: u64::MAX >> 16,
            operator: false,
            day: DAY,
            rotation: Default::default(),
        };
        orders.spawn(async move { store.issue(order).await.expect("issued").account });
    }
    let accounts = orders.join_all().await;
    let spent = processor_time();
    let start = tokio::time::Instant::now();
    let end = start + Duration::from_secs(seconds);
    let begun = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for account in accounts {
        let caller = Caller {
            store: store.clone(),
            account,
            end,
            begun: Arc::clone(&begun),
            batch,
        };
        match deposits {
            false => callers.spawn(submit(caller)),
            true => callers.spawn(deposit(caller)),
        };
    }
    let accepted: u64 = callers.join_all().await.into_iter().sum();
    let rate = accepted as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} accepted a second, {batch} in each commit");
    let shares = processor_time().into_iter().map(|(thread, after)| {
        let before = spent.get(&thread).copied().unwrap_or_default();
        format!("{thread} {:.1}", (after - before).as_secs_f64() * 1e6 / accepted as f64)
    });
    println!("processor µs for each: {}", shares.collect::<Vec<_>>().join(", "));
    store.close().await;
}

/// Processor time of each thread so far, by its name.
fn processor_time() -> BTreeMap<String, Duration> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("this is Linux") {
        let folder = task.expect("listed").path();
        let read = |file: &str| std::fs::read_to_string(folder.join(file));
        let (Ok(name), Ok(spent)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let nanoseconds = spent.split(' ').next().and_then(|number| number.parse().ok());
        let spent: &mut Duration = threads.entry(name.trim().to_owned()).or_default();
        *spent += Duration::from_nanos(nanoseconds.expect("the time on a processor comes first"));
    }
    threads
}

fn open(folder: &Path, batch: u64) -> RelayFiles {
    // The same keys each time: for figures only.
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    // Nothing leaves the spool or the mailboxes here.
    let config = RelayConfig {
        spool_max: usize::MAX,
        deposits_max: u64::MAX,
        commit_of: Some(usize::try_from(batch).expect("a small number")),
        ..RelayConfig::default()
    };
    let mut names = ["committer", "syncer", "keeper"].into_iter();
    let spawn = |actor| {
        let name = names.next().expect("there are three");
        mailbox::commit::on_thread(name, actor).expect("a thread");
    };
    RelayFiles::open(Arc::new(SystemDisk), folder, config, entropy, spawn).expect("opened")
}

/// One of those who ask the store.
struct Caller {
    store: RelayFiles,
    account: Account,
    end: tokio::time::Instant,
    /// Operations that were begun, by all callers.
    begun: Arc<AtomicU64>,
    batch: u64,
}

impl Caller {
    /// Whether to begin one more operation: until the end, and then until the last commit is full.
    fn goes_on(&self) -> bool {
        let goes_on =
            tokio::time::Instant::now() < self.end || !self.begun.load(Ordering::Relaxed).is_multiple_of(self.batch);
        self.begun.fetch_add(u64::from(goes_on), Ordering::Relaxed);
        goes_on
    }
}

/// Submits until the end, waiting for each answer. Returns how many were accepted.
async fn submit(caller: Caller) -> u64 {
    let mut seq = 0;
    while caller.goes_on() {
        seq += 1;
        let operation = Operation::AliasOpen { local: String::new() };
        let change = Change {
            seq,
            id: [1; 16],
            blind: [2; 16],
            acknowledged: seq - 1,
            operation,
        };
        let digest = change.digest();
        let spooled = Spooled {
            reverse_path: "sender@relay.test".to_owned(),
            recipients: vec!["recipient@example.org".to_owned()],
            message: vec![b'x'; MESSAGE_BYTES],
            price: 1,
            onward: 0,
            hops: 0,
            mix: None,
            wishes: Vec::new(),
        };
        let answer = caller
            .store
            .execute((caller.account, 0), change, digest, Effect::Spool(spooled), DAY, 0)
            .await;
        assert!(matches!(answer, Ok(Answer::Done { .. })), "a submission was refused");
    }
    seq
}

/// Deposits until the end, waiting for each answer. Returns how many were accepted.
async fn deposit(caller: Caller) -> u64 {
    let mut sealer = BodySealer::new(Dek::new(Secret::new([5; 32])), [6; 16]);
    sealer.push(&[b'x'; DEPOSIT_BYTES]).expect("short");
    let sealed = sealer.finish();
    let mut count = 0;
    while caller.goes_on() {
        let order = DepositOrder {
            recipients: vec![(caller.account, 0)],
            body: sealed.body.clone(),
            dek: sealed.dek.duplicate(),
            length: sealed.length,
            kilobytes: sealed.kilobytes,
            day: DAY,
        };
        caller.store.deposit(order).await.expect("a deposit was refused");
        count += 1;
    }
    count
}
