//! What the index of a holder's store holds. The order of all fields is the stored format.

use std::collections::{BTreeMap, BTreeSet};

use keypacks::Secret;
use ledger::{Leg, PriceList};
use serde::{Deserialize, Serialize};

use super::shelf::Rows;
use crate::StoreError;
use crate::bodies::BodyName;
use crate::holder_store::{
    AliasRoute, Flags, FolderId, HolderAlias, LinkPosition, OutboxState, OwnBook, ParcelUse, Procurement, SentNames,
    SentReports, SpecialUse, ValueMirror,
};
use crate::index::{Source, Write};
use crate::parcel::Asked;
use crate::request::Change;
use crate::slab::RecordNumber;
use crate::tables::{Single, Table};
use crate::vault;

/// Sealed under the store key alone.
pub(super) const STATE: Table<Single, State> = Table::new(1);
pub(super) const FACTS: Table<Single, FactsRow> = Table::new(2);
pub(super) const ALIASES: Table<Single, Vec<AliasRow>> = Table::new(3);
/// What the holder notes about aliases, as far as there is something. Apart from [`ALIASES`], which is older.
pub(super) const ALIAS_NOTES: Table<Single, Vec<AliasNote>> = Table::new(40);
/// The ways that mail under aliases must take, by their addresses, as far as that is settled.
pub(super) const ALIAS_ROUTES: Table<Single, Vec<(String, AliasRoute)>> = Table::new(41);
/// The pack's rotation policy, if it has one beyond a key for each connection.
pub(super) const ROTATION: Table<Single, RotationRow> = Table::new(60);
/// Generation of the relay's store that was last heard of; none is 0.
pub(super) const RELAY_GENERATION: Table<Single, u64> = Table::new(74);
/// UTC day on which the pack ends, if its holder ever ordered that; none was taken back.
pub(super) const EXPIRY: Table<Single, Option<u32>> = Table::new(91);
/// Rows of the outbox with a lower number were there when another copy of this store went on from it; none is 0.
pub(super) const SHARED_BELOW: Table<Single, u64> = Table::new(85);
/// Name of the pad, if the pack has one.
pub(super) const PAD: Table<Single, [u8; 16]> = Table::new(64);
/// [`crate::pad::mark_of_half`] of the pad's second half, if it had one: by it the file is known that is to be overwritten.
pub(super) const HALF: Table<Single, [u8; 32]> = Table::new(86);
/// By post index: stored, the relay not yet told.
pub(super) const UNCONFIRMED: Table<u64, UnconfirmedRow> = Table::new(4);
/// Keyed hashes of the Message-IDs that are or were in INBOX.
pub(super) const MESSAGE_IDS: Table<[u8; 32], ()> = Table::new(9);

/// What submitted messages are called, the last [`crate::holder_store::SENT_NAMES_MAX`] of them.
pub(super) const SENT: Table<u64, SentNames> = Table::new(50);
/// What is to be found again in reports on them, by their number in [`SENT`], where there is something.
pub(super) const SENT_REPORTS: Table<u64, SentReports> = Table::new(100);
/// Number of a row in [`SENT`], by the keyed hash of what the mail program called the message.
pub(super) const SENT_BY_OWN: Table<[u8; 32], u64> = Table::new(51);
/// Number of a row in [`SENT`], by the keyed hash of what the relay calls the message.
pub(super) const SENT_BY_OUTSIDE: Table<[u8; 32], u64> = Table::new(52);

/// Sealed under the store key alone; a store that sealed no parcel has none.
pub(super) const PARCEL_POSITION: Table<Single, ParcelPosition> = Table::new(61);
/// [`ParcelEntry`] by parcel index: no receipt yet.
pub(super) const PARCELS: Rows = Table::new(62);
/// What a parcel of control asks for, by its index.
pub(super) const CONTROLS: Table<u64, Asked> = Table::new(72);
/// Tags of deposits that came without a link, by post index, until the relay knows that they are here.
pub(super) const CARRIED: Table<u64, [u8; 16]> = Table::new(73);
/// By post index: gaps that were passed over without a link, which the next link is to ask for.
pub(super) const MISSING: Table<u64, ()> = Table::new(75);

/// What mail costs behind the relay, as it was last heard.
pub(super) const ONWARD: Table<Single, OnwardRow> = Table::new(95);

