//! Commands beside a running relay, through its control socket.

use std::io::{self, IsTerminal};
use std::path::Path;

use keypacks::pad::Layout;
use serde_json::{Value, json};
use smtp_bridge::cli::process::{self, Failure};
use smtp_bridge::control;
use smtp_bridge::net::{Host, system};

use super::{BesideArgs, IssueArgs, QueueCommand, TopUpArgs};
use crate::hexadecimal;
use crate::operator::{Command as Order, IssuedPack};
use crate::packfile::Draft;
use crate::padfile::{self, PadDraft, Sources};

/// Issues a pack and writes its file.
pub(super) async fn issue(args: IssueArgs) -> Result<(), Failure> {
    let passphrase = process::passphrase(&args.passphrase_file)?;
    let host = system::host();
    let failed = |error| Failure(format!("cannot write {}: {error}", args.out.display()));
    let draft = Draft::begin(&host, &args.out).map_err(failed)?;
    let pad = match pad_of(&host, &args) {
        Ok(pad) => pad,
        Err(error) => {
            draft.abandon(&host);
            return Err(error);
        }
    };
    let draft = draft.on_pad(pad.as_ref());
    let order = Order::Issue {
        keys: args.keys,
        value: args.value,
        operator: args.operator,
        rotate: args.rotate.to_string(),
        pad: pad.as_ref().map(|pad| hexadecimal::encode(&pad.made.name)),
        half: pad
            .as_ref()
            .and_then(|pad| pad.half.as_ref().map(|half| hexadecimal::encode(half.expose()))),
    };
    let answer = match control::ask(&host, &args.beside.data, &order).await {
        Ok(answer) => answer,
        Err(refused) => {
            draft.abandon(&host);
            pad.inspect(|pad| pad.abandon(&host));
            return Err(refused.into());
        }
    };
    let issued: IssuedPack =
        serde_json::from_value(answer).map_err(|_| Failure("the relay gave an unreadable answer".into()))?;
    if let Some(pad) = &pad {
        pad.hand_out(&host).map_err(failed)?;
    }
    draft.finish(&host, &issued, args.keys, &passphrase).map_err(failed)?;
    if let Some(pad) = &pad {
        pad.forget_half(&host).map_err(|error| {
            Failure(format!(
                "the half that was given could not be overwritten, do so now: {error}"
            ))
        })?;
    }
    let (out, identifier) = (args.out.display(), &issued.identifier);
    if args.beside.json {
        let shown = json!({ "pack": args.out, "identifier": identifier, "keys": args.keys, "value": args.value, "rotate": args.rotate.to_string() });
        println!("{shown}");
    } else {
        println!(
            "{out} holds {} keys and {} µtok; its identifier is {identifier}",
            args.keys, args.value
        );
        if args.rotate.rotates() {
            println!("Its links go on under a new key by: {}", args.rotate);
        }
        if let Some(pad) = &pad {
            let bytes = pad.made.layout.region();
            println!(
                "{out}.pad is its one-time pad, {bytes} bytes each way: it goes to the holder with the pack, and no copy stays"
            );
            if pad.half.is_some() {
                println!(
                    "It is one half of it, and opens nothing without the other, which goes to the holder another way"
                );
            }
        }
        let half = if args.half.is_some() { " --half HALF" } else { "" };
        println!("Its holder runs: postern init --pack {out}{half} --dir DIR --passphrase-file FILE");
    }
    Ok(())
}

/// Makes the pad of a pack, if it is to have one.
fn pad_of(host: &Host, args: &IssueArgs) -> Result<Option<PadDraft>, Failure> {
    let Some(size) = args.pad else { return Ok(None) };
    let failed = |error: io::Error| Failure(format!("cannot make the pad: {error}"));
    let layout = Layout::of_size(size).map_err(|_| Failure("a pad has at least 1M and at most 1T".to_owned()))?;
    let sources = Sources::open(&args.mix, layout, io::stdin().lock())
        .and_then(|sources| sources.with_half(args.half.as_deref(), layout))
        .map_err(failed)?;
    let is_watched = io::stderr().is_terminal();
    let mut shown = None;
    let pad = padfile::make(host, layout, sources, &args.out, &args.beside.data, |done, of| {
        let percent = done * 100 / of;
        if is_watched && shown != Some(percent) {
            shown = Some(percent);
            let bar = "#".repeat((percent / 4) as usize);
            eprint!("\rmaking the pad [{bar:<25}] {percent:>3} %");
            if done == of {
                eprintln!();
            }
        }
    })
    .map_err(failed)?;
    match pad.install(host) {
        Ok(()) => Ok(Some(pad)),
        Err(error) => {
            pad.abandon(host);
            Err(failed(error))
        }
    }
}

/// Credits an account.
pub(super) async fn top_up(args: TopUpArgs) -> Result<(), Failure> {
    let id = args
        .id
        .unwrap_or_else(|| hexadecimal::encode(&system::host().random::<16>()));
    let order = Order::TopUp {
        account: args.account,
        amount: args.amount,
        id,
    };
    ask(&args.beside, &order, |answer| {
        format!("balance {} µtok", answer["balance"])
    })
    .await
    .map(|_| ())
}

