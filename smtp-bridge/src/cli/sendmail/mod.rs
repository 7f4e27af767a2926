//! `postern sendmail`: a drop-in for /usr/sbin/sendmail. It hands the message on standard input to the running bridge.
//!
//! Exit statuses are those of `sysexits.h`, which cron, git and mail programs know.

mod client;
mod letter;
mod options;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::io::{AsyncRead, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};

use self::client::Client;
use self::options::Mode;
use super::{BesideArgs, beside, dirs, process};
use crate::bridge::commands::Command;
use crate::control;
use crate::message::limits::MESSAGE_BYTES_MAX;
use crate::net::{BoxStream, system};

pub use letter::fuzz;
pub(super) use letter::prepare;
pub(super) use options::Options;

/// How a run that failed ends: a status of `sysexits.h` and a sentence.
struct Ending {
    status: u8,
    sentence: String,
}

impl Ending {
    fn usage(sentence: String) -> Self {
        Ending { status: 64, sentence }
    }

    fn bad_data(sentence: String) -> Self {
        Ending { status: 65, sentence }
    }

    fn no_user(sentence: String) -> Self {
        Ending { status: 67, sentence }
    }

    fn unavailable(sentence: String) -> Self {
        Ending { status: 69, sentence }
    }

    fn later(sentence: String) -> Self {
        Ending { status: 75, sentence }
    }

    fn broken(error: impl Display) -> Self {
        Ending::later(format!("the connection to the bridge broke: {error}"))
    }

    fn no_permission(sentence: String) -> Self {
        Ending { status: 77, sentence }
    }
}

/// Runs with the words after the program's name.
pub(super) fn main(words: Vec<OsString>) -> ExitCode {
    process::run_to_code("smtp_bridge=error", || async {
        match run(words).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(Ending { status, sentence }) => {
                eprintln!("sendmail: {sentence}");
                ExitCode::from(status)
            }
        }
    })
}

async fn run(words: Vec<OsString>) -> Result<(), Ending> {
    let options = Options::parse(words).map_err(Ending::usage)?;
    let dir = options.dir.clone().unwrap_or_else(dirs::data);
    match options.mode {
        Mode::Nothing => Ok(()),
        Mode::Queue => queue(dir).await,
        Mode::Smtp => {
            let ((mut client, greeting), _) = connect(&dir).await?;
            relay_session(&mut client, greeting).await
        }
        Mode::Message => {
            // Read before anything else, so that whoever writes it does not meet a closed pipe.
            let mut raw = Vec::new();
            let input = std::io::stdin()
                .lock()
                .take(MESSAGE_BYTES_MAX as u64 + 1)
                .read_to_end(&mut raw);
            input.map_err(|error| Ending::bad_data(format!("cannot read the message: {error}")))?;
            if raw.len() > MESSAGE_BYTES_MAX {
                return Err(Ending::bad_data("the message is too large".to_owned()));
            }
            let ((mut client, _), own) = connect(&dir).await?;
            let letter = letter::prepare(&raw, &options, &own);
            if letter.recipients.is_empty() {
                return Err(Ending::usage("there is no recipient: name one, or use -t".to_owned()));
            }
            client.send(&letter, &options).await
        }
    }
}

type Connection = Client<BufReader<ReadHalf<BoxStream>>, WriteHalf<BoxStream>>;

/// A session with the bridge, logged in, with its greeting; and the address that stands for the user.
async fn connect(dir: &std::path::Path) -> Result<((Connection, String), String), Ending> {
    let host = system::host();
    let settings = control::ask(&host, dir, &Command::Settings).await;
    let settings = settings.map_err(|error| Ending::later(error.0))?;
    let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    let (smtp, user, password) = (text("smtp"), text("user"), text("password"));
    let stream = host.dial(&smtp).await;
    let stream = stream.map_err(|error| Ending::later(format!("the bridge is not at its port: {error}")))?;
    let (read, write) = tokio::io::split(stream);
    let mut client = Client {
        read: BufReader::new(read),
        write,
    };
    let greeting = client.begin(&user, &password).await?;
    Ok(((client, greeting), format!("{user}@localhost")))
}

/// `-bs`: the session goes on between standard input and the bridge, already logged in.
async fn relay_session(client: &mut Connection, greeting: String) -> Result<(), Ending> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{greeting}\r\n").as_bytes())
        .await
        .map_err(Ending::broken)?;
    out.flush().await.map_err(Ending::broken)?;
    let up = async {
        pass_on(tokio::io::stdin(), &mut client.write).await;
        std::future::pending::<()>().await;
    };
    // The bridge's end is the session's, whatever the other side still has to say.
    tokio::select! {
        () = up => {}
        down = tokio::io::copy(&mut client.read, &mut out) => {
            down.map_err(Ending::broken)?;
        }
    }
    out.flush().await.map_err(Ending::broken)
}

/// Copies to the end, and says that it is the end.
async fn pass_on(mut from: impl AsyncRead + Unpin, to: &mut WriteHalf<BoxStream>) {
    // A broken pipe shows on the other way too.
    let _ = tokio::io::copy(&mut from, to).await;
    let _ = to.shutdown().await;
}

/// `-bp`: what has not reached the relay yet.
async fn queue(dir: PathBuf) -> Result<(), Ending> {
    let args = BesideArgs { dir, json: false };
    beside::outbox(&args).await.map_err(|failure| Ending::later(failure.0))
}
