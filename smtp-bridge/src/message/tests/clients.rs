//! The same letter from different clients leaves as the same bytes.

use super::*;

/// What each of the clients below was given to send: a text with an umlaut, a long paragraph, a signature, and a small PDF.
const LETTER: &str = "From: heron@relay.test\r\n\
    To: =?utf-8?B?SsO8cmdlbiBNw7xsbGVy?= <juergen@example.org>\r\n\
    Cc: heron@relay.test, \"Carol (office)\" <carol@example.net>\r\n\
    Subject: =?utf-8?B?w5xiZXIgZGVuIEJlcmljaHQgZsO8ciBKw7xyZ2VuLCBlaW4gw6R1?=\r\n \
    =?utf-8?B?w59lcnN0IGxhbmdlciBCZXRyZWZm?=\r\n\
    In-Reply-To: <known-1@example.org>\r\n\
    References: <known-0@example.org> <known-1@example.org>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=\"=_part\"\r\n\
    \r\n\
    --=_part\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: quoted-printable\r\n\
    \r\n\
    Hello J=C3=BCrgen,\r\n\
    \r\n\
    the report is attached. It grew longer than I thought, which is why this pa=\r\n\
    ragraph is long as well.\r\n\
    \r\n\
    =46rom here on it is short.\r\n\
    --=20\r\n\
    heron\r\n\
    --=_part\r\n\
    Content-Type: application/pdf\r\n\
    Content-Transfer-Encoding: base64\r\n\
    Content-Disposition: attachment;\r\n \
    filename*=utf-8''Bericht%20f%C3%BCr%20J.pdf\r\n\
    \r\n\
    JVBERi0xLjQKJcOkw7zDtsOfCjEgMCBvYmoKPDwvVHlwZS9DYXRhbG9nPj4KZW5kb2JqCnRyYWls\r\n\
    ZXIK\r\n\
    --=_part--\r\n";

const PDF: &str = "JVBERi0xLjQKJcOkw7zDtsOfCjEgMCBvYmoKPDwvVHlwZS9DYXRhbG9nPj4KZW5kb2JqCnRyYWlsZXIK";

/// Header fields that all clients wrote in much the same way.
const THREAD: &str = "In-Reply-To: <known-1@example.org>\r\nReferences: <stranger@elsewhere.example> <known-0@example.org>\r\n <known-1@example.org>\r\n";

fn thunderbird() -> String {
    format!(
        "Message-ID: <8d4c5d53-bf1a-4c3e-9c61-0ed2b0f0b0a3@localhost>\r\n\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\
        MIME-Version: 1.0\r\n\
        User-Agent: Mozilla Thunderbird\r\n\
        From: Alice Liddell <a@localhost>\r\n\
        Subject: =?UTF-8?Q?=C3=9Cber_den_Bericht_f=C3=BCr_J=C3=BCrgen=2C_ein_?=\r\n =?UTF-8?Q?=C3=A4u=C3=9Ferst_langer_Betreff?=\r\n\
        To: =?UTF-8?Q?J=C3=BCrgen_M=C3=BCller?= <juergen@example.org>\r\n\
        Cc: Alice Liddell <a@localhost>, \"Carol (office)\" <carol@example.net>\r\n\
        Content-Language: de-DE\r\n\
        {THREAD}\
        Autocrypt: addr=a@localhost; keydata=\r\n xjMEYJ\r\n\
        X-Mozilla-Draft-Info: internal/draft; vcard=0; receipt=0\r\n\
        X-Identity-Key: id1\r\n\
        Content-Type: multipart/mixed;\r\n boundary=\"------------Xf0Yx0kPZb0UQzS0vJr5vGvE\"\r\n\
        \r\n\
        This is a multi-part message in MIME format.\r\n\
        --------------Xf0Yx0kPZb0UQzS0vJr5vGvE\r\n\
        Content-Type: text/plain; charset=UTF-8; format=flowed\r\n\
        Content-Transfer-Encoding: 8bit\r\n\
        \r\n\
        Hello Jürgen,\r\n\
        \r\n\
        the report is attached. It grew longer than I thought, which is why this \r\n\
        paragraph is long as well.\r\n\
        \r\n \
        From here on it is short.\r\n\
        -- \r\n\
        heron\r\n\
        --------------Xf0Yx0kPZb0UQzS0vJr5vGvE\r\n\
        Content-Type: application/pdf; name=\"=?UTF-8?Q?Bericht_f=C3=BCr_J=2Epdf?=\"\r\n\
        Content-Disposition: attachment; filename*=UTF-8''%42%65%72%69%63%68%74%20%66%C3%BC%72%20%4A%2E%70%64%66\r\n\
        Content-Transfer-Encoding: base64\r\n\
        \r\n\
        {PDF}\r\n\
        \r\n\
        --------------Xf0Yx0kPZb0UQzS0vJr5vGvE--\r\n"
    )
}

