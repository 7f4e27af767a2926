//! How mail comes in: wraps ahead, bodies while those before are made durable, confirmations behind.
//!
//! ```text
//! Collect -> wraps opened -> collected, durable -> Fetch -> body opened -> stored, durable -> Confirm -> confirmed, durable
//! ```
//!
//! What carried deposits passed over is asked for first.
//!
//! All stages work at once on different deposits. What the store is asked for while a commit is under way makes the next
//! one. Nothing is kept here that the store has not: a link that is cut, or a store that refuses, leaves deposits
//! pending or unconfirmed, and the next collecting begins with those.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;

use keypacks::chain::BoxStep;
use keypacks::deposit;
use mailbox::devices::{EVENTS, Event, decode_events};
use mailbox::holder_store::{Flags, FolderId, OpenedDeposit, PendingDeposit};
use mailbox::parcel::{self, RECEIPTS, Receipt};
use mailbox::request::{self, Answer, COLLECT_MAX, Collected, Refusal, Request};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::HolderConfig;
use super::courier::{Ended, compose, unexpected};
use super::requests::{Incoming, Line, Requests};
use crate::imap;
use crate::link::LinkError;
use crate::message::Notice;
use crate::net::{Host, Promise};

mod load;
mod notices;
mod opened;
mod own;

use self::load::Load;
pub(crate) use self::notices::{notices_of, notices_of_devices};
use self::opened::read;
pub(crate) use self::opened::{as_kept, open};

/// Most bodies that are asked for at one time: enough for the line to be busy while a commit is under way.
const FETCHES_MAX: usize = 64;
/// A message of this length is opened and looked through where it holds up no other task.
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// Collects, fetches, stores and confirms until nothing more waits. An error for which the link is kept leaves nothing
/// under way on it.
///
/// A body that the disk has no room for is not fetched, and holds up no other. Returns the room that the least of those
/// wants, in bytes.
pub(super) async fn collect<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    link: &mut Requests,
    stop: &watch::Receiver<bool>,
) -> Result<Option<u64>, Ended> {
    link.news = false;
    let (line, sending) = link.several();
    let mut collecting = Collecting {
        host,
        store,
        config,
        stop,
        line,
        asked: BTreeMap::new(),
        wraps: Wraps::Wanted,
        queue: store.pending()?.into(),
        left_out: None,
        unstored: Load::default(),
        fetches: 0,
        may_fetch: true,
        batch: Batch::default(),
        unconfirmed: store.unconfirmed()?.into(),
        is_confirming: false,
        failed: None,
    };
    let mut sending = pin!(sending);
    let done = tokio::select! {
        biased;
        done = collecting.run() => done,
        Err(error) = &mut sending => Err(error.into()),
    };
    match done {
        Err(Ended::Link(_) | Ended::Nonsense) => {}
        // What fills the last burst up belongs to it.
        _ => collecting.line.end(sending).await?,
    }
    done.map(|()| collecting.left_out)
}

/// What was asked under a stream.
enum Asked {
    Wraps {
        from: u64,
        /// Below what is still to be collected: only what is missing there counts.
        is_behind: bool,
    },
    Body(PendingDeposit),
    Confirmation(Vec<u64>),
}

/// How far the wraps that wait are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wraps {
    /// More may wait.
    Wanted,
    /// Asked for, or not durable yet.
    UnderWay,
    /// All that waited when they were last asked for are known.
    Known,
}

/// What the next commit is to make durable.
#[derive(Default)]
struct Batch {
    /// For INBOX, of wraps that are passed over.
    notices: Vec<Vec<u8>>,
    wraps: Option<OpenedWraps>,
    opened: Vec<OpenedDeposit>,
    /// What the opened are confirmed with.
    digests: Vec<(u64, [u8; 32])>,
    /// Receipts of parcels, by the deposit that they came in, with their notices.
    receipts: Vec<(u64, Vec<Receipt>, Vec<Vec<u8>>)>,
    /// What the account's other devices did, likewise.
    events: Vec<(u64, Vec<Event>, Vec<Vec<u8>>)>,
    /// Given up, each with its notice.
    abandoned: Vec<(u64, Vec<u8>)>,
    confirmed: Vec<u64>,
    /// The opened, the receipts, the events and the abandoned.
    load: Load,
}

