//! Commands beside a running bridge, and how their answers look.

use serde_json::{Value, json};

use super::process::Failure;
use super::{BesideArgs, Days};
use crate::bridge::commands::Command;
use crate::control;
use crate::figures::{self, ago, ahead, grouped, span};
use crate::net::system;

pub(super) async fn ask(args: &BesideArgs, command: Command) -> Result<Value, Failure> {
    Ok(control::ask(&system::host(), &args.dir, &command).await?)
}

/// Prints the answer: as it is, or as `text` has it.
pub(super) fn show(args: &BesideArgs, answer: &Value, text: impl FnOnce(&Value) -> String) {
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
        let onward = onward(&status["onward"]);
        let warnings: String = status["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|warning| format!("\n{warning}"))
            .collect();
        let nested = status["nested"]
            .as_str()
            .map(|words| format!("\n{words}"))
            .unwrap_or_default();
        let disk = status["disk"]
            .as_str()
            .map(|caveat| format!("\ndisk      {caveat}"))
            .unwrap_or_default();
        let ends = ends(status)
            .map(|words| format!("\nends      {words}"))
            .unwrap_or_default();
        let entry = match status["entry"]["relay"].as_str() {
            Some(relay) => format!(" by {relay}, where {} keys are left", status["entry"]["keys"]),
            None => String::new(),
        };
        let nested_by = nested_by(status);
        let mixing = [&status["mix"], &status["mix_reason"]].map(Value::as_str);
        let mixing = mixing.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let loops = match status["loops"]["wish"].as_str() {
            Some(_) => format!("\nloops     {}", crate::bridge::looping::in_words(&status["loops"])),
            None => String::new(),
        };
        format!(
            "link      {}{entry}{nested_by}\nmode      {}\nactivated {}\nbalance   {} µtok ({} reserved for the outbox)\nkeys      {} left; a new one with each {}\nprices    {price}{onward}\nmixing    {}\ncover     {}{loops}\noutbox    {} waiting\naliases   {}\npack      {}{ends}{disk}{warnings}{nested}",
            status["state"].as_str().unwrap_or_default(),
            pad(&status["pad"]),
            activated(status),
            status["balance"],
            status["reserved"],
            status["keys"],
            rotation(&status["rotation"]),
            mixing,
            super::cover::state(&status["cover"]),
            status["outbox"],
            aliases.join("\n          "),
            status["identifier"].as_str().unwrap_or_default(),
        )
    });
    Ok(())
}

/// The two relays that mail goes over by itself, who runs them, and since when.
fn nested_by(status: &Value) -> String {
    let (entry, operator) = (&status["entry"], |by: &Value| {
        by.as_str().map_or(String::new(), |name| format!(" ({name})"))
    });
    let (Some(since), Some(first), Some(second)) = (
        entry["since"].as_u64(),
        entry["relay"].as_str(),
        status["relay"].as_str(),
    ) else {
        return String::new();
    };
    format!(
        "\nnested    {first}{} sees your address, {second}{} your mail; since {}",
        operator(&entry["operator"]),
        operator(&status["operator"]),
        date(since)
    )
}

/// What is added to the prices by domain, where the relay passes mail on to others.
fn onward(onward: &Value) -> String {
    let leg = |leg: &Value| {
        format!(
            "{} µtok a recipient, {} µtok each kilobyte and recipient, over {} more",
            leg["message"], leg["kilobyte"], leg["relays"]
        )
    };
    let is_free = |leg: &Value| leg["relays"] == 0;
    let (elsewhere, none) = (&onward["elsewhere"], serde_json::Map::new());
    let domains = onward["domains"].as_object().unwrap_or(&none);
    let mut lines = String::new();
    for (domain, by) in domains {
        let words = if is_free(by) {
            "nothing more".to_owned()
        } else {
            leg(by)
        };
        lines.push_str(&format!("\n          and to {domain}: {words}"));
    }
    if !elsewhere.is_null() && !is_free(elsewhere) {
        let words = if domains.is_empty() { "and" } else { "and elsewhere:" };
        lines.push_str(&format!("\n          {words} {}", leg(elsewhere)));
    }
    lines
}

