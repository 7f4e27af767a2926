//! Batches, failing disks, and what can be read on them.

use std::collections::BTreeSet;

use super::*;
use crate::disk::SystemDisk;

#[test]
fn operations_that_come_together_share_a_commit_and_get_a_number_each() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let before = running.store.shelf.base.index.commit_number();
        let mut together = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let store = running.store.clone();
            together.spawn(async move { (store.enqueue(order("a", 1)).await, store.reserve_link(9).await.err()) });
        }
        let answers = together.join_all().await;
        let rows: BTreeSet<u64> = answers.iter().map(|(row, _)| *row.as_ref().expect("room")).collect();
        assert_eq!(rows.len(), 20);
        assert!(
            answers.iter().all(|(_, refusal)| *refusal == Some(StoreError::Invalid)),
            "a refusal spoils no batch"
        );
        let commits = running.store.shelf.base.index.commit_number() - before;
        assert!(commits < 10, "{commits} commits for 20 rows");
        running.stop().await;
    });
}

#[test]
fn nothing_readable_lies_on_the_disk() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let canary = "canary-93";
        store
            .enqueue(OutboxOrder {
                body: vec![b'#'; 1_000],
                ..order(canary, 1)
            })
            .await
            .expect("room");
        let text = format!("Message-ID: <{canary}@x>\r\nSubject: {canary}\r\n\r\n{canary}");
        store
            .append(FolderId::INBOX, text.into_bytes(), Vec::new(), Flags::default(), 1)
            .await
            .expect("room");
        running.stop().await;
    });
    for secret in [
        &b"canary-93"[..],
        b"first@relay.test",
        b"relay.test",
        &[b'#'; 32],
        root().expose(),
    ] {
        assert!(!holds(&disk, secret));
    }
}

#[test]
fn a_commit_that_fails_leaves_all_or_nothing_and_the_store_goes_on() {
    for nth in 0..24 {
        let disk = made(1);
        block_on(async {
            let running = Running::open(&disk, 2).expect("opens");
            let store = &running.store;
            store
                .append(FolderId::INBOX, b"before".to_vec(), Vec::new(), Flags::default(), 1)
                .await
                .expect("room");
            disk.fail_nth(nth);
            let outcome = store
                .append(FolderId::INBOX, b"under way".to_vec(), Vec::new(), Flags::default(), 2)
                .await;
            let mut after = store
                .append(FolderId::INBOX, b"after".to_vec(), Vec::new(), Flags::default(), 3)
                .await;
            if after.is_err() {
                // The failure struck what was to mend an earlier one, or this operation itself.
                after = store
                    .append(FolderId::INBOX, b"after".to_vec(), Vec::new(), Flags::default(), 3)
                    .await;
            }
            let after = after.unwrap_or_else(|error| panic!("operation {nth}: {outcome:?}, then {error}"));
            let inbox = store.inbox();
            let texts: Vec<_> = inbox
                .entries
                .iter()
                .map(|entry| {
                    store
                        .message(FolderId::INBOX, entry.uid)
                        .expect("readable")
                        .expect("there")
                })
                .collect();
            assert!(texts.first().is_some_and(|text| text == b"before"));
            assert!(texts.last().is_some_and(|text| text == b"after"));
            assert!(outcome.is_err() || texts.len() == 3, "operation {nth}: {outcome:?}");
            assert_eq!(inbox.entries.last().map(|entry| entry.uid), Some(after));
            running.stop().await;
        });
    }
}

#[test]
fn it_works_on_the_real_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let path = folder.path().join("a");
    HolderFiles::create(&disk, &path, &issue(1), PASSPHRASE, &options(), &entropy(1)).expect("made");
    block_on(async {
        let text = vec![b'x'; 3 << 20];
        let running = Running::open_with(&disk, &path, &options(), 2).expect("opens");
        let uid = running
            .store
            .append(FolderId::INBOX, text.clone(), summary_of(&text), Flags::SEEN, 7)
            .await
            .expect("room");
        running.stop().await;
        let running = Running::open_with(&disk, &path, &options(), 3).expect("opens");
        assert_eq!(running.store.message(FolderId::INBOX, uid), Ok(Some(text)));
        assert!(path.join("header").exists());
        running.stop().await;
    });
}

#[test]
fn a_row_whose_cancelling_failed_is_still_sent() {
    block_on(async {
        let mut failed = 0;
        for nth in 0..16 {
            let disk = made(1);
            let running = Running::open(&disk, 2).expect("opened");
            let store = &running.store;
            let row = store.enqueue(order("first", 10)).await.expect("durable");
            disk.fail_nth(nth);
            let (_, cancelled) = tokio::join!(store.enqueue(order("other", 10)), store.cancel(row));
            if cancelled.is_err() && store.books().outbox.contains_key(&row) {
                failed += 1;
                let next = store.next_queued().expect("readable").map(|next| next.row);
                assert_eq!(next, Some(row), "{nth}");
            }
            running.stop().await;
        }
        assert!(failed > 0, "no failure hit the commit");
    });
}
