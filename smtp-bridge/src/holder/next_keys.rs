//! The holder's side of links that go on under new keys: positions of the link chain, as the store makes them durable.

use std::time::Duration;

use keypacks::link::Rekey;
use mailbox::{HolderStore, StoreError};
use tokio::io::{ReadHalf, WriteHalf};

use crate::link::rotation::{Answered, Asking, Awaiting, NextKey, NextStep, Tally};
use crate::link::{LinkError, LinkReader, LinkWriter};
use crate::net::{BoxStream, Host, Promise};

/// Has both halves of a link follow the pack's policy.
pub(super) async fn prepare<S: HolderStore>(
    host: &Host,
    store: &S,
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    rekey: Rekey,
) -> Result<(LinkReader<ReadHalf<BoxStream>>, LinkWriter<WriteHalf<BoxStream>>), StoreError> {
    let policy = store.facts().rotation;
    if !policy.rotates() {
        return Ok((reader, writer));
    }
    let now = host.clock.unix_seconds();
    let to_grid = match policy.interval {
        Some(interval) => {
            let since = now.saturating_sub(store.first_use(now).await?);
            let interval = u64::from(interval);
            Some(Duration::from_secs(interval - since % interval))
        }
        None => None,
    };
    let tally = Tally::new(&policy);
    let keys = Keys {
        host: host.clone(),
        store: store.clone(),
    };
    let positions = Positions { store: store.clone() };
    let reader = reader.turning(Box::new(Awaiting::new(tally.clone(), positions)));
    let writer = writer.asking(Asking::new(&policy, rekey, Box::new(keys), tally, to_grid));
    Ok((reader, writer))
}

struct Keys<S> {
    host: Host,
    store: S,
}

impl<S: HolderStore> NextKey for Keys<S> {
    fn next(&mut self) -> Promise<'_, Result<NextStep, LinkError>> {
        Box::pin(async {
            let index = self.store.link_position().base;
            let step = self.store.link_step(index).ok_or(LinkError::NoKey)?;
            let proof = self.store.reserve_link(index).await.map_err(|_| LinkError::NoKey)?;
            Ok((step, proof, self.host.random()))
        })
    }
}

struct Positions<S> {
    store: S,
}

impl<S: HolderStore> Answered for Positions<S> {
    fn answered(&mut self, index: u64) -> Promise<'static, Result<(), LinkError>> {
        let store = self.store.clone();
        Box::pin(async move {
            // The link token is the connection's: a rotation brings no other.
            let token = store.link_token();
            store.link_answered(index, token).await.map_err(|_| LinkError::NoKey)
        })
    }
}