struct OpenedWraps {
    deposits: Vec<PendingDeposit>,
    /// Where collecting goes on. `None`: where it stands, since these were missing behind it.
    next: Option<u64>,
    /// Missing indices that the relay was asked for.
    asked_for: Vec<u64>,
    more: bool,
}

struct Collecting<'a, S> {
    host: &'a Host,
    store: &'a S,
    config: &'a HolderConfig,
    stop: &'a watch::Receiver<bool>,
    line: Line<'a>,
    asked: BTreeMap<u32, Asked>,
    wraps: Wraps,
    /// Whose bodies are to be asked for.
    queue: VecDeque<PendingDeposit>,
    /// Room that the least body wants which was not asked for, since the disk has no room for it.
    left_out: Option<u64>,
    /// Asked for and not durable.
    unstored: Load,
    /// Asked for and not answered.
    fetches: usize,
    /// Whether the relay gives bodies out for now.
    may_fetch: bool,
    batch: Batch,
    unconfirmed: VecDeque<(u64, [u8; 32])>,
    is_confirming: bool,
    /// Why nothing more is asked for, though the link stands.
    failed: Option<Ended>,
}

impl<'a, S: HolderStore> Collecting<'a, S> {
    async fn run(&mut self) -> Result<(), Ended> {
        let mut commit: Option<Promise<'a, Result<Batch, StoreError>>> = None;
        loop {
            self.ask();
            if commit.is_none() && !self.batch.is_empty() {
                let batch = std::mem::take(&mut self.batch);
                commit = Some(Box::pin(batch.commit(self.store, self.host.clock.unix_seconds())));
            }
            if commit.is_none() && self.asked.is_empty() {
                return self.failed.take().map_or(Ok(()), Err);
            }
            tokio::select! {
                biased;
                committed = async { commit.as_mut().expect("looked at before").await }, if commit.is_some() => {
                    commit = None;
                    self.committed(committed);
                }
                incoming = self.line.next(), if !self.asked.is_empty() => self.answered(incoming?).await?,
            }
        }
    }

    /// Asks for what may be asked for now, in one burst that needs no padding: the rest goes with the next answer.
    fn ask(&mut self) {
        if self.failed.is_some() || *self.stop.borrow() {
            return;
        }
        let mut burst = Vec::new();
        let bodies = self.askable();
        let is_drained = self.queue.is_empty() && self.unstored.count == 0;
        let most = usize::from(COLLECT_MAX);
        if self.wraps == Wraps::Wanted && self.queue.len() < most {
            let missing = self.store.missing().first().copied();
            let from = missing.unwrap_or_else(|| self.store.collect_from());
            let is_behind = missing.is_some();
            self.wraps = Wraps::UnderWay;
            let request = Request::Collect {
                from,
                most: COLLECT_MAX,
            };
            burst.push((request, Asked::Wraps { from, is_behind }));
        }
        if !self.is_confirming && !self.unconfirmed.is_empty() && (is_drained || self.unconfirmed.len() >= most) {
            let deposits: Vec<_> = self.unconfirmed.drain(..most.min(self.unconfirmed.len())).collect();
            let indices = deposits.iter().map(|(index, _)| *index).collect();
            self.is_confirming = true;
            burst.push((Request::Confirm { deposits }, Asked::Confirmation(indices)));
        }
        let Some(power) = (burst.len() + bodies).checked_ilog2() else {
            return;
        };
        let bodies = (1 << power) - burst.len();
        for pending in self.queue.drain(..bodies) {
            self.unstored.add(&pending);
            self.fetches += 1;
            let request = Request::Fetch { index: pending.index };
            burst.push((request, Asked::Body(pending)));
        }
        let (requests, asked): (Vec<_>, Vec<_>) = burst.into_iter().unzip();
        self.asked.extend(self.line.ask(&requests).into_iter().zip(asked));
    }

