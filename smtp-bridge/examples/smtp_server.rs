//! The SMTP engine with nothing behind it but a maildir: for trying clients and attacks on it.
//!
//! `cargo run -p smtp-bridge --example smtp_server -- PORT mx|bridge DIR` serves 127.0.0.1:PORT. It takes mail for
//! `user@localhost` and postmaster; as `bridge` from `user@localhost` only, who logs in as `user` with `secret`.
#![allow(clippy::disallowed_methods, reason = "an example is its own host")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smtp_bridge::smtp::{
    self, Backend, BareNewlines, Domain, Door, ForwardPath, Limits, Receiver, Reply, Reports, ReversePath, limits,
    replies,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const SIZE_MAX: u64 = 60 << 20;
const HOPS_MAX: usize = 100;

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, kind, directory] = &arguments[..] else {
        return Err(io::Error::other("usage: smtp_server PORT mx|bridge DIR"));
    };
    let domain = Domain::parse("localhost").expect("localhost is a domain");
    let limits = if kind == "mx" {
        Limits::mx(domain, SIZE_MAX)
    } else {
        Limits::submission(domain, SIZE_MAX)
    };
    let maildir = Maildir::create(directory.into(), limits.bare_newlines == BareNewlines::Normalise)?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let (stream, _) = listener.accept().await?;
        let (door, maildir) = (Door::new(limits.clone()), maildir.clone());
        match places.clone().try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(async move {
                smtp::serve(Box::new(stream), door, maildir).await;
                drop(place);
            })),
            Err(_) => drop(tokio::spawn(smtp::turn_away(Box::new(stream)))),
        }
    }
}

#[derive(Clone)]
struct Maildir {
    directory: Arc<PathBuf>,
    next: Arc<AtomicU64>,
    own_mail_only: bool,
}

impl Maildir {
    fn create(directory: PathBuf, own_mail_only: bool) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        Ok(Self {
            directory: Arc::new(directory),
            next: Arc::default(),
            own_mail_only,
        })
    }
}

fn is_user(address: &smtp::Mailbox) -> bool {
    address.to_string().eq_ignore_ascii_case("user@localhost")
}

impl Backend for Maildir {
    type Message = Incoming;

    fn auth(&self, user: &[u8], password: &[u8]) -> bool {
        // A real backend compares in constant time.
        user == b"user" && password == b"secret"
    }

    fn mail(&self, reverse_path: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        match reverse_path {
            _ if !self.own_mail_only => Ok(()),
            ReversePath::Mailbox(sender) if is_user(sender) => Ok(()),
            _ => Err(replies::SENDER_NOT_OWNED),
        }
    }

    async fn rcpt(&self, _: &ReversePath, recipient: &ForwardPath, _: &[ForwardPath]) -> Result<(), Reply> {
        match recipient {
            ForwardPath::Postmaster => Ok(()),
            ForwardPath::Mailbox(mailbox) if mailbox.domain().as_str() != "localhost" => Err(replies::NO_RELAYING),
            ForwardPath::Mailbox(mailbox) if is_user(mailbox) => Ok(()),
            ForwardPath::Mailbox(mailbox) if mailbox.local().eq_ignore_ascii_case("postmaster") => Ok(()),
            ForwardPath::Mailbox(_) => Err(replies::UNKNOWN_RECIPIENT),
        }
    }

    async fn data(&self, _: &ReversePath, _: &[ForwardPath], _: &Reports) -> Result<Incoming, Reply> {
        let name = format!("{}.{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.directory.join("tmp").join(&name);
        let file = File::create(&path).map_err(|_| replies::NO_ROOM)?;
        Ok(Incoming {
            directory: self.directory.clone(),
            name,
            path,
            file,
            text: Vec::new(),
        })
    }
}

struct Incoming {
    directory: Arc<PathBuf>,
    name: String,
    path: PathBuf,
    file: File,
    text: Vec<u8>,
}

impl Incoming {
    fn store(&mut self, new: &Path) -> io::Result<()> {
        self.file.write_all(&self.text)?;
        self.file.sync_all()?;
        fs::rename(&self.path, new)?;
        File::open(self.directory.join("new"))?.sync_all()
    }
}

impl Receiver for Incoming {
    fn chunk(&mut self, octets: &[u8]) -> Result<(), Reply> {
        self.text.extend_from_slice(octets);
        Ok(())
    }

    async fn finish(mut self) -> Reply {
        let header = self
            .text
            .split(|octet| *octet == b'\n')
            .take_while(|line| *line != b"\r");
        if header.filter(|line| line.starts_with(b"Received:")).count() > HOPS_MAX {
            return replies::LOOP;
        }
        let new = self.directory.join("new").join(&self.name);
        match self.store(&new) {
            Ok(()) => replies::ACCEPTED,
            Err(_) => replies::TRY_LATER,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Nothing is there after a rename, and what is left otherwise was not accepted.
        let _gone = fs::remove_file(&self.path);
    }
}
