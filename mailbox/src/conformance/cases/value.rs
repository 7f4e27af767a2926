//! Accounts, link keys, changes and prices.

use keypacks::pack::Identifier;
use ledger::{Kind, Leg, Onward, Services};

use crate::StoreError;
use crate::conformance::holder_side::{DAY, Holder, NOW, change, refused, spool};
use crate::relay_store::{Effect, RelayStore, Spooled};
use crate::request::{Answer, Refusal, SERVICES_MAX, UNACKNOWLEDGED_MAX};

pub(super) async fn value_counts_once_per_transfer(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 500).await;
    assert_eq!(holder.balance(store), (500, 16));
    assert_eq!(store.top_up(&holder.identifier, 70, [1; 16], DAY).await, Ok(Some(570)));
    assert_eq!(
        store.top_up(&holder.identifier, 70, [1; 16], DAY + 1).await,
        Ok(Some(570)),
        "the same transfer"
    );
    assert_eq!(
        store.top_up(&holder.identifier, 71, [1; 16], DAY).await,
        Err(StoreError::Invalid)
    );
    assert_eq!(store.top_up(&Identifier([0; 16]), 70, [2; 16], DAY).await, Ok(None));
    assert_eq!(
        store.top_up(&holder.identifier, u64::MAX, [3; 16], DAY).await,
        Err(StoreError::Invalid)
    );
    let statement = store
        .statement(&holder.identifier, 10)
        .expect("readable")
        .expect("known");
    assert_eq!(
        statement.iter().map(|row| (row.credit, row.debit)).collect::<Vec<_>>(),
        [(500, 0), (70, 0)]
    );
    assert_eq!(
        store
            .statement(&holder.identifier, 1)
            .expect("readable")
            .expect("known")
            .len(),
        1
    );
    assert!(store.statement(&Identifier([0; 16]), 1).expect("readable").is_none());
}

/// Day, kind, count, credit and debit.
type Row = (u32, Kind, u32, u64, u64);

/// Services from a posting on, the next one, and whether there is more.
fn services(store: &impl RelayStore, holder: &Holder, from: u64) -> (Vec<Row>, u64, bool) {
    match store.services(holder.account, from).expect("readable") {
        Answer::Statement { services, next, more } => {
            let fields = |sum: &Services| (sum.day, sum.kind, sum.count, sum.credit, sum.debit);
            (services.iter().map(fields).collect(), next, more)
        }
        _ => panic!("not a statement"),
    }
}

pub(super) async fn a_statement_sums_up_by_day_and_kind(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 500).await;
    for (id, day) in [(4, DAY), (5, DAY + 1), (6, DAY), (7, DAY + 1)] {
        store
            .top_up(&holder.identifier, 10, [id; 16], day)
            .await
            .expect("credited");
    }
    let (day, next_day) = ((DAY, Kind::TopUp, 3, 520, 0), (DAY + 1, Kind::TopUp, 2, 20, 0));
    assert_eq!(services(store, &holder, 0), (vec![day, next_day], 5, false));
    assert_eq!(
        services(store, &holder, 4),
        (vec![(DAY + 1, Kind::TopUp, 1, 10, 0)], 5, false)
    );
    assert_eq!(services(store, &holder, 5), (Vec::new(), 5, false));
    assert_eq!(services(store, &holder, u64::MAX), (Vec::new(), u64::MAX, false));
    // More days than one answer shows.
    for (id, day) in (0..).zip(DAY + 2..).take(SERVICES_MAX) {
        let mut name = [9; 16];
        name[..4].copy_from_slice(&u32::to_le_bytes(id));
        store.top_up(&holder.identifier, 1, name, day).await.expect("credited");
    }
    let (first, next, more) = services(store, &holder, 0);
    assert!(first.len() == SERVICES_MAX && more);
    let (rest, end, more) = services(store, &holder, next);
    assert!(rest.len() == 2 && !more && end == 5 + SERVICES_MAX as u64);
    let credits: u64 = first.iter().chain(&rest).map(|sum| sum.3).sum();
    assert_eq!((credits, 16), holder.balance(store));
}

