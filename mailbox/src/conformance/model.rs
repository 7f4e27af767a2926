//! A relay's store as a few maps: what [`super::stream`] compares with.

use std::collections::{BTreeMap, BTreeSet};

use crate::relay_store::Account;
use crate::request::{Answer, Refusal};

/// Everything that a reader of the store can see, for a few accounts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) accounts: BTreeMap<u64, AccountModel>,
    /// Recipient, message number and tries of each delivery, and whether it is in the pool.
    pub(super) spool: BTreeMap<(String, u64), (u32, bool)>,
    /// Who filled each voucher, keys and value in it, and who took them, by its number.
    pub(super) vouchers: BTreeMap<u64, Voucher>,
    /// Account and whether it is open, by address.
    pub(super) aliases: BTreeMap<String, (u64, bool)>,
    /// Accounts that have ended.
    pub(super) ended: BTreeSet<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct AccountModel {
    pub(super) credits: u64,
    pub(super) debits: u64,
    pub(super) link_keys: u64,
    pub(super) link_base: u64,
    pub(super) post_next: u64,
    /// Number of each deposit that waits, by post index.
    pub(super) deposits: BTreeMap<u64, u64>,
    /// Outcome of each change that was ever executed.
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) highest: u64,
    /// House and number of a device.
    pub(super) device: Option<(u64, u32)>,
    /// The device was dropped, and nothing of it is seen any more.
    pub(super) dropped: bool,
}

/// Stands for the number of a deposit that is no mail but events.
pub(super) const EVENT: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Voucher {
    pub(super) giver: u64,
    pub(super) keys: u64,
    pub(super) value: u64,
    pub(super) taker: Option<u64>,
}

/// An answer without what depends on the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done { debited: u64 },
    Moved { keys: u64, value: u64 },
    Refused(Refusal),
}

impl Outcome {
    pub(super) fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Done { debited, .. } => Self::Done { debited: *debited },
            Answer::Moved { keys, value, .. } => Self::Moved {
                keys: *keys,
                value: *value,
            },
            Answer::Refused { refusal, .. } => Self::Refused(*refusal),
            _ => panic!("no answer to a change"),
        }
    }
}

impl Model {
    pub(super) fn account(&mut self, account: Account) -> &mut AccountModel {
        self.accounts.get_mut(&account.0).expect("issued before")
    }

    pub(super) fn balance(&self, account: Account) -> u64 {
        let model = &self.accounts[&self.house(account.0)];
        model.credits - model.debits
    }

    pub(super) fn house(&self, account: u64) -> u64 {
        self.accounts[&account].device.map_or(account, |(house, _)| house)
    }

    fn value(&mut self, account: Account) -> &mut AccountModel {
        let house = self.house(account.0);
        self.account(Account(house))
    }

    /// All devices that were not dropped, in order of their numbers, which is that of their accounts.
    pub(super) fn members(&self, account: u64) -> Vec<u64> {
        let house = self.house(account);
        let is_member = |(number, model): &(&u64, &AccountModel)| !model.dropped && self.house(**number) == house;
        self.accounts
            .iter()
            .filter(is_member)
            .map(|(number, _)| *number)
            .collect()
    }

    pub(super) fn keys_of_house(&self, account: u64) -> u64 {
        let keys = |member: &u64| self.accounts[member].link_keys - self.accounts[member].link_base;
        self.members(account).iter().map(keys).sum()
    }

    fn tell(&mut self, members: &[u64]) {
        for member in members {
            let model = self.account(Account(*member));
            model.deposits.insert(model.post_next, EVENT);
            model.post_next += 1;
        }
    }

