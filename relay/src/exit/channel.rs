//! One message to one next host, over a connection that may have carried others.

use std::io;
use std::time::Duration;

use smtp_bridge::net::BoxStream;
use smtp_bridge::net::tls::Connector;
use smtp_bridge::smtp::{Attempt, Connection, DeliveryResult, Domain, Enhanced, Mailbox, ReversePath};
use tokio::time::{Instant, timeout};

use super::security::{Security, Tls};

/// Longest wait for a connection to the next host.
const DIAL_MAX: Duration = Duration::from_secs(60);
/// Longest TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// Messages that one connection carries.
const MESSAGES_MAX: u32 = 100;
/// How long a connection is used, from its dialling on.
const AGE_MAX: Duration = Duration::from_secs(60);

/// A connection to a next host, between two messages.
pub(super) struct Channel {
    connection: Connection<BoxStream>,
    dialled: Instant,
    messages: u32,
}

/// What is sent, and as whom.
pub(super) struct Parcel<'p> {
    pub(super) domain: &'p Domain,
    pub(super) reverse_path: &'p ReversePath,
    pub(super) recipient: &'p Mailbox,
    pub(super) message: &'p [u8],
}

/// How the next host is reached.
pub(super) struct Line<'l, D> {
    /// Dials it.
    pub(super) dial: D,
    /// Its name, which its certificate has to show where one is asked for.
    pub(super) host: &'l str,
    pub(super) security: &'l Security,
    /// Whether this relay's own name in the greeting is that of the host, and no mistake.
    pub(super) is_own: bool,
}

/// What came of one message at one host.
pub(super) enum Sent {
    /// The host spoke of the message, or may have it.
    Judged(DeliveryResult),
    /// The host could not be spoken with. It has nothing of the text: another may be tried.
    Unreached(DeliveryResult),
    /// The host is this relay.
    Own,
}

/// Sends over `kept` if that can still be used, else over a new connection; what came of it, and the connection if it
/// can carry another message.
///
/// A connection that was used before may have ended meanwhile, and that is not the message's failure: then it is
/// offered once more, on a new one. Never when any of its text has left: the server may have it.
pub(super) async fn send<F: Future<Output = io::Result<BoxStream>>>(
    kept: Option<Channel>,
    line: &Line<'_, impl Fn() -> F>,
    parcel: &Parcel<'_>,
) -> (Sent, Option<Channel>) {
    if let Some(mut channel) = kept
        && channel.connection.is_usable().await
        && let Attempt::Ended(result) = channel.carry(parcel).await
    {
        return (Sent::Judged(result), channel.keep().await);
    }
    match Channel::open(line, parcel.domain).await {
        Ok(mut channel) => {
            let sent = match channel.carry(parcel).await {
                Attempt::Ended(result) => Sent::Judged(result),
                Attempt::Closed(result) => Sent::Unreached(result),
            };
            (sent, channel.keep().await)
        }
        Err(sent) => (sent, None),
    }
}

impl Channel {
    async fn open<F: Future<Output = io::Result<BoxStream>>>(
        line: &Line<'_, impl Fn() -> F>,
        domain: &Domain,
    ) -> Result<Self, Sent> {
        let dialled = Instant::now();
        let connection = greeted(line, domain).await?;
        let mut connection = match &line.security.tls {
            Tls::Never => connection,
            Tls::Offered(_) if !connection.offers_tls() => connection,
            Tls::Offered(connector) => match secured(connection, connector, line.host, domain).await {
                Ok(connection) => connection,
                // Nothing was demanded of this line: better in the clear than not at all (RFC 7435).
                Err(_) => greeted(line, domain).await?,
            },
            Tls::Required(_) if !connection.offers_tls() => {
                line.security.note(Some("it offers no TLS"));
                return Err(unreached(Enhanced::new(4, 7, 4)));
            }
            Tls::Required(connector) => secured(connection, connector, line.host, domain)
                .await
                .inspect_err(|_| {
                    line.security.note(Some("no TLS with a valid certificate"));
                })?,
        };
        if let Some(login) = &line.security.login {
            let login = connection.login(&login.user, &login.password).await;
            login.map_err(|result| {
                line.security.note(Some("it refuses the login"));
                Sent::Unreached(result)
            })?;
        }
        line.security.note(None);
        Ok(Channel {
            connection,
            dialled,
            messages: 0,
        })
    }

