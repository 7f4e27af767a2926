use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::super::*;
use super::backend::*;

fn from(text: &str) -> ReversePath {
    ReversePath::parse(text).expect("a reverse-path")
}

fn to(text: &str) -> Mailbox {
    Mailbox::parse(text).expect("an address")
}

/// Delivers on a connection of its own.
async fn once(stream: DuplexStream, reverse_path: &str, recipient: &str, message: &[u8]) -> DeliveryResult {
    let mut connection = match Connection::open(stream, &domain()).await {
        Ok(connection) => connection,
        Err(result) => return result,
    };
    let attempt = connection.deliver(&from(reverse_path), &to(recipient), message).await;
    connection.quit().await;
    attempt.result()
}

/// Delivers to our own server.
async fn delivered(reverse_path: &str, recipient: &str, message: &[u8]) -> (DeliveryResult, Vec<Stored>) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let backend = memory.clone();
    let serving = tokio::spawn(serve(Box::new(server), Door::new(mx()), backend));
    let result = once(client, reverse_path, recipient, message).await;
    serving.await.expect("no panic");
    (result, memory.stored())
}

/// A server that says these lines, one after each line of ours, and then closes; after an empty one it is silent.
fn script(replies: &'static [&'static str]) -> DuplexStream {
    let (client, mut server) = duplex(4_096);
    tokio::spawn(async move {
        for reply in replies {
            server.write_all(reply.as_bytes()).await.expect("the client reads");
            while server.read_u8().await.expect("the client writes") != b'\n' {}
        }
        if replies.last() == Some(&"") {
            std::future::pending::<()>().await;
        }
    });
    client
}

async fn scripted(replies: &'static [&'static str], message: &'static [u8]) -> DeliveryResult {
    once(script(replies), "a@relay.test", "b@c", message).await
}

