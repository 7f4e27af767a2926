use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::super::*;
use super::backend::*;
use crate::net::{BoxStream, Promise};

/// Serves one end of a pipe; the other end is the client.
fn served(limits: Limits) -> (DuplexStream, Memory) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let backend = memory.clone();
    tokio::spawn(serve(Box::new(server), Door::new(limits), backend));
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

/// A message in chunks, one a minute: each gets its reply, and all together have the time of one text.
#[tokio::test(start_paused = true)]
async fn chunks_drag_no_message_out() {
    let began = Instant::now();
    let (mut client, memory) = served(mx());
    send(&mut client, "EHLO x\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\n").await;
    sleep(Duration::from_secs(200)).await;
    for _ in 0..9 {
        send(&mut client, "BDAT 1\r\na").await;
        sleep(Duration::from_secs(60)).await;
    }
    send(&mut client, "BDAT 1\r\na").await;
    assert!(
        all(client)
            .await
            .ends_with("250 2.0.0 chunk received\r\n421 4.4.2 timed out\r\n")
    );
    assert_eq!(began.elapsed().as_secs(), 800);
    assert!(memory.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_an_octet_a_minute_is_left() {
    let began = Instant::now();
    let (mut client, _memory) = served(mx());
    let typing = async {
        loop {
            if client.write_all(b"N").await.is_err() {
                return;
            }
            sleep(Duration::from_secs(60)).await;
        }
    };
    timeout(Duration::from_secs(400), typing)
        .await
        .expect("the server hangs up");
    assert!(began.elapsed().as_secs() <= 361, "{:?}", began.elapsed());
}

/// Serves behind a door that the sender closes.
fn closing(limits: Limits) -> (DuplexStream, Memory, watch::Sender<bool>) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let (stop, closing) = watch::channel(false);
    tokio::spawn(serve(
        Box::new(server),
        Door::new(limits).until(closing),
        memory.clone(),
    ));
    (client, memory, stop)
}

const CLOSED: &str = "421 4.3.2 shutting down, try again later\r\n";

#[tokio::test(start_paused = true)]
async fn who_waits_at_a_closing_door_is_told_so() {
    for begin in [
        "",
        "EHLO x\r\n",
        "EHLO x\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nNO",
    ] {
        let (mut client, _memory, stop) = closing(mx());
        send(&mut client, begin).await;
        sleep(Duration::from_secs(1)).await;
        stop.send_replace(true);
        assert!(all(client).await.ends_with(CLOSED), "{begin}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_in_when_the_door_closes_gets_its_answer() {
    for (begin, end) in [
        (BEGIN, "text\r\n.\r\n"),
        (
            "EHLO x\r\nMAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nBDAT 4\r\nte",
            "xtBDAT 2 LAST\r\n\r\n",
        ),
    ] {
        let (mut client, memory, stop) = closing(mx());
        send(&mut client, begin).await;
        sleep(Duration::from_secs(1)).await;
        stop.send_replace(true);
        sleep(Duration::from_secs(1)).await;
        send(&mut client, end).await;
        assert!(all(client).await.ends_with(&format!("250 2.0.0 accepted\r\n{CLOSED}")));
        assert_eq!(memory.stored()[0].text, "text\r\n");

        let (mut client, memory, stop) = closing(mx());
        send(&mut client, begin).await;
        sleep(Duration::from_secs(1)).await;
        stop.send_replace(true);
        send(
            &mut client,
            &format!("{end}MAIL FROM:<x@y>\r\nRCPT TO:<a@relay.test>\r\nDATA\r\n"),
        )
        .await;
        assert!(all(client).await.ends_with(&format!("250 2.0.0 accepted\r\n{CLOSED}")));
        assert_eq!(memory.stored().len(), 1, "the next one is not begun");
    }
}

/// Stands for TLS: wants a word first, and says one.
struct Password;

impl Secure for Password {
    fn secure(&self, mut stream: BoxStream) -> Promise<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let mut word = [0; 5];
            stream.read_exact(&mut word).await?;
            stream.write_all(b"<hello>\r\n").await?;
            (&word == b"hello")
                .then_some(stream)
                .ok_or_else(|| io::ErrorKind::InvalidData.into())
        })
    }
}

fn secured() -> (DuplexStream, Memory) {
    let (client, server) = duplex(4_096);
    let memory = Memory::default();
    let door = Door::new(mx()).with_tls(Arc::new(Password));
    tokio::spawn(serve(Box::new(server), door, memory.clone()));
    (client, memory)
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_anew_under_tls() {
    let (mut client, memory) = secured();
    send(&mut client, "EHLO x\r\nSTARTTLS\r\n").await;
    let offered = until(&mut client, "220 2.0.0").await;
    assert!(offered.contains("250 STARTTLS\r\n"), "{offered}");
    send(
        &mut client,
        &format!("helloDATA\r\n{BEGIN}text\r\n.\r\nSTARTTLS\r\nQUIT\r\n"),
    )
    .await;
    let under = all(client).await;
    assert!(under.starts_with("<hello>\r\n503 5.5.1"), "{under}");
    assert!(!under.contains("STARTTLS"), "{under}");
    assert!(under.ends_with("250 2.0.0 accepted\r\n503 5.5.1 bad sequence of commands\r\n221 2.0.0 bye\r\n"));
    assert_eq!(memory.stored().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_behind_starttls_in_the_clear_ends_the_session() {
    let (mut client, _memory) = secured();
    send(&mut client, "EHLO x\r\nSTARTTLS\r\nhelloNOOP\r\n").await;
    let said = all(client).await;
    assert!(said.ends_with("421 4.7.0 nothing may follow STARTTLS\r\n"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_end() {
    let began = Instant::now();
    let (mut client, _memory) = secured();
    send(&mut client, "EHLO x\r\nSTARTTLS\r\n").await;
    until(&mut client, "220 2.0.0").await;
    send(&mut client, "hell").await;
    assert_eq!(all(client).await, "");
    assert_eq!(began.elapsed().as_secs(), 30);

    let (mut client, _memory) = secured();
    send(&mut client, "EHLO x\r\nSTARTTLS\r\n").await;
    until(&mut client, "220 2.0.0").await;
    send(&mut client, "EHLO \r\n").await;
    assert_eq!(all(client).await, "<hello>\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_connection_too_many_is_told_so() {
    let (client, server) = duplex(512);
    tokio::spawn(turn_away(Box::new(server)));
    assert_eq!(all(client).await, "421 4.3.2 too many connections, try again later\r\n");
}
