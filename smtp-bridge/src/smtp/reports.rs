//! What a client says of the reports it wants (RFC 3461), read strictly.

use mailbox::request::Wishes;

use super::replies::{self, Reply};

/// Longest ENVID, as it is written (RFC 3461 section 4.4).
const ENVELOPE_ID_MAX: usize = 100;
/// Longest ORCPT, as it is written (RFC 3461 section 4.2).
const ORIGINAL_RECIPIENT_MAX: usize = 500;

/// What was said of the reports on one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// ENVID, decoded: printable ASCII of the client's choosing.
    pub envelope_id: Option<String>,
    /// What was said of each recipient, in their order.
    pub recipients: Vec<RecipientReports>,
}

/// What was said of the reports on one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientReports {
    /// NOTIFY.
    pub wishes: Wishes,
    /// ORCPT, decoded, as `type;address`: printable ASCII of the client's choosing.
    pub original: Option<String>,
}

/// `FULL` or `HDRS`.
pub(super) fn ret(value: &str) -> Result<(), Reply> {
    let is_known = ["FULL", "HDRS"].iter().any(|known| value.eq_ignore_ascii_case(known));
    is_known.then_some(()).ok_or(replies::BAD_ARGUMENT)
}

/// ENVID: xtext.
pub(super) fn envelope_id(value: &str) -> Result<String, Reply> {
    let decoded = (value.len() <= ENVELOPE_ID_MAX).then(|| xtext(value)).flatten();
    decoded.ok_or(replies::BAD_ARGUMENT)
}

/// ORCPT: `addr-type ";" xtext`, of which the type is an atom.
pub(super) fn original_recipient(value: &str) -> Result<String, Reply> {
    let is_atom = |text: &str| {
        let is_inside = |octet: u8| octet.is_ascii_graphic() && !b"()<>[]:;@\\,.\"".contains(&octet);
        !text.is_empty() && text.bytes().all(is_inside)
    };
    let parts = value.split_once(';').filter(|(kind, _)| is_atom(kind));
    let parts = parts.filter(|_| value.len() <= ORIGINAL_RECIPIENT_MAX);
    let decoded = parts.and_then(|(kind, address)| Some(format!("{kind};{}", xtext(address)?)));
    decoded.ok_or(replies::BAD_ARGUMENT)
}

/// `"NEVER" / 1#( "SUCCESS" / "FAILURE" / "DELAY" )`, each once.
pub(super) fn notify(value: &str) -> Result<Wishes, Reply> {
    let mut bits = 0;
    for word in value.split(',') {
        let wish = match word.to_ascii_uppercase().as_str() {
            "NEVER" => Wishes::NEVER,
            "SUCCESS" => Wishes::SUCCESS,
            "FAILURE" => Wishes::FAILURE,
            "DELAY" => Wishes::DELAY,
            _ => return Err(replies::BAD_ARGUMENT),
        };
        if bits & wish.bits() != 0 {
            return Err(replies::BAD_ARGUMENT);
        }
        bits |= wish.bits();
    }
    Wishes::from_bits(bits).ok_or(replies::BAD_ARGUMENT)
}

/// Whether NOTIFY may say so.
pub(crate) fn is_notify(value: &str) -> bool {
    notify(value).is_ok()
}

/// Whether RET may say so.
pub(crate) fn is_ret(value: &str) -> bool {
    ret(value).is_ok()
}

/// An identifier as ENVID says it, if it can be said.
pub(crate) fn envelope_id_word(identifier: &str) -> Option<String> {
    let mut word = String::new();
    for character in identifier.chars() {
        match character {
            '+' | '=' | ' ' => word.push_str(&format!("+{:02X}", u32::from(character))),
            character => word.push(character),
        }
    }
    envelope_id(&word).is_ok().then_some(word)
}

/// RFC 3461 section 4, of which printable ASCII is to come, and some of it.
fn xtext(value: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut octets = value.bytes();
    while let Some(octet) = octets.next() {
        let meant = match octet {
            b'+' => hexadecimal(octets.next()?)? << 4 | hexadecimal(octets.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        };
        decoded.push(matches!(meant, b' '..=b'~').then(|| char::from(meant))?);
    }
    (!decoded.is_empty()).then_some(decoded)
}

/// Upper-case alone.
fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn xtext_is_read_strictly() {
        assert_eq!(xtext("QQ314159").as_deref(), Some("QQ314159"));
        assert_eq!(xtext("a+2Bb+3Dc+20d").as_deref(), Some("a+b=c d"));
        for wrong in [
            "", "a=b", "a b", "+", "+2", "+2b", "+GG", "+0D+0A", "+7F", "+00", "+E9", "\u{e9}",
        ] {
            assert!(xtext(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn each_parameter_has_its_bound() {
        let long = |length| "a".repeat(length);
        assert!(envelope_id(&long(100)).is_ok() && envelope_id(&long(101)).is_err());
        assert!(original_recipient(&format!("rfc822;{}", long(493))).is_ok());
        assert!(original_recipient(&format!("rfc822;{}", long(494))).is_err());
        assert_eq!(
            original_recipient("rfc822;Bob+2Bx@example.org").ok().as_deref(),
            Some("rfc822;Bob+x@example.org")
        );
        for wrong in [
            "",
            "rfc822",
            "rfc822;",
            ";bob@x",
            "rfc 822;bob@x",
            "rfc822;bob x",
            "rfc822;bob=x",
        ] {
            assert!(original_recipient(wrong).is_err(), "{wrong}");
        }
        assert!(ret("full").is_ok() && ret("HDRS").is_ok() && ret("").is_err() && ret("HEADERS").is_err());
    }

    #[test]
    fn wishes_are_never_or_some_of_three() {
        let bits = |value| notify(value).ok().map(Wishes::bits);
        assert_eq!(bits("NEVER"), Some(1));
        assert_eq!(bits("success,Failure,DELAY"), Some(14));
        assert_eq!(bits("DELAY"), Some(8));
        for wrong in [
            "",
            "NEVER,DELAY",
            "DELAY,DELAY",
            "SUCCESS,",
            ",SUCCESS",
            "ALWAYS",
            "NEVER,NEVER",
            "SUCCESS;DELAY",
        ] {
            assert!(bits(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_as_xtext_is_read_again(text in "[ -~]{1,40}") {
            let plain = |octet: u8| octet.is_ascii_graphic() && !b"+=".contains(&octet);
            let written: String = text
                .bytes()
                .map(|octet| if plain(octet) { char::from(octet).to_string() } else { format!("+{octet:02X}") })
                .collect();
            prop_assert_eq!(xtext(&written), Some(text));
        }

        #[test]
        fn whatever_comes_is_printable_or_refused(text in "\\PC{0,60}") {
            for decoded in [xtext(&text), envelope_id(&text).ok(), original_recipient(&text).ok()].into_iter().flatten() {
                prop_assert!(decoded.bytes().all(|octet| matches!(octet, b' '..=b'~')));
            }
        }
    }
}
