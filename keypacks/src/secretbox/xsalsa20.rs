//! XSalsa20 (D. J. Bernstein, "Extending the Salsa20 nonce", 2011), eight blocks of keystream at a time.
//!
//! Each of the sixteen words of the state is a vector with one lane for each block. Words are only added, exclusive-ored
//! and shifted by constants, and no index or branch depends on one: the time taken depends on the length alone.

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, u32x8};

/// Blocks of one batch.
const LANES: usize = 8;
/// Words of a block.
const BLOCK: usize = 16;
/// Words of a batch.
const BATCH: usize = LANES * BLOCK;
/// Words of the keystream that are the key of the MAC and not of the cipher, as in NaCl's `crypto_secretbox`.
const MAC_KEY: usize = 8;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The keystream of one (key, nonce) pair. Stays where it was made, as it leaves no copy of itself that way.
pub(super) struct XSalsa20 {
    level: Level,
    input: [u32; BLOCK],
    /// The batch computed last. Starts with the first, where the key of the MAC is.
    batch: [u32; BATCH],
}

impl XSalsa20 {
    pub(super) fn new(key: &[u8; 32], nonce: &[u8; 24]) -> Self {
        Self::at_level(Level::new(), key, nonce)
    }

    /// [`XSalsa20::new`] with the instructions of a level, of which the machine may have several.
    fn at_level(level: Level, key: &[u8; 32], nonce: &[u8; 24]) -> Self {
        let [n0, n1, n2, n3, n4, n5] = words(nonce);
        let subkey = hsalsa20(&words(key), [n0, n1, n2, n3]);
        let mut this = Self {
            level,
            input: input(&subkey, [n4, n5, 0, 0]),
            batch: [0; BATCH],
        };
        this.compute(0);
        this
    }

    /// The key of the MAC. To be read before [`XSalsa20::apply`].
    pub(super) fn mac_key(&self) -> &[u32; MAC_KEY] {
        self.batch.first_chunk().expect("a batch is longer than a key")
    }

    /// Exclusive-ors the keystream behind the MAC's key into `message`. Once only: the first batch is gone afterwards.
    pub(super) fn apply(&mut self, message: &mut [u8]) {
        let (first, rest) = message.split_at_mut(message.len().min(4 * (BATCH - MAC_KEY)));
        exclusive_or(first, &self.batch[MAC_KEY..]);
        for (chunk, batch) in rest.chunks_mut(4 * BATCH).zip(1..) {
            self.compute(batch * LANES as u64);
            exclusive_or(chunk, &self.batch);
        }
    }

    fn compute(&mut self, block: u64) {
        dispatch!(self.level, simd => salsa20(simd, &self.input, block, &mut self.batch));
    }
}

impl Drop for XSalsa20 {
    fn drop(&mut self) {
        self.input = [0; BLOCK];
        self.batch = [0; BATCH];
        // Not word by word as `zeroize` does it: that would take a fifth of the time of the batch.
        zeroize::optimization_barrier(self);
    }
}

/// Blocks `block` to `block + 7` of Salsa20/20, one after the other.
#[inline(always)]
fn salsa20<S: Simd>(simd: S, input: &[u32; BLOCK], block: u64, batch: &mut [u32; BATCH]) {
    let numbers: [u64; LANES] = std::array::from_fn(|lane| block + lane as u64);
    let start: [u32x8<S>; BLOCK] = std::array::from_fn(|word| match word {
        8 => numbers.map(|number| number as u32).simd_into(simd),
        9 => numbers.map(|number| (number >> 32) as u32).simd_into(simd),
        _ => u32x8::splat(simd, input[word]),
    });
    let mut state = start;
    double_rounds(
        &mut state,
        #[inline(always)]
        |to, a, b, left| {
            let sum = a + b;
            to ^ (sum << left) ^ (sum >> (32 - left))
        },
    );
    for (word, start) in state.iter_mut().zip(start) {
        *word += start;
    }
    let (low, high) = state.split_at(LANES);
    for (half, vectors) in [low, high].into_iter().enumerate() {
        let rows = transpose(simd, *vectors.first_chunk().expect("half of a block"));
        for (lane, row) in rows.into_iter().enumerate() {
            row.store_slice(&mut batch[lane * BLOCK + half * LANES..][..LANES]);
        }
    }
}

/// Makes row `i` of what was lane `i` of each vector: three perfect shuffles of the 64 words.
#[inline(always)]
fn transpose<S: Simd>(simd: S, mut rows: [u32x8<S>; LANES]) -> [u32x8<S>; LANES] {
    for _ in 0..LANES.ilog2() {
        let before = rows;
        for pair in 0..LANES / 2 {
            (rows[2 * pair], rows[2 * pair + 1]) = simd.interleave_u32x8(before[pair], before[pair + LANES / 2]);
        }
    }
    rows
}

/// `HSalsa20(key, nonce)`: the state after the rounds, where nothing of the input was added.
fn hsalsa20(key: &[u32; 8], nonce: [u32; 4]) -> [u32; 8] {
    let mut state = input(key, nonce);
    double_rounds(&mut state, |to, a, b, left| to ^ a.wrapping_add(b).rotate_left(left));
    [0, 5, 10, 15, 6, 7, 8, 9].map(|word| state[word])
}

