//! The allow-listed header fields of a message, read into their meaning.

use super::address::{self, Mailbox};
use super::header::{self, Header, Headless};
use super::limits::{HEADER_BYTES_MAX, MESSAGE_ID_LENGTH_MAX, RECIPIENT_COUNT_MAX, REFERENCE_COUNT_MAX};
use super::policy::{Policy, Stage};
use super::refusal::{Place, Refusal};
use super::traces::Traces;
use super::words;

/// What is kept of a header. From is not here: it is the policy's.
pub(super) struct Envelope {
    pub(super) to: Vec<Mailbox>,
    pub(super) cc: Vec<Mailbox>,
    pub(super) subject: String,
    pub(super) in_reply_to: Vec<String>,
    pub(super) references: Vec<String>,
    /// What the client calls the message, if it does by a name that other messages can refer to.
    pub(super) message_id: Option<String>,
}

impl Envelope {
    pub(super) fn read(header: &Header<'_>, policy: &Policy<'_>) -> Result<Self, Refusal> {
        check_originator(header, policy)?;
        let to = recipients(header, "To", policy)?;
        let cc = recipients(header, "Cc", policy)?;
        if to.len() + cc.len() > RECIPIENT_COUNT_MAX {
            return Err(Refusal::TooManyRecipients);
        }
        Ok(Self {
            to,
            cc,
            subject: words::collapse(&words::decode(&header.one("Subject")?.unwrap_or_default())?),
            in_reply_to: message_ids(header, "In-Reply-To", policy)?,
            references: message_ids(header, "References", policy)?,
            message_id: own_message_id(header),
        })
    }
}

impl Envelope {
    /// Refuses traces of the user in what others see of the header.
    pub(super) fn check_traces(&self, traces: &Traces) -> Result<(), Refusal> {
        if traces.are_in(&self.subject) {
            return Err(Refusal::Trace(Place::Subject));
        }
        let is_trace = |mailbox: &Mailbox| traces.are_in(&mailbox.name) || traces.are_in(mailbox.address.as_str());
        match self.to.iter().chain(&self.cc).any(is_trace) {
            true => Err(Refusal::Trace(Place::Recipients)),
            false => Ok(()),
        }
    }
}

/// Refuses what names someone else as the author. The client's own spelling and display name go no further either way.
fn check_originator(header: &Header<'_>, policy: &Policy<'_>) -> Result<(), Refusal> {
    for name in ["From", "Sender"] {
        if let Some(text) = header.one(name).map_err(|_| Refusal::Sender)? {
            let mailboxes = address::list(&text).map_err(|_| Refusal::Sender)?;
            if !matches!(mailboxes.as_slice(), [only] if policy.is_own(&only.address)) {
                return Err(Refusal::Sender);
            }
        }
    }
    for text in header.all("Reply-To") {
        let mailboxes = text
            .and_then(|text| address::list(&text))
            .map_err(|_| Refusal::ReplyTo)?;
        if !mailboxes.iter().all(|mailbox| policy.is_own(&mailbox.address)) {
            return Err(Refusal::ReplyTo);
        }
    }
    Ok(())
}

/// The mailboxes of every field of this name. The sender's own gets the alias and its name: clients write the person's there.
fn recipients(header: &Header<'_>, name: &str, policy: &Policy<'_>) -> Result<Vec<Mailbox>, Refusal> {
    let mut recipients = Vec::new();
    for text in header.all(name) {
        recipients.extend(address::list(&text?)?);
    }
    for mailbox in recipients.iter_mut().filter(|mailbox| policy.is_own(&mailbox.address)) {
        *mailbox = own_mailbox(policy);
    }
    Ok(recipients)
}

/// See [`super::answers`].
pub(super) fn answers(header: &Header<'_>, local_address: &address::Address) -> Option<String> {
    for name in ["From", "Sender", "Reply-To"] {
        for text in header.all(name) {
            let mailboxes = address::list(&text.ok()?).ok()?;
            if !mailboxes.iter().all(|mailbox| mailbox.address.is_same(local_address)) {
                return None;
            }
        }
    }
    ["In-Reply-To", "References"].into_iter().find_map(|name| {
        let text = header.all(name).next()?.ok()?;
        let (_, last) = text.rsplit_once('<')?;
        let (id, _) = last.split_once('>')?;
        // Whatever stands there: it is looked up and goes nowhere.
        (!id.is_empty()).then(|| id.to_owned())
    })
}

/// The display name in From, as the exit finds it: the bridge wrote there what was set with the alias, and nothing else.
pub(super) fn sender_name(header: &Header<'_>) -> Option<String> {
    let mailboxes = address::list(&header.one("From").ok()??).ok()?;
    match mailboxes.as_slice() {
        [only] if !only.name.is_empty() => Some(only.name.clone()),
        _ => None,
    }
}

/// The sender as the recipient sees it.
pub(super) fn own_mailbox(policy: &Policy<'_>) -> Mailbox {
    Mailbox {
        name: policy
            .sender
            .display_name
            .as_deref()
            .map(words::collapse)
            .unwrap_or_default(),
        address: policy.sender.address.clone(),
    }
}

/// The client's Message-ID. It goes no further: what cannot be read is as good as none.
fn own_message_id(header: &Header<'_>) -> Option<String> {
    let text = header.all("Message-ID").next()?.ok()?;
    let (_, bracketed) = text.split_once('<')?;
    let (id, _) = bracketed.split_once('>')?;
    is_message_id(id).then(|| id.to_owned())
}

/// The identifier of a whole message, or of its header alone.
pub(super) fn message_id_of(message: &[u8]) -> Option<String> {
    let (header, _) = header::split(message, HEADER_BYTES_MAX, Headless::Refuse).ok()?;
    own_message_id(&header)
}

/// The last identifiers of a field that may leave, without angle brackets.
fn message_ids(header: &Header<'_>, name: &str, policy: &Policy<'_>) -> Result<Vec<String>, Refusal> {
    let text = header.one(name)?.unwrap_or_default();
    let mut ids: Vec<String> = text
        .rsplit('<')
        .filter_map(|piece| piece.split_once('>'))
        .map(|(id, _)| id)
        .filter(|id| is_message_id(id))
        // The bridge has asked already; the relay could not.
        .filter_map(|id| match policy.stage {
            Stage::Bridge => (policy.message_id_outside)(id).filter(|id| is_message_id(id)),
            Stage::Exit { .. } => Some(id.to_owned()),
        })
        .take(REFERENCE_COUNT_MAX)
        .collect();
    ids.reverse();
    Ok(ids)
}

/// `id-left "@" id-right` (RFC 5322 section 3.6.4), wide enough for what is found in the wild.
pub(super) fn is_message_id(id: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_graphic() && !b"<>()\\\",;:[]".contains(&byte);
    let has_two_sides = id
        .split_once('@')
        .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
    id.len() <= MESSAGE_ID_LENGTH_MAX && has_two_sides && id.bytes().all(is_inside)
}