/// Copies the database.
pub(super) async fn backup(args: &BesideArgs, to: &Path) -> Result<(), Failure> {
    // The relay writes it, from a working folder of its own.
    let folder = std::path::absolute(to).map_err(|error| Failure(format!("{}: {error}", to.display())))?;
    ask(args, &Order::Backup { folder }, |answer| {
        format!(
            "copied {} rows and {} bodies ({} bytes); it opens beside this relay's key files alone",
            answer["rows"], answer["bodies"], answer["bytes"]
        )
    })
    .await
    .map(|_| ())
}

/// Runs an audit or a verification.
pub(super) async fn audit(args: &BesideArgs, order: &Order) -> Result<(), Failure> {
    let answer = ask(args, order, |answer| {
        let findings: Vec<String> = answer["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|finding| format!("\n{}", finding.as_str().unwrap_or_default()))
            .collect();
        let read = match &answer["rows"] {
            Value::Null => String::new(),
            rows => format!(
                "\nread {rows} rows, {} bodies, {} key slots, {} records of the log ({} bytes)",
                answer["bodies"], answer["slots"], answer["records"], answer["bytes"]
            ),
        };
        format!(
            "{}{read}{}",
            sums(&answer["totals"]),
            if findings.is_empty() {
                "\nno contradiction".to_owned()
            } else {
                findings.concat()
            }
        )
    })
    .await?;
    match answer["findings"].as_array() {
        Some(findings) if findings.is_empty() => Ok(()),
        _ => Err(Failure(
            "the books contradict themselves: stop the relay, keep a copy of its data folder, and report this"
                .to_owned(),
        )),
    }
}

/// Sums as kept.
pub(super) async fn totals(args: &BesideArgs) -> Result<(), Failure> {
    ask(args, &Order::Totals, sums).await.map(|_| ())
}

/// Postings of one account.
pub(super) async fn statement(args: &BesideArgs, account: String) -> Result<(), Failure> {
    let order = Order::Statement { account };
    let columns = ["day", "kind", "credit", "debit"];
    ask(args, &order, |answer| rows(answer, &columns, "no postings"))
        .await
        .map(|_| ())
}

/// Shows the queue or changes it.
pub(super) async fn queue(command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::List(args) => {
            let now = system::host().clock.unix_seconds();
            ask(&args, &Order::Queue, |answer| waiting(answer, now)).await
        }
        QueueCommand::Retry { row, beside } => {
            let order = Order::QueueRetry { row: row.0 };
            let text = |answer: &Value| format!("{} made due now", answer["retried"]);
            ask(&beside, &order, text).await
        }
        QueueCommand::Drop { row, beside } => {
            let text = |answer: &Value| format!("{} given up, its sender gets a report", answer["dropped"]);
            ask(&beside, &Order::QueueDrop { row }, text).await
        }
    }
    .map(|_| ())
}

/// The queue for people: times as waits.
fn waiting(answer: &Value, now: u64) -> String {
    let mut shown = answer.clone();
    for row in shown["rows"].as_array_mut().into_iter().flatten() {
        let age = row["age"].as_u64().unwrap_or_default();
        let wait = row["due"].as_u64().unwrap_or_default().saturating_sub(now);
        row["age"] = json!(span(age));
        row["next try"] = json!(if row["pooled"] == true {
            "pooled".to_owned()
        } else if wait == 0 {
            "now".to_owned()
        } else {
            format!("in {}", span(wait))
        });
        row["size"] = json!(format!("{} kB", row["kilobytes"]));
        if row["last"].is_null() {
            row["last"] = json!("-");
        }
    }
    let columns = ["row", "age", "attempts", "size", "next try", "last"];
    rows(&shown, &columns, "the queue is empty")
}

/// A time in its largest unit: nobody needs it finer.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(super) async fn ask(
    args: &BesideArgs,
    order: &Order,
    text: impl FnOnce(&Value) -> String,
) -> Result<Value, Failure> {
    let answer = control::ask(&system::host(), &args.data, order).await?;
    if args.json {
        println!("{answer}")
    } else {
        println!("{}", text(&answer).trim_end())
    }
    Ok(answer)
}

fn sums(totals: &Value) -> String {
    let rows = totals
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name:<12} {value}\n"));
    rows.collect()
}

pub(super) fn rows(answer: &Value, columns: &[&str], none: &str) -> String {
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return none.to_owned();
    }
    let line = |cells: Vec<String>| {
        cells
            .iter()
            .map(|cell| format!("{cell:<18}"))
            .collect::<String>()
            .trim_end()
            .to_owned()
            + "\n"
    };
    let head = line(columns.iter().map(|column| (*column).to_owned()).collect());
    let body = rows.iter().map(|row| {
        line(
            columns
                .iter()
                .map(|column| match &row[*column] {
                    Value::Null => "-".to_owned(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect(),
        )
    });
    head + &body.collect::<String>()
}
