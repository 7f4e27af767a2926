//! What becomes of a change, and of the value it costs.

use ledger::PriceList;

use super::*;
use crate::holder_store::{OutboxState, ValueMirror};
use crate::request::{Answer, Operation, Refusal};

fn done(seq: u64) -> Answer {
    Answer::Done {
        seq,
        debited: 10,
        balance: 90,
    }
}

fn refused(seq: u64, refusal: Refusal) -> Answer {
    Answer::Refused { seq, refusal }
}

#[test]
fn mail_waits_in_the_outbox_until_its_answer_and_its_text_is_gone_after() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let row = store.enqueue(order("letter", 10)).await.expect("room");
        assert_eq!(store.reserved(), Ok(10));
        assert_eq!(store.acknowledged(), 0);
        let queued = store.next_queued().expect("readable").expect("queued");
        assert_eq!((queued.row, queued.change.seq, &queued.label[..]), (row, 1, "letter"));
        assert_eq!(store.outbox_body(row), Ok(Some(vec![b'l'; 1_000])));
        let record = store.books().outbox[&row].record;
        let secret = store.shelf.base.slab.read(record).expect("taken");
        assert!(holds(&disk, secret.expose()));
        assert_eq!(
            store.answered(row, done(2), None, 5).await,
            Err(StoreError::Invalid),
            "another number"
        );
        store.answered(row, done(1), None, 5).await.expect("its answer");
        store
            .answered(row, done(1), None, 5)
            .await
            .expect("a repeated answer changes nothing");
        assert_eq!((store.reserved(), store.acknowledged()), (Ok(0), 1));
        assert!(store.outbox().expect("readable").is_empty());
        running.stop().await;
        assert!(!holds(&disk, secret.expose()));
    });
}

#[test]
fn mail_that_a_restored_copy_took_in_and_never_sent_gets_a_number_of_its_own() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let sent = store.enqueue(order("a", 10)).await.expect("room");
        assert!(store.outbox_body(sent).is_ok_and(|body| body.is_some()));
        let unsent = store.enqueue(order("b", 10)).await.expect("room");
        let before = store.outbox().expect("readable");
        store.raise_seq(told(41)).await.expect("raised");
        let after = store.outbox().expect("readable");
        let numbers: Vec<(u64, u64)> = after.iter().map(|row| (row.row, row.change.seq)).collect();
        assert_eq!(numbers, [(sent, 1), (unsent, 42)]);
        assert!(after[0].change.id == before[0].change.id && after[1].change.id != before[1].change.id);
        store.raise_seq(told(41)).await.expect("nothing to do");
        assert_eq!(store.outbox().expect("readable")[1].change.seq, 42);
        running.stop().await;
    });
}

#[test]
fn mail_that_was_never_sent_goes_behind_what_a_restored_relay_is_told_again() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let sent = store.enqueue(order("a", 10)).await.expect("room");
        assert!(store.outbox_body(sent).is_ok_and(|body| body.is_some()));
        let waiting = [
            store.enqueue(order("b", 10)).await.expect("room"),
            store.enqueue(order("c", 10)).await.expect("room"),
        ];
        let local = "again".to_owned();
        let open = Operation::AliasOpen { local };
        let told = store.enqueue_change(open, "again".into(), 10).await.expect("room");
        store
            .relay_restored(2, Some(b"Subject: restored\r\n\r\n".to_vec()), 10)
            .await
            .expect("durable");
        let order: Vec<u64> = store.outbox().expect("readable").iter().map(|row| row.row).collect();
        assert_eq!(order, [sent, told, waiting[0], waiting[1]]);
        running.stop().await;
    });
}

