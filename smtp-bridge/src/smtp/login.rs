//! AUTH PLAIN (RFC 4616) and LOGIN, the client's side (RFC 4954): each line that is said, CRLF included.

use zeroize::Zeroizing;

/// `AUTH PLAIN [NUL user NUL password]`
pub(super) fn plain(user: &str, password: &[u8]) -> Zeroizing<String> {
    let mut message = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 2));
    message.push(0);
    message.extend_from_slice(user.as_bytes());
    message.push(0);
    message.extend_from_slice(password);
    line("AUTH PLAIN ", &message)
}

/// `AUTH LOGIN`, the user and the password, as every server of this undocumented mechanism asks for them.
pub(super) fn login(user: &str, password: &[u8]) -> Vec<Zeroizing<String>> {
    vec![
        Zeroizing::new("AUTH LOGIN\r\n".to_owned()),
        line("", user.as_bytes()),
        line("", password),
    ]
}

/// In one allocation: a buffer that grows leaves copies behind.
fn line(verb: &str, secret: &[u8]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(verb.len() + secret.len().div_ceil(3) * 4 + 2));
    line.push_str(verb);
    push_base64(&mut line, secret);
    line.push_str("\r\n");
    line
}

/// RFC 4648 section 4, padded.
fn push_base64(out: &mut String, octets: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in octets.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) & 63;
            let is_padding = position > chunk.len();
            out.push(if is_padding {
                '='
            } else {
                char::from(ALPHABET[index as usize])
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (octets, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = String::new();
            push_base64(&mut out, octets.as_bytes());
            assert_eq!(out, text);
        }
    }

    #[test]
    fn the_lines_are_those_of_the_mechanisms() {
        // RFC 4616 section 4.
        assert_eq!(
            *plain("tim", b"tanstaaftanstaaf"),
            "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"
        );
        let lines: Vec<String> = login("tim", b"x").iter().map(|line| line.to_string()).collect();
        assert_eq!(lines, ["AUTH LOGIN\r\n", "dGlt\r\n", "eA==\r\n"]);
    }
}
