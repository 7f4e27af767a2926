//! `postern keypack device`, `devices` and `drop`: several packs with one account.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::super::dirs;
use super::super::init::shell;
use super::super::passphrase::PassphraseArgs;
use super::super::process::Failure;
use super::super::terminal;
use super::split::{Order, make};
use crate::bridge::commands::Command;
use crate::control;
use crate::figures::{date, grouped};
use crate::net::system;

/// Arguments of `postern keypack device`.
#[derive(Args)]
pub(super) struct DeviceArgs {
    /// File of the new pack.
    file: PathBuf,
    /// Link keys that move to it, at least 16; as many must stay.
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..))]
    keys: u64,
    /// Data folder of the running bridge whose account it joins.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// The passphrase of the new pack.
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Arguments of `postern keypack devices`.
#[derive(Args)]
pub(super) struct DevicesArgs {
    /// Data folder of a running bridge of the account.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Arguments of `postern keypack drop`.
#[derive(Args)]
pub(super) struct DropArgs {
    /// Number of the device, as 'postern keypack devices' shows it.
    device: u32,
    /// Data folder of the running bridge of another device.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// Ask nothing.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn device(args: &DeviceArgs) -> Result<(), Failure> {
    let order = Order {
        file: &args.file,
        keys: args.keys,
        value: 0,
        dir: &args.dir,
        passphrase: &args.passphrase,
        joins: true,
    };
    make(&order).await?;
    println!(
        "It has {} keys of its own, and this pack's value, addresses and mail. On the other machine:\n  postern init --pack {} --dir NEW-FOLDER\n  postern activate --dir NEW-FOLDER",
        grouped(args.keys),
        shell(&args.file)
    );
    println!(
        "Mail that comes from now on is there too; what came before is here alone. Activate it, as a copy of the file opens everything."
    );
    Ok(())
}

pub(super) async fn devices(args: &DevicesArgs) -> Result<(), Failure> {
    let answer = control::ask(&system::host(), &args.dir, &Command::Devices).await?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let devices = answer["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    if devices.is_empty() {
        println!("The account has this pack alone: 'postern keypack device' makes another one.");
        return Ok(());
    }
    println!(
        "{:>6}  {:<10}  {:<10}  {:>10}",
        "device", "since", "last link", "keys left"
    );
    for device in devices {
        println!("{}", line(device, &answer["own"]));
    }
    Ok(())
}

fn line(device: &Value, own: &Value) -> String {
    let day = |key: &str| {
        device[key]
            .as_u64()
            .and_then(|day| u32::try_from(day).ok())
            .map_or("-".to_owned(), date)
    };
    let this = if device["number"] == *own { "  (this one)" } else { "" };
    format!(
        "{:>6}  {:<10}  {:<10}  {:>10}{this}",
        device["number"].as_u64().unwrap_or_default(),
        day("since"),
        day("used"),
        grouped(device["keys"].as_u64().unwrap_or_default())
    )
}

pub(super) async fn drop_device(args: &DropArgs) -> Result<(), Failure> {
    if !args.yes {
        eprintln!(
            "Device {} is served nothing from then on, and what waits for it is deleted at the relay.\n\
             What is in its data folder stays there.",
            args.device
        );
        if !terminal::is_there() {
            return Err(Failure("nobody is there to agree: give --yes".to_owned()));
        }
        if !terminal::agrees("Go on?")? {
            return Err(Failure("nothing was changed".to_owned()));
        }
    }
    let command = Command::DropDevice { device: args.device };
    let answer = control::ask(&system::host(), &args.dir, &command).await?;
    if answer["moved"] != true {
        let reason = answer["reason"].as_str().unwrap_or("the relay refused");
        return Err(Failure(format!("nothing was changed: {reason}")));
    }
    println!("Device {} is dropped; its link keys are this one's.", args.device);
    Ok(())
}
