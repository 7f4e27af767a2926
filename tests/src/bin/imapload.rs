//! One IMAP client that reads a mailbox whole, and another that fills it: how fast a server serves.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use postern_tests::Failure;
use postern_tests::load::{HEADER, Quota, message, ready, run};
use smtp_bridge::net::{BoxStream, system};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Selects INBOX and fetches all envelopes, then all bodies; one line for each round.
#[derive(Parser)]
#[command(name = "imapload")]
struct Arguments {
    /// The server.
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    /// Who logs in.
    #[arg(long)]
    user: String,
    /// The password.
    #[arg(long)]
    password: String,
    /// First append so many messages.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Length of an appended message in bytes.
    #[arg(long, default_value_t = 4_096)]
    size: usize,
    /// Connections that append.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How often to read everything, each time over a connection of its own.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// Octets read at once.
const BLOCK: usize = 1 << 18;

fn main() -> ExitCode {
    run("imapload", Builder::new_current_thread(), load(&Arguments::parse()))
}

async fn load(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.fill > 0 {
        fill(arguments).await?;
    }
    if arguments.rounds == 0 {
        return Ok(());
    }
    ready().await?;
    for _ in 0..arguments.rounds {
        let mut client = Client::open(arguments).await?;
        let (select, selected) = timed(client.command("SELECT INBOX")).await?;
        let envelopes = client.command("FETCH 1:* (FLAGS RFC822.SIZE ENVELOPE)");
        let (envelopes, summaries) = timed(envelopes).await?;
        let (bodies, messages) = timed(client.command("FETCH 1:* (BODY.PEEK[])")).await?;
        if summaries.messages == 0 || summaries.messages != messages.messages {
            return Err(format!("{} envelopes, {} bodies", summaries.messages, messages.messages).into());
        }
        println!(
            "messages={} octets={} select_octets={} select_ms={:.3} envelopes_s={:.4} bodies_s={:.4}",
            messages.messages,
            messages.octets,
            selected.octets,
            select * 1_000.0,
            envelopes,
            bodies
        );
    }
    Ok(())
}

async fn timed<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<(f64, T), Failure> {
    let start = Instant::now();
    let done = work.await?;
    Ok((start.elapsed().as_secs_f64(), done))
}

async fn fill(arguments: &Arguments) -> Result<(), Failure> {
    let mut clients = Vec::with_capacity(arguments.connections);
    for _ in 0..arguments.connections {
        clients.push(Client::open(arguments).await?);
    }
    let start = ready().await?;
    let quota = Quota::new(Some(arguments.fill), None, start);
    let mut running = JoinSet::new();
    for mut client in clients {
        let (quota, text) = (quota.clone(), message(HEADER, arguments.size));
        running.spawn(async move {
            while quota.take() {
                client.append(text.as_bytes()).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "appended={} seconds={seconds:.3} rate={:.1}",
        arguments.fill,
        arguments.fill as f64 / seconds
    );
    Ok(())
}

/// What a command brought.
#[derive(Default)]
struct Answer {
    messages: u64,
    octets: u64,
}

struct Client {
    stream: BoxStream,
    block: Vec<u8>,
    start: usize,
    end: usize,
    number: u32,
}

impl Client {
    async fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let mut client = Client {
            stream: system::host().dial(&arguments.server).await?,
            block: vec![0; BLOCK],
            start: 0,
            end: 0,
            number: 0,
        };
        client.line().await?;
        let login = format!("LOGIN {} {}", arguments.user, arguments.password);
        client.command(&login).await?;
        Ok(client)
    }

    async fn append(&mut self, message: &[u8]) -> Result<(), Failure> {
        let tag = self.begin(&format!("APPEND INBOX {{{}}}", message.len())).await?;
        let line = self.line().await?;
        if self.block[line.0] != b'+' {
            return Err(self.text(line).into());
        }
        self.stream.write_all(message).await?;
        self.stream.write_all(b"\r\n").await?;
        self.finish(&tag).await?;
        Ok(())
    }

    /// Gives a command and reads its answer to the end.
    async fn command(&mut self, command: &str) -> Result<Answer, Failure> {
        let tag = self.begin(command).await?;
        self.finish(&tag).await
    }

    async fn begin(&mut self, command: &str) -> Result<String, Failure> {
        self.number += 1;
        let tag = format!("a{} ", self.number);
        self.stream.write_all(format!("{tag}{command}\r\n").as_bytes()).await?;
        Ok(tag)
    }

    async fn finish(&mut self, tag: &str) -> Result<Answer, Failure> {
        let mut answer = Answer::default();
        let mut is_new = true;
        loop {
            let (from, to) = self.line().await?;
            let line = &self.block[from..to];
            answer.octets += line.len() as u64;
            if is_new && line.starts_with(tag.as_bytes()) {
                return match line[tag.len()..].starts_with(b"OK") {
                    true => Ok(answer),
                    false => Err(self.text((from, to)).into()),
                };
            }
            if is_new && is_fetch(line) {
                answer.messages += 1;
            }
            // What follows a literal is the rest of the same response.
            let literal = literal(line);
            is_new = literal.is_none();
            if let Some(length) = literal {
                answer.octets += length as u64;
                self.skip(length).await?;
            }
        }
    }

    /// Where the next line lies in the block, its end included.
    async fn line(&mut self) -> Result<(usize, usize), Failure> {
        let mut seen = 0;
        loop {
            let fresh = &self.block[self.start + seen..self.end];
            if let Some(at) = fresh.iter().position(|octet| *octet == b'\n') {
                let from = self.start;
                self.start += seen + at + 1;
                return Ok((from, self.start));
            }
            seen = self.end - self.start;
            self.read().await?;
        }
    }

    async fn skip(&mut self, mut length: usize) -> Result<(), Failure> {
        loop {
            let here = length.min(self.end - self.start);
            self.start += here;
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Failure> {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.block.len() {
            return Err("a line is too long".into());
        }
        let read = self.stream.read(&mut self.block[self.end..]).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.end += read;
        Ok(())
    }

    fn text(&self, (from, to): (usize, usize)) -> String {
        String::from_utf8_lossy(&self.block[from..to]).into_owned()
    }
}

/// Whether a line begins the data of one message: `* 12 FETCH (`.
fn is_fetch(line: &[u8]) -> bool {
    let mut words = line.splitn(4, |octet| *octet == b' ');
    words.next() == Some(b"*") && words.nth(1) == Some(b"FETCH")
}

/// The length of the literal that a line announces at its end.
fn literal(line: &[u8]) -> Option<usize> {
    let inner = line.strip_suffix(b"}\r\n")?;
    let open = inner.iter().rposition(|octet| *octet == b'{')?;
    std::str::from_utf8(&inner[open + 1..]).ok()?.parse().ok()
}
