//! What is left of a pad, and whether a message still fits.

use keypacks::deposit;
use keypacks::pad::{End, RECORD};
use mailbox::HolderStore;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::pad::{Left, kept_back};
use mailbox::request::Operation;
use serde_json::{Value, json};

use super::Bridge;
use crate::link::{PadCost, pad_cost};

/// Longest header of a submission.
const HEADER_BYTES: usize = 160;
/// What links lease beyond what they need, and abandon.
const SPARE: PadCost = PadCost {
    records: 48,
    bytes: 12 << 10,
};
/// Classes whose cost is shown, in kilobytes.
const SHOWN: [u32; 3] = [1, 16, 1_024];

/// What a submission of this class takes at most.
fn submission(kilobytes: u32) -> PadCost {
    pad_cost([HEADER_BYTES + deposit::class_bytes(kilobytes)])
}

impl<S: HolderStore> Bridge<S> {
    /// Whether a message of this class fits into what is left of the pad, behind all that wait, so that the last requests
    /// still can be made. Packs without a pad hold any.
    pub(super) fn pad_holds(&self, kilobytes: u32) -> bool {
        let Some(pad) = self.store.pad() else { return true };
        let ([up, down], kept) = (pad.left_at_holder(), kept_back(pad.layout()));
        let waits = |row: &OutboxRow| match row.change.operation {
            Operation::Submit { kilobytes, .. } => {
                matches!(row.state, OutboxState::Queued | OutboxState::Held(_)).then_some(kilobytes)
            }
            _ => None,
        };
        let Ok(rows) = self.store.outbox() else { return false };
        let mut needed = PadCost {
            records: kept.records + SPARE.records,
            bytes: kept.bytes + SPARE.bytes,
        };
        for kilobytes in rows.iter().filter_map(waits).chain([kilobytes]) {
            let cost = submission(kilobytes);
            needed.records += cost.records;
            needed.bytes += cost.bytes;
        }
        needed.records <= up.records && needed.bytes <= up.bytes && kept.records + SPARE.records <= down.records
    }

    /// What `postern status` shows of the pad.
    pub(super) fn pad_figures(&self) -> Value {
        let Some(pad) = self.store.pad() else {
            return Value::Null;
        };
        let left = |left: Left| json!({ "bytes": left.pad_bytes(), "cells": left.records });
        let [up, down] = pad.left_at_holder().map(left);
        let cost = |kilobytes| {
            let cost = submission(kilobytes);
            json!({ "kilobytes": kilobytes, "bytes": cost.bytes + RECORD * cost.records })
        };
        json!({ "up": up, "down": down, "costs": SHOWN.map(cost) })
    }
}
