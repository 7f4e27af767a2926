//! Conversations: what the client sends, and to the octet what it is told.

use proptest::prelude::*;

use super::*;
use crate::imap::MemoryInbox;

const ONE: &str = "From: Ann <ann@x.example>\r\nSubject: one\r\n\r\nfirst\r\n";
const TWO: &str = "From: bob@x.example\r\nSubject: two\r\n\r\nsecond\r\n";

fn inbox() -> MemoryInbox {
    let inbox = MemoryInbox::new("user", "pass", || 1_769_915_045);
    inbox.add(ONE.into(), Flags::SEEN, None);
    inbox.add(TWO.into(), Flags::default(), None);
    inbox
}

fn said(session: &mut Session, inbox: &MemoryInbox, bytes: impl AsRef<[u8]>) -> String {
    session.handle_bytes(bytes.as_ref());
    String::from_utf8_lossy(&converse(session, inbox)).into_owned()
}

/// A session that has greeted.
fn greeted(inbox: &MemoryInbox) -> Session {
    let mut session = Session::new(&Limits {
        append_max: 2_000,
        command_max: 4_000,
        ..Limits::default()
    });
    said(&mut session, inbox, "");
    session
}

fn logged_in(inbox: &MemoryInbox) -> Session {
    let mut session = greeted(inbox);
    assert!(said(&mut session, inbox, "a LOGIN user pass\r\n").contains("a OK"));
    session
}

fn selected(inbox: &MemoryInbox) -> Session {
    let mut session = logged_in(inbox);
    assert!(said(&mut session, inbox, "b SELECT INBOX\r\n").ends_with("b OK [READ-WRITE] INBOX selected\r\n"));
    session
}

/// Each case: what is sent and what comes back, in one conversation.
fn talk(session: &mut Session, inbox: &MemoryInbox, cases: &[(&str, &str)]) {
    for (sent, expected) in cases {
        assert_eq!(said(session, inbox, sent), *expected, "{sent}");
    }
}

#[test]
fn the_greeting_announces_what_can_be_asked_for() {
    let inbox = inbox();
    let mut session = Session::new(&Limits::default());
    let capabilities = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID IDLE NAMESPACE UIDPLUS UNSELECT";
    assert_eq!(
        said(&mut session, &inbox, ""),
        format!("* OK [CAPABILITY {capabilities}] Postern\r\n")
    );
    assert_eq!(
        said(&mut session, &inbox, "a CAPABILITY\r\n"),
        format!("* CAPABILITY {capabilities}\r\na OK Completed\r\n")
    );
}

#[test]
fn before_login_there_is_nothing_but_login() {
    let inbox = inbox();
    talk(
        &mut greeted(&inbox),
        &inbox,
        &[
            ("a NOOP\r\n", "a OK Completed\r\n"),
            ("a ID NIL\r\n", "* ID (\"name\" \"Postern\")\r\na OK Completed\r\n"),
            ("a SELECT INBOX\r\n", "a BAD Log in first\r\n"),
            ("a FETCH 1 FLAGS\r\n", "a BAD Log in first\r\n"),
            (
                "a LOGIN user wrong\r\n",
                "a NO [AUTHENTICATIONFAILED] Wrong user name or password\r\n",
            ),
            (
                "a AUTHENTICATE CRAM-MD5\r\n",
                "a NO [CANNOT] Only AUTHENTICATE PLAIN is offered\r\n",
            ),
            ("a APPEND INBOX {9}\r\n", "a BAD Log in first\r\n"),
            ("a LOGIN {4}\r\n", "+ Ready\r\n"),
            ("user {4+}\r\n", ""),
            (
                "pass\r\n",
                "a OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID IDLE NAMESPACE UIDPLUS UNSELECT] Logged in\r\n",
            ),
            ("a LOGIN user pass\r\n", "a BAD Already logged in\r\n"),
            ("a LOGOUT\r\n", "* BYE Logging out\r\na OK Completed\r\n"),
        ],
    );
}

