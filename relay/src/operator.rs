//! What an operator may ask of a running relay, through its control socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keypacks::pack::Identifier;
use keypacks::pad::Half;
use keypacks::rotation::{NoPolicy, Policy};
use keypacks::{Secret, chain::LINK_KEYS_MIN};
use mailbox::RelayStore;
use mailbox::relay_store::{IssueOrder, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smtp_bridge::control::Commands;
use smtp_bridge::smtp::Domain;

use crate::peers::Resumed;
use crate::{Relay, exit, hexadecimal};

/// How long the answer of a peer is waited for.
const PEER_WAIT_MAX: Duration = Duration::from_secs(20);
/// Most rows of the queue that are shown.
const QUEUE_ROWS_MAX: usize = 1_000;
/// Most rows of a statement that are shown.
const STATEMENT_ROWS_MAX: usize = 10_000;

/// A command on the control socket.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Issues a pack; the caller writes the file.
    Issue {
        /// Number of link keys.
        keys: u64,
        /// First value, in µtok.
        value: u64,
        /// Whether it receives postmaster's and abuse's mail.
        operator: bool,
        /// When its links go on under a new key, as [`Policy`] is written; empty is with each connection.
        #[serde(default)]
        rotate: String,
        /// Name of the pad that its links are under, which lies in the data folder already: 32 hexadecimal digits.
        #[serde(default)]
        pad: Option<String>,
        /// H of its second half, if its holder gets that from somebody else: 64 hexadecimal digits.
        #[serde(default)]
        half: Option<String>,
    },
    /// Credits an account, once for each id.
    TopUp {
        /// The pack's identifier, as `postern status` shows it.
        account: String,
        /// µtok.
        amount: u64,
        /// 32 hexadecimal digits; the same id is credited once.
        id: String,
    },
    /// Sums as kept.
    Totals,
    /// Sums recomputed from the postings, and every contradiction found.
    Audit,
    /// Reads everything that is kept and recomputes what can be.
    Verify,
    /// Copies the database, without keys, into an empty folder.
    Backup {
        /// The folder, as an absolute path.
        folder: PathBuf,
    },
    /// Deliveries waiting, without identifiers.
    Queue,
    /// Tries a delivery now, or all.
    QueueRetry {
        /// Its number in [`Command::Queue`]; all where it is missing.
        row: Option<u64>,
    },
    /// Gives a delivery up, and tells its sender.
    QueueDrop {
        /// Its number in [`Command::Queue`].
        row: u64,
    },
    /// Lets a pack send for every address of a domain, `*` for every domain, or no longer.
    SpeakFor {
        /// The pack's identifier.
        account: String,
        /// The domain, in lower case.
        domain: String,
        /// Whether it may.
        speaks: bool,
    },
    /// Other relays at which this one holds a pack.
    Peers,
    /// What this relay noted of what it paid at a peer, beside what that says.
    PeerCompare {
        /// The peer's name here.
        name: String,
    },
    /// Uses a peer again that took more than its price; else looks for where it stands with the pack held there, which somebody
    /// else has used.
    PeerResume {
        /// The peer's name here.
        name: String,
    },
    /// The card of this relay.
    Card,
    /// What a directory says of this relay.
    Describe,
    /// Packs ordered at other relays that are not made yet, without identifiers.
    Procurements,
    /// Credits the orders at a peer back that it will not answer any more.
    ProcurementsReturn {
        /// The peer's name here.
        peer: String,
        /// Also where the peer is configured, and may still make what it was asked for.
        even_if_sent: bool,
    },
    /// Lets an account draw value and keys on credit.
    Credit {
        /// The pack's identifier.
        account: String,
        /// Most that it may owe, in µtok.
        limit: u64,
    },
    /// Posts that so much of what an account owes was paid or set off.
    Settle {
        /// The pack's identifier.
        account: String,
        /// µtok.
        amount: u64,
        /// 32 hexadecimal digits; the same id counts once.
        id: String,
    },
    /// Postings of one account.
    Statement {
        /// The pack's identifier.
        account: String,
    },
    /// Ends the process cleanly.
    Stop,
}

/// What [`Command::Issue`] answers: all that the pack file is made of. Freed memory is wiped by the binaries' allocator.
#[derive(Serialize, Deserialize)]
pub struct IssuedPack {
    /// The pack's identifier as text.
    pub identifier: String,
    /// Root of the chains, 64 hexadecimal digits. The socket is the operator's own; it is kept nowhere.
    pub root: String,
    /// The relay's static X25519 key, 64 hexadecimal digits.
    pub relay_public: String,
    /// `host:port` of the link server.
    pub relay_address: String,
    /// Domain of the aliases.
    pub relay_domain: String,
    /// UTC day of issue.
    pub day: u32,
    /// When its links go on under a new key, as [`Policy`] is written.
    pub rotate: String,
}

