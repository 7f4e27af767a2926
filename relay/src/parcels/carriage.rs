//! Finds the parcel in a mail while it comes in: as its body or as an attached file, in any standard encoding.
//!
//! What is looked at is as little as may be: the header fields that say what a part is (RFC 2045), the boundaries between
//! parts (RFC 2046 section 5.1), and the octets of the part that may be a parcel.

use smtp_bridge::message;

/// Media type of a parcel.
const PARCEL: &str = "application/vnd.postern.parcel";
/// What mail programs call a file that they know nothing of.
const FILE: &str = "application/octet-stream";
/// How the names of parcels' files end.
const ENDING: &str = ".parcel";
/// Longest header of a mail or of a part, in octets.
const HEADER_MAX: usize = 64 * 1024;
/// Octets of a line that are looked at together; what is longer comes in pieces.
const LINE_MAX: usize = 4_096;
/// Multiparts within each other.
const DEPTH_MAX: usize = 8;

/// A part that may be a parcel, as it comes.
pub(super) enum Found<'o> {
    /// One begins.
    Begin,
    /// Its next octets, decoded.
    Octets(&'o [u8]),
}

/// The mail is none that a parcel could be found in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Reads a mail in pieces of any length.
pub(super) struct Carriage {
    /// The line that is coming in, or its next piece.
    line: Vec<u8>,
    /// Whether the piece in `line` begins a line.
    is_begin: bool,
    boundaries: Vec<Vec<u8>>,
    state: State,
    /// Decoded octets on their way out.
    out: Vec<u8>,
}

enum State {
    Header(Vec<u8>),
    /// Text between parts, or a part that is no parcel.
    Passed,
    Part(Decoder),
}

impl Carriage {
    pub(super) fn new() -> Self {
        Self {
            line: Vec::new(),
            is_begin: true,
            boundaries: Vec::new(),
            state: State::Header(Vec::new()),
            out: Vec::new(),
        }
    }

