//! The handshake of an account with a pad (protocol section 11): what is leased is durable before it is offered.

use std::sync::Arc;
use std::time::Duration;

use keypacks::pad;
use keypacks::rotation::Policy;
use keypacks::{CELL, kdf};
use mailbox::RelayStore;
use mailbox::pad::PadFile;
use mailbox::relay_store::{BurnOrder, PadHit};
use smtp_bridge::link::read_cell;
use smtp_bridge::net::{BoxStream, Host};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroize;

use super::handshake::{Confirmed, Leased, linked};
use crate::Relay;

/// Between what is finished with and its erasure.
const SETTLE: Duration = Duration::from_millis(250);
/// Pause after an erasure that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Runs the handshake; `None` for everything that gets silence.
pub(super) async fn confirm<S: RelayStore>(
    relay: &Relay<S>,
    stream: &mut BoxStream,
    mut cell: Box<[u8; CELL]>,
    hit: PadHit,
) -> Option<Confirmed> {
    let PadHit {
        account,
        record,
        floor,
        pad,
    } = hit;
    if !relay.flights.admit(kdf::hash(&[&cell[..]])) {
        return None;
    }
    let (nonce, seed) = (pad::hello_nonce(&cell), relay.host.random());
    let file = Arc::clone(&pad);
    let answered = relay.host.compute(move || file.hello(record, nonce, floor, seed)).await;
    relay.store.renew_pad(account);
    settle(&relay.host, &pad).await;
    let (cell2, ticket) = answered?.ok()??;
    stream.write_all(&cell2[..]).await.ok()?;
    stream.flush().await.ok()?;

    read_cell(stream, &mut cell).await.ok()?;
    let mut opener = pad.opener(&ticket);
    let confirm = pad::open_confirm(&mut opener, &mut cell).ok()?;
    cell.zeroize();
    let file = Arc::clone(&pad);
    let granted = relay.host.compute(move || file.grant(&ticket)).await;
    relay.store.renew_pad(account);
    if !granted?.ok()? {
        return None;
    }
    let order = BurnOrder {
        account,
        index: floor,
        token: confirm.token,
        fresh: relay.host.random(),
        answered: confirm.answered,
        day: relay.host.day(),
    };
    let burned = relay.store.burn(order).await.ok()??;
    Some(Confirmed {
        account,
        linked: linked(relay, &burned),
        sealing: pad.down_sealer(relay.host.random()).into(),
        opening: opener.into(),
        keys_left: burned.keys_left,
        rotation: Policy::default(),
        rekey: None,
        leased: Some(Leased { pad, end: ticket.end() }),
    })
}

/// Overwrites what is finished with, until the link is over; its lease is finished with then.
pub(super) async fn keep_erasing(host: Host, pad: Arc<PadFile>) {
    loop {
        pad.due().await;
        tokio::time::sleep(SETTLE).await;
        while !settle(&host, &pad).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// `false`: it failed, and is to be tried again.
pub(super) async fn settle(host: &Host, pad: &Arc<PadFile>) -> bool {
    let pad = Arc::clone(pad);
    match host.compute(move || pad.settle()).await {
        Some(Ok(())) => true,
        _ => {
            tracing::error!("used bytes of a pad could not be overwritten; trying again");
            false
        }
    }
}
