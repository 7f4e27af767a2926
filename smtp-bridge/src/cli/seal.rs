//! `postern seal`: a message becomes a parcel, which any carrier may take to the relay. No link is needed, and no bridge:
//! one that runs is asked, else the folder is opened here.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mailbox::holder_store::{KeptParcel, ParcelUse};
use mailbox::parcel::AliasChange;
use zeroize::Zeroizing;

use super::desk::Desk;
use super::process::Failure;
use super::{PassphraseArgs, dirs};
use crate::figures::grouped;
use crate::message::{base64, limits::MESSAGE_BYTES_MAX};

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
    /// Seal no message, but what confirms the deposits that were opened and asks how the pack stands. It costs nothing.
    #[arg(long, conflicts_with_all = ["message", "recipient", "most", "again", "list"])]
    control: bool,
    /// With --control: open an alias with this local part. A pack that has none asks for a random one by itself.
    #[arg(long, value_name = "LOCAL", requires = "control", conflicts_with = "alias_close")]
    alias_new: Option<String>,
    /// With --control: close this alias.
    #[arg(long, value_name = "ADDRESS", requires = "control")]
    alias_close: Option<String>,
    /// Write a parcel that was sealed before once more, the same octets.
    #[arg(long, value_name = "INDEX")]
    again: Option<u64>,
    /// List the parcels that have no receipt yet.
    #[arg(long, conflicts_with = "again")]
    list: bool,
}

pub(super) async fn seal(args: &SealArgs) -> Result<(), Failure> {
    let desk = Desk::open(&args.dir, &args.passphrase).await?;
    if args.list {
        for parcel in desk.parcels().await?.into_iter().filter(is_parcel) {
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
        None if args.control => {
            let (index, confirmed) = desk.seal_control(args.alias_change()).await?;
            eprintln!("deposits confirmed by it: {confirmed}");
            index
        }
        None => {
            let raw = read(&args.message)?;
            desk.seal(&args.recipient, args.most, &raw).await?
        }
    };
    if !desk
        .parcels()
        .await?
        .iter()
        .any(|parcel| parcel.index == index && is_parcel(parcel))
    {
        return Err(Failure(format!(
            "parcel {index} is not kept: it has its receipt, or was never sealed"
        )));
    }
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

impl SealArgs {
    fn alias_change(&self) -> Option<AliasChange> {
        let open = self
            .alias_new
            .as_ref()
            .map(|local| AliasChange::Open(local.to_ascii_lowercase()));
        // An alias is of the relay's domain, whether that is said or not.
        let local = |address: &String| address.split('@').next().unwrap_or_default().to_ascii_lowercase();
        open.or_else(|| {
            self.alias_close
                .as_ref()
                .map(|address| AliasChange::Close(local(address)))
        })
    }
}

fn is_parcel(kept: &KeptParcel) -> bool {
    kept.kind != ParcelUse::Login
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
