//! The committer over a stage that only counts.

use std::path::Path;

use super::*;
use crate::base::Bounds;
use crate::disk::MemoryDisk;
use crate::entropy::SeededEntropy;
use crate::tables::Table;

mod ahead;

const TABLE: Table<u64, u64> = Table::new(1);

/// Small enough that a test sees checkpoints, new segments and sweeping.
const BOUNDS: Bounds = Bounds {
    segment_bytes: 64 << 10,
    recent_bytes: 4 << 10,
    tail_bytes: 128 << 10,
};

struct Counting {
    base: Arc<Base>,
    unsettled: bool,
    /// Whether operations may be judged on top of what is being written.
    is_open: bool,
    /// Whether a batch is being written.
    is_writing: bool,
    seen: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

impl Counting {
    fn note(&self, event: &'static str) {
        self.seen.lock().expect("not poisoned").push(event);
    }
}

impl Stage for Counting {
    fn base(&self) -> &Arc<Base> {
        &self.base
    }

    fn written(&mut self) -> bool {
        self.is_writing = true;
        self.is_open
    }

    fn committed(&mut self, _: u64) {
        self.is_writing = false;
        self.unsettled = true;
        self.note("committed");
    }

    fn abandoned(&mut self) {
        self.unsettled = true;
        self.note("abandoned");
    }

    fn failed(&mut self) {
        self.is_writing = false;
        self.unsettled = true;
        self.note("failed");
    }

    fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        assert!(!self.is_writing, "what a batch finishes is not finished yet");
        self.unsettled = false;
        self.note("settled");
        Ok(())
    }
}

struct Bench {
    disk: MemoryDisk,
    base: Arc<Base>,
    committer: Committer<Counting>,
    seen: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

fn open(disk: &MemoryDisk) -> Arc<Base> {
    let folder = Path::new("/c");
    let lock = Base::lock(disk, folder).expect("free");
    let entropy = Arc::new(SeededEntropy::new(disk.operations()));
    let key = keypacks::Secret::new([3; 32]);
    let base = Base::open(Arc::new(disk.clone()), folder, lock, key, BOUNDS, entropy).expect("opened");
    base.slab.set_used(&Default::default()).expect("empty");
    Arc::new(base)
}

/// Runs a test beside an actor and a keeper on one thread, in virtual time. Each record is written before anything else is
/// judged.
fn bench<T>(disk: &MemoryDisk, test: impl AsyncFnOnce(Bench) -> T) -> T {
    bench_with(disk, false, async |bench, _| test(bench).await)
}

/// As [`bench`]. `is_open`: operations are judged on top of what the syncer writes, which the test has to run.
fn bench_with<T>(disk: &MemoryDisk, is_open: bool, test: impl AsyncFnOnce(Bench, syncer::Syncer) -> T) -> T {
    let seen = Arc::default();
    let stage = Counting {
        base: open(disk),
        unsettled: false,
        is_open,
        is_writing: false,
        seen: Arc::clone(&seen),
    };
    let base = Arc::clone(&stage.base);
    let (committer, actor, keeper) = committer(stage);
    let (actor, syncer) = actor.with_syncer(2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        tokio::spawn(actor.run());
        tokio::spawn(keeper.run());
        let bench = Bench {
            disk: disk.clone(),
            base,
            committer,
            seen,
        };
        test(bench, syncer).await
    })
}

impl Bench {
    async fn put(&self, key: u64, end: Result<(), StoreError>) -> Result<(), StoreError> {
        let put = move |_: &mut Counting, write: &Write<'_>| {
            if let Err(error) = end
                && error.is_refusal()
            {
                return Err(error);
            }
            TABLE.put(write, key, &key)?;
            end
        };
        self.committer.run(put).await
    }

    async fn put_body(&self, bytes: Vec<u8>) -> Result<u64, StoreError> {
        let put = move |stage: &mut Counting, write: &Write<'_>| stage.base.put_body(write, &bytes, 1);
        self.committer.run(put).await
    }

    async fn put_parts(&self, bytes: Vec<u8>) -> Result<u64, StoreError> {
        let put = move |stage: &mut Counting, write: &Write<'_>| {
            let parts = bytes.chunks(64 << 10).map(<[u8]>::to_vec);
            stage.base.put_body_parts(write, bytes.len(), parts)
        };
        self.committer.run(put).await
    }

    async fn release(&self, name: u64) -> Result<(), StoreError> {
        let release = move |stage: &mut Counting, write: &Write<'_>| stage.base.release_body(write, name).map(|_| ());
        self.committer.run(release).await
    }

    fn keys(&self) -> Vec<u64> {
        keys(&self.base)
    }
}

fn keys(base: &Base) -> Vec<u64> {
    let mut keys = Vec::new();
    let visit = |key, row| {
        assert_eq!(key, row);
        keys.push(key);
        Ok(std::ops::ControlFlow::Continue(()))
    };
    TABLE
        .scan(&base.snapshot().expect("open"), (0, u64::MAX), visit)
        .expect("readable");
    keys
}

