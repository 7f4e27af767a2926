//! What the relay holds in memory: tags, chains, aliases, the order of the queue. All of it is rebuilt from the disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use keypacks::chain::{BoxChain, LINK_LOOK_AHEAD, LinkChain};
use keypacks::{Secret, Tag};
use ledger::{Onward, PriceList};

use super::chains::{Chains, Held, KeptChains};
use super::pages::Accounts;
use super::parcel_tags::{ParcelTags, live_tags};
use super::queue::{Queue, Queued};
use super::rows::AliasRow;
use super::short_tags::{LiveTags, short};
use crate::relay_store::{Account, Standing, TagHit};
use crate::slab::RecordNumber;

/// See the module. Changes with commits only, through [`Live::apply`].
#[derive(Default)]
pub(super) struct Live {
    pub(super) accounts: Accounts,
    pub(super) tags: LiveTags<LINK_LOOK_AHEAD>,
    /// Tags of the root before, of accounts that have had no link under theirs yet.
    pub(super) old_tags: HashMap<Tag, (u64, u64)>,
    /// Accounts that are frozen.
    pub(super) frozen: u64,
    /// Accounts that are to end, or have.
    pub(super) ending: BTreeSet<u64>,
    pub(super) parcels: ParcelTags,
    /// Whether parcels are taken at all: their tags take memory for every pack.
    pub(super) takes_parcels: bool,
    pub(super) aliases: HashMap<[u8; 32], AliasRow>,
    /// House of each account that shares with others, and of those that were dropped.
    pub(super) devices: HashMap<u64, u64>,
    pub(super) aliases_open: u64,
    pub(super) queue: Queue,
    pub(super) deposits: u64,
    pub(super) operator: Option<u64>,
    pub(super) prices: PriceList,
    pub(super) onward: Arc<Onward>,
    pub(super) epochs: Epochs,
}

#[derive(Default)]
pub(super) struct LiveAccount {
    pub(super) chains: Held,
    pub(super) link_keys: u64,
    /// Deposits that wait.
    pub(super) waiting: u64,
    /// Postings in its journal, once they were counted.
    pub(super) postings: Option<u64>,
    /// Whether its links are under a pad: then no link key of it is ever live.
    pub(super) on_pad: bool,
    pub(super) open_aliases: u32,
    /// Whether it is a device that was dropped: then no key of it is ever live.
    pub(super) dropped: bool,
    /// Of an account that was given another root after its issue.
    pub(super) root: Option<Box<LiveRoot>>,
}

/// What memory has of [`super::rows::RootRow`].
pub(super) struct LiveRoot {
    pub(super) number: u64,
    pub(super) frozen: bool,
    /// The link chain of the root before, until there is a link under this one.
    pub(super) old: Option<LinkChain>,
    /// Record of the root's beginning, until the slot has its chains.
    pub(super) fresh: Option<RecordNumber>,
}

/// Keys that the private parts of spool rows are sealed under. There are two while the stragglers are re-wrapped.
#[derive(Default)]
pub(super) struct Epochs {
    /// Hour, counted from 1970, in which the current one began.
    pub(super) hour: u64,
    pub(super) current: Option<Epoch>,
    pub(super) previous: Option<Epoch>,
}

pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) key: Secret<32>,
}

impl Epochs {
    pub(super) fn key(&self, number: u64) -> Option<&Secret<32>> {
        let epochs = [&self.current, &self.previous];
        epochs
            .into_iter()
            .flatten()
            .find(|epoch| epoch.number == number)
            .map(|epoch| &epoch.key)
    }

    pub(super) fn current(&self) -> &Epoch {
        self.current.as_ref().expect("an open store has an epoch")
    }
}

