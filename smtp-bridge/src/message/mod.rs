//! Messages: rebuilt before they leave, written when we report.
//!
//! [`rebuild`] reads a message into its meaning (people, subject, thread, text, files) and writes a new one from that alone, so that two
//! clients with the same thing to say send the same bytes. What has no place in the meaning does not exist any more; what cannot be
//! read is refused. It is pure: the bridge runs it before the outbox, the exit relay again before delivery, on what the bridge made.
//!
//! Beside what is said stands what it gives away: [`Traces`] of the user, and the keys and signatures of others, are refused; a field
//! of the client's, `X-Postern-Pass`, lets them through where they are meant.
//!
//! [`dsn()`] and [`notice()`] write messages of our own, with the same writer.
//!
//! Not here: SMTP envelopes (Bcc is only there), signing, IMAP structures, time and randomness.

pub mod address;
mod attachment;
pub mod carried;
mod charset;
mod dsn;
mod emit;
mod encode;
mod entity;
mod envelope;
mod header;
mod html;
pub mod limits;
mod media;
mod mixing;
mod notice;
mod openpgp;
mod originals;
mod params;
mod parts;
mod policy;
mod refusal;
mod signed;
mod text;
mod thread;
mod traces;
mod unknown;
mod within;
mod words;

#[cfg(test)]
mod tests;

pub use address::{Address, AddressError};
pub use dsn::{Action, Recipient, Report, dsn};
pub use emit::redate;
pub(crate) use encode::base64;
pub use header::{LoopCounter, begins_with_header, header_value, received_count};
pub use media::{Media, media};
pub use mixing::Mix;
pub use notice::{Notice, notice};
pub use originals::{REPORT_BYTES_MAX, name_originals, reported_message};
pub use policy::{Html, Policy, Sender, Stage};
pub use refusal::{Place, Refusal};
pub use thread::rename_message_ids;
pub use traces::Traces;

use envelope::Envelope;
use header::Headless;
use parts::Content;

/// A message that may leave.
#[derive(Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The new message: ASCII but for text of an unknown charset, CRLF, lines of at most 998 octets, only fields of the allow
    /// list.
    pub message: Vec<u8>,
    /// What the sender may want to know.
    pub warnings: Vec<Warning>,
    /// The subject as text, for the sender's own lists.
    pub subject: String,
    /// What the client called the message, without angle brackets: its answers will name it so.
    pub message_id: Option<String>,
    /// How the client wants it mixed, if it says so for this message.
    pub mix: Option<Mix>,
}

/// Something that was let through, but that the sender may not expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// The message had HTML only; its text was taken.
    HtmlConverted,
    /// OpenPGP armour stands in the text. What it names was looked at; that it was used shows.
    OpenPgpInText,
    /// A signature was let through, as was asked for: it names its signer.
    SignaturePassed,
    /// Text of which nobody said in which charset it is written left octet for octet.
    UnknownCharset,
}

/// Builds the message that leaves from the one that the client wrote.
///
/// Deterministic and idempotent: rebuilding the result at the same stage gives the same bytes, and the exit adds Date and Message-ID
/// to what the bridge made, nothing else. Linear in the size of the message.
pub fn rebuild(raw: &[u8], policy: &Policy<'_>) -> Result<Rebuilt, Refusal> {
    if raw.len() > policy.largest + limits::EXIT_LINES_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    if raw.contains(&0) {
        return Err(Refusal::Nul);
    }
    let (header, body) = header::split(raw, limits::HEADER_BYTES_MAX, Headless::AllBody)?;
    if policy.stage == Stage::Bridge && header.is_empty() && begins_with_header(body) {
        return Err(Refusal::LateHeader);
    }
    let pass = policy.pass(&header)?;
    // What the exit takes has been asked for in the envelope.
    let mix = match policy.stage {
        Stage::Bridge => Mix::read(&header)?,
        Stage::Exit { .. } => None,
    };
    let envelope = Envelope::read(&header, policy)?;
    if !pass.traces {
        envelope.check_traces(policy.traces)?;
    }
    let content = Content::read(&header, body, policy, pass)?;
    let message = emit::message(&envelope, &content, policy)?;
    Ok(Rebuilt {
        message,
        warnings: content.warnings,
        subject: envelope.subject,
        message_id: envelope.message_id,
        mix,
    })
}

/// What the client calls the message that this one answers, where the sender is named by `local_address` alone, so that
/// any of its aliases may be meant. The last of In-Reply-To counts, or else of References.
pub fn answers(raw: &[u8], local_address: &Address) -> Option<String> {
    let (header, _) = header::split(raw, limits::HEADER_BYTES_MAX, Headless::AllBody).ok()?;
    envelope::answers(&header, local_address)
}

/// The display name that the bridge put before the sender's alias; the relay knows aliases, but not their names.
pub fn sender_name(rebuilt_by_bridge: &[u8]) -> Option<String> {
    let (header, _) = header::split(rebuilt_by_bridge, limits::HEADER_BYTES_MAX, Headless::AllBody).ok()?;
    envelope::sender_name(&header)
}

