//! Packs at further relays: the order at the relay that buys them, and the account at the one that makes them.

use keypacks::Secret;
use keypacks::chain::LinkChain;
use keypacks::pack::Identifier;

use super::moves::kinds;
use crate::conformance::holder_side::{DAY, Holder, change, refused};
use crate::devices::{EVENTS, Event, decode_events};
use crate::relay::{ENDOWED_PER_DAY, SPLITS_PER_DAY};
use crate::relay_store::{Effect, Endowment, Procure, Procured, ProcurementId, RelayStore};
use crate::request::{Answer, Refusal};

const PRICE: u64 = 320;

async fn procure(store: &impl RelayStore, holder: &Holder, seq: u64, kem: u8) -> Answer {
    let effect = Effect::Procure(Procure {
        peer: "far".to_owned(),
        kem: vec![kem; 4],
        dh: [kem; 32],
        keys: 30,
        value: 300,
        price: PRICE,
    });
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

fn done(answer: &Answer) -> Option<(u64, u64)> {
    match answer {
        Answer::Done { debited, balance, .. } => Some((*debited, *balance)),
        _ => None,
    }
}

fn only(store: &impl RelayStore) -> ProcurementId {
    let [order] = &store.procurements().expect("readable")[..] else {
        panic!("one order is under way");
    };
    order.id
}

fn made() -> Procured {
    Procured::Made {
        ciphertext: vec![5; 9],
        confirm: [6; 16],
    }
}

async fn told(store: &impl RelayStore, holder: &Holder) -> Vec<Event> {
    let mut events = Vec::new();
    for (_, alias, body, _) in holder.inbox(store, 0).await {
        assert_eq!(alias, EVENTS);
        events.extend(decode_events(&body).expect("as written"));
    }
    events
}

pub(super) async fn a_pack_is_ordered_once_and_told_once(store: &impl RelayStore) {
    let holder = Holder::issue(store, 100, 1_000).await;
    let answer = procure(store, &holder, 1, 1).await;
    assert_eq!(done(&answer), Some((PRICE, 680)));
    // The same change again, and the same order under another number.
    assert!(procure(store, &holder, 1, 1).await == answer);
    assert_eq!(done(&procure(store, &holder, 2, 1).await), Some((0, 680)));
    let [order] = &store.procurements().expect("readable")[..] else {
        panic!("one order");
    };
    assert_eq!((&*order.what.peer, order.what.keys, order.what.value), ("far", 30, 300));
    assert_eq!((order.what.kem.len(), order.what.dh, order.day), (4, [1; 32], DAY));
    assert!(
        store.audit().expect("readable").findings.is_empty(),
        "while it is under way"
    );
    let id = order.id;
    for _ in 0..2 {
        assert_eq!(store.procured(id, made(), DAY).await, Ok(()));
    }
    assert_eq!(store.procured(id, Procured::Returned, DAY).await, Ok(()), "told before");
    let order = keypacks::kdf::hash(&[&[1; 4]]);
    let expected = Event::Procured {
        order,
        ciphertext: vec![5; 9],
        confirm: [6; 16],
    };
    assert!(told(store, &holder).await == [expected]);
    assert_eq!(holder.balance(store), (680, 100));
    let paid = [("top-up".to_owned(), 1_000, 0), ("procured".to_owned(), 0, PRICE)];
    assert_eq!(kinds(store, &holder), paid);
    assert_eq!(store.totals().expect("readable").onward, PRICE);
}

pub(super) async fn a_pack_that_was_made_is_told_to_whichever_device_asks(store: &impl RelayStore) {
    let first = Holder::issue(store, 200, 1_000).await;
    let (_, second) = first.join(store, 1, 7, 60).await;
    let told = async |holder: &Holder| {
        let mut waiting = holder.inbox(store, 0).await;
        waiting.retain(|(_, _, body, _)| {
            let events = decode_events(body).expect("as written");
            events.iter().any(|event| matches!(event, Event::Procured { .. }))
        });
        waiting.len()
    };
    assert_eq!(done(&procure(store, &first, 2, 1).await), Some((PRICE, 680)));
    assert_eq!(
        done(&procure(store, &second, 1, 1).await),
        Some((0, 680)),
        "one order of both"
    );
    assert!(
        store
            .order_before(first.account, &[1; 4], [1; 32])
            .is_ok_and(|known| known.is_some())
    );
    store.procured(only(store), made(), DAY).await.expect("told");
    assert_eq!((told(&first).await, told(&second).await), (0, 1), "who asked last");
    // It is known for some weeks after.
    let before = store.order_before(first.account, &[1; 4], [1; 32]).expect("readable");
    assert!(before.is_some_and(|known| (&*known.peer, known.keys, known.price) == ("far", 30, PRICE)));
    assert_eq!(done(&procure(store, &first, 3, 1).await), Some((0, 680)));
    assert_eq!((told(&first).await, told(&second).await), (1, 1));
    assert!(store.procurements().expect("readable").is_empty());
    // To another account it is nothing.
    let stranger = Holder::issue(store, 100, 1_000).await;
    assert!(
        store
            .order_before(stranger.account, &[1; 4], [1; 32])
            .is_ok_and(|known| known.is_none())
    );
    assert_eq!(done(&procure(store, &stranger, 1, 1).await), Some((PRICE, 680)));
    assert!(store.audit().expect("readable").findings.is_empty());
    // Not for ever.
    let now = u64::from(DAY + crate::relay::ENDOWED_DAYS + 1) * 86_400;
    store.upkeep(now, 90).await.expect("kept up");
    assert!(
        store
            .order_before(first.account, &[1; 4], [1; 32])
            .is_ok_and(|known| known.is_none())
    );
}

pub(super) async fn an_account_that_waits_for_packs_is_not_given_away(store: &impl RelayStore) {
    let holder = Holder::issue(store, 100, 1_000).await;
    procure(store, &holder, 1, 1).await;
    let release = async |seq, voucher| {
        let effect = Effect::Release { voucher };
        holder.execute(store, &change(seq, 0), effect).await.expect("executed")
    };
    let early = release(2, [1; 32]).await;
    assert_eq!(refused(&early), Some(Refusal::Occupied));
    store
        .procured(only(store), Procured::Returned, DAY)
        .await
        .expect("told");
    // What was told is collected first.
    let told = holder.inbox(store, 0).await;
    let [(index, _, _, digest)] = &told[..] else {
        panic!("one event")
    };
    store
        .confirm(holder.account, vec![(*index, *digest)])
        .await
        .expect("confirmed");
    let late = release(3, [2; 32]).await;
    assert!(matches!(late, Answer::Moved { value: 1_000, .. }));
}

pub(super) async fn a_pack_that_is_not_made_is_paid_back(store: &impl RelayStore) {
    let holder = Holder::issue(store, 100, 1_000).await;
    procure(store, &holder, 1, 1).await;
    let id = only(store);
    for _ in 0..2 {
        assert_eq!(store.procured(id, Procured::Returned, DAY).await, Ok(()));
    }
    assert_eq!(holder.balance(store), (1_000, 100));
    let order = keypacks::kdf::hash(&[&[1; 4]]);
    assert!(told(store, &holder).await == [Event::NotProcured { order }]);
    assert_eq!(kinds(store, &holder)[2], ("returned".to_owned(), PRICE, 0));
    assert_eq!(store.totals().expect("readable").onward, 0);
    // What an account would get back that has ended meanwhile lapses with the rest.
    procure(store, &holder, 2, 2).await;
    let end = Effect::Expire { day: Some(0) };
    holder.execute(store, &change(3, 0), end).await.expect("executed");
    assert_eq!(store.procured(only(store), Procured::Returned, DAY).await, Ok(()));
    assert_eq!(holder.balance(store).0, 0);
    assert_eq!(refused(&procure(store, &holder, 4, 3).await), Some(Refusal::Ended));
}

pub(super) async fn orders_are_bounded_and_covered(store: &impl RelayStore) {
    let poor = Holder::issue(store, 100, PRICE - 1).await;
    let short = procure(store, &poor, 1, 1).await;
    assert_eq!(refused(&short), Some(Refusal::Value { shortfall: 1 }));
    let holder = Holder::issue(store, 100, 100 * PRICE).await;
    for seq in 1..=16 {
        let taken = procure(store, &holder, seq, u8::try_from(seq).expect("few")).await;
        assert!(done(&taken).is_some());
    }
    let over = procure(store, &holder, 17, 17).await;
    assert_eq!(refused(&over), Some(Refusal::Limit));
    let first = store.procurements().expect("readable")[0].id;
    store.procured(first, made(), DAY).await.expect("told");
    assert!(done(&procure(store, &holder, 18, 18).await).is_some());
}

/// An order whose account has a root made from `number`, tried for the `attempt`th time: the relay draws anew for each.
fn endowment(number: u8, attempt: u8, (keys, value): (u64, u64)) -> (Effect, Secret<32>) {
    let root = || Secret::new([number ^ attempt.wrapping_mul(16); 32]);
    let effect = Effect::Endow(Endowment {
        order: [number; 32],
        identifier: Identifier([number ^ attempt.wrapping_mul(16); 16]),
        root: root(),
        ciphertext: vec![attempt; 9],
        confirm: [attempt; 16],
        keys,
        value,
    });
    (effect, root())
}

async fn endow(
    store: &impl RelayStore,
    holder: &Holder,
    seq: u64,
    (number, attempt): (u8, u8),
    moved: (u64, u64),
) -> Answer {
    let (effect, _) = endowment(number, attempt, moved);
    holder.execute(store, &change(seq, 0), effect).await.expect("executed")
}

fn endowed(answer: &Answer) -> Option<(u64, Vec<u8>, [u8; 16])> {
    match answer {
        Answer::Endowed {
            end,
            ciphertext,
            confirm,
            ..
        } => Some((*end, ciphertext.clone(), *confirm)),
        _ => None,
    }
}

pub(super) async fn an_account_is_made_once_for_an_order(store: &impl RelayStore) {
    let holder = Holder::issue(store, 100, 1_000).await;
    let answer = endow(store, &holder, 1, (1, 1), (30, 400)).await;
    assert_eq!(endowed(&answer), Some((70, vec![1; 9], [1; 16])));
    assert_eq!(holder.balance(store), (600, 70));
    assert!(
        endow(store, &holder, 1, (1, 2), (30, 400)).await == answer,
        "the same change"
    );
    let other = endow(store, &holder, 2, (1, 2), (30, 400)).await;
    assert_eq!(
        endowed(&other),
        Some((70, vec![1; 9], [1; 16])),
        "the same order under another number"
    );
    assert_eq!(store.totals().expect("readable").accounts, 2);
    let (_, root) = endowment(1, 1, (30, 400));
    let step = LinkChain::from_root(&root).step_at(3).expect("near");
    let hit = store.find_tag(&step.tag).expect("readable").expect("the account's");
    assert!(matches!(
        store.balance(hit.account),
        Ok(Answer::Balance {
            balance: 400,
            keys: 30,
            ..
        })
    ));
    let (_, never) = endowment(1, 2, (30, 400));
    let step = LinkChain::from_root(&never).step_at(3).expect("near");
    assert!(
        store.find_tag(&step.tag).expect("readable").is_none(),
        "nothing came of the second root"
    );
    // Another account's order of the same keys is its own, and not this one's.
    let stranger = Holder::issue(store, 100, 1_000).await;
    let taken = endow(store, &stranger, 1, (1, 3), (30, 400)).await;
    assert_eq!(refused(&taken), Some(Refusal::Malformed));
    // Asked for once more after the end, it is told, and nothing is made after it.
    let end = Effect::Expire { day: Some(0) };
    holder.execute(store, &change(3, 0), end).await.expect("executed");
    assert!(endowed(&endow(store, &holder, 4, (1, 4), (30, 400)).await).is_some());
    let late = endow(store, &holder, 5, (2, 1), (30, 400)).await;
    assert_eq!(refused(&late), Some(Refusal::Ended));
}

pub(super) async fn accounts_are_made_of_what_is_there_and_more_of_them_by_relays(store: &impl RelayStore) {
    let holder = Holder::issue(store, 40, 100).await;
    for (seq, moved, refusal) in [
        (1, (15, 0), Refusal::Malformed),
        (2, (25, 0), Refusal::Keys),
        (3, (20, 101), Refusal::Value { shortfall: 1 }),
    ] {
        let answer = endow(store, &holder, seq, (1, 1), moved).await;
        assert_eq!(refused(&answer), Some(refusal));
    }
    assert_eq!(holder.balance(store), (100, 40));
    const { assert!(ENDOWED_PER_DAY > SPLITS_PER_DAY) };
    let (person, peer) = (
        Holder::issue(store, 1_000, 0).await,
        Holder::issue(store, 1_000, 0).await,
    );
    let domain = "near.test".to_owned();
    assert_eq!(store.speak_for(&peer.identifier, domain, true).await, Ok(true));
    for number in 0..SPLITS_PER_DAY {
        let (number, seq) = (u8::try_from(number).expect("few"), u64::from(number) + 1);
        for (holder, first) in [(&person, 100), (&peer, 150)] {
            let answer = endow(store, holder, seq, (first + number, 0), (16, 0)).await;
            assert!(endowed(&answer).is_some());
        }
    }
    let over = endow(store, &person, 99, (200, 0), (16, 0)).await;
    assert_eq!(refused(&over), Some(Refusal::Limit));
    assert!(endowed(&endow(store, &peer, 99, (201, 0), (16, 0)).await).is_some());
}
