//! The handshake of an account with a pad (protocol section 11): what is leased is durable before it is offered.

use std::sync::Arc;

use keypacks::pad;
use keypacks::rotation::Policy;
use keypacks::{CELL, kdf};
use mailbox::RelayStore;
use mailbox::relay_store::{BurnOrder, PadHit};
use smtp_bridge::link::{erasing, read_cell};
use smtp_bridge::net::BoxStream;
use tokio::io::AsyncWriteExt;
use zeroize::Zeroize;

use super::handshake::{Confirmed, Leased, linked};
use crate::Relay;

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
    erasing::settle(&relay.host, &pad).await;
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
        root: 0,
        index: floor,
        token: confirm.token,
        fresh: relay.host.random(),
        answered: confirm.answered,
        day: relay.host.day(),
    };
    let burned = relay.store.burn(order).await.ok()??;
    Some(Confirmed {
        account,
        root: 0,
        linked: linked(relay, &burned),
        sealing: pad.down_sealer(relay.host.random()).into(),
        opening: opener.into(),
        keys_left: burned.keys_left,
        rotation: Policy::default(),
        rekey: None,
        leased: Some(Leased { pad, end: ticket.end() }),
    })
}
