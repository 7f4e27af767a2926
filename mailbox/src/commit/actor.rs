//! The one who owns the stage: judges batches, has them written, answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::syncer::{Synced, Syncer, Syncing, syncer};
use super::{BATCH_MAX, Operation, Order, PATIENCE, RETRY_MS, SETTLE_MS_MAX, Stage};
use crate::StoreError;
use crate::base::Base;
use crate::keeper::Orders;
use crate::overlay::Overlay;

/// Operations in the order in which they came.
type Batch<S> = Vec<Box<dyn Operation<S>>>;

/// Owns the stage and commits. Runs on a thread of its own on a real host, since it blocks on the disk.
pub(crate) struct Actor<S> {
    stage: S,
    base: Arc<Base>,
    receiver: mpsc::Receiver<Order<S>>,
    keeper: Orders,
    /// `None`: records are written on this thread alone.
    syncing: Option<Syncing>,
    /// Operations in sight from which on another thread is worth what it costs.
    overlap_from: usize,
    /// When what is finished with is to be erased.
    settle_at: Option<Instant>,
    /// What waits was looked at once already: it waits for no further company.
    is_again: bool,
    /// Those who wait for the end.
    stops: Vec<oneshot::Sender<()>>,
}

/// Operations, each with its refusal, if it was refused because of something that is not durable yet.
type Verdicts<S> = Vec<(Box<dyn Operation<S>>, Result<(), StoreError>)>;

/// A batch that was judged and is not written yet. It is under way in the stage and in the files.
struct Judged<S> {
    rows: Overlay,
    operations: Verdicts<S>,
}

/// A batch that is being written.
struct Flight<S> {
    operations: Batch<S>,
    done: oneshot::Receiver<Synced>,
}

impl<S: Stage> Actor<S> {
    pub(super) fn new(stage: S, receiver: mpsc::Receiver<Order<S>>, keeper: Orders) -> Self {
        Self {
            base: Arc::clone(stage.base()),
            stage,
            receiver,
            keeper,
            syncing: None,
            overlap_from: usize::MAX,
            settle_at: None,
            is_again: false,
            stops: Vec::new(),
        }
    }

    /// Has records written by what is returned, which is to be run beside, while the next batches are judged: where at least so
    /// many operations are in sight, those of the record and those that wait.
    pub(crate) fn with_syncer(mut self, overlap_from: usize) -> (Self, Syncer) {
        let (syncing, syncer) = syncer();
        (self.syncing, self.overlap_from) = (Some(syncing), overlap_from);
        (self, syncer)
    }

