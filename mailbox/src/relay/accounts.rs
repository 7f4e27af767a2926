//! Accounts: issue, burning of link keys, value.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::Write;
use keypacks::chain::{LINK_KEYS_MIN, LINK_LOOK_AHEAD, LinkStep};
use keypacks::pack::Identifier;
use keypacks::pad::Half;
use keypacks::rotation::Policy;
use keypacks::{Secret, Tag};
use ledger::{AccountKey, Kind, LedgerError, Onward, PriceList, Services, StatementEntry, Transfer};

use super::books::{balance, charge, store_error};
use super::chains::{Chains, KeptChains};
use super::live::{Effect, FoundTag, LiveAccount, index_of};
use super::rows::{
    ACCOUNTS, AccountRow, IDENTIFIERS, JOURNAL, ONWARD, OnwardRow, RECOVERED, ROTATIONS, RecoveredRow, SETTINGS, all_of,
};
use super::stage::RelayStage;
use super::{RelayFiles, Shared, roots};
use crate::StoreError;
use crate::entropy::random;
use crate::index::Source;
use crate::relay_store::{Account, BurnOrder, Burned, IssueOrder, Issued, Rotated, StatementRow, TagHit};
use crate::request::{Answer, POSTINGS_MAX, SERVICES_MAX};
use crate::slots::SlotUpdate;
use crate::tables::Single;

/// Numbers of changes that are passed over after a restore: more than a holder can have given out and not had answered.
const NUMBERS_PASSED_OVER: u64 = 1 << 20;

impl RelayStage {
    /// The slot is written when the batch is complete, before its commit ([`crate::commit::Stage::prepare`]).
    /// `half`: the other half of its pad, without which the root that is handed out opens nothing.
    pub(super) fn issue(
        &mut self,
        write: &Write<'_>,
        order: &IssueOrder,
        half: Option<&Half>,
    ) -> Result<Issued, StoreError> {
        if order.link_keys < LINK_KEYS_MIN {
            return Err(StoreError::Invalid);
        }
        let shared = Arc::clone(&self.shared);
        let entropy = &*shared.base.entropy;
        let root = Secret::from_fn(|root| entropy.fill(root));
        let identifier = Identifier(random(entropy));
        let account = match half {
            Some(half) => self.found(write, &identifier, &half.join(&root), order)?,
            None => self.found(write, &identifier, &root, order)?,
        };
        if order.credit > 0 {
            let transfer = Transfer::top_up(random(entropy), account, order.credit, order.day);
            ledger::post(&mut self.books(write, account), transfer).map_err(store_error)?;
        }
        Ok(Issued {
            account: Account(account),
            identifier,
            root,
        })
    }

    /// Makes an account of this name and root, without its value.
    pub(super) fn found(
        &mut self,
        write: &Write<'_>,
        identifier: &Identifier,
        root: &Secret<32>,
        order: &IssueOrder,
    ) -> Result<u64, StoreError> {
        let mut settings = SETTINGS.get(write, Single)?.unwrap_or_default();
        let account = settings.next_account;
        let chains = Chains::from_root(root);
        self.batch.slots.push(SlotUpdate {
            slot: account,
            commit: self.commit,
            state: chains.to_state(),
        });
        let row = new_account(identifier, order);
        self.put_account(write, account, &row)?;
        let name = self.shared.base.vault.name("identifier", &identifier.0);
        IDENTIFIERS.put(write, name, &account)?;
        settings.next_account += 1;
        if order.operator {
            settings.operator = Some(account);
        }
        SETTINGS.put(write, Single, &settings)?;
        if let generation @ 1.. = self.shared.generation {
            RECOVERED.put(write, account, &RecoveredRow { generation, stale: 0 })?;
        }
        if order.rotation.rotates() {
            ROTATIONS.put(write, account, &order.rotation.encode())?;
        }
        let (link_keys, operator) = (order.link_keys, order.operator);
        self.batch.effects.push(Effect::Issued {
            account,
            chains,
            link_keys,
            operator,
            on_pad: false,
        });
        Ok(account)
    }

