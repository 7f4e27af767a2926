//! The body: `prefix 16 | chunk | chunk ..`, each chunk `Box(DEK, prefix | u56 counter | u8 final, 15,984 bytes)`.
//!
//! This is the STREAM construction: order, count and end are bound into the nonces, so chunks can be neither
//! dropped, moved nor cut off. The last chunk is as long as the class leaves it; a class of 8 or below is one chunk.

use zeroize::Zeroize;

use crate::secretbox::{MAC, chunk_nonce, open_in_place, seal_in_place};
use crate::{Refused, Secret};

use super::Dek;
use super::class::{CLASS_KILOBYTES_MAX, class_bytes, is_class, sealed_capacity, sealed_class_for};

/// Length of the random prefix of all nonces of a body.
pub(super) const PREFIX: usize = 16;
/// Plaintext of a full chunk.
pub(super) const CHUNK: usize = 15_984;

/// The payload is longer than the largest class holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("longer than the largest size class")
    }
}

impl std::error::Error for TooLong {}

/// Seals a payload while it streams in: at any moment at most one chunk of it lies in memory unsealed.
pub struct BodySealer {
    dek: Dek,
    prefix: [u8; PREFIX],
    /// Prefix, sealed chunks, then room for a MAC and the plaintext of the chunk that is open.
    body: Vec<u8>,
    /// Where the open chunk begins in `body`.
    open: usize,
    length: usize,
    counter: u64,
}

/// A sealed body.
pub struct Sealed {
    /// Exactly one class long.
    pub body: Vec<u8>,
    /// Its class, in units of 1,000 bytes.
    pub kilobytes: u32,
    /// Length of the payload, in bytes.
    pub length: u32,
    /// Its key, for the wrap.
    pub dek: Dek,
}

impl BodySealer {
    /// Begins a body under a fresh key and a fresh random prefix.
    pub fn new(dek: Dek, prefix: [u8; PREFIX]) -> Self {
        let mut body = Vec::with_capacity(PREFIX + MAC + CHUNK);
        body.extend_from_slice(&prefix);
        let mut sealer = Self {
            dek,
            prefix,
            body,
            open: PREFIX,
            length: 0,
            counter: 0,
        };
        sealer.begin_chunk();
        sealer
    }

    /// Takes the next bytes of the payload. An error leaves the sealer as it was.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        let length = self.length.checked_add(bytes.len()).ok_or(TooLong)?;
        if length > sealed_capacity(CLASS_KILOBYTES_MAX) {
            return Err(TooLong);
        }
        self.length = length;
        while !bytes.is_empty() {
            let room = CHUNK - self.unsealed();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.body.extend_from_slice(now);
            bytes = later;
            // The last chunk of a class holds less than a full one, so a full one is never the last.
            if self.unsealed() == CHUNK {
                self.seal_chunk(false);
                self.begin_chunk();
            }
        }
        Ok(())
    }

    /// Pads the payload with zeros to its class and seals the rest.
    pub fn finish(mut self) -> Sealed {
        let kilobytes = sealed_class_for(self.length).expect("push keeps the length within the largest class");
        let end = class_bytes(kilobytes);
        while end - self.open > MAC + CHUNK {
            self.body.resize(self.open + MAC + CHUNK, 0);
            self.seal_chunk(false);
            self.body.reserve_exact(end - self.body.len());
            self.begin_chunk();
        }
        self.body.resize(end, 0);
        self.seal_chunk(true);
        let length = u32::try_from(self.length).expect("the largest class is below 4 GiB");
        Sealed {
            body: std::mem::take(&mut self.body),
            kilobytes,
            length,
            dek: self.dek.duplicate(),
        }
    }

    fn unsealed(&self) -> usize {
        self.body.len() - self.open - MAC
    }

    /// Makes room for a whole chunk before any of it comes, so that growing never leaves plaintext in freed memory.
    fn begin_chunk(&mut self) {
        self.open = self.body.len();
        self.body.reserve(MAC + CHUNK);
        self.body.extend_from_slice(&[0; MAC]);
    }

    fn seal_chunk(&mut self, last: bool) {
        let nonce = chunk_nonce(&self.prefix, self.counter, last);
        seal_in_place(&self.dek.0, &nonce, &mut self.body[self.open..]);
        self.counter += 1;
        self.open = self.body.len();
    }
}

impl Drop for BodySealer {
    fn drop(&mut self) {
        if let Some(unsealed) = self.body.get_mut(self.open..) {
            unsealed.zeroize();
        }
    }
}

/// Opens a body where it lies and returns the payload, its first `length` bytes, which are the caller's to wipe.
pub fn open_body(dek: &Dek, mut body: Vec<u8>, length: u32) -> Result<Vec<u8>, Refused> {
    let opened = open_chunks(&dek.0, &mut body);
    match opened.map(|plain| (plain, length as usize)) {
        Ok((plain, length)) if length <= plain => {
            body[length..].zeroize();
            body.truncate(length);
            Ok(body)
        }
        _ => {
            body.zeroize();
            Err(Refused)
        }
    }
}

/// Opens chunk by chunk and moves each behind the one before; returns the length of the plaintext.
fn open_chunks(key: &Secret<32>, body: &mut [u8]) -> Result<usize, Refused> {
    let class = u32::try_from(body.len() / 1_000).map_err(|_| Refused)?;
    if !is_class(class) || class_bytes(class) != body.len() {
        return Err(Refused);
    }
    let prefix = *body.first_chunk::<PREFIX>().ok_or(Refused)?;
    let (mut from, mut to, mut counter) = (PREFIX, 0, 0);
    while from < body.len() {
        let end = body.len().min(from + MAC + CHUNK);
        let nonce = chunk_nonce(&prefix, counter, end == body.len());
        open_in_place(key, &nonce, &mut body[from..end])?;
        body.copy_within(from + MAC..end, to);
        to += end - from - MAC;
        from = end;
        counter += 1;
    }
    Ok(to)
}

pub(super) fn fuzz(bytes: &[u8]) {
    let dek = Dek::new(Secret::new([0; 32]));
    assert!(
        open_body(&dek, bytes.to_vec(), 0).is_err(),
        "no input is sealed under this key"
    );
}
