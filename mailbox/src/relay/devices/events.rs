//! What the devices of a house are told of each other.

use std::sync::Arc;

use super::super::deposits::{Deposit, Quota};
use super::super::parcels::after_a_write;
use super::super::rows::{ALIASES, AccountRow};
use super::super::stage::RelayStage;
use crate::StoreError;
use crate::devices::{EVENTS, EVENTS_WAITING_MAX, Event, encode_events};
use crate::index::Write;
use crate::relay_store::Account;

impl RelayStage {
    /// Tells all devices how these aliases stand. Those that are not the account's are passed over.
    pub(in crate::relay) fn tell_aliases(
        &mut self,
        (write, day): (&Write<'_>, u32),
        (account, row): (u64, &mut AccountRow),
        addresses: &[String],
    ) -> Result<(), StoreError> {
        let house = self.house(write, account)?;
        let members = self.members(write, house)?;
        if members.len() < 2 {
            return Ok(());
        }
        let mut events = Vec::new();
        for address in addresses {
            let name = self.shared.alias_name(address);
            if let Some(alias) = ALIASES.get(write, name)?.filter(|alias| alias.account == house) {
                events.push(Event::Alias {
                    number: alias.number,
                    address: address.clone(),
                    open: alias.open,
                });
            }
        }
        self.tell((write, day), (account, row), &members, &events)
    }

    /// Whether all devices of an account have room for another event.
    pub(in crate::relay) fn may_tell(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        let house = self.house(write, account)?;
        let members = self.members(write, house)?;
        if members.len() < 2 {
            return Ok(true);
        }
        for member in self.reachable(members) {
            if self.waiting(write, member, EVENTS)? >= EVENTS_WAITING_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the others that a copy of this device's pack was in use.
    pub(in crate::relay) fn tell_frozen(
        &mut self,
        (write, day): (&Write<'_>, u32),
        (account, row): (u64, &mut AccountRow),
    ) -> Result<(), StoreError> {
        let Some(own) = self.device(write, account)? else {
            return Ok(());
        };
        let mut others = self.members(write, own.house)?;
        others.retain(|member| *member != account);
        let event = Event::Frozen { device: own.number };
        self.tell((write, day), (account, row), &others, &[event])
    }

    /// A deposit of its own kind for each of these devices: free, beside the quotas of the aliases, shown in no folder.
    /// `row`: that of the account whose caller keeps it.
    pub(in crate::relay) fn tell(
        &mut self,
        (write, day): (&Write<'_>, u32),
        (account, row): (u64, &mut AccountRow),
        members: &[u64],
        events: &[Event],
    ) -> Result<(), StoreError> {
        let members: Vec<u64> = members
            .iter()
            .copied()
            .filter(|member| !self.is_lost(*member))
            .collect();
        if members.is_empty() || events.is_empty() {
            return Ok(());
        }
        let entropy = Arc::clone(&self.shared.base.entropy);
        let recipients = members.iter().map(|member| (Account(*member), EVENTS)).collect();
        let deposit = Deposit::of_own(&*entropy, recipients, &encode_events(events), day)?;
        self.put_account(write, account, row)?;
        self.deposit(write, &deposit, Quota::Waived).map_err(after_a_write)?;
        *row = self.account(write, account)?;
        Ok(())
    }
}
