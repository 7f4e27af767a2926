//! The bridge: a mail client's SMTP and IMAP on this side, one link to the relay on the other.
//!
//! [`run`] opens the store and starts six things: the submission port (`submission`), the IMAP port (`reading`),
//! the holder's end of the link ([`crate::holder`]), the control socket ([`commands`]), the local page (`page`) and what
//! looks after value, keys and aliases (`lookout`). They meet in the store only.

mod autoconfig;
pub mod commands;
mod covering;
mod diary;
mod directory;
mod lookout;
pub(crate) mod looping;
mod moving;
mod nested;
pub(crate) mod opening;
mod pad;
mod page;
mod procuring;
mod reading;
mod routes;
pub(crate) mod sealing;
mod submission;
mod warned;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keypacks::directory::Pin;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::request::Operation;
use mailbox::{HolderStore, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::holder::cover::Covered;
use crate::holder::loops::{LoopWish, Loops};
use crate::holder::pool::RelayPool;
use crate::holder::{self, HolderConfig, HolderHandle};
use crate::message::{Html, Mix, Traces};
use crate::net::{BoxStream, Host, Listener, once_unlocked, stopped};
use crate::{control, names, smtp};
pub use autoconfig::autoconfig;
use diary::Diary;
pub(crate) use directory::LIST as DIRECTORY_LIST;
pub use lookout::NoticeSettings;
pub(crate) use nested::ADDRESSES_WAIT;
pub use nested::Awaiting;
pub(crate) use routes::nested_through;

/// Settings of a bridge.
pub struct BridgeConfig {
    /// Folder of the holder's store.
    pub dir: PathBuf,
    /// What opens it.
    pub passphrase: Zeroizing<Vec<u8>>,
    /// User name for mail clients; `user@localhost` stands for the first alias.
    pub user: String,
    /// Where mail clients send.
    pub smtp: SocketAddr,
    /// Where mail clients read.
    pub imap: SocketAddr,
    /// Where the local page is, if there is one.
    pub page: Option<PageAt>,
    /// When the user is told something.
    pub notices: NoticeSettings,
    /// What leaves beyond the text, and what must not.
    pub hygiene: Hygiene,
    /// Who signs the directory of relays. Without it there is none.
    pub directory: Option<Pin>,
    /// The holder's end of the link.
    pub holder: HolderConfig,
    /// The pack by whose relay this one's is reached.
    pub entry: Option<EntryPack>,
    /// While the pack is not there by which mail is to go: nothing is sent, and this says why.
    pub awaiting: Option<Arc<Awaiting>>,
    /// Links without one although an alias's mail is to go nested.
    pub any_route: bool,
    /// Loops that the user wishes.
    pub loops: Option<LoopWish>,
    /// For tests of erasure alone: keeps every used key.
    pub keep_used_keys: bool,
}

/// What the user settled about messages that leave.
#[derive(Clone, Default)]
pub struct Hygiene {
    /// What becomes of HTML.
    pub html: Html,
    /// Real addresses and names that must not leave.
    pub traces: Traces,
    /// How messages wait at the relay that say nothing of it. Not set: mixed where a link inside a link leads to a relay
    /// with a pool, else at once.
    pub mix: Option<Mix>,
}

/// A pack whose links carry those of another.
pub struct EntryPack {
    /// Folder of its store, which no other process has open.
    pub dir: PathBuf,
    /// What opens it.
    pub passphrase: Zeroizing<Vec<u8>>,
    /// The UTC day since which this bridge stands for it: what is asked of it by its folder is answered, and mail programs log in
    /// with its password. Without it they are two.
    pub stands_since: Option<u32>,
}

/// Where the local page is.
#[derive(Clone, Copy)]
pub struct PageAt {
    /// Its address.
    pub at: SocketAddr,
    /// Whether it must be there. Otherwise another free port is taken where this one is not.
    pub exactly: bool,
}

/// Why a bridge does not run: a sentence for its user.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// An address cannot be listened at.
    #[error("cannot listen at {at} for {what}: {error}; is another program using the port?")]
    Listen {
        /// Purpose of the port.
        what: &'static str,
        /// The address.
        at: String,
        /// What the system says.
        error: io::Error,
    },
    /// Mail of an alias is to go nested, and no pack is named by whose relay.
    #[error(
        "mail of an alias is to go nested through {through} alone, and a link without it would show your address: start the bridge with \
         --entry and the folder of the pack there, or with --any-route to give that up; 'postern route ALIAS any' settles it"
    )]
    Route {
        /// Domain of the relay that is to carry the link.
        through: String,
    },
    /// The pack that is to carry the link has such mail itself.
    #[error(
        "mail of an alias of the pack in {dir} is to go nested through {through} alone, and as an entry that pack would show your \
         address to its relay: take another pack as the entry, or settle it with 'postern route ALIAS any' under that pack's own bridge"
    )]
    EntryRoute {
        /// Folder of the pack that is to be the entry.
        dir: String,
        /// Domain of the relay that is to carry its link.
        through: String,
    },
    /// Mail that is to go nested waits.
    #[error(
        "mail waits in the outbox that is to go nested alone: send or cancel it first, with the bridge started with --entry"
    )]
    RouteWaits,
    /// The store cannot be opened.
    #[error("cannot open {dir}: {error}")]
    Store {
        /// The folder.
        dir: String,
        /// What the store says.
        error: StoreError,
    },
}

