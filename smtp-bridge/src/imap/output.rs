//! What goes to the client: bytes written here and slices of message texts, in order.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use mail_parser::DateTime;
use mailbox::holder_store::MessageText;
use zeroize::Zeroizing;

/// A message as it is stored.
pub(super) type Text = Zeroizing<Vec<u8>>;

/// Waiting output above which nothing more is produced before some of it is sent.
pub(super) const HIGH_WATER: usize = 64 << 10;

/// Slices of a message up to this length are copied, so that the text itself can go and one write takes many of them.
const COPY_MAX: usize = 16 << 10;

/// Length of a piece that nothing more is added to: what is sent of it would stay in memory.
const PIECE_MAX: usize = HIGH_WATER;

/// Longest string written in quotes; longer ones, and what quotes cannot hold, become literals.
const QUOTED_MAX: usize = 1_000;

/// The last second of the year 9999: INTERNALDATE has four digits for the year.
const SECOND_MAX: u64 = 253_402_300_799;

enum Piece {
    Bytes(Zeroizing<Vec<u8>>),
    Slice(Arc<Text>, Range<usize>),
    /// What is at hand of a long text, and what is still to be read of it.
    Long(Text, Arc<dyn MessageText>, Range<usize>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slice(text, range) => &text[range.clone()],
            Self::Long(at_hand, ..) => at_hand,
        }
    }
}

/// The queue of output.
#[derive(Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    /// How much of the first piece is sent.
    sent: usize,
    /// What is left to send, in bytes.
    length: usize,
    /// How many pieces were sent.
    pieces_sent: u64,
}