/// What comes of one message after the other on a connection to such a server, and whether it can take another then.
async fn in_turn(replies: &'static [&'static str], messages: usize) -> (Vec<Attempt>, bool) {
    let mut connection = Connection::open(script(replies), &domain()).await.expect("a greeting");
    let mut attempts = Vec::new();
    for _ in 0..messages {
        attempts.push(connection.deliver(&from("a@b"), &to("b@c"), b"").await);
    }
    (attempts, connection.is_usable().await)
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_as_it_was_given() {
    for (message, text) in [
        (&b"a: b\r\n\r\nc\r\n"[..], "a: b\r\n\r\nc\r\n"),
        (b".\r\n..\r\nx\r\n.", ".\r\n..\r\nx\r\n.\r\n"),
        (b"no newline", "no newline\r\n"),
        (b"two\r\n\r\n", "two\r\n\r\n"),
        (b"", ""),
        (b"8-bit \xe9\r\n", "8-bit \u{e9}\r\n"),
        // Nothing that a server could take for the end of the text, and a command behind it.
        (b"a\n.\r\nMAIL FROM:<s@x>\r\n", "a\r\n.\r\nMAIL FROM:<s@x>\r\n"),
        (b"a\r.\rb\r\n.\nc\r", "a\r\n.\r\nb\r\n.\r\nc\r\n"),
    ] {
        let (result, stored) = delivered("x@y", "a@relay.test", message).await;
        assert_eq!(result, DeliveryResult::Delivered);
        assert_eq!(
            stored,
            [Stored {
                from: "x@y".into(),
                to: vec!["a@relay.test".into()],
                text: text.into()
            }]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bounces_and_odd_addresses_are_written_as_rfc_5321_has_them() {
    let (result, stored) = delivered("", "\"a b\"@relay.test", b"x\r\n").await;
    assert_eq!(result, DeliveryResult::Delivered);
    assert_eq!((&stored[0].from[..], &stored[0].to[0][..]), ("", "\"a b\"@relay.test"));
}

fn transient(code: impl Into<Option<u16>>, status: &str) -> DeliveryResult {
    let status = Enhanced::parse(status).expect("a status");
    DeliveryResult::Transient {
        code: code.into(),
        status,
    }
}

fn permanent(code: impl Into<Option<u16>>, status: &str) -> DeliveryResult {
    let status = Enhanced::parse(status).expect("a status");
    DeliveryResult::Permanent {
        code: code.into(),
        status,
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_its_codes() {
    let too_big = [b'x'; SIZE_MAX as usize];
    for (recipient, message, result) in [
        ("a1@relay.test", &b"x\r\n"[..], permanent(550, "5.1.1")),
        ("a@relay.test", &too_big, permanent(552, "5.3.4")),
        ("a@relay.test", b"POISON\r\n", transient(451, "4.3.0")),
    ] {
        assert_eq!(delivered("x@y", recipient, message).await.0, result);
    }
}

#[tokio::test(start_paused = true)]
async fn servers_out_of_step_are_worth_another_try() {
    for (replies, result) in [
        (&["554 5.7.1 go away\r\n"][..], transient(554, "4.0.0")),
        (&["220 x\r\n", "502 what\r\n"], transient(502, "4.0.0")),
        (
            &["220 x\r\n", "250 x\r\n", "421 4.3.2 closing\r\n"],
            transient(421, "4.3.2"),
        ),
        (
            &["220 x\r\n", "250 x\r\n", "250 ok\r\n", "450 5.1.1 grey\r\n"],
            transient(450, "4.0.0"),
        ),
        (
            &["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "250 ok\r\n"],
            transient(None, "4.4.2"),
        ),
        (&["220 x\r\n", "250 x\r\n", "354 ok\r\n"], transient(None, "4.4.2")),
        (
            &["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"],
            transient(None, "4.4.2"),
        ),
        (
            &["220 x\r\n", "250-x\r\n250-   \r\n250 y\r\n", "\u{20ac}\r\n"],
            transient(None, "4.4.2"),
        ),
        (&["garbage\r\n"], transient(None, "4.4.2")),
    ] {
        assert_eq!(scripted(replies, b"x\r\n").await, result, "{replies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_without_enhanced_codes_get_a_general_one() {
    for replies in [
        &["220 x\r\n", "250 x\r\n", "550 no\r\n"],
        &["220 x\r\n", "250 x\r\n", "550 4.1.1 no\r\n"],
        &["220 x\r\n", "250 x\r\n", "550-no\r\n550 5.1.1 no\r\n"],
    ] {
        assert_eq!(scripted(replies, b"x\r\n").await, permanent(550, "5.0.0"));
    }
}

#[tokio::test(start_paused = true)]
async fn eight_bit_text_needs_8bitmime() {
    assert_eq!(
        scripted(&["220 x\r\n", "250 x\r\n"], b"\xe9\r\n").await,
        permanent(None, "5.6.3")
    );
}

#[tokio::test(start_paused = true)]
async fn every_step_has_its_end() {
    for (replies, seconds) in [
        (&[""][..], 300),
        (&["220 x\r\n", ""], 300),
        (&["220 x\r\n", "250 x\r\n", ""], 300),
        (&["220 x\r\n", "250 x\r\n", "250 ok\r\n", ""], 300),
        (&["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", ""], 120),
        (
            &["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", ""],
            780,
        ),
    ] {
        let began = Instant::now();
        assert_eq!(scripted(replies, b"x\r\n").await, transient(None, "4.4.2"));
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_result_does_not_wait_for_the_farewell() {
    let began = Instant::now();
    let replies = &["220 x\r\n", "250 x\r\n", "550 5.1.1 no\r\n", ""];
    assert_eq!(scripted(replies, b"x\r\n").await, permanent(550, "5.1.1"));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

const PIPELINING: &str = "250-x\r\n250 PIPELINING\r\n";

#[tokio::test(start_paused = true)]
async fn one_connection_carries_many_messages() {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    tokio::spawn(serve(Box::new(server), Door::new(mx()), memory.clone()));
    let mut connection = Connection::open(client, &domain()).await.expect("a greeting");
    for (recipient, message, result) in [
        ("a@relay.test", &b"one\r\n"[..], DeliveryResult::Delivered),
        ("a1@relay.test", b"to nobody\r\n", permanent(550, "5.1.1")),
        ("b@relay.test", b"two\r\n", DeliveryResult::Delivered),
        ("b@relay.test", b"POISON\r\n", transient(451, "4.3.0")),
        ("c@relay.test", b".three", DeliveryResult::Delivered),
    ] {
        let attempt = connection.deliver(&from("x@y"), &to(recipient), message).await;
        assert_eq!(attempt, Attempt::Ended(result));
        assert!(connection.is_usable().await);
    }
    let texts: Vec<String> = memory.stored().into_iter().map(|stored| stored.text).collect();
    assert_eq!(texts, ["one\r\n", "two\r\n", ".three\r\n"]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_came_to_nothing_is_reset() {
    let refused = Attempt::Ended(permanent(550, "5.1.1"));
    let one_by_one = &[
        "220 x\r\n",
        "250 x\r\n",
        "250 from\r\n",
        "550 5.1.1 to\r\n",
        "250 reset\r\n",
        "451 4.3.0 from\r\n",
        "",
    ];
    let (attempts, is_usable) = in_turn(one_by_one, 2).await;
    assert_eq!(attempts, [refused, Attempt::Ended(transient(451, "4.3.0"))]);
    assert!(is_usable);
    let at_once = &[
        "220 x\r\n",
        PIPELINING,
        "250 from\r\n",
        "550 5.1.1 to\r\n",
        "503 data\r\n",
        "500 reset\r\n",
    ];
    let (attempts, is_usable) = in_turn(at_once, 2).await;
    assert_eq!(
        attempts,
        [refused, Attempt::Closed(transient(None, "4.4.2"))],
        "a refused RSET is no message's fault"
    );
    assert!(!is_usable);
}

#[tokio::test(start_paused = true)]
async fn the_first_refusal_of_a_batch_counts() {
    for (replies, result, stays) in [
        (
            ["250 from", "550 5.1.1 to", "503 5.5.1 data"],
            permanent(550, "5.1.1"),
            true,
        ),
        (["450 4.7.1 from", "503 to", "503 data"], transient(450, "4.7.1"), true),
        (["250 from", "250 to", "451 4.3.0 data"], transient(451, "4.3.0"), true),
        // It waits for a text that must not come.
        (["250 from", "550 5.1.1 to", "354 go"], permanent(550, "5.1.1"), false),
        (["550 5.7.1 from", "421 4.7.0 to", ""], permanent(550, "5.7.1"), false),
        (["250 from", "250 to", "250 data"], transient(None, "4.4.2"), false),
    ] {
        let (client, mut server) = duplex(4_096);
        tokio::spawn(async move {
            let lines = replies.map(|reply| format!("{reply}\r\n"));
            let says = format!("220 x\r\n{PIPELINING}{}", lines.concat());
            server.write_all(says.as_bytes()).await.expect("the client reads");
            std::future::pending::<()>().await;
        });
        let mut connection = Connection::open(client, &domain()).await.expect("a greeting");
        let attempt = connection.deliver(&from("a@b"), &to("b@c"), b"x").await;
        assert_eq!(attempt, Attempt::Ended(result), "{replies:?}");
        assert_eq!(connection.is_usable().await, stays, "{replies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_before_the_text_is_told_from_one_behind_it() {
    for (replies, attempt) in [
        (
            &["220 x\r\n", "250 x\r\n"][..],
            Attempt::Closed(transient(None, "4.4.2")),
        ),
        (
            &["220 x\r\n", "250 x\r\n", "421 4.3.2 closing\r\n"],
            Attempt::Closed(transient(421, "4.3.2")),
        ),
        (
            &[
                "220 x\r\n",
                "250 x\r\n",
                "250 ok\r\n",
                "250 ok\r\n",
                "421 4.3.2 closing\r\n",
            ],
            Attempt::Closed(transient(421, "4.3.2")),
        ),
        (
            &["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"],
            Attempt::Ended(transient(None, "4.4.2")),
        ),
        (
            &[
                "220 x\r\n",
                "250 x\r\n",
                "250 ok\r\n",
                "250 ok\r\n",
                "354 go\r\n",
                "421 4.3.2 closing\r\n",
            ],
            Attempt::Ended(transient(421, "4.3.2")),
        ),
        (
            &["220 x\r\n", PIPELINING, "250 ok\r\n"],
            Attempt::Closed(transient(None, "4.4.2")),
        ),
        // Silence is no end: another connection would wait as long.
        (
            &["220 x\r\n", "250 x\r\n", ""],
            Attempt::Ended(transient(None, "4.4.2")),
        ),
    ] {
        assert_eq!(in_turn(replies, 1).await, (vec![attempt], false), "{replies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_message_is_stuffed_wherever_it_is_cut() {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let limits = Limits {
        size_max: 1 << 22,
        ..mx()
    };
    tokio::spawn(serve(Box::new(server), Door::new(limits), memory.clone()));
    let mut connection = Connection::open(client, &domain()).await.expect("a greeting");
    for lead in 0..8 {
        let message = "y".repeat(65_528 + lead) + &".".repeat(8) + &"\r\n.\r\n..\r\n".repeat(3) + ".";
        let attempt = connection
            .deliver(&from("x@y"), &to("a@relay.test"), message.as_bytes())
            .await;
        assert_eq!(attempt, Attempt::Ended(DeliveryResult::Delivered));
        assert!(memory.stored()[lead].text == message + "\r\n");
    }
}

/// A connection that is open, and what it was told so far, line by line.
async fn opened(replies: &'static [&'static str]) -> Connection<DuplexStream> {
    Connection::open(script(replies), &domain()).await.expect("a greeting")
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_ehlo_is_greeted_as_of_old() {
    let replies = &[
        "220 x\r\n",
        "502 5.5.1 what\r\n",
        "250 x\r\n",
        "250 from\r\n",
        "550 5.1.1 to\r\n",
    ];
    assert_eq!(scripted(replies, b"x\r\n").await, permanent(550, "5.1.1"));
    let neither = &["220 x\r\n", "500 what\r\n", "521 5.3.2 no mail here\r\n"];
    assert_eq!(scripted(neither, b"x\r\n").await, transient(500, "4.0.0"));
}

#[tokio::test(start_paused = true)]
async fn a_server_with_our_own_name_is_known() {
    assert!(opened(&["220 Relay.Test ESMTP\r\n", "250 x\r\n"]).await.is_own());
    assert!(!opened(&["220 x\r\n", "250 relay.test\r\n"]).await.is_own());
}

#[tokio::test(start_paused = true)]
async fn tls_is_asked_for_and_all_before_it_forgotten() {
    let replies = &[
        "220 x\r\n",
        "250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 STARTTLS\r\n",
        "220 go\r\n",
        "250 x\r\n",
        "250 from\r\n",
        "250 to\r\n",
        "354 go\r\n",
    ];
    let connection = opened(replies).await;
    assert!(connection.offers_tls());
    let stream = connection.start_tls().await.expect("220");
    let mut connection = Connection::open_secured(stream, &domain()).await.expect("250");
    assert!(!connection.offers_tls());
    // What was offered before, in the clear, counts no more.
    let attempt = connection.deliver(&from("a@b"), &to("b@c"), b"\xe9\r\n").await;
    assert_eq!(attempt, Attempt::Ended(permanent(None, "5.6.3")));
}

#[tokio::test(start_paused = true)]
async fn what_came_in_the_clear_behind_the_go_ahead_ends_the_connection() {
    for (replies, result) in [
        (
            &["220 x\r\n", "250 STARTTLS\r\n", "220 go\r\n250 injected\r\n"],
            transient(None, "4.4.2"),
        ),
        (
            &["220 x\r\n", "250 STARTTLS\r\n", "454 4.7.0 not now\r\n"],
            transient(454, "4.7.0"),
        ),
        (&["220 x\r\n", "250 STARTTLS\r\n", ""], transient(None, "4.4.2")),
    ] {
        assert_eq!(
            opened(replies).await.start_tls().await.err(),
            Some(result),
            "{replies:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_ends_with_235() {
    for (replies, result) in [
        (&["220 x\r\n", "250 AUTH PLAIN\r\n", "235 in\r\n"][..], Ok(())),
        (
            &[
                "220 x\r\n",
                "250 AUTH LOGIN\r\n",
                "334 VXNlcm5hbWU6\r\n",
                "334 x\r\n",
                "235 in\r\n",
            ],
            Ok(()),
        ),
        (
            &["220 x\r\n", "250 AUTH PLAIN\r\n", "535 5.7.8 no\r\n"],
            Err(transient(535, "4.0.0")),
        ),
        (
            &["220 x\r\n", "250 AUTH PLAIN\r\n", "334 more\r\n"],
            Err(transient(None, "4.4.2")),
        ),
        (
            &["220 x\r\n", "250 AUTH LOGIN\r\n", "235 too early\r\n"],
            Err(transient(None, "4.4.2")),
        ),
        (&["220 x\r\n", "250 AUTH CRAM-MD5\r\n"], Err(transient(None, "4.7.0"))),
    ] {
        let mut connection = opened(replies).await;
        let login = connection.login("me", b"secret").await;
        assert_eq!(login, result, "{replies:?}");
        let has_asked = replies.len() > 2;
        assert_eq!(connection.is_usable().await, login.is_ok() || !has_asked, "{replies:?}");
    }
}
