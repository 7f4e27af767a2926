//! What the relay's store costs, one operation at a time: `cargo bench -p mailbox`.
//!
//! Commits are on the disk of the working folder, each with a sync of its own; what commits cost that share one, the
//! example `accept` measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use divan::Bencher;
use keypacks::chain::LinkChain;
use keypacks::deposit::{BodySealer, Dek};
use keypacks::{Secret, Tag};
use mailbox::disk::SystemDisk;
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, DepositOrder, Effect, IssueOrder, RelayStore, Spooled};
use mailbox::request::{self, Change, Operation, Request};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

const DAY: u32 = 20_000;
const MESSAGE_BYTES: usize = 4_096;

/// A store of so many packs in a folder of its own, and the first tag of each.
struct Store {
    runtime: Runtime,
    store: RelayFiles,
    tags: Vec<Tag>,
    _folder: tempfile::TempDir,
}

impl Store {
    fn of(packs: u64) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir_in(".").expect("a folder that can be written to");
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let config = RelayConfig {
            deposits_max: u64::MAX,
            spool_max: usize::MAX,
            ..RelayConfig::default()
        };
        let spawn = |actor| mailbox::commit::on_thread("store", actor).expect("a thread");
        let store = RelayFiles::open(Arc::new(SystemDisk), folder.path(), config, entropy, spawn).expect("opened");
        let order = || IssueOrder {
            link_keys: 16,
            credit: u64::MAX >> 16,
            operator: false,
            day: DAY,
            rotation: Default::default(),
        };
        let issue = async |_| {
            let root = store.issue(order()).await.expect("issued").root;
            LinkChain::from_root(&root).step_at(0).expect("the first").tag
        };
        let mut tags = Vec::new();
        for pack in 0..packs {
            tags.push(runtime.block_on(issue(pack)));
        }
        Self {
            runtime,
            store,
            tags,
            _folder: folder,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.clone().close());
    }
}

#[divan::bench(args = [1, 1_000])]
fn tag_lookup(bencher: Bencher<'_, '_>, packs: u64) {
    let store = Store::of(packs);
    let mut at = 0;
    bencher.bench_local(|| {
        at += 1;
        store
            .store
            .find_tag(&store.tags[at % store.tags.len()])
            .expect("readable")
            .expect("live")
            .floor
    });
}

/// A deposit of 4 KiB for one account, durable.
#[divan::bench]
fn commit_of_a_deposit(bencher: Bencher<'_, '_>) {
    let store = Store::of(1);
    let order = || {
        let mut sealer = BodySealer::new(Dek::new(Secret::new([5; 32])), [6; 16]);
        sealer.push(&[b'x'; MESSAGE_BYTES]).expect("short");
        let sealed = sealer.finish();
        DepositOrder {
            recipients: vec![(Account(0), 0)],
            body: sealed.body,
            dek: sealed.dek,
            length: sealed.length,
            kilobytes: sealed.kilobytes,
            day: DAY,
        }
    };
    bencher
        .with_inputs(order)
        .bench_local_values(|order| store.runtime.block_on(store.store.deposit(order)).expect("stored"));
}

/// A submission of 4 KiB: sealed, debited, in the spool, its answer kept, durable.
#[divan::bench]
fn commit_of_a_submission(bencher: Bencher<'_, '_>) {
    let store = Store::of(1);
    let seq = AtomicU64::new(0);
    let submission = || {
        let seq = seq.fetch_add(1, Ordering::Relaxed) + 1;
        let change = Change {
            seq,
            id: [1; 16],
            blind: [2; 16],
            acknowledged: seq - 1,
            operation: Operation::AliasOpen { local: String::new() },
        };
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
        (change.digest(), change, spooled)
    };
    bencher
        .with_inputs(submission)
        .bench_local_values(|(digest, change, spooled)| {
            let executed = store
                .store
                .execute((Account(0), 0), change, digest, Effect::Spool(spooled), DAY, 0);
            store.runtime.block_on(executed).expect("executed")
        });
}

/// The typed request of a submission, from its bytes.
#[divan::bench]
fn parse_of_a_request(bencher: Bencher<'_, '_>) {
    let request = Request::Change(Change {
        seq: 1,
        id: [1; 16],
        blind: [2; 16],
        acknowledged: 0,
        operation: Operation::AliasOpen {
            local: "heron".to_owned(),
        },
    });
    let bytes = request::encode(&request);
    bencher.bench_local(|| request::decode::<Request>(&bytes).is_ok());
}
