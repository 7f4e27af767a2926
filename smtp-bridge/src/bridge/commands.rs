//! What a user may ask of a running bridge, through its control socket.

use std::sync::Arc;
use std::time::Duration;

use keypacks::deposit::WRAP;
use ledger::Services;
use mailbox::HolderStore;
use mailbox::holder_store::{AliasRoute, OutboxRow, OutboxState};
use mailbox::parcel::AliasChange;
use mailbox::request::{Operation, Proof, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Bridge;
use super::opening::{Opening, go_far, index_of};
use super::procuring::Order;
use super::sealing::{Letter, Sealing, refuse_second_alias, seal_control, take_login};
use crate::control::Commands;
use crate::holder::LinkState;
use crate::message::{Address, base64};

mod aliases;
mod status;
mod words;

use self::aliases::label_of;
pub(super) use self::words::{link_state, row_words};
use self::words::{refused, row};

/// A command on the control socket.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Value, keys, link and outbox at a glance.
    Status,
    /// Settings for a mail client, password included.
    Settings,
    /// Address of the local page, its token included.
    Page,
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
        /// What its holder calls it.
        #[serde(default)]
        label: Option<String>,
        /// Days until it is closed.
        #[serde(default)]
        days: Option<u64>,
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
    /// Sets or removes what an alias's holder calls it.
    AliasLabel {
        /// Full address.
        address: String,
        /// Nothing removes it.
        label: Option<String>,
    },
    /// Has an alias closed after some days, or not.
    AliasExpire {
        /// Full address.
        address: String,
        /// Days from now; nothing is never.
        days: Option<u64>,
    },
    /// What was credited and debited, by day and kind, as the relay has it.
    Statement,
    /// Seals a message into a parcel, which is kept until its receipt comes.
    Seal {
        /// Address of an alias, or `user@localhost`.
        sender: String,
        /// Who is to get it.
        recipients: Vec<String>,
        /// The message in base64.
        message: String,
        /// Most that it may cost, in µtok.
        debit_max: Option<u64>,
    },
    /// Parcels without a receipt.
    Parcels,
    /// The octets of such a parcel in base64.
    Parcel {
        /// Its index.
        index: u64,
    },
    /// Has the relay give the pack a new root.
    Reroot {
        /// Verifier of the recovery code that the next one will want.
        recovery: [u8; 32],
        /// The recovery code in force, if there is one.
        proof: Option<[u8; 16]>,
    },
    /// Seals what confirms deposits and asks how the pack stands.
    SealControl {
        /// What becomes of an alias besides.
        alias: Option<AliasChange>,
    },
    /// Takes an index for a login.
    Login,
    /// Takes a login for used whose receipt is lost.
    LoginUsed {
        /// Its index.
        index: u64,
    },
    /// Where wraps stand in the sequence that came without a link.
    Wraps {
        /// The wraps one behind the other, in base64.
        wraps: String,
    },
    /// Goes on at the first of these wraps, however far ahead.
    GoFar {
        /// The wraps one behind the other, in base64.
        wraps: String,
    },
    /// Opens a deposit that came without a link.
    Open {
        /// Wrap and body in base64.
        deposit: String,
        /// Whether its message is wanted.
        gives: bool,
    },
    /// What a pack file says of the relay, and what there is to give away.
    PackFacts,
    /// Moves keys and value to a pack that is on the disk already.
    Split {
        /// The new pack's identifier.
        identifier: String,
        /// Its root in base64.
        root: String,
        /// Its link keys.
        keys: u64,
        /// Its value, in µtok.
        value: u64,
        /// Whether it may have been asked for before: then the relay alone knows whether there is enough.
        #[serde(default)]
        resumed: bool,
    },
    /// Makes another device of a pack that is on the disk already.
    Device {
        /// The new pack's identifier.
        identifier: String,
        /// Its root in base64.
        root: String,
        /// Its link keys.
        keys: u64,
        /// Whether it may have been asked for before.
        #[serde(default)]
        resumed: bool,
    },
    /// Devices of the account, as the relay has them.
    Devices,
    /// What the relay's pool offers.
    Mixing,
    /// How the cover of the link stands, and what the relay asks for it.
    Cover,
    /// Ends another device of the account.
    DropDevice {
        /// Its number.
        device: u32,
    },
    /// Which packs at further relays the relay procures.
    Offers,
    /// The relays of the federation.
    Directory {
        /// Whether the relay is asked for it first.
        #[serde(default)]
        fetch: bool,
    },
    /// The pack at a second relay that a bridge which is to be nested buys.
    SecondPack,
    /// Which way mail goes, and who learns what by it.
    Routes,
    /// Settles which way mail of an alias must go.
    SetRoute {
        /// Full address.
        address: String,
        /// Nothing is whichever there is.
        route: Option<AliasRoute>,
    },
    /// What the directory says of a relay that a pack is to be had at.
    DirectoryRelay {
        /// Its domain.
        domain: String,
    },
    /// Has the relay procure a pack, whose secrets are on the disk already, or says how that stands.
    Procure {
        /// Domain of the further relay.
        relay: String,
        /// X-Wing public key in base64.
        kem: String,
        /// X25519 public key in base64.
        dh: String,
        /// Link keys of the pack.
        keys: u64,
        /// Its value, in µtok.
        value: u64,
        /// Most that may be debited, in µtok.
        debit_max: u64,
    },
    /// How such an order stands.
    Procured {
        /// SHA-256 of its X-Wing public key, in base64.
        order: String,
    },
    /// Forgets such an order.
    ProcureEnd {
        /// The same.
        order: String,
    },
    /// Takes what another pack released.
    Redeem {
        /// The voucher in base64.
        voucher: String,
    },
    /// Ends the pack.
    Expire {
        /// UTC day; one that has come is now, and none takes back one that has not.
        day: Option<u32>,
    },
    /// Looks for the relay's position, with a data folder that was restored from a copy.
    Resume,
    /// Asks the relay for news now.
    Refresh,
    /// Ends the process cleanly.
    Stop,
}

