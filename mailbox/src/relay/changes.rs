//! Changes: executed at most once, each with its stored answer.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::{Source, Write};
use keypacks::Secret;
use keypacks::deposit::class_for;
use ledger::AccountKey;
use zeroize::Zeroize;

use super::books::{balance, charge_mail};
use super::devices::Join;
use super::moves::{Move, Moved, Split};
use super::rows::{ACCOUNTS, ANSWERS, AccountRow, AnswerRow, RECOVERED};
use super::spool::Ahead;
use super::stage::RelayStage;
use super::{RelayFiles, Shared};
use crate::StoreError;
use crate::parcel::Asked;
use crate::relay_store::{Account, Effect, Endowment, NewRoot, Procure, Spooled};
use crate::request::{Answer, Change, Operation, Profile, RECIPIENTS_MAX, Refusal, UNACKNOWLEDGED_MAX, Wishes};
use crate::vault;

/// A change on its way to the commit. Sealing a message is the caller's work, not the committer's.
pub(super) struct Execution {
    pub(super) account: u64,
    /// Number of the root that it is asked for under.
    pub(super) root: u64,
    pub(super) change: Change,
    pub(super) digest: [u8; 32],
    pub(super) action: Action,
    pub(super) day: u32,
    pub(super) now: u64,
}

/// [`Effect`] with its message sealed.
pub(super) enum Action {
    Spool(Sealed),
    AliasOpen(String),
    AliasClose(String),
    Reroot(NewRoot),
    /// In parcels alone.
    Control(Asked),
    /// In place of a parcel alone.
    Login,
    Move(Move),
    Tell(Vec<String>),
    Procure(Procure),
    Endow(Endowment),
    Refuse(Refusal),
}

/// A message sealed under a key of its own.
pub(super) struct Sealed {
    pub(super) reverse_path: String,
    pub(super) recipients: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) body_key: Secret<32>,
    pub(super) kilobytes: u32,
    pub(super) price: u64,
    pub(super) onward: u64,
    pub(super) hops: u8,
    pub(super) mix: Option<Profile>,
    /// One for each recipient.
    pub(super) wishes: Vec<Wishes>,
    /// Private parts of its deliveries in the order of the recipients, as far as they could be sealed before the commit.
    pub(super) ahead: RefCell<Vec<Option<Ahead>>>,
}

/// What became of a change: an answer that is kept, or one that is final for this try only.
enum Verdict {
    Kept(Answer),
    Passing(Refusal),
}

impl RelayFiles {
    /// Seals a message before it goes to the committer.
    pub(super) fn prepare(&self, account: Account, effect: Effect) -> Result<Action, StoreError> {
        let mut spooled = match effect {
            Effect::Spool(spooled) => spooled,
            Effect::AliasOpen { address } => return Ok(Action::AliasOpen(address)),
            Effect::AliasClose { address } => return Ok(Action::AliasClose(address)),
            Effect::Reroot(new) => return Ok(Action::Reroot(new)),
            Effect::Control(asked) => return Ok(Action::Control(asked)),
            Effect::Login => return Ok(Action::Login),
            Effect::Split {
                identifier,
                root,
                keys,
                value,
            } => {
                return Ok(Action::Move(Move::Split(Split {
                    identifier,
                    root,
                    keys,
                    value,
                })));
            }
            Effect::Release { voucher } => return Ok(Action::Move(Move::Release { voucher })),
            Effect::Redeem { voucher } => return Ok(Action::Move(Move::Redeem { voucher })),
            Effect::Renew { keys, value } => return Ok(Action::Move(Move::Renew(Moved { keys, value }))),
            Effect::Expire { day } => return Ok(Action::Move(Move::Expire { day })),
            Effect::Device { identifier, root, keys } => {
                return Ok(Action::Move(Move::Join(Join { identifier, root, keys })));
            }
            Effect::Drop { device } => return Ok(Action::Move(Move::Drop { device })),
            Effect::Tell { addresses } => return Ok(Action::Tell(addresses)),
            Effect::Procure(what) => return Ok(Action::Procure(what)),
            Effect::Endow(what) => return Ok(Action::Endow(what)),
            Effect::Refuse(refusal) => return Ok(Action::Refuse(refusal)),
        };
        let recipients = spooled.recipients.len();
        let kilobytes = class_for(spooled.message.len()).ok_or(StoreError::Invalid)?;
        if spooled.onward > spooled.price || recipients == 0 || recipients > RECIPIENTS_MAX {
            return Err(StoreError::Invalid);
        }
        let entropy = &*self.shared.base.entropy;
        let body_key = Secret::from_fn(|key| entropy.fill(key));
        let body = vault::seal_once(&body_key, &spooled.message, entropy);
        spooled.message.zeroize();
        let Spooled {
            reverse_path,
            recipients,
            price,
            onward,
            hops,
            mix,
            mut wishes,
            ..
        } = spooled;
        wishes.resize(recipients.len(), Wishes::default());
        let sealed = Sealed {
            reverse_path,
            recipients,
            body,
            body_key,
            kilobytes,
            price,
            onward,
            hops,
            mix,
            wishes,
            ahead: RefCell::default(),
        };
        let house = self.house_of(account.0);
        let ahead = 0..sealed.recipients.len();
        let ahead = ahead.map_while(|place| Ahead::seal(&self.shared, house, &sealed, place));
        let ahead = ahead.map(Some).collect();
        sealed.ahead.replace(ahead);
        Ok(Action::Spool(sealed))
    }

