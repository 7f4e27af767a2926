//! One mailbox: opening it, flags, removing, searching, appending.

use super::*;

#[test]
fn select_tells_the_state_of_the_mailbox() {
    let inbox = inbox();
    let all = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";
    let kept = "\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*";
    let state = |kept: &str| {
        format!(
            "* FLAGS ({all})\r\n* OK [PERMANENTFLAGS ({kept})] These flags are kept\r\n* 2 EXISTS\r\n* 0 RECENT\r\n\
             * OK [UNSEEN 2] First unseen message\r\n* OK [UIDVALIDITY 1] UIDs are good for ever\r\n\
             * OK [UIDNEXT 3] Next UID\r\n* OK [HIGHESTMODSEQ 3] Last change\r\n"
        )
    };
    talk(
        &mut logged_in(&inbox),
        &inbox,
        &[
            ("a SELECT inbox\r\n", &(state(kept) + "a OK [READ-WRITE] Selected\r\n")),
            ("a EXAMINE INBOX\r\n", &(state("") + "a OK [READ-ONLY] Examined\r\n")),
            (
                "a STORE 1 FLAGS ()\r\n",
                "a NO [CANNOT] The mailbox was opened by EXAMINE, for reading only\r\n",
            ),
            (
                "a EXPUNGE\r\n",
                "a NO [CANNOT] The mailbox was opened by EXAMINE, for reading only\r\n",
            ),
            (
                "a FETCH 2 BODY[TEXT]\r\n",
                "* 2 FETCH (BODY[TEXT] {8}\r\nsecond\r\n)\r\na OK Completed\r\n",
            ),
            ("a FETCH 2 FLAGS\r\n", "* 2 FETCH (FLAGS ())\r\na OK Completed\r\n"),
            ("a SELECT nosuch\r\n", "a NO [NONEXISTENT] There is no such mailbox\r\n"),
            ("a FETCH 1 FLAGS\r\n", "a BAD Select a mailbox first\r\n"),
        ],
    );
}

#[test]
fn store_changes_flags() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a STORE 1:2 +FLAGS (\\Flagged \\Other)\r\n",
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
fn keywords_are_kept_and_told_to_every_session() {
    let inbox = inbox();
    let (mut one, mut other) = (selected(&inbox), selected(&inbox));
    let all = "\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded";
    let news = format!("* FLAGS ({all})\r\n* OK [PERMANENTFLAGS ({all} \\*)] These flags are kept\r\n");
    talk(
        &mut one,
        &inbox,
        &[
            (
                "a STORE 1 -FLAGS (unknown)\r\n",
                "* 1 FETCH (FLAGS (\\Seen))\r\na OK Completed\r\n",
            ),
            (
                "a STORE 1 +FLAGS ($Forwarded)\r\n",
                &format!("{news}* 1 FETCH (FLAGS (\\Seen $Forwarded))\r\na OK Completed\r\n"),
            ),
            ("a STORE 2 FLAGS.SILENT ($FORWARDED \\Draft)\r\n", "a OK Completed\r\n"),
            (
                "a APPEND INBOX ($forwarded) {1+}\r\nx\r\n",
                "* 3 EXISTS\r\n* 1 RECENT\r\na OK [APPENDUID 1 3] Completed\r\n",
            ),
            (
                "a SEARCH KEYWORD $forwarded\r\n",
                "* SEARCH 1 2 3\r\na OK Completed\r\n",
            ),
            ("a SEARCH UNKEYWORD $Forwarded\r\n", "* SEARCH\r\na OK Completed\r\n"),
            ("a SEARCH KEYWORD x\r\n", "* SEARCH\r\na OK Completed\r\n"),
            (
                "a FETCH 3 FLAGS\r\n",
                "* 3 FETCH (FLAGS ($Forwarded \\Recent))\r\na OK Completed\r\n",
            ),
        ],
    );
    talk(
        &mut other,
        &inbox,
        &[(
            "a NOOP\r\n",
            &format!(
                "{news}* 1 FETCH (FLAGS (\\Seen $Forwarded))\r\n* 2 FETCH (FLAGS (\\Draft $Forwarded))\r\n* 3 EXISTS\r\n* 0 RECENT\r\n\
                 a OK Completed\r\n"
            ),
        )],
    );
}

#[test]
fn keywords_beyond_the_bound_are_passed_over() {
    let inbox = inbox();
    let mut session = selected(&inbox);
    for number in 0..30 {
        let said = said(&mut session, &inbox, format!("a STORE 1 +FLAGS (k{number})\r\n"));
        assert!(said.ends_with("a OK Completed\r\n"));
        assert_eq!(said.contains(&format!(" k{number})")), number < 26, "{said}");
        assert_eq!(said.contains("\\*)]"), number < 25, "{said}");
    }
    assert!(said(&mut session, &inbox, "a FETCH 1 FLAGS\r\n").contains(" k24 k25))"));
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
            ("a EXPUNGE\r\n", "a BAD Select a mailbox first\r\n"),
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
                "a APPEND INBOX (\\Seen) \" 1-Jan-2001 00:00:10 +0000\" {7}\r\n",
                "+ Ready\r\n",
            ),
            ("\0\r\n{1}\r", ""),
            ("\r\n", "* 3 EXISTS\r\n* 1 RECENT\r\na OK [APPENDUID 1 3] Completed\r\n"),
            (
                "a FETCH 3 (FLAGS INTERNALDATE RFC822.SIZE BODY[])\r\n",
                "* 3 FETCH (FLAGS (\\Seen \\Recent) INTERNALDATE \"01-Jan-2001 00:00:10 +0000\" RFC822.SIZE 7 \
                 BODY[] {7}\r\n\0\r\n{1}\r)\r\na OK Completed\r\n",
            ),
            (
                "a APPEND {5+}\r\nINBOX {0+}\r\n\r\n",
                "* 4 EXISTS\r\n* 2 RECENT\r\na OK [APPENDUID 1 4] Completed\r\n",
            ),
            (
                "a APPEND nosuch {7}\r\n",
                "a NO [TRYCREATE] There is no such mailbox\r\n",
            ),
            (
                "a APPEND nosuch {3+}\r\nabc\r\nb NOOP\r\n",
                "a NO [TRYCREATE] There is no such mailbox\r\nb OK Completed\r\n",
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