#[test]
fn plain_authentication_comes_in_one_line_or_two() {
    let inbox = inbox();
    // NUL user NUL pass
    let response = "AHVzZXIAcGFzcw==";
    assert!(
        said(
            &mut greeted(&inbox),
            &inbox,
            format!("a AUTHENTICATE PLAIN {response}\r\n")
        )
        .starts_with("a OK")
    );
    let mut session = greeted(&inbox);
    assert_eq!(said(&mut session, &inbox, "a AUTHENTICATE plain\r\n"), "+ \r\n");
    assert!(said(&mut session, &inbox, format!("{response}\r\n")).starts_with("a OK"));
    let mut session = greeted(&inbox);
    talk(
        &mut session,
        &inbox,
        &[
            ("a AUTHENTICATE PLAIN\r\n*\r\n", "+ \r\na BAD Cancelled\r\n"),
            ("a AUTHENTICATE PLAIN\r\n!!\r\n", "+ \r\na BAD Cancelled\r\n"),
            // `other` NUL user NUL pass: nobody acts for another
            (
                "a AUTHENTICATE PLAIN b3RoZXIAdXNlcgBwYXNz\r\n",
                "a NO [AUTHENTICATIONFAILED] Wrong user name or password\r\n",
            ),
            ("a NOOP\r\n", "a OK Completed\r\n"),
        ],
    );
}

#[test]
fn wrong_passwords_and_nonsense_end_the_session() {
    let inbox = inbox();
    let text = said(&mut greeted(&inbox), &inbox, "a LOGIN user x\r\n".repeat(5));
    assert_eq!(text.matches("NO [AUTHENTICATIONFAILED]").count(), 3);
    assert!(text.ends_with("* BYE Too many wrong passwords\r\n"));
    let text = said(&mut logged_in(&inbox), &inbox, "a FOO\r\n".repeat(30));
    assert_eq!(text.matches("BAD").count(), 20);
    assert!(text.ends_with("* BYE Too many commands that are not understood\r\n"));
}

#[test]
fn bad_commands_are_answered_and_forgotten() {
    let inbox = inbox();
    talk(
        &mut greeted(&inbox),
        &inbox,
        &[
            ("\r\n", "* BAD A command starts with a tag\r\n"),
            ("x\r\n", "x BAD Unknown command\r\n"),
            ("d FOO BAR\r\n", "d BAD Unknown command\r\n"),
            ("d SELECT\r\n", "d BAD The arguments are not understood\r\n"),
            ("* OK\r\n", "* BAD A command starts with a tag\r\n"),
            ("d LOGIN \u{ff}\0 x\r\n", "d BAD The arguments are not understood\r\n"),
            ("e LOGIN {999999999999}\r\n", "e BAD The command is too long\r\n"),
            ("f LOGIN user {5000+}\r\n", "f BAD The command is too long\r\n"),
            (&"x".repeat(4_996), ""),
            ("yz\r\n\r\ng NOOP\r\n", "g OK Completed\r\n"),
            (
                &format!("h {}\r\n", "x".repeat(5_000)),
                "h BAD The command is too long\r\n",
            ),
            ("i NOOP\r\n", "i OK Completed\r\n"),
        ],
    );
}