/// Rebuilds arbitrary bytes as bridge and exit would and asserts everything that is promised of the result.
pub fn fuzz(bytes: &[u8]) {
    let address = |text: &str| Address::parse(text).expect("a valid address");
    let traces = Traces::new(&["me@work.example", "Alice Liddell"]);
    let policy = |stage, html| Policy {
        stage,
        html,
        traces: &traces,
        sender: Sender {
            address: address("alias@relay.test"),
            display_name: None,
        },
        local_address: Some(address("a@localhost")),
        message_id_outside: &|id| (id.len() % 2 == 0).then(|| id.to_owned()),
        largest: 1 << 20,
    };
    let exit = Stage::Exit {
        message_id_local: "x".into(),
        domain: "relay.test".into(),
        date: 0,
    };
    let exit = policy(exit, Html::Drop);
    let mut counter = LoopCounter::default();
    bytes.chunks(3).for_each(|chunk| counter.feed(chunk));
    assert_eq!(counter.count(), received_count(bytes));
    fuzz_report(bytes);
    answers(bytes, &address("a@localhost"));
    thread::fuzz(bytes);
    originals::fuzz(bytes);
    openpgp::fuzz(bytes);
    begins_with_header(bytes);
    let _ = within::are_in_entity(&traces, bytes, 1);
    let _ = traces.are_in_octets(bytes);
    for html in [Html::Drop, Html::Keep] {
        fuzz_rebuild(bytes, &policy(Stage::Bridge, html), &exit);
    }
}

/// Rebuilds at the bridge, again there and at the exit.
fn fuzz_rebuild(bytes: &[u8], bridge: &Policy<'_>, exit: &Policy<'_>) {
    let Ok(first) = rebuild(bytes, bridge) else { return };
    assert_is_canonical(&first.message);
    // What was let through is let through by asking for it again: the field has gone.
    let asked = [b"X-Postern-Pass: signed, traces\r\n", &first.message[..]].concat();
    assert_eq!(
        rebuild(&asked, bridge).map(|again| again.message),
        Ok(first.message.clone()),
        "idempotent"
    );
    let last = rebuild(&first.message, exit)
        .expect("the exit takes what the bridge made")
        .message;
    let lines = b"Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <x@relay.test>\r\n";
    assert_eq!(
        last.strip_prefix(lines),
        Some(first.message.as_slice()),
        "the exit adds two fields"
    );
    assert_eq!(
        rebuild(&last, exit).map(|again| again.message),
        Ok(last),
        "idempotent at the exit"
    );
}

/// Writes a report about arbitrary bytes with arbitrary words in it.
fn fuzz_report(bytes: &[u8]) {
    let address = Address::parse("alias@relay.test").expect("a valid address");
    let reply = String::from_utf8_lossy(bytes);
    let (status, diagnostic) = ("5.0.0", Some(&*reply));
    let recipient = Recipient {
        address: &address,
        action: Action::Failed,
        status,
        remote_mta: diagnostic,
        diagnostic,
    };
    let (reporting_mta, message_id_local) = ("relay.test", "x");
    let report = Report {
        reporting_mta,
        to: &address,
        message_id_local,
        date: 0,
        recipients: &[recipient],
        original: bytes,
    };
    let message = dsn(&report);
    let mut lines = message.split(|&byte| byte == b'\n');
    assert!(
        message.is_ascii() && lines.all(|line| line.len() < 1_000),
        "a message in bounds"
    );
}

/// Asserts what every rebuilt message is: ASCII without control characters, CRLF, bounded lines, known fields. Text of an
/// unknown charset is in lines, and no more.
fn assert_is_canonical(message: &[u8]) {
    const FIELDS: &[&str] = &[
        "Date",
        "Message-ID",
        "From",
        "To",
        "Cc",
        "Subject",
        "In-Reply-To",
        "References",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
        "Content-Disposition",
        "Content-ID",
    ];
    let unknown = b"\r\nContent-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
    let header = memchr::memmem::find(message, b"\r\n\r\n").map_or(message, |end| &message[..end + 4]);
    let message = match header.ends_with(unknown) {
        true => {
            let (header, body) = message.split_at(header.len());
            assert!(std::str::from_utf8(body).is_err() && body.ends_with(b"\r\n") && !body.contains(&0));
            let mut lines = body.split(|&octet| octet == b'\n');
            lines.next_back();
            assert!(
                lines
                    .all(|line| line.len() <= 999
                        && line.iter().position(|&octet| octet == b'\r') == Some(line.len() - 1))
            );
            header
        }
        false => message,
    };
    let text = std::str::from_utf8(message).expect("ASCII");
    assert!(text.ends_with("\r\n"), "a final line end");
    let is_signed = text.contains("\r\nContent-Type: multipart/signed;\r\n");
    let mut in_header = true;
    for line in text.split_terminator("\r\n") {
        assert!(
            line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')),
            "printable ASCII"
        );
        assert!(line.len() <= 998, "bounded lines");
        if in_header && !line.is_empty() && !line.starts_with(' ') {
            let name = line.split_once(": ").map(|(name, _)| name);
            assert!(name.is_some_and(|name| FIELDS.contains(&name)), "only allowed fields");
        }
        // What is signed has the fields that its signer gave it.
        let begins_part = line
            .strip_prefix("--")
            .is_some_and(|line| emit::BOUNDARIES.contains(&line) && !is_signed);
        in_header = (in_header && !line.is_empty()) || begins_part;
    }
}
