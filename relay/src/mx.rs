//! Mail in: SMTP for the relay's aliases, stored as deposits.
//!
//! What is answered depends on the one alias alone, never on its siblings in the same account. Mail to the parcel address
//! is none for an alias: [`crate::parcels`] takes it.

use std::sync::Arc;
use std::time::Duration;

use mailbox::relay_store::{Account, Alias};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::message::{LoopCounter, limits};
use smtp_bridge::net::{Listener, stopped};
use smtp_bridge::smtp::replies::{self, Reply};
use smtp_bridge::smtp::{self, Door, ForwardPath, Reports, ReversePath};
use tokio::sync::watch;

use crate::Relay;
use crate::budget::Room;
use crate::config::RelayConfig;
use crate::gate::Gate;
use crate::parcels::ParcelMail;
use crate::seal::Sealing;

/// Largest message taken for an alias, in bytes. SIZE announces more where there are parcels.
pub(crate) const SIZE_MAX: u64 = 60 * 1_048_576;
/// How long messages that are coming in may take when the relay stops.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// What is first set aside for a message in memory, in bytes.
const FIRST_ROOM: usize = 64 * 1024;

// With its envelope and a MAC every 15,984 bytes it still fits the largest class.
const _: () = assert!(SIZE_MAX + SIZE_MAX / 900 + 4_096 <= keypacks::deposit::CLASS_KILOBYTES_MAX as u64 * 1_000);

/// Largest message that SIZE announces, in bytes.
pub(crate) fn size_announced(config: &RelayConfig) -> u64 {
    match config.takes_parcels() {
        true => crate::parcels::SIZE_MAX.max(SIZE_MAX),
        false => SIZE_MAX,
    }
}

/// Room for a message of `bytes`: the body, and as much again for the moment in which it grows or is written out.
pub(crate) const fn room_for(bytes: usize) -> usize {
    FIRST_ROOM + 2 * bytes
}

/// Accepts connections until `stop` turns true, and sees those off that are open then.
pub(crate) async fn serve<S: RelayStore>(
    relay: Arc<Relay<S>>,
    door: Door,
    mut listener: Box<dyn Listener>,
    mut stop: watch::Receiver<bool>,
) {
    let gate = Gate::new(relay.config.mx_connections_max);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, source)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let door = door.clone();
        match gate.try_place().and_then(|place| gate.pass(source, place)) {
            Some(pass) => {
                let backend = Mx { relay: relay.clone() };
                relay.host.task(async move {
                    smtp::serve(stream, door, backend).await;
                    drop(pass);
                });
            }
            None => relay.host.task(smtp::turn_away(stream)),
        }
    }
    drop(listener);
    // The sessions end by themselves, those that take a message in after its answer; slow ones are cut.
    let _cut = tokio::time::timeout(LAST_WORDS, gate.empty()).await;
}

/// The MX's side of the SMTP engine.
struct Mx<S> {
    relay: Arc<Relay<S>>,
}

impl<S: RelayStore> Mx<S> {
    /// Whether this is where parcels go. An alias that was opened before there were parcels keeps its mail.
    fn is_for_parcels(&self, recipient: &ForwardPath) -> bool {
        let config = &self.relay.config;
        match recipient {
            ForwardPath::Postmaster => false,
            ForwardPath::Mailbox(mailbox) => {
                mailbox.domain().as_str() == config.domain
                    && config.is_parcel_local(mailbox.local())
                    && self.alias(recipient).is_err()
            }
        }
    }

    /// The open alias behind a recipient.
    fn alias(&self, recipient: &ForwardPath) -> Result<Alias, Reply> {
        let address = match recipient {
            ForwardPath::Postmaster => format!("postmaster@{}", self.relay.config.domain),
            ForwardPath::Mailbox(mailbox) if mailbox.domain().as_str() == self.relay.config.domain => {
                format!("{}@{}", mailbox.local().to_ascii_lowercase(), self.relay.config.domain)
            }
            ForwardPath::Mailbox(_) => return Err(replies::NO_RELAYING),
        };
        match self.relay.store.alias(&address) {
            Some(alias) if alias.open => Ok(alias),
            // RFC 5321 4.5.1 wants postmaster to work: until the operator has a pack, its mail is asked to wait.
            None if is_reserved(&address) => Err(replies::TRY_LATER),
            _ => Err(replies::UNKNOWN_RECIPIENT),
        }
    }
}

