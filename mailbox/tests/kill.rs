//! The process dies by SIGKILL at every named write and sync, on the real disk.
//!
//! A child runs one script of operations and reports each that was answered; it kills itself at the point it is given.
//! Whatever was reported must be there when the store is opened again, the audit must be clean, and the script, run again
//! from where it stopped, must come to the same end as one that nothing interrupted.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use keypacks::Secret;
use keypacks::deposit::{BodySealer, Dek};
use mailbox::commit::{SETTLE_MS_MAX, on_thread};
use mailbox::disk::{Disk, KillDisk, SystemDisk};
use mailbox::entropy::{Entropy, SeededEntropy};
use mailbox::relay::{RelayConfig, RelayFiles};
use mailbox::relay_store::{Account, BurnOrder, DepositOrder, Effect, IssueOrder, Outcome, RelayStore, Spooled};
use mailbox::request::{Answer, Change, Operation};

const FOLDER: &str = "POSTERN_TEST_FOLDER";
const POINT: &str = "POSTERN_TEST_KILL";
const DAY: u32 = 20_000;
const NOW: u64 = DAY as u64 * 86_400;
/// The last one, upkeep, may be done again.
const STEPS: u64 = 8;
const WORKERS: usize = 8;
const ACCOUNT: Account = Account(0);

#[test]
fn wherever_the_process_is_killed_the_next_one_goes_on() {
    let mut points = Vec::new();
    for file in ["segment", "index", "slots", "slab", "epochs", "store"] {
        for (operation, sides) in [
            ("write", &["before", "torn", "after"][..]),
            ("sync", &["before", "after"]),
        ] {
            for (count, side) in [1, 2, 6]
                .iter()
                .flat_map(|count| sides.iter().map(move |side| (count, side)))
            {
                points.push(format!("{file}.{operation}:{count}:{side}"));
            }
        }
    }
    // Most of a run is waiting: for the disk, and for what is erased after a while.
    let killed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for share in points.chunks(points.len().div_ceil(WORKERS)) {
            let killed = &killed;
            scope.spawn(move || killed.fetch_add(share.iter().filter(|point| one_kill(point)).count(), Relaxed));
        }
    });
    let killed = killed.into_inner();
    assert!(killed > 60, "only {killed} of {} points were reached", points.len());
}

/// Runs the script with a kill point, then without. Returns whether the point was reached.
fn one_kill(point: &str) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (reported, clean) = child(folder.path(), Some(point));
    if !clean {
        let (again, clean) = child(folder.path(), None);
        assert!(clean, "{point}: the store did not open again or lost something");
        let twice = reported.iter().find(|step| **step < STEPS && again.contains(step));
        assert_eq!(twice, None, "{point}: a step that was answered was done again");
    }
    !clean
}

/// Numbers of the steps that were answered, and whether the child came to its end.
fn child(folder: &Path, point: Option<&str>) -> (Vec<u64>, bool) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--ignored", "--exact", "the_script", "--nocapture"])
        .env(FOLDER, folder);
    if let Some(point) = point {
        command.env(POINT, point);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    let reported = lines
        .filter_map(|line| line.split_once("answered ")?.1.parse().ok())
        .collect();
    (reported, child.wait().expect("ended").success())
}

#[test]
#[ignore = "run by the other test, in a process of its own"]
fn the_script() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let disk: Arc<dyn Disk> = match std::env::var(POINT) {
        Ok(point) => Arc::new(KillDisk::new(SystemDisk, point.parse().expect("a kill point"))),
        Err(_) => Arc::new(SystemDisk),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(script(disk, &folder));
}

