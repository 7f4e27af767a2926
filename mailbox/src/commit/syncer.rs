//! What writes a record while the next batch is judged.

use std::io;

use tokio::sync::{mpsc, oneshot};

use crate::log::Record;

/// A record that was written, and whether it is durable.
pub(super) type Synced = (Box<Record>, io::Result<()>);

/// A record to be written, and who is told.
type Job = (Box<Record>, oneshot::Sender<Synced>);

/// The committer's end.
pub(super) struct Syncing {
    jobs: mpsc::Sender<Job>,
}

/// See the module. Runs on a thread of its own on a real host, since it blocks on the disk.
pub(crate) struct Syncer {
    jobs: mpsc::Receiver<Job>,
}

/// Makes the two ends.
pub(super) fn syncer() -> (Syncing, Syncer) {
    // One is enough: the next record is completed when this one is durable.
    let (sender, jobs) = mpsc::channel(1);
    (Syncing { jobs: sender }, Syncer { jobs })
}

impl Syncing {
    /// Has a record written. Gives it back if nobody does that any more.
    pub(super) fn write(&self, record: Box<Record>) -> Result<oneshot::Receiver<Synced>, Box<Record>> {
        let (reply, done) = oneshot::channel();
        match self.jobs.try_send((record, reply)) {
            Ok(()) => Ok(done),
            Err(error) => Err(error.into_inner().0),
        }
    }
}

impl Syncer {
    /// Works until the committer's end is dropped.
    pub(crate) async fn run(mut self) {
        while let Some((record, reply)) = self.jobs.recv().await {
            let outcome = record.write();
            // A committer that is gone has nobody to answer either.
            let _ = reply.send((record, outcome));
        }
    }
}
