//! Small files beside the store, each sealed under a key of the store and replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};

use keypacks::{Secret, kdf, secretbox};
use mailbox::HolderStore;
use zeroize::Zeroizing;

use crate::net::Host;

/// One such file.
pub(crate) struct SealedFile {
    host: Host,
    dir: PathBuf,
    name: &'static str,
    key: Secret<32>,
    hedge: Secret<32>,
}

impl SealedFile {
    /// That of this name in `dir`, which need not be there. `purpose` is what its key is derived for.
    pub(crate) fn new<S: HolderStore>(
        host: &Host,
        dir: &Path,
        store: &S,
        name: &'static str,
        purpose: &'static str,
    ) -> Self {
        Self {
            host: host.clone(),
            dir: dir.to_owned(),
            name,
            key: store.derive(purpose),
            hedge: store.derive("hedge"),
        }
    }

    /// What is in it, of at most `bytes_max` octets. `InvalidData`: it does not open.
    pub(crate) fn read(&self, bytes_max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = self.host.disk.open(&self.dir.join(self.name), false)?;
        let mut sealed = vec![0; usize::try_from(file.len()?.min(bytes_max)).unwrap_or(0)];
        file.read_at(0, &mut sealed)?;
        secretbox::open(&self.key, &sealed).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Replaces it: after a power cut there is what was there before, or this. It blocks on the disk.
    pub(crate) fn write(&self, plain: &[u8]) -> io::Result<()> {
        let nonce = kdf::hedged_nonce(&self.hedge, &self.host.random(), 0, plain);
        let sealed = secretbox::seal(&self.key, nonce, plain);
        let fresh = self.dir.join(self.name.to_owned() + ".new");
        let file = self.host.disk.open(&fresh, true)?;
        file.set_len(0)?;
        file.write_at(0, &sealed)?;
        file.sync()?;
        self.host.disk.rename(&fresh, &self.dir.join(self.name))?;
        self.host.disk.sync_dir(&self.dir)
    }
}
