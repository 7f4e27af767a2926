//! Conversations: what the client sends, and to the octet what it is told.

mod condstore;
mod course;
mod fetch;
mod folders;
mod login;
mod mailboxes;

use super::*;
use crate::imap::{Depth, Failure, MemoryStore, Unavailable};

const ONE: &str = "From: Ann <ann@x.example>\r\nSubject: one\r\n\r\nfirst\r\n";
const TWO: &str = "From: bob@x.example\r\nSubject: two\r\n\r\nsecond\r\n";

fn inbox() -> MemoryStore {
    let inbox = MemoryStore::new("user", "pass", || 1_769_915_045);
    inbox.add(ONE.into(), Flags::SEEN, None);
    inbox.add(TWO.into(), Flags::default(), None);
    // A session was told of them.
    inbox.recent().claim(FolderId::INBOX, 3, &inbox.folders());
    inbox
}

fn said(session: &mut Session, inbox: &MemoryStore, bytes: impl AsRef<[u8]>) -> String {
    session.handle_bytes(bytes.as_ref());
    String::from_utf8_lossy(&converse(session, inbox)).into_owned()
}

fn step(session: &mut Session, inbox: &MemoryStore) -> Step {
    session.poll(inbox)
}

/// A session that has greeted.
fn greeted(inbox: &MemoryStore) -> Session {
    let mut session = Session::new(&Limits {
        append_max: 2_000,
        command_max: 4_000,
        ..Limits::default()
    });
    said(&mut session, inbox, "");
    session
}

fn logged_in(inbox: &MemoryStore) -> Session {
    let mut session = greeted(inbox);
    assert!(said(&mut session, inbox, "a LOGIN user pass\r\n").contains("a OK"));
    session
}

fn selected(inbox: &MemoryStore) -> Session {
    let mut session = logged_in(inbox);
    assert!(said(&mut session, inbox, "b SELECT INBOX\r\n").ends_with("b OK [READ-WRITE] Selected\r\n"));
    session
}

/// Each case: what is sent and what comes back, in one conversation.
fn talk(session: &mut Session, inbox: &MemoryStore, cases: &[(&str, &str)]) {
    for (sent, expected) in cases {
        assert_eq!(said(session, inbox, sent), *expected, "{sent}");
    }
}
