//! `postern keypack merge`: keys and value of another pack come to this one.
//!
//! ```text
//! other pack: link, Release{H(voucher)} -> answer -> this pack: Redeem{voucher} -> answer
//! ```
//!
//! The voucher is derived from the other store's key and kept nowhere. Cut off anywhere, the same command goes on: both
//! requests move nothing a second time, and what was released and never redeemed falls back after 30 days.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use mailbox::HolderStore;
use mailbox::holder::{HolderFiles, HolderOptions, init_from_pack, wipe_store};
use mailbox::holder_store::OutboxState;
use mailbox::request::{Operation, Refusal};
use serde_json::Value;
use tokio::sync::watch;

use super::super::passphrase::PassphraseArgs;
use super::super::process::Failure;
use super::super::settings::Settings;
use super::super::{dirs, nesting, terminal};
use super::split::text;
use super::wipe::wipe_file;
use crate::bridge::commands::Command;
use crate::bridge::nested_through;
use crate::control;
use crate::holder::{self, HolderConfig, LinkState, refusal_reason};
use crate::message::Address;
use crate::net::{Host, system};

/// Arguments of `postern keypack merge`.
#[derive(Args)]
pub(super) struct MergeArgs {
    /// The other pack: its file, or its data folder with no bridge running.
    other: PathBuf,
    /// Data folder of the running bridge that receives.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// The passphrase of the other pack.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Dial this instead of the relay's address in the other pack.
    #[arg(long, value_name = "HOST:PORT")]
    relay_via: Option<String>,
    /// Ask nothing.
    #[arg(long)]
    yes: bool,
}

/// Longest wait for the other pack's link and its answer.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn merge(args: &MergeArgs) -> Result<(), Failure> {
    let host = system::host();
    // Before anything is released: the pack that receives must be there, and of the same relay.
    let facts = control::ask(&host, &args.dir, &Command::PackFacts).await?;
    refuse_nested(&facts)?;
    nesting::refuse_bare(&args.other)?;
    if let Some(second) = nesting::found(&args.other) {
        return Err(Failure(format!(
            "{} belongs to a pack at a second relay, which is reached through this one: it is not merged while that is there",
            second.display()
        )));
    }
    let settings = Settings::read(&args.dir)?;
    agree(args)?;
    let passphrase = args.passphrase.read()?;
    let is_file = args.other.is_file();
    let folder = match is_file {
        true => beside(&args.other),
        false => args.other.clone(),
    };
    if is_file {
        let options = HolderOptions::default();
        let taken_in = init_from_pack(&host.disk, &args.other, &folder, &passphrase, &options, &host.entropy);
        taken_in.map_err(|error| Failure(format!("cannot take in {}: {error}", args.other.display())))?;
    }
    let failed = |error: &dyn std::fmt::Display| Failure(format!("cannot merge {}: {error}", args.other.display()));
    let options = HolderOptions::default();
    let (store, actor) =
        HolderFiles::open(&host.disk, &folder, &passphrase, &options, &host.entropy).map_err(|error| failed(&error))?;
    host.workers
        .actor("commit", Box::pin(actor))
        .map_err(|error| failed(&error))?;
    let config = HolderConfig {
        relay_via: args.relay_via.clone(),
        socks: settings.socks,
        ..HolderConfig::new(Address::parse("me@localhost").map_err(|error| failed(&error))?)
    };
    let released = release(&host, &store, config, &facts).await;
    let is_empty = store.inbox().entries.is_empty();
    let voucher = store.derive("merge/voucher");
    store.stop().await;
    released.map_err(|sentence| failed(&sentence))?;

    let redeem = Command::Redeem {
        voucher: text(voucher.expose()),
    };
    let again = "what was released is safe: give the same command again";
    let answer = control::ask(&host, &args.dir, &redeem).await;
    let answer = answer.map_err(|error| Failure(format!("{error}; {again}")))?;
    if answer["moved"] != true {
        return Err(failed(&answer["reason"].as_str().unwrap_or("the relay refused")));
    }
    println!(
        "What was in the other pack is in this one: see 'postern status'. Its last 8 keys stayed where they were."
    );
    if is_file && is_empty {
        wipe_store(&host.disk, &folder).map_err(|error| failed(&error))?;
        wipe_file(&args.other).map_err(|error| failed(&error))?;
        // Empty by now; a name that stays is no harm.
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        println!(
            "{} keeps the mail that was collected with the other pack. When you no longer need it: postern keypack panic-wipe.",
            folder.display()
        );
    }
    Ok(())
}

fn agree(args: &MergeArgs) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !terminal::is_there() {
        return Err(Failure("nobody is there to agree: give --yes".to_owned()));
    }
    eprintln!("The relay will know that both packs are one person's, with all their aliases and all their mail.");
    match terminal::agrees("Go on?")? {
        true => Ok(()),
        false => Err(Failure("nothing was changed".to_owned())),
    }
}

