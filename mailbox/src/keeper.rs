//! What goes on behind the commits: the index takes rows over from the log, space that nobody needs is made ready again.
//!
//! Nothing here is needed for a commit to be durable, and no commit waits for it, unless the index has fallen far behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::StoreError;
use crate::base::Base;
use crate::commit::{Stage, WeakCommitter};
use crate::index::Frozen;
use crate::log::Location;

/// Pause after something that failed.
const RETRY: Duration = Duration::from_millis(250);
/// Longest wait of a store that ends for a checkpoint that was under way before.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of bodies that are moved in one commit.
const MOVE_BYTES: usize = 1 << 20;

/// The committer's end.
pub(crate) struct Orders {
    checkpoints: mpsc::Sender<Frozen>,
    /// Counts the checkpoints that were made; closed when the keeper has ended.
    made: watch::Receiver<u64>,
}

/// See the module. Runs on a thread of its own on a real host, since it blocks on the disk.
pub(crate) struct Keeper<S> {
    base: Arc<Base>,
    committer: WeakCommitter<S>,
    checkpoints: mpsc::Receiver<Frozen>,
    made: watch::Sender<u64>,
}

/// Makes the two ends.
pub(crate) fn keeper<S: Stage>(base: Arc<Base>, committer: WeakCommitter<S>) -> (Orders, Keeper<S>) {
    // One is enough: rows are frozen for one checkpoint at a time.
    let (sender, checkpoints) = mpsc::channel(1);
    let (made, watched) = watch::channel(0);
    let orders = Orders {
        checkpoints: sender,
        made: watched,
    };
    let keeper = Keeper {
        base,
        committer,
        checkpoints,
        made,
    };
    (orders, keeper)
}

impl Orders {
    /// Orders a checkpoint of everything up to now, unless one is under way. [`Self::wait`] waits for the next to be made.
    pub(crate) fn checkpoint(&mut self, base: &Base) {
        self.made.mark_unchanged();
        if let Some(frozen) = base.freeze() {
            // The channel is empty whenever nothing is frozen; a keeper that is gone leaves the rows to the log.
            let _ = self.checkpoints.try_send(frozen);
        }
    }

    /// Waits for the checkpoint that is under way, but not for longer than `patience`.
    pub(crate) async fn wait(&mut self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.made.changed()).await;
    }

    /// Has the last checkpoint made and waits for the keeper's end.
    pub(crate) async fn close(mut self, base: &Base) {
        // An index that cannot be written does not hold up the end: the log has the rows.
        if base.is_frozen() {
            self.wait(CLOSE_PATIENCE).await;
        }
        self.checkpoint(base);
        drop(self.checkpoints);
        while self.made.changed().await.is_ok() {}
    }
}

impl<S: Stage> Keeper<S> {
    /// Works until the committer's end is dropped.
    pub(crate) async fn run(mut self) {
        self.make_spares();
        loop {
            tokio::select! {
                biased;
                frozen = self.checkpoints.recv() => match frozen {
                    Some(frozen) => {
                        self.checkpoint(&frozen).await;
                        self.make_spares();
                        self.sweep().await;
                    }
                    None => return,
                },
                () = self.base.index.failed() => {
                    if let Err(error) = self.base.index.reopen() {
                        tracing::error!(%error, "the index cannot be opened again yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                () = self.base.log.runs_short() => self.make_spares(),
            }
        }
    }

    async fn checkpoint(&mut self, frozen: &Frozen) {
        let mut failed = self.base.index.is_failed();
        loop {
            let reopened = if failed { self.base.index.reopen() } else { Ok(()) };
            failed = true;
            match reopened.and_then(|()| self.base.checkpoint(frozen)) {
                Ok(()) => {
                    self.made.send_modify(|count| *count += 1);
                    return;
                }
                Err(error) => tracing::error!(%error, "the index could not take over what was committed; trying again"),
            }
            // Nobody waits for it any more: the log keeps the rows until the next start.
            if self.checkpoints.is_closed() {
                return;
            }
            tokio::time::sleep(RETRY).await;
            if self.checkpoints.is_closed() {
                return;
            }
        }
    }

    fn make_spares(&self) {
        if let Err(error) = self.base.log.make_spares() {
            tracing::warn!(%error, "no room for another segment ahead; commits are slower without");
        }
    }

    /// Moves the bodies of sparse segments to the end of the log, until most of the log lives or something else is to
    /// be done.
    async fn sweep(&mut self) {
        while self.checkpoints.is_empty()
            && !self.checkpoints.is_closed()
            && let Some(segment) = self.base.log.sparse()
        {
            if let Err(error) = self.empty(segment).await {
                tracing::warn!(%error, "space of the log cannot be won back for now");
                return;
            }
            self.make_spares();
        }
    }

    async fn empty(&self, segment: u32) -> Result<(), StoreError> {
        let mut living: BTreeMap<Location, u64> = BTreeMap::new();
        for placed in self.base.log.bodies_of(segment)? {
            if self.base.is_at(&self.base.view()?, placed.name, placed.location)? {
                living.insert(placed.location, placed.name);
            }
        }
        let mut moved = (Vec::new(), 0);
        for (location, name) in living {
            moved.0.push((name, location, self.base.log.read(location)?));
            moved.1 += location.length as usize;
            if moved.1 >= MOVE_BYTES {
                self.commit_moves(std::mem::take(&mut moved).0).await?;
            }
        }
        self.commit_moves(moved.0).await?;
        self.base.log.swept(segment);
        Ok(())
    }

    async fn commit_moves(&self, bodies: Vec<(u64, Location, Vec<u8>)>) -> Result<(), StoreError> {
        if bodies.is_empty() {
            return Ok(());
        }
        let committer = self.committer.upgrade().ok_or(StoreError::Unavailable)?;
        committer
            .run(move |stage: &mut S, write| {
                for (name, from, bytes) in &bodies {
                    stage.base().move_body(write, *name, *from, bytes)?;
                }
                Ok(())
            })
            .await
    }
}
