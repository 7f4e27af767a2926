//! `postern seal`: a message becomes a parcel, which any carrier may take to the relay. No link is needed, and no bridge:
//! one that runs is asked, else the folder is opened here.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mailbox::HolderStore;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::KeptParcel;
use serde_json::Value;
use zeroize::Zeroizing;

use super::process::{self, Failure};
use super::sendmail::{self, Options};
use super::{PassphraseArgs, Settings, dirs};
use crate::bridge::Hygiene;
use crate::bridge::commands::{Command, from_base64};
use crate::bridge::sealing::{Letter, Sealing};
use crate::control;
use crate::figures::grouped;
use crate::message::{base64, limits::MESSAGE_BYTES_MAX};
use crate::net::Host;

/// Characters of base64 in a line (RFC 2045 section 6.8), and the octets in them.
const LINE_BYTES: usize = 57;

/// Arguments of `postern seal`.
#[derive(Args)]
pub(super) struct SealArgs {
    /// The message; '-' is standard input. It goes to whom its header names: To, Cc and Bcc.
    #[arg(value_name = "FILE", default_value = "-", conflicts_with_all = ["again", "list"])]
    message: PathBuf,
    /// Folder made by 'postern init'.
    #[arg(long, value_name = "DIR", default_value_os_t = dirs::data())]
    dir: PathBuf,
    /// Where the passphrase comes from, if no bridge is running.
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Write the parcel as a mail to the relay, for any program that sends mail.
    #[arg(long)]
    mail: bool,
    /// Who carries the mail: its From. Without this it has none, for the sending program to set.
    #[arg(long, value_name = "ADDRESS", requires = "mail")]
    carrier: Option<String>,
    /// Where the mail goes, if the relay calls its parcel address otherwise.
    #[arg(long, value_name = "ADDRESS", requires = "mail")]
    to: Option<String>,
    /// Write to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Another recipient; may be given more than once.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Vec<String>,
    /// Most that the message may cost, in µtok. Without this, its price by the list that was last heard.
    #[arg(long, value_name = "µtok")]
    most: Option<u64>,
    /// Write a parcel that was sealed before once more, the same octets.
    #[arg(long, value_name = "INDEX")]
    again: Option<u64>,
    /// List the parcels that have no receipt yet.
    #[arg(long, conflicts_with = "again")]
    list: bool,
}

pub(super) async fn seal(args: &SealArgs) -> Result<(), Failure> {
    let desk = Desk::open(args).await?;
    if args.list {
        for parcel in desk.parcels().await? {
            println!(
                "{:>5}  {}\n       {} kB, {} µtok",
                parcel.index,
                parcel.label,
                grouped(u64::from(parcel.class) * 16),
                grouped(parcel.price)
            );
        }
        return desk.close().await;
    }
    let index = match args.again {
        Some(index) => index,
        None => {
            let raw = read(&args.message)?;
            desk.seal(args, &raw).await?
        }
    };
    let parcel = desk.parcel(index).await?;
    let domain = desk.relay_domain().await?;
    desk.close().await?;
    let out = if args.mail {
        in_mail(args, &domain, &parcel)
    } else {
        parcel
    };
    write(args.output.as_deref(), &out)?;
    eprintln!(
        "parcel {index}: sealed, and kept until its receipt comes; 'postern seal --again {index}' writes it once more"
    );
    Ok(())
}

/// Whoever has the store: a running bridge, or this process.
enum Desk {
    Beside { host: Host, dir: PathBuf },
    Here(Box<Own>),
}

/// A store that this process opened.
struct Own {
    host: Host,
    store: HolderFiles,
    hygiene: Hygiene,
    local_address: String,
}

impl Desk {
    async fn open(args: &SealArgs) -> Result<Self, Failure> {
        let host = process::host(None)?;
        if host.net.dial_local(&args.dir.join(control::SOCKET)).await.is_ok() {
            let dir = args.dir.clone();
            return Ok(Desk::Beside { host, dir });
        }
        let settings = Settings::read(&args.dir)?;
        let (options, passphrase) = (HolderOptions::default(), args.passphrase.read()?);
        let opened = HolderFiles::open(&host.disk, &args.dir, &passphrase, &options, &host.entropy);
        let (store, actor) = opened.map_err(Failure::from_error)?;
        let started = host.workers.actor("commit", Box::pin(actor));
        started.map_err(Failure::from_error)?;
        Ok(Desk::Here(Box::new(Own {
            host,
            store,
            hygiene: settings.hygiene(),
            local_address: format!("{}@localhost", settings.user),
        })))
    }

