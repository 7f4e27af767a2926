//! Packs at further relays, on both sides of the order (`docs/PROTOCOL.md` section 13).
//!
//! ```text
//! procure    here     the holder -> what is spent behind this relay, the order in a row         one commit with the answer
//! endow      there    the buyer's account -> a new one, whose root nobody on the way knows      one commit with the answer
//! procured   here     the row ends, the holder is told; what was not made is credited again     one commit
//! ```
//!
//! The relay that buys knows whose order it is and not which pack came of it; the one that makes it knows the pack and whose
//! relay bought it. What came of an order is kept at both by a name of the order, for some weeks: whoever lost the answer, or
//! the number that it asked under, gets the same pack again and pays nothing. That it was not made is told once; asked for
//! again, it is ordered again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::kdf;
use keypacks::rotation::Policy;
use ledger::{AccountKey, Transfer};

use super::books::{balance, carry};
use super::changes::Execution;
use super::moves::{Moved, SPLITS_PER_DAY, Split};
use super::parcels::after_a_write;
use super::rows::{
    ACCOUNTS, AccountRow, ENDED, ENDOWED, EndedRow, EndowedRow, PEERS, PROCURED, PROCURING, ProcuringRow,
};
use super::stage::RelayStage;
use super::{RelayFiles, Shared};
use crate::StoreError;
use crate::devices::{EVENTS, EVENTS_WAITING_MAX, Event};
use crate::entropy::random;
use crate::index::{Source, Write};
use crate::relay_store::{Endowment, Procure, Procured, Procurement, ProcurementId};
use crate::request::{Answer, Refusal};

/// Most orders that are under way at one time, and of one account.
pub const PROCURING_MAX: usize = 1_024;
const PROCURING_EACH_MAX: u64 = 16;
/// Most packs that an account which sends for a domain, as another relay does, makes in a day.
pub const ENDOWED_PER_DAY: u32 = 1_024;
/// Days that an order is known again when it comes under another number.
pub const ENDOWED_DAYS: u32 = 30;

