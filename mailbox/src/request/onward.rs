//! What mail costs behind a relay, as one answer tells it.

use ledger::{Leg, Onward};
use serde::{Deserialize, Serialize};

use super::HEADER_BYTES_MAX;

/// [`Onward`] as it is told: one answer, in one cell.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnwardPrices {
    /// Version of the price list that it belongs to.
    pub version: u32,
    /// Of every domain that is not named.
    pub elsewhere: Leg,
    /// Domains in lower case and in their order, and the leg of each.
    pub domains: Vec<(String, Leg)>,
}

impl OnwardPrices {
    /// As many of the domains, in their order, as one answer has room for: those beyond cost what `elsewhere` does.
    pub fn of(onward: &Onward) -> Self {
        Self::with_first(onward, |_| false)
    }

    /// The same with some of the domains before all others where there is no room for all.
    pub fn with_first(onward: &Onward, is_first: impl Fn(&str) -> bool) -> Self {
        // Version byte, variant, list version, the leg of elsewhere, the list's length: at most 5 + 5 + 21 + 3 bytes.
        let mut room = HEADER_BYTES_MAX - 64;
        let mut domains = Vec::new();
        let (first, others): (Vec<_>, Vec<_>) = onward.domains.iter().partition(|(domain, _)| is_first(domain));
        for (domain, leg) in first.into_iter().chain(others) {
            // Two amounts of at most 10 bytes, a number of relays, the text's length.
            let length = domain.len() + 24;
            if length > room {
                break;
            }
            room -= length;
            domains.push((domain.clone(), *leg));
        }
        domains.sort_by(|(one, _), (other, _)| one.cmp(other));
        OnwardPrices {
            version: onward.version,
            elsewhere: onward.elsewhere,
            domains,
        }
    }
}

/// Whether a relay may name this: what stands behind the '@' of an address that mail can go to, in lower case.
fn is_domain(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_letter)
}

/// What is no domain is passed over: no recipient has it.
impl From<OnwardPrices> for Onward {
    fn from(told: OnwardPrices) -> Self {
        Onward {
            version: told.version,
            elsewhere: told.elsewhere,
            domains: told
                .domains
                .into_iter()
                .filter(|(domain, _)| is_domain(domain))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Request, decode, encode};
    use super::*;

    #[test]
    fn whatever_a_relay_knows_of_the_legs_behind_it_fits_one_cell() {
        let leg = Leg {
            message: u64::MAX,
            kilobyte: u64::MAX,
            relays: u8::MAX,
        };
        for length in [1, 60, 253] {
            let domains = (0..2_000).map(|number| (format!("{number:0>length$}"), leg)).collect();
            let onward = Onward {
                version: u32::MAX,
                elsewhere: leg,
                domains,
            };
            let told = OnwardPrices::of(&onward);
            let header = encode(&Answer::Onward(told.clone()));
            assert!(header.len() <= HEADER_BYTES_MAX && told.domains.len() >= 58, "{length}");
            let read = decode::<Answer>(&header);
            assert!(read.is_ok_and(|read| read == Answer::Onward(told.clone())));
            assert!(
                Onward::from(told)
                    .domains
                    .iter()
                    .all(|(domain, leg)| onward.leg_to(domain) == *leg)
            );
        }
    }

    #[test]
    fn the_legs_behind_a_relay_are_told_in_these_octets() {
        let told = OnwardPrices {
            version: 3,
            elsewhere: Leg {
                message: 300,
                kilobyte: 2,
                relays: 2,
            },
            domains: vec![
                ("b.test".to_owned(), Leg::default()),
                ("<b>".to_owned(), Leg::default()),
            ],
        };
        let bytes = encode(&Answer::Onward(told.clone()));
        assert_eq!(bytes, b"\x01\x0c\x03\xac\x02\x02\x02\x02\x06b.test\0\0\0\x03<b>\0\0\0");
        assert_eq!(encode(&Request::Onward), [1, 9]);
        assert!(
            Onward::from(told).domains.keys().eq(["b.test"]),
            "what is no domain is passed over"
        );
    }
}
