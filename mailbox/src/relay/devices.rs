//! Several devices of one account: each has a sequence of its own, and all have the same value, aliases and mail.
//!
//! ```text
//! house      the account that was first: its balance, its journal, its aliases, for as long as there are devices
//! device     an account of its own in all else: link, post and parcel chains, link keys, changes, answers, deposits
//! join       keys of one device -> a new one, whose root the holder drew                       one commit
//! drop       all keys of another device -> the one that asks; its chains end                   one commit
//! ```
//!
//! An account without a row in `DEVICES` is alone and its own house. Mail for the house is deposited once for each device
//! of that moment: one body, and a wrap under the next post key of each. The house stays what it is when the device that was
//! first is dropped.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use keypacks::Secret;
use keypacks::kdf;
use keypacks::pack::Identifier;

use super::RelayFiles;
use super::accounts::rotation;
use super::chains::Chains;
use super::changes::Execution;
use super::live::Effect;
use super::moves::{Moved, SPLITS_PER_DAY, may_part, moves_of_new};
use super::rows::{
    ACCOUNTS, AccountRow, DEPOSITS, DEVICES, DeviceRow, HOUSES, HouseRow, MOVES, PARCELS, ROOTS, SHARES, SKIPPED,
    ShareRow, all_of,
};
use super::stage::RelayStage;
use crate::StoreError;
use crate::bodies::BodyName;
use crate::devices::Event;
use crate::index::{Source, View, Write};
use crate::relay_store::{Account, IssueOrder};
use crate::request::{Answer, DEVICES_MAX, Device, Refusal};

mod events;

/// Deposits of dropped devices that one commit deletes.
const SLICE: usize = 256;

/// A device that is to be made.
pub(super) struct Join {
    pub(super) identifier: Identifier,
    pub(super) root: Secret<32>,
    pub(super) keys: u64,
}

impl RelayStage {
    /// The row of an account that shares. Most do not, and memory knows it.
    fn device(&self, write: &Write<'_>, account: u64) -> Result<Option<DeviceRow>, StoreError> {
        let is_known = self.shared.live().devices.contains_key(&account);
        match is_known || self.batch.devices.contains(&account) {
            true => DEVICES.get(write, account),
            false => Ok(None),
        }
    }

    fn put_device(&mut self, write: &Write<'_>, account: u64, row: &DeviceRow) -> Result<(), StoreError> {
        self.batch.devices.insert(account);
        DEVICES.put(write, account, row)
    }

    /// The account whose value and aliases these are.
    pub(super) fn house(&self, write: &Write<'_>, account: u64) -> Result<u64, StoreError> {
        Ok(self.device(write, account)?.map_or(account, |device| device.house))
    }

    /// Whether the device was dropped.
    pub(super) fn is_dropped(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        Ok(self.device(write, account)?.is_some_and(|device| device.dropped))
    }

    /// The accounts of a house that were not dropped.
    pub(super) fn members(&self, write: &Write<'_>, house: u64) -> Result<Vec<u64>, StoreError> {
        match self.device(write, house)? {
            None => Ok(vec![house]),
            Some(_) => Ok(HOUSES.get(write, house)?.ok_or(StoreError::Corrupt)?.members),
        }
    }

    /// Those of several devices that anything can be sealed for: one whose slot is lost does not keep mail from the others. If
    /// there is no other, all.
    pub(super) fn reachable(&self, members: Vec<u64>) -> Vec<u64> {
        if members.iter().all(|member| self.is_lost(*member)) {
            return members;
        }
        members.into_iter().filter(|member| !self.is_lost(*member)).collect()
    }

    /// Whether an account's slot is lost, or contradicts the database.
    fn is_lost(&self, account: u64) -> bool {
        let live = self.shared.live();
        live.accounts.get(account).is_some_and(|live| live.chains.is_lost())
    }

    /// Whether an account has other devices beside it.
    pub(super) fn is_shared(&self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        let house = self.house(write, account)?;
        Ok(self.members(write, house)?.len() > 1)
    }

    /// Link keys left of all devices of a house together.
    pub(super) fn house_keys(&self, write: &Write<'_>, house: u64) -> Result<u64, StoreError> {
        let mut keys: u64 = 0;
        for member in self.members(write, house)? {
            let row = ACCOUNTS.get(write, member)?.ok_or(StoreError::Corrupt)?;
            keys = keys.saturating_add(row.keys_left());
        }
        Ok(keys)
    }

