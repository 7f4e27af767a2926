//! Batches that are judged while the one before them is written. What could go wrong: somebody sees, or is told of, what is not
//! durable yet; or something counts that stood on what has failed.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use super::*;

/// How often an operation was judged.
type Tries = Arc<AtomicUsize>;

type Answer = JoinHandle<Result<(), StoreError>>;

impl Bench {
    /// Puts a row, judged ahead if it may be. `refused_with`: not while that row is there.
    fn put_ahead(&self, key: u64, refused_with: Option<u64>) -> (Tries, Answer) {
        let tries = Tries::default();
        let count = Arc::clone(&tries);
        let put = move |_: &mut Counting, write: &Write<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            match refused_with.map(|other| TABLE.get(write, other)).transpose()?.flatten() {
                Some(_) => Err(StoreError::Busy),
                None => TABLE.put(write, key, &key),
            }
        };
        let committer = self.committer.clone();
        (tries, tokio::spawn(async move { committer.run_ahead(put).await }))
    }

    fn events(&self) -> Vec<&'static str> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

fn tried(tries: &Tries) -> usize {
    tries.load(Ordering::SeqCst)
}

/// Lets every task go on for as long as it can.
async fn settle_down() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_next_batch_is_judged_during_the_sync_and_nobody_else_sees_either() {
    bench_with(&MemoryDisk::new(), true, async |bench, syncer| {
        let written = [1, 2].map(|key| bench.put_ahead(key, None));
        settle_down().await;
        // These see what is being written, and one is refused because of it.
        let (three, third) = bench.put_ahead(3, None);
        let (four, fourth) = bench.put_ahead(4, Some(1));
        settle_down().await;
        let (five, fifth) = bench.put_ahead(5, None);
        settle_down().await;
        assert_eq!([&three, &four, &five].map(tried), [1, 1, 1], "judged during the sync");
        assert!(written.iter().all(|(_, answer)| !answer.is_finished()));
        assert!([&third, &fourth, &fifth].iter().all(|answer| !answer.is_finished()));
        assert!(bench.keys().is_empty(), "readers see what is durable");
        assert_eq!((bench.base.index.commit_number(), bench.base.log.mark().commit), (0, 0));
        tokio::spawn(syncer.run());
        for (tries, answer) in written {
            assert_eq!((answer.await.expect("no panic"), tried(&tries)), (Ok(()), 1));
        }
        assert_eq!(third.await.expect("no panic"), Ok(()));
        assert_eq!(fourth.await.expect("no panic"), Err(StoreError::Busy));
        assert_eq!(fifth.await.expect("no panic"), Ok(()));
        assert_eq!([&three, &four, &five].map(tried), [1, 1, 1]);
        assert_eq!(bench.keys(), [1, 2, 3, 5]);
        assert_eq!(
            bench.base.index.commit_number(),
            2,
            "what came during the sync shared a commit"
        );
    });
}

#[test]
fn an_operation_that_looks_further_waits_for_what_is_being_written() {
    bench_with(&MemoryDisk::new(), true, async |bench, syncer| {
        let before = [1, 2].map(|key| bench.put_ahead(key, None));
        settle_down().await;
        let count = Tries::default();
        let counted = Arc::clone(&count);
        let committer = bench.committer.clone();
        let further = tokio::spawn(async move {
            let put = move |stage: &mut Counting, write: &Write<'_>| {
                assert!(!stage.is_writing);
                counted.fetch_add(1, Ordering::SeqCst);
                TABLE.put(write, 3, &3)
            };
            committer.run(put).await
        });
        let (four, fourth) = bench.put_ahead(4, None);
        settle_down().await;
        assert_eq!([&count, &four].map(tried), [0, 0]);
        tokio::spawn(syncer.run());
        let before = before.into_iter().map(|(_, answer)| answer);
        for answer in before.chain([further, fourth]) {
            assert_eq!(answer.await.expect("no panic"), Ok(()));
        }
        assert_eq!([&count, &four].map(tried), [1, 1]);
        assert_eq!(bench.keys(), [1, 2, 3, 4]);
        assert_eq!(bench.base.index.commit_number(), 2, "what waited shared a commit");
    });
}

