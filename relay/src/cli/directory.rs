//! The directory of a federation: keys of its signers, descriptors of its relays, the list that goes from signer to signer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keypacks::Secret;
use keypacks::directory::{Descriptor, DirectoryKey, Exit, List, Pin, PublicKey, Signed};
use serde_json::Value;
use smtp_bridge::cli::process::Failure;
use smtp_bridge::net::system;
use zeroize::Zeroizing;

use super::BesideArgs;
use super::beside::ask;
use crate::operator::Command as Order;

#[derive(Subcommand)]
pub(super) enum DirectoryCommand {
    /// Make a signer's key, and print its public half.
    ///
    /// Whoever has the file signs in its owner's name. Keep it away from any relay, and a copy in a safe place.
    Key {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print what holders are given to go by: the public keys of all signers, and how many of them must have signed.
    Keys {
        /// How many must have signed.
        #[arg(long, value_name = "K")]
        threshold: usize,
        /// Public keys, as 'directory key' printed them.
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Print what the directory is to say of this relay, as its configuration has it.
    Describe(BesideArgs),
    /// Sign a list; with descriptors, make it first.
    ///
    /// The file goes from signer to signer, and with enough signatures to the relays.
    Sign(SignArgs),
    /// Show what stands in a list, and who signed it.
    Show {
        /// The list.
        #[arg(value_name = "LIST")]
        list: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct SignArgs {
    /// The list.
    #[arg(value_name = "LIST")]
    list: PathBuf,
    /// The signer's key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A descriptor, as 'directory describe' printed it, for a new list of these. May be given several times.
    #[arg(long = "relay", value_name = "FILE", requires = "serial")]
    relays: Vec<PathBuf>,
    /// Number of the new list: higher than that of any before.
    #[arg(long, value_name = "N", requires = "relays")]
    serial: Option<u64>,
    /// First UTC day of the new list, counted from 1970-01-01 [default: today].
    #[arg(long, value_name = "DAY", requires = "serial")]
    from: Option<u32>,
    /// Days behind the first one on which it still counts. Holders are told when there was no newer one for a week.
    #[arg(long, value_name = "N", default_value_t = 14)]
    days: u32,
}

pub(super) async fn run(command: DirectoryCommand) -> Result<(), Failure> {
    match command {
        DirectoryCommand::Key { out } => make_key(&out),
        DirectoryCommand::Keys { threshold, keys } => pin(threshold, &keys),
        DirectoryCommand::Describe(args) => {
            let text = |answer: &Value| answer["descriptor"].as_str().unwrap_or_default().to_owned();
            ask(&args, &Order::Describe, text).await.map(|_| ())
        }
        DirectoryCommand::Sign(args) => sign(&args),
        DirectoryCommand::Show { list } => {
            print!("{}", in_words(&read_list(&list)?));
            Ok(())
        }
    }
}

fn make_key(out: &Path) -> Result<(), Failure> {
    let key = DirectoryKey::new(Secret::new(system::host().random()));
    let failed = |error: io::Error| Failure(format!("cannot write {}: {error}", out.display()));
    let mut text = key.to_text();
    text.push('\n');
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    sync_folder(out).map_err(failed)?;
    println!("{}", key.public().to_text());
    Ok(())
}

fn pin(threshold: usize, keys: &[String]) -> Result<(), Failure> {
    let keys = keys.iter().map(|key| {
        PublicKey::parse(key).map_err(|_| Failure(format!("{key} is no directory key: there is a slip in it")))
    });
    let pin = Pin::new(threshold, keys.collect::<Result<_, _>>()?);
    let pin = pin.map_err(|_| {
        Failure("name 1 to 16 keys, each once, and a threshold from 1 to as many as there are".to_owned())
    })?;
    println!("{}", pin.to_text());
    Ok(())
}

fn sign(args: &SignArgs) -> Result<(), Failure> {
    let shown = args.key.display();
    let text = fs::read_to_string(&args.key).map(Zeroizing::new);
    let text = text.map_err(|error| Failure(format!("cannot read {shown}: {error}")))?;
    let key = DirectoryKey::parse(&text).map_err(|_| {
        Failure(format!(
            "{shown} is no directory key, as 'posternd directory key' makes it"
        ))
    })?;
    let mut signed = match args.serial {
        Some(serial) => compose(args, serial)?,
        None => read_list(&args.list)?,
    };
    if let Some((by, _)) = signed
        .signatures()
        .iter()
        .find(|(by, _)| *by != key.public() && !fits(&signed, *by))
    {
        return Err(Failure(format!(
            "the signature by {} does not fit the list: it was altered behind its signer, and is not signed",
            by.to_text()
        )));
    }
    signed
        .sign(&key)
        .map_err(|_| Failure("it has as many signatures as a list may have".to_owned()))?;
    write_list(&args.list, &signed)
        .map_err(|error| Failure(format!("cannot write {}: {error}", args.list.display())))?;
    print!("{}", in_words(&signed));
    Ok(())
}

/// A new list, which takes the place of no newer one.
fn compose(args: &SignArgs, serial: u64) -> Result<Signed, Failure> {
    if args.list.exists() && read_list(&args.list)?.list().serial >= serial {
        return Err(Failure(format!(
            "{} has this number or a higher one: without descriptors it is signed as it is",
            args.list.display()
        )));
    }
    let mut relays = Vec::new();
    for path in &args.relays {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| Failure(format!("cannot read {shown}: {error}")))?;
        relays.push(Descriptor::parse(&text).map_err(|_| {
            Failure(format!(
                "{shown} is no descriptor, as 'posternd directory describe' prints it"
            ))
        })?);
    }
    relays.sort_by(|one, other| one.card.domain.cmp(&other.card.domain));
    let from = args.from.unwrap_or_else(|| system::host().day());
    let list = List {
        serial,
        from,
        until: from.saturating_add(args.days),
        relays,
    };
    Signed::new(list).map_err(|_| Failure("a relay stands there twice, or there are too many".to_owned()))
}

fn read_list(path: &Path) -> Result<Signed, Failure> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| Failure(format!("cannot read {shown}: {error}")))?;
    Signed::parse(&text).map_err(|_| Failure(format!("{shown} is no directory")))
}

/// Whoever serves it finds the old one or the new one.
fn write_list(path: &Path, signed: &Signed) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = File::create(&fresh)?;
    file.write_all(signed.to_text().as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What is signed, as a signer should look at it.
fn in_words(signed: &Signed) -> String {
    let list = signed.list();
    let mut text = format!(
        "directory {} of {} relays, from {} until {}\n",
        list.serial,
        list.relays.len(),
        smtp_bridge::figures::date(list.from),
        smtp_bridge::figures::date(list.until)
    );
    for relay in &list.relays {
        let exit = match &relay.exit {
            Exit::Any => "delivers everywhere".to_owned(),
            Exit::Own => "delivers to its own aliases".to_owned(),
            Exit::Only(domains) => format!("delivers to {}", domains.join(", ")),
        };
        let draining = if relay.draining { "; is being left" } else { "" };
        text += &format!(
            "{} at {}, by {}; {exit}{draining}\n",
            relay.card.domain, relay.card.address, relay.operator
        );
    }
    for (key, _) in signed.signatures() {
        match fits(signed, *key) {
            true => text += &format!("signed by {}\n", key.to_text()),
            false => text += &format!("NOT signed by {}: the signature does not fit\n", key.to_text()),
        }
    }
    text
}

/// Whether there is a signature by this key, of this very list.
fn fits(signed: &Signed, key: PublicKey) -> bool {
    Pin::new(1, vec![key]).is_ok_and(|pin| pin.verify(signed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_of_another_list_is_shown_as_none() {
        let list = |serial| List {
            serial,
            from: 100,
            until: 114,
            relays: Vec::new(),
        };
        let key = DirectoryKey::new(Secret::new([1; 32]));
        let mut signed = Signed::new(list(7)).expect("well-formed");
        signed.sign(&key).expect("room");
        let by = key.public().to_text();
        assert!(in_words(&signed).contains(&format!("\nsigned by {by}\n")));
        let altered = Signed::parse(&signed.to_text().replace("serial 7", "serial 8")).expect("well-formed");
        assert!(in_words(&altered).contains(&format!("\nNOT signed by {by}: ")));
    }
}