    pub(super) fn top_up(
        &mut self,
        write: &Write<'_>,
        identifier: &Identifier,
        amount: u64,
        id: [u8; 16],
        day: u32,
    ) -> Result<Option<u64>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let Some(account) = account_of(write, &shared, identifier)? else {
            return Ok(None);
        };
        let account = self.house(write, account)?;
        let mut books = self.books(write, account);
        let before = ledger::Accounts::seen(&books, &id)?;
        if before.is_none() && (self.house_keys(write, account)? == 0 || self.has_ended(write, account)?) {
            // Nothing could ever spend it: keys and value end together.
            return Err(StoreError::Invalid);
        }
        // A repetition on another day is still the same transfer.
        let day = before.map_or(day, |before| before.day);
        ledger::post(&mut books, Transfer::top_up(id, account, amount, day)).map_err(|error| match error {
            LedgerError::Conflict | LedgerError::Overflow => StoreError::Invalid,
            error => store_error(error),
        })?;
        Ok(Some(balance(write, AccountKey::Holder(account))?.available()))
    }

    pub(super) fn burn(&mut self, write: &Write<'_>, order: &BurnOrder) -> Result<Option<Burned>, StoreError> {
        let account = order.account.0;
        let mut row = self.account(write, account)?;
        if !row.is_live(order.index) || self.is_dropped(write, account)? {
            return Ok(None);
        }
        let root = self.root(write, account)?;
        let Some(is_replaced) = roots::is_replaced(root.as_ref(), order.root) else {
            return Ok(None);
        };
        let recovers = self.recover(write, account, &mut row, order.answered)?;
        // What this database knows of tokens is from before it was restored, if it was just now.
        // Under the root before nobody is heard of but who asks for the answer: tokens stay as they are.
        let (token, token_mismatch) = match is_replaced {
            true => (order.token, false),
            false => (order.fresh, !row.show_token(order.token, order.fresh, recovers)),
        };
        self.spend_key(write, account, &mut row, order.index, order.day)?;
        let (is_frozen, froze) = match root {
            None => (false, false),
            Some(root) => self.linked(write, account, root, (is_replaced, token_mismatch), row.link_base)?,
        };
        self.note_use(write, account, order.day)?;
        if froze {
            self.tell_frozen((write, order.day), (account, &mut row))?;
            self.put_account(write, account, &row)?;
        }
        Ok(Some(Burned {
            index: order.index,
            token,
            highest: row.seq_highest,
            floor: row.seq_floor,
            token_mismatch,
            rolled_back: order.answered > row.seq_highest,
            generation: self.shared.generation,
            keys_left: row.keys_left(),
            rotation: rotation(write, account)?,
            is_replaced,
            is_frozen,
            froze,
        }))
    }

    /// The first link of an account after a restore: what its holder sent before and got no answer to may have been
    /// carried out, and is not carried out again. All that is known of its numbers is the last one whose answer it has.
    fn recover(
        &mut self,
        write: &Write<'_>,
        account: u64,
        row: &mut AccountRow,
        answered: u64,
    ) -> Result<bool, StoreError> {
        let generation = self.shared.generation;
        if generation == 0 {
            return Ok(false);
        }
        let before = RECOVERED.get(write, account)?.unwrap_or_default();
        if before.generation >= generation {
            return Ok(false);
        }
        let stale = answered.max(row.seq_highest).saturating_add(NUMBERS_PASSED_OVER);
        row.seq_highest = stale;
        RECOVERED.put(write, account, &RecoveredRow { generation, stale })?;
        Ok(true)
    }

    pub(super) fn rotate(
        &mut self,
        write: &Write<'_>,
        account: u64,
        index: u64,
        day: u32,
    ) -> Result<Option<Rotated>, StoreError> {
        let mut row = self.account(write, account)?;
        if !row.is_live(index) || self.is_dropped(write, account)? {
            return Ok(None);
        }
        self.spend_key(write, account, &mut row, index, day)?;
        Ok(Some(Rotated {
            index,
            keys_left: row.keys_left(),
        }))
    }

    /// Debits a period of cover, whole or not at all.
    pub(super) fn charge_cover(
        &mut self,
        write: &Write<'_>,
        account: u64,
        amount: u64,
        day: u32,
    ) -> Result<bool, StoreError> {
        if self.is_dropped(write, account)? || self.is_frozen(write, account)? {
            return Ok(false);
        }
        let house = self.house(write, account)?;
        if balance(write, AccountKey::Holder(house))?.available() < amount {
            return Ok(false);
        }
        if amount > 0 {
            let shared = Arc::clone(&self.shared);
            charge(
                &mut self.books(write, house),
                &*shared.base.entropy,
                (house, amount),
                Kind::Cover,
                day,
            )?;
        }
        Ok(true)
    }

    /// Burns the indices up to one and debits its price. The last key costs whatever is left: keys and value end together.
    fn spend_key(
        &mut self,
        write: &Write<'_>,
        account: u64,
        row: &mut AccountRow,
        index: u64,
        day: u32,
    ) -> Result<(), StoreError> {
        row.link_base = index + 1;
        self.put_account(write, account, row)?;
        let shared = Arc::clone(&self.shared);
        let house = self.house(write, account)?;
        let value = balance(write, AccountKey::Holder(house))?.available();
        let price = match row.keys_left() {
            0 if self.house_keys(write, house)? == 0 => value,
            _ => shared.live().prices.key.min(value),
        };
        if price > 0 {
            charge(
                &mut self.books(write, house),
                &*shared.base.entropy,
                (house, price),
                Kind::Key,
                day,
            )?;
        }
        self.batch.effects.push(Effect::Burned {
            account,
            base: row.link_base,
        });
        Ok(())
    }

    /// Puts the prices of the legs behind this relay in force, unless they are already.
    pub(super) fn set_onward(&mut self, write: &Write<'_>, wanted: &Onward) -> Result<(), StoreError> {
        let row = OnwardRow {
            elsewhere: wanted.elsewhere,
            domains: wanted
                .domains
                .iter()
                .map(|(domain, leg)| (domain.clone(), *leg))
                .collect(),
        };
        let before = ONWARD.get(write, Single)?.unwrap_or_default();
        if row == before {
            return Ok(());
        }
        let mut settings = SETTINGS.get(write, Single)?.unwrap_or_default();
        settings.prices.version += 1;
        SETTINGS.put(write, Single, &settings)?;
        ONWARD.put(write, Single, &row)?;
        self.batch.effects.push(Effect::Prices(settings.prices));
        self.batch
            .effects
            .push(Effect::Onward(row.onward(settings.prices.version)));
        Ok(())
    }

    /// Puts a price list in force, unless it is already.
    pub(super) fn set_prices(&mut self, write: &Write<'_>, wanted: PriceList) -> Result<PriceList, StoreError> {
        let mut settings = SETTINGS.get(write, Single)?.unwrap_or_default();
        let before = settings.prices;
        if before.version > 0
            && (PriceList {
                version: before.version,
                ..wanted
            }) == before
        {
            return Ok(before);
        }
        settings.prices = PriceList {
            version: before.version + 1,
            ..wanted
        };
        SETTINGS.put(write, Single, &settings)?;
        self.batch.effects.push(Effect::Prices(settings.prices));
        Ok(settings.prices)
    }
}

