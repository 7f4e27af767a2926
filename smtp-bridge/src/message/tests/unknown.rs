//! Text whose charset nobody named.

use super::super::{Place, Traces, Warning};
use super::*;

const HEADER: &[u8] =
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";

fn left(raw: &[u8]) -> Option<Vec<u8>> {
    let message = rebuilt(raw).ok()?.message;
    let start = memchr::memmem::find(&message, HEADER)? + HEADER.len();
    Some(message[start..].to_vec())
}

#[test]
fn octets_of_no_charset_leave_as_they_came() {
    let all: Vec<u8> = (128..=255).collect();
    let bodies = [
        [&all[..], b"\r\n"].concat(),
        b"caf\xe9\r\n\r\n \x01 From me\r\n.\r\n--=_part\r\n".to_vec(),
        [&vec![0xe9; 998][..], b"\r\n"].concat(),
        b"\r\n\xef\xbb\xbf\xe9 \r\n".to_vec(),
    ];
    for header in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: text\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Content-Type: text/plain; charset=Unknown-8bit\r\n",
        "Content-Type: text/plain; charset=\"\"\r\n",
    ] {
        for body in &bodies {
            let raw = [b"Subject: x\r\n", header.as_bytes(), b"\r\n", body].concat();
            assert_eq!(left(&raw).as_ref(), Some(body), "{header}");
            let message = rebuilt(&raw).expect("rebuilt").message;
            let at_exit = rebuild(&message, &exit()).expect("the exit takes it").message;
            assert!(at_exit.ends_with(&message), "the exit adds fields in front");
        }
    }
    let raw = b"Subject: x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ncaf=E9\r\nb=\r\nc";
    assert_eq!(left(raw).as_deref(), Some(&b"caf\xe9\r\nbc\r\n"[..]));
    assert_eq!(
        left(b"Subject: x\r\n\r\ncaf\xe9\nb\rc").as_deref(),
        Some(&b"caf\xe9\r\nb\r\nc\r\n"[..])
    );
}

#[test]
fn it_loses_what_other_text_loses_and_its_sender_is_told() {
    let raw = b"Subject: x\r\n\r\n\xef\xbb\xbf\xef\xbb\xbf\r\ncaf\xe9 \xef\xbb\xbf\r\n\r\n\n\r";
    assert_eq!(left(raw).as_deref(), Some(&b"\r\ncaf\xe9 \xef\xbb\xbf\r\n"[..]));
    assert_eq!(rebuilt(raw).expect("rebuilt").warnings, [Warning::UnknownCharset]);
    assert_eq!(rebuilt("\r\ncaf\u{e9}").expect("rebuilt").warnings, []);
}

#[test]
fn what_is_utf_8_or_stands_beside_other_parts_is_no_such_text() {
    assert!(text("Content-Type: text/plain; charset=unknown-8bit\r\n\r\ncaf\u{e9}").contains("charset=utf-8"));
    let beside = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\ncaf\xe9\r\n--x\r\nContent-Type: image/png\r\n\r\ny\r\n--x--\r\n";
    assert!(matches!(rebuilt(beside), Err(Refusal::Charset)));
    let two = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\ncaf\xe9\r\n--x\r\n\r\ny\r\n--x--\r\n";
    assert!(matches!(rebuilt(two), Err(Refusal::Charset)));
    let long = [
        &b"Subject: x\r\nContent-Transfer-Encoding: base64\r\n\r\n"[..],
        &b"6enp".repeat(400),
    ]
    .concat();
    assert!(matches!(rebuilt(long), Err(Refusal::Charset)), "its lines are too long");
}

#[test]
fn a_trace_is_found_in_it_however_it_is_read() {
    let traces = Traces::new(&["me@work.example", "M\u{fc}ller Liddell"]);
    let policy = Policy {
        traces: &traces,
        ..bridge()
    };
    let filled = |filling: usize, end: &[u8]| [vec![0xe9; filling], end.to_vec()].concat();
    let behind = |lines: usize| {
        [
            &filled(99, b"\r\n").repeat(lines)[..],
            b"M\xfcller\r\n>\r\n> Liddell\r\n",
        ]
        .concat()
    };
    let far = behind(2_000);
    for (body, place) in [
        (&b"caf\xe9\r\nfrom me@work.example"[..], Place::Text(2)),
        (b"caf\xe9\r\n> me@work.example", Place::Quote(2)),
        (b"M\xfcller\r\nLiddell", Place::Text(1)),
        (b"caf\xe9 M\xc3\xbcller Liddell", Place::Text(1)),
        (&far, Place::Text(2_001)),
    ] {
        let raw = [b"Subject: x\r\n\r\n", body].concat();
        let found = rebuild(&raw, &policy).err();
        assert_eq!(found, Some(Refusal::Trace(place)));
        let passed = [b"X-Postern-Pass: traces\r\n", &raw[..]].concat();
        assert!(rebuild(&passed, &policy).is_ok(), "asked for");
    }
    // Over the end of a block.
    for lines in 640..660 {
        let raw = [b"Subject: x\r\n\r\n", &behind(lines)[..]].concat();
        let found = rebuild(&raw, &policy).err();
        assert_eq!(found, Some(Refusal::Trace(Place::Text(lines + 1))));
    }
}
