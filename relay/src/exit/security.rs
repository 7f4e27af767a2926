//! How each host is spoken with: in the clear, under TLS if it can, or under TLS with a proof of its name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smtp_bridge::net::Host;
use smtp_bridge::net::tls::{Connector, TlsError, Trust};
use zeroize::Zeroizing;

use crate::config::{PeerConfig, RelayConfig, TlsPolicy};

/// Longest password file, in bytes.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// Why the settings of the exit cannot be used: a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The password cannot be read.
    #[error("cannot read a password from {file}: {reason}")]
    Password {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// How one host is spoken with.
pub(super) struct Security {
    pub(super) tls: Tls,
    pub(super) login: Option<Login>,
    /// The operator was told that this host cannot be spoken with so.
    told: AtomicBool,
}

/// Whether a line is secured.
pub(super) enum Tls {
    Never,
    Offered(Connector),
    Required(Connector),
}

/// Who we are at a host.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Zeroizing<Vec<u8>>,
}

/// How all hosts are spoken with.
pub(crate) struct Securities {
    usual: Arc<Security>,
    own: Arc<Security>,
    peers: BTreeMap<String, Arc<Security>>,
}

impl Securities {
    /// Reads certificates and passwords.
    pub(crate) fn read(config: &RelayConfig, host: &Host) -> Result<Self, SecurityError> {
        let mut peers = BTreeMap::new();
        for (name, peer) in &config.peers {
            peers.insert(name.to_ascii_lowercase(), Arc::new(Security::read(peer, host)?));
        }
        Ok(Securities {
            usual: Arc::new(Security::read(&PeerConfig::default(), host)?),
            own: Arc::new(Security::new(Tls::Never, None)),
            peers,
        })
    }

    /// What goes for a host, by the name that its route or its domain has.
    pub(super) fn of(&self, name: &str) -> Arc<Security> {
        let peer = self.peers.get(&name.to_ascii_lowercase());
        Arc::clone(peer.unwrap_or(&self.usual))
    }

    /// What goes for the relay's own MX: nothing between the two leaves this machine.
    pub(super) fn own(&self) -> Arc<Security> {
        Arc::clone(&self.own)
    }
}

impl Security {
    pub(super) fn new(tls: Tls, login: Option<Login>) -> Self {
        Security {
            tls,
            login,
            told: AtomicBool::new(false),
        }
    }

    fn read(peer: &PeerConfig, host: &Host) -> Result<Self, SecurityError> {
        let connector = |trust| Connector::new(&trust, host.clock.clone());
        let tls = match (peer.tls, &peer.ca_file) {
            (TlsPolicy::None, _) => Tls::Never,
            (TlsPolicy::May, _) => Tls::Offered(connector(Trust::Anybody)?),
            (TlsPolicy::Require, None) => Tls::Required(connector(Trust::Authorities)?),
            (TlsPolicy::Require, Some(file)) => Tls::Required(connector(Trust::File(file.clone()))?),
        };
        let login = match (&peer.user, &peer.password_file) {
            (Some(user), Some(file)) => Some(Login {
                user: user.clone(),
                password: password(file)?,
            }),
            _ => None,
        };
        Ok(Security::new(tls, login))
    }

    /// The host was spoken with as it should be, or could not; the operator is told of the first failure of a row.
    pub(super) fn note(&self, failure: Option<&'static str>) {
        let Some(failure) = failure else {
            self.told.store(false, Ordering::Relaxed);
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(failure, "a host cannot be spoken with as [peers] asks; its mail waits");
        }
    }
}

/// The first line of a file.
fn password(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecurityError> {
    let failed = |reason: String| SecurityError::Password {
        file: path.display().to_string(),
        reason,
    };
    let text = Zeroizing::new(std::fs::read(path).map_err(|error| failed(error.to_string()))?);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.len() > PASSWORD_BYTES_MAX || line.contains(&0) {
        return Err(failed(
            "its first line must be the password, of at most 1,024 bytes".into(),
        ));
    }
    Ok(Zeroizing::new(line.to_vec()))
}
