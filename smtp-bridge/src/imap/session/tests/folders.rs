//! Folders: making and naming them, what is in them, and messages on their way from one to another.

use super::*;

const NONE: &str = "a NO [NONEXISTENT] There is no such mailbox\r\n";
const TRY_CREATE: &str = "a NO [TRYCREATE] There is no such mailbox\r\n";
const CANNOT: &str = "a NO [CANNOT] INBOX stays as it is, or the name is not one that a mailbox may have\r\n";
const OK: &str = "a OK Completed\r\n";

#[test]
fn folders_of_a_new_store_are_listed_with_their_uses() {
    let store = inbox();
    let all = "* LIST (\\HasNoChildren) \"/\" INBOX\r\n* LIST (\\HasNoChildren \\Archive) \"/\" Archive\r\n\
        * LIST (\\HasNoChildren \\Drafts) \"/\" Drafts\r\n* LIST (\\HasNoChildren \\Junk) \"/\" Junk\r\n\
        * LIST (\\HasNoChildren \\Sent) \"/\" Sent\r\n* LIST (\\HasNoChildren \\Trash) \"/\" Trash\r\n";
    talk(
        &mut logged_in(&store),
        &store,
        &[
            (
                "a LIST \"\" \"\"\r\n",
                &format!("* LIST (\\Noselect) \"/\" \"\"\r\n{OK}"),
            ),
            ("a LIST \"\" *\r\n", &format!("{all}{OK}")),
            ("a LIST \"\" \"%\"\r\n", &format!("{all}{OK}")),
            (
                "a LIST in %\r\n",
                &format!("* LIST (\\HasNoChildren) \"/\" INBOX\r\n{OK}"),
            ),
            ("a LIST \"\" nosuch\r\n", OK),
            ("a LSUB \"\" \"S*\"\r\n", &format!("* LSUB () \"/\" Sent\r\n{OK}")),
            (
                "a NAMESPACE\r\n",
                &format!("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n{OK}"),
            ),
            (
                "a STATUS inbox (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE DELETED DELETED-STORAGE)\r\n",
                &format!(
                    "* STATUS INBOX (MESSAGES 2 RECENT 0 UIDNEXT 3 UIDVALIDITY 1 UNSEEN 1 SIZE 95 DELETED 0 \
                     DELETED-STORAGE 0)\r\n{OK}"
                ),
            ),
            (
                "a STATUS Sent (MESSAGES)\r\n",
                &format!("* STATUS Sent (MESSAGES 0)\r\n{OK}"),
            ),
            ("a STATUS nosuch (MESSAGES)\r\n", NONE),
            ("a SELECT nosuch\r\n", NONE),
            ("a CHECK\r\n", "a BAD Select a mailbox first\r\n"),
        ],
    );
}

