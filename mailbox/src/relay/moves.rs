//! Link keys and value on their way from one account to another.
//!
//! ```text
//! split     this account -> a new one, whose root the holder drew                         one commit
//! release   this account -> voucher, known by its digest    redeem   voucher -> this account
//! ```
//!
//! Link keys are a number, the end of the account's chain: what one account gives up at its end, another gets at its own.
//! No state of a chain moves. Value passes through [`AccountKey::Transit`], so that every posting stands in the journal of
//! its own account and names no other.

use std::ops::ControlFlow;
use std::sync::Arc;

use keypacks::chain::{KEYS_RESERVED, LINK_KEYS_MIN};
use keypacks::pack::Identifier;
use keypacks::rotation::Policy;
use keypacks::{Secret, kdf};
use ledger::{AccountKey, Transfer};

use super::RelayFiles;
use super::accounts::{account_of, rotation};
use super::books::{balance, carry};
use super::changes::Execution;
use super::devices::Join;
use super::live::Effect;
use super::rows::{AccountRow, MOVES, MovesRow, PADS, VOUCHERS, VoucherRow};
use super::stage::RelayStage;
use crate::StoreError;
use crate::entropy::random;
use crate::index::Write;
use crate::relay_store::IssueOrder;
use crate::request::Refusal;

/// Most packs that an account makes in a day. One that another made makes none on the day it was made.
pub const SPLITS_PER_DAY: u32 = 16;
/// Days that a voucher waits to be taken, and that it is known by whom it was.
pub const VOUCHER_DAYS: u32 = 30;

/// What moves.
pub(super) enum Move {
    Split(Split),
    Release {
        voucher: [u8; 32],
    },
    Redeem {
        voucher: [u8; 32],
    },
    /// From the relay itself: see [`super::credit`].
    Renew(Moved),
    /// To nobody: see [`super::expiry`].
    Expire {
        day: Option<u32>,
    },
    Join(Join),
    Drop {
        device: u32,
    },
}

/// An account to be made.
pub(super) struct Split {
    pub(super) identifier: Identifier,
    pub(super) root: Secret<32>,
    pub(super) keys: u64,
    pub(super) value: u64,
}

/// What moved now.
#[derive(Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) keys: u64,
    pub(super) value: u64,
}

impl RelayStage {
    /// Every refusal comes before the first write.
    pub(super) fn carry_over(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        what: &Move,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        match what {
            Move::Split(split) => self.split(write, order, row, split),
            Move::Release { voucher } => self.release(write, order, row, voucher),
            Move::Redeem { voucher } => self.redeem(write, order, row, voucher),
            Move::Renew(wanted) => self.draw(write, order, row, *wanted),
            Move::Expire { day } => self.order_expiry(write, order, row, *day),
            Move::Join(join) => self.join(write, order, row, join),
            Move::Drop { device } => self.drop_device(write, order, row, *device),
        }
    }

    fn split(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        split: &Split,
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        self.part(write, order, row, split, (SPLITS_PER_DAY, None))
    }

