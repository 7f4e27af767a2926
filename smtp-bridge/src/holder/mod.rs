//! The holder's end of a link: keeps one open while the pack lasts, empties the outbox, collects the mail.
//!
//! Start at [`new`]. `dial` makes a link, `courier` works on it, `collecting` is the part of it that mail comes in by. What is durable lives in the store; what is
//! here is lost in a crash and made again.

mod answers;
mod collecting;
mod courier;
pub mod cover;
mod dial;
mod directory;
pub mod loops;
mod next_keys;
mod pad;
pub mod pool;
mod requests;
mod shortage;
mod streaming;
mod through;

pub(crate) use collecting::{LARGE_BYTES, as_kept, notices_of, notices_of_devices, open as open_body};
pub(crate) use courier::refusal_reason;
pub use directory::ServedDirectory;
pub use through::{Entry, Way};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger::Services;
use mailbox::holder_store::{Flags, FolderId, OutboxRow};
use mailbox::request::{Answer, CoverOffer, Device, Mixing, Offers};
use mailbox::{HolderStore, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::link::{LinkError, erasing};
use crate::message::{Address, Notice};
use crate::net::{Host, Promise, stopped};

/// What has to be done before an answer to a row of the outbox counts. It may be asked again about the same answer, as a
/// crash in between forgets that it was.
pub trait Settle: Send + Sync {
    /// Returns once the answer may be recorded.
    fn settle<'a>(&'a self, row: &'a OutboxRow, answer: &'a Answer) -> Promise<'a, Result<(), StoreError>>;

    /// Whether what was refused for its price or for want of value is sent at the prices that the store knows now.
    fn pays(&self) -> bool;
}

/// How the holder's end behaves.
#[derive(Clone)]
pub struct HolderConfig {
    /// Whom notices are addressed to: the user's name for mail programs, at localhost.
    pub user: Address,
    /// `host:port` to dial instead of the address in the pack.
    pub relay_via: Option<String>,
    /// SOCKS5 proxy to dial through; it resolves the relay's name too.
    pub socks: Option<SocketAddr>,
    /// By which the relay is reached, instead of being dialled. Neither address nor proxy counts then.
    pub through: Option<Arc<dyn Way>>,
    /// How often news from the relay are looked at; arrival is blurred by it.
    pub tick: Duration,
    /// Longest wait for one flight of the handshake.
    pub flight_timeout: Duration,
    /// Longest wait for the answer to a request.
    pub answer_timeout: Duration,
    /// What has to be done before an answer counts, if anything.
    pub settle: Option<Arc<dyn Settle>>,
    /// By which loops that came back are known: they are nothing for the user.
    pub loops: Option<Arc<loops::Loops>>,
    /// Where it is noted at each link whether the relay has a pool.
    pub pool: Option<Arc<pool::RelayPool>>,
    /// Cover on the line to the relay.
    pub cover: Option<cover::Covered>,
}

impl HolderConfig {
    /// The defaults for a user.
    pub fn new(user: Address) -> Self {
        HolderConfig {
            user,
            relay_via: None,
            socks: None,
            through: None,
            tick: Duration::from_secs(60),
            flight_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(120),
            settle: None,
            loops: None,
            pool: None,
            cover: None,
        }
    }
}

/// What `postern status` shows of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Not connected; the next try comes by itself.
    Waiting,
    /// Dialling or in the handshake.
    Connecting,
    /// Established.
    Linked,
    /// The pad is used up: nothing more can be sent or collected with this pack.
    PadUsedUp,
    /// All link keys are used: nothing more can be sent or collected with this pack.
    KeysUsedUp,
    /// The relay answered as if it had been restored from an old copy: see OPERATIONS.
    RolledBack,
    /// Somebody else had the relay give the pack other keys: these open nothing any more.
    Replaced,
}

/// What the rest of the process sees of the holder's end.
#[derive(Clone)]
pub struct HolderHandle {
    state: watch::Receiver<LinkState>,
    refresh: watch::Sender<u64>,
    statements: mpsc::Sender<Statement>,
    devices: mpsc::Sender<Devices>,
    mixing: mpsc::Sender<Asked>,
    offers: mpsc::Sender<OffersWish>,
    cover: mpsc::Sender<CoverWish>,
    directory: mpsc::Sender<directory::Wish>,
    resume: watch::Sender<bool>,
    frozen: Arc<AtomicBool>,
    short_of_room: Arc<AtomicBool>,
}

/// Where a statement goes that was asked for.
type Statement = oneshot::Sender<Vec<Services>>;
/// Where the number of this device goes, and all devices of the account.
type Devices = oneshot::Sender<(u32, Vec<Device>)>;
/// Where the packs go that the relay procures.
type OffersWish = oneshot::Sender<Offers>;
/// Where it goes what the relay asks for cover.
type CoverWish = oneshot::Sender<Option<CoverOffer>>;
/// Where it goes what the relay's pool offers.
type Asked = oneshot::Sender<Mixing>;

