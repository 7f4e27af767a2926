//! Size classes: 1, 2, 4 .. 65,536 units of 1,000 bytes.

use crate::secretbox::MAC;

use super::body::{CHUNK, PREFIX};

/// Largest class, in units of 1,000 bytes.
pub const CLASS_KILOBYTES_MAX: u32 = 65_536;

/// Whether `kilobytes` is a size class.
pub fn is_class(kilobytes: u32) -> bool {
    kilobytes.is_power_of_two() && kilobytes <= CLASS_KILOBYTES_MAX
}

/// Length in bytes of everything of a class.
pub fn class_bytes(kilobytes: u32) -> usize {
    kilobytes as usize * 1_000
}

/// Smallest class that holds a plain payload of so many bytes. `None`: none does.
pub fn class_for(payload_len: usize) -> Option<u32> {
    classes().find(|class| class_bytes(*class) >= payload_len)
}

/// Smallest class whose sealed body holds a payload of so many bytes. `None`: none does.
pub fn sealed_class_for(payload_len: usize) -> Option<u32> {
    classes().find(|class| sealed_capacity(*class) >= payload_len)
}

/// Bytes of payload that a sealed body of a class holds: its length less the prefix and one MAC for each chunk.
pub fn sealed_capacity(kilobytes: u32) -> usize {
    let sealed = class_bytes(kilobytes).saturating_sub(PREFIX);
    sealed.saturating_sub(sealed.div_ceil(CHUNK + MAC) * MAC)
}

fn classes() -> impl Iterator<Item = u32> {
    (0..=CLASS_KILOBYTES_MAX.ilog2()).map(|power| 1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_own_length() {
        for class in classes() {
            assert!(is_class(class));
            assert_eq!(class_for(class_bytes(class)), Some(class));
            assert_eq!(sealed_class_for(sealed_capacity(class)), Some(class));
            assert_ne!(sealed_class_for(sealed_capacity(class) + 1), Some(class));
        }
        assert_eq!(class_for(0), Some(1));
        assert_eq!(class_for(class_bytes(CLASS_KILOBYTES_MAX) + 1), None);
        for no_class in [0, 3, 12, CLASS_KILOBYTES_MAX * 2] {
            assert!(!is_class(no_class));
        }
    }

    #[test]
    fn capacities_are_those_of_the_specification() {
        let of = |class| sealed_capacity(class);
        assert_eq!((of(1), of(8), of(16), of(32)), (968, 7_968, 15_968, 31_952));
        assert_eq!(of(CLASS_KILOBYTES_MAX), 65_536_000 - 16 - 4_096 * 16);
    }
}
