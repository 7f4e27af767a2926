//! What the load generators share: how they run, a common start, what came of a run, and a plain SMTP client.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smtp_bridge::net::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;

/// Runs a program to its end; why it failed is said under its name.
pub fn run(name: &str, mut runtime: Builder, program: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = runtime.enable_all().build().expect("a runtime can be made");
    match runtime.block_on(program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Says "ready" and waits for a line on standard input, or for its end.
///
/// Connections are made before it, so that whoever measures takes clocks and counters between the two.
pub async fn ready() -> Result<Instant, Failure> {
    println!("ready");
    tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new())).await??;
    Ok(Instant::now())
}

/// How much is to be sent in all, by all sessions together.
#[derive(Clone)]
pub struct Quota {
    left: Arc<AtomicU64>,
    end: Option<Instant>,
}

impl Quota {
    /// `count` messages, and none that begins `seconds` after `start`.
    pub fn new(count: Option<u64>, seconds: Option<f64>, start: Instant) -> Self {
        Quota {
            left: Arc::new(AtomicU64::new(count.unwrap_or(u64::MAX))),
            end: seconds.map(|seconds| start + Duration::from_secs_f64(seconds)),
        }
    }

    /// Whether one more is to be sent; it is taken off.
    pub fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.end.is_none_or(|end| Instant::now() < end)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }
}

/// The waits of one session for each of its messages.
#[derive(Default)]
pub struct Waits(Vec<Duration>);

impl Waits {
    /// Enters a message that was begun at `start` and is answered now.
    pub fn enter(&mut self, start: Instant) {
        self.0.push(start.elapsed());
    }

    /// One line: how many in how long, and how long half of them and all but one in a hundred waited.
    fn line(&mut self, start: Instant) -> String {
        let seconds = start.elapsed().as_secs_f64();
        let count = self.0.len();
        self.0.sort_unstable();
        let milliseconds = |share: usize| {
            let wait = self.0.get(count * share / 100).copied().unwrap_or_default();
            wait.as_secs_f64() * 1_000.0
        };
        format!(
            "accepted={count} seconds={seconds:.3} rate={:.1} p50_ms={:.3} p99_ms={:.3}",
            count as f64 / seconds.max(f64::EPSILON),
            milliseconds(50),
            milliseconds(99)
        )
    }
}

/// Waits for all sessions; returns the line about the messages since `start`, and the sessions, idle now.
pub async fn finished<S: 'static>(
    mut running: JoinSet<Result<(Waits, S), Failure>>,
    start: Instant,
) -> Result<(String, Vec<S>), Failure> {
    let (mut waits, mut idle) = (Waits::default(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (part, session) = done??;
        waits.0.extend(part.0);
        idle.push(session);
    }
    Ok((waits.line(start), idle))
}

/// Header fields of a message that comes from outside.
pub const HEADER: &str = "From: <sender@source.test>\r\nTo: <recipient@target.test>\r\n\
    Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <load@source.test>\r\nSubject: load\r\n\r\n";

/// `header` and text, `size` bytes in all, in lines of 64.
pub fn message(header: &str, size: usize) -> String {
    let mut text = header.to_owned();
    while text.len() + 2 < size {
        let line = "The quick brown fox jumps over the lazy dog, and once more so.";
        let room = size - text.len() - 2;
        text.push_str(&line[..room.min(line.len())]);
        text.push_str("\r\n");
    }
    text
}

/// An SMTP client that sends one command at a time, as `smtp-source` does.
pub struct SmtpClient {
    stream: BoxStream,
    replies: Vec<u8>,
}

impl SmtpClient {
    /// Takes the greeting and says EHLO.
    pub async fn open(stream: BoxStream) -> Result<Self, Failure> {
        let mut client = SmtpClient {
            stream,
            replies: Vec::new(),
        };
        client.reply(b'2').await?;
        client.command(b"EHLO source.test\r\n", b'2').await?;
        Ok(client)
    }

    /// One transaction: `mail` and `rcpt` are whole commands, `text` ends with the final dot.
    pub async fn send(&mut self, mail: &[u8], rcpt: &[u8], text: &[u8]) -> Result<(), Failure> {
        self.command(mail, b'2').await?;
        self.command(rcpt, b'2').await?;
        self.command(b"DATA\r\n", b'3').await?;
        self.command(text, b'2').await
    }

    async fn command(&mut self, octets: &[u8], class: u8) -> Result<(), Failure> {
        self.stream.write_all(octets).await?;
        self.reply(class).await
    }

    /// Reads one whole reply; a second one behind it would be the server's fault.
    async fn reply(&mut self, class: u8) -> Result<(), Failure> {
        self.replies.clear();
        loop {
            let mut block = [0; 512];
            let length = self.stream.read(&mut block).await?;
            if length == 0 {
                return Err("the server closed the connection".into());
            }
            self.replies.extend_from_slice(&block[..length]);
            if !is_whole(&self.replies) {
                continue;
            }
            return match self.replies.first() == Some(&class) {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&self.replies).into_owned().into()),
            };
        }
    }
}

/// Whether this ends with the last line of a reply (RFC 5321 4.2.1: a space behind the code).
fn is_whole(replies: &[u8]) -> bool {
    let Some(lines) = replies.strip_suffix(b"\r\n") else {
        return false;
    };
    let last = lines.rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
    last.get(3).is_none_or(|octet| *octet == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_whole_with_its_last_line() {
        assert!(is_whole(b"250 2.0.0 OK\r\n") && is_whole(b"250-a\r\n250 b\r\n") && is_whole(b"250\r\n"));
        assert!(!is_whole(b"250-a\r\n") && !is_whole(b"250 O") && !is_whole(b""));
    }

    #[test]
    fn a_message_is_as_long_as_asked() {
        for size in [200, 4_096, 65_536] {
            let message = message(HEADER, size);
            assert!(message.len().abs_diff(size) <= 2 && message.ends_with("\r\n"), "{size}");
        }
    }

    #[tokio::test]
    async fn a_quota_ends_with_its_count_or_its_time() {
        let quota = Quota::new(Some(2), None, Instant::now());
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        assert!(!Quota::new(None, Some(0.0), Instant::now()).take());
    }
}
