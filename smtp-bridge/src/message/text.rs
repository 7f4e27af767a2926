//! Text bodies: one kind of line end, soft line breaks undone, and the choice between 7bit and quoted-printable.

use std::borrow::Cow;

use super::emit::BOUNDARIES;
use super::encode;
use super::openpgp;
use super::refusal::Refusal;

/// Longest line that goes as it is: the longest that SMTP carries (RFC 5321 section 4.5.3.1.6).
const PLAIN_LINE_MAX: usize = 998;

/// Deepest quoting that is written out again.
const QUOTE_DEPTH_MAX: usize = 100;

/// A `format=flowed` marking (RFC 3676); the value says whether the space at a soft line break is not text (DelSp).
pub(super) type Flowed = Option<bool>;

/// A text body in its canonical form: LF line ends, exactly one at the end unless it is empty.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Adds the text of one part; an empty line parts it from what was there.
    pub(super) fn add(&mut self, part: &str, flowed: Flowed) -> Result<(), Refusal> {
        if part.contains('\0') {
            return Err(Refusal::Nul);
        }
        // Byte order marks are invisible and show the client.
        let part = &*match part.contains('\u{feff}') {
            true => Cow::Owned(part.replace('\u{feff}', "")),
            false => Cow::Borrowed(part),
        };
        let start = self.0.len();
        if start > 0 {
            self.0.push('\n');
        }
        self.0.reserve(part.len() + 1);
        match flowed {
            None => lines(part).for_each(|line| self.line(line)),
            Some(delete_space) => self.unflow(part, delete_space),
        }
        let content = self.0[start..].trim_end_matches('\n').len();
        let end = if content == 0 { start } else { start + content };
        self.0.truncate(end);
        if content > 0 {
            self.0.push('\n');
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Joins flowed lines into paragraphs: without the marking, which does not leave, the recipient could not,
    /// and where they break shows the client and its window.
    fn unflow(&mut self, part: &str, delete_space: bool) {
        let mut open: Option<usize> = None;
        for line in lines(part) {
            let unquoted = line.trim_start_matches('>');
            let depth = line.len() - unquoted.len();
            let content = unquoted.strip_prefix(' ').unwrap_or(unquoted);
            let is_signature = content == "-- ";
            if open.is_some_and(|open| open != depth || is_signature) {
                self.close_paragraph();
                open = None;
            }
            if open.is_none() && depth > 0 {
                self.0.extend(std::iter::repeat_n('>', depth.min(QUOTE_DEPTH_MAX)));
                self.0.push(' ');
            }
            if content.ends_with(' ') && !is_signature {
                self.0.push_str(if delete_space {
                    &content[..content.len() - 1]
                } else {
                    content
                });
                open = Some(depth);
            } else {
                self.line(content);
                open = None;
            }
        }
        if open.is_some() {
            self.close_paragraph();
        }
    }

    /// Ends a paragraph whose last line announced another one.
    fn close_paragraph(&mut self) {
        self.0.truncate(self.0.trim_end_matches(' ').len());
        self.0.push('\n');
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// UTF-8 bytes of the text, less than any encoding of it takes.
    pub(super) fn length(&self) -> usize {
        self.0.len()
    }

    /// The text in its canonical form.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an OpenPGP armour stands in the text.
    pub(super) fn has_armour(&self) -> bool {
        openpgp::has_armour(&self.0)
    }

    /// Takes out of an armour what names the program that made it.
    pub(super) fn drop_armour_headers(&mut self) {
        if self.has_armour()
            && let Some(kept) = openpgp::without_armour_headers(&self.0)
        {
            self.0 = kept;
        }
    }

    /// Upper bound of the size of what [`Text::encode`] appends, unless most of it needs quoting.
    pub(super) fn encoded_length(&self) -> usize {
        self.0.len() + self.0.len() / 16
    }

    /// The name of the transfer encoding, which depends on the text alone.
    pub(super) fn transfer_encoding(&self) -> &'static str {
        if self.is_7bit() { "7bit" } else { "quoted-printable" }
    }

    fn is_7bit(&self) -> bool {
        let text = self.0.as_bytes();
        // Without a way out of the inner loop, it takes many bytes at a time.
        let is_plain = text.chunks(4_096).all(|chunk| {
            let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n');
            chunk.iter().fold(true, |all, byte| all & plain(byte))
        });
        is_plain
            && self.0.split('\n').all(|line| line.len() <= PLAIN_LINE_MAX)
            // Lenient parsers see a delimiter in the middle of a line.
            && !BOUNDARIES.iter().any(|boundary| self.0.contains(boundary))
    }

    /// Appends the text in its transfer encoding, with CRLF line ends, unless `out` would grow beyond `length_max`.
    pub(super) fn encode(&self, out: &mut Vec<u8>, length_max: usize) -> Result<(), Refusal> {
        let is_7bit = self.is_7bit();
        for line in self.0.split_terminator('\n') {
            match is_7bit {
                true => {
                    out.extend_from_slice(line.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
                false => encode::quoted_printable_line(line.as_bytes(), out),
            }
            if out.len() > length_max {
                return Err(Refusal::TooLarge);
            }
        }
        Ok(())
    }
}

/// The lines of a text, whichever line end they have; a last line end opens no further line.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\r', b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after
            .strip_prefix("\r\n")
            .or_else(|| after.get(1..))
            .unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(parts: &[(&str, Flowed)]) -> String {
        let mut text = Text::default();
        parts
            .iter()
            .for_each(|(part, flowed)| text.add(part, *flowed).expect("no NUL"));
        text.0
    }

    #[test]
    fn text_ends_with_one_line_end() {
        assert_eq!(canonical(&[("a\r\n\r\nb\rc\n\n\n", None)]), "a\n\nb\nc\n");
        assert_eq!(canonical(&[("a", None)]), "a\n");
        assert_eq!(canonical(&[("\r\n\r\n", None)]), "");
        assert_eq!(canonical(&[("\u{feff}a", None), ("\n", None), ("b", None)]), "a\n\nb\n");
    }

    #[test]
    fn flowed_lines_are_joined_into_paragraphs() {
        let flowed = "one \r\ntwo\r\n From x\r\n\r\n> a \r\n> b\r\n>> c \r\n> d\r\ne \r\n-- \r\nme\r\n";
        assert_eq!(
            canonical(&[(flowed, Some(false))]),
            "one two\nFrom x\n\n> a b\n>> c\n> d\ne\n-- \nme\n"
        );
        assert_eq!(canonical(&[("a \r\nb", Some(true))]), "ab\n");
    }

    #[test]
    fn the_transfer_encoding_depends_on_the_text_alone() {
        for (text, encoding) in [
            ("plain\ttext", "7bit"),
            ("", "7bit"),
            ("ü", "quoted-printable"),
            ("From me", "7bit"),
            ("a\u{c}b", "quoted-printable"),
            ("x --=_part", "quoted-printable"),
            ("x-- \n-- \n", "7bit"),
        ] {
            let mut body = Text::default();
            body.add(text, None).expect("no NUL");
            assert_eq!(body.transfer_encoding(), encoding, "{text}");
        }
        assert_eq!(canonical(&[("x", None)]).len(), 2);
    }

    #[test]
    fn a_nul_in_the_text_is_refused() {
        assert_eq!(Text::default().add("a\0b", None), Err(Refusal::Nul));
    }
}
