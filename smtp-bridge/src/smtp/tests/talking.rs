use proptest::prelude::*;

use super::super::*;
use super::backend::*;

/// The codes of the replies to `input`, the greeting left out.
fn codes(limits: &Limits, input: impl AsRef<[u8]>) -> String {
    let replied = Memory::default().converse(limits, [input.as_ref()]);
    let finals = replied.split("\r\n").filter(|line| line.get(3..4) != Some("-"));
    finals
        .skip(1)
        .map(|line| {
            line.get(..3)
                .map_or("", |code| if line == "closed" { "closed" } else { code })
        })
        .fold(String::new(), |codes, code| {
            if codes.is_empty() || code.is_empty() {
                codes + code
            } else {
                codes + " " + code
            }
        })
}

#[test]
fn commands_are_answered_as_rfc_5321_orders_them() {
    for (input, expected) in [
        ("MAIL FROM:<>\r\n", "503"),
        (
            "HELO x\r\nRCPT TO:<a@relay.test>\r\nDATA\r\nMAIL FROM:<>\r\nDATA\r\nMAIL FROM:<>\r\n",
            "250 503 503 250 503 503",
        ),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@relay.test>\r\n",
            "250 250 250 503",
        ),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nEHLO x\r\nRCPT TO:<a@relay.test>\r\n",
            "250 250 250 503",
        ),
        ("RSET\r\nMAIL FROM:<>\r\n", "250 503"),
        (
            "NOOP x\r\nHELP\r\nVRFY a\r\nVRFY b\r\nEXPN l\r\nFOO\r\n\r\n",
            "250 214 252 252 502 500 500",
        ),
        ("NOOP\nRSET\n", ""),
        ("NOOP\rRSET\r\nNOOP\r\n", "500 250"),
        ("QUIT\r\nNOOP\r\n", "221 closed"),
        ("EHLO x\r\nMAIL FROM:<> SIZE=2000\r\n", "250 250"),
        (
            "EHLO x\r\nMAIL FROM:<> SIZE=2001\r\nMAIL FROM:<> SIZE=99999999999999999999\r\n",
            "250 552 552",
        ),
        (
            "EHLO x\r\nMAIL FROM:<> AUTH=<>\r\nAUTH PLAIN AGEAYg==\r\n",
            "250 555 502",
        ),
        ("EHLO x\r\nSTARTTLS\r\n", "250 502"),
        (
            "EHLO x\r\nMAIL FROM:<\u{e9}@b>\r\nMAIL FROM:<\u{e9}@b> SMTPUTF8\r\nRCPT TO:<\u{e9}@relay.test>\r\n",
            "250 553 250 250",
        ),
        (
            "EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<a@r\u{e9}lay.test>\r\nRCPT TO:<a@\u{ff52}elay.test>\r\n",
            "250 250 550 550",
        ),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<\u{e9}@relay.test>\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@relay.test> ORCPT=rfc822;a@b\r\n",
            "250 250 553 250 250 555",
        ),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nRCPT TO:<a@foreign.example>\r\n",
            "250 250 250 550",
        ),
    ] {
        assert_eq!(codes(&mx(), input), expected, "{input}");
    }
}

#[test]
fn ehlo_shows_the_domain_and_what_is_offered_and_nothing_else() {
    let offer = "220 relay.test ESMTP\r\n250-relay.test\r\n250-PIPELINING\r\n250-SIZE 2000\r\n250-8BITMIME\r\n";
    let mx_says = Memory::default().converse(&mx(), [&b"EHLO me\r\n"[..]]);
    assert_eq!(
        mx_says,
        format!("{offer}250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n")
    );
    let secret = Limits { starttls: true, ..mx() };
    let secret_mx_says = Memory::default().converse(&secret, [&b"EHLO me\r\n"[..]]);
    assert!(
        secret_mx_says.ends_with("250-SMTPUTF8\r\n250 STARTTLS\r\n"),
        "{secret_mx_says}"
    );
    let submission_says = Memory::default().converse(&submission(), [&b"EHLO me\r\n"[..]]);
    assert_eq!(
        submission_says,
        format!("{offer}250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250 AUTH PLAIN LOGIN\r\n")
    );
}