/// Most SMTP sessions, and most IMAP sessions.
const SESSIONS_MAX: usize = 100;
/// Mail in memory at one time over all submissions, in bytes; rebuilding takes up to three times as much.
const SUBMISSION_BYTES_MAX: usize = 128 * 1_048_576;

/// What the parts of a bridge share.
struct Bridge<S> {
    host: Host,
    store: S,
    dir: PathBuf,
    user: String,
    password: Zeroizing<String>,
    holder: HolderHandle,
    room: Arc<Semaphore>,
    /// Held while a price is compared with the value and the message is taken in, so that two do not spend the same.
    spending: tokio::sync::Mutex<()>,
    ports: Ports,
    page_keys: page::Keys,
    notices: NoticeSettings,
    diary: Mutex<Diary>,
    /// What IMAP sessions were told of.
    recent: crate::imap::Recent,
    hygiene: Hygiene,
    warned: warned::Warned,
    /// The cover that the user wishes, and how it stands.
    cover: Option<Covered>,
    directory: directory::Directory,
    /// Whether the relay behind an entry has a pool, where that decides how mail waits.
    pool: Option<Arc<RelayPool>>,
    /// Messages of the user to the user, by which a relay that loses mail is noticed.
    looping: looping::Looping,
    /// What is to be said of the disk.
    caveat: Option<String>,
    /// The pack by whose relay this one's is reached.
    entry: Option<HolderFiles>,
    /// The UTC day since which this pack serves for that one, which the bridge bought it with.
    stands_since: Option<u32>,
    awaiting: Option<Arc<Awaiting>>,
    stop: watch::Sender<bool>,
}

/// Where the bridge listens, as it came about.
struct Ports {
    smtp: SocketAddr,
    imap: SocketAddr,
    page: Option<SocketAddr>,
}

/// The password for mail clients: known to whoever can open the store, and to nobody else.
pub fn password(store: &impl HolderStore) -> Zeroizing<String> {
    Zeroizing::new(names::spell(&store.derive("bridge/password").expose()[..20]))
}

impl<S> Bridge<S> {
    /// How messages wait that say nothing of it, to recipients that the relay delivers to by itself.
    fn default_mix(&self) -> Mix {
        self.hygiene.mix.unwrap_or(match &self.pool {
            // Not known yet: a relay without a pool refuses it, and what left at once is not taken back.
            Some(pool) if pool.is_there() != Some(false) => Mix::Mixed,
            _ => Mix::Fast,
        })
    }

    /// Why, where nobody settled it; a sentence's end.
    fn mix_reason(&self) -> Option<&'static str> {
        Some(match self.pool.as_ref()?.is_there() {
            Some(false) => "since the relay behind the entry has no pool",
            Some(true) => "as always behind an entry whose further relay has a pool",
            None => "until the relay behind the entry says whether it has a pool",
        })
    }
}

