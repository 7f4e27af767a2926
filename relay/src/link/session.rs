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
use mailbox::request::{self, Answer, BODY_HEADER_BYTES_MAX, COLLECT_MAX, Change, Operation, Refusal, Request};
use smtp_bridge::link::rotation::Answering;
use smtp_bridge::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing};
use smtp_bridge::net::BoxStream;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::handshake::{Confirmed, Leased};
use super::next_keys::NextKeys;
use super::register::Line;
use super::{over, pad};
use crate::budget::Room;
use crate::{Relay, accept};

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
        reader: LinkReader::new(read, confirmed.opening).paced(),
        writer: LinkWriter::new(write, confirmed.sealing).paced(),
        leased: confirmed.leased,
        keys_left: Arc::new(AtomicU64::new(confirmed.keys_left)),
        waiting: VecDeque::new(),
        is_turning: confirmed.rotation.rotates(),
        announced: false,
    };
    if let Some(rekey) = confirmed.rekey.filter(|_| session.is_turning) {
        let (answering, turns) = Answering::new(&confirmed.rotation);
        let keys_left = Arc::clone(&session.keys_left);
        let next = (&confirmed.rotation, rekey);
        let turn = NextKeys::new(relay, confirmed.account, next, keys_left, turns);
        session.reader = session.reader.turning(Box::new(turn));
        session.writer = session.writer.answering(answering);
    }
    // Why a link ended is of no use to the relay, and of use to whoever reads its logs.
    let pad = session.leased.as_ref().map(|leased| Arc::clone(&leased.pad));
    let erasing = async {
        match &pad {
            Some(pad) => pad::keep_erasing(relay.host.clone(), Arc::clone(pad)).await,
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
        pad::settle(&relay.host, &pad).await;
    }
}

struct Session<'a, S> {
    relay: &'a Arc<Relay<S>>,
    account: Account,
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
    /// Whether the holder was told of what waits since it last collected.
    announced: bool,
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
                _ = &mut superseded => return self.writer.close().await,
                () = over(serving) => return self.writer.close().await,
                () = bell.notified() => {
                    if !self.announced && self.relay.store.waiting(self.account) {
                        self.writer.send_bare(Kind::New, &[]).await?;
                        self.announced = true;
                    }
                }
                turned = self.writer.next_turn() => self.writer.send_turn(turned).await?,
                head = self.reader.next() => {
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
        let answer = match request {
            Request::Balance => store.balance(self.account).unwrap_or(BUSY),
            Request::Prices => Answer::Prices(store.prices()),
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
            Request::Change(change) => self.change(head, change).await?,
        };
        let header = Zeroizing::new(request::encode(&answer));
        let answer = Outgoing {
            kind: Kind::Answer,
            stream,
            header: &header,
            body: &body,
        };
        let sent = self.answer(&answer).await;
        drop(room);
        sent
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

    async fn change(&mut self, head: Head, change: Change) -> Result<Answer, LinkError> {
        let Operation::Submit { kilobytes, .. } = change.operation else {
            return Ok(accept::change(self.relay, self.account, change).await);
        };
        if !deposit::is_class(kilobytes) || head.header.len() > BODY_HEADER_BYTES_MAX {
            return Err(LinkError::Broken);
        }
        let expected = deposit::class_bytes(kilobytes);
        // Taking room before reading on is what pushes back when memory is short.
        let room = self.relay.budget.take(2 * expected).await;
        if let Some(stored) = accept::answered_before(self.relay, self.account, &change) {
            Self::turning(&mut self.writer, self.reader.discard(head, expected)).await?;
            return Ok(stored);
        }
        if self.on_reserved_keys() {
            Self::turning(&mut self.writer, self.reader.discard(head, expected)).await?;
            return Ok(accept::refuse(self.relay, self.account, change, Refusal::Keys).await);
        }
        let body = Self::turning(&mut self.writer, self.reader.body(head, expected)).await?;
        if self.on_reserved_keys() {
            // The link came to its last keys on the way.
            return Ok(accept::refuse(self.relay, self.account, change, Refusal::Keys).await);
        }
        if !answers_fit(self.leased.as_ref(), 0) {
            return Ok(accept::refuse(self.relay, self.account, change, Refusal::Pad).await);
        }
        let answer = accept::submission(self.relay, self.account, change, body).await;
        drop(room);
        Ok(answer)
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

/// The store could not say: the holder asks again.
const BUSY: Answer = Answer::Refused {
    seq: 0,
    refusal: Refusal::Busy,
};
