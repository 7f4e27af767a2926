//! Parcels overtake each other, come twice or not at all: each index has one end, and its receipt comes with it.

use keypacks::chain::{BoxChain, BoxKind, BoxStep};
use keypacks::deposit::{open_body, open_wrap, wrap_digest};
use keypacks::parcel::PARCEL_LOOK_AHEAD;

use super::*;
use crate::parcel::{
    AliasChange, Asked, Outcome as End, RECEIPTS, RECEIPTS_WAITING_MAX, Receipt, SKIPPED_DAYS, SKIPPED_MAX,
    decode_receipts,
};
use crate::request::COLLECT_MAX;

fn files() -> Files {
    let mut files = Files::new();
    files.config.parcels = true;
    files
}

fn parcel(issued: &Issued, index: u64) -> BoxStep {
    BoxChain::from_root(BoxKind::Parcel, &issued.root)
        .step_at(index)
        .expect("near")
}

fn mail(price: u64) -> Effect {
    let recipients = vec!["recipient-canary@example.org".to_owned()];
    Effect::Spool(Spooled {
        price,
        ..spooled(recipients, b"message-canary")
    })
}

/// Finds the tag as the MX does, and carries the parcel out if it is known.
async fn arrive(store: &RelayFiles, issued: &Issued, index: u64, effect: Effect) -> bool {
    let step = parcel(issued, index);
    match store.find_parcel(&step.tag).expect("readable") {
        None => false,
        Some(hit) => {
            assert!(hit.account == issued.account && hit.step.index == index && hit.step.key == step.key);
            let carried = store.carry_out_parcel((hit.account, hit.root), (index, [7; 16]), effect, DAY, NOW);
            carried.await.expect("carried out")
        }
    }
}

/// All receipts that wait, in order.
async fn receipts(store: &RelayFiles, issued: &Issued) -> Vec<Receipt> {
    let mut posts = BoxChain::from_root(BoxKind::Post, &issued.root);
    let mut receipts = Vec::new();
    let (deposits, _, _) = store.collect(issued.account, 0, COLLECT_MAX).expect("readable");
    for deposit in deposits {
        let Collected::Wrap { index, wrap } = deposit else {
            panic!("nothing has expired");
        };
        posts.forward_to(index).expect("in order");
        let fields = open_wrap(&posts.advance(), &wrap).expect("as sealed");
        assert_eq!(fields.alias, RECEIPTS);
        let (_, body) = store
            .fetch(issued.account, index, DAY)
            .await
            .expect("readable")
            .expect("there, and free");
        let payload = open_body(&fields.dek, body, fields.length).expect("as sealed");
        receipts.extend(decode_receipts(&payload).expect("receipts"));
    }
    receipts
}

fn balance_of(store: &RelayFiles, issued: &Issued) -> u64 {
    match store.balance(issued.account) {
        Ok(Answer::Balance { balance, .. }) => balance,
        _ => panic!("there is an account"),
    }
}

#[test]
fn each_index_is_carried_out_once_in_whatever_order() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        let order = [2, 0, 2, 9, 1, 0, 9, 5, 10, 10];
        let carried: Vec<bool> = {
            let mut carried = Vec::new();
            for index in order {
                carried.push(arrive(&store, &issued, index, mail(10)).await);
            }
            carried
        };
        assert_eq!(
            carried,
            [true, true, false, true, true, false, false, true, true, false]
        );
        assert_eq!(balance_of(&store, &issued), 1_000_000 - 60);
        assert_eq!(store.totals().expect("readable").queued, 6);
        let told: Vec<_> = receipts(&store, &issued).await;
        assert_eq!(
            told.iter().map(|receipt| receipt.index).collect::<Vec<_>>(),
            [2, 0, 9, 1, 5, 10]
        );
        let last = End::Accepted {
            debited: 10,
            balance: 1_000_000 - 60,
        };
        assert_eq!(told[5].outcome, last);
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;

        // The skipped ones are still known afterwards, and the used ones are not.
        let store = files.open().await;
        for (index, is_known) in [
            (0, false),
            (2, false),
            (3, true),
            (4, true),
            (5, false),
            (6, true),
            (11, true),
            (18, true),
            (19, false),
        ] {
            let found = store.find_parcel(&parcel(&issued, index).tag).expect("readable");
            assert_eq!(found.is_some(), is_known, "index {index}");
        }
        assert!(arrive(&store, &issued, 4, mail(10)).await);
        assert!(!arrive(&store, &issued, 4, mail(10)).await);
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;
    });
}

#[test]
fn what_is_refused_is_told_and_its_index_ends() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        assert!(arrive(&store, &issued, 0, mail(1_000_001)).await);
        assert!(arrive(&store, &issued, 1, Effect::Refuse(Refusal::Sender)).await);
        assert!(!arrive(&store, &issued, 0, mail(1)).await);
        let outcomes: Vec<_> = receipts(&store, &issued)
            .await
            .into_iter()
            .map(|receipt| receipt.outcome)
            .collect();
        let refused = [Refusal::Value { shortfall: 1 }, Refusal::Sender].map(End::Refused);
        assert_eq!(outcomes, refused);
        assert_eq!(balance_of(&store, &issued), 1_000_000);
        store.close().await;
    });
}

