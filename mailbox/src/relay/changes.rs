//! Changes: executed at most once, each with its stored answer.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::{Source, Write};
use keypacks::Secret;
use keypacks::deposit::class_for;
use ledger::{AccountKey, Kind};
use zeroize::Zeroize;

use super::RelayFiles;
use super::books::{balance, charge};
use super::rows::{ACCOUNTS, ANSWERS, AccountRow, AnswerRow};
use super::stage::RelayStage;
use crate::StoreError;
use crate::relay_store::{Account, Effect, Spooled};
use crate::request::{Answer, Change, RECIPIENTS_MAX, Refusal, UNACKNOWLEDGED_MAX};
use crate::vault;

/// A change on its way to the commit. Sealing a message is the caller's work, not the committer's.
pub(super) struct Execution {
    pub(super) account: u64,
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
}

/// What became of a change: an answer that is kept, or one that is final for this try only.
enum Verdict {
    Kept(Answer),
    Passing(Refusal),
}

impl RelayFiles {
    /// Seals a message before it goes to the committer.
    pub(super) fn prepare(&self, effect: Effect) -> Result<Action, StoreError> {
        let mut spooled = match effect {
            Effect::Spool(spooled) => spooled,
            Effect::AliasOpen { address } => return Ok(Action::AliasOpen(address)),
            Effect::AliasClose { address } => return Ok(Action::AliasClose(address)),
            Effect::Refuse(refusal) => return Ok(Action::Refuse(refusal)),
        };
        let recipients = spooled.recipients.len();
        let kilobytes = class_for(spooled.message.len()).ok_or(StoreError::Invalid)?;
        if recipients == 0 || recipients > RECIPIENTS_MAX {
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
            ..
        } = spooled;
        Ok(Action::Spool(Sealed {
            reverse_path,
            recipients,
            body,
            body_key,
            kilobytes,
            price,
        }))
    }

    pub(super) fn answer_before(&self, account: Account, change: &Change, digest: &[u8; 32]) -> Option<Answer> {
        let base = &self.shared.base;
        let answered = || {
            let view = base.view()?;
            let row = ACCOUNTS.get(&view, account.0)?.ok_or(StoreError::NoRow)?;
            let kept = row.kept_answer(&view, account.0, change.seq)?;
            Ok::<_, StoreError>(row.answered(kept, change, digest))
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

    /// The answer to a change that is not to be executed (again).
    fn answered(&self, kept: Option<AnswerRow>, change: &Change, digest: &[u8; 32]) -> Option<Answer> {
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
            None if change.seq <= self.seq_floor => refused(Refusal::Stale),
            None => None,
        }
    }
}

impl RelayStage {
    /// Checks in the order floor and number, room, value; then writes. Refusals of the store come before any write.
    pub(super) fn execute(&mut self, write: &Write<'_>, order: &Execution) -> Result<Answer, StoreError> {
        let Execution {
            account, ref change, ..
        } = *order;
        let mut row = self.account(write, account)?;
        let kept = row.kept_answer(write, account, change.seq)?;
        if let Some(answer) = row.answered(kept, change, &order.digest) {
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
        let value = balance(write, AccountKey::Holder(account))?.available();
        let acknowledged = change.acknowledged.min(seq - 1).min(row.seq_highest);
        let settled = self.answers_up_to(write, account, row, acknowledged)?;
        if row.answers - settled.len() as u64 >= UNACKNOWLEDGED_MAX {
            return Ok(Verdict::Passing(Refusal::Unacknowledged));
        }
        if matches!(order.action, Action::Refuse(Refusal::Busy)) {
            return Ok(Verdict::Passing(Refusal::Busy));
        }
        let spooled = match &order.action {
            Action::Spool(sealed) if sealed.price <= value => {
                if shared.live().queue.len() + self.batch.queued + sealed.recipients.len() > shared.config.spool_max {
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
            Action::Spool(sealed) => {
                let Some((sealed, body)) = spooled else {
                    return refuse(Refusal::Value {
                        shortfall: sealed.price - value,
                    });
                };
                let entry = (account, sealed.price);
                charge(
                    &mut self.books(write, account),
                    &*shared.base.entropy,
                    entry,
                    Kind::Message,
                    order.day,
                )?;
                self.spool(write, account, sealed, body, order.now)?;
                return Ok(Verdict::Kept(Answer::Done {
                    seq,
                    debited: sealed.price,
                    balance: value - sealed.price,
                }));
            }
            Action::AliasOpen(address) => {
                if let Err(refusal) = self.open_alias(write, account, row, address)? {
                    return refuse(refusal);
                }
            }
            Action::AliasClose(address) => {
                if let Err(refusal) = self.close_alias(write, account, address)? {
                    return refuse(refusal);
                }
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
