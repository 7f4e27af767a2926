//! What comes in from the bridge itself, or changes what it may send to itself.

use std::sync::Arc;

use mailbox::devices::Event;

use super::super::HolderConfig;
use crate::net::Host;

/// Whether a message is a loop that came back, or a report on one. That is written down before it is confirmed: what came would be
/// counted as lost after a crash.
pub(super) async fn takes_loop(host: &Host, config: &HolderConfig, message: &[u8]) -> bool {
    let Some(loops) = config.loops.as_ref().filter(|loops| loops.take(message)) else {
        return false;
    };
    let loops = Arc::clone(loops);
    if !matches!(host.compute(move || loops.save()).await, Some(Ok(()))) {
        tracing::warn!("the record of loops cannot be written");
    }
    true
}

/// Loops are asked about anew when a device comes or goes.
pub(super) fn note_devices(config: &HolderConfig, events: &[Event]) {
    let is_of_devices = |event: &Event| matches!(event, Event::Joined { .. } | Event::Dropped { .. });
    if let Some(loops) = &config.loops
        && events.iter().any(is_of_devices)
    {
        loops.set_alone(None);
    }
}
