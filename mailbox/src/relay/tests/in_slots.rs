//! Chains that are in their slots alone: found there, brought before they change, and lost by nobody but their account.

use std::time::Duration;

use keypacks::Tag;
use keypacks::chain::{BoxChain, BoxKind};

use super::super::chains::{Held, SLOT_BYTES};
use super::opening::places;
use super::*;

/// A store with two packs, of which the first one's chains were let go.
async fn two_packs(files: &Files) -> (RelayFiles, [Issued; 2]) {
    let store = files.open().await;
    let packs = [issue(&store).await, issue(&store).await];
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if is_away(&store, &packs[0]) {
            break;
        }
    }
    assert!(is_away(&store, &packs[0]) && !is_away(&store, &packs[1]));
    (store, packs)
}

fn is_away(store: &RelayFiles, pack: &Issued) -> bool {
    let live = store.shared.live();
    live.accounts
        .get(pack.account.0)
        .is_some_and(|live| matches!(live.chains, Held::InSlot))
}

fn link(pack: &Issued) -> Tag {
    LinkChain::from_root(&pack.root).step_at(1).expect("near").tag
}

fn parcel(pack: &Issued) -> Tag {
    BoxChain::from_root(BoxKind::Parcel, &pack.root)
        .step_at(3)
        .expect("near")
        .tag
}

fn files() -> Files {
    let mut files = Files::new();
    files.config.parcels = true;
    files
}

#[test]
fn a_slot_that_cannot_be_read_is_an_error_and_makes_no_tag_unknown() {
    run(async {
        let files = files();
        let (store, packs) = two_packs(&files).await;
        for pack in &packs {
            let hit = store.find_parcel(&parcel(pack)).expect("readable").expect("live");
            assert!(hit.account == pack.account && hit.step.index == 3);
            let hit = store.find_tag(&link(pack)).expect("readable").expect("live");
            assert!(hit.account == pack.account && hit.step.index == 1 && hit.floor == 0);
        }
        assert!(is_away(&store, &packs[0]), "a look brings nothing");
        files.disk.power_off();
        let is_error = packs.each_ref().map(|pack| {
            (
                store.find_parcel(&parcel(pack)).is_err(),
                store.find_tag(&link(pack)).is_err(),
            )
        });
        assert_eq!(is_error, [(true, true), (false, false)]);
        store.close().await;
    });
}

#[test]
fn a_slot_that_does_not_open_when_it_is_wanted_freezes_its_account_alone() {
    run(async {
        let files = files();
        let (store, packs) = two_packs(&files).await;
        let path = PathBuf::from(FOLDER).join("slots");
        let slots = files.disk.open(&path, false).expect("there");
        for place in places(packs[0].account.0) {
            slots
                .write_at(place * SLOT_BYTES as u64, &[9; SLOT_BYTES])
                .expect("written");
        }
        let [lost, other] = packs.each_ref().map(|pack| pack.account);
        let both = tokio::join!(store.burn(burn(lost, 0)), store.burn(burn(other, 0)));
        assert!(matches!(both, (Err(StoreError::Corrupt), Ok(Some(_)))));
        assert_eq!(store.frozen(), 1);
        let again = tokio::join!(store.deposit(mail_for(lost, 0)), store.deposit(mail_for(other, 0)));
        assert!(matches!(again, (Err(StoreError::RestoredDatabase), Ok(()))));
        assert!(store.find_tag(&link(&packs[0])).expect("in memory").is_none());
        store.close().await;
    });
}
