//! The work on an established link: empty the outbox, collect the mail, keep the mirror of the value true.

use std::time::Duration;

use keypacks::pad::PadError;
use ledger::Services;
use mailbox::holder_store::{HolderAlias, OutboxRow, OutboxState, ValueMirror};
use mailbox::request::{Answer, Operation, Refusal, Request, SERVICES_MAX};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::collecting;
use super::dial::Established;
use super::requests::Requests;
use super::{HolderConfig, Statement, Wishes};
use crate::link::LinkError;
use crate::message::{self, Notice};
use crate::names;
use crate::net::{Host, stopped};

/// Why the work on a link is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The process stops.
    #[error("stopping")]
    Stopped,
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The relay answered something else than was asked.
    #[error("the relay gave an answer that does not fit the request")]
    Nonsense,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay could not say for now. Not the end: the link is kept, and the next tick asks again.
    #[error("the relay is busy")]
    Busy,
}

/// Most days and kinds of a statement: thirty years of every kind.
const STATEMENT_MAX: usize = 50_000;

/// Works until the link ends, and says why it did.
pub(super) async fn work<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    link: Established,
    wishes: &mut Wishes,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let mut courier = Courier {
        config,
        host,
        store,
        link: Requests::new(link, config.answer_timeout),
        stop: stop.clone(),
    };
    let mut outbox = store.outbox_changed();
    let start = Instant::now();
    let mut due = None;
    let mut done = courier.begin().await;
    loop {
        match done {
            Ok(()) => {}
            // Another link would cost a key and meet the same: the next tick tries again on this one.
            Err(Ended::Busy | Ended::Store(StoreError::Busy | StoreError::Full)) => courier.link.news = true,
            Err(ended) => {
                if matches!(ended, Ended::Stopped) {
                    courier.link.close().await;
                }
                return ended;
            }
        }
        // A tick is waited for only when it would do something: an idle bridge sleeps until a byte arrives.
        let look = courier.link.news || courier.has_waiting();
        // Once there is something to look for, its tick stands: mail that goes out without a pause does not put it off.
        let tick = due.filter(|_| look).unwrap_or_else(|| next_tick(start, config.tick));
        due = look.then_some(tick);
        done = tokio::select! {
            biased;
            () = stopped(&mut stop) => Err(Ended::Stopped),
            () = tokio::time::sleep_until(tick), if look => {
                due = None;
                courier.look().await
            }
            _ = wishes.refreshed.changed() => courier.look().await,
            Some(statement) = wishes.asked.recv() => courier.statement(statement).await,
            _ = outbox.changed() => courier.send_all().await,
            news = courier.link.wait_for_news() => news.map_err(Ended::from),
        };
    }
}

/// The next point of the link's own grid: mail is collected there, so that its arrival shows no finer.
fn next_tick(start: Instant, tick: Duration) -> Instant {
    let passed = start.elapsed().as_nanos() / tick.as_nanos().max(1) + 1;
    start + tick * u32::try_from(passed).unwrap_or(u32::MAX)
}

struct Courier<'a, S> {
    config: &'a HolderConfig,
    host: &'a Host,
    store: &'a S,
    link: Requests,
    stop: watch::Receiver<bool>,
}