/// Every step looks first whether it was done, as the relay does by number, index or digest.
async fn script(disk: Arc<dyn Disk>, folder: &Path) {
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    let config = RelayConfig {
        bounds: mailbox::Bounds {
            segment_bytes: 256 << 10,
            recent_bytes: 2 << 10,
            tail_bytes: 512 << 10,
        },
        chains_kept: 0,
        ..RelayConfig::default()
    };
    let spawn = |actor| on_thread("store", actor).expect("a thread");
    let store = RelayFiles::open(disk, folder, config, entropy, spawn).expect("opened");
    assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
    assert_eq!(store.frozen(), 0);
    for step in 1..=STEPS {
        if step_is_done(&store, step) {
            continue;
        }
        take_step(&store, step).await;
        println!("answered {step}");
        if step == 4 {
            // Long enough for slots and slab to be settled.
            tokio::time::sleep(Duration::from_millis(SETTLE_MS_MAX + 50)).await;
        }
    }
    assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
    let totals = store.totals().expect("readable");
    assert_eq!(
        (totals.credits, totals.debits, totals.queued, totals.deposits),
        (1_000, 20, 1, 1)
    );
    store.close().await;
}

fn step_is_done(store: &RelayFiles, step: u64) -> bool {
    let totals = store.totals().expect("readable");
    let keys = || match store.balance(ACCOUNT).expect("issued") {
        Answer::Balance { keys, .. } => keys,
        _ => panic!("a balance is a balance"),
    };
    match step {
        1 => totals.accounts == 1,
        2 => keys() < 16,
        3 | 4 => store
            .stored_answer(ACCOUNT, &change(step), &change(step).digest())
            .is_some(),
        5 => totals.deposits >= 1,
        6 => totals.queued == 1,
        7 => keys() < 14,
        _ => false,
    }
}

async fn take_step(store: &RelayFiles, step: u64) {
    match step {
        1 => {
            let order = IssueOrder {
                link_keys: 16,
                credit: 1_000,
                operator: false,
                day: DAY,
                rotation: Default::default(),
            };
            store.issue(order).await.expect("issued");
        }
        2 | 7 => {
            let index = if step == 2 { 1 } else { 3 };
            let order = BurnOrder {
                account: ACCOUNT,
                root: 0,
                index,
                token: [0; 16],
                fresh: [1; 16],
                answered: 0,
                day: DAY,
            };
            store.burn(order).await.expect("burned").expect("live");
        }
        3 | 4 => {
            let message = vec![b'm'; 5_000];
            let recipients = vec!["to@example.org".to_owned()];
            let spooled = Spooled {
                reverse_path: "from@relay.test".to_owned(),
                recipients,
                message,
                price: 10,
                onward: 0,
                hops: 0,
                mix: None,
                wishes: Vec::new(),
            };
            let digest = change(step).digest();
            let answer = store
                .execute((ACCOUNT, 0), change(step), digest, Effect::Spool(spooled), DAY, NOW)
                .await;
            assert!(matches!(answer, Ok(Answer::Done { debited: 10, .. })));
        }
        5 => {
            let mut sealer = BodySealer::new(Dek::new(Secret::new([5; 32])), [6; 16]);
            sealer.push(b"deposit").expect("short");
            let sealed = sealer.finish();
            let (recipients, day) = (vec![(ACCOUNT, 0)], DAY);
            let (body, dek, length, kilobytes) = (sealed.body, sealed.dek, sealed.length, sealed.kilobytes);
            store
                .deposit(DepositOrder {
                    recipients,
                    body,
                    dek,
                    length,
                    kilobytes,
                    day,
                })
                .await
                .expect("stored");
        }
        6 => {
            let id = store.due(NOW, 1).expect("readable")[0];
            assert_eq!(
                store.delivery(id).expect("opens").expect("queued").message,
                vec![b'm'; 5_000]
            );
            store.finish(id, Outcome::Delivered).await.expect("recorded");
        }
        _ => drop(store.upkeep(NOW + 3_600, 30).await.expect("kept up")),
    }
}

fn change(seq: u64) -> Change {
    let operation = Operation::AliasClose { local: "x".to_owned() };
    Change {
        seq,
        id: [1; 16],
        blind: [2; 16],
        acknowledged: 0,
        operation,
    }
}