/// Why a pack is not merged whose mail is to go nested, into or out of: the other pack's link has no entry, and the relay
/// would see by it whose both packs are.
fn bare(through: &str) -> String {
    format!(
        "mail of an alias is to go nested through {through} alone, closed aliases included; merging links without an entry, and the \
         relay would see your address and join both packs: 'postern route ALIAS any' gives that up"
    )
}

/// The same of the pack that receives, by what its bridge says: also where a link by an entry is nobody's setting for an alias.
fn refuse_nested(facts: &Value) -> Result<(), Failure> {
    match (facts["entry"].as_str(), facts["nested"].as_str()) {
        (Some(entry), _) => Err(Failure(format!(
            "the bridge reaches its relay through {entry}, and merging links with it under the other pack without an entry: the relay \
             would see your address and join both packs. Nothing was changed"
        ))),
        (None, Some(through)) => Err(Failure(bare(through))),
        (None, None) => Ok(()),
    }
}

/// The folder that a pack's file is taken into.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".merging");
    PathBuf::from(name)
}

/// Links under the other pack and releases what it has.
async fn release(host: &Host, store: &HolderFiles, config: HolderConfig, into: &Value) -> Result<(), String> {
    if let Some(through) = nested_through(store).map_err(|error| error.to_string())? {
        return Err(bare(&through));
    }
    let facts = store.facts();
    if into["relay_domain"] != *facts.relay_domain.as_str() {
        return Err("it is another relay's: value does not move between relays".to_owned());
    }
    if into["identifier"] == *facts.identifier.to_text() {
        return Err("it is the same pack".to_owned());
    }
    if store
        .aliases()
        .map_err(|error| error.to_string())?
        .iter()
        .any(|alias| alias.open)
    {
        return Err(refusal_reason(Refusal::Occupied));
    }
    let voucher = keypacks::kdf::hash(&[store.derive("merge/voucher").expose()]);
    let operation = Operation::Release { voucher };
    let rows = store.outbox().map_err(|error| error.to_string())?;
    let row = match rows
        .iter()
        .find(|row| row.change.operation == operation && row.state == OutboxState::Queued)
    {
        Some(row) => row.row,
        None if !rows.is_empty() => {
            return Err("its outbox is not empty: send or cancel what is in it first".to_owned());
        }
        None => {
            let queued = store.enqueue_change(operation, "merge".into(), host.clock.unix_seconds());
            queued.await.map_err(|error| error.to_string())?
        }
    };
    let stop = watch::Sender::new(false);
    let (handle, link) = holder::new(host.clone(), store.clone(), config, stop.subscribe());
    let mut outbox = store.outbox_changed();
    let waiting = async {
        loop {
            outbox.borrow_and_update();
            let rows = store.outbox().map_err(|error| error.to_string())?;
            match rows.iter().find(|found| found.row == row).map(|found| found.state) {
                None => return Ok(()),
                Some(OutboxState::Queued) => {}
                Some(state) => {
                    store.cancel(row).await.map_err(|error| error.to_string())?;
                    return Err(match state {
                        OutboxState::Refused(refusal) => refusal_reason(refusal),
                        _ => "the relay no longer knows whether it was released".to_owned(),
                    });
                }
            }
            let mut states = handle.changes();
            tokio::select! {
                changed = outbox.changed() => changed.map_err(|_| "the store has stopped".to_owned())?,
                state = states.wait_for(|state| matches!(state, LinkState::KeysUsedUp | LinkState::PadUsedUp)) => {
                    let _ = state;
                    return Err("its keys are used up: there is nothing to bring over".to_owned());
                }
            }
        }
    };
    let work = async {
        let mut waiting = pin!(waiting);
        let mut link = pin!(link);
        tokio::select! {
            biased;
            answered = &mut waiting => {
                stop.send_replace(true);
                // It says goodbye.
                let _ = tokio::time::timeout(Duration::from_secs(2), link).await;
                answered
            }
            // It tries for ever, but for keys that are used up.
            () = &mut link => waiting.await,
        }
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err("the relay has not answered; give the same command again".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pack_behind_an_entry_is_not_merged_into() {
        let refused = |facts: Value| refuse_nested(&facts).err().map(|Failure(words)| words);
        assert_eq!(refused(json!({ "nested": null, "entry": null })), None);
        let by_entry = refused(json!({ "nested": "entry.test", "entry": "entry.test" })).expect("refused");
        assert!(by_entry.contains("reaches its relay through entry.test"), "{by_entry}");
        let by_alias = refused(json!({ "nested": "entry.test", "entry": null })).expect("refused");
        assert!(by_alias.contains("postern route ALIAS any"), "{by_alias}");
    }
}
