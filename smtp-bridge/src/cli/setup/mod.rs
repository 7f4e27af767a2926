//! `postern setup`: the configuration of a mail program for the running bridge, printed or put in its place.

mod install;
mod programs;
mod thunderbird;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;
use zeroize::Zeroizing;

use super::process::Failure;
use super::{BesideArgs, dirs};
use crate::bridge::commands::Command;
use crate::control;
use crate::net::system;

/// Arguments of `postern setup`.
#[derive(Args)]
pub(super) struct SetupArgs {
    /// The mail program.
    program: Program,
    /// Put the configuration where the program looks for it; an older file is kept beside it.
    #[arg(long)]
    write: bool,
    /// Write to this file instead (for Thunderbird: to this profile folder, or to a file ISP/localhost.xml).
    #[arg(long, value_name = "FILE", requires = "write")]
    to: Option<PathBuf>,
    /// Replace an older file without asking.
    #[arg(long, requires = "write")]
    yes: bool,
    #[command(flatten)]
    beside: BesideArgs,
}

/// The mail programs that are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Program {
    Thunderbird,
    Mutt,
    Neomutt,
    Mbsync,
    Msmtp,
    Git,
    Aerc,
}

/// What a configuration is made of.
struct Account {
    /// Data folder of the bridge.
    dir: PathBuf,
    user: String,
    password: Zeroizing<String>,
    smtp: SocketAddr,
    imap: SocketAddr,
    page: Option<SocketAddr>,
    /// What mail is sent as: the first alias, or the address that stands for it.
    address: String,
}

impl Account {
    async fn of_bridge(beside: &BesideArgs) -> Result<Self, Failure> {
        let host = system::host();
        let settings = control::ask(&host, &beside.dir, &Command::Settings).await?;
        let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
        let at = |name: &str| text(name).parse::<SocketAddr>();
        let unreadable = |_| Failure("the running bridge does not say where its ports are".to_owned());
        let user = text("user");
        Ok(Account {
            dir: std::path::absolute(&beside.dir).unwrap_or_else(|_| beside.dir.clone()),
            password: Zeroizing::new(text("password")),
            smtp: at("smtp").map_err(unreadable)?,
            imap: at("imap").map_err(unreadable)?,
            page: at("page").ok(),
            address: match &settings["alias"] {
                Value::String(alias) => alias.clone(),
                _ => format!("{user}@localhost"),
            },
            user,
        })
    }

    /// The address that stands for the first alias, whichever that is.
    fn local_address(&self) -> String {
        format!("{}@localhost", self.user)
    }
}

/// One file of a configuration.
struct File {
    path: PathBuf,
    text: Zeroizing<String>,
}

/// What is to be done for a program.
struct Plan {
    files: Vec<File>,
    /// Folders that must exist.
    folders: Vec<PathBuf>,
    /// What is left to do, and what to know; printed after.
    remarks: String,
}

pub(super) async fn setup(args: &SetupArgs) -> Result<(), Failure> {
    let account = Account::of_bridge(&args.beside).await?;
    let to = args.to.as_deref();
    let plan = match args.program {
        Program::Thunderbird => thunderbird::plan(&account, to),
        Program::Git => programs::git(&account, to)?,
        Program::Mutt => programs::mutt(&account, to),
        Program::Neomutt => programs::neomutt(&account, to),
        Program::Mbsync => programs::mbsync(&account, to),
        Program::Msmtp => programs::msmtp(&account, to),
        Program::Aerc => programs::aerc(&account, to)?,
    };
    if !args.write {
        for file in &plan.files {
            if plan.files.len() > 1 {
                println!("# {}", file.path.display());
            }
            println!("{}", file.text.trim_end());
        }
        if args.program == Program::Thunderbird {
            eprintln!("\n{}", thunderbird::by_hand(&account));
        } else if let [file] = plan.files.as_slice() {
            eprintln!("\n'--write' puts this into {}", file.path.display());
        }
        return Ok(());
    }
    let mut done = Vec::new();
    for folder in &plan.folders {
        install::folder(folder)?;
    }
    for file in &plan.files {
        done.push(install::file(&file.path, file.text.as_bytes(), args.yes)?);
    }
    if args.program == Program::Git
        && let [file] = plan.files.as_slice()
        && to.is_none()
    {
        done.push(programs::include_in_git(&file.path)?);
    }
    for line in done {
        println!("{line}");
    }
    if !plan.remarks.is_empty() {
        println!("{}", plan.remarks);
    }
    Ok(())
}
