//! What a holder keeps of an order until its pack is there: on the disk before anything of it is sent.
//!
//! ```text
//! 0       header, as that of a pack file          4,096
//! 4,096   nonce 24 | Box(HE(file key, "procure/draft", 32), nonce, plain 4,056)
//!
//! 0     version        u8 = 1
//! 1     kem            32   seed of the X-Wing key
//! 33    dh             32   X25519 secret
//! 65    relay's key    32
//! 97    link keys      u64
//! 105   value          u64
//! 113   debit_max      u64
//! 121   address        name, as in a pack file
//! 377   domain         name
//! 633   zeros          to 4,056
//! ```

use zeroize::{Zeroize, Zeroizing};

use super::Card;
use crate::kdf::he;
use crate::pack::{BLOCK, Header, NAME_BYTES_MAX, PassphraseCost, drawn, read_name, write_name};
use crate::reroot::Secrets;
use crate::secretbox::{MAC, NONCE, open, seal_in_place};
use crate::{Refused, Secret};

const VERSION: u8 = 1;
const NAME: usize = 1 + NAME_BYTES_MAX;
const ADDRESS_AT: usize = 121;
const DOMAIN_AT: usize = ADDRESS_AT + NAME;
const PLAIN: usize = BLOCK - NONCE - MAC;

/// An order as it was begun.
pub struct Draft {
    /// What the order's answer opens with.
    pub secrets: Secrets,
    /// The relay that the pack is to be at.
    pub card: Card,
    /// Link keys of the pack.
    pub keys: u64,
    /// Its value, in µtok.
    pub value: u64,
    /// Most that may be debited for it, in µtok.
    pub debit_max: u64,
}

impl Draft {
    /// Length of its file.
    pub const BYTES: usize = 2 * BLOCK;

    /// The whole file. `fresh` fills with fresh randomness. Refused: a name is too long.
    pub fn to_file(
        &self,
        passphrase: &[u8],
        cost: PassphraseCost,
        fresh: impl Fn(&mut [u8]),
    ) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let (file_key, header) = Header::with_fresh_key(passphrase, cost, &fresh);
        let mut file = Zeroizing::new(vec![0; Self::BYTES]);
        file[..BLOCK].copy_from_slice(&header);
        let nonce: [u8; NONCE] = drawn(&fresh);
        file[BLOCK..BLOCK + NONCE].copy_from_slice(&nonce);
        self.write(&mut file[BLOCK + NONCE + MAC..])?;
        seal_in_place(&box_key(&file_key), &nonce, &mut file[BLOCK + NONCE..]);
        Ok(file)
    }

    /// Reads what [`Self::to_file`] wrote. Refused: the passphrase is another, or it is no draft.
    pub fn open(file: &[u8], passphrase: &[u8]) -> Result<Self, Refused> {
        let (header, sealed) = file.split_first_chunk::<BLOCK>().ok_or(Refused)?;
        if sealed.len() != BLOCK {
            return Err(Refused);
        }
        let file_key = Header::open(header, passphrase)?;
        Self::read(&open(&box_key(&file_key), sealed)?)
    }

    fn write(&self, plain: &mut [u8]) -> Result<(), Refused> {
        let names = [&self.card.address, &self.card.domain];
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Refused);
        }
        plain[0] = VERSION;
        plain[1..33].copy_from_slice(self.secrets.kem.expose());
        plain[33..65].copy_from_slice(self.secrets.dh.expose());
        plain[65..97].copy_from_slice(&self.card.relay_public);
        plain[97..105].copy_from_slice(&self.keys.to_le_bytes());
        plain[105..113].copy_from_slice(&self.value.to_le_bytes());
        plain[113..121].copy_from_slice(&self.debit_max.to_le_bytes());
        write_name(&mut plain[ADDRESS_AT..], &self.card.address);
        write_name(&mut plain[DOMAIN_AT..], &self.card.domain);
        Ok(())
    }

    fn read(plain: &[u8]) -> Result<Self, Refused> {
        let plain: &[u8; PLAIN] = plain.try_into().map_err(|_| Refused)?;
        let number = |at: usize| {
            plain[at..]
                .first_chunk()
                .copied()
                .map(u64::from_le_bytes)
                .ok_or(Refused)
        };
        if plain[0] != VERSION {
            return Err(Refused);
        }
        Ok(Self {
            secrets: Secrets {
                kem: Secret::from_slice(&plain[1..33]).ok_or(Refused)?,
                dh: Secret::from_slice(&plain[33..65]).ok_or(Refused)?,
            },
            card: Card {
                relay_public: *plain[65..].first_chunk().ok_or(Refused)?,
                address: read_name(&plain[ADDRESS_AT..])?,
                domain: read_name(&plain[DOMAIN_AT..])?,
            },
            keys: number(97)?,
            value: number(105)?,
            debit_max: number(113)?,
        })
    }
}

/// `HE(file key, "procure/draft", 32)`.
fn box_key(file_key: &Secret<32>) -> Secret<32> {
    he(file_key, "procure/draft", &[])
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut plain = [0; PLAIN];
    let length = bytes.len().min(PLAIN);
    plain[..length].copy_from_slice(&bytes[..length]);
    if let Ok(draft) = Draft::read(&plain) {
        let mut again = [0; PLAIN];
        assert!(draft.write(&mut again).is_ok() && Draft::read(&again).is_ok());
        again.zeroize();
    }
    // Nothing behind a header: what it asks for is not spent.
    assert!(Draft::open(&bytes[..length.min(BLOCK - 1)], b"").is_err());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_opens_with_its_passphrase_alone() {
        let draft = Draft {
            secrets: Secrets {
                kem: Secret::new([1; 32]),
                dh: Secret::new([2; 32]),
            },
            card: Card {
                domain: "far.test".to_owned(),
                address: "127.0.0.1:7465".to_owned(),
                relay_public: [3; 32],
            },
            keys: 100,
            value: 1_000_000,
            debit_max: 1_001_000,
        };
        let file = draft
            .to_file(b"secret", PassphraseCost::LEAST, |out| out.fill(7))
            .expect("fits");
        let read = Draft::open(&file, b"secret").expect("as written");
        assert!(
            read.secrets.kem == draft.secrets.kem && read.secrets.dh == draft.secrets.dh && read.card == draft.card
        );
        assert_eq!((read.keys, read.value, read.debit_max), (100, 1_000_000, 1_001_000));
        assert!(Draft::open(&file, b"another").is_err());
        assert!(Draft::open(&file[..BLOCK], b"secret").is_err());
        let mut damaged = file.to_vec();
        damaged[BLOCK + 100] ^= 1;
        assert!(Draft::open(&damaged, b"secret").is_err());
    }
}
