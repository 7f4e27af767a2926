//! `postern keypack export`: a pack, its value, its mail and this program on a medium that needs nothing else.
//!
//! A pack is moved, never copied. One that was not used yet goes the way of `postern init`; one that was, with
//! everything in its folder, by [`move_store`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use mailbox::StoreError;
use mailbox::holder::{MoveError, move_store, wipe_store};

use super::super::init::{Init, init_with};
use super::super::passphrase::PassphraseArgs;
use super::super::process::Failure;
use super::super::settings::{self, Settings};
use super::super::{check_loopback, dirs, nesting};
use super::elf::{self, Program};
use super::image;
use crate::net::{Host, system};

/// Arguments of `postern keypack export`.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("medium").required(true).args(["portable", "image"]))]
pub(super) struct ExportArgs {
    /// Folder to put everything into, on a stick for instance.
    #[arg(long, value_name = "DIR")]
    portable: Option<PathBuf>,
    /// New file to write as a disk image: a FAT file system in an MBR, to be put onto a stick as it is.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Size of the image.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(192..=65_536))]
    size: u64,
    /// A pack that was not used yet. Without it, the pack in the data folder is moved.
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
    /// Data folder of the pack that is moved; its bridge must not run.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// The program for the medium: 'postern', linked statically [default: this one].
    #[arg(long, value_name = "FILE")]
    client: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// With --pack: user name for the mail program.
    #[arg(long, value_name = "NAME", default_value = "me")]
    user: String,
    /// With --pack: where the mail program sends.
    #[arg(long, value_name = "ADDR", default_value_t = settings::SMTP)]
    smtp: SocketAddr,
    /// With --pack: where the mail program reads.
    #[arg(long, value_name = "ADDR", default_value_t = settings::IMAP)]
    imap: SocketAddr,
    /// With --pack: SOCKS5 proxy that the relay is reached through, Tor's for instance.
    #[arg(long, value_name = "ADDR")]
    socks: Option<SocketAddr>,
}

/// Arguments of `postern keypack import`.
#[derive(Args)]
pub(super) struct ImportArgs {
    /// Folder of the medium, as 'export' made it.
    #[arg(long, value_name = "DIR")]
    portable: PathBuf,
    /// New data folder.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
}

const PROGRAM: &str = "postern";
const START: &str = "start";
const README: &str = "README.txt";

pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let host = system::host();
    if args.pack.is_none() {
        // The medium would be started without an entry.
        nesting::refuse_bare(&args.dir)?;
        refuse_two(&args.dir)?;
    }
    let client = client(args.client.as_deref())?;
    match (&args.portable, &args.image) {
        (Some(folder), _) => {
            fill(&host, args, &client, folder)?;
            println!(
                "{} holds the pack now, and nothing else does. Start it there with:\n  sh start",
                folder.display()
            );
        }
        (None, Some(file)) => {
            write_image(&host, args, &client, file)?;
            println!(
                "{} holds the pack now, and nothing else does. Put the image onto a stick and overwrite the file:\n  \
                 a second stick with it would be a second holder of one pack.",
                file.display()
            );
        }
        (None, None) => unreachable!("one of the two is required"),
    }
    if args.pack.is_some() {
        println!("Any copy of the pack's file made before now still opens everything: destroy such copies.");
    } else {
        println!(
            "Any backup of {} is of no use from now on: destroy it.",
            args.dir.display()
        );
    }
    Ok(())
}

pub(super) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let from = args.portable.join(dirs::MEDIUM_DATA);
    change_place(&system::host(), &from, &args.dir)?;
    println!(
        "{} holds the pack now; {} holds it no more.",
        args.dir.display(),
        args.portable.display()
    );
    Ok(())
}

/// The program that goes onto the medium. It must run where nothing is installed.
fn client(named: Option<&Path>) -> Result<Vec<u8>, Failure> {
    const BUILD: &str = "cargo rustc --release --locked -p smtp-bridge --bin postern -- -C target-feature=+crt-static";
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().map_err(|error| Failure(format!("this program cannot be found: {error}")))?,
    };
    let bytes = fs::read(&path).map_err(|error| Failure(format!("cannot read {}: {error}", path.display())))?;
    match elf::kind(&bytes) {
        Program::Static => Ok(bytes),
        Program::Dynamic => Err(Failure(format!(
            "{} needs libraries of the machine that it runs on, so it would not run from the medium; build one that does \
             not and name it with --client:\n  {BUILD}",
            path.display()
        ))),
        Program::Other => Err(Failure(format!("{} is no program for Linux", path.display()))),
    }
}

