//! Statements about a holder's store, each on a disk in memory unless it says otherwise.

mod durability;
mod folders;
mod inbox;
mod init;
mod inspect;
mod keys;
mod life;
mod mail;
mod model;
mod moving;
mod outbox;
mod parcels;
mod procure;
mod texts;
mod threads;

use std::path::Path;
use std::sync::Arc;

use keypacks::Secret;
use keypacks::chain::BoxStep;
use keypacks::deposit::Dek;
use keypacks::pack::{Identifier, Issue, PassphraseCost};
use tokio::task::JoinHandle;

use super::create::Keys;
use super::{HolderFiles, HolderOptions, header, stage};
use crate::disk::{Disk, MemoryDisk};
use crate::entropy::{Entropy, SeededEntropy};
use crate::holder_store::{
    FlagChange, Flags, FolderId, HolderStore, OpenedDeposit, OutboxOrder, PendingDeposit, STORED_MAX, SentNames,
    SentReports, StoreFlags, Told,
};
use crate::{StoreError, vault};

const PASSPHRASE: &[u8] = b"correct horse";
const FOLDER: &str = "/holder";

/// Of a relay that was never restored, on a link that shows nothing else.
fn told(highest: u64) -> Told {
    Told {
        highest,
        generation: 0,
        is_behind: false,
    }
}

fn root() -> Secret<32> {
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
        rotation: Default::default(),
        pad: None,
    }
}

fn options() -> HolderOptions {
    HolderOptions {
        bounds: crate::Bounds {
            segment_bytes: 1 << 20,
            recent_bytes: 16 << 10,
            tail_bytes: 1 << 20,
        },
        passphrase_cost: PassphraseCost::LEAST,
        ..HolderOptions::default()
    }
}

fn entropy(seed: u64) -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(seed))
}

fn shared(disk: &MemoryDisk) -> Arc<dyn Disk> {
    Arc::new(disk.of_this_boot())
}

/// An open store and its actor.
struct Running {
    store: HolderFiles,
    actor: JoinHandle<()>,
}

impl Running {
    fn open(disk: &MemoryDisk, seed: u64) -> Result<Self, StoreError> {
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
    async fn stop(self) {
        self.store.stop().await;
        self.abandon().await;
    }

    /// Lets go of a store whose disk is gone.
    async fn abandon(self) {
        drop(self.store);
        self.actor.await.expect("the actor does not panic");
    }
}

fn made(seed: u64) -> MemoryDisk {
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

fn order(label: &str, price: u64) -> OutboxOrder {
    let body = vec![label.as_bytes()[0]; 1_000];
    OutboxOrder {
        body,
        kilobytes: 1,
        length: 900,
        recipients: 1,
        prices: 1,
        price,
        label: label.to_owned(),
        sent: sent(label),
        reports: SentReports::default(),
        now: 1_000,
    }
}

/// The names of a message that its mail program named after its label.
fn sent(label: &str) -> SentNames {
    SentNames {
        alias: "first@relay.test".to_owned(),
        own: Some(format!("{label}@laptop")),
        outside: format!("{label}@relay.test"),
    }
}

fn deposit(step: &BoxStep) -> PendingDeposit {
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

fn opened(index: u64, message: Vec<u8>, now: u64) -> OpenedDeposit {
    OpenedDeposit {
        index,
        summary: summary_of(&message),
        message,
        now,
    }
}

/// Stands for what a bridge makes of a message: the store does not look into it.
fn summary_of(message: &[u8]) -> Vec<u8> {
    [b"summary of ", message].concat()
}

/// A STORE without conditions.
fn flagging(uids: Vec<u32>, change: FlagChange) -> StoreFlags {
    StoreFlags {
        uids,
        change,
        unchanged_since: None,
    }
}

/// Runs a test on one thread.
fn block_on<T>(test: impl Future<Output = T>) -> T {
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
fn slot_copies(disk: &MemoryDisk) -> Vec<(u64, u64)> {
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
        let chains = stage::decode_chains(&plain[18..138]).expect("three chains");
        (chains.link.index(), chains.post.index())
    });
    copies.to_vec()
}
