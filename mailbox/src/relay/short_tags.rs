//! Tags in memory, as short as they can be: every pack has a dozen live ones, and most never use any.
//!
//! Of a tag the table keeps 32 bits of a hash that is keyed anew in each process, beside 32 bits that say whose it is: eight
//! octets for each, in one array that is at the most four fifths full. What is found by so little may be another tag: whoever
//! looks computes the tag of each candidate and compares the whole.
//!
//! Nobody can find tags that are alike in the table but by giving several packs one root, which harms those alone: no more
//! than [`CANDIDATES_MAX`] are looked at.

use std::hash::{BuildHasher, RandomState};

use keypacks::Tag;

/// Most accounts that a tag is compared with. With a million packs there is by chance a second one in one lookup of 500.
const CANDIDATES_MAX: usize = 16;

/// The tags of the `AHEAD` next indices of each account's chain.
#[derive(Default)]
pub(super) struct LiveTags<const AHEAD: u64> {
    table: Table,
    keys: RandomState,
}

impl<const AHEAD: u64> LiveTags<AHEAD> {
    /// Accounts that may have the tag, seldom more than one, each with its index modulo the look-ahead.
    pub(super) fn find(&self, name: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let places = self.table.places(self.fragment(name)).take(CANDIDATES_MAX);
        places.map(|place| (u64::from(place) / AHEAD, u64::from(place) % AHEAD))
    }

    /// Makes room for so many accounts.
    pub(super) fn reserve(&mut self, accounts: usize) {
        self.table.reserve(accounts.saturating_mul(AHEAD as usize));
    }

    /// Takes up live indices of an account, each with the short name of its tag.
    pub(super) fn add(&mut self, account: u64, tags: impl IntoIterator<Item = (u64, u64)>) {
        for (index, name) in tags {
            if let Some(place) = Self::place(account, index) {
                self.table.insert(self.fragment(name), place);
            }
        }
    }

