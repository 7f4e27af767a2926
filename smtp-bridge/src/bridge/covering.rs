//! Cover on the user's line, as the user sees it: how it stands, what it costs, and a notice where there is none.

use std::sync::Arc;
use std::time::Duration;

use mailbox::HolderStore;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Bridge;
use crate::holder::cover::{CoverState, NoCover};
use crate::message::Notice;
use crate::net::stopped;

/// Longest wait for the relay's answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
const DAY: u64 = 86_400;

impl<S: HolderStore> Bridge<S> {
    /// One word, and the reason where there is none though it is wished.
    pub(super) fn cover_state(&self) -> Value {
        let Some(covered) = &self.cover else {
            return json!({ "wish": null, "state": "off" });
        };
        let state = *covered.state.borrow();
        let (word, reason) = match state {
            CoverState::Waiting => ("waiting", None),
            CoverState::On { .. } => ("on", None),
            CoverState::Off(reason) => ("none", Some(reason.reason())),
        };
        json!({ "wish": covered.cover.to_string(), "state": word, "reason": reason })
    }

    /// How it stands, for the page; `None`: it is not wished.
    pub(super) fn cover_words(&self) -> Option<String> {
        let covered = self.cover.as_ref()?;
        let state = *covered.state.borrow();
        Some(match state {
            CoverState::Waiting => format!("{}, when there is a link", covered.cover),
            CoverState::On { .. } => format!("{}, as much each way at every tick", covered.cover),
            CoverState::Off(reason) => format!("none: {}", reason.reason()),
        })
    }

    /// The same with what the relay asks, and what a day costs of what is wished.
    pub(super) async fn cover(&self) -> Result<Value, String> {
        if self.entry.is_some() {
            return Err(
                "by an entry relay there is no cover: the link inside it would be given up over large mail".into(),
            );
        }
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.cover_offer())
            .await
            .ok()
            .flatten();
        let offer = asked.flatten();
        let is_on = self.cover.as_ref().map(|covered| *covered.state.borrow());
        let price = match (offer, is_on) {
            (Some(offer), _) => Some(offer.price),
            (None, Some(CoverState::On { price })) => Some(price),
            _ => None,
        };
        let rate = self.cover.as_ref().map(|covered| covered.cover.rate);
        let day_cost = rate.zip(price).map(|(rate, price)| rate.day_cost(price));
        Ok(json!({
            "cover": self.cover_state(),
            "heard": asked.is_some(),
            "offer": offer,
            "rate": rate,
            "day_cost": day_cost,
            "balance": self.store.value().balance,
        }))
    }
}

/// Tells the user when there is none, once a day for each reason, until `stop` turns true.
pub(super) async fn watch<S: HolderStore>(bridge: Arc<Bridge<S>>, mut stop: watch::Receiver<bool>) {
    let Some(covered) = &bridge.cover else { return };
    let mut states = covered.state.subscribe();
    let mut told: Option<(NoCover, u64)> = None;
    loop {
        let state = *states.borrow_and_update();
        if let CoverState::Off(reason) = state {
            let now = bridge.host.clock.unix_seconds();
            let is_new = told.is_none_or(|(before, at)| before != reason || now.abs_diff(at) >= DAY);
            if is_new {
                told = Some((reason, now));
                let reason = reason.reason();
                bridge.notify(&Notice::NoCover { reason: &reason }).await;
            }
        }
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}
