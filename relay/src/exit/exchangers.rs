//! Which hosts take mail for a domain, in which order, and which of them must not be dialled (RFC 5321 section 5.1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smtp_bridge::net::dns::is_public;
use smtp_bridge::net::{Exchanger, Exchangers, Host};
use smtp_bridge::smtp::{DeliveryResult, Enhanced};
use tokio::time::{Duration, Instant};

use crate::config::RelayConfig;

/// Addresses dialled in one try.
const ADDRESSES_MAX: usize = 6;
/// Longest that a host that could not be spoken with is passed over.
const SHUNNED: Duration = Duration::from_secs(60);
/// Hosts that are passed over at one time.
const SHUNNED_MAX: usize = 1_000;

/// A host that may be dialled.
pub(super) struct Target {
    /// Its name, which a certificate has to show.
    pub(super) host: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
}

/// What is next on the way through a domain's exchangers.
pub(super) enum Step {
    /// Dial this host.
    Dial(Target),
    /// There is no other host. This came of the domain as a whole, if no host was dialled.
    End(DeliveryResult),
}

/// The way through a domain's exchangers, from the best on.
pub(super) struct Way<'w> {
    config: &'w RelayConfig,
    host: &'w Host,
    exchangers: std::vec::IntoIter<Exchanger>,
    targets: Vec<Target>,
    dialled: usize,
    /// What is said of the domain if no host of it can be dialled.
    end: DeliveryResult,
}

/// There is no such domain, or nothing that could take mail.
pub(super) const NO_DOMAIN: DeliveryResult = permanent(None, 5, 1, 2);
/// RFC 7505 section 4.2.
pub(super) const NO_MAIL: DeliveryResult = permanent(Some(556), 5, 1, 10);
/// The domain's hosts have no address that may be dialled.
pub(super) const NO_ROUTE: DeliveryResult = permanent(None, 5, 4, 4);
/// The domain's hosts lead back to this relay.
pub(super) const LOOP: DeliveryResult = permanent(None, 5, 4, 6);
/// The domain name system gave no answer.
pub(super) const NO_ANSWER: DeliveryResult = DeliveryResult::Transient {
    code: None,
    status: Enhanced::new(4, 4, 3),
};

const fn permanent(code: Option<u16>, class: u8, subject: u16, detail: u16) -> DeliveryResult {
    DeliveryResult::Permanent {
        code,
        status: Enhanced::new(class, subject, detail),
    }
}

impl<'w> Way<'w> {
    /// Asks for the exchangers of a domain. An error is the result for every recipient there.
    pub(super) async fn of(domain: &str, config: &'w RelayConfig, host: &'w Host) -> Result<Self, DeliveryResult> {
        let (exchangers, end) = match host.names.exchangers(domain).await {
            Err(_) => return Err(NO_ANSWER),
            Ok(Exchangers::NoDomain) => return Err(NO_DOMAIN),
            Ok(Exchangers::NoMail) => return Err(NO_MAIL),
            Ok(Exchangers::Unlisted) => {
                let itself = Exchanger {
                    preference: 0,
                    host: domain.to_owned(),
                };
                (vec![itself], NO_DOMAIN)
            }
            Ok(Exchangers::Listed(listed)) => (in_order(listed, || u64::from_le_bytes(host.random())), NO_ROUTE),
        };
        let (exchangers, is_cut) = before_own(exchangers, &config.domain);
        let end = if is_cut && exchangers.is_empty() { LOOP } else { end };
        Ok(Way {
            config,
            host,
            exchangers: exchangers.into_iter(),
            targets: Vec::new(),
            dialled: 0,
            end,
        })
    }

    /// The next host to dial.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            if self.dialled == ADDRESSES_MAX {
                return Step::End(self.end);
            }
            if let Some(target) = self.targets.pop() {
                self.dialled += 1;
                return Step::Dial(target);
            }
            let Some(exchanger) = self.exchangers.next() else {
                return Step::End(self.end);
            };
            match self.host.names.addresses(&exchanger.host).await {
                // What cannot be found today may be tomorrow: no verdict on the domain is final any more.
                Err(_) => self.end = NO_ANSWER,
                Ok(addresses) => self.arrive(&exchanger.host, &addresses),
            }
        }
    }

    /// The host dialled last is this relay.
    pub(super) fn cut(&mut self) {
        self.cut_behind(self.dialled.saturating_sub(1));
    }

    /// This relay is next behind so many others: it and those behind it would bring the mail back.
    fn cut_behind(&mut self, others: usize) {
        self.exchangers = Vec::new().into_iter();
        self.targets.clear();
        // A better host that could not be found today may be tomorrow.
        if others == 0 && self.end != NO_ANSWER {
            self.end = LOOP;
        }
    }

    fn arrive(&mut self, host: &str, addresses: &[IpAddr]) {
        let at = |address: &IpAddr| SocketAddr::new(address.to_canonical(), self.config.delivery_port);
        if addresses.iter().any(|address| at(address) == self.config.mx) {
            self.cut_behind(self.dialled);
            return;
        }
        let may_dial = |address: &&IpAddr| self.config.private_networks || is_public(**address);
        let targets = addresses.iter().filter(may_dial).map(|address| Target {
            host: host.to_owned(),
            address: at(address),
        });
        // Taken from the end.
        self.targets = targets.rev().collect();
    }
}

