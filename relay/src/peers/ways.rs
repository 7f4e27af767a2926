//! Another way: what a peer does not take goes by the next way of its route, and so does what was handed over to it and
//! certainly never left.
//!
//! ```text
//! spool -> row of a peer's outbox, the delivery stays in the spool -> answered: the delivery ends, then the row
//!                                  -> the peer is passed over: the row ends, the delivery goes by the next way
//! ```
//!
//! A delivery with several ways ends only when the peer has answered. As long as any outbox has a row of it, it goes nowhere
//! else; where the row is gone and the delivery is there, nobody has it: so each crash leaves it in one place to go on from.
//! A row that may have left is not taken back: it waits for its answer, or is reported when it has waited too long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keypacks::chain::KEYS_RESERVED;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::relay_store::{DeliveryId, Outcome};
use mailbox::request::Refusal;
use mailbox::{HolderStore, RelayStore, StoreError};
use smtp_bridge::holder::LinkState;
use smtp_bridge::net::stopped;
use smtp_bridge::smtp::DeliveryResult;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Peer, Peers, delivery_of, label_of};
use crate::Relay;
use crate::config::Route;

/// What came of handing a delivery over.
pub(crate) enum Handed {
    /// It is durable in the peer's outbox.
    Taken,
    /// It waits for this peer, or ends.
    Stays(DeliveryResult),
    /// This peer does not take it now, and no later way is worse.
    Passed(DeliveryResult),
}

/// Who has a delivery that is due.
pub(crate) enum Place {
    /// Nobody: it goes by its first way that works.
    Spool,
    /// A peer's outbox.
    Peer,
    /// Nobody knows: the pack of a peer that may have it cannot be opened.
    Unclear,
}

/// How long a peer is passed over that refused mail for what is left of the pack there.
const AVOIDED: Duration = Duration::from_secs(600);

/// When a peer last refused mail for what is left of the pack there, not for the mail.
#[derive(Default)]
pub(super) struct Avoided(Mutex<Option<Instant>>);

impl Avoided {
    fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn lasts(&self, now: Instant) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| now.saturating_duration_since(since) < AVOIDED)
    }
}

/// Whether a refusal says something of the pack at the peer and nothing of the message: it was not carried out there, and may
/// be elsewhere.
pub(super) fn is_of_pack(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::Ended | Refusal::Keys | Refusal::Pad)
}

/// Since when a peer is without a link.
pub(super) struct Unlinked(Mutex<Option<Instant>>);

impl Default for Unlinked {
    fn default() -> Self {
        Unlinked(Mutex::new(Some(Instant::now())))
    }
}

impl Unlinked {
    fn note(&self, is_linked: bool, now: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = match is_linked {
            true => None,
            false => since.or(Some(now)),
        };
    }

    /// Whether it lasts for as long as this.
    fn lasts(&self, bound: Duration, now: Instant) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| now.saturating_duration_since(since) >= bound)
    }
}

impl Peer {
    /// Whether nothing will go by this peer until somebody does something about it, or for longer than mail is to wait.
    pub(super) fn is_passed_over(&self, bound: Duration) -> bool {
        self.beyond() > 0
            || self.is_too_dear()
            || self.handle.is_frozen()
            || self.has_few_keys()
            || self.avoided.lasts(Instant::now())
            || match self.handle.state() {
                LinkState::Linked => false,
                LinkState::PadUsedUp | LinkState::KeysUsedUp | LinkState::RolledBack | LinkState::Replaced => true,
                LinkState::Waiting | LinkState::Connecting => self.unlinked.lasts(bound, Instant::now()),
            }
    }

    /// Whether only those link keys are left that the peer takes no mail under.
    fn has_few_keys(&self) -> bool {
        let value = self.store.value();
        value.at > 0 && value.keys < KEYS_RESERVED
    }

    /// Takes a row out of the outbox. `false`: it may have left.
    async fn take_back(&self, label: &str) -> Result<bool, StoreError> {
        match self.store.outbox_row(label) {
            Some(row) if never_left(&row) => self.store.cancel(row.row).await,
            Some(_) => Ok(false),
            None => Ok(true),
        }
    }
}

