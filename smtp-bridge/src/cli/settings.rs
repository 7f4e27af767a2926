//! `bridge.toml`: what a bridge needs to know that is not secret.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::process::Failure;
use crate::bridge::NoticeSettings;

const FILE: &str = "bridge.toml";

/// Where mail programs send unless somebody says otherwise.
pub(super) const SMTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1025);
/// Where mail programs read unless somebody says otherwise.
pub(super) const IMAP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1143);
/// Where the local page is unless somebody says otherwise.
pub const PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1180);

/// Settings beside the store, made by `postern init` and free to be edited.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// User name for mail programs.
    pub user: String,
    /// Where mail programs send.
    pub smtp: SocketAddr,
    /// Where mail programs read.
    pub imap: SocketAddr,
    /// Where the local page is. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<SocketAddr>,
    /// SOCKS5 proxy that the relay is reached through, Tor's for instance. Without it the relay is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socks: Option<SocketAddr>,
    /// When the bridge tells its user something by a message in INBOX.
    #[serde(default, skip_serializing_if = "NoticeSettings::is_default")]
    pub notices: NoticeSettings,
}

impl Settings {
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
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