#[test]
fn one_that_refuses_or_fails_does_not_take_the_others_of_its_batch_with_it() {
    bench(&MemoryDisk::new(), async |bench| {
        let (refused, failed) = (Err(StoreError::Busy), Err(StoreError::Corrupt));
        let (one, two, three, four) = tokio::join!(
            bench.put(1, Ok(())),
            bench.put(2, refused),
            bench.put(3, failed),
            bench.put(4, Ok(())),
        );
        assert_eq!(
            (one, two, three, four),
            (Ok(()), Err(StoreError::Busy), Err(StoreError::Corrupt), Ok(()))
        );
        assert_eq!(bench.keys(), [1, 4]);
        assert_eq!(bench.base.index.commit_number(), 1, "they shared a commit");
    });
}

#[test]
fn a_commit_costs_one_write_and_one_sync() {
    bench(&MemoryDisk::new(), async |bench| {
        bench.put(1, Ok(())).await.expect("committed");
        let before = bench.disk.operations();
        let calls = (2..30).map(|key| bench.put(key, Ok(())));
        for outcome in futures_of(calls).await {
            outcome.expect("committed");
        }
        assert_eq!(bench.disk.operations() - before, 2);
    });
}

#[test]
fn what_is_too_much_for_one_record_takes_several() {
    const BYTES: Table<u64, Vec<u8>> = Table::new(2);
    bench(&MemoryDisk::new(), async |bench| {
        let put = |key: u64| {
            let put =
                move |_: &mut Counting, write: &Write<'_>| BYTES.put(write, key, &vec![7; BOUNDS.recent_bytes / 4]);
            bench.committer.run(put)
        };
        for outcome in futures_of((0..9).map(put)).await {
            outcome.expect("committed");
        }
        assert_eq!(bench.base.index.commit_number(), 3, "four in each");
    });
}

#[test]
fn bodies_that_would_fill_a_segment_take_several_records() {
    bench(&MemoryDisk::new(), async |bench| {
        let quarter = usize::try_from(BOUNDS.segment_bytes / 4).expect("small");
        for outcome in futures_of((0..9).map(|_| bench.put_body(vec![7; quarter]))).await {
            outcome.expect("committed");
        }
        assert_eq!(bench.base.index.commit_number(), 3, "four in each");
    });
}

/// Polls futures together, in order.
async fn futures_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect()),
            false => std::task::Poll::Pending,
        }
    })
    .await
}

#[test]
fn a_write_or_sync_that_fails_voids_its_batch_and_the_next_one_works() {
    for nth in 0..2 {
        let disk = MemoryDisk::new();
        bench(&disk, async |bench| {
            bench.put(1, Ok(())).await.expect("committed");
            bench.disk.fail_nth(nth);
            assert!(matches!(bench.put(2, Ok(())).await, Err(StoreError::Io(_))));
            assert_eq!(bench.keys(), [1]);
            bench.put(3, Ok(())).await.expect("committed");
            bench.disk.power_off();
        });
        disk.crash(nth);
        assert_eq!(
            keys(&open(&disk)),
            [1, 3],
            "the failed one is void, whatever reached the disk"
        );
    }
}

#[test]
fn a_disk_that_stays_away_is_an_answer_and_its_return_is_noticed() {
    bench(&MemoryDisk::new(), async |bench| {
        bench.put(1, Ok(())).await.expect("committed");
        bench.disk.refuse_writes(true);
        assert_eq!(bench.put(2, Ok(())).await, Err(StoreError::Unknown));
        assert!(matches!(bench.put(3, Ok(())).await, Err(StoreError::Io(_))));
        bench.disk.refuse_writes(false);
        bench.put(4, Ok(())).await.expect("committed");
        assert_eq!(bench.keys(), [1, 4]);
    });
}

#[test]
fn what_an_unknown_batch_took_is_erased_only_after_it_is_void() {
    for (seed, is_idle) in (0..8).flat_map(|seed| [(seed, true), (seed, false)]) {
        let disk = MemoryDisk::new();
        bench(&disk, async |bench| {
            bench.put(1, Ok(())).await.expect("committed");
            tokio::time::sleep(Duration::from_millis(2 * SETTLE_MS_MAX)).await;
            // The record is written; its sync fails, and everything after it.
            bench.disk.fail_from(1);
            assert_eq!(bench.put(2, Ok(())).await, Err(StoreError::Unknown));
            bench.seen.lock().expect("not poisoned").clear();
            bench.disk.refuse_writes(false);
            match is_idle {
                true => tokio::time::sleep(Duration::from_millis(2 * SETTLE_MS_MAX)).await,
                false => bench.committer.stop().await,
            }
            assert!(bench.seen.lock().expect("not poisoned").contains(&"settled"));
            bench.disk.power_off();
        });
        disk.crash(seed);
        assert_eq!(keys(&open(&disk)), [1], "seed {seed}, idle {is_idle}");
    }
}

