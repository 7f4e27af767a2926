//! Deposits in mails: written by a relay for whoever carries them, and found again in whatever the carrier made of them:
//! single mails, mailbox files, mails within mails, or the bare octets.

use std::io::{self, BufRead};

use keypacks::deposit::{WRAP, carried_bytes, carried_kilobytes};
use mail_parser::DateTime;

use super::encode::base64_lines;

/// Media type of a deposit on its way.
const DEPOSIT: &str = "application/vnd.postern.deposit";
/// How the name of its file ends.
pub const ENDING: &str = ".deposit";
/// Octets of a line that are looked at together; what is longer is no line of ours.
const LINE_MAX: u64 = 4_096;
/// Characters of base64 that hold a wrap.
const HEAD: usize = WRAP.div_ceil(3) * 4;
/// Last day that a date is written for.
const DAY_MAX: u32 = 2_932_896;

/// A mail with a deposit as its only part. It says nothing but the day on which it was collected.
pub fn mail(domain: &str, day: u32, wrap: &[u8], body: &[u8]) -> Vec<u8> {
    let mut mail = head(domain, day).into_bytes();
    mail.reserve_exact(lines_length(wrap.len() + body.len()));
    // A line of base64 holds 57 octets: the wrap is no multiple of that, so its end shares a line with the body.
    let (first, rest) = body.split_at(body.len().min(57 - wrap.len() % 57));
    base64_lines(&[wrap, first].concat(), &mut mail);
    base64_lines(rest, &mut mail);
    mail
}

/// Length of such a mail in bytes.
pub fn mail_length(domain: &str, day: u32, kilobytes: u32) -> usize {
    head(domain, day).len() + lines_length(carried_bytes(kilobytes))
}

fn head(domain: &str, day: u32) -> String {
    let date = DateTime::from_timestamp(i64::from(day.min(DAY_MAX)) * 86_400).to_rfc822();
    format!(
        "From: postern@{domain}\r\nDate: {date}\r\nSubject: deposit\r\nMIME-Version: 1.0\r\nContent-Type: {DEPOSIT}\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"mail{ENDING}\"\r\n\r\n"
    )
}

fn lines_length(octets: usize) -> usize {
    octets.div_ceil(3) * 4 + octets.div_ceil(57) * 2
}

/// A deposit that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where it begins.
    pub at: u64,
    /// Octets that it takes there.
    pub length: u64,
    /// Whether it is in base64.
    pub is_encoded: bool,
    /// Its wrap.
    pub wrap: Vec<u8>,
}

/// Finds all deposits in what a carrier brought, and counts those that are cut short. Keeps none of it in memory.
///
/// # Errors
/// The reader failed.
pub fn find(mut from: impl BufRead) -> io::Result<(Vec<Found>, u32)> {
    let mut search = Search::default();
    let mut line = Vec::new();
    let (mut at, mut start) = (0, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut from, LINE_MAX).read_until(b'\n', &mut line)?;
        if start.len() < WRAP {
            start.extend_from_slice(&line[..read.min(WRAP - start.len())]);
        }
        if read == 0 {
            break;
        }
        search.take(at, &line);
        at += read as u64;
    }
    search.end(at);
    if search.found.is_empty() && search.damaged == 0 && carried_kilobytes(at).is_some() {
        search.found.push(Found {
            at: 0,
            length: at,
            is_encoded: false,
            wrap: start,
        });
    }
    Ok((search.found, search.damaged))
}

/// The octets of what [`find`] found, from those that it takes. `None`: they are no base64.
pub fn decode(found: &Found, octets: Vec<u8>) -> Option<Vec<u8>> {
    match found.is_encoded {
        true => mail_parser::decoders::base64::base64_decode(&octets),
        false => Some(octets),
    }
}

#[derive(Default)]
struct Search {
    state: State,
    found: Vec<Found>,
    damaged: u32,
}

#[derive(Default)]
enum State {
    #[default]
    Looking,
    /// Behind the media type: the header still goes on.
    Header,
    /// Lines of base64.
    Body {
        at: u64,
        head: Vec<u8>,
        characters: u64,
        padding: u64,
    },
}

impl Search {
    fn take(&mut self, at: u64, line: &[u8]) {
        let text = line.trim_ascii_end();
        match &mut self.state {
            State::Looking => {
                if names_deposit(text) {
                    self.state = State::Header;
                }
            }
            State::Header if text.is_empty() => {
                self.state = State::Body {
                    at: at + line.len() as u64,
                    head: Vec::new(),
                    characters: 0,
                    padding: 0,
                };
            }
            State::Header => {}
            State::Body {
                head,
                characters,
                padding,
                ..
            } if *padding == 0 && is_base64(text) => {
                head.extend_from_slice(&text[..text.len().min(HEAD - head.len())]);
                *characters += text.len() as u64;
                *padding = text.iter().filter(|character| **character == b'=').count() as u64;
            }
            State::Body { .. } => {
                self.end(at);
                self.take(at, line);
            }
        }
    }