/// What a durable commit means for memory.
pub(super) enum Effect {
    Issued {
        account: u64,
        chains: Chains,
        link_keys: u64,
        operator: bool,
        on_pad: bool,
    },
    Burned {
        account: u64,
        base: u64,
    },
    /// Other chains from now on.
    Rerooted {
        account: u64,
        chains: Chains,
        fresh: RecordNumber,
    },
    /// There is a link under the root: the one before is over.
    Settled {
        account: u64,
    },
    Frozen {
        account: u64,
    },
    /// The account is to end, or has.
    Ends {
        account: u64,
    },
    /// It is not to end any more.
    Stays {
        account: u64,
    },
    /// The link chain of the account ends here now.
    Extent {
        account: u64,
        link_keys: u64,
    },
    /// It is a device of this house.
    Joined {
        account: u64,
        house: u64,
    },
    /// It was dropped, and has chains that nobody else has.
    Dropped {
        account: u64,
        chains: Chains,
    },
    Posted {
        account: u64,
        chain: BoxChain,
    },
    /// The parcel chain stands here now.
    Arrived {
        account: u64,
        chain: BoxChain,
    },
    /// The key of a parcel index that was passed over is kept.
    Skipped {
        account: u64,
        index: u64,
        tag: Tag,
    },
    /// It is no longer.
    SkippedNoMore {
        account: u64,
        index: u64,
    },
    /// Deposits that now wait for the account.
    Waiting {
        account: u64,
        count: u64,
    },
    Alias {
        name: [u8; 32],
        row: AliasRow,
    },
    Queued {
        id: u64,
        queued: Queued,
    },
    Finished {
        id: u64,
    },
    Prices(PriceList),
    Onward(Onward),
}

impl Effect {
    /// The account whose chains must be in memory when this is applied.
    pub(super) fn chains_changed(&self) -> Option<u64> {
        match self {
            Self::Burned { account, .. }
            | Self::Rerooted { account, .. }
            | Self::Settled { account }
            | Self::Extent { account, .. }
            | Self::Dropped { account, .. }
            | Self::Posted { account, .. }
            | Self::Arrived { account, .. } => Some(*account),
            Self::Issued { .. }
            | Self::Frozen { .. }
            | Self::Ends { .. }
            | Self::Stays { .. }
            | Self::Joined { .. }
            | Self::Skipped { .. }
            | Self::SkippedNoMore { .. }
            | Self::Waiting { .. }
            | Self::Alias { .. }
            | Self::Queued { .. }
            | Self::Finished { .. }
            | Self::Prices(_)
            | Self::Onward(_) => None,
        }
    }
}

/// Where a link's tag led.
pub(super) struct FoundTag {
    pub(super) account: u64,
    pub(super) index: u64,
    /// The chain that has it at this index.
    pub(super) chain: LinkChain,
    /// Number of the chain's root.
    pub(super) root: u64,
}

impl FoundTag {
    pub(super) fn hit(self) -> Option<TagHit> {
        Some(TagHit {
            account: Account(self.account),
            step: self.chain.step_at(self.index)?,
            floor: self.chain.index(),
            root: self.root,
        })
    }
}

