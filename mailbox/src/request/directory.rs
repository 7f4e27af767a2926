//! The directory of a federation, part by part (`docs/PROTOCOL.md` section 14).

use serde::{Deserialize, Serialize};

/// Most bytes of a directory in one answer, which is a single cell.
pub const DIRECTORY_PART_MAX: usize = 16_000;

/// Some of a directory, as `keypacks::directory` has it in text. Who asks for the next part and finds another digest begins anew.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryPart {
    /// SHA-256 of the whole text.
    pub digest: [u8; 32],
    /// Its length in bytes; 0: there is none.
    pub length: u32,
    /// What stands from the byte on that was asked for, at most [`DIRECTORY_PART_MAX`] bytes.
    pub part: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, HEADER_BYTES_MAX, Request, decode, encode};
    use super::*;

    #[test]
    fn the_longest_part_of_a_directory_fits_one_cell() {
        let part = DirectoryPart {
            digest: [255; 32],
            length: u32::MAX,
            part: vec![b'a'; DIRECTORY_PART_MAX],
        };
        let header = encode(&Answer::Directory(part.clone()));
        assert!(header.len() <= HEADER_BYTES_MAX);
        assert!(decode::<Answer>(&header).is_ok_and(|read| read == Answer::Directory(part)));
        assert_eq!(encode(&Request::Directory { from: 300 }), [1, 16, 0xac, 2]);
        let none = encode(&Answer::Directory(DirectoryPart::default()));
        assert!(none[..2] == [1, 20] && none.len() == 2 + 32 + 2);
    }
}