fn apple_mail() -> String {
    let (first, second) = PDF.split_at(40);
    format!(
        "From: Alice Liddell <A@LOCALHOST>\r\n\
        Mime-Version: 1.0 (Mac OS X Mail 16.0 \\(3774.200.91.1.1\\))\r\n\
        Subject: =?utf-8?Q?=C3=9Cber_den_Bericht_f=C3=BCr_J=C3=BCrgen,_ein_=C3?=\r\n =?utf-8?Q?=A4u=C3=9Ferst_langer_Betreff?=\r\n\
        X-Universally-Unique-Identifier: 1B2C4F7A-0000-4000-8000-3C5D1E2F3A4B\r\n\
        {THREAD}\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\
        Cc: Alice Liddell <a@localhost>,\r\n \"Carol (office)\" <carol@example.net>\r\n\
        Message-Id: <D2C5D1E2-F3A4-4B1B-AC4F-7A1234567890@localhost>\r\n\
        To: =?utf-8?Q?J=C3=BCrgen_M=C3=BCller?= <juergen@example.org>\r\n\
        X-Mailer: Apple Mail (2.3774.200.91.1.1)\r\n\
        Content-Type: multipart/mixed;\r\n\tboundary=\"Apple-Mail=_8A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9\"\r\n\
        \r\n\
        \r\n\
        --Apple-Mail=_8A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\
        Content-Type: text/plain;\r\n\tcharset=utf-8\r\n\
        \r\n\
        Hello J=C3=BCrgen,\r\n\
        \r\n\
        the report is attached. It grew longer than I thought, which is why this =\r\n\
        paragraph is long as well.\r\n\
        \r\n\
        =46rom here on it is short.\r\n\
        --=20\r\n\
        heron\r\n\
        \r\n\
        --Apple-Mail=_8A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9\r\n\
        Content-Disposition: inline;\r\n\tfilename*=utf-8''Bericht%20f%C3%BCr%20J.pdf\r\n\
        Content-Type: application/pdf;\r\n\tx-mac-type=50444620;\r\n\tx-unix-mode=0644;\r\n\tname=\"=?utf-8?Q?Bericht_f=C3=BCr_J=2Epdf?=\"\r\n\
        Content-Transfer-Encoding: base64\r\n\
        Content-Id: <0A1B2C3D@localhost>\r\n\
        \r\n\
        {first}\r\n\
        {second}\r\n\
        --Apple-Mail=_8A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        Content-Type: text/plain;\r\n\tcharset=us-ascii\r\n\
        \r\n\
        \r\n\
        \r\n\
        --Apple-Mail=_8A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9--\r\n"
    )
}

