//! BDAT (RFC 3030), and what may stand between its chunks.

use super::super::*;
use super::backend::*;

const BEGIN: &str = "EHLO x\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\n";

/// Final codes of the replies behind the envelope, and the texts stored.
fn said(limits: &Limits, begin: &str, input: &[u8]) -> (String, Vec<String>) {
    let memory = Memory::default();
    let replied = memory.converse(limits, [begin.as_bytes(), b"VRFY x\r\n", input]);
    let (_, behind) = replied.split_once("252 ").expect("VRFY is answered");
    let codes: Vec<&str> = behind
        .lines()
        .skip(1)
        .filter(|line| line.get(3..4) != Some("-"))
        .map(|line| line.get(..3).filter(|_| line != "closed").unwrap_or("closed"))
        .collect();
    let texts = memory.stored().into_iter().map(|stored| stored.text).collect();
    (codes.join(" "), texts)
}

fn at_mx(input: impl AsRef<[u8]>) -> (String, Vec<String>) {
    said(&mx(), BEGIN, input.as_ref())
}

#[test]
fn chunks_are_joined_and_no_dot_has_a_meaning() {
    for (input, codes, text) in [
        ("BDAT 3 LAST\r\na\r\n", "250", "a\r\n"),
        ("BDAT 0 LAST\r\n", "250", ""),
        ("BDAT 2\r\n.\rBDAT 1\r\n\nBDAT 0 LAST\r\n", "250 250 250", ".\r\n"),
        ("BDAT 5\r\na\r\n.\rBDAT 4 LAST\r\n\n..\r", "250 550", ""),
        ("bdat 6\r\n..\r\n\r\nbdat 5 last\r\n.\r\nx\r", "250 550", ""),
        ("BDAT 7 LAST\r\na\r\n.\r\nb", "250", "a\r\n.\r\nb\r\n"),
        ("BDAT 1 LAST\r\na", "250", "a\r\n"),
        ("BDAT 2\r\na\rBDAT 2 LAST\r\n\nb", "250 250", "a\r\nb\r\n"),
        ("BDAT 4\r\nab\r\nNOOP\r\nBDAT 1 LAST\r\nc", "250 250 250", "ab\r\nc\r\n"),
    ] {
        let (replied, stored) = at_mx(input);
        assert_eq!(replied, codes, "{input}");
        let expected: &[&str] = if codes.contains("550") { &[] } else { &[text] };
        assert_eq!(stored, expected, "{input}");
    }
}