    /// Commits until every `Committer` is gone, then settles a last time.
    pub(crate) async fn run(mut self) {
        loop {
            let first = match self.settle_at {
                None => self.receiver.recv().await,
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {
                        self.settle();
                        continue;
                    }
                    first = self.receiver.recv() => first,
                },
            };
            match first {
                Some(Order::Apply(first)) => self.commit(first).await,
                Some(Order::Stop(reply)) => self.stop_after(reply),
                None => break,
            }
            self.note_unsettled();
        }
        self.settle();
        self.keeper.close(&self.base).await;
        self.base.close();
        for reply in self.stops {
            let _ = reply.send(());
        }
    }

    /// Takes nothing new; what waits already is still applied.
    fn stop_after(&mut self, reply: oneshot::Sender<()>) {
        self.receiver.close();
        self.stops.push(reply);
    }

    /// Erases what is finished with, once no batch that failed can count any more; later, if it fails. Nothing is under way
    /// or being written: what a batch finishes must not be taken for what is finished.
    fn settle(&mut self) {
        self.settle_at = match self.base.log.void_what_failed().and_then(|()| self.stage.settle()) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "used keys could not be erased; trying again");
                Some(after(RETRY_MS))
            }
        };
    }

    fn note_unsettled(&mut self) {
        if self.settle_at.is_none() && self.stage.is_unsettled() {
            self.settle_at = Some(after(SETTLE_MS_MAX));
        }
    }

    fn is_settling_due(&self) -> bool {
        self.settle_at.is_some_and(|at| at <= Instant::now())
    }

    /// Whether something is to be done that can be done only while nothing is under way.
    fn must_pause(&self) -> bool {
        let base = &self.base;
        self.is_settling_due() || base.is_overdue() || base.wants_checkpoint() && !base.is_frozen()
    }

    /// Commits what waits, in as many records as it takes, and what comes while they are written.
    async fn commit(&mut self, first: Box<dyn Operation<S>>) {
        let mut waiting = vec![first];
        self.is_again = false;
        while !waiting.is_empty() {
            self.gather(&mut waiting).await;
            if self.is_settling_due() {
                self.settle();
            }
            self.wait_for_index().await;
            if self.base.is_overdue() {
                return answer_all(waiting, Err(StoreError::Unavailable));
            }
            let judged;
            (judged, waiting) = self.judge(waiting);
            self.is_again = !waiting.is_empty();
            let mut flight = judged.and_then(|judged| self.launch(judged));
            while let Some(flying) = flight {
                flight = self.judge_during(flying, &mut waiting).await;
            }
            if self.base.wants_checkpoint() {
                self.keeper.checkpoint(&self.base);
            }
        }
    }

    /// Waits a while for an index that lags behind too far.
    async fn wait_for_index(&mut self) {
        if self.base.is_overdue() {
            self.keeper.checkpoint(&self.base);
            self.keeper.wait(PATIENCE).await;
        }
    }

    /// Most operations in a commit.
    fn most(&self) -> usize {
        self.stage.commit_of().unwrap_or(BATCH_MAX)
    }

    /// Takes what waits already, for one commit.
    async fn gather(&mut self, waiting: &mut Batch<S>) {
        let is_exact = self.stage.commit_of().is_some() && !self.is_again;
        while waiting.len() < self.most() {
            let next = match self.receiver.try_recv() {
                Err(mpsc::error::TryRecvError::Empty) if is_exact => self.receiver.recv().await,
                next => next.ok(),
            };
            match next {
                Some(order) => self.take(order, waiting),
                None => break,
            }
        }
    }

    fn take(&mut self, order: Order<S>, waiting: &mut Batch<S>) {
        match order {
            Order::Apply(operation) => waiting.push(operation),
            Order::Stop(reply) => self.stop_after(reply),
        }
    }

    /// Judges operations in order, on top of what is durable. Returns the batch under way, if there is one now, and what is
    /// still to be judged: what is behind an operation that failed, with those before it, or what found no room in the record.
    fn judge(&mut self, batch: Batch<S>) -> (Option<Judged<S>>, Batch<S>) {
        let base = Arc::clone(&self.base);
        let write = match base.begin() {
            Ok(write) => write,
            Err(error) => {
                answer_all(batch, Err(error));
                return (None, Vec::new());
            }
        };
        let mut judged = Vec::with_capacity(batch.len());
        let mut waiting = batch.into_iter();
        while !base.is_filled_by(&write)
            && let Some(mut operation) = waiting.next()
        {
            match operation.apply(&mut self.stage, &write) {
                Ok(()) => judged.push((operation, Ok(()))),
                Err(error) if error.is_refusal() => operation.answer(Err(error)),
                Err(error) => {
                    base.abandon(write);
                    self.stage.abandoned();
                    operation.answer(Err(error));
                    return (None, without_verdicts(judged).chain(waiting).collect());
                }
            }
        }
        let rows = write.into_rows();
        let operations = judged;
        (Some(Judged { rows, operations }), waiting.collect())
    }

    /// Judges operations on top of a record that is being written, behind those of `before`, as [`Self::judge`] does. What is
    /// not to be judged now stays in `waiting`: nobody is answered before that record is durable, and whatever fails is judged
    /// again then.
    fn judge_ahead(&mut self, before: Option<Judged<S>>, waiting: &mut Batch<S>) -> Option<Judged<S>> {
        if before.is_none() && !waiting.first().is_some_and(|first| first.is_ahead()) {
            return None;
        }
        let base = Arc::clone(&self.base);
        let (begun, mut judged) = match before {
            Some(before) => (base.go_on(before.rows), before.operations),
            None => (base.begin(), Vec::new()),
        };
        let mut batch = std::mem::take(waiting).into_iter().peekable();
        let failed = match begun {
            Ok(write) => loop {
                if base.is_filled_by(&write) {
                    break Ok(write);
                }
                let Some(mut operation) = batch.next_if(|next| next.is_ahead()) else {
                    break Ok(write);
                };
                let verdict = operation.apply(&mut self.stage, &write);
                judged.push((operation, verdict));
                if verdict.is_err_and(|error| !error.is_refusal()) {
                    break Err(());
                }
            },
            Err(_) => Err(()),
        };
        match failed {
            Ok(write) => {
                waiting.extend(batch);
                let rows = write.into_rows();
                let operations = judged;
                Some(Judged { rows, operations })
            }
            Err(()) => {
                self.give_up();
                waiting.extend(without_verdicts(judged).chain(batch));
                None
            }
        }
    }

    /// Forgets the batch under way.
    fn give_up(&mut self) {
        self.base.give_up();
        self.stage.abandoned();
    }

    /// Has a batch written; what it stood on is durable. `None`: it has come to its end already.
    fn launch(&mut self, judged: Judged<S>) -> Option<Flight<S>> {
        let Judged { rows, operations } = judged;
        let mut batch = Vec::with_capacity(operations.len());
        for (operation, verdict) in operations {
            match verdict {
                Ok(()) => batch.push(operation),
                refused => operation.answer(refused),
            }
        }
        if rows.is_empty() {
            // Only answers about what is durable already; the stage may have something to remember all the same.
            self.base.give_up();
            self.stage.committed(self.base.index.commit_number());
            answer_all(batch, Ok(()));
            return None;
        }
        if let Err(error) = self.stage.prepare() {
            self.give_up();
            answer_all(batch, Err(error));
            return None;
        }
        let mut record = match self.base.write(rows) {
            Ok(record) => Box::new(record),
            Err(failed) => {
                self.stage.abandoned();
                answer_all(batch, Err(failed.into_error()));
                return None;
            }
        };
        let is_open = self.stage.written();
        // Those who are answered with this batch are likely to come back before the next is full.
        let in_sight = batch.len() + self.receiver.len();
        if let Some(syncing) = self
            .syncing
            .as_ref()
            .filter(|_| is_open && in_sight >= self.overlap_from)
        {
            record = match syncing.write(record) {
                Ok(done) => {
                    let operations = batch;
                    return Some(Flight { operations, done });
                }
                Err(record) => record,
            };
        }
        let outcome = record.write();
        self.land(batch, Ok((record, outcome)));
        None
    }

    /// What was written is durable, or has failed: memory and callers are told.
    fn land(&mut self, batch: Batch<S>, synced: Result<Synced, oneshot::error::RecvError>) {
        let outcome = match synced {
            Ok((record, Ok(()))) => {
                let number = self.base.durable(*record);
                self.stage.committed(number);
                Ok(())
            }
            failed => {
                let kind = match failed {
                    Ok((_, Err(error))) => error.kind(),
                    // Whoever was to write it is gone, and may have done so.
                    _ => io::ErrorKind::Other,
                };
                let failed = self.base.failed(StoreError::Io(kind));
                self.stage.failed();
                Err(failed.into_error())
            }
        };
        answer_all(batch, outcome);
        self.note_unsettled();
    }

    /// Judges what waits and what comes while a batch is being written; then that one is answered, and the next goes to the
    /// disk. What could not be judged is left waiting.
    async fn judge_during(&mut self, flight: Flight<S>, waiting: &mut Batch<S>) -> Option<Flight<S>> {
        let Flight { operations, mut done } = flight;
        let mut judged: Option<Judged<S>> = None;
        let mut goes_on = !self.must_pause();
        let synced = loop {
            let is_enough = self.is_again || self.stage.commit_of().is_none_or(|exactly| waiting.len() >= exactly);
            if goes_on && is_enough && !waiting.is_empty() {
                judged = self.judge_ahead(judged, waiting);
                self.is_again = !waiting.is_empty();
                goes_on = waiting.is_empty();
            }
            let count = waiting.len() + judged.as_ref().map_or(0, |judged| judged.operations.len());
            let takes = goes_on && count < self.most() && !self.must_pause();
            tokio::select! {
                biased;
                synced = &mut done => break synced,
                order = self.receiver.recv(), if takes => match order {
                    Some(order) => self.take_all(order, count, waiting),
                    None => goes_on = false,
                },
            }
        };
        if !matches!(synced, Ok((_, Ok(()))))
            && let Some(judged) = judged.take()
        {
            self.give_up();
            let behind = std::mem::take(waiting);
            waiting.extend(without_verdicts(judged.operations).chain(behind));
            self.is_again = true;
        }
        self.land(operations, synced);
        self.launch(judged?)
    }

    /// Takes what waits already, in a batch that has so many operations.
    fn take_all(&mut self, first: Order<S>, count: usize, waiting: &mut Batch<S>) {
        let most = waiting.len() + self.most() - count;
        self.take(first, waiting);
        while waiting.len() < most
            && let Ok(next) = self.receiver.try_recv()
        {
            self.take(next, waiting);
        }
    }
}

fn without_verdicts<S>(judged: Verdicts<S>) -> impl Iterator<Item = Box<dyn Operation<S>>> {
    judged.into_iter().map(|(operation, _)| operation)
}

fn answer_all<S>(batch: Batch<S>, outcome: Result<(), StoreError>) {
    for operation in batch {
        operation.answer(outcome);
    }
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