/// Longest wait for the relay's answer to a change of aliases.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(45);

/// The commands of a running bridge.
pub(super) struct UserCommands<S>(pub(super) Arc<Bridge<S>>);

impl<S: HolderStore> Commands for UserCommands<S> {
    type Command = Command;

    async fn command(&self, command: Command) -> Result<Value, String> {
        self.0.command(command).await
    }
}

impl<S: HolderStore> Bridge<S> {
    pub(super) async fn command(self: &Arc<Self>, command: Command) -> Result<Value, String> {
        match command {
            Command::Status => self.status(),
            Command::Settings => self.settings(),
            Command::Page => match self.ports.page {
                Some(at) => {
                    let token = self.page_keys.draw_token(&self.host);
                    Ok(json!({ "url": format!("http://{at}/?token={}", token.as_str()) }))
                }
                None => Err("there is no page: set 'page' in bridge.toml, or start the bridge with --page".to_owned()),
            },
            Command::Outbox => {
                let now = self.host.clock.unix_seconds();
                let rows: Vec<Value> = self.rows()?.iter().map(|found| row(found, now)).collect();
                Ok(json!({ "rows": rows, "parcels": self.store.parcels() }))
            }
            Command::Cancel { row } if self.moves_value(row)? => Err(
                "keys and value are on their way by it, and the relay may have moved them: it ends with its answer"
                    .to_owned(),
            ),
            Command::Cancel { row } => match self.store.cancel(row).await.map_err(|error| error.to_string())? {
                true => Ok(json!({ "cancelled": row })),
                false => Err("there is no such row that can still be cancelled: see 'postern outbox'".to_owned()),
            },
            Command::Aliases => Ok(json!({ "aliases": self.store.aliases().map_err(|error| error.to_string())? })),
            Command::AliasNew { local, label, days } => self.alias_new(local, label, days).await,
            Command::AliasClose { address } => self.alias_close(&address).await,
            Command::AliasName { address, display_name } => self.alias_name(&address, display_name).await,
            Command::AliasLabel { address, label } => {
                let label = label_of(label)?;
                self.alter(&address, move |alias| alias.label = label.clone()).await
            }
            Command::AliasExpire { address, days } => {
                let expires = self.after(days);
                self.alter(&address, move |alias| alias.expires = expires).await
            }
            Command::Statement => self.statement().await,
            Command::Seal {
                sender,
                recipients,
                message,
                debit_max,
            } => self.seal(&sender, &recipients, &message, debit_max).await,
            Command::Parcels => {
                let domain = self.store.facts().relay_domain;
                Ok(json!({ "parcels": self.store.parcels(), "relay_domain": domain }))
            }
            Command::Parcel { index } => {
                let parcel = self.store.parcel(index).map_err(|error| error.to_string())?;
                Ok(json!({ "parcel": parcel.map(|parcel| to_base64(&parcel)) }))
            }
            Command::Reroot { recovery, proof } => self.reroot(recovery, proof).await,
            Command::SealControl { alias } => {
                self.refuse_while_awaiting()?;
                let _spending = self.spending.lock().await;
                let (index, confirmed) = seal_control(&self.host, &self.store, alias).await?;
                Ok(json!({ "index": index, "confirmed": confirmed }))
            }
            Command::Login => Ok(json!({ "index": take_login(&self.host, &self.store).await? })),
            Command::LoginUsed { index } => {
                let known = self.store.login_used(index).await.map_err(|error| error.to_string())?;
                Ok(json!({ "known": known }))
            }
            Command::Wraps { wraps } => {
                let wraps = from_base64(&wraps).ok_or("the wraps are not in base64")?;
                let found = wraps.chunks(WRAP).map(|wrap| index_of(&self.store, wrap));
                let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
                Ok(json!({ "indices": found, "from": self.store.collect_from() }))
            }
            Command::GoFar { wraps } => {
                let wraps = from_base64(&wraps).ok_or("the wraps are not in base64")?;
                let passed = go_far(&self.host, &self.store, &wraps, &mut |_| {}).await;
                Ok(json!({ "passed": passed.map_err(|error| error.to_string())? }))
            }
            Command::Open { deposit, gives } => self.open(&deposit, gives).await,
            Command::PackFacts => self.pack_facts(),
            Command::Split {
                identifier,
                root,
                keys,
                value,
                resumed,
            } => self.split((&identifier, &root), (keys, value), resumed).await,
            Command::Device {
                identifier,
                root,
                keys,
                resumed,
            } => self.device((&identifier, &root), keys, resumed).await,
            Command::Devices => self.devices().await,
            Command::Mixing => self.mixing().await,
            Command::Cover => self.cover().await,
            Command::DropDevice { device } => self.drop_device(device).await,
            Command::Offers => self.offers().await,
            Command::Directory { fetch } => self.directory(fetch).await,
            Command::SecondPack => self.second_pack(),
            Command::Routes => self.routes(),
            Command::SetRoute { address, route } => self.set_route(&address, route).await,
            Command::DirectoryRelay { domain } => self.directory_relay(&domain),
            Command::Procure {
                relay,
                kem,
                dh,
                keys,
                value,
                debit_max,
            } => {
                let order = Order {
                    relay: &relay,
                    kem: &kem,
                    dh: &dh,
                    keys,
                    value,
                    debit_max,
                };
                self.procure(&order).await
            }
            Command::Procured { order } => self.procured(&order),
            Command::ProcureEnd { order } => self.procure_end(&order).await,
            Command::Redeem { voucher } => self.redeem(&voucher).await,
            Command::Expire { day } => self.expire(day).await,
            Command::Resume => self.resume().await,
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

    /// What the user has in the outbox.
    pub(super) fn rows(&self) -> Result<Vec<OutboxRow>, String> {
        let mut rows = self.store.outbox().map_err(|error| error.to_string())?;
        rows.retain(|row| !self.is_loop(row));
        Ok(rows)
    }

    /// Looks for the relay's position, and waits a while for the link.
    async fn resume(&self) -> Result<Value, String> {
        if self.holder.state() == LinkState::Linked {
            return Err("the link stands: there is nothing to look for".to_owned());
        }
        let mut changes = self.holder.changes();
        self.holder.resume();
        let linked = changes.wait_for(|state| *state == LinkState::Linked);
        let is_linked = matches!(tokio::time::timeout(ANSWER_WAIT_MAX, linked).await, Ok(Ok(_)));
        Ok(json!({ "linked": is_linked, "keys": self.store.value().keys }))
    }

    async fn statement(&self) -> Result<Value, String> {
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.statement()).await;
        let services = asked.ok().flatten().ok_or(
            "the relay cannot be asked now: a statement is made by the relay, so try again when 'postern status' says linked",
        )?;
        let row = |sum: &Services| json!({ "day": sum.day, "kind": sum.kind.name(), "count": sum.count, "credit": sum.credit, "debit": sum.debit });
        Ok(json!({ "services": services.iter().map(row).collect::<Vec<_>>() }))
    }

    async fn mixing(&self) -> Result<Value, String> {
        let asked = tokio::time::timeout(ANSWER_WAIT_MAX, self.holder.mixing()).await;
        let mixing = asked.ok().flatten().ok_or(
            "the relay cannot be asked now, which alone knows its pool: try again when 'postern status' says linked",
        )?;
        Ok(json!({ "default": self.default_mix().name(), "offer": mixing }))
    }

    async fn seal(
        &self,
        sender: &str,
        recipients: &[String],
        message: &str,
        debit_max: Option<u64>,
    ) -> Result<Value, String> {
        let octets = Zeroizing::new(from_base64(message).ok_or("the message is not in base64")?);
        let sealing = Sealing {
            host: &self.host,
            store: &self.store,
            hygiene: &self.hygiene,
            local_address: &self.local_address(),
        };
        let letter = Letter {
            sender,
            recipients,
            octets: &octets,
            debit_max,
        };
        let _spending = self.spending.lock().await;
        Ok(json!({ "index": sealing.seal(&letter).await? }))
    }

    async fn open(&self, deposit: &str, gives: bool) -> Result<Value, String> {
        let carried = from_base64(deposit).ok_or("the deposit is not in base64")?;
        let user = Address::parse(&self.local_address()).map_err(|_| "the user is no name for a mailbox")?;
        let opening = Opening {
            host: &self.host,
            store: &self.store,
            user: &user,
        };
        let opened = opening.open(&carried, gives).await.map_err(|error| error.to_string())?;
        let message = opened.message.map(|message| to_base64(&message));
        Ok(json!({ "outcome": opened.outcome, "message": message }))
    }

    /// The UTC second that so many days lead to.
    fn after(&self, days: Option<u64>) -> Option<u64> {
        days.map(|days| {
            self.host
                .clock
                .unix_seconds()
                .saturating_add(days.saturating_mul(86_400))
        })
    }

    /// Has the relay give the pack a new root, and waits a while for it.
    async fn reroot(&self, recovery: [u8; 32], proof: Option<[u8; 16]>) -> Result<Value, String> {
        let before = self.store.rooting().number;
        if before > 0 && proof.is_none() {
            return Err("this pack has a recovery code, which is wanted for new keys: 'postern rekey'".to_owned());
        }
        let now = self.host.clock.unix_seconds();
        let row = self.store.begin_reroot(recovery, proof.map(Proof), now).await;
        if let Some(refusal) = self.answer_to(row.map_err(|error| error.to_string())?).await? {
            return Err(refused(refusal));
        }
        match self.store.rooting().number {
            number if number > before => Ok(json!({ "root": number })),
            _ => Err("the relay no longer knows whether it gave the pack new keys: ask its operator".to_owned()),
        }
    }

    /// Queues a change and waits for its answer.
    async fn change(&self, operation: Operation) -> Result<(), String> {
        let row = {
            let _spending = self.spending.lock().await;
            if let Operation::AliasOpen { local } | Operation::AliasClose { local } = &operation {
                refuse_second_alias(&self.store, local, true)?;
            }
            self.queue(operation, "alias").await?
        };
        match self.answer_to(row).await? {
            None => Ok(()),
            Some(refusal) => Err(refused(refusal)),
        }
    }

    /// Queues a change.
    pub(super) async fn queue(&self, operation: Operation, label: &str) -> Result<u64, String> {
        let now = self.host.clock.unix_seconds();
        let queued = self.store.enqueue_change(operation, label.into(), now);
        queued.await.map_err(|error| error.to_string())
    }

    /// Waits for the answer to a queued change. `Some`: it is refused for good.
    pub(super) async fn answer_to(&self, row: u64) -> Result<Option<Refusal>, String> {
        let mut outbox = self.store.outbox_changed();
        let answered = async {
            loop {
                outbox.borrow_and_update();
                match self
                    .rows()?
                    .into_iter()
                    .find(|found| found.row == row)
                    .map(|found| found.state)
                {
                    None => return Ok(None),
                    Some(OutboxState::Refused(refusal)) => {
                        // The person is told: nothing more is to be done with the row.
                        self.store.cancel(row).await.map_err(|error| error.to_string())?;
                        return Ok(Some(refusal));
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

/// Bytes on the control socket.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    base64(bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

/// What [`base64`] wrote.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    mail_parser::decoders::base64::base64_decode(text.as_bytes())
}