#[test]
fn what_another_copy_may_have_sent_under_a_number_of_its_own_goes_nowhere_by_itself() {
    let short = Refusal::Value { shortfall: 3 };
    let behind = Told {
        is_behind: true,
        ..told(2)
    };
    let restored = Told {
        generation: 9,
        ..told(41)
    };
    for (news, is_ahead) in [(told(2), false), (told(3), true), (behind, true), (restored, false)] {
        let disk = made(1);
        block_on(async {
            let running = Running::open(&disk, 2).expect("opens");
            let store = &running.store;
            let held = store.enqueue(order("held", 10)).await.expect("room");
            let waits = store.enqueue(order("waits", 10)).await.expect("room");
            assert!(store.outbox_body(waits).is_ok_and(|body| body.is_some()));
            store
                .answered(held, refused(1, short), None, 5)
                .await
                .expect("its answer");
            let labels = store.raise_seq(news).await.expect("raised");
            assert_eq!(labels.len(), usize::from(is_ahead));
            running.stop().await;
            let running = Running::open(&disk, 3).expect("opens");
            let store = &running.store;
            let rows = store.outbox().expect("readable");
            let of = |row| rows.iter().find(|shown| shown.row == row).expect("kept");
            let state = if is_ahead {
                OutboxState::Unknown
            } else {
                OutboxState::Held(short)
            };
            assert_eq!((of(held).state, of(waits).state), (state, OutboxState::Queued));
            assert_eq!(of(waits).is_shared, is_ahead);
            assert_eq!(
                store.release_held(PriceList::default(), 100).await,
                Ok(usize::from(!is_ahead))
            );
            let later = store.enqueue(order("later", 10)).await.expect("room");
            let rows = store.outbox().expect("readable");
            assert!(rows.iter().any(|row| row.row == later && !row.is_shared));
            running.stop().await;
        });
    }
}

#[test]
fn mail_that_lacks_value_is_held_and_goes_under_a_new_number_when_value_comes() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let prices = PriceList {
            version: 2,
            message: 5,
            kilobyte: 15,
            ..PriceList::default()
        };
        let rows = [
            store.enqueue(order("a", 10)).await.expect("room"),
            store.enqueue(order("b", 10)).await.expect("room"),
        ];
        let first = store.next_queued().expect("readable").expect("queued");
        let short = Refusal::Value { shortfall: 3 };
        let notice = b"Subject: held\r\n\r\n".to_vec();
        store
            .answered(rows[0], refused(1, short), Some(notice.clone()), 5)
            .await
            .expect("its answer");
        store
            .answered(rows[1], refused(2, short), None, 5)
            .await
            .expect("its answer");
        assert_eq!(store.message(FolderId::INBOX, 1), Ok(Some(notice)));
        assert!(store.next_queued().expect("readable").is_none());
        assert_eq!(store.reserved(), Ok(20), "held mail still reserves its price");
        assert_eq!(
            store.release_held(prices, 39).await,
            Ok(1),
            "the balance covers one of two at 20"
        );
        let again = store.next_queued().expect("readable").expect("queued");
        assert_eq!((again.row, again.change.seq, again.price), (rows[0], 3, 20));
        assert!(again.change.id != first.change.id && again.change.blind != first.change.blind);
        let Operation::Submit {
            prices: version,
            debit_max,
            ..
        } = again.change.operation
        else {
            panic!("mail")
        };
        assert_eq!((version, debit_max), (2, 20));
        assert_eq!(store.outbox_body(rows[0]), Ok(Some(vec![b'a'; 1_000])));
        assert_eq!(
            store.release_held(prices, 39).await,
            Ok(0),
            "what is queued is spoken for"
        );
        running.stop().await;
    });
}

#[test]
fn refusals_lead_where_they_should() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let cases = [
            (Refusal::Busy, OutboxState::Queued),
            (Refusal::Stale, OutboxState::Unknown),
            (
                Refusal::Price { price: 1, prices: 1 },
                OutboxState::Held(Refusal::Price { price: 1, prices: 1 }),
            ),
            (Refusal::Conflict, OutboxState::Held(Refusal::Conflict)),
            (Refusal::Sender, OutboxState::Refused(Refusal::Sender)),
        ];
        for (refusal, state) in cases {
            let row = store.enqueue(order("x", 1)).await.expect("room");
            let row_of = |row| {
                store
                    .outbox()
                    .expect("readable")
                    .into_iter()
                    .find(|shown| shown.row == row)
            };
            let seq = row_of(row).expect("there").change.seq;
            store
                .answered(row, refused(seq, refusal), None, 5)
                .await
                .expect("its answer");
            assert_eq!(row_of(row).expect("kept").state, state);
            assert_eq!(
                store.outbox_body(row).expect("readable").is_some(),
                !matches!(state, OutboxState::Unknown | OutboxState::Refused(_))
            );
        }
        running.stop().await;
    });
}

