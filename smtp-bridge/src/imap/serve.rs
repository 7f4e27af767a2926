//! The driver: a session, its stream, its timeout and its backend.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::session::{Answer, Ask, Session, Step};
use super::{Backend, Limits};

/// Bytes read at a time; kept by an idle session.
const READ: usize = 2 << 10;

/// The same inside a literal.
const READ_LITERAL: usize = 64 << 10;

/// Bytes written at a time: what follows waits for the client to read.
const WRITE: usize = 64 << 10;

/// Holds one conversation, from the greeting to the end of the stream.
///
/// # Errors
/// The stream failed. The end of the stream and a client that is silent for too long are no errors.
pub async fn serve<S, B>(mut stream: S, limits: &Limits, backend: &B) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Backend,
{
    let mut session = Session::new(limits);
    let mut changed = backend.changed();
    let mut buffer = Zeroizing::new(Vec::new());
    let mut deadline = Instant::now() + session.patience();
    loop {
        // Marked before the mailbox is looked at: a change in between wakes once too often, not once too little.
        changed.mark_unchanged();
        match session.poll(&backend.inbox()) {
            Step::Transmit => {
                let bytes = session.transmit();
                let bytes = &bytes[..bytes.len().min(WRITE)];
                let Ok(written) = timeout(session.patience(), stream.write(bytes)).await else {
                    return Ok(());
                };
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => session.handle_transmitted(written),
                }
                deadline = Instant::now() + session.patience();
            }
            Step::Receive { watch } => {
                stream.flush().await?;
                resize(&mut buffer, if session.expects_much() { READ_LITERAL } else { READ });
                tokio::select! {
                    read = stream.read(&mut buffer) => match read? {
                        0 => return Ok(()),
                        read => {
                            session.handle_bytes(&buffer[..read]);
                            deadline = Instant::now() + session.patience();
                        }
                    },
                    () = wake(&mut changed), if watch => {}
                    () = sleep_until(deadline) => session.handle_timeout(),
                }
            }
            Step::Ask(ask) => {
                let answer = ask_backend(backend, limits, ask).await;
                session.handle_answer(answer);
                // A backend that is always ready would keep the other sessions waiting.
                tokio::task::yield_now().await;
            }
            Step::Close => return stream.shutdown().await,
        }
    }
}

/// Waits for the next change; for ever if there will be none.
async fn wake(changed: &mut watch::Receiver<u64>) {
    if changed.changed().await.is_err() {
        std::future::pending().await
    }
}

fn resize(buffer: &mut Zeroizing<Vec<u8>>, length: usize) {
    if buffer.len() != length {
        *buffer = Zeroizing::new(vec![0; length]);
    }
}

async fn ask_backend<B: Backend>(backend: &B, limits: &Limits, ask: Ask) -> Answer {
    match ask {
        Ask::Login { user, password } => {
            let right = backend.login(&user, &password);
            if !right {
                sleep(limits.login_failure_delay).await;
            }
            Answer::Login(right)
        }
        Ask::Message(uid) => Answer::Message(backend.message(uid).await),
        Ask::Store { uids, change } => Answer::Done(backend.store(uids, change).await),
        Ask::Expunge(uids) => Answer::Done(backend.expunge(uids).await),
        Ask::Append {
            mut message,
            flags,
            internal_date,
        } => {
            let message = std::mem::take(&mut *message);
            Answer::Appended(backend.append(message, flags, internal_date).await)
        }
    }
}

/// Counts the sessions.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

/// A session's place; the place is free when it is dropped.
pub struct Admission(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Gate {
    /// A gate for [`Limits::sessions_max`] sessions at once.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Semaphore::new(limits.sessions_max)))
    }

    /// A place for one more session. `None`: [`turn_away`] the client.
    #[must_use]
    pub fn admit(&self) -> Option<Admission> {
        Arc::clone(&self.0).try_acquire_owned().ok().map(Admission)
    }
}

/// Tells a client that there are too many, and hangs up.
///
/// # Errors
/// The stream failed.
pub async fn turn_away<S: AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    stream
        .write_all(b"* BYE [UNAVAILABLE] Too many sessions, try again later\r\n")
        .await?;
    stream.shutdown().await
}
