//! The store in files under the conformance suite, on a disk that crashes; and what only this implementation promises.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypacks::Secret;
use keypacks::chain::LinkChain;
use proptest::prelude::*;

use super::chains::Chains;
use super::*;
use crate::conformance::{Backend, every_case, stream};
use crate::disk::{MemoryDisk, RESERVE_BYTES, SystemDisk};
use crate::entropy::SeededEntropy;
use crate::relay_store::{Account, BurnOrder, DepositOrder, Effect, IssueOrder, Issued, Outcome, RelayStore, Spooled};
use crate::request::{Answer, COLLECT_MAX, Change, Collected, Operation, Refusal};

mod ahead;
mod backup;
mod devices;
mod erasure;
mod in_slots;
mod opening;
mod overlap;
mod parcels;
mod pool;
mod receipts;
mod restore;
mod roots;

const FOLDER: &str = "/relay";
const DAY: u32 = 20_000;
const NOW: u64 = DAY as u64 * 86_400;

/// A store on a memory disk. Every opening has randomness of its own.
struct Files {
    disk: MemoryDisk,
    config: RelayConfig,
    openings: AtomicU64,
}

impl Files {
    fn new() -> Self {
        let config = RelayConfig {
            bounds: Bounds {
                segment_bytes: 256 << 10,
                recent_bytes: 16 << 10,
                tail_bytes: 1 << 20,
            },
            overlap_from: 2,
            // Nearly all have to be brought.
            chains_kept: 1,
            ..RelayConfig::default()
        };
        Self {
            disk: MemoryDisk::new(),
            config,
            openings: AtomicU64::new(0),
        }
    }

    fn try_open(&self) -> Result<RelayFiles, StoreError> {
        let entropy = Arc::new(SeededEntropy::new(self.openings.fetch_add(1, Ordering::Relaxed) << 32));
        RelayFiles::open(
            Arc::new(self.disk.of_this_boot()),
            Path::new(FOLDER),
            self.config,
            entropy,
            |actor| {
                drop(tokio::spawn(actor));
            },
        )
    }

    /// Puts files back as they were, those whose names begin so; there are none but those afterwards.
    fn restore(&self, backup: &MemoryDisk, names: &[&str]) {
        let is_meant = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            names.iter().any(|meant| name.starts_with(meant))
        };
        for path in self.disk.list(Path::new(FOLDER)).expect("there") {
            if is_meant(&path) {
                self.disk.remove(&path).expect("there");
            }
        }
        for path in backup.list(Path::new(FOLDER)).expect("there") {
            if is_meant(&path) {
                self.disk.restore_file(backup, &path);
            }
        }
    }

    /// Whether these bytes lie anywhere on the disk.
    fn holds(&self, wanted: &[u8]) -> bool {
        self.disk
            .files()
            .iter()
            .any(|(_, bytes)| bytes.windows(wanted.len()).any(|window| window == wanted))
    }

    fn key(&self, name: &str) -> Secret<32> {
        let path = PathBuf::from(FOLDER).join(name);
        let (_, bytes) = self
            .disk
            .files()
            .into_iter()
            .find(|(file, _)| *file == path)
            .expect("a key file");
        Secret::from_slice(&bytes[..32]).expect("32 bytes")
    }

    /// What every copy of a slot opens to: copies A, then copies B of each pair of blocks.
    fn copies(&self) -> Vec<Option<Chains>> {
        let path = PathBuf::from(FOLDER).join("slots");
        let files = self.disk.files();
        let (_, bytes) = files.iter().find(|(file, _)| *file == path).expect("the slots");
        let key = self.key("slots.key");
        let open = |copy| Chains::parse(&crate::vault::open(&key, copy).ok()?[18..178]);
        bytes.chunks(chains::SLOT_BYTES).map(open).collect()
    }

    /// Every chain state that the slot file still opens to, in either copy.
    fn states(&self) -> Vec<Chains> {
        self.copies().into_iter().flatten().collect()
    }

    /// No slot has a copy that lags, and so holds a state that was used.
    fn no_copy_lags(&self) {
        for pair in self.copies().chunks(2 * 4_096 / chains::SLOT_BYTES) {
            let (first, second) = pair.split_at(pair.len() / 2);
            for copies in first.iter().zip(second) {
                // Where one copy alone was written, or both at index 0 by two tries, no account was issued yet.
                if let (Some(a), Some(b)) = copies {
                    assert_eq!((a.link.index(), a.post.index()), (b.link.index(), b.post.index()));
                }
            }
        }
    }
}

impl Backend for Files {
    type Store = RelayFiles;

    /// The power goes once while the store opens, if that takes enough operations: recovery must bear it, too.
    async fn open(&self) -> RelayFiles {
        let n = self.openings.load(Ordering::Relaxed);
        self.disk.power_off_after(n * 7 % 40);
        let first = match self.try_open() {
            Ok(store) if !self.disk.is_off() => {
                self.disk.power_off_after(u64::MAX);
                return store;
            }
            first => first,
        };
        drop(first);
        tokio::task::yield_now().await;
        self.disk.restart(n);
        self.try_open().expect("opens")
    }

