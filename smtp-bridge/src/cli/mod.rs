//! The command line of `postern`.
//!
//! `init` and `bridge` own the data folder; every other command speaks to the running bridge through its control
//! socket.

mod activate;
mod beside;
mod cover;
mod desk;
mod directory;
mod dirs;
mod init;
mod keypack;
mod login;
mod mixing;
mod nesting;
mod open;
mod passphrase;
pub mod process;
mod procure;
mod route;
mod seal;
mod sendmail;
mod settings;
mod setup;
mod terminal;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::bridge::{self, Awaiting, BridgeConfig, EntryPack, PageAt};
use crate::holder::HolderConfig;
use crate::holder::cover::Covered;
use crate::message::Address;
use crate::net::dns::ByServers;
pub use init::{Init, init_with};
pub use keypack::fuzz_elf;
pub use passphrase::PassphraseArgs;
use process::Failure;
pub use sendmail::fuzz as fuzz_letter;
pub use settings::{Nested, PAGE, Settings};

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
    ///
    /// On a terminal it asks for what is not given.
    Init(init::InitArgs),
    /// Run the bridge: SMTP and IMAP for your mail program, on this machine only.
    #[command(visible_alias = "run")]
    Bridge(BridgeArgs),
    /// Show value, keys left, prices and the state of the link.
    Status(BesideArgs),
    /// Show what the relay credited and debited, by day and kind of service.
    Statement(BesideArgs),
    /// Show how messages are mixed with others at the relay, and how long they wait for it.
    ///
    /// 'mix' in bridge.toml says how all messages are, the field 'X-Postern-Mix: fast', 'mixed' or 'paranoid' how one is.
    Mix(BesideArgs),
    /// Show whether the line to the relay carries as much whether there is mail or not, and what that costs.
    ///
    /// 'cover = "cells=2,every_ms=1000"' in bridge.toml asks for it: two cells each way every second.
    Cover(BesideArgs),
    /// Give the pack keys that no copy of it has, and a recovery code.
    ///
    /// Copies of the pack's file and of the data folder that were made before open nothing any more. From then on the relay
    /// freezes the pack when it sees a copy of it in use, and the recovery code alone gives it new keys.
    Activate(activate::ActivateArgs),
    /// Give an activated pack new keys and a new recovery code, with the code that it has.
    Rekey(activate::RekeyArgs),
    /// Find the relay again with a data folder that was restored from an old copy.
    Resume(BesideArgs),
    /// Show the settings to enter in a mail program, password included.
    Settings(BesideArgs),
    /// Show the address of the local page: value, keys, aliases and outbox in a browser.
    Page(BesideArgs),
    /// Show or write the configuration of a mail program, password included.
    Setup(setup::SetupArgs),
    /// Show or cancel messages that are not delivered to the relay yet.
    Outbox(OutboxArgs),
    /// Show, open, close or name aliases.
    Alias(AliasArgs),
    /// Send the message on standard input as /usr/sbin/sendmail does: '-t', '-i', '-f', recipients.
    #[command(disable_help_flag = true)]
    Sendmail {
        /// Options and recipients as sendmail takes them; '--dir DIR' before them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        words: Vec<OsString>,
    },
    /// List, look at, move, re-encrypt and destroy packs.
    Keypack(keypack::KeypackArgs),
    /// Have the relay buy a pack at another relay, without learning which one it is.
    ///
    /// Under that pack and with 'postern bridge --entry', the one relay knows where you are and the other one your mail.
    Procure(procure::ProcureArgs),
    /// Show the relays of the federation, as the directory has them that your relay serves.
    ///
    /// It counts if enough of the directory keys signed it that are in bridge.toml.
    Directory(directory::DirectoryArgs),
    /// Show which way mail goes and who learns what by it, or settle which way an alias's mail must go.
    ///
    /// What would go another way is refused when it is submitted.
    Route(route::RouteArgs),
    /// Seal a message into a parcel: a file or a mail that any carrier may take to the relay, without a link.
    Seal(seal::SealArgs),
    /// Make a name and a password that open the relay's collecting port once, for whoever carries mail to a machine without a
    /// link.
    Login(login::LoginArgs),
    /// Open deposits that were carried as files or mails: their messages go into INBOX.
    Open(open::OpenArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages.
    Man {
        /// Folder for the pages.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
}

/// Arguments of `postern bridge`.
#[derive(Args)]
pub struct BridgeArgs {
    /// Folder made by 'postern init'.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    pub dir: PathBuf,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Where the mail program sends, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub smtp: Option<SocketAddr>,
    /// Where the mail program reads, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub imap: Option<SocketAddr>,
    /// Where the local page is, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub page: Option<SocketAddr>,
    /// SOCKS5 proxy that the relay is reached through, instead of what 'init' was told.
    #[arg(long, value_name = "ADDR")]
    pub socks: Option<SocketAddr>,
    /// Dial this instead of the relay's address in the pack.
    #[arg(long, value_name = "HOST:PORT")]
    pub relay_via: Option<String>,
    /// Reach the relay by the relay of another pack, whose folder this is: the one sees where you are, the other one your
    /// mail, neither both. Nothing else may use that folder meanwhile.
    #[arg(long, value_name = "DIR")]
    pub entry: Option<PathBuf>,
    /// Link although mail of an alias is to go nested, and no entry is named: the relay sees where you are. That mail is refused
    /// until 'postern route' says otherwise.
    #[arg(long, conflicts_with = "entry")]
    pub any_route: bool,
    /// Go the direct way this time although bridge.toml says nested = "auto": the relay sees your address and your mail.
    #[arg(long, conflicts_with = "entry")]
    pub direct_now: bool,
    /// File with the passphrase of that folder in its first line, if it is another one.
    #[arg(long, value_name = "FILE", requires = "entry")]
    pub entry_passphrase_file: Option<PathBuf>,
    /// How often news from the relay are looked at; arrival is blurred by it.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive_seconds)]
    pub tick: f64,
    /// Longest wait for one step of connecting [default: 15, through a proxy 60].
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub dial_timeout: Option<f64>,
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
    #[arg(long, alias = "data", value_name = "DIR", global = true, default_value_os_t = dirs::data())]
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
        /// What you call it; nobody else sees this.
        #[arg(long)]
        label: Option<String>,
        /// Days until it is closed by itself.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
        expires: Option<u64>,
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
    /// Set what you call an alias yourself; without a label, remove it.
    Label {
        /// The whole address.
        address: String,
        /// The label.
        label: Option<String>,
    },
    /// Close an alias by itself after some days, or never.
    Expire {
        /// The whole address.
        address: String,
        /// Days from now, or 'never'.
        #[arg(value_name = "DAYS", value_parser = days_or_never)]
        when: Days,
    },
}

/// A number of days; `None` is never.
#[derive(Clone, Copy)]
struct Days(Option<u64>);

fn days_or_never(text: &str) -> Result<Days, String> {
    match text.parse() {
        Ok(days) if (1..=36_500).contains(&days) => Ok(Days(Some(days))),
        _ if text == "never" => Ok(Days(None)),
        _ => Err("write a number of days from 1 to 36500, or 'never'".to_owned()),
    }
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds from 0.01 to 86400".to_owned()),
    }
}