#[test]
fn what_is_finished_is_settled_soon_and_before_the_end() {
    bench(&MemoryDisk::new(), async |bench| {
        bench.put(1, Ok(())).await.expect("committed");
        tokio::time::sleep(Duration::from_millis(2 * SETTLE_MS_MAX)).await;
        assert_eq!(*bench.seen.lock().expect("not poisoned"), ["committed", "settled"]);
        bench.put(2, Ok(())).await.expect("committed");
        bench.committer.stop().await;
        assert_eq!(bench.seen.lock().expect("not poisoned")[2..], ["committed", "settled"]);
        assert_eq!(bench.put(3, Ok(())).await, Err(StoreError::Unavailable));
    });
}

#[test]
fn more_callers_than_may_wait_are_told_so() {
    bench(&MemoryDisk::new(), async |bench| {
        let bench = Arc::new(bench);
        let put = |key| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.put(key, Ok(())).await })
        };
        let calls: Vec<_> = (0..WAITING_MAX as u64 + 9).map(put).collect();
        let mut busy = 0;
        for call in calls {
            busy += u64::from(call.await.expect("no panic") == Err(StoreError::Busy));
        }
        assert_eq!(busy, 9);
    });
}

#[test]
fn rows_survive_checkpoints_and_a_clean_end() {
    let disk = MemoryDisk::new();
    bench(&disk, async |bench| {
        for key in 0..200 {
            bench.put(key, Ok(())).await.expect("committed");
        }
        assert!(
            bench.base.index.recent_bytes() < 4 * BOUNDS.recent_bytes,
            "some were taken over"
        );
        bench.committer.stop().await;
    });
    let again = open(&disk);
    assert_eq!(keys(&again), (0..200).collect::<Vec<_>>());
    assert_eq!(again.log.tail_bytes(), 0, "a clean end leaves nothing to read again");
}

#[test]
fn an_index_that_fails_loses_nothing_and_catches_up() {
    let disk = MemoryDisk::new();
    bench(&disk, async |bench| {
        for key in 0..60 {
            // Checkpoints are made in between: some of these failures are theirs, some the log's.
            bench.disk.fail_nth(key % 11);
            while bench.put(key, Ok(())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        bench.disk.mend();
        assert_eq!(bench.keys(), (0..60).collect::<Vec<_>>());
        bench.committer.stop().await;
    });
    assert_eq!(keys(&open(&disk)), (0..60).collect::<Vec<_>>());
}

#[test]
fn space_of_released_bodies_is_used_again_and_the_others_are_moved_whole() {
    let disk = MemoryDisk::new();
    let (bytes, kept) = bench(&disk, async |bench| {
        let mut kept: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for round in 0..400u64 {
            let body = vec![u8::try_from(round % 251).expect("small"); 3_000];
            let name = bench.put_body(body.clone()).await.expect("committed");
            match round % 20 {
                0 => kept.push((name, body)),
                _ => bench.release(name).await.expect("there"),
            }
            bytes = bytes.max(bench.base.log.bytes());
        }
        for (name, body) in &kept {
            assert_eq!(bench.base.read_body(*name).expect("readable").as_ref(), Some(body));
        }
        bench.committer.stop().await;
        (bytes, kept)
    });
    assert!(bytes < 16 * BOUNDS.segment_bytes, "{bytes} bytes for 1,200,000 written");
    disk.crash(7);
    let again = open(&disk);
    for (name, body) in kept {
        assert_eq!(again.read_body(name).expect("readable"), Some(body));
    }
}

#[test]
fn whenever_the_power_goes_what_was_answered_is_there_and_nothing_else_counts_twice() {
    // A text of several parts, each written by itself.
    let long: Vec<u8> = (0..300_000u64).map(|at| ((at * at) >> 9) as u8).collect();
    let mut parts_kept = 0;
    for (operation, seed) in (0..70).flat_map(|operation| (0..3).map(move |seed| (operation, seed))) {
        let disk = MemoryDisk::forgetful();
        let (answered, kept) = bench(&disk, async |bench| {
            bench.put(0, Ok(())).await.expect("committed");
            bench.disk.power_off_after(operation);
            let (mut answered, mut kept) = (vec![0], None);
            for key in 1..40 {
                if bench.put(key, Ok(())).await.is_ok() {
                    answered.push(key);
                }
                if key % 3 == 0 && bench.put_body(vec![1; 9_000]).await.is_err() {
                    break;
                }
                if key == 5 {
                    match bench.put_parts(long.clone()).await {
                        Ok(name) => kept = Some(name),
                        Err(_) => break,
                    }
                }
            }
            (answered, kept)
        });
        disk.crash(seed);
        let again = open(&disk);
        let there = keys(&again);
        if let Some(name) = kept {
            parts_kept += 1;
            let body = again.read_body(name).expect("readable");
            assert!(body.as_ref() == Some(&long), "operation {operation} seed {seed}");
        }
        drop(again);
        let case = format!("operation {operation} seed {seed}: {answered:?} and {there:?}");
        assert!(there.starts_with(&answered), "{case}");
        assert!(
            there.len() <= answered.len() + 1,
            "only the last one may be there unanswered: {case}"
        );
        // Whatever was found is durable now.
        disk.crash(seed + 1);
        assert_eq!(keys(&open(&disk)), there, "{case}");
    }
    assert!((1..70 * 3).contains(&parts_kept), "{parts_kept}");
}
