//! Aliases, deposits, the spool and its upkeep.

use crate::StoreError;
use crate::conformance::holder_side::{DAY, Holder, NOW, change, deposit, number_of, refused, spool};
use crate::relay_store::{Effect, IssueOrder, MixRound, MixTally, Outcome, RelayStore, Spooled};
use crate::request::{Answer, Collected, Profile, Refusal, Wishes};

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
    assert!(
        matches!(holder.open_alias(store, 3, "one@relay.test").await, Answer::Done { .. }),
        "its own, which stays as it is"
    );
    assert_eq!(store.alias("one@relay.test").expect("open").number, 0);
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

pub(super) async fn a_domain_is_spoken_for_by_one_account(store: &impl RelayStore) {
    let (peer, other) = (Holder::issue(store, 16, 100).await, Holder::issue(store, 16, 0).await);
    let speak = |holder: &Holder, domain: &str, speaks| {
        let (identifier, domain) = (holder.identifier, domain.to_owned());
        async move { store.speak_for(&identifier, domain, speaks).await.expect("committed") }
    };
    assert!(store.alias("@far.test").is_none());
    assert!(speak(&peer, "far.test", false).await, "nothing to end");
    assert!(store.alias("@far.test").is_none());
    for _ in 0..2 {
        assert!(speak(&peer, "far.test", true).await, "once is like twice");
    }
    let found = store.alias("@Far.test").expect("known");
    assert!(found.account == peer.account && found.open);
    for speaks in [true, false] {
        assert!(!speak(&other, "far.test", speaks).await, "another's");
    }
    assert!(speak(&other, "*", true).await);
    assert!(speak(&peer, "far.test", false).await);
    assert!(!store.alias("@far.test").expect("known").open);
    assert!(speak(&other, "far.test", true).await, "a domain goes to the next pack");
    assert!(store.alias("@far.test").expect("known").account == other.account);
    assert!(!speak(&peer, "far.test", true).await);

    // What it passes on keeps how often it was.
    let passed = Effect::Spool(Spooled {
        reverse_path: "from@far.test".to_owned(),
        recipients: vec!["to@out.test".to_owned()],
        message: b"passed on".to_vec(),
        price: 1,
        onward: 0,
        hops: 3,
        mix: None,
        wishes: vec![Wishes::DELAY],
    });
    let answer = peer.execute(store, &change(1, 0), passed).await.expect("answered");
    assert!(matches!(answer, Answer::Done { .. }));
    let [id] = store.due(NOW, 9).expect("readable")[..] else {
        panic!("one delivery")
    };
    let delivery = store.delivery(id).expect("readable").expect("queued");
    assert!(delivery.hops == 3 && delivery.account == peer.account);
    assert_eq!(delivery.wishes, Wishes::DELAY);
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

pub(super) async fn a_delivery_in_the_pool_is_due_when_it_is_released(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let mixed = Effect::Spool(Spooled {
        reverse_path: "from@relay.test".to_owned(),
        recipients: vec!["a@example.org".to_owned(), "b@example.org".to_owned()],
        message: b"mixed".to_vec(),
        price: 10,
        onward: 0,
        hops: 0,
        mix: Some(Profile::Paranoid),
        wishes: Vec::new(),
    });
    holder.execute(store, &change(1, 0), mixed).await.expect("executed");
    assert!(store.due(u64::MAX, 9).expect("readable").is_empty());
    assert_eq!(store.next_due(), Ok(None));
    let pool = store.pool();
    assert!(pool.len() == 2 && pool.iter().all(|pooled| pooled.profile == Profile::Paranoid));
    let rows = store.queue(9).expect("readable");
    assert!(rows.len() == 2 && rows.iter().all(|row| row.is_pooled));
    let (one, other) = (pool[0].id, pool[1].id);
    store.finish(one, Outcome::Retry { at: 0 }).await.expect("recorded");
    store.upkeep(NOW, 30).await.expect("kept up");
    store.upkeep(NOW + 3_600, 30).await.expect("an epoch later");
    assert!(
        store.due(u64::MAX, 9).expect("readable").is_empty(),
        "no try takes it out"
    );

    let mut bell = store.spool_changed();
    bell.borrow_and_update();
    let tally = MixTally {
        left: 1,
        paranoid: 1,
        held: 0,
        millibits: 1_500,
    };
    let round = MixRound {
        now: NOW + 7,
        date: NOW - 3_600,
        day: DAY,
        tally,
    };
    store.release(vec![one], round).await.expect("released");
    assert!(bell.has_changed().expect("open"));
    assert_eq!(store.due(NOW + 7, 9).expect("readable").len(), 1);
    let delivery = store.delivery(one).expect("readable").expect("waiting");
    assert!(delivery.mix == Some(Profile::Paranoid) && delivery.attempts == 0 && delivery.message == b"mixed");
    assert_eq!(delivery.date, Some(NOW - 3_600));
    store
        .finish(one, Outcome::Retry { at: NOW + 99 })
        .await
        .expect("recorded");
    let later = MixRound {
        now: NOW,
        date: NOW,
        ..round
    };
    store.release(vec![one], later).await.expect("gone from the pool");
    assert_eq!(store.next_due(), Ok(Some(NOW + 99)), "it is released once");
    let delivery = store.delivery(one).expect("readable").expect("waiting");
    assert_eq!(delivery.date, Some(NOW - 3_600), "the same at every try");
    store.finish(one, Outcome::Delivered).await.expect("recorded");
    store
        .finish(other, Outcome::Failed { report: None })
        .await
        .expect("the operator's word");
    assert!(store.pool().is_empty() && store.queue(9).expect("readable").is_empty());
    assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());

    let counted = |day| store.release(Vec::new(), MixRound { day, ..round });
    counted(DAY + 1).await.expect("counted");
    assert_eq!(store.mixed_on(DAY), Ok(tally), "a round that comes again counts once");
    assert_eq!(store.mixed_on(DAY + 1), Ok(tally));
    counted(DAY + 3).await.expect("counted");
    assert_eq!(store.mixed_on(DAY), Ok(MixTally::default()), "two days are kept");
    assert_eq!(store.mixed_on(DAY + 2), Ok(MixTally::default()));
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

pub(super) async fn a_receipt_is_told_in_the_same_commit(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let said = [Wishes::SUCCESS, Wishes::NEVER];
    let message = Spooled {
        reverse_path: "from@relay.test".to_owned(),
        recipients: ["a@out.test", "b@out.test", "c@out.test"].map(str::to_owned).to_vec(),
        message: b"told of".to_vec(),
        price: 3,
        onward: 0,
        hops: 0,
        mix: None,
        wishes: said.to_vec(),
    };
    let answer = holder.execute(store, &change(1, 0), Effect::Spool(message)).await;
    assert!(matches!(answer, Ok(Answer::Done { .. })));
    let mut found = Vec::new();
    for id in store.due(NOW, 9).expect("readable") {
        let delivery = store.delivery(id).expect("readable").expect("queued");
        assert_eq!(delivery.hops, 0);
        found.push((delivery.recipient, delivery.wishes, id));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let wishes: Vec<_> = found.iter().map(|(_, wishes, _)| *wishes).collect();
    assert_eq!(wishes, [said[0], said[1], Wishes::default()]);
    for number in [77, 78] {
        let report = deposit(&[(holder.account, 0)], number, b"receipt", DAY);
        let told = store.finish(found[0].2, Outcome::Receipted { report }).await;
        told.expect("recorded, or gone already");
    }
    assert_eq!(store.due(NOW, 9).expect("readable").len(), 2);
    let (collected, ..) = store.collect(holder.account, 0, 9).expect("readable");
    let numbers: Vec<_> = collected
        .iter()
        .filter_map(|entry| holder.open(entry))
        .map(|(_, fields, _)| number_of(&fields))
        .collect();
    assert_eq!(numbers, [77]);
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