/// Whether a row of mail was not sent, or refused by an answer under each number that it was sent under.
fn never_left(row: &OutboxRow) -> bool {
    match row.state {
        OutboxState::Queued => !row.may_have_left && !row.is_shared,
        OutboxState::Held(_) => !row.is_shared,
        OutboxState::Refused(_) | OutboxState::Unknown => false,
    }
}

/// Whether a row of mail was refused for want of value, and waits for that alone.
fn waits_for_value(row: &OutboxRow) -> bool {
    matches!(row.state, OutboxState::Held(Refusal::Value { .. })) && never_left(row)
}

impl Peers {
    /// Any peer whose outbox has a row of the delivery.
    fn holding(&self, label: &str) -> Option<Peer> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().find(|peer| peer.store.outbox_knows(label)).cloned()
    }

    /// Passes a peer over for a while that refused mail for what is left of the pack there.
    pub(super) fn avoid(&self, name: &str) {
        if let Some(peer) = self.of(name) {
            peer.avoided.note(Instant::now());
        }
    }

    /// Takes a delivery back that is in somebody's hands here from the peer whose outbox has it. `false`: it may have left.
    pub(crate) async fn take_back(&self, id: DeliveryId) -> Result<bool, StoreError> {
        let label = label_of(id);
        match self.holding(&label) {
            Some(peer) => peer.take_back(&label).await,
            None => Ok(true),
        }
    }
}

/// Who has a delivery that is due and in the exit's hands. What a peer has that is passed over is taken back where another
/// of these ways works.
pub(crate) async fn place<S: RelayStore>(relay: &Relay<S>, id: DeliveryId, ways: &[Route]) -> Place {
    let label = label_of(id);
    let Some(peer) = relay.peers.holding(&label) else {
        // Mail to this relay itself never goes by a peer.
        let may_be_away = !matches!(ways, [Route::Own(_)]) && relay.peers.may_be_with_unopened(id);
        return match may_be_away {
            true => Place::Unclear,
            false => Place::Spool,
        };
    };
    let bound = Duration::from_secs(relay.config.next_way_s);
    let works = |way: &Route| match way {
        Route::Peer(name) => relay.peers.of(name).is_some_and(|other| {
            other.handle.state() == LinkState::Linked
                && !other.is_passed_over(bound)
                && !other.store.outbox_knows(&label)
        }),
        _ => true,
    };
    let waits_for_value = || peer.store.outbox_row(&label).is_some_and(|row| waits_for_value(&row));
    if ways.len() < 2 || !(peer.is_passed_over(bound) || waits_for_value()) || !ways.iter().any(works) {
        return Place::Peer;
    }
    match peer.take_back(&label).await {
        Ok(true) => Place::Spool,
        Ok(false) => Place::Peer,
        Err(error) => {
            tracing::warn!(%error, "a delivery could not be taken back from a peer that is passed over");
            Place::Peer
        }
    }
}

/// Looks which peers are passed over, and has the exit look at what waits with them whenever that changes, until `stop` turns
/// true.
pub(super) async fn follow<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    let bound = Duration::from_secs(relay.config.next_way_s);
    let mut known: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    // What was made due since anything changed.
    let mut called = BTreeSet::new();
    loop {
        let peers = relay.peers.all();
        let now = Instant::now();
        let look = |(name, peer): &(String, Peer)| {
            let is_linked = peer.handle.state() == LinkState::Linked;
            peer.unlinked.note(is_linked, now);
            peer.accepted.hear(&relay.host, &relay.config.data, name, &peer.store);
            (name.clone(), (is_linked, peer.is_passed_over(bound)))
        };
        let states: BTreeMap<String, (bool, bool)> = peers.iter().map(look).collect();
        if states != known {
            called.clear();
        }
        for (name, peer) in peers.iter().filter(|(name, _)| states[name].1) {
            let was_passed_over = known.get(name).is_some_and(|(_, was)| *was);
            if !was_passed_over && peer.is_too_dear() {
                tracing::error!(
                    peer = name,
                    "the prices of a peer rose too far: nothing goes by it until 'posternd peer resume' accepts them"
                );
            } else if !was_passed_over {
                tracing::warn!(
                    peer = name,
                    "a peer is passed over: mail goes by other ways where there are any"
                );
            }
            let other_works = |(other, (is_linked, is_passed_over)): (&String, &(bool, bool))| {
                other != name && *is_linked && !*is_passed_over
            };
            // A try is not spent where nothing else works.
            if !relay.config.ends_directly() && !states.iter().any(other_works) {
                continue;
            }
            if let Err(error) = call_back(&relay, peer, &mut called, &stop).await {
                tracing::warn!(peer = name, %error, "mail with a peer that is passed over could not be called back");
            }
        }
        known = states;
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(relay.config.tick()) => {}
        }
    }
}

