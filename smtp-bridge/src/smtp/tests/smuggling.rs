//! False ends of a message, and what would be a second message if one of them were taken for a true one.

use super::super::*;
use super::backend::*;

/// What only looks like the end of a text.
fn false_ends() -> Vec<Vec<u8>> {
    let before: [&[u8]; 6] = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\0"];
    let dots: [&[u8]; 3] = [b".", b"..", b"\0."];
    let behind: [&[u8]; 7] = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\0\r\n"];
    let mut forms = Vec::new();
    for before in before {
        for dots in dots {
            for behind in behind {
                let form = [before, dots, behind].concat();
                if !form.windows(5).any(|octets| octets == b"\r\n.\r\n") {
                    forms.push(form);
                }
            }
        }
    }
    forms
}

/// Commands and text that are none of their own.
const SECOND: &[u8] =
    b"MAIL FROM:<x@y>\r\nRCPT TO:<b@relay.test>\r\nDATA\r\nBDAT 3 LAST\r\nQUIT\r\nSubject: smuggled\r\n\r\nx";

/// Everything that was replied behind the envelope, and what was stored.
fn judged<'s>(limits: &Limits, segments: impl IntoIterator<Item = &'s [u8]>) -> (String, Vec<Stored>) {
    let memory = Memory::default();
    let login: &[u8] = match limits.login {
        Login::Required => b"AUTH PLAIN AG1lAHNlY3JldA==\r\n",
        Login::None => b"",
    };
    let begin: [&[u8]; 3] = [b"EHLO x\r\n", login, b"MAIL FROM:<a@b>\r\nRCPT TO:<a@relay.test>\r\n"];
    let replied = memory.converse(limits, begin.into_iter().chain(segments));
    let (_, behind) = replied.split_once("recipient ok\r\n").expect("the envelope is taken");
    (behind.to_owned(), memory.stored())
}

fn is_one_message_or_none(limits: &Limits, (replied, stored): &(String, Vec<Stored>), form: &str) {
    let codes: Vec<&str> = replied.lines().map(|line| &line[..3]).collect();
    match limits.bare_newlines {
        BareNewlines::Refuse => {
            assert!(matches!(codes[..], [.., "250" | "550", "250"]), "{form}: {codes:?}");
            assert_eq!(stored.len(), usize::from(codes[codes.len() - 2] == "250"), "{form}");
        }
        BareNewlines::Normalise => {
            assert!(matches!(codes[..], [.., "250", "250"]), "{form}: {codes:?}");
            assert_eq!(stored.len(), 1, "{form}");
        }
    }
    for message in stored {
        assert_eq!(message.to, ["a@relay.test"], "{form}");
        assert!(
            message.text.contains("Subject: smuggled"),
            "{form}: the text goes on behind it"
        );
        assert!(
            !message.text.replace("\r\n", "").contains(['\r', '\n']),
            "{form}: a bare newline is stored"
        );
    }
}

fn each_at_both_doors(mut judge: impl FnMut(&Limits, &[u8], &str)) {
    let forms = false_ends();
    assert!(forms.len() >= 100, "{}", forms.len());
    for form in forms {
        for limits in [mx(), submission()] {
            judge(&limits, &form, &form.escape_ascii().to_string());
        }
    }
}

#[test]
fn no_false_end_ends_a_text_wherever_it_is_split() {
    each_at_both_doors(|limits, form, name| {
        let text = [b"DATA\r\nfirst", form, SECOND, b"\r\n.\r\nNOOP\r\n"].concat();
        let whole = judged(limits, [&text[..]]);
        is_one_message_or_none(limits, &whole, name);
        let from = b"DATA\r\nfirst".len() - 1;
        for cut in from..=from + form.len() + 2 {
            for second in cut..=from + form.len() + 2 {
                let segments = [&text[..cut], &text[cut..second], &text[second..]];
                assert!(judged(limits, segments) == whole, "{name} at {cut} and {second}");
            }
        }
        assert!(judged(limits, text.chunks(1)) == whole, "{name} octet by octet");
    });
}

#[test]
fn no_false_end_ends_a_chunk_wherever_chunks_and_segments_are_split() {
    each_at_both_doors(|limits, form, name| {
        let text = [b"first", form, SECOND, b"\r\n"].concat();
        let from = b"first".len() - 1;
        for chunk_end in from..=from + form.len() + 2 {
            let (before, behind) = text.split_at(chunk_end);
            let said = [
                format!("BDAT {}\r\n", before.len()).as_bytes(),
                before,
                format!("BDAT {} LAST\r\n", behind.len()).as_bytes(),
                behind,
                b"NOOP\r\n",
            ]
            .concat();
            let whole = judged(limits, [&said[..]]);
            if limits.bare_newlines == BareNewlines::Normalise {
                is_one_message_or_none(limits, &whole, name);
            } else {
                // A chunk that is refused has the one behind it refused too.
                let codes: Vec<&str> = whole.0.lines().map(|line| &line[..3]).collect();
                assert!(
                    matches!(
                        codes[..],
                        ["250", "250", "250"] | ["550", "503", "250"] | ["250", "550", "250"]
                    ),
                    "{name} at {chunk_end}: {codes:?}"
                );
                assert_eq!(whole.1.len(), usize::from(codes[..2] == ["250", "250"]));
            }
            assert!(
                judged(limits, said.chunks(1)) == whole,
                "{name} at {chunk_end}, octet by octet"
            );
            assert!(
                judged(limits, said.chunks(7)) == whole,
                "{name} at {chunk_end}, in sevens"
            );
        }
    });
}

#[test]
fn the_true_end_is_one_wherever_it_is_split() {
    let text = b"DATA\r\nfirst\r\n.\r\nNOOP\r\n";
    for cut in 0..=text.len() {
        let (replied, stored) = judged(&mx(), [&text[..cut], &text[cut..]]);
        assert!(replied.ends_with("250 2.0.0 accepted\r\n250 2.0.0 ok\r\n"), "{replied}");
        assert_eq!(stored[0].text, "first\r\n");
    }
}
