//! The typed requests on a link, as `docs/PROTOCOL.md` section 5 freezes them.
//!
//! A message on a stream is `u16 header length | header | body`. The header is one of the types below in
//! postcard encoding, with nothing behind it; the body is present where the header says so and is always exactly
//! one size class long. The order of every enum and of every field is part of the protocol: append, never move.

use ledger::{PriceList, Services};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

mod cover;
mod directory;
mod envelope;
mod mixing;
mod onward;
mod refusal;

pub use self::cover::{COVER_CELL_MS_MAX, COVER_CELLS_MAX, COVER_EVERY_MS, CoverOffer, Rate};
pub use self::directory::{DIRECTORY_PART_MAX, DirectoryPart};
pub use self::envelope::{
    Envelope, EnvelopeOption, HOPS_MAX, MessageIdOctets, OPTIONS_BYTES_MAX, Origin, Wishes, payload, payload_head,
    split_payload,
};
pub use self::mixing::{Measured, Mixing, Offer, Profile};
pub use self::onward::OnwardPrices;
pub use self::refusal::Refusal;

/// Version of the request encoding, first byte of every header.
pub const REQUEST_VERSION: u8 = 1;
/// Longest header of a message without a body, in bytes: one cell.
pub const HEADER_BYTES_MAX: usize = 16_358;
/// Longest header of a message with a body, in bytes: what a body of 16,000 leaves free in its cell.
pub const BODY_HEADER_BYTES_MAX: usize = 358;
/// Most link keys that one [`Operation::Renew`] asks for.
pub const RENEWED_KEYS_MAX: u64 = 10_000;
/// Most recipients of one submission.
pub const RECIPIENTS_MAX: usize = 100;
/// Longest local part of an alias, in bytes.
pub const ALIAS_BYTES_MAX: usize = 64;
/// Most changes that a holder may leave unacknowledged.
pub const UNACKNOWLEDGED_MAX: u64 = 256;
/// Most confirmations in one request, and most wraps in one answer that is a single cell.
pub const COLLECT_MAX: u16 = 64;
/// Most services in one answer, which is a single cell.
pub const SERVICES_MAX: usize = 400;
/// Most postings that one answer sums up.
pub const POSTINGS_MAX: u64 = 4_096;
/// Most devices of one account.
pub const DEVICES_MAX: usize = 8;
/// Most aliases that one change tells of.
pub const TELL_MAX: usize = 100;
/// Most relays, and most sizes of packs, that one answer offers.
pub const OFFERS_MAX: usize = 32;
/// Furthest that collection steps forward over gaps in one answer.
pub const COLLECT_STEP_MAX: u64 = 1_024;

/// What a holder asks of the relay inside an authenticated link.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The balance and what is left of the keys. Stores nothing.
    Balance,
    /// The price list in force. Stores nothing.
    Prices,
    /// Wraps of deposits from post index `from` on, in index order. Stores nothing.
    Collect {
        /// First post index wanted.
        from: u64,
        /// Most wraps wanted, at most [`COLLECT_MAX`].
        most: u16,
    },
    /// The body of deposit `index`. The answer's body is the sealed body.
    Fetch {
        /// Post index of the deposit.
        index: u64,
    },
    /// Deposits that are durable at the holder; the relay deletes those whose digest matches.
    Confirm {
        /// Post index and digest of the wrap, at most [`COLLECT_MAX`].
        deposits: Vec<(u64, [u8; 32])>,
    },
    /// A request that changes state, executed at most once.
    Change(Change),
    /// What was credited and debited, summed up by day and kind. Stores nothing.
    Statement {
        /// Number of the first posting wanted: 0, or `next` of the answer before.
        from: u64,
    },
    /// More of the up region of a pad, for what this link still has to send.
    Lease {
        /// Records.
        records: u64,
        /// Body bytes.
        bytes: u64,
    },
    /// Carry the cells of another link to the relay of this domain, from the answer on and for nothing else.
    Through {
        /// Domain of the relay.
        relay: String,
    },
    /// What mail costs behind this relay, by domain of the recipient. Stores nothing.
    Onward,
    /// The devices of the account. Stores nothing.
    Devices,
    /// How the account stands with what it drew on credit. Stores nothing.
    Credit,
    /// What the relay's pool offers. Stores nothing.
    Mixing,
    /// Which packs at further relays may be procured through this one. Stores nothing.
    Offers,
    /// What cover costs. Stores nothing.
    CoverOffer,
    /// From the answer on, both ends send at this rate, for at most so much a cell.
    Cover {
        /// Cells of each tick.
        rate: Rate,
        /// Most µtok for each cell.
        price_max: u64,
    },
    /// The directory of the relay's federation, from this byte on. Stores nothing.
    Directory {
        /// Byte that the answer begins with.
        from: u32,
    },
}

