//! Aliases, deposits, the spool and its upkeep.

use crate::StoreError;
use crate::conformance::holder_side::{DAY, Holder, NOW, change, deposit, number_of, refused, spool};
use crate::relay_store::{Effect, IssueOrder, Outcome, RelayStore};
use crate::request::{Answer, Collected, Refusal};

pub(super) async fn aliases_belong_to_one_account(store: &impl RelayStore) {
    let (holder, other) = (Holder::issue(store, 16, 0).await, Holder::issue(store, 16, 0).await);
    assert!(store.alias("one@relay.test").is_none());
    assert!(matches!(
        holder.open_alias(store, 1, "one@relay.test").await,
        Answer::Done { debited: 0, .. }
    ));
    assert!(matches!(
        holder.open_alias(store, 2, "two@relay.test").await,
        Answer::Done { .. }
    ));
    assert_eq!(
        refused(&other.open_alias(store, 1, "one@relay.test").await),
        Some(Refusal::AliasTaken)
    );
    assert_eq!(
        refused(&holder.open_alias(store, 3, "one@relay.test").await),
        Some(Refusal::AliasTaken)
    );
    let found = store.alias("Two@Relay.test").expect("open");
    assert!(found.account == holder.account && found.number == 1 && found.open);
    let close = || Effect::AliasClose {
        address: "two@relay.test".to_owned(),
    };
    let answer = other.execute(store, &change(2, 0), close()).await.expect("answered");
    assert_eq!(refused(&answer), Some(Refusal::AliasUnknown));
    assert!(matches!(
        holder.execute(store, &change(4, 0), close()).await,
        Ok(Answer::Done { .. })
    ));
    assert!(!store.alias("two@relay.test").expect("known").open);
    assert_eq!(
        refused(&other.open_alias(store, 3, "two@relay.test").await),
        Some(Refusal::AliasTaken)
    );
    assert_eq!(store.totals().expect("readable").aliases, 1);
    assert!(
        matches!(holder.open_alias(store, 5, "two@relay.test").await, Answer::Done { .. }),
        "its own again"
    );
    assert_eq!(store.alias("two@relay.test").expect("open").number, 1);
}

pub(super) async fn reserved_addresses_lead_to_the_operator(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 0).await;
    assert!(
        store.alias("postmaster@relay.test").is_none(),
        "there is no operator's pack yet"
    );
    assert_eq!(
        refused(&holder.open_alias(store, 1, "abuse@relay.test").await),
        Some(Refusal::AliasTaken)
    );
    let order = IssueOrder {
        link_keys: 16,
        credit: 0,
        operator: true,
        day: DAY,
        rotation: Default::default(),
    };
    let operator = store.issue(order).await.expect("issued").account;
    let (postmaster, abuse) = (store.alias("Postmaster@relay.test"), store.alias("abuse@relay.test"));
    let (postmaster, abuse) = (postmaster.expect("reserved"), abuse.expect("reserved"));
    assert!(postmaster.account == operator && abuse.account == operator && postmaster.open);
    assert_ne!(postmaster.number, abuse.number);
}

pub(super) async fn a_deposit_is_served_until_it_is_confirmed(store: &impl RelayStore) {
    let (holder, other) = (Holder::issue(store, 16, 0).await, Holder::issue(store, 16, 0).await);
    let bell = store.subscribe();
    assert!(!store.waiting(holder.account));
    let both = [(holder.account, 3), (other.account, 0)];
    store
        .deposit(deposit(&both, 41, b"for two", DAY))
        .await
        .expect("stored");
    store
        .deposit(deposit(&both[..1], 42, &vec![b'x'; 40_000], DAY))
        .await
        .expect("stored");
    assert!(store.waiting(holder.account) && bell.has_changed().expect("open"));
    let (collected, next, more) = store.collect(holder.account, 0, 10).expect("readable");
    assert_eq!((collected.len(), next, more), (2, 2, false));
    assert!(matches!(store.collect(holder.account, 0, 1), Ok((first, 1, true)) if first.len() == 1));
    let (index, fields, digest) = holder.open(&collected[0]).expect("a wrap");
    assert_eq!((index, number_of(&fields), fields.alias, fields.day), (0, 41, 3, DAY));
    assert_eq!(
        holder.fetch(store, 0, &fields).await.expect("readable").expect("free"),
        b"for two"
    );
    assert_eq!(
        store.confirm(holder.account, vec![(0, [0; 32]), (1, digest)]).await,
        Ok(0),
        "other digests"
    );
    assert_eq!(
        store.confirm(holder.account, vec![(0, digest), (0, digest)]).await,
        Ok(1)
    );
    assert_eq!(store.confirm(holder.account, vec![(0, digest)]).await, Ok(0), "again");
    assert!(matches!(
        store.fetch(holder.account, 0, DAY).await,
        Ok(Err(Refusal::NoDeposit))
    ));
    let (_, fields, digest) = holder.open(&collected[1]).expect("a wrap");
    assert_eq!(
        holder.fetch(store, 1, &fields).await.expect("readable").expect("free"),
        vec![b'x'; 40_000]
    );
    assert_eq!(store.confirm(holder.account, vec![(1, digest)]).await, Ok(1));
    assert!(!store.waiting(holder.account) && store.waiting(other.account));
    let (collected, ..) = store.collect(other.account, 0, 10).expect("readable");
    let (_, fields, _) = other.open(&collected[0]).expect("a wrap");
    assert_eq!(
        other.fetch(store, 0, &fields).await.expect("readable").expect("free"),
        b"for two",
        "the shared body outlives the first"
    );
}