    /// `child`: the number of the account to be made.
    pub(super) fn join(&mut self, account: Account, number: u64, child: u64, keys: u64) -> Outcome {
        let members = self.members(account.0);
        let has_ended = self.ended.contains(&account.0);
        let model = self.account(account);
        let left = model.link_keys - model.link_base;
        let outcome = if has_ended {
            Outcome::Refused(Refusal::Ended)
        } else if left < keys + 16 {
            Outcome::Refused(Refusal::Keys)
        } else if members.len() >= 8 {
            Outcome::Refused(Refusal::DeviceLimit)
        } else {
            model.link_keys -= keys;
            let (house, _) = *model.device.get_or_insert((account.0, 1));
            let is_of_house = |model: &&AccountModel| model.device.is_some_and(|(known, _)| known == house);
            let before = self.accounts.values().filter(is_of_house).count() as u32;
            let made = AccountModel {
                link_keys: keys,
                device: Some((house, before + 1)),
                ..AccountModel::default()
            };
            self.accounts.insert(child, made);
            self.tell(&members);
            Outcome::Moved { keys, value: 0 }
        };
        self.answered(account, number, outcome)
    }

    pub(super) fn drop_device(&mut self, account: Account, number: u64, device: u32) -> Outcome {
        let members = self.members(account.0);
        let is_it = |member: &&u64| {
            let known = self.accounts[*member].device;
            **member != account.0 && known.is_some_and(|(_, number)| number == device)
        };
        let outcome = match members.iter().find(is_it).copied() {
            _ if self.ended.contains(&account.0) => Outcome::Refused(Refusal::Ended),
            None => Outcome::Refused(Refusal::DeviceUnknown),
            Some(other) => {
                let ended = self.account(Account(other));
                let keys = ended.link_keys - ended.link_base;
                ended.link_keys = ended.link_base;
                // The house has its value still.
                *ended = AccountModel {
                    dropped: true,
                    link_keys: ended.link_keys,
                    link_base: ended.link_base,
                    credits: ended.credits,
                    debits: ended.debits,
                    device: ended.device,
                    ..AccountModel::default()
                };
                self.account(account).link_keys += keys;
                let left: Vec<u64> = members.into_iter().filter(|member| *member != other).collect();
                self.tell(&left);
                Outcome::Moved { keys, value: 0 }
            }
        };
        self.answered(account, number, outcome)
    }

    /// Submits message `number` to recipients. A repeated number changes nothing.
    pub(super) fn submit(
        &mut self,
        account: Account,
        number: u64,
        (recipients, is_pooled): (&[String], bool),
        price: u64,
    ) -> Outcome {
        if let Some(before) = self.account(account).outcomes.get(&number) {
            return *before;
        }
        let balance = self.balance(account);
        let outcome = if self.ended.contains(&account.0) {
            Outcome::Refused(Refusal::Ended)
        } else if price > balance {
            Outcome::Refused(Refusal::Value {
                shortfall: price - balance,
            })
        } else {
            self.value(account).debits += price;
            for recipient in recipients {
                self.spool
                    .insert((recipient.clone(), message_number(account, number)), (0, is_pooled));
            }
            Outcome::Done { debited: price }
        };
        self.answered(account, number, outcome)
    }

    pub(super) fn open_alias(&mut self, account: Account, number: u64, address: &str) -> Outcome {
        if let Some(before) = self.account(account).outcomes.get(&number) {
            return *before;
        }
        let house = self.house(account.0);
        let outcome = match self.aliases.get(address) {
            _ if self.ended.contains(&account.0) => Outcome::Refused(Refusal::Ended),
            Some((owner, _)) if *owner != house => Outcome::Refused(Refusal::AliasTaken),
            _ => Outcome::Done { debited: 0 },
        };
        if let Outcome::Done { .. } = outcome {
            let before = self.aliases.insert(address.to_owned(), (house, true));
            let members = self.members(account.0);
            if members.len() > 1 && before != Some((house, true)) {
                self.tell(&members);
            }
        }
        self.answered(account, number, outcome)
    }

    /// `child`: the number of the account to be made.
    pub(super) fn split(&mut self, account: Account, number: u64, child: u64, keys: u64, value: u64) -> Outcome {
        let (balance, has_ended) = (self.balance(account), self.ended.contains(&account.0));
        let model = self.account(account);
        let left = model.link_keys - model.link_base;
        let outcome = if has_ended {
            Outcome::Refused(Refusal::Ended)
        } else if left < keys + 16 {
            Outcome::Refused(Refusal::Keys)
        } else if value > balance {
            Outcome::Refused(Refusal::Value {
                shortfall: value - balance,
            })
        } else {
            model.link_keys -= keys;
            self.value(account).debits += value;
            let made = AccountModel {
                credits: value,
                link_keys: keys,
                ..AccountModel::default()
            };
            self.accounts.insert(child, made);
            Outcome::Moved { keys, value }
        };
        self.answered(account, number, outcome)
    }

