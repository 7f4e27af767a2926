//! Commands beside a running bridge, and how their answers look.

use serde_json::{Value, json};

use super::BesideArgs;
use super::process::Failure;
use super::settings::Settings;
use crate::bridge::commands::Command;
use crate::control;
use crate::net::system;

async fn ask(args: &BesideArgs, command: Command) -> Result<Value, Failure> {
    Ok(control::ask(&system::host(), &args.dir, &command).await?)
}

/// Prints the answer: as it is, or as `text` has it.
fn show(args: &BesideArgs, answer: &Value, text: impl FnOnce(&Value) -> String) {
    if args.json {
        println!("{answer}")
    } else {
        println!("{}", text(answer).trim_end())
    }
}

pub(super) async fn status(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Status).await?;
    show(args, &answer, |status| {
        let aliases: Vec<&str> = status["aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let prices = &status["prices"];
        let price = match prices.is_null() {
            true => "not heard yet".to_owned(),
            false => format!(
                "{} µtok a recipient, {} µtok each kilobyte and recipient, {} µtok a link",
                prices["message"], prices["kilobyte"], prices["key"]
            ),
        };
        format!(
            "link      {}\nbalance   {} µtok ({} reserved for the outbox)\nkeys      {} left\nprices    {price}\noutbox    {} waiting\naliases   {}\npack      {}",
            status["state"].as_str().unwrap_or_default(),
            status["balance"],
            status["reserved"],
            status["keys"],
            status["outbox"],
            aliases.join("\n          "),
            status["identifier"].as_str().unwrap_or_default(),
        )
    });
    Ok(())
}

pub(super) async fn settings(args: &BesideArgs) -> Result<(), Failure> {
    let mut answer = ask(args, Command::Settings).await?;
    let settings = Settings::read(&args.dir)?;
    answer["smtp"] = json!(settings.smtp);
    answer["imap"] = json!(settings.imap);
    show(args, &answer, |answer| {
        format!(
            "outgoing mail (SMTP)   {}   no encryption, password\nincoming mail (IMAP)   {}   no encryption, password\nuser                   {}\npassword               {}",
            settings.smtp,
            settings.imap,
            answer["user"].as_str().unwrap_or_default(),
            answer["password"].as_str().unwrap_or_default()
        )
    });
    Ok(())
}

pub(super) async fn outbox(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Outbox).await?;
    show(args, &answer, |answer| {
        let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            return "the outbox is empty".to_owned();
        }
        rows.iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                format!(
                    "{:>5}  {:<8} {:>10} µtok  {}  {}\n",
                    row["row"],
                    text("state"),
                    row["price"],
                    text("label"),
                    text("reason")
                )
            })
            .collect()
    });
    Ok(())
}

pub(super) async fn cancel(args: &BesideArgs, row: u64) -> Result<(), Failure> {
    let answer = ask(args, Command::Cancel { row }).await?;
    show(args, &answer, |_| format!("row {row} is cancelled"));
    Ok(())
}

pub(super) async fn aliases(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Aliases).await?;
    show(args, &answer, |answer| {
        let rows = answer["aliases"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let open = if row["open"] == json!(true) { "open  " } else { "closed" };
                format!(
                    "{open}  {}  {}\n",
                    row["address"].as_str().unwrap_or_default(),
                    row["display_name"].as_str().unwrap_or_default()
                )
            })
            .collect()
    });
    Ok(())
}

pub(super) async fn alias_new(args: &BesideArgs, local: Option<String>) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasNew { local }).await?;
    show(args, &answer, |answer| {
        format!("{} is open", answer["address"].as_str().unwrap_or_default())
    });
    Ok(())
}

pub(super) async fn alias_close(args: &BesideArgs, address: String) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasClose { address }).await?;
    show(args, &answer, |answer| {
        format!("{} is closed", answer["closed"].as_str().unwrap_or_default())
    });
    Ok(())
}

pub(super) async fn alias_name(
    args: &BesideArgs,
    address: String,
    display_name: Option<String>,
) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasName { address, display_name }).await?;
    show(args, &answer, |answer| match answer["display_name"].as_str() {
        Some(name) => format!("{} goes out as {name}", answer["address"].as_str().unwrap_or_default()),
        None => format!(
            "{} goes out without a name",
            answer["address"].as_str().unwrap_or_default()
        ),
    });
    Ok(())
}
