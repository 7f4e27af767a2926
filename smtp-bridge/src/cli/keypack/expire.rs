//! `postern keypack expire`: a pack ends, now or on a day.

use std::path::PathBuf;

use clap::Args;

use super::super::process::Failure;
use super::super::{dirs, terminal};
use crate::bridge::commands::Command;
use crate::control;
use crate::figures::{date, day_of, grouped};
use crate::net::system;

/// Arguments of `postern keypack expire`.
#[derive(Args)]
pub(super) struct ExpireArgs {
    /// The day, in UTC and as in 2027-01-31, instead of now.
    #[arg(long, value_name = "DAY", value_parser = day, conflicts_with = "never")]
    on: Option<u32>,
    /// Take back a day that has not come.
    #[arg(long)]
    never: bool,
    /// Data folder of the running bridge.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// Ask nothing.
    #[arg(long)]
    yes: bool,
}

fn day(text: &str) -> Result<u32, String> {
    day_of(text).ok_or_else(|| "write a day as in 2027-01-31".to_owned())
}

pub(super) async fn expire(args: &ExpireArgs) -> Result<(), Failure> {
    let host = system::host();
    if let Some(day) = args.on.filter(|day| *day <= host.day()) {
        return Err(Failure(format!(
            "{} is not to come: leave '--on' out to end the pack now",
            date(day)
        )));
    }
    if !args.never {
        let status = control::ask(&host, &args.dir, &Command::Status).await?;
        let count = |name: &str| status[name].as_u64().unwrap_or_default();
        let when = args.on.map_or("now".to_owned(), |day| format!("on {}", date(day)));
        eprintln!(
            "The pack {} ends {when}:\n\
             - {} aliases close for good, and mail for them is refused\n\
             - what is left of its value lapses to the relay: {} µtok as of now\n\
             - of its keys the last 8 stay at most, which only collect mail that waits: {} as of now\n\
             - what waits in the outbox is not sent: {} messages as of now",
            status["identifier"].as_str().unwrap_or_default(),
            status["aliases"].as_array().map_or(0, Vec::len),
            grouped(count("balance")),
            grouped(count("keys")),
            count("outbox"),
        );
        if !args.yes {
            if !terminal::is_there() {
                return Err(Failure("nobody is there to agree: give --yes".to_owned()));
            }
            if !terminal::agrees("Go on?")? {
                return Err(Failure("nothing was changed".to_owned()));
            }
        }
    }
    let day = (!args.never).then_some(args.on.unwrap_or(0));
    let answer = control::ask(&host, &args.dir, &Command::Expire { day }).await?;
    match answer["expires"].as_u64().and_then(|day| u32::try_from(day).ok()) {
        None => println!("The pack does not end by itself."),
        Some(_) if answer["ended"] == true => println!("The pack has ended. Mail in the data folder stays."),
        Some(day) => println!("The pack ends on {}. '--never' takes that back until then.", date(day)),
    }
    Ok(())
}
