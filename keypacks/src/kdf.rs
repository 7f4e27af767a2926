//! HKDF-SHA256 (RFC 5869) under labels of which no two purposes share one (`docs/PROTOCOL.md` section 1).

use hkdf::{Hkdf, HkdfExtract};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::Secret;

/// First bytes of every salt and info string.
const PREFIX: &[u8] = b"postern/1/";
/// Ends the purpose, so that no purpose with its context reads as another.
const END: &[u8] = &[0];

/// `HX(purpose, ikm) = HKDF-Extract(salt = "postern/1/" purpose 0x00, ikm)`, `ikm` given in pieces.
pub fn hx(purpose: &str, ikm: &[&[u8]]) -> Secret<32> {
    let secret = Secret::from_fn(|prk| extract(&[PREFIX, purpose.as_bytes(), END].concat(), ikm, prk));
    wipe_stack();
    secret
}

/// `HX(salt, ikm)` with an earlier key as the salt: what depends on both is safe while either is secret.
pub fn hx_keyed(salt: &Secret<32>, ikm: &[&[u8]]) -> Secret<32> {
    let secret = Secret::from_fn(|prk| extract(salt.expose(), ikm, prk));
    wipe_stack();
    secret
}

/// `HE(key, purpose | context, N) = HKDF-Expand(key, info = "postern/1/" purpose 0x00 context, N)`.
///
/// The context has one fixed length per purpose.
pub fn he<const N: usize>(key: &Secret<32>, purpose: &str, context: &[u8]) -> Secret<N> {
    let secret = Secret::from_fn(|okm| expand(key, &[PREFIX, purpose.as_bytes(), END, context], okm));
    wipe_stack();
    secret
}

/// `H(piece | piece | ...)`, SHA-256: for digests of what is not secret by itself.
pub fn hash(pieces: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize().into()
}

/// A nonce that repeats only if randomness, index and plaintext all do:
/// `HE(local secret, "hedge" | random | u64 index | SHA-256(plaintext), 24)`.
///
/// A cloned virtual machine repeats its random bytes; a nonce that also depends on the plaintext then still differs
/// wherever the plaintext does.
pub fn hedged_nonce(local_secret: &Secret<32>, random: &[u8; 32], index: u64, plaintext: &[u8]) -> [u8; 24] {
    let context = hedge_context(random, index, &Sha256::digest(plaintext).into());
    *he::<24>(local_secret, HEDGE, &context).expose()
}

/// Purpose of hedged nonces.
pub(crate) const HEDGE: &str = "hedge";

/// `random | u64 index | digest`.
pub(crate) fn hedge_context(random: &[u8; 32], index: u64, digest: &[u8; 32]) -> [u8; 72] {
    let mut context = [0; 72];
    context[..32].copy_from_slice(random);
    context[32..40].copy_from_slice(&index.to_le_bytes());
    context[40..].copy_from_slice(digest);
    context
}

/// Apart from its caller, so that its working state lies in a frame that [`wipe_stack`] reaches.
#[inline(never)]
fn extract(salt: &[u8], ikm: &[&[u8]], prk: &mut [u8; 32]) {
    let mut hkdf = HkdfExtract::<Sha256>::new(Some(salt));
    for piece in ikm {
        hkdf.input_ikm(piece);
    }
    let (mut output, _) = hkdf.finalize();
    prk.copy_from_slice(&output);
    output.as_mut_slice().zeroize();
}

/// Apart from its caller, as [`extract`] is.
#[inline(never)]
fn expand(key: &Secret<32>, info: &[&[u8]], okm: &mut [u8]) {
    Hkdf::<Sha256>::from_prk(key.expose())
        .expect("the key is as long as the digest")
        .expand_multi_info(info, okm)
        .expect("every output of the protocol is below 255 digests");
}

/// [`he`] by a key that was prepared, for callers who wipe the stack themselves. Apart from them, as [`extract`] is.
#[inline(never)]
pub(crate) fn expand_prepared(key: &Hkdf<Sha256>, purpose: &str, context: &[u8], okm: &mut [u8]) {
    key.expand_multi_info(&[PREFIX, purpose.as_bytes(), END, context], okm)
        .expect("every output of the protocol is below 255 digests");
}

/// Overwrites the stack below the caller, where the primitives just called left their working state: they wipe what
/// they own when dropped, not what the compiler spilt or moved. Best effort, since only the compiler knows the frames;
/// the callers keep those primitives in frames of their own.
///
/// Part of its caller, so that what is overwritten begins where the frames of the primitives began.
#[inline(always)]
pub(crate) fn wipe_stack() {
    zeroize::zeroize_stack::<8_192>();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_end_so_that_purposes_do_not_run_into_their_context() {
        let key = Secret::new([7; 32]);
        assert!(he::<32>(&key, "step", b"/link") != he::<32>(&key, "step/", b"link"));
        assert!(hx("link", &[b"ab", b"c"]) == hx("link", &[b"a", b"bc"]));
    }

    #[test]
    fn a_hedged_nonce_changes_with_each_input() {
        let (local, random) = (Secret::new([1; 32]), [2; 32]);
        let nonce = hedged_nonce(&local, &random, 3, b"plain");
        assert_eq!(nonce, hedged_nonce(&local, &random, 3, b"plain"));
        for other in [
            hedged_nonce(&Secret::new([9; 32]), &random, 3, b"plain"),
            hedged_nonce(&local, &[9; 32], 3, b"plain"),
            hedged_nonce(&local, &random, 4, b"plain"),
            hedged_nonce(&local, &random, 3, b"other"),
        ] {
            assert_ne!(nonce, other);
        }
    }
}