#[test]
fn there_is_one_mailbox() {
    let inbox = inbox();
    let no = "a NO [NONEXISTENT] There is no mailbox but INBOX\r\n";
    let cannot = "a NO [CANNOT] There is one mailbox, INBOX, and it stays as it is\r\n";
    talk(
        &mut logged_in(&inbox),
        &inbox,
        &[
            (
                "a LIST \"\" \"\"\r\n",
                "* LIST (\\Noselect) \"/\" \"\"\r\na OK Completed\r\n",
            ),
            (
                "a LIST \"\" *\r\n",
                "* LIST (\\Noinferiors) \"/\" INBOX\r\na OK Completed\r\n",
            ),
            ("a LIST \"\" Sent\r\n", "a OK Completed\r\n"),
            (
                "a LIST in \"%\"\r\n",
                "* LIST (\\Noinferiors) \"/\" INBOX\r\na OK Completed\r\n",
            ),
            (
                "a LSUB \"\" \"*\"\r\n",
                "* LSUB (\\Noinferiors) \"/\" INBOX\r\na OK Completed\r\n",
            ),
            (
                "a NAMESPACE\r\n",
                "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\na OK Completed\r\n",
            ),
            (
                "a STATUS inbox (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)\r\n",
                "* STATUS INBOX (MESSAGES 2 RECENT 0 UIDNEXT 3 UIDVALIDITY 1 UNSEEN 1)\r\na OK Completed\r\n",
            ),
            ("a STATUS Sent (MESSAGES)\r\n", no),
            ("a SELECT Sent\r\n", no),
            ("a SUBSCRIBE INBOX\r\n", "a OK Completed\r\n"),
            ("a SUBSCRIBE Sent\r\n", no),
            ("a UNSUBSCRIBE INBOX\r\n", cannot),
            ("a CREATE Sent\r\n", cannot),
            ("a DELETE Sent\r\n", cannot),
            ("a RENAME INBOX Sent\r\n", cannot),
            ("a CHECK\r\n", "a BAD Select INBOX first\r\n"),
            ("a ENABLE CONDSTORE\r\n", "a BAD This extension is not offered\r\n"),
            ("a GETQUOTAROOT INBOX\r\n", "a BAD This extension is not offered\r\n"),
        ],
    );
}

#[test]
fn select_tells_the_state_of_the_mailbox() {
    let inbox = inbox();
    let all = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";
    let state = |kept: &str| {
        format!(
            "* FLAGS ({all})\r\n* OK [PERMANENTFLAGS ({kept})] These flags are kept\r\n* 2 EXISTS\r\n* 0 RECENT\r\n\
             * OK [UNSEEN 2] First unseen message\r\n* OK [UIDVALIDITY 1] UIDs are good for ever\r\n\
             * OK [UIDNEXT 3] Next UID\r\n"
        )
    };
    talk(
        &mut logged_in(&inbox),
        &inbox,
        &[
            (
                "a SELECT inbox\r\n",
                &(state(all) + "a OK [READ-WRITE] INBOX selected\r\n"),
            ),
            (
                "a EXAMINE INBOX\r\n",
                &(state("") + "a OK [READ-ONLY] INBOX examined\r\n"),
            ),
            (
                "a STORE 1 FLAGS ()\r\n",
                "a NO [CANNOT] INBOX was opened by EXAMINE, for reading only\r\n",
            ),
            (
                "a EXPUNGE\r\n",
                "a NO [CANNOT] INBOX was opened by EXAMINE, for reading only\r\n",
            ),
            (
                "a FETCH 2 BODY[TEXT]\r\n",
                "* 2 FETCH (BODY[TEXT] {8}\r\nsecond\r\n)\r\na OK Completed\r\n",
            ),
            ("a FETCH 2 FLAGS\r\n", "* 2 FETCH (FLAGS ())\r\na OK Completed\r\n"),
            (
                "a SELECT nosuch\r\n",
                "a NO [NONEXISTENT] There is no mailbox but INBOX\r\n",
            ),
            ("a FETCH 1 FLAGS\r\n", "a BAD Select INBOX first\r\n"),
        ],
    );
}

