//! Keys and value that move to or from another pack: what the running bridge does of it.

use keypacks::Secret;
use keypacks::chain::LINK_KEYS_MIN;
use keypacks::pack::Identifier;
use mailbox::HolderStore;
use mailbox::holder_store::{HolderAlias, OutboxRow, OutboxState};
use mailbox::request::{Operation, Refusal, TELL_MAX};
use serde_json::{Value, json};

use super::commands::{ANSWER_WAIT_MAX, from_base64};
use super::{Bridge, nested_through};
use crate::holder::refusal_reason;
use crate::message::base64;

impl<S: HolderStore> Bridge<S> {
    pub(super) fn pack_facts(&self) -> Result<Value, String> {
        let facts = self.store.facts();
        let value = self.store.value();
        let mut aliases = self.store.aliases().map_err(|error| error.to_string())?;
        aliases.retain(|alias| alias.open);
        aliases.sort_by_key(|alias| alias.number);
        Ok(json!({
            "aliases": aliases.into_iter().map(|alias| alias.address).collect::<Vec<_>>(),
            "identifier": facts.identifier.to_text(),
            "relay_address": facts.relay_address,
            "relay_domain": facts.relay_domain,
            "relay_public": text(&facts.relay_public),
            "rotation": facts.rotation.to_string(),
            "day": self.host.day(),
            "nested": nested_through(&self.store).map_err(|error| error.to_string())?.or_else(|| self.entry_relay()),
            "entry": self.entry_relay(),
            "second_pack_most": self.second_pack_most().map_err(|error| error.to_string())?,
            "pad": self.store.pad().is_some(),
            "balance": value.balance,
            "keys": value.keys,
        }))
    }

    /// Moves keys and value to a new pack. Asked for once more, it waits for the same change.
    /// Whether it was asked for before, and answered, only the relay knows: what is `resumed` is not judged here.
    pub(super) async fn split(
        &self,
        (identifier, root): (&str, &str),
        (keys, value): (u64, u64),
        resumed: bool,
    ) -> Result<Value, String> {
        let (identifier, root) = new_pack(identifier, root)?;
        if self.store.pad().is_some() {
            return Err("this pack's links are under a pad, which cannot be split".to_owned());
        }
        let operation = Operation::Split {
            identifier: identifier.0,
            root: *root.expose(),
            keys,
            value,
        };
        let row = {
            let _spending = self.spending.lock().await;
            match self.queued(&operation)? {
                Some(row) => row,
                None => {
                    if !resumed {
                        self.may_give(keys, value)?;
                    }
                    self.queue(operation, "split").await?
                }
            }
        };
        self.outcome(row).await
    }

    /// Makes another device. Asked for once more, it waits for the same change; then all devices are told of the aliases.
    pub(super) async fn device(
        &self,
        (identifier, root): (&str, &str),
        keys: u64,
        resumed: bool,
    ) -> Result<Value, String> {
        let (identifier, root) = new_pack(identifier, root)?;
        if self.store.pad().is_some() {
            return Err("this pack's links are under a pad, of which no two devices can take".to_owned());
        }
        let operation = Operation::Device {
            identifier: identifier.0,
            root: *root.expose(),
            keys,
        };
        let row = match self.queued(&operation)? {
            Some(row) => row,
            None => {
                if !resumed {
                    self.may_give(keys, 0)?;
                }
                self.queue(operation, "device").await?
            }
        };
        let answer = self.outcome(row).await?;
        if answer["moved"] == true {
            // Relays keep no address that they could tell by themselves.
            self.tell_aliases().await?;
        }
        Ok(answer)
    }

    async fn tell_aliases(&self) -> Result<(), String> {
        let domain = self.store.facts().relay_domain;
        let aliases = self.store.aliases().map_err(|error| error.to_string())?;
        let local = |alias: &HolderAlias| {
            let (local, of) = alias.address.rsplit_once('@')?;
            (of == domain).then(|| local.to_owned())
        };
        let locals: Vec<String> = aliases.iter().filter_map(local).collect();
        for some in locals.chunks(TELL_MAX) {
            let tell = Operation::Tell { locals: some.to_vec() };
            let row = self.queue(tell, "aliases for all devices").await?;
            if let Some(refusal) = self.answer_to(row).await? {
                return Err(format!(
                    "the device is made, and was not told of all aliases: {}",
                    refusal_reason(refusal)
                ));
            }
        }
        Ok(())
    }

    /// Ends another device of the account.
    pub(super) async fn drop_device(&self, device: u32) -> Result<Value, String> {
        let operation = Operation::Drop { device };
        let row = match self.queued(&operation)? {
            Some(row) => row,
            None => self.queue(operation, "drop of a device").await?,
        };
        self.outcome(row).await
    }

