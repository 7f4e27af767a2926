//! `posternd.toml`: what an operator sets, with its defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smtp_bridge::names;

/// Least `memory_mib`: large messages have thirteen sixteenths of it.
pub(crate) const MEMORY_MIB_MIN: u32 = 160;

/// Settings of a relay. Every key of the file is a field here, and nothing else is taken.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Domain of the relay's aliases, and the name it greets with.
    pub domain: String,
    /// Folder that holds everything durable.
    pub data: PathBuf,
    /// Where bridges connect.
    pub link: SocketAddr,
    /// `host:port` that issued packs name; the link address where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_public: Option<String>,
    /// Where other mail servers deliver mail for the aliases.
    pub mx: SocketAddr,
    /// Certificates in PEM form that the MX shows under STARTTLS, its own first. Without them it offers no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx_certificate: Option<PathBuf>,
    /// The key of the first of them, in PEM form and unencrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx_key: Option<PathBuf>,
    /// Status page and metrics; keep it on loopback.
    pub status: SocketAddr,
    /// `host:port` that takes all mail for other domains. Without it such mail is refused, unless `delivery` says
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smarthost: Option<String>,
    /// Who takes mail for other domains.
    #[serde(default)]
    pub delivery: Delivery,
    /// Domains delivered to a fixed `host:port`, or by their MX records if that is `mx`. The relay's own domain goes to
    /// its own MX by itself.
    #[serde(default)]
    pub routes: BTreeMap<String, String>,
    /// How to speak with a host, by the `host:port` of a route, or by the domain where MX records show the host.
    #[serde(default)]
    pub peers: BTreeMap<String, PeerConfig>,
    /// Name servers that are asked for MX records; those of the system where none is named.
    #[serde(default)]
    pub dns: Vec<SocketAddr>,
    /// Whether MX records may lead into private networks and to this machine.
    #[serde(default)]
    pub private_networks: bool,
    /// Port of the hosts that MX records name.
    #[serde(default = "defaults::delivery_port")]
    pub delivery_port: u16,
    /// Seconds without success after which the sender is told once that a message is delayed.
    #[serde(default = "defaults::delay_notice_s")]
    pub delay_notice_s: u64,
    /// How often a link is told that mail waits, in milliseconds.
    #[serde(default = "defaults::tick_ms")]
    pub tick_ms: u64,
    /// Time from accept to a confirmed link, in milliseconds; up to a tenth is added at random.
    #[serde(default = "defaults::handshake_ms")]
    pub handshake_ms: u64,
    /// What stands before the '@' of the address that parcels go to; empty: none are taken.
    #[serde(default = "defaults::parcel_local")]
    pub parcel_local: String,
    /// Most connections that have not confirmed a link.
    #[serde(default = "defaults::unconfirmed_max")]
    pub unconfirmed_max: usize,
    /// Most SMTP connections.
    #[serde(default = "defaults::mx_connections_max")]
    pub mx_connections_max: usize,
    /// Days that uncollected mail is kept.
    #[serde(default = "defaults::retention_days")]
    pub retention_days: u32,
    /// Waits between tries of a delivery, in seconds; after the last the sender is told of the failure.
    #[serde(default = "defaults::retry_s")]
    pub retry_s: Vec<u64>,
    /// Bucket that dates of outgoing mail are rounded down to, in seconds.
    #[serde(default = "defaults::date_bucket_s")]
    pub date_bucket_s: u64,
    /// Mail held in memory at one time, in MiB, over all connections.
    #[serde(default = "defaults::memory_mib")]
    pub memory_mib: u32,
    /// What things cost.
    #[serde(default)]
    pub prices: PriceConfig,
    /// For tests of erasure alone: keeps every used key. Never set this on a relay that people use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_used_keys: bool,
}

/// Who takes mail for domains without a route.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The smarthost; nobody if there is none.
    #[default]
    Smarthost,
    /// The hosts that each domain's MX records name.
    Mx,
}

/// How a host is spoken with.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// Whether the line must be secured.
    pub tls: TlsPolicy,
    /// Authorities that the host's certificate must come from, in PEM form, instead of the well-known ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Name to log in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File whose first line is the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// Whether a line is secured by TLS.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Where the host offers it, with whatever certificate; else in the clear.
    #[default]
    May,
    /// With a certificate of the host's name from a known authority, or not at all.
    Require,
    /// Never.
    None,
}

/// The price list, in µtok.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceConfig {
    /// For each recipient of a message.
    pub message: u64,
    /// For each 1,000 bytes of a message's size class, for each recipient.
    pub kilobyte: u64,
    /// For each link key, that is, for each completed connection.
    pub key: u64,
    /// For each message collected.
    pub inbound_message: u64,
    /// For each 1,000 bytes of size class collected.
    pub inbound_kilobyte: u64,
}

impl Default for PriceConfig {
    fn default() -> Self {
        PriceConfig {
            message: 1_000,
            kilobyte: 10,
            key: 100,
            inbound_message: 0,
            inbound_kilobyte: 0,
        }
    }
}