/// The input block: constants on the diagonal, the key around `nonce` (for Salsa20 a nonce and the number of the block).
fn input(key: &[u32; 8], nonce: [u32; 4]) -> [u32; BLOCK] {
    let ([c0, c1, c2, c3], [n0, n1, n2, n3], [k0, k1, k2, k3, k4, k5, k6, k7]) = (CONSTANTS, nonce, *key);
    [c0, k0, k1, k2, k3, c1, n0, n1, n2, n3, c2, k4, k5, k6, k7, c3]
}

/// Ten double rounds over words or over vectors of them. `mix(to, a, b, left)` is `to ^ ((a + b) <<< left)`.
#[inline(always)]
fn double_rounds<W: Copy>(x: &mut [W; BLOCK], mix: impl Fn(W, W, W, u32) -> W) {
    for _ in 0..10 {
        quarter_round(x, &mix, [0, 4, 8, 12]);
        quarter_round(x, &mix, [5, 9, 13, 1]);
        quarter_round(x, &mix, [10, 14, 2, 6]);
        quarter_round(x, &mix, [15, 3, 7, 11]);
        quarter_round(x, &mix, [0, 1, 2, 3]);
        quarter_round(x, &mix, [5, 6, 7, 4]);
        quarter_round(x, &mix, [10, 11, 8, 9]);
        quarter_round(x, &mix, [15, 12, 13, 14]);
    }
}

#[inline(always)]
fn quarter_round<W: Copy>(x: &mut [W; BLOCK], mix: &impl Fn(W, W, W, u32) -> W, [a, b, c, d]: [usize; 4]) {
    x[b] = mix(x[b], x[a], x[d], 7);
    x[c] = mix(x[c], x[b], x[a], 9);
    x[d] = mix(x[d], x[c], x[b], 13);
    x[a] = mix(x[a], x[d], x[c], 18);
}

/// `bytes` is no longer than `keystream`.
fn exclusive_or(bytes: &mut [u8], keystream: &[u32]) {
    let (whole, rest) = bytes.as_chunks_mut::<4>();
    let (now, later) = keystream.split_at(whole.len());
    for (bytes, word) in whole.iter_mut().zip(now) {
        *bytes = (u32::from_le_bytes(*bytes) ^ word).to_le_bytes();
    }
    if let Some(word) = later.first() {
        for (byte, key) in rest.iter_mut().zip(word.to_le_bytes()) {
            *byte ^= key;
        }
    }
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == 4 * WORDS) };
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|word| u32::from_le_bytes(words[word]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xsalsa20poly1305::KeyInit;
    use xsalsa20poly1305::aead::AeadInPlace;

    use super::*;
    use crate::secretbox::poly1305;

    /// Every level of the machine on which the test runs.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        #[cfg(target_arch = "x86_64")]
        let lower = [
            best.as_sse2().map(Level::Sse2),
            best.as_sse4_2().map(Level::Sse4_2),
            best.as_avx2().map(Level::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let lower = [];
        lower.into_iter().flatten().chain([best]).collect()
    }

    fn assert_as_crypto_secretbox(key: &[u8; 32], nonce: &[u8; 24], message: &[u8]) {
        let mut expected = message.to_vec();
        let mac = xsalsa20poly1305::XSalsa20Poly1305::new(key.into())
            .encrypt_in_place_detached(nonce.into(), &[], &mut expected)
            .expect("there is no associated data");
        for level in levels() {
            let mut stream = XSalsa20::at_level(level, key, nonce);
            let mac_key = *stream.mac_key();
            let mut sealed = message.to_vec();
            stream.apply(&mut sealed);
            assert!(sealed == expected, "{} bytes at {level:?}", message.len());
            assert!(poly1305(&mac_key, &sealed)[..] == mac[..], "{} bytes", message.len());
        }
    }

    #[test]
    fn every_length_around_the_batches_is_as_crypto_secretbox_makes_it() {
        let key = std::array::from_fn(|i| i as u8 ^ 0xa5);
        let nonce = std::array::from_fn(|i| (i as u8).wrapping_mul(37));
        let message: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
        for length in (0..=1_100).chain([4_096, 15_984, 16_368, 65_536, 70_000]) {
            assert_as_crypto_secretbox(&key, &nonce, &message[..length]);
        }
    }

    #[test]
    fn the_number_of_a_block_goes_on_above_32_bits() {
        // Block 2^32 + 2 is then in lane 5.
        let first_block = u64::from(u32::MAX) - 2;
        for level in levels() {
            let mut stream = XSalsa20::at_level(level, &[7; 32], &[9; 24]);
            stream.compute(first_block);
            let mut start = stream.input;
            (start[8], start[9]) = (2, 1);
            let mut expected = start;
            double_rounds(&mut expected, |to, a, b, left| to ^ a.wrapping_add(b).rotate_left(left));
            for (word, start) in expected.iter_mut().zip(start) {
                *word = word.wrapping_add(start);
            }
            assert!(stream.batch[5 * BLOCK..6 * BLOCK] == expected, "{level:?}");
        }
    }

    proptest! {
        #[test]
        fn every_message_is_as_crypto_secretbox_makes_it(
            key: [u8; 32],
            nonce: [u8; 24],
            message in prop::collection::vec(any::<u8>(), 0..3_000),
        ) {
            assert_as_crypto_secretbox(&key, &nonce, &message);
        }
    }
}