    /// Takes the next octets.
    pub(super) fn feed(&mut self, octets: &[u8], take: &mut impl FnMut(Found<'_>)) -> Result<(), Malformed> {
        for mut piece in octets.split_inclusive(|octet| *octet == b'\n') {
            while !piece.is_empty() {
                // Where a long line is cut depends on it alone, not on how it came in.
                let (now, later) = piece.split_at(piece.len().min(LINE_MAX - self.line.len()));
                self.line.extend_from_slice(now);
                piece = later;
                if self.line.ends_with(b"\n") {
                    self.take_line(take)?;
                    self.is_begin = true;
                } else if self.line.len() == LINE_MAX {
                    // A line end is not cut in two.
                    let kept = usize::from(self.line.ends_with(b"\r"));
                    let rest = self.line.split_off(self.line.len() - kept);
                    self.take_line(take)?;
                    self.line = rest;
                    self.is_begin = false;
                }
            }
        }
        Ok(())
    }

    /// The mail is complete. Returns the line end that may belong to the part which it ended with, or to the mail.
    pub(super) fn finish(mut self, take: &mut impl FnMut(Found<'_>)) -> Result<&'static [u8], Malformed> {
        if !self.line.is_empty() {
            self.take_line(take)?;
        }
        match &self.state {
            State::Part(decoder) if self.boundaries.is_empty() => Ok(decoder.line_end),
            State::Passed => Ok(b""),
            State::Part(_) | State::Header(_) => Err(Malformed),
        }
    }

    fn take_line(&mut self, take: &mut impl FnMut(Found<'_>)) -> Result<(), Malformed> {
        let line = std::mem::take(&mut self.line);
        let taken = self.take_piece(&line, take);
        // Its room is used again.
        self.line = line;
        self.line.clear();
        taken
    }

    fn take_piece(&mut self, line: &[u8], take: &mut impl FnMut(Found<'_>)) -> Result<(), Malformed> {
        if self.is_begin
            && let Some((depth, is_last)) = self.boundary(line)
        {
            self.boundaries.truncate(if is_last { depth } else { depth + 1 });
            self.state = if is_last {
                State::Passed
            } else {
                State::Header(Vec::new())
            };
            return Ok(());
        }
        match &mut self.state {
            State::Passed => Ok(()),
            State::Header(header) => {
                if header.len() + line.len() > HEADER_MAX {
                    return Err(Malformed);
                }
                header.extend_from_slice(line);
                if self.is_begin && matches!(line, b"\r\n" | b"\n") {
                    let header = std::mem::take(header);
                    self.begin_part(&header, take)?;
                }
                Ok(())
            }
            State::Part(decoder) => {
                self.out.clear();
                decoder.decode(line, &mut self.out);
                if !self.out.is_empty() {
                    take(Found::Octets(&self.out));
                }
                Ok(())
            }
        }
    }

    /// The depth of the multipart whose boundary the line is, and whether that ends it. Inner ones go first; an outer one
    /// ends what is within.
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let rest = line.strip_prefix(b"--")?;
        let is_blank = |rest: &[u8]| rest.iter().all(|octet| b" \t\r\n".contains(octet));
        self.boundaries.iter().enumerate().rev().find_map(|(depth, boundary)| {
            let rest = rest.strip_prefix(&boundary[..])?;
            match rest.strip_prefix(b"--") {
                Some(_) => Some((depth, true)),
                None => is_blank(rest).then_some((depth, false)),
            }
        })
    }

    fn begin_part(&mut self, header: &[u8], take: &mut impl FnMut(Found<'_>)) -> Result<(), Malformed> {
        let media = message::media(header).ok_or(Malformed)?;
        if media.kind.starts_with("multipart/") {
            let boundary = media
                .boundary
                .filter(|boundary| !boundary.is_empty())
                .ok_or(Malformed)?;
            if self.boundaries.len() == DEPTH_MAX {
                return Err(Malformed);
            }
            self.boundaries.push(boundary.into_bytes());
            self.state = State::Passed;
            return Ok(());
        }
        let is_named = media.file_name.is_some_and(|name| name.ends_with(ENDING));
        if media.kind != PARCEL && media.kind != FILE && !is_named {
            self.state = State::Passed;
            return Ok(());
        }
        let encoding = match &media.encoding[..] {
            "base64" => Encoding::Base64 { bits: 0, count: 0 },
            "quoted-printable" => Encoding::QuotedPrintable,
            "7bit" | "8bit" | "binary" => Encoding::Identity,
            _ => return Err(Malformed),
        };
        take(Found::Begin);
        self.state = State::Part(Decoder {
            encoding,
            line_end: b"",
        });
        Ok(())
    }
}

/// Content-Transfer-Encodings (RFC 2045 section 6).
enum Encoding {
    Base64 { bits: u32, count: u32 },
    QuotedPrintable,
    Identity,
}

struct Decoder {
    encoding: Encoding,
    /// Of the line before: what stands before a boundary belongs to that.
    line_end: &'static [u8],
}

impl Decoder {
    fn decode(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let (text, line_end): (_, &[u8]) = match line {
            [text @ .., b'\r', b'\n'] => (text, b"\r\n"),
            [text @ .., b'\n'] => (text, b"\n"),
            text => (text, b""),
        };
        match &mut self.encoding {
            Encoding::Base64 { bits, count } => base64(text, bits, count, out),
            Encoding::QuotedPrintable => {
                out.extend_from_slice(self.line_end);
                self.line_end = match quoted_printable(text, out) {
                    true => b"",
                    false => line_end,
                };
            }
            Encoding::Identity => {
                out.extend_from_slice(self.line_end);
                out.extend_from_slice(text);
                self.line_end = line_end;
            }
        }
    }
}

/// Passes over whatever is no character of the alphabet, as RFC 2045 section 6.8 has it. The end is where no more comes.
fn base64(text: &[u8], bits: &mut u32, count: &mut u32, out: &mut Vec<u8>) {
    for character in text {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        *bits = *bits << 6 | u32::from(value);
        *count += 6;
        if *count >= 8 {
            *count -= 8;
            out.push((*bits >> *count) as u8);
        }
    }
}

/// Decodes a line; `true` if its end is a soft one. What is no escape stands for itself.
fn quoted_printable(text: &[u8], out: &mut Vec<u8>) -> bool {
    let digit = |octet: &u8| char::from(*octet).to_digit(16);
    let mut text = text.trim_ascii_end();
    loop {
        match text {
            [] => return false,
            [b'='] => return true,
            [b'=', high, low, rest @ ..] if digit(high).is_some() && digit(low).is_some() => {
                let value = digit(high).zip(digit(low)).map_or(0, |(high, low)| high << 4 | low);
                out.push(value as u8);
                text = rest;
            }
            [octet, rest @ ..] => {
                out.push(*octet);
                text = rest;
            }
        }
    }
}

/// Reads hostile bytes as a mail, whole and in pieces: what is found is the same.
pub fn fuzz(bytes: &[u8]) {
    let whole = read(bytes, bytes.len().max(1));
    assert!(whole == read(bytes, 7) && whole == read(bytes, 1));
}

/// The parts that may be parcels, and the line end that is left over.
type Parts = (Vec<Vec<u8>>, &'static [u8]);

fn read(mail: &[u8], step: usize) -> Result<Parts, Malformed> {
    let (mut carriage, mut found) = (Carriage::new(), Vec::<Vec<u8>>::new());
    let mut take = |part: Found<'_>| match part {
        Found::Begin => found.push(Vec::new()),
        Found::Octets(octets) => found.last_mut().expect("begun before").extend_from_slice(octets),
    };
    for piece in mail.chunks(step) {
        carriage.feed(piece, &mut take)?;
    }
    let line_end = carriage.finish(&mut take)?;
    Ok((found, line_end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_base64(octets: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in octets.chunks(3) {
            let bits = three.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
            for place in 0..4 {
                text.push(match place <= three.len() {
                    true => char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]),
                    false => '=',
                });
            }
            if text.len() % 78 == 76 {
                text.push_str("\r\n");
            }
        }
        text
    }

    fn in_quoted_printable(octets: &[u8]) -> String {
        octets
            .chunks(25)
            .map(|line| line.iter().map(|octet| format!("={octet:02X}")).collect::<String>())
            .collect::<Vec<_>>()
            .join("=\r\n")
    }

    fn part(kind: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        [head.as_bytes(), body, b"\r\n"].concat()
    }

    fn in_multipart(inner: &[&[u8]]) -> Vec<u8> {
        let mut mail = b"Subject: x\r\nContent-Type: multipart/mixed; boundary=\"b-1\"\r\n\r\npreamble\r\n".to_vec();
        for inner in inner {
            mail.extend_from_slice(b"--b-1\r\n");
            mail.extend_from_slice(inner);
        }
        mail.extend_from_slice(b"--b-1--\r\nepilogue\r\n");
        mail
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_encoded_is_found_in_a_body_and_in_an_attachment(
            octets in prop::collection::vec(any::<u8>(), 1..20_000),
            step in 1..9_000_usize,
        ) {
            let base64 = part("application/vnd.postern.parcel", "base64", in_base64(&octets).as_bytes());
            let quoted = part("application/octet-stream", "quoted-printable", in_quoted_printable(&octets).as_bytes());
            for part in [&base64, &quoted] {
                let (found, line_end) = read(part, step).expect("a mail");
                prop_assert!(found == [octets.clone()] && (line_end == b"" || line_end == b"\r\n"));
                let text = b"Content-Type: text/plain\r\n\r\nhere it is\r\n\r\n";
                let (found, line_end) = read(&in_multipart(&[text, part]), step).expect("a mail");
                prop_assert!(found == [octets.clone()] && line_end == b"");
            }
        }

        #[test]
        fn binary_octets_are_found_as_they_are(
            octets in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), any::<u8>()], 1..9_000),
            step in 1..5_000_usize,
        ) {
            prop_assume!(!octets.windows(3).any(|three| three == b"--b"));
            let binary = part("application/vnd.postern.parcel", "binary", &octets);
            let (found, line_end) = read(&binary, step).expect("a mail");
            prop_assert!(found == [octets.clone()] && line_end == b"\r\n");
            let (found, line_end) = read(&in_multipart(&[&binary]), step).expect("a mail");
            prop_assert!(found == [octets] && line_end == b"");
        }
    }

    #[test]
    fn a_file_is_found_by_its_name_and_texts_are_passed_over() {
        let named = b"Content-Type: application/x-unknown; name=\"a.PARCEL\"\r\n\r\nx\r\n";
        let signature = b"Content-Type: application/pgp-signature\r\n\r\ny\r\n";
        let nested = in_multipart(&[signature, named]);
        let nested = String::from_utf8(nested).expect("ASCII").replace("b-1", "inner");
        let mail = in_multipart(&[b"\r\ntext\r\n", nested.as_bytes(), signature]);
        assert_eq!(read(&mail, 11), Ok((vec![b"x".to_vec()], &b""[..])));
    }

    #[test]
    fn long_lines_are_cut_alike_however_they_come_in() {
        let line = vec![b'='; 3 * LINE_MAX];
        for encoding in ["quoted-printable", "base64", "8bit"] {
            let mail = part("application/octet-stream", encoding, &line);
            let whole = read(&mail, mail.len());
            assert!(
                whole.is_ok() && (1..40).all(|step| read(&mail, step) == whole),
                "{encoding}"
            );
        }
    }

    #[test]
    fn a_mail_that_is_cut_or_bottomless_is_none() {
        let cut = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\nx\r\n";
        assert_eq!(read(cut, 9), Err(Malformed));
        assert_eq!(read(b"Subject: x\r\n", 9), Err(Malformed));
        assert_eq!(read(b"Content-Type: multipart/mixed\r\n\r\n", 9), Err(Malformed));
        let mut deep = Vec::new();
        for level in 0..=DEPTH_MAX {
            deep.extend(format!("Content-Type: multipart/mixed; boundary={level}\r\n\r\n--{level}\r\n").into_bytes());
        }
        assert_eq!(read(&deep, 9), Err(Malformed));
        assert_eq!(read(&vec![b'x'; HEADER_MAX + 1_000], 500), Err(Malformed));
    }
}
