//! The world outside: a server that takes mail, in the moods that such servers have.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp_bridge::net::{BoxStream, Net};

use crate::machine::{SINK, wait_until};
use crate::mail::Lines;
use crate::net::Network;
use crate::random::{Random, digest};
use crate::trace::Trace;

/// Local part of addresses that nobody has.
pub(crate) const NOBODY: &str = "nobody-";

/// One message that was received to its final dot.
#[derive(Clone)]
pub(crate) struct Arrival {
    pub(crate) recipient: String,
    pub(crate) digest: u64,
    /// Whether 250 was written for it.
    pub(crate) is_answered: bool,
    pub(crate) at: Duration,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub(crate) struct Sink {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    random: Arc<Mutex<Random>>,
    moody: Arc<Mutex<bool>>,
    trace: Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Kind,
    Later,
    LaterAfterDot,
    HangUpEarly,
    HangUpInText,
    HangUpAfterDot,
    Dumb,
}

impl Sink {
    /// Opens the port and serves it for as long as the world lasts.
    pub(crate) async fn open(network: &Network, trace: &Trace, random: Random) -> io::Result<Self> {
        let sink = Sink {
            arrivals: Arc::default(),
            random: Arc::new(Mutex::new(random)),
            moody: Arc::default(),
            trace: trace.clone(),
        };
        let mut listener = network
            .card(SINK.into(), None)
            .listen(SocketAddr::from((SINK, 25)))
            .await?;
        let serving = sink.clone();
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                let sink = serving.clone();
                // A client that went away is no matter.
                tokio::spawn(async move { sink.serve(stream, connection).await.ok() });
            }
        });
        Ok(sink)
    }

    /// Whether the server has moods, or takes all it should.
    pub(crate) fn set_moody(&self, moody: bool) {
        *self.moody.lock().unwrap_or_else(PoisonError::into_inner) = moody;
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mood(&self) -> Mood {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let drawn = random.below(20);
        if !*self.moody.lock().unwrap_or_else(PoisonError::into_inner) {
            return Mood::Kind;
        }
        match drawn {
            0 => Mood::Later,
            1 => Mood::LaterAfterDot,
            2 => Mood::HangUpEarly,
            3 => Mood::HangUpInText,
            4 | 5 => Mood::HangUpAfterDot,
            6 => Mood::Dumb,
            _ => Mood::Kind,
        }
    }

    async fn serve(&self, stream: BoxStream, connection: u64) -> io::Result<()> {
        let mut lines = Lines::new(stream);
        let mood = self.mood();
        self.trace.note(format!("sink connection {connection}: {mood:?}"));
        if mood == Mood::HangUpEarly {
            return Ok(());
        }
        lines.say(b"220 out.example ESMTP\r\n").await?;
        let mut recipient = String::new();
        loop {
            let line = lines.line().await?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let verb = text.get(..4).unwrap_or_default().to_ascii_uppercase();
            let reply: &[u8] = match verb.as_str() {
                "EHLO" => b"250-out.example\r\n250 8BITMIME\r\n",
                "MAIL" if mood == Mood::Later => b"451 4.3.0 later\r\n",
                "MAIL" => b"250 2.1.0 ok\r\n",
                "RCPT" => {
                    let address = text.split(['<', '>']).nth(1).unwrap_or_default();
                    recipient = address.to_owned();
                    if recipient.starts_with(NOBODY) {
                        b"550 5.1.1 nobody\r\n"
                    } else {
                        b"250 2.1.5 ok\r\n"
                    }
                }
                "DATA" => {
                    lines.say(b"354 go on\r\n").await?;
                    if mood == Mood::HangUpInText {
                        lines.line().await?;
                        return Ok(());
                    }
                    let text = self.text(&mut lines).await?;
                    if mood == Mood::LaterAfterDot {
                        b"451 4.3.0 later\r\n"
                    } else {
                        self.arrived(&recipient, text, mood == Mood::Kind);
                        match mood {
                            Mood::HangUpAfterDot => return Ok(()),
                            Mood::Dumb => {
                                // Long enough that the other side gives up by itself.
                                wait_until(Duration::from_secs(3_600), async || false).await;
                                return Ok(());
                            }
                            _ => b"250 2.0.0 taken\r\n",
                        }
                    }
                }
                "QUIT" => {
                    lines.say(b"221 2.0.0 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"500 5.5.2 what\r\n",
            };
            lines.say(reply).await?;
        }
    }

    async fn text(&self, lines: &mut Lines) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let line = lines.line().await?;
            if line == b".\r\n" {
                return Ok(text);
            }
            text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    fn arrived(&self, recipient: &str, text: Vec<u8>, is_answered: bool) {
        let digest = digest(&text);
        self.trace.note(format!(
            "arrived for {recipient}: {digest:016x}, answered {is_answered}"
        ));
        self.lock().push(Arrival {
            recipient: recipient.to_owned(),
            digest,
            is_answered,
            at: self.trace.now(),
        });
    }
}
