//! How many operations the relay's store makes durable each second, so many in each commit:
//! `cargo run --release -p mailbox --example accept -- [BATCH [DIR [SECONDS [submission|deposit]]]]`.
//!
//! Callers and committer share one thread, so each commit takes one operation of each caller, and no time goes into waking
//! threads. 16 in each commit unless told otherwise, for ten seconds: submissions of 4 KiB, which are sealed and debited, or
//! deposits of 4 kB, each for an account of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keypacks::Secret;
use keypacks::deposit::{BodySealer, Dek};
use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, DepositOrder, Effect, IssueOrder, RelayStore, Spooled};
use mailbox::request::{Answer, Change, Operation};

const BATCH: u64 = 16;
const SECONDS: u64 = 10;
const MESSAGE_BYTES: usize = 4_096;
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
    let store = open(&folder);
    let mut callers = Vec::new();
    let mut accounts = Vec::new();
    for _ in 0..batch {
        let order = IssueOrder {
            link_keys: 16,
            credit: u64::MAX >> 8,
            operator: false,
            day: DAY,
            rotation: Default::default(),
        };
        accounts.push(store.issue(order).await.expect("issued").account);
    }
    let start = tokio::time::Instant::now();
    let end = start + Duration::from_secs(seconds);
    for account in accounts {
        let store = store.clone();
        callers.push(match deposits {
            false => tokio::spawn(submit(store, account, end)),
            true => tokio::spawn(deposit(store, account, end)),
        });
    }
    let mut accepted = 0;
    for caller in callers {
        accepted += caller.await.expect("no caller panics");
    }
    let rate = accepted as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} accepted a second, {batch} in each commit");
    store.close().await;
}

fn open(folder: &Path) -> RelayFiles {
    // The same keys each time: for figures only.
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    // Nothing leaves the spool or the mailboxes here.
    let config = RelayConfig {
        spool_max: usize::MAX,
        deposits_max: u64::MAX,
        ..RelayConfig::default()
    };
    let mut spawned = 0;
    let spawn = |actor| {
        spawned += 1;
        match spawned {
            // The committer.
            1 => drop(tokio::spawn(actor)),
            _ => mailbox::commit::on_thread("keeper", actor).expect("a thread"),
        }
    };
    RelayFiles::open(Arc::new(SystemDisk), folder, config, entropy, spawn).expect("opened")
}

/// Submits until `end`, waiting for each answer. Returns how many were accepted.
async fn submit(store: RelayFiles, account: Account, end: tokio::time::Instant) -> u64 {
    let mut seq = 0;
    while tokio::time::Instant::now() < end {
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
        };
        let answer = store
            .execute(account, change, digest, Effect::Spool(spooled), DAY, 0)
            .await;
        assert!(matches!(answer, Ok(Answer::Done { .. })), "a submission was refused");
    }
    seq
}

/// Deposits until `end`, waiting for each answer. Returns how many were accepted.
async fn deposit(store: RelayFiles, account: Account, end: tokio::time::Instant) -> u64 {
    let mut sealer = BodySealer::new(Dek::new(Secret::new([5; 32])), [6; 16]);
    sealer.push(&[b'x'; DEPOSIT_BYTES]).expect("short");
    let sealed = sealer.finish();
    let mut count = 0;
    while tokio::time::Instant::now() < end {
        let order = DepositOrder {
            recipients: vec![(account, 0)],
            body: sealed.body.clone(),
            dek: sealed.dek.duplicate(),
            length: sealed.length,
            kilobytes: sealed.kilobytes,
            day: DAY,
        };
        store.deposit(order).await.expect("a deposit was refused");
        count += 1;
    }
    count
}
