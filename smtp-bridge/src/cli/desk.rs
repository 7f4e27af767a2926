//! Whoever has the store: a running bridge, or this process. For commands that need no link.

use std::path::{Path, PathBuf};

use keypacks::deposit::WRAP;
use mailbox::HolderStore;
use mailbox::holder::{HolderFiles, HolderOptions};
use mailbox::holder_store::KeptParcel;
use mailbox::parcel::AliasChange;
use serde_json::Value;
use zeroize::Zeroizing;

use super::process::{self, Failure};
use super::sendmail::{self, Options};
use super::{Nested, PassphraseArgs, Settings, nesting};
use crate::bridge::commands::{Command, from_base64, to_base64};
use crate::bridge::opening::{Opened, Opening, go_far, index_of};
use crate::bridge::sealing::{Letter, Sealing, seal_control, take_login};
use crate::bridge::{ADDRESSES_WAIT, Hygiene};
use crate::control;
use crate::message::Address;
use crate::net::Host;

/// See the module.
pub(super) enum Desk {
    Beside { host: Host, dir: PathBuf },
    Here(Box<Own>),
}

/// A store that this process opened.
pub(super) struct Own {
    host: Host,
    store: HolderFiles,
    hygiene: Hygiene,
    local_address: String,
    /// Mail is to go over two relays, and the second one's pack is not there.
    is_awaiting: bool,
}

impl Desk {
    pub(super) async fn open(dir: &Path, passphrase: &PassphraseArgs) -> Result<Self, Failure> {
        Self::open_on(process::host(None)?, dir, passphrase).await
    }

    /// With a host of one's own: for tests that kill the process at a disk operation.
    pub(super) async fn open_on(host: Host, dir: &Path, passphrase: &PassphraseArgs) -> Result<Self, Failure> {
        if host.net.dial_local(&dir.join(control::SOCKET)).await.is_ok() {
            let dir = dir.to_owned();
            return Ok(Desk::Beside { host, dir });
        }
        // What the user settled is in the folder that was named.
        let settings = Settings::read(dir)?;
        let is_awaiting = settings.nested == Some(Nested::Auto) && nesting::made_on(dir)?.is_none();
        let dir = &nesting::serving(dir)?;
        let (options, passphrase) = (HolderOptions::default(), passphrase.read()?);
        let opened = HolderFiles::open(&host.disk, dir, &passphrase, &options, &host.entropy);
        let (store, actor) = opened.map_err(Failure::from_error)?;
        let started = host.workers.actor("commit", Box::pin(actor));
        started.map_err(Failure::from_error)?;
        Ok(Desk::Here(Box::new(Own {
            host,
            store,
            hygiene: settings.hygiene(),
            local_address: format!("{}@localhost", settings.user),
            is_awaiting,
        })))
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        if let Desk::Here(own) = self {
            own.store.stop().await;
        }
        Ok(())
    }

    /// Seals a message; returns the index of its parcel.
    pub(super) async fn seal(&self, recipients: &[String], most: Option<u64>, raw: &[u8]) -> Result<u64, Failure> {
        let options = Options {
            from_header: true,
            dots_are_text: true,
            recipients: recipients.to_vec(),
            ..Options::default()
        };
        match self {
            Desk::Beside { host, dir } => {
                let settings = control::ask(host, dir, &Command::Settings).await?;
                let own = format!("{}@localhost", settings["user"].as_str().unwrap_or_default());
                let letter = sendmail::prepare(raw, &options, &own);
                let command = Command::Seal {
                    sender: letter.sender,
                    recipients: letter.recipients,
                    message: to_base64(&letter.octets),
                    debit_max: most,
                };
                let answer = control::ask(host, dir, &command).await?;
                number(&answer, "index")
            }
            Desk::Here(own) => {
                let letter = sendmail::prepare(raw, &options, &own.local_address);
                let sealing = Sealing {
                    host: &own.host,
                    store: &own.store,
                    hygiene: &own.hygiene,
                    local_address: &own.local_address,
                };
                let letter = Letter {
                    sender: &letter.sender,
                    recipients: &letter.recipients,
                    octets: &letter.octets,
                    debit_max: most,
                };
                sealing.seal(&letter).await.map_err(Failure)
            }
        }
    }

