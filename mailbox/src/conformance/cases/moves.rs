//! Keys and value that go from one account to another.

use crate::StoreError;
use crate::conformance::holder_side::{DAY, Holder, NOW, change, deposit, refused};
use crate::relay::{SPLITS_PER_DAY, VOUCHER_DAYS};
use crate::relay_store::{Effect, RelayStore};
use crate::request::{Answer, Credit, RENEWED_KEYS_MAX, Refusal};

/// Keys and value that an answer says were moved, the end of the chain, the balance.
pub(super) fn moved(answer: &Answer) -> Option<(u64, u64, u64, u64)> {
    match answer {
        Answer::Moved {
            keys,
            value,
            end,
            balance,
            ..
        } => Some((*keys, *value, *end, *balance)),
        _ => None,
    }
}

pub(super) async fn release(store: &impl RelayStore, holder: &Holder, seq: u64, voucher: [u8; 32]) -> Answer {
    let effect = Effect::Release { voucher };
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

pub(super) async fn redeem(store: &impl RelayStore, holder: &Holder, seq: u64, voucher: [u8; 32]) -> Answer {
    let effect = Effect::Redeem { voucher };
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

pub(super) fn kinds(store: &impl RelayStore, holder: &Holder) -> Vec<(String, u64, u64)> {
    let rows = store
        .statement(&holder.identifier, 9)
        .expect("readable")
        .expect("known");
    rows.into_iter().map(|row| (row.kind, row.credit, row.debit)).collect()
}

pub(super) async fn a_split_moves_keys_and_value_once(store: &impl RelayStore) {
    let holder = Holder::issue(store, 100, 1_000).await;
    let (answer, child) = holder.split(store, 1, 5, (30, 400)).await.expect("executed");
    assert_eq!(moved(&answer), Some((30, 400, 70, 600)));
    assert_eq!((holder.balance(store), child.balance(store)), ((600, 70), (400, 30)));
    assert!(
        store
            .find_tag(&child.link(3).tag)
            .expect("readable")
            .is_some_and(|hit| hit.account == child.account)
    );
    // The same change again, and the same order under another number.
    let (again, _) = holder.split(store, 1, 5, (30, 400)).await.expect("executed");
    assert!(again == answer);
    let (other, _) = holder.split(store, 2, 5, (30, 400)).await.expect("executed");
    assert_eq!(moved(&other), Some((0, 0, 70, 600)));
    assert_eq!(store.totals().expect("readable").accounts, 2);
    // The new pack lives by itself, to the last of its keys.
    for index in (2..30).step_by(3) {
        let burned = store.burn(child.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    assert_eq!((holder.balance(store), child.balance(store)), ((600, 70), (0, 0)));
    let given = ("given".to_owned(), 0, 400);
    assert_eq!(kinds(store, &holder), [("top-up".to_owned(), 1_000, 0), given]);
    assert_eq!(kinds(store, &child)[0], ("received".to_owned(), 400, 0));
}

pub(super) async fn a_split_leaves_enough_on_both_sides(store: &impl RelayStore) {
    let holder = Holder::issue(store, 40, 100).await;
    for (seq, moved, refusal) in [
        (1, (15, 0), Refusal::Malformed),
        (2, (25, 0), Refusal::Keys),
        (3, (u64::MAX, 0), Refusal::Keys),
        (4, (20, 101), Refusal::Value { shortfall: 1 }),
    ] {
        let (answer, _) = holder.split(store, seq, seq, moved).await.expect("executed");
        assert_eq!(refused(&answer), Some(refusal));
    }
    assert_eq!(holder.balance(store), (100, 40));
    assert_eq!(store.totals().expect("readable").accounts, 1);
    // An identifier that is taken is nobody's to give away again.
    let (_, child) = holder.split(store, 5, 9, (20, 0)).await.expect("executed");
    let foreign = Effect::Split {
        identifier: child.identifier,
        root: keypacks::Secret::new([1; 32]),
        keys: 16,
        value: 0,
    };
    let other = Holder::issue(store, 100, 0).await;
    let answer = other.execute(store, &change(1, 0), foreign).await.expect("executed");
    assert_eq!(refused(&answer), Some(Refusal::Malformed));
    assert_eq!((holder.balance(store), child.balance(store)), ((100, 20), (0, 20)));
}

pub(super) async fn packs_made_in_a_day_are_bounded(store: &impl RelayStore) {
    let holder = Holder::issue(store, 1_000, 0).await;
    for number in 0..u64::from(SPLITS_PER_DAY) {
        let (answer, child) = holder
            .split(store, number + 1, number, (40, 0))
            .await
            .expect("executed");
        assert!(moved(&answer).is_some());
        let (answer, _) = child.split(store, 1, 7, (16, 0)).await.expect("executed");
        assert_eq!(refused(&answer), Some(Refusal::Limit), "made today");
    }
    let (answer, _) = holder.split(store, 99, 99, (40, 0)).await.expect("executed");
    assert_eq!(refused(&answer), Some(Refusal::Limit));
}

pub(super) async fn a_voucher_is_redeemed_once(store: &impl RelayStore) {
    let giver = Holder::issue(store, 50, 700).await;
    let (taker, third) = (Holder::issue(store, 16, 1).await, Holder::issue(store, 16, 0).await);
    assert_eq!(
        refused(&redeem(store, &taker, 1, [1; 32]).await),
        Some(Refusal::VoucherUnknown)
    );
    let released = release(store, &giver, 1, [1; 32]).await;
    assert_eq!(moved(&released), Some((42, 700, 8, 0)));
    assert_eq!(moved(&release(store, &giver, 2, [1; 32]).await), Some((0, 0, 8, 0)));
    assert_eq!(
        refused(&release(store, &third, 1, [1; 32]).await),
        Some(Refusal::VoucherUnknown)
    );
    let refusal = refused(&redeem(store, &giver, 3, [1; 32]).await);
    assert_eq!(refusal, Some(Refusal::VoucherUnknown));
    assert_eq!(
        moved(&redeem(store, &taker, 2, [1; 32]).await),
        Some((42, 700, 58, 701))
    );
    assert_eq!(moved(&redeem(store, &taker, 3, [1; 32]).await), Some((0, 0, 58, 701)));
    assert_eq!(
        refused(&redeem(store, &third, 2, [1; 32]).await),
        Some(Refusal::VoucherUnknown)
    );
    assert_eq!((giver.balance(store), taker.balance(store)), ((0, 8), (701, 58)));
    // The chain goes on to its new end.
    for index in [3, 7, 11, 15, 19] {
        let burned = store.burn(taker.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    assert_eq!(taker.balance(store), (701, 38));
}

pub(super) async fn an_account_in_use_is_not_released(store: &impl RelayStore) {
    let holder = Holder::issue(store, 50, 700).await;
    holder.open_alias(store, 1, "used@relay.test").await;
    assert_eq!(
        refused(&release(store, &holder, 2, [2; 32]).await),
        Some(Refusal::Occupied)
    );
    let close = Effect::AliasClose {
        address: "used@relay.test".to_owned(),
    };
    holder.execute(store, &change(3, 0), close).await.expect("executed");
    store
        .deposit(deposit(&[(holder.account, 0)], 1, b"mail", DAY))
        .await
        .expect("stored");
    assert_eq!(
        refused(&release(store, &holder, 4, [2; 32]).await),
        Some(Refusal::Occupied)
    );
    let (collected, ..) = store.collect(holder.account, 0, 1).expect("readable");
    let (index, _, digest) = holder.open(&collected[0]).expect("a wrap");
    assert_eq!(store.confirm(holder.account, vec![(index, digest)]).await, Ok(1));
    assert!(moved(&release(store, &holder, 5, [2; 32]).await).is_some());
}

pub(super) async fn a_voucher_that_nobody_takes_falls_back(store: &impl RelayStore) {
    let (giver, taker) = (Holder::issue(store, 50, 700).await, Holder::issue(store, 16, 0).await);
    release(store, &giver, 1, [3; 32]).await;
    let days = u64::from(VOUCHER_DAYS);
    store.upkeep(NOW + days * 86_400, 30).await.expect("kept up");
    assert_eq!(giver.balance(store), (0, 8));
    store.upkeep(NOW + (days + 1) * 86_400, 30).await.expect("kept up");
    assert_eq!(giver.balance(store), (700, 50));
    assert_eq!(
        refused(&redeem(store, &taker, 1, [3; 32]).await),
        Some(Refusal::VoucherUnknown)
    );
    assert!(store.find_tag(&giver.link(3).tag).expect("readable").is_some());
}

async fn renew(store: &impl RelayStore, holder: &Holder, seq: u64, (keys, value): (u64, u64)) -> Answer {
    let effect = Effect::Renew { keys, value };
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

pub(super) async fn what_is_drawn_on_credit_is_owed_until_it_is_settled(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let credit = |drawn, settled| Credit {
        limit: 300,
        drawn,
        settled,
    };
    let none = renew(store, &holder, 1, (1, 1)).await;
    assert_eq!(refused(&none), Some(Refusal::Credit { left: 0 }));
    assert_eq!(store.grant_credit(&holder.identifier, 300).await, Ok(true));
    for (seq, wanted, refusal) in [
        (2, (0, 301), Refusal::Credit { left: 300 }),
        (3, (0, u64::MAX), Refusal::Credit { left: 300 }),
        (4, (RENEWED_KEYS_MAX + 1, 1), Refusal::Limit),
        (5, (u64::MAX, 1), Refusal::Limit),
        (6, (0, 0), Refusal::Malformed),
    ] {
        let answer = renew(store, &holder, seq, wanted).await;
        assert_eq!(refused(&answer), Some(refusal), "{wanted:?}");
    }
    assert_eq!(holder.balance(store), (100, 16));
    let drawn = renew(store, &holder, 7, (40, 200)).await;
    assert_eq!(moved(&drawn), Some((40, 200, 56, 300)));
    assert!(
        renew(store, &holder, 7, (40, 200)).await == drawn,
        "once for its number"
    );
    assert_eq!(holder.balance(store), (300, 56));
    assert_eq!(store.credit(holder.account), Ok(credit(200, 0)));
    let more = renew(store, &holder, 8, (0, 101)).await;
    assert_eq!(refused(&more), Some(Refusal::Credit { left: 100 }));
    // Paid in part, twice under one name, and never more than is owed.
    let pay = |amount, id| store.settle(&holder.identifier, amount, [id; 16], DAY);
    assert_eq!(pay(150, 1).await, Ok(Some(credit(200, 150))));
    assert_eq!(pay(150, 1).await, Ok(Some(credit(200, 150))));
    assert_eq!(pay(51, 2).await, Err(StoreError::Invalid));
    assert_eq!(
        pay(40, 1).await,
        Err(StoreError::Invalid),
        "another payment of that name"
    );
    assert_eq!(
        moved(&renew(store, &holder, 9, (0, 250)).await),
        Some((0, 250, 56, 550))
    );
    assert_eq!(
        holder.balance(store),
        (550, 56),
        "what was settled is no value of the holder's"
    );
    let settled = ("settled".to_owned(), 0, 0);
    assert_eq!(kinds(store, &holder)[2], settled);
    // New keys are keys like any other, and go with the rest.
    for index in (3..56).step_by(4) {
        let burned = store.burn(holder.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    let totals = store.totals().expect("readable");
    let audit = store.audit().expect("readable");
    assert!(
        audit.findings.is_empty() && audit.totals == totals,
        "{:?}",
        audit.findings
    );
    assert_eq!((totals.owed, totals.credits - totals.debits), (300, totals.balances));
    // A pack that another made, and that drew keys since, is no contradiction.
    let parent = Holder::issue(store, 100, 0).await;
    let (_, child) = parent.split(store, 1, 9, (20, 0)).await.expect("executed");
    store.grant_credit(&child.identifier, 10).await.expect("known");
    assert_eq!(moved(&renew(store, &child, 1, (5, 10)).await), Some((5, 10, 25, 10)));
    // A limit taken back takes the keys back too, and no limit is without end.
    store.grant_credit(&child.identifier, 0).await.expect("known");
    let over = renew(store, &child, 2, (5, 0)).await;
    assert_eq!(refused(&over), Some(Refusal::Credit { left: 0 }));
    for limit in [(1 << 53) + 1, u64::MAX] {
        let granted = store.grant_credit(&child.identifier, limit).await;
        assert_eq!(granted, Err(StoreError::Invalid));
    }
    assert!(store.audit().expect("readable").findings.is_empty());
}
