//! What comes in at a peer for this relay: reports on what was passed on, each for the alias that its To names, or for the
//! relay that passed the message on to this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
pub(super) async fn forward<S: RelayStore>(
    relay: Arc<Relay<S>>,
    store: HolderFiles,
    strays: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut changed = store.changed();
    loop {
        changed.borrow_and_update();
        let wait = match empty(&relay, &store, &strays).await {
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
async fn empty<S: RelayStore>(relay: &Relay<S>, store: &HolderFiles, strays: &AtomicU64) -> Result<(), StoreError> {
    let uids: Vec<u32> = store.inbox().entries.iter().map(|entry| entry.uid).collect();
    let mut failed = Ok(());
    for uid in uids {
        let passed = pass_on(relay, store, strays, uid).await;
        failed = failed.and(passed);
    }
    failed
}

async fn pass_on<S: RelayStore>(
    relay: &Relay<S>,
    store: &HolderFiles,
    strays: &AtomicU64,
    uid: u32,
) -> Result<(), StoreError> {
    let Some(report) = store.message(FolderId::INBOX, uid)? else {
        return Ok(());
    };
    let (is_report, to) = read(&report);
    match to.and_then(|to| accept::reported_to(relay, &to)) {
        Some(_) if !is_report => {
            strays.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a message from a peer is no report, and was dropped");
        }
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

/// Whether a message from a peer is a report, and whom it is for. Nobody pays for it and no quota refuses it: the peer may tell what
/// became of messages, and write nothing else to anybody.
fn read(message: &[u8]) -> (bool, Option<String>) {
    (message::reported_message(message).is_some(), addressee(message))
}

fn addressee(report: &[u8]) -> Option<String> {
    let value = message::header_value(report, "To")?;
    let bare = value.trim().trim_start_matches('<').trim_end_matches('>');
    Address::parse(bare).ok()?;
    Some(bare.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use smtp_bridge::message::{Action, Recipient, Report, dsn};

    use super::*;

    #[test]
    fn what_is_no_report_is_told_from_one() {
        let address = |text| Address::parse(text).expect("an address");
        let (heron, bob) = (address("Heron@relay.test"), address("bob@out.test"));
        let recipient = Recipient {
            address: &bob,
            action: Action::Failed,
            status: "5.1.1",
            remote_mta: None,
            diagnostic: None,
        };
        let report = dsn(&Report {
            reporting_mta: "peer.test",
            to: &heron,
            message_id_local: "x",
            date: 0,
            recipients: &[recipient],
            original: b"Message-ID: <k7f3@relay.test>\r\nSubject: x\r\n\r\n",
        });
        let to = Some("heron@relay.test".to_owned());
        assert_eq!(read(&report), (true, to.clone()));
        let long = [&report[..], &vec![b'x'; message::REPORT_BYTES_MAX]].concat();
        assert_eq!(read(&long), (false, to.clone()), "longer than any report");
        let letter = b"From: a@out.test\r\nTo: heron@relay.test\r\nIn-Reply-To: <a@b>\r\n\r\nhello\r\n";
        assert_eq!(read(letter), (false, to));
        assert_eq!(read(b"Subject: x\r\n\r\n"), (false, None));
    }
}
