//! The tags of link indices that come next, many at a time: what a relay computes for every account when it starts.
//!
//! The same as [`LinkChain::advance`] on a copy, but what a step shares with all others is prepared once, and what it
//! leaves on the stack is wiped once after all of them, by the caller.
//!
//! [`LinkChain::advance`]: super::LinkChain::advance

use sha2::block_api::compress256;

use crate::{Secret, Tag};

const BLOCK: usize = 64;
const DIGEST: usize = 32;
/// What the expansions of `HE(C[i], "step/link", 112)` are made of besides their number: see [`crate::kdf::he`].
const INFO: &[u8; 20] = b"postern/1/step/link\0";
/// Digests in an expansion: `C[i+1]`, `U[i]`, `D[i]`, and `T[i]`, which is the first half of the last.
const DIGESTS: u8 = 4;
const TAG: usize = 16;

// Every message fits into one block: its digest before it, the info, its number, the end mark and the length.
const _: () = assert!(DIGEST + INFO.len() + 1 + 1 + 8 <= BLOCK);

/// State of SHA-256 before the first block (FIPS 180-4, 5.3.3).
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

/// `C[i]`, moved on for the sake of the tags alone. Lives on a stack that its owner wipes.
pub(super) struct Ahead {
    state: [u8; DIGEST],
    hmac: Hmac,
}

impl Ahead {
    pub(super) fn new(state: &Secret<32>) -> Self {
        Self {
            state: *state.expose(),
            hmac: Hmac::new(),
        }
    }

    /// `T[i]`; the state is `C[i+1]` afterwards. HKDF-Expand (RFC 5869, 2.3).
    pub(super) fn advance(&mut self) -> Tag {
        self.hmac.set_key(&self.state);
        let digest = &mut self.hmac.first(1);
        self.state = *digest;
        for number in 2..=DIGESTS {
            self.hmac.next(digest, number);
        }
        Tag(*digest.first_chunk::<TAG>().expect("a digest is longer than a tag"))
    }
}

/// HMAC-SHA256 (RFC 2104) of messages of one block under keys of 32 bytes.
struct Hmac {
    /// SHA-256 after the block of the key, within and without.
    inner: [u32; 8],
    outer: [u32; 8],
    /// `info | number`, and `digest | info | number`, as the last block of a message of two.
    first: [u8; BLOCK],
    next: [u8; BLOCK],
    /// A digest as the last block of a message of two.
    last: [u8; BLOCK],
}

impl Hmac {
    fn new() -> Self {
        let mut next = [0; BLOCK];
        next[DIGEST..DIGEST + INFO.len()].copy_from_slice(INFO);
        let mut first = [0; BLOCK];
        first[..INFO.len()].copy_from_slice(INFO);
        Self {
            inner: INITIAL,
            outer: INITIAL,
            first: ended(first, INFO.len() + 1),
            next: ended(next, DIGEST + INFO.len() + 1),
            last: ended([0; BLOCK], DIGEST),
        }
    }

    fn set_key(&mut self, key: &[u8; DIGEST]) {
        let pads = [(&mut self.inner, 0x36), (&mut self.outer, 0x5c)];
        for (state, pad) in pads {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            *state = INITIAL;
            compress256(state, &[block]);
        }
    }

    /// `HMAC(key, info | number)`.
    fn first(&mut self, number: u8) -> [u8; DIGEST] {
        self.first[INFO.len()] = number;
        let mut digest = [0; DIGEST];
        finish(&self.inner, &self.first, &mut digest);
        self.turn_out(&mut digest);
        digest
    }

    /// `HMAC(key, digest | info | number)` in the place of the digest.
    fn next(&mut self, digest: &mut [u8; DIGEST], number: u8) {
        self.next[..DIGEST].copy_from_slice(digest);
        self.next[DIGEST + INFO.len()] = number;
        finish(&self.inner, &self.next, digest);
        self.turn_out(digest);
    }

    fn turn_out(&mut self, digest: &mut [u8; DIGEST]) {
        self.last[..DIGEST].copy_from_slice(digest);
        finish(&self.outer, &self.last, digest);
    }
}

/// A block with the end of a message (FIPS 180-4, 5.1.1) whose last `length` bytes it holds, one block being before it.
fn ended(mut block: [u8; BLOCK], length: usize) -> [u8; BLOCK] {
    let bits = 8 * (BLOCK + length) as u64;
    block[length] = 0x80;
    block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    block
}

fn finish(before: &[u32; 8], block: &[u8; BLOCK], digest: &mut [u8; DIGEST]) {
    let mut state = *before;
    compress256(&mut state, std::slice::from_ref(block));
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}
