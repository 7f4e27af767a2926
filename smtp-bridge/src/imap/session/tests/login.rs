//! What the greeting offers, logging in, and what is not understood.

use super::*;

#[test]
fn the_greeting_announces_what_can_be_asked_for() {
    let inbox = inbox();
    let mut session = Session::new(&Limits::default());
    let capabilities = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID ENABLE IDLE NAMESPACE UIDPLUS UNSELECT MOVE CONDSTORE \
        CHILDREN SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE QUOTA QUOTA=RES-V-POSTERN-VALUE QUOTA=RES-V-POSTERN-KEYS";
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
                &format!("a OK [CAPABILITY {}] Logged in\r\n", reply::CAPABILITIES),
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