pub(super) async fn a_tag_is_live_until_it_is_burned(store: &impl RelayStore) {
    store.set_prices(0, 0, 30, 0, 0).await.expect("set");
    let holder = Holder::issue(store, 16, 100).await;
    let other = Holder::issue(store, 16, 0).await;
    let hit = store
        .find_tag(&holder.link(2).tag)
        .expect("readable")
        .expect("within the look-ahead");
    assert!(hit.account == holder.account && hit.step.up == holder.link(2).up);
    assert_eq!((hit.step.index, hit.floor), (2, 0));
    assert!(store.find_tag(&holder.link(4).tag).expect("readable").is_none());
    let burn = |index| store.burn(holder.burn_order(index, [0; 16], [1; 16], 0));
    assert!(burn(4).await.expect("readable").is_none(), "beyond the look-ahead");
    assert!(burn(2).await.expect("readable").is_some());
    assert!(burn(2).await.expect("readable").is_none());
    assert!(burn(1).await.expect("readable").is_none(), "below a burned index");
    assert_eq!(holder.balance(store), (70, 13));
    assert!((0..3).all(|index| store.find_tag(&holder.link(index).tag).expect("readable").is_none()));
    assert_eq!(
        store
            .find_tag(&holder.link(6).tag)
            .expect("readable")
            .expect("the window has moved")
            .floor,
        3
    );
    for index in [6, 9] {
        assert!(burn(index).await.expect("readable").is_some());
    }
    assert_eq!(holder.balance(store), (10, 6));
    assert!(burn(12).await.expect("readable").is_some());
    assert_eq!(holder.balance(store), (0, 3), "at most what was left");
    let top_up = |id| store.top_up(&holder.identifier, 100, [id; 16], DAY);
    assert_eq!(top_up(8).await, Ok(Some(100)));
    assert!(burn(15).await.expect("readable").is_some());
    assert_eq!(holder.balance(store), (0, 0), "the last key costs whatever is left");
    assert_eq!(top_up(8).await, Ok(Some(0)), "credited before");
    assert_eq!(top_up(9).await, Err(StoreError::Invalid), "nothing could spend it");
    assert!(burn(16).await.expect("readable").is_none());
    assert_eq!(other.balance(store), (0, 16));
}

pub(super) async fn a_rotation_burns_and_debits_and_leaves_the_token(store: &impl RelayStore) {
    store.set_prices(0, 0, 30, 0, 0).await.expect("set");
    let policy = "time=5,bytes=70000".parse().expect("a policy");
    let holder = Holder::issue_rotating(store, 16, 100, policy).await;
    let first = store.burn(holder.burn_order(0, [0; 16], [1; 16], 0)).await;
    let first = first.expect("readable").expect("live");
    assert_eq!((first.rotation, first.keys_left), (policy, 15));
    let step = |index| store.link_step(holder.account, index).expect("readable");
    assert!(step(0).is_none() && step(5).is_none() && step(4).is_some());
    assert!(step(1).is_some_and(|step| step.up == holder.link(1).up && step.index == 1));
    let rotate = |index| store.rotate(holder.account, index, DAY);
    assert_eq!(
        rotate(1).await.expect("readable").map(|rotated| rotated.keys_left),
        Some(14)
    );
    assert!(rotate(1).await.expect("readable").is_none(), "burned");
    assert!(rotate(6).await.expect("readable").is_none(), "beyond the look-ahead");
    assert_eq!(holder.balance(store), (40, 14));
    assert!(
        store.find_tag(&holder.link(1).tag).expect("readable").is_none()
            && store.find_tag(&holder.link(2).tag).expect("readable").is_some()
    );
    let next = store.burn(holder.burn_order(2, [1; 16], [2; 16], 0)).await;
    assert!(!next.expect("readable").expect("live").token_mismatch);
}

pub(super) async fn cover_is_debited_whole_or_not_at_all(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let pay = |amount| store.charge_cover(holder.account, amount, DAY);
    assert_eq!(pay(60).await, Ok(true));
    assert_eq!(pay(41).await, Ok(false), "the value does not cover it");
    assert_eq!(holder.balance(store), (40, 16));
    assert_eq!(pay(40).await, Ok(true));
    assert_eq!(pay(0).await, Ok(true), "where it costs nothing");
    assert_eq!(pay(1).await, Ok(false));
    let Ok(Answer::Statement { services, .. }) = store.services(holder.account, 0) else {
        panic!("a statement");
    };
    let cover = services.iter().find(|sum| sum.kind == ledger::Kind::Cover);
    assert_eq!(cover.map(|sum| (sum.count, sum.credit, sum.debit)), Some((2, 0, 100)));
    assert_eq!(holder.balance(store), (0, 16));
}

