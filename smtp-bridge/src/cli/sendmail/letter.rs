//! A message as programs write it for sendmail, made into one that the bridge takes. Pure.

use std::ops::Range;

use mail_parser::{Address, Message, MessageParser};

use super::options::Options;
use crate::message::begins_with_header;

/// What goes to the bridge.
pub(in crate::cli) struct Letter {
    pub(in crate::cli) sender: String,
    pub(in crate::cli) recipients: Vec<String>,
    /// Lines end with CRLF; dots are not doubled yet.
    pub(in crate::cli) octets: Vec<u8>,
}

/// Prepares `raw`. `own` is the address that stands for the user: names without a domain mean it, as there is one user.
pub(in crate::cli) fn prepare(raw: &[u8], options: &Options, own: &str) -> Letter {
    let raw = if options.dots_are_text { raw } else { until_dot(raw) };
    let raw = without_mailbox_line(raw);
    let (fields, rest) = split_header(raw);
    let header = &raw[..fields.last().map_or(0, |field| field.end)];
    let parsed = MessageParser::new().parse_headers(header);
    let parsed = parsed.as_ref();

    let from = mailboxes(parsed.and_then(Message::from)).into_iter().next();
    let of_option = options.sender.as_deref().map(|sender| sender.trim_matches(['<', '>']));
    let has_domain = |address: &&str| address.contains('@');
    let sender = of_option
        .filter(has_domain)
        .or(from.as_deref().filter(has_domain))
        .unwrap_or(own)
        .to_owned();
    let mut recipients: Vec<String> = options.recipients.iter().map(|name| completed(name, own)).collect();
    if options.from_header {
        // A field may stand more than once, and each of them is meant.
        let lists = parsed
            .into_iter()
            .flat_map(|parsed| parsed.all_to().chain(parsed.all_cc()).chain(parsed.all_bcc()));
        for list in lists {
            recipients.extend(mailboxes(Some(list)).iter().map(|name| completed(name, own)));
        }
    }

    let mut octets = Vec::with_capacity(raw.len() + raw.len() / 16 + 256);
    let is_late = fields.is_empty() && matches!(rest, Rest::Body(body) if begins_with_header(body));
    // Behind a field of ours the bridge could not tell the text from a header that begins too late.
    if !is_late && !fields.iter().any(|field| is_named(&raw[field.clone()], "From")) {
        octets.extend_from_slice(format!("From: {sender}\r\n").as_bytes());
    }
    for field in &fields {
        let field = &raw[field.clone()];
        match parsed.and_then(|parsed| rewritten(field, parsed, &sender, own)) {
            Some(line) => octets.extend_from_slice(line.as_bytes()),
            None if is_named(field, "Bcc") => {}
            None => append_lines(field, &mut octets),
        }
    }
    match rest {
        Rest::Body(body) => {
            octets.extend_from_slice(b"\r\n");
            append_lines(body, &mut octets);
        }
        Rest::BrokenHeader(lines) => append_lines(lines, &mut octets),
    }
    Letter {
        sender,
        recipients,
        octets,
    }
}

/// A field of addresses in which one has no domain, written anew: the bridge takes whole addresses only.
fn rewritten(field: &[u8], parsed: &Message<'_>, sender: &str, own: &str) -> Option<String> {
    let lists = [("From", parsed.from()), ("To", parsed.to()), ("Cc", parsed.cc())];
    let (name, list) = lists.into_iter().find(|(name, _)| is_named(field, name))?;
    let addresses = mailboxes(list);
    if addresses.iter().all(|address| address.contains('@')) {
        return None;
    }
    if name == "From" {
        return Some(format!("From: {sender}\r\n"));
    }
    let addresses: Vec<String> = addresses.iter().map(|name| completed(name, own)).collect();
    Some(format!("{name}: {}\r\n", addresses.join(",\r\n ")))
}

/// What stands before a line with a dot alone.
fn until_dot(raw: &[u8]) -> &[u8] {
    let mut at = 0;
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        if matches!(line, b".\n" | b".\r\n" | b".") {
            return &raw[..at];
        }
        at += line.len();
    }
    raw
}

/// A message out of a mailbox file begins with a line of the file's own.
fn without_mailbox_line(raw: &[u8]) -> &[u8] {
    match raw.iter().position(|byte| *byte == b'\n') {
        Some(end) if raw.starts_with(b"From ") => &raw[end + 1..],
        _ => raw,
    }
}