#[test]
fn which_reports_are_wanted_is_kept_with_each_recipient_of_the_message() {
    let limits = submission();
    let mut session = Session::new(&limits);
    let show = |session: &mut Session<'_>, line: &str| {
        let (used, event) = session.handle(line.as_bytes());
        assert_eq!(used, line.len(), "{line}");
        match event {
            Some(Event::Auth(_)) => session.answer_auth(true),
            Some(Event::Mail(path, _)) => session.answer_mail(path, Ok(())),
            Some(Event::Rcpt(path)) if path.to_string().starts_with("no") => {
                session.answer_rcpt(path, Err(replies::UNKNOWN_RECIPIENT));
            }
            Some(Event::Rcpt(path)) => session.answer_rcpt(path, Ok(())),
            _ => {}
        }
        String::from_utf8(session.take_output()).expect("ASCII")
    };
    for line in [
        "EHLO x\r\n",
        "AUTH PLAIN AGEAYg==\r\n",
        "MAIL FROM:<a@b> RET=FULL ENVID=one\r\n",
        "RSET\r\n",
        "MAIL FROM:<a@b> ENVID=QQ+2B1\r\n",
        "RCPT TO:<c@d> NOTIFY=NEVER\r\n",
        "RCPT TO:<no@d> NOTIFY=SUCCESS ORCPT=rfc822;x@y\r\n",
        "RCPT TO:<e@d>\r\n",
        "RCPT TO:<c@d> NOTIFY=DELAY\r\n",
    ] {
        show(&mut session, line);
    }
    assert!(show(&mut session, "RCPT TO:<f@d> NOTIFY=SUCCESS,NEVER\r\n").starts_with("501 5.5.4 "));
    show(&mut session, "RCPT TO:<g@d> NOTIFY=SUCCESS ORCPT=rfc822;x+2By@z\r\n");
    let reports = session.reports();
    assert_eq!(reports.envelope_id.as_deref(), Some("QQ+1"));
    let said: Vec<_> = reports
        .recipients
        .iter()
        .map(|one| (one.wishes.bits(), one.original.as_deref()))
        .collect();
    assert_eq!(said, [(1, None), (0, None), (2, Some("rfc822;x+y@z"))]);
    assert_eq!(session.recipients().len(), 3);
    show(&mut session, "RSET\r\n");
    assert_eq!(*session.reports(), Reports::default());
}

#[test]
fn overlong_lines_are_answered_once_and_drained() {
    let line = |length: usize| format!("NOOP {}\r\n", "x".repeat(length - 7));
    assert_eq!(codes(&mx(), line(limits::LINE_MAX) + "NOOP\r\n"), "250 250");
    assert_eq!(codes(&mx(), line(limits::LINE_MAX + 1) + "NOOP\r\n"), "500 250");
    assert_eq!(codes(&mx(), line(1_000_000) + "NOOP\r\n"), "500 250");
    let in_exchange = format!("EHLO x\r\nAUTH LOGIN\r\n{}NOOP\r\n", line(9_999));
    assert_eq!(codes(&submission(), in_exchange), "250 334 500 250");
}

#[test]
fn whoever_keeps_failing_is_sent_away() {
    let times = |count: u32, line: &str| line.repeat(count as usize);
    assert!(codes(&mx(), times(limits::BAD_COMMANDS_MAX, "FOO\r\n")).ends_with("500 500"));
    assert!(codes(&mx(), times(limits::BAD_COMMANDS_MAX + 9, "FOO\r\n")).ends_with("500 500 421 closed"));
    let begin = "EHLO x\r\nMAIL FROM:<>\r\n";
    let guesses = |count| begin.to_owned() + &times(count, "RCPT TO:<a1@relay.test>\r\n");
    assert!(codes(&mx(), guesses(limits::REFUSED_RECIPIENTS_MAX)).ends_with("550 550"));
    assert!(codes(&mx(), guesses(limits::REFUSED_RECIPIENTS_MAX + 9)).ends_with("550 550 421 closed"));
    assert!(codes(&mx(), times(10_000, "RSET\r\n")).ends_with("250 250"));
}

#[test]
fn recipients_are_counted_and_kept_once() {
    let memory = Memory::default();
    let repeated = "RCPT TO:<a@relay.test>\r\nRCPT TO:<a@RELAY.test>\r\nRCPT TO:<\"a\"@relay.test>\r\n".repeat(33);
    let input = format!(
        "EHLO x\r\nMAIL FROM:<>\r\n{repeated}RCPT TO:<b@relay.test>\r\nRCPT TO:<c@relay.test>\r\nDATA\r\n.\r\n"
    );
    let replied = memory.converse(&mx(), [input.as_bytes()]);
    assert!(replied.ends_with("250 2.1.5 recipient ok\r\n452 4.5.3 too many recipients\r\n354 end with <CRLF>.<CRLF>\r\n250 2.0.0 accepted\r\n"), "{replied}");
    assert_eq!(memory.stored()[0].to, ["a@relay.test", "b@relay.test"]);
}