#[test]
fn folders_are_made_renamed_and_removed() {
    let store = inbox();
    let listed = |session: &mut Session, pattern: &str| {
        let said = said(session, &store, format!("a LIST \"\" \"{pattern}\"\r\n"));
        let names = said.lines().filter_map(|line| line.strip_prefix("* LIST "));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut session = logged_in(&store);
    talk(
        &mut session,
        &store,
        &[("a CREATE a/b/c\r\n", OK), ("a CREATE \"p&AOQ-/\"\r\n", OK)],
    );
    assert_eq!(
        listed(&mut session, "a*"),
        [
            "(\\HasChildren) \"/\" a",
            "(\\HasChildren) \"/\" a/b",
            "(\\HasNoChildren) \"/\" a/b/c"
        ]
    );
    assert_eq!(listed(&mut session, "p%"), ["(\\HasNoChildren) \"/\" p&AOQ-"]);
    talk(
        &mut session,
        &store,
        &[
            (
                "a CREATE a/b\r\n",
                "a NO [ALREADYEXISTS] There is a mailbox of this name\r\n",
            ),
            (
                "a CREATE inbox\r\n",
                "a NO [ALREADYEXISTS] There is a mailbox of this name\r\n",
            ),
            ("a CREATE a//b\r\n", CANNOT),
            ("a CREATE \"a&b\"\r\n", CANNOT),
            ("a CREATE \"x%\"\r\n", CANNOT),
            ("a DELETE a/b\r\n", OK),
            ("a DELETE a/b\r\n", NONE),
            ("a DELETE INBOX\r\n", CANNOT),
            ("a DELETE nosuch\r\n", NONE),
        ],
    );
    assert_eq!(
        listed(&mut session, "a*"),
        [
            "(\\HasChildren) \"/\" a",
            "(\\Noselect \\HasChildren) \"/\" a/b",
            "(\\HasNoChildren) \"/\" a/b/c"
        ]
    );
    talk(
        &mut session,
        &store,
        &[
            ("a SELECT a/b\r\n", NONE),
            (
                "a RENAME a Sent\r\n",
                "a NO [ALREADYEXISTS] There is a mailbox of this name\r\n",
            ),
            ("a RENAME a a/x\r\n", CANNOT),
            ("a RENAME nosuch x\r\n", NONE),
            ("a RENAME a x/y\r\n", OK),
        ],
    );
    assert_eq!(listed(&mut session, "a*"), Vec::<String>::new());
    assert_eq!(
        listed(&mut session, "x*"),
        [
            "(\\HasChildren) \"/\" x",
            "(\\HasChildren) \"/\" x/y",
            "(\\Noselect \\HasChildren) \"/\" x/y/b",
            "(\\HasNoChildren) \"/\" x/y/b/c"
        ]
    );
}

#[test]
fn renaming_inbox_takes_its_messages_and_leaves_it_empty() {
    let store = inbox();
    let mut session = selected(&store);
    talk(
        &mut session,
        &store,
        &[
            ("a RENAME INBOX old\r\n", &format!("* 1 EXPUNGE\r\n* 1 EXPUNGE\r\n{OK}")),
            (
                "a STATUS INBOX (MESSAGES UIDNEXT)\r\n",
                &format!("* STATUS INBOX (MESSAGES 0 UIDNEXT 3)\r\n{OK}"),
            ),
            (
                "a STATUS old (MESSAGES UNSEEN)\r\n",
                &format!("* STATUS old (MESSAGES 2 UNSEEN 1)\r\n{OK}"),
            ),
        ],
    );
}

#[test]
fn a_folder_is_made_for_a_use_that_no_other_has() {
    let store = inbox();
    let refused = "a NO [USEATTR] Another mailbox is for this, or the use is not known\r\n";
    talk(
        &mut logged_in(&store),
        &store,
        &[
            ("a CREATE x (USE (\\Sent))\r\n", refused),
            ("a CREATE x (USE (\\All))\r\n", refused),
            ("a DELETE Sent\r\n", OK),
            ("a CREATE \"x y\" (USE (\\sent))\r\n", OK),
            (
                "a LIST \"\" x*\r\n",
                &format!("* LIST (\\HasNoChildren \\Sent) \"/\" \"x y\"\r\n{OK}"),
            ),
        ],
    );
}

#[test]
fn subscriptions_outlive_their_folders() {
    let store = inbox();
    talk(
        &mut logged_in(&store),
        &store,
        &[
            ("a SUBSCRIBE x/y\r\n", NONE),
            ("a CREATE x/y\r\n", OK),
            ("a LSUB \"\" \"x*\"\r\n", OK),
            ("a SUBSCRIBE x/y\r\n", OK),
            ("a LSUB \"\" \"x/*\"\r\n", &format!("* LSUB () \"/\" x/y\r\n{OK}")),
            (
                "a LSUB \"\" \"x%\"\r\n",
                &format!("* LSUB (\\Noselect) \"/\" x\r\n{OK}"),
            ),
            ("a DELETE x/y\r\n", OK),
            (
                "a LSUB \"\" \"x/*\"\r\n",
                &format!("* LSUB (\\Noselect) \"/\" x/y\r\n{OK}"),
            ),
            ("a UNSUBSCRIBE x/y\r\n", OK),
            ("a LSUB \"\" \"x/*\"\r\n", OK),
            ("a UNSUBSCRIBE INBOX\r\n", OK),
            ("a LSUB \"\" INBOX\r\n", OK),
        ],
    );
}

#[test]
fn messages_are_copied_and_keep_their_flags() {
    let store = inbox();
    talk(
        &mut selected(&store),
        &store,
        &[
            ("a COPY 1:2 Archive\r\n", "a OK [COPYUID 2 1:2 1:2] Completed\r\n"),
            ("a UID COPY 2 Archive\r\n", "a OK [COPYUID 2 2 3] Completed\r\n"),
            ("a UID COPY 7 Archive\r\n", OK),
            ("a COPY 7 Archive\r\n", "a BAD There is no message of that number\r\n"),
            ("a COPY 1 nosuch\r\n", TRY_CREATE),
            (
                "a COPY 1 INBOX\r\n",
                "* 3 EXISTS\r\n* 1 RECENT\r\na OK [COPYUID 1 1 3] Completed\r\n",
            ),
            (
                "a STATUS Archive (MESSAGES UNSEEN)\r\n",
                &format!("* STATUS Archive (MESSAGES 3 UNSEEN 2)\r\n{OK}"),
            ),
        ],
    );
    let mut session = logged_in(&store);
    assert!(said(&mut session, &store, "a EXAMINE Archive\r\n").ends_with("a OK [READ-ONLY] Examined\r\n"));
    talk(
        &mut session,
        &store,
        &[
            (
                "a FETCH 1 (FLAGS BODY.PEEK[TEXT])\r\n",
                &format!("* 1 FETCH (FLAGS (\\Seen \\Recent) BODY[TEXT] {{7}}\r\nfirst\r\n)\r\n{OK}"),
            ),
            (
                "a MOVE 1 Sent\r\n",
                "a NO [CANNOT] The mailbox was opened by EXAMINE, for reading only\r\n",
            ),
            ("a COPY 1 Sent\r\n", "a OK [COPYUID 5 1 1] Completed\r\n"),
        ],
    );
}

#[test]
fn messages_are_moved_and_others_see_them_go() {
    let store = inbox();
    let (mut mover, mut other, mut target) = (selected(&store), selected(&store), logged_in(&store));
    assert!(said(&mut target, &store, "a SELECT Trash\r\na IDLE\r\n").ends_with("+ Idling\r\n"));
    talk(
        &mut mover,
        &store,
        &[
            ("a MOVE 1:2 nosuch\r\n", TRY_CREATE),
            (
                "a MOVE 1 Trash\r\n",
                &format!("* OK [COPYUID 6 1 1] Completed\r\n* 1 EXPUNGE\r\n{OK}"),
            ),
            (
                "a UID MOVE 1:2 Trash\r\n",
                &format!("* OK [COPYUID 6 2 2] Completed\r\n* 1 EXPUNGE\r\n{OK}"),
            ),
            ("a UID MOVE 1:* Trash\r\n", OK),
        ],
    );
    talk(
        &mut other,
        &store,
        &[("a NOOP\r\n", &format!("* 1 EXPUNGE\r\n* 1 EXPUNGE\r\n{OK}"))],
    );
    talk(
        &mut target,
        &store,
        &[("", "* 2 EXISTS\r\n* 2 RECENT\r\n"), ("DONE\r\n", OK)],
    );
}

#[test]
fn messages_moved_to_their_own_folder_are_new_there() {
    let store = inbox();
    talk(
        &mut selected(&store),
        &store,
        &[
            (
                "a MOVE 1 INBOX\r\n",
                &format!("* OK [COPYUID 1 1 3] Completed\r\n* 1 EXPUNGE\r\n* 2 EXISTS\r\n* 1 RECENT\r\n{OK}"),
            ),
            (
                "a FETCH 1:2 (UID FLAGS)\r\n",
                &format!("* 1 FETCH (UID 2 FLAGS ())\r\n* 2 FETCH (UID 3 FLAGS (\\Seen \\Recent))\r\n{OK}"),
            ),
        ],
    );
}

#[test]
fn a_message_is_recent_for_the_first_session_that_is_told_of_it() {
    let store = inbox();
    store.add("third".into(), Flags::default(), None);
    let status = "a STATUS INBOX (RECENT)\r\n";
    let mut session = logged_in(&store);
    talk(
        &mut session,
        &store,
        &[(status, &format!("* STATUS INBOX (RECENT 1)\r\n{OK}"))],
    );
    assert!(said(&mut session, &store, "a EXAMINE INBOX\r\n").contains("* 1 RECENT\r\n"));
    let mut first = logged_in(&store);
    assert!(said(&mut first, &store, "a SELECT INBOX\r\n").contains("* 1 RECENT\r\n"));
    let mut second = logged_in(&store);
    assert!(said(&mut second, &store, "a SELECT INBOX\r\n").contains("* 0 RECENT\r\n"));
    talk(
        &mut second,
        &store,
        &[(status, &format!("* STATUS INBOX (RECENT 0)\r\n{OK}"))],
    );
    talk(
        &mut first,
        &store,
        &[
            ("a SEARCH NEW\r\n", &format!("* SEARCH 3\r\n{OK}")),
            ("a SEARCH OLD\r\n", &format!("* SEARCH 1 2\r\n{OK}")),
            (
                "a STORE 3 FLAGS (\\Seen)\r\n",
                &format!("* 3 FETCH (FLAGS (\\Seen \\Recent))\r\n{OK}"),
            ),
            ("a SEARCH RECENT\r\n", &format!("* SEARCH 3\r\n{OK}")),
            ("a SEARCH NEW\r\n", &format!("* SEARCH\r\n{OK}")),
        ],
    );
}

#[test]
fn a_folder_may_go_or_be_renamed_under_a_session() {
    let store = inbox();
    let mut owner = logged_in(&store);
    let mut others: Vec<Session> = (0..5).map(|_| logged_in(&store)).collect();
    for session in [&mut owner].into_iter().chain(&mut others) {
        said(session, &store, "a CREATE x\r\n");
        assert!(said(session, &store, "a SELECT x\r\n").ends_with("Selected\r\n"));
    }
    assert_eq!(said(&mut others[0], &store, "a IDLE\r\n"), "+ Idling\r\n");
    talk(
        &mut owner,
        &store,
        &[
            ("a RENAME x y\r\n", OK),
            (
                "a APPEND y {1+}\r\nz\r\n",
                "* 1 EXISTS\r\n* 1 RECENT\r\na OK [APPENDUID 7 1] Completed\r\n",
            ),
        ],
    );
    talk(&mut others[0], &store, &[("", "* 1 EXISTS\r\n* 0 RECENT\r\n")]);
    talk(
        &mut others[1],
        &store,
        &[("a NOOP\r\n", &format!("* 1 EXISTS\r\n* 0 RECENT\r\n{OK}"))],
    );
    talk(
        &mut owner,
        &store,
        &[
            ("a DELETE y\r\n", OK),
            // Whoever deletes what it has selected has nothing selected.
            ("a FETCH 1 FLAGS\r\n", "a BAD Select a mailbox first\r\n"),
        ],
    );
    let bye = "* BYE The selected mailbox was deleted\r\n";
    talk(&mut others[0], &store, &[("", bye)]);
    talk(&mut others[1], &store, &[("a FETCH 1 FLAGS\r\n", bye)]);
    talk(&mut others[2], &store, &[("a NOOP\r\n", bye)]);
    talk(
        &mut others[3],
        &store,
        &[("a LIST \"\" y\r\n", OK), ("a CLOSE\r\n", OK), ("a NOOP\r\n", OK)],
    );
    assert!(said(&mut others[4], &store, "a SELECT INBOX\r\n").ends_with("a OK [READ-WRITE] Selected\r\n"));
}

#[test]
fn a_folder_may_go_while_a_command_is_under_way() {
    for command in [
        "a FETCH 1 BODY[]",
        "a FETCH 1 ENVELOPE",
        "a SEARCH BODY x",
        "a STORE 1 +FLAGS (\\Seen)",
        "a STORE 1 +FLAGS (new)",
        "a EXPUNGE",
        "a CLOSE",
        "a COPY 1 Sent",
        "a MOVE 1 Sent",
        "a APPEND x {1+}\r\nz",
        "a RENAME x y",
        "a DELETE x",
    ] {
        let store = inbox();
        let mut session = logged_in(&store);
        said(
            &mut session,
            &store,
            "a CREATE x\r\na APPEND x (\\Deleted) {1+}\r\nz\r\na SELECT x\r\n",
        );
        session.handle_bytes(format!("{command}\r\nb LOGOUT\r\n").as_bytes());
        let Step::Ask(ask) = step(&mut session, &store) else {
            panic!("{command}")
        };
        let folder = store.folders().by_name("x").expect("made").id;
        store.answer(Ask::Delete(folder));
        session.handle_answer(store.answer(ask));
        let said = said(&mut session, &store, "");
        assert!(said.contains("a OK") || said.contains("a NO"), "{command}: {said}");
        assert!(said.ends_with("b OK Completed\r\n"), "{command}: {said}");
    }
}

#[test]
fn the_quota_is_what_is_left_of_the_pack() {
    let store = inbox();
    let quota = "* QUOTA \"\" (V-POSTERN-VALUE 1 100 V-POSTERN-KEYS 2 64)\r\n";
    talk(
        &mut logged_in(&store),
        &store,
        &[
            ("a GETQUOTA \"\"\r\n", &format!("{quota}{OK}")),
            (
                "a GETQUOTA x\r\n",
                "a NO [NONEXISTENT] There is one quota root, and its name is empty\r\n",
            ),
            (
                "a GETQUOTAROOT Sent\r\n",
                &format!("* QUOTAROOT Sent \"\"\r\n{quota}{OK}"),
            ),
            ("a GETQUOTAROOT nosuch\r\n", NONE),
            (
                "a SETQUOTA \"\" (STORAGE 1)\r\n",
                "a BAD This extension is not offered\r\n",
            ),
        ],
    );
}
