//! The directory of the relay's federation: the list that its holders are given as it was signed, and the descriptor by which
//! its signers put this relay into it.
//!
//! The relay judges no signature: whoever is given the list does, with keys that it has from elsewhere.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keypacks::directory::{Descriptor, Exit, LIST_BYTES_MAX, Prices, Signed};
use keypacks::kdf;
use keypacks::procure::Card;
use mailbox::RelayStore;
use mailbox::request::{DIRECTORY_PART_MAX, DirectoryPart};
use smtp_bridge::net::{Host, stopped};
use tokio::sync::watch;

use crate::Relay;
use crate::config::{Delivery, RelayConfig, Route};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(2);

/// The list as it is served.
#[derive(Default)]
pub(crate) struct Served(RwLock<Arc<Text>>);

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    digest: [u8; 32],
}

impl Served {
    fn text(&self) -> Arc<Text> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, bytes: Vec<u8>) {
        let digest = kdf::hash(&[&bytes]);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Text { bytes, digest });
    }

    /// What stands from this byte on, as much as one answer has room for.
    pub(crate) fn part(&self, from: u32) -> DirectoryPart {
        let text = self.text();
        let rest = usize::try_from(from).ok().and_then(|from| text.bytes.get(from..));
        let rest = rest.unwrap_or_default();
        DirectoryPart {
            digest: text.digest,
            length: u32::try_from(text.bytes.len()).expect("bounded by LIST_BYTES_MAX"),
            part: rest[..rest.len().min(DIRECTORY_PART_MAX)].to_vec(),
        }
    }
}

/// Serves what the file says, as it changes, until `stop` turns true.
pub(crate) async fn run<S: RelayStore>(relay: Arc<Relay<S>>, mut stop: watch::Receiver<bool>) {
    let file = relay
        .config
        .directory
        .as_ref()
        .and_then(|settings| settings.file.clone());
    let Some(file) = file else { return };
    let mut seen = None;
    loop {
        let (host, path) = (relay.host.clone(), file.clone());
        let read = relay.host.compute(move || read(&host, &path)).await;
        let read = read.unwrap_or_else(|| Err(io::Error::other("reading it failed")));
        let digest = read.as_ref().ok().map(|bytes| kdf::hash(&[bytes]));
        if seen != Some(digest) {
            seen = Some(digest);
            match read.as_ref().map(|bytes| std::str::from_utf8(bytes).ok()) {
                Ok(Some(text)) if Signed::parse(text).is_ok() => {
                    tracing::info!("the directory was read");
                    relay.directory.put(text.as_bytes().to_vec());
                }
                Ok(_) => tracing::error!("the file of [directory] is no directory: what was served before still is"),
                Err(error) => tracing::error!(%error, "the file of [directory] cannot be read"),
            }
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn read(host: &Host, path: &Path) -> io::Result<Vec<u8>> {
    let file = host.disk.open(path, false)?;
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if length > LIST_BYTES_MAX {
        return Err(io::Error::other("it is longer than any directory"));
    }
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// What packs at this relay name of it.
pub(crate) fn card<S: RelayStore>(relay: &Relay<S>) -> Card {
    Card {
        domain: relay.config.domain.clone(),
        address: relay.config.public_link(),
        relay_public: relay.secret.public(),
    }
}

/// The relay as its configuration has it.
pub(crate) fn describe<S: RelayStore>(relay: &Relay<S>) -> Result<String, String> {
    let config = &relay.config;
    let settings = config.directory.clone().unwrap_or_default();
    let operator = settings
        .operator
        .ok_or("say who runs the relay: operator = \"...\" below [directory] in its configuration")?;
    let prices = relay.store.prices();
    let descriptor = Descriptor {
        card: card(relay),
        operator,
        prices: Prices {
            message: prices.message,
            kilobyte: prices.kilobyte,
            key: prices.key,
        },
        exit: exit(config),
        links: settings.links.unwrap_or(config.unconfirmed_max as u64),
        draining: settings.draining,
    };
    descriptor.to_text().map_err(|_| {
        "a directory cannot name this: link_public, or link, must be host:port, and operator 1 to 64 ASCII characters".to_owned()
    })
}

/// Where the relay delivers by itself. What it passes on to a peer, be it now and then, is that one's.
fn exit(config: &RelayConfig) -> Exit {
    let by_itself = |route: &Route| !matches!(route, Route::Peer(_));
    let has_smarthost = config.smarthost.is_some() && config.peers_elsewhere().next().is_none();
    if config.delivery == Delivery::Mx || has_smarthost {
        return Exit::Any;
    }
    let routed = config.routes.keys().filter(|domain| **domain != config.domain);
    let domains: Vec<String> = routed
        .filter(|domain| config.ways(domain).iter().all(by_itself))
        .cloned()
        .collect();
    match domains[..] {
        [] => Exit::Own,
        _ => Exit::Only(domains),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_directory_is_served_in_parts() {
        let served = Served::default();
        assert_eq!(served.part(0).length, 0);
        let text: Vec<u8> = (0..40_000u32).map(|at| at as u8).collect();
        served.put(text.clone());
        let mut whole = Vec::new();
        loop {
            let part = served.part(whole.len() as u32);
            assert_eq!((part.length, part.digest), (40_000, kdf::hash(&[&text])));
            if part.part.is_empty() {
                break;
            }
            whole.extend(part.part);
        }
        assert!(whole == text);
        assert!(served.part(u32::MAX).part.is_empty());
    }

    #[test]
    fn an_exit_is_where_mail_leaves_without_a_peer() {
        let at = ([127, 0, 0, 1], 1).into();
        let mut config = RelayConfig::new("a.test", "/a".into(), at, at, at);
        assert_eq!(exit(&config), Exit::Own);
        config.routes.insert("a.test".into(), "127.0.0.1:25".into());
        config.routes.insert("b.test".into(), "peer:b".into());
        assert_eq!(exit(&config), Exit::Own);
        config.routes.insert("c.test".into(), "mx".into());
        assert_eq!(exit(&config), Exit::Only(vec!["c.test".to_owned()]));
        config.smarthost = Some("peer:b".into());
        assert_eq!(exit(&config), Exit::Only(vec!["c.test".to_owned()]));
        config.smarthost = Some(["peer:b", "mx"].into());
        assert_eq!(exit(&config), Exit::Only(vec!["c.test".to_owned()]));
        config.smarthost = Some("127.0.0.1:25".into());
        assert_eq!(exit(&config), Exit::Any);
    }
}