#[test]
fn fetch_answers_in_the_order_asked() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a FETCH 1:* (FLAGS UID RFC822.SIZE)\r\n",
                "* 1 FETCH (FLAGS (\\Seen) UID 1 RFC822.SIZE 50)\r\n\
                 * 2 FETCH (FLAGS () UID 2 RFC822.SIZE 45)\r\na OK Completed\r\n",
            ),
            (
                "a UID FETCH 2:9 (INTERNALDATE)\r\n",
                "* 2 FETCH (UID 2 INTERNALDATE \"01-Feb-2026 03:04:05 +0000\")\r\na OK Completed\r\n",
            ),
            ("a UID FETCH 7 FLAGS\r\n", "a OK Completed\r\n"),
            ("a FETCH 3 FLAGS\r\n", "a BAD There is no message of that number\r\n"),
            (
                "a FETCH 1 (BINARY[1])\r\n",
                "a BAD The arguments are not understood\r\n",
            ),
            (
                "a FETCH 1 (BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODY.PEEK[TEXT]<1.3>)\r\n",
                "* 1 FETCH (BODY[HEADER.FIELDS (SUBJECT)] {16}\r\nSubject: one\r\n\r\n BODY[TEXT]<1> {3}\r\nirs)\r\n\
                 a OK Completed\r\n",
            ),
            (
                "a FETCH 1 ALL\r\n",
                "* 1 FETCH (FLAGS (\\Seen) INTERNALDATE \"01-Feb-2026 03:04:05 +0000\" RFC822.SIZE 50 ENVELOPE \
                 (NIL \"one\" ((\"Ann\" NIL \"ann\" \"x.example\")) ((\"Ann\" NIL \"ann\" \"x.example\")) \
                 ((\"Ann\" NIL \"ann\" \"x.example\")) NIL NIL NIL NIL NIL))\r\na OK Completed\r\n",
            ),
            (
                "a FETCH 1 (BODY BODYSTRUCTURE)\r\n",
                "* 1 FETCH (BODY (\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 7 1) BODYSTRUCTURE \
                 (\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7BIT\" 7 1 NIL NIL NIL NIL))\r\n\
                 a OK Completed\r\n",
            ),
        ],
    );
}

/// Lets a session go on, its questions answered by `answer`; returns what it says.
fn answered(
    session: &mut Session,
    inbox: &MemoryInbox,
    command: &str,
    mut answer: impl FnMut(Ask) -> Answer,
) -> String {
    session.handle_bytes(command.as_bytes());
    let mut said = Vec::new();
    loop {
        match session.poll(&super::super::Backend::inbox(inbox)) {
            Step::Transmit => {
                said.extend_from_slice(session.transmit());
                session.handle_transmitted(session.transmit().len());
            }
            Step::Ask(ask) => session.handle_answer(answer(ask)),
            Step::Receive { .. } | Step::Close => return String::from_utf8_lossy(&said).into_owned(),
        }
    }
}

/// An INBOX of more than two slices.
fn large_inbox() -> MemoryInbox {
    let inbox = inbox();
    for number in 3..=600 {
        let text = format!(
            "From: a@x\r\nSubject: number {number}\r\n\r\n{}\r\n",
            "y".repeat(number)
        );
        inbox.add(text.into_bytes(), Flags::default(), None);
    }
    inbox
}

#[test]
fn summaries_answer_without_a_text_and_texts_where_there_are_none() {
    let inbox = large_inbox();
    let command = "a FETCH 1:* (UID ENVELOPE BODY.PEEK[HEADER.FIELDS (Subject)])\r\n";
    let mut texts = 0;
    let expected = answered(&mut selected(&inbox), &inbox, command, |ask| {
        texts += usize::from(!matches!(ask, Ask::Summaries(_)));
        inbox.answer(ask)
    });
    assert_eq!(texts, 0);
    assert_eq!(expected.matches(" FETCH (UID ").count(), 600);
    assert!(expected.contains("* 599 FETCH (UID 599 ENVELOPE (NIL \"number 599\""));
    let mut asked = Vec::new();
    let said = answered(&mut selected(&inbox), &inbox, command, |ask| {
        let answer = {
            if let Ask::Messages(uids) = &ask {
                asked.extend_from_slice(uids);
            }
            inbox.answer(ask)
        };
        match answer {
            Answer::Summaries(Ok(mut found)) => {
                for (index, summary) in found.iter_mut().enumerate() {
                    match (index % 3, summary.as_mut()) {
                        (0, _) => *summary = None,
                        (1, Some(summary)) => summary[0] = 99,
                        _ => {}
                    }
                }
                Answer::Summaries(Ok(found))
            }
            answer => answer,
        }
    });
    assert_eq!(said, expected);
    assert_eq!(asked.len(), 401, "two of three, each once");
}