/// Parses the arguments, does what they say, and reports failure in one sentence.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // Called by that name, this is what other programs know as /usr/sbin/sendmail.
    let name = words.next().map(PathBuf::from).unwrap_or_default();
    if name.file_name().is_some_and(|name| name == "sendmail") {
        return sendmail::main(words.collect());
    }
    let command = match Cli::parse().command {
        Command::Sendmail { words } => return sendmail::main(words),
        command => command,
    };
    process::run("postern=info,smtp_bridge=info", || run(command))
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init::init(&args),
        Command::Bridge(args) => run_bridge(args).await,
        Command::Status(args) => beside::status(&args).await,
        Command::Statement(args) => beside::statement(&args).await,
        Command::Mix(args) => mixing::show(&args).await,
        Command::Cover(args) => cover::show(&args).await,
        Command::Activate(args) => activate::activate(&args).await,
        Command::Rekey(args) => activate::rekey(&args).await,
        Command::Resume(args) => beside::resume(&args).await,
        Command::Settings(args) => beside::settings(&args).await,
        Command::Page(args) => beside::page(&args).await,
        Command::Setup(args) => setup::setup(&args).await,
        Command::Outbox(OutboxArgs { beside, command }) => match command {
            None => beside::outbox(&beside).await,
            Some(OutboxCommand::Cancel { row }) => beside::cancel(&beside, row).await,
        },
        Command::Alias(AliasArgs { beside, command }) => alias(&beside, command.unwrap_or(AliasCommand::List)).await,
        Command::Keypack(args) => keypack::run(args).await,
        Command::Directory(args) => directory::show(&args).await,
        Command::Route(args) => route::route(&args).await,
        Command::Procure(args) => procure::procure(&args).await,
        Command::Seal(args) => seal::seal(&args).await,
        Command::Login(args) => login::login(&args).await,
        Command::Open(args) => open::open(&args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "postern", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => manual(&dir),
        Command::Sendmail { .. } => unreachable!("taken out in main"),
    }
}

async fn alias(beside: &BesideArgs, command: AliasCommand) -> Result<(), Failure> {
    match command {
        AliasCommand::List => beside::aliases(beside).await,
        AliasCommand::New { local, label, expires } => beside::alias_new(beside, local, label, expires).await,
        AliasCommand::Close { address } => beside::alias_close(beside, address).await,
        AliasCommand::Name { address, name } => beside::alias_name(beside, address, name).await,
        AliasCommand::Label { address, label } => beside::alias_label(beside, address, label).await,
        AliasCommand::Expire { address, when } => beside::alias_expire(beside, address, when).await,
    }
}

/// One page for each command, as `man` reads them.
fn manual(dir: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| Failure(format!("cannot write manual pages to {}: {error}", dir.display())))
}

