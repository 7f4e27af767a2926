//! Positions of the link chain, and what is left of used states.

use std::time::Duration;

use keypacks::chain::{LINK_LOOK_AHEAD, LinkChain};
use keypacks::link::PersistedIndex;

use super::*;

#[test]
fn a_link_index_is_reserved_within_the_look_ahead_and_never_below_the_last() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        assert_eq!(
            store.reserve_link(LINK_LOOK_AHEAD).await.err(),
            Some(StoreError::Invalid)
        );
        let proof = store.reserve_link(2).await.expect("within the look-ahead");
        assert_eq!(proof.persisted_index(), 2);
        assert_eq!(store.reserve_link(1).await.err(), Some(StoreError::Invalid));
        assert!(store.link_step(1).is_none() && store.link_step(2).is_some());
        store.reserve_link(2).await.expect("the same index may be tried again");
        assert_eq!(
            store.link_answered(3, [1; 16]).await,
            Err(StoreError::Invalid),
            "no cell 3 was sealed for it"
        );
        store.link_answered(2, [1; 16]).await.expect("reserved");
        let position = store.link_position();
        assert_eq!((position.base, position.held, position.answered), (3, Some(2), Some(2)));
        running.stop().await;
        assert_eq!(slot_copies(&disk), vec![(3, 0); 2]);
    });
}

#[test]
fn a_restored_copy_goes_on_at_any_index_that_is_left_and_never_back() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let keys = store.link_position().keys;
        assert_eq!(store.resume_link(keys).await.err(), Some(StoreError::Invalid));
        let far = keys - 3;
        let proof = store.resume_link(far).await.expect("a key is left");
        assert_eq!((proof.persisted_index(), store.link_position().base), (far, far));
        assert_eq!(store.resume_link(far - 1).await.err(), Some(StoreError::Invalid));
        assert!(store.link_step(far - 1).is_none() && store.link_ahead().index() == far);
        store.link_answered(far, [1; 16]).await.expect("reserved");
        running.stop().await;
        assert_eq!(slot_copies(&disk), vec![(far + 1, 0); 2]);
    });
}

#[test]
fn the_last_link_key_is_the_last() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let keys = running.store.link_position().keys;
        for index in 0..keys {
            running.store.reserve_link(index).await.expect("a key is left");
            running.store.link_answered(index, [1; 16]).await.expect("reserved");
        }
        assert!(running.store.link_step(keys).is_none());
        assert_eq!(running.store.reserve_link(keys).await.err(), Some(StoreError::Invalid));
        running.stop().await;
    });
}

#[test]
fn used_chain_states_are_gone_from_both_copies_within_a_second() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(1).await.expect("within the look-ahead");
        let step = running.store.post_step(0).expect("the first");
        running
            .store
            .collected(vec![deposit(&step)], 1)
            .await
            .expect("in order");
        assert_eq!(slot_copies(&disk), vec![(0, 0); 2], "never before the commit");
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(slot_copies(&disk), vec![(1, 1); 2]);
        running.stop().await;
    });
}

#[test]
fn a_search_for_used_states_finds_them_only_where_they_are_kept_on_purpose() {
    for keep_used_keys in [false, true] {
        let disk = made(1);
        block_on(async {
            let options = HolderOptions {
                keep_used_keys,
                ..options()
            };
            let running = Running::open_with(&shared(&disk), Path::new(FOLDER), &options, 2).expect("opens");
            running.store.reserve_link(1).await.expect("within the look-ahead");
            running.stop().await;
            assert_eq!(
                holds(&disk, LinkChain::from_root(&root()).state().expose()),
                keep_used_keys
            );
        });
    }
}

#[test]
fn a_slot_that_lags_after_a_crash_is_hashed_forward_before_the_store_is_handed_out() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(3).await.expect("within the look-ahead");
        disk.crash(0);
        running.abandon().await;
        assert_eq!(slot_copies(&disk), vec![(0, 0); 2]);
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(slot_copies(&disk), vec![(3, 0); 2]);
        assert!(running.store.link_step(2).is_none());
        let expected = LinkChain::from_root(&root()).step_at(3).expect("ahead");
        assert!(running.store.link_step(3).expect("held").tag == expected.tag);
        running.stop().await;
    });
}

#[test]
fn an_index_restored_without_its_slots_is_refused() {
    let disk = made(1);
    let before = disk.snapshot();
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.reserve_link(0).await.expect("the first");
        running.store.link_answered(0, [1; 16]).await.expect("reserved");
        running.stop().await;
        let folder = Path::new("/holder");
        let is_database = |path: &Path| !["slots", "slab", "header"].iter().any(|name| path.ends_with(name));
        for path in disk
            .list(folder)
            .expect("there")
            .iter()
            .filter(|path| is_database(path))
        {
            disk.remove(path).expect("there");
        }
        for path in before
            .list(folder)
            .expect("there")
            .iter()
            .filter(|path| is_database(path))
        {
            disk.restore_file(&before, path);
        }
        assert_eq!(Running::open(&disk, 3).err(), Some(StoreError::RestoredDatabase));
    });
}
