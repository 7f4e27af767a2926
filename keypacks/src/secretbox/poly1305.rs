//! Poly1305 (RFC 8439 section 2.5) in 64-bit words.

use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroize;

/// `Poly1305(r | s, message)`: `message` as a polynomial in `r` modulo 2^130 - 5, plus `s` modulo 2^128.
///
/// The key is for one message: two MACs under it give `r` away. It comes as the little-endian words of its 32 bytes.
pub(super) fn poly1305(key: &[u32; 8], message: &[u8]) -> [u8; 16] {
    finish(Sum::new(key), key, message)
}

/// `Poly1305(r | s, first | message)`, of two parts that do not lie side by side.
pub(super) fn poly1305_behind(key: &[u32; 8], first: &[u8; 16], message: &[u8]) -> [u8; 16] {
    let mut sum = Sum::new(key);
    sum.absorb(first, 1);
    finish(sum, key, message)
}

#[inline(always)]
fn finish(mut sum: Sum, key: &[u32; 8], message: &[u8]) -> [u8; 16] {
    let (blocks, rest) = message.as_chunks::<16>();
    for block in blocks {
        sum.absorb(block, 1);
    }
    if !rest.is_empty() {
        let mut block = [0; 16];
        block[..rest.len()].copy_from_slice(rest);
        block[rest.len()] = 1;
        sum.absorb(&block, 0);
    }
    sum.reduced().wrapping_add(pair(&key[4..])).to_le_bytes()
}

/// `h`, the sum so far, as `low + 2^64 middle + 2^128 high`, and the factor `r`.
struct Sum {
    r0: u64,
    r1: u64,
    /// `r1 * 5 / 4`, exact as clamping leaves `r1` a multiple of 4: with 2^130 = 5, this is `r1 * 2^128`.
    s1: u64,
    low: u64,
    middle: u64,
    /// At most 4 between blocks.
    high: u64,
}

impl Sum {
    fn new(key: &[u32; 8]) -> Self {
        let r = pair(&key[..4]) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let r1 = (r >> 64) as u64;
        Self {
            r0: r as u64,
            r1,
            s1: r1 + (r1 >> 2),
            low: 0,
            middle: 0,
            high: 0,
        }
    }

    /// `h = (h + block + end * 2^128) * r`, partly reduced.
    ///
    /// Nothing overflows: `r0` and `r1` are below 2^60 and `s1` below 1.25 * 2^60, so with `high` at most 6 the products
    /// of whole words stay below 2^126 in sum and those of `high` below 2^63.
    #[inline(always)]
    fn absorb(&mut self, block: &[u8; 16], end: u64) {
        let block = u128::from_le_bytes(*block);
        let low = u128::from(self.low) + u128::from(block as u64);
        let middle = u128::from(self.middle) + (block >> 64) + (low >> 64);
        let high = self.high + (middle >> 64) as u64 + end;
        let (h0, h1) = (low as u64, middle as u64);

        let d0 = wide(h0, self.r0) + wide(h1, self.s1);
        let d1 = wide(h0, self.r1) + wide(h1, self.r0) + u128::from(high * self.s1) + (d0 >> 64);
        let d2 = high * self.r0 + (d1 >> 64) as u64;

        // What is above 2^130 comes back five times: `d2 / 4` and four times as much, which is `d2` less its lowest bits.
        let low = u128::from(d0 as u64) + u128::from(d2 & !3) + u128::from(d2 >> 2);
        let middle = u128::from(d1 as u64) + (low >> 64);
        self.low = low as u64;
        self.middle = middle as u64;
        self.high = (d2 & 3) + (middle >> 64) as u64;
    }

    /// `h` modulo 2^130 - 5 and then 2^128. As `h` is below twice the modulus, it is subtracted once or not at all.
    fn reduced(&self) -> u128 {
        let h = u128::from(self.low) | u128::from(self.middle) << 64;
        let (less, carry) = h.overflowing_add(5);
        let subtract = (self.high + u64::from(carry)) >> 2;
        u128::conditional_select(&h, &less, Choice::from(subtract as u8))
    }
}

impl Drop for Sum {
    fn drop(&mut self) {
        for word in [
            &mut self.r0,
            &mut self.r1,
            &mut self.s1,
            &mut self.low,
            &mut self.middle,
            &mut self.high,
        ] {
            word.zeroize();
        }
    }
}

/// Four words as one number.
fn pair(words: &[u32]) -> u128 {
    words
        .iter()
        .rev()
        .fold(0, |number, word| number << 32 | u128::from(*word))
}

/// The whole product.
fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use poly1305_oracle::Poly1305;
    use poly1305_oracle::universal_hash::KeyInit;
    use proptest::prelude::*;

    use super::*;

    fn of_bytes(key: &[u8; 32], message: &[u8]) -> [u8; 16] {
        let (words, _) = key.as_chunks();
        poly1305(&std::array::from_fn(|word| u32::from_le_bytes(words[word])), message)
    }

    fn block(bytes: &[(u8, usize)]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count))
            .collect()
    }

    /// RFC 8439 appendix A.3, vectors 7 to 11: the carries and the last subtraction.
    #[test]
    fn the_edges_of_the_modulus_are_as_in_the_rfc() {
        for (r, s, message, tag) in [
            (2, 0, block(&[(0xff, 16)]), block(&[(3, 1), (0, 15)])),
            (2, 0xff, block(&[(2, 1), (0, 15)]), block(&[(3, 1), (0, 15)])),
            (
                1,
                0,
                block(&[(0xff, 16), (0xf0, 1), (0xff, 15), (0x11, 1), (0, 15)]),
                block(&[(5, 1), (0, 15)]),
            ),
            (
                1,
                0,
                block(&[(0xff, 16), (0xfb, 1), (0xfe, 15), (1, 16)]),
                block(&[(0, 16)]),
            ),
            (2, 0, block(&[(0xfd, 1), (0xff, 15)]), block(&[(0xfa, 1), (0xff, 15)])),
        ] {
            let mut key = [0; 32];
            key[0] = r;
            key[16..].fill(s);
            assert_eq!(of_bytes(&key, &message)[..], tag[..]);
        }
    }

    proptest! {
        #[test]
        fn a_first_block_apart_changes_nothing(
            key in prop::array::uniform32(any::<u8>()),
            message in prop::collection::vec(any::<u8>(), 16..80),
        ) {
            let (words, _) = key.as_chunks();
            let words = std::array::from_fn(|word| u32::from_le_bytes(words[word]));
            let (first, rest) = message.split_first_chunk().expect("16 bytes at least");
            prop_assert_eq!(poly1305_behind(&words, first, rest), poly1305(&words, &message));
        }

        /// Bytes at the ends of their range make carries that random ones hardly ever do.
        #[test]
        fn every_mac_is_as_another_implementation_makes_it(
            key in prop::array::uniform32(prop_oneof![Just(0), Just(0xff), Just(0xfc), any::<u8>()]),
            message in prop::collection::vec(prop_oneof![4 => Just(0xff), 2 => Just(0), 1 => Just(0xfb), 1 => Just(0xfe), 1 => any::<u8>()], 0..200),
        ) {
            let expected = Poly1305::new(&key.into()).compute_unpadded(&message);
            prop_assert!(of_bytes(&key, &message)[..] == expected[..]);
        }
    }
}
