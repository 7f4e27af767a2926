//! A database put back from a backup: what was used since stays used, and everything else goes on.

use keypacks::deposit::wrap_digest;
use keypacks::pack::Identifier;

use super::*;
use crate::request::Collected;

const BACKUP: &str = "/backup";
/// What the power takes shows with whatever it left: a few ways for each point.
const SEEDS: u64 = 2;

struct Before {
    early: Issued,
    idle: Issued,
}

/// Accounts, a backup of them, and what happened since.
async fn since_a_backup(files: &Files) -> Before {
    let store = files.open().await;
    store.set_prices(10, 0, 7, 0, 0).await.expect("set");
    let (early, idle) = (issue(&store).await, issue(&store).await);
    let account = early.account;
    assert!(store.burn(burn(account, 0)).await.expect("readable").is_some());
    for seq in 1..=2 {
        submit(&store, account, seq, b"x").await.expect("executed");
    }
    store.deposit(mail_for(account, 0)).await.expect("stored");
    store.backup(Path::new(BACKUP)).expect("room");
    // Of the backup's two deliveries one ends.
    let due = store.due(NOW, 10).expect("readable");
    store.finish(due[0], Outcome::Delivered).await.expect("recorded");
    for index in 1..=2 {
        assert!(store.burn(burn(account, index)).await.expect("readable").is_some());
    }
    submit(&store, account, 3, b"y").await.expect("executed");
    for _ in 0..2 {
        store.deposit(mail_for(account, 0)).await.expect("stored");
    }
    issue(&store).await;
    store.close().await;
    Before { early, idle }
}

fn lose_the_database(files: &Files) {
    for path in files.disk.list(Path::new(FOLDER)).expect("there") {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("segment-") || name == "index.redb" {
            files.disk.remove(&path).expect("there");
        }
    }
}

fn prepare(files: &Files, seed: u64) -> Result<Restore, StoreError> {
    let entropy = Arc::new(SeededEntropy::new(seed));
    Restore::prepare(
        Arc::new(files.disk.of_this_boot()),
        Path::new(FOLDER),
        Path::new(BACKUP),
        entropy,
        DAY,
    )
}

fn link(store: &RelayFiles, pack: &Issued, index: u64) -> Option<u64> {
    let chain = LinkChain::from_root(&pack.root);
    let hit = store
        .find_tag(&chain.step_at(index).expect("near").tag)
        .expect("readable")?;
    Some(hit.floor)
}

async fn is_brought_up(store: &RelayFiles, before: &Before) {
    let Before { early, idle } = before;
    assert_eq!(store.frozen(), 0);
    assert_eq!(
        [2, 3, 6].map(|index| link(store, early, index)),
        [None, Some(3), Some(3)]
    );
    assert_eq!(link(store, idle, 0), Some(0));
    let queued: Vec<_> = store.due(NOW, 10).expect("readable");
    assert_eq!(queued.len(), 1, "the other was delivered");
    assert!(store.delivery(queued[0]).expect("opens").is_some());

    let burned = store
        .burn(BurnOrder {
            answered: 2,
            token: [5; 16],
            ..burn(early.account, 3)
        })
        .await
        .expect("readable")
        .expect("live");
    assert_eq!(burned.highest, 2 + (1 << 20));
    assert!(!burned.token_mismatch && !burned.rolled_back && burned.generation >= NOW);
    let answer = submit(store, early.account, 3, b"y").await.expect("answered");
    assert!(
        matches!(
            answer,
            Answer::Refused {
                seq: 3,
                refusal: Refusal::Stale
            }
        ),
        "it was carried out before the restore"
    );
    let kept = submit(store, early.account, 2, b"x").await.expect("answered");
    assert!(matches!(kept, Answer::Done { seq: 2, .. }), "the copy has its answer");
    let next = submit(store, early.account, burned.highest + 1, b"z").await;
    assert!(matches!(next, Ok(Answer::Done { .. })));

    store.deposit(mail_for(early.account, 0)).await.expect("stored");
    let (entries, next, _) = store.collect(early.account, 0, 64).expect("readable");
    assert_eq!(next, 4);
    let kinds: Vec<_> = entries
        .iter()
        .map(|entry| match entry {
            Collected::Wrap { index, .. } => (*index, true),
            Collected::Expired { index } => (*index, false),
        })
        .collect();
    assert_eq!(kinds, [(0, true), (1, false), (2, false), (3, true)]);
    let Collected::Wrap { index, wrap } = &entries[0] else {
        panic!("looked at before");
    };
    let confirmed = store.confirm(early.account, vec![(*index, wrap_digest(wrap))]).await;
    assert_eq!(confirmed, Ok(1), "one that was confirmed before is confirmed again");

    let again = store.burn(BurnOrder {
        answered: burned.highest + 1,
        token: burned.token,
        ..burn(early.account, 4)
    });
    let again = again.await.expect("readable").expect("live");
    assert!(!again.token_mismatch && !again.rolled_back);
    assert_eq!(
        again.highest,
        burned.highest + 1,
        "only the first link passes numbers over"
    );
    let mut verified = store.verify().expect("readable");
    store.verify_slots(&mut verified).await.expect("readable");
    assert_eq!(verified.audit.findings, Vec::<String>::new());
}

