//! Other relays, at which this one is a keypack's holder: what goes by them is sealed anew under a pack of theirs and paid
//! for as any holder pays.
//!
//! ```text
//! spool -> hand over: row of the peer's outbox, named by the delivery -> delivery recorded as gone -> sent, answered
//! ```
//!
//! The peer's outbox is the spool of this hop. A row is there before the delivery is recorded as gone, and its answer counts
//! only after that: after a crash in between the delivery comes again, finds its row, and is not queued twice.

mod books;
mod compare;
mod legs;
mod packs;
mod prices;
mod procure;
mod renew;
mod reports;
mod settle;
mod ways;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keypacks::deposit;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{OutboxOrder, SentNames, SentReports};
use mailbox::relay_store::{Delivery, DeliveryId};
use mailbox::request::{self, Envelope, EnvelopeOption, HOPS_MAX, Origin};
use mailbox::{HolderStore, RelayStore, StoreError};
use serde::Serialize;
use smtp_bridge::holder::{self, HolderConfig, HolderHandle, LinkState};
use smtp_bridge::message::Address;
use smtp_bridge::net::{Host, once_unlocked};
use smtp_bridge::smtp::{DeliveryResult, Enhanced};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use crate::Relay;

pub(crate) use packs::{accept, is_name, paths};
pub(crate) use ways::{Handed, Place, place};

/// Where the packs of peers are, in the data folder.
pub(crate) const FOLDER: &str = "peers";
/// Longest passphrase that is read for a peer's folder, in bytes.
const PASSPHRASE_MAX: usize = 1_024;

/// One peer, as long as this relay runs.
#[derive(Clone)]
struct Peer {
    store: HolderFiles,
    handle: HolderHandle,
    /// Its operator was told that value is missing.
    is_short: Arc<AtomicBool>,
    /// What messages cost that are being put into the outbox, in µtok.
    taking: Arc<AtomicU64>,
    /// Price of the dearest message that value was missing for, in µtok, until more was granted; 0: of none.
    short: Arc<AtomicU64>,
    left: Arc<renew::Left>,
    /// UTC day on which it said that it makes no more packs that day.
    full_on: Arc<AtomicU32>,
    /// What it wrote to somebody here that was no report, since the start.
    strays: Arc<AtomicU64>,
    unlinked: Arc<ways::Unlinked>,
    avoided: Arc<ways::Avoided>,
    compared: Arc<books::Compared>,
    accepted: Arc<prices::Accepted>,
}

/// The peers that could be opened, by name.
#[derive(Default)]
pub(crate) struct Peers(
    Mutex<BTreeMap<String, Peer>>,
    Mutex<Option<Instant>>,
    /// Counts orders of packs.
    watch::Sender<u64>,
    /// Held while an order is judged and taken: what is left of a peer's pack is given to one of them.
    tokio::sync::Mutex<()>,
    /// What was in the spool when the pack of some peer was there and could not be opened: that one may have it.
    Mutex<HashSet<DeliveryId>>,
);

/// What came of [`Peers::resume`].
pub(crate) enum Resumed {
    /// It is given mail again.
    Used,
    /// It was linked already, and nothing kept mail from it.
    Stood,
    /// The link was found.
    Linked,
}

/// What an operator sees of a peer.
#[derive(Serialize)]
pub(crate) struct Shown {
    name: String,
    link: &'static str,
    balance: u64,
    keys: u64,
    waiting: usize,
    /// What the peer's operator still lends, if that is less than was needed.
    credit: Option<u64>,
    /// What it wrote to somebody here that was no report, and was dropped, since the start.
    dropped: u64,
    /// What it debited for a message beyond its price, in µtok. While it is not 0 the peer is given nothing.
    beyond: u64,
    /// Its prices rose too far, and nothing is given to it.
    dear: bool,
    /// What the latest comparison of the books came to.
    books: String,
    /// How many seconds ago that was.
    compared: Option<u64>,
}

/// Nobody at this hop has looked at the message: it stays where it is.
pub(crate) const NOT_NOW: DeliveryResult = DeliveryResult::Transient {
    code: None,
    status: Enhanced::new(4, 4, 1),
};
/// It went in a circle, or further than any way is long.
const TOO_FAR: DeliveryResult = DeliveryResult::Permanent {
    code: None,
    status: Enhanced::new(5, 4, 6),
};
/// No class holds it with its envelope.
const TOO_LONG: DeliveryResult = DeliveryResult::Permanent {
    code: None,
    status: Enhanced::new(5, 3, 4),
};

