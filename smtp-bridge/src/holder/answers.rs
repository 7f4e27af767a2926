//! What is done with the relay's answers to changes: how each counts, what its sender is told, and the commit that ends its
//! row.

use std::collections::BTreeSet;
use std::sync::Arc;

use mailbox::holder_store::{HolderAlias, OutboxRow};
use mailbox::request::{Answer, Operation, Refusal};
use mailbox::{HolderStore, StoreError};

use super::courier::{Ended, compose, refusal_reason};
use super::{HolderConfig, Settle};
use crate::message::Notice;
use crate::net::Host;

/// What a change of an alias is called that a restored relay is told again.
pub(super) const OPENED_AGAIN: &str = "alias, for the relay was restored";

/// The answers of one link.
pub(super) struct Answers<'a, S> {
    pub(super) host: &'a Host,
    pub(super) store: &'a S,
    pub(super) config: &'a HolderConfig,
    /// The relay's price was another one by the very list that is known here.
    pub(super) doubts_legs: bool,
    /// Rows whose new price its sender was told, until they have another answer.
    repriced: BTreeSet<u64>,
}

/// An answer as it counts, with what is to be recorded of it.
pub(super) struct Judged {
    pub(super) row: OutboxRow,
    answer: Answer,
    /// For INBOX, in the same commit.
    notice: Option<Vec<u8>>,
    /// Whether more may be sent now.
    pub(super) goes_on: bool,
}

impl<'a, S: HolderStore> Answers<'a, S> {
    pub(super) fn new(host: &'a Host, store: &'a S, config: &'a HolderConfig) -> Self {
        Answers {
            host,
            store,
            config,
            doubts_legs: false,
            repriced: BTreeSet::new(),
        }
    }

    /// Records an answer. Returns whether to go on sending now.
    pub(super) async fn take(&mut self, row: OutboxRow, answer: Answer) -> Result<bool, Ended> {
        let judged = self.judge(row, answer).await?;
        let goes_on = judged.goes_on;
        let now = self.host.clock.unix_seconds();
        record(self.store.clone(), self.config.settle.clone(), judged, now).await?;
        Ok(goes_on)
    }

    /// How an answer counts.
    pub(super) async fn judge(&mut self, row: OutboxRow, answer: Answer) -> Result<Judged, Ended> {
        if let (
            Operation::Submit { prices: named, .. },
            Answer::Refused {
                refusal: Refusal::Price { prices, .. },
                ..
            },
        ) = (&row.change.operation, &answer)
        {
            self.doubts_legs |= named == prices;
        }
        let answer = match answer {
            Answer::Refused { seq, refusal } => Answer::Refused {
                seq,
                refusal: as_it_counts(&row, refusal),
            },
            answer => answer,
        };
        let beyond = beyond(&row, &answer);
        let notice = match &answer {
            Answer::Refused {
                seq,
                refusal: Refusal::Price { .. },
            } if *seq == row.change.seq && self.repriced.contains(&row.row) => None,
            Answer::Done { seq, debited, .. } if *seq == row.change.seq && beyond > 0 => {
                self.notice_of_beyond(&row, *debited, beyond)?
            }
            Answer::Done { seq, .. } if *seq == row.change.seq => self.note_alias(&row).await?,
            Answer::Rerooted { seq, .. } if *seq == row.change.seq => None,
            Answer::Moved { seq, .. } | Answer::Endowed { seq, .. } if *seq == row.change.seq => {
                if let Some(loops) = &self.config.loops {
                    // Perhaps a device came or went.
                    loops.set_alone(None);
                }
                None
            }
            Answer::Refused { seq, refusal } if *seq == row.change.seq => self.notice_for(&row, *refusal),
            _ => return Err(Ended::Nonsense),
        };
        let comes_again = matches!(
            answer,
            Answer::Refused {
                refusal: Refusal::Busy | Refusal::Frozen | Refusal::Unacknowledged,
                ..
            }
        );
        // A peer that takes more than its price is given nothing more.
        let goes_on = !comes_again && (beyond == 0 || self.config.settle.is_none());
        match &answer {
            Answer::Refused {
                refusal: Refusal::Price { .. },
                ..
            } => drop(self.repriced.insert(row.row)),
            _ if !comes_again => drop(self.repriced.remove(&row.row)),
            _ => {}
        }
        Ok(Judged {
            row,
            answer,
            notice,
            goes_on,
        })
    }

