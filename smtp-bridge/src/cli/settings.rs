//! `bridge.toml`: what a bridge needs to know that is not secret.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::process::Failure;

const FILE: &str = "bridge.toml";

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
        if self.user.is_empty()
            || !self
                .user
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err(Failure(
                "the user name is made of letters, digits, '-', '_' and '.'".to_owned(),
            ));
        }
        let path = dir.join(FILE);
        let text = toml::to_string(self).expect("settings are plain data");
        replace(&path, text.as_bytes()).map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))
    }
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