mod defaults {
    pub(super) fn tick_ms() -> u64 {
        60_000
    }
    pub(super) fn handshake_ms() -> u64 {
        30_000
    }
    pub(super) fn parcel_local() -> String {
        "parcel".to_owned()
    }
    pub(super) fn unconfirmed_max() -> usize {
        4_096
    }
    pub(super) fn mx_connections_max() -> usize {
        500
    }
    pub(super) fn retention_days() -> u32 {
        30
    }
    pub(super) fn retry_s() -> Vec<u64> {
        // Five days in all: quick at first, then every six hours.
        let mut waits = vec![60, 300, 900, 1_800, 3_600, 7_200];
        waits.extend([21_600; 18]);
        waits
    }
    pub(super) fn delivery_port() -> u16 {
        25
    }
    pub(super) fn delay_notice_s() -> u64 {
        4 * 3_600
    }
    pub(super) fn date_bucket_s() -> u64 {
        3_600
    }
    pub(super) fn memory_mib() -> u32 {
        512
    }
}

/// Where mail for a domain goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// To the relay's own MX, at this address.
    Own(String),
    /// To a fixed `host:port`.
    Host(String),
    /// To the hosts that the MX records of this domain name, which is in lower case.
    Exchangers(String),
}

/// What a route says that goes by MX records.
const MX: &str = "mx";

/// The host of a `host:port`.
pub(crate) fn host_of(target: &str) -> Option<&str> {
    let (host, port) = target.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .map_or(Some(host), |inside| inside.strip_suffix(']'))?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(host)
}

/// Why a configuration cannot be used: a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// What is wrong with one key.
pub(crate) struct Problem {
    pub(crate) key: &'static str,
    pub(crate) words: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.words)
    }
}

impl RelayConfig {
    /// A configuration with every default.
    pub fn new(domain: &str, data: PathBuf, link: SocketAddr, mx: SocketAddr, status: SocketAddr) -> Self {
        RelayConfig {
            domain: domain.to_owned(),
            data,
            link,
            link_public: None,
            mx,
            mx_certificate: None,
            mx_key: None,
            status,
            smarthost: None,
            delivery: Delivery::default(),
            routes: BTreeMap::new(),
            peers: BTreeMap::new(),
            dns: Vec::new(),
            private_networks: false,
            delivery_port: defaults::delivery_port(),
            delay_notice_s: defaults::delay_notice_s(),
            tick_ms: defaults::tick_ms(),
            handshake_ms: defaults::handshake_ms(),
            parcel_local: defaults::parcel_local(),
            unconfirmed_max: defaults::unconfirmed_max(),
            mx_connections_max: defaults::mx_connections_max(),
            retention_days: defaults::retention_days(),
            retry_s: defaults::retry_s(),
            date_bucket_s: defaults::date_bucket_s(),
            memory_mib: defaults::memory_mib(),
            prices: PriceConfig::default(),
            keep_used_keys: false,
        }
    }

    /// Whether parcels are taken by mail.
    pub(crate) fn takes_parcels(&self) -> bool {
        !self.parcel_local.is_empty()
    }

    /// Whether a local part, in any case, is that of the parcel address.
    pub(crate) fn is_parcel_local(&self, local: &str) -> bool {
        self.takes_parcels() && local.eq_ignore_ascii_case(&self.parcel_local)
    }

