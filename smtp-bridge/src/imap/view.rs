//! INBOX as one client knows it: the sequence numbers it was told.

use std::sync::Arc;

use mailbox::holder_store::{Entries, FlagChange, Flags, Snapshot};

use super::output::Output;

/// What the client may be told at this moment (RFC 3501 section 7.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    /// Whether messages may go: not while a FETCH, STORE or SEARCH by number is answered, or numbers would shift.
    pub(super) expunge: bool,
    /// Whether FETCH responses name the UID: those to a UID command do.
    pub(super) uid: bool,
}

impl Moment {
    /// The end of a command that numbers no messages.
    pub(super) const ANY: Self = Self {
        expunge: true,
        uid: false,
    };

    /// The end of a FETCH, STORE or SEARCH; by UID they do not depend on numbers.
    pub(super) fn after(uid: bool) -> Self {
        Self { expunge: uid, uid }
    }
}

/// A STORE of this client that has just been carried out.
pub(super) struct Stored {
    /// In order.
    pub(super) uids: Vec<u32>,
    pub(super) change: FlagChange,
    /// `.SILENT`: the client takes the outcome for granted.
    pub(super) silent: bool,
}

/// The selected INBOX of one session.
pub(super) struct View {
    /// What the client was told. Shared with the store and other sessions, as long as it is up to date.
    known: Arc<Snapshot>,
    /// Whether `known` still counts messages that are gone.
    behind: bool,
    pub(super) read_only: bool,
}

impl View {
    pub(super) fn new(inbox: &Arc<Snapshot>, read_only: bool) -> Self {
        Self {
            known: Arc::clone(inbox),
            behind: false,
            read_only,
        }
    }

    /// The messages by sequence number, the first at 0.
    pub(super) fn entries(&self) -> &Entries {
        &self.known.entries
    }

    /// Tells the client what changed since it was last told, as far as the moment allows.
    pub(super) fn catch_up(&mut self, now: &Arc<Snapshot>, moment: Moment, stored: Option<&Stored>, out: &mut Output) {
        let overdue = self.behind && moment.expunge;
        if self.known.version == now.version && !overdue && stored.is_none() {
            return;
        }
        let gone = tell_expunged(&self.known, now, moment.expunge.then_some(&mut *out));
        tell_flags(&self.known, now, moment, stored, out);
        let known_last = self.known.entries.last().map_or(0, |entry| entry.uid);
        let new = now.entries.partition_point(|entry| entry.uid <= known_last);
        if moment.expunge || gone == 0 {
            self.known = Arc::clone(now);
            self.behind = false;
        } else {
            self.known = Arc::new(with_the_gone(&self.known, now, new));
            self.behind = true;
        }
        if new < now.entries.len() {
            out.line(format_args!("* {} EXISTS", self.known.entries.len()));
        }
    }
}

impl Stored {
    /// Whether the client has to hear that a message's flags went from `before` to `after`.
    fn is_news(stored: Option<&Self>, uid: u32, before: Flags, after: Flags) -> bool {
        match stored.filter(|stored| stored.uids.binary_search(&uid).is_ok()) {
            Some(stored) if stored.silent => stored.change.apply(before) != after,
            Some(_) => true,
            None => before != after,
        }
    }
}

/// Counts the known messages that are gone, and tells them, each with its number once those before it are gone.
fn tell_expunged(known: &Snapshot, now: &Snapshot, mut out: Option<&mut Output>) -> usize {
    let (mut kept, mut gone) = (0, 0);
    for entry in &known.entries {
        if now.entries.get(kept).is_some_and(|current| current.uid == entry.uid) {
            kept += 1;
            continue;
        }
        gone += 1;
        if let Some(out) = out.as_deref_mut() {
            out.line(format_args!("* {} EXPUNGE", kept + 1));
        }
    }
    gone
}

/// Tells changed flags of known messages, numbered as they are after [`tell_expunged`].
fn tell_flags(known: &Snapshot, now: &Snapshot, moment: Moment, stored: Option<&Stored>, out: &mut Output) {
    let mut kept = 0;
    for (position, entry) in known.entries.iter().enumerate() {
        let Some(current) = now.entries.get(kept).filter(|current| current.uid == entry.uid) else {
            continue;
        };
        kept += 1;
        if !Stored::is_news(stored, entry.uid, entry.flags, current.flags) {
            continue;
        }
        let number = if moment.expunge { kept } else { position + 1 };
        out.put_fmt(format_args!("* {number} FETCH ("));
        if moment.uid {
            out.put_fmt(format_args!("UID {} ", entry.uid));
        }
        out.put(b"FLAGS ");
        out.put_flags(current.flags);
        out.put(b")\r\n");
    }
}

