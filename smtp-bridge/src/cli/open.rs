//! `postern open`: deposits that were carried become mail in INBOX. No link is needed, and no bridge: one that runs is
//! asked, else the folder is opened here.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::desk::Desk;
use super::process::{self, Failure};
use super::{PassphraseArgs, dirs};
use crate::bridge::opening::{FAR_MAX, Outcome};
use crate::figures::grouped;
use crate::message::carried::{self, Found};

/// Most that is read from standard input, in bytes: the largest class in base64.
const STDIN_MAX: u64 = 96 << 20;
/// Most files in the folders that were named.
const FILES_MAX: usize = 100_000;
/// Most folders within each other.
const DEPTH_MAX: usize = 8;

/// Arguments of `postern open`.
#[derive(Args)]
pub(super) struct OpenArgs {
    /// What was carried: mails, mailbox files, folders of mails, or bare deposits; '-' is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder made by 'postern init'.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// Where the passphrase comes from, if no bridge is running.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Look further ahead for deposits that are not known, over a thousand that never came. What is passed over cannot be
    /// opened any more: carry all that waits first.
    #[arg(long)]
    far: bool,
    /// Write the messages as files into this folder too.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// For tests: kill the process at a disk operation, as in "index.sync:3:before".
    #[arg(long, hide = true, value_name = "OP:N:WHEN")]
    kill_at: Option<String>,
}

/// What was read, to be read again piece by piece.
enum Source {
    File(PathBuf),
    Memory(Vec<u8>),
}

/// A deposit and where it is.
struct Carried {
    source: usize,
    found: Found,
    index: Option<u64>,
}

/// What came of all that was carried.
#[derive(Default)]
struct Summary {
    mails: usize,
    receipts: usize,
    events: usize,
    again: usize,
    damaged: usize,
    contradicted: usize,
    unknown: usize,
    missing: u64,
    passed_over: u64,
}

pub(super) async fn open(args: &OpenArgs) -> Result<(), Failure> {
    let sources = sources(&args.files)?;
    let mut summary = Summary::default();
    let mut all = Vec::new();
    for (source, from) in sources.iter().enumerate() {
        let (found, damaged) = from.find()?;
        summary.damaged += damaged as usize;
        all.extend(found.into_iter().map(|found| Carried {
            source,
            found,
            index: None,
        }));
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|error| cannot("write to", out, &error))?;
    }
    let desk = Desk::open_on(process::host(args.kill_at.as_deref())?, &args.dir, &args.passphrase).await?;
    summary.missing = put_in_order(&desk, &mut all).await?;
    let mut names = 0;
    let mut left: Vec<&Carried> = all.iter().collect();
    loop {
        let (before, mut unknown) = (left.len(), Vec::new());
        for carried in left {
            let deposit = sources[carried.source].read(&carried.found)?;
            let opened = match deposit {
                Some(deposit) => desk.open_deposit(&deposit, args.out.is_some()).await?,
                None => Outcome::Damaged.into(),
            };
            if opened.outcome == Outcome::Unknown {
                unknown.push(carried);
                continue;
            }
            summary.count(opened.outcome);
            if let (Some(out), Some(message)) = (&args.out, opened.message) {
                write(out, &mut names, &message)?;
            }
        }
        // What was too far ahead may be known behind those that were opened.
        left = unknown;
        if left.is_empty() || left.len() == before && !(args.far && go_far(&desk, &left, &mut summary).await?) {
            break;
        }
    }
    left.iter().for_each(|_| summary.count(Outcome::Unknown));
    desk.close().await?;
    match args.json {
        true => println!("{}", summary.json()),
        false => println!("{}", summary.text()),
    }
    match summary.complaint(all.len()) {
        Some(complaint) => Err(Failure(complaint.to_owned())),
        None => Ok(()),
    }
}

/// Goes on at the first of these deposits, however far ahead. `false`: it was not found.
async fn go_far(desk: &Desk, left: &[&Carried], summary: &mut Summary) -> Result<bool, Failure> {
    let wraps: Vec<u8> = left
        .iter()
        .flat_map(|carried| carried.found.wrap.iter().copied())
        .collect();
    eprintln!("looking far ahead for {} ...", counted(left.len(), "deposit"));
    let mut tell = |looked_at: u64| {
        if looked_at.is_multiple_of(1 << 16) {
            eprintln!("  {} of {} places looked at", grouped(looked_at), grouped(FAR_MAX));
        }
    };
    let passed = desk.go_far(&wraps, &mut tell).await?;
    summary.passed_over += passed.unwrap_or_default();
    Ok(passed.is_some())
}

/// Puts deposits into the order of the sequence. Returns how many before the last of them are not among them.
async fn put_in_order(desk: &Desk, all: &mut [Carried]) -> Result<u64, Failure> {
    if all.is_empty() {
        return Ok(0);
    }
    let wraps: Vec<u8> = all
        .iter()
        .flat_map(|carried| carried.found.wrap.iter().copied())
        .collect();
    let (indices, from) = desk.indices(&wraps).await?;
    for (carried, index) in all.iter_mut().zip(indices) {
        carried.index = index;
    }
    // Those that are not known yet come behind those that are.
    all.sort_by_key(|carried| carried.index.unwrap_or(u64::MAX));
    let mut new: Vec<u64> = all
        .iter()
        .filter_map(|carried| carried.index)
        .filter(|index| *index >= from)
        .collect();
    new.dedup();
    Ok(new.last().map_or(0, |last| last + 1 - from - new.len() as u64))
}

