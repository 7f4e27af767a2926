//! A mailbox as one client knows it: the sequence numbers it was told.

use std::ops::Range;
use std::sync::Arc;

use mailbox::holder_store::{Entries, Entry, FlagChange, FolderId, Folders, Snapshot};

use super::flags::{Names, put_all_flags};
use super::output::Output;
use super::recent::{Recent, RecentUids};

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

    /// The end of a FETCH, STORE, SEARCH or COPY; by UID they do not depend on numbers.
    pub(super) fn after(uid: bool) -> Self {
        Self { expunge: uid, uid }
    }
}

/// A STORE of this client that has just been carried out.
pub(super) struct Stored {
    /// Those that were changed, in order.
    pub(super) uids: Vec<u32>,
    pub(super) change: FlagChange,
    /// `.SILENT`: the client takes the outcome for granted.
    pub(super) silent: bool,
}

/// The selected mailbox of one session.
pub(super) struct View {
    pub(super) folder: FolderId,
    pub(super) read_only: bool,
    /// What the client was told. Shared with the store and other sessions, as long as it is up to date.
    known: Arc<Snapshot>,
    /// Names of the keywords that it was told.
    folders: Arc<Folders>,
    /// Whether `known` still counts messages that are gone.
    behind: bool,
    /// Those that no session was told of before this.
    recent: RecentUids,
}

/// The mailboxes as of now, for one of them.
pub(super) struct Now<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Of the same time or later.
    pub(super) folders: &'a Arc<Folders>,
    pub(super) recent: &'a Recent,
}

impl View {
    pub(super) fn new(folder: FolderId, now: &Now<'_>, read_only: bool) -> Self {
        let mut view = Self {
            folder,
            read_only,
            known: Arc::clone(now.snapshot),
            folders: Arc::clone(now.folders),
            behind: false,
            recent: RecentUids::default(),
        };
        view.claim_recent(now, 1);
        view
    }

    /// The messages by sequence number, the first at 0.
    pub(super) fn entries(&self) -> &Entries {
        &self.known.entries
    }

    /// What it takes to name the flags of its messages.
    pub(super) fn names(&self) -> Names<'_> {
        Names {
            keywords: &self.folders.keywords,
            recent: &self.recent,
        }
    }

    /// Positions of its recent messages.
    pub(super) fn recent(&self) -> impl Iterator<Item = Range<usize>> {
        self.recent.positions(&self.known.entries)
    }

    /// How many messages are recent.
    pub(super) fn recent_count(&self) -> usize {
        self.recent().map(|range| range.len()).sum()
    }

    /// Takes what is recent among the messages from this UID on. A client that only looks leaves it to others.
    fn claim_recent(&mut self, now: &Now<'_>, from: u32) {
        let uid_next = now.snapshot.uid_next;
        let first = match self.read_only {
            true => now.recent.first(self.folder, uid_next),
            false => now.recent.claim(self.folder, uid_next, now.folders),
        };
        self.recent.add(first.max(from)..uid_next);
    }

    /// The folders as they were when the client was last told of keywords.
    pub(super) fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Tells the client what changed since it was last told, as far as the moment allows. `modseqs`: FETCH responses name
    /// them (RFC 7162).
    pub(super) fn catch_up(
        &mut self,
        now: &Now<'_>,
        moment: Moment,
        stored: Option<&Stored>,
        modseqs: bool,
        out: &mut Output,
    ) {
        if self.folders.keywords.len() != now.folders.keywords.len() {
            self.folders = Arc::clone(now.folders);
            put_all_flags(&now.folders.keywords, self.read_only, out);
        }
        self.catch_up_messages(now, moment, stored, modseqs, out);
    }

    fn catch_up_messages(
        &mut self,
        about: &Now<'_>,
        moment: Moment,
        stored: Option<&Stored>,
        modseqs: bool,
        out: &mut Output,
    ) {
        let now = about.snapshot;
        let overdue = self.behind && moment.expunge;
        if self.known.version == now.version && !overdue && stored.is_none() {
            return;
        }
        // What both share has not changed; there may still be an outcome of STORE to tell in it.
        let shared = self.known.entries.shared_front(&now.entries);
        let gone = tell_expunged(&self.known, now, shared, moment.expunge.then_some(&mut *out));
        let news = News {
            moment,
            stored,
            modseqs,
            names: self.names(),
        };
        news.tell_flags(&self.known, now, if stored.is_some() { 0 } else { shared }, out);
        let known_last = self.known.entries.last().map_or(0, |entry| entry.uid);
        let first_new = now.entries.partition_point(|entry| entry.uid <= known_last);
        let is_more = first_new < now.entries.len();
        if moment.expunge || gone == 0 {
            self.known = Arc::clone(now);
            self.behind = false;
        } else {
            self.known = Arc::new(with_the_gone(&self.known, now, first_new));
            self.behind = true;
        }
        if is_more {
            self.claim_recent(about, known_last + 1);
            out.line(format_args!("* {} EXISTS", self.known.entries.len()));
            out.line(format_args!("* {} RECENT", self.recent_count()));
        }
    }
}

