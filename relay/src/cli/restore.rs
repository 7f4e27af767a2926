//! `posternd restore`: a backup put back beside the keys as they are now.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use mailbox::StoreError;
use mailbox::relay::{Restore, Restored};
use serde_json::json;
use smtp_bridge::cli::process::Failure;
use smtp_bridge::net::system;

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// Data folder of the relay, which must not be running. Its key files, slots, epochs, slab and pads stay as they are.
    #[arg(long, alias = "dir", value_name = "DIR")]
    data: PathBuf,
    /// What 'posternd backup' wrote. Not needed to finish a restore that was interrupted.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// One line of JSON instead of text; asks nothing.
    #[arg(long, requires = "yes")]
    json: bool,
}

pub(super) fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let host = system::host();
    let failed = |error: StoreError| Failure(explained(error, &args.data));
    if Restore::finish(&*host.disk, &args.data).map_err(failed)? {
        say(
            args,
            &json!({ "finished": true }),
            "the restore that was interrupted is finished",
        );
        return Ok(());
    }
    let Some(from) = &args.from else {
        return Err(Failure("name the backup: --from DIR".to_owned()));
    };
    let restore =
        Restore::prepare(host.disk.clone(), &args.data, from, host.entropy.clone(), host.day()).map_err(failed)?;
    let told = *restore.told();
    if !args.json {
        println!("{}", words(&told));
    }
    if !args.yes && !agrees()? {
        return Err(Failure("nothing was changed".to_owned()));
    }
    restore.carry_out(host.clock.unix_seconds()).map_err(failed)?;
    let replaced = args.data.join("replaced");
    let text = format!(
        "restored; the database that it replaced, if there was one, lies in {}: remove it when you do not need it. \
         Start the relay.",
        replaced.display()
    );
    let told = serde_json::to_value(told).map_err(Failure::from_error)?;
    say(args, &told, &text);
    Ok(())
}

fn say(args: &RestoreArgs, told: &serde_json::Value, text: &str) {
    if args.json {
        println!("{told}");
    } else {
        println!("{text}");
    }
}

fn agrees() -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure(
            "nothing was changed: say --yes if this is what you want".to_owned(),
        ));
    }
    println!("Type 'yes' to go on:");
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(Failure::from_error)?;
    Ok(line.trim() == "yes")
}

/// What it costs, for people.
fn words(told: &Restored) -> String {
    let Restored {
        accounts,
        frozen,
        unknown_packs,
        keys_unpaid,
        keys_value,
        deposits,
        deliveries,
        deliveries_closed,
        roots,
        parcels,
        unsettled,
    } = told;
    let mut lines = vec![
        format!(
            "The backup knows {accounts} accounts and {} deliveries.",
            deliveries + deliveries_closed
        ),
        "What came about since the backup is lost, as far as only the database knew it:".to_owned(),
        format!("  {deposits} messages came in; those that were not collected are lost, and their holders are told"),
        format!("  {deliveries_closed} of its deliveries have ended, or can no longer be opened; {deliveries} go on"),
        format!("  {keys_unpaid} link keys were used, worth {keys_value} µtok at its prices, whose debits are lost"),
        "  messages accepted since that were still in the queue are lost, and nobody can be told".to_owned(),
        format!("  {parcels} parcels came, whose senders are told that the outcome is unknown"),
        "  balances are as they were then: every other debit, and every top-up, is lost".to_owned(),
        "  what holders sent and had no answer to is shown to them as 'perhaps sent', and not sent again".to_owned(),
    ];
    if *unknown_packs > 0 {
        lines.push(format!(
            "  {unknown_packs} packs were issued that the backup does not know: their holders need others"
        ));
    }
    if *roots > 0 {
        lines.push(format!(
            "  {roots} packs were activated or given new keys since: their recovery codes do not work any more"
        ));
    }
    if *frozen > 0 {
        lines.push(format!(
            "  {frozen} accounts have no key slot that opens: they stay frozen"
        ));
    }
    if *unsettled {
        lines.push(
            "The database here is gone or does not open. If the relay was killed, keys of its last second may not be known \
             as used. If it still starts, start and stop it once before this."
                .to_owned(),
        );
    }
    lines.join("\n")
}

fn explained(error: StoreError, data: &Path) -> String {
    match error {
        StoreError::Locked => "the relay is running: stop it first".to_owned(),
        StoreError::Invalid => format!(
            "there is no index.redb in the backup, or {} is not empty: it holds what an earlier restore replaced; \
             move that away",
            data.join("replaced").display()
        ),
        StoreError::Corrupt => "the backup does not open under this folder's keys, or it is damaged; nothing was \
                                changed"
            .to_owned(),
        error => error.to_string(),
    }
}