impl Source {
    fn find(&self) -> Result<(Vec<Found>, u32), Failure> {
        match self {
            Source::File(path) => {
                let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
                carried::find(BufReader::new(file)).map_err(|error| cannot("read", path, &error))
            }
            Source::Memory(bytes) => {
                carried::find(Cursor::new(bytes)).map_err(|error| cannot("read", Path::new("-"), &error))
            }
        }
    }

    /// The octets of a deposit. `None`: they do not read as they did.
    fn read(&self, found: &Found) -> Result<Option<Vec<u8>>, Failure> {
        let mut octets = Vec::new();
        match self {
            Source::File(path) => {
                let read = File::open(path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(found.at))?;
                    file.take(found.length).read_to_end(&mut octets)
                });
                read.map_err(|error| cannot("read", path, &error))?;
            }
            Source::Memory(bytes) => {
                let rest = bytes.iter().skip(usize::try_from(found.at).unwrap_or(usize::MAX));
                octets.extend(rest.take(usize::try_from(found.length).unwrap_or(usize::MAX)));
            }
        }
        Ok(carried::decode(found, octets))
    }
}

fn sources(named: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(STDIN_MAX + 1).read_to_end(&mut bytes);
            read.map_err(|error| cannot("read", path, &error))?;
            if bytes.len() as u64 > STDIN_MAX {
                return Err(Failure("standard input is too long: give the files by name".to_owned()));
            }
            sources.push(Source::Memory(bytes));
        } else {
            add(path, &mut sources, 0).map_err(|error| cannot("read", path, &error))?;
            if sources.len() > FILES_MAX {
                return Err(Failure(format!(
                    "more than {FILES_MAX} files: give fewer of them at one time"
                )));
            }
        }
    }
    Ok(sources)
}

/// A file, or all files of a folder, in the order of their names.
fn add(path: &Path, sources: &mut Vec<Source>, depth: usize) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        sources.push(Source::File(path.to_owned()));
        return Ok(());
    }
    if depth == DEPTH_MAX || sources.len() > FILES_MAX {
        return Ok(());
    }
    let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| add(entry, sources, depth + 1))
}

/// Writes a message under the next free name.
fn write(out: &Path, names: &mut u32, message: &Zeroizing<Vec<u8>>) -> Result<(), Failure> {
    loop {
        *names += 1;
        let path = out.join(format!("{names:05}.eml"));
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let written = made.and_then(|mut file| std::io::Write::write_all(&mut file, message));
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot("write", &path, &error)),
            Ok(()) => return Ok(()),
        }
    }
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("cannot {verb} {}: {error}", path.display()))
}

impl Summary {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Mail => self.mails += 1,
            Outcome::Receipts(count) => self.receipts += count,
            Outcome::Events(count) => self.events += count,
            Outcome::Again => self.again += 1,
            Outcome::Damaged => self.damaged += 1,
            Outcome::Contradicted => self.contradicted += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "mails": self.mails,
            "receipts": self.receipts,
            "events": self.events,
            "again": self.again,
            "damaged": self.damaged,
            "contradicted": self.contradicted,
            "unknown": self.unknown,
            "missing": self.missing,
            "passed_over": self.passed_over,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} new in INBOX, {} of parcels and logins answered",
            counted(self.mails, "message"),
            counted(self.receipts, "receipt")
        );
        let mut line = |count: usize, words: &str| {
            if count > 0 {
                text.push_str(&format!("\n{count} {words}"));
            }
        };
        line(
            self.events,
            "from the account's other devices: how aliases stand, who joined or was dropped",
        );
        line(self.again, "opened before: 'postern seal --control' tells the relay");
        line(
            usize::try_from(self.missing).unwrap_or(usize::MAX),
            "before these did not come with them: carry them too, or collect again; their keys are kept for 30 days",
        );
        line(self.damaged, "damaged: nothing was changed by them; collect again");
        line(
            usize::try_from(self.passed_over).unwrap_or(usize::MAX),
            "places before these were passed over, as was asked: the last 1,024 of them can still be opened",
        );
        line(
            self.unknown,
            "of another pack, confirmed long ago, or over 1,024 places ahead of what came before: '--far' looks there",
        );
        line(
            self.contradicted,
            "under an index that another deposit came under before: ask the relay's operator whether it was restored",
        );
        text
    }

    /// What makes the command fail.
    fn complaint(&self, found: usize) -> Option<&'static str> {
        match self {
            _ if found == 0 && self.damaged == 0 => Some("there is no deposit in what was given"),
            Summary { contradicted: 1.., .. } => Some("the relay contradicts itself: nothing of that was taken"),
            Summary { damaged: 1.., .. } => Some("some deposits are damaged"),
            _ if self.unknown == found => {
                Some("none of these deposits is for this pack, or all were confirmed long ago")
            }
            _ => None,
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