    async fn carry(&mut self, parcel: &Parcel<'_>) -> Attempt {
        self.messages += 1;
        self.connection
            .deliver(parcel.reverse_path, parcel.recipient, parcel.message)
            .await
    }

    /// The connection if it can carry another message; else it is closed.
    async fn keep(mut self) -> Option<Self> {
        let is_fresh = self.messages < MESSAGES_MAX && self.dialled.elapsed() < AGE_MAX;
        if is_fresh && self.connection.is_usable().await {
            return Some(self);
        }
        self.close().await;
        None
    }

    /// Takes leave of the host.
    pub(super) async fn close(self) {
        self.connection.quit().await;
    }
}

fn unreached(status: Enhanced) -> Sent {
    Sent::Unreached(DeliveryResult::Transient { code: None, status })
}

/// Dials, and hears what the host offers.
async fn greeted<F: Future<Output = io::Result<BoxStream>>>(
    line: &Line<'_, impl Fn() -> F>,
    domain: &Domain,
) -> Result<Connection<BoxStream>, Sent> {
    let Ok(Ok(stream)) = timeout(DIAL_MAX, (line.dial)()).await else {
        return Err(unreached(Enhanced::new(4, 4, 1)));
    };
    let connection = Connection::open(stream, domain).await.map_err(Sent::Unreached)?;
    if connection.is_own() && !line.is_own {
        return Err(Sent::Own);
    }
    Ok(connection)
}

