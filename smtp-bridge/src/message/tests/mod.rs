//! Whole messages through [`rebuild`](super::rebuild): one file for each question.

mod clients;
mod hostile;
mod leaks;
mod mixing;
mod openpgp;
mod pages;
mod refused;
mod reports;
mod traces;
mod unknown;

use super::{Address, Policy, Rebuilt, Refusal, Sender, Stage, answers, rebuild};

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

static NO_TRACES: super::Traces = super::Traces::NONE;

fn bridge() -> Policy<'static> {
    Policy {
        stage: Stage::Bridge,
        sender: Sender {
            address: address("heron@relay.test"),
            display_name: None,
        },
        local_address: Some(address("a@localhost")),
        message_id_outside: &|id| match id.strip_prefix("own") {
            Some(rest) => Some(format!("known{rest}")),
            None => id.starts_with("known").then(|| id.to_owned()),
        },
        html: super::Html::Drop,
        traces: &NO_TRACES,
        largest: super::limits::MESSAGE_BYTES_MAX,
    }
}

fn exit() -> Policy<'static> {
    Policy {
        stage: Stage::Exit {
            message_id_local: "k7f3".into(),
            domain: "relay.test".into(),
            date: 1_700_000_000,
        },
        local_address: None,
        ..bridge()
    }
}

/// Rebuilds at the bridge, checks the result as the fuzzer does, and gives it.
fn rebuilt(raw: impl AsRef<[u8]>) -> Result<Rebuilt, Refusal> {
    super::fuzz(raw.as_ref());
    rebuild(raw.as_ref(), &bridge())
}

/// The rebuilt message as text.
fn text(raw: impl AsRef<[u8]>) -> String {
    let message = rebuilt(raw).expect("the message is rebuilt").message;
    String::from_utf8(message).expect("ASCII")
}

/// The last part of the rebuilt message as text, for single texts: the body.
fn body(raw: impl AsRef<[u8]>) -> String {
    let text = text(raw);
    text.split_once("\r\n\r\n").expect("a header").1.to_owned()
}

#[test]
fn an_answer_whose_sender_is_left_open_tells_what_it_answers() {
    let local = address("a@localhost");
    let answered = |header: &str| answers(format!("{header}\r\n\r\ntext\r\n").as_bytes(), &local);
    for header in [
        "From: Me <A@LOCALHOST>\r\nIn-Reply-To: <x@y>",
        "In-Reply-To: some <w@y> <x@y>",
        "From: a@localhost\r\nSender: a@localhost\r\nReferences: <v@y>\r\n <x@y>",
    ] {
        assert_eq!(answered(header).as_deref(), Some("x@y"), "{header}");
    }
    for header in [
        "From: a@localhost",
        "From: alias@relay.test\r\nIn-Reply-To: <x@y>",
        "From: a@localhost\r\nReply-To: alias@relay.test\r\nIn-Reply-To: <x@y>",
        "From: a@localhost\r\nIn-Reply-To: <>",
    ] {
        assert_eq!(answered(header), None, "{header}");
    }
}
