//! Accounts that end.

use super::moves::{kinds, moved, redeem, release};
use crate::StoreError;
use crate::conformance::holder_side::{DAY, Holder, NOW, change, deposit, refused};
use crate::relay::VOUCHER_DAYS;
use crate::relay_store::{Effect, IssueOrder, RelayStore};
use crate::request::{Answer, Refusal};

const ALIAS: &str = "used@relay.test";

async fn expire(store: &impl RelayStore, holder: &Holder, seq: u64, day: Option<u32>) -> Answer {
    let effect = Effect::Expire { day };
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

fn is_open(store: &impl RelayStore) -> bool {
    store.alias(ALIAS).expect("known").open
}

async fn upkeep(store: &impl RelayStore, day: u32) {
    let days = u64::from(day - DAY);
    store.upkeep(NOW + days * 86_400, 30).await.expect("kept up");
}

pub(super) async fn an_account_that_ended_collects_and_nothing_else(store: &impl RelayStore) {
    let (holder, giver) = (Holder::issue(store, 50, 700).await, Holder::issue(store, 50, 9).await);
    release(store, &giver, 1, [4; 32]).await;
    holder.open_alias(store, 1, ALIAS).await;
    let mail = deposit(&[(holder.account, 0)], 1, b"mail", DAY);
    store.deposit(mail).await.expect("stored");
    let ended = expire(store, &holder, 2, Some(0)).await;
    assert_eq!(moved(&ended), Some((42, 700, 8, 0)));
    assert!(!is_open(store));
    assert_eq!(store.totals().expect("readable").revenue, 700);
    assert_eq!(kinds(store, &holder)[1], ("lapsed".to_owned(), 0, 700));
    // The same once more, and the same order under another number.
    assert!(expire(store, &holder, 2, Some(0)).await == ended);
    assert_eq!(
        moved(&expire(store, &holder, 3, Some(DAY + 9)).await),
        Some((0, 0, 8, 0))
    );

    let alias = holder.open_alias(store, 4, ALIAS).await;
    let (split, _) = holder.split(store, 5, 5, (16, 0)).await.expect("executed");
    for answer in [
        alias,
        split,
        holder.submit(store, 6, 0).await,
        redeem(store, &holder, 7, [4; 32]).await,
        release(store, &holder, 8, [5; 32]).await,
        expire(store, &holder, 9, None).await,
    ] {
        assert_eq!(refused(&answer), Some(Refusal::Ended));
    }
    let top_up = store.top_up(&holder.identifier, 5, [1; 16], DAY).await;
    assert_eq!(top_up, Err(StoreError::Invalid));
    assert_eq!(holder.balance(store), (0, 8));

    let (collected, ..) = store.collect(holder.account, 0, 1).expect("readable");
    let (index, _, digest) = holder.open(&collected[0]).expect("a wrap");
    assert_eq!(store.confirm(holder.account, vec![(index, digest)]).await, Ok(1));
    for (index, is_live) in [(3, true), (7, true), (8, false), (11, false)] {
        let burned = store.burn(holder.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert_eq!(burned.expect("readable").is_some(), is_live, "{index}");
    }
}

pub(super) async fn an_account_ends_on_its_day_unless_that_is_taken_back(store: &impl RelayStore) {
    let holder = Holder::issue(store, 50, 700).await;
    holder.open_alias(store, 1, ALIAS).await;
    assert_eq!(
        moved(&expire(store, &holder, 2, Some(DAY + 2)).await),
        Some((0, 0, 50, 700))
    );
    upkeep(store, DAY + 1).await;
    assert!(is_open(store));
    assert_eq!(moved(&expire(store, &holder, 3, None).await), Some((0, 0, 50, 700)));
    upkeep(store, DAY + 2).await;
    assert_eq!((is_open(store), holder.balance(store)), (true, (700, 50)));

    assert!(moved(&expire(store, &holder, 4, Some(DAY + 9)).await).is_some());
    assert!(moved(&expire(store, &holder, 5, Some(DAY + 4)).await).is_some());
    upkeep(store, DAY + 3).await;
    assert_eq!((is_open(store), holder.balance(store)), (true, (700, 50)));
    upkeep(store, DAY + 4).await;
    assert_eq!((is_open(store), holder.balance(store)), (false, (0, 8)));
    upkeep(store, DAY + 9).await;
    assert_eq!(holder.balance(store), (0, 8));
    assert_eq!(refused(&holder.submit(store, 6, 0).await), Some(Refusal::Ended));
}

pub(super) async fn what_falls_back_to_an_account_that_ended_lapses(store: &impl RelayStore) {
    let holder = Holder::issue(store, 50, 700).await;
    // One that another made: the audit counts its keys.
    let (_, child) = holder.split(store, 1, 1, (20, 300)).await.expect("executed");
    assert_eq!(moved(&release(store, &child, 1, [6; 32]).await), Some((12, 300, 8, 0)));
    assert_eq!(moved(&expire(store, &child, 2, Some(DAY)).await), Some((0, 0, 8, 0)));
    upkeep(store, DAY + VOUCHER_DAYS + 1).await;
    assert_eq!(child.balance(store), (0, 8));
    assert_eq!(store.totals().expect("readable").revenue, 300);
    assert_eq!(holder.balance(store), (400, 30));
}

pub(super) async fn the_operators_account_does_not_end(store: &impl RelayStore) {
    let order = IssueOrder {
        link_keys: 20,
        credit: 5,
        operator: true,
        day: DAY,
        rotation: Default::default(),
    };
    let operator = Holder::of(store.issue(order).await.expect("issued"));
    assert_eq!(
        refused(&expire(store, &operator, 1, Some(0)).await),
        Some(Refusal::Occupied)
    );
    assert_eq!(operator.balance(store), (5, 20));
}
