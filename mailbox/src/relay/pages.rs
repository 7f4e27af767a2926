//! The accounts in memory, by their numbers.

use std::collections::BTreeMap;

use super::live::LiveAccount;

/// Accounts of one page.
const PAGE: usize = 64;

/// Accounts are numbered almost without gaps: pages of them take hardly more room than they do themselves, where a hash
/// table would be empty by a quarter to five eighths.
#[derive(Default)]
pub(super) struct Accounts {
    pages: BTreeMap<u64, Box<[Option<LiveAccount>; PAGE]>>,
    count: usize,
}

impl Accounts {
    pub(super) fn get(&self, account: u64) -> Option<&LiveAccount> {
        let (page, at) = place(account);
        self.pages.get(&page)?[at].as_ref()
    }

    pub(super) fn get_mut(&mut self, account: u64) -> Option<&mut LiveAccount> {
        let (page, at) = place(account);
        self.pages.get_mut(&page)?[at].as_mut()
    }

    pub(super) fn insert(&mut self, account: u64, live: LiveAccount) {
        let (page, at) = place(account);
        let page = self
            .pages
            .entry(page)
            .or_insert_with(|| Box::new([const { None }; PAGE]));
        self.count += usize::from(page[at].replace(live).is_none());
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All of them, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &LiveAccount)> {
        self.pages.iter().flat_map(|(page, accounts)| {
            let numbered = accounts.iter().zip(page * PAGE as u64..);
            numbered.filter_map(|(live, account)| Some((account, live.as_ref()?)))
        })
    }
}

fn place(account: u64) -> (u64, usize) {
    (account / PAGE as u64, (account % PAGE as u64) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_a_map_would_hold(numbers in prop::collection::vec(prop_oneof![0..200u64, 0..u64::MAX / 2], 0..200)) {
            let (mut accounts, mut map) = (Accounts::default(), BTreeMap::new());
            for (waiting, account) in (0..).zip(numbers) {
                let live = LiveAccount { waiting, ..LiveAccount::default() };
                accounts.insert(account, live);
                map.insert(account, waiting);
            }
            prop_assert_eq!(accounts.len(), map.len());
            let listed: Vec<_> = accounts.iter().map(|(account, live)| (account, live.waiting)).collect();
            prop_assert_eq!(listed, map.iter().map(|(account, waiting)| (*account, *waiting)).collect::<Vec<_>>());
            for (account, waiting) in map {
                prop_assert_eq!(accounts.get(account).map(|live| live.waiting), Some(waiting));
                prop_assert_eq!(accounts.get_mut(account).map(|live| live.waiting), Some(waiting));
            }
        }
    }
}