#[test]
fn texts_are_read_in_bounded_slices_and_what_is_gone_is_passed_over() {
    let inbox = large_inbox();
    let big = inbox.add(vec![b'z'; 1 << 20], Flags::default(), None);
    let command = "a FETCH 1:* (ENVELOPE BODY.PEEK[TEXT])\r\n";
    let expected = said(&mut selected(&inbox), &inbox, command);
    let mut session = selected(&inbox);
    let mut asks = 0;
    let said = answered(&mut session, &inbox, command, |ask| {
        let Ask::Messages(uids) = &ask else {
            panic!("texts have all that is asked for")
        };
        let bytes: usize = uids.iter().map(|uid| *uid as usize + 50).sum();
        assert!(bytes < 300 << 10 && (uids.contains(&big) <= (uids.len() == 1)));
        asks += 1;
        match inbox.answer(ask) {
            // As a store does that cannot read on.
            Answer::Messages(Ok(mut texts)) => {
                texts.truncate(100);
                Answer::Messages(Ok(texts))
            }
            answer => answer,
        }
    });
    assert!(said == expected);
    assert!((6..=12).contains(&asks), "{asks}");

    let mut session = selected(&inbox);
    let said = answered(&mut session, &inbox, "a FETCH 1:* (ENVELOPE)\r\n", |ask| match ask {
        Ask::Summaries(uids) => Answer::Summaries(Ok(uids.iter().map(|_| None).collect())),
        Ask::Messages(uids) => {
            let text = |uid: &u32| uid.is_multiple_of(2).then(|| b"Subject: even\r\n".to_vec());
            Answer::Messages(Ok(uids.iter().map(text).collect()))
        }
        _ => panic!("nothing else is needed"),
    });
    assert_eq!(said.matches(" FETCH (ENVELOPE (NIL \"even\"").count(), 300);
    assert!(!said.contains("* 5 FETCH") && said.contains("* 6 FETCH"));
    assert!(said.ends_with("a OK [EXPUNGEISSUED] Some of the messages are expunged\r\n"));
}

#[test]
fn reading_a_message_marks_it_as_seen() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a FETCH 2 BODY.PEEK[TEXT]\r\n",
                "* 2 FETCH (BODY[TEXT] {8}\r\nsecond\r\n)\r\na OK Completed\r\n",
            ),
            (
                "a FETCH 2 RFC822.HEADER\r\n",
                "* 2 FETCH (RFC822.HEADER {37}\r\nFrom: bob@x.example\r\nSubject: two\r\n\r\n)\r\na OK Completed\r\n",
            ),
            (
                "a FETCH 1:2 BODY[TEXT]\r\n",
                "* 1 FETCH (BODY[TEXT] {7}\r\nfirst\r\n)\r\n* 2 FETCH (BODY[TEXT] {8}\r\nsecond\r\n)\r\n\
                 * 2 FETCH (FLAGS (\\Seen))\r\na OK Completed\r\n",
            ),
            (
                "a FETCH 2 BODY[1]\r\n",
                "* 2 FETCH (BODY[1] {8}\r\nsecond\r\n)\r\na OK Completed\r\n",
            ),
        ],
    );
}

#[test]
fn store_changes_flags_and_passes_over_keywords() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a STORE 1:2 +FLAGS (\\Flagged $kw)\r\n",
                "* 1 FETCH (FLAGS (\\Flagged \\Seen))\r\n* 2 FETCH (FLAGS (\\Flagged))\r\na OK Completed\r\n",
            ),
            ("a STORE 1 -FLAGS.SILENT \\Flagged\r\n", "a OK Completed\r\n"),
            (
                "a UID STORE 1 FLAGS (\\Draft)\r\n",
                "* 1 FETCH (UID 1 FLAGS (\\Draft))\r\na OK Completed\r\n",
            ),
            ("a UID STORE 9 FLAGS (\\Draft)\r\n", "a OK Completed\r\n"),
            (
                "a FETCH 1:2 FLAGS\r\n",
                "* 1 FETCH (FLAGS (\\Draft))\r\n* 2 FETCH (FLAGS (\\Flagged))\r\na OK Completed\r\n",
            ),
        ],
    );
}

