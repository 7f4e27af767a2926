//! A layer on its way out: the head first, then the payload as it comes, then the fill.

use zeroize::{Zeroize, Zeroizing};

use crate::Secret;
use crate::chain::BoxStep;
use crate::secretbox::{MAC, seal_in_place};

use super::{CHUNK, HEAD, HEADER, Header, PREFIX, TAG, chunk_nonce, class_bytes, layer_key};

/// The header names no class, or one that does not hold its payload; or more payload came than it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("longer than its class or its header allows")
    }
}

impl std::error::Error for TooLong {}

/// Seals a layer while it streams by; at any moment at most one chunk lies here unsealed.
///
/// It takes the step of its index and so the only way to the key: what it made is kept and sent again as it is, never
/// sealed again.
pub struct LayerSealer {
    key: Secret<32>,
    prefix: [u8; PREFIX],
    /// Room for a MAC, then the plaintext of the chunk that is open.
    chunk: Vec<u8>,
    counter: u64,
    /// Payload that is still to come.
    left: usize,
    /// Bytes of the class that are still to be made.
    room: usize,
}

impl LayerSealer {
    /// Begins a layer and writes its head to `out`. `prefix` is fresh randomness from the operating system: an index
    /// whose commit failed is sealed for again, and then with another one.
    pub fn new(step: BoxStep, prefix: [u8; PREFIX], header: &Header, out: &mut Vec<u8>) -> Result<Self, TooLong> {
        if !header.is_coherent() {
            return Err(TooLong);
        }
        let key = layer_key(&step);
        let mut head = Zeroizing::new([0; HEAD]);
        head[..TAG].copy_from_slice(&step.tag.0);
        head[TAG..TAG + PREFIX].copy_from_slice(&prefix);
        header.write_to(&mut head[HEAD - HEADER..]);
        seal_in_place(&key, &chunk_nonce(&prefix, 0, false), &mut head[TAG + PREFIX..]);
        out.extend_from_slice(&*head);
        let mut sealer = Self {
            key,
            prefix,
            chunk: Vec::with_capacity(MAC + CHUNK),
            counter: 1,
            left: header.length as usize,
            room: class_bytes(header.class) - HEAD,
        };
        sealer.chunk.resize(MAC, 0);
        if sealer.left == 0 {
            sealer.seal_chunk(true, out);
        }
        Ok(sealer)
    }

    /// Takes the next bytes of the payload, and appends to `out` what is sealed by them. An error leaves both as they were.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        if bytes.len() > self.left {
            return Err(TooLong);
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(MAC + CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            self.left -= now.len();
            bytes = later;
            if self.left == 0 || self.chunk.len() == MAC + CHUNK {
                self.seal_chunk(self.left == 0, out);
            }
        }
        Ok(())
    }

    /// Ends the layer: appends its fill, drawn from `random`.
    ///
    /// # Panics
    /// If less payload came than the header says.
    pub fn finish(self, random: impl FnOnce(&mut [u8]), out: &mut Vec<u8>) {
        assert!(self.left == 0, "the whole payload was pushed before");
        let filled = out.len();
        out.resize(filled + self.room, 0);
        random(&mut out[filled..]);
    }

    fn seal_chunk(&mut self, last: bool, out: &mut Vec<u8>) {
        let nonce = chunk_nonce(&self.prefix, self.counter, last);
        seal_in_place(&self.key, &nonce, &mut self.chunk);
        out.extend_from_slice(&self.chunk);
        self.room -= self.chunk.len();
        self.counter += 1;
        self.chunk.truncate(MAC);
    }
}

impl Drop for LayerSealer {
    fn drop(&mut self) {
        self.chunk.zeroize();
    }
}
