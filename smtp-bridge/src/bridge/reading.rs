//! The IMAP port: INBOX as the store has it.

use std::sync::Arc;

use mailbox::holder_store::{FlagChange, Flags, Snapshot};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;

use super::Bridge;
use crate::imap::{self, Unavailable};
use crate::net::BoxStream;

/// Serves one session to its end. How it ended is the client's own business.
pub(super) async fn serve<S: HolderStore>(stream: BoxStream, bridge: Arc<Bridge<S>>) {
    let _ = imap::serve(stream, &imap::Limits::default(), &Reading(bridge)).await;
}

/// Tells a client that there are too many sessions.
pub(super) async fn turn_away(stream: BoxStream) {
    let _ = imap::turn_away(stream).await;
}

/// The reading side of the IMAP engine.
pub(super) struct Reading<S>(pub(super) Arc<Bridge<S>>);

impl<S: HolderStore> Bridge<S> {
    /// Compares user and password in a time that does not depend on where they differ.
    pub(super) fn login(&self, user: &[u8], password: &[u8]) -> bool {
        let shown = keypacks::kdf::hash(&[&(user.len() as u64).to_le_bytes(), user, password]);
        let expected = keypacks::kdf::hash(&[
            &(self.user.len() as u64).to_le_bytes(),
            self.user.as_bytes(),
            self.password.as_bytes(),
        ]);
        keypacks::Secret::new(shown) == keypacks::Secret::new(expected)
    }
}

impl<S: HolderStore> imap::Backend for Reading<S> {
    fn login(&self, user: &[u8], password: &[u8]) -> bool {
        self.0.login(user, password)
    }

    fn inbox(&self) -> Arc<Snapshot> {
        self.0.store.inbox()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.store.inbox_changed()
    }

    async fn message(&self, uid: u32) -> Result<Option<Vec<u8>>, Unavailable> {
        self.0.store.message(uid).map_err(unavailable)
    }

    async fn store(&self, uids: Vec<u32>, change: FlagChange) -> Result<(), Unavailable> {
        self.0.store.change_flags(uids, change).await.map_err(unavailable)
    }

    async fn expunge(&self, uids: Vec<u32>) -> Result<(), Unavailable> {
        self.0.store.expunge(uids).await.map(|_| ()).map_err(unavailable)
    }

    async fn append(&self, message: Vec<u8>, flags: Flags, internal_date: Option<u64>) -> Result<u32, Unavailable> {
        let date = internal_date.unwrap_or_else(|| self.0.host.clock.unix_seconds());
        self.0.store.append(message, flags, date).await.map_err(unavailable)
    }
}

/// The client learns that there is trouble, the log which.
fn unavailable(error: StoreError) -> Unavailable {
    tracing::error!(%error, "the store does not answer");
    Unavailable
}