/// Whether mail that passed so many relays before this one goes no further by a peer, where this and so many more are behind:
/// one that nothing was heard of is the only one. What such a way costs is not charged, see [`legs`].
pub(crate) fn is_too_far(hops: u8, relays: u8) -> bool {
    hops.saturating_add(relays.max(1)) > HOPS_MAX
}

impl Peer {
    /// What it debited for a message beyond its price, in µtok, since the operator last passed over it.
    fn beyond(&self) -> u64 {
        // A book that cannot be read accuses nobody: nothing is sent by such a store anyway.
        self.store.own_book().map_or(0, |book| book.beyond)
    }

    /// Whether its prices rose beyond what the settings let them.
    fn is_too_dear(&self) -> bool {
        self.accepted.is_exceeded(&self.store)
    }
}

impl Peers {
    fn of(&self, name: &str) -> Option<Peer> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(name).cloned()
    }

    /// Whether what the legs behind this relay cost has changed a short while ago: long enough for every link to hear of it.
    pub(crate) fn have_new_prices(&self) -> bool {
        let changed = *self.1.lock().unwrap_or_else(PoisonError::into_inner);
        changed.is_some_and(|until| Instant::now() < until)
    }

    /// Every link has its turn once in a tick.
    fn tell_new_prices(&self, tick: Duration) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + 2 * tick);
    }

    fn all(&self) -> Vec<(String, Peer)> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(name, peer)| (name.clone(), peer.clone())).collect()
    }

    /// Whether a delivery may be with a peer whose pack could not be opened.
    fn may_be_with_unopened(&self, id: DeliveryId) -> bool {
        self.4.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// How many relays are behind this one on the way by a peer to a recipient: 1 where it told of none behind it. `None`: its
    /// pack could not be opened.
    pub(crate) fn relays_by(&self, name: &str, recipient: &str) -> Option<u8> {
        let peer = self.of(name)?;
        Some(peer.store.onward().leg(recipient).relays.saturating_add(1))
    }

    /// At how many peers the credit is used up.
    pub(crate) fn without_credit(&self) -> u64 {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.left.told() == Some(0)).count() as u64
    }

    /// How many peers are given nothing, since their prices rose too far.
    pub(crate) fn too_dear(&self) -> u64 {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.is_too_dear()).count() as u64
    }

    /// What each peer charges whose prices are known.
    fn charges(&self) -> BTreeMap<String, legs::Charges> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.iter();
        known
            .filter_map(|(name, peer)| {
                let mut charges = legs::Charges::of(&peer.store)?;
                charges.is_too_dear = peer.is_too_dear();
                Some((name.clone(), charges))
            })
            .collect()
    }

    /// Has a peer used again that took more than its price, or whose prices rose too far: those of now are accepted. Else looks for where it stands with the pack held there, and
    /// waits for the link. `None`: there is no such peer.
    pub(crate) async fn resume<S: RelayStore>(
        &self,
        relay: &Relay<S>,
        name: &str,
    ) -> Option<Result<Resumed, StoreError>> {
        let peer = self.of(name)?;
        if peer.is_too_dear() {
            let accepted = peer.accepted.accept(&relay.host, &relay.config.data, name, &peer.store);
            if peer.beyond() == 0 || accepted.is_err() {
                peer.handle.refresh();
                return Some(accepted.map(|()| Resumed::Used).map_err(StoreError::from));
            }
        }
        if peer.beyond() > 0 {
            let passed = peer.store.pass_over_beyond().await;
            // What waits in the outbox goes at once.
            peer.handle.refresh();
            return Some(passed.map(|()| Resumed::Used));
        }
        let mut changes = peer.handle.changes();
        if *changes.borrow_and_update() == LinkState::Linked {
            return Some(Ok(Resumed::Stood));
        }
        peer.handle.resume();
        changes.wait_for(|state| *state == LinkState::Linked).await.ok()?;
        Some(Ok(Resumed::Linked))
    }

    /// What there is to see of each at this UTC second, in the order of their names.
    pub(crate) fn show(&self, now: u64) -> Vec<Shown> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let show = |(name, peer): (&String, &Peer)| {
            let value = peer.store.value();
            let (books, compared) = peer.compared.show(now);
            Shown {
                name: name.clone(),
                link: match peer.handle.state() {
                    LinkState::Waiting => "waiting",
                    LinkState::Connecting => "connecting",
                    LinkState::Linked => "linked",
                    LinkState::PadUsedUp | LinkState::KeysUsedUp => "used up",
                    LinkState::RolledBack => "rolled back",
                    LinkState::Replaced => "replaced",
                },
                balance: value.balance,
                keys: value.keys,
                waiting: peer.store.outbox_len(),
                credit: peer.left.told(),
                dropped: peer.strays.load(Ordering::Relaxed),
                beyond: peer.beyond(),
                dear: peer.is_too_dear(),
                books,
                compared,
            }
        };
        peers.iter().map(show).collect()
    }
}