    pub(super) fn answer_before(&self, account: Account, change: &Change, digest: &[u8; 32]) -> Option<Answer> {
        let base = &self.shared.base;
        let answered = || {
            let view = base.view()?;
            let row = ACCOUNTS.get(&view, account.0)?.ok_or(StoreError::NoRow)?;
            let kept = row.kept_answer(&view, account.0, change.seq)?;
            let stale = self.shared.stale_up_to(&view, account.0, &row)?;
            Ok::<_, StoreError>(answered_with(kept, stale, change, digest))
        };
        // A failed read decides nothing: the commit that follows reads again and reports it.
        answered().ok().flatten()
    }
}

impl AccountRow {
    fn kept_answer(&self, source: &impl Source, account: u64, seq: u64) -> Result<Option<AnswerRow>, StoreError> {
        // Above the highest there is none: no need to look.
        if seq > self.seq_highest {
            return Ok(None);
        }
        ANSWERS.get(source, (account, seq))
    }
}

/// The answer to a change that is not to be executed (again). Of those up to `stale` only what is kept is known.
fn answered_with(kept: Option<AnswerRow>, stale: u64, change: &Change, digest: &[u8; 32]) -> Option<Answer> {
    let refused = |refusal| {
        Some(Answer::Refused {
            seq: change.seq,
            refusal,
        })
    };
    match kept {
        Some(kept) if kept.id == change.id && kept.digest == *digest => Some(kept.answer),
        Some(_) => refused(Refusal::Conflict),
        None if change.seq == 0 => refused(Refusal::Malformed),
        None if change.seq <= stale => refused(Refusal::Stale),
        None => None,
    }
}

impl Shared {
    /// Changes up to here are never executed: the floor, or what may have been carried out before a restore.
    fn stale_up_to(&self, source: &impl Source, account: u64, row: &AccountRow) -> Result<u64, StoreError> {
        if self.generation == 0 {
            return Ok(row.seq_floor);
        }
        let recovered = RECOVERED.get(source, account)?.unwrap_or_default();
        Ok(row.seq_floor.max(recovered.stale))
    }
}

