//! Many SMTP sessions, one message at a time on each: how many messages a second a server accepts.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use postern_tests::Failure;
use postern_tests::load::{HEADER, Quota, SmtpClient, Waits, finished, message, ready, run};
use smtp_bridge::net::system;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Loads an SMTP server and prints what it accepted.
///
/// Connections are kept open and nothing is pipelined, as with "smtp-source -d". One thread, so that the server has the
/// other processors.
#[derive(Parser)]
#[command(name = "smtpload")]
struct Arguments {
    /// The server.
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    /// Sessions at one time.
    #[arg(long, default_value_t = 16)]
    sessions: usize,
    /// Length of a message, header and text, in bytes.
    #[arg(long, default_value_t = 4_096)]
    size: usize,
    /// Messages in all.
    #[arg(long)]
    count: Option<u64>,
    /// No message begins later than so many seconds after the start.
    #[arg(long)]
    seconds: Option<f64>,
    /// Sender of every message.
    #[arg(long, default_value = "sender@source.test")]
    sender: String,
    /// Recipients, one a message, taken in turn.
    #[arg(long, required = true, value_delimiter = ',')]
    recipient: Vec<String>,
    /// Keep the sessions open and idle for so many seconds afterwards.
    #[arg(long, default_value_t = 0)]
    hold: u64,
}

fn main() -> ExitCode {
    run("smtpload", Builder::new_current_thread(), load(Arguments::parse()))
}

async fn load(arguments: Arguments) -> Result<(), Failure> {
    if arguments.count.is_none() && arguments.seconds.is_none() {
        return Err("say --count or --seconds".into());
    }
    let host = system::host();
    let mut clients = Vec::with_capacity(arguments.sessions);
    for _ in 0..arguments.sessions {
        clients.push(SmtpClient::open(host.dial(&arguments.server).await?).await?);
    }
    let text: Arc<[u8]> = format!("{}.\r\n", message(HEADER, arguments.size)).into_bytes().into();
    let mail: Arc<[u8]> = format!("MAIL FROM:<{}>\r\n", arguments.sender).into_bytes().into();
    let recipients = arguments.recipient.iter();
    let rcpts: Arc<[Vec<u8>]> = recipients
        .map(|to| format!("RCPT TO:<{to}>\r\n").into_bytes())
        .collect();

    let start = ready().await?;
    let quota = Quota::new(arguments.count, arguments.seconds, start);
    let mut running = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let (text, mail, rcpts, quota) = (text.clone(), mail.clone(), rcpts.clone(), quota.clone());
        running.spawn(async move {
            let mut waits = Waits::default();
            for turn in number.. {
                if !quota.take() {
                    break;
                }
                let begun = Instant::now();
                client.send(&mail, &rcpts[turn % rcpts.len()], &text).await?;
                waits.enter(begun);
            }
            Ok::<_, Failure>((waits, client))
        });
    }
    // The sessions are open until these are dropped.
    let (line, _clients) = finished(running, start).await?;
    println!("sessions={} size={} {line}", arguments.sessions, arguments.size);
    tokio::time::sleep(Duration::from_secs(arguments.hold)).await;
    Ok(())
}