/// What was paid, as this store noted it answer by answer.
pub(super) const OWN_BOOK: Table<Single, OwnBook> = Table::new(125);
/// Packs at further relays that were ordered and not taken in yet, by SHA-256 of the order's X-Wing public key.
pub(super) const PROCUREMENTS: Table<[u8; 32], Procurement> = Table::new(120);

/// Root of the chains, of a pack that was given one after its issue.
pub(super) const ROOT: Table<Single, RootRow> = Table::new(70);
/// [`RerootingRow`], at 0, while a new root is asked for.
pub(super) const REROOTING: Rows = Table::new(71);

/// [`OutboxEntry`] by row number.
pub(super) const OUTBOX: Rows = Table::new(5);
/// [`DepositRow`] by post index: collected, body still to come.
pub(super) const DEPOSITS: Rows = Table::new(6);
/// [`GapRow`] by post index: passed over, in case that its wrap still comes.
pub(super) const GAPS: Rows = Table::new(7);
/// [`MessageRow`] by [`number_of`] the message: folder, then UID.
pub(super) const MESSAGES: Rows = Table::new(8);
/// Summary of a message, under the number that it came under first and the key that its row had then. Most messages
/// have one, which ends with the last copy.
pub(super) const SUMMARIES: Rows = Table::new(10);
/// [`FolderRow`] by number of the folder; INBOX has none.
pub(super) const FOLDERS: Rows = Table::new(20);
/// By number of the folder.
pub(super) const COUNTS: Table<u64, CountsRow> = Table::new(21);
/// [`CatalogueRow`], at 0. A store of before there were folders has none.
pub(super) const CATALOGUE: Rows = Table::new(22);

/// Counters, positions and mirrors: all that changes with a commit and is not a row.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) link: LinkPosition,
    /// Link token last received.
    pub(super) token: [u8; 16],
    /// Number of the next change.
    pub(super) next_seq: u64,
    /// Number of the next outbox row.
    pub(super) next_row: u64,
    /// Highest change that the relay is known to have answered, this holder or a copy of it.
    pub(super) answered_seq: u64,
    /// First post index not yet collected.
    pub(super) collect_from: u64,
    /// Of INBOX.
    pub(super) uid_validity: u32,
    /// Of INBOX before there were folders; [`COUNTS`] goes on from it.
    pub(super) uid_next: u32,
    pub(super) value: ValueMirror,
    pub(super) prices: Option<PriceList>,
    /// Latest UTC second that an operation told: what gaps are aged by.
    pub(super) now: u64,
}

/// [`ledger::Onward`].
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct OnwardRow {
    pub(super) version: u32,
    pub(super) elsewhere: Leg,
    pub(super) domains: Vec<(String, Leg)>,
}

/// What the pack says of itself and of its relay, as [`crate::holder_store::PackFacts`].
#[derive(Serialize, Deserialize)]
pub(super) struct FactsRow {
    pub(super) identifier: [u8; 16],
    pub(super) relay_address: String,
    pub(super) relay_domain: String,
    pub(super) relay_public: [u8; 32],
}

/// When links go on under a new key.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct RotationRow {
    /// As [`keypacks::rotation::Policy::encode`].
    pub(super) policy: [u8; 16],
    /// UTC second of the pack's first use, which its intervals count from.
    pub(super) first_use: Option<u64>,
}

/// An alias, without what is only noted about it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AliasRow {
    pub(super) number: u32,
    pub(super) address: String,
    pub(super) display_name: Option<String>,
    pub(super) open: bool,
}

/// What the holder notes about the alias of this address.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AliasNote {
    pub(super) address: String,
    pub(super) label: Option<String>,
    /// UTC second.
    pub(super) expires: Option<u64>,
}

