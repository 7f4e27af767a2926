//! Nothing of the client gets through: a canary in every place that the allow list does not know.

use proptest::prelude::*;

use super::*;

/// Fields that clients, servers and providers are known to add.
const FIELDS: &str = "Received X-Received Received-SPF Delivered-To X-Original-To Return-Path Envelope-To Apparently-To X-Originating-IP \
    X-Sender-IP X-Client-IP X-Forwarded-For X-AuthUser X-Authenticated-Sender X-Get-Message-Sender-Via X-Source X-Source-Dir X-AntiAbuse \
    X-PHP-Originating-Script User-Agent X-Mailer X-MimeOLE X-MSMail-Priority X-Newsreader X-Apple-Base-Url X-Universally-Unique-Identifier \
    X-Mozilla-Status X-Identity-Key X-Account-Key X-Uniform-Type-Identifier X-OriginalArrivalTime X-MS-Exchange-Organization-AuthAs \
    Thread-Index Thread-Topic X-Gm-Message-State X-Google-Smtp-Source X-Proofpoint-GUID X-Spam-Status X-Virus-Scanned X-Pm-Origin \
    Message-ID Date Resent-From Resent-Date Resent-Message-ID Return-Receipt-To Disposition-Notification-To Errors-To \
    X-Confirm-Reading-To Organization Approved Bcc Resent-Bcc Keywords Comments MIME-Version Content-Language Accept-Language \
    Content-Description Content-Location Content-Base Content-Duration Content-ID X-Attachment-Id Content-MD5 Autocrypt Autocrypt-Gossip \
    OpenPGP X-PGP-Key X-Enigmail-Version X-Pgp-Agent X-Face Face DKIM-Signature ARC-Seal Authentication-Results DomainKey-Signature \
    List-Id X-Client-Hostname X-Timezone List-Unsubscribe Precedence Auto-Submitted X-Auto-Response-Suppress Feedback-ID X-Campaign-Id X-Report-Abuse Priority \
    X-Priority Importance Sensitivity Mail-Followup-To Mail-Reply-To Newsgroups Path Supersedes Expires Content-Features Face Jabber-ID";

const CANARY: &str = "CANARY";

/// A letter with a canary everywhere but in what the sender says.
fn letter() -> String {
    let fields: String = FIELDS
        .split_whitespace()
        .map(|name| format!("{name}: {CANARY}@host.example ({CANARY})\r\n"))
        .collect();
    format!(
        "{fields}\
        From: \"{CANARY}\" ({CANARY}) <a@localhost> ({CANARY})\r\n\
        Sender: {CANARY} <a@localhost>\r\n\
        Reply-To: {CANARY} <a@localhost>\r\n\
        To: {CANARY}group: bob@example.org ({CANARY});, \"{CANARY}\" <a@localhost>\r\n\
        Subject: hello\r\n\
        In-Reply-To: <{CANARY}@host.example> {CANARY}\r\n\
        References: {CANARY} <{CANARY}@host.example>\r\n\
        Content-Type: multipart/related (c {CANARY}); type=\"{CANARY}\"; start={CANARY}; boundary=\"{CANARY}1\"; x-{CANARY}=1\r\n\
        Content-Disposition: inline; x={CANARY}\r\n\
        \r\n\
        {CANARY} preamble\r\n\
        --{CANARY}1\r\n\
        Content-Type: multipart/alternative; boundary={CANARY}2\r\n\
        \r\n\
        {CANARY}\r\n\
        --{CANARY}2\r\n\
        Content-Type: text/plain; charset=utf-8 ({CANARY}); x-unix-mode={CANARY}\r\n\
        Content-Transfer-Encoding: 7bit ({CANARY})\r\n\
        Content-Disposition: inline; creation-date=\"{CANARY}\"\r\n\
        {fields}\
        \r\n\
        text\r\n\
        --{CANARY}2\r\n\
        Content-Type: text/html\r\n\
        \r\n\
        <html xmlns:o=\"{CANARY}\"><meta name=generator content={CANARY}><title>{CANARY}</title><style>.{CANARY} {{}}</style>\r\n\
        <!-- {CANARY} --><!--[if mso]>{CANARY}<![endif]--><script src={CANARY}>{CANARY}</script>\r\n\
        <p id={CANARY} class=\"{CANARY}\" data-x='{CANARY}' lang={CANARY} title={CANARY} style='{CANARY}' onclick={CANARY}>text\r\n\
        <{CANARY}><a name={CANARY} href=#{CANARY}>text</a><img src=https://{CANARY}.example/x.gif srcset={CANARY}></p></{CANARY}>\r\n\
        --{CANARY}2--\r\n\
        {CANARY}\r\n\
        --{CANARY}1\r\n\
        Content-Type: image/png; x-apple-part-url={CANARY}; charset={CANARY}\r\n\
        Content-Transfer-Encoding: base64\r\n\
        Content-Disposition: {CANARY}; filename=\"/home/{CANARY}/a.png\"; size={CANARY}; modification-date={CANARY}\r\n\
        {fields}\
        \r\n\
        AAAA\r\n\
        --{CANARY}1-- \r\n\
        {CANARY} epilogue\r\n"
    )
}

