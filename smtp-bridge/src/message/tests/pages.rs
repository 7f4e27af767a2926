//! HTML that its sender wants to keep.

use super::super::Html;
use super::*;

fn kept(raw: impl AsRef<[u8]>) -> String {
    super::super::fuzz(raw.as_ref());
    let policy = Policy {
        html: Html::Keep,
        ..bridge()
    };
    let message = rebuild(raw.as_ref(), &policy).expect("the message is rebuilt").message;
    String::from_utf8(message).expect("ASCII")
}

/// The same page from three composers, with a picture in it and a file beside it.
fn pages() -> [String; 3] {
    let thunderbird = "Content-Type: multipart/mixed; boundary=\"------------m\"\r\n\r\n--------------m\r\n\
        Content-Type: multipart/alternative; boundary=\"------------a\"\r\n\r\n--------------a\r\n\
        Content-Type: text/plain; charset=UTF-8; format=flowed\r\n\r\nHello Bob,\r\nsee below.\r\n--------------a\r\n\
        Content-Type: multipart/related; boundary=\"------------r\"\r\n\r\n--------------r\r\n\
        Content-Type: text/html; charset=UTF-8\r\n\r\n<!DOCTYPE html>\r\n<html>\r\n  <head>\r\n\r\n    <meta http-equiv=\"content-type\" \
        content=\"text/html; charset=UTF-8\">\r\n  </head>\r\n  <body>\r\n    <p>Hello <b>Bob</b>,</p>\r\n    <p>see <a\r\n    \
        moz-do-not-send=\"true\" href=\"https://x.example/?a&amp;b\" class=\"moz-txt-link\">below</a>.<br>\r\n    </p>\r\n    \
        <img src=\"cid:part1.CANARY@localhost\" alt=\"\" width=\"10\">\r\n  </body>\r\n</html>\r\n\r\n--------------r\r\n\
        Content-Type: image/png; name=\"CANARY.png\"\r\nContent-Disposition: inline; filename=\"cat.png\"\r\n\
        Content-Id: <part1.CANARY@localhost>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--------------r--\r\n\
        --------------a--\r\n--------------m\r\nContent-Type: text/csv; name=a.csv\r\n\r\na;b\r\n--------------m--\r\n";
    let outlook = "Content-Type: multipart/mixed; boundary=\"m\"\r\n\r\n--m\r\nContent-Type: multipart/related; boundary=\"r\";\r\n\
        \ttype=\"multipart/alternative\"\r\n\r\n--r\r\nContent-Type: multipart/alternative; boundary=\"a\"\r\n\r\n--a\r\n\
        Content-Type: text/plain; charset=\"us-ascii\"\r\n\r\nHello Bob,\r\nsee below.\r\n\r\n--a\r\n\
        Content-Type: text/html; charset=\"us-ascii\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<html \
        xmlns:o=3D\"urn:schemas-microsoft-com:office:office\"><head><meta name=3DGenerator content=3D\"Microsoft Word 15 (CANARY)\">\r\n\
        <!--[if !mso]><style>v\\:* {CANARY}</style><![endif]--><style><!-- p.MsoNormal {color:red} --></style></head>\r\n\
        <body lang=3DEN-US link=3D\"#0563C1\"><p class=3DMsoNormal>Hello <b style=3D'mso-CANARY:1'>Bob</b>,<o:p></o:p></p>\r\n\
        <p class=3DMsoNormal id=3DCANARY>see <a href=3D\"https://x.example/?a&amp;b\"><span style=3D'color:#123456'>below</span></a>.<br></p>\r\n\
        <!-- CANARY --><img data-outlook=3DCANARY id=3D\"Picture_x0020_1\" src=3D\"cid:image001.png@01DA.CANARY\" alt=3D\"\"></body></html>\r\n\
        --a--\r\n--r\r\nContent-Type: image/png; name=\"cat.png\"\r\nContent-ID: <image001.png@01DA.CANARY>\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--r--\r\n--m\r\n\
        Content-Type: application/vnd.ms-excel; name=\"a.csv\"\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename=\"a.csv\"\r\n\r\nYTti\r\n--m--\r\n";
    let webmail = "Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Type: multipart/related; boundary=r\r\n\r\n\
        --r\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\nContent-Type: text/plain; charset=\"UTF-8\"\r\n\r\n\
        Hello Bob,\r\nsee below.\r\n\r\n--a\r\nContent-Type: text/html; charset=\"UTF-8\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        PHAgZGlyPWx0cj5IZWxsbyA8Yj5Cb2I8L2I+LDxwPnNlZSA8YSBkYXRhLXNhZmVyZWRpcmVjdHVybD0i\r\n\
        aHR0cHM6Ly90LkNBTkFSWS5leGFtcGxlIiBocmVmPSJodHRwczovL3guZXhhbXBsZS8/YSZhbXA7YiI+\r\n\
        YmVsb3c8L2E+LjxiciBjbGVhcj0iYWxsIj48L3A+PGltZyBzcmM9ImNpZDppaV9DQU5BUlklMzEiIGFs\r\n\
        dD0iIj48aW1nIHNyYz0iaHR0cHM6Ly90LkNBTkFSWS5leGFtcGxlL3guZ2lmIj4=\r\n\
        --a--\r\n--r\r\nContent-Type: image/png; name=\"cat.png\"\r\nContent-Disposition: inline; filename=\"cat.png\"\r\n\
        Content-Transfer-Encoding: base64\r\nContent-ID: <ii_CANARY1>\r\nX-Attachment-Id: ii_CANARY1\r\n\r\nAAAA\r\n--r--\r\n\
        --m\r\nContent-Type: text/csv; name=a.csv\r\n\r\na;b\r\n--m--\r\n";
    [thunderbird, outlook, webmail].map(str::to_owned)
}

