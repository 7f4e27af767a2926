//! The bridge: a mail client's SMTP and IMAP on this side, one link to the relay on the other.
//!
//! [`run`] opens the store and starts four things: the submission port (`submission`), the IMAP port (`reading`),
//! the holder's end of the link ([`crate::holder`]) and the control socket ([`commands`]). They meet in the store only.

pub mod commands;
mod reading;
mod submission;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::request::Operation;
use mailbox::{HolderStore, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::holder::{self, HolderConfig, HolderHandle};
use crate::net::{BoxStream, Host, Listener, once_unlocked, stopped};
use crate::{control, names, smtp};

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
    /// The holder's end of the link.
    pub holder: HolderConfig,
    /// For tests of erasure alone: keeps every used key.
    pub keep_used_keys: bool,
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
    user: String,
    password: Zeroizing<String>,
    holder: HolderHandle,
    room: Arc<Semaphore>,
    /// Held while a price is compared with the value and the message is taken in, so that two do not spend the same.
    spending: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
}

/// The password for mail clients: known to whoever can open the store, and to nobody else.
pub fn password(store: &impl HolderStore) -> Zeroizing<String> {
    Zeroizing::new(names::spell(&store.derive("bridge/password").expose()[..20]))
}

/// Runs a bridge until `stop` turns true, by a signal or by the control socket.
pub async fn run(config: BridgeConfig, host: Host, stop: watch::Sender<bool>) -> Result<(), BridgeError> {
    let dir = config.dir.display().to_string();
    let store_error = |error| BridgeError::Store {
        dir: dir.clone(),
        error,
    };
    let store = once_unlocked(|| open(&config, &host)).await.map_err(store_error)?;
    let smtp_listener = listen(&host, "SMTP", config.smtp).await?;
    let imap_listener = listen(&host, "IMAP", config.imap).await?;
    let socket = config.dir.join(control::SOCKET);
    let control_listener = host
        .net
        .listen_local(&socket)
        .await
        .map_err(|error| BridgeError::Listen {
            what: "commands",
            at: socket.display().to_string(),
            error,
        })?;

    prepare(&store, &host).await.map_err(store_error)?;
    let files = store.clone();
    let (handle, link) = holder::new(host.clone(), store.clone(), config.holder, stop.subscribe());
    let bridge = Arc::new(Bridge {
        password: password(&store),
        host,
        store,
        user: config.user,
        holder: handle,
        room: Arc::new(Semaphore::new(SUBMISSION_BYTES_MAX)),
        spending: tokio::sync::Mutex::default(),
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
        move |stream| reading::serve(stream, read.clone()),
        reading::turn_away,
    ));
    tasks.spawn(control::serve(
        bridge.host.clone(),
        control_listener,
        Arc::new(commands::UserCommands(bridge.clone())),
        stop.subscribe(),
    ));
    tracing::info!("bridge is up");
    while tasks.join_next().await.is_some() {}
    files.stop().await;
    tracing::info!("bridge has stopped");
    Ok(())
}

/// Opens the store, whose commits run on a thread of their own, as they block on the disk.
fn open(config: &BridgeConfig, host: &Host) -> Result<HolderFiles, StoreError> {
    let options = HolderOptions {
        keep_used_keys: config.keep_used_keys,
        ..HolderOptions::default()
    };
    let (store, actor) = HolderFiles::open(&host.disk, &config.dir, &config.passphrase, &options, &host.entropy)?;
    host.workers.actor("commit", Box::pin(actor))?;
    Ok(store)
}

/// Asks for the pack's first alias, once.
async fn prepare<S: HolderStore>(store: &S, host: &Host) -> Result<(), StoreError> {
    let opening = |row: &OutboxRow| {
        matches!(row.change.operation, Operation::AliasOpen { .. }) && !matches!(row.state, OutboxState::Refused(_))
    };
    if store.aliases()?.is_empty() && !store.outbox()?.iter().any(opening) {
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
