use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

use super::super::*;
use super::backend::*;

fn from(text: &str) -> ReversePath {
    ReversePath::parse(text).expect("a reverse-path")
}

fn to(text: &str) -> Mailbox {
    Mailbox::parse(text).expect("an address")
}

/// Delivers to our own server.
async fn delivered(reverse_path: &str, recipient: &str, message: &[u8]) -> (DeliveryResult, Vec<Stored>) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let backend = memory.clone();
    let serving = tokio::spawn(serve(server, mx(), backend));
    let result = deliver(client, &domain(), &from(reverse_path), &to(recipient), message).await;
    serving.await.expect("no panic");
    (result, memory.stored())
}

/// Delivers to a server that says these lines, one after each line of ours, and then nothing more.
async fn scripted(replies: &'static [&'static str], message: &'static [u8]) -> DeliveryResult {
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
    deliver(client, &domain(), &from("a@relay.test"), &to("b@c"), message).await
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_as_it_was_given() {
    for (message, text) in [
        (&b"a: b\r\n\r\nc\r\n"[..], "a: b\r\n\r\nc\r\n"),
        (b".\r\n..\r\nx\r\n.", ".\r\n..\r\nx\r\n.\r\n"),
        (b"no newline", "no newline\r\n"),
        (b"two\r\n\r\n", "two\r\n\r\n"),
        (b"", "\r\n"),
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
        (&[""][..], 600),
        (&["220 x\r\n", ""], 600),
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
