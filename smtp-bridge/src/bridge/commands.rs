//! What a user may ask of a running bridge, through its control socket.

use std::sync::Arc;
use std::time::Duration;

use mailbox::HolderStore;
use mailbox::holder_store::{OutboxRow, OutboxState};
use mailbox::request::{Operation, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Bridge;
use crate::control::Commands;
use crate::holder::LinkState;
use crate::names;

/// A command on the control socket.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Value, keys, link and outbox at a glance.
    Status,
    /// Settings for a mail client, password included.
    Settings,
    /// Rows of the outbox.
    Outbox,
    /// Drops a row of the outbox.
    Cancel {
        /// Row number.
        row: u64,
    },
    /// Aliases of the pack.
    Aliases,
    /// Opens an alias.
    AliasNew {
        /// Local part; a random one where it is missing.
        local: Option<String>,
    },
    /// Closes an alias.
    AliasClose {
        /// Full address.
        address: String,
    },
    /// Sets or removes an alias's display name.
    AliasName {
        /// Full address.
        address: String,
        /// What recipients see before the address; nothing removes it.
        display_name: Option<String>,
    },
    /// Asks the relay for news now.
    Refresh,
    /// Ends the process cleanly.
    Stop,
}

/// Longest wait for the relay's answer to a change of aliases.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(45);

/// The commands of a running bridge.
pub(super) struct UserCommands<S>(pub(super) Arc<Bridge<S>>);

impl<S: HolderStore> Commands for UserCommands<S> {
    type Command = Command;

    async fn command(&self, command: Command) -> Result<Value, String> {
        self.0.command(command).await
    }
}

