//! Encoded words (RFC 2047): reading every kind, writing one kind.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;

use super::refusal::Refusal;
use super::{charset, encode};

/// UTF-8 bytes in one encoded word that we write: 52 characters of base64, so that a word fits a line after any field name of ours.
const CHUNK: usize = 39;

/// The longest charset label looked at; none that we know is longer.
const LABEL_MAX: usize = 45;

/// Replaces the encoded words in an unfolded value by their text. What only looks like one stays as it is; an unknown charset is refused.
pub(super) fn decode(value: &str) -> Result<String, Refusal> {
    let mut text = String::with_capacity(value.len());
    let mut run: Option<Run<'_>> = None;
    let mut rest = value;
    while !rest.is_empty() {
        if let Some(word) = encoded_word(rest) {
            rest = &rest[word.length..];
            match run
                .as_mut()
                .filter(|run| run.charset.eq_ignore_ascii_case(word.charset))
            {
                // Writers cut between the bytes of one character: words of one charset are decoded together.
                Some(run) => run.bytes.extend(word.bytes),
                None => {
                    Run::finish(run.take(), &mut text)?;
                    run = Some(Run {
                        charset: word.charset,
                        bytes: word.bytes,
                    });
                }
            }
            // White space between encoded words is not text.
            let after = rest.trim_start_matches([' ', '\t']);
            if encoded_word(after).is_some() {
                rest = after;
            }
        } else {
            Run::finish(run.take(), &mut text)?;
            let end = rest
                .char_indices()
                .skip(1)
                .find(|&(at, _)| rest[at..].starts_with("=?"));
            let (plain, next) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            text.push_str(plain);
            rest = next;
        }
    }
    Run::finish(run, &mut text)?;
    Ok(text)
}

/// Adjacent encoded words of one charset.
struct Run<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
}

impl Run<'_> {
    fn finish(run: Option<Self>, text: &mut String) -> Result<(), Refusal> {
        if let Some(run) = run {
            text.push_str(&charset::decode(&run.bytes, Some(run.charset))?);
        }
        Ok(())
    }
}

/// One encoded word, its transfer encoding undone.
struct EncodedWord<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
    length: usize,
}

/// `"=?" charset ["*" language] "?" ("B" / "Q") "?" encoded-text "?="` at the start of `text`.
fn encoded_word(text: &str) -> Option<EncodedWord<'_>> {
    let label = text.strip_prefix("=?")?;
    let label_end = label.bytes().take(LABEL_MAX).position(|byte| byte == b'?')?;
    let (label, rest) = (&label[..label_end], &label[label_end + 1..]);
    let charset = label.split_once('*').map_or(label, |(charset, _language)| charset);
    let is_label = !charset.is_empty() && label.bytes().all(|byte| byte.is_ascii_graphic());
    let encoding = rest.bytes().next().filter(|_| is_label)?;
    let payload = rest.get(1..)?.strip_prefix('?')?;
    let payload_end = payload.bytes().position(|byte| matches!(byte, b'?' | b' ' | b'\t'))?;
    let after = payload[payload_end..].strip_prefix("?=")?;
    let bytes = match encoding {
        b'B' | b'b' => base64_decode(&payload.as_bytes()[..payload_end])?,
        b'Q' | b'q' => decode_q(&payload.as_bytes()[..payload_end])?,
        _ => return None,
    };
    Some(EncodedWord {
        charset,
        bytes,
        length: text.len() - after.len(),
    })
}

/// The length of the encoded word at the start of `text`; unlike any other atom it may hold commas and colons.
pub(super) fn encoded_word_length(text: &str) -> Option<usize> {
    encoded_word(text).map(|word| word.length)
}

/// The "Q" encoding (RFC 2047 section 4.2).
fn decode_q(payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(payload.len());
    let mut rest = payload.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => encode::from_hex(rest.next()?, rest.next()?)?,
            other => other,
        });
    }
    Some(bytes)
}

/// Text as it may stand in a header: control characters become spaces, runs of white space one space, none at the ends. Byte order
/// marks go, as they are not seen and show the client.
/// A folded line cannot tell them apart, so they would show how the client folds.
pub(super) fn collapse(text: &str) -> String {
    let text = &*match text.contains('\u{feff}') {
        true => Cow::Owned(text.replace('\u{feff}', "")),
        false => Cow::Borrowed(text),
    };
    let mut collapsed = String::with_capacity(text.len());
    for word in text
        .split(|character: char| character == ' ' || character.is_control())
        .filter(|word| !word.is_empty())
    {
        if !collapsed.is_empty() {
            collapsed.push(' ');
        }
        collapsed.push_str(word);
    }
    collapsed
}

/// Whether collapsed text can stand in a header as it is.
pub(super) fn is_plain(text: &str) -> bool {
    text.is_ascii() && !text.contains("=?")
}

/// The text as encoded words, to be separated by spaces or folds.
pub(super) fn encode(text: &str) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (chunk, after) = rest.split_at(rest.floor_char_boundary(CHUNK));
        rest = after;
        let mut word = b"=?utf-8?B?".to_vec();
        encode::base64(chunk.as_bytes(), &mut word);
        word.extend_from_slice(b"?=");
        Some(String::from_utf8(word).expect("base64 is ASCII"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_of_every_kind_are_read() {
        for (value, text) in [
            ("plain", "plain"),
            ("=?UTF-8?Q?=C3=9Cber?= den =?utf-8?b?QmVyaWNodA==?=", "Über den Bericht"),
            (
                "=?iso-8859-1?q?=DCber_den?= =?ISO-8859-1?Q?_Bericht?=",
                "Über den Bericht",
            ),
            ("=?utf-8*de?Q?=C3=9C?=", "Ü"),
            ("=?utf-8?Q?=C3?= \t =?UTF-8?Q?=9C?=", "Ü"),
            ("=?iso-2022-jp?B?GyRCJU8bKEI=?= =?utf-8?Q?x?= y", "ハx y"),
            ("a=?utf-8?Q?b?=c", "abc"),
            ("=?utf-8?Q?open", "=?utf-8?Q?open"),
            ("=?=?=?", "=?=?=?"),
            ("=?utf-8?X?b?=", "=?utf-8?X?b?="),
            ("=?utf-8?Q?=ZZ?=", "=?utf-8?Q?=ZZ?="),
        ] {
            assert_eq!(decode(value).as_deref(), Ok(text), "{value}");
        }
        assert_eq!(decode("=?x-unknown?Q?a?="), Err(Refusal::Charset));
        assert_eq!(decode("=?utf-8?Q?=FF?="), Err(Refusal::Charset));
    }

    #[test]
    fn what_is_not_seen_goes() {
        assert_eq!(collapse("\u{feff} a\t\u{feff}\r\n b\u{feff}c "), "a bc");
        assert_eq!(collapse("\u{feff}"), "");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = "Größe ".repeat(40);
        for text in ["", "Ü", "=?utf-8?Q?x?=", long.trim()] {
            let written = encode(text).collect::<Vec<_>>().join(" ");
            assert!(encode(text).all(|word| word.len() <= 75));
            assert_eq!(decode(&written).as_deref(), Ok(text));
        }
    }

    #[test]
    fn many_openings_take_linear_time() {
        let value = "=?utf-8?Q?".repeat(100_000);
        assert_eq!(decode(&value).map(|text| text.len()), Ok(value.len()));
    }
}
