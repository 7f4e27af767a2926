//! What no relay runs with.

use keypacks::chain::LINK_KEYS_MIN;
use mailbox::request::OFFERS_MAX;
use smtp_bridge::names;

use super::{Delivery, MEMORY_MIB_MIN, Problem, RelayConfig, SizeConfig, TlsPolicy, Ways, host_of};

/// Longest `hold_s`: a day.
const HOLD_S_MAX: u64 = 86_400;

impl RelayConfig {
    /// What no relay runs with, each with the key it is about.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let at_least = |key, value: u64, least| {
            let words = format!("it is {value} and must be at least {least}");
            (value < least).then_some(Problem { key, words })
        };
        let said = |key, is_wrong: bool, words: &str| {
            is_wrong.then(|| Problem {
                key,
                words: words.to_owned(),
            })
        };
        [
            said(
                "domain",
                self.domain.is_empty() || self.domain.len() > 200 || !self.domain.bytes().all(is_name),
                "write it in lower-case ASCII letters, digits, dots and hyphens",
            ),
            said(
                "parcel_local",
                self.takes_parcels()
                    && (!names::is_alias_local(&self.parcel_local)
                        || ["postmaster", "abuse"].contains(&&*self.parcel_local)),
                "write what an alias may be called, but neither postmaster nor abuse; or leave it empty for no parcels",
            ),
            at_least("tick_ms", self.tick_ms, 1),
            at_least("handshake_ms", self.handshake_ms, 1),
            at_least("date_bucket_s", self.date_bucket_s, 1),
            at_least("unconfirmed_max", self.unconfirmed_max as u64, 2),
            at_least("mx_connections_max", self.mx_connections_max as u64, 1),
            at_least("through_mib", self.through_mib, 1),
            at_least("memory_mib", self.memory_mib.into(), MEMORY_MIB_MIN.into()),
            said(
                "mx_certificate",
                self.mx_certificate.is_none() && self.mx_key.is_some(),
                "name the certificate that mx_key belongs to, or leave both out",
            ),
            said(
                "mx_key",
                self.mx_key.is_none() && self.mx_certificate.is_some(),
                "name the key that mx_certificate belongs to, or leave both out",
            ),
        ]
        .into_iter()
        .chain(self.problems_of_collect())
        .chain([self.problem_of_mix(), self.problem_of_cover()])
        .flatten()
        .chain(self.problems_of_routes())
        .collect()
    }

    fn problem_of_cover(&self) -> Option<Problem> {
        let cover = self.cover.as_ref()?;
        let words = if cover.per_second_max == 0 || cover.links_max == 0 {
            "per_second_max and links_max must be at least 1; leave the table out for no cover"
        } else if !(1..=86_400).contains(&cover.period_s) {
            "period_s must be 1 to 86400"
        } else {
            return None;
        };
        let words = words.to_owned();
        Some(Problem { key: "cover", words })
    }

    fn problem_of_mix(&self) -> Option<Problem> {
        let mix = self.mix.as_ref()?;
        let words = if mix.round_s == 0 || mix.least == 0 {
            "round_s and least must be at least 1"
        } else if mix.least_paranoid < mix.least {
            "least_paranoid must be at least least"
        } else if !(1..=100).contains(&mix.percent) {
            "percent must be 1 to 100"
        } else if mix.hold_s / 4 < mix.round_s.saturating_mul(u64::from(mix.rounds_paranoid) + 1) {
            "hold_s must be at least four times rounds_paranoid + 1 rounds, or what is to wait longer leaves too early"
        } else {
            return None;
        };
        let words = words.to_owned();
        Some(Problem { key: "mix", words })
    }

    fn problems_of_collect(&self) -> [Option<Problem>; 3] {
        let said = |is_wrong: bool, words: &str| {
            let words = words.to_owned();
            (is_wrong && self.collect.is_some()).then_some(Problem { key: "collect", words })
        };
        let collect = self.collect.as_ref();
        [
            said(
                self.collect_certificate().is_none(),
                "it speaks TLS alone: name certificate and key here, or mx_certificate and mx_key",
            ),
            said(
                !self.takes_parcels(),
                "its logins are taken from the sequence of parcels: set parcel_local",
            ),
            said(
                collect.is_some_and(|collect| collect.connections_max == 0),
                "connections_max must be at least 1",
            ),
        ]
    }

    fn problems_of_routes(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |key, words: String| problems.push(Problem { key, words });
        if self.delivery == Delivery::Mx && self.smarthost.is_some() {
            let words = "\"mx\" and smarthost exclude each other: remove one, and name exceptions in [routes]";
            refuse("delivery", words.into());
        }
        for (domain, ways) in &self.routes {
            if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
                refuse("routes", format!("write {domain} in lower case"));
            }
            if let Some(words) = ways.problem() {
                refuse("routes", format!("{domain} {words}"));
            }
        }
        // A single host may be called whatever the machine can dial.
        if let Some(words) = self.smarthost.as_ref().and_then(|ways| match ways {
            Ways::One(_) => None,
            Ways::Several(_) => ways.problem(),
        }) {
            refuse("smarthost", format!("it {words}"));
        }
        for (domain, target) in &self.through {
            if domain.bytes().any(|byte| byte.is_ascii_uppercase()) || host_of(target).is_none() {
                refuse(
                    "through",
                    format!("{domain} is to be in lower case, and needs \"host:port\""),
                );
            }
        }
        if let Some(settings) = &self.procure {
            let is_size =
                |size: &SizeConfig| size.keys >= LINK_KEYS_MIN && size.value.checked_add(settings.fee).is_some();
            if !(1..=OFFERS_MAX).contains(&settings.peers.len())
                || !settings.peers.iter().all(|name| crate::peers::is_name(name))
            {
                let words = format!("peers names 1 to {OFFERS_MAX} packs as 'posternd peer accept' called them");
                refuse("procure", words);
            }
            if !(1..=OFFERS_MAX).contains(&settings.sizes.len()) || !settings.sizes.iter().all(is_size) {
                let words = format!("sizes has 1 to {OFFERS_MAX} packs, each of at least {LINK_KEYS_MIN} keys");
                refuse("procure", words);
            }
            if settings.hold_s > HOLD_S_MAX {
                refuse("procure", format!("hold_s is at most {HOLD_S_MAX}"));
            }
        }
        for (name, peer) in &self.peers {
            let is_proven = peer.tls == TlsPolicy::Require;
            let needs = "needs tls = \"require\"";
            if peer.ca_file.is_some() && !is_proven {
                refuse("peers", format!("ca_file of {name} {needs}, or it counts for nothing"));
            }
            if peer.user.is_some() != peer.password_file.is_some() {
                refuse("peers", format!("{name} needs both user and password_file, or neither"));
            }
            if peer.renews() && !self.peer_names().contains(name) {
                let words = format!("renewal of {name} needs a route \"peer:{name}\", or its name in procure");
                refuse("peers", words);
            }
            if peer.user.is_some() && !is_proven {
                refuse(
                    "peers",
                    format!("user of {name} {needs}: a password goes to nobody else"),
                );
            }
            if peer.user.is_some() && host_of(name).is_none() {
                let words = "has a user: name it as the route or smarthost does, \"host:port\"";
                refuse("peers", format!("{name} {words}"));
            }
        }
        problems
    }
}
