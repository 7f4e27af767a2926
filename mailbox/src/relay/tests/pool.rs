//! Rounds of the pool beside rows that the disk has damaged.

use super::super::rows::{PoolRow, Stay};
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
