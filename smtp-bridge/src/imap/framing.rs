//! Lines and literals: where one command ends and the next begins (RFC 3501 section 2.2, RFC 7888).
//!
//! A command is a line, or lines with literals between them. The framer looks at nothing but their ends, bounds them,
//! and stays in step with the client over everything that is refused, so that no octet of a refused literal is ever
//! taken for a command.

use zeroize::Zeroizing;

/// `{4294967295+}` and then some.
const ANNOUNCEMENT_MAX: usize = 32;

/// Kept allocated between commands.
const IDLE_CAPACITY: usize = 4 << 10;

/// What was found in the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// A whole command: [`Framer::take`] it.
    Command,
    /// The command goes on with a literal: [`Framer::accept`], [`Framer::collect`] or [`Framer::refuse`] it.
    Literal {
        /// Its length in bytes, as announced.
        length: u64,
        /// Whether the client waits for `+` before it sends it.
        waits: bool,
    },
    /// The command is over its bound; the rest of it will be passed over.
    TooLong,
    /// More was passed over than a mistaken client would send.
    Flood,
}

#[derive(Clone, Copy)]
enum Mode {
    /// Inside a line.
    Line,
    /// Behind an announcement that is not yet decided on.
    Announced { length: u64, waits: bool },
    /// Inside a literal that becomes part of the command.
    Inline { left: usize },
    /// Inside the literal kept apart.
    Apart { left: usize },
    /// Inside a line of a command that is passed over.
    SkipLine,
    /// Inside a literal of such a command.
    SkipLiteral { left: u64 },
}

/// Cuts the client's bytes into commands.
pub(super) struct Framer {
    input: Zeroizing<Vec<u8>>,
    /// How much of `input` is done.
    at: usize,
    mode: Mode,
    /// Lines and literals so far, as the parser wants them: each line ended, each literal behind its announcement.
    command: Zeroizing<Vec<u8>>,
    /// Where the current line starts in `command`.
    line: usize,
    /// The message of an APPEND.
    message: Option<Zeroizing<Vec<u8>>>,
    /// Bytes passed over since the last whole command.
    skipped: u64,
    command_max: usize,
    skip_max: u64,
}

impl Framer {
    /// A framer for commands of up to `command_max` bytes, which passes over up to `skip_max` bytes of refused ones.
    pub(super) fn new(command_max: usize, skip_max: u64) -> Self {
        Self {
            input: Zeroizing::default(),
            at: 0,
            mode: Mode::Line,
            command: Zeroizing::default(),
            line: 0,
            message: None,
            skipped: 0,
            command_max,
            skip_max,
        }
    }

    /// Takes bytes of the client.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Whether a literal is under way, so that larger reads pay.
    pub(super) fn in_literal(&self) -> bool {
        matches!(
            self.mode,
            Mode::Inline { .. } | Mode::Apart { .. } | Mode::SkipLiteral { .. }
        )
    }

    /// The command so far.
    pub(super) fn command(&self) -> &[u8] {
        &self.command
    }

    /// Whether the message of an APPEND is already there.
    pub(super) fn has_message(&self) -> bool {
        self.message.is_some()
    }

    /// The whole command, its last line ended by CRLF, and the literal that was kept apart.
    pub(super) fn take(&mut self) -> (Zeroizing<Vec<u8>>, Option<Zeroizing<Vec<u8>>>) {
        self.skipped = 0;
        self.line = 0;
        (std::mem::take(&mut self.command), self.message.take())
    }

    /// Lets the announced literal become part of the command.
    pub(super) fn accept(&mut self) {
        let Mode::Announced { length, .. } = self.mode else {
            return;
        };
        self.command.extend_from_slice(b"\r\n");
        self.mode = Mode::Inline {
            left: usize::try_from(length).unwrap_or(usize::MAX),
        };
    }