#[test]
fn a_full_spool_refuses_every_parcel_alike_and_ends_none() {
    run(async {
        let mut files = files();
        files.config.spool_max = 1;
        let store = files.open().await;
        let issued = issue(&store).await;
        assert_eq!(store.pass_parcel().await, Ok(()));
        assert!(arrive(&store, &issued, 0, mail(10)).await);
        assert_eq!(store.pass_parcel().await, Err(StoreError::Busy));
        let carried = store
            .carry_out_parcel((issued.account, 0), (1, [7; 16]), mail(10), DAY, NOW)
            .await;
        assert_eq!(carried, Err(StoreError::Busy));
        let id = store.due(NOW, 1).expect("readable")[0];
        store.finish(id, Outcome::Delivered).await.expect("recorded");
        assert!(arrive(&store, &issued, 1, mail(10)).await);
        store.close().await;
    });
}

#[test]
fn skipped_keys_are_few_and_end_after_a_month_and_both_are_told() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        // Every eighth comes: seven in eight are passed over, until there are more than are kept.
        for n in 0..10 {
            assert!(arrive(&store, &issued, n * PARCEL_LOOK_AHEAD + 7, mail(10)).await);
        }
        let burned = |told: &[Receipt]| -> Vec<u64> {
            let burned = told.iter().filter(|receipt| receipt.outcome == End::Burned);
            burned.map(|receipt| receipt.index).collect()
        };
        let told = receipts(&store, &issued).await;
        assert_eq!(burned(&told), [0, 1, 2, 3, 4, 5]);
        assert!(!arrive(&store, &issued, 5, mail(10)).await && arrive(&store, &issued, 6, mail(10)).await);
        assert!(store.audit().expect("readable").findings.is_empty());

        let later = NOW + u64::from(SKIPPED_DAYS) * 86_400;
        store.upkeep(later, 400).await.expect("done");
        assert!(store.find_parcel(&parcel(&issued, 8).tag).expect("readable").is_some());
        store.upkeep(later + 86_400, 400).await.expect("done");
        assert!(store.find_parcel(&parcel(&issued, 8).tag).expect("readable").is_none());
        let told = receipts(&store, &issued).await;
        assert_eq!(burned(&told).len(), 6 + SKIPPED_MAX as usize - 1);
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;
    });
}

#[test]
fn keys_of_parcels_that_came_or_were_given_up_are_gone_from_the_disk() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        assert!(arrive(&store, &issued, 1, mail(10)).await);
        let record = {
            let view = store.shared.base.view().expect("readable");
            let row = rows::SKIPPED.get(&view, (issued.account.0, 0)).expect("readable");
            store
                .shared
                .base
                .slab
                .read(row.expect("skipped").record)
                .expect("there")
        };
        assert!(files.holds(record.expose()));
        assert!(arrive(&store, &issued, 0, mail(10)).await);
        store.close().await;
        assert!(!files.holds(record.expose()));
        let chain = BoxChain::from_root(BoxKind::Parcel, &issued.root);
        assert!(files.states().iter().all(|chains| chains.parcel.index() == 2));
        for index in 0..2 {
            let step = chain.step_at(index).expect("near");
            assert!(!files.holds(step.key.expose()) && !files.holds(&step.tag.0));
        }
    });
}

#[test]
fn a_relay_that_takes_no_parcels_knows_no_tags_of_them() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let issued = issue(&store).await;
        assert!(store.find_parcel(&parcel(&issued, 0).tag).expect("readable").is_none());
        store.close().await;
    });
}

#[test]
fn whenever_the_power_goes_a_parcel_is_carried_out_once_or_not_yet() {
    for n in 0..24 {
        run(async {
            let files = files();
            let store = files.open().await;
            let issued = issue(&store).await;
            files.crash_after(n);
            let mut acknowledged = 0;
            for index in [1, 0, 3] {
                let step = parcel(&issued, index);
                let Ok(Some(hit)) = store.find_parcel(&step.tag) else {
                    continue;
                };
                let carried = store
                    .carry_out_parcel((hit.account, hit.root), (index, [7; 16]), mail(10), DAY, NOW)
                    .await;
                acknowledged += u64::from(carried == Ok(true));
            }
            files.crash(store, n).await;
            let store = files.try_open().expect("opens");
            let kept = (1_000_000 - balance_of(&store, &issued)) / 10;
            assert!(kept >= acknowledged, "an acknowledged parcel was lost, {n}");
            assert_eq!(receipts(&store, &issued).await.len() as u64, kept, "{n}");
            for index in [1, 0, 3] {
                arrive(&store, &issued, index, mail(10)).await;
            }
            assert_eq!(balance_of(&store, &issued), 1_000_000 - 30, "{n}");
            assert!(store.audit().expect("readable").findings.is_empty());
            store.close().await;
        });
    }
}

