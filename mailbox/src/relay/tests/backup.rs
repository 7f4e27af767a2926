//! A copy of the database that is put back, with the index or without: what it knows nothing of is noticed or caught up with.

use super::*;

/// An account, a copy of all files, and the store in which the account has moved on since.
async fn copied_before_a_burn(files: &Files) -> (Issued, MemoryDisk, RelayFiles) {
    let store = files.open().await;
    let early = issue(&store).await;
    store.close().await;
    let backup = files.disk.snapshot();
    let store = files.open().await;
    let burned = store.burn(burn(early.account, 0)).await;
    assert!(burned.expect("readable").is_some());
    (early, backup, store)
}

#[test]
fn a_backup_of_a_live_store_is_whole_and_brings_nothing_back() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        for seq in 1..=30 {
            submit(&store, account, seq, &[b'x'; 20_000]).await.expect("executed");
        }
        let copy = Path::new("/copy");
        let copied = store.backup(copy).expect("room");
        assert_eq!((copied.bodies, store.backup(copy)), (30, Err(StoreError::Invalid)));
        let names: Vec<_> = files
            .disk
            .list(copy)
            .expect("made")
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        assert!(
            names
                .iter()
                .all(|name| name == "index.redb" || name.starts_with("segment-")),
            "{names:?}"
        );
        let gone = store.due(NOW, 1).expect("readable")[0];
        store.finish(gone, Outcome::Delivered).await.expect("recorded");
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        store.close().await;

        // Put in the place of the database: the slots have not moved, so nothing is frozen.
        for path in files.disk.list(Path::new(FOLDER)).expect("there") {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("segment-") || name == "index.redb" {
                files.disk.remove(&path).expect("there");
            }
        }
        for name in names {
            files
                .disk
                .rename(&copy.join(&name), &Path::new(FOLDER).join(&name))
                .expect("there");
        }
        let store = files.open().await;
        assert_eq!((store.frozen(), store.totals().expect("readable").queued), (0, 30));
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        let opened = |id| store.delivery(id).map(|delivery| delivery.is_some());
        assert_eq!(
            opened(gone),
            Err(StoreError::Corrupt),
            "its key was erased, and stays so"
        );
        let others = store
            .due(NOW, 100)
            .expect("readable")
            .into_iter()
            .filter(|id| *id != gone);
        assert!(others.map(opened).all(|opened| opened == Ok(true)));
        submit(&store, account, 31, b"y").await.expect("executed");
        store.close().await;
    });
}

#[test]
fn an_index_that_was_put_back_alone_catches_up_with_the_log() {
    run(async {
        let files = Files::new();
        let (early, backup, store) = copied_before_a_burn(&files).await;
        submit(&store, early.account, 1, b"x").await.expect("executed");
        store.close().await;
        files.restore(&backup, &["index"]);
        let store = files.open().await;
        assert_eq!((store.frozen(), store.totals().expect("readable").queued), (0, 1));
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}

#[test]
fn a_restored_database_freezes_its_accounts_and_only_those() {
    run(async {
        let files = Files::new();
        let (early, backup, store) = copied_before_a_burn(&files).await;
        store.close().await;
        files.restore(&backup, &["index", "segment"]);
        let store = files.open().await;
        assert_eq!(store.frozen(), 1);
        assert!(
            store
                .find_tag(&LinkChain::from_root(&early.root).step_at(1).expect("near").tag)
                .expect("readable")
                .is_none()
        );
        assert_eq!(
            store.burn(burn(early.account, 1)).await.err(),
            Some(StoreError::RestoredDatabase)
        );
        assert_eq!(
            submit(&store, early.account, 1, b"x").await.err(),
            Some(StoreError::RestoredDatabase)
        );
        let late = issue(&store).await;
        assert!(store.burn(burn(late.account, 0)).await.expect("readable").is_some());
        let mut to_both = mail_for(late.account, 0);
        to_both.recipients.push((early.account, 0));
        assert_eq!(store.deposit(to_both).await, Err(StoreError::RestoredDatabase));
        let next = submit(&store, late.account, 1, b"x").await;
        assert!(matches!(next, Ok(Answer::Done { .. })), "the next commit");
        assert!(!store.waiting(late.account), "a refused message reaches nobody");
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
        assert_eq!(files.open().await.frozen(), 1, "it stays frozen");
    });
}
