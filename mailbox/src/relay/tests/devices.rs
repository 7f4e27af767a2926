//! Several devices of one account: what only the store in files can do wrong.

use keypacks::deposit::{BodySealer, Dek};
use keypacks::pack::Identifier;
use tokio::join;

use super::*;
use crate::request::Collected;

/// Of the first and the second device, in the order in which a new store gives them out.
const FIRST: Account = Account(0);
const SECOND: Account = Account(1);

async fn execute(store: &RelayFiles, account: Account, seq: u64, effect: Effect) -> Result<Answer, StoreError> {
    let change = change(seq);
    let (under, digest) = ((account, store.standing(account).root), change.digest());
    store.execute(under, change, digest, effect, DAY, NOW).await
}

/// Makes another device of an account, of 16 keys.
async fn join(store: &RelayFiles, account: Account, seq: u64) -> Result<Answer, StoreError> {
    let number = u8::try_from(account.0 * 16 + seq).expect("small");
    let effect = Effect::Device {
        identifier: Identifier([number; 16]),
        root: Secret::new([number; 32]),
        keys: 16,
    };
    execute(store, account, seq, effect).await
}

async fn drop_device(store: &RelayFiles, account: Account, seq: u64, device: u32) -> Result<Answer, StoreError> {
    execute(store, account, seq, Effect::Drop { device }).await
}

fn mail(house: Account) -> DepositOrder {
    let dek = Dek::new(Secret::new([5; 32]));
    let mut sealer = BodySealer::new(dek, [6; 16]);
    sealer.push(b"mail").expect("within the bound");
    let sealed = sealer.finish();
    DepositOrder {
        recipients: vec![(house, 0)],
        body: sealed.body,
        dek: sealed.dek,
        length: sealed.length,
        kilobytes: sealed.kilobytes,
        day: DAY,
    }
}

/// The wraps that wait for a device.
fn waiting(store: &RelayFiles, account: Account) -> usize {
    let (collected, ..) = store.collect(account, 0, 64).expect("readable");
    let is_wrap = |entry: &&Collected| matches!(entry, Collected::Wrap { .. });
    collected.iter().filter(is_wrap).count()
}

fn is_moved(answer: &Result<Answer, StoreError>) -> bool {
    matches!(answer, Ok(Answer::Moved { .. }))
}

fn is_sound(store: &RelayFiles) -> bool {
    store.audit().expect("readable").findings.is_empty()
}

#[test]
fn a_drop_costs_nothing_for_what_was_dropped_before() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        let houses = [issue(&store).await.account, issue(&store).await.account];
        for house in houses {
            for (seq, device) in [(1, 2), (3, 3)] {
                assert!(is_moved(&join(&store, house, seq).await));
                store.deposit(mail(house)).await.expect("stored");
                assert!(is_moved(&drop_device(&store, house, seq + 1, device).await));
            }
        }
        let commits = || store.shared.base.index.commit_number();
        let before = commits();
        assert!(is_moved(&drop_device(&store, houses[0], 4, 3).await));
        assert_eq!(commits(), before, "what was cleared is not looked for again");
        for seq in [5, 6, 6] {
            let refused = drop_device(&store, houses[0], seq, 9).await;
            assert!(matches!(refused, Ok(Answer::Refused { .. })));
        }
        assert_eq!(commits(), before + 2, "two refusals that are kept, and one that was");
        assert!(is_moved(&join(&store, houses[0], 7).await));
        assert!(is_moved(&drop_device(&store, houses[0], 8, 4).await));
        assert_eq!(commits(), before + 4, "nothing waited for it");
        assert!(is_sound(&store));
        store.close().await;
    });
}