    /// Makes a pack of keys and value of this account, which makes at most so many in a day. The new one's links go on under
    /// new keys as `rotates` says, or as this one's do.
    pub(super) fn part(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        split: &Split,
        (most, rotates): (u32, Option<Policy>),
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let (giver, moved) = (
            order.account,
            Moved {
                keys: split.keys,
                value: split.value,
            },
        );
        let birth = birth(row, split);
        if let Some(before) = self.made_before(write, &split.identifier, birth)? {
            return Ok(before);
        }
        let mut moves = match may_part(write, order, row, split.keys, most)? {
            Ok(moves) => moves,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = may_give(write, self.house(write, giver)?, split.value)? {
            return Ok(Err(refusal));
        }
        self.give(write, order, row, &mut moves, moved)?;
        moves.splits += 1;
        MOVES.put(write, giver, &moves)?;
        let issue = IssueOrder {
            link_keys: split.keys,
            credit: 0,
            operator: false,
            day: order.day,
            rotation: match rotates {
                Some(policy) => policy,
                None => rotation(write, giver)?,
            },
        };
        let child = self.found(write, &split.identifier, &split.root, &issue)?;
        self.receive_value(write, child, split.value, order.day)?;
        MOVES.put(write, child, &moves_of_new(order.day, split.keys, birth))?;
        Ok(Ok(moved))
    }

    /// What an order is answered if its pack is there already: the holder lost the answer and asks under another number.
    /// Anyone else's identifier is refused.
    pub(super) fn made_before(
        &self,
        write: &Write<'_>,
        identifier: &Identifier,
        birth: [u8; 32],
    ) -> Result<Option<Result<Moved, Refusal>>, StoreError> {
        let Some(known) = account_of(write, &self.shared, identifier)? else {
            return Ok(None);
        };
        let is_it = MOVES.get(write, known)?.is_some_and(|moves| moves.birth == Some(birth));
        Ok(Some(is_it.then(Moved::default).ok_or(Refusal::Malformed)))
    }

    fn release(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        voucher: &[u8; 32],
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let giver = order.account;
        let name = self.shared.base.vault.name("voucher", voucher);
        if let Some(known) = VOUCHERS.get(write, name)? {
            let is_own = known.giver == giver;
            return Ok(is_own.then(Moved::default).ok_or(Refusal::VoucherUnknown));
        }
        let house = self.house(write, giver)?;
        // What comes of an order comes back to this account.
        let is_occupied = row.deposits > 0 || self.open_aliases(house) > 0 || self.has_orders(write, house)?;
        if is_occupied || self.is_shared(write, giver)? {
            return Ok(Err(Refusal::Occupied));
        }
        let moved = Moved {
            // The last ones stay, so that a lost answer can be asked for again.
            keys: row.keys_left().saturating_sub(KEYS_RESERVED),
            value: balance(write, AccountKey::Holder(house))?.available(),
        };
        if let Err(refusal) = may_give(write, house, moved.value)? {
            return Ok(Err(refusal));
        }
        let mut moves = MOVES.get(write, giver)?.unwrap_or_default();
        self.give(write, order, row, &mut moves, moved)?;
        MOVES.put(write, giver, &moves)?;
        let voucher = VoucherRow {
            giver,
            keys: moved.keys,
            value: moved.value,
            day: order.day,
            taker: None,
        };
        VOUCHERS.put(write, name, &voucher)?;
        Ok(Ok(moved))
    }

    fn redeem(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        voucher: &[u8; 32],
    ) -> Result<Result<Moved, Refusal>, StoreError> {
        let taker = order.account;
        let name = self.shared.base.vault.name("voucher", voucher);
        let Some(mut found) = VOUCHERS.get(write, name)? else {
            return Ok(Err(Refusal::VoucherUnknown));
        };
        match found.taker {
            // The holder lost the answer and asks under another number.
            Some(before) if before == taker => return Ok(Ok(Moved::default())),
            Some(_) => return Ok(Err(Refusal::VoucherUnknown)),
            // Nothing would be gained, and the last keys of an account are to stay its own.
            None if found.giver == taker => return Ok(Err(Refusal::VoucherUnknown)),
            None => {}
        }
        let own = balance(write, AccountKey::Holder(self.house(write, taker)?))?;
        let transit = balance(write, AccountKey::Transit)?;
        let (Some(end), Some(_), Some(_)) = (
            row.link_keys.checked_add(found.keys),
            own.credited(found.value),
            transit.debited(found.value),
        ) else {
            return Ok(Err(Refusal::Malformed));
        };
        found.taker = Some(taker);
        VOUCHERS.put(write, name, &found)?;
        row.link_keys = end;
        self.receive(write, taker, found.keys, found.value, order.day)?;
        self.extent(taker, end);
        Ok(Ok(Moved {
            keys: found.keys,
            value: found.value,
        }))
    }

    /// Takes keys and value out of an account; the caller keeps both rows.
    fn give(
        &mut self,
        write: &Write<'_>,
        order: &Execution,
        row: &mut AccountRow,
        moves: &mut MovesRow,
        moved: Moved,
    ) -> Result<(), StoreError> {
        row.link_keys -= moved.keys;
        moves.keys_given = moves.keys_given.checked_add(moved.keys).ok_or(StoreError::Corrupt)?;
        if moved.value > 0 {
            let shared = Arc::clone(&self.shared);
            let id = random(&*shared.base.entropy);
            let house = self.house(write, order.account)?;
            let transfer = Transfer::given(id, house, moved.value, order.day);
            carry(&mut self.books(write, house), transfer)?;
        }
        self.extent(order.account, row.link_keys);
        Ok(())
    }

    /// Writes down keys that came, and credits the value.
    fn receive(&mut self, write: &Write<'_>, account: u64, keys: u64, value: u64, day: u32) -> Result<(), StoreError> {
        let mut moves = MOVES.get(write, account)?.unwrap_or_default();
        moves.keys_received = moves.keys_received.checked_add(keys).ok_or(StoreError::Corrupt)?;
        MOVES.put(write, account, &moves)?;
        self.receive_value(write, account, value, day)
    }

    fn receive_value(&mut self, write: &Write<'_>, account: u64, value: u64, day: u32) -> Result<(), StoreError> {
        if value == 0 {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let house = self.house(write, account)?;
        let transfer = Transfer::received(random(&*shared.base.entropy), house, value, day);
        carry(&mut self.books(write, house), transfer)
    }

    pub(super) fn extent(&mut self, account: u64, link_keys: u64) {
        self.batch.effects.push(Effect::Extent { account, link_keys });
    }

    /// Open aliases of an account, those of this batch counted.
    fn open_aliases(&self, account: u64) -> u64 {
        let live = self.shared.live();
        let known = live
            .accounts
            .get(account)
            .map_or(0, |live| i64::from(live.open_aliases));
        let here = self.batch.effects.iter().map(|effect| match effect {
            Effect::Alias { row, .. } if row.account == account => {
                if row.open {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        });
        u64::try_from(known + here.sum::<i64>()).unwrap_or(0)
    }

    /// Gives what was not taken in time back to whoever filled the voucher, and forgets those that were taken.
    fn age_voucher(&mut self, write: &Write<'_>, name: [u8; 32], day: u32) -> Result<(), StoreError> {
        let Some(voucher) = VOUCHERS.get(write, name)?.filter(|row| is_old(row, day)) else {
            return Ok(());
        };
        if voucher.taker.is_none() {
            let heir = self.heir(write, voucher.giver)?;
            let mut row = self.account(write, heir)?;
            row.link_keys = row.link_keys.checked_add(voucher.keys).ok_or(StoreError::Corrupt)?;
            self.receive(write, heir, voucher.keys, voucher.value, day)?;
            self.extent(heir, row.link_keys);
            self.lapse_again(write, (heir, &mut row), day)?;
            self.put_account(write, heir, &row)?;
        }
        VOUCHERS.remove(write, name)
    }
}

/// What an account has moved, this day's packs counted, if it may make one more of so many keys.
pub(super) fn may_part(
    write: &Write<'_>,
    order: &Execution,
    row: &AccountRow,
    keys: u64,
    most: u32,
) -> Result<Result<MovesRow, Refusal>, StoreError> {
    let mut moves = MOVES.get(write, order.account)?.unwrap_or_default();
    if moves.day != order.day {
        (moves.day, moves.splits) = (order.day, 0);
    }
    // A pack split off a pad would be under keys, and two devices cannot take bytes off one pad: nobody is to get less than
    // they think they have.
    if keys < LINK_KEYS_MIN || PADS.get(write, order.account)?.is_some() {
        return Ok(Err(Refusal::Malformed));
    }
    if row.keys_left().checked_sub(keys) < Some(LINK_KEYS_MIN) {
        return Ok(Err(Refusal::Keys));
    }
    if moves.splits >= most {
        return Ok(Err(Refusal::Limit));
    }
    Ok(Ok(moves))
}

/// Of a pack that another account made today of so many of its keys: it makes none itself before tomorrow.
pub(super) fn moves_of_new(day: u32, keys: u64, birth: [u8; 32]) -> MovesRow {
    MovesRow {
        day,
        splits: SPLITS_PER_DAY,
        keys_received: keys,
        keys_given: 0,
        birth: Some(birth),
    }
}

/// Whether an account has so much, and every sum stays within its bits.
fn may_give(write: &Write<'_>, account: u64, value: u64) -> Result<Result<(), Refusal>, StoreError> {
    let own = balance(write, AccountKey::Holder(account))?;
    if value > own.available() {
        return Ok(Err(Refusal::Value {
            shortfall: value - own.available(),
        }));
    }
    let transit = balance(write, AccountKey::Transit)?;
    let fits = own.debited(value).is_some()
        && transit.credited(value).is_some()
        && own.credited(value).is_some()
        && transit.debited(value).is_some();
    Ok(fits.then_some(()).ok_or(Refusal::Malformed))
}

/// By what a split is known when it is asked for once more: nobody without the new pack's root can tell from it which
/// account made it.
fn birth(giver: &AccountRow, split: &Split) -> [u8; 32] {
    kdf::hash(&[split.root.expose(), &split.identifier.0, &giver.identifier])
}

fn is_old(voucher: &VoucherRow, day: u32) -> bool {
    day.saturating_sub(voucher.day) > VOUCHER_DAYS
}

impl RelayFiles {
    /// Ends vouchers that are over their time.
    pub(super) async fn age_vouchers(&self, day: u32) -> Result<(), StoreError> {
        let mut aged = Vec::new();
        VOUCHERS.scan(&self.shared.base.snapshot()?, ([0; 32], [255; 32]), |name, row| {
            if is_old(&row, day) {
                aged.push(name);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for name in aged {
            let aging = self
                .committer
                .run(move |stage, write| stage.age_voucher(write, name, day));
            match aging.await {
                // A frozen account gets it back when it is mended.
                Ok(()) | Err(StoreError::RestoredDatabase) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
