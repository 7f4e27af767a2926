//! The committer over a stage that only counts.

use std::path::Path;

use redb::{ReadableTable, TableDefinition};

use super::*;
use crate::disk::MemoryDisk;

const TABLE: TableDefinition<u64, u64> = TableDefinition::new("table");

#[derive(Default)]
struct Counting {
    flushes: u64,
    abandoned: u64,
    reloads: u64,
    unsettled: bool,
    flush_fails: bool,
    log: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

impl Stage for Counting {
    fn flush(&mut self) -> Result<(), StoreError> {
        self.flushes += 1;
        if self.flush_fails {
            Err(StoreError::Io(std::io::ErrorKind::Other))
        } else {
            Ok(())
        }
    }

    fn committed(&mut self, _: u64) {
        self.unsettled = true;
        self.log.lock().expect("not poisoned").push("committed");
    }

    fn abandoned(&mut self) {
        self.abandoned += 1;
    }

    fn reload(&mut self) -> Result<(), StoreError> {
        self.reloads += 1;
        Ok(())
    }

    fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.unsettled = false;
        self.log.lock().expect("not poisoned").push("settled");
        Ok(())
    }

    fn close(&mut self) {
        self.log.lock().expect("not poisoned").push("closed");
    }
}

struct Bench {
    disk: MemoryDisk,
    index: Arc<Index>,
    committer: Committer<Counting>,
    log: Arc<std::sync::Mutex<Vec<&'static str>>>,
}

/// Runs a test beside an actor on one thread.
fn bench<T>(stage: Counting, test: impl AsyncFnOnce(Bench) -> T) -> T {
    let disk = MemoryDisk::new();
    crate::disk::Disk::create_dir_all(&disk, Path::new("/c")).expect("made");
    let index = Arc::new(Index::open(Arc::new(disk.clone()), Path::new("/c/index.redb")).expect("opened"));
    let log = Arc::clone(&stage.log);
    let (committer, actor) = committer(stage, Arc::clone(&index));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        tokio::spawn(actor.run());
        test(Bench {
            disk,
            index,
            committer,
            log,
        })
        .await
    })
}

impl Bench {
    async fn put(&self, key: u64, end: Result<(), StoreError>) -> Result<u64, StoreError> {
        let put = move |stage: &mut Counting, write: &WriteTransaction| {
            if let Err(error) = end
                && error.is_refusal()
            {
                return Err(error);
            }
            write.open_table(TABLE)?.insert(key, key)?;
            end.map(|()| stage.flushes)
        };
        self.committer.run(put).await
    }

    fn keys(&self) -> Vec<u64> {
        let keys = self.index.read(|read| {
            let table = read.open_table(TABLE)?;
            table.iter()?.map(|row| Ok(row?.0.value())).collect()
        });
        keys.expect("readable")
    }
}

#[test]
fn one_that_refuses_or_fails_does_not_take_the_others_of_its_batch_with_it() {
    bench(Counting::default(), async |bench| {
        let (refused, failed) = (Err(StoreError::Busy), Err(StoreError::Corrupt));
        let (one, two, three, four) = tokio::join!(
            bench.put(1, Ok(())),
            bench.put(2, refused),
            bench.put(3, failed),
            bench.put(4, Ok(())),
        );
        assert_eq!(
            (one, two, three, four),
            (Ok(0), Err(StoreError::Busy), Err(StoreError::Corrupt), Ok(0))
        );
        assert_eq!(bench.keys(), [1, 4]);
        assert_eq!(bench.index.commit_number(), Ok(1), "they shared a commit");
    });
}

#[test]
fn what_cannot_be_flushed_has_not_happened() {
    bench(
        Counting {
            flush_fails: true,
            ..Counting::default()
        },
        async |bench| {
            assert_eq!(
                bench.put(1, Ok(())).await,
                Err(StoreError::Io(std::io::ErrorKind::Other))
            );
            assert_eq!(bench.index.commit_number(), Ok(0));
        },
    );
}

#[test]
fn a_commit_that_fails_is_unknown_and_the_next_one_works() {
    bench(Counting::default(), async |bench| {
        bench.put(1, Ok(())).await.expect("committed");
        bench.disk.fail_nth(0);
        assert_eq!(bench.put(2, Ok(())).await, Err(StoreError::Unknown));
        bench.put(3, Ok(())).await.expect("committed");
        assert!(bench.keys().contains(&1) && bench.keys().contains(&3));
    });
}

#[test]
fn a_disk_that_stays_away_is_an_answer() {
    bench(Counting::default(), async |bench| {
        bench.disk.power_off();
        assert!(matches!(
            bench.put(1, Ok(())).await,
            Err(StoreError::Unknown | StoreError::Io(_))
        ));
        assert_eq!(bench.put(2, Ok(())).await, Err(StoreError::Unavailable));
    });
}

#[test]
fn what_is_finished_is_settled_soon_and_before_the_end() {
    bench(Counting::default(), async |bench| {
        bench.put(1, Ok(())).await.expect("committed");
        tokio::time::sleep(Duration::from_millis(2 * SETTLE_MS_MAX)).await;
        assert_eq!(*bench.log.lock().expect("not poisoned"), ["committed", "settled"]);
        bench.put(2, Ok(())).await.expect("committed");
        bench.committer.stop().await;
        assert_eq!(
            bench.log.lock().expect("not poisoned")[2..],
            ["committed", "settled", "closed"]
        );
        assert_eq!(bench.put(3, Ok(())).await, Err(StoreError::Unavailable));
    });
}

#[test]
fn more_callers_than_may_wait_are_told_so() {
    bench(Counting::default(), async |bench| {
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
