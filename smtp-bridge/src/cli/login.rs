//! `postern login`: a name and a password that open the relay's collecting port once, for whoever carries.

use std::path::PathBuf;

use clap::Args;
use mailbox::holder_store::{KeptParcel, ParcelUse};
use serde_json::json;

use super::desk::Desk;
use super::process::Failure;
use super::{PassphraseArgs, dirs};

/// Arguments of `postern login`.
#[derive(Args)]
pub(super) struct LoginArgs {
    /// Folder made by 'postern init'.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// Where the passphrase comes from, if no bridge is running.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Show a login that was made before once more.
    #[arg(long, value_name = "INDEX")]
    again: Option<u64>,
    /// Say of a login that it was used, and that what it brought is lost: the next may be made. What it showed is shown again.
    #[arg(long, value_name = "INDEX", conflicts_with = "again")]
    used: Option<u64>,
    /// List the logins of which nothing is known yet.
    #[arg(long, conflicts_with_all = ["again", "used"])]
    list: bool,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn login(args: &LoginArgs) -> Result<(), Failure> {
    let desk = Desk::open(&args.dir, &args.passphrase).await?;
    let logins = desk.parcels().await?.into_iter().filter(is_login);
    if args.list {
        let logins: Vec<u64> = logins.map(|login| login.index).collect();
        match args.json {
            true => println!("{}", json!({ "logins": logins })),
            false => logins.iter().for_each(|index| println!("{index}")),
        }
        return desk.close().await;
    }
    let none = |index| {
        Failure(format!(
            "there is no login {index}, or it has its receipt: see 'postern login --list'"
        ))
    };
    if let Some(index) = args.used {
        let known = desk.login_used(index).await?;
        desk.close().await?;
        return if known { Ok(()) } else { Err(none(index)) };
    }
    let index = match args.again {
        Some(index) => logins
            .map(|login| login.index)
            .find(|known| *known == index)
            .ok_or_else(|| none(index))?,
        None => desk.login().await?,
    };
    let words = String::from_utf8(desk.parcel(index).await?).unwrap_or_default();
    desk.close().await?;
    let (name, password) = words
        .split_once(' ')
        .ok_or_else(|| Failure("the login is damaged".to_owned()))?;
    if args.json {
        println!("{}", json!({ "index": index, "name": name, "password": password }));
    } else {
        println!("name      {name}\npassword  {password}");
        eprintln!("login {index}: good for one session; what it shows goes through 'postern open'");
    }
    Ok(())
}

fn is_login(kept: &KeptParcel) -> bool {
    kept.kind == ParcelUse::Login
}