#[test]
fn expunge_removes_what_is_deleted() {
    let inbox = inbox();
    inbox.add("third".into(), Flags::DELETED, None);
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            ("a STORE 1 +FLAGS.SILENT (\\Deleted)\r\n", "a OK Completed\r\n"),
            ("a UID EXPUNGE 2:3\r\n", "* 3 EXPUNGE\r\na OK Completed\r\n"),
            ("a EXPUNGE\r\n", "* 1 EXPUNGE\r\na OK Completed\r\n"),
            ("a EXPUNGE\r\n", "a OK Completed\r\n"),
            ("a UID SEARCH ALL\r\n", "* SEARCH 2\r\na OK Completed\r\n"),
            ("a STORE 1 +FLAGS.SILENT (\\Deleted)\r\n", "a OK Completed\r\n"),
            ("a CLOSE\r\n", "a OK Completed\r\n"),
            ("a EXPUNGE\r\n", "a BAD Select INBOX first\r\n"),
            (
                "a STATUS INBOX (MESSAGES UIDNEXT)\r\n",
                "* STATUS INBOX (MESSAGES 0 UIDNEXT 4)\r\na OK Completed\r\n",
            ),
        ],
    );
}

#[test]
fn unselect_keeps_what_is_deleted() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            ("a STORE 1 +FLAGS.SILENT (\\Deleted)\r\n", "a OK Completed\r\n"),
            ("a UNSELECT\r\n", "a OK Completed\r\n"),
            (
                "a STATUS INBOX (MESSAGES DELETED)\r\n",
                "* STATUS INBOX (MESSAGES 2 DELETED 1)\r\na OK Completed\r\n",
            ),
        ],
    );
}

#[test]
fn search_answers_by_number_or_uid() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            ("a SEARCH UNSEEN\r\n", "* SEARCH 2\r\na OK Completed\r\n"),
            (
                "a UID SEARCH HEADER Subject \"o\" \r\n",
                "* SEARCH 1 2\r\na OK Completed\r\n",
            ),
            (
                "a SEARCH CHARSET UTF-8 BODY {5}\r\nfirst\r\n",
                "+ Ready\r\n* SEARCH 1\r\na OK Completed\r\n",
            ),
            (
                "a SEARCH CHARSET KOI8-R ALL\r\n",
                "a NO [BADCHARSET (US-ASCII UTF-8)] Search in US-ASCII or UTF-8\r\n",
            ),
            ("a SEARCH SUBJECT \"\u{fc}\"\r\n", "* SEARCH\r\na OK Completed\r\n"),
        ],
    );
}

#[test]
fn append_keeps_every_octet() {
    let inbox = inbox();
    let mut session = selected(&inbox);
    talk(
        &mut session,
        &inbox,
        &[
            (
                "a APPEND INBOX (\\Seen $kw) \" 1-Jan-2001 00:00:10 +0000\" {7}\r\n",
                "+ Ready\r\n",
            ),
            ("\0\r\n{1}\r", ""),
            ("\r\n", "* 3 EXISTS\r\na OK [APPENDUID 1 3] Completed\r\n"),
            (
                "a FETCH 3 (FLAGS INTERNALDATE RFC822.SIZE BODY[])\r\n",
                "* 3 FETCH (FLAGS (\\Seen) INTERNALDATE \"01-Jan-2001 00:00:10 +0000\" RFC822.SIZE 7 \
                 BODY[] {7}\r\n\0\r\n{1}\r)\r\na OK Completed\r\n",
            ),
            (
                "a APPEND {5+}\r\nINBOX {0+}\r\n\r\n",
                "* 4 EXISTS\r\na OK [APPENDUID 1 4] Completed\r\n",
            ),
            (
                "a APPEND Sent {7}\r\n",
                "a NO [NONEXISTENT] There is no mailbox but INBOX\r\n",
            ),
            (
                "a APPEND Sent {3+}\r\nabc\r\nb NOOP\r\n",
                "a NO [NONEXISTENT] There is no mailbox but INBOX\r\nb OK Completed\r\n",
            ),
            (
                "a APPEND INBOX {2001}\r\n",
                "a NO [TOOBIG] The message is longer than this server takes\r\n",
            ),
            ("a APPEND INBOX\r\n", "a BAD The arguments are not understood\r\n"),
            (
                "a APPEND INBOX {1}\r\nx {1}\r\n",
                "+ Ready\r\na BAD No literal is taken here\r\n",
            ),
        ],
    );
}

