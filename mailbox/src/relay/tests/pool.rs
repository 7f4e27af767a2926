//! The spool and its pool beside rows that the disk has damaged.

use super::super::rows::{PoolRow, SPOOL, Stay};
use super::*;
use crate::relay_store::{DeliveryId, MixRound, MixTally};
use crate::request::Profile;
use crate::tables::Table;
use crate::vault;

/// The tables of deliveries and of how they are mixed, with rows that neither can read.
static DAMAGED: [Table<u64, u8>; 2] = [Table::new(11), Table::new(115)];

/// Four deliveries that wait in the pool.
async fn pooled(store: &RelayFiles, account: Account) -> Vec<DeliveryId> {
    let change = change(1);
    let recipients = (0..4).map(|n| format!("recipient-{n}@example.org"));
    let spooled = Spooled {
        mix: Some(Profile::Mixed),
        ..spooled(recipients.collect(), b"text")
    };
    let digest = change.digest();
    let done = store.execute((account, 0), change, digest, Effect::Spool(spooled), DAY, NOW);
    assert!(matches!(done.await, Ok(Answer::Done { .. })));
    store.pool().into_iter().map(|pooled| pooled.id).collect()
}

#[test]
fn a_damaged_delivery_holds_up_neither_its_worker_nor_the_epoch() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        for seq in 1..=4 {
            submit(&store, account, seq, b"text").await.expect("executed");
        }
        let due = store.due(NOW, 9).expect("readable");
        let [lost, unasked, closed, whole] = due[..] else {
            panic!("four deliveries")
        };
        let damage = store.committer.run(move |_, write| {
            let mut row = SPOOL.get(write, closed.0)?.expect("queued");
            row.private[40] ^= 1;
            SPOOL.put(write, closed.0, &row)?;
            DAMAGED[0].put(write, unasked.0, &7)?;
            DAMAGED[0].put(write, lost.0, &7)
        });
        damage.await.expect("written");
        let finished = store.finish(lost, Outcome::Retry { at: NOW + 1 });
        finished.await.expect("it is due no more");
        assert_eq!(store.due(u64::MAX, 9).expect("readable").len(), 3);

        store.upkeep(NOW, 30).await.expect("an epoch");
        store.upkeep(NOW + 3_600, 30).await.expect("the next one");
        assert!(store.shared.live().epochs.previous.is_none(), "the key before is gone");
        assert_eq!(store.delivery(closed).err(), Some(StoreError::Corrupt));
        let delivery = store.delivery(whole).expect("opens").expect("waits");
        assert_eq!(&delivery.message[..], b"text");
        store.close().await;
    });
}

#[test]
fn a_damaged_row_in_the_pool_holds_up_no_other() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let account = issue(&store).await.account;
        let ids = pooled(&store, account).await;
        for (table, id) in DAMAGED.iter().zip(&ids) {
            let id = id.0;
            let damage = store.committer.run(move |_, write| table.put(write, id, &7));
            damage.await.expect("written");
        }
        let tally = MixTally {
            left: 4,
            ..MixTally::default()
        };
        let round = MixRound {
            now: NOW + 600,
            date: NOW,
            day: DAY,
            tally,
        };
        let release = || store.release(ids.clone(), round);
        release().await.expect("the others leave");
        assert!(store.pool().is_empty(), "it hides nothing in the rounds to come");
        let due: Vec<DeliveryId> = store.due(NOW + 600, 9).expect("readable");
        assert!(due.len() == 3 && !due.contains(&ids[0]), "all but the one that is lost");
        for id in due {
            let delivery = store.delivery(id).expect("opens").expect("waits");
            assert_eq!(&delivery.message[..], b"text");
        }
        release().await.expect("the same round again");
        assert_eq!(store.mixed_on(DAY), Ok(tally), "it is counted as left, and once");
        store.close().await;
    });
}

#[test]
fn rows_of_before_rounds_kept_their_date_are_read() {
    for (waits, stay) in [(false, Stay::Left), (true, Stay::Waits)] {
        let row = vault::decode::<PoolRow>(&vault::encode_shared(&(Profile::Paranoid, waits)));
        let profile = Profile::Paranoid;
        assert_eq!(row, Ok(PoolRow { profile, stay }));
    }
}
