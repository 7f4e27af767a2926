//! `postern keypack panic-wipe`: keys first, then everything else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mailbox::StoreError;
use mailbox::holder::wipe_store;

use super::super::process::Failure;
use super::super::{dirs, nesting, terminal};
use crate::bridge::commands::Command;
use crate::control;
use crate::net::{Host, system};

/// Arguments of `postern keypack panic-wipe`.
#[derive(Args)]
pub(super) struct WipeArgs {
    /// Pack files, data folders or media.
    #[arg(value_name = "PLACE", required = true)]
    places: Vec<PathBuf>,
    /// Ask nothing.
    #[arg(long)]
    yes: bool,
}

/// How long a running bridge may take to let go.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn wipe(args: &WipeArgs) -> Result<(), Failure> {
    if !args.yes {
        if !terminal::is_there() {
            return Err(Failure("nobody is there to agree: give --yes".to_owned()));
        }
        let shown: Vec<String> = args.places.iter().map(|place| place.display().to_string()).collect();
        eprintln!(
            "This destroys keys, value and mail in {}. Nothing brings them back.",
            shown.join(", ")
        );
        if terminal::ask("Type 'wipe' to go on", None)? != "wipe" {
            return Err(Failure("nothing was changed".to_owned()));
        }
    }
    let mut failed = Vec::new();
    for place in &args.places {
        // One that fails must not save the others.
        if let Err(Failure(sentence)) = wipe_place(place).await {
            failed.push(sentence);
        }
    }
    println!(
        "Not reached from here: copies and backups of packs, snapshots, blocks that flash or copy-on-write file systems keep, \
         swap, mail that mail programs keep, and what the relay has: aliases, postings, and mail sealed for this pack."
    );
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure(failed.join("; "))),
    }
}

async fn wipe_place(place: &Path) -> Result<(), Failure> {
    let host = system::host();
    let failed = |error: &dyn std::fmt::Display| Failure(format!("cannot wipe {}: {error}", place.display()));
    if place.is_file() {
        return wipe_file(place).map_err(|error| failed(&error));
    }
    let data = place.join(dirs::MEDIUM_DATA);
    let folder = if data.is_dir() { data } else { place.to_owned() };
    // A bridge that bought the second relay's pack by itself holds both.
    let folders = [nesting::far(&folder), folder.clone()];
    let stores: Vec<&PathBuf> = folders.iter().filter(|folder| is_store(folder)).collect();
    if stores.is_empty() {
        return Err(failed(&"it holds no pack"));
    }
    let mut sentences = Vec::new();
    for folder in stores.into_iter().rev() {
        // One that fails must not save the other.
        if let Err(Failure(sentence)) = wipe_folder(&host, folder).await {
            sentences.push(sentence);
        }
    }
    match sentences.is_empty() {
        true => Ok(()),
        false => Err(Failure(sentences.join("; "))),
    }
}

async fn wipe_folder(host: &Host, folder: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure(format!("cannot wipe {}: {error}", folder.display()));
    // Whether there is one to stop shows at the lock.
    let _ = control::ask(host, folder, &Command::Stop).await;
    let letting_go = async {
        loop {
            match wipe_store(&host.disk, folder) {
                Err(StoreError::Locked) => tokio::time::sleep(Duration::from_millis(20)).await,
                done => return done,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, letting_go).await {
        Ok(done) => done.map_err(|error| failed(&error))?,
        Err(_) => {
            return Err(failed(
                &"a bridge holds it and does not stop: kill it, then give this command again",
            ));
        }
    }
    println!("{} is wiped", folder.display());
    Ok(())
}

fn is_store(folder: &Path) -> bool {
    ["header", "header.moved", "slots", "slab", "pad", "move"]
        .iter()
        .any(|name| folder.join(name).exists())
}

/// Zeros over a pack's file, which then goes. Only a pack: a slip of the pen is not to cost a photograph.
pub(super) fn wipe_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 0)?;
    let second = file.read_exact_at(&mut [0; 8], keypacks::pack::BLOCK as u64).is_ok();
    if start != *keypacks::pack::Header::MAGIC || !second {
        return Err(std::io::Error::other("it is no pack"));
    }
    overwrite(&file, path)?;
    println!("{} is wiped", path.display());
    // Whoever has the pad can be the holder, without the pack.
    let pad = mailbox::pad::beside(path);
    match std::fs::OpenOptions::new().read(true).write(true).open(&pad) {
        Ok(file) => overwrite(&file, &pad).inspect(|()| println!("{} is wiped", pad.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Zeros over a file of ours, however much of it was written, which then goes.
pub(in crate::cli) fn end_file(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    overwrite(&file, path)
}

/// Zeros over all of a file, which then goes.
fn overwrite(file: &std::fs::File, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    let length = file.metadata()?.len();
    while at < length {
        let step = zeros.len().min(usize::try_from(length - at).unwrap_or(zeros.len()));
        file.write_all_at(&zeros[..step], at)?;
        at += step as u64;
    }
    file.sync_all()?;
    std::fs::remove_file(path)?;
    // A name that came back after a power cut would be of a file that opens no more.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