/// Everything that a medium has, into a folder.
fn fill(host: &Host, args: &ExportArgs, client: &[u8], folder: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure(format!("cannot write to {}: {error}", folder.display()));
    let is_there = |name: &str| args.dir.join(name).exists();
    match &args.pack {
        Some(pack) if !pack.is_file() => return Err(Failure(format!("there is no file {}", pack.display()))),
        None if !is_there(settings::FILE) && !is_there("move") => {
            return Err(Failure(format!("{} holds no pack", args.dir.display())));
        }
        _ => {}
    }
    let data = folder.join(dirs::MEDIUM_DATA);
    host.disk.create_dir_all(&data).map_err(failed)?;
    let put = |name: &str, bytes: &[u8], mode| put(&folder.join(name), bytes, mode);
    put(PROGRAM, client, 0o755).map_err(failed)?;
    put(START, include_bytes!("start.sh"), 0o755).map_err(failed)?;
    put(README, include_bytes!("README.txt"), 0o644).map_err(failed)?;
    host.disk.sync_dir(folder).map_err(failed)?;
    match &args.pack {
        Some(pack) => {
            let init = Init {
                half: None,
                pack: pack.clone(),
                dir: data,
                passphrase: args.passphrase.read()?,
                settings: Settings {
                    user: args.user.clone(),
                    smtp: args.smtp,
                    imap: args.imap,
                    mix: Default::default(),
                    cover: None,
                    loops: None,
                    html: Default::default(),
                    real_addresses: Vec::new(),
                    page: None,
                    socks: args.socks,
                    directory_keys: None,
                    nested: None,
                    nested_percent_max: None,
                    nested_relay: None,
                    nested_since: None,
                    notices: Default::default(),
                },
            };
            check_loopback(args.smtp)?;
            init_with(host, &init)
        }
        None => change_place(host, &args.dir, &data),
    }
}

/// Refuses a folder with the pack of a second relay in it, which would stay behind.
fn refuse_two(dir: &Path) -> Result<(), Failure> {
    match nesting::found(dir) {
        None => Ok(()),
        Some(bought) => Err(Failure(format!(
            "{} belongs to a second relay's pack, and is not moved along yet: the two go over two relays where they are",
            bought.display()
        ))),
    }
}

fn change_place(host: &Host, from: &Path, to: &Path) -> Result<(), Failure> {
    refuse_two(from)?;
    move_store(&host.disk, from, to, &*host.entropy).map_err(|error| match error {
        MoveError::Store(StoreError::Locked) => Failure(format!(
            "{} or {} is in use: stop its bridge first",
            from.display(),
            to.display()
        )),
        MoveError::NoStore => Failure(format!("{} holds no pack", from.display())),
        MoveError::Taken => Failure(format!("{} holds a pack already: choose another place", to.display())),
        error => Failure(format!("cannot move {} to {}: {error}", from.display(), to.display())),
    })
}

/// A new file that its owner alone may read, durable.
pub(in crate::cli) fn put_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file, durable; the mode counts where the file system has one.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    let _ = file.set_permissions(fs::Permissions::from_mode(mode));
    file.sync_all()
}

/// An image, by way of a folder beside it that is wiped once the image is whole.
///
/// The image gets its name last. With it, what is left to do is to wipe the folder; without it, the folder holds the pack.
fn write_image(host: &Host, args: &ExportArgs, client: &[u8], file: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure(format!("cannot write {}: {error}", file.display()));
    let beside = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (staging, part) = (beside(".staging"), beside(".part"));
    match (file.exists(), staging.exists()) {
        (true, false) => {
            return Err(Failure(format!(
                "{} exists already: choose another name",
                file.display()
            )));
        }
        (true, true) => {}
        (false, is_begun) => {
            let data = staging.join(dirs::MEDIUM_DATA);
            // Staged whole by a run that was cut off: the pack is there and nowhere else.
            if !(is_begun && is_settled(args, &data)) {
                fill(host, args, client, &staging)?;
            }
            let image = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)
                .map_err(failed)?;
            image::write(&image, args.size << 20, &staging, host.random()).map_err(|error| match error.kind() {
                io::ErrorKind::WriteZero | io::ErrorKind::StorageFull => Failure(format!(
                    "{} MiB are too little for this pack and its mail: give more with --size; the pack is in {} meanwhile, \
                     and the same command goes on from there",
                    args.size,
                    staging.display()
                )),
                _ => failed(error),
            })?;
            fs::rename(&part, file).map_err(failed)?;
            let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed)?;
        }
    }
    let data = staging.join(dirs::MEDIUM_DATA);
    wipe_store(&host.disk, &data).map_err(|error| Failure(format!("cannot wipe {}: {error}", data.display())))?;
    fs::remove_dir_all(&staging).map_err(|error| Failure(format!("cannot remove {}: {error}", staging.display())))
}

/// Whether the pack has come to `data` for good.
fn is_settled(args: &ExportArgs, data: &Path) -> bool {
    let is_store = data.join("header").is_file() && data.join(settings::FILE).is_file();
    // A data folder that still has a move under way is to be finished with first.
    is_store && (args.pack.is_some() || !args.dir.join("move").exists())
}
