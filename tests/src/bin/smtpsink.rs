//! The outside world at its fastest: takes every message, keeps none, counts them.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use postern_tests::Failure;
use postern_tests::load::run;
use smtp_bridge::net::{BoxStream, Host, Listener, system};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::runtime::Builder;
use tokio::sync::watch;

/// Accepts mail, discards and counts it.
///
/// Whoever connects to the second port and writes a number gets, as soon as so many messages were taken since the
/// start, their count in a line.
#[derive(Parser)]
#[command(name = "smtpsink")]
struct Arguments {
    /// Where to take mail.
    #[arg(long, value_name = "ADDR")]
    listen: std::net::SocketAddr,
    /// Where to say how much was taken.
    #[arg(long, value_name = "ADDR")]
    count: std::net::SocketAddr,
}

/// Octets read at once.
const BLOCK: usize = 65_536;

fn main() -> ExitCode {
    run(
        "smtpsink",
        Builder::new_current_thread(),
        sink(&system::host(), Arguments::parse()),
    )
}

async fn sink(host: &Host, arguments: Arguments) -> Result<(), Failure> {
    let mut counts = host.net.listen(arguments.count).await?;
    let mut mail = host.net.listen(arguments.listen).await?;
    let taken = Arc::new(watch::Sender::new(0));
    println!("ready");
    loop {
        let (stream, is_mail) = tokio::select! {
            stream = accept(&mut mail) => (stream, true),
            stream = accept(&mut counts) => (stream, false),
        };
        let taken = taken.clone();
        // A client that hangs up ends its own session only.
        if is_mail {
            tokio::spawn(async move { Session::new(stream?, taken).run().await });
        } else {
            tokio::spawn(async move { tell(stream?, taken.subscribe()).await });
        }
    }
}

async fn accept(listener: &mut Box<dyn Listener>) -> Result<BoxStream, Failure> {
    Ok(listener.accept().await?.0)
}

async fn tell(stream: BoxStream, mut taken: watch::Receiver<u64>) -> Result<(), Failure> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let wanted: u64 = line.trim().parse()?;
        let count = *taken.wait_for(|count| *count >= wanted).await?;
        stream.write_all(format!("{count}\n").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

struct Session {
    stream: BoxStream,
    taken: Arc<watch::Sender<u64>>,
    in_text: bool,
    replies: Vec<u8>,
}

impl Session {
    fn new(stream: BoxStream, taken: Arc<watch::Sender<u64>>) -> Self {
        Session {
            stream,
            taken,
            in_text: false,
            replies: b"220 sink.test ESMTP\r\n".to_vec(),
        }
    }

    async fn run(mut self) -> Result<(), Failure> {
        let (mut block, mut length) = (vec![0; BLOCK], 0);
        loop {
            if !self.replies.is_empty() {
                self.stream.write_all(&self.replies).await?;
                self.replies.clear();
            }
            let read = self.stream.read(&mut block[length..]).await?;
            if read == 0 {
                return Ok(());
            }
            length += read;
            let used = self.take(&block[..length]);
            if used == 0 && length == block.len() {
                return Err("a line is too long".into());
            }
            block.copy_within(used..length, 0);
            length -= used;
        }
    }

    /// Does what whole lines say and returns how many octets they were. Commands may come in one batch.
    fn take(&mut self, octets: &[u8]) -> usize {
        let mut used = 0;
        while let Some(end) = octets[used..].iter().position(|octet| *octet == b'\n') {
            let line = &octets[used..=used + end];
            used += line.len();
            if self.in_text {
                if line == b".\r\n" {
                    self.in_text = false;
                    self.taken.send_modify(|count| *count += 1);
                    self.replies.extend_from_slice(b"250 2.0.0 taken\r\n");
                }
                continue;
            }
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            self.in_text = verb == b"DATA";
            let reply: &[u8] = match &verb[..] {
                b"EHLO" => b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
                b"DATA" => b"354 go on\r\n",
                b"QUIT" => b"221 2.0.0 bye\r\n",
                _ => b"250 2.0.0 ok\r\n",
            };
            self.replies.extend_from_slice(reply);
        }
        used
    }
}
