//! Packs held at other relays: where they lie, and how one is taken in.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use mailbox::disk::Disk;
use mailbox::holder::{self, HolderOptions, Initialised};
use smtp_bridge::cli::process::Failure;
use smtp_bridge::net::Host;

use super::FOLDER;

/// Longest name of a peer.
const NAME_MAX: usize = 32;
/// What the file with a peer's passphrase is called behind its name.
const PASSPHRASE: &str = ".passphrase";

/// Whether a peer may be called so: it is the name of a folder.
pub(crate) fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_letter) && !name.starts_with('-')
}

/// The folder of a peer's pack, and the file with what opens it.
pub(crate) fn paths(data: &Path, name: &str) -> (PathBuf, PathBuf) {
    let folder = data.join(FOLDER);
    (folder.join(name), folder.join(format!("{name}{PASSPHRASE}")))
}

/// Names of all peers of which there is anything, named by the configuration or not: a folder, a passphrase, or a link to
/// either, whether or not it leads anywhere now.
pub(super) fn names(disk: &dyn Disk, data: &Path) -> io::Result<BTreeSet<String>> {
    let found = match disk.entries(&data.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let name = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        Some(name.strip_suffix(PASSPHRASE).unwrap_or(name).to_owned())
    };
    Ok(found.iter().filter_map(name).filter(|name| is_name(name)).collect())
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
    use mailbox::disk::SystemDisk;

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

    #[test]
    fn whatever_is_there_of_a_peer_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let peers = folder.path().join(FOLDER);
        let names = || names(&SystemDisk, folder.path());
        assert!(names().expect("nothing was taken in").is_empty());
        std::fs::create_dir_all(peers.join("whole")).expect("a folder");
        std::fs::write(peers.join("secret.passphrase"), "x").expect("a file");
        std::fs::write(peers.join("whole.prices"), "x").expect("a file");
        std::os::unix::fs::symlink("/nowhere", peers.join("elsewhere")).expect("a link");
        std::os::unix::fs::symlink("/nowhere", peers.join("linked.passphrase")).expect("a link");
        let found = names().expect("a folder that can be read");
        assert!(found.iter().eq(["elsewhere", "linked", "secret", "whole"]), "{found:?}");
        std::fs::remove_dir_all(&peers).expect("a folder");
        std::fs::write(&peers, "x").expect("a file");
        assert!(names().is_err(), "what cannot be listed is not known to be empty");
    }
}