impl AccountRow {
    /// Whether a link may be made or go on under this index. The tag table reaches no further than the look-ahead: an
    /// index beyond it was not found there.
    fn is_live(&self, index: u64) -> bool {
        let live = self.link_base..self.link_base.saturating_add(LINK_LOOK_AHEAD).min(self.link_keys);
        live.contains(&index)
    }

    pub(super) fn keys_left(&self) -> u64 {
        self.link_keys.saturating_sub(self.link_base)
    }

    /// Takes the token shown and hands out a fresh one. `false`: neither the acknowledged nor the pending was shown.
    fn show_token(&mut self, shown: [u8; 16], fresh: [u8; 16], take_any: bool) -> bool {
        let known = take_any || self.token == shown || self.token_pending == Some(shown);
        if known {
            self.token = shown;
        } else {
            self.mismatches = self.mismatches.saturating_add(1);
        }
        self.token_pending = Some(fresh);
        known
    }
}

/// A posting of an account's journal as its holder sees it. What was settled moves none of the holder's value.
fn shown_to(account: u64, transfer: &Transfer) -> Option<StatementEntry> {
    let settled = || {
        let is_settled = transfer.credit == AccountKey::Owed(account);
        is_settled.then_some(StatementEntry {
            day: transfer.day,
            kind: transfer.kind,
            credit: 0,
            debit: 0,
        })
    };
    StatementEntry::of(transfer, AccountKey::Holder(account)).or_else(settled)
}

fn new_account(identifier: &Identifier, order: &IssueOrder) -> AccountRow {
    AccountRow {
        identifier: identifier.0,
        day_issued: order.day,
        link_keys: order.link_keys,
        link_base: 0,
        post_next: 0,
        seq_highest: 0,
        seq_floor: 0,
        answers: 0,
        token: [0; 16],
        token_pending: None,
        mismatches: 0,
        alias_next: 0,
        deposits: 0,
    }
}

pub(super) fn rotation(source: &impl Source, account: u64) -> Result<Policy, StoreError> {
    match ROTATIONS.get(source, account)? {
        Some(bytes) => Policy::decode(&bytes).map_err(|_| StoreError::Corrupt),
        None => Ok(Policy::default()),
    }
}

