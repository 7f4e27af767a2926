//! What happened in a run, and when: two runs of a seed must agree in all of it.
//!
//! Things of one instant may come in any order: which of the tasks that wait for a stop hears of it first is drawn by the
//! runtime, and no seed reaches there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::random::{digest, mix};

/// Most events of a run: more is a world that never comes to rest.
const EVENTS_MAX: usize = 5_000_000;

/// The sum over all events, and what was found wrong. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Record>>);

struct Record {
    start: Instant,
    sum: u64,
    events: Vec<String>,
    is_shown: bool,
    faults: Vec<String>,
    troubles: Vec<Duration>,
}

impl Trace {
    pub(crate) fn new(is_shown: bool) -> Self {
        Trace(Arc::new(Mutex::new(Record {
            start: Instant::now(),
            sum: 0,
            events: Vec::new(),
            is_shown,
            faults: Vec::new(),
            troubles: Vec::new(),
        })))
    }

    /// Time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.lock().start.elapsed()
    }

    pub(crate) fn note(&self, event: impl AsRef<str>) {
        let mut record = self.lock();
        let at = record.start.elapsed();
        let event = format!("{:>12.6} {}", at.as_secs_f64(), event.as_ref());
        record.sum = record.sum.wrapping_add(mix(digest(event.as_bytes())));
        if record.is_shown {
            println!("{event}");
        }
        record.events.push(event);
        assert!(record.events.len() < EVENTS_MAX, "the world does not come to rest");
    }

    /// Something that must never happen.
    pub(crate) fn fault(&self, sentence: String) {
        self.note(format!("FAULT {sentence}"));
        self.lock().faults.push(sentence);
    }

    /// Notes that something was made to go wrong now.
    pub(crate) fn trouble(&self) {
        let mut record = self.lock();
        let at = record.start.elapsed();
        record.troubles.push(at);
    }

    /// When things were made to go wrong.
    pub(crate) fn troubles(&self) -> Vec<Duration> {
        self.lock().troubles.clone()
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    pub(crate) fn sum(&self) -> u64 {
        self.lock().sum
    }

    /// Everything that happened.
    pub(crate) fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().events)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