pub(super) async fn tokens_tell_a_second_holder(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 0).await;
    let links = [
        ([0; 16], [1; 16], 0, (false, false)),
        ([1; 16], [2; 16], 0, (false, false)),
        // The answer with token 2 was lost.
        ([1; 16], [3; 16], 0, (false, false)),
        ([3; 16], [4; 16], 1, (false, true)),
        ([1; 16], [5; 16], 0, (true, false)),
        ([5; 16], [6; 16], 0, (false, false)),
    ];
    for (index, (shown, fresh, answered, expected)) in (0..).zip(links) {
        let burned = store
            .burn(holder.burn_order(index, shown, fresh, answered))
            .await
            .expect("readable");
        let burned = burned.expect("live");
        assert_eq!((burned.token_mismatch, burned.rolled_back), expected, "link {index}");
        assert_eq!((burned.token, burned.highest, burned.floor), (fresh, 0, 0));
    }
}

pub(super) async fn a_change_is_carried_out_once(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 1_000).await;
    let effect = || spool(&["a@example.org", "b@example.org"], b"text", 300);
    let answer = holder.execute(store, &change(1, 0), effect()).await.expect("executed");
    assert!(
        answer
            == Answer::Done {
                seq: 1,
                debited: 300,
                balance: 700
            }
    );
    assert!(store.stored_answer(holder.account, &change(1, 0), &change(1, 0).digest()) == Some(answer.clone()));
    let digest = change(1, 0).digest();
    let again = store
        .execute((holder.account, 0), change(1, 0), digest, effect(), DAY, NOW)
        .await;
    assert!(again == Ok(answer));
    assert_eq!(
        (holder.balance(store).0, store.totals().expect("readable").queued),
        (700, 2)
    );
    // A lower number that was never executed is still free.
    assert!(matches!(holder.submit(store, 5, 1).await, Answer::Done { .. }));
    assert!(matches!(holder.submit(store, 4, 1).await, Answer::Done { .. }));
    let burned = store
        .burn(holder.burn_order(0, [0; 16], [1; 16], 5))
        .await
        .expect("readable")
        .expect("live");
    assert_eq!((burned.highest, burned.floor, burned.rolled_back), (5, 0, false));
}

pub(super) async fn a_number_is_refused_when_stale_or_taken(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 1_000).await;
    for seq in 1..=3 {
        holder.submit(store, seq, 1).await;
    }
    let other = crate::request::Change {
        id: [8; 16],
        ..change(3, 0)
    };
    let answer = holder
        .execute(store, &other, spool(&["a@example.org"], b"x", 1))
        .await
        .expect("answered");
    assert_eq!(refused(&answer), Some(Refusal::Conflict));
    let answer = holder
        .execute(store, &change(4, 2), spool(&["a@example.org"], b"x", 1))
        .await
        .expect("answered");
    assert!(matches!(answer, Answer::Done { .. }));
    assert_eq!(refused(&holder.submit(store, 2, 1).await), Some(Refusal::Stale));
    assert_eq!(refused(&holder.submit(store, 0, 1).await), Some(Refusal::Malformed));
    assert!(
        matches!(holder.submit(store, 3, 1).await, Answer::Done { seq: 3, .. }),
        "kept until acknowledged"
    );
    assert_eq!(holder.balance(store).0, 1_000 - 4);
    let refusal = Effect::Refuse(Refusal::Route { recipient: 1 });
    let answer = holder.execute(store, &change(5, 0), refusal).await.expect("answered");
    assert_eq!(refused(&answer), Some(Refusal::Route { recipient: 1 }));
    assert_eq!(
        refused(&holder.submit(store, 5, 1).await),
        Some(Refusal::Route { recipient: 1 }),
        "final"
    );
    let busy = holder
        .execute(store, &change(6, 0), Effect::Refuse(Refusal::Busy))
        .await
        .expect("answered");
    assert_eq!(refused(&busy), Some(Refusal::Busy));
    assert!(
        matches!(holder.submit(store, 6, 1).await, Answer::Done { seq: 6, .. }),
        "busy is not final"
    );
}

