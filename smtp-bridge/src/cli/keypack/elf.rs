//! Whether a program needs nothing but the kernel: the part of an ELF file that says so.

/// What a file is, as far as a portable medium cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Program {
    /// It brings everything along.
    Static,
    /// It asks for a loader and libraries of the machine (a segment of type PT_INTERP).
    Dynamic,
    /// It is no program for Linux.
    Other,
}

const PT_INTERP: u32 = 3;

/// Reads the header and the table of segments (System V ABI, chapters 4 and 5).
pub(super) fn kind(file: &[u8]) -> Program {
    segments(file).map_or(Program::Other, |types| match types.contains(&PT_INTERP) {
        true => Program::Dynamic,
        false => Program::Static,
    })
}

/// Types of all segments; `None` where the file is no ELF program or is cut off.
fn segments(file: &[u8]) -> Option<Vec<u32>> {
    let (is_wide, is_little) = match file.get(..6)? {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2)] => (*class == 2, *order == 1),
        _ => return None,
    };
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = file.get(at..at.checked_add(length)?)?;
        let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match is_little {
            true => bytes.iter().rev().fold(0, fold),
            false => bytes.iter().fold(0, fold),
        })
    };
    // An executable, or a shared object, which a position-independent executable is too.
    if !matches!(number(16, 2)?, 2 | 3) {
        return None;
    }
    let (table, size, count) = match is_wide {
        true => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
        false => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
    };
    if count == 0 || size < 32 {
        return None;
    }
    let position = |index: u64| usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok();
    (0..count)
        .map(|index| u32::try_from(number(position(index)?, 4)?).ok())
        .collect()
}

/// Feeds hostile bytes to the reader; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let _ = kind(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest file with segments of these types.
    fn program(types: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        file[16] = 3;
        file[32] = 64;
        file[54] = 56;
        file[56] = u8::try_from(types.len()).expect("a few");
        for kind in types {
            let mut segment = [0; 56];
            segment[..4].copy_from_slice(&kind.to_le_bytes());
            file.extend(segment);
        }
        file
    }

    #[test]
    fn a_program_that_asks_for_a_loader_is_told_from_one_that_does_not() {
        assert_eq!(kind(&program(&[1, 1, 2])), Program::Static);
        assert_eq!(kind(&program(&[6, 3, 1])), Program::Dynamic);
        assert_eq!(kind(b"#!/bin/sh\n"), Program::Other);
        assert_eq!(kind(&program(&[1, 3])[..70]), Program::Other, "cut off");
        let own = std::env::current_exe().expect("a path");
        assert_ne!(kind(&std::fs::read(own).expect("readable")), Program::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), is_marked: bool) {
            if is_marked && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
            }
            kind(&bytes);
        }
    }
}
