//! The key schedule of a first cell (`docs/PROTOCOL.md` sections 1 to 3), written for millions of keys a second.
//!
//! Not the product's own code on purpose: that wipes its stack after every step, and a search should not depend on what
//! it searches. The tests of `recording.rs` hold the two against each other.

use sha2::block_api::compress256;

use super::KEY;

const PREFIX: &[u8] = b"postern/1/";
const BLOCK: usize = 64;

/// SHA-256's state before any input (FIPS 180-4 section 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
/// "expand 32-byte k".
const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// HMAC-SHA256 under one key of at most a block: its two states after the key.
#[derive(Clone, Copy)]
pub(super) struct Mac {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Mac {
    pub(super) fn keyed(key: &[u8]) -> Self {
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL;
            compress256(&mut state, &[block]);
            state
        };
        Mac {
            inner: padded(0x36),
            outer: padded(0x5c),
        }
    }

    /// The MAC of exactly one block, as of both halves of a link key.
    pub(super) fn of_block(&self, message: &[u8; BLOCK]) -> [u8; KEY] {
        let mut inner = self.inner;
        compress256(&mut inner, &[*message, last_block(&[], 2 * BLOCK)]);
        self.finish(&inner)
    }

    /// The MAC of less than a block.
    fn of_pieces(&self, pieces: &[&[u8]]) -> [u8; KEY] {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut inner = self.inner;
        compress256(&mut inner, &[last_block(pieces, BLOCK + length)]);
        self.finish(&inner)
    }

    fn finish(&self, inner: &[u32; 8]) -> [u8; KEY] {
        let mut outer = self.outer;
        compress256(&mut outer, &[last_block(&[&bytes(inner)], BLOCK + KEY)]);
        bytes(&outer)
    }
}

/// What is left of a message of `total` bytes, padded.
fn last_block(pieces: &[&[u8]], total: usize) -> [u8; BLOCK] {
    let (mut block, mut at) = ([0; BLOCK], 0);
    for piece in pieces {
        block[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    block[at] = 0x80;
    block[BLOCK - 8..].copy_from_slice(&(8 * total as u64).to_be_bytes());
    block
}

fn bytes(state: &[u32; 8]) -> [u8; KEY] {
    let mut out = [0; KEY];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// `label(purpose)`.
pub(super) fn label(purpose: &str) -> Vec<u8> {
    [PREFIX, purpose.as_bytes(), &[0]].concat()
}

/// `HE(key, label, 32 * BLOCKS)` for a label of at most 22 bytes, in pieces of 32; `key` is keyed with the key.
pub(super) fn expand<const BLOCKS: usize>(key: &Mac, label: &[u8]) -> [[u8; KEY]; BLOCKS] {
    let mut out = [[0; KEY]; BLOCKS];
    for number in 0..BLOCKS {
        let counter = [number as u8 + 1];
        out[number] = match number {
            0 => key.of_pieces(&[label, &counter]),
            _ => key.of_pieces(&[&out[number - 1], label, &counter]),
        };
    }
    out
}

/// What a recording tells of its XSalsa20 stream: block 1, under one nonce.
pub(super) struct Stream {
    /// The nonce's 16 bytes that enter the key.
    pub(super) head: [u32; 4],
    /// Its last 8.
    pub(super) tail: [u32; 2],
    /// The stream's words.
    pub(super) block: [u32; 16],
}

impl Stream {
    /// Whether this key makes the stream. 512 bits agree, so no MAC needs to be computed.
    pub(super) fn is_made_by(&self, key: &[u8; KEY]) -> bool {
        let mut state = salsa_input(&words(key), &self.head);
        salsa_rounds(&mut state);
        let key = [0, 5, 10, 15, 6, 7, 8, 9].map(|position: usize| state[position]);
        let input = salsa_input(&key, &[self.tail[0], self.tail[1], 1, 0]);
        let mut state = input;
        salsa_rounds(&mut state);
        (0..16).all(|position| state[position].wrapping_add(input[position]) == self.block[position])
    }
}

/// Little-endian words.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|position| u32::from_le_bytes(words[position]))
}

fn salsa_input(key: &[u32; 8], middle: &[u32; 4]) -> [u32; 16] {
    let ([s0, s1, s2, s3], [k0, k1, k2, k3, k4, k5, k6, k7], [m0, m1, m2, m3]) = (SIGMA, *key, *middle);
    [s0, k0, k1, k2, k3, s1, m0, m1, m2, m3, s2, k4, k5, k6, k7, s3]
}

/// Twenty rounds of Salsa20.
fn salsa_rounds(x: &mut [u32; 16]) {
    for _ in 0..10 {
        for [a, b, c, d] in [[0, 4, 8, 12], [5, 9, 13, 1], [10, 14, 2, 6], [15, 3, 7, 11]] {
            quarter_round(x, a, b, c, d);
        }
        for [a, b, c, d] in [[0, 1, 2, 3], [5, 6, 7, 4], [10, 11, 8, 9], [15, 12, 13, 14]] {
            quarter_round(x, a, b, c, d);
        }
    }
}

#[inline(always)]
fn quarter_round(x: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    x[b] ^= x[a].wrapping_add(x[d]).rotate_left(7);
    x[c] ^= x[b].wrapping_add(x[a]).rotate_left(9);
    x[d] ^= x[c].wrapping_add(x[b]).rotate_left(13);
    x[a] ^= x[d].wrapping_add(x[c]).rotate_left(18);
}
