//! The few words of SMTP that a message needs to get into the bridge (RFC 5321), after a login (RFC 4954).

use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Ending;
use super::letter::Letter;
use super::options::Options;
use crate::message::base64;

/// Longest line of a reply, and most of them.
const LINE_MAX: u64 = 2_000;
const LINES_MAX: usize = 100;
/// Longest wait for a reply. The bridge rebuilds and stores before it answers.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection to the bridge.
pub(super) struct Client<R, W> {
    pub(super) read: R,
    pub(super) write: W,
}

/// A reply: its code, and its text as a person reads it.
struct Reply {
    code: u16,
    text: String,
}

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    /// Greeting, EHLO and login. Returns the greeting.
    pub(super) async fn begin(&mut self, user: &str, password: &str) -> Result<String, Ending> {
        let greeting = self.reply().await?;
        self.expect(&greeting, 220, Ending::unavailable)?;
        self.say("EHLO localhost").await?;
        let offer = self.reply().await?;
        self.expect(&offer, 250, Ending::unavailable)?;
        let mut secret = Vec::new();
        base64(format!("\0{user}\0{password}").as_bytes(), &mut secret);
        self.say(&format!("AUTH PLAIN {}", String::from_utf8_lossy(&secret)))
            .await?;
        let admitted = self.reply().await?;
        self.expect(&admitted, 235, Ending::no_permission)?;
        Ok(greeting.text)
    }

    /// Hands the letter over; returns when the bridge has it on its disk.
    pub(super) async fn send(&mut self, letter: &Letter, options: &Options) -> Result<(), Ending> {
        let parameter = |name: &str, value: &Option<String>| {
            let said = value.as_ref().map(|value| format!(" {name}={value}"));
            said.unwrap_or_default()
        };
        let of_message = parameter("RET", &options.ret) + &parameter("ENVID", &options.envelope_id);
        let of_recipient = parameter("NOTIFY", &options.notify);
        let mail = format!("MAIL FROM:<{}>{of_message}", letter.sender);
        self.step(&mail, 250, Ending::no_permission).await?;
        for recipient in &letter.recipients {
            // All or none: the caller has one exit status to read.
            let rcpt = format!("RCPT TO:<{recipient}>{of_recipient}");
            self.step(&rcpt, 250, Ending::no_user).await?;
        }
        self.step("DATA", 354, Ending::unavailable).await?;
        let mut octets = Vec::with_capacity(letter.octets.len() + 1024);
        for line in letter.octets.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                octets.push(b'.');
            }
            octets.extend_from_slice(line);
        }
        octets.extend_from_slice(b".\r\n");
        self.write.write_all(&octets).await.map_err(Ending::broken)?;
        self.write.flush().await.map_err(Ending::broken)?;
        let taken = self.reply().await?;
        self.expect(&taken, 250, Ending::bad_data)?;
        // It has the message: how the connection ends is of no interest.
        let _ = self.say("QUIT").await;
        Ok(())
    }

    async fn step(&mut self, line: &str, code: u16, refused: fn(String) -> Ending) -> Result<(), Ending> {
        self.say(line).await?;
        let reply = self.reply().await?;
        self.expect(&reply, code, refused)
    }

    async fn say(&mut self, line: &str) -> Result<(), Ending> {
        if line.contains(['\r', '\n']) {
            return Err(Ending::usage("an address holds a line end".to_owned()));
        }
        let line = format!("{line}\r\n");
        self.write.write_all(line.as_bytes()).await.map_err(Ending::broken)?;
        self.write.flush().await.map_err(Ending::broken)
    }

    /// A transient refusal is worth another try whatever it was about; any other ends as `refused` has it.
    fn expect(&self, reply: &Reply, code: u16, refused: fn(String) -> Ending) -> Result<(), Ending> {
        match reply.code {
            found if found == code => Ok(()),
            400..500 => Err(Ending::later(reply.text.clone())),
            // Value, keys and room are not the message's fault.
            552 if reply.text.contains(" 5.2.2 ") => Err(Ending::unavailable(reply.text.clone())),
            _ => Err(refused(reply.text.clone())),
        }
    }

    async fn reply(&mut self) -> Result<Reply, Ending> {
        let lines = async {
            let mut text = String::new();
            for _ in 0..LINES_MAX {
                let mut line = Vec::new();
                let mut bounded = (&mut self.read).take(LINE_MAX);
                bounded.read_until(b'\n', &mut line).await.map_err(Ending::broken)?;
                if line.is_empty() {
                    // A bridge that stops: what was not answered is to be sent again.
                    return Err(Ending::broken("it was closed"));
                }
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let code = line.get(..3).and_then(|code| code.parse().ok());
                let Some(code) = code else {
                    return Err(Ending::unavailable(
                        "the port answers, but not as a bridge does".to_owned(),
                    ));
                };
                text.push_str(&line);
                if line.as_bytes().get(3) != Some(&b'-') {
                    return Ok(Reply { code, text });
                }
                text.push('\n');
            }
            Err(Ending::unavailable("a reply has no end".to_owned()))
        };
        let reply = tokio::time::timeout(PATIENCE, lines).await;
        reply.unwrap_or_else(|_| Err(Ending::later("the bridge does not answer".to_owned())))
    }
}
