//! Packs at further relays, which the relay of this one procures: what the running bridge does of it.

use keypacks::kdf;
use mailbox::HolderStore;
use mailbox::holder_store::{OutboxRow, OutboxState, Procurement};
use mailbox::request::{Operation, Refusal};
use serde_json::{Value, json};

use super::Bridge;
use super::commands::{ANSWER_WAIT_MAX, from_base64, to_base64};
use crate::holder::refusal_reason;

/// An order as it comes through the control socket, keys in base64.
pub(super) struct Order<'a> {
    pub(super) relay: &'a str,
    pub(super) kem: &'a str,
    pub(super) dh: &'a str,
    pub(super) keys: u64,
    pub(super) value: u64,
    pub(super) debit_max: u64,
}

impl<S: HolderStore> Bridge<S> {
    /// What may be ordered, and what it costs.
    pub(super) async fn offers(&self) -> Result<Value, String> {
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.offers()).await;
        let mut offers = asked.ok().flatten().ok_or(
            "the relay cannot be asked now, which alone knows what it offers: try again when 'postern status' says linked",
        )?;
        // Whoever sells packs there may not have heard.
        offers.relays.retain(|domain| !self.directory.is_draining(domain));
        Ok(json!({ "fee": offers.fee, "relays": offers.relays, "sizes": offers.sizes }))
    }

    /// Orders a pack, if it is not ordered yet, and says how the order stands.
    pub(super) async fn procure(&self, order: &Order<'_>) -> Result<Value, String> {
        let kem = from_base64(order.kem).ok_or("the key is not in base64")?;
        let dh = from_base64(order.dh).and_then(|dh| dh.try_into().ok());
        let name = kdf::hash(&[&kem]);
        let operation = Operation::Procure {
            relay: order.relay.to_owned(),
            kem,
            dh: dh.ok_or("the key is not in base64")?,
            keys: order.keys,
            value: order.value,
            debit_max: order.debit_max,
        };
        let row = {
            let _spending = self.spending.lock().await;
            match (self.ordered(&operation)?, self.procurement(&name)?) {
                (Some(row), _) => Some(row),
                (None, Some(Procurement::Made { .. } | Procurement::Returned)) => None,
                // Also one that was given and has no row: the relay knows it, or lost it with its debit. Whether value is left is
                // its to say: an order that it knows costs nothing, though this store may have been put back to before it.
                (None, _) => Some(self.queue(operation, "pack at another relay").await?),
            }
        };
        if let Some(row) = row
            && let Some(refusal) = self.answer_to(row).await?
        {
            return Ok(refused(words(refusal)));
        }
        self.how_it_stands(&name)
    }

    /// How an order stands, by the name of its key.
    pub(super) fn procured(&self, order: &str) -> Result<Value, String> {
        self.how_it_stands(&name_of(order)?)
    }

    /// Forgets an order.
    pub(super) async fn procure_end(&self, order: &str) -> Result<Value, String> {
        let ended = self.store.end_procurement(name_of(order)?).await;
        ended.map_err(|error| error.to_string()).map(|()| json!({}))
    }

    fn how_it_stands(&self, name: &[u8; 32]) -> Result<Value, String> {
        Ok(match self.procurement(name)? {
            None => json!({ "state": "unknown" }),
            Some(Procurement::Ordered) => json!({ "state": "ordered" }),
            Some(Procurement::Returned) => json!({ "state": "returned" }),
            Some(Procurement::Made { ciphertext, confirm }) => json!({
                "state": "made",
                "ciphertext": to_base64(&ciphertext),
                "confirm": to_base64(&confirm),
            }),
        })
    }

    fn procurement(&self, name: &[u8; 32]) -> Result<Option<Procurement>, String> {
        self.store.procurement(name).map_err(|error| error.to_string())
    }

    /// The row of this very order, if it waits for its answer.
    fn ordered(&self, operation: &Operation) -> Result<Option<u64>, String> {
        let is_it = |row: &OutboxRow| row.state == OutboxState::Queued && row.change.operation == *operation;
        Ok(self.rows()?.into_iter().find(is_it).map(|row| row.row))
    }
}

fn name_of(order: &str) -> Result<[u8; 32], String> {
    let name = from_base64(order).and_then(|name| name.try_into().ok());
    name.ok_or_else(|| "this is no name of an order".to_owned())
}

fn refused(reason: String) -> Value {
    json!({ "state": "refused", "reason": reason })
}

fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::Price { price, .. } => format!("it costs {price} µtok now: see 'postern procure --offers'"),
        Refusal::Value { shortfall } => format!("{shortfall} µtok are missing"),
        Refusal::Limit => "too many orders are under way: try again when they are answered".to_owned(),
        other => refusal_reason(other),
    }
}
