//! The driver: a session, its stream, its timeout and its backend.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mailbox::StoreError;
use mailbox::holder_store::{Flags, FolderId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use zeroize::Zeroizing;

use super::session::{Answer, Ask, Session, Step};
use super::{Backend, Limits, Unavailable};

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
    let mut kept_until = Instant::now();
    let mut taking = Taking::default();
    loop {
        // Marked before the mailboxes are looked at: a change in between wakes once too often, not once too little.
        changed.mark_unchanged();
        match session.poll(backend) {
            Step::Transmit => {
                let bytes = session.transmit();
                let bytes = &bytes[..bytes.len().min(WRITE)];
                let patience = session
                    .patience()
                    .min(taking.left(session.pieces_sent(), limits.taking));
                if patience.is_zero() {
                    return Ok(());
                }
                let Ok(written) = timeout(patience, stream.write(bytes)).await else {
                    return Ok(());
                };
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => session.handle_transmitted(written),
                }
                if !session.is_watching() {
                    // A command that takes long is no silence; news of the mailbox are.
                    deadline = Instant::now() + session.patience();
                }
                kept_until = Instant::now() + limits.part_kept;
            }
            Step::Receive { watch } => {
                stream.flush().await?;
                if !session.holds_text() {
                    backend.handed_out();
                }
                resize(&mut buffer, if session.expects_much() { READ_LITERAL } else { READ });
                tokio::select! {
                    biased;
                    read = stream.read(&mut buffer) => match read? {
                        0 => return Ok(()),
                        read => {
                            session.handle_bytes(&buffer[..read]);
                            deadline = Instant::now() + session.patience();
                            kept_until = Instant::now() + limits.part_kept;
                        }
                    },
                    () = sleep_until(deadline) => session.handle_timeout(),
                    () = sleep_until(kept_until), if session.keeps_text() => session.forget_kept(),
                    // A message of which something is kept may be expunged.
                    () = wake(&mut changed), if watch || session.keeps_text() => {}
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

/// Since when a client takes a piece of output, and the how manyth. However little it takes at a time, the text of which the
/// piece is comes to an end.
#[derive(Default)]
struct Taking(Option<(u64, Instant)>);

impl Taking {
    /// How much of `whole` is left for the piece behind so many.
    fn left(&mut self, sent: u64, whole: Duration) -> Duration {
        let now = Instant::now();
        let since = self
            .0
            .filter(|(before, _)| *before == sent)
            .map_or(now, |(_, since)| since);
        self.0 = Some((sent, since));
        whole.saturating_sub(now - since)
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
            let late = Instant::now() + limits.login_failure_delay;
            let right = backend.login(&user, &password).await;
            if !right {
                sleep_until(late).await;
            }
            Answer::Login(right)
        }
        Ask::Message(folder, uid) => Answer::Message(backend.message(folder, uid).await),
        Ask::Messages(folder, uids) => Answer::Messages(messages(backend, folder, &uids).await),
        Ask::Text(folder, uid, depth, words) => Answer::Text(match backend.text(folder, uid).await {
            // It may be read from its beginning to its end.
            Ok(Some(text)) => match backend.look_through(text, depth, words).await {
                Some(long) => long.map(Some).map_err(unreadable),
                None => Err(Unavailable),
            },
            other => other.map(|_| None),
        }),
        Ask::Piece(text, at) => Answer::Piece(text.read(at).map_err(unreadable)),
        Ask::Summaries(folder, uids) => Answer::Summaries(backend.summaries(folder, &uids).await),
        Ask::Keywords(names) => Answer::Keywords(keywords(backend, names).await),
        Ask::Store(folder, store) => Answer::Stored(backend.store(folder, store).await),
        Ask::Expunge(folder, uids) => Answer::Done(backend.expunge(folder, uids).await),
        Ask::Append {
            folder,
            mut message,
            flags,
            internal_date,
        } => {
            let message = std::mem::take(&mut *message);
            Answer::Appended(backend.append(folder, message, flags, internal_date).await)
        }
        Ask::Copy { from, uids, to, moves } => Answer::Copied(match moves {
            true => backend.move_to(from, uids, to).await,
            false => backend.copy(from, uids, to).await,
        }),
        Ask::Create(name, special_use) => Answer::Done(backend.create(name, special_use).await),
        Ask::Delete(folder) => Answer::Done(backend.delete(folder).await),
        Ask::Rename(folder, name) => Answer::Done(backend.rename(folder, name).await),
        Ask::Subscribe(name, subscribed) => Answer::Done(backend.subscribe(name, subscribed).await),
    }
}

/// The client learns that there is trouble, the log which.
fn unreadable(error: StoreError) -> Unavailable {
    tracing::error!(%error, "a message cannot be read");
    Unavailable
}

/// The flags of keywords, as far as there is room for them.
async fn keywords<B: Backend>(backend: &B, names: Vec<String>) -> Result<Flags, Unavailable> {
    let mut flags = Flags::default();
    for name in names {
        if let Some(keyword) = backend.keyword(name).await? {
            flags = flags.with(keyword);
        }
    }
    Ok(flags)
}

/// The texts up to one that cannot be read now: what is there goes out first.
async fn messages<B: Backend>(
    backend: &B,
    folder: FolderId,
    uids: &[u32],
) -> Result<Vec<Option<Vec<u8>>>, Unavailable> {
    let mut texts = Vec::with_capacity(uids.len());
    for &uid in uids {
        match backend.message(folder, uid).await {
            Ok(text) => texts.push(text),
            Err(unavailable) if texts.is_empty() => return Err(unavailable),
            Err(_) => break,
        }
    }
    Ok(texts)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;
    use crate::imap::MemoryStore;

    /// A client over a pipe of 4 KiB, and the server's end.
    fn connect(inbox: &Arc<MemoryStore>) -> (BufReader<DuplexStream>, JoinHandle<io::Result<()>>) {
        let (client, server) = duplex(4 << 10);
        let inbox = Arc::clone(inbox);
        let served = tokio::spawn(async move { serve(server, &Limits::default(), &*inbox).await });
        (BufReader::new(client), served)
    }

    /// Lines up to and with one that starts so.
    async fn until(client: &mut BufReader<DuplexStream>, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            assert_ne!(
                client.read_until(b'\n', &mut line).await.expect("the pipe stands"),
                0,
                "closed before {start}"
            );
            lines.push(String::from_utf8_lossy(&line).trim_end().to_string());
            if lines[lines.len() - 1].starts_with(start) {
                return lines;
            }
        }
    }

    async fn send(client: &mut BufReader<DuplexStream>, text: &str) {
        client.write_all(text.as_bytes()).await.expect("the pipe stands");
    }

    async fn selected(inbox: &Arc<MemoryStore>) -> (BufReader<DuplexStream>, JoinHandle<io::Result<()>>) {
        let (mut client, served) = connect(inbox);
        send(&mut client, "a LOGIN user pass\r\nb SELECT INBOX\r\n").await;
        until(&mut client, "b OK").await;
        (client, served)
    }

    fn inbox() -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new("user", "pass", || 0))
    }

    #[tokio::test]
    async fn a_long_message_passes_through_a_short_pipe_unchanged() {
        let inbox = inbox();
        let (mut client, served) = selected(&inbox).await;
        let text: Vec<u8> = (0..1_000_000u32).map(|index| (index * 7 % 256) as u8).collect();
        send(&mut client, &format!("c APPEND INBOX {{{}}}\r\n", text.len())).await;
        until(&mut client, "+").await;
        client.write_all(&text).await.expect("the pipe stands");
        send(&mut client, "\r\nd FETCH 1 BODY.PEEK[]\r\n").await;
        until(&mut client, "c OK").await;
        until(&mut client, "* 1 FETCH (BODY[] {1000000}").await;
        let mut fetched = vec![0; text.len()];
        client.read_exact(&mut fetched).await.expect("the pipe stands");
        assert!(fetched == text);
        assert_eq!(until(&mut client, "d OK").await, [")", "d OK Completed"]);
        send(&mut client, "e LOGOUT\r\n").await;
        until(&mut client, "e OK").await;
        served.await.expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn idle_wakes_on_a_change_by_another_session() {
        let inbox = inbox();
        let (mut idle, _served) = selected(&inbox).await;
        send(&mut idle, "c IDLE\r\n").await;
        until(&mut idle, "+").await;
        let (mut other, _served) = selected(&inbox).await;
        send(
            &mut other,
            "c APPEND INBOX {1+}\r\nx\r\nd STORE 1 +FLAGS (\\Deleted)\r\ne EXPUNGE\r\n",
        )
        .await;
        until(&mut other, "e OK").await;
        assert_eq!(
            until(&mut idle, "* 1 EXPUNGE").await.first().map(String::as_str),
            Some("* 1 EXISTS")
        );
        send(&mut idle, "DONE\r\n").await;
        until(&mut idle, "c OK").await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_session_and_pushes_do_not_prolong_it() {
        let inbox = inbox();
        let (mut client, served) = connect(&inbox);
        let begun = Instant::now();
        assert_eq!(until(&mut client, "* BYE").await.len(), 2);
        assert_eq!(begun.elapsed().as_secs(), 180);
        served.await.expect("no panic").expect("no error");

        let (mut client, served) = selected(&inbox).await;
        send(&mut client, "c IDLE\r\n").await;
        until(&mut client, "+").await;
        let begun = Instant::now();
        sleep(Duration::from_secs(1_000)).await;
        inbox.add("x".into(), Flags::default(), None);
        until(&mut client, "* BYE").await;
        assert!(
            (1_800..=1_801).contains(&begun.elapsed().as_secs()),
            "{:?}",
            begun.elapsed()
        );
        served.await.expect("no panic").expect("no error");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_part_was_fetched_of_is_kept_for_a_minute_of_silence() {
        let inbox = inbox();
        inbox.add("x".repeat(400_000).into(), Flags::default(), None);
        let (mut client, _served) = selected(&inbox).await;
        for ends in 1..3 {
            // The command after a part finds it kept, and the silence begins anew with it.
            for _ in 0..3 {
                send(&mut client, "c FETCH 1 BODY.PEEK[]<0.10>\r\n").await;
                until(&mut client, "c OK").await;
                sleep(Duration::from_secs(50)).await;
            }
            let before = inbox.handed_out_count();
            sleep(Duration::from_secs(20)).await;
            assert_eq!(inbox.handed_out_count(), before + 1, "{ends}");
        }
        send(&mut client, "c FETCH 1 BODY.PEEK[]<0.10>\r\n").await;
        until(&mut client, "c OK").await;
        let before = inbox.handed_out_count();
        let (mut other, _served) = selected(&inbox).await;
        send(&mut other, "d STORE 1 +FLAGS (\\Deleted)\r\ne EXPUNGE\r\n").await;
        until(&mut other, "e OK").await;
        sleep(Duration::from_secs(1)).await;
        drop(other);
        assert!(inbox.handed_out_count() > before, "another session expunged it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_literal_that_is_taken_in_drops_comes_to_an_end() {
        let inbox = inbox();
        inbox.add("x".repeat(1_000_000).into(), Flags::default(), None);
        let (mut client, served) = selected(&inbox).await;
        send(&mut client, "c FETCH 1 BODY.PEEK[]\r\n").await;
        let begun = Instant::now();
        let mut drop = [0; 64];
        while client.read(&mut drop).await.expect("the pipe stands") > 0 {
            sleep(Duration::from_secs(5)).await;
        }
        served.await.expect("no panic").expect("no error");
        let hours = begun.elapsed().as_secs_f64() / 3_600.0;
        assert!((1.0..1.5).contains(&hours), "{hours}");
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_are_answered_late() {
        let (mut client, _served) = connect(&inbox());
        let begun = Instant::now();
        send(&mut client, "a LOGIN user wrong\r\n").await;
        until(&mut client, "a NO").await;
        assert_eq!(begun.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_hung_up_on() {
        let inbox = inbox();
        inbox.add(vec![b'x'; 100_000], Flags::default(), None);
        let (mut client, served) = selected(&inbox).await;
        send(&mut client, "c FETCH 1 BODY[]\r\n").await;
        served.await.expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn the_gate_counts_sessions() {
        let gate = Gate::new(&Limits {
            sessions_max: 2,
            ..Limits::default()
        });
        let (one, _other) = (gate.admit(), gate.admit());
        assert!(one.is_some() && gate.admit().is_none());
        drop(one);
        assert!(gate.admit().is_some());
        let (mut client, server) = duplex(100);
        turn_away(server).await.expect("the pipe stands");
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("text");
        assert!(said.starts_with("* BYE"));
    }

    #[tokio::test]
    async fn an_idle_session_is_small() {
        let inbox = inbox();
        let (_client, server) = duplex(1);
        let size = size_of_val(&serve(server, &Limits::default(), &*inbox)) + READ;
        assert!(size < 8 << 10, "{size}");
    }
}