    /// A person is told of each that is dearer than those before; a relay tells its operator by itself, by the name of the peer.
    fn notice_of_beyond(&self, row: &OutboxRow, debited: u64, beyond: u64) -> Result<Option<Vec<u8>>, Ended> {
        if beyond <= self.store.own_book()?.beyond {
            return Ok(None);
        }
        if self.config.settle.is_some() {
            return Ok(None);
        }
        tracing::error!("the relay debited more for a message than its own prices say");
        let notice = Notice::Overcharged {
            subject: &row.label,
            debited,
            beyond,
        };
        Ok(Some(compose(self.host, self.config, &notice)))
    }

    /// An alias is written before its change is finished: a crash between repeats a write that changes nothing.
    /// The first alias comes with a welcome.
    async fn note_alias(&mut self, row: &OutboxRow) -> Result<Option<Vec<u8>>, Ended> {
        let (local, open) = match &row.change.operation {
            Operation::AliasOpen { local } => (local, true),
            Operation::AliasClose { local } => (local, false),
            _ => return Ok(None),
        };
        let address = format!("{local}@{}", self.store.facts().relay_domain);
        let aliases = self.store.aliases()?;
        let alias = match aliases.iter().find(|alias| alias.address == address) {
            // Its holder may note something of it meanwhile.
            Some(_) => self.store.alter_alias(address, move |alias| alias.open = open).await?,
            None => {
                let number = u32::try_from(aliases.len()).unwrap_or(u32::MAX);
                let alias = HolderAlias {
                    open,
                    ..HolderAlias::new(number, address)
                };
                self.store.put_alias(alias.clone()).await?;
                alias
            }
        };
        let value = self.store.value();
        let welcome = Notice::Welcome {
            alias: &alias.address,
            balance: value.balance,
            keys: value.keys,
        };
        let is_first = alias.number == 0 && open && row.label != OPENED_AGAIN;
        Ok(is_first.then(|| compose(self.host, self.config, &welcome)))
    }

    fn notice_for(&self, row: &OutboxRow, refusal: Refusal) -> Option<Vec<u8>> {
        let is_mail = matches!(row.change.operation, Operation::Submit { .. });
        let loops = self.config.loops.as_ref();
        if is_mail && loops.is_some_and(|loops| loops.is_own(row.label.as_bytes())) {
            // The bridge's own: it drops it, and tells of loops by their figures.
            return None;
        }
        let reason;
        let notice = match refusal {
            Refusal::Busy | Refusal::Frozen | Refusal::Unacknowledged => return None,
            Refusal::Value { shortfall } => Notice::Held {
                subject: &row.label,
                shortfall,
            },
            Refusal::Price { price, .. } => Notice::Repriced {
                subject: &row.label,
                price,
            },
            Refusal::Stale => Notice::Unknown { subject: &row.label },
            // It goes under another number at the next look.
            Refusal::Conflict if is_mail => return None,
            _ if !is_mail => return None,
            other => {
                reason = refusal_reason(other);
                Notice::Refused {
                    subject: &row.label,
                    reason: &reason,
                }
            }
        };
        Some(compose(self.host, self.config, &notice))
    }
}

/// Makes an answer durable. May be done of several at one time; cut off and repeated, it changes nothing.
pub(super) async fn record<S: HolderStore>(
    store: S,
    settle: Option<Arc<dyn Settle>>,
    judged: Judged,
    now: u64,
) -> Result<(), StoreError> {
    let Judged {
        row, answer, notice, ..
    } = judged;
    if let Some(settle) = settle {
        settle.settle(&row, &answer).await?;
    }
    store.answered(row.row, answer, notice, now).await
}

/// How much more a message was debited than it may have been: an honest relay refuses it then.
fn beyond(row: &OutboxRow, answer: &Answer) -> u64 {
    match (&row.change.operation, answer) {
        (Operation::Submit { debit_max, .. }, Answer::Done { debited, .. }) => debited.saturating_sub(*debit_max),
        _ => 0,
    }
}

/// A refusal that would have the content sent again under a new number. If another copy of this store had the same row, it
/// may have done so already, and nobody can ask any more what became of that.
fn as_it_counts(row: &OutboxRow, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Value { .. } | Refusal::Price { .. } if row.is_shared => Refusal::Stale,
        refusal => refusal,
    }
}
