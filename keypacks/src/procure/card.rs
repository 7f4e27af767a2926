//! A relay's card: what a pack at it has to name, as one line of text that its operator publishes.
//!
//! ```text
//! postern-card:1,DOMAIN,HOST:PORT,KEY,CHECK
//! ```
//!
//! KEY is the relay's static X25519 key, 52 characters, and CHECK the first 40 bits of SHA-256 of all that stands before it.
//! The check is against slips of the pen. Whether the card is the relay's own is for whoever hands it over.

use crate::Refused;
use crate::pack::{NAME_BYTES_MAX, read_back, short, spelled};

const MARK: &str = "postern-card:1,";
/// Longest card that is read, in bytes.
const CARD_BYTES_MAX: usize = MARK.len() + 2 * (NAME_BYTES_MAX + 1) + 64;

/// What a pack names of its relay.
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    /// Domain of its aliases, in lower case.
    pub domain: String,
    /// `host:port` of its link server.
    pub address: String,
    /// Its static X25519 key.
    pub relay_public: [u8; 32],
}

impl Card {
    /// The card as text. Refused: domain or address are none.
    pub fn to_text(&self) -> Result<String, Refused> {
        if !is_domain(&self.domain) || !is_address(&self.address) {
            return Err(Refused);
        }
        let head = format!(
            "{MARK}{},{},{},",
            self.domain,
            self.address,
            spelled(&self.relay_public)
        );
        let check = short(head.as_bytes());
        Ok(head + &check)
    }

    /// Reads what [`Self::to_text`] wrote, with white space around it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        if text.len() > CARD_BYTES_MAX {
            return Err(Refused);
        }
        let mut fields = text.strip_prefix(MARK).ok_or(Refused)?.split(',');
        let mut field = || fields.next().ok_or(Refused);
        let (domain, address, key) = (field()?, field()?, field()?);
        let card = Self {
            domain: domain.to_owned(),
            address: address.to_owned(),
            relay_public: read_back(key).and_then(|key| key.try_into().ok()).ok_or(Refused)?,
        };
        // Checks the rest, and that there is but one way to write it.
        (card.to_text()? == text).then_some(card).ok_or(Refused)
    }
}

/// Whether a relay may be called so: letters of a domain, in lower case.
pub(crate) fn is_domain(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_letter)
}

fn is_address(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let has_port = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    text.len() <= NAME_BYTES_MAX && text.bytes().all(is_letter) && text.rsplit_once(':').is_some_and(has_port)
}

pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(card) = Card::parse(text) {
        assert!(
            card.to_text().is_ok_and(|again| again == text.trim()),
            "one card, one text"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card() -> Card {
        Card {
            domain: "far.test".to_owned(),
            address: "relay.far.test:7465".to_owned(),
            relay_public: std::array::from_fn(|at| at as u8),
        }
    }

    #[test]
    fn a_card_is_read_as_it_is_written() {
        let text = card().to_text().expect("well-formed");
        assert_eq!(
            text,
            "postern-card:1,far.test,relay.far.test:7465,000G40R40M30E209185GR38E1W8124GK2GAHC5RR34D1P70X3RFG,ZF7XGB9A"
        );
        assert!(Card::parse(&format!(" {text}\r\n")).is_ok_and(|read| read == card()));
    }

    #[test]
    fn what_is_no_card_is_refused() {
        let text = card().to_text().expect("well-formed");
        for wrong in [
            text.to_uppercase(),
            text.replace("far.test,", "fat.test,"),
            text.replace(",relay", ",delay"),
            format!("{text},"),
            text[..text.len() - 1].to_owned(),
            String::new(),
        ] {
            assert!(Card::parse(&wrong).is_err(), "{wrong}");
        }
        for address in ["relay", ":1", "a b:1", "relay:70000", "re,lay:1"] {
            let address = address.to_owned();
            assert!(Card { address, ..card() }.to_text().is_err());
        }
        let domain = "Far.test".to_owned();
        assert!(Card { domain, ..card() }.to_text().is_err());
    }

    proptest! {
        #[test]
        fn one_changed_character_is_noticed(at in 0usize..200, by in 1u8..20) {
            let mut changed = card().to_text().expect("well-formed").into_bytes();
            let at = at % changed.len();
            changed[at] = changed[at].wrapping_add(by);
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert!(Card::parse(&changed).is_err());
            }
        }

        #[test]
        fn hostile_text_does_not_panic(text in "\\PC{0,200}") {
            fuzz(text.as_bytes());
            fuzz(format!("{MARK}{text}").as_bytes());
        }
    }
}
