//! Totals as kept, and everything recomputed from the postings.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::index::View;
use ledger::{AccountKey, Balance, StatementEntry, fold};

use super::RelayFiles;
use super::books::balance;
use super::rows::{ACCOUNTS, ALIASES, ANSWERS, BALANCES, DEPOSITS, JOURNAL, PARCELS, SKIPPED, SPOOL};
use crate::StoreError;
use crate::bodies::BODIES;
use crate::log::Location;
use crate::parcel::SKIPPED_MAX;
use crate::relay_store::{Audit, Totals};
use crate::request::UNACKNOWLEDGED_MAX;

const ALL: (u64, u64) = (0, u64::MAX);
const ALL_PAIRS: ((u64, u64), (u64, u64)) = ((0, 0), (u64::MAX, u64::MAX));

impl RelayFiles {
    pub(super) fn read_totals(&self) -> Result<Totals, StoreError> {
        let base = &self.shared.base;
        let (issue, revenue) = {
            let view = base.view()?;
            let side = |account| balance(&view, account);
            (side(AccountKey::Issue)?, side(AccountKey::Revenue)?)
        };
        let live = self.shared.live();
        Ok(Totals {
            accounts: live.accounts.len() as u64,
            credits: issue.debits,
            debits: revenue.credits,
            balances: issue.debits.saturating_sub(revenue.credits),
            revenue: revenue.available(),
            queued: live.queue.len() as u64,
            deposits: live.deposits,
            aliases: live.aliases_open,
        })
    }

    /// Reads the whole index at one moment. What memory knows is compared only if nothing was committed meanwhile.
    pub(super) fn run_audit(&self) -> Result<Audit, StoreError> {
        let base = &self.shared.base;
        let before = base.index.commit_number();
        let mut auditor = Auditor::recompute(&base.snapshot()?)?;
        let kept = self.read_totals()?;
        if base.index.commit_number() == before && kept != auditor.totals {
            auditor.finding("the totals as kept differ from those recomputed");
        }
        Ok(Audit {
            totals: auditor.totals,
            findings: auditor.findings,
        })
    }
}

#[derive(Default)]
struct Auditor {
    totals: Totals,
    findings: Vec<String>,
    /// Both sides of every account as the journal gives them.
    journal: BTreeMap<AccountKey, Balance>,
    /// How often each body is named.
    references: BTreeMap<u64, u32>,
    deposits: BTreeMap<u64, u64>,
    answers: BTreeMap<u64, Vec<u64>>,
}

impl Auditor {
    fn recompute(read: &View<'_>) -> Result<Self, StoreError> {
        let mut auditor = Self::default();
        auditor.journal(read)?;
        auditor.balances(read)?;
        auditor.mail(read)?;
        auditor.bodies(read)?;
        auditor.accounts(read)?;
        auditor.parcels(read)?;
        Ok(auditor)
    }

    fn finding(&mut self, words: &str) {
        self.findings.push(words.to_owned());
    }

    fn journal(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        JOURNAL.scan(read, ALL_PAIRS, |(holder, _), transfer| {
            if ![transfer.debit, transfer.credit].contains(&AccountKey::Holder(holder)) {
                self.finding("a posting stands in another account's journal");
            }
            for account in [transfer.debit, transfer.credit] {
                let opening = self.journal.get(&account).copied().unwrap_or_default();
                match fold(opening, StatementEntry::of(&transfer, account)) {
                    Some(closing) => drop(self.journal.insert(account, closing)),
                    None => self.finding("the postings of an account exceed 64 bits"),
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn balances(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let mut kept = BTreeMap::new();
        BALANCES.scan(read, (AccountKey::Holder(0), AccountKey::Issue), |account, balance| {
            kept.insert(account, balance);
            Ok(ControlFlow::Continue(()))
        })?;
        if kept != self.journal {
            self.finding("a balance differs from the sum of its postings");
        }
        if self.journal.values().map(Balance::net).sum::<i128>() != 0 {
            self.finding("the sum over all accounts is not zero");
        }
        for (account, balance) in &self.journal {
            match account {
                AccountKey::Holder(_) if balance.debits > balance.credits => {
                    self.findings.push("a holder's balance is below zero".to_owned());
                }
                AccountKey::Holder(_) => {
                    self.totals.credits += balance.credits;
                    self.totals.debits += balance.debits;
                    self.totals.balances += balance.available();
                }
                AccountKey::Revenue => self.totals.revenue = balance.available(),
                AccountKey::Issue => {}
            }
        }
        Ok(())
    }

    fn mail(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        SPOOL.scan(read, ALL, |_, row| {
            self.totals.queued += 1;
            *self.references.entry(row.body).or_default() += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        DEPOSITS.scan(read, ALL_PAIRS, |(account, _), row| {
            if let Some(held) = row.held {
                self.totals.deposits += 1;
                *self.deposits.entry(account).or_default() += 1;
                *self.references.entry(held.body).or_default() += 1;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ANSWERS.scan(read, ALL_PAIRS, |(account, seq), _| {
            self.answers.entry(account).or_default().push(seq);
            Ok(ControlFlow::Continue(()))
        })?;
        ALIASES.scan(read, ([0; 32], [255; 32]), |_, row| {
            self.totals.aliases += u64::from(row.open);
            Ok(ControlFlow::Continue(()))
        })
    }

    fn bodies(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let mut places: Vec<Location> = Vec::new();
        let mut kept = BTreeMap::new();
        BODIES.scan(read, ALL, |body, row| {
            kept.insert(body, row.references);
            places.push(row.location);
            Ok(ControlFlow::Continue(()))
        })?;
        if kept != self.references {
            self.finding("bodies and the rows that name them differ");
        }
        places.sort_unstable();
        let overlap = |pair: &[Location]| {
            pair[0].segment == pair[1].segment && pair[0].offset + u64::from(pair[0].length) > pair[1].offset
        };
        if places.windows(2).any(overlap) {
            self.finding("two bodies overlap");
        }
        Ok(())
    }

    fn parcels(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let mut skipped: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        SKIPPED.scan(read, ALL_PAIRS, |(account, index), _| {
            skipped.entry(account).or_default().push(index);
            Ok(ControlFlow::Continue(()))
        })?;
        PARCELS.scan(read, ALL, |account, row| {
            let kept = skipped.remove(&account).unwrap_or_default();
            let within = kept.iter().all(|index| *index < row.base);
            if !within || kept.len() as u64 != u64::from(row.skipped) || row.skipped > SKIPPED_MAX {
                self.finding("the skipped parcel keys of an account contradict its count");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !skipped.is_empty() {
            self.finding("skipped parcel keys belong to no account");
        }
        Ok(())
    }

    fn accounts(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let (mut deposits, mut answers) = (std::mem::take(&mut self.deposits), std::mem::take(&mut self.answers));
        ACCOUNTS.scan(read, ALL, |account, row| {
            self.totals.accounts += 1;
            let kept = answers.remove(&account).unwrap_or_default();
            let within = kept.iter().all(|seq| *seq > row.seq_floor && *seq <= row.seq_highest);
            if !within || kept.len() as u64 != row.answers || row.answers > UNACKNOWLEDGED_MAX {
                self.finding("the kept answers of an account contradict its numbers");
            }
            if deposits.remove(&account).unwrap_or_default() != row.deposits {
                self.finding("the deposits of an account differ from its count");
            }
            if row.link_base > row.link_keys {
                self.finding("an account has burned more link keys than it has");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !deposits.is_empty() || !answers.is_empty() {
            self.finding("deposits or answers belong to no account");
        }
        Ok(())
    }
}
