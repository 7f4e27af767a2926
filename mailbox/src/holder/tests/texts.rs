//! Texts that are read piece by piece.

use super::*;
use crate::bodies::BODIES;
use crate::holder::rows::number_of;
use crate::holder_store::MessageText;

/// Of so many octets, no two chunks of which are alike.
fn text_of(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at * at / 7_919) as u8).collect()
}

async fn append(store: &HolderFiles, text: &[u8]) -> u32 {
    let appended = store.append(FolderId::INBOX, text.to_vec(), Vec::new(), Flags::default(), 1);
    appended.await.expect("room")
}

/// All of a text, and in how many pieces it came.
fn read(text: &dyn MessageText) -> Result<(Vec<u8>, usize), StoreError> {
    let (mut whole, mut pieces) = (Vec::new(), 0);
    while whole.len() < text.len() {
        let piece = text.read(whole.len())?;
        assert!((1..=64 << 10).contains(&piece.len()));
        whole.extend_from_slice(&piece);
        pieces += 1;
    }
    assert!(text.read(whole.len())?.is_empty());
    Ok((whole, pieces))
}

#[test]
fn texts_of_every_length_come_back_in_pieces_and_from_anywhere() {
    const CHUNK: usize = 64 << 10;
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let lengths = [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5, 300_000, 3 << 20];
        for length in lengths {
            append(store, &text_of(length)).await;
        }
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens again");
        for (uid, length) in (1..).zip(lengths) {
            let text = running
                .store
                .text(FolderId::INBOX, uid)
                .expect("readable")
                .expect("there");
            let whole = text_of(length);
            assert_eq!(read(&*text), Ok((whole.clone(), length.div_ceil(CHUNK))));
            for at in [length / 3, length.saturating_sub(1), length + 1] {
                let end = length.min(at - at % CHUNK + CHUNK);
                let piece = text.read(at).expect("readable");
                assert_eq!(piece[..], whole[at.min(end)..end]);
            }
            assert_eq!(running.store.message(FolderId::INBOX, uid), Ok(Some(whole)));
        }
        assert!(running.store.text(FolderId::INBOX, 99).expect("readable").is_none());
        running.stop().await;
    });
}

#[test]
fn a_long_text_of_before_there_were_chunks_is_read() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let text = text_of(200_000);
        append(store, &text).await;
        let old = text.clone();
        // As `append` wrote it then: one box under the key of the row.
        let written = store.run(move |stage, write| {
            let number = number_of(FolderId::INBOX, 1);
            let (before, mut row) = stage.shelf.message_row(write, number)?.ok_or(StoreError::NoRow)?;
            let (key, body) = stage.shelf.put_body(write, &old)?;
            stage.shelf.base.release_body(write, row.body)?;
            stage.shelf.base.slab.finish(before.record);
            row.body = body;
            stage
                .shelf
                .put(write, &crate::holder::rows::MESSAGES, number, &key, &row)
        });
        written.await.expect("room");
        let found = store.text(FolderId::INBOX, 1).expect("readable").expect("there");
        assert_eq!(read(&*found).map(|(whole, _)| whole), Ok(text.clone()));
        assert_eq!(store.message(FolderId::INBOX, 1), Ok(Some(text)));
        running.stop().await;
    });
}

/// Whatever is done to the message and to the store meanwhile: expunged, its key erased, its place wanted by others.
#[test]
fn a_text_that_is_being_read_outlives_its_message_and_then_its_room_is_used_again() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let long = text_of(700_000);
        let uid = append(store, &long).await;
        let text = store.text(FolderId::INBOX, uid).expect("readable").expect("there");
        let begun = text.read(0).expect("readable");
        store.expunge(FolderId::INBOX, vec![uid]).await.expect("there");
        assert!(store.text(FolderId::INBOX, uid).expect("readable").is_none());
        // Enough to go around through all segments that are used again.
        churn(store, 60).await;
        assert_eq!(begun[..], long[..begun.len()]);
        assert_eq!(read(&*text).map(|(whole, _)| whole), Ok(long));
        let segments = |disk: &MemoryDisk| {
            let files = disk.files().into_iter();
            files
                .filter(|(path, _)| path.to_string_lossy().contains("segment-"))
                .count()
        };
        let before = segments(&disk);
        drop(text);
        churn(store, 10).await;
        assert!(segments(&disk) < before, "{before}");
        running.stop().await;
    });
}

