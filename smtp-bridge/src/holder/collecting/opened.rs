//! What is made of a body that came: opened, and named as the mail program knows it.

use std::cell::Cell;

use keypacks::{deposit, kdf};
use mailbox::devices::EVENTS;
use mailbox::holder_store::PendingDeposit;
use mailbox::parcel::RECEIPTS;
use mailbox::request;
use mailbox::{HolderStore, StoreError};
use zeroize::Zeroizing;

use crate::{imap, message};

/// A report on what was sent from here, with the names that the mail program gave the message and its recipients.
fn named_in_report<S: HolderStore>(store: &S, alias: u32, message: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let Some(about) = message::reported_message(&message) else {
        return Ok(message);
    };
    let Some(asked) = store.sent_reports(alias, &about)? else {
        return Ok(message);
    };
    let original = |address: &str| {
        let mut originals = asked.originals.iter();
        let found = originals.find(|(recipient, _)| recipient.eq_ignore_ascii_case(address));
        found.map(|(_, original)| original.clone())
    };
    let named = message::name_originals(&message, asked.envelope_id.as_deref(), &original);
    Ok(named.unwrap_or(message))
}

/// An answer to what was sent from here names it as the relay called it; the mail program knows it by another name.
///
/// Only where it came for the alias that was sent under: whoever writes to one alias and names mail from another must
/// not see in the answer that both are one person's.
fn named_as_here<S: HolderStore>(store: &S, alias: u32, message: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let message = named_in_report(store, alias, message)?;
    // Nothing else is looked up: what the relay calls a message ends in its domain.
    let ending = format!("@{}", store.facts().relay_domain);
    let failed = Cell::new(None);
    let name_here = |id: &str| {
        id.ends_with(&ending).then_some(())?;
        store.message_id_here(alias, id).unwrap_or_else(|error| {
            failed.set(Some(error));
            None
        })
    };
    let renamed = message::rename_message_ids(&message, &name_here);
    match failed.take() {
        Some(error) => Err(error),
        None => Ok(renamed.unwrap_or(message)),
    }
}

/// A message, or what else a body held, and the message's summary.
pub(crate) type Read = (Vec<u8>, Vec<u8>);

/// A message that came for an alias as it is kept, and its summary.
pub(crate) fn as_kept<S: HolderStore>(store: &S, alias: u32, message: Vec<u8>) -> Result<Read, StoreError> {
    let message = named_as_here(store, alias, message)?;
    let summary = imap::summary(&message);
    Ok((message, summary))
}

/// Opens a body as [`open`]; mail as [`as_kept`], anything else without a summary.
pub(super) fn read<S: HolderStore>(
    store: &S,
    pending: &PendingDeposit,
    body: Vec<u8>,
) -> Result<Option<Read>, StoreError> {
    match open(pending, body) {
        Some(payload) if [RECEIPTS, EVENTS].contains(&pending.alias) => Ok(Some((payload, Vec::new()))),
        Some(message) => as_kept(store, pending.alias, message).map(Some),
        None => Ok(None),
    }
}

/// Checks and opens a body; `None` where it is not what the wrap promised. Of mail the message, of anything else all.
pub(crate) fn open(pending: &PendingDeposit, body: Vec<u8>) -> Option<Vec<u8>> {
    if kdf::hash(&[&body]) != pending.body_digest {
        return None;
    }
    let mut payload = Zeroizing::new(deposit::open_body(&pending.dek, body, pending.length).ok()?);
    if [RECEIPTS, EVENTS].contains(&pending.alias) {
        return Some(std::mem::take(&mut *payload));
    }
    let (_, message) = request::split_payload(&payload).ok()?;
    // The message is the payload's tail: moved to the front instead of copied.
    let start = payload.len() - message.len();
    payload.drain(..start);
    Some(std::mem::take(&mut *payload))
}
