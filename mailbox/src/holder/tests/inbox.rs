//! Deposits and INBOX.

use zeroize::Zeroizing;

use super::*;
use crate::disk::RESERVE_BYTES;
use crate::holder::rows::SUMMARIES;
use crate::holder_store::{SUMMARY_BYTES_MAX, ValueMirror};

#[test]
fn a_deposit_told_twice_is_stored_once_and_its_key_is_erased() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let step = store.post_step(0).expect("the first");
        store.collected(vec![deposit(&step)], 1).await.expect("in order");
        assert!(store.post_step(0).is_none());
        let secret = store
            .shelf
            .base
            .slab
            .read(store.books().deposits[&0].record)
            .expect("taken");
        let text = || vec![opened(0, b"text".to_vec(), 9)];
        let uids = store.store_deposits(text()).await.expect("pending");
        assert_eq!(store.store_deposits(text()).await, Ok(uids));
        assert_eq!(store.inbox().entries.len(), 1);
        assert!(store.pending().expect("readable").is_empty());
        assert_eq!(store.unconfirmed(), Ok(vec![(0, [0; 32])]));
        store.confirmed(vec![0]).await.expect("told");
        assert_eq!(store.unconfirmed(), Ok(Vec::new()));
        assert_eq!(store.store_deposits(text()).await, Err(StoreError::NoRow));
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
    });
}

/// A store with the first `count` deposits pending.
pub(super) async fn pending(disk: &MemoryDisk, count: u64) -> Running {
    let running = Running::open(disk, 2).expect("opens");
    let steps = running.store.post_steps(count);
    let deposits = steps.iter().map(deposit).collect();
    running.store.collected(deposits, count).await.expect("in order");
    running
}

#[test]
fn deposits_that_are_stored_together_share_a_commit_and_keep_their_order() {
    let disk = made(1);
    block_on(async {
        let running = pending(&disk, 4).await;
        let store = &running.store;
        let text = |index: u64| opened(index, index.to_string().into_bytes(), 9);
        let before = store.shelf.base.index.commit_number();
        assert_eq!(
            store.store_deposits(vec![text(2), text(0), text(2)]).await,
            Ok(vec![1, 2, 1])
        );
        assert_eq!(store.shelf.base.index.commit_number(), before + 1);
        assert_eq!(store.store_deposits(vec![text(3), text(0)]).await, Ok(vec![3, 2]));
        let found = [1, 2, 3].map(|uid| store.message(FolderId::INBOX, uid).expect("readable").expect("there"));
        assert_eq!(found, [b"2", b"0", b"3"]);
        let unconfirmed = store.unconfirmed().expect("readable");
        assert_eq!(unconfirmed, [(0, [0; 32]), (2, [2; 32]), (3, [3; 32])]);
        running.stop().await;
    });
}

#[test]
fn one_deposit_that_is_not_there_refuses_all_that_came_with_it() {
    let disk = made(1);
    block_on(async {
        let running = pending(&disk, 2).await;
        let store = &running.store;
        let text = |index: u64| opened(index, b"text".to_vec(), 9);
        assert_eq!(
            store.store_deposits(vec![text(0), text(2)]).await,
            Err(StoreError::NoRow)
        );
        let many = (0..=STORED_MAX).map(|_| text(0)).collect();
        assert_eq!(store.store_deposits(many).await, Err(StoreError::Invalid));
        assert!(store.inbox().entries.is_empty());
        assert_eq!(store.pending().expect("readable").len(), 2);
        running.stop().await;
    });
}