pub(super) fn account_of(
    source: &impl Source,
    shared: &Shared,
    identifier: &Identifier,
) -> Result<Option<u64>, StoreError> {
    let vault = &shared.base.vault;
    IDENTIFIERS.get(source, vault.name("identifier", &identifier.0))
}

impl RelayFiles {
    pub(super) fn tag_hit(&self, tag: &Tag) -> Result<Option<TagHit>, StoreError> {
        let (candidates, old) = {
            let live = self.shared.live();
            (live.candidates(tag), live.find_old_tag(tag))
        };
        let mut failed = None;
        for (account, slot) in candidates {
            match self.live_hit_of(account, slot, tag) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                // The next one may be it.
                Err(error) => failed = Some(error),
            }
        }
        match (old, failed) {
            (None, Some(error)) => Err(error),
            (old, _) => Ok(old.and_then(FoundTag::hit)),
        }
    }

    /// The live link index of an account that is `slot` modulo the look-ahead, if it has this tag.
    fn live_hit_of(&self, account: u64, slot: u64, tag: &Tag) -> Result<Option<TagHit>, StoreError> {
        let link_keys = |live: &LiveAccount| live.has_live_keys().then_some(live.link_keys);
        let found = self
            .shared
            .chains_of(account, |chains| (chains.link(), chains.root()), link_keys)?;
        Ok(found.and_then(|((chain, root), link_keys)| {
            let index = index_of(&chain, link_keys?, tag, slot)?;
            let found = FoundTag {
                account,
                index,
                chain,
                root,
            };
            found.hit()
        }))
    }

    pub(super) fn live_step(&self, account: Account, index: u64) -> Result<Option<LinkStep>, StoreError> {
        let found = self
            .shared
            .chains_of(account.0, KeptChains::link, |live| live.link_keys)?;
        Ok(found.and_then(|(link, link_keys)| {
            let end = link.index().saturating_add(LINK_LOOK_AHEAD).min(link_keys);
            let is_live = (link.index()..end).contains(&index);
            is_live.then(|| link.step_at(index)).flatten()
        }))
    }

    pub(super) fn read_balance(&self, account: Account) -> Result<Answer, StoreError> {
        let base = &self.shared.base;
        let read = &base.view()?;
        let row = ACCOUNTS.get(read, account.0)?.ok_or(StoreError::NoRow)?;
        let value = balance(read, AccountKey::Holder(self.house_of(account.0)))?;
        Ok(Answer::Balance {
            balance: value.available(),
            keys: row.keys_left(),
            credits: value.credits,
            debits: value.debits,
        })
    }

    /// Sums up postings from number `from` on, as many as one answer may: what it costs does not grow with the journal.
    pub(super) fn read_services(&self, account: Account, from: u64) -> Result<Answer, StoreError> {
        // A view and no copy of what the log alone holds: whoever asks pays nothing, and what is read is bounded.
        let read = &self.shared.base.view()?;
        let account = self.house_of(account.0);
        let mut services: Vec<Services> = Vec::new();
        let (mut next, mut more) = (from, false);
        JOURNAL.scan(read, ((account, from), (account, u64::MAX)), |(_, number), transfer| {
            let entry = shown_to(account, &transfer).ok_or(StoreError::Corrupt)?;
            let is_summed = number - from < POSTINGS_MAX
                && (services.iter_mut().rev().any(|sum| sum.take(&entry))
                    || services.len() < SERVICES_MAX && {
                        services.push(Services::from(entry));
                        true
                    });
            if !is_summed {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            next = number + 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Answer::Statement { services, next, more })
    }

    pub(super) fn read_statement(
        &self,
        identifier: &Identifier,
        most: usize,
    ) -> Result<Option<Vec<StatementRow>>, StoreError> {
        let base = &self.shared.base;
        let read = &base.snapshot()?;
        let Some(account) = account_of(read, &self.shared, identifier)? else {
            return Ok(None);
        };
        let account = self.house_of(account);
        let mut rows = Vec::new();
        JOURNAL.scan(read, all_of(account), |_, transfer| {
            if rows.len() == most {
                return Ok(ControlFlow::Break(()));
            }
            let entry = shown_to(account, &transfer).ok_or(StoreError::Corrupt)?;
            let StatementEntry {
                day,
                kind,
                credit,
                debit,
            } = entry;
            rows.push(StatementRow {
                day,
                kind: kind.name().to_owned(),
                credit,
                debit,
            });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Some(rows))
    }
}