impl<S: HolderStore> Courier<'_, S> {
    /// What every link starts with.
    async fn begin(&mut self) -> Result<(), Ended> {
        self.refresh_value(true).await?;
        self.collect().await?;
        self.send_all().await
    }

    /// What a tick is for.
    async fn look(&mut self) -> Result<(), Ended> {
        self.refresh_value(true).await?;
        self.collect().await?;
        self.send_all().await
    }

    /// Whether something in the outbox may go later: held for want of value, or still queued since the relay was busy.
    fn has_waiting(&self) -> bool {
        let waits = |row: &OutboxRow| matches!(row.state, OutboxState::Held(_) | OutboxState::Queued);
        self.store.outbox().is_ok_and(|rows| rows.iter().any(waits))
    }

    /// Asks for the balance (and the prices: then held messages go that the balance covers by now; not at every change
    /// of it, since a relay that refuses them again would be asked without a pause).
    async fn refresh_value(&mut self, with_prices: bool) -> Result<(), Ended> {
        let answer = self.link.ask(&Request::Balance, &[]).await?;
        let Answer::Balance {
            balance,
            keys,
            credits,
            debits,
        } = answer
        else {
            return Err(unexpected(&answer));
        };
        let prices = if with_prices {
            let answer = self.link.ask(&Request::Prices, &[]).await?;
            let Answer::Prices(prices) = answer else {
                return Err(unexpected(&answer));
            };
            Some(prices)
        } else {
            None
        };
        let news = ValueMirror {
            balance,
            keys,
            credits,
            debits,
            at: self.host.clock.unix_seconds(),
        };
        let known = self.store.value();
        if (known.balance, known.keys, known.credits, known.debits) != (balance, keys, credits, debits)
            || prices.is_some_and(|prices| Some(prices) != self.store.prices())
        {
            self.store.put_value(news, prices).await?;
        }
        if let Some(prices) = prices {
            self.store.release_held(prices, balance).await?;
        }
        Ok(())
    }

    /// Asks for all that was credited and debited, one part of the journal after the other.
    async fn statement(&mut self, wish: Statement) -> Result<(), Ended> {
        let (mut statement, mut from): (Vec<Services>, u64) = (Vec::new(), 0);
        loop {
            if *self.stop.borrow() {
                return Err(Ended::Stopped);
            }
            if wish.is_closed() {
                return Ok(());
            }
            let answer = self.link.ask(&Request::Statement { from }, &[]).await?;
            let Answer::Statement { services, next, more } = answer else {
                return Err(unexpected(&answer));
            };
            // Else a relay could keep this link with it for ever, or fill the memory.
            if services.len() > SERVICES_MAX
                || more && (next <= from || services.is_empty())
                || statement.len() > STATEMENT_MAX
            {
                return Err(Ended::Nonsense);
            }
            for part in services {
                if !statement.iter_mut().rev().any(|known| known.merge(&part)) {
                    statement.push(part);
                }
            }
            if !more {
                // Whoever asked may have given up.
                let _ = wish.send(statement);
                return Ok(());
            }
            from = next;
        }
    }

    /// Sends every queued change in the order of their numbers.
    async fn send_all(&mut self) -> Result<(), Ended> {
        let mut sent = false;
        while let Some(row) = self.store.next_queued()? {
            let body = match row.change.operation {
                Operation::Submit { .. } => match self.store.outbox_body(row.row)? {
                    Some(body) => Zeroizing::new(body),
                    // It was cancelled just now, and will be gone when the outbox says that it changed.
                    None => break,
                },
                _ => Zeroizing::default(),
            };
            let asked = self.link.ask(&Request::Change(row.change.clone()), &body).await;
            let answer = match asked {
                // Refused before anything of it was sealed: smaller ones may still go.
                Err(LinkError::Pad(PadError::Spent)) if !body.is_empty() => Answer::Refused {
                    seq: row.change.seq,
                    refusal: Refusal::Pad,
                },
                asked => asked?,
            };
            drop(body);
            sent = true;
            if !self.answered(row, answer).await? {
                break;
            }
        }
        if sent { self.refresh_value(false).await } else { Ok(()) }
    }

    /// Records an answer. Returns whether to go on sending now.
    async fn answered(&mut self, row: OutboxRow, answer: Answer) -> Result<bool, Ended> {
        let notice = match &answer {
            Answer::Done { seq, .. } if *seq == row.change.seq => self.note_alias(&row.change.operation).await?,
            Answer::Refused { seq, refusal } if *seq == row.change.seq => self.notice_for(&row, *refusal),
            _ => return Err(Ended::Nonsense),
        };
        let go_on = !matches!(
            answer,
            Answer::Refused {
                refusal: Refusal::Busy,
                ..
            }
        );
        self.store
            .answered(row.row, answer, notice, self.host.clock.unix_seconds())
            .await?;
        Ok(go_on)
    }

    /// An alias is written before its change is finished: a crash between repeats a write that changes nothing.
    /// The first alias comes with a welcome.
    async fn note_alias(&mut self, operation: &Operation) -> Result<Option<Vec<u8>>, Ended> {
        let (local, open) = match operation {
            Operation::AliasOpen { local } => (local, true),
            Operation::AliasClose { local } => (local, false),
            Operation::Submit { .. } => return Ok(None),
        };
        let address = format!("{local}@{}", self.store.facts().relay_domain);
        let aliases = self.store.aliases()?;
        let alias = match aliases.iter().find(|alias| alias.address == address) {
            Some(known) => HolderAlias { open, ..known.clone() },
            None => HolderAlias {
                open,
                ..HolderAlias::new(u32::try_from(aliases.len()).unwrap_or(u32::MAX), address)
            },
        };
        let value = self.store.value();
        let welcome = Notice::Welcome {
            alias: &alias.address,
            balance: value.balance,
            keys: value.keys,
        };
        let welcome = (alias.number == 0 && open).then(|| self.compose(&welcome));
        self.store.put_alias(alias).await?;
        Ok(welcome)
    }

    fn notice_for(&self, row: &OutboxRow, refusal: Refusal) -> Option<Vec<u8>> {
        let is_mail = matches!(row.change.operation, Operation::Submit { .. });
        let reason;
        let notice = match refusal {
            Refusal::Busy => return None,
            Refusal::Value { shortfall } => Notice::Held {
                subject: &row.label,
                shortfall,
            },
            Refusal::Price { price, .. } => Notice::Repriced {
                subject: &row.label,
                price,
            },
            Refusal::Stale => Notice::Unknown { subject: &row.label },
            _ if !is_mail => return None,
            other => {
                reason = refusal_reason(other);
                Notice::Refused {
                    subject: &row.label,
                    reason: &reason,
                }
            }
        };
        Some(self.compose(&notice))
    }

    fn compose(&self, notice: &Notice<'_>) -> Vec<u8> {
        compose(self.host, self.config, notice)
    }

    async fn collect(&mut self) -> Result<(), Ended> {
        let Courier {
            config, host, store, ..
        } = *self;
        collecting::collect(host, store, config, &mut self.link, &self.stop).await
    }
}

