//! The command line of `postern`.
//!
//! `init` and `bridge` own the data folder; every other command speaks to the running bridge through its control
//! socket.

mod beside;
pub mod process;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mailbox::holder::{HolderOptions, init_from_pack};

use crate::bridge::{self, BridgeConfig};
use crate::holder::HolderConfig;
use crate::message::Address;
use crate::net::Host;
pub use settings::Settings;

/// Anonymous, encrypted, prepaid email with the mail program you have.
#[derive(Parser)]
#[command(name = "postern", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a data folder from a pack. The pack's file is of no further use afterwards.
    Init(InitArgs),
    /// Run the bridge: SMTP and IMAP for your mail program, on this machine only.
    Bridge(BridgeArgs),
    /// Show value, keys left, prices and the state of the link.
    Status(BesideArgs),
    /// Show the settings to enter in a mail program, password included.
    Settings(BesideArgs),
    /// Show or cancel messages that are not delivered to the relay yet.
    Outbox(OutboxArgs),
    /// Show, open, close or name aliases.
    Alias(AliasArgs),
}

/// Arguments of `postern init`.
#[derive(Args)]
pub struct InitArgs {
    /// The pack as you received it.
    #[arg(long, value_name = "FILE")]
    pub pack: PathBuf,
    /// New folder for the bridge's data.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// File with the pack's passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
    /// User name for your mail program.
    #[arg(long, default_value = "me")]
    pub user: String,
    /// Where the mail program sends.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1025")]
    pub smtp: SocketAddr,
    /// Where the mail program reads.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1143")]
    pub imap: SocketAddr,
}

/// Arguments of `postern bridge`.
#[derive(Args)]
pub struct BridgeArgs {
    /// Folder made by 'postern init'.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// File with the passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
    /// Where the mail program sends, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub smtp: Option<SocketAddr>,
    /// Where the mail program reads, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub imap: Option<SocketAddr>,
    /// Dial this instead of the relay's address in the pack.
    #[arg(long, value_name = "HOST:PORT")]
    pub relay_via: Option<String>,
    /// How often news from the relay are looked at; arrival is blurred by it.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive_seconds)]
    pub tick: f64,
    /// Longest wait for one step of connecting.
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, value_parser = positive_seconds)]
    pub dial_timeout: f64,
    /// Stop when standard input ends: for a program that starts this one.
    #[arg(long)]
    pub stop_with_stdin: bool,
    /// For tests: keep every used key.
    #[arg(long, hide = true)]
    pub keep_used_keys: bool,
    /// For tests: kill the process at a disk operation, as in "index.sync:3:before".
    #[arg(long, hide = true, value_name = "OP:N:WHEN")]
    pub kill_at: Option<String>,
}

/// Arguments of the commands beside a running bridge.
#[derive(Args)]
struct BesideArgs {
    /// Data folder of the running bridge.
    #[arg(long, alias = "data", value_name = "DIR", global = true, default_value = ".")]
    dir: PathBuf,
    /// One line of JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args)]
struct OutboxArgs {
    #[command(flatten)]
    beside: BesideArgs,
    #[command(subcommand)]
    command: Option<OutboxCommand>,
}

#[derive(Subcommand)]
enum OutboxCommand {
    /// Drop a message that has not been sent, or was refused.
    Cancel {
        /// Row as 'postern outbox' shows it.
        row: u64,
    },
}

#[derive(Args)]
struct AliasArgs {
    #[command(flatten)]
    beside: BesideArgs,
    #[command(subcommand)]
    command: Option<AliasCommand>,
}

#[derive(Subcommand)]
enum AliasCommand {
    /// List the aliases of the pack.
    List,
    /// Open an alias: a random one, or the local part given.
    New {
        /// What stands before the '@'.
        local: Option<String>,
    },
    /// Close an alias: mail for it is refused from now on.
    Close {
        /// The whole address.
        address: String,
    },
    /// Set the name that recipients see before an alias; without a name, remove it.
    Name {
        /// The whole address.
        address: String,
        /// The name.
        name: Option<String>,
    },
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds from 0.01 to 86400".to_owned()),
    }
}