impl Live {
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Issued {
                account,
                chains,
                link_keys,
                operator,
                on_pad,
            } => {
                self.accounts.insert(
                    account,
                    LiveAccount {
                        chains: Held::Here(KeptChains::new(&chains)),
                        link_keys,
                        waiting: 0,
                        postings: None,
                        on_pad,
                        root: None,
                        open_aliases: 0,
                        dropped: false,
                    },
                );
                self.add_tags(account);
                self.add_parcel_tags(account);
                if operator {
                    self.operator = Some(account);
                }
            }
            Effect::Burned { account, base } => self.burn(account, base),
            Effect::Rerooted { account, chains, fresh } => self.reroot(account, chains, fresh),
            Effect::Settled { account } => {
                self.remove_tags(account);
                if let Some(root) = self.root_mut(account) {
                    root.old = None;
                }
                self.add_tags(account);
            }
            Effect::Frozen { account } => {
                if let Some(root) = self.root_mut(account)
                    && !std::mem::replace(&mut root.frozen, true)
                {
                    self.frozen += 1;
                }
            }
            Effect::Ends { account } => drop(self.ending.insert(account)),
            Effect::Stays { account } => drop(self.ending.remove(&account)),
            Effect::Extent { account, link_keys } => {
                self.remove_tags(account);
                if let Some(live) = self.accounts.get_mut(account) {
                    live.link_keys = link_keys;
                }
                self.add_tags(account);
            }
            Effect::Joined { account, house } => drop(self.devices.insert(account, house)),
            Effect::Dropped { account, chains } => self.end(account, chains),
            Effect::Posted { account, chain } => {
                if let Some(chains) = self.accounts.get_mut(account).and_then(|live| live.chains.here_mut()) {
                    chains.change(|chains| chains.post = chain);
                }
            }
            Effect::Arrived { account, chain } => self.move_parcels(account, chain),
            Effect::Skipped { account, index, tag } => self.parcels.add_skipped(account, index, &tag),
            Effect::SkippedNoMore { account, index } => self.parcels.remove_skipped(account, index),
            Effect::Waiting { account, count } => {
                if let Some(live) = self.accounts.get_mut(account) {
                    self.deposits = self.deposits + count - live.waiting;
                    live.waiting = count;
                }
            }
            Effect::Alias { name, row } => self.put_alias(name, row),
            Effect::Queued { id, queued } => self.queue.put(id, queued),
            Effect::Finished { id } => self.queue.remove(id),
            Effect::Prices(prices) => {
                self.prices = prices;
                let version = prices.version;
                self.onward = Arc::new(Onward {
                    version,
                    ..Onward::clone(&self.onward)
                });
            }
            Effect::Onward(onward) => self.onward = Arc::new(onward),
        }
    }

    /// Accounts that may have a live tag, each with its index modulo the look-ahead.
    pub(super) fn candidates(&self, tag: &Tag) -> Vec<(u64, u64)> {
        self.tags.find(short(tag)).collect()
    }

    /// Who has a live tag of the root before.
    pub(super) fn find_old_tag(&self, tag: &Tag) -> Option<FoundTag> {
        let (account, index) = *self.old_tags.get(tag)?;
        let live = self.accounts.get(account)?;
        let root = live.root.as_ref().filter(|_| !live.chains.is_lost() && !live.dropped)?;
        Some(FoundTag {
            account,
            index,
            chain: root.old.as_ref()?.duplicate(),
            root: root.number.checked_sub(1)?,
        })
    }

    fn root_mut(&mut self, account: u64) -> Option<&mut LiveRoot> {
        self.accounts.get_mut(account)?.root.as_deref_mut()
    }

    /// Makes room for so many accounts with their tags.
    pub(super) fn reserve(&mut self, accounts: usize) {
        self.tags.reserve(accounts);
        if self.takes_parcels {
            self.parcels.reserve(accounts);
        }
    }

    /// Takes up an account that was read from the disk, with its [`LiveAccount::tags`] and [`LiveAccount::parcel_tags`].
    pub(super) fn put_account(
        &mut self,
        account: u64,
        live: LiveAccount,
        tags: &[(u64, u64)],
        parcel_tags: &[(u64, u64)],
    ) {
        self.deposits += live.waiting;
        self.frozen += u64::from(live.standing().is_frozen);
        self.old_tags
            .extend(live.old_tags().into_iter().map(|(index, tag)| (tag, (account, index))));
        self.accounts.insert(account, live);
        self.tags.add(account, tags.iter().copied());
        self.parcels.add(account, parcel_tags);
    }

    /// Makes the tags of an account's live link indices known.
    fn add_tags(&mut self, account: u64) {
        let Some(live) = self.accounts.get(account) else {
            return;
        };
        let of = |(index, tag)| (tag, (account, index));
        self.tags.add(account, live.tags());
        self.old_tags.extend(live.old_tags().into_iter().map(of));
    }

    fn remove_tags(&mut self, account: u64) {
        let Some(live) = self.accounts.get(account) else {
            return;
        };
        self.tags.remove(account, live.tags());
        for (_, tag) in live.old_tags() {
            self.old_tags.remove(&tag);
        }
    }

    pub(super) fn put_alias(&mut self, name: [u8; 32], row: AliasRow) {
        let (account, opened) = (row.account, u64::from(row.open));
        let closed = self
            .aliases
            .insert(name, row)
            .map_or(0, |before| u64::from(before.open));
        self.aliases_open = self.aliases_open + opened - closed;
        if let Some(live) = self.accounts.get_mut(account) {
            live.open_aliases = live.open_aliases + u32::from(opened > 0) - u32::from(closed > 0);
        }
    }

    fn burn(&mut self, account: u64, base: u64) {
        self.remove_tags(account);
        if let Some(live) = self.accounts.get_mut(account) {
            // The commit moved the index by less than the look-ahead: the tag that was found says so. One index counts for
            // both roots.
            if let Some(chains) = live.chains.here_mut() {
                chains.change(|chains| {
                    let _ = chains.link.forward_to(base);
                });
            }
            if let Some(old) = live.root.as_mut().and_then(|root| root.old.as_mut()) {
                let _ = old.forward_to(base);
            }
        }
        self.add_tags(account);
    }

    /// Takes a device out of everything that finds its keys.
    pub(super) fn end(&mut self, account: u64, chains: Chains) {
        self.remove_tags(account);
        let Some(live) = self.accounts.get_mut(account) else {
            return;
        };
        if self.takes_parcels {
            self.parcels.remove(account, &live.parcel_tags());
        }
        live.chains = Held::Here(KeptChains::new(&chains));
        live.dropped = true;
        if let Some(root) = &mut live.root {
            root.old = None;
            self.frozen -= u64::from(std::mem::take(&mut root.frozen));
        }
    }

    fn reroot(&mut self, account: u64, chains: Chains, fresh: RecordNumber) {
        self.remove_tags(account);
        let Some(live) = self.accounts.get_mut(account) else {
            return;
        };
        let was_frozen = live.standing().is_frozen;
        if self.takes_parcels {
            self.parcels.remove(account, &live.parcel_tags());
        }
        let number = chains.root;
        let before = live.chains.here().map(KeptChains::link);
        live.chains = Held::Here(KeptChains::new(&chains));
        live.root = Some(Box::new(LiveRoot {
            number,
            frozen: false,
            old: before,
            fresh: Some(fresh),
        }));
        self.frozen -= u64::from(was_frozen);
        self.add_tags(account);
        self.add_parcel_tags(account);
    }

    fn move_parcels(&mut self, account: u64, chain: BoxChain) {
        let Some(chains) = self.accounts.get_mut(account).and_then(|live| live.chains.here_mut()) else {
            return;
        };
        if self.takes_parcels {
            self.parcels.remove(account, &live_tags(chains.parcel()));
        }
        chains.change(|chains| chains.parcel = chain);
        self.add_parcel_tags(account);
    }

    /// Makes the tags of an account's live parcel indices known, if parcels are taken.
    fn add_parcel_tags(&mut self, account: u64) {
        if let Some(live) = self.accounts.get(account).filter(|_| self.takes_parcels) {
            self.parcels.add(account, &live.parcel_tags());
        }
    }
}

