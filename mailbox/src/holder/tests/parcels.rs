//! A parcel key is taken once; what was sealed under it is kept as it is until the receipt.

use keypacks::chain::{BoxChain, BoxKind};
use keypacks::parcel::MAIL_AHEAD_MAX;

use super::*;
use ledger::PriceList;

use crate::holder_store::{ParcelOrder, ParcelUse, Purpose, SealError, ValueMirror, WrapPlace};
use crate::parcel::{AliasChange, Asked, Outcome, Receipt};
use crate::request::Refusal;

fn parcel(index: u64, byte: u8) -> ParcelOrder {
    ParcelOrder {
        index,
        parcel: vec![byte; 16_000],
        purpose: Purpose::Mail {
            recipients: 1,
            price: 10,
            sent: sent("letter"),
        },
        label: format!("parcel {index}"),
        now: 1_000,
    }
}

fn control(index: u64, asked: Asked) -> ParcelOrder {
    ParcelOrder {
        purpose: Purpose::Control(asked),
        ..parcel(index, 0)
    }
}

fn login(index: u64) -> ParcelOrder {
    ParcelOrder {
        parcel: b"name password".to_vec(),
        purpose: Purpose::Login,
        ..parcel(index, 0)
    }
}

fn done(index: u64, balance: u64) -> Receipt {
    Receipt {
        outcome: Outcome::Done {
            balance,
            keys: 5,
            credits: 200,
            debits: 200 - balance,
            prices: PriceList {
                version: 3,
                ..PriceList::default()
            },
        },
        ..receipt(index)
    }
}

fn receipt(index: u64) -> Receipt {
    let outcome = Outcome::Accepted {
        debited: 10,
        balance: 90,
    };
    Receipt {
        index,
        prefix: [0; 16],
        outcome,
    }
}

async fn keep(store: &HolderFiles, byte: u8) -> u64 {
    let step = store.parcel_step(ParcelUse::Mail).expect("within the window");
    assert_eq!(store.keep_parcel(parcel(step.index, byte)).await, Ok(true));
    step.index
}

/// A deposit of receipts that is collected.
async fn collect(store: &HolderFiles) -> u64 {
    let index = store.collect_from();
    let deposit = deposit(&store.post_step(index).expect("the next"));
    store.collected(vec![deposit], index + 1).await.expect("in order");
    index
}

/// Collects a deposit of these receipts and takes them up: its index.
async fn take(store: &HolderFiles, receipts: Vec<Receipt>) -> u64 {
    let index = collect(store).await;
    let taken = store.take_receipts(index, receipts, Vec::new(), 5);
    taken.await.expect("taken");
    index
}

/// Which deposits these are.
fn indices(deposits: &[(u64, [u8; 32])]) -> Vec<u64> {
    deposits.iter().map(|(index, _)| *index).collect()
}

#[test]
fn a_key_is_taken_with_the_bytes_that_it_sealed_and_is_gone_then() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let chain = BoxChain::from_root(BoxKind::Parcel, &root());
        assert!(
            store
                .parcel_step(ParcelUse::Mail)
                .is_ok_and(|step| step.key == chain.step_at(0).expect("near").key)
        );
        assert!(holds(&disk, b"POSTERNP"));
        assert_eq!(keep(store, b'a').await, 0);
        assert_eq!(store.keep_parcel(parcel(0, b'b')).await, Ok(false), "taken");
        assert_eq!(store.keep_parcel(parcel(2, b'b')).await, Ok(false), "not the next");
        assert_eq!(store.parcel(0), Ok(Some(vec![b'a'; 16_000])));
        assert_eq!(store.reserved(), Ok(10));
        running.stop().await;

        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(running.store.parcel(0), Ok(Some(vec![b'a'; 16_000])), "the same again");
        assert!(
            running
                .store
                .parcel_step(ParcelUse::Mail)
                .is_ok_and(|step| step.index == 1)
        );
        let (_, slots) = disk
            .files()
            .into_iter()
            .find(|(path, _)| path.ends_with("slots"))
            .expect("there");
        running.stop().await;
        let file_key = header::unlock(
            &*disk.open(Path::new("/holder/header"), false).expect("there"),
            PASSPHRASE,
        );
        let keys = Keys::of(&file_key.expect("the passphrase opens it"));
        for at in [0, 4_096] {
            let plain = vault::open(&keys.slots, &slots[at..at + 256]).expect("no copy is torn");
            let chains = stage::decode_chains(&plain[18..138]).expect("three chains");
            assert_eq!(chains.parcel.map(|chain| chain.index()), Some(1));
        }
    });
}