#[test]
fn sessions_see_each_other() {
    let inbox = inbox();
    let (mut one, mut other) = (selected(&inbox), selected(&inbox));
    talk(
        &mut one,
        &inbox,
        &[("a STORE 1 +FLAGS.SILENT (\\Deleted)\r\n", "a OK Completed\r\n")],
    );
    talk(
        &mut one,
        &inbox,
        &[("a EXPUNGE\r\n", "* 1 EXPUNGE\r\na OK Completed\r\n")],
    );
    talk(
        &mut other,
        &inbox,
        &[
            // Numbers may not shift while a command by number is answered.
            ("a FETCH 2 FLAGS\r\n", "* 2 FETCH (FLAGS ())\r\na OK Completed\r\n"),
            (
                "a FETCH 1 BODY[]\r\n",
                "a OK [EXPUNGEISSUED] Some of the messages are expunged\r\n",
            ),
            (
                "a SEARCH SUBJECT two\r\n",
                "* SEARCH 2\r\na OK [EXPUNGEISSUED] Some of the messages are expunged\r\n",
            ),
            (
                "a STORE 2 +FLAGS (\\Seen)\r\n",
                "* 2 FETCH (FLAGS (\\Seen))\r\na OK Completed\r\n",
            ),
            ("a NOOP\r\n", "* 1 EXPUNGE\r\na OK Completed\r\n"),
            ("a FETCH 1 UID\r\n", "* 1 FETCH (UID 2)\r\na OK Completed\r\n"),
        ],
    );
    talk(
        &mut one,
        &inbox,
        &[("a NOOP\r\n", "* 1 FETCH (FLAGS (\\Seen))\r\na OK Completed\r\n")],
    );
}

#[test]
fn idle_tells_changes_until_done() {
    let inbox = inbox();
    let mut session = selected(&inbox);
    talk(&mut session, &inbox, &[("a IDLE\r\n", "+ Idling\r\n")]);
    assert!(matches!(
        session.poll(&super::super::Backend::inbox(&inbox)),
        Step::Receive { watch: true }
    ));
    inbox.add("new".into(), Flags::default(), None);
    talk(
        &mut session,
        &inbox,
        &[("", "* 3 EXISTS\r\n"), ("", ""), ("done\r\n", "a OK Completed\r\n")],
    );
    assert!(matches!(
        session.poll(&super::super::Backend::inbox(&inbox)),
        Step::Receive { watch: false }
    ));
    talk(
        &mut session,
        &inbox,
        &[
            ("b IDLE\r\nc NOOP\r\n", "+ Idling\r\nb BAD IDLE ends with DONE\r\n"),
            ("d NOOP\r\n", "d OK Completed\r\n"),
        ],
    );
}

#[test]
fn commands_sent_ahead_are_answered_in_order() {
    let inbox = inbox();
    let all = said(
        &mut logged_in(&inbox),
        &inbox,
        "a NOOP\r\nb EXAMINE INBOX\r\nc FETCH 1 UID\r\nd LOGOUT\r\ne NOOP\r\n",
    );
    let tagged: Vec<&str> = all.lines().filter(|line| !line.starts_with('*')).collect();
    assert_eq!(
        tagged,
        [
            "a OK Completed",
            "b OK [READ-ONLY] INBOX examined",
            "c OK Completed",
            "d OK Completed"
        ]
    );
}