#[test]
fn nothing_is_judged_on_top_of_a_batch_that_does_not_bear_it() {
    // The syncer never runs: nothing is left to it.
    bench_with(&MemoryDisk::new(), false, async |bench, _syncer| {
        for (_, answer) in (0..9).map(|key| bench.put_ahead(key, None)).collect::<Vec<_>>() {
            assert_eq!(answer.await.expect("no panic"), Ok(()));
        }
        assert_eq!(bench.keys(), (0..9).collect::<Vec<_>>());
    });
}

#[test]
fn what_stood_on_a_batch_that_failed_is_judged_again_on_what_is_durable() {
    // The write fails, or the sync; or from then on everything.
    for (nth, stays) in [(0, false), (1, false), (0, true), (1, true)] {
        let disk = MemoryDisk::new();
        bench_with(&disk, true, async |bench, syncer| {
            bench.put(9, Ok(())).await.expect("committed");
            let failing = [1, 2].map(|key| bench.put_ahead(key, None));
            settle_down().await;
            let (three, third) = bench.put_ahead(3, None);
            let (four, fourth) = bench.put_ahead(4, Some(1));
            settle_down().await;
            assert_eq!([&three, &four].map(tried), [1, 1]);
            let before = bench.events().len();
            match stays {
                true => bench.disk.fail_from(nth),
                false => bench.disk.fail_nth(nth),
            }
            tokio::spawn(syncer.run());
            for (_, answer) in failing {
                let answer = answer.await.expect("no panic");
                match stays {
                    true => assert_eq!(answer, Err(StoreError::Unknown)),
                    false => assert!(matches!(answer, Err(StoreError::Io(_)))),
                }
            }
            let behind = [third.await.expect("no panic"), fourth.await.expect("no panic")];
            assert_eq!(bench.events()[before..][..2], ["abandoned", "failed"]);
            if stays {
                assert!(behind.iter().all(|answer| matches!(answer, Err(StoreError::Io(_)))));
                assert_eq!(bench.keys(), [9]);
                bench.disk.refuse_writes(false);
                bench.put(3, Ok(())).await.expect("committed");
                bench.put(4, Ok(())).await.expect("committed");
            } else {
                // The fourth is not refused any more for a row that never came to be.
                assert_eq!((behind, [&three, &four].map(tried)), ([Ok(()), Ok(())], [2, 2]));
            }
            assert_eq!(bench.keys(), [3, 4, 9]);
            bench.disk.power_off();
        });
        disk.crash(nth);
        assert_eq!(
            keys(&open(&disk)),
            [3, 4, 9],
            "the failed batch is void, whatever reached the disk"
        );
    }
}

#[test]
fn an_operation_that_fails_ahead_takes_no_other_with_it() {
    bench_with(&MemoryDisk::new(), true, async |bench, syncer| {
        let before = [1, 2].map(|key| bench.put_ahead(key, None));
        settle_down().await;
        let (_, third) = bench.put_ahead(3, None);
        let committer = bench.committer.clone();
        let broken = tokio::spawn(async move {
            let put = |_: &mut Counting, write: &Write<'_>| {
                TABLE.put(write, 4, &4)?;
                Err::<(), _>(StoreError::Corrupt)
            };
            committer.run_ahead(put).await
        });
        let (_, fifth) = bench.put_ahead(5, None);
        settle_down().await;
        assert!(!broken.is_finished(), "it is told when it failed on what is durable");
        tokio::spawn(syncer.run());
        let before = before.into_iter().map(|(_, answer)| answer);
        for answer in before.chain([third, fifth]) {
            assert_eq!(answer.await.expect("no panic"), Ok(()));
        }
        assert_eq!(broken.await.expect("no panic"), Err(StoreError::Corrupt));
        assert_eq!(bench.keys(), [1, 2, 3, 5]);
    });
}

