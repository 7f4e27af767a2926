//! How mail comes to go nested, over two relays of two operators: said while it does not, and such a pack is to be had.

use mailbox::HolderStore;
use mailbox::request::Offers;

use super::Bridge;
use super::commands::ANSWER_WAIT_MAX;
use crate::figures::grouped;

/// A pack that may be bought at a relay of another operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SecondRelay {
    /// The relay's domain.
    pub(super) domain: String,
    /// Link keys in it.
    pub(super) keys: u64,
    /// Its value, in µtok.
    pub(super) value: u64,
    /// What it costs, its value included, in µtok.
    pub(super) price: u64,
}

impl SecondRelay {
    /// The cheapest of these offers.
    pub(super) fn cheapest(domain: &str, offers: &Offers) -> Option<Self> {
        let pack = |(keys, value): &(u64, u64)| {
            Some(SecondRelay {
                domain: domain.to_owned(),
                keys: *keys,
                value: *value,
                price: offers.price(domain, *keys, *value)?,
            })
        };
        offers.sizes.iter().filter_map(pack).min_by_key(|pack| pack.price)
    }
}

impl<S: HolderStore> Bridge<S> {
    /// Asks what is offered, where the link is not nested.
    pub(super) async fn look_for_second_relay(&self) {
        if self.entry.is_some() {
            return;
        }
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.offers()).await;
        if let Ok(Some(offers)) = asked {
            let relay = self.store.facts().relay_domain;
            self.directory.note_second(&relay, &offers, self.host.day());
        }
    }

    /// How mail comes to go nested, in one sentence.
    pub(super) fn way_to_nested(&self) -> Option<String> {
        let second = self
            .directory
            .second(self.host.day())
            .filter(|_| self.entry.is_none())?;
        let SecondRelay {
            domain,
            keys,
            value,
            price,
        } = second;
        let relay = self.store.facts().relay_domain;
        (price <= self.store.value().balance).then(|| {
            format!(
                "{relay} alone sees your address and your mail: so that no operator sees both, give 'postern procure --relay {domain} --keys \
                 {keys} --value {value} --out FILE' ({} µtok, of which {} are the new pack's), and then the two commands that it shows, for a \
                 nested way by two relays.",
                grouped(price),
                grouped(value)
            )
        })
    }
}
