//! Places for connections of strangers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp_bridge::net::{BoxStream, Listener, Source, stopped};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The bounds on connections of strangers: a total, and half of it for one source.
pub(crate) struct Gate {
    room: Arc<Semaphore>,
    places: u32,
    sources: Arc<Mutex<HashMap<Source, usize>>>,
    per_source_max: usize,
}

/// A connection's place; given back when dropped.
pub(crate) struct Pass {
    source: Source,
    sources: Arc<Mutex<HashMap<Source, usize>>>,
    _place: OwnedSemaphorePermit,
}

impl Gate {
    /// Room for so many connections.
    pub(crate) fn new(connections_max: usize) -> Self {
        let places = u32::try_from(connections_max).unwrap_or(u32::MAX);
        Gate {
            room: Arc::new(Semaphore::new(places as usize)),
            places,
            sources: Arc::default(),
            per_source_max: (connections_max / 2).max(1),
        }
    }

    /// The next connection, with its place; `None` once `stop` is true. At the bound new ones wait un-accepted: nobody is
    /// told anything. What comes from a source that has half of the places is closed.
    pub(crate) async fn admit(
        &self,
        listener: &mut dyn Listener,
        stop: &mut watch::Receiver<bool>,
    ) -> Option<(BoxStream, Pass)> {
        loop {
            let place = tokio::select! {
                biased;
                () = stopped(stop) => return None,
                place = self.place() => place,
            };
            let accepted = tokio::select! {
                biased;
                () = stopped(stop) => return None,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, source)) = accepted else {
                // Out of file descriptors, most likely: others will close.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            if let Some(pass) = self.pass(source, place) {
                return Some((stream, pass));
            }
        }
    }

    /// A place, waited for: to be taken before a connection is accepted.
    async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.room.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// A place if there is one now.
    pub(crate) fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// Ends when every connection that was admitted has ended; there must be none new meanwhile.
    pub(crate) async fn empty(&self) {
        // Never closed, so all there is to wait for is the places.
        let _all = self.room.acquire_many(self.places).await;
    }

    /// Admits a connection to its place; `None` if its source has half of them already.
    pub(crate) fn pass(&self, source: Source, place: OwnedSemaphorePermit) -> Option<Pass> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= self.per_source_max {
            return None;
        }
        *count += 1;
        Some(Pass {
            source,
            sources: self.sources.clone(),
            _place: place,
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_gets_half_of_the_places() {
        let gate = Gate::new(4);
        let place = || gate.try_place().unwrap();
        let here = Source::from("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
        let there = Source::from("198.51.100.1".parse::<std::net::IpAddr>().unwrap());
        let first = gate.pass(here, place()).unwrap();
        let _second = gate.pass(here, place()).unwrap();
        assert!(gate.pass(here, place()).is_none());
        let _other = gate.pass(there, place()).unwrap();
        drop(first);
        assert!(gate.pass(here, place()).is_some());
    }

    #[tokio::test]
    async fn a_gate_is_empty_when_the_last_connection_has_ended() {
        let gate = Gate::new(4);
        gate.empty().await;
        let here = Source::from("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
        let pass = gate.pass(here, gate.try_place().unwrap());
        let empty = gate.empty();
        tokio::pin!(empty);
        let soon = tokio::time::timeout(std::time::Duration::ZERO, &mut empty).await;
        assert!(soon.is_err());
        drop(pass);
        empty.await;
    }
}