impl HolderHandle {
    /// State of the link.
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Whether the relay froze the pack, as the last link told.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Whether mail waits at the relay since the disk has no room for it.
    pub fn is_short_of_room(&self) -> bool {
        self.short_of_room.load(Ordering::Relaxed)
    }

    /// As if the disk had, or had not, room for what waits.
    #[cfg(test)]
    pub(crate) fn set_short_of_room(&self, is_short: bool) {
        self.short_of_room.store(is_short, Ordering::Relaxed);
    }

    /// Asks for news now instead of at the next tick.
    pub fn refresh(&self) {
        self.refresh.send_modify(|count| *count += 1);
    }

    /// Looks for the relay's position from now on until there is a link: for a copy that was restored.
    pub fn resume(&self) {
        self.resume.send_replace(true);
    }

    /// Asks the relay for all that was credited and debited, by day and kind. `None`: there is no link, or it ended.
    pub async fn statement(&self) -> Option<Vec<Services>> {
        let (sender, statement) = oneshot::channel();
        self.statements.try_send(sender).ok()?;
        statement.await.ok()
    }

    /// Asks the relay for the number of this device and all devices of the account. `None`: there is no link, or it ended.
    pub async fn devices(&self) -> Option<(u32, Vec<Device>)> {
        let (sender, devices) = oneshot::channel();
        self.devices.try_send(sender).ok()?;
        devices.await.ok()
    }

    /// Asks the relay what its pool offers. `None`: there is no link, or it ended.
    pub async fn mixing(&self) -> Option<Mixing> {
        let (sender, mixing) = oneshot::channel();
        self.mixing.try_send(sender).ok()?;
        mixing.await.ok()
    }

    /// Asks the relay what cover costs. `None`: there is no link, or it ended; `Some(None)`: it sends none.
    pub async fn cover_offer(&self) -> Option<Option<CoverOffer>> {
        let (sender, offer) = oneshot::channel();
        self.cover.try_send(sender).ok()?;
        offer.await.ok()
    }

    /// Asks the relay which packs at further ones it procures. `None`: there is no link, or it ended.
    pub async fn offers(&self) -> Option<Offers> {
        let (sender, offers) = oneshot::channel();
        self.offers.try_send(sender).ok()?;
        offers.await.ok()
    }

    /// Asks the relay for the directory that it serves, unless it is the one of this digest. `None`: there is no link, it ended,
    /// or the directory was replaced meanwhile.
    pub async fn directory(&self, known: [u8; 32]) -> Option<ServedDirectory> {
        let (sender, served) = oneshot::channel();
        self.directory.try_send((known, sender)).ok()?;
        served.await.ok()
    }

    /// Wakes when the state changes.
    pub fn changes(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }
}

/// First wait after a link that broke or could not be made.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait between tries that cost nothing.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Cutting after cell 3 costs a key each: at most this many an hour are given away.
const UNANSWERED_KEYS_PER_HOUR: u32 = 8;
/// A link that lives shorter was hardly worth its key.
const LINK_LIFE_MIN: Duration = Duration::from_secs(60);
/// Short links in a row after which the next one waits ever longer: one in so many of the keys left, within bounds.
/// A line that is cut often stays usable, and a second copy of the pack that fights for the link cannot use it up.
const SHORT_LINKS_SHARE: u64 = 20;
const SHORT_LINKS_MIN: u64 = 8;
const SHORT_LINKS_MAX: u64 = 1_000;

/// Statements that may be asked for at one time.
const STATEMENTS_MAX: usize = 4;

/// What the rest of the process wishes of the link.
struct Wishes {
    refreshed: watch::Receiver<u64>,
    asked: mpsc::Receiver<Statement>,
    devices: mpsc::Receiver<Devices>,
    mixing: mpsc::Receiver<Asked>,
    offers: mpsc::Receiver<OffersWish>,
    cover: mpsc::Receiver<CoverWish>,
    directory: mpsc::Receiver<directory::Wish>,
    /// Whether the relay's position is to be looked for.
    resume: watch::Sender<bool>,
    frozen: Arc<AtomicBool>,
    /// Whether mail waits since the disk has no room for it.
    short_of_room: Arc<AtomicBool>,
    /// What is known of that from one link to the next.
    shortage: shortage::Shortage,
}