/// The aliases as they are stored.
pub(super) fn read_aliases(source: &impl Source) -> Result<Vec<HolderAlias>, StoreError> {
    let rows = ALIASES.get(source, Single)?.unwrap_or_default();
    let mut notes: BTreeMap<String, AliasNote> = ALIAS_NOTES
        .get(source, Single)?
        .unwrap_or_default()
        .into_iter()
        .map(|note| (note.address.clone(), note))
        .collect();
    let routes = ALIAS_ROUTES.get(source, Single)?.unwrap_or_default();
    let mut routes: BTreeMap<String, AliasRoute> = routes.into_iter().collect();
    let alias = |row: AliasRow| {
        let note = notes.remove(&row.address);
        let (label, expires) = note.map_or((None, None), |note| (note.label, note.expires));
        HolderAlias {
            route: routes.remove(&row.address),
            number: row.number,
            address: row.address,
            display_name: row.display_name,
            open: row.open,
            label,
            expires,
        }
    };
    Ok(rows.into_iter().map(alias).collect())
}

/// Stores all aliases.
pub(super) fn write_aliases(write: &Write<'_>, aliases: &[HolderAlias]) -> Result<(), StoreError> {
    let row = |alias: &HolderAlias| AliasRow {
        number: alias.number,
        address: alias.address.clone(),
        display_name: alias.display_name.clone(),
        open: alias.open,
    };
    let note = |alias: &HolderAlias| {
        (alias.label.is_some() || alias.expires.is_some()).then(|| AliasNote {
            address: alias.address.clone(),
            label: alias.label.clone(),
            expires: alias.expires,
        })
    };
    ALIASES.put(write, Single, &aliases.iter().map(row).collect())?;
    let route = |alias: &HolderAlias| Some((alias.address.clone(), alias.route.clone()?));
    let routes: Vec<(String, AliasRoute)> = aliases.iter().filter_map(route).collect();
    if !routes.is_empty() {
        ALIAS_ROUTES.put(write, Single, &routes)?;
    } else if ALIAS_ROUTES.get(write, Single)?.is_some() {
        ALIAS_ROUTES.remove(write, Single)?;
    }
    let notes: Vec<AliasNote> = aliases.iter().filter_map(note).collect();
    if notes.is_empty() {
        ALIAS_NOTES.remove(write, Single)
    } else {
        ALIAS_NOTES.put(write, Single, &notes)
    }
}

/// A row of the outbox.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OutboxEntry {
    pub(super) change: Change,
    pub(super) state: OutboxState,
    /// µtok reserved while queued or held.
    pub(super) price: u64,
    pub(super) label: String,
    /// UTC second at which it was taken in.
    pub(super) taken: u64,
    /// The padded payload, of mail that may still be sent.
    pub(super) body: Option<BodyName>,
}

/// Where the parcel sequence stands.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct ParcelPosition {
    /// Next index to seal under.
    pub(super) next: u64,
    /// Highest index that has a receipt.
    pub(super) answered: Option<u64>,
}

/// What chains begin with. Of no use, and its record another's, once the slot has them.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RootRow {
    /// How many roots there were before.
    pub(super) number: u64,
    pub(super) record: RecordNumber,
    pub(super) sealed: Vec<u8>,
    /// First indices of link, post and parcel.
    pub(super) begin: (u64, u64, u64),
}

/// Secrets of the request for a new root.
#[derive(Serialize, Deserialize)]
pub(super) struct RerootingRow {
    #[serde(with = "secret")]
    pub(super) kem: Secret<32>,
    #[serde(with = "secret")]
    pub(super) dh: Secret<32>,
}

/// A parcel that was sealed, or a login.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ParcelEntry {
    /// 0 of a login.
    pub(super) class: u32,
    /// 0 of a parcel of control and of a login.
    pub(super) recipients: u16,
    /// Most that it may cost, in µtok: reserved until its receipt comes.
    pub(super) price: u64,
    pub(super) label: String,
    /// UTC second.
    pub(super) sealed: u64,
    /// `N` of the parcel, which its receipt names.
    pub(super) prefix: [u8; 16],
    /// The parcel as it leaves.
    pub(super) body: BodyName,
}

impl ParcelEntry {
    pub(super) fn kind(&self) -> ParcelUse {
        match (self.class, self.recipients) {
            (0, _) => ParcelUse::Login,
            (_, 0) => ParcelUse::Control,
            _ => ParcelUse::Mail,
        }
    }
}

/// A collected deposit.
#[derive(Serialize, Deserialize)]
pub(super) struct DepositRow {
    pub(super) wrap_digest: [u8; 32],
    #[serde(with = "secret")]
    pub(super) dek: Secret<32>,
    pub(super) body_digest: [u8; 32],
    pub(super) length: u32,
    pub(super) kilobytes: u32,
    pub(super) alias: u32,
    /// UTC second at which it was given up, its key kept for a while in case that the right body is found.
    pub(super) abandoned: Option<u64>,
}

