//! What mail costs behind this relay: the peers' own price lists, as the packs held there last learnt them, and what they
//! say of the legs behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ledger::{Leg, Onward, PriceList};
use mailbox::request::{HOPS_MAX, OnwardPrices};
use mailbox::{HolderStore, RelayStore};
use smtp_bridge::net::stopped;
use tokio::sync::watch;

use super::is_too_far;
use crate::Relay;
use crate::config::{RelayConfig, Route};

/// What a peer charges.
pub(super) struct Charges {
    prices: PriceList,
    onward: Arc<Onward>,
    /// Nothing is paid there now, since the prices rose too far.
    pub(super) is_too_dear: bool,
}

impl Charges {
    /// `None`: nothing was heard of it yet.
    pub(super) fn of(store: &impl HolderStore) -> Option<Self> {
        Some(Charges {
            prices: store.prices()?,
            onward: store.onward(),
            is_too_dear: false,
        })
    }

    /// What it charges by its own list, message and kilobyte.
    pub(super) fn own(&self) -> (u64, u64) {
        (self.prices.message, self.prices.kilobyte)
    }

    /// What the way by this peer to any domain costs at the most, message and kilobyte, for each relay on it: a way that grew
    /// longer is no dearer.
    pub(super) fn dearest_of_each_relay(&self) -> (u64, u64) {
        let behind = self.onward.domains.values().chain([&self.onward.elsewhere]);
        behind
            .map(|leg| self.leg(*leg))
            .fold((0, 0), |(message, kilobyte), way| {
                let relays = u64::from(way.relays.max(1));
                (
                    message.max(way.message.div_ceil(relays)),
                    kilobyte.max(way.kilobyte.div_ceil(relays)),
                )
            })
    }

    /// What the way by this peer costs, of mail that has this leg behind it. Of what goes in a circle, and so arrives
    /// nowhere, the part beyond the longest way is left out: else two relays that each think the other nearer would raise
    /// each other's prices for ever. Its number of relays says that nothing is taken for it.
    fn leg(&self, behind: Leg) -> Leg {
        let behind = match behind.relays {
            HOPS_MAX.. => Leg {
                relays: HOPS_MAX,
                ..Leg::default()
            },
            _ => behind,
        };
        Leg {
            message: self.prices.message.saturating_add(behind.message),
            kilobyte: self.prices.kilobyte.saturating_add(behind.kilobyte),
            relays: behind.relays + 1,
        }
    }
}

/// What mail costs that goes by whichever of these peers, each with this leg behind it. Its sender pays for the dearest way; but
/// ways that are too far are left out where another is there, and of a way that is not among the nearest what is behind its
/// peer counts up to the dearest of the nearest and once more the peer's own price: two relays that back each other up would
/// else raise each other's prices without end. How many relays there are is told of the nearest.
fn by_any<'a>(peers: &[&'a Charges], behind: impl Fn(&'a Charges) -> Leg) -> Leg {
    let ways: Vec<(&Charges, Leg)> = peers.iter().map(|peer| (*peer, peer.leg(behind(peer)))).collect();
    let all = ways.iter().map(|(_, way)| *way).fold(Leg::default(), dearest);
    let fits = || ways.iter().filter(|(_, way)| !is_too_far(0, way.relays));
    let Some(nearest) = fits().map(|(_, way)| way.relays).min() else {
        return all;
    };
    let near = fits().filter(|(_, way)| way.relays <= nearest);
    let near = near.map(|(_, way)| *way).fold(Leg::default(), dearest);
    let far = fits().filter(|(_, way)| way.relays > nearest);
    let counted = far.map(|(peer, _)| {
        let behind = behind(peer);
        let own = peer.leg(Leg::default());
        peer.leg(Leg {
            message: behind.message.min(near.message.saturating_add(own.message)),
            kilobyte: behind.kilobyte.min(near.kilobyte.saturating_add(own.kilobyte)),
            relays: 0,
        })
    });
    Leg {
        relays: nearest,
        ..counted.fold(near, dearest)
    }
}