/// The loop and its handle. The loop ends when `stop` turns true, or when the keys are used up.
pub fn new<S: HolderStore>(
    host: Host,
    store: S,
    config: HolderConfig,
    stop: watch::Receiver<bool>,
) -> (HolderHandle, impl Future<Output = ()> + Send) {
    let (state_sender, state) = watch::channel(LinkState::Waiting);
    let (refresh, refreshed) = watch::channel(0);
    let (statements, asked) = mpsc::channel(STATEMENTS_MAX);
    let (devices, asked_devices) = mpsc::channel(STATEMENTS_MAX);
    let (mixing, asked_mixing) = mpsc::channel(STATEMENTS_MAX);
    let (offers, asked_offers) = mpsc::channel(STATEMENTS_MAX);
    let (cover, asked_cover) = mpsc::channel(STATEMENTS_MAX);
    let (directory, asked_directory) = mpsc::channel(STATEMENTS_MAX);
    let handle = HolderHandle {
        state,
        refresh,
        statements,
        devices,
        mixing,
        offers,
        cover,
        directory,
        resume: watch::Sender::new(false),
        frozen: Arc::default(),
        short_of_room: Arc::default(),
    };
    let wishes = Wishes {
        refreshed,
        asked,
        devices: asked_devices,
        mixing: asked_mixing,
        offers: asked_offers,
        cover: asked_cover,
        directory: asked_directory,
        resume: handle.resume.clone(),
        frozen: Arc::clone(&handle.frozen),
        short_of_room: Arc::clone(&handle.short_of_room),
        shortage: shortage::Shortage::default(),
    };
    (handle, run(host, store, config, state_sender, wishes, stop))
}

async fn run<S: HolderStore>(
    host: Host,
    store: S,
    config: HolderConfig,
    state: watch::Sender<LinkState>,
    mut wishes: Wishes,
    mut stop: watch::Receiver<bool>,
) {
    if let Some(pad) = store.pad() {
        host.task(pad_until(stop.clone(), erasing::keep_erasing(host.clone(), pad)));
    }
    let mut backoff = BACKOFF_MIN;
    let mut unanswered = Unanswered::default();
    let mut short = ShortLinks::default();
    let mut resume = wishes.resume.subscribe();
    let (mut told, mut is_told_replaced) = (None, false);
    while !*stop.borrow() {
        state.send_replace(LinkState::Connecting);
        let attempt = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            attempt = attempt(&host, &store, &config, &mut resume) => attempt,
        };
        let wait = match attempt {
            Ok(link) if store.relay_generation().is_ok_and(|known| link.generation < known) => {
                state.send_replace(LinkState::RolledBack);
                tracing::error!("the relay was put back to before its last restore: nothing is sent or collected");
                // Each look has cost a key.
                unanswered.next_wait()
            }
            Ok(link) => {
                if link.rolled_back {
                    tracing::error!("the relay does not know answers it gave: it was restored from an old copy");
                }
                if link.token_mismatch {
                    tracing::error!(
                        "the relay saw another user of this pack: a copy of it is in use, or it was restored"
                    );
                    let today = host.clock.unix_seconds() / 86_400;
                    // Two that fight for the link show it with every one.
                    if told.replace(today) != Some(today) {
                        let notice = match link.is_frozen {
                            true => Notice::Frozen,
                            false => Notice::SecondHolder,
                        };
                        tell(&host, &store, &config, &notice).await;
                    }
                }
                if link.is_replaced && !store.rooting().is_pending {
                    tracing::error!(
                        "somebody else had the relay give this pack other keys: these open nothing any more"
                    );
                    if !std::mem::replace(&mut is_told_replaced, true) {
                        tell(&host, &store, &config, &Notice::Replaced).await;
                    }
                    state.send_replace(LinkState::Replaced);
                    tokio::select! {
                        biased;
                        () = stopped(&mut stop) => return,
                        () = tokio::time::sleep(unanswered.next_wait()) => continue,
                    }
                }
                let was_frozen = wishes.frozen.swap(link.is_frozen, Ordering::Relaxed);
                if link.is_frozen && !was_frozen {
                    tracing::error!("the relay has frozen this pack, since a copy of it was in use");
                    if !link.token_mismatch {
                        tell(&host, &store, &config, &Notice::Frozen).await;
                    }
                }
                is_told_replaced = false;
                wishes.resume.send_replace(false);
                resume.mark_unchanged();
                state.send_replace(LinkState::Linked);
                unanswered = Unanswered::default();
                backoff = BACKOFF_MIN;
                let start = Instant::now();
                let ended = courier::work(&host, &store, &config, link, &mut wishes, stop.clone()).await;
                tracing::info!(reason = %ended, "link ended");
                if let Some(pad) = store.pad() {
                    // What is left of the lease is never used.
                    pad.abandon();
                    erasing::settle(&host, &pad).await;
                    if matches!(ended, courier::Ended::Link(LinkError::Pad(_))) && pad::is_used_up(&pad) {
                        state.send_replace(LinkState::PadUsedUp);
                        return;
                    }
                }
                short.next_wait(start.elapsed(), store.value().keys)
            }
            Err(dial::DialError::KeysUsedUp) => {
                state.send_replace(LinkState::KeysUsedUp);
                tracing::warn!("all link keys of this pack are used");
                return;
            }
            Err(dial::DialError::PadUsedUp) => {
                state.send_replace(LinkState::PadUsedUp);
                tracing::warn!("the pad of this pack is used up");
                return;
            }
            Err(dial::DialError::RolledBack) => {
                state.send_replace(LinkState::RolledBack);
                tracing::error!("the relay offers keys that are burned already: it was restored from an old copy");
                BACKOFF_MAX
            }
            Err(dial::DialError::Unanswered) => unanswered.next_wait(),
            Err(error) => {
                tracing::info!(reason = %error, "no link");
                // Tries like these cost nothing: who looks at news often may also look for the relay often.
                backoff = (backoff * 2).min(BACKOFF_MAX.min(config.tick * 5)).max(BACKOFF_MIN);
                backoff
            }
        };
        if !*stop.borrow() {
            if *state.borrow() != LinkState::RolledBack {
                state.send_replace(match is_told_replaced {
                    true => LinkState::Replaced,
                    false => LinkState::Waiting,
                });
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(wait) => {}
                _ = resume.changed() => {}
            }
        }
    }
}

