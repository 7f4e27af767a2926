//! The books of the peers, held against what this relay noted now and then without anybody asking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailbox::RelayStore;
use smtp_bridge::holder::LinkState;
use smtp_bridge::net::stopped;
use tokio::sync::watch;

use super::Peer;
use super::compare::{self, Report};
use crate::Relay;

/// Most seconds from a link to the first look, and from a look that found a difference to the next.
const SOON_S: u64 = 300;
/// How long the peer's answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// What a comparison came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Books {
    /// To the µtok.
    Agree,
    /// What is under way explains the difference, or it was seen only once.
    UnderWay,
    /// The own book does not go back to the first message.
    Incomplete,
    /// By so many µtok, twice in a row.
    Differ(u64),
}

/// What the latest comparison with a peer came to, since the start.
#[derive(Default)]
pub(super) struct Compared(Mutex<State>);

#[derive(Default)]
struct State {
    /// With the UTC second of it.
    latest: Option<(Books, u64)>,
    /// It differed, and may not the next time.
    is_doubted: bool,
    /// The peer did not answer since.
    is_unanswered: bool,
}

impl Compared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report of this UTC second in. Returns whether it is the first that is sure of a difference.
    fn note(&self, report: &Report, now: u64) -> bool {
        let mut state = self.state();
        let did_differ = matches!(state.latest, Some((Books::Differ(_), _)));
        let books = match report.apart() {
            None => Books::Incomplete,
            Some(0) if report.is_under_way() => Books::UnderWay,
            Some(0) => Books::Agree,
            // What was told may be of one moment and what was noted of another: that is gone at the next look.
            Some(by) if did_differ || state.is_doubted => Books::Differ(by),
            Some(_) => Books::UnderWay,
        };
        state.is_doubted = report.apart() > Some(0);
        state.latest = Some((books, now));
        state.is_unanswered = false;
        matches!(books, Books::Differ(_)) && !did_differ
    }

    /// The peer was asked and did not answer. What differed before still does.
    fn note_silence(&self) {
        self.state().is_unanswered = true;
    }

    /// Whether the latest look found a difference that the next is to confirm.
    fn is_doubted(&self) -> bool {
        let state = self.state();
        state.is_doubted && !matches!(state.latest, Some((Books::Differ(_), _)))
    }

    /// Whether the books differ for sure.
    pub(super) fn differ(&self) -> bool {
        matches!(self.state().latest, Some((Books::Differ(_), _)))
    }

    /// In words, and how many seconds ago that was.
    pub(super) fn show(&self, now: u64) -> (String, Option<u64>) {
        let State {
            latest, is_unanswered, ..
        } = *self.state();
        let words = match latest {
            Some((Books::Differ(by), _)) => format!("differ by {by}"),
            _ if is_unanswered => "not answered".to_owned(),
            None => "not compared".to_owned(),
            Some((Books::Agree, _)) => "agree".to_owned(),
            Some((Books::UnderWay, _)) => "under way".to_owned(),
            Some((Books::Incomplete, _)) => "incomplete".to_owned(),
        };
        (words, latest.map(|(_, at)| now.saturating_sub(at)))
    }
}

/// Compares some minutes after the link stands and then as often as the settings say, until `stop` turns true.
pub(super) async fn keep<S: RelayStore>(
    relay: Arc<Relay<S>>,
    name: String,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
) {
    let every = relay.config.compare_s;
    if every == 0 {
        return;
    }
    let mut wait = every.min(SOON_S);
    loop {
        let is_told = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            is_told = look(&relay, &name, &peer, wait) => is_told && !peer.compared.is_doubted(),
        };
        // What was not told is asked for some minutes later, or after the next link.
        wait = if is_told { every } else { every.min(SOON_S) };
    }
}

/// One look, so many seconds after there is a link. Returns whether the peer told what its book says.
async fn look<S: RelayStore>(relay: &Relay<S>, name: &str, peer: &Peer, wait_s: u64) -> bool {
    let mut changes = peer.handle.changes();
    let linked = changes.wait_for(|state| *state == LinkState::Linked).await.is_ok();
    tokio::time::sleep(Duration::from_secs(wait_s)).await;
    if !linked || peer.handle.state() != LinkState::Linked {
        return false;
    }
    let Ok(Some(report)) = tokio::time::timeout(ANSWER_MAX, compare::ask(peer)).await else {
        peer.compared.note_silence();
        return false;
    };
    if peer.compared.note(&report, relay.host.clock.unix_seconds()) {
        tracing::error!(
            peer = name,
            "the book of a peer differs from what it answered: see 'posternd peer compare', and do not pay by it"
        );
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_differ_when_two_looks_in_a_row_say_so() {
        let compared = Compared::default();
        assert_eq!(compared.show(100), ("not compared".to_owned(), None));
        let looks = [
            (Some(0), "agree", false),
            (Some(7), "under way", false),
            (Some(0), "agree", false),
            (Some(7), "under way", false),
            (Some(7), "differ by 7", true),
            (Some(9), "differ by 9", false),
            (Some(0), "agree", false),
            (Some(9), "under way", false),
            (None, "incomplete", false),
            (Some(9), "under way", false),
            (Some(9), "differ by 9", true),
        ];
        for (at, (apart, words, is_new)) in (100..).zip(looks) {
            assert_eq!(compared.note(&Report::sample(apart), at), is_new, "look {at}");
            assert_eq!(compared.show(at + 5), (words.to_owned(), Some(5)));
            assert_eq!(compared.differ(), words.starts_with("differ"));
            assert_eq!(compared.is_doubted(), apart > Some(0) && !compared.differ());
        }
    }

    #[test]
    fn a_peer_that_does_not_answer_has_told_nothing_and_denied_nothing() {
        let compared = Compared::default();
        compared.note_silence();
        assert_eq!(compared.show(100), ("not answered".to_owned(), None));
        compared.note(&Report::sample(Some(0)), 100);
        assert_eq!(compared.show(100).0, "agree");
        compared.note_silence();
        assert_eq!(compared.show(107), ("not answered".to_owned(), Some(7)));
        for _ in 0..2 {
            compared.note(&Report::sample(Some(7)), 100);
        }
        compared.note_silence();
        assert!(compared.show(100).0 == "differ by 7" && compared.differ());
    }
}