impl RelayStage {
    /// Checks in the order floor and number, room, value; then writes. Refusals of the store come before any write.
    pub(super) fn execute(&mut self, write: &Write<'_>, order: &Execution) -> Result<Answer, StoreError> {
        let Execution {
            account, ref change, ..
        } = *order;
        let mut row = self.account(write, account)?;
        if self.is_dropped(write, account)? {
            return Err(StoreError::NoRow);
        }
        let kept = row.kept_answer(write, account, change.seq)?;
        let stale = self.shared.stale_up_to(write, account, &row)?;
        let answered = answered_with(kept, stale, change, &order.digest);
        if !self.is_root(write, account, order.root)? {
            // Judged before the root changed. One answer is left: that of the change that did it, or that another did.
            let seq = change.seq;
            return match answered {
                Some(answer @ Answer::Rerooted { .. }) => Ok(answer),
                _ if matches!(change.operation, Operation::Reroot { .. }) => Ok(Answer::Refused {
                    seq,
                    refusal: Refusal::Conflict,
                }),
                _ => Err(StoreError::NoRow),
            };
        }
        if let Some(answer) = answered {
            return Ok(answer);
        }
        let verdict = match self.carry_out(write, order, &mut row)? {
            Verdict::Passing(refusal) => {
                return Ok(Answer::Refused {
                    seq: change.seq,
                    refusal,
                });
            }
            Verdict::Kept(answer) => answer,
        };
        let kept = AnswerRow {
            id: change.id,
            digest: order.digest,
            answer: verdict.clone(),
            day: order.day,
        };
        ANSWERS.put(write, (account, change.seq), &kept)?;
        row.answers += 1;
        row.seq_highest = row.seq_highest.max(change.seq);
        self.put_account(write, account, &row)?;
        Ok(verdict)
    }

    fn carry_out(&mut self, write: &Write<'_>, order: &Execution, row: &mut AccountRow) -> Result<Verdict, StoreError> {
        let Execution {
            account, ref change, ..
        } = *order;
        let seq = change.seq;
        let refuse = |refusal| Ok(Verdict::Kept(Answer::Refused { seq, refusal }));
        let shared = Arc::clone(&self.shared);
        let house = self.house(write, account)?;
        let value = balance(write, AccountKey::Holder(house))?.available();
        let acknowledged = change.acknowledged.min(seq - 1).min(row.seq_highest);
        let settled = self.answers_up_to(write, account, row, acknowledged)?;
        if row.answers - settled.len() as u64 >= UNACKNOWLEDGED_MAX {
            return Ok(Verdict::Passing(Refusal::Unacknowledged));
        }
        if matches!(order.action, Action::Refuse(Refusal::Busy)) {
            return Ok(Verdict::Passing(Refusal::Busy));
        }
        let is_reroot = matches!(order.action, Action::Reroot(_));
        if !is_reroot && self.is_frozen(write, account)? {
            return Ok(Verdict::Passing(Refusal::Frozen));
        }
        // A new root is no value, and whoever ends an account twice lost the answer; as does who asks once more for a pack that
        // was made.
        let is_open_to_all = match &order.action {
            Action::Reroot(_) | Action::Move(Move::Expire { .. }) => true,
            Action::Endow(what) => self.endowed_before(write, account, what)?.is_some(),
            _ => false,
        };
        let has_ended = !is_open_to_all && self.has_ended(write, account)?;
        let spooled = match &order.action {
            _ if has_ended => None,
            Action::Spool(sealed) if sealed.price <= value => {
                if self.queued() + sealed.recipients.len() > shared.config.spool_max {
                    return Ok(Verdict::Passing(Refusal::Busy));
                }
                let references = u32::try_from(sealed.recipients.len()).expect("at most RECIPIENTS_MAX");
                Some((sealed, shared.base.put_body(write, &sealed.body, references)?))
            }
            _ => None,
        };

        // From here on everything is written.
        row.drop_answers(write, account, &settled, acknowledged)?;
        match &order.action {
            _ if has_ended => return refuse(Refusal::Ended),
            Action::Spool(sealed) => {
                let Some((sealed, body)) = spooled else {
                    return refuse(Refusal::Value {
                        shortfall: sealed.price - value,
                    });
                };
                charge_mail(
                    &mut self.books(write, house),
                    &*shared.base.entropy,
                    house,
                    (sealed.price, sealed.onward),
                    order.day,
                )?;
                self.spool(write, house, sealed, body, order.now)?;
                return Ok(Verdict::Kept(Answer::Done {
                    seq,
                    debited: sealed.price,
                    balance: value - sealed.price,
                }));
            }
            Action::AliasOpen(_) | Action::AliasClose(_) | Action::Tell(_) if !self.may_tell(write, account)? => {
                return refuse(Refusal::Limit);
            }
            Action::AliasOpen(address) => match self.open_alias(write, (account, house), row, address)? {
                Ok(true) => self.tell_aliases((write, order.day), (account, row), std::slice::from_ref(address))?,
                Ok(false) => {}
                Err(refusal) => return refuse(refusal),
            },
            Action::AliasClose(address) => match self.close_alias(write, house, address)? {
                Ok(()) => self.tell_aliases((write, order.day), (account, row), std::slice::from_ref(address))?,
                Err(refusal) => return refuse(refusal),
            },
            Action::Tell(addresses) => self.tell_aliases((write, order.day), (account, row), addresses)?,
            Action::Reroot(new) => {
                return match self.reroot(write, (account, row), seq, new, order.day)? {
                    Ok(answer) => Ok(Verdict::Kept(answer)),
                    Err(refusal) => refuse(refusal),
                };
            }
            Action::Control(_) | Action::Login => return refuse(Refusal::Malformed),
            Action::Move(what) => {
                return Ok(Verdict::Kept(match self.carry_over(write, order, row, what)? {
                    Ok(moved) => Answer::Moved {
                        seq,
                        keys: moved.keys,
                        value: moved.value,
                        end: row.link_keys,
                        balance: balance(write, AccountKey::Holder(house))?.available(),
                    },
                    Err(refusal) => Answer::Refused { seq, refusal },
                }));
            }
            Action::Procure(what) => match self.procure(write, order, row, what)? {
                Ok(debited) => {
                    return Ok(Verdict::Kept(Answer::Done {
                        seq,
                        debited,
                        balance: value - debited,
                    }));
                }
                Err(refusal) => return refuse(refusal),
            },
            Action::Endow(what) => {
                return match self.endow(write, order, row, what)? {
                    Ok(answer) => Ok(Verdict::Kept(answer)),
                    Err(refusal) => refuse(refusal),
                };
            }
            Action::Refuse(refusal) => return refuse(*refusal),
        }
        Ok(Verdict::Kept(Answer::Done {
            seq,
            debited: 0,
            balance: value,
        }))
    }

