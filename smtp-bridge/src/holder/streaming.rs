//! Mail that leaves while the answers to what left before are under way: for a relay at its peers, whose outbox holds the
//! mail of many. A bridge sends one message after the other.

use std::collections::BTreeMap;
use std::pin::pin;

use mailbox::holder_store::OutboxRow;
use mailbox::request::{Request, UNACKNOWLEDGED_MAX};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::answers::{Answers, record};
use super::courier::Ended;
use super::requests::{Line, Requests};
use crate::link::LinkError;

/// Most messages that are sent and not recorded as answered.
const UNDER_WAY_MAX: usize = 64;
/// Larger mail goes by itself.
const KILOBYTES_MAX: u32 = 64;
/// After so many something else has its turn on the link.
const SENT_MAX: usize = 256;

/// How it went.
pub(super) struct Streamed {
    /// Anything was sent.
    pub(super) sent: bool,
    /// What follows may be sent now.
    pub(super) goes_on: bool,
}

/// Sends small mail from the front of the outbox until something else stands there, the relay is busy, or it is enough.
/// An error for which the link is kept leaves nothing under way on it.
pub(super) async fn send<S: HolderStore>(
    answers: &mut Answers<'_, S>,
    link: &mut Requests,
    stop: &watch::Receiver<bool>,
) -> Result<Streamed, Ended> {
    let done = Streamed {
        sent: false,
        goes_on: true,
    };
    if answers.store.queued_mail_behind(0, KILOBYTES_MAX)?.is_none() {
        return Ok(done);
    }
    let (line, sending) = link.several();
    let mut stream = Stream {
        answers,
        line,
        sent: BTreeMap::new(),
        recording: JoinSet::new(),
        stop,
        behind: 0,
        count: 0,
        goes_on: true,
    };
    let mut sending = pin!(sending);
    let ran = tokio::select! {
        biased;
        ran = stream.run() => ran,
        Err(error) = &mut sending => Err(error.into()),
    };
    // What was answered is recorded whatever became of the link: cut off half-way, its sender might be told twice.
    while stream.recording.join_next().await.is_some() {}
    match ran {
        Err(Ended::Link(_) | Ended::Nonsense) => {}
        // What fills the last burst up belongs to it.
        _ => stream.line.end(sending).await?,
    }
    ran.map(|()| Streamed {
        sent: stream.count > 0,
        goes_on: stream.goes_on && stream.count < SENT_MAX,
    })
}

struct Stream<'l, 'a, 'b, S> {
    answers: &'b mut Answers<'a, S>,
    line: Line<'l>,
    /// Sent and not answered, by stream.
    sent: BTreeMap<u32, OutboxRow>,
    /// Answers on their way to the disk.
    recording: JoinSet<Result<(), StoreError>>,
    stop: &'b watch::Receiver<bool>,
    /// Number of the last change that was sent.
    behind: u64,
    count: usize,
    /// Nothing has said that it is enough.
    goes_on: bool,
}

impl<S: HolderStore> Stream<'_, '_, '_, S> {
    async fn run(&mut self) -> Result<(), Ended> {
        let mut failed = None;
        loop {
            if failed.is_none() {
                failed = self.fill().err().map(Ended::Store);
            }
            if self.sent.is_empty() && self.recording.is_empty() {
                return failed.map_or(Ok(()), Err);
            }
            tokio::select! {
                biased;
                Some(recorded) = self.recording.join_next() => match recorded {
                    Ok(Ok(())) => {}
                    // What is under way is answered all the same, and asked for again by its number.
                    Ok(Err(error)) => failed = Some(Ended::Store(error)),
                    Err(_) => return Err(LinkError::Closed.into()),
                },
                incoming = self.line.next(), if !self.sent.is_empty() => {
                    let incoming = incoming?;
                    let row = self.sent.remove(&incoming.stream).ok_or(LinkError::Broken)?;
                    if !incoming.head.is_bare() {
                        return Err(LinkError::Broken.into());
                    }
                    let judged = self.answers.judge(row, incoming.answer).await?;
                    self.goes_on &= judged.goes_on;
                    let Answers { host, store, config, .. } = &self.answers;
                    let now = host.clock.unix_seconds();
                    self.recording.spawn(record((*store).clone(), config.settle.clone(), judged, now));
                }
            }
        }
    }

    /// Sends as much as may be under way.
    fn fill(&mut self) -> Result<(), StoreError> {
        let store = self.answers.store;
        while self.goes_on
            && !*self.stop.borrow()
            && self.count < SENT_MAX
            && self.sent.len() + self.recording.len() < UNDER_WAY_MAX
        {
            let Some(row) = store.queued_mail_behind(self.behind, KILOBYTES_MAX)? else {
                return Ok(());
            };
            // The relay keeps so many answers that are not acknowledged, and one that tarries holds up the acknowledging of
            // all behind it.
            let ahead = row.change.seq.saturating_sub(store.acknowledged());
            if ahead > UNACKNOWLEDGED_MAX / 2 && !(self.sent.is_empty() && self.recording.is_empty()) {
                return Ok(());
            }
            self.behind = row.change.seq;
            // It was cancelled just now.
            let Some(body) = store.outbox_body(row.row)?.map(Zeroizing::new) else {
                continue;
            };
            let stream = self.line.submit(&Request::Change(row.change.clone()), body);
            self.sent.insert(stream, row);
            self.count += 1;
        }
        Ok(())
    }
}
