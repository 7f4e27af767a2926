//! What it costs to read what clients send: `cargo bench -p smtp-bridge`.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use mailbox::holder_store::Flags;
use smtp_bridge::imap::{self, MemoryStore, Step};
use smtp_bridge::message::{self, Address, Html, Policy, Sender, Stage, Traces};
use smtp_bridge::smtp::{self, Domain, Event, replies};

fn main() {
    divan::main();
}

/// A message whose text has about so many bytes, as a mail program writes it.
fn message(bytes: usize) -> Vec<u8> {
    let mut message = b"From: A Person <a@relay.test>\r\nTo: Someone Else <someone@example.org>\r\n\
        Subject: A subject of the usual length\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        .to_vec();
    while message.len() < bytes {
        message.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and does so again.\r\n");
    }
    message
}

/// Messages from one that is small to one with much text.
const SIZES: [usize; 2] = [4_096, 65_536];

/// A transaction from `MAIL` to the answer to the text, each command by itself.
#[divan::bench(args = SIZES)]
fn smtp_transaction(bencher: Bencher<'_, '_>, bytes: usize) {
    let domain = Domain::parse("relay.test").expect("a domain");
    let limits = smtp::Limits::mx(domain, 1 << 20);
    let mut session = smtp::Session::new(&limits);
    let mut say = move |words: &[u8]| {
        let mut rest = words;
        loop {
            let (used, event) = session.handle(rest);
            rest = &rest[used..];
            match event {
                None => break,
                Some(Event::Mail(reverse_path, _)) => session.answer_mail(reverse_path, Ok(())),
                Some(Event::Rcpt(recipient)) => session.answer_rcpt(recipient, Ok(())),
                Some(Event::Data) => session.answer_data(Ok(())),
                Some(Event::Text(text)) => drop(black_box(text)),
                Some(Event::TextEnd) => session.answer_text(&replies::ACCEPTED),
                Some(_) => unreachable!("nothing of the kind was said"),
            }
        }
        session.take_output()
    };
    assert!(say(b"EHLO client.test\r\n").starts_with(b"220"));
    let text = [&message(bytes)[..], b".\r\n"].concat();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        say(b"MAIL FROM:<sender@example.org>\r\n");
        say(b"RCPT TO:<alias@relay.test>\r\n");
        say(b"DATA\r\n");
        let reply = say(&text);
        assert!(reply.starts_with(b"250"));
        reply
    });
}

/// A command, its answer included, in a mailbox of ten messages.
#[divan::bench(args = [
    "NOOP",
    "UID FETCH 1:10 (FLAGS)",
    "UID SEARCH UNSEEN",
    "UID FETCH 1:10 (UID FLAGS RFC822.SIZE INTERNALDATE ENVELOPE)",
])]
fn imap_command(bencher: Bencher<'_, '_>, command: &str) {
    let inbox = MemoryStore::new("user", "password", || 0);
    for _ in 0..10 {
        inbox.add(message(SIZES[0]), Flags::default(), None);
    }
    let mut session = imap::Session::new(&imap::Limits::default());
    let mut say = move |words: &str| {
        session.handle_bytes(words.as_bytes());
        let mut said = Vec::new();
        loop {
            match session.poll(&inbox) {
                Step::Transmit => {
                    said.extend_from_slice(session.transmit());
                    session.handle_transmitted(session.transmit().len());
                }
                Step::Ask(ask) => session.handle_answer(inbox.answer(ask)),
                Step::Receive { .. } | Step::Close => return said,
            }
        }
    };
    say("a LOGIN user password\r\nb SELECT INBOX\r\n");
    let line = format!("c {command}\r\n");
    assert!(say(&line).windows(4).any(|words| words == b"c OK"));
    bencher.bench_local(|| say(&line));
}

/// A message rebuilt, as a bridge does it.
#[divan::bench(args = SIZES)]
fn rebuild(bencher: Bencher<'_, '_>, bytes: usize) {
    let address = |text: &str| Address::parse(text).expect("an address");
    let no_traces = Traces::NONE;
    let policy = Policy {
        stage: Stage::Bridge,
        sender: Sender {
            address: address("a@relay.test"),
            display_name: None,
        },
        local_address: Some(address("a@localhost")),
        message_id_outside: &|_| None,
        html: Html::Drop,
        traces: &no_traces,
        largest: 1 << 20,
    };
    let message = message(bytes);
    bencher
        .counter(BytesCount::new(message.len()))
        .bench_local(|| message::rebuild(&message, &policy).expect("an ordinary message"));
}
