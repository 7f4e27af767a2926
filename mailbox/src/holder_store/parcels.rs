//! Parcels without a receipt, and what their indices are used for.

use keypacks::parcel::{MAIL_AHEAD_MAX, PARCEL_LOOK_AHEAD};

use super::SentNames;
use crate::parcel::Asked;

/// What an index of the parcel chain is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParcelUse {
    /// A parcel with a message.
    Mail,
    /// A parcel that asks the relay for something.
    Control,
    /// One login at the relay's collecting port, and no parcel.
    Login,
}

impl ParcelUse {
    /// How many indices beyond the highest that was answered may be in use, its own included.
    pub fn ahead_max(self) -> u64 {
        match self {
            Self::Mail => MAIL_AHEAD_MAX,
            Self::Control => PARCEL_LOOK_AHEAD - 1,
            Self::Login => PARCEL_LOOK_AHEAD,
        }
    }
}

/// What was made with a parcel index, to be kept until its receipt comes.
pub struct ParcelOrder {
    /// The index: that of [`super::HolderStore::parcel_step`].
    pub index: u64,
    /// The parcel, exactly one class long; of a login what it is shown as.
    pub parcel: Vec<u8>,
    /// What it is.
    pub purpose: Purpose,
    /// What lists of parcels show: the subject, for instance.
    pub label: String,
    /// UTC second.
    pub now: u64,
}

/// [`ParcelUse`] with what is kept of it.
pub enum Purpose {
    /// A message.
    Mail {
        /// Number of recipients.
        recipients: u16,
        /// Most that it may cost, in µtok: reserved from the mirrored balance.
        price: u64,
        /// By which names the message is known, here and outside.
        sent: SentNames,
    },
    /// What is asked for: noted here when it is carried out.
    Control(Asked),
    /// A login.
    Login,
}

impl Purpose {
    /// Which it is.
    pub fn kind(&self) -> ParcelUse {
        match self {
            Self::Mail { .. } => ParcelUse::Mail,
            Self::Control(_) => ParcelUse::Control,
            Self::Login => ParcelUse::Login,
        }
    }
}

/// A parcel without a receipt.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptParcel {
    /// Its index.
    pub index: u64,
    /// What it is.
    pub kind: ParcelUse,
    /// Its class, in units of 16,000 bytes; 0 of a login.
    pub class: u32,
    /// Number of recipients.
    pub recipients: u16,
    /// Price reserved, in µtok.
    pub price: u64,
    /// What is shown of it.
    pub label: String,
    /// UTC second at which it was sealed.
    pub sealed: u64,
    /// `N` of the parcel, which its receipt names.
    pub prefix: [u8; 16],
}

/// Why no parcel can be sealed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The store was made before there were parcels: their chain was not kept.
    #[error("this folder was made by an older version and has no keys for parcels: they need a pack initialised anew")]
    NoKeys,
    /// As many parcels as the relay looks ahead have no receipt.
    #[error(
        "too many parcels and logins have no receipt yet: send those of 'postern seal --list' again as they are, and collect their receipts over a link or with 'postern login' and 'postern open'"
    )]
    WindowFull,
    /// What is sealed now could be under keys that the relay has replaced.
    #[error("the pack is getting new keys: seal it when 'postern status' says that it has them")]
    Rerooting,
}