    async fn close(&self, store: RelayFiles) {
        store.close().await;
        match self.disk.is_off() {
            true => self.disk.restart(self.openings.load(Ordering::Relaxed)),
            false => self.disk.power_off_after(u64::MAX),
        }
    }

    fn crash_after(&self, n: u64) {
        self.disk.power_off_after(n);
    }

    async fn crash(&self, store: RelayFiles, seed: u64) {
        self.disk.power_off();
        drop(store);
        tokio::task::yield_now().await;
        self.disk.restart(seed);
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(test)
}

async fn issue(store: &RelayFiles) -> Issued {
    let order = IssueOrder {
        link_keys: 64,
        credit: 1_000_000,
        operator: false,
        day: DAY,
        rotation: Default::default(),
    };
    store.issue(order).await.expect("issued")
}

/// Any operation: the store executes the effect.
fn alias_operation() -> Operation {
    Operation::AliasOpen { local: String::new() }
}

/// A change of this number; all before it are acknowledged.
fn change(seq: u64) -> Change {
    Change {
        seq,
        id: [1; 16],
        blind: [2; 16],
        acknowledged: seq - 1,
        operation: alias_operation(),
    }
}

/// A message that is due at once.
fn spooled(recipients: Vec<String>, message: &[u8]) -> Spooled {
    Spooled {
        reverse_path: "sender-canary@relay.test".to_owned(),
        recipients,
        message: message.to_vec(),
        price: 10,
        onward: 0,
        hops: 0,
        mix: None,
        wishes: Vec::new(),
    }
}

async fn submit(store: &RelayFiles, account: Account, seq: u64, message: &[u8]) -> Result<Answer, StoreError> {
    let change = change(seq);
    let spooled = spooled(vec!["recipient-canary@example.org".to_owned()], message);
    let digest = change.digest();
    store
        .execute(
            (account, store.standing(account).root),
            change,
            digest,
            Effect::Spool(spooled),
            DAY,
            NOW,
        )
        .await
}

fn burn(account: Account, index: u64) -> BurnOrder {
    BurnOrder {
        account,
        root: 0,
        index,
        token: [0; 16],
        fresh: [0; 16],
        answered: 0,
        day: DAY,
    }
}

#[test]
fn the_conformance_cases_hold() {
    run(every_case(Files::new));
}

#[test]
fn the_conformance_cases_hold_on_the_real_disk() {
    struct Real(tempfile::TempDir);
    impl Backend for Real {
        type Store = RelayFiles;
        async fn open(&self) -> RelayFiles {
            let config = RelayConfig {
                bounds: Bounds {
                    segment_bytes: 1 << 20,
                    // Small, and yet no commit waits for a checkpoint that a busy disk takes long for.
                    recent_bytes: 64 << 10,
                    tail_bytes: 1 << 20,
                },
                chains_kept: 1,
                ..RelayConfig::default()
            };
            let entropy = Arc::new(SeededEntropy::new(1));
            let spawn = |actor| crate::commit::on_thread("store", actor).expect("a thread");
            RelayFiles::open(Arc::new(SystemDisk), self.0.path(), config, entropy, spawn).expect("opens")
        }
        async fn close(&self, store: RelayFiles) {
            store.close().await;
        }
        fn crash_after(&self, _: u64) {}
        async fn crash(&self, store: RelayFiles, _: u64) {
            store.close().await;
        }
    }
    run(every_case(|| Real(tempfile::tempdir().expect("a temporary folder"))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_with_crashes_agree_with_the_model(seed: u64) {
        let files = Files::new();
        run(stream(&files, seed, 60, Files::no_copy_lags));
    }
}

#[test]
fn a_second_process_is_refused() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        assert_eq!(files.try_open().err(), Some(StoreError::Locked));
        store.close().await;
        files.open().await;
    });
}

#[test]
fn freed_bodies_make_room_for_new_ones() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        let mut bytes = 0;
        for seq in 1..=200 {
            submit(&store, account, seq, &[b'x'; 30_000]).await.expect("executed");
            let id = store.due(NOW, 1).expect("readable")[0];
            store.finish(id, Outcome::Delivered).await.expect("recorded");
            bytes = bytes.max(store.shared.base.log.bytes());
        }
        assert!(
            bytes < 3 << 20,
            "{bytes} bytes for 6,000,000 written, none of them kept"
        );
        store.close().await;
    });
}

