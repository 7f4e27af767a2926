//! Parcels by mail: what anybody's carrier brings to the parcel address.
//!
//! Any well-formed parcel is answered 250 after a commit, whoever's it is and whatever is inside: 'received', and no more.
//! What became of it is told to its holder alone, by a sealed receipt. Nothing is answered to the address that it came from,
//! which is not even looked at.

mod carriage;

use std::sync::Arc;

use keypacks::parcel::{HEAD, LayerOpener, PREFIX, class_of, parcel_tag};
use mailbox::relay_store::Account;
use mailbox::{RelayStore, StoreError};
use smtp_bridge::smtp::replies::{self, Enhanced, Reply};
use zeroize::Zeroizing;

use crate::budget::Room;
use crate::{Relay, accept};

use carriage::{Carriage, Found};

pub use carriage::fuzz;

/// Longest mail with a parcel, in bytes: the largest class in base64, with lines of 76 characters and its header.
pub(crate) const SIZE_MAX: u64 = 88 * 1_048_576;

// Four characters for three octets, and a line end for 76 characters.
const _: () =
    assert!(keypacks::parcel::class_bytes(keypacks::parcel::CLASS_MAX) as u64 / 3 * 4 * 78 / 76 + 1_048_576 < SIZE_MAX);

const RECEIVED: Reply = Reply::fixed(250, Enhanced::new(2, 0, 0), "received");
const NO_PARCEL: Reply = Reply::fixed(
    554,
    Enhanced::new(5, 6, 0),
    "there must be one whole parcel in the message: as its body, or as its one attached file",
);

/// A mail to the parcel address on its way in. It is opened while it comes; what is not for this relay is only counted.
pub(crate) struct ParcelMail<S> {
    relay: Arc<Relay<S>>,
    carriage: Carriage,
    room: Room,
    intake: Option<Intake>,
    /// Parts that began, of which each may be a parcel.
    parts: u32,
    /// There are more parcels than one, or what is no mail.
    is_spoilt: bool,
}

/// Most parts of a mail that are looked into: each costs a key's derivation, whatever it holds.
const PARTS_MAX: u32 = 16;

/// What may be a parcel, as far as it came.
struct Intake {
    length: u64,
    head: Vec<u8>,
    opening: Option<Opening>,
}

/// A parcel of one of this relay's packs that has opened so far.
struct Opening {
    account: Account,
    index: u64,
    opener: LayerOpener,
    payload: Zeroizing<Vec<u8>>,
}

/// A whole parcel of one of this relay's packs.
type Opened = (Account, u64, [u8; PREFIX], keypacks::parcel::Header, Zeroizing<Vec<u8>>);

impl<S: RelayStore> ParcelMail<S> {
    pub(crate) fn new(relay: Arc<Relay<S>>, room: Room) -> Self {
        Self {
            relay,
            carriage: Carriage::new(),
            room,
            intake: None,
            parts: 0,
            is_spoilt: false,
        }
    }

    /// Takes the next octets of the mail.
    pub(crate) fn chunk(&mut self, octets: &[u8]) -> Result<(), Reply> {
        if self.is_spoilt {
            return Err(NO_PARCEL);
        }
        let (relay, intake, is_spoilt) = (&self.relay, &mut self.intake, &mut self.is_spoilt);
        let parts = &mut self.parts;
        let fed = self.carriage.feed(octets, &mut |found| match found {
            Found::Begin => {
                *parts += 1;
                *is_spoilt |= *parts > PARTS_MAX || intake.as_ref().is_some_and(Intake::is_parcel);
                *intake = (!*is_spoilt).then(Intake::new);
            }
            Found::Octets(octets) => {
                if let Some(intake) = intake {
                    intake.take(relay, octets);
                }
            }
        });
        if fed.is_err() || self.is_spoilt {
            return Err(NO_PARCEL);
        }
        // As much for what is nobody's: whether a parcel is known shows in nothing.
        let length = self.intake.as_ref().map_or(0, |intake| intake.length);
        let bytes = crate::mx::room_for(usize::try_from(length).unwrap_or(usize::MAX / 4));
        match self.relay.budget.grow(&mut self.room, bytes) {
            true => Ok(()),
            false => Err(replies::NO_ROOM),
        }
    }

