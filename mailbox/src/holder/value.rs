//! What was last heard of aliases, value and prices, and when the pack was first used.

use std::sync::Arc;

use ledger::{Onward, PriceList};

use super::rows::{ONWARD, OnwardRow, ROTATION, write_aliases};
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::{HolderAlias, ValueMirror};
use crate::index::Write;
use crate::tables::Single;

/// Most aliases that are remembered.
const ALIASES_MAX: usize = 4_096;

impl HolderStage {
    pub(super) fn first_use(&mut self, write: &Write<'_>, now: u64) -> Result<u64, StoreError> {
        let mut row = ROTATION.get(write, Single)?.ok_or(StoreError::NoRow)?;
        let first_use = *row.first_use.get_or_insert(now);
        ROTATION.put(write, Single, &row)?;
        Ok(first_use)
    }

    pub(super) fn alter_alias(
        &mut self,
        write: &Write<'_>,
        address: &str,
        change: impl Fn(&mut HolderAlias),
    ) -> Result<HolderAlias, StoreError> {
        let known = self.books.aliases.iter().find(|known| known.address == address);
        let mut alias = known.cloned().ok_or(StoreError::NoRow)?;
        change(&mut alias);
        self.put_alias(write, &alias)?;
        Ok(alias)
    }

    pub(super) fn put_alias(&mut self, write: &Write<'_>, alias: &HolderAlias) -> Result<(), StoreError> {
        let mut aliases = self.books.aliases.to_vec();
        match aliases.iter().position(|known| known.address == alias.address) {
            Some(position) => aliases[position] = alias.clone(),
            None if aliases.len() >= ALIASES_MAX => return Err(StoreError::Busy),
            None => aliases.push(alias.clone()),
        }
        write_aliases(write, &aliases)?;
        self.books.aliases = Arc::new(aliases);
        Ok(())
    }

    pub(super) fn put_onward(&mut self, write: &Write<'_>, onward: &Onward) -> Result<(), StoreError> {
        let domains = onward.domains.iter().map(|(domain, leg)| (domain.clone(), *leg));
        let row = OnwardRow {
            version: onward.version,
            elsewhere: onward.elsewhere,
            domains: domains.collect(),
        };
        ONWARD.put(write, Single, &row)?;
        self.books.onward = Arc::new(onward.clone());
        Ok(())
    }

    /// `None` leaves the prices as they were last heard.
    pub(super) fn put_value(
        &mut self,
        write: &Write<'_>,
        value: ValueMirror,
        prices: Option<PriceList>,
    ) -> Result<(), StoreError> {
        self.books.state.value = value;
        // The relay says how many keys are left behind the one in use. A copy of before keys were moved learns it here. On
        // a link that goes on under new keys the number may be of a key that is not answered yet.
        let link = &self.books.state.link;
        let rotates = ROTATION.get(write, Single)?.is_some();
        if let Some(answered) = link.answered.filter(|_| value.at > 0 && !rotates)
            && let Some(end) = value.keys.checked_add(answered + 1)
        {
            self.follow_extent(end);
        }
        self.books.state.prices = prices.or(self.books.state.prices);
        self.tell_time(value.at);
        self.put_state(write)
    }
}