/// Goes on under TLS, and hears anew what the host offers.
async fn secured(
    connection: Connection<BoxStream>,
    connector: &Connector,
    host: &str,
    domain: &Domain,
) -> Result<Connection<BoxStream>, Sent> {
    let stream = connection.start_tls().await.map_err(Sent::Unreached)?;
    let Ok(Ok(stream)) = timeout(HANDSHAKE_MAX, connector.connect(host, stream)).await else {
        return Err(unreached(Enhanced::new(4, 7, 5)));
    };
    Connection::open_secured(stream, domain).await.map_err(Sent::Unreached)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, duplex};

    use super::*;

    /// A host that was dialled, and what it was told.
    #[derive(Clone, Default)]
    struct NextHost {
        told: Arc<Mutex<Vec<String>>>,
    }

    const DONE: &str = "250 ok";
    /// Of a whole delivery, behind greeting and EHLO.
    const ONE: [&str; 4] = [DONE, DONE, "354 go", DONE];

    impl NextHost {
        /// A connection that greets, and says these replies to the lines that it is told; then it closes.
        fn dialled(&self, replies: &[&'static str]) -> BoxStream {
            let (ours, theirs) = duplex(4_096);
            let told = self.told.clone();
            let replies = [&["220 host", DONE], replies].concat();
            tokio::spawn(async move {
                let mut stream = BufReader::new(theirs);
                for reply in replies {
                    let _ = stream.write_all(format!("{reply}\r\n").as_bytes()).await;
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                        told.lock().unwrap().push(line.trim_end().to_owned());
                        // The text is one line and its dot.
                        if line != "text\r\n" {
                            break;
                        }
                        line.clear();
                    }
                }
            });
            Box::new(ours)
        }

        fn count(&self, verb: &str) -> usize {
            self.told
                .lock()
                .unwrap()
                .iter()
                .filter(|line| line.starts_with(verb))
                .count()
        }
    }

    async fn sent<F: Future<Output = io::Result<BoxStream>>>(
        kept: Option<Channel>,
        dial: impl Fn() -> F,
    ) -> (DeliveryResult, Option<Channel>) {
        let line = Line {
            dial,
            host: "host.test",
            security: &Security::new(Tls::Never, None),
            is_own: false,
        };
        let parcel = Parcel {
            domain: &Domain::parse("relay.test").unwrap(),
            reverse_path: &ReversePath::parse("a@relay.test").unwrap(),
            recipient: &Mailbox::parse("b@host.test").unwrap(),
            message: b"text\r\n",
        };
        let (sent, channel) = send(kept, &line, &parcel).await;
        match sent {
            Sent::Judged(result) | Sent::Unreached(result) => (result, channel),
            Sent::Own => panic!("the host has another name"),
        }
    }

    async fn no_dial() -> io::Result<BoxStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn transient(code: impl Into<Option<u16>>, status: Enhanced) -> DeliveryResult {
        DeliveryResult::Transient {
            code: code.into(),
            status,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_carries_so_many_messages_and_no_more() {
        let host = NextHost::default();
        let replies = ONE.repeat(2 * MESSAGES_MAX as usize);
        let mut kept = sent(None, || async { Ok(host.dialled(&replies)) }).await.1;
        for _ in 1..MESSAGES_MAX {
            let (result, channel) = sent(kept, no_dial).await;
            assert_eq!(result, DeliveryResult::Delivered);
            kept = channel;
        }
        assert!(kept.is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            (host.count("EHLO"), host.count("text"), host.count("QUIT")),
            (1, MESSAGES_MAX as usize, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_is_kept_for_ever() {
        let host = NextHost::default();
        let kept = sent(None, || async { Ok(host.dialled(&ONE.repeat(3))) }).await.1;
        assert!(kept.is_some());
        tokio::time::sleep(AGE_MAX).await;
        let (result, kept) = sent(kept, no_dial).await;
        assert!(result == DeliveryResult::Delivered && kept.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ended_meanwhile_is_no_failure_of_the_message() {
        for (first, what) in [
            (&[DONE, DONE, "354 go", DONE][..], "closed in silence"),
            (
                &[DONE, DONE, "354 go", "250 ok\r\n421 4.4.2 idle"],
                "said 421 and closed",
            ),
            (&[DONE, DONE, "354 go", DONE, "421 4.3.2 no more"], "said 421 to MAIL"),
            (
                &[DONE, DONE, "354 go", DONE, DONE, DONE, "421 4.3.2 no more"],
                "said 421 to DATA",
            ),
            (&[DONE, DONE, "354 go", DONE, DONE], "closed behind MAIL"),
        ] {
            let host = NextHost::default();
            let kept = sent(None, || async { Ok(host.dialled(first)) }).await.1;
            let (result, _) = sent(kept, || async { Ok(host.dialled(&ONE)) }).await;
            assert_eq!(result, DeliveryResult::Delivered, "{what}");
            assert_eq!((host.count("EHLO"), host.count("text")), (2, 2), "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_whose_text_has_left_is_not_offered_again() {
        let silence = transient(None, Enhanced::new(4, 4, 2));
        for (last, result) in [
            (None, silence),
            (Some("421 4.3.2 no more"), transient(421, Enhanced::new(4, 3, 2))),
            (Some("451 4.3.0 later"), transient(451, Enhanced::new(4, 3, 0))),
        ] {
            let host = NextHost::default();
            let replies: Vec<&str> = ONE.into_iter().chain([DONE, DONE, "354 go"]).chain(last).collect();
            let kept = sent(None, || async { Ok(host.dialled(&replies)) }).await.1;
            assert!(kept.is_some());
            assert_eq!(sent(kept, || async { Ok(host.dialled(&ONE)) }).await.0, result);
            assert_eq!((host.count("EHLO"), host.count("text")), (1, 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_that_fails_is_the_result() {
        assert_eq!(sent(None, no_dial).await.0, transient(None, Enhanced::new(4, 4, 1)));
        let silent = || async { std::future::pending().await };
        assert_eq!(sent(None, silent).await.0, transient(None, Enhanced::new(4, 4, 1)));
        let host = NextHost::default();
        let (result, kept) = sent(None, || async { Ok(host.dialled(&["421 4.3.2 closing"])) }).await;
        assert_eq!(result, transient(421, Enhanced::new(4, 3, 2)));
        assert!(kept.is_none());
        assert_eq!(host.count("EHLO"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_keeps_silent_is_not_asked_on_another_connection() {
        let host = NextHost::default();
        let (ours, theirs) = duplex(4_096);
        let speaks = tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            for reply in ["220 host", DONE].iter().chain(&ONE) {
                stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                let mut line = String::new();
                while line.is_empty() || line == "text\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
            }
            // Open, and read no more.
            stream
        });
        let once = Mutex::new(Some(ours));
        let dial = || async { Ok(Box::new(once.lock().unwrap().take().unwrap()) as BoxStream) };
        let kept = sent(None, dial).await.1;
        let (result, _) = sent(kept, || async { Ok(host.dialled(&ONE)) }).await;
        assert_eq!(result, transient(None, Enhanced::new(4, 4, 2)));
        assert_eq!(host.count("EHLO"), 0);
        drop(speaks.await.unwrap());
    }
}
