//! FETCH: what it answers, and what it asks the store for.

use super::*;

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

/// Lets a session go on, its questions answered by `answer`; returns what it says.
fn answered(
    session: &mut Session,
    inbox: &MemoryStore,
    command: &str,
    mut answer: impl FnMut(Ask) -> Answer,
) -> String {
    session.handle_bytes(command.as_bytes());
    let mut said = Vec::new();
    loop {
        match step(session, inbox) {
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
fn large_inbox() -> MemoryStore {
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
        texts += usize::from(!matches!(ask, Ask::Summaries(..)));
        inbox.answer(ask)
    });
    assert_eq!(texts, 0);
    assert_eq!(expected.matches(" FETCH (UID ").count(), 600);
    assert!(expected.contains("* 599 FETCH (UID 599 ENVELOPE (NIL \"number 599\""));
    let mut asked = Vec::new();
    let said = answered(&mut selected(&inbox), &inbox, command, |ask| {
        if let Ask::Messages(_, uids) = &ask {
            asked.extend_from_slice(uids);
        }
        match inbox.answer(ask) {
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
fn a_text_fetched_part_by_part_is_read_once() {
    let inbox = large_inbox();
    let mut session = selected(&inbox);
    let mut fetch = |command: &str| {
        let mut texts = 0;
        let said = answered(&mut session, &inbox, &format!("a {command}\r\n"), |ask| {
            texts += usize::from(matches!(ask, Ask::Messages(..)));
            inbox.answer(ask)
        });
        assert!(said.ends_with("a OK Completed\r\n"), "{said}");
        (texts, said)
    };
    let whole = fetch("UID FETCH 300 BODY.PEEK[]").1;
    let mut parts = String::new();
    for (reads, command) in [
        (1, "UID FETCH 300 BODY.PEEK[]<0.100>"),
        (0, "UID FETCH 300 BODY.PEEK[]<100.100>"),
        (0, "FETCH 300 (UID BODY.PEEK[]<200.100>)"),
        (0, "UID FETCH 300 BODY.PEEK[]<300.1000>"),
    ] {
        let (texts, said) = fetch(command);
        assert_eq!(texts, reads, "{command}");
        let part = said.split_once("}\r\n").expect("a literal").1;
        parts.push_str(part.split_once(")\r\na OK").expect("its end").0);
    }
    assert_eq!(
        parts,
        whole
            .split_once("}\r\n")
            .expect("a literal")
            .1
            .replace(")\r\na OK Completed\r\n", "")
    );
    // Another message, another command, or a whole text: nothing is kept.
    for (reads, command) in [
        (1, "UID FETCH 301 BODY.PEEK[]<0.9>"),
        (0, "NOOP"),
        (1, "UID FETCH 301 BODY.PEEK[]"),
        (1, "UID FETCH 301 BODY.PEEK[]<0.9>"),
        (0, "UID FETCH 301 BODY.PEEK[]"),
        (1, "UID FETCH 301 BODY.PEEK[]"),
    ] {
        assert_eq!(fetch(command).0, reads, "{command}");
    }
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
        let Ask::Messages(_, uids) = &ask else {
            panic!("texts have all that is asked for")
        };
        let bytes: usize = uids.iter().map(|uid| *uid as usize + 50).sum();
        assert!(
            bytes < 300 << 10,
            "without the big one, whose UID says nothing of its length"
        );
        assert!(!uids.contains(&big) || uids.len() == 1, "which is read alone");
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
        Ask::Summaries(_, uids) => Answer::Summaries(Ok(uids.iter().map(|_| None).collect())),
        Ask::Messages(_, uids) => {
            let text = |uid: &u32| uid.is_multiple_of(2).then(|| b"Subject: even\r\n".to_vec());
            Answer::Messages(Ok(uids.iter().map(text).collect()))
        }
        _ => panic!("nothing else is needed"),
    });
    assert_eq!(said.matches(" FETCH (ENVELOPE (NIL \"even\"").count(), 300);
    assert!(!said.contains("* 5 FETCH") && said.contains("* 6 FETCH"));
    assert!(said.ends_with("a OK [EXPUNGEISSUED] Some of the messages are expunged\r\n"));
}