    async fn close(self) -> Result<(), Failure> {
        if let Desk::Here(own) = self {
            own.store.stop().await;
        }
        Ok(())
    }

    async fn seal(&self, args: &SealArgs, raw: &[u8]) -> Result<u64, Failure> {
        let options = Options {
            from_header: true,
            dots_are_text: true,
            recipients: args.recipient.clone(),
            ..Options::default()
        };
        match self {
            Desk::Beside { host, dir } => {
                let settings = control::ask(host, dir, &Command::Settings).await?;
                let own = format!("{}@localhost", settings["user"].as_str().unwrap_or_default());
                let letter = sendmail::prepare(raw, &options, &own);
                let mut message = Vec::new();
                base64(&letter.octets, &mut message);
                let command = Command::Seal {
                    sender: letter.sender,
                    recipients: letter.recipients,
                    message: String::from_utf8(message).expect("base64 is ASCII"),
                    debit_max: args.most,
                };
                let answer = control::ask(host, dir, &command).await?;
                number(&answer, "index")
            }
            Desk::Here(own) => {
                let letter = sendmail::prepare(raw, &options, &own.local_address);
                let sealing = Sealing {
                    host: &own.host,
                    store: &own.store,
                    hygiene: &own.hygiene,
                    local_address: &own.local_address,
                };
                let letter = Letter {
                    sender: &letter.sender,
                    recipients: &letter.recipients,
                    octets: &letter.octets,
                    debit_max: args.most,
                };
                sealing.seal(&letter).await.map_err(Failure)
            }
        }
    }

    async fn parcel(&self, index: u64) -> Result<Vec<u8>, Failure> {
        let none = || {
            Failure(format!(
                "parcel {index} is not kept: it has its receipt, or was never sealed"
            ))
        };
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::Parcel { index }).await?;
                answer["parcel"].as_str().and_then(from_base64).ok_or_else(none)
            }
            Desk::Here(own) => own.store.parcel(index).map_err(Failure::from_error)?.ok_or_else(none),
        }
    }

    async fn parcels(&self) -> Result<Vec<KeptParcel>, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let mut answer = control::ask(host, dir, &Command::Parcels).await?;
                serde_json::from_value(answer["parcels"].take())
                    .map_err(|_| Failure("the running process gave an unreadable answer".to_owned()))
            }
            Desk::Here(own) => Ok(own.store.parcels()),
        }
    }

    async fn relay_domain(&self) -> Result<String, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::Parcels).await?;
                Ok(answer["relay_domain"].as_str().unwrap_or_default().to_owned())
            }
            Desk::Here(own) => Ok(own.store.facts().relay_domain),
        }
    }
}

fn number(answer: &Value, name: &str) -> Result<u64, Failure> {
    let unreadable = || Failure("the running process gave an unreadable answer".to_owned());
    answer[name].as_u64().ok_or_else(unreadable)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut raw = Zeroizing::new(Vec::new());
    let failed = |error| Failure(format!("cannot read {}: {error}", path.display()));
    let most = MESSAGE_BYTES_MAX as u64 + 1;
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut raw)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(most).read_to_end(&mut raw)
    };
    read.map_err(failed)?;
    if raw.len() > MESSAGE_BYTES_MAX {
        return Err(Failure("the message is too large".to_owned()));
    }
    Ok(raw)
}

fn write(path: Option<&Path>, bytes: &[u8]) -> Result<(), Failure> {
    let written = match path {
        Some(path) => std::fs::write(path, bytes),
        None => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
    };
    let kept = "the parcel is kept: see 'postern seal --list'";
    written.map_err(|error| Failure(format!("cannot write the parcel: {error}; {kept}")))
}

/// A mail with the parcel as its only part. All that it says is where it goes.
fn in_mail(args: &SealArgs, domain: &str, parcel: &[u8]) -> Vec<u8> {
    let to = args.to.clone().unwrap_or_else(|| format!("parcel@{domain}"));
    let from = args.carrier.as_ref().map(|carrier| format!("From: {carrier}\r\n"));
    let head = format!(
        "{}To: {to}\r\nSubject: parcel\r\nMIME-Version: 1.0\r\nContent-Type: application/vnd.postern.parcel\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"mail.parcel\"\r\n\r\n",
        from.unwrap_or_default()
    );
    let mut mail = Vec::with_capacity(head.len() + parcel.len() / LINE_BYTES * 78 + 80);
    mail.extend_from_slice(head.as_bytes());
    for line in parcel.chunks(LINE_BYTES) {
        base64(line, &mut mail);
        mail.extend_from_slice(b"\r\n");
    }
    mail
}
