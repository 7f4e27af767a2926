//! The control socket: commands beside a running process, one JSON object a line each way.
//!
//! It lies in the data folder with mode 0600: who may open it may read the store anyway.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;

use crate::net::{BoxStream, Host, Listener, stopped};

/// File name of the socket inside the data folder.
pub const SOCKET: &str = "control.sock";
/// Longest line, in bytes: a parcel of the largest class in base64.
const LINE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Longest wait for a command's line, and for its answer at the caller's side.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process does with commands.
pub trait Commands: Send + Sync + 'static {
    /// A command as it comes from the socket.
    type Command: DeserializeOwned + Send;

    /// Carries a command out. The error is one sentence for the person who gave it.
    fn command(&self, command: Self::Command) -> impl Future<Output = Result<Value, String>> + Send;
}

/// Serves commands until `stop` turns true.
pub async fn serve<C: Commands>(
    host: Host,
    mut listener: Box<dyn Listener>,
    commands: Arc<C>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let stream = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let commands = commands.clone();
        host.task(async move {
            // The caller went away or sent nonsense: it knows best itself.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &*commands)).await;
        });
    }
}

async fn answer<C: Commands>(stream: BoxStream, commands: &C) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut line = String::new();
    BufReader::new(read).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(command) => commands.command(command).await,
        Err(_) => Err("this command is not known to the running process: are both of the same version?".to_owned()),
    };
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(sentence) => json!({ "error": sentence }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await?;
    write.shutdown().await
}

/// Why a command was not carried out: a sentence for the person who gave it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(pub String);

/// Gives a command to the process that owns `data`.
pub async fn ask(host: &Host, data: &Path, command: &impl Serialize) -> Result<Value, CommandError> {
    let line = format!("{}\n", serde_json::to_string(command).expect("a command is plain data"));
    let path = data.join(SOCKET);
    let exchange = async {
        let stream = host
            .net
            .dial_local(&path)
            .await
            .map_err(|_| CommandError(format!("nothing is running with {}: start it first", data.display())))?;
        talk(stream, &line)
            .await
            .map_err(|_| CommandError("the running process hung up before it answered".into()))
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| CommandError("the running process did not answer within a minute".into()))??;
    let mut answer: Value = serde_json::from_str(&answer)
        .map_err(|_| CommandError("the running process gave an unreadable answer".into()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(sentence) => Err(CommandError(sentence.to_owned())),
        None => Ok(answer["ok"].take()),
    }
}

async fn talk(mut stream: BoxStream, line: &str) -> io::Result<String> {
    stream.write_all(line.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(LINE_BYTES_MAX)
        .read_line(&mut answer)
        .await?;
    Ok(answer)
}
