//! What packs cost a relay that do nothing: `cargo run --release -p mailbox --example idle -- make PACKS DIR`, then
//! `-- look DIR` in a process of its own, whose memory is that of the store alone.
//!
//! `make` issues the packs and says what they take of the disk. `look` opens the store again and says what they take of
//! memory, and how long a tag is looked for: one of a link, one of a parcel with its key, and one of nobody's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use keypacks::{Secret, Tag};
use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{IssueOrder, RelayStore};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Packs whose tags are looked for.
const SAMPLE: usize = 10_000;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", packs, folder] => make(packs.parse().expect("a number of packs"), Path::new(folder)).await,
        ["look", folder] => look(Path::new(folder)).await,
        _ => panic!("make PACKS DIR, or look DIR"),
    }
}

async fn make(packs: u64, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let store = open(folder, 1);
    let empty = on_disk(folder);
    let mut roots = Vec::new();
    let every = (packs / SAMPLE as u64).max(1);
    let start = Instant::now();
    for first in (0..packs).step_by(1_000) {
        let mut orders = JoinSet::new();
        for number in first..packs.min(first + 1_000) {
            let store = store.clone();
            let order = IssueOrder {
                link_keys: 16,
                credit: 1_000_000,
                operator: false,
                day: 20_000,
                rotation: Default::default(),
            };
            orders.spawn(async move { (number, store.issue(order).await.expect("issued").root) });
        }
        while let Some(issued) = orders.join_next().await {
            let (number, root) = issued.expect("no order panics");
            if number % every == 0 {
                roots.extend_from_slice(root.expose());
            }
        }
    }
    println!("{packs} packs issued in {:.1} s", start.elapsed().as_secs_f64());
    store.close().await;
    fs::write(sample_of(folder), roots).expect("room for the sample");
    let taken = on_disk(folder).saturating_sub(empty);
    println!("{} bytes of the disk a pack", taken / packs);
}

async fn look(folder: &Path) {
    let roots = fs::read(sample_of(folder)).expect("made before");
    let (roots, _) = roots.as_chunks::<32>();
    let sample = |root: &[u8; 32]| {
        let root = Secret::new(*root);
        let link = LinkChain::from_root(&root).step_at(1).expect("near").tag;
        let parcel = BoxChain::from_root(BoxKind::Parcel, &root)
            .step_at(5)
            .expect("near")
            .tag;
        (link, parcel)
    };
    let (links, parcels): (Vec<Tag>, Vec<Tag>) = roots.iter().map(sample).unzip();
    let before = resident();
    let start = Instant::now();
    let store = open(folder, 2);
    let packs = store.totals().expect("readable").accounts;
    println!("{packs} packs opened in {:.1} s", start.elapsed().as_secs_f64());
    println!("{} bytes of memory a pack", resident().saturating_sub(before) / packs);
    timed("a tag of a link", &links, |tag| {
        store.find_tag(tag).expect("readable").is_some()
    });
    timed("a tag of a parcel, and its key", &parcels, |tag| {
        store.find_parcel(tag).expect("readable").is_some()
    });
    let nobodys: Vec<Tag> = (0..SAMPLE as u64).map(|at| Tag(hashed(at))).collect();
    timed("a tag of nobody's", &nobodys, |tag| {
        store.find_parcel(tag).expect("readable").is_none()
    });
    store.close().await;
}

fn timed(what: &str, tags: &[Tag], right: impl Fn(&Tag) -> bool) {
    let mut times: Vec<_> = tags
        .iter()
        .map(|tag| {
            let start = Instant::now();
            assert!(right(tag), "{what}");
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "{what}: median {:?}, 99 of 100 within {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}

fn hashed(at: u64) -> [u8; 16] {
    *keypacks::kdf::hash(&[&at.to_le_bytes()])
        .first_chunk()
        .expect("a digest is longer")
}

fn open(folder: &Path, seed: u64) -> RelayFiles {
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let config = RelayConfig {
        parcels: true,
        ..RelayConfig::default()
    };
    let spawn = |actor| mailbox::commit::on_thread("store", actor).expect("a thread");
    RelayFiles::open(Arc::new(SystemDisk), folder, config, entropy, spawn).expect("opened")
}

fn sample_of(folder: &Path) -> PathBuf {
    folder.with_extension("sample")
}

/// Bytes that the files of a folder take, holes not counted.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("readable").path());
    entries
        .map(|path| match path.is_dir() {
            true => on_disk(&path),
            false => fs::metadata(&path).expect("a file").blocks() * 512,
        })
        .sum()
}

/// Bytes of memory that the process takes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.expect("a figure") * 1_024
}