    /// How many bodies may be asked for now. None while most of those asked for before are still to come: one at a time
    /// would cost a system call each.
    fn askable(&mut self) -> usize {
        if !self.may_fetch || self.fetches > FETCHES_MAX / 2 || self.queue.is_empty() {
            return 0;
        }
        let disk = match self.store.room() {
            Ok(room) => room,
            Err(error) => {
                self.fail(error.into());
                return 0;
            }
        };
        if self.unstored.count == 0 {
            self.leave_out(disk);
        }
        let mut load = self.unstored;
        let room = FETCHES_MAX - self.fetches;
        let fitting = self.queue.iter().take(room).take_while(|pending| {
            let fits = load.has_room_for(pending);
            load.add(pending);
            fits && load.wants() <= disk
        });
        fitting.count()
    }

    /// Passes over the bodies next in line that the disk has no room for, even one by one: each would be fetched in vain,
    /// and be paid for. They stay pending.
    fn leave_out(&mut self, disk: u64) {
        while let Some(pending) = self.queue.front() {
            let mut alone = Load::default();
            alone.add(pending);
            let wanted = alone.wants();
            if wanted <= disk {
                return;
            }
            self.left_out = Some(self.left_out.map_or(wanted, |least| least.min(wanted)));
            self.queue.pop_front();
        }
    }

    async fn answered(&mut self, incoming: Incoming) -> Result<(), Ended> {
        let asked = self.asked.remove(&incoming.stream).ok_or(LinkError::Broken)?;
        match (asked, incoming.answer) {
            (Asked::Body(pending), Answer::Body { kilobytes })
                if kilobytes == pending.kilobytes && deposit::is_class(kilobytes) =>
            {
                self.fetches -= 1;
                let bytes = deposit::class_bytes(kilobytes);
                let body = self.line.body(incoming.head, bytes).await?;
                self.take_body(pending, body).await
            }
            _ if !incoming.head.is_bare() => Err(LinkError::Broken.into()),
            (Asked::Body(pending), answer) => {
                self.fetches -= 1;
                self.take_refusal(&pending, &answer)
            }
            (Asked::Wraps { from, is_behind }, Answer::Collected { deposits, next, more }) => {
                self.take_wraps((from, is_behind), deposits, next, more)
            }
            (Asked::Confirmation(indices), Answer::Confirmed { .. }) => {
                self.is_confirming = false;
                self.batch.confirmed.extend(indices);
                Ok(())
            }
            // They stay unconfirmed here, and wait there, until the pack has new keys.
            (
                Asked::Confirmation(_),
                Answer::Refused {
                    refusal: Refusal::Frozen,
                    ..
                },
            ) => {
                self.is_confirming = false;
                Ok(())
            }
            (Asked::Wraps { .. } | Asked::Confirmation(_), answer) => match unexpected(&answer) {
                Ended::Busy => {
                    self.fail(Ended::Busy);
                    Ok(())
                }
                ended => Err(ended),
            },
        }
    }