    /// Devices of the account, as the relay has them.
    pub(super) async fn devices(&self) -> Result<Value, String> {
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.devices()).await;
        let (own, devices) = asked.ok().flatten().ok_or(
            "the relay cannot be asked now, which alone knows the devices: try again when 'postern status' says linked",
        )?;
        Ok(json!({ "own": own, "devices": devices }))
    }

    /// Takes what another pack released.
    pub(super) async fn redeem(&self, voucher: &str) -> Result<Value, String> {
        let voucher = from_base64(voucher).and_then(|voucher| Secret::<32>::from_slice(&voucher));
        let operation = Operation::Redeem {
            voucher: *voucher.ok_or("the voucher is not in base64")?.expose(),
        };
        let row = match self.queued(&operation)? {
            Some(row) => row,
            None => self.queue(operation, "merge").await?,
        };
        self.outcome(row).await
    }

    /// Ends the pack, on a day or now, or takes that back.
    pub(super) async fn expire(&self, day: Option<u32>) -> Result<Value, String> {
        let operation = Operation::Expire { day };
        let row = match self.queued(&operation)? {
            Some(row) => row,
            None => self.queue(operation, "end of the pack").await?,
        };
        match self.answer_to(row).await? {
            None => Ok(json!({ "expires": self.ends_on(), "ended": self.has_ended() })),
            Some(Refusal::Occupied) => Err(
                "other devices share this account, or it is the operator's, which takes the mail for postmaster: it does not end"
                    .to_owned(),
            ),
            Some(refusal) => Err(refusal_reason(refusal)),
        }
    }

    /// UTC day on which the pack ends, or did.
    pub(super) fn ends_on(&self) -> Option<u32> {
        // A store that cannot be read says so elsewhere.
        self.store.expiry().ok().flatten().flatten()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ends_on().is_some_and(|day| day <= self.host.day())
    }

    /// What can be said before the relay is asked.
    fn may_give(&self, keys: u64, value: u64) -> Result<(), String> {
        let known = self.store.value();
        let reserved = self.store.reserved().map_err(|error| error.to_string())?;
        if keys < LINK_KEYS_MIN {
            return Err(format!("a pack has at least {LINK_KEYS_MIN} keys"));
        }
        if known.keys.checked_sub(keys) < Some(LINK_KEYS_MIN) {
            return Err(format!(
                "{} keys are left, and {LINK_KEYS_MIN} of them must stay",
                known.keys
            ));
        }
        if value > known.balance.saturating_sub(reserved) {
            return Err(format!(
                "{} µtok are left, {reserved} of them for the outbox",
                known.balance
            ));
        }
        Ok(())
    }

    /// Whether keys and value move by a queued row.
    pub(super) fn moves_value(&self, row: u64) -> Result<bool, String> {
        let is_it = |found: &OutboxRow| {
            found.row == row
                && found.state == OutboxState::Queued
                && matches!(
                    found.change.operation,
                    Operation::Split { .. }
                        | Operation::Device { .. }
                        | Operation::Drop { .. }
                        | Operation::Release { .. }
                        | Operation::Redeem { .. }
                )
        };
        Ok(self.rows()?.iter().any(is_it))
    }

    /// The row of this very change, if it waits for its answer.
    fn queued(&self, operation: &Operation) -> Result<Option<u64>, String> {
        let rows = self.rows()?.into_iter();
        let mut same = rows.filter(|row| row.state == OutboxState::Queued && row.change.operation == *operation);
        Ok(same.next().map(|row| row.row))
    }

    async fn outcome(&self, row: u64) -> Result<Value, String> {
        match self.answer_to(row).await? {
            None => Ok(json!({ "moved": true })),
            Some(refusal) => {
                // Judged after the relay has looked whether it carried the order out before.
                let is_certain = matches!(
                    refusal,
                    Refusal::Keys | Refusal::Value { .. } | Refusal::Limit | Refusal::DeviceLimit | Refusal::Occupied
                );
                Ok(json!({ "moved": false, "certain": is_certain, "reason": refusal_reason(refusal) }))
            }
        }
    }
}

/// Identifier and root of a pack that is on the disk.
fn new_pack(identifier: &str, root: &str) -> Result<(Identifier, Secret<32>), String> {
    let identifier = Identifier::parse(identifier).map_err(|_| "the identifier is none")?;
    let root = from_base64(root).and_then(|root| Secret::<32>::from_slice(&root));
    Ok((identifier, root.ok_or("the root is not in base64")?))
}

fn text(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64(bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}
