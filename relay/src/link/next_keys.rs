//! The relay's side of a link that goes on under new keys: ROTATE is judged, its index burned and debited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use keypacks::cell::{Kind, Opener};
use keypacks::link::{Rekey, Rotate};
use keypacks::rotation::Policy;
use mailbox::RelayStore;
use mailbox::relay_store::Account;
use smtp_bridge::link::LinkError;
use smtp_bridge::link::rotation::{KeyInUse, Turn, Turned, turned};
use smtp_bridge::net::Promise;
use tokio::sync::mpsc;

use super::found;
use crate::Relay;

/// For the reader of one link.
pub(super) struct NextKeys<S> {
    relay: Arc<Relay<S>>,
    account: Account,
    /// Number of the root that the link's keys are of.
    root: u64,
    key: KeyInUse,
    rekey: Arc<Mutex<Rekey>>,
    keys_left: Arc<AtomicU64>,
    turns: mpsc::UnboundedSender<Turned>,
}

impl<S: RelayStore> NextKeys<S> {
    /// `turns` leads to the link's writer.
    pub(super) fn new(
        relay: &Arc<Relay<S>>,
        (account, root): (Account, u64),
        (policy, rekey): (&Policy, Rekey),
        keys_left: Arc<AtomicU64>,
        turns: mpsc::UnboundedSender<Turned>,
    ) -> Self {
        NextKeys {
            relay: Arc::clone(relay),
            account,
            root,
            key: KeyInUse::new(policy),
            rekey: Arc::new(Mutex::new(rekey)),
            keys_left,
            turns,
        }
    }
}

impl<S: RelayStore> Turn for NextKeys<S> {
    fn kind(&self) -> Kind {
        Kind::Rotate
    }

    fn opened(&mut self, kind: Kind, _last: bool) -> Result<(), LinkError> {
        self.key.opened(kind)
    }

    fn turn(&mut self, data: &[u8]) -> Promise<'static, Result<Opener, LinkError>> {
        self.key.renew();
        let rotate = Rotate::decode(data);
        let (relay, account, root) = (Arc::clone(&self.relay), self.account, self.root);
        let (rekey, keys_left, turns) = (self.rekey.clone(), self.keys_left.clone(), self.turns.clone());
        Box::pin(async move {
            let rotate = rotate?;
            // The link does not go on under keys of another root than its own.
            if relay.store.standing(account).root != root {
                return Err(LinkError::Broken);
            }
            // An index that is not live, and a commit of unknown outcome, end the link: the holder makes another.
            let step = found(relay.store.link_step(account, rotate.index)).ok_or(LinkError::Broken)?;
            let burned = relay.store.rotate(account, rotate.index, relay.host.day()).await;
            let burned = burned.ok().flatten().ok_or(LinkError::Broken)?;
            let (turned, opener) = turned(&rekey, &rotate, &step, &burned)?;
            keys_left.store(burned.keys_left, Ordering::Relaxed);
            relay.metrics.rotations.count();
            // The writer is there as long as the reader is.
            let _ = turns.send(turned);
            Ok(opener)
        })
    }
}
