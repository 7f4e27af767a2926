//! What the relay holds in memory: tags, chains, aliases, the order of the queue. All of it is rebuilt from the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keypacks::chain::{BoxChain, LINK_LOOK_AHEAD};
use keypacks::{Secret, Tag};
use ledger::PriceList;

use super::chains::Chains;
use super::parcels::{ParcelTags, live_tags};
use super::rows::AliasRow;

/// See the module. Changes with commits only, through [`Live::apply`].
#[derive(Default)]
pub(super) struct Live {
    pub(super) accounts: HashMap<u64, LiveAccount>,
    pub(super) tags: HashMap<Tag, (u64, u64)>,
    pub(super) parcels: ParcelTags,
    /// Whether parcels are taken at all: their tags take memory for every pack.
    pub(super) takes_parcels: bool,
    pub(super) aliases: HashMap<[u8; 32], AliasRow>,
    pub(super) aliases_open: u64,
    pub(super) queue: Queue,
    pub(super) deposits: u64,
    pub(super) operator: Option<u64>,
    pub(super) prices: PriceList,
    pub(super) epochs: Epochs,
}

pub(super) struct LiveAccount {
    /// `None`: the slot contradicts the database; the account is frozen.
    pub(super) chains: Option<Chains>,
    pub(super) link_keys: u64,
    /// Deposits that wait.
    pub(super) waiting: u64,
    /// Postings in its journal, once they were counted.
    pub(super) postings: Option<u64>,
    /// Whether its links are under a pad: then no link key of it is ever live.
    pub(super) on_pad: bool,
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
                        chains: Some(chains),
                        link_keys,
                        waiting: 0,
                        postings: None,
                        on_pad,
                    },
                );
                self.add_tags(account);
                self.add_parcel_tags(account);
                if operator {
                    self.operator = Some(account);
                }
            }
            Effect::Burned { account, base } => self.burn(account, base),
            Effect::Posted { account, chain } => {
                if let Some(chains) = self.accounts.get_mut(&account).and_then(|live| live.chains.as_mut()) {
                    chains.post = chain;
                }
            }
            Effect::Arrived { account, chain } => self.move_parcels(account, chain),
            Effect::Skipped { account, index, tag } => self.parcels.add_skipped(account, index, &tag),
            Effect::SkippedNoMore { account, index } => self.parcels.remove_skipped(account, index),
            Effect::Waiting { account, count } => {
                if let Some(live) = self.accounts.get_mut(&account) {
                    self.deposits = self.deposits + count - live.waiting;
                    live.waiting = count;
                }
            }
            Effect::Alias { name, row } => self.put_alias(name, row),
            Effect::Queued { id, queued } => self.queue.put(id, queued),
            Effect::Finished { id } => self.queue.remove(id),
            Effect::Prices(prices) => self.prices = prices,
        }
    }

    /// Account and link index of a live tag.
    pub(super) fn find_tag(&self, tag: &Tag) -> Option<(u64, u64)> {
        self.tags.get(tag).copied()
    }

    /// Makes room for so many accounts with their tags.
    pub(super) fn reserve(&mut self, accounts: usize) {
        self.accounts.reserve(accounts);
        self.tags.reserve(accounts.saturating_mul(LINK_LOOK_AHEAD as usize));
        if self.takes_parcels {
            self.parcels.reserve(accounts);
        }
    }

    /// Takes up an account that was read from the disk, with its [`LiveAccount::tags`] and [`LiveAccount::parcel_tags`].
    pub(super) fn put_account(
        &mut self,
        account: u64,
        live: LiveAccount,
        tags: &[(u64, Tag)],
        parcel_tags: &[(u64, u64)],
    ) {
        self.deposits += live.waiting;
        self.accounts.insert(account, live);
        self.tags
            .extend(tags.iter().map(|(index, tag)| (*tag, (account, *index))));
        self.parcels.add(account, parcel_tags);
    }

    /// Makes the tags of an account's live link indices known.
    fn add_tags(&mut self, account: u64) {
        for (index, tag) in self.live_tags(account) {
            self.tags.insert(tag, (account, index));
        }
    }

    pub(super) fn put_alias(&mut self, name: [u8; 32], row: AliasRow) {
        let opened = u64::from(row.open);
        let closed = self
            .aliases
            .insert(name, row)
            .map_or(0, |before| u64::from(before.open));
        self.aliases_open = self.aliases_open + opened - closed;
    }

    fn burn(&mut self, account: u64, base: u64) {
        for (_, tag) in self.live_tags(account) {
            self.tags.remove(&tag);
        }
        if let Some(chains) = self.accounts.get_mut(&account).and_then(|live| live.chains.as_mut()) {
            // The commit moved the index by less than the look-ahead: the tag that was found says so.
            let _ = chains.link.forward_to(base);
        }
        self.add_tags(account);
    }

    fn move_parcels(&mut self, account: u64, chain: BoxChain) {
        let Some(chains) = self.accounts.get_mut(&account).and_then(|live| live.chains.as_mut()) else {
            return;
        };
        if self.takes_parcels {
            self.parcels.remove(&live_tags(&chains.parcel));
        }
        chains.parcel = chain;
        self.add_parcel_tags(account);
    }

    /// Makes the tags of an account's live parcel indices known, if parcels are taken.
    fn add_parcel_tags(&mut self, account: u64) {
        if let Some(live) = self.accounts.get(&account).filter(|_| self.takes_parcels) {
            self.parcels.add(account, &live.parcel_tags());
        }
    }

    fn live_tags(&self, account: u64) -> Vec<(u64, Tag)> {
        self.accounts.get(&account).map(LiveAccount::tags).unwrap_or_default()
    }
}