/// Opens the packs of all peers that a route or `procure` names, and of those with whom mail or orders wait though nothing names
/// them any more: that would be neither sent nor reported. Before anything is delivered: what was handed over before a crash
/// is known by its row. The links end when `stop` turns true.
pub(crate) async fn open_all<S: RelayStore>(relay: &Arc<Relay<S>>, stop: &watch::Sender<bool>) -> JoinSet<()> {
    let mut links = JoinSet::new();
    let named = relay.config.peer_names();
    // What cannot be listed may be there.
    let (taken_in, mut has_unopened) = match packs::names(&*relay.host.disk, &relay.config.data) {
        Ok(names) => (names, false),
        Err(error) => {
            tracing::error!(%error, "the folder of the packs held at peers cannot be read");
            (BTreeSet::new(), true)
        }
    };
    let others = taken_in.iter().filter(|name| !named.contains(*name));
    for name in named.iter().chain(others) {
        let store = match open(&relay.host, &relay.config.data, name).await {
            Ok(store) => store,
            Err(error) => {
                tracing::error!(peer = name, %error, "the pack of a peer cannot be opened: nothing goes by it");
                has_unopened |= taken_in.contains(name);
                continue;
            }
        };
        let is_named = named.contains(name);
        if !is_named {
            if !is_waited_for(&store) {
                store.stop().await;
                continue;
            }
            tracing::warn!(
                peer = name,
                "nothing names this peer, and mail or orders wait with it: they are seen through"
            );
        }
        let settings = relay.config.peers.get(name).cloned().unwrap_or_default();
        let times_max = settings.price_times_max;
        let accepted = prices::Accepted::read(&relay.host, &relay.config.data, name, times_max);
        let accepted = Arc::new(accepted);
        let mut config = HolderConfig::new(Address::parse("relay@localhost").expect("an address"));
        config.tick = relay.config.tick();
        config.settle = Some(Arc::new(settle::Settling {
            relay: relay.clone(),
            name: name.clone(),
            store: store.clone(),
            accepted: accepted.clone(),
        }));
        let (handle, link) = holder::new(relay.host.clone(), store.clone(), config, stop.subscribe());
        let peer = Peer {
            store: store.clone(),
            handle,
            is_short: Arc::default(),
            short: Arc::default(),
            taking: Arc::default(),
            left: Arc::default(),
            full_on: Arc::default(),
            strays: Arc::default(),
            unlinked: Arc::default(),
            avoided: Arc::default(),
            compared: Arc::default(),
            accepted,
        };
        let mut peers = relay.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.insert(name.clone(), peer.clone());
        drop(peers);
        links.spawn(link);
        links.spawn(reports::forward(
            relay.clone(),
            store.clone(),
            peer.strays.clone(),
            stop.subscribe(),
        ));
        if is_named {
            links.spawn(renew::keep(relay.clone(), name.clone(), peer.clone(), stop.subscribe()));
        }
        links.spawn(procure::keep(
            relay.clone(),
            name.clone(),
            peer.clone(),
            stop.subscribe(),
        ));
        links.spawn(books::keep(relay.clone(), name.clone(), peer.clone(), stop.subscribe()));
        links.spawn(settle::clear(relay.clone(), peer, stop.subscribe()));
    }
    if has_unopened {
        hold_up_spool(relay);
    }
    // Before any link is served: nobody is told other prices than those that are in force.
    legs::put_in_force(relay).await;
    links.spawn(legs::follow(relay.clone(), stop.subscribe()));
    links.spawn(ways::follow(relay.clone(), stop.subscribe()));
    links
}

