//! Other relays: packs for them, packs from them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mailbox::holder::Initialised;
use serde_json::{Value, json};
use smtp_bridge::cli::process::{self, Failure};
use smtp_bridge::control;
use smtp_bridge::net::system;

use super::BesideArgs;
use super::beside::{ask, rows};
use crate::hexadecimal;
use crate::operator::{Command as Order, IssuedPack};
use crate::packfile::Draft;
use crate::peers;

#[derive(Subcommand)]
pub(super) enum PeerCommand {
    /// Issue a pack for another relay, which may then send for its domains, and write it to a file.
    Invite(InviteArgs),
    /// Take a pack that another relay issued for this one. Mail goes by it where a route of the configuration says so.
    Accept(AcceptArgs),
    /// Let a peer's pack send for a domain more.
    Allow(DomainArgs),
    /// Let a peer's pack no longer send for a domain. What it sends for it is refused from now on.
    Forbid(DomainArgs),
    /// Let a peer's pack draw value and keys on credit, up to a limit.
    Credit(CreditArgs),
    /// Post that a peer has paid so much of what its pack here owes, or set it off.
    Paid(PaidArgs),
    /// Hold what this relay noted of what it paid at a peer against the peer's book; exit status 1 if they differ.
    Compare(NameArgs),
    /// Use a peer again that debited more than its price, or accept its prices where they rose too far; else look for where it stands with the pack held there, if it stays
    /// silent because somebody else has used the pack.
    Resume(NameArgs),
    /// Show the packs held at other relays: link, value, keys and credit left, messages under way, and whether the books agree.
    List(BesideArgs),
}

#[derive(Args)]
pub(super) struct InviteArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// A domain whose addresses the peer may send for; '*' for every domain but this relay's own, where it passes on what
    /// others send. May be given several times.
    #[arg(long = "for", value_name = "DOMAIN", required = true)]
    domains: Vec<String>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of link keys: each completed connection uses one.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Value in µtok.
    #[arg(long, value_name = "µTOK")]
    value: u64,
    /// File with the passphrase for the pack in its first line.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

#[derive(Args)]
pub(super) struct AcceptArgs {
    /// The pack as the other relay issued it.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// Data folder of this relay.
    #[arg(long, alias = "dir", value_name = "DIR")]
    data: PathBuf,
    /// What routes call it: lower-case letters, digits and hyphens.
    #[arg(long)]
    name: String,
    /// File with the pack's passphrase in its first line. The relay keeps a copy, to open the pack when it starts.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

#[derive(Args)]
pub(super) struct DomainArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Identifier of the peer's pack, as 'peer invite' showed it.
    #[arg(long)]
    account: String,
    /// The domain, or '*'.
    #[arg(value_name = "DOMAIN")]
    domain: String,
}

#[derive(Args)]
pub(super) struct CreditArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Identifier of the peer's pack, as 'peer invite' showed it.
    #[arg(long)]
    account: String,
    /// Most that it may owe at one time; 0 grants nothing more.
    #[arg(long, value_name = "µTOK")]
    limit: u64,
}

#[derive(Args)]
pub(super) struct PaidArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Identifier of the peer's pack, as 'peer invite' showed it.
    #[arg(long)]
    account: String,
    /// How much was paid or set off, in µtok.
    #[arg(long, value_name = "µTOK")]
    amount: u64,
    /// 32 hexadecimal digits naming the payment: the same id counts once. Random where it is missing.
    #[arg(long, value_name = "HEX")]
    id: Option<String>,
}