fn outlook() -> String {
    format!(
        "From: \"Alice Liddell\" <a@localhost>\r\n\
        To: \"=?iso-8859-1?Q?J=FCrgen_M=FCller?=\" <juergen@example.org>\r\n\
        Cc: <a@localhost>, \"Carol (office)\" <carol@example.net>\r\n\
        {THREAD}\
        Subject: =?iso-8859-1?Q?=DCber_den_Bericht_f=FCr_J=FCrgen=2C_ein_=E4u=DFerst_langer?=\r\n\t=?iso-8859-1?Q?_Betreff?=\r\n\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\
        Message-ID: <000001da174c$1a2b3c40$4e5f60c0$@localhost>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed;\r\n\tboundary=\"----=_NextPart_000_0001_01DA1754.7BD5E6F0\"\r\n\
        X-Mailer: Microsoft Outlook 16.0\r\n\
        Thread-Index: AdoXTBorPAAAAAAAQEGxGg8cO3PqZQ==\r\n\
        Content-Language: de\r\n\
        X-Originating-IP: [192.0.2.77]\r\n\
        X-MS-Has-Attach: yes\r\n\
        Sensitivity: Company-Confidential\r\n\
        Disposition-Notification-To: <a@localhost>\r\n\
        \r\n\
        This is a multipart message in MIME format.\r\n\
        \r\n\
        ------=_NextPart_000_0001_01DA1754.7BD5E6F0\r\n\
        Content-Type: multipart/alternative;\r\n\tboundary=\"----=_NextPart_001_0002_01DA1754.7BD5E6F0\"\r\n\
        \r\n\
        \r\n\
        ------=_NextPart_001_0002_01DA1754.7BD5E6F0\r\n\
        Content-Type: text/plain;\r\n\tcharset=\"iso-8859-1\"\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\
        \r\n\
        Hello J=FCrgen,\r\n\
        \r\n\
        the report is attached. It grew longer than I thought, which is why this =\r\n\
        paragraph is long as well.\r\n\
        \r\n\
        From here on it is short.\r\n\
        --=20\r\n\
        heron\r\n\
        \r\n\
        ------=_NextPart_001_0002_01DA1754.7BD5E6F0\r\n\
        Content-Type: text/html;\r\n\tcharset=\"iso-8859-1\"\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\
        \r\n\
        <html xmlns:o=3D\"urn:schemas-microsoft-com:office:office\"><head><meta name=\r\n\
        =3DGenerator content=3D\"Microsoft Word 15\"></head><body>Hello J=FCrgen</body>\r\n\
        \r\n\
        ------=_NextPart_001_0002_01DA1754.7BD5E6F0--\r\n\
        \r\n\
        ------=_NextPart_000_0001_01DA1754.7BD5E6F0\r\n\
        Content-Type: application/octet-stream;\r\n\tname=\"=?iso-8859-1?Q?Bericht_f=FCr_J.pdf?=\"\r\n\
        Content-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment;\r\n\tfilename=\"=?iso-8859-1?Q?Bericht_f=FCr_J.pdf?=\";\r\n\tcreation-date=\"Tue, 14 Nov 2023 22:00:00 GMT\"; size=60\r\n\
        \r\n\
        {PDF}\r\n\
        \r\n\
        ------=_NextPart_000_0001_01DA1754.7BD5E6F0--\r\n\
        \r\n"
    )
}

