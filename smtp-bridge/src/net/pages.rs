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
        let _place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                // Who asks is nobody's business, the page's least of all.
                Ok((stream, _)) => return (Visitor { stream, _place }, None),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.listener.address())
    }
}

/// A connection that holds its place until it ends.
struct Visitor {
    stream: BoxStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
