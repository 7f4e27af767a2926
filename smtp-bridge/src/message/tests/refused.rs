//! What cannot be rebuilt is refused, with the reason.

use super::*;

fn refusal(raw: impl AsRef<[u8]>) -> Option<Refusal> {
    rebuilt(raw).err()
}

/// A multipart of the given kind around one part.
fn multipart(kind: &str, part: &str) -> String {
    format!("Content-Type: multipart/{kind}; boundary=x\r\n\r\n--x\r\n{part}\r\n--x--\r\n")
}

#[test]
fn another_author_is_refused_and_never_rewritten() {
    for (header, expected) in [
        ("From: heron@relay.test", None),
        ("From: Alice <HERON@Relay.Test>", None),
        ("From: \"a\"@localhost", None),
        (
            "Reply-To: heron@relay.test, a@localhost\r\nResent-From: mallory@x.example",
            None,
        ),
        ("Reply-To:", None),
        ("From: mallory@x.example", Some(Refusal::Sender)),
        ("From: other@relay.test", Some(Refusal::Sender)),
        ("From: a@localhost, heron@relay.test", Some(Refusal::Sender)),
        ("From: group: ;", Some(Refusal::Sender)),
        ("From: a", Some(Refusal::Sender)),
        ("From: a@localhost\r\nFrom: a@localhost", Some(Refusal::Sender)),
        ("From: a@localhost\r\nSender: root@box", Some(Refusal::Sender)),
        (
            "From: a@localhost\r\nReply-To: alice@home.example",
            Some(Refusal::ReplyTo),
        ),
        ("Reply-To: (", Some(Refusal::ReplyTo)),
    ] {
        assert_eq!(refusal(format!("{header}\r\n\r\ntext\r\n")), expected, "{header}");
    }
}

#[test]
fn a_header_that_cannot_be_read_is_refused() {
    let recipients = |count: usize| {
        (0..count)
            .map(|number| format!("u{number}@example.org,\r\n "))
            .collect::<String>()
    };
    for (header, expected) in [
        ("To: bob".to_owned(), Some(Refusal::Address)),
        ("To: bób@example.org".to_owned(), Some(Refusal::Address)),
        ("Cc: bob@[192.0.2.1]".to_owned(), Some(Refusal::Address)),
        ("To: bob@example.org\r\nTo: carol@example.org".to_owned(), None),
        (format!("To: {}", recipients(100)), None),
        (
            format!("To: {}\r\nCc: z@example.org", recipients(100)),
            Some(Refusal::TooManyRecipients),
        ),
        ("Subject: a\r\nSubject: b".to_owned(), Some(Refusal::Header)),
        ("Subject: a\r\nno field".to_owned(), Some(Refusal::Header)),
        (
            "From a@localhost Tue Nov 14 2023\r\nSubject: a".to_owned(),
            Some(Refusal::Header),
        ),
        ("Subject: =?x-none?Q?a?=".to_owned(), Some(Refusal::Charset)),
        (
            format!("Subject: {}", "ü".repeat(50_000)),
            Some(Refusal::HeaderTooLarge),
        ),
        (format!("X: {}", "x".repeat(300_000)), Some(Refusal::HeaderTooLarge)),
        ("X: 1\r\n".repeat(50_000) + "X: 2", Some(Refusal::HeaderTooLarge)),
    ] {
        assert_eq!(
            refusal(format!("{header}\r\n\r\ntext\r\n")),
            expected,
            "{}",
            &header[..header.len().min(80)]
        );
    }
    assert_eq!(refusal(b"Subject: caf\xe9\r\n\r\n"), Some(Refusal::Charset));
    assert_eq!(refusal(b"Subject: a\0b\r\n\r\n"), Some(Refusal::Nul));
}

#[test]
fn a_header_behind_no_header_is_refused_by_the_bridge() {
    let header = "From: Alice Liddell <a@localhost>\r\nBcc: c@example.org\r\n\r\ntext\r\n";
    for before in ["\r\n", "\u{feff}", " ", "\r\n \r\n"] {
        assert_eq!(
            refusal(format!("{before}{header}")),
            Some(Refusal::LateHeader),
            "{before:?}"
        );
    }
    assert_eq!(refusal(format!("Subject: forwarded\r\n\r\n{header}")), None);
    assert_eq!(body("\r\nError: disk full\r\n"), "Error: disk full\r\n");
    assert_eq!(body("just text\r\nTo: b\r\n"), "just text\r\nTo: b\r\n");
}

