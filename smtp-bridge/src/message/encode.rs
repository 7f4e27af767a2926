//! Transfer encodings: quoted-printable and base64, written in one way; quoted-printable read strictly.

/// Longest encoded line, without its line end (RFC 2045).
const LINE_MAX: usize = 76;

/// Bytes behind one full line of base64.
const BASE64_LINE_BYTES: usize = LINE_MAX / 4 * 3;

const BASE64_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends base64 without line ends.
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |group: u32, shift: u32| BASE64_ALPHABET[(group >> shift & 63) as usize];
    let (triples, rest) = bytes.as_chunks::<3>();
    for &[a, b, c] in triples {
        let group = u32::from_be_bytes([0, a, b, c]);
        out.extend_from_slice(&[digit(group, 18), digit(group, 12), digit(group, 6), digit(group, 0)]);
    }
    match *rest {
        [a] => {
            let group = u32::from_be_bytes([0, a, 0, 0]);
            out.extend_from_slice(&[digit(group, 18), digit(group, 12), b'=', b'=']);
        }
        [a, b] => {
            let group = u32::from_be_bytes([0, a, b, 0]);
            out.extend_from_slice(&[digit(group, 18), digit(group, 12), digit(group, 6), b'=']);
        }
        _ => {}
    }
}

/// Appends base64 in full lines.
pub(super) fn base64_lines(bytes: &[u8], out: &mut Vec<u8>) {
    for line in bytes.chunks(BASE64_LINE_BYTES) {
        base64(line, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Upper bound of what [`base64_lines`] makes of so many bytes.
pub(super) fn base64_lines_length(bytes: usize) -> usize {
    bytes.div_ceil(BASE64_LINE_BYTES) * (LINE_MAX + 2)
}

/// Appends one line of text, given without its line end, as quoted-printable lines.
pub(super) fn quoted_printable_line(line: &[u8], out: &mut Vec<u8>) {
    let mut width = 0;
    for (at, &byte) in line.iter().enumerate() {
        let is_last = at + 1 == line.len();
        // Mailbox files mangle lines that begin with "From ", and some relays cut white space at the end.
        let is_literal = match byte {
            b' ' | b'\t' => !is_last,
            b'F' => at != 0 || !line.starts_with(b"From "),
            b'=' => false,
            other => other.is_ascii_graphic(),
        };
        let needed = if is_literal { 1 } else { 3 };
        // One column is kept for the soft line break.
        if width + needed > LINE_MAX - 1 {
            out.extend_from_slice(b"=\r\n");
            width = 0;
        }
        if is_literal {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        width += needed;
    }
    out.extend_from_slice(b"\r\n");
}

/// Undoes quoted-printable. Line breaks of the encoded form become LF, encoded ones stay what they are. None when it is not well-formed.
pub(super) fn quoted_printable_decoded(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut lines = encoded.split(|&byte| byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_ascii_end();
        let (line, is_soft) = line.strip_suffix(b"=").map_or((line, false), |line| (line, true));
        let mut rest = line.iter().copied();
        while let Some(byte) = rest.next() {
            bytes.push(if byte == b'=' {
                from_hex(rest.next()?, rest.next()?)?
            } else {
                byte
            });
        }
        if !is_soft && lines.peek().is_some() {
            bytes.push(b'\n');
        }
    }
    Some(bytes)
}

/// Undoes escapes of a sign and two hexadecimal digits; what is none stays as it stands.
pub(super) fn unescaped(text: &[u8], sign: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        if let [high, low, after @ ..] = tail
            && byte == sign
            && let Some(decoded) = from_hex(*high, *low)
        {
            (byte, rest) = (decoded, after);
        }
        bytes.push(byte);
    }
    bytes
}

/// The byte that two hexadecimal digits of either case stand for.
pub(super) fn from_hex(high: u8, low: u8) -> Option<u8> {
    let digit = |character: u8| char::from(character).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use mail_parser::decoders::base64::base64_decode;
    use proptest::prelude::*;

    use super::*;

    fn quoted_printable(text: &str) -> String {
        let mut out = Vec::new();
        text.split('\n')
            .for_each(|line| quoted_printable_line(line.as_bytes(), &mut out));
        String::from_utf8(out).expect("quoted-printable is ASCII")
    }

    #[test]
    fn quoted_printable_is_written_in_one_way() {
        assert_eq!(
            quoted_printable("Grüße = x \n\tFrom \nFrom me"),
            "Gr=C3=BC=C3=9Fe =3D x=20\r\n\tFrom=20\r\n=46rom me\r\n"
        );
        assert_eq!(
            quoted_printable(&"x".repeat(76)),
            format!("{}=\r\nx\r\n", "x".repeat(75))
        );
    }

    #[test]
    fn escapes_are_undone_and_other_signs_stay() {
        assert_eq!(unescaped(b"a%40b%4%zz%", b'%'), b"a@b%4%zz%");
        assert_eq!(unescaped(b"100=%=c3=BC", b'='), b"100=%\xc3\xbc");
    }

    #[test]
    fn quoted_printable_is_read_strictly() {
        assert_eq!(
            quoted_printable_decoded(b"a=3d=\r\nb  \r\n=0D=0A\r\n").as_deref(),
            Some(&b"a=b\n\r\n\n"[..])
        );
        assert_eq!(quoted_printable_decoded(b"a= \nb=").as_deref(), Some(&b"ab"[..]));
        assert_eq!(quoted_printable_decoded(b"100=%"), None);
        assert_eq!(quoted_printable_decoded(b"=4"), None);
    }

    proptest! {
        #[test]
        fn encodings_are_undone_exactly(bytes: Vec<u8>, text: String) {
            let mut encoded = Vec::new();
            base64_lines(&bytes, &mut encoded);
            prop_assert!(encoded.len() <= base64_lines_length(bytes.len()));
            prop_assert_eq!(base64_decode(&encoded), Some(bytes));
            let quoted = quoted_printable(&text);
            prop_assert!(quoted.lines().all(|line| line.len() <= LINE_MAX));
            prop_assert_eq!(quoted_printable_decoded(quoted.as_bytes()), Some((text + "\n").into_bytes()));
        }
    }
}
