//! An established link: requests in, answers out, news on the relay's own tick.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keypacks::cell::Kind;
use keypacks::chain::KEYS_RESERVED;
use keypacks::deposit;
use keypacks::pad::{Direction, End, PadError};
use mailbox::RelayStore;
use mailbox::relay_store::Account;
use mailbox::request::{
    self, Answer, BODY_HEADER_BYTES_MAX, COLLECT_MAX, Change, OnwardPrices, Operation, Rate, Refusal, Request,
};
use smtp_bridge::link::cover::Covering;
use smtp_bridge::link::erasing;
use smtp_bridge::link::rotation::Answering;
use smtp_bridge::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing};
use smtp_bridge::net::BoxStream;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use zeroize::Zeroizing;

use super::handshake::{Confirmed, Leased};
use super::next_keys::NextKeys;
use super::register::Line;
use super::{cover, over, through};
use crate::budget::Room;
use crate::{Relay, accept, mix};

/// Serves a link until either side ends it, a newer link of the account takes its place, or the process stops.
pub(super) async fn serve<S: RelayStore>(
    relay: &Arc<Relay<S>>,
    stream: BoxStream,
    confirmed: Confirmed,
    serving: &Semaphore,
) {
    let name = u64::from_le_bytes(relay.host.random());
    let line = relay.links.enter(confirmed.account, name);
    relay.metrics.links.count();
    let (read, write) = tokio::io::split(stream);
    let mut session = Session {
        relay,
        account: confirmed.account,
        root: confirmed.root,
        reader: LinkReader::new(read, confirmed.opening).paced(),
        writer: LinkWriter::new(write, confirmed.sealing).paced(),
        leased: confirmed.leased,
        keys_left: Arc::new(AtomicU64::new(confirmed.keys_left)),
        waiting: VecDeque::new(),
        is_turning: confirmed.rotation.rotates(),
        accepting: JoinSet::new(),
        announced: false,
        told: relay.store.prices().version,
    };
    if let Some(rekey) = confirmed.rekey.filter(|_| session.is_turning) {
        let (answering, turns) = Answering::new(&confirmed.rotation);
        let keys_left = Arc::clone(&session.keys_left);
        let next = (&confirmed.rotation, rekey);
        let turn = NextKeys::new(relay, (confirmed.account, confirmed.root), next, keys_left, turns);
        session.reader = session.reader.turning(Box::new(turn));
        session.writer = session.writer.answering(answering);
    }
    // Why a link ended is of no use to the relay, and of use to whoever reads its logs.
    let pad = session.leased.as_ref().map(|leased| Arc::clone(&leased.pad));
    let erasing = async {
        match &pad {
            Some(pad) => erasing::keep_erasing(relay.host.clone(), Arc::clone(pad)).await,
            None => std::future::pending().await,
        }
    };
    let linked = confirmed.linked.encode();
    tokio::select! {
        biased;
        _ = session.run(&linked, line, serving) => {}
        () = erasing => {}
    }
    relay.links.leave(session.account, name);
    if let Some(Leased { pad, end }) = session.leased {
        // What is left of the lease is never used.
        pad.finished(Direction::Up, end);
        erasing::settle(&relay.host, &pad).await;
    }
}

struct Session<'a, S> {
    relay: &'a Arc<Relay<S>>,
    account: Account,
    /// Number of the root that the link's keys are of.
    root: u64,
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    /// Link keys left behind the one in use.
    keys_left: Arc<AtomicU64>,
    /// Requests that came while an answer was under way.
    waiting: VecDeque<Head>,
    /// Whether the link goes on under new keys.
    is_turning: bool,
    /// Of an account with a pad.
    leased: Option<Leased>,
    /// Submissions that were read whole and are being accepted, while the next ones are read.
    accepting: JoinSet<(u32, Answer)>,
    /// Whether the holder was told of what waits since it last collected.
    announced: bool,
    /// Version of the prices that the holder has, or was told to ask for.
    told: u32,
}

