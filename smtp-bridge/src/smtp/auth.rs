//! AUTH PLAIN (RFC 4616) and LOGIN, the server's side (RFC 4954).

use zeroize::Zeroizing;

use super::replies::{self, Reply};

/// What a client claims to be. Wiped when dropped.
pub struct Credentials {
    /// The user's name.
    pub user: Zeroizing<Vec<u8>>,
    /// The password.
    pub password: Zeroizing<Vec<u8>>,
}

/// An AUTH exchange that waits for the client's next line.
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: Zeroizing<Vec<u8>> },
}

/// What the client's line led to.
pub(super) enum Turn {
    /// The client is asked for more.
    Ask(Exchange),
    /// All is said.
    Done(Credentials),
}

impl Exchange {
    /// Begins the exchange of a mechanism.
    pub(super) fn begin(mechanism: &str) -> Option<Self> {
        match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => Some(Self::Plain),
            "LOGIN" => Some(Self::LoginUser),
            _ => None,
        }
    }

    /// What the client is asked with.
    pub(super) fn challenge(&self) -> Reply {
        replies::challenge(match self {
            Self::Plain => "",
            // "Username:" and "Password:", as every client of this undocumented mechanism expects them.
            Self::LoginUser => "VXNlcm5hbWU6",
            Self::LoginPassword { .. } => "UGFzc3dvcmQ6",
        })
    }

    /// Takes the initial response of the AUTH command, in which `=` stands for an empty one.
    pub(super) fn take_initial(self, base64: &str) -> Result<Turn, Reply> {
        self.take(if base64 == "=" { b"" } else { base64.as_bytes() })
    }

    /// Takes a line of the client; an error ends the exchange with that reply.
    pub(super) fn take(self, line: &[u8]) -> Result<Turn, Reply> {
        if line == b"*" {
            return Err(replies::AUTH_CANCELLED);
        }
        let response = base64(line).ok_or(replies::AUTH_MALFORMED)?;
        match self {
            Self::Plain => plain(&response).map(Turn::Done),
            Self::LoginUser => Ok(Turn::Ask(Self::LoginPassword { user: response })),
            Self::LoginPassword { user } => Ok(Turn::Done(Credentials {
                user,
                password: response,
            })),
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`; acting for somebody else is not offered.
fn plain(message: &[u8]) -> Result<Credentials, Reply> {
    let mut fields = message.split(|octet| *octet == 0);
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(b""), Some(user), Some(password), None) => Ok(Credentials {
            user: user.to_vec().into(),
            password: password.to_vec().into(),
        }),
        (Some(acting_for), Some(user), Some(password), None) if acting_for == user => Ok(Credentials {
            user: user.to_vec().into(),
            password: password.to_vec().into(),
        }),
        (_, _, Some(_), None) => Err(replies::BAD_CREDENTIALS),
        _ => Err(replies::AUTH_MALFORMED),
    }
}

/// Decodes base64 (RFC 4648 section 4), padded, without any other octet.
fn base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let padding = text.iter().rev().take(2).take_while(|octet| **octet == b'=').count();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut octets = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3));
    for (at, group) in text.chunks_exact(4).enumerate() {
        let padding = if (at + 1) * 4 == text.len() { padding } else { 0 };
        let mut bits = 0;
        for digit in &group[..4 - padding] {
            bits = bits << 6 | sextet(*digit)?;
        }
        let [_, three_octets @ ..] = (bits << (6 * padding)).to_be_bytes();
        octets.extend_from_slice(&three_octets[..3 - padding]);
    }
    Some(octets)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly() {
        for (text, octets) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg==", b"foob"),
            ("AGEAYg==", b"\0a\0b"),
            ("++//", b"\xfb\xef\xff"),
        ] {
            assert_eq!(
                base64(text.as_bytes()).as_deref().map(Vec::as_slice),
                Some(octets),
                "{text}"
            );
        }
        for text in [
            "Z", "Zg", "Zg=", "Zg= ", "Z===", "====", "=", "Zg==Zg==", "Zm9v\n", "!!!!", "Zm-_",
        ] {
            assert!(base64(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn plain_wants_two_nuls_and_nobody_elses_name() {
        let said = |message: &[u8]| match plain(message) {
            Ok(credentials) => (credentials.user.to_vec(), credentials.password.to_vec()),
            Err(reply) => (reply.code.to_string().into_bytes(), Vec::new()),
        };
        assert_eq!(said(b"\0me\0secret"), (b"me".to_vec(), b"secret".to_vec()));
        assert_eq!(said(b"me\0me\0secret"), (b"me".to_vec(), b"secret".to_vec()));
        assert_eq!(said(b"you\0me\0secret").0, b"535");
        for malformed in [&b""[..], b"me", b"\0me", b"\0me\0a\0b"] {
            assert_eq!(said(malformed).0, b"501");
        }
    }
}