    pub(super) fn remove(&mut self, account: u64, tags: impl IntoIterator<Item = (u64, u64)>) {
        for (index, name) in tags {
            if let Some(place) = Self::place(account, index) {
                self.table.remove(self.fragment(name), place);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.count
    }

    fn fragment(&self, name: u64) -> u32 {
        u32::try_from(self.keys.hash_one(name) >> 32).expect("32 bits")
    }

    /// Account times the look-ahead, and the index modulo it, which is enough to know it by. `None`: behind so many packs
    /// (half a billion with a look-ahead of eight) there is no room for another, and its tags are not found.
    fn place(account: u64, index: u64) -> Option<u32> {
        let place = account.checked_mul(AHEAD)?.checked_add(index % AHEAD)?;
        u32::try_from(place).ok().filter(|place| *place != EMPTY)
    }
}

/// The half of a tag that stands for it.
pub(super) fn short(tag: &Tag) -> u64 {
    u64::from_le_bytes(*tag.0.first_chunk().expect("a tag has sixteen octets"))
}

/// A place that no index has.
const EMPTY: u32 = u32::MAX;
/// Fewest entries that room is made for.
const LEAST: usize = 64;

/// Open addressing by linear probing, ordered by fragment as far as it goes: an entry lies at or behind where its
/// fragment leads, and what is taken out leaves no mark.
#[derive(Default)]
struct Table {
    /// Fragment and place.
    entries: Box<[(u32, u32)]>,
    count: usize,
}

impl Table {
    fn places(&self, fragment: u32) -> impl Iterator<Item = u32> + '_ {
        let from = if self.entries.is_empty() {
            0
        } else {
            self.ideal(fragment)
        };
        let run = (0..self.entries.len()).map(move |step| self.entries[(from + step) % self.entries.len()]);
        run.take_while(|(_, place)| *place != EMPTY)
            .filter(move |(other, _)| *other == fragment)
            .map(|(_, place)| place)
    }

    fn insert(&mut self, fragment: u32, place: u32) {
        if (self.count + 1) * 5 > self.entries.len() * 4 {
            // By an eighth: doubling would leave half of it empty.
            self.resize((self.entries.len() + self.entries.len() / 8).max(LEAST));
        }
        self.put(fragment, place);
    }

    fn remove(&mut self, fragment: u32, place: u32) {
        let length = self.entries.len();
        if length == 0 {
            return;
        }
        let mut at = self.ideal(fragment);
        while self.entries[at] != (fragment, place) {
            if self.entries[at].1 == EMPTY {
                return;
            }
            at = (at + 1) % length;
        }
        // Those behind move up as long as that brings none before where it belongs.
        let mut next = at;
        loop {
            next = (next + 1) % length;
            let (fragment, place) = self.entries[next];
            if place == EMPTY {
                break;
            }
            let distance = |from: usize, to: usize| (to + length - from) % length;
            if distance(self.ideal(fragment), next) >= distance(at, next) {
                self.entries[at] = (fragment, place);
                at = next;
            }
        }
        self.entries[at] = (0, EMPTY);
        self.count -= 1;
    }

    fn reserve(&mut self, more: usize) {
        let count = self.count.saturating_add(more);
        // And for a sixteenth more: the first packs that are issued then do not have it all put elsewhere.
        let wanted = count.saturating_add(count / 16).saturating_mul(5) / 4 + LEAST;
        if wanted > self.entries.len() {
            self.resize(wanted);
        }
    }

    fn resize(&mut self, length: usize) {
        let grown = vec![(0, EMPTY); length].into_boxed_slice();
        let before = std::mem::replace(&mut self.entries, grown);
        self.count = 0;
        for (fragment, place) in before {
            if place != EMPTY {
                self.put(fragment, place);
            }
        }
    }

    fn put(&mut self, fragment: u32, place: u32) {
        let mut at = self.ideal(fragment);
        while self.entries[at].1 != EMPTY {
            at = (at + 1) % self.entries.len();
        }
        self.entries[at] = (fragment, place);
        self.count += 1;
    }

    /// Where the fragment leads; fragments are uniform, so that no further hash is needed.
    fn ideal(&self, fragment: u32) -> usize {
        let scaled = (u128::from(fragment) * self.entries.len() as u128) >> 32;
        usize::try_from(scaled).expect("below the length")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_table_holds_what_a_set_holds(
            orders in prop::collection::vec((any::<bool>(), prop_oneof![0..9u32, any::<u32>()], 0..40u32), 0..600),
        ) {
            let (mut table, mut set) = (Table::default(), BTreeSet::new());
            for (adds, fragment, place) in orders {
                match adds {
                    true => {
                        if set.insert((fragment, place)) {
                            table.insert(fragment, place);
                        }
                    }
                    false => {
                        set.remove(&(fragment, place));
                        table.remove(fragment, place);
                    }
                }
                prop_assert_eq!(table.count, set.len());
                let found: BTreeSet<u32> = table.places(fragment).collect();
                let held = set.range((fragment, 0)..=(fragment, u32::MAX)).map(|(_, place)| *place);
                prop_assert_eq!(found, held.collect::<BTreeSet<u32>>());
            }
            for (fragment, place) in set {
                prop_assert!(table.places(fragment).any(|found| found == place));
            }
        }
    }

    #[test]
    fn packs_that_have_tags_alike_do_not_make_a_search_long() {
        let mut tags = LiveTags::<4>::default();
        (0..5_000).for_each(|account| tags.add(account, [(3, 7)]));
        tags.add(6_000, [(2, 8)]);
        assert_eq!(tags.find(7).count(), CANDIDATES_MAX);
        assert_eq!(tags.find(8).collect::<Vec<_>>(), [(6_000, 2)]);
        (1..5_000).for_each(|account| tags.remove(account, [(3, 7)]));
        assert_eq!(tags.find(7).collect::<Vec<_>>(), [(0, 3)]);
    }

    #[test]
    fn a_million_packs_have_their_tags_in_a_tenth_of_a_kilobyte_each() {
        let mut table = Table::default();
        const PACKS: u32 = 100_000;
        table.reserve(PACKS as usize * 8);
        for place in 0..PACKS * 8 {
            // As good as random, and the same each time.
            table.insert(place.wrapping_mul(2_654_435_769), place);
        }
        assert!(table.entries.len() * size_of::<(u32, u32)>() <= PACKS as usize * 90);
        assert!(table.places(7u32.wrapping_mul(2_654_435_769)).any(|place| place == 7));
    }
}