#[test]
fn chunks_out_of_order_are_drained_and_answered_503() {
    for (begin, input, codes) in [
        ("EHLO x\r\n", "BDAT 6 LAST\r\nRSET\r\nNOOP\r\n", "503 250"),
        ("", "BDAT 6\r\nQUIT\r\nNOOP\r\n", "503 250"),
        (
            "EHLO x\r\nMAIL FROM:<>\r\n",
            "BDAT 6\r\nQUIT\r\nRCPT TO:<a@relay.test>\r\n",
            "503 250",
        ),
        (
            BEGIN,
            "BDAT 1\r\naDATA\r\nRCPT TO:<b@relay.test>\r\nMAIL FROM:<>\r\nBDAT 0 LAST\r\n",
            "250 503 503 503 250",
        ),
        (BEGIN, "BDAT 1 LAST\r\naBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250 503 250"),
        (
            BEGIN,
            "BDAT 1\r\naRSET\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
            "250 250 503 250",
        ),
        (
            BEGIN,
            "BDAT 1\r\naEHLO y\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
            "250 250 503 250",
        ),
        (
            BEGIN,
            "BDAT 1\r\naHELO y\r\nMAIL FROM:<>\r\nQUIT\r\n",
            "250 250 250 221 closed",
        ),
        (BEGIN, "BDAT 1\r\naQUIT\r\n", "250 221 closed"),
    ] {
        let (replied, stored) = said(&mx(), begin, input.as_bytes());
        assert_eq!(replied, codes, "{input}");
        assert!(stored.iter().all(|text| text == "a\r\n"), "{input}: {stored:?}");
    }
    let (replied, _) = said(&submission(), "EHLO x\r\n", b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    assert_eq!(replied, "530 250");
}

#[test]
fn a_message_that_was_begun_again_has_nothing_of_the_first() {
    let input = "BDAT 3\r\none\
        RSET\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nBDAT 5 LAST\r\ntwo\r\n";
    let (replied, stored) = at_mx(input);
    assert_eq!(replied, "250 250 250 250 250");
    assert_eq!(stored, ["two\r\n"]);
}

#[test]
fn a_size_that_is_too_much_is_told_before_it_is_read() {
    let most = "x".repeat(SIZE_MAX as usize - 2);
    let whole = format!("BDAT {SIZE_MAX} LAST\r\n{most}\r\n");
    assert_eq!(at_mx(whole).0, "250");
    let more = format!("BDAT {} LAST\r\n{most}x\r\nNOOP\r\n", SIZE_MAX + 1);
    assert_eq!(at_mx(more), ("552 250".to_owned(), Vec::new()));
    let sum = format!("BDAT {SIZE_MAX}\r\n{most}\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n");
    assert_eq!(at_mx(sum), ("250 552 503 250".to_owned(), Vec::new()));
    // The line end that is added counts.
    let ended = format!("BDAT {SIZE_MAX} LAST\r\n{most}xx");
    assert_eq!(at_mx(ended), ("552".to_owned(), Vec::new()));
    for endless in [limits::DRAIN_MAX + 1, u64::MAX] {
        assert_eq!(at_mx(format!("BDAT {endless}\r\nQUIT\r\n")).0, "552 closed");
    }
    assert_eq!(at_mx("BDAT 99999999999999999999\r\n").0, "552 closed");
}

#[test]
fn chunks_sent_behind_a_failed_one_are_drained_however_many() {
    let failed = format!("BDAT 2\r\na\n{}NOOP\r\n", "BDAT 6\r\nQUIT\r\n".repeat(100));
    let (replied, stored) = at_mx(failed);
    assert_eq!(replied, format!("550{} 250", " 503".repeat(100)));
    assert!(stored.is_empty());
    let poisoned = "BDAT 8\r\nPOISON\r\nBDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<>\r\n";
    assert_eq!(at_mx(poisoned), ("451 503 250".to_owned(), Vec::new()));
    let unasked = format!("EHLO x\r\n{}", "BDAT 6\r\nQUIT\r\n".repeat(100));
    assert!(said(&mx(), "", unasked.as_bytes()).0.ends_with("503 421 closed"));
}

#[test]
fn a_bridge_mends_bare_newlines_across_chunks() {
    let begin = format!(
        "EHLO x\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\n{}",
        &BEGIN["EHLO x\r\n".len()..]
    );
    let input = b"BDAT 2\r\na\rBDAT 2\r\nb\rBDAT 3\r\n\nc\nBDAT 2 LAST\r\nd\r";
    let (replied, stored) = said(&submission(), &begin, input);
    assert_eq!(replied, "250 250 250 250");
    assert_eq!(stored, ["a\r\nb\r\nc\r\nd\r\n"]);
}

#[test]
fn who_only_talks_is_sent_away_in_the_end() {
    let most = "NOOP\r\n".repeat(limits::IDLE_COMMANDS_MAX as usize - 4);
    let (replied, _) = at_mx(&most);
    assert!(replied.ends_with("250 250"));
    let (replied, _) = at_mx(format!("{most}NOOP\r\nNOOP\r\n"));
    assert!(replied.ends_with("250 421 closed"));
    let message = "MAIL FROM:<>\r\nRCPT TO:<a@relay.test>\r\nBDAT 0 LAST\r\n";
    let (replied, stored) = said(&mx(), "EHLO x\r\n", message.repeat(10_000).as_bytes());
    assert!(replied.ends_with("250"));
    assert_eq!(stored.len(), 10_000);
}