/// A rotation policy in words.
pub(super) fn rotation(policy: &Value) -> String {
    let limit = |limit: &str| match limit.split_once('=') {
        Some(("time", seconds)) => format!("{seconds} s of connection time"),
        Some(("interval", seconds)) => format!("{seconds} s since first use"),
        Some((_, bytes)) => format!("{bytes} bytes in one direction"),
        None => String::new(),
    };
    match policy.as_str() {
        Some(policy) if policy.contains('=') => {
            let limits: Vec<String> = policy.split(',').map(limit).collect();
            format!("connection and each {}", limits.join(", or "))
        }
        _ => "connection".to_owned(),
    }
}

/// When the pack ends, if it does by itself, or that it has.
pub(super) fn ends(status: &Value) -> Option<String> {
    let day = u32::try_from(status["expires"].as_u64()?).ok()?;
    let has = if status["ended"] == true { "it has, " } else { "" };
    Some(format!("{has}on {}", figures::date(day)))
}

/// Whether copies of the pack from before still open something.
pub(super) fn activated(status: &Value) -> String {
    let pending = match status["rerooting"].as_bool() {
        Some(true) => "; new keys are asked for",
        _ => "",
    };
    match status["root"].as_u64() {
        Some(0) | None => format!("no: copies of the pack open everything{pending}"),
        Some(1) => format!("yes{pending}"),
        Some(number) => format!("yes, and given new keys {} times since{pending}", number - 1),
    }
}

/// What a pack's links are under, and what is left of it.
fn pad(pad: &Value) -> String {
    if pad.is_null() {
        return "keys".to_owned();
    }
    let costs: Vec<String> = pad["costs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|cost| format!("{} kB {}", cost["kilobytes"], cost["bytes"]))
        .collect();
    format!(
        "one-time pad\n          to send    {} bytes left, at most {} cells\n          to receive {} bytes left, at most {} cells\n          a cell costs 64 bytes and what it masks; a message of {} bytes to send",
        pad["up"]["bytes"],
        pad["up"]["cells"],
        pad["down"]["bytes"],
        pad["down"]["cells"],
        costs.join(", "),
    )
}

pub(super) async fn statement(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Statement).await?;
    show(args, &answer, |answer| {
        let rows = answer["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut text = format!(
            "{:<10}  {:<8}  {:>7}  {:>14}  {:>14}\n",
            "day (UTC)", "service", "times", "credit µtok", "debit µtok"
        );
        let (mut credits, mut debits) = (0u64, 0u64);
        for row in rows {
            let number = |key: &str| row[key].as_u64().unwrap_or_default();
            credits = credits.saturating_add(number("credit"));
            debits = debits.saturating_add(number("debit"));
            text += &format!(
                "{:<10}  {:<8}  {:>7}  {:>14}  {:>14}\n",
                date(number("day")),
                row["kind"].as_str().unwrap_or_default(),
                number("count"),
                number("credit"),
                number("debit")
            );
        }
        text + &format!(
            "{:<10}  {:<8}  {:>7}  {credits:>14}  {debits:>14}\nbalance     {} µtok",
            "in all",
            "",
            "",
            credits.saturating_sub(debits)
        )
    });
    Ok(())
}

/// A day since 1970 as a date.
fn date(day: u64) -> String {
    let date = mail_parser::DateTime::from_timestamp(i64::try_from(day).unwrap_or_default() * 86_400);
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

pub(super) async fn settings(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Settings).await?;
    show(args, &answer, |answer| {
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        format!(
            "outgoing mail (SMTP)   {}   no encryption, password\nincoming mail (IMAP)   {}   no encryption, password\n\
             user                   {}\npassword               {}",
            text("smtp"),
            text("imap"),
            text("user"),
            text("password")
        )
    });
    Ok(())
}

/// Has a restored bridge look for the relay's position.
pub(super) async fn resume(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Resume).await?;
    show(args, &answer, |answer| match answer["linked"].as_bool() {
        Some(true) => "the relay is found again, and the bridge is linked".to_owned(),
        _ => "not found yet: the bridge goes on looking; see 'postern status'".to_owned(),
    });
    Ok(())
}