#[test]
fn authentication_is_required_once_and_bounded() {
    let hello = "EHLO x\r\n";
    for (input, expected) in [
        ("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", "530 503"),
        (
            "AUTH\r\nAUTH NOSUCH\r\nAUTH PLAIN !!!!\r\nAUTH PLAIN\r\n*\r\nNOOP\r\n",
            "501 504 501 334 501 250",
        ),
        ("AUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<> AUTH=<>\r\n", "235 250"),
        (
            "auth plain\r\nAG1lAHNlY3JldA==\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\n",
            "334 235 503",
        ),
        (
            "AUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<a@b> SMTPUTF8\r\nMAIL FROM:<a@b>\r\nRCPT TO:<\u{e9}@b>\r\n",
            "235 555 250 553",
        ),
        ("AUTH PLAIN =\r\nAUTH LOGIN\r\nbWU=\r\nc2VjcmV0\r\n", "501 334 334 235"),
        ("AUTH LOGIN bWU=\r\nc2VjcmV0\r\n", "334 235"),
        (
            "AUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<>\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\n",
            "235 250 503",
        ),
        (
            "AUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<a@somebody-else.test>\r\n",
            "235 550",
        ),
    ] {
        assert_eq!(
            codes(&submission(), format!("{hello}{input}")),
            format!("250 {expected}"),
            "{input}"
        );
    }
    assert_eq!(codes(&submission(), "AUTH PLAIN AG1lAHNlY3JldA==\r\n"), "503");
    let wrong = "AUTH PLAIN AG1lAHdyb25n\r\n";
    assert_eq!(
        codes(&submission(), hello.to_owned() + &wrong.repeat(4)),
        "250 535 535 535 421 closed"
    );
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_the_same_words() {
    let said =
        |attempt: &str| Memory::default().converse(&submission(), [format!("EHLO x\r\n{attempt}\r\n").as_bytes()]);
    assert_eq!(said("AUTH PLAIN AG1lAHdyb25n"), said("AUTH PLAIN AG5vYm9keQBzZWNyZXQ="));
}

#[test]
fn nothing_that_was_said_before_tls_counts_under_it() {
    let secret = Limits { starttls: true, ..mx() };
    let segments = |segments: &[&str]| {
        let memory = Memory::default();
        memory.converse(&secret, segments.iter().map(|segment| segment.as_bytes()))
    };
    let shaken = segments(&[
        "EHLO x\r\nMAIL FROM:<>\r\nSTARTTLS\r\n",
        "RCPT TO:<a@relay.test>\r\nMAIL FROM:<>\r\n",
        "EHLO x\r\nSTARTTLS\r\n",
    ]);
    let (before, under) = shaken.split_once("220 2.0.0 ready to start TLS\r\n").expect("agreed");
    assert!(before.contains("STARTTLS"));
    assert!(
        under.starts_with("503 5.5.1 bad sequence of commands\r\n503 "),
        "{under}"
    );
    assert!(
        !under.contains("STARTTLS") && under.ends_with("503 5.5.1 bad sequence of commands\r\n"),
        "{under}"
    );

    for injected in ["NOOP\r\n", "E", "\r\n", "STARTTLS\r\n"] {
        let said = segments(&[&format!("EHLO x\r\nSTARTTLS\r\n{injected}")]);
        assert!(
            said.ends_with("421 4.7.0 nothing may follow STARTTLS\r\nclosed"),
            "{said}"
        );
    }
    let between_chunks = segments(&[
        "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@relay.test>\r\nBDAT 1\r\na",
        "STARTTLS\r\n",
    ]);
    assert!(between_chunks.ends_with("503 5.5.1 bad sequence of commands\r\n"));
}

/// Sends `text` as a message of an MX or submission session, followed by NOOP.
fn sent(limits: &Limits, text: &[u8]) -> (String, Vec<Stored>) {
    let memory = Memory::default();
    let login: &[u8] = if limits.login == Login::Required {
        b"AUTH PLAIN AG1lAHNlY3JldA==\r\n"
    } else {
        b""
    };
    let begin = b"MAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nDATA\r\n";
    let replied = memory.converse(limits, [b"EHLO x\r\n", login, begin, text, b"\r\n.\r\nNOOP\r\n"]);
    let (_, replied) = replied
        .split_once("354 end with <CRLF>.<CRLF>\r\n")
        .expect("DATA goes on");
    (replied.to_owned(), memory.stored())
}

#[test]
fn text_is_stored_octet_for_octet() {
    let every_octet: Vec<u8> = (0..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let long_line = [b'z'; 1_900];
    for text in [
        &b""[..],
        b"a\r\n\r\nb",
        &every_octet,
        &long_line,
        b" .\r\n..\r\n\tFrom x\r\n",
    ] {
        let stuffed = text
            .split(|octet| *octet == b'\n')
            .map(|line| {
                if line.starts_with(b".") {
                    [b".", line].concat()
                } else {
                    line.to_vec()
                }
            })
            .collect::<Vec<_>>()
            .join(&b'\n');
        let (replied, stored) = sent(&mx(), &stuffed);
        assert_eq!(replied, "250 2.0.0 accepted\r\n250 2.0.0 ok\r\n");
        let expected: String = text
            .iter()
            .map(|octet| char::from(*octet))
            .chain("\r\n".chars())
            .collect();
        assert_eq!(stored[0].text, expected);
    }
}

#[test]
fn bare_newlines_are_refused_by_the_mx_and_mended_by_the_bridge() {
    for text in [
        &b"a\nb"[..],
        b"a\rb",
        b"a\n.\nb",
        b"a\r\n.\nb",
        b"a\n.\r\nMAIL FROM:<smuggled@x>",
    ] {
        let (replied, stored) = sent(&mx(), text);
        assert_eq!(replied, "550 5.6.0 bare CR or LF in the text\r\n250 2.0.0 ok\r\n");
        assert!(stored.is_empty());

        let (replied, stored) = sent(&submission(), text);
        assert_eq!(replied, "250 2.0.0 accepted\r\n250 2.0.0 ok\r\n");
        assert!(!stored[0].text.replace("\r\n", "").contains(['\r', '\n']));
    }
    assert_eq!(sent(&submission(), b"a\nb\rc").1[0].text, "a\r\nb\r\nc\r\n");
}

#[test]
fn text_beyond_the_size_is_drained_and_refused() {
    let most = [b'x'; SIZE_MAX as usize - 2];
    assert_eq!(sent(&mx(), &most).1.len(), 1);
    let (replied, stored) = sent(&mx(), &[&most[..], b"x"].concat());
    assert_eq!(replied, "552 5.3.4 message too big\r\n250 2.0.0 ok\r\n");
    assert!(stored.is_empty());
}

#[test]
fn a_receivers_refusal_is_given_after_the_text() {
    let (replied, stored) = sent(&mx(), b"a\r\nPOISON\r\nb");
    assert_eq!(
        replied,
        "451 4.3.0 temporary failure, try again later\r\n250 2.0.0 ok\r\n"
    );
    assert!(stored.is_empty());
}

/// Pieces that meet every corner of the grammar when they are put in a row.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"EHLO x\r\n"[..],
        b"AUTH PLAIN AG1lAHNlY3JldA==\r\n",
        b"AUTH LOGIN\r\n",
        b"bWU=\r\n",
        b"c2VjcmV0\r\n",
        b"*\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<a@relay.test>\r\n",
        b"RCPT TO:<a1@relay.test>\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"STARTTLS\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 3\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 700\r\n",
        b"BDAT 3000 LAST\r\n",
        b"MAIL FROM:<\xc3\xa9@b> SMTPUTF8\r\n",
        b"text",
        b"..",
        b"\r\n.\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\xff",
        b"QUIT",
        &[b'x'; 700],
    ]);
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| [b"EHLO x\r\n", &pieces.concat()[..]].concat())
}

proptest! {
    #[test]
    fn replies_and_messages_do_not_depend_on_segments(
        input in pieces(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        mended in any::<bool>(),
    ) {
        // Without TLS: whether something follows STARTTLS is just what segments show.
        let limits = if mended { submission() } else { mx() };
        let (whole, cut) = (Memory::default(), Memory::default());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len())).chain([0, input.len()]).collect();
        cuts.sort_unstable();
        let segments = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]);
        prop_assert_eq!(whole.converse(&limits, [&input[..]]), cut.converse(&limits, segments));
        prop_assert_eq!(whole.stored(), cut.stored());
    }

    #[test]
    fn nothing_panics(input in pieces(), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&input);
        fuzz(&noise);
        fuzz_reply(&noise);
    }
}
