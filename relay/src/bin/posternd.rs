//! `posternd`: the relay, and its operator's commands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use relay::config::RelayConfig;
use relay::hexadecimal;
use relay::operator::{Command as Order, IssuedPack};
use relay::packfile::Draft;
use relay::quickstart::{self, Options};
use serde_json::{Value, json};
use smtp_bridge::cli::process::{self, Failure};
use smtp_bridge::cli::{self, BridgeArgs};
use smtp_bridge::control;
use smtp_bridge::net::system;

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// An anonymous, encrypted, prepaid email relay.
#[derive(Parser)]
#[command(name = "posternd", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try everything on this machine: a relay and two people with a bridge each.
    Quickstart(QuickstartArgs),
    /// Run a relay.
    Run(RunArgs),
    /// Check a configuration and say what it means.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
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
    /// Deliveries waiting, without identifiers.
    Queue(BesideArgs),
    /// Postings of one account.
    Statement {
        #[command(flatten)]
        beside: BesideArgs,
        /// The pack's identifier, as 'postern status' shows it.
        #[arg(long)]
        account: String,
    },
    /// A bridge, as 'postern bridge' runs it.
    #[command(hide = true)]
    Bridge(BridgeArgs),
}

#[derive(Args)]
struct QuickstartArgs {
    /// Folder for all data: DIR/relay, DIR/a and DIR/b.
    #[arg(long, value_name = "DIR", default_value = "postern-quickstart")]
    dir: PathBuf,
    /// Port of the relay's link server.
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
    /// Let the bridges dial this instead of the relay: a proxy that records, for instance.
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
    /// This pack receives the mail for postmaster and abuse.
    #[arg(long)]
    operator: bool,
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

fn main() -> ExitCode {
    let command = Cli::parse().command;
    process::run("posternd=info,relay=info,smtp_bridge=info,mailbox=info", || async {
        match command {
            Command::Quickstart(args) => quickstart(args).await,
            Command::Run(args) => run(args).await,
            Command::Check { config } => check(&config),
            Command::Pack(PackCommand::Issue(args)) => issue(args).await,
            Command::Topup(args) => top_up(args).await,
            Command::Totals(args) => ask(&args, &Order::Totals, sums).await.map(|_| ()),
            Command::Audit(args) => audit(&args, &Order::Audit).await,
            Command::Verify(args) => audit(&args, &Order::Verify).await,
            Command::Backup { beside, to } => backup(&beside, &to).await,
            Command::Queue(args) => ask(&args, &Order::Queue, |answer| {
                rows(answer, &["id", "attempts", "due", "kilobytes"], "the queue is empty")
            })
            .await
            .map(|_| ()),
            Command::Statement { beside, account } => ask(&beside, &Order::Statement { account }, |answer| {
                rows(answer, &["day", "kind", "credit", "debit"], "no postings")
            })
            .await
            .map(|_| ()),
            Command::Bridge(args) => cli::run_bridge(args).await,
        }
    })
}

async fn quickstart(args: QuickstartArgs) -> Result<(), Failure> {
    let options = Options {
        dir: args.dir,
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

async fn run(args: RunArgs) -> Result<(), Failure> {
    let config = RelayConfig::read(&args.config).map_err(Failure::from_error)?;
    let host = process::host(args.kill_at.as_deref())?;
    relay::run(config, host, process::stop_on_signals(args.stop_with_stdin))
        .await
        .map_err(Failure::from_error)
}

fn check(path: &std::path::Path) -> Result<(), Failure> {
    let config = RelayConfig::read(path).map_err(Failure::from_error)?;
    println!(
        "{} is valid: links at {}, MX for {} at {}, status at http://{}/",
        path.display(),
        config.link,
        config.domain,
        config.mx,
        config.status
    );
    match &config.smarthost {
        Some(smarthost) => println!("mail for other domains goes to {smarthost}"),
        None => println!("mail for other domains is refused, as there is no smarthost"),
    }
    Ok(())
}

async fn issue(args: IssueArgs) -> Result<(), Failure> {
    let passphrase = process::passphrase(&args.passphrase_file)?;
    let host = system::host();
    let failed = |error| Failure(format!("cannot write {}: {error}", args.out.display()));
    let draft = Draft::begin(&host, &args.out).map_err(failed)?;
    let order = Order::Issue {
        keys: args.keys,
        value: args.value,
        operator: args.operator,
    };
    let answer = match control::ask(&host, &args.beside.data, &order).await {
        Ok(answer) => answer,
        Err(refused) => {
            draft.abandon(&host);
            return Err(refused.into());
        }
    };
    let issued: IssuedPack =
        serde_json::from_value(answer).map_err(|_| Failure("the relay gave an unreadable answer".into()))?;
    draft.finish(&host, &issued, args.keys, &passphrase).map_err(failed)?;
    let (out, identifier) = (args.out.display(), &issued.identifier);
    if args.beside.json {
        let shown = json!({ "pack": args.out, "identifier": identifier, "keys": args.keys, "value": args.value });
        println!("{shown}");
    } else {
        println!(
            "{out} holds {} keys and {} µtok; its identifier is {identifier}",
            args.keys, args.value
        );
        println!("Its holder runs: postern init --pack {out} --dir DIR --passphrase-file FILE");
    }
    Ok(())
}

async fn top_up(args: TopUpArgs) -> Result<(), Failure> {
    let id = args
        .id
        .unwrap_or_else(|| hexadecimal::encode(&system::host().random::<16>()));
    let order = Order::TopUp {
        account: args.account,
        amount: args.amount,
        id,
    };
    ask(&args.beside, &order, |answer| {
        format!("balance {} µtok", answer["balance"])
    })
    .await
    .map(|_| ())
}

async fn backup(args: &BesideArgs, to: &Path) -> Result<(), Failure> {
    // The relay writes it, from a working folder of its own.
    let folder = std::path::absolute(to).map_err(|error| Failure(format!("{}: {error}", to.display())))?;
    ask(args, &Order::Backup { folder }, |answer| {
        format!(
            "copied {} rows and {} bodies ({} bytes); it opens beside this relay's key files alone",
            answer["rows"], answer["bodies"], answer["bytes"]
        )
    })
    .await
    .map(|_| ())
}

/// Runs an audit or a verification.
async fn audit(args: &BesideArgs, order: &Order) -> Result<(), Failure> {
    let answer = ask(args, order, |answer| {
        let findings: Vec<String> = answer["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|finding| format!("\n{}", finding.as_str().unwrap_or_default()))
            .collect();
        let read = match &answer["rows"] {
            Value::Null => String::new(),
            rows => format!(
                "\nread {rows} rows, {} bodies, {} key slots, {} records of the log ({} bytes)",
                answer["bodies"], answer["slots"], answer["records"], answer["bytes"]
            ),
        };
        format!(
            "{}{read}{}",
            sums(&answer["totals"]),
            if findings.is_empty() {
                "\nno contradiction".to_owned()
            } else {
                findings.concat()
            }
        )
    })
    .await?;
    match answer["findings"].as_array() {
        Some(findings) if findings.is_empty() => Ok(()),
        _ => Err(Failure(
            "the books contradict themselves: stop the relay, keep a copy of its data folder, and report this"
                .to_owned(),
        )),
    }
}

async fn ask(args: &BesideArgs, order: &Order, text: impl FnOnce(&Value) -> String) -> Result<Value, Failure> {
    let answer = control::ask(&system::host(), &args.data, order).await?;
    if args.json {
        println!("{answer}")
    } else {
        println!("{}", text(&answer).trim_end())
    }
    Ok(answer)
}

fn sums(totals: &Value) -> String {
    let rows = totals
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name:<12} {value}\n"));
    rows.collect()
}

fn rows(answer: &Value, columns: &[&str], none: &str) -> String {
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return none.to_owned();
    }
    let line = |cells: Vec<String>| {
        cells
            .iter()
            .map(|cell| format!("{cell:<18}"))
            .collect::<String>()
            .trim_end()
            .to_owned()
            + "\n"
    };
    let head = line(columns.iter().map(|column| (*column).to_owned()).collect());
    let body = rows.iter().map(|row| {
        line(
            columns
                .iter()
                .map(|column| {
                    row[*column]
                        .as_str()
                        .map_or_else(|| row[*column].to_string(), str::to_owned)
                })
                .collect(),
        )
    });
    head + &body.collect::<String>()
}