/// What covers either of two ways, part by part.
fn dearest(one: Leg, other: Leg) -> Leg {
    Leg {
        message: one.message.max(other.message),
        kilobyte: one.kilobyte.max(other.kilobyte),
        relays: one.relays.max(other.relays),
    }
}

/// The peers of these names whose prices count. One that became too dear is passed over, and counts where no other is known.
fn in_use<'a>(names: impl Iterator<Item = &'a str>, peers: &'a BTreeMap<String, Charges>) -> Vec<&'a Charges> {
    let mut known: Vec<&Charges> = names.filter_map(|name| peers.get(name)).collect();
    if known.iter().any(|peer| !peer.is_too_dear) {
        known.retain(|peer| !peer.is_too_dear);
    }
    known
}

/// The legs of all that this configuration's routes lead to, as one answer tells them.
fn legs(config: &RelayConfig, peers: &BTreeMap<String, Charges>) -> Onward {
    let by = |domain: &str| {
        let ways = config.ways(domain);
        let names = ways.iter().filter_map(|way| match way {
            Route::Peer(name) => Some(&**name),
            _ => None,
        });
        by_any(&in_use(names, peers), |peer| peer.onward.leg_to(domain))
    };
    // Of whatever has no route of its own.
    let beyond = in_use(config.peers_elsewhere(), peers);
    let elsewhere = by_any(&beyond, |peer| peer.onward.elsewhere);
    let own = [&config.domain].into_iter().chain(config.routes.keys());
    let named: BTreeSet<&String> = own
        .chain(beyond.iter().flat_map(|peer| peer.onward.domains.keys()))
        .collect();
    let onward = Onward {
        version: 0,
        elsewhere,
        domains: named
            .into_iter()
            .map(|domain| (domain.clone(), by(domain)))
            .filter(|(_, leg)| *leg != elsewhere)
            .collect(),
    };
    // What does not fit is priced as it is told. A peer with many names crowds out nobody's but its own.
    let is_own = |domain: &str| domain == config.domain || config.routes.contains_key(domain);
    OnwardPrices::with_first(&onward, is_own).into()
}

/// Puts in force what the peers charge now.
pub(super) async fn put_in_force<S: RelayStore>(relay: &Relay<S>) {
    let peers = relay.peers.charges();
    if let Err(error) = relay.store.set_onward(legs(&relay.config, &peers)).await {
        tracing::error!(%error, "what the peers charge could not be put in force");
    }
}

