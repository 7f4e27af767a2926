//! `posternd.toml`: what an operator sets, with its defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod defaults;
mod problems;
mod sections;
mod ways;

pub use sections::{
    CollectConfig, CoverConfig, Delivery, DirectoryConfig, MixConfig, PeerConfig, PriceConfig, ProcureConfig,
    SizeConfig, TlsPolicy,
};
pub use ways::Ways;

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
    /// `host:port` that takes all mail for other domains, or `peer:NAME`, or several ways as in `routes`. Without it such
    /// mail is refused, unless `delivery` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smarthost: Option<Ways>,
    /// Who takes mail for other domains.
    #[serde(default)]
    pub delivery: Delivery,
    /// Domains delivered to a fixed `host:port`, by their MX records if that is `mx`, or under the pack held at another relay
    /// if that is `peer:NAME`; of a list, by the first way that works. The relay's own domain goes to its own MX by itself.
    #[serde(default)]
    pub routes: BTreeMap<String, Ways>,
    /// Seconds that a peer may be without a link before mail goes by the next way of its route.
    #[serde(default = "defaults::next_way_s")]
    pub next_way_s: u64,
    /// How often the books of each peer are held against the own ones, in seconds; 0: never.
    #[serde(default = "defaults::compare_s")]
    pub compare_s: u64,
    /// Relays to which links are carried for holders of this one, by their domains: `host:port` of their links.
    #[serde(default)]
    pub through: BTreeMap<String, String>,
    /// Bytes that one link carries further on, in MiB each way; then it is closed, and the next costs a key.
    #[serde(default = "defaults::through_mib")]
    pub through_mib: u64,
    /// Packs at other relays that holders of this one may have procured. Without it, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procure: Option<ProcureConfig>,
    /// The directory of the federation that the relay is part of, and what it says of itself there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryConfig>,
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
    /// Cover on the links of holders who pay for it. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover: Option<CoverConfig>,
    /// What things cost.
    #[serde(default)]
    pub prices: PriceConfig,
    /// For tests of erasure alone: keeps every used key. Never set this on a relay that people use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_used_keys: bool,
}

/// One way that mail for a domain goes.
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
            next_way_s: defaults::next_way_s(),
            compare_s: defaults::compare_s(),
            through: BTreeMap::new(),
            through_mib: defaults::through_mib(),
            procure: None,
            directory: None,
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
            cover: None,
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

    /// Certificate and key of the collecting port.
    pub(crate) fn collect_certificate(&self) -> Option<(&Path, &Path)> {
        let collect = self.collect.as_ref()?;
        match (&collect.certificate, &collect.key) {
            (None, None) => self.mx_certificate.as_deref().zip(self.mx_key.as_deref()),
            (certificate, key) => certificate.as_deref().zip(key.as_deref()),
        }
    }

    /// Time from accept to a confirmed link.
    pub fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    /// How often a link is told that mail waits.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// What issued packs name as the relay's address.
    pub fn public_link(&self) -> String {
        self.link_public.clone().unwrap_or_else(|| self.link.to_string())
    }
}

#[cfg(test)]
mod tests;