/// Digests of the wraps that wait, as their holder would confirm them.
fn waiting(store: &RelayFiles, issued: &Issued, from: u64) -> Vec<(u64, [u8; 32])> {
    let (deposits, _, _) = store.collect(issued.account, from, COLLECT_MAX).expect("readable");
    let digest = |collected| match collected {
        Collected::Wrap { index, wrap } => (index, wrap_digest(&wrap)),
        Collected::Expired { .. } => panic!("nothing has expired"),
    };
    deposits.into_iter().map(digest).collect()
}

fn confirming(confirmed: Vec<(u64, [u8; 32])>) -> Effect {
    Effect::Control(Asked { confirmed, alias: None })
}

#[test]
fn control_deletes_what_it_confirms_and_says_how_the_pack_stands() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        assert!(arrive(&store, &issued, 0, mail(10)).await);
        let mut confirmed = waiting(&store, &issued, 0);
        confirmed.push((0, [0; 32]));
        confirmed.push((77, [0; 32]));
        assert!(arrive(&store, &issued, 1, confirming(confirmed.clone())).await);
        assert!(!arrive(&store, &issued, 1, confirming(confirmed)).await, "once");
        let told = receipts(&store, &issued).await;
        assert_eq!(told.len(), 1, "the first is gone: {told:?}");
        let End::Done {
            balance,
            credits,
            debits,
            ..
        } = told[0].outcome
        else {
            panic!("{told:?}")
        };
        assert_eq!((told[0].index, balance, credits, debits), (1, 999_990, 1_000_000, 10));
        assert_eq!(balance_of(&store, &issued), 999_990, "it costs nothing");
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;
    });
}

#[test]
fn control_is_carried_out_whole_or_not_at_all() {
    run(async {
        let files = files();
        let store = files.open().await;
        let (issued, other) = (issue(&store).await, issue(&store).await);
        let open = |confirmed| {
            let alias = Some(AliasChange::Open("mine@relay.test".to_owned()));
            Effect::Control(Asked { confirmed, alias })
        };
        assert!(arrive(&store, &issued, 0, open(Vec::new())).await);
        assert!(
            store
                .alias("mine@relay.test")
                .is_some_and(|alias| alias.open && alias.account == issued.account)
        );
        assert!(arrive(&store, &other, 0, mail(10)).await);
        assert!(arrive(&store, &other, 1, open(waiting(&store, &other, 0))).await);
        let told = receipts(&store, &other).await;
        assert_eq!(told.len(), 2, "nothing was deleted");
        assert_eq!(told[1].outcome, End::Refused(Refusal::AliasTaken));
        let close = AliasChange::Close("mine@relay.test".to_owned());
        let asked = Asked {
            alias: Some(close),
            ..Asked::default()
        };
        assert!(arrive(&store, &issued, 1, Effect::Control(asked)).await);
        assert!(store.alias("mine@relay.test").is_some_and(|alias| !alias.open));
        store.close().await;
    });
}

#[test]
fn receipts_that_nobody_collects_are_bounded_and_a_holder_comes_out_of_it() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        for index in 0..RECEIPTS_WAITING_MAX {
            assert!(arrive(&store, &issued, index, confirming(Vec::new())).await, "{index}");
        }
        let next = RECEIPTS_WAITING_MAX;
        assert!(!arrive(&store, &issued, next, mail(10)).await);
        assert!(!arrive(&store, &issued, next, confirming(vec![(0, [0; 32])])).await);
        assert!(arrive(&store, &issued, next, Effect::Login).await, "to see what waits");
        let some = waiting(&store, &issued, 0);
        let refused = |confirmed| {
            let alias = Some(AliasChange::Close("nobody@relay.test".to_owned()));
            Effect::Control(Asked { confirmed, alias })
        };
        assert!(
            !arrive(&store, &issued, next + 1, refused(some.clone())).await,
            "no end"
        );
        assert!(store.audit().expect("readable").findings.is_empty());
        assert!(arrive(&store, &issued, next + 1, confirming(some)).await);
        assert!(arrive(&store, &issued, next + 2, mail(10)).await);
        assert!(store.audit().expect("readable").findings.is_empty());
        store.close().await;
    });
}

#[test]
fn a_login_ends_its_index_and_is_told_like_a_parcel() {
    run(async {
        let files = files();
        let store = files.open().await;
        let issued = issue(&store).await;
        assert!(arrive(&store, &issued, 2, Effect::Login).await);
        assert!(!arrive(&store, &issued, 2, Effect::Login).await && !arrive(&store, &issued, 2, mail(10)).await);
        assert!(
            arrive(&store, &issued, 0, mail(10)).await,
            "what it passed over may still come"
        );
        let told = receipts(&store, &issued).await;
        assert!(matches!((told[0].index, told[0].outcome), (2, End::Done { .. })));
        store.close().await;
        let store = files.open().await;
        assert!(
            store.find_parcel(&parcel(&issued, 2).tag).expect("readable").is_none(),
            "after a restart too"
        );
        store.close().await;
    });
}
