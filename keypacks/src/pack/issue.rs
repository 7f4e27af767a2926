//! The issue block: what the relay hands over once, sealed under the file key.
//!
//! ```text
//! block = nonce 24 | Box(HE(file key, "pack/issue", 32), nonce, plain 4,056)
//!
//! 0     version        u8 = 1
//! 1     identifier     16
//! 17    relay's key    32
//! 49    link keys      u64
//! 57    root           32
//! 89    day of issue   u32
//! 93    address        name
//! 349   domain         name
//! 605   aliases        u8, at most 8
//! 606   alias          name, 8 of them
//! 2654  rotation       16, as [`Policy::encode`]
//! 2670  pad            u8, 1 if there is one, 2 if it lacks its other half
//! 2671  its name       16
//! 2687  region         u64
//! 2695  records        u64
//! 2703  check          16 of the other half, zeros if there is none
//! 2719  zeros          to 4,056
//!
//! name = u8 length | UTF-8 | zeros, 256 bytes in all
//! ```

use zeroize::{Zeroize, Zeroizing};

use crate::kdf::he;
use crate::pad::{HALF_CHECK, Layout, Made};
use crate::rotation::Policy;
use crate::secretbox::{MAC, NONCE, open, seal_in_place};
use crate::{Refused, Secret};

use super::{BLOCK, Header, Identifier, PassphraseCost, drawn};

/// Most aliases that a pack is issued with.
pub const ALIASES_MAX: usize = 8;
/// Longest address, domain or alias, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

const VERSION: u8 = 1;
const NAME: usize = 1 + NAME_BYTES_MAX;
const ADDRESS_AT: usize = 93;
const DOMAIN_AT: usize = ADDRESS_AT + NAME;
const ALIAS_COUNT_AT: usize = DOMAIN_AT + NAME;
const ALIASES_AT: usize = ALIAS_COUNT_AT + 1;
const ROTATION_AT: usize = ALIASES_AT + ALIASES_MAX * NAME;
const PAD_AT: usize = ROTATION_AT + Policy::BYTES;
const PAD_BYTES: usize = 33 + HALF_CHECK;
/// Of the byte that says whether there is a pad.
const WHOLE: u8 = 1;
const HALVED: u8 = 2;
const PLAIN: usize = BLOCK - NONCE - MAC;

const _: () = assert!(PAD_AT + PAD_BYTES <= PLAIN);

/// What a pack is, on the day of its issue.
pub struct Issue {
    /// What names the account towards holder and operator.
    pub identifier: Identifier,
    /// The relay's static X25519 key.
    pub relay_public: [u8; 32],
    /// Number of link keys.
    pub link_keys: u64,
    /// `R`, from which all chains come. It opens everything, so it is kept nowhere else.
    pub root: Secret<32>,
    /// UTC day of issue.
    pub day: u32,
    /// `host:port` of the relay's link server.
    pub relay_address: String,
    /// Domain of the relay's aliases.
    pub relay_domain: String,
    /// Addresses that were opened with the pack, the default one first.
    pub aliases: Vec<String>,
    /// When a link goes on under a new key.
    pub rotation: Policy,
    /// The pad that its links are under, in a file of its own; `None`: its links are under keys.
    pub pad: Option<PackPad>,
}

/// What a pack says of its pad.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackPad {
    /// What its file was made as.
    pub made: Made,
    /// The file beside the pack is the first of two halves, of which the second one has this check.
    pub half: Option<[u8; HALF_CHECK]>,
}

/// A name or the list of aliases is longer than the block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DoesNotFit;

impl std::fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name is too long for the pack, or the aliases are too many")
    }
}

impl std::error::Error for DoesNotFit {}

impl Issue {
    /// A pack's whole file: header twice, issue block twice. `fresh` fills with fresh randomness: the file key, salt and
    /// nonces. Fails as [`Self::seal`] does.
    pub fn to_file(
        &self,
        passphrase: &[u8],
        cost: PassphraseCost,
        fresh: impl Fn(&mut [u8]),
    ) -> Result<Zeroizing<Vec<u8>>, DoesNotFit> {
        let (file_key, header) = Header::with_fresh_key(passphrase, cost, &fresh);
        // Of its full length from the beginning: what a growing vector leaves behind is not wiped.
        let mut file = Zeroizing::new(Vec::with_capacity(4 * BLOCK));
        file.extend_from_slice(&header);
        file.extend_from_slice(&header);
        for _ in 0..2 {
            file.extend_from_slice(&self.seal(&file_key, drawn(&fresh))?[..]);
        }
        Ok(file)
    }

    /// Makes an issue block. `nonce` is fresh randomness for each copy. Fails if a name is over
    /// [`NAME_BYTES_MAX`] or there are more aliases than [`ALIASES_MAX`].
    pub fn seal(&self, file_key: &Secret<32>, nonce: [u8; NONCE]) -> Result<Box<[u8; BLOCK]>, DoesNotFit> {
        let fits = |name: &String| name.len() <= NAME_BYTES_MAX;
        let names = [&self.relay_address, &self.relay_domain];
        if self.aliases.len() > ALIASES_MAX || !names.into_iter().chain(&self.aliases).all(fits) {
            return Err(DoesNotFit);
        }
        let mut block = Box::new([0; BLOCK]);
        block[..NONCE].copy_from_slice(&nonce);
        self.write(&mut block[NONCE + MAC..]);
        seal_in_place(&box_key(file_key), &nonce, &mut block[NONCE..]);
        Ok(block)
    }