#[test]
fn a_restored_database_goes_on_where_the_keys_are() {
    run(async {
        let files = Files::new();
        let before = since_a_backup(&files).await;
        lose_the_database(&files);
        let restore = prepare(&files, 1).expect("whole");
        let told = Restored {
            accounts: 2,
            frozen: 0,
            unknown_packs: 1,
            keys_unpaid: 2,
            keys_value: 14,
            deposits: 2,
            deliveries: 1,
            deliveries_closed: 1,
            roots: 0,
            parcels: 0,
            unsettled: true,
        };
        assert_eq!(*restore.told(), told);
        assert!(matches!(files.try_open(), Err(StoreError::Locked)));
        restore.carry_out(NOW).expect("moved");
        let store = files.open().await;
        is_brought_up(&store, &before).await;
        store.close().await;
        assert_eq!(files.open().await.frozen(), 0);
    });
}

/// Whoever looks and says no has changed nothing.
#[test]
fn a_restore_that_is_not_carried_out_changes_nothing() {
    run(async {
        let files = Files::new();
        let before = since_a_backup(&files).await;
        drop(prepare(&files, 1).expect("whole"));
        let store = files.open().await;
        assert_eq!((store.frozen(), store.totals().expect("readable").accounts), (0, 3));
        let burned = store.burn(burn(before.early.account, 3)).await.expect("readable");
        let burned = burned.expect("live");
        assert_eq!((burned.highest, burned.generation), (3, 0));
        store.close().await;
    });
}

#[test]
fn a_copy_of_another_relay_or_an_incomplete_one_is_refused() {
    run(async {
        let (files, other) = (Files::new(), Files::new());
        other.openings.store(77, Ordering::Relaxed);
        since_a_backup(&files).await;
        since_a_backup(&other).await;
        for path in files.disk.list(Path::new(BACKUP)).expect("there") {
            files.disk.remove(&path).expect("there");
        }
        assert_eq!(prepare(&files, 1).err(), Some(StoreError::Invalid));
        for path in other.disk.list(Path::new(BACKUP)).expect("there") {
            files.disk.restore_file(&other.disk, &path);
        }
        assert_eq!(prepare(&files, 1).err(), Some(StoreError::Corrupt));
        assert_eq!(files.open().await.totals().expect("readable").accounts, 3);
    });
}

/// Before the copy is whole the old database goes on; after it, the relay does not start until the restore is finished.
#[test]
fn whenever_the_power_goes_a_restore_is_done_again_or_finished() {
    run(async {
        let mut finished = [0_u32; 3];
        for seed in 0..SEEDS {
            let mut point = 0;
            loop {
                let files = Files::new();
                let before = since_a_backup(&files).await;
                files.disk.power_off_after(point);
                let done = prepare(&files, seed).and_then(|restore| restore.carry_out(NOW));
                let is_through = !files.disk.is_off();
                files.disk.restart(seed);
                match files.try_open().err() {
                    None if done.is_err() || !is_through => {
                        // The old database, or the new one: the last removals were cut.
                        let store = files.open_when_free().await;
                        let accounts = store.totals().expect("readable").accounts;
                        store.close().await;
                        if accounts == 3 {
                            finished[0] += 1;
                            let replaced = files.disk.list(Path::new("/relay/replaced")).expect("listed");
                            assert!(replaced.is_empty(), "point {point}: the old one is still in its place");
                            prepare(&files, seed + 100)
                                .expect("again")
                                .carry_out(NOW)
                                .expect("moved");
                        }
                    }
                    None => {}
                    Some(StoreError::HalfRestored) => {
                        finished[1] += 1;
                        assert_eq!(prepare(&files, seed).err(), Some(StoreError::HalfRestored));
                        assert_eq!(Restore::finish(&files.disk, Path::new(FOLDER)), Ok(true));
                        assert_eq!(Restore::finish(&files.disk, Path::new(FOLDER)), Ok(false));
                    }
                    Some(error) => panic!("point {point}: {error}"),
                }
                let store = files.open_when_free().await;
                is_brought_up(&store, &before).await;
                store.close().await;
                if is_through {
                    done.expect("nothing was cut");
                    finished[2] += 1;
                    break;
                }
                point += 1 + point / 16;
            }
        }
        assert!(finished.iter().all(|count| *count > 0), "{finished:?}");
    });
}

