//! The wrap: `T[j] 16 | N 24 | Box(HE(K[j], "post" | T[j]), N, DEK 32 | H(body) 32 | u32 length | u32 class | u32 day | u32 alias)`.

use sha2::{Digest, Sha256};

use crate::chain::BoxStep;
use crate::kdf::he;
use crate::secretbox::{MAC, NONCE, open, seal_in_place};
use crate::{Refused, Secret, Tag};

use super::Dek;
use super::class::{is_class, sealed_capacity};

/// Length of a wrap in bytes.
pub const WRAP: usize = TAG + NONCE + MAC + PLAIN;

const TAG: usize = 16;
const PLAIN: usize = 80;

const _: () = assert!(WRAP == 136);

/// What a wrap says of its deposit.
pub struct WrapFields {
    /// Key of the body.
    pub dek: Dek,
    /// SHA-256 of the sealed body.
    pub body_digest: [u8; 32],
    /// Length of the payload inside the body, in bytes.
    pub length: u32,
    /// Size class of the body, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// UTC day on which it was stored.
    pub day: u32,
    /// Number of the alias that it came for.
    pub alias: u32,
}

/// Seals a wrap. `nonce` is fresh randomness: after a commit that failed the same index is used again.
pub fn seal_wrap(step: &BoxStep, nonce: [u8; NONCE], fields: &WrapFields) -> Vec<u8> {
    let mut wrap = Vec::with_capacity(WRAP);
    wrap.extend_from_slice(&step.tag.0);
    wrap.extend_from_slice(&nonce);
    wrap.extend_from_slice(&[0; MAC]);
    wrap.extend_from_slice(fields.dek.secret().expose());
    wrap.extend_from_slice(&fields.body_digest);
    for number in [fields.length, fields.kilobytes, fields.day, fields.alias] {
        wrap.extend_from_slice(&number.to_le_bytes());
    }
    seal_in_place(&box_key(step), &nonce, &mut wrap[TAG + NONCE..]);
    wrap
}

/// The tag of a wrap. `None`: the bytes are no wrap.
pub fn wrap_tag(wrap: &[u8]) -> Option<Tag> {
    let wrap: &[u8; WRAP] = wrap.try_into().ok()?;
    wrap.first_chunk().map(|tag| Tag(*tag))
}

/// Opens the wrap of `step`. Numbers that contradict each other are refused like a wrong MAC.
pub fn open_wrap(step: &BoxStep, wrap: &[u8]) -> Result<WrapFields, Refused> {
    if wrap_tag(wrap) != Some(step.tag) {
        return Err(Refused);
    }
    let plain = open(&box_key(step), &wrap[TAG..])?;
    parse(&plain)
}

/// `H(wrap)`, by which holder and relay name the deposit when it is confirmed.
pub fn wrap_digest(wrap: &[u8]) -> [u8; 32] {
    Sha256::digest(wrap).into()
}

fn parse(plain: &[u8]) -> Result<WrapFields, Refused> {
    let plain: &[u8; PLAIN] = plain.try_into().map_err(|_| Refused)?;
    let number =
        |offset: usize| u32::from_le_bytes([plain[offset], plain[offset + 1], plain[offset + 2], plain[offset + 3]]);
    let fields = WrapFields {
        dek: Dek::new(Secret::from_slice(&plain[..32]).ok_or(Refused)?),
        body_digest: *plain[32..].first_chunk().ok_or(Refused)?,
        length: number(64),
        kilobytes: number(68),
        day: number(72),
        alias: number(76),
    };
    let coherent = is_class(fields.kilobytes) && fields.length as usize <= sealed_capacity(fields.kilobytes);
    if coherent { Ok(fields) } else { Err(Refused) }
}

/// `HE(K[j], "post" | T[j], 32)`.
fn box_key(step: &BoxStep) -> Secret<32> {
    he(&step.key, "post", &step.tag.0)
}

pub(super) fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
    let mut step = crate::chain::BoxChain::from_root(crate::chain::BoxKind::Post, &Secret::new([0; 32])).advance();
    if let Some(tag) = wrap_tag(bytes) {
        step.tag = tag;
    }
    assert!(open_wrap(&step, bytes).is_err(), "no input is sealed under this key");
}
