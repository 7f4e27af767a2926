//! Conditional STORE and what changed since (RFC 7162).

use super::*;

#[test]
fn changes_are_numbered_and_asked_for_by_number() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a FETCH 1:2 (MODSEQ)\r\n",
                "* 1 FETCH (MODSEQ (2))\r\n* 2 FETCH (MODSEQ (3))\r\na OK Completed\r\n",
            ),
            (
                "a STORE 1 +FLAGS.SILENT (\\Flagged)\r\n",
                "* 1 FETCH (MODSEQ (4))\r\na OK Completed\r\n",
            ),
            (
                "a UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3)\r\n",
                "* 1 FETCH (UID 1 FLAGS (\\Flagged \\Seen) MODSEQ (4))\r\na OK Completed\r\n",
            ),
            ("a FETCH 1:* (FLAGS) (CHANGEDSINCE 4)\r\n", "a OK Completed\r\n"),
            ("a SEARCH MODSEQ 4\r\n", "* SEARCH 1 (MODSEQ 4)\r\na OK Completed\r\n"),
            ("a SEARCH MODSEQ 5\r\n", "* SEARCH\r\na OK Completed\r\n"),
            (
                "a STATUS INBOX (HIGHESTMODSEQ)\r\n",
                "* STATUS INBOX (HIGHESTMODSEQ 4)\r\na OK Completed\r\n",
            ),
            (
                "a UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3 VANISHED)\r\n",
                "a BAD This extension is not offered\r\n",
            ),
        ],
    );
}

#[test]
fn a_conditional_store_leaves_alone_what_changed_since() {
    let inbox = inbox();
    inbox.add("third".into(), Flags::default(), None);
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a STORE 2 +FLAGS (\\Seen)\r\n",
                "* 2 FETCH (FLAGS (\\Seen))\r\na OK Completed\r\n",
            ),
            (
                "a STORE 1:3 (UNCHANGEDSINCE 4) +FLAGS.SILENT (\\Deleted)\r\n",
                "* 1 FETCH (MODSEQ (6))\r\n* 3 FETCH (MODSEQ (6))\r\na OK [MODIFIED 2] Some have changed since\r\n",
            ),
            (
                "a UID STORE 1:3 (UNCHANGEDSINCE 1) FLAGS ()\r\n",
                "a OK [MODIFIED 1:3] Some have changed since\r\n",
            ),
            (
                "a UID STORE 2 (UNCHANGEDSINCE 5) FLAGS (\\Draft)\r\n",
                "* 2 FETCH (UID 2 FLAGS (\\Draft) MODSEQ (8))\r\na OK Completed\r\n",
            ),
        ],
    );
}

#[test]
fn others_hear_of_modseqs_once_they_asked_for_them() {
    let inbox = inbox();
    let mut sessions = [selected(&inbox), selected(&inbox), logged_in(&inbox), logged_in(&inbox)];
    let [plain, enabled, parameter, status] = &mut sessions;
    talk(
        enabled,
        &inbox,
        &[
            (
                "a ENABLE CONDSTORE X-OTHER\r\n",
                "* ENABLED CONDSTORE\r\na OK Completed\r\n",
            ),
            ("a ENABLE condstore\r\n", "* ENABLED\r\na OK Completed\r\n"),
        ],
    );
    assert!(said(parameter, &inbox, "a SELECT INBOX (CONDSTORE)\r\n").ends_with("a OK [READ-WRITE] Selected\r\n"));
    assert!(said(status, &inbox, "a STATUS INBOX (HIGHESTMODSEQ)\r\na SELECT INBOX\r\n").ends_with("Selected\r\n"));
    let mut session = selected(&inbox);
    assert!(said(&mut session, &inbox, "a STORE 1 FLAGS ()\r\n").ends_with("a OK Completed\r\n"));
    let flags = "* 1 FETCH (FLAGS ())\r\na OK Completed\r\n";
    let both = "* 1 FETCH (FLAGS () MODSEQ (4))\r\na OK Completed\r\n";
    talk(plain, &inbox, &[("a NOOP\r\n", flags)]);
    for session in [enabled, parameter, status] {
        talk(session, &inbox, &[("a NOOP\r\n", both)]);
    }
}

#[test]
fn resynchronisation_is_not_offered() {
    let inbox = inbox();
    talk(
        &mut selected(&inbox),
        &inbox,
        &[
            (
                "a SELECT INBOX (QRESYNC (1 2))\r\n",
                "a BAD This extension is not offered\r\n",
            ),
            ("a FETCH 1 UID\r\n", "* 1 FETCH (UID 1)\r\na OK Completed\r\n"),
        ],
    );
}
