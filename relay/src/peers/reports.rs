//! What comes in at a peer for this relay: reports on what was passed on, each for the alias that its To names, or for the
//! relay that passed the message on to this one.

use std::sync::Arc;
use std::time::Duration;

use mailbox::holder::HolderFiles;
use mailbox::holder_store::FolderId;
use mailbox::{HolderStore, RelayStore, StoreError};
use smtp_bridge::message::{self, Address};
use smtp_bridge::net::stopped;
use tokio::sync::watch;

use crate::{Relay, accept, seal};

/// Pause before what could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Seals what comes for the alias that it is for, until `stop` turns true.
pub(super) async fn forward<S: RelayStore>(relay: Arc<Relay<S>>, store: HolderFiles, mut stop: watch::Receiver<bool>) {
    let mut changed = store.changed();
    loop {
        changed.borrow_and_update();
        let wait = match empty(&relay, &store).await {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "a report from a peer could not be stored; trying again");
                Some(AGAIN)
            }
        };
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = changed.changed(), if wait.is_none() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// A message is gone here only after it is durable there: a crash in between delivers a report twice, and loses none. What
/// cannot be stored holds up no other.
async fn empty<S: RelayStore>(relay: &Relay<S>, store: &HolderFiles) -> Result<(), StoreError> {
    let uids: Vec<u32> = store.inbox().entries.iter().map(|entry| entry.uid).collect();
    let mut failed = Ok(());
    for uid in uids {
        let passed = pass_on(relay, store, uid).await;
        failed = failed.and(passed);
    }
    failed
}

async fn pass_on<S: RelayStore>(relay: &Relay<S>, store: &HolderFiles, uid: u32) -> Result<(), StoreError> {
    let Some(report) = store.message(FolderId::INBOX, uid)? else {
        return Ok(());
    };
    match addressee(&report).and_then(|to| accept::reported_to(relay, &to)) {
        Some(alias) => {
            let sealed = seal::message(&relay.host, "", &report).ok_or(StoreError::Invalid)?;
            let order = sealed.into_order(vec![(alias.account, alias.number)], relay.host.day());
            relay.store.report(order).await?;
        }
        // What this relay's end of the link says to itself is in its log as well.
        None => tracing::info!("a message at a peer is for nobody here"),
    }
    if let Err(error) = store.expunge(FolderId::INBOX, vec![uid]).await {
        tracing::warn!(%error, "a report from a peer could not be removed");
    }
    Ok(())
}

fn addressee(report: &[u8]) -> Option<String> {
    let value = message::header_value(report, "To")?;
    let bare = value.trim().trim_start_matches('<').trim_end_matches('>');
    Address::parse(bare).ok()?;
    Some(bare.to_ascii_lowercase())
}
