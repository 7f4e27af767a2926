//! An established link: requests in, answers out, news on the relay's own tick.

use std::sync::Arc;

use keypacks::cell::Kind;
use keypacks::chain::KEYS_RESERVED;
use keypacks::deposit;
use mailbox::RelayStore;
use mailbox::relay_store::Account;
use mailbox::request::{self, Answer, BODY_HEADER_BYTES_MAX, COLLECT_MAX, Change, Operation, Refusal, Request};
use smtp_bridge::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing};
use smtp_bridge::net::BoxStream;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::handshake::Confirmed;
use super::over;
use super::register::Line;
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
        reader: LinkReader::new(read, confirmed.link.opener).paced(),
        writer: LinkWriter::new(write, confirmed.link.sealer).paced(),
        on_reserved_keys: on_reserved_keys(relay, confirmed.account),
        announced: false,
    };
    // Why a link ended is of no use to the relay, and of use to whoever reads its logs.
    let _ = session.run(&confirmed.linked.encode(), line, serving).await;
    relay.links.leave(session.account, name);
}

fn on_reserved_keys<S: RelayStore>(relay: &Relay<S>, account: Account) -> bool {
    matches!(relay.store.balance(account), Ok(Answer::Balance { keys, .. }) if keys < KEYS_RESERVED)
}

struct Session<'a, S> {
    relay: &'a Arc<Relay<S>>,
    account: Account,
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    /// Whether this link's key is one of the last, which serve everything but submissions.
    on_reserved_keys: bool,
    /// Whether the holder was told of what waits since it last collected.
    announced: bool,
}

impl<S: RelayStore> Session<'_, S> {
    async fn run(&mut self, linked: &[u8], line: Line, serving: &Semaphore) -> Result<(), LinkError> {
        let Line { mut superseded, bell } = line;
        self.writer.send_bare(Kind::Linked, linked).await?;
        loop {
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
                (fetched, body, room) = self.fetch(index).await;
                fetched
            }
            Request::Confirm { deposits } if deposits.len() <= usize::from(COLLECT_MAX) => {
                match store.confirm(self.account, deposits).await {
                    Ok(deleted) => Answer::Confirmed { deleted },
                    Err(_) => BUSY,
                }
            }
            Request::Confirm { .. } => return Err(LinkError::Broken),
            Request::Change(change) => self.change(head, change).await?,
        };
        let header = Zeroizing::new(request::encode(&answer));
        self.writer
            .send(&Outgoing {
                kind: Kind::Answer,
                stream,
                header: &header,
                body: &body,
            })
            .await?;
        drop(room);
        Ok(())
    }

    /// The answer to a fetch, its body, and the room that the body takes in memory until it has left.
    async fn fetch(&self, index: u64) -> (Answer, Vec<u8>, Option<Room>) {
        let store = &self.relay.store;
        let kilobytes = match store.deposit_kilobytes(self.account, index) {
            Ok(Some(kilobytes)) => kilobytes,
            Ok(None) => {
                let refusal = Refusal::NoDeposit;
                return (Answer::Refused { seq: 0, refusal }, Vec::new(), None);
            }
            Err(_) => return (BUSY, Vec::new(), None),
        };
        let room = self.relay.budget.take(deposit::class_bytes(kilobytes)).await;
        match store.fetch(self.account, index, self.relay.host.day()).await {
            Ok(Ok((kilobytes, sealed))) => (Answer::Body { kilobytes }, sealed, Some(room)),
            Ok(Err(refusal)) => (Answer::Refused { seq: 0, refusal }, Vec::new(), None),
            Err(_) => (BUSY, Vec::new(), None),
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
            self.reader.discard(head, expected).await?;
            return Ok(stored);
        }
        if self.on_reserved_keys {
            self.reader.discard(head, expected).await?;
            return Ok(accept::refuse(self.relay, self.account, change, Refusal::Keys).await);
        }
        let body = self.reader.body(head, expected).await?;
        let answer = accept::submission(self.relay, self.account, change, body).await;
        drop(room);
        Ok(answer)
    }
}

/// The store could not say: the holder asks again.
const BUSY: Answer = Answer::Refused {
    seq: 0,
    refusal: Refusal::Busy,
};
