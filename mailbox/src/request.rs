//! The typed requests on a link, as `docs/PROTOCOL.md` section 5 freezes them.
//!
//! A message on a stream is `u16 header length | header | body`. The header is one of the types below in
//! postcard encoding, with nothing behind it; the body is present where the header says so and is always exactly
//! one size class long. The order of every enum and of every field is part of the protocol: append, never move.

use ledger::{PriceList, Services};
use serde::{Deserialize, Serialize};

/// Version of the request encoding, first byte of every header.
pub const REQUEST_VERSION: u8 = 1;
/// Longest header of a message without a body, in bytes: one cell.
pub const HEADER_BYTES_MAX: usize = 16_358;
/// Longest header of a message with a body, in bytes: what a body of 16,000 leaves free in its cell.
pub const BODY_HEADER_BYTES_MAX: usize = 358;
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
        let operation = postcard::to_allocvec(&self.operation).expect("an operation is plain data");
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

/// Why a request is not carried out. Recipients are named by position only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The value does not cover the price.
    Value {
        /// µtok missing.
        shortfall: u64,
    },
    /// The price is above the holder's maximum, or its price list is not the one in force.
    Price {
        /// Price by the list in force, in µtok.
        price: u64,
        /// Version of the list in force.
        prices: u32,
    },
    /// The number is at or below the floor of kept answers: never executed again, outcome unknown.
    Stale,
    /// The number is in use by another request.
    Conflict,
    /// Too many changes are unacknowledged.
    Unacknowledged,
    /// The sender is no open alias of this account.
    Sender,
    /// The relay has no way to this recipient's domain.
    Route {
        /// Position of the recipient in the envelope.
        recipient: u16,
    },
    /// The recipient is no address.
    Recipient {
        /// Position of the recipient in the envelope.
        recipient: u16,
    },
    /// The message cannot be rebuilt from the allow list.
    Message,
    /// The request's numbers contradict its body or its bounds.
    Malformed,
    /// The alias is taken or reserved.
    AliasTaken,
    /// The account has no alias of that name.
    AliasUnknown,
    /// The account has as many aliases as it may have.
    AliasLimit,
    /// There is no such deposit, or it has been deleted.
    NoDeposit,
    /// The relay is short of room for now: the same number may be sent again later.
    Busy,
    /// The pack's last link keys are reached, which serve balance, top-up, collection and confirmation only.
    Keys,
    /// What is left of the pad does not hold it.
    Pad,
}

/// The envelope of a submission or of a deposit, first in the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Reverse-path without angle brackets; empty is the null reverse-path.
    pub reverse_path: String,
    /// Forward-paths; empty in a deposit, whose wrap names the alias.
    pub recipients: Vec<String>,
    /// Random octets, drawn by the sender's machine, that the exit spells into the Message-ID: so the sender knows it
    /// beforehand. None in a deposit.
    pub message_id: Option<MessageIdOctets>,
}

/// What a Message-ID is spelled from.
pub type MessageIdOctets = [u8; 16];

/// What both layouts of an envelope begin with, behind their version.
#[derive(Serialize, Deserialize)]
struct Paths {
    reverse_path: String,
    recipients: Vec<String>,
}

/// Version of the layout that is [`Paths`] alone.
const PATHS_ALONE: u8 = 1;
/// Version of the layout that is [`Paths`] and [`MessageIdOctets`].
const WITH_MESSAGE_ID: u8 = 2;

impl Envelope {
    fn encode(&self) -> Vec<u8> {
        let version = self.message_id.map_or(PATHS_ALONE, |_| WITH_MESSAGE_ID);
        let mut out = vec![version];
        // By reference: a list of strings reads the same as one of borrowed strings.
        let paths = (&self.reverse_path, &self.recipients);
        out = postcard::to_extend(&paths, out).expect("an envelope is plain data");
        out.extend(self.message_id.into_iter().flatten());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (version, rest) = bytes.split_first().ok_or(Malformed)?;
        let (paths, octets) = postcard::take_from_bytes::<Paths>(rest).map_err(|_| Malformed)?;
        let message_id = match (*version, octets) {
            (PATHS_ALONE, []) => None,
            (WITH_MESSAGE_ID, octets) => Some(octets.try_into().map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        };
        if paths.recipients.len() > RECIPIENTS_MAX {
            return Err(Malformed);
        }
        Ok(Self {
            reverse_path: paths.reverse_path,
            recipients: paths.recipients,
            message_id,
        })
    }
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

/// `payload = u16 envelope length | envelope | message`, the plaintext of bodies before padding.
pub fn payload(envelope: &Envelope, message: &[u8]) -> Vec<u8> {
    let head = payload_head(envelope);
    let mut out = Vec::with_capacity(head.len() + message.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(message);
    out
}

/// The part of a payload before the message, for bodies that are sealed while they stream in.
pub fn payload_head(envelope: &Envelope) -> Vec<u8> {
    let encoded = envelope.encode();
    let length = u16::try_from(encoded.len()).expect("RECIPIENTS_MAX addresses of 254 bytes fit 16 bits");
    let mut out = length.to_le_bytes().to_vec();
    out.extend_from_slice(&encoded);
    out
}

/// Splits a payload into envelope and message.
pub fn split_payload(payload: &[u8]) -> Result<(Envelope, &[u8]), Malformed> {
    let (length, rest) = payload.split_first_chunk::<2>().ok_or(Malformed)?;
    let length = usize::from(u16::from_le_bytes(*length));
    if rest.len() < length {
        return Err(Malformed);
    }
    let (encoded, message) = rest.split_at(length);
    let envelope = Envelope::decode(encoded)?;
    Ok((envelope, message))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(message_id: Option<MessageIdOctets>) -> Envelope {
        Envelope {
            reverse_path: "a@x".to_owned(),
            recipients: vec!["b@y".to_owned()],
            message_id,
        }
    }

    #[test]
    fn both_layouts_of_an_envelope_are_read_as_they_are_written() {
        let without = payload(&envelope(None), b"text");
        assert_eq!(without, b"\x0a\0\x01\x03a@x\x01\x03b@ytext");
        let octets = *b"0123456789abcdef";
        let with = payload(&envelope(Some(octets)), b"text");
        assert_eq!(with, b"\x1a\0\x02\x03a@x\x01\x03b@y0123456789abcdeftext");
        for (bytes, message_id) in [(without, None), (with, Some(octets))] {
            let (read, message) = split_payload(&bytes).unwrap_or_else(|_| panic!("{message_id:?} is well-formed"));
            assert!(read == envelope(message_id) && message == b"text");
        }
    }

    #[test]
    fn an_envelope_with_octets_of_another_number_is_malformed() {
        let with = |version: u8, octets: usize| {
            let encoded = [&[version][..], b"\x03a@x\x01\x03b@y", &vec![7; octets]].concat();
            let mut payload = u16::try_from(encoded.len()).expect("short").to_le_bytes().to_vec();
            payload.extend(encoded);
            split_payload(&payload).is_ok()
        };
        for octets in (0..16).chain(17..40) {
            assert!(!with(2, octets), "{octets}");
        }
        assert!(with(2, 16) && with(1, 0));
        assert!(!with(1, 16) && !with(0, 0) && !with(3, 16));
    }
}
