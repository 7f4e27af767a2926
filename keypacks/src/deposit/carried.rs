//! A deposit on its way without a link: `wrap 136 | body`, as long as its class makes it.

use super::class::{CLASS_KILOBYTES_MAX, class_bytes, is_class};
use super::wrap::WRAP;

/// Length in bytes of a carried deposit of a class.
pub fn carried_bytes(kilobytes: u32) -> usize {
    WRAP + class_bytes(kilobytes)
}

/// The class of a carried deposit of so many bytes. `None`: none has this length.
pub fn carried_kilobytes(bytes: u64) -> Option<u32> {
    let body = bytes.checked_sub(WRAP as u64)?;
    let kilobytes = u32::try_from(body / 1_000).ok()?;
    (kilobytes <= CLASS_KILOBYTES_MAX && is_class(kilobytes) && bytes == carried_bytes(kilobytes) as u64)
        .then_some(kilobytes)
}

/// The wrap and the body of a carried deposit. `None`: it is none by its length.
pub fn split_carried(carried: &[u8]) -> Option<(&[u8; WRAP], &[u8])> {
    carried_kilobytes(carried.len() as u64)?;
    carried.split_first_chunk()
}

pub(super) fn fuzz(bytes: &[u8]) {
    if let Some((wrap, body)) = split_carried(bytes) {
        assert!([wrap, body].concat() == bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carried_deposits_have_the_lengths_of_their_classes() {
        for kilobytes in [1, 2, 4, 8, 16, 32, 64, CLASS_KILOBYTES_MAX] {
            let bytes = carried_bytes(kilobytes);
            assert_eq!(carried_kilobytes(bytes as u64), Some(kilobytes));
            assert_eq!(carried_kilobytes(bytes as u64 + 1), None);
        }
        for bytes in [0, 135, 136, 1_135, 3_136, 131_072_136, u64::MAX] {
            assert_eq!(carried_kilobytes(bytes), None);
        }
        let carried = vec![7; carried_bytes(2)];
        assert!(split_carried(&carried).is_some_and(|(_, body)| body.len() == 2_000));
        assert!(split_carried(&carried[1..]).is_none());
    }
}
