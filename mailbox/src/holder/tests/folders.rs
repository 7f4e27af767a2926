//! Folders beside what the model judges: stores of before, keys and texts of copies, what concerns many messages.

use super::*;
use crate::bodies::BODIES;
use crate::holder::create::open_base;
use crate::holder::messages::CHANGED_MAX;
use crate::holder::rows::{CATALOGUE, COUNTS, FOLDERS, InboxRow, MESSAGES, MessageRow, STATE, SUMMARIES, number_of};
use crate::holder::shelf::Shelf;
use crate::holder_store::{FolderError, KEYWORDS_MAX, SpecialUse};
use crate::tables::Single;

fn text(n: u8) -> Vec<u8> {
    vec![n; 60]
}

async fn append(running: &Running, folder: FolderId, n: u8, flags: Flags) -> u32 {
    let appended = running.store.append(folder, text(n), summary_of(&text(n)), flags, 7);
    appended.await.expect("room")
}

/// Text and summary of a message.
fn read(running: &Running, folder: FolderId, uid: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = running.store.message(folder, uid).expect("readable")?;
    let summary = running.store.summaries(folder, &[uid]).expect("readable").remove(0);
    Some((text, summary.expect("it came with one").to_vec()))
}

fn named(running: &Running, name: &str) -> FolderId {
    running.store.folders().by_name(name).expect("there").id
}

/// Makes the rows of a store what they were before there were folders.
fn take_folders_away(disk: &MemoryDisk) {
    let (base, _) = open_base(
        &shared(disk),
        Path::new(FOLDER),
        PASSPHRASE,
        options().bounds,
        &entropy(3),
    )
    .expect("opens");
    let shelf = Shelf::new(base);
    let written = shelf.base.commit_now(|write| {
        let mut state = STATE.get(write, Single)?.expect("there");
        for uid in 1..=3 {
            let (key, row) = shelf.message_row(write, uid)?.expect("there");
            let row = InboxRow {
                flags: u8::try_from(row.flags.0).expect("no keywords"),
                size: row.size,
                internal_date: row.internal_date,
                body: row.body,
            };
            shelf.put(write, &MESSAGES, uid, &key, &row)?;
            state.uid_next = u32::try_from(uid).expect("small") + 1;
        }
        STATE.put(write, Single, &state)?;
        CATALOGUE.remove(write, 0)?;
        (0..=5).try_for_each(|id| {
            FOLDERS.remove(write, id)?;
            COUNTS.remove(write, id)
        })
    });
    written.expect("written");
    shelf.base.close();
}

#[test]
fn a_store_of_before_there_were_folders_opens_with_all_its_mail() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        for n in 1..=3 {
            append(&running, FolderId::INBOX, n, Flags(u32::from(n) * 8)).await;
        }
        let validity = running.store.inbox().uid_validity;
        running.stop().await;
        take_folders_away(&disk);
        for seed in 4..6 {
            let running = Running::open(&disk, seed).expect("opens");
            let inbox = running.store.inbox();
            assert_eq!((inbox.uid_validity, inbox.uid_next), (validity, 4));
            let shown = |entry: &crate::holder_store::Entry| (entry.uid, entry.flags.0, entry.modseq);
            assert_eq!(
                inbox.entries.iter().map(shown).collect::<Vec<_>>(),
                [(1, 8, 1), (2, 16, 1), (3, 24, 1)]
            );
            for n in 1..=3 {
                let expected = (text(n), summary_of(&text(n)));
                assert_eq!(read(&running, FolderId::INBOX, n.into()), Some(expected));
            }
            let folders = running.store.folders();
            let names: Vec<_> = folders.all.iter().map(|folder| folder.name.as_str()).collect();
            assert_eq!(names, ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]);
            assert_eq!(folders.all[4].special_use, Some(SpecialUse::Sent));
            assert!(names.iter().all(|name| folders.subscribed.contains(*name)));
            running.stop().await;
        }
        let running = Running::open(&disk, 7).expect("opens");
        let sent = named(&running, "Sent");
        let seen = flagging(vec![1], FlagChange::Add(Flags::SEEN.with(Flags(1 << 20))));
        assert_eq!(running.store.change_flags(FolderId::INBOX, seen).await, Ok(vec![]));
        assert_eq!(
            running.store.copy(FolderId::INBOX, vec![1, 2], sent).await,
            Ok(vec![(1, 1), (2, 2)])
        );
        assert_eq!(
            running.store.move_to(FolderId::INBOX, vec![3], sent).await,
            Ok(vec![(3, 3)])
        );
        running.stop().await;
        let running = Running::open(&disk, 8).expect("opens");
        for n in 1..=3 {
            assert_eq!(read(&running, sent, n.into()), Some((text(n), summary_of(&text(n)))));
        }
        assert_eq!(
            running.store.folder(sent).expect("there").entries[0].flags,
            Flags(8 | 1 << 20)
        );
        running.stop().await;
    });
}

#[test]
fn a_message_row_of_before_reads_as_it_was_written() {
    let written = [1, 9, 0xac, 2, 7, 5];
    let row = MessageRow::decode(4, &written).expect("the form of before");
    assert_eq!(
        (row.flags, row.size, row.internal_date, row.body),
        (Flags(9), 300, 7, 5)
    );
    assert_eq!((row.modseq, row.summary, row.keys.is_none()), (1, 4, true));
    let again = vault::encode(&row);
    assert_eq!(MessageRow::decode(5, &again).expect("today's form").summary, 4);
    assert!(vault::decode::<InboxRow>(&again).is_err(), "neither form is the other");
    assert!(MessageRow::decode(4, &written[..5]).is_err());
}