#[test]
fn deposits_are_stored_as_far_as_there_is_room_and_the_rest_stays_pending() {
    let disk = made(1);
    block_on(async {
        let running = pending(&disk, 3).await;
        let store = &running.store;
        let text = |index: u64, length: usize| opened(index, vec![b'x'; length], 9);
        let outcome = |lengths: [usize; 3]| {
            let all = (0..).zip(lengths).map(|(index, length)| text(index, length));
            store.store_deposits(all.collect())
        };
        disk.set_free_bytes(Some(RESERVE_BYTES + (600 << 10)));
        assert_eq!(outcome([100 << 10, 800 << 10, 10]).await, Ok(vec![1]));
        assert_eq!(outcome([100 << 10, 800 << 10, 10]).await, Ok(vec![1]), "told again");
        let waiting: Vec<_> = store
            .pending()
            .expect("readable")
            .iter()
            .map(|pending| pending.index)
            .collect();
        assert_eq!(waiting, [1, 2]);
        assert_eq!(
            store.store_deposits(vec![text(1, 800 << 10)]).await,
            Err(StoreError::Full)
        );
        disk.set_free_bytes(None);
        assert_eq!(outcome([100 << 10, 800 << 10, 10]).await, Ok(vec![1, 2, 3]));
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens");
        let sizes: Vec<_> = running.store.inbox().entries.iter().map(|entry| entry.size).collect();
        assert_eq!(sizes, [100 << 10, 800 << 10, 10]);
        running.stop().await;
    });
}

#[test]
fn a_crash_between_storing_and_confirming_keeps_message_and_confirmation() {
    for seed in 0..8 {
        let disk = made(1);
        block_on(async {
            let running = pending(&disk, 3).await;
            let all = |range: std::ops::Range<u64>| range.map(|index| opened(index, vec![b'x'; 2_000], 9)).collect();
            let stored = running.store.store_deposits(all(0..3)).await.expect("pending");
            disk.crash(seed);
            running.abandon().await;
            let running = Running::open(&disk, 3).expect("opens");
            let store = &running.store;
            assert!(store.pending().expect("readable").is_empty());
            assert_eq!(store.unconfirmed().expect("readable").len(), 3);
            assert_eq!(store.store_deposits(all(0..3)).await, Ok(stored), "not a second time");
            assert_eq!(store.inbox().entries.len(), 3);
            running.stop().await;
        });
    }
}

#[test]
fn keys_of_gaps_and_of_damaged_deposits_are_kept_for_their_time() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let (gap, damaged) = (store.post_step(1).expect("ahead"), store.post_step(2).expect("ahead"));
        store.collected(vec![deposit(&damaged)], 3).await.expect("in order");
        assert!(store.post_step(1).expect("kept").key == gap.key);
        let start = 20_000 * 86_400;
        store
            .abandon_deposit(2, b"damaged".to_vec(), start)
            .await
            .expect("pending");
        assert!(store.pending().expect("readable").is_empty() && store.books().deposits.contains_key(&2));
        let late = store.post_step(0).expect("kept");
        store
            .collected(vec![deposit(&late)], 3)
            .await
            .expect("a wrap may fill its gap");
        assert!(store.post_step(0).is_none());
        let later = ValueMirror {
            at: start + 30 * 86_400,
            ..ValueMirror::default()
        };
        store.put_value(later, None).await.expect("noted");
        store.collected(Vec::new(), 3).await.expect("nothing new");
        assert!(store.post_step(1).is_none() && !store.books().deposits.contains_key(&2));
        assert_eq!(
            store.collected(Vec::new(), 2).await,
            Err(StoreError::Invalid),
            "never backwards"
        );
        running.stop().await;
    });
}