impl RelayStage {
    /// Takes an order. Every refusal comes before the first write. Returns what was debited: nothing, if it is known. `row`:
    /// that of the account, which the caller keeps.
    pub(super) fn procure(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        what: &Procure,
    ) -> Result<Result<u64, Refusal>, StoreError> {
        let house = self.house(write, order.account)?;
        let (mut all, mut own, mut known) = (0usize, 0u64, None);
        PROCURING.scan(write, (0, u64::MAX), |id, row| {
            all += 1;
            if row.house == house {
                own += 1;
                if row.kem == what.kem {
                    known = Some((id, row));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some((id, under_way)) = known {
            // The holder lost the answer and asks under another number, or at another device: who asked last is told.
            let account = order.account;
            PROCURING.put(write, id, &ProcuringRow { account, ..under_way })?;
            return Ok(Ok(0));
        }
        let waiting = self.waiting(write, order.account, EVENTS)?;
        if waiting.saturating_add(own) >= EVENTS_WAITING_MAX {
            return Ok(Err(Refusal::Limit));
        }
        let before = ENDED.get(write, self.shared.ended_name(&what.kem))?;
        if let Some(ended) = before.filter(|ended| ended.house == house) {
            let event = Event::Procured {
                order: kdf::hash(&[&what.kem]),
                ciphertext: ended.ciphertext,
                confirm: ended.confirm,
            };
            self.tell((write, order.day), (order.account, row), &[order.account], &[event])?;
            return Ok(Ok(0));
        }
        if all >= PROCURING_MAX || own >= PROCURING_EACH_MAX {
            return Ok(Err(Refusal::Limit));
        }
        let value = balance(write, AccountKey::Holder(house))?.available();
        if what.price > value {
            return Ok(Err(Refusal::Value {
                shortfall: what.price - value,
            }));
        }
        let mut sums = PROCURED.get(write, house)?.unwrap_or_default();
        let onward = balance(write, AccountKey::Onward)?;
        let (Some(_), Some(ordered)) = (onward.credited(what.price), sums.ordered.checked_add(what.price)) else {
            return Ok(Err(Refusal::Malformed));
        };
        let shared = Arc::clone(&self.shared);
        let entropy = &*shared.base.entropy;
        let mut id = u64::from_le_bytes(random(entropy));
        while PROCURING.get(write, id)?.is_some() {
            id = id.wrapping_add(1);
        }
        let transfer = Transfer::procured(random(entropy), house, what.price, order.day);
        carry(&mut self.books(write, house), transfer)?;
        sums.ordered = ordered;
        PROCURED.put(write, house, &sums)?;
        let under_way = ProcuringRow {
            account: order.account,
            house,
            peer: what.peer.clone(),
            kem: what.kem.clone(),
            dh: what.dh,
            keys: what.keys,
            value: what.value,
            price: what.price,
            day: order.day,
        };
        PROCURING.put(write, id, &under_way)?;
        Ok(Ok(what.price))
    }

    /// See [`crate::RelayStore::procured`].
    fn procured(
        &mut self,
        write: &Write<'_>,
        ProcurementId(id): ProcurementId,
        outcome: &Procured,
        day: u32,
    ) -> Result<(), StoreError> {
        let Some(order) = PROCURING.get(write, id)? else {
            return Ok(());
        };
        let house = order.house;
        let mut sums = PROCURED.get(write, house)?.ok_or(StoreError::Corrupt)?;
        let part = match outcome {
            Procured::Made { .. } => &mut sums.made,
            Procured::Returned => &mut sums.returned,
        };
        *part = part.checked_add(order.price).ok_or(StoreError::Corrupt)?;
        let named = kdf::hash(&[&order.kem]);
        let event = match outcome {
            Procured::Made { ciphertext, confirm } => Event::Procured {
                order: named,
                ciphertext: ciphertext.clone(),
                confirm: *confirm,
            },
            Procured::Returned => Event::NotProcured { order: named },
        };
        // First, since it may be refused for want of room. Whose slot is lost cannot be told.
        let heir = self.heir(write, order.account)?;
        let mut row = ACCOUNTS.get(write, heir)?.ok_or(StoreError::Corrupt)?;
        self.tell((write, day), (heir, &mut row), &[heir], &[event])?;
        if let Procured::Made { ciphertext, confirm } = outcome {
            let ended = EndedRow {
                house,
                peer: order.peer.clone(),
                keys: order.keys,
                value: order.value,
                price: order.price,
                day,
                ciphertext: ciphertext.clone(),
                confirm: *confirm,
            };
            ENDED
                .put(write, self.shared.ended_name(&order.kem), &ended)
                .map_err(after_a_write)?;
        }
        PROCURED.put(write, house, &sums)?;
        PROCURING.remove(write, id)?;
        if matches!(outcome, Procured::Returned) {
            let transfer = Transfer::returned(random(&*self.shared.base.entropy), house, order.price, day);
            carry(&mut self.books(write, house), transfer).map_err(after_a_write)?;
            let mut row = ACCOUNTS.get(write, house)?.ok_or(StoreError::Corrupt)?;
            self.lapse_again(write, (house, &mut row), day).map_err(after_a_write)?;
            self.put_account(write, house, &row)?;
        }
        Ok(())
    }

    /// Whether orders of an account are under way, whose packs or values come back to it.
    pub(super) fn has_orders(&self, write: &Write<'_>, house: u64) -> Result<bool, StoreError> {
        let mut found = false;
        PROCURING.scan(write, (0, u64::MAX), |_, row| {
            found |= row.house == house;
            Ok(match found {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        Ok(found)
    }

    /// What an account was answered to the same order under another number.
    pub(super) fn endowed_before(
        &self,
        write: &Write<'_>,
        account: u64,
        order: &Endowment,
    ) -> Result<Option<EndowedRow>, StoreError> {
        let known = ENDOWED.get(write, self.endowed_name(order))?;
        Ok(known.filter(|known| known.giver == account))
    }

    fn endowed_name(&self, order: &Endowment) -> [u8; 32] {
        self.shared.base.vault.name("endowed", &order.order)
    }

    /// Makes an account for somebody unknown. Every refusal comes before the first write.
    pub(super) fn endow(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        what: &Endowment,
    ) -> Result<Result<Answer, Refusal>, StoreError> {
        let seq = order.change.seq;
        let answer = |row: &AccountRow, made: EndowedRow| Answer::Endowed {
            seq,
            end: row.link_keys,
            ciphertext: made.ciphertext,
            confirm: made.confirm,
        };
        if let Some(before) = self.endowed_before(write, order.account, what)? {
            return Ok(Ok(answer(row, before)));
        }
        let name = self.endowed_name(what);
        if ENDOWED.get(write, name)?.is_some() {
            return Ok(Err(Refusal::Malformed));
        }
        let house = self.house(write, order.account)?;
        let most = match PEERS.get(write, house)? {
            Some(()) => ENDOWED_PER_DAY,
            None => SPLITS_PER_DAY,
        };
        let split = Split {
            identifier: what.identifier,
            root: what.root.duplicate(),
            keys: what.keys,
            value: what.value,
        };
        // Whoever takes it in knows nothing of the rotation of the pack that paid.
        match self.part(write, order, row, &split, (most, Some(Policy::default())))? {
            Ok(Moved { .. }) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let made = EndowedRow {
            giver: order.account,
            day: order.day,
            ciphertext: what.ciphertext.clone(),
            confirm: what.confirm,
        };
        ENDOWED.put(write, name, &made)?;
        Ok(Ok(answer(row, made)))
    }

    /// Notes that an account sends for a domain.
    pub(super) fn is_peer(&mut self, write: &Write<'_>, house: u64) -> Result<(), StoreError> {
        match PEERS.get(write, house)? {
            Some(()) => Ok(()),
            None => PEERS.put(write, house, &()),
        }
    }

    fn forget_endowed(&mut self, write: &Write<'_>, names: &[[u8; 32]]) -> Result<(), StoreError> {
        names.iter().try_for_each(|name| ENDOWED.remove(write, *name))
    }

    fn forget_ended(&mut self, write: &Write<'_>, names: &[[u8; 32]]) -> Result<(), StoreError> {
        names.iter().try_for_each(|name| ENDED.remove(write, *name))
    }
}

impl Shared {
    fn ended_name(&self, kem: &[u8]) -> [u8; 32] {
        self.base.vault.name("procured", kem)
    }
}

impl RelayFiles {
    pub(super) fn read_procurements(&self) -> Result<Vec<Procurement>, StoreError> {
        let mut orders = Vec::new();
        PROCURING.scan(&self.shared.base.view()?, (0, u64::MAX), |id, row| {
            orders.push(Procurement {
                id: ProcurementId(id),
                what: Procure {
                    peer: row.peer,
                    kem: row.kem,
                    dh: row.dh,
                    keys: row.keys,
                    value: row.value,
                    price: row.price,
                },
                day: row.day,
            });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(orders)
    }

    pub(super) fn read_order(&self, account: u64, kem: &[u8], dh: [u8; 32]) -> Result<Option<Procure>, StoreError> {
        let read = self.shared.base.view()?;
        let house = self.house_of(account);
        let procure = |peer, keys, value, price| Procure {
            peer,
            kem: kem.to_vec(),
            dh,
            keys,
            value,
            price,
        };
        let mut found = None;
        PROCURING.scan(&read, (0, u64::MAX), |_, row| {
            if row.house == house && row.kem == kem && row.dh == dh {
                found = Some(procure(row.peer, row.keys, row.value, row.price));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if found.is_none() {
            let ended = ENDED.get(&read, self.shared.ended_name(kem))?;
            found = ended
                .filter(|row| row.house == house)
                .map(|row| procure(row.peer, row.keys, row.value, row.price));
        }
        Ok(found)
    }

    pub(super) async fn end_procurement(
        &self,
        id: ProcurementId,
        outcome: Procured,
        day: u32,
    ) -> Result<(), StoreError> {
        self.committer
            .run(move |stage, write| stage.procured(write, id, &outcome, day))
            .await
    }

    /// Ends what is kept of orders that were answered long ago.
    pub(super) async fn age_endowed(&self, day: u32) -> Result<(), StoreError> {
        let is_aged = |of: u32| day.saturating_sub(of) > ENDOWED_DAYS;
        let (mut endowed, mut ended) = (Vec::new(), Vec::new());
        {
            let read = self.shared.base.snapshot()?;
            ENDOWED.scan(&read, ([0; 32], [255; 32]), |name, row| {
                endowed.extend(is_aged(row.day).then_some(name));
                Ok(ControlFlow::Continue(()))
            })?;
            ENDED.scan(&read, ([0; 32], [255; 32]), |name, row| {
                ended.extend(is_aged(row.day).then_some(name));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        for some in endowed.chunks(SLICE) {
            let some = some.to_vec();
            self.committer
                .run(move |stage, write| stage.forget_endowed(write, &some))
                .await?;
        }
        for some in ended.chunks(SLICE) {
            let some = some.to_vec();
            self.committer
                .run(move |stage, write| stage.forget_ended(write, &some))
                .await?;
        }
        Ok(())
    }
}

/// Rows that one commit of upkeep touches.
const SLICE: usize = 256;

/// What orders were debited, in µtok and by account, and what the rows of those under way say.
pub(super) fn contradictions(
    read: &impl Source,
    (ordered, returned): (&BTreeMap<u64, u64>, &BTreeMap<u64, u64>),
) -> Result<Vec<&'static str>, StoreError> {
    let mut waiting: BTreeMap<u64, u64> = BTreeMap::new();
    PROCURING.scan(read, (0, u64::MAX), |_, row| {
        let sum = waiting.entry(row.house).or_default();
        *sum = sum.saturating_add(row.price);
        Ok(ControlFlow::Continue(()))
    })?;
    let mut found = Vec::new();
    let (mut kept_ordered, mut kept_returned) = (BTreeMap::new(), BTreeMap::new());
    PROCURED.scan(read, (0, u64::MAX), |house, row| {
        kept_ordered.insert(house, row.ordered);
        kept_returned.insert(house, row.returned);
        let open = row
            .ordered
            .checked_sub(row.returned)
            .and_then(|rest| rest.checked_sub(row.made));
        if open != Some(waiting.remove(&house).unwrap_or_default()) {
            found.push("the packs that were ordered are not those that were made, returned or wait");
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let is_same = |one: &BTreeMap<u64, u64>, other: &BTreeMap<u64, u64>| {
        let some = |(_, sum): &(&u64, &u64)| **sum > 0;
        one.iter().filter(some).eq(other.iter().filter(some))
    };
    if !waiting.is_empty() || !is_same(&kept_ordered, ordered) || !is_same(&kept_returned, returned) {
        found.push("the orders of packs differ from what was debited and credited for them");
    }
    Ok(found)
}
