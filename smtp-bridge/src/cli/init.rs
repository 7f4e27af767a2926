//! `postern init`: a data folder from a pack.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::directory::Pin;
use mailbox::holder::{HolderOptions, init_from_halves};
use zeroize::Zeroizing;

use super::passphrase::PassphraseArgs;
use super::process::Failure;
use super::settings::{self, Nested, Settings, check_user};
use super::{check_loopback, dirs, terminal};
use crate::net::Host;

/// Arguments of `postern init`. On a terminal, what is missing is asked.
#[derive(Args)]
pub(super) struct InitArgs {
    /// The pack as you received it.
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
    /// The other half of the pack's pad, where that comes from two sellers. It is overwritten and removed, as the first one is.
    #[arg(long, value_name = "FILE")]
    half: Option<PathBuf>,
    /// New folder for the bridge's data [default: postern in the XDG data folder].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// User name for your mail program [default: me].
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where the mail program sends.
    #[arg(long, value_name = "ADDR", default_value_t = settings::SMTP)]
    smtp: SocketAddr,
    /// Where the mail program reads.
    #[arg(long, value_name = "ADDR", default_value_t = settings::IMAP)]
    imap: SocketAddr,
    /// Where the local page is; another free port is taken where this one is not free.
    #[arg(long, value_name = "ADDR", default_value_t = settings::PAGE)]
    page: SocketAddr,
    /// Directory keys of the relay's federation, or a file with them: from then on the relay's directory is looked at. Have them
    /// from whoever you have the pack from, or better from somebody else; not from the relay itself.
    #[arg(long, value_name = "KEYS|FILE")]
    directory_keys: Option<String>,
    /// Mail goes the direct way, which shows the relay your address and your mail, although there are directory keys: no pack is
    /// bought at a second relay, neither now nor later.
    #[arg(long)]
    direct: bool,
    /// SOCKS5 proxy that the relay is reached through, Tor's for instance.
    #[arg(long, value_name = "ADDR")]
    socks: Option<SocketAddr>,
}

/// What a data folder is made from.
pub struct Init {
    /// The pack's file.
    pub pack: PathBuf,
    /// The other half of its pad, if it has two.
    pub half: Option<PathBuf>,
    /// The new folder.
    pub dir: PathBuf,
    /// Opens the pack, and the folder afterwards.
    pub passphrase: Zeroizing<Vec<u8>>,
    /// What the bridge is to be told.
    pub settings: Settings,
}

const USER: &str = "me";

pub(super) fn init(args: &InitArgs) -> Result<(), Failure> {
    let asked = terminal::is_there();
    let pack = match &args.pack {
        Some(pack) => pack.clone(),
        None if asked => dirs::typed(&terminal::ask("File of the pack", None)?),
        None => return Err(Failure("which pack? Give its file with --pack".to_owned())),
    };
    if !pack.exists() {
        return Err(Failure(format!("there is no file {}", pack.display())));
    }
    let pin = args.directory_keys.as_deref().map(pinned).transpose()?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None if asked && args.pack.is_none() => {
            let default = dirs::data();
            dirs::typed(&terminal::ask(
                "Folder for the bridge's data",
                Some(&default.display().to_string()),
            )?)
        }
        None => dirs::data(),
    };
    let user = match &args.user {
        Some(user) => user.clone(),
        None if asked && args.pack.is_none() => terminal::ask("User name for your mail program", Some(USER))?,
        None => USER.to_owned(),
    };
    // A link inside would use the pad up twice, and mail would not be under it any more.
    let has_pad = args.half.is_some() || mailbox::pad::beside(&pack).exists();
    let nested = match (args.direct, &pin) {
        (true, _) => Some(Nested::Never),
        (false, Some(_)) if !has_pad => Some(Nested::Auto),
        _ => None,
    };
    let init = Init {
        passphrase: args.passphrase.read()?,
        settings: Settings {
            user,
            smtp: args.smtp,
            imap: args.imap,
            mix: Default::default(),
            cover: None,
            loops: None,
            html: Default::default(),
            real_addresses: Vec::new(),
            page: Some(args.page),
            socks: args.socks,
            directory_keys: pin,
            nested,
            nested_percent_max: None,
            nested_relay: None,
            nested_since: None,
            notices: Default::default(),
        },
        pack,
        half: args.half.clone(),
        dir,
    };
    init_with(&crate::net::system::host(), &init)?;
    let dir = dir_option(&init.dir);
    let passphrase = match (&args.passphrase.passphrase_file, args.passphrase.passphrase_fd) {
        (Some(file), _) => format!(" --passphrase-file {}", shell(file)),
        (None, Some(number)) => format!(" --passphrase-fd {number}"),
        (None, None) => String::new(),
    };
    println!("Ready. Start the bridge with:\n  postern bridge{dir}{passphrase}");
    if nested == Some(Nested::Auto) {
        println!(
            "Mail goes nested, over two relays of two operators: the bridge buys a pack at a second relay by itself, for at most half \
             of the value, and sends nothing before that is there. 'postern status' says how it stands; 'nested = false' in \
             bridge.toml, or 'init --direct', declines."
        );
    }
    println!("Then set up your mail program, for instance:\n  postern setup thunderbird{dir}");
    println!(
        "Any copy of the pack's file made before now still opens everything. While the bridge runs,\n  postern activate{dir}\nmakes them worthless."
    );
    Ok(())
}

/// Directory keys as they were given, or as they stand in a file of that name.
fn pinned(given: &str) -> Result<String, Failure> {
    let text = match std::fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) => given.to_owned(),
    };
    let pin = Pin::parse(&text).map_err(|_| {
        Failure(
            "these are no directory keys, as 'posternd directory keys' prints them, or there is a slip in them"
                .to_owned(),
        )
    })?;
    Ok(pin.to_text())
}

/// Makes a data folder from a pack, or resumes where an earlier try was cut off.
pub fn init_with(host: &Host, init: &Init) -> Result<(), Failure> {
    check_loopback(init.settings.smtp)?;
    check_loopback(init.settings.imap)?;
    init.settings.page.map_or(Ok(()), check_loopback)?;
    check_user(&init.settings.user)?;
    let failed =
        |error: &dyn std::fmt::Display| Failure(format!("cannot make {} from the pack: {error}", init.dir.display()));
    if let Some(parent) = init.dir.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    }
    init_from_halves(
        &host.disk,
        (&init.pack, init.half.as_deref()),
        &init.dir,
        &init.passphrase,
        &HolderOptions::default(),
        &host.entropy,
    )
    .map_err(|error| failed(&error))?;
    init.settings.write(&init.dir)
}

/// The option that names a folder other than the one taken by itself.
pub(super) fn dir_option(dir: &Path) -> String {
    if dir == dirs::data() {
        String::new()
    } else {
        format!(" --dir {}", shell(dir))
    }
}

/// A path as a shell takes it.
pub(super) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
