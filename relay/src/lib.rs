//! The relay: opens what holders seal, debits it, forwards it, and stores the answers sealed.
//!
//! The way of a message: `link` receives a submission, `accept` judges it and commits it once, `exit` delivers it
//! from the spool; `mx` takes mail in and seals it for its mailbox, from where `link` serves it, and `collect` those who
//! carry it to machines without one. [`operator`] and
//! `web` show sums. Start at [`run`].

mod accept;
mod budget;
pub mod cli;
mod collect;
pub mod config;
mod directory;
mod exit;
mod gate;
pub mod hexadecimal;
mod identity;
mod link;
mod metrics;
mod mix;
mod mx;
pub mod operator;
pub mod packfile;
pub mod padfile;
mod parcels;
mod peers;
pub mod quickstart;
mod seal;
mod waiting;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keypacks::link::RelaySecret;
use mailbox::relay::RelayFiles;
use mailbox::{RelayStore, StoreError};
use smtp_bridge::control;
use smtp_bridge::net::tls::{Acceptor, TlsError};
use smtp_bridge::net::{Host, Listener, once_unlocked, stopped};
use smtp_bridge::smtp::{Domain, Door, Limits};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use exit::SecurityError;
pub use parcels::fuzz as fuzz_carriage;

use budget::Budget;
use config::RelayConfig;
use link::{Covers, Flights, Links};
use metrics::Metrics;
use waiting::Waiting;

/// A running relay, shared by all its tasks.
pub(crate) struct Relay<S> {
    config: RelayConfig,
    host: Host,
    store: S,
    secret: RelaySecret,
    budget: Budget,
    links: Links,
    covers: Covers,
    flights: Flights,
    metrics: Metrics,
    waiting: Waiting,
    collecting: collect::Sessions,
    openings: parcels::Openings,
    peers: peers::Peers,
    directory: directory::Served,
    /// Places for links that are carried to other relays.
    carried: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

/// Why a relay does not run: a sentence for its operator.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
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
    /// The data folder cannot be used.
    #[error("cannot use the data folder {folder}: {error}")]
    Data {
        /// The folder.
        folder: String,
        /// What the store says.
        error: StoreError,
    },
    /// The key files cannot be used.
    #[error("cannot use the relay's key in {folder}: {error}")]
    Key {
        /// The folder.
        folder: String,
        /// What is wrong.
        error: io::Error,
    },
    /// The MX's certificate or its key cannot be used.
    #[error("mx_certificate, mx_key: {0}")]
    Certificate(TlsError),
    /// The collecting port's certificate or its key cannot be used.
    #[error("collect: {0}")]
    CollectCertificate(TlsError),
    /// Certificates or passwords of `[peers]` cannot be used.
    #[error("peers: {0}")]
    Peers(#[from] SecurityError),
    /// The domain is none.
    #[error("the domain in the configuration is not a domain name")]
    Domain,
}

/// Between the farewells of links, exit and MX when the relay stops.
const FAREWELL_STEP: Duration = Duration::from_millis(1);

/// How often retention, epochs and kept answers are looked after.
const UPKEEP: Duration = Duration::from_secs(600);

/// How long links and deliveries that are under way may take when the relay stops.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs a relay until `stop` turns true, by a signal or by the control socket.
pub async fn run(config: RelayConfig, host: Host, stop: watch::Sender<bool>) -> Result<(), RelayError> {
    let folder = config.data.display().to_string();
    let data_error = |error| RelayError::Data {
        folder: folder.clone(),
        error,
    };
    host.disk
        .create_dir_all(&config.data)
        .map_err(|error| data_error(error.into()))?;
    if let Some(caveat) = host.disk.caveat(&config.data) {
        tracing::warn!("the data folder: {caveat}");
    }
    let store = once_unlocked(|| open(&config, &host)).await.map_err(data_error)?;
    let fresh = store.totals().map_err(data_error)?.accounts == 0;
    let secret = identity::load(&host, &config.data, fresh).map_err(|error| RelayError::Key {
        folder: folder.clone(),
        error,
    })?;
    let prices = config.prices;
    store
        .set_prices(
            prices.message,
            prices.kilobyte,
            prices.key,
            prices.inbound_message,
            prices.inbound_kilobyte,
        )
        .await
        .map_err(data_error)?;

    let link_listener = listen(&host, "links", config.link).await?;
    let mx_listener = listen(&host, "SMTP", config.mx).await?;
    let status_listener = listen(&host, "the status page", config.status).await?;
    let collect_listener = match &config.collect {
        Some(collect) => Some(listen(&host, "collecting", collect.listen).await?),
        None => None,
    };
    let socket = config.data.join(control::SOCKET);
    let control_listener = host
        .net
        .listen_local(&socket)
        .await
        .map_err(|error| RelayError::Listen {
            what: "commands",
            at: socket.display().to_string(),
            error,
        })?;
    let domain = Domain::parse(&config.domain).ok_or(RelayError::Domain)?;
    let limits = Limits::mx(domain, mx::size_announced(&config));
    let (close_door, door_closes) = watch::channel(false);
    let mut door = Door::new(limits).until(door_closes);
    let acceptor = acceptor(&config, &host).map_err(RelayError::Certificate)?;
    if let Some(acceptor) = &acceptor {
        door = door.with_tls(acceptor.clone());
    }

    let collect_acceptor = collect_acceptor(&config, &host).map_err(RelayError::CollectCertificate)?;
    let securities = exit::Securities::read(&config, &host)?;

    let files = store.clone();
    let relay = Arc::new(Relay {
        budget: Budget::new(config.memory_mib),
        links: Links::new(config.tick()),
        covers: Covers::new(config.cover.as_ref()),
        config,
        host,
        store,
        secret,
        flights: Flights::default(),
        metrics: Metrics::default(),
        waiting: Waiting::default(),
        collecting: collect::Sessions::default(),
        openings: parcels::Openings::default(),
        peers: peers::Peers::default(),
        directory: directory::Served::default(),
        carried: Arc::new(Semaphore::new(link::CARRIED_MAX)),
        stop: stop.clone(),
    });
    let peers = peers::open_all(&relay, &stop).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(link::serve(relay.clone(), link_listener, stop.subscribe()));
    tasks.spawn(link::tick(relay.clone(), stop.subscribe()));
    tasks.spawn(close_door_behind(close_door, stop.subscribe()));
    tasks.spawn(mx::serve(relay.clone(), door, mx_listener, stop.subscribe()));
    if let (Some(listener), Some(acceptor), Some(settings)) =
        (collect_listener, &collect_acceptor, &relay.config.collect)
    {
        let most = settings.connections_max;
        tasks.spawn(collect::serve(
            relay.clone(),
            acceptor.clone(),
            most,
            listener,
            stop.subscribe(),
        ));
    }
    tasks.spawn(mix::run(relay.clone(), stop.subscribe()));
    tasks.spawn(directory::run(relay.clone(), stop.subscribe()));
    tasks.spawn(exit::run(relay.clone(), securities, stop.subscribe()));
    tasks.spawn(peers::run(relay.clone(), peers));
    let acceptors = [acceptor, collect_acceptor].into_iter().flatten().collect();
    tasks.spawn(upkeep(relay.clone(), acceptors, stop.subscribe()));
    tasks.spawn(control::serve(
        relay.host.clone(),
        control_listener,
        Arc::new(operator::Operator { relay: relay.clone() }),
        stop.subscribe(),
    ));
    let pages = stop.subscribe();
    let for_pages = relay.clone();
    tasks.spawn(async move {
        if let Err(error) = web::serve(for_pages, status_listener, pages).await {
            tracing::error!(%error, "the status page ended");
        }
    });
    tracing::info!("relay is up");
    while tasks.join_next().await.is_some() {}
    see_off(&relay).await;
    files.close().await;
    tracing::info!("relay has stopped");
    Ok(())
}

/// Waits for what is under way when nothing new begins any more: open links answer and say CLOSE by themselves, the exit
/// ends the tries that it has begun. Whatever takes longer is cut: it is either committed or will be asked again.
async fn see_off<S: RelayStore>(relay: &Relay<S>) {
    let until = tokio::time::Instant::now() + LAST_WORDS;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let is_done = relay.links.count() == 0 && relay.waiting.is_idle();
        if is_done || tokio::time::Instant::now() >= until {
            return;
        }
    }
}

