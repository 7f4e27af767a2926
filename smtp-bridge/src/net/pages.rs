//! Web pages over the host's listener.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};

use super::{BoxStream, Listener, stopped};

/// Serves pages to at most `connections_max` visitors at a time until `stop` turns true; others wait to be accepted.
///
/// # Errors
/// Of axum's; it gives none today.
pub async fn serve(
    listener: Box<dyn Listener>,
    pages: Router,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let doors = Doors {
        listener,
        places: Arc::new(Semaphore::new(connections_max)),
    };
    // Nobody who holds a connection open may hold the process's end up: a page that is half sent is cut off.
    tokio::select! {
        biased;
        () = stopped(&mut stop) => Ok(()),
        ended = axum::serve(doors, pages).into_future() => ended,
    }
}

/// The host's listener as axum takes it.
struct Doors {
    listener: Box<dyn Listener>,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Doors {
    type Io = Visitor;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Visitor, Option<SocketAddr>) {
        let place = self.places.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                // Who asks is nobody's business, the page's least of all.
                Ok((stream, _)) => return (Visitor::new(stream, place), None),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.listener.address())
    }
}

/// Longest wait for the first byte of a visitor: browsers open connections ahead that they may never use.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Longest time from the first byte of a request to the first of its answer, from one byte of the answer to the next, and from
/// there to the first byte of another request.
const ANSWER: Duration = Duration::from_secs(90);

/// A connection that holds its place until it ends. One on which nothing is asked ends soon: others may wait for its place.
struct Visitor {
    stream: BoxStream,
    /// When it is over, unless something happens.
    late: Pin<Box<Sleep>>,
    /// Something came since anything was sent.
    is_asking: bool,
    _place: OwnedSemaphorePermit,
}

impl Visitor {
    fn new(stream: BoxStream, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            late: Box::pin(sleep(FIRST_BYTE)),
            is_asking: false,
            _place: place,
        }
    }

    /// Counts the time anew.
    fn goes_on(&mut self) {
        self.late.as_mut().reset(Instant::now() + ANSWER);
    }

    /// An error instead of further waiting, when it is late.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending if self.late.as_mut().poll(cx).is_ready() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            polled => polled,
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() && !self.is_asking {
            self.is_asking = true;
            self.goes_on();
        }
        self.in_time(cx, polled)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if polled.is_ready() {
            self.is_asking = false;
            self.goes_on();
        }
        self.in_time(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::super::{Promise, Source};
    use super::*;

    /// Visitors over pipes.
    struct Pipes(mpsc::Receiver<BoxStream>);

    impl Listener for Pipes {
        fn accept(&mut self) -> Promise<'_, io::Result<(BoxStream, Source)>> {
            Box::pin(async {
                match self.0.recv().await {
                    Some(stream) => Ok((stream, Source([0; 6]))),
                    None => std::future::pending().await,
                }
            })
        }

        fn address(&self) -> Option<SocketAddr> {
            None
        }
    }

    /// Serves two visitors at a time: a page that is there at once, and one that takes a minute.
    fn served() -> (mpsc::Sender<BoxStream>, watch::Sender<bool>) {
        let (visit, visitors) = mpsc::channel(8);
        let (stop, stopping) = watch::channel(false);
        let slow = || async {
            sleep(Duration::from_secs(60)).await;
            "slow"
        };
        let pages = Router::new()
            .route("/", get(|| async { "quick" }))
            .route("/slow", get(slow));
        tokio::spawn(serve(Box::new(Pipes(visitors)), pages, 2, stopping));
        (visit, stop)
    }

    async fn visitor(visit: &mpsc::Sender<BoxStream>) -> DuplexStream {
        let (near, far) = duplex(4 << 10);
        assert!(visit.send(Box::new(far)).await.is_ok(), "served");
        near
    }

    async fn asks(visitor: &mut DuplexStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.expect("open");
        let mut said = vec![0; 1_000];
        let read = visitor.read(&mut said).await.expect("open");
        String::from_utf8_lossy(&said[..read]).into_owned()
    }

    /// How long it takes until the connection ends, in seconds.
    async fn ends_after(visitor: &mut DuplexStream) -> u64 {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = visitor.read_to_end(&mut rest).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn silent_visitors_shut_nobody_out_for_long() {
        let (visit, _stop) = served();
        let mut silent = [visitor(&visit).await, visitor(&visit).await];
        let mut third = visitor(&visit).await;
        let begun = Instant::now();
        assert!(asks(&mut third, "/").await.ends_with("quick"));
        assert!((10..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        for silent in &mut silent {
            assert_eq!(ends_after(silent).await, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_a_while_and_silence_after_it_ends_the_visit() {
        let (visit, _stop) = served();
        let mut visitor = visitor(&visit).await;
        for _ in 0..3 {
            assert!(asks(&mut visitor, "/slow").await.ends_with("slow"));
            sleep(Duration::from_secs(60)).await;
        }
        assert!((25..=31).contains(&ends_after(&mut visitor).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_drops_comes_to_an_end() {
        let (visit, _stop) = served();
        let mut visitor = visitor(&visit).await;
        let begun = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nA: ".iter().chain(std::iter::repeat(&b'x')) {
            if visitor.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(5)).await;
        }
        assert!((85..=100).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