    /// Opens an issue block. Refused as well: a block that `init` has overwritten.
    pub fn open(file_key: &Secret<32>, block: &[u8; BLOCK]) -> Result<Self, Refused> {
        Self::read(&open(&box_key(file_key), block)?)
    }

    fn write(&self, plain: &mut [u8]) {
        plain[0] = VERSION;
        plain[1..17].copy_from_slice(&self.identifier.0);
        plain[17..49].copy_from_slice(&self.relay_public);
        plain[49..57].copy_from_slice(&self.link_keys.to_le_bytes());
        plain[57..89].copy_from_slice(self.root.expose());
        plain[89..93].copy_from_slice(&self.day.to_le_bytes());
        write_name(&mut plain[ADDRESS_AT..], &self.relay_address);
        write_name(&mut plain[DOMAIN_AT..], &self.relay_domain);
        plain[ALIAS_COUNT_AT] = u8::try_from(self.aliases.len()).expect("at most ALIASES_MAX, as checked by seal");
        for (alias, room) in self.aliases.iter().zip(plain[ALIASES_AT..].chunks_mut(NAME)) {
            write_name(room, alias);
        }
        plain[ROTATION_AT..ROTATION_AT + Policy::BYTES].copy_from_slice(&self.rotation.encode());
        if let Some(pad) = self.pad {
            let room = &mut plain[PAD_AT..PAD_AT + PAD_BYTES];
            room[0] = if pad.half.is_some() { HALVED } else { WHOLE };
            room[1..17].copy_from_slice(&pad.made.name);
            room[17..25].copy_from_slice(&pad.made.layout.region().to_le_bytes());
            room[25..33].copy_from_slice(&pad.made.layout.records().to_le_bytes());
            room[33..].copy_from_slice(&pad.half.unwrap_or_default());
        }
    }

    fn read(plain: &[u8]) -> Result<Self, Refused> {
        let plain: &[u8; PLAIN] = plain.try_into().map_err(|_| Refused)?;
        let count = usize::from(plain[ALIAS_COUNT_AT]);
        if plain[0] != VERSION || count > ALIASES_MAX {
            return Err(Refused);
        }
        Ok(Self {
            identifier: Identifier(*plain[1..].first_chunk().ok_or(Refused)?),
            relay_public: *plain[17..].first_chunk().ok_or(Refused)?,
            link_keys: u64::from_le_bytes(*plain[49..].first_chunk().ok_or(Refused)?),
            root: Secret::from_slice(&plain[57..89]).ok_or(Refused)?,
            day: u32::from_le_bytes(*plain[89..].first_chunk().ok_or(Refused)?),
            relay_address: read_name(&plain[ADDRESS_AT..])?,
            relay_domain: read_name(&plain[DOMAIN_AT..])?,
            aliases: plain[ALIASES_AT..]
                .chunks(NAME)
                .take(count)
                .map(read_name)
                .collect::<Result<_, _>>()?,
            rotation: Policy::decode(&plain[ROTATION_AT..ROTATION_AT + Policy::BYTES])?,
            pad: read_pad(&plain[PAD_AT..PAD_AT + PAD_BYTES])?,
        })
    }
}

pub(crate) fn write_name(room: &mut [u8], name: &str) {
    room[0] = u8::try_from(name.len()).expect("at most NAME_BYTES_MAX, as checked by seal");
    room[1..=name.len()].copy_from_slice(name.as_bytes());
}

pub(crate) fn read_name(room: &[u8]) -> Result<String, Refused> {
    let (length, rest) = room.split_first().ok_or(Refused)?;
    let name = rest.get(..usize::from(*length)).ok_or(Refused)?;
    Ok(std::str::from_utf8(name).map_err(|_| Refused)?.to_owned())
}

fn read_pad(room: &[u8]) -> Result<Option<PackPad>, Refused> {
    let (is_there, rest) = room.split_first().ok_or(Refused)?;
    let (name, rest) = rest.split_first_chunk::<16>().ok_or(Refused)?;
    let (region, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
    let (records, rest) = rest.split_first_chunk::<8>().ok_or(Refused)?;
    let check = rest.first_chunk::<HALF_CHECK>().ok_or(Refused)?;
    let half = match *is_there {
        0 => return Ok(None),
        WHOLE => None,
        HALVED => Some(*check),
        _ => return Err(Refused),
    };
    let made = Made {
        name: *name,
        layout: Layout::from_parts(u64::from_le_bytes(*region), u64::from_le_bytes(*records))?,
    };
    Ok(Some(PackPad { made, half }))
}

/// `HE(file key, "pack/issue", 32)`.
fn box_key(file_key: &Secret<32>) -> Secret<32> {
    he(file_key, "pack/issue", &[])
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut plain = [0; PLAIN];
    let length = bytes.len().min(PLAIN);
    plain[..length].copy_from_slice(&bytes[..length]);
    if let Ok(issue) = Issue::read(&plain) {
        let mut again = [0; PLAIN];
        issue.write(&mut again);
        assert!(
            Issue::read(&again).is_ok(),
            "what was read can be written and read again"
        );
        again.zeroize();
    }
}