    /// Reads and checks a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::read_unchecked(path)?;
        match &config.problems()[..] {
            [] => Ok(config),
            problems => Err(ConfigError(
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            )),
        }
    }

    /// Reads a configuration file as it is, to be looked at.
    pub(crate) fn read_unchecked(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?;
        toml::from_str(&text)
            .map_err(|error| ConfigError(format!("{} is not a valid configuration: {error}", path.display())))
    }

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
        .flatten()
        .chain(self.problems_of_routes())
        .collect()
    }

    fn problems_of_routes(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |key, words: String| problems.push(Problem { key, words });
        if self.delivery == Delivery::Mx && self.smarthost.is_some() {
            let words = "\"mx\" and smarthost exclude each other: remove one, and name exceptions in [routes]";
            refuse("delivery", words.into());
        }
        for (domain, target) in &self.routes {
            if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
                refuse("routes", format!("write {domain} in lower case"));
            }
            if target != MX && host_of(target).is_none() {
                refuse("routes", format!("{domain} needs \"host:port\" or \"mx\""));
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

    /// Time from accept to a confirmed link.
    pub fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    /// How often a link is told that mail waits.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// Where mail for a domain goes; `None`: nowhere.
    pub fn route(&self, domain: &str) -> Option<Route> {
        let domain = domain.to_ascii_lowercase();
        if domain == self.domain {
            let mut own = self.mx;
            if own.ip().is_unspecified() {
                own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            return Some(Route::Own(own.to_string()));
        }
        match self.routes.get(&domain).or(self.smarthost.as_ref()) {
            Some(target) if target == MX => Some(Route::Exchangers(domain)),
            Some(target) => Some(Route::Host(target.clone())),
            None if self.delivery == Delivery::Mx => Some(Route::Exchangers(domain)),
            None => None,
        }
    }

    /// Whether any mail goes where MX records say, so that name servers are asked.
    pub fn asks_names(&self) -> bool {
        self.delivery == Delivery::Mx || self.routes.values().any(|target| target == MX)
    }

    /// What issued packs name as the relay's address.
    pub fn public_link(&self) -> String {
        self.link_public.clone().unwrap_or_else(|| self.link.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> RelayConfig {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        RelayConfig::new("relay.test", "/nowhere".into(), at(1), at(2), at(3))
    }

    #[test]
    fn a_configuration_survives_being_written_and_read() {
        let text = toml::to_string(&minimal()).unwrap();
        let read: RelayConfig = toml::from_str(&text).unwrap();
        assert_eq!(read.retry_s, minimal().retry_s);
        assert_eq!(read.public_link(), "127.0.0.1:1");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = format!("{}\nsmart_host = \"x:25\"\n", toml::to_string(&minimal()).unwrap());
        assert!(toml::from_str::<RelayConfig>(&text).is_err());
    }

    #[test]
    fn every_problem_is_named_by_its_key() {
        let mut config = minimal();
        assert!(config.problems().is_empty());
        config.domain = "Relay.Test".into();
        config.tick_ms = 0;
        config.unconfirmed_max = 1;
        config.memory_mib = MEMORY_MIB_MIN - 1;
        config.mx_key = Some("key.pem".into());
        let keys: Vec<&str> = config.problems().iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            ["domain", "tick_ms", "unconfirmed_max", "memory_mib", "mx_certificate"]
        );
    }

    #[test]
    fn the_own_domain_goes_to_the_own_mx_and_the_rest_to_the_smarthost_if_there_is_one() {
        let mut config = minimal();
        assert_eq!(config.route("Relay.Test"), Some(Route::Own("127.0.0.1:2".into())));
        assert_eq!(config.route("elsewhere.example"), None);
        config.smarthost = Some("out.example:25".into());
        config.routes.insert("near.example".into(), "near.example:26".into());
        let host = |target: &str| Some(Route::Host(target.into()));
        assert_eq!(config.route("elsewhere.example"), host("out.example:25"));
        assert_eq!(config.route("NEAR.example"), host("near.example:26"));
        assert!(!config.asks_names());
    }

    #[test]
    fn mx_records_are_asked_where_that_was_said() {
        let mut config = minimal();
        let exchangers = |domain: &str| Some(Route::Exchangers(domain.into()));
        config.smarthost = Some("out.example:25".into());
        config.routes.insert("far.example".into(), "mx".into());
        assert!(config.asks_names());
        assert_eq!(config.route("Far.Example"), exchangers("far.example"));
        assert!(matches!(config.route("else.example"), Some(Route::Host(_))));
        config.smarthost = None;
        config.delivery = Delivery::Mx;
        assert_eq!(config.route("Else.example"), exchangers("else.example"));
        assert!(matches!(config.route("relay.test"), Some(Route::Own(_))));
        assert!(config.problems().is_empty());
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_its_key() {
        for (text, key) in [
            ("smarthost = \"x:25\"\ndelivery = \"mx\"", "delivery"),
            ("[routes]\n\"Far.example\" = \"mx\"", "routes"),
            ("[routes]\n\"far.example\" = \"somewhere\"", "routes"),
            ("[peers.\"x:25\"]\nca_file = \"ca.pem\"", "peers"),
            ("[peers.\"x:25\"]\ntls = \"require\"\nuser = \"me\"", "peers"),
            ("[peers.\"x:25\"]\nuser = \"me\"\npassword_file = \"p\"", "peers"),
            (
                "[peers.\"x.example\"]\ntls = \"require\"\nuser = \"me\"\npassword_file = \"p\"",
                "peers",
            ),
        ] {
            let least = "domain = \"relay.test\"\ndata = \"/nowhere\"\nlink = \"127.0.0.1:1\"\nmx = \"127.0.0.1:2\"";
            let read: RelayConfig = toml::from_str(&format!("{least}\nstatus = \"127.0.0.1:3\"\n{text}")).unwrap();
            let problems = read.problems();
            assert!(!problems.is_empty(), "{text}");
            assert!(problems.iter().all(|problem| problem.key == key), "{text}");
        }
    }

    #[test]
    fn a_host_is_told_from_its_port() {
        for (target, host) in [
            ("a.example:25", Some("a.example")),
            ("192.0.2.1:25", Some("192.0.2.1")),
            ("[2001:db8::1]:25", Some("2001:db8::1")),
            ("a.example", None),
            (":25", None),
            ("a.example:smtp", None),
        ] {
            assert_eq!(host_of(target), host);
        }
    }

    #[test]
    fn a_failed_delivery_is_given_up_after_five_days() {
        let total: u64 = minimal().retry_s.iter().sum();
        assert!((4 * 86_400..6 * 86_400).contains(&total), "{total}");
    }
}