/// Makes what waits with a peer and never left due, where it is in the spool still.
async fn call_back<S: RelayStore>(
    relay: &Relay<S>,
    peer: &Peer,
    called: &mut BTreeSet<DeliveryId>,
    stop: &watch::Receiver<bool>,
) -> Result<(), StoreError> {
    if peer.store.outbox_len() == 0 {
        return Ok(());
    }
    let rows = peer.store.outbox()?;
    for id in rows
        .iter()
        .filter(|row| never_left(row))
        .filter_map(|row| delivery_of(&row.label))
    {
        if *stop.borrow() {
            break;
        }
        if called.contains(&id) {
            continue;
        }
        // What the exit has in hand it looks at by itself.
        let Some(_hold) = relay.waiting.hold(id) else { continue };
        if relay.store.delivery_kilobytes(id).is_some() {
            let at = relay.host.clock.unix_seconds();
            relay.store.finish(id, Outcome::Retry { at }).await?;
        }
        called.insert(id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mailbox::request::{Change, Operation};

    use super::*;

    fn row(state: OutboxState) -> OutboxRow {
        OutboxRow {
            row: 1,
            change: Change {
                seq: 1,
                id: [0; 16],
                blind: [0; 16],
                acknowledged: 0,
                operation: Operation::AliasOpen { local: String::new() },
            },
            state,
            may_have_left: false,
            is_shared: false,
            price: 0,
            label: String::new(),
            taken: 0,
        }
    }

    #[test]
    fn what_may_have_left_is_not_taken_back() {
        let held = OutboxState::Held(Refusal::Value { shortfall: 1 });
        assert!(never_left(&row(OutboxState::Queued)) && never_left(&row(held)));
        assert!(waits_for_value(&row(held)) && !waits_for_value(&row(OutboxState::Queued)));
        let dearer = OutboxState::Held(Refusal::Price { price: 1, prices: 1 });
        assert!(!waits_for_value(&row(dearer)), "it goes at the new price");
        for gone in [OutboxState::Unknown, OutboxState::Refused(Refusal::Message)] {
            assert!(!never_left(&row(gone)));
        }
        let sent = OutboxRow {
            may_have_left: true,
            ..row(OutboxState::Queued)
        };
        assert!(!never_left(&sent), "its answer may be on the way");
        for state in [OutboxState::Queued, held] {
            let shared = OutboxRow {
                is_shared: true,
                ..row(state)
            };
            assert!(!never_left(&shared), "a copy of the store may have sent it");
        }
    }

    #[test]
    fn a_refusal_of_the_pack_is_none_of_the_message() {
        for of_pack in [Refusal::Ended, Refusal::Keys, Refusal::Pad] {
            assert!(is_of_pack(of_pack), "{of_pack:?}");
        }
        for of_mail in [
            Refusal::Message,
            Refusal::Stale,
            Refusal::Route { recipient: 0 },
            Refusal::Mix,
        ] {
            assert!(!is_of_pack(of_mail), "{of_mail:?}");
        }
        let (avoided, start) = (Avoided::default(), Instant::now());
        assert!(!avoided.lasts(start));
        avoided.note(start);
        assert!(avoided.lasts(start + AVOIDED / 2) && !avoided.lasts(start + AVOIDED));
    }

    #[test]
    fn a_peer_is_given_its_time_anew_after_each_link() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let bound = Duration::from_secs(600);
        let unlinked = Unlinked(Mutex::new(Some(start)));
        unlinked.note(false, later(500));
        assert!(!unlinked.lasts(bound, later(599)) && unlinked.lasts(bound, later(600)));
        unlinked.note(true, later(700));
        assert!(!unlinked.lasts(bound, later(9_000)));
        unlinked.note(false, later(10_000));
        assert!(!unlinked.lasts(bound, later(10_599)) && unlinked.lasts(bound, later(10_600)));
    }
}