impl Output {
    /// What is to be sent next; empty when nothing waits, or when it is still to be [read](Self::wanted).
    pub(super) fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece.bytes()[self.sent..])
    }

    /// Forgets the first `count` bytes of [`Self::front`], which are sent.
    pub(super) fn sent(&mut self, count: usize) {
        let count = count.min(self.front().len());
        self.sent += count;
        self.length -= count;
        if self.front().is_empty() {
            match self.pieces.front_mut() {
                Some(Piece::Long(at_hand, _, left)) if left.start < left.end => *at_hand = Text::default(),
                _ => {
                    self.pieces.pop_front();
                    self.pieces_sent += 1;
                }
            }
            self.sent = 0;
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    /// The text and the place in it that must be read before anything can be sent.
    pub(super) fn wanted(&self) -> Option<(Arc<dyn MessageText>, usize)> {
        match self.pieces.front() {
            Some(Piece::Long(at_hand, text, left)) if at_hand.is_empty() => Some((Arc::clone(text), left.start)),
            _ => None,
        }
    }

    /// Takes what was [wanted](Self::wanted). `false`: it is nothing.
    pub(super) fn read(&mut self, mut octets: Text) -> bool {
        let Some(Piece::Long(at_hand, _, left)) = self.pieces.front_mut() else {
            return false;
        };
        octets.truncate(left.len());
        left.start += octets.len();
        *at_hand = octets;
        !at_hand.is_empty()
    }

    /// How many pieces were sent, each a literal or a stretch of other output.
    pub(super) fn pieces_sent(&self) -> u64 {
        self.pieces_sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether enough waits for the client to read some of it first.
    pub(super) fn is_high(&self) -> bool {
        self.length >= HIGH_WATER
    }

    /// Whether a message text is kept alive by what waits.
    pub(super) fn holds_text(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Slice(..) | Piece::Long(..)))
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Bytes(last)) if last.len() < PIECE_MAX => {
                if last.len() >= PIECE_MAX / 16 && last.capacity() - last.len() < bytes.len() {
                    // It will be a long one: doubling would copy and wipe it four times.
                    let whole = PIECE_MAX + COPY_MAX + PIECE_MAX / 16;
                    let more = whole.saturating_sub(last.len()).max(bytes.len());
                    last.reserve(more);
                }
                last.extend_from_slice(bytes);
            }
            _ if bytes.is_empty() => {}
            _ => self.pieces.push_back(Piece::Bytes(Zeroizing::new(bytes.to_vec()))),
        }
    }

    pub(super) fn put_fmt(&mut self, arguments: fmt::Arguments<'_>) {
        self.write_fmt(arguments).expect("writing to memory does not fail");
    }

    /// A line of its own.
    pub(super) fn line(&mut self, arguments: fmt::Arguments<'_>) {
        self.put_fmt(arguments);
        self.put(b"\r\n");
    }

    /// `literal`, cut out of a message: octet for octet, whatever it holds.
    pub(super) fn put_slice(&mut self, text: &Arc<Text>, range: Range<usize>) {
        self.put_fmt(format_args!("{{{}}}\r\n", range.len()));
        if range.len() <= COPY_MAX {
            self.put(&text[range]);
        } else {
            self.length += range.len();
            self.pieces.push_back(Piece::Slice(Arc::clone(text), range));
        }
    }

    /// `literal`, read out of a long text while it is sent.
    pub(super) fn put_long(&mut self, text: &Arc<dyn MessageText>, range: Range<usize>) {
        self.put_fmt(format_args!("{{{}}}\r\n", range.len()));
        if !range.is_empty() {
            self.length += range.len();
            self.pieces
                .push_back(Piece::Long(Text::default(), Arc::clone(text), range));
        }
    }

    pub(super) fn put_literal(&mut self, bytes: &[u8]) {
        self.put_fmt(format_args!("{{{}}}\r\n", bytes.len()));
        self.put(bytes);
    }

    /// `string`, less any NUL, which neither form may hold.
    pub(super) fn put_string(&mut self, bytes: &[u8]) {
        if bytes.contains(&0) {
            let kept: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != 0).collect();
            return self.put_string(&kept);
        }
        if bytes.len() > QUOTED_MAX || !bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.put_literal(bytes);
        }
        self.put(b"\"");
        for run in bytes.split_inclusive(|byte| matches!(byte, b'"' | b'\\')) {
            match run.split_last() {
                Some((&special @ (b'"' | b'\\'), before)) => {
                    self.put(before);
                    self.put(&[b'\\', special]);
                }
                _ => self.put(run),
            }
        }
        self.put(b"\"");
    }

    /// `nstring`.
    pub(super) fn put_nstring(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.put_string(bytes),
            None => self.put(b"NIL"),
        }
    }

    /// `uid-set`: ascending numbers, in ranges (RFC 4315 section 4).
    pub(super) fn put_set(&mut self, numbers: impl IntoIterator<Item = u32>) {
        let mut numbers = numbers.into_iter().peekable();
        let mut is_first = true;
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            let before = if std::mem::take(&mut is_first) { "" } else { "," };
            match last == first {
                true => self.put_fmt(format_args!("{before}{first}")),
                false => self.put_fmt(format_args!("{before}{first}:{last}")),
            }
        }
    }

    /// `date-time`, in UTC.
    pub(super) fn put_date(&mut self, second: u64) {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let date = DateTime::from_timestamp(second.min(SECOND_MAX) as i64);
        let month = MONTHS[usize::from(date.month.clamp(1, 12)) - 1];
        self.put_fmt(format_args!(
            "\"{:02}-{month}-{:04} {:02}:{:02}:{:02} +0000\"",
            date.day, date.year, date.hour, date.minute, date.second
        ));
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Output)) -> String {
        let mut out = Output::default();
        write(&mut out);
        let mut all = Vec::new();
        while !out.is_empty() {
            all.extend_from_slice(out.front());
            out.sent(out.front().len());
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    #[test]
    fn strings_take_the_form_that_can_hold_them() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "\"\""),
            (b"plain", "\"plain\""),
            (b"a \"b\" \\c", "\"a \\\"b\\\" \\\\c\""),
            ("gr\u{fc}n".as_bytes(), "{5}\r\ngr\u{fc}n"),
            (b"a\r\nb", "{4}\r\na\r\nb"),
            (b"a\0b", "\"ab\""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(written(|out| out.put_string(bytes)), expected);
        }
        assert!(written(|out| out.put_string(&[b'x'; 1_001])).starts_with("{1001}\r\n"));
    }

    #[test]
    fn dates_have_two_digits_for_the_day_and_stop_at_the_year_9999() {
        assert_eq!(written(|out| out.put_date(0)), "\"01-Jan-1970 00:00:00 +0000\"");
        assert_eq!(
            written(|out| out.put_date(1_769_915_045)),
            "\"01-Feb-2026 03:04:05 +0000\""
        );
        assert_eq!(written(|out| out.put_date(u64::MAX)), "\"31-Dec-9999 23:59:59 +0000\"");
    }

    #[test]
    fn long_slices_are_not_copied_and_come_out_whole() {
        let text = Arc::new(Zeroizing::new(vec![b'y'; 100_000]));
        let mut out = Output::default();
        out.put_slice(&text, 0..100);
        assert!(!out.holds_text());
        out.put_slice(&text, 10..90_000);
        assert!(out.holds_text());
        let all = written(|fresh| *fresh = out);
        assert_eq!(all.len(), "{100}\r\n".len() + 100 + "{89990}\r\n".len() + 89_990);
        assert_eq!(Arc::strong_count(&text), 1);
    }

    #[test]
    fn sets_are_written_in_ranges() {
        let set = |numbers: &[u32]| written(|out| out.put_set(numbers.iter().copied()));
        assert_eq!(set(&[1, 2, 3, 5, 7, 8]), "1:3,5,7:8");
        assert_eq!(set(&[u32::MAX]), "4294967295");
        assert_eq!(set(&[]), "");
    }
}
