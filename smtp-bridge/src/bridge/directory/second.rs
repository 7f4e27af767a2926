//! Which relay of another operator mail may go by as well: what the directory says of those that packs are offered at.

use keypacks::directory::Exit;
use mailbox::request::Offers;

use super::super::nested::SecondRelay;
use super::Directory;

impl Directory {
    /// Relays of other operators than that of `own` which deliver everywhere and are not being left, but for `taken`.
    pub(in crate::bridge) fn others(&self, own: &str, taken: &str) -> Vec<String> {
        let (operator, state) = (self.operator(own), self.state());
        let list = state.held.iter().flat_map(|held| &held.list().relays);
        let others = list.filter(|relay| relay.exit == Exit::Any && !relay.draining && relay.card.domain != taken);
        let others = others.filter(|relay| {
            operator
                .as_ref()
                .is_some_and(|own| !relay.operator.eq_ignore_ascii_case(own))
        });
        others.map(|relay| relay.card.domain.clone()).collect()
    }

    /// Notes which of what is offered is at a relay of another operator that delivers everywhere: the cheapest.
    pub(in crate::bridge) fn note_second(&self, own: &str, offers: &Offers, today: u32) {
        let operator = self.operator(own);
        let is_of_another = |domain: &str| {
            let relay = self.relay(domain, today).ok().filter(|relay| relay.exit == Exit::Any);
            let pair = relay.map(|relay| relay.operator).zip(operator.as_ref());
            domain != own && pair.is_some_and(|(one, other)| !one.eq_ignore_ascii_case(other))
        };
        let domains = offers.relays.iter().filter(|domain| is_of_another(domain));
        let packs = domains.filter_map(|domain| SecondRelay::cheapest(domain, offers));
        let second = packs.min_by_key(|pack| pack.price);
        self.state().second = Some(second);
    }

    /// Whether the relay said what it offers.
    pub(in crate::bridge) fn is_offer_known(&self) -> bool {
        self.state().second.is_some()
    }

    /// What was noted, while the directory has that relay.
    pub(in crate::bridge) fn second(&self, today: u32) -> Option<SecondRelay> {
        let second = self.state().second.clone()??;
        self.relay(&second.domain, today).is_ok().then_some(second)
    }
}