/// The commands of a running relay.
pub(crate) struct Operator<S> {
    pub(crate) relay: Arc<Relay<S>>,
}

impl<S: RelayStore> Commands for Operator<S> {
    type Command = Command;

    async fn command(&self, command: Command) -> Result<Value, String> {
        let store = &self.relay.store;
        match command {
            Command::Issue {
                keys,
                value,
                operator,
                rotate,
                pad,
                half,
            } => self.issue(keys, value, operator, &rotate, pad.zip(Some(half))).await,
            Command::TopUp { account, amount, id } => {
                let identifier = identifier(&account)?;
                let id = hexadecimal::decode::<16>(&id).ok_or("the id is 32 hexadecimal digits")?;
                let credited = store.top_up(&identifier, amount, id, self.relay.host.day()).await;
                let balance = credited.map_err(|error| match error {
                    mailbox::StoreError::Invalid => "not credited: the pack has ended or its keys are used up, this id named another amount before, or the balance would be beyond all bounds".to_owned(),
                    error => sentence(error),
                })?;
                balance
                    .map(|balance| json!({ "balance": balance }))
                    .ok_or_else(no_account)
            }
            Command::Totals => {
                let mut totals = json!(store.totals().map_err(sentence)?);
                totals["frozen"] = json!(store.frozen_packs());
                let (pads, left) = store.pads();
                if pads > 0 {
                    totals["pads"] = json!(pads);
                    totals["pad_bytes"] = json!(left);
                }
                Ok(totals)
            }
            Command::Audit => {
                let store = store.clone();
                // It walks the whole book.
                let audit = self.relay.host.compute(move || store.audit()).await;
                let audit = audit.ok_or("the audit did not finish")?.map_err(sentence)?;
                Ok(json!({ "totals": audit.totals, "findings": audit.findings }))
            }
            Command::Verify => {
                let reader = store.clone();
                // It reads the whole store.
                let verified = self.relay.host.compute(move || reader.verify()).await;
                let mut verified = verified.ok_or("the verification did not finish")?.map_err(sentence)?;
                store.verify_slots(&mut verified).await.map_err(sentence)?;
                Ok(json!({
                    "totals": verified.audit.totals,
                    "findings": verified.audit.findings,
                    "rows": verified.rows,
                    "bodies": verified.bodies,
                    "slots": verified.slots,
                    "records": verified.records,
                    "bytes": verified.bytes,
                }))
            }
            Command::Backup { folder } => {
                let store = store.clone();
                let copied = self.relay.host.compute(move || store.backup(&folder)).await;
                let copied = copied
                    .ok_or("the backup did not finish")?
                    .map_err(|error| match error {
                        mailbox::StoreError::Invalid => "the folder is not empty: name a new one".to_owned(),
                        error => sentence(error),
                    })?;
                Ok(json!({ "rows": copied.rows, "bodies": copied.bodies, "bytes": copied.bytes }))
            }
            Command::Queue => {
                let rows = store.queue(QUEUE_ROWS_MAX).map_err(sentence)?;
                let now = self.relay.host.clock.unix_seconds();
                let rows = self.relay.waiting.show(rows).into_iter().map(|shown| {
                    json!({
                        "row": shown.number,
                        "age": now.saturating_sub(shown.row.accepted),
                        "attempts": shown.row.attempts,
                        "kilobytes": shown.row.kilobytes,
                        "due": (!shown.row.is_pooled).then_some(shown.row.due),
                        "pooled": shown.row.is_pooled,
                        "last": shown.last,
                    })
                });
                Ok(json!({ "rows": rows.collect::<Vec<Value>>() }))
            }
            Command::QueueRetry { row } => self.retry(row).await,
            Command::QueueDrop { row } => self.give_up(row).await,
            Command::Statement { account } => {
                let rows = store
                    .statement(&identifier(&account)?, STATEMENT_ROWS_MAX)
                    .map_err(sentence)?;
                rows.map(|rows| json!({ "rows": rows })).ok_or_else(no_account)
            }
            Command::SpeakFor {
                account,
                domain,
                speaks,
            } => {
                if domain != "*"
                    && (Domain::parse(&domain).is_none() || domain.bytes().any(|byte| byte.is_ascii_uppercase()))
                {
                    return Err("write the domain in lower case, or '*' for every domain".to_owned());
                }
                if domain == self.relay.config.domain {
                    return Err("nobody speaks for this relay's own domain but its own aliases".to_owned());
                }
                let done = store.speak_for(&identifier(&account)?, domain, speaks).await;
                match done.map_err(sentence)? {
                    true => Ok(json!({ "speaks": speaks })),
                    false => {
                        Err("there is no pack with this identifier, or another one speaks for the domain".to_owned())
                    }
                }
            }
            Command::Credit { account, limit } => {
                let granted = store.grant_credit(&identifier(&account)?, limit).await;
                match granted {
                    Ok(true) => Ok(json!({ "limit": limit })),
                    Ok(false) => Err(no_account()),
                    Err(mailbox::StoreError::Invalid) => Err("the limit is too high".to_owned()),
                    Err(error) => Err(sentence(error)),
                }
            }
            Command::Settle { account, amount, id } => {
                let id = hexadecimal::decode::<16>(&id).ok_or("the id is 32 hexadecimal digits")?;
                let identifier = identifier(&account)?;
                let settled = store.settle(&identifier, amount, id, self.relay.host.day());
                let credit = settled.await.map_err(|error| match error {
                    mailbox::StoreError::Invalid => {
                        "not posted: the account owes less, or this id named another payment before".to_owned()
                    }
                    error => sentence(error),
                })?;
                credit
                    .map(|credit| json!({ "owed": credit.owed(), "left": credit.left() }))
                    .ok_or_else(no_account)
            }
            Command::Peers => {
                let now = self.relay.host.clock.unix_seconds();
                Ok(json!({ "rows": self.relay.peers.show(now) }))
            }
            Command::PeerCompare { name } => {
                let report = self.relay.peers.compare(&name);
                let report = tokio::time::timeout(PEER_WAIT_MAX, report).await;
                match report {
                    Ok(None) => Err("no route goes by a peer of that name".to_owned()),
                    Ok(Some(Some(report))) => Ok(json!(report)),
                    Ok(Some(None)) | Err(_) => {
                        Err("the peer cannot be asked now: try again when 'posternd peer list' says linked".to_owned())
                    }
                }
            }
            Command::PeerResume { name } => {
                let resumed = tokio::time::timeout(PEER_WAIT_MAX, self.relay.peers.resume(&self.relay, &name)).await;
                match resumed {
                    Ok(None) => Err("no route goes by a peer of that name".to_owned()),
                    Ok(Some(Ok(Resumed::Stood))) => Err("the link stands: there is nothing to look for".to_owned()),
                    Ok(Some(Ok(Resumed::Linked))) => Ok(json!({ "linked": true })),
                    Ok(Some(Ok(Resumed::Used))) => Ok(json!({ "used": true })),
                    Ok(Some(Err(error))) => Err(sentence(error)),
                    Err(_) => Ok(json!({ "linked": false })),
                }
            }
            Command::Card => {
                let card = crate::directory::card(&self.relay);
                let text = card.to_text();
                let text = text.map_err(|_| "link_public, or link, is no host:port that a card can name")?;
                Ok(json!({ "card": text, "domain": card.domain, "address": card.address }))
            }
            Command::Describe => Ok(json!({ "descriptor": crate::directory::describe(&self.relay)? })),
            Command::Procurements => {
                let today = self.relay.host.day();
                let orders = store.procurements().map_err(sentence)?;
                let rows = orders.into_iter().map(|order| {
                    json!({
                        "peer": order.what.peer,
                        "keys": order.what.keys,
                        "value": order.what.value,
                        "price": order.what.price,
                        "days": today.saturating_sub(order.day),
                    })
                });
                Ok(json!({ "rows": rows.collect::<Vec<Value>>() }))
            }
            Command::ProcurementsReturn { peer, even_if_sent } => {
                let is_configured = self.relay.config.peer_names().contains(&peer);
                if is_configured && !even_if_sent {
                    return Err(
                        "this peer is configured, and may still answer: with --even-if-sent its orders are credited back all \
                         the same, and what it makes of them is your loss"
                            .to_owned(),
                    );
                }
                let orders = self.relay.peers.give_back(&self.relay, &peer).await;
                Ok(json!({ "returned": orders.map_err(sentence)? }))
            }
            Command::Stop => {
                self.relay.stop.send_replace(true);
                Ok(json!({}))
            }
        }
    }
}