/// Appends and expunges messages that fill a segment each.
async fn churn(store: &HolderFiles, times: usize) {
    for _ in 0..times {
        let uid = append(store, &text_of(900_000)).await;
        store.expunge(FolderId::INBOX, vec![uid]).await.expect("there");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// A body that was damaged on the disk, or whose row tells another length, gives an error and no octet of that chunk.
#[test]
fn what_does_not_open_is_an_error_at_its_chunk() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let length = 300_000;
        append(store, &text_of(length)).await;
        let text = store.text(FolderId::INBOX, 1).expect("readable").expect("there");
        let view = store.shelf.base.view().expect("open");
        let (_, row) = store
            .shelf
            .message_row(&view, number_of(FolderId::INBOX, 1))
            .expect("readable")
            .expect("there");
        let body = BODIES.get(&view, row.body).expect("readable").expect("there").location;
        drop(view);
        let path = format!("{FOLDER}/segment-{:06}", body.segment);
        let file = shared(&disk).open(Path::new(&path), false).expect("there");
        // In the third chunk.
        let at = body.offset + 2 * 65_576 + 100;
        let mut byte = [0];
        file.read_at(at, &mut byte).expect("long enough");
        file.write_at(at, &[byte[0] ^ 1]).expect("room");
        assert_eq!(text.read(65_536).map(|piece| piece.len()), Ok(65_536));
        assert_eq!(text.read(2 * 65_536), Err(StoreError::Corrupt));
        assert_eq!(text.read(2 * 65_536 + 65_535), Err(StoreError::Corrupt));
        assert_eq!(text.read(3 * 65_536).map(|piece| piece.len()), Ok(65_536));
        let changed = store.run(|stage, write| {
            let number = number_of(FolderId::INBOX, 1);
            let (key, mut row) = stage.shelf.message_row(write, number)?.ok_or(StoreError::NoRow)?;
            row.size -= 70_000;
            stage
                .shelf
                .put(write, &crate::holder::rows::MESSAGES, number, &key, &row)
        });
        changed.await.expect("room");
        assert_eq!(store.text(FolderId::INBOX, 1).map(|_| ()), Err(StoreError::Corrupt));
        running.stop().await;
    });
}

/// Its row is gone with the commit, and only then it is not shown any more.
#[test]
fn a_message_between_its_end_and_the_news_of_it_is_gone_and_no_error() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        append(store, &text_of(300_000)).await;
        append(store, b"another").await;
        let found = |uid| store.unless_gone(FolderId::INBOX, uid, Err::<Option<()>, _>(StoreError::NoRow));
        assert_eq!(found(1), Err(StoreError::NoRow), "it is there: something else is wrong");
        // As the commit of an EXPUNGE leaves the index, before the actor shows it.
        let ended = store.shelf.base.commit_now(|write| {
            let number = number_of(FolderId::INBOX, 1);
            let (key, row) = store.shelf.message_row(write, number)?.ok_or(StoreError::NoRow)?;
            store
                .shelf
                .remove(write, &crate::holder::rows::MESSAGES, number, key.record)?;
            store.shelf.base.release_body(write, row.body).map(|_| ())
        });
        ended.expect("committed");
        assert_eq!(store.inbox().entries.len(), 2, "it is still shown");
        assert_eq!(found(1), Ok(None));
        assert_eq!(found(2), Err(StoreError::NoRow));
        assert!(store.text(FolderId::INBOX, 1).expect("no error").is_none());
        drop(running.store);
        running.actor.abort();
    });
}