    /// Who has what was an account's: itself, or another device of its house if it was dropped.
    pub(super) fn heir(&self, write: &Write<'_>, account: u64) -> Result<u64, StoreError> {
        match self.device(write, account)? {
            Some(device) if device.dropped => {
                let members = self.members(write, device.house)?;
                members.first().copied().ok_or(StoreError::Corrupt)
            }
            _ => Ok(account),
        }
    }

    /// Writes down that a device had a link.
    pub(super) fn note_use(&mut self, write: &Write<'_>, account: u64, day: u32) -> Result<(), StoreError> {
        match self.device(write, account)? {
            Some(row) if row.used != Some(day) => {
                self.put_device(write, account, &DeviceRow { used: Some(day), ..row })
            }
            _ => Ok(()),
        }
    }

    /// Makes another device. Every refusal comes before the first write.
    pub(super) fn join(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        join: &Join,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let giver = order.account;
        let birth = birth(row, join);
        if let Some(before) = self.made_before(write, &join.identifier, birth)? {
            return Ok(before);
        }
        let mut moves = match may_part(write, order, row, join.keys, SPLITS_PER_DAY)? {
            Ok(moves) => moves,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.is_to_end(write, giver)? {
            return Ok(Err(Refusal::Occupied));
        }
        let house = self.house(write, giver)?;
        let mut members = match self.device(write, giver)? {
            Some(_) => HOUSES.get(write, house)?.ok_or(StoreError::Corrupt)?,
            None => HouseRow::default(),
        };
        if members.members.len() >= DEVICES_MAX {
            return Ok(Err(Refusal::DeviceLimit));
        }

        if members.members.is_empty() {
            members = HouseRow {
                members: vec![giver],
                next: 2,
            };
            self.enter(write, giver, (house, 1), row.day_issued)?;
        }
        row.link_keys -= join.keys;
        moves.keys_given = moves.keys_given.checked_add(join.keys).ok_or(StoreError::Corrupt)?;
        moves.splits += 1;
        MOVES.put(write, giver, &moves)?;
        self.extent(giver, row.link_keys);
        let issue = IssueOrder {
            link_keys: join.keys,
            credit: 0,
            operator: false,
            day: order.day,
            rotation: rotation(write, giver)?,
        };
        let child = self.found(write, &join.identifier, &join.root, &issue)?;
        self.batch.may_be_deposited_to();
        MOVES.put(write, child, &moves_of_new(order.day, join.keys, birth))?;
        let number = members.next;
        members.next += 1;
        let told = members.members.clone();
        members.members.push(child);
        HOUSES.put(write, house, &members)?;
        self.enter(write, child, (house, number), order.day)?;
        let by = self.number(write, giver)?;
        self.tell(
            (write, order.day),
            (giver, row),
            &told,
            &[Event::Joined { device: number, by }],
        )?;
        Ok(Ok(Moved {
            keys: join.keys,
            value: 0,
        }))
    }

    /// Ends another device. Every refusal comes before the first write.
    pub(super) fn drop_device(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        number: u32,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let account = order.account;
        let Some(own) = self.device(write, account)? else {
            return Ok(Err(Refusal::DeviceUnknown));
        };
        let mut house = HOUSES.get(write, own.house)?.ok_or(StoreError::Corrupt)?;
        let mut found = None;
        for member in &house.members {
            let device = self.device(write, *member)?.ok_or(StoreError::Corrupt)?;
            // Whoever ends itself could not be told that it is done.
            if device.number == number && *member != account {
                found = Some((*member, device));
            }
        }
        let Some((other, device)) = found else {
            return Ok(Err(Refusal::DeviceUnknown));
        };
        // By its row alone: what has lost its slot is served nothing more, and is not to stay for ever.
        let mut ended = ACCOUNTS.get(write, other)?.ok_or(StoreError::Corrupt)?;
        let keys = ended.keys_left();
        let Some(end) = row.link_keys.checked_add(keys) else {
            return Ok(Err(Refusal::Malformed));
        };

        ended.link_keys = ended.link_base;
        row.link_keys = end;
        let mut moves = MOVES.get(write, other)?.unwrap_or_default();
        moves.keys_given = moves.keys_given.checked_add(keys).ok_or(StoreError::Corrupt)?;
        MOVES.put(write, other, &moves)?;
        let mut moves = MOVES.get(write, account)?.unwrap_or_default();
        moves.keys_received = moves.keys_received.checked_add(keys).ok_or(StoreError::Corrupt)?;
        MOVES.put(write, account, &moves)?;
        self.extent(other, ended.link_keys);
        self.extent(account, end);
        self.put_account(write, other, &ended)?;
        self.end_skipped(write, other)?;
        self.put_device(
            write,
            other,
            &DeviceRow {
                dropped: true,
                ..device
            },
        )?;
        house.members.retain(|member| *member != other);
        HOUSES.put(write, own.house, &house)?;
        let parcels = PARCELS.get(write, other)?.unwrap_or_default().base;
        let chains = self.chains_of_nobody(write, other, (ended.link_base, ended.post_next, parcels))?;
        self.batch.posts.remove(&other);
        self.batch.parcels.remove(&other);
        self.batch.effects.push(Effect::Dropped { account: other, chains });
        let event = Event::Dropped {
            device: number,
            by: own.number,
        };
        self.tell((write, order.day), (account, row), &house.members, &[event])?;
        Ok(Ok(Moved { keys, value: 0 }))
    }

    /// Makes an account a device of a house.
    fn enter(
        &mut self,
        write: &Write<'_>,
        account: u64,
        (house, number): (u64, u32),
        since: u32,
    ) -> Result<(), StoreError> {
        let row = DeviceRow {
            house,
            number,
            since,
            used: None,
            dropped: false,
        };
        self.put_device(write, account, &row)?;
        self.batch.effects.push(Effect::Joined { account, house });
        Ok(())
    }

    fn number(&self, write: &Write<'_>, account: u64) -> Result<u32, StoreError> {
        Ok(self.device(write, account)?.map_or(1, |device| device.number))
    }

    /// Chains that nobody has another end of: what a device's own would still open is gone with them, and a database that
    /// is put back from before knows no key of it either.
    fn chains_of_nobody(&self, write: &Write<'_>, account: u64, at: (u64, u64, u64)) -> Result<Chains, StoreError> {
        // Not by its chains: this batch may have made it, or its slot may be lost.
        let number = ROOTS.get(write, account)?.map_or(0, |root| root.number);
        let entropy = &self.shared.base.entropy;
        let root = Secret::from_fn(|root| entropy.fill(root));
        Ok(Chains::from_root_at(number, &root, at))
    }

    /// Ends parcel keys that were passed over, and tells nobody.
    fn end_skipped(&mut self, write: &Write<'_>, account: u64) -> Result<(), StoreError> {
        let mut skipped = Vec::new();
        SKIPPED.scan(write, all_of(account), |(_, index), row| {
            skipped.push((index, row));
            Ok(ControlFlow::Continue(()))
        })?;
        if skipped.is_empty() {
            return Ok(());
        }
        let mut place = PARCELS.get(write, account)?.unwrap_or_default();
        for (index, row) in &skipped {
            self.drop_skipped(write, (account, *index), row)?;
        }
        place.skipped = 0;
        PARCELS.put(write, account, &place)
    }

    /// Deletes some deposits of a dropped device. `false`: there are none left.
    fn delete_dropped(&mut self, write: &Write<'_>, account: u64) -> Result<bool, StoreError> {
        if !self.is_dropped(write, account)? {
            return Ok(false);
        }
        let mut rows = Vec::new();
        DEPOSITS.scan(write, all_of(account), |(_, index), row| {
            rows.push((index, row));
            Ok(if rows.len() < SLICE {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        if rows.is_empty() {
            return Ok(false);
        }
        let mut account_row = ACCOUNTS.get(write, account)?.ok_or(StoreError::Corrupt)?;
        for (index, row) in &rows {
            DEPOSITS.remove(write, (account, *index))?;
            if let Some(held) = &row.held {
                self.no_longer_waits(write, account, held)?;
                account_row.deposits -= 1;
            }
        }
        self.put_account(write, account, &account_row)?;
        self.batch.effects.push(Effect::Waiting {
            account,
            count: account_row.deposits,
        });
        Ok(rows.len() == SLICE)
    }

    /// Notes that a body waits for so many devices of a house.
    pub(super) fn share(&self, write: &Write<'_>, at: (u64, BodyName), copies: u32) -> Result<(), StoreError> {
        let before = SHARES.get(write, at)?.unwrap_or_default();
        let copies = before.copies + copies;
        SHARES.put(write, at, &ShareRow { copies, ..before })
    }

    /// Notes that one device has it no more.
    pub(super) fn unshare(&self, write: &Write<'_>, account: u64, body: BodyName) -> Result<(), StoreError> {
        let Some(device) = self.device(write, account)? else {
            return Ok(());
        };
        let at = (device.house, body);
        // None: it came when there was one device.
        let Some(row) = SHARES.get(write, at)? else {
            return Ok(());
        };
        match row.copies.checked_sub(1).ok_or(StoreError::Corrupt)? {
            0 => SHARES.remove(write, at),
            copies => SHARES.put(write, at, &ShareRow { copies, ..row }),
        }
    }

    /// Notes that a body's inbound price was debited, for all devices that it waits for.
    pub(super) fn shared_paid(&self, write: &Write<'_>, at: (u64, BodyName)) -> Result<(), StoreError> {
        match SHARES.get(write, at)? {
            Some(row) => SHARES.put(write, at, &ShareRow { paid: true, ..row }),
            None => Ok(()),
        }
    }
}

/// Whether another device of the house was served a body, and it is paid for.
pub(super) fn is_paid(source: &impl Source, at: (u64, BodyName)) -> Result<bool, StoreError> {
    Ok(SHARES.get(source, at)?.is_some_and(|share| share.paid))
}

/// By what a device is known when it is asked for once more. Never what a pack that was split off is known by.
fn birth(giver: &AccountRow, join: &Join) -> [u8; 32] {
    kdf::hash(&[
        join.root.expose(),
        &join.identifier.0,
        &giver.identifier,
        b"device".as_slice(),
    ])
}

/// All rows of devices.
pub(super) fn load(read: &View<'_>) -> Result<BTreeMap<u64, DeviceRow>, StoreError> {
    let mut devices = BTreeMap::new();
    DEVICES.scan(read, (0, u64::MAX), |account, row| {
        devices.insert(account, row);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(devices)
}

impl RelayFiles {
    /// The account whose value and aliases these are.
    pub(super) fn house_of(&self, account: u64) -> u64 {
        let live = self.shared.live();
        live.devices.get(&account).copied().unwrap_or(account)
    }

    pub(super) fn read_devices(&self, account: Account) -> Result<Answer, StoreError> {
        let read = &self.shared.base.view()?;
        let Some(own) = DEVICES.get(read, account.0)? else {
            return Ok(Answer::Devices {
                own: 1,
                devices: Vec::new(),
            });
        };
        let house = HOUSES.get(read, own.house)?.ok_or(StoreError::Corrupt)?;
        let mut devices = Vec::with_capacity(house.members.len());
        for member in house.members {
            let device = DEVICES.get(read, member)?.ok_or(StoreError::Corrupt)?;
            let row = ACCOUNTS.get(read, member)?.ok_or(StoreError::Corrupt)?;
            devices.push(Device {
                number: device.number,
                since: device.since,
                used: device.used,
                keys: row.keys_left(),
            });
        }
        Ok(Answer::Devices {
            own: own.number,
            devices,
        })
    }

    pub(super) fn read_other_device(&self, account: Account, number: u32) -> Result<Option<Account>, StoreError> {
        let read = &self.shared.base.view()?;
        let Some(own) = DEVICES.get(read, account.0)? else {
            return Ok(None);
        };
        let house = HOUSES.get(read, own.house)?.ok_or(StoreError::Corrupt)?;
        for member in house.members.into_iter().filter(|member| *member != account.0) {
            let device = DEVICES.get(read, member)?.ok_or(StoreError::Corrupt)?;
            if device.number == number {
                return Ok(Some(Account(member)));
            }
        }
        Ok(None)
    }

    /// Deletes what waits for devices that were dropped. Those that nothing waits for cost no commit.
    pub(super) async fn clear_dropped(&self) -> Result<(), StoreError> {
        let dropped: Vec<u64> = self.shared.live().devices.keys().copied().collect();
        for account in dropped {
            self.clear(account).await?;
        }
        Ok(())
    }

    /// Deletes what waits for a device, if it was dropped.
    pub(super) async fn clear(&self, account: u64) -> Result<(), StoreError> {
        let has_rows = || {
            let live = self.shared.live();
            let live = live.accounts.get(account);
            live.is_some_and(|live| live.dropped && live.waiting > 0)
        };
        while has_rows()
            && self
                .committer
                .run(move |stage, write| stage.delete_dropped(write, account))
                .await?
        {}
        Ok(())
    }
}