impl<S: RelayStore> Session<'_, S> {
    async fn run(&mut self, linked: &[u8], line: Line, serving: &Semaphore) -> Result<(), LinkError> {
        let Line { mut superseded, bell } = line;
        self.writer.send_bare(Kind::Linked, linked).await?;
        loop {
            if let Some(head) = self.waiting.pop_front() {
                tokio::select! {
                    biased;
                    _ = &mut superseded => return Err(LinkError::Closed),
                    handled = self.handle(head) => handled?,
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = &mut superseded => {
                    self.settle().await?;
                    return self.writer.close().await;
                }
                () = over(serving) => {
                    self.settle().await?;
                    return self.writer.close().await;
                }
                Some(accepted) = self.accepting.join_next() => self.accepted(accepted).await?,
                () = bell.notified() => {
                    let prices = self.relay.store.prices().version;
                    let waits = self.relay.store.waiting(self.account);
                    if prices != self.told || waits && !self.announced {
                        self.writer.send_bare(Kind::New, &[]).await?;
                        (self.announced, self.told) = (waits, prices);
                    }
                }
                turned = self.writer.next_turn() => self.writer.send_turn(turned).await?,
                head = self.reader.next(), if self.accepting.len() < ACCEPTING_MAX => {
                    let head = head?;
                    tokio::select! {
                        biased;
                        // In the middle of a message there is no place for a CLOSE. A change under way is committed or
                        // will be asked again on the newer link.
                        _ = &mut superseded => return Err(LinkError::Closed),
                        handled = self.handle(head) => handled?,
                    }
                }
            }
        }
    }

    async fn handle(&mut self, head: Head) -> Result<(), LinkError> {
        if head.kind != Kind::Request {
            return Err(LinkError::Broken);
        }
        let stream = head.stream;
        let request = request::decode(&head.header).map_err(|_| LinkError::Broken)?;
        if !matches!(&request, Request::Change(change) if self.may_overlap(change)) {
            // What is asked for behind a submission is answered behind it.
            self.settle().await?;
        }
        if !matches!(
            request,
            Request::Change(Change {
                operation: Operation::Submit { .. },
                ..
            })
        ) && !head.is_bare()
        {
            return Err(LinkError::Broken);
        }
        let store = &self.relay.store;
        let (mut body, mut room) = (Vec::new(), None);
        let standing = store.standing(self.account);
        let answer = match request {
            // Another device ended this one.
            _ if standing.is_dropped => return Err(LinkError::Closed),
            // Whoever has a copy of the pack from before comes this far, and no further.
            request if standing.root != self.root => replaced(self.relay, self.under(), request).await?,
            Request::Confirm { .. } if standing.is_frozen => FROZEN,
            Request::Balance => store.balance(self.account).unwrap_or(BUSY),
            Request::Prices => {
                let prices = store.prices();
                self.told = prices.version;
                Answer::Prices(prices)
            }
            Request::Onward => Answer::Onward(OnwardPrices::of(&store.onward())),
            Request::Devices => store.devices(self.account).unwrap_or(BUSY),
            Request::Mixing => mix::told(self.relay).map_or(BUSY, Answer::Mixing),
            Request::Offers => Answer::Offers(self.relay.peers.offers(self.relay.config.procure.as_ref())),
            Request::CoverOffer => Answer::CoverOffer(cover::offer(self.relay)),
            Request::Cover { rate, price_max } => return self.cover(stream, rate, price_max).await,
            Request::Directory { from } => Answer::Directory(self.relay.directory.part(from)),
            Request::Credit => store.credit(self.account).map_or(BUSY, Answer::Credit),
            Request::Statement { from } => store.services(self.account, from).unwrap_or(BUSY),
            Request::Collect { from, most } => {
                self.announced = false;
                match store.collect(self.account, from, most.min(COLLECT_MAX)) {
                    Ok((deposits, next, more)) => Answer::Collected { deposits, next, more },
                    Err(_) => BUSY,
                }
            }
            Request::Fetch { index } => {
                let fetched;
                (fetched, body, room) = fetch(self.relay, self.account, self.leased.as_ref(), index).await;
                fetched
            }
            Request::Confirm { deposits } if deposits.len() <= usize::from(COLLECT_MAX) => {
                match store.confirm(self.account, deposits).await {
                    Ok(deleted) => Answer::Confirmed { deleted },
                    Err(_) => BUSY,
                }
            }
            Request::Confirm { .. } => return Err(LinkError::Broken),
            Request::Lease { records, bytes } => self.lease(records, bytes).await?,
            Request::Through { relay } => return self.carry(stream, &relay).await,
            Request::Change(change) => match self.change(head, change).await? {
                Some(answer) => self.unless_replaced(answer)?,
                // It is answered when it is accepted.
                None => return Ok(()),
            },
        };
        let header = Zeroizing::new(request::encode(&answer));
        let is_wrong_code = matches!(
            answer,
            Answer::Refused {
                refusal: Refusal::Recovery,
                ..
            }
        );
        let answer = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &body,
        };
        let sent = self.answer(&answer).await;
        drop(room);
        match is_wrong_code {
            // Each try costs a link and its key.
            true => sent.and(Err(LinkError::Closed)),
            false => sent,
        }
    }

    /// The answer to a change, unless its root ended on the way to the commit.
    fn unless_replaced(&self, answer: Answer) -> Result<Answer, LinkError> {
        match answer {
            Answer::Refused {
                refusal: Refusal::Busy, ..
            } if self.relay.store.standing(self.account).root != self.root => Err(LinkError::Closed),
            answer => Ok(answer),
        }
    }

    /// Whether a change may be accepted while the next request is read: small mail on a link that keeps its key, and that
    /// is under no pad.
    fn may_overlap(&self, change: &Change) -> bool {
        let is_small = matches!(change.operation, Operation::Submit { kilobytes, .. } if kilobytes <= OVERLAPPING_MAX);
        is_small && !self.is_turning && self.leased.is_none()
    }

    /// Answers what is being accepted, and waits for that.
    async fn settle(&mut self) -> Result<(), LinkError> {
        while let Some(accepted) = self.accepting.join_next().await {
            self.accepted(accepted).await?;
        }
        Ok(())
    }

    /// Answers a submission that was accepted or refused.
    async fn accepted(&mut self, accepted: Result<(u32, Answer), JoinError>) -> Result<(), LinkError> {
        let (stream, answer) = accepted.map_err(|_| LinkError::Closed)?;
        let answer = self.unless_replaced(answer)?;
        let header = Zeroizing::new(request::encode(&answer));
        let answer = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &[],
        };
        self.writer.send(&answer).await
    }

    /// Sends an answer. Where it may have to wait for the next key, reads on meanwhile.
    async fn answer(&mut self, answer: &Outgoing<'_>) -> Result<(), LinkError> {
        if !self.is_turning {
            // Of answers only a fetched body has one, which is sealed already.
            return match answer.body {
                [] => self.writer.send(answer).await,
                _ => self.writer.send_sealed(answer).await,
            };
        }
        let mut sending = pin!(self.writer.send(answer));
        let mut over = None;
        loop {
            // Behind a body that is under way nothing else can be read.
            let may_read = over.is_none() && self.waiting.len() < WAITING_MAX && self.waiting.iter().all(Head::is_bare);
            tokio::select! {
                biased;
                sent = &mut sending => return sent.and(over.map_or(Ok(()), Err)),
                head = self.reader.next(), if may_read => match head {
                    Ok(head) => self.waiting.push_back(head),
                    // The answer is finished in any case.
                    Err(error) => over = Some(error),
                },
            }
        }
    }

    /// Does what reads a body, and meanwhile goes on under the keys that it turns to.
    async fn turning<T>(
        writer: &mut LinkWriter<WriteHalf<BoxStream>>,
        reading: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut reading = pin!(reading);
        loop {
            tokio::select! {
                biased;
                turned = writer.next_turn() => writer.send_turn(turned).await?,
                read = &mut reading => return read,
            }
        }
    }

    fn on_reserved_keys(&self) -> bool {
        self.keys_left.load(Ordering::Relaxed) < KEYS_RESERVED
    }

    /// Carries another link from here on, if it may.
    async fn carry(&mut self, stream: u32, to: &str) -> Result<(), LinkError> {
        let refused = |refusal| Answer::Refused { seq: 0, refusal };
        let reached = through::reach(self.relay, to).await;
        let answer = match &reached {
            // What goes on under new keys reads and writes by turns, and what is under a pad takes it up.
            _ if self.is_turning || self.leased.is_some() => refused(Refusal::Malformed),
            _ if self.on_reserved_keys() => refused(Refusal::Keys),
            Ok(_) => Answer::Through,
            Err(refusal) => refused(*refusal),
        };
        let header = Zeroizing::new(request::encode(&answer));
        let message = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &[],
        };
        self.writer.send(&message).await?;
        let (Ok(reached), Answer::Through) = (reached, answer) else {
            return Ok(());
        };
        through::carry(self.relay, (&mut self.reader, &mut self.writer), reached, stream).await
    }

    /// Covers the link from the answer on, if it may be.
    async fn cover(&mut self, stream: u32, rate: Rate, price_max: u64) -> Result<(), LinkError> {
        let granted = match self.is_turning || self.leased.is_some() {
            // What rotates counts cells, and a pad is too dear for it.
            true => Err(Refusal::Cover),
            false => cover::begin(self.relay, self.account, rate, price_max).await,
        };
        let answer = match &granted {
            Ok(_) => Answer::Covered,
            Err(refusal) => Answer::Refused {
                seq: 0,
                refusal: *refusal,
            },
        };
        let header = Zeroizing::new(request::encode(&answer));
        let message = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &[],
        };
        self.writer.send(&message).await?;
        let Ok(toll) = granted else { return Ok(()) };
        let covering = Covering::begin();
        let pump = self.writer.cover(rate, Arc::clone(&covering), Some(toll));
        let intake = self.reader.cover(rate, covering, false);
        // Asked for twice on one link.
        let (Some(pump), Some(intake)) = (pump, intake) else {
            return Err(LinkError::Broken);
        };
        self.relay.host.task(pump);
        self.relay.host.task(intake);
        Ok(())
    }

    /// Leases more of the pad to this link.
    async fn lease(&mut self, records: u64, bytes: u64) -> Result<Answer, LinkError> {
        let Some(Leased { pad, end }) = &mut self.leased else {
            return Err(LinkError::Broken);
        };
        let (file, from) = (Arc::clone(pad), *end);
        let longer = self
            .relay
            .host
            .compute(move || file.lease_more(from, records, bytes))
            .await;
        match longer {
            Some(Ok(Some(longer))) => {
                *end = longer;
                self.relay.store.renew_pad(self.account);
                Ok(Answer::Leased {
                    records: longer.record,
                    bytes: longer.offset,
                })
            }
            // Another link of the account has begun.
            Some(Ok(None)) => Err(LinkError::Closed),
            Some(Err(PadError::Spent)) => Ok(Answer::Refused {
                seq: 0,
                refusal: Refusal::Pad,
            }),
            Some(Err(PadError::Unreadable)) | None => Ok(BUSY),
        }
    }

    fn under(&self) -> accept::Under {
        (self.account, self.root)
    }

    /// Carries a change out. `None`: its body was read, and it is being accepted.
    async fn change(&mut self, head: Head, change: Change) -> Result<Option<Answer>, LinkError> {
        let Operation::Submit { kilobytes, .. } = change.operation else {
            if matches!(change.operation, Operation::Procure { .. }) && self.on_reserved_keys() {
                // Unless it was asked for before: then its answer is kept.
                return Ok(Some(match accept::answered_before(self.relay, self.account, &change) {
                    Some(stored) => stored,
                    None => accept::refuse(self.relay, self.under(), change, Refusal::Keys).await,
                }));
            }
            let answer = accept::change(self.relay, self.under(), change).await;
            if matches!(answer, Answer::Moved { .. } | Answer::Endowed { .. })
                && let Ok(Answer::Balance { keys, .. }) = self.relay.store.balance(self.account)
            {
                self.keys_left.store(keys, Ordering::Relaxed);
            }
            return Ok(Some(answer));
        };
        if !deposit::is_class(kilobytes) || head.header.len() > BODY_HEADER_BYTES_MAX {
            return Err(LinkError::Broken);
        }
        let expected = deposit::class_bytes(kilobytes);
        // Taking room before reading on is what pushes back when memory is short.
        let room = self.relay.budget.take(2 * expected).await;
        if let Some(stored) = accept::answered_before(self.relay, self.account, &change) {
            Self::turning(&mut self.writer, self.reader.discard(head, expected)).await?;
            return Ok(Some(stored));
        }
        if self.on_reserved_keys() {
            Self::turning(&mut self.writer, self.reader.discard(head, expected)).await?;
            let refused = accept::refuse(self.relay, self.under(), change, Refusal::Keys).await;
            return Ok(Some(refused));
        }
        let stream = head.stream;
        let body = Self::turning(&mut self.writer, self.reader.body(head, expected)).await?;
        let refusal = if self.on_reserved_keys() {
            // The link came to its last keys on the way.
            Some(Refusal::Keys)
        } else {
            (!answers_fit(self.leased.as_ref(), 0)).then_some(Refusal::Pad)
        };
        if let Some(refusal) = refusal {
            return Ok(Some(accept::refuse(self.relay, self.under(), change, refusal).await));
        }
        if !self.may_overlap(&change) {
            let answer = accept::submission(self.relay, self.under(), change, body).await;
            drop(room);
            return Ok(Some(answer));
        }
        let (relay, under) = (Arc::clone(self.relay), self.under());
        self.accepting.spawn(async move {
            let answer = accept::submission(&relay, under, change, body).await;
            // Before it is sent: this link may be waiting for room meanwhile.
            drop(room);
            (stream, answer)
        });
        Ok(None)
    }
}

