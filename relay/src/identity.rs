//! The relay's static X25519 key: pinned in every pack, so that losing it locks every pack out.
//!
//! It lies in two files of 32 bytes, mode 0600, outside the database. Restoring it resurrects nothing.

use std::io;
use std::path::Path;

use keypacks::Secret;
use keypacks::link::RelaySecret;
use mailbox::disk::Disk;
use smtp_bridge::net::Host;

const COPIES: [&str; 2] = ["relay.key", "relay.key.copy"];

/// Reads the key, mends a missing copy, or makes a new key where there is none and the folder is new.
pub(crate) fn load(host: &Host, data: &Path, fresh: bool) -> io::Result<RelaySecret> {
    let copies = COPIES.map(|name| read(&*host.disk, &data.join(name)));
    let key = match copies {
        [Ok(Some(first)), Ok(Some(second))] if first != second => {
            return Err(io::Error::other(
                "relay.key and relay.key.copy differ: put the right one in place of the other",
            ));
        }
        [Ok(Some(key)), _] | [_, Ok(Some(key))] => key,
        [Ok(None), Ok(None)] if fresh => Secret::new(host.random()),
        [Ok(None), Ok(None)] => {
            return Err(io::Error::other(
                "relay.key is missing: put it back from the backup, without it no pack can link",
            ));
        }
        [Err(error), _] | [_, Err(error)] => return Err(error),
    };
    for name in COPIES {
        write(&*host.disk, &data.join(name), &key)?;
    }
    host.disk.sync_dir(data)?;
    Ok(RelaySecret::new(key))
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Secret<32>>> {
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Shorter: a crash while it was first written, when no pack pinned it yet.
    if file.len()? < 32 {
        return Ok(None);
    }
    let mut result = Ok(());
    let key = Secret::from_fn(|bytes| result = file.read_at(0, bytes));
    result.map(|()| Some(key))
}

fn write(disk: &dyn Disk, path: &Path, key: &Secret<32>) -> io::Result<()> {
    if read(disk, path)?.is_some_and(|kept| kept == *key) {
        return Ok(());
    }
    let file = disk.open(path, true)?;
    file.write_at(0, key.expose())?;
    file.sync()
}