/// Counts the known messages that are gone, and tells them, each with its number once those before it are gone. The first
/// `shared` are there.
fn tell_expunged(known: &Snapshot, now: &Snapshot, shared: usize, mut out: Option<&mut Output>) -> usize {
    let (mut kept, mut gone) = (shared, 0);
    let mut current = now.entries.iter_from(shared).peekable();
    for entry in known.entries.iter_from(shared) {
        if current.next_if(|current| current.uid == entry.uid).is_some() {
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

/// How changed flags are told.
struct News<'a> {
    moment: Moment,
    stored: Option<&'a Stored>,
    modseqs: bool,
    names: Names<'a>,
}

impl News<'_> {
    /// Tells changed flags of known messages from a position on, numbered as they are after [`tell_expunged`].
    fn tell_flags(&self, known: &Snapshot, now: &Snapshot, from: usize, out: &mut Output) {
        let mut kept = from;
        let mut current = now.entries.iter_from(from).peekable();
        for (before, entry) in known.entries.iter_from(from).enumerate() {
            let Some(current) = current.next_if(|current| current.uid == entry.uid) else {
                continue;
            };
            kept += 1;
            let flags = self.are_flags_news(entry, current);
            let modseq = self.modseqs && (flags || entry.modseq != current.modseq);
            if !flags && !modseq {
                continue;
            }
            let number = if self.moment.expunge { kept } else { from + before + 1 };
            out.put_fmt(format_args!("* {number} FETCH ("));
            if self.moment.uid {
                out.put_fmt(format_args!("UID {} ", entry.uid));
            }
            if flags {
                out.put(b"FLAGS ");
                self.names.put_flags(current, out);
            }
            if modseq {
                let space = if flags { " " } else { "" };
                out.put_fmt(format_args!("{space}MODSEQ ({})", current.modseq));
            }
            out.put(b")\r\n");
        }
    }

    /// Whether the client has to hear of a message's flags.
    fn are_flags_news(&self, before: &Entry, now: &Entry) -> bool {
        match self.stored.filter(|stored| stored.uids.binary_search(&now.uid).is_ok()) {
            Some(stored) if stored.silent => stored.change.apply(before.flags) != now.flags,
            Some(_) => true,
            None => before.flags != now.flags,
        }
    }
}

/// The mailbox of now, with the messages still in their places that are gone but not yet told.
fn with_the_gone(known: &Snapshot, now: &Snapshot, first_new: usize) -> Snapshot {
    let mut current = now.entries.iter().peekable();
    let known = known.entries.iter().map(|entry| {
        let current = current.next_if(|current| current.uid == entry.uid);
        current.unwrap_or(entry).clone()
    });
    let mut entries: Entries = known.collect();
    entries.extend(now.entries.iter_from(first_new).cloned());
    Snapshot { entries, ..*now }
}

#[cfg(test)]
mod tests {
    use mailbox::holder_store::Flags;

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
            modseq: version,
        };
        let entries = messages.iter().map(entry).collect();
        Arc::new(Snapshot {
            version,
            uid_validity: 1,
            uid_next: 99,
            highest_modseq: version,
            entries,
        })
    }

    fn view(inbox: &Arc<Snapshot>) -> View {
        let now = Now {
            snapshot: inbox,
            folders: &Arc::default(),
            recent: &Recent::new(&Folders::default(), inbox.uid_next),
        };
        View::new(FolderId::INBOX, &now, false)
    }

    fn catch_up(
        view: &mut View,
        now: &Arc<Snapshot>,
        folders: &Arc<Folders>,
        stored: Option<&Stored>,
        modseqs: bool,
        moment: Moment,
    ) -> String {
        let mut out = Output::default();
        let now = Now {
            snapshot: now,
            folders,
            recent: &Recent::new(folders, now.uid_next),
        };
        view.catch_up(&now, moment, stored, modseqs, &mut out);
        String::from_utf8_lossy(out.front()).replace("\r\n", "; ")
    }

    fn told(view: &mut View, now: &Arc<Snapshot>, moment: Moment, stored: Option<&Stored>) -> String {
        let told = catch_up(view, now, &Arc::default(), stored, false, moment);
        told.replace("EXISTS; * 0 RECENT", "EXISTS")
    }

    #[test]
    fn changes_are_told_once_with_shifting_numbers() {
        let mut view = view(&inbox(1, &[(1, 0), (2, 0), (3, 0), (4, 0)]));
        let now = inbox(2, &[(2, 0), (4, 8), (7, 0), (8, 0)]);
        assert_eq!(
            told(&mut view, &now, TELL, None),
            "* 1 EXPUNGE; * 2 EXPUNGE; * 2 FETCH (FLAGS (\\Seen)); * 4 EXISTS; "
        );
        assert_eq!(told(&mut view, &now, TELL, None), "");
    }

    #[test]
    fn numbers_stay_while_no_expunge_may_be_told() {
        let mut view = view(&inbox(1, &[(1, 0), (2, 0), (3, 0)]));
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
            told(&mut view(&before), &now, KEEP, Some(&stored(true))),
            "* 2 FETCH (FLAGS (\\Answered \\Seen)); * 3 FETCH (FLAGS (\\Answered)); "
        );
        let uid = Moment {
            expunge: true,
            uid: true,
        };
        assert_eq!(
            told(&mut view(&now), &now, uid, Some(&stored(false))),
            "* 1 FETCH (UID 1 FLAGS (\\Seen)); * 2 FETCH (UID 2 FLAGS (\\Answered \\Seen)); "
        );
    }

    #[test]
    fn modseqs_are_told_to_those_who_asked_for_them() {
        let (before, now) = (inbox(1, &[(1, 0), (2, 0)]), inbox(2, &[(1, 8), (2, 0)]));
        let told = |stored: Option<&Stored>| catch_up(&mut view(&before), &now, &Arc::default(), stored, true, KEEP);
        assert_eq!(
            told(None),
            "* 1 FETCH (FLAGS (\\Seen) MODSEQ (2)); * 2 FETCH (MODSEQ (2)); "
        );
        let stored = Stored {
            uids: vec![1],
            change: FlagChange::Add(Flags::SEEN),
            silent: true,
        };
        assert_eq!(told(Some(&stored)), "* 1 FETCH (MODSEQ (2)); * 2 FETCH (MODSEQ (2)); ");
    }

    #[test]
    fn keywords_are_told_before_a_message_has_them() {
        let (before, now) = (inbox(1, &[(1, 0)]), inbox(2, &[(1, 32)]));
        let folders = Arc::new(Folders {
            keywords: vec!["$Forwarded".to_owned()],
            ..Folders::default()
        });
        let told = catch_up(&mut view(&before), &now, &folders, None, false, KEEP);
        let all = "\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded";
        assert_eq!(
            told,
            format!(
                "* FLAGS ({all}); * OK [PERMANENTFLAGS ({all} \\*)] These flags are kept; * 1 FETCH (FLAGS ($Forwarded)); "
            )
        );
    }

    proptest::proptest! {
        /// A client that only applies what it is told always has the numbers of the mailbox.
        #[test]
        fn a_client_that_follows_has_the_same_mailbox(steps in proptest::collection::vec((0u32..64, 0u8..4, proptest::bool::ANY), 1..40)) {
            let mut messages: Vec<(u32, u32)> = Vec::new();
            let mut next = 1;
            let mut view = view(&inbox(0, &[]));
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