/// Parses the arguments, does what they say, and reports failure in one sentence.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    process::run("postern=info,smtp_bridge=info", || async {
        match command {
            Command::Init(args) => init(&args),
            Command::Bridge(args) => run_bridge(args).await,
            Command::Status(args) => beside::status(&args).await,
            Command::Settings(args) => beside::settings(&args).await,
            Command::Outbox(OutboxArgs { beside, command: None }) => beside::outbox(&beside).await,
            Command::Outbox(OutboxArgs {
                beside,
                command: Some(OutboxCommand::Cancel { row }),
            }) => beside::cancel(&beside, row).await,
            Command::Alias(AliasArgs { beside, command }) => match command.unwrap_or(AliasCommand::List) {
                AliasCommand::List => beside::aliases(&beside).await,
                AliasCommand::New { local } => beside::alias_new(&beside, local).await,
                AliasCommand::Close { address } => beside::alias_close(&beside, address).await,
                AliasCommand::Name { address, name } => beside::alias_name(&beside, address, name).await,
            },
        }
    })
}

/// `postern init`.
pub fn init(args: &InitArgs) -> Result<(), process::Failure> {
    let host = crate::net::system::host();
    init_with(&host, args)?;
    println!(
        "Ready. Start the bridge with:\n  postern bridge --dir {} --passphrase-file {}",
        args.dir.display(),
        args.passphrase_file.display()
    );
    println!("Any copy of the pack's file made before now still opens everything: destroy such copies.");
    Ok(())
}

/// Makes a data folder from a pack, or resumes where an earlier try was cut off.
pub fn init_with(host: &Host, args: &InitArgs) -> Result<(), process::Failure> {
    let passphrase = process::passphrase(&args.passphrase_file)?;
    check_loopback(args.smtp)?;
    check_loopback(args.imap)?;
    init_from_pack(
        &host.disk,
        &args.pack,
        &args.dir,
        &passphrase,
        &HolderOptions::default(),
        &host.entropy,
    )
    .map_err(|error| process::Failure(format!("cannot make {} from the pack: {error}", args.dir.display())))?;
    Settings {
        user: args.user.clone(),
        smtp: args.smtp,
        imap: args.imap,
    }
    .write(&args.dir)
}

/// `postern bridge`.
pub async fn run_bridge(args: BridgeArgs) -> Result<(), process::Failure> {
    let settings = Settings::read(&args.dir)?;
    let (smtp, imap) = (args.smtp.unwrap_or(settings.smtp), args.imap.unwrap_or(settings.imap));
    check_loopback(smtp)?;
    check_loopback(imap)?;
    let config = BridgeConfig {
        passphrase: process::passphrase(&args.passphrase_file)?,
        dir: args.dir,
        smtp,
        imap,
        holder: HolderConfig {
            relay_via: args.relay_via,
            tick: Duration::from_secs_f64(args.tick),
            flight_timeout: Duration::from_secs_f64(args.dial_timeout),
            ..HolderConfig::new(
                Address::parse(&format!("{}@localhost", settings.user))
                    .map_err(|_| process::Failure("the user in bridge.toml is no name for a mailbox".to_owned()))?,
            )
        },
        user: settings.user,
        keep_used_keys: args.keep_used_keys,
    };
    let host = process::host(args.kill_at.as_deref())?;
    let stop = process::stop_on_signals(args.stop_with_stdin);
    bridge::run(config, host, stop)
        .await
        .map_err(process::Failure::from_error)
}

/// The password crosses these ports in the clear, so they never leave the machine.
fn check_loopback(at: SocketAddr) -> Result<(), process::Failure> {
    if at.ip().is_loopback() {
        Ok(())
    } else {
        Err(process::Failure(format!(
            "{at} is not on this machine: the ports for mail programs take 127.0.0.1 or [::1] only"
        )))
    }
}
