//! Delivery status notifications (RFC 3461 to 3464): what became of a message, told to its sender.

use std::fmt::Write;

use super::address::{Address, Mailbox};
use super::emit::{BOUNDARY, Writer};
use super::envelope;
use super::header::{self, Headless};
use super::limits::HEADER_BYTES_MAX;
use super::text::Text;
use super::words::collapse;

/// Longest diagnostic that is passed on, in characters.
const DIAGNOSTIC_LENGTH_MAX: usize = 500;

/// What became of a message that was accepted for delivery.
#[derive(Clone)]
pub struct Report<'a> {
    /// Domain of the relay that reports.
    pub reporting_mta: &'a str,
    /// The sender of the message, who gets the report.
    pub to: &'a Address,
    /// Random part of the report's own Message-ID.
    pub message_id_local: &'a str,
    /// Seconds since 1970, UTC, rounded as the operator rounds.
    pub date: u64,
    /// Each recipient that there is something to say about.
    pub recipients: &'a [Recipient<'a>],
    /// The rebuilt message, or its header alone; only the header is returned.
    pub original: &'a [u8],
}

/// What became of one recipient.
#[derive(Clone)]
pub struct Recipient<'a> {
    /// Where the message was to go.
    pub address: &'a Address,
    /// Whether this is the end of it.
    pub action: Action,
    /// Enhanced status code (RFC 3463), such as `5.1.1`.
    pub status: &'a str,
    /// The host that spoke last, if one did.
    pub remote_mta: Option<&'a str>,
    /// Its reply, or our own reason. Taken as untrusted.
    pub diagnostic: Option<&'a str>,
}

/// The action field of RFC 3464 section 2.3.3, as far as we report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet; tries go on.
    Delayed,
    /// Handed to the next host.
    Relayed,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Action::Failed => "Undelivered: your message was returned",
            Action::Delayed => "Delayed: your message is still waiting",
            Action::Relayed => "Handed on: your message was taken by the next host",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Action::Failed => "could not be delivered and will not be tried again",
            Action::Delayed => "could not be delivered yet; the relay keeps trying",
            Action::Relayed => "was accepted by the next host",
        }
    }
}

/// Writes the notification: `multipart/report` of an explanation, the machine-readable status and the header of the message.
pub fn dsn(report: &Report<'_>) -> Vec<u8> {
    let worst = report
        .recipients
        .iter()
        .map(|recipient| recipient.action)
        .min_by_key(|action| match action {
            Action::Failed => 0,
            Action::Delayed => 1,
            Action::Relayed => 2,
        });
    let postmaster = Address::parse(&format!("postmaster@{}", report.reporting_mta));
    let from = Mailbox {
        name: "Mail Delivery".into(),
        address: postmaster.unwrap_or_else(|_| report.to.clone()),
    };
    let to = Mailbox {
        name: String::new(),
        address: report.to.clone(),
    };
    let mut out = Writer::default();
    out.origin(report.message_id_local, report.reporting_mta, report.date);
    out.mailboxes("From", &[from]);
    out.mailboxes("To", &[to]);
    out.text_field("Subject", worst.unwrap_or(Action::Failed).subject());
    // A mail program shows the report beside the message that it is about.
    let about = envelope::message_id_of(report.original);
    out.message_ids("In-Reply-To", about.as_slice());
    out.message_ids("References", about.as_slice());
    out.line("Auto-Submitted: auto-replied");
    out.line("MIME-Version: 1.0");
    out.open_multipart("multipart/report; report-type=delivery-status", BOUNDARY);
    part(&mut out, "text/plain", &explanation(report));
    out.delimiter(BOUNDARY);
    out.line("Content-Type: message/delivery-status");
    out.line("");
    out.bytes.extend_from_slice(&status(report));
    part(&mut out, "text/rfc822-headers", &original_header(report.original));
    out.close_multipart(BOUNDARY);
    out.bytes
}

fn part(out: &mut Writer, media_type: &str, content: &str) {
    let mut text = Text::default();
    text.add(&content.replace('\0', ""), None).expect("NUL was taken out");
    out.delimiter(BOUNDARY);
    out.text_part(media_type, &text, usize::MAX)
        .expect("no bound is reached");
}

fn explanation(report: &Report<'_>) -> String {
    let mut text = String::from("This is an automatic report about a message that you sent.\n");
    for recipient in report.recipients {
        let (address, sentence) = (recipient.address.as_str(), recipient.action.sentence());
        write!(text, "\n{address}\n    {sentence}.\n").expect("a String takes all");
        if let Some(diagnostic) = recipient.diagnostic {
            writeln!(text, "    {}", diagnostic_text(diagnostic)).expect("a String takes all");
        }
    }
    text
}

/// The message/delivery-status part: one group of fields about the message, one about each recipient.
fn status(report: &Report<'_>) -> Vec<u8> {
    let mut out = Writer::default();
    out.field("Reporting-MTA", [format!("dns; {}", report.reporting_mta)]);
    for recipient in report.recipients {
        out.line("");
        out.field("Final-Recipient", [format!("rfc822; {}", recipient.address.as_str())]);
        out.field("Action", [recipient.action.name()]);
        out.field("Status", [recipient.status]);
        if let Some(host) = recipient.remote_mta {
            out.field("Remote-MTA", [format!("dns; {}", diagnostic_text(host))]);
        }
        if let Some(diagnostic) = recipient.diagnostic {
            out.field(
                "Diagnostic-Code",
                format!("smtp; {}", diagnostic_text(diagnostic)).split(' '),
            );
        }
    }
    out.bytes
}

/// A reply of a stranger as one line of ASCII, its length bounded.
fn diagnostic_text(reply: &str) -> String {
    let reply: String = reply.chars().take(DIAGNOSTIC_LENGTH_MAX).collect();
    let line: String = collapse(&reply)
        .chars()
        .map(|character| if character.is_ascii() { character } else { '?' })
        .collect();
    line.replace(BOUNDARY, "?")
}

fn original_header(original: &[u8]) -> String {
    let length =
        header::split(original, HEADER_BYTES_MAX, Headless::Refuse).map_or(0, |(_, body)| original.len() - body.len());
    String::from_utf8_lossy(&original[..length]).into_owned()
}
