//! The link server: silence to strangers, one link for each account.
//!
//! [`serve`] accepts and bounds connections, [`handshake`] turns one into an authenticated link or into silence,
//! [`session`] answers requests on it, [`register`] knows which links there are and when each is told of mail.

mod cover;
mod handshake;
mod next_keys;
mod pad;
mod register;
mod session;
mod through;

pub(crate) use cover::Covers;
pub(crate) use handshake::{Flights, found};
pub(crate) use register::Links;
pub(crate) use through::CARRIED_MAX;

use std::sync::Arc;
use std::time::Duration;

use mailbox::RelayStore;
use smtp_bridge::net::{BoxStream, Listener, stopped};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::Relay;
use crate::gate::{Gate, Pass};

/// Tells established links on their ticks that mail waits or prices changed, until `stop` turns true.
pub(crate) async fn tick<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = relay.links.tick(|account| relay.store.waiting(account) || relay.peers.have_new_prices()) => {}
    }
}

/// Accepts connections until `stop` turns true.
pub(crate) async fn serve<S: RelayStore>(
    relay: Arc<Relay<S>>,
    mut listener: Box<dyn Listener>,
    mut stop: watch::Receiver<bool>,
) {
    let gate = Gate::new(relay.config.unconfirmed_max);
    let server = Server(Arc::new(Semaphore::new(0)));
    while let Some((stream, pass)) = gate.admit(&mut *listener, &mut stop).await {
        let host = relay.host.clone();
        let relay = relay.clone();
        let serving = server.0.clone();
        host.task(async move { connection(&relay, stream, pass, &serving).await });
    }
}

/// Tells the links when it is dropped, one after the other in the order in which they began to wait: a closed semaphore
/// keeps that order, where a watch draws it.
struct Server(Arc<Semaphore>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Ends when the server does.
async fn over(serving: &Semaphore) {
    // There never is a permit.
    let _ = serving.acquire().await;
}

async fn connection<S: RelayStore>(relay: &Arc<Relay<S>>, mut stream: BoxStream, pass: Pass, serving: &Semaphore) {
    let deadline = Instant::now() + relay.config.handshake() + jitter(relay);
    match tokio::time::timeout_at(deadline, handshake::confirm(relay, &mut stream)).await {
        Ok(Some(confirmed)) => {
            drop(pass);
            session::serve(relay, stream, confirmed, serving).await;
        }
        // Whatever did not open, and the end of the stream too, is waited out until the one timer ends.
        Ok(None) => {
            let _ = tokio::time::timeout_at(deadline, handshake::discard(&mut stream)).await;
        }
        Err(_) => {}
    }
}

/// Up to a tenth of the handshake's time, drawn at accept.
fn jitter<S: RelayStore>(relay: &Relay<S>) -> Duration {
    let drawn = u64::from_le_bytes(relay.host.random());
    Duration::from_millis(drawn % (relay.config.handshake_ms / 10 + 1))
}