#[test]
fn types_that_carry_an_identity_are_refused() {
    for (part, expected) in [
        ("Content-Type: application/pgp-signature\r\n\r\n", Refusal::Identity),
        (
            "Content-Type: application/x-pkcs7-signature; name=smime.p7s\r\n\r\n",
            Refusal::Signed,
        ),
        ("Content-Type: application/pkcs7-mime\r\n\r\n", Refusal::Encrypted),
        ("Content-Type: application/pgp-keys\r\n\r\n", Refusal::Identity),
        ("Content-Type: application/pgp-encrypted\r\n\r\n", Refusal::Encrypted),
        (
            "Content-Type: message/rfc822\r\n\r\nFrom: a@b\r\n",
            Refusal::AttachedMessage,
        ),
        (
            "Content-Type: application/octet-stream; name=winmail.dat\r\nContent-Transfer-Encoding: base64\r\n\r\neJ8+IgAA\r\nAAAA\r\n",
            Refusal::MediaType,
        ),
        (
            "Content-Type: application/x-odd\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nx=9F>\"=00=00",
            Refusal::MediaType,
        ),
        ("Content-Type: message/partial\r\n\r\n", Refusal::AttachedMessage),
        ("Content-Type: message/external-body\r\n\r\n", Refusal::AttachedMessage),
        (
            "Content-Type: message/delivery-status\r\n\r\n",
            Refusal::AttachedMessage,
        ),
        ("Content-Type: text/rfc822-headers\r\n\r\n", Refusal::AttachedMessage),
        (
            "Content-Type: application/ms-tnef; name=winmail.dat\r\n\r\n",
            Refusal::MediaType,
        ),
        (
            "Content-Type: multipart/appledouble; boundary=y\r\n\r\n",
            Refusal::MediaType,
        ),
    ] {
        assert_eq!(refusal(part), Some(expected), "{part}");
        assert_eq!(refusal(multipart("mixed", part)), Some(expected), "{part}");
        assert_eq!(refusal(multipart("alternative", part)), Some(expected), "{part}");
    }
    assert_eq!(refusal(multipart("signed", "\r\nx")), Some(Refusal::Signed));
    assert_eq!(refusal(multipart("encrypted", "\r\nx")), Some(Refusal::Encrypted));
    assert_eq!(refusal(multipart("digest", "\r\nx")), Some(Refusal::MediaType));
}

#[test]
fn a_body_that_cannot_be_decoded_is_refused() {
    for (part, expected) in [
        (
            &b"Content-Type: text/plain; charset=x-none\r\n\r\nx"[..],
            Refusal::Charset,
        ),
        (
            b"Content-Type: text/plain; charset=utf-8\r\n\r\ncaf\xe9",
            Refusal::Charset,
        ),
        (
            b"Content-Type: text/plain; charset=us-ascii\r\n\r\ncaf\xe9",
            Refusal::Charset,
        ),
        (
            b"Content-Type: text/plain; format=flowed\r\n\r\ncaf\xe9",
            Refusal::Charset,
        ),
        (b"Content-Type: text/html\r\n\r\ncaf\xe9", Refusal::Charset),
        (b"\r\ncaf\xe9\r\n-----BEGIN PGP MESSAGE-----\r\n", Refusal::Charset),
        (
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=E9=00",
            Refusal::Nul,
        ),
        (
            b"Content-Transfer-Encoding: x-uuencode\r\n\r\nx",
            Refusal::TransferEncoding,
        ),
        (
            b"Content-Transfer-Encoding: base64\r\n\r\n-not base64-",
            Refusal::TransferEncoding,
        ),
        (
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n100=%",
            Refusal::TransferEncoding,
        ),
        (
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\na=00b",
            Refusal::Nul,
        ),
        (
            b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n!",
            Refusal::TransferEncoding,
        ),
        (
            b"Content-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: base64\r\n\r\n--x\r\n\r\n",
            Refusal::TransferEncoding,
        ),
        (b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\n", Refusal::Structure),
        (
            b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno delimiter",
            Refusal::Structure,
        ),
        (
            b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nno header\r\n",
            Refusal::Header,
        ),
        (b"Content-Type: plain\r\n\r\n", Refusal::Structure),
        (
            b"Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n",
            Refusal::Header,
        ),
    ] {
        assert_eq!(refusal(part), Some(expected), "{}", String::from_utf8_lossy(part));
    }
    assert_eq!(
        body("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nno close delimiter"),
        "no close delimiter\r\n"
    );
}

#[test]
fn every_bound_has_its_refusal() {
    let nested = |depth: usize| {
        (0..depth).fold("\r\nx".to_owned(), |inner, level| {
            format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n{inner}\r\n--b{level}--\r\n")
        })
    };
    assert_eq!(refusal(nested(10)), None);
    assert_eq!(refusal(nested(11)), Some(Refusal::TooDeep));
    let parts = |count: usize| {
        format!(
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n{}--x--\r\n",
            "--x\r\nContent-Type: a/b\r\n\r\n\r\n".repeat(count)
        )
    };
    assert_eq!(refusal(parts(100)), None);
    assert_eq!(refusal(parts(101)), Some(Refusal::TooManyParts));
    assert_eq!(refusal(parts(100_000)), Some(Refusal::TooManyParts));
    let small = |raw: &str| {
        rebuild(
            raw.as_bytes(),
            &Policy {
                largest: 1_000,
                ..bridge()
            },
        )
        .map(|rebuilt| rebuilt.message.len())
    };
    let smallest = small("\r\n").expect("an empty message");
    assert_eq!(
        small(&("\r\n".to_owned() + &"x\n".repeat((1_000 - smallest) / 3))).map(|length| length > 990),
        Ok(true)
    );
    assert_eq!(small(&("\r\n".to_owned() + &"x\n".repeat(350))), Err(Refusal::TooLarge));
    assert_eq!(small(&("\r\n".to_owned() + &"ü".repeat(200))), Err(Refusal::TooLarge));
    assert_eq!(
        small(&("Content-Type: a/b\r\n\r\n".to_owned() + &"x".repeat(700))),
        Err(Refusal::TooLarge)
    );
    assert_eq!(
        small(&("Content-Type: text/html\r\n\r\n<blockquote>".to_owned() + &"a<br>".repeat(240))),
        Err(Refusal::TooLarge)
    );
}

#[test]
fn every_refusal_says_what_it_is_without_the_message() {
    for refusal in [
        Refusal::Sender,
        Refusal::TooLarge,
        Refusal::Charset,
        Refusal::Signed,
        Refusal::AttachedMessage,
    ] {
        assert!(refusal.reason().len() < 200 && refusal.reason().is_ascii());
        assert!(refusal.enhanced().starts_with("5.") && (552..=554).contains(&refusal.code()));
    }
}
