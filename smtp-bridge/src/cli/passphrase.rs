//! Where the passphrase comes from: a file, a descriptor, systemd's credentials, or the person at the terminal.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::process::{self, Failure};

/// Where the passphrase is read from; the first that is given counts.
#[derive(Args, Clone, Default)]
pub struct PassphraseArgs {
    /// File with the passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Open file descriptor with the passphrase in its first line.
    #[arg(long, value_name = "FD", conflicts_with = "passphrase_file", value_parser = clap::value_parser!(i32).range(0..))]
    pub passphrase_fd: Option<i32>,
}

/// Name of the credential that a systemd unit hands over.
const CREDENTIAL: &str = "passphrase";
/// Most bytes that are read to find the first line.
const BYTES_MAX: u64 = 64 * 1024;

impl PassphraseArgs {
    /// The passphrase. Without options: the credential that systemd gave this process, else a question on the terminal.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        if let Some(path) = &self.passphrase_file {
            return process::passphrase(path);
        }
        if let Some(number) = self.passphrase_fd {
            return from_descriptor(number);
        }
        if let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            let path = Path::new(&folder).join(CREDENTIAL);
            if path.exists() {
                return process::passphrase(&path);
            }
        }
        if std::io::stdin().is_terminal() {
            return from_terminal();
        }
        Err(Failure(
            "no passphrase: give --passphrase-file or --passphrase-fd, or start this on a terminal".to_owned(),
        ))
    }
}

/// Opens the descriptor anew through the file system, since adopting a number would take it from whoever owns it.
fn from_descriptor(number: i32) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error| Failure(format!("cannot read the passphrase from descriptor {number}: {error}"));
    let mut bytes = Zeroizing::new(Vec::new());
    if number == 0 {
        // Without the file system, which an empty root has not got.
        std::io::stdin()
            .take(BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    } else {
        let file = std::fs::File::open(format!("/proc/self/fd/{number}")).map_err(failed)?;
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    }
    process::first_line(&bytes).ok_or_else(|| {
        Failure(format!(
            "descriptor {number} gave no passphrase: its first line is empty"
        ))
    })
}

fn from_terminal() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let typed = rpassword::prompt_password("Passphrase of the pack: ")
        .map(Zeroizing::new)
        .map_err(|error| Failure(format!("cannot read the passphrase from the terminal: {error}")))?;
    process::first_line(typed.as_bytes()).ok_or_else(|| Failure("the passphrase is empty".to_owned()))
}