    pub(super) fn release(&mut self, account: Account, number: u64, voucher: u64) -> Outcome {
        let house = self.house(account.0);
        let is_open = |(owner, open): &(u64, bool)| *owner == house && *open;
        let is_used = self.aliases.values().any(is_open) || self.members(account.0).len() > 1;
        let (value, has_ended) = (self.balance(account), self.ended.contains(&account.0));
        let model = self.account(account);
        let outcome = if has_ended {
            Outcome::Refused(Refusal::Ended)
        } else if is_used || !model.deposits.is_empty() {
            Outcome::Refused(Refusal::Occupied)
        } else {
            let keys = (model.link_keys - model.link_base).saturating_sub(8);
            model.link_keys -= keys;
            self.value(account).debits += value;
            let filled = Voucher {
                giver: account.0,
                keys,
                value,
                taker: None,
            };
            self.vouchers.insert(voucher, filled);
            Outcome::Moved { keys, value }
        };
        self.answered(account, number, outcome)
    }

    pub(super) fn redeem(&mut self, account: Account, number: u64, voucher: u64) -> Outcome {
        let outcome = match self.vouchers.get_mut(&voucher) {
            _ if self.ended.contains(&account.0) => Outcome::Refused(Refusal::Ended),
            Some(found) if found.taker == Some(account.0) => Outcome::Moved { keys: 0, value: 0 },
            Some(found) if found.taker.is_none() && found.giver != account.0 => {
                found.taker = Some(account.0);
                let (keys, value) = (found.keys, found.value);
                let model = self.account(account);
                model.link_keys += keys;
                self.value(account).credits += value;
                Outcome::Moved { keys, value }
            }
            _ => Outcome::Refused(Refusal::VoucherUnknown),
        };
        self.answered(account, number, outcome)
    }

    /// Ends the account now, if it has not.
    pub(super) fn expire(&mut self, account: Account, number: u64) -> Outcome {
        let is_shared = self.house(account.0) != account.0 || self.members(account.0).len() > 1;
        let outcome = if is_shared {
            Outcome::Refused(Refusal::Occupied)
        } else if self.ended.insert(account.0) {
            for (owner, open) in self.aliases.values_mut() {
                *open &= *owner != account.0;
            }
            let value = self.balance(account);
            let model = self.account(account);
            let keys = (model.link_keys - model.link_base).saturating_sub(8);
            model.link_keys -= keys;
            model.debits += value;
            Outcome::Moved { keys, value }
        } else {
            Outcome::Moved { keys: 0, value: 0 }
        };
        self.answered(account, number, outcome)
    }

    fn answered(&mut self, account: Account, number: u64, outcome: Outcome) -> Outcome {
        let model = self.account(account);
        model.outcomes.insert(number, outcome);
        model.highest = model.highest.max(number);
        outcome
    }

    pub(super) fn burn(&mut self, account: Account, index: u64, price: u64) -> bool {
        let balance = self.balance(account);
        let model = self.account(account);
        let live = index >= model.link_base && index < (model.link_base + 4).min(model.link_keys);
        if live {
            model.link_base = index + 1;
            let is_last = self.keys_of_house(account.0) == 0;
            self.value(account).debits += if is_last { balance } else { price.min(balance) };
        }
        live
    }

    pub(super) fn deposit(&mut self, recipients: &[Account], number: u64) {
        for account in recipients {
            for member in self.members(account.0) {
                let model = self.account(Account(member));
                model.deposits.insert(model.post_next, number);
                model.post_next += 1;
            }
        }
    }
}

/// A number that no other message has.
pub(super) fn message_number(account: Account, number: u64) -> u64 {
    account.0 << 32 | number
}
