//! From a client's character set to text.

use std::borrow::Cow;

use mail_parser::decoders::charsets::map::charset_decoder;

use super::refusal::Refusal;

/// Bytes given to a decoder at once, and then up to the end of the line.
const BLOCK_BYTES: usize = 64 * 1024;

/// Decodes text in the named charset. No name, and names that promise ASCII, are taken as UTF-8; what is not valid there is refused,
/// since guessing would show the recipient other text than was written.
pub(super) fn decode<'a>(bytes: &'a [u8], charset: Option<&str>) -> Result<Cow<'a, str>, Refusal> {
    let charset = charset.unwrap_or("utf-8").trim().to_ascii_lowercase();
    match charset.as_str() {
        "" | "utf-8" | "utf8" | "us-ascii" | "ascii" | "ansi_x3.4-1968" | "unknown-8bit" => std::str::from_utf8(bytes)
            .map(Cow::Borrowed)
            .map_err(|_| Refusal::Charset),
        // The decoders at hand drop an unfinished end without a sign.
        "utf-7" | "unicode-1-1-utf-7" | "utf-16" | "utf-16le" | "utf-16be" => Err(Refusal::Charset),
        other => {
            let decoder = charset_decoder(other.as_bytes()).ok_or(Refusal::Charset)?;
            let mut text = String::with_capacity(bytes.len());
            blocks(bytes).for_each(|block| text.push_str(&decoder(block)));
            if text.contains(char::REPLACEMENT_CHARACTER) {
                Err(Refusal::Charset)
            } else {
                Ok(Cow::Owned(text))
            }
        }
    }
}

/// Cuts text at line ends into blocks, as the decoders reserve four times what they are given. Every charset is back in
/// its first state at the end of a line.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let line_end = rest.iter().skip(BLOCK_BYTES).position(|&byte| byte == b'\n');
        let (block, after) = rest.split_at(line_end.map_or(rest.len(), |end| BLOCK_BYTES + end + 1));
        rest = after;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_or_refused_but_never_guessed() {
        assert_eq!(decode(b"caf\xe9", Some("ISO-8859-1")).as_deref(), Ok("café"));
        assert_eq!(decode("café".as_bytes(), None).as_deref(), Ok("café"));
        assert_eq!(decode("café".as_bytes(), Some("us-ascii")).as_deref(), Ok("café"));
        assert_eq!(decode(b"\x83n", Some("shift_jis")).as_deref(), Ok("ハ"));
        let long = "caf\u{e9} \n".repeat(50_000);
        let latin: Vec<u8> = long
            .chars()
            .map(|character| u8::try_from(character).expect("Latin-1"))
            .collect();
        assert_eq!(decode(&latin, Some("latin1")).as_deref(), Ok(long.as_str()));
        assert_eq!(decode(b"caf\xe9", None), Err(Refusal::Charset));
        assert_eq!(decode(b"caf\xe9", Some("utf-8")), Err(Refusal::Charset));
        assert_eq!(decode(b"x", Some("x-unheard-of")), Err(Refusal::Charset));
        assert_eq!(decode(b"\x83", Some("shift_jis")), Err(Refusal::Charset));
    }
}
