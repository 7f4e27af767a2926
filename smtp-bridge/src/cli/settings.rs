//! `bridge.toml`: what a bridge needs to know that is not secret.

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
        std::fs::write(&path, text).map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))
    }
}
