use std::fs;
use std::io;
use std::path::Path;

use keypacks::pack::{BLOCK, Header};
use keypacks::{Secret, kdf, secretbox};
use zeroize::Zeroizing;

/// Bytes of a copy in every slot file of this implementation.
const COPY: usize = 256;
/// Names of slot files.
const NAMES: [&str; 2] = ["slots", "epochs"];

/// A copy of a slot, opened as its owner would.
pub struct OpenedSlot {
    /// Named in what is found.
    pub place: String,
    /// Generation, commit, length and the chain states.
    pub state: Zeroizing<Vec<u8>>,
}

/// Every copy in the file that opens under a key beside it: `slots.key` of a relay, or the `header` of a holder under
/// one of the passphrases. Both lie on the disk that was seized. A file that is no slot file has none.
pub fn open_slots(file: &Path, passphrases: &[Vec<u8>]) -> io::Result<Vec<OpenedSlot>> {
    if !NAMES.iter().any(|name| file.ends_with(name)) {
        return Ok(Vec::new());
    }
    let keys = keys_beside(file, passphrases);
    let copies = fs::read(file)?;
    let opened = copies.chunks(COPY).enumerate().filter_map(|(number, copy)| {
        let state = keys.iter().find_map(|key| secretbox::open(key, copy).ok())?;
        let place = format!("{}, copy at {:#x}", file.display(), number * COPY);
        Some(OpenedSlot { place, state })
    });
    Ok(opened.collect())
}

fn keys_beside(file: &Path, passphrases: &[Vec<u8>]) -> Vec<Secret<32>> {
    let mut keys = Vec::new();
    for name in ["slots.key", "slots.key-copy"] {
        let key = fs::read(file.with_file_name(name)).ok();
        keys.extend(key.and_then(|bytes| Secret::from_slice(bytes.get(..32)?)));
    }
    let header = fs::read(file.with_file_name("header")).unwrap_or_default();
    let (blocks, _) = header.as_chunks::<BLOCK>();
    for passphrase in passphrases {
        let file_key = blocks.iter().find_map(|block| Header::open(block, passphrase).ok());
        keys.extend(file_key.map(|key| kdf::he(&key, "holder/slots", &[])));
    }
    keys
}
