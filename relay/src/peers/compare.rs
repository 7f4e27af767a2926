//! Settlement: what this relay noted of what it paid at a peer, beside what the peer's book says of the same pack.

use std::sync::PoisonError;

use ledger::{Kind, Services};
use mailbox::HolderStore;
use mailbox::holder_store::OwnBook;
use serde::Serialize;

use super::{Peer, Peers};

/// One line of a report: sums in µtok.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Line {
    what: &'static str,
    /// How many, as this relay noted it; `None`: it keeps no such number.
    own_count: Option<u64>,
    /// Sum that this relay noted.
    own: Option<u64>,
    /// How many, as the peer says.
    peer_count: u64,
    /// Sum that the peer says.
    peer: u64,
    verdict: Verdict,
}

/// What the two books say of each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The same to the µtok.
    Agrees,
    /// What is under way, or was left without an answer, explains the difference.
    UnderWay,
    /// Nothing does.
    Differs,
    /// This relay has nothing to hold against it.
    Told,
}

/// A pack at a peer, held against the peer's book.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Whether this relay's own book goes back to the first message.
    whole: bool,
    /// Whether a line differs, or a message was dearer than it was told to be.
    differs: bool,
    /// What messages were debited beyond their prices, in µtok.
    beyond: u64,
    /// By how much the books differ beyond what is under way, in µtok.
    by: u64,
    rows: Vec<Line>,
}

impl Report {
    /// By how many µtok the books differ that can be compared. `None`: the own one does not go back far enough.
    pub(super) fn apart(&self) -> Option<u64> {
        self.whole.then_some(self.by)
    }

    /// Whether what is under way explains a difference.
    pub(super) fn is_under_way(&self) -> bool {
        self.rows.iter().any(|line| line.verdict == Verdict::UnderWay)
    }

    #[cfg(test)]
    pub(super) fn sample(apart: Option<u64>) -> Self {
        Report {
            whole: apart.is_some(),
            differs: apart > Some(0),
            beyond: 0,
            by: apart.unwrap_or(1),
            rows: Vec::new(),
        }
    }
}

/// This relay's side at one moment.
#[derive(Clone, Copy)]
struct Side {
    book: OwnBook,
    /// Reserved for what has no answer.
    reserved: u64,
    /// Link keys used at most.
    keys: u64,
    /// Deposits collected.
    collected: u64,
}

impl Side {
    fn of(store: &impl HolderStore) -> Option<Self> {
        Some(Side {
            book: store.own_book().ok()?,
            reserved: store.reserved().ok()?,
            keys: store.link_position().base,
            collected: store.collect_from(),
        })
    }
}

impl Peers {
    /// `None`: there is no such peer. `Some(None)`: it cannot be asked now.
    pub(crate) async fn compare(&self, name: &str) -> Option<Option<Report>> {
        let peer = self.of(name)?;
        Some(ask(&peer).await)
    }

    /// How many peers' books differ for sure.
    pub(crate) fn differing(&self) -> u64 {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().filter(|peer| peer.compared.differ()).count() as u64
    }
}

/// Asks the peer for its book, and holds the own one against it. `None`: it cannot be asked now.
pub(super) async fn ask(peer: &Peer) -> Option<Report> {
    let before = Side::of(&peer.store)?;
    let told = peer.handle.statement().await?;
    Some(compare(&before, &Side::of(&peer.store)?, &told))
}

