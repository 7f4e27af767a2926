//! What a relay charges.

use serde::{Deserialize, Serialize};

use crate::Amount;

/// Prices in force together, all in µtok. The order of the fields is part of the link's encoding.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PriceList {
    /// Counts up with every list put in force, so that a submission can say by which it was reckoned.
    pub version: u32,
    /// Per recipient of a submission.
    pub message: Amount,
    /// Per recipient and 1,000 bytes of the submission's size class.
    pub kilobyte: Amount,
    /// Per completed link.
    pub key: Amount,
    /// Per deposit, when it is first served. 0 unless the operator sets it: else a stranger could drain an alias.
    pub inbound_message: Amount,
    /// Per 1,000 bytes of a deposit's size class, when it is first served.
    pub inbound_kilobyte: Amount,
}

impl PriceList {
    /// `recipients * (message + kilobytes * kilobyte)`, in µtok; `None` if it exceeds 64 bits.
    pub fn price_of(&self, recipients: u16, kilobytes: u32) -> Option<Amount> {
        let each = price(self.message, self.kilobyte, kilobytes)?;
        each.checked_mul(u64::from(recipients))
    }

    /// `inbound_message + kilobytes * inbound_kilobyte`, in µtok; `None` if it exceeds 64 bits.
    pub fn inbound_price(&self, kilobytes: u32) -> Option<Amount> {
        price(self.inbound_message, self.inbound_kilobyte, kilobytes)
    }
}

/// `base + kilobytes * each`.
fn price(base: Amount, each: Amount, kilobytes: u32) -> Option<Amount> {
    each.checked_mul(u64::from(kilobytes))?.checked_add(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_costs_its_class_for_every_recipient() {
        let list = PriceList {
            version: 1,
            message: 100,
            kilobyte: 7,
            key: 5,
            ..PriceList::default()
        };
        assert_eq!(list.price_of(1, 1), Some(107));
        assert_eq!(list.price_of(3, 16), Some(3 * (100 + 16 * 7)));
        assert_eq!(list.price_of(0, 16), Some(0));
        assert_eq!(list.inbound_price(65_536), Some(0));
    }

    proptest! {
        #[test]
        fn a_price_is_exact_or_refused(message: u64, kilobyte: u64, recipients: u16, kilobytes: u32) {
            let list = PriceList { message, kilobyte, inbound_message: message, inbound_kilobyte: kilobyte, ..PriceList::default() };
            // A product above 64 bits is refused even where a count of zero would bring it down again.
            let each = u128::from(message) + u128::from(kilobyte) * u128::from(kilobytes);
            let exact = u64::try_from(each).ok();
            prop_assert_eq!(list.inbound_price(kilobytes), exact);
            let all = exact.and_then(|each| u64::try_from(u128::from(each) * u128::from(recipients)).ok());
            prop_assert_eq!(list.price_of(recipients, kilobytes), all);
        }
    }
}
