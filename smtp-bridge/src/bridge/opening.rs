//! Deposits that come without a link: as files, or as mails that somebody carried.
//!
//! ```text
//! wrap and body opened in memory -> key kept and index collected, durable -> message in INBOX, durable
//! ```
//!
//! Nothing is written for what does not open: a carrier may have damaged it, and the relay has it still. It is deleted there
//! only when a parcel of control, or a link, confirms it.

use std::collections::HashMap;
use std::sync::Arc;

use keypacks::chain::BoxStep;
use keypacks::deposit::{self, WRAP};
use mailbox::devices::{EVENTS, decode_events};
use mailbox::holder_store::{FolderId, OpenedDeposit, PendingDeposit, WrapPlace};
use mailbox::parcel::{RECEIPTS, decode_receipts};
use mailbox::{HolderStore, StoreError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::holder::loops::Loops;
use crate::holder::{as_kept, notices_of, notices_of_devices, open_body};
use crate::message::{self, Address, Notice};
use crate::names;
use crate::net::Host;

/// How often a deposit is looked at anew that a link collects at the same time.
const TRIES_MAX: usize = 3;

/// What became of a carried deposit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A message, now in INBOX.
    Mail,
    /// Receipts of this many parcels and logins.
    Receipts(usize),
    /// So many changes of the account's aliases and devices.
    Events(usize),
    /// It was opened before.
    Again,
    /// It does not open: damaged, or forged.
    Damaged,
    /// Another one came under its index before.
    Contradicted,
    /// Of another pack, or confirmed long ago.
    Unknown,
}

/// [`Outcome`], and the message if it was asked for and is there.
pub(crate) struct Opened {
    pub(crate) outcome: Outcome,
    pub(crate) message: Option<Zeroizing<Vec<u8>>>,
}

/// What opening needs of a bridge, be it running or not.
pub(crate) struct Opening<'a, S> {
    pub(crate) host: &'a Host,
    pub(crate) store: &'a S,
    /// `user@localhost`, whom notices go to.
    pub(crate) user: &'a Address,
}

/// What a wrap says of its place in the sequence: its post index, if it is still to be opened.
pub(crate) fn index_of<S: HolderStore>(store: &S, wrap: &[u8]) -> Result<Option<u64>, StoreError> {
    let Some(tag) = deposit::wrap_tag(wrap) else {
        return Ok(None);
    };
    Ok(match store.wrap_place(&tag, &deposit::wrap_digest(wrap))? {
        WrapPlace::New(step) => Some(step.index),
        WrapPlace::Pending(pending) => Some(pending.index),
        WrapPlace::Stored { .. } | WrapPlace::Contradicted | WrapPlace::Unknown => None,
    })
}

/// Furthest that is looked ahead, in indices: half of what a start follows.
pub(crate) const FAR_MAX: u64 = 1 << 19;
/// Indices that are looked at in one go.
const SLICE: usize = 1 << 14;

