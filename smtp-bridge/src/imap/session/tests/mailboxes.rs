//! INBOX: opening it, flags, removing, searching, appending.

use super::*;

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
