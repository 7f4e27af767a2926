//! `postern directory`: the relays of the federation.

use clap::Args;
use serde_json::Value;

use super::BesideArgs;
use super::beside::{ask, show as print};
use super::process::Failure;
use crate::bridge::commands::Command;
use crate::figures::date;

#[derive(Args)]
pub(super) struct DirectoryArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Ask the relay for it now. By itself the bridge does so a few times a day.
    #[arg(long)]
    fetch: bool,
}

pub(super) async fn show(args: &DirectoryArgs) -> Result<(), Failure> {
    let answer = ask(&args.beside, Command::Directory { fetch: args.fetch }).await?;
    print(&args.beside, &answer, in_words);
    Ok(())
}

fn in_words(answer: &Value) -> String {
    let number = |name: &str| answer[name].as_u64();
    let day = |name: &str| date(number(name).and_then(|day| u32::try_from(day).ok()).unwrap_or_default());
    let mut text = match number("serial") {
        Some(serial) => format!(
            "directory {serial}, from {} until {}; signed by at least {} of {} keys\n",
            day("from"),
            day("until"),
            answer["threshold"],
            answer["keys"]
        ),
        None => "no directory has come yet\n".to_owned(),
    };
    for relay in answer["relays"].as_array().into_iter().flatten() {
        let word = |name: &str| relay[name].as_str().unwrap_or_default().to_owned();
        let exit = match relay["exit"].as_str().unwrap_or_default() {
            "any" => "delivers everywhere".to_owned(),
            "own" => "delivers to its own addresses".to_owned(),
            domains => format!("delivers to {domains}"),
        };
        let draining = match relay["draining"] == true {
            true => "\n    is being left by its operator: no new packs there",
            false => "",
        };
        text += &format!(
            "{}, run by {}\n    {exit}; {} µtok a recipient, {} µtok each kilobyte and recipient, {} µtok a link{draining}\n",
            word("domain"),
            word("operator"),
            relay["message"],
            relay["kilobyte"],
            relay["key"]
        );
    }
    for warning in answer["warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        text += &format!("\n{warning}\n");
    }
    text
}