/// Runs a bridge until `stop` turns true, by a signal or by the control socket.
pub async fn run(config: BridgeConfig, host: Host, stop: watch::Sender<bool>) -> Result<(), BridgeError> {
    let dir = config.dir.display().to_string();
    let store_error = |error| BridgeError::Store {
        dir: dir.clone(),
        error,
    };
    let opened = || open(&host, &config.dir, &config.passphrase, config.keep_used_keys);
    let store = once_unlocked(opened).await.map_err(store_error)?;
    if config.entry.is_none() {
        routes::refuse_bare_link(&store, config.any_route)
            .map_err(store_error)?
            .map_or(Ok(()), Err)?;
    }
    let smtp_listener = listen(&host, "SMTP", config.smtp).await?;
    let imap_listener = listen(&host, "IMAP", config.imap).await?;
    let page_listener = match config.page {
        Some(page) => Some(listen_for_page(&host, page).await?),
        None => None,
    };
    let mut control_listeners = vec![listen_for_commands(&host, &config.dir).await?];

    let recent = crate::imap::Recent::new(&store.folders(), store.inbox().uid_next);
    if config.awaiting.is_none() {
        prepare(&store, &host).await.map_err(store_error)?;
    }
    let caveat = host.disk.caveat(&config.dir);
    if let Some(caveat) = &caveat {
        tracing::warn!("the data folder: {caveat}");
    }
    let files = store.clone();
    let tick = config.holder.tick;
    let mut holder = config.holder;
    let cover = holder.cover.clone().filter(|_| config.entry.is_none());
    // Also where none are sent any more: some may be under way.
    let loops = Arc::new(Loops::load(&host, &config.dir, &store));
    holder.loops = Some(Arc::clone(&loops));
    let entry = match &config.entry {
        Some(entry) => {
            let opened = || open(&host, &entry.dir, &entry.passphrase, false);
            let error = |error| BridgeError::Store {
                dir: entry.dir.display().to_string(),
                error,
            };
            let store = once_unlocked(opened).await.map_err(error)?;
            routes::refuse_entry(&store, &entry.dir)
                .map_err(error)?
                .map_or(Ok(()), Err)?;
            if entry.stands_since.is_some() {
                control_listeners.push(listen_for_commands(&host, &entry.dir).await?);
            }
            let by = HolderConfig {
                relay_via: holder.relay_via.take(),
                socks: holder.socks.take(),
                ..holder.clone()
            };
            // The link inside is not the one that is seen, and knows nothing of the outer one's rate.
            holder.cover = None;
            holder.through = Some(Arc::new(holder::Entry::new(host.clone(), store.clone(), by)));
            Some(store)
        }
        None => None,
    };
    if entry.is_some() && config.hygiene.mix.is_none() {
        holder.pool = Some(Arc::default());
    }
    let pool = holder.pool.clone();
    let diary = Diary::load(&host, &config.dir, &store);
    if let Some(pool) = &pool {
        pool.note(diary.pool);
    }
    let stands_since = config.entry.as_ref().and_then(|entry| entry.stands_since);
    let (handle, link) = holder::new(host.clone(), store.clone(), holder, stop.subscribe());
    let bridge = Arc::new(Bridge {
        password: match (&entry, stands_since) {
            (Some(entry), Some(_)) => password(entry),
            _ => password(&store),
        },
        ports: Ports {
            smtp: smtp_listener.address().unwrap_or(config.smtp),
            imap: imap_listener.address().unwrap_or(config.imap),
            page: page_listener.as_ref().and_then(|listener| listener.address()),
        },
        page_keys: page::Keys::draw(&host),
        notices: config.notices,
        diary: Mutex::new(diary),
        directory: directory::Directory::load(&host, &config.dir, config.directory),
        dir: config.dir,
        host,
        store,
        user: config.user,
        holder: handle,
        room: Arc::new(Semaphore::new(SUBMISSION_BYTES_MAX)),
        spending: tokio::sync::Mutex::default(),
        recent,
        hygiene: config.hygiene,
        warned: warned::Warned::default(),
        cover,
        pool,
        looping: looping::Looping {
            wish: config.loops,
            loops,
        },
        caveat,
        entry: entry.clone(),
        stands_since,
        awaiting: config.awaiting,
        stop: stop.clone(),
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(link);
    let submitting = bridge.clone();
    let door = submission::door().until(stop.subscribe());
    tasks.spawn(sessions(
        bridge.host.clone(),
        smtp_listener,
        stop.subscribe(),
        move |stream| smtp::serve(stream, door.clone(), submission::Submission(submitting.clone())),
        smtp::turn_away,
    ));
    let read = bridge.clone();
    tasks.spawn(sessions(
        bridge.host.clone(),
        imap_listener,
        stop.subscribe(),
        move |stream| {
            let (session, mut stop) = (reading::serve(stream, read.clone()), read.stop.subscribe());
            // Another bridge may follow in this process: who stays logged in to this one would see no new mail.
            async move {
                tokio::select! {
                    () = session => {}
                    () = stopped(&mut stop) => {}
                }
            }
        },
        reading::turn_away,
    ));
    for listener in control_listeners {
        tasks.spawn(control::serve(
            bridge.host.clone(),
            listener,
            Arc::new(commands::UserCommands(bridge.clone())),
            stop.subscribe(),
        ));
    }
    if let Some(listener) = page_listener {
        tasks.spawn(page::serve(bridge.clone(), listener, stop.subscribe()));
    }
    tasks.spawn(looping::watch(bridge.clone(), stop.subscribe()));
    tasks.spawn(covering::watch(bridge.clone(), stop.subscribe()));
    tasks.spawn(directory::watch(bridge.clone(), stop.subscribe()));
    tasks.spawn(nested::watch(bridge.clone(), stop.subscribe()));
    tasks.spawn(lookout::watch(bridge.clone(), tick, stop.subscribe()));
    if let Some(awaiting) = &bridge.awaiting {
        awaiting.set_up();
    }
    tracing::info!("bridge is up");
    while tasks.join_next().await.is_some() {}
    files.stop().await;
    if let Some(entry) = entry {
        entry.stop().await;
    }
    tracing::info!("bridge has stopped");
    Ok(())
}

/// Opens the store, whose commits run on a thread of their own, as they block on the disk.
fn open(host: &Host, dir: &Path, passphrase: &[u8], keep_used_keys: bool) -> Result<HolderFiles, StoreError> {
    let options = HolderOptions {
        keep_used_keys,
        ..HolderOptions::default()
    };
    let (store, actor) = HolderFiles::open(&host.disk, dir, passphrase, &options, &host.entropy)?;
    host.workers.actor("commit", Box::pin(actor))?;
    Ok(store)
}

/// Asks for the pack's first alias, once.
async fn prepare<S: HolderStore>(store: &S, host: &Host) -> Result<(), StoreError> {
    let opening = |row: &OutboxRow| {
        matches!(row.change.operation, Operation::AliasOpen { .. }) && !matches!(row.state, OutboxState::Refused(_))
    };
    // One that a parcel asks for is not asked for again: its receipt makes it the first.
    let has_ended = store.expiry()?.flatten().is_some_and(|day| day <= host.day());
    if !has_ended
        && store.aliases()?.is_empty()
        && store.sealed_aliases()?.is_empty()
        && !store.outbox()?.iter().any(opening)
    {
        store
            .enqueue_change(
                Operation::AliasOpen {
                    local: names::random(host),
                },
                "first alias".into(),
                host.clock.unix_seconds(),
            )
            .await?;
    }
    Ok(())
}

async fn listen(host: &Host, what: &'static str, at: SocketAddr) -> Result<Box<dyn Listener>, BridgeError> {
    host.net.listen(at).await.map_err(|error| BridgeError::Listen {
        what,
        at: at.to_string(),
        error,
    })
}

async fn listen_for_commands(host: &Host, dir: &Path) -> Result<Box<dyn Listener>, BridgeError> {
    let socket = dir.join(control::SOCKET);
    let listening = host.net.listen_local(&socket).await;
    listening.map_err(|error| BridgeError::Listen {
        what: "commands",
        at: socket.display().to_string(),
        error,
    })
}

/// Other bridges of this machine may have the port that is taken by itself.
async fn listen_for_page(host: &Host, page: PageAt) -> Result<Box<dyn Listener>, BridgeError> {
    const WHAT: &str = "the local page";
    match listen(host, WHAT, page.at).await {
        Err(_) if !page.exactly => {
            tracing::info!("the local page's port is taken: another one is used, as 'postern page' shows");
            listen(host, WHAT, SocketAddr::new(page.at.ip(), 0)).await
        }
        listening => listening,
    }
}

/// Accepts sessions until `stop` turns true; those above the bound are turned away.
async fn sessions<F, G>(
    host: Host,
    mut listener: Box<dyn Listener>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(BoxStream) -> F,
    turn_away: impl Fn(BoxStream) -> G,
) where
    F: Future<Output = ()> + Send + 'static,
    G: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let session = serve(stream);
                host.task(async move {
                    session.await;
                    drop(place);
                });
            }
            Err(_) => host.task(turn_away(stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_settled_is_mixed_behind_an_entry_unless_there_is_no_pool() {
        let mut bridge = reading::tests::bridge().await;
        let inner = Arc::get_mut(&mut bridge).expect("nobody else has it");
        assert!(inner.default_mix() == Mix::Fast && inner.mix_reason().is_none());
        let pool = Arc::new(RelayPool::default());
        inner.pool = Some(Arc::clone(&pool));
        for (is_there, mix, reason) in [
            (None, Mix::Mixed, "until"),
            (Some(true), Mix::Mixed, "always"),
            (Some(false), Mix::Fast, "no pool"),
        ] {
            pool.note(is_there);
            assert!(inner.default_mix() == mix);
            assert!(inner.mix_reason().is_some_and(|words| words.contains(reason)));
        }
        pool.note(Some(false));
        inner.hygiene.mix = Some(Mix::Paranoid);
        assert!(inner.default_mix() == Mix::Paranoid);
    }
}
