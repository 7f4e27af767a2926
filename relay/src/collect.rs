//! The collecting port: IMAP over TLS, for whoever carries deposits to a machine without a link.
//!
//! A login is one-time (`keypacks::parcel::Login`) and takes the index of a parcel: its receipt is durable before it is
//! answered OK. It shows what waited at that moment, as opaque mails, for ten minutes at the most, or until the next login
//! of the same pack. Nothing can be changed
//! here, and nothing is deleted: that takes a confirmation sealed by the holder.

mod snapshot;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailbox::RelayStore;
use mailbox::relay_store::Account;
use smtp_bridge::imap::{self, Limits};
use smtp_bridge::net::tls::Acceptor;
use smtp_bridge::net::{BoxStream, Listener, stopped};
use tokio::sync::{Notify, watch};

use crate::Relay;
use crate::gate::Gate;

use snapshot::Carrier;

/// The collecting sessions that are logged in: one for each account, so that nobody takes more memory with more logins.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<Account, Arc<Notify>>>);

impl Sessions {
    /// A session takes the account's place, and ends the one that had it.
    fn enter(&self, account: Account, end: &Arc<Notify>) {
        if let Some(older) = self.all().insert(account, Arc::clone(end)) {
            older.notify_one();
        }
    }

    /// A session ended. The place may be a newer one's.
    fn leave(&self, account: Account, end: &Arc<Notify>) {
        let mut all = self.all();
        if all.get(&account).is_some_and(|held| Arc::ptr_eq(held, end)) {
            all.remove(&account);
        }
    }

    /// Ends the session of an account, if it has one.
    pub(crate) fn end(&self, account: Account) {
        if let Some(end) = self.all().get(&account) {
            end.notify_one();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Account, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longest time from accept to the end of a session.
const SESSION: Duration = Duration::from_secs(600);
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// What a session may cost.
fn limits(connections_max: usize) -> Limits {
    Limits {
        append_max: 0,
        command_max: 16 << 10,
        // RFC 3501 asks for more where somebody reads mail; here somebody fetches it.
        inactivity: Duration::from_secs(60),
        inactivity_before_login: Duration::from_secs(30),
        part_kept: Duration::from_secs(60),
        // The session ends before.
        taking: SESSION,
        login_failure_delay: Duration::from_secs(2),
        login_failures_max: 3,
        bad_commands_max: 20,
        sessions_max: connections_max,
    }
}

/// Accepts connections until `stop` turns true, which ends those that are open too: a login that was burned is lost with
/// its session, and no mail.
pub(crate) async fn serve<S: RelayStore>(
    relay: Arc<Relay<S>>,
    acceptor: Arc<Acceptor>,
    connections_max: usize,
    mut listener: Box<dyn Listener>,
    mut stop: watch::Receiver<bool>,
) {
    let gate = Gate::new(connections_max);
    while let Some((stream, pass)) = gate.admit(&mut *listener, &mut stop).await {
        let (acceptor, mut stop) = (acceptor.clone(), stop.clone());
        let (carrier, limits) = (Carrier::new(relay.clone()), limits(connections_max));
        relay.host.task(async move {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => {}
                () = carrier.replaced() => {}
                // How it ended is the carrier's business.
                _ended = tokio::time::timeout(SESSION, session(stream, &acceptor, &limits, &carrier)) => {}
            }
            drop(pass);
        });
    }
}

async fn session<S: RelayStore>(stream: BoxStream, acceptor: &Acceptor, limits: &Limits, carrier: &Carrier<S>) {
    // Nothing is said to who does not speak TLS.
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        let _ended = imap::serve(stream, limits, carrier).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_session_of_an_account_or_its_end_ends_the_older_and_no_other() {
        let sessions = Sessions::default();
        let [first, second, other] = [(); 3].map(|()| Arc::new(Notify::new()));
        sessions.enter(Account(1), &first);
        sessions.enter(Account(2), &other);
        sessions.enter(Account(1), &second);
        first.notified().await;
        // The older one leaves late: the place is not its own any more.
        sessions.leave(Account(1), &first);
        assert!(sessions.all().contains_key(&Account(1)));
        sessions.leave(Account(1), &second);
        sessions.leave(Account(2), &other);
        assert!(sessions.all().is_empty());
        sessions.enter(Account(3), &first);
        sessions.enter(Account(2), &other);
        sessions.end(Account(3));
        first.notified().await;
        for end in [second, other] {
            let waited = tokio::time::timeout(Duration::ZERO, end.notified()).await;
            assert!(waited.is_err(), "nobody took its place, or ended it");
        }
    }
}
