//! Deliveries that wait, as the operator sees and handles them: by small numbers that say nothing about them.
//!
//! Kept in memory alone: after a start numbers begin anew, and what a next host said last is known again after its next
//! answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailbox::relay_store::{DeliveryId, QueueRow};
use smtp_bridge::smtp::{DeliveryResult, Enhanced};
use tokio::sync::Notify;

/// See the module.
#[derive(Default)]
pub(crate) struct Waiting {
    book: Arc<Mutex<Book>>,
    changed: Notify,
}

#[derive(Default)]
struct Book {
    /// Numbers that were shown, of deliveries that may still wait.
    shown: BTreeMap<u64, DeliveryId>,
    numbers: HashMap<DeliveryId, u64>,
    last: HashMap<DeliveryId, (Option<u16>, Enhanced)>,
    verdicts: HashMap<DeliveryId, Verdict>,
    held: HashSet<DeliveryId>,
}

/// How a delivery ended that is to be told of later.
#[derive(Clone)]
pub(crate) struct Verdict {
    /// What came of its last try.
    pub(crate) result: DeliveryResult,
    /// The host that spoke last, where it is one that the world can look up.
    pub(crate) remote: Option<String>,
}

/// A delivery in somebody's hands; free again when dropped.
pub(crate) struct Hold {
    book: Arc<Mutex<Book>>,
    id: DeliveryId,
}

/// A delivery as it is shown.
pub(crate) struct Shown {
    /// Its number, the same as long as it waits and the process runs.
    pub(crate) number: u64,
    /// What the store says.
    pub(crate) row: QueueRow,
    /// Codes of the last answer that put it off.
    pub(crate) last: Option<String>,
}

impl Waiting {
    /// Takes a delivery in hand, the exit to try it or the operator to end it. `None`: the other one has it.
    pub(crate) fn hold(&self, id: DeliveryId) -> Option<Hold> {
        self.book().held.insert(id).then(|| Hold {
            book: self.book.clone(),
            id,
        })
    }

    /// Whether no delivery is in anybody's hands.
    pub(crate) fn is_idle(&self) -> bool {
        self.book().held.is_empty()
    }

    /// A try was put off with these codes.
    pub(crate) fn deferred(&self, id: DeliveryId, code: Option<u16>, status: Enhanced) {
        self.book().last.insert(id, (code, status));
    }

    /// It is not tried again, and told of when it is due next. After a start nobody knows this any more, and it is tried.
    pub(crate) fn judged(&self, id: DeliveryId, verdict: Verdict) {
        self.book().verdicts.insert(id, verdict);
    }

    /// How it ended, if it is not to be tried again.
    pub(crate) fn verdict(&self, id: DeliveryId) -> Option<Verdict> {
        self.book().verdicts.get(&id).cloned()
    }

    /// The delivery waits no more.
    pub(crate) fn ended(&self, id: DeliveryId) {
        let mut book = self.book();
        book.last.remove(&id);
        book.verdicts.remove(&id);
        if let Some(number) = book.numbers.remove(&id) {
            book.shown.remove(&number);
        }
    }

    /// Gives rows their numbers.
    pub(crate) fn show(&self, rows: Vec<QueueRow>) -> Vec<Shown> {
        let mut book = self.book();
        let shown = rows.into_iter().map(|row| {
            let following = book.shown.last_key_value().map_or(1, |(number, _)| number + 1);
            let number = *book.numbers.entry(row.id).or_insert(following);
            book.shown.insert(number, row.id);
            let last = book.last.get(&row.id).map(|(code, status)| match code {
                Some(code) => format!("{code} {status}"),
                None => status.to_string(),
            });
            Shown { number, row, last }
        });
        shown.collect()
    }

    /// The delivery that was shown under a number.
    pub(crate) fn find(&self, number: u64) -> Option<DeliveryId> {
        self.book().shown.get(&number).copied()
    }

    /// Has the exit look at what is due.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Ends when the exit is to look.
    pub(crate) async fn woken(&self) {
        self.changed.notified().await;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64) -> QueueRow {
        QueueRow {
            id: DeliveryId(id),
            attempts: 0,
            due: 0,
            accepted: 0,
            kilobytes: 1,
            is_pooled: false,
        }
    }

    fn numbers(waiting: &Waiting, ids: &[u64]) -> Vec<u64> {
        let rows = ids.iter().map(|id| row(*id)).collect();
        waiting.show(rows).iter().map(|shown| shown.number).collect()
    }

    #[test]
    fn a_number_stays_with_its_delivery_and_goes_with_it() {
        let waiting = Waiting::default();
        assert_eq!(numbers(&waiting, &[70, 80]), [1, 2]);
        assert_eq!(numbers(&waiting, &[90, 80, 70]), [3, 2, 1]);
        assert!(waiting.find(2) == Some(DeliveryId(80)));
        waiting.ended(DeliveryId(80));
        assert!(waiting.find(2).is_none());
        assert_eq!(
            numbers(&waiting, &[70, 100]),
            [1, 4],
            "the number of one that waits is nobody else's"
        );
        assert!(waiting.find(9).is_none());
    }

    #[test]
    fn what_was_said_last_is_shown_until_the_end() {
        let waiting = Waiting::default();
        let last = || waiting.show(vec![row(1)])[0].last.clone();
        assert_eq!(last(), None);
        waiting.deferred(DeliveryId(1), Some(451), Enhanced::new(4, 3, 0));
        assert_eq!(last().as_deref(), Some("451 4.3.0"));
        waiting.deferred(DeliveryId(1), None, Enhanced::new(4, 4, 1));
        assert_eq!(last().as_deref(), Some("4.4.1"));
        waiting.ended(DeliveryId(1));
        assert_eq!(last(), None);
    }

    #[test]
    fn a_verdict_is_known_until_the_end() {
        let waiting = Waiting::default();
        let is_known = || waiting.verdict(DeliveryId(1)).is_some();
        assert!(!is_known());
        let result = DeliveryResult::Permanent {
            code: Some(550),
            status: Enhanced::new(5, 1, 1),
        };
        waiting.judged(DeliveryId(1), Verdict { result, remote: None });
        assert!(is_known() && is_known());
        waiting.ended(DeliveryId(1));
        assert!(!is_known());
    }

    #[test]
    fn a_delivery_is_in_one_hand() {
        let waiting = Waiting::default();
        let hold = waiting.hold(DeliveryId(1)).expect("free");
        assert!(waiting.hold(DeliveryId(1)).is_none());
        assert!(waiting.hold(DeliveryId(2)).is_some());
        drop(hold);
        assert!(waiting.hold(DeliveryId(1)).is_some());
    }
}