impl<S: RelayStore> Operator<S> {
    async fn issue(
        &self,
        keys: u64,
        value: u64,
        operator: bool,
        rotate: &str,
        pad: Option<(String, Option<String>)>,
    ) -> Result<Value, String> {
        if keys < LINK_KEYS_MIN {
            return Err(format!(
                "a pack has at least {LINK_KEYS_MIN} link keys: the last 8 serve only balance, collection and confirmation"
            ));
        }
        let rotation = match rotate {
            "" => Policy::default(),
            text => text.parse().map_err(|error: NoPolicy| error.to_string())?,
        };
        if pad.is_some() && rotation.rotates() {
            return Err("a pad has no keys to rotate: leave --rotate out".to_owned());
        }
        let day = self.relay.host.day();
        let order = IssueOrder {
            link_keys: keys,
            credit: value,
            operator,
            day,
            rotation,
        };
        let store = &self.relay.store;
        let issued = match pad {
            None => store.issue(order).await,
            Some((name, half)) => {
                let name = hexadecimal::decode(&name).ok_or("the pad's name is 32 hexadecimal digits")?;
                let half = match half {
                    Some(digits) => {
                        let digest =
                            hexadecimal::decode(&digits).ok_or("the half's digest is 64 hexadecimal digits")?;
                        Some(Half::new(Secret::new(digest)))
                    }
                    None => None,
                };
                store.issue_on_pad(order, name, half).await
            }
        };
        let issued = issued.map_err(sentence)?;
        let root: &Secret<32> = &issued.root;
        Ok(json!(IssuedPack {
            identifier: issued.identifier.to_text(),
            root: hexadecimal::encode(root.expose()),
            relay_public: hexadecimal::encode(&self.relay.secret.public()),
            relay_address: self.relay.config.public_link(),
            relay_domain: self.relay.config.domain.clone(),
            day,
            rotate: rotation.to_string(),
        }))
    }
}

