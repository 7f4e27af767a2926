//! The operating system as host. The only file of the project that touches its clock, sockets and generator.
#![allow(
    clippy::disallowed_methods,
    reason = "this file is where the host reaches for the operating system"
)]

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mailbox::Entropy;
use mailbox::commit::on_thread;
use mailbox::disk::{Disk, SystemDisk};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::rand::{GetRandomFlags, getrandom};
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
        Box::pin(async move {
            let refused = match UnixStream::connect(path).await {
                Ok(stream) => return Ok(Box::new(stream) as BoxStream),
                Err(error) => error,
            };
            let Some(name) = named_in(path) else {
                return Err(refused);
            };
            let stream = UnixStream::connect(name).await?;
            // Whoever learns the name could take it once its owner is gone.
            if !is_own(&stream) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn listen_local<'a>(&'a self, path: &'a Path) -> Promise<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // The store's lock is held by now: a socket left here belongs to a process that is gone.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = match UnixListener::bind(path) {
                Ok(listener) => listener,
                // FAT and its like have no sockets.
                Err(_) if path.parent().is_some_and(Path::is_dir) => {
                    return Ok(Box::new(Nameless(listen_nameless(path)?)) as Box<dyn Listener>);
                }
                Err(error) => return Err(error),
            };
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

/// A local socket that no file system holds: its name is random, lies in a file where the socket would be, and says
/// nothing to other users of the machine, who are turned away.
struct Nameless(UnixListener);

impl Listener for Nameless {
    fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>> {
        Box::pin(async move {
            loop {
                let (stream, _) = self.0.accept().await?;
                if is_own(&stream) {
                    return Ok((Box::new(stream) as BoxStream, Source::LOCAL));
                }
            }
        })
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }
}

/// Digits of the name of a [`Nameless`] socket.
const NAME_DIGITS: usize = 32;

fn listen_nameless(path: &Path) -> io::Result<UnixListener> {
    let mut random = [0; NAME_DIGITS / 2];
    Generator.fill(&mut random);
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let listener = UnixListener::bind(abstract_name(&name))?;
    // What a failed attempt to make a socket may have left.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, name)?;
    Ok(listener)
}

/// The name in the file at `path`, if it holds one.
fn named_in(path: &Path) -> Option<PathBuf> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() != NAME_DIGITS as u64 {
        return None;
    }
    let name = std::fs::read_to_string(path).ok()?;
    name.bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| abstract_name(&name))
}

/// Linux's abstract name space, as the runtime writes it.
fn abstract_name(name: &str) -> PathBuf {
    PathBuf::from(format!("\0postern-{name}"))
}

/// Whether the other end is this user, or the administrator.
fn is_own(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
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
        let mut filled = 0;
        while filled < bytes.len() {
            // The system call and not /dev/urandom, which an empty root has not got.
            match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                // Without randomness nothing may be sealed: there is no safe way to go on.
                Err(error) => panic!("the operating system's generator fails: {error}"),
            }
        }
    }
}
