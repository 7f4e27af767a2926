//! What links under a pad are finished with is overwritten within a second, at both ends alike.

use std::sync::Arc;
use std::time::Duration;

use mailbox::pad::PadFile;

use crate::net::Host;

/// Between what is finished with and its erasure.
const SETTLE: Duration = Duration::from_millis(250);
/// Pause after an erasure that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Overwrites what is finished with, for as long as it is polled.
pub async fn keep_erasing(host: Host, pad: Arc<PadFile>) {
    loop {
        pad.due().await;
        tokio::time::sleep(SETTLE).await;
        while !settle(&host, &pad).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Overwrites it now. `false`: it failed, and is to be tried again.
pub async fn settle(host: &Host, pad: &Arc<PadFile>) -> bool {
    let pad = Arc::clone(pad);
    match host.compute(move || pad.settle()).await {
        Some(Ok(())) => true,
        _ => {
            tracing::error!("used bytes of a pad could not be overwritten; trying again");
            false
        }
    }
}
