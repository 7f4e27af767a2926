//! Drives a [`Session`] over a stream: reads, asks the backend, writes.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::limits::{LINE_MAX, Limits, TEXT_BUFFER, Timer};
use super::path::{ForwardPath, ReversePath};
use super::replies::{self, Reply};
use super::reports::Reports;
use super::session::{Event, Session};
use crate::net::tls::Acceptor;
use crate::net::{BoxStream, Promise, stopped};

/// How long a farewell may take: the last reply to leave, and the client to close after it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Silence after which a session's large buffer is given back.
const IDLE: Duration = Duration::from_secs(1);

// What a session leaves is less than a line, and fits the smaller buffer: a read always has room.
const _: () = assert!(LINE_MAX < TEXT_BUFFER);

/// What decides about mail. Refusals come from [`replies`], or are built of a code and a text that names no address.
pub trait Backend: Send + Sync + 'static {
    /// One message being received.
    type Message: Receiver;

    /// Whether this is the user, in constant time. Asked only under [`Login::Required`](super::Login::Required).
    fn auth(&self, user: &[u8], password: &[u8]) -> bool;

    /// Whether mail may come from here; `size` is what the client announces, at most the limit.
    fn mail(&self, reverse_path: &ReversePath, size: Option<u64>) -> Result<(), Reply>;

    /// Whether it may go there, beside the recipients so far.
    fn rcpt(
        &self,
        reverse_path: &ReversePath,
        recipient: &ForwardPath,
        so_far: &[ForwardPath],
    ) -> impl Future<Output = Result<(), Reply>> + Send;

    /// Begins a message, before the client is told to send it: the place to refuse for want of room. `reports` are those
    /// that are wanted, for each recipient in order.
    fn data(
        &self,
        reverse_path: &ReversePath,
        recipients: &[ForwardPath],
        reports: &Reports,
    ) -> impl Future<Output = Result<Self::Message, Reply>> + Send;
}

/// One message being received. Dropped without [`finish`](Self::finish) it never was.
pub trait Receiver: Send {
    /// Takes the next octets, unstuffed. After an error the rest is drained and the error given as the reply.
    fn chunk(&mut self, octets: &[u8]) -> Result<(), Reply>;

    /// The message is complete. A positive reply is a promise: the message is durable before it is given.
    fn finish(self) -> impl Future<Output = Reply> + Send;
}

/// What makes a connection secret.
pub trait Secure: Send + Sync {
    /// Shakes hands as the server; what comes back carries what is said from then on.
    fn secure(&self, stream: BoxStream) -> Promise<'_, io::Result<BoxStream>>;
}

impl Secure for Acceptor {
    fn secure(&self, stream: BoxStream) -> Promise<'_, io::Result<BoxStream>> {
        Box::pin(self.accept(stream))
    }
}

/// What the connections of one listener have in common.
#[derive(Clone)]
pub struct Door {
    limits: Limits,
    secure: Option<Arc<dyn Secure>>,
    closing: Option<watch::Receiver<bool>>,
}

impl Door {
    /// A door with these limits, without TLS, which never closes.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
            starttls: false,
            ..limits
        };
        Self {
            limits,
            secure: None,
            closing: None,
        }
    }

    /// Offers STARTTLS.
    pub fn with_tls(mut self, secure: Arc<dyn Secure>) -> Self {
        self.limits.starttls = true;
        self.secure = Some(secure);
        self
    }

    /// Closes when `closing` turns true: no message begins from then on, those that are coming in are taken.
    pub fn until(mut self, closing: watch::Receiver<bool>) -> Self {
        self.closing = Some(closing);
        self
    }
}

/// Serves one connection until either side ends it, or the door closes.
///
/// The caller bounds how many there are ([`CONNECTIONS_MAX`](super::limits::CONNECTIONS_MAX)) and drops the future to
/// end one early: a message without its reply is not accepted.
pub async fn serve<B: Backend>(stream: BoxStream, door: Door, backend: B) {
    let connection = Connection {
        stream,
        session: Session::new(&door.limits),
        secure: door.secure.as_deref(),
        closing: door.closing.clone(),
        backend,
        message: None,
        input: Input::new(),
        clock: Instant::now(),
        octets: 0,
    };
    // Nobody is left to tell when the client is gone.
    let _gone = connection.run().await;
}

