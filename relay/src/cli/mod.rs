//! The command line of `posternd`: the relay, and its operator's commands.
//!
//! [`run`] reads the arguments and does what they say. What is asked of a running relay is in `beside`.

mod beside;
mod check;
mod directory;
mod papers;
mod peer;
mod restore;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use keypacks::rotation::Policy;
use smtp_bridge::cli::process::{self, Failure};
use smtp_bridge::cli::{self, BridgeArgs};
use smtp_bridge::net::dns::Dns;
use smtp_bridge::net::system;

use crate::config::RelayConfig;
use crate::operator::Command as Order;
use crate::padfile;
use crate::quickstart::{self, Options};

/// An anonymous, encrypted, prepaid email relay.
#[derive(Parser)]
#[command(name = "posternd", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try everything on this machine: a relay, or several in a row, and two people with a bridge each.
    Quickstart(QuickstartArgs),
    /// Run a relay.
    Run(RunArgs),
    /// Check a configuration and the machine, and say what to do about each problem; exit status 1 if one is serious.
    Check(CheckArgs),
    /// Make packs.
    #[command(subcommand)]
    Pack(PackCommand),
    /// Credit an account.
    Topup(TopUpArgs),
    /// Sums over the whole relay.
    Totals(BesideArgs),
    /// Recompute every sum from the postings; exit status 1 if anything contradicts.
    Audit(BesideArgs),
    /// Read everything that is kept and recompute what can be; repairs nothing; exit status 1 if anything contradicts.
    Verify(BesideArgs),
    /// Copy the database of the running relay, without its keys, into a new folder.
    Backup {
        #[command(flatten)]
        beside: BesideArgs,
        /// Where to. It must not exist or be empty.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Put a backup back beside the keys as they are now, so that nothing is accepted, debited, sealed or delivered twice.
    Restore(restore::RestoreArgs),
    /// Deliveries waiting, without identifiers: show them, try them now, give them up.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Other relays: packs issued for them, and packs of theirs by which mail goes on.
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    /// The directory of a federation: who signs it, what stands in it.
    #[command(subcommand)]
    Directory(directory::DirectoryCommand),
    /// Print this relay's card: what packs at it name, for whoever has one procured by another relay.
    ///
    /// Publish it where your users find it without that other relay in between: by the card they know that the pack is yours.
    Card(BesideArgs),
    /// Packs ordered at other relays that are not made yet, without identifiers.
    Procurements {
        #[command(flatten)]
        beside: BesideArgs,
        /// Credit the orders at this peer back to those who gave them, where it is not configured any more.
        #[arg(long = "return", value_name = "PEER")]
        give_back: Option<String>,
        /// Also where it is configured and never answers. If it makes the packs all the same, their value is your loss.
        #[arg(long, requires = "give_back")]
        even_if_sent: bool,
    },
    /// Postings of one account.
    Statement {
        #[command(flatten)]
        beside: BesideArgs,
        /// The pack's identifier, as 'postern status' shows it.
        #[arg(long)]
        account: String,
    },
    /// Print what completes these commands in a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command.
    Man {
        /// Folder for the pages.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// A bridge, as 'postern bridge' runs it.
    #[command(hide = true)]
    Bridge(BridgeArgs),
}

#[derive(Subcommand)]
enum QueueCommand {
    /// Show what waits, the soonest due first, at most 1,000.
    List(BesideArgs),
    /// Try one delivery now, or all; each counts as one of its tries.
    Retry {
        /// The number that 'queue list' shows, or 'all'.
        #[arg(value_name = "ROW|all", value_parser = which_rows)]
        row: WhichRows,
        #[command(flatten)]
        beside: BesideArgs,
    },
    /// Give a delivery up. Its sender gets a report of the failure.
    Drop {
        /// The number that 'queue list' shows.
        row: u64,
        #[command(flatten)]
        beside: BesideArgs,
    },
}

/// One row, or all.
#[derive(Clone, Copy)]
struct WhichRows(Option<u64>);

fn which_rows(text: &str) -> Result<WhichRows, String> {
    match text {
        "all" => Ok(WhichRows(None)),
        number => number
            .parse()
            .map(|row| WhichRows(Some(row)))
            .map_err(|_| "give a row's number, or 'all'".to_owned()),
    }
}

#[derive(Args)]
struct QuickstartArgs {
    /// Folder for all data: DIR/relay, DIR/a and DIR/b.
    #[arg(long, value_name = "DIR", default_value = "postern-quickstart")]
    dir: PathBuf,
    /// How many relays, 1 to 5. Mail goes from each to the next; b's mailbox is at the last, and b's link is carried there by
    /// the first.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(quickstart::RELAYS_MAX)))]
    relays: u8,
    /// Port of the relay's link server. Here and below, further relays take the ports behind it.
    #[arg(long, default_value_t = 7025)]
    link_port: u16,
    /// Port of the relay's MX.
    #[arg(long, default_value_t = 2625)]
    mx_port: u16,
    /// Port of the status page.
    #[arg(long, default_value_t = 8025)]
    status_port: u16,
    /// Port where a's mail program sends; b's is the next.
    #[arg(long, default_value_t = 2025)]
    smtp_port: u16,
    /// Port where a's mail program reads; b's is the next.
    #[arg(long, default_value_t = 2143)]
    imap_port: u16,
    /// Where mail for other domains goes.
    #[arg(long, value_name = "HOST:PORT")]
    smarthost: Option<String>,
    /// Let the bridges dial this instead of the first relay: a proxy that records, for instance.
    #[arg(long, value_name = "HOST:PORT")]
    relay_via: Option<String>,
    /// One line of JSON when everything is ready, instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when standard input ends: for a program that starts this one.
    #[arg(long)]
    stop_with_stdin: bool,
    /// For tests: kill the process at a disk operation, as in "index.sync:3:before".
    #[arg(long, hide = true, value_name = "OP:N:WHEN")]
    kill_at: Option<String>,
}

#[derive(Args)]
struct CheckArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Ask the DNS too, for the names in the configuration.
    #[arg(long)]
    dns: bool,
}

