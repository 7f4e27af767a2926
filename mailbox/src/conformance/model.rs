//! A relay's store as a few maps: what [`super::stream`] compares with.

use std::collections::BTreeMap;

use crate::relay_store::Account;
use crate::request::{Answer, Refusal};

/// Everything that a reader of the store can see, for a few accounts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) accounts: BTreeMap<u64, AccountModel>,
    /// Recipient, message number and tries of each delivery.
    pub(super) spool: BTreeMap<(String, u64), u32>,
    /// Account and whether it is open, by address.
    pub(super) aliases: BTreeMap<String, (u64, bool)>,
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
}

/// An answer without what depends on the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done { debited: u64 },
    Refused(Refusal),
}

impl Outcome {
    pub(super) fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Done { debited, .. } => Self::Done { debited: *debited },
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
        let model = &self.accounts[&account.0];
        model.credits - model.debits
    }

    /// Submits message `number` to recipients. A repeated number changes nothing.
    pub(super) fn submit(&mut self, account: Account, number: u64, recipients: &[String], price: u64) -> Outcome {
        if let Some(before) = self.account(account).outcomes.get(&number) {
            return *before;
        }
        let balance = self.balance(account);
        let outcome = if price > balance {
            Outcome::Refused(Refusal::Value {
                shortfall: price - balance,
            })
        } else {
            self.account(account).debits += price;
            for recipient in recipients {
                self.spool
                    .insert((recipient.clone(), message_number(account, number)), 0);
            }
            Outcome::Done { debited: price }
        };
        self.answered(account, number, outcome)
    }

    pub(super) fn open_alias(&mut self, account: Account, number: u64, address: &str) -> Outcome {
        if let Some(before) = self.account(account).outcomes.get(&number) {
            return *before;
        }
        let outcome = match self.aliases.get(address) {
            Some((owner, open)) if *owner != account.0 || *open => Outcome::Refused(Refusal::AliasTaken),
            _ => Outcome::Done { debited: 0 },
        };
        if let Outcome::Done { .. } = outcome {
            self.aliases.insert(address.to_owned(), (account.0, true));
        }
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
            model.debits += if model.link_base == model.link_keys {
                balance
            } else {
                price.min(balance)
            };
        }
        live
    }

    pub(super) fn deposit(&mut self, recipients: &[Account], number: u64) {
        for account in recipients {
            let model = self.account(*account);
            model.deposits.insert(model.post_next, number);
            model.post_next += 1;
        }
    }
}

/// A number that no other message has.
pub(super) fn message_number(account: Account, number: u64) -> u64 {
    account.0 << 32 | number
}
