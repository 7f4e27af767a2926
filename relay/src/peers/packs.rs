//! Packs held at other relays: where they lie, and how one is taken in.

use std::io;
use std::path::{Path, PathBuf};

use mailbox::holder::{self, HolderOptions, Initialised};
use smtp_bridge::cli::process::Failure;
use smtp_bridge::net::Host;

use super::FOLDER;

/// Longest name of a peer.
const NAME_MAX: usize = 32;

/// Whether a peer may be called so: it is the name of a folder.
pub(crate) fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_letter) && !name.starts_with('-')
}

/// The folder of a peer's pack, and the file with what opens it.
pub(crate) fn paths(data: &Path, name: &str) -> (PathBuf, PathBuf) {
    let folder = data.join(FOLDER);
    (folder.join(name), folder.join(format!("{name}.passphrase")))
}

/// Names of all peers whose pack was ever taken in, named by the configuration or not.
pub(super) fn names(host: &Host, data: &Path) -> Vec<String> {
    let files = host.disk.list(&data.join(FOLDER)).unwrap_or_default();
    let name = |file: &PathBuf| Some(file.file_name()?.to_str()?.strip_suffix(".passphrase")?.to_owned());
    let mut names: Vec<String> = files.iter().filter_map(name).filter(|name| is_name(name)).collect();
    names.sort_unstable();
    names
}

/// Takes a pack that another relay issued into a relay's data folder. The passphrase is there before the folder that it
/// opens: repeated after a crash, this goes on where it was.
pub(crate) fn accept(
    host: &Host,
    data: &Path,
    name: &str,
    pack: &Path,
    passphrase: &[u8],
) -> Result<Initialised, Failure> {
    if !is_name(name) {
        return Err(Failure(
            "a peer's name has lower-case letters, digits and hyphens, and at most 32 of them".to_owned(),
        ));
    }
    let (folder, file) = paths(data, name);
    let failed = |error: io::Error| Failure(format!("cannot write {}: {error}", file.display()));
    let parent = data.join(FOLDER);
    host.disk.create_dir_all(&parent).map_err(failed)?;
    if host.disk.open(&file, false).is_err() {
        keep(host, &parent, &file, passphrase).map_err(failed)?;
    }
    holder::init_from_pack(
        &host.disk,
        pack,
        &folder,
        passphrase,
        &HolderOptions::default(),
        &host.entropy,
    )
    .map_err(|error| Failure(format!("{}: {error}", pack.display())))
}

/// Puts a small file into a folder, whole or not at all.
pub(super) fn keep(host: &Host, parent: &Path, file: &Path, content: &[u8]) -> io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = host.disk.open(&part, true)?;
    written.set_len(0)?;
    written.write_at(0, content)?;
    written.sync()?;
    host.disk.rename(&part, file)?;
    host.disk.sync_dir(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_called_as_a_folder_may_be() {
        for right in ["x", "relay-2", &"a".repeat(NAME_MAX)] {
            assert!(is_name(right), "{right}");
        }
        for wrong in ["", "-x", "..", "a/b", "A", "a.b", "ä", &"a".repeat(NAME_MAX + 1)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
