//! Where a message's text ends, and nowhere else.
//!
//! Only `<CRLF>.<CRLF>` ends the text, and an empty text ends at `.<CRLF>`. A dot behind a bare CR or LF is text:
//! reading it otherwise is how a second message is smuggled inside the first.

/// Reads a text piece by piece, removing the dots that the client added (RFC 5321 4.5.2).
///
/// ```text
///                     other, dot removed
///        ┌────────────┐ ─────────────▶ ┌─────────────┐ ◀─┐ other,
///   ●──▶ │ line start │                │ within line │   │ bare CR,
///        └────────────┘ ◀───────────── └─────────────┘ ──┘ bare LF
///              │             CRLF
///              ▼ . CRLF
///             end
/// ```
///
/// It never holds octets back: what cannot be judged yet stays with the caller, who shows it again with more behind.
pub(super) struct DataScanner {
    line_start: bool,
}

/// What the scanner found at the beginning of its input.
pub(super) enum Found<'i> {
    /// Nothing that can be judged; at most `CR`, `.` or `. CR` are left.
    Nothing,
    /// Text, unstuffed, in which every CR and LF is part of a CRLF.
    Text(&'i [u8]),
    /// One bare CR or bare LF.
    BareNewline,
    /// The end of the text.
    End,
}

impl DataScanner {
    pub(super) fn new() -> Self {
        Self { line_start: true }
    }

    /// Finds the next thing in `input`, and how many octets of it are used up.
    pub(super) fn scan<'i>(&mut self, input: &'i [u8]) -> (usize, Found<'i>) {
        let start = match input {
            [b'.', b'\r', b'\n', ..] if self.line_start => return (3, Found::End),
            [b'.'] | [b'.', b'\r'] if self.line_start => return (0, Found::Nothing),
            [b'.', ..] if self.line_start => {
                self.line_start = false;
                1
            }
            _ => 0,
        };
        let (end, line_start) = self.run(input, start);
        if end > start {
            self.line_start = line_start;
            return (end, Found::Text(&input[start..end]));
        }
        match input[start..] {
            [] | [b'\r'] => (start, Found::Nothing),
            // The run would have taken a CRLF, so this is a CR or LF of its own. Whatever follows is within the line.
            _ => {
                self.line_start = false;
                (start + 1, Found::BareNewline)
            }
        }
    }

    /// The end of the longest piece from `start` that is text as it stands, and whether a line starts there.
    fn run(&self, input: &[u8], start: usize) -> (usize, bool) {
        let (mut at, mut line_start) = (start, self.line_start);
        loop {
            // A dot that follows may have to go, or end the text.
            if line_start && at > start && input.get(at) == Some(&b'.') {
                return (at, true);
            }
            let end = newline(&input[at..]).map_or(input.len(), |offset| at + offset);
            line_start &= end == at;
            if !input[end..].starts_with(b"\r\n") {
                return (end, line_start);
            }
            (at, line_start) = (end + 2, true);
        }
    }
}

/// Reads a text that comes in chunks, whose lengths alone say where it ends: no dot has a meaning (RFC 3030 section 2).
///
/// A CR at the end of a chunk is held back, as the LF of it may begin the next one.
pub(super) struct ChunkScanner {
    held_cr: bool,
    line_start: bool,
}

impl ChunkScanner {
    pub(super) fn new() -> Self {
        Self {
            held_cr: false,
            line_start: true,
        }
    }