#[test]
fn no_more_parcels_than_the_window_holds_wait_for_their_receipts() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        for index in 0..MAIL_AHEAD_MAX {
            assert_eq!(keep(store, b'a').await, index);
        }
        assert_eq!(store.parcel_step(ParcelUse::Mail).err(), Some(SealError::WindowFull));
        let value = ValueMirror {
            balance: 100,
            ..ValueMirror::default()
        };
        store.put_value(value, None).await.expect("kept");
        // The third alone was answered: it moves the window by three.
        let index = collect(store).await;
        for _ in 0..2 {
            let taken = store.take_receipts(index, vec![receipt(2)], vec![b"notice".to_vec()], 5);
            taken.await.expect("taken, and told again");
        }
        assert_eq!(store.inbox().entries.len(), 1, "the notice, once");
        assert_eq!((store.value().balance, store.value().debits), (90, 10));
        assert_eq!(store.unconfirmed().expect("readable").len(), 1);
        assert_eq!(store.parcel(2), Ok(None));
        assert_eq!(store.parcels().len(), 5);
        for index in 6..9 {
            assert_eq!(keep(store, b'b').await, index);
        }
        assert_eq!(store.parcel_step(ParcelUse::Mail).err(), Some(SealError::WindowFull));
        running.stop().await;
    });
}

#[test]
fn a_receipt_of_what_another_copy_sealed_moves_the_chain_behind_it() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        keep(store, b'a').await;
        let refused = Receipt {
            index: 4,
            prefix: [3; 16],
            outcome: Outcome::Refused(Refusal::Sender),
        };
        // What nobody can have sealed yet, and what never came, say nothing of this store.
        let nothing = [receipt(u64::MAX), Receipt::burned(9)];
        take(store, [&nothing[..], &[refused]].concat()).await;
        assert_eq!(store.parcels().len(), 1, "the own one waits");
        assert_eq!(keep(store, b'b').await, 5, "no used key seals again");
        assert_eq!(
            store.take_receipts(7, vec![receipt(0)], Vec::new(), 5).await,
            Err(StoreError::NoRow)
        );
        running.stop().await;
    });
}

#[test]
fn whenever_the_power_goes_an_index_has_no_bytes_or_the_same_for_ever() {
    for n in 0..20 {
        let disk = made(1);
        block_on(async {
            let running = Running::open(&disk, 2).expect("opens");
            disk.power_off_after(n);
            let kept = running.store.keep_parcel(parcel(0, b'a')).await;
            running.abandon().await;
            disk.restart(n);
            let running = Running::open(&disk, 3).expect("opens");
            let next = running
                .store
                .parcel_step(ParcelUse::Mail)
                .expect("within the window")
                .index;
            let bytes = running.store.parcel(0).expect("readable");
            assert_eq!(bytes.is_some(), next == 1, "{n}");
            assert!(kept != Ok(true) || bytes == Some(vec![b'a'; 16_000]), "{n}");
            running.stop().await;
        });
    }
}

#[test]
fn the_last_places_of_the_window_are_for_control_and_a_login() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        for _ in 0..MAIL_AHEAD_MAX {
            keep(store, b'a').await;
        }
        let full = |kind| store.parcel_step(kind).err() == Some(SealError::WindowFull);
        assert!(full(ParcelUse::Mail) && !full(ParcelUse::Control));
        assert_eq!(store.keep_parcel(control(6, Asked::default())).await, Ok(true));
        assert!(full(ParcelUse::Control) && !full(ParcelUse::Login));
        assert_eq!(store.keep_parcel(login(7)).await, Ok(true));
        assert!(full(ParcelUse::Login));
        let kinds: Vec<ParcelUse> = store.parcels().iter().map(|parcel| parcel.kind).collect();
        assert_eq!(kinds[5..], [ParcelUse::Mail, ParcelUse::Control, ParcelUse::Login]);
        assert_eq!(store.parcel(7), Ok(Some(b"name password".to_vec())));
        // It was used, and its receipt is lost.
        assert_eq!(
            (store.login_used(6).await, store.login_used(7).await),
            (Ok(false), Ok(true))
        );
        assert_eq!(store.parcel_step(ParcelUse::Login).expect("moved on").index, 8);
        assert_eq!(store.parcels().len(), 8, "all wait for their receipts");
        running.stop().await;
    });
}

#[test]
fn what_control_asked_for_holds_when_its_receipt_comes_and_not_before() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        // A deposit of receipts is to be confirmed.
        let first = take(store, Vec::new()).await;
        let confirmed = store.to_confirm().expect("readable");
        assert_eq!(indices(&confirmed), [first]);
        let asked = Asked {
            confirmed,
            alias: Some(AliasChange::Open("second".to_owned())),
        };
        assert_eq!(store.keep_parcel(control(0, asked)).await, Ok(true));
        assert_eq!(store.reserved(), Ok(0));
        let second = take(store, Vec::new()).await;
        let order = indices(&store.to_confirm().expect("readable"));
        assert_eq!(order, [second, first], "what is under way comes last");
        assert_eq!(store.unconfirmed().expect("readable").len(), 2);

        let third = take(store, vec![done(0, 90), done(1, 80), done(0, 70)]).await;
        let value = store.value();
        assert_eq!(
            (value.balance, value.debits, value.keys),
            (80, 120, 5),
            "that of the latest"
        );
        assert_eq!(store.prices().map(|prices| prices.version), Some(3));
        let left = indices(&store.unconfirmed().expect("readable"));
        assert_eq!(left, [second, third]);
        let aliases = store.aliases().expect("readable");
        assert!(
            aliases
                .iter()
                .any(|alias| alias.address == "second@relay.test" && alias.open)
        );
        running.stop().await;

        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(running.store.unconfirmed().expect("readable").len(), 2);
        running.stop().await;
    });
}