pub(super) async fn inbound_prices_are_debited_once(store: &impl RelayStore) {
    store.set_prices(0, 0, 0, 5, 2).await.expect("set");
    let holder = Holder::issue(store, 16, 10).await;
    store
        .deposit(deposit(&[(holder.account, 0)], 1, b"x", DAY))
        .await
        .expect("stored");
    store
        .deposit(deposit(&[(holder.account, 0)], 2, b"x", DAY))
        .await
        .expect("stored");
    assert_eq!(holder.balance(store).0, 10, "never at the MX");
    for _ in 0..2 {
        assert!(store.fetch(holder.account, 0, DAY).await.expect("readable").is_ok());
        assert_eq!(holder.balance(store).0, 3);
    }
    let refusal = store.fetch(holder.account, 1, DAY).await.expect("readable").err();
    assert_eq!(refusal, Some(Refusal::Value { shortfall: 4 }));
    store.set_prices(0, 0, 0, 0, 0).await.expect("set");
    assert!(store.fetch(holder.account, 1, DAY).await.expect("readable").is_ok());
}

pub(super) async fn collection_steps_over_what_is_gone(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 0).await;
    let mut digests = Vec::new();
    for number in 0..70 {
        store
            .deposit(deposit(&[(holder.account, 0)], number, b"x", DAY))
            .await
            .expect("stored");
    }
    let mut from = 0;
    loop {
        let (collected, next, more) = store.collect(holder.account, from, u16::MAX).expect("readable");
        assert!(collected.len() <= usize::from(crate::request::COLLECT_MAX) && next > from);
        for entry in &collected {
            let (index, fields, digest) = holder.open(entry).expect("a wrap");
            assert_eq!(index, number_of(&fields));
            digests.push((index, digest));
        }
        from = next;
        if !more {
            break;
        }
    }
    assert_eq!((digests.len(), from), (70, 70));
    for part in digests[..68].chunks(60) {
        store.confirm(holder.account, part.to_vec()).await.expect("confirmed");
    }
    let (collected, next, more) = store.collect(holder.account, 0, 64).expect("readable");
    assert_eq!((collected.len(), next, more), (2, 70, false));
    assert!(matches!(store.collect(holder.account, 70, 64), Ok((none, 70, false)) if none.is_empty()));
    assert!(matches!(store.collect(holder.account, 999, 64), Ok((none, 999, false)) if none.is_empty()));
}

pub(super) async fn a_delivery_is_due_until_it_is_finished(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let bell = store.spool_changed();
    let effect = spool(&["a@example.org", "b@example.org"], &[b'y'; 3_000], 10);
    holder.execute(store, &change(1, 0), effect).await.expect("executed");
    assert!(bell.has_changed().expect("open"));
    assert_eq!(store.next_due(), Ok(Some(NOW)));
    assert!(store.due(NOW - 1, 9).expect("readable").is_empty());
    assert_eq!(store.due(NOW, 1).expect("readable").len(), 1);
    let due = store.due(NOW, 9).expect("readable");
    let mut recipients = Vec::new();
    for id in &due {
        let delivery = store.delivery(*id).expect("readable").expect("waiting");
        assert!(delivery.account == holder.account && delivery.message == [b'y'; 3_000] && delivery.attempts == 0);
        assert_eq!(delivery.reverse_path, "from@relay.test");
        assert!(delivery.accepted <= NOW && NOW - delivery.accepted < 3_600);
        recipients.push(delivery.recipient);
    }
    recipients.sort();
    assert_eq!(recipients, ["a@example.org", "b@example.org"]);
    store
        .finish(due[0], Outcome::Retry { at: NOW + 60 })
        .await
        .expect("recorded");
    store.finish(due[1], Outcome::Delivered).await.expect("recorded");
    store.finish(due[1], Outcome::Delivered).await.expect("gone already");
    assert!(store.delivery(due[1]).expect("readable").is_none());
    assert!(store.due(NOW, 9).expect("readable").is_empty());
    let rows = store.queue(9).expect("readable");
    assert_eq!(
        rows.iter()
            .map(|row| (row.attempts, row.due, row.kilobytes))
            .collect::<Vec<_>>(),
        [(1, NOW + 60, 4)]
    );
    let delivery = store
        .delivery(due[0])
        .expect("readable")
        .expect("the shared body outlives the first");
    assert!(delivery.message == [b'y'; 3_000] && delivery.attempts == 1);
    store
        .finish(due[0], Outcome::Failed { report: None })
        .await
        .expect("recorded");
    assert_eq!(store.next_due(), Ok(None));
}

