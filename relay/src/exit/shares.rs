//! What each account holds of that which all deliveries share, so that nobody's hosts or name servers hold up the mail
//! of others.
//!
//! An account may hold as much as is left free, and always one delivery: alone it gets half, beside one that got as
//! much a third, and whoever comes finds something. (A dynamic threshold, as switches share a buffer: Choudhury and
//! Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)

use std::collections::{BTreeMap, VecDeque};

use mailbox::relay_store::{Account, DeliveryId};

use crate::budget::SMALL_MAX;

/// Places, bytes of small messages and bytes of large ones: what there is, or what a delivery takes of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Load([usize; 3]);

impl Load {
    pub(super) const fn new(places: usize, small_bytes: usize, large_bytes: usize) -> Self {
        Load([places, small_bytes, large_bytes])
    }

    /// Of one delivery that takes so many bytes of memory.
    pub(super) const fn of(bytes: usize) -> Self {
        if bytes <= SMALL_MAX {
            Load([1, bytes, 0])
        } else {
            Load([1, 0, bytes])
        }
    }

    fn add(&mut self, other: Load) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, part)| *sum += part);
    }

    fn take(&mut self, other: Load) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, part)| *sum -= part);
    }
}

/// See the module.
pub(super) struct Shares {
    free: Load,
    accounts: BTreeMap<Account, Share>,
    /// Accounts of which something waits, each once, the longest waiting first.
    turns: VecDeque<Account>,
    /// One that holds nothing, and for whose delivery there is no room: others leave it what it needs.
    starved: Option<(Account, Load)>,
}

#[derive(Default)]
struct Share {
    held: Load,
    waiting: VecDeque<DeliveryId>,
}

impl Share {
    /// Whether it may hold a delivery more while so much is free, of which some is reserved for another.
    fn admits(&self, load: Load, free: Load, reserved: Load) -> bool {
        let [held, load, free, reserved] = [self.held.0, load.0, free.0, reserved.0];
        (0..3).all(|kind| {
            let fits = load[kind] + reserved[kind] <= free[kind];
            load[kind] == 0 || fits && (held[kind] == 0 || load[kind] + held[kind] <= free[kind])
        })
    }
}

impl Shares {
    pub(super) fn new(all: Load) -> Self {
        Shares {
            free: all,
            accounts: BTreeMap::new(),
            turns: VecDeque::new(),
            starved: None,
        }
    }

    /// Takes what a delivery needs. `false`: it waits for its account's turn.
    pub(super) fn enter(&mut self, account: Account, load: Load, id: DeliveryId) -> bool {
        let others = self.starved.filter(|(starved, _)| *starved != account);
        let reserved = others.map_or_else(Load::default, |(_, load)| load);
        let share = self.accounts.entry(account).or_default();
        if share.admits(load, self.free, reserved) {
            share.held.add(load);
            self.free.take(load);
            return true;
        }
        if share.waiting.is_empty() {
            self.turns.push_back(account);
        }
        share.waiting.push_back(id);
        if share.held.0 == [0; 3] {
            self.starved.get_or_insert((account, load));
        }
        false
    }

    /// Gives back what a delivery took. Returns those that should try again: one of this account, and one of the account
    /// that waits longest, so that what others gave back is found too.
    pub(super) fn leave(&mut self, account: Account, load: Load) -> impl Iterator<Item = DeliveryId> {
        self.free.add(load);
        if let Some(share) = self.accounts.get_mut(&account) {
            share.held.take(load);
        }
        let own = self.call(account);
        let starved = self.starved.and_then(|(starved, _)| self.call(starved));
        let other = self.call_next();
        self.forget_if_unused(account);
        [own, starved, other].into_iter().flatten()
    }

    /// Calls one of the account that waits longest.
    pub(super) fn call_next(&mut self) -> Option<DeliveryId> {
        let first = self.turns.front().copied()?;
        self.call(first)
    }

    /// The first of an account that waits; the account goes to the end of the turns.
    fn call(&mut self, account: Account) -> Option<DeliveryId> {
        let share = self.accounts.get_mut(&account)?;
        let id = share.waiting.pop_front()?;
        self.turns.retain(|other| *other != account);
        // It says again what it needs, or is gone.
        self.starved = self.starved.filter(|(starved, _)| *starved != account);
        if !share.waiting.is_empty() {
            self.turns.push_back(account);
        }
        self.forget_if_unused(account);
        Some(id)
    }

