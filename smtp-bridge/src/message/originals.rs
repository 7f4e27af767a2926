//! Reports on what was sent from here, as the user's mail program asked for them: with its own names for the message and its
//! recipients (RFC 3464 sections 2.2.1 and 2.3.1), which nobody outside has seen.

use std::collections::BTreeSet;

use super::header::header_value;
use super::limits::{EXIT_LINES_BYTES_MAX, REBUILT_HEADER_BYTES_MAX};

/// Longest notification, in bytes: a relay returns the header of a message alone. What is longer is none, whatever it says of itself.
pub const REPORT_BYTES_MAX: usize = 256 * 1024;

// The words around the header and about each recipient.
const _: () = assert!(REBUILT_HEADER_BYTES_MAX + EXIT_LINES_BYTES_MAX + 64 * 1024 <= REPORT_BYTES_MAX);

/// The Message-ID (without angle brackets) of the message that a delivery status notification is about.
pub fn reported_message(message: &[u8]) -> Option<String> {
    if message.len() > REPORT_BYTES_MAX {
        return None;
    }
    let kind = header_value(message, "Content-Type")?;
    let begins = kind.get(.."multipart/report".len())?;
    if !begins.eq_ignore_ascii_case("multipart/report") {
        return None;
    }
    let about = header_value(message, "In-Reply-To")?;
    let id = about.strip_prefix('<')?.strip_suffix('>')?;
    Some(id.to_owned())
}

/// Adds the mail program's names to a notification as [`dsn`](super::dsn()) writes it: its name for the message, and for each
/// recipient that `original` knows (as `type;address`) what that was before, each once: whatever a forged one repeats, it grows by no
/// more than was kept. Every other byte stays. None when there is nothing to add.
pub fn name_originals(
    message: &[u8],
    envelope_id: Option<&str>,
    original: &dyn Fn(&str) -> Option<String>,
) -> Option<Vec<u8>> {
    const BEGIN: &[u8] = b"\r\nContent-Type: message/delivery-status\r\n\r\n";
    const RECIPIENT: &str = "Final-Recipient: rfc822; ";
    if message.len() > REPORT_BYTES_MAX {
        return None;
    }
    let start = memchr::memmem::find(message, BEGIN)? + BEGIN.len();
    let (mut out, status) = (message[..start].to_vec(), &message[start..]);
    let mut is_named = false;
    let mut envelope_id = envelope_id;
    let mut named = BTreeSet::new();
    let mut name = |out: &mut Vec<u8>, field: &str, value: &str| {
        // It was printable when it was kept: nothing breaks a line.
        if value.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            out.extend_from_slice(format!("{field}: {value}\r\n").as_bytes());
            is_named = true;
        }
    };
    let mut position = 0;
    for line in status.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b"--") {
            break;
        }
        position += line.len();
        let text = std::str::from_utf8(line).unwrap_or_default().trim_end();
        if text.starts_with("Reporting-MTA: ")
            && let Some(id) = envelope_id.take()
        {
            name(&mut out, "Original-Envelope-Id", id);
        }
        if let Some(recipient) = text.strip_prefix(RECIPIENT)
            && let Some(original) = original(recipient)
            && named.insert(recipient.to_ascii_lowercase())
            && let Some((kind, address)) = original.split_once(';')
        {
            name(&mut out, "Original-Recipient", &format!("{kind}; {address}"));
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(&status[position..]);
    is_named.then_some(out)
}

/// Names arbitrary things in arbitrary bytes; asserts that nothing else changes.
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = reported_message(bytes);
    assert_eq!(name_originals(bytes, None, &|_| None), None);
    let original = |address: &str| (address.len() % 2 == 1).then(|| "rfc822;before@here.test".to_owned());
    if let Some(named) = name_originals(bytes, Some("id"), &original) {
        let mut left = bytes;
        for line in named.split_inclusive(|&octet| octet == b'\n') {
            let is_added =
                line == b"Original-Envelope-Id: id\r\n" || line == b"Original-Recipient: rfc822; before@here.test\r\n";
            match left.strip_prefix(line) {
                Some(rest) => left = rest,
                None => assert!(is_added, "nothing else is added"),
            }
        }
        assert!(left.is_empty(), "nothing is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Address, Recipient, Report, dsn};
    use super::*;

    fn report() -> Vec<u8> {
        let address = |text| Address::parse(text).expect("an address");
        let (bob, ann) = (address("bob@example.org"), address("ann@example.net"));
        let of = |address| Recipient {
            address,
            action: Action::Relayed,
            status: "2.0.0",
            remote_mta: None,
            diagnostic: None,
        };
        dsn(&Report {
            reporting_mta: "relay.test",
            to: &address("heron@relay.test"),
            message_id_local: "r1",
            date: 1_700_000_000,
            recipients: &[of(&bob), of(&ann)],
            original: b"Message-ID: <k7f3@relay.test>\r\nSubject: Reporting-MTA: x\r\n\r\n",
        })
    }

    #[test]
    fn a_report_gets_the_names_that_the_mail_program_gave() {
        let report = report();
        assert_eq!(reported_message(&report).as_deref(), Some("k7f3@relay.test"));
        let original = |address: &str| (address == "ann@example.net").then(|| "rfc822;Ann <a+b>".to_owned());
        let named = name_originals(&report, Some("QQ 1"), &original).expect("named");
        let text = String::from_utf8(named).expect("ASCII");
        let status = "\r\n\r\nOriginal-Envelope-Id: QQ 1\r\nReporting-MTA: dns; relay.test\r\n\r\n\
            Final-Recipient: rfc822; bob@example.org\r\nAction: relayed\r\nStatus: 2.0.0\r\n\r\n\
            Original-Recipient: rfc822; Ann <a+b>\r\nFinal-Recipient: rfc822; ann@example.net\r\nAction: relayed\r\n";
        assert!(text.contains(status), "{text}");
        assert_eq!(text.matches("Original-").count(), 2);
    }

    #[test]
    fn a_forged_report_grows_by_each_name_once() {
        let recipients = "Final-Recipient: rfc822; ann@example.net\r\n\r\nFinal-Recipient: rfc822; Ann@Example.NET\r\n"
            .repeat(1_000);
        let forged = |padding: usize| {
            format!(
                "Content-Type: multipart/report\r\nIn-Reply-To: <a@b>\r\n\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n{}{recipients}{}",
                "Reporting-MTA: dns; x\r\n".repeat(1_000),
                "x\r\n".repeat(padding)
            )
        };
        let original = |_: &str| Some(format!("rfc822;{}", "x".repeat(500)));
        let report = forged(0);
        let named = name_originals(report.as_bytes(), Some("id"), &original).expect("named");
        assert!(
            named.len() < report.len() + 1_000,
            "{} of {}",
            named.len(),
            report.len()
        );
        let large = forged(REPORT_BYTES_MAX);
        assert_eq!(name_originals(large.as_bytes(), Some("id"), &original), None);
        assert_eq!(reported_message(report.as_bytes()).as_deref(), Some("a@b"));
        assert_eq!(reported_message(large.as_bytes()), None);
    }

    #[test]
    fn what_is_no_report_or_has_no_names_stays_as_it_is() {
        assert_eq!(name_originals(&report(), None, &|_| None), None);
        assert_eq!(name_originals(&report(), Some("a\r\nX: y"), &|_| None), None);
        let letter = b"Content-Type: text/plain\r\nIn-Reply-To: <a@b>\r\n\r\nReporting-MTA: x\r\n";
        assert_eq!(reported_message(letter), None);
        assert_eq!(name_originals(letter, Some("id"), &|_| None), None);
    }
}
