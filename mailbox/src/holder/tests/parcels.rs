//! A parcel key is taken once; what was sealed under it is kept as it is until the receipt.

use keypacks::chain::{BoxChain, BoxKind};
use keypacks::parcel::PARCEL_LOOK_AHEAD;

use super::*;
use crate::holder_store::{ParcelOrder, SealError, ValueMirror};
use crate::parcel::{Outcome, Receipt};
use crate::request::Refusal;

fn parcel(index: u64, byte: u8) -> ParcelOrder {
    ParcelOrder {
        index,
        parcel: vec![byte; 16_000],
        recipients: 1,
        price: 10,
        label: format!("parcel {index}"),
        sent: sent("letter"),
        now: 1_000,
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
    let step = store.parcel_step().expect("within the window");
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

#[test]
fn a_key_is_taken_with_the_bytes_that_it_sealed_and_is_gone_then() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let chain = BoxChain::from_root(BoxKind::Parcel, &root());
        assert!(
            store
                .parcel_step()
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
        assert!(running.store.parcel_step().is_ok_and(|step| step.index == 1));
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
fn no_more_parcels_than_the_relay_looks_ahead_wait_for_their_receipts() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        for index in 0..PARCEL_LOOK_AHEAD {
            assert_eq!(keep(store, b'a').await, index);
        }
        assert_eq!(store.parcel_step().err(), Some(SealError::WindowFull));
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
        assert_eq!(store.parcels().len(), 7);
        for index in 8..11 {
            assert_eq!(keep(store, b'b').await, index);
        }
        assert_eq!(store.parcel_step().err(), Some(SealError::WindowFull));
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
        let index = collect(store).await;
        let refused = Receipt {
            index: 4,
            prefix: [3; 16],
            outcome: Outcome::Refused(Refusal::Sender),
        };
        // What nobody can have sealed yet, and what never came, say nothing of this store.
        let nothing = [receipt(u64::MAX), Receipt::burned(9)];
        let taken = store.take_receipts(index, [&nothing[..], &[refused]].concat(), Vec::new(), 5);
        taken.await.expect("taken");
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
            let next = running.store.parcel_step().expect("within the window").index;
            let bytes = running.store.parcel(0).expect("readable");
            assert_eq!(bytes.is_some(), next == 1, "{n}");
            assert!(kept != Ok(true) || bytes == Some(vec![b'a'; 16_000]), "{n}");
            running.stop().await;
        });
    }
}