/// Makes a link, by looking for the relay's position if that is wished.
async fn attempt<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    resume: &mut watch::Receiver<bool>,
) -> Result<dial::Established, dial::DialError> {
    // A pad finds its place by itself.
    if *resume.borrow_and_update() && store.pad().is_none() {
        tracing::info!("looking for the relay's position");
        dial::resume(host, store, config).await
    } else {
        dial::link(host, store, config).await
    }
}

/// A message in INBOX. Not told is no harm: the log says it too.
async fn tell<S: HolderStore>(host: &Host, store: &S, config: &HolderConfig, notice: &Notice<'_>) {
    let notice = courier::compose(host, config, notice);
    let summary = crate::imap::summary(&notice);
    let now = host.clock.unix_seconds();
    let told = store
        .append(FolderId::INBOX, notice, summary, Flags::default(), now)
        .await;
    if told.is_err() {
        tracing::warn!("a notice could not be stored");
    }
}

/// Works until the process stops.
async fn pad_until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()> + Send) {
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = work => {}
    }
}

/// Links that were confirmed by us and never answered, each of which may have cost a key.
#[derive(Default)]
struct Unanswered {
    in_a_row: u32,
}

impl Unanswered {
    /// 2, 4, 8 ... seconds, and once the hour's allowance is near, an even share of the hour.
    fn next_wait(&mut self) -> Duration {
        self.in_a_row += 1;
        let share = Duration::from_secs(3_600 / u64::from(UNANSWERED_KEYS_PER_HOUR));
        if self.in_a_row >= UNANSWERED_KEYS_PER_HOUR / 2 {
            share
        } else {
            Duration::from_secs(1 << self.in_a_row)
        }
    }
}

/// Links that ended soon after they stood. Each has cost a key and its price, and what ended one (a full disk, a second
/// user of the pack, somebody who cuts the line) may end the next one too.
#[derive(Default)]
struct ShortLinks {
    in_a_row: u64,
}

impl ShortLinks {
    /// The shortest wait for the first few, then twice as long each time.
    fn next_wait(&mut self, lived: Duration, keys_left: u64) -> Duration {
        if lived >= LINK_LIFE_MIN {
            self.in_a_row = 0;
            return BACKOFF_MIN;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let free = (keys_left / SHORT_LINKS_SHARE).clamp(SHORT_LINKS_MIN, SHORT_LINKS_MAX);
        let doublings = self.in_a_row.saturating_sub(free).min(16);
        (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_links_that_end_at_once_costs_a_key_a_minute_and_a_few() {
        let mut short = ShortLinks::default();
        let (mut elapsed, mut keys) = (Duration::ZERO, 0);
        while elapsed < Duration::from_secs(3_600) {
            elapsed += short.next_wait(Duration::ZERO, 100);
            keys += 1;
        }
        assert!(keys <= 60 + 2 * SHORT_LINKS_MIN, "{keys}");
        assert_eq!(short.next_wait(LINK_LIFE_MIN, 100), BACKOFF_MIN);
        assert_eq!(short.next_wait(Duration::ZERO, 100), BACKOFF_MIN);
    }

    #[test]
    fn an_hour_of_links_cut_after_cell_three_costs_at_most_eight_keys_and_a_few() {
        let mut unanswered = Unanswered::default();
        let (mut elapsed, mut keys) = (Duration::ZERO, 0);
        while elapsed < Duration::from_secs(3_600) {
            elapsed += unanswered.next_wait();
            keys += 1;
        }
        assert!(
            keys <= UNANSWERED_KEYS_PER_HOUR + UNANSWERED_KEYS_PER_HOUR / 2,
            "{keys}"
        );
    }
}