/// The mailbox of now, with the messages still in their places that are gone but not yet told.
fn with_the_gone(known: &Snapshot, now: &Snapshot, new: usize) -> Snapshot {
    let mut kept = 0;
    let mut entries = Entries::default();
    for entry in &known.entries {
        match now.entries.get(kept).filter(|current| current.uid == entry.uid) {
            Some(current) => {
                kept += 1;
                entries.push(current.clone());
            }
            None => entries.push(entry.clone()),
        }
    }
    entries.extend(now.entries.iter_from(new).cloned());
    Snapshot {
        version: now.version,
        uid_validity: now.uid_validity,
        uid_next: now.uid_next,
        highest_modseq: now.highest_modseq,
        entries,
    }
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::Entry;

    use super::*;

    const TELL: Moment = Moment {
        expunge: true,
        uid: false,
    };
    const KEEP: Moment = Moment {
        expunge: false,
        uid: false,
    };

    fn inbox(version: u64, messages: &[(u32, u32)]) -> Arc<Snapshot> {
        let entry = |&(uid, flags): &(u32, u32)| Entry {
            uid,
            flags: Flags(flags),
            size: 0,
            internal_date: 0,
            modseq: 1,
        };
        let entries = messages.iter().map(entry).collect();
        Arc::new(Snapshot {
            version,
            uid_validity: 1,
            uid_next: 99,
            highest_modseq: 1,
            entries,
        })
    }

    fn told(view: &mut View, now: &Arc<Snapshot>, moment: Moment, stored: Option<&Stored>) -> String {
        let mut out = Output::default();
        view.catch_up(now, moment, stored, &mut out);
        String::from_utf8_lossy(out.front()).replace("\r\n", "; ")
    }

    #[test]
    fn changes_are_told_once_with_shifting_numbers() {
        let mut view = View::new(&inbox(1, &[(1, 0), (2, 0), (3, 0), (4, 0)]), false);
        let now = inbox(2, &[(2, 0), (4, 8), (7, 0), (8, 0)]);
        assert_eq!(
            told(&mut view, &now, TELL, None),
            "* 1 EXPUNGE; * 2 EXPUNGE; * 2 FETCH (FLAGS (\\Seen)); * 4 EXISTS; "
        );
        assert_eq!(told(&mut view, &now, TELL, None), "");
    }

    #[test]
    fn numbers_stay_while_no_expunge_may_be_told() {
        let mut view = View::new(&inbox(1, &[(1, 0), (2, 0), (3, 0)]), false);
        let now = inbox(2, &[(3, 8), (4, 0)]);
        assert_eq!(
            told(&mut view, &now, KEEP, None),
            "* 3 FETCH (FLAGS (\\Seen)); * 4 EXISTS; "
        );
        assert_eq!(told(&mut view, &now, KEEP, None), "");
        assert_eq!(view.entries().len(), 4);
        assert_eq!(told(&mut view, &inbox(3, &[(3, 8)]), KEEP, None), "");
        assert_eq!(
            told(&mut view, &inbox(4, &[(3, 8), (9, 0)]), TELL, None),
            "* 1 EXPUNGE; * 1 EXPUNGE; * 2 EXPUNGE; * 2 EXISTS; "
        );
    }

    #[test]
    fn a_silent_store_tells_only_what_others_did() {
        let before = inbox(1, &[(1, 0), (2, 0), (3, 0)]);
        let now = inbox(2, &[(1, 8), (2, 9), (3, 1)]);
        let stored = |silent| Stored {
            uids: vec![1, 2],
            change: FlagChange::Add(Flags::SEEN),
            silent,
        };
        assert_eq!(
            told(&mut View::new(&before, false), &now, KEEP, Some(&stored(true))),
            "* 2 FETCH (FLAGS (\\Answered \\Seen)); * 3 FETCH (FLAGS (\\Answered)); "
        );
        let uid = Moment {
            expunge: true,
            uid: true,
        };
        assert_eq!(
            told(&mut View::new(&now, false), &now, uid, Some(&stored(false))),
            "* 1 FETCH (UID 1 FLAGS (\\Seen)); * 2 FETCH (UID 2 FLAGS (\\Answered \\Seen)); "
        );
    }

    proptest::proptest! {
        /// A client that only applies what it is told always has the numbers of the mailbox.
        #[test]
        fn a_client_that_follows_has_the_same_mailbox(steps in proptest::collection::vec((0u32..64, 0u8..4, proptest::bool::ANY), 1..40)) {
            let mut messages: Vec<(u32, u32)> = Vec::new();
            let mut next = 1;
            let mut view = View::new(&inbox(0, &[]), false);
            // What the client believes: UIDs by number, learnt from the view when EXISTS comes.
            let mut client: Vec<u32> = Vec::new();
            for (version, (at, action, expunge)) in steps.into_iter().enumerate() {
                match action {
                    0 if !messages.is_empty() => { messages.remove(at as usize % messages.len()); }
                    1 if !messages.is_empty() => { let at = at as usize % messages.len(); messages[at].1 ^= 8; }
                    _ => { messages.push((next, 0)); next += 1; }
                }
                let now = inbox(version as u64 + 1, &messages);
                for line in told(&mut view, &now, Moment { expunge, uid: false }, None).split("; ") {
                    let mut words = line.split(' ').skip(1);
                    let number: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                    match words.next() {
                        Some("EXPUNGE") => { client.remove(number - 1); }
                        Some("EXISTS") => {
                            let known: Vec<u32> = view.entries().iter().map(|entry| entry.uid).collect();
                            client.extend_from_slice(&known[client.len()..number]);
                        }
                        _ => {}
                    }
                }
                let known: Vec<u32> = view.entries().iter().map(|entry| entry.uid).collect();
                proptest::prop_assert_eq!(&client, &known);
                if expunge {
                    let truth: Vec<u32> = messages.iter().map(|message| message.0).collect();
                    proptest::prop_assert_eq!(&client, &truth);
                }
            }
        }
    }
}