impl LiveAccount {
    /// The live link indices and the short names of their tags.
    pub(super) fn tags(&self) -> Vec<(u64, u64)> {
        let tags = self.link().map(|link| link.tags_ahead(self.link_keys));
        let named = |(index, tag): (u64, Tag)| (index, short(&tag));
        tags.unwrap_or_default().into_iter().map(named).collect()
    }

    /// The chain whose keys are live.
    fn link(&self) -> Option<LinkChain> {
        let chains = self.chains.here().filter(|_| self.has_live_keys());
        chains.map(KeptChains::link)
    }

    /// Whether any key of its chains may be live.
    pub(super) fn has_live_keys(&self) -> bool {
        !self.on_pad && !self.dropped
    }

    /// The live link indices of the root before, and their tags.
    fn old_tags(&self) -> Vec<(u64, Tag)> {
        let old = self.root.as_ref().and_then(|root| root.old.as_ref());
        old.map(|chain| chain.tags_ahead(self.link_keys)).unwrap_or_default()
    }

    pub(super) fn standing(&self) -> Standing {
        let standing = self.root.as_ref().map_or(Standing::default(), |root| Standing {
            root: root.number,
            is_frozen: root.frozen,
            is_dropped: false,
        });
        Standing {
            is_dropped: self.dropped,
            ..standing
        }
    }