#[test]
fn a_copy_outlives_its_original_and_the_text_ends_with_the_last() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let (archive, trash) = (named(&running, "Archive"), named(&running, "Trash"));
        append(&running, FolderId::INBOX, 1, Flags::FLAGGED).await;
        let secret = |folder, uid| {
            let shelf = &running.store.shelf;
            let row = shelf.message_row(&shelf.base.view().expect("open"), number_of(folder, uid));
            let (key, _) = row.expect("readable").expect("there");
            Secret::new(*shelf.base.slab.read(key.record).expect("taken").expose())
        };
        let original = secret(FolderId::INBOX, 1);
        assert_eq!(
            running.store.copy(FolderId::INBOX, vec![1, 9], trash).await,
            Ok(vec![(1, 1)])
        );
        assert_eq!(running.store.expunge(FolderId::INBOX, vec![1]).await, Ok(vec![1]));
        let copy = secret(trash, 1);
        assert_eq!(read(&running, FolderId::INBOX, 1), None);
        assert_eq!(
            running.store.summaries(FolderId::INBOX, &[1]),
            Ok(vec![None]),
            "the copy's is not shown for it"
        );
        // A copy of the copy, which moves.
        assert_eq!(running.store.copy(trash, vec![1], trash).await, Ok(vec![(1, 2)]));
        assert_eq!(running.store.move_to(trash, vec![2], archive).await, Ok(vec![(2, 1)]));
        running.stop().await;
        assert!(!holds(&disk, original.expose()) && holds(&disk, copy.expose()));
        let running = Running::open(&disk, 3).expect("opens");
        let expected = Some((text(1), summary_of(&text(1))));
        assert_eq!(
            (read(&running, trash, 1), read(&running, archive, 1)),
            (expected.clone(), expected)
        );
        assert_eq!(
            running.store.folder(archive).expect("there").entries[0].flags,
            Flags::FLAGGED
        );
        running.store.delete_folder(trash).await.expect("there");
        assert!(read(&running, archive, 1).is_some() && running.store.folder(trash).is_none());
        assert_eq!(running.store.expunge(archive, vec![1]).await, Ok(vec![1]));
        {
            let view = running.store.shelf.base.view().expect("open");
            let left = |_, _| panic!("something of the message is left");
            BODIES.scan(&view, (0, u64::MAX), left).expect("readable");
            SUMMARIES
                .scan(&view, (0, u64::MAX), |_, _| panic!("a summary is left"))
                .expect("readable");
        }
        running.stop().await;
        assert!(!holds(&disk, copy.expose()));
    });
}

#[test]
fn what_concerns_very_many_messages_is_done_to_all_of_them() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        for n in 0..17 {
            append(&running, FolderId::INBOX, n, Flags::default()).await;
        }
        let uids = |folder| -> Vec<u32> {
            let snapshot = store.folder(folder).expect("there");
            snapshot.entries.iter().map(|entry| entry.uid).collect()
        };
        for _ in 0..8 {
            store
                .copy(FolderId::INBOX, uids(FolderId::INBOX), FolderId::INBOX)
                .await
                .expect("room");
        }
        let all = uids(FolderId::INBOX);
        assert!(all.len() > CHANGED_MAX);
        let commits = store.shelf.base.index.commit_number();
        let seen = flagging(all.clone(), FlagChange::Add(Flags::SEEN));
        assert_eq!(store.change_flags(FolderId::INBOX, seen).await, Ok(Vec::new()));
        assert!(store.shelf.base.index.commit_number() >= commits + 2, "in parts");
        assert!(store.inbox().entries.iter().all(|entry| entry.flags == Flags::SEEN));
        store
            .rename_folder(FolderId::INBOX, "old/mail".to_owned())
            .await
            .expect("a new name");
        let old = named(&running, "old/mail");
        assert_eq!((store.inbox().entries.len(), uids(old).len()), (0, all.len()));
        // They came as 0 to 16, doubled again and again.
        assert_eq!(read(&running, old, 4_000), Some((text(4), summary_of(&text(4)))));
        store.delete_folder(old).await.expect("there");
        assert_eq!(
            store.append(old, text(1), Vec::new(), Flags::default(), 7).await,
            Err(FolderError::NoFolder)
        );
        let (base, mut left) = (&store.shelf.base, 0);
        let count = |_, _| {
            left += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        MESSAGES
            .scan(&base.view().expect("open"), (0, u64::MAX), count)
            .expect("readable");
        assert_eq!(left, 0);
        running.stop().await;
    });
}

#[test]
fn keywords_are_as_many_as_flags_have_bits() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let mut all = Flags::SYSTEM;
        for number in 0..KEYWORDS_MAX {
            let flag = store
                .keyword(format!("$k{number}"))
                .await
                .expect("durable")
                .expect("room");
            assert!(!all.contains(flag));
            all = all.with(flag);
        }
        assert_eq!(store.keyword("$more".to_owned()).await, Ok(None));
        assert_eq!(store.keyword(String::new()).await, Ok(None));
        assert_eq!(store.keyword("$K3".to_owned()).await, Ok(Flags::keyword(3)));
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(running.store.folders().keyword("$k25"), Flags::keyword(25));
        running.stop().await;
    });
}
