//! What stands inside parcels and what answers them (`docs/PROTOCOL.md` section 7).

use keypacks::parcel::{HOP, PREFIX};
use ledger::PriceList;
use serde::{Deserialize, Serialize};

use crate::request::{Malformed, RECIPIENTS_MAX, Refusal};

/// Alias number in the wrap of a deposit that is no mail but receipts.
pub const RECEIPTS: u32 = u32::MAX - 2;
/// Most parcel indices that were passed over and whose keys a relay keeps.
pub const SKIPPED_MAX: u32 = 64;
/// Days that it keeps them.
pub const SKIPPED_DAYS: u32 = 30;
/// Most receipts in one deposit.
pub const RECEIPTS_MAX: usize = 128;
/// Deposits of receipts that a pack may leave uncollected. Beyond it a relay ends no more parcels of the pack, but for
/// those that confirm such deposits.
pub const RECEIPTS_WAITING_MAX: u64 = 1_024;
/// Most deposits that one parcel of control confirms.
pub const CONFIRMATIONS_MAX: usize = 256;

const VERSION: u8 = 1;

/// Hop data of a parcel that is mail: `u64 debit_max | u16 recipients | zeros`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Most that may be debited, in µtok, by whatever price list is in force.
    pub debit_max: u64,
    /// Number of recipients in the envelope.
    pub recipients: u16,
}

impl Terms {
    /// The hop data.
    pub fn to_hop(self) -> [u8; HOP] {
        let mut hop = [0; HOP];
        hop[..8].copy_from_slice(&self.debit_max.to_le_bytes());
        hop[8..10].copy_from_slice(&self.recipients.to_le_bytes());
        hop
    }

    /// Reads hop data; what follows the last field must be zeros.
    pub fn from_hop(hop: &[u8; HOP]) -> Result<Self, Malformed> {
        let (debit_max, rest) = hop.split_first_chunk::<8>().ok_or(Malformed)?;
        let (recipients, zeros) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
        let terms = Self {
            debit_max: u64::from_le_bytes(*debit_max),
            recipients: u16::from_le_bytes(*recipients),
        };
        let known =
            (1..=RECIPIENTS_MAX).contains(&usize::from(terms.recipients)) && zeros.iter().all(|byte| *byte == 0);
        if known { Ok(terms) } else { Err(Malformed) }
    }
}

/// The relay's answer to one parcel. The order of the fields is part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Index of the parcel.
    pub index: u64,
    /// `N` of the parcel that came, zeros where none did: under one index a restored copy can have sealed another.
    pub prefix: [u8; PREFIX],
    /// What became of it.
    pub outcome: Outcome,
}

impl Receipt {
    /// Nothing came under this index.
    pub(crate) fn burned(index: u64) -> Self {
        Self {
            index,
            prefix: [0; PREFIX],
            outcome: Outcome::Burned,
        }
    }

    /// Nobody knows any more what came under this index.
    pub(crate) fn unknown(index: u64) -> Self {
        Self {
            index,
            prefix: [0; PREFIX],
            outcome: Outcome::Refused(Refusal::Stale),
        }
    }

    /// Whether it is of a parcel with this `N`, or of none at all.
    pub fn is_of(&self, prefix: &[u8; PREFIX]) -> bool {
        matches!(self.outcome, Outcome::Burned | Outcome::Refused(Refusal::Stale)) || self.prefix == *prefix
    }
}

/// What became of a parcel; final. The order of the variants is part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Debited and on its way.
    Accepted {
        /// What it cost, in µtok.
        debited: u64,
        /// Balance after it, in µtok.
        balance: u64,
    },
    /// Read, and not carried out.
    Refused(Refusal),
    /// It never came while its key was kept, and will never be carried out.
    Burned,
    /// A parcel of control was carried out, or a login served: how the pack stands. Amounts in µtok.
    Done {
        /// What is left.
        balance: u64,
        /// Link keys left.
        keys: u64,
        /// All credits.
        credits: u64,
        /// All debits.
        debits: u64,
        /// The price list in force.
        prices: PriceList,
    },
}