/// Looks at what the peers charge until `stop` turns true.
pub(super) async fn follow<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    loop {
        let legs = legs(&relay.config, &relay.peers.charges());
        let known = relay.store.onward();
        if (legs.elsewhere, &legs.domains) != (known.elsewhere, &known.domains) {
            put_in_force(&relay).await;
            relay.peers.tell_new_prices(relay.config.tick());
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(relay.config.tick()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(smarthost: Option<&str>, routes: &[(&str, &str)]) -> RelayConfig {
        let at = "127.0.0.1:1".parse().expect("an address");
        let mut config = RelayConfig::new("own.test", "/nowhere".into(), at, at, at);
        config.smarthost = smarthost.map(Into::into);
        let route = |(domain, to): &(&str, &str)| ((*domain).to_owned(), (*to).into());
        config.routes = routes.iter().map(route).collect();
        config
    }

    fn charges(message: u64, kilobyte: u64, onward: Onward) -> Charges {
        let prices = PriceList {
            version: 1,
            message,
            kilobyte,
            ..PriceList::default()
        };
        Charges {
            prices,
            onward: Arc::new(onward),
            is_too_dear: false,
        }
    }

    fn leg(message: u64, kilobyte: u64, relays: u8) -> Leg {
        Leg {
            message,
            kilobyte,
            relays,
        }
    }

    #[test]
    fn a_chain_costs_what_each_of_its_relays_charges() {
        // far delivers outside; middle sends all but its own and near.test by it; own sends all by middle.
        let far = [("far".to_owned(), charges(5, 1, Onward::default()))].into();
        let mut middle = config(Some("peer:far"), &[("near.test", "127.0.0.1:25")]);
        middle.domain = "middle.test".to_owned();
        let behind = legs(&middle, &far);
        assert_eq!(behind.elsewhere, leg(5, 1, 1));
        assert!(behind.domains.keys().eq(["middle.test", "near.test"]));

        let peers = [("middle".to_owned(), charges(100, 10, behind))].into();
        let all = legs(&config(Some("peer:middle"), &[("here.test", "127.0.0.1:25")]), &peers);
        assert_eq!(all.leg("a@else.test"), leg(105, 11, 2));
        assert_eq!(all.leg("a@far.test"), leg(105, 11, 2));
        assert_eq!(all.leg("a@middle.test"), leg(100, 10, 1));
        assert_eq!(all.leg("a@near.test"), leg(100, 10, 1));
        assert_eq!(all.leg("a@here.test"), Leg::default());
        assert_eq!(all.leg("a@own.test"), Leg::default());
    }

    #[test]
    fn one_route_by_a_peer_costs_nobody_else_anything() {
        let peers = [("x".to_owned(), charges(7, 2, Onward::default()))].into();
        let legs = legs(
            &config(Some("127.0.0.1:25"), &[("x.test", "peer:x"), ("y.test", "peer:y")]),
            &peers,
        );
        assert!(legs.domains.len() == 1 && legs.elsewhere == Leg::default());
        assert_eq!(legs.leg("a@X.test"), leg(7, 2, 1));
    }

    #[test]
    fn a_sender_pays_for_the_dearest_of_the_ways() {
        let told = Onward {
            domains: [("near.test".to_owned(), leg(0, 5, 1))].into(),
            ..Onward::default()
        };
        let peers = [
            ("a".to_owned(), charges(9, 1, Onward::default())),
            ("b".to_owned(), charges(5, 2, told)),
        ]
        .into();
        let mut settings = config(None, &[("one.test", "peer:a")]);
        settings.smarthost = Some(["peer:a", "peer:b", "mx"].into());
        let legs = legs(&settings, &peers);
        assert_eq!(legs.elsewhere, leg(9, 2, 1));
        assert_eq!(legs.leg("x@near.test"), leg(9, 5, 1));
        assert_eq!(legs.leg("x@one.test"), leg(9, 1, 1));
        assert_eq!(legs.leg("x@own.test"), Leg::default());
    }

    #[test]
    fn a_longer_way_is_no_dearer_and_a_dearer_leg_is() {
        let own = charges(100, 10, Onward::default());
        assert_eq!(own.dearest_of_each_relay(), (100, 10));
        let behind = |elsewhere, domain| Onward {
            elsewhere,
            domains: [("x.test".to_owned(), domain)].into(),
            ..Onward::default()
        };
        let longer = charges(100, 10, behind(leg(300, 30, 3), leg(0, 0, HOPS_MAX)));
        assert_eq!(longer.dearest_of_each_relay(), (100, 10));
        let dearer = charges(100, 10, behind(Leg::default(), leg(901, 10, 1)));
        assert_eq!(dearer.dearest_of_each_relay(), (501, 10));
    }

    #[test]
    fn a_peer_that_became_too_dear_is_not_paid_for_where_there_is_another() {
        let dear = Charges {
            is_too_dear: true,
            ..charges(900, 9, Onward::default())
        };
        let peers = [
            ("a".to_owned(), dear),
            ("b".to_owned(), charges(5, 2, Onward::default())),
        ]
        .into();
        let mut settings = config(None, &[("one.test", "peer:a")]);
        settings.smarthost = Some(["peer:a", "peer:b"].into());
        let legs = legs(&settings, &peers);
        assert_eq!(legs.elsewhere, leg(5, 2, 1));
        assert_eq!(legs.leg("x@one.test"), leg(900, 9, 1));
    }

    #[test]
    fn two_relays_that_lead_to_each_other_come_to_rest() {
        let settings = config(Some("peer:x"), &[]);
        let (mut left, mut right) = (Onward::default(), Onward::default());
        let mut before = (left.clone(), right.clone());
        for turn in 0..40 {
            left = legs(&settings, &[("x".to_owned(), charges(5, 1, right.clone()))].into());
            right = legs(&settings, &[("x".to_owned(), charges(9, 2, left.clone()))].into());
            if turn > 20 {
                assert!((&left, &right) == (&before.0, &before.1), "turn {turn}");
            }
            before = (left.clone(), right.clone());
        }
        assert!(left.elsewhere.message <= 9 * u64::from(HOPS_MAX));
        assert!(
            [left.elsewhere, right.elsewhere]
                .iter()
                .all(|leg| is_too_far(0, leg.relays))
        );
    }

    #[test]
    fn two_relays_that_back_each_other_up_come_to_rest_one_hop_away() {
        let both = |behind: &Onward| {
            let e = charges(5, 1, Onward::default());
            [("e".to_owned(), e), ("other".to_owned(), charges(9, 2, behind.clone()))].into()
        };
        let mut settings = config(None, &[]);
        settings.smarthost = Some(["peer:e", "peer:other"].into());
        let (mut left, mut right) = (Onward::default(), Onward::default());
        let mut before = (left.clone(), right.clone());
        for turn in 0..40 {
            left = legs(&settings, &both(&right));
            right = legs(&settings, &both(&left));
            assert!(left.elsewhere.relays == 1 && right.elsewhere.relays == 1, "turn {turn}");
            if turn > 5 {
                assert!((&left, &right) == (&before.0, &before.1), "turn {turn}");
            }
            before = (left.clone(), right.clone());
        }
        assert_eq!(left.elsewhere, leg(2 * 9 + 5, 2 * 2 + 1, 1));
        // Whoever sends by either finds it two relays away.
        let peers = [("x".to_owned(), charges(3, 3, left))].into();
        assert_eq!(legs(&config(Some("peer:x"), &[]), &peers).elsewhere, leg(26, 8, 2));
    }

    #[test]
    fn a_deep_or_lying_second_peer_spoils_no_way() {
        let mut settings = config(None, &[]);
        settings.smarthost = Some(["peer:e", "peer:deep"].into());
        for relays in [HOPS_MAX, u8::MAX] {
            let told = Onward {
                elsewhere: leg(u64::MAX, u64::MAX, relays),
                ..Onward::default()
            };
            let peers = [
                ("e".to_owned(), charges(5, 1, Onward::default())),
                ("deep".to_owned(), charges(9, 2, told)),
            ];
            assert_eq!(legs(&settings, &peers.into()).elsewhere, leg(5, 1, 1));
        }
    }

    #[test]
    fn no_part_of_a_price_is_left_out_of_mail_that_is_taken() {
        for relays in 0..=u8::MAX {
            let behind = Leg {
                message: 1_000,
                kilobyte: 10,
                relays,
            };
            let own = charges(5, 1, Onward::default()).leg(behind);
            let is_whole = own.message == 1_005 && own.kilobyte == 11;
            assert_eq!(is_too_far(0, own.relays), !is_whole, "{relays}");
        }
    }

    #[test]
    fn where_not_all_can_be_told_the_own_routes_come_first() {
        let hosts = |count: u32| (0..count).map(|number| (format!("a{number:0>40}.test"), leg(1, 1, 1)));
        let told = Onward {
            elsewhere: leg(9, 9, 1),
            domains: hosts(2_000).collect(),
            ..Onward::default()
        };
        let mut settings = config(Some("peer:x"), &[("z.test", "127.0.0.1:25")]);
        settings.domain = "zz.test".to_owned();
        let all = legs(&settings, &[("x".to_owned(), charges(5, 1, told))].into());
        assert!(all.domains.len() > 10 && all.domains.len() < 2_000);
        assert_eq!(all.leg("a@z.test"), Leg::default());
        assert_eq!(all.leg("a@zz.test"), Leg::default());
        assert_eq!(OnwardPrices::of(&all).domains.len(), all.domains.len(), "told whole");
    }
}
