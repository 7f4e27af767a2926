//! `posternd.toml`: what an operator sets, with its defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keypacks::chain::LINK_KEYS_MIN;
use mailbox::request::OFFERS_MAX;
use serde::{Deserialize, Serialize};
use smtp_bridge::names;

/// Longest `hold_s`: a day.
const HOLD_S_MAX: u64 = 86_400;
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
    /// Where whoever carries for a machine without a link collects its deposits. Without it nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<CollectConfig>,
    /// Status page and metrics; keep it on loopback.
    pub status: SocketAddr,
    /// `host:port` that takes all mail for other domains, or `peer:NAME`. Without it such mail is refused, unless `delivery`
    /// says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smarthost: Option<String>,
    /// Who takes mail for other domains.
    #[serde(default)]
    pub delivery: Delivery,
    /// Domains delivered to a fixed `host:port`, by their MX records if that is `mx`, or under the pack held at another relay
    /// if that is `peer:NAME`. The relay's own domain goes to
    /// its own MX by itself.
    #[serde(default)]
    pub routes: BTreeMap<String, String>,
    /// Relays to which links are carried for holders of this one, by their domains: `host:port` of their links.
    #[serde(default)]
    pub through: BTreeMap<String, String>,
    /// Bytes that one link carries further on, in MiB each way; then it is closed, and the next costs a key.
    #[serde(default = "defaults::through_mib")]
    pub through_mib: u64,
    /// Packs at other relays that holders of this one may have procured. Without it, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procure: Option<ProcureConfig>,
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
    /// The pool in which mail waits that asks to be mixed. Without it such mail is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MixConfig>,
    /// What things cost.
    #[serde(default)]
    pub prices: PriceConfig,
    /// For tests of erasure alone: keeps every used key. Never set this on a relay that people use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_used_keys: bool,
}

/// The collecting port: IMAP over TLS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectConfig {
    /// Where it is, by custom at port 993.
    pub listen: SocketAddr,
    /// Certificates in PEM form, its own first; those of the MX where none are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The key of the first of them, in PEM form and unencrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Most connections.
    #[serde(default = "defaults::collect_connections_max")]
    pub connections_max: usize,
}

/// Packs at other relays, which this one pays for with the packs that it holds there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcureConfig {
    /// Names of those packs, as `posternd peer accept` gave them.
    pub peers: Vec<String>,
    /// What a pack costs beside its value, in µtok.
    #[serde(default)]
    pub fee: u64,
    /// An order is held back for a random time, in seconds up to this, and leaves with whatever came meanwhile.
    #[serde(default = "defaults::procure_hold_s")]
    pub hold_s: u64,
    /// The packs that there are; others are refused.
    #[serde(default = "defaults::procure_sizes")]
    pub sizes: Vec<SizeConfig>,
    /// Link keys of the relay's own pack that no order takes: they are for mail.
    #[serde(default = "defaults::procure_keep_keys")]
    pub keep_keys: u64,
    /// Value of the relay's own pack that no order takes, in µtok. Without it as much as the dearest pack has, or
    /// `renew_below` of that peer where it is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_value: Option<u64>,
}

impl ProcureConfig {
    /// Value that stays for mail in the pack at a peer.
    pub(crate) fn kept_value(&self, peer: Option<&PeerConfig>) -> u64 {
        let dearest = self.sizes.iter().map(|size| size.value).max().unwrap_or(0);
        let below = peer.and_then(|peer| peer.renew_below).unwrap_or(0);
        self.keep_value.unwrap_or(dearest.max(below))
    }
}

/// A pack as it is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeConfig {
    /// Link keys, at least 16.
    pub keys: u64,
    /// Value in µtok.
    pub value: u64,
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
    /// Of a pack held at another relay: as much is drawn on credit whenever its free value is below this, in µtok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_below: Option<u64>,
    /// Of such a pack: keys are drawn, ten times as many, whenever fewer are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_keys_below: Option<u64>,
}

impl PeerConfig {
    /// Whether anything is drawn on credit.
    pub(crate) fn renews(&self) -> bool {
        self.renew_below.is_some() || self.renew_keys_below.is_some()
    }
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

/// The pool: how long mail waits that asks to be mixed, and among how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Seconds from one round to the next.
    pub round_s: u64,
    /// Deliveries that stay: whoever leaves was drawn among more.
    pub least: u32,
    /// The same for those that ask for more.
    pub least_paranoid: u32,
    /// Whole rounds that these stay before they may leave.
    pub rounds_paranoid: u32,
    /// Most that leave in a round, in percent of those that could.
    pub percent: u8,
    /// Seconds after which a delivery leaves anyway.
    pub hold_s: u64,
}