/// What follows the fields of a header.
#[derive(Clone, Copy)]
enum Rest<'a> {
    /// What stands behind the empty line, or all where there is no header.
    Body(&'a [u8]),
    /// A line that is no field and what follows it. It goes to the bridge as it stands, which refuses it: taken for text, the rest of
    /// the header would leave, Bcc too.
    BrokenHeader(&'a [u8]),
}

/// The fields of the header with their continuations, and what follows them. A text that begins with no field has no header, nor
/// has one that begins with none that is known and has no empty line behind them.
fn split_header(raw: &[u8]) -> (Vec<Range<usize>>, Rest<'_>) {
    let mut fields: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return (fields, Rest::Body(&raw[end..]));
        }
        match fields.last_mut() {
            Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => last.end = end,
            _ if is_field(line) => fields.push(at..end),
            // `Error: disk full` and whatever follows it: a program's words, of which the first happen to look like a field.
            Some(_) if !begins_with_header(raw) => return (Vec::new(), Rest::Body(raw)),
            // A script that leaves the empty line out.
            Some(last) if !ends_with_comma(&raw[last.clone()]) && !holds_field(&raw[at..]) => {
                return (fields, Rest::Body(&raw[at..]));
            }
            Some(_) => return (fields, Rest::BrokenHeader(&raw[at..])),
            None => return (fields, Rest::Body(&raw[at..])),
        }
        at = end;
    }
    match begins_with_header(raw) {
        true => (fields, Rest::Body(&[])),
        false => (Vec::new(), Rest::Body(raw)),
    }
}

/// Whether a list goes on behind this field.
fn ends_with_comma(field: &[u8]) -> bool {
    field.trim_ascii_end().ends_with(b",")
}

/// Whether a line that stands before the next empty one is a field as mail programs write them.
fn holds_field(text: &[u8]) -> bool {
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .take_while(|line| !line.trim_ascii().is_empty());
    lines.any(begins_with_header)
}

/// RFC 5322 section 2.2: a name of printable octets, then a colon.
fn is_field(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    let name = colon.map(|colon| line[..colon].trim_ascii_end());
    name.is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
}

fn is_named(field: &[u8], name: &str) -> bool {
    let colon = field.iter().position(|byte| *byte == b':').unwrap_or(0);
    field[..colon].trim_ascii_end().eq_ignore_ascii_case(name.as_bytes())
}

/// Addresses of a field; of a mailbox without one, as in `root (Cron Daemon)`, the first word.
fn mailboxes(list: Option<&Address<'_>>) -> Vec<String> {
    let text = |addr: &mail_parser::Addr<'_>| {
        let name = || addr.name.as_deref().and_then(|name| name.split_whitespace().next());
        addr.address.as_deref().or_else(name).map(str::to_owned)
    };
    list.map(|list| list.iter().filter_map(text).collect())
        .unwrap_or_default()
}

/// A name without a domain is the user's own.
fn completed(name: &str, own: &str) -> String {
    if name.contains('@') { name } else { own }.to_owned()
}

/// Appends text with CRLF at the end of each line, the last one too.
fn append_lines(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.extend_from_slice(b"\r\n");
    }
}