    fn take_wraps(
        &mut self,
        (from, is_behind): (u64, bool),
        entries: Vec<Collected>,
        next: u64,
        more: bool,
    ) -> Result<(), Ended> {
        if next < from || next - from > request::COLLECT_STEP_MAX || (more && next == from) {
            return Err(Ended::Nonsense);
        }
        if next == from && !entries.is_empty() {
            return Err(Ended::Nonsense);
        }
        if next == from && !is_behind {
            self.wraps = Wraps::Known;
            return Ok(());
        }
        let mut asked_for = Vec::new();
        let steps: Vec<BoxStep> = if is_behind {
            asked_for = self.store.missing();
            asked_for.retain(|index| (from..next).contains(index) || (!more && *index >= next));
            let step = |index: &u64| self.store.post_step(*index);
            asked_for.iter().filter_map(step).collect()
        } else {
            let end = entries.last().map_or(from, |entry| index_of(entry).saturating_add(1));
            self.store.post_steps(end.min(next).saturating_sub(from))
        };
        let mut steps = steps.into_iter().peekable();
        let (mut deposits, mut gone) = (Vec::new(), 0);
        let mut before = None;
        for entry in entries {
            let index = index_of(&entry);
            if !(from..next).contains(&index) || before >= Some(index) {
                return Err(Ended::Nonsense);
            }
            before = Some(index);
            while steps.next_if(|step| step.index < index).is_some() {}
            let Some(step) = steps.next_if(|step| step.index == index) else {
                match is_behind {
                    // It is here, or comes again behind.
                    true => continue,
                    false => return Err(Ended::Nonsense),
                }
            };
            let Collected::Wrap { wrap, .. } = entry else {
                gone += 1;
                continue;
            };
            let Ok(fields) = deposit::open_wrap(&step, &wrap) else {
                // Never confirmed; its key is kept with the gaps, and one bad wrap does not hold up the rest.
                tracing::error!("the relay served a wrap that does not open");
                self.batch.notices.push(self.compose(&Notice::Damaged));
                continue;
            };
            deposits.push(PendingDeposit {
                index,
                wrap_digest: deposit::wrap_digest(&wrap),
                dek: fields.dek,
                body_digest: fields.body_digest,
                length: fields.length,
                kilobytes: fields.kilobytes,
                alias: fields.alias,
            });
        }
        if gone > 0 {
            self.batch.notices.push(self.compose(&Notice::Expired { count: gone }));
        }
        self.batch.wraps = Some(OpenedWraps {
            deposits,
            next: (!is_behind).then_some(next),
            asked_for,
            more: more || is_behind,
        });
        Ok(())
    }

    async fn take_body(&mut self, pending: PendingDeposit, mut body: Zeroizing<Vec<u8>>) -> Result<(), Ended> {
        if matches!(self.failed, Some(Ended::Store(_))) {
            return Ok(());
        }
        let (index, digest) = (pending.index, pending.wrap_digest);
        let body = std::mem::take(&mut *body);
        self.batch.load.add(&pending);
        let opened = if body.len() < LARGE_BYTES {
            read(self.store, &pending, body)
        } else {
            let (store, pending) = (self.store.clone(), pending.duplicate());
            match self.host.compute(move || read(&store, &pending, body)).await {
                Some(opened) => opened,
                None => {
                    // What cannot even be computed says nothing about the mail: it stays pending.
                    self.fail(Ended::Busy);
                    return Ok(());
                }
            }
        };
        let Some((message, summary)) = opened? else {
            self.batch.abandoned.push((index, self.compose(&Notice::Damaged)));
            return Ok(());
        };
        if pending.alias == RECEIPTS {
            match parcel::decode_receipts(&message) {
                Ok(receipts) => {
                    let notices = notices_of(self.store, &receipts, &|notice| self.compose(notice));
                    self.batch.receipts.push((index, receipts, notices));
                    self.batch.digests.push((index, digest));
                }
                Err(_) => self.batch.abandoned.push((index, self.compose(&Notice::Damaged))),
            }
            return Ok(());
        }
        if pending.alias == EVENTS {
            match decode_events(&message) {
                Ok(events) => {
                    own::note_devices(self.config, &events);
                    let notices = notices_of_devices(&events, &|notice| self.compose(notice));
                    self.batch.events.push((index, events, notices));
                    self.batch.digests.push((index, digest));
                }
                Err(_) => self.batch.abandoned.push((index, self.compose(&Notice::Damaged))),
            }
            return Ok(());
        }
        if own::takes_loop(self.host, self.config, &message).await {
            // Done with, and confirmed, as what is in no folder is.
            self.batch.receipts.push((index, Vec::new(), Vec::new()));
            self.batch.digests.push((index, digest));
            return Ok(());
        }
        let now = self.host.clock.unix_seconds();
        self.batch.opened.push(OpenedDeposit {
            index,
            summary,
            message,
            now,
        });
        self.batch.digests.push((index, digest));
        Ok(())
    }