/// Looks for the first of these wraps in the sequence beyond where [`index_of`] looks, and goes on there. Returns how many
/// indices were passed over; `None`: it is none of them, as far as was looked. `tell` hears how many were looked at.
pub(crate) async fn go_far<S: HolderStore>(
    host: &Host,
    store: &S,
    wraps: &[u8],
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<u64>, StoreError> {
    let wanted = wraps
        .chunks(WRAP)
        .filter_map(|wrap| Some((deposit::wrap_tag(wrap)?.0, wrap.to_vec())));
    let wanted: Arc<HashMap<_, _>> = Arc::new(wanted.collect());
    if wanted.is_empty() {
        return Ok(None);
    }
    let (from, mut ahead) = (store.collect_from(), store.post_ahead());
    for looked_at in (0..FAR_MAX).step_by(SLICE) {
        let here = Arc::clone(&wanted);
        let look = move || {
            // A tag alone is no reason: whoever has it may have damaged the rest.
            let is_it = |step: &BoxStep| {
                let wrap = here.get(&step.tag.0);
                wrap.is_some_and(|wrap| deposit::open_wrap(step, wrap).is_ok())
            };
            let found = ahead.by_ref().take(SLICE).find(is_it).map(|step| step.index);
            (ahead, found)
        };
        let (rest, found) = host.compute(look).await.ok_or(StoreError::Busy)?;
        ahead = rest;
        if let Some(index) = found {
            store.pass_over(index, host.clock.unix_seconds()).await?;
            return Ok(Some(index.saturating_sub(from)));
        }
        tell(looked_at + SLICE as u64);
    }
    Ok(None)
}

impl<S: HolderStore> Opening<'_, S> {
    /// Opens a carried deposit and stores what it holds. `gives`: a message is returned too.
    pub(crate) async fn open(&self, carried: &[u8], gives: bool) -> Result<Opened, StoreError> {
        let mut tries = 1;
        loop {
            match self.try_open(carried, gives).await {
                // A link took the same index meanwhile, and all is to be looked at again.
                Err(StoreError::Invalid | StoreError::NoRow) if tries < TRIES_MAX => tries += 1,
                done => return done,
            }
        }
    }

    async fn try_open(&self, carried: &[u8], gives: bool) -> Result<Opened, StoreError> {
        let Some((wrap, body)) = deposit::split_carried(carried) else {
            return Ok(Outcome::Damaged.into());
        };
        let tag = deposit::wrap_tag(wrap).expect("as long as a wrap");
        let digest = deposit::wrap_digest(wrap);
        let (pending, is_new) = match self.store.wrap_place(&tag, &digest)? {
            WrapPlace::New(step) => match deposit::open_wrap(&step, wrap) {
                Ok(fields) => (pending(step.index, digest, fields), true),
                Err(_) => return Ok(Outcome::Damaged.into()),
            },
            WrapPlace::Pending(pending) => (pending, false),
            WrapPlace::Stored { uid } => return self.again(uid.filter(|_| gives)),
            WrapPlace::Contradicted => {
                tracing::error!("another deposit came under an index that was opened: was the relay restored?");
                return Ok(Outcome::Contradicted.into());
            }
            WrapPlace::Unknown => return Ok(Outcome::Unknown.into()),
        };
        let (looked_at, sealed) = (pending.duplicate(), body.to_vec());
        let opened = self.host.compute(move || open_body(&looked_at, sealed)).await;
        let Some(opened) = opened.ok_or(StoreError::Busy)? else {
            return Ok(Outcome::Damaged.into());
        };
        let opened = Zeroizing::new(opened);
        if is_new {
            let next = self.store.collect_from().max(pending.index + 1);
            let now = self.host.clock.unix_seconds();
            self.store
                .collected_carried(vec![pending.duplicate()], next, now)
                .await?;
        }
        match pending.alias {
            RECEIPTS => self.take_receipts(pending.index, &opened).await,
            EVENTS => self.take_events(pending.index, &opened).await,
            alias => self.take_mail(pending.index, alias, opened, gives).await,
        }
    }

    async fn take_receipts(&self, index: u64, payload: &[u8]) -> Result<Opened, StoreError> {
        let now = self.host.clock.unix_seconds();
        let Ok(receipts) = decode_receipts(payload) else {
            // The relay sealed it so: no other copy will be better.
            self.store
                .abandon_deposit(index, self.compose(&Notice::Damaged), now)
                .await?;
            return Ok(Outcome::Damaged.into());
        };
        let count = receipts.len();
        let notices = notices_of(self.store, &receipts, &|notice| self.compose(notice));
        self.store.take_receipts(index, receipts, notices, now).await?;
        Ok(Outcome::Receipts(count).into())
    }

    async fn take_events(&self, index: u64, payload: &[u8]) -> Result<Opened, StoreError> {
        let now = self.host.clock.unix_seconds();
        let Ok(events) = decode_events(payload) else {
            self.store
                .abandon_deposit(index, self.compose(&Notice::Damaged), now)
                .await?;
            return Ok(Outcome::Damaged.into());
        };
        let count = events.len();
        let notices = notices_of_devices(&events, &|notice| self.compose(notice));
        self.store.take_events(index, events, notices, now).await?;
        Ok(Outcome::Events(count).into())
    }

    async fn take_mail(
        &self,
        index: u64,
        alias: u32,
        mut message: Zeroizing<Vec<u8>>,
        gives: bool,
    ) -> Result<Opened, StoreError> {
        if Loops::of(self.store).take(&message) {
            let now = self.host.clock.unix_seconds();
            self.store.take_receipts(index, Vec::new(), Vec::new(), now).await?;
            return Ok(Outcome::Receipts(0).into());
        }
        let (store, message) = (self.store.clone(), std::mem::take(&mut *message));
        let kept = self.host.compute(move || as_kept(&store, alias, message)).await;
        let (message, summary) = kept.ok_or(StoreError::Busy)??;
        let given = gives.then(|| Zeroizing::new(message.clone()));
        let opened = OpenedDeposit {
            index,
            summary,
            message,
            now: self.host.clock.unix_seconds(),
        };
        self.store.store_deposits(vec![opened]).await?;
        Ok(Opened {
            outcome: Outcome::Mail,
            message: given,
        })
    }

    fn again(&self, uid: Option<u32>) -> Result<Opened, StoreError> {
        let message = uid.map(|uid| self.store.message(FolderId::INBOX, uid)).transpose()?;
        Ok(Opened {
            outcome: Outcome::Again,
            message: message.flatten().map(Zeroizing::new),
        })
    }

    fn compose(&self, notice: &Notice<'_>) -> Vec<u8> {
        message::notice(
            notice,
            self.user,
            &names::random(self.host),
            self.host.clock.unix_seconds(),
        )
    }
}

impl From<Outcome> for Opened {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, message: None }
    }
}

fn pending(index: u64, wrap_digest: [u8; 32], fields: deposit::WrapFields) -> PendingDeposit {
    PendingDeposit {
        index,
        wrap_digest,
        dek: fields.dek,
        body_digest: fields.body_digest,
        length: fields.length,
        kilobytes: fields.kilobytes,
        alias: fields.alias,
    }
}