#[derive(Subcommand)]
enum PackCommand {
    /// Issue a pack and write it to a file.
    Issue(IssueArgs),
}

#[derive(Args)]
struct IssueArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of link keys: each completed connection uses one.
    #[arg(long, default_value_t = 1_000)]
    keys: u64,
    /// Value in µtok.
    #[arg(long, value_name = "µTOK")]
    value: u64,
    /// File with the passphrase for the pack in its first line.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
    /// When a link goes on under a new key, besides with every connection: 'time=SECONDS' of connection time,
    /// 'interval=SECONDS' from the pack's first use, 'bytes=N' in either direction, or several with commas between.
    #[arg(long, value_name = "POLICY", default_value = "connection")]
    rotate: Policy,
    /// This pack receives the mail for postmaster and abuse.
    #[arg(long)]
    operator: bool,
    /// Put its links under a one-time pad of this size, as in 64M or 2G, in FILE.pad.
    #[arg(long, value_name = "SIZE", value_parser = padfile::size)]
    pad: Option<u64>,
    /// Add a source of yours to the operating system's generator: a file or a device, each used for one pad; '-' reads the
    /// throws of a die, digits from 1 to 6, from standard input. May be given several times.
    #[arg(long, value_name = "FILE|DEVICE|-", requires = "pad")]
    mix: Vec<PathBuf>,
    /// The second half of the pad, as many random bytes that somebody else gives to the holder: the relay's file is what is
    /// made and this, FILE.pad is without it. It is used for this pad alone, then overwritten and removed.
    #[arg(long, value_name = "FILE", requires = "pad")]
    half: Option<PathBuf>,
}

#[derive(Args)]
struct TopUpArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// The pack's identifier, as 'postern status' shows it.
    #[arg(long)]
    account: String,
    /// Amount in µtok.
    #[arg(long, value_name = "µTOK")]
    amount: u64,
    /// 32 hexadecimal digits naming the payment: the same id is credited once. Random where it is missing.
    #[arg(long, value_name = "HEX")]
    id: Option<String>,
}

#[derive(Args)]
struct BesideArgs {
    /// Data folder of the running relay.
    #[arg(long, alias = "dir", value_name = "DIR")]
    data: PathBuf,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Reads the arguments, does what they say, and says by its exit status how it went.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    process::run("posternd=info,relay=info,smtp_bridge=info,mailbox=info", || async {
        match command {
            Command::Quickstart(args) => quickstart(args).await,
            Command::Run(args) => relay(args).await,
            Command::Check(args) => check::run(&args).await,
            Command::Pack(PackCommand::Issue(args)) => beside::issue(args).await,
            Command::Topup(args) => beside::top_up(args).await,
            Command::Totals(args) => beside::totals(&args).await,
            Command::Audit(args) => beside::audit(&args, &Order::Audit).await,
            Command::Verify(args) => beside::audit(&args, &Order::Verify).await,
            Command::Backup { beside, to } => beside::backup(&beside, &to).await,
            Command::Restore(args) => restore::run(&args),
            Command::Queue(command) => beside::queue(command).await,
            Command::Peer(command) => peer::run(command).await,
            Command::Directory(command) => directory::run(command).await,
            Command::Card(args) => {
                let text = |answer: &serde_json::Value| answer["card"].as_str().unwrap_or_default().to_owned();
                beside::ask(&args, &Order::Card, text).await.map(|_| ())
            }
            Command::Procurements {
                beside,
                give_back: Some(peer),
                even_if_sent,
            } => {
                let order = Order::ProcurementsReturn { peer, even_if_sent };
                let text = |answer: &serde_json::Value| format!("{} orders are credited back", answer["returned"]);
                beside::ask(&beside, &order, text).await.map(|_| ())
            }
            Command::Procurements { beside: args, .. } => {
                let columns = ["peer", "keys", "value", "price", "days"];
                let text = |answer: &_| beside::rows(answer, &columns, "no order waits");
                beside::ask(&args, &Order::Procurements, text).await.map(|_| ())
            }
            Command::Completions { shell } => papers::completions(shell),
            Command::Man { to } => papers::manual(&to),
            Command::Statement { beside, account } => beside::statement(&beside, account).await,
            Command::Bridge(args) => cli::run_bridge(args).await,
        }
    })
}

async fn quickstart(args: QuickstartArgs) -> Result<(), Failure> {
    let options = Options {
        dir: args.dir,
        relays: args.relays,
        link_port: args.link_port,
        mx_port: args.mx_port,
        status_port: args.status_port,
        smtp_port: args.smtp_port,
        imap_port: args.imap_port,
        smarthost: args.smarthost,
        relay_via: args.relay_via,
        json: args.json,
    };
    quickstart::run(options, system::host(), process::stop_on_signals(false)).await
}

async fn relay(args: RunArgs) -> Result<(), Failure> {
    let config = RelayConfig::read(&args.config).map_err(Failure::from_error)?;
    let mut host = process::host(args.kill_at.as_deref())?;
    if config.asks_names() {
        let dns = Dns::new(&config.dns).map_err(|error| {
            Failure(format!(
                "no name server is known ({error}): name one, dns = [\"192.0.2.1:53\"]"
            ))
        })?;
        host.names = Arc::new(dns);
    }
    crate::run(config, host, process::stop_on_signals(args.stop_with_stdin))
        .await
        .map_err(Failure::from_error)
}
