//! Parcels (`docs/PROTOCOL.md` section 7): sealed units that need no link. Any carrier may bring them, in any order.
//!
//! A parcel is one *layer*: a tag in clear, a sealed header, the payload in sealed chunks, and random fill up to the
//! class, which is all that a carrier sees. Layers are sealed and opened as they stream by, a chunk at a time.
//!
//! ```text
//! layer   T 16 | N 16 | Box(k, N | 0, header 512) | chunk 1 | chunk 2 | .. | fill        16,000 n bytes
//! ```

mod header;
mod login;
mod open;
mod seal;

pub use header::{HOP, Header, Kind};
pub use login::{LOGIN_WORD, Login, is_password, login_tag};
pub use open::LayerOpener;
pub use seal::{LayerSealer, TooLong};

use crate::chain::BoxStep;
use crate::kdf::he;
use crate::secretbox::{MAC, chunk_nonce};
use crate::{Secret, Tag};

/// Bytes of a class-1 parcel: with its framing it fills one cell.
pub const UNIT: usize = 16_000;
/// Largest class.
pub const CLASS_MAX: u32 = 4_096;
/// How far above its lowest unused parcel index a relay looks for tags, and a holder uses indices without an answer.
pub const PARCEL_LOOK_AHEAD: u64 = 8;
/// How many of these a holder uses for mail. The next may be used for control too, the last for a login alone: who has no
/// link can always collect the receipts that move the window on.
pub const MAIL_AHEAD_MAX: u64 = 6;
/// Tag, nonce prefix and sealed header: what must be read before anything opens.
pub const HEAD: usize = TAG + PREFIX + MAC + HEADER;

/// Length of the tag that a layer begins with.
pub const TAG: usize = 16;
/// Length of `N`, the part of the nonces that the sender draws for a layer.
pub const PREFIX: usize = 16;
const HEADER: usize = 512;
/// Plaintext of a full chunk.
const CHUNK: usize = 15_984;
/// Layers that every payload leaves room for, its own included.
const LAYERS: usize = 5;

const _: () = assert!(HEAD == 560 && CHUNK + MAC == UNIT);
// With all its layers around it, a payload of the largest length still fits its class.
const _: () = assert!(CLASS_MAX.is_power_of_two() && layers_fit(1) && layers_fit(2) && layers_fit(CLASS_MAX));

/// Whether `n` is a parcel class.
pub fn is_class(n: u32) -> bool {
    n.is_power_of_two() && n <= CLASS_MAX
}

/// The class of a parcel of so many bytes. `None`: no parcel has this length.
pub fn class_of(bytes: u64) -> Option<u32> {
    let class = u32::try_from(bytes / UNIT as u64)
        .ok()
        .filter(|class| is_class(*class))?;
    (bytes == class_bytes(class) as u64).then_some(class)
}

/// Length in bytes of a parcel of a class.
pub const fn class_bytes(class: u32) -> usize {
    class as usize * UNIT
}

/// Longest payload of a class, the same for every sender and however many layers come around it.
pub const fn capacity(class: u32) -> usize {
    15_920 * class as usize - 3_040
}

/// Smallest class that holds a payload. `None`: none does.
pub fn class_for(payload: usize) -> Option<u32> {
    (0..=CLASS_MAX.ilog2())
        .map(|power| 1 << power)
        .find(|class| capacity(*class) >= payload)
}

/// The tag that a parcel names its index by. `None`: there are too few bytes.
pub fn parcel_tag(head: &[u8]) -> Option<Tag> {
    head.first_chunk().map(|tag| Tag(*tag))
}

/// Bytes that a payload takes as sealed chunks; even an empty one has its last chunk.
const fn sealed_bytes(payload: usize) -> usize {
    let chunks = payload.div_ceil(CHUNK);
    payload + MAC * if chunks == 0 { 1 } else { chunks }
}

const fn layers_fit(class: u32) -> bool {
    let (mut bytes, mut layer) = (capacity(class), 0);
    while layer < LAYERS {
        bytes = HEAD + sealed_bytes(bytes);
        layer += 1;
    }
    bytes <= class_bytes(class)
}

/// `k = HE(K[j], "parcel", T[j], 32)`.
fn layer_key(step: &BoxStep) -> Secret<32> {
    he(&step.key, "parcel", &step.tag.0)
}

/// Feeds hostile bytes to every parser of parcels; must not panic.
pub fn fuzz(bytes: &[u8]) {
    header::fuzz(bytes);
    login::fuzz(bytes);
    open::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_powers_of_two_of_the_unit() {
        assert_eq!(
            (capacity(1), capacity(2), capacity(CLASS_MAX)),
            (12_880, 28_800, 65_205_280)
        );
        assert_eq!(
            (class_for(0), class_for(12_880), class_for(12_881)),
            (Some(1), Some(1), Some(2))
        );
        assert_eq!(class_for(capacity(CLASS_MAX)), Some(CLASS_MAX));
        assert_eq!(class_for(capacity(CLASS_MAX) + 1), None);
        for power in 0..=12 {
            let class = 1 << power;
            assert_eq!(class_of(class_bytes(class) as u64), Some(class));
            assert!(layers_fit(class));
        }
        for bytes in [0, 15_999, 16_001, 48_000, 131_072_000, u64::MAX] {
            assert_eq!(class_of(bytes), None);
        }
    }
}
