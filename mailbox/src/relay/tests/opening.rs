//! What a store knows when it opens, read in parts by several threads, is what it knew.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::*;

/// Enough for threads to be started.
const ACCOUNTS: u64 = 5 * TOGETHER;
/// Fewer than a store lets wait.
const TOGETHER: u64 = 520;
/// Both copies of their slots are damaged.
const LOST: [u64; 2] = [5, 2_302];
/// Copy A of their slots is damaged.
const HALF: [u64; 2] = [40, 2_303];

/// Lowest live link index: how many keys an account has burned.
fn base(account: u64) -> u64 {
    [0, 1, 4, 3][account as usize % 4]
}

/// Where copies A and B of a slot lie, in slots.
pub(super) fn places(slot: u64) -> [u64; 2] {
    let a = slot / 16 * 32 + slot % 16;
    [a, a + 16]
}

#[test]
fn a_store_of_many_accounts_opens_with_their_tags_whole_slots_and_those_frozen_that_lost_theirs() {
    run(async {
        // The slots catch up within a quarter of a second: on a busy machine, before the crash.
        let mut tries = 0;
        let (files, issued) = loop {
            let crashed = crashed().await;
            if behind(&crashed.0.copies()) > HALF.len() {
                break crashed;
            }
            tries += 1;
            assert!(tries < 20, "slots lag behind the rows");
        };

        let store = files.open().await;
        assert_eq!(store.frozen(), LOST.len() as u64);
        for (account, root) in issued {
            let chain = LinkChain::from_root(&root);
            let live = match LOST.contains(&account) {
                true => 0..0,
                false => base(account)..base(account) + 4,
            };
            for index in 0..10 {
                let found = store
                    .find_tag(&chain.step_at(index).expect("near").tag)
                    .expect("readable")
                    .is_some();
                assert_eq!(found, live.contains(&index), "index {index} of account {account}");
            }
        }
        assert_eq!(behind(&files.copies()), 0, "what the crash left is written again");
        store.close().await;
    });
}

/// How many accounts that lost no slot have one that lags behind its row.
fn behind(copies: &[Option<Chains>]) -> usize {
    let intact = (0..ACCOUNTS).filter(|account| !LOST.contains(account));
    let index = |place: u64| copies[place as usize].as_ref().map(|chains| chains.link.index());
    intact
        .filter(|account| places(*account).map(index) != [Some(base(*account)); 2])
        .count()
}

/// A store of many accounts after a crash, some of whose slots are damaged; and the root of each account.
async fn crashed() -> (Files, BTreeMap<u64, Secret<32>>) {
    let files = Files::new();
    let store = files.open().await;
    let mut issued = BTreeMap::new();
    for part in 0..ACCOUNTS / TOGETHER {
        let mut issuing = JoinSet::new();
        for _ in 0..TOGETHER {
            let store = store.clone();
            issuing.spawn(async move { issue(&store).await });
        }
        let packs = issuing.join_all().await;
        issued.extend(packs.into_iter().map(|pack| (pack.account.0, pack.root)));
        let mut burning = JoinSet::new();
        for account in part * TOGETHER..(part + 1) * TOGETHER {
            if let Some(index) = base(account).checked_sub(1) {
                let store = store.clone();
                burning.spawn(async move { store.burn(burn(Account(account), index)).await });
            }
        }
        let burned = burning.join_all().await;
        assert!(burned.iter().all(|burned| matches!(burned, Ok(Some(_)))));
    }
    assert!(issued.keys().copied().eq(0..ACCOUNTS));
    files.crash(store, 4).await;
    damage(&files);
    (files, issued)
}

fn damage(files: &Files) {
    let slots = files
        .disk
        .open(&PathBuf::from(FOLDER).join("slots"), false)
        .expect("there");
    let lost = LOST.into_iter().flat_map(places);
    for place in lost.chain(HALF.map(|slot| places(slot)[0])) {
        let damaged = [9; chains::SLOT_BYTES];
        slots.write_at(place * damaged.len() as u64, &damaged).expect("written");
    }
    slots.sync().expect("synced");
}
