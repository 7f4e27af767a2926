//! The header block: the file key under a passphrase.
//!
//! ```text
//! 0   "POSTERNP"        8
//! 8   version           u16 = 1
//! 10  key derivation    u16 = 1: Argon2id, version 0x13
//! 12  memory            u32, KiB
//! 16  passes            u32
//! 20  lanes             u32 = 1
//! 24  salt              16
//! 40  nonce             24
//! 64  Box(Argon2id(passphrase, salt), nonce, file key 32)   48
//! 112 zeros             to 4,096
//! ```

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::kdf::wipe_stack;
use crate::secretbox::{MAC, NONCE, open, seal_in_place};
use crate::{Refused, Secret};

use super::BLOCK;

const VERSION: u16 = 1;
const ARGON2ID: u16 = 1;
const SALT_AT: usize = 24;
const NONCE_AT: usize = 40;
const BOX_AT: usize = NONCE_AT + NONCE;
const END: usize = BOX_AT + MAC + 32;

const MEMORY_KIB_MIN: u32 = 8;
const MEMORY_KIB_MAX: u32 = 256 * 1_024;
const PASSES_MAX: u32 = 16;

/// What a guess at the passphrase costs. One lane, as libsodium has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassphraseCost {
    /// Memory in KiB, 8 to 262,144.
    pub memory_kib: u32,
    /// Passes over it, 1 to 16.
    pub passes: u32,
}

impl PassphraseCost {
    /// What packs are issued with: 64 MiB, three passes.
    pub const DEFAULT: Self = Self {
        memory_kib: 64 * 1_024,
        passes: 3,
    };
    /// For tests, where every millisecond counts and no secret is kept.
    pub const LEAST: Self = Self {
        memory_kib: MEMORY_KIB_MIN,
        passes: 1,
    };

    fn in_bounds(self) -> bool {
        (MEMORY_KIB_MIN..=MEMORY_KIB_MAX).contains(&self.memory_kib) && (1..=PASSES_MAX).contains(&self.passes)
    }
}

/// A header as read; the passphrase is still to come.
pub struct Header {
    cost: PassphraseCost,
    salt: [u8; 16],
    /// `nonce | MAC | sealed file key`.
    sealed: [u8; END - NONCE_AT],
}

/// Why a block is no header that can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderFault {
    /// It does not begin as a pack.
    NoPack,
    /// It is of another version.
    Version(u16),
    /// Derivation or cost is one that no pack has.
    Derivation,
}

impl Header {
    /// What a pack begins with.
    pub const MAGIC: &[u8; 8] = b"POSTERNP";

    /// Makes a header block. `salt` and `nonce` are fresh randomness, also when only the passphrase changes.
    ///
    /// # Panics
    /// If the cost is out of bounds.
    pub fn create(
        passphrase: &[u8],
        file_key: &Secret<32>,
        salt: [u8; 16],
        nonce: [u8; NONCE],
        cost: PassphraseCost,
    ) -> [u8; BLOCK] {
        assert!(cost.in_bounds(), "the caller chooses a cost that can be read back");
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(Self::MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[10..12].copy_from_slice(&ARGON2ID.to_le_bytes());
        block[12..16].copy_from_slice(&cost.memory_kib.to_le_bytes());
        block[16..20].copy_from_slice(&cost.passes.to_le_bytes());
        block[20..24].copy_from_slice(&1u32.to_le_bytes());
        block[SALT_AT..NONCE_AT].copy_from_slice(&salt);
        block[NONCE_AT..BOX_AT].copy_from_slice(&nonce);
        block[BOX_AT + MAC..END].copy_from_slice(file_key.expose());
        let key =
            passphrase_key(passphrase, &salt, cost).expect("the cost is in bounds, salt and key have their lengths");
        seal_in_place(&key, &nonce, &mut block[BOX_AT..END]);
        block
    }

    /// A file key of its own, and the header that keeps it under the passphrase. `fresh` fills with fresh randomness.
    pub(crate) fn with_fresh_key(
        passphrase: &[u8],
        cost: PassphraseCost,
        fresh: &impl Fn(&mut [u8]),
    ) -> (Secret<32>, [u8; BLOCK]) {
        let file_key = Secret::from_fn(|key| fresh(key));
        let (salt, nonce) = (drawn(fresh), drawn(fresh));
        let header = Self::create(passphrase, &file_key, salt, nonce, cost);
        (file_key, header)
    }

    /// Reads a block. Refused: it is no header of this version, or asks for a cost out of bounds.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, Refused> {
        Self::read(block).map_err(|_| Refused)
    }

    /// [`Header::parse`] that says what is wrong.
    pub fn read(block: &[u8; BLOCK]) -> Result<Self, HeaderFault> {
        let number = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let cost = PassphraseCost {
            memory_kib: number(12),
            passes: number(16),
        };
        if !block.starts_with(Self::MAGIC) {
            return Err(HeaderFault::NoPack);
        }
        let version = u16::from_le_bytes([block[8], block[9]]);
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        if block[10..12] != ARGON2ID.to_le_bytes() || number(20) != 1 || !cost.in_bounds() {
            return Err(HeaderFault::Derivation);
        }
        Ok(Self {
            cost,
            salt: *block[SALT_AT..].first_chunk().ok_or(HeaderFault::NoPack)?,
            sealed: *block[NONCE_AT..].first_chunk().ok_or(HeaderFault::NoPack)?,
        })
    }

    /// What a guess at the passphrase costs.
    pub fn cost(&self) -> PassphraseCost {
        self.cost
    }

    /// The file key. Refused: the passphrase is another.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<Secret<32>, Refused> {
        let key = passphrase_key(passphrase, &self.salt, self.cost)?;
        Secret::from_slice(&open(&key, &self.sealed)?).ok_or(Refused)
    }

    /// [`Header::parse`], then [`Header::unlock`].
    pub fn open(block: &[u8; BLOCK], passphrase: &[u8]) -> Result<Secret<32>, Refused> {
        Self::parse(block)?.unlock(passphrase)
    }
}

/// So many bytes of fresh randomness.
pub(crate) fn drawn<const N: usize>(fresh: &impl Fn(&mut [u8])) -> [u8; N] {
    let mut bytes = [0; N];
    fresh(&mut bytes);
    bytes
}

/// Argon2id (RFC 9106), one lane, 32 bytes.
fn passphrase_key(passphrase: &[u8], salt: &[u8; 16], cost: PassphraseCost) -> Result<Secret<32>, Refused> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).map_err(|_| Refused)?;
    let mut done = Ok(());
    let key = Secret::from_fn(|key| done = argon2id(params, passphrase, salt, key));
    wipe_stack();
    done.map(|()| key)
}

/// Apart from its caller, so that its working state lies in a frame that [`wipe_stack`] reaches. The memory is wiped
/// here: the library only frees its own.
#[inline(never)]
fn argon2id(params: Params, passphrase: &[u8], salt: &[u8; 16], key: &mut [u8; 32]) -> Result<(), Refused> {
    let mut memory = vec![Block::default(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let done = argon2.hash_password_into_with_memory(passphrase, salt, key, &mut memory);
    memory.iter_mut().for_each(Zeroize::zeroize);
    done.map_err(|_| Refused)
}

pub(super) fn fuzz(bytes: &[u8]) {
    let mut block = [0; BLOCK];
    let length = bytes.len().min(BLOCK);
    block[..length].copy_from_slice(&bytes[..length]);
    // Not unlocked: a header may ask for 256 MiB, which is the bound but not a pace for fuzzing.
    let _ = Header::parse(&block);
}