fn mutt() -> String {
    format!(
        "Received: from alice-laptop (unknown [192.0.2.77]) by localhost; Tue, 14 Nov 2023 23:13:20 +0100\n\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\n\
        From: Alice Liddell <heron@relay.test>\n\
        To: Jürgen Müller <juergen@example.org>\n\
        Cc: Alice <heron@relay.test>, Carol's assistant:\"Carol (office)\" <carol@example.net>;\n\
        Bcc: secret@example.com\n\
        Subject: Über den Bericht für Jürgen, ein äußerst langer Betreff\n\
        Message-ID: <ZVPw4BqM3xRk@alice-laptop>\n\
        {}\
        MIME-Version: 1.0\n\
        Content-Type: multipart/mixed; protocol=x; boundary=vkogqOf2sHV7VnPd\n\
        Content-Disposition: inline\n\
        \n\
        \n\
        --vkogqOf2sHV7VnPd\n\
        Content-Type: text/plain; charset=utf-8\n\
        Content-Disposition: inline\n\
        Content-Transfer-Encoding: 8bit\n\
        \n\
        Hello Jürgen,\n\
        \n\
        the report is attached. It grew longer than I thought, which is why this paragraph is long as well.\n\
        \n\
        From here on it is short.\n\
        -- \n\
        heron\n\
        \n\
        --vkogqOf2sHV7VnPd\n\
        Content-Type: application/pdf\n\
        Content-Disposition: attachment; filename*=utf-8''Bericht%20f%C3%BCr%20J%2Epdf\n\
        Content-Transfer-Encoding: base64\n\
        \n\
        {PDF}\n\
        \n\
        --vkogqOf2sHV7VnPd--\n",
        THREAD.replace("\r\n", "\n")
    )
}

fn swaks() -> String {
    format!(
        "Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\
        To: =?utf-8?b?SsO8cmdlbg==?= =?utf-8?b?IE3DvGxsZXI=?= <juergen@example.org>\r\n\
        Cc: heron@relay.test,\"Carol (office)\"<carol@example.net>\r\n\
        From: heron@relay.test\r\n\
        Subject: =?windows-1252?B?3GJlciBkZW4gQmVyaWNodCBm/HIgSvxyZ2VuLCBlaW4g5HXfZXJzdCBsYW5nZXIgQmV0cmVmZg==?=\r\n\
        Message-Id: <20231114231320.012345@alice-laptop>\r\n\
        X-Mailer: swaks v20201014.0 jetmore.org/john/code/swaks/\r\n\
        {THREAD}\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=\"----=_MIME_BOUNDARY_000_12345\"\r\n\
        \r\n\
        ------=_MIME_BOUNDARY_000_12345\r\n\
        Content-Type: text/plain\r\n\
        \r\n\
        Hello Jürgen,\r\n\
        \r\n\
        the report is attached. It grew longer than I thought, which is why this paragraph is long as well.\r\n\
        \r\n\
        From here on it is short.\r\n\
        -- \r\n\
        heron\r\n\
        ------=_MIME_BOUNDARY_000_12345\r\n\
        Content-Type: application/octet-stream; name=\"Bericht für J.pdf\"\r\n\
        Content-Description: Bericht für J.pdf\r\n\
        Content-Disposition: attachment; filename=\"/home/alice/Bericht für J.pdf\"\r\n\
        Content-Transfer-Encoding: BASE64\r\n\
        \r\n\
        {PDF}\r\n\
        \r\n\
        ------=_MIME_BOUNDARY_000_12345--"
    )
}