#[test]
fn what_may_have_been_sent_is_not_cancelled() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let (kept, dropped) = (
            store.enqueue(order("a", 1)).await.expect("room"),
            store.enqueue(order("b", 1)).await.expect("room"),
        );
        assert!(store.outbox_body(kept).expect("readable").is_some());
        assert_eq!(
            (store.cancel(kept).await, store.cancel(dropped).await),
            (Ok(false), Ok(true))
        );
        assert_eq!(store.cancel(dropped).await, Ok(false));
        let last = store.enqueue(order("c", 1)).await.expect("room");
        assert_eq!(store.acknowledged(), 0, "a number that never left is no answer");
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(
            running.store.cancel(last).await,
            Ok(false),
            "the process before may have sent it"
        );
        running.stop().await;
    });
}

#[test]
fn numbers_stay_above_the_relays_highest() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        store.raise_seq(told(41)).await.expect("raised");
        store.raise_seq(told(7)).await.expect("nothing to do");
        assert_eq!(store.acknowledged(), 41);
        let alias = Operation::AliasOpen {
            local: "new".to_owned(),
        };
        store
            .enqueue_change(alias, "alias new".to_owned(), 1)
            .await
            .expect("room");
        let row = store.next_queued().expect("readable").expect("queued");
        assert_eq!((row.change.seq, row.change.acknowledged), (42, 41));
        assert_eq!(store.raise_seq(told(u64::MAX)).await, Err(StoreError::Invalid));
        running.stop().await;
    });
}

#[test]
fn the_mirror_of_the_value_follows_a_debit_that_joins_on_to_it() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let value = ValueMirror {
            balance: 100,
            keys: 5,
            credits: 150,
            debits: 50,
            at: 1,
        };
        store.put_value(value, None).await.expect("noted");
        let row = store.enqueue(order("a", 10)).await.expect("room");
        store.answered(row, done(1), None, 5).await.expect("its answer");
        assert_eq!(
            store.value(),
            ValueMirror {
                balance: 90,
                debits: 60,
                at: 5,
                ..value
            }
        );
        let row = store.enqueue(order("b", 10)).await.expect("room");
        store.answered(row, done(2), None, 6).await.expect("its answer");
        assert_eq!(store.value().balance, 90, "an answer of before says nothing new");
        running.stop().await;
    });
}

#[test]
fn the_end_of_the_pack_is_noted_with_the_answer_and_closes_its_aliases() {
    const NOW: u64 = 20_000 * 86_400 + 5;
    let moved = |seq, keys, end| Answer::Moved {
        seq,
        keys,
        value: 0,
        end,
        balance: 0,
    };
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let keys = store.link_position().keys;
        let is_open = || store.aliases().expect("readable")[0].open;
        assert_eq!(store.expiry(), Ok(None));
        for (seq, day, noted) in [
            (1, Some(20_009), Some(20_009)),
            (2, None, None),
            (3, Some(20_001), Some(20_001)),
        ] {
            let operation = Operation::Expire { day };
            let row = store.enqueue_change(operation, "end".into(), NOW).await.expect("room");
            store
                .answered(row, moved(seq, 0, keys), None, NOW)
                .await
                .expect("its answer");
            assert_eq!((store.expiry(), is_open()), (Ok(Some(noted)), true));
        }
        // The day has come at the relay: it says so to whatever else is asked.
        let row = store.enqueue(order("late", 10)).await.expect("room");
        let ended = refused(4, Refusal::Ended);
        store
            .answered(row, ended, None, NOW + 86_400)
            .await
            .expect("its answer");
        assert_eq!((store.expiry(), is_open()), (Ok(Some(Some(20_001))), false));
        let operation = Operation::Expire { day: Some(0) };
        let row = store.enqueue_change(operation, "end".into(), NOW).await.expect("room");
        store
            .answered(row, moved(5, 0, 8), None, NOW + 9 * 86_400)
            .await
            .expect("its answer");
        // It stays the day on which it was.
        assert_eq!(store.expiry(), Ok(Some(Some(20_001))));
        assert_eq!(store.link_position().keys, 8);
    });
}