#[test]
fn inbox_keeps_uids_for_ever_and_forgets_what_is_expunged() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let mut changed = store.changed();
        let before = store.inbox();
        let text = |n: u8| format!("Message-ID: <{n}@x>\r\n\r\ntext {n}").into_bytes();
        for n in 1..=3 {
            assert_eq!(
                store
                    .append(FolderId::INBOX, text(n), summary_of(&text(n)), Flags::default(), 7)
                    .await,
                Ok(u32::from(n))
            );
        }
        assert!(before.entries.is_empty(), "a snapshot does not move");
        assert!(changed.has_changed().expect("open") && *changed.borrow_and_update() > 1);
        let version = store.inbox().version;
        store
            .change_flags(FolderId::INBOX, flagging(vec![2, 9], FlagChange::Add(Flags::SEEN)))
            .await
            .expect("one is there");
        store
            .change_flags(FolderId::INBOX, flagging(vec![2], FlagChange::Add(Flags::SEEN)))
            .await
            .expect("nothing to do");
        assert_eq!(store.inbox().version, version + 1);
        let secret = {
            let view = store.shelf.base.view().expect("open");
            let (key, _) = store.shelf.message_row(&view, 3).expect("readable").expect("there");
            store.shelf.base.slab.read(key.record).expect("taken")
        };
        assert_eq!(store.expunge(FolderId::INBOX, vec![3, 9]).await, Ok(vec![3]));
        assert_eq!(
            (store.message(FolderId::INBOX, 3), store.message(FolderId::INBOX, 2)),
            (Ok(None), Ok(Some(text(2))))
        );
        let validity = store.inbox().uid_validity;
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
        let running = Running::open(&disk, 3).expect("opens");
        let inbox = running.store.inbox();
        assert_eq!((inbox.uid_validity, inbox.uid_next), (validity, 4));
        assert_eq!(
            inbox.entries.iter().map(|e| (e.uid, e.flags)).collect::<Vec<_>>(),
            [(1, Flags::default()), (2, Flags::SEEN)]
        );
        assert_eq!(
            running
                .store
                .append(FolderId::INBOX, text(4), Vec::new(), Flags::default(), 7)
                .await,
            Ok(4),
            "no UID comes back"
        );
        running.stop().await;
    });
}

#[test]
fn a_summary_ends_with_its_message_and_lies_nowhere_in_clear() {
    let disk = made(1);
    let kept = |uids: &[u8]| -> Vec<_> {
        let summary = |n: &u8| (*n > 0).then(|| Zeroizing::new(summary_of(&[*n; 40])));
        uids.iter().map(summary).collect()
    };
    block_on(async {
        let running = pending(&disk, 1).await;
        let store = &running.store;
        let stored = store.store_deposits(vec![opened(0, vec![1; 40], 9)]).await;
        assert_eq!(stored, Ok(vec![1]));
        let add = async |n: u8, summary| {
            store
                .append(FolderId::INBOX, vec![n; 40], summary, Flags::default(), 7)
                .await
        };
        assert_eq!(add(2, summary_of(&[2; 40])).await, Ok(2));
        assert_eq!(add(3, Vec::new()).await, Ok(3));
        assert_eq!(add(4, vec![4; SUMMARY_BYTES_MAX + 1]).await, Ok(4));
        assert_eq!(add(5, summary_of(&[5; 40])).await, Ok(5));
        assert_eq!(
            store.summaries(FolderId::INBOX, &[5, 4, 3, 2, 1, 9]),
            Ok(kept(&[5, 0, 0, 2, 1, 0]))
        );
        store
            .change_flags(FolderId::INBOX, flagging(vec![2], FlagChange::Add(Flags::SEEN)))
            .await
            .expect("there");
        let filed = {
            let view = store.shelf.base.view().expect("open");
            SUMMARIES.get(&view, 2).expect("readable").expect("kept")
        };
        let secret = store.shelf.base.slab.read(filed.record).expect("taken");
        assert_eq!(store.expunge(FolderId::INBOX, vec![2]).await, Ok(vec![2]));
        assert_eq!(store.summaries(FolderId::INBOX, &[1, 2, 5]), Ok(kept(&[1, 0, 5])));
        {
            let view = store.shelf.base.view().expect("open");
            assert!(SUMMARIES.get(&view, 2).expect("readable").is_none(), "no row is left");
        }
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
        assert!(!holds(&disk, &summary_of(&[])));
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(
            running.store.summaries(FolderId::INBOX, &[5, 2, 1]),
            Ok(kept(&[5, 0, 1]))
        );
        running.stop().await;
    });
}
