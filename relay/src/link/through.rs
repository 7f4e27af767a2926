//! Links carried for holders to other relays: this one sees whose, the other one what for, neither both.

use std::time::Duration;

use mailbox::RelayStore;
use mailbox::request::Refusal;
use smtp_bridge::link::pipe::{End, pipe};
use smtp_bridge::link::{LinkError, LinkReader, LinkWriter};
use smtp_bridge::net::{BoxStream, stopped};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::Relay;

/// Most links carried at one time: each has some 100 kB of buffers and two sockets.
pub(crate) const CARRIED_MAX: usize = 1_024;
/// Longest wait for a connection to the other relay.
const DIAL_MAX: Duration = Duration::from_secs(15);

/// The other relay, and the place that the link takes.
pub(super) struct Reached {
    stream: BoxStream,
    _place: OwnedSemaphorePermit,
}

/// Dials a relay that links are carried to.
pub(super) async fn reach<S: RelayStore>(relay: &Relay<S>, to: &str) -> Result<Reached, Refusal> {
    let target = relay.config.through.get(to).ok_or(Refusal::Route { recipient: 0 })?;
    let place = std::sync::Arc::clone(&relay.carried);
    let place = Semaphore::try_acquire_owned(place).map_err(|_| Refusal::Busy)?;
    let dialled = timeout(DIAL_MAX, relay.host.dial(target)).await;
    let stream = dialled.ok().and_then(Result::ok).ok_or(Refusal::Busy)?;
    Ok(Reached { stream, _place: place })
}

/// Carries until either side ends it, or this process does.
pub(super) async fn carry<S: RelayStore>(
    relay: &Relay<S>,
    (reader, writer): (
        &mut LinkReader<ReadHalf<BoxStream>>,
        &mut LinkWriter<WriteHalf<BoxStream>>,
    ),
    reached: Reached,
    stream: u32,
) -> Result<(), LinkError> {
    let mut stop = relay.stop.subscribe();
    let most = relay.config.through_mib << 20;
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        carried = pipe((reader, writer), reached.stream, (End::Relay, stream, most)) => carried.end?,
    }
    Err(LinkError::Closed)
}