pub(super) async fn page(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Page).await?;
    show(args, &answer, |answer| {
        answer["url"].as_str().unwrap_or_default().to_owned()
    });
    Ok(())
}

pub(super) async fn outbox(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Outbox).await?;
    show(args, &answer, |answer| {
        let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parcels = answer["parcels"].as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() && parcels.is_empty() {
            return "the outbox is empty: everything has reached the relay".to_owned();
        }
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or(0);
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        rows.iter()
            .map(|row| {
                let size = match row["kilobytes"].as_u64() {
                    Some(kilobytes) => format!("{} kB, ", grouped(kilobytes)),
                    None => String::new(),
                };
                let reason = match text(row, "reason").as_str() {
                    "" => String::new(),
                    reason => format!("\n       {reason}"),
                };
                format!(
                    "{:>5}  {}\n       {}, taken {}, {size}{} µtok{reason}\n",
                    number(row, "row"),
                    text(row, "label"),
                    text(row, "words"),
                    ago(0, number(row, "age")),
                    grouped(number(row, "price")),
                )
            })
            .chain(parcels.iter().map(|parcel| {
                format!(
                    "{:>5}  {}\n       {}, {} µtok\n",
                    number(parcel, "index"),
                    text(parcel, "label"),
                    parcel_words(&text(parcel, "kind")),
                    grouped(number(parcel, "price")),
                )
            }))
            .collect()
    });
    Ok(())
}

fn parcel_words(kind: &str) -> &'static str {
    match kind {
        "login" => "login, no receipt yet",
        "control" => "parcel of control, no receipt yet",
        _ => "parcel, no receipt yet",
    }
}

pub(super) async fn cancel(args: &BesideArgs, row: u64) -> Result<(), Failure> {
    let answer = ask(args, Command::Cancel { row }).await?;
    show(args, &answer, |_| format!("row {row} is cancelled"));
    Ok(())
}

pub(super) async fn aliases(args: &BesideArgs) -> Result<(), Failure> {
    let answer = ask(args, Command::Aliases).await?;
    let now = system::host().clock.unix_seconds();
    show(args, &answer, |answer| {
        let rows = answer["aliases"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let is_open = row["open"] == json!(true);
                let mut notes = String::new();
                if let Some(name) = row["display_name"].as_str() {
                    notes.push_str(&format!("  as {name}"));
                }
                if let Some(label) = row["label"].as_str() {
                    notes.push_str(&format!("  ({label})"));
                }
                if let Some(expires) = row["expires"].as_u64().filter(|_| is_open) {
                    notes.push_str(&format!("  closes {}", ahead(expires, now)));
                }
                let state = if is_open { "open  " } else { "closed" };
                format!("{state}  {}{notes}\n", row["address"].as_str().unwrap_or_default())
            })
            .collect()
    });
    Ok(())
}

pub(super) async fn alias_new(
    args: &BesideArgs,
    local: Option<String>,
    label: Option<String>,
    days: Option<u64>,
) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasNew { local, label, days }).await?;
    show(args, &answer, |answer| {
        format!("{} is open", answer["address"].as_str().unwrap_or_default())
    });
    Ok(())
}

pub(super) async fn alias_label(args: &BesideArgs, address: String, label: Option<String>) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasLabel { address, label }).await?;
    show(args, &answer, |answer| {
        let address = answer["address"].as_str().unwrap_or_default();
        match answer["label"].as_str() {
            Some(label) => format!("{address} is labelled {label}"),
            None => format!("{address} has no label"),
        }
    });
    Ok(())
}

pub(super) async fn alias_expire(args: &BesideArgs, address: String, Days(days): Days) -> Result<(), Failure> {
    let answer = ask(args, Command::AliasExpire { address, days }).await?;
    show(args, &answer, |answer| {
        let address = answer["address"].as_str().unwrap_or_default();
        match days {
            Some(days) => format!("{address} is closed in {}", span(days * 86_400)),
            None => format!("{address} stays open"),
        }
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
