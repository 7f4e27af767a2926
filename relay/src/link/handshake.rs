//! Protocol section 3 from the relay's side: what does not open gets silence.

use std::sync::Arc;

use keypacks::link::{self, Linked};
use keypacks::pad::Place;
use keypacks::rotation::Policy;
use keypacks::{CELL, kdf};
use mailbox::pad::PadFile;
use mailbox::relay_store::{Account, BurnOrder, Burned};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::link::{Opening, Sealing, read_cell};
use smtp_bridge::net::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize;

use crate::Relay;

/// A link whose key is burned, durably.
pub(super) struct Confirmed {
    pub(super) account: Account,
    /// Number of the root that its keys are of.
    pub(super) root: u64,
    pub(super) linked: Linked,
    /// Link keys left behind this one.
    pub(super) keys_left: u64,
    pub(super) rotation: Policy,
    /// Of a link under keys.
    pub(super) rekey: Option<link::Rekey>,
    pub(super) sealing: Sealing,
    pub(super) opening: Opening,
    /// Of an account with a pad: what the holder may seal under.
    pub(super) leased: Option<Leased>,
}

/// The up region's part of a link.
pub(super) struct Leased {
    pub(super) pad: Arc<PadFile>,
    /// Where the lease ends.
    pub(super) end: Place,
}

/// The same cell 1 gets at most this many answers.
const ANSWERS_MAX: u8 = 2;

/// Runs the handshake; `None` for everything that gets silence.
pub(super) async fn confirm<S: RelayStore>(relay: &Relay<S>, stream: &mut BoxStream) -> Option<Confirmed> {
    let mut cell = Box::new([0; CELL]);
    read_cell(stream, &mut cell).await.ok()?;
    let tag = link::peek_tag(&cell);
    if let Some(hit) = found(relay.store.find_pad(&tag)) {
        return super::pad::confirm(relay, stream, cell, hit).await;
    }
    let hit = found(relay.store.find_tag(&tag))?;
    let flight = kdf::hash(&[&cell[..]]);
    let (account, root) = (hit.account, hit.root);
    let (accepting, cell2) = link::accept(
        hit.step,
        &relay.secret,
        hit.floor,
        &mut cell,
        relay.host.random(),
        relay.host.random(),
    )
    .ok()?;
    // Only what opens is counted: else whoever saw a tag could fill the table, and be answered again.
    if !relay.flights.admit(flight) {
        return None;
    }
    stream.write_all(&cell2[..]).await.ok()?;
    stream.flush().await.ok()?;

    read_cell(stream, &mut cell).await.ok()?;
    let confirmed = accepting.confirm(&mut cell).ok()?;
    cell.zeroize();
    let order = BurnOrder {
        account,
        root,
        index: confirmed.index(),
        token: confirmed.confirm.token,
        fresh: relay.host.random(),
        answered: confirmed.confirm.answered,
        day: relay.host.day(),
    };
    // An unknown outcome is silence too: the holder tries again, and finds the index burned or not.
    let burned = relay.store.burn(order).await.ok()??;
    let linked = linked(relay, &burned);
    let link = confirmed.burned(&burned).ok()?;
    Some(Confirmed {
        account,
        root,
        linked,
        sealing: link.sealer.into(),
        opening: link.opener.into(),
        keys_left: burned.keys_left,
        rotation: burned.rotation,
        rekey: Some(link.rekey),
        leased: None,
    })
}

/// Whose a tag is. Where that cannot be read the holder meets silence, and tries again.
pub(crate) fn found<T>(sought: Result<Option<T>, StoreError>) -> Option<T> {
    sought.unwrap_or_else(|error| {
        tracing::error!(%error, "a key slot cannot be read: its holder gets no answer");
        None
    })
}

/// What the first down cell says of a burn.
pub(super) fn linked<S>(relay: &Relay<S>, burned: &Burned) -> Linked {
    let mut linked = Linked {
        token: burned.token,
        highest: burned.highest,
        floor: burned.floor,
        flags: 0,
        generation: burned.generation,
    };
    if burned.token_mismatch {
        linked.flags |= Linked::TOKEN_MISMATCH;
        relay.metrics.token_mismatches.count();
        tracing::warn!("a pack showed a link token of somebody else: it is in use twice, or one end was restored");
    }
    if burned.is_frozen {
        linked.flags |= Linked::FROZEN;
    }
    if burned.froze {
        tracing::error!(
            "a pack with a recovery code was used by a copy of it: it is frozen until its holder gives the code"
        );
    }
    if burned.is_replaced {
        linked.flags |= Linked::REPLACED;
    }
    if burned.rolled_back {
        linked.flags |= Linked::ROLLED_BACK;
        relay.metrics.rollbacks.count();
    }
    linked
}

/// Reads on and drops; a half-closed stream is waited out as well.
pub(super) async fn discard(stream: &mut BoxStream) {
    let mut sink = [0; 4_096];
    loop {
        match stream.read(&mut sink).await {
            Ok(0) | Err(_) => std::future::pending::<()>().await,
            Ok(_) => {}
        }
    }
}

/// How often each of the latest first cells was answered, by their digests.
#[derive(Default)]
pub(crate) struct Flights {
    seen: std::sync::Mutex<std::collections::HashMap<[u8; 32], u8>>,
}

impl Flights {
    /// Digests kept; a replay that comes after so many others finds its index burned, or is answered anew.
    const KEPT_MAX: usize = 65_536;

    pub(super) fn admit(&self, cell1_digest: [u8; 32]) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() >= Self::KEPT_MAX {
            seen.clear();
        }
        let answers = seen.entry(cell1_digest).or_default();
        *answers += 1;
        *answers <= ANSWERS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_first_cell_is_answered_twice_and_no_more() {
        let flights = Flights::default();
        let (one, other) = ([1; 32], [2; 32]);
        assert!(flights.admit(one) && flights.admit(one) && !flights.admit(one));
        assert!(flights.admit(other));
    }
}
