//! Random names: local parts of aliases, Message-IDs, passwords.

use mailbox::request::MessageIdOctets;

use crate::net::Host;

/// Letters that no reader mistakes for another; 32 of them, so that five bits choose one without bias.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

/// A random name of 16 letters: 80 bits, drawn from the operating system.
pub fn random(host: &Host) -> String {
    spell(&host.random::<16>())
}

/// One letter for each byte.
pub fn spell(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect()
}

/// The Message-ID of a message that the relay of this domain sends on, without angle brackets.
pub fn message_id(octets: &MessageIdOctets, domain: &str) -> String {
    spell(octets) + "@" + domain
}

/// Whether this may be the local part of an alias: `a-z 0-9 . - _`, a letter or digit at both ends, no two dots together.
pub fn is_alias_local(local: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    local.len() <= mailbox::request::ALIAS_BYTES_MAX
        && local.bytes().all(inner)
        && end(local.bytes().next())
        && end(local.bytes().last())
        && !local.contains("..")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mailbox::Entropy as _;
    use mailbox::entropy::SeededEntropy;

    use super::*;

    #[test]
    fn a_local_part_is_an_unquoted_dot_string_in_lower_case() {
        for right in ["a", "7", "quiet.otter-4_8"] {
            assert!(is_alias_local(right), "{right}");
        }
        for wrong in ["", ".a", "a.", "a..b", "A", "a@b", "a b", "ä", &"a".repeat(65)] {
            assert!(!is_alias_local(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_hundred_thousand_message_ids_are_all_different_and_every_bit_of_them_is_even() {
        const COUNT: usize = 100_000;
        let entropy = SeededEntropy::new(7);
        let mut seen = BTreeSet::new();
        let mut ones = [[0_usize; 5]; 16];
        for _ in 0..COUNT {
            let mut octets = MessageIdOctets::default();
            entropy.fill(&mut octets);
            let id = message_id(&octets, "relay.test");
            let local = id.strip_suffix("@relay.test").expect("the domain of the relay");
            for (place, letter) in local.bytes().enumerate() {
                let value = LETTERS
                    .iter()
                    .position(|known| *known == letter)
                    .expect("a letter of ours");
                for (bit, count) in ones[place].iter_mut().enumerate() {
                    *count += value >> bit & 1;
                }
            }
            assert!(seen.insert(id), "an identifier came twice");
        }
        // Five standard deviations of 100,000 throws of a coin are 790.
        let even = |count: &usize| count.abs_diff(COUNT / 2) < 800;
        assert!(ones.as_flattened().iter().all(even), "{ones:?}");
    }

    #[test]
    fn every_letter_is_an_atom_of_an_address() {
        let all: Vec<u8> = (0..=255).collect();
        assert!(
            spell(&all)
                .bytes()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        );
        let mut letters = LETTERS.to_vec();
        letters.dedup();
        assert_eq!(letters.len(), 32);
    }
}