/// A message of the bridge itself to its user.
pub(super) fn compose(host: &Host, config: &HolderConfig, notice: &Notice<'_>) -> Vec<u8> {
    message::notice(notice, &config.user, &names::random(host), host.clock.unix_seconds())
}

/// What an answer of another kind than was asked for means.
pub(super) fn unexpected(answer: &Answer) -> Ended {
    match answer {
        Answer::Refused {
            refusal: Refusal::Busy, ..
        } => Ended::Busy,
        _ => Ended::Nonsense,
    }
}

/// What a refusal means to the person who sent the mail.
pub(crate) fn refusal_reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::Sender => "the relay does not know the sending alias as one of yours, or it is closed".into(),
        Refusal::Route { recipient } => format!("the relay has no way to the domain of recipient {}", recipient + 1),
        Refusal::Recipient { recipient } => format!("recipient {} is not an address", recipient + 1),
        Refusal::Keys => {
            "the pack's link keys are nearly used up, and the last ones only collect mail: get a new pack".into()
        }
        Refusal::Pad => "what is left of the pad does not hold it: send something shorter, or get a new pack".into(),
        Refusal::Message => "the relay cannot rebuild the message from the fields it lets through".into(),
        Refusal::Conflict | Refusal::Malformed | Refusal::Unacknowledged => {
            "the relay and this bridge disagree about the request; please report this".into()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
pub(super) mod tests;
