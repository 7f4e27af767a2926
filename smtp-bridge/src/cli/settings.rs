//! `bridge.toml`: what a bridge needs to know that is not secret.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keypacks::directory::Pin;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::process::Failure;
use crate::bridge::{Hygiene, NoticeSettings};
use crate::holder::cover::Cover;
use crate::holder::loops::LoopWish;
use crate::message::{Html, Mix, Traces};

/// Name of the file.
pub(super) const FILE: &str = "bridge.toml";

/// The word for [`Nested::Auto`].
const AUTO: &str = "auto";

/// Where mail programs send unless somebody says otherwise.
pub(super) const SMTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1025);
/// Where mail programs read unless somebody says otherwise.
pub(super) const IMAP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1143);
/// Where the local page is unless somebody says otherwise.
pub const PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1180);

/// Settings beside the store, made by `postern init` and free to be edited.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// User name for mail programs.
    pub user: String,
    /// Where mail programs send.
    pub smtp: SocketAddr,
    /// Where mail programs read.
    pub imap: SocketAddr,
    /// What becomes of HTML in what is sent.
    #[serde(default)]
    pub html: Html,
    /// How messages wait at the relay that say nothing of it by `X-Postern-Mix`: "fast", "mixed" or "paranoid". Without it
    /// at once, or mixed behind an entry relay if there is a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Cover on the line to the relay, such as "cells=2,every_ms=1000": as much each way whether there is mail or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover: Option<Cover>,
    /// Messages to oneself at random times, such as "mean_s=3600,within_s=86400", by which a relay that loses mail is noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loops: Option<LoopWish>,
    /// Real addresses and names of the user: a message with one of them in it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub real_addresses: Vec<String>,
    /// Where the local page is. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<SocketAddr>,
    /// SOCKS5 proxy that the relay is reached through, Tor's for instance. Without it the relay is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socks: Option<SocketAddr>,
    /// Directory keys of a federation, and how many of them must have signed, as 'posternd directory keys' prints them. Without
    /// them the relay is asked for no directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_keys: Option<String>,
    /// Whether mail goes nested, over two relays of two operators: "auto" buys the pack at the second one. Without it, in folders
    /// made by earlier versions, and with false it goes the direct way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
    /// The second relay, by its domain. Without it the one where a pack is cheapest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_relay: Option<String>,
    /// Most that the pack at the second relay may cost, in hundredths of the balance. Without it 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_percent_max: Option<u8>,
    /// In the folder of a pack that the bridge bought by itself: the UTC day since which that pack serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_since: Option<u32>,
    /// When the bridge tells its user something by a message in INBOX.
    #[serde(default, skip_serializing_if = "NoticeSettings::is_default")]
    pub notices: NoticeSettings,
}

/// Whether mail goes nested by itself: "auto" or false in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nested {
    /// The bridge buys a pack at a relay of another operator, and sends by that one through its own.
    Auto,
    /// Declined, for good.
    Never,
}

impl Serialize for Nested {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Nested::Auto => serializer.serialize_str(AUTO),
            Nested::Never => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Nested {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Flag(bool),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Word(word)) if word == AUTO => Ok(Nested::Auto),
            Ok(Written::Flag(false)) => Ok(Nested::Never),
            _ => Err(serde::de::Error::custom("nested is \"auto\" or false")),
        }
    }
}

impl Settings {
    /// What leaves, and what must not.
    pub(super) fn hygiene(&self) -> Hygiene {
        Hygiene {
            html: self.html,
            traces: Traces::new(&self.real_addresses),
            mix: self.mix,
        }
    }

    /// Who signs the directory of relays.
    pub(super) fn directory(&self) -> Result<Option<Pin>, Failure> {
        let pin = self.directory_keys.as_deref().map(Pin::parse).transpose();
        pin.map_err(|_| Failure("directory_keys in bridge.toml has a slip in it".to_owned()))
    }

    /// The same for the pack that the bridge bought behind this one, since this UTC day.
    pub(super) fn of_far(&self, day: u32) -> Self {
        Settings {
            nested: None,
            nested_percent_max: None,
            nested_relay: None,
            nested_since: Some(day),
            ..self.clone()
        }
    }

    /// Reads the settings in `dir`.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure(format!(
                "cannot read {}: {error}; make the folder with 'postern init'",
                path.display()
            ))
        })?;
        toml::from_str(&text).map_err(|error| Failure(format!("{} is not valid: {error}", path.display())))
    }

    /// Writes the settings into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        check_user(&self.user)?;
        let path = dir.join(FILE);
        let text = toml::to_string(self).expect("settings are plain data");
        replace(&path, text.as_bytes()).map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))
    }
}

/// Refuses a user name that would not do as the local part of an address.
pub(super) fn check_user(user: &str) -> Result<(), Failure> {
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if user.is_empty() || !user.bytes().all(taken) {
        return Err(Failure(
            "the user name is made of letters, digits, '-', '_' and '.'".to_owned(),
        ));
    }
    Ok(())
}

/// Writes a file beside its place and moves it there durably: after a power cut there is the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    // It can hold who the user is.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_of_the_way_is_read_back_and_a_slip_in_it_refused() {
        let least = "user = \"me\"\nsmtp = \"127.0.0.1:1\"\nimap = \"127.0.0.1:2\"\n";
        let read = |line: &str| toml::from_str::<Settings>(&format!("{least}{line}"));
        for (line, nested) in [
            ("", None),
            ("nested = \"auto\"", Some(Nested::Auto)),
            ("nested = false", Some(Nested::Never)),
        ] {
            let settings = read(line).expect("well-formed");
            assert_eq!(settings.nested, nested, "{line}");
            let text = toml::to_string(&settings).expect("plain data");
            assert!(text.contains(line), "{text}");
            let of_far = settings.of_far(20_000);
            assert_eq!((of_far.nested, of_far.nested_since), (None, Some(20_000)));
        }
        for line in ["nested = true", "nested = \"yes\"", "nested = 1"] {
            assert!(
                read(line).is_err_and(|error| error.to_string().contains("nested is \"auto\" or false")),
                "{line}"
            );
        }
    }
}