impl Default for MixConfig {
    fn default() -> Self {
        MixConfig {
            round_s: 300,
            least: 20,
            least_paranoid: 60,
            rounds_paranoid: 3,
            percent: 50,
            hold_s: 86_400,
        }
    }
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
    pub(super) fn collect_connections_max() -> usize {
        32
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
    pub(super) fn procure_hold_s() -> u64 {
        60
    }
    pub(super) fn procure_keep_keys() -> u64 {
        256
    }
    pub(super) fn procure_sizes() -> Vec<super::SizeConfig> {
        // 1, 10 and 100 tok.
        [(100, 1_000_000), (500, 10_000_000), (2_000, 100_000_000)]
            .map(|(keys, value)| super::SizeConfig { keys, value })
            .to_vec()
    }
    pub(super) fn through_mib() -> u64 {
        64
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
    /// Over a link to another relay, under the pack of that name which this one holds there.
    Peer(String),
}

/// What a route says that goes by MX records.
const MX: &str = "mx";
/// What stands before the name of a peer in a route that goes by it.
const PEER: &str = "peer:";

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
            collect: None,
            status,
            smarthost: None,
            delivery: Delivery::default(),
            routes: BTreeMap::new(),
            through: BTreeMap::new(),
            through_mib: defaults::through_mib(),
            procure: None,
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
            mix: None,
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
        .chain([self.problem_of_mix()])
        .flatten()
        .chain(self.problems_of_routes())
        .collect()
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

    /// Certificate and key of the collecting port.
    pub(crate) fn collect_certificate(&self) -> Option<(&Path, &Path)> {
        let collect = self.collect.as_ref()?;
        match (&collect.certificate, &collect.key) {
            (None, None) => self.mx_certificate.as_deref().zip(self.mx_key.as_deref()),
            (certificate, key) => certificate.as_deref().zip(key.as_deref()),
        }
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
            match target.strip_prefix(PEER) {
                Some(name) if crate::peers::is_name(name) => {}
                None if target == MX || host_of(target).is_some() => {}
                _ => refuse(
                    "routes",
                    format!("{domain} needs \"host:port\", \"mx\" or \"peer:NAME\""),
                ),
            }
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
            Some(target) => Some(match target.strip_prefix(PEER) {
                Some(name) => Route::Peer(name.to_owned()),
                None => Route::Host(target.clone()),
            }),
            None if self.delivery == Delivery::Mx => Some(Route::Exchangers(domain)),
            None => None,
        }
    }

    /// Names of the peers by which any mail goes or packs are procured, each once.
    pub(crate) fn peer_names(&self) -> BTreeSet<String> {
        let targets = self.routes.values().chain(&self.smarthost);
        let routed = targets.filter_map(|target| target.strip_prefix(PEER));
        let selling = self.procure.iter().flat_map(|settings| &settings.peers);
        routed.map(str::to_owned).chain(selling.cloned()).collect()
    }

    /// Name of the peer by which mail goes that has no route of its own, if it does.
    pub(crate) fn peer_elsewhere(&self) -> Option<&str> {
        self.smarthost.as_deref()?.strip_prefix(PEER)
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
        config.mix = Some(MixConfig {
            hold_s: 1,
            ..MixConfig::default()
        });
        let keys: Vec<&str> = config.problems().iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "domain",
                "tick_ms",
                "unconfirmed_max",
                "memory_mib",
                "mx_certificate",
                "mix"
            ]
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
    fn mail_goes_by_another_relay_where_that_was_said() {
        let mut config = minimal();
        let peer = |name: &str| Some(Route::Peer(name.into()));
        config.routes.insert("far.example".into(), "peer:x".into());
        config.smarthost = Some("peer:y-2".into());
        assert_eq!(config.route("Far.example"), peer("x"));
        assert_eq!(config.route("else.example"), peer("y-2"));
        assert!(matches!(config.route("relay.test"), Some(Route::Own(_))));
        assert!(config.peer_names().into_iter().eq(["x", "y-2"]));
        assert!(config.problems().is_empty());
        config.routes.insert("far.example".into(), "peer:../x".into());
        assert_eq!(config.problems().len(), 1);
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_its_key() {
        for (text, key) in [
            ("smarthost = \"x:25\"\ndelivery = \"mx\"", "delivery"),
            ("[routes]\n\"Far.example\" = \"mx\"", "routes"),
            ("[routes]\n\"far.example\" = \"somewhere\"", "routes"),
            ("[procure]\npeers = []", "procure"),
            ("[procure]\npeers = [\"A\"]", "procure"),
            (
                "[procure]\npeers = [\"a\"]\nsizes = [{ keys = 15, value = 1 }]",
                "procure",
            ),
            ("[procure]\npeers = [\"a\"]\nhold_s = 86401", "procure"),
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