/// Tells a client that there are too many: 421 4.3.2 in place of the greeting.
pub async fn turn_away(mut stream: BoxStream) {
    let mut reply = Vec::new();
    replies::TOO_MANY_CONNECTIONS.write_to(&mut reply);
    let _gone = timeout(FAREWELL, stream.write_all(&reply)).await;
    close(&mut stream).await;
}

struct Connection<'l, B: Backend> {
    stream: BoxStream,
    session: Session<'l>,
    secure: Option<&'l dyn Secure>,
    closing: Option<watch::Receiver<bool>>,
    backend: B,
    message: Option<B::Message>,
    input: Input,
    /// When the session's timer started: with the latest reply, or with the message.
    clock: Instant,
    /// Octets that came since and count for the timer: at most one for each millisecond that passed.
    octets: u64,
}

/// What is next when all that came is done.
enum Next {
    Read,
    ShakeHands,
    End,
}

impl<B: Backend> Connection<'_, B> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let next = self.obey().await;
            self.flush().await?;
            match next {
                Next::End => break,
                Next::ShakeHands => self.shake_hands().await?,
                Next::Read => {}
            }
            if !self.read().await? {
                break;
            }
        }
        close(&mut self.stream).await;
        Ok(())
    }

    /// Does all that the input asks for.
    async fn obey(&mut self) -> Next {
        let Self {
            session,
            closing,
            backend,
            message,
            input,
            clock,
            octets: timed,
            ..
        } = self;
        loop {
            let (used, event) = session.handle(input.octets());
            match event {
                None => {
                    input.consume(used);
                    return Next::Read;
                }
                Some(Event::Close) => return Next::End,
                Some(Event::StartTls) => {
                    input.consume(used);
                    return Next::ShakeHands;
                }
                Some(Event::Auth(credentials)) => {
                    session.answer_auth(backend.auth(&credentials.user, &credentials.password));
                }
                Some(Event::Mail(reverse_path, size)) => {
                    let verdict = match closing {
                        Some(closing) if *closing.borrow() => Err(replies::SHUTTING_DOWN),
                        _ => backend.mail(&reverse_path, size),
                    };
                    session.answer_mail(reverse_path, verdict);
                }
                Some(Event::Rcpt(recipient)) => {
                    let verdict = backend
                        .rcpt(session.reverse_path(), &recipient, session.recipients())
                        .await;
                    session.answer_rcpt(recipient, verdict);
                }
                Some(Event::Data) => {
                    let verdict = backend
                        .data(session.reverse_path(), session.recipients(), session.reports())
                        .await;
                    session.answer_data(verdict.map(|fresh| *message = Some(fresh)));
                    // From here on, and not from one chunk's reply to the next.
                    (*clock, *timed) = (Instant::now(), 0);
                }
                Some(Event::Text(octets)) => {
                    let outcome = message
                        .as_mut()
                        .map_or(Err(replies::TRY_LATER), |message| message.chunk(octets));
                    if let Err(refusal) = outcome {
                        *message = None;
                        session.refuse_text(refusal);
                    }
                }
                Some(Event::TextRefused) => *message = None,
                Some(Event::TextEnd) => {
                    let reply = match message.take() {
                        Some(message) => message.finish().await,
                        None => replies::TRY_LATER,
                    };
                    session.answer_text(&reply);
                }
            }
            input.consume(used);
        }
    }

    /// Goes on under TLS. The session has seen to it that nothing was read beyond STARTTLS.
    async fn shake_hands(&mut self) -> io::Result<()> {
        let secure = self.secure.ok_or(io::ErrorKind::Unsupported)?;
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = timeout(HANDSHAKE, secure.secure(stream))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        self.session.secured();
        (self.clock, self.octets) = (Instant::now(), 0);
        Ok(())
    }

    /// Sends the replies to all that came in one batch (RFC 2920). A client that does not take them is not read from.
    async fn flush(&mut self) -> io::Result<()> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&output).await?;
            self.stream.flush().await
        };
        timeout(Timer::Write.allows(0), write)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        // The replies to chunks are none that a message may be dragged out with.
        if !self.session.is_receiving() {
            (self.clock, self.octets) = (Instant::now(), 0);
        }
        Ok(())
    }

    /// Reads what comes, or lets the session say that nothing came; whether the session goes on.
    async fn read(&mut self) -> io::Result<bool> {
        let timer = self.session.timer();
        if timer == Timer::Text {
            self.input.grow();
        }
        let deadline = self.clock + timer.allows(self.octets);
        loop {
            let idles = timer == Timer::Command && self.input.is_large();
            let until = if idles {
                deadline.min(Instant::now() + IDLE)
            } else {
                deadline
            };
            let read = timeout_at(until, self.stream.read(self.input.room()));
            let read = tokio::select! {
                biased;
                () = closed(&mut self.closing), if timer == Timer::Command => {
                    self.session.shut_down();
                    return Ok(true);
                }
                read = read => read,
            };
            match read {
                Ok(length) => {
                    let length = length?;
                    self.input.fill(length);
                    // A burst buys no more time than it took to come, or a message sent at once would hold its room
                    // for hours.
                    let passed = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.octets = (self.octets + length as u64).min(passed);
                    return Ok(length > 0);
                }
                Err(_elapsed) if until < deadline => self.input.shrink(),
                Err(_elapsed) => {
                    self.session.time_out();
                    self.message = None;
                    return Ok(true);
                }
            }
        }
    }
}