#[test]
fn a_store_that_does_not_answer_is_told() {
    let inbox = inbox();
    let mut session = selected(&inbox);
    for command in [
        "a FETCH 1 BODY[]",
        "a FETCH 1 ENVELOPE",
        "a STORE 1 FLAGS ()",
        "a SEARCH BODY x",
        "a APPEND INBOX {1+}\r\nx",
    ] {
        session.handle_bytes(format!("{command}\r\n").as_bytes());
        let Step::Ask(ask) = session.poll(&super::super::Backend::inbox(&inbox)) else {
            panic!("{command}")
        };
        session.handle_answer(match ask {
            Ask::Message(_) => Answer::Message(Err(Unavailable)),
            Ask::Messages(_) => Answer::Messages(Err(Unavailable)),
            Ask::Summaries(_) => Answer::Summaries(Err(Unavailable)),
            Ask::Append { .. } => Answer::Appended(Err(Unavailable)),
            _ => Answer::Done(Err(Unavailable)),
        });
        assert!(
            said(&mut session, &inbox, "").ends_with("a NO [UNAVAILABLE] The store does not answer, try again\r\n")
        );
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let inbox = inbox();
    for _ in 0..2_000 {
        inbox.add("x".into(), Flags::default(), None);
    }
    let mut session = selected(&inbox);
    session.handle_bytes(b"a FETCH 1:* (FLAGS UID INTERNALDATE ENVELOPE)\r\n");
    let mut waiting = 0;
    for _ in 0..10_000 {
        match session.poll(&super::super::Backend::inbox(&inbox)) {
            Step::Ask(ask) => session.handle_answer(inbox.answer(ask)),
            Step::Transmit => waiting = session.out.front().len(),
            _ => panic!("the client has to read first"),
        }
    }
    assert!((64_000..70_000).contains(&waiting), "{waiting}");
}

proptest! {
    #[test]
    fn any_segmentation_gives_the_same_conversation(cuts in proptest::collection::vec(0usize..900, 0..40)) {
        let script = "a LOGIN {4+}\r\nuser \"pass\"\r\nb SELECT INBOX\r\nc FETCH 1:2 (UID BODY[])\r\n\r\nx\r\n\
            d APPEND INBOX (\\Flagged) {30+}\r\nSubject: s\r\n\r\na FETCH 1 {9}\r\n\r\ne SEARCH SUBJECT {3+}\r\ntwo OR SEEN 1\r\n\
            f APPEND Sent {12+}\r\ng NOOP\r\nxxxx\r\nh IDLE\r\nDONE\r\ni AUTHENTICATE PLAIN\r\nj STORE 1 +FLAGS (\\Deleted)\r\n\
            k EXPUNGE\r\nl UID FETCH 1:* (FLAGS BODYSTRUCTURE ENVELOPE)\r\nm LOGOUT\r\n";
        let whole = {
            let inbox = inbox();
            said(&mut greeted(&inbox), &inbox, script)
        };
        prop_assert!(whole.ends_with("m OK Completed\r\n"));
        let inbox = inbox();
        let mut session = greeted(&inbox);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % script.len()).collect();
        cuts.extend([0, script.len()]);
        cuts.sort_unstable();
        let pieces: String = cuts.windows(2).map(|cut| said(&mut session, &inbox, &script[cut[0]..cut[1]])).collect();
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn any_bytes_are_a_conversation(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&bytes);
    }

    #[test]
    fn any_words_of_the_grammar_are_a_conversation(words in proptest::collection::vec(prop_oneof![
        Just("a "), Just("UID "), Just("FETCH "), Just("STORE "), Just("SEARCH "), Just("1:* "), Just("4294967295 "), Just("* "),
        Just("0 "), Just("("), Just(")"), Just("BODY[]"), Just("BODY.PEEK[1.2.MIME]<0.1> "), Just("[HEADER.FIELDS (X)]"), Just("ALL "),
        Just("+FLAGS.SILENT "), Just("\\Seen "), Just("$x "), Just("NOT "), Just("OR "), Just("\""), Just("{3+}\r\n"), Just("{3}\r\n"),
        Just("APPEND INBOX "), Just("IDLE"), Just("DONE"), Just("\r\n"), Just("ENVELOPE "), Just("BODYSTRUCTURE "), Just("\u{fc}"),
        Just("SINCE 1-Jan-0000 "), Just("SENTON 31-Feb-2026 "), Just("SUBJECT "), Just("TEXT "), Just("x "), Just("\0"), Just("EXPUNGE "),
    ], 0..60)) {
        fuzz(words.concat().as_bytes());
    }
}