impl<S: RelayStore> Operator<S> {
    /// Makes deliveries due now. Each counts as a try that was put off.
    async fn retry(&self, row: Option<u64>) -> Result<Value, String> {
        let now = self.relay.host.clock.unix_seconds();
        let waits = |id| self.relay.store.delivery_kilobytes(id).is_some();
        let chosen = match row {
            Some(row) => vec![
                self.relay
                    .waiting
                    .find(row)
                    .filter(|id| waits(*id))
                    .ok_or_else(no_row)?,
            ],
            None => {
                let rows = self.relay.store.queue(QUEUE_ROWS_MAX).map_err(sentence)?;
                rows.iter()
                    .filter(|row| !row.is_pooled && row.due > now)
                    .map(|row| row.id)
                    .collect()
            }
        };
        let pool = self.relay.store.pool();
        if row.is_some() && pool.iter().any(|pooled| chosen.contains(&pooled.id)) {
            return Err("this delivery waits in the pool to be mixed, and leaves it in a round".to_owned());
        }
        let mut retried = 0;
        for id in chosen {
            // Whatever is under way is being tried already.
            if let Some(_hold) = self.relay.waiting.hold(id) {
                let again = Outcome::Retry { at: now };
                self.relay.store.finish(id, again).await.map_err(sentence)?;
                retried += 1;
            }
        }
        self.relay.waiting.wake();
        Ok(json!({ "retried": retried }))
    }

    async fn give_up(&self, row: u64) -> Result<Value, String> {
        let id = self.relay.waiting.find(row).ok_or_else(no_row)?;
        let Some(_hold) = self.relay.waiting.hold(id) else {
            return Err("this delivery is being tried right now: look at the queue again in a moment".to_owned());
        };
        if !self.relay.peers.take_back(id).await.map_err(sentence)? {
            return Err("this delivery was handed over to a peer and may have left: what becomes of it is told when that answers, or after the last try".to_owned());
        }
        match exit::give_up(&self.relay, id).await.map_err(sentence)? {
            true => Ok(json!({ "dropped": row })),
            false => Err(no_row()),
        }
    }
}

fn no_row() -> String {
    "no delivery of that number waits: numbers are those of 'posternd queue list' since the relay was started"
        .to_owned()
}

fn identifier(text: &str) -> Result<Identifier, String> {
    Identifier::parse(text).map_err(|_| "this is no identifier: copy it from 'postern status'".to_owned())
}

fn no_account() -> String {
    "this relay issued no pack of that identifier".to_owned()
}

fn sentence(error: mailbox::StoreError) -> String {
    error.to_string()
}
