//! How a message is to be mixed is said by a field that goes no further; and its date does not tell when it was accepted.

use super::super::{Mix, redate};
use super::*;

#[test]
fn the_field_says_how_a_message_is_mixed_and_stays_behind() {
    let said = |field: &str| rebuilt(format!("{field}Subject: x\r\n\r\ny\r\n")).map(|rebuilt| rebuilt.mix);
    assert_eq!(said(""), Ok(None));
    for (word, mix) in [
        ("fast", Mix::Fast),
        (" Mixed ", Mix::Mixed),
        ("PARANOID", Mix::Paranoid),
    ] {
        assert_eq!(said(&format!("X-Postern-Mix: {word}\r\n")), Ok(Some(mix)), "{word}");
    }
    let twice = |one: &str, other: &str| said(&format!("X-Postern-Mix: {one}\r\nx-postern-mix: {other}\r\n"));
    assert_eq!(twice("mixed", "mixed"), Ok(Some(Mix::Mixed)));
    assert_eq!(twice("mixed", "fast"), Err(Refusal::Mix));
    assert_eq!(said("X-Postern-Mix: slowly\r\n"), Err(Refusal::Mix));
    assert_eq!(said("X-Postern-Mix:\r\n"), Err(Refusal::Mix));
    assert!(!text("X-Postern-Mix: mixed\r\nSubject: x\r\n\r\ny\r\n").contains("Mix"));
}

#[test]
fn a_rebuilt_message_gets_another_date_and_no_other_change() {
    let once = rebuild(b"Subject: Date: x\r\n\r\nDate: y\r\n", &exit())
        .expect("rebuilt")
        .message;
    let mut again = once.clone();
    redate(&mut again, 86_400);
    let (once, again) = (
        String::from_utf8(once).expect("ASCII"),
        String::from_utf8(again).expect("ASCII"),
    );
    assert_eq!(
        again,
        once.replace(
            "Date: Tue, 14 Nov 2023 22:13:20 +0000",
            "Date: Fri, 2 Jan 1970 00:00:00 +0000"
        )
    );
    assert!(once != again && again.contains("Subject: Date: x") && again.contains("Date: y"));
    for other in ["Subject: x\r\n\r\nDate: y\r\n", "", "Date: "] {
        let mut text = other.as_bytes().to_vec();
        redate(&mut text, 5);
        assert_eq!(text, other.as_bytes());
    }
}
