//! Group commit: one task owns the stage; what arrived during the last sync shares the next commit.
//!
//! A `Committer` hands operations to its `Actor`. The actor applies what waits, each operation validated in
//! order on top of those before, makes the batch durable with one write to the log, and answers only then. Between commits
//! it lets the stage erase what is finished with, about [`SETTLE_MS_MAX`] after the commit that finished it.
//!
//! While a record is written, by a thread of its own (the `Syncer`), the actor judges the next batch on top of it, if stage and
//! operations allow that. Nobody but the actor sees what is not durable: effects and answers of a batch follow its sync, and the
//! record of the next is completed only then.
//!
//! ```text
//! batch k     judged | written, synced       | in memory, answered
//! batch k+1            judged ...............                      | written, synced    | in memory, answered
//! ```
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
//! | the record before cannot be written | none of the batch that stands on it | none: it is applied again, on what is durable |
//! | the index lags behind by more than memory may hold | none | [`StoreError::Unavailable`], to all |

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::base::Base;
use crate::index::Write;
use crate::keeper::{self, Keeper};

mod actor;
mod syncer;

pub(crate) use actor::Actor;

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

    /// The batch goes to the disk: it is the written one from now on, and the batch under way is a new one. Returns whether
    /// operations of [`Committer::run_ahead`] may be judged on top of it before it is durable; else nothing is judged until
    /// then.
    fn written(&mut self) -> bool {
        false
    }

    /// The written batch, or the one under way if none is written, is durable under this commit number: memory takes its
    /// effects.
    fn committed(&mut self, number: u64);

    /// The batch under way has not happened: its effects are forgotten.
    fn abandoned(&mut self);

    /// The written batch has not happened; what was judged on top of it was abandoned before.
    fn failed(&mut self) {
        self.abandoned();
    }

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
    /// `apply` may run more than once, each time in a new transaction, when another operation of its batch fails or the record
    /// that it was judged on; only
    /// its last result counts. It returns errors of the refusal kind only before its first write (see
    /// [`StoreError::is_refusal`]).
    pub(crate) async fn run<T, F>(&self, apply: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.order(apply, false).await
    }

    /// As [`Self::run`], for an operation that may be judged while the batch before is written: of what the stage has in memory
    /// it looks only at what such a batch leaves as it is, or at what the stage layers (see [`Stage::written`]).
    pub(crate) async fn run_ahead<T, F>(&self, apply: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.order(apply, true).await
    }

    async fn order<T, F>(&self, apply: F, is_ahead: bool) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            apply,
            is_ahead,
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
    /// See [`Committer::run_ahead`].
    fn is_ahead(&self) -> bool;
    fn apply(&mut self, stage: &mut S, write: &Write<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Call<T, F> {
    apply: F,
    is_ahead: bool,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<S, T, F> Operation<S> for Call<T, F>
where
    T: Send,
    F: FnMut(&mut S, &Write<'_>) -> Result<T, StoreError> + Send,
{
    fn is_ahead(&self) -> bool {
        self.is_ahead
    }

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

/// Makes the two ends of group commit, and the keeper behind it.
pub(crate) fn committer<S: Stage>(stage: S) -> (Committer<S>, Actor<S>, Keeper<S>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let weak = WeakCommitter {
        sender: sender.downgrade(),
    };
    let (orders, keeper) = keeper::keeper(Arc::clone(stage.base()), weak);
    let actor = Actor::new(stage, receiver, orders);
    (Committer { sender }, actor, keeper)
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
