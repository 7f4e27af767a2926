//! Whether a store that has grown is as fast as an empty one:
//! `cargo run --release -p mailbox --example growth -- PACKS DEPOSITS [DIR]`; with a store that is there, `-- open DIR` and
//! `-- measure DIR`.
//!
//! Measures tag lookups, links up to the relay's first answer, deposits and collects, issues PACKS packs and stores DEPOSITS deposits for them (one body for
//! each ten, as for a message to ten recipients), measures again, then closes the store and opens it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keypacks::chain::{LinkChain, LinkStep};
use keypacks::deposit::{BodySealer, Dek};
use keypacks::link::{self, ClientEntropy, RelaySecret};
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
const SHARED: usize = 10;
/// Accounts whose tags are looked up, and those of them that dial.
const SAMPLE: usize = 10_000;
const DIALLED: usize = 1_000;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "open").is_some() {
        let folder = arguments.next().expect("DIR is missing");
        reopen(Path::new(&folder)).close().await;
        return;
    }
    if arguments.next_if(|first| first == "measure").is_some() {
        let folder = arguments.next().expect("DIR is missing");
        let store = reopen(Path::new(&folder));
        let steps = issue(&store, SAMPLE as u64).await;
        let accounts = store.totals().expect("readable").accounts;
        show("over all accounts", &measure(&store, &steps, accounts).await);
        store.close().await;
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
    let store = open(&folder, 1);
    let mut steps = issue(&store, CALLERS).await;
    let before = measure(&store, &steps, CALLERS).await;
    show("empty", &before);
    let start = Instant::now();
    steps.extend(issue(&store, packs.saturating_sub(CALLERS)).await);
    println!("{packs} packs issued in {:?}", start.elapsed());
    let start = Instant::now();
    fill(&store, packs.max(CALLERS), deposits).await;
    println!("{deposits} deposits stored in {:?}", start.elapsed());
    let same = measure(&store, &steps, CALLERS).await;
    show("grown, the same accounts", &same);
    let all = measure(&store, &steps, packs.max(CALLERS)).await;
    show("grown, over all accounts", &all);
    compare("grown / empty, the same accounts", &same, &before);
    compare("grown / empty, over all accounts", &all, &before);
    store.close().await;
    reopen(&folder).close().await;
}

fn reopen(folder: &Path) -> RelayFiles {
    let start = Instant::now();
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let store = open(folder, seed);
    println!("opened again in {:?}", start.elapsed());
    store
}

/// `seed`: of keys and names, for figures only; another each time that a store is opened, since no name may come twice.
fn open(folder: &Path, seed: u64) -> RelayFiles {
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let config = RelayConfig {
        deposits_max: u64::MAX,
        ..RelayConfig::default()
    };
    let spawn = |actor| mailbox::commit::on_thread("store", actor).expect("a thread");
    RelayFiles::open(Arc::new(SystemDisk), folder, config, entropy, spawn).expect("opened")
}

/// Issues packs, a thousand at a time; returns the first link steps of some of them.
async fn issue(store: &RelayFiles, packs: u64) -> Vec<LinkStep> {
    let mut steps = Vec::new();
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
                rotation: Default::default(),
            };
            orders.spawn(async move { store.issue(order).await.expect("issued").root });
        }
        while let Some(root) = orders.join_next().await {
            if steps.len() < SAMPLE {
                let chain = LinkChain::from_root(&root.expect("no order panics"));
                steps.push(chain.step_at(0).expect("the first"));
            }
        }
        left -= step;
    }
    steps
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

/// Operations a second, and what they are.
type Rates = Vec<(&'static str, f64)>;

/// Measures all operations, those on accounts over the first `accounts` of them.
async fn measure(store: &RelayFiles, steps: &[LinkStep], accounts: u64) -> Rates {
    let tags: Vec<Tag> = steps.iter().map(|step| step.tag).collect();
    let lookups = repeated(|| {
        assert!(tags.iter().all(|tag| store.find_tag(tag).expect("readable").is_some()));
        tags.len()
    });
    // What a lookup is for: the first cell of a link is opened and answered.
    let secret = RelaySecret::new(Secret::new([9; 32]));
    let public = secret.public();
    let dialled = |step: &LinkStep| {
        let entropy = ClientEntropy {
            ephemeral: [1; 32],
            nonce: [2; 24],
        };
        let step = LinkStep {
            index: step.index,
            up: step.up.duplicate(),
            down: step.down.duplicate(),
            tag: step.tag,
        };
        link::connect(step, &public, entropy).1
    };
    let cells: Vec<_> = steps.iter().take(DIALLED).map(dialled).collect();
    let answers = repeated(|| {
        for cell in &cells {
            let mut cell = cell.clone();
            let hit = store
                .find_tag(&link::peek_tag(&cell))
                .expect("readable")
                .expect("a live tag");
            let answer = link::accept(hit.step, &secret, hit.floor, &mut cell, [3; 32], [4; 24]);
            assert!(answer.is_ok());
        }
        cells.len()
    });
    let deposits = callers(store, move |store, at| async move {
        store.deposit(order(at * 7_919, accounts, 1)).await.expect("stored");
    });
    let deposits = deposits.await;
    let collects = callers(store, move |store, at| async move {
        store.collect(Account(at * 7_919 % accounts), 0, 64).expect("readable");
    });
    vec![
        ("tag lookups", lookups),
        ("first cells answered", answers),
        ("deposits", deposits),
        ("collects", collects.await),
    ]
}

fn show(what: &str, rates: &Rates) {
    let words = rates.iter().map(|(name, rate)| format!("{rate:.0} {name}"));
    println!("{what}: {} a second", words.collect::<Vec<_>>().join(", "));
}

fn compare(what: &str, after: &Rates, before: &Rates) {
    let pairs = after.iter().zip(before);
    let words = pairs.map(|((name, after), (_, before))| format!("{name} {:.2}", after / before));
    println!("{what}: {}", words.collect::<Vec<_>>().join(", "));
}

/// How much `run` does in a second, of which it says how much it did.
fn repeated(run: impl Fn() -> usize) -> f64 {
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(1) {
        done += run();
    }
    done as f64 / start.elapsed().as_secs_f64()
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
