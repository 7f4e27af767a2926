//! How many submissions the relay's store accepts each second:
//! `cargo run --release -p mailbox --example accept -- [CALLERS [DIR [SECONDS]]]`.
//!
//! 16 callers unless told otherwise, one outstanding 4 KiB submission each, for ten seconds; every answer is durable.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, Effect, IssueOrder, RelayStore, Spooled};
use mailbox::request::{Answer, Change, Operation};

const CALLERS: u64 = 16;
const SECONDS: u64 = 10;
const MESSAGE_BYTES: usize = 4_096;
const DAY: u32 = 20_000;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let callers_wanted = arguments
        .next()
        .map_or(CALLERS, |count| count.parse().expect("a number of callers"));
    let temporary = tempfile::tempdir_in(".").expect("a folder that can be written to");
    let folder = arguments
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let seconds = arguments
        .next()
        .map_or(SECONDS, |seconds| seconds.parse().expect("a number of seconds"));
    // The same keys each time: for figures only.
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    // Nothing leaves the spool here.
    let config = RelayConfig {
        spool_max: usize::MAX,
        ..RelayConfig::default()
    };
    let spawn = |actor| mailbox::commit::on_thread("store", actor).expect("a thread");
    let store = RelayFiles::open(Arc::new(SystemDisk), &folder, config, entropy, spawn).expect("opened");
    let mut callers = Vec::new();
    let mut accounts = Vec::new();
    for _ in 0..callers_wanted {
        let order = IssueOrder {
            link_keys: 16,
            credit: u64::MAX >> 8,
            operator: false,
            day: DAY,
        };
        accounts.push(store.issue(order).await.expect("issued").account);
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    for account in accounts {
        callers.push(tokio::spawn(call(store.clone(), account, end)));
    }
    let mut accepted = 0;
    for caller in callers {
        accepted += caller.await.expect("no caller panics");
    }
    println!("{} accepted submissions a second", accepted / seconds);
    store.close().await;
}

/// One session: submits until `end`, waiting for each answer. Returns how many were accepted.
async fn call(store: RelayFiles, account: Account, end: tokio::time::Instant) -> u64 {
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