/// Feeds a message of any octets through, for the fuzzers.
pub fn fuzz(bytes: &[u8]) {
    for (from_header, dots_are_text) in [(false, false), (true, true)] {
        let options = Options {
            from_header,
            dots_are_text,
            ..Options::default()
        };
        let letter = prepare(bytes, &options, "me@localhost");
        assert!(letter.sender.contains('@') && letter.recipients.iter().all(|name| name.contains('@')));
        let mut lines = letter.octets.split(|byte| *byte == b'\n');
        assert_eq!(lines.next_back(), Some(&[][..]), "the last line has its end");
        assert!(lines.all(|line| line.ends_with(b"\r")), "every line ends with CRLF");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::limits::MESSAGE_BYTES_MAX;
    use crate::message::{Address, Html, Policy, Refusal, Sender, Stage, Traces, rebuild};

    const OWN: &str = "me@localhost";

    fn prepared(raw: &str, words: &str) -> (String, Vec<String>, String) {
        let words = words.split_whitespace().map(Into::into).collect();
        let letter = prepare(raw.as_bytes(), &Options::parse(words).unwrap(), OWN);
        (
            letter.sender,
            letter.recipients,
            String::from_utf8(letter.octets).unwrap(),
        )
    }

    #[test]
    fn recipients_come_from_the_header_and_bcc_stays_here() {
        let raw = "To: A <a@out.test>, b@out.test\nCc:\n c@out.test\nBcc: d@out.test\nSubject: x\n\nbody\n";
        let (sender, recipients, octets) = prepared(raw, "-t e@out.test");
        assert_eq!(sender, OWN);
        assert_eq!(
            recipients,
            ["e@out.test", "a@out.test", "b@out.test", "c@out.test", "d@out.test"]
        );
        assert_eq!(
            octets,
            "From: me@localhost\r\nTo: A <a@out.test>, b@out.test\r\nCc:\r\n c@out.test\r\nSubject: x\r\n\r\nbody\r\n"
        );
    }

    #[test]
    fn every_field_of_recipients_counts() {
        let raw = "To: a@out.test\nBcc: b@out.test\nBcc: c@out.test\n\nhi\n";
        let (_, recipients, octets) = prepared(raw, "-t");
        assert_eq!(recipients, ["a@out.test", "b@out.test", "c@out.test"]);
        assert!(!octets.contains("Bcc"));
    }

    #[test]
    fn a_job_of_cron_writes_to_the_user() {
        let raw = "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> job\n\nout\n";
        let (sender, recipients, octets) = prepared(raw, "-i -FCronDaemon -oem root");
        assert_eq!((sender.as_str(), recipients), (OWN, vec![OWN.to_owned()]));
        assert_eq!(
            octets,
            "From: me@localhost\r\nTo: me@localhost\r\nSubject: Cron <root@host> job\r\n\r\nout\r\n"
        );
    }

    #[test]
    fn the_sender_is_the_option_then_the_header() {
        let raw = "From: Me <one@relay.test>\n\nx";
        assert_eq!(prepared(raw, "-f two@relay.test").0, "two@relay.test");
        assert_eq!(prepared(raw, "-f root").0, "one@relay.test");
        assert_eq!(prepared("x: y\n\nz", "-f root").0, OWN);
    }

    #[test]
    fn a_dot_ends_the_message_unless_told_otherwise() {
        let raw = "Subject: x\n\none\n.\ntwo\n";
        assert!(prepared(raw, "").2.ends_with("\r\none\r\n"));
        assert!(prepared(raw, "-i").2.ends_with("one\r\n.\r\ntwo\r\n"));
    }

    #[test]
    fn a_text_without_a_header_is_a_body() {
        assert_eq!(
            prepared("just text\nmore", "").2,
            "From: me@localhost\r\n\r\njust text\r\nmore\r\n"
        );
        assert_eq!(prepared("", "").2, "From: me@localhost\r\n\r\n");
        assert_eq!(
            prepared("From a@b Sat Nov 21 00:00:00 2026\nSubject: x\n\ny", "").2,
            "From: me@localhost\r\nSubject: x\r\n\r\ny\r\n"
        );
    }

    /// Whether the bridge takes what is made of it, and if so what leaves.
    fn left(raw: &str, words: &str) -> Result<String, Refusal> {
        let (_, _, octets) = prepared(raw, words);
        let policy = Policy {
            stage: Stage::Bridge,
            sender: Sender {
                address: Address::parse("one@relay.test").unwrap(),
                display_name: None,
            },
            local_address: Some(Address::parse(OWN).unwrap()),
            message_id_outside: &|_| None,
            html: Html::Drop,
            traces: &Traces::NONE,
            largest: MESSAGE_BYTES_MAX,
        };
        rebuild(octets.as_bytes(), &policy).map(|letter| String::from_utf8(letter.message).unwrap())
    }

    #[test]
    fn no_header_leaves_as_text() {
        let broken = "To: a@out.test,\nb@out.test\nBcc: c@out.test\nSubject: s\n\ntext\n";
        assert_eq!(left(broken, "-t"), Err(Refusal::Header));
        let header = "From: Alice <one@relay.test>\nBcc: c@out.test\nDate: x\n\ntext\n";
        for before in [
            "\n",
            "\n\r\n",
            "\u{feff}",
            " ",
            "\t",
            ">From a@b Mon Jan 1\n",
            "\n\u{feff}",
        ] {
            let raw = format!("{before}{header}");
            assert_eq!(left(&raw, "a@out.test"), Err(Refusal::LateHeader), "{before:?}");
        }
    }

    #[test]
    fn the_empty_line_may_be_left_out_where_nothing_is_hidden_by_that() {
        for (raw, body) in [
            ("Subject: x\nbody\n", "body"),
            ("Subject: x\nbody\n\nTo: do\n", "body\r\n\r\nTo: do"),
        ] {
            let left = left(raw, "a@out.test").expect("it leaves");
            assert!(left.contains("Subject: x\r\n"), "{left}");
            assert_eq!(left.split_once("\r\n\r\n").unwrap().1.trim(), body);
        }
        for raw in [
            "Subject: x\nbody\nBcc: c@out.test\n\n",
            "Cc: a@out.test,\nb@out.test\n\ntext\n",
        ] {
            assert_eq!(left(raw, "a@out.test"), Err(Refusal::Header), "{raw:?}");
        }
    }

    #[test]
    fn a_text_without_a_header_leaves() {
        for text in [
            "ERROR: disk full\n",
            "Error: disk full\non /dev/sda\n",
            "text\n",
            "\ntext\n",
            "\nError: disk full\n",
            "hello, From: me\n",
            "\u{feff}text\n",
        ] {
            let left = left(text, "a@out.test").expect("it leaves");
            let body = left.split_once("\r\n\r\n").unwrap().1.replace('\r', "");
            assert_eq!(body.trim(), text.trim_start_matches('\u{feff}').trim(), "{left}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_become_lines(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
            fuzz(&bytes);
        }
    }
}
