//! Where mail of a route goes, and where it goes when that way does not work.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Delivery, MX, PEER, RelayConfig, Route, host_of};

/// Most ways of one route.
const WAYS_MAX: usize = 8;

/// Where mail goes: one target, or several in the order in which they are tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Ways {
    /// `host:port`, `mx` or `peer:NAME`.
    One(String),
    /// Peers, each where those before it do not work, and as the last one any target.
    Several(Vec<String>),
}

impl Ways {
    /// The targets in their order.
    pub fn targets(&self) -> &[String] {
        match self {
            Ways::One(target) => std::slice::from_ref(target),
            Ways::Several(targets) => targets,
        }
    }

    /// Names of the peers among them.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &str> {
        self.targets().iter().filter_map(|target| target.strip_prefix(PEER))
    }

    /// What no relay can use of it.
    pub(super) fn problem(&self) -> Option<String> {
        let is_peer = |target: &String| target.strip_prefix(PEER).is_some_and(crate::peers::is_name);
        let is_target = |target: &String| is_peer(target) || target == MX || host_of(target).is_some();
        let targets = self.targets();
        let Some((last, before)) = targets.split_last() else {
            return Some("names no way at all".to_owned());
        };
        if !is_target(last) || !before.iter().all(is_target) {
            return Some("needs \"host:port\", \"mx\" or \"peer:NAME\", or a list of them".to_owned());
        }
        if !before.iter().all(is_peer) {
            return Some("has a way behind \"mx\" or a host: these come last, since mail waits there".to_owned());
        }
        let distinct: BTreeSet<&String> = targets.iter().collect();
        (targets.len() > WAYS_MAX || distinct.len() < targets.len())
            .then(|| format!("has at most {WAYS_MAX} ways, and none twice"))
    }
}

impl From<String> for Ways {
    fn from(target: String) -> Self {
        Ways::One(target)
    }
}

impl From<&str> for Ways {
    fn from(target: &str) -> Self {
        Ways::One(target.to_owned())
    }
}

impl<const N: usize> From<[&str; N]> for Ways {
    fn from(targets: [&str; N]) -> Self {
        Ways::Several(targets.map(str::to_owned).to_vec())
    }
}

impl<'de> Deserialize<'de> for Ways {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Targets;

        impl<'de> Visitor<'de> for Targets {
            type Value = Ways;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"host:port\", \"mx\" or \"peer:NAME\", or a list of them")
            }

            fn visit_str<E: serde::de::Error>(self, target: &str) -> Result<Ways, E> {
                Ok(target.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, targets: A) -> Result<Ways, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(targets)).map(Ways::Several)
            }
        }

        deserializer.deserialize_any(Targets)
    }
}

impl RelayConfig {
    /// Where mail for a domain goes, by the first way that works; empty: nowhere.
    pub fn ways(&self, domain: &str) -> Vec<Route> {
        let domain = domain.to_ascii_lowercase();
        if domain == self.domain {
            let mut own = self.mx;
            if own.ip().is_unspecified() {
                own.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            return vec![Route::Own(own.to_string())];
        }
        let route = |target: &String| match target.strip_prefix(PEER) {
            _ if target == MX => Route::Exchangers(domain.clone()),
            Some(name) => Route::Peer(name.to_owned()),
            None => Route::Host(target.clone()),
        };
        match self.routes.get(&domain).or(self.smarthost.as_ref()) {
            Some(ways) => ways.targets().iter().map(route).collect(),
            None if self.delivery == Delivery::Mx => vec![Route::Exchangers(domain)],
            None => Vec::new(),
        }
    }

    /// Names of the peers by which any mail goes or packs are procured, each once.
    pub(crate) fn peer_names(&self) -> BTreeSet<String> {
        let routed = self.routes.values().chain(&self.smarthost).flat_map(Ways::peers);
        let selling = self.procure.iter().flat_map(|settings| &settings.peers);
        routed.map(str::to_owned).chain(selling.cloned()).collect()
    }

    /// Names of the peers by which mail goes that has no route of its own.
    pub(crate) fn peers_elsewhere(&self) -> impl Iterator<Item = &str> {
        self.smarthost.iter().flat_map(Ways::peers)
    }

    /// Whether mail that goes by peers may end by a way that is none by a peer.
    pub(crate) fn ends_directly(&self) -> bool {
        let mut several = self.routes.values().chain(&self.smarthost);
        several.any(|ways| (1..ways.targets().len()).contains(&ways.peers().count()))
    }

    /// Whether any mail goes where MX records say, so that name servers are asked.
    pub fn asks_names(&self) -> bool {
        let mut ways = self.routes.values().chain(&self.smarthost);
        self.delivery == Delivery::Mx || ways.any(|ways| ways.targets().iter().any(|target| target == MX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct File {
        to: Ways,
    }

    fn read(text: &str) -> Result<Ways, String> {
        let file: Result<File, _> = toml::from_str(text);
        file.map(|file| file.to).map_err(|error| error.to_string())
    }

    #[test]
    fn one_target_is_written_as_before_and_several_as_a_list() {
        for (text, ways) in [
            ("to = \"peer:a\"\n", "peer:a".into()),
            ("to = [\"peer:a\", \"mx\"]\n", ["peer:a", "mx"].into()),
        ] {
            assert_eq!(read(text), Ok(Ways::clone(&ways)));
            assert_eq!(toml::to_string(&File { to: ways }).expect("text"), text);
        }
        let wrong = read("to = 7").expect_err("no target");
        assert!(wrong.contains("or a list of them"), "{wrong}");
        assert!(read("to = [1]").is_err());
    }

    #[test]
    fn only_the_last_way_may_be_no_peer() {
        for right in [
            Ways::from("x:25"),
            ["peer:a", "peer:b"].into(),
            ["peer:a", "mx"].into(),
            ["peer:a", "peer:b", "x.example:25"].into(),
        ] {
            assert_eq!(right.problem(), None);
        }
        let many: Vec<String> = (0..=WAYS_MAX).map(|number| format!("peer:p{number}")).collect();
        for wrong in [
            Ways::from("x"),
            Ways::Several(Vec::new()),
            ["mx", "peer:a"].into(),
            ["x:25", "y:25"].into(),
            ["peer:a", "peer:a"].into(),
            ["peer:a", "peer:../b"].into(),
            Ways::Several(many),
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn mail_goes_by_the_ways_in_their_order() {
        let at = ([127, 0, 0, 1], 1).into();
        let mut config = RelayConfig::new("own.test", "/nowhere".into(), at, at, at);
        let peer = |name: &str| Route::Peer(name.to_owned());
        config
            .routes
            .insert("far.test".to_owned(), ["peer:a", "peer:b", "mx"].into());
        config.smarthost = Some(["peer:b", "c.test:25"].into());
        assert_eq!(
            config.ways("Far.test"),
            [peer("a"), peer("b"), Route::Exchangers("far.test".to_owned())]
        );
        assert_eq!(
            config.ways("else.test"),
            [peer("b"), Route::Host("c.test:25".to_owned())]
        );
        assert!(config.peer_names().into_iter().eq(["a", "b"]));
        assert!(config.peers_elsewhere().eq(["b"]) && config.asks_names());
    }
}