/// A change of state, numbered, retried under any later link by the same number.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Number of the change in its account, from 1, durable at the holder before it is first sent.
    pub seq: u64,
    /// Random name of the change.
    pub id: [u8; 16],
    /// Random blinding of the stored digest; the relay does not keep it.
    pub blind: [u8; 16],
    /// The holder holds the answers of all changes up to this number.
    pub acknowledged: u64,
    /// What to do.
    pub operation: Operation,
}

impl Change {
    /// `SHA-256(blind | u64 seq | id | operation)`: what the relay keeps to tell a retry from another request.
    /// `acknowledged` is left out, since it moves on between two tries of the same change.
    pub fn digest(&self) -> [u8; 32] {
        let operation = self.operation.encode();
        keypacks::kdf::hash(&[&self.blind, &self.seq.to_le_bytes(), &self.id, &operation])
    }
}

/// What a change does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Forward a message. The request's body is the payload, padded to its class.
    Submit {
        /// Version of the price list that the holder reckoned with.
        prices: u32,
        /// Most that may be debited, in µtok.
        debit_max: u64,
        /// Number of recipients in the envelope, each of which is priced.
        recipients: u16,
        /// Size class of the body, in units of 1,000 bytes.
        kilobytes: u32,
        /// Length of envelope and message inside the body, in bytes.
        length: u32,
        /// SHA-256 of the body, so that the digest of the request covers it.
        body: [u8; 32],
    },
    /// Open an alias with this local part.
    AliasOpen {
        /// Local part, lower-case, at most [`ALIAS_BYTES_MAX`] bytes of `a-z 0-9 . - _`.
        local: String,
    },
    /// Close an alias: mail for it is refused from now on.
    AliasClose {
        /// Local part.
        local: String,
    },
    /// Go on from a new root (`docs/PROTOCOL.md` section 12).
    Reroot {
        /// X-Wing public key, fresh for this change.
        kem: Vec<u8>,
        /// X25519 public key, as fresh.
        dh: [u8; 32],
        /// Verifier of the recovery code that the next such change must prove.
        recovery: [u8; 32],
        /// Proof of the code in force, where there is one.
        proof: Option<Proof>,
    },
    /// Make a pack of some of this account's link keys and value.
    Split {
        /// Name of the new pack, drawn by the holder.
        identifier: [u8; 16],
        /// `R` of the new pack, drawn by the holder and durable in its file before this is first sent.
        root: [u8; 32],
        /// Link keys of the new pack, at least [`keypacks::chain::LINK_KEYS_MIN`].
        keys: u64,
        /// Its value, in µtok.
        value: u64,
    },
    /// Put all link keys but the last ones, and all value, into a voucher.
    Release {
        /// SHA-256 of the voucher.
        voucher: [u8; 32],
    },
    /// Take what is in a voucher.
    Redeem {
        /// The voucher.
        voucher: [u8; 32],
    },
    /// End this account: aliases, value, and link keys but the last ones.
    Expire {
        /// UTC day; one that has come is now, and none takes back one that has not.
        day: Option<u32>,
    },
    /// Make a pack of some of this pack's link keys that joins its account: another device.
    Device {
        /// Name of the new pack, drawn by the holder.
        identifier: [u8; 16],
        /// `R` of the new pack, drawn by the holder and durable in its file before this is first sent.
        root: [u8; 32],
        /// Link keys of the new pack, at least [`keypacks::chain::LINK_KEYS_MIN`].
        keys: u64,
    },
    /// End another device of the account: its link keys come to this one.
    Drop {
        /// Its number.
        device: u32,
    },
    /// Tell all devices of the account how these aliases stand, as far as they are the account's.
    Tell {
        /// Local parts, at most [`TELL_MAX`].
        locals: Vec<String>,
    },
    /// Link keys and value on credit, which the relay's operator has granted.
    Renew {
        /// Link keys wanted, at most [`RENEWED_KEYS_MAX`].
        keys: u64,
        /// µtok wanted.
        value: u64,
    },
    /// Have this relay procure a pack at another one, with what it holds there (`docs/PROTOCOL.md` section 13).
    Procure {
        /// Domain of that relay.
        relay: String,
        /// X-Wing public key, fresh for this order.
        kem: Vec<u8>,
        /// X25519 public key, as fresh.
        dh: [u8; 32],
        /// Link keys of the pack.
        keys: u64,
        /// Its value, in µtok.
        value: u64,
        /// Most that may be debited, in µtok.
        debit_max: u64,
    },
    /// Make a pack of some of this account's link keys and value, for whoever has the secrets of these keys.
    Endow {
        /// X-Wing public key.
        kem: Vec<u8>,
        /// X25519 public key.
        dh: [u8; 32],
        /// Link keys of the new pack, at least [`keypacks::chain::LINK_KEYS_MIN`].
        keys: u64,
        /// Its value, in µtok.
        value: u64,
    },
}