    fn forget_if_unused(&mut self, account: Account) {
        let is_unused = |share: &Share| share.held.0 == [0; 3] && share.waiting.is_empty();
        if self.accounts.get(&account).is_some_and(is_unused) {
            self.accounts.remove(&account);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Load = Load::new(100, 4 * SMALL_MAX, 40 * SMALL_MAX);

    fn enter_many(shares: &mut Shares, account: u64, load: Load, count: u64) -> usize {
        (0..count)
            .filter(|id| shares.enter(Account(account), load, DeliveryId(account * 1_000 + id)))
            .count()
    }

    #[test]
    fn one_account_alone_gets_half_and_the_next_a_share_of_the_rest() {
        let mut shares = Shares::new(ALL);
        let load = Load::of(4_096);
        assert_eq!(enter_many(&mut shares, 1, load, 200), 50);
        assert_eq!(enter_many(&mut shares, 2, load, 200), 25);
        assert_eq!(enter_many(&mut shares, 3, load, 1), 1);
    }

    #[test]
    fn memory_is_shared_like_places() {
        let mut shares = Shares::new(ALL);
        assert_eq!(enter_many(&mut shares, 1, Load::of(SMALL_MAX), 9), 2);
        assert_eq!(enter_many(&mut shares, 2, Load::of(SMALL_MAX), 9), 1);
        assert_eq!(
            enter_many(&mut shares, 1, Load::of(30 * SMALL_MAX), 1),
            1,
            "one, however large"
        );
        assert_eq!(
            enter_many(&mut shares, 2, Load::of(30 * SMALL_MAX), 1),
            0,
            "as there is no room"
        );
        assert_eq!(enter_many(&mut shares, 2, Load::of(10 * SMALL_MAX), 1), 1);
        let called: Vec<_> = shares.leave(Account(1), Load::of(30 * SMALL_MAX)).collect();
        assert!(called == [DeliveryId(1_002), DeliveryId(2_001)]);
    }

    #[test]
    fn what_finds_no_room_is_reserved_for() {
        let mut shares = Shares::new(ALL);
        let (large, small) = (Load::of(30 * SMALL_MAX), Load::of(8 * SMALL_MAX));
        assert_eq!(enter_many(&mut shares, 1, small, 2), 2);
        assert_eq!(enter_many(&mut shares, 2, large, 1), 0, "there is no room yet");
        assert_eq!(enter_many(&mut shares, 3, small, 1), 0, "what is left is reserved");
        assert_eq!(shares.leave(Account(1), small).count(), 2, "both may try again");
        assert_eq!(enter_many(&mut shares, 2, large, 1), 1);
        assert_eq!(enter_many(&mut shares, 4, small, 1), 0);
        let _ = shares.leave(Account(2), large).count();
        assert_eq!(enter_many(&mut shares, 4, small, 1), 1);
    }

    #[test]
    fn an_account_is_forgotten_when_nothing_is_left_of_it() {
        let mut shares = Shares::new(ALL);
        for account in 0..1_000 {
            assert_eq!(enter_many(&mut shares, account, Load::of(1), 1), 1);
            assert_eq!(shares.leave(Account(account), Load::of(1)).count(), 0);
        }
        assert!(shares.accounts.is_empty() && shares.turns.is_empty());
    }

    proptest! {
        /// Every delivery gets its turn, and what is held never exceeds what there is.
        #[test]
        fn all_that_waits_is_called(
            deliveries in proptest::collection::vec((0u64..5, 1usize..3 * SMALL_MAX), 1..300),
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 300),
        ) {
            let mut shares = Shares::new(ALL);
            let sizes: Vec<_> = deliveries.iter().map(|(account, bytes)| (Account(*account), Load::of(*bytes))).collect();
            let mut ready: VecDeque<_> = (0..sizes.len()).collect();
            let mut under_way: Vec<usize> = Vec::new();
            let mut ended = 0;
            while ended < sizes.len() {
                while let Some(next) = ready.pop_front() {
                    let (account, load) = sizes[next];
                    if shares.enter(account, load, DeliveryId(next as u64)) {
                        under_way.push(next);
                    }
                }
                prop_assert!(!under_way.is_empty(), "something waits and nothing is under way");
                let ending = under_way.swap_remove(picks[ended].index(under_way.len()));
                let (account, load) = sizes[ending];
                ready.extend(shares.leave(account, load).map(|id| id.0 as usize));
                ended += 1;
            }
            prop_assert!(shares.accounts.is_empty() && shares.turns.is_empty());
            prop_assert_eq!(shares.free.0, ALL.0);
        }
    }
}
