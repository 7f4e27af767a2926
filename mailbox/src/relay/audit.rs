//! Totals as kept, and everything recomputed from the postings.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::index::View;
use keypacks::chain::KEYS_RESERVED;
use ledger::{AccountKey, Balance, Kind, StatementEntry, fold};

use super::RelayFiles;
use super::books::balance;
use super::devices;
use super::procure;
use super::rows::{
    ACCOUNTS, ALIASES, ANSWERS, BALANCES, CREDITS, DEPOSITS, DeviceRow, EXPIRIES, HOUSES, JOURNAL, Lapsed, MOVES,
    NEVER_DUE, PARCELS, POOL, SHARES, SKIPPED, SPOOL, VOUCHERS,
};
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
        let (issue, revenue, transit, onward, (drawn, settled)) = {
            let view = base.view()?;
            let side = |account| balance(&view, account);
            (
                side(AccountKey::Issue)?,
                side(AccountKey::Revenue)?,
                side(AccountKey::Transit)?,
                side(AccountKey::Onward)?,
                owed(&view)?,
            )
        };
        // What went from holder to holder was debited there and credited here.
        // What was drawn on credit was credited without being issued; what was settled of it is issued now.
        // What was paid for packs that could not be made was credited again.
        let credits = (issue.debits + transit.debits + onward.debits + drawn).saturating_sub(settled);
        let debits = revenue.credits + onward.credits + transit.credits;
        let live = self.shared.live();
        Ok(Totals {
            accounts: live.accounts.len() as u64,
            credits,
            debits,
            balances: credits.saturating_sub(debits),
            revenue: revenue.available(),
            onward: onward.available(),
            owed: drawn.saturating_sub(settled),
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

/// All that was drawn on credit, and all that was settled of it.
fn owed(view: &View<'_>) -> Result<(u64, u64), StoreError> {
    let all = (AccountKey::Owed(0), AccountKey::Owed(u64::MAX));
    let (mut drawn, mut settled) = (0u64, 0u64);
    BALANCES.scan(view, all, |_, balance| {
        (drawn, settled) = (drawn + balance.debits, settled + balance.credits);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((drawn, settled))
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
    /// µtok that lapsed, by account, as the journal has it.
    lapsed: BTreeMap<u64, u64>,
    /// µtok paid for packs at further relays and given back, likewise.
    ordered: BTreeMap<u64, u64>,
    returned: BTreeMap<u64, u64>,
    /// What accounts that ended had, by their rows.
    ended: BTreeMap<u64, Lapsed>,
    devices: BTreeMap<u64, DeviceRow>,
    /// How often the devices of each house name each body.
    shares: BTreeMap<(u64, u64), u32>,
}

impl Auditor {
    fn recompute(read: &View<'_>) -> Result<Self, StoreError> {
        let mut auditor = Self {
            devices: devices::load(read)?,
            ..Self::default()
        };
        auditor.journal(read)?;
        auditor.balances(read)?;
        auditor.expiries(read)?;
        auditor.mail(read)?;
        auditor.bodies(read)?;
        auditor.accounts(read)?;
        auditor.parcels(read)?;
        auditor.moves(read)?;
        auditor.houses(read)?;
        for words in procure::contradictions(read, (&auditor.ordered, &auditor.returned))? {
            auditor.finding(words);
        }
        Ok(auditor)
    }

    fn finding(&mut self, words: &str) {
        self.findings.push(words.to_owned());
    }

    fn journal(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        JOURNAL.scan(read, ALL_PAIRS, |(holder, _), transfer| {
            let is_own = |account| matches!(account, AccountKey::Holder(of) | AccountKey::Owed(of) if of == holder);
            if !is_own(transfer.debit) && !is_own(transfer.credit) {
                self.finding("a posting stands in another account's journal");
            }
            if transfer.kind == Kind::Lapsed {
                let sum = self.lapsed.entry(holder).or_default();
                *sum = sum.saturating_add(transfer.amount);
            }
            for (kind, sums) in [
                (Kind::Procured, &mut self.ordered),
                (Kind::Returned, &mut self.returned),
            ] {
                if transfer.kind == kind {
                    let sum = sums.entry(holder).or_default();
                    *sum = sum.saturating_add(transfer.amount);
                }
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
        BALANCES.scan(
            read,
            (AccountKey::Holder(0), AccountKey::Owed(u64::MAX)),
            |account, balance| {
                kept.insert(account, balance);
                Ok(ControlFlow::Continue(()))
            },
        )?;
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
                AccountKey::Onward if balance.debits > balance.credits => {
                    self.findings
                        .push("more was given back than was paid for what lies behind".to_owned());
                }
                AccountKey::Revenue => self.totals.revenue = balance.available(),
                AccountKey::Onward => self.totals.onward = balance.available(),
                AccountKey::Owed(_) if balance.credits > balance.debits => {
                    self.findings.push("more was settled than was owed".to_owned());
                }
                AccountKey::Transit if balance.debits > balance.credits => {
                    self.findings.push("more came out of vouchers than went in".to_owned());
                }
                AccountKey::Owed(_) => self.totals.owed += balance.debits - balance.credits,
                AccountKey::Issue | AccountKey::Transit => {}
            }
        }
        Ok(())
    }

    fn mail(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let mut pooled = BTreeSet::new();
        SPOOL.scan(read, ALL, |id, row| {
            self.totals.queued += 1;
            *self.references.entry(row.body).or_default() += 1;
            if row.due == NEVER_DUE {
                pooled.insert(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut waiting = BTreeSet::new();
        POOL.scan(read, ALL, |id, mix| {
            if mix.waits() {
                waiting.insert(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if waiting != pooled {
            self.finding("the pool differs from the deliveries that are not due");
        }
        DEPOSITS.scan(read, ALL_PAIRS, |(account, _), row| {
            if let Some(held) = row.held {
                self.totals.deposits += 1;
                *self.deposits.entry(account).or_default() += 1;
                *self.references.entry(held.body).or_default() += 1;
                if let Some(device) = self.devices.get(&account) {
                    *self.shares.entry((device.house, held.body)).or_default() += 1;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ANSWERS.scan(read, ALL_PAIRS, |(account, seq), _| {
            self.answers.entry(account).or_default().push(seq);
            Ok(ControlFlow::Continue(()))
        })?;
        ALIASES.scan(read, ([0; 32], [255; 32]), |_, row| {
            self.totals.aliases += u64::from(row.open);
            if row.open && self.ended.contains_key(&row.account) {
                self.finding("an account that has ended has an open alias");
            }
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

    /// What lapsed is in the journal, and nothing is left of it.
    fn expiries(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        EXPIRIES.scan(read, ALL, |account, row| {
            self.ended.extend(row.lapsed.map(|lapsed| (account, lapsed)));
            Ok(ControlFlow::Continue(()))
        })?;
        let without = |(account, lapsed): (&u64, &Lapsed)| (lapsed.value > 0).then_some((*account, lapsed.value));
        if !self.ended.iter().filter_map(without).eq(self.lapsed.clone()) {
            self.finding("the value that lapsed is not that of the accounts that ended");
        }
        for account in self.ended.clone().into_keys() {
            let left = self
                .journal
                .get(&AccountKey::Holder(account))
                .map_or(0, Balance::available);
            match ACCOUNTS.get(read, account)? {
                Some(row) if left == 0 && row.keys_left() <= KEYS_RESERVED => {}
                Some(_) => self.finding("an account that has ended has value or keys"),
                None => self.finding("an account has ended that is not there"),
            }
        }
        Ok(())
    }

    /// Keys and value that left one account are in another, or in a voucher.
    fn moves(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let (mut keys_given, mut keys_there) = (0u128, 0u128);
        MOVES.scan(read, ALL, |account, row| {
            keys_given += u128::from(row.keys_given);
            keys_there += u128::from(row.keys_received);
            // One that another account made has nothing but what came to it.
            let lapsed = self.ended.get(&account).map_or(0, |lapsed| lapsed.keys);
            let drawn = CREDITS.get(read, account)?.map_or(0, |credit| credit.keys);
            let kept = (row.keys_received + drawn).checked_sub(row.keys_given + lapsed);
            match ACCOUNTS.get(read, account)? {
                None => self.finding("keys were moved that belong to no account"),
                Some(account) if row.birth.is_some() && kept != Some(account.link_keys) => {
                    self.finding("the link keys of an account differ from those that came to it");
                }
                Some(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut value = 0u128;
        VOUCHERS.scan(read, ([0; 32], [255; 32]), |_, row| {
            if row.taker.is_none() {
                keys_there += u128::from(row.keys);
                value += u128::from(row.value);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if keys_given != keys_there {
            self.finding("link keys that were given away are not those that arrived or wait in vouchers");
        }
        let transit = self.journal.get(&AccountKey::Transit).copied().unwrap_or_default();
        if u128::from(transit.available()) != value {
            self.finding("the value in vouchers differs from what is on its way");
        }
        Ok(())
    }

    /// Every device is of one house, which has its value and its aliases.
    fn houses(&mut self, read: &View<'_>) -> Result<(), StoreError> {
        let devices = std::mem::take(&mut self.devices);
        let mut members: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
        for (account, device) in &devices {
            let is_house = devices
                .get(&device.house)
                .is_some_and(|house| house.house == device.house);
            let Some(row) = ACCOUNTS.get(read, *account)?.filter(|_| is_house) else {
                self.finding("a device belongs to no account");
                continue;
            };
            if device.house != *account && self.journal.contains_key(&AccountKey::Holder(*account)) {
                self.finding("a device has value of its own");
            }
            if device.dropped && row.keys_left() > 0 {
                self.finding("a device that was dropped has link keys");
            }
            let of_house = members.entry(device.house).or_default();
            if !device.dropped {
                of_house.push((device.number, *account));
            }
        }
        HOUSES.scan(read, ALL, |house, row| {
            let mut kept = members.remove(&house).unwrap_or_default();
            kept.sort_unstable();
            let is_same = kept.iter().map(|(_, account)| *account).eq(row.members.iter().copied());
            if !is_same || row.members.is_empty() || kept.iter().any(|(number, _)| *number >= row.next) {
                self.finding("the devices of an account differ from its list of them");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !members.is_empty() {
            self.finding("devices belong to no account");
        }
        let shares = std::mem::take(&mut self.shares);
        SHARES.scan(read, ALL_PAIRS, |at, row| {
            if shares.get(&at) != Some(&row.copies) {
                self.finding("the devices that a body waits for differ from its count");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ALIASES.scan(read, ([0; 32], [255; 32]), |_, row| {
            if devices
                .get(&row.account)
                .is_some_and(|device| device.house != row.account)
            {
                self.finding("an alias belongs to one device alone");
            }
            Ok(ControlFlow::Continue(()))
        })
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