/// The key of a post index that was passed over.
#[derive(Serialize, Deserialize)]
pub(super) struct GapRow {
    #[serde(with = "secret")]
    pub(super) key: Secret<32>,
    pub(super) tag: [u8; 16],
    /// UTC second at which it was passed over.
    pub(super) since: u64,
}

/// A deposit that is in INBOX.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct UnconfirmedRow {
    pub(super) wrap_digest: [u8; 32],
    pub(super) uid: u32,
}

/// A folder but INBOX. What a mail program calls it is the user's own: the row is sealed under a new key with every change.
#[derive(Serialize, Deserialize)]
pub(super) struct FolderRow {
    pub(super) name: String,
    pub(super) special_use: Option<SpecialUse>,
    pub(super) uid_validity: u32,
}

/// What counts up in a folder.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct CountsRow {
    pub(super) uid_next: u32,
    pub(super) highest_modseq: u64,
}

/// What holds for all folders. Sealed under a new key with every change, as a [`FolderRow`].
#[derive(Serialize, Deserialize)]
pub(super) struct CatalogueRow {
    pub(super) next_folder: u32,
    pub(super) next_uid_validity: u32,
    pub(super) subscribed: BTreeSet<String>,
    pub(super) keywords: Vec<String>,
}

/// A message.
#[derive(Serialize, Deserialize)]
pub(super) struct MessageRow {
    pub(super) flags: Flags,
    pub(super) size: u32,
    pub(super) internal_date: u64,
    pub(super) body: BodyName,
    pub(super) modseq: u64,
    /// Where its summary is in [`SUMMARIES`], if it has one.
    pub(super) summary: u64,
    /// Of a copy, which shares body and summary with another message; others have them under their own row's key.
    pub(super) keys: Option<ContentKeys>,
}

/// What opens a message that came under another row's key.
#[derive(Serialize, Deserialize)]
pub(super) struct ContentKeys {
    #[serde(with = "secret")]
    pub(super) body: Secret<32>,
    #[serde(with = "secret")]
    pub(super) summary: Secret<32>,
}

/// A message of INBOX as it was written before there were folders. Neither form is read as the other: this one is the
/// beginning of the new one, and a row must end where its form does.
#[derive(Serialize, Deserialize)]
pub(super) struct InboxRow {
    pub(super) flags: u8,
    pub(super) size: u32,
    pub(super) internal_date: u64,
    pub(super) body: BodyName,
}

/// Number of a message's row.
pub(super) fn number_of(folder: FolderId, uid: u32) -> u64 {
    u64::from(folder.0) << 32 | u64::from(uid)
}

/// What [`number_of`] was made of.
pub(super) fn folder_and_uid(number: u64) -> (FolderId, u32) {
    let low = u32::try_from(number & u64::from(u32::MAX)).expect("32 bits");
    let high = u32::try_from(number >> 32).expect("32 bits");
    (FolderId(high), low)
}

impl MessageRow {
    /// A row as it was sealed, of today's form or the one before.
    pub(super) fn decode(number: u64, plain: &[u8]) -> Result<Self, StoreError> {
        vault::decode(plain).or_else(|_| {
            let row: InboxRow = vault::decode(plain)?;
            Ok(Self {
                flags: Flags(row.flags.into()),
                size: row.size,
                internal_date: row.internal_date,
                body: row.body,
                modseq: MODSEQ_FIRST,
                summary: number,
                keys: None,
            })
        })
    }
}

/// HIGHESTMODSEQ of a folder in which nothing has changed yet.
pub(super) const MODSEQ_FIRST: u64 = 1;

/// A secret as a field of a sealed row; what lies on the way is wiped.
mod secret {
    use keypacks::Secret;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroize;

    pub(super) fn serialize<S: Serializer>(secret: &Secret<32>, serializer: S) -> Result<S::Ok, S::Error> {
        secret.expose().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<32>, D::Error> {
        let mut bytes = <[u8; 32]>::deserialize(deserializer)?;
        let secret = Secret::new(bytes);
        bytes.zeroize();
        Ok(secret)
    }
}
