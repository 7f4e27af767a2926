//! Group commit: one task owns the stage; what arrived during the last sync shares the next commit.
//!
//! A `Committer` hands operations to its `Actor`. The actor applies what waits, each operation validated in
//! order on top of those before, makes the batch durable with one write to the log, and answers only then. Between commits
//! it lets the stage erase what is finished with, at most [`SETTLE_MS_MAX`] after the commit that finished it.
//!
//! What each failure leaves:
//!
//! | failure | effect | answer |
//! |---|---|---|
//! | an operation refuses before it writes | none of it; the batch goes on | its refusal |
//! | an operation fails within its writes | none of it; the rest of the batch is applied again | its error |
//! | the changes are longer than any record may be | none of the batch | its error, to all |
//! | the log cannot be written | none of the batch, once another segment says so | the error, to all |
//! | no other segment can be begun either | unknown after a restart before the disk works again; nothing of it in this process | [`StoreError::Unknown`], to all |
//! | the index lags behind by more than memory may hold | none | [`StoreError::Unavailable`], to all |

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::StoreError;
use crate::base::Base;
use crate::index::Write;
use crate::keeper::{self, Keeper, Orders};

/// Most operations that wait for the actor; more are answered [`StoreError::Busy`].
pub const WAITING_MAX: usize = 1_024;
/// Most operations in one commit.
const BATCH_MAX: usize = 256;
/// Longest time from a commit to the erasure of what it finished, while the disk works.
pub const SETTLE_MS_MAX: u64 = 250;
/// Pause after a stage that could not be settled.
const RETRY_MS: u64 = 500;
/// Longest wait of a commit for an index that lags behind.
const PATIENCE: Duration = Duration::from_millis(500);

/// What operations work on: what a store holds in memory, and how it forgets.
pub(crate) trait Stage: Send + 'static {
    /// The files.
    fn base(&self) -> &Arc<Base>;

    /// Makes durable what must be before the batch is.
    fn prepare(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The batch is durable under this commit number: memory takes its effects.
    fn committed(&mut self, number: u64);

    /// The batch has not happened: its effects are forgotten.
    fn abandoned(&mut self);

    /// Whether [`Self::settle`] has something to do.
    fn is_unsettled(&self) -> bool;

    /// Erases what is finished with: slots moved on, slab records overwritten.
    fn settle(&mut self) -> Result<(), StoreError>;

    /// **For measurements only**: how many operations each commit takes and waits for.
    fn commit_of(&self) -> Option<usize> {
        None
    }
}

/// Hands operations to the actor. Clones share it; the actor ends when the last one is gone.
pub(crate) struct Committer<S> {
    sender: mpsc::Sender<Order<S>>,
}

/// A `Committer` that does not keep its actor alive.
pub(crate) struct WeakCommitter<S> {
    sender: mpsc::WeakSender<Order<S>>,
}

impl<S> WeakCommitter<S> {
    /// `None`: the actor has nobody left to work for.
    pub(crate) fn upgrade(&self) -> Option<Committer<S>> {
        Some(Committer {
            sender: self.sender.upgrade()?,
        })
    }
}

enum Order<S> {
    Apply(Box<dyn Operation<S>>),
    Stop(oneshot::Sender<()>),
}

impl<S> Clone for Committer<S> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<S: Stage> Committer<S> {
    /// Runs an operation and returns once its commit is durable.
    ///
    /// `apply` may run more than once, each time in a new transaction, when another operation of its batch fails; only
    /// its last result counts. It returns errors of the refusal kind only before its first write (see
    /// [`StoreError::is_refusal`]).
    pub(crate) async fn run<T, F>(&self, apply: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            apply,
            result: None,
            reply,
        };
        self.sender
            .try_send(Order::Apply(Box::new(call)))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Busy,
                mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable,
            })?;
        // A dropped reply means that the actor died with the operation in hand.
        answer.await.unwrap_or(Err(StoreError::Unknown))
    }

    /// Commits what waits, erases what is finished, closes the files; returns when that is done.
    pub(crate) async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.sender.send(Order::Stop(reply)).await.is_ok() {
            // The actor drops the reply only when it is gone, which is as good.
            let _ = done.await;
        }
    }
}