    /// The mail is complete.
    pub(crate) async fn finish(self) -> Reply {
        let Self {
            relay,
            carriage,
            mut intake,
            room,
            ..
        } = self;
        let finished = carriage.finish(&mut |found| {
            if let (Found::Octets(octets), Some(intake)) = (found, &mut intake) {
                intake.take(&relay, octets);
            }
        });
        let Ok(line_end) = finished else {
            return NO_PARCEL;
        };
        let Some(mut intake) = intake else {
            return NO_PARCEL;
        };
        // The last line end is the mail's, unless the parcel ends with one.
        if !intake.is_parcel() {
            intake.take(&relay, line_end);
        }
        if !intake.is_parcel() {
            return NO_PARCEL;
        }
        let carried = match intake.opening.take().and_then(Opening::finish) {
            Some((account, index, prefix, header, payload)) => {
                let arrived = (account, index, prefix);
                accept::parcel(&relay, arrived, header, payload).await
            }
            None => Ok(false),
        };
        let done = match carried {
            Ok(true) => Ok(()),
            Ok(false) => relay.store.pass_parcel().await,
            Err(error) => Err(error),
        };
        drop(room);
        match done {
            Ok(()) => {
                relay.metrics.parcels.count();
                RECEIVED
            }
            Err(StoreError::Busy | StoreError::Full) => replies::NO_ROOM,
            Err(_) => replies::TRY_LATER,
        }
    }
}

impl Intake {
    fn new() -> Self {
        Self {
            length: 0,
            head: Vec::with_capacity(HEAD),
            opening: None,
        }
    }

    /// Whether it ends here as a parcel.
    fn is_parcel(&self) -> bool {
        class_of(self.length).is_some()
    }

    fn take<S: RelayStore>(&mut self, relay: &Relay<S>, mut octets: &[u8]) {
        self.length += octets.len() as u64;
        if self.head.len() < HEAD {
            let (head, rest) = octets.split_at(octets.len().min(HEAD - self.head.len()));
            self.head.extend_from_slice(head);
            octets = rest;
            if let Some(head) = self.head.as_array::<HEAD>() {
                self.opening = Opening::begin(relay, head);
            }
        }
        if let Some(opening) = &mut self.opening {
            let payload = &mut opening.payload;
            if opening.opener.push(octets, |plain| append(payload, plain)).is_err() {
                // Damaged, or forged by whoever saw the tag: as good as nobody's, and the true one may still come.
                self.opening = None;
            }
        }
    }
}

impl Opening {
    fn begin<S: RelayStore>(relay: &Relay<S>, head: &[u8; HEAD]) -> Option<Self> {
        let hit = relay.store.find_parcel(&parcel_tag(head)?)?;
        let opener = LayerOpener::new(&hit.step, head).ok()?;
        Some(Self {
            account: hit.account,
            index: hit.step.index,
            opener,
            payload: Zeroizing::default(),
        })
    }

    fn finish(self) -> Option<Opened> {
        let prefix = self.opener.prefix();
        let header = self.opener.finish().ok()?;
        Some((self.account, self.index, prefix, header, self.payload))
    }
}

/// Appends, and wipes what growing leaves behind. Memory grows with what opened, never with what a header promises.
fn append(payload: &mut Zeroizing<Vec<u8>>, plain: &[u8]) {
    let length = payload.len() + plain.len();
    if length > payload.capacity() {
        let mut more = Zeroizing::new(Vec::with_capacity(length.max(2 * payload.capacity())));
        more.extend_from_slice(payload);
        *payload = more;
    }
    payload.extend_from_slice(plain);
}