#[test]
fn control_that_was_refused_confirms_nothing() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        take(store, Vec::new()).await;
        let asked = Asked {
            confirmed: store.to_confirm().expect("readable"),
            alias: Some(AliasChange::Open("taken".to_owned())),
        };
        let aliases = store.aliases().expect("readable").len();
        assert_eq!(store.keep_parcel(control(0, asked)).await, Ok(true));
        let refused = Receipt {
            outcome: Outcome::Refused(Refusal::AliasTaken),
            ..receipt(0)
        };
        take(store, vec![refused]).await;
        assert_eq!(store.unconfirmed().expect("readable").len(), 2);
        assert_eq!(store.aliases().expect("readable").len(), aliases);
        assert!(store.parcels().is_empty());
        running.stop().await;
    });
}

#[test]
fn carried_deposits_come_in_any_order_and_another_under_the_same_index_is_noticed() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let step = |index| store.post_step(index).expect("near");
        let place = |step: &BoxStep, digest: [u8; 32]| store.wrap_place(&step.tag, &digest).expect("readable");
        let (zero, two) = (step(0), step(2));
        assert!(matches!(place(&two, [9; 32]), WrapPlace::New(found) if found.index == 2));
        store
            .collected_carried(vec![deposit(&two)], 3, 5)
            .await
            .expect("with gaps");
        assert!(matches!(place(&two, deposit(&two).wrap_digest), WrapPlace::Pending(found) if found.index == 2));
        assert!(matches!(place(&two, [9; 32]), WrapPlace::Contradicted));
        assert!(matches!(place(&zero, [9; 32]), WrapPlace::New(found) if found.index == 0 && found.key == zero.key));
        store
            .collected_carried(vec![deposit(&zero)], 3, 5)
            .await
            .expect("from its gap");
        let stored = store
            .store_deposits(vec![opened(2, b"text".to_vec(), 7)])
            .await
            .expect("stored");
        assert!(matches!(place(&two, deposit(&two).wrap_digest), WrapPlace::Stored { uid } if uid == Some(stored[0])));
        assert!(matches!(place(&two, [9; 32]), WrapPlace::Contradicted));
        running.stop().await;

        let running = Running::open(&disk, 3).expect("opens");
        let place = |digest: [u8; 32]| running.store.wrap_place(&two.tag, &digest).expect("readable");
        assert!(matches!(place([9; 32]), WrapPlace::Contradicted), "after a restart too");
        running.store.confirmed(vec![2]).await.expect("told");
        assert!(matches!(place([9; 32]), WrapPlace::Unknown));
        running.stop().await;
    });
}

#[test]
fn what_is_far_ahead_is_found_and_the_last_keys_before_it_are_kept() {
    const FAR: u64 = 5_000;
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let zero = store.post_step(0).expect("near");
        let mut ahead = store.post_ahead();
        assert_eq!(ahead.next().map(|step| step.index), Some(1_024));
        let step = ahead.find(|step| step.index == FAR).expect("without end");
        let is_unknown = |step: &BoxStep| {
            let place = store.wrap_place(&step.tag, &[9; 32]);
            matches!(place.expect("readable"), WrapPlace::Unknown)
        };
        assert!(is_unknown(&step) && !is_unknown(&zero));
        assert_eq!(store.pass_over(u64::MAX, 5).await, Err(StoreError::Busy));
        store.pass_over(FAR, 5).await.expect("in reach");
        assert_eq!(store.collect_from(), FAR);
        assert!(is_unknown(&zero));
        for (index, is_kept) in [(FAR, true), (FAR - 1, true), (FAR - 1_024, true), (FAR - 1_025, false)] {
            assert_eq!(store.post_step(index).is_some(), is_kept, "{index}");
        }
        assert_eq!(store.missing().len(), 1_024);
        assert_eq!(store.pass_over(FAR - 1, 5).await, Err(StoreError::Invalid));
        let far = deposit(&step);
        store.collected_carried(vec![far], FAR + 1, 6).await.expect("in order");
        running.stop().await;
        let running = Running::open(&disk, 3).expect("opens");
        assert_eq!(running.store.collect_from(), FAR + 1);
        running.stop().await;
    });
}