/// An operation on its way to the actor.
trait Operation<S>: Send {
    fn apply(&mut self, stage: &mut S, write: &Write<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Call<T, F> {
    apply: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<S, T, F> Operation<S> for Call<T, F>
where
    T: Send,
    F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send,
{
    fn apply(&mut self, stage: &mut S, write: &Write<'_>) -> Result<(), StoreError> {
        self.result = Some((self.apply)(stage, write)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        let result = outcome.and_then(|()| result.ok_or(StoreError::Unavailable));
        // A caller that no longer waits is free to go: the commit stands.
        let _ = reply.send(result);
    }
}

/// Owns the stage and commits. Runs on a thread of its own on a real host, since it blocks on the disk.
pub(crate) struct Actor<S> {
    stage: S,
    base: Arc<Base>,
    receiver: mpsc::Receiver<Order<S>>,
    keeper: Orders,
    /// Those who wait for the end.
    stops: Vec<oneshot::Sender<()>>,
}

/// Makes the two ends of group commit, and the keeper behind it.
pub(crate) fn committer<S: Stage>(stage: S) -> (Committer<S>, Actor<S>, Keeper<S>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let weak = WeakCommitter {
        sender: sender.downgrade(),
    };
    let base = Arc::clone(stage.base());
    let (orders, keeper) = keeper::keeper(Arc::clone(&base), weak);
    let actor = Actor {
        stage,
        base,
        receiver,
        keeper: orders,
        stops: Vec::new(),
    };
    (Committer { sender }, actor, keeper)
}

impl<S: Stage> Actor<S> {
    /// Commits until every `Committer` is gone, then settles a last time.
    pub(crate) async fn run(mut self) {
        let mut settle_at = None;
        loop {
            let first = match settle_at {
                None => self.receiver.recv().await,
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {
                        settle_at = self.settle();
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
            if settle_at.is_none() && self.stage.is_unsettled() {
                settle_at = Some(after(SETTLE_MS_MAX));
            }
        }
        let _ = self.settle();
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

    /// Erases what is finished with, once no batch that failed can count any more. Returns when to try again, if it
    /// failed.
    fn settle(&mut self) -> Option<Instant> {
        match self.base.log.void_what_failed().and_then(|()| self.stage.settle()) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "used keys could not be erased; trying again");
                Some(after(RETRY_MS))
            }
        }
    }

    /// Commits what waits, in as many records as it takes.
    async fn commit(&mut self, first: Box<dyn Operation<S>>) {
        self.wait_for_index().await;
        let mut batch = self.gather(first).await;
        while !self.base.is_overdue() {
            batch = self.attempt(batch);
            if self.base.wants_checkpoint() {
                self.keeper.checkpoint(&self.base);
            }
            if batch.is_empty() {
                return;
            }
            self.wait_for_index().await;
        }
        answer_all(batch, Err(StoreError::Unavailable));
    }

    /// Waits a while for an index that lags behind too far.
    async fn wait_for_index(&mut self) {
        if self.base.is_overdue() {
            self.keeper.checkpoint(&self.base);
            self.keeper.wait(PATIENCE).await;
        }
    }

    /// What waits already, for one commit.
    async fn gather(&mut self, first: Box<dyn Operation<S>>) -> Vec<Box<dyn Operation<S>>> {
        let exactly = self.stage.commit_of();
        let most = exactly.unwrap_or(BATCH_MAX);
        let mut batch = Vec::with_capacity(most);
        batch.push(first);
        while batch.len() < most {
            let next = match self.receiver.try_recv() {
                Err(mpsc::error::TryRecvError::Empty) if exactly.is_some() => self.receiver.recv().await,
                next => next.ok(),
            };
            match next {
                Some(Order::Apply(next)) => batch.push(next),
                Some(Order::Stop(reply)) => self.stop_after(reply),
                None => break,
            }
        }
        batch
    }

    /// Tries one commit. Returns the operations that are still to be tried: those behind one that failed, with those
    /// before it, or those that found no room in the record.
    fn attempt(&mut self, batch: Vec<Box<dyn Operation<S>>>) -> Vec<Box<dyn Operation<S>>> {
        let base = Arc::clone(&self.base);
        let write = match base.begin() {
            Ok(write) => write,
            Err(error) => {
                answer_all(batch, Err(error));
                return Vec::new();
            }
        };
        let mut applied = Vec::with_capacity(batch.len());
        let mut waiting = batch.into_iter();
        while !base.is_filled_by(&write)
            && let Some(mut operation) = waiting.next()
        {
            match operation.apply(&mut self.stage, &write) {
                Ok(()) => applied.push(operation),
                Err(error) if error.is_refusal() => operation.answer(Err(error)),
                Err(error) => {
                    base.abandon(write);
                    self.stage.abandoned();
                    operation.answer(Err(error));
                    applied.extend(waiting);
                    return applied;
                }
            }
        }
        if write.is_empty() {
            // Only answers about what is durable already; the stage may have something to remember all the same.
            base.abandon(write);
            self.stage.committed(base.index.commit_number());
            answer_all(applied, Ok(()));
            return waiting.collect();
        }
        if let Err(error) = self.stage.prepare() {
            base.abandon(write);
            self.stage.abandoned();
            answer_all(applied, Err(error));
            return waiting.collect();
        }
        let outcome = match base.commit(write) {
            Ok(number) => {
                self.stage.committed(number);
                Ok(())
            }
            Err(failed) => {
                self.stage.abandoned();
                Err(failed.into_error())
            }
        };
        answer_all(applied, outcome);
        waiting.collect()
    }
}

fn answer_all<S>(batch: Vec<Box<dyn Operation<S>>>, outcome: Result<(), StoreError>) {
    for operation in batch {
        operation.answer(outcome);
    }
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// Runs an actor on a thread of its own with a runtime of its own, as real hosts do.
pub fn on_thread(name: &str, actor: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _guard = AbortOnPanic;
            runtime.block_on(actor);
        })
        .map(|_| ())
}

/// A store without its committer would refuse everything for ever while the process looks alive: better that it ends,
/// and that the next one reads the log.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests;