/// What a parcel of control asks for. The order of the variants is part of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Control {
    /// Deposits that are durable at the holder; the relay deletes those whose digest matches.
    Confirm {
        /// Post index and digest of the wrap.
        deposits: Vec<(u64, [u8; 32])>,
    },
    /// Open an alias with this local part, as on a link.
    AliasOpen {
        /// Local part.
        local: String,
    },
    /// Close an alias, as on a link.
    AliasClose {
        /// Local part.
        local: String,
    },
}

/// All that a parcel of control asks for.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Deposits to be deleted: post index and digest of the wrap.
    pub confirmed: Vec<(u64, [u8; 32])>,
    /// What becomes of one alias. If it is refused, nothing else is carried out.
    pub alias: Option<AliasChange>,
}

/// A change of one alias, by its local part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AliasChange {
    /// It is opened.
    Open(String),
    /// It is closed.
    Close(String),
}

impl AliasChange {
    /// The local part, and whether it is open afterwards.
    pub fn parts(&self) -> (&str, bool) {
        match self {
            Self::Open(local) => (local, true),
            Self::Close(local) => (local, false),
        }
    }
}

/// `version u8 = 1 | list of Control`, the payload of a parcel of control.
pub fn encode_control(asked: &Asked) -> Vec<u8> {
    let mut list = vec![Control::Confirm {
        deposits: asked.confirmed.clone(),
    }];
    list.extend(asked.alias.clone().map(|change| match change {
        AliasChange::Open(local) => Control::AliasOpen { local },
        AliasChange::Close(local) => Control::AliasClose { local },
    }));
    postcard::to_extend(&list, vec![VERSION]).expect("plain data, and a vector takes any length")
}

/// Reads such a payload. Another version, too many confirmations, a second change of aliases and trailing bytes are
/// malformed.
pub fn decode_control(payload: &[u8]) -> Result<Asked, Malformed> {
    let (version, rest) = payload.split_first().ok_or(Malformed)?;
    let Ok((list, [])) = postcard::take_from_bytes::<Vec<Control>>(rest) else {
        return Err(Malformed);
    };
    let mut asked = Asked::default();
    for one in list {
        let change = match one {
            Control::Confirm { deposits } => {
                asked.confirmed.extend(deposits);
                continue;
            }
            Control::AliasOpen { local } => AliasChange::Open(local),
            Control::AliasClose { local } => AliasChange::Close(local),
        };
        if asked.alias.replace(change).is_some() {
            return Err(Malformed);
        }
    }
    if *version == VERSION && asked.confirmed.len() <= CONFIRMATIONS_MAX {
        Ok(asked)
    } else {
        Err(Malformed)
    }
}

/// `version u8 = 1 | list of receipts`, the payload of a deposit for [`RECEIPTS`].
pub fn encode_receipts(receipts: &[Receipt]) -> Vec<u8> {
    postcard::to_extend(receipts, vec![VERSION]).expect("receipts are plain data, and a vector takes any length")
}

/// Reads what [`encode_receipts`] wrote; another version, no receipt and trailing bytes are malformed.
pub fn decode_receipts(payload: &[u8]) -> Result<Vec<Receipt>, Malformed> {
    let (version, rest) = payload.split_first().ok_or(Malformed)?;
    match postcard::take_from_bytes::<Vec<Receipt>>(rest) {
        Ok((receipts, [])) if *version == VERSION && (1..=RECEIPTS_MAX).contains(&receipts.len()) => Ok(receipts),
        _ => Err(Malformed),
    }
}

