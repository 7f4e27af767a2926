//! The course of a session: changes by others, commands sent ahead, a store or client that does not answer, any bytes.

use proptest::prelude::*;

use super::*;

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
    assert!(matches!(step(&mut session, &inbox), Step::Receive { watch: true }));
    inbox.add("new".into(), Flags::default(), None);
    talk(
        &mut session,
        &inbox,
        &[
            ("", "* 3 EXISTS\r\n* 1 RECENT\r\n"),
            ("", ""),
            ("done\r\n", "a OK Completed\r\n"),
        ],
    );
    assert!(matches!(step(&mut session, &inbox), Step::Receive { watch: false }));
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
            "b OK [READ-ONLY] Examined",
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
        "a STORE 1 +FLAGS (new)",
        "a SEARCH BODY x",
        "a SEARCH FROM x",
        "a APPEND INBOX {1+}\r\nx",
        "a APPEND INBOX (new) {1+}\r\nx",
        "a COPY 1 Sent",
        "a MOVE 1 Sent",
        "a CREATE x",
        "a DELETE Sent",
        "a RENAME Sent x",
        "a SUBSCRIBE Sent",
    ] {
        session.handle_bytes(format!("{command}\r\n").as_bytes());
        let Step::Ask(ask) = step(&mut session, &inbox) else {
            panic!("{command}")
        };
        session.handle_answer(match ask {
            Ask::Message(..) => Answer::Message(Err(Unavailable)),
            Ask::Messages(..) => Answer::Messages(Err(Unavailable)),
            Ask::Summaries(..) => Answer::Summaries(Err(Unavailable)),
            Ask::Keywords(_) => Answer::Keywords(Err(Unavailable)),
            Ask::Store(..) => Answer::Stored(Err(Failure::Unavailable)),
            Ask::Append { .. } => Answer::Appended(Err(Failure::Unavailable)),
            Ask::Copy { .. } => Answer::Copied(Err(Failure::Unavailable)),
            _ => Answer::Done(Err(Failure::Unavailable)),
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
        match step(&mut session, &inbox) {
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
            f APPEND nosuch {12+}\r\ng NOOP\r\nxxxx\r\nh IDLE\r\nDONE\r\ni AUTHENTICATE PLAIN\r\nj STORE 1 +FLAGS (\\Deleted)\r\n\
            k EXPUNGE\r\nl UID FETCH 1:* (FLAGS BODYSTRUCTURE ENVELOPE MODSEQ)\r\nl CREATE \"a b\" (USE (\\All))\r\n\
            l CREATE {3+}\r\na/b\r\nl COPY 1:* a/b\r\nl LIST \"\" *\r\nl STORE 1 (UNCHANGEDSINCE 1) FLAGS new\r\nl UID MOVE 1:* Trash\r\n\
            m LOGOUT\r\n";
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
        Just("MOVE "), Just("COPY "), Just("Sent "), Just("a/b "), Just("CREATE "), Just("DELETE "), Just("RENAME "), Just("INBOX "), Just("SELECT "),
        Just("LIST "), Just("LSUB "), Just("\"\" "), Just("% "), Just("&AOQ- "), Just("(USE (\\Sent))"), Just("(CONDSTORE)"), Just("MODSEQ "),
        Just("(UNCHANGEDSINCE 3) "), Just("(CHANGEDSINCE 1)"), Just("STATUS "), Just("(HIGHESTMODSEQ SIZE)"), Just("GETQUOTAROOT "), Just("ENABLE CONDSTORE"),
        Just("SUBSCRIBE "), Just("UNSUBSCRIBE "), Just("CLOSE"), Just("KEYWORD "), Just("UNSELECT"),
    ], 0..60)) {
        fuzz(words.concat().as_bytes());
    }
}
