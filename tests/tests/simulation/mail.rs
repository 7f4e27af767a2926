//! Mail programs and other servers, as plain as they come: one conversation each, line by line.

use std::io;
use std::time::Duration;

use smtp_bridge::net::BoxStream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a client knows of a message it sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// 250: the server has it.
    Accepted,
    /// The final dot left, and no reply came.
    Unknown,
    /// Certainly not taken: refused or cut off before, for now.
    NotNow,
    /// Refused for now, after the final dot.
    Deferred,
    /// Refused for good.
    Refused,
}

/// A conversation by lines.
pub(crate) struct Lines(pub(crate) BufReader<BoxStream>);

impl Lines {
    pub(crate) fn new(stream: BoxStream) -> Self {
        Lines(BufReader::new(stream))
    }

    pub(crate) async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await;
        match read {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(line),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub(crate) async fn say(&mut self, text: &[u8]) -> io::Result<()> {
        let write = async {
            self.0.write_all(text).await?;
            self.0.flush().await
        };
        let written = tokio::time::timeout(PATIENCE, write).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// A whole SMTP reply; its code.
    async fn reply(&mut self) -> io::Result<u16> {
        loop {
            let line = self.line().await?;
            let code = line.get(..3).and_then(|code| str::from_utf8(code).ok());
            let code = code.and_then(|code| code.parse().ok());
            let code = code.ok_or(io::ErrorKind::InvalidData)?;
            if line.get(3) != Some(&b'-') {
                return Ok(code);
            }
        }
    }

    async fn ask(&mut self, line: &str) -> io::Result<u16> {
        self.say(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }
}

/// Sends one message; `login` is for a submission port.
pub(crate) async fn send(
    stream: io::Result<BoxStream>,
    login: Option<(&str, &str)>,
    from: &str,
    to: &[String],
    text: &[u8],
) -> Sent {
    let Ok(stream) = stream else { return Sent::NotNow };
    let mut lines = Lines::new(stream);
    match introduce(&mut lines, login, from, to).await {
        Ok(250..=399) => {}
        Ok(500..) => return Sent::Refused,
        _ => return Sent::NotNow,
    }
    // Until the dot is out the server cannot have taken it.
    let (body, dot) = text.split_at(text.len() - 3);
    if lines.say(body).await.is_err() {
        return Sent::NotNow;
    }
    let answer = async {
        lines.say(dot).await?;
        lines.reply().await
    };
    match answer.await {
        Ok(200..=299) => {
            let _ = lines.say(b"QUIT\r\n").await;
            Sent::Accepted
        }
        Ok(500..) => Sent::Refused,
        Ok(_) => Sent::Deferred,
        Err(_) => Sent::Unknown,
    }
}

/// Everything before the text; the code of the last reply.
async fn introduce(lines: &mut Lines, login: Option<(&str, &str)>, from: &str, to: &[String]) -> io::Result<u16> {
    let greeting = lines.reply().await?;
    if greeting >= 400 {
        return Ok(greeting);
    }
    lines.ask("EHLO client.example").await?;
    if let Some((user, password)) = login {
        let code = lines
            .ask(&format!(
                "AUTH PLAIN {}",
                base64(format!("\0{user}\0{password}").as_bytes())
            ))
            .await?;
        if code >= 400 {
            return Ok(code);
        }
    }
    let code = lines.ask(&format!("MAIL FROM:<{from}>")).await?;
    if code >= 400 {
        return Ok(code);
    }
    for recipient in to {
        let code = lines.ask(&format!("RCPT TO:<{recipient}>")).await?;
        if code >= 400 {
            return Ok(code);
        }
    }
    lines.ask("DATA").await
}

/// All messages of INBOX with their UIDs, over IMAP.
pub(crate) async fn inbox(
    stream: io::Result<BoxStream>,
    user: &str,
    password: &str,
) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let mut lines = Lines::new(stream?);
    lines.line().await?;
    lines
        .say(format!("a LOGIN {user} {password}\r\nb SELECT INBOX\r\nc UID FETCH 1:* (BODY.PEEK[])\r\n").as_bytes())
        .await?;
    let mut messages = Vec::new();
    loop {
        let line = lines.line().await?;
        let text = String::from_utf8_lossy(&line);
        if ["a NO", "a BAD", "b NO", "b BAD", "c NO", "c BAD", "* BYE"]
            .iter()
            .any(|no| text.starts_with(no))
        {
            return Err(io::Error::other(text.trim_end().to_owned()));
        }
        if text.starts_with("c OK") {
            let _ = lines.say(b"d LOGOUT\r\n").await;
            return Ok(messages);
        }
        let Some(length) = text
            .trim_end()
            .strip_suffix('}')
            .and_then(|start| start.rsplit_once('{'))
        else {
            continue;
        };
        let length = length.1.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let mut message = vec![0; length];
        tokio::time::timeout(PATIENCE, lines.0.read_exact(&mut message))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        let rest = lines.line().await?;
        let all = format!("{text}{}", String::from_utf8_lossy(&rest));
        let uid = all.split("UID ").nth(1).and_then(|uid| {
            let digits = uid.split(|letter: char| !letter.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        messages.push((uid.ok_or(io::ErrorKind::InvalidData)?, message));
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}