    /// What comes to its end here, if something does.
    fn end(&mut self, end: u64) {
        let State::Body {
            at,
            head,
            characters,
            padding,
        } = std::mem::take(&mut self.state)
        else {
            return;
        };
        let octets = (characters / 4 * 3).saturating_sub(padding);
        let wrap = mail_parser::decoders::base64::base64_decode(&head).filter(|wrap| wrap.len() >= WRAP);
        match wrap {
            Some(mut wrap) if characters % 4 == 0 && carried_kilobytes(octets).is_some() => {
                wrap.truncate(WRAP);
                self.found.push(Found {
                    at,
                    length: end - at,
                    is_encoded: true,
                    wrap,
                });
            }
            _ => self.damaged += 1,
        }
    }
}

/// Whether a line is the one of a header that names the media type, or goes on with it.
fn names_deposit(line: &[u8]) -> bool {
    let line = line.to_ascii_lowercase();
    let is_field = line.starts_with(b"content-type:") || line.starts_with(b" ") || line.starts_with(b"\t");
    is_field && line.windows(DEPOSIT.len()).any(|part| part == DEPOSIT.as_bytes())
}

fn is_base64(line: &[u8]) -> bool {
    !line.is_empty()
        && line
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || b"+/=".contains(octet))
}

/// Looks for deposits in hostile bytes; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let (found, _) = find(bytes).expect("memory does not fail");
    for found in found {
        assert!(found.wrap.len() == WRAP && found.at + found.length <= bytes.len() as u64);
        let octets = &bytes[found.at as usize..][..found.length as usize];
        if let Some(decoded) = decode(&found, octets.to_vec()) {
            assert!(carried_kilobytes(decoded.len() as u64).is_none() || decoded.starts_with(&found.wrap));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn carried(kilobytes: u32, byte: u8) -> Vec<u8> {
        let octets = 0..carried_bytes(kilobytes);
        octets.map(|at| (at % 251) as u8 ^ byte).collect()
    }

    fn in_mail(carried: &[u8]) -> Vec<u8> {
        mail("relay.test", 20_000, &carried[..WRAP], &carried[WRAP..])
    }

    fn found_in(text: &[u8]) -> Vec<Vec<u8>> {
        let (found, _) = find(text).expect("memory");
        let octets = |found: &Found| text[found.at as usize..][..found.length as usize].to_vec();
        found
            .iter()
            .map(|found| decode(found, octets(found)).expect("base64"))
            .collect()
    }

    #[test]
    fn a_mail_is_as_long_as_its_class_says() {
        for kilobytes in [1, 2, 4, 8, 16, 32, 64] {
            let carried = carried(kilobytes, 0);
            let mail = in_mail(&carried);
            assert_eq!(mail.len(), mail_length("relay.test", 20_000, kilobytes));
            assert_eq!(found_in(&mail), [carried]);
        }
        let text = String::from_utf8(in_mail(&carried(1, 0))).expect("ASCII");
        assert!(text.contains(" 4 Oct 2024 00:00:00 +0000\r\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 76));
    }

    #[test]
    fn all_are_found_in_a_mailbox_file_with_bare_line_ends() {
        let (one, two) = (carried(1, 1), carried(2, 2));
        let mails = [in_mail(&one), in_mail(&two)].map(|mail| String::from_utf8(mail).expect("ASCII"));
        let mailbox = format!("From me@here\n{}\nFrom me@here\n{}\n", mails[0], mails[1]).replace("\r\n", "\n");
        assert_eq!(found_in(mailbox.as_bytes()), [one.clone(), two.clone()]);
        let within = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n{}--b\r\n{}\r\n--b--\r\n",
            mails[0].replace("Content-Type: ", "Content-Type:\r\n\t"),
            mails[1]
        );
        assert_eq!(found_in(within.as_bytes()), [one.clone(), two]);
        assert!(found_in(&one) == [one.as_slice()], "the bare octets");
        assert!(found_in(&one[1..]).is_empty());
    }

    #[test]
    fn what_is_cut_short_is_counted() {
        let mail = in_mail(&carried(1, 1));
        for cut in [mail.len() - 100, mail.len() - 40, 500] {
            let (found, damaged) = find(&mail[..cut]).expect("memory");
            assert_eq!((found, damaged), (Vec::new(), 1), "{cut}");
        }
        assert_eq!(
            find(&b"Subject: x\r\n\r\nhello\r\n"[..]).expect("memory"),
            (Vec::new(), 0)
        );
    }

    proptest! {
        #[test]
        fn nothing_is_found_in_noise(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
            fuzz(&bytes);
        }
    }
}
