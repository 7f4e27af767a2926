//! A login: instead of a parcel, an index opens the relay's collecting port once.

use zeroize::Zeroizing;

use crate::chain::BoxStep;
use crate::kdf::he;
use crate::{Secret, Tag};

/// Length of name and password in characters: sixteen octets each, in hexadecimal digits.
pub const LOGIN_WORD: usize = 32;

/// What an index opens the collecting port with. It serves for one login, and no parcel is sealed under its index.
pub struct Login {
    /// The tag, which the relay finds the index by.
    pub name: String,
    /// Known to both ends alone.
    pub password: Zeroizing<String>,
}

impl Login {
    /// `name = hex(T[j])`, `password = hex(HE(K[j], "login", T[j], 16))`.
    pub fn new(step: &BoxStep) -> Self {
        Self {
            name: spelled(&step.tag.0),
            password: Zeroizing::new(spelled(secret(step).expose())),
        }
    }
}

/// The tag that a name spells, in upper or lower case. `None`: it is no such name.
pub fn login_tag(name: &[u8]) -> Option<Tag> {
    octets(name).map(Tag)
}

/// Whether this is the password of `step`; takes the same time for every wrong one.
pub fn is_password(step: &BoxStep, password: &[u8]) -> bool {
    // What is no password is compared all the same.
    let shown = octets(password);
    let is_right = Secret::new(shown.unwrap_or_default()) == secret(step);
    is_right && shown.is_some()
}

fn secret(step: &BoxStep) -> Secret<16> {
    he(&step.key, "login", &step.tag.0)
}

fn spelled(octets: &[u8; 16]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn octets(word: &[u8]) -> Option<[u8; 16]> {
    let word: &[u8; LOGIN_WORD] = word.try_into().ok()?;
    let digit = |at: usize| {
        char::from(word[at])
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut octets = [0; 16];
    for (at, octet) in octets.iter_mut().enumerate() {
        *octet = digit(2 * at)? << 4 | digit(2 * at + 1)?;
    }
    Some(octets)
}

pub(super) fn fuzz(bytes: &[u8]) {
    if let Some(tag) = login_tag(bytes) {
        assert!(spelled(&tag.0).as_bytes().eq_ignore_ascii_case(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{BoxChain, BoxKind};

    #[test]
    fn a_login_is_its_index_and_nothing_else() {
        let mut chain = BoxChain::from_root(BoxKind::Parcel, &Secret::new([3; 32]));
        let (step, other) = (chain.advance(), chain.advance());
        let login = Login::new(&step);
        assert!(login_tag(login.name.as_bytes()) == Some(step.tag));
        assert!(login_tag(login.name.to_uppercase().as_bytes()) == Some(step.tag));
        assert!(is_password(&step, login.password.as_bytes()));
        assert!(!is_password(&other, login.password.as_bytes()));
        for wrong in [
            "",
            "0",
            &"0".repeat(LOGIN_WORD),
            &login.password[1..],
            &format!("{}0", *login.password),
        ] {
            assert!(!is_password(&step, wrong.as_bytes()), "{wrong}");
        }
        for wrong in ["", "x", &"g".repeat(LOGIN_WORD), &"é".repeat(LOGIN_WORD / 2)] {
            assert!(login_tag(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
