//! What a large folder costs its holder: `cargo run --release -p mailbox --example folder -- MESSAGES BYTES`.
//!
//! Fills INBOX with MESSAGES messages of BYTES bytes each, changes one flag and all of them, copies and moves the folder, then
//! closes the store and opens it again. Tells times, and the memory of the process.

use std::path::Path;
use std::sync::Arc;

use keypacks::Secret;
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use mailbox::HolderStore;
use mailbox::disk::{Disk, SystemDisk};
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{FlagChange, Flags, FolderId, SpecialUse, StoreFlags};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Appends that wait at a time.
const TOGETHER: usize = 256;
/// Memory of messages that wait at a time, in bytes.
const WAITING_BYTES: usize = 16 << 20;
const SUMMARY_BYTES: usize = 600;
const PASSPHRASE: &[u8] = b"passphrase";

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| -> usize {
        let text = arguments.next().unwrap_or_else(|| panic!("{what} is missing"));
        text.parse().unwrap_or_else(|_| panic!("{what} is no number"))
    };
    let (messages, bytes) = (number("MESSAGES"), number("BYTES"));
    let temporary = tempfile::tempdir_in(".").expect("a folder that can be written to");
    let folder = temporary.path().join("store");
    let (disk, entropy): (Arc<dyn Disk>, Arc<dyn Entropy>) = (Arc::new(SystemDisk), Arc::new(SeededEntropy::new(1)));
    let options = HolderOptions {
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    };
    HolderFiles::create(&disk, &folder, &issue(), PASSPHRASE, &options, &entropy).expect("made");
    let store = open(&disk, &folder, &options, 2);
    let began = Instant::now();
    fill(&store, messages, bytes).await;
    told("stored", began);
    for times in ["one flag", "again"] {
        let began = Instant::now();
        flag(&store, vec![store.inbox().entries[messages / 2].uid], times == "again").await;
        told(times, began);
    }
    let all: Vec<u32> = store.inbox().entries.iter().map(|entry| entry.uid).collect();
    let began = Instant::now();
    flag(&store, all.clone(), true).await;
    told("all flags", began);
    let archive = special(&store, SpecialUse::Archive);
    let began = Instant::now();
    let copied = store.copy(FolderId::INBOX, all, archive).await.expect("copied");
    told("copied", began);
    let began = Instant::now();
    let copies = copied.iter().map(|(_, copy)| *copy).collect();
    let moved = store.move_to(archive, copies, special(&store, SpecialUse::Trash)).await;
    told("moved", began);
    let began = Instant::now();
    let trash = special(&store, SpecialUse::Trash);
    let copies = moved.expect("moved").iter().map(|(_, copy)| *copy).collect();
    store.expunge(trash, copies).await.expect("removed");
    told("removed", began);
    store.stop().await;
    drop(store);
    let began = Instant::now();
    let store = open(&disk, &folder, &options, 3);
    told("opened", began);
    let began = Instant::now();
    let uids: Vec<u32> = store.inbox().entries.iter().map(|entry| entry.uid).collect();
    for uids in uids.chunks(TOGETHER) {
        let found = store.summaries(FolderId::INBOX, uids).expect("readable");
        assert!(found.iter().all(Option::is_some), "each has a summary");
    }
    told("summaries", began);
    store.stop().await;
}

fn open(disk: &Arc<dyn Disk>, folder: &Path, options: &HolderOptions, seed: u64) -> HolderFiles {
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let (store, actor) = HolderFiles::open(disk, folder, PASSPHRASE, options, &entropy).expect("opens");
    mailbox::commit::on_thread("store", actor).expect("a thread");
    store
}

async fn fill(store: &HolderFiles, messages: usize, bytes: usize) {
    let together = TOGETHER.min(WAITING_BYTES / bytes.max(1)).max(1);
    let mut left = messages;
    while left > 0 {
        let mut waiting = JoinSet::new();
        for number in 0..together.min(left) {
            let store = store.clone();
            let text = format!("Message-ID: <{left}.{number}@x>\r\n\r\n").into_bytes();
            waiting.spawn(async move {
                let mut message = text;
                message.resize(bytes.max(message.len()), b'x');
                let summary = vec![b's'; SUMMARY_BYTES];
                store
                    .append(FolderId::INBOX, message, summary, Flags::default(), 7)
                    .await
            });
        }
        left -= waiting.len();
        while let Some(appended) = waiting.join_next().await {
            appended.expect("no panic").expect("room");
        }
    }
}

async fn flag(store: &HolderFiles, uids: Vec<u32>, seen: bool) {
    let change = if seen {
        FlagChange::Add(Flags::SEEN)
    } else {
        FlagChange::Add(Flags::FLAGGED)
    };
    let order = StoreFlags {
        uids,
        change,
        unchanged_since: None,
    };
    store
        .change_flags(FolderId::INBOX, order)
        .await
        .expect("INBOX is there");
}

fn special(store: &HolderFiles, special_use: SpecialUse) -> FolderId {
    let folders = store.folders();
    let folder = folders
        .all
        .iter()
        .find(|folder| folder.special_use == Some(special_use));
    folder.expect("a new store has it").id
}

fn told(what: &str, began: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim().to_owned()
    };
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{what:10} {seconds:8.3} s, memory {}, at most {}",
        memory("VmRSS:"),
        memory("VmHWM:")
    );
}

fn issue() -> Issue {
    Issue {
        identifier: Identifier([1; 16]),
        relay_public: [9; 32],
        link_keys: 64,
        root: Secret::new([5; 32]),
        day: 20_000,
        relay_address: "relay.test:7025".to_owned(),
        relay_domain: "relay.test".to_owned(),
        aliases: vec!["first@relay.test".to_owned()],
        rotation: Default::default(),
        pad: None,
    }
}
