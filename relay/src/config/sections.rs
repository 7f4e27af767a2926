//! The tables of the file, each with its defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults;

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

/// The directory that holders are given, and this relay's part in it.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectoryConfig {
    /// The list as its signers hand it out. It is read again when it changes. Without it none is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Who runs the relay, as its descriptor says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Most links at one time, as its descriptor says; `unconfirmed_max` where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<u64>,
    /// The relay is being left: its descriptor says so, and who goes by the directory orders no packs there.
    pub draining: bool,
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// Of such a pack: nothing is paid there while the prices are more than so many times those that were accepted; 0: any
    /// price is.
    pub price_times_max: u64,
}

impl Default for PeerConfig {
    fn default() -> Self {
        PeerConfig {
            tls: TlsPolicy::default(),
            ca_file: None,
            user: None,
            password_file: None,
            renew_below: None,
            renew_keys_below: None,
            price_times_max: 4,
        }
    }
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

/// Cover: as many cells each way at every tick, whether there is mail or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoverConfig {
    /// For each cell of both directions, in µtok.
    pub price: u64,
    /// Most cells of a second in one direction of one link.
    pub per_second_max: u32,
    /// Most links that are covered at one time.
    pub links_max: usize,
    /// Seconds that are paid for together, ahead.
    pub period_s: u32,
}

impl Default for CoverConfig {
    fn default() -> Self {
        CoverConfig {
            price: 1,
            per_second_max: 8,
            links_max: 256,
            period_s: 600,
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
