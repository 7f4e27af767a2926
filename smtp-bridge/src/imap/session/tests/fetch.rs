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
        match &ask {
            Ask::Messages(_, uids) => {
                let bytes: usize = uids.iter().map(|uid| *uid as usize + 50).sum();
                assert!(bytes < 300 << 10 && !uids.contains(&big));
            }
            Ask::Text(_, uid, ..) => assert_eq!(*uid, big, "the long one is read alone"),
            Ask::Piece(..) => return inbox.answer(ask),
            _ => panic!("texts have all that is asked for"),
        }
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
        Ask::Text(_, _, depth, _) => {
            assert_eq!(depth, Depth::Header);
            Answer::Text(Ok(None))
        }
        _ => panic!("nothing else is needed"),
    });
    assert_eq!(said.matches(" FETCH (ENVELOPE (NIL \"even\"").count(), 300);
    assert!(!said.contains("* 5 FETCH") && said.contains("* 6 FETCH"));
    assert!(said.ends_with("a OK [EXPUNGEISSUED] Some of the messages are expunged\r\n"));
}

/// Of 1 MiB and some more, no two pieces alike.
fn long_text() -> Vec<u8> {
    let mut text = b"Subject: long\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n".to_vec();
    for number in 0..20_000 {
        text.extend_from_slice(format!("line {number} of a text that is too long to be held\r\n").as_bytes());
    }
    text.extend_from_slice(b"--b\r\nContent-Type: text/plain\r\n\r\nthe hidden word\r\n--b--\r\n");
    text
}

#[test]
fn a_long_text_comes_whole_in_pieces_that_are_asked_for_when_the_client_has_read() {
    let inbox = inbox();
    let text = long_text();
    inbox.add(text.clone(), Flags::SEEN, None);
    let mut session = selected(&inbox);
    session.handle_bytes(b"a FETCH 3 (UID BODY.PEEK[] BODY.PEEK[2])\r\n");
    let (mut said, mut pieces) = (Vec::new(), 0);
    loop {
        match step(&mut session, &inbox) {
            Step::Transmit => {
                assert!((1..=64 << 10).contains(&session.transmit().len()));
                said.push(session.transmit()[0]);
                session.handle_transmitted(1);
                said.extend_from_slice(session.transmit());
                session.handle_transmitted(session.transmit().len());
            }
            Step::Ask(Ask::Piece(source, at)) => {
                pieces += 1;
                assert!(session.transmit().is_empty() && session.holds_text());
                // Another session expunges it: what was begun is sent whole.
                inbox.answer(Ask::Expunge(FolderId::INBOX, vec![3]));
                session.handle_answer(Answer::Piece(source.read(at).map_err(|_| Unavailable)));
            }
            Step::Ask(ask) => {
                assert!(!matches!(ask, Ask::Messages(..) | Ask::Message(..)));
                let answer = inbox.answer(ask);
                session.handle_answer(answer);
            }
            Step::Receive { .. } | Step::Close => break,
        }
    }
    assert!(pieces > text.len() / (64 << 10));
    assert!(!session.holds_text());
    let text = String::from_utf8(text).expect("is text");
    let expected = format!(
        "* 3 FETCH (UID 3 BODY[] {{{}}}\r\n{text} BODY[2] {{15}}\r\nthe hidden word)\r\n",
        text.len()
    );
    let said = String::from_utf8(said).expect("is text");
    assert!(said.starts_with(&expected));
    assert!(said.ends_with("a OK Completed\r\n"), "{}", &said[expected.len()..]);
}

#[test]
fn a_piece_that_cannot_be_read_ends_the_connection_within_the_literal() {
    let inbox = inbox();
    inbox.add(long_text(), Flags::default(), None);
    let mut session = selected(&inbox);
    let mut pieces = 0;
    let said = answered(
        &mut session,
        &inbox,
        "a FETCH 1:3 BODY[]\r\nb NOOP\r\n",
        |ask| match ask {
            Ask::Piece(source, at) => {
                pieces += 1;
                match pieces {
                    4.. => Answer::Piece(Err(Unavailable)),
                    _ => Answer::Piece(source.read(at).map_err(|_| Unavailable)),
                }
            }
            ask => inbox.answer(ask),
        },
    );
    let begun = said.split("* 3 FETCH (BODY[] {").nth(1).expect("begun");
    let (_, octets) = begun.split_once("\r\n").expect("a length");
    assert_eq!(octets, String::from_utf8_lossy(&long_text()[..3 << 16]));
    assert!(matches!(step(&mut session, &inbox), Step::Close));
    // Not even read as far as it was sent.
    let entries = &inbox.folder(FolderId::INBOX).expect("there").entries;
    assert_eq!(entries[2].flags, Flags::default());
}

#[test]
fn parts_of_a_long_text_are_looked_for_once_and_then_it_is_kept() {
    let inbox = inbox();
    inbox.add(long_text(), Flags::SEEN, None);
    let mut session = selected(&inbox);
    let mut fetch = |command: &str| {
        let mut asked = Vec::new();
        let said = answered(&mut session, &inbox, command, |ask| {
            if let Ask::Text(_, _, depth, _) = &ask {
                asked.push(*depth);
            }
            inbox.answer(ask)
        });
        (said, asked)
    };
    let (said, asked) = fetch("a FETCH 3 BODY[]<9.4>\r\n");
    assert_eq!(said, "* 3 FETCH (BODY[]<9> {4}\r\nlong)\r\na OK Completed\r\n");
    assert_eq!(asked, [Depth::Length]);
    let (said, asked) = fetch("b FETCH 3 BODY[2]<4.6>\r\n");
    assert_eq!(said, "* 3 FETCH (BODY[2]<4> {6}\r\nhidden)\r\nb OK Completed\r\n");
    assert_eq!(asked, [Depth::Parts]);
    let (said, asked) = fetch("c FETCH 3 (BODY[2]<11.9> BODY[HEADER.FIELDS (Subject)])\r\n");
    assert_eq!(
        said,
        "* 3 FETCH (BODY[2]<11> {4}\r\nword BODY[HEADER.FIELDS (Subject)] {17}\r\nSubject: long\r\n\r\n)\r\nc OK Completed\r\n"
    );
    assert_eq!(asked, []);
}

#[test]
fn a_long_text_is_searched_without_being_held() {
    let inbox = inbox();
    inbox.add(long_text(), Flags::SEEN, None);
    let mut session = selected(&inbox);
    for (command, found) in [
        ("a SEARCH TEXT \"hidden word\"\r\n", "* SEARCH 3\r\n"),
        ("a SEARCH BODY \"line 19999 of\"\r\n", "* SEARCH 3\r\n"),
        ("a SEARCH BODY nowhere\r\n", "* SEARCH\r\n"),
        ("a SEARCH NOT BODY second TEXT o\r\n", "* SEARCH 1 3\r\n"),
        ("a SEARCH BODY \"subject: long\"\r\n", "* SEARCH\r\n"),
        ("a SEARCH TEXT \"subject: long\"\r\n", "* SEARCH 3\r\n"),
        ("a SEARCH HEADER X-None x\r\n", "* SEARCH\r\n"),
    ] {
        let said = answered(&mut session, &inbox, command, |ask| {
            assert!(!matches!(ask, Ask::Message(_, 3)));
            inbox.answer(ask)
        });
        assert_eq!(said, format!("{found}a OK Completed\r\n"), "{command}");
    }
}
