//! What the user is told of what came in and is no mail.

use mailbox::HolderStore;
use mailbox::devices::Event;
use mailbox::holder_store::ParcelUse;
use mailbox::parcel::{Outcome, Receipt};
use mailbox::request::Refusal;

use super::super::courier::refusal_reason;
use crate::message::Notice;

/// What the user is told of parcels that were not carried out.
pub(crate) fn notices_of<S: HolderStore>(
    store: &S,
    receipts: &[Receipt],
    compose: &dyn Fn(&Notice<'_>) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let parcels = store.parcels();
    let notice = |receipt: &Receipt| {
        let parcel = parcels.iter().find(|parcel| parcel.index == receipt.index)?;
        let reason = match receipt.outcome {
            _ if !receipt.is_of(&parcel.prefix) => {
                "another parcel had come under its key, as this folder was put back from a copy: seal it again".into()
            }
            Outcome::Accepted { .. } | Outcome::Done { .. } => return None,
            // What is confirmed is confirmed again by the next one.
            _ if parcel.kind == ParcelUse::Login => return None,
            Outcome::Burned if parcel.kind == ParcelUse::Control => return None,
            Outcome::Refused(Refusal::Stale) => {
                let subject = &parcel.label;
                return Some(compose(&Notice::Unknown { subject }));
            }
            Outcome::Refused(Refusal::AliasTaken) => "this alias is taken".into(),
            Outcome::Refused(Refusal::AliasUnknown) => "the relay does not know this alias".into(),
            Outcome::Refused(Refusal::AliasLimit) => "this pack has as many aliases as it may have".into(),
            Outcome::Refused(Refusal::Value { shortfall }) => {
                format!("{shortfall} µtok are missing: seal it again after a top-up")
            }
            Outcome::Refused(Refusal::Price { price, .. }) => {
                format!("its price is {price} µtok, which is more than it was sealed for: seal it again")
            }
            Outcome::Refused(refusal) => refusal_reason(refusal),
            Outcome::Burned => "its parcel did not come in time, and will not be taken any more: seal it again".into(),
        };
        let notice = Notice::Refused {
            subject: &parcel.label,
            reason: &reason,
        };
        Some(compose(&notice))
    };
    receipts.iter().filter_map(notice).collect()
}

/// What the user is told of the account's other devices, and of packs that were ordered. Their aliases speak for themselves.
pub(crate) fn notices_of_devices(events: &[Event], compose: &dyn Fn(&Notice<'_>) -> Vec<u8>) -> Vec<Vec<u8>> {
    let notice = |event: &Event| match event {
        Event::Alias { .. } => None,
        Event::Joined { device, by } => Some(Notice::DeviceJoined {
            device: *device,
            by: *by,
        }),
        Event::Dropped { device, by } => Some(Notice::DeviceDropped {
            device: *device,
            by: *by,
        }),
        Event::Frozen { device } => Some(Notice::DeviceFrozen { device: *device }),
        Event::Procured { .. } => Some(Notice::Procured),
        Event::NotProcured { .. } => Some(Notice::NotProcured),
    };
    events
        .iter()
        .filter_map(notice)
        .map(|notice| compose(&notice))
        .collect()
}