/// Gmail's composer: HTML with a plain alternative, wrapped in a related for its logo that here is missing.
fn webmail() -> String {
    format!(
        "MIME-Version: 1.0\r\n\
        {THREAD}\
        Reply-To: a@localhost\r\n\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n\
        Message-ID: <CAF=x4sK9+2ZqgYt@mail.webmail.example>\r\n\
        Subject: =?UTF-8?B?w5xiZXIgZGVuIEJlcmljaHQgZsO8ciBKw7xyZ2VuLA==?=\r\n =?UTF-8?B?IGVpbiDDpHXDn2Vyc3QgbGFuZ2VyIEJldHJlZmY=?=\r\n\
        From: =?UTF-8?Q?Alice_Liddell?= <a@localhost>\r\n\
        Sender: a@localhost\r\n\
        To: =?UTF-8?Q?J=C3=BCrgen_M=C3=BCller?= <juergen@example.org>\r\n\
        Cc: a@localhost, \"Carol (office)\" <carol@example.net>\r\n\
        X-Gm-Message-State: AOJu0Yz\r\n\
        DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n        d=webmail.example; s=20230601; b=Zm9v\r\n\
        List-Unsubscribe: <https://track.example/u/alice>\r\n\
        Content-Type: multipart/related; boundary=\"000000000000c0ffee0609f1\"\r\n\
        \r\n\
        --000000000000c0ffee0609f1\r\n\
        Content-Type: multipart/alternative; boundary=\"000000000000c0ffee0609f2\"\r\n\
        \r\n\
        --000000000000c0ffee0609f2\r\n\
        Content-Type: text/plain; charset=\"UTF-8\"; format=flowed; delsp=yes\r\n\
        Content-Transfer-Encoding: base64\r\n\
        \r\n\
        SGVsbG8gSsO8cmdlbiwNCg0KdGhlIHJlcG9ydCBpcyBhdHRhY2hlZC4gSXQgZ3JldyBsb25nZXIg\r\n\
        dGhhbiBJIHRob3VnaHQsIHdoaWNoIGlzIHdoeSB0aGlzICANCnBhcmFncmFwaCBpcyBsb25nIGFz\r\n\
        IHdlbGwuDQoNCiBGcm9tIGhlcmUgb24gaXQgaXMgc2hvcnQuDQotLSANCmhlcm9uDQo=\r\n\
        --000000000000c0ffee0609f2\r\n\
        Content-Type: text/html; charset=\"UTF-8\"\r\n\
        \r\n\
        <div dir=\"ltr\">Hello<img src=\"https://track.example/x.gif\"></div>\r\n\
        --000000000000c0ffee0609f2--\r\n\
        --000000000000c0ffee0609f1\r\n\
        Content-Type: application/pdf; name*0*=utf-8''Bericht%20f%C3; name*1*=%BCr%20J.pdf\r\n\
        Content-Transfer-Encoding: base64\r\n\
        X-Attachment-Id: f_lp0a1b2c0\r\n\
        Content-ID: <f_lp0a1b2c0>\r\n\
        \r\n\
        {PDF}\r\n\
        --000000000000c0ffee0609f1--\r\n"
    )
}

/// The letter as every client writes it.
pub(super) fn letters() -> [String; 6] {
    [thunderbird(), apple_mail(), outlook(), mutt(), swaks(), webmail()]
}

#[test]
fn the_same_letter_from_six_clients_is_the_same_message() {
    for (number, letter) in letters().iter().enumerate() {
        assert_eq!(text(letter), LETTER, "client {number}");
    }
}

#[test]
fn the_subject_is_given_as_text() {
    let rebuilt = rebuilt(outlook()).expect("the message is rebuilt");
    assert_eq!(
        rebuilt.subject,
        "Über den Bericht für Jürgen, ein äußerst langer Betreff"
    );
    assert_eq!(rebuilt.warnings, []);
}

#[test]
fn the_exit_adds_its_date_and_identifier() {
    let message = rebuild(text(mutt()).as_bytes(), &exit())
        .expect("the exit takes what the bridge made")
        .message;
    let lines = "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <k7f3@relay.test>\r\n";
    assert_eq!(
        String::from_utf8(message).as_deref(),
        Ok((lines.to_owned() + LETTER).as_str())
    );
}

#[test]
fn the_display_name_is_that_of_the_alias() {
    let named = |name: &str| Policy {
        sender: Sender {
            display_name: Some(name.into()),
            address: address("heron@relay.test"),
        },
        ..bridge()
    };
    for (name, field) in [
        ("Grey Heron", "From: Grey Heron <heron@relay.test>\r\n"),
        ("G. Heron", "From: \"G. Heron\" <heron@relay.test>\r\n"),
        ("Gräy", "From: =?utf-8?B?R3LDpHk=?= <heron@relay.test>\r\n"),
        ("a\r\nX-Injected: b", "From: \"a X-Injected: b\" <heron@relay.test>\r\n"),
        ("", "From: heron@relay.test\r\n"),
    ] {
        let message = rebuild(mutt().as_bytes(), &named(name))
            .expect("the message is rebuilt")
            .message;
        assert!(message.starts_with(field.as_bytes()), "{field}");
        assert_eq!(rebuild(&message, &named(name)).map(|again| again.message), Ok(message));
    }
}

