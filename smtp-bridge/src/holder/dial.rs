//! Making a link: protocol section 3 from the holder's side, with the re-sending rules of section 8.

use std::sync::Arc;

use keypacks::CELL;
use keypacks::cell::Kind;
use keypacks::chain::{LINK_LOOK_AHEAD, LinkStep};
use keypacks::link::{self, ClientEntropy, Confirm, FloorVerdict, Linked, Rekey};
use mailbox::holder_store::Told;
use mailbox::pad::PadFile;
use mailbox::{HolderStore, StoreError};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use zeroize::{Zeroize, Zeroizing};

use super::{HolderConfig, next_keys, pad, tell};
use crate::link::{LinkError, LinkReader, LinkWriter, read_cell};
use crate::message::Notice;
use crate::names;
use crate::net::socks::{self, Credentials};
use crate::net::{BoxStream, Host};

/// An established link.
pub(super) struct Established {
    pub(super) reader: LinkReader<ReadHalf<BoxStream>>,
    pub(super) writer: LinkWriter<WriteHalf<BoxStream>>,
    pub(super) token_mismatch: bool,
    pub(super) rolled_back: bool,
    /// The pack sends nothing before it has new keys.
    pub(super) is_frozen: bool,
    /// The relay has other keys for the pack, and answers nothing but the change that gave it those.
    pub(super) is_replaced: bool,
    /// Generation of the relay's store.
    pub(super) generation: u64,
    /// What it is under, if not under keys.
    pub(super) pad: Option<Arc<PadFile>>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Nothing is left to connect with.
    #[error("the link keys are used up")]
    KeysUsedUp,
    /// What is left of the pad does not make a link.
    #[error("the pad is used up")]
    PadUsedUp,
    /// The relay's lowest live index lies below what it answered before.
    #[error("the relay was restored from an old copy")]
    RolledBack,
    /// Cell 3 left, and no answer came: the key may be burned.
    #[error("the relay did not answer after cell 3")]
    Unanswered,
    /// No index of the look-ahead was answered; nothing was spent.
    #[error("the relay stayed silent")]
    Silent,
    /// The relay cannot be reached.
    #[error("the relay cannot be reached")]
    Unreachable(#[source] std::io::Error),
    /// The relay cannot be reached by that of the entry.
    #[error("no way by the entry: {0}")]
    NoWay(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Most connections by which a restored copy looks for the relay's position at one time.
const PROBES_MAX: usize = 16;

/// Tries `base` to `base + 3` in turn, each with a fresh cell 1, until one is answered.
pub(super) async fn link<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
) -> Result<Established, DialError> {
    let base = store.link_position().base;
    if base >= store.link_position().keys {
        return Err(DialError::KeysUsedUp);
    }
    // Never under keys then, whatever becomes of the pad.
    if let Some(file) = store.pad() {
        return pad::link(host, store, config, file).await;
    }
    for index in base..base + LINK_LOOK_AHEAD {
        match attempt(host, store, config, index).await {
            Err(DialError::Silent) => {}
            done => return done,
        }
    }
    Err(DialError::Silent)
}

/// Looks for the relay's position with a restored copy, however many links it is behind: one index of each look-ahead is
/// tried, since the relay answers those of one. Several at a time: what it does not answer it keeps open for long.
pub(super) async fn resume<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
) -> Result<Established, DialError> {
    let keys = store.link_position().keys;
    let mut chain = store.link_ahead();
    if chain.index() >= keys {
        return Err(DialError::KeysUsedUp);
    }
    let mut last = DialError::Silent;
    while chain.index() < keys {
        let mut probes = JoinSet::new();
        // A link carries one link.
        let most = if config.through.is_some() { 1 } else { PROBES_MAX };
        while probes.len() < most && chain.index() < keys {
            let index = chain.index().saturating_add(LINK_LOOK_AHEAD - 1).min(keys - 1);
            if chain.forward_to(index).is_err() {
                return Err(DialError::Silent);
            }
            let step = chain.advance();
            let (host, store, config) = (host.clone(), store.clone(), config.clone());
            probes.spawn(async move { answer(&host, &store, &config, step).await });
        }
        while let Some(probe) = probes.join_next().await {
            match probe {
                Ok(Ok(reached)) => return finish(host, store, config, reached, true).await,
                Ok(Err(error @ (DialError::Unreachable(_) | DialError::NoWay(_)))) => last = error,
                _ => {}
            }
        }
        if matches!(last, DialError::Unreachable(_) | DialError::NoWay(_)) {
            return Err(last);
        }
    }
    Err(last)
}

async fn attempt<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    index: u64,
) -> Result<Established, DialError> {
    let Some(step) = store.link_step(index) else {
        return Err(DialError::Silent);
    };
    let reached = answer(host, store, config, step).await?;
    finish(host, store, config, reached, false).await
}

/// A connection on which cell 2 has opened.
struct Reached {
    index: u64,
    answered: link::Answered,
    stream: BoxStream,
}

