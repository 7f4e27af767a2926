//! Parcels by mail: what anybody's carrier brings to the parcel address.
//!
//! Any well-formed parcel is answered 250 after a commit, whoever's it is and whatever is inside: 'received', and no more.
//! What became of it is told to its holder alone, by a sealed receipt. Nothing is answered to the address that it came from,
//! which is not even looked at.

mod carriage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use keypacks::parcel::{HEAD, LayerOpener, PREFIX, class_of, parcel_tag};
use mailbox::relay_store::{Account, ParcelHit};
use mailbox::{RelayStore, StoreError};
use smtp_bridge::smtp::replies::{self, Enhanced, Reply};
use zeroize::Zeroizing;

use crate::accept::Under;
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
    /// Why it is not known whose it is.
    failed: Option<StoreError>,
}

/// A parcel of one of this relay's packs that has opened so far.
struct Opening {
    account: Account,
    root: u64,
    index: u64,
    inner: Arc<Place>,
}

/// What of it must not stay when its index has come to its end by another copy.
struct Inner {
    opener: LayerOpener,
    payload: Zeroizing<Vec<u8>>,
}

/// The parcels that are coming in, by account and index: of one that came to its end by another connection, key and payload go
/// at once, however long this one stalls.
#[derive(Default)]
pub(crate) struct Openings(Mutex<ByIndex>);

type ByIndex = HashMap<(Account, u64), Vec<Weak<Place>>>;
/// Empty when the index has come to its end.
type Place = Mutex<Option<Inner>>;

impl Openings {
    /// An index has come to its end.
    pub(crate) fn end(&self, account: Account, index: u64) {
        let open = lock(&self.0).remove(&(account, index));
        for inner in open.into_iter().flatten().filter_map(|inner| inner.upgrade()) {
            lock(&inner).take();
        }
    }

    /// The root of an account has come to its end, with all that opened under it.
    pub(crate) fn end_all(&self, account: Account) {
        let mut ended = Vec::new();
        lock(&self.0).retain(|(of, _), open| {
            let stays = *of != account;
            if !stays {
                ended.append(open);
            }
            stays
        });
        for inner in ended.into_iter().filter_map(|inner| inner.upgrade()) {
            lock(&inner).take();
        }
    }

    fn add(&self, account: Account, index: u64, inner: &Arc<Place>) {
        let mut all = lock(&self.0);
        // Those that are gone are few, as connections are, and go when the next one comes.
        all.retain(|_, open| {
            open.retain(|inner| inner.strong_count() > 0);
            !open.is_empty()
        });
        all.entry((account, index)).or_default().push(Arc::downgrade(inner));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A whole parcel of one of this relay's packs.
type Opened = (Under, u64, [u8; PREFIX], keypacks::parcel::Header, Zeroizing<Vec<u8>>);

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
        if let Some(error) = intake.failed {
            tracing::error!(%error, "whose a parcel is cannot be read: it is to come again");
            return replies::TRY_LATER;
        }
        let carried = match intake.opening.take().and_then(Opening::finish) {
            Some((under, index, prefix, header, payload)) => {
                let arrived = (under, index, prefix);
                let carried = accept::parcel(&relay, arrived, header, payload).await;
                if carried.is_ok() && is_under(&relay, under) {
                    relay.openings.end(under.0, index);
                }
                carried
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
            failed: None,
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
                match Opening::begin(relay, head) {
                    Ok(opening) => self.opening = opening,
                    Err(error) => self.failed = Some(error),
                }
            }
        }
        if let Some(opening) = &mut self.opening {
            let is_open = match &mut *lock(&opening.inner) {
                Some(Inner { opener, payload }) => opener.push(octets, |plain| append(payload, plain)).is_ok(),
                None => false,
            };
            if !is_open {
                // Damaged, or forged by whoever saw the tag, or ended: as good as nobody's, and the true one may still come.
                self.opening = None;
            }
        }
    }
}

/// Whether the root is still the account's.
fn is_under<S: RelayStore>(relay: &Relay<S>, (account, root): Under) -> bool {
    relay.store.standing(account).root == root
}

impl Opening {
    /// `None`: it is nobody's.
    fn begin<S: RelayStore>(relay: &Relay<S>, head: &[u8; HEAD]) -> Result<Option<Self>, StoreError> {
        let Some(tag) = parcel_tag(head) else {
            return Ok(None);
        };
        let hit = relay.store.find_parcel(&tag)?;
        Ok(hit.and_then(|hit| Self::of(relay, hit, head)))
    }

    fn of<S: RelayStore>(relay: &Relay<S>, hit: ParcelHit, head: &[u8; HEAD]) -> Option<Self> {
        let inner = Inner {
            opener: LayerOpener::new(&hit.step, head).ok()?,
            payload: Zeroizing::default(),
        };
        let (account, root) = (hit.account, hit.root);
        let (index, inner) = (hit.step.index, Arc::new(Mutex::new(Some(inner))));
        relay.openings.add(account, index, &inner);
        // The root may have ended since it was found, and then nothing else would end this.
        is_under(relay, (account, root)).then_some(Self {
            account,
            root,
            index,
            inner,
        })
    }

    fn finish(self) -> Option<Opened> {
        let Inner { opener, payload } = lock(&self.inner).take()?;
        let prefix = opener.prefix();
        let header = opener.finish().ok()?;
        Some(((self.account, self.root), self.index, prefix, header, payload))
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

#[cfg(test)]
mod tests {
    use keypacks::Secret;
    use keypacks::chain::{BoxChain, BoxKind};
    use keypacks::parcel::{HOP, Header, Kind, LayerSealer};

    use super::*;

    fn inner() -> Arc<Place> {
        let step = || BoxChain::from_root(BoxKind::Parcel, &Secret::new([1; 32])).advance();
        let header = Header {
            kind: Kind::Control,
            class: 1,
            length: 0,
            hop: [0; HOP],
        };
        let mut sealed = Vec::new();
        LayerSealer::new(step(), [2; PREFIX], &header, &mut sealed).expect("a class that holds it");
        let head = sealed.first_chunk().expect("a head was written");
        let inner = Inner {
            opener: LayerOpener::new(&step(), head).expect("as sealed"),
            payload: Zeroizing::default(),
        };
        Arc::new(Mutex::new(Some(inner)))
    }

    #[test]
    fn the_keys_of_a_parcel_that_has_ended_go_from_all_connections() {
        let (openings, account) = (Openings::default(), Account(3));
        let (one, two, other) = (inner(), inner(), inner());
        openings.add(account, 5, &one);
        openings.add(account, 5, &two);
        openings.add(account, 6, &other);
        openings.end(account, 5);
        assert!(lock(&one).is_none() && lock(&two).is_none() && lock(&other).is_some());
        openings.add(Account(4), 6, &one);
        *lock(&one) = lock(&inner()).take();
        openings.end_all(account);
        assert!(
            lock(&other).is_none() && lock(&one).is_some(),
            "a new root ends what is of its account"
        );
        drop((one, other));
        openings.add(account, 7, &inner());
        assert_eq!(lock(&openings.0).len(), 1, "what is gone is forgotten");
    }
}