/// Notes all that is in the spool as what a peer may have whose pack could not be opened. What is accepted from now on it
/// cannot have.
fn hold_up_spool<S: RelayStore>(relay: &Relay<S>) {
    match relay.store.queue(usize::MAX) {
        Ok(rows) => {
            let mut held_up = relay.peers.4.lock().unwrap_or_else(PoisonError::into_inner);
            held_up.extend(rows.iter().map(|row| row.id));
            tracing::error!(
                deliveries = held_up.len(),
                "what was in the queue waits until the pack of each peer opens or is gone: it may have gone there"
            );
        }
        Err(error) => tracing::error!(%error, "the queue could not be read"),
    }
}

/// Whether somebody's mail or order is in the outbox. What cannot be read is not known to be empty.
fn is_waited_for(store: &HolderFiles) -> bool {
    store.outbox().is_ok_and(|rows| {
        rows.iter()
            .any(|row| delivery_of(&row.label).is_some() || procure::order_of(&row.label).is_some())
    })
}

/// Waits until the links have ended, and closes the packs.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, mut links: JoinSet<()>) {
    while links.join_next().await.is_some() {}
    // They stay known: links that still answer do not refuse for good what goes by them.
    let peers = relay.peers.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for peer in peers.into_values() {
        peer.store.stop().await;
    }
}

async fn open(host: &Host, data: &Path, name: &str) -> Result<HolderFiles, StoreError> {
    let (folder, file) = paths(data, name);
    let passphrase = read_passphrase(host, &file)?;
    let opened = || {
        let options = HolderOptions::default();
        let (store, actor) = HolderFiles::open(&host.disk, &folder, &passphrase, &options, &host.entropy)?;
        host.workers.actor("peer", Box::pin(actor))?;
        Ok(store)
    };
    once_unlocked(opened).await
}

fn read_passphrase(host: &Host, file: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = host.disk.open(file, false)?;
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if length > PASSPHRASE_MAX {
        return Err(StoreError::Corrupt);
    }
    let mut passphrase = Zeroizing::new(vec![0; length]);
    file.read_at(0, &mut passphrase)?;
    Ok(passphrase)
}