#[test]
fn a_patch_from_git_keeps_every_line() {
    let patch = "From: Alice Liddell <a@localhost>\n\
        To: list@example.org\n\
        Cc: Alice Liddell <a@localhost>\n\
        Subject: [PATCH v2 1/2] tree: shorten the path of a very long subject line that git folds\n\
        Date: Tue, 14 Nov 2023 23:13:20 +0100\n\
        Message-ID: <20231114221320.4711-1-a@localhost>\n\
        X-Mailer: git-send-email 2.39.2\n\
        MIME-Version: 1.0\n\
        Content-Transfer-Encoding: 8bit\n\
        \n\
        ---\n a.c | 2 +-\n\n\
        diff --git a/a.c b/a.c\n@@ -1,3 +1,3 @@\n\tint a;\n \n-\tb();\n+\tc();\n-- \n2.39.2\n\n";
    assert_eq!(
        text(patch),
        "From: heron@relay.test\r\n\
        To: list@example.org\r\n\
        Cc: heron@relay.test\r\n\
        Subject: [PATCH v2 1/2] tree: shorten the path of a very long subject line\r\n \
        that git folds\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        \r\n\
        ---\r\n a.c | 2 +-\r\n\r\n\
        diff --git a/a.c b/a.c\r\n@@ -1,3 +1,3 @@\r\n\tint a;\r\n \r\n-\tb();\r\n+\tc();\r\n-- \r\n2.39.2\r\n"
    );
}

#[test]
fn a_bare_text_is_a_message() {
    assert_eq!(
        text("hello\nworld"),
        "From: heron@relay.test\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\r\nhello\r\nworld\r\n"
    );
    assert_eq!(body("\r\nhello"), "hello\r\n");
    assert_eq!(body(""), "");
    assert_eq!(body("Subject: x\r\n\r\ncaf\u{e9}"), "caf=C3=A9\r\n");
}

#[test]
fn html_alone_is_converted_with_a_warning() {
    let letter = "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        <p>Gr=FC=DFe</p><img src=3D\"http://track.example/x\">=\r\n<p>a &lt; b</p>\r\n";
    assert_eq!(body(letter), "Gr=C3=BC=C3=9Fe\r\n\r\na < b\r\n");
    assert_eq!(
        rebuilt(letter).expect("the message is rebuilt").warnings,
        [super::super::Warning::HtmlConverted]
    );
}

#[test]
fn an_empty_plain_part_does_not_hide_the_html() {
    let letter = "Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\n\r\n \r\n--x\r\nContent-Type: text/html\r\n\r\n<b>hi</b>\r\n--x--";
    assert_eq!(body(letter), "hi\r\n");
}

#[test]
fn files_beside_the_html_alternative_are_kept() {
    let letter = "Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\n\r\nplain\r\n\
        --x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\nContent-Type: text/html\r\n\r\n<b>h</b>\r\n\
        --y\r\nContent-Type: image/png; name=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--y--\r\n--x--\r\n";
    let text = text(letter);
    assert!(
        text.contains("\r\n\r\nplain\r\n--=_part\r\nContent-Type: image/png\r\n"),
        "{text}"
    );
    assert!(
        text.contains("filename=\"a.png\"\r\n\r\nAAAA\r\n--=_part--\r\n"),
        "{text}"
    );
    assert!(!text.contains("<b>"));
}

#[test]
fn a_file_alone_has_no_text_part() {
    let letter =
        "Content-Type: text/csv; charset=koi8-r; name=a.csv\r\nContent-Transfer-Encoding: 8bit\r\n\r\na;b\r\nc\r\n";
    assert_eq!(
        body(letter),
        "--=_part\r\nContent-Type: text/csv; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment;\r\n filename=\"a.csv\"\r\n\r\nYTtiCmMK\r\n--=_part--\r\n"
    );
}
