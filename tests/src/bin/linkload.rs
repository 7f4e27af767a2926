//! Many sessions, one outstanding submission each: how many messages a second a relay accepts durably.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use postern_tests::load::{Quota, Waits, finished, message, ready, run};
use postern_tests::{Failure, Session, issue};
use smtp_bridge::net::system;
use tokio::runtime::Builder;
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
    /// Messages in all; 0 only opens the sessions. 5,000 where neither this nor --seconds is given.
    #[arg(long)]
    count: Option<u64>,
    /// No message begins later than so many seconds after the start.
    #[arg(long)]
    seconds: Option<f64>,
    /// Recipient of every message.
    #[arg(long, default_value = "sink@sink.test")]
    recipient: String,
    /// Keep the sessions open and idle for so many seconds afterwards.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Print the aliases that the sessions opened, one a line.
    #[arg(long)]
    aliases: bool,
}

/// Sessions that are being opened at one time.
const OPENING_MAX: usize = 32;
/// What a pack is worth, in µtok: more than a load spends, and a million of them still add up in 64 bits.
const VALUE: u64 = u64::MAX / 1_000_000;

fn main() -> ExitCode {
    run("linkload", Builder::new_multi_thread(), load(Arguments::parse()))
}

async fn load(arguments: Arguments) -> Result<(), Failure> {
    let arguments = Arc::new(arguments);
    let sessions = open_all(&arguments).await?;
    if arguments.aliases {
        sessions.iter().for_each(|session| println!("{}", session.alias()));
    }
    let message: Arc<str> = message("Subject: load\r\n\r\n", arguments.size).into();

    let start = ready().await?;
    let count = arguments.count.or(arguments.seconds.is_none().then_some(5_000));
    let quota = Quota::new(count, arguments.seconds, start);
    let mut running = JoinSet::new();
    for mut session in sessions {
        let (message, quota, arguments) = (message.clone(), quota.clone(), arguments.clone());
        running.spawn(async move {
            let mut waits = Waits::default();
            while quota.take() {
                let begun = Instant::now();
                session.submit(&arguments.recipient, &message).await?;
                waits.enter(begun);
            }
            Ok::<_, Failure>((waits, session))
        });
    }
    let (line, idle) = finished(running, start).await?;
    println!("sessions={} size={} {line}", arguments.sessions, arguments.size);
    let mut holding = JoinSet::new();
    for mut session in idle {
        holding.spawn(async move { session.hold().await });
    }
    // Links that the relay ends earlier are no failure of the load.
    let _ = tokio::time::timeout(Duration::from_secs(arguments.hold), holding.join_all()).await;
    Ok(())
}

async fn open_all(arguments: &Arc<Arguments>) -> Result<Vec<Session>, Failure> {
    let host = system::host();
    let mut sessions = Vec::with_capacity(arguments.sessions);
    let mut opening = JoinSet::new();
    for _ in 0..arguments.sessions {
        if opening.len() == OPENING_MAX {
            sessions.extend(opening.join_next().await.transpose()?.transpose()?);
        }
        let (host, arguments) = (host.clone(), arguments.clone());
        opening.spawn(async move {
            let mut pack = issue(&host, &arguments.data, 16, VALUE).await?;
            Session::open(&host, &arguments.relay, &mut pack).await
        });
    }
    while let Some(opened) = opening.join_next().await {
        sessions.push(opened??);
    }
    Ok(sessions)
}
