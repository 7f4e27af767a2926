//! What mail costs beyond the relay that takes it: the prices of the relays that it is passed on to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Amount, PriceList};

/// What one recipient's copy costs at all relays behind this one together, in µtok.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leg {
    /// Per recipient.
    pub message: Amount,
    /// Per recipient and 1,000 bytes of the submission's size class.
    pub kilobyte: Amount,
    /// How many relays there are behind this one.
    pub relays: u8,
}

/// The legs of a relay, by domain of the recipient.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Onward {
    /// Version of the price list that these belong to; 0: nothing was heard yet.
    pub version: u32,
    /// Of every domain that is not named.
    pub elsewhere: Leg,
    /// Of the domains, in lower case, whose leg is another one.
    pub domains: BTreeMap<String, Leg>,
}

/// What a submission costs, in µtok.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Price {
    /// At the relay that takes it.
    pub own: Amount,
    /// At those behind it.
    pub onward: Amount,
}

impl Price {
    /// What is debited. [`Onward::price_of`] has seen that it fits.
    pub fn total(&self) -> Amount {
        self.own.saturating_add(self.onward)
    }
}

impl Onward {
    /// The leg of mail for an address, by what stands behind its last '@'.
    pub fn leg(&self, recipient: &str) -> Leg {
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.leg_to(&domain.to_ascii_lowercase())
    }

    /// The leg of mail for a domain in lower case.
    pub fn leg_to(&self, domain: &str) -> Leg {
        self.domains.get(domain).copied().unwrap_or(self.elsewhere)
    }

    /// Whether nothing costs anything beyond the relay that takes it.
    pub fn is_free(&self) -> bool {
        let free = |leg: &Leg| leg.message == 0 && leg.kilobyte == 0;
        free(&self.elsewhere) && self.domains.values().all(free)
    }

    /// `sum over recipients of (list.message + leg.message + kilobytes * (list.kilobyte + leg.kilobyte))`, own and onward
    /// apart; `None` if it exceeds 64 bits.
    pub fn price_of<'a>(
        &self,
        list: &PriceList,
        recipients: impl IntoIterator<Item = &'a str>,
        kilobytes: u32,
    ) -> Option<Price> {
        let mut price = Price::default();
        let own = list.price_of(1, kilobytes)?;
        for recipient in recipients {
            let leg = self.leg(recipient);
            let onward = leg
                .kilobyte
                .checked_mul(u64::from(kilobytes))?
                .checked_add(leg.message)?;
            price.own = price.own.checked_add(own)?;
            price.onward = price.onward.checked_add(onward)?;
        }
        price.own.checked_add(price.onward).map(|_| price)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leg(message: u64, kilobyte: u64) -> Leg {
        Leg {
            message,
            kilobyte,
            relays: 1,
        }
    }

    #[test]
    fn each_recipient_pays_the_way_of_its_own_domain() {
        let onward = Onward {
            version: 1,
            elsewhere: leg(100, 7),
            domains: [
                ("own.test".to_owned(), Leg::default()),
                ("far.test".to_owned(), leg(40, 1)),
            ]
            .into(),
        };
        let list = PriceList {
            message: 10,
            kilobyte: 1,
            ..PriceList::default()
        };
        let recipients = ["a@OWN.test", "\"b@far.test\"@far.test", "c@else.test", "d@else.test"];
        let price = onward.price_of(&list, recipients, 2).expect("small");
        assert_eq!(price.own, 4 * 12);
        assert_eq!(price.onward, 42 + 2 * 114);
        assert_eq!(price.total(), 48 + 42 + 228);
        assert!(!onward.is_free() && Onward::default().is_free());
    }

    proptest! {
        #[test]
        fn a_price_is_exact_or_refused(message: u64, kilobyte: u64, own: u64, kilobytes: u32, count in 0usize..5) {
            let onward = Onward { elsewhere: leg(message, kilobyte), ..Onward::default() };
            let list = PriceList { message: own, ..PriceList::default() };
            let found = onward.price_of(&list, std::iter::repeat_n("a@x", count), kilobytes);
            let each = u128::from(message) + u128::from(kilobyte) * u128::from(kilobytes);
            let (owns, onwards) = (u128::from(own) * count as u128, each * count as u128);
            let fits = u64::try_from(owns + onwards).is_ok();
            prop_assert_eq!(found.is_some(), fits || count == 0);
            if let Some(price) = found {
                prop_assert_eq!((u128::from(price.own), u128::from(price.onward)), (owns, onwards));
            }
        }
    }
}
