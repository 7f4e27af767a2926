//! Whether a store that has grown is as fast as an empty one:
//! `cargo run --release -p mailbox --example growth -- PACKS DEPOSITS [DIR]`, or `-- open DIR` for
//! a store that is there.
//!
//! Measures tag lookups, deposits and collects, issues PACKS packs and stores DEPOSITS deposits for them (one body for
//! each 50, as for a message to 50 recipients), measures again, then closes the store and opens it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keypacks::chain::LinkChain;
use keypacks::deposit::{BodySealer, Dek};
use keypacks::{Secret, Tag};
use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, DepositOrder, IssueOrder, RelayStore};
use tokio::task::JoinSet;
use tokio::time::Instant;

const DAY: u32 = 20_000;
/// Callers of each measurement.
const CALLERS: u64 = 64;
const SECONDS: u64 = 5;
/// Deposits that share a body.
const SHARED: usize = 50;
/// Accounts whose tags are looked up.
const SAMPLE: usize = 10_000;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "open").is_some() {
        let folder = arguments.next().expect("DIR is missing");
        reopen(Path::new(&folder)).close().await;
        return;
    }
    let mut number = |what: &str| -> u64 {
        let text = arguments.next().unwrap_or_else(|| panic!("{what} is missing"));
        text.parse().unwrap_or_else(|_| panic!("{what} is no number"))
    };
    let (packs, deposits) = (number("PACKS"), number("DEPOSITS"));
    let temporary = tempfile::tempdir_in(".").expect("a folder that can be written to");
    let folder = arguments
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let store = open(&folder);
    let mut tags = issue(&store, CALLERS).await;
    let before = measure(&store, &tags).await;
    println!("empty: {before}");
    let start = Instant::now();
    tags.extend(issue(&store, packs.saturating_sub(CALLERS)).await);
    println!("{packs} packs issued in {:?}", start.elapsed());
    let start = Instant::now();
    fill(&store, packs.max(CALLERS), deposits).await;
    println!("{deposits} deposits stored in {:?}", start.elapsed());
    let after = measure(&store, &tags).await;
    println!("grown: {after}");
    println!(
        "grown / empty: lookups {:.2}, deposits {:.2}, collects {:.2}",
        after.lookups / before.lookups,
        after.deposits / before.deposits,
        after.collects / before.collects
    );
    store.close().await;
    reopen(&folder).close().await;
}

fn reopen(folder: &Path) -> RelayFiles {
    let start = Instant::now();
    let store = open(folder);
    println!("opened again in {:?}", start.elapsed());
    store
}

fn open(folder: &Path) -> RelayFiles {
    // The same keys each time: for figures only.
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    let config = RelayConfig {
        deposits_max: u64::MAX,
        ..RelayConfig::default()
    };
    let spawn = |actor| mailbox::commit::on_thread("store", actor).expect("a thread");
    RelayFiles::open(Arc::new(SystemDisk), folder, config, entropy, spawn).expect("opened")
}

/// Issues packs, a thousand at a time; returns the first tags of some of them.
async fn issue(store: &RelayFiles, packs: u64) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut left = packs;
    while left > 0 {
        let step = left.min(1_000);
        let mut orders = JoinSet::new();
        for _ in 0..step {
            let store = store.clone();
            let order = IssueOrder {
                link_keys: 16,
                credit: 1_000_000,
                operator: false,
                day: DAY,
            };
            orders.spawn(async move { store.issue(order).await.expect("issued").root });
        }
        while let Some(root) = orders.join_next().await {
            if tags.len() < SAMPLE {
                let chain = LinkChain::from_root(&root.expect("no order panics"));
                tags.push(chain.step_at(0).expect("the first").tag);
            }
        }
        left -= step;
    }
    tags
}

/// A deposit of the smallest class for so many accounts from this one on.
fn order(first: u64, accounts: u64, count: usize) -> DepositOrder {
    let mut sealer = BodySealer::new(Dek::new(Secret::new([5; 32])), [6; 16]);
    sealer.push(b"a deposit").expect("short");
    let sealed = sealer.finish();
    DepositOrder {
        recipients: (0..count as u64)
            .map(|n| (Account((first + n) % accounts), 0))
            .collect(),
        body: sealed.body,
        dek: sealed.dek,
        length: sealed.length,
        kilobytes: sealed.kilobytes,
        day: DAY,
    }
}

async fn fill(store: &RelayFiles, accounts: u64, deposits: u64) {
    let (mut at, mut under_way) = (0, JoinSet::new());
    for _ in 0..deposits / SHARED as u64 {
        let (store, order) = (store.clone(), order(at, accounts, SHARED));
        at += SHARED as u64;
        if under_way.len() as u64 >= CALLERS {
            under_way.join_next().await;
        }
        under_way.spawn(async move { store.deposit(order).await.expect("stored") });
    }
    while under_way.join_next().await.is_some() {}
}

/// Operations a second.
struct Rates {
    lookups: f64,
    deposits: f64,
    collects: f64,
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lookups,
            deposits,
            collects,
        } = self;
        write!(
            f,
            "{lookups:.0} tag lookups, {deposits:.0} deposits, {collects:.0} collects a second"
        )
    }
}

async fn measure(store: &RelayFiles, tags: &[Tag]) -> Rates {
    let start = Instant::now();
    let mut lookups = 0;
    while start.elapsed() < Duration::from_secs(1) {
        assert!(tags.iter().all(|tag| store.find_tag(tag).is_some()));
        lookups += tags.len();
    }
    let lookups = lookups as f64 / start.elapsed().as_secs_f64();
    let accounts = store.totals().expect("readable").accounts;
    let deposits = callers(store, move |store, at| async move {
        store.deposit(order(at * 7_919, accounts, 1)).await.expect("stored");
    });
    let deposits = deposits.await;
    let collects = callers(store, move |store, at| async move {
        store.collect(Account(at * 7_919 % accounts), 0, 64).expect("readable");
    });
    Rates {
        lookups,
        deposits,
        collects: collects.await,
    }
}

/// Runs one operation after the other from all callers; returns how many a second.
async fn callers<F: Future<Output = ()> + Send>(
    store: &RelayFiles,
    run: impl Fn(RelayFiles, u64) -> F + Copy + Send + 'static,
) -> f64 {
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                run(store.clone(), caller + CALLERS * count).await;
                count += 1;
            }
            count
        });
    }
    let mut sum = 0;
    while let Some(count) = tasks.join_next().await {
        sum += count.expect("no caller panics");
    }
    sum as f64 / SECONDS as f64
}