    /// Finds the next thing in `input`, and how many octets of it are used up. Never leaves anything of it for later but
    /// what it has found nothing in yet.
    pub(super) fn scan<'i>(&mut self, input: &'i [u8]) -> (usize, Found<'i>) {
        match input {
            [] => (0, Found::Nothing),
            [b'\n', ..] if self.held_cr => {
                (self.held_cr, self.line_start) = (false, true);
                (1, Found::Text(b"\r\n"))
            }
            _ if self.held_cr => {
                (self.held_cr, self.line_start) = (false, true);
                (0, Found::BareNewline)
            }
            [b'\r'] => {
                self.held_cr = true;
                (1, Found::Nothing)
            }
            [b'\r', b'\n', ..] => self.text(input),
            [b'\r' | b'\n', ..] => {
                self.line_start = true;
                (1, Found::BareNewline)
            }
            _ => self.text(input),
        }
    }

    /// The longest piece from the beginning that is text as it stands; there is one.
    fn text<'i>(&mut self, input: &'i [u8]) -> (usize, Found<'i>) {
        let mut at = 0;
        loop {
            let end = newline(&input[at..]).map_or(input.len(), |offset| at + offset);
            if !input[end..].starts_with(b"\r\n") {
                self.line_start = end == at;
                return (end, Found::Text(&input[..end]));
            }
            at = end + 2;
        }
    }

    /// What the end of the last chunk brings: a CR that was held back, the end of a line that has none, then
    /// [`Found::End`].
    pub(super) fn end(&mut self) -> Found<'static> {
        if std::mem::take(&mut self.held_cr) {
            self.line_start = true;
            Found::BareNewline
        } else if !std::mem::replace(&mut self.line_start, true) {
            Found::Text(b"\r\n")
        } else {
            Found::End
        }
    }
}