    /// Lets the announced literal come, kept apart: the command shows an empty one in its place. So a message is held
    /// once, and may have NULs, which the parser refuses in a literal.
    pub(super) fn collect(&mut self) {
        let Mode::Announced { length, .. } = self.mode else {
            return;
        };
        let end = self.before_literal().len();
        self.command.truncate(end);
        self.command.extend_from_slice(b"{0}\r\n");
        self.message = Some(Zeroizing::default());
        self.mode = Mode::Apart {
            left: usize::try_from(length).unwrap_or(usize::MAX),
        };
    }

    /// Gives the command up. A client that waits for `+` will not send the literal; another one's is passed over.
    pub(super) fn refuse(&mut self) {
        let Mode::Announced { length, waits } = self.mode else {
            return;
        };
        self.forget();
        self.mode = if waits {
            Mode::Line
        } else {
            Mode::SkipLiteral { left: length }
        };
    }

    /// The command up to the announced literal.
    pub(super) fn before_literal(&self) -> &[u8] {
        let end = self
            .command
            .iter()
            .rposition(|&byte| byte == b'{')
            .unwrap_or(self.command.len());
        &self.command[..end]
    }

    /// Looks for the next frame. `None`: more input is needed.
    pub(super) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = match self.mode {
                Mode::Announced { length, waits } => Some(Frame::Literal { length, waits }),
                Mode::Line => self.read_line(),
                Mode::SkipLine => self.skip_line(),
                Mode::Inline { left } => self.read_literal(left),
                Mode::Apart { left } => self.read_message(left),
                Mode::SkipLiteral { left } => self.skip_literal(left),
            };
            if frame.is_some() {
                return frame;
            }
            if self.at == self.input.len() && !self.at_end_of_literal() {
                self.at = 0;
                self.input.clear();
                self.input.shrink_to(IDLE_CAPACITY);
                return None;
            }
        }
    }

    /// Whether the mode moves on without input.
    fn at_end_of_literal(&self) -> bool {
        matches!(
            self.mode,
            Mode::Inline { left: 0 } | Mode::Apart { left: 0 } | Mode::SkipLiteral { left: 0 }
        )
    }

    fn forget(&mut self) {
        self.command = Zeroizing::default();
        self.line = 0;
        self.message = None;
    }

    /// The input up to and without the next line feed, and whether there is one.
    fn rest_of_line(&self) -> (usize, bool) {
        let rest = &self.input[self.at..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => (end, true),
            None => (rest.len(), false),
        }
    }

    fn read_line(&mut self) -> Option<Frame> {
        let (length, ended) = self.rest_of_line();
        let room = self.command_max.saturating_sub(self.command.len());
        if length > room {
            self.command.extend_from_slice(&self.input[self.at..self.at + room]);
            self.at += room;
            self.mode = Mode::SkipLine;
            return Some(Frame::TooLong);
        }
        self.command.extend_from_slice(&self.input[self.at..self.at + length]);
        self.at += length + usize::from(ended);
        if !ended {
            return None;
        }
        if self.command.len() > self.line && self.command.last() == Some(&b'\r') {
            self.command.pop();
        }
        quote_as_literals(&mut self.command, self.line);
        match announcement(&self.command[self.line..]) {
            Some((length, waits)) => {
                self.mode = Mode::Announced { length, waits };
                Some(Frame::Literal { length, waits })
            }
            None => {
                // Some clients end a command with a space.
                while self.command.len() > self.line && self.command.last() == Some(&b' ') {
                    self.command.pop();
                }
                self.command.extend_from_slice(b"\r\n");
                Some(Frame::Command)
            }
        }
    }

    /// Passes over the rest of a line. What it announces without waiting belongs to the same command.
    fn skip_line(&mut self) -> Option<Frame> {
        let (length, ended) = self.rest_of_line();
        self.command.extend_from_slice(&self.input[self.at..self.at + length]);
        self.at += length + usize::from(ended);
        let excess = self.command.len().saturating_sub(ANNOUNCEMENT_MAX);
        self.command.drain(..excess);
        if ended {
            let line = self.command.strip_suffix(b"\r").unwrap_or(&self.command);
            self.mode = match announcement(line) {
                Some((left, false)) => Mode::SkipLiteral { left },
                _ => Mode::Line,
            };
            self.forget();
        }
        self.count_skipped(length as u64)
    }

    fn skip_literal(&mut self, left: u64) -> Option<Frame> {
        let taken = left.min((self.input.len() - self.at) as u64);
        self.at += taken as usize;
        self.mode = match left - taken {
            0 => Mode::SkipLine,
            left => Mode::SkipLiteral { left },
        };
        self.count_skipped(taken)
    }

    fn count_skipped(&mut self, count: u64) -> Option<Frame> {
        self.skipped += count;
        (self.skipped > self.skip_max).then_some(Frame::Flood)
    }

    fn read_literal(&mut self, left: usize) -> Option<Frame> {
        let taken = left.min(self.input.len() - self.at);
        self.command.extend_from_slice(&self.input[self.at..self.at + taken]);
        self.at += taken;
        self.mode = match left - taken {
            0 => {
                self.line = self.command.len();
                Mode::Line
            }
            left => Mode::Inline { left },
        };
        None
    }

    fn read_message(&mut self, left: usize) -> Option<Frame> {
        let taken = left.min(self.input.len() - self.at);
        let message = self.message.get_or_insert_default();
        if message.capacity() - message.len() < taken {
            // Doubles, but never beyond what was announced, and never at once what was only announced.
            let more = left.min(message.len().max(taken));
            message.reserve_exact(more);
        }
        message.extend_from_slice(&self.input[self.at..self.at + taken]);
        self.at += taken;
        self.mode = match left - taken {
            0 => {
                self.line = self.command.len();
                Mode::Line
            }
            left => Mode::Apart { left },
        };
        None
    }
}