/// Puts a delivery into the outbox of the peer, which no peer has yet.
pub(crate) async fn hand_over<S: RelayStore>(relay: &Relay<S>, name: &str, delivery: &Delivery) -> Handed {
    let Some(peer) = relay.peers.of(name) else {
        return Handed::Passed(NOT_NOW);
    };
    let Peer { store, handle, .. } = &peer;
    let label = label_of(delivery.id);
    if is_too_far(delivery.hops, 1) {
        return Handed::Passed(TOO_FAR);
    }
    if peer.is_passed_over(Duration::from_secs(relay.config.next_way_s)) {
        return Handed::Passed(NOT_NOW);
    }
    // Where there is no link, it stays in the spool, whose senders are told of delay and failure.
    let (LinkState::Linked, Some(prices)) = (handle.state(), store.prices()) else {
        return Handed::Stays(NOT_NOW);
    };
    let onward = store.onward();
    let recipient = delivery.recipient.as_str();
    if is_too_far(delivery.hops, onward.leg(recipient).relays.saturating_add(1)) {
        return Handed::Passed(TOO_FAR);
    }
    let envelope = Envelope {
        reverse_path: delivery.reverse_path.clone(),
        recipients: vec![delivery.recipient.clone()],
        origin: Origin::Relay {
            hops: NonZeroU8::MIN.saturating_add(delivery.hops),
            options: options_of(delivery),
        },
    };
    let mut body = Zeroizing::new(request::payload(&envelope, &delivery.message));
    let Some(kilobytes) = deposit::class_for(body.len()) else {
        // A way that is none by a peer needs no envelope beside the message.
        return Handed::Passed(TOO_LONG);
    };
    let length = u32::try_from(body.len()).expect("the largest class is below 4 GiB");
    let mut padded = Vec::with_capacity(deposit::class_bytes(kilobytes));
    padded.extend_from_slice(&body);
    padded.resize(deposit::class_bytes(kilobytes), 0);
    body.zeroize();
    let charged = relay.store.onward();
    let (Some(price), Some(paid)) = (
        onward.price_of(&prices, [recipient], kilobytes),
        charged.price_of(&relay.store.prices(), [recipient], kilobytes),
    ) else {
        return Handed::Passed(NOT_NOW);
    };
    // The way by a peer that is not the nearest is not charged in full, see [`legs`]. The nearest is, but for the class, which may
    // be one more there, and for what a peer names of so many domains that it is not told on. What is more is paid by nobody.
    let is_farther = onward.leg(recipient).relays >= charged.leg(recipient).relays;
    let most = if is_farther {
        paid.total()
    } else {
        paid.total().saturating_mul(2)
    };
    let price = price.total();
    if price > most {
        return Handed::Passed(NOT_NOW);
    }
    // Others are on their way into the outbox at this moment, and reserve nothing yet.
    let taking = Taking::of(&peer.taking, price);
    let spent = store.reserved().unwrap_or(u64::MAX).saturating_add(taking.others);
    let is_missing = store.value().balance.saturating_sub(spent) < price;
    if !peer.is_short.swap(is_missing, Ordering::Relaxed) && is_missing {
        tracing::error!(
            peer = name,
            "the pack held at a peer has not value enough: mail waits until a top-up"
        );
    }
    if is_missing {
        peer.short.fetch_max(price, Ordering::Relaxed);
        // Of a top-up nobody tells: the next try knows by this.
        handle.refresh();
        return Handed::Passed(NOT_NOW);
    }
    let order = OutboxOrder {
        body: padded,
        kilobytes,
        length,
        recipients: 1,
        prices: prices.version,
        price,
        label,
        sent: SentNames {
            alias: String::new(),
            own: None,
            outside: String::new(),
        },
        reports: SentReports::default(),
        now: relay.host.clock.unix_seconds(),
    };
    match store.enqueue(order).await {
        Ok(_) => Handed::Taken,
        Err(StoreError::Busy) => Handed::Passed(NOT_NOW),
        // Perhaps it is there, and is found there at the next try.
        Err(_) => Handed::Stays(NOT_NOW),
    }
}

/// Value that one message takes until its row reserves it.
struct Taking<'a> {
    all: &'a AtomicU64,
    price: u64,
    /// What the others take that came before.
    others: u64,
}

impl<'a> Taking<'a> {
    fn of(all: &'a AtomicU64, price: u64) -> Self {
        let others = all.fetch_add(price, Ordering::AcqRel);
        Taking { all, price, others }
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.price, Ordering::AcqRel);
    }
}

/// What the next relay is asked for: reports on the one recipient, and to mix the message.
fn options_of(delivery: &Delivery) -> Vec<EnvelopeOption> {
    let wishes = delivery.wishes;
    let notify = EnvelopeOption::Notify { recipient: 0, wishes };
    let mix = delivery.mix.map(|profile| EnvelopeOption::Mix {
        profile: profile.number(),
    });
    wishes.are_said().then_some(notify).into_iter().chain(mix).collect()
}

/// What a delivery's row is called in the outbox.
fn label_of(id: DeliveryId) -> String {
    format!("{:016x}", id.0)
}

/// The delivery that a row of the outbox was made from.
fn delivery_of(label: &str) -> Option<DeliveryId> {
    u64::from_str_radix(label, 16).ok().map(DeliveryId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_taken_by_one_message_at_a_time() {
        let all = AtomicU64::new(0);
        let first = Taking::of(&all, 20);
        let second = Taking::of(&all, 20);
        assert_eq!((first.others, second.others), (0, 20));
        drop(first);
        assert_eq!(Taking::of(&all, 5).others, 20);
        drop(second);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_row_names_the_delivery_that_it_was_made_from() {
        for id in [0, 7, u64::MAX] {
            assert!(delivery_of(&label_of(DeliveryId(id))) == Some(DeliveryId(id)));
        }
        assert!(delivery_of("first alias").is_none());
    }
}