#[test]
fn what_was_changed_on_the_disk_is_found_and_nothing_else() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        for seq in 1..=20 {
            submit(&store, account, seq, &[b'x'; 9_000]).await.expect("executed");
        }
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        let verify = async || {
            let mut verified = store.verify().expect("readable");
            store.verify_slots(&mut verified).await.expect("readable");
            verified
        };
        let verified = verify().await;
        assert_eq!(verified.audit.findings, Vec::<String>::new());
        assert_eq!((verified.bodies, verified.slots), (20, 1));
        assert!(verified.records > 20 && verified.bytes > 20 * 9_000 && verified.rows > 60);
        for (name, words) in [("slots", "slots"), ("segment-000001", "log")] {
            let path = Path::new(FOLDER).join(name);
            let file = files.disk.open(&path, false).expect("there");
            let mut kept = vec![0; 8_192];
            file.read_at(0, &mut kept).expect("as long");
            // Both copies of a slot, and a record of the log.
            file.write_at(40, &[0x55; 100]).expect("written");
            file.write_at(4_096 + 40, &[0x55; 100]).expect("written");
            let found = verify().await.audit.findings;
            assert!(found.len() == 1 && found[0].contains(words), "{name}: {found:?}");
            file.write_at(0, &kept).expect("written");
        }
        assert_eq!(verify().await.audit.findings, Vec::<String>::new());
        store.close().await;
    });
}

#[test]
fn a_full_disk_or_spool_or_mailbox_is_an_answer() {
    run(async {
        let mut files = Files::new();
        (files.config.spool_max, files.config.deposits_max) = (1, 0);
        let store = files.open().await;
        let account = issue(&store).await.account;
        files.disk.set_free_bytes(Some(RESERVE_BYTES));
        assert_eq!(submit(&store, account, 1, b"x").await.err(), Some(StoreError::Full));
        files.disk.set_free_bytes(None);
        assert!(matches!(
            submit(&store, account, 1, b"x").await,
            Ok(Answer::Done { .. })
        ));
        let busy = Answer::Refused {
            seq: 2,
            refusal: Refusal::Busy,
        };
        assert!(submit(&store, account, 2, b"x").await == Ok(busy));
        assert_eq!(store.deposit(mail_for(account, 0)).await, Err(StoreError::Busy));
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}

/// A short message for one alias.
fn mail_for(account: Account, alias: u32) -> DepositOrder {
    let dek = keypacks::deposit::Dek::new(Secret::new([1; 32]));
    let mut sealer = keypacks::deposit::BodySealer::new(dek, [0; 16]);
    sealer.push(b"x").expect("short");
    let sealed = sealer.finish();
    DepositOrder {
        recipients: vec![(account, alias)],
        body: sealed.body,
        dek: sealed.dek,
        length: sealed.length,
        kilobytes: sealed.kilobytes,
        day: DAY,
    }
}

#[test]
fn a_full_alias_says_nothing_of_its_siblings() {
    run(async {
        let mut files = Files::new();
        files.config.deposits_max = 2;
        let store = files.open().await;
        let account = issue(&store).await.account;
        for _ in 0..2 {
            assert_eq!(store.deposit(mail_for(account, 0)).await, Ok(()));
        }
        assert_eq!(store.deposit(mail_for(account, 0)).await, Err(StoreError::Busy));
        assert_eq!(store.deposit(mail_for(account, 1)).await, Ok(()));
        let (collected, ..) = store.collect(account, 0, 64).expect("readable");
        let [Collected::Wrap { index, wrap }, ..] = &collected[..] else {
            panic!("three wraps wait")
        };
        let digest = keypacks::deposit::wrap_digest(wrap);
        assert_eq!(store.confirm(account, vec![(*index, digest)]).await, Ok(1));
        assert_eq!(store.deposit(mail_for(account, 0)).await, Ok(()), "there is room again");
        assert_eq!(store.deposit(mail_for(account, 0)).await, Err(StoreError::Busy));
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}

#[test]
fn a_single_failure_of_the_disk_is_survived_in_process() {
    for nth in 0..24 {
        run(async {
            let files = Files::new();
            let store = files.open().await;
            let account = issue(&store).await.account;
            files.disk.fail_nth(nth);
            let first = submit(&store, account, 1, b"first").await;
            let again = submit(&store, account, 1, b"first").await;
            assert!(
                matches!(again, Ok(Answer::Done { debited: 10, .. })),
                "failure {nth}: {:?}",
                again.err()
            );
            assert!(first.is_err() || first == again);
            assert_eq!(store.totals().expect("readable").queued, 1);
            assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
            store.close().await;
        });
    }
}

#[test]
fn many_callers_share_commits_and_each_is_answered() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        let before = store.shared.base.index.commit_number();
        let calls: Vec<_> = (1..=20)
            .map(|seq| {
                let store = store.clone();
                tokio::spawn(async move { submit(&store, account, seq, b"x").await })
            })
            .collect();
        for call in calls {
            assert!(matches!(call.await.expect("no panic"), Ok(Answer::Done { .. })));
        }
        assert_eq!(store.totals().expect("readable").queued, 20);
        assert!(store.shared.base.index.commit_number() - before <= 3);
        store.close().await;
    });
}