/// `"{" number ["+"] "}"` at the end of a line: length, and whether the client waits.
fn announcement(line: &[u8]) -> Option<(u64, bool)> {
    let inner = line.strip_suffix(b"}")?;
    let (inner, waits) = match inner.strip_suffix(b"+") {
        Some(inner) => (inner, false),
        None => (inner, true),
    };
    let digits = &inner[inner.iter().rposition(|&byte| byte == b'{')? + 1..];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = digits.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    Some((length, waits))
}

/// Turns quoted strings with octets above 127 into literals: clients write them so, the grammar does not allow it.
fn quote_as_literals(command: &mut Vec<u8>, start: usize) {
    if command[start..].is_ascii() {
        return;
    }
    let line = Zeroizing::new(command.split_off(start));
    let mut rest = &line[..];
    while let Some(open) = rest.iter().position(|&byte| byte == b'"') {
        let Some((content, length)) = quoted(&rest[open + 1..]) else {
            break;
        };
        command.extend_from_slice(&rest[..open]);
        if content.is_ascii() {
            command.extend_from_slice(&rest[open..open + 1 + length]);
        } else {
            command.extend_from_slice(format!("{{{}+}}\r\n", content.len()).as_bytes());
            command.extend_from_slice(&content);
        }
        rest = &rest[open + 1 + length..];
    }
    command.extend_from_slice(rest);
}