/// Ends when the door closes.
async fn closed(closing: &mut Option<watch::Receiver<bool>>) {
    match closing {
        Some(closing) => stopped(closing).await,
        None => std::future::pending().await,
    }
}

/// Closes so that the last reply arrives: input that nobody reads would turn it into a reset.
async fn close(stream: &mut BoxStream) {
    let farewell = async {
        stream.shutdown().await?;
        let mut ignored = [0; 256];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    let _gone = timeout(FAREWELL, farewell).await;
}

/// Octets that came and are not used up. They are passwords and mail: what is used up is overwritten at once.
///
/// The buffer is small until a message's text or a long batch of commands comes, and again when the session idles.
struct Input {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Self {
        Self {
            buffer: Zeroizing::new(vec![0; LINE_MAX]),
            start: 0,
            end: 0,
        }
    }

    fn octets(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, used: usize) {
        wipe(&mut self.buffer[self.start..self.start + used]);
        self.start += used;
    }

    fn is_large(&self) -> bool {
        self.buffer.len() > LINE_MAX
    }

    fn grow(&mut self) {
        if !self.is_large() {
            self.resize(TEXT_BUFFER);
        }
    }

    /// What is left while a session waits for a command is less than a line.
    fn shrink(&mut self) {
        self.resize(LINE_MAX);
    }

    fn resize(&mut self, size: usize) {
        let mut fresh = Zeroizing::new(vec![0; size]);
        let left = self.octets();
        fresh[..left.len()].copy_from_slice(left);
        (self.start, self.end) = (0, left.len());
        self.buffer = fresh;
    }

    /// Where to read to, in a buffer that begins with what is left.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            let left = self.end - self.start;
            self.buffer.copy_within(self.start..self.end, 0);
            wipe(&mut self.buffer[left.max(self.start)..self.end]);
            (self.start, self.end) = (0, left);
        }
        &mut self.buffer[self.end..]
    }

    fn fill(&mut self, length: usize) {
        self.end += length;
        // Whoever fills it has more to say.
        if self.end == self.buffer.len() {
            self.grow();
        }
    }
}

/// Overwrites octets of a buffer that stays in use: at the speed of memset, where `Zeroize` goes octet by octet.
fn wipe(octets: &mut [u8]) {
    octets.fill(0);
    // Seen from here they may be read again, so they cannot be left as they were.
    std::hint::black_box(octets);
}