/// `postern bridge`.
pub async fn run_bridge(args: BridgeArgs) -> Result<(), Failure> {
    let settings = Settings::read(&args.dir)?;
    let is_nested = goes_nested(&args, &settings);
    if args.entry.is_none() {
        nesting::refuse_bare(&args.dir)?;
    }
    args.entry.as_deref().map_or(Ok(()), nesting::refuse_bare)?;
    if is_nested {
        nesting::refuse_pad(&args.dir)?;
    }
    cover::check(settings.cover, args.entry.is_some() || is_nested)?;
    let percent_max = settings.nested_percent_max.unwrap_or(nesting::PERCENT_MAX);
    if !(1..=100).contains(&percent_max) {
        return Err(Failure("nested_percent_max in bridge.toml is from 1 to 100".to_owned()));
    }
    let awaiting = || Awaiting::new(percent_max, settings.nested_relay.as_deref());
    let passphrase = args.passphrase.read()?;
    let entry = match &args.entry {
        Some(dir) => Some(EntryPack {
            dir: dir.clone(),
            passphrase: match &args.entry_passphrase_file {
                Some(file) => process::passphrase(file)?,
                None => passphrase.clone(),
            },
            stands_since: None,
        }),
        None => None,
    };
    let mut config = config(&args, &settings, passphrase.clone())?;
    config.entry = entry;
    let mut host = process::host(args.kill_at.as_deref())?;
    if dirs::is_on_medium(&args.dir) {
        host.resolver = Arc::new(ByServers);
    }
    let stop = process::stop_on_signals(args.stop_with_stdin);
    if is_nested {
        let Some(since) = nesting::run_until_made(&host, config, awaiting(), &stop).await? else {
            return Ok(());
        };
        config = self::config(&args, &settings, passphrase.clone())?;
        config.dir = nesting::far(&args.dir);
        config.entry = Some(EntryPack {
            dir: args.dir,
            passphrase,
            stands_since: Some(since),
        });
    }
    bridge::run(config, host, stop).await.map_err(Failure::from_error)
}

/// Whether mail goes over a second relay by itself: what was settled counts, unless the way is named, and `--any-route` names none.
fn goes_nested(args: &BridgeArgs, settings: &Settings) -> bool {
    settings.nested == Some(Nested::Auto) && !args.direct_now && args.entry.is_none()
}

/// A bridge of the pack in this folder, by itself.
fn config(args: &BridgeArgs, settings: &Settings, passphrase: Zeroizing<Vec<u8>>) -> Result<BridgeConfig, Failure> {
    let (smtp, imap) = (args.smtp.unwrap_or(settings.smtp), args.imap.unwrap_or(settings.imap));
    let page = args.page.or(settings.page);
    check_loopback(smtp)?;
    check_loopback(imap)?;
    page.map_or(Ok(()), check_loopback)?;
    let socks = args.socks.or(settings.socks);
    // The way through Tor is a long one.
    let patience = args.dial_timeout.unwrap_or(if socks.is_some() { 60.0 } else { 15.0 });
    Ok(BridgeConfig {
        passphrase,
        entry: None,
        awaiting: None,
        dir: args.dir.clone(),
        smtp,
        imap,
        hygiene: settings.hygiene(),
        page: page.map(|at| PageAt {
            at,
            // What was asked for by name is not to be somewhere else without a word.
            exactly: args.page.is_some(),
        }),
        any_route: args.any_route,
        directory: settings.directory()?,
        notices: settings.notices,
        holder: HolderConfig {
            relay_via: args.relay_via.clone(),
            socks,
            tick: Duration::from_secs_f64(args.tick),
            flight_timeout: Duration::from_secs_f64(patience),
            cover: settings.cover.map(Covered::new),
            ..HolderConfig::new(
                Address::parse(&format!("{}@localhost", settings.user))
                    .map_err(|_| Failure("the user in bridge.toml is no name for a mailbox".to_owned()))?,
            )
        },
        loops: settings.loops,
        user: settings.user.clone(),
        keep_used_keys: args.keep_used_keys,
    })
}

/// The password crosses these ports in the clear, so they never leave the machine.
fn check_loopback(at: SocketAddr) -> Result<(), Failure> {
    if at.ip().is_loopback() {
        Ok(())
    } else {
        Err(Failure(format!(
            "{at} is not on this machine: the ports for mail programs take 127.0.0.1 or [::1] only"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_the_way_declines_the_second_relay() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = "user = \"me\"\nsmtp = \"127.0.0.1:1\"\nimap = \"127.0.0.1:2\"\nnested = \"auto\"\n";
        std::fs::write(folder.path().join("bridge.toml"), text).expect("written");
        let settings = Settings::read(folder.path()).unwrap_or_else(|Failure(words)| panic!("{words}"));
        let is_nested = |words: &[&str]| match Cli::parse_from([&["postern", "run"], words].concat()).command {
            Command::Bridge(args) => goes_nested(&args, &settings),
            _ => panic!("another command"),
        };
        assert!(is_nested(&[]) && is_nested(&["--any-route"]));
        assert!(!is_nested(&["--direct-now"]) && !is_nested(&["--entry", "DIR"]));
    }
}