/// By preference; equals at random, so that they share the load.
fn in_order(mut exchangers: Vec<Exchanger>, mut random: impl FnMut() -> u64) -> Vec<Exchanger> {
    exchangers.sort_by_cached_key(|exchanger| (exchanger.preference, random()));
    exchangers
}

/// Those that are preferred to this relay, if it is one of them (RFC 5321 section 5.1); whether it is.
fn before_own(mut exchangers: Vec<Exchanger>, own: &str) -> (Vec<Exchanger>, bool) {
    let Some(limit) = exchangers
        .iter()
        .filter(|exchanger| exchanger.host == own)
        .map(|exchanger| exchanger.preference)
        .min()
    else {
        return (exchangers, false);
    };
    exchangers.retain(|exchanger| exchanger.preference < limit);
    (exchangers, true)
}

/// Hosts that could not be spoken with a moment ago, and what came of it: whoever hangs is not dialled for every message.
#[derive(Default)]
pub(super) struct Shunned {
    hosts: BTreeMap<String, (Instant, DeliveryResult)>,
}

impl Shunned {
    /// What came of the host's latest connection, if that was a moment ago and came to nothing.
    pub(super) fn verdict(&self, host: &str, now: Instant) -> Option<DeliveryResult> {
        let (until, result) = self.hosts.get(host)?;
        (now < *until).then_some(*result)
    }

    /// The host could not be spoken with. `wait` is that before the next try of a delivery: then it is dialled again.
    pub(super) fn add(&mut self, host: &str, result: DeliveryResult, now: Instant, wait: Duration) {
        if self.hosts.len() >= SHUNNED_MAX {
            self.hosts.retain(|_, (until, _)| now < *until);
        }
        if self.hosts.len() < SHUNNED_MAX {
            self.hosts.insert(host.to_owned(), (now + wait.min(SHUNNED), result));
        }
    }

    /// The host can be spoken with.
    pub(super) fn remove(&mut self, host: &str) {
        self.hosts.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use smtp_bridge::net::{Names, Promise, system};

    use super::*;

    /// A domain name system of one domain, `d.test`, with these exchangers and hosts.
    struct Zone {
        exchangers: Option<Exchangers>,
        hosts: Vec<(&'static str, &'static str)>,
        asked: Mutex<Vec<String>>,
    }

    impl Names for Zone {
        fn exchangers<'a>(&'a self, _domain: &'a str) -> Promise<'a, std::io::Result<Exchangers>> {
            Box::pin(async { self.exchangers.clone().ok_or(std::io::ErrorKind::TimedOut.into()) })
        }

        fn addresses<'a>(&'a self, host: &'a str) -> Promise<'a, std::io::Result<Vec<IpAddr>>> {
            Box::pin(async move {
                self.asked.lock().unwrap().push(host.to_owned());
                let of_host = self.hosts.iter().filter(|(name, _)| *name == host);
                let addresses: Result<Vec<IpAddr>, _> = of_host.map(|(_, address)| address.parse()).collect();
                addresses.map_err(|_| std::io::ErrorKind::TimedOut.into())
            })
        }
    }

    fn listed(hosts: &[(u16, &str)]) -> Option<Exchangers> {
        let exchanger = |(preference, host): &(u16, &str)| Exchanger {
            preference: *preference,
            host: (*host).to_owned(),
        };
        Some(Exchangers::Listed(hosts.iter().map(exchanger).collect()))
    }

    fn config() -> RelayConfig {
        let at = |address: &str| address.parse().unwrap();
        RelayConfig::new(
            "relay.test",
            "/nowhere".into(),
            at("9.9.9.1:1"),
            at("9.9.9.9:25"),
            at("127.0.0.1:2"),
        )
    }

    /// The addresses that would be dialled in turn, and what is said of the domain behind them.
    async fn walked(
        config: &RelayConfig,
        exchangers: Option<Exchangers>,
        hosts: &[(&'static str, &'static str)],
    ) -> (Vec<String>, DeliveryResult) {
        let mut host = system::host();
        host.names = Arc::new(Zone {
            exchangers,
            hosts: hosts.to_vec(),
            asked: Mutex::default(),
        });
        let mut dialled = Vec::new();
        let mut way = match Way::of("d.test", config, &host).await {
            Ok(way) => way,
            Err(result) => return (dialled, result),
        };
        loop {
            match way.next().await {
                Step::Dial(target) => dialled.push(target.address.to_string()),
                Step::End(result) => return (dialled, result),
            }
        }
    }

    #[tokio::test]
    async fn hosts_are_dialled_by_preference_and_each_at_all_its_addresses() {
        let hosts = [("a", "8.8.8.1"), ("b", "2a00::1"), ("b", "8.8.8.2"), ("c", "8.8.8.3")];
        let (dialled, _) = walked(&config(), listed(&[(30, "c"), (10, "a"), (20, "b")]), &hosts).await;
        assert_eq!(dialled, ["8.8.8.1:25", "[2a00::1]:25", "8.8.8.2:25", "8.8.8.3:25"]);
        let (itself, _) = walked(&config(), Some(Exchangers::Unlisted), &[("d.test", "8.8.8.4")]).await;
        assert_eq!(itself, ["8.8.8.4:25"]);
        let many: Vec<(u16, &str)> = [(1, "a"); 30].into();
        assert_eq!(walked(&config(), listed(&many), &hosts).await.0.len(), ADDRESSES_MAX);
    }

    #[test]
    fn equals_are_taken_in_random_order() {
        let Some(Exchangers::Listed(hosts)) = listed(&[(2, "z"), (1, "a"), (1, "b"), (1, "c")]) else {
            unreachable!("listed");
        };
        let mut seed = 0_u64;
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let order = in_order(hosts.clone(), || {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                seed >> 16
            });
            let order: Vec<String> = order.into_iter().map(|exchanger| exchanger.host).collect();
            assert_eq!(order[3], "z");
            orders.insert(order);
        }
        assert_eq!(orders.len(), 6);
    }

