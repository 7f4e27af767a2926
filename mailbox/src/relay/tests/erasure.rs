//! What is used up is gone from the disk, and what is kept does not lie there in clear.

use super::*;
use crate::slots::SlotFile;

#[test]
fn a_used_chain_state_is_gone_from_both_copies_after_a_second() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let issued = issue(&store).await;
        store
            .burn(burn(issued.account, 1))
            .await
            .expect("readable")
            .expect("live");
        assert!(
            files.states().iter().any(|chains| chains.link.index() == 0),
            "not before the erasure is due"
        );
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        let states = files.states();
        assert_eq!(states.len(), 2);
        assert!(states.iter().all(|chains| chains.link.index() == 2));
        store.close().await;
    });
}

#[test]
fn with_erasure_switched_off_the_same_search_finds_the_states() {
    for keep_used_keys in [false, true] {
        run(async {
            let mut files = Files::new();
            files.config.keep_used_keys = keep_used_keys;
            let store = files.open().await;
            let issued = issue(&store).await;
            store
                .burn(burn(issued.account, 0))
                .await
                .expect("readable")
                .expect("live");
            store.close().await;
            let used = LinkChain::from_root(&issued.root);
            assert_eq!(files.holds(used.state().expose()), keep_used_keys);
        });
    }
}

#[test]
fn nothing_of_a_message_is_on_the_disk_in_clear_and_its_row_key_ends_with_it() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let Issued {
            account, identifier, ..
        } = issue(&store).await;
        submit(&store, account, 1, b"message-canary").await.expect("executed");
        let id = store.due(NOW, 1).expect("readable")[0];
        let change = Change {
            seq: 2,
            id: [1; 16],
            blind: [2; 16],
            acknowledged: 0,
            operation: alias_operation(),
        };
        let (digest, address) = (change.digest(), "alias-canary@relay.test".to_owned());
        let opened = store
            .execute((account, 0), change, digest, Effect::AliasOpen { address }, DAY, NOW)
            .await;
        assert!(matches!(opened, Ok(Answer::Done { .. })));
        let words = [
            &b"message-canary"[..],
            b"recipient-canary",
            b"sender-canary",
            b"alias-canary",
            &identifier.0,
        ];
        for canary in words {
            assert!(!files.holds(canary));
        }
        let base = &store.shared.base;
        let view = base.view().expect("open");
        let row = rows::SPOOL.get(&view, id.0).expect("readable").expect("queued");
        drop(view);
        let record = base.slab.read(row.record).expect("readable");
        assert!(files.holds(record.expose()));
        store.finish(id, Outcome::Delivered).await.expect("recorded");
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        assert!(!files.holds(record.expose()));
        store.close().await;
    });
}

#[test]
fn an_epoch_key_is_gone_when_the_stragglers_are_moved() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        submit(&store, account, 1, b"x").await.expect("executed");
        let old = store.shared.live().epochs.current().key.duplicate();
        store.upkeep(NOW, 30).await.expect("kept up");
        let path = PathBuf::from(FOLDER).join("epochs");
        let (_, bytes) = files
            .disk
            .files()
            .into_iter()
            .find(|(file, _)| *file == path)
            .expect("the epochs");
        let key = files.key("slots.key");
        let copies: Vec<_> = bytes
            .chunks(256)
            .filter_map(|copy| crate::vault::open(&key, copy).ok())
            .collect();
        assert_eq!(copies.len(), 2);
        assert!(
            copies
                .iter()
                .all(|copy| !copy.windows(32).any(|window| window == old.expose()))
        );
        assert!(
            store
                .delivery(store.due(NOW, 1).expect("readable")[0])
                .expect("readable")
                .is_some()
        );
        store.close().await;
    });
}

/// The slot file is opened by its own key only: a look into it from outside the store.
#[test]
fn slots_do_not_open_under_another_key() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        issue(&store).await;
        store.close().await;
        let entropy = Arc::new(SeededEntropy::new(1));
        let path = PathBuf::from(FOLDER).join("slots");
        let mut slots = SlotFile::open(&files.disk, &path, Secret::new([0; 32]), chains::SLOT_BYTES, entropy);
        let read = slots.as_mut().expect("opened").read(0);
        assert_eq!(read.err(), Some(StoreError::Corrupt));
    });
}