impl<S: HolderStore> Bridge<S> {
    async fn command(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Status => self.status(),
            Command::Settings => Ok(json!({ "user": self.user, "password": *self.password })),
            Command::Outbox => Ok(json!({ "rows": self.rows()?.iter().map(row).collect::<Vec<_>>() })),
            Command::Cancel { row } => match self.store.cancel(row).await.map_err(|error| error.to_string())? {
                true => Ok(json!({ "cancelled": row })),
                false => Err("there is no such row that can still be cancelled: see 'postern outbox'".to_owned()),
            },
            Command::Aliases => Ok(json!({ "aliases": self.store.aliases().map_err(|error| error.to_string())? })),
            Command::AliasNew { local } => self.alias_new(local).await,
            Command::AliasClose { address } => self.alias_close(&address).await,
            Command::AliasName { address, display_name } => self.alias_name(&address, display_name).await,
            Command::Refresh => {
                self.holder.refresh();
                Ok(json!({}))
            }
            Command::Stop => {
                self.stop.send_replace(true);
                Ok(json!({}))
            }
        }
    }

    fn rows(&self) -> Result<Vec<OutboxRow>, String> {
        self.store.outbox().map_err(|error| error.to_string())
    }

    fn status(&self) -> Result<Value, String> {
        let value = self.store.value();
        let rows = self.rows()?;
        let waiting = rows
            .iter()
            .filter(|row| matches!(row.change.operation, Operation::Submit { .. }))
            .count();
        let state = match self.holder.state() {
            LinkState::Waiting => "waiting to try again",
            LinkState::Connecting => "connecting",
            LinkState::Linked => "linked",
            LinkState::KeysUsedUp => "link keys used up: get a new pack",
            LinkState::RolledBack => "the relay was restored from an old copy: ask its operator",
        };
        Ok(json!({
            "identifier": self.store.facts().identifier.to_text(),
            "balance": value.balance,
            "credits": value.credits,
            "debits": value.debits,
            "reserved": self.store.reserved().map_err(|error| error.to_string())?,
            "keys": value.keys,
            "heard": value.at,
            "prices": self.store.prices(),
            "aliases": self.store.aliases().map_err(|error| error.to_string())?.into_iter().filter(|alias| alias.open).map(|alias| alias.address).collect::<Vec<_>>(),
            "outbox": waiting,
            "linked": self.holder.state() == LinkState::Linked,
            "state": state,
        }))
    }

    async fn alias_new(&self, local: Option<String>) -> Result<Value, String> {
        let local = local
            .map(|local| local.to_ascii_lowercase())
            .unwrap_or_else(|| names::random(&self.host));
        if !names::is_alias_local(&local) {
            return Err("an alias is 1 to 64 of the letters a-z, digits, '.', '-' and '_', and begins and ends with a letter or digit".to_owned());
        }
        let address = format!("{local}@{}", self.store.facts().relay_domain);
        self.change(Operation::AliasOpen { local }).await?;
        Ok(json!({ "address": address }))
    }

    async fn alias_close(&self, address: &str) -> Result<Value, String> {
        let alias = self.alias(address)?;
        let (local, _) = alias.address.split_once('@').ok_or("the alias has no local part")?;
        self.change(Operation::AliasClose {
            local: local.to_owned(),
        })
        .await?;
        Ok(json!({ "closed": alias.address }))
    }

    async fn alias_name(&self, address: &str, display_name: Option<String>) -> Result<Value, String> {
        let mut alias = self.alias(address)?;
        alias.display_name = display_name.filter(|name| !name.is_empty());
        self.store
            .put_alias(alias.clone())
            .await
            .map_err(|error| error.to_string())?;
        Ok(json!({ "address": alias.address, "display_name": alias.display_name }))
    }

    fn alias(&self, address: &str) -> Result<mailbox::holder_store::HolderAlias, String> {
        let aliases = self.store.aliases().map_err(|error| error.to_string())?;
        let found = aliases
            .into_iter()
            .find(|alias| alias.address.eq_ignore_ascii_case(address));
        found.ok_or_else(|| "this is not one of your aliases: see 'postern alias list'".to_owned())
    }

    /// Queues a change and waits for its answer.
    async fn change(&self, operation: Operation) -> Result<(), String> {
        let mut outbox = self.store.outbox_changed();
        let row = self
            .store
            .enqueue_change(operation, "alias".into(), self.host.clock.unix_seconds())
            .await
            .map_err(|error| error.to_string())?;
        let answered = async {
            loop {
                outbox.borrow_and_update();
                match self
                    .rows()?
                    .into_iter()
                    .find(|found| found.row == row)
                    .map(|found| found.state)
                {
                    None => return Ok(()),
                    Some(OutboxState::Refused(refusal)) => {
                        // The person was told: nothing more is to be done with the row.
                        self.store.cancel(row).await.map_err(|error| error.to_string())?;
                        return Err(refused(refusal));
                    }
                    Some(_) => outbox
                        .changed()
                        .await
                        .map_err(|_| "the bridge is stopping".to_owned())?,
                }
            }
        };
        let waited = tokio::time::timeout(ANSWER_WAIT_MAX, answered).await;
        waited.unwrap_or_else(|_| {
            Err(
                "the relay has not answered yet: the change stays in the outbox and is made as soon as there is a link"
                    .to_owned(),
            )
        })
    }
}

fn refused(refusal: Refusal) -> String {
    match refusal {
        Refusal::AliasTaken => "this alias is taken".to_owned(),
        Refusal::AliasUnknown => "the relay does not know this alias".to_owned(),
        Refusal::AliasLimit => "this pack has as many aliases as it may have".to_owned(),
        other => format!("the relay refused: {other:?}"),
    }
}

fn row(row: &OutboxRow) -> Value {
    let (state, reason) = match row.state {
        OutboxState::Queued => ("queued", String::new()),
        OutboxState::Held(Refusal::Value { shortfall }) => {
            ("held", format!("{shortfall} µtok are missing; it goes after a top-up"))
        }
        OutboxState::Held(Refusal::Price { price, .. }) => {
            ("held", format!("the price is now {price} µtok; it goes at that price"))
        }
        OutboxState::Held(other) => ("held", format!("{other:?}")),
        OutboxState::Refused(refusal) => ("refused", format!("{refusal:?}")),
        OutboxState::Unknown => ("unknown", "the relay no longer knows whether it was sent".to_owned()),
    };
    json!({ "row": row.row, "state": state, "label": row.label, "price": row.price, "reason": reason, "taken": row.taken })
}
