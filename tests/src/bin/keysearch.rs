//! Looks for whatever opens a recorded link, in files, core images and live memory.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keypacks::CELL;
use postern_tests::Failure;
use postern_tests::keysearch::{Outcome, Recording, files, memory, open_slots, search};

/// Tries every window of 32 octets as a key of a recorded first cell, and the states in key slots as their owner would.
///
/// Exit 0: nothing opens it. 1: something does, and is named. 2: the search could not be made.
#[derive(Parser)]
#[command(name = "keysearch")]
struct Arguments {
    /// The recorded first cell; what follows it in the file is ignored.
    #[arg(long, value_name = "FILE")]
    cell: PathBuf,
    /// A live process, whose writable memory is searched.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Passphrase of a holder whose folder is among the paths.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
    /// Files, core images, and folders with all that is below them.
    paths: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match run(&Arguments::parse()) {
        Ok(outcome) => outcome,
        Err(failure) => {
            eprintln!("keysearch: {failure}");
            return ExitCode::from(2);
        }
    };
    for hit in &outcome.hits {
        println!("{hit}");
    }
    let Outcome {
        windows,
        tried,
        unread,
        slots,
        hits,
    } = outcome;
    println!(
        "KEYSEARCH windows={windows} tried={tried} unread={unread} slots={slots} hits={}",
        hits.len()
    );
    ExitCode::from(u8::from(!hits.is_empty()))
}

fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let cell = read(&arguments.cell)?;
    let cell = cell
        .first_chunk::<CELL>()
        .ok_or("the recording is shorter than a cell")?;
    let passphrases = arguments.passphrase_file.iter().map(|path| first_line(path));
    let passphrases = passphrases.collect::<Result<Vec<_>, _>>()?;
    let mut sources = Vec::new();
    for path in &arguments.paths {
        sources.extend(files(path).map_err(|error| named(path, &error))?);
    }
    let mut slots = Vec::new();
    for source in &sources {
        slots.extend(open_slots(source.path(), &passphrases).map_err(|error| named(source.path(), &error))?);
    }
    for pid in &arguments.pid {
        sources.extend(memory(*pid).map_err(|error| format!("process {pid}: {error}"))?);
    }
    Ok(search(&Recording::of_cell(cell), &sources, &slots))
}

fn first_line(path: &Path) -> Result<Vec<u8>, Failure> {
    let text = read(path)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(std::fs::read(path).map_err(|error| named(path, &error))?)
}

fn named(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