/// Opens the store, whose actors run on threads of their own, as they block on the disk.
fn open(config: &RelayConfig, host: &Host) -> Result<RelayFiles, StoreError> {
    let settings = mailbox::relay::RelayConfig {
        parcels: config.takes_parcels(),
        keep_used_keys: config.keep_used_keys,
        ..Default::default()
    };
    let mut started = Ok(());
    let spawn = |actor| {
        if started.is_ok() {
            started = host.workers.actor("store", actor);
        }
    };
    let store = RelayFiles::open(host.disk.clone(), &config.data, settings, host.entropy.clone(), spawn)?;
    started?;
    if store.frozen() > 0 {
        tracing::error!(
            accounts = store.frozen(),
            "the database is older than its key slots: it was restored from a copy, and these accounts are frozen"
        );
    }
    Ok(store)
}

async fn listen(host: &Host, what: &'static str, at: SocketAddr) -> Result<Box<dyn Listener>, RelayError> {
    host.net.listen(at).await.map_err(|error| RelayError::Listen {
        what,
        at: at.to_string(),
        error,
    })
}

/// What the MX shows under STARTTLS; `None`: it offers none.
pub(crate) fn acceptor(config: &RelayConfig, host: &Host) -> Result<Option<Arc<Acceptor>>, TlsError> {
    let (Some(certificate), Some(key)) = (&config.mx_certificate, &config.mx_key) else {
        return Ok(None);
    };
    let acceptor = Acceptor::from_files(certificate, key, host.clock.clone())?;
    Ok(Some(Arc::new(acceptor)))
}

/// What the collecting port shows; `None`: there is no such port.
pub(crate) fn collect_acceptor(config: &RelayConfig, host: &Host) -> Result<Option<Arc<Acceptor>>, TlsError> {
    let Some((certificate, key)) = config.collect_certificate() else {
        return Ok(None);
    };
    let acceptor = Acceptor::from_files(certificate, key, host.clock.clone())?;
    Ok(Some(Arc::new(acceptor)))
}

/// Closes the MX's door when the links have closed and the exit has taken leave of this relay's own MX: what is said last
/// depends on no task being woken before another, and a run of the simulation can be repeated.
async fn close_door_behind(closes: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
    stopped(&mut stop).await;
    tokio::time::sleep(2 * FAREWELL_STEP).await;
    closes.send_replace(true);
}

async fn upkeep<S: RelayStore>(relay: Arc<Relay<S>>, acceptors: Vec<Arc<Acceptor>>, mut stop: watch::Receiver<bool>) {
    loop {
        // Renewed a few times a year, and old until then: no signal is needed for it.
        for acceptor in &acceptors {
            if let Err(error) = acceptor.reload() {
                tracing::error!(%error, "a certificate could not be read again and stays as it was");
            }
        }
        match relay
            .store
            .upkeep(relay.host.clock.unix_seconds(), relay.config.retention_days)
            .await
        {
            Ok(done) if done.expired > 0 => tracing::info!(expired = done.expired, "retention ended for some mail"),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "upkeep failed"),
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
    }
}
