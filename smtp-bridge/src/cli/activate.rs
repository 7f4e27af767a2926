//! `postern activate` and `postern rekey`: new keys for the pack, and a recovery code for the next ones.
//!
//! The code is drawn here and confirmed by the person before anything is asked of the relay, and the bridge gets its
//! verifier alone: no crash leaves a pack with a code that nobody has, and no disk has one but where it was told to.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use keypacks::Secret;
use keypacks::reroot::RecoveryCode;
use zeroize::Zeroizing;

use super::process::{self, Failure};
use super::{BesideArgs, beside, terminal};
use crate::bridge::commands::Command;
use crate::net::Host;

/// Arguments of `postern activate`.
#[derive(Args)]
pub(super) struct ActivateArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Write the recovery code to this new file instead of showing it. Keep the file elsewhere.
    #[arg(long, value_name = "FILE")]
    code_to: Option<PathBuf>,
}

/// Arguments of `postern rekey`.
#[derive(Args)]
pub(super) struct RekeyArgs {
    #[command(flatten)]
    new: ActivateArgs,
    /// File with the pack's recovery code in its first line, instead of asking for it.
    #[arg(long, value_name = "FILE")]
    code_from: Option<PathBuf>,
}

/// How often what was typed may be wrong.
const TRIES: usize = 3;
/// Characters of one group of a code.
const GROUP: usize = 4;

pub(super) async fn activate(args: &ActivateArgs) -> Result<(), Failure> {
    if roots(args).await? > 0 {
        return Err(Failure(
            "this pack is activated already: 'postern rekey' gives it new keys again".to_owned(),
        ));
    }
    reroot(args, None).await
}

pub(super) async fn rekey(args: &RekeyArgs) -> Result<(), Failure> {
    if roots(&args.new).await? == 0 {
        return Err(Failure(
            "this pack has no recovery code yet: 'postern activate' gives it new keys and one".to_owned(),
        ));
    }
    let proof = present(args.code_from.as_deref())?;
    reroot(&args.new, Some(proof)).await
}

/// How many roots the pack was given.
async fn roots(args: &ActivateArgs) -> Result<u64, Failure> {
    let status = beside::ask(&args.beside, Command::Status).await?;
    Ok(status["root"].as_u64().unwrap_or_default())
}

async fn reroot(args: &ActivateArgs, proof: Option<RecoveryCode>) -> Result<(), Failure> {
    let host = process::host(None)?;
    let code = RecoveryCode::new(Secret::new(host.random()));
    hand_over(&host, &code, args.code_to.as_deref())?;
    let order = Command::Reroot {
        recovery: code.verifier(),
        proof: proof.as_ref().map(|proof| *proof.proof()),
    };
    let answer = beside::ask(&args.beside, order).await.map_err(|Failure(sentence)| {
        let keep = match proof {
            Some(_) => {
                "the code from before, and the new one until 'postern status' says that no new keys are asked for"
            }
            None => "the code until 'postern status' says that no new keys are asked for",
        };
        Failure(format!("{sentence}\nKeep {keep}."))
    })?;
    beside::show(&args.beside, &answer, |_| {
        "The pack has new keys. Copies made before open nothing; the new recovery code alone gives it others."
            .to_owned()
    });
    Ok(())
}

/// Gives the code to the person, who then shows to have it.
fn hand_over(host: &Host, code: &RecoveryCode, file: Option<&Path>) -> Result<(), Failure> {
    let text = code.to_text();
    if let Some(path) = file {
        return keep(path, &text);
    }
    if !terminal::is_there() {
        return Err(Failure(
            "there is nobody to show the recovery code to: start this on a terminal, or give a new file with --code-to"
                .to_owned(),
        ));
    }
    eprintln!(
        "The pack's recovery code, which is shown once and kept nowhere else:\n\n    {}\n\nWrite it down. Whoever has a copy of this folder cannot take the pack from you without it.\n",
        *text
    );
    let groups: Vec<&str> = text.split('-').collect();
    let [drawn] = host.random::<1>();
    let first = usize::from(drawn) % groups.len();
    for group in [first, (first + 3) % groups.len()] {
        confirm(group, groups[group])?;
    }
    Ok(())
}

fn confirm(number: usize, group: &str) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let typed = Zeroizing::new(terminal::ask(&format!("Type group {} of it", number + 1), None)?);
        if typed.trim().eq_ignore_ascii_case(group) {
            return Ok(());
        }
        eprintln!("That is not group {}, of {GROUP} characters.", number + 1);
    }
    Err(Failure(
        "the code was not confirmed: nothing was changed, and it is void".to_owned(),
    ))
}

/// Writes the code to a new file that nobody else may read.
fn keep(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(format!("{text}\n").as_bytes())?;
            file.sync_all()
        });
    written.map_err(|error| Failure(format!("cannot write the recovery code to {}: {error}", path.display())))
}

/// The code in force: from a file, or from the person at the terminal, who does not see it.
fn present(file: Option<&Path>) -> Result<RecoveryCode, Failure> {
    let typed = match file {
        Some(path) => process::passphrase(path)?,
        None if std::io::stdin().is_terminal() => rpassword::prompt_password("Recovery code of the pack: ")
            .map(|typed| Zeroizing::new(typed.into_bytes()))
            .map_err(|error| Failure(format!("cannot read the recovery code from the terminal: {error}")))?,
        None => {
            return Err(Failure(
                "no recovery code: give its file with --code-from, or start this on a terminal".to_owned(),
            ));
        }
    };
    let text = std::str::from_utf8(&typed).unwrap_or_default();
    RecoveryCode::parse(text.trim()).map_err(|_| {
        Failure("this is no recovery code: it has seven groups of four characters, and one of them is wrong".to_owned())
    })
}