#[test]
fn what_comes_for_a_device_in_the_commit_that_made_it_is_there() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        assert!(issue(&store).await.account == FIRST);
        let commits = || store.shared.base.index.commit_number();
        let before = commits();
        let (joined, deposited) = join!(join(&store, FIRST, 1), store.deposit(mail(FIRST)));
        assert!(is_moved(&joined) && deposited == Ok(()));
        assert_eq!(commits(), before + 1, "one commit of both");
        // To the first, that it has a device beside it; to both, the mail.
        assert_eq!((waiting(&store, FIRST), waiting(&store, SECOND)), (2, 1));
        let (joined, dropped) = join!(join(&store, FIRST, 2), drop_device(&store, FIRST, 3, 3));
        assert!(is_moved(&joined) && is_moved(&dropped));
        assert!(store.standing(Account(2)).is_dropped);
        store.deposit(mail(FIRST)).await.expect("stored");
        assert_eq!((waiting(&store, SECOND), waiting(&store, Account(2))), (4, 0));
        store.close().await;
        let store = files.open().await;
        assert_eq!(store.frozen(), 0);
        assert!(is_sound(&store));
        store.deposit(mail(FIRST)).await.expect("stored");
        assert_eq!(waiting(&store, SECOND), 5);
        store.close().await;
    });
}

#[test]
fn nothing_is_paid_for_what_a_dropped_device_had_begun_to_fetch() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        store.set_prices(0, 0, 0, 10, 0).await.expect("set");
        assert!(issue(&store).await.account == FIRST);
        assert!(is_moved(&join(&store, FIRST, 1).await));
        store.deposit(mail(FIRST)).await.expect("stored");
        assert_eq!(waiting(&store, SECOND), 1);
        let (dropped, fetched) = join!(drop_device(&store, FIRST, 2, 2), store.fetch(SECOND, 0, DAY));
        assert!(is_moved(&dropped));
        assert!(matches!(fetched, Ok(Err(Refusal::NoDeposit))));
        let balance = store.balance(FIRST).expect("readable");
        assert!(matches!(balance, Answer::Balance { balance: 1_000_000, .. }));
        store.close().await;
    });
}

#[test]
fn a_device_whose_slot_is_lost_locks_no_other_and_can_be_dropped() {
    run(async {
        let files = Files::new();
        let store = files.open().await;
        assert!(issue(&store).await.account == FIRST);
        assert!(is_moved(&join(&store, FIRST, 1).await));
        assert!(is_moved(&join(&store, FIRST, 2).await));
        store.close().await;
        let slots = files.disk.open(&PathBuf::from(FOLDER).join("slots"), false);
        let slots = slots.expect("there");
        // Both copies of the first device's, whose the aliases are.
        for place in [0, 16] {
            let damaged = [9; chains::SLOT_BYTES];
            slots.write_at(place * damaged.len() as u64, &damaged).expect("written");
        }
        slots.sync().expect("synced");
        let store = files.open().await;
        assert_eq!(store.frozen(), 1);

        store.deposit(mail(FIRST)).await.expect("stored");
        let third = Account(2);
        // To the second there was told of the third.
        assert_eq!((waiting(&store, SECOND), waiting(&store, third)), (2, 1));
        let address = "one@relay.test".to_owned();
        let opened = execute(&store, SECOND, 1, Effect::AliasOpen { address }).await;
        assert!(matches!(opened, Ok(Answer::Done { .. })));
        assert!(
            store
                .alias("one@relay.test")
                .is_some_and(|alias| alias.account == FIRST)
        );
        assert_eq!((waiting(&store, SECOND), waiting(&store, third)), (3, 2));

        let dropped = drop_device(&store, SECOND, 2, 1).await;
        assert!(matches!(dropped, Ok(Answer::Moved { keys: 32, end: 48, .. })));
        assert_eq!(store.frozen(), 0);
        assert_eq!(waiting(&store, FIRST), 0);
        store.deposit(mail(FIRST)).await.expect("stored");
        assert_eq!((waiting(&store, SECOND), waiting(&store, third)), (5, 4));
        assert!(is_sound(&store));
        store.close().await;
        let store = files.open().await;
        assert_eq!(store.frozen(), 0);
        assert!(store.standing(FIRST).is_dropped && is_sound(&store));
        store.close().await;
    });
}
