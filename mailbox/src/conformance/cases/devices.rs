//! Several devices of one account.

use crate::conformance::holder_side::{DAY, Holder, NOW, change, deposit, refused};
use crate::devices::{EVENTS, EVENTS_WAITING_MAX, Event, decode_events};
use crate::relay_store::{Effect, RelayStore};
use crate::request::{Answer, DEVICES_MAX, Device, Refusal};

fn moved(answer: &Answer) -> Option<(u64, u64, u64)> {
    match answer {
        Answer::Moved { keys, end, balance, .. } => Some((*keys, *end, *balance)),
        _ => None,
    }
}

fn devices(store: &impl RelayStore, holder: &Holder) -> (u32, Vec<Device>) {
    match store.devices(holder.account).expect("readable") {
        Answer::Devices { own, devices } => (own, devices),
        _ => panic!("devices are devices"),
    }
}

async fn drop_device(store: &impl RelayStore, holder: &Holder, seq: u64, device: u32) -> Answer {
    let effect = Effect::Drop { device };
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

/// The events that wait for a device from a post index on.
async fn events(store: &impl RelayStore, holder: &Holder, from: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for (_, alias, body, _) in holder.inbox(store, from).await {
        if alias == EVENTS {
            events.extend(decode_events(&body).expect("as written"));
        }
    }
    events
}

fn alias(number: u32, address: &str, open: bool) -> Event {
    let address = address.to_owned();
    Event::Alias { number, address, open }
}

pub(super) async fn two_devices_share_value_aliases_and_mail(store: &impl RelayStore) {
    let first = Holder::issue(store, 100, 1_000).await;
    first.open_alias(store, 1, "one@relay.test").await;
    let (answer, second) = first.join(store, 2, 7, 30).await;
    assert_eq!(moved(&answer), Some((30, 70, 1_000)));
    assert!(store.house(second.account) == first.account && store.house(first.account) == first.account);
    assert_eq!(
        (first.balance(store), second.balance(store)),
        ((1_000, 70), (1_000, 30))
    );
    // Either debits, and both see it.
    assert!(matches!(
        second.submit(store, 1, 100).await,
        Answer::Done { balance: 900, .. }
    ));
    assert!(matches!(
        first.submit(store, 3, 50).await,
        Answer::Done { balance: 850, .. }
    ));
    assert!(matches!(
        store.top_up(&second.identifier, 150, [3; 16], DAY).await,
        Ok(Some(1_000))
    ));
    assert_eq!((first.balance(store).0, second.balance(store).0), (1_000, 1_000));
    let statement = |holder: &Holder| {
        store
            .statement(&holder.identifier, 9)
            .expect("readable")
            .expect("known")
    };
    assert_eq!(statement(&first).len(), 4);
    assert_eq!(statement(&second).len(), 4);

    // Either opens and closes aliases, which are numbered through; all are told, whoever did it.
    assert!(matches!(
        second.open_alias(store, 2, "two@relay.test").await,
        Answer::Done { .. }
    ));
    let found = store.alias("two@relay.test").expect("open");
    assert!(found.account == first.account && found.number == 1);
    let close = Effect::AliasClose {
        address: "one@relay.test".to_owned(),
    };
    second.execute(store, &change(3, 0), close).await.expect("executed");
    assert!(!store.alias("one@relay.test").expect("known").open);
    let told = [alias(1, "two@relay.test", true), alias(0, "one@relay.test", false)];
    assert!(events(store, &second, 0).await == told);
    assert!(events(store, &first, 0).await == [[Event::Joined { device: 2, by: 1 }].as_slice(), &told].concat());
    let tell = Effect::Tell {
        addresses: ["two@relay.test", "nobody@relay.test"].map(str::to_owned).to_vec(),
    };
    first.execute(store, &change(4, 0), tell).await.expect("executed");
    assert!(events(store, &second, 2).await == told[..1]);

    // Mail comes to each under its own keys, and waits for the last of them.
    store
        .deposit(deposit(&[(found.account, found.number)], 1, b"mail", DAY))
        .await
        .expect("stored");
    assert_eq!(store.totals().expect("readable").deposits, 4 + 3 + 2);
    let of = |inbox: Vec<(u64, u32, Vec<u8>, [u8; 32])>| inbox.into_iter().next_back().expect("waits");
    let (here, there) = (of(first.inbox(store, 0).await), of(second.inbox(store, 0).await));
    assert!(here.2 == b"mail" && there.2 == b"mail" && here.3 != there.3);
    assert_eq!(store.confirm(first.account, vec![(here.0, here.3)]).await, Ok(1));
    assert_eq!(store.confirm(first.account, vec![(there.0, there.3)]).await, Ok(0));
    assert_eq!(of(second.inbox(store, there.0).await).2, b"mail");
    assert_eq!(store.confirm(second.account, vec![(there.0, there.3)]).await, Ok(1));
    assert!(second.inbox(store, there.0).await.is_empty());

    // Each is known by its number and by the day of its last link.
    store
        .burn(second.burn_order(0, [0; 16], [1; 16], 0))
        .await
        .expect("readable")
        .expect("live");
    let (own, all) = devices(store, &second);
    let device = |number, used, keys| Device {
        number,
        since: DAY,
        used,
        keys,
    };
    assert_eq!((own, all), (2, vec![device(1, None, 70), device(2, Some(DAY), 29)]));
    assert_eq!(devices(store, &Holder::issue(store, 16, 0).await), (1, Vec::new()));
}

pub(super) async fn a_device_is_made_once_and_never_from_the_last_keys(store: &impl RelayStore) {
    let first = Holder::issue(store, 300, 10).await;
    let (answer, second) = first.join(store, 1, 7, 100).await;
    let (again, _) = first.join(store, 1, 7, 100).await;
    assert!(again == answer);
    let (other, _) = first.join(store, 2, 7, 100).await;
    assert_eq!(moved(&other), Some((0, 200, 10)), "the same order under another number");
    // What it was made by is no pack that was split off.
    let (effect, _) = first.device(second.account, 7, 100);
    let Effect::Device { identifier, root, keys } = effect else {
        panic!("an order for a device");
    };
    let value = 0;
    let split = Effect::Split {
        identifier,
        root,
        keys,
        value,
    };
    let answer = first.execute(store, &change(3, 0), split).await.expect("executed");
    assert_eq!(refused(&answer), Some(Refusal::Malformed));
    let refusal = |answer: (Answer, Holder)| refused(&answer.0);
    assert_eq!(refusal(first.join(store, 4, 8, 15).await), Some(Refusal::Malformed));
    assert_eq!(refusal(first.join(store, 5, 8, 185).await), Some(Refusal::Keys));
    assert_eq!(
        refusal(second.join(store, 1, 8, 16).await),
        Some(Refusal::Limit),
        "made today"
    );
    for number in 2..DEVICES_MAX as u64 {
        assert!(moved(&first.join(store, 10 + number, 100 + number, 16).await.0).is_some());
    }
    assert_eq!(refusal(first.join(store, 30, 30, 16).await), Some(Refusal::DeviceLimit));
    assert!(moved(&drop_device(store, &first, 31, 3).await).is_some());
    assert!(moved(&first.join(store, 32, 32, 16).await.0).is_some());
    let (_, all) = devices(store, &second);
    let numbers: Vec<u32> = all.iter().map(|device| device.number).collect();
    assert_eq!(numbers, [1, 2, 4, 5, 6, 7, 8, 9], "no number is given twice");
}

pub(super) async fn a_dropped_device_is_served_nothing_and_its_keys_come_back(store: &impl RelayStore) {
    let first = Holder::issue(store, 100, 500).await;
    first.open_alias(store, 1, "one@relay.test").await;
    let (_, second) = first.join(store, 2, 7, 30).await;
    let (_, third) = first.join(store, 3, 8, 20).await;
    let mail = |number| deposit(&[(first.account, 0)], number, b"mail", DAY);
    store.deposit(mail(1)).await.expect("stored");
    for wrong in [2, 9] {
        let answer = drop_device(store, &second, 10 + u64::from(wrong), wrong).await;
        assert_eq!(refused(&answer), Some(Refusal::DeviceUnknown));
    }
    // Even the one that was first: value and aliases stay.
    assert_eq!(moved(&drop_device(store, &second, 1, 1).await), Some((50, 80, 500)));
    assert_eq!(moved(&drop_device(store, &second, 1, 1).await), Some((50, 80, 500)));
    assert!(store.standing(first.account).is_dropped && !store.standing(third.account).is_dropped);
    assert!(
        first
            .link_tags(100)
            .iter()
            .all(|tag| store.find_tag(tag).expect("readable").is_none())
    );
    let burned = store.burn(first.burn_order(0, [0; 16], [1; 16], 0)).await;
    assert!(burned.expect("readable").is_none());
    let spent = first
        .execute(store, &change(9, 0), Effect::Tell { addresses: Vec::new() })
        .await;
    assert!(spent.is_err());
    assert!(first.inbox(store, 0).await.is_empty(), "what waited for it is gone");
    assert_eq!(second.balance(store), (500, 80));
    assert!(store.find_tag(&second.link(3).tag).expect("readable").is_some());
    for index in (3..80).step_by(4) {
        let burned = store.burn(second.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    // Mail goes on to those that are left.
    store.deposit(mail(2)).await.expect("stored");
    assert!(first.inbox(store, 0).await.is_empty());
    for holder in [&second, &third] {
        assert_eq!(holder.inbox(store, 0).await.last().expect("waits").2, b"mail");
        let told = events(store, holder, 0).await;
        assert!(told.contains(&Event::Dropped { device: 1, by: 2 }));
    }
    let sent = second.submit(store, 20, 100).await;
    assert!(matches!(sent, Answer::Done { balance: 400, .. }));
    assert!(matches!(
        second.open_alias(store, 21, "two@relay.test").await,
        Answer::Done { .. }
    ));
    assert_eq!(store.alias("two@relay.test").expect("open").number, 1);
    // The last one cannot end itself, and is an account like any other then.
    assert!(moved(&drop_device(store, &second, 22, 3).await).is_some());
    assert_eq!(
        refused(&drop_device(store, &second, 23, 2).await),
        Some(Refusal::DeviceUnknown)
    );
    store.upkeep(NOW, 30).await.expect("kept up");
}

pub(super) async fn keys_and_value_end_with_the_last_device(store: &impl RelayStore) {
    store.set_prices(1, 1, 5, 0, 0).await.expect("set");
    let first = Holder::issue(store, 40, 1_000).await;
    let (_, second) = first.join(store, 1, 7, 16).await;
    for index in (3..16).step_by(4) {
        let burned = store.burn(second.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    assert_eq!(
        second.balance(store),
        (980, 0),
        "its own end, and not that of the value"
    );
    for index in (3..24).step_by(4) {
        let burned = store.burn(first.burn_order(index, [0; 16], [1; 16], 0)).await;
        assert!(burned.expect("readable").is_some(), "{index}");
    }
    assert_eq!((first.balance(store), second.balance(store)), ((0, 0), (0, 0)));
    let refused = store.top_up(&second.identifier, 1, [3; 16], DAY).await;
    assert_eq!(refused, Err(crate::StoreError::Invalid));
}

pub(super) async fn inbound_mail_is_paid_for_once(store: &impl RelayStore) {
    store.set_prices(0, 0, 0, 10, 0).await.expect("set");
    let first = Holder::issue(store, 60, 100).await;
    let (_, second) = first.join(store, 1, 7, 20).await;
    for number in [1, 2] {
        store
            .deposit(deposit(&[(second.account, 0)], number, b"mail", DAY))
            .await
            .expect("stored");
    }
    assert_eq!(first.inbox(store, 0).await.len(), 3);
    assert_eq!(first.balance(store).0, 80);
    assert_eq!(second.inbox(store, 0).await.len(), 2);
    assert_eq!(second.inbox(store, 0).await.len(), 2);
    assert_eq!(second.balance(store).0, 80);
}

pub(super) async fn an_account_of_several_devices_is_not_released(store: &impl RelayStore) {
    let first = Holder::issue(store, 60, 100).await;
    let (_, second) = first.join(store, 1, 7, 20).await;
    let release = |seq| (change(seq, 0), Effect::Release { voucher: [1; 32] });
    let (order, effect) = release(1);
    let answer = second.execute(store, &order, effect).await.expect("executed");
    assert_eq!(refused(&answer), Some(Refusal::Occupied));
    // A part of it may be given away, and what comes in is for all.
    let (answer, child) = second.split(store, 2, 9, (1, 0)).await.expect("executed");
    assert_eq!(refused(&answer), Some(Refusal::Malformed));
    drop(child);
    let (answer, child) = first.split(store, 3, 9, (20, 30)).await.expect("executed");
    assert_eq!(moved(&answer), Some((20, 20, 70)));
    assert_eq!((second.balance(store), child.balance(store)), ((70, 20), (30, 20)));
    let (order, effect) = release(4);
    let answer = child.execute(store, &order, effect).await.expect("executed");
    assert_eq!(moved(&answer), Some((12, 8, 0)));
    let redeem = Effect::Redeem { voucher: [1; 32] };
    let answer = second.execute(store, &change(5, 0), redeem).await.expect("executed");
    assert_eq!(moved(&answer), Some((12, 32, 100)));
    assert_eq!(first.balance(store), (100, 20));
}

pub(super) async fn what_devices_are_told_is_bounded(store: &impl RelayStore) {
    let first = Holder::issue(store, 60, 100).await;
    first.open_alias(store, 1, "one@relay.test").await;
    let (_, second) = first.join(store, 2, 7, 20).await;
    let mut from = 0;
    for seq in 3..3 + EVENTS_WAITING_MAX {
        let tell = Effect::Tell {
            addresses: vec!["one@relay.test".to_owned()],
        };
        let answer = first
            .execute(store, &change(seq, seq - 1), tell)
            .await
            .expect("executed");
        assert!(matches!(answer, Answer::Done { .. }), "{seq}");
        if seq % 32 == 0 {
            for (index, _, _, digest) in first.inbox(store, from).await {
                store
                    .confirm(first.account, vec![(index, digest)])
                    .await
                    .expect("confirmed");
                from = index + 1;
            }
        }
    }
    let answer = first.open_alias(store, 2_000, "two@relay.test").await;
    assert_eq!(refused(&answer), Some(Refusal::Limit));
    assert!(store.alias("two@relay.test").is_none());
    assert!(moved(&drop_device(store, &first, 2_001, 2).await).is_some());
    drop(second);
    let answer = first.open_alias(store, 2_002, "two@relay.test").await;
    assert!(matches!(answer, Answer::Done { .. }));
}