/// Feeds hostile bytes to every decoder of this module; must neither panic nor allocate beyond the input.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(receipts) = decode_receipts(bytes) {
        assert!(decode_receipts(&encode_receipts(&receipts)) == Ok(receipts));
    }
    if let Ok(asked) = decode_control(bytes) {
        assert!(decode_control(&encode_control(&asked)) == Ok(asked));
    }
    let mut hop = [0; HOP];
    let length = bytes.len().min(HOP);
    hop[..length].copy_from_slice(&bytes[..length]);
    if let Ok(terms) = Terms::from_hop(&hop) {
        assert!(terms.to_hop() == hop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_read_as_they_are_written() {
        let receipts = [
            Outcome::Accepted {
                debited: 300,
                balance: 1 << 40,
            },
            Outcome::Refused(Refusal::Value { shortfall: 7 }),
            Outcome::Burned,
            Outcome::Done {
                balance: 1,
                keys: 2,
                credits: 3,
                debits: 4,
                prices: PriceList::default(),
            },
        ];
        let receipts: Vec<_> = (5..)
            .zip(receipts)
            .map(|(index, outcome)| Receipt {
                index,
                prefix: [9; PREFIX],
                outcome,
            })
            .collect();
        let written = encode_receipts(&receipts);
        assert_eq!(written[..3], [1, 4, 5]);
        assert_eq!(written[written.len() - 11..], [3, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(written[3..24], [[9; 16].as_slice(), &[0, 0xac, 2, 0x80, 0x80]].concat());
        assert_eq!(decode_receipts(&written), Ok(receipts));
        assert_eq!(decode_receipts(&[&written[..], &[0]].concat()), Err(Malformed));
        assert_eq!(decode_receipts(&[1, 0]), Err(Malformed));
        let one = encode_receipts(&[Receipt::burned(5)]);
        assert_eq!(one, [[1, 1, 5].as_slice(), &[0; 16], &[2]].concat());
        assert_eq!(decode_receipts(&[&[2], &one[1..]].concat()), Err(Malformed));
    }

    #[test]
    fn what_is_asked_for_is_read_as_it_is_written() {
        let confirm = |confirmed, alias| encode_control(&Asked { confirmed, alias });
        let written = confirm(vec![(300, [9; 32])], Some(AliasChange::Open("me".to_owned())));
        assert_eq!(
            written,
            [[1, 2, 0, 1, 0xac, 2].as_slice(), &[9; 32], &[1, 2, b'm', b'e']].concat()
        );
        let asked = decode_control(&written).expect("as written");
        assert_eq!(asked.confirmed, [(300, [9; 32])]);
        assert_eq!(asked.alias.as_ref().map(AliasChange::parts), Some(("me", true)));
        assert_eq!(decode_control(&[1, 0]), Ok(Asked::default()));
        assert_eq!(
            decode_control(&[1, 1, 2, 1, b'x']).map(|asked| asked.alias),
            Ok(Some(AliasChange::Close("x".to_owned())))
        );
        assert!(decode_control(&confirm(vec![(1, [0; 32]); CONFIRMATIONS_MAX], None)).is_ok());
        for wrong in [
            confirm(vec![(1, [0; 32]); CONFIRMATIONS_MAX + 1], None),
            [&written[..], &[0]].concat(),
            [&[2], &written[1..]].concat(),
            vec![1, 1, 3, 0],
            vec![1, 2, 1, 1, b'x', 2, 1, b'x'],
            vec![],
        ] {
            assert_eq!(decode_control(&wrong), Err(Malformed));
        }
    }

    #[test]
    fn terms_name_recipients_and_nothing_unknown() {
        let terms = Terms {
            debit_max: 0x0102_0304_0506_0708,
            recipients: 100,
        };
        let hop = terms.to_hop();
        assert_eq!(hop[..11], [8, 7, 6, 5, 4, 3, 2, 1, 100, 0, 0]);
        assert_eq!(Terms::from_hop(&hop), Ok(terms));
        for (at, byte) in [(8, 0), (8, 101), (10, 1), (HOP - 1, 1)] {
            let mut other = hop;
            other[at] = byte;
            assert_eq!(Terms::from_hop(&other), Err(Malformed), "octet {at} is {byte}");
        }
    }
}
