//! Private parts of deliveries that callers sealed before the commit.

use std::collections::BTreeSet;

use super::*;
use crate::relay::changes::{Action, Execution};

fn recipients(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("recipient-{n}@example.org")).collect()
}

/// A message to so many, sealed by its caller and not committed.
fn sealed(store: &RelayFiles, account: Account, seq: u64, count: usize) -> Execution {
    let change = change(seq);
    let spooled = spooled(recipients(count), b"text");
    Execution {
        account: account.0,
        root: 0,
        digest: change.digest(),
        change,
        action: store.prepare(account, Effect::Spool(spooled)).expect("in order"),
        day: DAY,
        now: NOW,
    }
}

fn count_ahead(order: &Execution) -> usize {
    match &order.action {
        Action::Spool(sealed) => sealed.ahead.borrow().iter().flatten().count(),
        _ => 0,
    }
}

async fn commit(store: &RelayFiles, order: Execution) {
    let run = store.committer.run(move |stage, write| stage.execute(write, &order));
    assert!(matches!(run.await, Ok(Answer::Done { .. })));
}

/// Ends the deliveries that wait, which must be one for each of the recipients, and readable.
async fn deliver(store: &RelayFiles, count: usize) {
    let mut found = BTreeSet::new();
    for id in store.due(NOW + 10_000, 100).expect("readable") {
        let delivery = store.delivery(id).expect("opens").expect("waits");
        assert_eq!(&delivery.message[..], b"text");
        assert!(found.insert(delivery.recipient.clone()), "twice for one recipient");
        store.finish(id, Outcome::Delivered).await.expect("ended");
    }
    assert_eq!(found, recipients(count).into_iter().collect());
}

#[test]
fn each_delivery_is_for_its_own_recipient_however_many_were_sealed_ahead() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        let none = sealed(&store, account, 1, 3);
        assert_eq!(count_ahead(&none), 0, "no record was read");
        commit(&store, none).await;
        deliver(&store, 3).await;
        for (seq, left) in (2..).zip([0, 1, 2, 5]) {
            let mut at_hand = Vec::new();
            while let Some((record, _)) = store.shared.base.slab.take_ahead() {
                at_hand.push(record);
            }
            assert!(at_hand.len() > 5);
            // Five of them are read again, or so many as are to be left.
            let order = {
                for record in at_hand {
                    store.shared.base.slab.finish_now(record);
                }
                store.shared.base.slab.erase().expect("written");
                store.shared.base.slab.read_for_test(left);
                sealed(&store, account, seq, 5)
            };
            assert_eq!(count_ahead(&order), left);
            commit(&store, order).await;
            deliver(&store, 5).await;
        }
        store.close().await;
    });
}

#[test]
fn what_was_sealed_under_the_epoch_before_or_in_a_batch_that_failed_is_sealed_again() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        commit(&store, sealed(&store, account, 1, 1)).await;
        deliver(&store, 1).await;

        let order = sealed(&store, account, 2, 2);
        assert_eq!(count_ahead(&order), 2);
        let epoch = store.shared.live().epochs.current().number;
        store.upkeep(NOW + 7_200, 30).await.expect("kept");
        assert!(store.shared.live().epochs.current().number > epoch);
        commit(&store, order).await;
        deliver(&store, 2).await;

        let order = sealed(&store, account, 3, 2);
        assert_eq!(count_ahead(&order), 2);
        let failing = store.committer.run(|stage, write| {
            stage.shared.base.put_body(write, b"body", 1)?;
            Err::<(), _>(StoreError::Io(std::io::ErrorKind::Other))
        });
        let ((), failed) = tokio::join!(commit(&store, order), failing);
        assert!(failed.is_err());
        deliver(&store, 2).await;
        store.close().await;
        let store = files.open().await;
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;
    });
}