fn is_reserved(address: &str) -> bool {
    address.starts_with("postmaster@") || address.starts_with("abuse@")
}

impl<S: RelayStore> smtp::Backend for Mx<S> {
    type Message = Message<S>;

    fn auth(&self, _user: &[u8], _password: &[u8]) -> bool {
        false
    }

    fn mail(&self, _reverse_path: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        Ok(())
    }

    async fn rcpt(
        &self,
        _reverse_path: &ReversePath,
        recipient: &ForwardPath,
        so_far: &[ForwardPath],
    ) -> Result<(), Reply> {
        let is_for_parcels = self.is_for_parcels(recipient);
        if so_far.iter().any(|other| self.is_for_parcels(other) != is_for_parcels) {
            // The one is opened, the other sealed: the client comes again for those that are left.
            return Err(replies::TOO_MANY_RECIPIENTS);
        }
        if is_for_parcels {
            return Ok(());
        }
        self.alias(recipient).map(|_| ())
    }

    async fn data(
        &self,
        reverse_path: &ReversePath,
        recipients: &[ForwardPath],
        _reports: &Reports,
    ) -> Result<Message<S>, Reply> {
        if recipients.iter().any(|recipient| self.is_for_parcels(recipient)) {
            let room = self.relay.budget.try_take(FIRST_ROOM).ok_or(replies::NO_ROOM)?;
            let parcel = ParcelMail::new(self.relay.clone(), room);
            return Ok(Message::Parcel(Box::new(parcel)));
        }
        let mut mailboxes: Vec<(Account, u32)> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let alias = self.alias(recipient)?;
            if !mailboxes.contains(&(alias.account, alias.number)) {
                mailboxes.push((alias.account, alias.number));
            }
        }
        let room = self.relay.budget.try_take(FIRST_ROOM).ok_or(replies::NO_ROOM)?;
        Ok(Message::Mail(Incoming {
            sealing: Sealing::new(&self.relay.host, &reverse_path.to_string()),
            relay: self.relay.clone(),
            mailboxes,
            hops: LoopCounter::default(),
            room,
            bytes: 0,
        }))
    }
}

/// What is coming in.
enum Message<S> {
    Mail(Incoming<S>),
    Parcel(Box<ParcelMail<S>>),
}

impl<S: RelayStore> smtp::Receiver for Message<S> {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reply> {
        match self {
            Message::Mail(mail) => mail.chunk(bytes),
            Message::Parcel(parcel) => parcel.chunk(bytes),
        }
    }

    async fn finish(self) -> Reply {
        match self {
            Message::Mail(mail) => mail.finish().await,
            Message::Parcel(parcel) => parcel.finish().await,
        }
    }
}

/// A message on its way in: sealed chunk by chunk, never whole in the clear.
struct Incoming<S> {
    relay: Arc<Relay<S>>,
    mailboxes: Vec<(Account, u32)>,
    sealing: Sealing,
    hops: LoopCounter,
    room: Room,
    bytes: usize,
}

impl<S: RelayStore> Incoming<S> {
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reply> {
        self.bytes += bytes.len();
        if self.bytes as u64 > SIZE_MAX {
            return Err(replies::TOO_BIG);
        }
        if !self.relay.budget.grow(&mut self.room, room_for(self.bytes)) {
            return Err(replies::NO_ROOM);
        }
        self.hops.feed(bytes);
        if self.hops.count() > limits::HOP_COUNT_MAX {
            return Err(replies::LOOP);
        }
        self.sealing.push(bytes).map_err(|_| replies::TOO_BIG)
    }

    async fn finish(self) -> Reply {
        let order = self.sealing.finish().into_order(self.mailboxes, self.relay.host.day());
        match self.relay.store.deposit(order).await {
            Ok(()) => {
                self.relay.metrics.received.count();
                replies::ACCEPTED
            }
            Err(StoreError::Busy | StoreError::Full) => replies::NO_ROOM,
            Err(_) => replies::TRY_LATER,
        }
    }
}
