//! The user's real addresses and names, wherever they stand in a letter.

use super::super::{Html, Place, Traces};
use super::*;

fn place(raw: impl AsRef<[u8]>) -> Option<Place> {
    place_with(Html::Keep, raw)
}

fn place_with(html: Html, raw: impl AsRef<[u8]>) -> Option<Place> {
    let traces = Traces::new(&["me@work.example", "Alice Liddell"]);
    let policy = Policy {
        traces: &traces,
        html,
        ..bridge()
    };
    match rebuild(raw.as_ref(), &policy) {
        Err(Refusal::Trace(place)) => Some(place),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[test]
fn a_trace_is_told_by_its_place() {
    let file = |name: &str, content: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\nContent-Type: image/png\r\n\r\n\r\n\
            --x\r\nContent-Type: text/x-patch; name=\"{name}\"\r\n\r\n{content}\r\n--x--\r\n"
        )
    };
    for (letter, expected) in [
        (
            "Subject: ask =?utf-8?Q?ME=40work=2Eexample?=\r\n\r\n".to_owned(),
            Place::Subject,
        ),
        (
            "To: \"Liddell\" <b@x.example>, =?utf-8?Q?Alice_Liddell?= <c@x.example>\r\n\r\n".to_owned(),
            Place::Recipients,
        ),
        ("Cc: me@WORK.example\r\n\r\n".to_owned(), Place::Recipients),
        ("\r\nhello\r\n\r\n-- \r\nAlice Liddell\r\n".to_owned(), Place::Text(4)),
        (
            "\r\nOn Monday, bob wrote:\r\n> To: me+x@work.example\r\n".to_owned(),
            Place::Quote(2),
        ),
        (
            "Content-Transfer-Encoding: quoted-printable\r\n\r\nm=65=40work.=\r\nexample\r\n".to_owned(),
            Place::Text(1),
        ),
        (
            "Content-Type: text/html\r\n\r\nhello &#97;lice<br>&nbsp;Lidd<b>ell</b>".to_owned(),
            Place::Text(1),
        ),
        (
            "Content-Type: text/html\r\n\r\n<a href=\"mailto:me%40work.example\">hello</a>".to_owned(),
            Place::Html,
        ),
        (file("alice liddell.patch", "x"), Place::FileName(2)),
        (file("0001.patch", "From: A <me@work.example>"), Place::File(2)),
    ] {
        assert_eq!(place(&letter), Some(expected), "{letter}");
        assert_eq!(place(format!("X-Postern-Pass: traces\r\n{letter}")), None, "{letter}");
    }
    assert_eq!(
        place("From: Alice Liddell <a@localhost>\r\nX-Me: me@work.example\r\n\r\nhello\r\n"),
        None
    );
}

#[test]
fn the_refusal_repeats_nothing_and_says_what_to_do() {
    for place in [
        Place::Subject,
        Place::Recipients,
        Place::Text(123_456),
        Place::Quote(123_456),
        Place::Html,
        Place::FileName(99),
        Place::File(99),
        Place::Signed,
        Place::Signature,
    ] {
        let refusal = Refusal::Trace(place);
        assert!(refusal.reason().len() < 200 && refusal.reason().is_ascii());
        assert!(refusal.reason().contains(&place.to_string()) && refusal.reason().contains("X-Postern-Pass: traces"));
        assert_eq!((refusal.code(), refusal.enhanced()), (554, "5.7.1"));
    }
}

#[test]
fn a_trace_in_a_signed_part_is_found_though_its_signature_passes() {
    let letter = |switch: &str| {
        format!(
            "X-Postern-Pass: {switch}\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\nX-From: me@work.example\r\n\r\nhello\r\n\
            --x\r\nContent-Type: application/pkcs7-signature\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--x--\r\n"
        )
    };
    assert_eq!(place(letter("signed")), Some(Place::Signed));
    assert_eq!(place(letter("signed, traces")), None);
}

/// A signed letter around this part, with a signature of these octets in base64.
fn signed(switch: &str, part: &str, signature: &str) -> String {
    format!(
        "X-Postern-Pass: {switch}\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n{part}\r\n\
        --x\r\nContent-Type: application/pkcs7-signature\r\nContent-Transfer-Encoding: base64\r\n\r\n{signature}\r\n--x--\r\n"
    )
}

#[test]
fn no_encoding_hides_a_trace_in_what_is_signed() {
    let html = |encoding: &str, html: &str| {
        format!(
            "Content-Type: multipart/alternative; boundary=y\r\n\r\n--y\r\n\r\nhello\r\n\
            --y\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{html}\r\n--y--"
        )
    };
    for part in [
        // <p>Alice Liddell</p>
        html("base64", "PHA+QWxpY2UgTGlkZGVsbDwvcD4="),
        html("quoted-printable", "<p>Alice=20Lid=\r\ndell</p>"),
        html("7bit", "<p>Ali<b>ce</b> L&#105;ddell</p>"),
        "Subject: =?utf-8?B?QWxpY2UgTGlkZGVsbA==?=\r\n\r\nhello".to_owned(),
        "From: =?utf-8?Q?Alice?= =?utf-8?Q?_Liddell?= <x@y.example>\r\n\r\nhello".to_owned(),
        "Content-Type: image/png; name*=utf-8''Alice%20Liddell.png\r\n\r\nhello".to_owned(),
        "Content-Type: text/plain; x*0=\"me@wo\"; x*1=\"rk.example\"\r\n\r\nhello".to_owned(),
        "Content-Type: text/calendar\r\nContent-Transfer-Encoding: base64\r\n\r\nbWVAd29yay5leGFtcGxl".to_owned(),
        // The same in UTF-16.
        "Content-Type: text/calendar; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         AG0AZQBAAHcAbwByAGsALgBlAHgAYQBtAHAAbABl"
            .to_owned(),
    ] {
        // HTML that does not leave otherwise is not looked through otherwise.
        let found = place_with(Html::Drop, signed("signed", &part, "AAAA"));
        assert!(found.is_some(), "{part}");
        assert_eq!(place(signed("signed, traces", &part, "AAAA")), None, "{part}");
    }
    assert_eq!(
        place(signed("signed", &html("base64", "PHA+QWxpY2U8L3A+"), "AAAA")),
        None
    );
}

#[test]
fn a_trace_is_found_in_the_signature_itself() {
    // An RDN of a certificate: SET, SEQUENCE, the name of commonName, UTF8String "Alice Liddell", and the next SET.
    let signature = "MRYwFAYDVQQDDA1BbGljZSBMaWRkZWxsMRAwDg==";
    assert_eq!(place(signed("signed", "\r\nhello", signature)), Some(Place::Signature));
    assert_eq!(place(signed("signed traces", "\r\nhello", signature)), None);
    let file = format!(
        "X-Postern-Pass: signed\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\n\
        Content-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n{signature}\r\n--x--\r\n"
    );
    assert_eq!(place(file), Some(Place::File(1)));
}
