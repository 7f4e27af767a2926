//! `Box(key, nonce, m)` = XSalsa20-Poly1305 as in NaCl's `crypto_secretbox`: 16 bytes of MAC, then the ciphertext.
//!
//! Both halves are written here, as no crate has them at the speed of libsodium without C or `unsafe` code of ours
//! (`docs/decisions/2026-11-21-secretbox-in-vectors.md`).

mod poly1305;
mod xsalsa20;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::kdf::wipe_stack;
use crate::{Refused, Secret};

use poly1305::{poly1305, poly1305_behind};
use xsalsa20::XSalsa20;

/// Length of the MAC before every ciphertext.
pub const MAC: usize = 16;
/// Length of a nonce.
pub const NONCE: usize = 24;

/// Nonces of STREAM, `prefix 16 | u56 counter | u8 final`: order, count and end are bound into them.
pub(crate) fn chunk_nonce(prefix: &[u8; 16], counter: u64, last: bool) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_le_bytes());
    // There are at most 4,097 chunks: the counter's last byte is free for the end.
    nonce[NONCE - 1] = u8::from(last);
    nonce
}

/// Seals `boxed[MAC..]` where it lies and writes the MAC before it.
///
/// A (key, nonce) pair seals one plaintext: a second one would reveal the exclusive-or of both and the MAC key.
///
/// # Panics
/// If `boxed` has no room for the MAC.
pub fn seal_in_place(key: &Secret<32>, nonce: &[u8; NONCE], boxed: &mut [u8]) {
    seal_without_wiping(key, nonce, boxed);
    wipe_stack();
}

/// [`seal_in_place`] for callers who wipe the stack themselves.
#[inline(always)]
pub(crate) fn seal_without_wiping(key: &Secret<32>, nonce: &[u8; NONCE], boxed: &mut [u8]) {
    let (mac, plain) = boxed
        .split_first_chunk_mut::<MAC>()
        .expect("the caller leaves room for the MAC");
    encrypt(key, nonce, plain, mac);
}

/// Checks the MAC of `boxed`, then opens it where it lies; returns the plaintext behind the MAC.
/// When refused, `boxed` is as before.
pub fn open_in_place<'b>(key: &Secret<32>, nonce: &[u8; NONCE], boxed: &'b mut [u8]) -> Result<&'b mut [u8], Refused> {
    let (mac, sealed) = boxed.split_first_chunk_mut::<MAC>().ok_or(Refused)?;
    let opened = decrypt(key, nonce, sealed, mac);
    wipe_stack();
    opened.map(|()| sealed)
}

/// Seals a row for storage: `nonce | MAC | ciphertext`.
pub fn seal(key: &Secret<32>, nonce: [u8; NONCE], plain: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(NONCE + MAC + plain.len());
    row.extend_from_slice(&nonce);
    row.extend_from_slice(&[0; MAC]);
    row.extend_from_slice(plain);
    seal_in_place(key, &nonce, &mut row[NONCE..]);
    row
}

/// Opens what [`seal`] made.
pub fn open(key: &Secret<32>, row: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let (nonce, boxed) = row.split_first_chunk::<NONCE>().ok_or(Refused)?;
    let (mac, sealed) = boxed.split_first_chunk::<MAC>().ok_or(Refused)?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    let opened = decrypt(key, nonce, &mut plain, mac);
    wipe_stack();
    opened.map(|()| plain)
}

/// `Poly1305(key, first | message)` under a key that is used for this alone (RFC 8439 section 2.5).
pub(crate) fn one_time_mac(key: &[u8; 32], first: &[u8; 16], message: &[u8]) -> [u8; MAC] {
    let mut words: [u32; 8] =
        std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|byte| key[4 * word + byte])));
    let mac = poly1305_behind(&words, first, message);
    words.zeroize();
    mac
}

/// Adds the stream of a key and nonce to `bytes`, from its 33rd byte on as a box does.
pub(crate) fn keystream(key: &Secret<32>, nonce: &[u8; NONCE], bytes: &mut [u8]) {
    XSalsa20::new(key.expose(), nonce).apply(bytes);
}

/// Apart from its caller, so that its working state lies in a frame that [`wipe_stack`] reaches.
#[inline(never)]
fn encrypt(key: &Secret<32>, nonce: &[u8; NONCE], plain: &mut [u8], mac: &mut [u8; MAC]) {
    let mut stream = XSalsa20::new(key.expose(), nonce);
    let mac_key = Zeroizing::new(*stream.mac_key());
    stream.apply(plain);
    *mac = poly1305(&mac_key, plain);
}

/// Apart from its caller, as [`encrypt`] is. Compares the MAC in constant time and opens nothing before.
#[inline(never)]
fn decrypt(key: &Secret<32>, nonce: &[u8; NONCE], sealed: &mut [u8], mac: &[u8; MAC]) -> Result<(), Refused> {
    let mut stream = XSalsa20::new(key.expose(), nonce);
    let computed = poly1305(stream.mac_key(), sealed);
    if !bool::from(computed.ct_eq(mac)) {
        return Err(Refused);
    }
    stream.apply(sealed);
    Ok(())
}