/// The content of a quoted string behind its opening quote, and its length with the closing one.
fn quoted(bytes: &[u8]) -> Option<(Zeroizing<Vec<u8>>, usize)> {
    let mut content = Zeroizing::new(Vec::new());
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some((content, at + 1)),
            b'\\' => {
                content.push(*bytes.get(at + 1)?);
                at += 2;
            }
            &byte => {
                content.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames `input`, accepting literals of up to 100 bytes and refusing the others.
    fn framed(input: &[u8]) -> Vec<String> {
        let mut framer = Framer::new(200, 1_000);
        let mut seen = Vec::new();
        framer.push(input);
        while let Some(frame) = framer.next() {
            match frame {
                Frame::Command => seen.push(String::from_utf8_lossy(&framer.take().0).into_owned()),
                Frame::Literal { length, .. } if length <= 100 => framer.accept(),
                Frame::Literal { length, .. } => {
                    framer.refuse();
                    seen.push(format!("refused {length}"));
                }
                Frame::TooLong => seen.push("too long".to_string()),
                Frame::Flood => {
                    seen.push("flood".to_string());
                    break;
                }
            }
        }
        seen
    }

    #[test]
    fn commands_end_where_their_last_line_ends() {
        let long = "x".repeat(201);
        let cases = [
            ("a NOOP\r\nb NOOP\n", vec!["a NOOP\r\n", "b NOOP\r\n"]),
            ("a NOOP  \r\n\r\n", vec!["a NOOP\r\n", "\r\n"]),
            (
                "a LOGIN {4}\r\nuser {0+}\r\n\r\n",
                vec!["a LOGIN {4}\r\nuser {0+}\r\n\r\n"],
            ),
            ("a X {7}\r\n1 {9}\r\n\r\n", vec!["a X {7}\r\n1 {9}\r\n\r\n"]),
            (
                "a X \"\u{fc} \\\" \" \"b\"\r\n",
                vec!["a X {5+}\r\n\u{fc} \"  \"b\"\r\n"],
            ),
            ("a X {101}\r\nb NOOP\r\n", vec!["refused 101", "b NOOP\r\n"]),
            (
                "a X {99999999999999999999999}\r\nb Y\r\n",
                vec!["refused 18446744073709551615", "b Y\r\n"],
            ),
        ];
        for (input, expected) in cases {
            assert_eq!(framed(input.as_bytes()), expected, "{input}");
        }
        assert_eq!(
            framed(format!("a {long}\r\nb NOOP\r\n").as_bytes()),
            ["too long", "b NOOP\r\n"]
        );
    }

    #[test]
    fn what_follows_a_refused_literal_is_never_a_command() {
        let body = "z NOOP\r\n".repeat(20);
        let input = format!("a X {{160+}}\r\n{body} {{9+}}\r\ny NOOP\r\n\r\nb NOOP\r\n");
        assert_eq!(framed(input.as_bytes()), ["refused 160", "b NOOP\r\n"]);
        let input = format!("a {}{{8+}}\r\nz NOOP\r\n\r\nb NOOP\r\n", "x".repeat(300));
        assert_eq!(framed(input.as_bytes()), ["too long", "b NOOP\r\n"]);
    }

    #[test]
    fn passing_over_has_an_end() {
        assert_eq!(framed("x".repeat(2_000).as_bytes()), ["too long", "flood"]);
        assert_eq!(
            framed(format!("a {{5000+}}\r\n{}", "x".repeat(2_000)).as_bytes()),
            ["refused 5000", "flood"]
        );
    }

    #[test]
    fn an_announced_message_takes_no_memory_before_it_comes() {
        let mut framer = Framer::new(200, 1_000);
        framer.push(b"a APPEND INBOX {60000000}\r\n");
        assert_eq!(
            framer.next(),
            Some(Frame::Literal {
                length: 60_000_000,
                waits: true
            })
        );
        assert_eq!(framer.before_literal(), b"a APPEND INBOX ");
        framer.collect();
        for _ in 0..60 {
            framer.push(&[b'x'; 1_000]);
            assert_eq!(framer.next(), None);
        }
        assert!(
            framer
                .message
                .as_ref()
                .is_some_and(|message| message.capacity() < 130_000)
        );
    }

    #[test]
    fn the_message_is_kept_apart_from_its_command() {
        let mut framer = Framer::new(200, 1_000);
        framer.push(b"a APPEND INBOX {5+}\r\n\0\r\n{9\r\nb NOOP\r\n");
        assert!(matches!(
            framer.next(),
            Some(Frame::Literal {
                length: 5,
                waits: false
            })
        ));
        framer.collect();
        assert_eq!(framer.next(), Some(Frame::Command));
        let (command, message) = framer.take();
        assert_eq!(&command[..], b"a APPEND INBOX {0}\r\n\r\n");
        assert_eq!(&message.expect("kept apart")[..], b"\0\r\n{9");
        assert_eq!(framer.next(), Some(Frame::Command));
    }
}
