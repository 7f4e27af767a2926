//! Many sessions, one outstanding submission each: how many messages a second a relay accepts durably.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use postern_tests::{Failure, Session, issue};
use smtp_bridge::net::system;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Loads a relay's link server and prints what it accepted.
#[derive(Parser)]
#[command(name = "linkload")]
struct Arguments {
    /// The relay's link server.
    #[arg(long, value_name = "HOST:PORT")]
    relay: String,
    /// The relay's data folder, whose control socket issues the packs.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Sessions at one time, each with a pack of its own.
    #[arg(long, default_value_t = 16)]
    sessions: usize,
    /// Length of a message's text in bytes.
    #[arg(long, default_value_t = 4_096)]
    size: usize,
    /// Messages in all; 0 only opens the sessions.
    #[arg(long, default_value_t = 5_000)]
    count: usize,
    /// Recipient of every message.
    #[arg(long, default_value = "sink@sink.test")]
    recipient: String,
    /// Keep the sessions open and idle for so many seconds afterwards.
    #[arg(long, default_value_t = 0)]
    hold: u64,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads can be started");
    match runtime.block_on(load(Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("linkload: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn load(arguments: Arguments) -> Result<(), Failure> {
    let host = system::host();
    let mut sessions = Vec::with_capacity(arguments.sessions);
    for _ in 0..arguments.sessions {
        let mut pack = issue(&host, &arguments.data, 16, u64::MAX / 1_000_000).await?;
        sessions.push(Session::open(&host, &arguments.relay, &mut pack).await?);
    }
    let message = message(arguments.size);
    let share = arguments.count / arguments.sessions.max(1);
    let start = Instant::now();
    let mut running = JoinSet::new();
    for mut session in sessions {
        let (message, recipient, hold) = (message.clone(), arguments.recipient.clone(), arguments.hold);
        running.spawn(async move {
            for _ in 0..share {
                session.submit(&recipient, &message).await?;
            }
            let done = Instant::now();
            let _ = tokio::time::timeout(Duration::from_secs(hold), session.hold()).await;
            Ok::<Instant, Failure>(done)
        });
    }
    let mut end = start;
    while let Some(done) = running.join_next().await {
        end = end.max(done??);
    }
    let (seconds, accepted) = ((end - start).as_secs_f64(), share * arguments.sessions);
    let rate = accepted as f64 / seconds.max(f64::EPSILON);
    println!(
        "sessions={} size={} accepted={accepted} seconds={seconds:.3} rate={rate:.0}",
        arguments.sessions, arguments.size
    );
    Ok(())
}

/// Header fields and a text of `size` bytes in lines of 64.
fn message(size: usize) -> String {
    let mut text = String::from("Subject: load\r\n\r\n");
    while text.len() < size {
        text.push_str("The quick brown fox jumps over the lazy dog, and once more so.\r\n");
    }
    text
}