    #[tokio::test]
    async fn a_domain_without_hosts_is_final_and_one_without_an_answer_is_not() {
        let config = config();
        for (exchangers, hosts, result) in [
            (None, &[][..], NO_ANSWER),
            (Some(Exchangers::NoDomain), &[], NO_DOMAIN),
            (Some(Exchangers::NoMail), &[], NO_MAIL),
            (Some(Exchangers::Unlisted), &[], NO_DOMAIN),
            (listed(&[]), &[], NO_ROUTE),
            (listed(&[(1, "a")]), &[], NO_ROUTE),
            (listed(&[(1, "a"), (2, "b")]), &[("b", "no answer")], NO_ANSWER),
        ] {
            assert_eq!(
                walked(&config, exchangers.clone(), hosts).await,
                (vec![], result),
                "{exchangers:?}"
            );
        }
    }

    #[tokio::test]
    async fn no_domain_leads_inside_unless_the_operator_says_so() {
        let mut config = config();
        let hosts = [
            ("a", "127.0.0.1"),
            ("a", "::1"),
            ("a", "10.1.1.1"),
            ("a", "8.8.8.8"),
            ("a", "::ffff:127.0.0.1"),
        ];
        assert_eq!(walked(&config, listed(&[(1, "a")]), &hosts).await.0, ["8.8.8.8:25"]);
        assert_eq!(
            walked(&config, listed(&[(1, "a")]), &hosts[..3]).await,
            (vec![], NO_ROUTE)
        );
        config.private_networks = true;
        assert_eq!(walked(&config, listed(&[(1, "a")]), &hosts).await.0.len(), 5);
    }

    #[tokio::test]
    async fn nothing_comes_back_to_the_relay() {
        let config = config();
        let hosts = [
            ("a", "8.8.8.1"),
            ("b", "8.8.8.2"),
            ("us", "9.9.9.9"),
            ("relay.test", "8.8.8.8"),
        ];
        for own in ["relay.test", "us"] {
            let (dialled, _) = walked(&config, listed(&[(10, "a"), (20, own), (30, "b")]), &hosts).await;
            assert_eq!(dialled, ["8.8.8.1:25"], "{own}");
            let first = walked(&config, listed(&[(10, own), (20, "a")]), &hosts).await;
            assert_eq!(first, (vec![], LOOP), "{own}");
        }
        // Equals of the relay are no way around it.
        let equals = walked(&config, listed(&[(10, "a"), (10, "relay.test")]), &hosts).await;
        assert_eq!(equals, (vec![], LOOP));
        let unsure = walked(
            &config,
            listed(&[(10, "x"), (20, "us")]),
            &[("x", "?"), ("us", "9.9.9.9")],
        )
        .await;
        assert_eq!(unsure, (vec![], NO_ANSWER));
    }

    #[test]
    fn a_host_is_shunned_for_a_while_and_the_list_stays_short() {
        let mut shunned = Shunned::default();
        let now = Instant::now();
        shunned.add("a", NO_ANSWER, now, Duration::from_secs(1));
        shunned.add("b", NO_ANSWER, now, Duration::from_secs(9_999));
        let later = now + Duration::from_secs(1);
        assert_eq!(shunned.verdict("a", now), Some(NO_ANSWER));
        assert_eq!(shunned.verdict("a", later), None);
        assert_eq!(shunned.verdict("b", later), Some(NO_ANSWER));
        assert_eq!(shunned.verdict("b", now + SHUNNED), None);
        shunned.remove("b");
        assert_eq!(shunned.verdict("b", now), None);
        for host in 0..2 * SHUNNED_MAX {
            shunned.add(&host.to_string(), NO_ANSWER, now, SHUNNED);
        }
        assert_eq!(shunned.hosts.len(), SHUNNED_MAX);
        shunned.add("c", NO_ANSWER, now + SHUNNED, SHUNNED);
        assert_eq!(shunned.hosts.len(), 1);
    }
}
