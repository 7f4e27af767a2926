//! An IMAP server over folders in memory, for trying mail programs: `imap_server PORT [MESSAGES]`.
//!
//! It listens on 127.0.0.1; the user is `user`, the password `pass`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mailbox::holder_store::Flags;
use smtp_bridge::imap::{Gate, Limits, MemoryStore, serve, turn_away};
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "an example is its own host")]
async fn main() -> std::io::Result<()> {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let (port, messages) = match numbers[..] {
        [port] => (port, 0),
        [port, messages] => (port, messages),
        _ => return Err(std::io::Error::other("usage: imap_server PORT [MESSAGES]")),
    };
    let store = Arc::new(MemoryStore::new("user", "pass", now));
    for number in 0..messages {
        let text = format!(
            "From: Ann <ann@x.example>\r\nTo: user@localhost\r\nSubject: message {number}\r\nMessage-ID: <{number}@x.example>\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n{}",
            "A line of some length, to make the message one of the usual size.\r\n".repeat(20)
        );
        store.add(text.into_bytes(), Flags::default(), None);
    }
    let limits = Limits::default();
    let gate = Gate::new(&limits);
    let listener = TcpListener::bind(("127.0.0.1", port as u16)).await?;
    println!("127.0.0.1:{port}, user and pass, {messages} messages");
    loop {
        let (stream, _) = listener.accept().await?;
        let (limits, store, gate) = (limits.clone(), Arc::clone(&store), gate.clone());
        tokio::spawn(async move {
            match gate.admit() {
                Some(_place) => serve(stream, &limits, &*store).await,
                None => turn_away(stream).await,
            }
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "an example is its own host")]
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
