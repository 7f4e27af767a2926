//! The operating system as host. The only file of the project that touches its clock, sockets and generator.
#![allow(
    clippy::disallowed_methods,
    reason = "this file is where the host reaches for the operating system"
)]

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mailbox::Entropy;
use mailbox::commit::on_thread;
use mailbox::disk::{Disk, SystemDisk};
use rand::TryRng;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{BoxStream, Clock, Host, Listener, Net, NoNames, Promise, Resolver, Source, Workers};

/// The operating system's host over its own disk.
pub fn host() -> Host {
    host_over(Arc::new(SystemDisk))
}

/// The operating system's host over another disk.
pub fn host_over(disk: Arc<dyn Disk>) -> Host {
    Host {
        net: Arc::new(Sockets),
        resolver: Arc::new(Addresses),
        names: Arc::new(NoNames),
        clock: Arc::new(Wall),
        entropy: Arc::new(Generator),
        disk,
        workers: Arc::new(Threads),
    }
}

struct Threads;

impl Workers for Threads {
    fn task(&self, task: Promise<'static, ()>) {
        tokio::spawn(task);
    }

    fn actor(&self, name: &str, actor: Promise<'static, ()>) -> io::Result<()> {
        on_thread(name, actor)
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

/// Sends at once, and notices within [`SILENCE_MAX`] a peer that is gone without a word.
///
/// A link may be still for days. Without this a relay that lost its power would leave its holders waiting for news on
/// links that no longer exist, and their mail uncollected.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    const PROBES: u32 = 4;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE_MAX / 2)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE_MAX / 2 / PROBES)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    // The same for octets that nobody confirms.
    sockopt::set_tcp_user_timeout(stream, SILENCE_MAX.as_millis() as u32)?;
    Ok(())
}

/// Longest silence of a peer's system, which answers probes whatever its programs do.
pub const SILENCE_MAX: Duration = Duration::from_secs(120);

struct Sockets;

impl Net for Sockets {
    fn dial(&self, to: SocketAddr) -> Promise<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            prepare(&stream)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen(&self, at: SocketAddr) -> Promise<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(TcpListener::bind(at).await?) as Box<dyn Listener>) })
    }

    fn dial_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<BoxStream>> {
        Box::pin(async move { Ok(Box::new(UnixStream::connect(path).await?) as BoxStream) })
    }

    fn listen_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // The store's lock is held by now: a socket left here belongs to a process that is gone.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>> {
        Box::pin(async move {
            let (stream, from) = TcpListener::accept(self).await?;
            prepare(&stream)?;
            Ok((Box::new(stream) as BoxStream, Source::from(from.ip())))
        })
    }

    fn address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

impl Listener for UnixListener {
    fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>> {
        Box::pin(async move {
            let (stream, _) = UnixListener::accept(self).await?;
            Ok((Box::new(stream) as BoxStream, Source::LOCAL))
        })
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }
}

struct Addresses;

impl Resolver for Addresses {
    fn resolve<'a>(&'a self, target: &'a str) -> Promise<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(target).await?.collect()) })
    }
}

struct Wall;

impl Clock for Wall {
    fn unix_seconds(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

struct Generator;

impl Entropy for Generator {
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness nothing may be sealed: there is no safe way to go on.
        rand::rngs::SysRng
            .try_fill_bytes(bytes)
            .expect("the operating system's generator works");
    }
}