impl LiveAccount {
    /// The live link indices and their tags.
    pub(super) fn tags(&self) -> Vec<(u64, Tag)> {
        let chains = self.chains.as_ref().filter(|_| !self.on_pad);
        chains
            .map(|chains| chains.link.tags_ahead(self.link_keys))
            .unwrap_or_default()
    }

    /// The live parcel indices and the short names of their tags.
    pub(super) fn parcel_tags(&self) -> Vec<(u64, u64)> {
        let chains = self.chains.as_ref().filter(|_| !self.on_pad);
        chains.map(|chains| live_tags(&chains.parcel)).unwrap_or_default()
    }
}

/// The spool in the order of its tries.
#[derive(Default)]
pub(super) struct Queue {
    rows: BTreeMap<u64, Queued>,
    by_due: BTreeSet<(u64, u64)>,
}

/// A delivery as the queue knows it.
#[derive(Clone, Copy)]
pub(super) struct Queued {
    /// UTC second of the next try.
    pub(super) due: u64,
    pub(super) attempts: u32,
    /// When it was accepted, in coarse UTC seconds.
    pub(super) accepted: u64,
    pub(super) kilobytes: u32,
    pub(super) epoch: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Size class of a delivery, in units of 1,000 bytes.
    pub(super) fn kilobytes(&self, id: u64) -> Option<u32> {
        self.rows.get(&id).map(|queued| queued.kilobytes)
    }

    pub(super) fn put(&mut self, id: u64, queued: Queued) {
        self.remove(id);
        self.rows.insert(id, queued);
        self.by_due.insert((queued.due, id));
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(queued) = self.rows.remove(&id) {
            self.by_due.remove(&(queued.due, id));
        }
    }

    /// The soonest due first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (u64, &Queued)> {
        self.by_due
            .iter()
            .filter_map(|(_, id)| self.rows.get(id).map(|queued| (*id, queued)))
    }

    /// Deliveries that are not sealed under `epoch`.
    pub(super) fn outside_epoch(&self, epoch: u64, most: usize) -> Vec<u64> {
        let rows = self.rows.iter().filter(|(_, queued)| queued.epoch != epoch);
        rows.map(|(id, _)| *id).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                .filter(|index| live.find_tag(&chain.step_at(*index).expect("near").tag).is_some())
                .collect()
        };
        assert_eq!(known(&live), [0, 1, 2, 3]);
        live.apply(Effect::Burned { account: 1, base: 3 });
        assert_eq!(known(&live), [3, 4, 5]);
        live.apply(Effect::Burned { account: 1, base: 6 });
        assert_eq!(known(&live), [0; 0]);
        assert_eq!(live.tags.len(), 4, "the other account's");
    }

    #[test]
    fn the_queue_is_in_order_of_the_next_try() {
        let mut queue = Queue::default();
        let queued = |due| Queued {
            due,
            attempts: 0,
            accepted: 0,
            kilobytes: 1,
            epoch: 1,
        };
        queue.put(1, queued(30));
        queue.put(2, queued(10));
        queue.put(1, queued(5));
        assert_eq!(queue.in_order().map(|(id, _)| id).collect::<Vec<_>>(), [1, 2]);
        queue.remove(1);
        assert_eq!(
            (
                queue.len(),
                queue.outside_epoch(1, 9).len(),
                queue.outside_epoch(2, 9).len()
            ),
            (1, 0, 1)
        );
    }
}