/// Where the first CR or LF is.
///
/// Whole blocks without one are passed at once, which compilers turn into a few wide instructions. Bounded by the block
/// beyond the newline, however many of them come.
pub(super) fn newline(octets: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_newline = |octet: &u8| matches!(octet, b'\r' | b'\n');
    let (blocks, _) = octets.as_chunks::<BLOCK>();
    let clear = blocks
        .iter()
        .take_while(|block| !block.iter().fold(false, |found, octet| found | is_newline(octet)))
        .count();
    let passed = clear * BLOCK;
    let offset = octets[passed..].iter().position(is_newline)?;
    Some(passed + offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `pieces` as segments: the text with bare newlines as `N`, what is left behind the end if there is one.
    fn scanned<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut scanner, mut text, mut left, mut ended) = (DataScanner::new(), Vec::new(), Vec::new(), false);
        for piece in pieces {
            left.extend_from_slice(piece);
            while !ended {
                let (used, found) = scanner.scan(&left);
                match found {
                    Found::Nothing => {
                        assert!([&b""[..], b"\r", b".", b".\r"].contains(&&left[used..]));
                        left.drain(..used);
                        break;
                    }
                    Found::Text(run) => text.extend_from_slice(run),
                    Found::BareNewline => text.push(b'N'),
                    Found::End => ended = true,
                }
                left.drain(..used);
            }
        }
        (text, ended.then_some(left))
    }

    /// Input, text, and what is left behind the end if there is one.
    type Case = (&'static [u8], &'static [u8], Option<&'static [u8]>);

    const CASES: &[Case] = &[
        (b".\r\n", b"", Some(b"")),
        (b"\r\n.\r\n", b"\r\n", Some(b"")),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", Some(b"QUIT\r\n")),
        (b"a\r\nb.\r\n\r\n.\r\n", b"a\r\nb.\r\n\r\n", Some(b"")),
        (
            b"..\r\n.x\r\n...\r\n x.\r\n.\r\n",
            b".\r\nx\r\n..\r\n x.\r\n",
            Some(b""),
        ),
        (b". \r\n.\r\n", b" \r\n", Some(b"")),
        // The forms that smuggling uses: none of them ends the text.
        (b"a\n.\r\nb\r\n.\r\n", b"aN.\r\nb\r\n", Some(b"")),
        (b"a\n.\nb\r\n.\r\n", b"aN.Nb\r\n", Some(b"")),
        (b"a\r.\r\nb\r\n.\r\n", b"aN.\r\nb\r\n", Some(b"")),
        (b"a\r.\rb\r\n.\r\n", b"aN.Nb\r\n", Some(b"")),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\nNb\r\n", Some(b"")),
        (b"a\r\n.\rb\r\n.\r\n", b"a\r\nNb\r\n", Some(b"")),
        (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\nN\r\nb\r\n", Some(b"")),
        (b"a\r\r\n.\r\nb", b"aN\r\n", Some(b"b")),
        (b"a\n\r\n.\r\nb", b"aN\r\n", Some(b"b")),
        (b"\n.\r\n.\r\n", b"N.\r\n", Some(b"")),
        (b"\r.\r\n.\r\n", b"N.\r\n", Some(b"")),
        (b"a\r\n\n.\r\n.\r\n", b"a\r\nN.\r\n", Some(b"")),
        // Unfinished.
        (b"a\r\n.\r", b"a\r\n", None),
        (b"a\r", b"a", None),
    ];

    #[test]
    fn only_crlf_dot_crlf_ends_the_text_wherever_it_is_split() {
        for &(input, text, rest) in CASES {
            let expected = (text.to_vec(), rest.map(<[u8]>::to_vec));
            for cut in 0..=input.len() {
                assert!(
                    scanned([&input[..cut], &input[cut..]]) == expected,
                    "{} at {cut}",
                    input.escape_ascii()
                );
            }
            assert!(
                scanned(input.chunks(1)) == expected,
                "{} octet by octet",
                input.escape_ascii()
            );
        }
    }

    /// The same in the plainest way: cut at CRLFs, then line by line.
    fn plainly(input: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut lines: Vec<&[u8]> = Vec::new();
        let mut rest = input;
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        for line in lines.into_iter().take_while(|line| *line != b".") {
            let line = line.strip_prefix(b".").unwrap_or(line);
            text.extend(
                line.iter()
                    .map(|octet| if b"\r\n".contains(octet) { b'N' } else { *octet }),
            );
            text.extend_from_slice(b"\r\n");
        }
        text
    }

    /// Feeds chunks, each in segments of `step` octets: the text with bare newlines as `N`.
    fn chunked(chunks: &[&[u8]], step: usize) -> Vec<u8> {
        let (mut scanner, mut text) = (ChunkScanner::new(), Vec::new());
        let mut push = |found| match found {
            Found::Text(run) => text.extend_from_slice(run),
            Found::BareNewline => text.push(b'N'),
            Found::Nothing | Found::End => {}
        };
        for chunk in chunks {
            for segment in chunk.chunks(step) {
                let mut rest = segment;
                while !rest.is_empty() {
                    let (used, found) = scanner.scan(rest);
                    rest = &rest[used..];
                    push(found);
                }
            }
        }
        for _ in 0..2 {
            push(scanner.end());
        }
        assert!(matches!(scanner.end(), Found::End));
        text
    }

    #[test]
    fn chunks_end_where_they_are_said_to_and_nowhere_else() {
        for (text, stored) in [
            (&b""[..], &b""[..]),
            (b"a\r\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n"),
            (b".\r\n", b".\r\n"),
            (b"..\r\n.", b"..\r\n.\r\n"),
            (b"a", b"a\r\n"),
            (b"a\r", b"aN"),
            (b"a\n", b"aN"),
            (b"\r\r\n", b"N\r\n"),
            (b"\r\n\n\r", b"\r\nNN"),
        ] {
            for cut in 0..=text.len() {
                for step in [1, 2, 64] {
                    let (before, behind) = text.split_at(cut);
                    let read = chunked(&[before, b"", behind], step);
                    assert!(
                        read == stored,
                        "{} at {cut}: {}",
                        text.escape_ascii(),
                        read.escape_ascii()
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_make_the_same_text_wherever_they_are_cut(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40),
            cut in 0usize..40,
            step in 1usize..5,
        ) {
            let (before, behind) = input.split_at(cut.min(input.len()));
            let whole = chunked(&[&input], 64);
            prop_assert_eq!(chunked(&[before, behind], step), whole.clone());
            prop_assert!(whole.is_empty() || whole.ends_with(b"\r\n") || whole.ends_with(b"N"));
        }

        #[test]
        fn a_newline_is_found_wherever_it_is(
            octets in proptest::collection::vec(prop_oneof![60 => Just(b'a'), 1 => Just(b'\r'), 1 => Just(b'\n'), 1 => any::<u8>()], 0..200),
        ) {
            let plainly = octets.iter().position(|octet| *octet == b'\r' || *octet == b'\n');
            prop_assert_eq!(newline(&octets), plainly);
        }

        #[test]
        fn it_agrees_with_reading_line_by_line(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40),
            cuts in proptest::collection::vec(0usize..40, 0..4),
        ) {
            let input = [&input[..], b"\r\n.\r\n"].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).chain([0, input.len()]).collect();
            cuts.sort_unstable();
            let (text, rest) = scanned(cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]));
            prop_assert!(rest.is_some());
            prop_assert!(text == plainly(&input), "{}", input.escape_ascii());
        }
    }
}