const PAGE: &str = "From: heron@relay.test\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=\"=_part\"\r\n\
    \r\n\
    --=_part\r\n\
    Content-Type: multipart/alternative; boundary=\"=_alternative\"\r\n\
    \r\n\
    --=_alternative\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: 7bit\r\n\
    \r\n\
    Hello Bob,\r\n\
    see below.\r\n\
    --=_alternative\r\n\
    Content-Type: multipart/related; type=\"text/html\"; boundary=\"=_related\"\r\n\
    \r\n\
    --=_related\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Transfer-Encoding: 7bit\r\n\
    \r\n\
    <p>Hello <b>Bob</b>,</p>\r\n\
    <p>see <a href=\"https://x.example/?a&amp;b\">below</a>.<br>\r\n\
    </p>\r\n\
    <img src=\"cid:image.1@part\" alt=\"\">\r\n\
    --=_related\r\n\
    Content-Type: image/png\r\n\
    Content-Transfer-Encoding: base64\r\n\
    Content-ID: <image.1@part>\r\n\
    Content-Disposition: inline;\r\n filename=\"cat.png\"\r\n\
    \r\n\
    AAAA\r\n\
    --=_related--\r\n\
    --=_alternative--\r\n\
    --=_part\r\n\
    Content-Type: text/csv; charset=utf-8\r\n\
    Content-Transfer-Encoding: base64\r\n\
    Content-Disposition: attachment;\r\n filename=\"a.csv\"\r\n\
    \r\n\
    YTti\r\n\
    --=_part--\r\n";

#[test]
fn the_same_page_from_three_composers_is_the_same_message() {
    for page in pages() {
        assert_eq!(kept(&page), PAGE, "{page}");
    }
}

#[test]
fn six_clients_without_html_send_what_they_sent_before() {
    for letter in super::clients::letters() {
        let dropped = text(&letter);
        let kept = kept(&letter);
        // One of the six writes an alternative, which is another message when it is kept.
        assert!(kept == dropped || kept.contains("multipart/alternative"), "{letter}");
    }
}

#[test]
fn html_alone_gets_a_plain_text_beside_it() {
    let text = kept("Content-Type: text/html\r\n\r\n<h1>Hi</h1><a href=\"https://x.example\">there</a>");
    assert!(
        text.contains("\r\n\r\nHi\r\n\r\nthere <https://x.example>\r\n--=_alternative\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\n\r\n<h1>Hi</h1>\r\n<a href=\"https://x.example\">there</a>\r\n--=_alternative--\r\n"));
    let picture = "Content-Type: multipart/related; boundary=r\r\n\r\n--r\r\nContent-Type: text/html\r\n\r\n<img src='cid:a'><img src=\"cid:b\"><img src=cid:a>\r\n\
        --r\r\nContent-Type: image/gif\r\nContent-ID: <b>\r\n\r\nB\r\n--r\r\nContent-Type: image/gif\r\nContent-ID: <a>\r\n\r\nA\r\n\
        --r\r\nContent-Type: image/svg+xml\r\nContent-ID: <c>\r\n\r\n<svg/>\r\n--r--\r\n";
    let text = kept(picture);
    assert!(
        !text.contains("text/plain") && !text.contains("multipart/alternative"),
        "{text}"
    );
    let order = [
        "cid:image.1@part",
        "cid:image.2@part",
        "cid:image.1@part",
        "<image.1@part>",
        "QQ==",
        "<image.2@part>",
        "Qg==",
    ];
    let mut rest = text.as_str();
    for piece in order {
        rest = rest.split_once(piece).unwrap_or_else(|| panic!("{piece} in {text}")).1;
    }
    assert!(rest.contains(
        "Content-Type: image/svg+xml\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment"
    ));
}

#[test]
fn html_that_says_nothing_or_hides_an_armour_does_not_leave() {
    for letter in [
        "Content-Type: text/html\r\n\r\n<img src=http://t.example/x.gif><style>p{}</style>",
        "Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\n\r\nplain\r\n--x\r\nContent-Type: text/html\r\n\r\n\
        plain<br>-----BEGIN PGP SIGNATURE-----\r\n--x--\r\n",
    ] {
        assert!(!kept(letter).contains("html"), "{letter}");
    }
}

#[test]
fn plain_parts_beside_html_are_in_both() {
    let list = "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n<b>one\r\n\
        --x\r\n\r\ntwo < three\r\nfour\r\n--x--\r\n";
    let text = kept(list);
    assert!(
        text.contains("\r\n\r\n<b>one</b>two &lt; three<br>\r\nfour<br>\r\n--=_alternative--"),
        "{text}"
    );
    assert!(
        text.contains("\r\n\r\nonetwo < three\r\nfour\r\n--=_alternative\r\n"),
        "{text}"
    );
}

#[test]
fn the_relay_cleans_what_a_changed_bridge_lets_through() {
    for page in pages() {
        let from = format!("From: heron@relay.test\r\n{page}");
        let message = rebuild(from.as_bytes(), &exit()).expect("the relay rebuilds").message;
        let text = String::from_utf8(message).expect("ASCII");
        assert!(text.ends_with(PAGE), "{text}");
    }
}
