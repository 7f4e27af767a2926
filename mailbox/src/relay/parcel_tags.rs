//! Tags of parcels in memory: the live ones, and those of indices that were passed over.

use std::collections::HashMap;

use keypacks::Tag;
use keypacks::chain::BoxChain;
use keypacks::parcel::PARCEL_LOOK_AHEAD;

use super::short_tags::{LiveTags, short};

/// The tags of live parcel indices, and of those that were passed over.
#[derive(Default)]
pub(super) struct ParcelTags {
    live: LiveTags<PARCEL_LOOK_AHEAD>,
    skipped: HashMap<u64, (u64, u64)>,
    /// Names of skipped indices, to be taken out by.
    names: HashMap<(u64, u64), u64>,
}

/// Where a tag may lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// To a live index of this account, which is this modulo the look-ahead.
    Live { account: u64, slot: u64 },
    /// To an index that was passed over.
    Skipped { account: u64, index: u64 },
}

impl ParcelTags {
    /// All that the tag may be: seldom more than one.
    pub(super) fn find(&self, tag: &Tag) -> Vec<Found> {
        let name = short(tag);
        let skipped = self.skipped.get(&name);
        let skipped = skipped.map(|(account, index)| Found::Skipped {
            account: *account,
            index: *index,
        });
        let live = self
            .live
            .find(name)
            .map(|(account, slot)| Found::Live { account, slot });
        skipped.into_iter().chain(live).collect()
    }

    pub(super) fn reserve(&mut self, accounts: usize) {
        self.live.reserve(accounts);
    }

    /// Takes up the live tags of an account, as [`live_tags`] names them.
    pub(super) fn add(&mut self, account: u64, tags: &[(u64, u64)]) {
        self.live.add(account, tags.iter().copied());
    }

    pub(super) fn remove(&mut self, account: u64, tags: &[(u64, u64)]) {
        self.live.remove(account, tags.iter().copied());
    }

    pub(super) fn add_skipped(&mut self, account: u64, index: u64, tag: &Tag) {
        self.skipped.insert(short(tag), (account, index));
        self.names.insert((account, index), short(tag));
    }

    pub(super) fn remove_skipped(&mut self, account: u64, index: u64) {
        if let Some(name) = self.names.remove(&(account, index)) {
            self.skipped.remove(&name);
        }
    }
}

/// The live indices from where the chain stands, each with the short name of its tag.
pub(super) fn live_tags(mut ahead: BoxChain) -> Vec<(u64, u64)> {
    (0..PARCEL_LOOK_AHEAD)
        .map(|_| ahead.advance())
        .map(|step| (step.index, short(&step.tag)))
        .collect()
}