impl Files {
    /// Opens once the store that was only tried has gone.
    async fn open_when_free(&self) -> RelayFiles {
        loop {
            match self.try_open() {
                Err(StoreError::Locked) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                opened => return opened.expect("opens"),
            }
        }
    }
}

/// Its database knows the last keys as used, its slots do not.
#[test]
fn beside_a_relay_that_was_killed_no_key_comes_twice() {
    run(async {
        let files = Files::new();
        let before = since_a_backup(&files).await;
        let store = files.open().await;
        for index in [3, 4] {
            let burned = store.burn(burn(before.early.account, index)).await.expect("readable");
            assert!(burned.is_some());
        }
        files.crash(store, 1).await;
        let restore = prepare(&files, 1).expect("whole");
        assert_eq!((restore.told().keys_unpaid, restore.told().unsettled), (4, false));
        restore.carry_out(NOW).expect("moved");
        let store = files.open_when_free().await;
        assert_eq!(
            [3, 4, 5].map(|index| link(&store, &before.early, index)),
            [None, None, Some(5)]
        );
        store.close().await;
    });
}

/// Files that were copied from a relay that was killed hold commits in their log alone.
#[test]
fn a_copy_that_no_backup_made_is_restored_with_its_last_commits() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        submit(&store, account, 1, b"x").await.expect("executed");
        files.crash(store, 1).await;
        let disk = &files.disk;
        disk.create_dir_all(Path::new(BACKUP)).expect("made");
        for path in disk.list(Path::new(FOLDER)).expect("there") {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("segment-") || name == "index.redb" {
                let to = Path::new(BACKUP).join(name);
                crate::relay::restore::copy(disk, &path, &to).expect("copied");
            }
        }
        // The slots go on.
        let store = files.open().await;
        assert!(store.burn(burn(account, 0)).await.expect("readable").is_some());
        store.close().await;
        let restore = prepare(&files, 1).expect("whole");
        assert_eq!((restore.told().accounts, restore.told().keys_unpaid), (1, 1));
        restore.carry_out(NOW).expect("moved");
        let store = files.open_when_free().await;
        let kept = submit(&store, account, 1, b"x").await.expect("answered");
        assert!(matches!(kept, Answer::Done { seq: 1, .. }));
        store.close().await;
    });
}

async fn ask(store: &RelayFiles, account: Account, seq: u64, effect: Effect) -> Answer {
    let change = Change {
        seq,
        id: [1; 16],
        blind: [2; 16],
        acknowledged: 0,
        operation: Operation::AliasOpen { local: String::new() },
    };
    let digest = change.digest();
    let asked = store.execute((account, 0), change, digest, effect, DAY, NOW);
    asked.await.expect("executed")
}

#[test]
fn a_device_that_was_dropped_does_not_come_back_with_a_restore() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let first = issue(&store).await;
        let (identifier, root) = (Identifier([3; 16]), Secret::new([4; 32]));
        let join = Effect::Device {
            identifier,
            root: root.duplicate(),
            keys: 16,
        };
        assert!(matches!(
            ask(&store, first.account, 1, join).await,
            Answer::Moved { keys: 16, .. }
        ));
        store.backup(Path::new(BACKUP)).expect("room");
        let live = |store: &RelayFiles, index| {
            let step = LinkChain::from_root(&root).step_at(index).expect("near");
            store.find_tag(&step.tag).expect("readable").is_some()
        };
        assert!(live(&store, 0));
        let drop = Effect::Drop { device: 2 };
        assert!(matches!(
            ask(&store, first.account, 2, drop).await,
            Answer::Moved { keys: 16, .. }
        ));
        assert!((0..16).all(|index| !live(&store, index)));
        store.close().await;
        // With the database as it is, and with the one from before.
        let store = files.open().await;
        assert!((0..16).all(|index| !live(&store, index)));
        store.close().await;
        prepare(&files, 1).expect("brought up").carry_out(NOW).expect("room");
        let store = files.open().await;
        assert_eq!(store.frozen(), 0);
        assert!((0..16).all(|index| !live(&store, index)), "its chains are nobody's");
        assert!(link(&store, &first, 0).is_some());
        // It is listed again, and dropped once more.
        let listed = store.devices(first.account).expect("readable");
        assert!(matches!(listed, Answer::Devices { devices, .. } if devices.len() == 2));
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}
