//! `postern keypack list`, `inspect` and `passphrase`.

use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::pack::PassphraseCost;
use mailbox::StoreError;
use mailbox::holder::{PackFault, change_passphrase, glance, inspect, inspect_outside};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::beside::{activated, ends, rotation};
use super::super::passphrase::PassphraseArgs;
use super::super::process::{self, Failure};
use super::super::{dirs, nesting};
use crate::bridge::commands::Command;
use crate::control;
use crate::figures::{date, grouped};
use crate::net::{Host, system};

/// Arguments of `postern keypack list`.
#[derive(Args)]
pub(super) struct ListArgs {
    /// Data folders or media [default: the data folder and those beside it].
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `postern keypack inspect`.
#[derive(Args)]
pub(super) struct InspectArgs {
    /// A pack as it was issued.
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Ask for no passphrase: only whether it is a pack, and what a guess costs.
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
    sealed: bool,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `postern keypack passphrase`.
#[derive(Args)]
pub(super) struct ChangeArgs {
    /// A pack as it was issued, a data folder or a medium.
    file: PathBuf,
    /// The passphrase that opens it now.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// File with the new passphrase in its first line; asked for on a terminal without it.
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

/// Every pack that is known here, running or not.
pub(super) async fn list(args: &ListArgs) -> Result<(), Failure> {
    let host = system::host();
    let folders = match args.folders.is_empty() {
        true => known(&dirs::data()),
        false => args.folders.iter().map(|folder| store_in(folder)).collect(),
    };
    let is_secret_given = args.passphrase.passphrase_file.is_some() || args.passphrase.passphrase_fd.is_some();
    let passphrase = is_secret_given.then(|| args.passphrase.read()).transpose()?;
    let mut rows = Vec::new();
    for folder in &folders {
        rows.push(row(&host, folder, passphrase.as_deref().map(Vec::as_slice)).await);
    }
    if args.json {
        println!("{}", json!({ "packs": rows }));
        return Ok(());
    }
    if rows.is_empty() {
        println!("no pack is known here: make a folder from one with 'postern init'");
    }
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap_or("unknown").to_owned();
        let number = |key: &str| row[key].as_u64().map_or("unknown".to_owned(), grouped);
        println!("{}  ({})", text("folder"), text("state"));
        if row["relay"].is_string() {
            println!("  relay    {}", text("relay"));
        }
        if row["balance"].is_u64() {
            println!("  balance  {} µtok, keys left {}", number("balance"), number("keys"));
        }
        if row["root"].is_u64() {
            println!("  active   {}", activated(row));
            println!("  rotation a new key with each {}", rotation(&row["rotation"]));
        }
        if let Some(words) = ends(row) {
            println!("  ends     {words}");
        }
    }
    Ok(())
}

/// The data folder and those beside it, as far as they are stores.
fn known(data: &Path) -> Vec<PathBuf> {
    let beside = data.parent().map(std::fs::read_dir);
    let entries = beside.into_iter().flatten().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path == data || is_store(path))
        .filter(|path| is_store(path))
        .collect();
    folders.sort();
    folders
}

fn is_store(folder: &Path) -> bool {
    folder.join("header").is_file() && folder.join("slots").is_file()
}

/// A data folder, or the one on a medium.
fn store_in(folder: &Path) -> PathBuf {
    let data = folder.join(dirs::MEDIUM_DATA);
    if is_store(&data) { data } else { folder.to_owned() }
}

async fn row(host: &Host, folder: &Path, passphrase: Option<&[u8]>) -> Value {
    let shown = folder.display().to_string();
    if let Ok(status) = control::ask(host, folder, &Command::Status).await {
        return json!({
            "folder": shown, "state": status["state"], "relay": status["relay"], "balance": status["balance"],
            "keys": status["keys"], "identifier": status["identifier"], "heard": status["heard"],
            "root": status["root"], "rerooting": status["rerooting"], "rotation": status["rotation"],
            "expires": status["expires"], "ended": status["ended"],
        });
    }
    let state = |words: &str| json!({ "folder": shown, "state": words });
    if !is_store(folder) {
        return state(match folder.join("header.moved").exists() {
            true => "its move to another place was cut off",
            false => "no pack",
        });
    }
    let Some(passphrase) = passphrase else {
        return state("sealed: give its passphrase for more");
    };
    match glance(&host.disk, folder, passphrase, &host.entropy) {
        Ok(seen) => json!({
            "folder": shown, "state": "not running", "relay": seen.facts.relay_domain, "balance": seen.value.balance,
            "keys": seen.value.keys, "identifier": seen.facts.identifier.to_text(), "heard": seen.value.at,
            "root": seen.root, "rotation": seen.facts.rotation.to_string(),
            "expires": seen.expires, "ended": seen.expires.is_some_and(|day| day <= host.day()),
        }),
        Err(StoreError::Passphrase) => state("sealed under another passphrase"),
        Err(error) => state(&error.to_string()),
    }
}

/// What a pack is, without a secret.
pub(super) fn look(args: &InspectArgs) -> Result<(), Failure> {
    let host = system::host();
    let failed = |fault: PackFault| Failure(format!("{}: {fault}", args.file.display()));
    let outside = inspect_outside(&*host.disk, &args.file).map_err(failed)?;
    let (outside, issue) = match args.sealed {
        true => (outside, None),
        false => {
            let (outside, issue) = inspect(&*host.disk, &args.file, &args.passphrase.read()?).map_err(failed)?;
            (outside, Some(issue))
        }
    };
    let mut answer = json!({
        "memory_kib": outside.cost.memory_kib, "passes": outside.cost.passes, "damaged": outside.damaged,
    });
    if let Some(issue) = &issue {
        answer["identifier"] = issue.identifier.to_text().into();
        answer["relay"] = issue.relay_address.clone().into();
        answer["domain"] = issue.relay_domain.clone().into();
        answer["keys"] = issue.link_keys.into();
        answer["rotation"] = issue.rotation.to_string().into();
        answer["day"] = issue.day.into();
        answer["aliases"] = issue.aliases.clone().into();
    }
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    if let Some(issue) = &issue {
        println!("pack      {}", issue.identifier.to_text());
        println!("relay     {} for {}", issue.relay_address, issue.relay_domain);
        println!(
            "mode      keys, {} of them, one for each {}",
            grouped(issue.link_keys),
            rotation(&answer["rotation"])
        );
        println!("issued    {}", date(issue.day));
        println!("state     not taken in yet");
    }
    println!(
        "guesses   {} MiB of memory and {} passes of Argon2id each",
        outside.cost.memory_kib / 1_024,
        outside.cost.passes
    );
    for copy in &outside.damaged {
        println!("damaged   {copy}: the other copy is whole; take the pack in soon");
    }
    Ok(())
}

/// Puts the file key under another passphrase.
pub(super) fn change(args: &ChangeArgs) -> Result<(), Failure> {
    let host = system::host();
    let path = match args.file.is_dir() {
        true => store_in(&args.file).join("header"),
        false => args.file.clone(),
    };
    let old = args.passphrase.read()?;
    let new = match &args.new_passphrase_file {
        Some(path) => process::passphrase(path)?,
        None => ask_twice()?,
    };
    let change = |path: &Path| {
        change_passphrase(&*host.disk, path, &old, &new, PassphraseCost::DEFAULT, &*host.entropy)
            .map_err(|fault| (fault, Failure(format!("{}: {fault}", path.display()))))
    };
    let opens = |path: &Path, passphrase: &[u8]| {
        let cost = PassphraseCost::DEFAULT;
        change_passphrase(&*host.disk, path, passphrase, passphrase, cost, &*host.entropy).is_ok()
    };
    // The bridge opens the pack that it bought with the passphrase of the first one, so that both are changed.
    let folder = path.parent().filter(|_| args.file.is_dir());
    let far = folder.map(|folder| nesting::far(folder).join("header"));
    if let Some(folder) = folder
        && let Some(bought) = nesting::found(folder).filter(|bought| !bought.is_dir())
    {
        return Err(Failure(format!(
            "a pack at a second relay is being bought, under this passphrase: change it when {} is gone",
            bought.display()
        )));
    }
    if let Some(far) = far.filter(|far| far.is_file()) {
        match change(&far).map_err(|(fault, failure)| (matches!(fault, PackFault::Passphrase), failure)) {
            Ok(()) => {}
            // Changed already, by a try that was cut off; if to another one, both would have their own from now on.
            Err((true, _)) if opens(&far, &new) => {}
            Err((true, _)) => {
                return Err(Failure(format!(
                    "{} opens neither with the passphrase that is in force nor with the new one: give the new one that an earlier try was \
                     given, and change it again after that",
                    far.display()
                )));
            }
            Err((false, failure)) => return Err(failure),
        }
    }
    change(&path).map_err(|(_, failure)| failure)?;
    println!("The new passphrase opens it. Copies that were made before still open with the old one.");
    Ok(())
}

fn ask_twice() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let ask = |question: &str| {
        let typed = rpassword::prompt_password(question).map(Zeroizing::new);
        let typed = typed.map_err(|error| Failure(format!("cannot read the passphrase from the terminal: {error}")))?;
        process::first_line(typed.as_bytes()).ok_or_else(|| Failure("the passphrase is empty".to_owned()))
    };
    let new = ask("New passphrase: ")?;
    if new != ask("The same again: ")? {
        return Err(Failure("the two are not the same: nothing was changed".to_owned()));
    }
    Ok(new)
}