#[test]
fn no_canary_outside_the_allow_list_gets_through() {
    let letter = letter();
    let keeping = Policy {
        html: super::super::Html::Keep,
        ..bridge()
    };
    for policy in [bridge(), keeping, exit()] {
        let policy = Policy {
            local_address: bridge().local_address,
            message_id_outside: &|_| None,
            ..policy
        };
        let is_exit = policy.stage != Stage::Bridge;
        let message = rebuild(letter.as_bytes(), &policy)
            .expect("the letter is rebuilt")
            .message;
        let text = String::from_utf8(message).expect("ASCII");
        // The exit trusts the bridge with the identifiers of a thread.
        let text = if is_exit {
            text.replace(&format!("<{CANARY}@host.example>"), "")
        } else {
            text
        };
        assert!(!text.to_ascii_uppercase().contains(CANARY), "{text}");
        assert!(text.contains("\r\ntext\r\n") && text.contains("filename=\"a.png\""));
    }
}

#[test]
fn only_identifiers_of_this_mailbox_stay_in_a_thread() {
    let text = text(
        "References: <known-a@x> <other@x> comment <known-b@x><broken> <known c@x> <known@> <known-b@x>\r\nIn-Reply-To: <other@x>\r\n\r\n",
    );
    assert!(
        text.contains("References: <known-a@x> <known-b@x> <known-b@x>\r\n"),
        "{text}"
    );
    assert!(!text.contains("In-Reply-To"));
}

#[test]
fn what_was_sent_from_here_is_named_as_the_outside_knows_it() {
    let answer = "Message-ID: <own-3@laptop.home>\r\nIn-Reply-To: <own-1@laptop.home>\r\n\
        References: <own-1@laptop.home> <known-2@x> <own 9@laptop.home>\r\n\r\n";
    let rebuilt = rebuilt(answer).expect("an answer");
    assert_eq!(rebuilt.message_id.as_deref(), Some("own-3@laptop.home"));
    let text = String::from_utf8(rebuilt.message).expect("ASCII");
    assert!(
        text.contains("In-Reply-To: <known-1@laptop.home>\r\nReferences: <known-1@laptop.home> <known-2@x>\r\n"),
        "{text}"
    );
    for unnamed in [
        "",
        "Message-ID: bare@x\r\n",
        "Message-ID: <two words@x>\r\n",
        "Message-ID: <>\r\n",
    ] {
        let rebuilt = super::rebuilt(format!("{unnamed}Subject: x\r\n\r\n")).expect("a message");
        assert_eq!(rebuilt.message_id, None, "{unnamed}");
    }
}

#[test]
fn a_long_thread_keeps_its_end() {
    let ids: String = (0..1_000).map(|number| format!(" <known-{number}@x>\r\n")).collect();
    let text = text(format!("References:{ids}\r\n"));
    assert!(!text.contains("<known-899@x>") && text.contains("<known-900@x>") && text.contains("<known-999@x>"));
}

proptest! {
    #[test]
    fn no_unknown_field_gets_through(name in "[A-Za-z][A-Za-z0-9-]{0,30}", value in "[ -~]{0,60}") {
        let known = ["from", "to", "cc", "subject", "in-reply-to", "references", "sender", "reply-to"];
        prop_assume!(!known.contains(&name.to_lowercase().as_str()) && !name.to_lowercase().starts_with("content-"));
        let with = text(format!("{name}: {value}\r\nSubject: x\r\n\r\ntext\r\n"));
        prop_assert_eq!(with, text("Subject: x\r\n\r\ntext\r\n"));
    }
}