    fn take_refusal(&mut self, pending: &PendingDeposit, answer: &Answer) -> Result<(), Ended> {
        self.batch.load.add(pending);
        match answer {
            Answer::Refused {
                refusal: Refusal::NoDeposit,
                ..
            } => self
                .batch
                .abandoned
                .push((pending.index, self.compose(&Notice::Expired { count: 1 }))),
            // Too little value to be served (where inbound mail is priced), too little pad, or a busy relay: it stays pending.
            Answer::Refused {
                refusal: Refusal::Value { .. } | Refusal::Busy | Refusal::Pad,
                ..
            } => {
                self.may_fetch = false;
                self.queue.clear();
            }
            _ => return Err(Ended::Nonsense),
        }
        Ok(())
    }

    fn committed(&mut self, committed: Result<Batch, StoreError>) {
        let batch = match committed {
            Ok(batch) => batch,
            Err(error) => return self.fail(error.into()),
        };
        self.unstored.sub(batch.load);
        self.unconfirmed.extend(batch.digests);
        if let Some(wraps) = batch.wraps {
            self.wraps = if wraps.more { Wraps::Wanted } else { Wraps::Known };
            if self.may_fetch {
                self.queue.extend(wraps.deposits);
            }
        }
    }

    /// Asks for nothing more. What is under way comes in: the link is kept.
    fn fail(&mut self, why: Ended) {
        if matches!(why, Ended::Store(_)) {
            // It would be refused again; the next collecting begins with what the store has.
            self.batch = Batch::default();
        }
        self.failed.get_or_insert(why);
    }

    fn compose(&self, notice: &Notice<'_>) -> Vec<u8> {
        compose(self.host, self.config, notice)
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.wraps.is_none() && self.load.count == 0 && self.confirmed.is_empty()
    }

    /// Returns what is durable now. Deposits appear in order: notices of what was passed over, then the wraps behind.
    async fn commit<S: HolderStore>(mut self, store: &S, now: u64) -> Result<Self, StoreError> {
        let (notices, opened) = (std::mem::take(&mut self.notices), std::mem::take(&mut self.opened));
        let (receipts, events) = (std::mem::take(&mut self.receipts), std::mem::take(&mut self.events));
        let (abandoned, confirmed) = (std::mem::take(&mut self.abandoned), std::mem::take(&mut self.confirmed));
        let wraps = self.wraps.as_ref();
        let collect = async {
            for notice in notices {
                let summary = imap::summary(&notice);
                store
                    .append(FolderId::INBOX, notice, summary, Flags::default(), now)
                    .await?;
            }
            match wraps {
                Some(wraps) => {
                    let deposits = wraps.deposits.iter().map(PendingDeposit::duplicate).collect();
                    let next = wraps.next.unwrap_or_else(|| store.collect_from());
                    store.collected(deposits, next).await?;
                    match wraps.asked_for.is_empty() {
                        true => Ok(()),
                        false => store.asked_for(wraps.asked_for.clone()).await,
                    }
                }
                None => Ok(()),
            }
        };
        let keep = async {
            let count = opened.len();
            if count > 0 && store.store_deposits(opened).await?.len() < count {
                return Err(StoreError::Full);
            }
            for (index, receipts, notices) in receipts {
                store.take_receipts(index, receipts, notices, now).await?;
            }
            for (index, events, notices) in events {
                store.take_events(index, events, notices, now).await?;
            }
            for (index, notice) in abandoned {
                store.abandon_deposit(index, notice, now).await?;
            }
            Ok(())
        };
        let forget = async {
            match confirmed.is_empty() {
                true => Ok(()),
                false => store.confirmed(confirmed).await,
            }
        };
        tokio::try_join!(collect, keep, forget)?;
        Ok(self)
    }
}

fn index_of(entry: &Collected) -> u64 {
    let (Collected::Wrap { index, .. } | Collected::Expired { index }) = entry;
    *index
}

#[cfg(test)]
mod tests;