#[derive(Args)]
pub(super) struct NameArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// The peer's name, as routes call it.
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Invite(args) => invite(args).await,
        PeerCommand::Accept(args) => accept(&args),
        PeerCommand::Allow(args) => speak_for(args, true).await,
        PeerCommand::Forbid(args) => speak_for(args, false).await,
        PeerCommand::Credit(args) => {
            let order = Order::Credit {
                account: args.account,
                limit: args.limit,
            };
            let text = |answer: &Value| format!("the pack may owe {} µtok", answer["limit"]);
            ask(&args.beside, &order, text).await.map(|_| ())
        }
        PeerCommand::Paid(args) => {
            let order = Order::Settle {
                account: args.account,
                amount: args.amount,
                id: args
                    .id
                    .unwrap_or_else(|| hexadecimal::encode(&system::host().random::<16>())),
            };
            let text = |answer: &Value| {
                format!(
                    "the pack owes {} µtok and may draw {} more",
                    answer["owed"], answer["left"]
                )
            };
            ask(&args.beside, &order, text).await.map(|_| ())
        }
        PeerCommand::Compare(args) => compare(&args).await,
        PeerCommand::Resume(args) => {
            let order = Order::PeerResume { name: args.name };
            let text = |answer: &Value| match answer["linked"].as_bool() {
                _ if answer["used"] == true => {
                    "the peer is used again, until it debits more than its price once more, or its prices rise too far"
                        .to_owned()
                }
                Some(true) => "the link stands again; see the log for whether a copy of the pack is in use".to_owned(),
                _ => "not found yet: it is looked for until the link stands, see 'posternd peer list'".to_owned(),
            };
            ask(&args.beside, &order, text).await.map(|_| ())
        }
        PeerCommand::List(args) => {
            let columns = [
                "name", "link", "balance", "keys", "waiting", "credit", "dropped", "beyond", "dear", "books",
                "compared",
            ];
            let text = |answer: &_| rows(answer, &columns, "no route goes by a peer");
            ask(&args, &Order::Peers, text).await.map(|_| ())
        }
    }
}

async fn invite(args: InviteArgs) -> Result<(), Failure> {
    let passphrase = process::passphrase(&args.passphrase_file)?;
    let host = system::host();
    let failed = |error| Failure(format!("cannot write {}: {error}", args.out.display()));
    let draft = Draft::begin(&host, &args.out).map_err(failed)?;
    let order = Order::Issue {
        keys: args.keys,
        value: args.value,
        operator: false,
        rotate: String::new(),
        pad: None,
        half: None,
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
    for domain in &args.domains {
        let order = Order::SpeakFor {
            account: identifier.clone(),
            domain: domain.clone(),
            speaks: true,
        };
        control::ask(&host, &args.beside.data, &order)
            .await
            .map_err(|refused| {
                let again = format!("posternd peer allow --account {identifier}");
                Failure(format!(
                    "{out} is issued, and does not speak for {domain}: {refused}. Say it once more: {again}"
                ))
            })?;
    }
    if args.beside.json {
        println!(
            "{}",
            json!({ "pack": args.out, "identifier": identifier, "keys": args.keys, "value": args.value, "for": args.domains })
        );
    } else {
        println!(
            "{out} holds {} keys and {} µtok; its identifier is {identifier}",
            args.keys, args.value
        );
        println!("It sends for: {}", args.domains.join(", "));
        println!(
            "The other relay's operator runs: posternd peer accept {out} --data DIR --name NAME --passphrase-file FILE"
        );
    }
    Ok(())
}

fn accept(args: &AcceptArgs) -> Result<(), Failure> {
    let passphrase = process::passphrase(&args.passphrase_file)?;
    let name = &args.name;
    let (folder, _) = peers::paths(&args.data, name);
    match peers::accept(&system::host(), &args.data, name, &args.pack, &passphrase)? {
        Initialised::New => println!("The pack is in {}; the file has no keys any more.", folder.display()),
        Initialised::Already => println!("The pack was in {} before.", folder.display()),
    }
    println!(
        "Name it in the configuration, as in [routes] \"far.example\" = \"peer:{name}\", or in peers of [procure], and start the relay anew."
    );
    Ok(())
}

async fn compare(args: &NameArgs) -> Result<(), Failure> {
    let order = Order::PeerCompare {
        name: args.name.clone(),
    };
    let columns = ["what", "own_count", "own", "peer_count", "peer", "verdict"];
    let text = |answer: &Value| {
        let mut text = rows(answer, &columns, "nothing was paid");
        if answer["whole"] != true {
            text += "this relay's own book does not go back to the first message: what came before is not compared\n";
        }
        if answer["beyond"] != 0 {
            text += &format!(
                "messages were debited {} µtok more than the peer's prices said\n",
                answer["beyond"]
            );
        }
        text
    };
    let answer = ask(&args.beside, &order, text).await?;
    match answer["differs"].as_bool() {
        Some(false) => Ok(()),
        _ => Err(Failure(
            "the books differ: keep this report, and ask the peer's operator for 'posternd statement' of the pack"
                .to_owned(),
        )),
    }
}

async fn speak_for(args: DomainArgs, speaks: bool) -> Result<(), Failure> {
    let DomainArgs {
        beside,
        account,
        domain,
    } = args;
    let said = if speaks {
        format!("the pack sends for {domain}")
    } else {
        format!("the pack does not send for {domain}")
    };
    let order = Order::SpeakFor {
        account,
        domain,
        speaks,
    };
    ask(&beside, &order, |_| said).await.map(|_| ())
}