pub(super) async fn too_little_value_is_told_and_costs_nothing(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 99).await;
    assert_eq!(
        refused(&holder.submit(store, 1, 100).await),
        Some(Refusal::Value { shortfall: 1 })
    );
    assert_eq!(
        (holder.balance(store).0, store.totals().expect("readable").queued),
        (99, 0)
    );
    store
        .top_up(&holder.identifier, 1, [1; 16], DAY)
        .await
        .expect("credited");
    assert_eq!(
        refused(&holder.submit(store, 1, 100).await),
        Some(Refusal::Value { shortfall: 1 }),
        "final"
    );
    assert!(
        holder.submit(store, 2, 100).await
            == Answer::Done {
                seq: 2,
                debited: 100,
                balance: 0
            }
    );
}

pub(super) async fn unacknowledged_answers_are_bounded(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 1_000).await;
    let refuse = || Effect::Refuse(Refusal::Sender);
    for seq in 1..=UNACKNOWLEDGED_MAX {
        holder
            .execute(store, &change(seq, 0), refuse())
            .await
            .expect("answered");
    }
    let next = UNACKNOWLEDGED_MAX + 1;
    let answer = holder
        .execute(store, &change(next, 0), refuse())
        .await
        .expect("answered");
    assert_eq!(refused(&answer), Some(Refusal::Unacknowledged));
    let answer = holder
        .execute(store, &change(next, 1), refuse())
        .await
        .expect("answered");
    assert_eq!(refused(&answer), Some(Refusal::Sender), "one was acknowledged");
}

pub(super) async fn prices_have_versions(store: &impl RelayStore) {
    let first = store.set_prices(1, 2, 3, 4, 5).await.expect("set");
    assert_eq!(store.set_prices(1, 2, 3, 4, 5).await, Ok(first));
    let second = store.set_prices(1, 2, 3, 4, 6).await.expect("set");
    assert_eq!((second.version, second.inbound_kilobyte), (first.version + 1, 6));
    assert_eq!(store.prices(), second);
    let leg = |message| Leg {
        message,
        kilobyte: 2,
        relays: 1,
    };
    let legs = Onward {
        version: 0,
        elsewhere: leg(70),
        domains: [("near.test".to_owned(), Leg::default())].into(),
    };
    store.set_onward(legs.clone()).await.expect("set");
    store.set_onward(legs.clone()).await.expect("in force already");
    let third = store.prices();
    assert_eq!((third.version, third.message), (second.version + 1, 1));
    let in_force = store.onward();
    assert_eq!((in_force.version, in_force.elsewhere), (third.version, leg(70)));
    assert_eq!(in_force.leg("a@Near.test"), Leg::default());
    let fourth = store.set_prices(1, 2, 3, 0, 0).await.expect("set");
    assert_eq!(
        (store.onward().version, store.onward().elsewhere),
        (fourth.version, leg(70))
    );
    store.set_onward(Onward::default()).await.expect("set");
    assert!(store.onward().is_free() && store.prices().version == fourth.version + 1);
}

pub(super) async fn both_legs_are_debited_in_one_commit_and_stand_apart(store: &impl RelayStore) {
    let holder = Holder::issue(store, 16, 100).await;
    let before = store.totals().expect("readable");
    let submit = |seq, price, onward| {
        let Effect::Spool(spooled) = spool(&["to@far.test"], b"message", price) else {
            panic!("mail");
        };
        let change = change(seq, 0);
        let holder = &holder;
        async move {
            holder
                .execute(store, &change, Effect::Spool(Spooled { onward, ..spooled }))
                .await
        }
    };
    let done = submit(1, 60, 45).await.expect("executed");
    assert!(matches!(
        done,
        Answer::Done {
            debited: 60,
            balance: 40,
            ..
        }
    ));
    let again = submit(1, 60, 45).await.expect("answered");
    assert!(again == done);
    let short = submit(2, 41, 1).await.expect("answered");
    assert_eq!(refused(&short), Some(Refusal::Value { shortfall: 1 }));
    assert_eq!(
        submit(3, 10, 11).await.err(),
        Some(StoreError::Invalid),
        "more than the whole"
    );
    let (parts, ..) = services(store, &holder, 1);
    assert_eq!(parts, [(DAY, Kind::Message, 1, 0, 15), (DAY, Kind::Onward, 1, 0, 45)]);
    let after = store.totals().expect("readable");
    assert_eq!((after.revenue - before.revenue, after.onward - before.onward), (15, 45));
    assert_eq!(after.debits - before.debits, 60);
    let audit = store.audit().expect("readable");
    assert!(
        audit.findings.is_empty() && audit.totals == after,
        "{:?}",
        audit.findings
    );
}