impl Operation {
    /// As it is encoded in a request.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Long enough for every operation: what a growing vector leaves behind is not wiped.
        let out = Vec::with_capacity(8_192);
        Zeroizing::new(postcard::to_extend(self, out).expect("an operation is plain data"))
    }
}

/// A recovery code, as it proves a change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof(pub [u8; 16]);

impl Drop for Proof {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What the relay answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Balance`].
    Balance {
        /// µtok left.
        balance: u64,
        /// Link keys left.
        keys: u64,
        /// All that was ever credited, in µtok.
        credits: u64,
        /// All that was ever debited, in µtok.
        debits: u64,
    },
    /// To [`Request::Prices`].
    Prices(PriceList),
    /// To [`Request::Collect`].
    Collected {
        /// What lies at each post index, in order.
        deposits: Vec<Collected>,
        /// First post index behind those shown.
        next: u64,
        /// Whether more waits behind `next`.
        more: bool,
    },
    /// To [`Request::Fetch`]; the sealed body follows.
    Body {
        /// Size class of the body, in units of 1,000 bytes.
        kilobytes: u32,
    },
    /// To [`Request::Confirm`]: how many were deleted now.
    Confirmed {
        /// Number of deposits deleted.
        deleted: u16,
    },
    /// To [`Request::Change`]: carried out, now or before.
    Done {
        /// Number of the change.
        seq: u64,
        /// What it debited, in µtok.
        debited: u64,
        /// Balance after it, in µtok.
        balance: u64,
    },
    /// To any request: not carried out, and final for its number.
    Refused {
        /// Number of the change, 0 where the request had none.
        seq: u64,
        /// Why.
        refusal: Refusal,
    },
    /// To [`Request::Statement`].
    Statement {
        /// Services in the order in which each day and kind first came, at most [`SERVICES_MAX`].
        services: Vec<Services>,
        /// Number of the first posting behind those summed up.
        next: u64,
        /// Whether there is one.
        more: bool,
    },
    /// To [`Request::Lease`]: where the lease ends now.
    Leased {
        /// Number of the record behind it.
        records: u64,
        /// Offset of the body byte behind it.
        bytes: u64,
    },
    /// To [`Operation::Reroot`]: carried out, now or before.
    Rerooted {
        /// Number of the change.
        seq: u64,
        /// First link index of the new root.
        link: u64,
        /// First post index of it: deposits below are under the root before.
        post: u64,
        /// First parcel index of it.
        parcel: u64,
        /// X-Wing ciphertext, from which the holder computes the root.
        ciphertext: Vec<u8>,
    },
    /// To [`Request::Through`]: the other relay is reached, and what follows is carried.
    Through,
    /// To a [`Request::Change`] that moves keys and value: carried out, now or before.
    Moved {
        /// Number of the change.
        seq: u64,
        /// Link keys that it moved; 0 if an earlier change did.
        keys: u64,
        /// µtok that it moved; 0 if an earlier change did.
        value: u64,
        /// Link keys that this account has in all now, those used included: where its chain ends.
        end: u64,
        /// Balance after it, in µtok.
        balance: u64,
    },
    /// To [`Request::Onward`].
    Onward(OnwardPrices),
    /// To [`Request::Devices`].
    Devices {
        /// Number of the device that asks.
        own: u32,
        /// All of the account in order of their numbers; empty where there is but this one.
        devices: Vec<Device>,
    },
    /// To [`Request::Credit`].
    Credit(Credit),
    /// To [`Request::Mixing`].
    Mixing(Mixing),
    /// To [`Request::Offers`].
    Offers(Offers),
    /// To [`Operation::Endow`]: carried out, now or before.
    Endowed {
        /// Number of the change.
        seq: u64,
        /// Link keys that this account has in all now, those used included: where its chain ends.
        end: u64,
        /// X-Wing ciphertext, from which the new pack's holder computes its root.
        ciphertext: Vec<u8>,
        /// What shows that holder that the root is this relay's.
        confirm: [u8; keypacks::procure::CONFIRM],
    },
    /// To [`Request::CoverOffer`]; `None`: there is none.
    CoverOffer(Option<CoverOffer>),
    /// To [`Request::Cover`]: the first period is paid for, and the next cells are those of the first tick.
    Covered,
    /// To [`Request::Directory`].
    Directory(DirectoryPart),
}

/// Packs that a relay procures at further ones: each size at each of them.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offers {
    /// What each costs beside its value, in µtok.
    pub fee: u64,
    /// Domains of the further relays, at most [`OFFERS_MAX`].
    pub relays: Vec<String>,
    /// Link keys and µtok of each size, at most [`OFFERS_MAX`].
    pub sizes: Vec<(u64, u64)>,
}

impl Offers {
    /// What a pack costs. `None`: it is not offered.
    pub fn price(&self, relay: &str, keys: u64, value: u64) -> Option<u64> {
        let is_offered = self.relays.iter().any(|known| known == relay) && self.sizes.contains(&(keys, value));
        value.checked_add(self.fee).filter(|_| is_offered)
    }
}

/// What an account drew on credit, in µtok.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credit {
    /// Most that it may owe at one time; 0 if nothing was granted.
    pub limit: u64,
    /// All that it ever drew.
    pub drawn: u64,
    /// All that was ever settled of it.
    pub settled: u64,
}

impl Credit {
    /// What it owes.
    pub fn owed(&self) -> u64 {
        self.drawn.saturating_sub(self.settled)
    }

    /// What it may still draw.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.owed())
    }
}

/// A device of an account, as the others see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Counted from 1 within the account, never given twice.
    pub number: u32,
    /// UTC day on which it joined.
    pub since: u32,
    /// UTC day of its last link; `None`: there was none since the account has devices.
    pub used: Option<u32>,
    /// Its link keys left.
    pub keys: u64,
}

/// One entry of [`Answer::Collected`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Collected {
    /// A deposit's wrap.
    Wrap {
        /// Post index.
        index: u64,
        /// The wrap as sealed, see `keypacks::deposit`.
        wrap: Vec<u8>,
    },
    /// A deposit that expired uncollected.
    Expired {
        /// Post index.
        index: u64,
    },
}

/// Bytes from outside are not a message of this protocol. One variant on purpose: the peer is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed request")]
pub struct Malformed;

/// Encodes a header: version byte, then postcard.
pub fn encode<T: Serialize>(header: &T) -> Vec<u8> {
    let out = vec![REQUEST_VERSION];
    postcard::to_extend(header, out).expect("a header is plain data, and a vector takes any length")
}

/// Decodes a header, refusing another version and trailing bytes.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let (version, rest) = bytes.split_first().ok_or(Malformed)?;
    if *version != REQUEST_VERSION {
        return Err(Malformed);
    }
    match postcard::take_from_bytes(rest) {
        Ok((header, [])) => Ok(header),
        _ => Err(Malformed),
    }
}

/// Feeds hostile bytes to every decoder of this module; must neither panic nor allocate beyond the input.
pub fn fuzz(bytes: &[u8]) {
    let _ = decode::<Request>(bytes);
    let _ = decode::<Answer>(bytes);
    if let Ok((envelope, message)) = split_payload(bytes) {
        let again = payload(&envelope, message);
        assert!(split_payload(&again).is_ok_and(|(read, rest)| read == envelope && rest == message));
    }
}
