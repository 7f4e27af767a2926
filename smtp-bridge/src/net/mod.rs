//! The host of a process: everything it may reach outside itself.
//!
//! Both binaries are `run(config, host)`. The system's host is [`system`]; a simulation gives its own. Nothing
//! else in the project dials, listens, reads a clock or draws randomness (the workspace's lints see to it).
//! Timers are `tokio::time`, which a paused runtime already controls.

pub mod dns;
pub mod pages;
pub mod socks;
pub mod system;
pub mod tls;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mailbox::disk::Disk;
use mailbox::{Entropy, StoreError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// A future that a trait object returns.
pub type Promise<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> Stream for T {}

/// A byte stream of whatever the host is made of.
pub type BoxStream = Box<dyn Stream>;

/// What a process may reach.
#[derive(Clone)]
pub struct Host {
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Where mail for a domain goes; a process that delivers none to domains asks nothing.
    pub names: Arc<dyn Names>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// The operating system's generator.
    pub entropy: Arc<dyn Entropy>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Tasks and threads.
    pub workers: Arc<dyn Workers>,
}

impl Host {
    /// `N` random bytes, drawn now.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// The UTC day, counted from 1970-01-01.
    pub fn day(&self) -> u32 {
        u32::try_from(self.clock.unix_seconds() / 86_400).unwrap_or(u32::MAX)
    }

    /// Starts a task that ends by itself: a connection, a delivery.
    pub fn task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.workers.task(Box::pin(task));
    }

    /// Runs what computes for long, so that the other tasks go on meanwhile; `None` if it panicked.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.workers.compute(Box::new(move || {
            // Nobody waits for the result of a task that is gone.
            let _ = done.send(work());
        }));
        result.await.ok()
    }

    /// Resolves `host:port` and dials its addresses in turn.
    pub async fn dial(&self, target: &str) -> io::Result<BoxStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.resolver.resolve(target).await? {
            match self.net.dial(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Tasks and threads: all that a process starts, so that a simulation can end a process at any point.
pub trait Workers: Send + Sync + 'static {
    /// Runs a task beside the others.
    fn task(&self, task: Promise<'static, ()>);
    /// Runs a part of a store that blocks on the disk, on a thread of its own where there are threads.
    fn actor(&self, name: &str, actor: Promise<'static, ()>) -> io::Result<()>;
    /// Runs what computes for long, where it holds up no task.
    fn compute(&self, work: Box<dyn FnOnce() + Send>);
}

/// Sockets.
pub trait Net: Send + Sync + 'static {
    /// Opens a stream to an address.
    fn dial(&self, to: SocketAddr) -> Promise<'_, io::Result<BoxStream>>;
    /// Listens at an address; port 0 takes a free one.
    fn listen(&self, at: SocketAddr) -> Promise<'_, io::Result<Box<dyn Listener>>>;
    /// Opens a stream to a socket in the file system.
    fn dial_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<BoxStream>>;
    /// Listens at a socket in the file system that only this user may open. A dead socket there is replaced.
    fn listen_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<Box<dyn Listener>>>;
}

/// A listening socket.
pub trait Listener: Send + 'static {
    /// Waits for the next stream.
    fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>>;
    /// Where it listens; `None` for a socket in the file system.
    fn address(&self) -> Option<SocketAddr>;
}

/// The network a stream came from: enough to bound one source's share of connections, and no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source([u8; 6]);

impl Source {
    /// A stream of this machine's own file system.
    pub const LOCAL: Source = Source([0; 6]);
}

impl From<IpAddr> for Source {
    /// The /24 of an IPv4 address, the /48 of an IPv6 address.
    fn from(address: IpAddr) -> Self {
        let mut prefix = [0; 6];
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                prefix[0] = 4;
                prefix[1..4].copy_from_slice(&v4.octets()[..3]);
            }
            IpAddr::V6(v6) => prefix.copy_from_slice(&v6.octets()[..6]),
        }
        Source(prefix)
    }
}

/// Names to addresses.
pub trait Resolver: Send + Sync + 'static {
    /// Addresses of `host:port`, best first.
    fn resolve<'a>(&'a self, target: &'a str) -> Promise<'a, io::Result<Vec<SocketAddr>>>;
}

/// Where mail for a domain goes. An error is something that may pass.
pub trait Names: Send + Sync + 'static {
    /// The mail exchangers of a domain.
    fn exchangers<'a>(&'a self, domain: &'a str) -> Promise<'a, io::Result<Exchangers>>;
    /// Addresses of a host, best first; none if it has none.
    fn addresses<'a>(&'a self, host: &'a str) -> Promise<'a, io::Result<Vec<IpAddr>>>;
}

/// What a domain says of its mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exchangers {
    /// These take it, the best first.
    Listed(Vec<Exchanger>),
    /// It lists none, so that the host of that name takes it (RFC 5321 section 5.1).
    Unlisted,
    /// It takes no mail (RFC 7505).
    NoMail,
    /// There is no such domain.
    NoDomain,
}

/// A host that takes mail for a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchanger {
    /// The lower, the better.
    pub preference: u16,
    /// Its name, in lower case and without a dot at the end.
    pub host: String,
}

/// Names of a process that looks up none.
pub struct NoNames;

impl Names for NoNames {
    fn exchangers<'a>(&'a self, _domain: &'a str) -> Promise<'a, io::Result<Exchangers>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn addresses<'a>(&'a self, _host: &'a str) -> Promise<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// Wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Seconds since 1970-01-01 UTC.
    fn unix_seconds(&self) -> u64;
}

/// Opens a store, with patience for the process that had it before and is still letting go.
pub async fn once_unlocked<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let start = Instant::now();
    loop {
        match open() {
            Err(StoreError::Locked) if start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            opened => return opened,
        }
    }
}

/// Ends when the process is to stop: the switch is true, or whoever holds it is gone.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_network_not_a_host() {
        let a = Source::from("192.0.2.1".parse::<IpAddr>().unwrap());
        let b = Source::from("192.0.2.200".parse::<IpAddr>().unwrap());
        let c = Source::from("192.0.3.1".parse::<IpAddr>().unwrap());
        let mapped = Source::from("::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert!(a == b && a != c && a == mapped);
    }
}