/// What was told lies between two looks at the own book: what was debited meanwhile may be in the one or the other.
fn compare(before: &Side, after: &Side, told: &[Services]) -> Report {
    let sum = |kinds: &[Kind], side: fn(&Services) -> u64| {
        let of = told.iter().filter(|services| kinds.contains(&services.kind));
        of.map(side).fold(0, u64::saturating_add)
    };
    let count = |kind| sum(&[kind], |services| services.count.into());
    let mut rows = Vec::new();
    let mut by: u64 = 0;
    let mut sums = |what, own: fn(&OwnBook) -> (Option<u64>, u64), open: u64, peer_count, peer: u64| {
        let (least, (own_count, most)) = (own(&before.book).1, own(&after.book));
        let verdict = match peer {
            _ if least == most && peer == most => Verdict::Agrees,
            _ if (least..=most.saturating_add(open)).contains(&peer) => Verdict::UnderWay,
            _ => Verdict::Differs,
        };
        if verdict == Verdict::Differs {
            let explained = peer.max(least).min(most.saturating_add(open));
            by = by.saturating_add(peer.abs_diff(explained));
        }
        rows.push(Line {
            what,
            own_count,
            own: Some(most),
            peer_count,
            peer,
            verdict,
        });
    };
    let open = after.reserved.saturating_add(after.book.unknown);
    sums(
        "mail",
        |book| (Some(book.messages), book.debited),
        open,
        count(Kind::Message),
        sum(&[Kind::Message, Kind::Onward], |services| services.debit),
    );
    // A renewal under way reserves nothing: it is asked for again, and told by then.
    sums(
        "drawn",
        |book| (None, book.drawn),
        0,
        count(Kind::Credit),
        sum(&[Kind::Credit], |services| services.credit),
    );
    sums(
        "given away",
        |book| (None, book.given),
        open,
        count(Kind::Given),
        sum(&[Kind::Given], |services| services.debit),
    );
    sums(
        "received",
        |book| (None, book.received),
        0,
        count(Kind::Received),
        sum(&[Kind::Received], |services| services.credit),
    );
    let mut counts = |what, most: u64, kind| {
        let peer_count = count(kind);
        let more = peer_count.saturating_sub(most);
        if more > 0 {
            let debit = u128::from(sum(&[kind], |services| services.debit));
            let beyond = debit * u128::from(more) / u128::from(peer_count);
            by = by.saturating_add(u64::try_from(beyond).unwrap_or(u64::MAX).max(1));
        }
        rows.push(Line {
            what,
            own_count: Some(most),
            own: None,
            peer_count,
            peer: sum(&[kind], |services| services.debit),
            verdict: if peer_count <= most {
                Verdict::Told
            } else {
                Verdict::Differs
            },
        });
    };
    // An index may be lost without a link, and a deposit be free: the own numbers are the most there can be.
    counts("keys used", after.keys, Kind::Key);
    counts("collected", after.collected, Kind::Inbound);
    rows.push(Line {
        what: "topped up",
        own_count: None,
        own: None,
        peer_count: count(Kind::TopUp),
        peer: sum(&[Kind::TopUp], |services| services.credit),
        verdict: Verdict::Told,
    });
    let whole = before.book.from == 1;
    // Passing over it has the peer used again, and pays nothing back.
    let beyond = after
        .book
        .debited
        .saturating_sub(after.book.agreed)
        .max(after.book.beyond);
    let differs = rows.iter().any(|line| line.verdict == Verdict::Differs);
    Report {
        whole,
        differs: beyond > 0 || whole && differs,
        beyond,
        by,
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(messages: u64, debited: u64, reserved: u64) -> Side {
        Side {
            book: OwnBook {
                from: 1,
                messages,
                debited,
                agreed: debited,
                ..OwnBook::default()
            },
            reserved,
            keys: 3,
            collected: 0,
        }
    }

    fn told(kind: Kind, count: u32, debit: u64) -> Services {
        Services {
            day: 1,
            kind,
            count,
            credit: 0,
            debit,
        }
    }

    fn verdict(before: &Side, after: &Side, services: &[Services]) -> (Verdict, bool) {
        let report = compare(before, after, services);
        assert_eq!(
            report.rows.iter().any(|line| line.verdict == Verdict::Differs),
            report.by > 0
        );
        (report.rows[0].verdict, report.differs)
    }

    #[test]
    fn two_books_agree_to_the_micro_token_or_differ() {
        let own = side(2, 20_200, 0);
        let right = [told(Kind::Message, 2, 20_000), told(Kind::Onward, 2, 200)];
        assert_eq!(verdict(&own, &own, &right), (Verdict::Agrees, false));
        for debit in [19_999, 20_001] {
            let wrong = [told(Kind::Message, 2, debit), told(Kind::Onward, 2, 200)];
            assert_eq!(verdict(&own, &own, &wrong), (Verdict::Differs, true), "{debit}");
        }
    }

    #[test]
    fn what_is_under_way_explains_no_more_than_it_costs() {
        let own = side(2, 200, 100);
        assert_eq!(
            verdict(&own, &own, &[told(Kind::Message, 3, 300)]),
            (Verdict::UnderWay, false)
        );
        assert_eq!(
            verdict(&own, &own, &[told(Kind::Message, 3, 301)]),
            (Verdict::Differs, true)
        );
        // Answered between the two looks.
        let (before, after) = (side(1, 100, 100), side(2, 200, 0));
        for debit in [100, 200] {
            assert_eq!(
                verdict(&before, &after, &[told(Kind::Message, 2, debit)]),
                (Verdict::UnderWay, false)
            );
        }
        assert_eq!(
            verdict(&before, &after, &[told(Kind::Message, 2, 99)]),
            (Verdict::Differs, true)
        );
    }

    #[test]
    fn more_keys_than_there_were_links_and_dearer_mail_than_was_told_are_found() {
        let own = side(0, 0, 0);
        assert!(!compare(&own, &own, &[told(Kind::Key, 3, 300)]).differs);
        let keys = compare(&own, &own, &[told(Kind::Key, 4, 400)]);
        assert_eq!((keys.differs, keys.apart()), (true, Some(100)));
        let mut dear = side(1, 100, 0);
        dear.book.beyond = 1;
        assert!(compare(&dear, &dear, &[told(Kind::Message, 1, 100)]).differs);
        // Its operator passed over it.
        (dear.book.beyond, dear.book.agreed) = (0, 98);
        let report = compare(&dear, &dear, &[told(Kind::Message, 1, 100)]);
        assert_eq!((report.differs, report.beyond), (true, 2));
    }

    #[test]
    fn a_book_that_began_later_accuses_nobody() {
        let mut late = side(1, 100, 0);
        late.book.from = 7;
        assert_eq!(
            verdict(&late, &late, &[told(Kind::Message, 9, 900)]),
            (Verdict::Differs, false)
        );
    }
}