    /// The live parcel indices and the short names of their tags.
    pub(super) fn parcel_tags(&self) -> Vec<(u64, u64)> {
        let chains = self.chains.here().filter(|_| self.has_live_keys());
        chains.map(|chains| live_tags(chains.parcel())).unwrap_or_default()
    }
}

/// The live link index that has this tag, if the one that is `slot` modulo the look-ahead has.
pub(super) fn index_of(link: &LinkChain, link_keys: u64, tag: &Tag, slot: u64) -> Option<u64> {
    let ahead = (slot + LINK_LOOK_AHEAD - link.index() % LINK_LOOK_AHEAD) % LINK_LOOK_AHEAD;
    let index = link.index().checked_add(ahead)?;
    (index < link_keys && link.step_at(index)?.tag == *tag).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(live: &Live, tag: &Tag) -> Option<(u64, u64)> {
        live.candidates(tag).into_iter().find_map(|(account, slot)| {
            let found = live.accounts.get(account)?;
            Some((account, index_of(&found.link()?, found.link_keys, tag, slot)?))
        })
    }

    fn issued(live: &mut Live, account: u64, link_keys: u64) {
        let chains = Chains::from_root(&Secret::new([u8::try_from(account).expect("small"); 32]));
        live.apply(Effect::Issued {
            account,
            chains,
            link_keys,
            operator: false,
            on_pad: false,
        });
    }

    #[test]
    fn tags_follow_the_lowest_live_index_and_end_with_the_keys() {
        let mut live = Live::default();
        issued(&mut live, 1, 6);
        issued(&mut live, 2, 16);
        let chain = Chains::from_root(&Secret::new([1; 32])).link;
        let known = |live: &Live| -> Vec<u64> {
            (0..8)
                .filter(|index| find(live, &chain.step_at(*index).expect("near").tag).is_some())
                .collect()
        };
        assert_eq!(known(&live), [0, 1, 2, 3]);
        live.apply(Effect::Burned { account: 1, base: 3 });
        assert_eq!(known(&live), [3, 4, 5]);
        live.apply(Effect::Burned { account: 1, base: 6 });
        assert_eq!(known(&live), [0; 0]);
        assert_eq!(live.tags.len(), 4, "the other account's");
        let slow = |index| chain.step_at(index).expect("near").tag;
        assert!((0..6).all(|index| find(&live, &slow(index)).is_none()));
    }

    #[test]
    fn a_tag_that_is_like_another_in_its_short_form_leads_to_its_own_account() {
        let mut live = Live::default();
        issued(&mut live, 1, 16);
        let tag = Chains::from_root(&Secret::new([2; 32]))
            .link
            .step_at(2)
            .expect("near")
            .tag;
        live.tags.add(1, [(0, short(&tag)), (2, short(&tag))]);
        assert_eq!(find(&live, &tag), None);
        issued(&mut live, 2, 16);
        assert_eq!(find(&live, &tag), Some((2, 2)));
        live.apply(Effect::Burned { account: 2, base: 3 });
        assert_eq!(find(&live, &tag), None);
    }
}
