//! Names of mailboxes on the wire: modified UTF-7 (RFC 3501 section 5.1.3).

/// `mUTF-7` alphabet of base64, where `,` stands for `/`.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// Writes a name.
pub(super) fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if is_plain(first) {
            encoded.push(first);
            if first == '&' {
                encoded.push('-');
            }
            rest = &rest[1..];
            continue;
        }
        let end = rest.find(is_plain).unwrap_or(rest.len());
        encoded.push('&');
        put_base64(&rest[..end], &mut encoded);
        encoded.push('-');
        rest = &rest[end..];
    }
    encoded
}

/// Reads a name. `None`: it is not the one way to write any.
pub(super) fn decode(encoded: &[u8]) -> Option<String> {
    let mut name = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'&' {
            if !is_plain(char::from(first)) {
                return None;
            }
            name.push(char::from(first));
            rest = behind;
            continue;
        }
        let end = behind.iter().position(|&byte| byte == b'-')?;
        match &behind[..end] {
            b"" => name.push('&'),
            base64 => {
                let units = units(base64)?;
                let decoded: Result<String, _> = char::decode_utf16(units).collect();
                name.push_str(&decoded.ok()?);
            }
        }
        rest = &behind[end + 1..];
    }
    // What could have been written plainly, or in one run, has to be: else two names on the wire were the same.
    (encode(&name).as_bytes() == encoded).then_some(name)
}

/// Whether a character stands for itself.
fn is_plain(char: char) -> bool {
    matches!(char, ' '..='~')
}

fn put_base64(text: &str, out: &mut String) {
    let (mut bits, mut count) = (0u32, 0);
    let mut put = |index: u32| out.push(char::from(ALPHABET[index as usize & 63]));
    for unit in text.encode_utf16() {
        bits = bits << 16 | u32::from(unit);
        count += 16;
        while count >= 6 {
            count -= 6;
            put(bits >> count);
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        put(bits << (6 - count));
    }
}

/// The UTF-16 units of a base64 run.
fn units(base64: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(base64.len() * 3 / 8);
    let (mut bits, mut count) = (0u32, 0);
    for byte in base64 {
        let index = ALPHABET.iter().position(|known| known == byte)?;
        bits = bits << 6 | index as u32;
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push((bits >> count) as u16);
            bits &= (1 << count) - 1;
        }
    }
    Some(units)
}

/// Reads any octets as a name. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    if let Some(name) = decode(bytes) {
        assert_eq!(encode(&name).as_bytes(), bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    let encoded = encode(&text);
    assert!(encoded.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    assert_eq!(decode(encoded.as_bytes()).as_deref(), Some(&*text));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_written_in_one_way() {
        let cases = [
            ("INBOX/Sent Mail", "INBOX/Sent Mail"),
            ("Tom & Jerry", "Tom &- Jerry"),
            ("p\u{e4}\u{e4}", "p&AOQA5A-"),
            // The example of RFC 3501.
            (
                "~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}",
                "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
            ),
            ("\u{1f4e7}", "&2D3c5w-"),
            ("a\u{fc}&\u{fc}", "a&APw-&-&APw-"),
            ("\t", "&AAk-"),
        ];
        for (name, encoded) in cases {
            assert_eq!(encode(name), encoded);
            assert_eq!(decode(encoded.as_bytes()).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_not_canonical_is_no_name() {
        for encoded in [
            "&",
            "&AOQ",
            "a&b",
            "&AOQ-&AOQ-",
            "&AGE-",
            "&AOR-",
            "&AOQA-",
            "&2D0-",
            "&AO/-",
            "&=-",
            "&A-",
            "p\u{e4}",
            "\r",
            "\0",
        ] {
            assert_eq!(decode(encoded.as_bytes()), None, "{encoded:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_as_it_was_written(name in any::<String>()) {
            fuzz(name.as_bytes());
        }

        #[test]
        fn any_octets_are_a_name_or_none(bytes in proptest::collection::vec(prop_oneof![Just(b'&'), Just(b'-'), Just(b'A'), Just(b'O'), Just(b','), any::<u8>()], 0..20)) {
            fuzz(&bytes);
        }
    }
}
