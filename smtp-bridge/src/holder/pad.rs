//! Making a link under a pad: protocol section 11 from the holder's side.

use std::sync::Arc;

use keypacks::CELL;
use keypacks::link::Confirm;
use keypacks::pad::{self, Offer, PadError, Place};
use mailbox::pad::PadFile;
use mailbox::request::{Answer, Refusal, Request};
use mailbox::{HolderStore, StoreError};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroize;

use super::HolderConfig;
use super::dial::{DialError, Established, dial, linked, number_above};
use crate::link::{LinkError, LinkReader, LinkWriter, PadCost, read_cell};
use crate::net::Host;

/// Attempts before a pause.
const ATTEMPTS: usize = 4;
/// Of a lease, what the request for more of it takes at most.
const KEPT: PadCost = PadCost { records: 1, bytes: 32 };
/// What is leased beyond what is needed now.
const AHEAD: PadCost = PadCost {
    records: 8,
    bytes: 2_048,
};
/// Fewest up records that a link can be made with: cells 1 and 3, and a request.
const RECORDS_MIN: u64 = 4;

/// Tries records of the pad in turn, each with a fresh hello, until one is answered.
pub(super) async fn link<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    file: Arc<PadFile>,
) -> Result<Established, DialError> {
    if is_used_up(&file) {
        return Err(DialError::PadUsedUp);
    }
    for _ in 0..ATTEMPTS {
        match attempt(host, store, config, &file).await {
            Err(DialError::Silent) => {}
            Ok(established) => return Ok(established),
            Err(error) => {
                file.abandon();
                return Err(error);
            }
        }
    }
    Err(DialError::Silent)
}

async fn attempt<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    file: &Arc<PadFile>,
) -> Result<Established, DialError> {
    let facts = store.facts();
    let target = config.relay_via.as_deref().unwrap_or(&facts.relay_address);
    let dialled = tokio::time::timeout(config.flight_timeout, dial(host, store, config, target)).await;
    let mut stream = dialled
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(DialError::Unreachable)?;

    let nonce = host.random();
    let cell1 = file.cell1(file.next_attempt(), &nonce, host.random()).map_err(failed)?;
    let mut cell2 = Box::new([0; CELL]);
    tokio::time::timeout(config.flight_timeout, async {
        stream.write_all(&cell1[..]).await?;
        stream.flush().await?;
        read_cell(&mut stream, &mut cell2).await
    })
    .await
    .unwrap_or(Err(LinkError::Timeout))
    .map_err(|_| DialError::Silent)?;
    let mut opener = file.down_opener();
    let offer = pad::open_offer(&mut opener, &**file, &nonce, &mut cell2).map_err(|_| DialError::Silent)?;
    cell2.zeroize();
    take(host, file, offer).await?;

    let confirm = Confirm {
        token: store.link_token(),
        answered: store.acknowledged(),
    };
    let mut sealer = file.up_sealer(host.random());
    let cell3 = pad::seal_confirm(&mut sealer, &confirm).map_err(failed)?;
    let establishing = async {
        stream.write_all(&cell3[..]).await?;
        stream.flush().await?;
        let (read, write) = tokio::io::split(stream);
        linked(
            LinkReader::new(read, opener),
            LinkWriter::new(write, sealer),
            Some(Arc::clone(file)),
        )
        .await
    };
    let established = tokio::time::timeout(config.flight_timeout, establishing).await;
    let (established, linked) = established
        .unwrap_or(Err(LinkError::Timeout))
        .map_err(|_| DialError::Unanswered)?;
    let leasing = Arc::clone(file);
    host.compute(move || leasing.leased())
        .await
        .unwrap_or(Err(PadError::Unreadable))
        .map_err(failed)?;
    store.pad_linked(offer.floor, linked.token).await?;
    // Which cells another copy used, a pad does not know; the numbers tell.
    number_above(host, store, config, &linked, false).await?;
    Ok(established)
}

/// Takes an offer, unless it is of what was used before.
async fn take(host: &Host, file: &Arc<PadFile>, offer: Offer) -> Result<(), DialError> {
    let file = Arc::clone(file);
    match host.compute(move || file.offered(&offer)).await {
        Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err(DialError::RolledBack),
        Some(Err(error)) => Err(failed(error)),
        None => Err(failed(PadError::Unreadable)),
    }
}

fn failed(error: PadError) -> DialError {
    match error {
        PadError::Spent => DialError::PadUsedUp,
        PadError::Unreadable => DialError::Store(StoreError::Unavailable),
    }
}

/// What has to be leased before a burst of this cost can leave; `None`: nothing. `is_short`: the relay has refused as much
/// and something ahead, so that little is asked for ahead.
pub(super) fn wanted(room: (u64, u64), cost: PadCost, is_short: bool) -> Option<Request> {
    let missing = PadCost {
        records: (cost.records + KEPT.records).saturating_sub(room.0),
        bytes: (cost.bytes + KEPT.bytes).saturating_sub(room.1),
    };
    // The request itself takes of what is left, and another may be needed.
    let ahead = if is_short { KEPT } else { AHEAD };
    (missing != PadCost::default()).then_some(Request::Lease {
        records: missing.records + ahead.records,
        bytes: missing.bytes + ahead.bytes,
    })
}

/// Such a request leaves now. It blocks on the disk for a moment, as [`extend`] does.
pub(super) fn asking(file: &PadFile, lease: &Request) -> Result<(), LinkError> {
    match *lease {
        Request::Lease { records, .. } => Ok(file.asking(records)?),
        _ => Ok(()),
    }
}

/// Whether the relay says that the pad does not hold so much.
pub(super) fn is_refused(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Refused {
            refusal: Refusal::Pad,
            ..
        }
    )
}

/// Whether no link can be made any more.
pub(super) fn is_used_up(file: &PadFile) -> bool {
    file.left_at_holder()[0].records < RECORDS_MIN
}

/// Takes the answer to such a request. It blocks on the disk for a moment, since nothing may leave before.
pub(super) fn extend(file: &PadFile, answer: &Answer) -> Result<(), LinkError> {
    match *answer {
        Answer::Leased { records, bytes } => {
            let end = Place {
                record: records,
                offset: bytes,
            };
            Ok(file.extended(end)?)
        }
        Answer::Refused {
            refusal: Refusal::Pad, ..
        } => Err(PadError::Spent.into()),
        Answer::Refused {
            refusal: Refusal::Busy, ..
        } => Err(LinkError::Timeout),
        _ => Err(LinkError::Broken),
    }
}