    /// Seals what confirms deposits; returns the index of its parcel and how many it confirms.
    pub(super) async fn seal_control(&self, alias: Option<AliasChange>) -> Result<(u64, u64), Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::SealControl { alias }).await?;
                Ok((number(&answer, "index")?, number(&answer, "confirmed")?))
            }
            // It would open an address of the pack that is to be the entry alone.
            Desk::Here(own) if own.is_awaiting => Err(Failure(ADDRESSES_WAIT.to_owned())),
            Desk::Here(own) => {
                let (index, confirmed) = seal_control(&own.host, &own.store, alias).await.map_err(Failure)?;
                Ok((index, confirmed as u64))
            }
        }
    }

    /// Takes an index for a login.
    pub(super) async fn login(&self) -> Result<u64, Failure> {
        match self {
            Desk::Beside { host, dir } => number(&control::ask(host, dir, &Command::Login).await?, "index"),
            Desk::Here(own) => take_login(&own.host, &own.store).await.map_err(Failure),
        }
    }

    /// Takes a login for used. `false`: none of this index waits for its receipt.
    pub(super) async fn login_used(&self, index: u64) -> Result<bool, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::LoginUsed { index }).await?;
                answer["known"].as_bool().ok_or_else(unreadable)
            }
            Desk::Here(own) => own.store.login_used(index).await.map_err(Failure::from_error),
        }
    }

    /// The octets of a parcel that has no receipt; of a login its name and password.
    pub(super) async fn parcel(&self, index: u64) -> Result<Vec<u8>, Failure> {
        let none = || Failure(format!("nothing of index {index} waits for its receipt"));
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::Parcel { index }).await?;
                answer["parcel"].as_str().and_then(from_base64).ok_or_else(none)
            }
            Desk::Here(own) => own.store.parcel(index).map_err(Failure::from_error)?.ok_or_else(none),
        }
    }

    pub(super) async fn parcels(&self) -> Result<Vec<KeptParcel>, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let mut answer = control::ask(host, dir, &Command::Parcels).await?;
                serde_json::from_value(answer["parcels"].take()).map_err(|_| unreadable())
            }
            Desk::Here(own) => Ok(own.store.parcels()),
        }
    }

    pub(super) async fn relay_domain(&self) -> Result<String, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let answer = control::ask(host, dir, &Command::Parcels).await?;
                Ok(answer["relay_domain"].as_str().unwrap_or_default().to_owned())
            }
            Desk::Here(own) => Ok(own.store.facts().relay_domain),
        }
    }

    /// Post indices of wraps that are still to be opened, and the first index that nothing was collected of.
    pub(super) async fn indices(&self, wraps: &[u8]) -> Result<(Vec<Option<u64>>, u64), Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let wraps = to_base64(wraps);
                let mut answer = control::ask(host, dir, &Command::Wraps { wraps }).await?;
                let indices = serde_json::from_value(answer["indices"].take()).map_err(|_| unreadable())?;
                Ok((indices, number(&answer, "from")?))
            }
            Desk::Here(own) => {
                let found = wraps.chunks(WRAP).map(|wrap| index_of(&own.store, wrap));
                let found: Result<_, _> = found.collect();
                Ok((found.map_err(Failure::from_error)?, own.store.collect_from()))
            }
        }
    }

    /// Goes on at the first of these wraps, however far ahead; returns how many indices were passed over. `tell` hears how
    /// many were looked at, but of a running bridge.
    pub(super) async fn go_far(
        &self,
        wraps: &[u8],
        tell: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Option<u64>, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let wraps = to_base64(wraps);
                Ok(control::ask(host, dir, &Command::GoFar { wraps }).await?["passed"].as_u64())
            }
            Desk::Here(own) => go_far(&own.host, &own.store, wraps, tell)
                .await
                .map_err(Failure::from_error),
        }
    }

    /// Opens a deposit that was carried. `gives`: its message is returned too.
    pub(super) async fn open_deposit(&self, carried: &[u8], gives: bool) -> Result<Opened, Failure> {
        match self {
            Desk::Beside { host, dir } => {
                let deposit = to_base64(carried);
                let mut answer = control::ask(host, dir, &Command::Open { deposit, gives }).await?;
                let message = answer["message"].as_str().and_then(from_base64);
                Ok(Opened {
                    outcome: serde_json::from_value(answer["outcome"].take()).map_err(|_| unreadable())?,
                    message: message.map(Zeroizing::new),
                })
            }
            Desk::Here(own) => {
                let user = Address::parse(&own.local_address)
                    .map_err(|_| Failure("the user in bridge.toml is no name for a mailbox".to_owned()))?;
                let opening = Opening {
                    host: &own.host,
                    store: &own.store,
                    user: &user,
                };
                opening.open(carried, gives).await.map_err(Failure::from_error)
            }
        }
    }
}

fn number(answer: &Value, name: &str) -> Result<u64, Failure> {
    answer[name].as_u64().ok_or_else(unreadable)
}

fn unreadable() -> Failure {
    Failure("the running process gave an unreadable answer".to_owned())
}
