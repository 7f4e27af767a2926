//! The link's state, rows of the outbox and refusals in words.

use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::request::{Operation, Refusal};
use serde_json::{Value, json};

use crate::holder::{LinkState, refusal_reason};

pub(super) fn refused(refusal: Refusal) -> String {
    match refusal {
        Refusal::AliasTaken => "this alias is taken".to_owned(),
        Refusal::AliasUnknown => "the relay does not know this alias".to_owned(),
        Refusal::Recovery => "this is not the pack's recovery code: nothing was changed".to_owned(),
        Refusal::Frozen => refusal_reason(refusal),
        Refusal::Keys => "the pack's keys are used up: it needs one to go on with".to_owned(),
        Refusal::AliasLimit => "this pack has as many aliases as it may have".to_owned(),
        other => format!("the relay refused: {}", refusal_reason(other)),
    }
}

/// The link's state in words.
pub(in super::super) fn link_state(state: LinkState) -> &'static str {
    match state {
        LinkState::Waiting => "waiting to try again",
        LinkState::Connecting => "connecting",
        LinkState::Linked => "linked",
        LinkState::KeysUsedUp => "link keys used up: get a new pack",
        LinkState::PadUsedUp => "the pad is used up: get a new pack",
        LinkState::Replaced => "the pack has other keys now, and they are not here",
        LinkState::RolledBack => "the relay was restored from an old copy: ask its operator",
    }
}

/// How a row of the outbox reads.
pub(in super::super) struct RowWords {
    /// One word for programs.
    name: &'static str,
    /// The state as a person reads it.
    pub(in super::super) state: &'static str,
    /// Why it is so, and what comes of it.
    pub(in super::super) reason: String,
}

/// A row's state in words.
pub(in super::super) fn row_words(row: &OutboxRow) -> RowWords {
    let (name, state, reason) = match row.state {
        OutboxState::Queued => ("queued", "waiting to be sent", String::new()),
        OutboxState::Held(refusal) => {
            let reason = match refusal {
                Refusal::Value { shortfall } => format!("{shortfall} µtok are missing; it goes after a top-up"),
                Refusal::Price { price, .. } => format!("the price is now {price} µtok; it goes at that price"),
                other => refusal_reason(other),
            };
            ("held", "held back", reason)
        }
        OutboxState::Refused(refusal) => ("refused", "refused for good", refusal_reason(refusal)),
        OutboxState::Unknown => (
            "unknown",
            "perhaps sent",
            "the relay no longer knows whether it was sent".to_owned(),
        ),
    };
    RowWords { name, state, reason }
}

pub(super) fn row(row: &OutboxRow, now: u64) -> Value {
    let words = row_words(row);
    let (kind, kilobytes, bytes, recipients) = match &row.change.operation {
        Operation::Submit {
            kilobytes,
            length,
            recipients,
            ..
        } => ("mail", Some(*kilobytes), Some(*length), Some(*recipients)),
        Operation::AliasOpen { .. } | Operation::AliasClose { .. } => ("alias", None, None, None),
        Operation::Reroot { .. } => ("keys", None, None, None),
        Operation::Split { .. }
        | Operation::Release { .. }
        | Operation::Redeem { .. }
        | Operation::Expire { .. }
        | Operation::Renew { .. }
        | Operation::Procure { .. }
        | Operation::Endow { .. } => ("pack", None, None, None),
        Operation::Device { .. } | Operation::Drop { .. } | Operation::Tell { .. } => ("device", None, None, None),
    };
    json!({
        "row": row.row,
        "kind": kind,
        "state": words.name,
        "words": words.state,
        "reason": words.reason,
        "label": row.label,
        "price": row.price,
        "taken": row.taken,
        "age": now.saturating_sub(row.taken),
        "kilobytes": kilobytes,
        "bytes": bytes,
        "recipients": recipients,
    })
}
