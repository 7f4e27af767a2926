//! A store that changes its place.

use super::*;
use crate::holder::{MoveError, move_store, wipe_store};

const MEDIUM: &str = "/medium/data";

fn moved(disk: &MemoryDisk, seed: u64) -> Result<(), MoveError> {
    move_store(&shared(disk), Path::new(FOLDER), Path::new(MEDIUM), &*entropy(seed))
}

/// Whether a store opens, which takes what lies there and its passphrase.
async fn opens(disk: &MemoryDisk, folder: &str, seed: u64) -> bool {
    match Running::open_with(&shared(disk), Path::new(folder), &options(), seed) {
        Ok(running) => {
            running.stop().await;
            true
        }
        Err(_) => false,
    }
}

/// A store with a message in it, and a file that is not the store's own.
async fn used() -> MemoryDisk {
    let disk = made(1);
    let running = Running::open(&disk, 2).expect("opens");
    let row = running.store.enqueue(order("waiting", 5)).await.expect("taken");
    assert_eq!(row, 1);
    running.stop().await;
    let settings = disk
        .open(&Path::new(FOLDER).join("bridge.toml"), true)
        .expect("created");
    settings.write_at(0, b"user").expect("written");
    settings.sync().expect("synced");
    disk.sync_dir(Path::new(FOLDER)).expect("synced");
    disk
}

#[test]
fn a_moved_store_is_whole_in_its_new_place_and_gone_from_the_old_one() {
    block_on(async {
        let disk = used().await;
        let slots = disk.files().into_iter().find(|(path, _)| path.ends_with("slots"));
        let (_, slots) = slots.expect("there");
        assert_eq!(moved(&disk, 3), Ok(()));
        assert!(!opens(&disk, FOLDER, 4).await);
        let running =
            Running::open_with(&shared(&disk), Path::new(MEDIUM), &options(), 5).expect("opens in its new place");
        assert_eq!(running.store.outbox().expect("readable").len(), 1);
        running.stop().await;
        let left: Vec<_> = disk.list(Path::new(FOLDER)).expect("listed");
        assert!(left.is_empty(), "{left:?}");
        let copies = disk.files().into_iter().filter(|(_, bytes)| *bytes == slots).count();
        assert!(copies <= 1);
        assert_eq!(moved(&disk, 6), Err(MoveError::NoStore));
        // And back.
        let back = move_store(&shared(&disk), Path::new(MEDIUM), Path::new(FOLDER), &*entropy(7));
        assert_eq!(back, Ok(()));
        assert!(opens(&disk, FOLDER, 8).await && !opens(&disk, MEDIUM, 9).await);
    });
}

#[test]
fn a_store_in_use_and_a_place_that_is_taken_are_refused() {
    block_on(async {
        let disk = used().await;
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(moved(&disk, 4), Err(MoveError::Store(StoreError::Locked)));
        assert_eq!(wipe_store(&shared(&disk), Path::new(FOLDER)), Err(StoreError::Locked));
        running.stop().await;
        let other = HolderFiles::create(
            &shared(&disk),
            Path::new(MEDIUM),
            &issue(2),
            PASSPHRASE,
            &options(),
            &entropy(5),
        );
        other.expect("made");
        assert_eq!(moved(&disk, 6), Err(MoveError::Taken));
        assert!(opens(&disk, FOLDER, 7).await && opens(&disk, MEDIUM, 8).await);
    });
}

#[test]
fn wherever_the_power_fails_at_most_one_place_opens_and_trying_again_finishes_the_move() {
    block_on(async {
        let (mut shut, mut open) = (0, 0);
        for operation in 0.. {
            let disk = used().await;
            disk.power_off_after(operation);
            let first = moved(&disk, 3);
            disk.restart(operation);
            let places = [opens(&disk, FOLDER, 4).await, opens(&disk, MEDIUM, 5).await];
            assert_ne!(places, [true, true], "after operation {operation}");
            shut += u32::from(places == [false, false]);
            open += u32::from(places[0]);
            match moved(&disk, 6) {
                Ok(()) => {}
                // The last file of the old place was removed already.
                Err(MoveError::NoStore) => assert!(places[1], "after operation {operation}"),
                Err(error) => panic!("after operation {operation}: {error}"),
            }
            assert!(opens(&disk, MEDIUM, 7).await && !opens(&disk, FOLDER, 8).await);
            if first.is_ok() {
                break;
            }
        }
        assert!(shut > 0 && open > 0, "the power failed on both sides of the turn");
    });
}

#[test]
fn a_move_that_was_cut_off_goes_on_to_its_own_place_alone() {
    block_on(async {
        for operation in 0.. {
            let disk = used().await;
            disk.power_off_after(operation);
            assert!(moved(&disk, 3).is_err(), "the old place is shut at some operation");
            disk.restart(operation);
            if opens(&disk, FOLDER, 4).await || opens(&disk, MEDIUM, 5).await {
                continue;
            }
            let elsewhere = move_store(&shared(&disk), Path::new(FOLDER), Path::new("/other"), &*entropy(6));
            assert_eq!(elsewhere, Err(MoveError::CutOff));
            assert_eq!(moved(&disk, 7), Ok(()));
            break;
        }
    });
}

#[test]
fn a_wiped_store_leaves_neither_keys_nor_files() {
    block_on(async {
        let disk = used().await;
        wipe_store(&shared(&disk), Path::new(FOLDER)).expect("wiped");
        assert!(!opens(&disk, FOLDER, 3).await);
        assert_eq!(disk.list(Path::new(FOLDER)).expect("listed"), [] as [&Path; 0]);
    });
}

#[test]
fn a_copy_that_fails_leaves_no_key_where_it_went_and_no_segment_in_the_way_of_the_next() {
    block_on(async {
        let mut left_something = false;
        for nth in 0..60 {
            let disk = used().await;
            disk.create_dir_all(Path::new(MEDIUM)).expect("made");
            let stale = disk
                .open(&Path::new(MEDIUM).join("segment-000099"), true)
                .expect("created");
            stale.write_at(0, &[7; 5_000]).expect("written");
            disk.fail_nth(nth);
            let failed = moved(&disk, 3).is_err();
            let names = || disk.list(Path::new(MEDIUM)).expect("listed");
            let is_key = |path: &std::path::PathBuf| path.ends_with("slots") || path.ends_with("slab");
            if failed && opens(&disk, FOLDER, 4).await {
                left_something |= names().iter().any(is_key);
                assert_eq!(moved(&disk, 5), Ok(()), "the next one goes on");
            } else if failed {
                assert_eq!(moved(&disk, 5), Ok(()), "it goes on");
            }
            assert!(opens(&disk, MEDIUM, 6).await && !opens(&disk, FOLDER, 7).await, "{nth}");
            assert!(!names().iter().any(|path| path.ends_with("segment-000099")), "{nth}");
        }
        assert!(!left_something, "keys lie where the copy failed");
    });
}