/// Cells 1 and 2: nothing is spent by them.
async fn answer<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    step: LinkStep,
) -> Result<Reached, DialError> {
    let index = step.index;
    let facts = store.facts();
    let target = config.relay_via.as_deref().unwrap_or(&facts.relay_address);
    // By another relay, there is its handshake before.
    let patience = config.flight_timeout * if config.through.is_some() { 4 } else { 1 };
    let dialled = tokio::time::timeout(patience, dial(host, store, config, target)).await;
    let mut stream = dialled
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|error| match config.through {
            Some(_) => DialError::NoWay(error),
            None => DialError::Unreachable(error),
        })?;

    let entropy = ClientEntropy {
        ephemeral: host.random(),
        nonce: host.random(),
    };
    let (dialling, cell1) = link::connect(step, &facts.relay_public, entropy);
    // Silence, a cut connection and a cell that does not open are one and the same here: nothing was spent.
    let mut cell2 = Box::new([0; CELL]);
    tokio::time::timeout(config.flight_timeout, async {
        stream.write_all(&cell1[..]).await?;
        stream.flush().await?;
        read_cell(&mut stream, &mut cell2).await
    })
    .await
    .unwrap_or(Err(LinkError::Timeout))
    .map_err(|_| DialError::Silent)?;
    let answered = dialling.answer(&mut cell2).map_err(|_| DialError::Silent)?;
    cell2.zeroize();
    Ok(Reached {
        index,
        answered,
        stream,
    })
}

/// Judges the relay's position and makes the link. A copy that `is_resuming` takes any position at or above its own.
async fn finish<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    reached: Reached,
    is_resuming: bool,
) -> Result<Established, DialError> {
    let Reached {
        index,
        answered,
        stream,
    } = reached;
    let position = store.link_position();
    let is_behind = match link::floor_verdict(position.answered, position.held, answered.floor()) {
        FloorVerdict::Accept => false,
        FloorVerdict::DoesNotOpen if is_resuming && answered.floor() <= index => true,
        FloorVerdict::DoesNotOpen => return Err(DialError::Silent),
        FloorVerdict::RolledBack => return Err(DialError::RolledBack),
    };

    let proof = match is_resuming {
        true => store.resume_link(index).await?,
        false => store.reserve_link(index).await?,
    };
    let confirm = Confirm {
        token: store.link_token(),
        answered: store.acknowledged(),
    };
    let (cell3, link) = answered
        .confirm(&proof, confirm, &store.derive("hedge"), host.random())
        .map_err(|_| DialError::Silent)?;
    let established = tokio::time::timeout(config.flight_timeout, establish(stream, &cell3, link)).await;
    let (established, linked, rekey) = established
        .unwrap_or(Err(LinkError::Timeout))
        .map_err(|_| DialError::Unanswered)?;
    store.link_answered(index, linked.token).await?;
    number_above(host, store, config, &linked, is_behind).await?;
    let Established { reader, writer, .. } = established;
    let (reader, writer) = next_keys::prepare(host, store, reader, writer, rekey).await?;
    Ok(Established {
        reader,
        writer,
        token_mismatch: established.token_mismatch,
        rolled_back: established.rolled_back,
        is_frozen: established.is_frozen,
        is_replaced: established.is_replaced,
        generation: established.generation,
        pad: None,
    })
}

/// Goes on above the numbers that the relay has answers of, and tells what another copy of this store may have sent.
pub(super) async fn number_above<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    linked: &Linked,
    is_behind: bool,
) -> Result<(), StoreError> {
    let told = Told {
        highest: linked.highest,
        generation: linked.generation,
        is_behind: is_behind || linked.flags & Linked::TOKEN_MISMATCH != 0,
    };
    for subject in store.raise_seq(told).await? {
        tell(host, store, config, &Notice::Unknown { subject: &subject }).await;
    }
    Ok(())
}

/// Opens the stream: straight, or through the proxy, which resolves the relay's name in our place.
pub(super) async fn dial<S: HolderStore>(
    host: &Host,
    store: &S,
    config: &HolderConfig,
    target: &str,
) -> std::io::Result<BoxStream> {
    if let Some(way) = &config.through {
        return way.dial(&store.facts().relay_domain).await;
    }
    let Some(proxy) = config.socks else {
        return host.dial(target).await;
    };
    let mut stream = host.net.dial(proxy).await?;
    // Of the store's own secret, so that no two packs are taken for one user.
    let word = |purpose| Zeroizing::new(names::spell(&store.derive(purpose).expose()[..20]));
    let credentials = Credentials {
        user: word("socks/user"),
        password: word("socks/password"),
    };
    socks::connect(&mut stream, target, &credentials).await?;
    Ok(stream)
}

/// Sends cell 3 and waits for the first down cell: before it opens, no request may leave.
async fn establish(
    mut stream: BoxStream,
    cell3: &[u8; CELL],
    link: link::Link,
) -> Result<(Established, Linked, Rekey), LinkError> {
    stream.write_all(cell3).await?;
    stream.flush().await?;
    let (read, write) = tokio::io::split(stream);
    let (reader, writer) = (LinkReader::new(read, link.opener), LinkWriter::new(write, link.sealer));
    let (established, linked) = linked(reader, writer, None).await?;
    Ok((established, linked, link.rekey))
}

/// Takes the first down cell: before it opens, no request may leave. `pad`: what the link is under, if not under keys.
pub(super) async fn linked(
    mut reader: LinkReader<tokio::io::ReadHalf<BoxStream>>,
    writer: LinkWriter<tokio::io::WriteHalf<BoxStream>>,
    pad: Option<Arc<PadFile>>,
) -> Result<(Established, Linked), LinkError> {
    let head = reader.next().await?;
    if head.kind != Kind::Linked || !head.is_bare() {
        return Err(LinkError::Broken);
    }
    let linked = Linked::decode(&head.header)?;
    let flag = |bit| linked.flags & bit != 0;
    let established = Established {
        reader,
        writer,
        token_mismatch: flag(Linked::TOKEN_MISMATCH),
        rolled_back: flag(Linked::ROLLED_BACK),
        is_frozen: flag(Linked::FROZEN),
        is_replaced: flag(Linked::REPLACED),
        generation: linked.generation,
        pad,
    };
    Ok((established, linked))
}
