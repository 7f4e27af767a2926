//! The messages of our own.

use mail_parser::{MessageParser, MimeHeaders};

use super::super::{Action, Notice, Recipient, Report, dsn, notice};
use super::*;

#[test]
fn a_delivery_report_is_readable_by_people_and_machines() {
    let original = rebuild(b"To: bob@example.org\r\nSubject: lost\r\n\r\nsecret body\r\n", &exit())
        .expect("rebuilt")
        .message;
    let recipients = [Recipient {
        address: &address("bob@example.org"),
        action: Action::Failed,
        status: "5.1.1",
        remote_mta: Some("mx.example.org"),
        diagnostic: Some("550 5.1.1 no such user:\r\n höre auf"),
    }];
    let report = Report {
        reporting_mta: "relay.test",
        to: &address("heron@relay.test"),
        message_id_local: "r1",
        date: 1_700_000_000,
        recipients: &recipients,
        original: &original,
    };
    assert_eq!(
        String::from_utf8(dsn(&report)).as_deref(),
        Ok("Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n\
        Message-ID: <r1@relay.test>\r\n\
        From: Mail Delivery <postmaster@relay.test>\r\n\
        To: heron@relay.test\r\n\
        Subject: Undelivered: your message was returned\r\n\
        In-Reply-To: <k7f3@relay.test>\r\n\
        References: <k7f3@relay.test>\r\n\
        Auto-Submitted: auto-replied\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=\"=_part\"\r\n\
        \r\n\
        --=_part\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        \r\n\
        This is an automatic report about a message that you sent.\r\n\
        \r\n\
        bob@example.org\r\n    \
        could not be delivered and will not be tried again.\r\n    \
        550 5.1.1 no such user: h?re auf\r\n\
        --=_part\r\n\
        Content-Type: message/delivery-status\r\n\
        \r\n\
        Reporting-MTA: dns; relay.test\r\n\
        \r\n\
        Final-Recipient: rfc822; bob@example.org\r\n\
        Action: failed\r\n\
        Status: 5.1.1\r\n\
        Remote-MTA: dns; mx.example.org\r\n\
        Diagnostic-Code: smtp; 550 5.1.1 no such user: h?re auf\r\n\
        --=_part\r\n\
        Content-Type: text/rfc822-headers; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        \r\n\
        Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n\
        Message-ID: <k7f3@relay.test>\r\n\
        From: heron@relay.test\r\n\
        To: bob@example.org\r\n\
        Subject: lost\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        --=_part--\r\n")
    );
}

#[test]
fn a_hostile_reply_cannot_break_a_report() {
    let reply = "\0\r\n--=_part--\r\n\r\n".repeat(200);
    let original = format!("Subject: x\r\n{}\r\n", " --=_part\r\n".repeat(20));
    let recipients = [Recipient {
        address: &address("bob@example.org"),
        action: Action::Delayed,
        status: "4.4.1",
        remote_mta: Some(&reply),
        diagnostic: Some(&reply),
    }];
    let report = Report {
        reporting_mta: "relay.test",
        to: &address("heron@relay.test"),
        message_id_local: "r1",
        date: 0,
        recipients: &recipients,
        original: original.as_bytes(),
    };
    let message = dsn(&report);
    let parsed = MessageParser::default().parse(&message).expect("a message");
    assert_eq!(parsed.parts.len(), 4);
    assert!(message.is_ascii() && message.split(|&byte| byte == b'\n').all(|line| line.len() < 999));
}

#[test]
fn notices_are_plain_messages() {
    let to = address("a@localhost");
    for (told, subject, words) in [
        (
            Notice::Welcome {
                alias: "heron@relay.test",
                balance: 5,
                keys: 7,
            },
            "Welcome to Postern",
            "heron@relay.test",
        ),
        (
            Notice::LowValue { balance: 5, keys: 7 },
            "Your keypack is running low",
            "5 µtok and 7 session keys",
        ),
        (
            Notice::Held {
                subject: "ü\r\nX: y",
                shortfall: 12,
            },
            "Waiting for value: ü X: y",
            "12 µtok are missing",
        ),
        (
            Notice::Refused {
                subject: "s",
                reason: "No.",
            },
            "Not sent: s",
            "No.",
        ),
    ] {
        let message = notice(&told, &to, "n1", 1_700_000_000);
        assert!(message.is_ascii() && message.ends_with(b"\r\n"));
        let parsed = MessageParser::default().parse(&message).expect("a message");
        assert_eq!(parsed.subject(), Some(subject));
        assert!(parsed.body_text(0).is_some_and(|text| text.contains(words)), "{words}");
        assert!(
            parsed
                .content_type()
                .is_some_and(|content_type| content_type.subtype() == Some("plain"))
        );
        assert!(
            String::from_utf8_lossy(&message).contains("From: Postern <postmaster@localhost>\r\nTo: a@localhost\r\n")
        );
    }
}