/// Under a root that was replaced there is one answer to be had: that of the change that did it, or that another did.
async fn replaced<S: RelayStore>(
    relay: &Relay<S>,
    under: accept::Under,
    request: Request,
) -> Result<Answer, LinkError> {
    let Request::Change(
        change @ Change {
            operation: Operation::Reroot { .. },
            ..
        },
    ) = request
    else {
        return Err(LinkError::Closed);
    };
    match accept::change(relay, under, change).await {
        Answer::Refused {
            refusal: Refusal::Busy, ..
        } => Err(LinkError::Closed),
        answer => Ok(answer),
    }
}

/// Whether an answer with so long a sealed body leaves enough of a pad for the last requests.
fn answers_fit(leased: Option<&Leased>, body: usize) -> bool {
    let records = body.div_ceil(keypacks::pad::DATA_MAX).next_power_of_two() as u64;
    leased.is_none_or(|leased| leased.pad.answers_fit(2 * records))
}

/// The answer to a fetch, its body, and the room that the body takes in memory until it has left.
async fn fetch<S: RelayStore>(
    relay: &Relay<S>,
    account: Account,
    leased: Option<&Leased>,
    index: u64,
) -> (Answer, Vec<u8>, Option<Room>) {
    let store = &relay.store;
    let kilobytes = match store.deposit_kilobytes(account, index) {
        Ok(Some(kilobytes)) => kilobytes,
        Ok(None) => {
            let refusal = Refusal::NoDeposit;
            return (Answer::Refused { seq: 0, refusal }, Vec::new(), None);
        }
        Err(_) => return (BUSY, Vec::new(), None),
    };
    if !answers_fit(leased, deposit::class_bytes(kilobytes)) {
        let refusal = Refusal::Pad;
        return (Answer::Refused { seq: 0, refusal }, Vec::new(), None);
    }
    let room = relay.budget.take(deposit::class_bytes(kilobytes)).await;
    match store.fetch(account, index, relay.host.day()).await {
        Ok(Ok((kilobytes, sealed))) => (Answer::Body { kilobytes }, sealed, Some(room)),
        Ok(Err(refusal)) => (Answer::Refused { seq: 0, refusal }, Vec::new(), None),
        Err(_) => (BUSY, Vec::new(), None),
    }
}

/// Most requests that are read while an answer is under way: what a holder has under way at one time.
const WAITING_MAX: usize = 80;

/// Most submissions of one link that are being accepted at one time.
const ACCEPTING_MAX: usize = 64;
/// Larger mail is accepted before anything else is read, in units of 1,000 bytes.
const OVERLAPPING_MAX: u32 = 64;

/// Nothing is deleted that a second holder may have collected.
const FROZEN: Answer = Answer::Refused {
    seq: 0,
    refusal: Refusal::Frozen,
};

/// The store could not say: the holder asks again.
const BUSY: Answer = Answer::Refused {
    seq: 0,
    refusal: Refusal::Busy,
};