    /// Numbers of the kept answers above the floor and up to `end`.
    fn answers_up_to(
        &self,
        write: &Write<'_>,
        account: u64,
        row: &AccountRow,
        end: u64,
    ) -> Result<Vec<u64>, StoreError> {
        let mut numbers = Vec::new();
        // Mostly the change before, whose answer is still in memory: a scan would look into the index for nothing.
        if end.checked_sub(row.seq_floor) == Some(1) {
            numbers.extend(ANSWERS.get(write, (account, end))?.map(|_| end));
        } else if end > row.seq_floor {
            let range = ((account, row.seq_floor + 1), (account, end));
            ANSWERS.scan(write, range, |(_, seq), _| {
                numbers.push(seq);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(numbers)
    }

    /// Drops answers up to `end`, aged out: changes up to there are never executed again.
    pub(super) fn age_answers(&mut self, write: &Write<'_>, account: u64, end: u64) -> Result<(), StoreError> {
        let mut row = self.account(write, account)?;
        // The answer that tells a root is kept until there was a link under it: else nobody could come back.
        let end = match self.root(write, account)?.and_then(|root| root.old) {
            Some(old) => end.min(old.seq - 1),
            None => end,
        };
        let aged = self.answers_up_to(write, account, &row, end)?;
        row.drop_answers(write, account, &aged, end)?;
        self.put_account(write, account, &row)
    }
}

impl AccountRow {
    /// Raises the floor and drops the answers at or below it.
    fn drop_answers(&mut self, write: &Write<'_>, account: u64, numbers: &[u64], floor: u64) -> Result<(), StoreError> {
        for seq in numbers {
            ANSWERS.remove(write, (account, *seq))?;
        }
        self.answers -= numbers.len() as u64;
        self.seq_floor = self.seq_floor.max(floor);
        Ok(())
    }
}