pub(super) async fn a_failed_delivery_is_told_in_the_same_commit(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    holder.submit(store, 1, 1).await;
    let id = store.due(NOW, 9).expect("readable")[0];
    let report = Some(deposit(&[(holder.account, 0)], 77, b"report", DAY));
    store.finish(id, Outcome::Failed { report }).await.expect("recorded");
    let report = Some(deposit(&[(holder.account, 0)], 78, b"report", DAY));
    store
        .finish(id, Outcome::Failed { report })
        .await
        .expect("gone already");
    let (collected, ..) = store.collect(holder.account, 0, 9).expect("readable");
    assert_eq!(collected.len(), 1);
    assert_eq!(
        holder.open(&collected[0]).map(|(_, fields, _)| number_of(&fields)),
        Some(77)
    );
}

pub(super) async fn a_delay_is_told_in_the_same_commit_and_remembered(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    holder.submit(store, 1, 1).await;
    let id = store.due(NOW, 9).expect("readable")[0];
    let told = |attempts| {
        let delivery = store.delivery(id).expect("readable").expect("waiting");
        assert_eq!(delivery.attempts, attempts);
        delivery.is_delay_told
    };
    store.finish(id, Outcome::Retry { at: NOW }).await.expect("recorded");
    assert!(!told(1));
    let report = Some(deposit(&[(holder.account, 0)], 77, b"report", DAY));
    store
        .finish(id, Outcome::Delayed { at: NOW + 5, report })
        .await
        .expect("recorded");
    assert!(told(2));
    assert_eq!(store.next_due(), Ok(Some(NOW + 5)));
    store.finish(id, Outcome::Retry { at: NOW }).await.expect("recorded");
    assert!(told(3));
    store.upkeep(NOW, 30).await.expect("kept up");
    store.upkeep(NOW + 3_600, 30).await.expect("kept up");
    assert!(told(3), "an epoch later");
    assert_eq!(store.queue(9).expect("readable")[0].attempts, 3);
    let (collected, ..) = store.collect(holder.account, 0, 9).expect("readable");
    assert_eq!(collected.len(), 1);
}

pub(super) async fn an_epoch_passes_without_losing_the_spool(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    store.upkeep(NOW, 30).await.expect("kept up");
    holder.submit(store, 1, 1).await;
    assert_eq!(
        store.upkeep(NOW, 30).await.expect("kept up").rewrapped,
        0,
        "within the hour"
    );
    assert_eq!(store.upkeep(NOW + 3_600, 30).await.expect("kept up").rewrapped, 1);
    holder.submit(store, 2, 1).await;
    assert_eq!(store.upkeep(NOW + 7_200, 30).await.expect("kept up").rewrapped, 2);
    for id in store.due(NOW, 9).expect("readable") {
        assert_eq!(
            store.delivery(id).expect("readable").expect("waiting").message,
            b"message"
        );
    }
}

pub(super) async fn what_is_old_expires(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    holder.submit(store, 1, 1).await;
    for (number, day) in [(1, DAY - 31), (2, DAY)] {
        store
            .deposit(deposit(&[(holder.account, 0)], number, b"x", day))
            .await
            .expect("stored");
    }
    assert_eq!(store.upkeep(NOW, 30).await.expect("kept up").expired, 1);
    assert_eq!(store.upkeep(NOW, 30).await.expect("kept up").expired, 0);
    let (collected, next, _) = store.collect(holder.account, 0, 9).expect("readable");
    assert!(matches!(
        collected[..],
        [Collected::Expired { index: 0 }, Collected::Wrap { index: 1, .. }]
    ));
    assert_eq!(next, 2);
    assert!(matches!(
        store.fetch(holder.account, 0, DAY).await,
        Ok(Err(Refusal::NoDeposit))
    ));
    store.upkeep(NOW + 31 * 86_400, 30).await.expect("kept up");
    assert_eq!(
        refused(&holder.submit(store, 1, 1).await),
        Some(Refusal::Stale),
        "the answer has aged"
    );
    assert!(!store.waiting(holder.account));
}

pub(super) async fn contradictory_orders_are_refused(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let few = IssueOrder {
        link_keys: 15,
        credit: 0,
        operator: false,
        day: DAY,
        rotation: Default::default(),
    };
    assert_eq!(store.issue(few).await.err(), Some(StoreError::Invalid));
    let mut wrong = deposit(&[(holder.account, 0)], 1, b"x", DAY);
    wrong.body.pop();
    assert_eq!(store.deposit(wrong).await, Err(StoreError::Invalid));
    assert_eq!(
        store.deposit(deposit(&[], 1, b"x", DAY)).await,
        Err(StoreError::Invalid)
    );
    let nobody = crate::relay_store::Account(99);
    let order = deposit(&[(holder.account, 0), (nobody, 0)], 1, b"x", DAY);
    assert_eq!(store.deposit(order).await, Err(StoreError::NoRow));
    assert!(!store.waiting(holder.account), "all recipients or none");
    assert_eq!(store.balance(nobody).err(), Some(StoreError::NoRow));
    let none = holder.execute(store, &change(1, 0), spool(&[], b"x", 1)).await;
    assert!(none == Err(StoreError::Invalid));
}
