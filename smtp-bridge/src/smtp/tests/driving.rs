use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};

use super::super::*;
use super::backend::*;

/// Serves one end of a pipe; the other end is the client.
fn served(limits: Limits) -> (DuplexStream, Memory) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let backend = memory.clone();
    tokio::spawn(serve(server, limits, backend));
    (client, memory)
}

async fn send(client: &mut DuplexStream, text: &str) {
    client.write_all(text.as_bytes()).await.expect("the server reads");
}

async fn all(mut client: DuplexStream) -> String {
    let mut replied = String::new();
    client.read_to_string(&mut replied).await.expect("ASCII");
    replied
}

/// Reads replies until one has this code.
async fn until(client: &mut DuplexStream, code: &str) -> String {
    let mut replied = Vec::new();
    let last = format!("\r\n{code} ");
    while !format!("\r\n{}", String::from_utf8_lossy(&replied)).contains(&last) || !replied.ends_with(b"\r\n") {
        replied.push(client.read_u8().await.expect("more replies"));
    }
    String::from_utf8(replied).expect("ASCII")
}

const BEGIN: &str = "EHLO x\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nDATA\r\n";

#[tokio::test(start_paused = true)]
async fn a_pipelined_session_is_answered_in_order() {
    let (mut client, memory) = served(mx());
    send(
        &mut client,
        &format!("{BEGIN}one\r\n.\r\n{BEGIN}two\r\n.\r\nQUIT\r\nNOOP\r\n"),
    )
    .await;
    let replied = all(client).await;
    let codes: Vec<&str> = replied
        .lines()
        .filter(|line| line.as_bytes()[3] == b' ')
        .map(|line| &line[..3])
        .collect();
    assert_eq!(
        codes,
        [
            "220", "250", "250", "250", "354", "250", "250", "250", "250", "354", "250", "221"
        ]
    );
    assert_eq!(
        memory
            .stored()
            .iter()
            .map(|stored| &stored.text[..])
            .collect::<Vec<_>>(),
        ["one\r\n", "two\r\n"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_every_buffer_arrives_whole() {
    let limits = Limits {
        size_max: 1 << 21,
        ..mx()
    };
    let (mut client, memory) = served(limits);
    let text = "0123456789abcdef\r\n".repeat(30_000);
    send(&mut client, &format!("{BEGIN}{text}.\r\nQUIT\r\n")).await;
    assert!(all(client).await.ends_with("250 2.0.0 accepted\r\n221 2.0.0 bye\r\n"));
    assert!(memory.stored()[0].text == text);
}

#[tokio::test(start_paused = true)]
async fn the_reply_comes_after_a_half_close() {
    let (mut client, memory) = served(mx());
    send(&mut client, &format!("{BEGIN}text\r\n.\r\n")).await;
    client.shutdown().await.expect("open");
    assert!(all(client).await.ends_with("250 2.0.0 accepted\r\n"));
    assert_eq!(memory.stored().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_within_the_text_stores_nothing() {
    let (mut client, memory) = served(mx());
    send(&mut client, &format!("{BEGIN}text\r\n.\r")).await;
    client.shutdown().await.expect("open");
    assert!(all(client).await.ends_with("354 end with <CRLF>.<CRLF>\r\n"));
    assert!(memory.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_resets_unread_wait_without_filling_memory() {
    let (client, _memory) = served(mx());
    let (mut reads, mut writes) = tokio::io::split(client);
    let writing = tokio::spawn(async move { writes.write_all(&b"RSET\r\n".repeat(10_000)).await.map(|()| writes) });
    sleep(Duration::from_secs(60)).await;
    assert!(
        !writing.is_finished(),
        "the server reads on without sending its replies"
    );
    let mut replied = vec![0; "220 relay.test ESMTP\r\n".len() + 10_000 * "250 2.0.0 ok\r\n".len()];
    reads.read_exact(&mut replied).await.expect("every reply");
    assert!(replied.ends_with(b"\r\n250 2.0.0 ok\r\n"));
    writing.await.expect("no panic").expect("all written");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_replies_is_left_in_the_end() {
    let (mut client, _memory) = served(mx());
    let flood = b"RSET\r\n".repeat(10_000);
    let written = timeout(Timer::Write.allows(0) * 2, client.write_all(&flood)).await;
    assert!(written.expect("the server closes").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_told_421_after_five_minutes() {
    let began = Instant::now();
    let (mut client, _memory) = served(mx());
    // A command that never ends does not count as saying something.
    send(&mut client, "NOOP").await;
    assert!(all(client).await.ends_with("421 4.4.2 timed out\r\n"));
    assert_eq!(began.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn text_may_pause_for_ten_minutes_in_all() {
    let (mut client, memory) = served(mx());
    send(&mut client, BEGIN).await;
    until(&mut client, "354").await;
    for _ in 0..2 {
        sleep(Duration::from_secs(250)).await;
        send(&mut client, "text\r\n").await;
    }
    sleep(Duration::from_secs(101)).await;
    assert!(all(client).await.ends_with("421 4.4.2 timed out\r\n"));
    assert!(memory.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn octets_buy_a_slow_message_time() {
    let (mut client, memory) = served(Limits {
        size_max: 1 << 21,
        ..mx()
    });
    send(&mut client, BEGIN).await;
    until(&mut client, "354").await;
    for _ in 0..20 {
        sleep(Duration::from_secs(60)).await;
        send(&mut client, &"x".repeat(60_000)).await;
    }
    send(&mut client, "\r\n.\r\nQUIT\r\n").await;
    assert!(all(client).await.starts_with("250 2.0.0 accepted\r\n"));
    assert_eq!(memory.stored().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn octets_sent_at_once_buy_no_time_to_hold_the_line() {
    let began = Instant::now();
    let (mut client, memory) = served(Limits {
        size_max: 1 << 23,
        ..mx()
    });
    send(&mut client, BEGIN).await;
    until(&mut client, "354").await;
    send(&mut client, &"x".repeat(5_000_000)).await;
    assert!(all(client).await.ends_with("421 4.4.2 timed out\r\n"));
    assert!(memory.stored().is_empty());
    assert_eq!(began.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_connection_too_many_is_told_so() {
    let (client, server) = duplex(512);
    tokio::spawn(turn_away(server));
    assert_eq!(all(client).await, "421 4.3.2 too many connections, try again later\r\n");
}
