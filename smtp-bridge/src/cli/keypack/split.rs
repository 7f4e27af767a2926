//! `postern keypack split` and `gift`: a new pack of some of this one's keys and value.
//!
//! ```text
//! FILE.part written and synced -> the relay moves keys and value -> FILE.part is renamed to FILE
//! ```
//!
//! The root is drawn here. Whatever is cut off, the same command goes on from FILE.part: the relay knows the order again by
//! root and identifier, and moves nothing twice.

use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::Secret;
use keypacks::pack::{ALIASES_MAX, Identifier, Issue, NAME_BYTES_MAX, PassphraseCost};
use mailbox::holder::inspect;
use serde_json::Value;

use super::super::dirs;
use super::super::init::shell;
use super::super::passphrase::PassphraseArgs;
use super::super::process::Failure;
use super::portable::put_new;
use super::wipe::wipe_file;
use crate::bridge::commands::{Command, from_base64};
use crate::control;
use crate::figures::grouped;
use crate::message::base64;
use crate::net::{Host, system};

/// Arguments of `postern keypack split` and `gift`.
#[derive(Args)]
pub(super) struct SplitArgs {
    /// File of the new pack.
    file: PathBuf,
    /// Link keys that move to it, at least 16; as many must stay.
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..))]
    keys: u64,
    /// Value that moves to it, in µtok.
    #[arg(long, default_value_t = 0)]
    value: u64,
    /// Data folder of the running bridge that gives.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// The passphrase of the new pack.
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) async fn split(args: &SplitArgs) -> Result<(), Failure> {
    make(&Order::of(args)).await?;
    println!(
        "Take it in with:\n  postern init --pack {} --dir NEW-FOLDER",
        shell(&args.file)
    );
    println!("The relay knows which pack it came from. Nobody else can tell.");
    Ok(())
}

pub(super) async fn gift(args: &SplitArgs) -> Result<(), Failure> {
    make(&Order::of(args)).await?;
    println!(
        "Hand over the file and, by another way, its passphrase; then destroy yours:\n  postern keypack panic-wipe {}",
        shell(&args.file)
    );
    println!(
        "Whoever takes it in cannot know that you kept no copy, and a copy reads and spends what the pack does: whoever does \
         not rely on you merges it into a pack of their own at once. The relay knows which pack it came from."
    );
    Ok(())
}

/// A pack that is to be made: of what, and where.
pub(super) struct Order<'a> {
    pub(super) file: &'a Path,
    pub(super) keys: u64,
    pub(super) value: u64,
    /// Data folder of the bridge that gives.
    pub(super) dir: &'a Path,
    pub(super) passphrase: &'a PassphraseArgs,
    /// Whether it is to have the giver's account, instead of one of its own.
    pub(super) joins: bool,
}

impl<'a> Order<'a> {
    fn of(args: &'a SplitArgs) -> Self {
        Self {
            file: &args.file,
            keys: args.keys,
            value: args.value,
            dir: &args.dir,
            passphrase: &args.passphrase,
            joins: false,
        }
    }
}

pub(super) async fn make(args: &Order<'_>) -> Result<(), Failure> {
    let host = system::host();
    if args.file.exists() {
        return Err(Failure(format!(
            "{} is there already, and may be somebody's pack: choose another name",
            args.file.display()
        )));
    }
    let mut part = args.file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let passphrase = args.passphrase.read()?;
    let resumed = part.exists();
    let issue = match resumed {
        true => resume(&host, &part, &passphrase)?,
        false => draft(&host, args, &part, &passphrase).await?,
    };
    if issue.link_keys != args.keys {
        return Err(Failure(format!(
            "{} was begun with {} keys: give the same number, or remove it if nothing of it was sent",
            part.display(),
            issue.link_keys
        )));
    }
    let (identifier, root, keys) = (issue.identifier.to_text(), text(issue.root.expose()), issue.link_keys);
    let order = match args.joins {
        true => Command::Device {
            identifier,
            root,
            keys,
            resumed,
        },
        false => Command::Split {
            identifier,
            root,
            keys,
            value: args.value,
            resumed,
        },
    };
    let answer = control::ask(&host, args.dir, &order).await.map_err(|error| {
        Failure(format!(
            "{error}. {} is kept: give the same command again to go on",
            part.display()
        ))
    })?;
    if answer["moved"] != true {
        let reason = answer["reason"].as_str().unwrap_or("the relay refused");
        if resumed || answer["certain"] != true {
            return Err(Failure(format!(
                "{reason}. {} is kept, as an earlier try may have moved keys to it: look at 'postern statement', and remove it only if nothing was given",
                part.display()
            )));
        }
        // No relay knows this pack.
        let _ = wipe_file(&part);
        return Err(Failure(format!("nothing was moved: {reason}")));
    }
    let failed = |error| Failure(format!("cannot rename {}: {error}", part.display()));
    host.disk.rename(&part, args.file).map_err(failed)?;
    let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty());
    host.disk.sync_dir(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    if !args.joins {
        println!(
            "{} is a pack of {} keys and {} µtok.",
            args.file.display(),
            grouped(args.keys),
            grouped(args.value)
        );
    }
    Ok(())
}

/// A pack that no relay knows yet, on the disk.
async fn draft(host: &Host, args: &Order<'_>, part: &Path, passphrase: &[u8]) -> Result<Issue, Failure> {
    let facts = control::ask(host, args.dir, &Command::PackFacts).await?;
    if facts["pad"] == true {
        return Err(Failure(
            "this pack's links are under a pad, which cannot be split or shared".to_owned(),
        ));
    }
    let issue = issue(host, &facts, (args.keys, args.joins))
        .ok_or_else(|| Failure("the running bridge gave an unreadable answer".into()))?;
    let file = issue.to_file(passphrase, PassphraseCost::DEFAULT, |out| host.entropy.fill(out));
    let file = file.map_err(Failure::from_error)?;
    put_new(part, &file).map_err(|error| Failure(format!("cannot write {}: {error}", part.display())))?;
    Ok(issue)
}

/// A pack that an earlier try wrote.
fn resume(host: &Host, part: &Path, passphrase: &[u8]) -> Result<Issue, Failure> {
    let (_, issue) = inspect(&*host.disk, part, passphrase)
        .map_err(|fault| Failure(format!("{}, left by an earlier try: {fault}", part.display())))?;
    Ok(issue)
}

fn issue(host: &Host, facts: &Value, (link_keys, joins): (u64, bool)) -> Option<Issue> {
    let words = |name: &str| facts[name].as_str().map(str::to_owned);
    // Enough to begin with: the relay tells a device of all of them.
    let addresses = facts["aliases"].as_array().filter(|_| joins).into_iter().flatten();
    let aliases = addresses.filter_map(|address| Some(address.as_str()?.to_owned()));
    let aliases = aliases
        .filter(|address| address.len() <= NAME_BYTES_MAX)
        .take(ALIASES_MAX);
    Some(Issue {
        identifier: Identifier(host.random()),
        relay_public: from_base64(&words("relay_public")?)?.try_into().ok()?,
        link_keys,
        root: Secret::new(host.random()),
        day: facts["day"].as_u64()?.try_into().ok()?,
        relay_address: words("relay_address")?,
        relay_domain: words("relay_domain")?,
        aliases: aliases.collect(),
        rotation: words("rotation")?.parse().ok()?,
        pad: None,
    })
}

pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64(bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}