#[test]
fn a_stream_without_a_gap_is_settled_and_taken_over_in_between() {
    bench_with(&MemoryDisk::new(), true, async |bench, syncer| {
        tokio::spawn(syncer.run());
        let end = tokio::time::Instant::now() + Duration::from_millis(4 * SETTLE_MS_MAX);
        let callers = (0..4).map(|caller: u64| {
            let bench = &bench;
            async move {
                let mut key = caller << 32;
                while tokio::time::Instant::now() < end {
                    let (_, first) = bench.put_ahead(key, None);
                    let (_, second) = bench.put_ahead(key + 1, None);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    first.await.expect("no panic").expect("committed");
                    second.await.expect("no panic").expect("committed");
                    key += 2;
                }
                key - (caller << 32)
            }
        });
        let put: u64 = futures_of(callers).await.into_iter().sum();
        assert!(bench.events().iter().filter(|event| **event == "settled").count() >= 2);
        assert_eq!(bench.keys().len() as u64, put);
        assert!(
            bench.base.index.recent_bytes() < 4 * BOUNDS.recent_bytes,
            "some were taken over"
        );
        bench.committer.stop().await;
    });
}

/// The keys that one caller was told of for certain, and the body that belongs to each.
type Told = Vec<(u64, u64)>;

/// Callers that go on for so many operations whether or not the disk works, each with one at a time.
async fn stream(bench: &Bench, most: u64) -> Vec<Told> {
    let callers = (0..6).map(|caller: u64| async move {
        let mut told = Told::new();
        for n in 0..most {
            let key = (caller << 32) + n;
            let body = body_of(key);
            let put = move |stage: &mut Counting, write: &Write<'_>| {
                let name = stage.base.put_body(write, &body, 1)?;
                TABLE.put(write, key, &key)?;
                Ok(name)
            };
            if let Ok(name) = bench.committer.run_ahead(put).await {
                told.push((key, name));
            }
        }
        told
    });
    futures_of(callers).await
}

/// Some so long that they are written at once.
fn body_of(key: u64) -> Vec<u8> {
    let length = if key % 11 == 5 {
        300_000
    } else {
        200 + 2_000 * (key % 7)
    };
    vec![(key % 251) as u8; usize::try_from(length).expect("small")]
}

fn keys_of(told: &[Told]) -> Vec<u64> {
    let mut keys: Vec<u64> = told.iter().flatten().map(|(key, _)| *key).collect();
    keys.push(u64::MAX);
    keys.sort_unstable();
    keys
}

fn are_whole(base: &Base, told: &[Told], case: &str) {
    for (key, name) in told.iter().flatten() {
        let body = base.read_body(*name).expect("readable");
        assert!(body == Some(body_of(*key)), "{case}");
    }
}

#[test]
fn whenever_the_power_goes_during_an_overlap_what_was_answered_is_there() {
    for (operation, seed) in (0..40).flat_map(|operation| (0..3).map(move |seed| (operation, seed))) {
        let disk = MemoryDisk::forgetful();
        let told = bench_with(&disk, true, async |bench, syncer| {
            tokio::spawn(syncer.run());
            bench.put(u64::MAX, Ok(())).await.expect("committed");
            bench.disk.power_off_after(operation);
            stream(&bench, 12).await
        });
        disk.crash(seed);
        let again = open(&disk);
        let case = format!("operation {operation} seed {seed}");
        let (there, expected) = (keys(&again), keys_of(&told));
        are_whole(&again, &told, &case);
        assert!(expected.iter().all(|key| there.binary_search(key).is_ok()), "{case}");
        // The record that was being written may be there whole, and nothing that was judged on top of it.
        assert!(there.len() - expected.len() <= told.len(), "{case}");
        drop(again);
        disk.crash(seed + 1);
        assert_eq!(keys(&open(&disk)), there, "{case}");
    }
}

#[test]
fn whichever_operation_of_the_disk_fails_what_was_answered_is_there_and_nothing_else() {
    for nth in 0..60 {
        let disk = MemoryDisk::new();
        let case = format!("operation {nth}");
        let told = bench_with(&disk, true, async |bench, syncer| {
            tokio::spawn(syncer.run());
            bench.put(u64::MAX, Ok(())).await.expect("committed");
            bench.disk.fail_nth(nth);
            let told = stream(&bench, 20).await;
            assert_eq!(bench.keys(), keys_of(&told), "{case}");
            are_whole(&bench.base, &told, &case);
            bench.disk.power_off();
            told
        });
        disk.crash(nth);
        let again = open(&disk);
        assert_eq!(keys(&again), keys_of(&told), "{case}");
        are_whole(&again, &told, &case);
    }
}
